//! A cluster: its store, and the writer that keeps entries, canaries, configuration and heartbeat in it under a lease.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use causeway_mesh_kv::{FailureKind, LeaseId, Op, Outcome, Revision, SessionId, Ticket, Twin, Write};
use causeway_mesh_remote::RemoteInfo;
use causeway_mesh_schema::{
    Capabilities, ClusterConfig, ClusterName, ExportMode, HEARTBEAT, Kind, Layout, cluster_config_key,
};
use rand::RngExt as _;
use rand::rngs::StdRng;

pub(crate) struct Writer {
    pub(crate) name: ClusterName,
    pub(crate) id: u32,
    pub(crate) twin: Twin,
    store: u64,
    pub(crate) can: Capabilities,
    /// The reference: what every reader must know in the end.
    pub(crate) model: BTreeMap<Kind, BTreeMap<String, String>>,
    /// Changed in the model, and not yet in the store.
    backlog: BTreeSet<(Kind, String)>,
    /// Written when everything is in the store, and then not before this.
    canaries_due: Option<Duration>,
    lease: LeaseId,
    ticket: u64,
    counter: u64,
    beats: u64,
    /// Of each key: the last revision that took it away, per store.
    lost: BTreeMap<(u64, String), Revision>,
    /// Data sets in which canaries were written.
    synced: BTreeSet<u64>,
    /// It does nothing until then.
    pub(crate) asleep: Duration,
}

const SESSION: SessionId = SessionId(u64::MAX);
pub(crate) const LEASE: Duration = Duration::from_secs(60);
const NAMES: u32 = 5;

impl Writer {
    pub(crate) fn new(name: &str, id: u32, store: u64, rng: &mut StdRng) -> Writer {
        let can = Capabilities {
            synced_canaries: rng.random_bool(0.8),
            cached: rng.random_bool(0.3),
            max_connected_clusters: 255,
            service_exports_enabled: rng.random_bool(0.7).then_some(true),
            endpoint_slices_export_mode: mode(rng),
        };
        let mut writer = Writer {
            name: ClusterName::parse(name).unwrap(),
            id,
            twin: Twin::new(store),
            store,
            can,
            model: Kind::ALL.into_iter().map(|kind| (kind, BTreeMap::new())).collect(),
            backlog: BTreeSet::new(),
            canaries_due: Some(Duration::ZERO),
            lease: 0,
            ticket: 0,
            counter: 0,
            beats: 0,
            lost: BTreeMap::new(),
            synced: BTreeSet::new(),
            asleep: Duration::ZERO,
        };
        for _ in 0..rng.random_range(0..30) {
            writer.change(rng);
        }
        writer
    }

    fn layout(&self) -> Layout {
        if self.can.cached { Layout::Cache } else { Layout::State }
    }

    fn key(&self, kind: Kind, name: &str) -> String {
        kind.key(self.layout(), &self.name, name)
    }

    /// Whether a reader of this configuration would find the kind.
    pub(crate) fn offers(&self, kind: Kind, info: &RemoteInfo) -> bool {
        let can = &info.config.capabilities;
        match kind {
            Kind::Services => can.endpoint_slices_export_mode != ExportMode::EndpointSlices,
            Kind::EndpointSlices => can.endpoint_slices_export_mode == ExportMode::EndpointSlices,
            Kind::ServiceExports => can.service_exports_enabled.is_some(),
            Kind::Nodes | Kind::Identities | Kind::Ips => true,
        }
    }

    /// Whether what was written at `revision` of `store` has gone from there, or the store itself has.
    pub(crate) fn has_lost(&self, kind: Kind, name: &str, store: u64, revision: Revision) -> bool {
        let layouts = [Layout::State, Layout::Cache];
        let lost = |layout: Layout| self.lost.get(&(store, kind.key(layout, &self.name, name)));
        store != self.store || layouts.into_iter().filter_map(lost).any(|at| *at > revision)
    }

    /// Whether canaries have been written in this data set.
    pub(crate) fn has_synced(&self, store: u64) -> bool {
        self.synced.contains(&store)
    }

    /// One random change of the model.
    pub(crate) fn change(&mut self, rng: &mut StdRng) {
        let kind = Kind::ALL[rng.random_range(0..Kind::ALL.len())];
        let name = format!("n{}", rng.random_range(0..NAMES));
        let table = self.model.get_mut(&kind).unwrap();
        if rng.random_bool(0.4) {
            table.remove(&name);
        } else {
            self.counter += 1;
            table.insert(name.clone(), format!("{}|{}|{}", self.name, self.id, self.counter));
        }
        self.backlog.insert((kind, name));
    }

    /// The cluster gets another number: everything is written again with it.
    pub(crate) fn renumber(&mut self, id: u32) {
        self.id = id;
        for (kind, table) in &mut self.model {
            for (name, value) in table {
                let mut words: Vec<&str> = value.split('|').collect();
                let text = id.to_string();
                words[1] = &text;
                *value = words.join("|");
                self.backlog.insert((*kind, name.clone()));
            }
        }
        self.write_config();
    }

    /// Another way of exporting Services.
    pub(crate) fn reconfigure(&mut self, rng: &mut StdRng) {
        self.can.endpoint_slices_export_mode = mode(rng);
        self.write_config();
    }

    /// The store comes back empty, as another data set. The writer will find out.
    pub(crate) fn wipe(&mut self, store: u64) {
        self.twin.wipe(store);
        self.store = store;
    }

    pub(crate) fn lose_lease(&mut self) {
        self.twin.drop_lease(self.lease);
        self.note_lost(self.all_keys());
    }

    /// The store's own clock.
    pub(crate) fn tick(&mut self, at: Instant) {
        let leases = self.twin.leases().len();
        self.twin.tick(at);
        if self.twin.leases().len() != leases {
            self.note_lost(self.all_keys());
        }
    }

    pub(crate) fn compact(&mut self, back: Revision) {
        let revision = (self.twin.revision() - back).max(1);
        self.twin.compact(revision);
    }

    pub(crate) fn delay_canaries(&mut self, until: Duration) {
        if let Some(due) = &mut self.canaries_due {
            *due = until;
        }
    }

    /// Everything of the model is in the store.
    pub(crate) fn is_done(&self) -> bool {
        self.backlog.is_empty() && self.canaries_due.is_none()
    }

    /// Keeps its lease, beats, writes a part of its backlog, and canaries after it.
    pub(crate) fn step(&mut self, now: Duration, at: Instant, beat: bool, rng: &mut StdRng) {
        if now < self.asleep {
            return;
        }
        if self.lease == 0 || self.ask(Op::KeepAlive { lease: self.lease }, at) == Some(Duration::ZERO) {
            self.begin(now, at);
        }
        if beat {
            self.beats += 1;
            let value = format!("beat {}", self.beats);
            self.put(HEARTBEAT.to_owned(), value, at);
        }
        let part: Vec<_> = self.backlog.iter().take(rng.random_range(1..8)).cloned().collect();
        for (kind, name) in part {
            self.write(kind, &name, at);
        }
        if self.backlog.is_empty() && self.canaries_due.is_some_and(|due| due <= now) {
            self.canaries_due = None;
            self.synced.insert(self.store);
            for kind in Kind::ALL {
                self.put(kind.canary(self.layout(), &self.name), "synced".to_owned(), at);
            }
        }
    }

    /// The store is empty, or new.
    fn begin(&mut self, now: Duration, at: Instant) {
        self.ask(Op::Grant { ttl: LEASE }, at);
        self.lease = self.twin.leases().last().map_or(0, |(id, _)| *id);
        self.write_config();
        self.canaries_due = Some(now);
        for (kind, table) in &self.model {
            self.backlog.extend(table.keys().map(|name| (*kind, name.clone())));
        }
    }

    fn write_config(&mut self) {
        let config = ClusterConfig { id: self.id, capabilities: self.can.clone() };
        self.twin.put(&cluster_config_key(&self.name), config.encode());
    }

    fn write(&mut self, kind: Kind, name: &str, at: Instant) {
        let key = self.key(kind, name);
        match self.model[&kind].get(name).cloned() {
            Some(value) => self.put(key, value, at),
            None => {
                self.ask(Op::Write { writes: vec![Write::Delete { key: key.clone() }] }, at);
                self.note_lost(vec![key]);
            }
        }
        self.backlog.remove(&(kind, name.to_owned()));
    }

    fn put(&mut self, key: String, value: String, at: Instant) {
        let write = Write::Put { key, value: value.into(), lease: self.lease };
        self.ask(Op::Write { writes: vec![write] }, at);
    }

    /// Asks the store; the time left of a lease, if that was asked.
    fn ask(&mut self, op: Op, at: Instant) -> Option<Duration> {
        self.ticket += 1;
        self.twin.submit(SESSION, Ticket(self.ticket), op, at);
        match self.twin.take(SESSION).pop()?.outcome {
            Outcome::Lease { ttl, .. } => Some(ttl),
            Outcome::Failed(failure) if failure.kind == FailureKind::LeaseGone => Some(Duration::ZERO),
            Outcome::Failed(failure) => panic!("{failure}"),
            _ => None,
        }
    }

    fn all_keys(&self) -> Vec<String> {
        let of = |(kind, table): (&Kind, &BTreeMap<String, String>)| {
            table.keys().map(|name| self.key(*kind, name)).collect::<Vec<_>>()
        };
        let late = self.backlog.iter().map(|(kind, name)| self.key(*kind, name));
        self.model.iter().flat_map(of).chain(late).collect()
    }

    fn note_lost(&mut self, keys: Vec<String>) {
        let (store, revision) = (self.store, self.twin.revision());
        for key in keys {
            self.lost.insert((store, key), revision);
        }
    }
}

fn mode(rng: &mut StdRng) -> ExportMode {
    [ExportMode::Services, ExportMode::Both, ExportMode::EndpointSlices][rng.random_range(0..3)]
}
