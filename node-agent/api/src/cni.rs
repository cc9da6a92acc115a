//! The CNI verbs as the plugin asks them of the agent. The plugin turns environment and stdin into these, and the
//! reply into a CNI result.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What names an attachment: the CNI specification's primary key within one network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`, 1 to 15 bytes.
    pub ifname: String,
}

/// The pod's names from `CNI_ARGS`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRef {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`; some runtimes do not give it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Add {
    pub attachment: Attachment,
    /// `CNI_NETNS`: a path that the agent can open.
    pub netns: String,
    pub pod: PodRef,
    /// From the network configuration; the agent's choice when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// What ADD made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Name and MAC address of the veth's end in the node's namespace.
    pub host_ifname: String,
    pub host_mac: String,
    /// MAC address of the veth's end in the pod.
    pub mac: String,
    pub mtu: u32,
    /// One per family, as /32 and /128.
    pub ips: Vec<Address>,
    /// Default routes in the pod.
    pub routes: Vec<Route>,
    /// Node-local endpoint id.
    pub endpoint_id: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub address: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub dst: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Del {
    pub attachment: Attachment,
    /// Absent when the runtime has already removed the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub attachment: Attachment,
    pub netns: String,
    /// Addresses of the previous result, which must still be there.
    #[serde(default)]
    pub ips: Vec<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gc {
    /// `cni.dev/valid-attachments`: everything else goes.
    pub valid: Vec<Attachment>,
}

/// Nothing more to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

/// What GC removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    pub removed: Vec<Attachment>,
}
