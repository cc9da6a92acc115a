//! The backend against a kernel. The probe always runs; the rest needs root and a kernel with WireGuard:
//! `cargo test -p causeway-encryption-kernel --test kernel -- --ignored --nocapture`. Where the kernel has none,
//! `scripts/vm.sh` runs the test binary, which cargo has built before, under one that has.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod bed;

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use bed::{DEVICE, Kind, Node, World, link, name, net, output, private, run, stats, wait};
use causeway_encryption_device::{DeviceError, Ensured};
use causeway_encryption_kernel::probe;
use causeway_encryption_plan::{Change, DeviceSpec, Snapshot};
use ipnet::IpNet;

#[test]
fn the_probe_says_what_this_kernel_can() {
    match probe() {
        Ok(()) => println!("the kernel has WireGuard"),
        Err(why) => {
            println!("{why}");
            let known = ["EOPNOTSUPP", "EPERM"].iter().any(|known| why.contains(known));
            assert!(known, "neither success nor a reason that is known");
        }
    }
    let left = fs::read_dir("/sys/class/net").unwrap().filter_map(Result::ok);
    assert!(!left.into_iter().any(|name| name.file_name().to_string_lossy().starts_with("cwprobe")));
}

/// Whether the kernel can do what the test is about; says so if not.
fn can() -> bool {
    match probe() {
        Ok(()) => true,
        Err(why) if why.contains("EOPNOTSUPP") && std::env::var_os("CI").is_none() => {
            println!("not run: {why}");
            false
        }
        Err(why) => panic!("{why}"),
    }
}

fn prefixes(count: u32) -> Vec<IpNet> {
    let v4 = (0..count / 2).map(|i| IpNet::new(Ipv4Addr::from(0x0b00_0000 + i * 256).into(), 24).unwrap());
    v4.chain((0..count / 2).map(|i| net(&format!("fd01:0:0:{i:x}::/64")))).collect()
}

/// What `wg show` has of a peer of the first interface, as numbers of its columns (wg(8), `dump`).
fn shown(node: &Node, remote: u8) -> Vec<String> {
    let dump = output(&format!("ip netns exec {} wg show {DEVICE} dump", node.namespace));
    let key = private(remote).public().to_string();
    let line = dump.lines().find(|line| line.starts_with(&key)).unwrap();
    line.split('\t').map(str::to_owned).collect()
}

#[test]
#[ignore = "needs root and a kernel with WireGuard"]
fn two_nodes_talk_and_are_seen_to() {
    if !can() {
        return;
    }
    for v6 in [false, true] {
        let mut world = World::new(v6, Kind::Kernel);
        world.nodes[0].keepalive_s = Some(20);
        world.talk();
        world.pass();
        let snapshot = world.pass_of(0);
        let seen = stats(&snapshot, link(1, 2));
        assert!(seen.confirmed);
        assert_eq!((seen.handshakes, seen.failures), (1, 0));
        assert!(seen.handshake_age_ms.unwrap() < 30_000, "{seen:?}");
        assert!(seen.received_age_ms.is_some());
        let shown = shown(&world.nodes[0], 2);
        assert_eq!(shown[2], world.nodes[1].endpoint().to_string());
        assert_eq!(snapshot.stats[&name(2)].endpoint, world.nodes[1].endpoint());
        assert_eq!(shown[3], "10.2.0.0/16,fd00:2::/64");
        assert!(seen.rx_bytes > 10_000 && seen.rx_bytes <= shown[5].parse().unwrap(), "{seen:?} {shown:?}");
        assert!(seen.tx_bytes > 10_000 && seen.tx_bytes <= shown[6].parse().unwrap(), "{seen:?} {shown:?}");
        assert_eq!(shown[7], "20");
        assert_eq!(snapshot.interfaces, BTreeSet::from([snapshot.ifindex]));
        assert_eq!(snapshot.actual.peers[&name(2)].prefixes, BTreeSet::from_iter(world.nodes[1].prefixes.clone()));
    }
}

#[test]
#[ignore = "needs root and a kernel with WireGuard"]
fn thousands_of_prefixes_come_and_go_beside_traffic() {
    if !can() {
        return;
    }
    let mut world = World::new(false, Kind::Kernel);
    world.talk();
    let echo = world.echo(0, false);
    let few = world.nodes[1].prefixes.clone();
    let many = prefixes(12_000);
    let held = |world: &mut World| world.pass_of(0).actual.peers[&name(2)].prefixes.clone();
    world.nodes[1].prefixes.extend(&many);
    let began = Instant::now();
    world.pass();
    println!("{} prefixes told in {:?}", many.len(), began.elapsed());
    let began = Instant::now();
    assert_eq!(held(&mut world), BTreeSet::from_iter(world.nodes[1].prefixes.clone()));
    println!("and read in {:?}", began.elapsed());
    assert_eq!(shown(&world.nodes[0], 2)[3].split(',').count(), many.len() + few.len());
    // Another process finds them all.
    world.nodes[0].restart();
    assert_eq!(held(&mut world).len(), many.len() + few.len());

    // A peer with no cable to it takes some, as when a CIDR moves to another node.
    let moved = &many[..1000];
    let stranger = Change::AddPeer {
        peer: name(3),
        endpoint: "192.0.2.3:51871".parse().unwrap(),
        keepalive_s: None,
        link: link(1, 3),
    };
    let take = moved.iter().map(|prefix| Change::AddPrefix { peer: name(3), prefix: *prefix });
    world.nodes[0].apply([stranger].into_iter().chain(take).collect());
    let snapshot = world.nodes[0].snapshot().unwrap();
    assert_eq!(snapshot.actual.peers[&name(3)].prefixes, BTreeSet::from_iter(moved.iter().copied()));
    assert_eq!(snapshot.actual.peers[&name(2)].prefixes.len(), many.len() + few.len() - moved.len());

    let began = Instant::now();
    world.nodes[1].prefixes = few.clone();
    world.pass();
    println!("{} prefixes taken back in {:?}", many.len() - moved.len(), began.elapsed());
    assert_eq!(held(&mut world), BTreeSet::from_iter(few));
    echo.lost_nothing();
}

/// The agent's own steps, between them enough passes for each to take effect.
fn rotate(world: &mut World, who: &[usize], new: [u8; 2], restart: bool) {
    for index in who {
        world.nodes[*index].keys.push(new[*index]);
    }
    let best = |world: &World| {
        let [a, b] = &world.nodes;
        link(*a.keys.last().unwrap(), *b.keys.last().unwrap())
    };
    let wanted = best(world);
    let mirrored = causeway_encryption_plan::Link { own: wanted.remote, remote: wanted.own };
    let mut passes = 0;
    world.until("both send on the new link", |world| {
        passes += 1;
        if restart && passes % 5 == 0 {
            world.nodes[0].restart();
        }
        let active = |snapshot: Snapshot, other| snapshot.actual.peers.get(&name(other)).map(|peer| peer.active);
        let a = world.pass_of(0);
        let b = world.pass_of(1);
        active(a, 2) == Some(wanted) && active(b, 1) == Some(mirrored)
    });
    for index in who {
        world.nodes[*index].current = new[*index];
        world.go_on(Duration::from_millis(500));
    }
    world.go_on(Duration::from_secs(1));
    for index in who {
        world.nodes[*index].keys = vec![new[*index]];
        world.go_on(Duration::from_millis(500));
        if restart {
            world.nodes[0].restart();
        }
    }
    world.go_on(Duration::from_secs(2));
}

fn a_rotation(v6: bool, second: Kind, who: &[usize], restart: bool) {
    let mut world = World::new(v6, second);
    world.talk();
    world.go_on(Duration::from_millis(500));
    let (there, back) = (world.echo(0, false), world.echo(1, true));
    for round in 1..=2 {
        let began = Instant::now();
        rotate(&mut world, who, [1 + 10 * round, 2 + 10 * round], restart);
        println!("rotation of {who:?} took {:?}", began.elapsed());
    }
    there.lost_nothing();
    back.lost_nothing();
    // When nobody talks, everything goes back to the announced port.
    let began = Instant::now();
    world.until("everything at home", |world| {
        let home = |node: &Node| node.interfaces() == [DEVICE];
        world.nodes.iter().all(home)
    });
    println!("at home after {:?}", began.elapsed());
    world.talk();
    let seen = stats(&world.pass_of(0), link(world.nodes[0].current, world.nodes[1].current));
    assert!(seen.confirmed && seen.received_age_ms.is_some_and(|age| age < 60_000), "{seen:?}");
}

#[test]
#[ignore = "needs root and a kernel with WireGuard"]
fn a_rotation_of_both_at_once_loses_nothing() {
    if can() {
        a_rotation(false, Kind::Kernel, &[0, 1], false);
    }
}

#[test]
#[ignore = "needs root and a kernel with WireGuard"]
fn a_rotation_of_one_loses_nothing() {
    if can() {
        a_rotation(true, Kind::Kernel, &[0], false);
        a_rotation(true, Kind::Kernel, &[1], false);
    }
}

#[test]
#[ignore = "needs root and a kernel with WireGuard"]
fn a_rotation_under_processes_that_come_and_go_loses_nothing() {
    if can() {
        a_rotation(false, Kind::Kernel, &[0, 1], true);
    }
}

#[test]
#[ignore = "needs root, a kernel with WireGuard and the program causeway-wireguard"]
fn a_rotation_with_an_embedded_device_on_the_other_side_loses_nothing() {
    if !can() {
        return;
    }
    if bed::embedded_program().is_none() {
        assert!(std::env::var_os("CI").is_none(), "build causeway-wireguard first");
        println!("not run: causeway-wireguard is not built");
        return;
    }
    for who in [&[0][..], &[1], &[0, 1]] {
        a_rotation(false, Kind::Embedded, who, false);
    }
}

#[test]
#[ignore = "needs root and a kernel with WireGuard"]
fn a_device_that_is_deleted_is_made_again() {
    if !can() {
        return;
    }
    let mut world = World::new(false, Kind::Kernel);
    world.talk();
    let before = world.pass_of(0).ifindex;
    // By somebody else.
    run(&format!("ip -n {} link del {DEVICE}", world.nodes[0].namespace));
    let gone = world.nodes[0].on(|device| device.snapshot()).unwrap_err();
    assert!(matches!(gone, DeviceError::Gone(_)), "{gone}");
    let spec = world.nodes[0].spec();
    let made: Ensured = world.nodes[0].on(move |device| device.ensure(&spec)).unwrap();
    assert!(made.fresh && made.ifindex != before, "{made:?}");
    world.nodes[0].forget_routes();
    world.until("a session again", |world| stats(&world.pass_of(0), link(1, 2)).confirmed);
    world.talk();
    // By us.
    world.nodes[0].on(|device| device.delete()).unwrap();
    assert_eq!(world.nodes[0].interfaces(), Vec::<String>::new());
    assert!(!world.nodes[0].names.exists());
    world.nodes[0].forget_routes();
    world.until("a session again", |world| stats(&world.pass_of(0), link(1, 2)).confirmed);
    world.talk();
    // By a process that has made none.
    world.nodes[0].restart();
    world.nodes[0].on(|device| device.delete()).unwrap();
    assert_eq!(world.nodes[0].interfaces(), Vec::<String>::new());
}

#[test]
#[ignore = "needs root and a kernel with WireGuard"]
fn a_new_process_adopts_what_it_finds() {
    if !can() {
        return;
    }
    let mut world = World::new(false, Kind::Kernel);
    world.talk();
    let echo = world.echo(0, false);
    let before = world.pass_of(0);
    let shook = shown(&world.nodes[0], 2)[4].clone();
    for _ in 0..5 {
        world.nodes[0].restart();
        let after = world.nodes[0].snapshot().unwrap();
        assert_eq!((&after.actual, after.ifindex), (&before.actual, before.ifindex));
        let seen = stats(&after, link(1, 2));
        assert!(seen.confirmed && seen.handshake_age_ms.is_some(), "{seen:?}");
        world.go_on(Duration::from_millis(300));
    }
    echo.lost_nothing();
    assert_eq!(shown(&world.nodes[0], 2)[4], shook, "no handshake was made for it");
    // Nobody knows any more whose the sessions are.
    fs::remove_file(&world.nodes[0].names).unwrap();
    world.nodes[0].restart();
    assert!(world.nodes[0].snapshot().unwrap().actual.peers.is_empty());
    world.pass();
    world.talk();
}

#[test]
#[ignore = "needs root and a kernel with WireGuard"]
fn the_interface_is_as_the_spec_says() {
    if !can() {
        return;
    }
    let mut world = World::new(false, Kind::Kernel);
    let ns = world.nodes[0].namespace.clone();
    let look = || {
        let wg = output(&format!("ip netns exec {ns} wg show {DEVICE} dump | head -n 1"));
        let wg: Vec<&str> = wg.split_whitespace().collect();
        let ip = output(&format!("ip -n {ns} -o link show {DEVICE}"));
        let mtu = ip.split(" mtu ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        let addresses = output(&format!("ip -n {ns} -o addr show {DEVICE}"));
        assert_eq!(addresses, "", "no addresses of its own");
        (wg[2].to_owned(), wg[3].to_owned(), mtu, ip.contains(",UP"))
    };
    assert_eq!(look(), ("51871".into(), "0x1e00".into(), "1408".into(), true));
    let other = DeviceSpec { port: 6000, mark: 7, mtu: 1328, ..world.nodes[0].spec() };
    let set = other.clone();
    assert!(!world.nodes[0].on(move |device| device.ensure(&set)).unwrap().fresh);
    assert_eq!(look(), ("6000".into(), "0x7".into(), "1328".into(), true));
    // It comes from another port now, and is heard.
    world.talk();
    // A port that somebody has.
    let taken = world.nodes[0].on(|_| std::net::UdpSocket::bind("0.0.0.0:7000").unwrap());
    let set = DeviceSpec { port: 7000, ..other };
    let error = world.nodes[0].on(move |device| device.ensure(&set)).unwrap_err().to_string();
    println!("{error}");
    assert!(error.contains("7000") || error.contains("in use"), "{error}");
    drop(taken);
    wait("its own port again", || world.nodes[0].snapshot().is_ok());
    assert_eq!(look().0, "51871");
    world.pass();
    world.talk();
}

/// A device of another kind has the name: said so, and let alone.
#[test]
#[ignore = "needs root and a kernel with WireGuard"]
fn an_interface_that_is_not_wireguard_is_let_alone() {
    if !can() {
        return;
    }
    let world = World::new(false, Kind::Kernel);
    let node = &world.nodes[0];
    node.on(|device| device.delete()).unwrap();
    run(&format!("ip -n {} link add {DEVICE} type dummy", node.namespace));
    let error = node.snapshot().unwrap_err().to_string();
    println!("{error}");
    assert!(error.contains("no WireGuard interface"), "{error}");
    assert_eq!(node.interfaces(), [DEVICE]);
}

/// Debian's WireGuard in user space, as another implementation of the protocol.
#[test]
#[ignore = "needs root, a kernel with WireGuard, and wireguard-go"]
fn it_talks_with_wireguard_go() {
    if !can() {
        return;
    }
    let mut world = World::new(false, Kind::Kernel);
    let ns = world.nodes[1].namespace.clone();
    world.nodes[1].on(|device| device.delete()).unwrap();
    bed::load_tun();
    let mut go = std::process::Command::new("ip");
    go.args(["netns", "exec", &ns, "wireguard-go", "-f", "go0"]).env("WG_PROCESS_FOREGROUND", "1");
    let _go = bed::Process(go.spawn().unwrap());
    wait("wireguard-go", || {
        let shown = std::process::Command::new("ip").args(["netns", "exec", &ns, "wg", "show", "go0"]).output();
        shown.unwrap().status.success()
    });
    let key = world.nodes[1].key_file(2).display().to_string();
    run(&format!(
        "ip netns exec {ns} wg set go0 private-key {key} listen-port 51871 peer {} allowed-ips 10.1.0.0/16,fd00:1::/64
         ip -n {ns} link set go0 mtu 1408 up
         ip -n {ns} route replace 10.1.0.0/16 dev go0 src 10.2.0.1
         ip -n {ns} route replace fd00:1::/64 dev go0 src fd00:2::1",
        private(1).public()
    ));
    world.pass_of(0);
    world.talk();
    let echo = world.echo(1, false);
    thread::sleep(Duration::from_secs(2));
    echo.lost_nothing();
    let seen = stats(&world.pass_of(0), link(1, 2));
    assert!(seen.confirmed && seen.rx_bytes > 10_000, "{seen:?}");
}
