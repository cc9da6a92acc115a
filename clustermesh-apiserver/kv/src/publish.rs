//! Keeps a set of keys written in a store: Cilium's SyncStore. Batches, leases, canaries, a heartbeat, retries.
//!
//! Sans-I/O: `set`, `delete` and `listed` say what is wanted; [`Publish::poll`] gives what to ask of the store now,
//! [`Publish::handle`] takes the replies, [`Publish::deadline`] says when to poll again. Of a key only the newest value
//! is ever written, and none that the store already holds. Everything is under leases, so that a writer that is gone
//! for good leaves nothing behind; a lost lease or a store that came back empty writes everything again.

mod answer;
mod ask;
mod group;
mod leases;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::backoff::Backoff;
use crate::op::{Failure, LeaseId, MAX_BATCH, Revision, Ticket};
use group::{GroupState, Stage};
use leases::Leases;

/// How to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long keys outlive their writer (Cilium's `--kvstore-lease-ttl`). Kept alive three times as often.
    pub lease_ttl: Duration,
    /// etcd's put grows slower with the keys of a lease (etcd-io/etcd#15993), so there are several.
    pub keys_per_lease: usize,
    /// Writes in one transaction, at most [`MAX_BATCH`].
    pub batch: usize,
    /// Bytes of keys and values in one transaction; etcd takes 1.5 MiB (`--max-request-bytes`). A larger value goes alone.
    pub batch_bytes: usize,
    /// Transactions that wait for their answer at the same time.
    pub in_flight: usize,
    /// Entries in one answer when the own prefixes are listed at the start.
    pub page_size: usize,
    /// A key that is rewritten with the time, so that readers see life.
    pub heartbeat: Option<Heartbeat>,
    pub retry_first: Duration,
    pub retry_limit: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    pub key: String,
    pub interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_mins(15),
            keys_per_lease: 1000,
            batch: MAX_BATCH,
            batch_bytes: 1 << 20,
            in_flight: 4,
            page_size: 4000,
            heartbeat: None,
            retry_first: Duration::from_millis(50),
            retry_limit: Duration::from_secs(30),
        }
    }
}

/// Keys that become complete together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// For people and metrics, such as `nodes`.
    pub name: String,
    /// Everything that begins with these is ours: what is found there and not wanted is deleted once the group is
    /// listed. End them with `/`. Empty for a group of single keys.
    pub prefixes: Vec<String>,
    /// Written with the time (RFC 3339) once the first complete set is in the store.
    pub canary: Option<String>,
}

/// Names a group in its [`Publish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(u64);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stats {
    pub groups: Vec<GroupStats>,
    /// Which data set is written to ([`crate::Reply::store`]); 0 before the first answer.
    pub store: u64,
    /// Leases that are held.
    pub leases: usize,
    /// Operations that wait for their answer.
    pub asked: usize,
    /// Keys put or deleted since the start.
    pub written: u64,
    /// Failed operations since the start, and the last of them. `None` again when one succeeds.
    pub errors: u64,
    pub last_error: Option<Failure>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStats {
    pub id: GroupId,
    pub name: String,
    /// Keys wanted, without the canary.
    pub keys: usize,
    /// Keys whose newest value is not in the store yet.
    pub queued: usize,
    /// The caller said that the set is complete.
    pub listed: bool,
    /// The set is in the store, and so is the canary if there is one.
    pub synced: bool,
}

/// The writer.
#[derive(Debug)]
pub struct Publish {
    settings: Settings,
    rng: StdRng,
    groups: BTreeMap<GroupId, GroupState>,
    last_group: u64,
    /// Keys to write, oldest first.
    queue: VecDeque<(GroupId, Arc<str>)>,
    /// Groups whose prefixes are to be read.
    listings: VecDeque<GroupId>,
    /// Groups whose prefixes are to be emptied.
    clearances: VecDeque<GroupId>,
    /// Groups whose canary is to be written.
    canaries: Vec<GroupId>,
    /// What failed and is tried again, by time.
    later: BTreeMap<(Instant, u64), Later>,
    later_count: u64,
    leases: Leases,
    /// A lease is on its way.
    granting: bool,
    grant_tries: u32,
    asked: HashMap<Ticket, Asked>,
    last_ticket: u64,
    writing: usize,
    /// Nobody answers: nothing is asked before.
    paused: Option<Instant>,
    backoff: Backoff,
    heartbeat_at: Option<Instant>,
    store: u64,
    /// The newest revision that the store told.
    revision: Revision,
    written: u64,
    errors: u64,
    last_error: Option<Failure>,
}

/// Canaries and the heartbeat.
const OWN: GroupId = GroupId(0);

#[derive(Debug)]
enum Later {
    Key(GroupId, Arc<str>),
    List(GroupId),
    Clear(GroupId),
    Grant,
}

/// An operation that waits for its answer.
#[derive(Debug)]
struct Asked {
    what: What,
    /// The newest revision when it was asked: a store that answers with an older one has lost its data.
    floor: Revision,
}

#[derive(Debug)]
enum What {
    Write(Vec<Item>),
    /// With the group's epoch.
    List(GroupId, u64),
    /// The group's prefixes, in one transaction; with its epoch.
    Clear(GroupId, u64),
    Grant,
    KeepAlive(LeaseId),
}

/// A key in a transaction.
#[derive(Debug)]
struct Item {
    group: GroupId,
    name: Arc<str>,
    value: Option<Bytes>,
    lease: Option<LeaseId>,
}

impl Publish {
    /// `seed` feeds the jitter of retries.
    pub fn new(settings: Settings, seed: u64) -> Self {
        let own = Group { name: "own".to_owned(), ..Group::default() };
        Self {
            rng: StdRng::seed_from_u64(seed),
            groups: BTreeMap::from([(OWN, GroupState::new(own))]),
            last_group: 0,
            queue: VecDeque::new(),
            listings: VecDeque::new(),
            clearances: VecDeque::new(),
            canaries: Vec::new(),
            later: BTreeMap::new(),
            later_count: 0,
            leases: Leases::new(settings.keys_per_lease),
            granting: false,
            grant_tries: 0,
            asked: HashMap::new(),
            last_ticket: 0,
            writing: 0,
            paused: None,
            backoff: Backoff::new(settings.retry_first, settings.retry_limit),
            heartbeat_at: None,
            store: 0,
            revision: 0,
            written: 0,
            errors: 0,
            last_error: None,
            settings,
        }
    }

    /// Keys of different groups must not overlap. Prefixes that a removed group still empties are taken over from it,
    /// with its id.
    pub fn add_group(&mut self, group: Group) -> GroupId {
        let leaving = self.groups.iter_mut().find(|(_, old)| old.leaving && old.spec.prefixes == group.prefixes);
        if let Some((&id, old)) = leaving.filter(|_| !group.prefixes.is_empty()) {
            let queued = old.revive(group);
            if old.wants_listing() {
                self.listings.push_back(id);
            }
            self.queue.extend(queued.into_iter().map(|name| (id, name)));
            return id;
        }
        self.last_group += 1;
        let id = GroupId(self.last_group);
        let mut state = GroupState::new(group);
        if state.wants_listing() {
            self.listings.push_back(id);
        }
        self.groups.insert(id, state);
        id
    }

    /// Deletes the group's canary and keys (all under its prefixes), then forgets it. Further calls with `id` do
    /// nothing.
    pub fn remove_group(&mut self, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id).filter(|group| !group.leaving && id != OWN) else { return };
        let canary = group.spec.canary.clone();
        let queued = group.leave();
        self.queue.extend(queued.into_iter().map(|name| (id, name)));
        if group.spec.prefixes.is_empty() {
            self.forget_if_empty(id);
        } else {
            self.clearances.push_back(id);
        }
        self.delete_canary(canary.as_deref());
    }

    /// `key` shall hold `value`.
    pub fn set(&mut self, id: GroupId, key: &str, value: Bytes) {
        if let Some(group) = self.groups.get_mut(&id).filter(|group| !group.leaving) {
            let queued = group.set(key, value);
            self.queue.extend(queued.map(|name| (id, name)));
        }
    }

    /// `key` shall not exist.
    pub fn delete(&mut self, id: GroupId, key: &str) {
        if let Some(group) = self.groups.get_mut(&id).filter(|group| !group.leaving) {
            let queued = group.delete(key);
            self.queue.extend(queued.map(|name| (id, name)));
        }
    }

    /// The caller begins to say the whole set again: what it does not `set` before [`Publish::listed`] goes.
    pub fn relisting(&mut self, id: GroupId) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.relisting();
        }
    }

    /// The set is complete. Once it is in the store, the canary follows.
    pub fn listed(&mut self, id: GroupId) {
        if let Some(group) = self.groups.get_mut(&id).filter(|group| !group.leaving) {
            let queued = group.listed();
            self.queue.extend(queued.into_iter().map(|name| (id, name)));
            self.canary_if_flushed(id);
        }
    }

    /// When to poll again if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        // What failed may be in the queues again, which know no time: the end of a pause is one in any case. Nothing
        // is asked before it.
        self.paused.or_else(|| {
            let times = [self.heartbeat_at, self.leases.deadline(), self.later.keys().next().map(|(at, _)| *at)];
            times.into_iter().flatten().min()
        })
    }

    pub fn stats(&self) -> Stats {
        let groups = self.groups.iter().filter(|(id, _)| **id != OWN);
        Stats {
            groups: groups.map(|(id, group)| self.group_stats(*id, group)).collect(),
            store: self.store,
            leases: self.leases.len(),
            asked: self.asked.len(),
            written: self.written,
            errors: self.errors,
            last_error: self.last_error.clone(),
        }
    }

    fn group_stats(&self, id: GroupId, group: &GroupState) -> GroupStats {
        let own = self.groups.get(&OWN);
        let canary = group.spec.canary.as_deref();
        let written = canary.is_none_or(|name| {
            own.and_then(|own| own.keys.get(name)).is_some_and(|key| key.want.is_some() && !key.is_dirty())
        });
        GroupStats {
            id,
            name: group.spec.name.clone(),
            keys: group.wanted,
            queued: group.busy,
            listed: group.listed,
            synced: group.stage == Stage::Flushed && written,
        }
    }

    fn canary_if_flushed(&mut self, id: GroupId) {
        if self.groups.get_mut(&id).is_some_and(GroupState::take_flushed) {
            self.canaries.push(id);
        }
    }

    fn delete_canary(&mut self, canary: Option<&str>) {
        if let (Some(canary), Some(own)) = (canary, self.groups.get_mut(&OWN)) {
            let queued = own.delete(canary);
            self.queue.extend(queued.map(|name| (OWN, name)));
        }
    }

    /// A group of single keys that leaves is forgotten with its last key.
    fn forget_if_empty(&mut self, id: GroupId) {
        if self
            .groups
            .get(&id)
            .is_some_and(|group| group.leaving && group.spec.prefixes.is_empty() && group.keys.is_empty())
        {
            self.groups.remove(&id);
        }
    }
}
