//! The kernel: `wireguard-control` for what it does well, our own netlink messages for the rest. All calls block.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use wireguard_control::{Backend, DeviceUpdate, InterfaceName};
use zeroize::{Zeroize as _, Zeroizing};

use crate::decode::{attributes, short};
use crate::encode::{self, DeviceSet, KeySet, Payload, attribute};
use crate::uapi::*;

/// Messages of a dump are at most 32 KiB (`netlink_dump` in net/netlink/af_netlink.c).
const RECEIVE: usize = 64 * 1024;

/// A dump that was disturbed is begun anew; one that always is comes from an interface that changes without end.
const DUMPS_MAX: usize = 5;

/// Now, by two clocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock {
    /// Never goes back.
    pub steady: Duration,
    /// Since the Unix epoch.
    pub wall: Duration,
}

/// What the backend needs of the kernel; tests have another.
pub trait Wire: Send {
    fn now(&self) -> Clock;
    /// Makes a WireGuard interface; it may be there already.
    fn make(&mut self, interface: &str) -> io::Result<()>;
    /// Removes it; it need not be there.
    fn remove(&mut self, interface: &str) -> io::Result<()>;
    /// Switches it on with an MTU, without addresses of its own making; forwards if `like` does.
    fn configure(&mut self, interface: &str, mtu: u32, like: &str) -> io::Result<()>;
    /// Sends a payload of `WG_CMD_SET_DEVICE`.
    fn set(&mut self, payload: &[u8]) -> io::Result<()>;
    /// Payloads of the dump; `None`: there is no such interface.
    fn get(&mut self, interface: &str) -> io::Result<Option<Vec<Payload>>>;
}

/// The kernel's netlink, of the network namespace that the calling thread is in.
#[derive(Debug)]
pub struct Netlink {
    started: Instant,
}

impl Default for Netlink {
    fn default() -> Self {
        Self { started: Instant::now() }
    }
}

impl Wire for Netlink {
    fn now(&self) -> Clock {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Clock { steady: self.started.elapsed(), wall }
    }

    fn make(&mut self, interface: &str) -> io::Result<()> {
        // An update that says nothing makes the interface and sends nothing else.
        DeviceUpdate::new().apply(&name(interface)?, Backend::Kernel)
    }

    fn remove(&mut self, interface: &str) -> io::Result<()> {
        // What the library reads before it deletes shall have no key in it, nor 50,000 prefixes.
        let clear = DeviceSet { key: Some(KeySet::Remove), clear: true, ..DeviceSet::default() };
        for payload in encode::set(interface, &clear, &[]) {
            match self.set(&payload) {
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
                other => other?,
            }
        }
        let mut device = wireguard_control::Device::get(&name(interface)?, Backend::Kernel)?;
        if let Some(key) = &mut device.private_key {
            key.0.zeroize();
        }
        device.delete()
    }

    fn configure(&mut self, interface: &str, mtu: u32, like: &str) -> io::Result<()> {
        // As the embedded device's: no link-local address, no router solicitations, no check of the way back.
        sysctl("ipv6", interface, "addr_gen_mode", "1")?;
        sysctl("ipv4", interface, "rp_filter", "0")?;
        if like != interface {
            for (family, key) in [("ipv4", "forwarding"), ("ipv6", "disable_ipv6"), ("ipv6", "forwarding")] {
                if let Ok(value) = std::fs::read_to_string(sysctl_path(family, like, key)) {
                    sysctl(family, interface, key, value.trim())?;
                }
            }
        }
        let index = i32::try_from(if_nametoindex(interface)?).map_err(io::Error::other)?;
        // struct ifinfomsg: family, padding, type, index, flags, mask of flags.
        let mut payload = vec![0u8; 4];
        payload.extend(index.to_ne_bytes());
        payload.extend(IFF_UP.to_ne_bytes());
        payload.extend(IFF_UP.to_ne_bytes());
        attribute(&mut payload, IFLA_MTU, &mtu.to_ne_bytes());
        request(NETLINK_ROUTE, RTM_SETLINK, NLM_F_ACK, &payload).map(drop)
    }

    fn set(&mut self, payload: &[u8]) -> io::Result<()> {
        request(NETLINK_GENERIC, family()?, NLM_F_ACK, payload).map(drop)
    }

    fn get(&mut self, interface: &str) -> io::Result<Option<Vec<Payload>>> {
        let family = match family() {
            // The module is not loaded: it has no interface.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            other => other?,
        };
        for _ in 0..DUMPS_MAX {
            match request(NETLINK_GENERIC, family, NLM_F_DUMP, &encode::get(interface)) {
                Ok(payloads) => return Ok(Some(payloads)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(format!("{interface} changes while it is read, {DUMPS_MAX} times in a row")))
    }
}

/// Errors: `EOPNOTSUPP` if the kernel has no WireGuard, as a sentence for people.
pub fn probe() -> Result<(), String> {
    // A name that nobody uses, and that two agents do not share.
    let interface = format!("cwprobe{}", std::process::id() % 10_000_000);
    match Netlink::default().make(&interface) {
        Ok(()) => Netlink::default().remove(&interface).map_err(|error| {
            format!("the kernel made the WireGuard interface {interface} and does not remove it: {error}")
        }),
        Err(error) => Err(match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => "the kernel has no WireGuard (EOPNOTSUPP)".to_owned(),
            Some(libc::EPERM) => "making a WireGuard interface needs CAP_NET_ADMIN (EPERM)".to_owned(),
            _ => format!("the kernel makes no WireGuard interface: {error}"),
        }),
    }
}

pub(crate) fn name(interface: &str) -> io::Result<InterfaceName> {
    interface.parse().map_err(|error| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("'{interface}' is no interface name: {error}"))
    })
}

/// The number of WireGuard's family; asking loads the module.
fn family() -> io::Result<u16> {
    let mut payload = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
    attribute(&mut payload, CTRL_ATTR_FAMILY_NAME, &[WG_GENL_NAME.as_bytes(), &[0]].concat());
    let answers = request(NETLINK_GENERIC, GENL_ID_CTRL, NLM_F_ACK, &payload)?;
    let mut all = answers.iter().flat_map(|answer| attributes(answer.get(GENL_HEADER..).unwrap_or_default()));
    let id = all.find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID).and_then(|(_, value)| short(value));
    id.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// One request on a socket of its own, and the payloads of its answers up to the acknowledgement or the end of the dump.
/// `Interrupted`: the dump does not show one moment.
fn request(protocol: isize, kind: u16, flags: u16, payload: &[u8]) -> io::Result<Vec<Payload>> {
    let socket = Socket::new(protocol)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let length = u32::try_from(NLMSG_HEADER + payload.len()).map_err(io::Error::other)?;
    let mut message = Zeroizing::new(Vec::with_capacity(NLMSG_HEADER + payload.len()));
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    // The only request of the socket: no number, and the kernel fills in the port.
    message.extend([0; 8]);
    message.extend(payload);
    socket.send(&message, 0)?;
    let mut answers = Vec::new();
    let mut torn = false;
    let mut buffer = Zeroizing::new(vec![0u8; RECEIVE]);
    loop {
        let received = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = &buffer[..received];
        while !rest.is_empty() {
            let malformed = || io::Error::new(io::ErrorKind::InvalidData, "netlink answers with a torn message");
            let length = rest.get(..4).and_then(crate::decode::number).ok_or_else(malformed)? as usize;
            let body = rest.get(NLMSG_HEADER..length).ok_or_else(malformed)?;
            let kind = short(&rest[4..6]).ok_or_else(malformed)?;
            torn |= short(&rest[6..8]).is_some_and(|flags| flags & NLM_F_DUMP_INTR != 0);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            match kind {
                NLMSG_ERROR | NLMSG_DONE => {
                    let code = body.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
                    return match code {
                        0 if torn => Err(io::ErrorKind::Interrupted.into()),
                        0 => Ok(answers),
                        code => Err(Errno::from_raw(code.saturating_neg()).into()),
                    };
                }
                _ => answers.push(Zeroizing::new(body.to_vec())),
            }
        }
    }
}

/// A kernel without the family has no such file; that is no error.
fn sysctl(family: &str, interface: &str, key: &str, value: &str) -> io::Result<()> {
    let path = sysctl_path(family, interface, key);
    match std::fs::write(&path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        Ok(()) => Ok(()),
    }
}

fn sysctl_path(family: &str, interface: &str, key: &str) -> PathBuf {
    ["/proc/sys/net", family, "conf", interface, key].iter().collect()
}
