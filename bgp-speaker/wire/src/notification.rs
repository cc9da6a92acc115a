//! NOTIFICATION: why a session ends (RFC 4271 section 4.5 and 6).

use std::fmt;

/// A NOTIFICATION message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    pub code: NotificationCode,
    /// Meaning depends on the code; see [`Notification::shutdown_communication`] and [`Notification::hard_reset_reason`].
    pub data: Vec<u8>,
}

macro_rules! subcodes {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)*
            /// Not assigned when this was written; kept as it came.
            Other(u8),
        }

        impl $name {
            /// The number on the wire.
            pub fn subcode(self) -> u8 {
                match self {
                    $($name::$variant => $number,)*
                    $name::Other(number) => number,
                }
            }

            /// By the number on the wire.
            pub fn from_subcode(number: u8) -> $name {
                match number {
                    $($number => $name::$variant,)*
                    number => $name::Other(number),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $($name::$variant => f.write_str($text),)*
                    $name::Other(number) => write!(f, "subcode {number}"),
                }
            }
        }
    };
}

subcodes! {
    /// Code 1 (RFC 4271 section 6.1).
    HeaderError {
        Unspecific = 0, "unspecific";
        ConnectionNotSynchronized = 1, "connection not synchronized";
        BadMessageLength = 2, "bad message length";
        BadMessageType = 3, "bad message type";
    }
}
subcodes! {
    /// Code 2 (RFC 4271 section 6.2, RFC 5492, RFC 9234).
    OpenError {
        Unspecific = 0, "unspecific";
        UnsupportedVersion = 1, "unsupported version number";
        BadPeerAs = 2, "bad peer AS";
        BadBgpIdentifier = 3, "bad BGP identifier";
        UnsupportedOptionalParameter = 4, "unsupported optional parameter";
        /// Deprecated by RFC 4271.
        AuthenticationFailure = 5, "authentication failure";
        UnacceptableHoldTime = 6, "unacceptable hold time";
        UnsupportedCapability = 7, "unsupported capability";
        RoleMismatch = 11, "role mismatch";
    }
}
subcodes! {
    /// Code 3 (RFC 4271 section 6.3).
    UpdateError {
        Unspecific = 0, "unspecific";
        MalformedAttributeList = 1, "malformed attribute list";
        UnrecognizedWellKnownAttribute = 2, "unrecognized well-known attribute";
        MissingWellKnownAttribute = 3, "missing well-known attribute";
        AttributeFlags = 4, "attribute flags error";
        AttributeLength = 5, "attribute length error";
        InvalidOrigin = 6, "invalid ORIGIN attribute";
        /// Deprecated by RFC 4271.
        AsRoutingLoop = 7, "AS routing loop";
        InvalidNextHop = 8, "invalid NEXT_HOP attribute";
        OptionalAttribute = 9, "optional attribute error";
        InvalidNetworkField = 10, "invalid network field";
        MalformedAsPath = 11, "malformed AS_PATH";
    }
}
subcodes! {
    /// Code 5 (RFC 6608): the state in which an unexpected message came.
    FsmError {
        Unspecified = 0, "unspecified";
        UnexpectedInOpenSent = 1, "unexpected message in OpenSent";
        UnexpectedInOpenConfirm = 2, "unexpected message in OpenConfirm";
        UnexpectedInEstablished = 3, "unexpected message in Established";
    }
}
subcodes! {
    /// Code 6 (RFC 4486, RFC 8538, RFC 9384).
    CeaseError {
        Unspecific = 0, "unspecific";
        MaximumPrefixesReached = 1, "maximum number of prefixes reached";
        AdministrativeShutdown = 2, "administrative shutdown";
        PeerDeconfigured = 3, "peer de-configured";
        AdministrativeReset = 4, "administrative reset";
        ConnectionRejected = 5, "connection rejected";
        OtherConfigurationChange = 6, "other configuration change";
        ConnectionCollision = 7, "connection collision resolution";
        OutOfResources = 8, "out of resources";
        HardReset = 9, "hard reset";
        BfdDown = 10, "BFD down";
    }
}
subcodes! {
    /// Code 7 (RFC 7313 section 5).
    RouteRefreshError {
        Unspecific = 0, "unspecific";
        InvalidMessageLength = 1, "invalid message length";
    }
}

/// Error code with its subcode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotificationCode {
    Header(HeaderError),
    Open(OpenError),
    Update(UpdateError),
    HoldTimerExpired,
    Fsm(FsmError),
    Cease(CeaseError),
    RouteRefresh(RouteRefreshError),
    /// RFC 9687: the peer did not read for too long.
    SendHoldTimerExpired,
    /// A code that is not assigned, or a subcode where none is defined.
    Other {
        code: u8,
        subcode: u8,
    },
}

impl NotificationCode {
    /// By the numbers on the wire.
    pub fn from_wire(code: u8, subcode: u8) -> NotificationCode {
        match (code, subcode) {
            (1, _) => NotificationCode::Header(HeaderError::from_subcode(subcode)),
            (2, _) => NotificationCode::Open(OpenError::from_subcode(subcode)),
            (3, _) => NotificationCode::Update(UpdateError::from_subcode(subcode)),
            (4, 0) => NotificationCode::HoldTimerExpired,
            (5, _) => NotificationCode::Fsm(FsmError::from_subcode(subcode)),
            (6, _) => NotificationCode::Cease(CeaseError::from_subcode(subcode)),
            (7, _) => NotificationCode::RouteRefresh(RouteRefreshError::from_subcode(subcode)),
            (8, 0) => NotificationCode::SendHoldTimerExpired,
            (code, subcode) => NotificationCode::Other { code, subcode },
        }
    }

    /// Code and subcode on the wire.
    pub fn to_wire(self) -> (u8, u8) {
        match self {
            NotificationCode::Header(error) => (1, error.subcode()),
            NotificationCode::Open(error) => (2, error.subcode()),
            NotificationCode::Update(error) => (3, error.subcode()),
            NotificationCode::HoldTimerExpired => (4, 0),
            NotificationCode::Fsm(error) => (5, error.subcode()),
            NotificationCode::Cease(error) => (6, error.subcode()),
            NotificationCode::RouteRefresh(error) => (7, error.subcode()),
            NotificationCode::SendHoldTimerExpired => (8, 0),
            NotificationCode::Other { code, subcode } => (code, subcode),
        }
    }
}

impl fmt::Display for NotificationCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotificationCode::Header(error) => write!(f, "message header error: {error}"),
            NotificationCode::Open(error) => write!(f, "OPEN error: {error}"),
            NotificationCode::Update(error) => write!(f, "UPDATE error: {error}"),
            NotificationCode::HoldTimerExpired => f.write_str("hold timer expired"),
            NotificationCode::Fsm(error) => write!(f, "state machine error: {error}"),
            NotificationCode::Cease(error) => write!(f, "cease: {error}"),
            NotificationCode::RouteRefresh(error) => write!(f, "ROUTE-REFRESH error: {error}"),
            NotificationCode::SendHoldTimerExpired => f.write_str("send hold timer expired"),
            NotificationCode::Other { code, subcode } => write!(f, "code {code} subcode {subcode}"),
        }
    }
}

impl Notification {
    /// Most octets of a shutdown communication (RFC 9003 section 2).
    pub const MAX_SHUTDOWN_TEXT: usize = 255;

    /// Without data.
    pub fn new(code: NotificationCode) -> Notification {
        Notification { code, data: Vec::new() }
    }

    /// Cease without data.
    pub fn cease(error: CeaseError) -> Notification {
        Notification::new(NotificationCode::Cease(error))
    }

    /// Cease with a shutdown communication (RFC 9003), for administrative shutdown and reset. Text that is too long is cut
    /// at a character.
    pub fn shutdown(error: CeaseError, text: &str) -> Notification {
        let text = &text[..text.floor_char_boundary(Notification::MAX_SHUTDOWN_TEXT)];
        let length = u8::try_from(text.len()).expect("cut to 255 octets above");
        let mut data = vec![length];
        data.extend_from_slice(text.as_bytes());
        Notification { code: NotificationCode::Cease(error), data }
    }

    /// "Really end: do not keep routes" around the true reason (RFC 8538 section 3.1).
    pub fn hard_reset(reason: &Notification) -> Notification {
        let (code, subcode) = reason.code.to_wire();
        let mut data = vec![code, subcode];
        data.extend_from_slice(&reason.data);
        Notification { code: NotificationCode::Cease(CeaseError::HardReset), data }
    }

    /// The reason inside a hard reset, if it is one and has one.
    pub fn hard_reset_reason(&self) -> Option<Notification> {
        match (self.code, self.data.as_slice()) {
            (NotificationCode::Cease(CeaseError::HardReset), [code, subcode, data @ ..]) => {
                Some(Notification { code: NotificationCode::from_wire(*code, *subcode), data: data.to_vec() })
            }
            _ => None,
        }
    }

    /// The shutdown communication of an administrative shutdown or reset, also inside a hard reset. `None` if there is none
    /// or if it is not valid UTF-8 of the length it claims. May hold control characters: quote it before it is logged.
    pub fn shutdown_communication(&self) -> Option<String> {
        if let Some(reason) = self.hard_reset_reason() {
            return match reason.code {
                NotificationCode::Cease(CeaseError::HardReset) => None,
                _ => reason.shutdown_communication(),
            };
        }
        match (self.code, self.data.split_first()) {
            (
                NotificationCode::Cease(CeaseError::AdministrativeShutdown | CeaseError::AdministrativeReset),
                Some((length, rest)),
            ) if *length > 0 => rest.get(..usize::from(*length)).and_then(|text| String::from_utf8(text.to_vec()).ok()),
            _ => None,
        }
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.code.fmt(f)?;
        if let Some(reason) = self.hard_reset_reason() {
            write!(f, " ({})", reason.code)?;
        }
        match self.shutdown_communication() {
            Some(text) => write!(f, " {text:?}"),
            None => Ok(()),
        }
    }
}
