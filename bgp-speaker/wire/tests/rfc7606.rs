//! RFC 7606 rule by rule: what a malformed UPDATE does to its routes and to the session.
//!
//! Each test takes a good UPDATE, spoils one thing, and states the remedy. Section numbers are those of RFC 7606 unless
//! another RFC is named. Sections without a test, because the attribute is not read here but kept and passed on as unknown,
//! with whatever is in it: 7.13 (Traffic Engineering), 7.15 (IPv6 extended communities), 7.16 (ATTR_SET).
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod common;

use causeway_bgp_wire::{
    Afi, Decoded, Family, Malformed, Message, NextHop, Notification, NotificationCode, Remedy, SessionContext, Update,
    UpdateError,
};
use common::{frame, hex, internal, session, two_octets, update_body};

const ORIGIN: &str = "40 01 01 00";
const AS_PATH: &str = "40 02 06 02 01 0000fe4d";
const NEXT_HOP: &str = "40 03 04 0a000001";
/// MP_REACH_NLRI for 2001:db8::/32 through fd00::1.
const MP_REACH: &str = "80 0e 1a 0002 01 10 fd000000000000000000000000000001 00 20 20010db8";
/// 192.0.2.0/24
const PREFIX: &str = "18 c00002";

/// What became of an UPDATE.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// All routes live; these attributes were discarded.
    Lives(Vec<u8>),
    /// All announced prefixes are withdrawn, because of these attributes (discarded ones among them).
    Withdrawn(Vec<u8>),
    /// The session ends.
    Reset(UpdateError),
}
use Outcome::{Lives, Reset, Withdrawn};

/// An UPDATE of IPv4 routes: the attributes given, and one prefix.
fn outcome(attributes: &[&str], context: &SessionContext) -> Outcome {
    run(&update_body(&[], &hex(&attributes.concat()), &hex(PREFIX)), context).0
}

fn run(body: &[u8], context: &SessionContext) -> (Outcome, Update) {
    match Message::decode(&frame(2, body), context) {
        Ok(Decoded { message: Message::Update(update), malformed }) => {
            let told = |faults: &[Malformed]| faults.iter().filter_map(|fault| fault.attribute).collect::<Vec<u8>>();
            let strongest = malformed.iter().map(|fault| fault.remedy).max();
            let outcome = if strongest == Some(Remedy::TreatAsWithdraw) {
                assert!(update.reach.is_empty(), "treat-as-withdraw leaves routes: {update:?}");
                Withdrawn(told(&malformed))
            } else {
                Lives(told(&malformed))
            };
            (outcome, *update)
        }
        Ok(other) => panic!("not an UPDATE: {other:?}"),
        Err(error) => match error.notification {
            Notification { code: NotificationCode::Update(code), .. } => (Reset(code), Update::default()),
            other => panic!("not an UPDATE error: {other:?}"),
        },
    }
}

/// A good UPDATE with one attribute more, from an external peer.
fn with(attribute: &str) -> Outcome {
    outcome(&[ORIGIN, AS_PATH, NEXT_HOP, attribute], &session())
}

fn with_internal(attribute: &str) -> Outcome {
    outcome(&[ORIGIN, AS_PATH, NEXT_HOP, attribute], &internal())
}

#[test]
fn a_good_update_lives() {
    assert_eq!(outcome(&[ORIGIN, AS_PATH, NEXT_HOP], &session()), Lives(vec![]));
    assert_eq!(outcome(&[MP_REACH, ORIGIN, AS_PATH, NEXT_HOP], &session()), Lives(vec![]));
}

#[test]
fn section_3_b_lengths_beyond_the_message_reset() {
    assert_eq!(run(&hex("0005 18c0"), &session()).0, Reset(UpdateError::MalformedAttributeList));
    assert_eq!(run(&hex("0000 0005 40 01"), &session()).0, Reset(UpdateError::MalformedAttributeList));
    assert_eq!(run(&hex("0001 00 00"), &session()).0, Reset(UpdateError::MalformedAttributeList));
}

#[test]
fn section_3_c_optional_or_transitive_bit_wrong_withdraws() {
    for (flags_and_value, code) in [
        ("c0 01 01 00", 1),
        ("80 01 01 00", 1),
        ("00 04 04 00000032", 4),
        ("c0 04 04 00000032", 4),
        ("80 06 00", 6),
        ("40 07 08 0000fe4d 0a000001", 7),
        ("80 07 08 0000fe4d 0a000001", 7),
        ("80 08 04 fe4d0064", 8),
        ("80 10 08 0002fe4d00000007", 16),
        ("40 20 0c 000000010000000200000003", 32),
    ] {
        let outcome = match code {
            // Instead of the good one.
            1 => outcome(&[flags_and_value, AS_PATH, NEXT_HOP], &session()),
            _ => with(flags_and_value),
        };
        let told = if code == 1 { vec![1, 1] } else { vec![code] };
        assert_eq!(outcome, Withdrawn(told), "{flags_and_value}");
    }
}

#[test]
fn section_3_c_partial_and_unused_bits_do_not_matter() {
    for attribute in ["a0 04 04 00000032", "8f 04 04 00000032", "90 04 0004 00000032", "60 06 00"] {
        assert_eq!(with(attribute), Lives(vec![]), "{attribute}");
    }
}

#[test]
fn section_3_c_wrong_flags_of_mp_reach_withdraw_its_prefixes() {
    let spoiled = MP_REACH.replacen("80", "c0", 1);
    let body = update_body(&[], &hex(&[&spoiled, ORIGIN, AS_PATH].concat()), &[]);
    let (outcome, update) = run(&body, &session());
    assert_eq!(outcome, Withdrawn(vec![14]));
    assert_eq!(update.withdrawn[0].family, Family::IPV6_UNICAST);
    assert_eq!(update.withdrawn[0].prefixes, ["2001:db8::/32".parse().unwrap()]);
}

#[test]
fn section_3_d_missing_mandatory_attribute_withdraws() {
    assert_eq!(outcome(&[AS_PATH, NEXT_HOP], &session()), Withdrawn(vec![1]));
    assert_eq!(outcome(&[ORIGIN, NEXT_HOP], &session()), Withdrawn(vec![2]));
    assert_eq!(outcome(&[ORIGIN, AS_PATH], &session()), Withdrawn(vec![3]));
    assert_eq!(outcome(&[], &session()), Withdrawn(vec![3, 1, 2]));
    // MP_REACH_NLRI has its own next hop.
    let body = update_body(&[], &hex(&[MP_REACH, ORIGIN, AS_PATH].concat()), &[]);
    assert_eq!(run(&body, &session()).0, Lives(vec![]));
}

#[test]
fn section_3_e_unknown_well_known_attribute_resets() {
    // RFC 4271 section 6.3, which RFC 7606 leaves as it was; the data is the attribute.
    let attributes = hex(&[ORIGIN, AS_PATH, NEXT_HOP, "40 63 02 abcd"].concat());
    let error = Message::decode(&frame(2, &update_body(&[], &attributes, &hex(PREFIX))), &session()).unwrap_err();
    assert_eq!(error.notification.code, NotificationCode::Update(UpdateError::UnrecognizedWellKnownAttribute));
    assert_eq!(error.notification.data, hex("40 63 02 abcd"));
}

#[test]
fn section_3_g_a_second_mp_attribute_resets() {
    for mp in [MP_REACH, "80 0f 03 0002 01"] {
        let body = update_body(&[], &hex(&[mp, ORIGIN, AS_PATH, mp].concat()), &[]);
        assert_eq!(run(&body, &session()).0, Reset(UpdateError::MalformedAttributeList), "{mp}");
    }
}

#[test]
fn section_3_g_another_attribute_twice_keeps_the_first() {
    let attributes = hex(&[ORIGIN, AS_PATH, NEXT_HOP, "80 04 04 00000001 80 04 04 00000002"].concat());
    let (outcome, update) = run(&update_body(&[], &attributes, &hex(PREFIX)), &session());
    assert_eq!(outcome, Lives(vec![4]));
    assert_eq!(update.attributes.med, Some(1));
    // Also when the second is malformed.
    assert_eq!(with("40 01 02 0000"), Lives(vec![1]));
}

#[test]
fn section_3_h_the_strongest_remedy_wins() {
    assert_eq!(with("40 06 01 00 80 04 01 00"), Withdrawn(vec![6, 4]));
    assert_eq!(with("80 04 01 00 40 63 00"), Reset(UpdateError::UnrecognizedWellKnownAttribute));
}

#[test]
fn section_4_attribute_beyond_the_list_withdraws_what_the_ipv4_field_says() {
    for broken in ["40", "40 05", "40 05 04", "40 05 04 0000", "50 05", "50 05 00", "50 05 ffff 00"] {
        let (outcome, update) =
            run(&update_body(&[], &hex(&[ORIGIN, AS_PATH, NEXT_HOP, broken].concat()), &hex(PREFIX)), &session());
        let told = hex(broken).get(1).copied().into_iter().collect();
        assert_eq!(outcome, Withdrawn(told), "{broken}");
        assert_eq!(update.withdrawn[0].prefixes, ["192.0.2.0/24".parse().unwrap()]);
    }
}

#[test]
fn section_3_j_an_mp_attribute_beyond_the_list_resets() {
    for broken in ["80 0e", "80 0e 30 0002 01", "90 0f 00", "80 0f 09 0002 01 20 20010db8"] {
        let body = update_body(&[], &hex(&[ORIGIN, AS_PATH, NEXT_HOP, broken].concat()), &hex(PREFIX));
        assert_eq!(run(&body, &session()).0, Reset(UpdateError::MalformedAttributeList), "{broken}");
    }
}

#[test]
fn section_5_2_a_fault_without_any_prefix_resets() {
    let body = update_body(&[], &hex(&[ORIGIN, AS_PATH, "80 04 01 00"].concat()), &[]);
    assert_eq!(run(&body, &session()).0, Reset(UpdateError::AttributeLength));
    let body = update_body(&hex(PREFIX), &hex("80 04 01 00"), &[]);
    assert_eq!(run(&body, &session()).0, Reset(UpdateError::AttributeLength));
    // Attribute discard is no reason.
    let body = update_body(&[], &hex(&[ORIGIN, AS_PATH, "40 06 01 00"].concat()), &[]);
    assert_eq!(run(&body, &session()).0, Lives(vec![6]));
    // Withdrawals alone, and even MP_UNREACH_NLRI with wrong flags, carry no route to lose.
    let body = update_body(&[], &hex("c0 0f 08 0002 01 20 20010db8"), &[]);
    let (outcome, update) = run(&body, &session());
    assert_eq!(outcome, Withdrawn(vec![15]));
    assert_eq!(update.withdrawn.len(), 1);
}

#[test]
fn section_5_3_prefixes_that_cannot_be_read_reset() {
    for (withdrawn, announced) in [("21 c000020000", ""), ("18 c000", ""), ("", "21 c000020000"), ("", "20 c00002")] {
        let body = update_body(&hex(withdrawn), &hex(&[ORIGIN, AS_PATH, NEXT_HOP].concat()), &hex(announced));
        assert_eq!(run(&body, &session()).0, Reset(UpdateError::InvalidNetworkField), "{withdrawn} {announced}");
    }
    for mp in [
        "80 0e 1a 0002 01 10 fd000000000000000000000000000001 00 21 20010db8",
        "80 0e 17 0002 01 10 fd000000000000000000000000000001 00 81 00",
        "80 0f 05 0002 01 20 20",
        "80 0f 04 0002 01 81",
    ] {
        let body = update_body(&[], &hex(&[mp, ORIGIN, AS_PATH].concat()), &[]);
        assert_eq!(run(&body, &session()).0, Reset(UpdateError::OptionalAttribute), "{mp}");
    }
}

#[test]
fn section_5_3_bits_behind_a_prefix_mean_nothing() {
    let body = update_body(&[], &hex(&[ORIGIN, AS_PATH, NEXT_HOP].concat()), &hex("17 c00003"));
    let (outcome, update) = run(&body, &session());
    assert_eq!(outcome, Lives(vec![]));
    assert_eq!(update.reach[0].prefixes, ["192.0.2.0/23".parse().unwrap()]);
}

#[test]
fn section_7_1_origin() {
    for origin in ["40 01 00", "40 01 02 0000", "40 01 01 03", "40 01 01 ff"] {
        assert_eq!(outcome(&[origin, AS_PATH, NEXT_HOP], &session()), Withdrawn(vec![1]), "{origin}");
    }
}

#[test]
fn section_7_2_as_path() {
    for (as_path, why) in [
        ("40 02 06 05 01 0000fe4d", "a segment type that is not defined"),
        ("40 02 06 00 01 0000fe4d", "segment type 0"),
        ("40 02 06 02 02 0000fe4d", "a segment longer than the attribute"),
        ("40 02 07 02 01 0000fe4d 02", "a stray octet, on which zettabgp never ends"),
        ("40 02 02 02 00", "a segment without numbers"),
        ("40 02 01 02", "half a segment head"),
        ("40 02 06 02 01 00000000", "AS 0 (RFC 7607)"),
        ("40 02 06 03 01 0000fe4d", "a confederation segment from outside (RFC 5065)"),
    ] {
        assert_eq!(outcome(&[ORIGIN, as_path, NEXT_HOP], &session()), Withdrawn(vec![2]), "{why}");
    }
    assert_eq!(outcome(&[ORIGIN, "40 02 00", NEXT_HOP], &session()), Lives(vec![]), "an empty path is a path");
    assert_eq!(outcome(&[ORIGIN, "40 02 06 03 01 0000fe4d", NEXT_HOP], &internal()), Lives(vec![]));
}

#[test]
fn section_7_3_next_hop() {
    for next_hop in [
        "40 03 00",
        "40 03 05 0a00000100",
        "40 03 10 fd000000000000000000000000000001",
        "40 03 04 00000000",
        "40 03 04 e0000001",
        "40 03 04 ffffffff",
    ] {
        assert_eq!(outcome(&[ORIGIN, AS_PATH, next_hop], &session()), Withdrawn(vec![3]), "{next_hop}");
    }
    // Without prefixes in the IPv4 field it is ignored (RFC 4760 section 3).
    let body = update_body(&[], &hex(&[MP_REACH, ORIGIN, AS_PATH, "40 03 00"].concat()), &[]);
    assert_eq!(run(&body, &session()).0, Lives(vec![]));
}

#[test]
fn section_7_4_multi_exit_disc() {
    for med in ["80 04 00", "80 04 03 000000", "80 04 05 0000000000"] {
        assert_eq!(with(med), Withdrawn(vec![4]), "{med}");
    }
}

#[test]
fn section_7_5_local_pref() {
    for length in ["40 05 00", "40 05 03 000064", "40 05 05 0000000064"] {
        assert_eq!(with_internal(length), Withdrawn(vec![5]), "{length}");
    }
    assert_eq!(with_internal("40 05 04 00000064"), Lives(vec![]));
    // An external peer must not send it; then its value does not matter.
    for any in ["40 05 04 00000064", "40 05 00", "c0 05 01 00"] {
        assert_eq!(with(any), Lives(vec![5]), "{any}");
    }
}

#[test]
fn section_7_6_atomic_aggregate() {
    assert_eq!(with("40 06 00"), Lives(vec![]));
    assert_eq!(with("40 06 01 00"), Lives(vec![6]));
    let attributes = hex(&[ORIGIN, AS_PATH, NEXT_HOP, "40 06 04 00000000"].concat());
    let (_, update) = run(&update_body(&[], &attributes, &hex(PREFIX)), &session());
    assert!(!update.attributes.atomic_aggregate);
}

#[test]
fn section_7_7_aggregator() {
    assert_eq!(with("c0 07 08 0000fe4d 0a000001"), Lives(vec![]));
    for wrong in ["c0 07 06 fe4d 0a000001", "c0 07 00", "c0 07 09 0000fe4d 0a000001 00", "c0 07 08 00000000 0a000001"] {
        assert_eq!(with(wrong), Lives(vec![7]), "{wrong}");
    }
    let two = |aggregator| outcome(&[ORIGIN, "40 02 04 02 01 fe4d", NEXT_HOP, aggregator], &two_octets());
    assert_eq!(two("c0 07 06 fe4d 0a000001"), Lives(vec![]));
    assert_eq!(two("c0 07 08 0000fe4d 0a000001"), Lives(vec![7]));
}

#[test]
fn section_7_8_communities() {
    assert_eq!(with("c0 08 08 fe4d0064 ffff0000"), Lives(vec![]));
    for wrong in ["c0 08 00", "c0 08 03 fe4d00", "c0 08 05 fe4d006400"] {
        assert_eq!(with(wrong), Withdrawn(vec![8]), "{wrong}");
    }
}

#[test]
fn section_7_9_originator_id() {
    assert_eq!(with_internal("80 09 04 0a000001"), Lives(vec![]));
    for wrong in ["80 09 00", "80 09 03 0a0000", "80 09 10 fd000000000000000000000000000001"] {
        assert_eq!(with_internal(wrong), Withdrawn(vec![9]), "{wrong}");
        assert_eq!(with(wrong), Lives(vec![9]), "{wrong} from an external peer");
    }
}

#[test]
fn section_7_10_cluster_list() {
    assert_eq!(with_internal("80 0a 08 0a000001 0a000002"), Lives(vec![]));
    for wrong in ["80 0a 00", "80 0a 03 0a0000", "80 0a 05 0a00000100"] {
        assert_eq!(with_internal(wrong), Withdrawn(vec![10]), "{wrong}");
        assert_eq!(with(wrong), Lives(vec![10]), "{wrong} from an external peer");
    }
}

#[test]
fn section_7_11_mp_reach_next_hop_of_another_length_resets() {
    for (mp, why) in [
        ("80 0e 0a 0002 01 04 0a000001 00 00", "four octets for IPv6"),
        ("80 0e 16 0001 01 10 fd000000000000000000000000000001 00 00", "sixteen for IPv4 without RFC 8950"),
        ("80 0e 06 0002 01 00 00 00", "none"),
        ("80 0e 04 0002 01 10", "cut short"),
        ("80 0e 14 0002 01 10 fd000000000000000000000000000001", "nothing behind it"),
        ("80 0e 02 0002", "half a family"),
    ] {
        let body = update_body(&[], &hex(&[mp, ORIGIN, AS_PATH].concat()), &[]);
        let context = SessionContext { extended_next_hops: vec![], ..session() };
        assert_eq!(run(&body, &context).0, Reset(UpdateError::OptionalAttribute), "{why}");
    }
}

#[test]
fn section_7_11_mp_reach_next_hop_that_is_no_host_withdraws() {
    for global in ["00000000000000000000000000000000", "ff020000000000000000000000000001"] {
        let mp = format!("80 0e 1a 0002 01 10 {global} 00 20 20010db8");
        let body = update_body(&[], &hex(&[&mp, ORIGIN, AS_PATH].concat()), &[]);
        assert_eq!(run(&body, &session()).0, Withdrawn(vec![14]), "{global}");
    }
}

#[test]
fn section_7_11_next_hops_that_are_right() {
    let global = "fd000000000000000000000000000001".to_owned();
    let link_local = "fe800000000000000000000000000001";
    let v6 = |global: &str, link_local: Option<&str>| NextHop::V6 {
        global: global.parse().unwrap(),
        link_local: link_local.map(|address| address.parse().unwrap()),
    };
    for (mp, expected) in [
        (format!("80 0e 1a 0002 01 10 {global} 00 20 20010db8"), v6("fd00::1", None)),
        (format!("80 0e 2a 0002 01 20 {global}{link_local} 00 20 20010db8"), v6("fd00::1", Some("fe80::1"))),
        (format!("80 0e 2a 0002 01 20 {:032}{link_local} 00 20 20010db8", 0), v6("fe80::1", Some("fe80::1"))),
        (format!("80 0e 29 0001 01 20 {global}{link_local} 00 18 c00002"), v6("fd00::1", Some("fe80::1"))),
        (format!("80 0e 19 0001 01 10 {global} 00 18 c00002"), v6("fd00::1", None)),
        ("80 0e 0d 0001 01 04 0a000001 00 18 c00002".to_owned(), NextHop::V4([10, 0, 0, 1].into())),
        // The octet behind the next hop is reserved and ignored.
        (format!("80 0e 1a 0002 01 10 {global} 07 20 20010db8"), v6("fd00::1", None)),
    ] {
        let body = update_body(&[], &hex(&[&mp, ORIGIN, AS_PATH].concat()), &[]);
        let (outcome, update) = run(&body, &session());
        assert_eq!(outcome, Lives(vec![]), "{mp}");
        assert_eq!(update.reach[0].next_hop, expected, "{mp}");
    }
}

#[test]
fn section_7_12_mp_unreach() {
    for wrong in ["80 0f 00", "80 0f 02 0002"] {
        assert_eq!(with(wrong), Reset(UpdateError::OptionalAttribute), "{wrong}");
    }
    let body = update_body(&[], &hex("80 0f 08 0002 01 20 20010db8"), &[]);
    let (outcome, update) = run(&body, &session());
    assert_eq!(outcome, Lives(vec![]));
    assert_eq!(update.withdrawn[0].prefixes, ["2001:db8::/32".parse().unwrap()]);
}

#[test]
fn section_7_14_extended_communities() {
    assert_eq!(with("c0 10 08 0002fe4d00000007"), Lives(vec![]));
    for wrong in ["c0 10 00", "c0 10 04 0002fe4d", "c0 10 09 0002fe4d0000000700"] {
        assert_eq!(with(wrong), Withdrawn(vec![16]), "{wrong}");
    }
}

#[test]
fn rfc_8092_section_5_large_communities() {
    assert_eq!(with("c0 20 0c 000000010000000200000003"), Lives(vec![]));
    for wrong in ["c0 20 00", "c0 20 08 0000000100000002", "c0 20 0d 00000001000000020000000300"] {
        assert_eq!(with(wrong), Withdrawn(vec![32]), "{wrong}");
    }
}

#[test]
fn rfc_6793_section_6_as4_attributes() {
    // From a speaker of four octets they are discarded whatever they hold.
    for any in ["c0 11 06 02 01 fa56ea01", "c0 11 00", "c0 12 08 fa56ea01 0a000001", "40 12 00"] {
        assert_eq!(with(any), Lives(vec![hex(any)[1]]), "{any}");
    }
    // From a speaker of two octets, malformed ones are.
    let two = |as4| outcome(&[ORIGIN, "40 02 04 02 01 5ba0", NEXT_HOP, as4], &two_octets());
    for wrong in ["c0 11 00", "c0 11 05 02 01 fa56ea", "c0 11 06 05 01 fa56ea01", "c0 12 06 fa56 0a000001"] {
        assert_eq!(two(wrong), Lives(vec![hex(wrong)[1]]), "{wrong}");
    }
    assert_eq!(two("c0 11 06 02 01 fa56ea01"), Lives(vec![]));
}

#[test]
fn rfc_4760_routes_of_a_family_that_is_not_used_are_ignored() {
    let only_v4 = SessionContext { families: vec![Family::IPV4_UNICAST], ..session() };
    // Also next hops and prefixes that nobody here could read: EVPN.
    let evpn = "80 0e 0b 0019 46 04 0a000001 00 ff ff";
    for mp in [MP_REACH, evpn] {
        let (outcome, update) =
            run(&update_body(&[], &hex(&[mp, ORIGIN, AS_PATH, NEXT_HOP].concat()), &hex(PREFIX)), &only_v4);
        assert_eq!(outcome, Lives(vec![14]), "{mp}");
        assert_eq!(update.reach.len(), 1);
        assert_eq!(update.reach[0].family, Family::IPV4_UNICAST);
    }
    let only_v6 = SessionContext { families: vec![Family::IPV6_UNICAST], ..session() };
    let (outcome, update) =
        run(&update_body(&[], &hex(&[MP_REACH, ORIGIN, AS_PATH, NEXT_HOP].concat()), &hex(PREFIX)), &only_v6);
    assert_eq!(outcome, Lives(vec![]), "the IPv4 field is no attribute");
    assert_eq!(update.reach.len(), 1);
    assert_eq!(update.reach[0].family.afi, Afi::IPV6);
}

#[test]
fn rfc_4271_unknown_optional_attributes() {
    let unknown = "c0 63 02 abcd 80 64 01 ff e0 65 00";
    let attributes = hex(&[ORIGIN, AS_PATH, NEXT_HOP, unknown].concat());
    let (outcome, update) = run(&update_body(&[], &attributes, &hex(PREFIX)), &session());
    assert_eq!(outcome, Lives(vec![]));
    let kept: Vec<(u8, u8)> = update.attributes.unknown.iter().map(|unknown| (unknown.code, unknown.flags)).collect();
    assert_eq!(kept, [(0x63, 0xc0), (0x65, 0xe0)], "transitive ones are kept, others forgotten");
}

#[test]
fn faults_beyond_the_limit_are_remedied_but_not_told() {
    let many = "40 01 01 00".repeat(100);
    let attributes = hex(&[ORIGIN, AS_PATH, NEXT_HOP, &many, "80 04 01 00"].concat());
    let decoded = Message::decode(&frame(2, &update_body(&[], &attributes, &hex(PREFIX))), &session()).unwrap();
    assert_eq!(decoded.malformed.len(), Malformed::MAX_TOLD);
    let Message::Update(update) = decoded.message else { panic!("not an UPDATE") };
    assert!(update.reach.is_empty());
    assert_eq!(update.withdrawn.len(), 1);
}
