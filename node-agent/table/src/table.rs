//! The table itself: rows by key, revisions, and the keys that changed since a revision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Counts changes of one table. 0 is "before everything": `changes_since(0)` names every row.
pub type Revision = u64;

/// Deletions that a table remembers. A reader that is further behind than this is told to start over
/// ([`Changes::Reset`]), which costs it one full comparison and loses nothing.
pub const MAX_TOMBSTONES: usize = 4096;

/// A row and the revision of its last change.
#[derive(Debug, PartialEq, Eq)]
pub struct Row<V> {
    pub value: Arc<V>,
    pub revision: Revision,
}

/// Copies the reference; the value need not be `Clone`.
impl<V> Clone for Row<V> {
    fn clone(&self) -> Self {
        Row { value: self.value.clone(), revision: self.revision }
    }
}

/// Keys that changed since a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes<K> {
    /// These keys were set or deleted; each once, in the order of their last change.
    Keys(Vec<K>),
    /// Deletions from that far back are forgotten: compare everything.
    Reset,
}

/// Rows by key. Setting a row to the value it has changes nothing, so that readers are not woken for nothing.
///
/// A snapshot is a reference count; the first write while one is held copies the map's spine, never the values.
#[derive(Debug)]
pub struct Table<K, V> {
    rows: Arc<BTreeMap<K, Row<V>>>,
    /// Exactly one entry per key that is alive or remembered as deleted.
    by_revision: BTreeMap<Revision, K>,
    tombstones: BTreeMap<K, Revision>,
    /// Of the tombstones, so that the oldest is found at once.
    deletions: BTreeSet<Revision>,
    /// Changes at or before this revision may be deletions that were forgotten.
    floor: Revision,
    revision: Revision,
    synced: bool,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Table {
            rows: Arc::default(),
            by_revision: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            deletions: BTreeSet::new(),
            floor: 0,
            revision: 0,
            synced: false,
        }
    }
}

impl<K: Ord + Clone, V: PartialEq> Table<K, V> {
    pub fn get(&self, key: &K) -> Option<&Arc<V>> {
        self.rows.get(key).map(|r| &r.value)
    }

    pub fn row(&self, key: &K) -> Option<&Row<V>> {
        self.rows.get(key)
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &Arc<V>)> {
        self.rows.iter().map(|(k, r)| (k, &r.value))
    }

    /// Rows from `from` on, in the order of keys.
    pub fn iter_from(&self, from: &K) -> impl DoubleEndedIterator<Item = (&K, &Arc<V>)> {
        self.rows.range(from..).map(|(k, r)| (k, &r.value))
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The rows as they are now, unaffected by later writes.
    pub fn snapshot(&self) -> Arc<BTreeMap<K, Row<V>>> {
        self.rows.clone()
    }

    /// Sets a row; true if that changed something.
    pub fn set(&mut self, key: K, value: V) -> bool {
        if self.get(&key).is_some_and(|v| **v == value) {
            return false;
        }
        self.touch(&key);
        let row = Row { value: Arc::new(value), revision: self.revision };
        Arc::make_mut(&mut self.rows).insert(key, row);
        true
    }

    /// Deletes a row; true if there was one.
    pub fn delete(&mut self, key: &K) -> bool {
        if !self.rows.contains_key(key) {
            return false;
        }
        self.touch(key);
        Arc::make_mut(&mut self.rows).remove(key);
        self.tombstones.insert(key.clone(), self.revision);
        self.deletions.insert(self.revision);
        self.forget();
        true
    }

    /// Makes the table hold exactly `rows`; true if that changed something.
    pub fn replace(&mut self, rows: impl IntoIterator<Item = (K, V)>) -> bool {
        let before = self.revision;
        let mut stale: BTreeSet<K> = self.rows.keys().cloned().collect();
        for (key, value) in rows {
            stale.remove(&key);
            self.set(key, value);
        }
        for key in &stale {
            self.delete(key);
        }
        self.revision != before
    }

    /// Says that the inputs of this table have been read completely once.
    pub fn mark_synced(&mut self) {
        if !self.synced {
            self.synced = true;
            // Not a change of any row, but readers that wait must wake.
            self.revision += 1;
        }
    }

    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Keys set or deleted after `since`.
    pub fn changes_since(&self, since: Revision) -> Changes<K> {
        if since < self.floor && since != 0 {
            return Changes::Reset;
        }
        Changes::Keys(self.by_revision.range(since + 1..).map(|(_, k)| k.clone()).collect())
    }

    /// Moves `key` to a new revision.
    fn touch(&mut self, key: &K) {
        let old = self.rows.get(key).map(|r| r.revision).or_else(|| self.tombstones.remove(key));
        if let Some(old) = old {
            self.by_revision.remove(&old);
            self.deletions.remove(&old);
        }
        self.revision += 1;
        self.by_revision.insert(self.revision, key.clone());
    }

    fn forget(&mut self) {
        while self.tombstones.len() > MAX_TOMBSTONES {
            let Some(oldest) = self.deletions.pop_first() else { return };
            if let Some(key) = self.by_revision.remove(&oldest) {
                self.tombstones.remove(&key);
            }
            self.floor = oldest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(t: &Table<u32, u32>, since: Revision) -> Vec<u32> {
        match t.changes_since(since) {
            Changes::Keys(k) => k,
            Changes::Reset => panic!("reset"),
        }
    }

    #[test]
    fn names_changed_keys_once_and_deletions_too() {
        let mut t = Table::default();
        assert!(t.set(1, 10));
        assert!(t.set(2, 20));
        let r = t.revision();
        assert!(!t.set(2, 20), "the same value is no change");
        assert_eq!(keys(&t, r), [] as [u32; 0]);
        t.set(1, 11);
        t.set(1, 12);
        t.delete(&2);
        assert!(!t.delete(&2));
        assert_eq!(keys(&t, r), [1, 2]);
        assert_eq!(keys(&t, 0), [1, 2]);
        t.set(2, 21);
        assert_eq!(keys(&t, t.revision() - 1), [2]);
    }

    #[test]
    fn snapshot_is_not_affected_by_writes() {
        let mut t = Table::default();
        t.set(1, 10);
        let s = t.snapshot();
        t.set(1, 11);
        t.delete(&1);
        assert_eq!(*s[&1].value, 10);
        assert!(t.is_empty());
    }

    #[test]
    fn replace_touches_only_what_differs() {
        let mut t = Table::default();
        t.replace([(1, 1), (2, 2), (3, 3)]);
        let r = t.revision();
        assert!(t.replace([(1, 1), (2, 5), (4, 4)]));
        assert_eq!(keys(&t, r), [2, 4, 3]);
        assert!(!t.replace([(1, 1), (2, 5), (4, 4)]));
    }

    #[test]
    fn far_behind_reader_is_reset() {
        let mut t: Table<usize, usize> = Table::default();
        t.set(0, 0);
        let r = t.revision();
        for k in 1..=MAX_TOMBSTONES + 1 {
            t.set(k, k);
            t.delete(&k);
        }
        assert_eq!(t.changes_since(r), Changes::Reset);
        assert!(matches!(t.changes_since(t.revision()), Changes::Keys(k) if k.is_empty()));
    }

    #[test]
    fn a_deleted_key_that_comes_back_is_not_forgotten() {
        let mut t: Table<usize, usize> = Table::default();
        let r = t.revision();
        for k in 0..MAX_TOMBSTONES + 10 {
            t.set(k, k);
            t.delete(&k);
            if k < 20 {
                t.set(k, k);
            }
        }
        assert_eq!((t.len(), t.tombstones.len(), t.deletions.len()), (20, MAX_TOMBSTONES - 10, MAX_TOMBSTONES - 10));
        assert!(matches!(t.changes_since(r + 1), Changes::Keys(_)), "nothing was forgotten");
        for k in 0..20 {
            t.delete(&k);
        }
        assert_eq!((t.tombstones.len(), t.deletions.len()), (MAX_TOMBSTONES, MAX_TOMBSTONES));
        assert_eq!(t.by_revision.len(), MAX_TOMBSTONES);
        assert_eq!(t.changes_since(r + 1), Changes::Reset);
    }

    #[test]
    fn synced_wakes_readers_once() {
        let mut t: Table<u32, u32> = Table::default();
        t.mark_synced();
        let r = t.revision();
        assert!(r > 0 && t.synced());
        t.mark_synced();
        assert_eq!(t.revision(), r);
    }
}
