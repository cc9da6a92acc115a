//! A `Follow` in a session: its ticket, and when it is started again after a stumble.

use std::time::Duration;

use bytes::Bytes;
use causeway_mesh_kv::{Entry, Failure, FailureKind, Follow, FollowOut, Op, Outcome, Revision, Ticket, Told};

use super::desk::Desk;

/// One prefix, read for as long as its cluster is. Outlives sessions: the follow remembers where it was.
#[derive(Debug)]
pub(crate) struct Lane {
    follow: Follow,
    /// Of the newest request; replies to others are void.
    ticket: Option<Ticket>,
    /// It stumbled and is started again then.
    retry: Option<Duration>,
    stumbles: u32,
    /// Why it stumbled, until it watches again. Of the present session: another one may find it mended.
    problem: Option<String>,
    /// When the newest listing was asked for.
    list_asked: Option<Duration>,
}

/// What a lane says, besides requests.
#[derive(Debug)]
pub(crate) enum Said {
    Relisting,
    Put(Entry),
    Deleted {
        key: Bytes,
        revision: Revision,
    },
    Listed {
        revision: Revision,
    },
    /// It cannot be read for now; [`Lane::problem`] says why.
    Stumbled,
}

/// The wait after the first stumble; doubles up to [`LONGEST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

impl Lane {
    pub(crate) fn new(prefix: String, page: usize) -> Lane {
        Lane {
            follow: Follow::new(prefix, page),
            ticket: None,
            retry: None,
            stumbles: 0,
            problem: None,
            list_asked: None,
        }
    }

    pub(crate) fn prefix(&self) -> &str {
        self.follow.prefix()
    }

    /// Up to which revision everything has been said.
    pub(crate) fn revision(&self) -> Option<Revision> {
        self.follow.revision()
    }

    /// Everything that exists has been said, and changes come as they happen.
    pub(crate) fn is_watching(&self) -> bool {
        self.follow.is_watching()
    }

    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub(crate) fn list_asked(&self) -> Option<Duration> {
        self.list_asked
    }

    /// When it wants to be started again.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    pub(crate) fn owns(&self, ticket: Ticket) -> bool {
        self.ticket == Some(ticket)
    }

    /// The next start lists from the beginning.
    pub(crate) fn forget(&mut self) {
        self.follow.forget();
    }

    /// The session has ended: nothing is asked any more, and nothing needs to be cancelled.
    pub(crate) fn pause(&mut self) {
        self.follow.stop();
        while self.follow.poll().is_some() {}
        (self.ticket, self.retry, self.stumbles, self.problem) = (None, None, 0, None);
    }

    /// Ends what runs in this session.
    pub(crate) fn stop(&mut self) {
        self.follow.stop();
        (self.retry, self.problem) = (None, None);
    }

    /// Begins, unless it runs or waits after a stumble.
    pub(crate) fn start(&mut self, now: Duration) {
        if self.retry.is_none_or(|at| at <= now) {
            self.retry = None;
            self.follow.start();
        }
    }

    pub(crate) fn handle(&mut self, store: u64, outcome: Outcome) {
        self.follow.handle(store, outcome);
        if self.follow.is_watching() {
            (self.stumbles, self.problem) = (0, None);
        }
    }

    /// The next thing it says; requests go over the desk on the way.
    ///
    /// # Errors
    /// The connection broke.
    pub(crate) fn poll(&mut self, desk: &mut Desk<'_>) -> Result<Option<Said>, Failure> {
        while let Some(next) = self.follow.poll() {
            let told = match next {
                FollowOut::Ask { op } => {
                    if matches!(op, Op::List { after: None, .. }) {
                        self.list_asked = Some(desk.now);
                    }
                    self.ticket = Some(desk.submit(op));
                    continue;
                }
                FollowOut::Cancel => {
                    if let Some(ticket) = self.ticket.take() {
                        desk.cancel(ticket);
                    }
                    continue;
                }
                FollowOut::Tell(told) => told,
            };
            return Ok(Some(match told {
                Told::Relisting => Said::Relisting,
                Told::Put(entry) => Said::Put(entry),
                Told::Deleted { key, mod_revision } => Said::Deleted { key, revision: mod_revision },
                Told::Listed { revision } => Said::Listed { revision },
                Told::Interrupted(failure) => {
                    self.stumbled(desk.now, failure)?;
                    Said::Stumbled
                }
            }));
        }
        Ok(None)
    }

    fn stumbled(&mut self, now: Duration, failure: Failure) -> Result<(), Failure> {
        self.ticket = None;
        if failure.kind == FailureKind::Unavailable {
            return Err(failure);
        }
        let wait = FIRST_RETRY.saturating_mul(1 << self.stumbles.min(16)).min(LONGEST_RETRY);
        self.stumbles += 1;
        self.retry = Some(now + wait);
        self.problem = Some(failure.message);
        Ok(())
    }
}
