//! What a mesh needs before it can start: a CA, certificates, the Secrets that carry them, the configuration texts that
//! agents and kvstoremesh read, and the manifests of the clustermesh-apiserver. Cilium's names throughout, so that either
//! side can be Cilium.
//!
//! Values in, values out: no clock (`now` is an argument), no cluster, no file. Keys and serial numbers come from the
//! operating system's randomness. Nothing here prints or formats a private key; what holds one is wiped when dropped.
//!
//! Not here: who is asked and what is written where (`causeway clustermesh`, the lab).

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's helpers may panic"))]

mod authority;
mod entry;
mod error;
mod leaf;
mod manifests;
mod pem;
mod plan;
mod reach;
mod side;

/// The words of its own arguments.
pub use causeway_mesh_schema::{ClusterId, ClusterName, Scale};
pub use jiff::Timestamp;
pub use zeroize::Zeroizing;

pub use authority::{Authority, Issued};
pub use entry::{Client, entry, entry_keys};
pub use error::SetupError;
pub use leaf::Leaf;
pub use manifests::{Install, ServiceType, manifests, yaml};
pub use plan::{Data, Installation, Planned, Why, plan};
pub use reach::{BadEndpoint, Endpoint, Reach};
pub use side::{Side, check_pair};

/// Names of the Secrets, all in the namespace of the installation.
pub mod secret {
    /// `ca.crt`, `ca.key`.
    pub const CA: &str = "cilium-ca";
    /// etcd's own certificate.
    pub const SERVER: &str = "clustermesh-apiserver-server-cert";
    /// The writer's: user `admin-<cluster>`.
    pub const ADMIN: &str = "clustermesh-apiserver-admin-cert";
    /// The other clusters': user `remote`.
    pub const REMOTE: &str = "clustermesh-apiserver-remote-cert";
    /// The agents' of this cluster, for the copies: user `local-<cluster>`.
    pub const LOCAL: &str = "clustermesh-apiserver-local-cert";
    /// The agents' configuration: what stands in `/var/lib/cilium/clustermesh`.
    pub const AGENTS: &str = "cilium-clustermesh";
    /// kvstoremesh's configuration, of the same form.
    pub const KVSTOREMESH: &str = "cilium-kvstoremesh";
}

/// Names of the keys in Secrets of certificates.
pub mod key {
    pub const CA_CERT: &str = "ca.crt";
    pub const CA_KEY: &str = "ca.key";
    pub const CERT: &str = "tls.crt";
    pub const KEY: &str = "tls.key";
}

/// Name of Service, Deployment, ServiceAccount and roles of the apiserver, and its pods' `k8s-app`.
pub const APISERVER: &str = "clustermesh-apiserver";

/// Where etcd listens.
pub const ETCD_PORT: u16 = 2379;
