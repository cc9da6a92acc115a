//! Topic `encryption`: WireGuard between nodes, looked at from outside.
//!
//! `control` shows that the captures see, on a lab that does not encrypt; `leak` that on one that does nothing is to be
//! seen, whatever is broken. `rotation`, `restart` and `mixed` show what it costs the traffic inside.

mod capture;
mod device;
mod flow;
mod frame;
mod leak;
mod mixed;
mod place;
mod restart;
mod rotation;
mod talk;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use topology::{Plan, Topology};

use crate::kit::{self, Pod};
use crate::lab::{Kube, Lab, text};
use crate::report::{Report, Scenario, run_scenarios, until};

use flow::Pings;
use place::{Place, Places};
use talk::Server;

const ENCRYPTED: &str = "topologies/encrypted";
const NODES: [&str; 5] = ["n1", "n2", "n3", "n4", "n5"];
const PLAIN: &str = "cluster.default.encryption=none";

/// How long a change may take to show itself on a busy machine.
const SOON: Duration = Duration::from_secs(20);

const SCENARIOS: [Scenario; 6] = [
    ("control", leak::control),
    ("leak", leak::run),
    ("nodes", leak::nodes),
    ("rotation", rotation::run),
    ("restart, status", restart::run),
    ("mixed", mixed::run),
];

/// Runs the scenarios whose name contains `only`.
pub(crate) fn run(report: &mut Report, only: Option<&str>) {
    run_scenarios(report, &SCENARIOS, only);
}

/// A lab with a pod on each node, and a server in each pod.
struct Site {
    lab: Lab,
    plan: Plan,
    places: Places,
    pods: BTreeMap<String, Pod>,
    servers: BTreeMap<String, Server>,
}

impl Site {
    /// `nodes`: with their cluster.
    fn up(dir: &str, name: &str, set: &[&str], nodes: &[(&str, &str)]) -> Result<Site> {
        let plan = plan(dir, set)?;
        let lab = Lab::up_with(dir, name, set)?;
        for (node, cluster) in nodes {
            lab.cluster(cluster).apply(&pod(node))?;
        }
        let mut pods = BTreeMap::new();
        for (node, cluster) in nodes {
            pods.insert((*node).to_owned(), ready(lab.cluster(cluster), node)?);
        }
        let places = Places::of(&lab)?;
        let mut servers = BTreeMap::new();
        for (node, _) in nodes {
            servers.insert((*node).to_owned(), Server::start(&places.get(&on(node))?)?);
        }
        Ok(Site { lab, plan, places, pods, servers })
    }

    /// The five nodes of the encrypted topology, each with a session to each other.
    fn five(name: &str, set: &[&str]) -> Result<Site> {
        let site = Site::up(ENCRYPTED, name, set, &NODES.map(|node| (node, "default")))?;
        site.warm()?;
        device::sessions(&site.lab, &NODES, NODES.len() - 1, SOON)?;
        Ok(site)
    }

    /// Packets from every pod to every other one: sessions are made when they are needed.
    fn warm(&self) -> Result<()> {
        let begun = Instant::now();
        let mut pings = Vec::new();
        for from in self.pods.keys() {
            for to in self.pods.keys().filter(|to| *to != from) {
                pings.push(Pings::start(&self.place(from)?, self.addresses(to)?[0])?);
            }
        }
        until(SOON, "every pod reaches every other one", || {
            let late = pings.iter().filter(|pings| pings.first_after(begun).is_none()).count();
            ensure!(late == 0, "{late} of {} ways do not work", pings.len());
            Ok(())
        })?;
        Ok(())
    }

    /// The pod on a node.
    fn place(&self, node: &str) -> Result<Place> {
        self.places.get(&on(node))
    }

    fn server(&self, node: &str) -> Result<&Server> {
        self.servers.get(node).with_context(|| format!("no server on {node}"))
    }

    /// Both addresses of the pod on a node.
    fn addresses(&self, node: &str) -> Result<[IpAddr; 2]> {
        let pod = self.pods.get(node).with_context(|| format!("no pod on {node}"))?;
        Ok([pod.v4.parse()?, pod.v6.parse()?])
    }

    fn down(self) -> Result<()> {
        drop(self.servers);
        self.lab.down()
    }
}

fn plan(dir: &str, set: &[&str]) -> Result<Plan> {
    let text = std::fs::read_to_string(format!("{dir}/topology.toml"))?;
    let mut topology = Topology::parse(dir, &text)?;
    for assignment in set {
        topology.set(assignment)?;
    }
    Ok(Plan::new(&topology)?)
}

/// The name of the pod on a node.
fn on(node: &str) -> String {
    format!("on-{node}")
}

/// A pod that stays on a node, with an app of its own; `causeway-echo` only says that it is ready.
fn pod(node: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: on-{node}, labels: {{app: on-{node}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - name: echo
    image: none
    command: [causeway-echo, serve, --http, "8080"]
    readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
"#
    )
}

/// Waits until the container of the pod on a node is ready. Whether Kubernetes calls the pod Ready is another matter: on a
/// node that has only just joined it takes that back for a while.
fn ready(kube: Kube<'_>, node: &str) -> Result<Pod> {
    let name = on(node);
    until(SOON, &format!("pod {name} is ready"), || {
        let json = kube.json(&["get", "pod", &name])?;
        ensure!(json["status"]["containerStatuses"][0]["ready"] == true, "{}", json["status"]);
        Ok(())
    })?;
    kit::pods(kube, &name)?.into_iter().next().with_context(|| format!("no pod {name}"))
}

/// What the nodes of a cluster announce: the newest key that each answers to. It is the current one when all have it.
fn announced(kube: Kube<'_>) -> Result<BTreeMap<String, String>> {
    const KEYS: &str = "network.causeway.io/wg-pub-keys";
    let json = kube.json(&["get", "ciliumnodes"])?;
    let mut keys = BTreeMap::new();
    for item in json["items"].as_array().context("items")? {
        let metadata = &item["metadata"];
        let Some(all) = metadata["annotations"][KEYS].as_str() else { continue };
        let all: Vec<Value> = serde_json::from_str(all).with_context(|| format!("{KEYS} is {all}"))?;
        if let (Some(name), Some(key)) = (metadata["name"].as_str(), all.last().and_then(|last| last["key"].as_str())) {
            keys.insert(name.to_owned(), key.to_owned());
        }
    }
    Ok(keys)
}

/// Waits until the agent of a node says that all is well.
fn healthy(lab: &Lab, node: &str) -> Result<Duration> {
    let (_, took) = until(SOON, &format!("the agent of {node} is healthy"), || {
        let out = lab.causeway(node, &["status"])?;
        ensure!(out.status.success(), "{}", text(&out));
        Ok(())
    })?;
    Ok(took)
}

fn milliseconds(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1000.0)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
