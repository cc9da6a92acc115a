//! Topic `rack`: one rack, from Kubernetes objects to packets, with FRR in the ToRs. Every scenario has a lab of its own.

mod bad_input;
mod cleanup;
mod reach;
mod restart;
mod sessions;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::kit::{Pod, get, pair_of, url};
use crate::lab::{Family, Lab};
use crate::report::{Report, Scenario, run_scenarios, until};

pub(crate) const TORS: [&str; 2] = ["tor1", "tor2"];
pub(crate) const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// One pod behind a Service with `externalTrafficPolicy: Local`.
const SOLO: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: solo}
spec:
  replicas: 1
  selector: {matchLabels: {app: solo}}
  template:
    metadata: {labels: {app: solo}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: echo
        image: none
        command: [causeway-echo, serve, --http, "8080"]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: solo, labels: {app: solo}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  ipFamilyPolicy: PreferDualStack
  selector: {app: solo}
  ports: [{name: http, port: 80, targetPort: 8080}]
"#;

const SCENARIOS: [Scenario; 5] = [
    ("sessions", sessions::run),
    ("reach", reach::run),
    ("restart", restart::run),
    ("bad-input", bad_input::run),
    ("cleanup", cleanup::run),
];

/// Runs the scenarios whose name contains `only`.
pub(crate) fn run(report: &mut Report, only: Option<&str>) {
    run_scenarios(report, &SCENARIOS, only);
}

fn vips(lab: &Lab, service: &str) -> Result<(String, String)> {
    crate::kit::vips(lab.kube(), service)
}

fn pods(lab: &Lab, app: &str) -> Result<Vec<Pod>> {
    crate::kit::pods(lab.kube(), app)
}

/// Brings a lab up with the demo's manifests and waits until the Deployment is complete.
fn deployed(name: &str) -> Result<Lab> {
    let lab = Lab::up("topologies/one-rack", name)?;
    lab.kubectl(&["apply", "-f", "topologies/one-rack/manifests"])?;
    lab.kubectl(&["rollout", "status", "deployment/echo", "--timeout=60s"])?;
    Ok(lab)
}

/// A host route of an address, as FRR writes prefixes.
fn host_route(addr: &str) -> String {
    if addr.contains(':') { format!("{addr}/128") } else { format!("{addr}/32") }
}

/// Waits until every ToR has exactly the expected prefixes, each with exactly these numbers of next hops.
fn exactly(lab: &Lab, family: Family, expected: &BTreeMap<String, usize>, limit: Duration) -> Result<Duration> {
    let (_, took) = until(limit, &format!("the ToRs have exactly the expected {family:?} prefixes"), || {
        for tor in TORS {
            let routes = lab.bgp_routes(tor, family)?;
            let seen: BTreeMap<String, usize> = routes.iter().map(|(p, hops)| (p.clone(), hops.len())).collect();
            ensure!(&seen == expected, "{tor} has {seen:?}, expected {expected:?}");
        }
        Ok(())
    })?;
    Ok(took)
}
