//! From desired routes to the bytes that bring a peer there.
//!
//! A peer's adj-rib-out is a shared, immutable [`RouteSet`]: what the peer has been told. A [`Plan`] is the minimal way
//! from there to the desired set, already encoded and cut into [`Chunk`]s. Peers with the same [`Class`] that go the same
//! way share one plan, so that it is computed and encoded once ([`Plans`]).
//!
//! A peer that reads slowly stays at its chunk; nothing queues up behind it. When the desired set changes meanwhile, the
//! plan is dropped and a new one starts from what was sent so far, so that a slow peer skips what is out of date.
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use causeway_bgp_wire::{
    AsPath, AsSegment, Asn, Family, NextHop, PathAttributes, Prefix, SegmentKind, SessionContext, pack,
};

use crate::config::{RouteAttrs, RouteSet};

/// Prefixes in one call of the packer: some 80 KB of IPv4 or 280 KB of IPv6, the step in which a peer advances.
const CHUNK_PREFIXES: usize = 16_384;
/// Small chunks are joined until they are this long, so that a thousand attribute sets are not a thousand writes.
const CHUNK_OCTETS: usize = 64 * 1024;
/// LOCAL_PREF where none is asked for, as everybody defaults it.
const DEFAULT_LOCAL_PREF: u32 = 100;
/// Plans kept for sharing; peers of one speaker rarely go more different ways at once. The oldest is dropped: then a
/// plan is computed twice.
const SHARED_PLANS: usize = 16;

/// Everything beside the routes that decides the bytes of an UPDATE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) context: SessionContext,
    pub(crate) local_asn: Asn,
    pub(crate) external: bool,
    /// Families that are advertised, each with its next hop. At most the two unicast ones.
    pub(crate) families: Vec<(Family, NextHop)>,
}

impl Class {
    pub(crate) fn next_hop(&self, family: Family) -> Option<NextHop> {
        self.families.iter().find(|(of, _)| *of == family).map(|(_, next_hop)| *next_hop)
    }

    fn attributes(&self, attrs: &RouteAttrs) -> PathAttributes {
        let as_path = if self.external {
            AsPath { segments: vec![AsSegment { kind: SegmentKind::Sequence, asns: vec![self.local_asn] }] }
        } else {
            AsPath::default()
        };
        PathAttributes {
            as_path,
            med: attrs.med,
            local_pref: (!self.external).then(|| attrs.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)),
            communities: attrs.communities.iter().copied().collect(),
            large_communities: attrs.large_communities.iter().copied().collect(),
            ..PathAttributes::default()
        }
    }
}

/// Numbers per family; IPv4 first. There are two families, so this is an array and not a map.
pub(crate) type PerFamily = [u64; 2];

/// The place of `family` in [`PerFamily`].
pub(crate) fn place(family: Family) -> usize {
    usize::from(family == Family::IPV6_UNICAST)
}

/// One prefix of a plan: announced with the attributes in the plan's target, or withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    prefix: Prefix,
    announce: bool,
    /// The peer has it already.
    known: bool,
}

/// Whole messages, with the changes that they carry.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) messages: u64,
    pub(crate) announced: u64,
    pub(crate) withdrawn: u64,
    changes: Range<usize>,
}

/// The way from one route set to another.
#[derive(Debug)]
pub(crate) struct Plan {
    from: Arc<RouteSet>,
    to: Arc<RouteSet>,
    refresh: [bool; 2],
    changes: Vec<Change>,
    pub(crate) chunks: Vec<Chunk>,
    /// Prefixes that cannot be sent, and the first reason.
    pub(crate) unsendable: Option<(usize, String)>,
}

impl Plan {
    fn new(class: &Class, from: &Arc<RouteSet>, to: &Arc<RouteSet>, refresh: [bool; 2]) -> Self {
        let mut plan = Self {
            from: Arc::clone(from),
            to: Arc::clone(to),
            refresh,
            changes: Vec::new(),
            chunks: Vec::new(),
            unsendable: None,
        };
        let (withdrawn, announced) = diff(from, to, refresh, |prefix| class.next_hop(prefix.family()).is_some());
        plan.encode_withdrawals(class, &withdrawn);
        plan.encode_announcements(class, &announced);
        plan
    }

    fn encode_withdrawals(&mut self, class: &Class, withdrawn: &[Prefix]) {
        for (family, _) in &class.families {
            let prefixes: Vec<Prefix> = withdrawn.iter().copied().filter(|prefix| prefix.family() == *family).collect();
            for part in prefixes.chunks(CHUNK_PREFIXES) {
                let mut bytes = Vec::new();
                let packed = pack::withdraw(&class.context, *family, part.iter().copied(), &mut bytes);
                let changes = part.iter().map(|prefix| Change { prefix: *prefix, announce: false, known: true });
                self.push(packed.map_err(|error| error.to_string()), bytes, changes);
            }
        }
    }

    fn encode_announcements(&mut self, class: &Class, announced: &Announced<'_>) {
        for ((family, attrs), prefixes) in announced {
            let Some(next_hop) = class.next_hop(*family) else { continue };
            let attributes = class.attributes(attrs);
            for part in prefixes.chunks(CHUNK_PREFIXES) {
                let mut bytes = Vec::new();
                let these = part.iter().map(|(prefix, _)| *prefix);
                let packed = pack::announce(&class.context, *family, &attributes, next_hop, these, &mut bytes);
                let changes =
                    part.iter().map(|(prefix, known)| Change { prefix: *prefix, announce: true, known: *known });
                self.push(packed.map_err(|error| error.to_string()), bytes, changes);
            }
        }
    }

    /// Appends what the packer made to the last chunk, or to a new one when that is full.
    fn push(&mut self, packed: Result<usize, String>, bytes: Vec<u8>, changes: impl ExactSizeIterator<Item = Change>) {
        let messages = match packed {
            Ok(messages) => messages as u64,
            Err(error) => {
                let (count, _) = self.unsendable.get_or_insert((0, error));
                *count += changes.len();
                return;
            }
        };
        let start = self.changes.len();
        self.changes.extend(changes);
        let added = &self.changes[start..];
        let announced = added.iter().filter(|change| change.announce).count() as u64;
        let withdrawn = added.len() as u64 - announced;
        let chunk =
            Chunk { bytes: Arc::new(bytes), messages, announced, withdrawn, changes: start..self.changes.len() };
        match self.chunks.last_mut() {
            Some(last) if last.bytes.len() + chunk.bytes.len() <= CHUNK_OCTETS => last.append(&chunk),
            _ => self.chunks.push(chunk),
        }
    }

    /// What the peer has been told after the first `sent` chunks.
    fn reached(&self, sent: usize) -> Arc<RouteSet> {
        if sent >= self.chunks.len() {
            return Arc::clone(&self.to);
        }
        if sent == 0 {
            return Arc::clone(&self.from);
        }
        let mut routes = RouteSet::clone(&self.from);
        let upto = self.chunks[sent - 1].changes.end;
        for change in &self.changes[..upto] {
            match self.to.get(&change.prefix) {
                Some(attrs) if change.announce => routes.insert(change.prefix, attrs.clone()),
                _ => routes.remove(&change.prefix),
            };
        }
        Arc::new(routes)
    }

    fn is_for(&self, from: &Arc<RouteSet>, to: &Arc<RouteSet>, refresh: [bool; 2]) -> bool {
        Arc::ptr_eq(&self.from, from) && Arc::ptr_eq(&self.to, to) && self.refresh == refresh
    }
}

impl Chunk {
    fn append(&mut self, other: &Self) {
        // Nobody else holds the bytes while the plan is being made, so this appends in place.
        Arc::make_mut(&mut self.bytes).extend_from_slice(&other.bytes);
        self.messages += other.messages;
        self.announced += other.announced;
        self.withdrawn += other.withdrawn;
        self.changes.end = other.changes.end;
    }
}

/// Announcements by family and attributes; `true` beside a prefix that the peer has already.
type Announced<'a> = BTreeMap<(Family, &'a RouteAttrs), Vec<(Prefix, bool)>>;

/// What is in `from` only, and what is new or different in `to`; in families to be refreshed, all of `to`.
fn diff<'a>(
    from: &RouteSet,
    to: &'a RouteSet,
    refresh: [bool; 2],
    is_sent: impl Fn(&Prefix) -> bool,
) -> (Vec<Prefix>, Announced<'a>) {
    let mut withdrawn = Vec::new();
    let mut announced: Announced<'a> = BTreeMap::new();
    let mut old = from.iter().peekable();
    let mut new = to.iter().peekable();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((left, _)), Some((right, _))) => left.cmp(right),
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        match (before, after) {
            (Some((prefix, _)), None) if is_sent(prefix) => withdrawn.push(*prefix),
            (before, Some((prefix, attrs))) if is_sent(prefix) => {
                let unchanged = before.is_some_and(|(_, old)| old == attrs);
                if !unchanged || refresh[place(prefix.family())] {
                    let group = announced.entry((prefix.family(), attrs)).or_default();
                    group.push((*prefix, before.is_some()));
                }
            }
            _ => {}
        }
    }
    (withdrawn, announced)
}

/// Recently made plans, for peers that go the same way.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    recent: Vec<(Arc<Class>, Arc<Plan>)>,
    /// One empty set for all, so that fresh peers start from the same place.
    nothing: Arc<RouteSet>,
}

impl Plans {
    /// What a peer has been told at the start of its session.
    pub(crate) fn nothing(&self) -> Arc<RouteSet> {
        Arc::clone(&self.nothing)
    }

    fn get(&mut self, class: &Arc<Class>, from: &Arc<RouteSet>, to: &Arc<RouteSet>, refresh: [bool; 2]) -> Arc<Plan> {
        let same_way = |(of, plan): &&(Arc<Class>, Arc<Plan>)| **of == **class && plan.is_for(from, to, refresh);
        if let Some((_, plan)) = self.recent.iter().find(same_way) {
            return Arc::clone(plan);
        }
        let plan = Arc::new(Plan::new(class, from, to, refresh));
        if self.recent.len() == SHARED_PLANS {
            self.recent.remove(0);
        }
        self.recent.push((Arc::clone(class), Arc::clone(&plan)));
        plan
    }

    /// Forgets plans that no peer follows, with the route sets they hold.
    pub(crate) fn trim(&mut self) {
        self.recent.retain(|(_, plan)| Arc::strong_count(plan) > 1);
    }
}

/// The adj-rib-out of one established session.
#[derive(Debug)]
pub(crate) struct AdjOut {
    class: Arc<Class>,
    /// What the peer has been told, when no plan is under way.
    told: Arc<RouteSet>,
    told_count: PerFamily,
    /// The way that is being gone, and how many of its chunks are on their way.
    plan: Option<(Arc<Plan>, usize)>,
    refresh: [bool; 2],
    unsendable: Option<(usize, String)>,
    /// `unsendable` has been given to the log.
    reported: bool,
}

impl AdjOut {
    /// A peer that has been told nothing.
    pub(crate) fn new(class: Arc<Class>, nothing: Arc<RouteSet>) -> Self {
        Self {
            class,
            told: nothing,
            told_count: [0; 2],
            plan: None,
            refresh: [false; 2],
            unsendable: None,
            reported: true,
        }
    }

    pub(crate) fn class(&self) -> &Class {
        &self.class
    }

    /// The peer asks for all of `family` again (RFC 2918).
    pub(crate) fn refresh(&mut self, family: Family) {
        self.refresh[place(family)] = true;
        self.settle();
    }

    /// Is the peer told, or being told, exactly `desired`?
    pub(crate) fn heads_for(&self, desired: &Arc<RouteSet>) -> bool {
        match &self.plan {
            Some((plan, _)) => Arc::ptr_eq(&plan.to, desired),
            None => Arc::ptr_eq(&self.told, desired) && self.refresh == [false; 2],
        }
    }

    /// Nothing is left to be sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.plan.is_none() && self.refresh == [false; 2]
    }

    /// The next chunk on the way to `desired`; `None` when the peer is there.
    pub(crate) fn next_chunk(&mut self, desired: &Arc<RouteSet>, plans: &mut Plans) -> Option<Chunk> {
        if !self.heads_for(desired) {
            self.settle();
            let plan = plans.get(&self.class, &self.told, desired, self.refresh);
            self.reported = plan.unsendable.is_none();
            self.unsendable.clone_from(&plan.unsendable);
            self.plan = Some((plan, 0));
        }
        let (plan, sent) = self.plan.as_mut()?;
        let Some(chunk) = plan.chunks.get(*sent).cloned() else {
            self.refresh = [false; 2];
            self.settle();
            return None;
        };
        *sent += 1;
        for change in &plan.changes[chunk.changes.clone()] {
            let count = &mut self.told_count[place(change.prefix.family())];
            match (change.announce, change.known) {
                (true, false) => *count += 1,
                (false, true) => *count = count.saturating_sub(1),
                (true, true) | (false, false) => {}
            }
        }
        if *sent == plan.chunks.len() {
            self.refresh = [false; 2];
            self.settle();
        }
        Some(chunk)
    }

    /// Leaves the plan where it is.
    fn settle(&mut self) {
        if let Some((plan, sent)) = self.plan.take() {
            self.told = plan.reached(sent);
        }
    }

    /// What the peer has been told; its families only.
    pub(crate) fn routes(&self) -> RouteSet {
        let told = match &self.plan {
            Some((plan, sent)) => plan.reached(*sent),
            None => Arc::clone(&self.told),
        };
        let sent = |prefix: &Prefix| self.class.next_hop(prefix.family()).is_some();
        told.iter().filter(|(prefix, _)| sent(prefix)).map(|(prefix, attrs)| (*prefix, attrs.clone())).collect()
    }

    pub(crate) fn counts(&self) -> PerFamily {
        self.told_count
    }

    /// Changes of the current plan that are not on their way yet.
    pub(crate) fn pending(&self) -> PerFamily {
        let mut pending = [0; 2];
        if let Some((plan, sent)) = &self.plan {
            let from = plan.chunks.get(*sent).map_or(plan.changes.len(), |chunk| chunk.changes.start);
            for change in &plan.changes[from..] {
                pending[place(change.prefix.family())] += 1;
            }
        }
        pending
    }

    /// The same as [`Self::unsendable`], once for each plan.
    pub(crate) fn new_trouble(&mut self) -> Option<(usize, String)> {
        if std::mem::replace(&mut self.reported, true) { None } else { self.unsendable.clone() }
    }

    /// Prefixes that the last plan could not encode, and why.
    pub(crate) fn unsendable(&self) -> Option<&(usize, String)> {
        self.unsendable.as_ref()
    }
}
