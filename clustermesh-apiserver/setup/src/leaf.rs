//! Whom a certificate is for. The CN is the etcd user.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use causeway_mesh_schema::ClusterName;
use jiff::SignedDuration;

use crate::{APISERVER, secret};

/// How long a leaf is valid; never longer than its CA.
pub(crate) const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// How long a CA is valid, as Cilium's.
pub(crate) const CA_LIFE: SignedDuration = SignedDuration::from_hours(3 * 365 * 24);
/// What expires within this time is renewed.
pub(crate) const RENEW_WITHIN: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Clocks of two clusters may differ by as much.
pub(crate) const SKEW: SignedDuration = SignedDuration::from_mins(5);

/// A certificate to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The Secret that carries it.
    pub secret: &'static str,
    pub common_name: String,
    /// DNS names and addresses; none for a client.
    pub names: Vec<String>,
}

impl Leaf {
    /// etcd's own. `more` are names or addresses beside those that every installation has: `*.mesh.cilium.io`, which other
    /// clusters use, the Service's name, and the loopback.
    #[must_use]
    pub fn server(namespace: &str, more: &[String]) -> Leaf {
        let common_name = format!("{APISERVER}.cilium.io");
        let fixed = [common_name.clone(), "*.mesh.cilium.io".to_owned(), service_name(namespace)];
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)].map(|ip| ip.to_string());
        let names = fixed.into_iter().chain(loopback).chain(more.iter().cloned()).collect();
        Leaf { secret: secret::SERVER, common_name, names }
    }

    /// Writes everything.
    #[must_use]
    pub fn admin(cluster: &ClusterName) -> Leaf {
        Leaf::client(secret::ADMIN, format!("admin-{cluster}"))
    }

    /// Reads the cluster's state from another cluster.
    #[must_use]
    pub fn remote() -> Leaf {
        Leaf::client(secret::REMOTE, "remote".to_owned())
    }

    /// Reads the copies of other clusters.
    #[must_use]
    pub fn local(cluster: &ClusterName) -> Leaf {
        Leaf::client(secret::LOCAL, format!("local-{cluster}"))
    }

    fn client(secret: &'static str, common_name: String) -> Leaf {
        Leaf { secret, common_name, names: Vec::new() }
    }

    pub(crate) fn is_server(&self) -> bool {
        !self.names.is_empty()
    }
}

/// The name by which a cluster's own agents reach its etcd.
pub(crate) fn service_name(namespace: &str) -> String {
    format!("{APISERVER}.{namespace}.svc")
}
