//! The leases that are held, how many keys each carries, and when each is to be kept alive.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::op::LeaseId;

/// How long a writer that has nothing to write goes without a word from the store: one that came back empty tells nobody,
/// and its readers wait for what is to be written again.
const LISTEN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Leases {
    capacity: usize,
    held: BTreeMap<LeaseId, Held>,
    /// Those with a place left.
    open: BTreeSet<LeaseId>,
}

#[derive(Debug)]
struct Held {
    keys: usize,
    /// `None` while an answer is awaited.
    refresh: Option<Instant>,
}

impl Leases {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), held: BTreeMap::new(), open: BTreeSet::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// `ttl`: as granted.
    pub(super) fn granted(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        self.held.insert(id, Held { keys: 0, refresh: None });
        self.open.insert(id);
        self.kept(id, ttl, now);
    }

    /// It lives for `ttl` from `now`: refreshed when a third of it is over, the first of them at least every [`LISTEN`].
    pub(super) fn kept(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        let is_first = self.held.first_key_value().is_some_and(|(first, _)| *first == id);
        let after = if is_first { LISTEN.min(ttl / 3) } else { ttl / 3 };
        self.refresh_at(id, now + after);
    }

    /// A place for one key.
    pub(super) fn place(&mut self) -> Option<LeaseId> {
        let id = *self.open.first()?;
        let held = self.held.get_mut(&id)?;
        held.keys += 1;
        if held.keys >= self.capacity {
            self.open.remove(&id);
        }
        Some(id)
    }

    pub(super) fn free(&mut self, id: LeaseId) {
        if let Some(held) = self.held.get_mut(&id) {
            held.keys = held.keys.saturating_sub(1);
            self.open.insert(id);
        }
    }

    /// A lease to be kept alive now; it counts as asked.
    pub(super) fn due(&mut self, now: Instant) -> Option<LeaseId> {
        let (id, held) = self.held.iter_mut().find(|(_, held)| held.refresh.is_some_and(|at| at <= now))?;
        held.refresh = None;
        Some(*id)
    }

    /// To be kept alive at `at`, answered or not.
    pub(super) fn refresh_at(&mut self, id: LeaseId, at: Instant) {
        if let Some(held) = self.held.get_mut(&id) {
            held.refresh = Some(at);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.held.values().filter_map(|held| held.refresh).min()
    }

    /// False if it was not held.
    pub(super) fn lose(&mut self, id: LeaseId) -> bool {
        self.open.remove(&id);
        self.held.remove(&id).is_some()
    }

    pub(super) fn clear(&mut self) {
        self.held.clear();
        self.open.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_and_come_back() {
        let now = Instant::now();
        let ttl = Duration::from_secs(30);
        let mut leases = Leases::new(2);
        assert_eq!(leases.place(), None);
        leases.granted(5, ttl, now);
        assert_eq!([leases.place(), leases.place(), leases.place()], [Some(5), Some(5), None]);
        leases.granted(6, ttl, now + ttl);
        assert_eq!(leases.place(), Some(6));
        leases.free(5);
        assert_eq!(leases.place(), Some(5));
        assert_eq!(leases.deadline(), Some(now + LISTEN), "the first one");
        assert_eq!(leases.due(now), None);
        assert_eq!(leases.due(now + LISTEN), Some(5));
        assert_eq!(leases.due(now + LISTEN), None);
        assert_eq!(leases.deadline(), Some(now + ttl + ttl / 3), "another one");
        assert!(leases.lose(5));
        assert!(!leases.lose(5));
        leases.free(5);
        assert_eq!(leases.len(), 1);
    }
}
