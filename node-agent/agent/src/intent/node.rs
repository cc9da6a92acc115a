//! Nodes and Namespaces.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, Node as Object};

use super::{Key, Read, Rejected, rejected};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) uid: String,
    /// Kept for the own node only: CiliumNode carries a copy.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) pod_cidrs: Box<[IpNet]>,
    /// Internal addresses first.
    pub(crate) addresses: Box<[NodeAddress]>,
    pub(crate) provider_id: Option<String>,
    pub(crate) boot_id: Option<String>,
    /// Keys of taints; kept for the own node only.
    pub(crate) taints: Box<[String]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeAddress {
    pub(crate) ip: IpAddr,
    /// `InternalIP`; otherwise `ExternalIP`.
    pub(crate) internal: bool,
}

impl Node {
    pub(crate) fn internal_v4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().filter(|a| a.internal).find_map(|a| match a.ip {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        })
    }

    pub(crate) fn internal_v6(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().filter(|a| a.internal).find_map(|a| match a.ip {
            IpAddr::V6(ip) => Some(ip),
            IpAddr::V4(_) => None,
        })
    }
}

/// Reads Nodes, as seen from one of them.
pub(crate) struct Reader {
    pub(crate) node: String,
}

impl Read<Object> for Reader {
    type Key = Key;
    type Row = Node;

    fn read(&self, key: &Key, object: Object) -> Result<Option<(Key, Node)>, Rejected> {
        let bad = |field: &str, message: String, remedy: &str| rejected("Node", key, field, message, remedy);
        let own = key.name == self.node;
        let spec = object.spec.unwrap_or_default();
        let mut cidrs = spec.pod_cidrs.unwrap_or_default();
        if cidrs.is_empty() {
            cidrs.extend(spec.pod_cidr);
        }
        let pod_cidrs = cidrs
            .iter()
            .map(|c| c.parse::<IpNet>().map(|n| n.trunc()))
            .collect::<Result<_, _>>()
            .map_err(|e| bad("spec.podCIDRs", e.to_string(), "write prefixes such as 10.1.1.0/24"))?;
        let status = object.status.unwrap_or_default();
        let mut addresses = Vec::new();
        for (i, a) in status.addresses.unwrap_or_default().iter().enumerate() {
            let internal = match a.type_.as_str() {
                "InternalIP" => true,
                "ExternalIP" => false,
                _ => continue,
            };
            let ip = a.address.parse().map_err(|_| {
                bad(&format!("status.addresses[{i}]"), format!("{:?} is not an IP address", a.address), "write one")
            })?;
            addresses.push(NodeAddress { ip, internal });
        }
        addresses.sort_by_key(|a| !a.internal);
        let taints = if own { spec.taints.unwrap_or_default() } else { Vec::new() };
        Ok(Some((
            key.clone(),
            Node {
                uid: object.metadata.uid.unwrap_or_default(),
                labels: if own { object.metadata.labels.unwrap_or_default() } else { BTreeMap::new() },
                pod_cidrs,
                addresses: addresses.into(),
                provider_id: spec.provider_id.filter(|_| own),
                boot_id: status.node_info.map(|i| i.boot_id).filter(|b| own && !b.is_empty()),
                taints: taints.into_iter().map(|t| t.key).collect(),
            },
        )))
    }
}

/// A namespace's labels, which are part of its pods' identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Namespace {
    pub(crate) labels: BTreeMap<String, String>,
}

/// Reads Namespaces.
pub(crate) struct NamespaceReader;

impl Read<NamespaceObject> for NamespaceReader {
    type Key = Key;
    type Row = Namespace;

    fn read(&self, key: &Key, object: NamespaceObject) -> Result<Option<(Key, Namespace)>, Rejected> {
        Ok(Some((key.clone(), Namespace { labels: object.metadata.labels.unwrap_or_default() })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: serde_json::Value) -> Result<Node, Rejected> {
        let object: Object = serde_json::from_value(json).unwrap();
        Ok(Reader { node: "n1".into() }.read(&Key::new("", "n1"), object)?.unwrap().1)
    }

    #[test]
    fn reads_what_the_fabric_needs() {
        let node = read(serde_json::json!({
            "metadata": {"uid": "u", "labels": {"rack": "1"}},
            "spec": {"podCIDR": "10.1.1.0/24", "podCIDRs": ["10.1.1.0/24", "fd00:1:1::/64"], "taints": [{"key": "t", "effect": "NoSchedule"}]},
            "status": {"addresses": [
                {"type": "ExternalIP", "address": "198.51.100.1"}, {"type": "Hostname", "address": "n1"},
                {"type": "InternalIP", "address": "10.0.0.11"}, {"type": "InternalIP", "address": "fd00:10::11"}]},
        }))
        .unwrap();
        assert_eq!(node.pod_cidrs.len(), 2);
        assert_eq!(node.internal_v4(), Some(Ipv4Addr::new(10, 0, 0, 11)));
        assert_eq!(node.internal_v6(), Some("fd00:10::11".parse().unwrap()));
        assert_eq!(node.addresses.len(), 3);
        assert_eq!(*node.taints, ["t".to_owned()]);
    }

    #[test]
    fn a_bad_cidr_is_rejected() {
        let e = read(serde_json::json!({"spec": {"podCIDRs": ["10.1.1.0/240"]}})).unwrap_err();
        assert_eq!(e.field, "spec.podCIDRs");
    }
}
