//! The embedded WireGuard device beside others: Debian's wireguard-go (of 2022, before it had offloads) and boringtun's own
//! device, and a cable without encryption.
//!
//! Each kind has two namespaces with a veth between them, all with the same MTU. A round visits every kind; ratios are
//! taken inside a round, and medians of rounds are reported with their range.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use causeway_encryption_device::{Device, Embedded, Fake, KeyFile};
use causeway_encryption_plan::{Change, Desired, DeviceSpec, Link, Peer, PeerName, PrivateKey, plan};
use ipnet::IpNet;
use serde_json::Value;

use crate::netns::{Netns, run as command};
use crate::report::{Table, median, percentile};

const INTERFACE: &str = "wg0";
const PORT: u16 = 51_871;
/// What the plan makes of an Ethernet; the same for all.
const MTU: u32 = 1408;
const SECONDS: &str = "2";
const FLOWS: [u32; 2] = [1, 4];
const ECHOES: usize = 3_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Cable,
    Ours,
    WireguardGo,
    Boringtun,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Cable, Kind::Ours, Kind::WireguardGo, Kind::Boringtun];

    const fn name(self) -> &'static str {
        match self {
            Kind::Cable => "no encryption",
            Kind::Ours => "causeway",
            Kind::WireguardGo => "wireguard-go 2022",
            Kind::Boringtun => "boringtun",
        }
    }

    const fn tag(self) -> &'static str {
        match self {
            Kind::Cable => "cable",
            Kind::Ours => "ours",
            Kind::WireguardGo => "go",
            Kind::Boringtun => "bt",
        }
    }
}

/// One end of a pair.
struct End {
    ns: Netns,
    /// The device's process; none for the bare cable.
    process: Option<Child>,
    underlay: String,
    inner: String,
    dir: PathBuf,
}

struct Pair {
    kind: Kind,
    ends: [End; 2],
}

/// What one round found.
#[derive(Default)]
struct Figures {
    /// Gbit/s, of one flow and of four.
    gbps: [Vec<f64>; 2],
    retransmits: u64,
    /// Gbit for each second of CPU that the device's process used, one flow.
    sent_per_cpu_s: Vec<f64>,
    received_per_cpu_s: Vec<f64>,
    echo_us: Vec<f64>,
    packets_per_s: Vec<f64>,
}

pub(crate) fn run(table: &mut Table, rounds: usize) -> Result<()> {
    let pairs = Kind::ALL.map(Pair::up).into_iter().collect::<Result<Vec<_>>>()?;
    let mut all: Vec<Figures> = Kind::ALL.iter().map(|_| Figures::default()).collect();
    for round in 1..=rounds {
        eprintln!("wireguard: round {round} of {rounds}");
        for (pair, figures) in pairs.iter().zip(&mut all) {
            pair.measure(figures).with_context(|| pair.kind.name())?;
        }
    }
    aead(table);
    report(table, &all);
    drop(pairs);
    scale(table)
}

/// Peers and prefixes of a large mesh.
const PEERS: u32 = 5_000;
const PREFIXES_EACH: u32 = 10;

/// Planning and applying a large mesh from nothing, and one prefix more.
pub(crate) fn scale(table: &mut Table) -> Result<()> {
    eprintln!("wireguard: a large mesh");
    let mut end = End::create(Kind::Ours, 3)?;
    end.ns.ip(&format!("link set lo up\naddr add {}/32 dev lo\n", end.underlay))?;
    let socket = end.dir.join("control.sock");
    let mut process = Command::new("nsenter");
    process.arg(format!("--net={}", end.ns.path())).arg(end.beside("causeway-wireguard")?).arg("--socket").arg(&socket);
    end.process = Some(process.stderr(Stdio::null()).spawn()?);
    wait_until("the control socket", || Ok(socket.exists()))?;
    let mut embedded = Embedded::new(socket, "a benchmark".into());
    embedded.ensure(&end.spec()?)?;
    let mut fake = Fake::default();
    fake.ensure(&end.spec()?)?;
    let devices: [(&str, &mut dyn Device); 2] = [("in memory", &mut fake), ("embedded", &mut embedded)];
    for (name, device) in devices {
        let mut desired = large()?;
        let started = Instant::now();
        let changes = plan(&desired, &device.snapshot()?.actual);
        let count = changes.len();
        device.apply(changes)?;
        let full_s = started.elapsed().as_secs_f64();
        let held = device.snapshot()?.actual;
        ensure!(plan(&desired, &held).is_empty(), "{name}: the device does not hold what it was told");
        let peer = desired.peers.values_mut().next().context("there are peers")?;
        peer.prefixes.insert("198.51.100.0/24".parse()?);
        let started = Instant::now();
        let changes = plan(&desired, &held);
        device.apply(changes)?;
        let one_ms = started.elapsed().as_secs_f64() * 1e3;
        let what = format!("{PEERS} peers with {} prefixes, planned and applied", PEERS * PREFIXES_EACH);
        table.row(&what, name, &format!("{full_s:.2} s"), &format!("{count} changes; target under 2 s"));
        table.row("one prefix more", name, &format!("{one_ms:.1} ms"), "target under 5 ms");
    }
    Ok(())
}

fn large() -> Result<Desired> {
    let own = KeyFile::make()?;
    let mut desired = Desired::default();
    for n in 0..PEERS {
        let link = Link { own: own.public(), remote: KeyFile::make()?.public() };
        let prefixes = (0..PREFIXES_EACH).map(|k| {
            let address = Ipv4Addr::from(0x0a00_0000 + (n * PREFIXES_EACH + k) * 16);
            Ok(IpNet::new(address.into(), 28)?)
        });
        let endpoint = SocketAddr::from((Ipv4Addr::from(0xc612_0000 + n), PORT));
        let peer = Peer {
            endpoint,
            keepalive_s: None,
            links: BTreeSet::from([link]),
            active: link,
            prefixes: prefixes.collect::<Result<_>>()?,
        };
        desired.peers.insert(PeerName::new("bench", &format!("n{n}")), peer);
    }
    desired.identities.insert(own.public(), own);
    Ok(desired)
}

impl Pair {
    fn up(kind: Kind) -> Result<Self> {
        eprintln!("wireguard: starting {}", kind.name());
        let mut ends = [1, 2].map(|n| End::create(kind, n)).into_iter();
        let (mut a, mut b) = match (ends.next(), ends.next()) {
            (Some(a), Some(b)) => (a?, b?),
            _ => bail!("two ends were asked for"),
        };
        command(
            "ip",
            &[
                "link", "add", "under", "netns", &a.ns.name, "type", "veth", "peer", "name", "under", "netns",
                &b.ns.name,
            ],
        )?;
        for end in [&a, &b] {
            end.ns.ip(&format!("link set lo up\nlink set under up\naddr add {}/24 dev under\n", end.underlay))?;
        }
        if kind == Kind::Cable {
            for end in [&a, &b] {
                end.ns.ip(&format!("addr add {}/24 dev under\n", end.inner))?;
            }
        } else {
            let (key_a, key_b) = (KeyFile::make()?, KeyFile::make()?);
            a.start(kind, &key_a, &key_b, &b)?;
            b.start(kind, &key_b, &key_a, &a)?;
            for end in [&a, &b] {
                end.ns
                    .ip(&format!("link set {INTERFACE} mtu {MTU} up\naddr add {}/24 dev {INTERFACE}\n", end.inner))?;
            }
        }
        // The handshake, and the neighbours.
        a.ns.feed(&["ping", "-c", "3", "-i", "0.2", "-W", "5", &b.inner], "")?;
        Ok(Self { kind, ends: [a, b] })
    }

    fn measure(&self, figures: &mut Figures) -> Result<()> {
        for (flows, gbps) in FLOWS.iter().zip(&mut figures.gbps) {
            let before = self.cpu_s()?;
            let result = self.iperf(&["-t", SECONDS, "-P", &flows.to_string()])?;
            let after = self.cpu_s()?;
            let end = &result["end"];
            let of = |value: &Value| value.as_f64().context("iperf3 gave no figure");
            gbps.push(of(&end["sum_received"]["bits_per_second"])? / 1e9);
            if self.kind != Kind::Cable && *flows == 1 {
                let gbit = of(&end["sum_received"]["bytes"])? * 8.0 / 1e9;
                figures.sent_per_cpu_s.push(gbit / (after[0] - before[0]));
                figures.received_per_cpu_s.push(gbit / (after[1] - before[1]));
            }
            figures.retransmits += end["sum_sent"]["retransmits"].as_u64().unwrap_or(0);
        }
        let result = self.iperf(&["-t", SECONDS, "-u", "-b", "0", "-l", "100"])?;
        let sum = &result["end"]["sum"];
        let (packets, lost) =
            (sum["packets"].as_f64().context("packets")?, sum["lost_packets"].as_f64().unwrap_or(0.0));
        figures.packets_per_s.push((packets - lost) / sum["seconds"].as_f64().context("seconds")?);
        figures.echo_us.push(self.echo()?);
        Ok(())
    }

    fn iperf(&self, words: &[&str]) -> Result<Value> {
        let [client, server] = &self.ends;
        let mut listening = Command::new("nsenter")
            .arg(format!("--net={}", server.ns.path()))
            .args(["iperf3", "-s", "-1", "-J"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        server.wait_for_listener()?;
        let net = format!("--net={}", client.ns.path());
        let mut line = vec![net.as_str(), "iperf3", "-c", &server.inner, "-J"];
        line.extend(words);
        let out = command("nsenter", &line);
        if out.is_err() {
            let _ = listening.kill();
        }
        listening.wait()?;
        Ok(serde_json::from_str(&out?)?)
    }

    /// Median of a small datagram's way there and back, in microseconds.
    fn echo(&self) -> Result<f64> {
        let [client, server] = &self.ends;
        let (here, there) = (client.inner.clone(), server.inner.clone());
        let at = there.clone();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let echoing = server.ns.thread(1, move || {
            let socket = UdpSocket::bind((at.as_str(), 7))?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            let _ = ready.send(());
            let mut buffer = [0; 64];
            loop {
                let (length, from) = socket.recv_from(&mut buffer)?;
                socket.send_to(&buffer[..length], from)?;
                if length == 1 {
                    return Ok(());
                }
            }
        });
        is_ready.recv_timeout(Duration::from_secs(5)).context("the echo does not listen")?;
        let asking = client.ns.thread(0, move || {
            let socket = UdpSocket::bind((here.as_str(), 0))?;
            socket.connect((there.as_str(), 7))?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            let mut times = Vec::with_capacity(ECHOES);
            for n in (0..ECHOES).rev() {
                let started = Instant::now();
                // One byte is the last.
                socket.send(&[0; 32][..if n == 0 { 1 } else { 32 }])?;
                socket.recv(&mut [0; 64])?;
                times.push(started.elapsed().as_secs_f64() * 1e6);
            }
            times.sort_by(f64::total_cmp);
            Ok(percentile(&times, 50.0))
        });
        let median = asking.join().map_err(|_| anyhow::anyhow!("the asking thread panicked"))?;
        echoing.join().map_err(|_| anyhow::anyhow!("the echoing thread panicked"))??;
        median
    }

    /// Seconds of CPU that each end's process has used.
    fn cpu_s(&self) -> Result<[f64; 2]> {
        let [a, b] = &self.ends;
        Ok([a.cpu_s()?, b.cpu_s()?])
    }
}

impl End {
    fn create(kind: Kind, n: u8) -> Result<Self> {
        let name = format!("cwb-wg-{}-{n}", kind.tag());
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(&dir)?;
        Ok(Self {
            ns: Netns::create(&name)?,
            process: None,
            underlay: format!("192.0.2.{n}"),
            inner: format!("10.9.0.{n}"),
            dir,
        })
    }

    fn start(&mut self, kind: Kind, own: &PrivateKey, other: &PrivateKey, peer: &End) -> Result<()> {
        let program = match kind {
            Kind::Cable => bail!("a cable needs no process"),
            Kind::Ours => self.beside("causeway-wireguard")?,
            Kind::WireguardGo => "wireguard-go".into(),
            Kind::Boringtun => boringtun()?,
        };
        let socket = self.dir.join("control.sock");
        // What a killed one left would answer nobody.
        let _ = fs::remove_file(self.uapi(kind));
        let mut started = Command::new("nsenter");
        started.arg(format!("--net={}", self.ns.path())).arg(&program);
        match kind {
            Kind::Ours => started.arg("--socket").arg(&socket),
            // Both put their sockets into /run/wireguard: each end needs an interface name of its own there.
            Kind::WireguardGo => started.args(["-f", &self.interface(kind)]),
            _ => started.args(["-f", "--disable-drop-privileges", &self.interface(kind)]),
        };
        let child = started.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.process = Some(child.with_context(|| format!("starting {}", program.display()))?);
        if kind == Kind::Ours {
            return self.configure_ours(&socket, own, other, peer);
        }
        self.configure_by_wg(kind, own, other, peer)
    }

    fn interface(&self, kind: Kind) -> String {
        format!("w{}{}", kind.tag(), &self.inner[self.inner.len() - 1..])
    }

    /// Where `wg(8)` finds the others.
    fn uapi(&self, kind: Kind) -> PathBuf {
        PathBuf::from(format!("/run/wireguard/{}.sock", self.interface(kind)))
    }

    fn beside(&self, name: &str) -> Result<PathBuf> {
        let path = std::env::current_exe()?.with_file_name(name);
        ensure!(path.exists(), "{} is not there: build the workspace", path.display());
        Ok(path)
    }

    fn configure_ours(&self, socket: &std::path::Path, own: &PrivateKey, other: &PrivateKey, peer: &End) -> Result<()> {
        wait_until("the control socket", || Ok(socket.exists()))?;
        let mut device = Embedded::new(socket.to_owned(), "a benchmark".into());
        device.ensure(&self.spec()?)?;
        let (name, link) = (PeerName::new("bench", "peer"), Link { own: own.public(), remote: other.public() });
        let endpoint = format!("{}:{PORT}", peer.underlay).parse()?;
        device.apply(vec![
            Change::AddIdentity { private: own.clone() },
            Change::AddPeer { peer: name.clone(), endpoint, keepalive_s: None, link },
            Change::AddPrefix { peer: name, prefix: format!("{}/32", peer.inner).parse()? },
        ])?;
        Ok(())
    }

    fn spec(&self) -> Result<DeviceSpec> {
        let addresses = vec![self.underlay.parse()?];
        Ok(DeviceSpec { name: INTERFACE.into(), port: PORT, mark: 0, mtu: MTU, addresses })
    }

    fn configure_by_wg(&self, kind: Kind, own: &PrivateKey, other: &PrivateKey, peer: &End) -> Result<()> {
        let interface = self.interface(kind);
        let socket = self.uapi(kind);
        wait_until("the control socket", || Ok(socket.exists()))?;
        let (public, port) = (other.public().to_string(), PORT.to_string());
        let (prefix, endpoint) = (format!("{}/32", peer.inner), format!("{}:{PORT}", peer.underlay));
        let set = ["wg", "set", &interface, "listen-port", &port, "private-key", "/dev/stdin"];
        let peer = ["peer", &public, "allowed-ips", &prefix, "endpoint", &endpoint];
        self.ns.feed(&[&set[..], &peer[..]].concat(), &own.to_text())?;
        self.ns.ip(&format!("link set {interface} name {INTERFACE}\n"))
    }

    fn wait_for_listener(&self) -> Result<()> {
        wait_until("iperf3", || {
            let out = command("ip", &["netns", "exec", &self.ns.name, "ss", "-Hltn", "sport = :5201"])?;
            Ok(!out.trim().is_empty())
        })
    }

    /// `utime` and `stime` of proc(5), in seconds.
    fn cpu_s(&self) -> Result<f64> {
        let Some(process) = &self.process else { return Ok(0.0) };
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).context("/proc/PID/stat");
        // USER_HZ is 100 on every architecture that we build for.
        Ok((ticks(11)? + ticks(12)?) / 100.0)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        for kind in Kind::ALL {
            let _ = fs::remove_file(self.uapi(kind));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Installs boringtun's own program once, below the target directory.
fn boringtun() -> Result<PathBuf> {
    let root = std::env::current_exe()?.with_file_name("peers");
    let program = root.join("bin/boringtun-cli");
    if !program.exists() {
        eprintln!("wireguard: building boringtun-cli, once");
        let root = root.display().to_string();
        let target = format!("{root}/build");
        command(
            "cargo",
            &["install", "boringtun-cli", "--version", "0.7.1", "--locked", "--root", &root, "--target-dir", &target],
        )?;
    }
    Ok(program)
}

fn wait_until(what: &str, done: impl FnMut() -> Result<bool>) -> Result<()> {
    crate::agent::wait_for(Duration::from_secs(10), what, done)
}

/// The cipher alone, in one thread: what no WireGuard device can exceed for each CPU.
fn aead(table: &mut Table) {
    use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
    let Ok(key) = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]) else { return };
    let key = LessSafeKey::new(key);
    let mut packet = vec![0u8; MTU as usize];
    let (started, mut bytes) = (Instant::now(), 0u64);
    while started.elapsed() < Duration::from_secs(1) {
        for _ in 0..256 {
            let nonce = Nonce::assume_unique_for_key([0; 12]);
            if key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut packet).is_err() {
                return;
            }
            bytes += u64::from(MTU);
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = bytes as f64 * 8.0 / 1e9 / started.elapsed().as_secs_f64();
    table.row("ChaCha20-Poly1305 alone, one thread", "ring", &format!("{rate:.1} Gbit/s"), "packets of 1,408 bytes");
}

fn report(table: &mut Table, all: &[Figures]) {
    let at = |kind: Kind| &all[Kind::ALL.iter().position(|k| *k == kind).unwrap_or_default()];
    let of = |what: &str,
              unit: &str,
              figure: &dyn Fn(&Figures) -> &[f64],
              remark: &dyn Fn(Kind) -> String,
              table: &mut Table| {
        for kind in Kind::ALL {
            let values = figure(at(kind));
            if values.is_empty() {
                continue;
            }
            let ratio = paired(values, figure(at(Kind::Boringtun)));
            let beside = format!("{ratio:.2}x of boringtun{}", remark(kind));
            table.row(what, kind.name(), &format!("{} {unit}", spread(values)), &beside);
        }
    };
    let retransmits = |kind: Kind| format!("; {} retransmits in all", at(kind).retransmits);
    of("WireGuard, one TCP flow", "Gbit/s", &|f| &f.gbps[0], &retransmits, table);
    of("WireGuard, four TCP flows", "Gbit/s", &|f| &f.gbps[1], &|_| String::new(), table);
    let target =
        |least: &'static str| move |kind| if kind == Kind::Ours { format!("; target {least}") } else { String::new() };
    of("WireGuard, sent for each CPU second", "Gbit", &|f| &f.sent_per_cpu_s, &target("4 Gbit"), table);
    of("WireGuard, received for each CPU second", "Gbit", &|f| &f.received_per_cpu_s, &target("3.5 Gbit"), table);
    of("UDP of 100 bytes, received", "packets/s", &|f| &f.packets_per_s, &|_| String::new(), table);
    let added = |kind: Kind| {
        let mut extra: Vec<f64> =
            at(kind).echo_us.iter().zip(&at(Kind::Cable).echo_us).map(|(with, without)| with - without).collect();
        format!("; {:.0} us more than without", median(&mut extra))
    };
    of("UDP request and response", "us", &|f| &f.echo_us, &added, table);
}

/// Median of the ratios of the rounds.
fn paired(values: &[f64], others: &[f64]) -> f64 {
    let mut ratios: Vec<f64> = values.iter().zip(others).map(|(value, other)| value / other).collect();
    if ratios.is_empty() { f64::NAN } else { median(&mut ratios) }
}

fn spread(values: &[f64]) -> String {
    let mut sorted = values.to_vec();
    let middle = median(&mut sorted);
    let digits = if middle < 100.0 { 2 } else { 0 };
    format!("{middle:.digits$} ({:.digits$} to {:.digits$})", percentile(&sorted, 0.0), percentile(&sorted, 100.0))
}
