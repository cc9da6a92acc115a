//! What other agents say: CiliumEndpoints and CiliumIdentities.

use std::net::IpAddr;

use causeway_k8s::{CiliumEndpoint, CiliumIdentity};

use super::{Key, Read, Rejected, rejected};

/// Which identity a pod's addresses have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteEndpoint {
    pub(crate) addresses: Box<[IpAddr]>,
    pub(crate) identity: u32,
    /// Address of the pod's node.
    pub(crate) node: Option<IpAddr>,
}

/// Reads CiliumEndpoints.
pub(crate) struct EndpointReader;

impl Read<CiliumEndpoint> for EndpointReader {
    type Key = Key;
    type Row = RemoteEndpoint;

    fn read(&self, key: &Key, object: CiliumEndpoint) -> Result<Option<(Key, RemoteEndpoint)>, Rejected> {
        let bad = |field: &str, message: String| {
            rejected("CiliumEndpoint", key, field, message, "delete the object; the agent of its node writes it again")
        };
        let status = object.status.unwrap_or_default();
        let Some(identity) = status.identity.and_then(|i| i.id) else { return Ok(None) };
        let identity =
            u32::try_from(identity).map_err(|_| bad("status.identity.id", format!("{identity} is not an identity")))?;
        let mut addresses = Vec::new();
        let networking = status.networking.unwrap_or_default();
        let node = networking.node.and_then(|ip| ip.parse().ok());
        for pair in networking.addressing {
            for text in [pair.ipv4, pair.ipv6].into_iter().flatten().filter(|t| !t.is_empty()) {
                addresses.push(
                    text.parse()
                        .map_err(|_| bad("status.networking.addressing", format!("{text:?} is not an IP address")))?,
                );
            }
        }
        Ok(Some((key.clone(), RemoteEndpoint { addresses: addresses.into(), identity, node })))
    }
}

/// An identity's labels as `source:key=value`, sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) labels: Vec<String>,
}

/// Reads CiliumIdentities. The key is the number.
pub(crate) struct IdentityReader;

impl Read<CiliumIdentity> for IdentityReader {
    type Key = u32;
    type Row = Identity;

    fn read(&self, key: &Key, object: CiliumIdentity) -> Result<Option<(u32, Identity)>, Rejected> {
        let id = key.name.parse().map_err(|_| {
            let remedy = "delete it; identities are named by their number";
            rejected("CiliumIdentity", key, "metadata.name", format!("{:?} is not a number", key.name), remedy)
        })?;
        let mut labels: Vec<String> = object.security_labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        labels.sort_unstable();
        Ok(Some((id, Identity { labels })))
    }
}
