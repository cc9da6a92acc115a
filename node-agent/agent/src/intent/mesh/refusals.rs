//! Entries of one cluster that could not be used: all are counted, the first few are remembered for people.

use std::collections::BTreeMap;

use causeway_mesh_schema::{Invalid, Kind};

/// Enough to see a pattern; a writer that has gone mad must not fill our memory.
const MAX_NAMED: usize = 32;

#[derive(Debug, Clone, Default)]
pub(crate) struct Refusals {
    total: u64,
    named: BTreeMap<(Kind, Box<str>), Invalid>,
}

impl Refusals {
    /// The entry cannot be used.
    pub(super) fn add(&mut self, kind: Kind, name: &str, invalid: &Invalid) {
        self.total += 1;
        let key = (kind, name.into());
        if self.named.len() < MAX_NAMED || self.named.contains_key(&key) {
            if self.named.insert(key, invalid.clone()).as_ref() != Some(invalid) {
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

    pub(super) fn clear_all(&mut self) {
        self.named.clear();
    }

    /// Since the start.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn named(&self) -> impl Iterator<Item = (Kind, &str, &Invalid)> {
        self.named.iter().map(|((kind, name), invalid)| (*kind, &**name, invalid))
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
