//! Runs the readers of other clusters, and says when what they tell is complete.
//!
//! At a start the map holds what an earlier process knew. It serves until somebody asks for it: a row of this cluster's
//! ranges goes when this cluster's own inputs are complete, a row with a remote cluster's identity when that cluster has
//! been listed, everything else when all clusters have been. A cluster that cannot be reached within
//! `--clustermesh-sync-timeout` holds nothing else up: tables count as complete then, and only its leftovers stay.

use std::sync::Arc;
use std::time::Duration;

use causeway_mesh_remote::mesh::{Mesh, Options};
use causeway_mesh_remote::{Settings, Sink};
use causeway_mesh_schema::{ClusterName, Kind};
use tokio::sync::watch;

use crate::config::Config;
use crate::control::ipcache::remote::Complete;
use crate::intent::mesh::intake::Intake;
use crate::tables::Tables;

/// How often a cluster that was not read in time is looked for again, whatever the timeout.
const LATE: Duration = Duration::from_secs(1);

/// What the agent reads; service exports are the operator's.
const KINDS: [Kind; 5] = [Kind::Nodes, Kind::Identities, Kind::Ips, Kind::Services, Kind::EndpointSlices];

/// Starts the readers; `None` where this cluster meets no others. Must be called inside a tokio runtime.
pub(crate) fn start(config: &Config, intake: &Intake) -> Option<Arc<Mesh>> {
    if let Some(why) = config.mesh.off() {
        tracing::info!(why, "this cluster meets no others");
        return None;
    }
    let settings = Settings {
        scale: config.mesh.scale,
        kinds: KINDS.into(),
        services: config.mesh.services,
        stages: config.mesh.stages,
        cache_ttl: config.mesh.cache_ttl,
        ..Settings::default()
    };
    let options = Options {
        sync_timeout: config.mesh.sync_timeout,
        settings,
        ..Options::new(config.mesh.directory.clone(), config.cluster_name.clone(), config.mesh.id)
    };
    tracing::info!(directory = %config.mesh.directory.display(), id = ?config.mesh.id, "meeting other clusters");
    let intake = intake.clone();
    Some(Arc::new(Mesh::spawn(options, move |name: &ClusterName| Box::new(intake.sink(name)) as Box<dyn Sink>)))
}

/// What is waited for, see the module.
pub(crate) struct Completion {
    pub(crate) config: Config,
    pub(crate) tables: Tables,
    pub(crate) intake: Intake,
    pub(crate) mesh: Option<Arc<Mesh>>,
    /// The nodes of all clusters are in the desired table.
    pub(crate) remote_nodes_done: watch::Receiver<bool>,
}

impl Completion {
    /// Waits for each step in turn, then for ever. Cancel-safe.
    pub(crate) async fn run(self) {
        tokio::join!(self.local(), self.remote());
        std::future::pending::<()>().await;
    }

    /// This cluster's own rows and ranges.
    async fn local(&self) {
        self.local_inputs().await;
        let identities = self.config.mesh.scale.identities(self.config.mesh.id);
        self.complete(&Complete::Local { identities });
    }

    async fn remote(&self) {
        let all = match &self.mesh {
            Some(mesh) => mesh.synced().await,
            None => true,
        };
        if !all {
            tracing::warn!("not every cluster was read within --clustermesh-sync-timeout; going on without");
        }
        self.mark_synced();
        if let (Some(mesh), false) = (&self.mesh, all) {
            wait_until_synced(LATE, || mesh.synced()).await;
        }
        self.local_inputs().await;
        let mut done = self.remote_nodes_done.clone();
        // The sender lives as long as the agent.
        let _ = done.wait_for(|done| *done).await;
        self.complete(&Complete::Everything);
        tracing::info!("the ipcache is complete");
    }

    fn mark_synced(&self) {
        let t = &self.tables;
        t.mesh_clusters.mark_synced();
        t.mesh_nodes.mark_synced();
        t.mesh_identities.mark_synced();
        t.mesh_offers.mark_synced();
    }

    async fn local_inputs(&self) {
        let mut own = self.tables.ipcache.reader();
        while !self.tables.ipcache.synced() {
            own.changed().await;
            own.changes();
        }
        let mut known = self.intake.local_known();
        let _ = known.wait_for(|known| *known).await;
    }

    fn complete(&self, what: &Complete) {
        self.intake.ips().complete(what);
        self.intake.wake();
    }
}

/// Asks until all is read. An answer takes as long as the timeout, which may be no time at all.
async fn wait_until_synced<F: Future<Output = bool>>(pause: Duration, synced: impl Fn() -> F) {
    while !synced().await {
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn without_a_timeout_the_mesh_is_asked_now_and_then() {
        let (asked, pause) = (AtomicU32::new(0), Duration::from_millis(20));
        let started = std::time::Instant::now();
        wait_until_synced(pause, || async { asked.fetch_add(1, Ordering::Relaxed) == 3 }).await;
        assert_eq!(asked.into_inner(), 4);
        assert!(started.elapsed() >= 3 * pause);
    }
}
