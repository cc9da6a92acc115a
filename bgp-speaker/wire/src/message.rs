//! The five messages.

use std::fmt;

use crate::{Family, Malformed, Notification, Open, Update};

/// A BGP message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Open(Open),
    Update(Box<Update>),
    Notification(Notification),
    Keepalive,
    RouteRefresh(RouteRefresh),
}

/// A message from the wire, with what was wrong with it and is already remedied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    pub message: Message,
    /// Only an UPDATE has any (RFC 7606).
    pub malformed: Vec<Malformed>,
}

/// The type octet of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageType {
    Open,
    Update,
    Notification,
    Keepalive,
    /// RFC 2918.
    RouteRefresh,
}

impl MessageType {
    pub const ALL: [MessageType; 5] = [
        MessageType::Open,
        MessageType::Update,
        MessageType::Notification,
        MessageType::Keepalive,
        MessageType::RouteRefresh,
    ];

    /// The number on the wire.
    pub const fn code(self) -> u8 {
        match self {
            MessageType::Open => 1,
            MessageType::Update => 2,
            MessageType::Notification => 3,
            MessageType::Keepalive => 4,
            MessageType::RouteRefresh => 5,
        }
    }

    /// By the number on the wire.
    pub const fn from_code(code: u8) -> Option<MessageType> {
        Some(match code {
            1 => MessageType::Open,
            2 => MessageType::Update,
            3 => MessageType::Notification,
            4 => MessageType::Keepalive,
            5 => MessageType::RouteRefresh,
            _ => return None,
        })
    }

    /// Least octets with header. ROUTE-REFRESH stands at the header alone, because a wrong length is an error of its own
    /// (RFC 7313 section 5).
    pub const fn min_len(self) -> u16 {
        match self {
            MessageType::Open => 29,
            MessageType::Update => 23,
            MessageType::Notification => 21,
            MessageType::Keepalive => 19,
            MessageType::RouteRefresh => 19,
        }
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            MessageType::Open => "OPEN",
            MessageType::Update => "UPDATE",
            MessageType::Notification => "NOTIFICATION",
            MessageType::Keepalive => "KEEPALIVE",
            MessageType::RouteRefresh => "ROUTE-REFRESH",
        })
    }
}

/// "Send me all of this family again" and its borders (RFC 2918, RFC 7313).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRefresh {
    pub family: Family,
    pub kind: RefreshKind,
}

/// The subtype octet (RFC 7313 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefreshKind {
    Request,
    /// BoRR: a refresh begins.
    Begin,
    /// EoRR: a refresh ends; what was not sent again is gone.
    End,
    /// To be ignored, kept for the log.
    Other(u8),
}

impl Message {
    /// Which of the five.
    pub fn message_type(&self) -> MessageType {
        match self {
            Message::Open(_) => MessageType::Open,
            Message::Update(_) => MessageType::Update,
            Message::Notification(_) => MessageType::Notification,
            Message::Keepalive => MessageType::Keepalive,
            Message::RouteRefresh(_) => MessageType::RouteRefresh,
        }
    }
}
