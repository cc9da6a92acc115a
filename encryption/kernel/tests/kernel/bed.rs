//! Two nodes in network namespaces, with a cable between them and an echo that counts what it loses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, mpsc};
use std::time::{Duration, Instant};
use std::{fs, thread};

use causeway_encryption_device::{Device, DeviceError, Embedded};
use causeway_encryption_kernel::Kernel;
use causeway_encryption_plan::{
    Announcement, Change, Desired, DeviceSpec, EpochKey, Link, LinkStats, Peer, PeerName, PrivateKey, PublicKey,
    Snapshot, active_link, cold_links, links, plan,
};
use ipnet::IpNet;
use nix::net::if_::if_nameindex;
use nix::sched::{CloneFlags, setns, unshare};

pub(crate) const DEVICE: &str = "cilium_wg0";
pub(crate) const PORT: u16 = 51871;

/// How often the agent begins a handshake on a link that is better than the active one.
const AGAIN: Duration = Duration::from_secs(5);

/// 200 a second.
const EVERY: Duration = Duration::from_millis(5);

const TICK: Duration = Duration::from_millis(50);

type Any = Box<dyn Device>;
type Job = Box<dyn FnOnce(&mut Any) + Send>;

/// Whose WireGuard a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Kernel,
    /// By the process `causeway-wireguard`.
    Embedded,
}

/// A network namespace with a device, the thread that lives in it, and what an agent would know.
pub(crate) struct Node {
    pub(crate) number: u8,
    pub(crate) namespace: String,
    /// Numbers of its keys, oldest first, and which of them is the current one.
    pub(crate) keys: Vec<u8>,
    pub(crate) current: u8,
    /// What is told of it to the other.
    pub(crate) prefixes: Vec<IpNet>,
    pub(crate) keepalive_s: Option<u16>,
    underlay: IpAddr,
    jobs: mpsc::Sender<Job>,
    routes: BTreeMap<PeerName, u32>,
    warmed: Option<Instant>,
    pub(crate) names: PathBuf,
    _dir: tempfile::TempDir,
    _process: Option<Process>,
}

/// Who asks for the device file of a module that is not loaded finds none, where nothing makes files in advance.
pub(crate) fn load_tun() {
    run("[ -e /dev/net/tun ] || modprobe tun");
}

/// Ended with its owner.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn run(command: &str) {
    let status = Command::new("sh").args(["-ec", command]).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command}");
}

pub(crate) fn output(command: &str) -> String {
    let out = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

pub(crate) fn private(number: u8) -> PrivateKey {
    PrivateKey::from_random([number; 32])
}

pub(crate) fn name(number: u8) -> PeerName {
    PeerName::new("c", &format!("node{number}"))
}

/// `own` and `remote` are numbers of keys.
pub(crate) fn link(own: u8, remote: u8) -> Link {
    Link { own: private(own).public(), remote: private(remote).public() }
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Of the link, 0 and nothing if there is none.
pub(crate) fn stats(snapshot: &Snapshot, of: Link) -> LinkStats {
    let links = snapshot.stats.values().flat_map(|stats| &stats.links);
    links.clone().find(|(known, _)| *known == of).map(|(_, stats)| stats.clone()).unwrap_or_default()
}

impl Node {
    fn new(number: u8, v6: bool, kind: Kind) -> Self {
        let namespace = format!("cwk{number}-{}", std::process::id());
        run(&format!(
            "ip netns add {namespace}; ip -n {namespace} link set lo up
             ip -n {namespace} addr add 10.{number}.0.1/32 dev lo; ip -n {namespace} addr add fd00:{number}::1/128 dev lo"
        ));
        let dir = tempfile::tempdir().unwrap();
        let names = dir.path().join("names.json");
        let (device, process): (Any, _) = match kind {
            Kind::Kernel => (Box::new(Kernel::new("a test".into(), names.clone())), None),
            Kind::Embedded => {
                let socket = dir.path().join("socket");
                let process = embedded(&namespace, &socket);
                (Box::new(Embedded::new(socket, "a test".into())), Some(process))
            }
        };
        let underlay = if v6 { format!("fd99::{number}") } else { format!("192.0.2.{number}") };
        Self {
            number,
            jobs: live_in(&namespace, device),
            namespace,
            keys: vec![number],
            current: number,
            prefixes: vec![net(&format!("10.{number}.0.0/16")), net(&format!("fd00:{number}::/64"))],
            keepalive_s: None,
            underlay: underlay.parse().unwrap(),
            routes: BTreeMap::new(),
            warmed: None,
            names,
            _dir: dir,
            _process: process,
        }
    }

    pub(crate) fn on<T: Send + 'static>(&self, job: impl FnOnce(&mut Any) -> T + Send + 'static) -> T {
        let (answer, wait) = mpsc::channel();
        self.jobs.send(Box::new(move |device| drop(answer.send(job(device))))).unwrap();
        wait.recv().expect("the node's thread has panicked")
    }

    /// Another process takes over.
    pub(crate) fn restart(&mut self) {
        let names = self.names.clone();
        self.on(move |device| *device = Box::new(Kernel::new("a test".into(), names)));
        self.warmed = None;
    }

    pub(crate) fn spec(&self) -> DeviceSpec {
        DeviceSpec { name: DEVICE.into(), port: PORT, mark: 0x1e00, mtu: 1408, addresses: vec![self.underlay] }
    }

    pub(crate) fn snapshot(&self) -> Result<Snapshot, DeviceError> {
        let spec = self.spec();
        self.on(move |device| {
            device.ensure(&spec)?;
            device.snapshot()
        })
    }

    /// A file with a private key, for `wg set`.
    pub(crate) fn key_file(&self, number: u8) -> PathBuf {
        let file = self.names.with_extension("key");
        // Both kinds of key are written alike.
        let text = PublicKey::from_bytes(*private(number).as_bytes()).unwrap().to_string();
        fs::write(&file, text).unwrap();
        file
    }

    pub(crate) fn apply(&self, changes: Vec<Change>) {
        self.on(move |device| device.apply(changes)).unwrap();
    }

    pub(crate) fn announcement(&self) -> Announcement {
        let key = |number: &u8| EpochKey { epoch: (*number).into(), key: private(*number).public() };
        Announcement { current: private(self.current).public(), keys: self.keys.iter().map(key).collect() }
    }

    pub(crate) fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.underlay, PORT)
    }

    /// What this node shall hold of the other.
    pub(crate) fn desired(&self, other: &Other, snapshot: &Snapshot) -> (Desired, Vec<Link>) {
        let own: Vec<_> = self.keys.iter().map(|key| private(*key).public()).collect();
        let all = links(&own, &(&other.announcement).into());
        let in_use = snapshot.actual.peers.get(&other.name).map(|peer| peer.active);
        let fallback = Link { own: private(self.current).public(), remote: other.announcement.current };
        let active = active_link(&all, in_use, fallback, |link| stats(snapshot, *link).confirmed);
        let peer = Peer {
            endpoint: other.endpoint,
            keepalive_s: self.keepalive_s,
            links: all.iter().copied().collect(),
            active,
            prefixes: other.prefixes.iter().copied().collect(),
        };
        let mut desired = Desired::default();
        desired.identities.extend(self.keys.iter().map(|key| (private(*key).public(), private(*key))));
        desired.peers.insert(other.name.clone(), peer);
        let cold = cold_links(&all, active).copied().filter(|link| !stats(snapshot, *link).confirmed).collect();
        (desired, cold)
    }

    /// As the agent does it, in the same order.
    pub(crate) fn pass(&mut self, other: &Other) -> Snapshot {
        let snapshot = self.snapshot().unwrap();
        let (desired, cold) = self.desired(other, &snapshot);
        let mut changes = plan(&desired, &snapshot.actual);
        if self.warmed.is_none_or(|at| at.elapsed() >= AGAIN) {
            self.warmed = Some(Instant::now());
            changes.extend(cold.into_iter().map(|link| Change::AddLink { peer: other.name.clone(), link }));
        }
        if !changes.is_empty() {
            trace(&format!("node {}: {}", self.number, said(&changes)));
            self.apply(changes);
        }
        self.steer(&snapshot);
        snapshot
    }

    /// Packets to a peer go by the interface that the snapshot names.
    fn steer(&mut self, snapshot: &Snapshot) {
        for (name, stats) in &snapshot.stats {
            let index = if stats.ifindex == 0 { snapshot.ifindex } else { stats.ifindex };
            if self.routes.insert(name.clone(), index) == Some(index) {
                continue;
            }
            let (number, other) = (self.number, name.as_str().trim_start_matches("c/node").to_owned());
            self.on(move |_| {
                let device = &interface_names()[&index];
                trace(&format!("node {number} sends by {device}"));
                run(&format!(
                    "ip route replace 10.{other}.0.0/16 dev {device} src 10.{number}.0.1
                     ip route replace fd00:{other}::/64 dev {device} src fd00:{number}::1"
                ));
            });
        }
    }

    /// Those of ours.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        let all = self.on(|_| interface_names().into_values().collect::<Vec<String>>());
        all.into_iter().filter(|name| name.starts_with("cilium_wg")).collect()
    }

    /// The routes went with an interface.
    pub(crate) fn forget_routes(&mut self) {
        self.routes.clear();
    }

    pub(crate) fn known(&self) -> Other {
        Other {
            name: name(self.number),
            endpoint: self.endpoint(),
            announcement: self.announcement(),
            prefixes: self.prefixes.clone(),
        }
    }

    fn socket(&self, port: u16, v6: bool) -> UdpSocket {
        let address = self.address(v6);
        self.on(move |_| UdpSocket::bind((address, port)).unwrap())
    }

    pub(crate) fn address(&self, v6: bool) -> IpAddr {
        let number = self.number;
        let text = if v6 { format!("fd00:{number}::1") } else { format!("10.{number}.0.1") };
        text.parse().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

/// By index, of the calling thread's namespace.
fn interface_names() -> BTreeMap<u32, String> {
    let all = if_nameindex().unwrap();
    all.iter().map(|interface| (interface.index(), interface.name().to_string_lossy().into_owned())).collect()
}

/// What is told of a node.
#[derive(Debug, Clone)]
pub(crate) struct Other {
    pub(crate) name: PeerName,
    pub(crate) endpoint: SocketAddr,
    pub(crate) announcement: Announcement,
    pub(crate) prefixes: Vec<IpNet>,
}

fn live_in(namespace: &str, mut device: Any) -> mpsc::Sender<Job> {
    let path = format!("/run/netns/{namespace}");
    let (jobs, queue) = mpsc::channel::<Job>();
    thread::spawn(move || {
        setns(fs::File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        // /proc/sys/net is the opener's namespace; nothing else is needed of it.
        unshare(CloneFlags::CLONE_FS).unwrap();
        for job in queue {
            job(&mut device);
        }
    });
    jobs
}

/// The program that stands beside this one, where cargo puts both.
pub(crate) fn embedded_program() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.parent()?.parent()?.join("causeway-wireguard");
    let given = std::env::var_os("CAUSEWAY_WIREGUARD_BIN").map(PathBuf::from);
    given.or(Some(beside)).filter(|program| program.exists())
}

fn embedded(namespace: &str, socket: &std::path::Path) -> Process {
    let program = embedded_program().unwrap();
    load_tun();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program).arg("--socket").arg(socket).env("RUST_LOG", "warn");
    let process = Process(command.spawn().unwrap());
    wait("the control socket", || socket.exists());
    process
}

/// Two nodes that know of each other, the first with the kernel's WireGuard.
pub(crate) struct World {
    pub(crate) nodes: [Node; 2],
}

impl World {
    pub(crate) fn new(v6: bool, second: Kind) -> Self {
        let mut world = Self { nodes: [Node::new(1, v6, Kind::Kernel), Node::new(2, v6, second)] };
        let [a, b] = [&world.nodes[0].namespace, &world.nodes[1].namespace];
        run(&format!("ip link add u1 netns {a} type veth peer name u2 netns {b}"));
        for node in &world.nodes {
            let (ns, number) = (&node.namespace, node.number);
            run(&format!(
                "ip -n {ns} addr add 192.0.2.{number}/24 dev u{number}; ip -n {ns} link set u{number} up
                 ip -n {ns} addr add fd99::{number}/64 dev u{number} nodad"
            ));
        }
        (0..3).for_each(|_| world.pass());
        world
    }

    pub(crate) fn pass(&mut self) {
        for index in [0, 1] {
            self.pass_of(index);
        }
    }

    pub(crate) fn pass_of(&mut self, index: usize) -> Snapshot {
        let other = self.nodes[1 - index].known();
        self.nodes[index].pass(&other)
    }

    /// Passes of both, for some time.
    pub(crate) fn go_on(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.pass();
            thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        wait(what, || {
            self.pass();
            done(self)
        });
    }

    pub(crate) fn echo(&self, from: usize, v6: bool) -> Echo {
        Echo::start(&self.nodes[from], &self.nodes[1 - from], v6)
    }

    /// The first packets wait for a session.
    pub(crate) fn talk(&self) {
        for v6 in [false, true] {
            let echo = self.echo(0, v6);
            thread::sleep(Duration::from_millis(500));
            echo.lost_nothing();
        }
    }
}

/// What happens, with `CAUSEWAY_TRACE`.
pub(crate) fn trace(what: &str) {
    static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
    if std::env::var_os("CAUSEWAY_TRACE").is_some() {
        println!("{:9.3} {what}", STARTED.elapsed().as_secs_f32());
    }
}

fn said(changes: &[Change]) -> String {
    let text = |change: &Change| {
        let text = format!("{change:?}");
        text.chars().take(160).collect::<String>()
    };
    changes.iter().take(8).map(text).collect::<Vec<_>>().join("\n    ")
}

pub(crate) fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        if done() {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
    panic!("{what}: not within 60 s");
}

/// 200 datagrams a second that come back.
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    heard: Arc<AtomicU64>,
    back: Arc<AtomicU64>,
    sender: thread::JoinHandle<(Vec<Duration>, Vec<u64>)>,
    receiver: thread::JoinHandle<Vec<u64>>,
    answerer: thread::JoinHandle<()>,
    started: Instant,
}

impl Echo {
    pub(crate) fn start(from: &Node, to: &Node, v6: bool) -> Self {
        let server = to.socket(7, v6);
        let client = from.socket(0, v6);
        client.connect(server.local_addr().unwrap()).unwrap();
        let heard = Arc::new(AtomicU64::new(0));
        let count = heard.clone();
        server.set_read_timeout(Some(TICK)).unwrap();
        client.set_read_timeout(Some(TICK)).unwrap();
        let (stop, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let ends = over.clone();
        let answerer = thread::spawn(move || answer(&server, &count, &ends));
        let (reads, ends) = (client.try_clone().unwrap(), over.clone());
        let back = Arc::new(AtomicU64::new(0));
        let count = back.clone();
        let receiver = thread::spawn(move || receive(&reads, &count, &ends));
        let ends = stop.clone();
        let started = Instant::now();
        let sender = thread::spawn(move || send(&client, &ends, started));
        Self { stop, over, heard, back, sender, receiver, answerer, started }
    }

    #[track_caller]
    pub(crate) fn lost_nothing(self) {
        let lost = self.end();
        if !lost.is_empty() {
            trace(&output(
                "for n in $(ip -o netns | cut -d' ' -f1); do date +%s; ip netns exec $n wg show all dump; ip -n $n route; ip -n $n -6 route; done",
            ));
        }
        assert!(lost.is_empty(), "{} did not come back: {lost:#?}", lost.len());
    }

    /// Those that did not come back, in rows: which, when they left, and whether the socket took them.
    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, refused) = self.sender.join().unwrap();
        let patience = Instant::now() + Duration::from_secs(3);
        while self.back.load(Ordering::Relaxed) < number(sent.len()) && Instant::now() < patience {
            thread::sleep(TICK);
        }
        self.over.store(true, Ordering::Relaxed);
        self.answerer.join().unwrap();
        let back: BTreeSet<u64> = self.receiver.join().unwrap().into_iter().collect();
        let (took, heard) = (self.started.elapsed().as_secs_f32(), self.heard.load(Ordering::Relaxed));
        println!("echo: {} sent in {took:.1} s, {heard} heard, {} back", sent.len(), back.len());
        let lost: Vec<u64> = (0..number(sent.len())).filter(|at| !back.contains(at)).collect();
        let rows = lost.chunk_by(|a, b| a + 1 == *b);
        let when = |at: u64| sent[usize::try_from(at).unwrap()];
        rows.map(|row| {
            let (first, last) = (row[0], row[row.len() - 1]);
            let refused = row.iter().filter(|at| refused.contains(at)).count();
            format!("{} from {first}, {:?} to {:?}, {refused} refused", row.len(), when(first), when(last))
        })
        .collect()
    }
}

fn number(at: usize) -> u64 {
    u64::try_from(at).unwrap()
}

fn answer(server: &UdpSocket, heard: &AtomicU64, over: &AtomicBool) {
    let mut buffer = [0; 64];
    while !over.load(Ordering::Relaxed) {
        if let Ok((length, at)) = server.recv_from(&mut buffer) {
            heard.fetch_add(1, Ordering::Relaxed);
            let _ = server.send_to(&buffer[..length], at);
        }
    }
}

fn send(client: &UdpSocket, stop: &AtomicBool, started: Instant) -> (Vec<Duration>, Vec<u64>) {
    let (mut sent, mut refused) = (Vec::new(), Vec::new());
    let mut due = started.elapsed();
    while !stop.load(Ordering::Relaxed) {
        let next = number(sent.len());
        sent.push(started.elapsed());
        if client.send(&next.to_be_bytes()).is_err() {
            refused.push(next);
        }
        // Much time that this machine did not give is not caught up with: a socket does not take as many at once.
        due = (due + EVERY).max(started.elapsed().saturating_sub(10 * EVERY));
        thread::sleep(due.saturating_sub(started.elapsed()));
    }
    (sent, refused)
}

fn receive(client: &UdpSocket, count: &AtomicU64, over: &AtomicBool) -> Vec<u64> {
    let mut back = Vec::new();
    let mut buffer = [0; 8];
    while !over.load(Ordering::Relaxed) {
        if client.recv(&mut buffer).is_ok() {
            back.push(u64::from_be_bytes(buffer));
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
    back
}
