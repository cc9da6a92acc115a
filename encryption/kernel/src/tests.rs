//! Tests against a kernel in memory, which knows no more of messages than include/uapi/linux/wireguard.h says.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod device;
mod encode;
mod kernel;
mod slots;
mod world;

use std::net::SocketAddr;

use causeway_encryption_plan::{Link, PeerName, PrivateKey, PublicKey};
use ipnet::IpNet;

fn private(number: u8) -> PrivateKey {
    PrivateKey::from_random([number; 32])
}

fn public(number: u8) -> PublicKey {
    // Each is worked out once: a curve costs time, and properties ask for thousands.
    static KEYS: std::sync::LazyLock<Vec<PublicKey>> =
        std::sync::LazyLock::new(|| (0..=u8::MAX).map(|number| private(number).public()).collect());
    KEYS[usize::from(number)]
}

/// `own` and `remote` are numbers of keys.
fn link(own: u8, remote: u8) -> Link {
    Link { own: public(own), remote: public(remote) }
}

fn name(number: u8) -> PeerName {
    PeerName::new("c", &format!("node{number}"))
}

fn at(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 51871))
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}
