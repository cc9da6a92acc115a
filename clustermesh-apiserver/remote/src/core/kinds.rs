//! The kinds of entries that are read of a cluster, and what was told of them. Outlives sessions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use causeway_mesh_kv::{Failure, Revision, Ticket};
use causeway_mesh_schema::{ClusterName, Kind, Layout};

use super::Output;
use super::desk::Desk;
use super::lane::{Lane, Said};
use crate::change::Change;
use crate::settings::Settings;
use crate::tally::Tally;

/// Of one cluster.
#[derive(Debug)]
pub(crate) struct Kinds {
    cluster: ClusterName,
    page: usize,
    layout: Layout,
    /// The data set that everything told comes from; 0 before the first.
    store: u64,
    each: BTreeMap<Kind, Reader>,
}

/// Of one kind.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) lane: Lane,
    pub(crate) tally: Tally,
    /// Its canary was there, or none is written: what the present store lists is complete.
    admitted: bool,
    /// The consumer may hold entries of it.
    told: bool,
    /// Keys that are no names: what the last listing named of them, and puts since.
    pub(crate) unreadable: u64,
    /// When an entry was last put or deleted.
    pub(crate) last_change: Option<Duration>,
    /// How long the last complete listing took.
    pub(crate) last_list: Option<Duration>,
    /// Complete ones.
    pub(crate) listings: u64,
}

impl Kinds {
    pub(crate) fn new(cluster: &ClusterName, settings: &Settings) -> Kinds {
        let (layout, page) = (Layout::State, settings.page);
        let each = settings.kinds.iter().map(|kind| (*kind, Reader::new(kind.prefix(layout, cluster), page)));
        Kinds { cluster: cluster.clone(), page, layout, store: 0, each: each.collect() }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Kind, &Reader)> {
        self.each.iter().map(|(kind, reader)| (*kind, reader))
    }

    /// The session has ended.
    pub(crate) fn pause(&mut self) {
        for reader in self.each.values_mut() {
            reader.lane.pause();
        }
    }

    /// Nothing was ever told.
    pub(crate) fn forget(&mut self) {
        for reader in self.each.values_mut() {
            reader.lane.pause();
            reader.void();
            (reader.told, reader.last_change, reader.unreadable) = (false, None, 0);
            reader.tally.clear();
        }
        self.store = 0;
    }

    /// A session with this store begins, which is at `revision`. A data set other than the one that was told of is listed
    /// from the start, once its canaries are there; so is one that is behind it, whatever it calls itself.
    pub(crate) fn prepare(&mut self, layout: Layout, store: u64, revision: Revision) {
        let other = self.store != store || self.layout != layout;
        for (kind, reader) in &mut self.each {
            if self.layout != layout {
                reader.lane = Lane::new(kind.prefix(layout, &self.cluster), self.page);
            }
            if other || reader.lane.revision().is_some_and(|seen| seen > revision) {
                reader.void();
            }
        }
        (self.layout, self.store) = (layout, store);
    }

    /// This canary is there.
    pub(crate) fn canary(&mut self, key: &[u8]) {
        for (kind, reader) in &mut self.each {
            if kind.canary(self.layout, &self.cluster).as_bytes() == key {
                reader.admitted = true;
            }
        }
    }

    /// No canaries are written.
    pub(crate) fn admit_all(&mut self) {
        for reader in self.each.values_mut() {
            reader.admitted = true;
        }
    }

    /// Starts what may be read and does not run.
    pub(crate) fn start<'a>(&mut self, now: Duration, kinds: impl Iterator<Item = &'a Kind>) {
        for kind in kinds {
            if let Some(reader) = self.each.get_mut(kind).filter(|reader| reader.admitted) {
                reader.lane.start(now);
            }
        }
    }

    pub(crate) fn are_watching(&self, kinds: &BTreeSet<Kind>) -> bool {
        kinds.iter().all(|kind| self.each.get(kind).is_some_and(|reader| reader.lane.is_watching()))
    }

    /// What the consumer holds of them is as it is there, or cannot be read for a reason that the status names.
    pub(crate) fn are_settled(&self, kinds: &BTreeSet<Kind>) -> bool {
        let settled = |reader: &Reader| !reader.told || reader.lane.is_watching() || reader.lane.problem().is_some();
        kinds.iter().all(|kind| self.each.get(kind).is_none_or(settled))
    }

    /// When the first of those that stumbled wants to be started again.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.each.values().filter_map(|reader| reader.lane.retry()).min()
    }

    /// The one that asked this.
    pub(crate) fn lane(&mut self, ticket: Ticket) -> Option<&mut Lane> {
        self.each.values_mut().map(|reader| &mut reader.lane).find(|lane| lane.owns(ticket))
    }

    /// Passes on what the lanes say.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn pump(&mut self, desk: &mut Desk<'_>) -> Result<(), Failure> {
        for (kind, reader) in &mut self.each {
            while let Some(said) = reader.lane.poll(desk)? {
                reader.say(*kind, self.store, said, desk);
            }
        }
        Ok(())
    }

    /// Voids what outlives no long silence: what traffic is sent by. Who is who stays.
    pub(crate) fn expire(&mut self, out: &mut VecDeque<Output>) {
        for kind in Kind::ALL.into_iter().filter(|kind| expires_in_silence(*kind)) {
            self.empty(kind, out);
        }
    }

    /// Voids the kinds that are not among `offered`.
    pub(crate) fn retain(&mut self, offered: &BTreeSet<Kind>, out: &mut VecDeque<Output>) {
        for kind in Kind::ALL.into_iter().filter(|kind| !offered.contains(kind)) {
            self.empty(kind, out);
        }
    }

    fn empty(&mut self, kind: Kind, out: &mut VecDeque<Output>) {
        let Some(reader) = self.each.get_mut(&kind) else { return };
        reader.lane.stop();
        reader.lane.forget();
        reader.tally.clear();
        reader.unreadable = 0;
        if std::mem::take(&mut reader.told) {
            out.extend([Output::Tell(Change::Relisting(kind)), Output::Tell(Change::Listed(kind))]);
        }
    }
}

/// Traffic is sent by it, so that it is void after `--clustermesh-cache-ttl`.
pub(super) fn expires_in_silence(kind: Kind) -> bool {
    matches!(kind, Kind::Services | Kind::EndpointSlices | Kind::ServiceExports)
}

impl Reader {
    fn new(prefix: String, page: usize) -> Reader {
        Reader {
            lane: Lane::new(prefix, page),
            tally: Tally::default(),
            admitted: false,
            told: false,
            unreadable: 0,
            last_change: None,
            last_list: None,
            listings: 0,
        }
    }

    /// It is to be listed from the start, when its canary is there.
    fn void(&mut self) {
        self.lane.forget();
        self.admitted = false;
    }

    fn say(&mut self, kind: Kind, store: u64, said: Said, desk: &mut Desk<'_>) {
        match said {
            Said::Relisting => {
                self.tally.relisting();
                self.unreadable = 0;
                self.told = true;
                desk.tell(Change::Relisting(kind));
            }
            Said::Put(entry) => {
                let Some(name) = self.name(&entry.key) else { return self.unreadable += 1 };
                self.tally.put(&name, &entry.value);
                self.last_change = Some(desk.now);
                desk.tell(Change::Put { kind, name, value: entry.value, revision: entry.mod_revision, store });
            }
            Said::Deleted { key, revision } => {
                let Some(name) = self.name(&key) else { return };
                self.tally.delete(&name);
                self.last_change = Some(desk.now);
                desk.tell(Change::Deleted { kind, name, revision });
            }
            Said::Listed { .. } => {
                self.listings += 1;
                self.last_list = self.lane.list_asked().map(|asked| desk.now.saturating_sub(asked));
                self.tally.listed();
                desk.tell(Change::Listed(kind));
            }
            // The status of the kind names the lane's problem.
            Said::Stumbled => {}
        }
    }

    /// What follows the prefix, if that is a text.
    fn name(&self, key: &Bytes) -> Option<Box<str>> {
        let name = key.strip_prefix(self.lane.prefix().as_bytes())?;
        std::str::from_utf8(name).ok().filter(|name| !name.is_empty()).map(Box::from)
    }
}
