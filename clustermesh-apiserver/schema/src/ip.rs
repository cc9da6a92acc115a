//! `ip/v1`: which identity an address has (Cilium `IPIdentityPair`).

use std::net::IpAddr;

use ipnet::IpNet;

/// Encoded with Cilium's capitalised names. The newer `K8sPodUID` is read and dropped; `Mask` is written as `null`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpIdentity {
    /// A host prefix, or a range where `Mask` was given.
    pub prefix: IpNet,
    /// The node that has it.
    pub host_ip: Option<IpAddr>,
    pub identity: u32,
    pub encryption_key: u8,
    pub metadata: String,
    pub k8s_namespace: String,
    pub k8s_pod_name: String,
    pub k8s_service_account: String,
    pub named_ports: Vec<NamedPort>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPort {
    pub name: String,
    pub port: u16,
    /// `TCP`, `UDP`, `SCTP`, or what a newer writer says.
    pub protocol: String,
}
