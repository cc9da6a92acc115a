//! UPDATE: the walk over its parts and the remedies of RFC 7606.

use std::net::Ipv4Addr;

use super::attribute::{self, Bad};
use super::mp::{self, Mp, MpReach, MpUnreach};
use super::nlri;
use crate::codes::{attribute as code, flag};
use crate::reader::Reader;
use crate::{
    Afi, Aggregator, AsPath, AsSegment, Asn, DecodeError, Family, Malformed, NextHop, NotificationCode, PathAttributes,
    PeerKind, Prefix, Reach, Remedy, SegmentKind, SessionContext, UnknownAttribute, Update, UpdateError, Withdrawn,
};

pub(super) fn decode(body: &[u8], context: &SessionContext) -> Result<(Update, Vec<Malformed>), DecodeError> {
    let parts = split(body)?;
    let field = |bytes, name: &str| {
        nlri::prefixes(Afi::IPV4, bytes)
            .map_err(|what| error(UpdateError::InvalidNetworkField, format!("{name}: {what}"), &[]))
    };
    let withdrawn = field(parts.withdrawn, "withdrawn routes")?;
    let announced = field(parts.announced, "network layer reachability information")?;
    let mut walk = Walk::new(context);
    walk.attributes(parts.attributes)?;
    if body == [0; 4] {
        return Ok((Update::end_of_rib(Family::IPV4_UNICAST), Vec::new()));
    }
    walk.conclude(withdrawn, announced)
}

fn error(error: UpdateError, what: impl Into<String>, data: &[u8]) -> DecodeError {
    DecodeError::new(NotificationCode::Update(error), what, data)
}

/// The three variable fields of the body.
struct Parts<'a> {
    withdrawn: &'a [u8],
    attributes: &'a [u8],
    announced: &'a [u8],
}

fn split(body: &[u8]) -> Result<Parts<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let (Some(withdrawn), Some(attributes)) = (reader.counted_u16(), reader.counted_u16()) else {
        let what = "the lengths of withdrawn routes and attributes exceed the UPDATE";
        return Err(error(UpdateError::MalformedAttributeList, what, &[]));
    };
    Ok(Parts { withdrawn, attributes, announced: reader.rest() })
}

/// One attribute as it lies in the message.
struct Raw<'a> {
    flags: u8,
    code: u8,
    value: &'a [u8],
    /// All of it: flags, code, length and value; the data of a NOTIFICATION (RFC 4271 section 6.3).
    octets: &'a [u8],
}

/// A fault that asks for a remedy weaker than session reset, unless there turns out to be no prefix to withdraw.
struct Fault {
    told: Malformed,
    subcode: UpdateError,
    octets: Vec<u8>,
}

/// What the attributes of one UPDATE said.
struct Walk<'c> {
    context: &'c SessionContext,
    /// By type code: has it been there before?
    seen: [bool; 256],
    values: PathAttributes,
    has_origin: bool,
    has_as_path: bool,
    /// Counts only if there are prefixes in the IPv4 field, so its fault is kept apart.
    next_hop: Option<Result<Ipv4Addr, Fault>>,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<Aggregator>,
    reach: Option<MpReach>,
    unreach: Option<MpUnreach>,
    /// An MP attribute of a family that is not used carried prefixes, or (for `end_of_rib`) none.
    unused_reach: bool,
    unused_end_of_rib: Option<Family>,
    /// Attributes other than MP_UNREACH_NLRI are there.
    others: bool,
    /// Told at most [`Malformed::MAX_TOLD`].
    malformed: Vec<Malformed>,
    /// The first fault that asks for treat-as-withdraw.
    withdraw: Option<Fault>,
}

impl<'c> Walk<'c> {
    fn new(context: &'c SessionContext) -> Walk<'c> {
        Walk {
            context,
            seen: [false; 256],
            values: PathAttributes::default(),
            has_origin: false,
            has_as_path: false,
            next_hop: None,
            as4_path: None,
            as4_aggregator: None,
            reach: None,
            unreach: None,
            unused_reach: false,
            unused_end_of_rib: None,
            others: false,
            malformed: Vec::new(),
            withdraw: None,
        }
    }

    fn attributes(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let before = reader.rest();
            match next_attribute(&mut reader) {
                Some(raw) => self.attribute(&raw)?,
                // RFC 7606 section 4: the rest cannot be read, but where the IPv4 field starts is known. The prefixes of an
                // MP attribute that is cut short are not, so nothing weaker than a reset withdraws them (section 3, j).
                None => {
                    self.others = true;
                    let code = before.get(1).copied();
                    if matches!(code, Some(code::MP_REACH_NLRI | code::MP_UNREACH_NLRI)) {
                        return Err(error(UpdateError::MalformedAttributeList, bad_list().what, &[]));
                    }
                    self.fault(code, bad_list(), before);
                    break;
                }
            }
        }
        Ok(())
    }

    fn attribute(&mut self, raw: &Raw<'_>) -> Result<(), DecodeError> {
        let seen = &mut self.seen[usize::from(raw.code)];
        let again = std::mem::replace(seen, true);
        if again {
            return self.again(raw);
        }
        self.others |= raw.code != code::MP_UNREACH_NLRI;
        if self.is_out_of_place(raw.code) {
            return Ok(());
        }
        let Some(expected) = attribute::expected_flags(raw.code) else {
            return self.unknown(raw);
        };
        if raw.flags & (flag::OPTIONAL | flag::TRANSITIVE) != expected {
            self.fault(Some(raw.code), bad_flags(raw.flags), raw.octets);
            // The prefixes in MP attributes must be found all the same, to be withdrawn.
            if !matches!(raw.code, code::MP_REACH_NLRI | code::MP_UNREACH_NLRI) {
                return Ok(());
            }
        }
        match raw.code {
            code::MP_REACH_NLRI => self.mp_reach(raw),
            code::MP_UNREACH_NLRI => self.mp_unreach(raw),
            _ => {
                if let Err(bad) = self.value(raw) {
                    self.fault(Some(raw.code), bad, raw.octets);
                }
                Ok(())
            }
        }
    }

    /// A second occurrence (RFC 7606 section 3, point g).
    fn again(&mut self, raw: &Raw<'_>) -> Result<(), DecodeError> {
        if matches!(raw.code, code::MP_REACH_NLRI | code::MP_UNREACH_NLRI) {
            let what = format!("attribute {} is there more than once", raw.code);
            return Err(error(UpdateError::MalformedAttributeList, what, &[]));
        }
        self.tell(Some(raw.code), Remedy::AttributeDiscard, || "there more than once; the first counts".to_owned());
        Ok(())
    }

    /// Attributes that such a peer must not send are dropped before anything else is asked of them.
    fn is_out_of_place(&mut self, attribute: u8) -> bool {
        match attribute {
            // RFC 7606 sections 7.5, 7.9 and 7.10.
            code::LOCAL_PREF | code::ORIGINATOR_ID | code::CLUSTER_LIST if self.context.peer == PeerKind::External => {
                self.tell(Some(attribute), Remedy::AttributeDiscard, || "not for an external peer to send".to_owned());
                true
            }
            // RFC 6793 section 4.1.
            code::AS4_PATH | code::AS4_AGGREGATOR if self.context.four_octet_as => {
                self.tell(Some(attribute), Remedy::AttributeDiscard, || {
                    "not for a speaker of four-octet AS numbers to send".to_owned()
                });
                true
            }
            _ => false,
        }
    }

    fn unknown(&mut self, raw: &Raw<'_>) -> Result<(), DecodeError> {
        if raw.flags & flag::OPTIONAL == 0 {
            // RFC 7606 leaves this one as it was in RFC 4271 section 6.3.
            let what = format!("attribute {} claims to be well-known but is not", raw.code);
            return Err(error(UpdateError::UnrecognizedWellKnownAttribute, what, raw.octets));
        }
        if raw.flags & flag::TRANSITIVE != 0 {
            let flags = raw.flags & !flag::EXTENDED_LENGTH;
            self.values.unknown.push(UnknownAttribute { code: raw.code, flags, value: raw.value.to_vec() });
        }
        Ok(())
    }

    fn value(&mut self, raw: &Raw<'_>) -> Result<(), Bad> {
        let four_octets = self.context.four_octet_as;
        let values = &mut self.values;
        match raw.code {
            code::ORIGIN => {
                self.has_origin = true;
                values.origin = attribute::origin(raw.value)?;
            }
            code::AS_PATH => {
                self.has_as_path = true;
                let confederation = self.context.peer == PeerKind::Internal;
                values.as_path = attribute::as_path(raw.value, four_octets, confederation)?;
            }
            code::NEXT_HOP => {
                self.next_hop =
                    Some(attribute::next_hop(raw.value).map_err(|bad| Fault::new(Some(raw.code), bad, raw.octets)));
            }
            code::MED => values.med = Some(attribute::number(raw.value)?),
            code::LOCAL_PREF => values.local_pref = Some(attribute::number(raw.value)?),
            code::ATOMIC_AGGREGATE => values.atomic_aggregate = attribute::atomic_aggregate(raw.value)?,
            code::AGGREGATOR => values.aggregator = Some(attribute::aggregator(raw.value, four_octets)?),
            code::COMMUNITIES => values.communities = attribute::communities(raw.value)?,
            code::ORIGINATOR_ID => values.originator_id = Some(attribute::originator_id(raw.value)?),
            code::CLUSTER_LIST => values.cluster_list = attribute::cluster_list(raw.value)?,
            code::EXTENDED_COMMUNITIES => values.extended_communities = attribute::extended_communities(raw.value)?,
            code::AS4_PATH => self.as4_path = Some(attribute::as4_path(raw.value)?),
            code::AS4_AGGREGATOR => self.as4_aggregator = Some(attribute::aggregator(raw.value, true)?),
            code::LARGE_COMMUNITIES => values.large_communities = attribute::large_communities(raw.value)?,
            // `expected_flags` knows no other code, and the MP attributes were taken before.
            _ => {}
        }
        Ok(())
    }

    fn mp_reach(&mut self, raw: &Raw<'_>) -> Result<(), DecodeError> {
        match mp::reach(raw.value, self.context) {
            Ok(Mp::Routes(reach)) => self.reach = Some(reach),
            Ok(Mp::Unused { family, empty }) => {
                self.unused_reach |= !empty;
                self.tell_unused(raw.code, family);
            }
            Err(what) => return Err(bad_mp("MP_REACH_NLRI", &what, raw)),
        }
        Ok(())
    }

    fn mp_unreach(&mut self, raw: &Raw<'_>) -> Result<(), DecodeError> {
        match mp::unreach(raw.value, self.context) {
            Ok(Mp::Routes(unreach)) => self.unreach = Some(unreach),
            Ok(Mp::Unused { family, empty: true }) => self.unused_end_of_rib = Some(family),
            Ok(Mp::Unused { family, empty: false }) => self.tell_unused(raw.code, family),
            Err(what) => return Err(bad_mp("MP_UNREACH_NLRI", &what, raw)),
        }
        Ok(())
    }

    fn tell_unused(&mut self, attribute: u8, family: Family) {
        self.tell(Some(attribute), Remedy::AttributeDiscard, || format!("{family} is not used on this session"));
    }

    fn tell(&mut self, attribute: Option<u8>, remedy: Remedy, what: impl FnOnce() -> String) {
        if self.malformed.len() < Malformed::MAX_TOLD {
            self.malformed.push(Malformed { attribute, remedy, what: what() });
        }
    }

    fn fault(&mut self, attribute: Option<u8>, bad: Bad, octets: &[u8]) {
        let fault = Fault::new(attribute, bad, octets);
        self.tell(attribute, fault.told.remedy, || fault.told.what.clone());
        if fault.told.remedy >= Remedy::TreatAsWithdraw && self.withdraw.is_none() {
            self.withdraw = Some(fault);
        }
    }

    /// All was read: checks what must be there, merges the AS4 attributes, applies treat-as-withdraw.
    fn conclude(
        mut self,
        withdrawn: Vec<Prefix>,
        announced: Vec<Prefix>,
    ) -> Result<(Update, Vec<Malformed>), DecodeError> {
        let (withdrawn, announced) = self.drop_unused_ipv4(withdrawn, announced);
        if let Some(end_of_rib) = self.end_of_rib(&withdrawn, &announced) {
            return Ok((end_of_rib, self.malformed));
        }
        let mut update = Update::default();
        let mut withdraw = |family, prefixes: Vec<Prefix>| {
            if !prefixes.is_empty() {
                update.withdrawn.push(Withdrawn { family, prefixes });
            }
        };
        withdraw(Family::IPV4_UNICAST, withdrawn);
        if let Some(MpUnreach { family, prefixes }) = self.unreach.take() {
            withdraw(family, prefixes);
        }
        update.reach = self.reachable(announced);
        if !update.reach.is_empty() {
            self.check_mandatory();
        }
        if let Some(fault) = self.withdraw.take() {
            // RFC 7606 section 5.2: without a prefix to withdraw, some may have been missed.
            if update.reach.is_empty() && !self.unused_reach && self.others {
                return Err(fault.into_error());
            }
            let reach = std::mem::take(&mut update.reach);
            update
                .withdrawn
                .extend(reach.into_iter().map(|Reach { family, prefixes, .. }| Withdrawn { family, prefixes }));
        } else if !update.reach.is_empty() {
            self.merge_as4();
            update.attributes = self.values;
        }
        Ok((update, self.malformed))
    }

    /// The IPv4 fields mean nothing when IPv4 unicast is not used on this session.
    fn drop_unused_ipv4(&mut self, withdrawn: Vec<Prefix>, announced: Vec<Prefix>) -> (Vec<Prefix>, Vec<Prefix>) {
        let there = !withdrawn.is_empty() || !announced.is_empty();
        if !there || self.context.families.contains(&Family::IPV4_UNICAST) {
            return (withdrawn, announced);
        }
        self.unused_reach |= !announced.is_empty();
        let what = || format!("{} is not used on this session", Family::IPV4_UNICAST);
        self.tell(None, Remedy::AttributeDiscard, what);
        (Vec::new(), Vec::new())
    }

    /// An UPDATE with nothing but an empty MP_UNREACH_NLRI (RFC 4724 section 2).
    fn end_of_rib(&self, withdrawn: &[Prefix], announced: &[Prefix]) -> Option<Update> {
        let alone = withdrawn.is_empty() && announced.is_empty() && !self.others && self.malformed.is_empty();
        match &self.unreach {
            _ if !alone => None,
            Some(MpUnreach { family, prefixes }) if prefixes.is_empty() => Some(Update::end_of_rib(*family)),
            Some(_) => None,
            None => self.unused_end_of_rib.map(Update::end_of_rib),
        }
    }

    fn reachable(&mut self, announced: Vec<Prefix>) -> Vec<Reach> {
        let mut all = Vec::new();
        if !announced.is_empty() {
            let next_hop = match self.next_hop.take() {
                Some(Ok(address)) => address,
                Some(Err(fault)) => {
                    self.tell(fault.told.attribute, fault.told.remedy, || fault.told.what.clone());
                    self.withdraw.get_or_insert(fault);
                    Ipv4Addr::UNSPECIFIED
                }
                None => {
                    // Its flags may have been wrong; then this is told besides, with the same remedy.
                    self.fault(Some(code::NEXT_HOP), missing(), &[code::NEXT_HOP]);
                    Ipv4Addr::UNSPECIFIED
                }
            };
            let family = Family::IPV4_UNICAST;
            all.push(Reach { family, next_hop: NextHop::V4(next_hop), prefixes: announced });
        }
        if let Some(MpReach { family, next_hop, prefixes }) = self.reach.take()
            && !prefixes.is_empty()
        {
            if !is_host(next_hop) {
                let what = format!("{next_hop} is no host's address");
                let bad = Bad { remedy: Remedy::TreatAsWithdraw, subcode: UpdateError::OptionalAttribute, what };
                self.fault(Some(code::MP_REACH_NLRI), bad, &[]);
            }
            all.push(Reach { family, next_hop, prefixes });
        }
        all
    }

    /// RFC 7606 section 3, point d.
    fn check_mandatory(&mut self) {
        for (there, attribute) in [(self.has_origin, code::ORIGIN), (self.has_as_path, code::AS_PATH)] {
            if !there {
                self.fault(Some(attribute), missing(), &[attribute]);
            }
        }
    }

    /// RFC 6793 section 4.2.3. Nothing to do with a speaker of four-octet numbers: its AS4 attributes were dropped.
    fn merge_as4(&mut self) {
        match (self.values.aggregator, self.as4_aggregator) {
            // Somebody between, who does not know of AS4, has aggregated: both AS4 attributes are out of date.
            (Some(Aggregator { asn, .. }), Some(_)) if asn != Asn::TRANS => return,
            (Some(_), Some(true_one)) => self.values.aggregator = Some(true_one),
            _ => {}
        }
        let Some(as4_path) = self.as4_path.take() else { return };
        let Some(missing) = self.values.as_path.len().checked_sub(as4_path.len()) else { return };
        let old = std::mem::take(&mut self.values.as_path);
        self.values.as_path = join(leading(old, missing), as4_path);
    }
}

/// As much of the head of the path as counts `wanted` in its length, with the confederation segments among it.
fn leading(path: AsPath, mut wanted: usize) -> AsPath {
    let mut head = AsPath::default();
    for AsSegment { kind, mut asns } in path.segments {
        match kind {
            SegmentKind::ConfedSequence | SegmentKind::ConfedSet => {}
            _ if wanted == 0 => break,
            SegmentKind::Set => wanted -= 1,
            SegmentKind::Sequence => {
                asns.truncate(wanted);
                wanted -= asns.len();
            }
        }
        head.segments.push(AsSegment { kind, asns });
    }
    head
}

/// One path behind the other; two sequences that meet become one.
fn join(mut head: AsPath, tail: AsPath) -> AsPath {
    let mut tail = tail.segments.into_iter();
    if let Some(first) = tail.next() {
        match head.segments.last_mut() {
            Some(last) if last.kind == SegmentKind::Sequence && first.kind == SegmentKind::Sequence => {
                last.asns.extend(first.asns);
            }
            _ => head.segments.push(first),
        }
    }
    head.segments.extend(tail);
    head
}

impl Fault {
    fn new(attribute: Option<u8>, bad: Bad, octets: &[u8]) -> Fault {
        Fault {
            told: Malformed { attribute, remedy: bad.remedy, what: bad.what },
            subcode: bad.subcode,
            octets: octets.to_vec(),
        }
    }

    fn into_error(self) -> DecodeError {
        let attribute = self.told.attribute.map_or_else(String::new, |code| format!("attribute {code}: "));
        let what = format!("{attribute}{}, and no prefix to withdraw", self.told.what);
        error(self.subcode, what, &self.octets)
    }
}

fn next_attribute<'a>(reader: &mut Reader<'a>) -> Option<Raw<'a>> {
    let before = reader.rest();
    let (flags, code) = (reader.u8()?, reader.u8()?);
    let value = if flags & flag::EXTENDED_LENGTH != 0 { reader.counted_u16()? } else { reader.counted_u8()? };
    let octets = &before[..before.len() - reader.len()];
    Some(Raw { flags, code, value, octets })
}

fn is_host(next_hop: NextHop) -> bool {
    match next_hop {
        NextHop::V4(address) => !(address.is_unspecified() || address.is_multicast() || address.is_broadcast()),
        NextHop::V6 { global, .. } => !(global.is_unspecified() || global.is_multicast()),
    }
}

fn bad_list() -> Bad {
    Bad {
        remedy: Remedy::TreatAsWithdraw,
        subcode: UpdateError::MalformedAttributeList,
        what: "an attribute is longer than the attributes together".to_owned(),
    }
}

fn bad_flags(flags: u8) -> Bad {
    Bad {
        remedy: Remedy::TreatAsWithdraw,
        subcode: UpdateError::AttributeFlags,
        what: format!("flags {flags:#04x} are not those of this attribute"),
    }
}

fn missing() -> Bad {
    Bad {
        remedy: Remedy::TreatAsWithdraw,
        subcode: UpdateError::MissingWellKnownAttribute,
        what: "mandatory, but not there".to_owned(),
    }
}

fn bad_mp(name: &str, what: &str, raw: &Raw<'_>) -> DecodeError {
    error(UpdateError::OptionalAttribute, format!("{name}: {what}"), raw.octets)
}
