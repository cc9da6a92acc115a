//! The processes of one cluster: API server, relay, operator, and on each node kubelet and agent.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use topology::plan::{API_PORT, HostPlan, Plan};
use topology::spec::Cluster;

use crate::kubernetes::Kubernetes;
use crate::pki;
use crate::process::{self, Record, Spec};
use crate::progress::{Progress, wait_for};
use crate::state::{Lab, LabState, Programs, RealKubernetes};

/// Part of each cluster range that one node gets, as Cilium's defaults have it for IPv4.
const NODE_MASK_V4: u8 = 24;
const NODE_MASK_V6: u8 = 64;
/// Rows of an agent's flow table: enough for tests, small enough for many labs at once.
const FLOW_ENTRIES: u32 = 65_536;

/// Takes 2 s on an idle machine; tests run on busy ones.
const API_LIMIT: Duration = Duration::from_secs(60);

/// Starts the API server and the relay, and returns a connection once `/readyz` says ok.
pub(crate) fn start_api(
    lab: &Lab,
    programs: &Programs,
    plane: &HostPlan,
    cluster: &Cluster,
) -> Result<(Vec<Record>, Kubernetes)> {
    let mut records = match &programs.kubernetes {
        None => vec![process::start(lab, stand_in(lab, programs, plane, cluster))?],
        Some(real) => real
            .specs(lab, plane, cluster)
            .into_iter()
            .map(|spec| process::start(lab, spec))
            .collect::<Result<Vec<_>>>()?,
    };
    let port_file = lab.cluster(&cluster.name).join("relay.port");
    records.push(process::start(lab, relay(lab, programs, plane, &port_file))?);
    let port = wait_for("the relay's port", API_LIMIT, || {
        process::check_alive(&records)?;
        let text = std::fs::read_to_string(&port_file).unwrap_or_default();
        Ok(text.parse::<u16>().map_err(|_| "it has not written it".to_owned()))
    })?;
    pki::outer_kubeconfig(lab, cluster, port)?;
    let api = Kubernetes::connect(&lab.outer_kubeconfig(&cluster.name))?;
    wait_for("the API server", API_LIMIT, || {
        process::check_alive(&records)?;
        Ok(api.not_ready().map_or(Ok(()), Err))
    })?;
    Ok((records, api))
}

/// Starts the operator.
pub(crate) fn start_operator(lab: &Lab, programs: &Programs, plane: &HostPlan, cluster: &Cluster) -> Result<Record> {
    let argv = [
        path(&programs.operator),
        "--kubeconfig".into(),
        path(&lab.kubeconfig(&cluster.name, "operator")),
        "--allocate-node-cidrs=true".into(),
        "--cluster-pool-ipv4-cidr".into(),
        cluster.pods.v4.to_string(),
        "--cluster-pool-ipv4-mask-size".into(),
        NODE_MASK_V4.to_string(),
        "--cluster-pool-ipv6-cidr".into(),
        cluster.pods.v6.to_string(),
        "--cluster-pool-ipv6-mask-size".into(),
        NODE_MASK_V6.to_string(),
    ];
    process::start(lab, spec(lab, &format!("operator-{}", plane.name), Some(plane), argv.to_vec()))
}

/// Starts a node's kubelet role and, unless the lab goes without, its agent.
pub(crate) fn start_node(lab: &Lab, state: &LabState, plan: &Plan, node: &HostPlan) -> Result<Vec<Record>> {
    let name = node.cluster_name();
    let cluster = plan
        .clusters
        .iter()
        .find(|cluster| cluster.name == name)
        .with_context(|| format!("{} belongs to no cluster", node.name))?;
    let dir = lab.host(&node.name);
    let cni = dir.join("cni");
    std::fs::create_dir_all(&cni).with_context(|| format!("cannot make {}", cni.display()))?;
    let mut records = Vec::new();
    if state.agents {
        let argv = [
            path(&state.programs.agent),
            "--node-name".into(),
            node.name.clone(),
            "--kubeconfig".into(),
            path(&lab.kubeconfig(&cluster.name, "agent")),
            "--cluster-name".into(),
            cluster.name.clone(),
            "--cluster-id".into(),
            cluster.id.to_string(),
            "--socket".into(),
            path(&dir.join("agent.sock")),
            "--state-dir".into(),
            path(&dir),
            "--bpf-root".into(),
            path(&lab.bpf(&node.name)),
            "--cni-conf-dir".into(),
            path(&cni),
            "--metrics-addr".into(),
            "0.0.0.0:9962".into(),
            "--flow-entries".into(),
            FLOW_ENTRIES.to_string(),
        ];
        records.push(process::start(lab, spec(lab, &format!("agent-{}", node.name), Some(node), argv.to_vec()))?);
    }
    let argv = [
        path(&state.programs.lab),
        "kubelet".into(),
        "--lab".into(),
        lab.name.clone(),
        "--node-name".into(),
        node.name.clone(),
        "--node-ip".into(),
        node.loopback.v4.to_string(),
        "--node-ip".into(),
        node.loopback.v6.to_string(),
        "--kubeconfig".into(),
        path(&lab.kubeconfig(&cluster.name, "kubelet")),
        "--state-dir".into(),
        path(&dir),
        "--cni-conf-dir".into(),
        path(&cni),
        "--cni-bin-dir".into(),
        path(&state.programs.cni_dir),
        "--pod-log-dir".into(),
        path(&lab.pod_logs()),
    ];
    records.push(process::start(lab, spec(lab, &format!("kubelet-{}", node.name), Some(node), argv.to_vec()))?);
    Ok(records)
}

/// Applies the cluster's bootstrap manifests, as soon as their kinds are known.
pub(crate) fn bootstrap(api: &Kubernetes, records: &[Record], source: &Path, cluster: &Cluster) -> Result<usize> {
    let mut applied = 0;
    for manifest in &cluster.bootstrap {
        let file = source.join(manifest);
        applied += wait_for(&format!("the kinds in {}", file.display()), API_LIMIT, || {
            process::check_alive(records)?;
            api.apply(&file)
        })?;
    }
    Ok(applied)
}

/// Waits until these nodes are Ready.
pub(crate) fn wait_ready(api: &Kubernetes, records: &[Record], names: &[&str], progress: Progress) -> Result<()> {
    let mut seen: Vec<String> = Vec::new();
    wait_for("nodes to be Ready", API_LIMIT, || {
        process::check_alive(records)?;
        let nodes = api.nodes()?;
        let mut missing = Vec::new();
        for name in names {
            match nodes.iter().find(|node| node.name == *name) {
                Some(node) if node.ready => {
                    if !seen.iter().any(|seen| seen == name) {
                        progress.say(format!("node {name} is Ready"));
                        seen.push((*name).to_owned());
                    }
                }
                Some(node) => missing.push(format!("{name}: {}", node.reason)),
                None => missing.push(format!("{name}: not registered")),
            }
        }
        Ok(if missing.is_empty() { Ok(()) } else { Err(missing.join("; ")) })
    })
}

fn stand_in(lab: &Lab, programs: &Programs, plane: &HostPlan, cluster: &Cluster) -> Spec {
    let dir = lab.cluster(&cluster.name);
    let argv = [
        path(&programs.apiserver),
        "--listen".into(),
        format!("{}:{API_PORT}", plane.loopback.v4),
        "--listen".into(),
        format!("[{}]:{API_PORT}", plane.loopback.v6),
        "--advertise-address".into(),
        plane.loopback.v4.to_string(),
        "--advertise-address".into(),
        plane.loopback.v6.to_string(),
        "--tls-cert-file".into(),
        path(&dir.join("api.crt")),
        "--tls-private-key-file".into(),
        path(&dir.join("api.key")),
        "--client-ca-file".into(),
        path(&dir.join("ca.crt")),
        "--pod-log-dir".into(),
        path(&lab.pod_logs()),
        "--service-cluster-ip-range".into(),
        format!("{},{}", cluster.services.v4, cluster.services.v6),
        "--ready-file".into(),
        path(&dir.join("api.ready")),
    ];
    spec(lab, &format!("apiserver-{}", plane.name), Some(plane), argv.to_vec())
}

impl RealKubernetes {
    /// etcd, kube-apiserver, kube-controller-manager and, if given, kube-scheduler.
    fn specs(&self, lab: &Lab, plane: &HostPlan, cluster: &Cluster) -> Vec<Spec> {
        let dir = lab.cluster(&cluster.name);
        let file = |name: &str| path(&dir.join(name));
        let ranges = format!("{},{}", cluster.services.v4, cluster.services.v6);
        let kubeconfig = path(&lab.kubeconfig(&cluster.name, "admin"));
        let named = |what: &str, argv: Vec<String>| spec(lab, &format!("{what}-{}", plane.name), Some(plane), argv);
        let etcd = vec![path(&self.etcd), format!("--data-dir={}", file("etcd"))];
        let apiserver = vec![
            path(&self.apiserver),
            "--etcd-servers=http://127.0.0.1:2379".into(),
            format!("--bind-address={}", plane.loopback.v4),
            format!("--advertise-address={}", plane.loopback.v4),
            format!("--secure-port={API_PORT}"),
            format!("--tls-cert-file={}", file("api.crt")),
            format!("--tls-private-key-file={}", file("api.key")),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--service-cluster-ip-range={ranges}"),
            format!("--service-account-key-file={}", file("service-account.pub")),
            format!("--service-account-signing-key-file={}", file("service-account.key")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            "--disable-admission-plugins=ServiceAccount".into(),
            "--allow-privileged=true".into(),
        ];
        let controllers = vec![
            path(&self.controller_manager),
            format!("--kubeconfig={kubeconfig}"),
            format!("--service-account-private-key-file={}", file("service-account.key")),
            format!("--root-ca-file={}", file("ca.crt")),
            format!("--service-cluster-ip-range={ranges}"),
            "--allocate-node-cidrs=false".into(),
            "--leader-elect=false".into(),
        ];
        let scheduler = self.scheduler.as_ref().map(|scheduler| {
            let argv = vec![path(scheduler), format!("--kubeconfig={kubeconfig}"), "--leader-elect=false".into()];
            named("scheduler", argv)
        });
        let fixed = [named("etcd", etcd), named("apiserver", apiserver), named("controllers", controllers)];
        fixed.into_iter().chain(scheduler).collect()
    }
}

fn relay(lab: &Lab, programs: &Programs, plane: &HostPlan, port_file: &Path) -> Spec {
    let argv = [
        path(&programs.lab),
        "relay".into(),
        "--netns".into(),
        path(&crate::netns::path(&lab.netns(&plane.name))),
        "--to".into(),
        format!("{}:{API_PORT}", plane.loopback.v4),
        "--port-file".into(),
        path(port_file),
    ];
    spec(lab, &format!("relay-{}", plane.name), None, argv.to_vec())
}

fn spec(lab: &Lab, name: &str, host: Option<&HostPlan>, argv: Vec<String>) -> Spec {
    let env = [("RUST_BACKTRACE", "1"), ("NO_COLOR", "1")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let host = host.map(|host| host.name.clone());
    Spec { name: name.into(), host, argv, env: BTreeMap::from(env), log: lab.logs().join(format!("{name}.log")) }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}
