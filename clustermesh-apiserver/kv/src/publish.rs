//! Keeps a set of keys written in a store: Cilium's SyncStore. Batches, leases, canaries, a heartbeat, retries.
//!
//! Sans-I/O: `set`, `delete` and `listed` say what is wanted; [`Publish::poll`] gives what to ask of the store now,
//! [`Publish::handle`] takes the replies, [`Publish::deadline`] says when to poll again. Of a key only the newest value
//! is ever written, and none that the store already holds. Everything is under leases, so that a writer that is gone
//! for good leaves nothing behind; a lost lease or a store that came back empty writes everything again.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::clock::Now;
use crate::op::{Failure, MAX_BATCH, Op, Reply, Ticket};

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
    /// Which data set is written to ([`Reply::store`]); 0 before the first answer.
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

#[derive(Debug)]
pub struct Publish {}

impl Publish {
    /// `seed` feeds the jitter of retries.
    pub fn new(settings: Settings, seed: u64) -> Self {
        todo!("{settings:?} {seed}")
    }

    pub fn add_group(&mut self, group: Group) -> GroupId {
        todo!("{group:?}")
    }

    /// Deletes the group's canary and keys (all of its prefixes), then forgets it. Further calls with `id` do nothing.
    pub fn remove_group(&mut self, id: GroupId) {
        todo!("{id:?}")
    }

    /// `key` shall hold `value`.
    pub fn set(&mut self, id: GroupId, key: &str, value: Bytes) {
        todo!("{id:?} {key} {value:?}")
    }

    /// `key` shall not exist.
    pub fn delete(&mut self, id: GroupId, key: &str) {
        todo!("{id:?} {key}")
    }

    /// The caller begins to say the whole set again: what it does not `set` before [`Publish::listed`] goes.
    pub fn relisting(&mut self, id: GroupId) {
        todo!("{id:?}")
    }

    /// The set is complete. Once it is in the store, the canary follows.
    pub fn listed(&mut self, id: GroupId) {
        todo!("{id:?}")
    }

    pub fn handle(&mut self, reply: Reply, now: Now) {
        todo!("{reply:?} {now:?}")
    }

    /// What to ask of the store now, until `None`. Tickets count up from 1.
    pub fn poll(&mut self, now: Now) -> Option<(Ticket, Op)> {
        todo!("{now:?}")
    }

    /// When to poll again if nothing else happens.
    pub fn deadline(&self) -> Option<Instant> {
        todo!()
    }

    pub fn stats(&self) -> Stats {
        todo!()
    }
}
