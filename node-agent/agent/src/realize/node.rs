//! This node in Kubernetes: its CiliumNode, and the taint that says "no network yet".

use std::time::Duration;

use causeway_encryption_plan::Announcement;
use causeway_k8s::cilium::node::{CiliumNodeSpec, EncryptionSpec, IpamSpec, NodeAddress};
use causeway_k8s::{CiliumNode, FamilyAddresses};
use k8s_openapi::api::core::v1::Node as NodeObject;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::encryption::ROTATE_ANNOTATION;
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
    /// The node's WireGuard keys; `None` where traffic is not encrypted.
    pub(crate) keys: Option<watch::Receiver<Option<Announcement>>>,
}

/// What the object says of the node's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Keys {
    /// Traffic is not encrypted: keys that stand there are taken away.
    Off,
    /// Not known yet: what stands there stays.
    Unknown,
    Known(Announcement),
}

/// What Cilium writes as index of the key where WireGuard is on.
const WIREGUARD_KEY_INDEX: i64 = 255;

impl NodeWriter {
    /// Runs for ever. Waiting is cancel-safe.
    pub(crate) async fn run(mut self) {
        let mut nodes = self.tables.nodes.reader();
        let mut own = self.tables.own_node.reader();
        let key = Key::new("", self.config.node_name.clone());
        let mut written: Option<Value> = None;
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
            let keys = async {
                match &mut self.keys {
                    // The sender lives as long as the agent.
                    Some(keys) => drop(keys.changed().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = nodes.changed() => {}
                () = own.changed() => {}
                () = keys => {}
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    /// Somebody deleted or changed what was written. An event from before our own write may say so too; then it is
    /// written once more, to no effect.
    fn is_spoilt(&self, key: &Key, written: &Value) -> bool {
        self.tables.own_node.synced() && self.tables.own_node.get(key).is_none_or(|there| !contains(&there.0, written))
    }

    fn keys(&self) -> Keys {
        match &self.keys {
            None => Keys::Off,
            Some(keys) => keys.borrow().clone().map_or(Keys::Unknown, Keys::Known),
        }
    }

    async fn pass(&self, node: &Node, written: &mut Option<Value>) -> Result<(), WriteError> {
        // Pods can be started once they can get an address.
        if !node.pod_cidrs.is_empty() {
            self.remove_taint(node).await?;
        }
        let keys = self.keys();
        let object = cilium_node(&self.config.node_name, node, &keys);
        let patch = patch(&object, &keys)?;
        if written.as_ref() != Some(&patch) {
            kube_api::merge(&Api::all(self.client.clone()), &object, patch.clone()).await?;
            *written = Some(patch);
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

/// The merge patch that makes the object so.
fn patch(object: &CiliumNode, keys: &Keys) -> Result<Value, serde_json::Error> {
    let mut patch = serde_json::to_value(object)?;
    if *keys == Keys::Off {
        for name in [Announcement::CILIUM_ANNOTATION, Announcement::ANNOTATION, ROTATE_ANNOTATION] {
            patch["metadata"]["annotations"][name] = json!(null);
        }
    }
    Ok(patch)
}

/// The object as Cilium writes it.
fn cilium_node(name: &str, node: &Node, keys: &Keys) -> CiliumNode {
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
            encryption: Some(EncryptionSpec { key: Some(if *keys == Keys::Off { 0 } else { WIREGUARD_KEY_INDEX }) }),
            ipam: Some(IpamSpec {
                pod_cidrs: node.pod_cidrs.iter().map(ToString::to_string).collect(),
                ..IpamSpec::default()
            }),
            node_identity: None,
        },
    );
    object.metadata.labels = Some(node.labels.clone()).filter(|l| !l.is_empty());
    if let Keys::Known(announcement) = keys {
        let current = (Announcement::CILIUM_ANNOTATION.to_owned(), announcement.current.to_string());
        let all = (Announcement::ANNOTATION.to_owned(), announcement.to_annotation());
        object.metadata.annotations = Some([current, all].into());
    }
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
        let off = cilium_node("n1", &node, &Keys::Off);
        assert_eq!(serde_json::to_value(&off).unwrap(), want);

        let key = causeway_encryption_plan::PrivateKey::from_random([1; 32]).public();
        let keys = vec![causeway_encryption_plan::EpochKey { epoch: 3, key }];
        let known = Keys::Known(Announcement { current: key, keys });
        let written = patch(&cilium_node("n1", &node, &known), &known).unwrap();
        let annotations = written.pointer("/metadata/annotations").unwrap();
        assert_eq!(annotations["network.cilium.io/wg-pub-key"], key.to_string());
        let all = json!([{"epoch": 3, "key": key.to_string()}]).to_string();
        assert_eq!(annotations["network.causeway.io/wg-pub-keys"], all);
        assert_eq!(written["spec"]["encryption"]["key"], 255);

        // Switched off, they are taken away; where there are none, nothing is spoilt.
        let gone = patch(&off, &Keys::Off).unwrap();
        assert!(gone["metadata"]["annotations"]["network.cilium.io/wg-pub-key"].is_null());
        assert!(contains(&want, &gone) && !contains(&written, &gone));
        // Not known yet, they stay.
        assert!(
            patch(&cilium_node("n1", &node, &Keys::Unknown), &Keys::Unknown).unwrap()["metadata"]
                .get("annotations")
                .is_none()
        );
    }
}
