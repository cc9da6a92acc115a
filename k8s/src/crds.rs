//! The CustomResourceDefinitions of every kind, as the operator registers them and as `k8s/crds/*.yaml` shows them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::{
    CiliumBGPAdvertisement, CiliumBGPClusterConfig, CiliumBGPNodeConfig, CiliumBGPNodeConfigOverride,
    CiliumBGPPeerConfig, CiliumLoadBalancerIPPool, CiliumNode, ServiceImport,
};

mod by_hand;

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
        definition(by_hand::endpoint()),
        definition(by_hand::endpoint_slice()),
        definition(by_hand::identity()),
    ];
    crds.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    crds
}

/// The CustomResourceDefinitions of the Multi-Cluster Services API. Apart from the others, because they are not ours:
/// whoever does not use the API does not want them, and another program may have registered them.
#[must_use]
pub fn mcs_crds() -> Vec<CustomResourceDefinition> {
    vec![definition(by_hand::service_export()), definition(ServiceImport::crd())]
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Environment variable that makes the test write `crds/*.yaml` instead of comparing.
    const REWRITE: &str = "UPDATE_FIXTURES";

    #[test]
    fn the_files_in_crds_are_these_definitions() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
        let rewrite = std::env::var_os(REWRITE).is_some();
        for crd in all() {
            let path = directory.join(format!("{}.yaml", crd.spec.names.plural));
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

    fn all() -> impl Iterator<Item = CustomResourceDefinition> {
        crds().into_iter().chain(mcs_crds())
    }

    fn schema_at(plural: &str, path: &[&str]) -> Value {
        let crd = all().find(|crd| crd.spec.names.plural == plural).unwrap();
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
            ("ciliumendpointslices", &[], json!(["endpoints"])),
            ("ciliumendpointslices", &["endpoints", "[]"], json!(null)),
            ("serviceexports", &[], json!(null)),
            ("serviceexports", &["spec"], json!(null)),
            ("serviceimports", &["spec"], json!(["ports", "type"])),
            ("serviceimports", &["spec", "ports", "[]"], json!(["port"])),
            ("serviceimports", &["status", "clusters", "[]"], json!(["cluster"])),
        ];
        for (plural, path, required) in table {
            assert_eq!(schema_at(plural, path)["required"], required, "{plural} {path:?}");
        }
    }

    #[test]
    fn schemas_are_structural_and_free_of_rust() {
        for crd in all() {
            let text = serde_json::to_string(&crd).unwrap();
            for word in ["uint", "nullable", "\"default\":null", "\"default\":[]", "\"$ref\"", "\"anyOf\""] {
                assert!(!text.contains(word), "{:?} contains {word}: {text}", crd.metadata.name);
            }
            assert_eq!(crd.spec.versions.iter().filter(|v| v.storage).count(), 1);
        }
    }
}
