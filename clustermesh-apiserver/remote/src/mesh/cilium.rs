//! The status in the words of Cilium's own tools.

use causeway_mesh_schema::{ExportMode, Kind, RemoteCluster, RemoteClusterConfig, RemoteClusterSynced};

use super::status::{KindStatus, RemoteStatus};

impl RemoteStatus {
    /// As Cilium's `RemoteCluster`.
    #[must_use]
    pub fn to_cilium(&self) -> RemoteCluster {
        let of = |kind| self.kinds.iter().find(|status| status.kind == kind);
        let count = |kind| of(kind).map_or(0, |status| i64::try_from(status.entries).unwrap_or(i64::MAX));
        let synced = |kind| of(kind).is_some_and(|status| status.synced);
        let offered = |kind| of(kind).filter(|status: &&KindStatus| status.offered).map(|status| status.synced);
        RemoteCluster {
            config: Some(self.cilium_config()),
            connected: self.connected,
            last_failure: self.last_failure.as_ref().map_or_else(String::new, |failure| failure.at.clone()),
            name: self.name.to_string(),
            num_endpoint_slices: count(Kind::EndpointSlices),
            num_endpoints: count(Kind::Ips),
            num_failures: i64::try_from(self.failures).unwrap_or(i64::MAX),
            num_identities: count(Kind::Identities),
            num_nodes: count(Kind::Nodes),
            num_service_exports: count(Kind::ServiceExports),
            num_shared_services: count(Kind::Services),
            ready: self.ready,
            status: self.in_words(),
            synced: Some(RemoteClusterSynced {
                endpoint_slices: offered(Kind::EndpointSlices),
                endpoints: synced(Kind::Ips),
                identities: synced(Kind::Identities),
                nodes: synced(Kind::Nodes),
                service_exports: offered(Kind::ServiceExports),
                services: synced(Kind::Services),
            }),
        }
    }

    /// One line: where it is, and why it is not further.
    #[must_use]
    pub fn in_words(&self) -> String {
        let endpoint = self.endpoint.as_deref().or(self.endpoints.first().map(String::as_str)).unwrap_or("no endpoint");
        let trouble = self.link_error.as_deref().or(self.last_failure.as_ref().map(|failure| failure.message.as_str()));
        match (self.ready, trouble) {
            (true, _) => format!("{endpoint}: ready, {}", self.stage),
            (false, None) => format!("{endpoint}: {:?}, {}", self.phase, self.stage),
            (false, Some(trouble)) => format!("{endpoint}: {:?}, {}: {trouble}", self.phase, self.stage),
        }
    }

    fn cilium_config(&self) -> RemoteClusterConfig {
        let Some(config) = &self.config else {
            return RemoteClusterConfig { required: true, ..RemoteClusterConfig::default() };
        };
        let can = &config.capabilities;
        RemoteClusterConfig {
            cluster_id: i64::from(config.id),
            endpoint_slices_export_mode: match can.endpoint_slices_export_mode {
                ExportMode::Services => "",
                ExportMode::Both => "services-and-endpointslices",
                ExportMode::EndpointSlices => "endpointslices-only",
            }
            .to_owned(),
            kvstoremesh: can.cached,
            required: true,
            retrieved: true,
            service_exports_enabled: can.service_exports_enabled,
            sync_canaries: can.synced_canaries,
        }
    }
}
