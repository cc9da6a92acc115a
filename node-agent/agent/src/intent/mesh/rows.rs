//! From a remote cluster's words to rows. Pure; what a row cannot use of an entry is named.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use causeway_datapath_loader::Proto;
use causeway_encryption_plan::Announcement;
use causeway_k8s::names::LABEL_SERVICE_NAME;
use causeway_mesh_schema::{
    ClusterEndpointSlice, ClusterId, ClusterService, Endpoint, Invalid, Node, NodeAddressKind, Ports,
};

use super::{Offer, OfferKey, RemoteNode};
use crate::control::ipcache::prefix::Prefix;
use crate::intent::node::NodeAddress;
use crate::intent::service::served;
use crate::intent::slice::{Slice, SliceEndpoint, SlicePort};
use crate::intent::{Key, Stamp};

/// The node, and the ranges and addresses that only it may have.
pub(super) fn node(node: &Node) -> (RemoteNode, BTreeSet<Prefix>) {
    let ips = |wanted: &'static [NodeAddressKind]| {
        let some = node.addresses.iter().filter(move |a| wanted.contains(&a.kind));
        some.filter_map(|a| Some((a.kind, a.ip.parse::<IpAddr>().ok()?)))
    };
    const INSIDE: &[NodeAddressKind] = &[NodeAddressKind::InternalIp, NodeAddressKind::CiliumInternalIp];
    const ALL: &[NodeAddressKind] =
        &[NodeAddressKind::InternalIp, NodeAddressKind::CiliumInternalIp, NodeAddressKind::ExternalIp];
    let addresses = ips(ALL).map(|(kind, ip)| NodeAddress { ip, internal: kind == NodeAddressKind::InternalIp });
    // Several clusters may leave by one external address, so that nobody owns such.
    let owned = ips(INSIDE).map(|(_, ip)| Prefix::host(ip)).chain(node.pod_cidrs().map(Prefix::from));
    let row = RemoteNode {
        addresses: addresses.collect(),
        pod_cidrs: node.pod_cidrs().map(|cidr| cidr.trunc()).collect(),
        wireguard_pub_key: node.wireguard_pub_key.as_str().into(),
        wireguard_pub_keys: node.annotations.get(Announcement::ANNOTATION).map_or("", String::as_str).into(),
    };
    (row, owned.collect())
}

/// What `services/v1` says: backends with the same ports make a slice.
pub(super) fn service(service: &ClusterService, cluster: ClusterId, now: Stamp) -> (OfferKey, Offer) {
    let mut by_ports: BTreeMap<Vec<(&str, u16, Proto)>, Vec<SliceEndpoint>> = BTreeMap::new();
    for (address, ports) in &service.backends {
        let endpoint = SliceEndpoint { address: *address, ready: true, draining: false, local: false };
        by_ports.entry(ports_of(ports)).or_default().push(endpoint);
    }
    let slices = by_ports.into_iter().map(|(ports, endpoints)| {
        let ports = ports.into_iter().map(|(name, port, proto)| SlicePort { name: name.into(), port, proto });
        Arc::new(Slice { ports: ports.collect(), endpoints: endpoints.into(), seen: now })
    });
    let key = OfferKey { service: Key::new(&service.namespace, &service.name), cluster, slice: "".into() };
    (key, Offer { shared: service.shared, slices: slices.collect(), foreign: Box::default() })
}

/// A protocol that is not said is TCP.
fn proto(text: &str) -> Option<Proto> {
    served(if text.is_empty() { "TCP" } else { text })
}

/// Ports that cannot be served are left out, as of Services of this cluster.
fn ports_of(ports: &Ports) -> Vec<(&str, u16, Proto)> {
    let served = ports.iter().filter_map(|(name, port)| Some((name.as_str(), port.port, proto(&port.protocol)?)));
    served.filter(|(_, port, _)| *port != 0).collect()
}

/// What `endpointslices/v1` says. Only shared Services have such entries.
pub(super) fn slice(
    name: &str,
    slice: &ClusterEndpointSlice,
    cluster: ClusterId,
    now: Stamp,
) -> Result<(OfferKey, Offer), Invalid> {
    let service = slice.labels.get(LABEL_SERVICE_NAME).ok_or_else(|| Invalid {
        key: name.to_owned(),
        problem: format!("the label {LABEL_SERVICE_NAME} is missing"),
        remedy: "the slice belongs to no Service; look at it in its cluster".to_owned(),
    })?;
    let ports = slice.ports.iter().filter_map(|p| {
        let port = p.port.and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0)?;
        let proto = proto(p.protocol.as_deref().unwrap_or_default())?;
        Some(SlicePort { name: p.name.clone().unwrap_or_default().into(), port, proto })
    });
    let endpoints = slice.endpoints.iter().filter_map(endpoint);
    let row = Slice { ports: ports.collect(), endpoints: endpoints.collect(), seen: now };
    let service = Key::new(&slice.namespace, service);
    let key = OfferKey { service, cluster, slice: slice.name.as_str().into() };
    Ok((key, Offer { shared: true, slices: [Arc::new(row)].into(), foreign: Box::default() }))
}

/// As of slices of this cluster: the first address counts, and conditions mean the same.
fn endpoint(endpoint: &Endpoint) -> Option<SliceEndpoint> {
    let address = endpoint.addresses.first()?.parse().ok()?;
    let ready = endpoint.ready.unwrap_or(true);
    let serving = endpoint.serving.unwrap_or(ready);
    let draining = serving && endpoint.terminating.unwrap_or(false) && !ready;
    Some(SliceEndpoint { address, ready, draining, local: false })
}

#[cfg(test)]
mod tests {
    use causeway_mesh_schema::{EndpointPort, L4Addr, NodeAddress as Address, Scale};

    use super::*;

    fn id() -> ClusterId {
        ClusterId::new(2, Scale::C255).unwrap()
    }

    fn shown(offer: &Offer) -> Vec<String> {
        let slices = offer.slices.iter().map(|s| {
            let ports: Vec<_> = s.ports.iter().map(|p| format!("{}:{}/{}", p.name, p.port, p.proto)).collect();
            let ends = s.endpoints.iter().map(|e| {
                let state = match (e.ready, e.draining) {
                    (true, _) => "",
                    (false, true) => " draining",
                    (false, false) => " away",
                };
                format!("{}{state}", e.address)
            });
            format!("{} <- {}", ports.join(","), ends.collect::<Vec<_>>().join(","))
        });
        slices.collect()
    }

    #[test]
    fn backends_with_the_same_ports_stand_together() {
        let l4 = |protocol: &str, port| L4Addr { protocol: protocol.into(), port };
        let http = Ports::from([("http".to_owned(), l4("TCP", 8080))]);
        let both = Ports::from([("http".to_owned(), l4("TCP", 8081)), ("dns".to_owned(), l4("udp", 53))]);
        let odd = Ports::from([("x".to_owned(), l4("SCTP", 5)), (String::new(), l4("", 80))]);
        let entry = ClusterService {
            namespace: "shop".into(),
            name: "web".into(),
            shared: true,
            backends: BTreeMap::from([
                ("10.2.1.1".parse().unwrap(), http.clone()),
                ("10.2.1.2".parse().unwrap(), both),
                ("10.2.1.3".parse().unwrap(), http),
                ("fd00:2::1".parse().unwrap(), odd),
            ]),
            ..ClusterService::default()
        };
        let (key, offer) = service(&entry, id(), Stamp::now());
        assert_eq!((key.service, &*key.slice, offer.shared), (Key::new("shop", "web"), "", true));
        assert_eq!(
            shown(&offer),
            [":80/TCP <- fd00:2::1", "dns:53/UDP,http:8081/TCP <- 10.2.1.2", "http:8080/TCP <- 10.2.1.1,10.2.1.3"]
        );
    }

    #[test]
    fn slices_keep_their_conditions() {
        let end = |ip: &str, ready, serving, terminating| Endpoint {
            addresses: vec![ip.into()],
            ready,
            serving,
            terminating,
            ..Endpoint::default()
        };
        let mut entry = ClusterEndpointSlice {
            namespace: "shop".into(),
            name: "web-1".into(),
            labels: BTreeMap::from([(LABEL_SERVICE_NAME.to_owned(), "web".to_owned())]),
            endpoints: vec![
                end("10.2.1.1", None, None, None),
                end("10.2.1.2", Some(false), Some(true), Some(true)),
                end("10.2.1.3", Some(false), None, None),
            ],
            ports: vec![EndpointPort { name: None, protocol: None, port: Some(80), app_protocol: None }],
            ..ClusterEndpointSlice::default()
        };
        let (key, offer) = slice("shop/web-1", &entry, id(), Stamp::now()).unwrap();
        assert_eq!((key.service, &*key.slice, offer.shared), (Key::new("shop", "web"), "web-1", true));
        assert_eq!(shown(&offer), [":80/TCP <- 10.2.1.1,10.2.1.2 draining,10.2.1.3 away"]);
        entry.labels.clear();
        let invalid = slice("shop/web-1", &entry, id(), Stamp::now()).unwrap_err();
        assert!(invalid.to_string().starts_with("shop/web-1: the label kubernetes.io/service-name is missing"));
    }

    #[test]
    fn a_node_owns_its_ranges_and_inner_addresses() {
        let address = |kind, ip: &str| Address { kind, ip: ip.into() };
        let entry = Node {
            name: "n1".into(),
            cluster: "east".into(),
            addresses: vec![
                address(NodeAddressKind::InternalIp, "192.0.2.1"),
                address(NodeAddressKind::ExternalIp, "198.51.100.1"),
                address(NodeAddressKind::CiliumInternalIp, "10.2.1.254"),
                address(NodeAddressKind::Hostname, "n1"),
            ],
            ipv4_alloc_cidr: Some("10.2.1.0/24".parse().unwrap()),
            ipv4_secondary_alloc_cidrs: vec![],
            ipv6_alloc_cidr: Some("fd00:2:1::/64".parse().unwrap()),
            ipv6_secondary_alloc_cidrs: vec![],
            ipv4_health_ip: None,
            ipv6_health_ip: None,
            ipv4_ingress_ip: None,
            ipv6_ingress_ip: None,
            cluster_id: 2,
            source: String::new(),
            encryption_key: 0,
            labels: BTreeMap::new(),
            annotations: BTreeMap::from([(Announcement::ANNOTATION.to_owned(), "[]".to_owned())]),
            wireguard_pub_key: "key".into(),
            boot_id: String::new(),
        };
        let (row, owned) = node(&entry);
        assert_eq!(row.addresses.iter().map(|a| a.internal).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!((row.pod_cidrs.len(), &*row.wireguard_pub_key, &*row.wireguard_pub_keys), (2, "key", "[]"));
        let owned: Vec<String> = owned.iter().map(ToString::to_string).collect();
        assert_eq!(owned, ["10.2.1.0/24", "10.2.1.254", "192.0.2.1", "fd00:2:1::/64"]);
    }
}
