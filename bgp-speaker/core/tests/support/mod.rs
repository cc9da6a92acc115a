//! Speakers in a virtual world: a clock that jumps, links that deliver in order after some delay and can be cut, and a
//! tap that reads along what one speaker tells the other.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(unreachable_pub, reason = "shared by several test binaries")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use causeway_bgp_core::{
    Asn, ConnId, Core, CoreOptions, Endpoints, Input, InstanceConfig, LocalAddresses, Observation, Output, PeerConfig,
    PeerStatus, Prefix, RouteAttrs, RouteSet, SessionState,
};
use causeway_bgp_wire::{FrameSplitter, Message, Open, PathAttributes, SessionContext};

/// Names used by all tests.
pub const INSTANCE: &str = "i";
/// The one peer of each speaker.
pub const PEER: &str = "p";

#[allow(clippy::disallowed_methods, reason = "virtual time needs an origin")]
pub fn origin() -> Instant {
    Instant::now()
}

pub fn asn(number: u32) -> Asn {
    Asn::new(number).unwrap()
}

pub fn prefix(number: u32) -> Prefix {
    Prefix::v4(Ipv4Addr::from_bits(0x0a00_0000 + number), 32).unwrap()
}

pub fn routes(numbers: impl IntoIterator<Item = u32>) -> RouteSet {
    numbers.into_iter().map(|number| (prefix(number), RouteAttrs::default())).collect()
}

/// What the tap has understood of one direction of a connection: the routes that the listening peer has.
#[derive(Default)]
pub struct Tap {
    splitter: FrameSplitter,
    pub open: Option<Open>,
    pub context: Option<SessionContext>,
    pub rib: BTreeMap<Prefix, PathAttributes>,
    pub announced: usize,
    pub withdrawn: usize,
    /// Withdrawals of what was never announced, and announcements of what is there already with the same attributes.
    pub needless: usize,
    pub end_of_rib: usize,
    pub updates: usize,
    pub longest: usize,
    pub notification: Option<String>,
}

impl Tap {
    pub fn hear(&mut self, bytes: &[u8]) {
        self.splitter.push(bytes);
        loop {
            let context = self.context.clone().unwrap_or_else(SessionContext::before_open);
            let frame = match self.splitter.next_frame(u16::MAX) {
                Ok(Some(frame)) => frame.to_vec(),
                Ok(None) => return,
                Err(error) => panic!("a speaker sent a bad header: {error}"),
            };
            self.longest = self.longest.max(frame.len());
            let decoded = Message::decode(&frame, &context).expect("a speaker sends what can be read");
            assert!(decoded.malformed.is_empty(), "a speaker sent {:?}", decoded.malformed);
            match decoded.message {
                Message::Open(open) => self.open = Some(open),
                Message::Update(update) => {
                    self.updates += 1;
                    self.end_of_rib += usize::from(update.end_of_rib.is_some());
                    for prefix in update.withdrawn.iter().flat_map(|withdrawn| &withdrawn.prefixes) {
                        self.withdrawn += 1;
                        self.needless += usize::from(self.rib.remove(prefix).is_none());
                    }
                    for prefix in update.reach.iter().flat_map(|reach| &reach.prefixes) {
                        self.announced += 1;
                        let before = self.rib.insert(*prefix, update.attributes.clone());
                        self.needless += usize::from(before.as_ref() == Some(&update.attributes));
                    }
                }
                Message::Notification(notification) => self.notification = Some(notification.to_string()),
                Message::Keepalive | Message::RouteRefresh(_) => {}
            }
        }
    }

    /// Does the listener have exactly `routes`?
    pub fn has(&self, routes: &RouteSet) -> bool {
        self.rib.len() == routes.len()
            && self.rib.iter().zip(routes).all(|((prefix, attributes), (wanted, attrs))| {
                prefix == wanted
                    && attributes.med == attrs.med
                    && attributes.communities.iter().copied().collect::<BTreeSet<_>>() == attrs.communities
            })
    }
}

/// One end of a connection.
type End = (usize, ConnId);

struct Pipe {
    to: End,
    /// Both in the order of sending.
    in_flight: VecDeque<(Instant, Vec<u8>)>,
    /// Nothing is delivered from here on; what is in flight still is.
    closed: bool,
}

/// A host with a speaker.
pub struct Host {
    pub core: Core,
    pub address: IpAddr,
    /// Connection attempts that have not been answered.
    attempts: BTreeMap<ConnId, Instant>,
    /// What each connection has been told so far; the newest session's tap is what counts.
    pub taps: BTreeMap<ConnId, Tap>,
    pub open: BTreeSet<ConnId>,
    closed: BTreeSet<ConnId>,
    pub moves: Vec<(Instant, SessionState, SessionState)>,
    down: bool,
}

/// Two hosts and the wire between them.
pub struct World {
    pub now: Instant,
    pub hosts: [Host; 2],
    pipes: BTreeMap<End, Pipe>,
    accepting: BTreeMap<u64, ConnId>,
    next_token: u64,
    random: u64,
    /// Connection attempts fail while this is set.
    pub partitioned: bool,
    /// Bytes are not taken from the speaker of host 0 while this is set.
    pub stalled: bool,
    stalled_writes: VecDeque<(ConnId, usize)>,
    /// Steps since time moved.
    spins: u32,
}

pub fn config(local: u32, id: u8, peer: Option<u32>, port: Option<u16>) -> InstanceConfig {
    let other = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 3 - id));
    InstanceConfig {
        name: INSTANCE.to_owned(),
        local_asn: asn(local),
        router_id: Ipv4Addr::new(10, 0, 0, id),
        local_port: port,
        peers: vec![PeerConfig {
            peer_asn: peer.map(asn),
            hold_time_s: 9,
            keepalive_s: 3,
            connect_retry_s: 5,
            graceful_restart_s: Some(60),
            ..PeerConfig::new(PEER, other)
        }],
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let now = origin();
        let host = |number: u8| Host {
            core: Core::new(now, CoreOptions { seed: seed ^ u64::from(number), ..CoreOptions::default() }),
            address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)),
            attempts: BTreeMap::new(),
            taps: BTreeMap::new(),
            open: BTreeSet::new(),
            closed: BTreeSet::new(),
            moves: Vec::new(),
            down: false,
        };
        Self {
            now,
            hosts: [host(1), host(2)],
            pipes: BTreeMap::new(),
            accepting: BTreeMap::new(),
            next_token: 0,
            random: seed | 1,
            partitioned: false,
            stalled: false,
            stalled_writes: VecDeque::new(),
            spins: 0,
        }
    }

    /// xorshift: the world's own dice.
    pub fn dice(&mut self, sides: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % sides
    }

    pub fn feed(&mut self, host: usize, input: Input) {
        self.hosts[host].core.handle(self.now, input);
        self.drain(host);
    }

    pub fn tell(&mut self, host: usize, routes: &RouteSet) {
        let routes = Arc::new(routes.clone());
        self.feed(host, Input::SetRoutes { instance: INSTANCE.to_owned(), peer: PEER.to_owned(), routes });
    }

    pub fn status(&self, host: usize) -> PeerStatus {
        let status = self.hosts[host].core.status(self.now, SystemTime::UNIX_EPOCH);
        status.peer(INSTANCE, PEER).expect("the peer is configured").clone()
    }

    pub fn established(&self) -> bool {
        [0, 1].iter().all(|host| self.status(*host).state == SessionState::Established)
    }

    /// What the other host has heard from `host` on the session that is up.
    pub fn tap(&self, host: usize) -> Option<&Tap> {
        let open = &self.hosts[host].open;
        self.hosts[host].taps.iter().filter(|(conn, _)| open.contains(conn)).map(|(_, tap)| tap).next_back()
    }

    fn drain(&mut self, host: usize) {
        while let Some(output) = self.hosts[host].core.poll_output() {
            match output {
                Output::Connect(request) => {
                    let delay = Duration::from_millis(1 + self.dice(50));
                    self.hosts[host].attempts.insert(request.conn, self.now + delay);
                }
                Output::Adopt { token, conn, .. } => self.adopt(host, token, conn),
                Output::Refuse { token, .. } => {
                    let theirs = self.accepting.remove(&token).expect("a token of ours");
                    let error = "connection refused".to_owned();
                    self.feed(1 - host, Input::ConnectFailed { conn: theirs, error });
                }
                Output::Send { conn, bytes } => self.send(host, conn, &bytes),
                Output::Close { conn } => {
                    self.hosts[host].attempts.remove(&conn);
                    assert!(self.hosts[host].closed.insert(conn), "{conn:?} is closed twice");
                    self.hosts[host].open.remove(&conn);
                    if let Some(pipe) = self.pipes.get_mut(&(host, conn)) {
                        pipe.closed = true;
                    }
                }
                Output::Observed { what: Observation::Moved { from, to, .. }, .. } => {
                    let now = self.now;
                    self.hosts[host].moves.push((now, from, to));
                }
                Output::Observed { what: Observation::Malformed(text) | Observation::Unsendable(text), .. } => {
                    panic!("two speakers of the same kind misunderstand each other: {text}");
                }
                Output::Observed { .. } => {}
            }
        }
    }

    fn adopt(&mut self, host: usize, token: u64, conn: ConnId) {
        let theirs = self.accepting.remove(&token).expect("a token of ours");
        let other = 1 - host;
        self.pipes.insert((host, conn), Pipe { to: (other, theirs), in_flight: VecDeque::new(), closed: false });
        self.pipes.insert((other, theirs), Pipe { to: (host, conn), in_flight: VecDeque::new(), closed: false });
        for (host, conn) in [(host, conn), (other, theirs)] {
            self.hosts[host].open.insert(conn);
            self.hosts[host].taps.insert(conn, Tap::default());
        }
        let endpoints = self.endpoints(other);
        let addresses = LocalAddresses { v6: Some("2001:db8::1".parse().unwrap()), ..LocalAddresses::default() };
        self.feed(other, Input::Connected { conn: theirs, endpoints, addresses });
    }

    fn endpoints(&self, host: usize) -> Endpoints {
        let at = |host: usize| SocketAddr::new(self.hosts[host].address, 179);
        Endpoints { local: at(host), remote: at(1 - host) }
    }

    fn send(&mut self, host: usize, conn: ConnId, bytes: &[u8]) {
        assert!(self.hosts[host].open.contains(&conn), "output to {conn:?}, which is not open");
        let latency = Duration::from_micros(200 + self.dice(20_000));
        let pipe = self.pipes.get_mut(&(host, conn)).expect("an open connection has a pipe");
        let after = pipe.in_flight.back().map_or(self.now, |(at, _)| *at);
        pipe.in_flight.push_back(((self.now + latency).max(after), bytes.to_vec()));
        let other = pipe.to;
        let (told, heard) = self.contexts((host, conn), other);
        let tap = self.hosts[host].taps.get_mut(&conn).expect("an open connection has a tap");
        tap.context = told.zip(heard).map(|(ours, theirs)| SessionContext::negotiate(&theirs, &ours));
        tap.hear(bytes);
        if host == 0 && self.stalled {
            self.stalled_writes.push_back((conn, bytes.len()));
        } else {
            let input = Input::Written { conn, octets: bytes.len(), sends: 1 };
            // Reported at once: the kernel's buffer has room. Outputs that follow are drained by the caller's loop.
            self.hosts[host].core.handle(self.now, input);
        }
    }

    fn contexts(&self, ours: End, theirs: End) -> (Option<Open>, Option<Open>) {
        let open = |(host, conn): End| self.hosts[host].taps.get(&conn).and_then(|tap| tap.open.clone());
        (open(ours), open(theirs))
    }

    /// The kernel takes what it was given while stalled.
    pub fn release(&mut self) {
        self.stalled = false;
        while let Some((conn, octets)) = self.stalled_writes.pop_front() {
            self.feed(0, Input::Written { conn, octets, sends: 1 });
        }
    }

    /// Cuts every connection: both ends see it at once.
    pub fn cut(&mut self) {
        for (host, conn) in self.pipes.keys().copied().collect::<Vec<End>>() {
            self.lose(host, conn, "cut");
        }
        self.pipes.clear();
    }

    fn lose(&mut self, host: usize, conn: ConnId, why: &str) {
        if self.hosts[host].open.remove(&conn) {
            self.feed(host, Input::Closed { conn, error: why.to_owned() });
        }
    }

    /// Kills a host's process without a word and puts a new one in its place.
    pub fn restart(&mut self, host: usize, options: CoreOptions) {
        for (of, conn) in self.pipes.keys().copied().filter(|(of, _)| *of == 1 - host).collect::<Vec<End>>() {
            self.lose(of, conn, "the connection was reset");
        }
        self.pipes.clear();
        let host = &mut self.hosts[host];
        host.core = Core::new(self.now, options);
        host.attempts.clear();
        host.open.clear();
        host.closed.clear();
        host.taps.clear();
        host.moves.clear();
    }

    /// Lets `duration` pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.next_event().filter(|at| *at <= end) {
            self.step_to(at);
        }
        self.now = end;
    }

    /// Lets time pass until `done`, at most `limit`.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            let next = self.next_event().filter(|at| *at <= end);
            let Some(at) = next else { panic!("not there after {limit:?}: {:#?}", [self.status(0), self.status(1)]) };
            self.step_to(at);
        }
    }

    fn step_to(&mut self, at: Instant) {
        self.spins = if at > self.now { 0 } else { self.spins + 1 };
        assert!(self.spins < 10_000, "time stands still: {:#?}", [self.status(0), self.status(1)]);
        self.now = at.max(self.now);
        self.step();
    }

    fn next_event(&self) -> Option<Instant> {
        let deadlines = self.hosts.iter().filter_map(|host| host.core.deadline());
        let attempts = self.hosts.iter().flat_map(|host| host.attempts.values().copied());
        let bytes = self.pipes.values().filter_map(|pipe| pipe.in_flight.front().map(|(at, _)| *at));
        let ends = self.pipes.values().filter(|pipe| pipe.closed && pipe.in_flight.is_empty()).map(|_| self.now);
        deadlines.chain(attempts).chain(bytes).chain(ends).min()
    }

    fn step(&mut self) {
        for host in [0, 1] {
            self.attempts(host);
            if self.hosts[host].core.deadline().is_some_and(|at| at <= self.now) {
                self.feed(host, Input::Tick);
                let next = self.hosts[host].core.deadline();
                assert!(next.is_none_or(|at| at > self.now), "a deadline that a tick does not move");
            }
        }
        for end in self.pipes.keys().copied().collect::<Vec<End>>() {
            self.deliver(end);
        }
    }

    fn attempts(&mut self, host: usize) {
        let due: Vec<ConnId> =
            self.hosts[host].attempts.iter().filter(|(_, at)| **at <= self.now).map(|(conn, _)| *conn).collect();
        for conn in due {
            self.hosts[host].attempts.remove(&conn);
            if self.partitioned {
                self.feed(host, Input::ConnectFailed { conn, error: "unreachable".to_owned() });
                continue;
            }
            self.next_token += 1;
            let token = self.next_token;
            self.accepting.insert(token, conn);
            let endpoints = self.endpoints(1 - host);
            let addresses = LocalAddresses { v6: Some("2001:db8::2".parse().unwrap()), ..LocalAddresses::default() };
            let instance = INSTANCE.to_owned();
            self.feed(1 - host, Input::Accepted { token, instance, endpoints, addresses });
        }
    }

    fn deliver(&mut self, end: End) {
        while let Some(pipe) = self.pipes.get_mut(&end) {
            let (host, conn) = pipe.to;
            match pipe.in_flight.front() {
                Some((at, _)) if *at <= self.now => {
                    let Some((_, bytes)) = pipe.in_flight.pop_front() else { return };
                    if self.hosts[host].open.contains(&conn) {
                        // Cut anywhere, as TCP does.
                        let middle = usize::try_from(self.dice(bytes.len() as u64 + 1)).unwrap();
                        for part in [&bytes[..middle], &bytes[middle..]] {
                            self.feed(host, Input::Received { conn, bytes: part.to_vec() });
                        }
                    }
                }
                None if pipe.closed => {
                    self.pipes.remove(&end);
                    self.lose(host, conn, "the peer closed the connection");
                    return;
                }
                _ => return,
            }
        }
    }
}
