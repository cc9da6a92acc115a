//! Three clusters whose agents read each other's etcd without a cache between.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use topology::Topology;

use super::stream::during;
use super::{SOON, THREE, WEB, all_answered, asker, connected, deploy, names, ready_pod, remote_status};
use crate::lab::Lab;
use crate::report::{Report, until};

struct Mesh {
    lab: Lab,
    /// Names of clusters, each with its nodes.
    clusters: Vec<(String, Vec<String>)>,
    /// Hosts of the last cluster, each with its ToRs.
    cables: Vec<(String, Vec<String>)>,
}

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let text = std::fs::read_to_string(format!("{THREE}/topology.toml"))?;
    let topology = Topology::parse(THREE, &text)?;
    let clusters: Vec<(String, Vec<String>)> = topology
        .clusters
        .iter()
        .map(|c| (c.name.clone(), topology.nodes(&c.name).map(|h| h.name.clone()).collect()))
        .collect();
    let last = topology.clusters.last().map(|c| c.name.clone());
    let of_last = topology.hosts.iter().filter(|h| h.cluster().map(str::to_owned) == last);
    let cables = of_last.map(|h| (h.name.clone(), h.cables.clone())).collect();
    let mesh = Mesh { lab: Lab::up(THREE, "e2e-three")?, clusters, cables };
    for (cluster, _) in &mesh.clusters {
        deploy(&mesh.lab, cluster)?;
    }
    for (cluster, nodes) in &mesh.clusters {
        mesh.lab.cluster(cluster).run(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
        ready_pod(&mesh.lab, cluster, &asker(cluster))?;
        for node in nodes {
            connected(&mesh.lab, node)?;
        }
    }
    report.show("three clusters, read without a cache: a pod of each reaches all three", || all(&mesh));
    report.show("a half-open peer is found by an agent itself", || half_open(&mesh));
    report.show("a whole cluster dies: the two others serve", || dies(&mesh));
    mesh.lab.down()
}

fn everybody(mesh: &Mesh) -> Result<BTreeSet<String>> {
    let mut pods = BTreeSet::new();
    for (cluster, _) in &mesh.clusters {
        pods.extend(names(&mesh.lab, cluster, "web")?);
    }
    Ok(pods)
}

fn answered_by(mesh: &Mesh, from: &str, expected: &BTreeSet<String>) -> Result<Duration> {
    let (_, took) = until(SOON, &format!("exactly {expected:?} answer {from}"), || {
        let answers = all_answered(&mesh.lab, from, WEB, 80)?;
        let seen: BTreeSet<String> = answers.pods.keys().cloned().collect();
        ensure!(&seen == expected, "{seen:?} answered");
        Ok(())
    })?;
    Ok(took)
}

fn all(mesh: &Mesh) -> Result<String> {
    let pods = everybody(mesh)?;
    for (cluster, _) in &mesh.clusters {
        answered_by(mesh, &asker(cluster), &pods)?;
    }
    Ok(format!("{} pods answer {} askers", pods.len(), mesh.clusters.len()))
}

fn half_open(mesh: &Mesh) -> Result<String> {
    let ((_, nodes), (last, _)) = (&mesh.clusters[0], mesh.clusters.last().context("no cluster")?);
    let etcd = format!("etcd-cp-{last}");
    mesh.lab.lab("pause", &[&etcd])?;
    let found = until(Duration::from_secs(30), "the agent notices", || {
        let row = remote_status(&mesh.lab, &nodes[0], last)?;
        ensure!(row["connected"] == false, "{row}");
        Ok(())
    });
    mesh.lab.lab("resume", &[&etcd])?;
    let (_, took) = found?;
    until(SOON, "it is read again", || {
        let row = remote_status(&mesh.lab, &nodes[0], last)?;
        ensure!(row["ready"] == true, "{row}");
        Ok(())
    })?;
    Ok(format!("after {:.1} s (target 7)", took.as_secs_f64()))
}

/// All cables of a cluster's hosts are cut: nodes, control plane, everything.
fn dies(mesh: &Mesh) -> Result<String> {
    let (last, _) = mesh.clusters.last().context("no cluster")?;
    let dead = names(&mesh.lab, last, "web")?;
    let left: BTreeSet<String> = everybody(mesh)?.difference(&dead).cloned().collect();
    let cables = |state: &str| -> Result<()> {
        for (host, tors) in &mesh.cables {
            for tor in tors {
                mesh.lab.lab("link", &[state, host, tor])?;
            }
        }
        Ok(())
    };
    let first = asker(&mesh.clusters[0].0);
    let figure = during(&mesh.lab, &first, WEB, || {
        cables("down")?;
        let took = answered_by(mesh, &first, &left);
        cables("up")?;
        Ok(format!("the others alone after {:.1} s", took?.as_secs_f64()))
    })?;
    let back = answered_by(mesh, &first, &everybody(mesh)?)?;
    Ok(format!("{figure}; all again {:.1} s after it is back", back.as_secs_f64()))
}
