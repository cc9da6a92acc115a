//! Topic `rack`: one rack, from Kubernetes objects to packets, with FRR in the ToRs. Every scenario has a lab of its own.

mod bad_input;
mod cleanup;
mod reach;
mod restart;
mod sessions;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::lab::{Family, Lab, tool_path};
use crate::report::{Report, until};

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

/// Name and body of each scenario.
type Scenario = (&'static str, fn(&mut Report) -> Result<()>);

const SCENARIOS: [Scenario; 5] = [
    ("sessions", sessions::run),
    ("reach", reach::run),
    ("restart", restart::run),
    ("bad-input", bad_input::run),
    ("cleanup", cleanup::run),
];

/// Runs the scenarios whose name contains `only`.
pub(crate) fn run(report: &mut Report, only: Option<&str>) {
    for (name, scenario) in SCENARIOS {
        if only.is_some_and(|o| !name.contains(o)) {
            continue;
        }
        println!("-- {name}");
        if let Err(error) = scenario(report) {
            report.show(&format!("scenario {name} ran to its end"), || Err(error));
        }
    }
}

/// Brings a lab up with the demo's manifests and waits until the Deployment is complete.
fn deployed(name: &str) -> Result<Lab> {
    let lab = Lab::up(name)?;
    lab.kubectl(&["apply", "-f", "topologies/one-rack/manifests"])?;
    lab.kubectl(&["rollout", "status", "deployment/echo", "--timeout=60s"])?;
    Ok(lab)
}

/// The LoadBalancer IPs of a Service, once they are assigned: (IPv4, IPv6).
fn vips(lab: &Lab, service: &str) -> Result<(String, String)> {
    let (pair, _) = until(Duration::from_secs(20), &format!("service {service} gets its addresses"), || {
        let json = lab.kubectl_json(&["get", "service", service])?;
        pair_of(&ips(&json["status"]["loadBalancer"]["ingress"], "ip"))
    })?;
    Ok(pair)
}

fn ips(list: &Value, field: &str) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|row| row[field].as_str().map(str::to_owned)).collect()
}

fn pair_of(addresses: &[String]) -> Result<(String, String)> {
    let v4 = addresses.iter().find(|a| a.contains('.')).context("no IPv4 address yet")?;
    let v6 = addresses.iter().find(|a| a.contains(':')).context("no IPv6 address yet")?;
    Ok((v4.clone(), v6.clone()))
}

/// A pod as the checks need it.
#[derive(Clone, Debug)]
struct Pod {
    name: String,
    node: String,
    v4: String,
    v6: String,
}

/// The ready pods with label `app=<app>`.
fn pods(lab: &Lab, app: &str) -> Result<Vec<Pod>> {
    let json = lab.kubectl_json(&["get", "pods", "-l", &format!("app={app}")])?;
    let mut pods = Vec::new();
    for item in json["items"].as_array().context("items")? {
        if !item["metadata"]["deletionTimestamp"].is_null() {
            continue;
        }
        let (v4, v6) = pair_of(&ips(&item["status"]["podIPs"], "ip"))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        pods.push(Pod { name: text(&item["metadata"]["name"]), node: text(&item["spec"]["nodeName"]), v4, v6 });
    }
    Ok(pods)
}

/// What a run of `causeway-echo get` saw.
struct Answers {
    total: u64,
    failed: u64,
    pods: BTreeMap<String, u64>,
    nodes: BTreeMap<String, u64>,
    clients: BTreeMap<String, u64>,
}

/// Sends `count` requests to `url` from a host or pod.
fn get(lab: &Lab, from: &str, url: &str, count: u32) -> Result<Answers> {
    let echo = tool_path("causeway-echo")?;
    let count = count.to_string();
    let out = lab
        .command(from, &[&echo, "get", url, "--count", &count, "--concurrency", "4", "--json"])?
        .output()
        .context("causeway-echo get")?;
    let json: Value = serde_json::from_slice(&out.stdout)
        .with_context(|| format!("causeway-echo get {url} from {from}: {}", crate::lab::text(&out)))?;
    let spread = |field: &str| {
        json[field].as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.as_u64().unwrap_or(0))).collect()
    };
    Ok(Answers {
        total: json["requests"].as_u64().context("requests")?,
        failed: json["failed"].as_u64().context("failed")?,
        pods: spread("pods"),
        nodes: spread("nodes"),
        clients: spread("clients"),
    })
}

/// A URL whose host may be an IPv6 address.
fn url(host: &str, port: u16) -> String {
    if host.contains(':') { format!("http://[{host}]:{port}/") } else { format!("http://{host}:{port}/") }
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
