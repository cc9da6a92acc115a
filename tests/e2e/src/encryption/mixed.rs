//! Clusters of which one encrypts and the other does not, nodes that join, and nodes that come back with another key.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::capture::{Capture, Hits, World};
use super::flow::Pings;
use super::talk::{ALL, Protocol, SHORT, Talk};
use super::{SOON, Site, pod, ready, seconds};
use crate::lab::{Kube, Lab, text};
use crate::report::{Report, until};

const TWO: &str = "topologies/two-clusters";
const EAST: &str = "east";
const WEST: &str = "west";
const PODS: [(&str, &str); 4] = [("e1", EAST), ("e2", EAST), ("w1", WEST), ("w2", WEST)];

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let set = ["cluster.east.encryption=wireguard", "cluster.east.encrypt_clusters=west=off"];
    let site = Site::up(TWO, "e2e-mixed", &set, &PODS)?;
    met(&site.lab)?;
    let capture = Capture::start(&site.places, &site.plan, World::of(&site.plan))?;
    report.show("east encrypts, west does not, policy off: they speak in the clear, east's nodes do not", || {
        off(&site, &capture)
    });
    report.show("policy required: nothing passes, nothing of east's is to be seen, and west is named", || {
        required(&site, &capture)
    });
    drop(capture);
    site.down()?;
    let set = ["cluster.east.encryption=wireguard", "cluster.west.encryption=wireguard"];
    let site = Site::up(TWO, "e2e-mixed", &set, &PODS)?;
    met(&site.lab)?;
    let capture = Capture::start(&site.places, &site.plan, World::of(&site.plan))?;
    report.show("both encrypt: between the clusters too", || both(&site, &capture));
    report.show("a node is installed again and has another key", || reinstalled(&site));
    report.show("a node joins", || joined(&site));
    report.show("and of all this nothing but WireGuard was to be seen", || {
        capture.whole()?;
        let total = capture.total();
        ensure!(total.foreign == 0, "{} other frames, such as {:?}", total.foreign, total.foreign_samples);
        Ok(format!("{} frames on {} links, {} of them WireGuard", total.frames, total.links, total.wireguard))
    });
    drop(capture);
    site.down()
}

/// Waits until each cluster has read the other.
fn met(lab: &Lab) -> Result<()> {
    for (node, _) in PODS {
        let out = lab.causeway(node, &["clustermesh", "status", "--wait", "--wait-duration", "30s"])?;
        ensure!(out.status.success(), "clustermesh status --wait on {node}: {}", text(&out));
    }
    Ok(())
}

/// A second of UDP, TCP and ICMP in both families; how much was answered in each, and what was captured.
fn exchange(site: &Site, capture: &Capture, from: &str, to: &str) -> Result<([u64; 2], [Hits; 2])> {
    let markers = [capture.marker()?, capture.marker()?];
    let place = site.place(from)?;
    let to = site.addresses(to)?;
    let talks: Vec<Talk> =
        to.iter().zip(&markers).map(|(to, (_, marker))| Talk::start(&place, *to, marker, &ALL, SHORT)).collect();
    std::thread::sleep(Duration::from_millis(1500));
    let mut answered = [0; 2];
    for (talk, answered) in talks.into_iter().zip(&mut answered) {
        let tally = talk.finish()?;
        *answered = [Protocol::Udp, Protocol::Tcp, Protocol::Icmp].iter().map(|p| tally.of(*p).1).sum();
    }
    Ok((answered, markers.map(|(number, _)| capture.hits(number))))
}

fn off(site: &Site, capture: &Capture) -> Result<String> {
    let (plain, _) = until(SOON, "the pods of both clusters reach each other", || {
        let (answered, hits) = exchange(site, capture, "e1", "w1")?;
        ensure!(answered.iter().all(|count| *count > 0), "{answered:?} answers");
        ensure!(hits.iter().all(|hits| hits.inside > 0), "the captures saw nothing of it");
        Ok(hits.map(|hits| hits.inside))
    })?;
    let (answered, hits) = exchange(site, capture, "e1", "e2")?;
    ensure!(answered.iter().all(|count| *count > 0), "{answered:?} answers between east's nodes");
    for hits in &hits {
        hits.none_inside()?;
    }
    Ok(format!(
        "{} v4 and {} v6 hits between the clusters, 0 within east, {} answers there",
        plain[0],
        plain[1],
        answered.iter().sum::<u64>()
    ))
}

fn required(site: &Site, capture: &Capture) -> Result<String> {
    let lab = &site.lab;
    for node in ["e1", "e2"] {
        lab.lab("kill", &[&format!("agent-{node}")])?;
        lab.lab("start", &[&format!("agent-{node}"), "--set", "encryption-clusters=west=required"])?;
    }
    for node in ["e1", "e2"] {
        until(SOON, "the new agent names west's nodes", || {
            let status = text(&lab.causeway(node, &["encrypt", "status"])?);
            ensure!(status.contains("west/w1"), "{status}");
            Ok(())
        })?;
    }
    until(SOON, "nothing of east's pods passes to west", || {
        let (answered, hits) = exchange(site, capture, "e1", "w1")?;
        for hits in &hits {
            hits.none_inside()?;
        }
        ensure!(answered == [0, 0], "{answered:?} answers");
        Ok(())
    })?;
    // West sends in the clear, which is its own affair; east takes none of it, and does not answer.
    let (answered, _) = exchange(site, capture, "w1", "e1")?;
    ensure!(answered == [0, 0], "{answered:?} answers to west");
    let (answered, hits) = exchange(site, capture, "e1", "e2")?;
    ensure!(answered.iter().all(|count| *count > 0), "{answered:?} answers between east's nodes");
    for hits in &hits {
        hits.none_inside()?;
    }
    let out = lab.causeway("e1", &["status"])?;
    ensure!(!out.status.success(), "`causeway status` calls that healthy: {}", text(&out));
    let status = lab.causeway_json("e1", &["encrypt", "status"])?;
    // What east sends is led to the device, which has no such peer; what west sends is met by the guard.
    let (nobody, plain) = (&status["refused"]["noPeer"], &status["guard"]["plaintextRefused"]);
    ensure!(nobody.as_u64() > Some(0) && plain.as_u64() > Some(0), "refusals are not counted: {status}");
    let words = text(&lab.causeway("e1", &["encrypt", "status"])?);
    let named =
        words.lines().find(|line| line.contains("west/w1")).with_context(|| format!("no west/w1 in {words}"))?;
    Ok(format!(
        "0 answers either way, 0 hits; refused {nobody} to nobody, {plain} plaintext-refused; status: {}",
        named.split_whitespace().collect::<Vec<_>>().join(" ")
    ))
}

fn both(site: &Site, capture: &Capture) -> Result<String> {
    let (answered, took) = until(SOON, "the pods of both clusters reach each other", || {
        let (answered, hits) = exchange(site, capture, "e1", "w1")?;
        for hits in &hits {
            hits.none_inside()?;
        }
        ensure!(answered.iter().all(|count| *count > 0), "{answered:?} answers");
        Ok(answered)
    })?;
    let answered: u64 = answered.iter().sum();
    Ok(format!("0 hits, {answered} answers, after {}", seconds(took)))
}

/// When each node's current key was first seen in its annotation, as a watch tells it.
struct Announcements {
    child: Child,
    seen: Arc<Mutex<BTreeMap<(String, String), Instant>>>,
}

impl Announcements {
    fn watch(kube: Kube<'_>) -> Result<Announcements> {
        let path = r#"jsonpath={.metadata.name}{" "}{.metadata.annotations.network\.cilium\.io/wg-pub-key}{"\n"}"#;
        let mut child = kube.spawn(&["get", "ciliumnodes", "--watch", "-o", path])?;
        let lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let seen: Arc<Mutex<BTreeMap<(String, String), Instant>>> = Arc::default();
        let told = seen.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(std::io::Result::ok) {
                if let Some((node, key)) = line.split_once(' ')
                    && !key.is_empty()
                {
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    told.entry((node.to_owned(), key.to_owned())).or_insert_with(Instant::now);
                }
            }
        });
        Ok(Announcements { child, seen })
    }

    /// The keys of a node, in the order of their announcement.
    fn of(&self, node: &str) -> Vec<Instant> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Instant> = seen.iter().filter(|((name, _), _)| name == node).map(|(_, at)| *at).collect();
        all.sort();
        all
    }
}

impl Drop for Announcements {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// When the answers to all of these pings had come, of those sent after `moment`.
fn first_packets(pings: &[Pings], moment: Instant) -> Result<Instant> {
    let (last, _) = until(SOON, "packets pass", || {
        let firsts: Vec<Instant> = pings.iter().filter_map(|pings| pings.first_after(moment)).collect();
        ensure!(firsts.len() == pings.len(), "answers on {} of {} ways", firsts.len(), pings.len());
        firsts.into_iter().max().context("no pings")
    })?;
    Ok(last)
}

fn figure(what: &str, since: Instant, first: Instant) -> String {
    let took = first.saturating_duration_since(since);
    format!("first packets {:.2} s after {what} (target 2)", took.as_secs_f64())
}

fn reinstalled(site: &Site) -> Result<String> {
    const NODE: &str = "w1";
    let (lab, to) = (&site.lab, site.addresses(NODE)?);
    let watch = Announcements::watch(lab.cluster(WEST))?;
    until(SOON, "the watch tells", || {
        ensure!(!watch.of(NODE).is_empty(), "nothing of {NODE}");
        Ok(())
    })?;
    let (agent, process) = (format!("agent-{NODE}"), format!("wireguard-{NODE}"));
    lab.lab("kill", &[&agent])?;
    lab.lab("kill", &[&process])?;
    std::fs::remove_dir_all(lab.dir().join(NODE).join("keys")).context("the node's keys")?;
    // From a node of its own cluster, and from another cluster.
    let mut pings = Vec::new();
    for (from, family) in [("w2", 0), ("e1", 0), ("e2", 1)] {
        pings.push(Pings::start(&site.place(from)?, to[family])?);
    }
    lab.lab("start", &[&process])?;
    lab.lab("start", &[&agent])?;
    let (since, _) = until(SOON, "the node announces another key", || {
        watch.of(NODE).get(1).copied().with_context(|| format!("{NODE} has announced none"))
    })?;
    let first = first_packets(&pings, since)?;
    Ok(figure("its announcement", since, first))
}

fn joined(site: &Site) -> Result<String> {
    const NODE: &str = "w3";
    let (lab, kube) = (&site.lab, site.lab.cluster(WEST));
    let watch = Announcements::watch(kube)?;
    kube.apply(&pod(NODE))?;
    lab.add_node(NODE, WEST)?;
    let pod = ready(kube, NODE)?;
    let started = Instant::now();
    let to: [IpAddr; 2] = [pod.v4.parse()?, pod.v6.parse()?];
    let mut pings = Vec::new();
    for (from, family) in [("w2", 1), ("e1", 0), ("e2", 1)] {
        pings.push(Pings::start(&site.place(from)?, to[family])?);
    }
    let since = watch.of(NODE).first().copied().with_context(|| format!("{NODE} has announced no key"))?;
    let first = first_packets(&pings, started)?;
    let figure = figure("its first pod is ready", started, first);
    Ok(format!("{figure}, {} after its announcement", seconds(first.saturating_duration_since(since))))
}
