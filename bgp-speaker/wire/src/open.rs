//! OPEN: who speaks and what it can do (RFC 4271 section 4.2).

use crate::{Asn, Capability, ExtendedNextHop, Family, GracefulRestart, HoldTime, RouterId};

/// An OPEN message. The version is always 4: another one is a [`crate::DecodeError`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The speaker's true AS number: from the four-octet capability if there is one, else from the two-octet field.
    /// To send: put [`Capability::FourOctetAs`] with the same number into `capabilities`.
    pub asn: Asn,
    pub hold_time: HoldTime,
    pub router_id: RouterId,
    /// In the order of the message.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// Families announced by the multiprotocol capability. Without any, IPv4 unicast alone (RFC 4760 section 8).
    pub fn families(&self) -> Vec<Family> {
        let mut families: Vec<Family> = Vec::new();
        for capability in &self.capabilities {
            if let Capability::Multiprotocol(family) = capability
                && !families.contains(family)
            {
                families.push(*family);
            }
        }
        if families.is_empty() {
            families.push(Family::IPV4_UNICAST);
        }
        families
    }

    /// Whether the four-octet AS capability was announced.
    pub fn has_four_octet_as(&self) -> bool {
        self.capabilities.iter().any(|capability| matches!(capability, Capability::FourOctetAs(_)))
    }

    /// Whether a capability equal to this one was announced.
    pub fn has(&self, wanted: &Capability) -> bool {
        self.capabilities.contains(wanted)
    }

    /// The graceful restart capability; the last one counts (RFC 4724 section 3).
    pub fn graceful_restart(&self) -> Option<&GracefulRestart> {
        self.capabilities.iter().rev().find_map(|capability| match capability {
            Capability::GracefulRestart(value) => Some(value),
            _ => None,
        })
    }

    /// All pairs of the extended next hop capability.
    pub fn extended_next_hops(&self) -> impl Iterator<Item = ExtendedNextHop> {
        self.capabilities
            .iter()
            .filter_map(|capability| match capability {
                Capability::ExtendedNextHop(pairs) => Some(pairs.iter().copied()),
                _ => None,
            })
            .flatten()
    }
}
