//! What all clusters' words end in: the tables, the store of remote addresses, and who owns which range. Shared by the
//! sinks of all clusters, by the task that follows this cluster's own nodes, and by the writer of the map.
//!
//! Locks: `nodes` is taken before any other. Nobody takes `ips` who holds a table's lock; the writer of the map looks into
//! the table of this cluster's own rows while it holds `ips`, so that order is the only one. The locks of `refusals` and
//! `progress` are taken last. All are held for operations in memory only, but for `ips`: who writes the map holds it over
//! the system calls, so that this cluster's own rows and remote ones never overtake each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use causeway_mesh_schema::{ClusterId, ClusterName};
use causeway_table::{Changes, Shared};
use tokio::sync::{Notify, watch};

use super::owners::{Effects, Overlap, Owner, Owners};
use super::progress::{Pending, Progress};
use super::refusals::Refusals;
use super::sink::ClusterSink;
use super::{Offer, OfferKey, RemoteNode, RemoteNodeKey};
use crate::control::ipcache::prefix::{Prefix, Ranges};
use crate::control::ipcache::remote::RemoteIps;
use crate::intent::Key;
use crate::intent::node::Node;
use crate::tables::Tables;

/// A node as its cluster says, and the ranges that only it may have.
pub(super) type NodeWords = (RemoteNode, BTreeSet<Prefix>);

/// Handle; clones name the same.
#[derive(Debug, Clone)]
pub(crate) struct Intake {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tables: Tables,
    ips: Mutex<RemoteIps>,
    /// The store has something for the writer.
    work: Notify,
    nodes: Mutex<Nodes>,
    refusals: Mutex<BTreeMap<ClusterName, Refusals>>,
    progress: Progress,
    /// This cluster's own nodes are known.
    local_known: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Nodes {
    owners: Owners,
    /// Refused ones, for the day they count.
    aside: BTreeMap<RemoteNodeKey, RemoteNode>,
    /// This cluster's nodes, with those of their addresses that nobody owns: the outer ones.
    locals: BTreeMap<Key, BTreeSet<IpAddr>>,
    /// These addresses. No backend of another cluster has one of them.
    outer: BTreeSet<(IpAddr, Key)>,
}

impl Intake {
    /// `left`: rows that an earlier process left in the map.
    pub(crate) fn new(tables: &Tables, left: impl IntoIterator<Item = (Prefix, u32)>) -> Intake {
        Intake {
            inner: Arc::new(Inner {
                tables: tables.clone(),
                ips: Mutex::new(RemoteIps::adopt(left)),
                work: Notify::new(),
                nodes: Mutex::default(),
                refusals: Mutex::default(),
                progress: Progress::default(),
                local_known: watch::Sender::new(false),
            }),
        }
    }

    pub(crate) fn sink(&self, name: &ClusterName) -> ClusterSink {
        ClusterSink::new(self.clone(), name.clone())
    }

    /// The store of remote addresses. After a change that the map needs, call [`Intake::wake`].
    pub(crate) fn ips(&self) -> MutexGuard<'_, RemoteIps> {
        lock(&self.inner.ips)
    }

    pub(crate) fn wake(&self) {
        self.inner.work.notify_one();
    }

    /// Waits for [`Intake::wake`]; one that came before is not lost. Cancel-safe.
    pub(crate) async fn work(&self) {
        self.inner.work.notified().await;
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.inner.progress
    }

    pub(super) fn tables(&self) -> &Tables {
        &self.inner.tables
    }

    pub(super) fn refusals<R>(&self, name: &ClusterName, f: impl FnOnce(&mut Refusals) -> R) -> R {
        f(lock(&self.inner.refusals).entry(name.clone()).or_default())
    }

    /// What of a cluster could not be used.
    pub(crate) fn refused_entries(&self, name: &ClusterName) -> Refusals {
        lock(&self.inner.refusals).get(name).cloned().unwrap_or_default()
    }

    /// A cluster's nodes that overlap others, and why.
    pub(crate) fn refused_nodes(&self, cluster: ClusterId) -> Vec<(String, Overlap)> {
        let nodes = lock(&self.inner.nodes);
        nodes.owners.refused(cluster.get()).map(|(name, why)| (name.to_owned(), why.clone())).collect()
    }

    /// True once this cluster's own nodes are known.
    pub(crate) fn local_known(&self) -> watch::Receiver<bool> {
        self.inner.local_known.subscribe()
    }

    /// Nodes of a cluster came, changed or went.
    pub(super) fn remote_nodes(&self, cluster: ClusterId, words: Vec<(Box<str>, Option<NodeWords>)>) {
        let mut nodes = lock(&self.inner.nodes);
        let mut ranges = Vec::new();
        self.inner.tables.mesh_nodes.write(|table| {
            for (name, words) in words {
                let owner = Owner::Remote(cluster.get(), name.clone());
                let key = (cluster, name);
                let (row, prefixes) = words.map_or((None, BTreeSet::new()), |(row, prefixes)| (Some(row), prefixes));
                // One that has nothing of its own collides with nobody.
                let owns_nothing = prefixes.is_empty();
                let mut effects = nodes.owners.set(&owner, prefixes);
                effects.accepted.retain(|(other, _)| *other != owner);
                nodes.aside.remove(&key);
                match row {
                    Some(row) if owns_nothing || nodes.owners.is_accepted(&owner) => {
                        table.set(key, row);
                    }
                    Some(row) => {
                        table.delete(&key);
                        nodes.aside.insert(key, row);
                    }
                    None => {
                        table.delete(&key);
                    }
                }
                ranges.extend(nodes.move_rows(effects, table));
            }
        });
        self.judge_offers(&nodes, ranges.iter().map(|(range, _)| *range));
        self.own(ranges);
    }

    /// Offers of a cluster came, changed or went.
    pub(super) fn offers(&self, batch: Vec<(OfferKey, Option<(Offer, Pending)>)>) {
        // Held over the write, so that no range changes hands between the judgement and the table.
        let nodes = lock(&self.inner.nodes);
        let progress = self.progress();
        self.inner.tables.mesh_offers.write(|t| {
            for (key, row) in batch {
                let Some((mut offer, pending)) = row else {
                    t.delete(&key);
                    continue;
                };
                offer.foreign = nodes.foreign(key.cluster, &offer);
                // Told before the table wakes those who write the rows.
                if t.get(&key).is_none_or(|old| **old != offer) {
                    progress.service_changed(&key.service, pending);
                    t.set(key, offer);
                } else {
                    progress.service_unchanged(&key.service, pending);
                }
            }
        });
    }

    /// Looks again at the offers with backends in these ranges. Ranges change with nodes, which is rare enough to look
    /// through all offers; only those with another verdict are written.
    fn judge_offers(&self, nodes: &Nodes, ranges: impl Iterator<Item = Prefix>) {
        let mut changed = Ranges::default();
        for range in ranges {
            changed.insert(range, ());
        }
        if changed.is_empty() {
            return;
        }
        self.inner.tables.mesh_offers.write(|t| {
            let within = |offer: &Offer| offer.addresses().any(|ip| changed.around(Prefix::host(ip)).next().is_some());
            let touched = t.iter().filter(|(_, offer)| within(offer));
            let judged: Vec<(OfferKey, Offer)> = touched
                .filter_map(|(key, offer)| {
                    let foreign = nodes.foreign(key.cluster, offer);
                    (foreign != offer.foreign).then(|| (key.clone(), Offer { foreign, ..Offer::clone(offer) }))
                })
                .collect();
            for (key, offer) in judged {
                t.set(key, offer);
            }
        });
    }

    /// Follows this cluster's own nodes for ever.
    pub(crate) async fn follow_nodes(self, nodes: Shared<Key, Node>) {
        let mut reader = nodes.reader();
        loop {
            let synced = nodes.synced();
            self.local_nodes(reader.changes(), &nodes);
            if synced {
                self.inner.local_known.send_replace(true);
            }
            // If it became so between the two looks, nobody wakes us any more.
            if nodes.synced() == synced {
                reader.changed().await;
            }
        }
    }

    pub(super) fn local_nodes(&self, changes: Changes<Key>, table: &Shared<Key, Node>) {
        let mut nodes = lock(&self.inner.nodes);
        let keys: BTreeSet<Key> = match changes {
            Changes::Keys(keys) => keys.into_iter().collect(),
            Changes::Reset => {
                let known = table.read(|t| t.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>());
                known.into_iter().chain(nodes.locals.keys().cloned()).collect()
            }
        };
        let (mut ranges, mut outer) = (Vec::new(), Vec::new());
        self.inner.tables.mesh_nodes.write(|remote| {
            for key in keys {
                let node = table.get(&key);
                outer.extend(nodes.set_outer(&key, node.as_deref()));
                let prefixes = node.map(|node| owned(&node)).unwrap_or_default();
                let effects = nodes.owners.set(&Owner::Local(key), prefixes);
                ranges.extend(nodes.move_rows(effects, remote));
            }
        });
        self.judge_offers(&nodes, ranges.iter().map(|(range, _)| *range).chain(outer));
        self.own(ranges);
    }

    fn own(&self, ranges: Vec<(Prefix, Option<u16>)>) {
        if ranges.is_empty() {
            return;
        }
        let mut ips = self.ips();
        for (range, owner) in ranges {
            ips.own(range, owner);
        }
        drop(ips);
        self.wake();
    }
}

impl Nodes {
    /// Endpoints of the offer that are not its cluster's, by address, and whose they are.
    fn foreign(&self, cluster: ClusterId, offer: &Offer) -> Box<[(IpAddr, u16)]> {
        let mut foreign: Vec<(IpAddr, u16)> = offer
            .addresses()
            .filter_map(|ip| {
                let ours = || self.is_outer(ip).then_some(0);
                Some((ip, self.owners.other_owner(ip, cluster.get()).or_else(ours)?))
            })
            .collect();
        foreign.sort_unstable();
        foreign.dedup();
        foreign.into()
    }

    fn is_outer(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.outer.range((ip, Key::new("", ""))..).next().is_some_and(|(outer, _)| *outer == ip)
    }

    /// Follows a node of this cluster. Gives the addresses that came or went.
    fn set_outer(&mut self, key: &Key, node: Option<&Node>) -> Vec<Prefix> {
        let addresses = node.into_iter().flat_map(|node| node.addresses.iter());
        let now: BTreeSet<IpAddr> = addresses.filter(|a| !a.internal).map(|a| a.ip).collect();
        let before = match node {
            Some(_) => self.locals.insert(key.clone(), now.clone()),
            None => self.locals.remove(key),
        };
        let before = before.unwrap_or_default();
        for ip in before.difference(&now) {
            self.outer.remove(&(*ip, key.clone()));
        }
        self.outer.extend(now.difference(&before).map(|ip| (*ip, key.clone())));
        before.symmetric_difference(&now).map(|ip| Prefix::host(*ip)).collect()
    }

    /// Moves the rows of nodes that count from now on, or no longer. Gives the ranges that changed hands.
    fn move_rows(
        &mut self,
        effects: Effects,
        table: &mut causeway_table::Table<RemoteNodeKey, RemoteNode>,
    ) -> Vec<(Prefix, Option<u16>)> {
        for (owner, accepted) in effects.accepted {
            let Owner::Remote(cluster, name) = owner else { continue };
            let Ok(cluster) = ClusterId::try_from(u32::from(cluster)) else { continue };
            let key = (cluster, name);
            if accepted {
                if let Some(row) = self.aside.remove(&key) {
                    table.set(key, row);
                }
            } else if let Some(row) = table.get(&key).map(|row| RemoteNode::clone(row)) {
                table.delete(&key);
                self.aside.insert(key, row);
            }
        }
        effects.ranges
    }
}

/// What only this node may have.
fn owned(node: &Node) -> BTreeSet<Prefix> {
    let inner = node.addresses.iter().filter(|a| a.internal).map(|a| Prefix::host(a.ip));
    inner.chain(node.pod_cidrs.iter().copied().map(Prefix::from)).collect()
}

/// Nothing that holds one of the locks can stop halfway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
