//! Senders whose every payload is a marker, and servers that send back what they get.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::capture::{MARKER, Marker, icmp_socket, would_block};
use super::place::Place;

/// Where the servers listen, UDP and TCP.
pub(crate) const PORT: u16 = 9000;
/// How long a thread may not look whether it shall end.
const PATIENCE: Duration = Duration::from_millis(150);
/// Bytes of a payload that fits every link.
pub(crate) const SHORT: usize = 160;
/// Bytes of one that must be fragmented.
pub(crate) const LONG: usize = 3200;

/// Sends back what it gets, until dropped.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    received: Arc<Mutex<HashMap<[u8; MARKER], u64>>>,
}

impl Server {
    pub(crate) fn start(place: &Place) -> Result<Server> {
        let (udp, tcp) = place.inside(|| {
            let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
            Ok((UdpSocket::bind(any).context("bind UDP")?, TcpListener::bind(any).context("bind TCP")?))
        })?;
        udp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let received: Arc<Mutex<HashMap<[u8; MARKER], u64>>> = Arc::default();
        let count = |received: &Mutex<HashMap<[u8; MARKER], u64>>, bytes: &[u8]| {
            if let Some(marker) = bytes.get(..MARKER).and_then(|first| first.try_into().ok()) {
                *received.lock().unwrap_or_else(PoisonError::into_inner).entry(marker).or_default() += 1;
            }
        };
        let mut threads = Vec::new();
        let (ended, counted) = (stop.clone(), received.clone());
        threads.push(std::thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((length, client)) = udp.recv_from(&mut buffer) {
                    count(&counted, &buffer[..length]);
                    let _ = udp.send_to(&buffer[..length], client);
                }
            }
        }));
        let (ended, counted) = (stop.clone(), received.clone());
        threads.push(std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                match tcp.accept() {
                    Ok((stream, _)) => {
                        let (ended, counted) = (ended.clone(), counted.clone());
                        std::thread::spawn(move || echo(stream, &ended, |bytes| count(&counted, bytes)));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        }));
        Ok(Server { stop, threads, received })
    }

    /// Datagrams and pieces of streams that began with the marker.
    pub(crate) fn received(&self, marker: &Marker) -> u64 {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).get(&marker.0).copied().unwrap_or(0)
    }
}

fn echo(mut stream: TcpStream, ended: &AtomicBool, count: impl Fn(&[u8])) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut buffer = [0; 1 << 16];
    while !ended.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                count(&buffer[..length]);
                if stream.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
            Err(error) if would_block(&error) => {}
            Err(_) => return,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Udp,
    Tcp,
    Icmp,
}

pub(crate) const ALL: [Protocol; 3] = [Protocol::Udp, Protocol::Tcp, Protocol::Icmp];

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    sent: [AtomicU64; 3],
    answered: [AtomicU64; 3],
}

/// Payloads that were handed to the kernel, and those that came back, by protocol.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sent: [u64; 3],
    pub(crate) answered: [u64; 3],
}

impl Tally {
    pub(crate) fn of(self, protocol: Protocol) -> (u64, u64) {
        (self.sent[protocol as usize], self.answered[protocol as usize])
    }

    pub(crate) fn all(self) -> (u64, u64) {
        (self.sent.iter().sum(), self.answered.iter().sum())
    }
}

/// One sender to one address, until dropped.
pub(crate) struct Talk {
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<Result<()>>>,
    protocols: Vec<Protocol>,
}

impl Talk {
    pub(crate) fn start(place: &Place, to: IpAddr, marker: &Marker, protocols: &[Protocol], length: usize) -> Talk {
        let counts = Arc::new(Counts::default());
        let run = |protocol: &Protocol| {
            let (counts, payload, protocol) = (counts.clone(), marker.payload(length), *protocol);
            place.spawn(move || match protocol {
                Protocol::Udp => udp(to, &payload, &counts),
                Protocol::Tcp => tcp(to, &payload, &counts),
                Protocol::Icmp => icmp(to, &payload, &counts),
            })
        };
        let threads = protocols.iter().map(run).collect();
        Talk { counts, threads, protocols: protocols.to_vec() }
    }

    pub(crate) fn tally(&self) -> Tally {
        let read = |all: &[AtomicU64; 3]| [0, 1, 2].map(|at| all[at].load(Ordering::Relaxed));
        Tally { sent: read(&self.counts.sent), answered: read(&self.counts.answered) }
    }

    /// The fewest answers of any of its protocols.
    pub(crate) fn answered(&self) -> u64 {
        let tally = self.tally();
        self.protocols.iter().map(|protocol| tally.of(*protocol).1).min().unwrap_or(0)
    }

    /// Ends it; an error when a sender could not even start.
    pub(crate) fn finish(mut self) -> Result<Tally> {
        self.counts.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap_or_else(|_| anyhow::bail!("a sender panicked"))?;
        }
        Ok(self.tally())
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.counts.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Counts {
    fn ended(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn sent(&self, protocol: Protocol) {
        self.sent[protocol as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn answered(&self, protocol: Protocol) {
        self.answered[protocol as usize].fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn any(to: IpAddr) -> SocketAddr {
    let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    (any, 0).into()
}

fn udp(to: IpAddr, payload: &[u8], counts: &Counts) -> Result<()> {
    let socket = UdpSocket::bind(any(to)).context("bind UDP")?;
    socket.set_read_timeout(Some(Duration::from_millis(10)))?;
    let mut buffer = [0; 1 << 16];
    while !counts.ended() {
        // Refused and unreachable are what some of the cells are about.
        if socket.send_to(payload, (to, PORT)).is_ok() {
            counts.sent(Protocol::Udp);
        }
        let due = Instant::now() + Duration::from_millis(10);
        while Instant::now() < due {
            if let Ok(length) = socket.recv(&mut buffer)
                && buffer[..length] == *payload
            {
                counts.answered(Protocol::Udp);
            }
        }
    }
    Ok(())
}

fn tcp(to: IpAddr, payload: &[u8], counts: &Counts) -> Result<()> {
    while !counts.ended() {
        let Ok(stream) = TcpStream::connect_timeout(&(to, PORT).into(), PATIENCE) else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        // A connection that breaks is followed by another.
        let _ = talk(stream, payload, counts);
    }
    Ok(())
}

fn talk(mut stream: TcpStream, payload: &[u8], counts: &Counts) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; payload.len()];
    while !counts.ended() {
        stream.write_all(payload)?;
        counts.sent(Protocol::Tcp);
        stream.read_exact(&mut buffer)?;
        counts.answered(Protocol::Tcp);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn icmp(to: IpAddr, payload: &[u8], counts: &Counts) -> Result<()> {
    static IDENT: AtomicU64 = AtomicU64::new(0x4000);
    let ident = u16::try_from(IDENT.fetch_add(1, Ordering::Relaxed) & 0xffff)?;
    let socket = icmp_socket(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(10)))?;
    let mut buffer = [0; 1 << 16];
    let mut sequence = 0u16;
    while !counts.ended() {
        sequence = sequence.wrapping_add(1);
        if socket.send_to(&echo_request(to, ident, sequence, payload), (to, 0)).is_ok() {
            counts.sent(Protocol::Icmp);
        }
        let due = Instant::now() + Duration::from_millis(20);
        while Instant::now() < due {
            if let Ok((length, _)) = socket.recv_from(&mut buffer)
                && echo_reply(to, ident, &buffer[..length]).is_some_and(|(_, rest)| rest == payload)
            {
                counts.answered(Protocol::Icmp);
            }
        }
    }
    Ok(())
}

/// RFC 792 and RFC 4443: type, code, checksum, identifier, sequence number, data.
pub(crate) fn echo_request(to: IpAddr, ident: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![if to.is_ipv4() { 8 } else { 128 }, 0, 0, 0];
    packet.extend(ident.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend(payload);
    if to.is_ipv4() {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// Sequence number and data of an echo reply to `ident`. A raw IPv4 socket hands over the IP header too.
pub(crate) fn echo_reply(to: IpAddr, ident: u16, packet: &[u8]) -> Option<(u16, &[u8])> {
    let (packet, kind) = match to {
        IpAddr::V4(_) => (packet.get(usize::from(packet.first()? & 0xf) * 4..)?, 0),
        IpAddr::V6(_) => (packet, 129),
    };
    let word = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    (packet.first() == Some(&kind) && word(4)? == ident).then_some(())?;
    Some((word(6)?, packet.get(8..)?))
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echo_requests_are_read_back() {
        let v4: IpAddr = "10.1.0.2".parse().unwrap();
        let request = echo_request(v4, 7, 9, b"abc");
        assert_eq!(checksum(&request), 0);
        let mut reply = vec![0x45; 20];
        reply.extend(&request);
        reply[20] = 0;
        assert_eq!(echo_reply(v4, 7, &reply), Some((9, b"abc".as_slice())));
        assert_eq!(echo_reply(v4, 8, &reply), None);
        let v6: IpAddr = "fd00::1".parse().unwrap();
        let mut reply = echo_request(v6, 7, 9, b"abc");
        assert_eq!(echo_reply(v6, 7, &reply), None, "that is the request");
        reply[0] = 129;
        assert_eq!(echo_reply(v6, 7, &reply), Some((9, b"abc".as_slice())));
    }
}
