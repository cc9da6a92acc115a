//! Services that have backends in other clusters.

use super::*;
use crate::control::encryption::Mode;
use crate::intent::slice::{SliceEndpoint, SlicePort};
use causeway_datapath_loader::Proto;
use causeway_mesh_remote::RemoteInfo;
use causeway_mesh_schema::{ClusterConfig, ClusterName, Origin};
use std::time::{Duration, Instant};

const GLOBAL: (&str, &str) = ("service.cilium.io/global", "true");
const HTTP: (&str, u16, Proto) = ("http", 8080, Proto::Tcp);

fn id(n: u32) -> ClusterId {
    ClusterId::try_from(n).unwrap()
}

fn slice_of(ports: &[(&str, u16, Proto)], endpoints: &[(&str, &str)]) -> Slice {
    let port =
        |(name, port, proto): &(&str, u16, Proto)| SlicePort { name: (*name).into(), port: *port, proto: *proto };
    let endpoint = |(ip, state): &(&str, &str)| SliceEndpoint {
        address: ip.parse().unwrap(),
        ready: *state == "ready",
        draining: *state == "draining",
        local: false,
    };
    Slice {
        ports: ports.iter().map(port).collect(),
        endpoints: endpoints.iter().map(endpoint).collect(),
        seen: Stamp::now(),
    }
}

impl World {
    /// Tells the controller what changed, as the shell does.
    fn tell(&mut self, changed: Changed) -> usize {
        let keys = self.c.keys(Changed { synced: self.c.inputs.synced(), ..changed });
        let looked_at = keys.len();
        self.c.update(keys);
        looked_at
    }

    fn offer(&mut self, service: &str, cluster: u32, slices: Vec<Slice>) {
        self.offer_if(service, cluster, true, slices);
    }

    fn offer_if(&mut self, service: &str, cluster: u32, shared: bool, slices: Vec<Slice>) {
        let key = OfferKey { service: Key::new("d", service), cluster: id(cluster), slice: "".into() };
        if slices.is_empty() {
            self.c.inputs.offers.delete(&key);
        } else {
            self.c.inputs.offers.set(
                key.clone(),
                Offer { shared, slices: slices.into_iter().map(Arc::new).collect(), foreign: Box::default() },
            );
        }
        self.tell(Changed { offers: Changes::Keys(vec![key]), ..nothing() });
    }

    fn stage(&mut self, cluster: u32, stage: Stage) -> usize {
        let origin =
            Origin { name: ClusterName::parse(&format!("c{cluster}")).unwrap(), id: id(cluster), scale: Scale::C255 };
        let info = Arc::new(RemoteInfo { origin, config: ClusterConfig::default() });
        self.c.inputs.clusters.set(id(cluster), RemoteCluster { info, stage });
        self.tell(Changed { clusters: Changes::Keys(vec![id(cluster)]), ..nothing() })
    }

    fn health(&mut self, addr: &str, alive: Option<bool>) -> usize {
        let target = Target { addr: addr.parse().unwrap(), proto: Proto::Tcp };
        match alive {
            Some(alive) => self.c.inputs.health.set(target, Health { alive, reason: "".into() }),
            None => self.c.inputs.health.delete(&target),
        };
        self.tell(Changed { health: Changes::Keys(vec![target]), ..nothing() })
    }

    /// As [`World::new`], with encryption and these modes of other clusters.
    fn encrypting(modes: &str) -> World {
        let mut w = World::new();
        w.c = w.c.encrypting(Modes::parse(Mode::Required, modes).unwrap(), &Shared::default());
        w
    }

    /// Ranges come or go. Gives how many Services were looked at.
    fn guard(&mut self, ranges: &[&str], on: bool) -> usize {
        let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        for range in &ranges {
            if on {
                self.c.inputs.guarded.set(*range, ())
            } else {
                self.c.inputs.guarded.delete(range)
            };
        }
        self.tell(Changed { guarded: Changes::Keys(ranges), ..nothing() })
    }

    /// What the prober is to watch; `!` where proof is wanted.
    fn watched(&self) -> String {
        let one = |(t, w): (&Target, &Arc<Watched>)| {
            let Target { addr, proto } = t;
            format!("{addr}/{proto}{}", if w.proof { "!" } else { "" })
        };
        self.c.targets.read(|t| t.iter().map(one).collect::<Vec<_>>().join(" "))
    }

    fn backends(&self, frontend: &str) -> String {
        let table = self.table();
        let row = table.lines().find(|l| l.starts_with(frontend)).unwrap();
        row.split_once("] ").unwrap().1.trim().to_owned()
    }
}

fn local(w: &mut World, state: &str) {
    w.slice("web", "web-1", 8080, serde_json::json!([ep("10.1.1.2", "n1", state), ep("10.1.2.2", "n2", state)]));
}

const LOCAL: &str = "10.1.1.2:8080* 10.1.2.2:8080";
const BOTH_CLUSTERS: &str = "10.1.1.2:8080* 10.1.2.2:8080 10.2.0.2:8080@2";

#[test]
fn the_truth_table_of_global_and_shared() {
    type Case<'a> = (&'a [(&'a str, &'a str)], bool, &'a str);
    let table: [Case<'_>; 6] = [
        (&[], true, LOCAL),
        (&[], false, LOCAL),
        (&[("service.cilium.io/global", "false")], true, LOCAL),
        (&[GLOBAL], false, LOCAL),
        (&[GLOBAL], true, BOTH_CLUSTERS),
        // What we share is nothing to us.
        (&[GLOBAL, ("service.cilium.io/shared", "false")], true, BOTH_CLUSTERS),
    ];
    for (annotations, shared, want) in table {
        let mut w = World::new();
        w.annotated("web", annotations, spec(serde_json::json!({})), &[]);
        local(&mut w, "ready");
        w.offer_if("web", 2, shared, vec![slice_of(&[HTTP], &[("10.2.0.2", "ready")])]);
        assert_eq!(w.backends("10.96.0.1"), want, "{annotations:?}, shared {shared}");
        w.annotated("web", &[], spec(serde_json::json!({})), &[]);
        assert_eq!(w.backends("10.96.0.1"), LOCAL, "no longer global");
        assert_eq!(w.watched(), "");
    }
}

#[test]
fn a_service_of_other_clusters_alone_is_no_row() {
    let mut w = World::new();
    w.offer("web", 2, vec![slice_of(&[HTTP], &[("10.2.0.2", "ready")])]);
    check(&w, "");
    w.annotated("web", &[GLOBAL], spec(serde_json::json!({})), &["192.0.2.1"]);
    check(
        &w,
        "10.96.0.1:80/TCP web ClusterIP [] 10.2.0.2:8080@2
         192.0.2.1:80/TCP web LoadBalancer [x] 10.2.0.2:8080@2",
    );
    w.offer("web", 2, vec![]);
    check(
        &w,
        "10.96.0.1:80/TCP web ClusterIP []
         192.0.2.1:80/TCP web LoadBalancer [x]",
    );
}

#[test]
fn affinities_flip_and_flip_back() {
    for (affinity, all, without_local, without_remote) in [
        ("none", BOTH_CLUSTERS, "10.2.0.2:8080@2", LOCAL),
        ("local", LOCAL, "10.2.0.2:8080@2", LOCAL),
        ("remote", "10.2.0.2:8080@2", "10.2.0.2:8080@2", LOCAL),
    ] {
        let mut w = World::new();
        w.annotated("web", &[GLOBAL, ("service.cilium.io/affinity", affinity)], spec(serde_json::json!({})), &[]);
        local(&mut w, "ready");
        w.offer("web", 2, vec![slice_of(&[HTTP], &[("10.2.0.2", "ready")])]);
        assert_eq!(w.backends("10.96.0.1"), all, "{affinity}");
        for state in ["no", "draining"] {
            local(&mut w, state);
            assert_eq!(w.backends("10.96.0.1"), without_local, "{affinity}, local ones {state}");
        }
        local(&mut w, "ready");
        assert_eq!(w.backends("10.96.0.1"), all, "{affinity}");
        w.health("10.2.0.2:8080", Some(false));
        assert_eq!(w.backends("10.96.0.1"), without_remote, "{affinity}, the remote one is dead");
        local(&mut w, "no");
        assert_eq!(w.backends("10.96.0.1"), "10.2.0.2:8080@2", "{affinity}, nobody else is left");
        local(&mut w, "ready");
        w.health("10.2.0.2:8080", None);
        assert_eq!(w.backends("10.96.0.1"), all, "{affinity}");
    }
}

#[test]
fn stages_and_health_look_only_at_who_is_concerned() {
    let mut w = World::new();
    w.annotated("web", &[GLOBAL], spec(serde_json::json!({})), &[]);
    w.annotated("api", &[GLOBAL], spec(serde_json::json!({"clusterIPs": ["10.96.0.2"]})), &[]);
    w.service("own", spec(serde_json::json!({"clusterIPs": ["10.96.0.3"]})), &[]);
    w.offer("web", 2, vec![slice_of(&[HTTP], &[("10.2.0.2", "ready")])]);
    w.offer("web", 3, vec![slice_of(&[HTTP], &[("10.3.0.2", "ready")])]);
    w.offer("api", 2, vec![slice_of(&[HTTP], &[("10.2.0.2", "ready"), ("10.2.0.3", "draining")])]);
    w.offer("own", 2, vec![slice_of(&[HTTP], &[("10.2.0.9", "ready")])]);
    assert_eq!(w.watched(), "10.2.0.2:8080/TCP 10.2.0.3:8080/TCP 10.3.0.2:8080/TCP");
    assert_eq!(w.stage(2, Stage::Fresh), 2, "a cluster that is new");
    assert_eq!(w.stage(2, Stage::Fresh), 0, "nothing new");
    assert_eq!(w.stage(3, Stage::DePreferred), 1);
    assert_eq!(w.watched(), "10.2.0.2:8080/TCP 10.2.0.3:8080/TCP 10.3.0.2:8080/TCP!");
    assert_eq!(w.backends("10.96.0.1"), "10.2.0.2:8080@2");
    assert_eq!(w.stage(2, Stage::DePreferred), 2);
    assert_eq!(w.backends("10.96.0.1"), "10.2.0.2:8080@2 10.3.0.2:8080@3");
    assert_eq!(w.stage(2, Stage::Probed), 2);
    assert_eq!(w.backends("10.96.0.1"), "10.3.0.2:8080@3");
    assert_eq!(w.backends("10.96.0.2"), "10.2.0.2:8080@2", "nobody else is left");
    assert_eq!(w.health("10.2.0.2:8080", Some(true)), 2);
    assert_eq!(w.backends("10.96.0.1"), "10.2.0.2:8080@2 10.3.0.2:8080@3");
    assert_eq!(w.health("10.3.0.2:8080", Some(false)), 1);
    assert_eq!(w.backends("10.96.0.1"), "10.2.0.2:8080@2");
    assert_eq!(w.health("10.2.0.9:8080", Some(false)), 0, "not in use");
    assert_eq!(w.stage(3, Stage::Revoked), 1);
    w.offer("web", 3, vec![]);
    assert_eq!(w.watched(), "10.2.0.2:8080/TCP! 10.2.0.3:8080/TCP!");
}

#[test]
fn only_what_may_serve_is_probed() {
    let mut w = World::new();
    let local_first = [GLOBAL, ("service.cilium.io/affinity", "local")];
    w.annotated("web", &local_first, spec(serde_json::json!({})), &[]);
    w.offer("web", 2, vec![slice_of(&[HTTP], &[("10.2.0.2", "ready"), ("10.2.0.3", "no"), ("fd00:2::2", "ready")])]);
    // The Service has no IPv6 address.
    assert_eq!(w.watched(), "10.2.0.2:8080/TCP");
    local(&mut w, "ready");
    assert_eq!(w.watched(), "", "local ones serve");
    local(&mut w, "draining");
    assert_eq!(w.watched(), "10.2.0.2:8080/TCP");
    w.annotated("web", &[GLOBAL], spec(serde_json::json!({"internalTrafficPolicy": "Local"})), &[]);
    assert_eq!(w.watched(), "", "everything stays on the node");
    w.service("web", spec(serde_json::json!({"clusterIPs": ["None"]})), &[]);
    assert_eq!(w.watched(), "");
}

#[test]
fn traffic_that_stays_on_the_node() {
    let policies = serde_json::json!({"externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"});
    // affinity, local ones: ClusterIP; LoadBalancer.
    let table = [
        ("none", "ready", LOCAL, BOTH_CLUSTERS, "Er"),
        ("local", "ready", LOCAL, LOCAL, "Er"),
        // The one of this node serves what comes from outside, which may go nowhere else.
        ("remote", "ready", LOCAL, "10.1.1.2:8080* 10.2.0.2:8080@2", "Er"),
        ("none", "draining", LOCAL, "10.1.1.2:8080* 10.2.0.2:8080@2", "E"),
        ("none", "no", "", "10.2.0.2:8080@2", "E"),
    ];
    for (affinity, state, internal, external, flags) in table {
        let mut w = World::new();
        w.annotated("web", &[GLOBAL, ("service.cilium.io/affinity", affinity)], spec(policies.clone()), &["192.0.2.1"]);
        w.offer("web", 2, vec![slice_of(&[HTTP], &[("10.2.0.2", "ready")])]);
        local(&mut w, state);
        assert_eq!(w.backends("10.96.0.1"), internal, "{affinity} {state}");
        assert_eq!(w.backends("192.0.2.1"), external, "{affinity} {state}");
        let row = format!("192.0.2.1:80/TCP web LoadBalancer [x{flags}]");
        assert!(w.table().contains(&row), "a node announces only what it has itself: {}", w.table());
    }
}

#[test]
fn ports_match_by_name_and_protocol_and_families_stay_apart() {
    let mut w = World::new();
    let ports = serde_json::json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let spec = |ports: serde_json::Value| serde_json::json!({"type": "ClusterIP", "clusterIPs": ["10.96.0.1", "fd00:96::1"], "ports": ports});
    w.annotated("web", &[GLOBAL], spec(ports), &[]);
    let both = [("10.2.0.2", "ready"), ("fd00:2::2", "ready")];
    w.offer(
        "web",
        2,
        vec![
            slice_of(&[HTTP, ("dns", 5353, Proto::Udp)], &both),
            slice_of(&[("http", 9090, Proto::Tcp), ("dns", 5354, Proto::Tcp)], &[("10.2.0.3", "ready")]),
            slice_of(&[("", 8081, Proto::Tcp)], &[("10.2.0.4", "ready")]),
        ],
    );
    check(
        &w,
        "10.96.0.1:53/UDP web ClusterIP [] 10.2.0.2:5353@2
         10.96.0.1:80/TCP web ClusterIP [] 10.2.0.2:8080@2 10.2.0.3:9090@2
         [fd00:96::1]:53/UDP web ClusterIP [] [fd00:2::2]:5353@2
         [fd00:96::1]:80/TCP web ClusterIP [] [fd00:2::2]:8080@2",
    );
    assert_eq!(
        w.watched(),
        "10.2.0.2:5353/UDP 10.2.0.2:8080/TCP 10.2.0.3:9090/TCP [fd00:2::2]:5353/UDP [fd00:2::2]:8080/TCP"
    );
    w.annotated("web", &[GLOBAL], spec(serde_json::json!([{"port": 80}])), &[]);
    assert_eq!(w.backends("10.96.0.1:80"), "10.2.0.4:8081@2", "unnamed to unnamed");
}

#[test]
fn addresses_that_the_maps_cannot_hold_are_left_out() {
    let mut w = World::new();
    let v6 = ["::ffff:10.2.0.2", "fd00:2::2"];
    w.annotated("web", &[GLOBAL], spec(serde_json::json!({"clusterIPs": ["fd00:96::1"]})), &[]);
    w.offer("web", 2, vec![slice_of(&[HTTP], &v6.map(|ip| (ip, "ready")))]);
    assert_eq!(w.backends("[fd00:96::1]"), "[fd00:2::2]:8080@2");
    w.offer("web", 2, vec![slice_of(&[("http", 0, Proto::Tcp)], &[("fd00:2::2", "ready")])]);
    assert_eq!(w.backends("[fd00:96::1]"), "");
}

#[test]
fn addresses_that_are_not_the_clusters_own_serve_nobody() {
    let mut w = World::new();
    w.annotated("web", &[GLOBAL], spec(serde_json::json!({})), &[]);
    let slices = vec![slice_of(&[HTTP], &[("10.1.0.9", "ready"), ("10.2.0.2", "ready"), ("10.3.0.2", "draining")])];
    w.offer("web", 2, slices);
    assert_eq!(w.backends("10.96.0.1"), "10.1.0.9:8080@2 10.2.0.2:8080@2");
    let key = OfferKey { service: Key::new("d", "web"), cluster: id(2), slice: "".into() };
    let mut offer = Offer::clone(&w.c.inputs.offers.get(&key).unwrap());
    offer.foreign = [("10.1.0.9".parse().unwrap(), 0), ("10.3.0.2".parse().unwrap(), 3)].into();
    w.c.inputs.offers.set(key.clone(), offer);
    w.tell(Changed { offers: Changes::Keys(vec![key]), ..nothing() });
    assert_eq!(w.backends("10.96.0.1"), "10.2.0.2:8080@2");
    assert_eq!(w.watched(), "10.2.0.2:8080/TCP", "nor are they probed");
}

#[test]
fn draining_is_judged_over_all_slices_of_a_cluster() {
    let mut w = World::new();
    w.annotated("web", &[GLOBAL], spec(serde_json::json!({})), &[]);
    let first = slice_of(&[HTTP], &[("10.2.0.2", "draining"), ("10.2.0.3", "draining")]);
    w.offer("web", 2, vec![first.clone()]);
    assert_eq!(w.backends("10.96.0.1"), "10.2.0.2:8080@2 10.2.0.3:8080@2");
    w.offer("web", 2, vec![first, slice_of(&[HTTP], &[("10.2.0.2", "ready")])]);
    assert_eq!(w.backends("10.96.0.1"), "10.2.0.2:8080@2");
}

#[test]
fn the_newest_slice_of_any_cluster_is_the_rows_stamp() {
    let mut w = World::new();
    w.annotated("web", &[GLOBAL], spec(serde_json::json!({})), &[]);
    local(&mut w, "ready");
    let newest = Instant::now() + Duration::from_secs(60);
    let slice = Slice { seen: Stamp(newest), ..slice_of(&[HTTP], &[("10.2.0.2", "ready")]) };
    w.offer("web", 2, vec![slice]);
    let seen = w.c.lb.read(|t| t.iter().map(|(_, row)| row.seen.unwrap().0).collect::<Vec<_>>());
    assert_eq!(seen, [newest]);
}

#[test]
fn what_an_earlier_process_left_stays_until_the_mesh_has_spoken() {
    let mut w = World::unsynced();
    let old = |ip: &str| Frontend { addr: ip.parse().unwrap(), port: 80, proto: Proto::Tcp };
    w.c = w.c.adopting([old("10.96.0.1"), old("10.96.0.3")]);
    w.annotated("web", &[GLOBAL], spec(serde_json::json!({})), &[]);
    w.annotated("new", &[GLOBAL], spec(serde_json::json!({"clusterIPs": ["10.96.0.2"]})), &[]);
    w.service("own", spec(serde_json::json!({"clusterIPs": ["10.96.0.3"]})), &[]);
    local(&mut w, "ready");
    w.c.inputs.services.mark_synced();
    w.c.inputs.slices.mark_synced();
    w.tell(nothing());
    check(
        &w,
        "10.96.0.2:80/TCP new ClusterIP []
         10.96.0.3:80/TCP own ClusterIP []",
    );
    assert!(!w.c.lb.synced(), "nothing is pruned");
    w.offer("web", 2, vec![slice_of(&[HTTP], &[("10.2.0.2", "ready")])]);
    assert!(!w.table().contains("web"), "other clusters may still come");
    assert_eq!(w.tell(nothing()), 0, "who waits is not looked at for nothing");
    w.c.inputs.offers.mark_synced();
    w.c.inputs.guarded.mark_synced();
    assert_eq!(w.tell(nothing()), 1);
    assert_eq!(w.backends("10.96.0.1"), BOTH_CLUSTERS);
    assert!(w.c.lb.synced());
}

/// 2,000 random changes: what stands in the tables afterwards is what a controller makes that sees only the end.
#[test]
fn changes_one_by_one_and_the_end_alone_give_the_same() {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};
    const STAGES: [Stage; 5] = [Stage::Fresh, Stage::Silent, Stage::DePreferred, Stage::Probed, Stage::Revoked];
    for seed in 0..20 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut w = World::new();
        for _ in 0..100 {
            let n: u8 = rng.random_range(0..4);
            let name = format!("s{n}");
            match rng.random_range(0..5) {
                0 => {
                    let affinity = ["none", "local", "remote"][rng.random_range(0..3)];
                    let annotations = [("service.cilium.io/affinity", affinity), GLOBAL];
                    let ip = if rng.random_bool(0.1) { "None".into() } else { format!("10.96.0.{n}") };
                    let kept = if rng.random_bool(0.8) { 2 } else { 1 };
                    w.annotated(&name, &annotations[..kept], spec(serde_json::json!({"clusterIPs": [ip]})), &[]);
                }
                1 => {
                    let state = ["ready", "draining", "no"][rng.random_range(0..3)];
                    w.slice(
                        &name,
                        &format!("{name}-1"),
                        8080,
                        serde_json::json!([ep(&format!("10.1.0.{n}"), "n2", state)]),
                    );
                }
                2 => {
                    let cluster = rng.random_range(2..5);
                    let state = ["ready", "draining", "no"][rng.random_range(0..3)];
                    let ip = format!("10.{cluster}.0.{}", rng.random_range(0..3));
                    let slices = if rng.random_bool(0.7) { vec![slice_of(&[HTTP], &[(&ip, state)])] } else { vec![] };
                    w.offer_if(&name, cluster, rng.random_bool(0.9), slices);
                }
                3 => {
                    w.stage(rng.random_range(2..5), STAGES[rng.random_range(0..5)]);
                }
                _ => {
                    let ip = format!("10.{}.0.{}:8080", rng.random_range(2..5), rng.random_range(0..3));
                    w.health(&ip, [None, Some(true), Some(false)][rng.random_range(0..3)]);
                }
            }
        }
        let mut fresh = World { c: Controller::new(w.c.inputs.clone(), &Shared::default(), BOTH) };
        fresh.synced();
        fresh.tell(Changed { services: Changes::Reset, clusters: Changes::Reset, ..nothing() });
        assert_eq!(w.table(), fresh.table(), "seed {seed}");
        assert_eq!(w.watched(), fresh.watched(), "seed {seed}");
    }
}

#[test]
fn with_encryption_backends_wait_for_a_guarded_range() {
    let mut w = World::encrypting("c3=off,*=required");
    w.stage(2, Stage::Fresh);
    w.stage(3, Stage::Fresh);
    w.annotated("web", &[GLOBAL], spec(serde_json::json!({})), &[]);
    local(&mut w, "ready");
    let frontend = "10.96.0.1:80/TCP";
    w.offer("web", 2, vec![slice_of(&[HTTP], &[("10.2.0.2", "ready"), ("10.2.1.2", "ready")])]);
    assert_eq!(w.backends(frontend), LOCAL, "where cluster 2 is, nobody knows yet");
    let withheld = |w: &World| w.c.withheld.get(&Key::new("d", "web")).map(|addresses| addresses.len());
    assert_eq!(withheld(&w), Some(2));
    assert_eq!(w.watched(), "", "and nobody is to probe");
    assert_eq!(w.guard(&["10.9.0.0/16"], true), 1, "those who wait look again");
    assert_eq!(w.backends(frontend), LOCAL);
    w.guard(&["10.2.0.0/24"], true);
    assert_eq!((w.backends(frontend).as_str(), withheld(&w)), (BOTH_CLUSTERS, Some(1)));
    w.guard(&["10.0.0.0/8"], true);
    assert_eq!(w.backends(frontend), format!("{BOTH_CLUSTERS} 10.2.1.2:8080@2"));
    assert_eq!(withheld(&w), None);
    assert_eq!(w.guard(&["10.3.0.0/24"], true), 0, "nobody waits any more");
    w.guard(&["10.0.0.0/8"], false);
    assert_eq!(w.backends(frontend), BOTH_CLUSTERS);
    w.offer("web", 2, vec![]);
    w.offer("web", 3, vec![slice_of(&[HTTP], &[("10.4.0.2", "ready")])]);
    assert_eq!(w.backends(frontend), format!("{LOCAL} 10.4.0.2:8080@3"), "its mode is off");
}

#[test]
fn after_a_restart_what_is_guarded_is_waited_for() {
    let mut w = World::unsynced();
    w.c = w.c.encrypting(Modes::parse(Mode::Required, "").unwrap(), &Shared::default());
    w.c = w.c.adopting([Frontend { addr: "10.96.0.1".parse().unwrap(), port: 80, proto: Proto::Tcp }]);
    w.annotated("web", &[GLOBAL], spec(serde_json::json!({})), &[]);
    w.c.inputs.services.mark_synced();
    w.c.inputs.slices.mark_synced();
    w.c.inputs.offers.mark_synced();
    w.stage(2, Stage::Fresh);
    w.offer("web", 2, vec![slice_of(&[HTTP], &[("10.2.0.2", "ready")])]);
    check(&w, "");
    assert!(!w.c.lb.synced(), "what is in the datapath stays");
    w.guard(&["10.2.0.0/24"], true);
    w.c.inputs.guarded.mark_synced();
    w.synced();
    assert_eq!(w.backends("10.96.0.1:80/TCP"), "10.2.0.2:8080@2");
    assert!(w.c.lb.synced());
}
