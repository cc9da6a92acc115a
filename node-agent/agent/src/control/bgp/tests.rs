//! Manifests in, routes out.

use super::*;
use crate::intent::node::NodeAddress;
use crate::intent::service::Port;
use causeway_datapath_loader::{Backend, LbService, Proto};
use causeway_k8s::{CiliumBGPAdvertisement, CiliumBGPNodeConfig, CiliumBGPPeerConfig};
use serde_json::{Value, json};

fn object<K: serde::de::DeserializeOwned>(name: &str, labels: &Value, spec: &Value) -> K {
    let kind = std::any::type_name::<K>().rsplit("::").next().unwrap();
    let meta = json!({"name": name, "labels": labels});
    serde_json::from_value(json!({"apiVersion": "cilium.io/v2", "kind": kind, "metadata": meta, "spec": spec})).unwrap()
}

struct World {
    config: Option<OwnConfig>,
    node: Node,
    peer_configs: BTreeMap<String, Arc<PeerConfig>>,
    advertisements: Vec<Arc<Advertisement>>,
    secrets: BTreeMap<String, Arc<Secret>>,
    services: BTreeMap<Key, Facts>,
}

impl World {
    fn new(peers: &Value) -> World {
        let spec = json!({"bgpInstances": [{"name": "rack", "localASN": 65010, "peers": peers}]});
        let object: CiliumBGPNodeConfig = object("n1", &json!({}), &spec);
        World {
            config: Some(OwnConfig { config: (&object).try_into().unwrap(), generation: Some(1) }),
            node: node(&["10.0.0.11", "fd00:10::11"]),
            peer_configs: BTreeMap::new(),
            advertisements: Vec::new(),
            secrets: BTreeMap::new(),
            services: BTreeMap::new(),
        }
    }

    fn peer_config(&mut self, name: &str, spec: &Value) {
        let object: CiliumBGPPeerConfig = object(name, &json!({}), spec);
        self.peer_configs.insert(name.into(), Arc::new((&object).try_into().unwrap()));
    }

    fn advertisement(&mut self, name: &str, entries: &Value) {
        let object: CiliumBGPAdvertisement =
            object(name, &json!({"advertise": "bgp"}), &json!({"advertisements": entries}));
        self.advertisements.push(Arc::new((&object).try_into().unwrap()));
    }

    fn service(&mut self, name: &str, served: &[(AddressKind, &str)], change: impl FnOnce(&mut Facts)) {
        let mut facts = Facts {
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            our_class: true,
            external_local: false,
            internal_local: false,
            served: served.iter().map(|(k, ip)| (*k, ip.parse().unwrap())).collect(),
        };
        change(&mut facts);
        self.services.insert(Key::new("shop", name), facts);
    }

    fn plan(&self) -> Plan {
        plan(&Inputs {
            config: self.config.as_ref(),
            node: &self.node,
            peer_configs: self.peer_configs.clone(),
            advertisements: self.advertisements.clone(),
            secrets: self.secrets.clone(),
            services: &self.services,
        })
    }

    /// `peer: prefix communities local-pref`, a line each.
    fn routes(&self) -> Vec<String> {
        let plan = self.plan();
        let mut lines = Vec::new();
        for ((_, peer), set) in &plan.routes {
            for (prefix, a) in set.iter() {
                let mut line = format!("{peer}: {prefix}");
                for c in &a.communities {
                    line += &format!(" {c}");
                }
                if let Some(pref) = a.local_pref {
                    line += &format!(" pref {pref}");
                }
                lines.push(line);
            }
        }
        lines
    }
}

fn node(ips: &[&str]) -> Node {
    Node {
        uid: String::new(),
        labels: BTreeMap::new(),
        pod_cidrs: ["10.1.1.0/24", "fd00:1:1::/64"].iter().map(|c| c.parse().unwrap()).collect(),
        addresses: ips.iter().map(|ip| NodeAddress { ip: ip.parse().unwrap(), internal: true }).collect(),
        provider_id: None,
        boot_id: None,
        taints: Box::default(),
    }
}

fn tor(name: &str, address: &str, config: &str) -> Value {
    json!({"name": name, "peerAddress": address, "peerASN": 65101, "peerConfigRef": {"name": config}})
}

fn family(afi: &str) -> Value {
    json!({"families": [{"afi": afi, "safi": "unicast", "advertisements": {"matchLabels": {"advertise": "bgp"}}}]})
}

#[test]
fn each_peer_is_told_the_prefixes_of_its_families() {
    let mut w = World::new(&json!([tor("tor1-v4", "172.16.1.1", "v4"), tor("tor1-v6", "fd00:16:1::1", "v6")]));
    w.peer_config("v4", &family("ipv4"));
    w.peer_config("v6", &family("ipv6"));
    w.advertisement("pods", &json!([{"advertisementType": "PodCIDR"}]));
    let any = json!({"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["y"]}]});
    w.advertisement(
        "lb",
        &json!([{"advertisementType": "Service", "service": {"addresses": ["LoadBalancerIP"]}, "selector": any}]),
    );
    w.service(
        "web",
        &[
            (AddressKind::LoadBalancer, "192.0.2.1"),
            (AddressKind::LoadBalancer, "2001:db8:2::1"),
            (AddressKind::ClusterIp, "10.96.0.9"),
        ],
        |_| {},
    );
    assert_eq!(
        w.routes(),
        ["tor1-v4: 10.1.1.0/24", "tor1-v4: 192.0.2.1/32", "tor1-v6: 2001:db8:2::1/128", "tor1-v6: fd00:1:1::/64"]
    );
    let plan = w.plan();
    assert_eq!(plan.problems, []);
    assert_eq!(plan.instances["rack"].router_id, Ipv4Addr::new(10, 0, 0, 11));
    assert_eq!(plan.instances["rack"].peers[0].families, [WireFamily::IPV4_UNICAST]);
    assert_eq!(plan.origins[&"192.0.2.1/32".parse().unwrap()], "Service shop/web");
}

#[test]
fn selectors_choose_services() {
    let cases = [
        (Value::Null, 0),
        (json!({}), 2),
        (json!({"matchLabels": {"app": "web"}}), 1),
        (json!({"matchLabels": {"io.kubernetes.service.name": "api"}}), 1),
        (json!({"matchLabels": {"io.kubernetes.service.namespace": "shop"}}), 2),
        (json!({"matchLabels": {"io.kubernetes.service.namespace": "bank"}}), 0),
    ];
    for (selector, count) in cases {
        let mut w = World::new(&json!([tor("t", "172.16.1.1", "v4")]));
        w.peer_config("v4", &family("ipv4"));
        let mut entry = json!({"advertisementType": "Service", "service": {"addresses": ["LoadBalancerIP"]}});
        if !selector.is_null() {
            entry["selector"] = selector.clone();
        }
        w.advertisement("lb", &json!([entry]));
        w.service("web", &[(AddressKind::LoadBalancer, "192.0.2.1")], |_| {});
        w.service("api", &[(AddressKind::LoadBalancer, "192.0.2.2")], |_| {});
        assert_eq!(w.routes().len(), count, "{selector}");
    }
}

#[test]
fn address_types_class_and_aggregation() {
    let mut w = World::new(&json!([tor("t", "172.16.1.1", "v4")]));
    w.peer_config("v4", &family("ipv4"));
    let service = json!({"addresses": ["LoadBalancerIP", "ExternalIP"], "aggregationLengthIPv4": 24});
    w.advertisement("lb", &json!([{"advertisementType": "Service", "service": service, "selector": {}}]));
    let all = |n: u8| {
        [
            (AddressKind::LoadBalancer, format!("192.0.2.{n}")),
            (AddressKind::ExternalIp, format!("198.51.100.{n}")),
            (AddressKind::ClusterIp, format!("10.96.0.{n}")),
        ]
    };
    let mut add = |name: &str, n: u8, change: fn(&mut Facts)| {
        let all = all(n);
        w.service(name, &all.each_ref().map(|(k, ip)| (*k, ip.as_str())), change);
    };
    add("plain", 1, |_| {});
    add("local", 2, |f| f.external_local = true);
    add("others", 3, |f| f.our_class = false);
    assert_eq!(w.routes(), ["t: 192.0.2.0/24", "t: 192.0.2.2/32", "t: 198.51.100.0/24", "t: 198.51.100.2/32"]);
}

#[test]
fn overlapping_advertisements_add_up() {
    let mut w = World::new(&json!([tor("t", "172.16.1.1", "v4")]));
    w.peer_config("v4", &family("ipv4"));
    let pods = |communities: Value, pref: u32| json!([{"advertisementType": "PodCIDR", "attributes": {"communities": communities, "localPreference": pref}}]);
    w.advertisement("a", &pods(json!({"standard": ["65000:1"]}), 150));
    w.advertisement("b", &pods(json!({"standard": ["65000:2"], "wellKnown": ["no-export"]}), 120));
    assert_eq!(w.routes(), ["t: 10.1.1.0/24 65000:1 65000:2 65535:65281 pref 150"]);
}

#[test]
fn what_cannot_be_done_is_said_and_the_rest_goes_on() {
    let discover =
        json!({"name": "gw", "autoDiscovery": {"mode": "DefaultGateway", "defaultGateway": {"addressFamily": "ipv4"}}});
    let mut w = World::new(&json!([
        discover,
        tor("a", "172.16.1.1", "none"),
        tor("b", "172.16.2.1", "md5"),
        tor("c", "172.16.3.1", "v4")
    ]));
    w.peer_config("md5", &json!({"authSecretRef": "tor-password"}));
    w.peer_config("v4", &family("ipv4"));
    let plan = w.plan();
    let peers = &plan.instances["rack"].peers;
    assert_eq!(peers.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["b", "c"]);
    assert!(peers[0].md5_password.as_ref().is_some_and(Secret::is_missing), "fails closed");
    let places: Vec<_> = plan.problems.iter().map(|p| p.place.as_str()).collect();
    assert_eq!(places, ["rack/gw", "rack/a", "rack/b"]);
    w.secrets.insert("tor-password".into(), Arc::new(Secret::new("s3")));
    let plan = w.plan();
    assert_eq!(plan.instances["rack"].peers[0].md5_password, Some(Secret::new("s3")));
    assert_eq!(plan.problems.len(), 2);
}

#[test]
fn router_id_of_a_node_without_ipv4() {
    let mut w = World::new(&json!([]));
    w.node = node(&["fd00:10::1:11"]);
    assert_eq!(w.plan().instances["rack"].router_id, Ipv4Addr::new(0, 1, 0, 0x11));
    w.node = node(&[]);
    assert_eq!(w.plan().problems.len(), 1);
}

#[test]
fn no_configuration_no_plan() {
    let mut w = World::new(&json!([]));
    w.config = None;
    assert_eq!(w.plan(), Plan::default());
}

mod served {
    use super::*;

    fn service(external_local: bool, ports: &[u16]) -> Service {
        Service {
            labels: BTreeMap::new(),
            cluster_ips: Box::default(),
            external_ips: Box::default(),
            load_balancer_ips: ["192.0.2.1".parse().unwrap()].into(),
            load_balancer_class: None,
            ports: ports.iter().map(|p| Port { name: "".into(), port: *p, proto: Proto::Tcp }).collect(),
            external_local,
            internal_local: false,
            global: None,
            warning: None,
        }
    }

    /// `backends`: `l` local and ready, `r` remote.
    fn row(owner: &str, backends: &str) -> Option<Arc<LbRow>> {
        let list = backends.chars().map(|c| Backend { addr: "10.1.1.2:80".parse().unwrap(), local: c == 'l' });
        Some(Arc::new(LbRow {
            service: Key::new("d", owner),
            port_name: "".into(),
            kind: AddressKind::LoadBalancer,
            lb: LbService { backends: list.collect(), external: true, ..LbService::default() },
            local_ready: backends.contains('l'),
            remote: None,
            seen: None,
        }))
    }

    #[test]
    fn an_address_is_served_when_it_is_wanted_and_works() {
        let table = [
            // desired, actual, Cluster, Local
            (row("web", "lr"), row("web", "lr"), true, true),
            (row("web", "r"), row("web", "r"), true, false),
            (row("web", "lr"), None, false, false),
            (row("web", "lr"), row("web", ""), false, false),
            (row("web", ""), row("web", "lr"), false, false),
            (row("web", "r"), row("web", "lr"), true, false),
            (row("web", "lr"), row("web", "r"), true, false),
            (row("web", "lr"), row("other", "lr"), false, false),
            (None, row("web", "lr"), false, false),
        ];
        for (i, (desired, actual, cluster, local)) in table.into_iter().enumerate() {
            let rows = Frontends { desired, actual };
            for (external_local, want) in [(false, cluster), (true, local)] {
                let facts = facts(&Key::new("d", "web"), &service(external_local, &[80]), false, |_| rows.clone());
                assert_eq!(!facts.served.is_empty(), want, "case {i}, local {external_local}");
            }
        }
    }

    #[test]
    fn all_ports_must_be_real_and_one_must_serve() {
        let key = Key::new("d", "web");
        let served = |second: Frontends| {
            let rows = move |f: &Frontend| match f.port {
                80 => Frontends { desired: row("web", "l"), actual: row("web", "l") },
                _ => second.clone(),
            };
            !facts(&key, &service(false, &[80, 81]), false, rows).served.is_empty()
        };
        assert!(served(Frontends { desired: row("web", ""), actual: row("web", "") }));
        assert!(!served(Frontends { desired: row("web", "l"), actual: None }));
    }

    #[test]
    fn without_backends_only_if_asked_for() {
        let rows = Frontends { desired: row("web", ""), actual: row("web", "") };
        for idle in [false, true] {
            let facts = facts(&Key::new("d", "web"), &service(false, &[80]), idle, |_| rows.clone());
            assert_eq!(!facts.served.is_empty(), idle);
        }
    }

    #[test]
    fn a_service_without_ports_serves_nothing() {
        let facts = facts(&Key::new("d", "web"), &service(false, &[]), true, |_| Frontends::default());
        assert!(facts.served.is_empty());
    }
}
