//! What other agents say: CiliumEndpoints, CiliumIdentities and CiliumNodes.

use std::net::IpAddr;

use causeway_encryption_plan::Announcement;
use causeway_k8s::{CiliumEndpoint, CiliumIdentity, CiliumNode as NodeObject};
use ipnet::IpNet;

use super::{Key, Read, Rejected, rejected};

/// Which identity a pod's addresses have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteEndpoint {
    pub(crate) addresses: Box<[IpAddr]>,
    pub(crate) identity: u32,
    /// Address of the pod's node.
    pub(crate) node: Option<IpAddr>,
}

/// Reads CiliumEndpoints.
pub(crate) struct EndpointReader;

impl Read<CiliumEndpoint> for EndpointReader {
    type Key = Key;
    type Row = RemoteEndpoint;

    fn read(&self, key: &Key, object: CiliumEndpoint) -> Result<Option<(Key, RemoteEndpoint)>, Rejected> {
        let bad = |field: &str, message: String| {
            rejected("CiliumEndpoint", key, field, message, "delete the object; the agent of its node writes it again")
        };
        let status = object.status.unwrap_or_default();
        let Some(identity) = status.identity.and_then(|i| i.id) else { return Ok(None) };
        let identity =
            u32::try_from(identity).map_err(|_| bad("status.identity.id", format!("{identity} is not an identity")))?;
        let mut addresses = Vec::new();
        let networking = status.networking.unwrap_or_default();
        let node = networking.node.and_then(|ip| ip.parse().ok());
        for pair in networking.addressing {
            for text in [pair.ipv4, pair.ipv6].into_iter().flatten().filter(|t| !t.is_empty()) {
                addresses.push(
                    text.parse()
                        .map_err(|_| bad("status.networking.addressing", format!("{text:?} is not an IP address")))?,
                );
            }
        }
        Ok(Some((key.clone(), RemoteEndpoint { addresses: addresses.into(), identity, node })))
    }
}

/// An identity's labels as `source:key=value`, sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) labels: Vec<String>,
}

/// Reads CiliumIdentities. The key is the number.
pub(crate) struct IdentityReader;

impl Read<CiliumIdentity> for IdentityReader {
    type Key = u32;
    type Row = Identity;

    fn read(&self, key: &Key, object: CiliumIdentity) -> Result<Option<(u32, Identity)>, Rejected> {
        let id = key.name.parse().map_err(|_| {
            let remedy = "delete it; identities are named by their number";
            rejected("CiliumIdentity", key, "metadata.name", format!("{:?} is not a number", key.name), remedy)
        })?;
        let mut labels: Vec<String> = object.security_labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        labels.sort_unstable();
        Ok(Some((id, Identity { labels })))
    }
}

/// A node of this cluster as its agent describes it, as far as encryption needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CiliumNode {
    /// Those of type `InternalIP`.
    pub(crate) addresses: Box<[IpAddr]>,
    pub(crate) pod_cidrs: Box<[IpNet]>,
    /// Base64 of the node's WireGuard public key; empty without one.
    pub(crate) wireguard_pub_key: Box<str>,
    /// All its keys with their epochs, as its annotation says; empty without it.
    pub(crate) wireguard_pub_keys: Box<str>,
}

/// Reads CiliumNodes.
pub(crate) struct NodeReader;

impl Read<NodeObject> for NodeReader {
    type Key = Key;
    type Row = CiliumNode;
    // The agent watches its own one by itself too.
    const WATCH: Option<&'static str> = Some("CiliumNode (all)");

    fn read(&self, key: &Key, object: NodeObject) -> Result<Option<(Key, CiliumNode)>, Rejected> {
        let bad = |field: &str, message: String| {
            rejected("CiliumNode", key, field, message, "delete the object; the agent of its node writes it again")
        };
        let annotations = object.metadata.annotations.unwrap_or_default();
        let annotation = |name: &str| annotations.get(name).map_or("", String::as_str).into();
        let mut addresses = Vec::new();
        for address in object.spec.addresses.iter().filter(|a| a.type_.as_deref() == Some("InternalIP")) {
            let text = address.ip.as_deref().unwrap_or_default();
            let ip = text.parse().map_err(|_| bad("spec.addresses", format!("{text:?} is not an IP address")))?;
            addresses.push(ip);
        }
        let cidrs = object.spec.ipam.map(|ipam| ipam.pod_cidrs).unwrap_or_default();
        let pod_cidrs = cidrs.iter().map(|text| match text.parse::<IpNet>() {
            Ok(cidr) => Ok(cidr.trunc()),
            Err(error) => Err(bad("spec.ipam.podCIDRs", format!("{text:?}: {error}"))),
        });
        let row = CiliumNode {
            addresses: addresses.into(),
            pod_cidrs: pod_cidrs.collect::<Result<_, _>>()?,
            wireguard_pub_key: annotation(Announcement::CILIUM_ANNOTATION),
            wireguard_pub_keys: annotation(Announcement::ANNOTATION),
        };
        Ok(Some((key.clone(), row)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(json: serde_json::Value) -> Result<CiliumNode, Rejected> {
        let object: NodeObject = serde_json::from_value(json).unwrap();
        Ok(NodeReader.read(&Key::new("", "n2"), object)?.unwrap().1)
    }

    #[test]
    fn a_node_tells_its_addresses_ranges_and_keys() {
        let row = node(serde_json::json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNode",
            "metadata": {"name": "n2", "annotations": {
                "network.cilium.io/wg-pub-key": "K", "network.causeway.io/wg-pub-keys": "[]"}},
            "spec": {
                "addresses": [{"type": "ExternalIP", "ip": "198.51.100.1"}, {"type": "InternalIP", "ip": "10.0.0.12"}],
                "ipam": {"podCIDRs": ["10.1.2.1/24"]}},
        }));
        let row = row.unwrap();
        assert_eq!((row.addresses.len(), &*row.wireguard_pub_key, &*row.wireguard_pub_keys), (1, "K", "[]"));
        assert_eq!(row.pod_cidrs[0].to_string(), "10.1.2.0/24");
        let none = node(serde_json::json!({"metadata": {"name": "n2"}, "spec": {}})).unwrap();
        assert_eq!((none.addresses.len(), &*none.wireguard_pub_key), (0, ""));
        let bad = node(serde_json::json!({"metadata": {"name": "n2"}, "spec": {"ipam": {"podCIDRs": ["x"]}}}));
        assert_eq!(bad.unwrap_err().field, "spec.ipam.podCIDRs");
    }
}
