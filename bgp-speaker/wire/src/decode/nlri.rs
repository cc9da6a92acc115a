//! Lists of prefixes (RFC 4271 section 4.3, RFC 4760 section 5).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::reader::Reader;
use crate::{Afi, Prefix};

/// Reads prefixes to the end of the bytes. Bits behind a prefix's length mean nothing and are cleared.
///
/// # Errors
/// What is wrong, for people. Where the next prefix starts is then unknown.
pub(super) fn prefixes(afi: Afi, bytes: &[u8]) -> Result<Vec<Prefix>, String> {
    let mut reader = Reader::new(bytes);
    // The shortest useful entries have three octets or so; a guess too low only costs a reallocation.
    let mut prefixes = Vec::with_capacity(bytes.len() / 4);
    while let Some(len) = reader.u8() {
        let prefix = match afi {
            Afi::IPV6 => address::<16>(&mut reader, len).and_then(|octets| Prefix::v6(Ipv6Addr::from(octets), len)),
            _ => address::<4>(&mut reader, len).and_then(|octets| Prefix::v4(Ipv4Addr::from(octets), len)),
        };
        match prefix {
            Some(prefix) => prefixes.push(prefix),
            None => {
                let there = reader.len();
                return Err(format!("a prefix of length {len} with {there} octets left"));
            }
        }
    }
    Ok(prefixes)
}

/// The octets of a prefix, filled up with zeros; `None` if it is longer than an address or than the bytes.
fn address<const N: usize>(reader: &mut Reader<'_>, len: u8) -> Option<[u8; N]> {
    let count = usize::from(len).div_ceil(8);
    if count > N {
        return None;
    }
    let mut octets = [0; N];
    octets[..count].copy_from_slice(reader.take(count)?);
    Some(octets)
}
