//! `ServiceExport`: the Service of the same name and namespace is offered to the other clusters.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::{Condition, conditions_schema};
use crate::names::KIND_SERVICE_EXPORT;

/// The Service of the same name is offered. Not derived by kube, because most have no `spec`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct ServiceExport {
    #[serde(rename = "apiVersion", default = "api_version")]
    pub api_version: String,
    #[serde(default = "kind")]
    pub kind: String,
    pub metadata: ObjectMeta,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<ServiceExportSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ServiceExportStatus>,
}

impl ServiceExport {
    /// The export of the Service `namespace/name`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> ServiceExport {
        ServiceExport {
            api_version: api_version(),
            kind: kind(),
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            spec: None,
            status: None,
        }
    }
}

/// The fields beside `metadata`, for the schema.
#[derive(JsonSchema)]
pub(crate) struct ServiceExportFields {
    /// What goes with the Service.
    #[expect(dead_code, reason = "read by the schema generator only")]
    spec: Option<ServiceExportSpec>,
    /// What became of the export.
    #[expect(dead_code, reason = "read by the schema generator only")]
    status: Option<ServiceExportStatus>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceExportSpec {
    /// Labels of the ServiceImport that is made of the export.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exported_labels: BTreeMap<String, String>,
    /// Annotations of the ServiceImport that is made of the export.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exported_annotations: BTreeMap<String, String>,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct ServiceExportStatus {
    /// `Valid`, `Ready` and `Conflict`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}

fn api_version() -> String {
    format!("{}/{}", super::GROUP, super::VERSION)
}

fn kind() -> String {
    KIND_SERVICE_EXPORT.to_owned()
}

crate::resource::resource! {
    ServiceExport: NamespaceResourceScope { kind: KIND_SERVICE_EXPORT, group: super::GROUP, version: super::VERSION, plural: "serviceexports" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_exports_say_nothing() {
        let text = r#"{"apiVersion":"multicluster.x-k8s.io/v1alpha1","kind":"ServiceExport","metadata":{"name":"web","namespace":"shop"}}"#;
        let export: ServiceExport = serde_json::from_str(text).unwrap();
        assert_eq!(export, ServiceExport::new("shop", "web"));
        assert_eq!(serde_json::to_value(&export).unwrap(), serde_json::from_str::<serde_json::Value>(text).unwrap());
    }
}
