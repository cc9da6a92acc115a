//! Topologies in, drawings, configurations and errors out. `UPDATE_FIXTURES=1` rewrites the expected texts.

use std::path::{Path, PathBuf};

use ipnet::IpNet;
use proptest::prelude::*;
use topology::spec::{Encryption, MAX_NAME, Software};
use topology::{Plan, Topology, drawing, frr};

fn manifest(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares with a fixture, or writes it.
fn check(fixture: &str, seen: &str) {
    let path = manifest("tests/fixtures").join(fixture);
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&path, seen).expect("fixtures can be written");
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(wanted, seen, "{fixture} differs; UPDATE_FIXTURES=1 rewrites it");
}

fn read(path: &str) -> String {
    std::fs::read_to_string(manifest(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn one_rack() -> String {
    read("one-rack/topology.toml")
}

fn plan(text: &str) -> Plan {
    Plan::new(&Topology::parse("topology.toml", text).expect("a good topology")).expect("a good plan")
}

#[test]
fn one_rack_drawn() {
    check("one-rack.txt", &drawing::draw(&plan(&one_rack())));
}

#[test]
fn one_rack_switch() {
    let plan = plan(&one_rack());
    let config = frr::config(&plan, plan.tor("tor1").unwrap(), Path::new("/logs"));
    check("tor1-bgpd.conf", &config.bgpd);
    check("tor1-zebra.conf", &config.zebra);
}

/// Two clusters without links: their ToRs share nothing but a client.
#[test]
fn two_racks_drawn() {
    check("two-racks.txt", &drawing::draw(&plan(&read("tests/fixtures/two-racks.toml"))));
}

#[test]
fn two_clusters_switch() {
    let plan = plan(&read("two-clusters/topology.toml"));
    let config = frr::config(&plan, plan.tor("tor3").unwrap(), Path::new("/logs"));
    check("two-clusters-tor3-bgpd.conf", &config.bgpd);
}

#[test]
fn readmes_show_the_drawing() {
    for name in ["one-rack", "two-clusters", "three-clusters", "encrypted"] {
        let drawing = drawing::draw(&plan(&read(&format!("{name}/topology.toml"))));
        assert!(read(&format!("{name}/README.md")).contains(&drawing), "{name}/README.md shows an old drawing");
    }
}

/// Manifests name the addresses and AS numbers that follow from the topology.
#[test]
fn manifests_fit_the_topology() {
    for name in ["one-rack", "two-clusters", "three-clusters"] {
        let plan = plan(&read(&format!("{name}/topology.toml")));
        for cluster in &plan.clusters {
            let dir = if name == "one-rack" { String::new() } else { format!("{}/", cluster.name) };
            let file = |file: &str| read(&format!("{name}/manifests/{dir}{file}"));
            let (bgp, pool) = (file("bgp.yaml"), file("pool.yaml"));
            let node = plan.nodes(&cluster.name).next().unwrap();
            let mut wanted = vec![format!("localASN: {}\n", cluster.asn)];
            for cable in &node.cables {
                wanted.push(format!("peerASN: {}\n", plan.tor(&cable.tor).unwrap().asn));
                wanted.push(format!("peerAddress: {}\n", cable.gateway.v4));
                wanted.push(format!("peerAddress: {}\n", cable.gateway.v6));
            }
            assert_eq!(bgp.matches("peerAddress").count(), 2 * node.cables.len(), "{name} {}", cluster.name);
            for line in wanted {
                assert!(bgp.contains(&line), "{name}: cluster {}: bgp.yaml lacks {line}", cluster.name);
            }
            for range in [cluster.load_balancers.v4.to_string(), cluster.load_balancers.v6.to_string()] {
                assert!(pool.contains(&format!("cidr: {range}\n")), "{name}: cluster {}: pool.yaml", cluster.name);
            }
        }
    }
}

/// One cluster whose nodes stand in two racks: each rack's switch is a peer, and is told the loopbacks of the other.
#[test]
fn manifests_fit_two_racks_of_one_cluster() {
    let plan = plan(&read("encrypted/topology.toml"));
    let (bgp, pool) = (read("encrypted/manifests/bgp.yaml"), read("encrypted/manifests/pool.yaml"));
    let cluster = &plan.clusters[0];
    assert_eq!(bgp.matches(&format!("localASN: {}\n", cluster.asn)).count(), 2);
    for tor in &plan.tors {
        assert_eq!(bgp.matches(&format!("peerASN: {}\n", tor.asn)).count(), 2, "{}", tor.name);
        for address in [tor.rack.v4.addr().to_string(), tor.rack.v6.addr().to_string()] {
            assert!(bgp.contains(&format!("peerAddress: {address}\n")), "{}: {address}", tor.name);
        }
    }
    let first = plan.nodes(&cluster.name).filter(|node| node.cables[0].tor == "tor1");
    let first: Vec<&str> = first.map(|node| node.name.as_str()).collect();
    assert_eq!(bgp.matches(&format!("values: {first:?}\n")).count(), 2);
    for range in [cluster.load_balancers.v4.to_string(), cluster.load_balancers.v6.to_string()] {
        assert!(pool.contains(&format!("cidr: {range}\n")), "{range}");
    }
}

#[test]
fn encryption_is_set_and_mistakes_are_named() {
    let mut topology = Topology::parse("topology.toml", &read("two-clusters/topology.toml")).unwrap();
    let east = |topology: &Topology| topology.clusters[0].encryption.clone();
    assert_eq!(east(&topology), Encryption::None);
    for assignment in [
        "cluster.east.encryption=wireguard",
        "cluster.east.encrypt_node=true",
        "cluster.east.encrypt_clusters=west=off",
    ] {
        topology.set(assignment).unwrap();
    }
    assert_eq!(east(&topology), Encryption::Wireguard { nodes: true, clusters: Some("west=off".into()) });
    topology.set("cluster.east.encryption=none").unwrap();
    assert_eq!(east(&topology), Encryption::None);
    for (assignment, wanted) in [
        ("east=wireguard", "is not cluster.NAME.FIELD=VALUE"),
        ("cluster.est.encryption=none", "no cluster is named \"est\"; the clusters are: east, west"),
        ("cluster.east.encrypton=none", "did you mean encryption?; what can: encryption"),
        ("cluster.east.encryption=ipsec", "use \"wireguard\" or \"none\""),
        ("cluster.east.encrypt_node=true", "set encryption=wireguard first"),
    ] {
        let error = topology.set(assignment).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}\nwanted {wanted}");
    }
}

#[test]
fn addresses_of_one_rack() {
    let mut topology = Topology::parse("topology.toml", &one_rack()).unwrap();
    topology.add_node("n4", None).unwrap();
    let plan = Plan::new(&topology).unwrap();
    let loopback = |name: &str| {
        let host = plan.host(name).unwrap();
        format!("{} {}", host.loopback.v4, host.loopback.v6)
    };
    assert_eq!(loopback("cp"), "10.0.0.5 fd00:10::5");
    assert_eq!(loopback("n1"), "10.0.0.11 fd00:10::11");
    assert_eq!(loopback("n4"), "10.0.0.14 fd00:10::14");
    assert_eq!(loopback("client"), "10.9.0.10 fd00:9::10");
    let cable = &plan.host("n2").unwrap().cables[1];
    assert_eq!(format!("{} {} {}", cable.interface, cable.v4, cable.v6), "eth1 172.16.2.12/24 fd00:16:2::12/64");
    assert_eq!(format!("{} {}", cable.gateway.v4, cable.gateway.v6), "172.16.2.1 fd00:16:2::1");
}

#[test]
fn a_node_that_goes_leaves_the_others_where_they_are() {
    let mut topology = Topology::parse("topology.toml", &one_rack()).unwrap();
    topology.hosts.retain(|host| host.name != "n2");
    assert_eq!(Plan::new(&topology).unwrap().host("n3").unwrap().loopback.v4.to_string(), "10.0.0.13");
    topology.add_node("again", None).unwrap();
    assert_eq!(Plan::new(&topology).unwrap().host("again").unwrap().loopback.v4.to_string(), "10.0.0.12");
}

/// One change to a good file, and what must be said about it.
#[test]
fn errors_name_line_field_and_remedy() {
    let cases = [
        ("asn = 65010", "asm = 65010", ":8: asm: no such field; did you mean \"asn\"?"),
        ("software = \"frr\"", "software = \"quagga\"", ": tor.software: \"quagga\" is no routing software; use"),
        ("role = \"client\"", "role = \"cliant\"", ": host.role: \"cliant\" is no role; use"),
        ("[\"tor1\", \"tor2\"]", "[\"tor1\", \"tor3\"]", ": host.cables: no ToR is named \"tor3\"; did you mean \"tor"),
        (
            "\"10.1.0.0/16\"",
            "\"10.1.0.1/16\"",
            ": cluster.pod_cidrs: 10.1.0.1/16 has host bits; the range is 10.1.0.0/16",
        ),
        (
            "[\"10.1.0.0/16\", \"fd00:1::/48\"]",
            "[\"10.1.0.0/16\"]",
            ": cluster.pod_cidrs: 1 ranges; write one IPv4 and",
        ),
        ("asn = 65101", "asn = 0", ": tor.asn: 0 is no AS number; use"),
        ("name = \"n2\"", "name = \"n1\"", ": host.name: \"n1\" is named twice; names of"),
        ("name = \"n2\"", "name = \"N2\"", ": host.name: \"N2\" may hold only a-z, 0-9 and inner dashes; choose"),
        (
            "role = \"control-plane\"",
            "role = \"node\"",
            ": host.role: cluster \"default\" has 0 control planes; give it",
        ),
        ("id = 0\n", "", ": id: the field is missing; add it"),
        ("id = 0", "id = 300", ":7: cluster.id: not a cluster id; use a number from 0 to 255"),
        ("id = 0", "id = ", ":7: id: "),
        (
            "id = 0\n",
            "id = 0\nencryption = \"ipsec\"\n",
            ": cluster.encryption: \"ipsec\" is no kind of encryption; use",
        ),
        ("id = 0\n", "id = 0\nencrypt_node = true\n", ": cluster.encrypt_node: the cluster has no encryption of which"),
    ];
    for (from, to, wanted) in cases {
        let text = one_rack().replacen(from, to, 1);
        assert_ne!(text, one_rack(), "{from} is not in the file");
        let error = Topology::parse("topology.toml", &text).unwrap_err().to_string();
        assert!(error.starts_with("topology.toml:") && error.contains(wanted), "{error}\nwanted {wanted}");
    }
}

/// The same for links and the mesh.
#[test]
fn errors_of_clusters_that_meet() {
    let good = read("two-clusters/topology.toml");
    for (from, to, wanted) in [
        ("b = \"tor3\"", "b = \"tor9\"", ": link.b: no ToR is named \"tor9\"; did you mean \"tor"),
        ("b = \"tor3\"", "b = \"tor1\"", ": link.b: both ends are \"tor1\"; name another"),
        (
            "a = \"tor1\"\nb = \"tor4\"",
            "a = \"tor3\"\nb = \"tor1\"",
            ": link.b: \"tor3\" and \"tor1\" have a link already; remove",
        ),
        (
            "mesh = \"cached\"",
            "mesh = \"catched\"",
            ": cluster.mesh: \"catched\" is no way to take part in a mesh; use",
        ),
        ("id = 1", "id = 0", ": cluster.mesh: cluster id 0 is a cluster outside any mesh; give"),
        ("mesh = \"cached\"", "mesh = \"direct\"", ": cluster.mesh: cluster east does it in another way; clusters"),
        ("id = 2", "id = 1", ": cluster.id: 1 is already the id of cluster east; clusters"),
    ] {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from} is not in the file");
        let error = Topology::parse("topology.toml", &text).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}\nwanted {wanted}");
    }
    let text = good.replace("mesh = \"cached\"\n", "").replace("id = 2", "id = 1");
    assert!(Topology::parse("topology.toml", &text).is_ok(), "clusters that do not meet may have the same id");
}

#[test]
fn nodes_join_the_cluster_that_is_named() {
    let mut topology = Topology::parse("topology.toml", &read("two-clusters/topology.toml")).unwrap();
    assert_eq!(topology.add_node("x1", Some("west")).unwrap().cables, ["tor3", "tor4"]);
    assert_eq!(topology.add_node("x2", None).unwrap().cables, ["tor1", "tor2"]);
    let error = topology.add_node("x3", Some("wets")).unwrap_err().to_string();
    assert_eq!(error, "no cluster is named \"wets\"; the clusters are: east, west");
    let plan = Plan::new(&topology).unwrap();
    assert_eq!(plan.host("x1").unwrap().loopback.v4.to_string(), "10.0.1.13");
    assert_eq!(
        plan.links_of("tor3").map(|(own, other)| format!("{} {}", own.v4, other.tor)).collect::<Vec<_>>(),
        ["172.18.1.2/30 tor1", "172.18.3.2/30 tor2"]
    );
}

#[test]
fn ranges_that_overlap_are_refused() {
    let text = one_rack().replace("192.0.2.0/24", "10.1.128.0/24");
    let error = Plan::new(&Topology::parse("topology.toml", &text).unwrap()).unwrap_err().to_string();
    assert!(error.contains("10.1.0.0/16") && error.contains("10.1.128.0/24") && error.contains("overlap"), "{error}");
}

/// Any topology within the limits: up to 4 clusters, 6 ToRs, hosts on some of them.
fn any_topology() -> impl Strategy<Value = String> {
    let cables = proptest::collection::btree_set(0usize..6, 1..4);
    let hosts = proptest::collection::vec((0usize..5, cables), 0..30);
    (1usize..=4, 6usize..=6, hosts).prop_map(|(clusters, tors, hosts)| {
        let mut text = String::from("name = \"any\"\n");
        for c in 0..clusters {
            text += &format!(
                "[[cluster]]\nname = \"c{c}\"\nid = {c}\nasn = {}\npod_cidrs = [\"10.{}.0.0/16\", \"fd00:{}::/48\"]\n\
                 service_cidrs = [\"10.{}.0.0/16\", \"fd00:{}::/112\"]\nlb_cidrs = [\"192.0.{}.0/24\", \"2001:db8:{}::/112\"]\n",
                65010 + c, 101 + c, 101 + c, 96 + c, 196 + c, 2 + c, 2 + c
            );
        }
        for t in 0..tors {
            text += &format!("[[tor]]\nname = \"tor{t}\"\nasn = {}\n", 65101 + t);
        }
        for c in 0..clusters {
            text += &format!("[[host]]\nname = \"cp{c}\"\nrole = \"control-plane\"\ncluster = \"c{c}\"\ncables = [\"tor{c}\"]\n");
        }
        for (index, (place, cables)) in hosts.iter().enumerate() {
            let cables: Vec<String> = cables.iter().map(|tor| format!("\"tor{tor}\"")).collect();
            let role = if *place < clusters {
                format!("role = \"node\"\ncluster = \"c{place}\"")
            } else {
                "role = \"client\"".to_owned()
            };
            text += &format!("[[host]]\nname = \"h{index}\"\n{role}\ncables = [{}]\n", cables.join(", "));
        }
        text
    })
}

proptest! {
    /// No address is given twice, and each lies in the range of its bridge.
    #[test]
    fn addresses_are_unique_and_in_their_range(text in any_topology()) {
        let plan = plan(&text);
        let mut seen = std::collections::BTreeSet::new();
        for tor in &plan.tors {
            for bridge in [tor.rack, tor.out] {
                prop_assert!(seen.insert(bridge.v4.addr().to_string()));
                prop_assert!(seen.insert(bridge.v6.addr().to_string()));
            }
        }
        for host in &plan.hosts {
            prop_assert!(seen.insert(host.loopback.v4.to_string()), "{} twice", host.loopback.v4);
            prop_assert!(seen.insert(host.loopback.v6.to_string()), "{} twice", host.loopback.v6);
            for cable in &host.cables {
                prop_assert!(seen.insert(cable.v4.addr().to_string()), "{} twice", cable.v4);
                prop_assert!(seen.insert(cable.v6.addr().to_string()), "{} twice", cable.v6);
                let tor = plan.tor(&cable.tor).unwrap();
                let bridge = if cable.bridge == "out" { tor.out } else { tor.rack };
                prop_assert_eq!(bridge.v4.trunc(), cable.v4.trunc());
                prop_assert_eq!(bridge.v6.trunc(), cable.v6.trunc());
            }
        }
        let ranges = plan.ranges();
        for (i, (_, a)) in ranges.iter().enumerate() {
            for (_, b) in &ranges[i + 1..] {
                let apart = |a: &IpNet, b: &IpNet| !a.contains(b) && !b.contains(a);
                prop_assert!(apart(a, b), "{} {}", a, b);
            }
        }
    }

    /// Whatever the file holds, the parser answers; it never panics.
    #[test]
    fn the_parser_is_total(text in "(\\[\\[(host|tor|cluster)\\]\\]\n|(name|asn|id|cables|role) = (\"[a-z]*\"|-?[0-9]{1,12}|\\[\\])\n){0,20}") {
        let _ = Topology::parse("t", &text);
    }
}

#[test]
fn names_fit_the_kernel() {
    let text = one_rack().replace("\"n2\"", &format!("\"{}\"", "n".repeat(MAX_NAME + 1)));
    assert!(Topology::parse("t", &text).unwrap_err().to_string().contains("characters"));
    assert!(plan(&one_rack()).tors.iter().all(|tor| tor.software == Software::Frr));
}
