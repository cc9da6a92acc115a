//! Rows that an earlier process left in the map: they serve until somebody asks for them, or until it is known that
//! nobody will.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::control::ipcache::prefix::{Prefix, Ranges};

/// What has been read so completely that rows which nobody asked for are known to be stale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Complete {
    /// This cluster: its ranges and its identities.
    Local { identities: RangeInclusive<u32> },
    /// Another cluster.
    Remote { identities: RangeInclusive<u32> },
    /// All of them.
    Everything,
}

#[derive(Debug, Default)]
pub(super) struct Unclaimed {
    /// With the identity that the map has.
    rows: BTreeMap<Prefix, u32>,
    /// May be deleted.
    doomed: Vec<Prefix>,
}

impl Unclaimed {
    pub(super) fn new(rows: impl IntoIterator<Item = (Prefix, u32)>) -> Unclaimed {
        Unclaimed { rows: rows.into_iter().collect(), doomed: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Somebody wants a row here; true if there was one.
    pub(super) fn claim(&mut self, prefix: &Prefix) -> bool {
        !self.rows.is_empty() && self.rows.remove(prefix).is_some()
    }

    /// Dooms what nobody asked for. `owners`: whose each range is; 0 is this cluster.
    pub(super) fn complete(&mut self, what: &Complete, owners: &Ranges<u16>) {
        let stale = |prefix: &Prefix, identity: &u32| match what {
            Complete::Everything => true,
            Complete::Remote { identities } => identities.contains(identity),
            Complete::Local { identities } => {
                identities.contains(identity) || owners.around(*prefix).any(|(_, owner)| *owner == 0)
            }
        };
        self.doomed.extend(self.rows.iter().filter(|(p, id)| stale(p, id)).map(|(p, _)| *p));
    }

    /// A deletion failed: it comes again.
    pub(super) fn doom(&mut self, prefix: Prefix) {
        self.doomed.push(prefix);
    }

    /// The next row to be deleted. It stays unclaimed until [`Unclaimed::claim`].
    pub(super) fn next_doomed(&mut self) -> Option<Prefix> {
        while let Some(prefix) = self.doomed.pop() {
            if self.rows.contains_key(&prefix) {
                return Some(prefix);
            }
        }
        None
    }
}
