//! The backend against this machine's kernel. The probe always runs; the rest needs root and a kernel with WireGuard:
//! `cargo test -p causeway-encryption-kernel --test kernel -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{fs, thread};

use causeway_encryption_device::Device as _;
use causeway_encryption_kernel::{Kernel, probe};
use causeway_encryption_plan::{Change, DeviceSpec, Link, PeerName, PrivateKey, Snapshot};
use ipnet::IpNet;
use nix::sched::{CloneFlags, setns, unshare};

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

/// A network namespace with a device, and the thread that lives in it.
struct Node {
    number: u8,
    namespace: String,
    jobs: mpsc::Sender<Job>,
    _names: tempfile::TempDir,
}

type Job = Box<dyn FnOnce(&mut Kernel) + Send>;

fn run(command: &str) {
    let status = Command::new("sh").args(["-ec", command]).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command}");
}

impl Node {
    fn new(number: u8) -> Self {
        let namespace = format!("cwk{number}-{}", std::process::id());
        run(&format!("ip netns add {namespace}; ip -n {namespace} link set lo up"));
        let (jobs, queue) = mpsc::channel::<Job>();
        let names = tempfile::tempdir().unwrap();
        let (path, file) = (format!("/run/netns/{namespace}"), names.path().join("names.json"));
        thread::spawn(move || {
            setns(fs::File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            // /proc/sys/net is the opener's namespace; nothing else is needed of it.
            unshare(CloneFlags::CLONE_FS).unwrap();
            let mut device = Kernel::new("a test".into(), file);
            for job in queue {
                job(&mut device);
            }
        });
        Self { number, namespace, jobs, _names: names }
    }

    fn on<T: Send + 'static>(&self, job: impl FnOnce(&mut Kernel) -> T + Send + 'static) -> T {
        let (answer, wait) = mpsc::channel();
        self.jobs.send(Box::new(move |device| drop(answer.send(job(device))))).unwrap();
        wait.recv().expect("the node's thread has panicked")
    }

    fn pass(&self) -> Snapshot {
        let number = self.number;
        let snapshot = self.on(move |device| {
            device.ensure(&spec(number)).unwrap();
            device.snapshot().unwrap()
        });
        // What the agent does: packets to a peer go by the interface that the snapshot names.
        for (name, stats) in &snapshot.stats {
            let other = name.as_str().trim_start_matches("c/node");
            let ns = &self.namespace;
            run(&format!(
                "link=$(ip -n {ns} -o link | sed -n 's/^{}: \\([^:@]*\\).*/\\1/p'); \
                 ip -n {ns} route replace 10.{other}.0.0/16 dev $link src 10.{}.0.1",
                stats.ifindex, self.number
            ));
        }
        snapshot
    }

    fn apply(&self, changes: Vec<Change>) {
        self.on(move |device| device.apply(changes).unwrap());
    }

    fn confirmed(&self, link: Link) -> bool {
        let snapshot = self.pass();
        snapshot.stats.values().flat_map(|stats| &stats.links).any(|(known, stats)| *known == link && stats.confirmed)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

fn spec(number: u8) -> DeviceSpec {
    let addresses = vec![underlay(number)];
    DeviceSpec { name: "cilium_wg0".into(), port: 51871, mark: 0x1e00, mtu: 1408, addresses }
}

fn underlay(number: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, number).into()
}

fn key(number: u8) -> PrivateKey {
    PrivateKey::from_random([number; 32])
}

fn name(number: u8) -> PeerName {
    PeerName::new("c", &format!("node{number}"))
}

/// `own` and `remote` are numbers of keys.
fn link(own: u8, remote: u8) -> Link {
    Link { own: key(own).public(), remote: key(remote).public() }
}

fn nodes() -> [Node; 2] {
    let nodes = [Node::new(1), Node::new(2)];
    let [a, b] = [&nodes[0].namespace, &nodes[1].namespace];
    run(&format!("ip link add u1 netns {a} type veth peer name u2 netns {b}"));
    for (node, other) in [(&nodes[0], 2u8), (&nodes[1], 1)] {
        let (ns, number) = (&node.namespace, node.number);
        run(&format!(
            "ip -n {ns} addr add 192.0.2.{number}/24 dev u{number}; ip -n {ns} link set u{number} up; \
             ip -n {ns} addr add 10.{number}.0.1/32 dev lo"
        ));
        node.pass();
        let endpoint = SocketAddr::new(underlay(other), 51871);
        let prefix: IpNet = format!("10.{other}.0.0/16").parse().unwrap();
        node.apply(vec![
            Change::AddIdentity { private: key(number) },
            Change::AddPeer { peer: name(other), endpoint, keepalive_s: None, link: link(number, other) },
            Change::AddPrefix { peer: name(other), prefix },
        ]);
        node.pass();
    }
    nodes
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..300 {
        if done() {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("{what}: not within 30 s");
}

/// Whether the kernel can do what the test is about; says so if not.
fn can() -> bool {
    match probe() {
        Ok(()) => true,
        Err(why) if why.contains("EOPNOTSUPP") => {
            println!("not run: {why}");
            false
        }
        Err(why) => panic!("{why}"),
    }
}

#[test]
#[ignore = "needs root and a kernel with WireGuard"]
fn two_nodes_ping_and_a_thousand_prefixes_are_read_back() {
    if !can() {
        return;
    }
    let [a, _b] = nodes();
    run(&format!("ip netns exec {} ping -c 3 -i 0.2 -W 5 10.2.0.1", a.namespace));
    assert!(a.confirmed(link(1, 2)));
    let prefixes: Vec<IpNet> = (0..1000u32)
        .map(|i| IpNet::new(Ipv4Addr::from(0x0b00_0000 + i * 256).into(), 24).unwrap())
        .chain(["fd00:2::/64".parse().unwrap()])
        .collect();
    a.apply(prefixes.iter().map(|prefix| Change::AddPrefix { peer: name(2), prefix: *prefix }).collect());
    let held = a.pass().actual.peers[&name(2)].clone();
    assert_eq!(held.prefixes.len(), prefixes.len() + 1);
    a.apply(prefixes.iter().map(|prefix| Change::RemovePrefix { peer: name(2), prefix: *prefix }).collect());
    assert_eq!(a.pass().actual.peers[&name(2)].prefixes.len(), 1);
    run(&format!("ip netns exec {} ping -c 3 -i 0.2 -W 5 10.2.0.1", a.namespace));
    a.on(|device| device.delete().unwrap());
}

/// Both ends at once: warm, switch, forget, and the way home, under a ping every 5 ms.
#[test]
#[ignore = "needs root and a kernel with WireGuard"]
fn a_rotation_loses_nothing() {
    if !can() {
        return;
    }
    let nodes = nodes();
    run(&format!("ip netns exec {} ping -c 3 -i 0.2 -W 5 10.2.0.1", nodes[0].namespace));
    let ping = Command::new("ip")
        .args(["netns", "exec", &nodes[0].namespace, "ping", "-i", "0.005", "-q", "10.2.0.1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for (node, other) in [(&nodes[0], 2u8), (&nodes[1], 1)] {
        let own = node.number;
        let more = [link(own, other + 10), link(own + 10, other), link(own + 10, other + 10)];
        node.apply(vec![Change::AddIdentity { private: key(own + 10) }]);
        node.apply(more.map(|link| Change::AddLink { peer: name(other), link }).to_vec());
    }
    for (node, new) in [(&nodes[0], link(11, 12)), (&nodes[1], link(12, 11))] {
        wait("a session of the new keys", || {
            nodes.iter().for_each(|node| drop(node.pass()));
            node.confirmed(new)
        });
    }
    for (node, other) in [(&nodes[0], 2u8), (&nodes[1], 1)] {
        node.apply(vec![Change::Activate { peer: name(other), link: link(node.number + 10, other + 10) }]);
        node.pass();
    }
    thread::sleep(Duration::from_secs(1));
    for (node, other) in [(&nodes[0], 2u8), (&nodes[1], 1)] {
        let own = node.number;
        let old = [link(own, other), link(own, other + 10), link(own + 10, other)];
        let mut changes: Vec<_> = old.map(|link| Change::RemoveLink { peer: name(other), link }).to_vec();
        changes.push(Change::RemoveIdentity { public: key(own).public() });
        node.apply(changes);
    }
    wait("everything at home", || {
        nodes.iter().for_each(|node| drop(node.pass()));
        let links = |node: &Node| {
            let out = Command::new("ip").args(["-n", &node.namespace, "-o", "link"]).output().unwrap();
            String::from_utf8_lossy(&out.stdout).matches("cilium_wg").count()
        };
        nodes.iter().all(|node| links(node) == 1)
    });
    thread::sleep(Duration::from_secs(1));
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(ping.id()).unwrap()),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    let said = String::from_utf8(ping.wait_with_output().unwrap().stdout).unwrap();
    println!("{said}");
    assert!(said.contains(" 0% packet loss"), "{said}");
}
