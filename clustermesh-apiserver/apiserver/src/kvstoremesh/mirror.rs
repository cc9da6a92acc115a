//! Copies of other clusters in the cache layout: what each change does to the local store. Values pass as they came.
//!
//! A cluster that is removed loses its configuration at once, so that agents let go of it, and the rest after a grace. One
//! that comes back within it keeps the rest, and its next listing sweeps what is gone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_mesh_kv::{Group, GroupId, Publisher};
use causeway_mesh_remote::{Change, RemoteInfo, Stage};
use causeway_mesh_schema::{ClusterName, Kind, Layout, cluster_config_key, silence_key};

use crate::telemetry::group_name;

/// Where it is written: a [`Publisher`], or a test's list.
pub(super) trait Book {
    fn add_group(&self, group: Group) -> GroupId;
    fn remove_group(&self, id: GroupId);
    fn relisting(&self, id: GroupId);
    fn set(&self, id: GroupId, key: &str, value: Bytes);
    fn delete(&self, id: GroupId, key: &str);
    fn listed(&self, id: GroupId);
}

pub(super) struct Mirror<B> {
    book: B,
    grace: Duration,
    copies: BTreeMap<ClusterName, Copy>,
}

#[derive(Default)]
struct Copy {
    config: Option<GroupId>,
    silence: Option<GroupId>,
    kinds: BTreeMap<Kind, Place>,
    /// When the rest goes.
    reap_at: Option<Instant>,
}

struct Place {
    group: GroupId,
    prefix: String,
}

impl<B: Book> Mirror<B> {
    pub(super) fn new(book: B, grace: Duration) -> Mirror<B> {
        Mirror { book, grace, copies: BTreeMap::new() }
    }

    pub(super) fn handle(&mut self, now: Instant, cluster: &ClusterName, change: Change) {
        let book = &self.book;
        match change {
            Change::Connected(info) => {
                let copy = self.copies.entry(cluster.clone()).or_default();
                copy.reap_at = None;
                copy.connected(book, cluster, &info);
            }
            Change::Relisting(kind) => {
                let copy = self.copies.entry(cluster.clone()).or_default();
                book.relisting(copy.place(book, cluster, kind).group);
            }
            Change::Put { kind, name, value, .. } => {
                let copy = self.copies.entry(cluster.clone()).or_default();
                let place = copy.place(book, cluster, kind);
                book.set(place.group, &format!("{}{name}", place.prefix), value);
            }
            Change::Deleted { kind, name, .. } => {
                let copy = self.copies.entry(cluster.clone()).or_default();
                let place = copy.place(book, cluster, kind);
                book.delete(place.group, &format!("{}{name}", place.prefix));
            }
            Change::Listed(kind) => {
                let copy = self.copies.entry(cluster.clone()).or_default();
                book.listed(copy.place(book, cluster, kind).group);
            }
            Change::Forget => {
                let Some(copy) = self.copies.get_mut(cluster) else { return };
                // The group stays: a cluster that comes back at once, under another number, writes the same key, and only
                // within a group is it certain which of the two writes comes last.
                if let Some(config) = copy.config {
                    book.delete(config, &cluster_config_key(cluster));
                }
                copy.reap_at = Some(now + self.grace);
                tracing::info!(%cluster, grace = ?self.grace, "its copy is removed after the grace");
            }
            Change::Stage(stage) => {
                tracing::info!(%cluster, %stage, "remote cluster");
                self.copies.entry(cluster.clone()).or_default().silent(book, cluster, stage);
            }
        }
    }

    /// When to call [`Mirror::reap`].
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.copies.values().filter_map(|copy| copy.reap_at).min()
    }

    /// Removes the copies whose grace is over.
    pub(super) fn reap(&mut self, now: Instant) {
        let book = &self.book;
        self.copies.retain(|cluster, copy| {
            if copy.reap_at.is_none_or(|at| at > now) {
                return true;
            }
            let kinds = copy.kinds.values().map(|place| place.group);
            kinds.chain(copy.silence).chain(copy.config).for_each(|group| book.remove_group(group));
            tracing::info!(%cluster, "its copy is removed");
            false
        });
    }
}

impl Copy {
    /// Its own words about itself, but that this is a copy, with canaries.
    fn connected(&mut self, book: &impl Book, cluster: &ClusterName, info: &RemoteInfo) {
        let mut config = info.config.clone();
        config.capabilities.cached = true;
        config.capabilities.synced_canaries = true;
        let key = cluster_config_key(cluster);
        let group = *self.config.get_or_insert_with(|| {
            let name = group_name(cluster.as_str(), "cluster-config");
            book.add_group(Group { name, ..Group::default() })
        });
        book.set(group, &key, config.encode().into());
        book.listed(group);
    }

    /// The agents read only the copy, and cannot hear by themselves that its source has gone silent.
    fn silent(&mut self, book: &impl Book, cluster: &ClusterName, stage: Stage) {
        let key = silence_key(cluster);
        let group = *self.silence.get_or_insert_with(|| {
            let name = group_name(cluster.as_str(), "silence");
            // No prefix: the key of `prod` is one of that of `prod-eu`. What an earlier life left is written or deleted
            // with the first word, or ends with its lease.
            book.add_group(Group { name, ..Group::default() })
        });
        match stage {
            Stage::Fresh => book.delete(group, &key),
            stage => book.set(group, &key, stage.to_string().into()),
        }
        book.listed(group);
    }

    fn place(&mut self, book: &impl Book, cluster: &ClusterName, kind: Kind) -> &Place {
        self.kinds.entry(kind).or_insert_with(|| {
            let prefix = kind.prefix(Layout::Cache, cluster);
            let group = book.add_group(Group {
                name: group_name(cluster.as_str(), &format!("{}/v1", kind.word())),
                prefixes: vec![prefix.clone()],
                canary: Some(kind.canary(Layout::Cache, cluster)),
            });
            Place { group, prefix }
        })
    }
}

impl Book for Publisher {
    fn add_group(&self, group: Group) -> GroupId {
        Publisher::add_group(self, group)
    }
    fn remove_group(&self, id: GroupId) {
        Publisher::remove_group(self, id);
    }
    fn relisting(&self, id: GroupId) {
        Publisher::relisting(self, id);
    }
    fn set(&self, id: GroupId, key: &str, value: Bytes) {
        Publisher::set(self, id, key, value);
    }
    fn delete(&self, id: GroupId, key: &str) {
        Publisher::delete(self, id, key);
    }
    fn listed(&self, id: GroupId) {
        Publisher::listed(self, id);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::time::SystemTime;

    use causeway_mesh_kv::{Now, Publish, SessionId, Twin};
    use causeway_mesh_schema::{Capabilities, ClusterConfig, ClusterId, Origin, Scale};

    use super::*;

    /// Writes down what it is told. The numbers of groups come from a real writer.
    struct List {
        ids: RefCell<(Publish, BTreeMap<GroupId, String>)>,
        told: RefCell<Vec<String>>,
    }

    impl List {
        fn say(&self, verb: &str, id: GroupId, rest: &str) {
            let text = format!("{verb} {} {rest}", self.ids.borrow().1[&id]);
            self.told.borrow_mut().push(text.trim_end().to_owned());
        }
    }

    impl Book for List {
        fn add_group(&self, group: Group) -> GroupId {
            let name = group.name.clone();
            self.told.borrow_mut().push(format!(
                "add {name} {:?} {}",
                group.prefixes,
                group.canary.clone().unwrap_or_default()
            ));
            let ids = &mut *self.ids.borrow_mut();
            let id = ids.0.add_group(group);
            ids.1.insert(id, name);
            id
        }
        fn remove_group(&self, id: GroupId) {
            self.say("remove", id, "");
        }
        fn relisting(&self, id: GroupId) {
            self.say("relisting", id, "");
        }
        fn set(&self, id: GroupId, key: &str, value: Bytes) {
            self.say("set", id, &format!("{key}={}", String::from_utf8_lossy(&value)));
        }
        fn delete(&self, id: GroupId, key: &str) {
            self.say("delete", id, key);
        }
        fn listed(&self, id: GroupId) {
            self.say("listed", id, "");
        }
    }

    const GRACE: Duration = Duration::from_secs(180);

    fn mirror() -> Mirror<List> {
        let publish = crate::store::publish(causeway_mesh_kv::Settings::default());
        let book = List { ids: RefCell::new((publish, BTreeMap::new())), told: RefCell::default() };
        Mirror::new(book, GRACE)
    }

    fn told(mirror: &Mirror<List>) -> Vec<String> {
        mirror.book.told.take()
    }

    fn west() -> ClusterName {
        ClusterName::parse("west").unwrap()
    }

    fn connected() -> Change {
        let origin = Origin { name: west(), id: ClusterId::try_from(2).unwrap(), scale: Scale::C255 };
        let capabilities = Capabilities {
            max_connected_clusters: 255,
            service_exports_enabled: Some(true),
            ..Capabilities::default()
        };
        Change::Connected(Arc::new(RemoteInfo { origin, config: ClusterConfig { id: 2, capabilities } }))
    }

    fn put(kind: Kind, name: &str, value: &'static [u8]) -> Change {
        Change::Put { kind, name: name.into(), value: Bytes::from_static(value), revision: 1, store: 7 }
    }

    #[test]
    fn a_cluster_is_copied_in_the_cache_layout() {
        let mut mirror = mirror();
        let now = Instant::now();
        for change in [
            connected(),
            Change::Relisting(Kind::Identities),
            put(Kind::Identities, "131072", b"k8s:a=b;"),
            put(Kind::Identities, "131073", b"\xff not ours to judge"),
            Change::Listed(Kind::Identities),
            Change::Deleted { kind: Kind::Identities, name: "131072".into(), revision: 2 },
        ] {
            mirror.handle(now, &west(), change);
        }
        let expected = [
            "add west/cluster-config [] ",
            "set west/cluster-config cilium/cluster-config/west={\"id\":2,\"capabilities\":{\"syncedCanaries\":true,\"cached\":true,\"maxConnectedClusters\":255,\"serviceExportsEnabled\":true}}",
            "listed west/cluster-config",
            "add west/identities/v1 [\"cilium/cache/identities/v1/west/id/\"] cilium/synced/west/cilium/cache/identities/v1",
            "relisting west/identities/v1",
            "set west/identities/v1 cilium/cache/identities/v1/west/id/131072=k8s:a=b;",
            "set west/identities/v1 cilium/cache/identities/v1/west/id/131073=\u{fffd} not ours to judge",
            "listed west/identities/v1",
            "delete west/identities/v1 cilium/cache/identities/v1/west/id/131072",
        ];
        assert_eq!(told(&mirror), expected);
    }

    #[test]
    fn a_silent_cluster_is_said_to_be_silent() {
        let mut mirror = mirror();
        let now = Instant::now();
        mirror.handle(now, &west(), connected());
        told(&mirror);
        for stage in [Stage::Silent, Stage::DePreferred, Stage::Fresh] {
            mirror.handle(now, &west(), Change::Stage(stage));
        }
        let expected = [
            "add west/silence [] ",
            "set west/silence cilium/cache/silence/v1/west=silent",
            "listed west/silence",
            "set west/silence cilium/cache/silence/v1/west=de-preferred",
            "listed west/silence",
            "delete west/silence cilium/cache/silence/v1/west",
            "listed west/silence",
        ];
        assert_eq!(told(&mirror), expected);
    }

    #[test]
    fn a_removed_cluster_loses_its_configuration_first() {
        let mut mirror = mirror();
        let now = Instant::now();
        mirror.handle(now, &west(), connected());
        mirror.handle(now, &west(), Change::Relisting(Kind::Nodes));
        mirror.handle(now, &west(), Change::Listed(Kind::Nodes));
        told(&mirror);
        mirror.handle(now, &west(), Change::Forget);
        assert_eq!(told(&mirror), ["delete west/cluster-config cilium/cluster-config/west"]);
        assert_eq!(mirror.deadline(), Some(now + GRACE));
        mirror.reap(now + GRACE - Duration::from_secs(1));
        assert!(told(&mirror).is_empty());
        mirror.reap(now + GRACE);
        assert_eq!(told(&mirror), ["remove west/nodes/v1", "remove west/cluster-config"]);
        assert_eq!(mirror.deadline(), None);
        mirror.handle(now, &west(), connected());
        assert!(told(&mirror)[0].starts_with("add west/cluster-config"), "it may come back");
    }

    #[test]
    fn a_cluster_that_comes_back_within_the_grace_keeps_its_copy() {
        let mut mirror = mirror();
        let now = Instant::now();
        mirror.handle(now, &west(), connected());
        mirror.handle(now, &west(), Change::Relisting(Kind::Nodes));
        mirror.handle(now, &west(), Change::Forget);
        mirror.handle(now, &west(), connected());
        assert_eq!(mirror.deadline(), None);
        told(&mirror);
        mirror.handle(now, &west(), Change::Relisting(Kind::Nodes));
        assert_eq!(told(&mirror), ["relisting west/nodes/v1"], "the same group");
        mirror.handle(now, &ClusterName::parse("south").unwrap(), Change::Forget);
        assert!(told(&mirror).is_empty());
    }

    #[test]
    fn a_cluster_that_changes_its_number_writes_its_configuration_in_the_same_group() {
        let mut mirror = mirror();
        let now = Instant::now();
        mirror.handle(now, &west(), connected());
        told(&mirror);
        mirror.handle(now, &west(), Change::Forget);
        mirror.handle(now, &west(), connected());
        let told = told(&mirror);
        let verbs: Vec<&str> = told.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(verbs, ["delete", "set", "listed"], "{told:?}");
        assert!(told.iter().all(|line| line.contains(" west/cluster-config")), "{told:?}");
    }

    /// A real writer with a store in memory.
    struct Written {
        publish: RefCell<Publish>,
        store: Twin,
    }

    impl Written {
        /// Keys that stand in the store once everything is written.
        fn keys(&mut self) -> Vec<String> {
            const WRITER: SessionId = SessionId(1);
            let now = Now { at: Instant::now(), wall: SystemTime::now() };
            let publish = self.publish.get_mut();
            while let Some((ticket, op)) = publish.poll(now) {
                self.store.submit(WRITER, ticket, op, now.at);
                self.store.take(WRITER).into_iter().for_each(|reply| publish.handle(reply, now));
            }
            self.store.entries("").into_iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()).collect()
        }
    }

    impl Book for Written {
        fn add_group(&self, group: Group) -> GroupId {
            self.publish.borrow_mut().add_group(group)
        }
        fn remove_group(&self, id: GroupId) {
            self.publish.borrow_mut().remove_group(id);
        }
        fn relisting(&self, id: GroupId) {
            self.publish.borrow_mut().relisting(id);
        }
        fn set(&self, id: GroupId, key: &str, value: Bytes) {
            self.publish.borrow_mut().set(id, key, value);
        }
        fn delete(&self, id: GroupId, key: &str) {
            self.publish.borrow_mut().delete(id, key);
        }
        fn listed(&self, id: GroupId) {
            self.publish.borrow_mut().listed(id);
        }
    }

    #[test]
    fn a_silent_cluster_leaves_the_mark_of_one_whose_name_begins_with_its_own() {
        let publish = RefCell::new(crate::store::publish(causeway_mesh_kv::Settings::default()));
        let mut mirror = Mirror::new(Written { publish, store: Twin::new(7) }, GRACE);
        let now = Instant::now();
        let [short, long] = ["prod", "prod-eu"].map(|name| ClusterName::parse(name).unwrap());
        mirror.handle(now, &long, Change::Stage(Stage::Silent));
        let of_long = "cilium/cache/silence/v1/prod-eu";
        assert_eq!(mirror.book.keys(), [of_long]);
        mirror.handle(now, &short, Change::Stage(Stage::Silent));
        assert_eq!(mirror.book.keys(), ["cilium/cache/silence/v1/prod", of_long]);
        mirror.handle(now, &short, Change::Forget);
        mirror.reap(now + GRACE);
        assert_eq!(mirror.book.keys(), [of_long]);
    }
}
