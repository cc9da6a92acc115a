//! `clustermesh`: the composition root. Configuration, client, writer, watches, in this order.
//!
//! Tasks: the writer, the keeper of our cluster-config, the users, two HTTP servers, and the main task, which waits for
//! what the watches say, hands it to the core and its outputs to the writer. All end with the main task; keys stay in
//! the store until their leases end, and the next process takes them over.

mod config_key;
mod groups;
mod users;
mod watches;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use causeway_k8s::{Rejected, client};
use causeway_mesh_kv::{Publisher, Session};
use causeway_mesh_remote::{Checksum, Tally};
use causeway_mesh_schema::{Capabilities, ClusterConfig, Kind};

use crate::export::{Export, Output, Settings, Source};
use crate::flags::Clustermesh;
use crate::tasks::Tasks;
use crate::telemetry::Telemetry;
use crate::{http, store};
use groups::Groups;
use watches::Watches;

/// What HTTP shows of the main task.
struct Shared {
    publisher: Publisher,
    telemetry: Telemetry,
    /// Behind a mutex because HTTP tasks read what the loop writes; held for a copy only.
    view: Mutex<View>,
}

#[derive(Clone, Default)]
struct View {
    listed: Vec<Kind>,
    rejected: Vec<Rejected>,
    rejected_by_kind: Vec<(&'static str, usize)>,
    told: Vec<Told>,
}

/// What a kind's readers should count, and find as checksum (`causeway clustermesh status` shows theirs).
#[derive(Clone, serde::Serialize)]
struct Told {
    /// Its word in keys.
    kind: &'static str,
    entries: usize,
    checksum: Checksum,
}

pub(crate) async fn run(flags: Clustermesh) -> anyhow::Result<()> {
    let home = flags.local.home()?;
    let connect = store::connect(&flags.local)?;
    let writing = store::settings(&flags.local, true)?;
    let config = cluster_config(&flags)?;
    let client = client::open(flags.k8s_kubeconfig_path.as_deref(), "--k8s-kubeconfig-path").await?;
    tracing::info!(cluster = %home.name, id = %home.id, etcd = ?connect.endpoints, "exporting");

    let publisher = Publisher::new(store::publish(writing.clone()));
    let groups = Groups::add(&publisher, &home.name);
    let shared =
        Arc::new(Shared { publisher: publisher.clone(), telemetry: Telemetry::clustermesh(), view: Mutex::default() });
    let export = Export::new(Settings {
        home: home.clone(),
        default_global: flags.clustermesh_default_global_namespace,
        mode: flags.export_mode(),
        mcs: flags.clustermesh_enable_mcs_api,
    });

    let mut tasks = Tasks::default();
    tasks.keep(
        "the keeper of our cluster-config",
        config_key::keep(home.name.clone(), config, connect.clone(), writing),
    );
    tasks.keep("the writer", publisher.run(Session::open(connect.clone())));
    if flags.cluster_users_enabled {
        let path = flags.cluster_users_config_path.clone();
        tasks.keep("the keeper of etcd's users", users::keep(path, home.name.clone(), connect));
    }
    tasks.once(bootstrap(Arc::clone(&shared)));
    let watches = Watches::start(&client, flags.enable_cilium_endpoint_slice, flags.clustermesh_enable_mcs_api);
    let health = http::everywhere(flags.health_port);
    let metrics = flags.local.prometheus_serve_addr;
    tokio::select! {
        () = export_for_ever(export, watches, groups, &shared) => Ok(()),
        result = http::serve(health, "--health-port", health_router(Arc::clone(&shared))) => result,
        result = serve_metrics(metrics, Arc::clone(&shared)) => result,
        error = tasks.failed() => Err(error),
        result = http::told_to_stop() => result,
    }
}

/// Looks until everything has been written once, so that the metric tells when that was, whoever else looks.
async fn bootstrap(shared: Arc<Shared>) {
    const LOOK: Duration = Duration::from_millis(100);
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        if shared.missing().is_empty() {
            tracing::info!("everything is written once");
            return;
        }
    }
}

async fn export_for_ever(mut export: Export, mut watches: Watches, groups: Groups, shared: &Shared) {
    let mut tallies: BTreeMap<Kind, Tally> = BTreeMap::new();
    loop {
        watches.next_into(&mut export).await;
        while let Some(output) = export.poll_output() {
            match &output {
                Output::Set { kind, name, value } => tallies.entry(*kind).or_default().put(name, value),
                Output::Delete { kind, name } => tallies.entry(*kind).or_default().delete(name),
                Output::Listed(_) => {}
            }
            groups.write(output);
        }
        let told = |(kind, tally): (&Kind, &Tally)| Told {
            kind: kind.word(),
            entries: tally.count(),
            checksum: tally.checksum(),
        };
        let view = View {
            listed: export.listed().to_vec(),
            rejected: export.rejected().cloned().collect(),
            rejected_by_kind: Source::ALL.map(|source| (source.kind(), export.rejected_of(source))).to_vec(),
            told: tallies.iter().map(told).collect(),
        };
        *shared.view() = view;
    }
}

/// What we say of ourselves.
fn cluster_config(flags: &Clustermesh) -> anyhow::Result<ClusterConfig> {
    let capabilities = Capabilities {
        synced_canaries: true,
        cached: false,
        max_connected_clusters: flags.local.scale()?.max_clusters().into(),
        service_exports_enabled: Some(flags.clustermesh_enable_mcs_api),
        endpoint_slices_export_mode: flags.export_mode(),
    };
    Ok(ClusterConfig { id: flags.local.home()?.id.into(), capabilities })
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        // A view that was being replaced when a task panicked is still a view.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has not been written in full once, in words.
    fn missing(&self) -> Vec<String> {
        let listed = self.view().listed.clone();
        let unlisted = Kind::ALL.into_iter().filter(|kind| !listed.contains(kind));
        let mut missing: Vec<String> = unlisted.map(|kind| format!("{kind}: not read from Kubernetes yet")).collect();
        let stats = self.publisher.stats();
        let queued = stats.groups.iter().filter(|group| group.listed && !group.synced);
        missing.extend(queued.map(|group| format!("{}: {} keys not written yet", group.name, group.queued)));
        let error = stats.last_error.as_ref().filter(|_| !missing.is_empty());
        missing.extend(error.map(|error| format!("etcd: {error}")));
        self.telemetry.writer(&stats, missing.is_empty());
        missing
    }
}

fn health_router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(|State(shared): State<Arc<Shared>>| async move { http::readiness(&shared.missing()) }))
        .route("/told", get(|State(shared): State<Arc<Shared>>| async move { Json(shared.view().told.clone()) }))
        .route(
            "/rejected",
            get(|State(shared): State<Arc<Shared>>| async move { Json(shared.view().rejected.clone()) }),
        )
        .with_state(shared)
}

async fn serve_metrics(address: Option<std::net::SocketAddr>, shared: Arc<Shared>) -> anyhow::Result<()> {
    let Some(address) = address else { return std::future::pending().await };
    let metrics = |State(shared): State<Arc<Shared>>| async move {
        shared.missing();
        for (kind, number) in &shared.view().rejected_by_kind {
            shared.telemetry.rejected(kind, *number);
        }
        http::metrics(shared.telemetry.encode())
    };
    http::serve(address, "--prometheus-serve-addr", Router::new().route("/metrics", get(metrics)).with_state(shared))
        .await
}
