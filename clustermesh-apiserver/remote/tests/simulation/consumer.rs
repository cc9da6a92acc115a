//! What a sink keeps, and the rules that the changes of one cluster must follow.

use std::collections::BTreeMap;

use causeway_mesh_remote::{Change, RemoteInfo, Stage};
use causeway_mesh_schema::Kind;

use crate::writer::Writer;

#[derive(Debug, Default)]
pub(crate) struct Consumer {
    pub(crate) info: Option<std::sync::Arc<RemoteInfo>>,
    pub(crate) stage: Stage,
    pub(crate) kinds: BTreeMap<Kind, Table>,
    pub(crate) puts: u64,
    /// Of these, what a consumer would not write again.
    pub(crate) unchanged: u64,
    pub(crate) forgets: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) entries: BTreeMap<Box<str>, Held>,
    /// Counts lists; `None` outside of one.
    listing: Option<u64>,
    lists: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) value: Vec<u8>,
    revision: i64,
    store: u64,
    list: u64,
}

/// What may legitimately make an entry go, besides its writer.
#[derive(Debug, Default)]
pub(crate) struct Licence {
    /// The data set that the reader is connected to; 0 without a connection.
    pub(crate) store: u64,
    /// The cluster has been silent for longer than the cache may last.
    pub(crate) expired: bool,
}

impl Consumer {
    pub(crate) fn apply(&mut self, change: Change, writer: &Writer, licence: &Licence) {
        match change {
            Change::Connected(info) => {
                if let Some(old) = &self.info {
                    assert_eq!(old.origin, info.origin, "another number without a Forget");
                    assert_ne!(**old, *info, "Connected told twice");
                }
                assert_eq!(info.origin.name, writer.name);
                self.info = Some(info);
            }
            Change::Forget => {
                assert!(self.info.is_some(), "Forget without a Connected");
                (self.info, self.stage) = (None, Stage::Fresh);
                self.kinds.clear();
                self.forgets += 1;
            }
            Change::Stage(stage) => {
                assert!(self.info.is_some(), "a stage of nobody");
                assert_ne!(stage, self.stage, "a stage told twice");
                assert!(stage > self.stage || stage <= Stage::Silent, "{} after {}", stage, self.stage);
                self.stage = stage;
            }
            Change::Relisting(kind) => {
                let waits = self.info.as_ref().is_some_and(|info| info.config.capabilities.synced_canaries);
                let free = self.is_voided(kind, writer, licence);
                assert!(
                    free || !waits || writer.has_synced(licence.store),
                    "{kind} listed before its canary was there"
                );
                self.table(kind).begin();
            }
            Change::Listed(kind) => {
                let free = self.is_voided(kind, writer, licence);
                for (name, held) in self.table(kind).end() {
                    assert!(
                        free || writer.has_lost(kind, &name, held.store, held.revision),
                        "{kind} {name} swept alive"
                    );
                }
            }
            Change::Put { kind, name, value, revision, store } => self.put(kind, name, &value, revision, store),
            Change::Deleted { kind, name, revision } => {
                let table = self.table(kind);
                assert!(table.listing.is_none(), "a deletion within a list");
                if let Some(held) = table.entries.remove(&name) {
                    assert!(held.revision < revision, "{kind} {name}: an older deletion");
                    assert!(writer.has_lost(kind, &name, held.store, held.revision), "{kind} {name} deleted alive");
                }
            }
        }
    }

    fn put(&mut self, kind: Kind, name: Box<str>, value: &[u8], revision: i64, store: u64) {
        let origin = &self.info.as_ref().expect("an entry of nobody").origin;
        let text = std::str::from_utf8(value).unwrap();
        let mut words = text.split('|');
        assert_eq!(words.next(), Some(origin.name.as_str()), "{kind} {name}: of a foreign cluster");
        // An entry of another number is refused, as `causeway_mesh_schema::read` does, until that number is known.
        let own = words.next() == Some(origin.id.to_string().as_str());
        let table = self.kinds.entry(kind).or_default();
        let list = table.lists;
        self.puts += 1;
        if let Some(old) = table.entries.get_mut(&name) {
            let same = (old.store, old.revision) == (store, revision);
            if same {
                assert_eq!(old.value, value, "{kind} {name}: another value of the same revision");
                self.unchanged += 1;
            }
            assert!(old.store != store || old.revision <= revision, "{kind} {name}: an older value");
        }
        if own {
            table.entries.insert(name, Held { value: value.to_vec(), revision, store, list });
        } else {
            table.entries.remove(&name);
        }
    }

    /// The kind may be taken back without a word of its writer.
    fn is_voided(&self, kind: Kind, writer: &Writer, licence: &Licence) -> bool {
        let revocable = matches!(kind, Kind::Services | Kind::EndpointSlices | Kind::ServiceExports);
        let offered = self.info.as_ref().is_some_and(|info| writer.offers(kind, info));
        (licence.expired && revocable) || !offered
    }

    fn table(&mut self, kind: Kind) -> &mut Table {
        assert!(self.info.is_some(), "{kind} of nobody");
        self.kinds.entry(kind).or_default()
    }
}

impl Table {
    fn begin(&mut self) {
        self.lists += 1;
        self.listing = Some(self.lists);
    }

    /// The entries that the list has not named.
    fn end(&mut self) -> Vec<(Box<str>, Held)> {
        let list = self.listing.take().expect("Listed without Relisting");
        let old: Vec<Box<str>> =
            self.entries.iter().filter(|(_, held)| held.list < list).map(|(name, _)| name.clone()).collect();
        old.into_iter().filter_map(|name| self.entries.remove_entry(&name)).collect()
    }
}
