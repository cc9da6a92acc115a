//! Whose each range is: conflicts between what clusters say of their nodes, found before anything is programmed. Pure;
//! driven by the intake of each cluster and by this cluster's Nodes.
//!
//! This cluster comes first, then the clusters by number, so that all agents agree. A remote node that overlaps one before
//! it which counts itself is refused as a whole. Nodes of one cluster never conflict with each other: a node that is
//! replaced may have its successor's ranges for a moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::control::ipcache::prefix::{Prefix, Ranges};
use crate::intent::Key;

/// A node, in order of precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    Local(Key),
    /// A cluster's number and a node's name.
    Remote(u16, Box<str>),
}

impl Owner {
    /// 0: this cluster.
    pub(crate) fn cluster(&self) -> u16 {
        match self {
            Owner::Local(_) => 0,
            Owner::Remote(cluster, _) => *cluster,
        }
    }
}

/// Why a node is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overlap {
    pub(crate) prefix: Prefix,
    pub(crate) with: Prefix,
    pub(crate) owner: Owner,
}

#[derive(Debug, Default)]
struct Claim {
    prefixes: Box<[Prefix]>,
    refused: Option<Overlap>,
}

/// What a change of one node leads to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// Remote nodes that count from now on, or no longer; the changed one is among them only if that changed.
    pub(crate) accepted: Vec<(Owner, bool)>,
    /// Ranges with another owner than before; `None`: nobody's.
    pub(crate) ranges: Vec<(Prefix, Option<u16>)>,
}

#[derive(Debug, Default)]
pub(crate) struct Owners {
    claims: BTreeMap<Owner, Claim>,
    by_prefix: Ranges<BTreeSet<Owner>>,
    /// As last told with [`Effects::ranges`].
    granted: Ranges<u16>,
}

impl Owners {
    /// The node has these ranges and addresses from now on; none of them: it is gone.
    pub(crate) fn set(&mut self, owner: &Owner, prefixes: BTreeSet<Prefix>) -> Effects {
        let mut effects = Effects::default();
        let old = self.claims.remove(owner);
        let was_accepted = old.as_ref().is_some_and(|claim| claim.refused.is_none());
        let old_prefixes = old.map(|claim| claim.prefixes).unwrap_or_default();
        let mut touched: BTreeSet<Prefix> = old_prefixes.iter().chain(&prefixes).copied().collect();
        let mut doubtful: BTreeSet<Owner> = touched.iter().flat_map(|p| self.rivals(*p, owner)).collect();
        for prefix in &old_prefixes {
            self.unindex(prefix, owner);
        }
        if prefixes.is_empty() {
            if was_accepted {
                effects.accepted.push((owner.clone(), false));
            }
        } else {
            for prefix in &prefixes {
                self.index(*prefix, owner);
            }
            self.claims.insert(owner.clone(), Claim { prefixes: prefixes.into_iter().collect(), refused: None });
            doubtful.insert(owner.clone());
        }
        // In order of precedence: each verdict depends only on those before it.
        while let Some(next) = doubtful.pop_first() {
            let before = if next == *owner { was_accepted } else { self.is_accepted(&next) };
            let verdict = self.judge(&next);
            let after = verdict.is_none();
            if let Some(claim) = self.claims.get_mut(&next) {
                claim.refused = verdict;
            }
            if before == after {
                continue;
            }
            effects.accepted.push((next.clone(), after));
            let theirs = self.claims.get(&next).map(|c| c.prefixes.clone()).unwrap_or_default();
            touched.extend(theirs.iter().copied());
            let behind = theirs.iter().flat_map(|p| self.rivals(*p, &next)).filter(|rival| *rival > next);
            doubtful.extend(behind.collect::<Vec<_>>());
        }
        effects.accepted.retain(|(o, _)| matches!(o, Owner::Remote(..)));
        effects.ranges = touched.into_iter().filter_map(|p| self.grant(p)).collect();
        effects
    }

    pub(crate) fn is_accepted(&self, owner: &Owner) -> bool {
        self.claims.get(owner).is_some_and(|claim| claim.refused.is_none())
    }

    /// Which other cluster the address belongs to; 0: this one.
    pub(crate) fn other_owner(&self, address: IpAddr, cluster: u16) -> Option<u16> {
        let mut around = self.granted.around(Prefix::host(address));
        around.find_map(|(_, owner)| (*owner != cluster).then_some(*owner))
    }

    /// The cluster's nodes that are refused, and why.
    pub(crate) fn refused(&self, cluster: u16) -> impl Iterator<Item = (&str, &Overlap)> {
        let from = Owner::Remote(cluster, "".into());
        let of_cluster = self.claims.range(from..).take_while(move |(owner, _)| owner.cluster() == cluster);
        of_cluster.filter_map(|(owner, claim)| match (owner, &claim.refused) {
            (Owner::Remote(_, name), Some(overlap)) => Some((&**name, overlap)),
            _ => None,
        })
    }

    fn index(&mut self, prefix: Prefix, owner: &Owner) {
        match self.by_prefix.get_mut(&prefix) {
            Some(owners) => {
                owners.insert(owner.clone());
            }
            None => {
                self.by_prefix.insert(prefix, BTreeSet::from([owner.clone()]));
            }
        }
    }

    fn unindex(&mut self, prefix: &Prefix, owner: &Owner) {
        let Some(owners) = self.by_prefix.get_mut(prefix) else { return };
        owners.remove(owner);
        if owners.is_empty() {
            self.by_prefix.remove(prefix);
        }
    }

    /// Nodes of other clusters whose claims overlap the prefix.
    fn rivals(&self, prefix: Prefix, owner: &Owner) -> Vec<Owner> {
        let all = self.by_prefix.overlapping(prefix).flat_map(|(_, owners)| owners);
        all.filter(|o| o.cluster() != owner.cluster()).cloned().collect()
    }

    /// The first overlap with a node that comes before and counts.
    fn judge(&self, owner: &Owner) -> Option<Overlap> {
        let claim = self.claims.get(owner)?;
        claim.prefixes.iter().find_map(|prefix| {
            let mut others = self.by_prefix.overlapping(*prefix);
            others.find_map(|(with, owners)| {
                let before = owners.iter().take_while(|o| *o < owner);
                let rival = before.filter(|o| o.cluster() != owner.cluster()).find(|o| self.is_accepted(o))?;
                Some(Overlap { prefix: *prefix, with, owner: rival.clone() })
            })
        })
    }

    /// Whose the prefix is now, if that is another than was told.
    fn grant(&mut self, prefix: Prefix) -> Option<(Prefix, Option<u16>)> {
        let around = self.by_prefix.around(prefix).filter(|(p, _)| *p == prefix).flat_map(|(_, owners)| owners);
        let now = around.into_iter().find(|o| self.is_accepted(o)).map(Owner::cluster);
        let before = match now {
            Some(cluster) => self.granted.insert(prefix, cluster),
            None => self.granted.remove(&prefix),
        };
        (before != now).then_some((prefix, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        Prefix::parse(text).unwrap()
    }

    fn set(owners: &mut Owners, owner: &Owner, prefixes: &[&str]) -> (Vec<(Owner, bool)>, Vec<String>) {
        let effects = owners.set(owner, prefixes.iter().map(|t| p(t)).collect());
        let ranges = effects.ranges.iter().map(|(p, o)| format!("{p} {}", o.map_or("-".into(), |o| o.to_string())));
        (effects.accepted, ranges.collect())
    }

    fn remote(cluster: u16, name: &str) -> Owner {
        Owner::Remote(cluster, name.into())
    }

    fn local(name: &str) -> Owner {
        Owner::Local(Key::new("", name))
    }

    #[test]
    fn this_cluster_comes_first_whenever_it_speaks() {
        let mut o = Owners::default();
        let (accepted, ranges) = set(&mut o, &remote(2, "n"), &["10.1.0.0/24", "192.0.2.1"]);
        assert_eq!(accepted, [(remote(2, "n"), true)]);
        assert_eq!(ranges, ["10.1.0.0/24 2", "192.0.2.1 2"]);
        let (accepted, ranges) = set(&mut o, &local("a"), &["10.1.0.0/16"]);
        assert_eq!(accepted, [(remote(2, "n"), false)], "a local node came with the same addresses");
        assert_eq!(ranges, ["10.1.0.0/16 0", "10.1.0.0/24 -", "192.0.2.1 -"]);
        let (name, why) = o.refused(2).next().unwrap();
        assert_eq!((name, why.with, &why.owner), ("n", p("10.1.0.0/16"), &local("a")));
        let (accepted, ranges) = set(&mut o, &local("a"), &["10.9.0.0/16"]);
        assert_eq!(accepted, [(remote(2, "n"), true)], "and moved away");
        assert_eq!(ranges, ["10.1.0.0/16 -", "10.1.0.0/24 2", "10.9.0.0/16 0", "192.0.2.1 2"]);
        assert_eq!(o.refused(2).count(), 0);
    }

    #[test]
    fn the_smaller_number_comes_first_in_whatever_order_they_come() {
        let mut o = Owners::default();
        set(&mut o, &remote(5, "n"), &["10.5.0.0/24"]);
        let (accepted, ranges) = set(&mut o, &remote(3, "n"), &["10.5.0.0/25"]);
        assert_eq!(accepted, [(remote(3, "n"), true), (remote(5, "n"), false)]);
        assert_eq!(ranges, ["10.5.0.0/24 -", "10.5.0.0/25 3"]);
        assert_eq!(set(&mut o, &remote(7, "n"), &["10.5.0.128/25"]).0, [(remote(7, "n"), true)], "5 does not count");
        let (accepted, _) = set(&mut o, &remote(3, "n"), &[]);
        assert_eq!(accepted, [(remote(3, "n"), false), (remote(5, "n"), true), (remote(7, "n"), false)]);
        let names: Vec<_> = o.refused(7).map(|(name, why)| (name, why.owner.clone())).collect();
        assert_eq!(names, [("n", remote(5, "n"))]);
    }

    #[test]
    fn nodes_of_one_cluster_do_not_conflict() {
        let mut o = Owners::default();
        set(&mut o, &remote(2, "old"), &["10.2.0.0/24"]);
        let (accepted, ranges) = set(&mut o, &remote(2, "new"), &["10.2.0.0/24"]);
        assert_eq!((accepted, ranges), (vec![(remote(2, "new"), true)], vec![]));
        assert_eq!(set(&mut o, &remote(2, "old"), &[]), (vec![(remote(2, "old"), false)], vec![]));
        assert_eq!(set(&mut o, &remote(2, "new"), &[]).1, ["10.2.0.0/24 -"]);
    }

    #[test]
    fn the_same_words_again_change_nothing() {
        let mut o = Owners::default();
        set(&mut o, &remote(2, "n"), &["10.2.0.0/24"]);
        set(&mut o, &remote(3, "n"), &["10.2.0.0/24"]);
        assert_eq!(set(&mut o, &remote(2, "n"), &["10.2.0.0/24"]), (vec![], vec![]));
        assert_eq!(set(&mut o, &remote(3, "n"), &["10.2.0.0/24"]), (vec![], vec![]));
    }
}
