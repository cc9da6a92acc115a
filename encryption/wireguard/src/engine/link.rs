//! One link: a noise session with its counters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use causeway_encryption_plan::{Link, LinkStats, PeerName, PrivateKey, PublicKey};
use gotatun::noise::Tunn;
use gotatun::noise::errors::WireGuardError;
use gotatun::noise::index_table::IndexTable;
use gotatun::noise::rate_limiter::RateLimiter;
use gotatun::packet::WgKind;
use gotatun::tun::MtuWatcher;
use gotatun::x25519;
use parking_lot::{Mutex, RwLock};

/// Handshakes a second and source address beyond which cookies are asked for (white paper section 5.3): two nodes that
/// share an address, each rotating and with lost messages, stay far below.
const HANDSHAKES_A_SECOND: u64 = 100;

/// A key pair of ours.
pub(crate) struct Identity {
    pub(crate) public: PublicKey,
    pub(crate) x25519: x25519::PublicKey,
    pub(crate) private: x25519::StaticSecret,
    pub(crate) limiter: Arc<RateLimiter>,
}

impl Identity {
    pub(crate) fn new(private: &PrivateKey) -> Self {
        let secret = x25519::StaticSecret::from(*private.as_bytes());
        let x25519 = x25519::PublicKey::from(&secret);
        let limiter = Arc::new(RateLimiter::new(&x25519, HANDSHAKES_A_SECOND));
        Self { public: private.public(), x25519, private: secret, limiter }
    }
}

pub(crate) struct LinkState {
    pub(crate) link: Link,
    pub(crate) peer: PeerName,
    pub(crate) identity: Arc<Identity>,
    pub(crate) tunn: Mutex<Tunn>,
    /// Where the peer was last heard from on this link: each key of a kernel's device has a port of its own.
    endpoint: RwLock<SocketAddr>,
    /// Added beside others, and not yet confirmed once.
    warming: AtomicBool,
    confirmed: AtomicBool,
    handshakes: AtomicU64,
    failures: AtomicU64,
    replays: AtomicU64,
    rx_bytes: AtomicU64,
    tx_bytes: AtomicU64,
    received: Mutex<Option<Instant>>,
}

impl LinkState {
    pub(crate) fn new(
        link: Link,
        peer: PeerName,
        endpoint: SocketAddr,
        identity: Arc<Identity>,
        indexes: IndexTable,
        warming: bool,
    ) -> Self {
        let tunn = Tunn::new(
            identity.private.clone(),
            x25519::PublicKey::from(*link.remote.as_bytes()),
            None,
            None,
            indexes,
            Arc::clone(&identity.limiter),
        );
        Self {
            link,
            peer,
            identity,
            tunn: Mutex::new(tunn),
            endpoint: RwLock::new(endpoint),
            warming: AtomicBool::new(warming),
            confirmed: AtomicBool::new(false),
            handshakes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            replays: AtomicU64::new(0),
            rx_bytes: AtomicU64::new(0),
            tx_bytes: AtomicU64::new(0),
            received: Mutex::new(None),
        }
    }

    pub(crate) fn endpoint(&self) -> SocketAddr {
        *self.endpoint.read()
    }

    /// A message on a session that stands came from there (white paper section 2.1: roaming).
    pub(crate) fn heard_from(&self, from: SocketAddr) {
        if self.endpoint() != from {
            *self.endpoint.write() = from;
        }
    }

    pub(crate) fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// The peer has shown that it has the session's keys. Whether this is news.
    pub(crate) fn confirm(&self) -> bool {
        self.warming.store(false, Ordering::Relaxed);
        !self.confirmed.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn is_warming(&self) -> bool {
        self.warming.load(Ordering::Relaxed)
    }

    /// Forgets keys, handshakes and what waits. Its indexes are free then, so that nothing finds it by them any more.
    pub(crate) fn end(&self) {
        self.tunn.lock().reset();
    }

    /// The session is over.
    pub(crate) fn expired(&self) {
        self.confirmed.store(false, Ordering::Relaxed);
    }

    /// Takes the noise session's own word on whether there is a session at all.
    pub(crate) fn observe(&self, tunn: &Tunn) {
        if tunn.time_since_last_handshake().is_none() {
            self.expired();
        }
    }

    pub(crate) fn handshake_done(&self) {
        self.handshakes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self, error: &WireGuardError) {
        let counter = match error {
            WireGuardError::DuplicateCounter
            | WireGuardError::InvalidCounter
            | WireGuardError::WrongTai64nTimestamp => &self.replays,
            _ => &self.failures,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.tx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.rx_bytes.fetch_add(bytes, Ordering::Relaxed);
        *self.received.lock() = Some(Instant::now());
    }

    pub(crate) fn stats(&self) -> LinkStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let handshake = self.tunn.lock().time_since_last_handshake();
        LinkStats {
            handshake_age_ms: handshake.map(ms),
            confirmed: handshake.is_some() && self.confirmed.load(Ordering::Relaxed),
            handshakes: read(&self.handshakes),
            failures: read(&self.failures),
            replays: read(&self.replays),
            rx_bytes: read(&self.rx_bytes),
            tx_bytes: read(&self.tx_bytes),
            received_age_ms: self.received.lock().map(|at| ms(at.elapsed())),
        }
    }
}

/// What waited for a session, encrypted. It is padded already, so the MTU that the library wants to know counts for nothing.
pub(crate) fn queued(tunn: &mut Tunn) -> Vec<WgKind> {
    tunn.get_queued_packets(&mut MtuWatcher::new(u16::MAX)).collect()
}
