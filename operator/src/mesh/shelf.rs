//! The entries of one kind that one remote cluster has, in the typed form.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use causeway_mesh_kv::Revision;

/// Entries by the name that they have in the cluster's key space.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    entries: BTreeMap<Box<str>, Entry<T>>,
    /// Names that the running listing has not named yet.
    unseen: Option<BTreeSet<Box<str>>>,
    listed: bool,
}

#[derive(Debug)]
struct Entry<T> {
    /// Data set and revision: when both are as before, so is the value.
    written: (u64, Revision),
    value: Arc<T>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Shelf { entries: BTreeMap::new(), unseen: None, listed: false }
    }
}

impl<T> Shelf<T> {
    pub(super) fn get(&self, name: &str) -> Option<&Arc<T>> {
        self.entries.get(name).map(|entry| &entry.value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Arc<T>)> {
        self.entries.iter().map(|(name, entry)| (&**name, &entry.value))
    }

    /// Whether a whole listing has been seen. Before that, absence means nothing.
    pub(super) fn listed(&self) -> bool {
        self.listed
    }

    pub(super) fn relisting(&mut self) {
        self.unseen = Some(self.entries.keys().cloned().collect());
    }

    /// Whether the value of `name` is known already; marks it as seen.
    pub(super) fn see(&mut self, name: &str, written: (u64, Revision)) -> bool {
        if let Some(unseen) = &mut self.unseen {
            unseen.remove(name);
        }
        self.entries.get(name).is_some_and(|entry| entry.written == written)
    }

    pub(super) fn put(&mut self, name: Box<str>, written: (u64, Revision), value: T) -> Option<Arc<T>> {
        self.entries.insert(name, Entry { written, value: Arc::new(value) }).map(|entry| entry.value)
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Arc<T>> {
        if let Some(unseen) = &mut self.unseen {
            unseen.remove(name);
        }
        self.entries.remove(name).map(|entry| entry.value)
    }

    /// The listing is complete: gives out what it did not name.
    pub(super) fn sweep(&mut self) -> Vec<(Box<str>, Arc<T>)> {
        self.listed = true;
        let gone = self.unseen.take().unwrap_or_default();
        gone.into_iter().filter_map(|name| self.entries.remove(&name).map(|entry| (name, entry.value))).collect()
    }
}
