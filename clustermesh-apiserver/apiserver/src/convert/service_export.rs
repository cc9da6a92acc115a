//! `ServiceExport` with its Service -> [`ServiceExportSpec`].

use std::collections::BTreeMap;

use causeway_k8s::ServiceExport;
use causeway_mesh_schema::{ClusterService, ExportPort, ServiceExportSpec};
use k8s_openapi::api::core::v1::ServiceSpec;
use serde_json::json;

use super::Home;

/// What the owner of a Service says by exporting it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    /// RFC 3339; older exports win conflicts.
    pub(crate) created: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

pub(crate) fn offer(object: &ServiceExport) -> Offer {
    let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let spec = object.spec.clone().unwrap_or_default();
    Offer {
        created: created.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string(),
        labels: spec.exported_labels,
        annotations: spec.exported_annotations,
    }
}

/// The Service's share; `None` for an `ExternalName`, which has nothing to connect to.
pub(super) fn of_service(home: &Home, service: &ClusterService, spec: &ServiceSpec) -> Option<ServiceExportSpec> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let ports = spec.ports.iter().flatten().map(|port| ExportPort {
        name: port.name.clone().unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_default(),
        port: port.port,
        app_protocol: port.app_protocol.clone(),
    });
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let timeout = client_ip.and_then(|client_ip| client_ip.timeout_seconds);
    let headless = spec.cluster_ip.as_deref() == Some("None");
    Some(ServiceExportSpec {
        cluster: home.name.to_string(),
        name: service.name.clone(),
        namespace: service.namespace.clone(),
        ports: ports.collect(),
        kind: if headless { "Headless" } else { "ClusterSetIP" }.to_owned(),
        session_affinity: spec.session_affinity.clone().unwrap_or_default(),
        session_affinity_config: timeout.map(|seconds| json!({"clientIP": {"timeoutSeconds": seconds}})),
        ip_families: spec.ip_families.clone().unwrap_or_default(),
        internal_traffic_policy: spec.internal_traffic_policy.clone(),
        traffic_distribution: spec.traffic_distribution.clone(),
        ..ServiceExportSpec::default()
    })
}

/// Both shares in one.
pub(crate) fn service_export(of_service: &ServiceExportSpec, offer: &Offer) -> ServiceExportSpec {
    ServiceExportSpec {
        export_creation_timestamp: offer.created.clone(),
        labels: offer.labels.clone(),
        annotations: offer.annotations.clone(),
        ..of_service.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::service::service;
    use super::super::tests::{home, object};
    use super::*;

    fn exported(spec: &str) -> Option<serde_json::Value> {
        let told = service(&home(), &object(&format!("{{metadata: {{name: web, namespace: shop}}, spec: {spec}}}")));
        let export: ServiceExport = object(
            "metadata: {name: web, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {exportedLabels: {tier: front}, exportedAnnotations: {note: n}}",
        );
        let value = service_export(&told.value.export?, &offer(&export));
        Some(serde_json::from_slice(&value.encode()).unwrap())
    }

    #[test]
    fn a_service_with_affinity() {
        let value = exported(
            "{ports: [{name: p, port: 80, protocol: TCP, appProtocol: http}], sessionAffinity: ClientIP,
              sessionAffinityConfig: {clientIP: {timeoutSeconds: 42}}, ipFamilies: [IPv4, IPv6],
              internalTrafficPolicy: Local, trafficDistribution: PreferClose}",
        );
        let value = value.unwrap();
        for (pointer, expected) in [
            ("/cluster", json!("cluster3")),
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
        assert_eq!(exported("{clusterIP: None}").unwrap()["type"], "Headless");
        assert_eq!(exported("{type: ExternalName, externalName: example.com}"), None);
    }
}
