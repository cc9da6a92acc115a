//! `up`: reads a topology, realises it and waits until it works.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::mount::{MsFlags, mount};
use topology::{Plan, Topology};

use crate::cluster;
use crate::down;
use crate::fabric;
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
    /// Another node of the first cluster, cabled as its last one; may be given again
    #[arg(long, value_name = "NODE")]
    add_node: Vec<String>,
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
    for node in &options.add_node {
        topology.add_node(node)?;
    }
    let plan = Plan::new(&topology)?;
    fabric::check(&plan)?;
    if !nix::unistd::geteuid().is_root() {
        bail!("a lab makes network namespaces and loads eBPF programs: run as root");
    }
    let lab = Lab::named(options.name.as_deref().unwrap_or(&topology.name))?;
    let source = fs::canonicalize(&options.dir).with_context(|| format!("no {}", options.dir.display()))?;
    let source = if source.is_file() { source.parent().map(Path::to_owned).unwrap_or(source) } else { source };
    for manifest in topology.clusters.iter().flat_map(|cluster| &cluster.bootstrap) {
        if !source.join(manifest).is_file() {
            bail!(
                "topology.toml: cluster.bootstrap: {} is not there; correct the name",
                source.join(manifest).display()
            );
        }
    }
    let state = LabState { topology, source, programs: programs(options)?, agents: !options.no_agents, created: now() };
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
    finish_clusters(lab, state, plan, options, progress)?;
    if let Some(first) = plan.clusters.first() {
        let link = lab.dir.join("kubeconfig");
        progress.say(format!("up; export KUBECONFIG={}", link.display()));
        debug_assert!(lab.outer_kubeconfig(&first.name).is_file());
    }
    Ok(())
}

/// API server, then everything that speaks to it.
fn start_cluster(
    lab: &Lab,
    state: &LabState,
    plan: &Plan,
    cluster: &topology::spec::Cluster,
    progress: Progress,
) -> Result<()> {
    let plane = plan.control_plane(&cluster.name).context("a cluster has a control plane")?;
    cluster::start_api(lab, &state.programs, plane, cluster)?;
    progress.say(format!("cluster {}: the API is ready", cluster.name));
    if plan.clusters.first() == Some(cluster) {
        symlink(lab.outer_kubeconfig(&cluster.name), lab.dir.join("kubeconfig")).context("cannot link kubeconfig")?;
    }
    if state.agents {
        cluster::start_operator(lab, &state.programs, plane, cluster)?;
    }
    each(plan.nodes(&cluster.name).map(|node| move || cluster::start_node(lab, state, plan, node).map(drop)))
}

/// Waits until every node is Ready and, with bootstrap manifests, every session is established.
fn finish_clusters(lab: &Lab, state: &LabState, plan: &Plan, options: &Options, progress: Progress) -> Result<()> {
    let records = process::all(lab);
    for cluster in &plan.clusters {
        let api = crate::kubernetes::Kubernetes::connect(&lab.outer_kubeconfig(&cluster.name))?;
        if state.agents && !options.no_bootstrap {
            let applied = cluster::bootstrap(&api, &records, &state.source, cluster)?;
            progress.say(format!("cluster {}: {applied} bootstrap objects applied", cluster.name));
        }
        if state.agents {
            let names: Vec<&str> = plan.nodes(&cluster.name).map(|node| node.name.as_str()).collect();
            cluster::wait_ready(&api, &records, &names, progress)?;
        }
    }
    let bgp = plan.clusters.iter().any(|cluster| !cluster.bootstrap.is_empty());
    if state.agents && !options.no_bootstrap && bgp {
        let nodes: Vec<&str> =
            plan.clusters.iter().flat_map(|cluster| plan.nodes(&cluster.name)).map(|node| node.name.as_str()).collect();
        wait_established(lab, plan, &records, &nodes)?;
        progress.say("every BGP session is Established");
    }
    Ok(())
}

/// Waits until both families of each of these nodes are established at each ToR it is cabled to, as FRR sees them.
pub(crate) fn wait_established(lab: &Lab, plan: &Plan, records: &[Record], nodes: &[&str]) -> Result<()> {
    wait_for("BGP sessions", BGP_LIMIT, || {
        process::check_alive(records)?;
        let mut missing = Vec::new();
        for tor in &plan.tors {
            let sessions = fabric::sessions(lab, plan, &tor.name)?;
            let cabled = plan.cables_of(&tor.name).filter(|(host, _)| nodes.contains(&host.name.as_str()));
            for (host, cable) in cabled {
                for peer in [cable.v4.addr().to_string(), cable.v6.addr().to_string()] {
                    let state = sessions.iter().find(|session| session.peer == peer).map(|session| &*session.state);
                    if state != Some("Established") {
                        missing.push(format!("{} {peer} at {}: {}", host.name, tor.name, state.unwrap_or("none")));
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

fn programs(options: &Options) -> Result<Programs> {
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
            etcd: options.etcd.clone(),
        }),
        _ => None,
    };
    let programs = Programs {
        lab,
        apiserver: dir.join("causeway-lab-apiserver"),
        agent: dir.join("causeway-agent"),
        operator: dir.join("causeway-operator"),
        cni_dir: dir.clone(),
        kubernetes,
    };
    let mut needed = Vec::new();
    if !options.no_kubernetes {
        match &programs.kubernetes {
            None => needed.push(programs.apiserver.clone()),
            Some(real) => {
                needed.extend([real.apiserver.clone(), real.controller_manager.clone(), real.etcd.clone()]);
                needed.extend(real.scheduler.clone());
            }
        }
        if !options.no_agents {
            needed.extend([programs.agent.clone(), programs.operator.clone(), dir.join("causeway-cni")]);
        }
    }
    if let Some(missing) = needed.iter().find(|path| !path.is_file()) {
        bail!("{} is missing; build it (make build), or name its directory with --bin-dir", missing.display());
    }
    Ok(programs)
}
