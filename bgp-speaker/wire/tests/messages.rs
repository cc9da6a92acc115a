//! The other messages by hand: headers, OPEN, NOTIFICATION, ROUTE-REFRESH, End-of-RIB and AS4 reconciliation.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod common;

use causeway_bgp_wire::{
    Afi, Capability, CeaseError, ExtendedNextHop, Family, FrameSplitter, GracefulFamily, GracefulRestart, HeaderError,
    HoldTime, MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN, Message, Notification, NotificationCode, Open, OpenError,
    RefreshKind, RouteRefresh, RouteRefreshError, Safi, SessionContext, Update,
};
use common::{asn, frame, hex, session, two_octets, update_body};

const MARKER: &str = "ffffffffffffffffffffffffffffffff";

fn header_error(text: &str, max_len: u16) -> (HeaderError, Vec<u8>) {
    let mut splitter = FrameSplitter::default();
    splitter.push(&hex(text));
    match splitter.next_frame(max_len).unwrap_err().notification {
        Notification { code: NotificationCode::Header(error), data } => (error, data),
        other => panic!("not a header error: {other:?}"),
    }
}

#[test]
fn header_errors_carry_what_was_wrong() {
    let cases = [
        ("00ffffffffffffffffffffffffffffff 0013 04", HeaderError::ConnectionNotSynchronized, ""),
        (&format!("{MARKER} 0012 04"), HeaderError::BadMessageLength, "0012"),
        (&format!("{MARKER} 0000 04"), HeaderError::BadMessageLength, "0000"),
        (&format!("{MARKER} 1001 02"), HeaderError::BadMessageLength, "1001"),
        (&format!("{MARKER} 0014 04"), HeaderError::BadMessageLength, "0014"),
        (&format!("{MARKER} 001c 01"), HeaderError::BadMessageLength, "001c"),
        (&format!("{MARKER} 0016 02"), HeaderError::BadMessageLength, "0016"),
        (&format!("{MARKER} 0014 03"), HeaderError::BadMessageLength, "0014"),
        (&format!("{MARKER} 0013 00"), HeaderError::BadMessageType, "00"),
        (&format!("{MARKER} 0013 06"), HeaderError::BadMessageType, "06"),
    ];
    for (text, error, data) in cases {
        assert_eq!(header_error(text, MAX_MESSAGE_LEN), (error, hex(data)), "{text}");
    }
}

#[test]
fn extended_messages_are_for_update_but_not_for_open() {
    let max = MAX_EXTENDED_MESSAGE_LEN;
    let mut splitter = FrameSplitter::default();
    splitter.push(&hex(&format!("{MARKER} ffff 02")));
    assert_eq!(splitter.next_frame(max).unwrap(), None, "waits for the rest");
    assert_eq!(header_error(&format!("{MARKER} 1001 01"), max).0, HeaderError::BadMessageLength);
}

#[test]
fn the_splitter_takes_any_pieces() {
    let keepalive = frame(4, &[]);
    let refresh = frame(5, &hex("0001 00 01"));
    let stream = [keepalive.as_slice(), &refresh, &keepalive].concat();
    for size in 1..=stream.len() {
        let mut splitter = FrameSplitter::default();
        let mut frames = Vec::new();
        for piece in stream.chunks(size) {
            splitter.push(piece);
            while let Some(frame) = splitter.next_frame(MAX_MESSAGE_LEN).unwrap() {
                frames.push(frame.to_vec());
            }
        }
        assert_eq!(frames, [keepalive.clone(), refresh.clone(), keepalive.clone()], "pieces of {size}");
        assert_eq!(splitter.pending(), 0);
    }
}

/// AS 65010, hold time 90, 10.0.0.1, then the optional parameters with their length.
fn open(parameters: &str) -> Result<Open, (OpenError, Vec<u8>)> {
    open_body(&format!("04 fdf2 005a 0a000001 {parameters}"))
}

fn open_body(body: &str) -> Result<Open, (OpenError, Vec<u8>)> {
    match Message::decode(&frame(1, &hex(body)), &SessionContext::before_open()) {
        Ok(decoded) => match decoded.message {
            Message::Open(open) => Ok(open),
            other => panic!("not an OPEN: {other:?}"),
        },
        Err(error) => match error.notification {
            Notification { code: NotificationCode::Open(error), data } => Err((error, data)),
            other => panic!("not an OPEN error: {other:?}"),
        },
    }
}

#[test]
fn open_with_every_capability() {
    let v4 = Family::IPV4_UNICAST;
    let v6 = Family::IPV6_UNICAST;
    let all = [
        ("01 04 0001 00 01", Capability::Multiprotocol(v4)),
        ("01 04 0002 ff 01", Capability::Multiprotocol(v6)),
        ("02 00", Capability::RouteRefresh),
        (
            "05 06 0001 0001 0002",
            Capability::ExtendedNextHop(vec![ExtendedNextHop { family: v4, next_hop: Afi::IPV6 }]),
        ),
        ("06 00", Capability::ExtendedMessage),
        (
            "40 0a c078 0001 01 80 0002 01 00",
            Capability::GracefulRestart(GracefulRestart {
                restarting: true,
                notification: true,
                restart_time_s: 120,
                families: vec![
                    GracefulFamily { family: v4, forwarding_preserved: true },
                    GracefulFamily { family: v6, forwarding_preserved: false },
                ],
            }),
        ),
        ("40 02 0fff", Capability::GracefulRestart(GracefulRestart { restart_time_s: 4095, ..Default::default() })),
        ("41 04 fa56ea00", Capability::FourOctetAs(asn(4_200_000_000))),
        ("46 00", Capability::EnhancedRouteRefresh),
        ("49 08 02 6e31 04 7261636b", Capability::Fqdn { host: "n1".to_owned(), domain: "rack".to_owned() }),
        ("4b 04 03 302e31", Capability::SoftwareVersion("0.1".to_owned())),
        ("47 00", Capability::Unknown { code: 71, value: vec![] }),
        // Informative ones that cannot be read are kept.
        ("49 02 05 61", Capability::Unknown { code: 73, value: hex("05 61") }),
        ("4b 02 01 ff", Capability::Unknown { code: 75, value: hex("01 ff") }),
    ];
    let text: String = all.iter().map(|(octets, _)| *octets).collect();
    let len = hex(&text).len();
    let expected: Vec<Capability> = all.into_iter().map(|(_, capability)| capability).collect();
    // All in one parameter, one parameter each is what FRR sends (tests/fixtures), and RFC 9072.
    let classic = open(&format!("{:02x} 02 {len:02x} {text}", len + 2)).unwrap();
    let extended = open(&format!("ff ff {:04x} 02 {len:04x} {text}", len + 3)).unwrap();
    for decoded in [classic, extended] {
        assert_eq!(decoded.capabilities, expected);
        assert_eq!(decoded.asn, asn(4_200_000_000));
        assert_eq!(decoded.hold_time, HoldTime::new(90).unwrap());
        assert_eq!(decoded.router_id.to_string(), "10.0.0.1");
        assert_eq!(decoded.families(), [v4, v6]);
    }
}

#[test]
fn open_without_capabilities_means_ipv4() {
    let decoded = open("00").unwrap();
    assert_eq!(decoded.capabilities, []);
    assert_eq!(decoded.asn, asn(65010));
    assert_eq!(decoded.families(), [Family::IPV4_UNICAST]);
}

#[test]
fn open_errors() {
    let fixed = [
        ("03 fdf2 005a 0a000001 00", OpenError::UnsupportedVersion, "0004"),
        ("04 0000 005a 0a000001 00", OpenError::BadPeerAs, ""),
        ("04 fdf2 0001 0a000001 00", OpenError::UnacceptableHoldTime, ""),
        ("04 fdf2 0002 0a000001 00", OpenError::UnacceptableHoldTime, ""),
        ("04 fdf2 005a 00000000 00", OpenError::BadBgpIdentifier, ""),
    ];
    for (body, error, data) in fixed {
        assert_eq!(open_body(body), Err((error, hex(data))), "{body}");
    }
    let parameters = [
        ("01", OpenError::Unspecific, "one octet of parameters claimed, none there"),
        ("00 02", OpenError::Unspecific, "parameters behind their claimed end"),
        ("02 02 01", OpenError::Unspecific, "a parameter longer than the OPEN"),
        ("01 02", OpenError::Unspecific, "half a parameter"),
        ("02 01 00", OpenError::UnsupportedOptionalParameter, "authentication, long gone"),
        ("03 02 01 41", OpenError::Unspecific, "half a capability"),
        ("04 02 02 41 04", OpenError::Unspecific, "a capability longer than its parameter"),
        ("05 02 03 01 01 00", OpenError::Unspecific, "multiprotocol of one octet"),
        ("05 02 03 02 01 00", OpenError::Unspecific, "route refresh with a value"),
        ("05 02 03 40 01 00", OpenError::Unspecific, "graceful restart of one octet"),
        ("07 02 05 40 03 007800", OpenError::Unspecific, "graceful restart with a quarter family"),
        ("05 02 03 05 01 00", OpenError::Unspecific, "a part of an extended next hop"),
        ("08 02 06 41 04 00000000", OpenError::BadPeerAs, "four-octet AS 0"),
        ("06 02 04 41 02 fdf2", OpenError::Unspecific, "four-octet AS in two"),
        ("ff ff 0004 02 0001 00", OpenError::Unspecific, "RFC 9072, half a capability"),
        ("ff ff 0005 02 0001 00", OpenError::Unspecific, "RFC 9072, length of all is wrong"),
        ("ff ff 00", OpenError::Unspecific, "RFC 9072 without length"),
    ];
    for (text, error, why) in parameters {
        assert_eq!(open(text), Err((error, vec![])), "{why}");
    }
}

#[test]
fn long_lists_of_capabilities_use_rfc_9072_and_come_back() {
    let many = |count: usize| Open {
        asn: asn(65010),
        hold_time: HoldTime::new(9).unwrap(),
        router_id: "10.0.0.1".parse().unwrap(),
        capabilities: vec![Capability::Unknown { code: 200, value: vec![7; 21] }; count],
    };
    for count in [0, 1, 11, 12, 100] {
        let open = many(count);
        let mut octets = Vec::new();
        Message::Open(open.clone()).encode(&SessionContext::before_open(), &mut octets).unwrap();
        assert_eq!(octets.get(29) == Some(&255), count > 11, "{count} capabilities");
        let decoded = Message::decode(&octets, &SessionContext::before_open()).unwrap();
        assert_eq!(decoded.message, Message::Open(open));
    }
    let mut out = vec![1, 2, 3];
    Message::Open(many(200)).encode(&SessionContext::before_open(), &mut out).unwrap_err();
    assert_eq!(out, [1, 2, 3], "nothing is appended on error");
}

#[test]
fn negotiation_takes_what_both_said() {
    let v4 = Family::IPV4_UNICAST;
    let pair = ExtendedNextHop { family: v4, next_hop: Afi::IPV6 };
    let side = |number, capabilities| Open {
        asn: asn(number),
        hold_time: HoldTime::new(90).unwrap(),
        router_id: "10.0.0.1".parse().unwrap(),
        capabilities,
    };
    let mp = Capability::Multiprotocol;
    let full = vec![
        mp(v4),
        mp(Family::IPV6_UNICAST),
        Capability::FourOctetAs(asn(65010)),
        Capability::ExtendedMessage,
        Capability::ExtendedNextHop(vec![pair]),
    ];
    let both = SessionContext::negotiate(&side(65010, full.clone()), &side(65101, full.clone()));
    assert_eq!(both.families, [v4, Family::IPV6_UNICAST]);
    assert!(both.four_octet_as && both.allows_next_hop(v4, Afi::IPV6));
    assert_eq!((both.max_send_len, both.max_receive_len), (65535, 65535));
    let one = SessionContext::negotiate(&side(65010, full.clone()), &side(65010, vec![]));
    assert_eq!(one.families, [v4], "an OPEN without capabilities means IPv4");
    assert!(!one.four_octet_as && !one.allows_next_hop(v4, Afi::IPV6));
    assert_eq!((one.max_send_len, one.max_receive_len), (4096, 65535), "RFC 8654 is one-sided");
    assert_eq!((one.peer, both.peer), (causeway_bgp_wire::PeerKind::Internal, causeway_bgp_wire::PeerKind::External));
}

#[test]
fn notification_codes_come_back_by_number() {
    for code in 0..=u8::MAX {
        for subcode in 0..=u8::MAX {
            assert_eq!(NotificationCode::from_wire(code, subcode).to_wire(), (code, subcode));
        }
    }
    let named = [
        (1, 2, "message header error: bad message length"),
        (2, 11, "OPEN error: role mismatch"),
        (3, 11, "UPDATE error: malformed AS_PATH"),
        (4, 0, "hold timer expired"),
        (5, 3, "state machine error: unexpected message in Established"),
        (6, 4, "cease: administrative reset"),
        (6, 9, "cease: hard reset"),
        (7, 1, "ROUTE-REFRESH error: invalid message length"),
        (8, 0, "send hold timer expired"),
        (9, 1, "code 9 subcode 1"),
        (6, 77, "cease: subcode 77"),
    ];
    for (code, subcode, text) in named {
        assert_eq!(NotificationCode::from_wire(code, subcode).to_string(), text);
    }
}

#[test]
fn shutdown_communication() {
    let shutdown = Notification::shutdown(CeaseError::AdministrativeShutdown, "back at noon \u{1f44b}");
    assert_eq!(shutdown.shutdown_communication().as_deref(), Some("back at noon \u{1f44b}"));
    let reset = Notification::hard_reset(&shutdown);
    assert_eq!(reset.code, NotificationCode::Cease(CeaseError::HardReset));
    assert_eq!(reset.hard_reset_reason(), Some(shutdown.clone()));
    assert_eq!(reset.shutdown_communication().as_deref(), Some("back at noon \u{1f44b}"));
    assert_eq!(shutdown.to_string(), "cease: administrative shutdown \"back at noon \u{1f44b}\"");

    // Cut at a character, not inside of one.
    let long = Notification::shutdown(CeaseError::AdministrativeReset, &"\u{1f44b}".repeat(100));
    assert_eq!(long.shutdown_communication().unwrap().len(), 252);

    let bad = |data: &str| Notification {
        code: NotificationCode::Cease(CeaseError::AdministrativeShutdown),
        data: hex(data),
    };
    for data in ["", "00", "05 61", "02 ff fe"] {
        assert_eq!(bad(data).shutdown_communication(), None, "{data}");
    }
    let nested = Notification::hard_reset(&Notification::hard_reset(&shutdown));
    assert_eq!(nested.shutdown_communication(), None, "a hard reset in a hard reset is none of RFC 8538");
}

#[test]
fn route_refresh() {
    for (octet, kind) in
        [(0, RefreshKind::Request), (1, RefreshKind::Begin), (2, RefreshKind::End), (9, RefreshKind::Other(9))]
    {
        let octets = frame(5, &[0, 25, octet, 70]);
        let expected = RouteRefresh { family: Family { afi: Afi(25), safi: Safi(70) }, kind };
        let decoded = Message::decode(&octets, &session()).unwrap().message;
        assert_eq!(decoded, Message::RouteRefresh(expected));
        let mut again = Vec::new();
        decoded.encode(&session(), &mut again).unwrap();
        assert_eq!(again, octets);
    }
    for body in ["", "0001 01", "0001 02 01 00"] {
        let octets = frame(5, &hex(body));
        let notification = Message::decode(&octets, &session()).unwrap_err().notification;
        let code = NotificationCode::RouteRefresh(RouteRefreshError::InvalidMessageLength);
        assert_eq!(notification, Notification { code, data: octets }, "RFC 7313 section 5: all of the message");
    }
}

fn update(withdrawn: &str, attributes: &str, announced: &str, context: &SessionContext) -> Update {
    let body = update_body(&hex(withdrawn), &hex(attributes), &hex(announced));
    match Message::decode(&frame(2, &body), context).unwrap().message {
        Message::Update(update) => *update,
        other => panic!("not an UPDATE: {other:?}"),
    }
}

#[test]
fn end_of_rib_markers() {
    assert_eq!(update("", "", "", &session()), Update::end_of_rib(Family::IPV4_UNICAST));
    // BIRD and GoBGP, and FRR with two octets of length.
    for octets in ["80 0f 03 0002 01", "90 0f 0003 0002 01"] {
        assert_eq!(update("", octets, "", &session()), Update::end_of_rib(Family::IPV6_UNICAST));
    }
    let other = Family { afi: Afi(25), safi: Safi(70) };
    assert_eq!(update("", "80 0f 03 0019 46", "", &session()).end_of_rib, Some(other), "also of a family not used");
    assert_eq!(update("", "80 0f 08 0002 01 20 20010db8", "", &session()).end_of_rib, None);
    assert_eq!(update("08 0a", "80 0f 03 0002 01", "", &session()).end_of_rib, None);
}

#[test]
fn as4_reconciliation() {
    // RFC 6793 section 4.2.3; 5ba0 is AS_TRANS.
    let path = |attributes: &str| {
        let text = format!("40 01 01 00 40 03 04 0a000001 {attributes}");
        update("", &text, "08 0a", &two_octets()).attributes
    };
    let cases = [
        ("40 02 08 02 03 fe4d 5ba0 5ba0", "c0 11 0a 02 02 fa56ea01 fa56ea02", "65101 4200000001 4200000002"),
        ("40 02 06 02 02 fe4d 5ba0", "c0 11 0a 02 02 fa56ea01 fa56ea02", "4200000001 4200000002"),
        ("40 02 04 02 01 5ba0", "c0 11 0a 02 02 fa56ea01 fa56ea02", "23456"),
        ("40 02 0a 02 02 fe4d fe4e 01 01 5ba0", "c0 11 06 02 01 fa56ea01", "65101 65102 4200000001"),
        ("40 02 08 01 03 fe4d fe4e 5ba0", "c0 11 06 02 01 fa56ea01", "4200000001"),
        ("40 02 0c 01 02 fe4d fe4e 02 02 0001 5ba0", "c0 11 06 02 01 fa56ea01", "{65101,65102} 1 4200000001"),
        ("40 02 04 02 01 5ba0", "c0 11 0c 03 01 0000fe4d 02 01 fa56ea01", "4200000001"),
        ("40 02 04 02 01 5ba0", "", "23456"),
    ];
    for (as_path, as4_path, expected) in cases {
        assert_eq!(path(&format!("{as_path} {as4_path}")).as_path.to_string(), expected, "{as_path} / {as4_path}");
    }
    let both = "40 02 04 02 01 5ba0 c0 11 06 02 01 fa56ea01";
    let aggregated = |octets: &str| path(&format!("{both} {octets}"));
    let merged = aggregated("c0 07 06 5ba0 0a000001 c0 12 08 fa56ea01 0a000002");
    assert_eq!(merged.aggregator.unwrap().asn, asn(4_200_000_001));
    assert_eq!(merged.aggregator.unwrap().router_id.to_string(), "10.0.0.2");
    assert_eq!(merged.as_path.to_string(), "4200000001");
    let stale = aggregated("c0 07 06 fe4d 0a000001 c0 12 08 fa56ea01 0a000002");
    assert_eq!(stale.aggregator.unwrap().asn, asn(65101), "an old speaker has aggregated since");
    assert_eq!(stale.as_path.to_string(), "23456");
    assert_eq!(aggregated("c0 12 08 fa56ea01 0a000002").aggregator, None);
}
