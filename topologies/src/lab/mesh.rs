//! What a cluster in a mesh runs beside its API: etcd, `clustermesh-apiserver` and, where remote clusters are cached,
//! kvstoremesh; and on every host a projector that turns the mesh's Secrets into files.
//!
//! Certificates and configuration are made by `causeway clustermesh`, as a person would make them.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use topology::plan::{HostPlan, Plan};
use topology::spec::{Cluster, Mesh};

use crate::cluster::{path, spec};
use crate::down;
use crate::kubernetes::Kubernetes;
use crate::netns;
use crate::process::{self, Record};
use crate::progress::wait_for;
use crate::state::{Lab, LabState, Programs, write_whole};

/// Where etcd answers its clients.
pub(crate) const ETCD_PORT: u16 = 2379;
/// Name of the one-member etcd cluster.
const ETCD_NAME: &str = "clustermesh-apiserver";
/// Hours of history that etcd keeps.
const ETCD_COMPACTION: &str = "--auto-compaction-retention=1";
/// Secrets come from the API, and an etcd is made; both take a second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Paths on a control plane.
struct Files {
    /// Holds everything below.
    root: PathBuf,
    data: PathBuf,
    /// One directory per certificate.
    certificates: PathBuf,
    /// How the processes beside etcd reach it.
    etcd_config: PathBuf,
    /// kvstoremesh's remote clusters.
    remotes: PathBuf,
    ready: PathBuf,
}

impl Files {
    fn of(lab: &Lab, plane: &HostPlan) -> Self {
        let root = lab.host(&plane.name).join("mesh");
        Self {
            data: root.join("etcd"),
            certificates: root.join("certificates"),
            etcd_config: root.join("etcd-config.yaml"),
            remotes: root.join("clustermesh"),
            ready: root.join("projector.ready"),
            root,
        }
    }

    fn certificate(&self, what: &str) -> PathBuf {
        self.certificates.join(what)
    }
}

/// Where a node's agent finds the other clusters.
pub(crate) fn agent_config(lab: &Lab, node: &HostPlan) -> PathBuf {
    lab.host(&node.name).join("clustermesh")
}

/// Where a cluster's operator finds the other clusters: as agents do.
pub(crate) fn operator_config(lab: &Lab, plane: &HostPlan) -> PathBuf {
    Files::of(lab, plane).root.join("operator")
}

/// Makes this cluster's Secrets, and starts everything on its control plane.
pub(crate) fn start(
    lab: &Lab,
    state: &LabState,
    plan: &Plan,
    cluster: &Cluster,
    api: &Kubernetes,
) -> Result<Vec<Record>> {
    let plane = plan.control_plane(&cluster.name).context("a cluster has a control plane")?;
    let files = Files::of(lab, plane);
    fs::create_dir_all(&files.root).with_context(|| format!("cannot make {}", files.root.display()))?;
    let config = format!(
        "endpoints:\n- https://127.0.0.1:{ETCD_PORT}\ntrusted-ca-file: {0}/ca.crt\ncert-file: {0}/tls.crt\nkey-file: {0}/tls.key\n",
        files.certificate("admin").display()
    );
    write_whole(&files.etcd_config, config.as_bytes(), 0o600)?;
    enable(lab, &state.programs, plane, cluster, api)?;
    let mut records = vec![start_projector(lab, &state.programs, plane, cluster)?];
    let needed = files.certificate("admin").join("tls.key");
    wait_for("the mesh's certificates", START_LIMIT, || {
        process::check_alive(&records)?;
        let there = files.ready.exists() && needed.exists();
        Ok(if there { Ok(()) } else { Err(format!("no {}", needed.display())) })
    })?;
    let token = new_token();
    init_etcd(lab, &state.programs, plane, cluster, &token)?;
    for spec in servers(lab, &state.programs, plane, cluster, &token) {
        records.push(process::start(lab, spec)?);
    }
    Ok(records)
}

/// A node's projector: the agent's view of the other clusters.
pub(crate) fn start_agent_projector(
    lab: &Lab,
    programs: &Programs,
    node: &HostPlan,
    cluster: &Cluster,
) -> Result<Record> {
    let volumes = vec![volume(&agent_config(lab, node), "cilium-clustermesh")];
    projector(lab, programs, node, cluster, volumes, None)
}

fn start_projector(lab: &Lab, programs: &Programs, plane: &HostPlan, cluster: &Cluster) -> Result<Record> {
    let files = Files::of(lab, plane);
    let mut volumes: Vec<String> = ["server", "admin", "remote", "local"]
        .map(|what| volume(&files.certificate(what), &format!("clustermesh-apiserver-{what}-cert")))
        .into();
    volumes.push(volume(&files.remotes, "cilium-kvstoremesh"));
    volumes.push(volume(&operator_config(lab, plane), "cilium-clustermesh"));
    projector(lab, programs, plane, cluster, volumes, Some(&files.ready))
}

fn volume(dir: &Path, secret: &str) -> String {
    format!("{}={secret}", dir.display())
}

fn projector(
    lab: &Lab,
    programs: &Programs,
    host: &HostPlan,
    cluster: &Cluster,
    volumes: Vec<String>,
    ready: Option<&Path>,
) -> Result<Record> {
    let kubeconfig = path(&lab.kubeconfig(&cluster.name, "kubelet"));
    let mut argv = vec![path(&programs.lab), "projector".into(), "--kubeconfig".into(), kubeconfig];
    argv.extend(volumes.into_iter().flat_map(|volume| ["--volume".to_owned(), volume]));
    if let Some(file) = ready {
        argv.extend(["--ready-file".into(), path(file)]);
    }
    process::start(lab, spec(lab, &format!("projector-{}", host.name), Some(host), argv))
}

/// The addresses under which a control plane is reached.
fn addresses(plane: &HostPlan) -> [IpAddr; 2] {
    [plane.loopback.v4.into(), plane.loopback.v6.into()]
}

fn https(address: IpAddr) -> String {
    format!("https://{}", SocketAddr::new(address, ETCD_PORT))
}

/// etcd, the apiserver and, where wanted, the cache.
fn servers(lab: &Lab, programs: &Programs, plane: &HostPlan, cluster: &Cluster, token: &str) -> Vec<process::Spec> {
    let files = Files::of(lab, plane);
    let named = |what: &str, argv: Vec<String>| spec(lab, &format!("{what}-{}", plane.name), Some(plane), argv);
    let mut specs = vec![
        named("etcd", etcd(programs, plane, &files, token)),
        named("mesh-apiserver", apiserver(lab, programs, cluster, &files)),
    ];
    if cluster.mesh == Mesh::Cached {
        specs.push(named("kvstoremesh", kvstoremesh(programs, cluster, &files)));
    }
    specs
}

/// etcd makes the number of its data set from this, so that every data directory needs one of its own: readers tell by
/// the number that they meet another store.
fn new_token() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{ETCD_NAME}-{:x}", since.as_nanos())
}

const TOKEN_FLAG: &str = "--initial-cluster-token=";

fn etcd(programs: &Programs, plane: &HostPlan, files: &Files, token: &str) -> Vec<String> {
    let server = files.certificate("server");
    let own = addresses(plane).map(https).join(",");
    vec![
        path(&programs.etcd),
        format!("--name={ETCD_NAME}"),
        format!("--data-dir={}", files.data.display()),
        format!("{TOKEN_FLAG}{token}"),
        "--client-cert-auth".into(),
        format!("--trusted-ca-file={}/ca.crt", server.display()),
        format!("--cert-file={}/tls.crt", server.display()),
        format!("--key-file={}/tls.key", server.display()),
        format!("--listen-client-urls=https://127.0.0.1:{ETCD_PORT},{own}"),
        format!("--advertise-client-urls={own}"),
        ETCD_COMPACTION.into(),
    ]
}

/// What both of our processes beside etcd are told.
fn identity(programs: &Programs, role: &str, cluster: &Cluster, files: &Files) -> Vec<String> {
    vec![
        path(&programs.clustermesh),
        role.into(),
        format!("--cluster-name={}", cluster.name),
        format!("--cluster-id={}", cluster.id),
        format!("--kvstore-opt=etcd.config={}", files.etcd_config.display()),
    ]
}

fn apiserver(lab: &Lab, programs: &Programs, cluster: &Cluster, files: &Files) -> Vec<String> {
    let mut argv = identity(programs, "clustermesh", cluster, files);
    argv.push(format!("--k8s-kubeconfig-path={}", lab.kubeconfig(&cluster.name, "agent").display()));
    argv.extend(["--health-port=9880".into(), "--prometheus-serve-addr=:9962".into()]);
    argv.push("--clustermesh-enable-mcs-api=true".into());
    argv
}

fn kvstoremesh(programs: &Programs, cluster: &Cluster, files: &Files) -> Vec<String> {
    let mut argv = identity(programs, "kvstoremesh", cluster, files);
    argv.push(format!("--clustermesh-config={}", files.remotes.display()));
    argv.extend(["--health-port=9881".into(), "--prometheus-serve-addr=:9964".into()]);
    argv
}

/// Makes an empty etcd with the mesh's users and roles.
fn init_etcd(lab: &Lab, programs: &Programs, plane: &HostPlan, cluster: &Cluster, token: &str) -> Result<()> {
    let files = Files::of(lab, plane);
    let argv = [
        path(&programs.clustermesh),
        "etcdinit".into(),
        format!("--etcd-cluster-name={ETCD_NAME}"),
        format!("--etcd-initial-cluster-token={token}"),
        format!("--etcd-data-dir={}", files.data.display()),
        format!("--cluster-name={}", cluster.name),
        format!("--etcd-binary-location={}", programs.etcd.display()),
    ];
    let log = lab.logs().join(format!("etcdinit-{}.log", plane.name));
    netns::inside(&netns::path(&lab.netns(&plane.name)), || run_to_end(&argv, &log))
}

/// `start NAME --fresh`: an etcd that has lost everything, as after a move to another machine.
pub(crate) fn start_fresh(lab: &Lab, name: &str) -> Result<()> {
    let mut record = process::find(lab, name)?;
    let state = lab.load()?;
    let plan = state.plan()?;
    let plane = name.strip_prefix("etcd-").and_then(|host| plan.host(host));
    let Some((plane, cluster)) = plane.and_then(|plane| Some((plane, plan.cluster(plane.cluster_name())?))) else {
        bail!("{name} is no etcd of a mesh; --fresh is for those");
    };
    if record.id.alive() {
        bail!("{name} runs, as process {}; end it first: causeway-lab kill {} {name}", record.id.pid, lab.name);
    }
    down::remove_tree(&Files::of(lab, plane).data)?;
    let token = new_token();
    init_etcd(lab, &state.programs, plane, cluster, &token)?;
    for word in record.spec.argv.iter_mut().filter(|word| word.starts_with(TOKEN_FLAG)) {
        *word = format!("{TOKEN_FLAG}{token}");
    }
    process::start(lab, record.spec)?;
    Ok(())
}

/// `causeway clustermesh enable`: authority and certificates.
fn enable(lab: &Lab, programs: &Programs, plane: &HostPlan, cluster: &Cluster, api: &Kubernetes) -> Result<()> {
    // Where an installation says which cluster it is.
    api.apply_own(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cilium-config", "namespace": "kube-system"},
        "data": {"cluster-name": cluster.name, "cluster-id": cluster.id.to_string()},
    }))
    .context("cannot make the ConfigMap cilium-config")?;
    let kubeconfig = format!("--kubeconfig={}", lab.outer_kubeconfig(&cluster.name).display());
    let argv = ["clustermesh", "enable", "--secrets-only", &kubeconfig].map(String::from);
    let argv: Vec<String> = [path(&programs.ctl)].into_iter().chain(argv).collect();
    run_to_end(&argv, &lab.logs().join(format!("clustermesh-enable-{}.log", plane.name)))
}

/// `causeway clustermesh connect`, for every pair of clusters in the mesh. Needs the kubeconfig of all of them.
pub(crate) fn connect(lab: &Lab, state: &LabState, plan: &Plan) -> Result<()> {
    let meshed: Vec<&Cluster> = plan.clusters.iter().filter(|cluster| cluster.mesh != Mesh::None).collect();
    for (index, here) in meshed.iter().enumerate() {
        for there in &meshed[index + 1..] {
            connect_pair(lab, &state.programs, plan, here, there)?;
        }
    }
    Ok(())
}

fn connect_pair(lab: &Lab, programs: &Programs, plan: &Plan, here: &Cluster, there: &Cluster) -> Result<()> {
    let endpoints = |flag: &str, cluster: &Cluster| {
        let plane = plan.control_plane(&cluster.name);
        let addresses = plane.into_iter().flat_map(addresses);
        addresses.map(|address| format!("--{flag}={}", SocketAddr::new(address, ETCD_PORT))).collect::<Vec<_>>()
    };
    let mode = if here.mesh == Mesh::Cached { "cached" } else { "direct" };
    let mut argv = vec![
        path(&programs.ctl),
        "clustermesh".into(),
        "connect".into(),
        format!("--kubeconfig={}", lab.dir.join("kubeconfig").display()),
        format!("--context={}", here.name),
        format!("--destination-context={}", there.name),
        format!("--mode={mode}"),
    ];
    argv.extend(endpoints("endpoint", there));
    argv.extend(endpoints("source-endpoint", here));
    run_to_end(&argv, &lab.logs().join(format!("clustermesh-connect-{}-{}.log", here.name, there.name)))
}

/// Runs a command whose output goes to a log; the end of it is the error's text.
fn run_to_end(argv: &[String], log: &Path) -> Result<()> {
    let (program, arguments) = argv.split_first().context("no command")?;
    let file = fs::OpenOptions::new().create(true).append(true).open(log);
    let file = file.with_context(|| format!("cannot open the log {}", log.display()))?;
    let status = Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("cannot run {program}; is it built?"))?;
    if !status.success() {
        bail!("{} failed ({status}):\n{}", argv.join(" "), process::tail(log, 15));
    }
    Ok(())
}
