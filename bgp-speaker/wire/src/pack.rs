//! Many prefixes into few UPDATEs, each filled up to what the session allows.
//!
//! IPv4 with an IPv4 next hop goes the classic way, all else in MP_REACH_NLRI and MP_UNREACH_NLRI. All functions append
//! whole messages to `out`, so that they can be written at once, and return how many; on error nothing was appended.

use crate::codes::{attribute as code, flag};
use crate::encode::{attributes, close_message, nlri, open_message};
use crate::{EncodeError, Family, HEADER_LEN, MessageType, NextHop, PathAttributes, Prefix, SessionContext};

/// Announces `prefixes`, all of `family`, with the same attributes and next hop.
///
/// # Errors
/// The attributes leave no room for a prefix, a prefix is of another family, or the peer does not take the next hop.
pub fn announce(
    context: &SessionContext,
    family: Family,
    attributes: &PathAttributes,
    next_hop: NextHop,
    prefixes: impl IntoIterator<Item = Prefix>,
    out: &mut Vec<u8>,
) -> Result<usize, EncodeError> {
    let classic = match next_hop {
        NextHop::V4(address) if family == Family::IPV4_UNICAST => Some(address),
        _ => None,
    };
    let mut encoded = Vec::new();
    attributes::write(attributes, classic, context.four_octet_as, &mut encoded)?;
    let (head, tail) = match classic {
        Some(_) => {
            // No withdrawn routes, then the attributes; the prefixes come last.
            let len = u16::try_from(encoded.len()).map_err(|_| too_long(encoded.len(), context))?;
            let mut head = vec![0, 0];
            head.extend_from_slice(&len.to_be_bytes());
            head.append(&mut encoded);
            (head, Vec::new())
        }
        None => {
            let mut value = Vec::new();
            nlri::write_reach_head(context, family, next_hop, &mut value)?;
            (mp_head(code::MP_REACH_NLRI, &value), encoded)
        }
    };
    let form = if classic.is_some() { Form::Announced } else { Form::Mp };
    Packer { max: usize::from(context.max_send_len), family, form, head, tail }.pack(prefixes, out)
}

/// Withdraws `prefixes`, all of `family`.
///
/// # Errors
/// A prefix is of another family.
pub fn withdraw(
    context: &SessionContext,
    family: Family,
    prefixes: impl IntoIterator<Item = Prefix>,
    out: &mut Vec<u8>,
) -> Result<usize, EncodeError> {
    let (form, head, tail) = if family == Family::IPV4_UNICAST {
        // The length of withdrawn routes, the prefixes, then no attributes.
        (Form::Withdrawn, vec![0, 0], vec![0, 0])
    } else {
        let mut value = Vec::new();
        nlri::write_family(family, &mut value);
        (Form::Mp, mp_head(code::MP_UNREACH_NLRI, &value), Vec::new())
    };
    Packer { max: usize::from(context.max_send_len), family, form, head, tail }.pack(prefixes, out)
}

/// The End-of-RIB marker of `family` (RFC 4724 section 2).
pub fn end_of_rib(family: Family, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    open_message(out, MessageType::Update);
    if family == Family::IPV4_UNICAST {
        out.extend_from_slice(&[0; 4]);
    } else {
        out.extend_from_slice(&[0, 0, 0, 6, flag::OPTIONAL, code::MP_UNREACH_NLRI, 3]);
        nlri::write_family(family, out);
    }
    close_message(out, start, 29).expect("23 or 29 octets");
    1
}

/// Octets between the end of the header and the value of the MP attribute: no withdrawn routes, the length of the
/// attributes, and the head of the MP attribute with two octets of length, because it may grow.
const MP_VALUE: usize = 2 + 2 + 4;

/// The body up to the first prefix. Both lengths are written when the message ends.
fn mp_head(code: u8, value: &[u8]) -> Vec<u8> {
    let mut head = vec![0, 0, 0, 0, flag::OPTIONAL | flag::EXTENDED_LENGTH, code, 0, 0];
    head.extend_from_slice(value);
    head
}

fn too_long(len: usize, context: &SessionContext) -> EncodeError {
    EncodeError::AttributesTooLong { len, max: usize::from(context.max_send_len) }
}

/// Where the prefixes stand, and so which lengths depend on them.
#[derive(Clone, Copy)]
enum Form {
    /// In the withdrawn routes: their length is the first field.
    Withdrawn,
    /// At the end of the message: nothing but the header knows.
    Announced,
    /// At the end of an MP attribute, the first of the attributes.
    Mp,
}

/// What all messages of one call have in common.
struct Packer {
    max: usize,
    family: Family,
    form: Form,
    /// The body before the prefixes.
    head: Vec<u8>,
    /// The body behind them.
    tail: Vec<u8>,
}

impl Packer {
    fn pack(self, prefixes: impl IntoIterator<Item = Prefix>, out: &mut Vec<u8>) -> Result<usize, EncodeError> {
        let start = out.len();
        let result = self.try_pack(prefixes, out);
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    fn try_pack(&self, prefixes: impl IntoIterator<Item = Prefix>, out: &mut Vec<u8>) -> Result<usize, EncodeError> {
        let frame = HEADER_LEN + self.head.len() + self.tail.len();
        let mut messages = 0;
        let mut open: Option<usize> = None;
        for prefix in prefixes {
            let len = nlri::prefix_len(prefix);
            if frame + len > self.max {
                return Err(EncodeError::AttributesTooLong { len: frame, max: self.max });
            }
            if let Some(start) = open
                && out.len() - start + self.tail.len() + len > self.max
            {
                self.close(out, start)?;
                open = None;
            }
            if open.is_none() {
                open = Some(out.len());
                messages += 1;
                open_message(out, MessageType::Update);
                out.extend_from_slice(&self.head);
            }
            nlri::write_prefix(self.family, prefix, out)?;
        }
        if let Some(start) = open {
            self.close(out, start)?;
        }
        Ok(messages)
    }

    fn close(&self, out: &mut Vec<u8>, start: usize) -> Result<(), EncodeError> {
        let body = start + HEADER_LEN;
        let prefixes_end = out.len();
        out.extend_from_slice(&self.tail);
        match self.form {
            Form::Announced => {}
            Form::Withdrawn => self.set_len(out, body, prefixes_end - body - 2)?,
            Form::Mp => {
                let end = out.len();
                self.set_len(out, body + 2, end - body - 4)?;
                self.set_len(out, body + MP_VALUE - 2, prefixes_end - body - MP_VALUE)?;
            }
        }
        close_message(out, start, self.max)
    }

    fn set_len(&self, out: &mut [u8], at: usize, len: usize) -> Result<(), EncodeError> {
        let octets = u16::try_from(len).map_err(|_| EncodeError::TooLong { what: "UPDATE", len, max: self.max })?;
        out[at..at + 2].copy_from_slice(&octets.to_be_bytes());
        Ok(())
    }
}
