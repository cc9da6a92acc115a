//! The life of one pod: sandbox, init containers, containers, probes, graceful end.
//!
//! One task per pod owns all of it. Each turn of its loop does what can be done now, reports the status when it has
//! changed, and then waits for one of: the API wants something else, a container or probe has news, a deadline.
//! Everything that it awaits in the loop may be dropped and awaited again.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::container::{self, Launch, UNKNOWN_EXIT};
use super::environment;
use super::events::Kind as EventKind;
use super::probe::{self, Kind};
use super::record::{self, Run};
use super::report::{self, Facts, Life, RestartPolicy};
use super::slot::{News, Slot, What};
use super::{Kubelet, PodRecord, Wanted, resolver, sandbox};
use crate::process;
use crate::state::{now, write_whole};

/// Between tries of what depends on others (CNI, the API); doubles from the first to the second.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(5);
/// A pod without a deadline.
const FAR: Duration = Duration::from_secs(3600);
/// Of a pod that nobody wants any more, after a restart of the kubelet.
const REMAINS_GRACE: Duration = Duration::from_secs(2);

struct Worker {
    kubelet: Arc<Kubelet>,
    wanted: watch::Receiver<Wanted>,
    pod: Arc<Pod>,
    record: PodRecord,
    slots: Vec<Slot>,
    news: UnboundedReceiver<News>,
    sender: UnboundedSender<News>,
    sandbox: Sandbox,
    reported: Option<PodStatus>,
    stopping: Option<Stopping>,
}

enum Sandbox {
    Wanted { try_at: Instant, retry: Duration },
    Ready,
    Removed,
}

struct Stopping {
    began: Instant,
    deadline: Instant,
    killed: bool,
}

/// Runs a pod until its object is gone. With a record, adopts what runs already.
pub(crate) async fn run(kubelet: Arc<Kubelet>, mut wanted: watch::Receiver<Wanted>, record: Option<PodRecord>) {
    let pod = wanted.borrow_and_update().pod.clone();
    let (sender, news) = mpsc::unbounded_channel();
    let adopted = record.is_some();
    let record = record.unwrap_or_else(|| new_record(&kubelet, &pod));
    let ready = record.host_network || record.cni_result.is_some();
    let sandbox = if ready { Sandbox::Ready } else { Sandbox::Wanted { try_at: Instant::now(), retry: RETRY_FIRST } };
    let slots = Slot::all(&pod);
    let mut worker =
        Worker { kubelet, wanted, pod, record, slots, news, sender, sandbox, reported: None, stopping: None };
    if adopted {
        worker.adopt();
        worker.adopt_sandbox().await;
    }
    worker.live().await;
    worker.tear_down().await;
}

/// Ends and removes what a pod left that no longer exists in the API.
pub(crate) async fn remove_remains(kubelet: Arc<Kubelet>, record: PodRecord) {
    let processes = record.processes();
    let _ = tokio::task::spawn_blocking(move || process::end(&processes, REMAINS_GRACE)).await;
    remove_sandbox(&kubelet, &record, None).await;
    record.remove(&kubelet.pods_dir());
}

fn new_record(kubelet: &Kubelet, pod: &Pod) -> PodRecord {
    let options = &kubelet.options;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    let name = if host_network {
        format!("{}-{}-{}", crate::state::NETNS_PREFIX, options.lab, options.node_name)
    } else {
        sandbox::netns_name(&options.lab, &uid)
    };
    PodRecord {
        sandbox: format!("{}-{}", options.lab, uid),
        uid,
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        node: options.node_name.clone(),
        netns: crate::netns::path(&name),
        host_network,
        cni_result: None,
        ips: if host_network { options.node_ip.clone() } else { Vec::new() },
        started: now(),
        containers: Vec::new(),
    }
}

impl Worker {
    async fn live(&mut self) {
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            self.pod = wanted.pod.clone();
            if wanted.stop() {
                self.stop(&wanted);
            }
            let mut wake = match &self.stopping {
                None => self.advance().await,
                Some(stopping) if stopping.killed => Instant::now() + FAR,
                Some(stopping) => stopping.deadline,
            };
            let stopped = self.stopping.is_some() && self.slots.iter().all(|slot| slot.process().is_none());
            if !wanted.gone && !self.report().await {
                wake = wake.min(Instant::now() + RETRY_FIRST);
            }
            if stopped {
                return;
            }
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return },
                Some(news) = self.news.recv() => self.hear(news),
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Does what is due and returns when there is more to do.
    async fn advance(&mut self) -> Instant {
        let far = Instant::now() + FAR;
        if let Sandbox::Wanted { try_at, retry } = self.sandbox {
            if Instant::now() < try_at {
                return try_at;
            }
            if let Err(error) = sandbox::make(&self.kubelet, &mut self.record).await {
                let message = format!("{error:#}");
                warn!(pod = self.record.name, namespace = self.record.namespace, error = message, "no sandbox");
                self.event(EventKind::Warning, "FailedCreatePodSandBox", message);
                let try_at = Instant::now() + retry;
                self.sandbox = Sandbox::Wanted { try_at, retry: (retry * 2).min(RETRY_MOST) };
                return try_at;
            }
            self.sandbox = Sandbox::Ready;
        }
        let mut wake = far;
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.init && slot.succeeded() {
                continue;
            }
            if let Some(start_at) = slot.start_at {
                if start_at <= Instant::now() {
                    self.start(index).await;
                }
                wake = self.slots[index].start_at.map_or(wake, |at| wake.min(at));
            }
            if self.slots[index].init {
                // The next one waits until this one has succeeded.
                break;
            }
        }
        if self.over() && matches!(self.sandbox, Sandbox::Ready) {
            remove_sandbox(&self.kubelet, &self.record, Some(&self.pod)).await;
            self.sandbox = Sandbox::Removed;
        }
        wake
    }

    /// Every container has ended and none will be started again.
    fn over(&self) -> bool {
        let ended = |slot: &Slot| slot.start_at.is_none() && matches!(slot.view.run, Life::Ended(_));
        self.slots.iter().any(|slot| slot.init && ended(slot) && !slot.succeeded()) || self.slots.iter().all(ended)
    }

    async fn start(&mut self, index: usize) {
        let launch = match self.launch(index) {
            Ok(launch) => launch,
            Err(reason) => {
                self.event(EventKind::Warning, "Failed", format!("{}: {reason}", self.slots[index].view.name));
                self.slots[index].refused("CreateContainerConfigError", &reason);
                return;
            }
        };
        let slot = &mut self.slots[index];
        slot.run += 1;
        let (container, run, sender) = (slot.view.name.clone(), slot.run, self.sender.clone());
        let ended = move |code| {
            let _ = sender.send(News { container, run, what: What::Ended { code } });
        };
        let target = self.target(index, &launch);
        let started = tokio::task::spawn_blocking(move || container::start(launch, ended)).await;
        let slot = &mut self.slots[index];
        match started.map_err(anyhow::Error::from).and_then(|started| started) {
            Ok(process) => {
                slot.started(process);
                slot.start_probes(&target, &self.sender);
                let message = format!("started container {} as process {}", slot.view.name, process.pid);
                self.event(EventKind::Normal, "Started", message);
                self.write_down();
            }
            Err(error) => {
                let message = format!("{error:#}");
                slot.refused("RunContainerError", &message);
                self.event(EventKind::Warning, "Failed", message);
            }
        }
    }

    fn launch(&self, index: usize) -> Result<Launch, String> {
        let slot = &self.slots[index];
        let facts =
            environment::Facts { pod: &self.pod, pod_ips: &self.record.ips, host_ips: &self.kubelet.options.node_ip };
        let variables = environment::variables(&slot.spec, &facts)?;
        let argv = environment::command_line(&slot.spec, &variables)?;
        let dir = self.dir();
        std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        // It is there already after a restart.
        let _ = symlink(&dir, self.log_link());
        let bin = self.kubelet.options.cni_bin_dir.display().to_string();
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".into());
        let mut env = BTreeMap::from([
            ("PATH".to_owned(), format!("{bin}:{path}")),
            ("HOME".to_owned(), "/root".to_owned()),
            ("HOSTNAME".to_owned(), self.record.name.clone()),
        ]);
        env.extend(variables);
        Ok(Launch {
            argv,
            env,
            cwd: slot.spec.working_dir.as_ref().map_or_else(|| dir.clone(), PathBuf::from),
            log: Some(dir.join(format!("{}.log", slot.view.name))),
            netns: self.netns(),
            resolv_conf: self.resolv_conf()?,
        })
    }

    /// Writes the pod's `resolv.conf`, where it has one of its own. A file that is right already stays: it is mounted.
    fn resolv_conf(&self) -> Result<Option<PathBuf>, String> {
        let Some(text) = resolver::resolv_conf(&self.pod, &self.kubelet.dns()) else { return Ok(None) };
        let path = self.dir().join(record::RESOLV_CONF);
        if std::fs::read_to_string(&path).is_ok_and(|before| before == text) {
            return Ok(Some(path));
        }
        write_whole(&path, text.as_bytes(), 0o644).map_err(|error| format!("{error:#}"))?;
        Ok(Some(path))
    }

    /// Logs, and the working directory where the pod names none.
    fn dir(&self) -> PathBuf {
        self.record.dir(&self.kubelet.pods_dir())
    }

    /// How the API server finds the logs.
    fn log_link(&self) -> PathBuf {
        let PodRecord { namespace, name, uid, .. } = &self.record;
        self.kubelet.options.pod_log_dir.join(format!("{namespace}_{name}_{uid}"))
    }

    fn netns(&self) -> Option<PathBuf> {
        (!self.record.host_network).then(|| self.record.netns.clone())
    }

    fn target(&self, index: usize, launch: &Launch) -> probe::Target {
        let first = self.record.ips.first().or(self.kubelet.options.node_ip.first());
        let address = first.copied().unwrap_or(std::net::Ipv4Addr::LOCALHOST.into());
        self.slots[index].target(address, launch)
    }

    fn hear(&mut self, news: News) {
        let Some(index) = self.slots.iter().position(|slot| slot.view.name == news.container && slot.run == news.run)
        else {
            return;
        };
        match news.what {
            What::Ended { code } => {
                let policy = RestartPolicy::of(&self.pod);
                let slot = &mut self.slots[index];
                let again = slot.restarts(code, policy);
                slot.ended(code, again && self.stopping.is_none());
                info!(pod = self.record.name, container = slot.view.name, code, "container ended");
                if let Life::Waiting { message, .. } = &slot.view.run {
                    let message = format!("back-off restarting container {}: {message}", slot.view.name);
                    self.event(EventKind::Warning, "BackOff", message);
                }
                self.write_down();
            }
            What::Probed { kind, ok, why } => self.probed(index, kind, ok, &why),
            What::Hooked => {
                if let Some(process) = self.slots[index].process() {
                    process.signal(Signal::SIGTERM);
                }
            }
        }
    }

    fn probed(&mut self, index: usize, kind: Kind, ok: bool, why: &str) {
        if !ok {
            let message = format!("{kind:?} probe of {} failed: {why}", self.slots[index].view.name);
            self.event(EventKind::Warning, "Unhealthy", message);
        }
        match (kind, ok) {
            (Kind::Readiness, ok) => self.slots[index].view.ready = ok,
            (Kind::Startup, true) => {
                self.slots[index].view.started = true;
                if let Ok(launch) = self.launch(index) {
                    let target = self.target(index, &launch);
                    self.slots[index].start_probes(&target, &self.sender);
                }
            }
            (Kind::Liveness, true) => {}
            (Kind::Startup | Kind::Liveness, false) => {
                if let Some(process) = self.slots[index].process().filter(|_| self.stopping.is_none()) {
                    let seconds = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
                    let message = format!("container {} failed its {kind:?} probe", self.slots[index].view.name);
                    self.event(EventKind::Normal, "Killing", message);
                    let grace = Duration::from_secs(seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(30));
                    tokio::task::spawn_blocking(move || process::end(&[process], grace));
                }
            }
        }
    }

    /// Begins to stop, or shortens the grace of a stop that has begun.
    fn stop(&mut self, wanted: &Wanted) {
        let seconds = wanted.pod.metadata.deletion_grace_period_seconds.and_then(|s| u64::try_from(s).ok());
        let grace = if wanted.gone { Duration::ZERO } else { Duration::from_secs(seconds.unwrap_or(30)) };
        let first = self.stopping.is_none();
        let began = self.stopping.as_ref().map_or_else(Instant::now, |stopping| stopping.began);
        let stopping = self.stopping.get_or_insert(Stopping { began, deadline: began + grace, killed: false });
        stopping.deadline = stopping.deadline.min(stopping.began + grace);
        if Instant::now() >= stopping.deadline && !stopping.killed {
            stopping.killed = true;
            for process in self.slots.iter().filter_map(Slot::process) {
                process.signal_group(Signal::SIGKILL);
            }
        } else if first {
            self.event(EventKind::Normal, "Killing", "stopping the pod's containers".into());
            for index in 0..self.slots.len() {
                self.stop_container(index, grace);
            }
        }
    }

    /// The hook first, where there is one; then SIGTERM.
    fn stop_container(&mut self, index: usize, grace: Duration) {
        let slot = &self.slots[index];
        let Some(process) = slot.process() else { return };
        let hook = slot.spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.clone());
        let (Some(hook), Ok(launch)) = (hook, self.launch(index)) else {
            process.signal(Signal::SIGTERM);
            return;
        };
        let target = self.target(index, &launch);
        let (container, run, sender) = (slot.view.name.clone(), slot.run, self.sender.clone());
        tokio::spawn(async move {
            if let Some(exec) = hook.exec {
                let launch = Launch { argv: exec.command.unwrap_or_default(), log: None, ..launch };
                let _ = tokio::task::spawn_blocking(move || container::run_to_end(&launch, grace)).await;
            } else if let Some(sleep) = hook.sleep {
                tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
            } else if let Some(http) = hook.http_get {
                let _ = tokio::time::timeout(grace, probe::http_get(&http, &target)).await;
            }
            let _ = sender.send(News { container, run, what: What::Hooked });
        });
    }

    /// Takes over what the record says.
    fn adopt(&mut self) {
        for index in 0..self.slots.len() {
            let found = self.record.containers.iter().find(|record| record.name == self.slots[index].view.name);
            let Some(found) = found.cloned() else { continue };
            let slot = &mut self.slots[index];
            slot.adopt(&found, &self.pod);
            let (container, run, sender) = (slot.view.name.clone(), slot.run, self.sender.clone());
            match found.run {
                Run::Running { process, .. } => {
                    tokio::spawn(async move {
                        container::watch(process).await;
                        let _ = sender.send(News { container, run, what: What::Ended { code: UNKNOWN_EXIT } });
                    });
                    if let Ok(launch) = self.launch(index) {
                        let target = self.target(index, &launch);
                        self.slots[index].start_probes(&target, &self.sender);
                    }
                }
                Run::Ended { code, .. } => {
                    let policy = RestartPolicy::of(&self.pod);
                    self.slots[index].start_again(code, policy);
                }
            }
        }
    }

    async fn adopt_sandbox(&mut self) {
        if !self.record.netns.exists() && self.over() {
            self.sandbox = Sandbox::Removed;
        } else if !self.record.netns.exists() {
            warn!(pod = self.record.name, "its network namespace is gone; makes another");
            self.record.cni_result = None;
            self.sandbox = Sandbox::Wanted { try_at: Instant::now(), retry: RETRY_FIRST };
        } else if let Err(error) = sandbox::check(&self.kubelet, &self.record).await {
            warn!(pod = self.record.name, error = format!("{error:#}"), "CNI CHECK of an adopted pod");
        }
    }

    fn write_down(&mut self) {
        self.record.containers = self.slots.iter().filter_map(Slot::record).collect();
        if let Err(error) = self.record.save(&self.kubelet.pods_dir()) {
            warn!(pod = self.record.name, error = format!("{error:#}"), "record not written");
        }
    }

    /// Writes the status when it has changed. False when it has to be tried again.
    async fn report(&mut self) -> bool {
        let init: Vec<_> = self.slots.iter().filter(|slot| slot.init).map(|slot| slot.view.clone()).collect();
        let main: Vec<_> = self.slots.iter().filter(|slot| !slot.init).map(|slot| slot.view.clone()).collect();
        let status = report::status(&Facts {
            pod: &self.pod,
            init: &init,
            main: &main,
            pod_ips: &self.record.ips,
            host_ips: &self.kubelet.options.node_ip,
            started: &self.record.started,
            before: self.reported.as_ref(),
            now: &now(),
        });
        if self.reported.as_ref() == Some(&status) {
            return true;
        }
        let api: Api<Pod> = Api::namespaced(self.kubelet.client.clone(), &self.record.namespace);
        let patch = json!({ "metadata": { "uid": self.record.uid }, "status": status });
        match api.patch_status(&self.record.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => {
                self.reported = Some(status);
                true
            }
            // The object is gone or another has its name: the watch will say so.
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => {
                self.reported = Some(status);
                true
            }
            Err(error) => {
                warn!(pod = self.record.name, %error, "pod status not written; tries again");
                false
            }
        }
    }

    /// Removes sandbox and record, then the object.
    async fn tear_down(&mut self) {
        if !matches!(self.sandbox, Sandbox::Removed) {
            remove_sandbox(&self.kubelet, &self.record, Some(&self.pod)).await;
        }
        self.record.remove(&self.kubelet.pods_dir());
        let _ = std::fs::remove_file(self.log_link());
        let api: Api<Pod> = Api::namespaced(self.kubelet.client.clone(), &self.record.namespace);
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.record.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        let mut retry = RETRY_FIRST;
        while !self.wanted.borrow().gone {
            match api.delete(&self.record.name, &parameters).await {
                Ok(_) => return,
                Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => return,
                Err(error) => warn!(pod = self.record.name, %error, "pod not deleted; tries again"),
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(RETRY_MOST);
        }
    }

    fn event(&self, kind: EventKind, reason: &str, message: String) {
        self.kubelet.events.pod(&self.pod, kind, reason, message);
    }
}

/// Tries until the plugins have let go: an address must not be lost because an agent restarts.
async fn remove_sandbox(kubelet: &Kubelet, record: &PodRecord, pod: Option<&Pod>) {
    let mut retry = RETRY_FIRST;
    while let Err(error) = sandbox::remove(kubelet, record).await {
        let message = format!("{error:#}");
        warn!(pod = record.name, namespace = record.namespace, error = message, "sandbox not removed; tries again");
        if let Some(pod) = pod.filter(|_| retry == RETRY_FIRST) {
            kubelet.events.pod(pod, EventKind::Warning, "FailedKillPod", message);
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(RETRY_MOST);
    }
}
