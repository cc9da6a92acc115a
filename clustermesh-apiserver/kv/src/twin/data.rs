//! Keys, their versions and their history (etcd's `mvcc`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;

use crate::op::{Entry, Event, LeaseId, Revision, Write};

#[derive(Debug)]
pub(super) struct Data {
    revision: Revision,
    compacted: Revision,
    keys: BTreeMap<Bytes, Vec<Version>>,
    /// Events by revision, from `compacted` on.
    history: BTreeMap<Revision, Vec<Event>>,
    leases: BTreeMap<LeaseId, BTreeSet<Bytes>>,
}

/// What a key held from a revision on; `None`: it was deleted.
#[derive(Debug)]
struct Version {
    revision: Revision,
    value: Option<Bytes>,
    lease: LeaseId,
}

impl Data {
    pub(super) fn new() -> Self {
        Self { revision: 1, compacted: 0, keys: BTreeMap::new(), history: BTreeMap::new(), leases: BTreeMap::new() }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Entry> {
        let (key, versions) = self.keys.get_key_value(key)?;
        entry_at(key, versions, self.revision)
    }

    /// At most `limit` entries as they were at `at`, and whether there are more.
    pub(super) fn range(&self, prefix: &[u8], after: Option<&Bytes>, limit: usize, at: Revision) -> (Vec<Entry>, bool) {
        let from = match after {
            Some(last) => Bound::Excluded(last.as_ref()),
            None => Bound::Included(prefix),
        };
        let mut found = self
            .keys
            .range::<[u8], _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, versions)| entry_at(key, versions, at));
        let entries: Vec<Entry> = found.by_ref().take(limit).collect();
        (entries, found.next().is_some())
    }

    /// What happened to keys under `prefix` at `from` and later.
    pub(super) fn events(&self, prefix: &[u8], from: Revision) -> Vec<Event> {
        let all = self.history.range(from..).flat_map(|(_, events)| events);
        all.filter(|event| event.key().starts_with(prefix)).cloned().collect()
    }

    /// One transaction. Its revision counts only if something changed.
    pub(super) fn write(&mut self, writes: &[Write]) {
        let revision = self.revision + 1;
        let mut events = Vec::new();
        for write in writes {
            match write {
                Write::Put { key, value, lease } => {
                    let key = Bytes::copy_from_slice(key.as_bytes());
                    self.set(&key, Version { revision, value: Some(value.clone()), lease: *lease });
                    events.push(Event::Put(Entry { key, value: value.clone(), mod_revision: revision }));
                }
                Write::Delete { key } => self.remove(vec![Bytes::copy_from_slice(key.as_bytes())], &mut events),
                Write::DeletePrefix { prefix } => {
                    let (found, _) = self.range(prefix.as_bytes(), None, usize::MAX, revision);
                    self.remove(found.into_iter().map(|entry| entry.key).collect(), &mut events);
                }
            }
        }
        self.commit(events);
    }

    pub(super) fn keys_of_lease(&self, lease: LeaseId) -> usize {
        self.leases.get(&lease).map_or(0, BTreeSet::len)
    }

    pub(super) fn delete_lease(&mut self, lease: LeaseId) {
        let keys = self.leases.remove(&lease).unwrap_or_default();
        let mut events = Vec::new();
        self.remove(keys.into_iter().collect(), &mut events);
        self.commit(events);
    }

    pub(super) fn compact(&mut self, revision: Revision) {
        self.compacted = revision.min(self.revision).max(self.compacted);
        self.history = self.history.split_off(&self.compacted);
        for versions in self.keys.values_mut() {
            let kept = versions.iter().rposition(|v| v.revision <= self.compacted).unwrap_or(0);
            versions.drain(..kept);
        }
        let compacted = self.compacted;
        self.keys.retain(|_, versions| {
            !versions.iter().all(|version| version.value.is_none() && version.revision <= compacted)
        });
    }

    fn commit(&mut self, events: Vec<Event>) {
        if !events.is_empty() {
            self.revision += 1;
            self.history.insert(self.revision, events);
        }
    }

    fn set(&mut self, key: &Bytes, version: Version) {
        let versions = self.keys.entry(key.clone()).or_default();
        if let Some(keys) = versions.last().and_then(|old| self.leases.get_mut(&old.lease)) {
            keys.remove(key);
        }
        if version.lease != 0 {
            self.leases.entry(version.lease).or_default().insert(key.clone());
        }
        versions.push(version);
    }

    fn remove(&mut self, keys: Vec<Bytes>, events: &mut Vec<Event>) {
        let revision = self.revision + 1;
        for key in keys {
            if self.keys.get(&key).and_then(|versions| versions.last()).is_some_and(|v| v.value.is_some()) {
                self.set(&key, Version { revision, value: None, lease: 0 });
                events.push(Event::Delete { key, mod_revision: revision });
            }
        }
    }
}

fn entry_at(key: &Bytes, versions: &[Version], at: Revision) -> Option<Entry> {
    let version = versions.iter().rev().find(|version| version.revision <= at)?;
    let value = version.value.clone()?;
    Some(Entry { key: key.clone(), value, mod_revision: version.revision })
}
