//! Encryption between nodes, as the CLI shows it.

use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionStatus {
    pub node: String,
    /// False: traffic between nodes is not encrypted, and everything below is empty.
    pub enabled: bool,
    /// What the nodes themselves send to each other is encrypted too.
    pub node_encryption: bool,
    /// Pods can start: device, guard and routes are in place.
    pub ready: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub not_ready: String,
    /// Kind of device, and why this one.
    pub backend: String,
    pub device: Device,
    /// Own keys, oldest first.
    pub keys: Vec<Key>,
    /// `steady`, `making`, `warming`, `draining`.
    pub phase: String,
    /// Peers that a rotation under way waits for.
    pub lagging: Vec<String>,
    pub guard: Guard,
    /// Packets that the device refused.
    pub refused: Refused,
    pub peers: Vec<Peer>,
    /// What cannot be used or done, in words.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub name: String,
    pub ifindex: u32,
    pub port: u16,
    pub mtu: u32,
    /// Why it is not there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub gone: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    pub epoch: u32,
    pub public_key: String,
    /// `previous`, `current`, `next`.
    pub role: String,
    pub age_s: u64,
}

/// What keeps packets from the wire in plaintext.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Guard {
    /// Ranges that are guarded, or exempt.
    pub rows: usize,
    /// Interfaces that carry it in both directions.
    pub links: Vec<String>,
    /// Packets that were about to leave in plaintext.
    pub unencrypted_traffic: u64,
    /// Packets that came in plaintext.
    pub plaintext_refused: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// To an address that no peer has.
    pub no_peer: u64,
    /// Datagrams that belong to no peer.
    pub strangers: u64,
    pub malformed: u64,
    /// Datagrams that the socket did not take.
    pub unsent: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A session stands.
    Encrypted,
    /// There was a session, and nobody needs one now, or nobody answers; nothing is sent in the clear.
    NoSession,
    NoHandshakeYet,
    NoKeyAnnounced,
    /// Its keys cannot be used.
    Refused,
    /// Its cluster is not encrypted.
    OffByPolicy,
}

impl Verdict {
    pub const fn words(self) -> &'static str {
        match self {
            Verdict::Encrypted => "encrypted",
            Verdict::NoSession => "no session",
            Verdict::NoHandshakeYet => "no handshake yet",
            Verdict::NoKeyAnnounced => "no key announced",
            Verdict::Refused => "refused",
            Verdict::OffByPolicy => "off by policy",
        }
    }
}

/// Another node, as `cluster/node`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    pub name: String,
    pub verdict: Verdict,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Where it was last heard from, or is looked for.
    pub endpoint: Option<SocketAddr>,
    /// Its key that packets are sent with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub public_key: String,
    /// The number of that key, and of ours, where they have one.
    pub epoch: Option<u32>,
    pub own_epoch: Option<u32>,
    /// Pairs of keys that packets are taken with.
    pub links: usize,
    /// Since the last handshake of a session that stands.
    pub handshake_age_s: Option<u64>,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    /// Completed handshakes since the agent started to count.
    pub handshakes: u64,
    /// Those after the first.
    pub rekeys: u64,
    pub failures: u64,
    pub replays: u64,
    /// Packets with a source that is not the peer's.
    pub source_refused: u64,
    pub prefixes: Vec<IpNet>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateParams {
    /// Another node of this cluster; this one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// All nodes of this cluster.
    #[serde(default)]
    pub all: bool,
}

/// What became of the wish for a new key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    pub node: String,
    /// Why not; empty: the key is being made, or the node has been asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}
