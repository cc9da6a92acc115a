//! The composition root: builds every part in order, top to bottom, and waits for the end.
//!
//! A part that ends by itself ends the agent: what is in the kernel goes on, and a new process adopts it.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use causeway_bgp_speaker::{Speaker, StartOptions};
use causeway_datapath_abi::{self as abi, config_flag};
use causeway_datapath_loader::{Datapath, Kernel, Options};
use causeway_encryption_device::{Device, KeyFile};
use causeway_encryption_plan::{Announcement, RotationConfig};
use causeway_k8s::client;
use causeway_k8s::watch::Config as WatchConfig;
use causeway_k8s::watch::{watch_lenient, watch_lenient_in};
use causeway_mesh_remote::Mesh;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::admin::{self, Admin, MetricsSource, Running};
use crate::cni::Cni;
use crate::config::Config;
use crate::control::encryption::Policy;
use crate::control::ipcache::prefix::Prefix;
use crate::control::probe;
use crate::control::services::Families;
use crate::control::{ipcache, services};
use crate::intent::mesh::intake::Intake;
use crate::intent::watch::{Sink, follow};
use crate::intent::{bgp, cilium, node, own_node, pod, service, slice};
use crate::metrics::{self, Metrics};
use crate::node_address::{self, NodeIps};
use crate::realize::encryption::driver::{Driver, Settings};
use crate::realize::encryption::guard::Maps;
use crate::realize::encryption::{Encryption, steering};
use crate::realize::{
    bgp as bgp_task, bgp_saved, bgp_status, controllers, datapath, encryption, endpoints, mesh, mesh_ips, netlink,
    node as node_task, pod as pods, probe as prober,
};
use crate::tables::Tables;

/// Source ports for translated traffic: below the host's own ephemeral ports (32768 and up on Linux).
const SNAT_PORTS: (u16, u16) = (1024, 32767);

/// What a pod sees as the source when it reaches itself through a Service, in the discard-only block of RFC 6666: nothing
/// else has it, and it is routed nowhere. It must not be link-local: the programs leave that scope to the stack.
const HAIRPIN_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1));

/// Rows of the ipcache: a half million remote addresses, and this cluster's own. Cilium's map has 512,000. The trie takes
/// memory only for the rows it has.
const IPCACHE_ENTRIES: u32 = 768_000;

/// How often the uplinks are looked at again: an interface that was made anew has no program.
const UPLINK_INTERVAL: Duration = Duration::from_secs(10);

/// Changes of interfaces that come together are looked at together.
const UPLINK_GATHER: Duration = Duration::from_millis(100);

/// How long the speaker may take to close its connections at the end.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);

/// What the parts of the agent share.
pub(crate) struct Agent {
    pub(crate) config: Config,
    pub(crate) tables: Tables,
    pub(crate) datapath: Arc<dyn Datapath>,
    /// This node's own addresses.
    pub(crate) node_ips: NodeIps,
    /// `None`: traffic between nodes is not encrypted.
    pub(crate) encryption: Option<Encryption>,
}

pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    tracing::info!(node = %config.node_name, version = env!("CARGO_PKG_VERSION"), "starting");
    let mut stop = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut tasks = JoinSet::new();
    let started = tokio::select! {
        started = start(config, &mut tasks) => started?,
        _ = stop.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    tokio::select! {
        _ = stop.recv() => {}
        _ = interrupt.recv() => {}
        ended = tasks.join_next() => {
            let why = match ended {
                Some(Err(error)) => error.to_string(),
                Some(Ok(())) | None => "it returned".to_owned(),
            };
            anyhow::bail!("a part of the agent ended: {why}");
        }
    }
    tracing::info!("stopping; what is in the kernel goes on");
    // Without NOTIFICATION, so that peers with graceful restart keep our routes.
    if tokio::time::timeout(SHUTDOWN_LIMIT, started.shutdown(true)).await.is_err() {
        tracing::warn!("the BGP speaker did not end in time");
    }
    Ok(())
}

/// Builds and starts everything. Gives the part that must be ended with care.
async fn start(config: Config, tasks: &mut JoinSet<()>) -> anyhow::Result<Speaker> {
    let tables = Tables::default();
    std::fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("cannot make --state-dir {}", config.state_dir.display()))?;

    // 1. The admin socket, so that whoever asks hears what the start is waiting for.
    let listener = admin::listen(&config.socket)
        .with_context(|| format!("cannot listen on --socket {}", config.socket.display()))?;
    let admin = Arc::new(Admin {
        config: config.clone(),
        tables: tables.clone(),
        started: Instant::now(),
        stage: watch::Sender::new("loading".into()),
        running: OnceLock::new(),
    });
    tasks.spawn(admin::serve(listener, admin.clone()));
    let metrics = Metrics::new();
    if let Some(addr) = config.metrics_addr {
        let source = Arc::new(MetricsSource(admin.clone()));
        let metrics = metrics.clone();
        tasks.spawn(async move {
            if let Err(error) = metrics::serve(addr, &metrics, source).await {
                tracing::error!(%error, %addr, "no metrics: cannot serve on --metrics-addr");
                // The agent's work is worth more than its metrics.
                std::future::pending::<()>().await;
            }
        });
    }

    // 2. Kubernetes: only a client; nobody waits for the server to be there.
    let (client, api_server) = kube_client(&config).await?;

    // 3. The datapath, with what an earlier process left in it.
    let stage = |text: String| {
        tracing::info!("{text}");
        admin.stage.send_replace(text);
    };
    stage("finding this node's addresses".into());
    let node_ips = node_address::find(&config, &client, &stage).await;
    tracing::info!(v4 = ?node_ips.v4, v6 = ?node_ips.v6, "this node's addresses");
    stage("loading the datapath".into());
    let device = encryption::device(&config.encryption.socket, &config.state_dir);
    let kernel = open_datapath(&config, &node_ips, device.as_ref()).await?;
    let adopted = !kernel.attached().context("listing attached programs")?.is_empty();
    let left = kernel.ipcache().context("reading the ipcache map")?;
    let intake = Intake::new(&tables, left.into_iter().map(|(net, entry)| (Prefix::from(net), entry.identity)));
    let (encryption, ends) = if config.encryption.enabled {
        let (encryption, ends) = Encryption::new();
        (Some(encryption), Some((ends, device)))
    } else {
        clear_encryption(device, kernel.clone()).await;
        (None, None)
    };
    let agent =
        Arc::new(Agent { config: config.clone(), tables: tables.clone(), datapath: kernel, node_ips, encryption });
    attach_uplinks(&agent, &stage).await;
    tasks.spawn(keep_uplinks(agent.clone()));
    tasks.spawn(datapath::collect_flows(agent.datapath.clone()));

    // 4. Pods: those that an earlier process attached are adopted.
    let cni = Cni::start(&agent).await.context("adopting the pods of this node")?;
    tables.endpoints.mark_synced();

    // 5. Intent, control, realize.
    watch_kubernetes(&agent, &client, tasks);
    let running = start_controllers(&agent, &client, cni.clone(), &intake, &metrics, adopted, tasks)?;
    let keys =
        ends.map(|(ends, device)| start_encryption(&agent, ends, device, running.mesh.clone(), api_server, tasks));
    start_writers(&agent, &client, cni.clone(), &running, keys, tasks);
    let speaker = running.speaker.clone();
    if admin.running.set(running).is_err() {
        anyhow::bail!("started twice");
    }
    stage("running".into());
    // What the plugin could not tell us while we were away. New requests need not wait for it.
    tokio::spawn(async move { cni.drain_deletions().await });
    Ok(speaker)
}

/// The client, and the authority (`host:port`) of the API server that it talks to.
async fn kube_client(config: &Config) -> anyhow::Result<(Client, String)> {
    // One provider for the whole process; an error says only that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let found = client::config(config.kubeconfig.as_deref(), "--kubeconfig").await?;
    let url = &found.cluster_url;
    let authority = format!("{}:{}", url.host().unwrap_or_default(), url.port_u16().unwrap_or(443));
    Ok((client::connect(found)?, authority))
}

async fn open_datapath(config: &Config, ips: &NodeIps, device: &dyn Device) -> anyhow::Result<Arc<dyn Datapath>> {
    let addr = |ip: Option<IpAddr>| match ip {
        Some(IpAddr::V4(ip)) => abi::Addr::v4(ip.octets()),
        Some(IpAddr::V6(ip)) => abi::Addr(ip.octets()),
        None => abi::Addr::ZERO,
    };
    let (v4, v6) = (ips.v4.filter(|_| config.enable_ipv4), ips.v6.filter(|_| config.enable_ipv6));
    let mut flags = 0;
    if config.enable_ipv4_masquerade {
        flags |= config_flag::MASQUERADE_V4;
    }
    if config.enable_ipv6_masquerade {
        flags |= config_flag::MASQUERADE_V6;
    }
    if config.encryption.enabled {
        flags |= config_flag::ENCRYPT;
    }
    let node = abi::NodeConfig {
        node_v4: addr(v4.map(IpAddr::from)),
        node_v6: addr(v6.map(IpAddr::from)),
        hairpin_v4: addr(v4.map(|_| pods::GATEWAY_V4)),
        hairpin_v6: addr(v6.map(|_| HAIRPIN_V6)),
        snat_port_min: SNAT_PORTS.0,
        snat_port_max: SNAT_PORTS.1,
        seed: seed(config.cluster_name.as_str()),
        flags,
        wireguard_port: config.encryption.port,
        wireguard_ports: device.ports(),
    };
    let mut options = Options::new(&config.bpf_root, node);
    options.sizes.flows = config.flow_entries;
    options.sizes.ipcache = IPCACHE_ENTRIES;
    let kernel = tokio::task::spawn_blocking(move || Kernel::open(&options))
        .await
        .context("the loader ended abnormally")?
        .context("cannot open the datapath")?;
    Ok(Arc::new(kernel))
}

/// Equal on all nodes of a cluster, so that they choose the same backend for the same packet (FNV-1a).
fn seed(cluster: &str) -> u32 {
    cluster.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Waits until there are uplinks, then attaches to all of them.
async fn attach_uplinks(agent: &Agent, stage: impl Fn(String)) {
    loop {
        match try_attach_uplinks(agent) {
            Ok(0) => stage("waiting for an interface with a default route; or name them with --devices".into()),
            Ok(_) => return,
            Err(error) => stage(format!("attaching to the uplinks: {error:#}")),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn try_attach_uplinks(agent: &Agent) -> anyhow::Result<usize> {
    let uplinks = pods::uplinks(&agent.config.devices).context("finding the uplinks")?;
    pods::prepare_node(agent.config.enable_ipv4, agent.config.enable_ipv6, &uplinks).context("preparing the node")?;
    for link in &uplinks {
        agent.datapath.attach_uplink(link.index).with_context(|| format!("attaching to the uplink {}", link.name))?;
    }
    Ok(uplinks.len())
}

/// For ever: an interface that is made anew, or that becomes an uplink, carries the programs before it is of much use.
async fn keep_uplinks(agent: Arc<Agent>) {
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    if let Err(error) = netlink::follow(move || notify.notify_one()) {
        tracing::warn!(%error, "new uplinks are found by looking now and then only");
    }
    let mut known = Vec::new();
    let mut looked = Instant::now();
    loop {
        let asked = tokio::time::timeout(UPLINK_INTERVAL, changed.notified()).await.is_ok();
        if asked {
            tokio::time::sleep(UPLINK_GATHER).await;
        }
        let now = pods::uplinks(&agent.config.devices).unwrap_or_default();
        // Pods come and go with interfaces and routes of their own.
        if asked && now == known && looked.elapsed() < UPLINK_INTERVAL {
            continue;
        }
        looked = Instant::now();
        match try_attach_uplinks(&agent) {
            Ok(_) => known = now,
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
}

/// Takes back what an agent that encrypted has left.
async fn clear_encryption(device: Box<dyn Device>, datapath: Arc<dyn Datapath>) {
    let clear = move || encryption::clear(device, &Maps(datapath), Box::new(steering::Kernel::default()));
    if tokio::task::spawn_blocking(clear).await.is_err() {
        tracing::error!("taking encryption back ended abnormally");
    }
}

/// Gives what other nodes shall be told of this one's keys.
fn start_encryption(
    agent: &Arc<Agent>,
    ends: encryption::Ends,
    device: Box<dyn Device>,
    mesh: Option<Arc<Mesh>>,
    api_server: String,
    tasks: &mut JoinSet<()>,
) -> watch::Receiver<Option<Announcement>> {
    let config = &agent.config;
    let chosen = &config.encryption;
    let settings = Settings {
        policy: Policy {
            modes: chosen.modes.clone(),
            encrypt_node: chosen.encrypt_node,
            guarded: chosen.guarded.clone(),
            port: chosen.port,
            keepalive_s: chosen.keepalive_s,
            ipv4: config.enable_ipv4,
            ipv6: config.enable_ipv6,
        },
        cluster: config.cluster_name.to_string(),
        addresses: agent.node_ips.all(),
        rotation: RotationConfig { interval: chosen.rotation, ..RotationConfig::default() },
    };
    let driver = Driver::new(
        settings,
        device,
        Arc::new(Maps(agent.datapath.clone())),
        agent.tables.guarded.clone(),
        Box::new(steering::Kernel::default()),
        Box::new(underlay_mtu(config.devices.clone())),
        KeyFile::new(chosen.key_file.clone()),
    );
    let (announcement, keys) = watch::channel(None);
    let task = encryption::Task {
        driver,
        tables: agent.tables.clone(),
        cluster: config.cluster_name.to_string(),
        node: config.node_name.clone(),
        api_server,
        mesh,
        announcement,
    };
    tasks.spawn(task.run(ends));
    keys
}

/// The smallest MTU among the uplinks, looked up now and then: it takes a walk over the routes.
fn underlay_mtu(devices: Vec<String>) -> impl Fn() -> Result<u32, String> + Send {
    let known = std::cell::Cell::new(None::<(Instant, u32)>);
    move || {
        if let Some((at, mtu)) = known.get()
            && at.elapsed() < UPLINK_INTERVAL
        {
            return Ok(mtu);
        }
        let uplinks = pods::uplinks(&devices).map_err(|error| error.to_string())?;
        let mtu = uplinks.iter().map(|link| link.mtu).min();
        let mtu = mtu.ok_or("there is no uplink: no interface has a default route; or name them with --devices")?;
        known.set(Some((Instant::now(), mtu)));
        Ok(mtu)
    }
}

/// One task per kind.
fn watch_kubernetes(agent: &Agent, client: &Client, tasks: &mut JoinSet<()>) {
    let t = &agent.tables;
    let name = &agent.config.node_name;
    macro_rules! watch {
        ($reader:expr, $table:expr, $events:expr) => {
            let sink = Sink {
                reader: $reader,
                table: $table.clone(),
                rejected: t.rejected.clone(),
                watches: t.watches.clone(),
            };
            tasks.spawn(follow(sink, $events));
        };
    }
    let all = WatchConfig::default;
    let field = |selector: String| WatchConfig::default().fields(&selector);
    watch!(service::Reader, t.services, watch_lenient(client.clone(), all()));
    watch!(slice::Reader { node: name.clone() }, t.slices, watch_lenient(client.clone(), all()));
    watch!(node::Reader { node: name.clone() }, t.nodes, watch_lenient(client.clone(), all()));
    watch!(node::NamespaceReader, t.namespaces, watch_lenient(client.clone(), all()));
    watch!(pod::Reader, t.pods, watch_lenient(client.clone(), field(format!("spec.nodeName={name}"))));
    watch!(cilium::EndpointReader, t.remote_endpoints, watch_lenient(client.clone(), all()));
    watch!(cilium::IdentityReader, t.identities, watch_lenient(client.clone(), all()));
    if agent.config.encryption.enabled {
        watch!(cilium::NodeReader, t.cilium_nodes, watch_lenient(client.clone(), all()));
    }
    let own = field(format!("metadata.name={name}"));
    watch!(bgp::NodeConfigReader { node: name.clone() }, t.bgp_config, watch_lenient(client.clone(), own.clone()));
    watch!(own_node::Reader, t.own_node, watch_lenient(client.clone(), own));
    watch!(bgp::PeerConfigReader, t.bgp_peer_configs, watch_lenient(client.clone(), all()));
    watch!(bgp::AdvertisementReader, t.bgp_advertisements, watch_lenient(client.clone(), all()));
    let sink = Sink {
        reader: bgp::SecretReader,
        table: t.bgp_secrets.clone(),
        rejected: t.rejected.clone(),
        watches: t.watches.clone(),
    };
    let (client, namespace) = (client.clone(), agent.config.bgp_secrets_namespace.clone());
    tasks.spawn(async move { follow(sink, watch_lenient_in(client, &namespace, WatchConfig::default())).await });
}

fn start_controllers(
    agent: &Agent,
    client: &Client,
    cni: Arc<Cni>,
    intake: &Intake,
    metrics: &Metrics,
    adopted: bool,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<Running> {
    let t = &agent.tables;
    let config = &agent.config;
    let families = Families { v4: config.enable_ipv4, v6: config.enable_ipv6 };

    let inputs = services::Inputs {
        services: t.services.clone(),
        slices: t.slices.clone(),
        offers: t.mesh_offers.clone(),
        clusters: t.mesh_clusters.clone(),
        health: t.target_health.clone(),
        guarded: t.guarded.clone(),
    };
    let rows = agent.datapath.services().context("reading the service map")?;
    let mut controller = services::Controller::new(inputs, &t.lb, families).adopting(rows.into_keys());
    if config.encryption.enabled {
        controller = controller.encrypting(config.encryption.modes.clone(), &t.withheld);
    } else {
        t.guarded.mark_synced();
    }
    let probes = start_prober(config, t, &controller, tasks);
    tasks.spawn(controllers::run_services(controller));
    let inputs = ipcache::Inputs {
        nodes: t.nodes.clone(),
        endpoints: t.endpoints.clone(),
        remote_endpoints: t.remote_endpoints.clone(),
        slices: t.slices.clone(),
        remote_nodes: t.mesh_nodes.clone(),
    };
    let controller = ipcache::Controller::new(inputs.clone(), &t.ipcache, &config.node_name, families);
    let (remote_nodes, remote_nodes_done) = watch::channel(false);
    tasks.spawn(controllers::run_ipcache(inputs, controller, remote_nodes));
    let mesh = start_mesh(agent, intake, remote_nodes_done, tasks);

    let lb = datapath::lb_driver(&t.lb, agent.datapath.as_ref()).context("reading the service map")?;
    let lb_real = lb.realised();
    let (mut latency, metrics, of_mesh) = (datapath::SliceLatency::default(), metrics.clone(), intake.clone());
    tasks.spawn(lb.run(datapath::LbApply::new(agent.datapath.clone()), move |action, result, _| {
        latency.observe(&metrics, of_mesh.progress(), action, result);
    }));
    let ipcache = datapath::ipcache_driver(&t.ipcache);
    let ipcache_real = ipcache.realised();
    let apply = datapath::IpcacheApply { datapath: agent.datapath.clone(), intake: intake.clone() };
    tasks.spawn(ipcache.run(apply, |_, result, _| {
        if let Err(error) = result {
            tracing::warn!(error, "ipcache row not programmed, trying again");
        }
    }));

    let restarting = mark_speaker_started(&config.state_dir);
    let speaker = Speaker::spawn(StartOptions {
        restarting,
        forwarding_preserved: restarting && adopted,
        hostname: config.node_name.clone(),
        ..StartOptions::default()
    });
    let (plan_sender, plan) = watch::channel(Arc::default());
    let saved = bgp_saved::path(&config.state_dir);
    let task = bgp_task::Bgp {
        node: config.node_name.clone(),
        idle_served: config.enable_no_service_endpoints_routable,
        secrets_namespace: config.bgp_secrets_namespace.clone(),
        tables: t.clone(),
        lb_real: lb_real.clone(),
        speaker: speaker.clone(),
        plan: plan_sender,
        // Without the rows of an earlier process there is nothing to serve what it announced.
        saved: if adopted { bgp_saved::load(&saved) } else { None },
        restored: false,
        facts: std::collections::BTreeMap::new(),
        complete: std::collections::BTreeSet::new(),
    };
    tasks.spawn(task.run());
    tasks.spawn(bgp_saved::keep(saved, plan.clone()));
    Ok(Running {
        client: client.clone(),
        datapath: agent.datapath.clone(),
        cni,
        lb_real,
        ipcache_real,
        speaker,
        plan,
        intake: intake.clone(),
        mesh,
        probes,
        encryption: agent.encryption.clone(),
    })
}

/// `None`: probing is switched off, and every backend counts as good.
fn start_prober(
    config: &Config,
    tables: &Tables,
    controller: &services::Controller,
    tasks: &mut JoinSet<()>,
) -> Option<watch::Receiver<probe::Counts>> {
    let wanted = config.mesh.probe;
    if !wanted.enabled {
        return None;
    }
    let settings = probe::Settings { interval: wanted.interval, timeout: wanted.timeout, budget: wanted.budget };
    let prober = prober::Prober::new(&controller.targets(), &tables.target_health, settings);
    let counts = prober.counts();
    tasks.spawn(prober.run());
    Some(counts)
}

/// The readers of other clusters, and who writes their addresses. The writer also drops what an earlier process left in
/// the map, so that it runs without a mesh too.
fn start_mesh(
    agent: &Agent,
    intake: &Intake,
    remote_nodes_done: watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) -> Option<Arc<Mesh>> {
    let t = &agent.tables;
    let writer = mesh_ips::Writer { intake: intake.clone(), datapath: agent.datapath.clone(), own: t.ipcache.clone() };
    tasks.spawn(writer.run());
    tasks.spawn(intake.clone().follow_nodes(t.nodes.clone()));
    let mesh = mesh::start(&agent.config, intake);
    let completion = mesh::Completion {
        config: agent.config.clone(),
        tables: t.clone(),
        intake: intake.clone(),
        mesh: mesh.clone(),
        remote_nodes_done,
    };
    tasks.spawn(completion.run());
    mesh
}

/// Those who write to Kubernetes.
fn start_writers(
    agent: &Agent,
    client: &Client,
    cni: Arc<Cni>,
    running: &Running,
    keys: Option<watch::Receiver<Option<Announcement>>>,
    tasks: &mut JoinSet<()>,
) {
    let config = &agent.config;
    let status = bgp_status::StatusWriter {
        client: client.clone(),
        node: config.node_name.clone(),
        tables: agent.tables.clone(),
        plan: running.plan.clone(),
        speaker: running.speaker.status(),
    };
    tasks.spawn(status.run());
    let node_ips = agent.node_ips.all();
    let endpoints = endpoints::Endpoints::new(client.clone(), agent.tables.clone(), cni, config, node_ips);
    tasks.spawn(endpoints.run());
    let tables = agent.tables.clone();
    let node = node_task::NodeWriter { client: client.clone(), config: config.clone(), tables, keys };
    tasks.spawn(node.run());
}

/// Leaves a mark that a speaker ran since the machine started; true if there was one already. The state directory is on
/// tmpfs: after a reboot the kernel's maps are gone too, and the peers must not be told that forwarding went on.
fn mark_speaker_started(state_dir: &Path) -> bool {
    let mark = state_dir.join("bgp-speaker-ran");
    let restarting = mark.exists();
    if let Err(error) = std::fs::write(&mark, b"") {
        tracing::warn!(%error, mark = %mark.display(), "a restart will not be told to BGP peers as one");
    }
    restarting
}
