//! What nodes say of their keys, and what is made of it.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod model;

use causeway_encryption_plan::{AnnounceError, Announcement, EpochKey};
use model::public;
use proptest::prelude::*;

fn keys(of: &[(u32, u64)]) -> Vec<EpochKey> {
    of.iter().map(|(epoch, key)| EpochKey { epoch: *epoch, key: public(*key) }).collect()
}

fn text(of: &[(u32, u64)]) -> String {
    let entries: Vec<_> =
        of.iter().map(|(epoch, key)| format!(r#"{{"epoch":{epoch},"key":"{}"}}"#, public(*key))).collect();
    format!("[{}]", entries.join(","))
}

#[test]
fn good_ones() {
    for (current, told, expected) in [
        // Cilium's: the first annotation alone.
        (1, None, vec![]),
        (1, Some(text(&[])), vec![]),
        (1, Some(text(&[(4, 1)])), keys(&[(4, 1)])),
        (1, Some(text(&[(4, 1), (5, 2)])), keys(&[(4, 1), (5, 2)])),
        (2, Some(text(&[(4, 1), (5, 2)])), keys(&[(4, 1), (5, 2)])),
        (2, Some(text(&[(0, 1), (5, 2), (u32::MAX, 3)])), keys(&[(0, 1), (5, 2), (u32::MAX, 3)])),
        // Stale: another agent has written the first since.
        (3, Some(text(&[(4, 1), (5, 2)])), vec![]),
    ] {
        let parsed = Announcement::parse(&public(current).to_string(), told.as_deref()).unwrap();
        assert_eq!(parsed.knows_epochs(), !expected.is_empty(), "{told:?}");
        assert_eq!(parsed, Announcement { current: public(current), keys: expected }, "{told:?}");
    }
}

#[test]
fn bad_ones_are_named() {
    let good = public(1).to_string();
    let with_more = text(&[(4, 1)]).replace('}', r#","more":1}"#);
    for (current, told, expected) in [
        ("", None, "annotation network.cilium.io/wg-pub-key: a WireGuard key is 44 characters"),
        (
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            None,
            "annotation network.cilium.io/wg-pub-key: the key is all",
        ),
        (&good, Some(""), "annotation network.causeway.io/wg-pub-keys: EOF"),
        (&good, Some("{}"), "annotation network.causeway.io/wg-pub-keys: invalid type"),
        (&good, Some(r#"[{"epoch":1}]"#), "annotation network.causeway.io/wg-pub-keys: missing field `key`"),
        (&good, Some(r#"[{"epoch":1,"key":"x"}]"#), "annotation network.causeway.io/wg-pub-keys: a WireGuard key is"),
        (&good, Some(&with_more), "annotation network.causeway.io/wg-pub-keys: unknown field `more`"),
        (&good, Some(&text(&[(1, 1), (2, 2), (3, 3), (4, 4)])), "annotation network.causeway.io/wg-pub-keys: 4 keys"),
        (&good, Some(&text(&[(2, 1), (1, 2)])), "annotation network.causeway.io/wg-pub-keys: epochs must rise"),
        (&good, Some(&text(&[(2, 1), (2, 2)])), "annotation network.causeway.io/wg-pub-keys: epochs must rise"),
        (
            &good,
            Some(&text(&[(1, 1), (2, 1)])),
            "annotation network.causeway.io/wg-pub-keys: one key stands there twice",
        ),
    ] {
        let error: AnnounceError = Announcement::parse(current, told).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{told:?}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(epochs in prop::collection::btree_set(any::<u32>(), 1..=3), at in any::<prop::sample::Index>()) {
        let keys: Vec<_> = epochs.into_iter().zip(0..).map(|(epoch, key)| EpochKey { epoch, key: public(key) }).collect();
        let said = Announcement { current: at.get(&keys).key, keys };
        let read = Announcement::parse(&said.current.to_string(), Some(&said.to_annotation())).unwrap();
        prop_assert_eq!(read, said);
    }

    #[test]
    fn no_text_panics(current in ".*", told in prop::option::of(".*")) {
        let _ = Announcement::parse(&current, told.as_deref());
    }

    /// Text that is nearly right gets further into the parser than noise does.
    #[test]
    fn no_damage_panics(cut in 0usize..200, byte in any::<char>(), at in 0usize..200) {
        let mut told: Vec<char> = text(&[(1, 1), (2, 2)]).chars().collect();
        told.truncate(cut.max(1));
        let at = at % told.len();
        told[at] = byte;
        let told: String = told.into_iter().collect();
        for current in [public(1).to_string(), told.chars().take(44).collect()] {
            let _ = Announcement::parse(&current, Some(&told));
        }
    }
}
