//! Garbage collection: what is owned goes when its last owner does. Foreground deletion waits for the owned, orphaning
//! lets them be.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::feed::Feed;
use super::log_failure;
use super::views::{Any, OwnerRef};
use crate::api::{Api, DeleteOptions, WriteOptions};
use crate::kinds::Resource;
use crate::status::ApiResult;
use crate::store::{Key, TableName};

/// Custom resources come and go: how often the list of tables is read anew.
const RESCAN: Duration = Duration::from_secs(1);
/// Several changes at once are looked at together.
const SETTLE: Duration = Duration::from_millis(10);
const MANAGER: &str = "kube-controller-manager";
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

type Id = (TableName, Key);

struct Collector {
    api: Arc<Api>,
    feeds: HashMap<TableName, Feed<Any>>,
    /// Everything that lives, by uid.
    living: HashMap<String, Id>,
    dependents: HashMap<String, HashSet<Id>>,
    /// To be looked at: dependents of something that went, and owners that wait.
    dirty: BTreeSet<Id>,
}

pub(super) async fn run(api: Arc<Api>) {
    let mut collector = Collector {
        api,
        feeds: HashMap::new(),
        living: HashMap::new(),
        dependents: HashMap::new(),
        dirty: BTreeSet::new(),
    };
    loop {
        collector.scan();
        collector.pull();
        while let Some(id) = collector.dirty.pop_first() {
            let result = collector.look(&id);
            log_failure("gc", &id.1, result);
            collector.pull();
        }
        let woken = futures::future::select_all(collector.feeds.values_mut().map(|feed| Box::pin(feed.changed())));
        tokio::select! {
            _ = woken => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(RESCAN) => {}
        }
    }
}

impl Collector {
    fn scan(&mut self) {
        let tables = self.api.registry.tables();
        self.feeds.retain(|name, _| tables.iter().any(|r| r.table == *name));
        for resource in tables.iter().filter(|r| &*r.table != "events") {
            if !self.feeds.contains_key(&resource.table) {
                self.feeds.insert(resource.table.clone(), Feed::of(&self.api, resource));
            }
        }
    }

    fn pull(&mut self) {
        let mut changes = Vec::new();
        for (table, feed) in &mut self.feeds {
            changes.extend(feed.pull().into_iter().map(|change| (table.clone(), change)));
        }
        for (table, change) in changes {
            let id = (table, change.key);
            let owners = |object: &Option<Arc<Any>>| -> Vec<OwnerRef> {
                object.as_ref().map(|o| o.metadata.owner_references.clone()).unwrap_or_default()
            };
            let (before, now) = (owners(&change.before), owners(&change.now));
            for gone in before.iter().filter(|o| !now.iter().any(|n| n.uid == o.uid)) {
                if let Some(dependents) = self.dependents.get_mut(&gone.uid) {
                    dependents.remove(&id);
                    if dependents.is_empty() {
                        self.dependents.remove(&gone.uid);
                    }
                }
                // An owner may be waiting for this one.
                self.dirty.extend(self.living.get(&gone.uid).cloned());
            }
            for owner in &now {
                self.dependents.entry(owner.uid.clone()).or_default().insert(id.clone());
            }
            if let Some(object) = &change.before
                && change.now.as_ref().is_none_or(|n| n.metadata.uid != object.metadata.uid)
            {
                self.living.remove(&object.metadata.uid);
                self.dirty.extend(self.dependents.get(&object.metadata.uid).into_iter().flatten().cloned());
            }
            if let Some(object) = &change.now {
                self.living.insert(object.metadata.uid.clone(), id.clone());
                if !now.is_empty() || object.metadata.deleting() {
                    self.dirty.insert(id);
                }
            }
        }
    }

    fn resource(&self, table: &TableName) -> Option<Arc<Resource>> {
        self.feeds.get(table).map(|feed| feed.resource.clone())
    }

    fn look(&self, id: &Id) -> ApiResult<()> {
        let Some(resource) = self.resource(&id.0) else { return Ok(()) };
        let Some(object) = self.feeds.get(&id.0).and_then(|feed| feed.get(&id.1)).cloned() else { return Ok(()) };
        let meta = &object.metadata;
        let has = |finalizer: &str| meta.finalizers.iter().any(|f| f == finalizer);
        if meta.deleting() {
            if has(ORPHAN) {
                self.orphan(&resource, &id.1, &meta.uid)?;
            } else if has(FOREGROUND) {
                self.foreground(&resource, &id.1, &meta.uid)?;
            }
            return Ok(());
        }
        let (living, gone): (Vec<&OwnerRef>, Vec<&OwnerRef>) =
            meta.owner_references.iter().partition(|o| self.living.contains_key(&o.uid));
        if gone.is_empty() {
            return Ok(());
        }
        if living.is_empty() {
            // The uid guards against deleting a namesake that came meanwhile.
            let options = DeleteOptions { uid: Some(meta.uid.clone()), ..DeleteOptions::background() };
            self.api.delete(&resource, &id.1, &options)?;
            return Ok(());
        }
        let gone: Vec<String> = gone.iter().map(|o| o.uid.clone()).collect();
        self.drop_owners(&resource, &id.1, &gone)
    }

    fn drop_owners(&self, resource: &Resource, key: &Key, uids: &[String]) -> ApiResult<()> {
        self.api.modify(resource, key, &WriteOptions::by(MANAGER), &mut |old| {
            let mut new = old.clone();
            if let Some(owners) = new["metadata"]["ownerReferences"].as_array_mut() {
                owners.retain(|o| !uids.iter().any(|uid| o["uid"] == uid.as_str()));
            }
            Ok(new)
        })?;
        Ok(())
    }

    fn dependents_of(&self, uid: &str) -> Vec<(Arc<Resource>, Key, Arc<Any>)> {
        let ids = self.dependents.get(uid).into_iter().flatten();
        ids.filter_map(|(table, key)| {
            let feed = self.feeds.get(table)?;
            Some((feed.resource.clone(), key.clone(), feed.get(key)?.clone()))
        })
        .collect()
    }

    fn orphan(&self, resource: &Resource, key: &Key, uid: &str) -> ApiResult<()> {
        for (dependent, dependent_key, _) in self.dependents_of(uid) {
            match self.drop_owners(&dependent, &dependent_key, &[uid.to_owned()]) {
                Err(error) if error.code != 404 => return Err(error),
                _ => {}
            }
        }
        self.finish(resource, key, ORPHAN)
    }

    fn foreground(&self, resource: &Resource, key: &Key, uid: &str) -> ApiResult<()> {
        let dependents = self.dependents_of(uid);
        let mut blocked = false;
        for (dependent, dependent_key, object) in &dependents {
            let blocks = object.metadata.owner_references.iter().any(|o| o.uid == uid && o.block_owner_deletion);
            blocked |= blocks;
            if !object.metadata.deleting() {
                let policy =
                    if self.dependents.contains_key(&object.metadata.uid) { "Foreground" } else { "Background" };
                let options = DeleteOptions { propagation: Some(policy.to_owned()), ..DeleteOptions::default() };
                match self.api.delete(dependent, dependent_key, &options) {
                    Err(error) if error.code != 404 => return Err(error),
                    _ => {}
                }
            }
        }
        if blocked { Ok(()) } else { self.finish(resource, key, FOREGROUND) }
    }

    fn finish(&self, resource: &Resource, key: &Key, finalizer: &str) -> ApiResult<()> {
        self.api.modify(resource, key, &WriteOptions::by(MANAGER), &mut |old| {
            let mut new = old.clone();
            let kept =
                old["metadata"]["finalizers"].as_array().into_iter().flatten().filter(|f| **f != finalizer).cloned();
            let kept: Vec<Value> = kept.collect();
            new["metadata"]["finalizers"] = json!(kept);
            Ok(new)
        })?;
        Ok(())
    }
}
