//! `up`: reads a topology, realises it and waits until it works.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::mount::{MsFlags, mount};
use topology::plan::CablePlan;
use topology::spec::{Cluster, Encryption, Mesh};
use topology::{Plan, Topology};

use crate::cluster;
use crate::down;
use crate::fabric;
use crate::kubernetes::Kubernetes;
use crate::mesh;
use crate::pki;
use crate::process::{self, Record};
use crate::progress::{Progress, wait_for};
use crate::state::{Lab, LabState, Programs, ROOT, RealKubernetes, now};
use crate::wiring::{self, each};

/// Open connect, three missed attempts and the session's own start.
const BGP_LIMIT: Duration = Duration::from_secs(30);
/// `bpf(2)`'s file system, from linux/magic.h.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

#[derive(Args)]
pub(crate) struct Options {
    /// Directory with a topology.toml
    dir: PathBuf,
    /// Name of the lab [default: the topology's]
    #[arg(long)]
    name: Option<String>,
    /// Without operator and agents: the fabric, the API and the kubelet roles
    #[arg(long)]
    no_agents: bool,
    /// The fabric alone
    #[arg(long)]
    no_kubernetes: bool,
    /// Clusters do not meet, whatever the topology says
    #[arg(long)]
    no_mesh: bool,
    /// Another node of the first cluster, cabled as its last one; may be given again
    #[arg(long, value_name = "NODE")]
    add_node: Vec<String>,
    /// Another value for a field of the topology, as cluster.east.encryption=wireguard; may be given again
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Do not apply the topology's bootstrap manifests
    #[arg(long)]
    no_bootstrap: bool,
    /// Leave everything as it is when bring-up fails
    #[arg(long)]
    keep_failed: bool,
    /// Where the programs are [default: beside this one]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// The real Kubernetes API server instead of the stand-in
    #[arg(long, value_name = "PATH", requires = "kube_controller_manager")]
    kube_apiserver: Option<PathBuf>,
    #[arg(long, value_name = "PATH", requires = "kube_apiserver")]
    kube_controller_manager: Option<PathBuf>,
    #[arg(long, value_name = "PATH", requires = "kube_apiserver")]
    kube_scheduler: Option<PathBuf>,
    #[arg(long, value_name = "PATH", default_value = "/usr/bin/etcd")]
    etcd: PathBuf,
}

/// Reads `DIR/topology.toml`.
pub(crate) fn read_topology(dir: &Path) -> Result<Topology> {
    let file = if dir.is_file() { dir.to_owned() } else { dir.join("topology.toml") };
    let text = fs::read_to_string(&file).with_context(|| {
        format!("cannot read {}; name a directory with a topology.toml, as topologies/one-rack", file.display())
    })?;
    Ok(Topology::parse(&file.display().to_string(), &text)?)
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let progress = Progress::start();
    let mut topology = read_topology(&options.dir)?;
    for assignment in &options.set {
        topology.set(assignment).context("--set")?;
    }
    for node in &options.add_node {
        topology.add_node(node, None)?;
    }
    let plan = Plan::new(&topology)?;
    fabric::check(&plan)?;
    if !nix::unistd::geteuid().is_root() {
        bail!("a lab makes network namespaces and loads eBPF programs: run as root");
    }
    let lab = Lab::named(options.name.as_deref().unwrap_or(&topology.name))?;
    let source = fs::canonicalize(&options.dir).with_context(|| format!("no {}", options.dir.display()))?;
    let source = if source.is_file() { source.parent().map(Path::to_owned).unwrap_or(source) } else { source };
    for cluster in &topology.clusters {
        cluster::manifests(&source, cluster)?;
    }
    let mesh = topology.meshed().count() > 0 && !options.no_mesh && !options.no_agents && !options.no_kubernetes;
    let encryption = topology.clusters.iter().any(|cluster| cluster.encryption != Encryption::None);
    let programs = programs(options, mesh, encryption)?;
    let state = LabState { topology, source, programs, agents: !options.no_agents, mesh, created: now() };
    claim(&lab)?;
    let outcome = lab.save(&state).and_then(|()| bring_up(&lab, &state, &plan, options, progress));
    if outcome.is_err() && !options.keep_failed {
        progress.say("that failed; taking down what is there (--keep-failed leaves it)");
        if let Err(error) = down::remove(&lab) {
            eprintln!("causeway-lab: {error:#}");
        }
    }
    outcome
}

/// Takes the name: only one bring-up can make the directory.
fn claim(lab: &Lab) -> Result<()> {
    fs::create_dir_all(ROOT).with_context(|| format!("cannot make {ROOT}"))?;
    match fs::create_dir(&lab.dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => bail!(
            "lab {} is up already, or a crash has left it; take it down with: causeway-lab down {}",
            lab.name,
            lab.name
        ),
        made => made.with_context(|| format!("cannot make {}", lab.dir.display()))?,
    }
    for dir in [lab.logs(), lab.pod_logs(), lab.processes(), lab.dir.join("frr"), lab.dir.join("clusters")] {
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    Ok(())
}

fn bring_up(lab: &Lab, state: &LabState, plan: &Plan, options: &Options, progress: Progress) -> Result<()> {
    let hosts = plan.hosts.len() + plan.tors.len();
    std::thread::scope(|scope| {
        let pki = scope.spawn(|| {
            each(plan.clusters.iter().filter_map(|cluster| {
                let plane = plan.control_plane(&cluster.name)?;
                Some(move || pki::issue(lab, cluster, plane))
            }))
        });
        wiring::realise(lab, plan)?;
        pki.join().unwrap_or_else(|_| bail!("a thread of the lab panicked"))
    })?;
    progress.say(format!("{} hosts and {} ToRs cabled and addressed", hosts - plan.tors.len(), plan.tors.len()));
    std::thread::scope(|scope| {
        let fabric = scope.spawn(|| each(plan.tors.iter().map(|tor| move || fabric::start(lab, plan, tor))));
        let clusters = if options.no_kubernetes {
            Ok(())
        } else {
            mount_bpf().and_then(|()| {
                each(plan.clusters.iter().map(|cluster| move || start_cluster(lab, state, plan, cluster, progress)))
            })
        };
        let fabric = fabric.join().unwrap_or_else(|_| bail!("a thread of the lab panicked"));
        fabric.and(clusters)
    })?;
    progress.say(format!("FRR runs in {} ToRs", plan.tors.len()));
    if options.no_kubernetes {
        return Ok(());
    }
    let ports = plan.clusters.iter().map(|cluster| Ok((cluster, cluster::relay_port(lab, cluster)?)));
    pki::common_kubeconfig(lab, ports.collect::<Result<Vec<_>>>()?.into_iter())?;
    finish_clusters(lab, state, plan, options, progress)?;
    if !plan.clusters.is_empty() {
        progress.say(format!("up; export KUBECONFIG={}", lab.dir.join("kubeconfig").display()));
    }
    Ok(())
}

/// API server, then everything that speaks to it.
fn start_cluster(lab: &Lab, state: &LabState, plan: &Plan, cluster: &Cluster, progress: Progress) -> Result<()> {
    let plane = plan.control_plane(&cluster.name).context("a cluster has a control plane")?;
    let (_, api) = cluster::start_api(lab, &state.programs, plane, cluster)?;
    progress.say(format!("cluster {}: the API is ready", cluster.name));
    if state.agents {
        cluster::start_operator(lab, state, plane, cluster)?;
    }
    each(plan.nodes(&cluster.name).map(|node| move || cluster::start_node(lab, state, plan, node).map(drop)))?;
    cluster::start_dns(lab, &state.programs, plane, cluster, &api)?;
    if state.mesh && cluster.mesh != Mesh::None {
        mesh::start(lab, state, plan, cluster, &api)?;
        progress.say(format!("cluster {}: etcd and clustermesh-apiserver run", cluster.name));
    }
    Ok(())
}

/// Waits until every node is Ready and, with bootstrap manifests, every session is established.
fn finish_clusters(lab: &Lab, state: &LabState, plan: &Plan, options: &Options, progress: Progress) -> Result<()> {
    let records = process::all(lab);
    std::thread::scope(|scope| {
        let mesh = scope.spawn(|| if state.mesh { mesh::connect(lab, state, plan) } else { Ok(()) });
        let clusters = each(plan.clusters.iter().map(|cluster| {
            let records = &records;
            move || finish_cluster(lab, state, plan, cluster, records, options, progress)
        }));
        clusters.and(mesh.join().unwrap_or_else(|_| bail!("a thread of the lab panicked")))
    })?;
    if state.mesh {
        progress.say("the clusters know each other");
    }
    let bgp = plan.clusters.iter().any(|cluster| !cluster.bootstrap.is_empty());
    if state.agents && !options.no_bootstrap && bgp {
        let nodes: Vec<&str> =
            plan.clusters.iter().flat_map(|cluster| plan.nodes(&cluster.name)).map(|node| node.name.as_str()).collect();
        wait_established(lab, plan, &records, &nodes)?;
        wait_links(lab, plan, &records)?;
        progress.say("every BGP session is Established");
    }
    Ok(())
}

fn finish_cluster(
    lab: &Lab,
    state: &LabState,
    plan: &Plan,
    cluster: &Cluster,
    records: &[Record],
    options: &Options,
    progress: Progress,
) -> Result<()> {
    if !state.agents {
        return Ok(());
    }
    let api = Kubernetes::connect(&lab.outer_kubeconfig(&cluster.name))?;
    if !options.no_bootstrap {
        let applied = cluster::bootstrap(&api, records, &state.source, cluster)?;
        progress.say(format!("cluster {}: {applied} bootstrap objects applied", cluster.name));
    }
    let names: Vec<&str> = plan.nodes(&cluster.name).map(|node| node.name.as_str()).collect();
    cluster::wait_ready(&api, records, &names, progress)
}

/// Waits until both families of each link between ToRs are established.
fn wait_links(lab: &Lab, plan: &Plan, records: &[Record]) -> Result<()> {
    let expected = plan.tors.iter().flat_map(|tor| {
        plan.links_of(&tor.name)
            .map(|(_, end)| (tor.name.as_str(), end.tor.as_str(), [end.v4.addr().into(), end.v6.addr().into()]))
    });
    wait_sessions(lab, plan, records, &expected.collect::<Vec<_>>())
}

/// Waits until both families of each of these nodes are established at each ToR it is cabled to, as FRR sees them.
pub(crate) fn wait_established(lab: &Lab, plan: &Plan, records: &[Record], nodes: &[&str]) -> Result<()> {
    let expected = plan.hosts.iter().filter(|host| nodes.contains(&host.name.as_str())).flat_map(|host| {
        let peers = |cable: &CablePlan| [cable.v4.addr().into(), cable.v6.addr().into()];
        host.cables.iter().map(move |cable| (cable.tor.as_str(), host.name.as_str(), peers(cable)))
    });
    wait_sessions(lab, plan, records, &expected.collect::<Vec<_>>())
}

/// Sessions of a ToR with somebody's two addresses.
type Expected<'a> = (&'a str, &'a str, [IpAddr; 2]);

fn wait_sessions(lab: &Lab, plan: &Plan, records: &[Record], expected: &[Expected<'_>]) -> Result<()> {
    wait_for("BGP sessions", BGP_LIMIT, || {
        process::check_alive(records)?;
        let mut missing = Vec::new();
        for tor in &plan.tors {
            let sessions = fabric::sessions(lab, plan, &tor.name)?;
            for (_, who, peers) in expected.iter().filter(|(at, ..)| *at == tor.name) {
                for peer in peers.map(|peer| peer.to_string()) {
                    let state = sessions.iter().find(|session| session.peer == peer).map(|session| &*session.state);
                    if state != Some("Established") {
                        missing.push(format!("{who} {peer} at {}: {}", tor.name, state.unwrap_or("none")));
                    }
                }
            }
        }
        Ok(if missing.is_empty() { Ok(()) } else { Err(missing.join(", ")) })
    })
}

/// Agents pin their programs and maps on bpffs; it is mounted on most machines already, and stays mounted.
fn mount_bpf() -> Result<()> {
    let dir = Path::new("/sys/fs/bpf");
    let here = nix::sys::statfs::statfs(dir).context("/sys/fs/bpf is missing; is the kernel built with BPF?")?;
    if here.filesystem_type().0 == BPF_FS_MAGIC {
        return Ok(());
    }
    mount(Some("bpf"), dir, Some("bpf"), MsFlags::empty(), None::<&str>).context("cannot mount bpffs on /sys/fs/bpf")
}

fn programs(options: &Options, mesh: bool, encryption: bool) -> Result<Programs> {
    let lab = std::env::current_exe().context("cannot find this program")?;
    let dir = match &options.bin_dir {
        Some(dir) => fs::canonicalize(dir).with_context(|| format!("--bin-dir {}", dir.display()))?,
        None => lab.parent().map(Path::to_owned).unwrap_or_default(),
    };
    let kubernetes = match (&options.kube_apiserver, &options.kube_controller_manager) {
        (Some(apiserver), Some(controller_manager)) => Some(RealKubernetes {
            apiserver: apiserver.clone(),
            controller_manager: controller_manager.clone(),
            scheduler: options.kube_scheduler.clone(),
        }),
        _ => None,
    };
    let programs = Programs {
        lab,
        apiserver: dir.join("causeway-lab-apiserver"),
        agent: dir.join("causeway-agent"),
        wireguard: dir.join("causeway-wireguard"),
        operator: dir.join("causeway-operator"),
        ctl: dir.join("causeway"),
        clustermesh: dir.join("clustermesh-apiserver"),
        etcd: options.etcd.clone(),
        cni_dir: dir.clone(),
        kubernetes,
    };
    let mut needed = Vec::new();
    if !options.no_kubernetes {
        match &programs.kubernetes {
            None => needed.push(programs.apiserver.clone()),
            Some(real) => {
                needed.extend([real.apiserver.clone(), real.controller_manager.clone(), programs.etcd.clone()]);
                needed.extend(real.scheduler.clone());
            }
        }
        if !options.no_agents {
            needed.extend([programs.agent.clone(), programs.operator.clone(), dir.join("causeway-cni")]);
            needed.extend(encryption.then(|| programs.wireguard.clone()));
        }
        if mesh {
            needed.extend([programs.clustermesh.clone(), programs.ctl.clone(), programs.etcd.clone()]);
        }
    }
    if let Some(missing) = needed.iter().find(|path| !path.is_file()) {
        bail!("{} is missing; build it (make build), or name its directory with --bin-dir", missing.display());
    }
    Ok(programs)
}
