//! BGP kinds. The checks are the `k8s` crate's; here they only become rows.

use causeway_bgp_speaker::Secret;
use causeway_k8s::checked::{Advertisement, NodeConfig, PeerConfig};
use causeway_k8s::{CiliumBGPAdvertisement, CiliumBGPNodeConfig, CiliumBGPPeerConfig};
use k8s_openapi::api::core::v1::Secret as SecretObject;

use super::{Key, Read, Rejected};

/// The own CiliumBGPNodeConfig.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnConfig {
    pub(crate) config: NodeConfig,
    /// `metadata.generation`, for conditions.
    pub(crate) generation: Option<i64>,
}

/// Reads the CiliumBGPNodeConfig of one node.
pub(crate) struct NodeConfigReader {
    pub(crate) node: String,
}

impl Read<CiliumBGPNodeConfig> for NodeConfigReader {
    type Key = Key;
    type Row = OwnConfig;

    fn read(&self, key: &Key, object: CiliumBGPNodeConfig) -> Result<Option<(Key, OwnConfig)>, Rejected> {
        if key.name != self.node {
            return Ok(None);
        }
        let generation = object.metadata.generation;
        Ok(Some((key.clone(), OwnConfig { config: NodeConfig::try_from(&object)?, generation })))
    }
}

/// Reads CiliumBGPPeerConfigs.
pub(crate) struct PeerConfigReader;

impl Read<CiliumBGPPeerConfig> for PeerConfigReader {
    type Key = Key;
    type Row = PeerConfig;

    fn read(&self, key: &Key, object: CiliumBGPPeerConfig) -> Result<Option<(Key, PeerConfig)>, Rejected> {
        Ok(Some((key.clone(), PeerConfig::try_from(&object)?)))
    }
}

/// Reads CiliumBGPAdvertisements.
pub(crate) struct AdvertisementReader;

impl Read<CiliumBGPAdvertisement> for AdvertisementReader {
    type Key = Key;
    type Row = Advertisement;

    fn read(&self, key: &Key, object: CiliumBGPAdvertisement) -> Result<Option<(Key, Advertisement)>, Rejected> {
        Ok(Some((key.clone(), Advertisement::try_from(&object)?)))
    }
}

/// Reads Secrets with a TCP MD5 password; the others are not kept.
pub(crate) struct SecretReader;

impl Read<SecretObject> for SecretReader {
    type Key = Key;
    type Row = Secret;

    fn read(&self, key: &Key, object: SecretObject) -> Result<Option<(Key, Secret)>, Rejected> {
        let Some(password) = object.data.unwrap_or_default().remove("password") else { return Ok(None) };
        let password = String::from_utf8(password.0).map_err(|_| {
            super::rejected("Secret", key, "data.password", "is not text", "write the TCP MD5 password as UTF-8 text")
        })?;
        Ok(Some((key.clone(), Secret::new(password))))
    }
}
