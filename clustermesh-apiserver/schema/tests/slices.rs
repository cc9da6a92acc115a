//! Endpoint slices against foreign tools: `protoc`, with field numbers as published, confirms every byte of the message
//! in both directions; `zstd` confirms the frame. `protoc` is needed to build the mesh; where `zstd` is missing, that
//! part says so and rests.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use causeway_mesh_schema::{
    AddressType, ClusterEndpointSlice, ClusterId, ClusterName, Endpoint, EndpointPort, Kind, Origin, Scale, Value, read,
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

/// What the tool prints; `None` where it is not installed.
fn tool(program: &str, args: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let spawned = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        spawned => spawned.unwrap(),
    };
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {args:?}");
    Some(output.stdout)
}

fn protoc(mode: &str, input: &[u8]) -> Vec<u8> {
    let mode = format!("--{mode}=ClusterEndpointSlice");
    let mut args = vec![mode.as_str(), "-I", GOLDEN, "slice.proto"];
    if mode.starts_with("--encode") {
        args.push("--deterministic_output");
    }
    tool("protoc", &args, input).expect("protoc is installed: the mesh cannot be built without it")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(format!("{GOLDEN}/{name}.textproto")).unwrap()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn port(name: &str, protocol: &str, port: i32, app: Option<&str>) -> EndpointPort {
    EndpointPort { name: some(name), protocol: some(protocol), port: Some(port), app_protocol: app.map(str::to_owned) }
}

fn ipv4() -> ClusterEndpointSlice {
    let ready = Endpoint {
        addresses: vec!["10.7.1.42".to_owned()],
        ready: Some(true),
        serving: Some(true),
        terminating: Some(false),
        hostname: some("cart-0"),
        node_name: some("rack1-a"),
        zone: some("z1"),
        for_zones: vec!["z1".to_owned()],
        for_nodes: vec!["rack1-a".to_owned()],
    };
    let leaving = Endpoint {
        addresses: vec!["10.7.1.100".to_owned()],
        ready: Some(false),
        serving: Some(true),
        terminating: Some(true),
        ..Endpoint::default()
    };
    ClusterEndpointSlice {
        cluster: "east".to_owned(),
        cluster_id: 7,
        namespace: "shop".to_owned(),
        name: "cart-x7k2p".to_owned(),
        labels: pairs([
            ("kubernetes.io/service-name", "cart"),
            ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io"),
        ]),
        annotations: pairs([("empty", "")]),
        address_type: AddressType::Ipv4,
        endpoints: vec![ready, leaving],
        ports: vec![port("web", "TCP", 8080, Some("http")), port("dns", "UDP", 53, None)],
    }
}

fn ipv6() -> ClusterEndpointSlice {
    let endpoint = Endpoint { addresses: vec!["fd00:9::5".to_owned()], ..Endpoint::default() };
    ClusterEndpointSlice {
        cluster: "west".to_owned(),
        cluster_id: 511,
        namespace: "default".to_owned(),
        name: "one-port-9".to_owned(),
        address_type: AddressType::Ipv6,
        endpoints: vec![endpoint],
        ports: vec![port("", "TCP", 9000, None)],
        ..ClusterEndpointSlice::default()
    }
}

fn cases() -> [(&'static str, ClusterEndpointSlice); 2] {
    [("slice-ipv4", ipv4()), ("slice-ipv6-unnamed-port", ipv6())]
}

fn check(slice: &ClusterEndpointSlice, bytes: &[u8]) {
    let scale = Scale::C511;
    let name = ClusterName::parse(&slice.cluster).unwrap();
    let origin = Origin { name, id: ClusterId::new(slice.cluster_id, scale).unwrap(), scale };
    let key = format!("{}/{}", slice.namespace, slice.name);
    assert_eq!(read(Kind::EndpointSlices, &key, bytes, &origin), Ok(Value::EndpointSlice(slice.clone())));
}

#[test]
fn protoc_reads_and_writes_the_same_bytes() {
    for (name, slice) in cases() {
        let ours = zstd::stream::decode_all(slice.encode().as_slice()).unwrap();
        assert_eq!(String::from_utf8(protoc("decode", &ours)).unwrap(), text(name), "{name}");
        let theirs = protoc("encode", text(name).as_bytes());
        assert_eq!(ours, theirs, "{name}");
        check(&slice, &zstd::bulk::compress(&theirs, 3).unwrap());
    }
}

#[test]
fn zstd_reads_and_writes_the_frame() {
    for (_, slice) in cases() {
        let Some(raw) = tool("zstd", &["-d", "-c", "-q"], &slice.encode()) else {
            println!("not run: there is no zstd command here (Debian package zstd)");
            return;
        };
        let frame = tool("zstd", &["-19", "-c", "-q"], &raw).unwrap();
        check(&slice, &frame);
    }
}

#[test]
fn fields_of_other_writers_are_skipped() {
    let mut raw = protoc("encode", text("slice-ipv4").as_bytes());
    raw.extend_from_slice(&[0xf8, 0x07, 0x01, 0x82, 0x08, 0x02, b'h', b'i']);
    check(&ipv4(), &zstd::bulk::compress(&raw, 3).unwrap());
}
