//! A pod that the CNI verbs attached to this node. Written by `cni`, which also keeps it on disk; the identity is found
//! by `control::identity` and handed back through [`crate::cni::Cni::set_identity`].

use std::net::{Ipv4Addr, Ipv6Addr};

use causeway_api::cni::{Attachment, PodRef};
use serde::{Deserialize, Serialize};

/// Identity of a pod whose labels are not yet known.
pub(crate) const IDENTITY_INIT: u32 = 5;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LocalEndpoint {
    /// Node-local, never 0: the CiliumEndpoint's `status.id`.
    pub(crate) id: u16,
    pub(crate) attachment: Attachment,
    pub(crate) pod: PodRef,
    /// Path of the pod's network namespace.
    pub(crate) netns: String,
    pub(crate) ipv4: Option<Ipv4Addr>,
    pub(crate) ipv6: Option<Ipv6Addr>,
    /// Name and index of the veth's end in the node's namespace.
    pub(crate) host_ifname: String,
    pub(crate) ifindex: u32,
    /// MAC address of the pod's end.
    pub(crate) mac: [u8; 6],
    /// MAC address of the host's end.
    pub(crate) host_mac: [u8; 6],
    /// [`IDENTITY_INIT`] until the labels are known.
    pub(crate) identity: u32,
    /// The identity's labels, sorted.
    #[serde(default)]
    pub(crate) labels: Vec<String>,
}
