//! `serviceexports/v1`: a Service that a cluster offers to the clusterset (MCS-API KEP-1645; Cilium
//! `pkg/clustermesh/mcsapi/types.MCSAPIServiceSpec`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json::{self, or_default};
use crate::{Invalid, Kind};

/// `annotations` and `labels` are written a second time as `Annotations` and `Labels`, for readers that know only these;
/// reading, the newer names win unless they are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceExportSpec {
    pub cluster: String,
    pub name: String,
    pub namespace: String,
    pub annotations: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// RFC 3339, in UTC with whole seconds; empty where the writer had none.
    pub export_creation_timestamp: String,
    pub ports: Vec<ExportPort>,
    /// `ClusterSetIP` or `Headless`.
    pub kind: String,
    /// `""`, `ClientIP` or `None`.
    pub session_affinity: String,
    pub session_affinity_config: Option<Value>,
    pub ip_families: Vec<String>,
    pub internal_traffic_policy: Option<String>,
    pub traffic_distribution: Option<String>,
}

/// MCS-API `ServicePort`, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportPort {
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub port: i32,
}

impl ServiceExportSpec {
    /// The JSON that Cilium writes, byte for byte.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        json::encode(&Wire::from(self.clone()))
    }

    /// `name` is the entry's name, for errors.
    ///
    /// # Errors
    /// Not JSON, or a field is not what it should be. Whether it belongs to a cluster is [`read`](crate::read)'s matter.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<ServiceExportSpec, Invalid> {
        json::decode::<Wire>(&Kind::ServiceExports.entry(name), bytes).map(ServiceExportSpec::from)
    }
}

/// In Cilium's order.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(default, deserialize_with = "or_default")]
    cluster: String,
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    namespace: String,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(rename = "Labels", default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    legacy_labels: BTreeMap<String, String>,
    #[serde(
        rename = "Annotations",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    legacy_annotations: BTreeMap<String, String>,
    /// `null` is Go's zero time.
    #[serde(default)]
    export_creation_timestamp: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    ports: Vec<ExportPort>,
    #[serde(rename = "type", default, deserialize_with = "or_default")]
    kind: String,
    #[serde(default, deserialize_with = "or_default")]
    session_affinity: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session_affinity_config: Option<Value>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    ip_families: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    internal_traffic_policy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traffic_distribution: Option<String>,
}

impl From<ServiceExportSpec> for Wire {
    fn from(spec: ServiceExportSpec) -> Wire {
        let timestamp = spec.export_creation_timestamp;
        Wire {
            cluster: spec.cluster,
            name: spec.name,
            namespace: spec.namespace,
            legacy_labels: spec.labels.clone(),
            legacy_annotations: spec.annotations.clone(),
            annotations: spec.annotations,
            labels: spec.labels,
            export_creation_timestamp: (!timestamp.is_empty()).then_some(timestamp),
            ports: spec.ports,
            kind: spec.kind,
            session_affinity: spec.session_affinity,
            session_affinity_config: spec.session_affinity_config,
            ip_families: spec.ip_families,
            internal_traffic_policy: spec.internal_traffic_policy,
            traffic_distribution: spec.traffic_distribution,
        }
    }
}

impl From<Wire> for ServiceExportSpec {
    fn from(wire: Wire) -> ServiceExportSpec {
        let newer = |new: BTreeMap<_, _>, old| if new.is_empty() { old } else { new };
        ServiceExportSpec {
            cluster: wire.cluster,
            name: wire.name,
            namespace: wire.namespace,
            annotations: newer(wire.annotations, wire.legacy_annotations),
            labels: newer(wire.labels, wire.legacy_labels),
            export_creation_timestamp: wire.export_creation_timestamp.unwrap_or_default(),
            ports: wire.ports,
            kind: wire.kind,
            session_affinity: wire.session_affinity,
            session_affinity_config: wire.session_affinity_config,
            ip_families: wire.ip_families,
            internal_traffic_policy: wire.internal_traffic_policy,
            traffic_distribution: wire.traffic_distribution,
        }
    }
}
