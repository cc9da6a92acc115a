//! OPEN and its capabilities.

use crate::{Capability, EncodeError, Family, GracefulRestart, Open};

/// Optional parameter "Capabilities" (RFC 5492).
const CAPABILITIES: u8 = 2;
/// Marks lengths of two octets (RFC 9072); used only if the capabilities need it, because old speakers do not know it.
const EXTENDED: u8 = 255;

pub(super) fn encode(open: &Open, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    out.push(4);
    out.extend_from_slice(&open.asn.to_two_octets().to_be_bytes());
    out.extend_from_slice(&open.hold_time.seconds().to_be_bytes());
    out.extend_from_slice(&open.router_id.get().to_be_bytes());
    let mut capabilities = Vec::new();
    for capability in &open.capabilities {
        write_capability(capability, &mut capabilities)?;
    }
    let len = capabilities.len();
    match (u8::try_from(len), u8::try_from(len + 2), u16::try_from(len), u16::try_from(len + 3)) {
        (Ok(0), ..) => out.push(0),
        (Ok(len), Ok(parameters_len), ..) => out.extend_from_slice(&[parameters_len, CAPABILITIES, len]),
        (_, _, Ok(len), Ok(parameters_len)) => {
            out.extend_from_slice(&[EXTENDED, EXTENDED]);
            out.extend_from_slice(&parameters_len.to_be_bytes());
            out.push(CAPABILITIES);
            out.extend_from_slice(&len.to_be_bytes());
        }
        _ => return Err(EncodeError::TooLong { what: "list of capabilities", len, max: 65532 }),
    }
    out.extend_from_slice(&capabilities);
    Ok(())
}

fn write_capability(capability: &Capability, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let mut value = Vec::new();
    match capability {
        Capability::Multiprotocol(family) => write_family(*family, &mut value),
        Capability::RouteRefresh | Capability::ExtendedMessage | Capability::EnhancedRouteRefresh => {}
        Capability::ExtendedNextHop(pairs) => {
            for pair in pairs {
                write_family(pair.family, &mut value);
                value.extend_from_slice(&pair.next_hop.0.to_be_bytes());
            }
        }
        Capability::GracefulRestart(restart) => write_graceful_restart(restart, &mut value),
        Capability::FourOctetAs(asn) => value.extend_from_slice(&asn.get().to_be_bytes()),
        Capability::Fqdn { host, domain } => {
            write_text(host, &mut value)?;
            write_text(domain, &mut value)?;
        }
        Capability::SoftwareVersion(version) => write_text(version, &mut value)?,
        Capability::Unknown { value: octets, .. } => value.extend_from_slice(octets),
    }
    let len = u8_len("capability", value.len())?;
    out.extend_from_slice(&[capability.code(), len]);
    out.extend_from_slice(&value);
    Ok(())
}

fn u8_len(what: &'static str, len: usize) -> Result<u8, EncodeError> {
    u8::try_from(len).map_err(|_| EncodeError::TooLong { what, len, max: 255 })
}

fn write_family(family: Family, out: &mut Vec<u8>) {
    out.extend_from_slice(&family.afi.0.to_be_bytes());
    out.extend_from_slice(&[0, family.safi.0]);
}

fn write_graceful_restart(restart: &GracefulRestart, out: &mut Vec<u8>) {
    let restarting = if restart.restarting { 0x8000 } else { 0 };
    let notification = if restart.notification { 0x4000 } else { 0 };
    let head = restarting | notification | restart.restart_time_s.min(0x0fff);
    out.extend_from_slice(&head.to_be_bytes());
    for family in &restart.families {
        out.extend_from_slice(&family.family.afi.0.to_be_bytes());
        out.extend_from_slice(&[family.family.safi.0, if family.forwarding_preserved { 0x80 } else { 0 }]);
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    out.push(u8_len("text in a capability", text.len())?);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}
