//! What several test binaries need: sessions, frames by hand, and hexadecimal.
#![allow(dead_code, reason = "each binary uses its own part")]

use causeway_bgp_wire::{
    Afi, Asn, DecodeError, Decoded, ExtendedNextHop, Family, MAX_MESSAGE_LEN, Message, PeerKind, SessionContext,
};

/// An external session with four-octet AS numbers, both families and RFC 8950.
pub(crate) fn session() -> SessionContext {
    SessionContext {
        peer: PeerKind::External,
        four_octet_as: true,
        families: vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST],
        extended_next_hops: vec![ExtendedNextHop { family: Family::IPV4_UNICAST, next_hop: Afi::IPV6 }],
        max_send_len: MAX_MESSAGE_LEN,
        max_receive_len: MAX_MESSAGE_LEN,
    }
}

pub(crate) fn internal() -> SessionContext {
    SessionContext { peer: PeerKind::Internal, ..session() }
}

pub(crate) fn two_octets() -> SessionContext {
    SessionContext { four_octet_as: false, ..session() }
}

pub(crate) fn asn(number: u32) -> Asn {
    Asn::new(number).unwrap()
}

/// A message with a right header around `body`.
pub(crate) fn frame(code: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 16];
    frame.extend_from_slice(&u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    frame.push(code);
    frame.extend_from_slice(body);
    frame
}

/// The body of an UPDATE from its three fields.
pub(crate) fn update_body(withdrawn: &[u8], attributes: &[u8], announced: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for field in [withdrawn, attributes] {
        body.extend_from_slice(&u16::try_from(field.len()).unwrap().to_be_bytes());
        body.extend_from_slice(field);
    }
    body.extend_from_slice(announced);
    body
}

pub(crate) fn decode(frame: &[u8], context: &SessionContext) -> Result<Decoded, DecodeError> {
    Message::decode(frame, context)
}

/// Octets from `"40 01 01 00"`, spaces as you like.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    assert_eq!(digits.len() % 2, 0, "half an octet in {text:?}");
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
