//! Keys that change under traffic: of one node, of half, of all, while one node hears nothing of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::flow::{Pings, Seen, Stream};
use super::{NODES, SOON, Site, announced, device, healthy, milliseconds, seconds};
use crate::lab::{Lab, text};
use crate::report::{Report, until};

/// The node that does not reach its API server.
const DEAF: &str = "n5";
/// How long traffic goes on after everything has switched.
const AFTER: Duration = Duration::from_secs(2);

/// Pings and a stream from the pod on each node to that on the next one, v4 and v6 in turn.
pub(crate) struct Ring {
    pings: Vec<Pings>,
    streams: Vec<Stream>,
}

/// What a ring saw.
pub(crate) struct Round {
    pub(crate) seen: Seen,
    pub(crate) echoes: u64,
    pub(crate) resets: Vec<String>,
}

impl Ring {
    pub(crate) fn start(site: &Site) -> Result<Ring> {
        let mut ring = Ring { pings: Vec::new(), streams: Vec::new() };
        for (at, from) in NODES.iter().enumerate() {
            let to = site.addresses(NODES[(at + 1) % NODES.len()])?;
            ring.pings.push(Pings::start(&site.place(from)?, to[at % 2])?);
            ring.streams.push(Stream::start(&site.place(from)?, to[(at + 1) % 2])?);
        }
        Ok(ring)
    }

    pub(crate) fn finish(self) -> Result<Round> {
        let mut round = Round { seen: Seen::default(), echoes: 0, resets: Vec::new() };
        for stream in self.streams {
            match stream.finish() {
                Ok(echoes) => round.echoes += echoes,
                Err(error) => round.resets.push(format!("{error:#}")),
            }
        }
        for pings in self.pings {
            round.seen = round.seen.and(pings.finish()?);
        }
        Ok(round)
    }
}

impl Round {
    /// An error when anything was lost.
    fn whole(&self) -> Result<String> {
        ensure!(self.seen.lost == 0, "{} of {} pings lost", self.seen.lost, self.seen.sent);
        ensure!(self.resets.is_empty(), "streams broke: {:?}", self.resets);
        Ok(format!(
            "0 of {} pings lost, longest gap {}; 0 resets, {} echoes on {} streams",
            self.seen.sent,
            milliseconds(self.seen.gap),
            self.echoes,
            NODES.len()
        ))
    }
}

/// `causeway encrypt rotate-key` at a node's agent.
pub(crate) fn rotate(lab: &Lab, node: &str, which: &[&str]) -> Result<String> {
    let out = lab.causeway(node, &[&["encrypt", "rotate-key"], which].concat())?;
    ensure!(out.status.success(), "encrypt rotate-key {which:?} at {node}: {}", text(&out));
    Ok(text(&out))
}

/// Waits until each of `nodes` announces a newer key than `before`, and each of `others` sends to that one.
pub(crate) fn switched(
    lab: &Lab,
    before: &BTreeMap<String, String>,
    nodes: &[&str],
    others: &[&str],
) -> Result<Duration> {
    let (_, took) = until(Duration::from_secs(40), &format!("{nodes:?} have changed their keys"), || {
        let now = announced(lab.kube())?;
        for node in nodes {
            let key = now.get(*node).with_context(|| format!("{node} announces no key"))?;
            ensure!(before.get(*node) != Some(key), "{node} still announces {key}");
            for other in others.iter().filter(|other| *other != node) {
                let used = device::remote_key(lab, other, node)?;
                ensure!(used.as_ref() == Some(key), "{other} sends to {used:?} of {node}, which announces {key}");
            }
        }
        Ok(())
    })?;
    Ok(took)
}

pub(crate) fn run(report: &mut Report) -> Result<()> {
    // A node's next rotation waits until nobody uses its previous key, three minutes at least, so that all at once need a
    // lab of their own.
    let site = Site::five("e2e-rotation", &[])?;
    report.show("rotation of one node, under 1,000 pings a second and 5 TCP streams on 5 nodes", || {
        rotation(&site, &["n1"], |lab| rotate(lab, "n1", &["--node", "n1"]).map(drop))
    });
    report.show("rotation of half, one node cut off from its API server meanwhile", || {
        deaf(&site, &["n2", "n3"], &["n2", "n3"], |lab| {
            rotate(lab, "n2", &["--node", "n2"])?;
            rotate(lab, "n3", &["--node", "n3"]).map(drop)
        })
    });
    naive(report, &site);
    site.down()?;
    let site = Site::five("e2e-rotation", &[])?;
    report.show("rotation of all, one node cut off from its API server meanwhile", || {
        deaf(&site, &["n1", "n2", "n3", "n4"], &NODES, |lab| rotate(lab, "n1", &["--all"]).map(drop))
    });
    site.down()
}

fn rotation(site: &Site, nodes: &[&str], start: impl FnOnce(&Lab) -> Result<()>) -> Result<String> {
    let before = announced(site.lab.kube())?;
    let ring = Ring::start(site)?;
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    start(&site.lab)?;
    let outcome = switched(&site.lab, &before, nodes, &NODES);
    let took = begun.elapsed();
    std::thread::sleep(AFTER);
    let round = ring.finish()?;
    outcome?;
    Ok(format!("{}; switched after {}", round.whole()?, seconds(took)))
}

/// The same while one node hears nothing from its API server, and after it does again: `nodes` have changed before that,
/// `all` after.
fn deaf(site: &Site, nodes: &[&str], all: &[&str], start: impl FnOnce(&Lab) -> Result<()>) -> Result<String> {
    let lab = &site.lab;
    let before = announced(lab.kube())?;
    let hearing: Vec<&str> = NODES.into_iter().filter(|node| *node != DEAF).collect();
    let ring = Ring::start(site)?;
    lab.lab("partition", &["--from", "cp", "--to", DEAF])?;
    let change = || -> Result<(Duration, Duration)> {
        start(lab)?;
        let took = switched(lab, &before, nodes, &hearing)?;
        std::thread::sleep(AFTER);
        for node in nodes {
            let used = device::remote_key(lab, DEAF, node)?;
            ensure!(used.as_ref() == before.get(*node), "{DEAF} has heard of {node}'s new key: it is not cut off");
        }
        lab.lab("heal", &[])?;
        let late = switched(lab, &before, all, &NODES)?;
        std::thread::sleep(AFTER);
        Ok((took, late))
    };
    let outcome = change();
    if outcome.is_err() {
        lab.lab("heal", &[])?;
    }
    let round = ring.finish()?;
    let (took, late) = outcome?;
    let figure = round.whole()?;
    Ok(format!("{figure}; switched after {}, {DEAF} {} after it hears again", seconds(took), seconds(late)))
}

/// What people do without rotation: end everything, remove the key, start.
fn naive(report: &mut Report, site: &Site) {
    const NODE: &str = "n4";
    report.show("beside it, a naive rotation of one node: stop, remove the key, start", || {
        let lab = &site.lab;
        let before = announced(lab.kube())?;
        let ring = Ring::start(site)?;
        std::thread::sleep(Duration::from_millis(500));
        let (agent, kernels) = (format!("agent-{NODE}"), device::is_kernels(lab, NODE)?);
        if !kernels {
            lab.lab("kill", &[&agent])?;
        }
        device::stop(lab, NODE, kernels)?;
        std::fs::remove_file(lab.dir().join(NODE).join("keys").join("wireguard.json")).context("the key file")?;
        if !kernels {
            device::start(lab, NODE, kernels)?;
        }
        lab.lab("start", &[&agent])?;
        healthy(lab, NODE)?;
        let took = switched(lab, &before, &[NODE], &NODES)?;
        // Ways that nobody went for minutes have no session.
        site.warm()?;
        device::sessions(lab, &NODES, NODES.len() - 1, SOON)?;
        std::thread::sleep(AFTER);
        let Round { seen, resets, .. } = ring.finish()?;
        ensure!(seen.lost > 0, "nothing was lost of {}: then rotation shows nothing either", seen.sent);
        let percent = 100.0 * f64::from(u32::try_from(seen.lost)?) / f64::from(u32::try_from(seen.sent)?) * 2.5;
        Ok(format!(
            "{} of {} pings lost ({percent:.0} % of those from and to the node), longest gap {}, {} resets; switched after {}",
            seen.lost,
            seen.sent,
            seconds(seen.gap),
            resets.len(),
            seconds(took)
        ))
    });
}
