//! The CustomResourceDefinitions of every kind, as the operator registers them and as `k8s/crds/*.yaml` shows them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::cilium::endpoint::CiliumEndpointFields;
use crate::cilium::identity::CiliumIdentityFields;
use crate::{
    CiliumBGPAdvertisement, CiliumBGPClusterConfig, CiliumBGPNodeConfig, CiliumBGPNodeConfigOverride,
    CiliumBGPPeerConfig, CiliumLoadBalancerIPPool, CiliumNode,
};

/// Version under which older manifests name the kinds that began there; served beside `v2`, with the same schema.
const OLD_VERSION: &str = "v2alpha1";

/// Every CustomResourceDefinition that Causeway needs, in the order of their names.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        also_as_v2alpha1(definition(CiliumBGPAdvertisement::crd())),
        also_as_v2alpha1(definition(CiliumBGPClusterConfig::crd())),
        also_as_v2alpha1(definition(CiliumBGPNodeConfigOverride::crd())),
        also_as_v2alpha1(definition(CiliumBGPNodeConfig::crd())),
        also_as_v2alpha1(definition(CiliumBGPPeerConfig::crd())),
        also_as_v2alpha1(definition(CiliumLoadBalancerIPPool::crd())),
        definition(CiliumNode::crd()),
        definition(endpoint()),
        definition(identity()),
    ];
    crds.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    crds
}

/// Makes the derived definition what Kubernetes and Cilium's own definitions are: no Rust number formats, no `null` or
/// empty defaults (the server would write them into objects), no `nullable`, and no status subresource where Cilium
/// has none.
fn definition(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let Some(schema) = version.schema.as_mut() else { continue };
        let mut value = serde_json::to_value(&*schema).expect("a schema is plain data");
        plain(&mut value);
        *schema = serde_json::from_value(value).expect("the schema keeps its shape");
    }
    crd
}

fn plain(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("nullable");
            if map.get("title").is_some_and(Value::is_string) {
                map.remove("title");
            }
            if map.get("default").is_some_and(is_empty) {
                map.remove("default");
            }
            if let Some(format) = map.get("format").and_then(Value::as_str) {
                match format {
                    "uint8" | "uint16" | "int8" | "int16" => _ = map.insert("format".into(), json!("int32")),
                    "uint32" | "uint64" | "uint" => _ = map.insert("format".into(), json!("int64")),
                    _ => {}
                }
            }
            map.values_mut().for_each(plain);
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn also_as_v2alpha1(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let mut old = crd.spec.versions[0].clone();
    old.name = OLD_VERSION.to_owned();
    old.storage = false;
    old.deprecated = Some(true);
    crd.spec.versions.push(old);
    crd
}

fn identity() -> CustomResourceDefinition {
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

fn endpoint() -> CustomResourceDefinition {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Environment variable that makes the test write `crds/*.yaml` instead of comparing.
    const REWRITE: &str = "UPDATE_FIXTURES";

    #[test]
    fn the_files_in_crds_are_these_definitions() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
        let rewrite = std::env::var_os(REWRITE).is_some();
        for crd in crds() {
            let name = crd.metadata.name.as_deref().unwrap();
            let path = directory.join(format!("{}.yaml", name.trim_end_matches(".cilium.io")));
            // kubectl reads YAML 1.1, in which a bare Yes is a boolean.
            let text =
                serde_yaml_ng::to_string(&crd).unwrap().replace("- Yes\n", "- 'Yes'\n").replace("- No\n", "- 'No'\n");
            let text = format!("---\n{text}");
            if rewrite {
                std::fs::create_dir_all(&directory).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let on_disk = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(on_disk == text, "{} is out of date: run the test with {REWRITE}=1", path.display());
        }
    }

    fn schema_at(plural: &str, path: &[&str]) -> Value {
        let crd = crds().into_iter().find(|crd| crd.spec.names.plural == plural).unwrap();
        let schema = serde_json::to_value(crd.spec.versions[0].schema.as_ref().unwrap()).unwrap();
        path.iter().fold(schema["openAPIV3Schema"].clone(), |schema, step| {
            if *step == "[]" { schema["items"].clone() } else { schema["properties"][*step].clone() }
        })
    }

    #[test]
    fn validations_of_cilium_are_there() {
        let instances = schema_at("ciliumbgpclusterconfigs", &["spec", "bgpInstances"]);
        assert_eq!((&instances["minItems"], &instances["maxItems"]), (&json!(1), &json!(16)));
        assert_eq!(instances["x-kubernetes-list-type"], "map");
        assert_eq!(instances["x-kubernetes-list-map-keys"], json!(["name"]));
        let asn = schema_at("ciliumbgpclusterconfigs", &["spec", "bgpInstances", "[]", "localASN"]);
        assert_eq!(asn["minimum"].as_f64(), Some(1.0));
        assert_eq!(asn["maximum"].as_f64(), Some(4_294_967_295.0));
        let peer = schema_at("ciliumbgpclusterconfigs", &["spec", "bgpInstances", "[]", "peers", "[]"]);
        assert_eq!(peer["x-kubernetes-validations"][0]["rule"], "has(self.peerAddress) || has(self.autoDiscovery)");
        assert_eq!(peer["properties"]["peerASN"]["default"], 0);
        assert!(peer["properties"]["peerAddress"]["pattern"].is_string());
        let timers = schema_at("ciliumbgppeerconfigs", &["spec", "timers"]);
        assert_eq!(timers["properties"]["holdTimeSeconds"]["default"], 90);
        assert_eq!(timers["properties"]["holdTimeSeconds"]["minimum"].as_f64(), Some(3.0));
        assert!(timers["x-kubernetes-validations"][0]["rule"].is_string());
        let advert = schema_at("ciliumbgpadvertisements", &["spec", "advertisements", "[]"]);
        assert_eq!(advert["x-kubernetes-validations"].as_array().unwrap().len(), 5);
        let yes_no = schema_at("ciliumloadbalancerippools", &["spec", "allowFirstLastIPs"]);
        assert_eq!(yes_no["enum"], json!(["Yes", "No"]));
        let identity = schema_at("ciliumidentities", &["security-labels"]);
        assert_eq!(identity["additionalProperties"]["type"], "string");
    }

    #[test]
    fn only_what_cilium_requires_is_required() {
        let table = [
            ("ciliumloadbalancerippools", &["spec"][..], json!(null)),
            ("ciliumloadbalancerippools", &["spec", "blocks", "[]"], json!(null)),
            ("ciliumbgpclusterconfigs", &["spec"], json!(["bgpInstances"])),
            ("ciliumbgpclusterconfigs", &["spec", "bgpInstances", "[]"], json!(["name"])),
            ("ciliumbgpclusterconfigs", &["spec", "bgpInstances", "[]", "peers", "[]"], json!(["name"])),
            ("ciliumbgppeerconfigs", &["spec"], json!(null)),
            ("ciliumbgppeerconfigs", &["spec", "families", "[]"], json!(["afi", "safi"])),
            ("ciliumbgppeerconfigs", &["spec", "gracefulRestart"], json!(["enabled"])),
            ("ciliumbgpadvertisements", &["spec", "advertisements", "[]"], json!(["advertisementType"])),
            ("ciliumbgpnodeconfigs", &["spec", "bgpInstances", "[]", "peers", "[]"], json!(["name"])),
            ("ciliumbgpnodeconfigs", &["status"], json!(null)),
            ("ciliumnodes", &["spec"], json!(null)),
            ("ciliumendpoints", &[], json!(null)),
            ("ciliumendpoints", &["status"], json!(null)),
            ("ciliumidentities", &[], json!(["security-labels"])),
        ];
        for (plural, path, required) in table {
            assert_eq!(schema_at(plural, path)["required"], required, "{plural} {path:?}");
        }
    }

    #[test]
    fn schemas_are_structural_and_free_of_rust() {
        for crd in crds() {
            let text = serde_json::to_string(&crd).unwrap();
            for word in ["uint", "nullable", "\"default\":null", "\"default\":[]", "\"$ref\"", "\"anyOf\""] {
                assert!(!text.contains(word), "{:?} contains {word}: {text}", crd.metadata.name);
            }
            assert_eq!(crd.spec.versions.iter().filter(|v| v.storage).count(), 1);
        }
    }
}
