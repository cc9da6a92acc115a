//! BGP-4 messages: values to bytes and bytes to values.
//!
//! What it is: framing, OPEN with capabilities, UPDATE with the error handling of RFC 7606, NOTIFICATION, KEEPALIVE and
//! ROUTE-REFRESH for IPv4 and IPv6 unicast. What it is not: a session, a routing table or a policy. It holds no I/O, no
//! clock and no global; the session core drives it with bytes that it was given.
//!
//! The way in: [`FrameSplitter`] cuts a byte stream into frames, [`Message::decode`] turns a frame into a [`Decoded`].
//! Decoders are total: any bytes give a value or an error, in time and memory proportional to the bytes that are there,
//! never to a length that they claim. An error that must end the session carries its NOTIFICATION
//! ([`DecodeError::notification`]); one that must not is already remedied in the value and told in [`Decoded::malformed`].
//!
//! The way out: [`Message::encode`] for what fits one message, [`pack`] for many prefixes with the same attributes.
//! What the bytes of an UPDATE mean depends on what both sides said in OPEN: that is [`SessionContext`].
#![forbid(unsafe_code)]

mod attributes;
mod capability;
mod codes;
mod community;
mod context;
mod decode;
mod encode;
mod error;
mod family;
mod frame;
mod ids;
mod message;
mod notification;
mod open;
pub mod pack;
mod prefix;
mod reader;
mod update;

pub use attributes::{Aggregator, AsPath, AsSegment, Origin, PathAttributes, SegmentKind, UnknownAttribute};
pub use capability::{Capability, ExtendedNextHop, GracefulFamily, GracefulRestart};
pub use community::{Community, ExtendedCommunity, InvalidCommunity, LargeCommunity};
pub use context::{PeerKind, SessionContext};
pub use error::{DecodeError, EncodeError, Malformed, Remedy};
pub use family::{Afi, Family, InvalidFamily, Safi};
pub use frame::FrameSplitter;
pub use ids::{Asn, HoldTime, InvalidAsn, InvalidHoldTime, InvalidRouterId, RouterId};
pub use message::{Decoded, Message, MessageType, RefreshKind, RouteRefresh};
pub use notification::{
    CeaseError, FsmError, HeaderError, Notification, NotificationCode, OpenError, RouteRefreshError, UpdateError,
};
pub use open::Open;
pub use prefix::{InvalidPrefix, Prefix};
pub use update::{NextHop, Reach, Update, Withdrawn};

/// Bytes of the header: marker, length and type (RFC 4271 section 4.1).
pub const HEADER_LEN: usize = 19;
/// Greatest message without the extended message capability (RFC 4271 section 4).
pub const MAX_MESSAGE_LEN: u16 = 4096;
/// Greatest message, except OPEN and KEEPALIVE, once both sides announced RFC 8654.
pub const MAX_EXTENDED_MESSAGE_LEN: u16 = 65535;
