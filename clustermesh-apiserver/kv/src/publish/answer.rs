//! What the store answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::group::{Have, Listing};
use super::{GroupId, Item, Later, Publish, What};
use crate::backoff::delay;
use crate::clock::Now;
use crate::op::{Entry, Failure, FailureKind, LeaseId, Outcome, Reply, Revision};

impl Publish {
    /// The answer to a ticket of [`Publish::poll`]. Others are ignored.
    pub fn handle(&mut self, reply: Reply, now: Now) {
        let Some(asked) = self.asked.remove(&reply.ticket) else { return };
        if matches!(asked.what, What::Write(_)) {
            self.writing -= 1;
        }
        match &reply.outcome {
            Outcome::Failed(failure) => self.failed(failure.clone(), now),
            outcome => {
                self.backoff.reset();
                self.last_error = None;
                self.recognise(reply.store, revision_of(outcome), asked.floor);
            }
        }
        match (asked.what, reply.outcome) {
            (What::Write(items), Outcome::Failed(failure)) => self.not_written(items, failure.kind, now),
            (What::Write(items), _) => self.wrote(items),
            (What::List(id, _), Outcome::Failed(_)) => self.list_later(id, now),
            (What::List(id, epoch), Outcome::Page { entries, more, revision }) if self.is_epoch(id, epoch) => {
                self.page(id, entries, more, revision);
            }
            (What::List(id, _), _) => self.list_again(id),
            (What::Clear(id, epoch), outcome) => {
                let done = !matches!(outcome, Outcome::Failed(_));
                self.cleared(id, epoch, done, now);
            }
            (What::Grant, Outcome::Lease { id, ttl }) if !ttl.is_zero() => {
                (self.granting, self.grant_tries) = (false, 0);
                self.leases.granted(id, ttl, now.at);
            }
            (What::Grant, _) => {
                let at = self.retry_at(self.grant_tries, now);
                self.grant_tries += 1;
                self.later(at, Later::Grant);
            }
            (What::KeepAlive(id), Outcome::Lease { ttl, .. }) if !ttl.is_zero() => {
                self.leases.kept(id, ttl, now.at);
            }
            (What::KeepAlive(id), Outcome::Lease { .. }) => self.lose_lease(id),
            (What::KeepAlive(id), Outcome::Failed(failure)) if failure.kind == FailureKind::LeaseGone => {
                self.lose_lease(id);
            }
            (What::KeepAlive(id), _) => {
                let at = self.retry_at(0, now);
                self.leases.refresh_at(id, at);
            }
        }
    }

    /// A place that is no longer needed, and perhaps the last key of a group that leaves.
    pub(super) fn settled(&mut self, id: GroupId, freed: Option<LeaseId>) {
        if let Some(lease) = freed {
            self.leases.free(lease);
        }
        self.forget_if_empty(id);
        self.canary_if_flushed(id);
    }

    fn failed(&mut self, failure: Failure, now: Now) {
        self.errors += 1;
        let nobody = matches!(failure.kind, FailureKind::Unavailable | FailureKind::TimedOut | FailureKind::NoSpace);
        // Several operations fail of one cause: one delay.
        if nobody && self.paused.is_none() {
            self.paused = Some(now.at + self.backoff.next(&mut self.rng));
        }
        self.last_error = Some(failure);
    }

    /// Another data set, or the same one behind what it told before: everything is written again.
    fn recognise(&mut self, store: u64, revision: Option<Revision>, floor: Revision) {
        // Not every answer of every store says its number.
        if store == 0 {
            return;
        }
        let lost = self.store != 0 && (store != self.store || revision.is_some_and(|revision| revision < floor));
        self.store = store;
        if lost {
            self.revision = 0;
            for asked in self.asked.values_mut() {
                asked.floor = 0;
            }
            self.leases.clear();
            for (id, group) in &mut self.groups {
                for key in group.keys.values_mut() {
                    key.lease = None;
                }
                self.queue.extend(group.doubt().into_iter().map(|name| (*id, name)));
                if !group.leaving && group.wants_listing() {
                    self.listings.push_back(*id);
                }
            }
            self.withdraw_canaries();
            let ids: Vec<_> = self.groups.keys().copied().collect();
            for id in ids {
                self.complete(id);
            }
        }
        self.revision = self.revision.max(revision.unwrap_or(0));
    }

    /// The store came back: canaries have to be earned again.
    fn withdraw_canaries(&mut self) {
        self.canaries.clear();
        let canaries: Vec<_> = self.groups.values().filter_map(|group| group.spec.canary.clone()).collect();
        for canary in canaries {
            self.delete_canary(Some(&canary));
        }
    }

    fn wrote(&mut self, items: Vec<Item>) {
        for Item { group: id, name, value, lease } in items {
            self.written += 1;
            let Some(group) = self.groups.get_mut(&id) else { continue };
            // Its lease was lost on the way, and the key with it.
            let kept = lease.is_none() || group.keys.get(&name).is_some_and(|key| key.lease == lease);
            let Some(key) = group.answered(&name, kept) else { continue };
            (key.alone, key.tries) = (false, 0);
            if !kept {
                key.have = Have::Unknown;
                self.queue.push_back((id, name));
                continue;
            }
            key.have = value.map_or(Have::Absent, Have::Value);
            let (again, freed) = group.settle(&name);
            if again {
                self.queue.push_back((id, name));
            }
            self.settled(id, freed);
        }
    }

    fn not_written(&mut self, items: Vec<Item>, kind: FailureKind, now: Now) {
        let single = items.len() == 1;
        let mut lost = Vec::new();
        // Backwards, so that the queue keeps its order.
        for Item { group: id, name, lease, .. } in items.into_iter().rev() {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let Some(key) = group.answered(&name, false) else { continue };
            match kind {
                FailureKind::Unavailable | FailureKind::TimedOut => key.have = Have::Unknown,
                FailureKind::LeaseGone => lost.extend(lease),
                FailureKind::NoSpace => {}
                FailureKind::Denied | FailureKind::Refused | FailureKind::TooLarge => {
                    key.alone = true;
                    if single {
                        let tries = key.tries;
                        key.tries += 1;
                        let at = self.retry_at(tries, now);
                        self.later(at, Later::Key(id, name));
                        continue;
                    }
                }
            }
            self.queue.push_front((id, name));
        }
        // The store does not say which one it was. A lease that still lives is given up with the others: its keys move.
        for lease in lost {
            self.lose_lease(lease);
        }
    }

    fn lose_lease(&mut self, lease: LeaseId) {
        if self.leases.lose(lease) {
            for (id, group) in &mut self.groups {
                self.queue.extend(group.lost_lease(lease).into_iter().map(|name| (*id, name)));
            }
        }
    }

    fn page(&mut self, id: GroupId, entries: Vec<Entry>, more: bool, revision: Revision) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.leaving {
            group.list_pending = false;
            return;
        }
        group.tries = 0;
        let last = entries.last().map(|entry| entry.key.clone());
        for entry in entries {
            // A key that is no text is not ours, and could not be written either.
            let Ok(name) = std::str::from_utf8(&entry.key) else { continue };
            if !group.keys.contains_key(name) {
                group.strays.insert(Arc::from(name));
            }
        }
        let listing = &mut group.listing;
        if more && last.is_some() {
            if listing.revision == 0 {
                listing.revision = revision;
            }
            listing.after = last;
        } else {
            *listing = Listing { prefix: listing.prefix + 1, ..Listing::start() };
        }
        group.list_pending = group.listing.prefix < group.spec.prefixes.len();
        if group.list_pending {
            self.listings.push_back(id);
        } else {
            self.complete(id);
        }
    }

    fn complete(&mut self, id: GroupId) {
        if let Some(group) = self.groups.get_mut(&id).filter(|group| !group.leaving) {
            let queued = group.complete();
            self.queue.extend(queued.into_iter().map(|name| (id, name)));
            self.canary_if_flushed(id);
        }
    }

    fn is_epoch(&self, id: GroupId, epoch: u64) -> bool {
        self.groups.get(&id).is_some_and(|group| group.epoch == epoch)
    }

    /// The revision of the first page is no longer kept, or the answer is void.
    fn list_again(&mut self, id: GroupId) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.listing = Listing { prefix: group.listing.prefix, ..Listing::start() };
            self.listings.push_back(id);
        }
    }

    fn list_later(&mut self, id: GroupId, now: Now) {
        if let Some(group) = self.groups.get_mut(&id) {
            let tries = group.tries;
            group.tries += 1;
            let at = self.retry_at(tries, now);
            self.later(at, Later::List(id));
        }
    }

    /// The emptying of a group's prefixes came back. Unless that was the end of the group, nobody knows what is left:
    /// it failed half-way, or the group was revived, or the store is another one.
    fn cleared(&mut self, id: GroupId, epoch: u64, done: bool, now: Now) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.clearing = false;
        if done && group.leaving && group.epoch == epoch {
            for lease in group.keys.values().filter_map(|key| key.lease) {
                self.leases.free(lease);
            }
            self.groups.remove(&id);
            return;
        }
        let queued = group.doubt();
        self.queue.extend(queued.into_iter().map(|name| (id, name)));
        if !group.leaving {
            if group.wants_listing() {
                self.listings.push_back(id);
            }
        } else if done {
            self.clearances.push_back(id);
        } else {
            let tries = group.tries;
            group.tries += 1;
            let at = self.retry_at(tries, now);
            self.later(at, Later::Clear(id));
        }
    }

    fn later(&mut self, at: Instant, what: Later) {
        self.later_count += 1;
        self.later.insert((at, self.later_count), what);
    }

    fn retry_at(&mut self, tries: u32, now: Now) -> Instant {
        let Self { settings, rng, .. } = self;
        let wait: Duration = delay(settings.retry_first, settings.retry_limit, tries, rng);
        now.at + wait
    }
}

/// What the store's revision was, if the answer says it.
fn revision_of(outcome: &Outcome) -> Option<Revision> {
    match outcome {
        Outcome::Page { revision, .. }
        | Outcome::Written { revision }
        | Outcome::Watching { revision }
        | Outcome::Events { revision, .. }
        | Outcome::Progress { revision } => Some(*revision),
        Outcome::Compacted { .. } | Outcome::Lease { .. } | Outcome::Failed(_) => None,
    }
}
