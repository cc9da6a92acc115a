//! A connection to an etcd: answers operations, reconnects for the next one when it broke.
//!
//! The shell of this crate: a task per session (`link`) that holds one TCP connection (`dial`, `tls`), sends requests
//! (`call`) and keeps all watches on one stream (`watches`). It never tries again by itself: what failed is answered as
//! failed, and whoever asked decides on the delay.

mod call;
mod dial;
mod failure;
mod link;
mod tls;
mod watches;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::op::{Op, Reply, Ticket};
pub use tls::certificate_expiry;

/// Answers that wait for the consumer; beyond, the server is held back.
const REPLIES: usize = 64;

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
    /// With the defaults: keepalive 5 s and 1.5 s, so that silence is found within 6.5 s; requests 5 s, answers up to 64 MiB,
    /// 16 requests at a time.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            tls: None,
            aliases: Vec::new(),
            keepalive: Duration::from_secs(5),
            keepalive_timeout: Duration::from_millis(1_500),
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

/// A connection to one store. Dropping it ends it.
#[derive(Debug)]
pub struct Session {
    commands: mpsc::UnboundedSender<(Ticket, Op)>,
    replies: mpsc::Receiver<Reply>,
    status: watch::Receiver<SessionStatus>,
    task: JoinHandle<()>,
}

impl Session {
    /// Connects with the first operation. Must be called inside a tokio runtime.
    pub fn open(connect: Connect) -> Self {
        // Unbounded, because the machines that ask bound what they have under way, and `submit` must not wait.
        let (commands, taken) = mpsc::unbounded_channel();
        let (answers, replies) = mpsc::channel(REPLIES);
        let (told, status) = watch::channel(SessionStatus::default());
        let task = link::Task { connect: Arc::new(connect), commands: taken, replies: answers, status: told };
        Self { commands, replies, status, task: tokio::spawn(task.run()) }
    }

    /// Every ticket is answered, at the latest when its time is up or the connection breaks.
    pub fn submit(&mut self, ticket: Ticket, op: Op) {
        // The task lives as long as the session; it ends early only with the runtime, and then nobody waits.
        let _ = self.commands.send((ticket, op));
    }

    /// The next answer. Waits for ever while nothing is asked. Cancel-safe.
    pub async fn next(&mut self) -> Reply {
        match self.replies.recv().await {
            Some(reply) => reply,
            None => std::future::pending().await,
        }
    }

    pub fn status(&self) -> SessionStatus {
        self.status.borrow().clone()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}
