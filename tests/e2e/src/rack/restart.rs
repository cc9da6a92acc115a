//! `kill -9` of an agent under load: connections go on, nothing is withdrawn, the next agent adopts what it finds.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Pod, TORS, deployed, get, pods, url, vips};
use crate::lab::{Family, Lab, text, tool, tool_path};
use crate::report::{Report, until};

/// The node whose agent dies.
const NODE: &str = "n1";

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let lab = deployed("e2e-restart")?;
    let (v4, v6) = vips(&lab, "echo-cluster")?;
    let pods = pods(&lab, "echo")?;
    for vip in [&v4, &v6] {
        until(Duration::from_secs(20), "the address answers", || {
            let answers = get(&lab, "client", &url(vip, 80), 1)?;
            ensure!(answers.failed == 0, "no answer from {vip}");
            Ok(())
        })?;
    }
    let watch = Watch::start(&lab)?;
    let before = identity_of(&lab, &pods)?;
    let mut streams = vec![
        stream(&lab, "client", &url(&v4, 80))?,
        stream(&lab, "client", &url(&v6, 80))?,
        stream(&lab, &on_node(&pods)?.name, &url(&cluster_ip(&lab)?, 80))?,
    ];
    report.show("kill -9 of the agent: new connections to existing services go on while it is dead", || {
        dies(&lab, &[&v4, &v6], &pods)
    });
    report.show("the next agent adopts pods, addresses and services", || adopts(&lab, &pods, &before));
    report.show("established connections lived through death and restart", || {
        let mut sent = 0;
        for stream in &mut streams {
            sent += finish(stream)?;
        }
        Ok(format!("{sent} requests on 3 streams of connections, 0 lost"))
    });
    report.show("FRR kept the routes: withdrawals during death and restart", || watch.withdrawals(&lab));
    report.show("new pods are started after the restart", || new_pod(&lab));
    lab.down()
}

fn on_node(pods: &[Pod]) -> Result<&Pod> {
    pods.iter().find(|p| p.node == NODE).with_context(|| format!("no pod on {NODE}"))
}

fn cluster_ip(lab: &Lab) -> Result<String> {
    let json = lab.kubectl_json(&["get", "service", "echo"])?;
    Ok(json["spec"]["clusterIP"].as_str().context("clusterIP")?.to_owned())
}

/// A stream of requests on connections that stay open.
fn stream(lab: &Lab, from: &str, url: &str) -> Result<Child> {
    let echo = tool_path("causeway-echo")?;
    lab.spawn(from, &[&echo, "stream", url, "--connections", "8", "--interval", "20", "--for", "120", "--json"])
}

/// Ends a stream and returns how many requests it sent; one lost request is an error.
fn finish(child: &mut Child) -> Result<u64> {
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
    let mut out = String::new();
    child.stdout.take().context("stdout")?.read_to_string(&mut out)?;
    child.wait()?;
    let last = out.lines().rfind(|l| l.starts_with('{')).with_context(|| format!("the stream printed {out:?}"))?;
    let json: Value = serde_json::from_str(last)?;
    let (sent, failed) = (json["sent"].as_u64().context("sent")?, json["failed"].as_u64().context("failed")?);
    ensure!(failed == 0 && sent > 0, "{failed} of {sent} requests failed: {json}");
    Ok(sent)
}

/// What must be equal before and after: each pod's addresses and identity, as the agent lists them.
fn identity_of(lab: &Lab, pods: &[Pod]) -> Result<BTreeMap<String, String>> {
    let rows = lab.causeway_json(NODE, &["endpoint", "list"])?;
    let mut map = BTreeMap::new();
    for row in rows.as_array().context("endpoint rows")? {
        let printed = row.to_string();
        if let Some(pod) = pods.iter().find(|p| printed.contains(&p.name)) {
            map.insert(pod.name.clone(), format!("{} {}", row["id"], row["identity"]));
        }
    }
    ensure!(!map.is_empty(), "the agent on {NODE} lists no endpoint of these pods: {rows}");
    Ok(map)
}

fn dies(lab: &Lab, vips: &[&String], pods: &[Pod]) -> Result<String> {
    let pid = lab.pid(&format!("agent-{NODE}"))?;
    kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("kill the agent on {NODE}"))?;
    until(Duration::from_secs(5), "the agent is gone", || {
        ensure!(kill(Pid::from_raw(pid), None).is_err() || zombie(pid), "pid {pid} still lives");
        Ok(())
    })?;
    let mut total = 0;
    for vip in vips {
        let answers = get(lab, "client", &url(vip, 80), 100)?;
        ensure!(answers.failed == 0, "{} of {} requests to {vip} failed", answers.failed, answers.total);
        total += answers.total;
    }
    let from = on_node(pods)?;
    let answers = get(lab, &from.name, &url(&cluster_ip(lab)?, 80), 50)?;
    ensure!(answers.failed == 0, "{} requests from {} failed", answers.failed, from.name);
    Ok(format!("{} requests, 0 failed, no agent on {NODE}", total + answers.total))
}

fn zombie(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

fn adopts(lab: &Lab, pods: &[Pod], before: &BTreeMap<String, String>) -> Result<String> {
    let out = tool("causeway-lab")?.args(["start", &lab.name, &format!("agent-{NODE}")]).output()?;
    ensure!(out.status.success(), "causeway-lab start: {}", text(&out));
    let (_, took) = until(Duration::from_secs(30), "the new agent is healthy and its sessions are up", || {
        let out = lab.causeway(NODE, &["status"])?;
        ensure!(out.status.success(), "status: {}", text(&out));
        let peers = lab.causeway_json(NODE, &["bgp", "peers"])?;
        let up = peers.as_array().into_iter().flatten();
        let up = up.filter(|p| p["state"].as_str().is_some_and(|s| s.eq_ignore_ascii_case("established"))).count();
        ensure!(up == 4, "{up} of 4 sessions are up");
        Ok(())
    })?;
    let after = identity_of(lab, pods)?;
    ensure!(before == &after, "before {before:?}, after {after:?}");
    Ok(format!("{} pods with the same ids and identities, sessions up after {:.1} s", after.len(), took.as_secs_f64()))
}

fn new_pod(lab: &Lab) -> Result<String> {
    lab.kubectl(&["scale", "deployment/echo", "--replicas=9"])?;
    lab.kubectl(&["rollout", "status", "deployment/echo", "--timeout=60s"])?;
    let on = pods(lab, "echo")?.iter().filter(|p| p.node == NODE).count();
    ensure!(on >= 3, "{on} pods on {NODE}");
    Ok(format!("{on} pods on {NODE} now"))
}

/// `ip monitor route` in every ToR: what the kernel loses there, packets lose.
struct Watch {
    monitors: Vec<(String, Child)>,
}

impl Watch {
    fn start(lab: &Lab) -> Result<Watch> {
        let mut monitors = Vec::new();
        for tor in TORS {
            log_updates(lab, tor)?;
            for family in ["-4", "-6"] {
                monitors.push((tor.to_owned(), lab.spawn(tor, &["ip", family, "monitor", "route"])?));
            }
        }
        Ok(Watch { monitors })
    }

    /// Routes that the ToRs' kernels deleted, prefixes that FRR counts as withdrawn, and that the routes are all there.
    fn withdrawals(mut self, lab: &Lab) -> Result<String> {
        // Graceful restart is over when FRR holds no stale route of the restarted node any more.
        for tor in TORS {
            until(Duration::from_secs(30), "no stale routes are left", || {
                for family in ["ipv4", "ipv6"] {
                    let json = lab.vtysh(tor, &format!("show bgp {family} unicast json"))?;
                    ensure!(!json.to_string().contains("\"stale\":true"), "{tor} has stale {family} routes");
                }
                Ok(())
            })?;
        }
        let mut deleted = Vec::new();
        for (tor, monitor) in &mut self.monitors {
            let _ = monitor.kill();
            let mut out = String::new();
            monitor.stdout.take().context("stdout")?.read_to_string(&mut out)?;
            let _ = monitor.wait();
            deleted.extend(
                out.lines().filter(|l| l.starts_with("Deleted") && l.contains("bgp")).map(|l| format!("{tor}: {l}")),
            );
        }
        ensure!(deleted.is_empty(), "the ToRs lost routes: {deleted:#?}");
        let mut updates = 0;
        for tor in TORS {
            for family in [Family::V4, Family::V6] {
                ensure!(!lab.bgp_routes(tor, family)?.is_empty(), "{tor} has no {family:?} routes");
            }
            updates += withdrawn(lab, tor)?;
        }
        ensure!(updates == 0, "FRR received {updates} withdrawn prefixes");
        // The count can tell: a Service that is deleted shows up in it.
        lab.kubectl(&["delete", "service", "echo-local"])?;
        for tor in TORS {
            until(Duration::from_secs(10), "FRR logs the withdrawal of a deleted Service", || {
                let seen = withdrawn(lab, tor)?;
                ensure!(seen > 0, "{seen} prefixes");
                Ok(())
            })?;
        }
        Ok("0 routes deleted in the ToRs' kernels, 0 prefixes withdrawn in UPDATEs that FRR received".to_owned())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for (_, monitor) in &mut self.monitors {
            let _ = monitor.kill();
            let _ = monitor.wait();
        }
    }
}

/// FRR's log of the UPDATEs that a ToR receives.
fn update_log(lab: &Lab, tor: &str) -> PathBuf {
    lab.dir().join("frr").join(tor).join("updates.log")
}

/// From here on FRR on the ToR logs every UPDATE that it receives.
fn log_updates(lab: &Lab, tor: &str) -> Result<()> {
    let file = format!("log file {} debugging", update_log(lab, tor).display());
    lab.vtysh_all(tor, &["debug bgp updates in", "configure terminal", &file])?;
    Ok(())
}

/// Withdrawn prefixes in the UPDATEs that a ToR received.
fn withdrawn(lab: &Lab, tor: &str) -> Result<usize> {
    let log = update_log(lab, tor);
    let log = std::fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
    ensure!(log.contains("rcvd UPDATE"), "FRR on {tor} logged no received UPDATE at all");
    Ok(log.lines().filter(|l| l.contains("rcvd UPDATE") && l.contains("withdrawn")).count())
}
