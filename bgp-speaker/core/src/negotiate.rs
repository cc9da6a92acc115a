//! From both OPENs to what a session is: timers, context of the codec, capabilities in common.
use std::net::IpAddr;
use std::time::Duration;

use causeway_bgp_wire::{
    Afi, Asn, Capability, ExtendedNextHop, Family, GracefulFamily, GracefulRestart, HoldTime, NextHop, Open, PeerKind,
    RouterId, SessionContext,
};

use crate::config::{InstanceConfig, PeerConfig};
use crate::session::{Endpoints, Link};
use crate::status::NegotiatedStatus;

/// The restart time is a field of 12 bits.
const MAX_RESTART_TIME_S: u16 = 4095;

/// What both sides agreed on.
#[derive(Clone, Debug)]
pub(crate) struct Negotiated {
    pub(crate) context: SessionContext,
    pub(crate) endpoints: Endpoints,
    pub(crate) peer_asn: Asn,
    pub(crate) peer_id: RouterId,
    pub(crate) hold: Duration,
    pub(crate) keepalive: Duration,
    /// Both announced graceful restart.
    pub(crate) graceful_restart: bool,
    /// Both set the N bit (RFC 8538), so that only a Hard Reset ends what the peer keeps.
    pub(crate) notification_restart: bool,
    capabilities: Vec<&'static str>,
    peer_hostname: Option<String>,
    peer_software: Option<String>,
    peer_graceful: Option<GracefulRestart>,
}

impl Negotiated {
    pub(crate) fn new(link: &Link, theirs: &Open, keepalive: Duration) -> Self {
        let ours = &link.open;
        let hold = Duration::from_secs(u64::from(ours.hold_time.min(theirs.hold_time).seconds()));
        let peer_graceful = theirs.graceful_restart().cloned();
        let both_graceful = ours.graceful_restart().zip(peer_graceful.as_ref());
        Self {
            context: SessionContext::negotiate(ours, theirs),
            endpoints: link.endpoints,
            peer_asn: theirs.asn,
            peer_id: theirs.router_id,
            hold,
            keepalive: if hold.is_zero() { hold } else { keepalive.min(hold / 3).max(Duration::from_secs(1)) },
            graceful_restart: both_graceful.is_some(),
            notification_restart: both_graceful.is_some_and(|(ours, theirs)| ours.notification && theirs.notification),
            capabilities: in_common(ours, theirs),
            peer_hostname: theirs.capabilities.iter().find_map(|capability| match capability {
                Capability::Fqdn { host, domain } if domain.is_empty() => Some(host.clone()),
                Capability::Fqdn { host, domain } => Some(format!("{host}.{domain}")),
                _ => None,
            }),
            peer_software: theirs.capabilities.iter().find_map(|capability| match capability {
                Capability::SoftwareVersion(text) => Some(text.clone()),
                _ => None,
            }),
            peer_graceful,
        }
    }

    pub(crate) fn has_family(&self, family: Family) -> bool {
        self.context.families.contains(&family)
    }

    pub(crate) fn status(&self) -> NegotiatedStatus {
        NegotiatedStatus {
            local: self.endpoints.local,
            remote: self.endpoints.remote,
            peer_asn: self.peer_asn,
            peer_id: self.peer_id.address(),
            hold_time: self.hold,
            keepalive: self.keepalive,
            capabilities: self.capabilities.clone(),
            peer_hostname: self.peer_hostname.clone(),
            peer_software: self.peer_software.clone(),
            peer_restart_time_s: self.peer_graceful.as_ref().map(|graceful| graceful.restart_time_s),
            peer_restarting: self.peer_restarting(),
        }
    }

    /// The peer set the R bit: it has just restarted.
    pub(crate) fn peer_restarting(&self) -> bool {
        self.peer_graceful.as_ref().is_some_and(|graceful| graceful.restarting)
    }
}

/// The names of the capabilities that both sides announced.
fn in_common(ours: &Open, theirs: &Open) -> Vec<&'static str> {
    let has = |open: &Open, code: u8| open.capabilities.iter().any(|capability| capability.code() == code);
    let both = |code: u8| has(ours, code) && has(theirs, code);
    let mut names = Vec::new();
    for (family, name) in [(Family::IPV4_UNICAST, "ipv4-unicast"), (Family::IPV6_UNICAST, "ipv6-unicast")] {
        if ours.families().contains(&family) && theirs.families().contains(&family) {
            names.push(name);
        }
    }
    // Codes: IANA registry "Capability Codes".
    for (code, name) in [
        (2, "route-refresh"),
        (5, "extended-nexthop"),
        (6, "extended-message"),
        (64, "graceful-restart"),
        (65, "4-octet-as"),
        (73, "fqdn"),
        (75, "software-version"),
    ] {
        if both(code) {
            names.push(name);
        }
    }
    names
}

/// What an OPEN says about a restart of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RestartBits {
    /// R bit.
    pub(crate) restarting: bool,
    /// F bit of every family.
    pub(crate) forwarding_preserved: bool,
}

/// Our OPEN to a peer. `None` when the configuration cannot be said on the wire; [`check`] says why.
pub(crate) fn our_open(
    instance: &InstanceConfig,
    peer: &PeerConfig,
    bits: RestartBits,
    hostname: &str,
    software: &str,
) -> Option<Open> {
    let families = peer.wanted_families();
    let mut capabilities: Vec<Capability> = families.iter().copied().map(Capability::Multiprotocol).collect();
    capabilities.push(Capability::RouteRefresh);
    if families.contains(&Family::IPV4_UNICAST) {
        let v4_over_v6 = ExtendedNextHop { family: Family::IPV4_UNICAST, next_hop: Afi::IPV6 };
        capabilities.push(Capability::ExtendedNextHop(vec![v4_over_v6]));
    }
    capabilities.push(Capability::ExtendedMessage);
    if let Some(restart_time_s) = peer.graceful_restart_s {
        let preserved = |family| GracefulFamily { family, forwarding_preserved: bits.forwarding_preserved };
        capabilities.push(Capability::GracefulRestart(GracefulRestart {
            restarting: bits.restarting,
            notification: true,
            restart_time_s: restart_time_s.min(MAX_RESTART_TIME_S),
            families: families.iter().copied().map(preserved).collect(),
        }));
    }
    capabilities.push(Capability::FourOctetAs(instance.local_asn));
    if !hostname.is_empty() {
        capabilities.push(Capability::Fqdn { host: cut(hostname, 64), domain: String::new() });
    }
    if !software.is_empty() {
        capabilities.push(Capability::SoftwareVersion(cut(software, 64)));
    }
    Some(Open {
        asn: instance.local_asn,
        hold_time: HoldTime::new(peer.hold_time_s)?,
        router_id: RouterId::new(instance.router_id)?,
        capabilities,
    })
}

fn cut(text: &str, octets: usize) -> String {
    text[..text.floor_char_boundary(octets)].to_owned()
}

/// Why a peer cannot be spoken to at all, in words that name the remedy.
pub(crate) fn check(instance: &InstanceConfig, peer: &PeerConfig) -> Option<String> {
    if instance.router_id.is_unspecified() {
        return Some("the router ID is 0.0.0.0: set an IPv4 address that is unique in the network".to_owned());
    }
    if HoldTime::new(peer.hold_time_s).is_none() {
        return Some(format!("a hold time of {} s is not allowed: set 0 or at least 3", peer.hold_time_s));
    }
    if peer.md5_password.as_ref().is_some_and(crate::config::Secret::is_missing) {
        return Some(
            "the MD5 password is missing or empty: create the secret; there is no session without it".to_owned(),
        );
    }
    if peer.address.is_unspecified() || peer.address.is_multicast() {
        return Some(format!("{} is no address of a peer: set its unicast address", peer.address));
    }
    let families: Vec<Family> = peer.wanted_families().into_iter().filter(|family| !family.is_supported()).collect();
    if let Some(family) = families.first() {
        return Some(format!("family {family} is not supported: use ipv4-unicast or ipv6-unicast"));
    }
    if let Some(local) = peer.local_address
        && local.is_ipv4() != peer.address.is_ipv4()
    {
        return Some(format!("local address {local} and peer address {} are of different families", peer.address));
    }
    None
}

/// The addresses of the interface that holds our end of a connection, for next hops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalAddresses {
    /// An IPv4 address of that interface.
    pub v4: Option<std::net::Ipv4Addr>,
    /// A global IPv6 address of that interface.
    pub v6: Option<std::net::Ipv6Addr>,
    /// Its IPv6 link-local address.
    pub v6_link_local: Option<std::net::Ipv6Addr>,
}

/// The next hop for `family`: our end of the session for its own family; the other address of the same interface for the
/// other family; an IPv6 one for IPv4 where the peer takes it (RFC 8950). Or why there is none.
pub(crate) fn next_hop(agreed: &Negotiated, addresses: &LocalAddresses, family: Family) -> Result<NextHop, String> {
    if !agreed.has_family(family) {
        return Err("the peer did not announce this family".to_owned());
    }
    let local = agreed.endpoints.local.ip();
    let v6 = match local {
        IpAddr::V6(own) if own.is_unicast_link_local() => addresses.v6,
        IpAddr::V6(own) => Some(own),
        IpAddr::V4(_) => addresses.v6,
    };
    let v6 = v6.map(|global| NextHop::V6 { global, link_local: link_local(agreed, addresses, local) });
    let v4 = match local {
        IpAddr::V4(own) => Some(own),
        IpAddr::V6(_) => addresses.v4,
    };
    if family == Family::IPV6_UNICAST {
        return v6.ok_or_else(|| no_address(local, "IPv6", "give that interface a global IPv6 address"));
    }
    if let Some(v4) = v4 {
        return Ok(NextHop::V4(v4));
    }
    if agreed.context.allows_next_hop(family, Afi::IPV6) {
        return v6.ok_or_else(|| no_address(local, "IPv4 or global IPv6", "give that interface one"));
    }
    Err(no_address(local, "IPv4", "give it one, or enable extended next hop (RFC 8950) at the peer"))
}

/// RFC 2545 section 3: the link-local address goes along only on a shared link, which we know of a link-local session.
fn link_local(agreed: &Negotiated, addresses: &LocalAddresses, local: IpAddr) -> Option<std::net::Ipv6Addr> {
    let shared = matches!(agreed.endpoints.remote.ip(), IpAddr::V6(remote) if remote.is_unicast_link_local());
    match local {
        IpAddr::V6(own) if own.is_unicast_link_local() => Some(own),
        _ if shared => addresses.v6_link_local,
        _ => None,
    }
}

fn no_address(local: IpAddr, what: &str, remedy: &str) -> String {
    format!("no next hop: the interface with our address {local} has no {what} address: {remedy}")
}

/// True when the peer is in another AS.
pub(crate) fn is_external(agreed: &Negotiated) -> bool {
    agreed.context.peer == PeerKind::External
}
