//! The datapath on a real kernel: pins, restarts, links, and updates while others read.
//!
//! Needs root. Every test has a network namespace and a pin directory of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aya::maps::{HashMap, MapData};
use causeway_datapath_abi as abi;
use causeway_datapath_loader::{
    Backend, Datapath, Endpoint, Error, FlowRow, Frontend, Hook, IpcacheEntry, Kernel, LbService, Options, Proto,
};

/// What must go when a test ends, however it ends.
struct Room {
    pins: PathBuf,
    namespaces: Vec<String>,
}

impl Room {
    /// Puts the calling thread into a new network namespace.
    fn new(name: &str) -> Room {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root can make network namespaces");
        run("ip", &["link", "set", "lo", "up"]);
        let pins = PathBuf::from(format!("/sys/fs/bpf/cw-test-{name}-{}", std::process::id()));
        Room { pins, namespaces: Vec::new() }
    }

    fn options(&self) -> Options {
        Options::new(&self.pins, abi::NodeConfig::default())
    }

    fn open(&self) -> Kernel {
        Kernel::open(&self.options()).unwrap()
    }

    fn namespace(&mut self, name: &str) -> String {
        let name = format!("cw-test-{name}-{}", std::process::id());
        run("ip", &["netns", "add", &name]);
        self.namespaces.push(name.clone());
        name
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        for name in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
        let _ = std::fs::remove_dir_all(&self.pins);
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn frontend(last: u8, port: u16) -> Frontend {
    Frontend { addr: [192, 0, 2, last].into(), port, proto: Proto::Tcp }
}

fn service(backends: &[&str]) -> LbService {
    let backends = backends.iter().map(|a| Backend { addr: a.parse().unwrap(), local: false }).collect();
    LbService { backends, external: true, ..LbService::default() }
}

fn table<K: aya::Pod, V: aya::Pod>(kernel: &Kernel, name: &str) -> HashMap<MapData, K, V> {
    HashMap::try_from(aya::maps::Map::from_map_data(kernel.map(name).unwrap()).unwrap()).unwrap()
}

fn count<K: aya::Pod, V: aya::Pod>(map: &HashMap<MapData, K, V>) -> usize {
    map.keys().filter(Result::is_ok).count()
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn one_process_at_a_time_and_bad_places_are_named() {
    let room = Room::new("lock");
    let first = room.open();
    assert!(first.features().iter().any(|f| f.name == "tcx" && f.available), "{:?}", first.features());
    let error = Kernel::open(&room.options()).map(drop).unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    drop(first);
    drop(room.open());

    let elsewhere = std::env::temp_dir().join(format!("cw-test-nobpf-{}", std::process::id()));
    let error = Kernel::open(&Options::new(&elsewhere, abi::NodeConfig::default())).map(drop).unwrap_err();
    std::fs::remove_dir_all(&elsewhere).unwrap();
    assert!(matches!(error, Error::Pin { .. }), "{error}");
    assert!(error.to_string().contains("mount -t bpf"), "{error}");
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn a_restart_finds_what_was_written() {
    let room = Room::new("restart");
    let kernel = room.open();
    let endpoint = Endpoint { ifindex: 7, identity: 1234, id: 9, mac: [2; 6], host_mac: [4; 6] };
    let pods: [IpAddr; 2] = ["10.1.1.5".parse().unwrap(), "fd00:1:1::5".parse().unwrap()];
    let six = Frontend { addr: "2001:db8:2::1".parse().unwrap(), port: 53, proto: Proto::Udp };
    let local = Backend { addr: "[fd00:1:1::5]:53".parse().unwrap(), local: true };
    let dns = LbService { backends: vec![local], internal_local: true, ..LbService::default() };
    for pod in pods {
        assert!(kernel.upsert_endpoint(pod, endpoint).unwrap());
        assert!(!kernel.upsert_endpoint(pod, endpoint).unwrap(), "nothing changed");
    }
    for (prefix, identity) in [("0.0.0.0/0", 2), ("10.1.0.0/16", 3), ("10.1.1.5/32", 1234), ("::/0", 2)] {
        let entry = IpcacheEntry { identity, in_cluster: identity > 2 };
        assert!(kernel.upsert_ipcache(prefix.parse().unwrap(), entry).unwrap());
        assert!(!kernel.upsert_ipcache(prefix.parse().unwrap(), entry).unwrap());
    }
    assert!(kernel.upsert_service(frontend(1, 80), &service(&["10.1.1.5:8080", "10.1.2.5:8080"])).unwrap());
    assert!(kernel.upsert_service(six, &dns).unwrap());
    let before = (kernel.endpoints().unwrap(), kernel.ipcache().unwrap(), kernel.services().unwrap());
    let ids = kernel.map_ids().unwrap();
    drop(kernel);

    let kernel = room.open();
    assert_eq!((kernel.endpoints().unwrap(), kernel.ipcache().unwrap(), kernel.services().unwrap()), before);
    assert_eq!(kernel.map_ids().unwrap(), ids, "the same maps");
    assert!(!kernel.upsert_service(six, &dns).unwrap());
    for pod in pods {
        assert!(kernel.delete_endpoint(pod).unwrap());
        assert!(!kernel.delete_endpoint(pod).unwrap());
    }
    for prefix in before.1.keys() {
        assert!(kernel.delete_ipcache(*prefix).unwrap());
    }
    assert!(kernel.delete_service(six).unwrap() && kernel.delete_service(frontend(1, 80)).unwrap());
    drop(kernel);
    let kernel = room.open();
    assert!(kernel.usage().unwrap().iter().all(|usage| usage.rows == 0), "{:?}", kernel.usage());
    assert_eq!(count::<abi::SlotKey, abi::Slot>(&table(&kernel, abi::map::SLOTS)), 0);
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn an_address_is_the_services_until_its_last_frontend_goes() {
    let room = Room::new("catchall");
    let mut options = room.options();
    options.node.node_v4 = abi::Addr::v4([192, 0, 2, 9]);
    let kernel = Kernel::open(&options).unwrap();
    let rows = table::<abi::ServiceKey, abi::Service>(&kernel, abi::map::SERVICES);
    let has = |last: u8| {
        let key = abi::ServiceKey { addr: abi::Addr::v4([192, 0, 2, last]), ..abi::ServiceKey::default() };
        rows.get(&key, 0).is_ok()
    };
    kernel.upsert_service(frontend(1, 80), &service(&["10.1.1.5:80"])).unwrap();
    kernel.upsert_service(frontend(1, 443), &service(&[])).unwrap();
    kernel.upsert_service(frontend(2, 80), &service(&[])).unwrap();
    kernel.upsert_service(frontend(9, 30000), &service(&["10.1.1.5:80"])).unwrap();
    assert_eq!((has(1), has(2)), (true, true));
    assert!(!has(9), "the node's own address keeps its other ports");
    kernel.delete_service(frontend(1, 80)).unwrap();
    kernel.delete_service(frontend(2, 80)).unwrap();
    assert_eq!((has(1), has(2)), (true, false));
    kernel.delete_service(frontend(1, 443)).unwrap();
    assert!(!has(1));
    let flags = |last: u8| {
        let key = abi::ServiceKey { addr: abi::Addr::v4([192, 0, 2, last]), ..abi::ServiceKey::default() };
        rows.get(&key, 0).unwrap().flags
    };
    for (port, external) in [(80, false), (443, true)] {
        kernel.upsert_service(frontend(3, port), &LbService { external, ..LbService::default() }).unwrap();
        assert_eq!(
            flags(3) & abi::service_flag::EXTERNAL != 0,
            external,
            "open to the wire as soon as one frontend is"
        );
    }
    kernel.delete_service(frontend(3, 443)).unwrap();
    assert_eq!(flags(3), 0);
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn a_full_map_is_named_and_harms_nothing_else() {
    let room = Room::new("full");
    let mut options = room.options();
    (options.sizes.backends, options.sizes.services) = (4, 4);
    let kernel = Kernel::open(&options).unwrap();
    let three = ["10.1.1.1:80", "10.1.1.2:80", "10.1.1.3:80"];
    kernel.upsert_service(frontend(1, 80), &service(&three)).unwrap();
    let error = kernel.upsert_service(frontend(2, 80), &service(&three)).unwrap_err();
    assert!(matches!(error, Error::Full { map: "SLOTS", limit: 4, .. }), "{error}");
    assert!(error.to_string().contains("192.0.2.2:80/TCP"), "{error}");
    assert!(error.to_string().contains("the limit is fixed: have fewer Services"), "{error}");
    assert_eq!(kernel.services().unwrap(), BTreeMap::from([(frontend(1, 80), service(&three))]));
    let slots = table::<abi::SlotKey, abi::Slot>(&kernel, abi::map::SLOTS);
    assert_eq!(count(&slots), 3, "what was half written is gone");
    // Room that retired slots still take is not room that is missing.
    kernel.upsert_service(frontend(1, 80), &service(&["10.1.1.9:80"])).unwrap();
    kernel.upsert_service(frontend(2, 80), &service(&three)).unwrap();
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn remains_of_an_unfinished_update_are_removed() {
    let room = Room::new("strays");
    let kernel = room.open();
    kernel.upsert_service(frontend(1, 80), &service(&["10.1.1.1:80"])).unwrap();
    let mut slots = table::<abi::SlotKey, abi::Slot>(&kernel, abi::map::SLOTS);
    for slot in 0..5 {
        slots.insert(abi::SlotKey { service_id: 1, generation: 2, slot }, abi::Slot::default(), 0).unwrap();
    }
    let mut rows = table::<abi::ServiceKey, abi::Service>(&kernel, abi::map::SERVICES);
    let orphan = abi::ServiceKey { addr: abi::Addr::v4([192, 0, 2, 77]), ..abi::ServiceKey::default() };
    rows.insert(orphan, abi::Service::default(), 0).unwrap();
    drop(kernel);
    let kernel = room.open();
    assert_eq!((count(&slots), count(&rows)), (1, 2));
    assert_eq!(kernel.services().unwrap().len(), 1);
}

/// The order of writes, seen by a reader that does what the programs do: row first, then a slot of its generation.
#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn a_reader_never_sees_a_mixture_of_backends() {
    let room = Room::new("flip");
    let kernel = room.open();
    let sets = [["10.1.1.1:80", "10.1.1.2:80", "10.1.1.3:80"], ["10.1.2.1:80", "10.1.2.2:80", "10.1.2.3:80"]];
    kernel.upsert_service(frontend(1, 80), &service(&sets[0])).unwrap();
    let (stop, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let rows = table::<abi::ServiceKey, abi::Service>(&kernel, abi::map::SERVICES);
            let slots = table::<abi::SlotKey, abi::Slot>(&kernel, abi::map::SLOTS);
            let port = 80_u16.to_be_bytes();
            let key = abi::ServiceKey { addr: abi::Addr::v4([192, 0, 2, 1]), port, proto: 6, zero: 0 };
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                let row = rows.get(&key, 0).expect("the service is always there");
                let found: Vec<Option<u8>> = (0..row.count)
                    .map(|slot| abi::SlotKey { service_id: row.id, generation: row.generation, slot })
                    .map(|key| slots.get(&key, 0).ok().and_then(|slot| slot.addr.as_v4()).map(|[_, _, c, _]| c))
                    .collect();
                // Slots outlive their row by a moment that a program cannot outlast, but this thread can.
                if began.elapsed() < Duration::from_millis(50) {
                    assert!(found == [Some(1); 3] || found == [Some(2); 3], "{row:?}: {found:?}");
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let mut flips = 0;
        while flips < 3000 || reads.load(Ordering::Relaxed) < 1000 {
            flips += 1;
            assert!(kernel.upsert_service(frontend(1, 80), &service(&sets[flips % 2])).unwrap());
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// A pod at the end of a veth: `lxc0` here, `eth0` with 10.1.1.5 there. Returns the pod's namespace and the index.
fn cable(room: &mut Room, kernel: &Kernel) -> (String, u32) {
    let netns = room.namespace("pod");
    let (pod_mac, host_mac) = ("06:00:00:00:00:01", "0a:00:00:00:00:02");
    let peer = ["peer", "name", "eth0", "address", pod_mac, "netns", &netns];
    run("ip", &[&["link", "add", "lxc0", "address", host_mac, "type", "veth"], &peer[..]].concat());
    run("ip", &["address", "add", "10.0.0.11/32", "dev", "lo"]);
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    run("ip", &["link", "set", "lxc0", "up"]);
    run("ip", &["route", "add", "10.1.1.5/32", "dev", "lxc0", "src", "10.0.0.11"]);
    run("ip", &["neighbour", "replace", "10.1.1.5", "lladdr", pod_mac, "dev", "lxc0", "nud", "permanent"]);
    let inside = |arguments: &[&str]| run("ip", &[&["-n", netns.as_str()], arguments].concat());
    inside(&["address", "add", "10.1.1.5/32", "dev", "eth0"]);
    inside(&["link", "set", "eth0", "up"]);
    inside(&["neighbour", "replace", "169.254.1.1", "lladdr", host_mac, "dev", "eth0", "nud", "permanent"]);
    inside(&["route", "add", "default", "via", "169.254.1.1", "dev", "eth0", "onlink"]);
    let ifindex = index_of("lxc0");
    let endpoint = Endpoint { ifindex, identity: 1234, id: 1, mac: [6, 0, 0, 0, 0, 1], host_mac: [10, 0, 0, 0, 0, 2] };
    kernel.upsert_endpoint([10, 1, 1, 5].into(), endpoint).unwrap();
    for (address, identity) in [("10.1.1.5/32", 1234), ("10.0.0.11/32", 1)] {
        kernel.upsert_ipcache(address.parse().unwrap(), IpcacheEntry { identity, in_cluster: true }).unwrap();
    }
    (netns, ifindex)
}

fn index_of(interface: &str) -> u32 {
    let text = run("ip", &["-o", "link", "show", "dev", interface]);
    text.split(':').next().unwrap().trim().parse().unwrap()
}

fn ping(netns: &str, count: &str) -> Child {
    let arguments = ["-n", "-q", "-i", "0.002", "-c", count, "-W", "2", "10.0.0.11"];
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{netns}")).arg("ping").args(arguments);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

fn node_options(room: &Room) -> Options {
    let mut options = room.options();
    options.node.node_v4 = abi::Addr::v4([10, 0, 0, 11]);
    options
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn restarts_exchange_programs_below_running_traffic() {
    let mut room = Room::new("swap");
    let options = node_options(&room);
    let mut kernel = Kernel::open(&options).unwrap();
    let (netns, ifindex) = cable(&mut room, &kernel);
    kernel.attach_pod(ifindex).unwrap();
    kernel.attach_pod(ifindex).unwrap();
    kernel.attach_uplink(index_of("lo")).unwrap();
    let hooks: Vec<Hook> = kernel.attached().unwrap().iter().map(|link| link.hook).collect();
    assert_eq!(hooks, [Hook::FromNet, Hook::ToNet, Hook::FromPod, Hook::ToPod]);
    assert!(kernel.detach(index_of("lo")).unwrap());
    let ids = kernel.map_ids().unwrap();

    let traffic = ping(&netns, "1500");
    let (mut restarts, began) = (0, Instant::now());
    while restarts < 5 || began.elapsed() < Duration::from_secs(2) {
        let before = kernel.attached().unwrap();
        drop(kernel);
        kernel = Kernel::open(&options).unwrap();
        let after = kernel.attached().unwrap();
        assert_eq!(after.len(), 2);
        for (old, new) in before.iter().zip(&after) {
            assert_eq!((old.ifindex, old.hook, &old.interface), (new.ifindex, new.hook, &new.interface));
            assert_ne!(old.program_id, new.program_id, "the new process's program runs");
        }
        restarts += 1;
    }
    assert_eq!(kernel.map_ids().unwrap(), ids);
    let said = traffic.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout);
    let counters = kernel.counters().unwrap();
    assert!(said.contains("1500 received, 0% packet loss"), "{restarts} restarts: {said}{counters:?}");
    let drops: Vec<_> = counters.iter().filter(|c| c.counter.is_drop() && c.packets > 0).collect();
    assert!(drops.is_empty(), "{drops:?}");
    eprintln!("{restarts} restarts, 1500 pings, none lost");
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn links_of_vanished_interfaces_are_found_and_removed() {
    let mut room = Room::new("orphan");
    let options = node_options(&room);
    let kernel = Kernel::open(&options).unwrap();
    let (_, ifindex) = cable(&mut room, &kernel);
    kernel.attach_pod(ifindex).unwrap();
    run("ip", &["link", "delete", "lxc0"]);
    let links = kernel.attached().unwrap();
    assert!(links.len() == 2 && links.iter().all(|link| link.interface.is_none()), "{links:?}");
    let error = kernel.attach_pod(ifindex).unwrap_err();
    assert!(matches!(error, Error::NoInterface { .. }), "{error}");
    assert_eq!(kernel.prune_links().unwrap().len(), 2);
    assert_eq!(kernel.attached().unwrap(), []);
    assert!(!kernel.detach(ifindex).unwrap());
    // The number of a vanished interface may be given to another one.
    let index = ifindex.to_string();
    for name in ["second", "third"] {
        run("ip", &["link", "add", name, "index", &index, "type", "veth", "peer", "name", "other"]);
        kernel.attach_pod(ifindex).unwrap();
        let links = kernel.attached().unwrap();
        assert!(links.iter().all(|link| link.interface.as_deref() == Some(name)), "{links:?}");
        run("ip", &["link", "delete", name]);
    }
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn maps_change_their_size_with_their_rows() {
    let room = Room::new("resize");
    let mut options = room.options();
    (options.sizes.services, options.sizes.flows, options.sizes.ipcache) = (16, 1024, 64);
    let kernel = Kernel::open(&options).unwrap();
    kernel.upsert_service(frontend(1, 80), &service(&["10.1.1.1:80"])).unwrap();
    kernel.upsert_ipcache("10.1.0.0/16".parse().unwrap(), IpcacheEntry { identity: 3, in_cluster: true }).unwrap();
    let mut flows = table::<abi::Tuple, abi::Flow>(&kernel, abi::map::FLOWS);
    for port in 0..100 {
        flows.insert(tuple(port), abi::Flow::default(), 0).unwrap();
    }
    let before = (kernel.services().unwrap(), kernel.ipcache().unwrap());
    let ids = kernel.map_ids().unwrap();
    drop(kernel);

    (options.sizes.services, options.sizes.flows, options.sizes.ipcache) = (64, 4096, 32);
    let kernel = Kernel::open(&options).unwrap();
    assert_eq!((kernel.services().unwrap(), kernel.ipcache().unwrap()), before);
    assert_eq!(kernel.flows(usize::MAX).unwrap().len(), 100);
    let now = kernel.map_ids().unwrap();
    let moved: Vec<&str> = now.keys().copied().filter(|name| now[name] != ids[name]).collect();
    assert_eq!(moved, ["FLOWS", "IPCACHE", "SERVICES"]);
    drop(kernel);

    // A resize that was cut short: the old map was moved away, the new one is half full.
    let dir = room.pins.join(format!("v{}", abi::LAYOUT_VERSION));
    std::fs::rename(dir.join("SERVICES"), dir.join("SERVICES-outgrown")).unwrap();
    let empty = HashMap::<MapData, abi::ServiceKey, abi::Service>::create(64, 1).unwrap();
    empty.pin(dir.join("SERVICES")).unwrap();
    let kernel = Kernel::open(&options).unwrap();
    assert_eq!(kernel.services().unwrap(), before.0);
    drop(kernel);

    // A map that cannot be ours is made anew.
    std::fs::remove_file(dir.join("SERVICES")).unwrap();
    let strange = HashMap::<MapData, u32, u64>::create(64, 1).unwrap();
    strange.pin(dir.join("SERVICES")).unwrap();
    let kernel = Kernel::open(&options).unwrap();
    assert_eq!(kernel.services().unwrap(), BTreeMap::new());
    assert!(kernel.upsert_service(frontend(1, 80), &service(&["10.1.1.1:80"])).unwrap());
}

fn tuple(port: u16) -> abi::Tuple {
    let (src, dst) = (abi::Addr::v4([10, 1, 1, 5]), abi::Addr::v4([192, 0, 2, 1]));
    abi::Tuple { src, dst, sport: port.to_be_bytes(), dport: 80_u16.to_be_bytes(), proto: 17, zero: [0; 3] }
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn flows_are_read_collected_and_deleted() {
    let room = Room::new("flows");
    let kernel = room.open();
    let mut flows = table::<abi::Tuple, abi::Flow>(&kernel, abi::map::FLOWS);
    for port in 0..10_000 {
        let flow = abi::Flow { to: tuple(port), expires_s: port.into(), ..abi::Flow::default() };
        flows.insert(tuple(port), flow, 0).unwrap();
    }
    let all = kernel.flows(usize::MAX).unwrap();
    let ports: BTreeSet<u16> = all.iter().map(|row| row.from.src.port()).collect();
    assert_eq!((all.len(), ports.len()), (10_000, 10_000));
    assert_eq!((kernel.flows(7).unwrap().len(), kernel.flows(0).unwrap().len()), (7, 0));
    let began = Instant::now();
    let stats = kernel.collect_flows(4_000).unwrap();
    eprintln!("collected {} of {} flows in {:?}", stats.deleted, stats.seen, began.elapsed());
    assert_eq!((stats.seen, stats.deleted), (10_000, 4_000));
    // Rows that are written anew while they are being collected stay: the second look of each row finds it changed.
    let looks = std::cell::Cell::new(0_u32);
    let fickle = |row: &FlowRow| row.from.src.port() == 9_999 && looks.replace(looks.get() + 1) == 0;
    assert_eq!(kernel.delete_flows(&fickle).unwrap(), 0);
    assert!(looks.get() >= 2, "looked at again when it was taken");
    assert_eq!(kernel.flows(usize::MAX).unwrap().len(), 6_000);
    let odd = |row: &FlowRow| row.to.src.port() % 2 == 1;
    assert_eq!(kernel.delete_flows(&odd).unwrap(), 3_000);
    let left = kernel.flows(usize::MAX).unwrap();
    assert!(left.len() == 3_000 && left.iter().all(|row| row.expires_s >= 4_000 && !odd(row)));
    let usage = kernel.usage().unwrap().into_iter().find(|usage| usage.map == abi::map::FLOWS).unwrap();
    assert_eq!(usage.rows, 3_000);
}
