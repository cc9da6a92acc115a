//! New-connection latency through each kind of service translation, in interleaved rounds.
//!
//! Each kind has a path of its own, client -> node -> backend, with equal addresses: `none` forwards without
//! translation, `ours` runs our programs, `nft` and `iptables` hold rule sets in kube-proxy's shapes. Two things are
//! timed, to the last of N services: a transaction on a new connection (connect, one byte, one byte back; what netperf
//! calls TCP_CRR), and `connect()` alone: SYN out, SYN-ACK back, without a thread being woken on the other side, which
//! is the harshest view of what translation costs. A round visits every path; ratios are taken inside a round, and the
//! median round is reported, so that a noisy neighbour on the machine disturbs both sides of a ratio.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use causeway_datapath_abi::{Addr, NodeConfig};
use causeway_datapath_loader::{
    Backend, Datapath, Endpoint, Frontend, IpcacheEntry, Kernel, LbService, Options, Proto,
};
use nix::sys::socket::{setsockopt, sockopt};

use crate::netns::Netns;
use crate::report::{Table, median, percentile};
use crate::rules::{self, SERVICE_PORT, service_addr};

const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const BACKEND_PORT: u16 = 8080;
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);

/// Sizes of the service table.
const SIZES: [u32; 2] = [10, 10_000];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    None,
    Ours,
    Nft,
    Iptables,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::None, Kind::Ours, Kind::Nft, Kind::Iptables];

    const fn name(self) -> &'static str {
        match self {
            Kind::None => "no NAT",
            Kind::Ours => "causeway",
            Kind::Nft => "nftables",
            Kind::Iptables => "iptables-legacy",
        }
    }
}

/// client -> node -> backend. Dropping it removes the namespaces and stops the server.
struct Path {
    kind: Kind,
    client: Netns,
    node: Netns,
    _backend: Netns,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<Result<()>>>,
    /// Holds our programs and maps while the path lives.
    datapath: Option<Kernel>,
    /// Seconds that programming all services took.
    load_s: f64,
}

impl Path {
    fn build(kind: Kind, services: u32) -> Result<Path> {
        let tag = format!("cwb-{}-{services}", kind.name().split(['-', ' ']).next().unwrap_or("x"));
        let client = Netns::create(&format!("{tag}-c"))?;
        let node = Netns::create(&format!("{tag}-n"))?;
        let backend = Netns::create(&format!("{tag}-b"))?;
        cable(&client, &node, &backend)?;
        let started = Instant::now();
        let mut load_s = None;
        let datapath = match kind {
            Kind::None => None,
            Kind::Ours => {
                let (datapath, took_s) = program_ours(&tag, &node, services)?;
                load_s = Some(took_s);
                Some(datapath)
            }
            Kind::Nft => {
                node.feed(&["nft", "-f", "-"], &rules::nftables(services, BACKEND, BACKEND_PORT))?;
                None
            }
            Kind::Iptables => {
                node.feed(&["iptables-legacy-restore"], &rules::iptables(services, BACKEND, BACKEND_PORT))?;
                None
            }
        };
        let load_s = load_s.unwrap_or_else(|| started.elapsed().as_secs_f64());
        let stop = Arc::new(AtomicBool::new(false));
        let server = serve(&backend, Arc::clone(&stop))?;
        Ok(Path { kind, client, node, _backend: backend, stop, server: Some(server), datapath, load_s })
    }

    /// Times in microseconds, sorted: (transactions, connects).
    fn measure(&self, target: SocketAddr, samples: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        let work = move || {
            let (mut transactions, mut connects) = (Vec::with_capacity(samples), Vec::with_capacity(samples));
            for _ in 0..samples {
                let started = Instant::now();
                let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))
                    .with_context(|| format!("connect to {target}"))?;
                connects.push(started.elapsed().as_secs_f64() * 1e6);
                stream.write_all(&[1])?;
                stream.read_exact(&mut [0]).with_context(|| format!("no answer from {target}"))?;
                transactions.push(started.elapsed().as_secs_f64() * 1e6);
                // Reset instead of TIME_WAIT, so that thousands of rounds do not run out of ports.
                setsockopt(&stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
            }
            transactions.sort_by(f64::total_cmp);
            connects.sort_by(f64::total_cmp);
            Ok((transactions, connects))
        };
        match self.client.thread(1, work).join() {
            Ok(result) => result.with_context(|| format!("path {}", self.kind.name())),
            Err(_) => anyhow::bail!("the client thread panicked"),
        }
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
        self.datapath = None;
        let _ = std::fs::remove_dir_all(pin_root(&self.node.name));
    }
}

fn pin_root(node: &str) -> String {
    format!("/sys/fs/bpf/causeway-bench/{node}")
}

fn cable(client: &Netns, node: &Netns, backend: &Netns) -> Result<()> {
    crate::netns::run(
        "ip",
        &["link", "add", "lxc0", "netns", &node.name, "type", "veth", "peer", "name", "eth0", "netns", &client.name],
    )?;
    crate::netns::run(
        "ip",
        &["link", "add", "up0", "netns", &node.name, "type", "veth", "peer", "name", "eth0", "netns", &backend.name],
    )?;
    client.ip(&format!(
        "link set lo up\nlink set eth0 up\naddr add {CLIENT}/24 dev eth0\nroute add default via 10.0.1.1\n"
    ))?;
    backend.ip(&format!(
        "link set lo up\nlink set eth0 up\naddr add {BACKEND}/24 dev eth0\nroute add default via 10.0.2.1\n"
    ))?;
    node.ip("link set lo up\nlink set lxc0 up\nlink set up0 up\naddr add 10.0.1.1/24 dev lxc0\naddr add 10.0.2.1/24 dev up0\n")?;
    node.run(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        for name in ["all", "lxc0", "up0"] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0")?;
        }
        Ok(())
    })?;
    // Every path starts with its neighbours resolved.
    client.feed(&["ping", "-c", "1", "-W", "2", &BACKEND.to_string()], "")
}

/// An Ethernet address and an interface index, as sysfs has them for the namespace of the calling thread.
fn link(ns: &Netns, name: &str) -> Result<(u32, [u8; 6])> {
    let out = crate::netns::run("ip", &["-n", &ns.name, "-j", "link", "show", name])?;
    let json: serde_json::Value = serde_json::from_str(&out)?;
    let row = &json[0];
    let index = u32::try_from(row["ifindex"].as_u64().context("ifindex")?)?;
    let mut mac = [0; 6];
    for (byte, text) in mac.iter_mut().zip(row["address"].as_str().context("address")?.split(':')) {
        *byte = u8::from_str_radix(text, 16)?;
    }
    Ok((index, mac))
}

/// Our datapath on the node, and how many seconds writing the services took.
fn program_ours(tag: &str, node: &Netns, services: u32) -> Result<(Kernel, f64)> {
    let root = pin_root(&node.name);
    let _ = std::fs::remove_dir_all(&root);
    let (pod_ifindex, host_mac) = link(node, "lxc0")?;
    let (uplink, _) = link(node, "up0")?;
    let client_ns = Netns { name: format!("{tag}-c") };
    let mac = link(&client_ns, "eth0").map(|(_, mac)| mac);
    std::mem::forget(client_ns);
    let mac = mac?;
    node.run(move || {
        let config = NodeConfig {
            node_v4: Addr::v4([10, 0, 2, 1]),
            snat_port_min: 61_000,
            snat_port_max: 65_535,
            ..NodeConfig::default()
        };
        let datapath = Kernel::open(&Options::new(root, config))?;
        datapath.upsert_endpoint(
            IpAddr::V4(CLIENT),
            Endpoint { ifindex: pod_ifindex, identity: 256, id: 1, mac, host_mac },
        )?;
        datapath.upsert_ipcache("10.0.0.0/16".parse()?, IpcacheEntry { identity: 256, in_cluster: true })?;
        let service = LbService {
            backends: vec![Backend { addr: SocketAddr::from((BACKEND, BACKEND_PORT)), local: false }],
            ..LbService::default()
        };
        let before_services = Instant::now();
        for n in 0..services {
            let frontend = Frontend { addr: IpAddr::V4(service_addr(n)), port: SERVICE_PORT, proto: Proto::Tcp };
            datapath.upsert_service(frontend, &service)?;
        }
        let took_s = before_services.elapsed().as_secs_f64();
        datapath.attach_pod(pod_ifindex)?;
        datapath.attach_uplink(uplink)?;
        Ok((datapath, took_s))
    })
}

/// Answers a byte on each connection, on CPU 0, until told to stop.
fn serve(backend: &Netns, stop: Arc<AtomicBool>) -> Result<JoinHandle<Result<()>>> {
    let listener = backend.run(|| Ok(TcpListener::bind((BACKEND, BACKEND_PORT))?))?;
    Ok(backend.thread(0, move || {
        for stream in listener.incoming() {
            let mut stream = stream?;
            let mut byte = [0];
            // A client that resets early is no concern of the server's.
            if stream.read_exact(&mut byte).is_ok() {
                let _ = stream.write_all(&byte);
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }))
}

/// Medians of the counted rounds, one per round.
#[derive(Clone, Default)]
struct Series {
    p50_us: Vec<f64>,
    ratio: Vec<f64>,
}

/// Where a path's connections go.
fn target(path: &Path, service: u32) -> SocketAddr {
    match path.kind {
        Kind::None => SocketAddr::from((BACKEND, BACKEND_PORT)),
        Kind::Ours | Kind::Nft | Kind::Iptables => SocketAddr::from((service_addr(service), SERVICE_PORT)),
    }
}

/// Interleaved rounds over all paths: for each of the two measures a series per path. The first path is the base.
fn compare(paths: &[Path], services: u32, rounds: usize, samples: usize) -> Result<[(&'static str, Vec<Series>); 2]> {
    let mut transactions = vec![Series::default(); paths.len()];
    let mut connects = transactions.clone();
    for round in 0..=rounds {
        let mut base: Option<(f64, f64)> = None;
        for (index, path) in paths.iter().enumerate() {
            let (transaction, connect) = path.measure(target(path, services - 1), samples)?;
            let p50 = (percentile(&transaction, 50.0), percentile(&connect, 50.0));
            let base = *base.get_or_insert(p50);
            // Round 0 warms caches and is not counted.
            if round > 0 {
                transactions[index].p50_us.push(p50.0);
                transactions[index].ratio.push(p50.0 / base.0);
                connects[index].p50_us.push(p50.1);
                connects[index].ratio.push(p50.1 / base.1);
            }
        }
    }
    Ok([("new connection with a request", transactions), ("connect() alone", connects)])
}

/// Runs the comparison and adds its rows.
pub(crate) fn run(table: &mut Table, rounds: usize, samples: usize) -> Result<()> {
    for services in SIZES {
        eprintln!("latency: programming {services} services four ways (nft takes its time)");
        let paths = Kind::ALL.iter().map(|kind| Path::build(*kind, services)).collect::<Result<Vec<_>>>()?;
        for (what, of) in compare(&paths, services, rounds, samples)? {
            for (path, series) in paths.iter().zip(of) {
                table.row(
                    &format!("{what}, last of {services} services"),
                    path.kind.name(),
                    &format!("{:.1} us p50", median(&mut series.p50_us.clone())),
                    &format!("{:.3}x of no NAT", median(&mut series.ratio.clone())),
                );
            }
        }
        for path in &paths {
            if path.kind != Kind::None {
                table.row(
                    &format!("programming {services} services"),
                    path.kind.name(),
                    &format!("{:.3} s", path.load_s),
                    &format!("{:.1} us each", path.load_s * 1e6 / f64::from(services)),
                );
            }
        }
        // The servers wait in accept(): one last connection each lets them see the stop flag.
        for path in &paths {
            path.stop.store(true, Ordering::Relaxed);
            let _ = path.measure(target(path, 0), 1);
        }
    }
    let _ = std::fs::remove_dir("/sys/fs/bpf/causeway-bench");
    Ok(())
}
