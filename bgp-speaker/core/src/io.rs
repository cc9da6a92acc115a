//! What goes into the core and what comes out of it: the whole contract with the shell that drives it.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::{InstanceConfig, RouteSet, Secret};
use crate::negotiate::LocalAddresses;
use crate::session::{ConnId, Endpoints};
use crate::status::SessionState;

/// What the shell tells the core.
#[derive(Debug)]
pub enum Input {
    /// Add or change an instance.
    SetInstance(InstanceConfig),
    /// Remove an instance: its peers are told that they are de-configured.
    RemoveInstance(String),
    /// Everything a peer shall be told; may come before the peer.
    SetRoutes {
        /// Instance name.
        instance: String,
        /// Peer name.
        peer: String,
        /// The complete set.
        routes: Arc<RouteSet>,
    },
    /// End-of-RIB may be sent.
    RoutesComplete(String),
    /// [`Output::Connect`] succeeded.
    Connected {
        /// From the output.
        conn: ConnId,
        /// Both ends.
        endpoints: Endpoints,
        /// For next hops.
        addresses: LocalAddresses,
    },
    /// [`Output::Connect`] failed.
    ConnectFailed {
        /// From the output.
        conn: ConnId,
        /// For the operator.
        error: String,
    },
    /// A connection to the port of an instance. Answered by [`Output::Adopt`] or [`Output::Refuse`] with the same token.
    Accepted {
        /// Chosen by the shell.
        token: u64,
        /// Whose port it was.
        instance: String,
        /// Both ends.
        endpoints: Endpoints,
        /// For next hops.
        addresses: LocalAddresses,
    },
    /// Bytes from the peer, cut anyhow.
    Received {
        /// Which connection.
        conn: ConnId,
        /// At least one.
        bytes: Vec<u8>,
    },
    /// Bytes of [`Output::Send`] have been handed to the kernel.
    Written {
        /// Which connection.
        conn: ConnId,
        /// How many.
        octets: usize,
        /// How many outputs they complete.
        sends: usize,
    },
    /// The peer closed, or the connection broke.
    Closed {
        /// Which connection.
        conn: ConnId,
        /// For the operator.
        error: String,
    },
    /// [`crate::Core::deadline`] has passed.
    Tick,
    /// The speaker ends. Graceful: without a word, so that peers with graceful restart keep the routes. Otherwise with
    /// Cease/Administrative Shutdown and a text (RFC 9003).
    Shutdown {
        /// See above.
        graceful: bool,
        /// At most 255 octets are sent.
        text: String,
    },
}

/// What the core asks the shell for.
#[derive(Debug)]
pub enum Output {
    /// Make a connection; answer with `Connected` or `ConnectFailed`.
    Connect(ConnectRequest),
    /// An accepted connection is now `conn`.
    Adopt {
        /// From the input.
        token: u64,
        /// Its name from now on.
        conn: ConnId,
        /// TTL of its packets; `None` leaves the system's.
        ttl: Option<u8>,
    },
    /// An accepted connection is to be closed.
    Refuse {
        /// From the input.
        token: u64,
        /// Who asked, and why not.
        reason: String,
    },
    /// Put whole messages on the wire, and answer with `Written`.
    Send {
        /// Which connection.
        conn: ConnId,
        /// Shared with other peers when they are told the same.
        bytes: Arc<Vec<u8>>,
    },
    /// Send what is queued, then close; give up an attempt that is still being made. No further input is expected.
    Close {
        /// Which connection.
        conn: ConnId,
    },
    /// Something to log and to count.
    Observed {
        /// Instance name.
        instance: Arc<str>,
        /// Peer name.
        peer: Arc<str>,
        /// What.
        what: Observation,
    },
}

/// How a connection is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Its name.
    pub conn: ConnId,
    /// Where to; the scope of a link-local address is in `zone`.
    pub remote: SocketAddr,
    /// Interface of a link-local address.
    pub zone: Option<String>,
    /// Where from.
    pub local: Option<IpAddr>,
    /// TTL of our packets; `None` leaves the system's.
    pub ttl: Option<u8>,
    /// TCP MD5 key.
    pub md5: Option<Secret>,
}

/// What is worth a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A session changed its state.
    Moved {
        /// Before.
        from: SessionState,
        /// After.
        to: SessionState,
        /// Why, if it is not the normal way up.
        reason: Option<String>,
    },
    /// A NOTIFICATION was sent, in words.
    NotificationSent(String),
    /// A NOTIFICATION was received, in words.
    NotificationReceived(String),
    /// An UPDATE was malformed and remedied (RFC 7606), in words.
    Malformed(String),
    /// Two connections collided; which one was closed.
    Collision(&'static str),
    /// Routes that cannot be put into an UPDATE.
    Unsendable(String),
    /// Nothing of a family is advertised, and why.
    FamilyHeldBack(String),
}
