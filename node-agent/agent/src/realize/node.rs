//! This node in Kubernetes: its CiliumNode, and the taint that says "no network yet".

use std::time::Duration;

use causeway_k8s::cilium::node::{CiliumNodeSpec, EncryptionSpec, IpamSpec, NodeAddress};
use causeway_k8s::{CiliumNode, FamilyAddresses};
use k8s_openapi::api::core::v1::Node as NodeObject;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};

use super::kube_api::{self, FIELD_MANAGER, Retry, WriteError};
use crate::config::Config;
use crate::intent::Key;
use crate::intent::node::Node;
use crate::intent::own_node::contains;
use crate::tables::Tables;

/// Cilium's taint: pods are not scheduled here until the agent removes it.
const NOT_READY_TAINT: &str = "node.cilium.io/agent-not-ready";

pub(crate) struct NodeWriter {
    pub(crate) client: Client,
    pub(crate) config: Config,
    pub(crate) tables: Tables,
}

impl NodeWriter {
    /// Runs for ever. Waiting is cancel-safe.
    pub(crate) async fn run(self) {
        let mut nodes = self.tables.nodes.reader();
        let mut own = self.tables.own_node.reader();
        let key = Key::new("", self.config.node_name.clone());
        let mut written: Option<CiliumNode> = None;
        let mut retry = Retry::default();
        loop {
            nodes.changes();
            own.changes();
            if written.as_ref().is_some_and(|object| self.is_spoilt(&key, object)) {
                written = None;
            }
            let mut again = Duration::from_secs(86_400);
            if let Some(node) = self.tables.nodes.get(&key) {
                match self.pass(&node, &mut written).await {
                    Ok(()) => retry.succeeded(),
                    Err(error) => {
                        tracing::warn!(%error, "writing this node to Kubernetes failed, trying again");
                        again = retry.failed();
                    }
                }
            }
            tokio::select! {
                () = nodes.changed() => {}
                () = own.changed() => {}
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    /// Somebody deleted or changed what was written. An event from before our own write may say so too; then it is
    /// written once more, to no effect.
    fn is_spoilt(&self, key: &Key, written: &CiliumNode) -> bool {
        let wanted = serde_json::to_value(written).unwrap_or_default();
        self.tables.own_node.synced() && self.tables.own_node.get(key).is_none_or(|there| !contains(&there.0, &wanted))
    }

    async fn pass(&self, node: &Node, written: &mut Option<CiliumNode>) -> Result<(), WriteError> {
        // Pods can be started once they can get an address.
        if !node.pod_cidrs.is_empty() {
            self.remove_taint(node).await?;
        }
        let object = cilium_node(&self.config.node_name, node);
        if written.as_ref() != Some(&object) {
            kube_api::upsert(&Api::all(self.client.clone()), &object).await?;
            *written = Some(object);
        }
        Ok(())
    }

    async fn remove_taint(&self, node: &Node) -> Result<(), WriteError> {
        if !node.taints.iter().any(|t| t == NOT_READY_TAINT) {
            return Ok(());
        }
        let api: Api<NodeObject> = Api::all(self.client.clone());
        let object = kube_api::limited(api.get(&self.config.node_name)).await?;
        let mut taints = object.spec.and_then(|s| s.taints).unwrap_or_default();
        taints.retain(|t| t.key != NOT_READY_TAINT);
        // The version keeps a taint that someone adds at the same moment.
        let patch = serde_json::json!({
            "metadata": {"resourceVersion": object.metadata.resource_version},
            "spec": {"taints": taints},
        });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        kube_api::limited(api.patch(&self.config.node_name, &params, &Patch::Merge(patch))).await?;
        tracing::info!(taint = NOT_READY_TAINT, "removed");
        Ok(())
    }
}

/// The object as Cilium writes it.
fn cilium_node(name: &str, node: &Node) -> CiliumNode {
    let addresses = node.addresses.iter().map(|a| NodeAddress {
        type_: Some(if a.internal { "InternalIP" } else { "ExternalIP" }.into()),
        ip: Some(a.ip.to_string()),
    });
    let mut object = CiliumNode::new(
        name,
        CiliumNodeSpec {
            instance_id: node.provider_id.clone(),
            bootid: node.boot_id.clone(),
            addresses: addresses.collect(),
            health: Some(FamilyAddresses::default()),
            ingress: Some(FamilyAddresses::default()),
            encryption: Some(EncryptionSpec { key: Some(0) }),
            ipam: Some(IpamSpec {
                pod_cidrs: node.pod_cidrs.iter().map(ToString::to_string).collect(),
                ..IpamSpec::default()
            }),
            node_identity: None,
        },
    );
    object.metadata.labels = Some(node.labels.clone()).filter(|l| !l.is_empty());
    object.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.to_owned(),
        uid: node.uid.clone(),
        ..OwnerReference::default()
    }]);
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intent::node::NodeAddress as Address;
    use std::collections::BTreeMap;

    #[test]
    fn the_object_is_as_cilium_writes_it() {
        let node = Node {
            uid: "u".into(),
            labels: BTreeMap::from([("rack".to_owned(), "1".to_owned())]),
            pod_cidrs: ["10.1.1.0/24".parse().unwrap()].into(),
            addresses: [Address { ip: "10.0.0.11".parse().unwrap(), internal: true }].into(),
            provider_id: None,
            boot_id: Some("b".into()),
            taints: Box::default(),
        };
        let want = serde_json::json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNode",
        "metadata": {
            "name": "n1", "labels": {"rack": "1"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u"}]},
        "spec": {
            "bootid": "b",
            "addresses": [{"type": "InternalIP", "ip": "10.0.0.11"}],
            "health": {}, "ingress": {}, "encryption": {"key": 0},
            "ipam": {"podCIDRs": ["10.1.1.0/24"]},
        }});
        assert_eq!(serde_json::to_value(cilium_node("n1", &node)).unwrap(), want);
    }
}
