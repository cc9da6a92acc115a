//! Message to bytes.
//!
//! Values of attributes, prefixes and ROUTE-REFRESH are written by zettabgp 0.6, the rest is written here because zettabgp
//! cannot, or does it wrongly (`tests/properties/zettabgp.rs` shows each, and will fail when it is repaired):
//!
//! | what | why not zettabgp |
//! |---|---|
//! | AS_PATH | a sequence is written with the type of a set and the reverse; two octets are cut, not AS_TRANS; no confederations |
//! | AGGREGATOR | nothing is written, only a length |
//! | ATOMIC_AGGREGATE | four octets are written, there must be none |
//! | attribute headers | large communities go out with the Partial bit; short values with two octets of length |
//! | MP_REACH_NLRI | no second, link-local next hop; no filling up to a message |
//! | AS4_PATH, AS4_AGGREGATOR | not known |
//! | OPEN | no RFC 8950, 8654, 8538, 9072 and no software version; FQDN without domain |
//! | NOTIFICATION | always two octets of data |

pub(crate) mod attributes;
pub(crate) mod nlri;
mod open;
mod update;

use zettabgp::prelude::{BgpMessage, BgpRouterefreshMessage, BgpSessionParams, BgpTransportMode};

use crate::{
    EncodeError, HEADER_LEN, MAX_MESSAGE_LEN, Message, MessageType, RefreshKind, RouteRefresh, SessionContext,
};

impl Message {
    /// Appends the message, header included. An UPDATE must fit one message; [`crate::pack`] splits. On error nothing was
    /// appended.
    ///
    /// # Errors
    /// The value does not fit a message of this session, or was not negotiated.
    pub fn encode(&self, context: &SessionContext, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        // RFC 8654 section 4: OPEN and KEEPALIVE keep the old limit.
        let max = match self {
            Message::Open(_) | Message::Keepalive => MAX_MESSAGE_LEN,
            Message::Update(_) | Message::Notification(_) | Message::RouteRefresh(_) => context.max_send_len,
        };
        append(out, self.message_type(), usize::from(max), |out| match self {
            Message::Open(open) => open::encode(open, out),
            Message::Update(update) => update::encode(update, context, out),
            Message::Notification(notification) => {
                let (code, subcode) = notification.code.to_wire();
                out.extend_from_slice(&[code, subcode]);
                out.extend_from_slice(&notification.data);
                Ok(())
            }
            Message::Keepalive => Ok(()),
            Message::RouteRefresh(refresh) => route_refresh(refresh, out),
        })
    }
}

/// Appends a header and what `body` appends, if both together are at most `max` octets.
pub(crate) fn append(
    out: &mut Vec<u8>,
    message_type: MessageType,
    max: usize,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    open_message(out, message_type);
    let result = body(out).and_then(|()| close_message(out, start, max));
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Appends a header without its length.
pub(crate) fn open_message(out: &mut Vec<u8>, message_type: MessageType) {
    out.extend_from_slice(&[0xff; 16]);
    out.extend_from_slice(&[0, 0, message_type.code()]);
}

/// Writes the length into the header at `start`, now that the message ends.
pub(crate) fn close_message(out: &mut [u8], start: usize, max: usize) -> Result<(), EncodeError> {
    let len = out.len() - start;
    let octets = match u16::try_from(len) {
        Ok(octets) if len <= max => octets.to_be_bytes(),
        _ => {
            let what = out.get(start + HEADER_LEN - 1).and_then(|code| MessageType::from_code(*code));
            return Err(EncodeError::TooLong { what: what.map_or("message", name), len, max });
        }
    };
    out[start + 16..start + 18].copy_from_slice(&octets);
    Ok(())
}

fn name(message_type: MessageType) -> &'static str {
    match message_type {
        MessageType::Open => "OPEN",
        MessageType::Update => "UPDATE",
        MessageType::Notification => "NOTIFICATION",
        MessageType::Keepalive => "KEEPALIVE",
        MessageType::RouteRefresh => "ROUTE-REFRESH",
    }
}

/// What zettabgp's encoders ask for. IPv4 mode whatever the transport is: in IPv6 mode it writes IPv6 into IPv4 fields.
pub(crate) fn zetta_params() -> BgpSessionParams {
    BgpSessionParams::new(0, 0, BgpTransportMode::IPv4, std::net::Ipv4Addr::UNSPECIFIED, Vec::new())
}

fn route_refresh(refresh: &RouteRefresh, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let subtype = match refresh.kind {
        RefreshKind::Request => 0,
        RefreshKind::Begin => 1,
        RefreshKind::End => 2,
        RefreshKind::Other(other) => other,
    };
    let message = BgpRouterefreshMessage { afi: refresh.family.afi.0, safi: refresh.family.safi.0, subtype };
    let mut body = [0; 4];
    message
        .encode_to(&zetta_params(), &mut body)
        .map_err(|error| EncodeError::Encoder { what: "ROUTE-REFRESH", why: error.to_string() })?;
    out.extend_from_slice(&body);
    Ok(())
}
