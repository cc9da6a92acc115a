//! Reads one prefix for ever: lists it by pages, watches from there, lists again when the history is gone.
//!
//! Sans-I/O. Its driver takes [`FollowOut`]s, gives each `Ask` a ticket, and hands the replies of the newest ticket to
//! [`Follow::handle`] (replies of older tickets are dropped by the driver). It keeps no copy of the keys: the consumer
//! sweeps what was not told again between `Relisting` and `Listed`.
//!
//! Whether a broken watch can go on where it stopped is decided by the store's number and revision: another store, or
//! one that is behind what was seen, is listed from the start.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::Bytes;

use crate::op::{Entry, Event, Failure, FailureKind, Op, Outcome, Revision};

/// What a [`Follow`] wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowOut {
    /// Ask the store under a new ticket. Answers to earlier tickets are void from here on.
    Ask { op: Op },
    /// End the watch of the newest ticket ([`Op::Cancel`] with it).
    Cancel,
    /// For the consumer.
    Tell(Told),
}

/// What is known of the prefix, in order and complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Every entry that exists follows as `Put`, up to `Listed`. May come again before `Listed`.
    Relisting,
    Put(Entry),
    Deleted {
        key: Bytes,
        mod_revision: Revision,
    },
    /// What was not `Put` since `Relisting` does not exist at `revision`.
    Listed {
        revision: Revision,
    },
    /// Nothing more comes until the driver calls [`Follow::start`] again, after a delay of its choice.
    Interrupted(Failure),
}

/// One prefix being read.
#[derive(Debug)]
pub struct Follow {
    prefix: String,
    page_size: usize,
    state: State,
    seen: Option<Seen>,
    out: VecDeque<FollowOut>,
}

/// Up to where everything has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    store: u64,
    revision: Revision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing is asked.
    Idle,
    /// The first page is asked.
    Listing,
    /// A further page is asked, of the state of the store that the first one saw.
    Paging(Seen),
    /// A watch is asked.
    Opening,
    Watching,
}

/// Room for outputs that is kept when they have been taken; a page needs more and gives it back.
const KEPT_OUTPUTS: usize = 64;

impl Follow {
    /// `prefix`: keys that begin with it, so end it with `/` where names can be prefixes of each other. `page_size`:
    /// entries in one answer, at least 1.
    pub fn new(prefix: impl Into<String>, page_size: usize) -> Self {
        Self {
            prefix: prefix.into(),
            page_size: page_size.max(1),
            state: State::Idle,
            seen: None,
            out: VecDeque::new(),
        }
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Begins, or begins again after [`Told::Interrupted`] or [`Follow::stop`]: goes on from the last revision if there
    /// is one, else lists. Does nothing while something is asked.
    pub fn start(&mut self) {
        if self.state == State::Idle {
            match self.seen {
                Some(seen) => self.watch_after(seen),
                None => self.list(),
            }
        }
    }

    /// Ends what runs and tells nothing more. What has been seen is kept for the next [`Follow::start`].
    pub fn stop(&mut self) {
        if self.state != State::Idle {
            self.state = State::Idle;
            self.out.push_back(FollowOut::Cancel);
        }
    }

    /// The next [`Follow::start`] lists from the beginning: the consumer has forgotten what it was told.
    pub fn forget(&mut self) {
        self.seen = None;
    }

    /// Everything that existed has been told, and changes come as they happen.
    pub fn is_watching(&self) -> bool {
        self.state == State::Watching
    }

    /// Up to which revision everything has been told; `None` before the first `Listed`.
    pub fn revision(&self) -> Option<Revision> {
        self.seen.map(|seen| seen.revision)
    }

    /// An answer to the newest `Ask`, from `store` ([`crate::Reply::store`]).
    pub fn handle(&mut self, store: u64, outcome: Outcome) {
        match (self.state, outcome) {
            (State::Idle, _) => {}
            (State::Listing | State::Paging(_), Outcome::Failed(failure))
                if failure.kind == FailureKind::TooLarge && self.page_size > 1 =>
            {
                self.page_size /= 2;
                self.list();
            }
            (_, Outcome::Failed(failure)) => self.interrupted(failure),
            (_, Outcome::Compacted { .. }) => self.list(),
            (State::Listing, Outcome::Page { entries, more, revision }) => {
                self.tell(Told::Relisting);
                self.page(Seen { store, revision }, entries, more);
            }
            (State::Paging(pinned), Outcome::Page { entries, more, .. }) if pinned.store == store => {
                self.page(pinned, entries, more);
            }
            (State::Paging(_), Outcome::Page { .. }) => self.list(),
            (State::Opening, Outcome::Watching { revision }) => self.opened(store, revision),
            (State::Watching, Outcome::Events { events, .. }) => self.events(events),
            (State::Watching, Outcome::Progress { revision }) => self.advance(revision),
            (state, outcome) => {
                self.out.push_back(FollowOut::Cancel);
                self.interrupted(Failure {
                    kind: FailureKind::Refused,
                    message: format!("{}: {outcome:?} is no answer to {state:?}", self.prefix),
                });
            }
        }
    }

    /// What to do next, until `None`.
    pub fn poll(&mut self) -> Option<FollowOut> {
        let next = self.out.pop_front();
        if self.out.is_empty() && self.out.capacity() > KEPT_OUTPUTS {
            self.out = VecDeque::new();
        }
        next
    }

    fn list(&mut self) {
        self.seen = None;
        self.state = State::Listing;
        self.ask_page(None, 0);
    }

    fn ask_page(&mut self, after: Option<Bytes>, revision: Revision) {
        let op = Op::List { prefix: self.prefix.clone(), after, limit: self.page_size, revision };
        self.out.push_back(FollowOut::Ask { op });
    }

    fn page(&mut self, pinned: Seen, entries: Vec<Entry>, more: bool) {
        // The next page is asked for first: the store makes it while the consumer works on this one.
        // A page that promises more and holds nothing would be asked for ever.
        let next = entries.last().filter(|_| more).map(|entry| entry.key.clone());
        let is_last = next.is_none();
        if next.is_some() {
            self.state = State::Paging(pinned);
            self.ask_page(next, pinned.revision);
        }
        for entry in entries {
            self.tell(Told::Put(entry));
        }
        if is_last {
            self.tell(Told::Listed { revision: pinned.revision });
            self.watch_after(pinned);
        }
    }

    fn watch_after(&mut self, seen: Seen) {
        self.seen = Some(seen);
        self.state = State::Opening;
        let op = Op::Watch { prefix: self.prefix.clone(), revision: seen.revision.saturating_add(1) };
        self.out.push_back(FollowOut::Ask { op });
    }

    fn opened(&mut self, store: u64, revision: Revision) {
        // A store behind what was seen has lost its data, whatever number it bears.
        if self.seen.is_some_and(|seen| seen.store == store && seen.revision <= revision) {
            self.state = State::Watching;
        } else {
            self.out.push_back(FollowOut::Cancel);
            self.list();
        }
    }

    fn events(&mut self, events: Vec<Event>) {
        let from = self.seen.map_or(0, |seen| seen.revision);
        for event in events {
            let revision = event.mod_revision();
            if revision <= from {
                continue;
            }
            self.tell(match event {
                Event::Put(entry) => Told::Put(entry),
                Event::Delete { key, mod_revision } => Told::Deleted { key, mod_revision },
            });
            self.advance(revision);
        }
    }

    fn advance(&mut self, revision: Revision) {
        if let Some(seen) = &mut self.seen {
            seen.revision = seen.revision.max(revision);
        }
    }

    fn interrupted(&mut self, failure: Failure) {
        // Going on from the same place is for broken connections; what was refused would be refused again.
        if !matches!(failure.kind, FailureKind::Unavailable | FailureKind::TimedOut) {
            self.seen = None;
        }
        self.state = State::Idle;
        self.tell(Told::Interrupted(failure));
    }

    fn tell(&mut self, told: Told) {
        self.out.push_back(FollowOut::Tell(told));
    }
}
