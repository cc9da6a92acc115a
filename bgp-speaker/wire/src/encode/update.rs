//! One UPDATE as it is, without splitting.

use super::{attributes, nlri};
use crate::codes::{attribute as code, flag};
use crate::{EncodeError, Family, NextHop, Prefix, Reach, SessionContext, Update, Withdrawn};

pub(super) fn encode(update: &Update, context: &SessionContext, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if update.end_of_rib.is_none() && update.withdrawn.is_empty() && update.reach.is_empty() {
        return Err(EncodeError::Empty);
    }
    let fields = Fields::sort(update)?;
    counted(out, "withdrawn routes", |out| write_prefixes(Family::IPV4_UNICAST, &fields.withdrawn, out))?;
    counted(out, "path attributes", |out| {
        // RFC 7606 section 5.1: the MP attributes come first.
        if let Some(Reach { family, next_hop, prefixes }) = fields.mp_reach {
            let mut value = Vec::new();
            nlri::write_reach_head(context, *family, *next_hop, &mut value)?;
            write_prefixes(*family, prefixes, &mut value)?;
            attributes::write_octets(flag::OPTIONAL, code::MP_REACH_NLRI, &value, out)?;
        }
        if let Some((family, prefixes)) = &fields.mp_unreach {
            let mut value = Vec::new();
            nlri::write_family(*family, &mut value);
            write_prefixes(*family, prefixes, &mut value)?;
            attributes::write_octets(flag::OPTIONAL, code::MP_UNREACH_NLRI, &value, out)?;
        }
        if update.reach.is_empty() {
            return Ok(());
        }
        let next_hop = fields.announced.map(|(next_hop, _)| next_hop);
        attributes::write(&update.attributes, next_hop, context.four_octet_as, out)
    })?;
    match fields.announced {
        Some((_, prefixes)) => write_prefixes(Family::IPV4_UNICAST, prefixes, out),
        None => Ok(()),
    }
}

/// Which part of the update goes where.
struct Fields<'a> {
    withdrawn: Vec<Prefix>,
    mp_unreach: Option<(Family, Vec<Prefix>)>,
    announced: Option<(std::net::Ipv4Addr, &'a [Prefix])>,
    mp_reach: Option<&'a Reach>,
}

impl<'a> Fields<'a> {
    fn sort(update: &'a Update) -> Result<Fields<'a>, EncodeError> {
        let mut fields = Fields { withdrawn: Vec::new(), mp_unreach: None, announced: None, mp_reach: None };
        match update.end_of_rib {
            None | Some(Family::IPV4_UNICAST) => {}
            Some(family) => fields.mp_unreach = Some((family, Vec::new())),
        }
        for Withdrawn { family, prefixes } in &update.withdrawn {
            if *family == Family::IPV4_UNICAST {
                fields.withdrawn.extend(prefixes);
                continue;
            }
            let (first, all) = fields.mp_unreach.get_or_insert((*family, Vec::new()));
            if first != family {
                return Err(EncodeError::WrongFamily { family: *first, what: format!("withdrawals of {family}") });
            }
            all.extend(prefixes);
        }
        for reach in &update.reach {
            let twice = match (reach.family, reach.next_hop) {
                (Family::IPV4_UNICAST, NextHop::V4(next_hop)) if fields.announced.is_none() => {
                    fields.announced = Some((next_hop, &reach.prefixes));
                    false
                }
                _ => fields.mp_reach.replace(reach).is_some(),
            };
            if twice {
                let what = "a second list of prefixes of MP_REACH_NLRI".to_owned();
                return Err(EncodeError::WrongFamily { family: reach.family, what });
            }
        }
        Ok(fields)
    }
}

/// Appends what `write` appends, behind its length in two octets.
fn counted(
    out: &mut Vec<u8>,
    what: &'static str,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    out.extend_from_slice(&[0, 0]);
    write(out)?;
    let len = out.len() - start - 2;
    let octets = u16::try_from(len).map_err(|_| EncodeError::TooLong { what, len, max: 65535 })?;
    out[start..start + 2].copy_from_slice(&octets.to_be_bytes());
    Ok(())
}

fn write_prefixes(family: Family, prefixes: &[Prefix], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    prefixes.iter().try_for_each(|prefix| nlri::write_prefix(family, *prefix, out))
}
