//! What every fuzz target asks of the codec. Used by the libFuzzer targets here, and by the plain tests of the wire crate
//! (`tests/corpus.rs` replays the corpus, `tests/mutation.rs` mutates captures), which include this file.
//!
//! All inputs are free of form. None may panic, hang or take memory beyond a multiple of its own length.

use causeway_bgp_wire::{
    Afi, Decoded, ExtendedNextHop, Family, FrameSplitter, Message, PeerKind, Prefix, SessionContext, Update,
};

/// A byte stream as it comes from a connection: the first octet says in what pieces it arrives. Every frame is decoded.
pub(crate) fn stream(input: &[u8]) {
    let Some((size, stream)) = input.split_first() else { return };
    let context = context(*size);
    let mut splitter = FrameSplitter::default();
    let mut taken = 0;
    for piece in stream.chunks(usize::from(*size).max(1)) {
        splitter.push(piece);
        loop {
            match splitter.next_frame(context.max_receive_len) {
                Ok(Some(frame)) => {
                    taken += frame.len();
                    message(frame, &context);
                }
                Ok(None) => break,
                Err(error) => return answer(&error.notification),
            }
        }
    }
    assert_eq!(taken + splitter.pending(), stream.len(), "bytes were lost or invented");
}

/// The body of an OPEN.
pub(crate) fn open(body: &[u8]) {
    if let Some(frame) = frame(1, body) {
        message(&frame, &SessionContext::before_open());
    }
}

/// An octet that chooses the session, and the body of an UPDATE.
pub(crate) fn update(input: &[u8]) {
    let Some((choice, body)) = input.split_first() else { return };
    if let Some(frame) = frame(2, body) {
        message(&frame, &context(*choice));
    }
}

fn message(frame: &[u8], context: &SessionContext) {
    let decoded = match Message::decode(frame, context) {
        Ok(decoded) => decoded,
        Err(error) => return answer(&error.notification),
    };
    if let Message::Update(update) = &decoded.message {
        bounded(update, frame.len());
        well_formed(update, context);
    }
    says_the_same_again(&decoded, context);
}

/// The NOTIFICATION of an error fits any session.
fn answer(notification: &causeway_bgp_wire::Notification) {
    let mut octets = Vec::new();
    Message::Notification(notification.clone())
        .encode(&SessionContext::before_open(), &mut octets)
        .expect("every error can be told");
}

/// Every prefix took at least one octet.
fn bounded(update: &Update, len: usize) {
    let withdrawn = update.withdrawn.iter().map(|list| list.prefixes.len());
    let announced = update.reach.iter().map(|list| list.prefixes.len());
    let prefixes: usize = withdrawn.chain(announced).sum();
    assert!(prefixes <= len, "{prefixes} prefixes from {len} octets");
}

fn well_formed(update: &Update, context: &SessionContext) {
    for reach in &update.reach {
        assert!(context.families.contains(&reach.family), "routes of a family that is not used");
        assert!(!reach.prefixes.is_empty());
        assert!(reach.prefixes.iter().all(|prefix| is_canonical(*prefix, reach.family)));
    }
    for withdrawn in &update.withdrawn {
        assert!(context.families.contains(&withdrawn.family));
        assert!(withdrawn.prefixes.iter().all(|prefix| is_canonical(*prefix, withdrawn.family)));
    }
    let internal_only = (update.attributes.local_pref, update.attributes.originator_id);
    assert!(context.peer == PeerKind::Internal || internal_only == (None, None));
    assert!(update.attributes.as_path.segments.iter().all(|segment| !segment.asns.is_empty()));
    if update.end_of_rib.is_some() {
        assert!(update.reach.is_empty() && update.withdrawn.is_empty());
    }
}

fn is_canonical(prefix: Prefix, family: Family) -> bool {
    prefix.family() == family && Prefix::new(prefix.address(), prefix.len()) == Some(prefix)
}

/// What was understood can be said, and is understood without a fault. An UPDATE may grow when it is said again (AS4_PATH,
/// Partial), so it is given room.
fn says_the_same_again(decoded: &Decoded, context: &SessionContext) {
    let roomy = SessionContext { max_send_len: 65535, max_receive_len: 65535, ..context.clone() };
    let mut octets = Vec::new();
    if decoded.message.encode(&roomy, &mut octets).is_err() {
        return;
    }
    let again = Message::decode(&octets, &roomy).expect("our own words are understood");
    assert_eq!(again.malformed, [], "our own words are without fault");
    assert_eq!(again.message.message_type(), decoded.message.message_type());
    if let (Message::Open(first), Message::Open(again)) = (&decoded.message, &again.message) {
        assert_eq!(first, again);
    }
}

fn frame(code: u8, body: &[u8]) -> Option<Vec<u8>> {
    let mut frame = vec![0xff; 16];
    frame.extend_from_slice(&u16::try_from(19 + body.len()).ok()?.to_be_bytes());
    frame.push(code);
    frame.extend_from_slice(body);
    Some(frame)
}

/// A session from the bits of an octet.
pub(crate) fn context(choice: u8) -> SessionContext {
    let bit = |at: u8| choice & 1 << at != 0;
    let mut families = vec![Family::IPV4_UNICAST, Family::IPV6_UNICAST];
    if bit(2) {
        families.remove(0);
    }
    let family = Family::IPV4_UNICAST;
    let extended_next_hops = if bit(3) { vec![] } else { vec![ExtendedNextHop { family, next_hop: Afi::IPV6 }] };
    let max = if bit(4) { 4096 } else { 65535 };
    SessionContext {
        peer: if bit(0) { PeerKind::Internal } else { PeerKind::External },
        four_octet_as: !bit(1),
        families,
        extended_next_hops,
        max_send_len: max,
        max_receive_len: max,
    }
}
