//! Which links there are, which of them is sent on, and which still have to be warmed.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod model;

use causeway_encryption_plan::{Announcement, EpochKey, Link, RemoteKeys, active_link, cold_links, links};
use model::public;

/// `"12"`: our key 1 with the peer's key 2.
fn link(text: &str) -> Link {
    let digit = |at| public(u64::from(text.as_bytes()[at]));
    Link { own: digit(0), remote: digit(1) }
}

fn all(texts: &[&str]) -> Vec<Link> {
    texts.iter().map(|text| link(text)).collect()
}

fn remote(texts: &str) -> RemoteKeys {
    let keys = texts.bytes().zip(1..).map(|(key, epoch)| EpochKey { epoch, key: public(key.into()) });
    RemoteKeys::from(&Announcement { current: public(texts.bytes().next().unwrap().into()), keys: keys.collect() })
}

#[test]
fn every_pair_the_best_first() {
    for (own, told, expected) in [
        ("1", "1", &["11"][..]),
        ("12", "1", &["21", "11"]),
        ("1", "12", &["12", "11"]),
        ("12", "12", &["22", "12", "21", "11"]),
        ("123", "1", &["31", "21", "11"]),
    ] {
        let own: Vec<_> = own.bytes().map(|key| public(key.into())).collect();
        assert_eq!(links(&own, &remote(told)), all(expected));
    }
}

#[test]
fn a_cilium_node_has_its_current_key_alone() {
    let cilium = Announcement { current: public(5), keys: Vec::new() };
    assert_eq!(RemoteKeys::from(&cilium).as_slice(), [public(5)]);
    assert_eq!(remote("45").as_slice(), [public(u64::from(b'4')), public(u64::from(b'5'))]);
}

#[test]
fn the_active_link() {
    let rotating = &["22", "12", "21", "11"][..];
    for (links, confirmed, in_use, expected, cold) in [
        // The best one that is confirmed, whatever was used before.
        (rotating, &["22", "12", "21", "11"][..], Some("11"), "22", &[][..]),
        (rotating, &["12", "21"], Some("11"), "12", &["22"]),
        (rotating, &["11"], Some("22"), "11", &["22", "12", "21"]),
        // None is confirmed: the one in use, if it exists.
        (rotating, &[], Some("21"), "21", &["22", "12"]),
        (rotating, &[], Some("33"), "11", &["22", "12", "21"]),
        // Nothing was used either: the current keys.
        (rotating, &[], None, "11", &["22", "12", "21"]),
        (&["11"], &[], None, "11", &[]),
        // A session on a link that is no more does not count.
        (&["22", "11"], &["33"], Some("33"), "11", &["22"]),
    ] {
        let (links, confirmed, expected) = (all(links), all(confirmed), link(expected));
        let active = active_link(&links, in_use.map(link), link("11"), |link| confirmed.contains(link));
        assert_eq!(active, expected, "{in_use:?} {confirmed:?}");
        assert_eq!(cold_links(&links, active).copied().collect::<Vec<_>>(), all(cold));
    }
}
