//! `ip/v1`: which identity an address has (Cilium `pkg/identity.IPIdentityPair`).

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::json::{self, ip_text, or_default};
use crate::prefix::{mask_text, with_mask};
use crate::{Invalid, Kind};

/// Encoded with Cilium's capitalised names. The newer `K8sPodUID` is read and dropped; `Mask` is written as `null` for a
/// host prefix.
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

/// A container port that has a name (Cilium `identity.NamedPort`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NamedPort {
    pub name: String,
    pub port: u16,
    /// `TCP`, `UDP`, `SCTP`, or what a newer writer says.
    pub protocol: String,
}

impl IpIdentity {
    /// Its name below the prefix of its kind: the address, with the length behind it where it is a range.
    #[must_use]
    pub fn entry_name(&self) -> String {
        if is_host(self.prefix) { self.prefix.addr().to_string() } else { self.prefix.to_string() }
    }

    /// The JSON that Cilium 1.20 writes, byte for byte.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let host = is_host(self.prefix);
        json::encode(&Wire {
            ip: Some(self.prefix.addr()),
            mask: (!host).then(|| mask_text(self.prefix)),
            host_ip: self.host_ip,
            id: self.identity,
            key: self.encryption_key,
            metadata: self.metadata.clone(),
            k8s_namespace: self.k8s_namespace.clone(),
            k8s_pod_name: self.k8s_pod_name.clone(),
            k8s_service_account: self.k8s_service_account.clone(),
            named_ports: self.named_ports.clone(),
        })
    }

    /// `name` is the entry's name, for errors.
    ///
    /// # Errors
    /// Not JSON, no address, or a field is not what it should be. Whether it belongs to a cluster is
    /// [`read`](crate::read)'s matter.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<IpIdentity, Invalid> {
        let what = Kind::Ips.entry(name);
        let bad = |problem: String| Invalid::new(&what, problem, Invalid::WRITER);
        let wire: Wire = json::decode(&what, bytes)?;
        let ip = wire.ip.ok_or_else(|| bad("no address in it".to_owned()))?;
        let prefix = match &wire.mask {
            None => IpNet::from(ip),
            Some(mask) => with_mask(ip, mask).map_err(bad)?,
        };
        Ok(IpIdentity {
            prefix,
            host_ip: wire.host_ip,
            identity: wire.id,
            encryption_key: wire.key,
            metadata: wire.metadata,
            k8s_namespace: wire.k8s_namespace,
            k8s_pod_name: wire.k8s_pod_name,
            k8s_service_account: wire.k8s_service_account,
            named_ports: wire.named_ports,
        })
    }
}

fn is_host(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// In Cilium's order.
#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(rename = "IP", default, with = "ip_text")]
    ip: Option<IpAddr>,
    #[serde(rename = "Mask", default)]
    mask: Option<String>,
    #[serde(rename = "HostIP", default, with = "ip_text")]
    host_ip: Option<IpAddr>,
    #[serde(rename = "ID", default, deserialize_with = "or_default")]
    id: u32,
    #[serde(rename = "Key", default, deserialize_with = "or_default")]
    key: u8,
    #[serde(rename = "Metadata", default, deserialize_with = "or_default")]
    metadata: String,
    #[serde(
        rename = "K8sNamespace",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    k8s_namespace: String,
    #[serde(rename = "K8sPodName", default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    k8s_pod_name: String,
    #[serde(
        rename = "K8sServiceAccount",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    k8s_service_account: String,
    #[serde(rename = "NamedPorts", default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    named_ports: Vec<NamedPort>,
}
