//! `CiliumNode` -> [`Node`] (Cilium `ParseCiliumNode`).

use std::net::IpAddr;

use causeway_k8s::names::NETWORK_WG_PUB_KEY;
use causeway_k8s::rejected::Fault;
use causeway_k8s::{CiliumNode, FamilyAddresses};
use causeway_mesh_schema::{Node, NodeAddress, NodeAddressKind};
use ipnet::IpNet;

use super::{Converted, Home, read};

/// What readers see as the origin of a node that an API server tells of.
const SOURCE: &str = "custom-resource";

pub(crate) fn node(home: &Home, object: &CiliumNode) -> Converted<Node> {
    let mut faults = Vec::new();
    let (spec, meta) = (&object.spec, &object.metadata);
    let annotations = meta.annotations.as_ref();
    let (ipv4_health_ip, ipv6_health_ip) = families(&mut faults, "spec.health", spec.health.as_ref());
    let (ipv4_ingress_ip, ipv6_ingress_ip) = families(&mut faults, "spec.ingress", spec.ingress.as_ref());
    let mut cidrs4 = Vec::new();
    let mut cidrs6 = Vec::new();
    for cidr in pod_cidrs(&mut faults, object) {
        match cidr {
            IpNet::V4(_) => cidrs4.push(cidr),
            IpNet::V6(_) => cidrs6.push(cidr),
        }
    }
    let mut cidrs4 = cidrs4.into_iter();
    let mut cidrs6 = cidrs6.into_iter();
    let value = Node {
        name: meta.name.clone().unwrap_or_default(),
        cluster: home.name.to_string(),
        addresses: addresses(&mut faults, object),
        ipv4_alloc_cidr: cidrs4.next(),
        ipv4_secondary_alloc_cidrs: cidrs4.collect(),
        ipv6_alloc_cidr: cidrs6.next(),
        ipv6_secondary_alloc_cidrs: cidrs6.collect(),
        ipv4_health_ip,
        ipv6_health_ip,
        ipv4_ingress_ip,
        ipv6_ingress_ip,
        cluster_id: home.id.into(),
        source: SOURCE.to_owned(),
        encryption_key: encryption_key(
            &mut faults,
            "spec.encryption.key",
            spec.encryption.as_ref().and_then(|e| e.key),
        ),
        labels: meta.labels.clone().unwrap_or_default(),
        annotations: meta.annotations.clone().unwrap_or_default(),
        wireguard_pub_key: NETWORK_WG_PUB_KEY.get(annotations).unwrap_or_default().to_owned(),
        boot_id: spec.bootid.clone().unwrap_or_default(),
    };
    Converted { value, faults }
}

/// The index of an encryption key; what does not fit is told as "none".
pub(super) fn encryption_key(faults: &mut Vec<Fault>, field: &str, key: Option<i64>) -> u8 {
    let key = key.unwrap_or(0);
    u8::try_from(key).unwrap_or_else(|_| {
        faults.push(Fault::new(field, format!("{key} is no index of a key"), "write 0 to 255"));
        0
    })
}

fn addresses(faults: &mut Vec<Fault>, object: &CiliumNode) -> Vec<NodeAddress> {
    let mut told = Vec::new();
    for (index, address) in object.spec.addresses.iter().enumerate() {
        let field = |name: &str| format!("spec.addresses[{index}].{name}");
        let Some(ip) = read::<IpAddr>(faults, || field("ip"), address.ip.as_deref().unwrap_or_default()) else {
            continue;
        };
        let kind = address.type_.as_deref().unwrap_or_default();
        let Some(kind) = kind_of(kind) else {
            let remedy = "write InternalIP, ExternalIP or CiliumInternalIP";
            faults.push(Fault::new(field("type"), format!("{kind:?} is no kind of address"), remedy));
            continue;
        };
        told.push(NodeAddress { kind, ip: ip.to_string() });
    }
    told
}

fn kind_of(word: &str) -> Option<NodeAddressKind> {
    Some(match word {
        "Hostname" => NodeAddressKind::Hostname,
        "ExternalIP" => NodeAddressKind::ExternalIp,
        "InternalIP" => NodeAddressKind::InternalIp,
        "ExternalDNS" => NodeAddressKind::ExternalDns,
        "InternalDNS" => NodeAddressKind::InternalDns,
        "CiliumInternalIP" => NodeAddressKind::CiliumInternalIp,
        _ => return None,
    })
}

/// Those of the node, then those of its pools.
fn pod_cidrs(faults: &mut Vec<Fault>, object: &CiliumNode) -> Vec<IpNet> {
    let Some(ipam) = &object.spec.ipam else { return Vec::new() };
    let mut cidrs = Vec::new();
    for (index, text) in ipam.pod_cidrs.iter().enumerate() {
        cidrs.extend(read::<IpNet>(faults, || format!("spec.ipam.podCIDRs[{index}]"), text));
    }
    let pools = ipam.pools.iter().flat_map(|pools| &pools.allocated).enumerate();
    for (pool, text) in pools.flat_map(|(at, pool)| pool.cidrs.iter().map(move |text| (at, text))) {
        cidrs.extend(read::<IpNet>(faults, || format!("spec.ipam.pools.allocated[{pool}].cidrs"), text));
    }
    cidrs.iter().map(IpNet::trunc).collect()
}

fn families(faults: &mut Vec<Fault>, field: &str, pair: Option<&FamilyAddresses>) -> (Option<IpAddr>, Option<IpAddr>) {
    let mut one = |name: &str, text: Option<&String>| {
        let text = text.filter(|text| !text.is_empty())?;
        read::<IpAddr>(faults, || format!("{field}.{name}"), text)
    };
    let Some(pair) = pair else { return (None, None) };
    (one("ipv4", pair.ipv4.as_ref()), one("ipv6", pair.ipv6.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{home, object};
    use super::*;

    #[test]
    fn a_dual_stack_node_with_a_key() {
        let converted = node(
            &home(),
            &object(
                "apiVersion: cilium.io/v2
kind: CiliumNode
metadata: {name: n1, labels: {rack: r1}, annotations: {network.cilium.io/wg-pub-key: KEY=}}
spec:
  bootid: b-1
  addresses: [{type: InternalIP, ip: 192.0.2.2}, {type: CiliumInternalIP, ip: 'fd00:1::10'}]
  encryption: {key: 7}
  health: {ipv4: 10.3.0.4, ipv6: 'fd00:1::4'}
  ipam: {podCIDRs: [10.3.0.0/24, 'fd00:1::/64', 10.3.9.0/24], pools: {allocated: [{pool: p, cidrs: ['fd00:2::/64']}]}}",
            ),
        );
        assert_eq!(converted.faults, []);
        let node = converted.value;
        assert_eq!((node.name.as_str(), node.cluster.as_str(), node.cluster_id), ("n1", "cluster3", 3));
        assert_eq!(node.ipv4_alloc_cidr, Some("10.3.0.0/24".parse().unwrap()));
        assert_eq!(node.ipv4_secondary_alloc_cidrs, ["10.3.9.0/24".parse().unwrap()]);
        assert_eq!(node.ipv6_alloc_cidr, Some("fd00:1::/64".parse().unwrap()));
        assert_eq!(node.ipv6_secondary_alloc_cidrs, ["fd00:2::/64".parse().unwrap()]);
        assert_eq!(node.ipv4_health_ip, Some("10.3.0.4".parse().unwrap()));
        assert_eq!(node.ipv6_ingress_ip, None);
        assert_eq!((node.encryption_key, node.source.as_str(), node.boot_id.as_str()), (7, "custom-resource", "b-1"));
        assert_eq!(node.wireguard_pub_key, "KEY=");
        let kinds: Vec<_> = node.addresses.iter().map(|a| (a.kind, a.ip.as_str())).collect();
        let expected = [(NodeAddressKind::InternalIp, "192.0.2.2"), (NodeAddressKind::CiliumInternalIp, "fd00:1::10")];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn what_cannot_be_used_is_named_and_the_rest_is_told() {
        let converted = node(
            &home(),
            &object(
                "apiVersion: cilium.io/v2
kind: CiliumNode
metadata: {name: n1}
spec:
  addresses: [{type: InternalIP, ip: 192.0.2.300}, {type: Somewhere, ip: 192.0.2.3}, {type: InternalIP, ip: 192.0.2.4}]
  encryption: {key: 300}
  health: {ipv4: none}
  ipam: {podCIDRs: [10.3.0.0/33, 10.3.1.5/24]}",
            ),
        );
        let fields: Vec<_> = converted.faults.iter().map(|fault| fault.field.as_str()).collect();
        let expected = [
            "spec.health.ipv4",
            "spec.ipam.podCIDRs[0]",
            "spec.addresses[0].ip",
            "spec.addresses[1].type",
            "spec.encryption.key",
        ];
        assert_eq!(fields, expected);
        assert_eq!(converted.value.addresses.len(), 1);
        assert_eq!(converted.value.ipv4_alloc_cidr, Some("10.3.1.0/24".parse().unwrap()));
    }
}
