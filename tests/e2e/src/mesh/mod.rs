//! Topic `mesh`: clusters that join their Services, over racks whose ToRs speak BGP with each other.
//!
//! `service` and `mcs` show what people use it for, `faults` what it must survive, `three` a mesh without caches.

mod faults;
mod mcs;
mod peers;
mod service;
mod store;
mod stream;
mod three;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::kit::{self, Answers, Pod};
use crate::lab::{Lab, text};
use crate::report::{Report, Scenario, run_scenarios, until};

const TWO: &str = "topologies/two-clusters";
const THREE: &str = "topologies/three-clusters";
const EAST: &str = "east";
const WEST: &str = "west";
/// Nodes with agents, by cluster.
const NODES: [(&str, [&str; 2]); 2] = [(EAST, ["e1", "e2"]), (WEST, ["w1", "w2"])];

/// How long a change may take to show itself through two clusters on a busy machine.
const SOON: Duration = Duration::from_secs(20);

const SCENARIOS: [Scenario; 4] =
    [("service", service::run), ("mcs", mcs::run), ("faults", faults::run), ("three", three::run)];

/// Runs the scenarios whose name contains `only`.
pub(crate) fn run(report: &mut Report, only: Option<&str>) {
    run_scenarios(report, &SCENARIOS, only);
}

/// A Deployment and a global Service of one name, for every cluster alike.
const MESH_APP: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: echo
        image: none
        command: [causeway-echo, serve, --http, "8080", --drain, "3"]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata:
  name: web
  labels: {app: web}
  annotations: {service.cilium.io/global: "true"}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
"#;

/// A pod that only asks.
const ASKER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: asker-CLUSTER, labels: {app: asker}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: asker
    image: none
    command: [causeway-echo, serve, --http, "8080"]
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
"#;

/// The ordinary name of the Service.
const WEB: &str = "http://web.default.svc.cluster.local/";

/// Two clusters up, with the app and an asking pod in both.
fn deployed(name: &str) -> Result<Lab> {
    let lab = Lab::up(TWO, name)?;
    for (cluster, _) in NODES {
        deploy(&lab, cluster)?;
    }
    for (cluster, nodes) in NODES {
        lab.cluster(cluster).run(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
        ready_pod(&lab, cluster, &asker(cluster))?;
        for node in nodes {
            connected(&lab, node)?;
        }
    }
    Ok(lab)
}

fn deploy(lab: &Lab, cluster: &str) -> Result<()> {
    let kube = lab.cluster(cluster);
    kube.apply(MESH_APP)?;
    kube.apply(&ASKER.replace("CLUSTER", cluster))?;
    Ok(())
}

/// The pod that asks in a cluster.
fn asker(cluster: &str) -> String {
    format!("asker-{cluster}")
}

fn ready_pod(lab: &Lab, cluster: &str, pod: &str) -> Result<()> {
    until(SOON, &format!("pod {pod} is ready"), || {
        let json = lab.cluster(cluster).json(&["get", "pod", pod])?;
        let ready = json["status"]["conditions"].as_array().into_iter().flatten();
        ensure!(ready.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True"), "{}", json["status"]);
        Ok(())
    })?;
    Ok(())
}

/// Waits as a person would: `causeway clustermesh status --wait`.
fn connected(lab: &Lab, node: &str) -> Result<String> {
    let out = lab.causeway(node, &["clustermesh", "status", "--wait", "--wait-duration", "30s"])?;
    ensure!(out.status.success(), "clustermesh status --wait on {node}: {}", text(&out));
    Ok(text(&out))
}

/// The pods of an app in a cluster, by name.
fn names(lab: &Lab, cluster: &str, app: &str) -> Result<BTreeSet<String>> {
    Ok(pods(lab, cluster, app)?.into_iter().map(|p| p.name).collect())
}

fn pods(lab: &Lab, cluster: &str, app: &str) -> Result<Vec<Pod>> {
    kit::pods(lab.cluster(cluster), app)
}

/// Who answered, by cluster: `(east, west)`.
fn split(lab: &Lab, answers: &Answers) -> Result<(u64, u64)> {
    let (east, west) = (names(lab, EAST, "web")?, names(lab, WEST, "web")?);
    let of = |set: &BTreeSet<String>| answers.pods.iter().filter(|(name, _)| set.contains(*name)).map(|(_, n)| n).sum();
    let (from_east, from_west): (u64, u64) = (of(&east), of(&west));
    ensure!(
        from_east + from_west + answers.failed == answers.total,
        "answers of strangers: {:?}, known are {east:?} and {west:?}",
        answers.pods
    );
    Ok((from_east, from_west))
}

/// `count` requests; none may fail.
fn all_answered(lab: &Lab, from: &str, url: &str, count: u32) -> Result<Answers> {
    let answers = kit::get(lab, from, url, count)?;
    ensure!(answers.failed == 0, "{} of {} requests from {from} to {url} failed", answers.failed, answers.total);
    Ok(answers)
}

/// Which clusters must answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    East,
    West,
    Both,
}

impl Who {
    fn of(split: (u64, u64)) -> Option<Who> {
        match split {
            (0, 0) => None,
            (_, 0) => Some(Who::East),
            (0, _) => Some(Who::West),
            _ => Some(Who::Both),
        }
    }
}

/// Asks until exactly these clusters answer; returns the last split and how long it took.
fn answer_from(lab: &Lab, from: &str, url: &str, who: Who) -> Result<((u64, u64), Duration)> {
    until(SOON, &format!("{from} gets its answers from {who:?}"), || {
        let answers = all_answered(lab, from, url, 40)?;
        let split = split(lab, &answers)?;
        ensure!(Who::of(split) == Some(who), "east answered {} times, west {}", split.0, split.1);
        Ok(split)
    })
}

fn annotate(lab: &Lab, cluster: &str, object: &str, annotation: &str) -> Result<()> {
    lab.cluster(cluster).run(&["annotate", "--overwrite", object, annotation])?;
    Ok(())
}

fn scale(lab: &Lab, cluster: &str, deployment: &str, replicas: u32) -> Result<()> {
    let kube = lab.cluster(cluster);
    kube.run(&["scale", &format!("deployment/{deployment}"), &format!("--replicas={replicas}")])?;
    kube.run(&["rollout", "status", &format!("deployment/{deployment}"), "--timeout=60s"])?;
    Ok(())
}

fn cluster_ips(lab: &Lab, cluster: &str, service: &str) -> Result<(String, String)> {
    let json = lab.cluster(cluster).json(&["get", "service", service])?;
    let all = json["spec"]["clusterIPs"].as_array().context("clusterIPs")?;
    kit::pair_of(&all.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect::<Vec<_>>())
}

/// The row of a remote cluster in `causeway clustermesh status -o json`.
fn remote_status(lab: &Lab, node: &str, cluster: &str) -> Result<Value> {
    let json = lab.causeway_json(node, &["clustermesh", "status"])?;
    let rows = json["clusters"].as_array().or(json.as_array()).with_context(|| format!("no clusters in {json}"))?;
    let row = rows.iter().find(|r| r["name"] == cluster);
    row.cloned().with_context(|| format!("{node} does not list {cluster}: {json}"))
}
