//! Nodes that rotate their keys in virtual time, with late news, silent APIs and agents that stop and start.
//!
//! Each node has a [`Rotation`], a device that does what [`plan`] says, and its own, maybe old, view of what the others
//! have announced. The network loses nothing; so no packet may be lost: the link that a node sends on to another is at all
//! times one that the other has. In the end everybody has one key and uses no other.
//!
//! There are two kinds of runs. In one everybody talks all the time, and agents are down for hours and come back to an API
//! that is silent. In the other pairs may have nothing to say for long, and agents are back, with an API, within
//! [`SHORT_DOWN_S`]. Both at once is not promised: when an agent stops in the second between getting a link for its device
//! and sending on it, is away for longer than Reject-After-Time, and its node says nothing to the peer all that while, then
//! nobody can see that the node would go on with the old key.
//!
//! `CAUSEWAY_SIM_RUNS` sets the number of runs, `CAUSEWAY_SIM_SEED` the first seed, `CAUSEWAY_SIM_TRACE=1` prints all that
//! happens.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use causeway_encryption_plan::{
    Announcement, Change, Desired, Input, Link, Output, OwnKeys, Peer, PeerName, PeerView, Phase, PrivateKey,
    RemoteKeys, Rotation, RotationConfig, Start, active_link, cold_links, links, plan,
};
use model::Device;

/// Seconds; all times of the simulation are such.
type Time = u64;

const HOUR: Time = 3600;
/// Commands and faults come in this time, then everything settles.
const TROUBLE_S: Time = 24 * HOUR;
/// Enough for a hold of a day and what comes after it.
const END_S: Time = TROUBLE_S + 40 * HOUR;
const REJECT_AFTER_S: Time = 180;
/// How often an agent asks for handshakes on links that should be warm and are not.
const WARM_AGAIN_S: Time = 120;
/// The longest an API is silent.
const OUTAGE_S: Time = 5 * HOUR;
/// The least that it speaks in between: more than an agent is down and news is late.
const UPTIME_S: Time = 900;
const NEWS_LATE_S: Time = 30;
const SHORT_DOWN_S: Time = 170;
const LONG_DOWN_S: Time = 3 * HOUR;

/// Steele, Lea, Flood 2014: good enough, and the same everywhere.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    fn pick<const N: usize>(&mut self, of: [Time; N]) -> Time {
        of[self.index(N)]
    }

    fn key(&mut self) -> PrivateKey {
        let mut bytes = [0; 32];
        bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&self.next().to_le_bytes()));
        PrivateKey::from_random(bytes)
    }
}

/// One end of a session.
#[derive(Debug, Clone, Copy)]
struct Session {
    confirmed: bool,
    /// When it last carried anything.
    carried: Time,
}

/// What an agent forgets when it stops.
struct Agent {
    rotation: Rotation,
    /// Whether the API has answered since it started; until then it knows of no peers.
    synced: bool,
    warmed: Time,
}

struct Node {
    agent: Option<Agent>,
    disk: OwnKeys,
    device: Device,
    sessions: BTreeMap<Link, Session>,
    /// What the API has of it, and since when.
    announced: Vec<(Time, Announcement)>,
    /// Which of the others' announcements it has seen.
    seen: Vec<Option<usize>>,
    /// The API is silent to it until then; and the next time that it falls silent.
    outage_end: Time,
    next_outage: Time,
    agent_back: Time,
}

/// From one node to another.
#[derive(Default, Clone, Copy)]
struct Flow {
    /// The other has had the sender's link once: from now on nothing may be lost.
    contact: bool,
    busy: bool,
    /// When it falls silent, or speaks again; 0: never.
    toggles: Time,
}

struct Mesh {
    seed: u64,
    trace: bool,
    names: Vec<PeerName>,
    rng: SplitMix64,
    now: Time,
    nodes: Vec<Node>,
    flows: Vec<Vec<Flow>>,
    /// Ends of sessions that the initiator's first packet will confirm.
    confirming: Vec<(usize, Link)>,
    /// Everybody talks all the time, and agents may be away for long.
    talkative: bool,
    next_command: Time,
    rotations: usize,
}

fn back(link: Link) -> Link {
    Link { own: link.remote, remote: link.own }
}

fn at(time: Time) -> Duration {
    Duration::from_secs(time)
}

fn config() -> RotationConfig {
    RotationConfig { interval: None, ..RotationConfig::default() }
}

impl Mesh {
    fn new(seed: u64) -> Self {
        let mut rng = SplitMix64(seed);
        let count = 2 + rng.index(4);
        let talkative = rng.one_in(3);
        let node = |rng: &mut SplitMix64| {
            let disk = OwnKeys::first(rng.key(), at(0));
            let rotation = Rotation::new(at(0), disk.clone(), config());
            Node {
                agent: Some(Agent { rotation, synced: false, warmed: 0 }),
                disk,
                device: Device::default(),
                sessions: BTreeMap::new(),
                announced: Vec::new(),
                seen: vec![None; count],
                outage_end: 0,
                next_outage: 60 + rng.below(8 * HOUR),
                agent_back: 0,
            }
        };
        let nodes = (0..count).map(|_| node(&mut rng)).collect();
        let mut flow = |_| Flow {
            contact: false,
            busy: talkative || rng.one_in(2),
            toggles: if talkative || !rng.one_in(3) { 0 } else { 1 + rng.below(HOUR) },
        };
        let flows = (0..count).map(|_| (0..count).map(&mut flow).collect()).collect();
        let next_command = 60 + rng.below(HOUR);
        let names = (0..count).map(|node| PeerName::new("c", &node.to_string())).collect();
        let trace = number("CAUSEWAY_SIM_TRACE", 0) != 0;
        Self {
            seed,
            trace,
            names,
            rng,
            now: 0,
            nodes,
            flows,
            confirming: Vec::new(),
            talkative,
            next_command,
            rotations: 0,
        }
    }

    fn run(mut self) -> usize {
        while self.now < END_S {
            let again = self.step();
            self.now = if again { self.now + 1 } else { self.next_event() };
        }
        self.check_end();
        self.rotations
    }

    /// All that happens at this moment; whether more may happen in a second.
    fn step(&mut self) -> bool {
        let mut again = self.confirm();
        self.carry();
        self.expire();
        if self.now < TROUBLE_S {
            again |= self.command();
        }
        let count = self.nodes.len();
        let first = self.rng.index(count);
        // In another order each time.
        for node in (0..count).map(|turn| (first + turn) % count) {
            again |= self.api(node);
            again |= self.agent_life(node);
            // Agents come by every second, but not at the same moment.
            if self.rng.one_in(4) {
                again = true;
            } else if self.agent(node) {
                again = true;
                self.check();
            }
        }
        again
    }

    fn confirm(&mut self) -> bool {
        let confirming = std::mem::take(&mut self.confirming);
        for (node, link) in &confirming {
            if let Some(session) = self.nodes[*node].sessions.get_mut(link) {
                session.confirmed = true;
            }
        }
        !confirming.is_empty()
    }

    /// What has been sent since the last step, on the links that were active all the while.
    fn carry(&mut self) {
        for (from, to) in self.pairs() {
            let flow = &mut self.flows[from][to];
            if flow.toggles != 0 && self.now >= flow.toggles {
                flow.busy = !flow.busy;
                flow.toggles = self.now + 1 + self.rng.below(4 * HOUR);
            }
            let Some(link) = self.active(from, to).filter(|_| self.flows[from][to].busy) else { continue };
            if !self.nodes[from].sessions.get(&link).is_some_and(|session| session.confirmed) {
                self.handshake(from, to, link);
                continue;
            }
            let now = self.now;
            self.nodes[from].sessions.entry(link).and_modify(|session| session.carried = now);
            let met = self.nodes[to].sessions.get_mut(&back(link));
            let met = met.unwrap_or_else(|| panic!("seed {}, {now}: {from} -> {to}: no session there", self.seed));
            *met = Session { confirmed: true, carried: now };
        }
    }

    fn expire(&mut self) {
        for node in &mut self.nodes {
            node.sessions.retain(|_, session| self.now < session.carried + REJECT_AFTER_S);
        }
    }

    /// Succeeds when the other end has the link too; that end waits for the first packet.
    fn handshake(&mut self, from: usize, to: usize, link: Link) {
        if self.has(from, to, link) && self.has(to, from, back(link)) {
            let carried = self.now;
            self.nodes[from].sessions.insert(link, Session { confirmed: true, carried });
            let responder = self.nodes[to].sessions.entry(back(link));
            responder.or_insert(Session { confirmed: false, carried }).carried = carried;
            self.confirming.push((to, back(link)));
        }
    }

    fn command(&mut self) -> bool {
        if self.now < self.next_command {
            return false;
        }
        self.next_command = self.now + self.rng.pick([1, 30, 600, 6 * HOUR]) + self.rng.below(HOUR);
        let who = self.rng.below(3);
        let one = self.rng.index(self.nodes.len());
        for node in 0..self.nodes.len() {
            let asked = who == 0 || (who == 1 && node == one) || (who == 2 && self.rng.one_in(2));
            if let Some(agent) = self.nodes[node].agent.as_mut().filter(|_| asked) {
                self.rotations += usize::from(agent.rotation.can_start() == Start::Now);
                agent.rotation.handle(at(self.now), Input::Rotate);
            }
        }
        true
    }

    /// The API falls silent or tells what is new, in order and late.
    fn api(&mut self, node: usize) -> bool {
        if self.now >= self.nodes[node].next_outage && self.now < TROUBLE_S {
            let longest = self.rng.pick([60, 600, OUTAGE_S]);
            let silent = 1 + self.rng.below(longest);
            let end = (self.now + silent).min(TROUBLE_S);
            self.nodes[node].outage_end = end;
            self.say(node, || format!("no API until {end}"));
            self.nodes[node].next_outage = end + UPTIME_S + self.rng.below(6 * HOUR);
        }
        let mut news = false;
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            while self.news_at(node, other).is_some_and(|due| due <= self.now) {
                let seen = self.nodes[node].seen[other].map_or(0, |seen| seen + 1);
                self.nodes[node].seen[other] = Some(seen);
                self.say(node, || format!("{other} says {:?}", self.nodes[other].announced[seen].1));
                news = true;
            }
        }
        news
    }

    /// When a node will hear the next announcement of another.
    fn news_at(&self, node: usize, other: usize) -> Option<Time> {
        let next = self.nodes[node].seen[other].map_or(0, |seen| seen + 1);
        let (since, _) = self.nodes[other].announced.get(next)?;
        let mut late = SplitMix64(self.seed ^ ((node as u64) << 48 | (other as u64) << 32 | next as u64));
        Some((*since).max(self.nodes[node].outage_end) + late.below(NEWS_LATE_S))
    }

    /// Agents stop and start.
    fn agent_life(&mut self, node: usize) -> bool {
        if self.nodes[node].agent.is_some() {
            if self.may_stop(node) && self.rng.one_in(100) {
                let longest = if self.talkative { LONG_DOWN_S } else { SHORT_DOWN_S };
                self.nodes[node].agent_back = self.now + self.rng.below(longest);
                self.nodes[node].agent = None;
                self.say(node, || format!("agent is down until {}", self.nodes[node].agent_back));
            }
        } else if self.now >= self.nodes[node].agent_back {
            let rotation = Rotation::new(at(self.now), self.nodes[node].disk.clone(), config());
            self.say(node, || format!("agent is back, {:?}", rotation.phase()));
            self.nodes[node].agent = Some(Agent { rotation, synced: false, warmed: self.now });
            return true;
        }
        false
    }

    fn may_stop(&self, node: usize) -> bool {
        let Node { outage_end, next_outage, .. } = self.nodes[node];
        let finds_api = outage_end <= self.now && self.now + SHORT_DOWN_S < next_outage;
        self.now < TROUBLE_S && (self.talkative || finds_api)
    }

    /// One poll of an agent; whether anything came of it.
    fn agent(&mut self, node: usize) -> bool {
        let Some(mut agent) = self.nodes[node].agent.take() else { return false };
        let heard = self.now >= self.nodes[node].outage_end;
        agent.synced |= heard;
        let before = agent.rotation.phase();
        let input = if agent.synced { Input::Peers(self.view(node)) } else { Input::Tick };
        agent.rotation.handle(at(self.now), input);
        while let Some(output) = agent.rotation.poll_output() {
            if self.may_stop(node) && self.rng.one_in(8) {
                // It dies before it could store anything.
                self.nodes[node].agent_back = self.now + self.rng.below(SHORT_DOWN_S);
                self.say(node, || format!("agent dies before {output:?} until {}", self.nodes[node].agent_back));
                return true;
            }
            if let Output::Make { .. } = output {
                agent.rotation.handle(at(self.now), Input::Made(self.rng.key()));
            }
            self.nodes[node].disk = agent.rotation.keys().clone();
        }
        let mut changed = agent.rotation.phase() != before;
        if changed {
            self.say(node, || format!("{:?} {:?}", agent.rotation.phase(), agent.rotation.keys().publics()));
        }
        if agent.synced {
            changed |= self.reconcile(node, &mut agent);
            let said = agent.rotation.announcement();
            if heard && self.nodes[node].announced.last().is_none_or(|(_, last)| *last != said) {
                self.nodes[node].announced.push((self.now, said));
                changed = true;
            }
        }
        self.nodes[node].agent = Some(agent);
        changed
    }

    fn view(&self, node: usize) -> BTreeMap<PeerName, PeerView> {
        let node = &self.nodes[node];
        let confirmed = |link: &&Link| node.sessions.get(link).is_some_and(|session| session.confirmed);
        let view = |peer: &Peer| PeerView {
            knows_epochs: true,
            confirmed: peer.links.iter().filter(confirmed).map(|link| link.own).collect(),
        };
        node.device.actual.peers.iter().map(|(name, peer)| (name.clone(), view(peer))).collect()
    }

    /// Brings the device to what is known now.
    fn reconcile(&mut self, node: usize, agent: &mut Agent) -> bool {
        let keys = agent.rotation.keys();
        let identities = keys.iter().map(|key| (key.public, key.private.clone())).collect();
        let mut desired = Desired { identities, peers: BTreeMap::new() };
        let mut cold = Vec::new();
        for other in 0..self.nodes.len() {
            let Some(seen) = self.nodes[node].seen[other] else { continue };
            let said = &self.nodes[other].announced[seen].1;
            let all = links(&keys.publics(), &RemoteKeys::from(said));
            let fallback = Link { own: keys.current.public, remote: said.current };
            let sessions = &self.nodes[node].sessions;
            let confirmed = |link: &Link| sessions.get(link).is_some_and(|session| session.confirmed);
            let active = active_link(&all, self.active(node, other), fallback, confirmed);
            cold.extend(cold_links(&all, active).map(|link| (other, *link)));
            let peer = Peer {
                endpoint: SocketAddr::from(([192, 0, 2, 1], 51871)),
                keepalive_s: None,
                links: all.into_iter().collect(),
                active,
                prefixes: BTreeSet::new(),
            };
            desired.peers.insert(self.names[other].clone(), peer);
        }
        let changes = plan(&desired, &self.nodes[node].device.actual);
        for change in &changes {
            self.apply(node, change);
        }
        if changes.is_empty() && !cold.is_empty() && self.now >= agent.warmed + WARM_AGAIN_S {
            agent.warmed = self.now;
            for (other, link) in cold {
                self.apply(node, &Change::AddLink { peer: self.names[other].clone(), link });
            }
            return true;
        }
        !changes.is_empty()
    }

    fn apply(&mut self, node: usize, change: &Change) {
        self.say(node, || format!("{change:?}"));
        let device = &mut self.nodes[node].device;
        device.apply(change).unwrap_or_else(|error| panic!("seed {}, {}: {error}", self.seed, self.now));
        if matches!(change, Change::RemoveLink { .. } | Change::RemovePeer { .. }) {
            let kept: BTreeSet<Link> = device.links().copied().collect();
            self.nodes[node].sessions.retain(|link, _| kept.contains(link));
        }
        if let Change::AddPeer { peer, link, .. } | Change::AddLink { peer, link } = change
            && !self.nodes[node].sessions.contains_key(link)
        {
            let other = (0..self.nodes.len()).find(|other| self.names[*other] == *peer).unwrap();
            self.handshake(node, other, *link);
        }
    }

    /// One line of the trace, keys by their first characters.
    fn say(&self, node: usize, what: impl FnOnce() -> String) {
        if self.trace {
            let what = what();
            let mut parts = what.split("PublicKey(");
            let start = parts.next().unwrap_or_default();
            let rest = parts.map(|part| format!("{}{}", &part[..4], &part[45..])).collect::<String>();
            println!("{} node {node}: {start}{rest}", self.now);
        }
    }

    fn active(&self, from: usize, to: usize) -> Option<Link> {
        self.nodes[from].device.actual.peers.get(&self.names[to]).map(|peer| peer.active)
    }

    fn has(&self, from: usize, to: usize, link: Link) -> bool {
        self.nodes[from].device.actual.peers.get(&self.names[to]).is_some_and(|peer| peer.links.contains(&link))
    }

    fn pairs(&self) -> Vec<(usize, usize)> {
        let count = self.nodes.len();
        (0..count).flat_map(|from| (0..count).map(move |to| (from, to))).filter(|(from, to)| from != to).collect()
    }

    /// Nothing that is sent now is lost.
    fn check(&mut self) {
        for (from, to) in self.pairs() {
            let Some(link) = self.active(from, to) else { continue };
            let known = self.has(to, from, back(link));
            let flow = &mut self.flows[from][to];
            flow.contact |= known;
            assert!(known || !flow.contact, "seed {}, {}: {from} -> {to}: unknown {link:?}", self.seed, self.now);
        }
    }

    fn next_event(&self) -> Time {
        let mut next = END_S;
        let mut come = |time: Time| next = if time > self.now { next.min(time) } else { next };
        come(self.next_command);
        for (number, node) in self.nodes.iter().enumerate() {
            node.sessions.values().for_each(|session| come(session.carried + REJECT_AFTER_S));
            [node.outage_end, node.next_outage, node.agent_back].into_iter().for_each(&mut come);
            (0..self.nodes.len()).filter_map(|other| self.news_at(number, other)).for_each(&mut come);
            self.flows[number].iter().for_each(|flow| come(flow.toggles));
            if let Some(agent) = &node.agent {
                agent.rotation.deadline().into_iter().for_each(|deadline| come(deadline.as_secs()));
                if agent.rotation.phase() != Phase::Steady || node.device.links().count() > self.nodes.len() - 1 {
                    come(agent.warmed + WARM_AGAIN_S);
                }
            }
        }
        next
    }

    fn check_end(&self) {
        let seed = self.seed;
        for (number, node) in self.nodes.iter().enumerate() {
            let rotation = &node.agent.as_ref().unwrap().rotation;
            assert_eq!((rotation.phase(), rotation.keys().iter().count()), (Phase::Steady, 1), "seed {seed}, {number}");
            assert_eq!(node.disk, *rotation.keys(), "seed {seed}, {number}");
            assert_eq!(node.device.actual.identities.len(), 1, "seed {seed}, {number}");
        }
        for (from, to) in self.pairs() {
            let newest = Link { own: self.nodes[from].disk.current.public, remote: self.nodes[to].disk.current.public };
            let peer = &self.nodes[from].device.actual.peers[&self.names[to]];
            assert_eq!((peer.active, &peer.links), (newest, &BTreeSet::from([newest])), "seed {seed}, {from} -> {to}");
        }
    }
}

fn number(variable: &str, default: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a test takes its size from whoever runs it")]
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// Every `of`-th seed from `first`, so that the runs share the machine's cores.
fn simulate(first: u64, of: usize) {
    let seed = number("CAUSEWAY_SIM_SEED", 0);
    let mut rotations = 0;
    for run in (first..number("CAUSEWAY_SIM_RUNS", 200)).step_by(of) {
        rotations += Mesh::new(seed + run).run();
    }
    assert!(rotations > 0 || number("CAUSEWAY_SIM_RUNS", 200) <= 1, "nobody has rotated");
}

#[test]
fn nothing_is_lost_even_seeds() {
    simulate(0, 2);
}

#[test]
fn nothing_is_lost_odd_seeds() {
    simulate(1, 2);
}
