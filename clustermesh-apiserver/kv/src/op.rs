//! Operations on a store and what it answers (etcd v3 `KV`, `Watch` and `Lease` services).

use std::time::Duration;

use bytes::Bytes;

/// etcd's `ResponseHeader.revision`: counts the store's transactions. 0: unknown, or "newest" in a request.
pub type Revision = i64;

/// etcd's lease number; 0 means none.
pub type LeaseId = i64;

/// Names a request, so that its replies can be told from others'. Chosen by the asker, never used twice in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Answered by [`Outcome::Page`] with at most one entry.
    Get { key: String },
    /// One page of all keys that begin with `prefix`, ascending by key. Answered by [`Outcome::Page`].
    List {
        prefix: String,
        /// Only keys after this one: the last key of the page before.
        after: Option<Bytes>,
        limit: usize,
        /// Read at this revision, so that pages fit each other; 0 for the first page.
        revision: Revision,
    },
    /// All changes of keys that begin with `prefix`, from `revision` on (0: from now on). Answered by
    /// [`Outcome::Watching`], then [`Outcome::Events`] and [`Outcome::Progress`] until [`Op::Cancel`],
    /// [`Outcome::Compacted`] or [`Outcome::Failed`].
    Watch { prefix: String, revision: Revision },
    /// Ends the watch with the same ticket. Not answered.
    Cancel,
    /// All of them in one transaction; keys are distinct, at most [`MAX_BATCH`]. Answered by [`Outcome::Written`].
    Write { writes: Vec<Write> },
    /// Answered by [`Outcome::Lease`].
    Grant { ttl: Duration },
    /// Answered by [`Outcome::Lease`]; with a zero `ttl` the lease is gone.
    KeepAlive { lease: LeaseId },
    /// Answered by [`Outcome::Written`]. Keys of the lease go with it.
    Revoke { lease: LeaseId },
}

/// Operations of one transaction (etcd's default `--max-txn-ops` is 128).
pub const MAX_BATCH: usize = 128;

/// A change to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Put {
        key: String,
        value: Bytes,
        lease: LeaseId,
    },
    Delete {
        key: String,
    },
    /// Every key that begins with it.
    DeletePrefix {
        prefix: String,
    },
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: Bytes,
    pub value: Bytes,
    /// The revision that wrote it last.
    pub mod_revision: Revision,
}

/// A change that a watch saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Put(Entry),
    Delete { key: Bytes, mod_revision: Revision },
}

impl Event {
    pub fn mod_revision(&self) -> Revision {
        match self {
            Event::Put(entry) => entry.mod_revision,
            Event::Delete { mod_revision, .. } => *mod_revision,
        }
    }

    pub fn key(&self) -> &Bytes {
        match self {
            Event::Put(entry) => &entry.key,
            Event::Delete { key, .. } => key,
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub ticket: Ticket,
    /// etcd's `ResponseHeader.cluster_id`: which data set answered. 0 when nothing did.
    pub store: u64,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Page {
        entries: Vec<Entry>,
        /// There are keys after the last one.
        more: bool,
        /// The store's revision when the page was read.
        revision: Revision,
    },
    /// The watch stands; events come from here on.
    Watching {
        revision: Revision,
    },
    /// In the order of their revisions; all events of one revision come in one reply.
    Events {
        events: Vec<Event>,
        revision: Revision,
    },
    /// Nothing happened up to this revision.
    Progress {
        revision: Revision,
    },
    /// The watch or page asked for a revision that is no longer kept. The watch has ended.
    Compacted {
        oldest: Revision,
    },
    Written {
        revision: Revision,
    },
    Lease {
        id: LeaseId,
        ttl: Duration,
    },
    /// The operation failed, or the watch ended.
    Failed(Failure),
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    /// For people: what was asked, of whom, and what they said.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Nobody answered, or the connection broke. A write may or may not have happened.
    Unavailable,
    /// No answer in time. A write may or may not have happened.
    TimedOut,
    /// The certificate, the user or the user's role is not good for this.
    Denied,
    /// The store's disk quota is used up (etcd alarm `NOSPACE`).
    NoSpace,
    /// The lease does not exist any more.
    LeaseGone,
    /// The answer is longer than this side takes; a smaller page may pass.
    TooLarge,
    /// The store understood and refused.
    Refused,
}
