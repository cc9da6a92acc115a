//! What the caller wants at this moment: one cell per instance and per peer, so that a burst of calls costs one pass and
//! memory is bounded by the number of peers, not by the number of calls.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use causeway_bgp_core::{InstanceConfig, RouteSet};
use tokio::sync::Notify;

/// Shared between the handles and the owner task. A mutex, because setters are synchronous and a later value replaces an
/// earlier one; it is held for the copy of a few pointers only.
#[derive(Debug, Default)]
pub(crate) struct DesiredCell {
    inner: Mutex<Desired>,
    changed: Notify,
}

/// The wish itself. `dirty` sets say what the owner task has not looked at yet.
#[derive(Debug, Default)]
pub(crate) struct Desired {
    pub(crate) instances: BTreeMap<String, InstanceConfig>,
    pub(crate) dirty_instances: BTreeSet<String>,
    pub(crate) dirty_routes: BTreeMap<(String, String), Arc<RouteSet>>,
    pub(crate) dirty_complete: BTreeSet<String>,
}

/// One step for the owner task.
#[derive(Debug)]
pub(crate) enum Wish {
    Instance(InstanceConfig),
    Gone(String),
    Routes { instance: String, peer: String, routes: Arc<RouteSet> },
    Complete(String),
}

impl DesiredCell {
    pub(crate) fn set_instance(&self, config: InstanceConfig) {
        {
            let mut desired = self.lock();
            desired.dirty_instances.insert(config.name.clone());
            desired.instances.insert(config.name.clone(), config);
        }
        self.changed.notify_one();
    }

    pub(crate) fn remove_instance(&self, name: &str) {
        {
            let mut desired = self.lock();
            desired.instances.remove(name);
            desired.dirty_instances.insert(name.to_owned());
            desired.dirty_complete.remove(name);
            desired.dirty_routes.retain(|(instance, _), _| instance != name);
        }
        self.changed.notify_one();
    }

    pub(crate) fn set_routes(&self, instance: &str, peer: &str, routes: Arc<RouteSet>) {
        self.lock().dirty_routes.insert((instance.to_owned(), peer.to_owned()), routes);
        self.changed.notify_one();
    }

    pub(crate) fn routes_complete(&self, instance: &str) {
        self.lock().dirty_complete.insert(instance.to_owned());
        self.changed.notify_one();
    }

    /// Waits until there is something to [`take`](Self::take). Cancel-safe.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What changed since the last call: instances first, then routes, then completeness, so that End-of-RIB never
    /// overtakes a route that was set before it.
    pub(crate) fn take(&self) -> Vec<Wish> {
        let mut desired = self.lock();
        let mut wishes = Vec::new();
        for name in std::mem::take(&mut desired.dirty_instances) {
            wishes.push(match desired.instances.get(&name) {
                Some(config) => Wish::Instance(config.clone()),
                None => Wish::Gone(name),
            });
        }
        for ((instance, peer), routes) in std::mem::take(&mut desired.dirty_routes) {
            wishes.push(Wish::Routes { instance, peer, routes });
        }
        wishes.extend(std::mem::take(&mut desired.dirty_complete).into_iter().map(Wish::Complete));
        wishes
    }

    fn lock(&self) -> MutexGuard<'_, Desired> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
