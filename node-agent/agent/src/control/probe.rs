//! When to probe which remote backend, and what the answers mean. Sans-I/O: no socket, no clock. The services controller
//! says what to watch, `realize::probe` is the shell that connects and tells the answers.
//!
//! # How soon a death is known
//! With interval `I`, timeout `T` and a budget of `B` probes a second, a target is probed every
//! `R = max(I, 1.25 N / B)`, with `N` the number of targets: a fifth of the budget is kept for confirmations. A target
//! that fails a probe is probed again `I` after that one began, and [`MISSES`] = 2 failures make it dead. The worst case
//! is a backend that dies as soon as it has answered: `R` until the next probe begins, `I` until the second, `T` until
//! that one is given up: `R + I + T`. With the defaults (750 ms, 600 ms, 500/s) that is 750 + 750 + 600 = 2,100 ms for up
//! to 300 targets; it stays below 3 s for up to 660. If all die at once, confirmations and first probes share the budget
//! from `I` on, so that 800 a second are due where 500 may go and the last first probe begins `0.6 (R - I)` late:
//! `R + 0.6 (R - I) + I + T`, which is below 3 s for up to 520 targets. A node that watches 10,000 probes each every 25 s.
//!
//! # What a probe cannot know
//! It asks from the host's address. Where the other cluster's network policy keeps that away from a pod, the pod counts
//! as dead here: it then serves only where nobody else does, and its row says why.
//!
//! # What it costs
//! Each node asks for itself, since each has its own way to the backend: one that `n` nodes use gets `n / R` handshakes a
//! second. Where that is too much, `--clustermesh-probe-interval` is the remedy.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use causeway_datapath_loader::Proto;

use crate::intent::mesh::{Health, Target};

/// Failures in a row that make a target dead.
pub(crate) const MISSES: u8 = 2;

/// Answers in a row that bring a dead target back.
pub(crate) const ANSWERS: u8 = 2;

/// The shell wakes with the timer's granularity of 1 ms and may be late: what it missed within this time it catches up.
const BURST: Duration = Duration::from_millis(10);

/// How a target is watched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Watched {
    /// That it lives must be said too; else only that it is dead.
    pub(crate) proof: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    /// From the beginning of a probe to that of the next one of the same target, where the budget allows.
    pub(crate) interval: Duration,
    /// How long an answer may take.
    pub(crate) timeout: Duration,
    /// Probes a second, of all targets together; at least 1.
    pub(crate) budget: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { interval: Duration::from_millis(750), timeout: Duration::from_millis(600), budget: 500 }
    }
}

/// A probe that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) target: Target,
    ticket: u64,
}

/// What came of connecting to a target's address and port by TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepted,
    /// RST: the host is there, the port is not.
    Refused,
    Unreachable,
    /// Nothing within the timeout.
    Silence,
    /// The probe could not be sent for a reason of this host: it says nothing of the target.
    Unsent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// Watch the target from the next [`Input::Tick`] on, or in this way from now on.
    Watch(Target, Watched),
    Forget(Target),
    Answered(Probe, Answer),
    /// Time has passed.
    Tick,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// Begin this probe now.
    Start(Probe),
    /// The target's row is this one from now on.
    Publish(Target, Option<Health>),
}

/// What was done since the start, and what there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) targets: usize,
    /// Targets that are dead now.
    pub(crate) dead: usize,
    /// Probes begun.
    pub(crate) probes: u64,
    /// Probes after which the target lives. One whose target has gone meanwhile counts as begun only.
    pub(crate) answered: u64,
    /// Probes that failed.
    pub(crate) failures: u64,
    /// Probes that could not be sent.
    pub(crate) unsent: u64,
    /// Transitions from alive or unknown to dead.
    pub(crate) died: u64,
    /// Transitions from dead to alive.
    pub(crate) recovered: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// No probe has ended yet, or none but failures fewer than it takes.
    Unknown,
    Alive,
    /// With the reason of the failure that decided.
    Dead(Reason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Refused,
    Unreachable,
    Silence,
}

/// When the next probe begins, or which one is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It has no place in the interval yet.
    Fresh,
    At(Instant),
    Running {
        ticket: u64,
        since: Instant,
    },
}

#[derive(Debug)]
struct State {
    watched: Watched,
    verdict: Verdict,
    /// Results in a row that speak against the verdict.
    against: u8,
    next: Next,
    /// `alive` of the published row.
    published: Option<bool>,
}

/// The prober's core. Contract: [`Prober::handle`], then [`Prober::poll_output`] until it is empty, and
/// [`Input::Tick`] at [`Prober::deadline`].
#[derive(Debug)]
pub(crate) struct Prober {
    settings: Settings,
    targets: BTreeMap<Target, State>,
    /// New targets, and since when there are any: they are spread over the interval when all have been told.
    fresh: Vec<Target>,
    fresh_since: Option<Instant>,
    /// Of the other targets without a running probe.
    due: BTreeSet<(Instant, Target)>,
    outputs: VecDeque<Output>,
    /// The budget allows no probe before this.
    earliest: Option<Instant>,
    running: usize,
    tickets: u64,
    /// Targets watched since the start: each begins at another phase.
    phases: u32,
    counts: Counts,
}

impl Prober {
    pub(crate) fn new(settings: Settings) -> Prober {
        Prober {
            settings: Settings { budget: settings.budget.max(1), ..settings },
            targets: BTreeMap::new(),
            fresh: Vec::new(),
            fresh_since: None,
            due: BTreeSet::new(),
            outputs: VecDeque::new(),
            earliest: None,
            running: 0,
            tickets: 0,
            phases: 0,
            counts: Counts::default(),
        }
    }

    pub(crate) fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Watch(target, watched) => self.watch(now, target, watched),
            Input::Forget(target) => self.forget(target),
            Input::Answered(probe, answer) => self.answered(now, probe, answer),
            Input::Tick => {
                self.spread(now);
                self.start(now);
            }
        }
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.fresh_since.into_iter().chain(self.next_start()).min()
    }

    /// Everything that is watched.
    pub(crate) fn targets(&self) -> impl Iterator<Item = Target> {
        self.targets.keys().copied()
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts { targets: self.targets.len(), ..self.counts }
    }

    fn watch(&mut self, now: Instant, target: Target, watched: Watched) {
        if let Some(state) = self.targets.get_mut(&target) {
            state.watched = watched;
            return self.publish(target);
        }
        let state = State { watched, verdict: Verdict::Unknown, against: 0, next: Next::Fresh, published: None };
        self.targets.insert(target, state);
        self.fresh.push(target);
        self.fresh_since.get_or_insert(now);
    }

    /// Gives new targets their place in the interval.
    fn spread(&mut self, now: Instant) {
        let routine = self.routine();
        for target in self.fresh.drain(..) {
            // It may have left, and even come back, since.
            let Some(state) = self.targets.get_mut(&target).filter(|s| s.next == Next::Fresh) else { continue };
            // Multiples of the golden ratio, taken modulo 1, are spread evenly however many there are.
            self.phases = self.phases.wrapping_add(0x9e37_79b9);
            let at = now + routine.mul_f64(f64::from(self.phases) / f64::from(u32::MAX));
            state.next = Next::At(at);
            self.due.insert((at, target));
        }
        self.fresh_since = None;
    }

    fn forget(&mut self, target: Target) {
        let Some(state) = self.targets.remove(&target) else { return };
        if let Next::At(at) = state.next {
            self.due.remove(&(at, target));
        }
        self.counts.dead -= usize::from(matches!(state.verdict, Verdict::Dead(_)));
        if state.published.is_some() {
            self.outputs.push_back(Output::Publish(target, None));
        }
    }

    /// When the budget and the probes that run allow the next one.
    fn next_start(&self) -> Option<Instant> {
        let (at, _) = self.due.first()?;
        (self.running < self.most_running()).then(|| self.earliest.map_or(*at, |earliest| earliest.max(*at)))
    }

    /// Begins what is due, as far as the budget goes.
    fn start(&mut self, now: Instant) {
        while let Some(at) = self.next_start().filter(|at| *at <= now) {
            let Some((_, target)) = self.due.pop_first() else { return };
            self.tickets += 1;
            self.running += 1;
            self.counts.probes += 1;
            let floor = now.checked_sub(BURST).unwrap_or(at);
            self.earliest = Some(self.earliest.map_or(now, |earliest| earliest.max(floor)) + self.gap());
            if let Some(state) = self.targets.get_mut(&target) {
                state.next = Next::Running { ticket: self.tickets, since: now };
            }
            self.outputs.push_back(Output::Start(Probe { target, ticket: self.tickets }));
        }
    }

    fn answered(&mut self, now: Instant, probe: Probe, answer: Answer) {
        self.running = self.running.saturating_sub(1);
        let Probe { target, ticket } = probe;
        let routine = self.routine();
        let Some(state) = self.targets.get_mut(&target) else { return };
        // The target may have left and come back since.
        let Next::Running { ticket: current, since } = state.next else { return };
        if current != ticket {
            return;
        }
        match failure(target.proto, answer) {
            Ok(()) => state.passed(&mut self.counts),
            Err(Some(reason)) => state.failed(reason, &mut self.counts),
            Err(None) => self.counts.unsent += 1,
        }
        let pause = if state.against > 0 { self.settings.interval } else { routine };
        let at = (since + pause).max(now);
        state.next = Next::At(at);
        self.due.insert((at, target));
        self.publish(target);
    }

    fn publish(&mut self, target: Target) {
        let timeout = self.settings.timeout;
        let Some(state) = self.targets.get_mut(&target) else { return };
        let alive = match state.verdict {
            Verdict::Dead(_) => Some(false),
            Verdict::Alive if state.watched.proof => Some(true),
            Verdict::Alive | Verdict::Unknown => None,
        };
        if alive != state.published {
            state.published = alive;
            let health = alive.map(|alive| Health { alive, reason: state.verdict.reason(timeout) });
            self.outputs.push_back(Output::Publish(target, health));
        }
    }

    /// From one probe to the next of a target about which there is no doubt.
    fn routine(&self) -> Duration {
        let targets = u32::try_from(self.targets.len()).unwrap_or(u32::MAX);
        self.settings.interval.max(self.gap().saturating_mul(targets) * 5 / 4)
    }

    /// From one probe to the next of any target.
    fn gap(&self) -> Duration {
        Duration::from_secs(1) / self.settings.budget
    }

    /// Probes that can run at once when none is answered. More would mean that the shell tells no answers.
    fn most_running(&self) -> usize {
        let most = (self.settings.timeout + BURST).as_nanos() / self.gap().as_nanos().max(1);
        usize::try_from(most).unwrap_or(usize::MAX).saturating_add(1)
    }
}

impl State {
    fn passed(&mut self, counts: &mut Counts) {
        counts.answered += 1;
        self.against = match self.verdict {
            Verdict::Unknown | Verdict::Alive => 0,
            Verdict::Dead(_) => self.against + 1,
        };
        match self.verdict {
            Verdict::Unknown => self.verdict = Verdict::Alive,
            Verdict::Dead(_) if self.against >= ANSWERS => {
                self.against = 0;
                self.verdict = Verdict::Alive;
                counts.recovered += 1;
                counts.dead -= 1;
            }
            Verdict::Alive | Verdict::Dead(_) => {}
        }
    }

    fn failed(&mut self, reason: Reason, counts: &mut Counts) {
        counts.failures += 1;
        self.against = match self.verdict {
            Verdict::Unknown | Verdict::Alive => self.against + 1,
            Verdict::Dead(_) => 0,
        };
        if self.against >= MISSES {
            self.against = 0;
            self.verdict = Verdict::Dead(reason);
            counts.died += 1;
            counts.dead += 1;
        }
    }
}

impl Verdict {
    fn reason(self, timeout: Duration) -> Box<str> {
        match self {
            Verdict::Unknown | Verdict::Alive => "".into(),
            Verdict::Dead(Reason::Refused) => "connection refused".into(),
            Verdict::Dead(Reason::Unreachable) => "no way to the host".into(),
            Verdict::Dead(Reason::Silence) => format!("no answer within {} ms", timeout.as_millis()).into(),
        }
    }
}

/// What an answer means: `Err(None)` is nothing. Nobody can ask a UDP port; there, a host that refuses TCP lives.
fn failure(proto: Proto, answer: Answer) -> Result<(), Option<Reason>> {
    match (answer, proto) {
        (Answer::Accepted, _) | (Answer::Refused, Proto::Udp) => Ok(()),
        (Answer::Refused, Proto::Tcp | Proto::Sctp) => Err(Some(Reason::Refused)),
        (Answer::Unreachable, _) => Err(Some(Reason::Unreachable)),
        (Answer::Silence, _) => Err(Some(Reason::Silence)),
        (Answer::Unsent, _) => Err(None),
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
