//! What can be said of a remote cluster, at a moment.

use std::sync::Arc;
use std::time::Duration;

use causeway_mesh_schema::Kind;

use super::open::Step;
use super::{Remote, State};
use crate::change::{RemoteInfo, Stage};
use crate::tally::Checksum;

/// Where the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Until the next attempt.
    Waiting,
    Connecting,
    ReadingConfig,
    Reserving,
    /// Canaries are awaited, or lists are running.
    Syncing,
    Ready,
    /// It was removed.
    Gone,
}

/// Of one cluster. Times are those of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    pub phase: Phase,
    /// The session that is connected began then.
    pub connected: Option<Duration>,
    pub stage: Stage,
    pub silent_since: Option<Duration>,
    pub failures: u64,
    pub last_failure: Option<(Duration, Arc<str>)>,
    pub last_heartbeat: Option<Duration>,
    /// What the consumer has been told.
    pub info: Option<Arc<RemoteInfo>>,
    /// etcd's number of the data set; 0 before the first answer.
    pub store: u64,
    pub kinds: Vec<KindStats>,
}

/// Of one kind of entries that we want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindStats {
    pub kind: Kind,
    /// The cluster has it, as far as is known.
    pub offered: bool,
    /// Everything that exists has been told, and changes come as they happen.
    pub synced: bool,
    pub entries: usize,
    pub checksum: Checksum,
    /// Of the store, up to which everything has been told.
    pub revision: i64,
    pub unreadable: u64,
    pub last_change: Option<Duration>,
    /// How long the last complete listing took, the consumer's work included.
    pub last_list: Option<Duration>,
    /// Complete listings since the start.
    pub listings: u64,
    /// Why it cannot be read now.
    pub problem: Option<String>,
}

impl Remote {
    #[must_use]
    pub fn stats(&self, now: Duration) -> Stats {
        let open = match &self.state {
            State::Open(open) => Some(open),
            State::Waiting { .. } | State::Gone => None,
        };
        let kinds = self.kinds.iter().map(|(kind, reader)| KindStats {
            kind,
            offered: open.is_some_and(|open| open.wants(kind)),
            synced: reader.lane.is_watching(),
            entries: reader.tally.count(),
            checksum: reader.tally.checksum(),
            revision: reader.lane.revision().unwrap_or(0),
            unreadable: reader.unreadable,
            last_change: reader.last_change,
            last_list: reader.last_list,
            listings: reader.listings,
            problem: reader.lane.problem().map(str::to_owned),
        });
        Stats {
            phase: self.phase(),
            connected: open.filter(|open| open.store != 0).map(|open| open.since),
            stage: self.silence.stage(now),
            silent_since: self.silence.since(),
            failures: self.failures,
            last_failure: self.last_failure.clone(),
            last_heartbeat: self.heart.last(),
            info: self.known.clone(),
            store: open.map_or(0, |open| open.store),
            kinds: kinds.collect(),
        }
    }

    fn phase(&self) -> Phase {
        let open = match &self.state {
            State::Gone => return Phase::Gone,
            State::Waiting { .. } => return Phase::Waiting,
            State::Open(open) => open,
        };
        match &open.step {
            Step::Greeting => Phase::Connecting,
            Step::Asking { .. } => Phase::ReadingConfig,
            Step::Reserving { .. } => Phase::Reserving,
            Step::Reading(_) if open.is_complete(&self.kinds) => Phase::Ready,
            Step::Reading(_) => Phase::Syncing,
        }
    }
}
