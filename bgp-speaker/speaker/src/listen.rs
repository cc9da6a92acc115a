//! Listening ports: one pair of sockets (IPv4, IPv6) per instance that has a `local_port`, with the MD5 keys of its peers.
//!
//! One task per socket accepts and hands streams to the owner. A socket whose keys cannot be set does not listen at all:
//! an unsigned connection must not pass for a signed one.
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use causeway_bgp_core::{InstanceConfig, Secret};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::link::LinkEvent;
use crate::socket;

/// Pause after accept failed, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// All listening ports of a speaker.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    by_instance: BTreeMap<String, Port>,
    errors: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Port {
    number: u16,
    keys: BTreeMap<IpAddr, Secret>,
    sockets: Vec<(Arc<TcpListener>, AbortHandle)>,
}

impl Drop for Port {
    fn drop(&mut self) {
        for (_, task) in &self.sockets {
            task.abort();
        }
    }
}

impl Listeners {
    /// Brings the port of an instance in line with its configuration.
    pub(crate) fn set(&mut self, config: &InstanceConfig, events: &mpsc::Sender<LinkEvent>) {
        self.errors.remove(&config.name);
        let Some(number) = config.local_port else {
            self.by_instance.remove(&config.name);
            return;
        };
        let keys = keys_of(config);
        let mut port = self.by_instance.remove(&config.name).filter(|port| port.number == number);
        let result = match &mut port {
            Some(port) => port.set_keys(keys),
            None => Port::open(config, number, keys, events).map(|opened| port = Some(opened)),
        };
        match (result, port) {
            (Ok(()), Some(port)) => {
                self.by_instance.insert(config.name.clone(), port);
            }
            (Ok(()), None) => {}
            (Err(error), _) => {
                let hint = match error.kind() {
                    io::ErrorKind::AddrInUse => ": another BGP speaker on this host? choose another local port",
                    io::ErrorKind::PermissionDenied => ": ports below 1024 need CAP_NET_BIND_SERVICE",
                    _ => "",
                };
                self.errors.insert(config.name.clone(), format!("listening on port {number}: {error}{hint}"));
            }
        }
    }

    pub(crate) fn remove(&mut self, instance: &str) {
        self.by_instance.remove(instance);
        self.errors.remove(instance);
    }

    /// Why an instance does not listen although it should.
    pub(crate) fn error(&self, instance: &str) -> Option<&String> {
        self.errors.get(instance)
    }

    /// True when some port could not be opened and is worth another try.
    pub(crate) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Is this instance one of those in error?
    pub(crate) fn failed(&self, instance: &str) -> bool {
        self.errors.contains_key(instance)
    }

    pub(crate) fn close_all(&mut self) {
        self.by_instance.clear();
    }
}

fn keys_of(config: &InstanceConfig) -> BTreeMap<IpAddr, Secret> {
    let key = |secret: &Secret| (!secret.is_missing()).then(|| secret.clone());
    config.peers.iter().filter_map(|peer| Some((peer.address, peer.md5_password.as_ref().and_then(key)?))).collect()
}

impl Port {
    fn open(
        config: &InstanceConfig,
        number: u16,
        keys: BTreeMap<IpAddr, Secret>,
        events: &mpsc::Sender<LinkEvent>,
    ) -> io::Result<Self> {
        let mut listeners = vec![listener(IpAddr::V4(Ipv4Addr::UNSPECIFIED), number)?];
        match listener(IpAddr::V6(Ipv6Addr::UNSPECIFIED), number) {
            Ok(v6) => listeners.push(v6),
            // A host without IPv6 has no IPv6 peers.
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
            Err(error) => return Err(error),
        }
        let mut port = Self { number, keys: BTreeMap::new(), sockets: Vec::new() };
        for listener in listeners {
            let listener = Arc::new(listener);
            for (peer, key) in keys.iter().filter(|(peer, _)| fits(&listener, **peer)) {
                socket::set_md5_key(listener.as_raw_fd(), SocketAddr::new(*peer, 0), key)?;
            }
            let task = tokio::spawn(accept(Arc::clone(&listener), config.name.clone(), events.clone()));
            port.sockets.push((listener, task.abort_handle()));
        }
        port.keys = keys;
        Ok(port)
    }

    fn set_keys(&mut self, keys: BTreeMap<IpAddr, Secret>) -> io::Result<()> {
        for (listener, _) in &self.sockets {
            let fd = listener.as_raw_fd();
            for peer in self.keys.keys().filter(|peer| fits(listener, **peer) && !keys.contains_key(*peer)) {
                socket::clear_md5_key(fd, SocketAddr::new(*peer, 0))?;
            }
            for (peer, key) in keys.iter().filter(|(peer, _)| fits(listener, **peer)) {
                if self.keys.get(peer) != Some(key) {
                    socket::set_md5_key(fd, SocketAddr::new(*peer, 0), key)?;
                }
            }
        }
        self.keys = keys;
        Ok(())
    }
}

fn fits(listener: &TcpListener, peer: IpAddr) -> bool {
    listener.local_addr().is_ok_and(|local| local.is_ipv4() == peer.is_ipv4())
}

fn listener(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    TcpListener::from_std(socket::listen(SocketAddr::new(address, port))?.into())
}

/// Cancel-safe: between two accepts nothing is held.
async fn accept(listener: Arc<TcpListener>, instance: String, events: mpsc::Sender<LinkEvent>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let event = LinkEvent::Accepted { instance: instance.clone(), stream };
                if events.send(event).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(instance, %error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
