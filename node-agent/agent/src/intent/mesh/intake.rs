//! What all clusters' words end in: the tables, the store of remote addresses, and who owns which range. Shared by the
//! sinks of all clusters, by the task that follows this cluster's own nodes, and by the writer of the map.
//!
//! Locks are taken in the order `nodes`, a table's, `ips`, and held for map operations only; the writer holds `ips` over a
//! batch of map writes, so that this cluster's own rows and remote ones never overtake each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use causeway_mesh_schema::{ClusterId, ClusterName};
use causeway_table::{Changes, Shared};
use tokio::sync::{Notify, watch};

use super::owners::{Effects, Overlap, Owner, Owners};
use super::progress::Progress;
use super::refusals::Refusals;
use super::sink::ClusterSink;
use super::{RemoteNode, RemoteNodeKey};
use crate::control::ipcache::prefix::Prefix;
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
    locals: BTreeSet<Key>,
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
                let mut effects = nodes.owners.set(&owner, prefixes);
                effects.accepted.retain(|(other, _)| *other != owner);
                nodes.aside.remove(&key);
                match row {
                    Some(row) if nodes.owners.is_accepted(&owner) => {
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
        self.own(ranges);
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
            reader.changed().await;
        }
    }

    pub(super) fn local_nodes(&self, changes: Changes<Key>, table: &Shared<Key, Node>) {
        let mut nodes = lock(&self.inner.nodes);
        let keys: BTreeSet<Key> = match changes {
            Changes::Keys(keys) => keys.into_iter().collect(),
            Changes::Reset => {
                let known = table.read(|t| t.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>());
                known.into_iter().chain(nodes.locals.iter().cloned()).collect()
            }
        };
        let mut ranges = Vec::new();
        self.inner.tables.mesh_nodes.write(|remote| {
            for key in keys {
                let prefixes = table.get(&key).map(|node| owned(&node)).unwrap_or_default();
                if prefixes.is_empty() {
                    nodes.locals.remove(&key);
                } else {
                    nodes.locals.insert(key.clone());
                }
                let effects = nodes.owners.set(&Owner::Local(key), prefixes);
                ranges.extend(nodes.move_rows(effects, remote));
            }
        });
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
