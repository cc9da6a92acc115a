//! Two namespaces with a cable: our device here, wireguard-go there.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use causeway_encryption_plan::{
    Answer, Change, DeviceSpec, Link, LinkStats, PeerName, PrivateKey, PublicKey, Request, Snapshot,
};
use nix::sched::{CloneFlags, setns};

const PORT: u16 = 51_871;

/// Of the underlay; what is inside is IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    fn underlay(self, n: u8) -> IpAddr {
        match self {
            Family::V4 => IpAddr::from([192, 0, 2, n]),
            Family::V6 => format!("2001:db8::{n}").parse().unwrap(),
        }
    }
}

/// A network namespace; gone when dropped.
pub(crate) struct Ns(String);

impl Ns {
    fn create(name: String) -> Self {
        // A run that was killed may have left it; the name is ours.
        let _ = Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status();
        run(Command::new("ip").args(["netns", "add", &name]));
        let ns = Self(name);
        ns.ip(&["link", "set", "lo", "up"]);
        ns
    }

    pub(crate) fn ip(&self, words: &[&str]) {
        run(Command::new("ip").args(["-n", &self.0]).args(words));
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.0)).arg(program);
        command
    }

    pub(crate) fn thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let path = format!("/run/netns/{}", self.0);
        std::thread::spawn(move || {
            setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

pub(crate) struct World {
    pub(crate) ours: Ns,
    pub(crate) theirs: Ns,
    processes: Vec<Child>,
    dir: PathBuf,
    link: Link,
    /// Name of wireguard-go's interface, which is also the name of its control socket on the machine.
    go: String,
}

impl World {
    /// `tag`, a few letters, keeps apart what runs at the same time.
    pub(crate) fn up(tag: &str, family: Family) -> Self {
        let ns = |n: u8| Ns::create(format!("cw-interop-{tag}-{n}"));
        let (ours, theirs) = (ns(1), ns(2));
        run(Command::new("ip").args(["link", "add", "under", "netns", ours.0.as_str(), "type", "veth"]).args([
            "peer",
            "name",
            "under",
            "netns",
            theirs.0.as_str(),
        ]));
        for (ns, n) in [(&ours, 1), (&theirs, 2)] {
            let address = family.underlay(n);
            let length = if address.is_ipv4() { 24 } else { 64 };
            // nodad: the address is wanted at once.
            let mut words = vec!["addr".to_owned(), "add".into(), format!("{address}/{length}")];
            words.extend(["dev".into(), "under".into()]);
            if address.is_ipv6() {
                words.push("nodad".into());
            }
            ns.ip(&words.iter().map(String::as_str).collect::<Vec<_>>());
            ns.ip(&["link", "set", "under", "up"]);
        }
        let dir = std::env::temp_dir().join(format!("cw-interop-{tag}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (own, other) = (key(1), key(2));
        let link = Link { own: own.public(), remote: other.public() };
        let mut world = Self { ours, theirs, processes: Vec::new(), dir, link, go: format!("wg-{tag}") };
        world.start_theirs(&other, own.public(), family);
        world.start_ours(own, family);
        world.ping(&["-c", "2", "-i", "0.2", "-W", "5"]);
        world
    }

    fn start_theirs(&mut self, own: &PrivateKey, peer: PublicKey, family: Family) {
        let mut go = self.theirs.command("wireguard-go");
        self.processes.push(go.args(["-f", &self.go]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let socket = PathBuf::from(format!("/run/wireguard/{}.sock", self.go));
        wait_until("wireguard-go", || socket.exists());
        let file = self.dir.join("key");
        std::fs::write(&file, own.to_text().as_bytes()).unwrap();
        let endpoint = SocketAddr::new(family.underlay(1), PORT).to_string();
        let mut wg = self.theirs.command("wg");
        wg.args(["set", &self.go, "listen-port", &PORT.to_string(), "private-key"]).arg(&file);
        run(wg.args(["peer", &peer.to_string(), "allowed-ips", "10.9.0.1/32", "endpoint", &endpoint]));
        self.theirs.ip(&["addr", "add", "10.9.0.2/24", "dev", &self.go]);
        self.theirs.ip(&["link", "set", &self.go, "mtu", "1408", "up"]);
    }

    fn start_ours(&mut self, own: PrivateKey, family: Family) {
        let mut device = self.ours.command(env!("CARGO_BIN_EXE_causeway-wireguard"));
        device.arg("--socket").arg(self.socket());
        self.processes.push(device.stderr(Stdio::null()).spawn().unwrap());
        wait_until("our device", || self.socket().exists());
        let spec = DeviceSpec {
            name: "cilium_wg0".into(),
            port: PORT,
            mark: 0x1e00,
            mtu: 1408,
            addresses: vec![family.underlay(1)],
        };
        assert!(matches!(self.ask(&Request::Ensure(spec)), Answer::Ensured { fresh: true, .. }));
        let peer = peer_name();
        let endpoint = SocketAddr::new(family.underlay(2), PORT);
        let changes = vec![
            Change::AddIdentity { private: own },
            Change::AddPeer { peer: peer.clone(), endpoint, keepalive_s: None, link: self.link },
            Change::AddPrefix { peer, prefix: "10.9.0.2/32".parse().unwrap() },
        ];
        assert_eq!(self.ask(&Request::Apply(changes)), Answer::Applied);
        self.ours.ip(&["addr", "add", "10.9.0.1/24", "dev", "cilium_wg0"]);
    }

    pub(crate) fn inner_ours(&self) -> IpAddr {
        IpAddr::from([10, 9, 0, 1])
    }

    pub(crate) fn inner_theirs(&self) -> IpAddr {
        IpAddr::from([10, 9, 0, 2])
    }

    pub(crate) fn use_endpoint(&self, endpoint: SocketAddr) {
        let change = Change::SetEndpoint { peer: peer_name(), endpoint };
        assert_eq!(self.ask(&Request::Apply(vec![change])), Answer::Applied);
    }

    /// Has wireguard-go listen at another port.
    pub(crate) fn rebind_theirs(&self, port: u16) {
        run(self.theirs.command("wg").args(["set", &self.go, "listen-port", &port.to_string()]));
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        match self.ask(&Request::Snapshot) {
            Answer::Snapshot(snapshot) => *snapshot,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn link(&self) -> LinkStats {
        let snapshot = self.snapshot();
        let peer = snapshot.stats.values().next().unwrap();
        peer.links.iter().find(|(link, _)| *link == self.link).unwrap().1.clone()
    }

    pub(crate) fn ping(&self, words: &[&str]) {
        run(self.ours.command("ping").args(words).arg("10.9.0.2").stdout(Stdio::null()));
    }

    pub(crate) fn ping_from_theirs(&self, words: &[&str]) {
        run(self.theirs.command("ping").args(words).arg("10.9.0.1").stdout(Stdio::null()));
    }

    /// How many of `count` pings got no answer.
    pub(crate) fn ping_count(&self, count: u32, interval_s: &str) -> u32 {
        let count_text = count.to_string();
        let out = self.ours.command("ping").args(["-q", "-c", &count_text, "-i", interval_s, "10.9.0.2"]).output();
        let text = String::from_utf8(out.unwrap().stdout).unwrap();
        let received = text.split(", ").find_map(|part| part.strip_suffix(" received")).unwrap();
        count - received.parse::<u32>().unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    fn ask(&self, request: &Request) -> Answer {
        ask(&self.socket(), request)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
        let _ = std::fs::remove_file(format!("/run/wireguard/{}.sock", self.go));
    }
}

fn peer_name() -> PeerName {
    PeerName::new("interop", "theirs")
}

/// Any bytes make a key.
fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_random([seed; 32])
}

fn ask(socket: &Path, request: &Request) -> Answer {
    let mut stream = UnixStream::connect(socket).unwrap();
    let mut line = serde_json::to_vec(request).unwrap();
    line.push(b'\n');
    stream.write_all(&line).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(10), "{what} does not come up");
        std::thread::sleep(Duration::from_millis(10));
    }
}
