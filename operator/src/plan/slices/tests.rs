//! Remote backends in, writes of slices out: a server of one Service carries them out until there is nothing to do.

use std::collections::BTreeMap;
use std::net::IpAddr;

use causeway_mesh_schema::{AddressType, EndpointPort, L4Addr, Zone};
use serde_json::json;

use super::*;

const GLOBAL: (&str, &str) = ("service.cilium.io/global", "true");
const SYNC: (&str, &str) = ("service.cilium.io/global-sync-endpoint-slices", "true");

struct Server {
    namespace: Space,
    service: Option<Service>,
    slices: Vec<EndpointSlice>,
    legacy: BTreeMap<&'static str, ClusterService>,
    sliced: BTreeMap<&'static str, Vec<ClusterEndpointSlice>>,
    stages: BTreeMap<&'static str, Stage>,
    awaited: BTreeSet<&'static str>,
    complete: bool,
    most: usize,
    names: u32,
}

fn service(annotations: &[(&str, &str)], cluster_ip: &str) -> Service {
    let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
    serde_json::from_value(json!({
        "metadata": { "name": "db", "namespace": "shop", "uid": "u", "annotations": annotations, "labels": { "app": "db" } },
        "spec": { "clusterIP": cluster_ip, "ipFamilies": ["IPv4", "IPv6"] },
    }))
    .unwrap()
}

/// Backends `10.<cluster>.<hundreds>.<rest>` with port `pg` 5432.
fn backends(cluster: u8, numbers: impl IntoIterator<Item = u16>) -> ClusterService {
    let address = |number: u16| IpAddr::from([10, cluster, u8::try_from(number / 100).unwrap(), (number % 100) as u8]);
    let port = || BTreeMap::from([("pg".to_owned(), L4Addr { protocol: "TCP".to_owned(), port: 5432 })]);
    ClusterService {
        namespace: "shop".to_owned(),
        name: "db".to_owned(),
        shared: true,
        backends: numbers.into_iter().map(|number| (address(number), port())).collect(),
        ..ClusterService::default()
    }
}

impl Server {
    fn new() -> Server {
        Server {
            namespace: Space::Global,
            service: Some(service(&[GLOBAL], "None")),
            slices: Vec::new(),
            legacy: BTreeMap::new(),
            sliced: BTreeMap::new(),
            stages: BTreeMap::new(),
            awaited: BTreeSet::new(),
            complete: true,
            most: 100,
            names: 0,
        }
    }

    fn plan(&self) -> Vec<Write<EndpointSlice>> {
        let stage = |cluster| self.stages.get(cluster).copied().unwrap_or_default();
        let legacy = self.legacy.iter().map(|(cluster, service)| Remote {
            cluster,
            stage: stage(*cluster),
            words: Words::Service(service),
        });
        let sliced = self.sliced.iter().map(|(cluster, slices)| Remote {
            cluster,
            stage: stage(*cluster),
            words: Words::Slices(slices.iter().collect()),
        });
        let view = View {
            namespace: self.namespace,
            service: self.service.as_ref(),
            slices: self.slices.iter().collect(),
            remotes: legacy.chain(sliced).collect(),
            awaited: self.awaited.clone(),
            complete: self.complete,
        };
        plan(&Key::new("shop", "db"), &view, self.most)
    }

    /// Carries one plan out, sees that nothing is left to do then, and says how many were created, replaced and deleted.
    fn settle(&mut self) -> (usize, usize, usize) {
        let mut counts = (0, 0, 0);
        for write in self.plan() {
            match write {
                Write::Create(mut slice) => {
                    counts.0 += 1;
                    self.names += 1;
                    slice.metadata.name =
                        Some(format!("{}{:05}", slice.metadata.generate_name.take().unwrap(), self.names));
                    self.slices.push(slice);
                }
                Write::Replace(slice) => {
                    counts.1 += 1;
                    let held = self.slices.iter_mut().find(|held| held.name_any() == slice.name_any()).unwrap();
                    *held = slice;
                }
                Write::Delete { key, .. } => {
                    counts.2 += 1;
                    self.slices.retain(|held| held.name_any() != key.name);
                }
            }
        }
        assert_eq!(self.plan(), [], "nothing is left to do");
        counts
    }

    fn addresses(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten())
            .map(|endpoint| endpoint.addresses[0].clone())
            .collect();
        all.sort();
        all
    }

    fn sizes(&self) -> Vec<usize> {
        self.slices.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).collect()
    }
}

#[test]
fn a_headless_global_service_has_its_remote_backends() {
    let mut server = Server::new();
    let mut west = backends(2, [1]);
    let address: IpAddr = "10.2.0.1".parse().unwrap();
    west.hostnames.insert(address, "db-0".to_owned());
    west.zones.insert(address, Zone { zone: "z1".to_owned(), ..Zone::default() });
    server.legacy.insert("west", west);
    assert_eq!(server.settle(), (1, 0, 0));
    let slice = &server.slices[0];
    let labels = [
        ("app", "db"),
        ("endpointslice.kubernetes.io/managed-by", "endpointslice-mesh-controller.cilium.io"),
        ("kubernetes.io/service-name", "db"),
        ("multicluster.kubernetes.io/source-cluster", "west"),
        ("service.kubernetes.io/headless", ""),
    ];
    assert_eq!(slice.labels().iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), labels);
    assert_eq!(slice.owner_references()[0].uid, "u");
    assert!(slice.name_any().starts_with("db-west-"));
    let endpoint = &slice.endpoints.as_ref().unwrap()[0];
    assert_eq!((endpoint.hostname.as_deref(), endpoint.zone.as_deref()), (Some("db-0"), Some("z1")));
    assert_eq!(endpoint.conditions.as_ref().unwrap().ready, Some(true));
    let ports = slice.ports.as_ref().unwrap();
    assert_eq!((ports[0].name.as_deref(), ports[0].port), (Some("pg"), Some(5432)));
}

#[test]
fn only_services_that_want_it_have_slices() {
    type Change = fn(&mut Server);
    let wanted: Change = |server| server.service = Some(service(&[GLOBAL, SYNC], "10.96.0.1"));
    let table: [(Change, bool); 9] = [
        (|_| {}, true),
        (wanted, true),
        (|server| server.service = Some(service(&[GLOBAL], "10.96.0.1")), false),
        (|server| server.service = Some(service(&[SYNC], "None")), false),
        (|server| server.service = Some(service(&[GLOBAL, (SYNC.0, "false")], "None")), false),
        (|server| server.service = None, false),
        (|server| server.namespace = Space::Local, false),
        (|server| server.legacy.get_mut("west").unwrap().shared = false, false),
        (|server| server.legacy.clear(), false),
    ];
    for (index, (change, has)) in table.into_iter().enumerate() {
        let mut server = Server::new();
        server.legacy.insert("west", backends(2, [1]));
        server.settle();
        change(&mut server);
        server.settle();
        assert_eq!(!server.slices.is_empty(), has, "{index}");
    }
}

#[test]
fn one_backend_is_one_write() {
    let mut server = Server::new();
    server.legacy.insert("west", backends(2, 0..250));
    assert_eq!(server.settle(), (3, 0, 0));
    assert_eq!(server.sizes(), [100, 100, 50]);
    server.legacy.insert("west", backends(2, (0..250).filter(|n| *n != 120)));
    assert_eq!(server.settle(), (0, 1, 0));
    assert_eq!(server.sizes(), [100, 99, 50]);
    server.legacy.insert("west", backends(2, (0..253).filter(|n| *n != 120)));
    assert_eq!(server.settle(), (0, 2, 0), "the hole is filled first");
    assert_eq!(server.sizes(), [100, 100, 52]);
    server.legacy.insert("west", backends(2, 100..253));
    server.settle();
    assert_eq!(server.addresses().len(), 153);
    server.most = 40;
    server.settle();
    assert!(server.sizes().iter().all(|size| *size <= 40), "{:?}", server.sizes());
    assert_eq!(server.addresses().len(), 153);
}

#[test]
fn clusters_families_and_ports_have_slices_of_their_own() {
    let mut server = Server::new();
    let mut west = backends(2, [1, 2]);
    let odd = BTreeMap::from([("pg".to_owned(), L4Addr { protocol: "TCP".to_owned(), port: 6432 })]);
    west.backends.insert("10.2.9.9".parse().unwrap(), odd);
    west.backends.insert("fd00:2::1".parse().unwrap(), west.backends[&"10.2.0.1".parse::<IpAddr>().unwrap()].clone());
    server.legacy.insert("west", west);
    server.legacy.insert("north", backends(3, [1]));
    assert_eq!(server.settle(), (4, 0, 0));
    let types: BTreeSet<_> = server.slices.iter().map(|slice| slice.address_type.as_str()).collect();
    assert_eq!(types, BTreeSet::from(["IPv4", "IPv6"]));
    server.legacy.remove("north");
    assert_eq!(server.settle(), (0, 0, 1));
    let single = json!({ "spec": { "ipFamilies": ["IPv4"] } });
    let narrowed: Service = serde_json::from_value(single).unwrap();
    server.service.as_mut().unwrap().spec.as_mut().unwrap().ip_families = narrowed.spec.unwrap().ip_families;
    assert_eq!(server.settle(), (0, 0, 1), "a family that the Service lost");
}

#[test]
fn slices_of_the_newer_format_keep_their_conditions() {
    let mut server = Server::new();
    let endpoint = |address: &str, ready| causeway_mesh_schema::Endpoint {
        addresses: vec![address.to_owned()],
        ready: Some(ready),
        serving: Some(true),
        terminating: Some(!ready),
        node_name: Some("n1".to_owned()),
        ..causeway_mesh_schema::Endpoint::default()
    };
    let slice = ClusterEndpointSlice {
        address_type: AddressType::Ipv4,
        endpoints: vec![endpoint("10.2.0.1", true), endpoint("10.2.0.2", false)],
        ports: vec![EndpointPort { name: Some("pg".to_owned()), port: Some(5432), ..EndpointPort::default() }],
        ..ClusterEndpointSlice::default()
    };
    server.sliced.insert("west", vec![slice]);
    server.settle();
    let endpoints = server.slices[0].endpoints.clone().unwrap();
    let shown: Vec<_> =
        endpoints.iter().map(|e| e.conditions.clone().unwrap()).map(|c| (c.ready, c.serving, c.terminating)).collect();
    assert_eq!(shown, [(Some(true), Some(true), Some(false)), (Some(false), Some(true), Some(true))]);
    assert_eq!(endpoints[0].node_name, None, "another cluster's node is nobody's here");
}

#[test]
fn a_cluster_that_has_not_spoken_keeps_its_slices() {
    let mut server = Server::new();
    server.legacy.insert("west", backends(2, [1]));
    server.settle();
    server.legacy.clear();
    server.awaited.insert("west");
    assert_eq!(server.settle(), (0, 0, 0));
    server.service = Some(service(&[], "None"));
    assert_eq!(server.settle(), (0, 0, 0));
    (server.awaited, server.complete) = (BTreeSet::new(), false);
    assert_eq!(server.settle(), (0, 0, 0));
    server.complete = true;
    assert_eq!(server.settle(), (0, 0, 1));
}

#[test]
fn backends_that_count_as_lost_are_not_ready_while_others_are() {
    let ready = |server: &Server, cluster: &str| {
        let slice = server.slices.iter().find(|slice| source(slice) == cluster).unwrap();
        slice.endpoints.as_ref().unwrap()[0].conditions.as_ref().unwrap().ready.unwrap()
    };
    let mut server = Server::new();
    server.legacy.insert("west", backends(2, [1]));
    server.stages.insert("west", Stage::Revoked);
    server.settle();
    assert!(ready(&server, "west"), "a Service is never emptied");
    server.legacy.insert("north", backends(3, [1]));
    server.settle();
    assert!(!ready(&server, "west") && ready(&server, "north"));
    server.stages.insert("west", Stage::Probed);
    server.settle();
    assert!(ready(&server, "west"));
    server.legacy.remove("north");
    server.stages.insert("west", Stage::Revoked);
    let local = json!({
        "metadata": { "name": "db-abcde", "namespace": "shop" },
        "addressType": "IPv4", "endpoints": [{ "addresses": ["10.1.0.1"], "conditions": { "ready": true } }],
    });
    server.slices.push(serde_json::from_value(local).unwrap());
    server.settle();
    assert!(!ready(&server, "west"));
    assert!(server.slices.iter().any(|slice| slice.name_any() == "db-abcde"), "others' slices are left alone");
}

#[test]
fn two_slices_for_one_thing_become_one() {
    let mut server = Server::new();
    server.legacy.insert("west", backends(2, [1]));
    server.settle();
    let mut twin = server.slices[0].clone();
    twin.metadata.name = Some("db-west-zzzzz".to_owned());
    server.slices.push(twin);
    assert_eq!(server.settle(), (0, 0, 1));
}
