//! Metrics with Cilium's names: `cilium_clustermesh_apiserver_*` of `clustermesh`, `cilium_kvstoremesh_*` of `kvstoremesh`,
//! and ours under `causeway_`. Everything is read at the moment of the scrape.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use causeway_mesh_kv::Stats;
use causeway_mesh_remote::{RemoteStatus, Stage};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Real = Gauge<f64, AtomicU64>;

/// Of one of the two writers.
pub(crate) struct Telemetry {
    registry: Registry,
    writer: Writer,
    remotes: Remotes,
    rejected: Family<KindLabel, Gauge>,
    started: Instant,
}

#[derive(Default)]
struct Writer {
    bootstrap: Real,
    queue_size: Family<ScopeLabels, Gauge>,
    synced: Family<SyncLabels, Gauge>,
    errors: Counter,
    keys: Family<ScopeLabels, Gauge>,
    leases: Gauge,
    written: Counter,
}

#[derive(Default)]
struct Remotes {
    number: Gauge,
    failures: Family<TargetLabels, Gauge>,
    last_failure: Family<TargetLabels, Real>,
    ready: Family<TargetLabels, Gauge>,
    entries: Family<EntryLabels, Gauge>,
    silent: Family<TargetLabels, Real>,
    stale: Family<TargetLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScopeLabels {
    scope: String,
    source_cluster: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SyncLabels {
    scope: String,
    source_cluster: String,
    action: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TargetLabels {
    source_cluster: String,
    target_cluster: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EntryLabels {
    target_cluster: String,
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// The name of a group of keys, which carries the labels of its metrics.
pub(crate) fn group_name(cluster: &str, scope: &str) -> String {
    format!("{cluster}/{scope}")
}

impl Telemetry {
    pub(crate) fn clustermesh() -> Telemetry {
        let mut telemetry = Telemetry::with_writer("cilium_clustermesh_apiserver");
        let help = "Objects of which something is not exported because of a bad field";
        let own = telemetry.registry.sub_registry_with_prefix("causeway_clustermesh_apiserver");
        own.register("rejected_objects", help, telemetry.rejected.clone());
        telemetry
    }

    pub(crate) fn kvstoremesh() -> Telemetry {
        let mut telemetry = Telemetry::with_writer("cilium_kvstoremesh");
        let remotes = &telemetry.remotes;
        let cilium = telemetry.registry.sub_registry_with_prefix("cilium_kvstoremesh");
        cilium.register("remote_clusters", "Remote clusters", remotes.number.clone());
        cilium.register(
            "remote_cluster_failures",
            "Failures of a remote cluster's connection",
            remotes.failures.clone(),
        );
        let help = "When a remote cluster failed last, in seconds since 1970";
        cilium.register("remote_cluster_last_failure_ts", help, remotes.last_failure.clone());
        let help = "Whether everything that a remote cluster offers is being followed";
        cilium.register("remote_cluster_readiness_status", help, remotes.ready.clone());
        let own = telemetry.registry.sub_registry_with_prefix("causeway_kvstoremesh");
        own.register("remote_entries", "Entries of a remote cluster", remotes.entries.clone());
        own.register("remote_silent_seconds", "How long a remote cluster has been silent", remotes.silent.clone());
        own.register("remote_stale", "1 when a remote cluster is silent", remotes.stale.clone());
        telemetry
    }

    fn with_writer(prefix: &str) -> Telemetry {
        let mut registry = Registry::default();
        let writer = Writer::default();
        let cilium = registry.sub_registry_with_prefix(prefix);
        let help = "Seconds from the start until everything had been written once; 0 before";
        cilium.register("bootstrap_seconds", help, writer.bootstrap.clone());
        let help = "Keys whose newest value is not in the store yet";
        cilium.register("kvstore_sync_queue_size", help, writer.queue_size.clone());
        let help = "Whether the first complete set is in the store";
        cilium.register("kvstore_initial_sync_completed", help, writer.synced.clone());
        cilium.register("kvstore_sync_errors", "Failed operations on the store", writer.errors.clone());
        let own = registry.sub_registry_with_prefix(if prefix.ends_with("apiserver") {
            "causeway_clustermesh_apiserver"
        } else {
            "causeway_kvstoremesh"
        });
        own.register("keys", "Keys that shall be in the store", writer.keys.clone());
        own.register("leases", "Leases held", writer.leases.clone());
        own.register("written_keys", "Keys put or deleted", writer.written.clone());
        Telemetry {
            registry,
            writer,
            remotes: Remotes::default(),
            rejected: Family::default(),
            started: Instant::now(),
        }
    }

    /// Call it with every look at the writer: the first one that finds everything synced ends the bootstrap.
    pub(crate) fn writer(&self, stats: &Stats, complete: bool) {
        let writer = &self.writer;
        writer.queue_size.clear();
        writer.synced.clear();
        writer.keys.clear();
        for group in &stats.groups {
            let (cluster, scope) = group.name.split_once('/').unwrap_or(("", &group.name));
            let (scope, source_cluster) = (scope.to_owned(), cluster.to_owned());
            let labels = ScopeLabels { scope: scope.clone(), source_cluster: source_cluster.clone() };
            writer.queue_size.get_or_create(&labels).set(count(group.queued));
            writer.keys.get_or_create(&labels).set(count(group.keys));
            let labels = SyncLabels { scope, source_cluster, action: "write" };
            writer.synced.get_or_create(&labels).set(i64::from(group.synced));
        }
        writer.errors.inner().store(stats.errors, Ordering::Relaxed);
        writer.written.inner().store(stats.written, Ordering::Relaxed);
        writer.leases.set(count(stats.leases));
        if complete && writer.bootstrap.get() == 0.0 {
            writer.bootstrap.set(self.started.elapsed().as_secs_f64());
        }
    }

    pub(crate) fn rejected(&self, kind: &'static str, number: usize) {
        self.rejected.get_or_create(&KindLabel { kind }).set(count(number));
    }

    pub(crate) fn remotes(&self, own: &str, all: &[RemoteStatus]) {
        let remotes = &self.remotes;
        remotes.number.set(count(all.len()));
        remotes.failures.clear();
        remotes.last_failure.clear();
        remotes.ready.clear();
        remotes.entries.clear();
        remotes.silent.clear();
        remotes.stale.clear();
        for status in all {
            let target_cluster = status.name.to_string();
            let labels = TargetLabels { source_cluster: own.to_owned(), target_cluster: target_cluster.clone() };
            remotes.failures.get_or_create(&labels).set(i64::try_from(status.failures).unwrap_or(i64::MAX));
            remotes.ready.get_or_create(&labels).set(i64::from(status.ready));
            remotes.stale.get_or_create(&labels).set(i64::from(status.stage != Stage::Fresh));
            remotes.silent.get_or_create(&labels).set(status.silent_for_s.unwrap_or(0.0));
            if let Some(at) =
                status.last_failure.as_ref().and_then(|failure| failure.at.parse::<jiff::Timestamp>().ok())
            {
                remotes.last_failure.get_or_create(&labels).set(at.as_duration().as_secs_f64());
            }
            for kind in &status.kinds {
                let labels = EntryLabels { target_cluster: target_cluster.clone(), kind: kind.kind.to_string() };
                remotes.entries.get_or_create(&labels).set(count(kind.entries));
            }
        }
    }

    pub(crate) fn encode(&self) -> String {
        let mut body = String::new();
        text::encode(&mut body, &self.registry).expect("writing to a String does not fail");
        body
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ciliums() {
        let telemetry = Telemetry::clustermesh();
        let mut publish = crate::store::publish(causeway_mesh_kv::Settings::default());
        let group = causeway_mesh_kv::Group { name: group_name("east", "nodes/v1"), ..Default::default() };
        let id = publish.add_group(group);
        publish.set(id, "k", "v".into());
        telemetry.writer(&publish.stats(), false);
        telemetry.rejected("Service", 2);
        let text = telemetry.encode();
        for line in [
            "cilium_clustermesh_apiserver_kvstore_sync_queue_size{scope=\"nodes/v1\",source_cluster=\"east\"} 1",
            "cilium_clustermesh_apiserver_kvstore_initial_sync_completed{scope=\"nodes/v1\",source_cluster=\"east\",action=\"write\"} 0",
            "cilium_clustermesh_apiserver_kvstore_sync_errors_total 0",
            "cilium_clustermesh_apiserver_bootstrap_seconds 0.0",
            "causeway_clustermesh_apiserver_rejected_objects{kind=\"Service\"} 2",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
