//! The device: a TUN interface, sockets, and the threads between them.
//!
//! - one thread per TUN queue reads packets, encrypts and sends them;
//! - one thread per socket receives, decrypts, joins and writes to the TUN interface;
//! - one thread keeps the timers.
//!
//! None of them is ever cancelled in the middle: they look at `stop` between packets and end with the device.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use bytes::BytesMut;
use causeway_encryption_plan::{Change, DeviceSpec, Snapshot, Unfit};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::engine::{Datagram, Engine};
use crate::join::Joiner;
use crate::split::VnetHeader;
use crate::tun::{self, Queue};
use crate::udp::{Patience, Then, Udp};

/// The largest super-packet, with its header.
const PACKET_MAX: usize = 65_535 + VnetHeader::LEN;
/// Datagrams that are sealed before they are sent, so that one flow's packets go out together and nobody waits long.
const BATCH: usize = 64;
/// Receives whose packets are joined before any is written, as long as there is something to join: a super-packet of TCP
/// fills more than one, and flows take turns. Their datagrams are opened in a quarter of a millisecond. What is not joined
/// is written after each receive: who reads it has no room for more at once.
const RECEIVES: usize = 4;
/// Buffers that are kept for datagrams to come: as many as [`RECEIVES`] bring of a full size. Others are freed.
const SPARE: usize = 256;
/// Timers of WireGuard are whole seconds; a quarter keeps them true enough.
const TICK: Duration = Duration::from_millis(250);
/// How long a thread that has nothing to do sleeps before it looks at `stop`.
const PATIENCE_MS: u16 = 500;

#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("making the interface {name}: {error}")]
    Interface { name: String, error: io::Error },
    #[error("binding UDP {address}: {error}")]
    Bind { address: SocketAddr, error: io::Error },
    #[error("the device needs an address to send from: the node's own")]
    NoAddress,
    #[error("starting a thread: {0}")]
    Thread(io::Error),
}

pub struct Device {
    spec: DeviceSpec,
    ifindex: u32,
    engine: Arc<Engine>,
    sockets: Arc<Sockets>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

struct Sockets {
    v4: Option<Udp>,
    v6: Option<Udp>,
    /// Datagrams to a family that the node has no address of.
    no_family: AtomicU64,
}

impl Sockets {
    fn bind(spec: &DeviceSpec) -> Result<Self, DeviceError> {
        let bind = |v4: bool| {
            let address = spec.addresses.iter().copied().find(|address| address.is_ipv4() == v4);
            address.map(|address| bind(address, spec.port, spec.mark)).transpose()
        };
        let sockets = Self { v4: bind(true)?, v6: bind(false)?, no_family: AtomicU64::new(0) };
        if sockets.v4.is_none() && sockets.v6.is_none() { Err(DeviceError::NoAddress) } else { Ok(sockets) }
    }

    fn each(&self) -> impl Iterator<Item = &Udp> {
        self.v4.iter().chain(&self.v6)
    }

    /// Sends all of it, neighbours of one family at a time, and empties it.
    fn send(&self, datagrams: &mut Vec<Datagram>) {
        self.send_then(datagrams, Then::Nothing);
    }

    /// As [`Self::send`], but leaves at the end what waits for more of its kind.
    fn send_then(&self, datagrams: &mut Vec<Datagram>, then: Then) {
        let mut done = 0;
        for family in datagrams.chunk_by(|a, b| a.0.is_ipv4() == b.0.is_ipv4()) {
            let last = done + family.len() == datagrams.len();
            let socket = if family[0].0.is_ipv4() { &self.v4 } else { &self.v6 };
            done += match socket {
                Some(socket) => socket.send(family, if last { then } else { Then::Nothing }),
                None => {
                    self.no_family.fetch_add(family.len() as u64, Ordering::Relaxed);
                    family.len()
                }
            };
        }
        datagrams.drain(..done);
    }
}

fn bind(address: IpAddr, port: u16, mark: u32) -> Result<Udp, DeviceError> {
    let at = SocketAddr::new(address, port);
    Udp::bind(address, port, mark).map_err(|error| DeviceError::Bind { address: at, error })
}

impl Device {
    /// Makes the interface and starts the threads. `queues`: threads that encrypt, at least one.
    pub fn start(spec: DeviceSpec, queues: usize) -> Result<Self, DeviceError> {
        let failed = |error| DeviceError::Interface { name: spec.name.clone(), error };
        let sockets = Arc::new(Sockets::bind(&spec)?);
        let tuns = (0..queues.max(1))
            .map(|_| Queue::open(&spec.name).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        let ifindex = tun::configure(&spec.name, spec.mtu).map_err(failed)?;
        let mut device =
            Self { spec, ifindex, engine: Arc::new(Engine::new()), sockets, stop: Arc::default(), threads: Vec::new() };
        for (index, tun) in tuns.iter().enumerate() {
            let (engine, sockets, tun) = (Arc::clone(&device.engine), Arc::clone(&device.sockets), Arc::clone(tun));
            device.spawn(&format!("seal-{index}"), move |stop| seal(stop, &engine, &sockets, &tun))?;
        }
        for v4 in [true, false] {
            let there = if v4 { device.sockets.v4.is_some() } else { device.sockets.v6.is_some() };
            if there {
                let (engine, sockets) = (Arc::clone(&device.engine), Arc::clone(&device.sockets));
                let tun = Arc::clone(&tuns[0]);
                device.spawn(if v4 { "open-v4" } else { "open-v6" }, move |stop| {
                    open(stop, &engine, &sockets, v4, &tun);
                })?;
            }
        }
        let (engine, sockets) = (Arc::clone(&device.engine), Arc::clone(&device.sockets));
        device.spawn("timers", move |stop| timers(stop, &engine, &sockets))?;
        Ok(device)
    }

    pub fn spec(&self) -> &DeviceSpec {
        &self.spec
    }

    /// Index of the interface.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Gives the interface another MTU.
    pub fn set_mtu(&mut self, mtu: u32) -> Result<(), DeviceError> {
        tun::configure(&self.spec.name, mtu)
            .map_err(|error| DeviceError::Interface { name: self.spec.name.clone(), error })?;
        self.spec.mtu = mtu;
        Ok(())
    }

    /// Applies changes up to the first that does not fit, and says which that was.
    pub fn apply(&self, changes: Vec<Change>) -> Result<(), (usize, Unfit)> {
        let mut out = Vec::new();
        for (index, change) in changes.into_iter().enumerate() {
            let done = self.engine.apply(change, &mut out).map_err(|error| (index, error));
            if out.len() >= BATCH || done.is_err() {
                self.sockets.send(&mut out);
            }
            done?;
        }
        self.sockets.send(&mut out);
        Ok(())
    }

    pub fn snapshot(&self) -> Snapshot {
        let (actual, mut stats) = self.engine.look();
        stats.values_mut().for_each(|peer| peer.ifindex = self.ifindex);
        let dropped = self.engine.dropped();
        Snapshot {
            spec: Some(self.spec.clone()),
            ifindex: self.ifindex,
            interfaces: [self.ifindex].into(),
            actual,
            stats,
            no_peer: dropped.no_peer,
            strangers: dropped.strangers,
            malformed: dropped.malformed,
            unsent: self.sockets.each().map(Udp::dropped).sum::<u64>() + self.sockets.no_family.load(Ordering::Relaxed),
        }
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce(&AtomicBool) + Send + 'static) -> Result<(), DeviceError> {
        let stop = Arc::clone(&self.stop);
        let builder = thread::Builder::new().name(name.to_owned());
        self.threads.push(builder.spawn(move || run(&stop)).map_err(DeviceError::Thread)?);
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// TUN to sockets.
fn seal(stop: &AtomicBool, engine: &Engine, sockets: &Sockets, tun: &Queue) {
    let mut buffer = vec![0u8; PACKET_MAX];
    let mut out = Vec::with_capacity(2 * BATCH);
    // Packets since something was sent: those that nobody takes must not keep others waiting.
    let mut reads = 0;
    while !stop.load(Ordering::Relaxed) {
        match tun.read(&mut buffer) {
            Ok(length) => {
                if let Some(vnet) = VnetHeader::read(&buffer[..length]) {
                    engine.seal(vnet, &buffer[VnetHeader::LEN..length], &mut out);
                }
                reads += 1;
                if out.len() >= BATCH || reads >= BATCH {
                    let then = if reads < BATCH { Then::More } else { Then::Nothing };
                    sockets.send_then(&mut out, then);
                    reads = 0;
                }
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::error!(%error, "reading from the interface: is it gone?");
                thread::sleep(TICK);
            }
        }
        sockets.send(&mut out);
        reads = 0;
        wait(tun);
    }
}

fn wait(tun: &Queue) {
    let mut readable = [PollFd::new(tun.file().as_fd(), PollFlags::POLLIN)];
    let _ = poll(&mut readable, PollTimeout::from(PATIENCE_MS));
}

/// A socket to TUN.
fn open(stop: &AtomicBool, engine: &Engine, sockets: &Sockets, v4: bool, tun: &Queue) {
    let Some(socket) = (if v4 { &sockets.v4 } else { &sockets.v6 }) else { return };
    let mut buffer = vec![0u8; PACKET_MAX];
    let mut joiner: Joiner<BytesMut> = Joiner::new();
    let mut spare = Spare::default();
    let mut out = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let (mut patience, mut failed) = (Patience::Some, false);
        for _ in 0..RECEIVES {
            let received = match socket.receive(&mut buffer, patience) {
                Ok(Some(received)) => received,
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "receiving");
                    failed = true;
                    break;
                }
            };
            let datagrams = buffer[..received.length].chunks(received.size.max(1)).map(|datagram| spare.copy(datagram));
            engine.open_all(received.from, datagrams, &mut out, |packet| joiner.push(packet));
            if !joiner.is_open() {
                break;
            }
            patience = Patience::None;
        }
        joiner.flush(
            |pieces| {
                // ENOBUFS and EIO (the interface is down) lose a packet, as a wire would.
                let _ = tun.write(pieces);
            },
            |packet| spare.keep(packet),
        );
        if !out.is_empty() {
            sockets.send(&mut out);
        }
        if failed {
            thread::sleep(TICK);
        }
    }
}

/// Buffers for datagrams, to be used again.
#[derive(Default)]
struct Spare {
    buffers: Vec<BytesMut>,
}

impl Spare {
    fn copy(&mut self, datagram: &[u8]) -> BytesMut {
        let mut buffer = self.buffers.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(datagram);
        buffer
    }

    fn keep(&mut self, buffer: BytesMut) {
        if self.buffers.len() < SPARE {
            self.buffers.push(buffer);
        }
    }
}

fn timers(stop: &AtomicBool, engine: &Engine, sockets: &Sockets) {
    let mut out = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(TICK);
        engine.tick(&mut out);
        sockets.send(&mut out);
    }
}
