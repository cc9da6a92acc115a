//! Values that are valid by construction, and what people read and write of them.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::net::IpAddr;

use causeway_bgp_wire::{
    AsPath, AsSegment, Asn, Community, Family, HoldTime, LargeCommunity, NextHop, Prefix, RouterId, SegmentKind,
};

/// What a text reads as, written again; `None` if it is refused.
fn again<T: std::str::FromStr + ToString>(text: &str) -> Option<String> {
    text.parse::<T>().ok().map(|value| value.to_string())
}

#[test]
fn as_numbers() {
    for (text, expected) in [
        ("65010", Some("65010")),
        ("4294967295", Some("4294967295")),
        ("1.10", Some("65546")),
        ("0.65535", Some("65535")),
        ("0", None),
        ("0.0", None),
        ("4294967296", None),
        ("65536.1", None),
        ("", None),
        ("AS1", None),
    ] {
        assert_eq!(again::<Asn>(text).as_deref(), expected, "{text}");
    }
    let number = |number| Asn::new(number).unwrap();
    assert_eq!(number(65010).to_two_octets(), 65010);
    assert_eq!(number(65536).to_two_octets(), 23456);
    assert_eq!(Asn::TRANS.get(), 23456);
    assert!(number(64512).is_private() && number(4_200_000_000).is_private());
    assert!(!number(64511).is_private() && !number(65535).is_private() && !number(u32::MAX).is_private());
    assert_eq!(
        Asn::try_from(0).unwrap_err().to_string(),
        "\"0\" is no AS number: expected 1..4294967295 (or the dotted form 0.1..65535.65535)"
    );
}

#[test]
fn router_ids_are_ordered_as_numbers() {
    assert_eq!(again::<RouterId>("10.0.0.1").as_deref(), Some("10.0.0.1"));
    assert_eq!(again::<RouterId>("0.0.0.0"), None);
    assert_eq!(again::<RouterId>("fd00::1"), None);
    assert!("9.255.255.255".parse::<RouterId>().unwrap() < "10.0.0.0".parse().unwrap());
}

#[test]
fn hold_times() {
    assert_eq!(HoldTime::new(0), Some(HoldTime::OFF));
    assert_eq!((HoldTime::new(1), HoldTime::new(2)), (None, None));
    assert_eq!(HoldTime::new(3).map(HoldTime::seconds), Some(3));
    assert!(HoldTime::OFF.is_off() && HoldTime::OFF < HoldTime::new(3).unwrap());
}

#[test]
fn prefixes() {
    for (text, expected) in [
        ("192.0.2.77/24", Some("192.0.2.0/24")),
        ("255.255.255.255/0", Some("0.0.0.0/0")),
        ("192.0.2.1/32", Some("192.0.2.1/32")),
        ("2001:db8:ffff::1/33", Some("2001:db8:8000::/33")),
        ("ffff::/0", Some("::/0")),
        ("::1/128", Some("::1/128")),
        ("192.0.2.0/33", None),
        ("::/129", None),
        ("192.0.2.0", None),
        ("192.0.2.0/", None),
        ("192.0.2.0/-1", None),
    ] {
        assert_eq!(again::<Prefix>(text).as_deref(), expected, "{text}");
    }
    let prefix: Prefix = "192.0.2.0/24".parse().unwrap();
    let contains = |address: &str| prefix.contains(address.parse().unwrap());
    assert!(contains("192.0.2.255") && !contains("192.0.3.0") && !contains("::ffff:192.0.2.1"));
    assert_eq!(Prefix::host("::1".parse().unwrap()).to_string(), "::1/128");
    assert_eq!((prefix.family(), prefix.len()), (Family::IPV4_UNICAST, 24));
    let mut sorted: Vec<Prefix> =
        ["::/0", "10.0.0.0/8", "10.0.0.0/7", "9.0.0.0/8"].iter().map(|text| text.parse().unwrap()).collect();
    sorted.sort();
    let sorted: Vec<String> = sorted.iter().map(ToString::to_string).collect();
    assert_eq!(sorted, ["9.0.0.0/8", "10.0.0.0/7", "10.0.0.0/8", "::/0"]);
}

#[test]
fn communities() {
    assert_eq!(again::<Community>("65010:100").as_deref(), Some("65010:100"));
    assert_eq!(again::<Community>("4294901760").as_deref(), Some("65535:0"));
    assert_eq!("65535:0".parse(), Ok(Community::GRACEFUL_SHUTDOWN));
    assert_eq!("65535:666".parse(), Ok(Community::BLACKHOLE));
    for text in ["65536:0", "1:2:3", "", ":", "no-export"] {
        assert_eq!(again::<Community>(text), None, "{text}");
    }
    assert_eq!(again::<LargeCommunity>("4200000000:1:2").as_deref(), Some("4200000000:1:2"));
    for text in ["1:2", "1:2:3:4", "1:2:4294967296", "1::3"] {
        assert_eq!(again::<LargeCommunity>(text), None, "{text}");
    }
}

#[test]
fn families() {
    assert_eq!(again::<Family>("ipv4-unicast").as_deref(), Some("ipv4-unicast"));
    assert_eq!(again::<Family>("ipv6-unicast").as_deref(), Some("ipv6-unicast"));
    assert_eq!(again::<Family>("evpn"), None);
}

#[test]
fn as_paths() {
    let asns = |numbers: &[u32]| numbers.iter().map(|number| Asn::new(*number).unwrap()).collect::<Vec<Asn>>();
    let segment = |kind, numbers: &[u32]| AsSegment { kind, asns: asns(numbers) };
    let path = AsPath {
        segments: vec![
            segment(SegmentKind::ConfedSequence, &[65001, 65002]),
            segment(SegmentKind::Sequence, &[1, 2]),
            segment(SegmentKind::Set, &[3, 4]),
            segment(SegmentKind::ConfedSet, &[5]),
        ],
    };
    assert_eq!(path.to_string(), "(65001 65002) 1 2 {3,4} [5]");
    assert_eq!(path.len(), 3, "a set counts once, a confederation not at all");
    assert_eq!(path.first(), None, "a confederation segment is no neighbour");
    assert!(path.contains(Asn::new(4).unwrap()) && !path.contains(Asn::new(6).unwrap()));
    assert_eq!(AsPath::sequence(asns(&[7, 8])).first(), Asn::new(7));
    assert!(AsPath::sequence([]).is_empty());
}

#[test]
fn next_hops() {
    let address: IpAddr = "fd00::1".parse().unwrap();
    assert_eq!(NextHop::from(address).to_string(), "fd00::1");
    let both = NextHop::V6 { global: "fd00::1".parse().unwrap(), link_local: Some("fe80::1".parse().unwrap()) };
    assert_eq!(both.to_string(), "fd00::1 (fe80::1)");
    assert_eq!(both.address(), address);
}
