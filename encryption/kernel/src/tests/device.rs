//! The device against the kernel in memory.

use std::collections::BTreeSet;
use std::time::Duration;

use causeway_encryption_device::{Device as _, DeviceError, Ensured};
use causeway_encryption_plan::{Change, DeviceSpec, Link, Snapshot, plan};
use proptest::collection::vec;
use proptest::prelude::*;

use super::kernel::Memory;
use super::slots::{check, wish};
use super::{at, link, name, net, private, public};
use crate::kernel::Kernel;
use crate::wire::Wire as _;

fn spec() -> DeviceSpec {
    DeviceSpec { name: "cilium_wg0".into(), port: 51871, mark: 0x1e00, mtu: 1408, addresses: Vec::new() }
}

struct Node {
    device: Kernel<Memory>,
    dir: tempfile::TempDir,
}

impl Node {
    fn new(old: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let wire = Memory { old, ..Memory::default() };
        let mut node = Self { device: Kernel::over(wire, "a test".into(), dir.path().join("names.json")), dir };
        assert_eq!(node.device.ensure(&spec()).unwrap(), Ensured { ifindex: 11, fresh: true });
        node
    }

    /// With identity 1 and peer 101.
    fn with_peer(old: bool) -> Self {
        let mut node = Self::new(old);
        let (peer, link) = (name(101), link(1, 101));
        node.apply(Change::AddIdentity { private: private(1) });
        node.apply(Change::AddPeer { peer, endpoint: at(101), keepalive_s: Some(25), link });
        node
    }

    #[track_caller]
    fn apply(&mut self, change: Change) {
        self.device.apply(vec![change]).unwrap();
    }

    fn restart(&mut self) {
        let wire = std::mem::take(self.device.wire());
        self.device = Kernel::over(wire, "a test".into(), self.dir.path().join("names.json"));
        assert!(!self.device.ensure(&spec()).unwrap().fresh);
    }

    fn pass(&mut self) -> Snapshot {
        self.device.ensure(&spec()).unwrap();
        self.device.snapshot().unwrap()
    }

    fn names(&mut self) -> Vec<&str> {
        self.device.wire().interfaces.keys().map(String::as_str).collect()
    }

    fn confirmed(snapshot: &Snapshot, of: Link) -> bool {
        let links = snapshot.stats.values().flat_map(|stats| &stats.links);
        links.clone().any(|(link, stats)| *link == of && stats.confirmed)
    }
}

#[test]
fn an_interface_is_made_and_ends() {
    let mut node = Node::with_peer(false);
    let there = node.device.wire().interfaces["cilium_wg0"].clone();
    assert_eq!((there.port, there.mark, there.mtu), (51871, 0x1e00, Some(1408)));
    assert_eq!(there.private.as_ref(), Some(private(1).as_bytes()));
    assert_eq!(there.peers[public(101).as_bytes()].endpoint, Some(at(101)));
    let other = DeviceSpec { mtu: 1328, port: 6000, mark: 7, ..spec() };
    assert_eq!(node.device.ensure(&other).unwrap(), Ensured { ifindex: 11, fresh: false });
    let there = node.device.wire().interfaces["cilium_wg0"].clone();
    assert_eq!((there.port, there.mark, there.mtu), (6000, 7, Some(1328)));
    node.device.delete().unwrap();
    assert!(node.names().is_empty());
    assert!(matches!(node.device.snapshot(), Err(DeviceError::Gone(_))));
    assert!(matches!(node.device.delete(), Err(DeviceError::Gone(_))));
}

#[test]
fn a_new_process_that_shall_not_encrypt_ends_what_an_old_one_made() {
    let mut node = Node::with_peer(false);
    let wire = std::mem::take(node.device.wire());
    node.device = Kernel::over(wire, "a test".into(), node.dir.path().join("names.json"));
    node.device.delete().unwrap();
    assert!(node.names().is_empty());
}

#[test]
fn an_interface_that_is_gone_says_so_and_comes_back_empty() {
    let mut node = Node::with_peer(false);
    node.device.wire().interfaces.clear();
    let error = node.device.snapshot().unwrap_err().to_string();
    assert_eq!(error, "the WireGuard interface cilium_wg0 is gone: who removed it?");
    assert!(node.device.ensure(&spec()).unwrap().fresh);
    assert_eq!(node.device.snapshot().unwrap().actual, Default::default());
}

/// Keepalives of both ends begin with a handshake; a snapshot says by which interface packets go; nothing is left behind.
#[test]
fn a_rotation_of_ours() {
    let mut node = Node::with_peer(false);
    node.apply(Change::AddPrefix { peer: name(101), prefix: net("10.1.0.0/16") });
    let key = *public(101).as_bytes();
    node.device.wire().shake("cilium_wg0", key);
    let snapshot = node.pass();
    assert!(Node::confirmed(&snapshot, link(1, 101)));
    assert_eq!((snapshot.ifindex, snapshot.stats[&name(101)].ifindex), (11, 11));

    node.apply(Change::AddIdentity { private: private(2) });
    node.apply(Change::AddLink { peer: name(101), link: link(2, 101) });
    assert_eq!(node.names(), ["cilium_wg0", "cilium_wg1"]);
    let second = node.device.wire().interfaces["cilium_wg1"].clone();
    assert_eq!((second.port, second.mark, second.mtu), (51872, 0x1e00, None));
    // It is off until a snapshot has named it, and whoever reads that has had the time to act.
    assert_eq!(node.pass().interfaces, [11, second.index].into());
    assert_eq!(node.device.wire().interfaces["cilium_wg1"].mtu, None);
    node.pass();
    let second = node.device.wire().interfaces["cilium_wg1"].clone();
    assert_eq!(second.mtu, Some(1408));
    let peer = &second.peers[&key];
    assert_eq!((peer.kicks, peer.keepalive_s), (1, 0), "a handshake, and no keepalive where nothing is sent");
    assert_eq!(peer.prefixes, BTreeSet::from([net("10.1.0.0/16")]));
    assert_eq!(peer.endpoint.unwrap().port(), 51872);
    assert!(!Node::confirmed(&node.pass(), link(2, 101)));

    // The other side was reached at its only port.
    node.device.wire().shake("cilium_wg1", key);
    node.device.wire().interfaces.get_mut("cilium_wg1").unwrap().peers.get_mut(&key).unwrap().endpoint = Some(at(101));
    assert!(Node::confirmed(&node.pass(), link(2, 101)));
    node.apply(Change::AddLink { peer: name(101), link: link(2, 101) });
    assert_eq!(node.device.wire().interfaces["cilium_wg1"].peers[&key].kicks, 1, "it has a session");
    node.apply(Change::Activate { peer: name(101), link: link(2, 101) });
    assert_eq!(node.device.wire().interfaces["cilium_wg0"].peers[&key].keepalive_s, 0);
    assert_eq!(node.device.wire().interfaces["cilium_wg1"].peers[&key].keepalive_s, 25);
    let snapshot = node.pass();
    assert_eq!((snapshot.ifindex, snapshot.stats[&name(101)].ifindex), (11, second.index));

    node.device.wire().interfaces.get_mut("cilium_wg1").unwrap().peers.get_mut(&key).unwrap().tx_bytes += 1000;
    node.pass();
    node.device
        .apply(vec![
            Change::RemoveLink { peer: name(101), link: link(1, 101) },
            Change::RemoveIdentity { public: public(1) },
        ])
        .unwrap();
    assert_eq!(node.pass().stats[&name(101)].ifindex, second.index, "it stays while packets go by it");
    node.device.wire().now += Duration::from_secs(2);
    assert_eq!(node.pass().stats[&name(101)].ifindex, 11);
    let first = node.device.wire().interfaces["cilium_wg0"].clone();
    assert_eq!((first.index, first.private.as_ref()), (11, Some(private(2).as_bytes())), "the same interface");
    assert_eq!((first.port, first.peers[&key].kicks), (51871, 0));
    let snapshot = node.pass();
    assert!(Node::confirmed(&snapshot, link(2, 101)), "by the old interface");
    assert_eq!(snapshot.stats[&name(101)].ifindex, 11);
    node.pass();
    assert_eq!(node.device.wire().interfaces["cilium_wg0"].peers[&key].kicks, 1);
    node.device.wire().shake("cilium_wg0", key);
    let snapshot = node.pass();
    assert!(Node::confirmed(&snapshot, link(2, 101)));
    assert_eq!(node.names(), ["cilium_wg0"]);
    assert_eq!(node.device.wire().interfaces["cilium_wg0"].peers[&key].keepalive_s, 25);
    assert_eq!(snapshot.actual.identities, BTreeSet::from([public(2)]));
}

/// Handshakes that nobody answers go elsewhere; a session that ended is looked for where the peer is announced.
#[test]
fn a_peer_is_looked_for() {
    let mut node = Node::with_peer(false);
    node.apply(Change::AddIdentity { private: private(2) });
    node.apply(Change::AddLink { peer: name(101), link: link(2, 101) });
    let key = *public(101).as_bytes();
    let sent = |node: &mut Node, interface: &str| {
        let wire = node.device.wire();
        wire.now += Duration::from_secs(6);
        wire.interfaces.get_mut(interface).unwrap().peers.get_mut(&key).unwrap().tx_bytes += 148;
        node.pass();
        node.device.wire().interfaces[interface].peers[&key].endpoint.unwrap().port()
    };
    node.pass();
    let tried: Vec<u16> = (0..5).map(|_| sent(&mut node, "cilium_wg1")).collect();
    assert_eq!(tried, [51871, 51873, 51871, 51874, 51871]);
    // It came from another port, was heard of there for three minutes, and is there no longer.
    node.device.wire().shake("cilium_wg0", key);
    let first = node.device.wire().interfaces.get_mut("cilium_wg0").unwrap();
    first.peers.get_mut(&key).unwrap().endpoint = Some("192.0.2.101:51873".parse().unwrap());
    assert_eq!(sent(&mut node, "cilium_wg0"), 51873);
    assert_eq!(node.pass().stats[&name(101)].endpoint.port(), 51873, "where it was last heard from");
    node.device.wire().now += Duration::from_secs(180);
    assert_eq!(sent(&mut node, "cilium_wg0"), 51871);
}

/// A spare port that somebody has costs the new link, not the one that is in use.
#[test]
fn a_port_that_is_taken() {
    let mut node = Node::with_peer(false);
    node.device.wire().taken.insert(51872);
    node.apply(Change::AddIdentity { private: private(2) });
    node.apply(Change::AddLink { peer: name(101), link: link(2, 101) });
    node.device.wire().shake("cilium_wg0", *public(101).as_bytes());
    for _ in 0..3 {
        let snapshot = node.pass();
        assert!(Node::confirmed(&snapshot, link(1, 101)));
        assert!(!Node::confirmed(&snapshot, link(2, 101)));
    }
    node.device.wire().taken.clear();
    node.pass();
    assert_eq!(node.device.wire().interfaces["cilium_wg1"].peers[public(101).as_bytes()].kicks, 1);
    assert!(node.device.wire().interfaces["cilium_wg0"].peers.contains_key(public(101).as_bytes()));
}

#[test]
fn a_new_process_knows_its_peers() {
    let mut node = Node::with_peer(false);
    for i in 0..20u8 {
        node.apply(Change::AddPrefix { peer: name(101), prefix: net(&format!("10.{i}.0.0/16")) });
    }
    node.apply(Change::AddIdentity { private: private(2) });
    node.apply(Change::AddLink { peer: name(101), link: link(2, 101) });
    let before = (node.pass().actual, node.device.wire().interfaces.clone());
    node.restart();
    assert_eq!((node.pass().actual, node.device.wire().interfaces.clone()), before);
    // Without the file, or with one that is damaged, nobody knows whose they are.
    for damage in ["", "{}", r#"{"interface":"cilium_wg0","slots":{"slots":[null,null,null,null],"peers":{}}}"#] {
        std::fs::write(node.dir.path().join("names.json"), damage).unwrap();
        node.restart();
        let snapshot = node.pass();
        assert!(snapshot.actual.peers.is_empty());
        assert_eq!(node.names(), ["cilium_wg0"]);
        assert_eq!(node.device.wire().interfaces["cilium_wg0"].peers.len(), 0);
    }
}

#[test]
fn what_others_did_is_undone() {
    let mut node = Node::with_peer(false);
    node.apply(Change::AddPrefix { peer: name(101), prefix: net("10.1.0.0/16") });
    let wanted = node.pass();
    let interface = node.device.wire().interfaces.get_mut("cilium_wg0").unwrap();
    interface.peers.insert([9; 32], Default::default());
    interface.port = 1;
    node.device.wire().make("cilium_wg3").unwrap();
    assert_eq!(node.pass().actual, wanted.actual);
    let interface = node.device.wire().interfaces["cilium_wg0"].clone();
    assert_eq!((interface.port, interface.peers.len()), (51871, 1));
    assert_eq!(node.names(), ["cilium_wg0"]);
    // What is missing is told again.
    let key = *public(101).as_bytes();
    node.device.wire().interfaces.get_mut("cilium_wg0").unwrap().peers.get_mut(&key).unwrap().prefixes.clear();
    assert!(node.pass().actual.peers[&name(101)].prefixes.is_empty());
    node.device.wire().interfaces.get_mut("cilium_wg0").unwrap().peers.clear();
    assert!(node.pass().actual.peers.is_empty());
}

#[test]
fn one_prefix_goes_on_every_kernel() {
    for old in [false, true] {
        let mut node = Node::with_peer(old);
        let add = |i: u8| Change::AddPrefix { peer: name(101), prefix: net(&format!("10.{i}.0.0/16")) };
        node.device.apply((0..10).map(add).collect()).unwrap();
        for i in 0..5u8 {
            node.apply(Change::RemovePrefix { peer: name(101), prefix: net(&format!("10.{i}.0.0/16")) });
        }
        let interface = &node.device.wire().interfaces["cilium_wg0"];
        assert_eq!(interface.peers.len(), 1, "nobody is there for long");
        let left: BTreeSet<_> = (5..10).map(|i: u8| net(&format!("10.{i}.0.0/16"))).collect();
        assert_eq!(interface.peers[public(101).as_bytes()].prefixes, left);
    }
}

#[test]
fn fifty_thousand_prefixes_are_few_messages() {
    let mut node = Node::with_peer(false);
    let before = node.device.wire().messages;
    let prefix = |i: u32| ipnet::IpNet::new(std::net::Ipv4Addr::from(0x0a00_0000 + i * 16).into(), 28).unwrap();
    node.device.apply((0..50_000).map(|i| Change::AddPrefix { peer: name(101), prefix: prefix(i) }).collect()).unwrap();
    let messages = node.device.wire().messages - before;
    assert!(messages < 320, "{messages}");
    assert_eq!(node.pass().actual.peers[&name(101)].prefixes.len(), 50_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is wanted in turn, the device ends up with it, in the kernel's view and after a restart too.
    #[test]
    fn it_holds_what_it_shall(wishes in vec((wish(), any::<bool>(), any::<bool>()), 1..6), old: bool) {
        let mut node = Node::new(old);
        for (wish, live, restart) in wishes {
            let desired = wish.desired();
            let held = node.pass().actual;
            node.device.apply(plan(&desired, &held)).unwrap();
            if restart {
                // An identity without a link is on no interface; it is told again.
                node.restart();
                let held = node.pass().actual;
                let rest = plan(&desired, &held);
                let identities = rest.iter().all(|change| matches!(change, Change::AddIdentity { .. }));
                prop_assert!(identities, "{:?}", rest);
                node.device.apply(rest).unwrap();
            }
            let held = node.pass().actual;
            prop_assert_eq!(plan(&desired, &held), vec![]);
            check(node.device.slots());
            if live {
                let wire = node.device.wire();
                let all: Vec<_> = wire.interfaces.iter().flat_map(|(name, interface)| {
                    interface.peers.keys().map(|key| (name.clone(), *key))
                }).collect();
                all.into_iter().for_each(|(name, key)| wire.shake(&name, key));
            }
        }
    }
}
