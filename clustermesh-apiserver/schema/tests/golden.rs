//! Every kind of value in Cilium's wire form, in both directions: the fixture decodes to the value that is spelled out
//! here, and that value encodes to the fixture's bytes (JSON: compact, in the fixture's order).
//!
//! A fixture is the key and the value; names and addresses are invented, the form is that of Cilium 1.20, or of an older
//! or newer writer where its name says so (these are read only).

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::collections::BTreeMap;

use causeway_mesh_schema::{
    Capabilities, ClusterConfig, ClusterId, ClusterName, ClusterService, ExportMode, ExportPort, ForZone, IpIdentity,
    Kind, L4Addr, Layout, NamedPort, Node, NodeAddress, NodeAddressKind, Origin, Ports, Scale, ServiceExportSpec,
    Value, Zone, cluster_config_key, labels, read,
};

struct Fixture {
    key: String,
    /// Compact JSON; the text itself where the value is one.
    value: Vec<u8>,
}

fn fixture(name: &str) -> Fixture {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let parsed: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let value = match &parsed["value"] {
        serde_json::Value::String(text) => text.clone().into_bytes(),
        object => serde_json::to_vec(object).unwrap(),
    };
    Fixture { key: parsed["key"].as_str().unwrap().to_owned(), value }
}

fn east() -> Origin {
    Origin { name: name("east"), id: ClusterId::new(7, Scale::C255).unwrap(), scale: Scale::C255 }
}

fn west() -> Origin {
    Origin { name: name("west"), id: ClusterId::new(511, Scale::C511).unwrap(), scale: Scale::C511 }
}

fn name(text: &str) -> ClusterName {
    ClusterName::parse(text).unwrap()
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// The fixture is read as `value`, from the key that the key space gives it.
fn reads(file: &str, kind: Kind, layout: Layout, origin: &Origin, value: &Value) {
    let fixture = fixture(file);
    let entry = fixture.key.strip_prefix(&kind.prefix(layout, &origin.name)).unwrap();
    assert_eq!(read(kind, entry, &fixture.value, origin).as_ref(), Ok(value), "{file}");
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

/// ... and `encoded` is the fixture's value.
fn writes(file: &str, encoded: Vec<u8>) {
    assert_eq!(text(encoded), text(fixture(file).value), "{file}");
}

fn node() -> Node {
    let address = |kind, ip: &str| NodeAddress { kind, ip: ip.to_owned() };
    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    Node {
        name: "rack1-a".to_owned(),
        cluster: "east".to_owned(),
        addresses: vec![
            address(NodeAddressKind::InternalIp, "192.0.2.11"),
            address(NodeAddressKind::InternalIp, "2001:db8:1::11"),
            address(NodeAddressKind::CiliumInternalIp, "10.7.1.1"),
            address(NodeAddressKind::Hostname, "rack1-a"),
        ],
        ipv4_alloc_cidr: Some("10.7.1.0/24".parse().unwrap()),
        ipv4_secondary_alloc_cidrs: vec!["10.7.128.0/17".parse().unwrap()],
        ipv6_alloc_cidr: Some("fd00:7:1::/64".parse().unwrap()),
        ipv4_health_ip: Some("10.7.1.9".parse().unwrap()),
        ipv6_health_ip: Some("fd00:7:1::9".parse().unwrap()),
        cluster_id: 7,
        source: "custom-resource".to_owned(),
        encryption_key: 3,
        labels: pairs([("kubernetes.io/hostname", "rack1-a"), ("topology.kubernetes.io/zone", "z1")]),
        annotations: pairs([("network.cilium.io/wg-pub-key", key)]),
        wireguard_pub_key: key.to_owned(),
        boot_id: "5a1f7c1e-0d5b-4c5e-9a43-1a2b3c4d5e6f".to_owned(),
        ..Node::default()
    }
}

#[test]
fn nodes() {
    reads("node-dual-stack", Kind::Nodes, Layout::State, &east(), &Value::Node(node()));
    writes("node-dual-stack", node().encode());

    let bare = Node {
        name: "n1.example".to_owned(),
        cluster: "west".to_owned(),
        cluster_id: 511,
        source: "custom-resource".to_owned(),
        ..Node::default()
    };
    reads("node-bare", Kind::Nodes, Layout::Cache, &west(), &Value::Node(bare.clone()));
    writes("node-bare", bare.encode());
}

#[test]
fn nodes_of_newer_writers() {
    let full = node();
    let newer = Node {
        addresses: full.addresses[..1].to_vec(),
        ipv4_health_ip: None,
        ipv6_health_ip: None,
        encryption_key: 0,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        wireguard_pub_key: String::new(),
        boot_id: String::new(),
        ..full
    };
    reads("node-newer", Kind::Nodes, Layout::State, &east(), &Value::Node(newer));
}

fn pod_ip() -> IpIdentity {
    let port =
        |name: &str, port, protocol: &str| NamedPort { name: name.to_owned(), port, protocol: protocol.to_owned() };
    IpIdentity {
        prefix: "fd00:7:1::2a/128".parse().unwrap(),
        host_ip: Some("192.0.2.11".parse().unwrap()),
        identity: 458_753,
        encryption_key: 3,
        metadata: String::new(),
        k8s_namespace: "shop".to_owned(),
        k8s_pod_name: "cart-0".to_owned(),
        k8s_service_account: "default".to_owned(),
        named_ports: vec![port("dns", 53, "UDP"), port("web", 8080, "TCP")],
    }
}

#[test]
fn ips() {
    reads("ip-named-ports", Kind::Ips, Layout::State, &east(), &Value::Ip(pod_ip()));
    writes("ip-named-ports", pod_ip().encode());

    let range = IpIdentity {
        prefix: "10.9.0.0/16".parse().unwrap(),
        host_ip: None,
        identity: 16_744_448,
        encryption_key: 0,
        metadata: String::new(),
        k8s_namespace: String::new(),
        k8s_pod_name: String::new(),
        k8s_service_account: String::new(),
        named_ports: Vec::new(),
    };
    reads("ip-range", Kind::Ips, Layout::Cache, &west(), &Value::Ip(range.clone()));
    writes("ip-range", range.encode());
}

#[test]
fn ips_of_newer_writers_and_the_host_of_another_cluster() {
    let remote_node = IpIdentity {
        prefix: "10.7.1.42/32".parse().unwrap(),
        identity: 6,
        encryption_key: 0,
        named_ports: Vec::new(),
        ..pod_ip()
    };
    reads("ip-newer", Kind::Ips, Layout::State, &east(), &Value::Ip(remote_node));
}

#[test]
fn identities() {
    let labels: Vec<String> = [
        "k8s:app=cart",
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
        "k8s:io.cilium.k8s.policy.cluster=east",
        "k8s:io.kubernetes.pod.namespace=shop",
    ]
    .map(str::to_owned)
    .to_vec();
    let backwards = labels::encode(labels.iter().rev().map(String::as_str));
    writes("identity", backwards.into_bytes());
    reads("identity", Kind::Identities, Layout::State, &east(), &Value::Identity { id: 458_753, labels });
}

fn port(name: &str, protocol: &str, port: u16) -> (String, L4Addr) {
    (name.to_owned(), L4Addr { protocol: protocol.to_owned(), port })
}

#[test]
fn services() {
    let frontend = Ports::from([port("web", "TCP", 80), port("dns", "UDP", 53)]);
    let backend = Ports::from([port("web", "TCP", 8080)]);
    let zone = |zone: &str, hints: &[&str]| Zone {
        zone: zone.to_owned(),
        for_zones: hints.iter().map(|name| ForZone { name: (*name).to_owned() }).collect(),
    };
    let ip = |text: &str| text.parse().unwrap();
    let service = ClusterService {
        cluster: "east".to_owned(),
        namespace: "shop".to_owned(),
        name: "cart".to_owned(),
        frontends: BTreeMap::from([(ip("10.96.0.20"), frontend.clone()), (ip("fd00:96::20"), frontend)]),
        backends: ["10.7.1.42", "10.7.1.100", "fd00:7:1::2a"].map(|text| (ip(text), backend.clone())).into(),
        hostnames: BTreeMap::from([(ip("10.7.1.42"), "cart-0".to_owned())]),
        zones: BTreeMap::from([(ip("10.7.1.42"), zone("z1", &["z1"])), (ip("10.7.1.100"), zone("z2", &[]))]),
        labels: pairs([("app", "cart")]),
        selector: pairs([("app", "cart")]),
        include_external: true,
        shared: true,
        cluster_id: 7,
    };
    reads("service-dual-stack", Kind::Services, Layout::State, &east(), &Value::Service(service.clone()));
    writes("service-dual-stack", service.encode());

    let unnamed = ClusterService {
        cluster: "west".to_owned(),
        namespace: "default".to_owned(),
        name: "one-port".to_owned(),
        backends: BTreeMap::from([(ip("10.9.0.5"), Ports::from([port("", "TCP", 9000)]))]),
        include_external: true,
        shared: true,
        cluster_id: 511,
        ..ClusterService::default()
    };
    reads("service-unnamed-port", Kind::Services, Layout::Cache, &west(), &Value::Service(unnamed.clone()));
    writes("service-unnamed-port", unnamed.encode());
}

#[test]
fn service_exports() {
    let port = |name: &str, protocol: &str, port, app: Option<&str>| ExportPort {
        name: name.to_owned(),
        protocol: protocol.to_owned(),
        app_protocol: app.map(str::to_owned),
        port,
    };
    let cart = ServiceExportSpec {
        cluster: "east".to_owned(),
        name: "cart".to_owned(),
        namespace: "shop".to_owned(),
        annotations: pairs([("team", "blue")]),
        labels: pairs([("tier", "front")]),
        export_creation_timestamp: "2026-03-04T05:06:07Z".to_owned(),
        ports: vec![port("web", "TCP", 80, Some("http")), port("", "UDP", 53, None)],
        kind: "ClusterSetIP".to_owned(),
        session_affinity: "ClientIP".to_owned(),
        session_affinity_config: Some(serde_json::json!({"clientIP": {"timeoutSeconds": 42}})),
        ip_families: vec!["IPv4".to_owned(), "IPv6".to_owned()],
        internal_traffic_policy: Some("Cluster".to_owned()),
        traffic_distribution: Some("PreferClose".to_owned()),
    };
    reads("export", Kind::ServiceExports, Layout::State, &east(), &Value::ServiceExport(cart.clone()));
    writes("export", cart.encode());

    let peers = ServiceExportSpec {
        name: "peers".to_owned(),
        ports: vec![port("web", "TCP", 80, None)],
        kind: "Headless".to_owned(),
        session_affinity: String::new(),
        session_affinity_config: None,
        ip_families: Vec::new(),
        internal_traffic_policy: None,
        traffic_distribution: None,
        ..cart
    };
    for file in ["export-newer", "export-older"] {
        reads(file, Kind::ServiceExports, Layout::State, &east(), &Value::ServiceExport(peers.clone()));
    }
}

#[test]
fn cluster_configs() {
    let config = |id, max_connected_clusters, exports, mode| ClusterConfig {
        id,
        capabilities: Capabilities {
            synced_canaries: true,
            cached: false,
            max_connected_clusters,
            service_exports_enabled: exports,
            endpoint_slices_export_mode: mode,
        },
    };
    let mut cached = config(511, 511, None, ExportMode::EndpointSlices);
    cached.capabilities.cached = true;
    for (file, origin, config) in [
        ("config-services", east(), config(7, 255, Some(false), ExportMode::Services)),
        ("config-both", east(), config(7, 255, Some(true), ExportMode::Both)),
        ("config-slices-511-cached", west(), cached),
    ] {
        let fixture = fixture(file);
        assert_eq!(fixture.key, cluster_config_key(&origin.name));
        assert_eq!(ClusterConfig::decode(&origin.name, &fixture.value).as_ref(), Ok(&config), "{file}");
        assert_eq!(config.check(&origin.name, origin.scale), Ok(origin.id), "{file}");
        writes(file, config.encode());
    }
}

#[test]
fn cluster_configs_that_are_refused() {
    let ours = name("east");
    let refused = |json: &str, scale| {
        let config = ClusterConfig::decode(&ours, json.as_bytes());
        config.and_then(|config| config.check(&ours, scale)).unwrap_err().to_string()
    };
    let max = |max: u32| format!(r#"{{"id":1,"capabilities":{{"maxConnectedClusters":{max}}}}}"#);
    assert!(refused("{}", Scale::C255).contains("0 is no cluster id"));
    assert!(refused(r#"{"id":256}"#, Scale::C255).contains("256 is no cluster id"));
    assert!(refused(&max(511), Scale::C255).contains("ours is 255"));
    assert!(refused(&max(255), Scale::C511).contains("ours is 511"));
    assert!(refused(r#"{"id":1}"#, Scale::C511).contains("ours is 511"));
    assert!(refused(&max(100), Scale::C255).contains("100"));
    let mode = r#"{"id":1,"capabilities":{"endpointSlicesExportMode":"telepathy"}}"#;
    assert!(refused(mode, Scale::C255).contains("telepathy"));
    assert!(refused("not json", Scale::C255).contains("cilium/cluster-config/east"));
    let old = ClusterConfig::decode(&ours, br#"{"id":1,"capabilities":null}"#).unwrap();
    assert_eq!(old.check(&ours, Scale::C255).map(ClusterId::get), Ok(1));
}
