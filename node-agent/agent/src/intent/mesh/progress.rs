//! Which remote changes have reached the maps, and how long they took. Kept per cluster for the status, and one by one
//! for who measures, while that is switched on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use causeway_api::mesh::{MeshEvent, MeshTrace};
use nix::time::{ClockId, clock_gettime};

use super::latency::Latency;
use crate::control::ipcache::prefix::Prefix;
use crate::intent::Key;

/// Services whose changes wait for their rows, and changes of one that wait together; more are not measured.
const MAX_PENDING: usize = 4096;
const MAX_TOGETHER: usize = 64;

/// A change that has had no effect on any row for so long will have none.
const PENDING_FOR: Duration = Duration::from_secs(60);

/// Events that are kept for who reads the trace: a minute at a thousand changes a second.
const MAX_EVENTS: usize = 65_536;

/// A change of a Service's backends that is on its way to the maps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) cluster: u16,
    pub(crate) revision: u64,
    pub(crate) received: Instant,
    /// How old it was by the other cluster's clock when it arrived, if it says.
    pub(crate) age: Option<Duration>,
}

/// Of one cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latencies {
    /// From the watch's event to the map.
    pub(crate) ip: Latency,
    pub(crate) services: Latency,
    /// From the change in the other cluster, by its clock.
    pub(crate) trigger: Latency,
}

/// Written from the intake of each cluster and from the tasks that write the maps; each lock is held for a few
/// instructions.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    latencies: Mutex<BTreeMap<u16, Latencies>>,
    pending: Mutex<BTreeMap<(Key, u16), Vec<Pending>>>,
    tracing: AtomicBool,
    trace: Mutex<Trace>,
    pub(crate) upserts: AtomicU64,
    pub(crate) deletes: AtomicU64,
    /// Writes that found the map as it should be: after a restart.
    pub(crate) unchanged: AtomicU64,
    /// Why a write of the last batch failed; empty when none did.
    error: Mutex<String>,
}

#[derive(Debug, Default)]
struct Trace {
    events: VecDeque<Event>,
    /// Number of the first one.
    first: u64,
}

#[derive(Debug, Clone)]
struct Event {
    name: Name,
    cluster: u16,
    revision: u64,
    at_ns: u64,
    written: bool,
}

#[derive(Debug, Clone)]
enum Name {
    Ip(Prefix),
    Service(Key),
}

impl Progress {
    /// An address is in the map as its cluster says; `written`: that took a write.
    pub(crate) fn ip(&self, cluster: u16, prefix: Prefix, revision: u64, received: Option<Instant>, written: bool) {
        if let Some(received) = received {
            lock(&self.latencies).entry(cluster).or_default().ip.observe(received.elapsed());
            self.record(cluster, revision, written, || Name::Ip(prefix));
        }
    }

    /// A Service's backends changed; its rows follow.
    pub(crate) fn service_changed(&self, service: &Key, change: Pending) {
        let mut pending = lock(&self.pending);
        if pending.len() >= MAX_PENDING {
            pending.retain(|_, all| all.iter().any(|p| p.received.elapsed() < PENDING_FOR));
        }
        if pending.len() < MAX_PENDING {
            let of_service = pending.entry((service.clone(), change.cluster)).or_default();
            if of_service.len() == MAX_TOGETHER {
                of_service.remove(0);
            }
            of_service.push(change);
        }
    }

    /// A Service's entry came with another revision and the same backends.
    pub(crate) fn service_unchanged(&self, service: &Key, change: Pending) {
        self.record(change.cluster, change.revision, false, || Name::Service(service.clone()));
    }

    /// A row of the Service is in the maps; `seen` is when the newest of what it is made of arrived. The first row of a
    /// Service with several stands for all.
    pub(crate) fn service_written(&self, service: &Key, seen: Instant) {
        let mut done = Vec::new();
        {
            let mut pending = lock(&self.pending);
            if pending.is_empty() {
                return;
            }
            let mut over = Vec::new();
            for (key, waiting) in pending.range_mut((service.clone(), 0)..=(service.clone(), u16::MAX)) {
                done.extend(waiting.extract_if(.., |p| p.received <= seen));
                if waiting.is_empty() {
                    over.push(key.clone());
                }
            }
            for key in over {
                pending.remove(&key);
            }
        }
        for p in done {
            let took = p.received.elapsed();
            let mut latencies = lock(&self.latencies);
            let of_cluster = latencies.entry(p.cluster).or_default();
            of_cluster.services.observe(took);
            if let Some(age) = p.age {
                of_cluster.trigger.observe(age + took);
            }
            drop(latencies);
            self.record(p.cluster, p.revision, true, || Name::Service(service.clone()));
        }
    }

    /// How the last batch of writes ended; empty: well.
    pub(crate) fn set_error(&self, error: String) {
        let mut last = lock(&self.error);
        if *last != error {
            if !error.is_empty() {
                tracing::warn!(error, "remote addresses not programmed, trying again");
            }
            *last = error;
        }
    }

    pub(crate) fn error(&self) -> String {
        lock(&self.error).clone()
    }

    pub(crate) fn forget(&self, cluster: u16) {
        lock(&self.latencies).remove(&cluster);
        lock(&self.pending).retain(|(_, c), _| *c != cluster);
    }

    pub(crate) fn latencies(&self, cluster: u16) -> Latencies {
        lock(&self.latencies).get(&cluster).cloned().unwrap_or_default()
    }

    /// Switches the recording; what was recorded before is dropped.
    pub(crate) fn switch(&self, on: bool) {
        if self.tracing.swap(on, Ordering::Relaxed) != on {
            let mut trace = lock(&self.trace);
            trace.first += trace.events.len() as u64;
            trace.events = VecDeque::new();
        }
    }

    /// Events from number `from` on.
    pub(crate) fn trace(&self, from: u64, most: usize) -> MeshTrace {
        let trace = lock(&self.trace);
        let lost = trace.first.saturating_sub(from);
        let skip = usize::try_from(from.saturating_sub(trace.first)).unwrap_or(usize::MAX);
        let events: Vec<MeshEvent> = trace.events.iter().skip(skip).take(most).map(Event::told).collect();
        MeshTrace {
            enabled: self.tracing.load(Ordering::Relaxed),
            next: from.max(trace.first) + events.len() as u64,
            lost,
            events,
        }
    }

    fn record(&self, cluster: u16, revision: u64, written: bool, name: impl FnOnce() -> Name) {
        if !self.tracing.load(Ordering::Relaxed) {
            return;
        }
        let event = Event { name: name(), cluster, revision, at_ns: monotonic_ns(), written };
        let mut trace = lock(&self.trace);
        if trace.events.len() == MAX_EVENTS {
            trace.events.pop_front();
            trace.first += 1;
        }
        trace.events.push_back(event);
    }
}

impl Event {
    fn told(&self) -> MeshEvent {
        let (kind, name) = match &self.name {
            Name::Ip(prefix) => ("ip", prefix.to_string()),
            Name::Service(key) => ("services", key.to_string()),
        };
        MeshEvent {
            kind: kind.into(),
            name,
            cluster: self.cluster,
            revision: self.revision,
            at_ns: self.at_ns,
            written: self.written,
        }
    }
}

/// 0 if the clock cannot be read, which Linux does not know.
fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .ok()
        .and_then(|t| u64::try_from(Duration::from(t).as_nanos()).ok())
        .unwrap_or(0)
}

/// Nothing that holds one of the locks can stop halfway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ipcache::prefix::v4;

    #[test]
    fn the_trace_costs_nothing_until_it_is_on_and_forgets_the_oldest() {
        let progress = Progress::default();
        let now = Instant::now();
        progress.ip(2, v4(10, 2, 0, 1), 7, Some(now), true);
        assert_eq!(progress.trace(0, 10).events, []);
        progress.switch(true);
        for n in 0..MAX_EVENTS as u64 + 5 {
            progress.ip(2, v4(10, 2, 0, 1), n, Some(now), true);
        }
        progress.ip(2, v4(10, 2, 0, 1), 1, None, true);
        let trace = progress.trace(0, 2);
        assert_eq!((trace.lost, trace.next, trace.events[0].revision), (5, 7, 5));
        assert_eq!(trace.events[0].name, "10.2.0.1");
        assert!(trace.events[0].at_ns > 0);
        assert_eq!(progress.trace(trace.next, 10).events[0].revision, 7);
        progress.switch(false);
        assert_eq!(progress.trace(0, 10).events, []);
        assert_eq!(progress.latencies(2).ip.count(), MAX_EVENTS as u64 + 6);
    }

    #[test]
    fn a_service_is_measured_when_a_row_has_the_change() {
        let progress = Progress::default();
        progress.switch(true);
        let key = Key::new("shop", "web");
        let start = Instant::now();
        let received = start + Duration::from_millis(1);
        let pending = |cluster, age| Pending { cluster, revision: 9, received, age };
        progress.service_changed(&key, pending(2, Some(Duration::from_secs(1))));
        progress.service_changed(&key, pending(3, None));
        progress.service_written(&key, start);
        assert_eq!(progress.latencies(2).services.count(), 0, "that row is older");
        progress.service_written(&Key::new("shop", "other"), received);
        progress.service_written(&key, received);
        progress.service_written(&key, received);
        let (two, three) = (progress.latencies(2), progress.latencies(3));
        assert_eq!((two.services.count(), two.trigger.count()), (1, 1));
        assert_eq!((three.services.count(), three.trigger.count()), (1, 0));
        assert_eq!(progress.trace(0, 10).events.len(), 2);
        progress.forget(2);
        assert_eq!(progress.latencies(2).services.count(), 0);
    }
}
