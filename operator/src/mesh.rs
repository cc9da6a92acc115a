//! What the other clusters say, for the planners.
//!
//! Each remote cluster has a task of `causeway-mesh-remote`, which tells a `Listener`; the controller waits for
//! `Remotes::changed` and reads under the lock. Behind a mutex, and not behind a queue, because nobody may make such a
//! task wait and a queue would have no end; what is said twice stands here once. It is held for one change, or for one
//! plan.

mod cluster;
mod run;
mod shelf;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use causeway_k8s::Rejected;
use causeway_mesh_remote::{Change, Settings, Sink};
use causeway_mesh_schema::Kind;
use tokio::sync::Notify;

pub(crate) use cluster::{Cluster, Touched};
pub(crate) use run::read;

/// All remote clusters. A cheap handle; clones share everything.
#[derive(Clone, Debug)]
pub struct Remotes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    said: Mutex<Said>,
    changed: Notify,
}

/// What has been said so far.
#[derive(Debug)]
pub(crate) struct Said {
    settings: Arc<Settings>,
    /// By name: every cluster that is configured, whether it was reached or not.
    clusters: BTreeMap<String, Cluster>,
    /// Those of them that have no listener yet.
    unheard: BTreeSet<String>,
    /// The directory of configurations has been read; before, no cluster is known to be gone.
    complete: bool,
    touched: Touched,
}

impl Remotes {
    /// Knows no cluster yet. `settings` are those that the clusters are read with.
    #[must_use]
    pub fn new(settings: Arc<Settings>) -> Remotes {
        let said = Said {
            settings,
            clusters: BTreeMap::new(),
            unheard: BTreeSet::new(),
            complete: false,
            touched: Touched::default(),
        };
        Remotes { shared: Arc::new(Shared { said: Mutex::new(said), changed: Notify::new() }) }
    }

    /// A cluster of this name is configured, and its listener will come.
    pub(crate) fn expect(&self, cluster: &str) {
        self.change(|said| {
            said.clusters.entry(cluster.to_owned()).or_default();
            said.unheard.insert(cluster.to_owned());
            Touched::everything()
        });
    }

    /// Clusters that were expected, have no listener, and are no longer configured as `is_gone` says: none will come.
    pub(crate) fn give_up(&self, is_gone: impl Fn(&str) -> bool) {
        self.change(|said| {
            let gone: Vec<String> = said.unheard.iter().filter(|name| is_gone(name)).cloned().collect();
            for name in &gone {
                said.unheard.remove(name);
                said.clusters.remove(name);
            }
            if gone.is_empty() { Touched::default() } else { Touched::everything() }
        });
    }

    /// Takes the changes of `cluster`, which counts as configured until the listener is dropped.
    #[must_use]
    pub fn listener(&self, cluster: &str) -> Listener {
        self.change(|said| {
            said.clusters.entry(cluster.to_owned()).or_default();
            said.unheard.remove(cluster);
            Touched::everything()
        });
        Listener { remotes: self.clone(), cluster: cluster.to_owned() }
    }

    /// Every configured cluster has its listener; others do not exist.
    pub fn complete(&self) {
        self.change(|said| {
            said.complete = true;
            Touched::everything()
        });
    }

    /// Waits until something is touched. Cancel-safe.
    pub(crate) async fn changed(&self) {
        loop {
            let notified = self.shared.changed.notified();
            if !self.said().touched.is_empty() {
                return;
            }
            notified.await;
        }
    }

    /// What was touched since the last call.
    pub(crate) fn touched(&self) -> Touched {
        std::mem::take(&mut self.said().touched)
    }

    /// To be held for a plan, never across an await.
    pub(crate) fn said(&self) -> MutexGuard<'_, Said> {
        // A change that panicked half way left entries, each of them whole.
        self.shared.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Said) -> Touched) {
        let mut said = self.said();
        let touched = change(&mut said);
        said.touched.extend(touched);
        drop(said);
        self.shared.changed.notify_one();
    }
}

impl Said {
    /// Whether all configured clusters are known by name.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(crate) fn clusters(&self) -> impl Iterator<Item = (&str, &Cluster)> {
        self.clusters.iter().map(|(name, cluster)| (name.as_str(), cluster))
    }

    /// Configured clusters that may have exports which they have not told of.
    pub(crate) fn awaited_exports(&self) -> BTreeSet<&str> {
        self.clusters().filter(|(_, cluster)| cluster.awaits_exports(&self.settings)).map(|(name, _)| name).collect()
    }

    /// Configured clusters that may have backends which they have not told of.
    pub(crate) fn awaited_backends(&self) -> BTreeSet<&str> {
        self.clusters().filter(|(_, cluster)| cluster.awaits_backends(&self.settings)).map(|(name, _)| name).collect()
    }

    /// Entries of these kinds that could not be read.
    pub(crate) fn rejected(&self, of: impl Fn(Kind) -> bool) -> Vec<Rejected> {
        let faults = self.clusters().flat_map(|(name, cluster)| cluster.faults().map(move |fault| (name, fault)));
        faults
            .filter(|(_, (kind, _, _))| of(*kind))
            .map(|(cluster, (kind, name, invalid))| Rejected {
                kind: format!("{kind} of cluster {cluster}"),
                object: name.to_owned(),
                field: invalid.key.clone(),
                message: invalid.problem.clone(),
                remedy: invalid.remedy.clone(),
            })
            .collect()
    }
}

/// The [`Sink`] of one cluster. Dropped when the cluster is no longer configured.
#[derive(Debug)]
pub struct Listener {
    remotes: Remotes,
    cluster: String,
}

impl Sink for Listener {
    fn apply(&mut self, change: Change) {
        self.remotes.change(|said| match said.clusters.get_mut(&self.cluster) {
            Some(cluster) => cluster.apply(change),
            None => Touched::default(),
        });
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.remotes.change(|said| {
            said.clusters.remove(&self.cluster);
            Touched::everything()
        });
    }
}
