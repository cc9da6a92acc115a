//! Two speakers over a virtual link: they find each other, lose each other, and agree in the end.
#![allow(clippy::unwrap_used, reason = "a test stops where it stumbles")]

mod support;

use std::time::Duration;

use causeway_bgp_core::{Community, CoreOptions, Input, RouteAttrs, SessionState};
use support::{INSTANCE, PEER, World, config, prefix, routes};

const PORT: Option<u16> = Some(179);

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn both(world: &mut World, local: [u32; 2], ports: [Option<u16>; 2]) {
    world.feed(0, Input::SetInstance(config(local[0], 1, Some(local[1]), ports[0])));
    world.feed(1, Input::SetInstance(config(local[1], 2, Some(local[0]), ports[1])));
}

fn complete(world: &mut World) {
    for host in [0, 1] {
        world.feed(host, Input::RoutesComplete(INSTANCE.to_owned()));
    }
}

/// Both sides connect and accept at once, so that nearly every start is a collision.
#[test]
fn a_collision_leaves_one_session() {
    let mut flaps = 0;
    for seed in 1..300 {
        let mut world = World::new(seed);
        both(&mut world, [65010, 65101], [PORT, PORT]);
        world.run_until(seconds(20), World::established);
        world.run(seconds(30));
        assert!(world.established(), "seed {seed}");
        for host in [0, 1] {
            assert_eq!(world.hosts[host].open.len(), 1, "seed {seed}: one connection remains");
        }
        flaps += world.status(0).flaps + world.status(1).flaps;
    }
    // One side may see its session up at the moment when the other decides against that connection.
    assert!(flaps < 60, "{flaps} sessions of 598 were lost to a collision");
}

#[test]
fn routes_converge_in_spite_of_cuts() {
    for seed in 1..60 {
        let mut world = World::new(seed);
        both(&mut world, [65010, 65101], [PORT, PORT]);
        complete(&mut world);
        let mut wanted = [routes([]), routes([])];
        for _ in 0..60 {
            match world.dice(6) {
                0 => world.cut(),
                1 => world.partitioned = !world.partitioned,
                _ => {
                    let host = usize::try_from(world.dice(2)).unwrap();
                    for _ in 0..world.dice(40) {
                        let number = u32::try_from(world.dice(200)).unwrap();
                        if world.dice(3) == 0 {
                            wanted[host].remove(&prefix(number));
                        } else {
                            let med = Some(u32::try_from(world.dice(3)).unwrap());
                            wanted[host].insert(prefix(number), RouteAttrs { med, ..RouteAttrs::default() });
                        }
                    }
                    world.tell(host, &wanted[host].clone());
                }
            }
            let pause = Duration::from_millis(world.dice(3000));
            world.run(pause);
        }
        world.partitioned = false;
        world.run(seconds(120));
        assert!(world.established(), "seed {seed}");
        for host in [0, 1] {
            let tap = world.tap(host).expect("a session is up");
            assert!(tap.has(&wanted[host]), "seed {seed}: host {host} told {:?}", tap.rib);
            assert_eq!(tap.needless, 0, "seed {seed}: host {host} said something needless");
            let status = world.status(host);
            assert!(status.in_sync());
            assert_eq!(status.advertised(), wanted[host].len() as u64);
            let heard: u64 = world.status(1 - host).families.iter().map(|family| family.received).sum();
            assert_eq!(heard, wanted[host].len() as u64);
        }
    }
}

#[test]
fn a_restart_with_the_same_routes_withdraws_nothing() {
    let mut world = World::new(7);
    both(&mut world, [65010, 65101], [None, PORT]);
    complete(&mut world);
    let wanted = routes(0..500);
    world.tell(0, &wanted);
    world.run_until(seconds(20), |world| {
        world.established() && world.tap(0).is_some_and(|tap| tap.has(&routes(0..500)))
    });
    let first = world.tap(0).and_then(|tap| tap.open.clone()).expect("an OPEN");
    let graceful = first.graceful_restart().expect("graceful restart is configured");
    assert!(!graceful.restarting && graceful.families.iter().all(|family| !family.forwarding_preserved));

    let options = CoreOptions { restarting: true, forwarding_preserved: true, seed: 9, ..CoreOptions::default() };
    world.restart(0, options);
    world.feed(0, Input::SetInstance(config(65010, 1, Some(65101), None)));
    world.run_until(seconds(20), World::established);
    let open = world.tap(0).and_then(|tap| tap.open.clone()).expect("an OPEN");
    let graceful = open.graceful_restart().expect("graceful restart is configured");
    assert!(graceful.restarting && graceful.notification);
    assert_eq!(graceful.restart_time_s, 60);
    assert!(graceful.families.iter().all(|family| family.forwarding_preserved));

    // The inputs come back piece by piece; nothing is final until they are complete.
    world.tell(0, &routes(0..100));
    world.run(seconds(1));
    world.tell(0, &wanted);
    world.run(seconds(1));
    let tap = world.tap(0).expect("a session");
    assert!(tap.has(&wanted));
    assert_eq!((tap.withdrawn, tap.end_of_rib, tap.announced), (0, 0, 500));
    world.feed(0, Input::RoutesComplete(INSTANCE.to_owned()));
    world.run(seconds(1));
    let tap = world.tap(0).expect("a session");
    assert_eq!((tap.withdrawn, tap.end_of_rib), (0, 2), "one marker for each family");
    assert_eq!(world.status(0).counters.withdrawals_out, 0);

    // A later session of the same process is no restart of the speaker, but forwarding went on.
    world.cut();
    world.run_until(seconds(20), World::established);
    let open = world.tap(0).and_then(|tap| tap.open.clone()).expect("an OPEN");
    let graceful = open.graceful_restart().expect("graceful restart is configured");
    assert!(!graceful.restarting && graceful.families.iter().all(|family| family.forwarding_preserved));
}

#[test]
fn the_restart_bit_is_not_set_after_the_restart_time() {
    let mut world = World::new(3);
    world.restart(0, CoreOptions { restarting: true, ..CoreOptions::default() });
    both(&mut world, [65010, 65101], [None, PORT]);
    world.partitioned = true;
    world.run(seconds(61));
    world.partitioned = false;
    world.run_until(seconds(20), World::established);
    let open = world.tap(0).and_then(|tap| tap.open.clone()).expect("an OPEN");
    assert!(!open.graceful_restart().expect("graceful restart is configured").restarting);
}

#[test]
fn a_peer_that_does_not_read_costs_little_and_misses_nothing() {
    let mut world = World::new(5);
    both(&mut world, [65010, 65101], [None, PORT]);
    complete(&mut world);
    world.run_until(seconds(20), World::established);
    world.stalled = true;
    let before = world.tap(0).map_or(0, |tap| tap.updates);
    // A thousand rounds of change while nothing is taken.
    for round in 0..1000u32 {
        world.tell(0, &routes((0..2000).map(|number| number + round)));
        world.run(Duration::from_millis(1));
    }
    let queued = world.tap(0).map_or(0, |tap| tap.updates) - before;
    assert!(queued < 150, "{queued} UPDATEs were queued for a peer that does not read");
    world.release();
    let last = routes((0..2000).map(|number| number + 999));
    world.run(seconds(1));
    let tap = world.tap(0).expect("a session");
    assert!(tap.has(&last));
    assert_eq!(tap.needless, 0, "what was never announced is never withdrawn");
    assert!(world.status(0).in_sync());
}

#[test]
fn a_refresh_sends_all_again_and_nothing_else() {
    let mut world = World::new(11);
    both(&mut world, [65010, 65010], [None, PORT]);
    complete(&mut world);
    world.tell(0, &routes(0..10));
    world.run_until(seconds(20), |world| world.tap(0).is_some_and(|tap| tap.announced == 10));
    let context = causeway_bgp_wire::SessionContext::before_open();
    let refresh = causeway_bgp_wire::RouteRefresh {
        family: causeway_bgp_core::Family::IPV4_UNICAST,
        kind: causeway_bgp_wire::RefreshKind::Request,
    };
    let mut bytes = Vec::new();
    causeway_bgp_wire::Message::RouteRefresh(refresh).encode(&context, &mut bytes).unwrap();
    let conn = *world.hosts[0].open.first().unwrap();
    // A withdrawal at the same moment must not be lost in the refresh.
    world.feed(0, Input::Received { conn, bytes });
    world.tell(0, &routes(1..10));
    world.run(seconds(1));
    let tap = world.tap(0).expect("a session");
    assert!(tap.has(&routes(1..10)));
    assert_eq!((tap.announced, tap.withdrawn), (20, 1));
    // The same AS: LOCAL_PREF is there and the path is empty.
    assert!(
        tap.rib.values().all(|attributes| attributes.local_pref == Some(100) && attributes.as_path.segments.is_empty())
    );
}

#[test]
fn messages_are_filled_but_not_overfilled() {
    let mut world = World::new(13);
    both(&mut world, [65010, 65101], [None, PORT]);
    complete(&mut world);
    world.tell(0, &routes(0..100_000));
    world.run_until(seconds(60), |world| world.tap(0).is_some_and(|tap| tap.announced == 100_000));
    let tap = world.tap(0).expect("a session");
    // RFC 8654 is on between two of us; 5 octets for each /32.
    assert!(tap.updates < 30, "{} UPDATEs for 100,000 prefixes", tap.updates);
    assert!(tap.longest <= 65_535);
}

#[test]
fn ends_are_said_as_they_are_meant() {
    for (graceful, expected) in
        [(true, None), (false, Some("cease: hard reset (cease: administrative shutdown) \"bye\""))]
    {
        let mut world = World::new(17);
        both(&mut world, [65010, 65101], [None, PORT]);
        world.run_until(seconds(20), World::established);
        let conn = *world.hosts[0].open.first().unwrap();
        world.feed(0, Input::Shutdown { graceful, text: "bye".to_owned() });
        assert_eq!(world.hosts[0].taps[&conn].notification.as_deref(), expected);
        assert_eq!(world.status(0).state, SessionState::Idle);
        assert_eq!(world.hosts[0].core.deadline(), None, "a stopped speaker wants nothing more");
    }
}

#[test]
fn told_routes_can_be_asked_for() {
    let mut world = World::new(19);
    both(&mut world, [65010, 65101], [None, PORT]);
    let marked = RouteAttrs { communities: [Community::GRACEFUL_SHUTDOWN].into(), ..RouteAttrs::default() };
    let wanted = [(prefix(1), marked)].into();
    world.tell(0, &wanted);
    assert_eq!(world.hosts[0].core.told(INSTANCE, PEER).map(|(_, routes)| routes.len()), Some(0));
    world.run_until(seconds(20), |world| world.tap(0).is_some_and(|tap| tap.announced == 1));
    let (next_hops, told) = world.hosts[0].core.told(INSTANCE, PEER).expect("the peer exists");
    assert_eq!(told, wanted);
    assert_eq!(next_hops.len(), 2);
    assert!(world.hosts[0].core.told(INSTANCE, "nobody").is_none());
}
