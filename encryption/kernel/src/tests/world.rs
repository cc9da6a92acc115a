//! Two nodes with kernels in memory and a wire between them: what a rotation does to packets.
//!
//! Modelled: who is found at a port, sessions (the newest is sent on, the one before is still read; whoever answered a
//! handshake sends on it after the first packet in it), packets that wait for a handshake, endpoints that follow whatever
//! authentic packet came last, and the time between an agent's passes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use causeway_encryption_device::Device as _;
use causeway_encryption_plan::{
    Announcement, Change, Desired, DeviceSpec, EpochKey, Link, Peer, RemoteKeys, active_link, cold_links, links, plan,
};
use proptest::prelude::*;

use super::kernel::{KernelPeer, Key, Memory};
use super::{at, name, net, private, public};
use crate::kernel::Kernel;

/// The kernel tries a handshake that long, and every five seconds.
const GIVE_UP: Duration = Duration::from_secs(90);
const AGAIN: Duration = Duration::from_secs(5);
const REKEY_AFTER: Duration = Duration::from_secs(120);

struct Node {
    number: u8,
    device: Kernel<Memory>,
    /// Numbers of its keys, oldest first, and which of them is the current one.
    keys: Vec<u8>,
    current: u8,
    /// By which interface packets to the other go.
    route: u32,
    warmed: Duration,
    _dir: tempfile::TempDir,
}

struct World {
    nodes: [Node; 2],
    now: Duration,
    sessions: u32,
    talking: bool,
    lost: Vec<String>,
}

fn spec() -> DeviceSpec {
    DeviceSpec { name: "cilium_wg0".into(), port: 51871, mark: 0x1e00, mtu: 1408, addresses: Vec::new() }
}

impl Node {
    fn new(number: u8, key: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let device = Kernel::over(Memory::default(), "a test".into(), dir.path().join("names.json"));
        Self { number, device, keys: vec![key], current: key, route: 0, warmed: Duration::ZERO, _dir: dir }
    }

    fn announcement(&self) -> Announcement {
        let keys = self.keys.iter().map(|key| EpochKey { epoch: (*key).into(), key: public(*key) }).collect();
        Announcement { current: public(self.current), keys }
    }

    /// As the agent does it.
    fn pass(&mut self, other: u8, told: &Announcement, now: Duration) {
        self.device.wire().now = now;
        self.device.ensure(&spec()).unwrap();
        let snapshot = self.device.snapshot().unwrap();
        let own: Vec<_> = self.keys.iter().map(|key| public(*key)).collect();
        let all = links(&own, &RemoteKeys::from(told));
        let in_use = snapshot.actual.peers.get(&name(other)).map(|peer| peer.active);
        let fallback = Link { own: public(self.current), remote: told.current };
        let stats = snapshot.stats.get(&name(other));
        let confirmed = |link: &Link| {
            stats.is_some_and(|stats| stats.links.iter().any(|(of, stats)| of == link && stats.confirmed))
        };
        let active = active_link(&all, in_use, fallback, confirmed);
        let mut desired = Desired::default();
        desired.identities.extend(self.keys.iter().map(|key| (public(*key), private(*key))));
        let peer = Peer {
            endpoint: at(other),
            keepalive_s: None,
            links: all.iter().copied().collect(),
            active,
            prefixes: [net(&format!("10.{other}.0.0/16"))].into(),
        };
        desired.peers.insert(name(other), peer);
        let mut changes = plan(&desired, &snapshot.actual);
        if now >= self.warmed + AGAIN {
            self.warmed = now;
            let cold = cold_links(&all, active).filter(|link| !confirmed(link));
            changes.extend(cold.map(|link| Change::AddLink { peer: name(other), link: *link }));
        }
        self.device.apply(changes).unwrap();
        if let Some(stats) = stats {
            self.route = stats.ifindex;
        }
    }

    fn interfaces(&mut self) -> Vec<String> {
        self.device.wire().interfaces.keys().cloned().collect()
    }
}

impl World {
    fn new(keys: [u8; 2]) -> Self {
        let nodes = [Node::new(1, keys[0]), Node::new(2, keys[1])];
        let mut world = Self { nodes, now: Duration::ZERO, sessions: 0, talking: true, lost: Vec::new() };
        (0..2).for_each(|_| (0..2).for_each(|index| world.pass(index)));
        world
    }

    fn pass(&mut self, index: usize) {
        let told = self.nodes[1 - index].announcement();
        let (other, now) = (self.nodes[1 - index].number, self.now);
        self.nodes[index].pass(other, &told, now);
        self.handshakes();
    }

    /// `seconds` with a packet each way every 100 ms; passes once a second, each node's at its own moment.
    fn run(&mut self, seconds: u64, moments: [u64; 2]) {
        for tick in 0..10 * seconds {
            self.now += Duration::from_millis(100);
            self.answered();
            for node in &mut self.nodes {
                node.device.wire().now = self.now;
            }
            for index in [0, 1] {
                if tick % 10 == moments[index] {
                    self.pass(index);
                }
                if self.talking {
                    self.packet(index);
                }
            }
            self.handshakes();
        }
    }

    /// The first packet of whoever began a handshake has come.
    fn answered(&mut self) {
        for node in &mut self.nodes {
            let interfaces = node.device.wire().interfaces.values_mut();
            for peer in interfaces.flat_map(|interface| interface.peers.values_mut()) {
                if let Some(session) = peer.next.take() {
                    begin(peer, session);
                }
            }
        }
    }

    fn handshakes(&mut self) {
        for index in [0, 1] {
            let now = self.now;
            let mut due: Vec<(String, Key)> = Vec::new();
            for (name, interface) in &mut self.nodes[index].device.wire().interfaces {
                for (key, peer) in &mut interface.peers {
                    let fresh = peer.last_handshake.is_some_and(|_| !peer.sessions.is_empty());
                    let Some((since, sent)) = &mut peer.trying else { continue };
                    if fresh || now > *since + GIVE_UP {
                        peer.trying = None;
                    } else if sent.is_none_or(|sent| now >= sent + AGAIN) {
                        *sent = Some(now);
                        peer.tx_bytes += 148;
                        due.push((name.clone(), *key));
                    }
                }
            }
            for (name, key) in due {
                self.shake(index, &name, key);
            }
        }
    }

    /// Who is found at a port under a key.
    fn find(&mut self, index: usize, to: SocketAddr, is: impl Fn(&super::kernel::Interface) -> bool) -> Option<String> {
        let node = &mut self.nodes[index];
        let here = to.ip() == at(node.number).ip();
        let interfaces = &node.device.wire().interfaces;
        interfaces
            .iter()
            .find(|(_, found)| here && found.mtu.is_some() && found.port == to.port() && is(found))
            .map(|(name, _)| name.clone())
    }

    fn shake(&mut self, index: usize, interface: &str, remote: Key) -> Option<()> {
        let from = self.nodes[index].device.wire().interfaces[interface].clone();
        let own = causeway_encryption_plan::PrivateKey::from_random(from.private?).public();
        let to = from.peers[&remote].endpoint?;
        let is = |found: &super::kernel::Interface| {
            let public = found.private.map(|key| causeway_encryption_plan::PrivateKey::from_random(key).public());
            public.is_some_and(|public| *public.as_bytes() == remote) && found.peers.contains_key(own.as_bytes())
        };
        let there = self.find(1 - index, to, is)?;
        self.sessions += 1;
        let (session, me): (u32, IpAddr) = (self.sessions, at(self.nodes[index].number).ip());
        let asks = index;
        for (index, interface, key) in [(index, interface, remote), (1 - index, there.as_str(), *own.as_bytes())] {
            let wire = self.nodes[index].device.wire();
            wire.shake(interface, key);
            let peer = wire.interfaces.get_mut(interface).unwrap().peers.get_mut(&key).unwrap();
            peer.trying = None;
            if index == asks || peer.sessions.is_empty() {
                begin(peer, session);
            } else {
                peer.next = Some(session);
            }
        }
        let wire = self.nodes[1 - index].device.wire();
        let peer = wire.interfaces.get_mut(&there).unwrap().peers.get_mut(own.as_bytes()).unwrap();
        peer.endpoint = Some(SocketAddr::new(me, from.port));
        Some(())
    }

    fn packet(&mut self, index: usize) {
        let (number, other) = (self.nodes[index].number, self.nodes[1 - index].number);
        let prefix = net(&format!("10.{other}.0.0/16"));
        let (route, now) = (self.nodes[index].route, self.now);
        let wire = self.nodes[index].device.wire();
        let found = wire.interfaces.iter().find(|(_, interface)| interface.index == route);
        let peer = found.and_then(|(name, interface)| {
            let owner = interface.peers.iter().find(|(_, peer)| peer.prefixes.contains(&prefix));
            owner.map(|(key, _)| (name.clone(), *key))
        });
        let Some((interface, key)) = peer else {
            self.lost.push(format!("{now:?} node {number}: no peer on interface {route}"));
            return;
        };
        let peer = self.nodes[index].device.wire().interfaces[&interface].peers[&key].clone();
        let old = peer.last_handshake.is_none_or(|last| super::kernel::EPOCH + now > last + REKEY_AFTER);
        if (peer.sessions.is_empty() || old) && self.shake(index, &interface, key).is_none() && peer.sessions.is_empty()
        {
            self.lost.push(format!("{now:?} node {number}: {interface} finds nobody at {:?}", peer.endpoint));
            let wire = self.nodes[index].device.wire();
            let peer = wire.interfaces.get_mut(&interface).unwrap().peers.get_mut(&key).unwrap();
            peer.trying.get_or_insert((now, None));
            return;
        }
        self.deliver(index, &interface, key);
    }

    fn deliver(&mut self, index: usize, interface: &str, key: Key) {
        let (number, now) = (self.nodes[index].number, self.now);
        let sender = self.nodes[index].device.wire().interfaces.get_mut(interface).unwrap();
        sender.peers.get_mut(&key).unwrap().tx_bytes += 128;
        let from = sender.clone();
        let peer = &from.peers[&key];
        let session = *peer.sessions.last().unwrap();
        let source = net(&format!("10.{number}.0.0/16"));
        let to = peer.endpoint.unwrap();
        let reads = |found: &super::kernel::Interface| found.peers.values().any(|peer| peer.reads(session));
        let Some(there) = self.find(1 - index, to, reads) else {
            self.lost.push(format!("{now:?} node {number}: nobody at {to} reads the session of {interface}"));
            return;
        };
        let wire = self.nodes[1 - index].device.wire();
        let mut peers = wire.interfaces.get_mut(&there).unwrap().peers.values_mut();
        let peer = peers.find(|peer| peer.reads(session)).unwrap();
        peer.endpoint = Some(SocketAddr::new(at(number).ip(), from.port));
        peer.rx_bytes += 128;
        if !peer.prefixes.contains(&source) {
            self.lost.push(format!("{now:?} node {number}: {there} refuses the source"));
        }
    }
}

fn begin(peer: &mut KernelPeer, session: u32) {
    peer.sessions.push(session);
    let keep = peer.sessions.len().saturating_sub(2);
    peer.sessions.drain(..keep);
}

/// Rotates the keys of some nodes from `old` to `new`; `gap`: seconds between the first's steps and the second's.
fn rotate(world: &mut World, who: &[usize], new: [u8; 2], gap: u64, moments: [u64; 2]) {
    let steps: [fn(&mut Node, u8); 3] =
        [|node, key| node.keys.push(key), |node, key| node.current = key, |node, key| node.keys = vec![key]];
    for (step, pause) in steps.into_iter().zip([60, 200, 60]) {
        for index in who {
            step(&mut world.nodes[*index], new[*index]);
            world.run(gap, moments);
        }
        world.run(pause, moments);
    }
}

/// Nothing is lost while packets go to and fro; once they do not, everything is as before.
#[track_caller]
fn at_home(world: &mut World, moments: [u64; 2]) {
    world.talking = false;
    world.run(30, moments);
    world.talking = true;
    world.run(5, moments);
    assert!(world.lost.is_empty(), "{} lost, first {:#?}", world.lost.len(), &world.lost[..1]);
    for node in &mut world.nodes {
        assert_eq!(node.interfaces(), ["cilium_wg0"], "node {}", node.number);
        let peers = &node.device.wire().interfaces["cilium_wg0"].peers;
        assert_eq!(peers.len(), 1);
        assert!(peers.values().all(|peer| peer.endpoint.unwrap().port() == 51871));
    }
}

fn started(keys: [u8; 2], moments: [u64; 2]) -> World {
    let mut world = World::new(keys);
    world.run(5, moments);
    world.lost.clear();
    world
}

#[test]
fn one_side_rotates() {
    let mut world = started([1, 2], [0, 5]);
    rotate(&mut world, &[0], [11, 2], 0, [0, 5]);
    at_home(&mut world, [0, 5]);
    rotate(&mut world, &[1], [11, 12], 0, [0, 5]);
    at_home(&mut world, [0, 5]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// With any keys, any order, at once or one after the other: no packet is lost, and in the end all is as before.
    #[test]
    fn rotations_lose_nothing(
        keys in proptest::sample::subsequence((1..=200u8).collect::<Vec<_>>(), 6).prop_shuffle(),
        gap in prop_oneof![Just(0u64), 0..4u64, Just(40)],
        moments in [0..10u64, 0..10u64],
        rounds in proptest::collection::vec(proptest::sample::select(vec![vec![0], vec![1], vec![0, 1], vec![1, 0]]), 1..3),
    ) {
        let mut world = started([keys[0], keys[1]], moments);
        let mut now = [keys[0], keys[1]];
        for (round, who) in rounds.iter().enumerate() {
            let next: BTreeMap<usize, u8> = who.iter().map(|index| (*index, keys[2 + 2 * round + index])).collect();
            for (index, key) in &next {
                now[*index] = *key;
            }
            rotate(&mut world, who, now, gap, moments);
            at_home(&mut world, moments);
        }
    }
}
