//! Entries of one cluster that could not be used: all are counted, the first few are remembered for people.

use std::collections::BTreeMap;

use causeway_mesh_schema::{Invalid, Kind};

/// Enough to see a pattern; a writer that has gone mad must not fill our memory.
const MAX_NAMED: usize = 32;

#[derive(Debug, Clone, Default)]
pub(crate) struct Refusals {
    total: u64,
    named: BTreeMap<(Kind, Box<str>), Named>,
}

#[derive(Debug, Clone)]
struct Named {
    invalid: Invalid,
    /// By the listing that runs, if one does.
    listed: bool,
}

impl Refusals {
    /// The entry cannot be used.
    pub(super) fn add(&mut self, kind: Kind, name: &str, invalid: &Invalid) {
        self.total += 1;
        let key = (kind, name.into());
        if self.named.len() < MAX_NAMED || self.named.contains_key(&key) {
            let named = Named { invalid: invalid.clone(), listed: true };
            if self.named.insert(key, named).is_none_or(|old| old.invalid != *invalid) {
                tracing::warn!(%kind, name, %invalid, "a remote cluster's entry is not used");
            }
        } else if self.total.is_power_of_two() {
            tracing::warn!(%kind, name, %invalid, total = self.total, "many of a remote cluster's entries are not used");
        }
    }

    /// The entry is good now, or gone.
    pub(super) fn clear(&mut self, kind: Kind, name: &str) {
        if !self.named.is_empty() {
            self.named.remove(&(kind, name.into()));
        }
    }

    /// The kind is about to be listed.
    pub(super) fn relisting(&mut self, kind: Kind) {
        let of_kind = self.named.iter_mut().filter(|((k, _), _)| *k == kind);
        of_kind.for_each(|(_, named)| named.listed = false);
    }

    /// The listing is complete: what it did not show is gone.
    pub(super) fn listed(&mut self, kind: Kind) {
        self.named.retain(|(k, _), named| *k != kind || named.listed);
    }

    pub(super) fn clear_all(&mut self) {
        self.named.clear();
    }

    /// Since the start.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn named(&self) -> impl Iterator<Item = (Kind, &str, &Invalid)> {
        self.named.iter().map(|((kind, name), named)| (*kind, &**name, &named.invalid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_few_are_remembered() {
        let invalid = |key: &str| Invalid { key: key.into(), problem: "bad".into(), remedy: "mend it".into() };
        let mut r = Refusals::default();
        for n in 0..1000 {
            r.add(Kind::Ips, &n.to_string(), &invalid("x"));
        }
        assert_eq!((r.total(), r.named().count()), (1000, MAX_NAMED));
        r.clear(Kind::Ips, "5");
        r.clear(Kind::Ips, "999");
        assert_eq!(r.named().count(), MAX_NAMED - 1);
        r.add(Kind::Nodes, "n1", &invalid("y"));
        assert!(r.named().any(|(kind, name, _)| (kind, name) == (Kind::Nodes, "n1")));
    }
}
