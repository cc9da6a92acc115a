//! An agent that dies and comes back while the device goes on; and what `status` says of it all.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::flow::{Pings, Seen};
use super::{NODES, SOON, Site, device, healthy, milliseconds, seconds};
use crate::lab::{Lab, text};
use crate::report::{Report, until};

const NODE: &str = "n1";
/// The longest gap that a restart may make.
const GAP: Duration = Duration::from_millis(50);

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let site = Site::five("e2e-wg-restart", &[])?;
    report.show("`causeway status` says it as Cilium does", || cilium_line(&site.lab));
    report.show("`causeway encrypt status`: every peer with its session, and a verdict", || verdicts(&site.lab));
    report.show("kill -9 of the agent and a new one, under 200 pings a second each way and family", || restart(&site));
    if !device::is_kernels(&site.lab, NODE)? {
        report.show("status of a node whose WireGuard process has ended, and is back", || gone(&site.lab));
    }
    site.down()
}

fn cilium_line(lab: &Lab) -> Result<String> {
    let out = text(&lab.causeway(NODE, &["status"])?);
    let line =
        out.lines().find(|line| line.contains("Encryption:")).with_context(|| format!("no Encryption: in {out}"))?;
    for word in ["Wireguard", "cilium_wg0", "Pubkey: ", "Port: 51871", "Peers: 4"] {
        ensure!(line.contains(word), "{word} is missing: {line}");
    }
    Ok(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn verdicts(lab: &Lab) -> Result<String> {
    let (peers, _) = until(SOON, "every peer of every node is encrypted", || {
        let mut peers = 0;
        for node in NODES {
            let json = lab.causeway_json(node, &["encrypt", "status"])?;
            let rows = rows(&json)?;
            let encrypted = rows.iter().filter(|row| row["verdict"] == "encrypted").count();
            ensure!(encrypted == NODES.len() - 1, "{encrypted} of {} on {node}: {json}", rows.len());
            peers += encrypted;
        }
        Ok(peers)
    })?;
    let out = lab.causeway(NODE, &["encrypt", "status"])?;
    ensure!(out.status.success(), "{}", text(&out));
    let printed = text(&out);
    let sum = printed.lines().find(|line| line.starts_with("Peers:")).with_context(|| printed.clone())?;
    let sum = sum.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(format!("{peers} peers on {} nodes are encrypted; {NODE}: {sum}", NODES.len()))
}

fn rows(status: &Value) -> Result<&Vec<Value>> {
    status["peers"].as_array().with_context(|| format!("no peers in {status}"))
}

/// What tells one handshake from another.
#[derive(Debug, Clone, Copy)]
enum Met {
    /// How many there were.
    Count(u64),
    /// When the oldest was whose session stands: the kernel does not count.
    At(Instant),
}

impl Met {
    fn look(lab: &Lab) -> Result<Met> {
        if !device::is_kernels(lab, NODE)? {
            return device::handshakes(lab, NODE).map(Met::Count);
        }
        let age = Duration::from_secs(device::oldest_session(lab, NODE)?);
        Instant::now().checked_sub(age).map(Met::At).context("a session older than the machine")
    }

    fn is_same(self, other: Met) -> bool {
        match (self, other) {
            (Met::Count(one), Met::Count(other)) => one == other,
            // Ages are whole seconds, and asking takes time.
            (Met::At(one), Met::At(other)) => other.saturating_duration_since(one) < Duration::from_secs(3),
            (Met::Count(_), Met::At(_)) | (Met::At(_), Met::Count(_)) => false,
        }
    }

    fn words(self) -> String {
        match self {
            Met::Count(count) => format!("{count} handshakes"),
            Met::At(at) => format!("a handshake {} ago", seconds(at.elapsed())),
        }
    }
}

/// Pings from and to the node, in both families, while `during` runs.
fn pinged(site: &Site, during: impl FnOnce() -> Result<()>) -> Result<Seen> {
    let mut pings = Vec::new();
    for (from, to, family) in [(NODE, "n4", 0), (NODE, "n2", 1), ("n4", NODE, 1), ("n2", NODE, 0)] {
        pings.push(Pings::start(&site.place(from)?, site.addresses(to)?[family])?);
    }
    let outcome = during();
    let mut seen = Seen::default();
    for pings in pings {
        seen = seen.and(pings.finish()?);
    }
    outcome?;
    Ok(seen)
}

/// Attempts at a gap within the target: a machine that is busy with something else makes gaps of its own. The figure is
/// printed whatever it is; nothing may be lost in any of them.
const ATTEMPTS: usize = 3;

fn restart(site: &Site) -> Result<String> {
    let calm = pinged(site, || {
        std::thread::sleep(Duration::from_secs(2));
        Ok(())
    })?;
    let before = Met::look(&site.lab)?;
    let (mut gaps, mut sent, mut well) = (Vec::new(), 0, Duration::ZERO);
    for _ in 0..ATTEMPTS {
        let (seen, took) = killed(site)?;
        let after = Met::look(&site.lab)?;
        ensure!(seen.lost == 0, "{} of {} pings lost", seen.lost, seen.sent);
        ensure!(before.is_same(after), "{} before, {} after", before.words(), after.words());
        gaps.push(milliseconds(seen.gap));
        (sent, well) = (sent + seen.sent, took);
        if seen.gap <= GAP {
            break;
        }
    }
    Ok(format!(
        "0 of {sent} lost, longest gap {} (target 50; {} before it), {} before and after; well after {}",
        gaps.join(", "),
        milliseconds(calm.gap),
        before.words(),
        seconds(well)
    ))
}

/// The agent is killed and started again; how long it took to be well.
fn killed(site: &Site) -> Result<(Seen, Duration)> {
    let (lab, agent) = (&site.lab, format!("agent-{NODE}"));
    let mut took = Duration::ZERO;
    let seen = pinged(site, || {
        std::thread::sleep(Duration::from_millis(300));
        lab.lab("kill", &[&agent, "--signal", "KILL"])?;
        std::thread::sleep(Duration::from_millis(700));
        lab.lab("start", &[&agent])?;
        took = healthy(lab, NODE)?;
        std::thread::sleep(Duration::from_secs(1));
        Ok(())
    })?;
    Ok((seen, took))
}

/// A node whose device has gone says so, and is well when it is back.
fn gone(lab: &Lab) -> Result<String> {
    const GONE: &str = "n4";
    lab.lab("kill", &[&format!("wireguard-{GONE}")])?;
    let named = until(SOON, &format!("{GONE} says that its device is gone"), || {
        let out = lab.causeway(GONE, &["status"])?;
        ensure!(!out.status.success(), "healthy: {}", text(&out));
        let words = text(&lab.causeway(GONE, &["encrypt", "status"])?);
        let line = words.lines().find(|line| line.starts_with("Ready:") && line.contains("NO:"));
        Ok(line.with_context(|| words.clone())?.to_owned())
    });
    lab.lab("start", &[&format!("wireguard-{GONE}")])?;
    let (line, took) = named?;
    let (_, back) = until(SOON, &format!("{GONE} is well again"), || {
        let out = lab.causeway(GONE, &["status"])?;
        ensure!(out.status.success(), "{}", text(&out));
        Ok(())
    })?;
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok(format!("after {}: {line}; well {} after its return", seconds(took), seconds(back)))
}
