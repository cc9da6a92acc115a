//! The device: interfaces of the kernel, told what [`Slots`] says, and looked at.
//!
//! The kernel is right. Each `ensure` and `snapshot` reads all interfaces and brings together what is there and what is
//! known ([`Slots::absorb`]); what is then found missing is in no snapshot, and so is planned again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use causeway_encryption_device::{Device, DeviceError, Ensured};
use causeway_encryption_plan::{
    Change, DeviceSpec, Link, LinkStats, PeerName, PeerStats, PrivateKey, PublicKey, Snapshot,
};

use serde::{Deserialize, Serialize};

use crate::decode::Observed;
use crate::encode::{self, DeviceSet, KeySet, PeerSet};
use crate::slots::{Op, PeerState, SLOTS, Slots};
use crate::watch::Watch;
use crate::wire::{Netlink, Wire};

/// `IFNAMSIZ` without the closing zero.
const NAME_MAX: usize = 15;

/// What is kept between processes.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored<S> {
    /// Name of the first interface.
    interface: String,
    slots: S,
}

type Watches = BTreeMap<(usize, PublicKey), Watch>;

type Seen = [Option<Observed>; SLOTS];

/// WireGuard by the kernel. `DeviceSpec::addresses` is not used: its sockets take every address.
pub struct Kernel<W: Wire = Netlink> {
    wire: W,
    why: String,
    /// Where the names of peers are kept between processes.
    names: PathBuf,
    stored: Vec<u8>,
    spec: Option<DeviceSpec>,
    slots: Slots,
    keys: BTreeMap<PublicKey, PrivateKey>,
    watches: Watches,
    ifindexes: [u32; SLOTS],
    /// Interfaces that have their MTU and are on: index and MTU.
    configured: BTreeMap<usize, (u32, u32)>,
    /// Interfaces that a snapshot has named.
    named: BTreeSet<u32>,
    /// The kernel takes away one allowed IP when told; not known to be untrue.
    removes_one: bool,
}

impl Kernel<Netlink> {
    /// `why` this kind of device: a sentence for people. `names`: a file in a directory that a reboot empties, as it does
    /// the kernel; without it, a new process cannot tell whose the sessions are that stand, and ends them.
    pub fn new(why: String, names: PathBuf) -> Self {
        Self::over(Netlink::default(), why, names)
    }
}

impl<W: Wire> Kernel<W> {
    pub(crate) fn over(wire: W, why: String, names: PathBuf) -> Self {
        Self {
            wire,
            why,
            names,
            stored: Vec::new(),
            spec: None,
            slots: Slots::default(),
            keys: BTreeMap::new(),
            watches: BTreeMap::new(),
            ifindexes: [0; SLOTS],
            configured: BTreeMap::new(),
            named: BTreeSet::new(),
            removes_one: true,
        }
    }

    #[cfg(test)]
    pub(crate) fn wire(&mut self) -> &mut W {
        &mut self.wire
    }

    #[cfg(test)]
    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    fn spec(&self) -> Result<&DeviceSpec, DeviceError> {
        self.spec.as_ref().ok_or_else(|| DeviceError::Gone("the WireGuard interface has not been made yet".into()))
    }

    /// Takes over what an earlier process left, or makes the first interface anew. Whether it was made.
    fn begin(&mut self, spec: &DeviceSpec) -> Result<bool, DeviceError> {
        let name = interface(&spec.name, 0);
        let there = self.wire.get(&name).map_err(|error| failed("reading", &name, &error))?.is_some();
        if there {
            if self.spec.is_none() {
                let stored = load(&self.names).filter(|stored| stored.interface == spec.name);
                self.slots = stored.map(|stored| stored.slots).unwrap_or_default();
            }
            return Ok(false);
        }
        for slot in 1..SLOTS {
            let name = interface(&spec.name, slot);
            self.wire.remove(&name).map_err(|error| failed("removing", &name, &error))?;
        }
        (self.slots, self.stored) = (Slots::default(), Vec::new());
        self.keys.clear();
        self.watches.clear();
        self.configured.clear();
        self.wire.make(&name).map_err(|error| failed("making", &name, &error))?;
        Ok(true)
    }

    fn look(&mut self) -> Result<Seen, DeviceError> {
        let spec = self.spec()?.clone();
        let mut seen: Seen = Default::default();
        for (slot, seen) in seen.iter_mut().enumerate() {
            let name = interface(&spec.name, slot);
            let payloads = self.wire.get(&name).map_err(|error| failed("reading", &name, &error))?;
            *seen = payloads.map(|payloads| {
                let mut observed = Observed::default();
                payloads.iter().for_each(|payload| observed.take(payload));
                observed
            });
            self.ifindexes[slot] = seen.as_ref().map_or(0, |seen| seen.ifindex);
        }
        if seen[0].is_none() {
            return Err(DeviceError::Gone(format!("the WireGuard interface {} is gone: who removed it?", spec.name)));
        }
        Ok(seen)
    }

    /// The device and what is known of it agree afterwards, but for what the kernel refuses: that is logged, and tried again
    /// with the next look.
    fn reconcile(&mut self, seen: &mut Seen) {
        let mut ops = Vec::new();
        self.slots.absorb(seen, &mut ops);
        for (slot, seen) in seen.iter_mut().enumerate() {
            let private = seen.as_mut().and_then(|seen| seen.private.take());
            if let (Some(identity), Some(private)) = (self.slots.identity(slot), private) {
                self.keys.entry(identity).or_insert(private);
            }
        }
        self.watch(seen);
        let (now, watches) = (self.wire.now().steady, &self.watches);
        let confirmed = |slot, key| watches.get(&(slot, key)).is_some_and(|watch| watch.confirmed(now));
        self.slots.settle(confirmed, at_rest(watches, now), &mut ops);
        let told = self.try_next(&mut ops);
        if let Err(error) = self.run(ops) {
            tracing::warn!(%error, "WireGuard interfaces are not as they should be");
        }
        let wall = self.wire.now().wall;
        for at in told {
            self.watches.entry(at).or_default().told(wall);
        }
    }

    fn watch(&mut self, seen: &Seen) {
        let now = self.wire.now();
        let places: BTreeSet<(usize, PublicKey)> = self.slots.peers().values().flat_map(PeerState::places).collect();
        self.watches.retain(|at, _| places.contains(at));
        for (slot, key) in places {
            if let Some(peer) = seen[slot].as_ref().and_then(|seen| seen.peers.get(key.as_bytes())) {
                self.watches.entry((slot, key)).or_default().look(now.steady, now.wall, peer);
            }
        }
    }

    /// Whose endpoints are told with `ops`.
    fn try_next(&mut self, ops: &mut Vec<Op>) -> Vec<(usize, PublicKey)> {
        let now = self.wire.now().steady;
        let mut in_vain: Vec<(PeerName, Link, u32)> = Vec::new();
        let mut told = Vec::new();
        for (name, state) in self.slots.peers() {
            for (link, place) in state.links.iter().filter_map(|(link, place)| Some((link, (*place)?))) {
                if let Some(watch) = self.watches.get_mut(&(place.slot, link.remote))
                    && watch.in_vain(now)
                {
                    in_vain.push((name.clone(), *link, watch.tries));
                    told.push((place.slot, link.remote));
                }
            }
        }
        for (name, link, tries) in in_vain {
            self.slots.try_next(&name, link, tries, ops);
        }
        told
    }

    fn run(&mut self, ops: Vec<Op>) -> Result<(), DeviceError> {
        let mut queues: [Vec<PeerSet>; SLOTS] = Default::default();
        for op in ops {
            match op {
                Op::Set { slot, peer } => {
                    let queue = &mut queues[slot];
                    // Prefixes of one peer come in long rows.
                    match queue.last_mut().filter(|last| is_row(last, &peer)) {
                        Some(last) => last.allowed.extend(peer.allowed),
                        None => queue.push(peer),
                    }
                }
                Op::Open { slot, identity } => {
                    self.flush(slot, std::mem::take(&mut queues[slot]))?;
                    self.open(slot, identity)?;
                }
                Op::Close { slot } => {
                    // Whatever was to be done there is done with it.
                    queues[slot].clear();
                    self.close(slot)?;
                }
            }
        }
        for (slot, queue) in queues.into_iter().enumerate() {
            self.flush(slot, queue)?;
        }
        self.store();
        Ok(())
    }

    fn flush(&mut self, slot: usize, peers: Vec<PeerSet>) -> Result<(), DeviceError> {
        if peers.is_empty() {
            return Ok(());
        }
        let removes = peers.iter().any(|peer| peer.allowed.iter().any(|allowed| allowed.remove));
        if !removes {
            return self.tell(slot, &DeviceSet::default(), &peers);
        }
        if self.removes_one {
            match self.send(slot, &DeviceSet::default(), &peers) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    tracing::debug!("this kernel cannot remove one allowed IP; going by a peer that is nobody");
                    self.removes_one = false;
                }
                other => return other.map_err(|error| failed("setting peers of", &self.name(slot), &error)),
            }
        }
        // What the refused message did is done again, to the same end.
        self.tell(slot, &DeviceSet::default(), &encode::by_stealing(peers))
    }

    fn open(&mut self, slot: usize, identity: PublicKey) -> Result<(), DeviceError> {
        let spec = self.spec()?.clone();
        let name = interface(&spec.name, slot);
        let Some(key) = self.keys.get(&identity).cloned() else {
            return Err(DeviceError::Refused { error: format!("there is no private key of {identity}"), applied: 0 });
        };
        if slot > 0 {
            self.wire.make(&name).map_err(|error| failed("making", &name, &error))?;
        }
        let device = DeviceSet {
            key: Some(KeySet::Private(&key)),
            port: Some(port(&spec, slot)?),
            mark: Some(spec.mark),
            clear: true,
        };
        self.tell(slot, &device, &[])
    }

    fn close(&mut self, slot: usize) -> Result<(), DeviceError> {
        let name = self.name(slot);
        self.watches.retain(|(on, _), _| *on != slot);
        if slot == 0 {
            let device = DeviceSet { key: Some(KeySet::Remove), clear: true, ..DeviceSet::default() };
            return self.tell(slot, &device, &[]);
        }
        self.configured.remove(&slot);
        self.ifindexes[slot] = 0;
        self.wire.remove(&name).map_err(|error| failed("removing", &name, &error))
    }

    fn tell(&mut self, slot: usize, device: &DeviceSet<'_>, peers: &[PeerSet]) -> Result<(), DeviceError> {
        self.send(slot, device, peers).map_err(|error| failed("setting", &self.name(slot), &error))
    }

    fn send(&mut self, slot: usize, device: &DeviceSet<'_>, peers: &[PeerSet]) -> io::Result<()> {
        for payload in encode::set(&self.name(slot), device, peers) {
            self.wire.set(&payload)?;
        }
        Ok(())
    }

    fn name(&self, slot: usize) -> String {
        self.spec.as_ref().map(|spec| interface(&spec.name, slot)).unwrap_or_default()
    }

    /// Port, mark and MTU of the interfaces that are there.
    fn align(&mut self, seen: &Seen) -> Result<(), DeviceError> {
        let spec = self.spec()?.clone();
        for (slot, seen) in seen.iter().enumerate() {
            let Some(seen) = seen.as_ref().filter(|_| slot == 0 || self.slots.identity(slot).is_some()) else {
                continue;
            };
            let wanted = port(&spec, slot)?;
            if (seen.port, seen.mark) != (wanted, spec.mark) {
                let device = DeviceSet { port: Some(wanted), mark: Some(spec.mark), ..DeviceSet::default() };
                self.tell(slot, &device, &[])?;
            }
            // Another is switched on when it was named, so that the datapath is there before its first packet.
            let may = slot == 0 || self.named.contains(&seen.ifindex);
            if may && self.configured.get(&slot) != Some(&(seen.ifindex, spec.mtu)) {
                let done = self.switch_on(slot, seen.ifindex, &spec);
                match done {
                    Err(error) if slot > 0 => tracing::warn!(%error, "links of a rotation wait"),
                    other => other?,
                }
            }
        }
        Ok(())
    }

    fn switch_on(&mut self, slot: usize, ifindex: u32, spec: &DeviceSpec) -> Result<(), DeviceError> {
        let (name, port) = (interface(&spec.name, slot), port(spec, slot)?);
        let doing = format!("switching on (UDP port {port} must be free)");
        self.wire.configure(&name, spec.mtu, &spec.name).map_err(|error| failed(&doing, &name, &error))?;
        let before = self.configured.insert(slot, (ifindex, spec.mtu));
        if slot == 0 || before.is_some_and(|(before, _)| before == ifindex) {
            return Ok(());
        }
        let mut ops = Vec::new();
        self.slots.on(slot, &mut ops);
        self.run(ops)
    }

    /// Names of peers, beside the kernel, which knows none. A file that cannot be written costs handshakes after a restart.
    fn store(&mut self) {
        let stored = Stored { interface: self.name(0), slots: &self.slots };
        let stored = serde_json::to_vec(&stored).unwrap_or_default();
        if stored == self.stored {
            return;
        }
        let new = self.names.with_extension("new");
        let directory = self.names.parent().map_or(Ok(()), std::fs::create_dir_all);
        match directory.and_then(|()| std::fs::write(&new, &stored)).and_then(|()| std::fs::rename(&new, &self.names)) {
            Ok(()) => self.stored = stored,
            Err(error) => tracing::warn!(path = %self.names.display(), %error, "names of WireGuard peers are not kept"),
        }
    }

    fn link_stats(&self, state: &PeerState, now: Duration) -> Vec<(Link, LinkStats)> {
        let stats = |slot: usize, link: &Link| {
            self.watches.get(&(slot, link.remote)).map(|watch| watch.stats(now)).unwrap_or_default()
        };
        let of = |(link, place): (&Link, &Option<_>)| {
            let Some(place): Option<crate::slots::Place> = *place else { return (*link, LinkStats::default()) };
            let here = stats(place.slot, link);
            // On its way home: what the old interface says counts until the new one has a session.
            let old = place.leaving.map(|(slot, _)| stats(slot, link)).filter(|_| !here.confirmed);
            (*link, old.unwrap_or(here))
        };
        state.links.iter().map(of).collect()
    }
}

impl<W: Wire> Device for Kernel<W> {
    fn ports(&self) -> u16 {
        u16::try_from(SLOTS).unwrap_or(u16::MAX)
    }

    fn describe(&self) -> String {
        format!("kernel ({})", self.why)
    }

    fn ensure(&mut self, spec: &DeviceSpec) -> Result<Ensured, DeviceError> {
        crate::wire::name(&spec.name).map_err(|error| refused(error.to_string()))?;
        port(spec, SLOTS - 1)?;
        if self.spec.as_ref().is_some_and(|old| old.name != spec.name) {
            self.delete()?;
        }
        let fresh = self.begin(spec)?;
        self.spec = Some(spec.clone());
        let mut seen = self.look()?;
        self.reconcile(&mut seen);
        self.align(&seen)?;
        Ok(Ensured { ifindex: self.ifindexes[0], fresh })
    }

    /// Of changes that the kernel refuses, `applied` counts none, though some may be done; the next snapshot tells.
    fn apply(&mut self, changes: Vec<Change>) -> Result<(), DeviceError> {
        self.spec()?;
        let now = self.wire.now().steady;
        let mut ops = Vec::new();
        let mut unfit = None;
        for (applied, change) in changes.into_iter().enumerate() {
            if let Change::AddLink { peer, link } = &change
                && let Some(place) = self.slots.peers().get(peer).and_then(|state| *state.links.get(link)?)
                && self.watches.get(&(place.slot, link.remote)).is_some_and(|watch| watch.confirmed(now))
            {
                continue;
            }
            if let Err(error) = self.slots.change(&change, &mut ops) {
                unfit = Some(DeviceError::Refused { error: error.to_string(), applied });
                break;
            }
            match change {
                Change::AddIdentity { private } => {
                    self.keys.insert(private.public(), private);
                }
                Change::RemoveIdentity { public } => {
                    self.keys.remove(&public);
                }
                _ => {}
            }
        }
        self.slots.tidy(at_rest(&self.watches, now), &mut ops);
        self.run(ops)?;
        unfit.map_or(Ok(()), Err)
    }

    fn snapshot(&mut self) -> Result<Snapshot, DeviceError> {
        let mut seen = self.look()?;
        self.reconcile(&mut seen);
        self.slots.told();
        let now = self.wire.now().steady;
        let actual = self.slots.actual();
        let stats = self.slots.peers().iter().map(|(name, state)| {
            let told = actual.peers[name].endpoint;
            let place = state.links.get(&actual.peers[name].active).copied().flatten();
            let stats = PeerStats {
                endpoint: place.map_or(told, |place| place.at),
                // A link that waits has no interface; on the first one its packets find no peer, and are dropped.
                ifindex: self.ifindexes[self.slots.slot_of(name).unwrap_or_default()],
                links: self.link_stats(state, now),
                source_refused: 0,
            };
            (name.clone(), stats)
        });
        let stats = stats.collect();
        let interfaces: BTreeSet<u32> = self.ifindexes.into_iter().filter(|ifindex| *ifindex != 0).collect();
        self.named.clone_from(&interfaces);
        let (spec, ifindex) = (self.spec.clone(), self.ifindexes[0]);
        Ok(Snapshot { spec, ifindex, interfaces, actual, stats, ..Snapshot::default() })
    }

    fn delete(&mut self) -> Result<(), DeviceError> {
        let first = match &self.spec {
            Some(spec) => spec.name.clone(),
            // An agent that is told not to encrypt any more has made none; an earlier one has.
            None => match load(&self.names) {
                Some(stored) => stored.interface,
                None => return Err(DeviceError::Gone("no WireGuard interface of ours is known".into())),
            },
        };
        for slot in (0..SLOTS).rev() {
            let name = interface(&first, slot);
            self.wire.remove(&name).map_err(|error| failed("removing", &name, &error))?;
        }
        (self.spec, self.slots, self.stored) = (None, Slots::default(), Vec::new());
        self.keys.clear();
        self.watches.clear();
        self.configured.clear();
        // It names peers of nothing now.
        let _ = std::fs::remove_file(&self.names);
        Ok(())
    }
}

fn at_rest(watches: &Watches, now: Duration) -> impl Fn(usize, PublicKey) -> bool {
    move |slot, key| watches.get(&(slot, key)).is_none_or(|watch| watch.at_rest(now))
}

/// Updates of one peer that do nothing but add, or nothing but remove, prefixes.
fn is_row(last: &PeerSet, next: &PeerSet) -> bool {
    let bare = |peer: &PeerSet| peer.endpoint.is_none() && peer.keepalive_s.is_none();
    last.key == next.key && next.how == encode::How::Update && last.how == next.how && bare(last) && bare(next)
}

/// The name of the spec for the first; for others its number goes on: `cilium_wg0`, `cilium_wg1`.
fn interface(first: &str, slot: usize) -> String {
    if slot == 0 {
        return first.to_owned();
    }
    let stem = first.strip_suffix('0').unwrap_or(first);
    let suffix = slot.to_string();
    let kept: String = stem.chars().take(NAME_MAX - suffix.len()).collect();
    kept + &suffix
}

fn port(spec: &DeviceSpec, slot: usize) -> Result<u16, DeviceError> {
    let port = u16::try_from(slot).ok().and_then(|slot| spec.port.checked_add(slot));
    port.ok_or_else(|| refused(format!("there must be {} ports after {}, for rotation", SLOTS - 1, spec.port)))
}

fn load(names: &Path) -> Option<Stored<Slots>> {
    let read = match std::fs::read(names) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        read => read,
    };
    let stored = read.and_then(|text| Ok(serde_json::from_slice::<Stored<Slots>>(&text)?));
    let sound = stored.and_then(|stored| {
        if stored.slots.is_sound() { Ok(stored) } else { Err(io::Error::other("it names an interface that cannot be")) }
    });
    sound
        .inspect_err(|error| {
            let path = names.display();
            tracing::warn!(%path, %error, "names of WireGuard peers are lost; their sessions end");
        })
        .ok()
}

fn refused(error: String) -> DeviceError {
    DeviceError::Refused { error, applied: 0 }
}

fn failed(doing: &str, interface: &str, error: &io::Error) -> DeviceError {
    let text = match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) if doing == "reading" => {
            format!("the interface {interface} is there, and no WireGuard interface: is causeway-wireguard running?")
        }
        Some(libc::EOPNOTSUPP) => {
            format!("{doing} the interface {interface}: the kernel has no WireGuard (EOPNOTSUPP)")
        }
        Some(libc::EPERM) => format!("{doing} the interface {interface}: {error}; CAP_NET_ADMIN is needed"),
        _ => format!("{doing} the interface {interface}: {error}"),
    };
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::EOPNOTSUPP) => DeviceError::Gone(text),
        _ => refused(text),
    }
}
