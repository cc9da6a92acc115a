//! A connection of one reader to one store, as a session makes it: answers in order, or a failure for everything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use causeway_mesh_kv::{Failure, FailureKind, Op, Outcome, Reply, SessionId, Ticket};

/// A session answers or fails a request within this.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) session: SessionId,
    /// What has not been answered, and whether it is a watch.
    open: BTreeMap<Ticket, bool>,
    /// Answered by the clock: what the store says to them later is dropped.
    timed_out: BTreeSet<Ticket>,
    /// Nothing of the store arrives any more; requests still do.
    pub(crate) deaf: bool,
    pub(crate) broken: bool,
    /// When the last reply arrives: the next cannot come before.
    last: Duration,
}

impl Link {
    pub(crate) fn new(session: SessionId) -> Link {
        Link {
            session,
            open: BTreeMap::new(),
            timed_out: BTreeSet::new(),
            deaf: false,
            broken: false,
            last: Duration::ZERO,
        }
    }

    pub(crate) fn ask(&mut self, ticket: Ticket, op: &Op) {
        match op {
            Op::Cancel => drop(self.open.remove(&ticket)),
            _ => drop(self.open.insert(ticket, matches!(op, Op::Watch { .. }))),
        }
    }

    /// When a reply that leaves the store now arrives.
    pub(crate) fn arrival(&mut self, now: Duration, latency: Duration) -> Duration {
        self.last = self.last.max(now + latency);
        self.last
    }

    /// Whether the session hands this on; a reply to a request ends it.
    pub(crate) fn passes(&mut self, reply: &Reply) -> bool {
        if self.deaf || self.broken || self.timed_out.contains(&reply.ticket) {
            return false;
        }
        match self.open.get(&reply.ticket) {
            Some(true) if !ends_a_watch(&reply.outcome) => true,
            Some(_) => self.open.remove(&reply.ticket).is_some(),
            None => false,
        }
    }

    /// The session's clock says that it has waited long enough for this.
    pub(crate) fn time_out(&mut self, ticket: Ticket) -> Option<Reply> {
        self.open.get(&ticket).filter(|is_watch| !**is_watch && !self.broken)?;
        self.open.remove(&ticket);
        self.timed_out.insert(ticket);
        Some(failed(ticket, FailureKind::TimedOut, "no answer in time"))
    }

    /// The connection is gone, and the session knows: everything fails.
    pub(crate) fn snap(&mut self) -> Vec<Reply> {
        self.broken = true;
        let tickets = std::mem::take(&mut self.open).into_keys();
        tickets.map(|ticket| failed(ticket, FailureKind::Unavailable, "the connection broke")).collect()
    }
}

fn ends_a_watch(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Compacted { .. } | Outcome::Failed(_))
}

fn failed(ticket: Ticket, kind: FailureKind, message: &str) -> Reply {
    Reply { ticket, store: 0, outcome: Outcome::Failed(Failure { kind, message: message.to_owned() }) }
}
