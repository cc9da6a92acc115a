//! What a cluster has from the beginning.

use serde_json::json;

use crate::api::{Api, WriteOptions};
use crate::status::ApiResult;

pub(crate) const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

pub(crate) fn run(api: &Api) -> ApiResult<()> {
    let options = WriteOptions::by("kube-apiserver");
    let namespaces = api.registry.builtin("", "namespaces");
    for name in NAMESPACES {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        api.create(&namespaces, "", body, &options)?;
    }
    let classes = api.registry.builtin("scheduling.k8s.io", "priorityclasses");
    for (name, value) in [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)] {
        let body = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value});
        api.create(&classes, "", body, &options)?;
    }
    Ok(())
}
