//! One remote cluster's words, typed and sorted into the [`Intake`]. Called from that cluster's task; holds no value, only
//! which names there are.
//!
//! While a kind is being listed, rows are gathered and written a few hundred at a time, so that readers of the tables are
//! woken less. A value that cannot be used is counted and named, and what was good before stays, as with Kubernetes
//! objects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use causeway_mesh_remote::{Change, RemoteInfo, Sink, Stage};
use causeway_mesh_schema::{ClusterEndpointSlice, ClusterName, Invalid, IpIdentity, Kind, Value, read};

use super::intake::{Intake, NodeWords};
use super::progress::Pending;
use super::{Offer, OfferKey, RemoteCluster, rows};
use crate::control::ipcache::prefix::Prefix;
use crate::control::ipcache::remote::{Complete, Entry, Put};
use crate::intent::Stamp;
use crate::intent::cilium::Identity;

/// Rows that are gathered before the tables are written.
const BATCH: usize = 512;

/// When a change was made, as its EndpointSlice says (Kubernetes).
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

pub(crate) struct ClusterSink {
    intake: Intake,
    name: ClusterName,
    info: Option<Arc<RemoteInfo>>,
    stage: Stage,
    names: BTreeMap<Kind, BTreeMap<Box<str>, Seen>>,
    /// The store that each kind was last listed from to the end.
    stores: BTreeMap<Kind, u64>,
    /// Kinds that are being listed, and from which store.
    listing: BTreeMap<Kind, Option<u64>>,
    batch: Batch,
}

/// An entry that has been used.
#[derive(Debug)]
struct Seen {
    revision: u64,
    /// By the listing that runs, if one does.
    listed: bool,
    /// The offer that it became.
    offer: Option<OfferKey>,
}

#[derive(Default)]
struct Batch {
    nodes: Vec<(Box<str>, Option<NodeWords>)>,
    identities: Vec<(u32, Option<Identity>)>,
    offers: Vec<(OfferKey, Option<(Offer, Pending)>)>,
}

impl Sink for ClusterSink {
    fn apply(&mut self, change: Change) {
        let part_of_listing = match &change {
            Change::Put { kind, .. } | Change::Deleted { kind, .. } => self.listing.contains_key(kind),
            _ => false,
        };
        match change {
            Change::Connected(info) => {
                self.info = Some(info);
                self.publish();
            }
            Change::Stage(stage) => {
                self.stage = stage;
                self.publish();
            }
            Change::Relisting(kind) => self.relisting(kind),
            Change::Put { kind, name, value, revision, store } => {
                self.put(kind, &name, &value, number(revision), store);
            }
            Change::Deleted { kind, name, revision } => self.delete(kind, &name, number(revision)),
            Change::Listed(kind) => self.listed(kind),
            Change::Forget => self.forget(),
        }
        if !part_of_listing || self.batch.len() >= BATCH {
            self.flush();
        }
    }
}

impl ClusterSink {
    pub(super) fn new(intake: Intake, name: ClusterName) -> ClusterSink {
        ClusterSink {
            intake,
            name,
            info: None,
            stage: Stage::Fresh,
            names: BTreeMap::new(),
            stores: BTreeMap::new(),
            listing: BTreeMap::new(),
            batch: Batch::default(),
        }
    }

    fn publish(&self) {
        if let Some(info) = &self.info {
            let row = RemoteCluster { info: info.clone(), stage: self.stage };
            self.intake.tables().mesh_clusters.set(info.origin.id, row);
        }
    }

    fn relisting(&mut self, kind: Kind) {
        self.listing.insert(kind, None);
        self.intake.refusals(&self.name, |r| r.relisting(kind));
        self.names.entry(kind).or_default().values_mut().for_each(|seen| seen.listed = false);
        if let (Kind::Ips, Some(info)) = (kind, &self.info) {
            self.intake.ips().relisting(info.origin.id.get());
        }
    }

    fn put(&mut self, kind: Kind, name: &str, value: &Bytes, revision: u64, store: u64) {
        let Some(info) = self.info.clone() else { return };
        if let Some(from) = self.listing.get_mut(&kind) {
            *from = Some(store);
        }
        let same_store = self.stores.get(&kind) == Some(&store);
        if same_store && self.known(kind, name, revision) {
            return;
        }
        if !same_store {
            self.stores.remove(&kind);
        }
        let received = Instant::now();
        let used = read(kind, name, value, &info.origin).and_then(|value| {
            self.intake.refusals(&self.name, |r| r.clear(kind, name));
            self.take(name, value, revision, received, &info)
        });
        if let Err(invalid) = used {
            self.keep(kind, name);
            self.intake.refusals(&self.name, |r| r.add(kind, name, &invalid));
        }
    }

    /// Whether the entry is known in this revision; then it is marked as listed.
    fn known(&mut self, kind: Kind, name: &str, revision: u64) -> bool {
        if kind == Kind::Ips {
            let (Some(info), Some(prefix)) = (&self.info, Prefix::parse(name)) else { return false };
            return self.intake.ips().known(info.origin.id.get(), prefix, revision);
        }
        let seen = self.names.get_mut(&kind).and_then(|names| names.get_mut(name));
        let Some(seen) = seen.filter(|seen| seen.revision == revision) else { return false };
        seen.listed = true;
        true
    }

    /// The new value is no good: the old one, if there is one, serves on.
    fn keep(&mut self, kind: Kind, name: &str) {
        if kind == Kind::Ips {
            if let (Some(info), Some(prefix)) = (&self.info, Prefix::parse(name)) {
                self.intake.ips().keep(info.origin.id.get(), prefix);
            }
        } else if let Some(seen) = self.names.get_mut(&kind).and_then(|names| names.get_mut(name)) {
            seen.listed = true;
        }
    }

    fn take(
        &mut self,
        name: &str,
        value: Value,
        revision: u64,
        received: Instant,
        info: &RemoteInfo,
    ) -> Result<(), Invalid> {
        let cluster = info.origin.id;
        let pending = |age| Pending { cluster: cluster.get(), revision, received, age };
        match value {
            Value::Node(node) => {
                self.batch.nodes.push((name.into(), Some(rows::node(&node))));
                self.seen(Kind::Nodes, name, revision, None);
            }
            Value::Identity { id, labels } => {
                self.batch.identities.push((id, Some(Identity { labels })));
                self.seen(Kind::Identities, name, revision, None);
            }
            Value::Ip(ip) => self.take_ip(&ip, revision, received, info),
            Value::Service(service) => {
                let (key, offer) = rows::service(&service, cluster, Stamp(received));
                self.offer(Kind::Services, name, key, offer, pending(None));
            }
            Value::EndpointSlice(slice) => {
                let (key, offer) = rows::slice(name, &slice, cluster, Stamp(received))?;
                self.offer(Kind::EndpointSlices, name, key, offer, pending(age(&slice)));
            }
            // The operator's.
            Value::ServiceExport(_) => {}
        }
        Ok(())
    }

    fn take_ip(&mut self, ip: &IpIdentity, revision: u64, received: Instant, info: &RemoteInfo) {
        let (id, prefix) = (info.origin.id.get(), Prefix::from(ip.prefix));
        let entry = Entry { identity: ip.identity, host: ip.host_ip, revision };
        let single = (!self.listing.contains_key(&Kind::Ips)).then_some(received);
        let put = self.intake.ips().put(id, prefix, entry, single);
        match put {
            Put::Queued => self.intake.wake(),
            Put::Settled => self.intake.progress().ip(id, prefix, revision, single, false),
            // It may have taken another one's place, which the map has to let go.
            Put::Withheld => self.intake.wake(),
        }
    }

    fn offer(&mut self, kind: Kind, name: &str, key: OfferKey, offer: Offer, pending: Pending) {
        let before = self.seen(kind, name, pending.revision, Some(key.clone()));
        // A slice may come to belong to another Service.
        if let Some(before) = before.filter(|before| *before != key) {
            self.batch.offers.push((before, None));
        }
        self.batch.offers.push((key, Some((offer, pending))));
    }

    /// Gives the offer that the entry was before.
    fn seen(&mut self, kind: Kind, name: &str, revision: u64, offer: Option<OfferKey>) -> Option<OfferKey> {
        let seen = Seen { revision, listed: true, offer };
        self.names.entry(kind).or_default().insert(name.into(), seen).and_then(|seen| seen.offer)
    }

    fn delete(&mut self, kind: Kind, name: &str, revision: u64) {
        self.intake.refusals(&self.name, |r| r.clear(kind, name));
        if kind == Kind::Ips {
            if let (Some(info), Some(prefix)) = (&self.info, Prefix::parse(name)) {
                self.intake.ips().delete(info.origin.id.get(), prefix, revision, Some(Instant::now()));
                self.intake.wake();
            }
            return;
        }
        if let Some(seen) = self.names.get_mut(&kind).and_then(|names| names.remove(name)) {
            self.gone(kind, name, seen);
        }
    }

    fn gone(&mut self, kind: Kind, name: &str, seen: Seen) {
        match kind {
            Kind::Nodes => self.batch.nodes.push((name.into(), None)),
            Kind::Identities => self.batch.identities.extend(name.parse().ok().map(|id| (id, None))),
            Kind::Services | Kind::EndpointSlices => {
                self.batch.offers.extend(seen.offer.map(|key| (key, None)));
            }
            Kind::Ips | Kind::ServiceExports => {}
        }
    }

    fn listed(&mut self, kind: Kind) {
        self.intake.refusals(&self.name, |r| r.listed(kind));
        // An empty list says nothing of its store: the next one is read without trust.
        match self.listing.remove(&kind).flatten() {
            Some(store) => self.stores.insert(kind, store),
            None => self.stores.remove(&kind),
        };
        if let (Kind::Ips, Some(info)) = (kind, &self.info) {
            let mut ips = self.intake.ips();
            ips.listed(info.origin.id.get());
            ips.complete(&Complete::Remote { identities: info.origin.scale.identities(Some(info.origin.id)) });
            drop(ips);
            self.intake.wake();
        }
        let names = self.names.entry(kind).or_default();
        let stale: Vec<_> = names.extract_if(.., |_, seen| !seen.listed).collect();
        for (name, seen) in stale {
            self.gone(kind, &name, seen);
        }
        self.flush();
    }

    fn forget(&mut self) {
        self.flush();
        for (kind, names) in std::mem::take(&mut self.names) {
            for (name, seen) in names {
                self.gone(kind, &name, seen);
            }
        }
        self.flush();
        self.intake.refusals(&self.name, super::refusals::Refusals::clear_all);
        self.stores.clear();
        self.listing.clear();
        // How old its words had become is nothing to the next ones.
        self.stage = Stage::Fresh;
        if let Some(info) = self.info.take() {
            self.intake.ips().forget(info.origin.id.get());
            self.intake.wake();
            self.intake.progress().forget(info.origin.id.get());
            self.intake.tables().mesh_clusters.delete(&info.origin.id);
        }
    }

    /// Writes what was gathered.
    fn flush(&mut self) {
        let Some(info) = &self.info else { return };
        let batch = std::mem::take(&mut self.batch);
        if !batch.nodes.is_empty() {
            self.intake.remote_nodes(info.origin.id, batch.nodes);
        }
        let tables = self.intake.tables();
        if !batch.identities.is_empty() {
            tables.mesh_identities.write(|t| {
                for (id, row) in batch.identities {
                    match row {
                        Some(row) => t.set(id, row),
                        None => t.delete(&id),
                    };
                }
            });
        }
        if !batch.offers.is_empty() {
            self.intake.offers(batch.offers);
        }
    }
}

impl Batch {
    fn len(&self) -> usize {
        self.nodes.len() + self.identities.len() + self.offers.len()
    }
}

/// etcd counts from 1.
fn number(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

/// How old the change is by the other cluster's clock; `None` where it does not say, or its clock is ahead of ours.
fn age(slice: &ClusterEndpointSlice) -> Option<Duration> {
    let at: jiff::Timestamp = slice.annotations.get(TRIGGER_TIME)?.parse().ok()?;
    SystemTime::now().duration_since(SystemTime::from(at)).ok()
}
