//! One remote cluster: from the first connection to the day it is forgotten.
//!
//! ```text
//!            +------------------- wait a while <----------------------+
//!            v                                                        | any failure
//!  connect -> heartbeat listed -> configuration read -> number reserved -> reading
//! ```
//!
//! In `reading` every kind waits for its canary, is listed, and followed; the configuration is looked at now and then. What
//! was told stays told when a connection breaks: the next one goes on where the last stopped, or lists again if it finds
//! another store.
//!
//! Sans-I/O: [`Remote::handle`], [`Remote::poll_output`], [`Remote::deadline`]. Time is a length since an epoch of the
//! driver's choice. The driver is `mesh`, and the simulation.

mod config;
mod desk;
mod heart;
mod kinds;
mod lane;
mod open;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use causeway_mesh_kv::{Backoff, Failure, Op, Reply, Ticket};
use causeway_mesh_schema::{ClusterId, ClusterName};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use self::heart::Heart;
use self::kinds::Kinds;
use self::open::Open;
pub use self::stats::{KindStats, Phase, Stats};
use crate::change::{Change, RemoteInfo, Stage};
use crate::settings::Settings;
use crate::silence::Silence;

/// What a [`Remote`] is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The session answered.
    Reply(Reply),
    /// The session could not be opened, or has ended.
    Broken(Failure),
    /// The number asked for with [`Output::Reserve`] is ours.
    Reserved,
    /// It is not, and why.
    Refused(String),
    /// The cluster is to be reached another way: begin a new session. What was read stays.
    Reconnect,
    /// The cluster's file is gone: forget it and end.
    Remove,
    /// It is time ([`Remote::deadline`]).
    Tick,
}

/// What a [`Remote`] wants done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Begin a session. Requests follow at once; the session queues them until it is connected.
    Open,
    /// End it. Its replies are not wanted any more.
    Close,
    /// Ask the session.
    Submit(Ticket, Op),
    /// Reserve this number for the cluster, in place of any that it has; answered by [`Input::Reserved`] or
    /// [`Input::Refused`].
    Reserve(ClusterId),
    /// Give the reserved number back, if there is one.
    Release,
    /// For the consumer.
    Tell(Change),
    /// Nothing will come any more.
    Gone,
}

/// A remote cluster.
#[derive(Debug)]
pub struct Remote {
    name: ClusterName,
    settings: Arc<Settings>,
    state: State,
    /// What was told with [`Change::Connected`] and not taken back.
    known: Option<Arc<RemoteInfo>>,
    reserved: Option<ClusterId>,
    kinds: Kinds,
    heart: Heart,
    silence: Silence,
    /// What is read is a copy, and the cluster that is copied has gone silent.
    source_silent: bool,
    /// Told last.
    stage: Stage,
    backoff: Backoff,
    rng: StdRng,
    /// The last ticket given.
    ticket: u64,
    failures: u64,
    last_failure: Option<(Duration, Arc<str>)>,
    out: VecDeque<Output>,
}

#[derive(Debug)]
enum State {
    /// No session before then.
    Waiting {
        until: Duration,
    },
    Open(Box<Open>),
    Gone,
}

/// Why a session is not kept.
type Verdict = Result<(), Ending>;

#[derive(Debug)]
enum Ending {
    /// It is no good; said in the status, and tried again after a while.
    Failed(String),
    /// The cluster's configuration is another: begin again at once.
    Changed,
}

impl Remote {
    /// `seed` spreads the waits of many readers; any number will do.
    #[must_use]
    pub fn new(name: ClusterName, settings: Arc<Settings>, seed: u64, now: Duration) -> Remote {
        Remote {
            kinds: Kinds::new(&name, &settings),
            name,
            state: State::Waiting { until: now },
            known: None,
            reserved: None,
            heart: Heart::new(settings.heartbeat),
            silence: Silence::new(settings.stages, now),
            source_silent: false,
            stage: Stage::Fresh,
            backoff: Backoff::new(settings.backoff.first, settings.backoff.longest),
            rng: StdRng::seed_from_u64(seed),
            ticket: 0,
            failures: 0,
            last_failure: None,
            out: VecDeque::new(),
            settings,
        }
    }

    pub fn handle(&mut self, now: Duration, input: Input) {
        let verdict = match (input, &self.state) {
            (_, State::Gone) => return,
            (Input::Remove, _) => return self.remove(),
            (Input::Tick, _) => Ok(()),
            (Input::Reply(reply), State::Open(_)) => self.reply(now, reply),
            (Input::Broken(failure), State::Open(_)) => Err(Ending::Failed(failure.message)),
            (Input::Reserved, State::Open(_)) => self.number_reserved(now),
            (Input::Refused(reason), State::Open(_)) => Err(Ending::Failed(reason)),
            (Input::Reconnect, State::Open(_)) => Err(Ending::Changed),
            (Input::Reconnect, State::Waiting { .. }) => {
                self.state = State::Waiting { until: now };
                Ok(())
            }
            // Late words of a session that has been closed.
            (_, State::Waiting { .. }) => Ok(()),
        };
        let verdict = verdict.and_then(|()| self.due(now));
        if let Err(ending) = verdict {
            self.close(now, ending);
        }
        self.age(now);
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        let next = self.out.pop_front();
        if self.out.is_empty() && self.out.capacity() > KEPT_OUTPUTS {
            self.out = VecDeque::new();
        }
        next
    }

    /// When [`Input::Tick`] is due; in the past means at once. `None` once it is gone.
    #[must_use]
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let state = match &self.state {
            State::Gone => return None,
            State::Waiting { until } => Some(*until),
            State::Open(open) => self.open_deadline(open),
        };
        let times = [state, self.silence.deadline(now), self.heart_deadline(now), self.expiry().filter(|at| *at > now)];
        times.into_iter().flatten().min()
    }

    /// Every kind that the cluster offers and we want has been listed and is being followed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(&self.state, State::Open(open) if open.is_complete(&self.kinds))
    }

    /// What waits for its time, if that has come.
    fn due(&mut self, now: Duration) -> Verdict {
        match &self.state {
            State::Waiting { until } if *until <= now => self.open(now),
            State::Waiting { .. } | State::Gone => Ok(()),
            State::Open(_) => self.open_due(now),
        }
    }

    /// Ends the session. What it read stays.
    fn close(&mut self, now: Duration, ending: Ending) {
        let wait = match ending {
            Ending::Changed => Duration::ZERO,
            Ending::Failed(message) => {
                self.failures += 1;
                self.last_failure = Some((now, message.into()));
                self.silence.begin(now);
                if self.has_lasted(now) {
                    self.backoff.reset();
                }
                self.backoff.next(&mut self.rng)
            }
        };
        self.kinds.pause();
        self.state = State::Waiting { until: now + wait };
        self.out.push_back(Output::Close);
    }

    fn remove(&mut self) {
        if matches!(self.state, State::Open(_)) {
            self.out.push_back(Output::Close);
        }
        self.forget();
        self.state = State::Gone;
        self.out.push_back(Output::Gone);
    }

    /// Takes back everything that was told.
    fn forget(&mut self) {
        if self.known.take().is_some() {
            self.out.push_back(Output::Tell(Change::Forget));
        }
        self.reserved = None;
        self.out.push_back(Output::Release);
        self.kinds.forget();
        self.source_silent = false;
        self.stage = Stage::Fresh;
    }

    /// Silence and its consequences.
    fn age(&mut self, now: Duration) {
        if matches!(self.state, State::Gone) {
            return;
        }
        if let Some(overdue) = self.heart.overdue(now) {
            self.silence.begin(overdue);
        } else if self.source_silent {
            self.silence.begin(now);
        } else if self.is_settled() {
            self.silence.end();
        }
        if self.is_ready() {
            self.backoff.reset();
        }
        if self.is_expired(now) {
            self.kinds.expire(&mut self.out);
        }
        let stage = self.silence.stage(now);
        if self.known.is_some() && stage != self.stage {
            self.stage = stage;
            self.out.push_back(Output::Tell(Change::Stage(stage)));
        }
    }

    /// It is connected, and everything that the consumer holds of it is as it is there.
    fn is_settled(&self) -> bool {
        matches!(&self.state, State::Open(open) if open.is_settled(&self.kinds))
    }

    /// The session was no failure, even if it never became ready.
    fn has_lasted(&self, now: Duration) -> bool {
        let longest = self.settings.backoff.longest;
        matches!(&self.state, State::Open(open) if open.is_reading() && now.saturating_sub(open.since) >= longest)
    }

    /// Silent for longer than the cache may last, and not just coming back.
    fn is_expired(&self, now: Duration) -> bool {
        self.expiry().is_some_and(|at| at <= now) && !self.is_reading_live(now)
    }

    fn expiry(&self) -> Option<Duration> {
        self.silence.since()?.checked_add(self.settings.cache_ttl)
    }

    fn is_reading_live(&self, now: Duration) -> bool {
        matches!(&self.state, State::Open(open) if open.is_reading()) && self.heart.overdue(now).is_none()
    }

    fn heart_deadline(&self, now: Duration) -> Option<Duration> {
        self.heart.deadline().filter(|at| *at > now)
    }
}

/// Room for outputs that is kept when they have been taken; a page of a list needs more and gives it back.
const KEPT_OUTPUTS: usize = 64;
