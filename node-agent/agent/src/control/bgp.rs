//! From BGP configuration, services and pod CIDRs to what the speaker shall do. Pure.
//!
//! [`facts`] says which addresses of a Service this node may announce now; it looks at what is desired and at what is
//! real in the datapath, so that an address is announced after it works and withdrawn before it stops. [`plan`] turns
//! configuration and facts into instances and routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use causeway_bgp_speaker::{InstanceConfig, PeerConfig as SpeakerPeer, RouteAttrs, RouteSet, Secret};
use causeway_bgp_wire::{Asn, Community, Family as WireFamily, LargeCommunity, Prefix};
use causeway_datapath_loader::Frontend;
use causeway_k8s::checked::bgp::PeerTarget;
use causeway_k8s::checked::{
    Advertisement, AdvertisementEntry, AdvertisementKind, Family, NodeInstance, NodePeer, PeerConfig,
    ServiceAddressType,
};
use causeway_k8s::names::{LB_CLASS_BGP, SELECTOR_SERVICE_NAME, SELECTOR_SERVICE_NAMESPACE};

use super::services::{AddressKind, LbRow};
use crate::intent::Key;
use crate::intent::bgp::OwnConfig;
use crate::intent::node::Node;
use crate::intent::service::Service;

/// A Service as BGP sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    labels: BTreeMap<String, String>,
    /// Its LoadBalancer addresses are BGP's to announce: no class, or ours.
    our_class: bool,
    external_local: bool,
    internal_local: bool,
    /// Addresses that this node serves now.
    served: BTreeSet<(AddressKind, IpAddr)>,
}

/// A row of the datapath: as desired, and as it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frontends {
    pub(crate) desired: Option<Arc<LbRow>>,
    pub(crate) actual: Option<Arc<LbRow>>,
}

/// What BGP may say of a Service now. `idle_served`: an address without any backend counts as served (packets are then
/// refused by this node instead of by the fabric).
pub(crate) fn facts(key: &Key, service: &Service, idle_served: bool, row: impl Fn(&Frontend) -> Frontends) -> Facts {
    let kinds = [
        (AddressKind::ClusterIp, &service.cluster_ips, service.internal_local),
        (AddressKind::LoadBalancer, &service.load_balancer_ips, service.external_local),
        (AddressKind::ExternalIp, &service.external_ips, service.external_local),
    ];
    let mut served = BTreeSet::new();
    for (kind, ips, local_only) in kinds {
        let serves = |row: &LbRow| {
            row.service == *key && if local_only { row.local_ready } else { idle_served || !row.lb.backends.is_empty() }
        };
        for ip in ips {
            let rows: Vec<Frontends> =
                service.ports.iter().map(|p| row(&Frontend { addr: *ip, port: p.port, proto: p.proto })).collect();
            let real = rows.iter().all(|r| r.actual.as_ref().is_some_and(|a| a.service == *key));
            let wanted = rows.iter().any(|r| r.desired.as_deref().is_some_and(serves));
            let works = rows.iter().any(|r| r.actual.as_deref().is_some_and(serves));
            if real && wanted && works {
                served.insert((kind, *ip));
            }
        }
    }
    Facts {
        labels: service.labels.clone(),
        our_class: service.load_balancer_class.as_deref().is_none_or(|c| c == LB_CLASS_BGP),
        external_local: service.external_local,
        internal_local: service.internal_local,
        served,
    }
}

/// What [`plan`] reads.
pub(crate) struct Inputs<'a> {
    pub(crate) config: Option<&'a OwnConfig>,
    pub(crate) node: &'a Node,
    pub(crate) peer_configs: BTreeMap<String, Arc<PeerConfig>>,
    pub(crate) advertisements: Vec<Arc<Advertisement>>,
    /// By name, in the namespace of BGP secrets.
    pub(crate) secrets: BTreeMap<String, Arc<Secret>>,
    pub(crate) services: &'a BTreeMap<Key, Facts>,
}

/// What the speaker shall do.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) instances: BTreeMap<String, InstanceConfig>,
    /// By instance and peer. Peers with the same configuration share a set.
    pub(crate) routes: BTreeMap<(String, String), Arc<RouteSet>>,
    /// Why each prefix is announced, for people.
    pub(crate) origins: BTreeMap<Prefix, String>,
    /// What of the configuration could not be carried out.
    pub(crate) problems: Vec<Problem>,
    /// Made when all inputs had been read.
    pub(crate) complete: bool,
}

/// A part of the configuration that is not carried out, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// `instance` or `instance/peer`.
    pub(crate) place: String,
    pub(crate) message: String,
    /// The session does not come up because of it.
    pub(crate) fatal: bool,
}

pub(crate) fn plan(inputs: &Inputs<'_>) -> Plan {
    let mut plan = Plan::default();
    let Some(own) = inputs.config else { return plan };
    let mut sets: BTreeMap<Option<&str>, Arc<RouteSet>> = BTreeMap::new();
    for instance in &own.config.instances {
        let (Some(asn), Some(router_id)) = (local_asn(instance), router_id(instance, inputs.node)) else {
            let message = "localASN is not set, or no router ID can be made from the node's addresses; set localASN in the CiliumBGPClusterConfig, or routerID in a CiliumBGPNodeConfigOverride";
            plan.problems.push(Problem { place: instance.name.clone(), message: message.into(), fatal: true });
            continue;
        };
        let mut peers = Vec::new();
        for peer in &instance.peers {
            let place = format!("{}/{}", instance.name, peer.name);
            let Some((config, speaker_peer)) = one_peer(&place, peer, inputs, &mut plan.problems) else { continue };
            peers.push(speaker_peer);
            let set = sets.entry(peer.peer_config.as_deref()).or_insert_with(|| {
                Arc::new(route_set(&place, config.as_ref(), inputs, &mut plan.origins, &mut plan.problems))
            });
            plan.routes.insert((instance.name.clone(), peer.name.clone()), set.clone());
        }
        let config = InstanceConfig {
            name: instance.name.clone(),
            local_asn: asn,
            router_id,
            local_port: instance.local_port,
            peers,
        };
        plan.instances.insert(instance.name.clone(), config);
    }
    plan
}

fn local_asn(instance: &NodeInstance) -> Option<Asn> {
    Asn::new(instance.local_asn?.get())
}

/// The configured one; else the node's IPv4 address; else the low 32 bits of its IPv6 address.
fn router_id(instance: &NodeInstance, node: &Node) -> Option<Ipv4Addr> {
    instance
        .router_id
        .or_else(|| node.internal_v4())
        .or_else(|| {
            let [.., a, b, c, d] = node.internal_v6()?.octets();
            Some(Ipv4Addr::new(a, b, c, d))
        })
        .filter(|id| !id.is_unspecified())
}

/// The session of a peer, with the configuration it shares with others; `None`: it cannot be tried.
fn one_peer(
    place: &str,
    peer: &NodePeer,
    inputs: &Inputs<'_>,
    problems: &mut Vec<Problem>,
) -> Option<(Arc<PeerConfig>, SpeakerPeer)> {
    let mut problem = |fatal: bool, message: String| problems.push(Problem { place: place.to_owned(), message, fatal });
    let config = match &peer.peer_config {
        None => Arc::default(),
        Some(name) => match inputs.peer_configs.get(name) {
            Some(config) => config.clone(),
            None => {
                problem(
                    true,
                    format!("CiliumBGPPeerConfig {name:?} does not exist; create it, or correct peerConfigRef"),
                );
                return None;
            }
        },
    };
    let PeerTarget::Address(address) = &peer.target else {
        problem(true, "autoDiscovery is not supported yet; set peerAddress".into());
        return None;
    };
    if let Some(interface) = &config.source_interface {
        problem(
            false,
            format!(
                "sourceInterface {interface:?} is not supported yet; routing chooses the source address, or set localAddress in a CiliumBGPNodeConfigOverride"
            ),
        );
    }
    for family in &config.unsupported_families {
        problem(
            false,
            format!("family {family} is not supported and not negotiated; only ipv4/unicast and ipv6/unicast are"),
        );
    }
    let md5_password = config.auth_secret.as_ref().map(|name| match inputs.secrets.get(name) {
        Some(secret) => Secret::clone(secret),
        None => {
            problem(true, format!("Secret {name:?} with the key \"password\" does not exist in the namespace of BGP secrets; the session stays down rather than going without password"));
            Secret::missing()
        }
    });
    let speaker_peer = SpeakerPeer {
        name: peer.name.clone(),
        address: address.ip,
        zone: address.zone.clone(),
        port: config.port,
        peer_asn: peer.asn.and_then(|a| Asn::new(a.get())),
        local_address: peer.local_address,
        connect_retry_s: config.connect_retry_s,
        hold_time_s: config.hold_time_s,
        keepalive_s: config.keepalive_s,
        ebgp_multihop: Some(config.ebgp_multihop).filter(|ttl| *ttl > 1),
        md5_password,
        graceful_restart_s: config.graceful_restart_s,
        families: config.families.iter().map(|f| wire_family(f.family)).collect(),
    };
    Some((config, speaker_peer))
}

fn wire_family(family: Family) -> WireFamily {
    match family {
        Family::Ipv4Unicast => WireFamily::IPV4_UNICAST,
        Family::Ipv6Unicast => WireFamily::IPV6_UNICAST,
    }
}

/// Everything that peers with this configuration are told.
fn route_set(
    place: &str,
    config: &PeerConfig,
    inputs: &Inputs<'_>,
    origins: &mut BTreeMap<Prefix, String>,
    problems: &mut Vec<Problem>,
) -> RouteSet {
    let mut routes = RouteSet::new();
    for family in &config.families {
        let wanted = wire_family(family.family);
        for advertisement in inputs.advertisements.iter().filter(|a| family.advertisements.matches(&a.labels)) {
            for entry in &advertisement.entries {
                let mut add = |prefix: Prefix, origin: &dyn Fn() -> String| {
                    if prefix.family() == wanted {
                        merge(routes.entry(prefix).or_default(), entry);
                        origins.entry(prefix).or_insert_with(origin);
                    }
                };
                match &entry.kind {
                    AdvertisementKind::PodCidr => {
                        for cidr in &inputs.node.pod_cidrs {
                            if let Some(prefix) = Prefix::new(cidr.addr(), cidr.prefix_len()) {
                                add(prefix, &|| "PodCIDR".into());
                            }
                        }
                    }
                    AdvertisementKind::Service { .. } => {
                        for (key, facts) in inputs.services {
                            for prefix in service_prefixes(key, facts, &entry.kind) {
                                add(prefix, &|| format!("Service {key}"));
                            }
                        }
                    }
                    AdvertisementKind::PodIpPool(_) | AdvertisementKind::Interface(_) => problems.push(Problem {
                        place: place.to_owned(),
                        message: format!(
                            "CiliumBGPAdvertisement {}: types CiliumPodIPPool and Interface are not supported yet; use PodCIDR or Service",
                            advertisement.name
                        ),
                        fatal: false,
                    }),
                }
            }
        }
    }
    routes
}

/// Overlapping advertisements add up: all communities, the greatest local preference.
fn merge(attrs: &mut RouteAttrs, entry: &AdvertisementEntry) {
    attrs.communities.extend(entry.communities.iter().map(|c| Community(*c)));
    let large = entry.large_communities.iter();
    attrs.large_communities.extend(large.map(|(global, local1, local2)| LargeCommunity {
        global: *global,
        local1: *local1,
        local2: *local2,
    }));
    attrs.local_pref = attrs.local_pref.max(entry.local_preference);
}

/// Prefixes that an entry of type Service makes of one Service.
fn service_prefixes(key: &Key, facts: &Facts, entry: &AdvertisementKind) -> Vec<Prefix> {
    let AdvertisementKind::Service { selector, addresses, aggregation_length_ipv4, aggregation_length_ipv6 } = entry
    else {
        return Vec::new();
    };
    if facts.served.is_empty() || !selector.matches_with(|label| service_label(key, facts, label)) {
        return Vec::new();
    }
    let wanted = |kind: AddressKind| match kind {
        AddressKind::LoadBalancer => facts.our_class && addresses.contains(&ServiceAddressType::LoadBalancerIp),
        AddressKind::ClusterIp => addresses.contains(&ServiceAddressType::ClusterIp),
        AddressKind::ExternalIp => addresses.contains(&ServiceAddressType::ExternalIp),
    };
    let prefix = |(kind, ip): &(AddressKind, IpAddr)| {
        let local_only = if *kind == AddressKind::ClusterIp { facts.internal_local } else { facts.external_local };
        let aggregate = if ip.is_ipv4() { aggregation_length_ipv4 } else { aggregation_length_ipv6 };
        match aggregate {
            // An aggregate would attract traffic for addresses that only other nodes serve.
            Some(len) if !local_only => Prefix::new(*ip, *len),
            _ => Some(Prefix::host(*ip)),
        }
    };
    facts.served.iter().filter(|(kind, _)| wanted(*kind)).filter_map(prefix).collect()
}

fn service_label<'a>(key: &'a Key, facts: &'a Facts, label: &str) -> Option<&'a str> {
    match label {
        SELECTOR_SERVICE_NAME => Some(&key.name),
        SELECTOR_SERVICE_NAMESPACE => Some(&key.namespace),
        _ => facts.labels.get(label).map(String::as_str),
    }
}

#[cfg(test)]
mod tests;
