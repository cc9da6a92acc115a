//! BGP as the CLI shows it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// An address family of unicast routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Ipv4,
    Ipv6,
}

/// One session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    pub node: String,
    pub instance: String,
    /// The peer's name in CiliumBGPNodeConfig.
    pub peer: String,
    pub local_asn: u32,
    /// 0: whatever the peer says, and no session yet.
    pub peer_asn: u32,
    pub peer_address: IpAddr,
    pub peer_port: u16,
    /// `idle`, `connect`, `active`, `open_sent`, `open_confirm`, `established`.
    pub state: String,
    /// Seconds since the session was established.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_s: Option<u64>,
    pub applied_hold_time_s: u32,
    pub applied_keepalive_s: u32,
    pub graceful_restart: bool,
    pub families: Vec<PeerFamily>,
    /// Prefixes withdrawn by message since the agent started.
    pub withdrawals_sent: u64,
    /// Why the session is down, or why it last went down.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_error: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFamily {
    pub family: Family,
    pub received: u64,
    pub advertised: u64,
}

/// Which routes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteTable {
    /// What the node has to advertise, per instance.
    #[default]
    Available,
    /// What each peer was sent.
    Advertised,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutesParams {
    #[serde(default)]
    pub table: RouteTable,
    /// Both when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// A peer's name or address; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    pub node: String,
    pub instance: String,
    /// The router's own ASN: Cilium's "VRouter".
    pub local_asn: u32,
    /// Present in the advertised table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_address: Option<IpAddr>,
    pub prefix: IpNet,
    /// Unspecified address: the session's own address ("next hop self").
    pub next_hop: IpAddr,
    /// `65000:1`, `no-export`, `64512:1:2`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_pref: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub med: Option<u32>,
    /// Why it is advertised: `PodCIDR`, or `Service ns/name`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub origin: String,
}
