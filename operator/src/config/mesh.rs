//! The mesh's flags, with Cilium's names.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use causeway_mesh_remote::{Options, ServiceMode};
use causeway_mesh_schema::{ClusterId, ClusterName, Kind, Scale};
use clap::{ArgAction, Args};

use super::duration;
use crate::controller::MeshSettings;
use crate::plan::mcs;

/// Most endpoints that a slice may have (Kubernetes `EndpointSlice`).
const MOST_ENDPOINTS: usize = 1000;

#[derive(Args, Clone, Debug)]
pub(crate) struct MeshFlags {
    /// Name of the cluster, different from those of all clusters that it is connected with.
    #[arg(long, env = "CAUSEWAY_OPERATOR_CLUSTER_NAME", default_value = "default", value_name = "NAME")]
    cluster_name: String,
    /// Number of the cluster, different from those of all clusters that it is connected with; 0 for a cluster without mesh.
    #[arg(long, env = "CAUSEWAY_OPERATOR_CLUSTER_ID", default_value_t = 0, value_name = "NUMBER")]
    cluster_id: u32,
    /// Most clusters in the mesh, 255 or 511; the same in all of them.
    #[arg(long, env = "CAUSEWAY_OPERATOR_MAX_CONNECTED_CLUSTERS", default_value_t = 255, value_name = "NUMBER")]
    max_connected_clusters: u32,
    /// Directory with a file per remote cluster. Absent: the other clusters are not read.
    #[arg(long, env = "CAUSEWAY_OPERATOR_CLUSTERMESH_CONFIG", value_name = "DIRECTORY")]
    clustermesh_config: Option<PathBuf>,
    /// Serve the Multi-Cluster Services API (ServiceExport, ServiceImport).
    #[arg(long, env = "CAUSEWAY_OPERATOR_CLUSTERMESH_ENABLE_MCS_API", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    clustermesh_enable_mcs_api: bool,
    /// Write the remote backends of global Services as EndpointSlices: of headless ones, and of those that ask for it by
    /// the annotation service.cilium.io/global-sync-endpoint-slices.
    #[arg(long, env = "CAUSEWAY_OPERATOR_CLUSTERMESH_ENABLE_ENDPOINT_SYNC", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    clustermesh_enable_endpoint_sync: bool,
    /// Most endpoints in such an EndpointSlice.
    #[arg(
        long,
        env = "CAUSEWAY_OPERATOR_CLUSTERMESH_ENDPOINTS_PER_SLICE",
        default_value_t = 100,
        value_name = "NUMBER"
    )]
    clustermesh_endpoints_per_slice: usize,
    /// How long changes of remote backends are gathered before they are written.
    #[arg(long, env = "CAUSEWAY_OPERATOR_CLUSTERMESH_ENDPOINT_UPDATES_BATCH_PERIOD", default_value = "500ms", value_parser = duration, value_name = "TIME")]
    clustermesh_endpoint_updates_batch_period: Duration,
    /// Services whose EndpointSlices are written at once.
    #[arg(
        long,
        env = "CAUSEWAY_OPERATOR_CLUSTERMESH_CONCURRENT_SERVICE_ENDPOINT_SYNCS",
        default_value_t = 5,
        value_name = "NUMBER"
    )]
    clustermesh_concurrent_service_endpoint_syncs: usize,
    /// Whether a Namespace without the annotation clustermesh.cilium.io/global takes part in the mesh.
    #[arg(long, env = "CAUSEWAY_OPERATOR_CLUSTERMESH_DEFAULT_GLOBAL_NAMESPACE", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    clustermesh_default_global_namespace: bool,
    /// How long a cluster may be silent before what it exports is forgotten; 0 for ever.
    #[arg(long, env = "CAUSEWAY_OPERATOR_CLUSTERMESH_CACHE_TTL", default_value = "0", value_parser = duration, value_name = "TIME")]
    clustermesh_cache_ttl: Duration,
    /// Which format of remote backends is read: prefer-legacy, prefer-endpointslice or only-endpointslice.
    #[arg(
        long,
        env = "CAUSEWAY_OPERATOR_CLUSTERMESH_SERVICE_V2",
        default_value = "prefer-legacy",
        value_name = "MODE"
    )]
    clustermesh_service_v2: ServiceMode,
}

/// A mesh that is on: how the planners use it, and how it is read.
#[derive(Clone, Debug)]
pub(crate) struct Mesh {
    pub(crate) settings: MeshSettings,
    pub(crate) reading: Options,
}

impl MeshFlags {
    /// Numbers that this cluster's identities have.
    pub(crate) fn identities(&self) -> anyhow::Result<RangeInclusive<i64>> {
        let (first, last) = self.scale()?.identities(self.id()?).into_inner();
        Ok(first.into()..=last.into())
    }

    fn scale(&self) -> anyhow::Result<Scale> {
        let max = self.max_connected_clusters;
        Scale::from_max(max).with_context(|| format!("--max-connected-clusters {max}: write 255 or 511"))
    }

    fn id(&self) -> anyhow::Result<Option<ClusterId>> {
        match self.cluster_id {
            0 => Ok(None),
            id => Ok(Some(ClusterId::new(id, self.scale()?).context("--cluster-id")?)),
        }
    }

    /// The mesh, if it is on. `families`: whether the cluster has IPv4 and IPv6.
    pub(crate) fn mesh(&self, (ipv4, ipv6): (bool, bool)) -> anyhow::Result<Option<Mesh>> {
        let (Some(id), Some(directory)) = (self.id()?, &self.clustermesh_config) else {
            if self.clustermesh_enable_mcs_api || self.clustermesh_enable_endpoint_sync {
                tracing::warn!(
                    "the mesh is off: --clustermesh-enable-mcs-api and --clustermesh-enable-endpoint-sync need \
                     --cluster-id above 0 and --clustermesh-config"
                );
            }
            return Ok(None);
        };
        let name = ClusterName::parse(&self.cluster_name).context("--cluster-name")?;
        ensure!(name.as_str() != "default", "--cluster-name default is every cluster's; choose one for the mesh");
        let most = self.clustermesh_endpoints_per_slice;
        ensure!(
            (1..=MOST_ENDPOINTS).contains(&most),
            "--clustermesh-endpoints-per-slice {most}: write 1 to {MOST_ENDPOINTS}"
        );
        let at_once = self.clustermesh_concurrent_service_endpoint_syncs;
        ensure!(at_once > 0, "--clustermesh-concurrent-service-endpoint-syncs 0 writes nothing; write at least 1");
        let mut reading = Options::new(directory.clone(), name.clone(), Some(id));
        reading.settings.scale = self.scale()?;
        reading.settings.services = self.clustermesh_service_v2;
        reading.settings.kinds = self.kinds();
        if !self.clustermesh_cache_ttl.is_zero() {
            reading.settings.cache_ttl = self.clustermesh_cache_ttl;
        }
        let settings = MeshSettings {
            mcs: self.clustermesh_enable_mcs_api.then(|| mcs::Settings { cluster: name.to_string(), ipv4, ipv6 }),
            sync: self.clustermesh_enable_endpoint_sync,
            namespaces_are_global: self.clustermesh_default_global_namespace,
            endpoints_per_slice: most,
            batch_period: self.clustermesh_endpoint_updates_batch_period,
            services_at_once: at_once,
        };
        Ok((settings.mcs.is_some() || settings.sync).then_some(Mesh { settings, reading }))
    }

    /// Only what is used is read.
    fn kinds(&self) -> BTreeSet<Kind> {
        let exports = self.clustermesh_enable_mcs_api.then_some(Kind::ServiceExports);
        let backends = self.clustermesh_enable_endpoint_sync.then_some([Kind::Services, Kind::EndpointSlices]);
        exports.into_iter().chain(backends.into_iter().flatten()).collect()
    }
}
