//! `CiliumBGPPeerConfig`: settings of a session, shared by the peers that name it.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::patterns::{afi_schema, safi_schema};
use crate::condition::{Condition, conditions_schema};
use crate::selector::LabelSelector;

#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "cilium.io",
    version = "v2",
    kind = "CiliumBGPPeerConfig",
    plural = "ciliumbgppeerconfigs",
    shortname = "cbgppeer",
    category = "cilium",
    category = "ciliumbgp",
    status = "CiliumBGPPeerConfigStatus",
    derive = "PartialEq",
    doc = "Settings that BGP peers share."
)]
#[kube(printcolumn = r#"{"name":"Age", "type":"date", "jsonPath":".metadata.creationTimestamp"}"#)]
pub struct CiliumBGPPeerConfigSpec {
    /// Ports and source address. Absent: the defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// Timers of the session. Absent: the defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timers: Option<Timers>,
    /// Secret with the TCP MD5 password under the key `password`. Absent: no password.
    #[serde(rename = "authSecretRef", skip_serializing_if = "Option::is_none")]
    pub auth_secret_ref: Option<String>,
    /// Graceful restart (RFC 4724). Absent: off.
    #[serde(rename = "gracefulRestart", skip_serializing_if = "Option::is_none")]
    pub graceful_restart: Option<GracefulRestart>,
    /// Time to live of packets to an eBGP peer; 1 means directly connected. Ignored for iBGP.
    #[serde(rename = "ebgpMultihop", default = "one")]
    #[schemars(range(min = 1, max = 255))]
    pub ebgp_multihop: i32,
    /// Address families to negotiate and what to advertise in each. Absent: IPv4 and IPv6 unicast, nothing advertised.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub families: Vec<FamilyWithAdverts>,
}

impl Default for CiliumBGPPeerConfigSpec {
    fn default() -> Self {
        CiliumBGPPeerConfigSpec {
            transport: None,
            timers: None,
            auth_secret_ref: None,
            graceful_restart: None,
            ebgp_multihop: 1,
            families: Vec::new(),
        }
    }
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Port of the peer.
    #[serde(rename = "peerPort", default = "bgp_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub peer_port: i32,
    /// Interface whose address is the source of the session; it must have at most one usable address per family.
    #[serde(rename = "sourceInterface", skip_serializing_if = "Option::is_none")]
    pub source_interface: Option<String>,
}

impl Default for Transport {
    fn default() -> Self {
        Transport { peer_port: bgp_port(), source_interface: None }
    }
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(validation = Rule::new("self.keepAliveTimeSeconds <= self.holdTimeSeconds")
    .message("keepAliveTimeSeconds can not be larger than holdTimeSeconds"))]
pub struct Timers {
    /// Time between attempts to connect, in seconds (RFC 4271 section 8).
    #[serde(rename = "connectRetryTimeSeconds", default = "connect_retry")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub connect_retry_time_seconds: i32,
    /// Hold time that we offer, in seconds (RFC 4271 section 4.2). A change resets the session.
    #[serde(rename = "holdTimeSeconds", default = "hold_time")]
    #[schemars(range(min = 3, max = 65535))]
    pub hold_time_seconds: i32,
    /// Time between keepalives, in seconds; not above the hold time. A change resets the session.
    #[serde(rename = "keepAliveTimeSeconds", default = "keepalive")]
    #[schemars(range(min = 1, max = 65535))]
    pub keep_alive_time_seconds: i32,
}

impl Default for Timers {
    fn default() -> Self {
        Timers {
            connect_retry_time_seconds: connect_retry(),
            hold_time_seconds: hold_time(),
            keep_alive_time_seconds: keepalive(),
        }
    }
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct GracefulRestart {
    /// Whether to offer the graceful restart capability.
    pub enabled: bool,
    /// Time that the peer keeps our routes while we restart, in seconds (RFC 4724 section 4.2).
    #[serde(rename = "restartTimeSeconds", default = "restart_time")]
    #[schemars(range(min = 1, max = 4095))]
    pub restart_time_seconds: i32,
}

#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyWithAdverts {
    /// Address family.
    #[schemars(schema_with = "afi_schema")]
    pub afi: String,
    /// Subsequent address family.
    #[schemars(schema_with = "safi_schema")]
    pub safi: String,
    /// Selects the CiliumBGPAdvertisements of this family by their labels. Absent: nothing is advertised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertisements: Option<LabelSelector>,
}

#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct CiliumBGPPeerConfigStatus {
    /// What is wrong with this configuration, if anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}

fn one() -> i32 {
    1
}
/// IANA port of BGP.
fn bgp_port() -> i32 {
    179
}
fn connect_retry() -> i32 {
    120
}
fn hold_time() -> i32 {
    90
}
fn keepalive() -> i32 {
    30
}
fn restart_time() -> i32 {
    120
}
