//! The BGP speaker with its sockets: `causeway-bgp-core` driven by tokio.
//!
//! [`Speaker`] is a cheap handle. One owner task holds the core; it is told the desired state through a cell that keeps
//! only the newest value of each thing, and tells the observed state through a watch channel.
//!
//! A caller sets instances ([`Speaker::set_instance`]), then for each peer the complete set of routes
//! ([`Speaker::set_routes`]), then says once that its inputs have synced ([`Speaker::routes_complete`]). Setting the same
//! thing again does nothing.

mod desired;
pub mod file;
mod link;
mod listen;
mod owner;
mod socket;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

pub use causeway_bgp_core::{
    Asn, BGP_PORT, Community, Counters, DEFAULT_CONNECT_RETRY_S, DEFAULT_HOLD_TIME_S, DEFAULT_KEEPALIVE_S, Family,
    FamilyStatus, InstanceConfig, InstanceStatus, LargeCommunity, NegotiatedStatus, NotificationStatus, PeerConfig,
    PeerStatus, Prefix, RouteAttrs, RouteSet, Secret, SessionState, SpeakerStatus,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::desired::DesiredCell;
use crate::owner::{Owner, Question};

/// Questions that wait for the owner task; who asks more waits.
const QUESTIONS: usize = 16;

/// What the new process knows about the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartOptions {
    /// A speaker with these sessions ran here a moment ago: the OPENs to each peer say so (R bit, RFC 4724) until its
    /// session is up or its restart time has passed.
    pub restarting: bool,
    /// Forwarding went on meanwhile, and was found intact (F bit). Only said where graceful restart is configured.
    pub forwarding_preserved: bool,
    /// Name for the FQDN capability; empty leaves it out.
    pub hostname: String,
    /// For the software version capability; empty leaves it out.
    pub software: String,
    /// Seed of the jitter; two speakers should differ.
    pub seed: u64,
}

impl Default for StartOptions {
    fn default() -> Self {
        Self {
            restarting: false,
            forwarding_preserved: false,
            hostname: String::new(),
            software: concat!("causeway/", env!("CARGO_PKG_VERSION")).to_owned(),
            seed: u64::from(std::process::id()),
        }
    }
}

/// The routes a peer has been told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdvertisedRoutes {
    /// The next hop per family, as sent.
    pub next_hops: Vec<(Family, IpAddr)>,
    /// Prefixes with what we say about them.
    pub routes: Arc<RouteSet>,
}

/// A handle to a running speaker. Clones share it; the speaker ends with [`Speaker::shutdown`] or with its last handle
/// (then as a graceful one: connections close without NOTIFICATION).
#[derive(Clone, Debug)]
pub struct Speaker {
    desired: Arc<DesiredCell>,
    status: watch::Receiver<Arc<SpeakerStatus>>,
    questions: mpsc::Sender<Question>,
}

impl Speaker {
    /// Starts the owner task on the current tokio runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn spawn(start: StartOptions) -> Self {
        let empty = SpeakerStatus { epoch: (Instant::now(), SystemTime::now()), instances: BTreeMap::new() };
        let (publish, status) = watch::channel(Arc::new(empty));
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let desired = Arc::new(DesiredCell::default());
        tokio::spawn(Owner::new(start, Arc::clone(&desired), asked, publish).run());
        Self { desired, status, questions }
    }

    /// Adds or changes an instance. Peers that did not change keep their session; a removed peer is told so with Cease.
    pub fn set_instance(&self, config: InstanceConfig) {
        self.desired.set_instance(config);
    }

    /// Removes an instance with all its sessions.
    pub fn remove_instance(&self, name: &str) {
        self.desired.remove_instance(name);
    }

    /// Sets everything that `peer` shall be told, in place of what was set before. May come before the peer exists.
    pub fn set_routes(&self, instance: &str, peer: &str, routes: Arc<RouteSet>) {
        self.desired.set_routes(instance, peer, routes);
    }

    /// The inputs behind the routes have synced: End-of-RIB may be sent. Held back until then, so that a restart of this
    /// process withdraws nothing that is only late.
    pub fn routes_complete(&self, instance: &str) {
        self.desired.routes_complete(instance);
    }

    /// The observed state, newest value only.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<SpeakerStatus>> {
        self.status.clone()
    }

    /// The routes that `peer` has been told; `None` if there is no such peer.
    pub async fn routes(&self, instance: &str, peer: &str) -> Option<AdvertisedRoutes> {
        let (answer, answered) = oneshot::channel();
        let question = Question::Routes { instance: instance.to_owned(), peer: peer.to_owned(), answer };
        self.questions.send(question).await.ok()?;
        answered.await.ok().flatten()
    }

    /// Ends all sessions and the owner task; returns when the connections are closed, after three seconds at most.
    /// `graceful`: connections close without NOTIFICATION, so that peers with graceful restart keep the routes. Otherwise
    /// each peer gets Cease/Administrative Shutdown, inside a Hard Reset where the peer would else keep the routes.
    pub async fn shutdown(self, graceful: bool) {
        let (done, finished) = oneshot::channel();
        if self.questions.send(Question::Shutdown { graceful, done }).await.is_ok() {
            // An error means that the owner ended by itself, which is what was asked for.
            let _ = finished.await;
        }
    }
}
