//! What an operator asks for: instances, their peers, and the routes each peer should be told.
//! Plain values without behaviour; they come from a file (`bgp-speaker`) or from the node agent, and are diffed by
//! [`crate::Core`] against what it runs. Nothing here is learned from a peer.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use causeway_bgp_wire::{Asn, Community, Family, LargeCommunity, Prefix};

/// ConnectRetryTime, KeepaliveTime and HoldTime as CiliumBGPPeerConfig defaults them, in seconds.
pub const DEFAULT_CONNECT_RETRY_S: u32 = 120;
/// Hold time that is offered when nothing else is asked for, in seconds.
pub const DEFAULT_HOLD_TIME_S: u16 = 90;
/// Keepalive interval that goes with the default hold time, in seconds.
pub const DEFAULT_KEEPALIVE_S: u16 = 30;
/// The port of RFC 4271.
pub const BGP_PORT: u16 = 179;

/// One BGP speaker identity: an AS number, a router id and the peers that see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceConfig {
    /// Unique among the instances of a speaker.
    pub name: String,
    /// Our AS number, also towards 2-octet peers (then as AS_TRANS, RFC 6793).
    pub local_asn: Asn,
    /// The BGP identifier; must not be 0.0.0.0.
    pub router_id: Ipv4Addr,
    /// Port on which connections are accepted. `None`: we only connect out.
    pub local_port: Option<u16>,
    /// The neighbours. Names are unique; the last of two with the same name wins.
    pub peers: Vec<PeerConfig>,
}

/// One neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Unique within the instance.
    pub name: String,
    /// Where it is.
    pub address: IpAddr,
    /// Interface name for a link-local `address`.
    pub zone: Option<String>,
    /// The port it listens on.
    pub port: u16,
    /// Its AS number; `None` accepts any and learns it from the OPEN.
    pub peer_asn: Option<Asn>,
    /// Source address of our connections; `None` lets routing choose.
    pub local_address: Option<IpAddr>,
    /// Upper bound of the pause between two connection attempts, in seconds. The first retries come much sooner.
    pub connect_retry_s: u32,
    /// Hold time we offer, in seconds: 0 (no keepalives) or at least 3.
    pub hold_time_s: u16,
    /// Keepalive interval, in seconds; never more than a third of the negotiated hold time is used.
    pub keepalive_s: u16,
    /// TTL of an eBGP session; `None` is 1 (directly connected). Ignored for iBGP.
    pub ebgp_multihop: Option<u8>,
    /// TCP MD5 (RFC 2385). An empty secret stands for "asked for but not found": the session then stays Idle.
    pub md5_password: Option<Secret>,
    /// Restart time in seconds (1 to 4095) for graceful restart (RFC 4724); `None` switches it off.
    pub graceful_restart_s: Option<u16>,
    /// Address families to negotiate. Empty is read as both unicast families.
    pub families: Vec<Family>,
}

impl PeerConfig {
    /// A peer at `address` with every default of CiliumBGPPeerConfig.
    #[must_use]
    pub fn new(name: impl Into<String>, address: IpAddr) -> Self {
        Self {
            name: name.into(),
            address,
            zone: None,
            port: BGP_PORT,
            peer_asn: None,
            local_address: None,
            connect_retry_s: DEFAULT_CONNECT_RETRY_S,
            hold_time_s: DEFAULT_HOLD_TIME_S,
            keepalive_s: DEFAULT_KEEPALIVE_S,
            ebgp_multihop: None,
            md5_password: None,
            graceful_restart_s: None,
            families: vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST],
        }
    }

    /// The families to offer, without duplicates, in a fixed order.
    pub(crate) fn wanted_families(&self) -> BTreeSet<Family> {
        if self.families.is_empty() {
            return BTreeSet::from([Family::IPV4_UNICAST, Family::IPV6_UNICAST]);
        }
        self.families.iter().copied().collect()
    }

    /// Can `self` replace `old` while the session stays up?
    pub(crate) fn keeps_session_of(&self, old: &Self) -> bool {
        let same = Self { connect_retry_s: old.connect_retry_s, ..self.clone() };
        same == *old
    }
}

/// A password. It never shows itself in logs, status or `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password; an empty one means "the secret is missing".
    #[must_use]
    pub fn new(password: impl Into<String>) -> Self {
        Self(password.into())
    }

    /// The marker for a secret that was referred to but could not be read.
    #[must_use]
    pub fn missing() -> Self {
        Self(String::new())
    }

    /// True when there is nothing to authenticate with.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, for the one place that hands them to the kernel.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_missing() { "Secret(missing)" } else { "Secret(***)" })
    }
}

/// What we say about a prefix beside ORIGIN, AS_PATH and the next hop, which follow from the session.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteAttrs {
    /// RFC 1997 communities.
    pub communities: BTreeSet<Community>,
    /// RFC 8092 large communities.
    pub large_communities: BTreeSet<LargeCommunity>,
    /// Sent to iBGP peers only; they get 100 when it is `None`.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC, sent when set.
    pub med: Option<u32>,
}

/// The complete desired adj-rib-out of a peer.
pub type RouteSet = BTreeMap<Prefix, RouteAttrs>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_itself() {
        let peer = PeerConfig {
            md5_password: Some(Secret::new("hunter2")),
            ..PeerConfig::new("tor1", IpAddr::V4(Ipv4Addr::LOCALHOST))
        };
        assert!(!format!("{peer:?}").contains("hunter2"));
        assert!(Secret::missing().is_missing());
    }

    #[test]
    fn only_the_retry_pause_may_change_under_a_session() {
        let old = PeerConfig::new("tor1", IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert!(PeerConfig { connect_retry_s: 5, ..old.clone() }.keeps_session_of(&old));
        assert!(!PeerConfig { hold_time_s: 9, ..old.clone() }.keeps_session_of(&old));
        assert!(!PeerConfig { md5_password: Some(Secret::missing()), ..old.clone() }.keeps_session_of(&old));
    }
}
