//! `kvstoremesh`: the composition root. The readers of other clusters tell their changes to the mirror, which writes them
//! into the local etcd.
//!
//! Tasks: those of the mesh's readers (one a cluster), the writer, the reaper of removed clusters, three HTTP servers,
//! and the main task, which waits for the first that ends. There is no election: run one.

mod mirror;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use causeway_mesh_kv::{Publisher, Session, Stats};
use causeway_mesh_remote::{Change, Mesh, Options, RemoteStatus, ServiceMode, Settings, Sink};
use causeway_mesh_schema::{ClusterName, RemoteCluster};
use tokio::sync::Notify;

use crate::flags::Kvstoremesh;
use crate::tasks::Tasks;
use crate::telemetry::Telemetry;
use crate::{http, store};
use mirror::Mirror;

struct Shared {
    home: ClusterName,
    mesh: Mesh,
    publisher: Publisher,
    telemetry: Telemetry,
    readiness: Readiness,
}

/// When a cluster that cannot be copied no longer keeps us from being ready.
struct Readiness {
    started: Instant,
    per_cluster: Duration,
    global: Duration,
    /// Once ready, ready for good: agents have what there was.
    reached: AtomicBool,
}

pub(crate) async fn run(flags: Kvstoremesh) -> anyhow::Result<()> {
    let home = flags.local.home()?;
    let connect = store::connect(&flags.local)?;
    let publisher = Publisher::new(store::publish(store::settings(&flags.local, flags.enable_heartbeat)?));
    let mirror = Mirrors::new(publisher.clone(), flags.removal_grace_period);
    tracing::info!(cluster = %home.name, directory = %flags.clustermesh_config.display(), "copying");

    let options = Options {
        settings: Settings {
            scale: flags.local.scale()?,
            services: ServiceMode::Both,
            cache_ttl: if flags.clustermesh_cache_ttl.is_zero() { Duration::MAX } else { flags.clustermesh_cache_ttl },
            ..Settings::default()
        },
        ..Options::new(flags.clustermesh_config.clone(), home.name.clone(), Some(home.id))
    };
    let mesh = {
        let mirror = Arc::clone(&mirror);
        Mesh::spawn(options, move |name| Mirrors::sink(&mirror, name))
    };
    let readiness = Readiness {
        started: Instant::now(),
        per_cluster: flags.per_cluster_ready_timeout,
        global: flags.global_ready_timeout,
        reached: AtomicBool::new(false),
    };
    let telemetry = Telemetry::kvstoremesh();
    let shared = Arc::new(Shared { home: home.name, mesh, publisher: publisher.clone(), telemetry, readiness });

    let mut tasks = Tasks::default();
    tasks.keep("the writer", publisher.run(Session::open(connect)));
    tasks.keep("the reaper of removed clusters", Mirrors::reap(mirror));
    tasks.once(bootstrap(Arc::clone(&shared)));
    let health = http::everywhere(flags.health_port);
    tokio::select! {
        result = http::serve(health, "--health-port", health_router(Arc::clone(&shared))) => result,
        result = http::serve(flags.api_serve_addr, "--api-serve-addr", api_router(Arc::clone(&shared))) => result,
        result = serve_metrics(flags.local.prometheus_serve_addr, shared) => result,
        error = tasks.failed() => Err(error),
        result = http::told_to_stop() => result,
    }
}

/// Looks until everything has been copied once, so that the metric tells when that was, whoever else looks.
async fn bootstrap(shared: Arc<Shared>) {
    const LOOK: Duration = Duration::from_millis(500);
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        if shared.missing().is_empty() {
            tracing::info!("ready");
            return;
        }
    }
}

/// The mirror, shared by the tasks that read the clusters.
struct Mirrors {
    /// Behind a mutex because every cluster has a task; held for the time of a few map operations.
    mirror: Mutex<Mirror<Publisher>>,
    /// Something may have to be reaped at another time than before.
    changed: Notify,
}

impl Mirrors {
    fn new(publisher: Publisher, grace: Duration) -> Arc<Mirrors> {
        Arc::new(Mirrors { mirror: Mutex::new(Mirror::new(publisher, grace)), changed: Notify::new() })
    }

    fn sink(this: &Arc<Mirrors>, name: &ClusterName) -> Box<dyn Sink> {
        let (this, name) = (Arc::clone(this), name.clone());
        Box::new(move |change: Change| {
            let wakes = matches!(change, Change::Forget | Change::Connected(_));
            this.lock().handle(Instant::now(), &name, change);
            if wakes {
                this.changed.notify_one();
            }
        })
    }

    /// Never ends.
    async fn reap(this: Arc<Mirrors>) {
        loop {
            let deadline = this.lock().deadline();
            tokio::select! {
                () = this.changed.notified() => {}
                () = until(deadline) => this.lock().reap(Instant::now()),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Mirror<Publisher>> {
        // The next listing of the cluster whose task panicked heals what it left.
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl Shared {
    /// What has not been copied in full, in words.
    fn missing(&self) -> Vec<String> {
        let stats = self.publisher.stats();
        let remotes = self.mesh.status();
        let readiness = &self.readiness;
        let elapsed = readiness.started.elapsed();
        let mut missing = Vec::new();
        if elapsed < readiness.global && !readiness.reached.load(Ordering::Relaxed) {
            let waited_for = remotes.iter().filter(|remote| remote.config.is_some() || elapsed < readiness.per_cluster);
            missing.extend(waited_for.filter_map(|remote| lacks(remote, &stats)));
        }
        if missing.is_empty() && stats.store != 0 {
            readiness.reached.store(true, Ordering::Relaxed);
        } else if missing.is_empty() {
            let why = stats.last_error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
            missing.push(format!("the local etcd has not answered yet{why}"));
        }
        self.telemetry.writer(&stats, missing.is_empty());
        self.telemetry.remotes(self.home.as_str(), &remotes);
        missing
    }
}

/// What keeps the copy of this cluster from being complete.
fn lacks(remote: &RemoteStatus, stats: &Stats) -> Option<String> {
    if !remote.ready {
        let why = remote.last_failure.as_ref().map_or("not read in full yet", |failure| &failure.message);
        return Some(format!("{}: {why}", remote.name));
    }
    let of_it = |name: &str| name.split_once('/').is_some_and(|(cluster, _)| cluster == remote.name.as_str());
    let unwritten = stats.groups.iter().find(|group| of_it(&group.name) && !group.synced)?;
    Some(format!("{}: {} keys not written yet", unwritten.name, unwritten.queued))
}

fn health_router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(|State(shared): State<Arc<Shared>>| async move { http::readiness(&shared.missing()) }))
        .with_state(shared)
}

fn api_router(shared: Arc<Shared>) -> Router {
    let cluster = |State(shared): State<Arc<Shared>>| async move {
        let status = shared.mesh.status();
        Json(status.iter().map(RemoteStatus::to_cilium).collect::<Vec<RemoteCluster>>())
    };
    let details = |State(shared): State<Arc<Shared>>| async move {
        Json(serde_json::json!({ "clusters": shared.mesh.status(), "problems": shared.mesh.problems() }))
    };
    // Cilium's client asks below /v1.
    Router::new()
        .route("/cluster", get(cluster))
        .route("/v1/cluster", get(cluster))
        .route("/details", get(details))
        .with_state(shared)
}

async fn serve_metrics(address: Option<std::net::SocketAddr>, shared: Arc<Shared>) -> anyhow::Result<()> {
    let Some(address) = address else { return std::future::pending().await };
    let metrics = |State(shared): State<Arc<Shared>>| async move {
        shared.missing();
        http::metrics(shared.telemetry.encode())
    };
    http::serve(address, "--prometheus-serve-addr", Router::new().route("/metrics", get(metrics)).with_state(shared))
        .await
}
