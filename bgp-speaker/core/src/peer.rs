//! One neighbour: its session or, while connections collide, two of them; its adj-rib-out; what it told us, counted.
//!
//! What it is: the layer between [`crate::session`] (states and timers, no bytes) and [`crate::Core`] (all peers). It
//! decodes and encodes, decides collisions (RFC 4271 section 6.8), and hands out route chunks only as fast as the
//! connection takes them. What it is not: a place for routes that we learn; they are counted and forgotten.
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_bgp_wire::{
    CeaseError, Family, FrameSplitter, MAX_MESSAGE_LEN, Message, Notification, Prefix, RefreshKind, RouteRefresh,
    SessionContext, Update,
};

use crate::config::{InstanceConfig, PeerConfig, RouteSet};
use crate::export::{AdjOut, Class, Plans, place};
use crate::io::{ConnectRequest, Observation, Output};
use crate::negotiate::{self, LocalAddresses, Negotiated, RestartBits};
use crate::session::{Action, ConnId, Endpoints, Env, Event, Opener, Params, Session, collision};
use crate::status::{Counters, FamilyStatus, NotificationStatus, PeerStatus, SessionState};
use crate::timing::Jitter;

/// Octets that may wait for the kernel before no more routes are encoded for a connection. Big enough for a fast peer to
/// be busy, small enough that a stuck one costs little and is told only what is still true when it wakes up.
const WINDOW_OCTETS: usize = 256 * 1024;
/// The same in sends, for many small ones.
pub(crate) const WINDOW_SENDS: usize = 64;
/// Prefixes that are remembered per family to count what a peer has announced, each once. Beyond it the count is a lower
/// bound: a full table must not cost us memory that we have no use for.
const MAX_COUNTED_PREFIXES: usize = 65_536;

/// Connections that come closer together than this were opened at the same time by both sides.
const SIMULTANEOUS: Duration = Duration::from_secs(5);

/// What a peer needs from around it.
pub(crate) struct Cx<'a> {
    pub(crate) now: Instant,
    pub(crate) outputs: &'a mut VecDeque<Output>,
    pub(crate) jitter: &'a mut Jitter,
    pub(crate) plans: &'a mut Plans,
    pub(crate) start: &'a Start,
}

/// What the speaker knows about its own start.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) at: Instant,
    pub(crate) restarting: bool,
    pub(crate) forwarding_preserved: bool,
    pub(crate) hostname: String,
    pub(crate) software: String,
}

/// A connection's bytes.
#[derive(Debug, Default)]
struct Wire {
    splitter: FrameSplitter,
    addresses: LocalAddresses,
    unwritten_octets: usize,
    unwritten_sends: usize,
}

/// What a peer announced of one family.
#[derive(Debug, Default)]
struct Received {
    prefixes: HashSet<Prefix>,
    overflow: bool,
    end_of_rib: bool,
}

#[derive(Debug)]
pub(crate) struct Peer {
    instance: Arc<str>,
    name: Arc<str>,
    config: PeerConfig,
    params: Params,
    identity: InstanceConfig,
    /// Why there can be no session at all.
    fault: Option<String>,
    main: Session,
    /// The peer's own connection, while `main` has, makes or wants another.
    rival: Option<Session>,
    wires: BTreeMap<ConnId, Wire>,
    next_conn: u64,
    since: Instant,
    reason: Option<String>,
    flaps: u64,
    /// Since this process started; then our forwarding has been going on, whatever happens to sessions.
    was_established: bool,
    counters: Counters,
    last_received: Option<NotificationStatus>,
    last_sent: Option<NotificationStatus>,
    desired: Arc<RouteSet>,
    complete: bool,
    adj_out: Option<AdjOut>,
    held_back: [Option<String>; 2],
    end_of_rib_sent: [bool; 2],
    received: [Received; 2],
}

impl Peer {
    /// `index` makes its connection names unique. `identity` is the instance; its list of peers is not looked at.
    pub(crate) fn new(now: Instant, index: u32, identity: InstanceConfig, config: PeerConfig) -> Self {
        let fault = negotiate::check(&identity, &config);
        Self {
            instance: identity.name.as_str().into(),
            name: config.name.as_str().into(),
            params: params(&identity, &config),
            identity,
            config,
            reason: fault.clone(),
            fault,
            main: Session::new(),
            rival: None,
            wires: BTreeMap::new(),
            next_conn: ConnId::first_of(index),
            since: now,
            flaps: 0,
            was_established: false,
            counters: Counters::default(),
            last_received: None,
            last_sent: None,
            desired: Arc::default(),
            complete: false,
            adj_out: None,
            held_back: [None, None],
            end_of_rib_sent: [false; 2],
            received: Default::default(),
        }
    }

    pub(crate) fn config(&self) -> &PeerConfig {
        &self.config
    }

    pub(crate) fn instance(&self) -> &Arc<str> {
        &self.instance
    }

    pub(crate) fn desired(&self) -> &Arc<RouteSet> {
        &self.desired
    }

    /// Takes over what outlives a change of configuration.
    pub(crate) fn inherit(&mut self, old: &Self) {
        self.was_established = old.was_established;
        self.counters = old.counters;
        self.flaps = old.flaps;
        self.last_received.clone_from(&old.last_received);
        self.last_sent.clone_from(&old.last_sent);
    }

    pub(crate) fn start(&mut self, cx: &mut Cx<'_>) {
        if self.fault.is_none() {
            self.feed_main(cx, Event::Start);
        }
    }

    /// Ends the session; `reason` goes to the log, `notification` to the peer, inside a Hard Reset when the peer would
    /// else keep our routes (RFC 8538) and `hard` says that it must not.
    pub(crate) fn stop(&mut self, cx: &mut Cx<'_>, reason: &str, notification: Option<&Notification>, hard: bool) {
        self.drop_rival(cx);
        let keeps = self.main.agreed().is_some_and(|agreed| agreed.notification_restart);
        let notification = notification.map(|plain| match hard && keeps {
            true => Notification::hard_reset(plain),
            false => plain.clone(),
        });
        self.feed_main(cx, Event::Stop { notification, reason: reason.to_owned() });
    }

    /// A change that does not touch the session.
    pub(crate) fn retune(&mut self, config: PeerConfig) {
        self.params = params(&self.identity, &config);
        self.config = config;
    }

    pub(crate) fn set_routes(&mut self, cx: &mut Cx<'_>, routes: Arc<RouteSet>) {
        self.desired = routes;
        self.pump(cx);
    }

    pub(crate) fn set_complete(&mut self, cx: &mut Cx<'_>) {
        self.complete = true;
        self.pump(cx);
    }

    /// The shell accepted a connection from this peer's address.
    pub(crate) fn accept(&mut self, cx: &mut Cx<'_>, token: u64, endpoints: Endpoints, addresses: LocalAddresses) {
        let refusal = match (&self.fault, self.main.state()) {
            (Some(fault), _) => Some(fault.clone()),
            (None, SessionState::Idle) => Some("the session is Idle, held back after a failure".to_owned()),
            (None, _) => None,
        };
        let open = self.our_open(cx);
        let (None, Some(open)) = (&refusal, open) else {
            let reason = refusal.unwrap_or_else(|| "the configuration cannot be put into an OPEN".to_owned());
            cx.outputs.push_back(Output::Refuse { token, reason });
            return;
        };
        self.next_conn += 1;
        let conn = ConnId::from_raw(self.next_conn);
        self.wires.insert(conn, Wire { addresses, ..Wire::default() });
        cx.outputs.push_back(Output::Adopt { token, conn, ttl: self.ttl() });
        let event = Event::Accepted { conn, endpoints, open: Box::new(open) };
        if self.main.state() == SessionState::Active {
            self.feed_main(cx, event);
        } else {
            // A newer connection of the peer replaces one that never got to its OPEN.
            self.drop_rival(cx);
            self.rival = Some(Session::accepting(cx.now));
            self.feed_rival(cx, event);
        }
    }

    pub(crate) fn connected(&mut self, cx: &mut Cx<'_>, conn: ConnId, endpoints: Endpoints, addresses: LocalAddresses) {
        if self.main.conn() != Some(conn) || self.main.state() != SessionState::Connect {
            cx.outputs.push_back(Output::Close { conn });
            return;
        }
        let Some(open) = self.our_open(cx) else { return };
        self.wires.insert(conn, Wire { addresses, ..Wire::default() });
        self.feed_main(cx, Event::Connected { conn, endpoints, open: Box::new(open) });
    }

    pub(crate) fn connect_failed(&mut self, cx: &mut Cx<'_>, conn: ConnId, error: String) {
        if self.main.conn() == Some(conn) && self.main.state() == SessionState::Connect {
            self.feed_main(cx, Event::ConnectFailed { error });
        }
    }

    pub(crate) fn closed(&mut self, cx: &mut Cx<'_>, conn: ConnId, error: String) {
        self.feed(cx, conn, Event::Lost { error });
    }

    pub(crate) fn written(&mut self, cx: &mut Cx<'_>, conn: ConnId, octets: usize, sends: usize) {
        let Some(wire) = self.wires.get_mut(&conn) else { return };
        wire.unwritten_octets = wire.unwritten_octets.saturating_sub(octets);
        wire.unwritten_sends = wire.unwritten_sends.saturating_sub(sends);
        self.feed(cx, conn, Event::Sent);
        self.pump(cx);
    }

    pub(crate) fn received(&mut self, cx: &mut Cx<'_>, conn: ConnId, bytes: &[u8]) {
        if let Some(wire) = self.wires.get_mut(&conn) {
            wire.splitter.push(bytes);
        }
        // Each message may end the session, so everything is looked up anew for the next one.
        while let Some(event) = self.next_message(cx, conn) {
            self.feed(cx, conn, event);
        }
        self.pump(cx);
    }

    pub(crate) fn tick(&mut self, cx: &mut Cx<'_>) {
        // The end of one session can bring up the other, whose time has come as well: each can fire once, in any order.
        for _ in 0..3 {
            self.tick_once(cx);
        }
    }

    fn tick_once(&mut self, cx: &mut Cx<'_>) {
        if self.main.deadline().is_some_and(|at| at <= cx.now) {
            self.feed_main(cx, Event::Tick);
        }
        if self.rival.as_ref().and_then(Session::deadline).is_some_and(|at| at <= cx.now) {
            self.feed_rival(cx, Event::Tick);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        [self.main.deadline(), self.rival.as_ref().and_then(Session::deadline)].into_iter().flatten().min()
    }

    fn session(&self, conn: ConnId) -> Option<&Session> {
        [Some(&self.main), self.rival.as_ref()].into_iter().flatten().find(|session| session.conn() == Some(conn))
    }

    /// Cuts and decodes the next message of a connection that is still ours.
    fn next_message(&mut self, cx: &mut Cx<'_>, conn: ConnId) -> Option<Event> {
        let agreed = self.session(conn)?.agreed().cloned();
        let wire = self.wires.get_mut(&conn)?;
        let before = SessionContext::before_open();
        let context = agreed.as_ref().map_or(&before, |agreed| &agreed.context);
        let max_len = if agreed.is_some() { context.max_receive_len } else { MAX_MESSAGE_LEN };
        let decoded = match wire.splitter.next_frame(max_len) {
            Ok(None) => return None,
            Ok(Some(frame)) => Message::decode(frame, context),
            Err(error) => Err(error),
        };
        match decoded {
            Err(error) => Some(Event::Undecodable(error)),
            Ok(decoded) => {
                if !decoded.malformed.is_empty() {
                    self.counters.malformed_updates_in += 1;
                }
                for malformed in decoded.malformed {
                    self.observe(cx, Observation::Malformed(malformed.what));
                }
                self.count_in(&decoded.message);
                Some(Event::Message(decoded.message))
            }
        }
    }

    fn feed(&mut self, cx: &mut Cx<'_>, conn: ConnId, event: Event) {
        if self.main.conn() == Some(conn) {
            self.feed_main(cx, event);
        } else if self.rival.as_ref().and_then(Session::conn) == Some(conn) {
            self.feed_rival(cx, event);
        }
    }

    fn feed_main(&mut self, cx: &mut Cx<'_>, event: Event) {
        let mut actions = Vec::new();
        let mut env = Env {
            now: cx.now,
            params: &self.params,
            jitter: &mut *cx.jitter,
            next_conn: &mut self.next_conn,
            actions: &mut actions,
        };
        let context = self.main.agreed().cloned();
        self.main.handle(&mut env, event);
        self.perform(cx, actions, context.as_ref(), true);
        self.settle_collision(cx);
    }

    fn feed_rival(&mut self, cx: &mut Cx<'_>, event: Event) {
        let Some(mut rival) = self.rival.take() else { return };
        let mut actions = Vec::new();
        let mut env = Env {
            now: cx.now,
            params: &self.params,
            jitter: &mut *cx.jitter,
            next_conn: &mut self.next_conn,
            actions: &mut actions,
        };
        let context = rival.agreed().cloned();
        rival.handle(&mut env, event);
        self.rival = Some(rival);
        self.perform(cx, actions, context.as_ref(), false);
        self.settle_collision(cx);
    }

    /// RFC 4271 section 6.8, for the two sessions as they stand after an event.
    fn settle_collision(&mut self, cx: &mut Cx<'_>) {
        let Some(rival) = &self.rival else { return };
        let rival_wins = match (self.main.state(), rival.state()) {
            (_, SessionState::Idle | SessionState::Connect | SessionState::Active) => {
                self.rival = None;
                return;
            }
            (SessionState::Idle, _) | (_, SessionState::Established) => true,
            (SessionState::Established, SessionState::OpenConfirm) => self.peer_has_restarted(cx.now, rival),
            // One OPEN is enough to know who the peer is. Deciding now, and not when the second one comes, keeps a side
            // from seeing a session up that the other side is about to end.
            (SessionState::OpenConfirm, SessionState::OpenConfirm | SessionState::OpenSent)
            | (SessionState::OpenSent, SessionState::OpenConfirm) => self.peers_connection_wins(rival),
            (_, SessionState::OpenSent | SessionState::OpenConfirm) => return,
        };
        if !rival_wins {
            self.observe(cx, Observation::Collision("the peer's connection"));
            self.drop_rival(cx);
            return;
        }
        let Some(rival) = self.rival.take() else { return };
        let from = self.main.state();
        if from != SessionState::Idle {
            self.observe(cx, Observation::Collision("our connection"));
            let restarted = from == SessionState::Established;
            let notification = (!restarted).then(collision);
            let reason = "replaced by the peer's connection".to_owned();
            self.feed_main(cx, Event::Stop { notification, reason });
        }
        let to = rival.state();
        self.main = rival;
        self.moved(cx, SessionState::Idle, to, None);
    }

    /// With graceful restart, a new OPEN means that the peer's old process is gone (RFC 4724 section 4.2), unless both
    /// connections were made at the same time, which is an ordinary collision: the established session stays.
    fn peer_has_restarted(&self, now: Instant, rival: &Session) -> bool {
        let graceful = self.main.agreed().is_some_and(|agreed| agreed.graceful_restart);
        let says_so = rival.agreed().is_some_and(|agreed| agreed.peer_restarting());
        let settled = self.main.established_since().is_some_and(|since| now.duration_since(since) > SIMULTANEOUS);
        graceful && (says_so || settled)
    }

    /// The speaker with the higher identifier keeps the connection that it opened; on a tie the higher AS number does
    /// (RFC 6286 section 2.3).
    fn peers_connection_wins(&self, rival: &Session) -> bool {
        let Some(agreed) = self.main.agreed().or_else(|| rival.agreed()) else { return true };
        let Some(link) = self.main.link() else { return true };
        if link.opener == Opener::Peer {
            // Both are the peer's: it has given up the older one.
            return true;
        }
        let ours = (u32::from(self.identity.router_id), self.identity.local_asn.get());
        let theirs = (agreed.peer_id.get(), agreed.peer_asn.get());
        let keep_opener = if ours > theirs { Opener::Us } else { Opener::Peer };
        link.opener != keep_opener
    }

    fn drop_rival(&mut self, cx: &mut Cx<'_>) {
        let Some(mut rival) = self.rival.take() else { return };
        let mut actions = Vec::new();
        let mut env = Env {
            now: cx.now,
            params: &self.params,
            jitter: &mut *cx.jitter,
            next_conn: &mut self.next_conn,
            actions: &mut actions,
        };
        let context = rival.agreed().cloned();
        rival.handle(&mut env, Event::Stop { notification: Some(collision()), reason: "collision".to_owned() });
        self.perform(cx, actions, context.as_ref(), false);
    }

    /// Does what a session asked for. `context`: what was agreed on before the event, which is what a last NOTIFICATION
    /// is encoded with.
    fn perform(&mut self, cx: &mut Cx<'_>, actions: Vec<Action>, context: Option<&Arc<Negotiated>>, is_main: bool) {
        for action in actions {
            match action {
                Action::Connect { conn } => cx.outputs.push_back(Output::Connect(self.request(conn))),
                Action::Send { conn, message } => self.send(cx, conn, &message, context),
                Action::Close { conn } => {
                    self.wires.remove(&conn);
                    cx.outputs.push_back(Output::Close { conn });
                }
                Action::Moved { from, to, reason } => {
                    if is_main {
                        self.moved(cx, from, to, reason);
                    }
                }
                Action::NotificationReceived(notification) => {
                    self.observe(cx, Observation::NotificationReceived(notification.to_string()));
                    self.last_received = Some(notification_status(&notification, cx.now));
                }
                Action::Up(agreed) => self.up(cx, &agreed),
                Action::Down => self.down(),
                Action::Update(update) => self.count_routes(&update),
                Action::Refresh(refresh) => self.refresh(&refresh),
            }
        }
    }

    fn moved(&mut self, cx: &mut Cx<'_>, from: SessionState, to: SessionState, mut reason: Option<String>) {
        self.since = cx.now;
        if let (SessionState::Connect, Some(why), Some(_)) = (from, &mut reason, &self.config.md5_password) {
            why.push_str("; a different MD5 password at the peer looks like this too");
        }
        if to == SessionState::Established {
            self.reason = None;
        } else if reason.is_some() {
            self.reason.clone_from(&reason);
        }
        self.observe(cx, Observation::Moved { from, to, reason });
    }

    fn send(&mut self, cx: &mut Cx<'_>, conn: ConnId, message: &Message, agreed: Option<&Arc<Negotiated>>) {
        let before = SessionContext::before_open();
        let context = agreed.map_or(&before, |agreed| &agreed.context);
        let mut bytes = Vec::new();
        if let Err(error) = message.encode(context, &mut bytes) {
            self.observe(cx, Observation::Unsendable(error.to_string()));
            return;
        }
        match message {
            Message::Open(_) => self.counters.opens_out += 1,
            Message::Keepalive => self.counters.keepalives_out += 1,
            Message::Notification(notification) => {
                self.counters.notifications_out += 1;
                self.last_sent = Some(notification_status(notification, cx.now));
                self.observe(cx, Observation::NotificationSent(notification.to_string()));
            }
            Message::Update(_) => self.counters.updates_out += 1,
            Message::RouteRefresh(_) => {}
        }
        self.put(cx, conn, Arc::new(bytes));
    }

    fn put(&mut self, cx: &mut Cx<'_>, conn: ConnId, bytes: Arc<Vec<u8>>) {
        if let Some(wire) = self.wires.get_mut(&conn) {
            wire.unwritten_octets += bytes.len();
            wire.unwritten_sends += 1;
            cx.outputs.push_back(Output::Send { conn, bytes });
        }
    }

    fn up(&mut self, cx: &mut Cx<'_>, agreed: &Arc<Negotiated>) {
        let conn = self.session_with(agreed).and_then(Session::conn);
        let addresses = conn.and_then(|conn| self.wires.get(&conn)).map(|wire| wire.addresses).unwrap_or_default();
        let mut families = Vec::new();
        self.held_back = [None, None];
        for family in self.config.wanted_families() {
            match negotiate::next_hop(agreed, &addresses, family) {
                Ok(next_hop) => families.push((family, next_hop)),
                Err(why) => {
                    self.observe(cx, Observation::FamilyHeldBack(format!("{family}: {why}")));
                    self.held_back[place(family)] = Some(why);
                }
            }
        }
        let class = Class {
            context: agreed.context.clone(),
            local_asn: self.identity.local_asn,
            external: negotiate::is_external(agreed),
            families,
        };
        self.was_established = true;
        self.end_of_rib_sent = [false; 2];
        self.received = Default::default();
        self.adj_out = Some(AdjOut::new(Arc::new(class), cx.plans.nothing()));
    }

    fn session_with(&self, agreed: &Arc<Negotiated>) -> Option<&Session> {
        [Some(&self.main), self.rival.as_ref()]
            .into_iter()
            .flatten()
            .find(|session| session.agreed().is_some_and(|of| Arc::ptr_eq(of, agreed)))
    }

    fn down(&mut self) {
        self.flaps += 1;
        self.adj_out = None;
        self.received = Default::default();
    }

    fn refresh(&mut self, refresh: &RouteRefresh) {
        if refresh.kind == RefreshKind::Request
            && let Some(adj_out) = &mut self.adj_out
            && adj_out.class().next_hop(refresh.family).is_some()
        {
            adj_out.refresh(refresh.family);
        }
    }

    /// Hands out routes as far as the connection takes them, then End-of-RIB when it is time.
    fn pump(&mut self, cx: &mut Cx<'_>) {
        let (SessionState::Established, Some(conn)) = (self.main.state(), self.main.conn()) else { return };
        let Some(mut adj_out) = self.adj_out.take() else { return };
        while self.wires.get(&conn).is_some_and(Wire::has_room) {
            let Some(chunk) = adj_out.next_chunk(&self.desired, cx.plans) else { break };
            self.counters.updates_out += chunk.messages;
            self.counters.announcements_out += chunk.announced;
            self.counters.withdrawals_out += chunk.withdrawn;
            self.put(cx, conn, chunk.bytes);
        }
        if self.complete && adj_out.is_idle() && adj_out.heads_for(&self.desired) {
            let context = self.main.agreed().cloned();
            let families: Vec<Family> = context.iter().flat_map(|agreed| agreed.context.families.clone()).collect();
            for family in families.into_iter().filter(|family| family.is_supported()) {
                if !std::mem::replace(&mut self.end_of_rib_sent[place(family)], true) {
                    self.send(cx, conn, &Message::Update(Box::new(Update::end_of_rib(family))), context.as_ref());
                }
            }
        }
        if let Some((count, error)) = adj_out.new_trouble() {
            self.observe(cx, Observation::Unsendable(format!("{count} prefixes: {error}")));
        }
        self.adj_out = Some(adj_out);
    }

    fn our_open(&self, cx: &Cx<'_>) -> Option<causeway_bgp_wire::Open> {
        let window = Duration::from_secs(u64::from(self.config.graceful_restart_s.unwrap_or(0)));
        let fresh = cx.now.duration_since(cx.start.at) < window && !self.was_established;
        let bits = RestartBits {
            restarting: cx.start.restarting && fresh,
            forwarding_preserved: cx.start.forwarding_preserved || self.was_established,
        };
        negotiate::our_open(&self.identity, &self.config, bits, &cx.start.hostname, &cx.start.software)
    }

    fn request(&self, conn: ConnId) -> ConnectRequest {
        ConnectRequest {
            conn,
            remote: std::net::SocketAddr::new(self.config.address, self.config.port),
            zone: self.config.zone.clone(),
            local: self.config.local_address,
            ttl: self.ttl(),
            md5: self.config.md5_password.clone(),
        }
    }

    /// A peer whose AS is not known beforehand is treated as an external one.
    fn ttl(&self) -> Option<u8> {
        let internal = self.config.peer_asn == Some(self.identity.local_asn);
        (!internal).then(|| self.config.ebgp_multihop.unwrap_or(1).max(1))
    }

    fn observe(&self, cx: &mut Cx<'_>, what: Observation) {
        let (instance, peer) = (Arc::clone(&self.instance), Arc::clone(&self.name));
        cx.outputs.push_back(Output::Observed { instance, peer, what });
    }

    fn count_in(&mut self, message: &Message) {
        *match message {
            Message::Open(_) => &mut self.counters.opens_in,
            Message::Update(_) => &mut self.counters.updates_in,
            Message::Notification(_) => &mut self.counters.notifications_in,
            Message::Keepalive => &mut self.counters.keepalives_in,
            Message::RouteRefresh(_) => &mut self.counters.refreshes_in,
        } += 1;
    }

    fn count_routes(&mut self, update: &Update) {
        if let Some(family) = update.end_of_rib
            && family.is_supported()
        {
            self.received[place(family)].end_of_rib = true;
        }
        for withdrawn in update.withdrawn.iter().filter(|withdrawn| withdrawn.family.is_supported()) {
            let received = &mut self.received[place(withdrawn.family)];
            for prefix in &withdrawn.prefixes {
                received.prefixes.remove(prefix);
            }
        }
        for reach in update.reach.iter().filter(|reach| reach.family.is_supported()) {
            let received = &mut self.received[place(reach.family)];
            for prefix in &reach.prefixes {
                if received.prefixes.len() < MAX_COUNTED_PREFIXES {
                    received.prefixes.insert(*prefix);
                } else if !received.prefixes.contains(prefix) {
                    received.overflow = true;
                }
            }
        }
    }

    pub(crate) fn told(&self) -> (Vec<(Family, std::net::IpAddr)>, RouteSet) {
        match &self.adj_out {
            None => (Vec::new(), RouteSet::new()),
            Some(adj_out) => {
                let hops = adj_out.class().families.iter().map(|(family, hop)| (*family, hop.address())).collect();
                (hops, adj_out.routes())
            }
        }
    }

    pub(crate) fn status(&self) -> PeerStatus {
        PeerStatus {
            address: self.config.address,
            configured_asn: self.config.peer_asn,
            state: self.main.state(),
            since: self.since,
            reason: self.reason.clone(),
            flaps: self.flaps,
            negotiated: self.main.agreed().map(|agreed| agreed.status()),
            last_received: self.last_received.clone(),
            last_sent: self.last_sent.clone(),
            families: self.config.wanted_families().into_iter().map(|family| self.family_status(family)).collect(),
            counters: self.counters,
        }
    }

    fn family_status(&self, family: Family) -> FamilyStatus {
        let at = place(family);
        let received = &self.received[at];
        let adj_out = self.adj_out.as_ref();
        let unsendable = adj_out.and_then(AdjOut::unsendable);
        FamilyStatus {
            family,
            negotiated: self.main.agreed().is_some_and(|agreed| agreed.has_family(family)),
            advertised: adj_out.map_or(0, |adj_out| adj_out.counts()[at]),
            pending: adj_out.map_or(0, |adj_out| adj_out.pending()[at]),
            received: received.prefixes.len() as u64,
            received_exact: !received.overflow,
            end_of_rib_sent: adj_out.is_some() && self.end_of_rib_sent[at],
            end_of_rib_received: received.end_of_rib,
            next_hop: adj_out.and_then(|adj_out| adj_out.class().next_hop(family)).map(|hop| hop.address()),
            not_advertised: match (adj_out, unsendable) {
                (None, _) => None,
                (Some(_), None) => self.held_back[at].clone(),
                (Some(_), Some((count, error))) => Some(format!("{count} prefixes cannot be sent: {error}")),
            },
        }
    }
}

impl Wire {
    fn has_room(&self) -> bool {
        self.unwritten_octets < WINDOW_OCTETS && self.unwritten_sends < WINDOW_SENDS
    }
}

fn params(identity: &InstanceConfig, config: &PeerConfig) -> Params {
    Params {
        local_asn: identity.local_asn,
        peer_asn: config.peer_asn,
        keepalive: Duration::from_secs(u64::from(config.keepalive_s.max(1))),
        connect_retry: Duration::from_secs(u64::from(config.connect_retry_s.max(1))),
    }
}

fn notification_status(notification: &Notification, at: Instant) -> NotificationStatus {
    let (code, subcode) = notification.code.to_wire();
    NotificationStatus { code, subcode, text: notification.to_string(), at }
}

/// What a peer is told when it is removed, and when its configuration changes.
pub(crate) fn deconfigured() -> Notification {
    Notification::cease(CeaseError::PeerDeconfigured)
}

/// See [`deconfigured`].
pub(crate) fn reconfigured() -> Notification {
    Notification::cease(CeaseError::OtherConfigurationChange)
}
