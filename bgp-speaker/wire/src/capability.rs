//! Capabilities: what a speaker says in OPEN that it can do (RFC 5492).

use crate::{Afi, Asn, Family};

/// One capability. What is not known is kept, so that it can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    /// Routes of this family (RFC 4760), code 1.
    Multiprotocol(Family),
    /// RFC 2918, code 2.
    RouteRefresh,
    /// Families whose next hop may be of another AFI (RFC 8950), code 5.
    ExtendedNextHop(Vec<ExtendedNextHop>),
    /// Messages up to 65535 octets (RFC 8654), code 6.
    ExtendedMessage,
    /// RFC 4724 and RFC 8538, code 64.
    GracefulRestart(GracefulRestart),
    /// The speaker's AS number in four octets (RFC 6793), code 65.
    FourOctetAs(Asn),
    /// RFC 7313, code 70.
    EnhancedRouteRefresh,
    /// Name of the speaker (draft-walton-bgp-hostname-capability), code 73. Each at most 255 octets.
    Fqdn { host: String, domain: String },
    /// draft-abraitis-bgp-version-capability, code 75. At most 255 octets, the capability's own limit, less the length octet.
    SoftwareVersion(String),
    /// Any other code, or a purely informative capability whose value could not be read.
    Unknown { code: u8, value: Vec<u8> },
}

/// "I accept next hops of `next_hop` for routes of `family`."
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedNextHop {
    pub family: Family,
    pub next_hop: Afi,
}

/// The graceful restart capability (RFC 4724 section 3, RFC 8538 section 2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GracefulRestart {
    /// R bit: the speaker has just restarted, do not wait for its End-of-RIB.
    pub restarting: bool,
    /// N bit: NOTIFICATION and hold timer expiry also keep routes (RFC 8538).
    pub notification: bool,
    /// How long the peer shall keep routes after the session ended; 12 bits, 0..4095; more is sent as 4095.
    pub restart_time_s: u16,
    /// Families that the speaker can preserve. Empty: it only understands End-of-RIB and helps others.
    pub families: Vec<GracefulFamily>,
}

/// One family of [`GracefulRestart`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GracefulFamily {
    pub family: Family,
    /// F bit: forwarding went on during the restart.
    pub forwarding_preserved: bool,
}

impl Capability {
    /// The IANA code.
    pub fn code(&self) -> u8 {
        match self {
            Capability::Multiprotocol(_) => 1,
            Capability::RouteRefresh => 2,
            Capability::ExtendedNextHop(_) => 5,
            Capability::ExtendedMessage => 6,
            Capability::GracefulRestart(_) => 64,
            Capability::FourOctetAs(_) => 65,
            Capability::EnhancedRouteRefresh => 70,
            Capability::Fqdn { .. } => 73,
            Capability::SoftwareVersion(_) => 75,
            Capability::Unknown { code, .. } => *code,
        }
    }
}
