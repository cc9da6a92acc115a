//! One pass from what is wanted to what is: the device, its keys, the guard, the routes. Blocking, without a clock; the
//! task in [`super`] calls it again and again, and a pass that has nothing to do changes nothing.
//!
//! The order keeps packets from the wire in the clear: rows of the guard come before anything else, routes after the peers
//! they lead to, and rows go after the routes. A device that is gone leaves the guard as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use causeway_datapath_loader::EncryptEntry;
use causeway_encryption_device::{Device, DeviceError, KeyFile};
use causeway_encryption_plan::{
    Actual, Announcement, Change, Desired, DeviceSpec, Input, Link, Mtu, Output, OwnKey, OwnKeys, Peer, PeerName,
    PeerStats, PeerView, Phase, PrivateKey, PublicKey, RemoteKeys, Rotation, RotationConfig, Snapshot, Start,
    active_link, cold_links, links, plan,
};
use causeway_table::Shared;
use ipnet::IpNet;

use super::guard::Guard;
use super::rows::{Rows, Wish};
use super::steering::{MARK, Paths, Steering};
use super::tally::{Counts, Tally};
use crate::control::encryption::{self as control, NodeWords, Own, Policy, Standing, Wanted};

/// Name of the interface, as Cilium's.
pub(crate) const DEVICE: &str = "cilium_wg0";

/// How often a handshake that came to nothing is begun again. WireGuard itself gives one up after 90 s.
const WARM_AGAIN: Duration = Duration::from_secs(5);

/// How often routes and rules are compared with the kernel's although nothing has changed.
const STEER_AGAIN: Duration = Duration::from_secs(10);

/// What does not change while the agent runs.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) policy: Policy,
    /// Name of the own cluster: before the slash of its peers' names.
    pub(crate) cluster: String,
    /// This node's own addresses.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) rotation: RotationConfig,
}

/// The tables at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Intent {
    pub(crate) nodes: Vec<NodeWords>,
    pub(crate) own_pods: Vec<IpNet>,
    pub(crate) api_servers: BTreeSet<IpAddr>,
    /// This cluster's nodes are all known.
    pub(crate) local_known: bool,
    /// Other clusters' nodes are all known, or have been waited for long enough.
    pub(crate) remote_known: bool,
    /// Clusters that have not been read yet; what the device holds of theirs stays.
    pub(crate) unread: BTreeSet<String>,
    /// Keys from before this moment, since the Unix epoch, are to be replaced: what the own CiliumNode asks for.
    pub(crate) rotate_before: Option<Duration>,
}

impl Intent {
    fn may_forget(&self, settings: &Settings, peer: &PeerName) -> bool {
        let cluster = peer.as_str().split_once('/').map_or("", |(cluster, _)| cluster);
        if cluster == settings.cluster { self.local_known } else { self.remote_known && !self.unread.contains(cluster) }
    }

    fn complete(&self) -> bool {
        self.local_known && self.remote_known && self.unread.is_empty()
    }
}

/// Now, by two clocks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    /// Since the Unix epoch: ages of keys.
    pub(crate) unix: Duration,
    /// Never goes back: pauses.
    pub(crate) steady: Duration,
}

/// A key of this node, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyView {
    pub(crate) epoch: u32,
    pub(crate) key: PublicKey,
    /// `previous`, `current`, `next`.
    pub(crate) role: &'static str,
    /// Since the Unix epoch.
    pub(crate) made: Duration,
}

/// What a pass found and did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    /// Kind of device, and why this one.
    pub(crate) backend: String,
    pub(crate) spec: Option<DeviceSpec>,
    pub(crate) ifindex: u32,
    /// Why the device is not there, if so.
    pub(crate) gone: Option<String>,
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    /// Of each peer, since the process started.
    pub(crate) totals: BTreeMap<PeerName, Counts>,
    pub(crate) wanted: Arc<Wanted>,
    /// Spoken to in the clear by this node itself until a session stands.
    pub(crate) exempt: BTreeSet<PeerName>,
    /// Peers of an earlier process that nobody has named yet.
    pub(crate) adopted: BTreeSet<PeerName>,
    pub(crate) keys: Vec<KeyView>,
    pub(crate) phase: Option<Phase>,
    pub(crate) lagging: Vec<PeerName>,
    pub(crate) guard_rows: usize,
    /// What went wrong in this pass.
    pub(crate) errors: Vec<String>,
    /// What keeps pods from starting, if something does.
    pub(crate) unready: Option<String>,
    /// The device was told something: what comes of it is seen by the next pass.
    pub(crate) changed: bool,
    /// To be told to the other nodes; absent until the device holds the keys.
    pub(crate) announcement: Option<Announcement>,
}

pub(crate) struct Driver {
    settings: Settings,
    device: Box<dyn Device>,
    guard: Arc<dyn Guard>,
    steering: Box<dyn Steering>,
    /// The smallest MTU among the uplinks.
    underlay: Box<dyn Fn() -> Result<u32, String> + Send>,
    key_file: KeyFile,
    /// Absent until the keys could be read.
    rotation: Option<Rotation>,
    /// [`Output::Make`] has not been answered.
    unmade: bool,
    /// [`Output::Store`] has not been done.
    unstored: bool,
    /// The newest wish of the own CiliumNode that was granted.
    granted: Option<Duration>,
    rows: Rows,
    /// Interfaces of the device that carry the datapath's program.
    attached: BTreeSet<u32>,
    /// What the device held at last.
    held: Actual,
    confirmed: BTreeSet<PeerName>,
    announcement: Option<Announcement>,
    /// When handshakes with a peer were last begun by us.
    warmed: BTreeMap<PeerName, Duration>,
    steered: Option<(Duration, Paths, bool)>,
    tally: Tally,
}

impl Driver {
    pub(crate) fn new(
        settings: Settings,
        device: Box<dyn Device>,
        guard: Arc<dyn Guard>,
        guarded: Shared<IpNet, ()>,
        steering: Box<dyn Steering>,
        underlay: Box<dyn Fn() -> Result<u32, String> + Send>,
        key_file: KeyFile,
    ) -> Driver {
        Driver {
            settings,
            device,
            rows: Rows::new(guard.clone(), guarded),
            guard,
            steering,
            underlay,
            key_file,
            rotation: None,
            unmade: false,
            unstored: false,
            granted: None,
            attached: BTreeSet::new(),
            held: Actual::default(),
            confirmed: BTreeSet::new(),
            announcement: None,
            warmed: BTreeMap::new(),
            steered: None,
            tally: Tally::default(),
        }
    }

    /// Asks for a new key. `Err`: a rotation is under way, in this phase, or there are no keys yet.
    pub(crate) fn rotate(&mut self, now: Clock) -> Result<(), Option<Phase>> {
        let rotation = self.rotation.as_mut().ok_or(None)?;
        if let Start::Busy(phase) = rotation.can_start() {
            return Err(Some(phase));
        }
        rotation.handle(now.unix, Input::Rotate);
        self.outputs(now, &mut Vec::new());
        Ok(())
    }

    /// A key is on its way to be used: the next pass should be soon. The one before may drain for a day.
    pub(crate) fn is_rotating(&self) -> bool {
        let phase = self.rotation.as_ref().map(Rotation::phase);
        matches!(phase, Some(Phase::Making | Phase::Warming { .. }))
    }

    pub(crate) fn pass(&mut self, now: Clock, intent: &Intent) -> Report {
        let mut report = Report { backend: self.device.describe(), ..Report::default() };
        if intent.own_pods.is_empty() {
            report.unready = Some("this node has no pod CIDR yet".to_owned());
        }
        self.load_keys(now, &mut report);
        self.close(now, intent, &mut report);
        match self.device_pass(now, intent, &mut report) {
            Ok(()) => {}
            Err(DeviceError::Gone(why)) => {
                self.attached.clear();
                self.confirmed.clear();
                report.unready = Some(why.clone());
                report.gone = Some(why);
            }
            Err(DeviceError::Refused { error, .. }) => {
                report.errors.push(format!("the device refuses: {error}"));
                report.unready.get_or_insert(error);
            }
        }
        self.finish(report)
    }

    fn own(&self, intent: &Intent) -> Own {
        let keys = self.rotation.as_ref().map(|rotation| rotation.keys().publics()).unwrap_or_default();
        Own { addresses: self.settings.addresses.clone(), pod_cidrs: intent.own_pods.clone(), keys }
    }

    fn want(&self, intent: &Intent) -> Wanted {
        control::wanted(&control::Inputs {
            own: &self.own(intent),
            nodes: &intent.nodes,
            policy: &self.settings.policy,
            api_servers: &intent.api_servers,
            held: &self.held,
        })
    }

    /// Guards what is known, before anything else.
    fn close(&mut self, now: Clock, intent: &Intent, report: &mut Report) {
        report.wanted = Arc::new(self.want(intent));
        report.exempt = report.wanted.exempt(&self.confirmed);
        self.set_rows(now, intent, report);
    }

    fn set_rows(&mut self, now: Clock, intent: &Intent, report: &mut Report) {
        let wanted = report.wanted.guard(&report.exempt);
        for error in self.rows.close(now.steady, wish(intent, report, &wanted)) {
            report.unready.get_or_insert(error.clone());
            report.errors.push(error);
        }
    }

    /// Rows that nobody wants go last.
    fn drop_rows(&mut self, now: Clock, intent: &Intent, report: &mut Report) {
        let wanted = report.wanted.guard(&report.exempt);
        let errors = self.rows.open(now.steady, wish(intent, report, &wanted));
        report.errors.extend(errors);
    }

    fn load_keys(&mut self, now: Clock, report: &mut Report) {
        if self.rotation.is_some() {
            return;
        }
        match self.key_file.load_or_make(now.unix) {
            Ok(keys) => self.rotation = Some(Rotation::new(now.unix, keys, self.settings.rotation.clone())),
            Err(error) => {
                report.unready = Some(error.to_string());
                report.errors.push(error.to_string());
            }
        }
    }

    fn device_pass(&mut self, now: Clock, intent: &Intent, report: &mut Report) -> Result<(), DeviceError> {
        if self.rotation.is_none() {
            return Ok(());
        }
        let spec = match self.spec() {
            Ok(spec) => spec,
            Err(error) => {
                report.unready.get_or_insert(error.clone());
                report.errors.push(error);
                return Ok(());
            }
        };
        report.spec = Some(spec.clone());
        let ensured = self.device.ensure(&spec)?;
        report.ifindex = ensured.ifindex;
        if ensured.fresh {
            tracing::info!(device = spec.name, ifindex = ensured.ifindex, mtu = spec.mtu, "WireGuard device made");
            self.steered = None;
            self.warmed.clear();
            self.attached.clear();
        }
        let snapshot = self.device.snapshot()?;
        self.attach(&snapshot, report);
        if self.held != snapshot.actual {
            self.held = snapshot.actual.clone();
            report.wanted = Arc::new(self.want(intent));
        }
        self.rotate_step(now, intent, &snapshot, report);
        let (desired, mut changes) = self.changes(intent, &snapshot, report);
        changes.extend(self.warm(now, &desired, &snapshot, report));
        self.began(now, &desired, &changes);
        report.changed = !changes.is_empty();
        let applied = if changes.is_empty() { Ok(()) } else { self.device.apply(changes) };
        self.confirmed = confirmed_peers(&desired, &snapshot);
        self.tally.observe(&snapshot);
        let snapshot = Arc::new(snapshot);
        report.snapshot = Some(snapshot.clone());
        applied?;
        if let Some(rotation) = &self.rotation {
            self.announcement = Some(rotation.announcement());
        }
        self.steer(now, intent, &snapshot, report);
        self.drop_rows(now, intent, report);
        Ok(())
    }

    /// Before anything can come by a new interface.
    fn attach(&mut self, snapshot: &Snapshot, report: &mut Report) {
        let all = interfaces(snapshot);
        self.attached.retain(|index| all.contains(index));
        for index in all {
            if self.attached.contains(&index) {
                continue;
            }
            match self.guard.attach(index) {
                Ok(()) => {
                    self.attached.insert(index);
                }
                Err(error) => {
                    let what = format!("attaching to the WireGuard interface {index}: {error}");
                    report.unready.get_or_insert(what.clone());
                    report.errors.push(what);
                }
            }
        }
    }

    fn spec(&self) -> Result<DeviceSpec, String> {
        let underlay = (self.underlay)()?;
        let mtu = Mtu::new(underlay, 0).map_err(|error| error.to_string())?;
        Ok(DeviceSpec {
            name: DEVICE.to_owned(),
            port: self.settings.policy.port,
            mark: MARK,
            mtu: mtu.inner,
            addresses: self.settings.addresses.clone(),
        })
    }

    /// Tells the rotation what is seen, and does what it asks for.
    fn rotate_step(&mut self, now: Clock, intent: &Intent, snapshot: &Snapshot, report: &mut Report) {
        self.outputs(now, &mut report.errors);
        let known = intent.local_known && intent.remote_known;
        let Some(rotation) = &mut self.rotation else { return };
        if known {
            let view = |(name, stats): (&PeerName, &PeerStats)| {
                let confirmed = stats.links.iter().filter(|(_, stats)| stats.confirmed).map(|(link, _)| link.own);
                let knows_epochs = report.wanted.peers.get(name).is_some_and(|peer| peer.keys.knows_epochs());
                (name.clone(), PeerView { knows_epochs, confirmed: confirmed.collect() })
            };
            let mut peers: BTreeMap<PeerName, PeerView> = snapshot.stats.iter().map(view).collect();
            for (name, peer) in &report.wanted.peers {
                let dark = || PeerView { knows_epochs: peer.keys.knows_epochs(), confirmed: BTreeSet::new() };
                peers.entry(name.clone()).or_insert_with(dark);
            }
            rotation.handle(now.unix, Input::Peers(peers));
        }
        if let Some(before) = intent.rotate_before.filter(|before| self.granted.is_none_or(|done| *before > done)) {
            let keys = rotation.keys();
            if keys.next.as_ref().unwrap_or(&keys.current).made >= before {
                self.granted = Some(before);
            } else if rotation.can_start() == Start::Now {
                tracing::info!("the annotation of this CiliumNode asks for a new key");
                // A clock that runs ahead asks once, too.
                self.granted = Some(before);
                rotation.handle(now.unix, Input::Rotate);
            }
        }
        rotation.handle(now.unix, Input::Tick);
        self.outputs(now, &mut report.errors);
    }

    /// What could not be done is tried again by the next pass.
    fn outputs(&mut self, now: Clock, errors: &mut Vec<String>) {
        let Some(rotation) = &mut self.rotation else { return };
        loop {
            match rotation.poll_output() {
                Some(Output::Make { epoch }) => {
                    tracing::info!(epoch, "making a new WireGuard key");
                    self.unmade = true;
                }
                Some(Output::Store) => self.unstored = true,
                None if self.unmade => match make(&self.key_file, rotation.keys(), now) {
                    Ok(private) => {
                        self.unmade = false;
                        rotation.handle(now.unix, Input::Made(private));
                    }
                    Err(error) => return errors.push(error),
                },
                None => break,
            }
        }
        if self.unstored {
            match self.key_file.store(rotation.keys()) {
                Ok(()) => {
                    self.unstored = false;
                    tracing::info!(epoch = rotation.keys().current.epoch, phase = ?rotation.phase(), "WireGuard keys");
                }
                Err(error) => errors.push(error.to_string()),
            }
        }
    }

    /// What the device shall hold, and the way there.
    fn changes(&self, intent: &Intent, snapshot: &Snapshot, report: &mut Report) -> (Desired, Vec<Change>) {
        let Some(rotation) = &self.rotation else { return Default::default() };
        let own = rotation.keys().publics();
        let mut desired = Desired::default();
        desired.identities.extend(rotation.keys().iter().map(|key| (key.public, key.private.clone())));
        for (name, wanted) in &report.wanted.peers {
            let links = links(&own, &RemoteKeys::from(&wanted.keys));
            let in_use = snapshot.actual.peers.get(name).map(|peer| peer.active);
            let fallback = Link { own: rotation.keys().current.public, remote: wanted.keys.current };
            let stats = snapshot.stats.get(name);
            let active = active_link(&links, in_use, fallback, |link| is_confirmed(stats, link));
            let peer = Peer {
                endpoint: wanted.endpoint,
                keepalive_s: wanted.keepalive_s,
                links: links.into_iter().collect(),
                active,
                prefixes: wanted.prefixes.clone(),
            };
            desired.peers.insert(name.clone(), peer);
        }
        for (name, peer) in adopted(&self.settings, intent, &snapshot.actual, &report.wanted, &desired) {
            report.adopted.insert(name.clone());
            desired.peers.insert(name, peer);
        }
        let changes = plan(&desired, &snapshot.actual);
        (desired, changes)
    }

    /// Handshakes that came to nothing are begun again now and then: on links that are better than the one in use; where
    /// nothing else makes packets go by the tunnel; and with peers that there never was a session with, so that it shows
    /// whether there can be one before somebody needs it.
    fn warm(&self, now: Clock, desired: &Desired, snapshot: &Snapshot, report: &Report) -> Vec<Change> {
        let Some(rotation) = &self.rotation else { return Vec::new() };
        let own = rotation.keys().publics();
        let mut changes = Vec::new();
        for (name, wanted) in &report.wanted.peers {
            // A peer that was added just now is knocked at in the next pass: it may still send on a session that a new device
            // does not have.
            let (Some(peer), Some(old)) = (desired.peers.get(name), snapshot.actual.peers.get(name)) else { continue };
            if self.warmed.get(name).is_some_and(|last| now.steady < last.saturating_add(WARM_AGAIN)) {
                continue;
            }
            let stats = snapshot.stats.get(name);
            let all = links(&own, &RemoteKeys::from(&wanted.keys));
            let knock = report.exempt.contains(name) || !has_met(stats);
            let cold = cold_links(&all, peer.active).chain(knock.then_some(&peer.active));
            let again = cold.filter(|link| old.links.contains(link) && !is_confirmed(stats, link));
            changes.extend(again.map(|link| Change::AddLink { peer: name.clone(), link: *link }));
        }
        changes
    }

    /// Remembers with whom handshakes are begun.
    fn began(&mut self, now: Clock, desired: &Desired, changes: &[Change]) {
        self.warmed.retain(|name, _| desired.peers.contains_key(name));
        for change in changes {
            if let Change::AddLink { peer, .. } = change {
                self.warmed.insert(peer.clone(), now.steady);
            }
        }
    }

    fn steer(&mut self, now: Clock, intent: &Intent, snapshot: &Snapshot, report: &mut Report) {
        // By what the device says now; a node that has just become exempt loses its route and its row together.
        report.exempt = report.wanted.exempt(&self.confirmed);
        self.set_rows(now, intent, report);
        let policy = &self.settings.policy;
        let elsewhere = elsewhere(&report.wanted, snapshot);
        let way = |prefix: &IpNet| (*prefix, elsewhere.get(prefix).copied().unwrap_or(report.ifindex));
        let paths = Paths {
            interfaces: interfaces(snapshot),
            pods: report.wanted.pods.iter().map(way).collect(),
            nodes: report.wanted.nodes(&report.exempt).iter().map(way).collect(),
            own_pods: intent.own_pods.iter().map(IpNet::trunc).collect(),
            own: self.settings.addresses.clone(),
            hosts_too: policy.encrypt_node,
            ipv4: policy.ipv4,
            ipv6: policy.ipv6,
        };
        let prune = intent.complete();
        if let Some((at, old, pruned)) = &self.steered
            && (old, *pruned) == (&paths, prune)
            && now.steady < at.saturating_add(STEER_AGAIN)
        {
            return;
        }
        match self.steering.apply(&paths, prune) {
            Ok(()) => self.steered = Some((now.steady, paths, prune)),
            Err(error) => {
                self.steered = None;
                report.unready.get_or_insert(error.to_string());
                report.errors.push(error.to_string());
            }
        }
    }

    fn finish(&self, mut report: Report) -> Report {
        if let Some(rotation) = &self.rotation {
            let keys = rotation.keys();
            let role = |epoch: u32| match epoch.cmp(&keys.current.epoch) {
                std::cmp::Ordering::Less => "previous",
                std::cmp::Ordering::Equal => "current",
                std::cmp::Ordering::Greater => "next",
            };
            let view =
                |key: &OwnKey| KeyView { epoch: key.epoch, key: key.public, role: role(key.epoch), made: key.made };
            report.keys = keys.iter().map(view).collect();
            report.phase = Some(rotation.phase());
            report.lagging = rotation.lagging().cloned().collect();
        }
        report.totals = self.tally.totals();
        report.guard_rows = self.rows.len();
        report.announcement.clone_from(&self.announcement);
        report
    }

    /// Undoes everything, for an agent that is told not to encrypt: the rows last, so that nothing goes in the clear before
    /// its routes do.
    pub(crate) fn clear(device: &mut dyn Device, guard: &dyn Guard, steering: &mut dyn Steering) -> Result<(), String> {
        steering.clear().map_err(|error| error.to_string())?;
        match device.delete() {
            Ok(()) | Err(DeviceError::Gone(_)) => {}
            Err(DeviceError::Refused { error, .. }) => tracing::warn!(error, "the WireGuard device stays"),
        }
        for prefix in guard.rows()?.into_keys() {
            guard.delete(prefix)?;
        }
        Ok(())
    }
}

fn wish<'a>(intent: &Intent, report: &'a Report, wanted: &'a BTreeMap<IpNet, EncryptEntry>) -> Wish<'a> {
    let (complete, remote_known) = (intent.complete(), intent.remote_known);
    Wish { wanted, released: &report.wanted.released, complete, remote_known }
}

/// A new key, stored as the next one.
fn make(file: &KeyFile, keys: &OwnKeys, now: Clock) -> Result<PrivateKey, String> {
    let private = KeyFile::make().map_err(|error| error.to_string())?;
    let epoch = keys.current.epoch.saturating_add(1);
    let next = OwnKey::new(epoch, private.clone(), now.unix);
    file.store(&OwnKeys { next: Some(next), ..keys.clone() }).map_err(|error| error.to_string())?;
    Ok(private)
}

fn is_confirmed(stats: Option<&PeerStats>, link: &Link) -> bool {
    stats.is_some_and(|stats| stats.links.iter().any(|(known, stats)| known == link && stats.confirmed))
}

/// All of the device's, by index.
fn interfaces(snapshot: &Snapshot) -> BTreeSet<u32> {
    snapshot.interfaces.iter().copied().chain([snapshot.ifindex]).filter(|index| *index != 0).collect()
}

/// Prefixes of peers that another interface than the device's first leads to.
fn elsewhere(wanted: &Wanted, snapshot: &Snapshot) -> BTreeMap<IpNet, u32> {
    let mut ways = BTreeMap::new();
    for (name, peer) in &wanted.peers {
        let index = snapshot.stats.get(name).map_or(0, |stats| stats.ifindex);
        if index != 0 && index != snapshot.ifindex {
            ways.extend(peer.prefixes.iter().map(|prefix| (*prefix, index)));
        }
    }
    ways
}

/// There has been a session since the device has known the peer.
fn has_met(stats: Option<&PeerStats>) -> bool {
    stats.is_some_and(|stats| stats.links.iter().any(|(_, stats)| stats.handshakes > 0 || stats.confirmed))
}

/// Peers that packets can be sent to now.
fn confirmed_peers(desired: &Desired, snapshot: &Snapshot) -> BTreeSet<PeerName> {
    let confirmed = desired.peers.iter().filter(|(name, peer)| is_confirmed(snapshot.stats.get(*name), &peer.active));
    confirmed.map(|(name, _)| name.clone()).collect()
}

/// Peers of an earlier process that nobody has named yet, or whose key nobody has: they stay as they are, but for what others have by now.
fn adopted(
    settings: &Settings,
    intent: &Intent,
    actual: &Actual,
    wanted: &Wanted,
    desired: &Desired,
) -> Vec<(PeerName, Peer)> {
    let taken_keys: BTreeSet<PublicKey> =
        desired.peers.values().flat_map(|peer| peer.links.iter().map(|link| link.remote)).collect();
    let taken: BTreeSet<&IpNet> = desired.peers.values().flat_map(|peer| &peer.prefixes).collect();
    // A Node may be known before its CiliumNode, which has the key.
    let is_named = |name: &PeerName| wanted.standing.get(name).is_some_and(|standing| *standing != Standing::NoKey);
    let unnamed = actual.peers.iter().filter(|(name, _)| !is_named(name) && !intent.may_forget(settings, name));
    unnamed
        .filter_map(|(name, old)| {
            if old.links.iter().any(|link| taken_keys.contains(&link.remote)) {
                return None;
            }
            let links: BTreeSet<Link> =
                old.links.iter().filter(|link| desired.identities.contains_key(&link.own)).copied().collect();
            let active = if links.contains(&old.active) { old.active } else { *links.first()? };
            let prefixes = old.prefixes.iter().filter(|prefix| !taken.contains(prefix)).copied().collect();
            Some((name.clone(), Peer { links, active, prefixes, ..old.clone() }))
        })
        .collect()
}
