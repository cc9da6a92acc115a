//! The sockets of encrypted datagrams: one of each family that the node has an address of.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{UdpGroSegment, UdpGsoSegment};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::engine::Datagram;

/// Room for half a second of a gigabit, where the machine allows it.
const BUFFER: usize = 8 << 20;
/// Datagrams of one `sendmsg`: `UDP_MAX_SEGMENTS` of kernels before 6.9.
const MAX_SEGMENTS: usize = 64;
/// Bytes of one `sendmsg`: an IPv4 packet's 65,535 less headers.
const MAX_BYTES: usize = 65_000;
/// How long a receive waits before it looks whether it is still wanted.
const PATIENCE: Duration = Duration::from_millis(500);

pub(crate) struct Udp {
    socket: Socket,
    /// The kernel cuts super-datagrams. Off for good once a device refused one.
    gso: AtomicBool,
    dropped: AtomicU64,
}

/// Whether a receive waits for something to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    Some,
    None,
}

/// Whether there is more to send in a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// What fills no whole system call may wait for it.
    More,
    Nothing,
}

/// What [`Udp::receive`] got: the first `length` bytes are datagrams of `size` bytes each, the last one maybe shorter.
pub(crate) struct Received {
    pub(crate) from: SocketAddr,
    pub(crate) length: usize,
    pub(crate) size: usize,
}

impl Udp {
    pub(crate) fn bind(address: IpAddr, port: u16, mark: u32) -> io::Result<Self> {
        let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if mark != 0 {
            socket.set_mark(mark)?;
        }
        // Beyond `net.core.[rw]mem_max` only for those who may; others get what is allowed.
        let _ = setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &BUFFER)
            .or_else(|_| setsockopt(&socket, nix::sys::socket::sockopt::RcvBuf, &BUFFER));
        let _ = setsockopt(&socket, nix::sys::socket::sockopt::SndBufForce, &BUFFER)
            .or_else(|_| setsockopt(&socket, nix::sys::socket::sockopt::SndBuf, &BUFFER));
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.bind(&SockAddr::from(SocketAddr::new(address, port)))?;
        let gso = setsockopt(&socket, UdpGsoSegment, &0).is_ok();
        let _ = setsockopt(&socket, UdpGroSegment, &true);
        Ok(Self { socket, gso: AtomicBool::new(gso), dropped: AtomicU64::new(0) })
    }

    /// Datagrams that the socket did not take.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn has_gso(&self) -> bool {
        self.gso.load(Ordering::Relaxed)
    }

    /// `None` when nothing came for a while, or with [`Patience::None`] when nothing is there.
    pub(crate) fn receive(&self, buffer: &mut [u8], patience: Patience) -> io::Result<Option<Received>> {
        let mut pieces = [IoSliceMut::new(buffer)];
        let mut space = nix::cmsg_space!(libc::c_int);
        let flags = match patience {
            Patience::Some => MsgFlags::empty(),
            Patience::None => MsgFlags::MSG_DONTWAIT,
        };
        let message = match recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut pieces, Some(&mut space), flags) {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let length = message.bytes;
        let size = message
            .cmsgs()?
            .find_map(|control| match control {
                ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok().filter(|size| *size > 0),
                _ => None,
            })
            .unwrap_or(length);
        let Some(from) = message.address.as_ref().and_then(socket_addr) else { return Ok(None) };
        Ok(Some(Received { from, length, size }))
    }

    /// Sends in order; neighbours of one destination and size go in one system call. Returns how many are done with: all,
    /// but for the last ones that `then` lets wait.
    pub(crate) fn send(&self, datagrams: &[Datagram], then: Then) -> usize {
        let mut rest = datagrams;
        while !rest.is_empty() {
            let run = if self.has_gso() { Run::at(rest) } else { Run { length: 1, open: false } };
            if run.open && then == Then::More {
                break;
            }
            let (now, later) = rest.split_at(run.length);
            if let Err(error) = self.send_run(now) {
                // A device that cannot do checksums refuses super-datagrams with EIO.
                if run.length > 1 && matches!(error, Errno::EIO | Errno::EINVAL | Errno::EOPNOTSUPP) {
                    self.gso.store(false, Ordering::Relaxed);
                    continue;
                }
                self.dropped.fetch_add(now.len() as u64, Ordering::Relaxed);
            }
            rest = later;
        }
        datagrams.len() - rest.len()
    }

    fn send_run(&self, run: &[Datagram]) -> Result<(), Errno> {
        let mut pieces = [IoSlice::new(&[]); MAX_SEGMENTS];
        for (piece, (_, datagram)) in pieces.iter_mut().zip(run) {
            *piece = IoSlice::new(datagram);
        }
        let to = SockaddrStorage::from(run[0].0);
        let size = u16::try_from(run[0].1.len()).map_err(|_| Errno::EMSGSIZE)?;
        let segments = [ControlMessage::UdpGsoSegments(&size)];
        let control = if run.len() > 1 { &segments[..] } else { &[] };
        loop {
            match sendmsg(self.socket.as_raw_fd(), &pieces[..run.len()], control, MsgFlags::empty(), Some(&to)) {
                Ok(_) => return Ok(()),
                // EPERM, among others, is a firewall's or a program's verdict on this packet.
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Datagrams that can go at once: one destination, one size, the last one maybe shorter.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    length: usize,
    /// It ended only because there were no more datagrams.
    open: bool,
}

impl Run {
    /// The run at the front of `datagrams`, which are not empty.
    fn at(datagrams: &[Datagram]) -> Self {
        let (to, first) = &datagrams[0];
        let most = MAX_SEGMENTS.min(MAX_BYTES / first.len().max(1)).max(1);
        for (index, (other, datagram)) in datagrams.iter().enumerate().skip(1) {
            if index == most || other != to || datagram.len() > first.len() {
                return Self { length: index, open: false };
            }
            if datagram.len() < first.len() {
                return Self { length: index + 1, open: false };
            }
        }
        Self { length: datagrams.len(), open: datagrams.len() < most }
    }
}

fn socket_addr(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from(std::net::SocketAddrV4::from(*v4)));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from(std::net::SocketAddrV6::from(*v6))))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    #[test]
    fn runs_end_where_one_call_must() {
        let a: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let b: SocketAddr = "192.0.2.2:1".parse().unwrap();
        let of = |sizes: &[(SocketAddr, usize)]| {
            Run::at(&sizes.iter().map(|(to, size)| (*to, BytesMut::zeroed(*size))).collect::<Vec<_>>())
        };
        for (datagrams, length, open) in [
            (vec![(a, 100)], 1, true),
            (vec![(a, 100), (a, 100)], 2, true),
            (vec![(a, 100), (a, 100), (a, 40)], 3, false),
            (vec![(a, 100), (a, 100), (a, 40), (a, 40)], 3, false),
            (vec![(a, 100), (b, 100)], 1, false),
            (vec![(a, 100), (a, 101)], 1, false),
            (vec![(a, 100); 63], 63, true),
            (vec![(a, 100); 64], MAX_SEGMENTS, false),
            (vec![(a, 100); 200], MAX_SEGMENTS, false),
            (vec![(a, 1440); 44], 44, true),
            (vec![(a, 1440); 45], 45, false),
            (vec![(a, 1440); 200], 45, false),
            (vec![(a, MAX_BYTES)], 1, false),
            (vec![(a, MAX_BYTES + 1); 2], 1, false),
        ] {
            assert_eq!(of(&datagrams), Run { length, open }, "{:?}", &datagrams[..datagrams.len().min(4)]);
        }
    }
}
