//! Time, and everything that happens in it.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_mesh_kv::{Op, Reply, SessionId, Ticket};
use causeway_mesh_remote::core::Input;
use causeway_mesh_remote::{Settings, Stage, StageAfter};
use causeway_mesh_schema::ClusterId;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::fault::{Fault, span};
use crate::reader::Reader;
use crate::writer::Writer;

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const S: Duration = Duration::from_secs(1);
/// Between two heartbeats of a writer.
const BEAT: Duration = Duration::from_secs(20);
/// A session's keepalive finds a dead connection after this.
const KEEPALIVE: Duration = Duration::from_secs(7);

/// A run has a few thousand; a machine that wakes itself without end has more.
const MOST_EVENTS: u64 = 100_000;

pub(crate) struct World {
    pub(crate) now: Duration,
    /// What `now` is for stores, whose leases know another clock.
    pub(crate) base: Instant,
    pub(crate) rng: StdRng,
    pub(crate) settings: Arc<Settings>,
    pub(crate) writers: Vec<Writer>,
    pub(crate) readers: Vec<Reader>,
    /// Per agent: which of its readers has which number.
    pub(crate) reserved: Vec<BTreeMap<ClusterId, usize>>,
    pub(crate) events: BTreeMap<(Duration, u64), Event>,
    pub(crate) sequence: u64,
    pub(crate) sessions: u64,
    pub(crate) stores: u64,
    pub(crate) faults: bool,
    pub(crate) loud: bool,
    pub(crate) totals: Totals,
}

#[derive(Debug)]
pub(crate) enum Event {
    Beat(usize),
    Write(usize),
    Fault,
    Wake(usize),
    Request(usize, SessionId, Ticket, Op),
    Reply(usize, SessionId, Reply),
    TimeOut(usize, SessionId, Ticket),
    Keepalive(usize, SessionId),
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) events: u64,
    pub(crate) sessions: u64,
    pub(crate) puts: u64,
    pub(crate) unchanged: u64,
    pub(crate) forgets: u64,
    pub(crate) refused: u64,
    pub(crate) stages: BTreeMap<&'static str, u64>,
    pub(crate) faults: BTreeMap<Fault, u64>,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, run: Totals) {
        self.events += run.events;
        self.sessions += run.sessions;
        self.puts += run.puts;
        self.unchanged += run.unchanged;
        self.forgets += run.forgets;
        self.refused += run.refused;
        for (stage, count) in run.stages {
            *self.stages.entry(stage).or_default() += count;
        }
        for (fault, count) in run.faults {
            *self.faults.entry(fault).or_default() += count;
        }
    }
}

impl Totals {
    /// A simulation in which a fault never happens proves nothing about it.
    pub(crate) fn assert_that_everything_happened(&self, runs: u64) {
        if runs < 100 {
            return;
        }
        for fault in Fault::all() {
            assert!(self.faults.get(&fault).is_some_and(|count| *count > 0), "{fault:?} never happened");
        }
        for stage in ["fresh", "silent", "de-preferred", "probed", "revoked"] {
            assert!(self.stages.get(stage).is_some_and(|count| *count > 0), "nobody was ever {stage}");
        }
        assert!(self.forgets > 0 && self.refused > 0 && self.unchanged > 0, "{self:?}");
    }
}

impl World {
    pub(crate) fn new(seed: u64, loud: bool) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let settings = Arc::new(Settings {
            page: rng.random_range(1..5),
            cache_ttl: if rng.random_bool(0.4) { span(&mut rng, 30 * S, 300 * S) } else { Duration::MAX },
            stages: StageAfter::default(),
            ..Settings::default()
        });
        let clusters = rng.random_range(1..4);
        let agents = rng.random_range(1..3);
        let mut writers = Vec::new();
        for cluster in 0..clusters {
            let number = u32::try_from(cluster).unwrap() + 1;
            writers.push(Writer::new(&format!("c{number}"), number, 100 + u64::from(number), &mut rng));
        }
        let readers = (0..agents).flat_map(|agent| (0..clusters).map(move |cluster| Reader::new(cluster, agent)));
        World {
            now: S,
            base: Instant::now(),
            settings,
            readers: readers.collect(),
            reserved: vec![BTreeMap::new(); agents],
            events: BTreeMap::new(),
            sequence: 0,
            sessions: 0,
            stores: 1000,
            faults: true,
            loud,
            totals: Totals::default(),
            writers,
            rng,
        }
    }

    pub(crate) fn run(mut self) -> Totals {
        for cluster in 0..self.writers.len() {
            self.at(MS, Event::Beat(cluster));
            self.at(MS, Event::Write(cluster));
        }
        for reader in 0..self.readers.len() {
            self.add(reader);
        }
        self.at(S, Event::Fault);
        let faults_end = span(&mut self.rng, 60 * S, 900 * S);
        self.until(faults_end);
        self.heal();
        // A changed configuration is noticed within a look at it.
        let mut end = faults_end + 60 * S;
        self.until(end);
        // At worst: a session that is given up, the longest back-off, and the wait for a configuration.
        while !self.is_quiet() && end < faults_end + 400 * S {
            end += 20 * S;
            self.until(end);
        }
        for reader in &self.readers {
            let writer = &self.writers[reader.cluster];
            assert!(writer.is_done());
            reader.assert_converged(writer, &self.settings, self.now);
            self.totals.puts += reader.consumer.puts;
            self.totals.unchanged += reader.consumer.unchanged;
            self.totals.forgets += reader.consumer.forgets;
        }
        self.totals.sessions = self.sessions;
        self.totals
    }

    /// Everybody says that there is nothing left to do.
    fn is_quiet(&self) -> bool {
        let quiet = |reader: &Reader| {
            let ready = reader.remote.as_ref().is_some_and(|remote| remote.is_ready());
            ready && reader.consumer.stage == Stage::Fresh && self.writers[reader.cluster].is_done()
        };
        self.readers.iter().all(quiet)
    }

    fn until(&mut self, end: Duration) {
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            self.totals.events += 1;
            assert!(self.totals.events < MOST_EVENTS, "time stands still at {:?}", self.now);
            self.happen(event);
        }
        self.now = end;
    }

    /// Nothing goes wrong from here on, and what was wrong is put right.
    fn heal(&mut self) {
        self.faults = false;
        for cluster in 0..self.writers.len() {
            // No two clusters have the same number in the end.
            let number = u32::try_from(cluster).unwrap() + 1;
            let writer = &mut self.writers[cluster];
            writer.asleep = Duration::ZERO;
            writer.delay_canaries(Duration::ZERO);
            if writer.id != number {
                writer.renumber(number);
            }
            self.feed(cluster);
        }
        for reader in 0..self.readers.len() {
            self.readers[reader].cut_until = Duration::ZERO;
            self.readers[reader].slow.1 = Duration::ZERO;
            if self.readers[reader].remote.is_none() {
                self.add(reader);
            }
        }
    }

    fn happen(&mut self, event: Event) {
        let at = self.base + self.now;
        match event {
            Event::Beat(cluster) => {
                self.writers[cluster].tick(at);
                self.writers[cluster].step(self.now, at, true, &mut self.rng);
                self.feed(cluster);
                self.at(BEAT, Event::Beat(cluster));
            }
            Event::Write(cluster) => {
                if self.faults {
                    self.writers[cluster].change(&mut self.rng);
                }
                self.writers[cluster].step(self.now, at, false, &mut self.rng);
                self.feed(cluster);
                let pause = span(&mut self.rng, 100 * MS, 60 * S);
                let pause = if self.writers[cluster].is_done() { pause } else { pause.min(5 * S) };
                self.at(pause, Event::Write(cluster));
            }
            Event::Fault => {
                if self.faults {
                    self.fault();
                    let pause = span(&mut self.rng, 500 * MS, 90 * S);
                    self.at(pause, Event::Fault);
                }
            }
            Event::Wake(reader) => {
                if self.readers[reader].wake.take_if(|wake| *wake <= self.now).is_some() {
                    self.tell(reader, Input::Tick);
                }
            }
            Event::Request(reader, session, ticket, op) => self.request(reader, session, ticket, op),
            Event::Reply(reader, session, reply) => {
                if self.link(reader, session).is_some_and(|link| link.passes(&reply)) {
                    self.tell(reader, Input::Reply(reply));
                }
            }
            Event::TimeOut(reader, session, ticket) => {
                if let Some(reply) = self.link(reader, session).and_then(|link| link.time_out(ticket)) {
                    self.tell(reader, Input::Reply(reply));
                }
            }
            Event::Keepalive(reader, session) => self.snap(reader, session),
        }
    }

    fn fault(&mut self) {
        let reader = self.rng.random_range(0..self.readers.len());
        let cluster = self.rng.random_range(0..self.writers.len());
        let length = span(&mut self.rng, 100 * MS, 900 * S);
        let fault = Fault::any(&mut self.rng);
        if self.loud {
            println!("{:?} {fault:?}: reader {reader} or cluster {cluster}, {length:?}", self.now);
        }
        *self.totals.faults.entry(fault).or_default() += 1;
        let session = self.readers[reader].link.as_ref().map(|link| link.session);
        match fault {
            Fault::Break => self.break_link(reader),
            Fault::Deafen => {
                if let (Some(session), Some(link)) = (session, &mut self.readers[reader].link) {
                    link.deaf = true;
                    if self.rng.random_bool(0.7) {
                        self.at(KEEPALIVE, Event::Keepalive(reader, session));
                    }
                }
            }
            Fault::Cut => {
                self.readers[reader].cut_until = self.now + length;
                self.break_link(reader);
            }
            Fault::Slow => self.readers[reader].slow = (span(&mut self.rng, 10 * MS, 8 * S), self.now + length),
            Fault::RemoveFile => {
                if self.readers[reader].remote.is_some() {
                    self.tell(reader, Input::Remove);
                    assert!(self.readers[reader].remote.is_none(), "removed, and still there");
                }
            }
            Fault::AddFile => {
                let gone = (0..self.readers.len()).find(|reader| self.readers[*reader].remote.is_none());
                if let Some(reader) = gone {
                    self.add(reader);
                }
            }
            Fault::Redirect => self.tell(reader, Input::Reconnect),
            Fault::Compact => {
                let back = self.rng.random_range(0..10);
                self.writers[cluster].compact(back);
            }
            Fault::LoseLease => self.writers[cluster].lose_lease(),
            Fault::Wipe => {
                self.stores += 1;
                self.writers[cluster].wipe(self.stores);
            }
            Fault::Renumber => {
                // Sometimes a number that another cluster has.
                let number = self.rng.random_range(1..6);
                self.writers[cluster].renumber(number);
            }
            Fault::DelayCanaries => {
                let until = self.now + length.min(120 * S);
                self.writers[cluster].delay_canaries(until);
            }
            Fault::Reconfigure => self.writers[cluster].reconfigure(&mut self.rng),
            Fault::Sleep => self.writers[cluster].asleep = self.now + length,
        }
        self.feed(cluster);
    }

    fn add(&mut self, reader: usize) {
        let seed = self.rng.random();
        let name = self.writers[self.readers[reader].cluster].name.clone();
        self.readers[reader].add(&name, &self.settings, seed, self.now);
        self.tell(reader, Input::Tick);
    }

    pub(crate) fn at(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + after, self.sequence), event);
    }
}
