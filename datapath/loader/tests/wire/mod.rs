//! What the tests on real interfaces share: namespaces, packet sockets, raw sockets, a TUN device.
#![allow(unsafe_code, reason = "packet sockets and TUN devices have no safe form in nix")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long to wait for a packet that must come.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for packets that might still come behind the last one.
const AFTERMATH: Duration = Duration::from_millis(60);

/// What must go when a test ends, however it ends.
pub(crate) struct Room {
    pub(crate) pins: PathBuf,
    namespaces: Vec<String>,
}

impl Room {
    /// Puts the calling thread into a new network namespace.
    pub(crate) fn new(name: &str) -> Room {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root can make network namespaces");
        sh("ip link set lo up");
        let pins = PathBuf::from(format!("/sys/fs/bpf/cw-test-{name}-{}", std::process::id()));
        Room { pins, namespaces: Vec::new() }
    }

    pub(crate) fn namespace(&mut self, name: &str) -> String {
        let name = format!("cw-test-{name}-{}", std::process::id());
        sh(&format!("ip netns add {name}"));
        self.namespaces.push(name.clone());
        sh(&format!("ip -n {name} link set lo up"));
        name
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        for name in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
        let _ = std::fs::remove_dir_all(&self.pins);
    }
}

/// Runs a command line without quotes, and gives what it said.
pub(crate) fn sh(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().expect("iproute2 and procps are installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

pub(crate) fn index_of(interface: &str) -> u32 {
    let text = sh(&format!("ip -o link show dev {interface}"));
    text.split(':').next().expect("the line begins with the index").trim().parse().expect("the index is a number")
}

/// Does something in another network namespace; sockets stay there.
pub(crate) fn inside<R: Send>(netns: &str, work: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let namespace = File::open(format!("/run/netns/{netns}")).expect("the namespace is there");
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("root can enter it");
                work()
            })
            .join()
            .expect("the work in the namespace ends well")
    })
}

fn checked(result: libc::ssize_t, doing: &str) -> usize {
    usize::try_from(result).unwrap_or_else(|_| panic!("{doing}: {}", std::io::Error::last_os_error()))
}

fn socket(family: i32, kind: i32, protocol: i32) -> OwnedFd {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    assert!(fd >= 0, "socket: {}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was made just now and is nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Frames of a namespace's interfaces, seen and sent (packet(7)).
pub(crate) struct Frames(OwnedFd);

impl Frames {
    /// Of the calling thread's namespace.
    pub(crate) fn open() -> Frames {
        let all = libc::ETH_P_ALL.to_be() >> 16;
        Frames(socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK, all))
    }

    /// Marks what is sent from here.
    pub(crate) fn set_mark(&self, mark: u32) {
        nix::sys::socket::setsockopt(&self.0, nix::sys::socket::sockopt::Mark, &mark).expect("root can set marks");
    }

    /// The next frame that came in.
    fn next(&self) -> Option<Vec<u8>> {
        loop {
            let mut frame = vec![0_u8; 65_536];
            // SAFETY: all zero is a valid `sockaddr_ll`.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut from_len = socklen::<libc::sockaddr_ll>();
            let from_at = std::ptr::from_mut(&mut from).cast();
            // SAFETY: the kernel writes at most the given sizes to both places.
            let len = unsafe {
                libc::recvfrom(
                    self.0.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    0,
                    from_at,
                    &raw mut from_len,
                )
            };
            frame.truncate(usize::try_from(len).ok()?);
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                return Some(frame);
            }
        }
    }

    pub(crate) fn send(&self, interface: u32, frame: &[u8]) {
        // SAFETY: all zero is a valid `sockaddr_ll`.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = u16::try_from(libc::AF_PACKET).expect("a family is a small number");
        to.sll_ifindex = i32::try_from(interface).expect("an index is a small number");
        let to_at = std::ptr::from_ref(&to).cast();
        // SAFETY: the kernel reads the frame and the address, whose sizes are given.
        let sent = unsafe {
            let len = socklen::<libc::sockaddr_ll>();
            libc::sendto(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, to_at, len)
        };
        assert_eq!(checked(sent, "sending a frame"), frame.len());
    }

    /// Frames that came in until `is_last` came, and a moment longer.
    pub(crate) fn until(&self, is_last: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        until(|| self.next(), is_last)
    }

    pub(crate) fn forget(&self) {
        while self.next().is_some() {}
    }
}

fn until(mut next: impl FnMut() -> Option<Vec<u8>>, is_last: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let Some(packet) = next() else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        if is_last(&packet) {
            deadline = Instant::now() + AFTERMATH;
        }
        all.push(packet);
    }
    all
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("an address is small")
}

/// Sends an IP packet as the host's stack does, routes and all (raw(7), IP_HDRINCL).
pub(crate) fn send_ip(packet: &[u8], to: IpAddr, mark: u32) {
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let raw = socket(family, libc::SOCK_RAW, libc::IPPROTO_RAW);
    nix::sys::socket::setsockopt(&raw, nix::sys::socket::sockopt::Mark, &mark).expect("root can set marks");
    let to = nix::sys::socket::SockaddrStorage::from(std::net::SocketAddr::new(to, 0));
    let sent = nix::sys::socket::sendto(raw.as_raw_fd(), packet, &to, nix::sys::socket::MsgFlags::empty());
    // EPERM and ENOBUFS are how a program's refusal on the way out reaches the sender.
    assert!(
        matches!(sent, Ok(_) | Err(nix::errno::Errno::EPERM | nix::errno::Errno::ENOBUFS)),
        "sending an IP packet: {sent:?}"
    );
}

/// A TUN device without packet information, as WireGuard's. With offloads every packet has a `virtio_net_hdr` in front,
/// and TCP comes and goes in segments that are yet to be cut.
pub(crate) struct Tun(File);

impl Tun {
    pub(crate) fn open(name: &str, offload: bool) -> Tun {
        let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
        let file = file.expect("the kernel has TUN devices");
        let mut request = [0_u8; 40];
        request[..name.len()].copy_from_slice(name.as_bytes());
        let header = if offload { libc::IFF_VNET_HDR } else { 0 };
        let flags = u16::try_from(libc::IFF_TUN | libc::IFF_NO_PI | header).expect("flags are 16 bits wide");
        request[16..18].copy_from_slice(&flags.to_ne_bytes());
        // SAFETY: TUNSETIFF reads and writes a `struct ifreq`, 40 bytes with the name first and the flags behind it.
        let rc = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
        assert_eq!(rc, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
        if offload {
            let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
            // SAFETY: TUNSETOFFLOAD takes a number.
            let rc = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) };
            assert_eq!(rc, 0, "TUNSETOFFLOAD: {}", std::io::Error::last_os_error());
        }
        Tun(file)
    }

    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let mut packet = vec![0_u8; 65_600];
        let len = self.0.read(&mut packet).ok()?;
        packet.truncate(len);
        Some(packet)
    }

    pub(crate) fn until(&mut self, is_last: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        until(|| self.next(), is_last)
    }

    pub(crate) fn write(&mut self, packet: &[u8]) {
        assert_eq!(self.0.write(packet).expect("the device is up"), packet.len());
    }

    pub(crate) fn forget(&mut self) {
        while self.next().is_some() {}
    }
}

/// Datagrams for an address of the calling thread's namespace.
pub(crate) struct Datagrams(UdpSocket);

impl Datagrams {
    pub(crate) fn open(at: IpAddr, port: u16) -> Datagrams {
        let socket = UdpSocket::bind((at, port)).expect("the address is there and the port is free");
        socket.set_nonblocking(true).expect("sockets can be nonblocking");
        Datagrams(socket)
    }

    pub(crate) fn until(&self, is_last: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let next = || {
            let mut datagram = vec![0_u8; 2048];
            let len = self.0.recv(&mut datagram).ok()?;
            datagram.truncate(len);
            Some(datagram)
        };
        until(next, is_last)
    }
}

/// Marks payloads, so that a packet is known wherever it appears and whatever became of its headers.
const MARKER: &[u8] = b"never-in-plaintext";

/// A payload with a number in it; 24 bytes, so that fragments of it are of whole units.
pub(crate) fn payload(number: u16) -> Vec<u8> {
    let mut bytes = MARKER.to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend(*b"####");
    bytes
}

/// The number in a packet with a marked payload.
pub(crate) fn number_in(packet: &[u8]) -> Option<u16> {
    let at = packet.windows(MARKER.len()).position(|window| window == MARKER)? + MARKER.len();
    Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]))
}

/// The numbers in packets.
pub(crate) fn numbers(packets: &[Vec<u8>]) -> BTreeSet<u16> {
    packets.iter().filter_map(|packet| number_in(packet)).collect()
}
