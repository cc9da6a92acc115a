//! Checked forms of the BGP kinds. Each shape has one `TryFrom`; the first fault found rejects the object as a whole,
//! because half of a BGP configuration is worse than the last good one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use kube::ResourceExt;

use super::value::{Asn, PeerAddress, ip_address, large_community, number, port, router_id, standard_community};
use crate::cilium::bgp_advert::{
    BgpAdvertisement, BgpAttributes, CiliumBGPAdvertisement, ServiceOptions, WELL_KNOWN_COMMUNITIES,
};
use crate::cilium::bgp_cluster::{AutoDiscovery, CiliumBGPClusterConfig, CiliumBGPInstance, CiliumBGPPeer};
use crate::cilium::bgp_node::{
    CiliumBGPNodeConfig, CiliumBGPNodeConfigOverride, CiliumBGPNodeInstance, CiliumBGPNodePeer, InstanceOverride,
};
use crate::cilium::bgp_peer::{CiliumBGPPeerConfig, FamilyWithAdverts};
use crate::rejected::{Fault, Rejected};
use crate::selector::Selector;

/// Most BGP instances that one node may have (Cilium's schema).
const MOST_INSTANCES: usize = 16;

/// An address family that we speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Ipv4Unicast,
    Ipv6Unicast,
}

/// How to find a peer that has no configured address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// The next hop of the default route of this family.
    DefaultGateway(Family),
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerTarget {
    Address(PeerAddress),
    Discover(Discovery),
}

/// Checked `CiliumBGPClusterConfig`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    pub name: String,
    /// Nodes that it is for; everything when absent or empty.
    pub node_selector: Selector,
    pub instances: Vec<Instance>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    pub name: String,
    pub local_asn: Option<Asn>,
    /// None: do not listen.
    pub local_port: Option<u16>,
    pub peers: Vec<Peer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub name: String,
    pub target: PeerTarget,
    /// None: accept any.
    pub asn: Option<Asn>,
    /// Name of the CiliumBGPPeerConfig; None: defaults.
    pub peer_config: Option<String>,
}

/// Checked `CiliumBGPPeerConfig`. Its `Default` is what a peer without one has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    pub name: String,
    pub port: u16,
    pub source_interface: Option<String>,
    pub connect_retry_s: u32,
    pub hold_time_s: u16,
    pub keepalive_s: u16,
    /// Secret in the BGP secrets namespace, key `password`.
    pub auth_secret: Option<String>,
    /// None: graceful restart is off.
    pub graceful_restart_s: Option<u16>,
    /// 1: directly connected.
    pub ebgp_multihop: u8,
    pub families: Vec<FamilyAdverts>,
    /// Families that the object names and we do not speak, as `l2vpn/evpn`; they are not negotiated.
    pub unsupported_families: Vec<String>,
}

/// A family, and which CiliumBGPAdvertisements (by their labels) are sent in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyAdverts {
    pub family: Family,
    pub advertisements: Selector,
}

impl Default for PeerConfig {
    fn default() -> Self {
        let silent = |family| FamilyAdverts { family, advertisements: Selector::nothing() };
        PeerConfig {
            name: String::new(),
            port: 179,
            source_interface: None,
            connect_retry_s: 120,
            hold_time_s: 90,
            keepalive_s: 30,
            auth_secret: None,
            graceful_restart_s: None,
            ebgp_multihop: 1,
            families: vec![silent(Family::Ipv6Unicast), silent(Family::Ipv4Unicast)],
            unsupported_families: Vec::new(),
        }
    }
}

/// Checked `CiliumBGPAdvertisement`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub entries: Vec<AdvertisementEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvertisementEntry {
    pub kind: AdvertisementKind,
    /// RFC 1997 communities, well-known ones included; sorted, without repeats.
    pub communities: BTreeSet<u32>,
    /// RFC 8092 large communities.
    pub large_communities: BTreeSet<(u32, u32, u32)>,
    pub local_preference: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdvertisementKind {
    PodCidr,
    /// Selector over CiliumPodIPPools.
    PodIpPool(Selector),
    Service {
        /// Over the Service's labels, and `io.kubernetes.service.{name,namespace}`; absent selects nothing.
        selector: Selector,
        addresses: BTreeSet<ServiceAddressType>,
        aggregation_length_ipv4: Option<u8>,
        aggregation_length_ipv6: Option<u8>,
    },
    /// Addresses of the local interface of this name.
    Interface(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceAddressType {
    LoadBalancerIp,
    ClusterIp,
    ExternalIp,
}

/// Checked `CiliumBGPNodeConfig`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    pub name: String,
    pub instances: Vec<NodeInstance>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInstance {
    pub name: String,
    pub local_asn: Option<Asn>,
    pub router_id: Option<Ipv4Addr>,
    pub local_port: Option<u16>,
    pub peers: Vec<NodePeer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePeer {
    pub name: String,
    pub target: PeerTarget,
    /// None: accept any.
    pub asn: Option<Asn>,
    pub local_address: Option<IpAddr>,
    pub peer_config: Option<String>,
}

/// Checked `CiliumBGPNodeConfigOverride`, by instance name, then peer name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOverride {
    pub name: String,
    pub instances: BTreeMap<String, InstanceChange>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceChange {
    pub local_asn: Option<Asn>,
    pub router_id: Option<Ipv4Addr>,
    pub local_port: Option<u16>,
    /// Source address by peer name.
    pub local_addresses: BTreeMap<String, IpAddr>,
}

impl TryFrom<&CiliumBGPClusterConfig> for ClusterConfig {
    type Error = Rejected;

    fn try_from(object: &CiliumBGPClusterConfig) -> Result<Self, Rejected> {
        let parse = || {
            let instances = &object.spec.bgp_instances;
            count_instances(instances.len())?;
            Ok(ClusterConfig {
                name: object.name_any(),
                node_selector: Selector::or_everything(object.spec.node_selector.as_ref(), "spec.nodeSelector")?,
                instances: named_list(instances, "spec.bgpInstances", |i| &i.name, instance)?,
            })
        };
        parse().map_err(|fault: Fault| fault.of(object))
    }
}

impl TryFrom<&CiliumBGPNodeConfig> for NodeConfig {
    type Error = Rejected;

    fn try_from(object: &CiliumBGPNodeConfig) -> Result<Self, Rejected> {
        let parse = || {
            let instances = &object.spec.bgp_instances;
            count_instances(instances.len())?;
            Ok(NodeConfig {
                name: object.name_any(),
                instances: named_list(instances, "spec.bgpInstances", |i| &i.name, node_instance)?,
            })
        };
        parse().map_err(|fault: Fault| fault.of(object))
    }
}

impl TryFrom<&CiliumBGPNodeConfigOverride> for NodeOverride {
    type Error = Rejected;

    fn try_from(object: &CiliumBGPNodeConfigOverride) -> Result<Self, Rejected> {
        let parse = || {
            let instances = &object.spec.bgp_instances;
            let changes = named_list(
                instances,
                "spec.bgpInstances",
                |i| &i.name,
                |instance, field| Ok((instance.name.clone(), instance_change(instance, field)?)),
            )?;
            Ok(NodeOverride { name: object.name_any(), instances: changes.into_iter().collect() })
        };
        parse().map_err(|fault: Fault| fault.of(object))
    }
}

impl TryFrom<&CiliumBGPPeerConfig> for PeerConfig {
    type Error = Rejected;

    fn try_from(object: &CiliumBGPPeerConfig) -> Result<Self, Rejected> {
        peer_config(object).map_err(|fault| fault.of(object))
    }
}

impl TryFrom<&CiliumBGPAdvertisement> for Advertisement {
    type Error = Rejected;

    fn try_from(object: &CiliumBGPAdvertisement) -> Result<Self, Rejected> {
        let entries = object.spec.advertisements.iter().enumerate().map(|(index, entry)| {
            advertisement_entry(entry, &format!("spec.advertisements[{index}]")).map_err(|fault| fault.of(object))
        });
        Ok(Advertisement {
            name: object.name_any(),
            labels: object.labels().clone(),
            entries: entries.collect::<Result<_, _>>()?,
        })
    }
}

fn count_instances(count: usize) -> Result<(), Fault> {
    if (1..=MOST_INSTANCES).contains(&count) {
        return Ok(());
    }
    Err(Fault::new(
        "spec.bgpInstances",
        format!("has {count} instances"),
        format!("configure 1 to {MOST_INSTANCES} instances"),
    ))
}

/// Checks each of `items`, and that no two have the same name.
fn named_list<T, U>(
    items: &[T],
    field: &str,
    name: impl Fn(&T) -> &str,
    check: impl Fn(&T, &str) -> Result<U, Fault>,
) -> Result<Vec<U>, Fault> {
    let mut names = BTreeSet::new();
    let mut checked = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let name = name(item);
        if name.is_empty() || name.len() > 255 {
            return Err(Fault::new(format!("{field}.name"), "is empty or too long", "write a name of 1 to 255 bytes"));
        }
        if !names.insert(name.to_owned()) {
            return Err(Fault::new(
                format!("{field}.name"),
                format!("{name:?} is used twice"),
                "give each its own name",
            ));
        }
        checked.push(check(item, &field)?);
    }
    Ok(checked)
}

fn instance(instance: &CiliumBGPInstance, field: &str) -> Result<Instance, Fault> {
    Ok(Instance {
        name: instance.name.clone(),
        local_asn: instance.local_asn.map(|asn| Asn::parse(asn, &format!("{field}.localASN"))).transpose()?,
        local_port: instance.local_port.map(|p| port(p, &format!("{field}.localPort"))).transpose()?,
        peers: named_list(&instance.peers, &format!("{field}.peers"), |p| &p.name, peer)?,
    })
}

fn peer(peer: &CiliumBGPPeer, field: &str) -> Result<Peer, Fault> {
    Ok(Peer {
        name: peer.name.clone(),
        target: target(peer.peer_address.as_deref(), peer.auto_discovery.as_ref(), field)?,
        asn: peer_asn(peer.peer_asn, field)?,
        peer_config: peer.peer_config_ref.as_ref().map(|reference| reference.name.clone()),
    })
}

fn node_instance(instance: &CiliumBGPNodeInstance, field: &str) -> Result<NodeInstance, Fault> {
    Ok(NodeInstance {
        name: instance.name.clone(),
        local_asn: instance.local_asn.map(|asn| Asn::parse(asn, &format!("{field}.localASN"))).transpose()?,
        router_id: instance.router_id.as_deref().map(|id| router_id(id, &format!("{field}.routerID"))).transpose()?,
        local_port: instance.local_port.map(|p| port(p, &format!("{field}.localPort"))).transpose()?,
        peers: named_list(&instance.peers, &format!("{field}.peers"), |p| &p.name, node_peer)?,
    })
}

fn node_peer(peer: &CiliumBGPNodePeer, field: &str) -> Result<NodePeer, Fault> {
    let local_address =
        peer.local_address.as_deref().map(|text| ip_address(text, &format!("{field}.localAddress"))).transpose()?;
    Ok(NodePeer {
        name: peer.name.clone(),
        target: target(peer.peer_address.as_deref(), peer.auto_discovery.as_ref(), field)?,
        asn: peer_asn(peer.peer_asn.unwrap_or(0), field)?,
        local_address,
        peer_config: peer.peer_config_ref.as_ref().map(|reference| reference.name.clone()),
    })
}

/// 0 means any.
fn peer_asn(asn: i64, field: &str) -> Result<Option<Asn>, Fault> {
    number(asn, 0..=u32::MAX, &format!("{field}.peerASN"), "an autonomous system number").map(Asn::new)
}

/// A configured address wins over discovery.
fn target(address: Option<&str>, discovery: Option<&AutoDiscovery>, field: &str) -> Result<PeerTarget, Fault> {
    if let Some(address) = address {
        return PeerAddress::parse(address, &format!("{field}.peerAddress")).map(PeerTarget::Address);
    }
    let Some(discovery) = discovery else {
        return Err(Fault::new(
            format!("{field}.peerAddress"),
            "is missing, and so is autoDiscovery",
            "set one of peerAddress and autoDiscovery",
        ));
    };
    if discovery.mode != "DefaultGateway" {
        return Err(Fault::new(
            format!("{field}.autoDiscovery.mode"),
            format!("{:?} is not supported", discovery.mode),
            "use DefaultGateway, or set peerAddress",
        ));
    }
    let family = discovery.default_gateway.as_ref().map(|gateway| gateway.address_family.as_str());
    match family {
        Some("ipv4") => Ok(PeerTarget::Discover(Discovery::DefaultGateway(Family::Ipv4Unicast))),
        Some("ipv6") => Ok(PeerTarget::Discover(Discovery::DefaultGateway(Family::Ipv6Unicast))),
        other => Err(Fault::new(
            format!("{field}.autoDiscovery.defaultGateway.addressFamily"),
            format!("{:?} is not a family", other.unwrap_or_default()),
            "write ipv4 or ipv6",
        )),
    }
}

fn instance_change(instance: &InstanceOverride, field: &str) -> Result<InstanceChange, Fault> {
    let addresses = named_list(
        &instance.peers,
        &format!("{field}.peers"),
        |p| &p.name,
        |peer, field| {
            let address = peer.local_address.as_deref().map(|text| ip_address(text, &format!("{field}.localAddress")));
            Ok(address.transpose()?.map(|address| (peer.name.clone(), address)))
        },
    )?;
    Ok(InstanceChange {
        local_asn: instance.local_asn.map(|asn| Asn::parse(asn, &format!("{field}.localASN"))).transpose()?,
        router_id: instance.router_id.as_deref().map(|id| router_id(id, &format!("{field}.routerID"))).transpose()?,
        local_port: instance.local_port.map(|p| port(p, &format!("{field}.localPort"))).transpose()?,
        local_addresses: addresses.into_iter().flatten().collect(),
    })
}

fn peer_config(object: &CiliumBGPPeerConfig) -> Result<PeerConfig, Fault> {
    let spec = &object.spec;
    let transport = spec.transport.clone().unwrap_or_default();
    let timers = spec.timers.clone().unwrap_or_default();
    let seconds = |value: i32, least: u16, most: u16, field: &str| {
        number(i64::from(value), least..=most, field, "a time in seconds that is allowed here")
    };
    let hold_time_s = seconds(timers.hold_time_seconds, 3, u16::MAX, "spec.timers.holdTimeSeconds")?;
    let keepalive_s = seconds(timers.keep_alive_time_seconds, 1, u16::MAX, "spec.timers.keepAliveTimeSeconds")?;
    if keepalive_s > hold_time_s {
        return Err(Fault::new(
            "spec.timers.keepAliveTimeSeconds",
            format!("{keepalive_s} is above holdTimeSeconds {hold_time_s}"),
            format!("write at most a third of the hold time: {}", (hold_time_s / 3).max(1)),
        ));
    }
    let graceful_restart_s = match &spec.graceful_restart {
        Some(restart) if restart.enabled => {
            Some(seconds(restart.restart_time_seconds, 1, 4095, "spec.gracefulRestart.restartTimeSeconds")?)
        }
        _ => None,
    };
    let (families, unsupported_families) = families(&spec.families)?;
    Ok(PeerConfig {
        name: object.name_any(),
        port: port(transport.peer_port, "spec.transport.peerPort")?,
        source_interface: transport.source_interface.filter(|name| !name.is_empty()),
        connect_retry_s: number(
            i64::from(timers.connect_retry_time_seconds),
            1..=i32::MAX.unsigned_abs(),
            "spec.timers.connectRetryTimeSeconds",
            "a time in seconds",
        )?,
        hold_time_s,
        keepalive_s,
        auth_secret: spec.auth_secret_ref.clone().filter(|name| !name.is_empty()),
        graceful_restart_s,
        ebgp_multihop: number(i64::from(spec.ebgp_multihop), 1..=u8::MAX, "spec.ebgpMultihop", "a time to live")?,
        families,
        unsupported_families,
    })
}

/// The families that we speak, and the names of the others. None given: both, silent.
fn families(families: &[FamilyWithAdverts]) -> Result<(Vec<FamilyAdverts>, Vec<String>), Fault> {
    if families.is_empty() {
        return Ok((PeerConfig::default().families, Vec::new()));
    }
    let mut spoken: Vec<FamilyAdverts> = Vec::new();
    let mut unsupported = Vec::new();
    for (index, entry) in families.iter().enumerate() {
        let field = format!("spec.families[{index}]");
        let family = match (entry.afi.as_str(), entry.safi.as_str()) {
            ("ipv4", "unicast") => Family::Ipv4Unicast,
            ("ipv6", "unicast") => Family::Ipv6Unicast,
            (afi, safi) => {
                unsupported.push(format!("{afi}/{safi}"));
                continue;
            }
        };
        if spoken.iter().any(|other| other.family == family) {
            return Err(Fault::new(
                field,
                format!("{}/{} is given twice", entry.afi, entry.safi),
                "write each family once, with one selector",
            ));
        }
        let advertisements = Selector::or_nothing(entry.advertisements.as_ref(), &format!("{field}.advertisements"))?;
        spoken.push(FamilyAdverts { family, advertisements });
    }
    Ok((spoken, unsupported))
}

fn advertisement_entry(entry: &BgpAdvertisement, field: &str) -> Result<AdvertisementEntry, Fault> {
    let kind = advertisement_kind(entry, field)?;
    let (communities, large_communities, local_preference) =
        entry.attributes.as_ref().map_or(Ok(Default::default()), |a| attributes(a, &format!("{field}.attributes")))?;
    Ok(AdvertisementEntry { kind, communities, large_communities, local_preference })
}

fn advertisement_kind(entry: &BgpAdvertisement, field: &str) -> Result<AdvertisementKind, Fault> {
    let type_ = entry.advertisement_type.as_str();
    let misplaced = |name: &str| {
        Err(Fault::new(format!("{field}.{name}"), format!("is not for advertisementType {type_}"), "remove it"))
    };
    if entry.service.is_some() && type_ != "Service" {
        return misplaced("service");
    }
    if entry.interface.is_some() && type_ != "Interface" {
        return misplaced("interface");
    }
    let selector = || Selector::or_nothing(entry.selector.as_ref(), &format!("{field}.selector"));
    match (type_, &entry.service, &entry.interface) {
        ("PodCIDR", ..) if entry.selector.is_some() => misplaced("selector"),
        ("PodCIDR", ..) => Ok(AdvertisementKind::PodCidr),
        ("CiliumPodIPPool", ..) => Ok(AdvertisementKind::PodIpPool(selector()?)),
        ("Service", Some(service), _) => service_kind(service, selector()?, &format!("{field}.service")),
        ("Interface", _, Some(interface)) => Ok(AdvertisementKind::Interface(interface.name.clone())),
        ("Service", None, _) => Err(Fault::new(
            format!("{field}.service"),
            "is missing",
            "say which addresses to advertise, as service: {addresses: [LoadBalancerIP]}",
        )),
        ("Interface", _, None) => {
            Err(Fault::new(format!("{field}.interface"), "is missing", "name the interface, as interface: {name: lo}"))
        }
        (other, ..) => Err(Fault::new(
            format!("{field}.advertisementType"),
            format!("{other:?} is unknown"),
            "use PodCIDR, CiliumPodIPPool, Service or Interface",
        )),
    }
}

fn service_kind(service: &ServiceOptions, selector: Selector, field: &str) -> Result<AdvertisementKind, Fault> {
    let addresses = service.addresses.iter().enumerate().map(|(index, address)| match address.as_str() {
        "LoadBalancerIP" => Ok(ServiceAddressType::LoadBalancerIp),
        "ClusterIP" => Ok(ServiceAddressType::ClusterIp),
        "ExternalIP" => Ok(ServiceAddressType::ExternalIp),
        other => Err(Fault::new(
            format!("{field}.addresses[{index}]"),
            format!("{other:?} is unknown"),
            "use LoadBalancerIP, ClusterIP or ExternalIP",
        )),
    });
    let addresses: BTreeSet<ServiceAddressType> = addresses.collect::<Result<_, _>>()?;
    if addresses.is_empty() {
        return Err(Fault::new(format!("{field}.addresses"), "is empty", "name at least one kind of address"));
    }
    let length = |value: Option<i32>, most: u8, name: &str| {
        value.map(|v| number(i64::from(v), 0..=most, &format!("{field}.{name}"), "a prefix length")).transpose()
    };
    Ok(AdvertisementKind::Service {
        selector,
        addresses,
        aggregation_length_ipv4: length(service.aggregation_length_ipv4, 31, "aggregationLengthIPv4")?,
        aggregation_length_ipv6: length(service.aggregation_length_ipv6, 127, "aggregationLengthIPv6")?,
    })
}

type Attributes = (BTreeSet<u32>, BTreeSet<(u32, u32, u32)>, Option<u32>);

fn attributes(attributes: &BgpAttributes, field: &str) -> Result<Attributes, Fault> {
    let mut standard = BTreeSet::new();
    let mut large = BTreeSet::new();
    if let Some(communities) = &attributes.communities {
        let field = format!("{field}.communities");
        for (index, text) in communities.standard.iter().enumerate() {
            standard.insert(standard_community(text, &format!("{field}.standard[{index}]"))?);
        }
        for (index, name) in communities.well_known.iter().enumerate() {
            let known = WELL_KNOWN_COMMUNITIES.iter().find(|(known, _)| known == name);
            let (_, value) = known.ok_or_else(|| {
                let names: Vec<&str> = WELL_KNOWN_COMMUNITIES.iter().map(|(name, _)| *name).collect();
                Fault::new(
                    format!("{field}.wellKnown[{index}]"),
                    format!("{name:?} is not a well-known community"),
                    format!("use one of {}, or a number under standard", names.join(", ")),
                )
            })?;
            standard.insert(*value);
        }
        for (index, text) in communities.large.iter().enumerate() {
            large.insert(large_community(text, &format!("{field}.large[{index}]"))?);
        }
    }
    let preference = attributes
        .local_preference
        .map(|value| number(value, 0..=u32::MAX, &format!("{field}.localPreference"), "a local preference"))
        .transpose()?;
    Ok((standard, large, preference))
}

#[cfg(test)]
mod tests;
