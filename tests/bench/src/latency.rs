//! New-connection latency through each kind of service translation, in interleaved rounds.
//!
//! Each kind has a path of its own, client -> node -> backend, with equal addresses: `none` forwards without
//! translation, `ours` runs our programs, `nft` and `iptables` hold rule sets in kube-proxy's shapes. What is timed is
//! `connect()` to the last of N services: SYN out, SYN-ACK back, through the node both ways. A round visits every
//! path; ratios are taken inside a round, and the median round is reported, so that a noisy neighbour on the machine
//! disturbs both sides of a ratio.

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
        let datapath = match kind {
            Kind::None => None,
            Kind::Ours => Some(program_ours(&tag, &node, services)?),
            Kind::Nft => {
                node.feed(&["nft", "-f", "-"], &rules::nftables(services, BACKEND, BACKEND_PORT))?;
                None
            }
            Kind::Iptables => {
                node.feed(&["iptables-legacy-restore"], &rules::iptables(services, BACKEND, BACKEND_PORT))?;
                None
            }
        };
        let load_s = started.elapsed().as_secs_f64();
        let stop = Arc::new(AtomicBool::new(false));
        let server = serve(&backend, Arc::clone(&stop))?;
        Ok(Path { kind, client, node, _backend: backend, stop, server: Some(server), datapath, load_s })
    }

    /// Connect times in microseconds, sorted.
    fn measure(&self, target: SocketAddr, samples: usize) -> Result<Vec<f64>> {
        let work = move || {
            let mut times = Vec::with_capacity(samples);
            for _ in 0..samples {
                let started = Instant::now();
                let stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))
                    .with_context(|| format!("connect to {target}"))?;
                times.push(started.elapsed().as_secs_f64() * 1e6);
                // Reset instead of TIME_WAIT, so that thousands of rounds do not run out of ports.
                setsockopt(&stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
            }
            times.sort_by(f64::total_cmp);
            Ok(times)
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

fn program_ours(tag: &str, node: &Netns, services: u32) -> Result<Kernel> {
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
        for n in 0..services {
            let frontend = Frontend { addr: IpAddr::V4(service_addr(n)), port: SERVICE_PORT, proto: Proto::Tcp };
            datapath.upsert_service(frontend, &service)?;
        }
        datapath.attach_pod(pod_ifindex)?;
        datapath.attach_uplink(uplink)?;
        Ok(datapath)
    })
}

/// Accepts and drops connections on CPU 0 until told to stop.
fn serve(backend: &Netns, stop: Arc<AtomicBool>) -> Result<JoinHandle<Result<()>>> {
    let listener = backend.run(|| Ok(TcpListener::bind((BACKEND, BACKEND_PORT))?))?;
    Ok(std::thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream);
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }))
}

/// Runs the comparison and adds its rows.
pub(crate) fn run(table: &mut Table, rounds: usize, samples: usize) -> Result<()> {
    for services in SIZES {
        eprintln!("latency: programming {services} services four ways (nft takes its time)");
        let paths = Kind::ALL.iter().map(|kind| Path::build(*kind, services)).collect::<Result<Vec<_>>>()?;
        let mut ratios: Vec<Vec<f64>> = vec![Vec::new(); paths.len()];
        let mut p50s: Vec<Vec<f64>> = vec![Vec::new(); paths.len()];
        for round in 0..=rounds {
            let mut base = None;
            for (index, path) in paths.iter().enumerate() {
                let target = match path.kind {
                    Kind::None => SocketAddr::from((BACKEND, BACKEND_PORT)),
                    _ => SocketAddr::from((service_addr(services - 1), SERVICE_PORT)),
                };
                let times = path.measure(target, samples)?;
                let p50 = percentile(&times, 50.0);
                let base = *base.get_or_insert(p50);
                // Round 0 warms caches and is not counted.
                if round > 0 {
                    ratios[index].push(p50 / base);
                    p50s[index].push(p50);
                }
            }
        }
        for (index, path) in paths.iter().enumerate() {
            table.row(
                &format!("new connection, last of {services} services"),
                path.kind.name(),
                &format!("{:.1} us p50", median(&mut p50s[index])),
                &format!("{:.3}x of no NAT", median(&mut ratios[index])),
            );
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
            let target = match path.kind {
                Kind::None => SocketAddr::from((BACKEND, BACKEND_PORT)),
                _ => SocketAddr::from((service_addr(0), SERVICE_PORT)),
            };
            let _ = path.measure(target, 1);
        }
    }
    let _ = std::fs::remove_dir("/sys/fs/bpf/causeway-bench");
    Ok(())
}
