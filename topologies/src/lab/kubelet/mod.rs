//! The kubelet role: one process per node, in the node's network namespace.
//!
//! It registers the Node, watches the Pods bound to it, and runs each pod's commands as processes of the host inside a
//! network namespace of the pod's own, wired through the CNI plugin as a container runtime does it. Images, volumes and
//! cgroups are not its business.
//!
//! Tasks: one for the Node (`node`), one for the watch (`run` below), and one per pod (`worker`). A pod's worker is the
//! only owner of its state; a record on disk lets a kubelet that starts again adopt what runs.

mod cni;
mod container;
mod environment;
mod events;
mod node;
mod probe;
mod record;
mod report;
mod resolver;
mod sandbox;
mod slot;
mod worker;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

pub(crate) use record::{PodRecord, RESOLV_CONF};

use crate::dns::CLUSTER_DOMAIN;
use crate::kubernetes;
use crate::process;

/// Between two looks for attachments that no pod has.
const GC_EVERY: Duration = Duration::from_secs(120);

#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    lab: String,
    #[arg(long)]
    node_name: String,
    /// The node's addresses, the first of each family
    #[arg(long, required = true)]
    node_ip: Vec<IpAddr>,
    #[arg(long)]
    kubeconfig: PathBuf,
    #[arg(long)]
    state_dir: PathBuf,
    #[arg(long)]
    cni_conf_dir: PathBuf,
    #[arg(long)]
    cni_bin_dir: PathBuf,
    /// Where the API server looks for pods' logs
    #[arg(long)]
    pod_log_dir: PathBuf,
    /// The cluster's DNS servers; without any, pods have the host's /etc/resolv.conf
    #[arg(long)]
    cluster_dns: Vec<IpAddr>,
    #[arg(long, default_value = CLUSTER_DOMAIN)]
    cluster_domain: String,
}

/// What all tasks share.
pub(crate) struct Kubelet {
    options: Options,
    client: Client,
    cni: cni::Cni,
    events: events::Events,
}

impl Kubelet {
    /// Records of pods, and below it their logs.
    fn pods_dir(&self) -> PathBuf {
        self.options.state_dir.join("pods")
    }

    fn dns(&self) -> resolver::ClusterDns {
        resolver::ClusterDns { servers: self.options.cluster_dns.clone(), domain: self.options.cluster_domain.clone() }
    }
}

/// What the API wants of a pod.
#[derive(Clone)]
pub(crate) struct Wanted {
    pod: Arc<Pod>,
    /// The object is gone: end without grace.
    gone: bool,
}

impl Wanted {
    fn stop(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some()
    }
}

/// Serves until SIGTERM, which leaves the pods running.
pub(crate) fn run(options: Options) -> Result<()> {
    tracing_subscriber::fmt().with_ansi(false).with_target(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(async {
        let client = kubernetes::client(&options.kubeconfig).await?;
        std::fs::create_dir_all(options.state_dir.join("pods")).context("cannot make the pods directory")?;
        let cni = cni::Cni::new(&options.cni_conf_dir, &options.cni_bin_dir);
        let events = events::Events::new(client.clone(), &options.node_name);
        let kubelet = Arc::new(Kubelet { options, client, cni, events });
        let node = tokio::spawn(node::run(kubelet.clone()));
        let mut term = signal(SignalKind::terminate())?;
        tokio::select! {
            outcome = watch_pods(kubelet) => outcome,
            outcome = node => outcome?,
            _ = term.recv() => { info!("ends; pods go on"); Ok(()) }
        }
    });
    // Threads that wait for containers never return by themselves.
    runtime.shutdown_background();
    outcome
}

struct Slot {
    wanted: watch::Sender<Wanted>,
    task: JoinHandle<()>,
}

/// Feeds every pod of this node to its worker.
async fn watch_pods(kubelet: Arc<Kubelet>) -> Result<()> {
    let mut records: HashMap<String, PodRecord> = process::read_records::<PodRecord>(&kubelet.pods_dir())
        .into_iter()
        .map(|record| (record.uid.clone(), record))
        .collect();
    let api: Api<Pod> = Api::all(kubelet.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", kubelet.options.node_name));
    let mut stream = watcher(api, config).default_backoff().boxed();
    let mut slots: HashMap<String, Slot> = HashMap::new();
    let mut listed: Vec<String> = Vec::new();
    let mut collect = tokio::time::interval(GC_EVERY);
    collect.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    collect.reset();
    loop {
        let event = tokio::select! {
            event = stream.next() => event.context("the watch of pods ended")?,
            _ = collect.tick() => {
                collect_garbage(&kubelet).await;
                continue;
            }
        };
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(pod)) => {
                listed.push(uid(&pod));
                apply(&kubelet, &mut slots, &mut records, pod);
            }
            Ok(watcher::Event::Apply(pod)) => apply(&kubelet, &mut slots, &mut records, pod),
            Ok(watcher::Event::Delete(pod)) => forget(&slots, &uid(&pod)),
            Ok(watcher::Event::InitDone) => {
                for uid in slots.keys().filter(|uid| !listed.contains(uid)) {
                    forget(&slots, uid);
                }
                for (_, record) in records.drain() {
                    warn!(
                        pod = record.name,
                        namespace = record.namespace,
                        "no such pod any more; removing its remains"
                    );
                    tokio::spawn(worker::remove_remains(kubelet.clone(), record));
                }
                collect_garbage(&kubelet).await;
            }
            Err(error) => warn!(%error, "watch of pods; tries again"),
        }
        slots.retain(|_, slot| !slot.task.is_finished());
    }
}

fn apply(
    kubelet: &Arc<Kubelet>,
    slots: &mut HashMap<String, Slot>,
    records: &mut HashMap<String, PodRecord>,
    pod: Pod,
) {
    let uid = uid(&pod);
    let wanted = Wanted { pod: Arc::new(pod), gone: false };
    if let Some(slot) = slots.get(&uid) {
        slot.wanted.send_replace(wanted);
        return;
    }
    let record = records.remove(&uid);
    if record.is_none() && report::finished(&wanted.pod) && !wanted.stop() {
        return;
    }
    let (sender, receiver) = watch::channel(wanted);
    let task = tokio::spawn(worker::run(kubelet.clone(), receiver, record));
    slots.insert(uid, Slot { wanted: sender, task });
}

fn forget(slots: &HashMap<String, Slot>, uid: &str) {
    if let Some(slot) = slots.get(uid) {
        slot.wanted.send_modify(|wanted| wanted.gone = true);
    }
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// Tells the plugins which attachments are in use; what else they have, they may release.
async fn collect_garbage(kubelet: &Kubelet) {
    let records = process::read_records::<PodRecord>(&kubelet.pods_dir());
    let valid: Vec<&str> =
        records.iter().filter(|record| !record.host_network).map(|record| record.sandbox.as_str()).collect();
    if let Err(error) = kubelet.cni.gc(&valid).await {
        info!(error = format!("{error:#}"), "CNI GC");
    }
}
