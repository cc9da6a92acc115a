//! What can be seen from outside: states, negotiated values, counters. Snapshots; nobody decides from them in here.
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use causeway_bgp_wire::{Asn, Family};

/// The six states of RFC 4271 section 8.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionState {
    /// Not trying: stopped, misconfigured or held back after a failure.
    Idle,
    /// A TCP connection is being made.
    Connect,
    /// Waiting for the next attempt, ready to accept.
    Active,
    /// Connected, our OPEN is out.
    OpenSent,
    /// Both OPENs are exchanged.
    OpenConfirm,
    /// Routes flow.
    Established,
}

impl SessionState {
    /// The name as the RFC and Cilium's `peeringState` (in lower case) write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::Active => "Active",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        }
    }
}

impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Everything about all instances at one moment.
#[derive(Clone, Debug)]
pub struct SpeakerStatus {
    /// A moment on both clocks, to turn the [`Instant`]s below into wall-clock time.
    pub epoch: (Instant, SystemTime),
    /// By instance name.
    pub instances: BTreeMap<String, InstanceStatus>,
}

impl SpeakerStatus {
    /// The wall-clock time of `at`.
    #[must_use]
    pub fn wall_clock(&self, at: Instant) -> SystemTime {
        let (instant, time) = self.epoch;
        match at.checked_duration_since(instant) {
            Some(later) => time + later,
            None => time - instant.duration_since(at),
        }
    }

    /// One peer, if it exists.
    #[must_use]
    pub fn peer(&self, instance: &str, peer: &str) -> Option<&PeerStatus> {
        self.instances.get(instance)?.peers.get(peer)
    }
}

/// One instance.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceStatus {
    /// Our AS number.
    pub local_asn: Asn,
    /// Our BGP identifier.
    pub router_id: Ipv4Addr,
    /// The port we accept on, if any.
    pub local_port: Option<u16>,
    /// Why we cannot accept on it.
    pub listen_error: Option<String>,
    /// The inputs have synced, so End-of-RIB may go out.
    pub routes_complete: bool,
    /// By peer name.
    pub peers: BTreeMap<String, PeerStatus>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerStatus {
    /// Where it is configured to be.
    pub address: IpAddr,
    /// The configured AS number; the real one is in `negotiated`.
    pub configured_asn: Option<Asn>,
    /// Where the session stands.
    pub state: SessionState,
    /// When it entered `state`.
    pub since: Instant,
    /// Why it is not Established, in words for an operator; the last failure stays visible until the next success.
    pub reason: Option<String>,
    /// How often the session has been lost after it was Established.
    pub flaps: u64,
    /// What both OPENs agreed on; present from OpenConfirm on.
    pub negotiated: Option<NegotiatedStatus>,
    /// The last NOTIFICATION the peer sent us.
    pub last_received: Option<NotificationStatus>,
    /// The last NOTIFICATION we sent.
    pub last_sent: Option<NotificationStatus>,
    /// One row per configured family.
    pub families: Vec<FamilyStatus>,
    /// Messages since the peer was configured.
    pub counters: Counters,
}

impl PeerStatus {
    /// Prefixes the peer has been told, over all families.
    #[must_use]
    pub fn advertised(&self) -> u64 {
        self.families.iter().map(|f| f.advertised).sum()
    }

    /// Have all desired routes been handed to the connection?
    #[must_use]
    pub fn in_sync(&self) -> bool {
        self.state == SessionState::Established && self.families.iter().all(|f| f.pending == 0)
    }
}

/// What both OPENs agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NegotiatedStatus {
    /// Our end of the connection.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// The peer's real AS number.
    pub peer_asn: Asn,
    /// The peer's BGP identifier.
    pub peer_id: Ipv4Addr,
    /// The smaller of both hold times.
    pub hold_time: Duration,
    /// The interval of our keepalives.
    pub keepalive: Duration,
    /// The capabilities both sides have, by name, in a fixed order.
    pub capabilities: Vec<&'static str>,
    /// The peer's host name (FQDN capability).
    pub peer_hostname: Option<String>,
    /// The peer's software (software version capability).
    pub peer_software: Option<String>,
    /// The restart time that the peer announced, in seconds, if it does graceful restart.
    pub peer_restart_time_s: Option<u16>,
    /// The peer set the R bit: it has just restarted.
    pub peer_restarting: bool,
}

/// One NOTIFICATION.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotificationStatus {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// The names of both and, for a shutdown, the text of RFC 9003.
    pub text: String,
    /// When.
    pub at: Instant,
}

/// One family of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyStatus {
    /// Which.
    pub family: Family,
    /// Both sides have it.
    pub negotiated: bool,
    /// Prefixes the peer has been told.
    pub advertised: u64,
    /// Announcements and withdrawals that are not yet on their way.
    pub pending: u64,
    /// Prefixes the peer has told us; they are counted, not installed.
    pub received: u64,
    /// False when the peer sent more than we count (`MAX_COUNTED_PREFIXES`): then `received` is a lower bound.
    pub received_exact: bool,
    /// End-of-RIB has been sent on this session.
    pub end_of_rib_sent: bool,
    /// End-of-RIB has been received on this session.
    pub end_of_rib_received: bool,
    /// The next hop we send.
    pub next_hop: Option<IpAddr>,
    /// Why nothing of this family is advertised.
    pub not_advertised: Option<String>,
}

/// Message counters of a peer, since it was configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// OPEN messages received.
    pub opens_in: u64,
    /// OPEN messages sent.
    pub opens_out: u64,
    /// UPDATE messages received.
    pub updates_in: u64,
    /// UPDATE messages sent.
    pub updates_out: u64,
    /// KEEPALIVE messages received.
    pub keepalives_in: u64,
    /// KEEPALIVE messages sent.
    pub keepalives_out: u64,
    /// NOTIFICATION messages received.
    pub notifications_in: u64,
    /// NOTIFICATION messages sent.
    pub notifications_out: u64,
    /// ROUTE-REFRESH messages received.
    pub refreshes_in: u64,
    /// Prefixes announced, counting every announcement.
    pub announcements_out: u64,
    /// Prefixes withdrawn, counting every withdrawal.
    pub withdrawals_out: u64,
    /// Malformed UPDATEs that were treated as withdrawals, or had attributes discarded (RFC 7606).
    pub malformed_updates_in: u64,
}
