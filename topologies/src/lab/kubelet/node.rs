//! The Node object and its Lease. Ready is what the CNI plugins' STATUS says.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tracing::{info, warn};

use super::Kubelet;

/// Between two looks at CNI while it is not ready, and while it is.
const ASK_EAGER: Duration = Duration::from_millis(100);
const ASK_CALM: Duration = Duration::from_secs(5);
/// An agent that restarts is no reason to take a node's pods out of service: the datapath goes on without it.
const STATUS_GRACE: Duration = Duration::from_secs(60);
/// As kubelet's defaults: the Lease is renewed every 10 s and holds for 40.
const HEARTBEAT: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i32 = 40;
const LEASE_NAMESPACE: &str = "kube-node-lease";
const MAX_PODS: &str = "110";

/// Registers the node and keeps its status true.
pub(crate) async fn run(kubelet: Arc<Kubelet>) -> Result<()> {
    let nodes: Api<Node> = Api::all(kubelet.client.clone());
    let leases: Api<Lease> = Api::namespaced(kubelet.client.clone(), LEASE_NAMESPACE);
    let mut reported: Option<std::result::Result<(), String>> = None;
    let mut transition = Timestamp::now();
    let mut beat: Option<Instant> = None;
    let mut worked: Option<Instant> = None;
    loop {
        let mut cni = kubelet.cni.status().await.map_err(|error| format!("{error:#}"));
        match &cni {
            Ok(()) => worked = Some(Instant::now()),
            Err(_) if worked.is_some_and(|worked| worked.elapsed() < STATUS_GRACE) => cni = Ok(()),
            Err(_) => {}
        }
        let ready_changed = reported.as_ref().map(Result::is_ok) != Some(cni.is_ok());
        let due = beat.is_none_or(|beat| beat.elapsed() >= HEARTBEAT);
        if ready_changed {
            transition = Timestamp::now();
        }
        if due || reported.as_ref() != Some(&cni) {
            let status = status(&kubelet.options.node_name, &kubelet.options.node_ip, &cni, transition);
            match write(&nodes, &kubelet.options.node_name, &status).await {
                Ok(()) => {
                    if ready_changed {
                        info!(ready = cni.is_ok(), reason = cni.as_ref().err(), "node");
                    }
                    reported = Some(cni.clone());
                    beat = Some(Instant::now());
                }
                Err(error) => warn!(error = format!("{error:#}"), "node status not written; tries again"),
            }
            if due && let Err(error) = renew(&leases, &kubelet.options.node_name).await {
                warn!(error = format!("{error:#}"), "lease not renewed; tries again");
            }
        }
        let calm = cni.is_ok() && reported.as_ref().is_some_and(Result::is_ok);
        tokio::time::sleep(if calm { ASK_CALM } else { ASK_EAGER }).await;
    }
}

async fn write(nodes: &Api<Node>, name: &str, status: &NodeStatus) -> Result<()> {
    let patch = json!({ "status": status });
    match nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(answer)) if answer.code == 404 => {}
        Err(error) => return Err(error).context("status of the Node"),
    }
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let architecture = architecture();
    let node = Node {
        metadata: ObjectMeta {
            name: Some(name.into()),
            labels: Some(BTreeMap::from([
                label("kubernetes.io/hostname", name),
                label("kubernetes.io/os", "linux"),
                label("kubernetes.io/arch", architecture),
            ])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec::default()),
        status: None,
    };
    match nodes.create(&PostParams::default(), &node).await {
        Ok(_) => {}
        Err(kube::Error::Api(answer)) if answer.code == 409 => {}
        Err(error) => return Err(error).context("creating the Node"),
    }
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await.context("status of the Node")?;
    Ok(())
}

async fn renew(leases: &Api<Lease>, name: &str) -> Result<()> {
    let spec = LeaseSpec {
        holder_identity: Some(name.into()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..LeaseSpec::default()
    };
    match leases.patch(name, &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await {
        Ok(_) => return Ok(()),
        Err(kube::Error::Api(answer)) if answer.code == 404 => {}
        Err(error) => return Err(error.into()),
    }
    let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    leases.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await?;
    Ok(())
}

fn status(name: &str, ips: &[IpAddr], cni: &std::result::Result<(), String>, transition: Timestamp) -> NodeStatus {
    let address = |type_: &str, address: String| NodeAddress { type_: type_.into(), address };
    let addresses = ips.iter().map(|ip| address("InternalIP", ip.to_string()));
    let condition = |type_: &str, holds: bool, reason: &str, message: &str| NodeCondition {
        type_: type_.into(),
        status: if holds { "True" } else { "False" }.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: Some(Time(Timestamp::now())),
        last_transition_time: Some(Time(transition)),
    };
    let ready = match cni {
        Ok(()) => condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
        Err(why) => condition("Ready", false, "KubeletNotReady", &format!("network is not ready: {why}")),
    };
    let quantity = |key: &str, value: String| (key.to_owned(), Quantity(value));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let capacity = BTreeMap::from([
        quantity("cpu", cpus.to_string()),
        quantity("memory", nth_word("/proc/meminfo", 2).map_or("1Gi".into(), |kib| format!("{kib}Ki"))),
        quantity("pods", MAX_PODS.into()),
    ]);
    let version = format!("v{}-causeway-lab", env!("CARGO_PKG_VERSION"));
    NodeStatus {
        addresses: Some(addresses.chain([address("Hostname", name.into())]).collect()),
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        conditions: Some(vec![
            condition("MemoryPressure", false, "KubeletHasSufficientMemory", "not measured in the lab"),
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", "not measured in the lab"),
            condition("PIDPressure", false, "KubeletHasSufficientPID", "not measured in the lab"),
            ready,
        ]),
        node_info: Some(NodeSystemInfo {
            architecture: architecture().into(),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            container_runtime_version: format!("lab://{}", env!("CARGO_PKG_VERSION")),
            kernel_version: read("/proc/sys/kernel/osrelease"),
            kubelet_version: version,
            machine_id: name.into(),
            operating_system: "linux".into(),
            os_image: "network namespace".into(),
            system_uuid: name.into(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

/// As Go names it, which is what Kubernetes shows.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The nth word of a file.
fn nth_word(path: &str, n: usize) -> Option<String> {
    read(path).split_ascii_whitespace().nth(n - 1).map(str::to_owned)
}
