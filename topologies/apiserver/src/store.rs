//! Objects as bytes under one revision, with a bounded log of what happened.
//!
//! The store knows nothing of kinds: a table is named by its group resource (`pods`, `deployments.apps`), a row by namespace
//! and name. Objects are kept as JSON text, because a watch or a list then costs a copy and no serialisation, and because text
//! is a tenth of the size of a tree. Readers pull from the log with a cursor of their own, so that nothing is buffered per
//! watcher: one that falls behind the log is told to start again (410 Gone).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use axum::body::Bytes;
use serde_json::Value;
use tokio::sync::watch;

/// Stands for the revision while an object is serialised outside the lock. A control character cannot come from a client's
/// string unescaped, so the serialised form is found at once and only here.
const REVISION_MARK: &str = "\u{1}revision";
const REVISION_MARK_JSON: &str = "\"\\u0001revision\"";

/// `pods`, `deployments.apps`: one storage for all versions of a resource.
pub type TableName = Arc<str>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Empty for what has no namespace.
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

#[derive(Debug)]
pub struct Object {
    pub key: Key,
    pub revision: u64,
    pub labels: BTreeMap<String, String>,
    pub raw: Bytes,
}

impl Object {
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.raw).expect("the store wrote this text itself")
    }

    /// A typed view of the object; absent fields must be optional or defaulted in `T`.
    pub fn view<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.raw)
    }
}

#[derive(Clone, Debug)]
pub struct Event {
    pub revision: u64,
    /// `None` once deleted.
    pub now: Option<Arc<Object>>,
    pub before: Option<Arc<Object>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("already exists")]
    Exists,
    #[error("not found")]
    NotFound,
    /// Somebody else wrote since the caller read.
    #[error("changed meanwhile")]
    Conflict,
    #[error("the log no longer holds this revision")]
    Compacted,
}

#[derive(Default)]
struct Table {
    objects: BTreeMap<Key, Arc<Object>>,
    log: VecDeque<Event>,
    /// The newest revision of this table that has left the log.
    compacted: u64,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    revision: u64,
    tables: HashMap<TableName, Table>,
    /// Which table each logged event belongs to, oldest first: the log is bounded as a whole.
    order: VecDeque<TableName>,
}

pub struct Store {
    inner: RwLock<Inner>,
    log_events: usize,
}

/// What a consistent read saw.
pub struct Snapshot {
    pub revision: u64,
    pub objects: Vec<Arc<Object>>,
    /// There is more after the last object.
    pub more: bool,
    pub remaining: usize,
}

impl Store {
    /// `log_events`: how many events all tables together remember.
    pub fn new(log_events: usize) -> Self {
        // Revision 1 is "nothing yet": clients treat 0 as "any".
        Self { inner: RwLock::new(Inner { revision: 1, ..Inner::default() }), log_events: log_events.max(1) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn revision(&self) -> u64 {
        self.read().revision
    }

    pub fn get(&self, table: &str, key: &Key) -> Option<Arc<Object>> {
        self.read().tables.get(table)?.objects.get(key).cloned()
    }

    pub fn list(&self, table: &str, namespace: Option<&str>) -> Snapshot {
        self.list_page(table, namespace, None, usize::MAX, &|_| true)
    }

    /// At most `limit` objects that `accept`s, after `after`.
    pub fn list_page(
        &self,
        table: &str,
        namespace: Option<&str>,
        after: Option<&Key>,
        limit: usize,
        accept: &dyn Fn(&Object) -> bool,
    ) -> Snapshot {
        let inner = self.read();
        let mut snapshot = Snapshot { revision: inner.revision, objects: Vec::new(), more: false, remaining: 0 };
        let Some(found) = inner.tables.get(table) else { return snapshot };
        let start = match (after, namespace) {
            (Some(key), _) => Bound::Excluded(key.clone()),
            (None, Some(namespace)) => Bound::Included(Key::new(namespace, "")),
            (None, None) => Bound::Unbounded,
        };
        for (key, object) in found.objects.range((start, Bound::Unbounded)) {
            if namespace.is_some_and(|wanted| wanted != key.namespace) {
                break;
            }
            if !accept(object) {
                continue;
            }
            if snapshot.objects.len() < limit {
                snapshot.objects.push(object.clone());
            } else {
                snapshot.more = true;
                snapshot.remaining += 1;
            }
        }
        snapshot
    }

    pub fn count(&self, table: &str) -> usize {
        self.read().tables.get(table).map_or(0, |t| t.objects.len())
    }

    /// Wakes when the table changes.
    pub fn subscribe(&self, table: &str) -> watch::Receiver<u64> {
        if let Some(found) = self.read().tables.get(table) {
            return found.changed.subscribe();
        }
        self.write().tables.entry(table.into()).or_default().changed.subscribe()
    }

    /// Up to `max` events of a table after `since`, and the revision up to which nothing was missed.
    pub fn events(&self, table: &str, since: u64, max: usize) -> Result<(Vec<Event>, u64), StoreError> {
        let inner = self.read();
        let Some(found) = inner.tables.get(table) else { return Ok((Vec::new(), inner.revision)) };
        if since < found.compacted {
            return Err(StoreError::Compacted);
        }
        let start = found.log.partition_point(|event| event.revision <= since);
        let events: Vec<Event> = found.log.range(start..).take(max).cloned().collect();
        let upto = match events.last() {
            Some(last) if start + events.len() < found.log.len() => last.revision,
            _ => inner.revision,
        };
        Ok((events, upto))
    }

    pub fn create(&self, table: &TableName, key: Key, mut value: Value) -> Result<Arc<Object>, StoreError> {
        let draft = Draft::new(&mut value);
        let mut inner = self.write();
        if inner.tables.get(table).is_some_and(|t| t.objects.contains_key(&key)) {
            return Err(StoreError::Exists);
        }
        Ok(inner.put(table, key, draft, self.log_events))
    }

    /// Replaces the object if it is still at revision `seen`.
    pub fn update(&self, table: &TableName, key: Key, seen: u64, mut value: Value) -> Result<Arc<Object>, StoreError> {
        let draft = Draft::new(&mut value);
        let mut inner = self.write();
        let current = inner.tables.get(table).and_then(|t| t.objects.get(&key)).ok_or(StoreError::NotFound)?;
        if current.revision != seen {
            return Err(StoreError::Conflict);
        }
        Ok(inner.put(table, key, draft, self.log_events))
    }

    /// Removes the object if it is still at revision `seen`. The object of the event carries the revision of its deletion.
    pub fn delete(&self, table: &TableName, key: &Key, seen: u64) -> Result<Arc<Object>, StoreError> {
        let current = self.get(table, key).ok_or(StoreError::NotFound)?;
        if current.revision != seen {
            return Err(StoreError::Conflict);
        }
        let draft = Draft::new(&mut current.value());
        let mut inner = self.write();
        let still = inner.tables.get(table).and_then(|t| t.objects.get(key)).ok_or(StoreError::NotFound)?;
        if still.revision != seen {
            return Err(StoreError::Conflict);
        }
        let revision = inner.next_revision();
        let last = Arc::new(draft.finish(key.clone(), revision));
        if let Some(found) = inner.tables.get_mut(table) {
            found.objects.remove(key);
        }
        inner.log(table, Event { revision, now: None, before: Some(last.clone()) }, self.log_events);
        Ok(last)
    }

    /// Forgets a table and its log; watchers of it start again.
    pub fn drop_table(&self, table: &str) {
        let mut inner = self.write();
        let revision = inner.next_revision();
        if let Some(found) = inner.tables.get_mut(table) {
            found.objects.clear();
            let gone = found.log.len();
            found.log.clear();
            found.compacted = revision;
            found.changed.send_replace(revision);
            if gone > 0 {
                inner.order.retain(|name| &**name != table);
            }
        }
    }
}

/// An object serialised but for its revision.
struct Draft {
    head: Vec<u8>,
    tail: Vec<u8>,
    labels: BTreeMap<String, String>,
}

impl Draft {
    fn new(value: &mut Value) -> Self {
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".into(), REVISION_MARK.into());
        }
        let labels = value["metadata"]["labels"]
            .as_object()
            .map(|labels| labels.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect());
        let text = serde_json::to_string(value).expect("a JSON tree always serialises");
        let at = text.find(REVISION_MARK_JSON).unwrap_or(text.len());
        let tail = text.get(at + REVISION_MARK_JSON.len()..).unwrap_or_default().as_bytes().to_vec();
        let mut head = text.into_bytes();
        head.truncate(at);
        Self { head, tail, labels: labels.unwrap_or_default() }
    }

    fn finish(self, key: Key, revision: u64) -> Object {
        let mut raw = self.head;
        raw.reserve_exact(self.tail.len() + 22);
        raw.extend_from_slice(format!("\"{revision}\"").as_bytes());
        raw.extend_from_slice(&self.tail);
        Object { key, revision, labels: self.labels, raw: raw.into() }
    }
}

impl Inner {
    fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    fn put(&mut self, table: &TableName, key: Key, draft: Draft, log_events: usize) -> Arc<Object> {
        let revision = self.next_revision();
        let object = Arc::new(draft.finish(key.clone(), revision));
        let rows = self.tables.entry(table.clone()).or_default();
        let before = rows.objects.insert(key, object.clone());
        self.log(table, Event { revision, now: Some(object.clone()), before }, log_events);
        object
    }

    fn log(&mut self, table: &TableName, event: Event, log_events: usize) {
        let revision = event.revision;
        let rows = self.tables.entry(table.clone()).or_default();
        rows.log.push_back(event);
        rows.changed.send_replace(revision);
        self.order.push_back(table.clone());
        while self.order.len() > log_events {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(rows) = self.tables.get_mut(&oldest)
                && let Some(gone) = rows.log.pop_front()
            {
                rows.compacted = gone.revision;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"a": "b"}}, "note": "\u{1}revision"})
    }

    #[test]
    fn writes_carry_their_revision_and_conflicts_are_seen() {
        let store = Store::new(10);
        let table: TableName = "pods".into();
        let key = Key::new("default", "a");
        let made = store.create(&table, key.clone(), object("a")).expect("new");
        assert_eq!(made.value()["metadata"]["resourceVersion"], made.revision.to_string());
        assert_eq!(made.labels["a"], "b");
        assert!(matches!(store.create(&table, key.clone(), object("a")), Err(StoreError::Exists)));
        assert!(matches!(store.update(&table, key.clone(), made.revision - 1, object("a")), Err(StoreError::Conflict)));
        let gone = store.delete(&table, &key, made.revision).expect("is there");
        assert!(gone.revision > made.revision);
        assert!(store.get("pods", &key).is_none());
    }

    #[test]
    fn the_log_is_bounded_and_says_when_it_forgot() {
        let store = Store::new(3);
        let (pods, nodes): (TableName, TableName) = ("pods".into(), "nodes".into());
        let first = store.create(&nodes, Key::new("", "n"), object("n")).expect("new").revision;
        let start = store.revision();
        for i in 0..5 {
            store.create(&pods, Key::new("d", format!("p{i}")), object("p")).expect("new");
        }
        assert!(matches!(store.events("pods", start, 10), Err(StoreError::Compacted)));
        assert_eq!(store.events("pods", start + 2, 10).map(|(e, _)| e.len()), Ok(3));
        // An idle table is not "too old" merely because others were busy.
        assert_eq!(store.events("nodes", first, 10).map(|(e, _)| e.len()), Ok(0));
    }

    #[test]
    fn pages_follow_each_other() {
        let store = Store::new(100);
        let table: TableName = "pods".into();
        for i in 0..5 {
            store.create(&table, Key::new("d", format!("p{i}")), object("p")).expect("new");
        }
        let page = store.list_page("pods", Some("d"), None, 2, &|_| true);
        assert_eq!((page.objects.len(), page.more, page.remaining), (2, true, 3));
        let next = store.list_page("pods", Some("d"), Some(&page.objects[1].key), 9, &|_| true);
        assert_eq!((next.objects[0].key.name.as_str(), next.objects.len(), next.more), ("p2", 3, false));
    }
}
