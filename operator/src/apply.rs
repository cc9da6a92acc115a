//! Carries out what the planners want: one request per change, a few at a time, never two for one object. The object
//! that the server returns goes into the mirror, so that the next plan starts from it.
//!
//! Writes carry the resource version that the plan was made from. A conflict is no fault: the watch will show the newer
//! object, and the plan is made again.

pub(crate) mod mesh;

use causeway_k8s::condition::Condition;
use causeway_k8s::names;
use causeway_k8s::watch::{Key, Mirror};
use causeway_k8s::{
    CiliumBGPClusterConfig, CiliumBGPNodeConfig, CiliumBGPPeerConfig, CiliumIdentity, CiliumLoadBalancerIPPool,
};
use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use crate::plan::{bgp, identity_gc, lb_status, pod_cidr};
use crate::world::World;

/// Our name in `managedFields`.
pub(crate) const FIELD_MANAGER: &str = "causeway-operator";

/// Requests under way at once; enough to hide latency, few enough to leave the server to others.
const REQUESTS_AT_ONCE: usize = 8;

/// How a batch of changes went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) done: usize,
    /// Changes to make again: conflicts and failures.
    pub(crate) again: usize,
}

impl Outcome {
    /// Counts one result; returns the object to mirror.
    fn count<K>(&mut self, what: &str, result: kube::Result<K>) -> Option<K> {
        match result {
            Ok(object) => {
                self.done += 1;
                tracing::debug!(what, "done");
                Some(object)
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                // Gone meanwhile; the watch will say so.
                self.done += 1;
                None
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                tracing::debug!(what, "changed by another meanwhile, deciding again");
                self.again += 1;
                None
            }
            Err(error) => {
                tracing::warn!(what, %error, "change failed, trying again");
                self.again += 1;
                None
            }
        }
    }
}

pub(crate) async fn lb(client: &Client, world: &mut World, plan: lb_status::Plan) -> Outcome {
    let mut outcome = Outcome::default();
    let services = plan.services.into_iter().map(|status| async move {
        let what = format!("status of Service {}", status.key);
        let api: Api<Service> = Api::namespaced(client.clone(), &status.key.namespace);
        let ips: Vec<&str> = status.ingress.iter().filter_map(|entry| entry.ip.as_deref()).collect();
        tracing::info!(service = %status.key, addresses = ips.join(","), "LoadBalancer addresses");
        let body = status_patch(
            status.resource_version.as_deref(),
            &json!({ "loadBalancer": { "ingress": status.ingress }, "conditions": status.conditions }),
        );
        (what, api.patch_status(&status.key.name, &PatchParams::default(), &Patch::Merge(body)).await)
    });
    mirror(at_once(services), &mut outcome, &mut world.services).await;
    let pools = plan.pools.into_iter().map(|status| async move {
        let what = format!("status of CiliumLoadBalancerIPPool {}", status.name);
        let api: Api<CiliumLoadBalancerIPPool> = Api::all(client.clone());
        let body = conditions_patch(status.resource_version.as_deref(), &status.conditions);
        (what, api.patch_status(&status.name, &PatchParams::default(), &Patch::Merge(body)).await)
    });
    mirror(at_once(pools), &mut outcome, &mut world.pools).await;
    outcome
}

pub(crate) async fn bgp(client: &Client, world: &mut World, plan: bgp::Plan) -> Outcome {
    let mut outcome = Outcome::default();
    let node_configs: Api<CiliumBGPNodeConfig> = Api::all(client.clone());
    let applied = plan.apply.into_iter().map(|object| {
        let api = node_configs.clone();
        async move {
            let name = object.name_any();
            let what = format!("CiliumBGPNodeConfig {name}");
            tracing::info!(node = name, "BGP configuration of node");
            let params = PatchParams::apply(FIELD_MANAGER).force();
            (what, api.patch(&name, &params, &Patch::Apply(&object)).await)
        }
    });
    mirror(at_once(applied), &mut outcome, &mut world.node_configs).await;
    for (name, uid) in plan.delete {
        tracing::info!(node = name, "BGP configuration of node is removed");
        let params = delete_params(uid, None);
        if outcome.count(&format!("CiliumBGPNodeConfig {name}"), node_configs.delete(&name, &params).await).is_some() {
            world.node_configs.forget(&Key::new("", name));
        }
    }
    let statuses = plan.statuses.into_iter().map(|status| async move {
        let what = format!("status of CiliumBGPClusterConfig {}", status.name);
        let api: Api<CiliumBGPClusterConfig> = Api::all(client.clone());
        let body = conditions_patch(status.resource_version.as_deref(), &status.conditions);
        (what, api.patch_status(&status.name, &PatchParams::default(), &Patch::Merge(body)).await)
    });
    mirror(at_once(statuses), &mut outcome, &mut world.cluster_configs).await;
    let statuses = plan.peer_statuses.into_iter().map(|status| async move {
        let what = format!("status of CiliumBGPPeerConfig {}", status.name);
        let api: Api<CiliumBGPPeerConfig> = Api::all(client.clone());
        let body = conditions_patch(status.resource_version.as_deref(), &status.conditions);
        (what, api.patch_status(&status.name, &PatchParams::default(), &Patch::Merge(body)).await)
    });
    mirror(at_once(statuses), &mut outcome, &mut world.peer_configs).await;
    outcome
}

pub(crate) async fn pod_cidrs(client: &Client, world: &mut World, plan: pod_cidr::Plan) -> Outcome {
    let mut outcome = Outcome::default();
    let assigned = plan.assign.into_iter().map(|assignment| async move {
        let what = format!("pod CIDRs of Node {}", assignment.node);
        let api: Api<Node> = Api::all(client.clone());
        let cidrs: Vec<String> = assignment.cidrs.iter().map(ToString::to_string).collect();
        tracing::info!(node = assignment.node, cidrs = cidrs.join(","), "pod CIDRs");
        let mut body = json!({ "spec": { "podCIDR": cidrs.first(), "podCIDRs": cidrs } });
        set_version(&mut body, assignment.resource_version.as_deref());
        (what, api.patch(&assignment.node, &PatchParams::default(), &Patch::Merge(body)).await)
    });
    mirror(at_once(assigned), &mut outcome, &mut world.nodes).await;
    outcome
}

pub(crate) async fn identities(client: &Client, world: &mut World, plan: identity_gc::Plan) -> Outcome {
    let mut outcome = Outcome::default();
    let api: Api<CiliumIdentity> = Api::all(client.clone());
    for change in plan.changes {
        match change {
            identity_gc::Change::Mark { name, resource_version, at } => {
                let body = mark_patch(resource_version.as_deref(), Some(&at.to_string()));
                let result = api.patch(&name, &PatchParams::default(), &Patch::Merge(body)).await;
                outcome.count("mark on CiliumIdentity", result).into_iter().for_each(|o| world.identities.put(o));
            }
            identity_gc::Change::Unmark { name, resource_version } => {
                let body = mark_patch(resource_version.as_deref(), None);
                let result = api.patch(&name, &PatchParams::default(), &Patch::Merge(body)).await;
                outcome.count("mark on CiliumIdentity", result).into_iter().for_each(|o| world.identities.put(o));
            }
            identity_gc::Change::Delete { name, uid, resource_version } => {
                tracing::info!(identity = name, "unused identity is deleted");
                let params = delete_params(uid, resource_version);
                if outcome.count("CiliumIdentity", api.delete(&name, &params).await).is_some() {
                    world.identities.forget(&Key::new("", name));
                }
            }
        }
    }
    outcome
}

/// Requests with a bounded number under way.
fn at_once<F: Future>(requests: impl Iterator<Item = F>) -> impl Stream<Item = F::Output> {
    stream::iter(requests).buffer_unordered(REQUESTS_AT_ONCE)
}

async fn mirror<K: kube::Resource>(
    results: impl Stream<Item = (String, kube::Result<K>)>,
    outcome: &mut Outcome,
    mirror: &mut Mirror<K>,
) {
    let mut results = std::pin::pin!(results);
    while let Some((what, result)) = results.next().await {
        if let Some(mut object) = outcome.count(&what, result) {
            object.meta_mut().managed_fields = None;
            mirror.put(object);
        }
    }
}

fn status_patch(resource_version: Option<&str>, status: &Value) -> Value {
    let mut body = json!({ "status": status });
    set_version(&mut body, resource_version);
    body
}

fn conditions_patch(resource_version: Option<&str>, conditions: &[Condition]) -> Value {
    status_patch(resource_version, &json!({ "conditions": conditions }))
}

fn mark_patch(resource_version: Option<&str>, mark: Option<&str>) -> Value {
    let mut body = json!({ "metadata": { "annotations": { names::IDENTITY_HEARTBEAT: mark } } });
    set_version(&mut body, resource_version);
    body
}

/// The server refuses a patch that names another resource version than the object has.
fn set_version(body: &mut Value, resource_version: Option<&str>) {
    if let Some(version) = resource_version {
        body["metadata"]["resourceVersion"] = json!(version);
    }
}

fn delete_params(uid: Option<String>, resource_version: Option<String>) -> DeleteParams {
    DeleteParams { preconditions: Some(Preconditions { uid, resource_version }), ..DeleteParams::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_name_the_version_they_were_made_from() {
        let body = conditions_patch(Some("7"), &[]);
        assert_eq!(body, json!({ "status": { "conditions": [] }, "metadata": { "resourceVersion": "7" } }));
        let body = mark_patch(Some("7"), None);
        assert_eq!(body["metadata"], json!({ "annotations": { "io.cilium.heartbeat": null }, "resourceVersion": "7" }));
    }
}
