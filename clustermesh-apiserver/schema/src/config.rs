//! `cilium/cluster-config/<name>`: what a cluster says of itself (Cilium `CiliumClusterConfig`).

use serde::{Deserialize, Serialize};

use crate::cluster::{ClusterId, ClusterName, Scale};
use crate::json::{self, or_default};
use crate::{Invalid, cluster_config_key};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// As written: 0 is refused by [`ClusterConfig::check`], not by the decoder.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    pub id: u32,
    #[serde(default, deserialize_with = "or_default")]
    pub capabilities: Capabilities,
}

/// Cilium `CiliumClusterConfigCapabilities`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Canaries are written; readers wait for them.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "std::ops::Not::not")]
    pub synced_canaries: bool,
    /// The entries stand in the cache layout (kvstoremesh).
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
    /// 255 or 511; 0 in old writers means 255.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_zero")]
    pub max_connected_clusters: u32,
    /// Absent: knows nothing of service exports. False: knows, but has them off; readers still watch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_exports_enabled: Option<bool>,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "ExportMode::is_services")]
    pub endpoint_slices_export_mode: ExportMode,
}

impl ClusterConfig {
    /// The JSON that Cilium writes, byte for byte.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        json::encode(self)
    }

    /// # Errors
    /// Not JSON, or a field is not what it should be; an export mode that is not known is refused here, since nobody can
    /// say what such a cluster writes.
    pub fn decode(cluster: &ClusterName, bytes: &[u8]) -> Result<ClusterConfig, Invalid> {
        json::decode(&cluster_config_key(cluster), bytes)
    }

    /// What is to hold before anything else of `cluster` is read (Cilium `ClusterInfo.ValidateRemoteConfig`, but the
    /// number of clusters must be ours in a mesh of 255 too). That the number is not our own or another cluster's is the
    /// caller's to know.
    ///
    /// # Errors
    /// No valid number, or the mesh is of another size than ours.
    pub fn check(&self, cluster: &ClusterName, ours: Scale) -> Result<ClusterId, Invalid> {
        let bad = |problem: String, remedy: &str| Invalid::new(cluster_config_key(cluster), problem, remedy);
        let theirs = match self.capabilities.max_connected_clusters {
            0 => Some(Scale::C255),
            max => Scale::from_max(max),
        };
        if theirs != Some(ours) {
            let (max, our) = (self.capabilities.max_connected_clusters, ours.max_clusters());
            let problem =
                format!("maxConnectedClusters is {max}, ours is {our}: identities would be numbered differently");
            return Err(bad(problem, "set --max-connected-clusters to the same in all clusters"));
        }
        ClusterId::new(self.id, ours).map_err(|error| bad(error.to_string(), "give that cluster a valid --cluster-id"))
    }
}

/// In which format backends are exported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExportMode {
    /// `services/v1` only.
    #[default]
    #[serde(rename = "")]
    Services,
    #[serde(rename = "services-and-endpointslices")]
    Both,
    #[serde(rename = "endpointslices-only")]
    EndpointSlices,
}

impl ExportMode {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    fn is_services(&self) -> bool {
        *self == ExportMode::Services
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}
