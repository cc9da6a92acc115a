//! Drives the readers: one task per watched kind, from Kubernetes events to rows. Waiting is cancel-safe; the API server
//! being away changes no row.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use causeway_k8s::Event;
use causeway_table::Shared;
use futures::{Stream, StreamExt};
use kube::Resource;

use super::{Key, Read, Rejected};

/// Names a rejected object: its kind, and its key.
pub(crate) type RejectedKey = (String, Key);

/// How a watch is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WatchState {
    /// A complete listing has been read at least once.
    pub(crate) synced: bool,
    /// Why nothing new arrives, if so.
    pub(crate) interrupted: Option<String>,
}

/// Where one kind goes.
pub(crate) struct Sink<R, K, V> {
    pub(crate) reader: R,
    pub(crate) table: Shared<K, V>,
    pub(crate) rejected: Shared<RejectedKey, Rejected>,
    /// By kind.
    pub(crate) watches: Shared<String, WatchState>,
}

/// Follows one kind for ever.
pub(crate) async fn follow<O, R>(sink: Sink<R, R::Key, R::Row>, events: impl Stream<Item = Event<O>> + Send)
where
    O: Resource<DynamicType = ()>,
    R: Read<O>,
{
    let mut follower = Follower::new(sink);
    let mut events = std::pin::pin!(events);
    loop {
        let next = events.next();
        let event = if follower.interrupted { tokio::time::timeout(QUIET, next).await } else { Ok(next.await) };
        match event {
            Ok(Some(event)) => follower.apply(event),
            Ok(None) => return,
            // No attempt has failed for longer than there can be between two: the watch stands, and nothing changes.
            Err(_) => follower.resumed(),
        }
    }
}

/// Longer than the watch waits between two attempts (at most 5 s), and one takes to fail (the client's connect timeout,
/// 5 s).
const QUIET: Duration = Duration::from_secs(15);

/// The part without I/O: which rows came from which objects.
struct Follower<O, R: Read<O>> {
    sink: Sink<R, R::Key, R::Row>,
    kind: String,
    /// The row of each object that has one.
    rows: BTreeMap<Key, R::Key>,
    /// Objects that are rejected now.
    bad: BTreeSet<Key>,
    /// Objects that the running listing has not named yet.
    unseen: Option<BTreeSet<Key>>,
    /// The last that was heard was that nothing arrives.
    interrupted: bool,
}

impl<O, R> Follower<O, R>
where
    O: Resource<DynamicType = ()>,
    R: Read<O>,
{
    fn new(sink: Sink<R, R::Key, R::Row>) -> Self {
        let kind = R::WATCH.map_or_else(|| O::kind(&()).into_owned(), str::to_owned);
        sink.watches.set(kind.clone(), WatchState::default());
        Follower { sink, kind, rows: BTreeMap::new(), bad: BTreeSet::new(), unseen: None, interrupted: false }
    }

    fn apply(&mut self, event: Event<O>) {
        if !matches!(event, Event::Interrupted(_)) {
            self.resumed();
        }
        match event {
            Event::Relist => self.unseen = Some(self.rows.keys().chain(&self.bad).cloned().collect()),
            Event::Applied(object) => {
                let key = Key::of(&object);
                self.seen(&key);
                match self.sink.reader.read(&key, object) {
                    Ok(row) => {
                        match row.as_ref().and_then(|(_, row)| self.sink.reader.warning(row)) {
                            Some(warning) => self.reject(key.clone(), warning),
                            None => self.good(&key),
                        }
                        self.place(&key, row);
                    }
                    Err(rejected) => self.reject(key, rejected),
                }
            }
            Event::Rejected(key, rejected) => {
                self.seen(&key);
                self.reject(key, rejected);
            }
            Event::Deleted(key) => {
                self.good(&key);
                self.place(&key, None);
            }
            Event::Synced => {
                for key in self.unseen.take().unwrap_or_default() {
                    self.good(&key);
                    self.place(&key, None);
                }
                self.sink.table.mark_synced();
                self.sink.watches.set(self.kind.clone(), WatchState { synced: true, interrupted: None });
            }
            Event::Interrupted(reason) => {
                self.interrupted = true;
                let synced = self.sink.table.synced();
                self.sink.watches.set(self.kind.clone(), WatchState { synced, interrupted: Some(reason) });
            }
        }
    }

    /// Something arrives again, though not necessarily a listing.
    fn resumed(&mut self) {
        if std::mem::take(&mut self.interrupted) {
            let synced = self.sink.table.synced();
            self.sink.watches.set(self.kind.clone(), WatchState { synced, interrupted: None });
        }
    }

    fn seen(&mut self, key: &Key) {
        if let Some(unseen) = &mut self.unseen {
            unseen.remove(key);
        }
    }

    /// The object's row is this one now, in place of what it had.
    fn place(&mut self, key: &Key, row: Option<(R::Key, R::Row)>) {
        let old = match &row {
            Some((at, _)) => self.rows.insert(key.clone(), at.clone()).filter(|old| old != at),
            None => self.rows.remove(key),
        };
        self.sink.table.write(|t| {
            if let Some(old) = old {
                t.delete(&old);
            }
            if let Some((at, value)) = row {
                t.set(at, value);
            }
        });
    }

    /// A bad edit changes nothing but the message: the last good row stays. A warning is told the same way, once.
    fn reject(&mut self, key: Key, rejected: Rejected) {
        let at = (self.kind.clone(), key.clone());
        if self.sink.rejected.get(&at).is_none_or(|old| *old != rejected) {
            tracing::warn!(%rejected, "object rejected, or used without the field named");
        }
        self.bad.insert(key);
        self.sink.rejected.set(at, rejected);
    }

    fn good(&mut self, key: &Key) {
        if self.bad.remove(key) {
            self.sink.rejected.delete(&(self.kind.clone(), key.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intent::slice::{Reader, Slice, SliceKey};
    use k8s_openapi::api::discovery::v1::EndpointSlice;

    type Slices = Follower<EndpointSlice, Reader>;

    fn follower() -> Slices {
        Follower::new(Sink {
            reader: Reader { node: "n1".into() },
            table: Shared::default(),
            rejected: Shared::default(),
            watches: Shared::default(),
        })
    }

    fn slice(name: &str, service: &str, address: &str) -> Event<EndpointSlice> {
        Event::Applied(
            serde_json::from_value(serde_json::json!({
                "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": service}},
                "addressType": "IPv4", "endpoints": [{"addresses": [address]}],
            }))
            .unwrap(),
        )
    }

    fn rows(f: &Slices) -> Vec<String> {
        let rows: &Shared<SliceKey, Slice> = &f.sink.table;
        rows.read(|t| {
            t.iter().map(|(k, v)| format!("{}<{} {}", k.service.name, k.name, v.endpoints[0].address)).collect()
        })
    }

    #[test]
    fn rows_follow_objects() {
        let mut f = follower();
        f.apply(Event::Relist);
        f.apply(slice("a", "web", "10.1.1.2"));
        f.apply(slice("b", "web", "10.1.1.3"));
        assert!(!f.sink.table.synced());
        f.apply(Event::Synced);
        assert!(f.sink.table.synced());
        assert_eq!(rows(&f), ["web<a 10.1.1.2", "web<b 10.1.1.3"]);
        f.apply(slice("b", "api", "10.1.1.3"));
        assert_eq!(rows(&f), ["api<b 10.1.1.3", "web<a 10.1.1.2"], "moved to another service");
        f.apply(Event::Interrupted("refused".into()));
        f.apply(Event::Relist);
        f.apply(slice("a", "web", "10.1.1.4"));
        assert_eq!(rows(&f).len(), 2, "nothing goes before the listing is complete");
        f.apply(Event::Synced);
        assert_eq!(rows(&f), ["web<a 10.1.1.4"]);
    }

    #[test]
    fn a_bad_edit_keeps_the_row_and_is_listed_until_it_is_good_or_gone() {
        let mut f = follower();
        f.apply(slice("a", "web", "10.1.1.2"));
        f.apply(slice("a", "web", "nowhere"));
        assert_eq!(rows(&f), ["web<a 10.1.1.2"]);
        assert_eq!(f.sink.rejected.read(causeway_table::Table::len), 1);
        f.apply(slice("a", "web", "10.1.1.5"));
        assert_eq!(f.sink.rejected.read(causeway_table::Table::len), 0);
        f.apply(slice("b", "web", "nowhere"));
        f.apply(Event::Deleted(Key::new("default", "b")));
        assert_eq!(f.sink.rejected.read(causeway_table::Table::len), 0);
        assert_eq!(rows(&f), ["web<a 10.1.1.5"]);
    }

    #[test]
    fn an_interruption_is_told_and_ends_with_the_next_event() {
        let mut f = follower();
        let interrupted = |f: &Slices| f.sink.watches.get(&"EndpointSlice".to_owned()).unwrap().interrupted.clone();
        f.apply(Event::Relist);
        f.apply(Event::Synced);
        for event in [slice("a", "web", "10.1.1.2"), slice("a", "web", "x"), Event::Deleted(Key::new("default", "a"))] {
            f.apply(Event::Interrupted("connection refused".into()));
            assert!(interrupted(&f).is_some());
            f.apply(event);
            assert_eq!(interrupted(&f), None);
        }
        let mut f = follower();
        f.apply(Event::Interrupted("connection refused".into()));
        let state = f.sink.watches.get(&"EndpointSlice".to_owned()).unwrap();
        assert_eq!(*state, WatchState { synced: false, interrupted: Some("connection refused".into()) });
        f.apply(Event::Relist);
        f.apply(Event::Synced);
        let state = f.sink.watches.get(&"EndpointSlice".to_owned()).unwrap();
        assert_eq!(*state, WatchState { synced: true, interrupted: None });
    }
}
