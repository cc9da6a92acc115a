//! What can be wrong with bytes, and what is to be done about it.

use crate::{Family, Notification, NotificationCode};

/// Bytes that end the session. The NOTIFICATION to send is ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} ({notification})")]
pub struct DecodeError {
    /// What was found where, for people.
    pub what: String,
    /// To be sent before the connection is closed.
    pub notification: Notification,
}

impl DecodeError {
    /// Most octets of the peer's own bytes that are sent back to it, so that the NOTIFICATION fits any session.
    const MAX_DATA: usize = 4096 - 21;

    pub(crate) fn new(code: NotificationCode, what: impl Into<String>, data: &[u8]) -> DecodeError {
        let data = data[..data.len().min(DecodeError::MAX_DATA)].to_vec();
        DecodeError { what: what.into(), notification: Notification { code, data } }
    }
}

/// What RFC 7606 section 2 asks for when an attribute is malformed, weakest first. When several apply, the strongest wins.
/// "AFI/SAFI disable" is not used: RFC 7606 leaves the choice, and nobody else implements it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remedy {
    /// The attribute is dropped, the routes live.
    AttributeDiscard,
    /// The routes of the UPDATE are withdrawn.
    TreatAsWithdraw,
    /// The session ends with a NOTIFICATION; only ever seen inside of [`DecodeError`]s.
    SessionReset,
}

impl Malformed {
    /// Most faults that are told of one UPDATE; the remedies of further ones are applied all the same.
    pub const MAX_TOLD: usize = 16;
}

/// A fault in an UPDATE that was remedied without ending the session. To be logged and counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// The IANA code of the attribute; `None` for the fields of IPv4 unicast outside of the attributes.
    pub attribute: Option<u8>,
    pub remedy: Remedy,
    /// What was found, for people.
    pub what: String,
}

/// A value that cannot be put on the wire of this session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The message would be longer than the session allows.
    #[error("a {what} of {len} octets is longer than the {max} that this session allows")]
    TooLong { what: &'static str, len: usize, max: usize },
    /// An UPDATE that says nothing; its octets would be the End-of-RIB marker of IPv4, which is said with
    /// [`crate::Update::end_of_rib`].
    #[error("an UPDATE without routes and without End-of-RIB")]
    Empty,
    /// Attributes alone fill the message, so that no prefix fits.
    #[error("attributes of {len} octets leave no room for a prefix in a message of {max}: send fewer communities")]
    AttributesTooLong { len: usize, max: usize },
    /// The peer did not announce that it takes this next hop for this family (RFC 8950).
    #[error("a next hop of the other family for {family} was not negotiated (RFC 8950)")]
    NextHopNotNegotiated { family: Family },
    /// A prefix of another family stands among those of `family`, or the family is none that is carried here.
    #[error("{what} cannot be sent as {family}")]
    WrongFamily { family: Family, what: String },
    /// The zettabgp encoder refused; a defect here, not bad input.
    #[error("encoding a {what}: {why}")]
    Encoder { what: &'static str, why: String },
}
