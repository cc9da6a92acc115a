//! Drives what is real towards what is desired, one key at a time. Sans-I/O: the shell is [`crate::drive`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::table::{Changes, Table};

/// One step towards the desired state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<K, V> {
    /// Make the real row be this.
    Upsert { key: K, value: Arc<V> },
    /// Remove the real row; it may already be absent.
    Delete { key: K },
}

/// How far a row is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowStatus {
    /// Desired and not yet real, or real and no longer desired.
    Pending,
    /// Real, as desired.
    Done,
    /// The last attempt failed; it is tried again.
    Failed { message: String, attempts: u32, retry_at: Instant },
}

/// A row as it is: how far it is, and what is real of it.
#[derive(Debug)]
pub struct Realised<V> {
    pub status: RowStatus,
    /// What was last made real; `None` when an attempt failed or nothing was made yet.
    pub actual: Option<Arc<V>>,
}

impl<V: PartialEq> PartialEq for Realised<V> {
    fn eq(&self, other: &Self) -> bool {
        self.status == other.status && self.actual == other.actual
    }
}

/// Delays between attempts: doubled from `first` to `most`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub first: Duration,
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { first: Duration::from_millis(50), most: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The delay after the given number of failed attempts (1 or more).
    pub fn delay(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(16);
        self.first.saturating_mul(1 << doublings).min(self.most)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    pub backoff: Backoff,
    /// A row that is no longer desired stays real this long, so that others can stop relying on it first.
    pub delete_delay: Duration,
}

/// How many rows are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub done: usize,
    pub pending: usize,
    pub failed: usize,
}

/// What is known of a real row.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Actual<V> {
    Is(Arc<V>),
    /// An attempt failed half-way, or nobody could read it: it must be written or deleted again.
    Unknown,
}

/// The reconciler of one table.
///
/// Contract: feed it with [`Reconciler::adopt`] once, [`Reconciler::changed`] as the desired table changes and
/// [`Reconciler::mark_synced`]; then take [`Reconciler::next`] until it is `None`, report each with
/// [`Reconciler::finished`], and come back at [`Reconciler::deadline`] at the latest.
#[derive(Debug)]
pub struct Reconciler<K, V> {
    policy: Policy,
    actual: BTreeMap<K, Actual<V>>,
    /// Not in here: done.
    status: BTreeMap<K, RowStatus>,
    dirty: BTreeSet<K>,
    timers: BTreeSet<(Instant, K)>,
    /// When each unwanted row may go.
    doomed: BTreeMap<K, Instant>,
    running: Option<(K, Option<Arc<V>>)>,
    /// Keys whose status may have changed since the last [`Reconciler::take_touched`].
    touched: BTreeSet<K>,
    synced: bool,
}

/// The pure plan for one key.
fn plan<K: Clone, V: PartialEq>(
    key: &K,
    desired: Option<&Arc<V>>,
    actual: Option<&Actual<V>>,
    may_prune: bool,
) -> Option<Action<K, V>> {
    match (desired, actual) {
        (Some(d), Some(Actual::Is(a))) if d == a => None,
        (Some(d), _) => Some(Action::Upsert { key: key.clone(), value: d.clone() }),
        (None, Some(_)) if may_prune => Some(Action::Delete { key: key.clone() }),
        (None, _) => None,
    }
}

impl<K: Ord + Clone, V: PartialEq> Reconciler<K, V> {
    pub fn new(policy: Policy) -> Self {
        Reconciler {
            policy,
            actual: BTreeMap::new(),
            status: BTreeMap::new(),
            dirty: BTreeSet::new(),
            timers: BTreeSet::new(),
            doomed: BTreeMap::new(),
            running: None,
            touched: BTreeSet::new(),
            synced: false,
        }
    }

    /// Takes over rows that are real already. `None`: it exists, but what it is could not be read.
    pub fn adopt(&mut self, rows: impl IntoIterator<Item = (K, Option<V>)>) {
        for (key, value) in rows {
            let actual = value.map_or(Actual::Unknown, |v| Actual::Is(Arc::new(v)));
            self.status.insert(key.clone(), RowStatus::Pending);
            self.touched.insert(key.clone());
            self.actual.insert(key.clone(), actual);
            self.dirty.insert(key);
        }
    }

    /// The inputs of the desired table have been read completely once: what is not desired may go.
    pub fn mark_synced(&mut self) {
        if !self.synced {
            self.synced = true;
            self.dirty.extend(self.actual.keys().cloned());
        }
    }

    /// The desired rows of these keys changed.
    pub fn changed(&mut self, changes: Changes<K>, desired: &Table<K, V>) {
        match changes {
            Changes::Keys(keys) => keys.into_iter().for_each(|k| self.mark(k)),
            Changes::Reset => {
                let all: BTreeSet<K> = desired.iter().map(|(k, _)| k).chain(self.actual.keys()).cloned().collect();
                all.into_iter().for_each(|k| self.mark(k));
            }
        }
    }

    /// The next step, if there is one to take now. The step stays open until [`Reconciler::finished`].
    pub fn next(&mut self, now: Instant, desired: &Table<K, V>) -> Option<Action<K, V>> {
        if self.running.is_some() {
            return None;
        }
        while let Some((at, _)) = self.timers.first() {
            if *at > now {
                break;
            }
            if let Some((_, key)) = self.timers.pop_first() {
                self.dirty.insert(key);
            }
        }
        while let Some(key) = self.dirty.pop_first() {
            let want = desired.get(&key);
            let action = plan(&key, want, self.actual.get(&key), self.synced);
            match action {
                None => self.settle(&key, want.is_some()),
                Some(Action::Delete { .. }) if !self.may_delete(now, &key) => {}
                Some(action) => {
                    self.running = Some((key, want.cloned()));
                    return Some(action);
                }
            }
        }
        None
    }

    /// How the step that [`Reconciler::next`] gave ended.
    pub fn finished(&mut self, now: Instant, result: Result<(), String>) {
        let Some((key, value)) = self.running.take() else { return };
        match (result, value) {
            (Ok(()), Some(value)) => {
                self.actual.insert(key.clone(), Actual::Is(value));
                self.cancel_doom(&key);
                self.done(&key);
            }
            (Ok(()), None) => {
                self.actual.remove(&key);
                self.doomed.remove(&key);
                self.done(&key);
            }
            (Err(message), _) => {
                self.actual.insert(key.clone(), Actual::Unknown);
                let attempts = match self.status.get(&key) {
                    Some(RowStatus::Failed { attempts, .. }) => attempts.saturating_add(1),
                    _ => 1,
                };
                let retry_at = now + self.policy.backoff.delay(attempts);
                self.timers.insert((retry_at, key.clone()));
                self.touched.insert(key.clone());
                self.status.insert(key, RowStatus::Failed { message, attempts, retry_at });
            }
        }
    }

    /// When to call [`Reconciler::next`] again although nothing changed.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// A row's state; `None`: neither desired nor real.
    pub fn status(&self, key: &K) -> Option<RowStatus> {
        match self.status.get(key) {
            Some(status) => Some(status.clone()),
            None => self.actual.contains_key(key).then_some(RowStatus::Done),
        }
    }

    /// Keys whose status may have changed since the last call.
    pub fn take_touched(&mut self) -> BTreeSet<K> {
        std::mem::take(&mut self.touched)
    }

    /// A row's state with what is real of it; `None`: neither desired nor real.
    pub fn realised(&self, key: &K) -> Option<Realised<V>> {
        Some(Realised { status: self.status(key)?, actual: self.actual(key).cloned() })
    }

    /// What was last made real at this key.
    pub fn actual(&self, key: &K) -> Option<&Arc<V>> {
        match self.actual.get(key) {
            Some(Actual::Is(v)) => Some(v),
            Some(Actual::Unknown) | None => None,
        }
    }

    pub fn counts(&self) -> Counts {
        let failed = self.status.values().filter(|s| matches!(s, RowStatus::Failed { .. })).count();
        let pending = self.status.len() - failed;
        let known = self.actual.keys().filter(|k| !self.status.contains_key(k)).count();
        Counts { done: known, pending, failed }
    }

    /// One of the failures, for people.
    pub fn a_failure(&self) -> Option<(&K, &str)> {
        self.status.iter().find_map(|(k, s)| match s {
            RowStatus::Failed { message, .. } => Some((k, message.as_str())),
            RowStatus::Pending | RowStatus::Done => None,
        })
    }

    /// A new wish is tried at once, whatever the back-off of the old one.
    fn mark(&mut self, key: K) {
        if let Some(RowStatus::Failed { retry_at, .. }) = self.status.get(&key) {
            self.timers.remove(&(*retry_at, key.clone()));
        }
        self.status.insert(key.clone(), RowStatus::Pending);
        self.touched.insert(key.clone());
        self.dirty.insert(key);
    }

    /// Nothing to do for this key now.
    fn settle(&mut self, key: &K, desired: bool) {
        if desired || !self.actual.contains_key(key) {
            self.cancel_doom(key);
            self.done(key);
        }
        // Else: real, not desired, and pruning must wait for the inputs. It stays pending.
    }

    fn done(&mut self, key: &K) {
        self.status.remove(key);
        self.touched.insert(key.clone());
    }

    fn cancel_doom(&mut self, key: &K) {
        if let Some(at) = self.doomed.remove(key) {
            self.timers.remove(&(at, key.clone()));
        }
    }

    /// True when the delay before a deletion has passed; starts it when it has not begun.
    fn may_delete(&mut self, now: Instant, key: &K) -> bool {
        let at = *self.doomed.entry(key.clone()).or_insert(now + self.policy.delete_delay);
        if at > now {
            self.timers.insert((at, key.clone()));
        }
        at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Core = Reconciler<u8, u8>;

    struct World {
        now: Instant,
        desired: Table<u8, u8>,
        core: Core,
        real: BTreeMap<u8, u8>,
    }

    impl World {
        fn new(delete_delay: Duration, real: &[(u8, u8)]) -> World {
            let mut core = Core::new(Policy { delete_delay, ..Policy::default() });
            core.adopt(real.iter().map(|(k, v)| (*k, Some(*v))));
            World { now: Instant::now(), desired: Table::default(), core, real: real.iter().copied().collect() }
        }

        fn set(&mut self, key: u8, value: Option<u8>) {
            let before = self.desired.revision();
            match value {
                Some(v) => self.desired.set(key, v),
                None => self.desired.delete(&key),
            };
            self.core.changed(self.desired.changes_since(before), &self.desired);
        }

        /// Runs until nothing is to be done now. `fail` decides over each attempt.
        fn run(&mut self, mut fail: impl FnMut() -> bool) -> usize {
            let mut steps = 0;
            while let Some(action) = self.core.next(self.now, &self.desired) {
                steps += 1;
                let failed = fail();
                if !failed {
                    match action {
                        Action::Upsert { key, value } => self.real.insert(key, *value),
                        Action::Delete { key } => self.real.remove(&key),
                    };
                }
                self.core.finished(self.now, if failed { Err("no".into()) } else { Ok(()) });
            }
            steps
        }
    }

    #[test]
    fn plan_table() {
        let (a, b) = (Arc::new(1u8), Arc::new(2u8));
        let is = |v: &Arc<u8>| Actual::Is(v.clone());
        let up = |v: &Arc<u8>| Some(Action::Upsert { key: 0u8, value: v.clone() });
        let del = Some(Action::Delete { key: 0u8 });
        let cases = [
            (None, None, None, None),
            (Some(&a), None, up(&a), up(&a)),
            (Some(&a), Some(is(&a)), None, None),
            (Some(&a), Some(is(&b)), up(&a), up(&a)),
            (Some(&a), Some(Actual::Unknown), up(&a), up(&a)),
            (None, Some(is(&a)), None, del.clone()),
            (None, Some(Actual::Unknown), None, del),
        ];
        for (i, (desired, actual, unsynced, synced)) in cases.into_iter().enumerate() {
            assert_eq!(plan(&0, desired, actual.as_ref(), false), unsynced, "case {i}, not synced");
            assert_eq!(plan(&0, desired, actual.as_ref(), true), synced, "case {i}, synced");
        }
    }

    #[test]
    fn adopts_and_prunes_only_after_sync() {
        let mut w = World::new(Duration::ZERO, &[(1, 10), (2, 20)]);
        w.set(1, Some(10));
        assert_eq!(w.run(|| false), 0, "what is right is not touched");
        assert_eq!(w.core.status(&1), Some(RowStatus::Done));
        assert_eq!(w.core.status(&2), Some(RowStatus::Pending));
        w.core.mark_synced();
        assert_eq!(w.run(|| false), 1);
        assert_eq!(w.real, BTreeMap::from([(1, 10)]));
        assert_eq!(w.core.status(&2), None);
    }

    #[test]
    fn deletion_waits_for_its_delay_and_can_be_cancelled() {
        let delay = Duration::from_secs(1);
        let mut w = World::new(delay, &[]);
        w.core.mark_synced();
        w.set(1, Some(1));
        w.run(|| false);
        w.set(1, None);
        assert_eq!(w.run(|| false), 0);
        assert_eq!(w.core.deadline(), Some(w.now + delay));
        w.set(1, Some(1));
        assert_eq!(w.run(|| false), 0, "wanted again before it was gone");
        assert_eq!(w.core.deadline(), None);
        w.set(1, None);
        w.run(|| false);
        w.now += delay;
        assert_eq!(w.run(|| false), 1);
        assert!(w.real.is_empty());
    }

    #[test]
    fn failure_backs_off_and_a_new_wish_is_tried_at_once() {
        let mut w = World::new(Duration::ZERO, &[]);
        w.set(1, Some(1));
        let mut delays = Vec::new();
        for _ in 0..3 {
            assert_eq!(w.run(|| true), 1);
            let at = w.core.deadline().unwrap();
            delays.push((at - w.now).as_millis());
            w.now = at;
        }
        assert_eq!(delays, [50, 100, 200]);
        assert_eq!(w.core.counts(), Counts { done: 0, pending: 0, failed: 1 });
        w.now -= Duration::from_millis(1);
        w.set(1, Some(2));
        assert_eq!(w.run(|| false), 1);
        assert_eq!(w.core.deadline(), None);
        assert_eq!(w.core.counts(), Counts { done: 1, pending: 0, failed: 0 });
    }

    #[test]
    fn backoff_is_bounded() {
        let b = Backoff::default();
        assert_eq!(b.delay(1), b.first);
        assert_eq!(b.delay(u32::MAX), b.most);
    }

    mod converges {
        use super::*;
        use proptest::prelude::*;

        #[derive(Debug, Clone)]
        enum Event {
            Set(u8, u8),
            Delete(u8),
            Run,
            Sleep(u16),
            Sync,
        }

        fn event() -> impl Strategy<Value = Event> {
            prop_oneof![
                4 => (0u8..6, 0u8..3).prop_map(|(k, v)| Event::Set(k, v)),
                2 => (0u8..6).prop_map(Event::Delete),
                3 => Just(Event::Run),
                2 => (0u16..2000).prop_map(Event::Sleep),
                1 => Just(Event::Sync),
            ]
        }

        proptest! {
            /// Whatever changes and fails on the way: once failures stop, what is real becomes what is desired; before
            /// the inputs are synced nothing is deleted; a status never says done of a row that is not.
            #[test]
            fn after_random_changes_and_failures(
                real in proptest::collection::btree_map(0u8..6, 0u8..3, 0..4),
                events in proptest::collection::vec(event(), 0..60),
                fails in proptest::collection::vec(any::<bool>(), 64),
                delay_ms in prop_oneof![Just(0u64), 1u64..500],
            ) {
                let start: Vec<(u8, u8)> = real.iter().map(|(k, v)| (*k, *v)).collect();
                let mut w = World::new(Duration::from_millis(delay_ms), &start);
                let mut fail = fails.into_iter().cycle();
                for e in events {
                    match e {
                        Event::Set(k, v) => w.set(k, Some(v)),
                        Event::Delete(k) => w.set(k, None),
                        Event::Sleep(ms) => w.now += Duration::from_millis(u64::from(ms)),
                        Event::Sync => w.core.mark_synced(),
                        Event::Run => {
                            w.run(|| fail.next().unwrap_or(false));
                        }
                    }
                    if !w.core.synced {
                        prop_assert!(start.iter().all(|(k, _)| w.real.contains_key(k)));
                    }
                    for k in 0..6 {
                        if w.core.status(&k) == Some(RowStatus::Done) {
                            prop_assert_eq!(w.desired.get(&k).map(|v| **v), w.real.get(&k).copied());
                        }
                    }
                }
                w.core.mark_synced();
                w.run(|| false);
                while let Some(at) = w.core.deadline() {
                    w.now = w.now.max(at);
                    w.run(|| false);
                }
                let desired: BTreeMap<u8, u8> = w.desired.iter().map(|(k, v)| (*k, **v)).collect();
                prop_assert_eq!(&w.real, &desired);
                prop_assert_eq!(w.core.counts(), Counts { done: desired.len(), pending: 0, failed: 0 });
            }
        }
    }
}
