//! One Service of two clusters: who answers, from where, and what annotations change.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    EAST, NODES, SOON, WEB, WEST, Who, all_answered, annotate, answer_from, asker, cluster_ips, deployed, pods,
    remote_status, scale, split,
};
use crate::kit::{self, url};
use crate::lab::{Lab, tool_path};
use crate::report::{Report, until};

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let lab = deployed("e2e-mesh")?;
    report.show("two clusters are up and joined, every agent says so", || {
        for (_, nodes) in NODES {
            for node in nodes {
                super::connected(&lab, node)?;
            }
        }
        Ok(format!("bring-up took {:.1} s", lab.bring_up.as_secs_f64()))
    });
    for (cluster, node) in [(EAST, WEST), (WEST, EAST)].map(|(c, o)| (c, o)) {
        report.show(&format!("a pod in {cluster} reaches {cluster} and {node} by the Service's ordinary name"), || {
            let (answers, took) = answer_from(&lab, &asker(cluster), WEB, Who::Both)?;
            Ok(format!("{} answers of east, {} of west, after {:.1} s", answers.0, answers.1, took.as_secs_f64()))
        });
    }
    report.show("from outside, by the address that BGP announces, both families", || from_outside(&lab));
    report.show("from a node itself, both families", || from_host(&lab));
    report.show("every node knows every remote pod's identity", || identities(&lab));
    report.show("affinity local, its flip and its return", || affinity_local(&lab));
    report.show("affinity remote, its flip and its return", || affinity_remote(&lab));
    report.show("shared: false gives nothing away and still takes", || not_shared(&lab));
    report.show("a namespace that is made non-global withdraws, and comes back", || namespace(&lab));
    report.show("global: false on one side ends it there", || not_global(&lab));
    report.show("headless: the other cluster's pods stand in DNS", || headless(&lab));
    report.show("status: counts and checksums agree on both sides, ages and latencies are told", || status(&lab));
    lab.down()
}

fn from_outside(lab: &Lab) -> Result<String> {
    let (v4, v6) = kit::vips(lab.cluster(EAST), "web")?;
    let mut told = Vec::new();
    for vip in [&v4, &v6] {
        let ((east, west), _) = answer_from(lab, "client", &url(vip, 80), Who::Both)?;
        told.push(format!("{vip}: {east} of east, {west} of west"));
    }
    Ok(told.join("; "))
}

fn from_host(lab: &Lab) -> Result<String> {
    let (v4, v6) = cluster_ips(lab, EAST, "web")?;
    let mut told = Vec::new();
    for address in [&v4, &v6] {
        let ((east, west), _) = answer_from(lab, "e1", &url(address, 80), Who::Both)?;
        told.push(format!("{address}: {east} of east, {west} of west"));
    }
    Ok(told.join("; "))
}

/// Address -> identity, as Kubernetes of the pods' own cluster has it.
fn expected_identities(lab: &Lab, cluster: &str) -> Result<BTreeMap<String, u64>> {
    let json = lab.cluster(cluster).json(&["get", "ciliumendpoints", "-A"])?;
    let mut expected = BTreeMap::new();
    for item in json["items"].as_array().context("items")? {
        let Some(id) = item["status"]["identity"]["id"].as_u64() else { continue };
        for pair in item["status"]["networking"]["addressing"].as_array().into_iter().flatten() {
            for family in ["ipv4", "ipv6"] {
                if let Some(ip) = pair[family].as_str().filter(|ip| !ip.is_empty()) {
                    expected.insert(ip.to_owned(), id);
                }
            }
        }
    }
    ensure!(!expected.is_empty(), "{cluster} has no CiliumEndpoints");
    Ok(expected)
}

fn identities(lab: &Lab) -> Result<String> {
    let mut checked = 0;
    for (cluster, nodes) in NODES {
        let other = if cluster == EAST { WEST } else { EAST };
        let id = if other == EAST { 1 } else { 2 };
        let expected = expected_identities(lab, other)?;
        for node in nodes {
            until(SOON, &format!("{node} knows the pods of {other}"), || {
                let rows = lab.causeway_json(node, &["ip", "list"])?;
                let rows = rows.as_array().or(rows["rows"].as_array()).context("rows of ip list")?;
                for (ip, identity) in &expected {
                    let prefix = if ip.contains(':') { format!("{ip}/128") } else { format!("{ip}/32") };
                    let row = rows.iter().find(|r| r["prefix"] == prefix.as_str() || r["prefix"] == ip.as_str());
                    let row = row.with_context(|| format!("{prefix} is unknown"))?;
                    ensure!(row["identity"].as_u64() == Some(*identity), "{prefix}: {row}, expected {identity}");
                    ensure!(identity >> 16 == id, "{identity} is not of cluster {id}'s range");
                }
                Ok(())
            })?;
            checked += expected.len();
        }
    }
    Ok(format!("{checked} addresses on {} nodes, each with its cluster's identity", NODES.len() * 2))
}

fn affinity_local(lab: &Lab) -> Result<String> {
    annotate(lab, EAST, "service/web", "service.cilium.io/affinity=local")?;
    answer_from(lab, &asker(EAST), WEB, Who::East)?;
    answer_from(lab, &asker(WEST), WEB, Who::Both)?;
    scale(lab, EAST, "web", 0)?;
    let (_, away) = answer_from(lab, &asker(EAST), WEB, Who::West)?;
    scale(lab, EAST, "web", 2)?;
    let (_, back) = answer_from(lab, &asker(EAST), WEB, Who::East)?;
    annotate(lab, EAST, "service/web", "service.cilium.io/affinity=none")?;
    answer_from(lab, &asker(EAST), WEB, Who::Both)?;
    Ok(format!(
        "only local, then only remote after {:.1} s, local again after {:.1} s",
        away.as_secs_f64(),
        back.as_secs_f64()
    ))
}

fn affinity_remote(lab: &Lab) -> Result<String> {
    // The older name of the annotation.
    annotate(lab, EAST, "service/web", "service.cilium.io/affinity-")?;
    annotate(lab, EAST, "service/web", "io.cilium/service-affinity=Remote")?;
    answer_from(lab, &asker(EAST), WEB, Who::West)?;
    scale(lab, WEST, "web", 0)?;
    let (_, away) = answer_from(lab, &asker(EAST), WEB, Who::East)?;
    scale(lab, WEST, "web", 2)?;
    let (_, back) = answer_from(lab, &asker(EAST), WEB, Who::West)?;
    annotate(lab, EAST, "service/web", "io.cilium/service-affinity-")?;
    answer_from(lab, &asker(EAST), WEB, Who::Both)?;
    Ok(format!(
        "only remote, then only local after {:.1} s, remote again after {:.1} s",
        away.as_secs_f64(),
        back.as_secs_f64()
    ))
}

fn not_shared(lab: &Lab) -> Result<String> {
    annotate(lab, WEST, "service/web", "service.cilium.io/shared=false")?;
    answer_from(lab, &asker(EAST), WEB, Who::East)?;
    let ((east, west), _) = answer_from(lab, &asker(WEST), WEB, Who::Both)?;
    annotate(lab, WEST, "service/web", "service.cilium.io/shared-")?;
    answer_from(lab, &asker(EAST), WEB, Who::Both)?;
    annotate(lab, EAST, "service/web", "service.cilium.io/shared=false")?;
    answer_from(lab, &asker(WEST), WEB, Who::West)?;
    answer_from(lab, &asker(EAST), WEB, Who::Both)?;
    annotate(lab, EAST, "service/web", "service.cilium.io/shared-")?;
    answer_from(lab, &asker(WEST), WEB, Who::Both)?;
    Ok(format!("both ways; the one that did not share got {east} answers of east and {west} of west"))
}

fn namespace(lab: &Lab) -> Result<String> {
    annotate(lab, WEST, "namespace/default", "clustermesh.cilium.io/global=false")?;
    let (_, gone) = answer_from(lab, &asker(EAST), WEB, Who::East)?;
    until(SOON, "the addresses of its pods are withdrawn too", || {
        let rows = lab.causeway_json("e1", &["ip", "list"])?.to_string();
        for pod in pods(lab, WEST, "web")? {
            ensure!(!rows.contains(&format!("\"{}/32\"", pod.v4)), "{} is still known", pod.v4);
        }
        Ok(())
    })?;
    annotate(lab, WEST, "namespace/default", "clustermesh.cilium.io/global-")?;
    let (_, back) = answer_from(lab, &asker(EAST), WEB, Who::Both)?;
    Ok(format!("gone after {:.1} s, back after {:.1} s", gone.as_secs_f64(), back.as_secs_f64()))
}

fn not_global(lab: &Lab) -> Result<String> {
    annotate(lab, EAST, "service/web", "service.cilium.io/global=false")?;
    answer_from(lab, &asker(EAST), WEB, Who::East)?;
    answer_from(lab, &asker(WEST), WEB, Who::West)?;
    annotate(lab, EAST, "service/web", "service.cilium.io/global=true")?;
    answer_from(lab, &asker(EAST), WEB, Who::Both)?;
    answer_from(lab, &asker(WEST), WEB, Who::Both)?;
    Ok("each cluster for itself, then joined again".to_owned())
}

/// A headless Service in both clusters; east has no pods behind it.
const HEADLESS: &str = r#"
apiVersion: v1
kind: Service
metadata:
  name: direct
  annotations: {service.cilium.io/global: "true"}
spec:
  clusterIP: None
  selector: {app: BACKENDS}
  ports: [{name: http, port: 8080}]
"#;

fn headless(lab: &Lab) -> Result<String> {
    lab.cluster(WEST).apply(&HEADLESS.replace("BACKENDS", "web"))?;
    lab.cluster(EAST).apply(&HEADLESS.replace("BACKENDS", "nobody"))?;
    let ((_, west), took) = answer_from(lab, &asker(EAST), "http://direct.default.svc.cluster.local:8080/", Who::West)?;
    for cluster in [EAST, WEST] {
        lab.cluster(cluster).run(&["delete", "service", "direct"])?;
    }
    Ok(format!("{west} answers of west through a name in east, after {:.1} s", took.as_secs_f64()))
}

fn status(lab: &Lab) -> Result<String> {
    let echo = tool_path("causeway-echo")?;
    lab.exec(&asker(EAST), &[&echo, "get", WEB, "--count", "1"])?;
    let (row, _) = until(SOON, "the status of west at e1 is whole", || {
        let row = remote_status(lab, "e1", WEST)?;
        ensure!(row["connected"] == true && row["ready"] == true, "{row}");
        Ok(row)
    })?;
    let told = row.to_string();
    for word in ["stage", "checksum", "certificate", "p50", "p99", "age"] {
        ensure!(told.contains(word), "the status says nothing of {word}: {told}");
    }
    let answers = all_answered(lab, &asker(EAST), WEB, 40)?;
    let (east, west) = split(lab, &answers)?;
    ensure!(east > 0 && west > 0, "east answered {east} times, west {west}");
    let ((kinds, sums), _) = until(SOON, "reader and writer agree", || same_sums(lab))?;
    let latency = |of: &str| {
        let rows = row["latency"].as_array().into_iter().flatten();
        let found = rows.into_iter().find(|l| l["of"] == of).cloned().unwrap_or_default();
        format!("{of}: p50 {} us, p99 {} us of {}", found["p50Us"], found["p99Us"], found["count"])
    };
    Ok(format!("{kinds} kinds, {sums}; {}; {}", latency("services"), latency("trigger")))
}

/// What west's API server says it has written, against what e1 says it has read.
fn same_sums(lab: &Lab) -> Result<(usize, String)> {
    let told: Value = serde_json::from_str(&lab.exec("cp-west", &["curl", "-s", "http://127.0.0.1:9880/told"])?)?;
    let row = remote_status(lab, "e1", WEST)?;
    let read = row["kinds"].as_array().context("kinds")?;
    let mut sums = Vec::new();
    for kind in read.iter().filter(|kind| kind["synced"] == true) {
        let written = told.as_array().into_iter().flatten().find(|t| t["kind"] == kind["kind"]);
        // A kind of which nothing was ever written has no row.
        let (entries, checksum) =
            written.map_or((json!(0), kind["checksum"].clone()), |w| (w["entries"].clone(), w["checksum"].clone()));
        ensure!(kind["entries"] == entries && kind["checksum"] == checksum, "written {told}, read {read:?}");
        sums.push(format!("{} {entries}", kind["kind"].as_str().unwrap_or_default()));
    }
    ensure!(sums.len() >= 4, "only {sums:?} are read");
    Ok((sums.len(), sums.join(", ")))
}
