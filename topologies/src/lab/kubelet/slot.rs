//! One container of a pod as its worker holds it: the view that is reported, and what drives it (back-off, probes).

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::container::Launch;
use super::probe::{self, Kind, Target};
use super::record::{ContainerRecord, Run};
use super::report::{self, Ended, Life, RestartPolicy};
use crate::process::ProcessId;
use crate::state::now;

/// The first restart is at once, the second after the first of these; it doubles up to the second.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MOST: Duration = Duration::from_secs(30);
/// A container that has run this long has recovered.
const RECOVERED_AFTER: Duration = Duration::from_secs(60);

/// What tasks tell the worker. `run` counts the starts of a container, so that news of an earlier run is known as such.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) container: String,
    pub(crate) run: u64,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Ended {
        code: i32,
    },
    Probed {
        kind: Kind,
        ok: bool,
        why: String,
    },
    /// The `preStop` hook is done.
    Hooked,
}

pub(crate) struct Slot {
    pub(crate) spec: Container,
    pub(crate) view: report::Container,
    pub(crate) init: bool,
    pub(crate) run: u64,
    /// When it is to be started, unless it runs or is over.
    pub(crate) start_at: Option<Instant>,
    begun: Instant,
    backoff: Duration,
    probes: Vec<AbortHandle>,
}

impl Slot {
    fn new(spec: Container, init: bool) -> Self {
        let view = report::Container {
            name: spec.name.clone(),
            image: spec.image.clone().unwrap_or_default(),
            restarts: 0,
            run: Life::Waiting {
                reason: if init { "PodInitializing" } else { "ContainerCreating" },
                message: String::new(),
            },
            last: None,
            ready: false,
            started: false,
        };
        let now = Instant::now();
        Self { spec, view, init, run: 0, start_at: Some(now), begun: now, backoff: Duration::ZERO, probes: Vec::new() }
    }

    /// Init containers, then the others.
    pub(crate) fn all(pod: &Pod) -> Vec<Self> {
        let Some(spec) = &pod.spec else { return Vec::new() };
        let init = spec.init_containers.iter().flatten().map(|container| Self::new(container.clone(), true));
        init.chain(spec.containers.iter().map(|container| Self::new(container.clone(), false))).collect()
    }

    pub(crate) fn process(&self) -> Option<ProcessId> {
        match self.view.run {
            Life::Running { process, .. } => Some(process),
            _ => None,
        }
    }

    pub(crate) fn succeeded(&self) -> bool {
        matches!(&self.view.run, Life::Ended(ended) if ended.code == 0)
    }

    /// It runs now.
    pub(crate) fn started(&mut self, process: ProcessId) {
        if let Life::Ended(ended) = &self.view.run {
            self.view.last = Some(ended.clone());
        }
        self.view.run = Life::Running { process, started: now() };
        self.view.ready = self.spec.readiness_probe.is_none();
        self.view.started = self.spec.startup_probe.is_none();
        self.begun = Instant::now();
        self.start_at = None;
    }

    /// It has ended. With `restart`, it will be started again, at once or after the back-off.
    pub(crate) fn ended(&mut self, code: i32, restart: bool) {
        self.stop_probes();
        let started = match &self.view.run {
            Life::Running { started, .. } => started.clone(),
            _ => now(),
        };
        let ended = Ended { code, started, finished: now() };
        self.view.ready = false;
        self.view.started = false;
        self.view.run = Life::Ended(ended);
        if restart {
            if self.begun.elapsed() > RECOVERED_AFTER {
                self.backoff = Duration::ZERO;
            }
            self.view.restarts += 1;
            self.back_off("CrashLoopBackOff", &format!("exit code {code}"));
        }
    }

    /// Whether it is started again after such an end. Init containers are only ever repeated until they succeed.
    pub(crate) fn restarts(&self, code: i32, policy: RestartPolicy) -> bool {
        if self.init { code != 0 && policy != RestartPolicy::Never } else { policy.restarts(code) }
    }

    /// After adoption: its last run ended, and what follows from it was left undone.
    pub(crate) fn start_again(&mut self, code: i32, policy: RestartPolicy) {
        if self.restarts(code, policy) {
            self.start_at = Some(Instant::now());
        }
    }

    /// It could not be started.
    pub(crate) fn refused(&mut self, reason: &'static str, message: &str) {
        self.backoff = self.backoff.max(BACKOFF_FIRST);
        self.back_off(reason, message);
    }

    fn back_off(&mut self, reason: &'static str, message: &str) {
        self.start_at = Some(Instant::now() + self.backoff);
        if !self.backoff.is_zero() {
            if let Life::Ended(ended) = &self.view.run {
                self.view.last = Some(ended.clone());
            }
            self.view.run =
                Life::Waiting { reason, message: format!("{message}; next try in {} s", self.backoff.as_secs()) };
        }
        self.backoff = (self.backoff * 2).clamp(BACKOFF_FIRST, BACKOFF_MOST);
    }

    /// What to write down; `None` for one that was never started.
    pub(crate) fn record(&self) -> Option<ContainerRecord> {
        let ended = |ended: &Ended| Run::Ended {
            code: ended.code,
            started: ended.started.clone(),
            finished: ended.finished.clone(),
        };
        let run = match (&self.view.run, &self.view.last) {
            (Life::Running { process, started }, _) => Run::Running { process: *process, started: started.clone() },
            (Life::Ended(last), _) | (Life::Waiting { .. }, Some(last)) => ended(last),
            (Life::Waiting { .. }, None) => return None,
        };
        Some(ContainerRecord { name: self.view.name.clone(), init: self.init, restarts: self.view.restarts, run })
    }

    /// Takes over what an earlier kubelet wrote down. Readiness stays as the API has it until probes say otherwise.
    pub(crate) fn adopt(&mut self, record: &ContainerRecord, pod: &Pod) {
        self.view.restarts = record.restarts;
        match &record.run {
            Run::Running { process, started } => {
                let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
                let before = statuses.into_iter().find(|status| status.name == self.view.name);
                self.view.run = Life::Running { process: *process, started: started.clone() };
                self.view.ready = self.spec.readiness_probe.is_none() || before.is_some_and(|status| status.ready);
                self.view.started =
                    self.spec.startup_probe.is_none() || before.is_some_and(|status| status.started == Some(true));
                self.start_at = None;
            }
            Run::Ended { code, started, finished } => {
                self.view.run =
                    Life::Ended(Ended { code: *code, started: started.clone(), finished: finished.clone() });
                self.start_at = None;
            }
        }
    }

    /// Starts the probes that are due: startup alone, then the other two.
    pub(crate) fn start_probes(&mut self, target: &Target, news: &UnboundedSender<News>) {
        self.stop_probes();
        let due: Vec<(Kind, Option<k8s_openapi::api::core::v1::Probe>)> = if self.view.started {
            vec![
                (Kind::Readiness, self.spec.readiness_probe.clone()),
                (Kind::Liveness, self.spec.liveness_probe.clone()),
            ]
        } else {
            vec![(Kind::Startup, self.spec.startup_probe.clone())]
        };
        for (kind, probe) in due {
            let Some(probe) = probe else { continue };
            let (news, target) = (news.clone(), target.clone());
            let (container, run) = (self.view.name.clone(), self.run);
            let changed = move |ok: bool, why: String| {
                // Nobody listens when the pod has just gone.
                let _ = news.send(News { container: container.clone(), run, what: What::Probed { kind, ok, why } });
            };
            self.probes.push(tokio::spawn(probe::run(probe, kind, target, changed)).abort_handle());
        }
    }

    #[cfg(test)]
    fn backoff_s(&self) -> u64 {
        self.backoff.as_secs()
    }

    fn stop_probes(&mut self) {
        for probe in self.probes.drain(..) {
            probe.abort();
        }
    }

    /// Whom its probes and hooks ask; commands run as the container itself does.
    pub(crate) fn target(&self, address: std::net::IpAddr, launch: &Launch) -> Target {
        Target { address, launch: launch.clone(), ports: Target::ports(&self.spec) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.stop_probes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        Slot::new(Container { name: "c".into(), ..Container::default() }, false)
    }

    #[tokio::test(start_paused = true)]
    async fn back_off_doubles_and_is_forgotten_only_by_a_long_run() {
        let mut slot = slot();
        let me = ProcessId::of(std::process::id()).unwrap();
        let mut delays = Vec::new();
        for _ in 0..4 {
            slot.started(me);
            slot.ended(1, true);
            delays.push(slot.start_at.unwrap().duration_since(Instant::now()).as_secs());
        }
        assert_eq!(delays, [0, 1, 2, 4]);
        slot.started(me);
        tokio::time::advance(RECOVERED_AFTER * 2).await;
        slot.ended(1, true);
        assert_eq!(slot.start_at, Some(Instant::now()), "it had recovered");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_started_is_tried_ever_more_rarely() {
        let mut slot = slot();
        tokio::time::advance(RECOVERED_AFTER * 2).await;
        for _ in 0..8 {
            slot.refused("RunContainerError", "no such file");
            assert!(slot.start_at.unwrap() > Instant::now(), "at least a second");
        }
        assert_eq!((slot.backoff_s(), slot.view.restarts), (BACKOFF_MOST.as_secs(), 0));
    }
}
