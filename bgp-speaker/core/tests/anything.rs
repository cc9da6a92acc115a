//! Any inputs in any order: the core never panics, never speaks on a connection that is not open, and always knows when
//! to be woken next.
#![allow(clippy::unwrap_used, reason = "a test stops where it stumbles")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use causeway_bgp_core::{
    Asn, ConnId, Core, CoreOptions, Endpoints, Family, Input, InstanceConfig, LocalAddresses, Output, PeerConfig,
    Prefix, RouteAttrs, SessionState,
};
use causeway_bgp_wire::{
    Capability, CeaseError, GracefulFamily, GracefulRestart, HoldTime, Message, Notification, Open, RefreshKind,
    RouteRefresh, RouterId, SessionContext, Update, pack,
};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Configure { peers: u8, hold: u16, secret: bool },
    RemoveInstance,
    Routes { peer: u8, from: u32, count: u32 },
    Complete,
    Wait(u32),
    ToDeadline,
    Connected(u8),
    ConnectFailed(u8),
    Accepted(u8),
    Closed(u8),
    Written(u8),
    Say { conn: u8, what: Said },
    Shutdown(bool),
}

#[derive(Clone, Debug)]
enum Said {
    Open { asn: u32, id: u8, hold: u16, graceful: bool },
    Keepalive,
    Update { from: u32, count: u32 },
    EndOfRib,
    Notification,
    Refresh,
    Noise(Vec<u8>),
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        6 => (65100..65103u32, 1..4u8, prop_oneof![Just(0u16), Just(3), Just(9)], any::<bool>())
            .prop_map(|(asn, id, hold, graceful)| Said::Open { asn, id, hold, graceful }),
        6 => Just(Said::Keepalive),
        2 => (0..1000u32, 1..50u32).prop_map(|(from, count)| Said::Update { from, count }),
        1 => Just(Said::EndOfRib),
        1 => Just(Said::Notification),
        1 => Just(Said::Refresh),
        1 => vec(any::<u8>(), 1..60).prop_map(Said::Noise),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..3u8, prop_oneof![Just(0u16), Just(9), Just(1)], any::<bool>())
            .prop_map(|(peers, hold, secret)| Step::Configure { peers, hold, secret }),
        1 => Just(Step::RemoveInstance),
        3 => (0..3u8, 0..100u32, 0..5000u32).prop_map(|(peer, from, count)| Step::Routes { peer, from, count }),
        1 => Just(Step::Complete),
        3 => (0..20_000u32).prop_map(Step::Wait),
        6 => Just(Step::ToDeadline),
        8 => any::<u8>().prop_map(Step::Connected),
        2 => any::<u8>().prop_map(Step::ConnectFailed),
        4 => (0..3u8).prop_map(Step::Accepted),
        2 => any::<u8>().prop_map(Step::Closed),
        4 => any::<u8>().prop_map(Step::Written),
        20 => (any::<u8>(), said()).prop_map(|(conn, what)| Step::Say { conn, what }),
        1 => any::<bool>().prop_map(Step::Shutdown),
    ]
}

/// A shell that checks everything the core asks for.
struct Shell {
    now: Instant,
    core: Core,
    attempts: BTreeSet<ConnId>,
    open: BTreeSet<ConnId>,
    closed: BTreeSet<ConnId>,
    tokens: BTreeSet<u64>,
    unwritten: Vec<(ConnId, usize)>,
    next_token: u64,
}

#[allow(clippy::disallowed_methods, reason = "virtual time needs an origin")]
fn origin() -> Instant {
    Instant::now()
}

fn peer_address(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10 + number))
}

fn config(peers: u8, hold: u16, secret: bool) -> InstanceConfig {
    let peer = |number: u8| PeerConfig {
        peer_asn: (number == 0).then(|| Asn::new(65101).unwrap()),
        hold_time_s: hold,
        connect_retry_s: u32::from(number),
        graceful_restart_s: (number == 1).then_some(60),
        md5_password: (number == 2 && !secret).then(causeway_bgp_core::Secret::missing),
        ..PeerConfig::new(format!("p{number}"), peer_address(number))
    };
    InstanceConfig {
        name: "i".to_owned(),
        local_asn: Asn::new(65101 + u32::from(secret)).unwrap(),
        router_id: Ipv4Addr::new(10, 0, 0, 2),
        local_port: Some(179),
        peers: (0..peers).map(peer).collect(),
    }
}

fn prefix(number: u32) -> Prefix {
    Prefix::v4(Ipv4Addr::from_bits(0x0a00_0000 + number), 32).unwrap()
}

impl Shell {
    fn pick(set: &BTreeSet<ConnId>, number: u8) -> Option<ConnId> {
        (!set.is_empty()).then(|| *set.iter().nth(usize::from(number) % set.len()).unwrap())
    }

    fn feed(&mut self, input: Input) {
        self.core.handle(self.now, input);
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Connect(request) => assert!(self.attempts.insert(request.conn), "a connection name used twice"),
                Output::Adopt { token, conn, .. } => {
                    assert!(self.tokens.remove(&token), "a token that was never offered");
                    assert!(self.open.insert(conn) && !self.closed.contains(&conn));
                }
                Output::Refuse { token, .. } => assert!(self.tokens.remove(&token), "a token that was never offered"),
                Output::Send { conn, bytes } => {
                    assert!(self.open.contains(&conn), "output to {conn:?}, which is not open");
                    assert!(!bytes.is_empty());
                    self.unwritten.push((conn, bytes.len()));
                }
                Output::Close { conn } => {
                    assert!(self.closed.insert(conn), "closed twice");
                    let known = self.attempts.remove(&conn) | self.open.remove(&conn);
                    assert!(known || self.closed.contains(&conn));
                    self.unwritten.retain(|(of, _)| *of != conn);
                }
                Output::Observed { .. } => {}
            }
        }
        assert!(self.tokens.is_empty(), "an accepted connection got no answer");
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Configure { peers, hold, secret } => self.feed(Input::SetInstance(config(peers, hold, secret))),
            Step::RemoveInstance => self.feed(Input::RemoveInstance("i".to_owned())),
            Step::Routes { peer, from, count } => {
                let routes = (from..from + count).map(|number| (prefix(number), RouteAttrs::default())).collect();
                let (instance, peer) = ("i".to_owned(), format!("p{peer}"));
                self.feed(Input::SetRoutes { instance, peer, routes: Arc::new(routes) });
            }
            Step::Complete => self.feed(Input::RoutesComplete("i".to_owned())),
            Step::Wait(millis) => {
                self.now += Duration::from_millis(u64::from(millis));
                self.feed(Input::Tick);
            }
            Step::ToDeadline => {
                if let Some(at) = self.core.deadline() {
                    self.now = self.now.max(at);
                    self.feed(Input::Tick);
                    assert!(self.core.deadline().is_none_or(|next| next > self.now), "the deadline does not move");
                }
            }
            Step::Connected(number) => {
                if let Some(conn) = Self::pick(&self.attempts, number) {
                    self.attempts.remove(&conn);
                    self.open.insert(conn);
                    let (endpoints, addresses) = (self.endpoints(0), LocalAddresses::default());
                    self.feed(Input::Connected { conn, endpoints, addresses });
                }
            }
            Step::ConnectFailed(number) => {
                if let Some(conn) = Self::pick(&self.attempts, number) {
                    self.attempts.remove(&conn);
                    self.feed(Input::ConnectFailed { conn, error: "refused".to_owned() });
                }
            }
            Step::Accepted(peer) => {
                self.next_token += 1;
                self.tokens.insert(self.next_token);
                let (token, endpoints, addresses) = (self.next_token, self.endpoints(peer), LocalAddresses::default());
                self.feed(Input::Accepted { token, instance: "i".to_owned(), endpoints, addresses });
            }
            Step::Closed(number) => {
                if let Some(conn) = Self::pick(&self.open, number) {
                    self.open.remove(&conn);
                    self.unwritten.retain(|(of, _)| *of != conn);
                    self.feed(Input::Closed { conn, error: "reset".to_owned() });
                }
            }
            Step::Written(count) => {
                for _ in 0..=count % 8 {
                    if self.unwritten.is_empty() {
                        break;
                    }
                    let (conn, octets) = self.unwritten.remove(0);
                    self.feed(Input::Written { conn, octets, sends: 1 });
                }
            }
            Step::Say { conn, what } => {
                if let Some(conn) = Self::pick(&self.open, conn) {
                    self.feed(Input::Received { conn, bytes: bytes(&what) });
                }
            }
            Step::Shutdown(graceful) => self.feed(Input::Shutdown { graceful, text: "bye".to_owned() }),
        }
        self.check();
    }

    fn endpoints(&self, peer: u8) -> Endpoints {
        let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 179);
        Endpoints { local, remote: SocketAddr::new(peer_address(peer), 40_000) }
    }

    fn check(&self) {
        let status = self.core.status(self.now, SystemTime::UNIX_EPOCH);
        for peer in status.instances.values().flat_map(|instance| instance.peers.values()) {
            let up = peer.state == SessionState::Established;
            assert_eq!(peer.negotiated.is_some(), up || peer.state == SessionState::OpenConfirm);
            assert!(peer.since <= self.now);
            for family in &peer.families {
                assert!(up || (family.advertised, family.pending, family.received) == (0, 0, 0));
            }
        }
        // At most two connections and one attempt for each of three peers.
        assert!(self.open.len() <= 6, "{} connections", self.open.len());
        assert!(self.attempts.len() <= 3, "{} attempts", self.attempts.len());
        for conn in &self.open {
            let waiting: usize = self.unwritten.iter().filter(|(of, _)| of == conn).map(|(_, octets)| octets).sum();
            assert!(waiting < 1024 * 1024, "{waiting} octets wait for one connection");
        }
    }
}

fn bytes(said: &Said) -> Vec<u8> {
    let context = SessionContext {
        families: vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST],
        four_octet_as: true,
        ..SessionContext::before_open()
    };
    let mut out = Vec::new();
    let message = match said {
        Said::Open { asn, id, hold, graceful } => {
            let asn = Asn::new(*asn).unwrap();
            let mut capabilities = vec![
                Capability::Multiprotocol(Family::IPV4_UNICAST),
                Capability::Multiprotocol(Family::IPV6_UNICAST),
                Capability::RouteRefresh,
                Capability::FourOctetAs(asn),
            ];
            if *graceful {
                let family = GracefulFamily { family: Family::IPV4_UNICAST, forwarding_preserved: true };
                capabilities.push(Capability::GracefulRestart(GracefulRestart {
                    restarting: true,
                    notification: true,
                    restart_time_s: 60,
                    families: vec![family],
                }));
            }
            let router_id = RouterId::new(Ipv4Addr::new(10, 0, 0, *id)).unwrap();
            Message::Open(Open { asn, hold_time: HoldTime::new(*hold).unwrap(), router_id, capabilities })
        }
        Said::Keepalive => Message::Keepalive,
        Said::Update { from, count } => {
            let prefixes = (*from..from + count).map(prefix);
            pack::withdraw(&context, Family::IPV4_UNICAST, prefixes, &mut out).unwrap();
            return out;
        }
        Said::EndOfRib => Message::Update(Box::new(Update::end_of_rib(Family::IPV6_UNICAST))),
        Said::Notification => Message::Notification(Notification::cease(CeaseError::AdministrativeReset)),
        Said::Refresh => {
            Message::RouteRefresh(RouteRefresh { family: Family::IPV4_UNICAST, kind: RefreshKind::Request })
        }
        Said::Noise(noise) => return noise.clone(),
    };
    message.encode(&context, &mut out).unwrap();
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_breaks_the_rules(steps in vec(step(), 1..150)) {
        let now = origin();
        let mut shell = Shell {
            now,
            core: Core::new(now, CoreOptions { seed: 5, restarting: true, ..CoreOptions::default() }),
            attempts: BTreeSet::new(),
            open: BTreeSet::new(),
            closed: BTreeSet::new(),
            tokens: BTreeSet::new(),
            unwritten: Vec::new(),
            next_token: 0,
        };
        shell.feed(Input::SetInstance(config(3, 9, true)));
        for step in steps {
            shell.take(step);
        }
    }
}
