//! What a broken or hostile cluster can write: every disagreement with the key or the cluster is refused by name, and no
//! bytes at all make `read` panic.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use causeway_mesh_schema::{
    AddressType, ClusterConfig, ClusterEndpointSlice, ClusterId, ClusterName, Endpoint, Kind, Origin, Scale, Value,
    read,
};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

fn east() -> Origin {
    let name = ClusterName::parse("east").unwrap();
    Origin { name, id: ClusterId::new(7, Scale::C255).unwrap(), scale: Scale::C255 }
}

fn with(mut base: Json, change: &Json) -> Vec<u8> {
    for (key, value) in change.as_object().unwrap() {
        base[key] = value.clone();
    }
    serde_json::to_vec(&base).unwrap()
}

/// Accepted as it stands under `name`; refused, with `why` in the message, after each change.
fn table(kind: Kind, name: &str, base: &Json, changes: &[(Json, &str)]) {
    let bytes = serde_json::to_vec(base).unwrap();
    read(kind, name, &bytes, &east()).unwrap();
    let wrong_key = read(kind, "other/key", &bytes, &east()).unwrap_err();
    assert!(wrong_key.problem.contains("its key is another one"), "{wrong_key}");
    for (change, why) in changes {
        let refused = read(kind, name, &with(base.clone(), change), &east()).unwrap_err();
        assert!(refused.problem.contains(why), "{change} refused with {refused}");
        assert!(refused.key.starts_with("east: "), "{refused}");
        assert!(!refused.remedy.is_empty());
    }
}

#[test]
fn nodes() {
    let base = json!({"Name": "n1", "Cluster": "east", "ClusterID": 7});
    let internal = |ip: &str| json!({"IPAddresses": [{"Type": "InternalIP", "IP": ip}]});
    let changes = [
        (json!({"Cluster": "west"}), "says that it is cluster \"west\"'s"),
        (json!({"Cluster": null}), "says that it is cluster \"\"'s"),
        (json!({"ClusterID": 8}), "cluster id 8"),
        (json!({"ClusterID": -1}), "invalid value"),
        (json!({"ClusterID": 7.5}), "invalid type"),
        (json!({"Name": ""}), "no name"),
        (json!({"Name": "a/b"}), "no name"),
        (json!({"EncryptionKey": 256}), "invalid value"),
        (json!({"IPv4AllocCIDR": "fd00::/64"}), "fd00::/64 is no range"),
        (json!({"IPv6AllocCIDR": "10.0.0.0/8"}), "10.0.0.0/8 is no range"),
        (json!({"IPv4AllocCIDR": "0.0.0.0/0"}), "0.0.0.0/0 is no range"),
        (json!({"IPv4AllocCIDR": "10.0.0.0/40"}), "no prefix"),
        (json!({"IPv4SecondaryAllocCIDRs": ["0.0.0.0/0"]}), "0.0.0.0/0 is no range"),
        (json!({"IPv4HealthIP": "fd00::1"}), "fd00::1 is no address that can stand there"),
        (json!({"IPv4HealthIP": "x"}), "no IP address"),
        (internal("nonsense"), "no IP address"),
        (internal("127.0.0.1"), "127.0.0.1"),
        (internal("::ffff:127.0.0.1"), "127.0.0.1"),
        (internal("0.0.0.0"), "0.0.0.0"),
        (internal("ff02::1"), "ff02::1"),
    ];
    table(Kind::Nodes, "n1", &base, &changes);
}

#[test]
fn ips() {
    let base = json!({"IP": "10.7.1.4", "HostIP": "192.0.2.1", "ID": 458_753});
    let changes = [
        (json!({"IP": "10.7.1.5"}), "its key is another one"),
        (json!({"IP": ""}), "no address"),
        (json!({"IP": null}), "no address"),
        (json!({"IP": "10.7.1.4/32"}), "no IP address"),
        (json!({"Mask": "////AA=="}), "its key is another one"),
        (json!({"Mask": "AP///w=="}), "no mask"),
        (json!({"ID": 65_536}), "outside 458752 to 524287"),
        (json!({"ID": 256}), "outside"),
        (json!({"ID": 16_777_217}), "outside"),
        (json!({"ID": u64::MAX}), "invalid value"),
        (json!({"HostIP": "fe80::1%eth0"}), "no IP address"),
        (json!({"NamedPorts": [{"Name": "x", "Port": 65536, "Protocol": "TCP"}]}), "invalid value"),
    ];
    table(Kind::Ips, "10.7.1.4", &base, &changes);
    for (name, ip) in [("127.0.0.1", "127.0.0.1"), ("::", "::"), ("224.0.0.1", "224.0.0.1")] {
        assert!(read(Kind::Ips, name, &with(base.clone(), &json!({"IP": ip})), &east()).is_err(), "{name}");
    }
    let everything = with(base, &json!({"IP": "0.0.0.0", "Mask": "AAAAAA=="}));
    assert!(read(Kind::Ips, "0.0.0.0/0", &everything, &east()).is_err());
}

#[test]
fn reserved_identities_are_everybodys_but_nobody_is_our_host() {
    for (id, taken_for) in [(0, 0), (1, 6), (2, 2), (6, 6), (255, 255), (458_752, 458_752), (524_287, 524_287)] {
        let value = serde_json::to_vec(&json!({"IP": "10.7.1.4", "ID": id})).unwrap();
        match read(Kind::Ips, "10.7.1.4", &value, &east()).unwrap() {
            Value::Ip(ip) => assert_eq!(ip.identity, taken_for),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn identities() {
    let good = b"k8s:app=web;k8s:io.cilium.k8s.policy.cluster=east;";
    assert!(read(Kind::Identities, "458753", good, &east()).is_ok());
    for (name, value, why) in [
        ("65536", &good[..], "outside 458752 to 524287"),
        ("1", good, "outside"),
        ("0458753", good, "its key is another one"),
        ("+458753", good, "its key is another one"),
        ("x", good, "no identity's number"),
        ("4294967296", good, "no identity's number"),
        ("458753", b"", "no labels"),
        ("458753", b"k8s:app=web;", "no label k8s:io.cilium.k8s.policy.cluster"),
        ("458753", b"k8s:io.cilium.k8s.policy.cluster=west;", "not k8s:\"east\""),
        ("458753", b"any:io.cilium.k8s.policy.cluster=east;", "any:"),
        ("458753", b"reserved:host=;k8s:io.cilium.k8s.policy.cluster=east;", "reserved label \"host\""),
        ("458753", b"\xff\xfe", "utf-8"),
    ] {
        let refused = read(Kind::Identities, name, value, &east()).unwrap_err();
        assert!(refused.problem.contains(why), "{refused}");
    }
}

#[test]
fn services() {
    let base = json!({"cluster": "east", "namespace": "a", "name": "b", "clusterID": 7});
    let backend = |ip: &str| json!({"backends": {ip: {"": {"Protocol": "TCP", "Port": 1}}}});
    let changes = [
        (json!({"cluster": "west"}), "says that it is"),
        (json!({"clusterID": 0}), "cluster id 0"),
        (json!({"namespace": ""}), "no name"),
        (json!({"name": "c"}), "its key is another one"),
        (json!({"namespace": "a/b", "name": "c"}), "no name"),
        (backend("10.0.0.1%eth0"), "no IP address"),
        (backend("fe80::1"), "fe80::1"),
        (backend("127.0.0.1"), "127.0.0.1"),
        (backend("169.254.169.254"), "169.254.169.254"),
        (json!({"backends": {"10.0.0.1": {"": null}}}), "invalid type"),
        (json!({"backends": {"10.0.0.1": {}, "::ffff:10.0.0.1": {}}}), "twice"),
        (json!({"frontends": {"nowhere": {}}}), "no IP address"),
    ];
    table(Kind::Services, "a/b", &base, &changes);
}

#[test]
fn service_exports() {
    let base = json!({
        "cluster": "east", "namespace": "a", "name": "b", "type": "ClusterSetIP",
        "exportCreationTimestamp": "2026-01-01T00:00:00Z"
    });
    let changes = [
        (json!({"cluster": "west"}), "says that it is"),
        (json!({"name": "c"}), "its key is another one"),
        (json!({"type": ""}), "type"),
        (json!({"type": "ExternalName"}), "type"),
        (json!({"sessionAffinity": "Sticky"}), "session affinity"),
        (json!({"internalTrafficPolicy": "Nowhere"}), "internal traffic policy"),
        (json!({"exportCreationTimestamp": null}), "creation time"),
        (json!({"exportCreationTimestamp": "yesterday"}), "creation time"),
        (json!({"ports": [{"port": 5_000_000_000_u64}]}), "invalid value"),
    ];
    table(Kind::ServiceExports, "a/b", &base, &changes);
}

#[test]
fn endpoint_slices() {
    let slice = |address_type, address: &str| ClusterEndpointSlice {
        cluster: "east".to_owned(),
        cluster_id: 7,
        namespace: "a".to_owned(),
        name: "b".to_owned(),
        address_type,
        endpoints: vec![Endpoint { addresses: vec![address.to_owned()], ..Endpoint::default() }],
        ..ClusterEndpointSlice::default()
    };
    let (v4, v6) = (AddressType::Ipv4, AddressType::Ipv6);
    let check = |name: &str, slice: ClusterEndpointSlice| read(Kind::EndpointSlices, name, &slice.encode(), &east());
    assert!(check("a/b", slice(v4, "10.0.0.1")).is_ok());
    assert!(check("a/b", slice(v6, "fd00::1")).is_ok());
    for (name, slice, why) in [
        ("a/c", slice(v4, "10.0.0.1"), "its key is another one"),
        ("a/b", slice(v4, "fd00::1"), "no IPv4 address"),
        ("a/b", slice(v6, "10.0.0.1"), "no IPv6 address"),
        ("a/b", slice(v6, "fd00::1%eth0"), "no IPv6 address"),
        ("a/b", slice(v6, "::ffff:127.0.0.1"), "127.0.0.1"),
        ("a/b", slice(v6, "::ffff:10.0.0.1"), "::ffff:10.0.0.1 is no address that can stand there"),
        ("a/b", slice(v4, "127.0.0.1"), "127.0.0.1"),
        ("a/b", ClusterEndpointSlice { cluster: "west".to_owned(), ..slice(v4, "10.0.0.1") }, "says that it is"),
        ("a/b", ClusterEndpointSlice { cluster_id: 8, ..slice(v4, "10.0.0.1") }, "cluster id 8"),
        ("a/b", ClusterEndpointSlice { namespace: String::new(), ..slice(v4, "10.0.0.1") }, "no name"),
    ] {
        let refused = check(name, slice).unwrap_err();
        assert!(refused.problem.contains(why), "{refused}");
    }
}

#[test]
fn errors_are_bounded_and_cannot_forge_log_lines() {
    let name = format!("n1\n{}", "x".repeat(100_000));
    let value = serde_json::to_vec(&json!({"Name": name, "Cluster": "east", "ClusterID": 7})).unwrap();
    let refused = read(Kind::Nodes, &name, &value, &east()).unwrap_err().to_string();
    assert!(refused.len() < 3_000 && !refused.contains('\n'), "{refused}");
}

const KINDS: [Kind; 6] = Kind::ALL;

/// Bytes that get far: entries as they should be, with some of their bytes changed.
fn mutated() -> impl Strategy<Value = (Kind, String, Vec<u8>)> {
    let fixtures = [
        (
            Kind::Nodes,
            "n1",
            json!({
                "Name": "n1", "Cluster": "east", "ClusterID": 7, "IPAddresses": [{"Type": "InternalIP", "IP": "192.0.2.1"}],
                "IPv4AllocCIDR": {"IP": "10.7.1.0", "Mask": "////AA=="}, "IPv6AllocCIDR": "fd00:7::/64", "Labels": {"a": "b"}
            }),
        ),
        (Kind::Ips, "10.7.1.4", json!({"IP": "10.7.1.4", "Mask": null, "HostIP": "", "ID": 458_753, "NamedPorts": []})),
        (
            Kind::Services,
            "a/b",
            json!({
                "cluster": "east", "namespace": "a", "name": "b", "clusterID": 7,
                "backends": {"10.0.0.1": {"": {"Protocol": "TCP", "Port": 1}}}, "zones": {"10.0.0.1": {"zone": "z"}}
            }),
        ),
        (
            Kind::ServiceExports,
            "a/b",
            json!({
                "cluster": "east", "namespace": "a", "name": "b", "type": "Headless", "sessionAffinityConfig": [{}],
                "exportCreationTimestamp": "2026-01-01T00:00:00Z", "ports": [{"port": 1}]
            }),
        ),
    ];
    let endpoints = vec![Endpoint { addresses: vec!["10.0.0.1".to_owned()], ready: Some(true), ..Endpoint::default() }];
    let slice = ClusterEndpointSlice { cluster: "east".to_owned(), endpoints, ..ClusterEndpointSlice::default() };
    let raw = zstd::stream::decode_all(slice.encode().as_slice()).unwrap();
    let labels = b"k8s:app=web;k8s:io.cilium.k8s.policy.cluster=east;".to_vec();
    let mut all: Vec<(Kind, String, Vec<u8>, bool)> = fixtures
        .into_iter()
        .map(|(kind, name, value)| (kind, name.to_owned(), serde_json::to_vec(&value).unwrap(), false))
        .collect();
    all.push((Kind::Identities, "458753".to_owned(), labels, false));
    all.push((Kind::EndpointSlices, "a/b".to_owned(), slice.encode(), false));
    all.push((Kind::EndpointSlices, "a/b".to_owned(), raw, true));
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (prop::sample::select(all), changes).prop_map(|((kind, name, mut bytes, frame), changes)| {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let bytes = if frame { zstd::bulk::compress(&bytes, 1).unwrap() } else { bytes };
        (kind, name, bytes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_make_it_panic(name in ".{0,20}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for kind in KINDS {
            let _ = read(kind, &name, &bytes, &east());
        }
        let _ = ClusterConfig::decode(&east().name, &bytes);
        let frame = zstd::bulk::compress(&bytes, 1).unwrap();
        let _ = read(Kind::EndpointSlices, &name, &frame, &east());
    }

    #[test]
    fn nor_does_damage((kind, name, bytes) in mutated()) {
        let _ = read(kind, &name, &bytes, &east());
    }

    #[test]
    fn what_is_read_is_written_and_read_again((kind, name, bytes) in mutated()) {
        if let Ok(value) = read(kind, &name, &bytes, &east()) {
            let again = match &value {
                Value::Node(node) => node.encode(),
                Value::Identity { labels, .. } => {
                    causeway_mesh_schema::labels::encode(labels.iter().map(String::as_str)).into_bytes()
                }
                Value::Ip(ip) => ip.encode(),
                Value::Service(service) => service.encode(),
                Value::EndpointSlice(slice) => slice.encode(),
                Value::ServiceExport(spec) => spec.encode(),
            };
            prop_assert_eq!(read(kind, &name, &again, &east()), Ok(value));
        }
    }
}
