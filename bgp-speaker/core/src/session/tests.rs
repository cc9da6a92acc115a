//! Every event in every state, as one table that people can read; and the timers.
use std::fmt::Write as _;

use causeway_bgp_wire::{
    Capability, Family, HeaderError, HoldTime, PathAttributes, RefreshKind, RouterId, Update, UpdateError,
};

use super::*;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/session/table.txt");

fn asn(number: u32) -> Asn {
    Asn::new(number).unwrap()
}

#[allow(clippy::disallowed_methods, reason = "virtual time needs an origin")]
fn origin() -> Instant {
    Instant::now()
}

fn open(number: u32, id: [u8; 4], hold: u16) -> Open {
    Open {
        asn: asn(number),
        hold_time: HoldTime::new(hold).unwrap(),
        router_id: RouterId::new(id.into()).unwrap(),
        capabilities: vec![
            Capability::Multiprotocol(Family::IPV4_UNICAST),
            Capability::RouteRefresh,
            Capability::FourOctetAs(asn(number)),
        ],
    }
}

fn endpoints() -> Endpoints {
    Endpoints { local: "10.0.0.1:179".parse().unwrap(), remote: "10.0.0.2:179".parse().unwrap() }
}

struct Bench {
    now: Instant,
    params: Params,
    jitter: Jitter,
    next_conn: u64,
    actions: Vec<Action>,
    session: Session,
}

impl Bench {
    fn new() -> Self {
        let seconds = Duration::from_secs;
        let params = Params {
            local_asn: asn(65010),
            peer_asn: Some(asn(65101)),
            keepalive: seconds(30),
            connect_retry: seconds(120),
        };
        let (jitter, session) = (Jitter::new(1), Session::new());
        Self { now: origin(), params, jitter, next_conn: 0, actions: Vec::new(), session }
    }

    /// Brings a fresh session to `state` the normal way.
    fn at(state: SessionState) -> Self {
        let mut bench = Self::new();
        let way = [
            (SessionState::Connect, "Start"),
            (SessionState::OpenSent, "Connected"),
            (SessionState::OpenConfirm, "OPEN"),
            (SessionState::Established, "KEEPALIVE"),
        ];
        for (_, event) in way.iter().filter(|(reached, _)| *reached <= state && state != SessionState::Active) {
            bench.feed(event);
        }
        if state == SessionState::Active {
            bench.feed("Start");
            bench.feed("ConnectFailed");
        }
        assert_eq!(bench.session.state(), state);
        bench.actions.clear();
        bench
    }

    fn feed(&mut self, event: &str) {
        let event = self.event(event);
        self.handle(event);
    }

    fn handle(&mut self, event: Event) {
        let mut env = Env {
            now: self.now,
            params: &self.params,
            jitter: &mut self.jitter,
            next_conn: &mut self.next_conn,
            actions: &mut self.actions,
        };
        self.session.handle(&mut env, event);
    }

    fn event(&self, name: &str) -> Event {
        let conn = self.session.conn().unwrap_or(ConnId(99));
        let ours = Box::new(open(65010, [10, 0, 0, 1], 90));
        let words = || "words".to_owned();
        match name {
            "Start" => Event::Start,
            "Stop" => {
                Event::Stop { notification: Some(Notification::cease(CeaseError::PeerDeconfigured)), reason: words() }
            }
            "Connected" if self.session.state() != SessionState::Connect => {
                Event::Connected { conn: ConnId(97), endpoints: endpoints(), open: ours }
            }
            "Connected" => Event::Connected { conn, endpoints: endpoints(), open: ours },
            "ConnectFailed" => Event::ConnectFailed { error: words() },
            "Accepted" => Event::Accepted { conn: ConnId(98), endpoints: endpoints(), open: ours },
            "Lost" => Event::Lost { error: words() },
            "OPEN" => Event::Message(Message::Open(open(65101, [10, 0, 0, 2], 9))),
            "OPEN of another AS" => Event::Message(Message::Open(open(65102, [10, 0, 0, 2], 9))),
            "KEEPALIVE" => Event::Message(Message::Keepalive),
            "UPDATE" => Event::Message(Message::Update(Box::new(Update::end_of_rib(Family::IPV4_UNICAST)))),
            "NOTIFICATION" => {
                Event::Message(Message::Notification(Notification::cease(CeaseError::AdministrativeReset)))
            }
            "ROUTE-REFRESH" => Event::Message(Message::RouteRefresh(RouteRefresh {
                family: Family::IPV4_UNICAST,
                kind: RefreshKind::Request,
            })),
            "bad header" => Event::Undecodable(undecodable(NotificationCode::Header(HeaderError::BadMessageType))),
            "bad UPDATE" => {
                Event::Undecodable(undecodable(NotificationCode::Update(UpdateError::MalformedAttributeList)))
            }
            "Sent" => Event::Sent,
            "Tick too early" | "Tick at the deadline" => Event::Tick,
            other => panic!("no event {other}"),
        }
    }
}

fn undecodable(code: NotificationCode) -> DecodeError {
    DecodeError { what: "words".to_owned(), notification: Notification::new(code) }
}

const STATES: [SessionState; 6] = [
    SessionState::Idle,
    SessionState::Connect,
    SessionState::Active,
    SessionState::OpenSent,
    SessionState::OpenConfirm,
    SessionState::Established,
];

const EVENTS: [&str; 17] = [
    "Start",
    "Stop",
    "Connected",
    "ConnectFailed",
    "Accepted",
    "Lost",
    "OPEN",
    "OPEN of another AS",
    "KEEPALIVE",
    "UPDATE",
    "NOTIFICATION",
    "ROUTE-REFRESH",
    "bad header",
    "bad UPDATE",
    "Sent",
    "Tick too early",
    "Tick at the deadline",
];

fn words(action: &Action) -> Option<String> {
    Some(match action {
        Action::Connect { .. } => "connect".to_owned(),
        Action::Send { message: Message::Notification(notification), .. } => {
            format!("send NOTIFICATION ({notification})")
        }
        Action::Send { message, .. } => format!("send {}", message.message_type()),
        Action::Close { .. } => "close".to_owned(),
        Action::Moved { .. } => return None,
        Action::NotificationReceived(_) => "note NOTIFICATION".to_owned(),
        Action::Up(_) => "up".to_owned(),
        Action::Down => "down".to_owned(),
        Action::Update(_) => "give UPDATE".to_owned(),
        Action::Refresh(_) => "give ROUTE-REFRESH".to_owned(),
    })
}

/// RFC 4271 section 8.2.2 as this machine does it. After a change on purpose: `REWRITE_FIXTURES=1 cargo test`, then read
/// the difference.
#[test]
fn every_event_in_every_state() {
    let mut table = String::from("# state + event -> next state: actions in order. \"-\" is: nothing happens.\n");
    for state in STATES {
        writeln!(table, "\n{state}").unwrap();
        for event in EVENTS {
            let mut bench = Bench::at(state);
            if event == "Tick at the deadline" {
                bench.now = bench.session.deadline().unwrap_or(bench.now);
            }
            bench.feed(event);
            let moved = bench.actions.iter().filter(|action| matches!(action, Action::Moved { .. })).count();
            assert_eq!(moved, usize::from(bench.session.state() != state), "one note for each move: {state} {event}");
            let actions: Vec<String> = bench.actions.iter().filter_map(words).collect();
            let next = if bench.session.state() == state { "-" } else { bench.session.state().name() };
            let line = format!("  {event:<22} -> {next:<12} {}", actions.join(", "));
            writeln!(table, "{}", line.trim_end()).unwrap();
        }
    }
    if std::env::var_os("REWRITE_FIXTURES").is_some() {
        std::fs::write(FIXTURE, &table).unwrap();
    }
    let expected = std::fs::read_to_string(FIXTURE).unwrap_or_default();
    assert_eq!(table, expected, "the state machine changed: see REWRITE_FIXTURES above");
}

#[test]
fn pauses_grow_and_stay_below_connect_retry() {
    let mut bench = Bench::new();
    bench.feed("Start");
    let mut last = Duration::ZERO;
    for attempt in 0..20 {
        bench.feed("ConnectFailed");
        let pause = bench.session.deadline().unwrap() - bench.now;
        assert!(pause < bench.params.connect_retry, "{pause:?} at attempt {attempt}");
        if attempt == 0 {
            assert!(pause < 2 * RETRY_FIRST);
        }
        last = pause;
        bench.now += pause;
        bench.handle(Event::Tick);
        assert_eq!(bench.session.state(), SessionState::Connect);
    }
    assert!(last >= RETRY_MAX && last < 2 * RETRY_MAX);
    // A shorter ConnectRetryTime is respected.
    bench.params.connect_retry = Duration::from_secs(4);
    bench.feed("ConnectFailed");
    assert!(bench.session.deadline().unwrap() - bench.now < bench.params.connect_retry);
}

#[test]
fn a_peer_that_flaps_is_held_back_and_forgiven_after_a_stable_time() {
    let mut bench = Bench::new();
    bench.feed("Start");
    let fail_after = |bench: &mut Bench, lived: Duration| {
        for event in ["Connected", "OPEN", "KEEPALIVE"] {
            bench.feed(event);
        }
        bench.now += lived;
        bench.feed("NOTIFICATION");
        assert_eq!(bench.session.state(), SessionState::Idle);
        let pause = bench.session.deadline().unwrap() - bench.now;
        bench.now += pause;
        bench.handle(Event::Tick);
        pause
    };
    let pauses: Vec<Duration> = (0..10).map(|_| fail_after(&mut bench, Duration::from_secs(1))).collect();
    assert!(pauses[0] < 2 * IDLE_HOLD_FIRST);
    assert!(pauses[9] >= IDLE_HOLD_MAX && pauses[9] < 2 * IDLE_HOLD_MAX);
    assert!(fail_after(&mut bench, STABLE_AFTER) < 2 * IDLE_HOLD_FIRST);
}

#[test]
fn keepalives_flow_and_silence_ends_the_session() {
    let mut bench = Bench::at(SessionState::Established);
    let start = bench.now;
    let mut keepalives = 0;
    while bench.session.state() == SessionState::Established {
        bench.now = bench.session.deadline().unwrap();
        bench.actions.clear();
        bench.handle(Event::Tick);
        keepalives += usize::from(matches!(bench.actions[..], [Action::Send { message: Message::Keepalive, .. }]));
    }
    // A hold time of 9 s, as the peer's OPEN says; a third of it, jittered, between keepalives.
    assert_eq!(bench.now - start, Duration::from_secs(9));
    assert!((2..=3).contains(&keepalives), "{keepalives} keepalives in 9 s");
}

#[test]
fn a_peer_that_does_not_read_is_dropped() {
    let mut bench = Bench::at(SessionState::Established);
    let start = bench.now;
    while bench.session.state() == SessionState::Established {
        // It talks, so the hold timer is content.
        bench.now += Duration::from_secs(1);
        bench.feed("KEEPALIVE");
        bench.actions.clear();
        bench.handle(Event::Tick);
        assert!(bench.now - start <= SEND_HOLD_MIN);
    }
    assert_eq!(bench.now - start, SEND_HOLD_MIN);
    let sent = bench.actions.iter().filter_map(words).next().unwrap();
    assert_eq!(sent, "send NOTIFICATION (send hold timer expired)");
}

#[test]
fn a_hold_time_of_zero_means_no_timers() {
    let mut bench = Bench::at(SessionState::OpenSent);
    bench.handle(Event::Message(Message::Open(open(65101, [10, 0, 0, 2], 0))));
    bench.feed("KEEPALIVE");
    assert_eq!(bench.session.state(), SessionState::Established);
    assert_eq!(bench.session.deadline(), None);
}

#[test]
fn our_own_router_id_in_our_own_as_is_refused() {
    let mut bench = Bench::at(SessionState::OpenSent);
    bench.params.peer_asn = None;
    bench.handle(Event::Message(Message::Open(open(65010, [10, 0, 0, 1], 9))));
    assert_eq!(bench.session.state(), SessionState::Idle);
    let sent = bench.actions.iter().filter_map(words).next().unwrap();
    assert_eq!(sent, "send NOTIFICATION (OPEN error: bad BGP identifier)");
    // The same identifier in another AS is fine (RFC 6286), and any AS is when none is configured.
    let mut bench = Bench::at(SessionState::OpenSent);
    bench.params.peer_asn = None;
    bench.handle(Event::Message(Message::Open(open(64999, [10, 0, 0, 1], 9))));
    assert_eq!(bench.session.state(), SessionState::OpenConfirm);
}

#[test]
fn an_update_reaches_the_peer_layer_whole() {
    let mut bench = Bench::at(SessionState::Established);
    let update =
        Update { attributes: PathAttributes { med: Some(7), ..PathAttributes::default() }, ..Update::default() };
    bench.handle(Event::Message(Message::Update(Box::new(update))));
    let given = bench.actions.iter().find_map(|action| match action {
        Action::Update(update) => update.attributes.med,
        _ => None,
    });
    assert_eq!(given, Some(7));
}
