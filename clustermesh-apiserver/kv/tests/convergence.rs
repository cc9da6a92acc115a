//! A reader and a writer against the twin under arbitrary disconnections, compactions, lost leases and lost data:
//! whatever happened, they end with what is so.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use causeway_mesh_kv::{
    Follow, FollowOut, Group, GroupId, Heartbeat, Now, Op, Publish, Reply, SessionId, Settings, Ticket, Told, Twin,
    Write,
};
use proptest::collection::vec;
use proptest::prelude::*;

const S: SessionId = SessionId(1);
const PREFIX: &str = "n/";
const CANARY: &str = "synced/n";

/// A failure is printed with its smallest life; put it into a test of its own.
fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

fn key(n: u8) -> String {
    format!("{PREFIX}{n}")
}

fn after(now: Now, by: Duration) -> Now {
    Now { at: now.at + by, wall: now.wall + by }
}

fn contents(twin: &Twin, prefix: &str) -> BTreeMap<String, Bytes> {
    let text = |key: Bytes| String::from_utf8(key.to_vec()).unwrap();
    twin.entries(prefix).into_iter().map(|entry| (text(entry.key), entry.value)).collect()
}

// The reader.

#[derive(Debug, Clone)]
enum Happens {
    Put(u8, u8),
    Delete(u8),
    Elsewhere,
    /// The reader gets so many answers.
    Deliver(u8),
    Disconnect,
    Cut,
    Mend,
    Compact,
    Wipe,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        8 => (0..12u8, any::<u8>()).prop_map(|(k, v)| Happens::Put(k, v)),
        3 => (0..12u8).prop_map(Happens::Delete),
        1 => Just(Happens::Elsewhere),
        8 => (1..4u8).prop_map(Happens::Deliver),
        1 => Just(Happens::Disconnect),
        1 => Just(Happens::Cut),
        1 => Just(Happens::Mend),
        1 => Just(Happens::Compact),
        1 => Just(Happens::Wipe),
    ]
}

struct Reader {
    follow: Follow,
    twin: Twin,
    now: Instant,
    ticket: u64,
    replies: VecDeque<Reply>,
    known: BTreeMap<String, Bytes>,
    /// Not told again since `Relisting`.
    stale: BTreeSet<String>,
    interruptions: usize,
}

impl Reader {
    fn new() -> Self {
        Self {
            follow: Follow::new(PREFIX, 3),
            twin: Twin::new(1),
            now: Instant::now(),
            ticket: 0,
            replies: VecDeque::new(),
            known: BTreeMap::new(),
            stale: BTreeSet::new(),
            interruptions: 0,
        }
    }

    fn drain(&mut self) {
        while let Some(out) = self.follow.poll() {
            match out {
                FollowOut::Ask { op } => {
                    self.twin.submit(S, Ticket(self.ticket), Op::Cancel, self.now);
                    self.ticket += 1;
                    self.twin.submit(S, Ticket(self.ticket), op, self.now);
                }
                FollowOut::Cancel => self.twin.submit(S, Ticket(self.ticket), Op::Cancel, self.now),
                FollowOut::Tell(told) => self.told(told),
            }
        }
    }

    fn told(&mut self, told: Told) {
        let text = |key: &Bytes| String::from_utf8(key.to_vec()).unwrap();
        match told {
            Told::Relisting => self.stale = self.known.keys().cloned().collect(),
            Told::Put(entry) => {
                self.stale.remove(&text(&entry.key));
                self.known.insert(text(&entry.key), entry.value);
            }
            Told::Deleted { key, .. } => {
                self.known.remove(&text(&key));
            }
            Told::Listed { .. } => {
                for key in std::mem::take(&mut self.stale) {
                    self.known.remove(&key);
                }
            }
            Told::Interrupted(_) => self.interruptions += 1,
        }
    }

    fn deliver(&mut self, count: usize) -> bool {
        self.replies.extend(self.twin.take(S));
        for _ in 0..count {
            let Some(reply) = self.replies.pop_front() else { return false };
            if reply.ticket == Ticket(self.ticket) {
                self.follow.handle(reply.store, reply.outcome);
            }
            self.drain();
            self.replies.extend(self.twin.take(S));
        }
        true
    }

    fn step(&mut self, happens: &Happens) {
        match *happens {
            Happens::Put(k, v) => drop(self.twin.put(&key(k), vec![v])),
            Happens::Delete(k) => drop(self.twin.delete(&key(k))),
            Happens::Elsewhere => drop(self.twin.put("m/1", "x")),
            Happens::Deliver(count) => drop(self.deliver(count.into())),
            Happens::Disconnect => self.twin.disconnect(S),
            Happens::Cut => self.twin.set_reachable(S, false),
            Happens::Mend => self.twin.set_reachable(S, true),
            Happens::Compact => self.twin.compact(self.twin.revision()),
            Happens::Wipe => self.twin.wipe(self.twin.store() + 1),
        }
        self.follow.start();
        self.drain();
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_reader_ends_with_what_the_store_holds(life in vec(happens(), 0..120)) {
        let mut reader = Reader::new();
        for happens in &life {
            reader.step(happens);
        }
        reader.step(&Happens::Mend);
        while reader.deliver(1) {
            reader.follow.start();
            reader.drain();
        }
        prop_assert!(reader.follow.is_watching());
        prop_assert_eq!(&reader.known, &contents(&reader.twin, PREFIX));
        prop_assert_eq!(reader.stale, BTreeSet::new());
    }
}

// The writer.

#[derive(Debug, Clone)]
enum Does {
    Set(u8, u8),
    Delete(u8),
    Listed,
    /// Says the set again, with these keys only.
    Relist(BTreeSet<u8>),
    Remove,
    /// The group is removed, if it is there, and added again.
    Renew,
    Deliver(u8),
    Wait(u16),
    Disconnect,
    Cut,
    Mend,
    DropLease(u8),
    NoSpace(bool),
    Wipe {
        same: bool,
    },
}

fn does() -> impl Strategy<Value = Does> {
    prop_oneof![
        10 => (0..20u8, 0..3u8).prop_map(|(k, v)| Does::Set(k, v)),
        4 => (0..20u8).prop_map(Does::Delete),
        2 => Just(Does::Listed),
        1 => proptest::collection::btree_set(0..20u8, 0..10).prop_map(Does::Relist),
        1 => Just(Does::Remove),
        2 => Just(Does::Renew),
        10 => (1..4u8).prop_map(Does::Deliver),
        4 => (1..10_000u16).prop_map(Does::Wait),
        1 => Just(Does::Disconnect),
        1 => Just(Does::Cut),
        1 => Just(Does::Mend),
        1 => (0..6u8).prop_map(Does::DropLease),
        1 => any::<bool>().prop_map(Does::NoSpace),
        1 => any::<bool>().prop_map(|same| Does::Wipe { same }),
    ]
}

struct Writer {
    publish: Publish,
    id: GroupId,
    twin: Twin,
    now: Now,
    replies: VecDeque<Reply>,
    model: BTreeMap<String, Bytes>,
    removed: bool,
    /// The set was called complete.
    listed: bool,
    /// For the first time, and nothing has changed since.
    settled: bool,
    /// The store has lost keys, and the writer may not have noticed when it writes the canary.
    lossy: bool,
}

impl Writer {
    /// `left`: keys that a former life has left in the store.
    fn new(left: &BTreeSet<u8>) -> Self {
        let mut twin = Twin::new(1);
        for k in left {
            twin.put(&key(*k), "old");
        }
        let heartbeat = Heartbeat { key: "hb".to_owned(), interval: Duration::from_secs(5) };
        let settings = Settings {
            keys_per_lease: 4,
            batch: 3,
            in_flight: 2,
            page_size: 3,
            heartbeat: Some(heartbeat),
            ..Settings::default()
        };
        let mut publish = Publish::new(settings, 42);
        let id = publish.add_group(group());
        Self {
            publish,
            id,
            twin,
            now: Now { at: Instant::now(), wall: UNIX_EPOCH },
            replies: VecDeque::new(),
            model: BTreeMap::new(),
            removed: false,
            listed: false,
            settled: false,
            lossy: false,
        }
    }

    fn drain(&mut self) -> Result<(), TestCaseError> {
        while let Some((ticket, op)) = self.publish.poll(self.now) {
            let canary = matches!(&op, Op::Write { writes }
                if writes.iter().any(|write| matches!(write, Write::Put { key, .. } if key == CANARY)));
            self.twin.submit(S, ticket, op, self.now.at);
            if canary && !contents(&self.twin, CANARY).is_empty() {
                prop_assert!(self.listed);
                if self.settled {
                    prop_assert_eq!(&contents(&self.twin, PREFIX), &self.model, "the canary came too early");
                }
            }
        }
        Ok(())
    }

    fn deliver(&mut self, count: usize) -> Result<bool, TestCaseError> {
        self.replies.extend(self.twin.take(S));
        for _ in 0..count {
            let Some(reply) = self.replies.pop_front() else { return Ok(false) };
            self.publish.handle(reply, self.now);
            self.drain()?;
            self.replies.extend(self.twin.take(S));
        }
        Ok(true)
    }

    fn set(&mut self, k: u8, v: u8) {
        if self.removed {
            return;
        }
        self.publish.set(self.id, &key(k), Bytes::from(vec![v]));
        self.model.insert(key(k), Bytes::from(vec![v]));
        self.settled = false;
    }

    fn listed(&mut self) {
        self.publish.listed(self.id);
        self.settled |= !self.listed && !self.lossy && !self.removed;
        self.listed = true;
    }

    fn step(&mut self, does: &Does) -> Result<(), TestCaseError> {
        match does {
            Does::Set(k, v) => self.set(*k, *v),
            Does::Delete(k) => {
                self.publish.delete(self.id, &key(*k));
                self.model.remove(&key(*k));
                self.settled = false;
            }
            Does::Listed => self.listed(),
            Does::Relist(keys) => {
                self.publish.relisting(self.id);
                self.model.clear();
                keys.iter().for_each(|k| self.set(*k, 9));
                self.listed();
            }
            Does::Remove | Does::Renew => {
                self.publish.remove_group(self.id);
                self.removed = matches!(does, Does::Remove);
                if !self.removed {
                    self.id = self.publish.add_group(group());
                }
                self.model.clear();
                (self.listed, self.settled) = (false, false);
            }
            Does::Deliver(count) => drop(self.deliver((*count).into())?),
            Does::Wait(ms) => {
                self.now = after(self.now, Duration::from_millis((*ms).into()));
                self.twin.tick(self.now.at);
            }
            Does::Disconnect => self.twin.disconnect(S),
            Does::Cut => self.twin.set_reachable(S, false),
            Does::Mend => self.twin.set_reachable(S, true),
            Does::DropLease(n) => {
                (self.settled, self.lossy) = (false, true);
                if let Some((lease, _)) = self.twin.leases().get(usize::from(*n)) {
                    self.twin.drop_lease(*lease);
                }
            }
            Does::NoSpace(full) => self.twin.set_no_space(*full),
            Does::Wipe { same } => {
                self.twin.wipe(self.twin.store() + u64::from(!same));
                (self.settled, self.lossy) = (false, true);
            }
        }
        self.drain()
    }

    /// Lets time pass, long enough for every retry and every lease to be looked at.
    fn end(&mut self) -> Result<(), TestCaseError> {
        self.step(&Does::NoSpace(false))?;
        self.step(&Does::Mend)?;
        self.listed();
        let end = self.now.at + Duration::from_mins(20);
        while self.now.at < end {
            self.drain()?;
            while self.deliver(1)? {}
            let next = self.publish.deadline().unwrap().max(self.now.at);
            self.now = after(self.now, next - self.now.at);
            self.twin.tick(self.now.at);
        }
        Ok(())
    }
}

fn group() -> Group {
    Group { name: "nodes".to_owned(), prefixes: vec![PREFIX.to_owned()], canary: Some(CANARY.to_owned()) }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_writer_ends_with_what_is_wanted(
        left in proptest::collection::btree_set(15..25u8, 0..5),
        life in vec(does(), 0..120),
    ) {
        let mut writer = Writer::new(&left);
        for does in &life {
            writer.step(does)?;
        }
        writer.end()?;
        prop_assert_eq!(&contents(&writer.twin, PREFIX), &writer.model);
        prop_assert_eq!(contents(&writer.twin, CANARY).len(), usize::from(!writer.removed));
        let stats = writer.publish.stats();
        prop_assert!(stats.groups.iter().all(|group| group.synced && group.queued == 0), "{:?}", stats);
        prop_assert_eq!(stats.groups.len(), usize::from(!writer.removed));
        // Everything is under a lease, none of which has too much.
        let leases = writer.twin.leases();
        prop_assert_eq!(leases.iter().map(|(_, keys)| keys).sum::<usize>(), writer.twin.entries("").len());
        prop_assert!(leases.iter().all(|(_, keys)| *keys <= 4), "{:?}", leases);
    }
}
