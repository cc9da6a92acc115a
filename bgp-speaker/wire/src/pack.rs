//! Many prefixes into few UPDATEs, each filled up to what the session allows. IPv4 with an IPv4 next hop goes the classic
//! way, all else in MP_REACH_NLRI and MP_UNREACH_NLRI. All functions append whole messages to `out`, so that they can be
//! written at once, and return how many; on error nothing was appended.

use crate::{EncodeError, Family, NextHop, PathAttributes, Prefix, SessionContext};

/// Announces `prefixes`, all of `family`, with the same attributes and next hop.
pub fn announce(
    _context: &SessionContext,
    _family: Family,
    _attributes: &PathAttributes,
    _next_hop: NextHop,
    _prefixes: impl IntoIterator<Item = Prefix>,
    _out: &mut Vec<u8>,
) -> Result<usize, EncodeError> {
    todo!()
}

/// Withdraws `prefixes`, all of `family`.
pub fn withdraw(
    _context: &SessionContext,
    _family: Family,
    _prefixes: impl IntoIterator<Item = Prefix>,
    _out: &mut Vec<u8>,
) -> Result<usize, EncodeError> {
    todo!()
}

/// The End-of-RIB marker of `family` (RFC 4724 section 2).
pub fn end_of_rib(_family: Family, _out: &mut Vec<u8>) -> usize {
    todo!()
}
