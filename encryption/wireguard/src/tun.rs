//! The TUN device (Documentation/networking/tuntap.rst).
#![allow(unsafe_code, reason = "ioctls of the TUN device and of the interface")]
#![allow(clippy::cast_possible_truncation, reason = "flags of interfaces have 16 bits")]

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use nix::net::if_::if_nametoindex;

/// `IFNAMSIZ` without the closing zero.
const NAME_MAX: usize = 15;

// include/uapi/linux/if_tun.h
const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO4: libc::c_uint = 0x02;
const TUN_F_TSO6: libc::c_uint = 0x04;
const TUN_F_TSO_ECN: libc::c_uint = 0x08;
/// Since Linux 6.2.
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;

nix::ioctl_write_ptr_bad!(tun_set_iff, nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()), libc::ifreq);
nix::ioctl_write_int_bad!(tun_set_offload, nix::request_code_write!(b'T', 208, size_of::<libc::c_uint>()));
nix::ioctl_write_ptr_bad!(set_mtu, libc::SIOCSIFMTU, libc::ifreq);
nix::ioctl_readwrite_bad!(get_flags, libc::SIOCGIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);

/// One queue of a device; the device lives as long as one of them is open.
pub(crate) struct Queue {
    file: File,
}

impl Queue {
    /// Makes the device `name`, or opens another queue of it.
    pub(crate) fn open(name: &str) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        let mut request = request(name)?;
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: the descriptor is open, and the kernel reads an `ifreq`, which `request` is.
        unsafe { tun_set_iff(file.as_raw_fd(), &raw const request) }?;
        let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
        let all = tcp | TUN_F_USO4 | TUN_F_USO6;
        // SAFETY: the argument is a number.
        let offloaded = unsafe { tun_set_offload(file.as_raw_fd(), all as libc::c_int) };
        // SAFETY: as above.
        offloaded.or_else(|_| unsafe { tun_set_offload(file.as_raw_fd(), tcp as libc::c_int) })?;
        Ok(Self { file })
    }

    /// One packet behind its `virtio_net_hdr`; `WouldBlock` when there is none.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    pub(crate) fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.file).write_vectored(pieces)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

/// Gives the interface its MTU and switches it on. No address, and none of its own making: what goes in and out is
/// steered by programs. Returns its index.
pub(crate) fn configure(name: &str, mtu: u32) -> io::Result<u32> {
    // Without these, IPv6 would give it a link-local address and send router solicitations into it, and packets whose
    // sources are routed elsewhere would be dropped.
    sysctl("ipv6", name, "addr_gen_mode", "1")?;
    sysctl("ipv4", name, "rp_filter", "0")?;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    let mut request = request(name)?;
    request.ifr_ifru.ifru_mtu = libc::c_int::try_from(mtu).map_err(io::Error::other)?;
    // SAFETY: the descriptor is a socket, and the kernel reads an `ifreq`, which `request` is.
    unsafe { set_mtu(socket.as_raw_fd(), &raw const request) }?;
    // SAFETY: as above; the kernel writes the flags back into it.
    unsafe { get_flags(socket.as_raw_fd(), &raw mut request) }?;
    // SAFETY: the kernel has just written this field of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    // SAFETY: as above.
    unsafe { set_flags(socket.as_raw_fd(), &raw const request) }?;
    Ok(if_nametoindex(name)?)
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() > NAME_MAX || name.bytes().any(|b| b == b'/' || b == 0) {
        let text = format!("'{name}' is no interface name: 1 to {NAME_MAX} bytes, no slash");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    // SAFETY: `ifreq` is made of integers and byte arrays, for which zeros are values.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// A kernel without the family has no such file; that is no error.
fn sysctl(family: &str, interface: &str, key: &str, value: &str) -> io::Result<()> {
    let path: PathBuf = ["/proc/sys/net", family, "conf", interface, key].iter().collect();
    match std::fs::write(&path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        Ok(()) => Ok(()),
    }
}
