//! A session with a remote cluster: greeting, configuration, reservation, reading.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use causeway_mesh_kv::{Failure, Op, Outcome, Reply, Revision, Ticket};
use causeway_mesh_schema::{ClusterName, HEARTBEAT, Kind, Layout, cluster_config_key, silence_key};

use super::config::Asking;
use super::desk::{Asked, Desk, single};
use super::kinds::{Kinds, expires_in_silence};
use super::lane::{Lane, Said};
use super::{Ending, Output, Remote, State, Verdict};
use crate::change::{Change, RemoteInfo};

/// What lives as long as the session.
#[derive(Debug)]
pub(crate) struct Open {
    pub(super) since: Duration,
    /// Who answers; 0 before the first answer.
    pub(super) store: u64,
    pub(super) asked: Asked,
    /// Listed anew in every session: its list is the greeting, and tells which data set this is.
    heartbeat: Lane,
    /// Asked for the configuration.
    pub(super) config: Option<Ticket>,
    /// Asked for the heartbeat, whose watch has been still for too long.
    check: Option<Ticket>,
    pub(super) step: Step,
}

#[derive(Debug)]
pub(super) enum Step {
    /// The heartbeat is being listed.
    Greeting,
    /// The configuration is being read. The store was at `revision` when it greeted.
    Asking {
        asking: Asking,
        revision: Revision,
    },
    /// The number is being reserved.
    Reserving {
        info: Arc<RemoteInfo>,
        revision: Revision,
    },
    Reading(Reading),
}

#[derive(Debug)]
pub(super) struct Reading {
    /// None are written, if `None`.
    canaries: Option<Lane>,
    /// Of a copy: whether the cluster that is copied is silent.
    source: Option<Box<Source>>,
    wanted: BTreeSet<Kind>,
    /// When the configuration is looked at again.
    pub(super) poll: Duration,
}

/// What a copy says of the one that it copies.
#[derive(Debug)]
struct Source {
    lane: Lane,
    key: String,
    /// As far as the running listing has said.
    silent: bool,
}

impl Source {
    fn new(cluster: &ClusterName, page: usize) -> Source {
        let key = silence_key(cluster);
        Source { lane: Lane::new(key.clone(), page), key, silent: false }
    }

    /// Passes on whether the one that is copied is silent. True if it stumbled.
    fn pump(&mut self, desk: &mut Desk<'_>, silent: &mut bool) -> Result<bool, Failure> {
        let mut stumbled = false;
        self.lane.start(desk.now);
        while let Some(said) = self.lane.poll(desk)? {
            match said {
                Said::Relisting => self.silent = false,
                Said::Put(entry) if entry.key == self.key.as_bytes() => self.silent = true,
                Said::Deleted { key, .. } if key == self.key.as_bytes() => self.silent = false,
                // Another cluster's, whose name begins with this one's.
                Said::Put(_) | Said::Deleted { .. } => {}
                Said::Listed { .. } => *silent = self.silent,
                Said::Stumbled => stumbled = true,
            }
            if self.lane.is_watching() {
                *silent = self.silent;
            }
        }
        Ok(stumbled)
    }

    /// It has said what there is to say, or cannot.
    fn is_settled(&self) -> bool {
        self.lane.is_watching() || self.lane.problem().is_some()
    }
}

impl Open {
    pub(super) fn is_reading(&self) -> bool {
        matches!(self.step, Step::Reading(_))
    }

    pub(super) fn is_complete(&self, kinds: &Kinds) -> bool {
        matches!(&self.step, Step::Reading(reading) if kinds.are_watching(&reading.wanted))
    }

    pub(super) fn is_settled(&self, kinds: &Kinds) -> bool {
        let told = |reading: &Reading| reading.source.as_ref().is_none_or(|source| source.is_settled());
        matches!(&self.step, Step::Reading(reading) if kinds.are_settled(&reading.wanted) && told(reading))
    }

    pub(super) fn wants(&self, kind: Kind) -> bool {
        matches!(&self.step, Step::Reading(reading) if reading.wanted.contains(&kind))
    }
}

impl Remote {
    pub(super) fn open(&mut self, now: Duration) -> Verdict {
        let mut heartbeat = Lane::new(HEARTBEAT.to_owned(), self.settings.page);
        heartbeat.start(now);
        self.state = State::Open(Box::new(Open {
            since: now,
            store: 0,
            asked: Asked::default(),
            heartbeat,
            config: None,
            check: None,
            step: Step::Greeting,
        }));
        self.out.push_back(Output::Open);
        self.pump(now)
    }

    pub(super) fn reply(&mut self, now: Duration, reply: Reply) -> Verdict {
        let Remote { state: State::Open(open), kinds, .. } = self else { return Ok(()) };
        let Reply { ticket, store, outcome } = reply;
        open.asked.answered(now, ticket, &outcome);
        open.meet(store)?;
        if open.config == Some(ticket) {
            open.config = None;
            return self.config_answer(now, outcome);
        }
        if open.check == Some(ticket) {
            open.check = None;
            return self.heartbeat_answer(outcome);
        }
        // Words for a request that has been given up find no lane.
        let store = open.store;
        if let Some(lane) = kinds.lane(ticket).or_else(|| open.lane(ticket)) {
            lane.handle(store, outcome);
        }
        self.pump(now)
    }

    /// Begins what waited for its time, or gives up what waited too long.
    pub(super) fn open_due(&mut self, now: Duration) -> Verdict {
        let (patience, heart) = (self.settings.patience, self.heart.overdue(now));
        let State::Open(open) = &mut self.state else { return Ok(()) };
        if open.asked.deadline(patience).is_some_and(|at| at <= now) {
            let seconds = patience.as_secs();
            return failed(format!("{}: no answer for {seconds} s; is its etcd overloaded?", self.name));
        }
        self.config_due(now)?;
        let Remote { state: State::Open(open), out, ticket, settings, .. } = self else { return Ok(()) };
        let Open { asked, check, step, config, .. } = &mut **open;
        if let Step::Reading(reading) = step
            && reading.poll <= now
        {
            reading.poll = now + settings.config_poll;
            let mut desk = Desk { now, asked, ticket, out };
            config.get_or_insert_with(|| desk.submit(Op::Get { key: cluster_config_key(&self.name) }));
            if heart.is_some() {
                check.get_or_insert_with(|| desk.submit(Op::Get { key: HEARTBEAT.to_owned() }));
            }
        }
        self.pump(now)
    }

    pub(super) fn open_deadline(&self, open: &Open) -> Option<Duration> {
        let step = match &open.step {
            Step::Greeting | Step::Reserving { .. } => None,
            Step::Asking { asking, .. } => Some(asking.deadline()),
            Step::Reading(reading) => [Some(reading.poll), reading.canaries.as_ref().and_then(Lane::retry)]
                .into_iter()
                .chain([self.kinds.retry(), reading.source.as_ref().and_then(|source| source.lane.retry())])
                .flatten()
                .min(),
        };
        [step, open.asked.deadline(self.settings.patience)].into_iter().flatten().min()
    }

    pub(super) fn number_reserved(&mut self, now: Duration) -> Verdict {
        let State::Open(open) = &mut self.state else { return Ok(()) };
        let Step::Reserving { info, revision } = &open.step else { return Ok(()) };
        let (info, revision) = (Arc::clone(info), *revision);
        self.reserved = Some(info.origin.id);
        self.read(now, info, revision)
    }

    /// The configuration is good and the number is ours.
    pub(super) fn read(&mut self, now: Duration, info: Arc<RemoteInfo>, revision: Revision) -> Verdict {
        let State::Open(open) = &mut self.state else { return Ok(()) };
        let can = &info.config.capabilities;
        self.kinds.prepare(if can.cached { Layout::Cache } else { Layout::State }, open.store, revision);
        let canaries = if can.synced_canaries {
            Some(Lane::new(format!("cilium/synced/{}/", self.name), self.settings.page))
        } else {
            self.kinds.admit_all();
            None
        };
        let wanted = self.settings.kinds_of(can);
        let source = can.cached.then(|| Box::new(Source::new(&self.name, self.settings.page)));
        self.source_silent &= can.cached;
        open.step = Step::Reading(Reading { canaries, source, wanted, poll: now + self.settings.config_poll });
        if self.known.as_ref() != Some(&info) {
            self.out.push_back(Output::Tell(Change::Connected(Arc::clone(&info))));
            self.known = Some(info);
        }
        self.pump(now)
    }

    /// Starts what can run, and passes on what the lanes say, until they have nothing more to say.
    pub(super) fn pump(&mut self, now: Duration) -> Verdict {
        self.greet(now)?;
        let expired = self.is_expired(now);
        let Remote { state: State::Open(open), kinds, out, ticket, source_silent, name, last_failure, .. } = self
        else {
            return Ok(());
        };
        let Open { asked, step: Step::Reading(reading), .. } = &mut **open else { return Ok(()) };
        let mut desk = Desk { now, asked, ticket, out };
        // No kind's status says it: a kind without its canary just waits, and the source's silence belongs to none.
        let mut stumbled = |lane: &Lane| {
            let problem = lane.problem().unwrap_or_default();
            *last_failure = Some((now, format!("reading {} of {name}: {problem}", lane.prefix()).into()));
        };
        if let Some(source) = &mut reading.source
            && source.pump(&mut desk, source_silent).map_err(broken)?
        {
            stumbled(&source.lane);
        }
        if let Some(lane) = &mut reading.canaries {
            lane.start(now);
            while let Some(said) = lane.poll(&mut desk).map_err(broken)? {
                match said {
                    Said::Put(entry) => kinds.canary(&entry.key),
                    Said::Stumbled => stumbled(lane),
                    Said::Relisting | Said::Deleted { .. } | Said::Listed { .. } => {}
                }
            }
        }
        kinds.start(now, reading.wanted.iter().filter(|kind| !(expired && expires_in_silence(**kind))));
        kinds.pump(&mut desk).map_err(broken)?;
        if kinds.are_watching(&reading.wanted) {
            kinds.retain(&reading.wanted, out);
        }
        Ok(())
    }

    /// What the heartbeat's lane says.
    fn greet(&mut self, now: Duration) -> Verdict {
        let Remote { state: State::Open(open), heart, out, ticket, name, settings, .. } = self else { return Ok(()) };
        let Open { asked, heartbeat, store, step, config, .. } = &mut **open;
        let mut desk = Desk { now, asked, ticket, out };
        while let Some(said) = heartbeat.poll(&mut desk).map_err(broken)? {
            match said {
                Said::Put(entry) if entry.key == HEARTBEAT.as_bytes() => {
                    heart.beat(now, *store, entry.mod_revision);
                }
                Said::Listed { revision } if matches!(step, Step::Greeting) => {
                    heart.connected(now);
                    *config = Some(desk.submit(Op::Get { key: cluster_config_key(name) }));
                    *step = Step::Asking { asking: Asking::new(now, settings), revision };
                }
                Said::Relisting | Said::Put(_) | Said::Deleted { .. } | Said::Listed { .. } | Said::Stumbled => {}
            }
        }
        heartbeat.problem().map_or(Ok(()), |problem| failed(format!("reading {HEARTBEAT} of {name}: {problem}")))
    }

    /// The heartbeat as it stands, asked for because its watch has been still.
    fn heartbeat_answer(&mut self, outcome: Outcome) -> Verdict {
        let State::Open(open) = &self.state else { return Ok(()) };
        match single(outcome) {
            Ok(Some(entry)) if self.heart.is_news(open.store, entry.mod_revision) => {
                failed(format!("{}: the watch of {HEARTBEAT} has missed a change", self.name))
            }
            // The writer is silent, not the watch; or there was no answer in time, which the next look will show.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl Open {
    /// Another data set than the one that the session began with cannot be gone on with.
    fn meet(&mut self, store: u64) -> Verdict {
        match (self.store, store) {
            (_, 0) => Ok(()),
            (0, _) => {
                self.store = store;
                Ok(())
            }
            (old, new) if old == new => Ok(()),
            (old, new) => failed(format!("another data set answers ({new:x} instead of {old:x}); reading all again")),
        }
    }

    /// The lane that asked this, if it lives as long as the session.
    fn lane(&mut self, ticket: Ticket) -> Option<&mut Lane> {
        let (canaries, source) = match &mut self.step {
            Step::Reading(Reading { canaries, source, .. }) => (canaries.as_mut(), source.as_mut()),
            Step::Greeting | Step::Asking { .. } | Step::Reserving { .. } => (None, None),
        };
        let source = source.map(|source| &mut source.lane);
        canaries.into_iter().chain(source).chain([&mut self.heartbeat]).find(|lane| lane.owns(ticket))
    }
}

pub(super) fn failed(message: String) -> Verdict {
    Err(Ending::Failed(message))
}

pub(super) fn broken(failure: Failure) -> Ending {
    Ending::Failed(failure.message)
}
