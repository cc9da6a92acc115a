//! `cilium/cluster-config/<name>`: what a cluster says of itself (Cilium `CiliumClusterConfig`).

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterConfig {
    /// As written: 0 is refused by [`ClusterConfig::check`], not by the decoder.
    #[serde(skip_serializing_if = "is_zero")]
    pub id: u32,
    pub capabilities: Capabilities,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Capabilities {
    /// Canaries are written; readers wait for them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub synced_canaries: bool,
    /// The entries stand in the cache layout (kvstoremesh).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
    /// 255 or 511; 0 in old writers means 255.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_connected_clusters: u32,
    /// Absent: knows nothing of service exports. False: knows, but has them off; readers still watch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_exports_enabled: Option<bool>,
    #[serde(skip_serializing_if = "ExportMode::is_services")]
    pub endpoint_slices_export_mode: ExportMode,
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
