//! What both OPENs agreed on, as far as it changes the meaning of bytes.

use crate::{Afi, Capability, ExtendedNextHop, Family, MAX_EXTENDED_MESSAGE_LEN, MAX_MESSAGE_LEN, Open};

/// Whether the peer is in our AS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerKind {
    Internal,
    External,
}

/// How to read and write the messages of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionContext {
    pub peer: PeerKind,
    /// AS numbers have four octets in AS_PATH and AGGREGATOR (RFC 6793).
    pub four_octet_as: bool,
    /// Families that both announced; routes of others are ignored.
    pub families: Vec<Family>,
    /// Pairs that both announced (RFC 8950).
    pub extended_next_hops: Vec<ExtendedNextHop>,
    /// Greatest message that we may send: 65535 if the peer announced RFC 8654, else 4096.
    pub max_send_len: u16,
    /// Greatest message that we accept: 65535 if we announced RFC 8654, else 4096.
    pub max_receive_len: u16,
}

impl SessionContext {
    /// Before the OPENs have been exchanged: 4096 octets, no family.
    pub fn before_open() -> SessionContext {
        SessionContext {
            peer: PeerKind::External,
            four_octet_as: false,
            families: Vec::new(),
            extended_next_hops: Vec::new(),
            max_send_len: MAX_MESSAGE_LEN,
            max_receive_len: MAX_MESSAGE_LEN,
        }
    }

    /// What follows from both OPENs.
    pub fn negotiate(local: &Open, remote: &Open) -> SessionContext {
        let theirs = remote.families();
        let their_hops: Vec<ExtendedNextHop> = remote.extended_next_hops().collect();
        let max_len = |open: &Open| {
            if open.has(&Capability::ExtendedMessage) { MAX_EXTENDED_MESSAGE_LEN } else { MAX_MESSAGE_LEN }
        };
        SessionContext {
            peer: if local.asn == remote.asn { PeerKind::Internal } else { PeerKind::External },
            four_octet_as: local.has_four_octet_as() && remote.has_four_octet_as(),
            families: local.families().into_iter().filter(|family| theirs.contains(family)).collect(),
            extended_next_hops: local.extended_next_hops().filter(|pair| their_hops.contains(pair)).collect(),
            max_send_len: max_len(remote),
            max_receive_len: max_len(local),
        }
    }

    /// Whether routes of `family` may carry a next hop of `next_hop` although that is another AFI (RFC 8950).
    pub fn allows_next_hop(&self, family: Family, next_hop: Afi) -> bool {
        family.afi == next_hop || self.extended_next_hops.contains(&ExtendedNextHop { family, next_hop })
    }
}
