//! The session state machine of RFC 4271 section 8, for one connection at a time.
//!
//! What it is: the six states, their timers and what each event does in each of them. What it is not: a socket, a codec
//! or a routing table; and it never sees that a peer can have two connections at once. [`crate::peer`] drives it,
//! holds a second one while connections collide, and turns [`Action`]s into bytes and outputs.
//!
//! ```text
//!          Start            connected             OPEN               KEEPALIVE
//!   Idle ────────▶ Connect ───────────▶ OpenSent ──────▶ OpenConfirm ──────────▶ Established
//!    ▲               │  ▲                  ▲  │               │                      │
//!    │        failed ▼  │ retry   accepted │  └───────┬───────┴──────────────────────┘
//!    │              Active ────────────────┘          │ closed, NOTIFICATION, hold timer, bad message
//!    └────────────────────────────────────────────────┘ (Idle for a growing while, then Connect again)
//! ```
//!
//! Deviations from the RFC, said aloud: a lost TCP connection in OpenSent goes to Idle with a short hold-back instead of
//! Active; the optional DelayOpen is not there; after a failed attempt the pause starts short and doubles,
//! never beyond ConnectRetryTime, because waiting 120 s for a switch that answers after two serves nobody.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_bgp_wire::{
    Asn, CeaseError, DecodeError, FsmError, Message, Notification, NotificationCode, Open, OpenError, RouteRefresh,
    Update,
};

use crate::negotiate::Negotiated;
use crate::status::SessionState;
use crate::timing::{Jitter, doubled};

/// First pause after a failed connection attempt; it doubles up to half of ConnectRetryTime, at most [`RETRY_MAX`], and
/// is jittered in [x, 2x).
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// A switch that was away for minutes is found within half a minute of its return; one SYN in that time harms nobody.
const RETRY_MAX: Duration = Duration::from_secs(15);
/// An attempt that got no answer is given up after this, or after ConnectRetryTime if that is shorter: long enough for
/// three lost SYNs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// First time in Idle after a session failed; it doubles with each failure (DampPeerOscillations of RFC 4271).
const IDLE_HOLD_FIRST: Duration = Duration::from_millis(500);
/// The longest time in Idle before jitter: a peer that refuses us is asked about once a minute.
const IDLE_HOLD_MAX: Duration = Duration::from_secs(32);
/// A session that lived this long was a good one: the next failure is treated as the first.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// Hold timer until the peer's OPEN says its own (RFC 4271 section 8.2.2: "a large value", 4 minutes suggested).
const OPEN_HOLD: Duration = Duration::from_secs(240);
/// Least send hold time (RFC 9687 section 4): 8 minutes.
const SEND_HOLD_MIN: Duration = Duration::from_secs(480);

/// Names a connection between core and shell; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(u64);

impl ConnId {
    pub(crate) fn from_raw(number: u64) -> Self {
        Self(number)
    }

    /// The first number for connections of the peer with index `peer`; counting up from it never meets another peer's.
    pub(crate) fn first_of(peer: u32) -> u64 {
        u64::from(peer) << 32
    }

    /// The index of the peer that the connection belongs to.
    pub(crate) fn peer(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or(u32::MAX)
    }
}

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// Ours.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
}

/// Who opened a connection; decides collisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opener {
    Us,
    Peer,
}

/// A live connection as a state sees it.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) conn: ConnId,
    pub(crate) opener: Opener,
    pub(crate) endpoints: Endpoints,
    /// What we said on it.
    pub(crate) open: Open,
}

/// What the session was configured with.
#[derive(Clone, Debug)]
pub(crate) struct Params {
    pub(crate) local_asn: Asn,
    pub(crate) peer_asn: Option<Asn>,
    pub(crate) keepalive: Duration,
    pub(crate) connect_retry: Duration,
}

#[derive(Debug)]
pub(crate) enum State {
    /// `until`: when to try by ourselves; `None` waits for Start.
    Idle {
        until: Option<Instant>,
    },
    Connect {
        conn: ConnId,
        give_up: Instant,
    },
    Active {
        retry: Instant,
    },
    OpenSent {
        link: Link,
        hold: Instant,
    },
    OpenConfirm {
        link: Link,
        agreed: Arc<Negotiated>,
        timers: Timers,
    },
    Established {
        link: Link,
        agreed: Arc<Negotiated>,
        timers: Timers,
        since: Instant,
    },
}

/// Timers of a session whose hold time is known. All `None` when the hold time is 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timers {
    hold: Option<Instant>,
    keepalive: Option<Instant>,
    send_hold: Option<Instant>,
}

/// What happens to a session.
#[derive(Debug)]
pub(crate) enum Event {
    /// ManualStart, AutomaticStart.
    Start,
    /// ManualStop, AutomaticStop, and the loser of a collision: say `notification` if there is a connection; stay Idle.
    Stop {
        notification: Option<Notification>,
        reason: String,
    },
    /// TcpCR_Acked: our attempt succeeded.
    Connected {
        conn: ConnId,
        endpoints: Endpoints,
        open: Box<Open>,
    },
    /// TcpConnectionFails, before it was a connection.
    ConnectFailed {
        error: String,
    },
    /// TcpConnectionConfirmed: the peer's attempt, accepted.
    Accepted {
        conn: ConnId,
        endpoints: Endpoints,
        open: Box<Open>,
    },
    /// TcpConnectionFails: closed or reset.
    Lost {
        error: String,
    },
    Message(Message),
    /// A message that ends the session (BGPHeaderErr, BGPOpenMsgErr, UpdateMsgErr).
    Undecodable(DecodeError),
    /// The shell's writer has put bytes on the wire.
    Sent,
    /// Time has passed.
    Tick,
}

/// What the session asks for.
#[derive(Debug)]
pub(crate) enum Action {
    Connect {
        conn: ConnId,
    },
    Send {
        conn: ConnId,
        message: Message,
    },
    /// Close once everything that was sent before is out.
    Close {
        conn: ConnId,
    },
    /// The state changed.
    Moved {
        from: SessionState,
        to: SessionState,
        reason: Option<String>,
    },
    NotificationReceived(Notification),
    Up(Arc<Negotiated>),
    Down,
    Update(Box<Update>),
    Refresh(RouteRefresh),
}

/// What a session needs from around it while it handles an event.
pub(crate) struct Env<'a> {
    pub(crate) now: Instant,
    pub(crate) params: &'a Params,
    pub(crate) jitter: &'a mut Jitter,
    pub(crate) next_conn: &'a mut u64,
    pub(crate) actions: &'a mut Vec<Action>,
}

impl Env<'_> {
    fn fresh_conn(&mut self) -> ConnId {
        *self.next_conn += 1;
        ConnId(*self.next_conn)
    }

    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn send(&mut self, link: &Link, message: Message) {
        self.act(Action::Send { conn: link.conn, message });
    }
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    state: State,
    /// Failed attempts since the last connection.
    failed_attempts: u32,
    /// Failed sessions since the last stable one.
    failed_sessions: u32,
}

impl Session {
    pub(crate) fn new() -> Self {
        Self { state: State::Idle { until: None }, failed_attempts: 0, failed_sessions: 0 }
    }

    /// A session that waits for nothing but the peer's connection.
    pub(crate) fn accepting(now: Instant) -> Self {
        Self { state: State::Active { retry: now + OPEN_HOLD }, ..Self::new() }
    }

    pub(crate) fn state(&self) -> SessionState {
        match self.state {
            State::Idle { .. } => SessionState::Idle,
            State::Connect { .. } => SessionState::Connect,
            State::Active { .. } => SessionState::Active,
            State::OpenSent { .. } => SessionState::OpenSent,
            State::OpenConfirm { .. } => SessionState::OpenConfirm,
            State::Established { .. } => SessionState::Established,
        }
    }

    pub(crate) fn conn(&self) -> Option<ConnId> {
        match &self.state {
            State::Connect { conn, .. } => Some(*conn),
            _ => self.link().map(|link| link.conn),
        }
    }

    pub(crate) fn link(&self) -> Option<&Link> {
        match &self.state {
            State::Idle { .. } | State::Connect { .. } | State::Active { .. } => None,
            State::OpenSent { link, .. } | State::OpenConfirm { link, .. } | State::Established { link, .. } => {
                Some(link)
            }
        }
    }

    /// What both sides agreed on, from OpenConfirm on.
    pub(crate) fn agreed(&self) -> Option<&Arc<Negotiated>> {
        match &self.state {
            State::OpenConfirm { agreed, .. } | State::Established { agreed, .. } => Some(agreed),
            _ => None,
        }
    }

    pub(crate) fn established_since(&self) -> Option<Instant> {
        match &self.state {
            State::Established { since, .. } => Some(*since),
            _ => None,
        }
    }

    /// When [`Event::Tick`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Idle { until } => *until,
            State::Connect { give_up, .. } => Some(*give_up),
            State::Active { retry } => Some(*retry),
            State::OpenSent { hold, .. } => Some(*hold),
            State::OpenConfirm { timers, .. } | State::Established { timers, .. } => timers.next(),
        }
    }

    pub(crate) fn handle(&mut self, env: &mut Env<'_>, event: Event) {
        let from = self.state();
        let state = std::mem::replace(&mut self.state, State::Idle { until: None });
        let mut reason = None;
        self.state = match event {
            Event::Start => self.start(env, state),
            Event::Stop { notification, reason: why } => {
                reason = Some(why);
                stop(env, &state, notification)
            }
            Event::Connected { conn, endpoints, open } => self.opened(env, state, conn, Opener::Us, endpoints, *open),
            Event::Accepted { conn, endpoints, open } => self.opened(env, state, conn, Opener::Peer, endpoints, *open),
            Event::ConnectFailed { error } => self.connect_failed(env, state, error, &mut reason),
            Event::Lost { error } => self.lost(env, state, error, &mut reason),
            Event::Message(message) => self.message(env, state, message, &mut reason),
            Event::Undecodable(error) => self.undecodable(env, state, error, &mut reason),
            Event::Sent => sent(env, state),
            Event::Tick => self.tick(env, state, &mut reason),
        };
        let to = self.state();
        if from != to {
            env.act(Action::Moved { from, to, reason });
        }
    }

    fn start(&mut self, env: &mut Env<'_>, state: State) -> State {
        match state {
            State::Idle { .. } => connect(env),
            state @ (State::Connect { .. }
            | State::Active { .. }
            | State::OpenSent { .. }
            | State::OpenConfirm { .. }
            | State::Established { .. }) => state,
        }
    }

    fn opened(
        &mut self,
        env: &mut Env<'_>,
        state: State,
        conn: ConnId,
        opener: Opener,
        endpoints: Endpoints,
        open: Open,
    ) -> State {
        let expected = match (&state, opener) {
            (State::Connect { conn: ours, .. }, Opener::Us) => *ours == conn,
            (State::Active { .. }, Opener::Peer) => true,
            _ => false,
        };
        if !expected {
            // The peer layer asks only where it fits; a stray one is closed, the state stays.
            env.act(Action::Close { conn });
            return state;
        }
        self.failed_attempts = 0;
        let link = Link { conn, opener, endpoints, open };
        env.send(&link, Message::Open(link.open.clone()));
        State::OpenSent { link, hold: env.now + OPEN_HOLD }
    }

    fn connect_failed(&mut self, env: &mut Env<'_>, state: State, error: String, why: &mut Option<String>) -> State {
        match state {
            State::Connect { .. } => {
                *why = Some(error);
                self.failed_attempts = self.failed_attempts.saturating_add(1);
                let pause = doubled(RETRY_FIRST, self.failed_attempts, RETRY_MAX.min(env.params.connect_retry / 2));
                State::Active { retry: env.now + env.jitter.up_to_twice(pause) }
            }
            state => state,
        }
    }

    fn lost(&mut self, env: &mut Env<'_>, state: State, error: String, why: &mut Option<String>) -> State {
        match state {
            State::Idle { .. } | State::Active { .. } => state,
            State::Connect { .. } => self.connect_failed(env, state, error, why),
            State::OpenSent { .. } | State::OpenConfirm { .. } | State::Established { .. } => {
                *why = Some(error);
                self.fail(env, &state, None)
            }
        }
    }

    fn message(&mut self, env: &mut Env<'_>, state: State, message: Message, why: &mut Option<String>) -> State {
        match (state, message) {
            // Without a connection there are no messages; the peer layer cannot ask for it.
            (state @ (State::Idle { .. } | State::Connect { .. } | State::Active { .. }), _) => state,

            (State::OpenSent { link, .. }, Message::Open(theirs)) => self.open(env, link, &theirs, why),
            (State::OpenConfirm { link, agreed, .. }, Message::Keepalive) => {
                let timers = Timers::start(env, &agreed);
                env.act(Action::Up(Arc::clone(&agreed)));
                State::Established { link, agreed, timers, since: env.now }
            }
            (
                State::Established { link, agreed, mut timers, since },
                message @ (Message::Keepalive | Message::Update(_) | Message::RouteRefresh(_)),
            ) => {
                timers.heard(env.now, &agreed);
                match message {
                    Message::Update(update) => env.act(Action::Update(update)),
                    Message::RouteRefresh(refresh) => env.act(Action::Refresh(refresh)),
                    Message::Keepalive | Message::Open(_) | Message::Notification(_) => {}
                }
                State::Established { link, agreed, timers, since }
            }
            (state, Message::Notification(notification)) => {
                *why = Some(format!("the peer sent NOTIFICATION: {notification}"));
                env.act(Action::NotificationReceived(notification));
                self.fail(env, &state, None)
            }

            // Everything else is a state machine error (RFC 6608).
            (
                state @ State::OpenSent { .. },
                unexpected @ (Message::Keepalive | Message::Update(_) | Message::RouteRefresh(_)),
            ) => self.unexpected(env, &state, &unexpected, FsmError::UnexpectedInOpenSent, why),
            (
                state @ State::OpenConfirm { .. },
                unexpected @ (Message::Open(_) | Message::Update(_) | Message::RouteRefresh(_)),
            ) => self.unexpected(env, &state, &unexpected, FsmError::UnexpectedInOpenConfirm, why),
            (state @ State::Established { .. }, unexpected @ Message::Open(_)) => {
                self.unexpected(env, &state, &unexpected, FsmError::UnexpectedInEstablished, why)
            }
        }
    }

    fn undecodable(&mut self, env: &mut Env<'_>, state: State, error: DecodeError, why: &mut Option<String>) -> State {
        match state {
            State::Idle { .. } | State::Connect { .. } | State::Active { .. } => state,
            State::OpenSent { .. } | State::OpenConfirm { .. } | State::Established { .. } => {
                *why = Some(format!("the peer sent {}", error.what));
                self.fail(env, &state, Some(error.notification))
            }
        }
    }

    fn unexpected(
        &mut self,
        env: &mut Env<'_>,
        state: &State,
        message: &Message,
        error: FsmError,
        why: &mut Option<String>,
    ) -> State {
        *why = Some(format!("the peer sent an unexpected {}", message.message_type()));
        self.fail(env, state, Some(Notification::new(NotificationCode::Fsm(error))))
    }

    /// The peer's OPEN, in OpenSent (RFC 4271 section 6.2).
    fn open(&mut self, env: &mut Env<'_>, link: Link, theirs: &Open, why: &mut Option<String>) -> State {
        if let Some((error, what)) = refuse_open(env.params, &link.open, theirs) {
            *why = Some(what);
            let data = match error {
                OpenError::BadPeerAs => theirs.asn.to_two_octets().to_be_bytes().to_vec(),
                _ => Vec::new(),
            };
            let notification = Notification { code: NotificationCode::Open(error), data };
            return self.fail(env, &State::OpenSent { link, hold: env.now }, Some(notification));
        }
        let agreed = Arc::new(Negotiated::new(&link, theirs, env.params.keepalive));
        env.send(&link, Message::Keepalive);
        let timers = Timers::start(env, &agreed);
        State::OpenConfirm { link, agreed, timers }
    }

    fn tick(&mut self, env: &mut Env<'_>, state: State, why: &mut Option<String>) -> State {
        match state {
            State::Idle { until } if until.is_some_and(|until| until <= env.now) => connect(env),
            State::Active { retry } if retry <= env.now => connect(env),
            State::Connect { conn, give_up } if give_up <= env.now => {
                env.act(Action::Close { conn });
                let error = "no answer to the connection attempt".to_owned();
                self.connect_failed(env, State::Connect { conn, give_up }, error, why)
            }
            State::OpenSent { hold, .. } if hold <= env.now => {
                *why = Some("the peer sent no OPEN".to_owned());
                self.fail(env, &state, Some(Notification::new(NotificationCode::HoldTimerExpired)))
            }
            State::OpenConfirm { link, agreed, mut timers } => match timers.expire(env, &link, &agreed) {
                None => State::OpenConfirm { link, agreed, timers },
                Some(expired) => {
                    *why = Some(expired.words(&agreed));
                    self.fail(env, &State::OpenConfirm { link, agreed, timers }, Some(expired.notification()))
                }
            },
            State::Established { link, agreed, mut timers, since } => match timers.expire(env, &link, &agreed) {
                None => State::Established { link, agreed, timers, since },
                Some(expired) => {
                    *why = Some(expired.words(&agreed));
                    let state = State::Established { link, agreed, timers, since };
                    self.fail(env, &state, Some(expired.notification()))
                }
            },
            state @ (State::Idle { .. } | State::Connect { .. } | State::Active { .. } | State::OpenSent { .. }) => {
                state
            }
        }
    }

    /// Ends a connection and holds back for a while that grows with each failure.
    fn fail(&mut self, env: &mut Env<'_>, state: &State, notification: Option<Notification>) -> State {
        if let State::Established { since, .. } = state
            && env.now.duration_since(*since) >= STABLE_AFTER
        {
            self.failed_sessions = 0;
        }
        hang_up(env, state, notification);
        self.failed_sessions = self.failed_sessions.saturating_add(1);
        let pause = doubled(IDLE_HOLD_FIRST, self.failed_sessions, IDLE_HOLD_MAX);
        State::Idle { until: Some(env.now + env.jitter.up_to_twice(pause)) }
    }
}

fn connect(env: &mut Env<'_>) -> State {
    let conn = env.fresh_conn();
    env.act(Action::Connect { conn });
    State::Connect { conn, give_up: env.now + CONNECT_TIMEOUT.min(env.params.connect_retry) }
}

fn stop(env: &mut Env<'_>, state: &State, notification: Option<Notification>) -> State {
    hang_up(env, state, notification);
    State::Idle { until: None }
}

fn hang_up(env: &mut Env<'_>, state: &State, notification: Option<Notification>) {
    let (conn, connected) = match state {
        State::Idle { .. } | State::Active { .. } => return,
        State::Connect { conn, .. } => (*conn, false),
        State::OpenSent { link, .. } | State::OpenConfirm { link, .. } | State::Established { link, .. } => {
            (link.conn, true)
        }
    };
    if let (Some(notification), true) = (notification, connected) {
        env.act(Action::Send { conn, message: Message::Notification(notification) });
    }
    env.act(Action::Close { conn });
    if matches!(state, State::Established { .. }) {
        env.act(Action::Down);
    }
}

fn sent(env: &Env<'_>, mut state: State) -> State {
    if let State::OpenConfirm { timers, agreed, .. } | State::Established { timers, agreed, .. } = &mut state {
        timers.wrote(env.now, agreed);
    }
    state
}

/// Why an OPEN is not acceptable; the rest (version, hold time, identifier 0) is refused by the decoder.
fn refuse_open(params: &Params, ours: &Open, theirs: &Open) -> Option<(OpenError, String)> {
    if let Some(expected) = params.peer_asn
        && expected != theirs.asn
    {
        let what = format!("the peer is AS {}, but AS {expected} is configured", theirs.asn);
        return Some((OpenError::BadPeerAs, what));
    }
    if params.local_asn == theirs.asn && ours.router_id == theirs.router_id {
        let what = format!("the peer has our own router ID {} in our own AS", theirs.router_id);
        return Some((OpenError::BadBgpIdentifier, what));
    }
    None
}

/// A timer that ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expired {
    Hold,
    SendHold,
}

impl Expired {
    fn notification(self) -> Notification {
        Notification::new(match self {
            Self::Hold => NotificationCode::HoldTimerExpired,
            Self::SendHold => NotificationCode::SendHoldTimerExpired,
        })
    }

    fn words(self, agreed: &Negotiated) -> String {
        match self {
            Self::Hold => format!("nothing heard from the peer for the hold time of {} s", agreed.hold.as_secs()),
            Self::SendHold => "the peer has not read from its connection for the send hold time".to_owned(),
        }
    }
}

impl Timers {
    fn start(env: &mut Env<'_>, agreed: &Negotiated) -> Self {
        let running = !agreed.hold.is_zero();
        Self {
            hold: running.then(|| env.now + agreed.hold),
            keepalive: running.then(|| env.now + env.jitter.down_to_three_quarters(agreed.keepalive)),
            send_hold: running.then(|| env.now + send_hold(agreed)),
        }
    }

    fn heard(&mut self, now: Instant, agreed: &Negotiated) {
        if let Some(hold) = &mut self.hold {
            *hold = now + agreed.hold;
        }
    }

    fn wrote(&mut self, now: Instant, agreed: &Negotiated) {
        if let Some(at) = &mut self.send_hold {
            *at = now + send_hold(agreed);
        }
    }

    fn next(&self) -> Option<Instant> {
        [self.hold, self.keepalive, self.send_hold].into_iter().flatten().min()
    }

    /// Sends a keepalive that is due; says which timer ends the session, if one does.
    fn expire(&mut self, env: &mut Env<'_>, link: &Link, agreed: &Negotiated) -> Option<Expired> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= env.now);
        if due(self.hold) {
            return Some(Expired::Hold);
        }
        if due(self.send_hold) {
            return Some(Expired::SendHold);
        }
        if due(self.keepalive) {
            env.send(link, Message::Keepalive);
            self.keepalive = Some(env.now + env.jitter.down_to_three_quarters(agreed.keepalive));
        }
        None
    }
}

fn send_hold(agreed: &Negotiated) -> Duration {
    SEND_HOLD_MIN.max(agreed.hold * 2)
}

/// The Cease that a loser of a collision gets (RFC 4486 section 4).
pub(crate) fn collision() -> Notification {
    Notification::cease(CeaseError::ConnectionCollision)
}

#[cfg(test)]
mod tests;
