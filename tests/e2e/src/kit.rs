//! What checks of all topics ask: a Service's addresses, an app's pods, answers to a number of requests.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::lab::{Kube, Lab, tool_path};
use crate::report::until;

/// The LoadBalancer IPs of a Service, once they are assigned: (IPv4, IPv6).
pub(crate) fn vips(kube: Kube<'_>, service: &str) -> Result<(String, String)> {
    let (pair, _) = until(Duration::from_secs(20), &format!("service {service} gets its addresses"), || {
        let json = kube.json(&["get", "service", service])?;
        pair_of(&ips(&json["status"]["loadBalancer"]["ingress"], "ip"))
    })?;
    Ok(pair)
}

pub(crate) fn ips(list: &Value, field: &str) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|row| row[field].as_str().map(str::to_owned)).collect()
}

pub(crate) fn pair_of(addresses: &[String]) -> Result<(String, String)> {
    let v4 = addresses.iter().find(|a| a.contains('.')).context("no IPv4 address yet")?;
    let v6 = addresses.iter().find(|a| a.contains(':')).context("no IPv6 address yet")?;
    Ok((v4.clone(), v6.clone()))
}

/// A pod as the checks need it.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) v4: String,
    pub(crate) v6: String,
}

/// The ready pods with label `app=<app>`.
pub(crate) fn pods(kube: Kube<'_>, app: &str) -> Result<Vec<Pod>> {
    let json = kube.json(&["get", "pods", "-l", &format!("app={app}")])?;
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
pub(crate) struct Answers {
    pub(crate) total: u64,
    pub(crate) failed: u64,
    pub(crate) pods: BTreeMap<String, u64>,
    pub(crate) nodes: BTreeMap<String, u64>,
    pub(crate) clients: BTreeMap<String, u64>,
}

/// Sends `count` requests to `url` from a host or pod.
pub(crate) fn get(lab: &Lab, from: &str, url: &str, count: u32) -> Result<Answers> {
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
pub(crate) fn url(host: &str, port: u16) -> String {
    if host.contains(':') { format!("http://[{host}]:{port}/") } else { format!("http://{host}:{port}/") }
}
