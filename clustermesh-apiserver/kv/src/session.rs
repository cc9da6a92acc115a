//! A connection to an etcd: answers operations, reconnects for the next one when it broke.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::op::{Op, Reply, Ticket};

/// Where and how to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// `https://name:port` (`http://` speaks without TLS: for tests); tried in order.
    pub endpoints: Vec<String>,
    /// Read again at every handshake. Required for `https`.
    pub tls: Option<TlsFiles>,
    /// Looked at before DNS.
    pub aliases: Vec<HostAlias>,
    /// A ping after this long without a word from the server. etcd refuses more than one in 5 s.
    pub keepalive: Duration,
    /// A connection whose ping is not answered for this long is dead.
    pub keepalive_timeout: Duration,
    /// For one request, and for one endpoint's TCP and TLS handshakes.
    pub request_timeout: Duration,
    /// The longest answer taken, in bytes.
    pub max_message: usize,
    /// Requests other than watches that wait for their answer at the same time; more of them queue.
    pub in_flight: usize,
}

impl Connect {
    /// With the defaults: keepalive 5 s and 2 s, requests 5 s, answers up to 64 MiB, 16 requests at a time.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            tls: None,
            aliases: Vec::new(),
            keepalive: Duration::from_secs(5),
            keepalive_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            max_message: 64 << 20,
            in_flight: 16,
        }
    }
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A name and its addresses (`cilium-host-aliases`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAlias {
    pub hostname: String,
    pub ips: Vec<IpAddr>,
}

/// When the certificate of `files` stops being good: the earliest `notAfter` of the chain.
pub fn certificate_expiry(files: &TlsFiles) -> std::io::Result<std::time::SystemTime> {
    todo!("{files:?}")
}

/// How the connection stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionStatus {
    pub link: Link,
    /// Of the present or last connection.
    pub endpoint: Option<String>,
    /// etcd's cluster id; 0 before the first answer.
    pub store: u64,
    /// Connections made so far.
    pub connects: u64,
    /// Why the last attempt failed or the last connection ended. `None` while connected.
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    /// Nothing was asked yet, or the connection ended; the next operation connects.
    #[default]
    Idle,
    Connecting,
    Connected,
}

/// A connection to one store.
#[derive(Debug)]
pub struct Session {}

impl Session {
    /// Connects with the first operation. Must be called inside a tokio runtime.
    pub fn open(connect: Connect) -> Self {
        todo!("{connect:?}")
    }

    /// Every ticket is answered, at the latest when its time is up or the connection breaks.
    pub fn submit(&mut self, ticket: Ticket, op: Op) {
        todo!("{ticket:?} {op:?}")
    }

    /// The next answer. Waits for ever while nothing is asked. Cancel-safe.
    pub async fn next(&mut self) -> Reply {
        todo!()
    }

    pub fn status(&self) -> SessionStatus {
        todo!()
    }
}
