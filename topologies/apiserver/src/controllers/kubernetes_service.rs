//! The Service under which pods find the API.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::log_failure;
use crate::admission::addresses::Family;
use crate::api::{Api, WriteOptions};
use crate::kinds::Resource;
use crate::status::ApiResult;
use crate::store::Key;

/// It is made again when somebody deletes it.
const TICK: Duration = Duration::from_secs(5);

pub(super) async fn run(api: Arc<Api>, advertise: Vec<IpAddr>, port: u16) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tick.tick().await;
        let result = ensure(&api, &advertise, port);
        log_failure("kubernetes-service", &Key::new("default", "kubernetes"), result);
    }
}

fn create(api: &Api, resource: &Resource, name: &str, body: Value) -> ApiResult<()> {
    if api.store.get(&resource.table, &Key::new("default", name)).is_some() {
        return Ok(());
    }
    match api.create(resource, "default", body, &WriteOptions::by("kube-apiserver")) {
        Err(error) if error.code != 409 => Err(error),
        _ => Ok(()),
    }
}

fn ensure(api: &Api, advertise: &[IpAddr], port: u16) -> ApiResult<()> {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let ips: Vec<String> = api.addresses.first().iter().map(ToString::to_string).collect();
    let families: Vec<&str> = api.addresses.families().iter().map(|f| f.name()).collect();
    let policy = if families.len() > 1 { "RequireDualStack" } else { "SingleStack" };
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {"type": "ClusterIP", "clusterIP": ips.first(), "clusterIPs": ips, "ipFamilies": families, "ipFamilyPolicy": policy,
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]},
    });
    create(api, &api.registry.builtin("", "services"), "kubernetes", service)?;
    let slices = api.registry.builtin("discovery.k8s.io", "endpointslices");
    for family in [Family::V4, Family::V6] {
        let addresses: Vec<String> =
            advertise.iter().filter(|a| Family::of(a) == family).map(ToString::to_string).collect();
        if addresses.is_empty() {
            continue;
        }
        let name = if family == Family::V4 { "kubernetes" } else { "kubernetes-ipv6" };
        let endpoints: Vec<Value> =
            addresses.iter().map(|a| json!({"addresses": [a], "conditions": {"ready": true}})).collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": family.name(), "ports": [{"name": "https", "port": port, "protocol": "TCP"}], "endpoints": endpoints,
        });
        create(api, &slices, name, slice)?;
    }
    Ok(())
}
