//! What the tasks of a mesh share: reserved numbers, and the last snapshot of each cluster for whoever asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use causeway_mesh_kv::{Connect, SessionStatus};
use causeway_mesh_schema::{ClusterId, ClusterName};
use tokio::sync::watch;

use super::reservations::Reservations;
use super::status::{RemoteStatus, describe};
use crate::core::{Phase, Stats};
use crate::directory::FileProblem;

#[derive(Debug)]
pub(crate) struct Board {
    /// Where the machines' time begins.
    started: (Instant, SystemTime),
    /// Written by every task and read by the status, for a few instructions each time.
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    reservations: Reservations,
    remotes: BTreeMap<ClusterName, Snapshot>,
    problems: Vec<FileProblem>,
    /// Named when the directory was read first, and not ready since. `None` before.
    awaited: Option<BTreeSet<ClusterName>>,
}

/// A cluster as its task saw it last.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) stats: Stats,
    pub(crate) session: Option<SessionStatus>,
    pub(crate) connect: Arc<Connect>,
}

impl Board {
    pub(crate) fn new(name: ClusterName, id: Option<ClusterId>) -> Board {
        let state = State {
            reservations: Reservations::new(name, id),
            remotes: BTreeMap::new(),
            problems: Vec::new(),
            awaited: None,
        };
        Board { started: (Instant::now(), SystemTime::now()), state: Mutex::new(state), changes: watch::Sender::new(0) }
    }

    /// The machines' time.
    pub(crate) fn now(&self) -> Duration {
        self.started.0.elapsed()
    }

    /// The moment of the machines' time.
    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.started.0.checked_add(at).unwrap_or_else(|| self.started.0 + FAR)
    }

    pub(crate) fn reserve(&self, cluster: &ClusterName, id: ClusterId) -> Result<(), String> {
        self.lock().reservations.reserve(cluster, id)
    }

    pub(crate) fn release(&self, cluster: &ClusterName) {
        self.lock().reservations.release(cluster);
    }

    pub(crate) fn publish(&self, cluster: &ClusterName, snapshot: Snapshot) {
        let mut state = self.lock();
        let ready = snapshot.stats.phase == Phase::Ready;
        let reached = ready && state.awaited.as_mut().is_some_and(|awaited| awaited.remove(cluster));
        let news = match state.remotes.get_mut(cluster) {
            Some(old) => {
                let news = differs(old, &snapshot);
                *old = snapshot;
                news
            }
            None => {
                state.remotes.insert(cluster.clone(), snapshot);
                true
            }
        };
        drop(state);
        if news || reached {
            self.wake();
        }
    }

    /// Its task reads no more. What it told stays in force, and so does its number.
    pub(crate) fn fail(&self, cluster: &ClusterName, problem: String) {
        let now = self.now();
        let mut state = self.lock();
        if let Some(Snapshot { stats, session, .. }) = state.remotes.get_mut(cluster) {
            (stats.phase, stats.connected, *session) = (Phase::Waiting, None, None);
            stats.kinds.iter_mut().for_each(|kind| kind.synced = false);
            stats.silent_since.get_or_insert(now);
            stats.failures += 1;
            stats.last_failure = Some((now, problem.into()));
        }
        drop(state);
        self.wake();
    }

    /// Its task has ended.
    pub(crate) fn gone(&self, cluster: &ClusterName) {
        let mut state = self.lock();
        state.remotes.remove(cluster);
        state.reservations.release(cluster);
        if let Some(awaited) = &mut state.awaited {
            awaited.remove(cluster);
        }
        drop(state);
        self.wake();
    }

    /// The directory has been read: these files are bad, and if it was the first time, these clusters were found.
    pub(crate) fn scanned(&self, problems: &[FileProblem], found: impl Iterator<Item = ClusterName>) {
        let mut state = self.lock();
        let first = state.awaited.is_none();
        if first {
            state.awaited = Some(found.collect());
        }
        let news = first || state.problems != problems;
        if news {
            state.problems = problems.to_vec();
        }
        drop(state);
        if news {
            self.wake();
        }
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.lock().awaited.as_ref().is_some_and(BTreeSet::is_empty)
    }

    pub(crate) fn problems(&self) -> Vec<FileProblem> {
        self.lock().problems.clone()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn status(&self) -> Vec<RemoteStatus> {
        // Certificates are read from files: not under the lock.
        let remotes = self.lock().remotes.clone();
        let (now, wall) = (self.now(), SystemTime::now());
        let all = remotes.iter().map(|(name, snapshot)| describe(name, snapshot, now, wall));
        all.collect()
    }

    fn wake(&self) {
        self.changes.send_modify(|version| *version = version.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds it can stop halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A deadline that no clock can say is this far away: never, in practice.
const FAR: Duration = Duration::from_secs(365 * 86_400);

/// In more than counts and ages.
fn differs(old: &Snapshot, new: &Snapshot) -> bool {
    let of = |s: &Snapshot| {
        let synced: Vec<bool> = s.stats.kinds.iter().map(|kind| kind.synced).collect();
        (s.stats.phase, s.stats.stage, s.stats.connected, s.stats.failures, s.stats.info.clone(), synced)
    };
    of(old) != of(new) || old.stats.last_failure != new.stats.last_failure || old.connect != new.connect
}
