//! The life of this node's keys: one is made, announced, warmed, becomes the current one; the one before drains and goes.
//!
//! ```text
//! Steady -- due, or asked --> Making -- made and stored --> Warming -- peers are warm, or the limit --> Draining --+
//!   ^                                                                                                             |
//!   +------------------------------------ nobody needs the previous key ------------------------------------------+
//! ```
//!
//! Nothing is lost on the way: the node answers to all keys of [`OwnKeys`] at once, and each side of a pair sends on a link
//! only after it was confirmed ([`crate::active_link`]). A peer that lags behind, be it for hours, goes on with the
//! previous key. Everything is level-triggered: the driver gives what it sees as often as it likes, keeps the device at
//! [`Rotation::keys`] and the node's announcement at [`Rotation::announcement`].
//!
//! What tells that nobody needs the previous key is that no session stands on it: a session is renewed only while packets
//! take it, so devices must not renew one for its own sake, nor send keepalives on a link that is not active. That a peer
//! has a session on the current key too says little: its device may go on sending on the previous one for as long as the
//! agent that would switch it is down.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::announce::{Announcement, EpochKey};
use crate::device::PeerName;
use crate::key::{PrivateKey, PublicKey};

/// WireGuard's Reject-After-Time (white paper section 6.1): until then a session of an old key may still carry packets.
const REJECT_AFTER: Duration = Duration::from_secs(180);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationConfig {
    /// Age at which the current key is replaced; `None`: only when asked.
    pub interval: Option<Duration>,
    /// How long live peers may take to be warm on the next key before it becomes the current one without them.
    pub warm_limit: Duration,
    /// How long a previous key is kept for peers that nothing is heard of.
    pub hold: Duration,
}

impl Default for RotationConfig {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self { interval: Some(day), warm_limit: Duration::from_secs(5 * 60), hold: day }
    }
}

/// A private key with its number and age.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnKey {
    pub epoch: u32,
    pub private: PrivateKey,
    pub public: PublicKey,
    /// Since the Unix epoch.
    pub made: Duration,
}

impl OwnKey {
    pub fn new(epoch: u32, private: PrivateKey, made: Duration) -> Self {
        let public = private.public();
        Self { epoch, private, public, made }
    }
}

/// The keys that the node answers to; what is kept on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnKeys {
    pub previous: Option<OwnKey>,
    pub current: OwnKey,
    pub next: Option<OwnKey>,
}

impl OwnKeys {
    pub fn first(private: PrivateKey, made: Duration) -> Self {
        Self { previous: None, current: OwnKey::new(1, private, made), next: None }
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &OwnKey> {
        self.previous.iter().chain([&self.current]).chain(&self.next)
    }

    /// Oldest first.
    pub fn publics(&self) -> Vec<PublicKey> {
        self.iter().map(|key| key.public).collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// One key.
    Steady,
    /// A key has been asked of the driver.
    Making,
    /// Two keys, the newer one not yet current.
    Warming { since: Duration },
    /// Two keys, the older one on its way out.
    Draining { since: Duration },
}

/// What is seen of a peer's sessions with us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerView {
    /// It takes part in rotation by epochs; Cilium's nodes do not, and learn of a key when it is the current one.
    pub knows_epochs: bool,
    /// Our keys on which a confirmed session with it stands.
    pub confirmed: BTreeSet<PublicKey>,
}

#[derive(Debug, Clone)]
pub enum Input {
    Tick,
    /// A person asks for a new key now.
    Rotate,
    /// The key that [`Output::Make`] asked for; it is on disk.
    Made(PrivateKey),
    /// All peers as they are now.
    Peers(BTreeMap<PeerName, PeerView>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Make a private key, store it as the next one, and answer with [`Input::Made`].
    Make { epoch: u32 },
    /// Roles have changed: store [`Rotation::keys`].
    Store,
}

/// Why [`Input::Rotate`] would start nothing now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Now,
    /// A rotation is under way, in this phase.
    Busy(Phase),
}

#[derive(Debug)]
pub struct Rotation {
    config: RotationConfig,
    keys: OwnKeys,
    phase: Phase,
    /// `None` until the driver has told: nothing is taken from peers that are not known yet.
    peers: Option<BTreeMap<PeerName, PeerView>>,
    /// Peers that have had a session on the newest key: they know it, even when nothing is heard of them now.
    moved: BTreeSet<PeerName>,
    output: Option<Output>,
    /// When the previous key was last of use: a session stood on it, or a peer came to the newest that may not send on it yet.
    needed: Duration,
}

impl Rotation {
    /// Goes on where `keys`, read from disk, left off.
    pub fn new(now: Duration, keys: OwnKeys, config: RotationConfig) -> Self {
        let phase = match (&keys.previous, &keys.next) {
            (_, Some(_)) => Phase::Warming { since: now },
            (Some(_), None) => Phase::Draining { since: now },
            (None, None) => Phase::Steady,
        };
        Self { config, keys, phase, peers: None, moved: BTreeSet::new(), output: None, needed: now }
    }

    pub fn keys(&self) -> &OwnKeys {
        &self.keys
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What the node's annotations shall say.
    pub fn announcement(&self) -> Announcement {
        let keys = self.keys.iter().map(|key| EpochKey { epoch: key.epoch, key: key.public }).collect();
        Announcement { current: self.keys.current.public, keys }
    }

    /// What [`Input::Rotate`] would do.
    pub fn can_start(&self) -> Start {
        if self.phase == Phase::Steady { Start::Now } else { Start::Busy(self.phase) }
    }

    /// Live peers that a rotation under way still waits for: not warm on the newest key.
    pub fn lagging(&self) -> impl Iterator<Item = &PeerName> {
        let newest = self.newest();
        let waiting = !matches!(self.phase, Phase::Steady | Phase::Making);
        let late = move |peer: &&PeerView| waiting && !peer.confirmed.is_empty() && !peer.confirmed.contains(&newest);
        self.peers.iter().flatten().filter(move |(_, peer)| late(peer)).map(|(name, _)| name)
    }

    pub fn handle(&mut self, now: Duration, input: Input) {
        // What was true until now counts until now, however long ago it was told.
        self.note_need(now);
        match input {
            Input::Tick => {}
            Input::Rotate => self.start(),
            Input::Made(private) => self.made(now, private),
            Input::Peers(peers) => self.see(now, peers),
        }
        self.note_need(now);
        self.step(now);
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.take()
    }

    /// When to come with [`Input::Tick`] at the latest.
    pub fn deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Steady => self.due_at(),
            Phase::Making => None,
            Phase::Warming { since } => Some(since.saturating_add(self.config.warm_limit)),
            // While somebody needs the key, or nobody is known, news of peers comes before any deadline.
            Phase::Draining { since } => (self.peers.is_some() && !self.is_needed()).then(|| self.drained_at(since)),
        }
    }

    fn newest(&self) -> PublicKey {
        self.keys.next.as_ref().unwrap_or(&self.keys.current).public
    }

    fn due_at(&self) -> Option<Duration> {
        self.config.interval.map(|interval| self.keys.current.made.saturating_add(interval))
    }

    fn start(&mut self) {
        if self.phase == Phase::Steady {
            self.phase = Phase::Making;
            self.output = Some(Output::Make { epoch: self.keys.current.epoch.saturating_add(1) });
        }
    }

    fn made(&mut self, now: Duration, private: PrivateKey) {
        if self.phase == Phase::Making {
            self.keys.next = Some(OwnKey::new(self.keys.current.epoch.saturating_add(1), private, now));
            self.phase = Phase::Warming { since: now };
            self.moved.clear();
        }
    }

    fn see(&mut self, now: Duration, peers: BTreeMap<PeerName, PeerView>) {
        let newest = self.newest();
        self.moved.retain(|name| peers.contains_key(name));
        for (name, peer) in &peers {
            // Its first session on the key: its agent has yet to switch to it.
            if peer.confirmed.contains(&newest) && !self.moved.contains(name) {
                self.moved.insert(name.clone());
                self.needed = now;
            }
        }
        self.peers = Some(peers);
    }

    fn note_need(&mut self, now: Duration) {
        if self.is_needed() {
            self.needed = now;
        }
    }

    fn step(&mut self, now: Duration) {
        match self.phase {
            Phase::Steady => {
                if self.due_at().is_some_and(|due| now >= due) {
                    self.start();
                }
            }
            Phase::Making => {}
            Phase::Warming { since } => {
                if self.all_warm() || now >= since.saturating_add(self.config.warm_limit) {
                    self.promote(now);
                }
            }
            Phase::Draining { since } => {
                if self.peers.is_some() && !self.is_needed() && now >= self.drained_at(since) {
                    self.keys.previous = None;
                    self.phase = Phase::Steady;
                    self.output = Some(Output::Store);
                }
            }
        }
    }

    /// From when on the previous key may go: its sessions are over, at the peers' ends too, and peers that nothing is heard
    /// of, who may know no other key, have had their time.
    fn drained_at(&self, since: Duration) -> Duration {
        let last = since.max(self.needed);
        let dark = |(name, peer): (&PeerName, &PeerView)| peer.confirmed.is_empty() && !self.moved.contains(name);
        let grace =
            if self.peers.iter().flatten().any(dark) { self.config.hold.max(REJECT_AFTER) } else { REJECT_AFTER };
        last.saturating_add(grace)
    }

    fn all_warm(&self) -> bool {
        let newest = self.newest();
        let live = |peer: &&PeerView| peer.knows_epochs && !peer.confirmed.is_empty();
        let warm = |peers: &BTreeMap<_, _>| peers.values().filter(live).all(|peer| peer.confirmed.contains(&newest));
        self.peers.as_ref().is_some_and(warm)
    }

    /// A session stands on the previous key.
    fn is_needed(&self) -> bool {
        let on =
            |previous: &OwnKey| self.peers.iter().flatten().any(|(_, peer)| peer.confirmed.contains(&previous.public));
        self.keys.previous.as_ref().is_some_and(on)
    }

    fn promote(&mut self, now: Duration) {
        if let Some(next) = self.keys.next.take() {
            self.keys.previous = Some(std::mem::replace(&mut self.keys.current, next));
            self.phase = Phase::Draining { since: now };
            self.needed = now;
            self.output = Some(Output::Store);
        }
    }
}
