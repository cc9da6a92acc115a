//! Replays what real speakers sent (`tests/fixtures/*.txt`): every message decodes to the words in the file, without a
//! fault, and comes back the same when it is encoded and decoded again.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "fixtures are files; the codec itself does no I/O")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use causeway_bgp_wire::{
    Afi, Decoded, ExtendedNextHop, Family, FrameSplitter, MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN, Message, PeerKind,
    SessionContext,
};

#[test]
fn frr_over_ipv4() {
    check("frr-v4");
}

#[test]
fn frr_over_ipv6_with_rfc_8950() {
    check("frr-v6");
}

#[test]
fn bird_over_ipv4() {
    check("bird-v4");
}

#[test]
fn bird_over_ipv6_with_rfc_8950() {
    check("bird-v6");
}

#[test]
fn bird_with_two_octet_as_numbers() {
    check("bird-2octet");
}

#[test]
fn gobgp_over_ipv4() {
    check("gobgp-v4");
}

#[test]
fn gobgp_over_ipv6() {
    check("gobgp-v6");
}

/// Compares a fixture with what its messages decode to; with `UPDATE_FIXTURES` set, writes that into the fixture.
fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.txt"));
    let text = fs::read_to_string(&path).unwrap();
    let mut context = None;
    let mut octets = Vec::new();
    let mut messages = 0;
    let mut blessed = String::new();
    for line in text.lines() {
        if let Some(words) = line.strip_prefix("session: ") {
            context = Some(session(words));
        }
        if let Some(hex) = line.strip_prefix("  ") {
            octets.extend(unhex(hex));
        }
        if line.starts_with('=') {
            messages += 1;
            let context = context.as_ref().expect("`session:` comes first");
            let decoded = replay(&std::mem::take(&mut octets), context);
            writeln!(blessed, "= {decoded:?}").unwrap();
        } else {
            writeln!(blessed, "{line}").unwrap();
        }
    }
    assert!(messages > 3, "{name}: only {messages} messages");
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        fs::write(&path, &blessed).unwrap();
        return;
    }
    assert_eq!(text, blessed, "{name}: set UPDATE_FIXTURES=1 to accept");
}

fn replay(octets: &[u8], context: &SessionContext) -> Message {
    let mut splitter = FrameSplitter::default();
    splitter.push(octets);
    let frame = splitter.next_frame(context.max_receive_len).unwrap().expect("a whole message").to_vec();
    assert_eq!(splitter.pending(), 0);
    let Decoded { message, malformed } = Message::decode(&frame, context).unwrap();
    assert_eq!(malformed, []);
    let mut again = Vec::new();
    message.encode(context, &mut again).unwrap();
    assert_eq!(Message::decode(&again, context).unwrap().message, message);
    message
}

fn session(words: &str) -> SessionContext {
    let family = Family::IPV4_UNICAST;
    let mut context = SessionContext {
        peer: PeerKind::External,
        four_octet_as: false,
        families: vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST],
        extended_next_hops: Vec::new(),
        max_send_len: MAX_MESSAGE_LEN,
        max_receive_len: MAX_MESSAGE_LEN,
    };
    for word in words.split(", ") {
        match word {
            "four-octet" => context.four_octet_as = true,
            "two-octet" => context.four_octet_as = false,
            "8950" => context.extended_next_hops.push(ExtendedNextHop { family, next_hop: Afi::IPV6 }),
            "extended" => context.max_receive_len = MAX_EXTENDED_MESSAGE_LEN,
            _ => panic!("unknown word {word:?} of a session"),
        }
    }
    context
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
