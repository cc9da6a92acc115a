//! Services and slices of this cluster; [`mesh`] has those of others.

mod mesh;

use super::*;
use crate::intent::Read as _;
use crate::intent::{service, slice};
use causeway_datapath_loader::Backend;
use std::fmt::Write as _;

const BOTH: Families = Families { v4: true, v6: true };

struct World {
    c: Controller,
}

impl World {
    fn new() -> World {
        let mut w = World::unsynced();
        w.c.inputs.services.mark_synced();
        w.c.inputs.slices.mark_synced();
        w.c.inputs.offers.mark_synced();
        w.c.inputs.guarded.mark_synced();
        w.synced();
        w
    }

    /// Whose inputs have not been read completely.
    fn unsynced() -> World {
        let inputs = Inputs {
            services: Shared::default(),
            slices: Shared::default(),
            offers: Shared::default(),
            clusters: Shared::default(),
            health: Shared::default(),
            guarded: Shared::default(),
        };
        World { c: Controller::new(inputs, &Shared::default(), BOTH) }
    }

    /// Tells the controller which inputs are complete.
    fn synced(&mut self) {
        let keys = self.c.keys(Changed { synced: self.c.inputs.synced(), ..nothing() });
        self.c.update(keys);
    }

    fn service(&mut self, name: &str, spec: serde_json::Value, ingress: &[&str]) {
        self.annotated(name, &[], spec, ingress);
    }

    fn annotated(&mut self, name: &str, annotations: &[(&str, &str)], spec: serde_json::Value, ingress: &[&str]) {
        let key = Key::new("d", name);
        let ingress: Vec<_> = ingress.iter().map(|ip| serde_json::json!({"ip": ip})).collect();
        let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
        let object = serde_json::json!({
            "metadata": {"annotations": annotations}, "spec": spec,
            "status": {"loadBalancer": {"ingress": ingress}}});
        let row = service::Reader.read(&key, serde_json::from_value(object).unwrap()).unwrap();
        match row {
            Some((k, v)) => self.c.inputs.services.set(k, v),
            None => self.c.inputs.services.delete(&key),
        };
        self.c.update(BTreeSet::from([key]));
    }

    fn slice(&mut self, service: &str, name: &str, port: u16, endpoints: serde_json::Value) {
        let object = serde_json::json!({
            "metadata": {"labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4",
            "endpoints": endpoints, "ports": [{"name": "http", "port": port, "protocol": "TCP"}]});
        let reader = slice::Reader { node: "n1".into() };
        let (k, v) = reader.read(&Key::new("d", name), serde_json::from_value(object).unwrap()).unwrap().unwrap();
        self.c.inputs.slices.set(k, v);
        self.c.update(BTreeSet::from([Key::new("d", service)]));
    }

    fn table(&self) -> String {
        self.c.lb.read(|t| {
            let mut out = String::new();
            for (f, r) in t.iter() {
                let flags: String = [
                    (r.lb.external, 'x'),
                    (r.lb.external_local, 'E'),
                    (r.lb.internal_local, 'I'),
                    (r.local_ready, 'r'),
                ]
                .iter()
                .filter_map(|(on, c)| on.then_some(*c))
                .collect();
                let backend = |b: &Backend| {
                    let cluster = r.remote.as_ref().and_then(|m| m.get(&b.addr));
                    let cluster = cluster.map(|id| format!("@{id}")).unwrap_or_default();
                    format!("{}{}{cluster}", b.addr, if b.local { "*" } else { "" })
                };
                let backends: Vec<String> = r.lb.backends.iter().map(backend).collect();
                writeln!(out, "{f} {} {} [{flags}] {}", r.service.name, r.kind.name(), backends.join(" ")).unwrap();
            }
            out
        })
    }
}

fn ep(ip: &str, node: &str, state: &str) -> serde_json::Value {
    let conditions = match state {
        "ready" => serde_json::json!({"ready": true, "serving": true, "terminating": false}),
        "draining" => serde_json::json!({"ready": false, "serving": true, "terminating": true}),
        _ => serde_json::json!({"ready": false, "serving": false, "terminating": false}),
    };
    serde_json::json!({"addresses": [ip], "nodeName": node, "conditions": conditions})
}

fn spec(extra: serde_json::Value) -> serde_json::Value {
    let mut spec = serde_json::json!({
        "type": "LoadBalancer", "clusterIPs": ["10.96.0.1"],
        "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]});
    for (k, v) in extra.as_object().unwrap() {
        spec[k] = v.clone();
    }
    spec
}

#[track_caller]
fn check(w: &World, want: &str) {
    let trim =
        |s: &str| s.lines().map(str::trim).filter(|l| !l.is_empty()).map(|l| format!("{l}\n")).collect::<String>();
    assert_eq!(trim(&w.table()), trim(want));
}

#[test]
fn addresses_of_a_service_lead_to_ready_backends_at_the_slices_port() {
    let mut w = World::new();
    w.slice(
        "web",
        "web-1",
        8080,
        serde_json::json!([ep("10.1.2.2", "n2", "ready"), ep("10.1.1.2", "n1", "ready"), ep("10.1.1.3", "n1", "no")]),
    );
    check(&w, "");
    w.service("web", spec(serde_json::json!({"externalIPs": ["198.51.100.7"]})), &["192.0.2.1"]);
    check(
        &w,
        "10.96.0.1:80/TCP web ClusterIP [r] 10.1.1.2:8080* 10.1.2.2:8080
         192.0.2.1:80/TCP web LoadBalancer [xr] 10.1.1.2:8080* 10.1.2.2:8080
         198.51.100.7:80/TCP web ExternalIPs [xr] 10.1.1.2:8080* 10.1.2.2:8080",
    );
    w.service("web", spec(serde_json::json!({"clusterIPs": ["None"]})), &[]);
    check(&w, "");
}

#[test]
fn policies_and_draining_backends() {
    let mut w = World::new();
    let local = serde_json::json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"});
    w.service("web", spec(local), &["192.0.2.1"]);
    let cases = [
        // All ready: everyone.
        (vec![ep("10.1.1.2", "n1", "ready"), ep("10.1.2.2", "n2", "ready")], "xEr", "10.1.1.2:8080* 10.1.2.2:8080"),
        // The local one drains: it goes on serving what must stay local, and is not announced.
        (vec![ep("10.1.1.2", "n1", "draining"), ep("10.1.2.2", "n2", "ready")], "xE", "10.1.1.2:8080* 10.1.2.2:8080"),
        // A remote one drains: nobody needs it.
        (vec![ep("10.1.1.2", "n1", "ready"), ep("10.1.2.2", "n2", "draining")], "xEr", "10.1.1.2:8080*"),
        // All drain: all serve.
        (
            vec![ep("10.1.1.2", "n1", "draining"), ep("10.1.2.2", "n2", "draining")],
            "xE",
            "10.1.1.2:8080* 10.1.2.2:8080",
        ),
        (vec![ep("10.1.1.2", "n1", "no")], "xE", ""),
    ];
    for (endpoints, flags, backends) in cases {
        w.slice("web", "web-1", 8080, endpoints.into());
        let internal = flags.replace("xE", "I");
        check(
            &w,
            &format!(
                "10.96.0.1:80/TCP web ClusterIP [{internal}] {backends}
                 192.0.2.1:80/TCP web LoadBalancer [{flags}] {backends}"
            ),
        );
    }
    w.service("web", spec(serde_json::json!({})), &["192.0.2.1"]);
    w.slice("web", "web-1", 8080, vec![ep("10.1.1.2", "n1", "draining"), ep("10.1.2.2", "n2", "ready")].into());
    check(
        &w,
        "10.96.0.1:80/TCP web ClusterIP [] 10.1.2.2:8080
         192.0.2.1:80/TCP web LoadBalancer [x] 10.1.2.2:8080",
    );
}

#[test]
fn several_slices_add_up_and_a_backend_counts_once() {
    let mut w = World::new();
    w.service("web", spec(serde_json::json!({})), &[]);
    w.slice("web", "web-1", 8080, serde_json::json!([ep("10.1.1.2", "n1", "ready")]));
    w.slice("web", "web-2", 9090, serde_json::json!([ep("10.1.2.2", "n2", "ready")]));
    w.slice("web", "web-3", 8080, serde_json::json!([ep("10.1.1.2", "n1", "draining")]));
    check(&w, "10.96.0.1:80/TCP web ClusterIP [r] 10.1.1.2:8080* 10.1.2.2:9090");
}

#[test]
fn a_shared_frontend_has_one_owner_and_an_heir() {
    let mut w = World::new();
    w.service("b", spec(serde_json::json!({"clusterIPs": ["10.96.0.2"]})), &["192.0.2.1"]);
    w.service("a", spec(serde_json::json!({})), &["192.0.2.1"]);
    check(
        &w,
        "10.96.0.1:80/TCP a ClusterIP []
         10.96.0.2:80/TCP b ClusterIP []
         192.0.2.1:80/TCP a LoadBalancer [x]",
    );
    w.service("a", spec(serde_json::json!({"clusterIPs": ["None"]})), &[]);
    check(
        &w,
        "10.96.0.2:80/TCP b ClusterIP []
         192.0.2.1:80/TCP b LoadBalancer [x]",
    );
}

fn nothing() -> Changed {
    Changed {
        synced: Synced::default(),
        services: Changes::Keys(vec![]),
        slices: Changes::Keys(vec![]),
        offers: Changes::Keys(vec![]),
        clusters: Changes::Keys(vec![]),
        health: Changes::Keys(vec![]),
        guarded: Changes::Keys(vec![]),
    }
}

#[test]
fn changes_name_the_services_to_look_at() {
    let mut w = World::new();
    w.service("web", spec(serde_json::json!({})), &[]);
    let slice = SliceKey { service: Key::new("d", "api"), name: "api-1".into() };
    let changed = Changed {
        services: Changes::Keys(vec![Key::new("d", "web")]),
        slices: Changes::Keys(vec![slice]),
        ..nothing()
    };
    assert_eq!(w.c.keys(changed), BTreeSet::from([Key::new("d", "web"), Key::new("d", "api")]));
    for changed in [
        Changed { services: Changes::Reset, ..nothing() },
        Changed { slices: Changes::Reset, ..nothing() },
        Changed { offers: Changes::Reset, ..nothing() },
    ] {
        assert_eq!(w.c.keys(changed), BTreeSet::from([Key::new("d", "web")]));
    }
    assert_eq!(w.c.keys(Changed { health: Changes::Reset, clusters: Changes::Reset, ..nothing() }), BTreeSet::new());
}

#[test]
fn what_came_with_the_last_word_is_among_the_rows_when_they_are_complete() {
    let mut w = World::unsynced();
    let asked_before = w.c.inputs.synced();
    let changed = Changed { synced: asked_before, ..nothing() };
    // The last Service comes, and with it the word that this is all, after the changes were taken.
    w.c.inputs.services.mark_synced();
    w.c.inputs.slices.mark_synced();
    let keys = w.c.keys(changed);
    w.c.update(keys);
    assert!(!w.c.lb.synced(), "the last Service is not among these changes");
    w.service("web", spec(serde_json::json!({})), &[]);
    w.synced();
    assert!(w.c.lb.synced());
    check(&w, "10.96.0.1:80/TCP web ClusterIP []");
}

#[test]
fn nothing_is_said_before_both_inputs_are_complete() {
    let mut w = World::unsynced();
    w.service("web", spec(serde_json::json!({})), &[]);
    w.c.inputs.services.mark_synced();
    w.synced();
    assert!(!w.c.lb.synced());
    check(&w, "");
    w.slice("web", "web-1", 8080, serde_json::json!([ep("10.1.1.2", "n1", "ready")]));
    check(&w, "");
    w.c.inputs.slices.mark_synced();
    w.synced();
    assert!(w.c.lb.synced(), "nothing of the mesh is waited for");
    check(&w, "10.96.0.1:80/TCP web ClusterIP [r] 10.1.1.2:8080*");
}
