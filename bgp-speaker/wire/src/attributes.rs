//! Path attributes: what is said about the prefixes of an UPDATE (RFC 4271 section 5).

use std::fmt;
use std::net::Ipv4Addr;

use crate::{Asn, Community, ExtendedCommunity, LargeCommunity};

/// All attributes of a route except its next hop, which belongs to the family ([`crate::Reach`]) because one UPDATE can
/// carry two. Comparable and hashable, so that equal sets can be interned.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PathAttributes {
    pub origin: Origin,
    /// Empty for a route that its own AS originates (iBGP).
    pub as_path: AsPath,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// iBGP only; a decoder drops it from an external peer (RFC 7606 section 7.5).
    pub local_pref: Option<u32>,
    pub atomic_aggregate: bool,
    pub aggregator: Option<Aggregator>,
    /// Empty: the attribute is absent. The same for all lists below.
    pub communities: Vec<Community>,
    pub extended_communities: Vec<ExtendedCommunity>,
    pub large_communities: Vec<LargeCommunity>,
    /// iBGP only (RFC 4456).
    pub originator_id: Option<Ipv4Addr>,
    /// iBGP only (RFC 4456).
    pub cluster_list: Vec<Ipv4Addr>,
    /// Optional transitive attributes that are not known here, in the order of the message. They are passed on with the
    /// Partial bit (RFC 4271 section 5).
    pub unknown: Vec<UnknownAttribute>,
}

/// How the route came into BGP (RFC 4271 section 5.1.1). Ordered by preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Origin {
    #[default]
    Igp,
    Egp,
    Incomplete,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Origin::Igp => "igp",
            Origin::Egp => "egp",
            Origin::Incomplete => "incomplete",
        })
    }
}

/// The ASes that a route passed, nearest first, in four octets each: AS4_PATH is already merged in (RFC 6793).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct AsPath {
    pub segments: Vec<AsSegment>,
}

/// One segment; never empty when decoded, and at most 255 numbers on the wire (longer ones are split when encoded).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AsSegment {
    pub kind: SegmentKind,
    pub asns: Vec<Asn>,
}

/// RFC 4271 section 4.3, RFC 5065 section 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentKind {
    Set,
    Sequence,
    ConfedSequence,
    ConfedSet,
}

impl AsPath {
    /// A path of one sequence; empty if there are no numbers.
    pub fn sequence(asns: impl IntoIterator<Item = Asn>) -> AsPath {
        let asns: Vec<Asn> = asns.into_iter().collect();
        if asns.is_empty() {
            return AsPath::default();
        }
        AsPath { segments: vec![AsSegment { kind: SegmentKind::Sequence, asns }] }
    }

    /// Length for route selection: a set counts 1, confederation segments 0 (RFC 4271 section 9.1.2.2, RFC 5065).
    pub fn len(&self) -> usize {
        self.segments
            .iter()
            .map(|segment| match segment.kind {
                SegmentKind::Sequence => segment.asns.len(),
                SegmentKind::Set => 1,
                SegmentKind::ConfedSequence | SegmentKind::ConfedSet => 0,
            })
            .sum()
    }

    /// No segment at all.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether the number occurs anywhere: a loop, if it is ours (RFC 4271 section 9.1.2).
    pub fn contains(&self, asn: Asn) -> bool {
        self.asns().any(|other| other == asn)
    }

    /// The neighbouring AS: the first number, if the path starts with a sequence.
    pub fn first(&self) -> Option<Asn> {
        match self.segments.first() {
            Some(AsSegment { kind: SegmentKind::Sequence, asns }) => asns.first().copied(),
            _ => None,
        }
    }

    /// All numbers, nearest first.
    pub fn asns(&self) -> impl Iterator<Item = Asn> {
        self.segments.iter().flat_map(|segment| segment.asns.iter().copied())
    }
}

impl fmt::Display for AsPath {
    /// `65101 65010 {65020,65030} (65001 65002)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.segments.iter().enumerate() {
            let (open, between, close) = match segment.kind {
                SegmentKind::Sequence => ("", " ", ""),
                SegmentKind::Set => ("{", ",", "}"),
                SegmentKind::ConfedSequence => ("(", " ", ")"),
                SegmentKind::ConfedSet => ("[", ",", "]"),
            };
            let asns: Vec<String> = segment.asns.iter().map(Asn::to_string).collect();
            write!(f, "{}{open}{}{close}", if index > 0 { " " } else { "" }, asns.join(between))?;
        }
        Ok(())
    }
}

/// Who aggregated the route (RFC 4271 section 5.1.7); AS4_AGGREGATOR is already merged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Aggregator {
    pub asn: Asn,
    pub router_id: Ipv4Addr,
}

/// An attribute that is not known here, retained with its flags.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnknownAttribute {
    pub code: u8,
    /// The flags octet as received, without the Extended Length bit.
    pub flags: u8,
    pub value: Vec<u8>,
}
