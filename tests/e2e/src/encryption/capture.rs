//! Every frame on every underlay link, looked at as it passes: markers in payloads, and plain traffic of nodes that encrypt.
//!
//! Each cable of a host and each link between racks ends at a ToR, so one packet socket per ToR sees all of them, in both
//! directions, also those that are laid later. Nothing is stored but counts and the first frames that should not be there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::net::if_::if_indextoname;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket};
use nix::sys::time::TimeVal;
use std::os::fd::{AsRawFd as _, OwnedFd};
use topology::Plan;
use topology::plan::HostPlan;
use topology::spec::{Encryption, Ranges, Role};

use super::frame::{self, Frame, Kind};
use super::place::{Place, Places};

pub(crate) const MARKER: usize = 16;
/// What may wait while the machine is busy with something else.
const BUFFER: usize = 64 << 20;
/// A frame with segmentation offload is up to 64 KiB long.
const LONGEST: usize = 1 << 17;
/// Frames that are told in words; the rest is only counted.
const SAMPLES: usize = 5;
/// Bridges of a ToR: what passes them is seen at their ports.
const BRIDGES: [&str; 3] = ["rack", "out", "lo"];
/// From a packet's sending until the capture has looked at it.
const GRACE: Duration = Duration::from_millis(300);

/// Sixteen random letters and digits that stand in a payload, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Marker(pub(crate) [u8; MARKER]);

impl Marker {
    fn random() -> Result<Marker> {
        let mut bytes = [0; MARKER];
        std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("/dev/urandom")?;
        let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
        Ok(Marker(bytes.map(|byte| letters[usize::from(byte & 63)])))
    }

    /// `length` bytes of it.
    pub(crate) fn payload(&self, length: usize) -> Vec<u8> {
        self.0.iter().copied().cycle().take(length).collect()
    }

    pub(crate) fn text(&self) -> String {
        self.0.iter().map(|byte| char::from(*byte)).collect()
    }
}

/// Whose traffic must not be seen.
#[derive(Debug, Clone)]
pub(crate) struct World {
    /// Pod ranges of the clusters that encrypt.
    pods: Vec<Ranges>,
    /// Addresses of their nodes.
    nodes: BTreeSet<IpAddr>,
    /// Addresses of hosts outside.
    clients: BTreeSet<IpAddr>,
}

impl World {
    pub(crate) fn of(plan: &Plan) -> World {
        let encrypts = |name: &str| plan.cluster(name).is_some_and(|cluster| cluster.encryption != Encryption::None);
        let addresses = |host: &HostPlan| {
            let cables = host.cables.iter().flat_map(|cable| [cable.v4.addr().into(), cable.v6.addr().into()]);
            cables.chain([host.loopback.v4.into(), host.loopback.v6.into()]).collect::<Vec<IpAddr>>()
        };
        let of = |wanted: &dyn Fn(&HostPlan) -> bool| {
            plan.hosts.iter().filter(|host| wanted(host)).flat_map(addresses).collect::<BTreeSet<IpAddr>>()
        };
        World {
            pods: plan.clusters.iter().filter(|c| encrypts(&c.name)).map(|c| c.pods).collect(),
            nodes: of(&|host| matches!(&host.role, Role::Node { cluster } if encrypts(cluster))),
            clients: of(&|host| host.role == Role::Client),
        }
    }

    fn pod(&self, address: IpAddr) -> bool {
        self.pods.iter().any(|ranges| match address {
            IpAddr::V4(v4) => ranges.v4.contains(&v4),
            IpAddr::V6(v6) => ranges.v6.contains(&v6),
        })
    }

    /// Between a client and something that is no pod: a Service's address, or a node that a pod's traffic leaves by.
    fn outside(&self, frame: &Frame) -> bool {
        frame.ends.is_some_and(|(from, to)| {
            (self.clients.contains(&from) && !self.pod(to)) || (self.clients.contains(&to) && !self.pod(from))
        })
    }

    /// Plain traffic between nodes that encrypt, or their pods.
    fn foreign(&self, frame: &Frame) -> bool {
        let ours = |address: IpAddr| self.pod(address) || self.nodes.contains(&address);
        let plain = !matches!(frame.kind, Kind::Wireguard | Kind::Bgp | Kind::Arp | Kind::Neighbours);
        plain && frame.ends.is_some_and(|(from, to)| ours(from) && ours(to))
    }
}

/// Which markers there are, found fast.
struct Index {
    /// By the first two bytes.
    first: Vec<bool>,
    markers: HashMap<[u8; MARKER], usize>,
}

impl Index {
    fn new() -> Index {
        Index { first: vec![false; 1 << 16], markers: HashMap::new() }
    }

    fn add(&mut self, marker: Marker) -> usize {
        let number = self.markers.len();
        self.first[usize::from(u16::from_be_bytes([marker.0[0], marker.0[1]]))] = true;
        self.markers.insert(marker.0, number);
        number
    }

    /// The markers in a frame.
    fn find(&self, bytes: &[u8]) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        for (at, pair) in bytes.windows(2).enumerate() {
            if self.first[usize::from(u16::from_be_bytes([pair[0], pair[1]]))]
                && let Some(window) = bytes.get(at..at + MARKER)
                && let Some(number) = self.markers.get(window)
            {
                found.insert(*number);
            }
        }
        found
    }
}

/// Where a marker was seen in the clear.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hits {
    /// Where nobody may see it.
    pub(crate) inside: u64,
    /// Between a client and a Service's or node's address.
    pub(crate) outside: u64,
    pub(crate) kinds: BTreeMap<&'static str, u64>,
    pub(crate) links: BTreeSet<String>,
    samples: Vec<String>,
}

#[derive(Default)]
struct Seen {
    frames: u64,
    wireguard: u64,
    links: BTreeMap<String, u64>,
    hits: BTreeMap<usize, Hits>,
    foreign: u64,
    foreign_samples: Vec<String>,
}

struct Shared {
    world: World,
    index: RwLock<Index>,
    seen: Mutex<Seen>,
    stop: AtomicBool,
}

/// A capture that runs until it is dropped.
pub(crate) struct Capture {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
    tors: Vec<Place>,
}

/// What was seen in all.
pub(crate) struct Total {
    pub(crate) frames: u64,
    pub(crate) wireguard: u64,
    pub(crate) links: usize,
    pub(crate) foreign: u64,
    pub(crate) foreign_samples: Vec<String>,
}

impl Capture {
    /// Captures at all ToRs of a plan, until the returned value goes.
    pub(crate) fn start(places: &Places, plan: &Plan, world: World) -> Result<Capture> {
        let shared = Arc::new(Shared {
            world,
            index: RwLock::new(Index::new()),
            seen: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let tors = plan.tors.iter().map(|tor| places.get(&tor.name)).collect::<Result<Vec<_>>>()?;
        let mut threads = Vec::new();
        for tor in &tors {
            // Open before anything is sent, and in its thread only because of the names of interfaces.
            let socket = tor.inside(open)?;
            let (shared, name) = (shared.clone(), tor.name.clone());
            threads.push(tor.spawn(move || watch(&socket, &name, &shared)));
        }
        Ok(Capture { shared, threads, tors })
    }

    /// A new marker that is looked for from now on.
    pub(crate) fn marker(&self) -> Result<(usize, Marker)> {
        let marker = Marker::random()?;
        let number = self.shared.index.write().unwrap_or_else(PoisonError::into_inner).add(marker);
        Ok((number, marker))
    }

    /// What was seen of a marker until now.
    pub(crate) fn hits(&self, marker: usize) -> Hits {
        std::thread::sleep(GRACE);
        self.seen().hits.get(&marker).cloned().unwrap_or_default()
    }

    /// WireGuard's datagrams until now.
    pub(crate) fn wireguard(&self) -> u64 {
        self.seen().wireguard
    }

    pub(crate) fn total(&self) -> Total {
        let seen = self.seen();
        Total {
            frames: seen.frames,
            wireguard: seen.wireguard,
            links: seen.links.len(),
            foreign: seen.foreign,
            foreign_samples: seen.foreign_samples.clone(),
        }
    }

    /// An error when the kernel could not hand over every frame, or a thread has ended.
    pub(crate) fn whole(&self) -> Result<()> {
        ensure!(self.threads.iter().all(|thread| !thread.is_finished()), "a capture has broken off");
        for tor in &self.tors {
            let out = tor.inside(|| {
                let out = std::process::Command::new("ss").args(["-0", "-m"]).output().context("cannot run ss")?;
                Ok(String::from_utf8_lossy(&out.stdout).into_owned())
            })?;
            let dropped: Vec<u64> = dropped(&out);
            ensure!(!dropped.is_empty(), "ss on {} shows no packet socket: {out}", tor.name);
            ensure!(dropped.iter().all(|count| *count == 0), "the capture on {} lost {dropped:?} frames", tor.name);
        }
        Ok(())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Frames that sockets lost, from `skmem:(r0,rb212992,t0,tb212992,f0,w0,o0,bl0,d0)`.
fn dropped(ss: &str) -> Vec<u64> {
    let lists = ss.split("skmem:(").skip(1).filter_map(|rest| rest.split(')').next());
    lists.filter_map(|list| list.split(',').find_map(|word| word.strip_prefix('d')?.parse().ok())).collect()
}

fn open() -> Result<OwnedFd> {
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .context("cannot open a packet socket")?;
    setsockopt(&fd, RcvBufForce, &BUFFER).context("SO_RCVBUFFORCE")?;
    setsockopt(&fd, ReceiveTimeout, &TimeVal::new(0, 100_000)).context("SO_RCVTIMEO")?;
    Ok(fd)
}

fn watch(socket: &OwnedFd, tor: &str, shared: &Shared) -> Result<()> {
    let mut buffer = vec![0; LONGEST];
    let mut names: HashMap<usize, Option<String>> = HashMap::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let (length, from) = match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok((length, Some(from))) => (length, from),
            Ok((_, None)) => bail!("a frame without its interface"),
            Err(nix::Error::EAGAIN | nix::Error::EINTR | nix::Error::ENETDOWN) => continue,
            Err(error) => return Err(error).context("reading a packet socket"),
        };
        let link = names.entry(from.ifindex()).or_insert_with(|| {
            let name = u32::try_from(from.ifindex()).ok().and_then(|index| if_indextoname(index).ok());
            let name = name.map_or_else(|| format!("if{}", from.ifindex()), |n| n.to_string_lossy().into_owned());
            (!BRIDGES.contains(&name.as_str())).then(|| format!("{tor}-{name}"))
        });
        if let Some(link) = link {
            look(&buffer[..length], link, shared);
        }
    }
    Ok(())
}

fn look(bytes: &[u8], link: &str, shared: &Shared) {
    let frame = frame::parse(bytes);
    let found = shared.index.read().unwrap_or_else(PoisonError::into_inner).find(bytes);
    let foreign = shared.world.foreign(&frame);
    let outside = shared.world.outside(&frame);
    let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.frames += 1;
    seen.wireguard += u64::from(frame.kind == Kind::Wireguard);
    match seen.links.get_mut(link) {
        Some(count) => *count += 1,
        None => {
            seen.links.insert(link.to_owned(), 1);
        }
    }
    if foreign {
        seen.foreign += 1;
        if seen.foreign_samples.len() < SAMPLES {
            seen.foreign_samples.push(describe(&frame, link));
        }
    }
    for number in found {
        let hits = seen.hits.entry(number).or_default();
        *if outside { &mut hits.outside } else { &mut hits.inside } += 1;
        *hits.kinds.entry(trade(frame.kind)).or_default() += 1;
        hits.links.insert(link.to_owned());
        if !outside && hits.samples.len() < SAMPLES {
            hits.samples.push(describe(&frame, link));
        }
    }
}

fn trade(kind: Kind) -> &'static str {
    match kind {
        Kind::Udp(..) => "UDP",
        Kind::Tcp(..) => "TCP",
        Kind::Icmp => "ICMP",
        Kind::Fragment => "fragments",
        _ => "other",
    }
}

fn describe(frame: &Frame, link: &str) -> String {
    let mut text = format!("{link}: {}", frame.kind);
    if let Some((from, to)) = frame.ends {
        let _ = write!(text, " {from} > {to}");
    }
    text
}

impl Hits {
    /// An error when the marker was seen where nobody may see it.
    pub(crate) fn none_inside(&self) -> Result<()> {
        ensure!(self.inside == 0, "{} frames carried the marker in the clear: {:?}", self.inside, self.samples);
        Ok(())
    }
}

/// Whether reading would have to wait.
pub(crate) fn would_block(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// A raw socket for echo requests of a family; ICMPv6's checksum is the kernel's work.
pub(crate) fn icmp_socket(to: IpAddr) -> Result<UdpSocket> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).context("cannot open a raw socket")?;
    Ok(UdpSocket::from(fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_found_wherever_they_stand() {
        let mut index = Index::new();
        let (one, two) = (Marker::random().unwrap(), Marker::random().unwrap());
        assert_eq!((index.add(one), index.add(two)), (0, 1));
        let text = [b"xx".as_slice(), &one.payload(40), b"yyy", &two.0, b"z"].concat();
        assert_eq!(index.find(&text), BTreeSet::from([0, 1]));
        assert_eq!(index.find(&one.0[..15]), BTreeSet::new());
        assert_eq!(index.find(&one.payload(40)[9..]), BTreeSet::from([0]), "in a piece that begins anywhere");
    }

    #[test]
    fn losses_are_read_from_ss() {
        let text = "p_raw UNCONN 0 0 *:* * \n\t skmem:(r0,rb134217728,t0,tb212992,f0,w0,o0,bl0,d7)\n";
        assert_eq!(dropped(text), [7]);
    }

    #[test]
    fn the_world_of_a_plan() {
        let text = std::fs::read_to_string("../../topologies/encrypted/topology.toml").unwrap();
        let plan = Plan::new(&topology::Topology::parse("t", &text).unwrap()).unwrap();
        let world = World::of(&plan);
        let plain = |from: &str, to: &str| Frame {
            ends: Some((from.parse().unwrap(), to.parse().unwrap())),
            kind: Kind::Udp(9, 9),
        };
        assert!(world.foreign(&plain("10.1.0.2", "10.1.3.4")));
        assert!(world.foreign(&plain("fd00:10::11", "fd00:1:0:3::4")));
        assert!(!world.foreign(&plain("10.1.0.2", "10.0.0.5")), "the control plane is no node");
        assert!(!world.foreign(&Frame { kind: Kind::Wireguard, ..plain("10.0.0.11", "10.0.0.14") }));
        assert!(world.outside(&plain("10.9.0.10", "192.0.2.1")));
        assert!(!world.outside(&plain("10.9.0.10", "10.1.3.4")), "a pod's address is never seen outside");
    }
}
