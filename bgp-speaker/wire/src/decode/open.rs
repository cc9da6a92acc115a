//! OPEN and its capabilities (RFC 4271 section 4.2 and 6.2, RFC 5492, RFC 9072).

use std::net::Ipv4Addr;

use crate::reader::Reader;
use crate::{
    Afi, Asn, Capability, DecodeError, ExtendedNextHop, Family, GracefulFamily, GracefulRestart, HoldTime,
    NotificationCode, Open, OpenError, RouterId, Safi,
};

/// The version that we speak, as the data of "unsupported version number" names it.
const VERSION: u8 = 4;
/// Optional parameter "Capabilities" (RFC 5492).
const CAPABILITIES: u8 = 2;
/// In place of the first parameter's type: lengths have two octets (RFC 9072 section 2).
const EXTENDED: u8 = 255;

pub(super) fn decode(body: &[u8]) -> Result<Open, DecodeError> {
    let mut reader = Reader::new(body);
    let (Some(version), Some(two_octet_as), Some(hold_time), Some(router_id), Some(parameters_len)) =
        (reader.u8(), reader.u16(), reader.u16(), reader.u32(), reader.u8())
    else {
        return Err(error(OpenError::Unspecific, "an OPEN shorter than its fixed part"));
    };
    if version != VERSION {
        let what = format!("the peer speaks BGP version {version}, we speak {VERSION}");
        return Err(DecodeError::new(NotificationCode::Open(OpenError::UnsupportedVersion), what, &[0, VERSION]));
    }
    let capabilities = parameters(parameters_len, reader.rest())?;
    let asn = asn(two_octet_as, &capabilities)?;
    let hold_time = HoldTime::new(hold_time).ok_or_else(|| {
        let what = format!("the peer offers a hold time of {hold_time} s, allowed are 0 and 3 or more");
        DecodeError::new(NotificationCode::Open(OpenError::UnacceptableHoldTime), what, &[])
    })?;
    let router_id = RouterId::new(Ipv4Addr::from_bits(router_id))
        .ok_or_else(|| error(OpenError::BadBgpIdentifier, "the peer's BGP identifier is 0.0.0.0"))?;
    Ok(Open { asn, hold_time, router_id, capabilities })
}

fn error(error: OpenError, what: impl Into<String>) -> DecodeError {
    DecodeError::new(NotificationCode::Open(error), what, &[])
}

/// The four-octet number counts if it is there (RFC 6793 section 4.1).
fn asn(two_octets: u16, capabilities: &[Capability]) -> Result<Asn, DecodeError> {
    let four_octets = capabilities.iter().find_map(|capability| match capability {
        Capability::FourOctetAs(asn) => Some(*asn),
        _ => None,
    });
    match Asn::new(u32::from(two_octets)) {
        Some(asn) => Ok(four_octets.unwrap_or(asn)),
        None => Err(error(OpenError::BadPeerAs, "the peer says that its AS number is 0")),
    }
}

fn parameters(len: u8, rest: &[u8]) -> Result<Vec<Capability>, DecodeError> {
    let extended = len > 0 && rest.first() == Some(&EXTENDED);
    let mut reader = Reader::new(rest);
    let mut capabilities = Vec::new();
    if extended {
        // The one-octet length means nothing then; the two-octet one follows the type.
        let (_, Some(len)) = (reader.u8(), reader.u16()) else {
            return Err(error(OpenError::Unspecific, "extended optional parameters without their length"));
        };
        check_parameters_len(usize::from(len), reader.len())?;
    } else {
        check_parameters_len(usize::from(len), reader.len())?;
    }
    while !reader.is_empty() {
        let kind = reader.u8();
        let value = if extended { reader.counted_u16() } else { reader.counted_u8() };
        match (kind, value) {
            (Some(CAPABILITIES), Some(value)) => read_capabilities(value, &mut capabilities)?,
            (Some(kind), Some(_)) => {
                let what = format!("optional parameter {kind} is not known");
                return Err(error(OpenError::UnsupportedOptionalParameter, what));
            }
            _ => return Err(error(OpenError::Unspecific, "an optional parameter is longer than the OPEN")),
        }
    }
    Ok(capabilities)
}

fn check_parameters_len(claimed: usize, there: usize) -> Result<(), DecodeError> {
    if claimed == there {
        return Ok(());
    }
    Err(error(OpenError::Unspecific, format!("{claimed} octets of optional parameters claimed, {there} are there")))
}

fn read_capabilities(value: &[u8], into: &mut Vec<Capability>) -> Result<(), DecodeError> {
    let mut reader = Reader::new(value);
    while !reader.is_empty() {
        let (Some(code), Some(value)) = (reader.u8(), reader.counted_u8()) else {
            return Err(error(OpenError::Unspecific, "a capability is longer than its optional parameter"));
        };
        into.push(capability(code, value)?);
    }
    Ok(())
}

/// Capabilities that change how the session works must be well-formed; those that only tell something are kept as unknown
/// when they cannot be read.
fn capability(code: u8, value: &[u8]) -> Result<Capability, DecodeError> {
    let known = match code {
        1 => multiprotocol(value),
        2 => value.is_empty().then_some(Capability::RouteRefresh),
        5 => extended_next_hop(value),
        6 => value.is_empty().then_some(Capability::ExtendedMessage),
        64 => graceful_restart(value),
        65 => match four_octet_as(value) {
            Some(None) => {
                return Err(error(OpenError::BadPeerAs, "the peer says that its four-octet AS number is 0"));
            }
            Some(Some(asn)) => Some(Capability::FourOctetAs(asn)),
            None => None,
        },
        70 => value.is_empty().then_some(Capability::EnhancedRouteRefresh),
        73 => return Ok(fqdn(value).unwrap_or_else(|| unknown(code, value))),
        75 => return Ok(software_version(value).unwrap_or_else(|| unknown(code, value))),
        _ => return Ok(unknown(code, value)),
    };
    known.ok_or_else(|| {
        let what = format!("capability {code} cannot have a value of {} octets", value.len());
        error(OpenError::Unspecific, what)
    })
}

fn unknown(code: u8, value: &[u8]) -> Capability {
    Capability::Unknown { code, value: value.to_vec() }
}

fn multiprotocol(value: &[u8]) -> Option<Capability> {
    // The third octet is reserved and ignored (RFC 4760 section 8).
    let [afi_high, afi_low, _, safi] = *value else { return None };
    Some(Capability::Multiprotocol(Family { afi: Afi(u16::from_be_bytes([afi_high, afi_low])), safi: Safi(safi) }))
}

fn extended_next_hop(value: &[u8]) -> Option<Capability> {
    let (entries, rest) = value.as_chunks::<6>();
    if !rest.is_empty() {
        return None;
    }
    let pairs = entries.iter().map(|[afi_high, afi_low, _, safi, hop_high, hop_low]| ExtendedNextHop {
        family: Family { afi: Afi(u16::from_be_bytes([*afi_high, *afi_low])), safi: Safi(*safi) },
        next_hop: Afi(u16::from_be_bytes([*hop_high, *hop_low])),
    });
    Some(Capability::ExtendedNextHop(pairs.collect()))
}

fn graceful_restart(value: &[u8]) -> Option<Capability> {
    let mut reader = Reader::new(value);
    let head = reader.u16()?;
    let (entries, rest) = reader.rest().as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    let families = entries.iter().map(|[afi_high, afi_low, safi, flags]| GracefulFamily {
        family: Family { afi: Afi(u16::from_be_bytes([*afi_high, *afi_low])), safi: Safi(*safi) },
        forwarding_preserved: flags & 0x80 != 0,
    });
    Some(Capability::GracefulRestart(GracefulRestart {
        restarting: head & 0x8000 != 0,
        notification: head & 0x4000 != 0,
        restart_time_s: head & 0x0fff,
        families: families.collect(),
    }))
}

/// Outer `None`: wrong length. Inner `None`: the number is 0.
fn four_octet_as(value: &[u8]) -> Option<Option<Asn>> {
    let octets: [u8; 4] = value.try_into().ok()?;
    Some(Asn::new(u32::from_be_bytes(octets)))
}

fn fqdn(value: &[u8]) -> Option<Capability> {
    let mut reader = Reader::new(value);
    let host = text(reader.counted_u8()?)?;
    let domain = text(reader.counted_u8()?)?;
    reader.is_empty().then_some(Capability::Fqdn { host, domain })
}

fn software_version(value: &[u8]) -> Option<Capability> {
    let mut reader = Reader::new(value);
    let version = text(reader.counted_u8()?)?;
    reader.is_empty().then_some(Capability::SoftwareVersion(version))
}

fn text(octets: &[u8]) -> Option<String> {
    String::from_utf8(octets.to_vec()).ok()
}
