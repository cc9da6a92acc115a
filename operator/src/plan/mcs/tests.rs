//! Exports in, objects out: a server of one Service carries the plans out until there is nothing to do.

use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort};
use serde_json::{Value, json};

use super::*;

const SETTLES_WITHIN: usize = 8;

struct Server {
    settings: Settings,
    namespace: Space,
    service: Option<Service>,
    export: Option<ServiceExport>,
    import: Option<ServiceImport>,
    derived: Option<Service>,
    slices: Vec<EndpointSlice>,
    copies: Vec<EndpointSlice>,
    remote: Vec<ServiceExportSpec>,
    awaited: BTreeSet<&'static str>,
    complete: bool,
    /// Uids given so far.
    uids: u32,
}

fn of<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn key() -> Key {
    Key::new("shop", "web")
}

/// An export of cluster `cluster`, made in this second, of port 80.
fn remote(cluster: &str, second: i64) -> ServiceExportSpec {
    ServiceExportSpec {
        cluster: cluster.to_owned(),
        name: "web".to_owned(),
        namespace: "shop".to_owned(),
        export_creation_timestamp: at(second).to_string(),
        ports: vec![port("http", 80)],
        kind: "ClusterSetIP".to_owned(),
        session_affinity: "None".to_owned(),
        ip_families: vec!["IPv4".to_owned()],
        ..ServiceExportSpec::default()
    }
}

fn port(name: &str, number: i32) -> causeway_mesh_schema::ExportPort {
    causeway_mesh_schema::ExportPort {
        name: name.to_owned(),
        protocol: "TCP".to_owned(),
        app_protocol: None,
        port: number,
    }
}

impl Server {
    fn new() -> Server {
        Server {
            settings: Settings { cluster: "east".to_owned(), ipv4: true, ipv6: true },
            namespace: Space::Global,
            service: None,
            export: None,
            import: None,
            derived: None,
            slices: Vec::new(),
            copies: Vec::new(),
            remote: Vec::new(),
            awaited: BTreeSet::new(),
            complete: true,
            uids: 0,
        }
    }

    /// Service `web` of port 80 with one slice, exported in second 100.
    fn exporting() -> Server {
        let mut server = Server::new();
        server.service = Some(of(json!({
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "clusterIP": "10.96.0.1", "ipFamilies": ["IPv4"], "sessionAffinity": "None",
                      "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }] },
        })));
        let mut export = ServiceExport::new("shop", "web");
        export.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(100)));
        server.export = Some(export);
        server.slices = vec![EndpointSlice {
            metadata: of(json!({ "name": "web-x7k2p", "namespace": "shop" })),
            address_type: "IPv4".to_owned(),
            endpoints: Some(vec![Endpoint { addresses: vec!["10.1.0.5".to_owned()], ..Endpoint::default() }]),
            ports: Some(vec![EndpointPort {
                name: Some("http".to_owned()),
                port: Some(8080),
                protocol: Some("TCP".to_owned()),
                ..EndpointPort::default()
            }]),
        }];
        server
    }

    fn plan(&self) -> Plan {
        let view = View {
            namespace: self.namespace,
            service: self.service.as_ref(),
            export: self.export.as_ref(),
            import: self.import.as_ref(),
            derived: self.derived.as_ref(),
            slices: self.slices.iter().collect(),
            copies: self.copies.iter().collect(),
            remote: self.remote.iter().collect(),
            awaited: self.awaited.clone(),
            complete: self.complete,
        };
        plan(&key(), &view, &self.settings, at(1000))
    }

    fn uid(&mut self) -> Option<String> {
        self.uids += 1;
        Some(format!("uid-{}", self.uids))
    }

    /// Carries plans out until nothing is left to do; returns how many it took.
    fn settle(&mut self) -> usize {
        for round in 0..SETTLES_WITHIN {
            let plan = self.plan();
            if plan == Plan::default() {
                return round;
            }
            self.carry_out(plan);
        }
        panic!("never settles: {:#?}", self.plan());
    }

    fn carry_out(&mut self, plan: Plan) {
        if let Some(status) = plan.export_status {
            let export = self.export.as_mut().unwrap();
            export.status = Some(causeway_k8s::ServiceExportStatus { conditions: status.conditions });
        }
        if let Some(status) = plan.import_status {
            self.import.as_mut().unwrap().status = Some(status.status);
        }
        match plan.import {
            None => {}
            Some(Write::Create(mut import)) => {
                import.metadata.uid = self.uid();
                self.import = Some(import);
            }
            Some(Write::Replace(import)) => {
                self.import = Some(ServiceImport { status: self.import.take().unwrap().status, ..import });
            }
            Some(Write::Delete { .. }) => (self.import, self.derived, self.copies) = (None, None, Vec::new()),
        }
        match plan.derived {
            None => {}
            Some(Write::Create(mut derived)) => {
                derived.metadata.uid = self.uid();
                let spec = derived.spec.as_mut().unwrap();
                spec.cluster_ip.get_or_insert_with(|| "10.96.7.7".to_owned());
                spec.cluster_ips = spec.cluster_ip.clone().map(|ip| vec![ip]);
                self.derived = Some(derived);
            }
            Some(Write::Replace(derived)) => self.derived = Some(derived),
            Some(Write::Delete { .. }) => (self.derived, self.copies) = (None, Vec::new()),
        }
        for write in plan.copies {
            let name = write.object().map(ResourceExt::name_any);
            match write {
                Write::Create(copy) => self.copies.push(copy),
                Write::Replace(copy) => {
                    let place = self.copies.iter_mut().find(|held| Some(held.name_any()) == name).unwrap();
                    *place = copy;
                }
                Write::Delete { key, .. } => self.copies.retain(|held| held.name_any() != key.name),
            }
        }
    }

    fn condition(&self, type_: &str) -> (String, String, String) {
        let conditions = self.export.as_ref().unwrap().status.as_ref().map(|status| &status.conditions[..]);
        shown(conditions.unwrap_or_default(), type_)
    }

    fn ready(&self) -> (String, String, String) {
        shown(&self.import.as_ref().unwrap().status.as_ref().unwrap().conditions, "Ready")
    }

    fn spec(&self) -> &ServiceSpec {
        self.derived.as_ref().unwrap().spec.as_ref().unwrap()
    }
}

fn shown(conditions: &[Condition], type_: &str) -> (String, String, String) {
    let condition = causeway_k8s::condition::find(conditions, type_);
    condition.map(|c| (c.status.clone(), c.reason.clone(), c.message.clone())).unwrap_or_default()
}

#[test]
fn names_are_those_of_the_mcs_api() {
    // `printf default/web | sha256sum`, its first 50 bits in base 32.
    assert_eq!(derived::derived_name(&Key::new("default", "web")), "derived-gapqrqeg1j");
    assert_ne!(derived::derived_name(&Key::new("default", "web2")), "derived-gapqrqeg1j");
}

#[test]
fn an_export_becomes_an_import_with_an_address_and_backends() {
    let mut server = Server::exporting();
    server.settle();
    let import = server.import.as_ref().unwrap();
    assert_eq!(import.spec.ips, ["10.96.7.7"]);
    assert_eq!((import.spec.type_.as_str(), import.spec.ports[0].port), ("ClusterSetIP", 80));
    let derived = server.derived.as_ref().unwrap();
    assert_eq!(derived.name_any(), derived::derived_name(&key()));
    assert_eq!(derived.annotations()["service.cilium.io/global"], "true");
    assert_eq!(derived.labels()["multicluster.kubernetes.io/service-name"], "web");
    assert_eq!(derived.owner_references()[0].name, "web");
    assert_eq!(server.spec().selector, None);
    let copy = &server.copies[0];
    assert_eq!(copy.name_any(), format!("{}-x7k2p", derived.name_any()));
    assert_eq!(copy.labels()["kubernetes.io/service-name"], derived.name_any());
    assert_eq!(copy.labels()["multicluster.kubernetes.io/source-cluster"], "east");
    assert_eq!(
        copy.labels()["endpointslice.kubernetes.io/managed-by"],
        "endpointslice-local-mcsapi-controller.cilium.io"
    );
    assert_eq!(copy.endpoints, server.slices[0].endpoints);
    assert_eq!(import.annotations()["multicluster.kubernetes.io/derived-service"], derived.name_any());
    for (type_, status) in [("Valid", "True"), ("Ready", "True"), ("Conflict", "False")] {
        assert_eq!(server.condition(type_).0, status, "{type_}");
    }
    assert_eq!((server.ready().0.as_str(), server.ready().1.as_str()), ("True", "Ready"));
    let clusters: Vec<_> = import.status.as_ref().unwrap().clusters.iter().map(|c| c.cluster.as_str()).collect();
    assert_eq!(clusters, ["east"]);
}

#[test]
fn what_follows_the_source_follows_it() {
    let mut server = Server::exporting();
    server.settle();
    server.slices[0].endpoints.as_mut().unwrap()[0].addresses = vec!["10.1.0.6".to_owned()];
    assert_eq!(server.settle(), 1);
    assert_eq!(server.copies[0].endpoints, server.slices[0].endpoints);
    server.slices.clear();
    server.settle();
    assert!(server.copies.is_empty());
}

#[test]
fn a_remote_export_is_enough_and_the_last_one_that_goes_takes_all_with_it() {
    let mut server = Server::new();
    server.remote = vec![remote("west", 1)];
    server.settle();
    assert_eq!(server.import.as_ref().unwrap().spec.ips, ["10.96.7.7"]);
    assert!(server.copies.is_empty());
    server.remote.clear();
    server.settle();
    assert_eq!((server.import, server.derived), (None, None));
}

#[test]
fn our_copies_go_with_our_export_and_the_import_stays_for_the_others() {
    let mut server = Server::exporting();
    server.remote = vec![remote("west", 1)];
    server.settle();
    assert_eq!(server.copies.len(), 1);
    server.export = None;
    server.settle();
    assert!(server.copies.is_empty() && server.import.is_some() && server.derived.is_some());
}

#[test]
fn the_oldest_export_wins_and_the_conflict_names_the_others() {
    let mut affine = remote("west", 1);
    affine.session_affinity = "ClientIP".to_owned();
    affine.session_affinity_config = Some(json!({ "clientIP": { "timeoutSeconds": 60 } }));
    let mut headless = remote("west", 1);
    headless.kind = "Headless".to_owned();
    let mut labelled = remote("west", 200);
    labelled.labels.insert("a".to_owned(), "b".to_owned());
    let mut local = remote("west", 200);
    local.internal_traffic_policy = Some("Local".to_owned());
    let mut near = remote("west", 200);
    near.traffic_distribution = Some("PreferClose".to_owned());
    let mut v6 = remote("west", 200);
    v6.ip_families = vec!["IPv6".to_owned()];
    let table = [
        (remote("west", 1), "NoConflicts", "agree"),
        (affine, "SessionAffinityConflict", "\"ClientIP\" of the oldest export, in cluster west"),
        (headless, "TypeConflict", "1 of 2 clusters disagree on type: east; \"Headless\""),
        (labelled, "LabelsConflict", "labels: west"),
        (local, "InternalTrafficPolicyConflict", "\"Cluster\" of the oldest export, in cluster east"),
        (near, "TrafficDistributionConflict", "west"),
        (v6, "IPFamilyConflict", "west has no IP family in common"),
    ];
    for (remote, reason, message) in table {
        let mut server = Server::exporting();
        server.remote = vec![remote.clone()];
        server.settle();
        let condition = server.condition("Conflict");
        assert_eq!(condition.1, reason, "{remote:?}");
        assert!(condition.2.contains(message), "{reason}: {}", condition.2);
        let headless = server.import.as_ref().unwrap().spec.type_ == "Headless";
        assert_eq!(server.spec().cluster_ip.as_deref() == Some("None"), headless);
    }
}

#[test]
fn equal_ages_are_decided_by_the_name_and_no_age_is_the_youngest() {
    let (mut a, mut b) = (remote("a", 5), remote("b", 5));
    (a.kind, b.kind) = ("ClusterSetIP".to_owned(), "Headless".to_owned());
    assert_eq!(merge::merge([&b, &a].into_iter()).unwrap().oldest.cluster, "a");
    a.export_creation_timestamp = String::new();
    assert_eq!(merge::merge([&b, &a].into_iter()).unwrap().oldest.cluster, "b");
}

#[test]
fn ports_are_the_union_and_clashes_lose() {
    let mut extra = remote("west", 200);
    extra.ports.push(port("metrics", 9090));
    let mut renamed = remote("west", 200);
    renamed.ports = vec![port("web", 80)];
    let mut moved = remote("west", 200);
    moved.ports = vec![port("http", 81)];
    let mut application = remote("west", 200);
    application.ports[0].app_protocol = Some("h2c".to_owned());
    let table = [
        (extra, vec![80, 9090], "east has less"),
        (
            renamed,
            vec![80],
            "\"web\" of cluster west clashes with port 80/TCP \"http\" of the older export in cluster east",
        ),
        (moved, vec![80], "81/TCP"),
        (application, vec![80], "h2c"),
    ];
    for (remote, ports, message) in table {
        let mut server = Server::exporting();
        server.remote = vec![remote];
        server.settle();
        let condition = server.condition("Conflict");
        assert_eq!(condition.1, "PortConflict");
        assert!(condition.2.contains(message), "{}", condition.2);
        let derived: Vec<i32> = server.spec().ports.iter().flatten().map(|port: &ServicePort| port.port).collect();
        assert_eq!(derived, ports);
        assert_eq!(server.copies.len(), 1, "the older one's own port is served");
    }
}

#[test]
fn a_port_that_lost_is_not_served_by_the_loser() {
    let mut server = Server::exporting();
    let mut older = remote("west", 1);
    older.ports = vec![port("http", 81)];
    server.remote = vec![older];
    server.settle();
    assert_eq!(server.spec().ports.as_ref().unwrap()[0].port, 81);
    assert!(server.copies.is_empty());
}

#[test]
fn exports_that_export_nothing_say_why() {
    type Change = fn(&mut Server);
    let table: [(Change, &str, &str); 3] = [
        (|server| server.service = None, "NoService", "create it"),
        (|server| server.namespace = Space::Local, "NamespaceNotGlobal", "clustermesh.cilium.io/global"),
        (
            |server| server.service.as_mut().unwrap().spec.as_mut().unwrap().type_ = Some("ExternalName".to_owned()),
            "InvalidServiceType",
            "ExternalName",
        ),
    ];
    for (change, reason, remedy) in table {
        let mut server = Server::exporting();
        server.settle();
        change(&mut server);
        server.settle();
        let valid = server.condition("Valid");
        assert_eq!((valid.0.as_str(), valid.1.as_str()), ("False", reason));
        assert!(valid.2.contains(remedy), "{}", valid.2);
        assert_eq!(server.condition("Ready").0, "False");
        assert_eq!(server.condition("Conflict"), <(String, String, String)>::default());
        assert_eq!(server.import, None, "{reason}");
    }
}

#[test]
fn an_invalid_export_of_ours_does_not_stop_those_of_others() {
    let mut server = Server::exporting();
    server.service = None;
    server.remote = vec![remote("west", 1)];
    server.settle();
    assert_eq!(server.condition("Valid").1, "NoService");
    assert!(server.derived.is_some());
}

#[test]
fn nothing_is_imported_where_it_cannot_be() {
    let mut server = Server::new();
    server.remote = vec![remote("west", 1)];
    server.namespace = Space::Absent;
    assert_eq!(server.plan(), Plan::default());
    server.namespace = Space::Local;
    server.settle();
    assert_eq!((server.ready().1.as_str(), &server.derived), ("NamespaceNotGlobal", &None));
    server.namespace = Space::Global;
    server.settings.ipv4 = false;
    server.settle();
    assert_eq!((server.ready().1.as_str(), &server.derived), ("IPFamilyNotSupported", &None));
    server.settings.ipv4 = true;
    server.settle();
    assert_eq!(server.ready().1, "Ready");
}

#[test]
fn becoming_headless_makes_the_derived_service_anew() {
    let mut server = Server::new();
    server.remote = vec![remote("west", 1)];
    server.settle();
    let before = server.derived.as_ref().unwrap().uid();
    server.remote[0].kind = "Headless".to_owned();
    server.settle();
    assert_ne!(server.derived.as_ref().unwrap().uid(), before);
    assert!(crate::plan::is_headless(server.derived.as_ref().unwrap()));
    assert!(server.import.as_ref().unwrap().spec.ips.is_empty());
}

#[test]
fn a_cluster_that_has_not_spoken_keeps_what_it_may_have_exported() {
    let mut server = Server::exporting();
    server.remote = vec![remote("west", 1)];
    server.settle();
    // The operator starts again: west is configured and not read yet.
    let held = server.import.clone();
    server.remote.clear();
    server.awaited.insert("west");
    assert_eq!(server.settle(), 0);
    server.export = None;
    assert_eq!(server.settle(), 0);
    assert_eq!(server.import, held);
    server.awaited.clear();
    server.complete = false;
    assert_eq!(server.settle(), 0);
    server.complete = true;
    server.settle();
    assert_eq!(server.import, None);
}
