//! What a controller remembers of a table: a typed view of each object, kept up to date from the store's log.
//!
//! The store is in the same process, so a controller that pulls before it decides sees its own last writes: no expectations,
//! no stale caches.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::api::Api;
use crate::kinds::Resource;
use crate::store::Key;

/// Taken from the log at a time.
const BATCH: usize = 1024;

pub(super) struct Feed<T> {
    api: Arc<Api>,
    pub(super) resource: Arc<Resource>,
    cursor: Option<u64>,
    changed: watch::Receiver<u64>,
    rows: BTreeMap<Key, Arc<T>>,
}

/// A row that came, changed or went.
pub(super) struct Change<T> {
    pub(super) key: Key,
    pub(super) before: Option<Arc<T>>,
    pub(super) now: Option<Arc<T>>,
}

impl<T: DeserializeOwned> Feed<T> {
    pub(super) fn new(api: &Arc<Api>, group: &str, plural: &str) -> Self {
        Self::of(api, &api.registry.builtin(group, plural))
    }

    pub(super) fn of(api: &Arc<Api>, resource: &Arc<Resource>) -> Self {
        let mut changed = api.store.subscribe(&resource.table);
        changed.mark_changed();
        Self { api: api.clone(), resource: resource.clone(), cursor: None, changed, rows: BTreeMap::new() }
    }

    /// Waits until there may be something to pull.
    pub(super) async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            // The store is gone with the server.
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Arc<T>> {
        self.rows.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<T>)> {
        self.rows.iter()
    }

    pub(super) fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = (&'a Key, &'a Arc<T>)> {
        self.rows.range(Key::new(namespace, "")..).take_while(move |(key, _)| key.namespace == namespace)
    }

    /// Everything that happened since the last pull.
    pub(super) fn pull(&mut self) -> Vec<Change<T>> {
        let mut changes = Vec::new();
        loop {
            let Some(cursor) = self.cursor else {
                self.relist(&mut changes);
                return changes;
            };
            match self.api.store.events(&self.resource.table, cursor, BATCH) {
                Ok((events, upto)) => {
                    let full = events.len() == BATCH;
                    for event in events {
                        let Some(key) = event.now.as_ref().or(event.before.as_ref()).map(|o| o.key.clone()) else {
                            continue;
                        };
                        let now = event.now.as_ref().and_then(|object| self.view(object));
                        self.set(key, now, &mut changes);
                    }
                    self.cursor = Some(upto);
                    if !full {
                        return changes;
                    }
                }
                // Fell behind the log: compare with what is there now.
                Err(_) => self.cursor = None,
            }
        }
    }

    fn view(&self, object: &crate::store::Object) -> Option<Arc<T>> {
        match object.view() {
            Ok(view) => Some(Arc::new(view)),
            Err(error) => {
                tracing::warn!(table = &*self.resource.table, name = object.key.name, %error, "object not understood, left alone");
                None
            }
        }
    }

    fn set(&mut self, key: Key, now: Option<Arc<T>>, changes: &mut Vec<Change<T>>) {
        let before = match &now {
            Some(view) => self.rows.insert(key.clone(), view.clone()),
            None => self.rows.remove(&key),
        };
        if before.is_some() || now.is_some() {
            changes.push(Change { key, before, now });
        }
    }

    fn relist(&mut self, changes: &mut Vec<Change<T>>) {
        let snapshot = self.api.store.list(&self.resource.table, None);
        let mut gone: Vec<Key> = self.rows.keys().cloned().collect();
        gone.retain(|key| snapshot.objects.binary_search_by(|o| o.key.cmp(key)).is_err());
        for key in gone {
            self.set(key, None, changes);
        }
        for object in &snapshot.objects {
            let now = self.view(object);
            self.set(object.key.clone(), now, changes);
        }
        self.cursor = Some(snapshot.revision);
    }
}
