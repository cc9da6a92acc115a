//! Identity garbage collection: deletes CiliumIdentities that no CiliumEndpoint uses.
//!
//! A number that is given to other labels while some agent still knows it under the old ones opens doors, so this is
//! slow on purpose and takes two passes, as Cilium's does: an identity unused for the grace period is marked
//! (`io.cilium.heartbeat` = now); one that is still unused and marked a whole interval later is deleted, and only in
//! the very version that was seen. An agent that takes a marked identity into use removes the mark, and so do we.
//! How long an identity has been unused is counted from our start, so a new leader waits a full grace period.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use causeway_k8s::condition::Timestamp;
use causeway_k8s::names;
use causeway_k8s::watch::Key;
use causeway_k8s::{CiliumIdentity, Rejected};
use kube::ResourceExt;

/// Most objects changed in one run (Cilium's rate limit is 2,500 a minute); the rest waits for the next run.
const MOST_CHANGES: usize = 2_500;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Numbers that are this cluster's to give. Others are from before its number in the mesh changed: they mean another
    /// cluster's pods to the other clusters.
    pub(crate) owned: RangeInclusive<i64>,
    /// How long an identity must be unused before it is marked.
    pub(crate) grace_s: i64,
    /// How long it must be marked before it is deleted.
    pub(crate) interval_s: i64,
}

/// Since when each unused identity has been seen unused, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    unused_since: BTreeMap<String, Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Sets the mark to this time.
    Mark {
        name: String,
        resource_version: Option<String>,
        at: Timestamp,
    },
    /// Removes the mark.
    Unmark {
        name: String,
        resource_version: Option<String>,
    },
    Delete {
        name: String,
        uid: Option<String>,
        resource_version: Option<String>,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) changes: Vec<Change>,
    pub(crate) rejected: Vec<Rejected>,
    /// Identities in use.
    pub(crate) alive: usize,
}

/// Decides. `used`: the numbers that any CiliumEndpoint names.
pub(crate) fn plan(
    identities: &BTreeMap<Key, Arc<CiliumIdentity>>,
    used: &BTreeSet<i64>,
    memory: &mut Memory,
    settings: &Settings,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    let mut unused_since = BTreeMap::new();
    for identity in identities.values() {
        let name = identity.name_any();
        let Ok(number) = name.parse::<i64>() else {
            plan.rejected.push(not_a_number(&name));
            continue;
        };
        let mark = identity.annotations().get(names::IDENTITY_HEARTBEAT);
        let resource_version = identity.resource_version();
        if used.contains(&number) {
            plan.alive += 1;
            if !settings.owned.contains(&number) {
                plan.rejected.push(foreign(&name, &settings.owned));
            }
            if mark.is_some() {
                plan.changes.push(Change::Unmark { name, resource_version });
            }
            continue;
        }
        let since = memory.unused_since.get(&name).copied().unwrap_or(now);
        unused_since.insert(name.clone(), since);
        if seconds(since, now) < settings.grace_s {
            continue;
        }
        // A mark that cannot be read is set again.
        match mark.and_then(|text| text.parse::<Timestamp>().ok()) {
            None => plan.changes.push(Change::Mark { name, resource_version, at: now }),
            Some(at) if seconds(at, now) >= settings.interval_s => {
                plan.changes.push(Change::Delete { name, uid: identity.uid(), resource_version });
            }
            Some(_) => {}
        }
    }
    plan.changes.truncate(MOST_CHANGES);
    memory.unused_since = unused_since;
    plan
}

fn seconds(from: Timestamp, to: Timestamp) -> i64 {
    to.duration_since(from).as_secs()
}

fn not_a_number(name: &str) -> Rejected {
    Rejected {
        kind: names::KIND_CILIUM_IDENTITY.to_owned(),
        object: name.to_owned(),
        field: "metadata.name".to_owned(),
        message: "is not a decimal number".to_owned(),
        remedy: "delete the object; identities are made by agents".to_owned(),
    }
}

fn foreign(name: &str, owned: &RangeInclusive<i64>) -> Rejected {
    Rejected {
        kind: names::KIND_CILIUM_IDENTITY.to_owned(),
        object: name.to_owned(),
        field: "metadata.name".to_owned(),
        message: format!("is in use and is none of this cluster's numbers, {} to {}", owned.start(), owned.end()),
        remedy: "restart its pods, so that they get a number of this cluster; other clusters refuse this one"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings { owned: RangeInclusive::new(256, 65_535), grace_s: 1800, interval_s: 900 };

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minute * 60).unwrap()
    }

    #[derive(Default)]
    struct World {
        identities: BTreeMap<Key, Arc<CiliumIdentity>>,
        used: BTreeSet<i64>,
        memory: Memory,
    }

    impl World {
        fn with(names: &[&str]) -> World {
            let mut world = World::default();
            for name in names {
                let mut identity = CiliumIdentity::new(0, BTreeMap::new());
                identity.metadata.name = Some((*name).to_owned());
                identity.metadata.uid = Some(format!("uid-{name}"));
                world.identities.insert(Key::new("", *name), Arc::new(identity));
            }
            world
        }

        /// Runs at `minute` and carries the changes out; says what was done.
        fn run(&mut self, minute: i64) -> Vec<String> {
            let plan = plan(&self.identities, &self.used, &mut self.memory, &SETTINGS, at(minute));
            let mut done = Vec::new();
            for change in plan.changes {
                match change {
                    Change::Mark { name, at, .. } => {
                        let identity = self.identities.get_mut(&Key::new("", &*name)).unwrap();
                        let mark = (names::IDENTITY_HEARTBEAT.to_owned(), at.to_string());
                        Arc::make_mut(identity).annotations_mut().extend([mark]);
                        done.push(format!("mark {name}"));
                    }
                    Change::Unmark { name, .. } => {
                        let identity = self.identities.get_mut(&Key::new("", &*name)).unwrap();
                        Arc::make_mut(identity).annotations_mut().remove(names::IDENTITY_HEARTBEAT);
                        done.push(format!("unmark {name}"));
                    }
                    Change::Delete { name, uid, .. } => {
                        assert_eq!(uid, Some(format!("uid-{name}")));
                        self.identities.remove(&Key::new("", &*name));
                        done.push(format!("delete {name}"));
                    }
                }
            }
            done
        }
    }

    #[test]
    fn an_unused_identity_is_marked_after_the_grace_and_deleted_an_interval_later() {
        let mut world = World::with(&["1001", "1002"]);
        world.used.insert(1001);
        let history: Vec<Vec<String>> = [0, 29, 30, 44, 45, 60].into_iter().map(|minute| world.run(minute)).collect();
        assert_eq!(
            history,
            [vec![], vec![], vec!["mark 1002".to_owned()], vec![], vec!["delete 1002".to_owned()], vec![]]
        );
        assert_eq!(world.identities.len(), 1);
    }

    #[test]
    fn use_in_between_starts_again() {
        let mut world = World::with(&["1001"]);
        world.run(0);
        assert_eq!(world.run(30), ["mark 1001"]);
        world.used.insert(1001);
        assert_eq!(world.run(40), ["unmark 1001"]);
        world.used.clear();
        assert!(world.run(50).is_empty());
        assert!(world.run(79).is_empty());
        assert_eq!(world.run(80), ["mark 1001"]);
    }

    #[test]
    fn a_new_leader_waits_a_full_grace_though_the_mark_is_old() {
        let mut world = World::with(&["1001"]);
        world.run(0);
        assert_eq!(world.run(30), ["mark 1001"]);
        world.memory = Memory::default();
        assert!(world.run(100).is_empty());
        assert_eq!(world.run(130), ["delete 1001"]);
    }

    #[test]
    fn a_mark_that_is_no_time_is_set_again() {
        let mut world = World::with(&["1001"]);
        let identity = world.identities.values_mut().next().unwrap();
        Arc::make_mut(identity).annotations_mut().insert(names::IDENTITY_HEARTBEAT.to_owned(), "soon".to_owned());
        world.run(0);
        assert_eq!(world.run(30), ["mark 1001"]);
    }

    #[test]
    fn a_name_that_is_no_number_is_told_and_left() {
        let mut world = World::with(&["web"]);
        let plan = plan(&world.identities, &world.used, &mut world.memory, &SETTINGS, at(0));
        assert_eq!(plan.rejected[0].object, "web");
        assert!(plan.changes.is_empty());
    }

    #[test]
    fn a_number_of_another_range_is_told_while_it_is_used_and_goes_as_the_others() {
        let mut world = World::with(&["1001", "131073"]);
        world.used.extend([1001, 131_073]);
        let plan = plan(&world.identities, &world.used, &mut world.memory, &SETTINGS, at(0));
        assert_eq!(plan.rejected.iter().map(|rejected| rejected.object.as_str()).collect::<Vec<_>>(), ["131073"]);
        assert!(plan.rejected[0].message.contains("256 to 65535"), "{}", plan.rejected[0]);
        world.used.remove(&131_073);
        world.run(0);
        assert_eq!((world.run(30), world.run(45)), (vec!["mark 131073".to_owned()], vec!["delete 131073".to_owned()]));
    }
}
