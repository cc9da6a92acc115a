//! The processes of one cluster: API server, relay, DNS, operator, and on each node kubelet and agent.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use topology::plan::{API_PORT, HostPlan, Plan};
use topology::spec::{Cluster, Mesh};

use crate::encryption;
use crate::kubernetes::Kubernetes;
use crate::mesh;
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

/// Where the DNS server answers; the place of its Service in the service ranges is what kubeadm chooses.
const DNS_PORT: u16 = 53;
const DNS_PLACE: u8 = 10;
const DNS_SERVICE: &str = "kube-dns";
/// Of the etcd behind a real Kubernetes API: clients and peers.
const REAL_ETCD_PORTS: [u16; 2] = [2383, 2384];

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
            .specs(lab, programs, plane, cluster)
            .into_iter()
            .map(|spec| process::start(lab, spec))
            .collect::<Result<Vec<_>>>()?,
    };
    let port_file = port_file(lab, cluster);
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

fn port_file(lab: &Lab, cluster: &Cluster) -> PathBuf {
    lab.cluster(&cluster.name).join("relay.port")
}

/// Where the relay of a cluster that is up listens on 127.0.0.1.
pub(crate) fn relay_port(lab: &Lab, cluster: &Cluster) -> Result<u16> {
    let file = port_file(lab, cluster);
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    text.trim().parse().with_context(|| format!("{} holds no port", file.display()))
}

/// The fixed addresses of the Service kube-dns.
fn dns_addresses(cluster: &Cluster) -> [IpAddr; 2] {
    let v4 = u32::from(cluster.services.v4.network()) + u32::from(DNS_PLACE);
    let v6 = u128::from(cluster.services.v6.network()) + u128::from(DNS_PLACE);
    [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())]
}

/// Starts the DNS server on the control plane, with the Service under which pods find it.
pub(crate) fn start_dns(
    lab: &Lab,
    programs: &Programs,
    plane: &HostPlan,
    cluster: &Cluster,
    api: &Kubernetes,
) -> Result<Record> {
    let [v4, v6] = [IpAddr::V4(plane.loopback.v4), IpAddr::V6(plane.loopback.v6)];
    let argv = [
        path(&programs.lab),
        "dns".into(),
        "--kubeconfig".into(),
        path(&lab.kubeconfig(&cluster.name, "agent")),
        "--listen".into(),
        SocketAddr::new(v4, DNS_PORT).to_string(),
        "--listen".into(),
        SocketAddr::new(v6, DNS_PORT).to_string(),
    ];
    let record = process::start(lab, spec(lab, &format!("dns-{}", plane.name), Some(plane), argv.to_vec()))?;
    let ports = json!([{"name": "dns", "port": DNS_PORT, "protocol": "UDP"}, {"name": "dns-tcp", "port": DNS_PORT, "protocol": "TCP"}]);
    let ips = dns_addresses(cluster);
    api.apply_own(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": DNS_SERVICE, "namespace": "kube-system", "labels": {"k8s-app": DNS_SERVICE}},
        "spec": {"clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack", "ports": ports},
    }))
    .context("cannot make the Service kube-dns")?;
    for (family, address) in [("IPv4", v4), ("IPv6", v6)] {
        api.apply_own(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("{DNS_SERVICE}-{}", family.to_ascii_lowercase()), "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": DNS_SERVICE,
                    "endpointslice.kubernetes.io/managed-by": "causeway-lab"}},
            "addressType": family, "ports": ports,
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        }))
        .context("cannot make the EndpointSlices of kube-dns")?;
    }
    Ok(record)
}

/// Starts the operator.
pub(crate) fn start_operator(lab: &Lab, state: &LabState, plane: &HostPlan, cluster: &Cluster) -> Result<Record> {
    let mut argv = vec![
        path(&state.programs.operator),
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
    if state.mesh && cluster.mesh != Mesh::None {
        argv.extend(["--cluster-name".into(), cluster.name.clone(), "--cluster-id".into(), cluster.id.to_string()]);
        argv.extend(["--clustermesh-config".into(), path(&mesh::operator_config(lab, plane))]);
        argv.extend(["--clustermesh-enable-mcs-api=true".into(), "--clustermesh-enable-endpoint-sync=true".into()]);
    }
    process::start(lab, spec(lab, &format!("operator-{}", plane.name), Some(plane), argv))
}

/// Starts a node's kubelet role and, unless the lab goes without, its agent and what that needs.
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
    let meshed = state.mesh && cluster.mesh != Mesh::None;
    if state.agents && meshed {
        records.push(mesh::start_agent_projector(lab, &state.programs, node, cluster)?);
    }
    if state.agents {
        records.extend(encryption::start(lab, &state.programs, node, cluster)?);
        let mut argv = vec![
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
        if meshed {
            argv.extend(["--clustermesh-config".into(), path(&mesh::agent_config(lab, node))]);
        }
        argv.extend(encryption::agent_options(lab, plan, node, cluster));
        records.push(process::start(lab, spec(lab, &format!("agent-{}", node.name), Some(node), argv))?);
    }
    let mut argv = vec![
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
    argv.extend(dns_addresses(cluster).iter().flat_map(|server| ["--cluster-dns".into(), server.to_string()]));
    records.push(process::start(lab, spec(lab, &format!("kubelet-{}", node.name), Some(node), argv))?);
    Ok(records)
}

/// The files that `bootstrap` names, those of a directory in the order of their names.
pub(crate) fn manifests(source: &Path, cluster: &Cluster) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for name in &cluster.bootstrap {
        let place = source.join(name);
        if place.is_file() {
            files.push(place);
            continue;
        }
        let entries = std::fs::read_dir(&place).with_context(|| {
            format!("topology.toml: cluster.bootstrap: {} is not there; correct the name", place.display())
        })?;
        let mut inside: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
            .collect();
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

/// Applies the cluster's bootstrap manifests, as soon as their kinds are known.
pub(crate) fn bootstrap(api: &Kubernetes, records: &[Record], source: &Path, cluster: &Cluster) -> Result<usize> {
    let mut applied = 0;
    for file in manifests(source, cluster)? {
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
    fn specs(&self, lab: &Lab, programs: &Programs, plane: &HostPlan, cluster: &Cluster) -> Vec<Spec> {
        let dir = lab.cluster(&cluster.name);
        let file = |name: &str| path(&dir.join(name));
        let ranges = format!("{},{}", cluster.services.v4, cluster.services.v6);
        let kubeconfig = path(&lab.kubeconfig(&cluster.name, "admin"));
        let named = |what: &str, argv: Vec<String>| spec(lab, &format!("{what}-{}", plane.name), Some(plane), argv);
        // The default ports are the mesh's.
        let [clients, peers] = REAL_ETCD_PORTS.map(|port| format!("http://127.0.0.1:{port}"));
        let etcd = vec![
            path(&programs.etcd),
            format!("--data-dir={}", file("etcd")),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
        ];
        let apiserver = vec![
            path(&self.apiserver),
            format!("--etcd-servers={clients}"),
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
        let fixed = [named("kube-etcd", etcd), named("apiserver", apiserver), named("controllers", controllers)];
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

pub(crate) fn spec(lab: &Lab, name: &str, host: Option<&HostPlan>, argv: Vec<String>) -> Spec {
    let env = [("RUST_BACKTRACE", "1"), ("NO_COLOR", "1")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let host = host.map(|host| host.name.clone());
    Spec { name: name.into(), host, argv, env: BTreeMap::from(env), log: lab.logs().join(format!("{name}.log")) }
}

pub(crate) fn path(path: &Path) -> String {
    path.display().to_string()
}
