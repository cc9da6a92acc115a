//! Objects in, the store's content out. The cases are those of Cilium's own API server, with objects of our own.

use std::collections::BTreeMap;

use causeway_mesh_schema::{ClusterEndpointSlice, Layout};

use super::*;
use crate::convert::tests::{home, object};

/// An export and what it has written.
struct World {
    export: Export,
    store: BTreeMap<String, Bytes>,
    listed: Vec<Kind>,
    /// Writes since the last look.
    writes: usize,
}

impl World {
    /// Everything is listed, and there are the namespaces `shop` and `home`.
    fn new(mode: ExportMode, default_global: bool) -> World {
        let mut world = World::unlisted(mode, default_global);
        world.namespace("shop", "");
        world.namespace("home", "");
        Source::ALL.into_iter().for_each(|source| world.say(Input::Synced(source)));
        world
    }

    fn unlisted(mode: ExportMode, default_global: bool) -> World {
        let settings = Settings { home: home(), default_global, mode, mcs: true };
        World { export: Export::new(settings), store: BTreeMap::new(), listed: Vec::new(), writes: 0 }
    }

    fn say(&mut self, input: Input) {
        self.export.handle(input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.export.poll_output() {
            match output {
                Output::Set { kind, name, value } => {
                    self.store.insert(kind.key(Layout::State, &home().name, &name), value);
                }
                Output::Delete { kind, name } => {
                    let key = kind.key(Layout::State, &home().name, &name);
                    assert!(self.store.remove(&key).is_some(), "{key} is deleted though it was never set");
                }
                Output::Listed(kind) => {
                    self.listed.push(kind);
                    continue;
                }
            }
            self.writes += 1;
        }
    }

    fn apply(&mut self, yaml: &str) {
        let (key, object) = parse(yaml);
        self.say(Input::Applied(key, object));
    }

    fn delete(&mut self, yaml: &str) {
        let (key, object) = parse(yaml);
        self.say(Input::Deleted(object.source(), key));
    }

    /// `global`: the annotation's value; empty for none.
    fn namespace(&mut self, name: &str, global: &str) {
        let annotation =
            if global.is_empty() { String::new() } else { format!("clustermesh.cilium.io/global: '{global}'") };
        self.apply(&format!("{{kind: Namespace, metadata: {{name: {name}, annotations: {{{annotation}}}}}}}"));
    }

    /// Names of the keys that stand there, without what all have.
    fn keys(&self) -> Vec<&str> {
        self.store.keys().map(|key| key.trim_start_matches("cilium/state/")).collect()
    }

    fn json(&self, key: &str) -> serde_json::Value {
        serde_json::from_slice(&self.store[&format!("cilium/state/{key}")]).unwrap()
    }

    /// `address pod` of all entries.
    fn ips(&self) -> Vec<String> {
        let ips = self.store.iter().filter(|(key, _)| key.contains("/ip/v1/default/"));
        let value = |value: &Bytes| serde_json::from_slice::<serde_json::Value>(value).unwrap();
        ips.map(|(_, bytes)| {
            format!("{} {}", value(bytes)["IP"].as_str().unwrap(), value(bytes)["K8sPodName"].as_str().unwrap())
        })
        .collect()
    }

    fn writes(&mut self) -> usize {
        std::mem::take(&mut self.writes)
    }
}

fn parse(yaml: &str) -> (Key, Object) {
    let value: serde_json::Value = object(yaml);
    let text = |name: &str| value["metadata"][name].as_str().unwrap_or_default().to_owned();
    let key = Key::new(text("namespace"), text("name"));
    let object = match value["kind"].as_str().unwrap() {
        "Namespace" => Object::Namespace(object(yaml)),
        "CiliumNode" => Object::Node(object(yaml)),
        "CiliumIdentity" => Object::Identity(object(yaml)),
        "CiliumEndpoint" => Object::Endpoint(object(yaml)),
        "CiliumEndpointSlice" => Object::EndpointSlice(object(yaml)),
        "Service" => Object::Service(object(yaml)),
        "EndpointSlice" => Object::Slice(object(yaml)),
        "ServiceExport" => Object::Export(object(yaml)),
        other => panic!("{other}"),
    };
    (key, object)
}

fn endpoint(namespace: &str, name: &str, ips: &str) -> String {
    format!(
        "{{kind: CiliumEndpoint, metadata: {{name: {name}, namespace: {namespace}}},
          status: {{identity: {{id: 199472}}, networking: {{node: 192.0.2.2, addressing: [{ips}]}}}}}}"
    )
}

fn service(namespace: &str, annotations: &str) -> String {
    format!(
        "{{kind: Service, metadata: {{name: echo, namespace: {namespace}, annotations: {{{annotations}}}}},
          spec: {{clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10], ports: [{{name: http, port: 80, protocol: TCP}}], selector: {{app: echo}}}}}}"
    )
}

const GLOBAL: &str = "service.cilium.io/global: 'true'";
const EXPORT: &str =
    "{kind: ServiceExport, metadata: {name: echo, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'}}";

fn slice(namespace: &str, name: &str, addresses: &[&str]) -> String {
    let endpoints: Vec<_> = addresses.iter().map(|ip| format!("{{addresses: ['{ip}'], nodeName: n1}}")).collect();
    format!(
        "{{kind: EndpointSlice, metadata: {{name: {name}, namespace: {namespace}, labels: {{kubernetes.io/service-name: echo}}}},
          addressType: IPv4, endpoints: [{}], ports: [{{name: http, port: 8080, protocol: TCP}}]}}",
        endpoints.join(", ")
    )
}

fn world() -> World {
    World::new(ExportMode::Both, true)
}

#[test]
fn the_first_endpoint_keeps_an_address_and_the_next_gets_it() {
    let mut world = world();
    let first = endpoint("shop", "first", "{ipv4: 10.3.0.91, ipv6: 'fd00:3::1'}");
    let second = endpoint("home", "second", "{ipv4: 10.3.0.91, ipv6: 'fd00:3::2'}");
    let third = endpoint("shop", "third", "{ipv4: 10.3.0.91}");
    world.apply(&first);
    world.apply(&second);
    world.apply(&third);
    assert_eq!(world.ips(), ["10.3.0.91 first", "fd00:3::1 first", "fd00:3::2 second"]);
    world.apply(&second);
    assert_eq!(world.ips()[0], "10.3.0.91 first", "an update does not move it");
    world.delete(&first);
    assert_eq!(world.ips(), ["10.3.0.91 second", "fd00:3::2 second"]);
    world.apply(&first);
    assert_eq!(world.ips(), ["10.3.0.91 second", "fd00:3::1 first", "fd00:3::2 second"]);
    world.apply(&endpoint("home", "second", "{ipv6: 'fd00:3::2'}"));
    assert_eq!(world.ips()[0], "10.3.0.91 third", "given up by an update, and in the order of claims");
    world.delete(&third);
    assert_eq!(world.ips()[0], "10.3.0.91 first");
    world.delete(&second);
    world.delete(&first);
    assert!(world.ips().is_empty());
}

#[test]
fn a_waiting_endpoint_that_changes_is_published_as_it_is_now() {
    let mut world = world();
    world.apply(&endpoint("shop", "first", "{ipv4: 10.3.0.91}"));
    world.apply(&endpoint("shop", "second", "{ipv4: 10.3.0.91}"));
    world.apply(&endpoint("shop", "second", "{ipv4: 10.3.0.91}").replace("199472", "199999"));
    world.delete(&endpoint("shop", "first", ""));
    assert_eq!(world.json("ip/v1/default/10.3.0.91")["ID"], 199_999);
}

#[test]
fn a_namespace_that_ceases_to_be_global_takes_everything_along() {
    let mut world = world();
    let identity = "{kind: CiliumIdentity, metadata: {name: '199472'}, security-labels: {'k8s:io.kubernetes.pod.namespace': shop}}";
    let other = identity.replace("199472", "199473").replace("shop", "home");
    for yaml in [
        &endpoint("shop", "a", "{ipv4: 10.3.0.1}"),
        &endpoint("home", "b", "{ipv4: 10.3.0.2}"),
        identity,
        &other,
        &service("shop", GLOBAL),
        &slice("shop", "echo-1", &["10.3.0.1"]),
        EXPORT,
    ] {
        world.apply(yaml);
    }
    let all = [
        "endpointslices/v1/cluster3/shop/echo-1",
        "identities/v1/id/199472",
        "identities/v1/id/199473",
        "ip/v1/default/10.3.0.1",
        "ip/v1/default/10.3.0.2",
        "serviceexports/v1/cluster3/shop/echo",
        "services/v1/cluster3/shop/echo",
    ];
    assert_eq!(world.keys(), all);
    for change in ["FALSE", "no"] {
        world.namespace("shop", change);
        assert_eq!(world.keys(), ["identities/v1/id/199473", "ip/v1/default/10.3.0.2"], "{change}");
    }
    world.namespace("shop", "True");
    assert_eq!(world.keys(), all);
    world.delete("{kind: Namespace, metadata: {name: shop}}");
    assert_eq!(world.keys().len(), 2, "what is in no namespace that exists stays at home");
}

#[test]
fn by_default_namespaces_may_stay_at_home() {
    let mut world = World::new(ExportMode::Both, false);
    world.apply(&endpoint("shop", "a", "{ipv4: 10.3.0.1}"));
    world.apply("{kind: CiliumNode, metadata: {name: n1}, spec: {}}");
    assert_eq!(world.keys(), ["nodes/v1/cluster3/n1"], "nodes are in no namespace");
    world.namespace("shop", "true");
    assert_eq!(world.ips(), ["10.3.0.1 a"]);
    world.namespace("shop", "");
    assert!(world.ips().is_empty());
}

#[test]
fn the_next_claim_is_taken_when_the_owners_namespace_goes_home() {
    let mut world = world();
    world.apply(&endpoint("home", "first", "{ipv4: 10.3.0.91}"));
    world.apply(&endpoint("shop", "second", "{ipv4: 10.3.0.91}"));
    world.namespace("home", "false");
    assert_eq!(world.ips(), ["10.3.0.91 second"]);
    world.namespace("home", "true");
    assert_eq!(world.ips(), ["10.3.0.91 second"]);
}

#[test]
fn an_identity_moves_with_its_labels() {
    let mut world = world();
    world.namespace("home", "false");
    let identity =
        |labels: &str| format!("{{kind: CiliumIdentity, metadata: {{name: '199472'}}, security-labels: {{{labels}}}}}");
    world.apply(&identity("'k8s:app': a, 'k8s:io.kubernetes.pod.namespace': shop"));
    let key = "cilium/state/identities/v1/id/199472";
    assert_eq!(world.store[key], "k8s:app=a;k8s:io.kubernetes.pod.namespace=shop;");
    world.apply(&identity("'k8s:app': b, 'k8s:io.kubernetes.pod.namespace': shop"));
    assert_eq!(world.store[key], "k8s:app=b;k8s:io.kubernetes.pod.namespace=shop;");
    world.apply(&identity(""));
    assert_eq!(world.store[key], "k8s:app=b;k8s:io.kubernetes.pod.namespace=shop;", "a bad edit changes nothing");
    assert_eq!(world.export.rejected_of(Source::Identities), 1);
    world.apply(&identity("'k8s:app': b, 'k8s:io.kubernetes.pod.namespace': home"));
    assert_eq!((world.keys().len(), world.export.rejected_of(Source::Identities)), (0, 0));
    world.apply(&identity("'reserved:ingress': ''"));
    assert_eq!(world.keys().len(), 1, "without a namespace the default counts");
}

#[test]
fn an_object_that_is_no_identity_takes_none_with_it() {
    let mut world = world();
    let identity = |name: &str| {
        format!("{{kind: CiliumIdentity, metadata: {{name: '{name}'}}, security-labels: {{'k8s:app': a}}}}")
    };
    world.apply(&identity("7"));
    world.apply(&identity("007"));
    assert_eq!((world.keys(), world.export.rejected_of(Source::Identities)), (vec!["identities/v1/id/7"], 1));
    world.delete(&identity("007"));
    assert_eq!((world.keys(), world.export.rejected_of(Source::Identities)), (vec!["identities/v1/id/7"], 0));
}

#[test]
fn endpoint_slices_of_cilium_speak_for_their_namespace() {
    let mut world = world();
    let ces = |namespace: &str, endpoints: &str| {
        format!(
            "{{kind: CiliumEndpointSlice, metadata: {{name: ces-1}}, namespace: {namespace}, endpoints: [{endpoints}]}}"
        )
    };
    let pod =
        |name: &str, ip: &str| format!("{{name: {name}, id: 199472, networking: {{addressing: [{{ipv4: {ip}}}]}}}}");
    let two = format!("{}, {}", pod("a", "10.3.0.1"), pod("b", "10.3.0.2"));
    world.apply(&ces("shop", &two));
    assert_eq!(world.ips(), ["10.3.0.1 a", "10.3.0.2 b"]);
    world.writes();
    world.apply(&ces("shop", &format!("{two}, {}", pod("c", "10.3.0.3"))));
    assert_eq!(world.writes(), 1, "what has not changed is not written");
    world.apply(&ces("shop", &pod("b", "10.3.0.2")));
    assert_eq!(world.ips(), ["10.3.0.2 b"]);
    world.namespace("home", "false");
    world.apply(&ces("home", &pod("b", "10.3.0.2")));
    assert!(world.ips().is_empty());
    world.namespace("home", "true");
    assert_eq!(world.ips(), ["10.3.0.2 b"]);
    world.delete(&ces("home", ""));
    assert!(world.ips().is_empty());
}

#[test]
fn a_service_is_told_with_the_backends_of_all_its_slices() {
    let mut world = world();
    world.apply(&service("shop", GLOBAL));
    world.apply(&slice("shop", "echo-1", &["10.3.0.1", "10.3.0.2"]));
    let unnamed = slice("shop", "echo-2", &["10.3.0.2"]).replace("name: http, port: 8080", "name: '', port: 9090");
    world.apply(&unnamed);
    let value = world.json("services/v1/cluster3/shop/echo");
    let http = serde_json::json!({"Protocol": "TCP", "Port": 8080});
    assert_eq!(value["backends"]["10.3.0.1"], serde_json::json!({"http": http}));
    let both = serde_json::json!({"": {"Protocol": "TCP", "Port": 9090}, "http": http});
    assert_eq!(value["backends"]["10.3.0.2"], both, "an address with a port in each of two slices has both");
    assert_eq!(value["frontends"], serde_json::json!({"10.96.0.10": {"http": {"Protocol": "TCP", "Port": 80}}}));
    world.delete(&unnamed);
    assert_eq!(world.json("services/v1/cluster3/shop/echo")["backends"]["10.3.0.2"], serde_json::json!({"http": http}));
    world.delete(&service("shop", ""));
    assert!(world.keys().is_empty());
    world.apply(&service("shop", GLOBAL));
    assert_eq!(world.keys().len(), 2, "slices that were there before their Service");
}

#[test]
fn backends_that_end_are_told_only_where_no_others_are() {
    let mut world = world();
    world.apply(&service("shop", GLOBAL));
    let ends = |yaml: String, ip: &str| {
        let conditions = "conditions: {ready: false, serving: true, terminating: true}";
        yaml.replace(&format!("['{ip}']"), &format!("['{ip}'], {conditions}"))
    };
    let both = slice("shop", "echo-1", &["10.3.0.1", "10.3.0.2"]);
    world.apply(&ends(both.clone(), "10.3.0.1"));
    let told = |world: &World| -> Vec<String> {
        let value = world.json("services/v1/cluster3/shop/echo");
        value["backends"].as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(told(&world), ["10.3.0.2"]);
    world.apply(&ends(ends(both, "10.3.0.1"), "10.3.0.2"));
    assert_eq!(told(&world), ["10.3.0.1", "10.3.0.2"]);
}

#[test]
fn annotations_switch_a_service_and_its_slices() {
    let mut world = world();
    world.apply(&slice("shop", "echo-1", &["10.3.0.1"]));
    let table = [
        ("", 0),
        (GLOBAL, 2),
        ("service.cilium.io/global: 'false'", 0),
        ("io.cilium/global-service: 'TRUE'", 2),
        ("service.cilium.io/global: 'true', service.cilium.io/shared: 'false'", 0),
        ("service.cilium.io/global: 'true', io.cilium/shared-service: 'true'", 2),
        ("service.cilium.io/shared: 'true'", 0),
    ];
    for (annotations, keys) in table {
        world.apply(&service("shop", annotations));
        assert_eq!(world.keys().len(), keys, "{annotations}");
    }
}

#[test]
fn formats_by_mode() {
    let table = [
        (ExportMode::Services, vec!["services/v1/cluster3/shop/echo"]),
        (ExportMode::Both, vec!["endpointslices/v1/cluster3/shop/echo-1", "services/v1/cluster3/shop/echo"]),
        (ExportMode::EndpointSlices, vec!["endpointslices/v1/cluster3/shop/echo-1"]),
    ];
    for (mode, keys) in table {
        let mut world = World::new(mode, true);
        world.apply(&service("shop", GLOBAL));
        world.apply(&slice("shop", "echo-1", &["10.3.0.1"]));
        assert_eq!(world.keys(), keys, "{mode:?}");
        assert_eq!(world.listed.len(), Kind::ALL.len(), "each kind gets its canary: {mode:?}");
        world.namespace("shop", "false");
        assert!(world.keys().is_empty(), "{mode:?}");
    }
}

#[test]
fn a_slice_is_rewritten_when_it_changes_and_moves_with_its_label() {
    let mut world = world();
    world.apply(&service("shop", GLOBAL));
    world.apply(&slice("shop", "echo-1", &["10.3.0.1"]));
    let key = "cilium/state/endpointslices/v1/cluster3/shop/echo-1";
    let decoded = |world: &World| ClusterEndpointSlice::decode("shop/echo-1", &world.store[key]).unwrap();
    assert_eq!(decoded(&world).endpoints[0].addresses, ["10.3.0.1"]);
    world.apply(&slice("shop", "echo-1", &["10.3.0.9"]));
    assert_eq!(decoded(&world).endpoints[0].addresses, ["10.3.0.9"]);
    world.writes();
    world.apply(&slice("shop", "echo-1", &["10.3.0.9"]));
    assert_eq!(world.writes(), 0, "nothing has changed");
    world.apply(&slice("shop", "echo-1", &["10.3.0.9"]).replace("service-name: echo", "service-name: other"));
    assert_eq!(world.keys(), ["services/v1/cluster3/shop/echo"]);
    assert_eq!(world.json("services/v1/cluster3/shop/echo")["backends"], serde_json::json!({}));
}

#[test]
fn a_flood_of_slices_writes_their_service_once() {
    let mut world = world();
    world.apply(&service("shop", GLOBAL));
    world.writes();
    for n in 0..50 {
        let (key, object) = parse(&slice("shop", &format!("echo-{n}"), &[&format!("10.3.0.{n}")]));
        world.export.handle(Input::Applied(key, object));
    }
    world.drain();
    assert_eq!(world.writes(), 51);
}

#[test]
fn a_change_among_many_costs_its_own_keys() {
    let mut world = world();
    world.apply(&service("shop", GLOBAL));
    for n in 0..2000 {
        let ip = format!("10.{}.{}.1", 4 + n / 250, n % 250);
        world.apply(&endpoint("shop", &format!("pod-{n}"), &format!("{{ipv4: {ip}}}")));
    }
    world.writes();
    world.apply(&endpoint("shop", "pod-7", "{ipv4: 10.4.7.1}").replace("199472", "199999"));
    assert_eq!(world.writes(), 1);
    world.apply(&endpoint("shop", "pod-7", "{ipv4: 10.4.7.1}").replace("199472", "199999"));
    assert_eq!(world.writes(), 0);
    world.apply(&endpoint("shop", "pod-7", "{ipv4: 10.99.7.1}"));
    assert_eq!(world.writes(), 2, "one comes, one goes");
}

#[test]
fn exports_need_the_service_and_the_export() {
    let mut world = world();
    world.apply(EXPORT);
    assert!(world.keys().is_empty());
    world.apply(&service("shop", ""));
    assert_eq!(world.keys(), ["serviceexports/v1/cluster3/shop/echo"]);
    world.apply(&service("shop", "").replace("spec: {", "spec: {type: ExternalName, "));
    assert!(world.keys().is_empty());
    world.apply(&service("shop", ""));
    world.delete(EXPORT);
    assert!(world.keys().is_empty());
    world.apply(EXPORT);
    world.delete(&service("shop", ""));
    assert!(world.keys().is_empty());
}

#[test]
fn what_is_being_deleted_is_exported_no_more() {
    let going = |yaml: &str| yaml.replacen("metadata: {", "metadata: {deletionTimestamp: '2026-01-02T00:00:00Z', ", 1);
    let mut world = world();
    world.apply(EXPORT);
    world.apply(&service("shop", ""));
    assert_eq!(world.keys().len(), 1);
    world.apply(&going(EXPORT));
    assert!(world.keys().is_empty());
    world.apply(EXPORT);
    assert_eq!(world.keys().len(), 1);
    world.apply(&going(&service("shop", "")));
    assert!(world.keys().is_empty());
}

#[test]
fn nothing_of_a_namespace_is_told_before_all_are_known() {
    let mut world = World::unlisted(ExportMode::Both, true);
    world.apply(&endpoint("shop", "a", "{ipv4: 10.3.0.1}"));
    world.say(Input::Synced(Source::Endpoints));
    world.apply("{kind: CiliumNode, metadata: {name: n1}, spec: {}}");
    world.say(Input::Synced(Source::Nodes));
    world.namespace("shop", "");
    assert_eq!(world.keys(), ["nodes/v1/cluster3/n1"]);
    assert_eq!(world.listed, [Kind::Nodes]);
    world.say(Input::Synced(Source::Namespaces));
    assert_eq!(world.ips(), ["10.3.0.1 a"]);
    assert_eq!(world.listed, [Kind::Nodes, Kind::Ips], "identities and services are not listed yet");
}

#[test]
fn a_listing_withdraws_what_it_does_not_name() {
    let mut world = world();
    for name in ["a", "b", "c"] {
        world.apply(&format!("{{kind: CiliumNode, metadata: {{name: {name}}}, spec: {{}}}}"));
        world.apply(&endpoint("shop", name, &format!("{{ipv4: 10.3.0.{}}}", name.as_bytes()[0])));
        world.apply(&slice("shop", name, &["10.3.0.1"]));
    }
    world.apply(&service("shop", GLOBAL));
    let before = world.keys().len();
    for source in Source::ALL {
        world.say(Input::Relist(source));
    }
    assert_eq!(world.keys().len(), before, "nothing goes before the listing is complete");
    world.namespace("shop", "");
    world.apply("{kind: CiliumNode, metadata: {name: b}, spec: {}}");
    world.apply(&endpoint("shop", "b", "{ipv4: 10.3.0.98}"));
    let broken = Rejected {
        kind: "EndpointSlice".into(),
        object: "shop/b".into(),
        field: "ports".into(),
        message: "bad".into(),
        remedy: "good".into(),
    };
    world.say(Input::Rejected(Source::Slices, Key::new("shop", "b"), broken));
    world.apply(&service("shop", GLOBAL));
    Source::ALL.into_iter().for_each(|source| world.say(Input::Synced(source)));
    let expected = [
        "endpointslices/v1/cluster3/shop/b",
        "ip/v1/default/10.3.0.98",
        "nodes/v1/cluster3/b",
        "services/v1/cluster3/shop/echo",
    ];
    assert_eq!(world.keys(), expected, "a bad edit keeps the last good form");
    assert_eq!(world.export.rejected().count(), 1);
    assert_eq!(world.listed.len(), Kind::ALL.len(), "kinds are listed once");
}
