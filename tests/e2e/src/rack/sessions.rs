//! What FRR in the ToRs sees: sessions, exactly the expected prefixes, and how they come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{NODES, SOLO, TORS, deployed, exactly, get, host_route, pods, url, vips};
use crate::lab::{Family, Lab};
use crate::report::{Report, until};

const SOON: Duration = Duration::from_secs(20);

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let lab = deployed("e2e-sessions")?;
    report.show("bring-up of one rack", || Ok(format!("{:.1} s", lab.bring_up.as_secs_f64())));
    report.show("all sessions Established, as FRR sees it", || sessions(&lab, NODES.len()));
    report.show("all sessions Established, as the agents see it", || own_view(&lab));
    report.show("exactly the expected prefixes at both ToRs", || prefixes(&lab));
    report.show("externalTrafficPolicy Local: only nodes with a ready backend announce", || local_only(&lab));
    report.show("deleting the last backend withdraws within a second", || last_backend(&lab));
    report.show("a new backend is announced only once the datapath has it", || new_backend(&lab));
    report.show("deleting a Service withdraws its address", || deleted_service(&lab));
    report.show("a new node joins and is announced", || new_node(&lab));
    lab.down()
}

fn sessions(lab: &Lab, nodes: usize) -> Result<String> {
    let expected = nodes * 2;
    let (count, took) = until(SOON, "sessions", || {
        let mut count = 0;
        for tor in TORS {
            let sessions = lab.sessions(tor)?;
            let up = sessions.values().filter(|state| *state == "Established").count();
            ensure!(up == expected && sessions.len() == expected, "{tor}: {sessions:?}");
            count += up;
        }
        Ok(count)
    })?;
    Ok(format!("{count} sessions, after {:.1} s", took.as_secs_f64()))
}

fn own_view(lab: &Lab) -> Result<String> {
    let mut count = 0;
    for node in NODES {
        let (up, _) = until(SOON, "own view of the sessions", || {
            let json = lab.causeway_json(node, &["bgp", "peers"])?;
            let rows = json.as_array().context("an array of peers")?.clone();
            ensure!(rows.len() == 4, "{node} has {} peers", rows.len());
            for row in &rows {
                let state = row["state"].as_str().unwrap_or_default().to_ascii_lowercase();
                ensure!(state == "established", "{node}: {row}");
            }
            Ok(rows.len())
        })?;
        count += up;
    }
    Ok(format!("{count} sessions on {} nodes", NODES.len()))
}

/// Pod CIDRs of all nodes of a family, each with the one node behind it.
fn pod_cidrs(lab: &Lab, family: Family) -> Result<Vec<String>> {
    let json = lab.kubectl_json(&["get", "nodes"])?;
    let mut cidrs = Vec::new();
    for node in json["items"].as_array().context("nodes")? {
        for cidr in node["spec"]["podCIDRs"].as_array().into_iter().flatten().filter_map(|c| c.as_str()) {
            if cidr.contains(':') == (family == Family::V6) {
                cidrs.push(cidr.to_owned());
            }
        }
    }
    Ok(cidrs)
}

/// What a ToR must have: each pod CIDR through its node, each VIP through the given number of nodes.
fn expected(lab: &Lab, family: Family, vips: &[(&str, usize)]) -> Result<BTreeMap<String, usize>> {
    let mut map: BTreeMap<String, usize> = pod_cidrs(lab, family)?.into_iter().map(|c| (c, 1)).collect();
    ensure!(map.len() >= NODES.len(), "nodes without pod CIDR: {map:?}");
    for (vip, hops) in vips {
        if vip.contains(':') == (family == Family::V6) && *hops > 0 {
            map.insert(host_route(vip), *hops);
        }
    }
    Ok(map)
}

fn nodes_of(lab: &Lab, app: &str) -> Result<BTreeSet<String>> {
    Ok(pods(lab, app)?.into_iter().map(|p| p.node).collect())
}

fn check_all(lab: &Lab) -> Result<(usize, Duration)> {
    let (cluster4, cluster6) = vips(lab, "echo-cluster")?;
    let (local4, local6) = vips(lab, "echo-local")?;
    let nodes = lab.kubectl_json(&["get", "nodes"])?["items"].as_array().map_or(0, Vec::len);
    let local = nodes_of(lab, "echo")?.len();
    let all = [(&*cluster4, nodes), (&*cluster6, nodes), (&*local4, local), (&*local6, local)];
    let mut count = 0;
    let mut took = Duration::ZERO;
    for family in [Family::V4, Family::V6] {
        let want = expected(lab, family, &all)?;
        count += want.len();
        took += exactly(lab, family, &want, SOON)?;
    }
    Ok((count, took))
}

fn prefixes(lab: &Lab) -> Result<String> {
    let (count, took) = check_all(lab)?;
    Ok(format!("{count} prefixes at each, none more, after {:.1} s", took.as_secs_f64()))
}

fn local_only(lab: &Lab) -> Result<String> {
    lab.kubectl(&["scale", "deployment/echo", "--replicas=2"])?;
    until(SOON, "two pods are left", || {
        let left = pods(lab, "echo")?.len();
        ensure!(left == 2, "{left} pods");
        Ok(())
    })?;
    check_all(lab)?;
    let two = nodes_of(lab, "echo")?.len();
    lab.kubectl(&["scale", "deployment/echo", "--replicas=6"])?;
    lab.kubectl(&["rollout", "status", "deployment/echo", "--timeout=60s"])?;
    check_all(lab)?;
    Ok(format!("with 2 pods {two} next hops, with 6 pods {}", nodes_of(lab, "echo")?.len()))
}

/// Whether any ToR has a route to the address.
fn present(lab: &Lab, vip: &str) -> Result<bool> {
    let family = if vip.contains(':') { Family::V6 } else { Family::V4 };
    let prefix = host_route(vip);
    for tor in TORS {
        if lab.bgp_routes(tor, family)?.contains_key(&prefix) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn last_backend(lab: &Lab) -> Result<String> {
    lab.apply(SOLO)?;
    lab.kubectl(&["rollout", "status", "deployment/solo", "--timeout=30s"])?;
    let (v4, v6) = vips(lab, "solo")?;
    until(SOON, "the address is announced", || {
        ensure!(present(lab, &v4)? && present(lab, &v6)?, "no route yet");
        Ok(())
    })?;
    // The clock starts before kubectl does, so the figure contains the command itself.
    let started = Instant::now();
    lab.kubectl(&["scale", "deployment/solo", "--replicas=0"])?;
    let command = started.elapsed();
    until(SOON, "the address is withdrawn", || {
        ensure!(!present(lab, &v4)? && !present(lab, &v6)?, "a ToR still has the route");
        Ok(())
    })?;
    let took = started.elapsed();
    ensure!(took.saturating_sub(command) < Duration::from_secs(1), "{took:?} of which the command {command:?}");
    Ok(format!("{} ms, of which kubectl took {} ms", took.as_millis(), command.as_millis()))
}

fn new_backend(lab: &Lab) -> Result<String> {
    let (v4, v6) = vips(lab, "solo")?;
    lab.kubectl(&["scale", "deployment/solo", "--replicas=1"])?;
    let mut answered = 0;
    for vip in [&v4, &v6] {
        // The very first look that finds the route is followed by requests at once: not one may fail.
        until(SOON, "the address is announced again", || {
            ensure!(present(lab, vip)?, "no route yet");
            Ok(())
        })?;
        let answers = get(lab, "client", &url(vip, 80), 20)?;
        ensure!(
            answers.failed == 0,
            "{} of {} requests failed right after the announcement",
            answers.failed,
            answers.total
        );
        answered += answers.total;
    }
    Ok(format!("{answered} requests right after the announcement, 0 failed"))
}

fn deleted_service(lab: &Lab) -> Result<String> {
    let (v4, v6) = vips(lab, "solo")?;
    let started = Instant::now();
    lab.kubectl(&["delete", "service", "solo"])?;
    until(SOON, "the address is withdrawn", || {
        ensure!(!present(lab, &v4)? && !present(lab, &v6)?, "a ToR still has the route");
        Ok(())
    })?;
    let took = started.elapsed();
    lab.kubectl(&["delete", "deployment", "solo"])?;
    check_all(lab)?;
    Ok(format!("{} ms with kubectl", took.as_millis()))
}

fn new_node(lab: &Lab) -> Result<String> {
    let started = Instant::now();
    let out = crate::lab::tool("causeway-lab")?.args(["node", "add", &lab.name, "n4"]).output()?;
    ensure!(out.status.success(), "causeway-lab node add: {}", crate::lab::text(&out));
    sessions(lab, NODES.len() + 1)?;
    let (count, _) = check_all(lab)?;
    Ok(format!("{count} prefixes, {:.1} s after `node add`", started.elapsed().as_secs_f64()))
}
