//! Announce N prefixes to M peers: `bgp-speaker` beside BIRD, which originates the same.
//!
//! `cargo run --release -p causeway-bgp-speaker --example bench -- --prefixes 10000,100000 --peers 1,2,8`
//!
//! Both daemons read the prefixes from a file and then wait for peers that are not there. Only then do the peers (threads
//! of this process, which answer OPEN and count) start to listen. Measured, from the first session up to the last prefix
//! at the last peer: wall time, UPDATEs per peer, CPU time of the daemon; and its memory at the end. Everything is on
//! loopback, no root is needed.
//!
//! BIRD 2.0.12 lets three seconds pass between Established and its first UPDATE when it originates by itself, so that its
//! wall time says little here; CPU time, UPDATEs and memory compare.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement stops where it stumbles")]

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use causeway_bgp_wire::{
    Asn, Capability, Family, FrameSplitter, HoldTime, Message, Open, RouterId, SessionContext, Update,
};
use clap::Parser;

const PEER_ASN: u32 = 65101;
const DAEMON_ASN: u32 = 65010;
const PORT: u16 = 17_900;
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Parser)]
struct Arguments {
    /// Numbers of prefixes, each a /32 with the same attributes.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000")]
    prefixes: Vec<u32>,
    /// Numbers of peers.
    #[arg(long, value_delimiter = ',', default_value = "1,2,8")]
    peers: Vec<u16>,
    /// How often each measurement is repeated; the median is told.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Our binary; beside this program when absent.
    #[arg(long)]
    speaker: Option<PathBuf>,
    #[arg(long, default_value = "/usr/sbin/bird")]
    bird: PathBuf,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    wall: Duration,
    cpu: Duration,
    updates: usize,
    rss_kib: u64,
}

fn main() {
    let arguments = Arguments::parse();
    let speaker = arguments.speaker.clone().unwrap_or_else(|| {
        let own = std::env::current_exe().expect("a path of our own");
        own.parent().and_then(Path::parent).expect("target/<profile>/examples").join("bgp-speaker")
    });
    println!("load average before: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    println!(
        "{:<9} {:>5} {:<12} {:>10} {:>10} {:>13} {:>9}",
        "prefixes", "peers", "daemon", "wall ms", "CPU ms", "UPDATEs/peer", "RSS MiB"
    );
    for prefixes in &arguments.prefixes {
        for peers in &arguments.peers {
            for (name, program, arguments_of) in
                [("bgp-speaker", &speaker, ours as fn(&Path, u32, u16) -> Vec<String>), ("BIRD", &arguments.bird, bird)]
            {
                assert!(program.exists(), "{} is not there: build it, or install bird2", program.display());
                let mut runs: Vec<Measured> =
                    (0..arguments.runs).map(|_| measure(program, arguments_of, *prefixes, *peers)).collect();
                runs.sort_by_key(|run| run.wall);
                let wall = runs[runs.len() / 2].wall;
                runs.sort_by_key(|run| run.cpu);
                let median = runs[runs.len() / 2];
                println!(
                    "{prefixes:<9} {peers:>5} {name:<12} {:>10.1} {:>10.1} {:>13} {:>9.1}",
                    wall.as_secs_f64() * 1e3,
                    median.cpu.as_secs_f64() * 1e3,
                    median.updates / usize::from(*peers),
                    median.rss_kib as f64 / 1024.0
                );
            }
        }
    }
}

fn measure(program: &Path, arguments: fn(&Path, u32, u16) -> Vec<String>, prefixes: u32, peers: u16) -> Measured {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut daemon = Daemon::start(program, &arguments(folder.path(), prefixes, peers), folder.path());
    daemon.wait_until_idle();
    let (report, reports) = mpsc::channel();
    let all_there = Arc::new(Barrier::new(usize::from(peers)));
    let before = daemon.cpu();
    for peer in 0..peers {
        let report = report.clone();
        let listener = TcpListener::bind((peer_address(peer), PORT)).expect("a free port");
        let all_there = Arc::clone(&all_there);
        std::thread::spawn(move || report.send(receive(&listener, peer, prefixes, &all_there)));
    }
    let mut measured = Measured { wall: Duration::ZERO, cpu: Duration::ZERO, updates: 0, rss_kib: 0 };
    let mut span: Option<(Instant, Instant)> = None;
    for _ in 0..peers {
        let (up, done, updates) = reports.recv_timeout(LIMIT).expect("every peer gets its prefixes in time");
        span = Some(span.map_or((up, done), |(first, last)| (first.min(up), last.max(done))));
        measured.updates += updates;
    }
    let (first, last) = span.expect("at least one peer");
    measured.wall = last - first;
    measured.cpu = daemon.cpu() - before;
    measured.rss_kib = daemon.rss_kib();
    measured
}

/// One peer: accepts, answers OPEN, and reads until it has all prefixes.
fn receive(listener: &TcpListener, peer: u16, prefixes: u32, all_there: &Barrier) -> (Instant, Instant, usize) {
    let (mut stream, _) = listener.accept().expect("a connection");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let asn = Asn::new(PEER_ASN).expect("not 0");
    let own = Open {
        asn,
        hold_time: HoldTime::new(90).expect("90 is allowed"),
        router_id: RouterId::new(Ipv4Addr::new(10, 255, 0, u8::try_from(peer + 1).expect("few peers"))).expect("not 0"),
        capabilities: vec![Capability::Multiprotocol(Family::IPV4_UNICAST), Capability::FourOctetAs(asn)],
    };
    let mut context = SessionContext::before_open();
    let mut splitter = FrameSplitter::default();
    let (mut up, mut count, mut updates) = (Instant::now(), 0, 0);
    let mut buffer = vec![0; 256 * 1024];
    while count < prefixes as usize {
        let length = stream.read(&mut buffer).expect("bytes");
        assert!(length > 0, "the daemon closed the session");
        splitter.push(&buffer[..length]);
        while let Some(frame) = splitter.next_frame(context.max_receive_len).expect("a good header") {
            match Message::decode(frame, &context).expect("a good message").message {
                Message::Open(theirs) => {
                    // Nobody answers before everybody is there, so that all sessions come up at once.
                    all_there.wait();
                    say(&mut stream, &Message::Open(own.clone()), &context);
                    say(&mut stream, &Message::Keepalive, &context);
                    context = SessionContext::negotiate(&own, &theirs);
                    up = Instant::now();
                }
                Message::Update(update) => {
                    let new: usize = update.reach.iter().map(|reach| reach.prefixes.len()).sum();
                    count += new;
                    updates += usize::from(new > 0);
                }
                Message::Notification(notification) => panic!("the daemon says {notification}"),
                Message::Keepalive => {
                    // As every router does that has nothing to tell.
                    say(&mut stream, &Message::Update(Box::new(Update::end_of_rib(Family::IPV4_UNICAST))), &context);
                }
                Message::RouteRefresh(_) => {}
            }
        }
    }
    let done = Instant::now();
    // The session stays up until the daemon is stopped.
    std::thread::spawn(move || while stream.read(&mut buffer).is_ok_and(|length| length > 0) {});
    (up, done, updates)
}

fn say(stream: &mut TcpStream, message: &Message, context: &SessionContext) {
    let mut bytes = Vec::new();
    message.encode(context, &mut bytes).expect("a message that fits");
    stream.write_all(&bytes).expect("a connection");
}

/// BIRD wants the two ends of a session to have different addresses.
fn peer_address(peer: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + 1 + u32::from(peer))
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + number)
}

fn ours(folder: &Path, prefixes: u32, peers: u16) -> Vec<String> {
    let mut text = format!("[[instance]]\nname = \"bench\"\nlocal-asn = {DAEMON_ASN}\nrouter-id = \"10.255.1.1\"\n");
    for peer in 0..peers {
        let address = peer_address(peer);
        writeln!(
            text,
            "[[instance.peer]]\nname = \"p{peer}\"\naddress = \"{address}\"\nport = {PORT}\nasn = {PEER_ASN}\n\
             local-address = \"127.0.0.1\"\nconnect-retry-s = 1\nfamilies = [\"ipv4-unicast\"]"
        )
        .unwrap();
    }
    for number in 0..prefixes {
        writeln!(text, "[[instance.route]]\nprefix = \"{}/32\"", address(number)).unwrap();
    }
    let path = folder.join("speaker.toml");
    std::fs::write(&path, text).expect("a configuration");
    vec!["--config".to_owned(), path.display().to_string(), "--log".to_owned(), "warn".to_owned()]
}

fn bird(folder: &Path, prefixes: u32, peers: u16) -> Vec<String> {
    let mut text = "router id 10.255.1.1;\nprotocol device {}\nprotocol static { ipv4;\n".to_owned();
    for number in 0..prefixes {
        writeln!(text, "route {}/32 blackhole;", address(number)).unwrap();
    }
    text += "}\n";
    for peer in 0..peers {
        let address = peer_address(peer);
        writeln!(
            text,
            "protocol bgp p{peer} {{ local 127.0.0.1 as {DAEMON_ASN}; neighbor {address} port {PORT} as {PEER_ASN};\n\
             multihop; connect retry time 1; connect delay time 1; error wait time 1, 1;\n\
             ipv4 {{ import none; export all; next hop self; }}; }}"
        )
        .unwrap();
    }
    let path = folder.join("bird.conf");
    std::fs::write(&path, text).expect("a configuration");
    let file = |name: &str| folder.join(name).display().to_string();
    ["-f", "-c", &file("bird.conf"), "-s", &file("bird.ctl"), "-P", &file("bird.pid")].map(str::to_owned).to_vec()
}

struct Daemon(Child);

impl Daemon {
    fn start(program: &Path, arguments: &[String], folder: &Path) -> Self {
        let log = std::fs::File::create(folder.join("log")).expect("a log");
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("one more handle"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("starting {}: {error}", program.display()));
        Self(child)
    }

    /// CPU time of all threads that are alive.
    fn cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).expect("the daemon runs");
        let nanos = |path: PathBuf| {
            let text = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
            text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
        };
        Duration::from_nanos(tasks.flatten().map(|task| nanos(task.path())).sum())
    }

    fn rss_kib(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    /// Waits until the configuration is read: the daemon has worked, and then has not for a while.
    fn wait_until_idle(&mut self) {
        let start = Instant::now();
        let mut last = self.cpu();
        loop {
            std::thread::sleep(Duration::from_millis(500));
            assert!(self.0.try_wait().expect("a child of ours").is_none(), "the daemon ended at its start");
            let now = self.cpu();
            if now - last < Duration::from_millis(5) && now > Duration::from_millis(1) {
                return;
            }
            last = now;
            assert!(start.elapsed() < LIMIT, "the daemon does not come to rest");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
