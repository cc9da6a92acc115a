//! What is said of a remote cluster to Cilium's own tools (Cilium `api/v1/models.RemoteCluster`): `cluster-mesh` in the
//! agent's `/healthz`, and `GET /cluster` and `kvstoremesh-dbg status -o json` of kvstoremesh. Nothing of it stands in
//! etcd.

use serde::{Deserialize, Serialize};

/// Zeros, empty texts and `false` are left out, as the Go model does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct RemoteCluster {
    /// `None` until there was an attempt to get it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<RemoteClusterConfig>,
    #[serde(skip_serializing_if = "is_false")]
    pub connected: bool,
    /// RFC 3339; Go's zero time (`0001-01-01T00:00:00.000Z`) is always written, so an empty text stands for it here.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_failure: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_endpoint_slices: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_endpoints: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_failures: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_identities: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_nodes: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_service_exports: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_shared_services: i64,
    /// Connected, configured and synced.
    #[serde(skip_serializing_if = "is_false")]
    pub ready: bool,
    /// In words, of the connection.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synced: Option<RemoteClusterSynced>,
}

/// What the remote cluster says of itself (Cilium `RemoteClusterConfig`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct RemoteClusterConfig {
    #[serde(skip_serializing_if = "is_zero")]
    pub cluster_id: i64,
    /// `services-and-endpointslices`, `endpointslices-only`, or empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub endpoint_slices_export_mode: String,
    /// The data is a copy that kvstoremesh keeps.
    #[serde(skip_serializing_if = "is_false")]
    pub kvstoremesh: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub required: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub retrieved: bool,
    /// `None`: the cluster knows nothing of service exports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_exports_enabled: Option<bool>,
    #[serde(skip_serializing_if = "is_false")]
    pub sync_canaries: bool,
}

/// Which kinds have been listed in full (Cilium `RemoteClusterSynced`). The last two are absent where they are not read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct RemoteClusterSynced {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_slices: Option<bool>,
    #[serde(skip_serializing_if = "is_false")]
    pub endpoints: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub identities: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub nodes: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_exports: Option<bool>,
    #[serde(skip_serializing_if = "is_false")]
    pub services: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(b: &bool) -> bool {
    !*b
}
