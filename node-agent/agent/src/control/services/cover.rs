//! Which backends of other clusters may be used while traffic between nodes is encrypted: those in a range that the guard
//! has in force, so that nothing for them can leave in plaintext. What a cluster says of its nodes may come later than what
//! it says of the backends on them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_table::{Changes, Shared, Table};
use ipnet::IpNet;

use crate::control::encryption::{Mode, Modes};

#[derive(Debug)]
pub(super) struct Cover {
    guarded: Shared<IpNet, ()>,
    modes: Modes,
    /// Lengths of prefixes that have been seen.
    lengths: BTreeSet<u8>,
}

/// What has become of the ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    None,
    More,
    /// Some are gone.
    Fewer,
}

impl Cover {
    pub(super) fn new(guarded: Shared<IpNet, ()>, modes: Modes) -> Cover {
        Cover { guarded, modes, lengths: BTreeSet::new() }
    }

    pub(super) fn learn(&mut self, changes: &Changes<IpNet>) -> News {
        let lengths = &mut self.lengths;
        self.guarded.read(|t| match changes {
            Changes::Reset => {
                lengths.extend(t.iter().map(|(prefix, _)| prefix.prefix_len()));
                News::Fewer
            }
            Changes::Keys(prefixes) if prefixes.is_empty() => News::None,
            Changes::Keys(prefixes) => {
                lengths.extend(prefixes.iter().map(IpNet::prefix_len));
                if prefixes.iter().all(|prefix| t.get(prefix).is_some()) { News::More } else { News::Fewer }
            }
        })
    }

    /// Whether backends of this cluster have to lie in such a range.
    pub(super) fn requires(&self, cluster: &str) -> bool {
        self.modes.of_other(cluster) == Mode::Required
    }

    pub(super) fn holds(&self, ip: IpAddr) -> bool {
        self.guarded.read(|t| self.lengths.iter().rev().any(|length| has(t, ip, *length)))
    }
}

fn has(ranges: &Table<IpNet, ()>, ip: IpAddr, length: u8) -> bool {
    IpNet::new(ip, length).is_ok_and(|prefix| ranges.get(&prefix.trunc()).is_some())
}
