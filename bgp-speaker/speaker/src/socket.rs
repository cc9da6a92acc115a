//! Socket options that BGP needs, and the addresses of our interfaces: the one place that talks to the kernel past tokio.
#![allow(unsafe_code, reason = "TCP_MD5SIG has no safe wrapper")]

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};

use causeway_bgp_core::{ConnectRequest, LocalAddresses, Secret};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Connections that wait to be accepted; a node has few peers.
const BACKLOG: i32 = 64;
/// Longest MD5 key of the kernel (TCP_MD5SIG_MAXKEYLEN in linux/tcp.h).
const MD5_MAX_KEY: usize = 80;

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct TcpMd5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    ifindex: i32,
    key: [u8; MD5_MAX_KEY],
}

/// A socket that is ready to connect, and where to.
pub(crate) fn for_connect(request: &ConnectRequest) -> io::Result<(Socket, SocketAddr)> {
    let remote = with_scope(request.remote, request.zone.as_deref())?;
    let socket = stream_socket(remote)?;
    set_ttl(&socket, remote.is_ipv4(), request.ttl)?;
    if let Some(key) = &request.md5 {
        set_md5_key(socket.as_raw_fd(), remote, key)?;
    }
    if let Some(local) = request.local {
        let local = with_scope(SocketAddr::new(local, 0), request.zone.as_deref())?;
        socket.bind(&SockAddr::from(local)).map_err(|error| {
            io::Error::new(error.kind(), format!("local address {local}: {error}: does this host have that address?"))
        })?;
    }
    Ok((socket, remote))
}

/// A listening socket on all addresses of one family.
pub(crate) fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = stream_socket(address)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn stream_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// The TTL of what we send; `None` leaves the system's.
pub(crate) fn set_ttl(socket: &Socket, is_ipv4: bool, ttl: Option<u8>) -> io::Result<()> {
    match (ttl, is_ipv4) {
        (None, _) => Ok(()),
        (Some(ttl), true) => socket.set_ttl_v4(u32::from(ttl)),
        (Some(ttl), false) => socket.set_unicast_hops_v6(u32::from(ttl)),
    }
}

/// Asks the kernel to sign and check all segments to and from `peer` (RFC 2385). The port does not matter.
pub(crate) fn set_md5_key(fd: RawFd, peer: SocketAddr, key: &Secret) -> io::Result<()> {
    let secret = key.expose();
    if secret.is_empty() || secret.len() > MD5_MAX_KEY {
        let what = format!("an MD5 password has 1 to {MD5_MAX_KEY} octets, this one has {}", secret.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    md5_option(fd, peer, secret)
}

/// Forgets the key of `peer`.
pub(crate) fn clear_md5_key(fd: RawFd, peer: SocketAddr) -> io::Result<()> {
    md5_option(fd, peer, &[])
}

fn md5_option(fd: RawFd, peer: SocketAddr, secret: &[u8]) -> io::Result<()> {
    let address = SockAddr::from(peer);
    // SAFETY: all fields are integers or arrays of them, for which zero is a value.
    let mut option: TcpMd5Sig = unsafe { std::mem::zeroed() };
    // SAFETY: `as_ptr` points to `len()` initialised bytes, which fit sockaddr_storage by its definition; source and
    // target do not overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(
            address.as_ptr().cast::<u8>(),
            (&raw mut option.address).cast::<u8>(),
            address.len() as usize,
        );
    }
    option.key_len = u16::try_from(secret.len()).unwrap_or(u16::MAX);
    option.key[..secret.len()].copy_from_slice(secret);
    let length = libc::socklen_t::try_from(size_of::<TcpMd5Sig>()).unwrap_or(0);
    // SAFETY: `option` is a live tcp_md5sig of `length` bytes; the kernel copies it and keeps no pointer.
    let result = unsafe {
        libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_MD5SIG, (&raw const option).cast::<libc::c_void>(), length)
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(io::Error::new(error.kind(), format!("TCP MD5 for {}: {error}: does the kernel have TCP_MD5SIG?", peer.ip())))
}

/// `address` with the index of interface `zone`, which a link-local address needs.
pub(crate) fn with_scope(address: SocketAddr, zone: Option<&str>) -> io::Result<SocketAddr> {
    match (address, zone) {
        (SocketAddr::V6(v6), Some(zone)) if v6.ip().is_unicast_link_local() => {
            let index = if_nametoindex(zone)
                .map_err(|error| io::Error::new(io::ErrorKind::NotFound, format!("interface {zone}: {error}")))?;
            Ok(SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, index)))
        }
        (SocketAddr::V6(v6), None) if v6.ip().is_unicast_link_local() => {
            let what = format!("{} is link-local: name its interface (zone)", v6.ip());
            Err(io::Error::new(io::ErrorKind::InvalidInput, what))
        }
        _ => Ok(address),
    }
}

/// The addresses of the interface that has `local`. Empty when it cannot be found.
pub(crate) fn addresses_beside(local: IpAddr) -> LocalAddresses {
    let Ok(all) = getifaddrs() else { return LocalAddresses::default() };
    let all: Vec<(String, IpAddr)> = all
        .filter_map(|entry| {
            let storage = entry.address?;
            let ip = match (storage.as_sockaddr_in(), storage.as_sockaddr_in6()) {
                (Some(v4), _) => IpAddr::V4(v4.ip()),
                (None, Some(v6)) => IpAddr::V6(v6.ip()),
                (None, None) => return None,
            };
            Some((entry.interface_name, ip))
        })
        .collect();
    let Some((interface, _)) = all.iter().find(|(_, ip)| *ip == local) else { return LocalAddresses::default() };
    let mut found = LocalAddresses::default();
    for (_, ip) in all.iter().filter(|(name, _)| name == interface) {
        match ip {
            // The host's own 127.0.0.1 and ::1 are no next hop for anybody else.
            ip if ip.is_loopback() && !local.is_loopback() => {}
            IpAddr::V4(v4) => found.v4 = found.v4.or(Some(*v4)),
            IpAddr::V6(v6) if v6.is_unicast_link_local() => found.v6_link_local = found.v6_link_local.or(Some(*v6)),
            IpAddr::V6(v6) => found.v6 = found.v6.or(Some(*v6)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_structure_has_its_size() {
        // linux/tcp.h: 128 (address) + 1 + 1 + 2 + 4 + 80.
        assert_eq!(size_of::<TcpMd5Sig>(), 216);
    }

    #[test]
    fn a_link_local_address_needs_its_zone() {
        let address: SocketAddr = "[fe80::1]:179".parse().unwrap();
        assert!(with_scope(address, None).unwrap_err().to_string().contains("name its interface"));
        assert!(with_scope(address, Some("no-such-if0")).unwrap_err().to_string().contains("no-such-if0"));
        let SocketAddr::V6(scoped) = with_scope(address, Some("lo")).unwrap() else { panic!("an IPv6 address") };
        assert_ne!(scoped.scope_id(), 0);
    }

    #[test]
    fn an_empty_or_endless_password_is_refused_before_the_kernel_sees_it() {
        let peer: SocketAddr = "192.0.2.1:179".parse().unwrap();
        for secret in [Secret::missing(), Secret::new("x".repeat(81))] {
            assert_eq!(set_md5_key(-1, peer, &secret).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
