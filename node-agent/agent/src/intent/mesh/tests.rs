//! A cluster's words in, tables and addresses out.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use causeway_mesh_remote::{Change, RemoteInfo, Sink, Stage};
use causeway_mesh_schema::{ClusterConfig, ClusterId, ClusterName, Kind, Origin, Scale};

use super::intake::Intake;
use super::sink::ClusterSink;
use crate::control::ipcache::prefix::Prefix;
use crate::intent::Key;
use crate::tables::Tables;

struct World {
    tables: Tables,
    intake: Intake,
    sink: ClusterSink,
    revision: i64,
    store: u64,
}

fn info(name: &str, id: u32) -> Arc<RemoteInfo> {
    let origin = Origin {
        name: ClusterName::parse(name).unwrap(),
        id: ClusterId::new(id, Scale::C255).unwrap(),
        scale: Scale::C255,
    };
    Arc::new(RemoteInfo { origin, config: ClusterConfig { id, ..ClusterConfig::default() } })
}

impl World {
    fn new() -> World {
        let tables = Tables::default();
        let intake = Intake::new(&tables, []);
        let sink = intake.sink(&ClusterName::parse("east").unwrap());
        let mut world = World { tables, intake, sink, revision: 0, store: 7 };
        world.sink.apply(Change::Connected(info("east", 2)));
        world
    }

    fn put(&mut self, kind: Kind, name: &str, value: &str) {
        self.revision += 1;
        self.put_at(kind, name, value, self.revision);
    }

    fn put_at(&mut self, kind: Kind, name: &str, value: &str, revision: i64) {
        let value = Bytes::copy_from_slice(value.as_bytes());
        self.sink.apply(Change::Put { kind, name: name.into(), value, revision, store: self.store });
    }

    fn delete(&mut self, kind: Kind, name: &str) {
        self.sink.apply(Change::Deleted { kind, name: name.into(), revision: self.revision });
    }

    fn list(&mut self, kind: Kind, entries: &[(&str, String, i64)]) {
        self.sink.apply(Change::Relisting(kind));
        for (name, value, revision) in entries {
            self.put_at(kind, name, value, *revision);
        }
        self.sink.apply(Change::Listed(kind));
    }

    fn offers(&self) -> Vec<String> {
        self.tables.mesh_offers.read(|t| {
            t.iter().map(|(k, o)| format!("{}@{}#{} {}", k.service, k.cluster, k.slice, o.slices.len())).collect()
        })
    }

    fn nodes(&self) -> Vec<String> {
        self.tables.mesh_nodes.read(|t| t.iter().map(|((c, name), _)| format!("{c}/{name}")).collect())
    }

    fn identity(&self, ip: &str) -> Option<u32> {
        self.intake.ips().lookup(ip.parse::<IpAddr>().unwrap()).map(|(_, _, identity, _)| identity)
    }

    fn refused(&self) -> Vec<String> {
        let refusals = self.intake.refused_entries(&ClusterName::parse("east").unwrap());
        refusals.named().map(|(kind, name, _)| format!("{kind} {name}")).collect()
    }
}

fn node(name: &str, cidr: &str, mask: &str) -> String {
    format!(
        r#"{{"Name":"{name}","Cluster":"east","IPAddresses":[{{"Type":"InternalIP","IP":"192.0.2.7"}}],
            "IPv4AllocCIDR":{{"IP":"{cidr}","Mask":"{mask}"}},"ClusterID":2,"Source":"custom-resource"}}"#
    )
}

fn pod(ip: &str, identity: u32) -> String {
    format!(r#"{{"IP":"{ip}","Mask":null,"HostIP":"192.0.2.7","ID":{identity},"Key":0,"Metadata":""}}"#)
}

fn service(name: &str, backends: &[&str]) -> String {
    let backends: Vec<String> =
        backends.iter().map(|ip| format!(r#""{ip}":{{"http":{{"Protocol":"TCP","Port":80}}}}"#)).collect();
    format!(
        r#"{{"cluster":"east","namespace":"shop","name":"{name}","frontends":{{}},"backends":{{{}}},"labels":{{}},
            "selector":{{}},"includeExternal":true,"shared":true,"clusterID":2}}"#,
        backends.join(",")
    )
}

const LABELS: &str = "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=east;k8s:io.kubernetes.pod.namespace=shop;";

#[test]
fn every_kind_has_its_place_and_goes_with_its_cluster() {
    let mut w = World::new();
    w.put(Kind::Nodes, "n1", &node("n1", "10.2.1.0", "////AA=="));
    w.put(Kind::Identities, "131100", LABELS);
    w.put(Kind::Ips, "10.2.1.5", &pod("10.2.1.5", 131_100));
    w.put(Kind::Services, "shop/web", &service("web", &["10.2.1.5"]));
    assert_eq!((w.nodes(), w.offers()), (vec!["2/n1".to_owned()], vec!["shop/web@2# 1".to_owned()]));
    assert_eq!(w.identity("10.2.1.5"), Some(131_100));
    assert_eq!(w.tables.mesh_identities.get(&131_100).unwrap().labels.len(), 3);
    assert_eq!(w.refused(), [] as [String; 0]);
    w.sink.apply(Change::Stage(Stage::Probed));
    let id = ClusterId::try_from(2).unwrap();
    assert_eq!(w.tables.mesh_clusters.get(&id).unwrap().stage, Stage::Probed);
    w.sink.apply(Change::Forget);
    assert_eq!((w.nodes().len(), w.offers().len(), w.identity("10.2.1.5")), (0, 0, None));
    assert!(w.tables.mesh_clusters.get(&id).is_none() && w.tables.mesh_identities.get(&131_100).is_none());
}

#[test]
fn a_listing_sweeps_and_what_is_unchanged_is_not_even_read() {
    let mut w = World::new();
    let ips = [("10.2.1.5", pod("10.2.1.5", 131_100), 11), ("10.2.1.6", pod("10.2.1.6", 131_100), 12)];
    let services = [("shop/a", service("a", &[]), 13), ("shop/b", service("b", &["10.2.1.5"]), 14)];
    w.list(Kind::Ips, &ips);
    w.list(Kind::Services, &services);
    assert_eq!(w.offers(), ["shop/a@2# 0", "shop/b@2# 1"]);
    let before = w.tables.mesh_offers.read(causeway_table::Table::revision);
    // Nonsense in a revision that is known: it is not looked at.
    w.list(Kind::Ips, &[("10.2.1.5", "nonsense".into(), 11)]);
    w.list(Kind::Services, &[("shop/a", "nonsense".into(), 13), ("shop/b", "nonsense".into(), 14)]);
    assert_eq!((w.identity("10.2.1.5"), w.identity("10.2.1.6")), (Some(131_100), None));
    assert_eq!(w.tables.mesh_offers.read(causeway_table::Table::revision), before);
    assert_eq!((w.refused().len(), w.intake.ips().unchanged()), (0, 1));
    // Another store counts from the beginning: equal revisions mean nothing.
    w.store = 8;
    w.list(Kind::Services, &[("shop/a", service("a", &["10.2.1.9"]), 13)]);
    assert_eq!(w.offers(), ["shop/a@2# 1"]);
}

#[test]
fn a_long_listing_is_written_before_it_ends() {
    let mut w = World::new();
    w.sink.apply(Change::Relisting(Kind::Services));
    for n in 0..1500 {
        w.put(Kind::Services, &format!("shop/s{n}"), &service(&format!("s{n}"), &[]));
    }
    assert_eq!(w.offers().len(), 1024);
    w.sink.apply(Change::Listed(Kind::Services));
    assert_eq!(w.offers().len(), 1500);
}

#[test]
fn what_cannot_be_used_is_named_and_what_was_good_stays() {
    let mut w = World::new();
    w.put(Kind::Ips, "10.2.1.5", &pod("10.2.1.5", 131_100));
    w.put(Kind::Services, "shop/web", &service("web", &["10.2.1.5"]));
    let bad = [
        (Kind::Ips, "10.2.1.5", pod("10.2.1.5", 70_000)),
        (Kind::Ips, "10.2.1.6", pod("10.2.1.7", 131_100)),
        (Kind::Services, "shop/web", service("other", &[])),
        (Kind::Nodes, "n1", "{".to_owned()),
        (Kind::Identities, "131100", "k8s:io.cilium.k8s.policy.cluster=west;".to_owned()),
    ];
    for (kind, name, value) in &bad {
        w.put(*kind, name, value);
    }
    assert_eq!(w.refused(), ["nodes n1", "identities 131100", "ip 10.2.1.5", "ip 10.2.1.6", "services shop/web"]);
    assert_eq!((w.identity("10.2.1.5"), w.identity("10.2.1.6"), w.offers().len()), (Some(131_100), None, 1));
    w.list(Kind::Ips, &[("10.2.1.5", pod("10.2.1.5", 70_000), 99)]);
    assert_eq!(w.identity("10.2.1.5"), Some(131_100), "through a listing too");
    w.put(Kind::Ips, "10.2.1.5", &pod("10.2.1.5", 131_101));
    w.delete(Kind::Ips, "10.2.1.6");
    assert_eq!(w.refused().len(), 3);
    assert_eq!(w.identity("10.2.1.5"), Some(131_101));
}

#[test]
fn nodes_and_addresses_in_our_ranges_are_refused_until_we_move() {
    let mut w = World::new();
    let prefix = |text| Prefix::parse(text).unwrap();
    let ours = |cidr: &str| crate::intent::node::Node {
        uid: String::new(),
        labels: std::collections::BTreeMap::new(),
        pod_cidrs: [cidr.parse().unwrap()].into(),
        addresses: Box::default(),
        provider_id: None,
        boot_id: None,
        taints: Box::default(),
    };
    w.put(Kind::Nodes, "n1", &node("n1", "10.2.1.0", "////AA=="));
    w.put(Kind::Ips, "10.2.1.5", &pod("10.2.1.5", 131_100));
    let nodes = w.tables.nodes.clone();
    nodes.set(Key::new("", "a"), ours("10.2.0.0/16"));
    w.intake.local_nodes(causeway_table::Changes::Keys(vec![Key::new("", "a")]), &nodes);
    assert_eq!((w.nodes().len(), w.identity("10.2.1.5")), (0, None));
    let refused = w.intake.refused_nodes(ClusterId::try_from(2).unwrap());
    assert_eq!((refused[0].0.as_str(), refused[0].1.with), ("n1", prefix("10.2.0.0/16")));
    assert_eq!(w.intake.ips().withheld(2, 9), [(prefix("10.2.1.5"), 0)]);
    nodes.delete(&Key::new("", "a"));
    w.intake.local_nodes(causeway_table::Changes::Keys(vec![Key::new("", "a")]), &nodes);
    assert_eq!((w.nodes().len(), w.identity("10.2.1.5")), (1, Some(131_100)));
}

fn ours(cidr: &str, address: &str, internal: bool) -> crate::intent::node::Node {
    crate::intent::node::Node {
        uid: String::new(),
        labels: std::collections::BTreeMap::new(),
        pod_cidrs: [cidr.parse().unwrap()].into(),
        addresses: [crate::intent::node::NodeAddress { ip: address.parse().unwrap(), internal }].into(),
        provider_id: None,
        boot_id: None,
        taints: Box::default(),
    }
}

impl World {
    /// A node of this cluster comes, changes or goes.
    fn own_node(&mut self, node: Option<crate::intent::node::Node>) {
        let key = Key::new("", "a");
        let nodes = self.tables.nodes.clone();
        match node {
            Some(node) => nodes.set(key.clone(), node),
            None => nodes.delete(&key),
        };
        self.intake.local_nodes(causeway_table::Changes::Keys(vec![key]), &nodes);
    }

    fn foreign(&self) -> Vec<String> {
        self.tables.mesh_offers.read(|t| {
            let of = |o: &super::Offer| o.foreign.iter().map(|(ip, owner)| format!("{ip}={owner}")).collect::<Vec<_>>();
            t.iter().map(|(k, o)| format!("{} {}", k.service.name, of(o).join(" "))).collect()
        })
    }
}

#[test]
fn backends_in_ranges_of_others_are_marked_while_they_lie_there() {
    let mut w = World::new();
    w.put(Kind::Services, "shop/web", &service("web", &["10.1.0.5", "10.2.1.5", "192.0.2.9", "198.51.100.9"]));
    w.put(Kind::Services, "shop/far", &service("far", &["10.2.1.6"]));
    assert_eq!(w.foreign(), ["far ", "web "]);
    let before = w.tables.mesh_offers.read(causeway_table::Table::revision);
    w.own_node(Some(ours("10.1.0.0/16", "192.0.2.9", true)));
    assert_eq!(w.foreign(), ["far ", "web 10.1.0.5=0 192.0.2.9=0"]);
    assert_eq!(w.tables.mesh_offers.read(causeway_table::Table::revision), before + 1, "one Service is looked at");
    // The cluster says it again, and more.
    w.put(Kind::Services, "shop/far", &service("far", &["10.1.0.6"]));
    w.put(Kind::Nodes, "n1", &node("n1", "10.2.1.0", "////AA=="));
    assert_eq!(w.foreign(), ["far 10.1.0.6=0", "web 10.1.0.5=0 192.0.2.9=0"]);
    // Nobody owns an outer address, and yet it is no backend of others.
    w.own_node(Some(ours("10.9.0.0/16", "198.51.100.9", false)));
    assert_eq!(w.foreign(), ["far ", "web 198.51.100.9=0"]);
    w.own_node(None);
    assert_eq!(w.foreign(), ["far ", "web "]);
    // Another cluster has the range.
    let mut west = w.intake.sink(&ClusterName::parse("west").unwrap());
    west.apply(Change::Connected(info("west", 3)));
    let value =
        node("n1", "10.1.0.0", "////AA==").replace("east", "west").replace(r#""ClusterID":2"#, r#""ClusterID":3"#);
    let value = Bytes::from(value.replace("192.0.2.7", "192.0.2.8"));
    west.apply(Change::Put { kind: Kind::Nodes, name: "n1".into(), value, revision: 1, store: 1 });
    assert_eq!(w.foreign(), ["far 10.1.0.6=3", "web 10.1.0.5=3"]);
    west.apply(Change::Forget);
    assert_eq!(w.foreign(), ["far ", "web "]);
}

#[test]
fn a_cluster_that_comes_back_is_as_good_as_new() {
    let mut w = World::new();
    w.sink.apply(Change::Stage(Stage::Probed));
    w.sink.apply(Change::Forget);
    w.sink.apply(Change::Connected(info("east", 2)));
    let id = ClusterId::try_from(2).unwrap();
    assert_eq!(w.tables.mesh_clusters.get(&id).unwrap().stage, Stage::Fresh);
}

#[test]
fn refused_entries_that_are_gone_are_no_longer_named() {
    let mut w = World::new();
    w.put(Kind::Services, "shop/gone", "{");
    w.put(Kind::Services, "shop/bad", "{");
    w.put(Kind::Nodes, "n1", "{");
    assert_eq!(w.refused(), ["nodes n1", "services shop/bad", "services shop/gone"]);
    w.sink.apply(Change::Relisting(Kind::Services));
    w.put(Kind::Services, "shop/bad", "{");
    assert_eq!(w.refused().len(), 3, "the list may still name it");
    w.sink.apply(Change::Listed(Kind::Services));
    assert_eq!(w.refused(), ["nodes n1", "services shop/bad"]);
}

#[test]
fn a_node_that_owns_nothing_is_shown() {
    let mut w = World::new();
    let outer = r#"{"Name":"n1","Cluster":"east","IPAddresses":[{"Type":"ExternalIP","IP":"198.51.100.7"}],
        "ClusterID":2,"Source":"custom-resource"}"#;
    w.put(Kind::Nodes, "n1", outer);
    assert_eq!((w.refused(), w.nodes()), (vec![], vec!["2/n1".to_owned()]));
    w.put(Kind::Nodes, "n1", &node("n1", "10.2.1.0", "////AA=="));
    w.put(Kind::Nodes, "n1", outer);
    assert_eq!(w.nodes(), ["2/n1"]);
    w.delete(Kind::Nodes, "n1");
    assert_eq!(w.nodes(), [] as [String; 0]);
}

fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096 / (1 << 20)
}

/// Everything that a remote address costs this process but the connection: the store, its queue, the map's mirror (which
/// the fake has like the kernel's), and what the allocator keeps.
#[test]
#[ignore = "takes seconds and measures the process: cargo test -p causeway-agent memory -- --ignored --nocapture"]
fn memory_of_remote_addresses() {
    use causeway_datapath_loader::{Datapath as _, Fake};

    let fake = Arc::new(Fake::new());
    let mut before = 0;
    let mut w = World::new();
    let writer = crate::realize::mesh_ips::Writer {
        intake: w.intake.clone(),
        datapath: fake.clone(),
        own: w.tables.ipcache.clone(),
    };
    w.sink.apply(Change::Relisting(Kind::Ips));
    let mut grown = Vec::new();
    for n in 0..500_000_u32 {
        let [_, b, c, d] = n.to_be_bytes();
        let ip = format!("10.{}.{c}.{d}", 100 + b);
        w.put(Kind::Ips, &ip, &pod(&ip, 131_072 + n % 5000));
        if n % 1000 == 999 {
            while writer.batch_for_tests() {}
        }
        match n + 1 {
            // Code and tables that the first entries touch are no cost of entries.
            1000 => before = resident_mb(),
            100_000 | 500_000 => grown.push(resident_mb() - before),
            _ => {}
        }
    }
    w.sink.apply(Change::Listed(Kind::Ips));
    assert_eq!(fake.ipcache().unwrap().len(), 500_000);
    println!("100,000: {} MB, 500,000: {} MB", grown[0], grown[1]);
    assert!(grown[0] <= 20 && grown[1] <= 100, "{grown:?}");
}
