//! How full messages get, and what cannot be sent.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod common;

use causeway_bgp_wire::{
    AsPath, Community, EncodeError, Family, FrameSplitter, MAX_EXTENDED_MESSAGE_LEN, Message, NextHop, Notification,
    NotificationCode, PathAttributes, Prefix, SessionContext, Update, pack,
};
use common::{asn, hex, session};

fn attributes() -> PathAttributes {
    PathAttributes { as_path: AsPath::sequence([asn(65010)]), ..PathAttributes::default() }
}

fn hosts(count: u32) -> impl Iterator<Item = Prefix> {
    (0..count).map(|at| Prefix::v4((0x0a00_0000 + at).into(), 32).unwrap())
}

fn v4_next_hop() -> NextHop {
    NextHop::V4([10, 0, 0, 11].into())
}

#[test]
fn one_prefix_is_these_octets() {
    let mut out = Vec::new();
    let prefix = "192.0.2.0/24".parse().unwrap();
    let messages =
        pack::announce(&session(), Family::IPV4_UNICAST, &attributes(), v4_next_hop(), [prefix], &mut out).unwrap();
    assert_eq!(messages, 1);
    let expected = "ffffffffffffffffffffffffffffffff 002f 02 0000 0014 \
        40 01 01 00  40 02 06 02 01 0000fdf2  40 03 04 0a00000b  18 c00002";
    assert_eq!(out, hex(expected));
}

#[test]
fn one_ipv6_prefix_is_these_octets() {
    let mut out = Vec::new();
    let next_hop =
        NextHop::V6 { global: "fd00:10::11".parse().unwrap(), link_local: Some("fe80::11".parse().unwrap()) };
    let prefix = "fd00:1:1::/64".parse().unwrap();
    pack::announce(&session(), Family::IPV6_UNICAST, &attributes(), next_hop, [prefix], &mut out).unwrap();
    let expected = "ffffffffffffffffffffffffffffffff 0056 02 0000 003f \
        90 0e 002e 0002 01 20 fd000010000000000000000000000011 fe800000000000000000000000000011 00 40 fd00000100010000 \
        40 01 01 00  40 02 06 02 01 0000fdf2";
    assert_eq!(out, hex(expected));
}

#[test]
fn ten_thousand_hosts_fill_messages() {
    // 4096 - 19 - 4 - 20 octets of attributes leave room for 810 prefixes of 5 octets.
    let mut out = Vec::new();
    let family = Family::IPV4_UNICAST;
    let messages = pack::announce(&session(), family, &attributes(), v4_next_hop(), hosts(10_000), &mut out).unwrap();
    assert_eq!(messages, 10_000_usize.div_ceil(810));
    out.clear();
    assert_eq!(pack::withdraw(&session(), family, hosts(10_000), &mut out).unwrap(), 10_000_usize.div_ceil(814));
    out.clear();
    let extended = SessionContext { max_send_len: MAX_EXTENDED_MESSAGE_LEN, ..session() };
    let messages = pack::announce(&extended, family, &attributes(), v4_next_hop(), hosts(10_000), &mut out).unwrap();
    assert_eq!(messages, 1);
}

#[test]
fn nothing_to_send_is_no_message() {
    let mut out = Vec::new();
    for family in [Family::IPV4_UNICAST, Family::IPV6_UNICAST] {
        let next_hop = if family == Family::IPV4_UNICAST {
            v4_next_hop()
        } else {
            "fd00::1".parse::<std::net::IpAddr>().unwrap().into()
        };
        assert_eq!(pack::announce(&session(), family, &attributes(), next_hop, [], &mut out), Ok(0));
        assert_eq!(pack::withdraw(&session(), family, [], &mut out), Ok(0));
    }
    assert!(out.is_empty(), "an empty UPDATE would be an End-of-RIB marker");
}

#[test]
fn end_of_rib_is_what_the_decoder_says() {
    for family in [Family::IPV4_UNICAST, Family::IPV6_UNICAST] {
        let mut out = Vec::new();
        assert_eq!(pack::end_of_rib(family, &mut out), 1);
        let decoded = Message::decode(&out, &session()).unwrap();
        assert_eq!(decoded.message, Message::Update(Box::new(Update::end_of_rib(family))));
        let mut again = Vec::new();
        decoded.message.encode(&session(), &mut again).unwrap();
        assert_eq!(again, out);
    }
}

#[test]
fn attributes_that_leave_no_room() {
    let mut crowded = attributes();
    crowded.communities = (0..1020).map(Community).collect();
    let mut out = b"before".to_vec();
    let error =
        pack::announce(&session(), Family::IPV4_UNICAST, &crowded, v4_next_hop(), hosts(1), &mut out).unwrap_err();
    assert!(matches!(error, EncodeError::AttributesTooLong { max: 4096, .. }), "{error:?}");
    crowded.communities = (0..20_000).map(Community).collect();
    let error =
        pack::announce(&session(), Family::IPV4_UNICAST, &crowded, v4_next_hop(), hosts(1), &mut out).unwrap_err();
    assert!(matches!(error, EncodeError::TooLong { .. }), "{error:?}");
    assert_eq!(out, b"before");
}

#[test]
fn a_prefix_of_another_family_is_refused_and_undone() {
    let mut out = b"before".to_vec();
    let mixed = hosts(2000).chain(["2001:db8::/32".parse().unwrap()]);
    let error = pack::withdraw(&session(), Family::IPV4_UNICAST, mixed, &mut out).unwrap_err();
    assert!(matches!(error, EncodeError::WrongFamily { family: Family::IPV4_UNICAST, .. }), "{error:?}");
    assert_eq!(out, b"before", "the first 814 are taken back");
}

#[test]
fn next_hops_of_the_other_family_need_rfc_8950() {
    let plain = SessionContext { extended_next_hops: vec![], ..session() };
    let next_hop = NextHop::V6 { global: "fd00::1".parse().unwrap(), link_local: None };
    let mut out = Vec::new();
    let family = Family::IPV4_UNICAST;
    let error = pack::announce(&plain, family, &attributes(), next_hop, hosts(1), &mut out).unwrap_err();
    assert_eq!(error, EncodeError::NextHopNotNegotiated { family });
    assert_eq!(pack::announce(&session(), family, &attributes(), next_hop, hosts(1), &mut out), Ok(1));
}

#[test]
fn as_paths_beyond_255_numbers_are_split_into_segments() {
    let mut long = attributes();
    long.as_path = AsPath::sequence((1..=300).map(asn));
    let mut out = Vec::new();
    pack::announce(&session(), Family::IPV4_UNICAST, &long, v4_next_hop(), hosts(1), &mut out).unwrap();
    let Message::Update(update) = Message::decode(&out, &session()).unwrap().message else {
        panic!("not an UPDATE");
    };
    let lengths: Vec<usize> = update.attributes.as_path.segments.iter().map(|segment| segment.asns.len()).collect();
    assert_eq!(lengths, [255, 45]);
    assert_eq!(update.attributes.as_path.len(), 300);
}

#[test]
fn messages_that_are_too_long_are_refused_whole() {
    let notification = Notification { code: NotificationCode::HoldTimerExpired, data: vec![0; 5000] };
    let mut out = Vec::new();
    let error = Message::Notification(notification.clone()).encode(&session(), &mut out).unwrap_err();
    assert_eq!(error, EncodeError::TooLong { what: "NOTIFICATION", len: 5021, max: 4096 });
    assert!(out.is_empty());
    let extended = SessionContext { max_send_len: MAX_EXTENDED_MESSAGE_LEN, ..session() };
    Message::Notification(notification).encode(&extended, &mut out).unwrap();
    let mut splitter = FrameSplitter::default();
    splitter.push(&out);
    assert_eq!(splitter.next_frame(MAX_EXTENDED_MESSAGE_LEN).unwrap().map(<[u8]>::len), Some(5021));
}
