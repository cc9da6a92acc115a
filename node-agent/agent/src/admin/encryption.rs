//! What the admin socket and the metrics show of encryption between nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use causeway_api::encryption::{
    Device, EncryptionStatus, Guard, Key as KeyView, Peer, Refused, RotateParams, Rotated, Verdict,
};
use causeway_api::status::{Component, Health};
use causeway_api::{ErrorBody, code};
use causeway_datapath_abi::Counter;
use causeway_datapath_loader::Hook;
use causeway_encryption_plan::{Link, LinkStats, PeerName};
use causeway_k8s::CiliumNode;
use causeway_table::Shared;
use futures::StreamExt as _;
use kube::Api;
use kube::api::{Patch, PatchParams};

use super::families::{counter, gauge, sample};
use super::views::component;
use super::{Admin, Running};
use crate::control::encryption::Standing;
use crate::intent::Key;
use crate::metrics::{Family, Sample};
use crate::realize::encryption::driver::Report;
use crate::realize::encryption::{ROTATE_ANNOTATION, phase_name};
use crate::realize::kube_api::{self, FIELD_MANAGER};
use crate::realize::netlink::Netlink;

/// Objects that are written at a time when all nodes are asked for a new key.
const WRITES_AT_A_TIME: usize = 16;

impl Admin {
    pub(super) fn encryption_status(&self) -> Result<EncryptionStatus, ErrorBody> {
        let running = self.running()?;
        let node = self.config.node_name.clone();
        let Some(encryption) = &running.encryption else {
            return Ok(EncryptionStatus { node, ..EncryptionStatus::default() });
        };
        let report = encryption.report();
        let snapshot = report.snapshot.as_deref();
        let spec = report.spec.as_ref();
        Ok(EncryptionStatus {
            node,
            enabled: true,
            node_encryption: self.config.encryption.encrypt_node,
            ready: report.unready.is_none(),
            not_ready: report.unready.clone().unwrap_or_default(),
            backend: report.backend.clone(),
            device: Device {
                name: spec.map(|spec| spec.name.clone()).unwrap_or_default(),
                ifindex: report.ifindex,
                port: self.config.encryption.port,
                mtu: spec.map_or(0, |spec| spec.mtu),
                gone: report.gone.clone().unwrap_or_default(),
            },
            keys: keys(&report),
            phase: report.phase.map(phase_name).unwrap_or_default().to_owned(),
            lagging: report.lagging.iter().map(ToString::to_string).collect(),
            guard: guard(running, &report),
            refused: snapshot
                .map(|s| Refused {
                    no_peer: s.no_peer,
                    strangers: s.strangers,
                    malformed: s.malformed,
                    unsent: s.unsent,
                })
                .unwrap_or_default(),
            peers: peers(&report),
            problems: problems(&report).into_iter().chain(withheld(&self.tables.withheld)).collect(),
        })
    }

    /// The message is Cilium's line, and what is wrong, if something is.
    pub(super) fn encryption(&self, running: &Running) -> Component {
        let name = "encryption";
        let Some(encryption) = &running.encryption else {
            return component(name, Health::Disabled, "Disabled".into());
        };
        let report = encryption.report();
        let key = report.keys.iter().find(|key| key.role == "current").map_or("none".into(), |key| key.key.to_string());
        let device = report.spec.as_ref().map_or("no device", |spec| &spec.name);
        let line = format!(
            "Wireguard [NodeEncryption: {}, {device} (Pubkey: {key}, Port: {}, Peers: {})]",
            if self.config.encryption.encrypt_node { "Enabled" } else { "Disabled" },
            self.config.encryption.port,
            report.wanted.peers.len(),
        );
        let silent = report.wanted.standing.values().filter(|standing| **standing == Standing::NoKey).count();
        let silent =
            (silent > 0).then(|| format!("{silent} nodes have told no key; they are not spoken to in the clear"));
        match report.unready.clone().or_else(|| problems(&report).into_iter().next()).or(silent) {
            Some(trouble) => component(name, Health::Degraded, format!("{line}; {trouble}")),
            None => component(name, Health::Ok, line),
        }
    }

    /// Asks this node, another one or all for a new key.
    pub(super) async fn rotate(&self, params: &RotateParams) -> Result<Vec<Rotated>, ErrorBody> {
        let running = self.running()?;
        let Some(encryption) = &running.encryption else {
            let remedy = "start the agents with --enable-wireguard";
            return Err(ErrorBody::new(code::NOT_FOUND, "traffic between nodes is not encrypted", remedy));
        };
        let own = &self.config.node_name;
        if !params.all && params.node.as_ref().is_none_or(|node| node == own) {
            let error = encryption.rotate().await.err().unwrap_or_default();
            return Ok(vec![Rotated { node: own.clone(), error }]);
        }
        let names: Vec<String> = match &params.node {
            Some(node) if !params.all => {
                if self.tables.cilium_nodes.get(&Key::new("", node)).is_none() {
                    let remedy = "`causeway node list` names them; a node of another cluster is asked there";
                    return Err(ErrorBody::new(code::NOT_FOUND, format!("no CiliumNode {node:?}"), remedy));
                }
                vec![node.clone()]
            }
            _ => self.tables.cilium_nodes.read(|t| t.iter().map(|(key, _)| key.name.clone()).collect()),
        };
        let now = jiff::Timestamp::now().to_string();
        let asked = names.into_iter().map(|node| ask(running.client.clone(), node, now.clone()));
        let mut asked: Vec<Rotated> = futures::stream::iter(asked).buffer_unordered(WRITES_AT_A_TIME).collect().await;
        asked.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(asked)
    }
}

/// Its agent sees the annotation and makes a new key unless it has one that is newer.
async fn ask(client: kube::Client, node: String, now: String) -> Rotated {
    let api: Api<CiliumNode> = Api::all(client);
    let patch = serde_json::json!({"metadata": {"annotations": {ROTATE_ANNOTATION: now}}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let written = kube_api::limited(api.patch(&node, &params, &Patch::Merge(patch))).await;
    Rotated { node, error: written.err().map(|error| error.to_string()).unwrap_or_default() }
}

fn keys(report: &Report) -> Vec<KeyView> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let view = |key: &crate::realize::encryption::driver::KeyView| KeyView {
        epoch: key.epoch,
        public_key: key.key.to_string(),
        role: key.role.to_owned(),
        age_s: now.saturating_sub(key.made).as_secs(),
    };
    report.keys.iter().map(view).collect()
}

fn problems(report: &Report) -> Vec<String> {
    let named = report.wanted.problems.iter().map(ToString::to_string);
    report.gone.iter().chain(&report.errors).cloned().chain(named).collect()
}

/// Services of which backends are left out are named up to here.
const NAMED: usize = 10;

/// What is not used since it could not be encrypted.
fn withheld(services: &Shared<Key, BTreeSet<IpAddr>>) -> Vec<String> {
    let words = |(key, addresses): (&Key, &Arc<BTreeSet<IpAddr>>)| {
        let first = addresses.first().map(ToString::to_string).unwrap_or_default();
        let (count, more) = (addresses.len(), if addresses.len() > 1 { " and others" } else { "" });
        format!(
            "Service {key}: {count} backends of other clusters are not used, since no node is known that has {first}{more}"
        )
    };
    let (mut named, all) = services.read(|t| (t.iter().take(NAMED).map(words).collect::<Vec<_>>(), t.len()));
    if all > NAMED {
        named.push(format!("and so with {} more Services", all - NAMED));
    }
    named
}

fn guard(running: &Running, report: &Report) -> Guard {
    let counters = running.datapath.counters().unwrap_or_default();
    let packets = |which: Counter| counters.iter().filter(|c| c.counter == which).map(|c| c.packets).sum();
    Guard {
        rows: report.guard_rows,
        links: guarded_links(running),
        unencrypted_traffic: packets(Counter::NotEncrypted),
        plaintext_refused: packets(Counter::PlaintextRefused),
    }
}

/// Interfaces with the programs of both directions.
fn guarded_links(running: &Running) -> Vec<String> {
    let mut hooks: BTreeMap<u32, usize> = BTreeMap::new();
    for link in running.datapath.attached().unwrap_or_default() {
        if matches!(link.hook, Hook::FromNet | Hook::ToNet) {
            *hooks.entry(link.ifindex).or_default() += 1;
        }
    }
    let Ok(netlink) = Netlink::open() else { return Vec::new() };
    let both = hooks.into_iter().filter(|(_, hooks)| *hooks == 2);
    let mut names: Vec<String> = both.filter_map(|(index, _)| Some(netlink.link_by_index(index).ok()??.name)).collect();
    names.sort_unstable();
    names
}

fn peers(report: &Report) -> Vec<Peer> {
    let known = report.wanted.standing.iter().map(|(name, standing)| peer(report, name, standing));
    let adopted = report.adopted.iter().map(|name| {
        let reason = "of an earlier process; its cluster has not been read yet".to_owned();
        Peer { reason, ..peer(report, name, &Standing::Peer) }
    });
    let mut peers: Vec<Peer> = known.chain(adopted).collect();
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    peers
}

fn peer(report: &Report, name: &PeerName, standing: &Standing) -> Peer {
    let wanted = report.wanted.peers.get(name);
    let held = report.snapshot.as_ref().and_then(|s| s.actual.peers.get(name));
    let stats = report.snapshot.as_ref().and_then(|s| s.stats.get(name));
    let active = held.map(|peer| peer.active);
    let active_stats = stats.and_then(|s| s.links.iter().find(|(link, _)| Some(*link) == active)).map(|(_, s)| s);
    let total = report.totals.get(name).copied().unwrap_or_default();
    let (verdict, reason) = verdict(report, standing, active_stats, name);
    let epoch = |link: Link| {
        let keys = &wanted?.keys.keys;
        keys.iter().find(|known| known.key == link.remote).map(|known| known.epoch)
    };
    let own_epoch = |link: Link| report.keys.iter().find(|key| key.key == link.own).map(|key| key.epoch);
    let ages = stats.into_iter().flat_map(|s| &s.links).filter_map(|(_, s)| s.handshake_age_ms);
    Peer {
        name: name.to_string(),
        verdict,
        reason,
        endpoint: stats.map(|s| s.endpoint).or(wanted.map(|wanted| wanted.endpoint)),
        public_key: active.map(|link| link.remote.to_string()).unwrap_or_default(),
        epoch: active.and_then(epoch),
        own_epoch: active.and_then(own_epoch),
        links: held.map_or(0, |peer| peer.links.len()),
        handshake_age_s: ages.min().map(|ms| ms / 1000),
        rx_bytes: total.rx_bytes,
        tx_bytes: total.tx_bytes,
        handshakes: total.handshakes,
        rekeys: total.handshakes.saturating_sub(1),
        failures: total.failures,
        replays: total.replays,
        source_refused: stats.map_or(0, |s| s.source_refused),
        prefixes: held.map(|peer| peer.prefixes.iter().copied().collect()).unwrap_or_default(),
    }
}

fn verdict(report: &Report, standing: &Standing, active: Option<&LinkStats>, name: &PeerName) -> (Verdict, String) {
    let clear = report.exempt.contains(name);
    match (standing, active) {
        (Standing::Off, _) => (Verdict::OffByPolicy, "--encryption-clusters, --encryption-own-cluster".into()),
        (Standing::NoKey, _) => (
            Verdict::NoKeyAnnounced,
            "its CiliumNode has no annotation: does its agent run, with --enable-wireguard?".into(),
        ),
        (Standing::Refused(why), _) => (Verdict::Refused, why.clone()),
        (Standing::Peer, Some(stats)) if stats.confirmed => (Verdict::Encrypted, String::new()),
        (Standing::Peer, _) if clear => {
            let why =
                "it has, or asks, an API server: this node itself speaks to it in the clear until there is a tunnel";
            (Verdict::NoHandshakeYet, why.into())
        }
        (Standing::Peer, Some(stats)) if stats.handshakes > 0 => {
            (Verdict::NoSession, "idle, or it does not answer; the next packet makes a session".into())
        }
        (Standing::Peer, Some(stats)) if stats.failures > 0 => {
            let port = report.wanted.peers.get(name).map_or(0, |wanted| wanted.endpoint.port());
            (Verdict::NoHandshakeYet, format!("it does not answer; does UDP {port} pass, and does it know our key?"))
        }
        (Standing::Peer, _) => (Verdict::NoHandshakeYet, String::new()),
    }
}

/// Peers by name; those who rotate and those who go are rare enough for the labels.
pub(super) fn families(admin: &Admin) -> Vec<Family> {
    let Some(report) = admin.running.get().and_then(|r| r.encryption.as_ref()).map(|e| e.report()) else {
        return Vec::new();
    };
    let peers = peers(&report);
    let per_peer = |value: fn(&Peer) -> u64| -> Vec<Sample> {
        peers.iter().map(|peer| sample(vec![("peer", peer.name.clone())], value(peer))).collect()
    };
    let mut verdicts: BTreeMap<&str, u64> = BTreeMap::new();
    for peer in &peers {
        *verdicts.entry(peer.verdict.words()).or_default() += 1;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let handshakes = peers.iter().filter_map(|peer| {
        let at = now.saturating_sub(Duration::from_secs(peer.handshake_age_s?)).as_secs();
        Some(sample(vec![("peer", peer.name.clone())], at))
    });
    let bytes = peers.iter().flat_map(|peer| {
        [("rx", peer.rx_bytes), ("tx", peer.tx_bytes)]
            .map(|(direction, bytes)| sample(vec![("peer", peer.name.clone()), ("direction", direction.into())], bytes))
    });
    let phase = report.phase.map(phase_name);
    let phases = ["steady", "making", "warming", "draining"]
        .map(|name| sample(vec![("phase", name.into())], u64::from(phase == Some(name))));
    let epochs = report.keys.iter().map(|key| sample(vec![("role", key.role.into())], u64::from(key.epoch)));
    let mut families = vec![
        gauge(
            "causeway_wireguard_peers",
            "Other nodes by what becomes of traffic with them",
            verdicts.into_iter().map(|(verdict, count)| sample(vec![("verdict", verdict.into())], count)).collect(),
        ),
        gauge(
            "causeway_wireguard_latest_handshake_seconds",
            "When the last handshake with the peer was made, in seconds since the Unix epoch",
            handshakes.collect(),
        ),
        counter("causeway_wireguard_bytes", "Payload bytes by peer", bytes.collect()),
        counter(
            "causeway_wireguard_failures",
            "Handshakes given up, and messages that did not authenticate",
            per_peer(|p| p.failures),
        ),
        counter("causeway_wireguard_replays", "Datagrams that had been seen before", per_peer(|p| p.replays)),
        gauge("causeway_wireguard_rotation_phase", "1: where the rotation of this node's keys is", phases.into()),
        gauge("causeway_wireguard_key_epoch", "Numbers of this node's keys", epochs.collect()),
        gauge(
            "causeway_wireguard_up",
            "1: device, guard and routes are in place",
            vec![sample(vec![], u64::from(report.unready.is_none()))],
        ),
    ];
    if let Some(s) = &report.snapshot {
        let reasons =
            [("no-peer", s.no_peer), ("stranger", s.strangers), ("malformed", s.malformed), ("unsent", s.unsent)];
        families.push(counter(
            "causeway_wireguard_drops",
            "Packets that the device refused",
            reasons.map(|(reason, count)| sample(vec![("reason", reason.into())], count)).into(),
        ));
    }
    families
}
