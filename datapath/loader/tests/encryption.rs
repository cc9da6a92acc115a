//! Nothing in plaintext, on real interfaces: a node with a pod, an underlay whose far end is watched, and a TUN device that
//! the test holds in WireGuard's place.
//!
//! Every packet carries a number in its payload, and is looked for where it must not appear; the same packets with the guard
//! off are the control that the watch sees them. Needs root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod wire;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use causeway_datapath_abi as abi;
use causeway_datapath_abi::{Counter, Tuple, config_flag, mark};
use causeway_datapath_loader::{
    Backend, Datapath, EncryptEntry, Endpoint, Frontend, Hook, IpcacheEntry, Kernel, LbService, Options, Proto, convert,
};
use causeway_datapath_logic::model::{Spec, broken_sum};
use wire::{Datagrams, Frames, Room, Tun, index_of, inside, number_in, numbers, payload, send_ip, sh};

const TCP: u8 = 6;
const UDP: u8 = 17;
const WG_PORT: u16 = 51871;
const WG: &str = "cilium_wg0";
/// Of the WireGuard device.
const MTU: usize = 1408;
/// `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h).
const VNET_HDR_LEN: usize = 10;
const POD_MAC: [u8; 6] = [6, 0, 0, 0, 0, 1];
const HOST_MAC: [u8; 6] = [10, 0, 0, 0, 0, 2];
const UP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// How long an end of a connection waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// Number of the packet that ends a round: it may pass, and comes last.
const LAST: u16 = 9999;

/// Addresses of one family.
#[derive(Clone, Copy)]
struct Family {
    is_v6: bool,
    icmp: u8,
    node: &'static str,
    pod: &'static str,
    far_node: &'static str,
    far_pod: &'static str,
    far_pods: &'static str,
    /// The underlay's addresses, this end and the other.
    near: &'static str,
    far: &'static str,
    outside: &'static str,
    vip: &'static str,
}

const V4: Family = Family {
    is_v6: false,
    icmp: 1,
    node: "10.0.0.11",
    pod: "10.1.1.5",
    far_node: "10.0.0.12",
    far_pod: "10.1.2.7",
    far_pods: "10.1.2.0/24",
    near: "172.16.0.1",
    far: "172.16.0.2",
    outside: "203.0.113.9",
    vip: "192.0.2.1",
};
const V6: Family = Family {
    is_v6: true,
    icmp: 58,
    node: "fd00:a::b",
    pod: "fd00:1:1::5",
    far_node: "fd00:a::c",
    far_pod: "fd00:1:2::7",
    far_pods: "fd00:1:2::/64",
    near: "fd00:172::1",
    far: "fd00:172::2",
    outside: "2001:db8:9::9",
    vip: "2001:db8:2::1",
};
const BOTH: [Family; 2] = [V4, V6];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Family {
    fn tuple(self, proto: u8, src: &str, sport: u16, dst: &str, dport: u16) -> Tuple {
        let [src, dst] = [src, dst].map(|a| convert::addr(ip(a)));
        Tuple { src, dst, sport: sport.to_be_bytes(), dport: dport.to_be_bytes(), proto, zero: [0; 3] }
    }

    fn udp(self, src: &str, dst: &str, dport: u16, number: u16) -> Spec {
        Spec { payload: payload(number), ..Spec::new(self.tuple(UDP, src, 40000, dst, dport)) }
    }

    /// One packet of each kind between two addresses.
    fn kinds(self, src: &str, dst: &str) -> Vec<Spec> {
        let with = |proto, sport, dport| Spec::new(self.tuple(proto, src, sport, dst, dport));
        let fragment = |offset, more| Some((77, offset, more));
        vec![
            with(TCP, 40000, 80),
            with(UDP, 40000, 53),
            with(self.icmp, 40000, 0),
            Spec { fragment: fragment(0, true), ..with(UDP, 40001, 53) },
            Spec { fragment: fragment(4, false), ..with(UDP, 40001, 53) },
            Spec { options: 8, ..with(UDP, 40002, 53) },
            with(132, 40000, 80),
            with(50, 1, 2),
        ]
    }
}

/// Who sends a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    Pod,
    /// The host's stack, with this mark.
    Host(u32),
    /// Somebody at the far end of the underlay, to this node's interface.
    Far,
}

struct Lab {
    // Before the room, so that nothing holds its pins.
    kernel: Option<Kernel>,
    far: Frames,
    far_index: u32,
    pod: Frames,
    pod_index: u32,
    far_ns: String,
    pod_ns: String,
    options: Options,
    _room: Room,
}

impl Lab {
    fn new(name: &str) -> Lab {
        let mut room = Room::new(name);
        let (far_ns, pod_ns) = (room.namespace(&format!("{name}-far")), room.namespace(&format!("{name}-pod")));
        sysctls();
        cables(&far_ns, &pod_ns);
        let mut options = Options::new(&room.pins, abi::NodeConfig::default());
        options.node.node_v4 = convert::addr(ip(V4.node));
        options.node.node_v6 = convert::addr(ip(V6.node));
        (options.node.snat_port_min, options.node.snat_port_max) = (32_768, 60_999);
        (options.node.wireguard_port, options.node.wireguard_ports) = (WG_PORT, 1);
        let (far, far_index) = inside(&far_ns, || (Frames::open(), index_of("far0")));
        let (pod, pod_index) = inside(&pod_ns, || (Frames::open(), index_of("eth0")));
        // What a pod marks is worth nothing outside of it.
        pod.set_mark(mark::ENCRYPTED);
        let mut lab = Lab { kernel: None, far, far_index, pod, pod_index, far_ns, pod_ns, options, _room: room };
        lab.restart(false);
        lab.fill();
        lab
    }

    /// Ends the process, so to say, and starts the next one with encryption on or off.
    fn restart(&mut self, encrypting: bool) {
        self.kernel = None;
        self.options.node.flags = if encrypting { config_flag::ENCRYPT } else { 0 };
        self.kernel = Some(Kernel::open(&self.options).unwrap());
    }

    fn kernel(&self) -> &Kernel {
        self.kernel.as_ref().unwrap()
    }

    fn fill(&self) {
        let kernel = self.kernel();
        let (ifindex, up) = (index_of("lxc0"), index_of("up0"));
        kernel.attach_pod(ifindex).unwrap();
        kernel.attach_uplink(up).unwrap();
        let endpoint = Endpoint { ifindex, identity: 1234, id: 1, mac: POD_MAC, host_mac: HOST_MAC };
        for f in BOTH {
            kernel.upsert_endpoint(ip(f.pod), endpoint).unwrap();
            for (prefix, identity) in [(f.far_pods, 5), (f.pod, 1234), (f.node, 1), (f.far_node, 6)] {
                let entry = IpcacheEntry { identity, in_cluster: true };
                let prefix = prefix.parse().unwrap_or_else(|_| ip(prefix).into());
                kernel.upsert_ipcache(prefix, entry).unwrap();
            }
            let backends = vec![Backend { addr: (ip(f.far_pod), 8080).into(), local: false }];
            let service = LbService { backends, external: true, ..LbService::default() };
            let frontend = Frontend { addr: ip(f.vip), port: 80, proto: Proto::Tcp };
            kernel.upsert_service(frontend, &service).unwrap();
        }
    }

    /// The rows that an agent would write, hosts included. The underlay's own addresses are the far node's, too.
    fn guard(&self) {
        for f in BOTH {
            let pods = if f.is_v6 { "fd00:1:1::/64" } else { "10.1.1.0/24" };
            let rows = [
                (pods.parse().unwrap(), EncryptEntry::LocalPods),
                (f.far_pods.parse().unwrap(), EncryptEntry::RemotePods),
                (ip(f.far_node).into(), EncryptEntry::RemoteNode { hosts_too: true }),
                (ip(f.far).into(), EncryptEntry::RemoteNode { hosts_too: true }),
            ];
            for (prefix, entry) in rows {
                self.kernel().upsert_encrypt(prefix, entry).unwrap();
            }
        }
    }

    fn send(&self, by: By, spec: &Spec) {
        let mut frame = spec.build();
        match by {
            By::Host(mark) => send_ip(&frame.split_off(14), convert::ip(spec.tuple.dst), mark),
            By::Pod => {
                frame[..6].copy_from_slice(&HOST_MAC);
                self.pod.send(self.pod_index, &frame);
            }
            By::Far => {
                frame[..6].copy_from_slice(&UP_MAC);
                self.far.send(self.far_index, &frame);
            }
        }
    }

    /// Sends numbered packets and a last one that may pass, and gives the numbers that the far end saw.
    fn on_the_wire(&self, packets: &[(By, Spec)]) -> BTreeSet<u16> {
        self.far.forget();
        self.send_all(packets);
        self.send(By::Host(0), &V4.udp(V4.node, V4.outside, 53, LAST));
        let mut seen = numbers(&self.far.until(|frame| number_in(frame) == Some(LAST)));
        assert!(seen.remove(&LAST), "what may pass did not: the watch is blind");
        seen
    }

    fn send_all(&self, packets: &[(By, Spec)]) {
        for (number, (by, spec)) in (0..).zip(packets) {
            self.send(*by, &Spec { payload: payload(number), ..spec.clone() });
        }
    }

    fn counted(&self, counter: Counter) -> u64 {
        self.kernel().counters().unwrap().into_iter().find(|row| row.counter == counter).unwrap().packets
    }
}

fn sysctls() {
    let default = "net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.router_solicitations=0";
    sh(&format!("sysctl -qw {default} net.ipv4.conf.all.forwarding=1 net.ipv6.conf.all.forwarding=1"));
    sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.default.forwarding=1");
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn cables(far: &str, pod: &str) {
    let (up, host, own) = (mac(UP_MAC), mac(HOST_MAC), mac(POD_MAC));
    for line in [
        format!("ip netns exec {far} sysctl -qw net.ipv6.conf.default.accept_dad=0"),
        format!("ip netns exec {pod} sysctl -qw net.ipv6.conf.default.accept_dad=0"),
        format!("ip link add up0 address {up} type veth peer name far0 netns {far}"),
        format!("ip link add lxc0 address {host} type veth peer name eth0 address {own} netns {pod}"),
        format!("ip -n {far} link set far0 up"),
        format!("ip -n {pod} link set eth0 up"),
        "ip link set up0 up".into(),
        "ip link set lxc0 up".into(),
    ] {
        sh(&line);
    }
    for f in BOTH {
        let (len, link, gateway) = if f.is_v6 { (128, 64, "fe80::1") } else { (32, 24, "169.254.1.1") };
        let Family { node, pod: addr, far_node, near, far: far_addr, .. } = f;
        for line in [
            format!("ip address add {node}/{len} dev lo"),
            format!("ip address add {near}/{link} dev up0"),
            format!("ip -n {far} address add {far_addr}/{link} dev far0"),
            format!("ip -n {far} address add {far_node}/{len} dev lo"),
            format!("ip route add default via {far_addr}"),
            format!("ip route add {addr}/{len} dev lxc0"),
            format!("ip neighbour replace {addr} lladdr {own} dev lxc0 nud permanent"),
            format!("ip -n {pod} address add {addr}/{len} dev eth0"),
            format!("ip -n {pod} neighbour replace {gateway} lladdr {host} dev eth0 nud permanent"),
            format!("ip -n {pod} route add default via {gateway} dev eth0 onlink"),
        ] {
            sh(&line);
        }
    }
}

/// Everything that must not be seen on the wire.
fn secrets(f: Family) -> Vec<(By, Spec)> {
    let by = |by: By| move |spec| (by, spec);
    let service = |src, port| Spec::new(f.tuple(TCP, src, port, f.vip, 80));
    let mut all: Vec<(By, Spec)> = f.kinds(f.pod, f.far_pod).into_iter().map(by(By::Pod)).collect();
    all.extend(f.kinds(f.node, f.far_pod).into_iter().map(by(By::Host(0))));
    all.extend(f.kinds(f.pod, f.far_node).into_iter().map(by(By::Pod)));
    all.extend(f.kinds(f.node, f.far_node).into_iter().map(by(By::Host(0))));
    // The mark of the programs is no pass.
    all.extend(f.kinds(f.node, f.far_pod).into_iter().map(by(By::Host(mark::DONE))));
    all.push((By::Pod, service(f.pod, 40010)));
    all.push((By::Host(0), service(f.node, 40011)));
    all.push((By::Far, service(f.outside, 40012)));
    all
}

fn all_of(packets: &[(By, Spec)]) -> BTreeSet<u16> {
    (0..u16::try_from(packets.len()).unwrap()).collect()
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn without_a_route_into_wireguard_nothing_leaves_in_plaintext() {
    let mut lab = Lab::new("guard");
    for f in BOTH {
        let all = secrets(f);
        // The last one but the services' may need the neighbour's address first; the control shows that all are seen.
        lab.on_the_wire(&all[..1]);
        assert_eq!(lab.on_the_wire(&all), all_of(&all), "control, v6 {}", f.is_v6);
    }
    // With rows and without the switch nothing changes.
    lab.guard();
    for f in BOTH {
        assert_eq!(lab.on_the_wire(&secrets(f)), all_of(&secrets(f)), "off, v6 {}", f.is_v6);
    }
    // Switched on below connections that are open.
    lab.restart(true);
    let mut sent = 0;
    for f in BOTH {
        let before = lab.counted(Counter::NotEncrypted);
        assert_eq!(lab.on_the_wire(&secrets(f)), BTreeSet::new(), "guarded, v6 {}", f.is_v6);
        let refused = lab.counted(Counter::NotEncrypted) - before;
        assert_eq!(refused, secrets(f).len() as u64, "each was refused by the guard and by nothing else");
        sent += refused;
    }
    // The process is gone; the programs are not.
    lab.kernel = None;
    for f in BOTH {
        assert_eq!(lab.on_the_wire(&secrets(f)), BTreeSet::new(), "without a process, v6 {}", f.is_v6);
    }
    lab.restart(true);
    assert_eq!(lab.counted(Counter::NotEncrypted), 2 * sent);
    assert_eq!(lab.kernel().encrypt().unwrap().len(), 8, "adopted");
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn what_needs_no_encryption_passes_and_neighbours_are_found() {
    let mut lab = Lab::new("plain");
    lab.restart(true);
    lab.guard();
    for f in BOTH {
        // The neighbour must be found anew, by an address that is a guarded node's.
        sh("ip neighbour flush dev up0");
        let open = [
            (By::Host(0), f.udp(f.node, f.outside, 53, 0)),
            (By::Pod, f.udp(f.pod, f.outside, 53, 0)),
            (By::Host(mark::ENCRYPTED), f.udp(f.node, f.far_node, WG_PORT, 0)),
            (By::Host(mark::ENCRYPTED), f.udp(f.node, f.far, WG_PORT, 0)),
        ];
        assert_eq!(lab.on_the_wire(&open), all_of(&open), "v6 {}", f.is_v6);
        // An exception, and its end.
        let plain = [(By::Host(0), f.udp(f.node, f.far_node, 22, 0))];
        assert_eq!(lab.on_the_wire(&plain), BTreeSet::new());
        lab.kernel().upsert_encrypt(ip(f.far_node).into(), EncryptEntry::Plain).unwrap();
        assert_eq!(lab.on_the_wire(&plain), all_of(&plain));
        lab.kernel().delete_encrypt(ip(f.far_node).into()).unwrap();
        let row = EncryptEntry::RemoteNode { hosts_too: true };
        lab.kernel().upsert_encrypt(ip(f.far_node).into(), row).unwrap();
        assert_eq!(lab.on_the_wire(&plain), BTreeSet::new());
    }
}

/// Packets from the far end: who gets them.
fn arrivals(lab: &Lab, f: Family) -> [BTreeSet<u16>; 3] {
    let node = Datagrams::open(ip(f.node), 9000);
    let wireguard = Datagrams::open(ip(f.node), WG_PORT);
    lab.pod.forget();
    let mut number = 0;
    for src in [f.outside, f.far_pod, f.far_node] {
        for (dst, port) in [(f.node, 9000), (f.node, WG_PORT), (f.pod, 8080)] {
            lab.send(By::Far, &f.udp(src, dst, port, number));
            number += 1;
        }
    }
    for (dst, port) in [(f.node, 9000), (f.node, WG_PORT), (f.pod, 8080)] {
        lab.send(By::Far, &f.udp(f.outside, dst, port, LAST));
    }
    let is_last = |packet: &[u8]| number_in(packet) == Some(LAST);
    let seen = [numbers(&node.until(is_last)), numbers(&wireguard.until(is_last)), numbers(&lab.pod.until(is_last))];
    seen.map(|mut numbers| {
        assert!(numbers.remove(&LAST), "what may arrive did not: the watch is blind");
        numbers
    })
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn plaintext_from_the_wire_is_refused() {
    let mut lab = Lab::new("ingress");
    lab.guard();
    for f in BOTH {
        let control = [[0, 3, 6], [1, 4, 7], [2, 5, 8]].map(BTreeSet::from);
        assert_eq!(arrivals(&lab, f), control, "control, v6 {}", f.is_v6);
    }
    lab.restart(true);
    for f in BOTH {
        let before = lab.counted(Counter::PlaintextRefused);
        // From outside everything; from the other node only what is for WireGuard.
        let want = [BTreeSet::from([0]), BTreeSet::from([1, 7]), BTreeSet::from([2])];
        assert_eq!(arrivals(&lab, f), want, "v6 {}", f.is_v6);
        assert_eq!(lab.counted(Counter::PlaintextRefused) - before, 5);
    }
}

/// A lab with the device and routes into it.
fn with_device(name: &str, offload: bool) -> (Lab, Tun) {
    let mut lab = Lab::new(name);
    let tun = Tun::open(WG, offload);
    sh(&format!("ip link set {WG} mtu {MTU} up"));
    for f in BOTH {
        sh(&format!("ip route add {} dev {WG} src {}", f.far_pods, f.node));
    }
    lab.restart(true);
    lab.guard();
    lab.kernel().attach_wireguard(index_of(WG)).unwrap();
    (lab, tun)
}

/// Sends numbered packets and gives what came out of the device, in the order of the numbers.
fn out_of_the_device(lab: &Lab, tun: &mut Tun, packets: &[(By, Spec)]) -> Vec<Vec<u8>> {
    tun.forget();
    lab.far.forget();
    lab.send_all(packets);
    lab.send(By::Host(0), &V4.udp(V4.node, V4.far_pod, 53, LAST));
    lab.send(By::Host(0), &V4.udp(V4.node, V4.outside, 53, LAST));
    let is_last = |packet: &[u8]| number_in(packet) == Some(LAST);
    let mut out = tun.until(is_last);
    assert!(numbers(&out).contains(&LAST), "the device is blind");
    out.retain(|packet| number_in(packet).is_some_and(|number| number != LAST));
    out.sort_by_key(|packet| number_in(packet));
    assert_eq!(numbers(&lab.far.until(is_last)), BTreeSet::from([LAST]), "nothing of it is on the wire");
    out
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn with_a_route_packets_leave_by_wireguard_whole_and_without_a_frame() {
    let (lab, mut tun) = with_device("route", false);
    for f in BOTH {
        let kinds = f.kinds(f.pod, f.far_pod);
        let by_pod: Vec<(By, Spec)> = kinds.into_iter().map(|spec| (By::Pod, spec)).collect();
        let before = lab.counted(Counter::ToNetwork);
        let out = out_of_the_device(&lab, &mut tun, &by_pod);
        assert_eq!(out.len(), by_pod.len());
        assert_eq!(lab.counted(Counter::ToNetwork) - before, by_pod.len() as u64, "sent by the program, not the stack");
        for (number, ((_, spec), packet)) in (0..).zip(by_pod.iter().zip(&out)) {
            // A hop less, and every other byte as it was sent.
            let want = Spec { payload: payload(number), ttl: 63, ..spec.clone() }.build_ip();
            assert_eq!(packet, &want, "v6 {} {spec:?}", f.is_v6);
        }
        let by_host: Vec<(By, Spec)> = f.kinds(f.node, f.far_pod).into_iter().map(|s| (By::Host(0), s)).collect();
        let out = out_of_the_device(&lab, &mut tun, &by_host);
        assert_eq!(numbers(&out), all_of(&by_host));
        // Services: a pod's, the host's by way of the uplink's program, and a client's from outside.
        let service = |by, src, port| (by, Spec::new(f.tuple(TCP, src, port, f.vip, 80)));
        let services =
            [service(By::Pod, f.pod, 41010), service(By::Host(0), f.node, 41011), service(By::Far, f.outside, 41012)];
        let out = out_of_the_device(&lab, &mut tun, &services);
        assert_eq!(numbers(&out), all_of(&services), "v6 {}", f.is_v6);
        for packet in out {
            let mut frame = vec![0; 12];
            frame.extend(if f.is_v6 { [0x86, 0xdd] } else { [8, 0] });
            frame.extend(&packet);
            assert_eq!(broken_sum(&frame), None);
            let far_pod = convert::addr(ip(f.far_pod));
            let dst = if f.is_v6 { &packet[24..40] } else { &packet[16..20] };
            assert_eq!(dst, if f.is_v6 { &far_pod.0[..] } else { &far_pod.0[12..] });
        }
    }
    assert_eq!(lab.counted(Counter::NotEncrypted), 0);
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn a_packet_too_big_for_the_device_is_answered_or_cut() {
    let (lab, mut tun) = with_device("mtu", false);
    for f in BOTH {
        lab.pod.forget();
        let mut big = f.udp(f.pod, f.far_pod, 53, 0);
        big.payload.resize(1450, 7);
        lab.send(By::Pod, &big);
        // Type 3 code 4 (RFC 792, RFC 1191) or type 2 (RFC 4443), with the device's MTU.
        let (at, want) = if f.is_v6 { (54, [2, 0]) } else { (34, [3, 4]) };
        let is_answer = |frame: &[u8]| frame.get(at..at + 2) == Some(&want) && number_in(frame) == Some(0);
        let answers: Vec<Vec<u8>> = lab.pod.until(is_answer).into_iter().filter(|frame| is_answer(frame)).collect();
        assert_eq!(answers.len(), 1, "v6 {}", f.is_v6);
        let mtu = usize::from(u16::from_be_bytes([answers[0][at + 6], answers[0][at + 7]]));
        assert_eq!(mtu, MTU);
    }
    let mut big = V4.udp(V4.pod, V4.far_pod, 53, 0);
    big.payload.resize(1450, 7);
    big.dont_fragment = false;
    tun.forget();
    lab.send(By::Pod, &big);
    let out = tun.until(|packet| packet.len() < 200);
    let fragments: Vec<&Vec<u8>> = out.iter().filter(|packet| packet[0] == 0x45 && packet[9] == UDP).collect();
    assert!(fragments.len() == 2 && fragments.iter().all(|packet| packet.len() <= MTU), "{fragments:?}");
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn decrypted_packets_reach_the_pod_and_the_hosts_stack() {
    let (mut lab, mut tun) = with_device("decrypted", false);
    let wg = index_of(WG);
    // With the process, and without it.
    for is_alone in [false, true] {
        if is_alone {
            lab.kernel = None;
        }
        for f in BOTH {
            let in_pod = inside(&lab.pod_ns, || Datagrams::open(ip(f.pod), 8080));
            let on_host = Datagrams::open(ip(f.node), 9000);
            lab.pod.forget();
            let kinds = f.kinds(f.far_pod, f.pod);
            for (number, spec) in (0..).zip(&kinds) {
                tun.write(&Spec { payload: payload(number), ..spec.clone() }.build_ip());
            }
            tun.write(&f.udp(f.far_pod, f.pod, 8080, 100).build_ip());
            tun.write(&f.udp(f.far_pod, f.node, 9000, 101).build_ip());
            tun.write(&f.udp(f.far_node, f.node, 9000, LAST).build_ip());
            tun.write(&f.udp(f.far_node, f.pod, 8080, LAST).build_ip());
            let is_last = |packet: &[u8]| number_in(packet) == Some(LAST);
            // Sockets get them, so the kernel finds headers where they are.
            assert_eq!(on_host.until(is_last), [payload(101), payload(LAST)], "host, v6 {}", f.is_v6);
            assert_eq!(in_pod.until(is_last), [payload(100), payload(LAST)], "pod, v6 {}", f.is_v6);
            // On the pod's interface they are frames like any other.
            let frames = lab.pod.until(is_last);
            for (number, spec) in (0..).zip(&kinds) {
                let mut want = Spec { payload: payload(number), ttl: 63, ..spec.clone() }.build();
                want[..6].copy_from_slice(&POD_MAC);
                want[6..12].copy_from_slice(&HOST_MAC);
                let have = frames.iter().find(|frame| number_in(frame) == Some(number));
                assert_eq!(have, Some(&want), "v6 {} {spec:?}", f.is_v6);
            }
        }
    }
    lab.restart(true);
    assert_eq!(lab.counted(Counter::PlaintextRefused), 0);
    // Of ten packets to the pod in each family, with and without the process; the stack would have brought them, too.
    assert_eq!(lab.counted(Counter::ToEndpoint), 40);
    assert!(lab.kernel().attached().unwrap().iter().any(|link| (link.ifindex, link.hook) == (wg, Hook::FromWg)));
    // The device goes with the process that holds it.
    drop(tun);
    let gone = lab.kernel().prune_links().unwrap();
    assert_eq!(gone.iter().map(|link| (link.ifindex, link.hook)).collect::<Vec<_>>(), [(wg, Hook::FromWg)]);
    assert!(lab.kernel().attach_wireguard(wg).is_err());
}

/// Echoes what one client says, if one comes: a test that fails elsewhere must not wait here.
fn echo(listener: &TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "no client came: {error}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = vec![0; 65_536];
    loop {
        let len = stream.read(&mut bytes).unwrap();
        if len == 0 {
            return;
        }
        stream.write_all(&bytes[..len]).unwrap();
    }
}

/// Says `LENGTH` bytes to an echo, and hears them all.
fn converse(to: SocketAddr) {
    const LENGTH: usize = 3_000_000;
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE / 2).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let said: Vec<u8> = (0..LENGTH).map(|n| u8::try_from(n * 31 % 251).unwrap()).collect();
    let mut heard = vec![0; LENGTH];
    std::thread::scope(|scope| {
        let mut writer = stream.try_clone().unwrap();
        let said = &said;
        scope.spawn(move || writer.write_all(said).unwrap());
        stream.read_exact(&mut heard).unwrap();
    });
    assert!(said == heard, "the bytes arrive as they were said");
}

/// What a carrier has seen.
#[derive(Default)]
struct Carried {
    /// Bytes of the longest packets.
    longest_out: usize,
    longest_back: usize,
    /// The least MTU with which all segments fit whose size somebody has said in a SYN.
    said: u16,
}

impl Carried {
    /// Looks at an IP packet without IP options.
    fn see(&mut self, packet: &[u8]) {
        let (protocol, ip_len) = if packet[0] >> 4 == 6 { (packet[6], 40) } else { (packet[9], 20) };
        let is_syn = protocol == 6 && packet[ip_len + 13] & 2 != 0;
        // Linux says the segment size first (kind 2, 4 bytes).
        if is_syn && packet[ip_len + 20..].starts_with(&[2, 4]) {
            let size = u16::from_be_bytes([packet[ip_len + 22], packet[ip_len + 23]]);
            self.said = self.said.max(size + 20 + u16::try_from(ip_len).unwrap());
        }
    }
}

/// Carries packets between two devices, as two nodes' WireGuard does. `header`: bytes in front of each IP packet.
fn carry(near: &mut Tun, far: &mut Tun, header: usize, stop: &AtomicBool) -> Carried {
    let mut seen = Carried::default();
    while !stop.load(Ordering::Relaxed) {
        let (out, back) = (near.next(), far.next());
        if out.is_none() && back.is_none() {
            std::thread::sleep(Duration::from_micros(100));
        }
        if let Some(packet) = out {
            seen.longest_out = packet.len().max(seen.longest_out);
            seen.see(&packet[header..]);
            far.write(&packet);
        }
        if let Some(packet) = back {
            seen.longest_back = packet.len().max(seen.longest_back);
            seen.see(&packet[header..]);
            near.write(&packet);
        }
    }
    seen
}

/// Ends the carrier, also when a conversation fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// TCP with the kernel's own ends: offloaded packets, partial checksums, a path MTU that must be learned.
fn conversations(offload: bool) {
    let (lab, mut near) = with_device(if offload { "tso" } else { "tcp" }, offload);
    let (far_ns, pod_ns) = (lab.far_ns.clone(), lab.pod_ns.clone());
    let mut far = inside(&far_ns, || Tun::open(WG, offload));
    sh(&format!("ip -n {far_ns} link set {WG} mtu {MTU} up"));
    for f in BOTH {
        let len = if f.is_v6 { 128 } else { 32 };
        sh(&format!("ip route replace default via {} src {}", f.far, f.node));
        sh(&format!("ip route add {} dev {WG} src {}", f.far_node, f.node));
        sh(&format!("ip -n {far_ns} address add {}/{len} dev lo", f.far_pod));
        for near_end in [f.pod, f.node] {
            sh(&format!("ip -n {far_ns} route add {near_end}/{len} dev {WG} src {}", f.far_pod));
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ends = Ends(&stop);
        let carrier = scope.spawn(|| carry(&mut near, &mut far, if offload { VNET_HDR_LEN } else { 0 }, &stop));
        for f in BOTH {
            let vip = SocketAddr::new(ip(f.vip), 80);
            let listen = |netns: &str, at: &str, port| inside(netns, || TcpListener::bind((ip(at), port)).unwrap());
            let at_far_pod = listen(&far_ns, f.far_pod, 8080);
            let at_far_node = listen(&far_ns, f.far_node, 22);
            let in_pod = listen(&pod_ns, f.pod, 8080);
            let addr = |listener: &TcpListener| listener.local_addr().unwrap();
            for (listener, client, to) in [
                (&at_far_pod, Some(&pod_ns), addr(&at_far_pod)),
                (&at_far_pod, None, addr(&at_far_pod)),
                (&at_far_node, None, addr(&at_far_node)),
                (&in_pod, Some(&far_ns), addr(&in_pod)),
                (&at_far_pod, Some(&pod_ns), vip),
                (&at_far_pod, None, vip),
            ] {
                std::thread::scope(|pair| {
                    pair.spawn(|| echo(listener));
                    match client {
                        Some(netns) => inside(netns, || converse(to)),
                        None => converse(to),
                    }
                });
            }
        }
        drop(ends);
        let seen = carrier.join().unwrap();
        let (out, back) = (seen.longest_out, seen.longest_back);
        // With offloads many segments are one packet, both to the programs and from them; without, none is too long.
        assert!(if offload { out.min(back) > 10 * MTU } else { out.max(back) == MTU }, "{out} {back}");
        // The pod's MTU and that of the default route are 1500.
        assert_eq!(usize::from(seen.said), MTU, "segment sizes are lowered to what the device takes");
    });
    let drops: Vec<_> =
        lab.kernel().counters().unwrap().into_iter().filter(|row| row.counter.is_drop() && row.packets > 0).collect();
    assert!(drops.is_empty(), "{drops:?}");
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn connections_through_the_device_carry_every_byte() {
    conversations(false);
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn connections_through_a_device_with_offloads_carry_every_byte() {
    conversations(true);
}
