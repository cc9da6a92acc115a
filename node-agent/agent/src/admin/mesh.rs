//! What the admin socket and the metrics show of other clusters.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use causeway_api::ErrorBody;
use causeway_api::mesh::{
    IpcacheWork, KindStatus, Latency, MeshStatus, MeshTrace, MeshTraceParams, ProbeCounts, Refusal, RemoteCluster,
};
use causeway_api::status::{Component, Health};
use causeway_mesh_remote::{Mesh, RemoteStatus};
use causeway_mesh_schema::{ClusterId, Kind};

use super::families::{counter, gauge, sample};
use super::views::component;
use super::{Admin, Running};
use crate::intent::mesh::{Offer, OfferKey, Target, latency};
use crate::intent::slice::{Slice, SlicePort};
use crate::metrics::{Family, Sample};

/// Conflicts of a kind that are named.
const MAX_NAMED: usize = 16;

/// Events of the trace in one answer unless asked for more.
const DEFAULT_EVENTS: usize = 10_000;

impl Admin {
    pub(super) fn mesh_status(&self) -> Result<MeshStatus, ErrorBody> {
        let running = self.running()?;
        let config = &self.config.mesh;
        let mut status = MeshStatus {
            note: config.off().unwrap_or_default(),
            node: self.config.node_name.clone(),
            cluster: self.config.cluster_name.to_string(),
            cluster_id: config.id.map_or(0, ClusterId::get),
            max_connected_clusters: config.scale.max_clusters(),
            synced: self.tables.mesh_offers.synced(),
            ipcache: work(running),
            global_services: self.global_services(),
            ..MeshStatus::default()
        };
        if let Some(counts) = &running.probes {
            let counts = *counts.borrow();
            status.probes = ProbeCounts { targets: counts.targets, dead: counts.dead };
        }
        if let Some(mesh) = &running.mesh {
            status.enabled = true;
            status.clusters = mesh.status().iter().map(|remote| self.cluster(running, remote)).collect();
            let problems = problems(mesh);
            let all = status.clusters.iter().all(|c| c.ready) && problems.is_empty();
            status.ready = all && status.synced && status.ipcache.pending == 0;
            status.note = problems.join("; ");
        }
        Ok(status)
    }

    pub(super) fn mesh_trace(&self, params: &MeshTraceParams) -> Result<MeshTrace, ErrorBody> {
        let progress = self.running()?.intake.progress();
        if let Some(on) = params.enable {
            progress.switch(on);
        }
        Ok(progress.trace(params.from, params.limit.unwrap_or(DEFAULT_EVENTS)))
    }

    /// A cluster that is away degrades this node's health as little as its services: it is shown, and that is all.
    pub(super) fn mesh(&self, running: &Running) -> Component {
        let Some(mesh) = &running.mesh else {
            return component("clustermesh", Health::Disabled, self.config.mesh.off().unwrap_or_default());
        };
        let clusters = mesh.status();
        let ready = clusters.iter().filter(|c| c.ready).count();
        let trouble = clusters.iter().find(|c| !c.ready).map(|c| format!("{}: {}", c.name, c.in_words()));
        let trouble = problems(mesh).into_iter().next().or(trouble);
        let text = format!("{ready} of {} clusters ready", clusters.len());
        match (trouble, self.tables.mesh_offers.synced()) {
            (None, _) => component("clustermesh", Health::Ok, text),
            (Some(trouble), true) => component("clustermesh", Health::Ok, format!("{text}; {trouble}")),
            (Some(trouble), false) => component("clustermesh", Health::Degraded, format!("{text}, waiting; {trouble}")),
        }
    }

    /// Names of the clusters that have been read.
    pub(super) fn cluster_names(&self) -> BTreeMap<ClusterId, String> {
        self.tables.mesh_clusters.read(|t| t.iter().map(|(id, c)| (*id, c.info.origin.name.to_string())).collect())
    }

    /// Services of ours that others have backends for.
    fn global_services(&self) -> usize {
        let offered: BTreeSet<_> = self.tables.mesh_offers.read(|t| t.iter().map(|(k, _)| k.service.clone()).collect());
        self.tables.services.read(|t| offered.iter().filter(|key| t.get(key).is_some()).count())
    }

    fn cluster(&self, running: &Running, remote: &RemoteStatus) -> RemoteCluster {
        let entries = |kind| remote.kinds.iter().find(|k| k.kind == kind).map_or(0, |k| k.entries);
        let mut shown = RemoteCluster {
            name: remote.name.to_string(),
            id: remote.id.map(ClusterId::get),
            connected: remote.connected,
            connected_since: remote.connected_since.clone().unwrap_or_default(),
            ready: remote.ready,
            stage: remote.stage.to_string(),
            silent_for_s: remote.silent_for_s.map(seconds),
            failures: remote.failures,
            last_failure: remote.link_error.clone().unwrap_or_default(),
            cached: remote.config.as_ref().is_some_and(|c| c.capabilities.cached),
            kinds: remote.kinds.iter().filter(|k| k.offered || k.entries > 0).map(kind_status).collect(),
            newest_data_age_ms: remote.newest_data_age_s.map(millis),
            heartbeat_age_ms: remote.heartbeat_age_s.map(millis),
            nodes: entries(Kind::Nodes),
            identities: entries(Kind::Identities),
            endpoints: entries(Kind::Ips),
            services: entries(Kind::Services).max(entries(Kind::EndpointSlices)),
            cilium: serde_json::to_value(remote.to_cilium()).unwrap_or_default(),
            ..RemoteCluster::default()
        };
        if let Some(failure) = &remote.last_failure {
            shown.last_failure = failure.message.clone();
            shown.last_failure_at = failure.at.clone();
        }
        if let Some(certificate) = &remote.certificate {
            shown.certificate_expires = certificate.expires.clone().unwrap_or_default();
            shown.certificate_expires_in_s = certificate.expires_in_s.map(whole);
        }
        let refused = running.intake.refused_entries(&remote.name);
        shown.rejected = refused.total();
        shown.refusals = refused
            .named()
            .map(|(kind, name, why)| Refusal {
                kind: kind.to_string(),
                name: name.to_owned(),
                conflict: false,
                problem: why.problem.clone(),
                remedy: why.remedy.clone(),
            })
            .collect();
        if let Some(id) = remote.id {
            self.conflicts(running, id, &mut shown);
            shown.latency = latencies(running, id);
            shown.probes = self.probes_of(id);
        }
        shown
    }

    fn conflicts(&self, running: &Running, id: ClusterId, shown: &mut RemoteCluster) {
        let names = self.cluster_names();
        let owner = |number: u16| match ClusterId::try_from(u32::from(number)).ok() {
            None => "this cluster".to_owned(),
            Some(id) => names.get(&id).map_or_else(|| format!("cluster {id}"), |name| format!("cluster {name}")),
        };
        let nodes = running.intake.refused_nodes(id);
        let (counts, ips) = {
            let ips = running.intake.ips();
            (ips.counts(id.get()), ips.withheld(id.get(), MAX_NAMED))
        };
        let offers = self.foreign_offers(id);
        shown.conflicts = (nodes.len() + counts.refused + counts.contested + offers.len()) as u64;
        shown.conflicts_dropped = counts.dropped;
        shown.left_out = counts.left_out;
        shown.refusals.extend(nodes.into_iter().take(MAX_NAMED).map(|(name, why)| {
            let theirs = owner(why.owner.cluster());
            conflict(Kind::Nodes, name, format!("{} overlaps {} of {theirs}", why.prefix, why.with))
        }));
        shown.refusals.extend(ips.into_iter().map(|(prefix, other)| {
            conflict(Kind::Ips, prefix.to_string(), format!("the address belongs to {}", owner(other)))
        }));
        let named = offers.iter().take(MAX_NAMED).filter_map(|(key, offer)| foreign_backends(key, offer, &owner));
        shown.refusals.extend(named);
    }

    /// Entries of the cluster with backends that are not its own.
    fn foreign_offers(&self, id: ClusterId) -> Vec<(OfferKey, Arc<Offer>)> {
        self.tables.mesh_offers.read(|t| {
            let foreign = t.iter().filter(|(key, offer)| key.cluster == id && !offer.foreign.is_empty());
            foreign.map(|(key, offer)| (key.clone(), offer.clone())).collect()
        })
    }

    /// Of the cluster's backends those that have been probed, and those that are dead.
    fn probes_of(&self, id: ClusterId) -> ProbeCounts {
        let backends: BTreeSet<Target> = self.tables.mesh_offers.read(|t| {
            let slices = t.iter().filter(|(key, _)| key.cluster == id).flat_map(|(_, offer)| offer.slices.iter());
            slices.flat_map(|slice| targets(slice)).collect()
        });
        let mut counts = ProbeCounts::default();
        self.tables.target_health.read(|t| {
            for (_, health) in t.iter().filter(|(target, _)| backends.contains(target)) {
                counts.targets += 1;
                counts.dead += usize::from(!health.alive);
            }
        });
        counts
    }
}

fn conflict(kind: Kind, name: String, problem: String) -> Refusal {
    let remedy = "give each cluster addresses of its own".to_owned();
    Refusal { kind: kind.to_string(), name, conflict: true, problem, remedy }
}

/// `None`: all backends are the cluster's own.
fn foreign_backends(key: &OfferKey, offer: &Offer, owner: &impl Fn(u16) -> String) -> Option<Refusal> {
    let (ip, other) = offer.foreign.first()?;
    let more = match offer.foreign.len() - 1 {
        0 => String::new(),
        n => format!(", and {n} more are not its own"),
    };
    let problem = format!("the backend {ip} belongs to {}{more}", owner(*other));
    let namespace = &key.service.namespace;
    Some(match &*key.slice {
        "" => conflict(Kind::Services, key.service.to_string(), problem),
        slice => conflict(Kind::EndpointSlices, format!("{namespace}/{slice}"), problem),
    })
}

fn targets(slice: &Slice) -> impl Iterator<Item = Target> {
    let of_port = |port: &SlicePort| {
        let (number, proto) = (port.port, port.proto);
        slice.endpoints.iter().map(move |e| Target { addr: SocketAddr::new(e.address, number), proto })
    };
    slice.ports.iter().flat_map(of_port)
}

fn work(running: &Running) -> IpcacheWork {
    let progress = running.intake.progress();
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let ips = running.intake.ips();
    IpcacheWork {
        rows: ips.len(),
        pending: ips.waiting(),
        upserts: read(&progress.upserts),
        deletes: read(&progress.deletes),
        unchanged: ips.unchanged() + read(&progress.unchanged),
        unclaimed: ips.unclaimed(),
        error: progress.error(),
    }
}

fn kind_status(kind: &causeway_mesh_remote::KindStatus) -> KindStatus {
    KindStatus {
        kind: kind.kind.to_string(),
        synced: kind.synced,
        entries: kind.entries as u64,
        checksum: kind.checksum.to_string(),
        last_list_ms: kind.last_list_ms,
        listings: kind.listings,
    }
}

fn latencies(running: &Running, id: ClusterId) -> Vec<Latency> {
    let all = running.intake.progress().latencies(id.get());
    let told = |of: &str, l: &latency::Latency| Latency {
        of: of.to_owned(),
        count: l.count(),
        p50_us: l.quantile_us(500),
        p99_us: l.quantile_us(990),
    };
    vec![told("ip", &all.ip), told("services", &all.services), told("trigger", &all.trigger)]
}

/// Files of the directory that cannot be used.
fn problems(mesh: &Mesh) -> Vec<String> {
    mesh.problems().iter().map(ToString::to_string).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "a length of time in seconds")]
fn whole(s: f64) -> i64 {
    s as i64
}

fn seconds(s: f64) -> u64 {
    whole(s).unsigned_abs()
}

fn millis(s: f64) -> u64 {
    whole(s * 1000.0).unsigned_abs()
}

/// Names are Cilium's where it has them.
pub(super) fn families(admin: &Admin) -> Vec<Family> {
    let Ok(status) = admin.mesh_status() else { return Vec::new() };
    let own = (status.cluster.clone(), status.node.clone());
    let labels = |c: &RemoteCluster| {
        let (cluster, node) = own.clone();
        vec![("source_cluster", cluster), ("source_node_name", node), ("target_cluster", c.name.clone())]
    };
    let per_cluster = |value: fn(&RemoteCluster) -> u64| -> Vec<Sample> {
        status.clusters.iter().map(|c| sample(labels(c), value(c))).collect()
    };
    let source = vec![("source_cluster", own.0.clone()), ("source_node_name", own.1.clone())];
    let one = |value: u64| vec![sample(source.clone(), value)];
    let mut families = cilium_families(&per_cluster, &one, &status);
    families.extend(own_families(&per_cluster, &labels, &status));
    families.push(gauge(
        "causeway_clustermesh_change_to_map_microseconds",
        "From a remote change's arrival (trigger: from the change, by the other cluster's clock) to the datapath's maps",
        latency_samples(&status, &labels),
    ));
    if let Some(counts) = admin.running.get().and_then(|r| r.probes.as_ref()) {
        let counts = *counts.borrow();
        families.push(gauge(
            "causeway_clustermesh_probe_targets",
            "Remote backends that are probed",
            vec![
                sample(vec![("state", "all".into())], counts.targets as u64),
                sample(vec![("state", "dead".into())], counts.dead as u64),
            ],
        ));
        families.push(counter(
            "causeway_clustermesh_probes",
            "Probes of remote backends that have ended; unsent: for a reason of this host",
            vec![
                sample(vec![("outcome", "answered".into())], counts.answered),
                sample(vec![("outcome", "failed".into())], counts.failures),
                sample(vec![("outcome", "unsent".into())], counts.unsent),
            ],
        ));
    }
    families
}

fn cilium_families(
    per_cluster: &impl Fn(fn(&RemoteCluster) -> u64) -> Vec<Sample>,
    one: &impl Fn(u64) -> Vec<Sample>,
    status: &MeshStatus,
) -> Vec<Family> {
    vec![
        gauge(
            "cilium_clustermesh_remote_clusters",
            "Other clusters that are configured",
            one(status.clusters.len() as u64),
        ),
        gauge(
            "cilium_clustermesh_remote_cluster_readiness_status",
            "1: the cluster is connected and read",
            per_cluster(|c| u64::from(c.ready)),
        ),
        gauge("cilium_clustermesh_remote_cluster_failures", "Failures of the connection", per_cluster(|c| c.failures)),
        gauge(
            "cilium_clustermesh_remote_cluster_last_failure_ts",
            "When the connection failed last, in seconds since 1970",
            per_cluster(|c| unix(&c.last_failure_at)),
        ),
        gauge("cilium_clustermesh_remote_cluster_nodes", "Nodes of the cluster", per_cluster(|c| c.nodes as u64)),
        gauge("cilium_clustermesh_remote_cluster_services", "Services it shares", per_cluster(|c| c.services as u64)),
        gauge("cilium_clustermesh_remote_cluster_endpoints", "Its addresses", per_cluster(|c| c.endpoints as u64)),
        gauge(
            "cilium_clustermesh_global_services",
            "Services with remote backends",
            one(status.global_services as u64),
        ),
    ]
}

fn own_families(
    per_cluster: &impl Fn(fn(&RemoteCluster) -> u64) -> Vec<Sample>,
    labels: &impl Fn(&RemoteCluster) -> Vec<(&'static str, String)>,
    status: &MeshStatus,
) -> Vec<Family> {
    let work = &status.ipcache;
    let writes = [("upsert", work.upserts), ("delete", work.deletes), ("unchanged", work.unchanged)];
    vec![
        gauge(
            "causeway_clustermesh_silent_seconds",
            "How long nothing has been heard of the cluster",
            per_cluster(|c| c.silent_for_s.unwrap_or(0)),
        ),
        gauge(
            "causeway_clustermesh_newest_data_age_milliseconds",
            "Age of the newest entry of the cluster",
            per_cluster(|c| c.newest_data_age_ms.unwrap_or(0)),
        ),
        gauge(
            "causeway_clustermesh_heartbeat_age_milliseconds",
            "Age of the newest heartbeat of the cluster: no entry is older news",
            per_cluster(|c| c.heartbeat_age_ms.unwrap_or(0)),
        ),
        gauge(
            "causeway_clustermesh_conflicts",
            "Entries that collide with ours or another cluster's",
            per_cluster(|c| c.conflicts),
        ),
        counter(
            "causeway_clustermesh_conflicts_dropped",
            "Entries in conflict that there was no room to remember",
            per_cluster(|c| c.conflicts_dropped),
        ),
        counter(
            "causeway_clustermesh_ipcache_left_out",
            "Addresses that the ipcache had no room for",
            per_cluster(|c| c.left_out),
        ),
        counter("causeway_clustermesh_rejected_entries", "Entries that cannot be used", per_cluster(|c| c.rejected)),
        gauge(
            "causeway_clustermesh_certificate_expiry_seconds",
            "Until our certificate for the cluster expires; 0: it has",
            certificate_samples(status, labels),
        ),
        gauge("causeway_clustermesh_ipcache_rows", "Remote addresses", vec![sample(vec![], work.rows as u64)]),
        gauge(
            "causeway_clustermesh_ipcache_pending",
            "Of these, not programmed",
            vec![sample(vec![], work.pending as u64)],
        ),
        counter(
            "causeway_clustermesh_ipcache_writes",
            "What remote addresses cost the map; unchanged: nothing",
            writes.into_iter().map(|(action, n)| sample(vec![("action", action.into())], n)).collect(),
        ),
    ]
}

/// A certificate of which nothing is known has not expired: no sample.
fn certificate_samples(
    status: &MeshStatus,
    labels: &impl Fn(&RemoteCluster) -> Vec<(&'static str, String)>,
) -> Vec<Sample> {
    let known = status.clusters.iter().filter_map(|c| Some((c, c.certificate_expires_in_s?)));
    known.map(|(c, s)| sample(labels(c), u64::try_from(s).unwrap_or(0))).collect()
}

fn latency_samples(
    status: &MeshStatus,
    labels: &impl Fn(&RemoteCluster) -> Vec<(&'static str, String)>,
) -> Vec<Sample> {
    let mut samples = Vec::new();
    for cluster in &status.clusters {
        for latency in cluster.latency.iter().filter(|l| l.count > 0) {
            for (quantile, value) in [("0.5", latency.p50_us), ("0.99", latency.p99_us)] {
                let mut labels = labels(cluster);
                labels.push(("kind", latency.of.clone()));
                labels.push(("quantile", quantile.into()));
                samples.push(sample(labels, value));
            }
        }
    }
    samples
}

/// Seconds since 1970; 0 where there was no such time.
fn unix(rfc3339: &str) -> u64 {
    rfc3339.parse::<jiff::Timestamp>().ok().and_then(|t| u64::try_from(t.as_second()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_with_backends_of_others_is_a_conflict() {
        let cluster = ClusterId::try_from(2).unwrap();
        let named = |slice: &str, foreign: &[(&str, u16)]| {
            let key = OfferKey { service: crate::intent::Key::new("shop", "web"), cluster, slice: slice.into() };
            let foreign = foreign.iter().map(|(ip, owner)| (ip.parse().unwrap(), *owner)).collect();
            let offer = Offer { shared: true, slices: Box::default(), foreign };
            let shown = foreign_backends(&key, &offer, &|owner| format!("#{owner}"))?;
            Some(format!("{} {} {}: {}", shown.conflict, shown.kind, shown.name, shown.problem))
        };
        assert_eq!(named("", &[]), None);
        let one = "true services shop/web: the backend 10.1.0.5 belongs to #0";
        assert_eq!(named("", &[("10.1.0.5", 0)]).unwrap(), one);
        let two = "true endpointslices shop/web-1: the backend 10.3.0.5 belongs to #3, and 1 more are not its own";
        assert_eq!(named("web-1", &[("10.3.0.5", 3), ("10.3.0.6", 3)]).unwrap(), two);
    }

    #[test]
    fn an_unknown_certificate_is_no_expired_one() {
        let cluster = |name: &str, left| RemoteCluster {
            name: name.into(),
            certificate_expires_in_s: left,
            ..RemoteCluster::default()
        };
        let clusters = vec![cluster("a", None), cluster("b", Some(-5)), cluster("c", Some(60))];
        let status = MeshStatus { clusters, ..MeshStatus::default() };
        let samples = certificate_samples(&status, &|c| vec![("target_cluster", c.name.clone())]);
        let shown: Vec<String> = samples.iter().map(|s| format!("{} {}", s.labels[0].1, s.value)).collect();
        assert_eq!(shown, ["b 0", "c 60"]);
    }
}
