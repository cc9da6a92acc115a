//! Where requests get their tickets, and where it is noticed that nobody answers.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use causeway_mesh_kv::{Entry, Failure, FailureKind, Op, Outcome, Ticket};

use super::Output;
use crate::change::Change;

/// Requests of one session that wait for their answer.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pending: BTreeSet<Ticket>,
    /// Since when the store owes an answer and has said nothing at all.
    quiet_since: Option<Duration>,
}

impl Asked {
    /// The session said something to this request: what the store said, or that it said nothing in time.
    pub(crate) fn answered(&mut self, now: Duration, ticket: Ticket, outcome: &Outcome) {
        self.pending.remove(&ticket);
        if !matches!(outcome, Outcome::Failed(failure) if failure.kind == FailureKind::TimedOut) {
            self.quiet_since = if self.pending.is_empty() { None } else { Some(now) };
        }
    }

    /// When it is too long that nothing at all was answered.
    pub(crate) fn deadline(&self, patience: Duration) -> Option<Duration> {
        self.quiet_since?.checked_add(patience)
    }
}

/// Takes requests and words out of the machine, at one moment.
#[derive(Debug)]
pub(crate) struct Desk<'a> {
    pub(crate) now: Duration,
    pub(crate) asked: &'a mut Asked,
    /// The last ticket given.
    pub(crate) ticket: &'a mut u64,
    pub(crate) out: &'a mut VecDeque<Output>,
}

impl Desk<'_> {
    pub(crate) fn submit(&mut self, op: Op) -> Ticket {
        *self.ticket += 1;
        let ticket = Ticket(*self.ticket);
        self.asked.quiet_since.get_or_insert(self.now);
        self.asked.pending.insert(ticket);
        self.out.push_back(Output::Submit(ticket, op));
        ticket
    }

    pub(crate) fn cancel(&mut self, ticket: Ticket) {
        if self.asked.pending.remove(&ticket) && self.asked.pending.is_empty() {
            self.asked.quiet_since = None;
        }
        self.out.push_back(Output::Submit(ticket, Op::Cancel));
    }

    pub(crate) fn tell(&mut self, change: Change) {
        self.out.push_back(Output::Tell(change));
    }
}

/// The answer to a request that asked for one key.
pub(crate) fn single(outcome: Outcome) -> Result<Option<Entry>, Failure> {
    match outcome {
        Outcome::Page { entries, .. } => Ok(entries.into_iter().next()),
        Outcome::Failed(failure) => Err(failure),
        other => {
            Err(Failure { kind: FailureKind::Refused, message: format!("the store answered a read with {other:?}") })
        }
    }
}
