//! From Services and EndpointSlices to load-balancer rows. A changed Service or slice costs one Service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use causeway_datapath_loader::{Backend, Frontend, LbService};
use causeway_table::{Changes, Shared};

use super::claims::Claims;
use crate::intent::service::{Port, Service};
use crate::intent::slice::{Slice, SliceKey};
use crate::intent::{Key, Stamp};

/// What a frontend's address is to its Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AddressKind {
    ClusterIp,
    LoadBalancer,
    ExternalIp,
}

impl AddressKind {
    /// As Cilium's `service list` has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            AddressKind::ClusterIp => "ClusterIP",
            AddressKind::LoadBalancer => "LoadBalancer",
            AddressKind::ExternalIp => "ExternalIPs",
        }
    }
}

/// A desired row of the datapath's service table, and what others need to know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LbRow {
    pub(crate) service: Key,
    pub(crate) port_name: Box<str>,
    pub(crate) kind: AddressKind,
    pub(crate) lb: LbService,
    /// A backend of this node takes new connections.
    pub(crate) local_ready: bool,
    /// When the newest slice behind it arrived; `None` without slices.
    pub(crate) seen: Option<Stamp>,
}

/// The controller. Its output table holds the claims in force.
pub(crate) struct Controller {
    pub(crate) services: Shared<Key, Service>,
    pub(crate) slices: Shared<SliceKey, Slice>,
    pub(crate) lb: Shared<Frontend, LbRow>,
    claims: Claims<Key, Frontend, LbRow>,
    families: Families,
}

/// Which address families are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Families {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

impl Families {
    pub(crate) fn has(self, ip: IpAddr) -> bool {
        if ip.is_ipv4() { self.v4 } else { self.v6 }
    }
}

impl Controller {
    pub(crate) fn new(
        services: &Shared<Key, Service>,
        slices: &Shared<SliceKey, Slice>,
        lb: &Shared<Frontend, LbRow>,
        families: Families,
    ) -> Controller {
        Controller {
            services: services.clone(),
            slices: slices.clone(),
            lb: lb.clone(),
            claims: Claims::default(),
            families,
        }
    }

    /// The Services that these changes are about.
    pub(crate) fn keys(&self, services: Changes<Key>, slices: Changes<SliceKey>) -> BTreeSet<Key> {
        let all = || self.services.read(|t| t.iter().map(|(k, _)| k.clone()).collect::<Vec<_>>());
        let mut keys: BTreeSet<Key> = match services {
            Changes::Keys(keys) => keys.into_iter().collect(),
            Changes::Reset => all()
                .into_iter()
                .chain(self.lb.read(|t| t.iter().map(|(_, r)| r.service.clone()).collect::<Vec<_>>()))
                .collect(),
        };
        match slices {
            Changes::Keys(slices) => keys.extend(slices.into_iter().map(|s| s.service)),
            Changes::Reset => keys.extend(all()),
        }
        keys
    }

    /// Brings the rows of these Services up to date, and says when the inputs are complete.
    pub(crate) fn update(&mut self, keys: &BTreeSet<Key>) {
        for key in keys {
            self.update_one(key);
        }
        if self.services.synced() && self.slices.synced() {
            self.lb.mark_synced();
        }
    }

    fn update_one(&mut self, key: &Key) {
        let rows = match self.services.get(key) {
            None => BTreeMap::new(),
            Some(service) => {
                let slices = self.slices.read(|t| {
                    let from = SliceKey::first(key);
                    let mine = t.iter_from(&from).take_while(|(k, _)| k.service == *key);
                    mine.map(|(_, s)| s.clone()).collect::<Vec<_>>()
                });
                frontends(key, &service, &slices, self.families)
            }
        };
        let touched = self.claims.set(key, rows);
        self.lb.write(|t| {
            for frontend in touched {
                match self.claims.get(&frontend) {
                    Some((_, row)) => t.set(frontend, row.clone()),
                    None => t.delete(&frontend),
                };
            }
        });
    }
}

/// All rows of one Service. Pure.
pub(crate) fn frontends(
    key: &Key,
    service: &Service,
    slices: &[Arc<Slice>],
    families: Families,
) -> BTreeMap<Frontend, LbRow> {
    let mut rows = BTreeMap::new();
    let addresses = [
        (AddressKind::ExternalIp, &service.external_ips),
        (AddressKind::LoadBalancer, &service.load_balancer_ips),
        (AddressKind::ClusterIp, &service.cluster_ips),
    ];
    let seen = slices.iter().map(|s| s.seen).max_by_key(|s| s.0);
    for port in &service.ports {
        for v4 in [true, false] {
            let candidates = Candidates::of(port, slices, v4);
            for (kind, ips) in addresses {
                for ip in ips.iter().filter(|ip| ip.is_ipv4() == v4 && families.has(**ip)) {
                    let external = kind != AddressKind::ClusterIp;
                    let local_only = if external { service.external_local } else { service.internal_local };
                    let row = LbRow {
                        service: key.clone(),
                        port_name: port.name.clone(),
                        kind,
                        lb: LbService {
                            backends: candidates.backends(local_only),
                            external_local: external && service.external_local,
                            internal_local: !external && service.internal_local,
                            external,
                        },
                        local_ready: candidates.ready.iter().any(|b| b.local),
                        seen,
                    };
                    rows.insert(Frontend { addr: *ip, port: port.port, proto: port.proto }, row);
                }
            }
        }
    }
    rows
}

/// Backends of one port in one family.
struct Candidates {
    ready: BTreeSet<Backend>,
    /// Going away, still serving.
    draining: BTreeSet<Backend>,
}

impl Candidates {
    fn of(port: &Port, slices: &[Arc<Slice>], v4: bool) -> Candidates {
        let mut candidates = Candidates { ready: BTreeSet::new(), draining: BTreeSet::new() };
        for slice in slices {
            let Some(target) = slice.ports.iter().find(|p| p.name == port.name && p.proto == port.proto) else {
                continue;
            };
            for e in slice.endpoints.iter().filter(|e| e.address.is_ipv4() == v4) {
                let backend = Backend { addr: (e.address, target.port).into(), local: e.local };
                if e.ready {
                    candidates.ready.insert(backend);
                } else if e.draining {
                    candidates.draining.insert(backend);
                }
            }
        }
        // An endpoint may stand in two slices while it moves between them.
        candidates.draining.retain(|b| !candidates.ready.contains(b));
        candidates
    }

    /// KEP-1669: draining backends serve when no ready one can, judged among the local ones for local traffic policies.
    ///
    /// The datapath has one list per row, so that with a local policy a draining local backend may also get connections
    /// of pods of this node while ready ones exist elsewhere; it still serves them.
    fn backends(&self, local_only: bool) -> Vec<Backend> {
        let all = if self.ready.is_empty() { &self.draining } else { &self.ready };
        let mut chosen = all.clone();
        if local_only && !self.ready.iter().any(|b| b.local) {
            chosen.extend(self.draining.iter().filter(|b| b.local));
        }
        chosen.into_iter().collect()
    }
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value, reason = "callers write literals")]
mod tests {
    use super::*;
    use crate::intent::Read as _;
    use crate::intent::{service, slice};
    use std::fmt::Write as _;

    const BOTH: Families = Families { v4: true, v6: true };

    struct World {
        c: Controller,
    }

    impl World {
        fn new() -> World {
            let (services, slices, lb) = (Shared::default(), Shared::default(), Shared::default());
            World { c: Controller::new(&services, &slices, &lb, BOTH) }
        }

        fn service(&mut self, name: &str, spec: serde_json::Value, ingress: &[&str]) {
            let key = Key::new("d", name);
            let ingress: Vec<_> = ingress.iter().map(|ip| serde_json::json!({"ip": ip})).collect();
            let object = serde_json::json!({"spec": spec, "status": {"loadBalancer": {"ingress": ingress}}});
            let row = service::Reader.read(&key, serde_json::from_value(object).unwrap()).unwrap();
            match row {
                Some((k, v)) => self.c.services.set(k, v),
                None => self.c.services.delete(&key),
            };
            self.c.update(&BTreeSet::from([key]));
        }

        fn slice(&mut self, service: &str, name: &str, port: u16, endpoints: serde_json::Value) {
            let object = serde_json::json!({
                "metadata": {"labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4",
                "endpoints": endpoints, "ports": [{"name": "http", "port": port, "protocol": "TCP"}]});
            let reader = slice::Reader { node: "n1".into() };
            let (k, v) = reader.read(&Key::new("d", name), serde_json::from_value(object).unwrap()).unwrap().unwrap();
            self.c.slices.set(k, v);
            self.c.update(&BTreeSet::from([Key::new("d", service)]));
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
                    let backends: Vec<String> =
                        r.lb.backends.iter().map(|b| format!("{}{}", b.addr, if b.local { "*" } else { "" })).collect();
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
            serde_json::json!([
                ep("10.1.2.2", "n2", "ready"),
                ep("10.1.1.2", "n1", "ready"),
                ep("10.1.1.3", "n1", "no")
            ]),
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
            (
                vec![ep("10.1.1.2", "n1", "draining"), ep("10.1.2.2", "n2", "ready")],
                "xE",
                "10.1.1.2:8080* 10.1.2.2:8080",
            ),
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

    #[test]
    fn changes_name_the_services_to_look_at() {
        let mut w = World::new();
        w.service("web", spec(serde_json::json!({})), &[]);
        let slice = SliceKey { service: Key::new("d", "api"), name: "api-1".into() };
        let keys = w.c.keys(Changes::Keys(vec![Key::new("d", "web")]), Changes::Keys(vec![slice]));
        assert_eq!(keys, BTreeSet::from([Key::new("d", "web"), Key::new("d", "api")]));
        assert_eq!(w.c.keys(Changes::Reset, Changes::Keys(vec![])), BTreeSet::from([Key::new("d", "web")]));
    }

    #[test]
    fn the_output_is_complete_when_both_inputs_are() {
        let mut w = World::new();
        w.c.services.mark_synced();
        w.c.update(&BTreeSet::new());
        assert!(!w.c.lb.synced());
        w.c.slices.mark_synced();
        w.c.update(&BTreeSet::new());
        assert!(w.c.lb.synced());
    }
}
