//! One group: its keys, what they shall hold, what they hold, and how far the set is on its way into the store.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::Group;
use crate::op::{LeaseId, Revision};

#[derive(Debug)]
pub(super) struct GroupState {
    pub(super) spec: Group,
    pub(super) keys: HashMap<Arc<str>, Key>,
    pub(super) listing: Listing,
    /// Counts the times the listing began: an answer to an older one is void.
    pub(super) epoch: u64,
    /// The listing is queued, asked or waiting for its next try.
    pub(super) list_pending: bool,
    /// Found in the store and never wanted; deleted when the group is listed.
    pub(super) strays: BTreeSet<Arc<str>>,
    pub(super) listed: bool,
    pub(super) stage: Stage,
    /// Keys with a value.
    pub(super) wanted: usize,
    /// Keys whose phase is not `Idle`.
    pub(super) busy: usize,
    /// Keys whose phase is `Asked`.
    pub(super) flying: usize,
    /// Counts the times the caller said the set again.
    generation: u64,
    /// Being removed: nothing is taken any more.
    pub(super) leaving: bool,
    /// Its prefixes are being emptied: what is in the store is not known before the answer.
    pub(super) clearing: bool,
    /// Tries of a listing or of a clearance that failed.
    pub(super) tries: u32,
}

/// What is wanted of a key, what is so, and what is being done.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) want: Option<Bytes>,
    pub(super) have: Have,
    /// Where it has a place, whether written or not.
    pub(super) lease: Option<LeaseId>,
    pub(super) phase: Phase,
    /// A transaction with it was refused: it goes alone, so that a bad one does not stop good ones.
    pub(super) alone: bool,
    pub(super) tries: u32,
    barrier: Barrier,
    generation: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Have {
    /// Never written, written with an uncertain end, or lost with its lease.
    Unknown,
    Absent,
    Value(Bytes),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    /// In the queue, or waiting for its next try.
    Queued,
    /// In a transaction on its way.
    Asked,
}

/// Whether the canary waits for this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Barrier {
    No,
    Waits,
    /// The transaction on its way began after the set was complete.
    Covered,
}

/// The read of what the store holds under the group's prefixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    /// Index into the prefixes; past the end: done.
    pub(super) prefix: usize,
    pub(super) after: Option<Bytes>,
    pub(super) revision: Revision,
}

/// How far the first complete set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not complete, or the store has not been read.
    Filling,
    /// This many keys have to be written before the canary.
    Flushing(usize),
    Flushed,
}

impl Listing {
    pub(super) fn start() -> Self {
        Self { prefix: 0, after: None, revision: 0 }
    }
}

impl Key {
    fn new(generation: u64) -> Self {
        Self {
            want: None,
            have: Have::Unknown,
            lease: None,
            phase: Phase::Idle,
            alone: false,
            tries: 0,
            barrier: Barrier::No,
            generation,
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        match (&self.want, &self.have) {
            (None, Have::Absent) => false,
            (Some(want), Have::Value(have)) => want != have,
            _ => true,
        }
    }
}

impl GroupState {
    pub(super) fn new(spec: Group) -> Self {
        Self {
            spec,
            keys: HashMap::new(),
            listing: Listing::start(),
            epoch: 0,
            list_pending: false,
            strays: BTreeSet::new(),
            listed: false,
            stage: Stage::Filling,
            wanted: 0,
            busy: 0,
            flying: 0,
            generation: 0,
            leaving: false,
            clearing: false,
            tries: 0,
        }
    }

    /// The key to queue, if it has to be written and is not on its way already.
    pub(super) fn set(&mut self, name: &str, value: Bytes) -> Option<Arc<str>> {
        let name = match self.keys.get_key_value(name) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(name),
        };
        let generation = self.generation;
        let key = self.keys.entry(Arc::clone(&name)).or_insert_with(|| Key::new(generation));
        key.generation = generation;
        self.wanted += usize::from(key.want.is_none());
        key.want = Some(value);
        self.touch(&name)
    }

    pub(super) fn delete(&mut self, name: &str) -> Option<Arc<str>> {
        if let Some((name, key)) = self.keys.get_key_value(name) {
            let name = Arc::clone(name);
            self.wanted -= usize::from(key.want.is_some());
            self.keys.get_mut(&name)?.want = None;
            return self.touch(&name);
        }
        // Under an own prefix the listing finds what is left of a former life; elsewhere nobody looks.
        if self.spec.prefixes.iter().any(|prefix| name.starts_with(prefix.as_str())) {
            return None;
        }
        let name: Arc<str> = Arc::from(name);
        self.keys.insert(Arc::clone(&name), Key::new(self.generation));
        self.touch(&name)
    }

    pub(super) fn relisting(&mut self) {
        self.generation += 1;
    }

    /// Keys to queue: those that were not said again.
    pub(super) fn listed(&mut self) -> Vec<Arc<str>> {
        self.listed = true;
        let generation = self.generation;
        let stale = self.keys.iter().filter(|(_, key)| key.want.is_some() && key.generation < generation);
        let stale: Vec<_> = stale.map(|(name, _)| Arc::clone(name)).collect();
        let mut queue: Vec<_> = stale.iter().filter_map(|name| self.delete(name)).collect();
        queue.extend(self.complete());
        queue
    }

    /// If the set is complete and the store has been read: keys to queue (strays), and from here on the canary waits
    /// for everything that is not written.
    pub(super) fn complete(&mut self) -> Vec<Arc<str>> {
        if !self.listed || self.clearing || self.listing.prefix < self.spec.prefixes.len() {
            return Vec::new();
        }
        let mut queue = Vec::new();
        for name in std::mem::take(&mut self.strays) {
            if !self.keys.contains_key(&name) {
                self.keys.insert(Arc::clone(&name), Key::new(self.generation));
                queue.extend(self.touch(&name));
            }
        }
        if self.stage == Stage::Filling {
            for key in self.keys.values_mut().filter(|key| key.phase != Phase::Idle) {
                key.barrier = Barrier::Waits;
            }
            self.stage = Stage::Flushing(self.busy);
        }
        queue
    }

    /// The canary may be written now. True once.
    pub(super) fn take_flushed(&mut self) -> bool {
        let flushed = self.stage == Stage::Flushing(0) && !self.leaving;
        if flushed {
            self.stage = Stage::Flushed;
        }
        flushed
    }

    /// The name, if the key has to be queued.
    pub(super) fn touch(&mut self, name: &Arc<str>) -> Option<Arc<str>> {
        let key = self.keys.get_mut(name)?;
        if key.phase != Phase::Idle || !key.is_dirty() {
            return None;
        }
        key.phase = Phase::Queued;
        self.busy += 1;
        Some(Arc::clone(name))
    }

    /// A key has left the queue or come back from the store. True: it has to be queued again. The lease whose place it
    /// no longer needs, if it is gone.
    pub(super) fn settle(&mut self, name: &Arc<str>) -> (bool, Option<LeaseId>) {
        let Some(key) = self.keys.get_mut(name) else { return (false, None) };
        let dirty = key.is_dirty();
        if key.barrier == Barrier::Covered || (!dirty && key.barrier == Barrier::Waits) {
            key.barrier = Barrier::No;
            if let Stage::Flushing(left) = &mut self.stage {
                *left = left.saturating_sub(1);
            }
        }
        if dirty {
            key.phase = Phase::Queued;
            return (true, None);
        }
        key.phase = Phase::Idle;
        (key.alone, key.tries) = (false, 0);
        self.busy -= 1;
        let mut freed = None;
        if key.want.is_none() {
            freed = key.lease;
            self.keys.remove(name);
        }
        (false, freed)
    }

    /// A key goes into a transaction now.
    pub(super) fn asked(&mut self, name: &Arc<str>) {
        if let Some(key) = self.keys.get_mut(name) {
            key.phase = Phase::Asked;
            if key.barrier == Barrier::Waits {
                key.barrier = Barrier::Covered;
            }
            self.flying += 1;
        }
    }

    /// The transaction with it came back. `done`: it is in the store; else the canary goes on waiting for it.
    pub(super) fn answered(&mut self, name: &Arc<str>, done: bool) -> Option<&mut Key> {
        let key = self.keys.get_mut(name)?;
        self.flying = self.flying.saturating_sub(1);
        key.phase = Phase::Queued;
        if !done && key.barrier == Barrier::Covered {
            key.barrier = Barrier::Waits;
        }
        Some(key)
    }

    /// Nothing is wanted any more: keys to queue, if nobody empties the prefixes.
    pub(super) fn leave(&mut self) -> Vec<Arc<str>> {
        self.leaving = true;
        self.stage = Stage::Filling;
        self.wanted = 0;
        for key in self.keys.values_mut() {
            (key.want, key.barrier) = (None, Barrier::No);
        }
        if self.spec.prefixes.is_empty() { self.touch_all() } else { Vec::new() }
    }

    /// Wanted again before it was forgotten: keys to queue. They are deleted if they come to be written before the
    /// caller has said them again; what else is found in the store goes with `listed`.
    pub(super) fn revive(&mut self, spec: Group) -> Vec<Arc<str>> {
        self.spec = spec;
        self.leaving = false;
        self.listed = false;
        self.generation += 1;
        self.restart_listing();
        self.touch_all()
    }

    /// Nothing is known of the store any more: keys to queue.
    pub(super) fn doubt(&mut self) -> Vec<Arc<str>> {
        self.stage = Stage::Filling;
        self.restart_listing();
        self.strays.clear();
        for key in self.keys.values_mut() {
            (key.have, key.barrier) = (Have::Unknown, Barrier::No);
        }
        self.touch_all()
    }

    /// A lease is gone with its keys: keys to queue.
    pub(super) fn lost_lease(&mut self, lease: LeaseId) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        for (name, key) in &mut self.keys {
            if key.lease == Some(lease) {
                (key.have, key.lease) = (Have::Unknown, None);
                names.push(Arc::clone(name));
                if let (Stage::Flushing(left), Barrier::No) = (&mut self.stage, key.barrier) {
                    key.barrier = Barrier::Waits;
                    *left += 1;
                }
            }
        }
        names.iter().filter_map(|name| self.touch(name)).collect()
    }

    fn restart_listing(&mut self) {
        self.listing = Listing::start();
        self.epoch += 1;
    }

    /// True if the caller has to queue the listing.
    pub(super) fn wants_listing(&mut self) -> bool {
        let wants = !self.list_pending && self.listing.prefix < self.spec.prefixes.len();
        self.list_pending |= wants;
        wants
    }

    fn touch_all(&mut self) -> Vec<Arc<str>> {
        let names: Vec<_> = self.keys.keys().cloned().collect();
        names.iter().filter_map(|name| self.touch(name)).collect()
    }
}
