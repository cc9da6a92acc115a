//! A store in memory that answers operations as etcd does, at once and without a clock. For simulations and tests.
//!
//! Sans-I/O. [`Twin::submit`] queues answers per session and [`Twin::take`] hands them out; in between a simulation may
//! break connections, compact, lose leases or data. Revisions, compaction and leases follow etcd's rules (`mvcc`,
//! `lease`, `v3rpc`), as far as [`Op`] can ask for them.

mod data;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::op::{Entry, Event, Failure, FailureKind, LeaseId, MAX_BATCH, Op, Outcome, Reply, Revision, Ticket, Write};
use data::Data;

/// Who asks. Any number; sessions need not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// The store.
#[derive(Debug)]
pub struct Twin {
    store: u64,
    data: Data,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: LeaseId,
    sessions: BTreeMap<SessionId, Client>,
    no_space: bool,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    expires: Instant,
}

#[derive(Debug, Default)]
struct Client {
    watches: BTreeMap<Ticket, Watch>,
    replies: Vec<Reply>,
    cut: bool,
}

#[derive(Debug)]
struct Watch {
    prefix: String,
    /// The first revision that has not been sent.
    next: Revision,
}

impl Twin {
    /// An empty store at revision 1. `store`: its [`Reply::store`], not 0.
    pub fn new(store: u64) -> Self {
        Self {
            store,
            data: Data::new(),
            leases: BTreeMap::new(),
            last_lease: 0,
            sessions: BTreeMap::new(),
            no_space: false,
        }
    }

    pub fn submit(&mut self, session: SessionId, ticket: Ticket, op: Op, now: Instant) {
        let client = self.sessions.entry(session).or_default();
        if matches!(op, Op::Cancel) {
            client.watches.remove(&ticket);
            return;
        }
        let outcome = if client.cut {
            Outcome::Failed(failure(FailureKind::Unavailable, "the store is out of reach"))
        } else if let Op::Watch { prefix, revision } = op {
            let next = if revision == 0 { self.data.revision() + 1 } else { revision };
            client.watches.insert(ticket, Watch { prefix, next });
            Outcome::Watching { revision: self.data.revision() }
        } else {
            self.answer(op, now).unwrap_or_else(Outcome::Failed)
        };
        let store =
            if matches!(&outcome, Outcome::Failed(f) if f.kind == FailureKind::Unavailable) { 0 } else { self.store };
        self.sessions.entry(session).or_default().replies.push(Reply { ticket, store, outcome });
        self.feed_watches();
    }

    /// The answers that wait for `session`.
    pub fn take(&mut self, session: SessionId) -> Vec<Reply> {
        self.sessions.get_mut(&session).map(|client| std::mem::take(&mut client.replies)).unwrap_or_default()
    }

    /// Ends leases whose time is up, with their keys.
    pub fn tick(&mut self, now: Instant) {
        let gone: Vec<_> = self.leases.iter().filter(|(_, l)| l.expires <= now).map(|(id, _)| *id).collect();
        for id in gone {
            self.drop_lease(id);
        }
    }

    /// Forgets what is older than the state at `revision`.
    pub fn compact(&mut self, revision: Revision) {
        self.data.compact(revision);
        self.feed_watches();
    }

    /// Breaks the connection: every open watch, and every answer not taken yet, becomes `Failed(Unavailable)`. What
    /// was written stays written.
    pub fn disconnect(&mut self, session: SessionId) {
        let client = self.sessions.entry(session).or_default();
        let mut open: BTreeSet<Ticket> = std::mem::take(&mut client.replies).into_iter().map(|r| r.ticket).collect();
        open.extend(std::mem::take(&mut client.watches).into_keys());
        client.replies.extend(open.into_iter().map(|ticket| Reply {
            ticket,
            store: 0,
            outcome: Outcome::Failed(failure(FailureKind::Unavailable, "the connection broke")),
        }));
    }

    /// While unreachable, what `session` asks fails with `Unavailable` and is not done. Cutting also disconnects.
    pub fn set_reachable(&mut self, session: SessionId, reachable: bool) {
        if !reachable {
            self.disconnect(session);
        }
        self.sessions.entry(session).or_default().cut = !reachable;
    }

    /// The store comes back empty, as another data set. Everybody is disconnected.
    pub fn wipe(&mut self, store: u64) {
        for session in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.disconnect(session);
        }
        self.store = store;
        self.data = Data::new();
        self.leases.clear();
    }

    /// While set, puts and grants fail with `NoSpace`.
    pub fn set_no_space(&mut self, no_space: bool) {
        self.no_space = no_space;
    }

    /// Ends a lease before its time, with its keys.
    pub fn drop_lease(&mut self, id: LeaseId) {
        if self.leases.remove(&id).is_some() {
            self.data.delete_lease(id);
            self.feed_watches();
        }
    }

    /// Leases that live, with the number of their keys.
    pub fn leases(&self) -> Vec<(LeaseId, usize)> {
        self.leases.keys().map(|id| (*id, self.data.keys_of_lease(*id))).collect()
    }

    /// Its [`Reply::store`].
    pub fn store(&self) -> u64 {
        self.store
    }

    pub fn revision(&self) -> Revision {
        self.data.revision()
    }

    /// What exists under `prefix`, ascending.
    pub fn entries(&self, prefix: &str) -> Vec<Entry> {
        self.data.range(prefix.as_bytes(), None, usize::MAX, self.data.revision()).0
    }

    /// Writes outside of any session, without a lease.
    pub fn put(&mut self, key: &str, value: impl Into<Bytes>) -> Revision {
        self.data.write(&[Write::Put { key: key.to_owned(), value: value.into(), lease: 0 }]);
        self.feed_watches();
        self.data.revision()
    }

    /// Deletes outside of any session.
    pub fn delete(&mut self, key: &str) -> Revision {
        self.data.write(&[Write::Delete { key: key.to_owned() }]);
        self.feed_watches();
        self.data.revision()
    }

    fn answer(&mut self, op: Op, now: Instant) -> Result<Outcome, Failure> {
        Ok(match op {
            Op::Get { key } => {
                let entries = self.data.get(key.as_bytes()).into_iter().collect();
                Outcome::Page { entries, more: false, revision: self.data.revision() }
            }
            Op::List { prefix, after, limit, revision } => self.page(&prefix, after.as_ref(), limit, revision)?,
            Op::Write { writes } => self.write(&writes)?,
            Op::Grant { ttl } => self.grant(ttl, now)?,
            Op::KeepAlive { lease } => match self.leases.get_mut(&lease) {
                Some(held) => {
                    held.expires = now + held.ttl;
                    Outcome::Lease { id: lease, ttl: held.ttl }
                }
                None => Outcome::Lease { id: lease, ttl: Duration::ZERO },
            },
            Op::Revoke { lease } if self.leases.contains_key(&lease) => {
                self.drop_lease(lease);
                Outcome::Written { revision: self.data.revision() }
            }
            Op::Revoke { .. } => return Err(failure(FailureKind::LeaseGone, "requested lease not found")),
            Op::Watch { .. } | Op::Cancel => return Err(failure(FailureKind::Refused, "not a request")),
        })
    }

    fn page(&self, prefix: &str, after: Option<&Bytes>, limit: usize, at: Revision) -> Result<Outcome, Failure> {
        let revision = self.data.revision();
        if at > revision {
            return Err(failure(FailureKind::Refused, "required revision is a future revision"));
        }
        if at != 0 && at < self.data.compacted() {
            return Ok(Outcome::Compacted { oldest: self.data.compacted() });
        }
        let at = if at == 0 { revision } else { at };
        let (entries, more) = self.data.range(prefix.as_bytes(), after, limit, at);
        Ok(Outcome::Page { entries, more, revision })
    }

    fn write(&mut self, writes: &[Write]) -> Result<Outcome, Failure> {
        if writes.len() > MAX_BATCH {
            return Err(failure(FailureKind::Refused, "too many operations in txn request"));
        }
        let mut keys = BTreeSet::new();
        for write in writes {
            match write {
                Write::Put { .. } if self.no_space => {
                    return Err(failure(FailureKind::NoSpace, "mvcc: database space exceeded"));
                }
                Write::Put { key, lease, .. } => {
                    if !keys.insert(key) {
                        return Err(failure(FailureKind::Refused, "duplicate key given in txn request"));
                    }
                    if *lease != 0 && !self.leases.contains_key(lease) {
                        return Err(failure(FailureKind::LeaseGone, "requested lease not found"));
                    }
                }
                Write::Delete { .. } | Write::DeletePrefix { .. } => {}
            }
        }
        self.data.write(writes);
        Ok(Outcome::Written { revision: self.data.revision() })
    }

    fn grant(&mut self, ttl: Duration, now: Instant) -> Result<Outcome, Failure> {
        if self.no_space {
            return Err(failure(FailureKind::NoSpace, "mvcc: database space exceeded"));
        }
        self.last_lease += 1;
        let id = self.last_lease;
        self.leases.insert(id, Lease { ttl, expires: now + ttl });
        Ok(Outcome::Lease { id, ttl })
    }

    fn feed_watches(&mut self) {
        let (data, store) = (&self.data, self.store);
        for client in self.sessions.values_mut() {
            let Client { watches, replies, .. } = client;
            watches.retain(|&ticket, watch| {
                let mut push = |outcome| replies.push(Reply { ticket, store, outcome });
                if watch.next < data.compacted() {
                    push(Outcome::Compacted { oldest: data.compacted() });
                    return false;
                }
                let events: Vec<Event> = data.events(watch.prefix.as_bytes(), watch.next);
                watch.next = watch.next.max(data.revision() + 1);
                if !events.is_empty() {
                    push(Outcome::Events { events, revision: data.revision() });
                }
                true
            });
        }
    }
}

fn failure(kind: FailureKind, message: &str) -> Failure {
    Failure { kind, message: message.to_owned() }
}
