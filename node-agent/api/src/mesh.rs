//! Other clusters, as `causeway clustermesh status` shows them.

use serde::{Deserialize, Serialize};

/// The agent's side of the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshStatus {
    /// False: this cluster meets no others; [`MeshStatus::note`] says why.
    pub enabled: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
    pub node: String,
    pub cluster: String,
    pub cluster_id: u16,
    /// 255 or 511.
    pub max_connected_clusters: u16,
    /// Every configured cluster is connected and read, and all of it is programmed.
    pub ready: bool,
    /// Every configured cluster was read once since the agent started, or `--clustermesh-sync-timeout` passed.
    pub synced: bool,
    pub clusters: Vec<RemoteCluster>,
    pub ipcache: IpcacheWork,
    pub probes: ProbeCounts,
    /// Services of this cluster that other clusters have backends for.
    pub global_services: usize,
}

/// One other cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RemoteCluster {
    pub name: String,
    /// `None`: it has not said yet.
    pub id: Option<u16>,
    pub connected: bool,
    /// Connected, and every kind read completely.
    pub ready: bool,
    /// `fresh`, `silent`, `de-preferred`, `probed`, `revoked`.
    pub stage: String,
    /// How long nothing has been heard from it; `None` while it speaks.
    pub silent_for_s: Option<u64>,
    /// RFC 3339; empty while it is not connected.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub connected_since: String,
    /// Connections lost or refused since the agent started.
    pub failures: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_failure: String,
    /// RFC 3339.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_failure_at: String,
    /// The entries are a copy that a kvstoremesh keeps.
    pub cached: bool,
    pub kinds: Vec<KindStatus>,
    /// Age of the newest entry that came or went.
    pub newest_data_age_ms: Option<u64>,
    /// Age of the newest heartbeat: no entry here can be older news than this.
    pub heartbeat_age_ms: Option<u64>,
    pub latency: Vec<Latency>,
    /// RFC 3339, of our client certificate for this cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub certificate_expires: String,
    pub certificate_expires_in_s: Option<i64>,
    pub nodes: usize,
    pub identities: usize,
    pub endpoints: usize,
    pub services: usize,
    /// Entries that collide with ours or another cluster's, now; nothing of them is programmed.
    pub conflicts: u64,
    /// Entries in conflict that there was no room to remember, since the agent started. They come in when the cluster is
    /// read again.
    pub conflicts_dropped: u64,
    /// Addresses that the ipcache had no room for, since the agent started.
    pub left_out: u64,
    /// Entries that could not be used, since the agent started.
    pub rejected: u64,
    /// Some of the conflicts and rejected entries.
    pub refusals: Vec<Refusal>,
    pub probes: ProbeCounts,
    /// In the form of Cilium's `RemoteCluster`.
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    pub cilium: serde_json::Value,
}

/// One kind of entries of one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KindStatus {
    /// The word in keys: `nodes`, `identities`, `ip`, `services`, `endpointslices`, `serviceexports`.
    pub kind: String,
    pub synced: bool,
    pub entries: u64,
    /// Sixteen hexadecimal digits; equal on both sides when the entries are.
    pub checksum: String,
    /// How long the last complete listing took, from the first request to the last row.
    pub last_list_ms: Option<u64>,
    /// Complete listings since the agent began to read the cluster.
    pub listings: u64,
}

/// How long changes took to the datapath's maps, over the newest few thousand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Latency {
    /// `ip`: from the watch's event to the map; `services`: likewise; `trigger`: from the change in the other cluster, by
    /// its clock (`endpoints.kubernetes.io/last-change-trigger-time`).
    pub of: String,
    pub count: u64,
    pub p50_us: u64,
    pub p99_us: u64,
}

/// An entry that is not used, and what to do about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Refusal {
    pub kind: String,
    pub name: String,
    /// A collision, rather than an entry that cannot be read.
    pub conflict: bool,
    pub problem: String,
    pub remedy: String,
}

/// Remote addresses in the datapath's ipcache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpcacheWork {
    pub rows: usize,
    /// Rows that are not in the map as they should be.
    pub pending: usize,
    /// Map writes since the agent started.
    pub upserts: u64,
    pub deletes: u64,
    /// Entries that came again and needed no write.
    pub unchanged: u64,
    /// Rows that an earlier process wrote and nobody has asked for yet.
    pub unclaimed: usize,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeCounts {
    pub targets: usize,
    pub dead: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshTraceParams {
    /// Switches the recording; absent: leaves it as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enable: Option<bool>,
    /// Only events with this number or a later one.
    #[serde(default)]
    pub from: u64,
    /// At most this many; 10,000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// Remote changes in the order in which they reached the maps, for who measures. Asked for again with `from: next`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshTrace {
    pub enabled: bool,
    pub next: u64,
    /// Events that were forgotten before they were asked for.
    pub lost: u64,
    pub events: Vec<MeshEvent>,
}

/// A remote change is in the maps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshEvent {
    /// `ip`, or `services`.
    pub kind: String,
    /// `10.2.1.5`, `fd00:2::/64`, `namespace/name`.
    pub name: String,
    pub cluster: u16,
    /// Of the other cluster's store.
    pub revision: u64,
    /// Nanoseconds of CLOCK_MONOTONIC when the map had it.
    pub at_ns: u64,
    /// False: it needed no write, since nothing that the map holds had changed.
    pub written: bool,
}
