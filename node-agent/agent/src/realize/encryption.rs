//! Makes encryption real: one task that drives a WireGuard device, the datapath's guard and our routes to what
//! `control::encryption` wants.
//!
//! - [`driver`]: one pass, blocking; called on tokio's blocking threads.
//! - [`guard`]: the datapath's map of ranges that must be encrypted; [`rows`]: what is in it, why, and until when.
//! - [`steering`]: routes and rules.
//! - [`tally`]: counts that only rise.
//!
//! The task waits for changes of the tables, for commands, and for its tick; waiting is cancel-safe. A pass is never
//! cancelled: it ends by itself, after at most the device's patience.

pub(crate) mod driver;
pub(crate) mod guard;
pub(crate) mod rows;
pub(crate) mod steering;
pub(crate) mod tally;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use causeway_encryption_device::{Device, Embedded};
use causeway_encryption_plan::{Announcement, PeerName, Phase};
use causeway_mesh_remote::Mesh;
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};

use crate::control::encryption::NodeWords;
use crate::intent::Key;
use crate::intent::slice::SliceKey;
use crate::realize::netlink::Netlink;
use crate::tables::Tables;
use driver::{Clock, Driver, Intent, Report};
use guard::Guard;
use steering::Steering;

/// How often a pass is made although nothing was told: what the device sees (handshakes, another process) comes unasked.
const TICK: Duration = Duration::from_secs(1);

/// While a rotation is under way, and after the device was told something.
const CHANGING_TICK: Duration = Duration::from_millis(200);

/// A look at a peer costs the device, the socket and us about so much; a tick takes at least that for all, a fraction of a
/// CPU with thousands of nodes.
const TICK_PER_PEER: Duration = Duration::from_millis(1);

/// Changes of the tables that come together are taken together.
const GATHER: Duration = Duration::from_millis(20);

/// How long the name of an API server may take to resolve.
const RESOLVE_LIMIT: Duration = Duration::from_secs(2);

/// Asks a node for a new key: a time (RFC 3339); keys from before it are replaced.
pub(crate) const ROTATE_ANNOTATION: &str = "network.causeway.io/wg-rotate";

/// Answers a command: `Err` as [`Driver::rotate`] says.
pub(crate) type Answer = oneshot::Sender<Result<(), Option<Phase>>>;

/// What the rest of the agent sees of it; clones name the same.
#[derive(Debug, Clone)]
pub(crate) struct Encryption {
    report: watch::Receiver<Arc<Report>>,
    commands: mpsc::Sender<Answer>,
}

/// The other ends of [`Encryption`], for the task.
#[derive(Debug)]
pub(crate) struct Ends {
    report: watch::Sender<Arc<Report>>,
    commands: mpsc::Receiver<Answer>,
}

impl Encryption {
    /// The handle, before there is a task.
    pub(crate) fn new() -> (Encryption, Ends) {
        let unready = Some("encryption has only just been started".to_owned());
        let (sender, report) = watch::channel(Arc::new(Report { unready, ..Report::default() }));
        // One command at a time is what people give; more wait.
        let (commands, queue) = mpsc::channel(8);
        (Encryption { report, commands }, Ends { report: sender, commands: queue })
    }

    pub(crate) fn report(&self) -> Arc<Report> {
        self.report.borrow().clone()
    }

    /// What keeps pods from starting, if something does; waits for a good answer at most so long.
    pub(crate) async fn ready(&self, patience: Duration) -> Result<(), String> {
        let mut report = self.report.clone();
        let good = report.wait_for(|report| report.unready.is_none());
        match tokio::time::timeout(patience, good).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err("the agent is ending".to_owned()),
            Err(_) => Err(self.report().unready.clone().unwrap_or_default()),
        }
    }

    /// A new key for this node, now. `Err`: why not, in words.
    pub(crate) async fn rotate(&self) -> Result<(), String> {
        let (answer, done) = oneshot::channel();
        self.commands.send(answer).await.map_err(|_| "the agent is ending".to_owned())?;
        match done.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Some(phase))) => Err(format!("a rotation is under way ({})", phase_name(phase))),
            Ok(Err(None)) => Err("the node has no keys yet".to_owned()),
            Err(_) => Err("the agent is ending".to_owned()),
        }
    }
}

/// One word for a phase.
pub(crate) fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Steady => "steady",
        Phase::Making => "making",
        Phase::Warming { .. } => "warming",
        Phase::Draining { .. } => "draining",
    }
}

/// The task.
pub(crate) struct Task {
    pub(crate) driver: Driver,
    pub(crate) tables: Tables,
    pub(crate) cluster: String,
    pub(crate) node: String,
    /// Host and port of the API server that the agent itself talks to.
    pub(crate) api_server: String,
    pub(crate) mesh: Option<Arc<Mesh>>,
    pub(crate) announcement: watch::Sender<Option<Announcement>>,
}

impl Task {
    /// Runs until the process ends.
    pub(crate) async fn run(self, ends: Ends) {
        let Ends { report: sender, mut commands } = ends;
        let Task { mut driver, tables, .. } = self;
        let mut gather = Gather {
            tables: tables.clone(),
            cluster: self.cluster,
            node: self.node,
            api_servers: resolve(&self.api_server).await,
            mesh: self.mesh,
            read: BTreeSet::new(),
        };
        let started = Instant::now();
        let mut readers = (tables.cilium_nodes.reader(), tables.nodes.reader(), tables.mesh_nodes.reader());
        let mut others = (tables.own_node.reader(), tables.mesh_clusters.reader());
        let mut answers: Vec<Answer> = Vec::new();
        let mut said = BTreeSet::new();
        loop {
            let _ = (readers.0.changes(), readers.1.changes(), readers.2.changes());
            let _ = (others.0.changes(), others.1.changes());
            let asked = std::mem::take(&mut answers);
            let now = clock(started);
            let pass = move || {
                for answer in asked {
                    let _ = answer.send(driver.rotate(now));
                }
                let report = driver.pass(now, &gather.intent());
                (driver, gather, report)
            };
            let Ok((same_driver, same_gather, report)) = tokio::task::spawn_blocking(pass).await else {
                tracing::error!("a pass of encryption panicked");
                return;
            };
            (driver, gather) = (same_driver, same_gather);
            said = tell(&report, &said);
            let changed = report.announcement.is_some();
            self.announcement.send_if_modified(|old| {
                let other = changed && *old != report.announcement;
                if other {
                    old.clone_from(&report.announcement);
                }
                other
            });
            let (peers, changed) = (report.wanted.peers.len(), report.changed);
            sender.send_replace(Arc::new(report));
            let tick = if changed || driver.is_rotating() { CHANGING_TICK } else { TICK };
            let tick = tick.max(TICK_PER_PEER * u32::try_from(peers).unwrap_or(u32::MAX));
            tokio::select! {
                () = readers.0.changed() => tokio::time::sleep(GATHER).await,
                () = readers.1.changed() => tokio::time::sleep(GATHER).await,
                () = readers.2.changed() => tokio::time::sleep(GATHER).await,
                () = others.0.changed() => {}
                () = others.1.changed() => tokio::time::sleep(GATHER).await,
                Some(answer) = commands.recv() => answers.push(answer),
                () = tokio::time::sleep(tick) => {}
            }
        }
    }
}

/// Addresses of the host in `host:port`. A name that cannot be resolved now is none of this cluster's nodes, which are
/// known by the Service `kubernetes` too.
async fn resolve(authority: &str) -> BTreeSet<IpAddr> {
    match tokio::time::timeout(RESOLVE_LIMIT, tokio::net::lookup_host(authority)).await {
        Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
        Ok(Err(_)) | Err(_) => BTreeSet::new(),
    }
}

/// Logs what is new, and what is over; gives all of it.
fn tell(report: &Report, said: &BTreeSet<String>) -> BTreeSet<String> {
    let problems = report.wanted.problems.iter().map(ToString::to_string);
    let now: BTreeSet<String> = report.errors.iter().chain(&report.gone).cloned().chain(problems).collect();
    for problem in now.difference(said) {
        tracing::warn!("encryption: {problem}");
    }
    for problem in said.difference(&now) {
        tracing::info!("encryption: no longer: {problem}");
    }
    now
}

fn clock(started: Instant) -> Clock {
    // A clock before 1970 makes keys look old, no more.
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Clock { unix, steady: started.elapsed() }
}

/// From the tables.
struct Gather {
    tables: Tables,
    cluster: String,
    node: String,
    api_servers: BTreeSet<IpAddr>,
    mesh: Option<Arc<Mesh>>,
    /// Clusters that have been read in full once.
    read: BTreeSet<String>,
}

impl Gather {
    fn intent(&mut self) -> Intent {
        let t = &self.tables;
        let mut nodes = self.local_nodes();
        let own = nodes.remove(&self.node);
        let mut intent = Intent {
            // A node that Kubernetes and its agent describe differently is the sum of both.
            own_pods: own.map(|own| own.pod_cidrs.into_iter().collect()).unwrap_or_default(),
            nodes: nodes.into_values().collect(),
            api_servers: self.api_servers(),
            local_known: t.nodes.synced() && t.cilium_nodes.synced(),
            remote_known: t.mesh_nodes.synced(),
            unread: self.unread(),
            rotate_before: self.rotate_before(),
        };
        intent.nodes.extend(self.remote_nodes());
        intent
    }

    fn words(&self, node: &str) -> NodeWords {
        NodeWords {
            name: PeerName::new(&self.cluster, node),
            cluster: self.cluster.clone(),
            own_cluster: true,
            addresses: BTreeSet::new(),
            pod_cidrs: BTreeSet::new(),
            key: String::new(),
            keys: String::new(),
        }
    }

    /// Nodes as Kubernetes knows them, with what their agents say.
    fn local_nodes(&self) -> BTreeMap<String, NodeWords> {
        let mut nodes: BTreeMap<String, NodeWords> = BTreeMap::new();
        self.tables.nodes.read(|t| {
            for (key, node) in t.iter() {
                let words = nodes.entry(key.name.clone()).or_insert_with(|| self.words(&key.name));
                words.addresses.extend(node.addresses.iter().filter(|a| a.internal).map(|a| a.ip));
                words.pod_cidrs.extend(node.pod_cidrs.iter().map(IpNet::trunc));
            }
        });
        self.tables.cilium_nodes.read(|t| {
            for (key, node) in t.iter() {
                let words = nodes.entry(key.name.clone()).or_insert_with(|| self.words(&key.name));
                words.addresses.extend(node.addresses.iter().copied());
                words.pod_cidrs.extend(node.pod_cidrs.iter().copied());
                words.key = node.wireguard_pub_key.to_string();
                words.keys = node.wireguard_pub_keys.to_string();
            }
        });
        nodes
    }

    fn remote_nodes(&self) -> Vec<NodeWords> {
        let t = &self.tables;
        let names: BTreeMap<_, String> =
            t.mesh_clusters.read(|t| t.iter().map(|(id, row)| (*id, row.info.origin.name.to_string())).collect());
        t.mesh_nodes.read(|t| {
            let named = t.iter().filter_map(|((id, name), node)| Some((names.get(id)?, name, node)));
            let words = named.map(|(cluster, name, node)| NodeWords {
                name: PeerName::new(cluster, name),
                cluster: cluster.clone(),
                own_cluster: false,
                addresses: node.addresses.iter().filter(|a| a.internal).map(|a| a.ip).collect(),
                pod_cidrs: node.pod_cidrs.iter().copied().collect(),
                key: node.wireguard_pub_key.to_string(),
                keys: node.wireguard_pub_keys.to_string(),
            });
            words.collect()
        })
    }

    /// Where API servers listen: what the agent itself talks to, and what the Service `kubernetes` has behind it.
    fn api_servers(&self) -> BTreeSet<IpAddr> {
        let service = Key::new("default", "kubernetes");
        let mut all = self.api_servers.clone();
        self.tables.slices.read(|t| {
            let first = SliceKey::first(&service);
            let slices = t.iter_from(&first).take_while(|(key, _)| key.service == service);
            all.extend(slices.flat_map(|(_, slice)| slice.endpoints.iter().map(|e| e.address)));
        });
        all
    }

    /// Clusters that are configured and have not been read in full yet.
    fn unread(&mut self) -> BTreeSet<String> {
        let Some(mesh) = &self.mesh else { return BTreeSet::new() };
        let status = mesh.status();
        self.read.extend(status.iter().filter(|remote| remote.ready).map(|remote| remote.name.to_string()));
        status.iter().map(|remote| remote.name.to_string()).filter(|name| !self.read.contains(name)).collect()
    }

    fn rotate_before(&self) -> Option<Duration> {
        let own = self.tables.own_node.get(&Key::new("", &self.node))?;
        let text = own.0.pointer("/metadata/annotations")?.get(ROTATE_ANNOTATION)?.as_str()?;
        let at: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(at.as_second()).ok().map(Duration::from_secs)
    }
}

/// The kernel's device where the kernel has one and this build may use it (feature `kernel-wireguard`), else the embedded
/// one, whose process answers at `socket`. `state_dir`: where the kernel's device remembers its peers' names.
pub(crate) fn device(socket: &Path, state_dir: &Path) -> Box<dyn Device> {
    let has = Netlink::open().and_then(|netlink| netlink.has_wireguard());
    if matches!(has, Ok(true))
        && let Some(kernel) = kernel_device(state_dir)
    {
        return kernel;
    }
    let why = match has {
        Ok(true) => "the kernel has WireGuard; this build has no kernel backend".to_owned(),
        Ok(false) => "the kernel has no WireGuard (EOPNOTSUPP)".to_owned(),
        Err(error) => format!("whether the kernel has WireGuard is not known: {error}"),
    };
    Box::new(Embedded::new(socket.to_owned(), why))
}

#[cfg(feature = "kernel-wireguard")]
#[allow(clippy::unnecessary_wraps, reason = "builds without the feature have none")]
fn kernel_device(state_dir: &Path) -> Option<Box<dyn Device>> {
    let names = state_dir.join("wireguard-peers");
    Some(Box::new(causeway_encryption_kernel::Kernel::new("the kernel has WireGuard".to_owned(), names)))
}

#[cfg(not(feature = "kernel-wireguard"))]
fn kernel_device(_: &Path) -> Option<Box<dyn Device>> {
    None
}

/// For an agent that does not encrypt: takes back what an earlier one left.
pub(crate) fn clear(mut device: Box<dyn Device>, guard: &dyn Guard, mut steering: Box<dyn Steering>) {
    if let Err(error) = Driver::clear(device.as_mut(), guard, steering.as_mut()) {
        tracing::warn!(error, "something of encryption is left although it is off");
    }
}

#[cfg(test)]
mod tests;
