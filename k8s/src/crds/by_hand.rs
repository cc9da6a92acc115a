//! Definitions of the kinds that kube cannot derive, since their fields do not stand in a `spec` that every object has.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use crate::cilium::endpoint::CiliumEndpointFields;
use crate::cilium::endpoint_slice::CiliumEndpointSliceFields;
use crate::cilium::identity::CiliumIdentityFields;
use crate::mcs::export::ServiceExportFields;
use crate::{cilium, mcs};

pub(super) fn identity() -> CustomResourceDefinition {
    from_json(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "ciliumidentities.cilium.io" },
        "spec": {
            "group": crate::GROUP,
            "scope": "Cluster",
            "names": {
                "kind": "CiliumIdentity",
                "plural": "ciliumidentities",
                "singular": "ciliumidentity",
                "shortNames": ["ciliumid"],
                "categories": ["cilium"],
            },
            "versions": [{
                "name": crate::VERSION,
                "served": true,
                "storage": true,
                "schema": { "openAPIV3Schema": fields_schema::<CiliumIdentityFields>(
                    "A number for a set of security labels; its name is the number.") },
                "subresources": { "status": {} },
                "additionalPrinterColumns": [
                    { "name": "Namespace", "type": "string", "description": "Namespace of the pods",
                      "jsonPath": r".metadata.labels.io\.kubernetes\.pod\.namespace" },
                    { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
                ],
            }],
        },
    }))
}

pub(super) fn endpoint() -> CustomResourceDefinition {
    let column = |name: &str, type_: &str, path: &str| json!({ "name": name, "type": type_, "jsonPath": path });
    from_json(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "ciliumendpoints.cilium.io" },
        "spec": {
            "group": crate::GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": "CiliumEndpoint",
                "plural": "ciliumendpoints",
                "singular": "ciliumendpoint",
                "shortNames": ["cep", "ciliumep"],
                "categories": ["cilium"],
            },
            "versions": [{
                "name": crate::VERSION,
                "served": true,
                "storage": true,
                "schema": { "openAPIV3Schema": fields_schema::<CiliumEndpointFields>(
                    "A pod as the agent of its node sees it.") },
                "subresources": {},
                "additionalPrinterColumns": [
                    column("Security Identity", "integer", ".status.identity.id"),
                    column("Ingress Enforcement", "string", ".status.policy.ingress.state"),
                    column("Egress Enforcement", "string", ".status.policy.egress.state"),
                    column("Endpoint State", "string", ".status.state"),
                    column("IPv4", "string", ".status.networking.addressing[0].ipv4"),
                    column("IPv6", "string", ".status.networking.addressing[0].ipv6"),
                ],
            }],
        },
    }))
}

pub(super) fn endpoint_slice() -> CustomResourceDefinition {
    from_json(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "ciliumendpointslices.cilium.io" },
        "spec": {
            "group": crate::GROUP,
            "scope": "Cluster",
            "names": {
                "kind": "CiliumEndpointSlice",
                "plural": "ciliumendpointslices",
                "singular": "ciliumendpointslice",
                "shortNames": ["ces"],
                "categories": ["cilium"],
            },
            "versions": [{
                "name": cilium::endpoint_slice::VERSION,
                "served": true,
                "storage": true,
                "schema": { "openAPIV3Schema": fields_schema::<CiliumEndpointSliceFields>(
                    "Many CiliumEndpoints of one namespace.") },
            }],
        },
    }))
}

pub(super) fn service_export() -> CustomResourceDefinition {
    from_json(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "serviceexports.multicluster.x-k8s.io" },
        "spec": {
            "group": mcs::GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": "ServiceExport",
                "plural": "serviceexports",
                "singular": "serviceexport",
                "shortNames": ["svcex"],
            },
            "versions": [{
                "name": mcs::VERSION,
                "served": true,
                "storage": true,
                "schema": { "openAPIV3Schema": fields_schema::<ServiceExportFields>(
                    "The Service of the same name and namespace is offered to the other clusters.") },
                "subresources": { "status": {} },
                "additionalPrinterColumns": [
                    { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
                ],
            }],
        },
    }))
}

fn from_json(value: Value) -> CustomResourceDefinition {
    serde_json::from_value(value).expect("the definition above is well formed")
}

/// Schema of the fields beside `metadata`, made with the settings that kube-derive uses.
fn fields_schema<T: schemars::JsonSchema>(description: &str) -> Value {
    let generator = schemars::generate::SchemaSettings::openapi3()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .with_transform(schemars::transform::AddNullable::default())
        .with_transform(kube::core::schema::StructuralSchemaRewriter)
        .with_transform(kube::core::schema::OptionalEnum)
        .into_generator();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    if let Some(map) = schema.as_object_mut() {
        map.insert("description".into(), json!(description));
        // Server-side apply and pruning need the envelope's fields in a structural schema.
        if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
            properties.insert("apiVersion".into(), json!({ "type": "string" }));
            properties.insert("kind".into(), json!({ "type": "string" }));
            properties.insert("metadata".into(), json!({ "type": "object" }));
        }
    }
    schema
}
