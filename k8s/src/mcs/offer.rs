//! What a Service offers to the other clusters by its `ServiceExport`, in the mesh's words. In one place, so that what the
//! mesh's API server tells and what the operator merges is the same.

use std::collections::BTreeMap;

use causeway_mesh_schema::{ExportPort, ServiceExportSpec};
use k8s_openapi::api::core::v1::Service;

use super::export::ServiceExport;
use super::import::{TYPE_CLUSTER_SET_IP, TYPE_HEADLESS};
use crate::condition::Timestamp;

/// Why a Service cannot be exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is being deleted.
    Going,
    /// It is an `ExternalName`, which has nothing to connect to.
    ExternalName,
}

/// The export's share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// RFC 3339; older exports win conflicts.
    created: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

/// The Service's share, without what the export says.
///
/// # Errors
/// It cannot be exported.
pub fn of_service(cluster: &str, service: &Service) -> Result<ServiceExportSpec, Refused> {
    if service.metadata.deletion_timestamp.is_some() {
        return Err(Refused::Going);
    }
    let spec = service.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        return Err(Refused::ExternalName);
    }
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let ports = spec.ports.unwrap_or_default().into_iter().map(|port| ExportPort {
        name: port.name.unwrap_or_default(),
        protocol: port.protocol.unwrap_or_default(),
        app_protocol: port.app_protocol,
        port: port.port,
    });
    Ok(ServiceExportSpec {
        cluster: cluster.to_owned(),
        name: service.metadata.name.clone().unwrap_or_default(),
        namespace: service.metadata.namespace.clone().unwrap_or_default(),
        ports: ports.collect(),
        kind: if headless { TYPE_HEADLESS } else { TYPE_CLUSTER_SET_IP }.to_owned(),
        session_affinity: spec.session_affinity.unwrap_or_default(),
        session_affinity_config: spec.session_affinity_config.and_then(|config| serde_json::to_value(config).ok()),
        ip_families: spec.ip_families.unwrap_or_default(),
        internal_traffic_policy: spec.internal_traffic_policy,
        traffic_distribution: spec.traffic_distribution,
        ..ServiceExportSpec::default()
    })
}

/// `None`: it is being deleted, and offers nothing any more.
#[must_use]
pub fn of_export(export: &ServiceExport) -> Option<Offer> {
    let meta = &export.metadata;
    if meta.deletion_timestamp.is_some() {
        return None;
    }
    let created = meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let spec = export.spec.clone().unwrap_or_default();
    Some(Offer { created: created.to_string(), labels: spec.exported_labels, annotations: spec.exported_annotations })
}

impl Offer {
    /// Both shares in one.
    #[must_use]
    pub fn with(&self, of_service: &ServiceExportSpec) -> ServiceExportSpec {
        ServiceExportSpec {
            export_creation_timestamp: self.created.clone(),
            labels: self.labels.clone(),
            annotations: self.annotations.clone(),
            ..of_service.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: &str) -> Service {
        serde_yaml_ng::from_str(&format!("{{metadata: {{name: web, namespace: shop}}, spec: {spec}}}")).unwrap()
    }

    fn export(meta: &str) -> ServiceExport {
        let text = format!(
            "metadata: {{name: web, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'{meta}}}
spec: {{exportedLabels: {{tier: front}}, exportedAnnotations: {{note: n}}}}"
        );
        serde_yaml_ng::from_str(&text).unwrap()
    }

    #[test]
    fn a_service_with_affinity() {
        let service = service(
            "{ports: [{name: p, port: 80, protocol: TCP, appProtocol: http}], sessionAffinity: ClientIP,
              sessionAffinityConfig: {clientIP: {timeoutSeconds: 42}}, ipFamilies: [IPv4, IPv6],
              internalTrafficPolicy: Local, trafficDistribution: PreferClose}",
        );
        let told = of_export(&export("")).unwrap().with(&of_service("cluster3", &service).unwrap());
        let value: Value = serde_json::from_slice(&told.encode()).unwrap();
        for (pointer, expected) in [
            ("/cluster", json!("cluster3")),
            ("/name", json!("web")),
            ("/namespace", json!("shop")),
            ("/labels", json!({"tier": "front"})),
            ("/annotations", json!({"note": "n"})),
            ("/exportCreationTimestamp", json!("2026-01-01T00:00:00Z")),
            ("/ports", json!([{"name": "p", "protocol": "TCP", "port": 80, "appProtocol": "http"}])),
            ("/type", json!("ClusterSetIP")),
            ("/sessionAffinity", json!("ClientIP")),
            ("/sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 42}})),
            ("/ipFamilies", json!(["IPv4", "IPv6"])),
            ("/internalTrafficPolicy", json!("Local")),
            ("/trafficDistribution", json!("PreferClose")),
        ] {
            assert_eq!(value.pointer(pointer), Some(&expected), "{pointer}");
        }
    }

    #[test]
    fn headless_and_external_names() {
        assert_eq!(of_service("c", &service("{clusterIP: None}")).unwrap().kind, "Headless");
        let external = service("{type: ExternalName, externalName: example.com}");
        assert_eq!(of_service("c", &external), Err(Refused::ExternalName));
    }

    #[test]
    fn what_is_being_deleted_is_offered_no_more() {
        let mut going = service("{}");
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-02T00:00:00Z")).unwrap();
        assert_eq!(of_service("c", &going), Err(Refused::Going));
        assert_eq!(of_export(&export(", deletionTimestamp: '2026-01-02T00:00:00Z'")), None);
    }
}
