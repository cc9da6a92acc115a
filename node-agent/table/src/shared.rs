//! A table that one task writes and others read and wait for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::table::{Changes, Revision, Row, Table};

/// Handle of a shared table; clones are cheap and name the same table.
///
/// The mutex is held only for map operations, never across an await or a system call. One task should write a table;
/// nothing breaks if several do, but then nobody owns the rows.
#[derive(Debug)]
pub struct Shared<K, V> {
    inner: Arc<Inner<K, V>>,
}

#[derive(Debug)]
struct Inner<K, V> {
    table: Mutex<Table<K, V>>,
    revision: watch::Sender<Revision>,
}

impl<K, V> Clone for Shared<K, V> {
    fn clone(&self) -> Self {
        Shared { inner: self.inner.clone() }
    }
}

impl<K: Ord + Clone, V: PartialEq> Default for Shared<K, V> {
    fn default() -> Self {
        Shared { inner: Arc::new(Inner { table: Mutex::new(Table::default()), revision: watch::Sender::new(0) }) }
    }
}

impl<K: Ord + Clone, V: PartialEq> Shared<K, V> {
    /// Reads under the lock: keep it short.
    pub fn read<R>(&self, f: impl FnOnce(&Table<K, V>) -> R) -> R {
        f(&self.lock())
    }

    /// Writes under the lock, then wakes readers if anything changed.
    pub fn write<R>(&self, f: impl FnOnce(&mut Table<K, V>) -> R) -> R {
        let mut table = self.lock();
        let result = f(&mut table);
        let revision = table.revision();
        drop(table);
        self.inner.revision.send_if_modified(|r| {
            let changed = revision > *r;
            *r = revision.max(*r);
            changed
        });
        result
    }

    pub fn get(&self, key: &K) -> Option<Arc<V>> {
        self.read(|t| t.get(key).cloned())
    }

    pub fn set(&self, key: K, value: V) -> bool {
        self.write(|t| t.set(key, value))
    }

    pub fn delete(&self, key: &K) -> bool {
        self.write(|t| t.delete(key))
    }

    pub fn snapshot(&self) -> Arc<BTreeMap<K, Row<V>>> {
        self.read(Table::snapshot)
    }

    pub fn synced(&self) -> bool {
        self.read(Table::synced)
    }

    pub fn mark_synced(&self) {
        self.write(Table::mark_synced);
    }

    /// A reader that has seen nothing yet: its first [`Reader::changes`] names every row.
    pub fn reader(&self) -> Reader<K, V> {
        Reader { shared: self.clone(), seen: 0, watch: self.inner.revision.subscribe() }
    }

    fn lock(&self) -> MutexGuard<'_, Table<K, V>> {
        // A panic of a writer leaves the table whole: every operation finishes its bookkeeping before it returns, and
        // the closures run user code only between operations.
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows one table. Not shared: each follower has its own.
#[derive(Debug)]
pub struct Reader<K, V> {
    shared: Shared<K, V>,
    seen: Revision,
    watch: watch::Receiver<Revision>,
}

impl<K: Ord + Clone, V: PartialEq> Reader<K, V> {
    /// Waits until there is something after what was seen. Cancel-safe.
    pub async fn changed(&mut self) {
        let seen = self.seen;
        // The sender lives in `self.shared`, so that the channel cannot close.
        let _ = self.watch.wait_for(|r| *r > seen).await;
    }

    /// Keys that changed since the last call, and marks them seen.
    pub fn changes(&mut self) -> Changes<K> {
        let (changes, revision) = self.shared.read(|t| (t.changes_since(self.seen), t.revision()));
        self.seen = revision;
        changes
    }

    pub fn table(&self) -> &Shared<K, V> {
        &self.shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_wakes_for_each_change_and_sees_it() {
        let t: Shared<u32, &str> = Shared::default();
        let mut r = t.reader();
        t.set(1, "a");
        r.changed().await;
        assert_eq!(r.changes(), Changes::Keys(vec![1]));
        assert_eq!(r.changes(), Changes::Keys(vec![]));
        let waiting = tokio::spawn(async move {
            r.changed().await;
            r.changes()
        });
        t.delete(&1);
        assert_eq!(waiting.await.unwrap(), Changes::Keys(vec![1]));
    }
}
