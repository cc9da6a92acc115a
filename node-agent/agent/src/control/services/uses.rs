//! Which Services look at a remote backend's health, or at a cluster's stage. Pure bookkeeping; only what is in use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use causeway_mesh_schema::ClusterId;

use crate::control::probe::Watched;
use crate::intent::Key;
use crate::intent::mesh::Target;

/// What each Service looks at, both ways.
#[derive(Debug)]
pub(super) struct Uses {
    by_service: BTreeMap<Arc<Key>, Use>,
    by_target: BTreeMap<Target, Vec<(Arc<Key>, Watched)>>,
    by_cluster: BTreeSet<(ClusterId, Arc<Key>)>,
    /// Before all keys.
    lowest: Arc<Key>,
}

#[derive(Debug, Default)]
struct Use {
    targets: Box<[Target]>,
    clusters: BTreeSet<ClusterId>,
}

impl Default for Uses {
    fn default() -> Uses {
        Uses {
            by_service: BTreeMap::new(),
            by_target: BTreeMap::new(),
            by_cluster: BTreeSet::new(),
            lowest: Arc::new(Key::new("", "")),
        }
    }
}

impl Uses {
    /// Replaces what the Service looks at. Returns the targets that are watched differently, or may be.
    pub(super) fn set(
        &mut self,
        service: &Key,
        targets: BTreeMap<Target, Watched>,
        clusters: BTreeSet<ClusterId>,
    ) -> BTreeSet<Target> {
        let (service, old) = match self.by_service.remove_entry(service) {
            Some(entry) => entry,
            None if targets.is_empty() && clusters.is_empty() => return BTreeSet::new(),
            None => (Arc::new(service.clone()), Use::default()),
        };
        let mut touched = BTreeSet::new();
        for target in old.targets.iter().filter(|t| !targets.contains_key(t)) {
            self.drop_target(target, &service);
            touched.insert(*target);
        }
        for (target, watched) in &targets {
            if self.add_target(*target, &service, *watched) {
                touched.insert(*target);
            }
        }
        for cluster in &old.clusters {
            self.by_cluster.remove(&(*cluster, service.clone()));
        }
        self.by_cluster.extend(clusters.iter().map(|cluster| (*cluster, service.clone())));
        if !targets.is_empty() || !clusters.is_empty() {
            self.by_service.insert(service, Use { targets: targets.into_keys().collect(), clusters });
        }
        touched
    }

    /// How the target is watched, all Services taken together; `None`: not at all.
    pub(super) fn watched(&self, target: &Target) -> Option<Watched> {
        let users = self.by_target.get(target)?;
        Some(Watched { proof: users.iter().any(|(_, w)| w.proof) })
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.by_service.keys().map(|key| &**key)
    }

    pub(super) fn of_target(&self, target: &Target) -> impl Iterator<Item = &Key> {
        self.by_target.get(target).into_iter().flatten().map(|(key, _)| &**key)
    }

    pub(super) fn of_cluster(&self, cluster: ClusterId) -> impl Iterator<Item = &Key> {
        let all = self.by_cluster.range((cluster, self.lowest.clone())..);
        all.take_while(move |(c, _)| *c == cluster).map(|(_, key)| &**key)
    }

    /// True if that changed something.
    fn add_target(&mut self, target: Target, service: &Arc<Key>, watched: Watched) -> bool {
        // Most backends are one Service's, so that the list is short.
        let users = self.by_target.entry(target).or_insert_with(|| Vec::with_capacity(1));
        match users.iter_mut().find(|(key, _)| key == service) {
            Some((_, old)) => std::mem::replace(old, watched) != watched,
            None => {
                users.push((service.clone(), watched));
                true
            }
        }
    }

    fn drop_target(&mut self, target: &Target, service: &Arc<Key>) {
        if let Some(users) = self.by_target.get_mut(target) {
            users.retain(|(key, _)| key != service);
            if users.is_empty() {
                self.by_target.remove(target);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_datapath_loader::Proto;

    fn target(n: u8) -> Target {
        Target { addr: ([10, 2, 0, n], 80).into(), proto: Proto::Tcp }
    }

    fn names<'a>(keys: impl Iterator<Item = &'a Key>) -> Vec<&'a str> {
        keys.map(|k| k.name.as_str()).collect()
    }

    #[test]
    fn a_target_is_watched_while_somebody_uses_it_and_as_the_strictest_wants() {
        let mut uses = Uses::default();
        let [one, two] = [1, 2].map(|n| ClusterId::try_from(n).unwrap());
        let mut set = |name: &str, targets: &[(u8, bool)], clusters: &[ClusterId]| {
            let targets = targets.iter().map(|(n, proof)| (target(*n), Watched { proof: *proof })).collect();
            let touched = uses.set(&Key::new("d", name), targets, clusters.iter().copied().collect());
            let seen = |n: u8| (names(uses.of_target(&target(n))).join(","), uses.watched(&target(n)).map(|w| w.proof));
            let clusters = [one, two].map(|c| names(uses.of_cluster(c)).join(","));
            (touched.len(), seen(1), seen(2), clusters.join(";"))
        };
        let seen = |users: &str, proof| (users.to_owned(), proof);
        assert_eq!(set("a", &[], &[]), (0, seen("", None), seen("", None), ";".into()));
        assert_eq!(set("a", &[(1, false)], &[one]), (1, seen("a", Some(false)), seen("", None), "a;".into()));
        assert_eq!(
            set("b", &[(1, true), (2, false)], &[one, two]),
            (2, seen("a,b", Some(true)), seen("b", Some(false)), "a,b;b".into())
        );
        assert_eq!(set("b", &[(1, true), (2, false)], &[one, two]).0, 0, "the same again");
        assert_eq!(set("b", &[(2, true)], &[two]), (2, seen("a", Some(false)), seen("b", Some(true)), "a;b".into()));
        assert_eq!(set("a", &[], &[]), (1, seen("", None), seen("b", Some(true)), ";b".into()));
        assert_eq!(set("b", &[], &[]), (1, seen("", None), seen("", None), ";".into()));
        assert!(uses.by_service.is_empty() && uses.by_target.is_empty() && uses.by_cluster.is_empty());
    }
}
