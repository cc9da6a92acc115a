//! Deployments: one ReplicaSet per template, replicas moved from the old ones to the new one within surge and unavailability.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::events::{Note, record};
use super::feed::Feed;
use super::views::{Any, ReplicaSet};
use super::{log_failure, owner_reference, set_condition};
use crate::api::{Api, DeleteOptions, WriteOptions};
use crate::status::ApiResult;
use crate::store::Key;

const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";
const MANAGER: &str = "kube-controller-manager";
/// How often progress deadlines are looked at.
const TICK: Duration = Duration::from_secs(1);

struct Controller {
    api: Arc<Api>,
    deployments: Feed<Any>,
    sets: Feed<ReplicaSet>,
    dirty: BTreeSet<Key>,
}

pub(super) async fn run(api: Arc<Api>) {
    let deployments = Feed::new(&api, "apps", "deployments");
    let sets = Feed::new(&api, "apps", "replicasets");
    let mut controller = Controller { api, deployments, sets, dirty: BTreeSet::new() };
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = controller.deployments.changed() => {}
            () = controller.sets.changed() => {}
            _ = tick.tick() => controller.wake_unfinished(),
        }
        controller.pull();
        while let Some(key) = controller.dirty.pop_first() {
            let result = controller.reconcile(&key);
            log_failure("deployment", &key, result);
            controller.pull();
        }
    }
}

/// The state of one deployment in numbers.
struct Rollout {
    replicas: i64,
    max_surge: i64,
    max_unavailable: i64,
    recreate: bool,
}

impl Rollout {
    fn of(spec: &Value) -> Self {
        let replicas = spec["replicas"].as_i64().unwrap_or(1);
        let rolling = &spec["strategy"]["rollingUpdate"];
        let recreate = spec["strategy"]["type"] == "Recreate";
        let max_surge = if recreate { 0 } else { share(&rolling["maxSurge"], replicas, true) };
        let mut max_unavailable = if recreate { 0 } else { share(&rolling["maxUnavailable"], replicas, false) };
        if max_surge == 0 && max_unavailable == 0 {
            // Otherwise nothing could ever move.
            max_unavailable = 1;
        }
        Self { replicas, max_surge, max_unavailable: max_unavailable.min(replicas.max(1)), recreate }
    }
}

/// A number, or a percentage of the replicas.
fn share(value: &Value, replicas: i64, up: bool) -> i64 {
    match value {
        Value::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(25);
            let product = percent.saturating_mul(replicas);
            if up { product.saturating_add(99) / 100 } else { product / 100 }
        }
        other => other.as_i64().unwrap_or(0).max(0),
    }
}

/// A short name for a template, made of letters that cannot spell words.
fn template_hash(template: &Value, collisions: i64) -> String {
    const LETTERS: &[u8; 16] = b"bcdfghjklmnpqrst";
    // FNV-1a, 64 bits
    let text = format!("{template}{collisions}");
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (0..10).map(|i| char::from(LETTERS[usize::from((hash >> (i * 4)).to_le_bytes()[0] & 0xf)])).collect()
}

fn revision(set: &ReplicaSet) -> i64 {
    set.metadata.annotations.get(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

fn template_without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    template["metadata"]["labels"].as_object_mut().and_then(|l| l.shift_remove(HASH));
    template
}

impl Controller {
    fn pull(&mut self) {
        for change in self.deployments.pull() {
            self.dirty.insert(change.key);
        }
        for change in self.sets.pull() {
            for set in [&change.before, &change.now].into_iter().flatten() {
                if let Some(owner) = set.metadata.controller().filter(|o| o.kind == "Deployment") {
                    self.dirty.insert(Key::new(&change.key.namespace, &owner.name));
                }
            }
        }
    }

    fn wake_unfinished(&mut self) {
        for (key, set) in self.sets.iter() {
            if set.status.available_replicas < set.spec.replicas
                && let Some(owner) = set.metadata.controller()
            {
                self.dirty.insert(Key::new(&key.namespace, &owner.name));
            }
        }
    }

    /// The sets of a deployment, oldest revision first.
    fn owned(&self, key: &Key, uid: &str) -> Vec<Arc<ReplicaSet>> {
        let all = self.sets.in_namespace(&key.namespace).map(|(_, set)| set);
        let mut sets: Vec<Arc<ReplicaSet>> =
            all.filter(|s| s.metadata.controller().is_some_and(|o| o.uid == uid)).cloned().collect();
        sets.sort_by_key(|s| (revision(s), s.metadata.creation_timestamp.clone()));
        sets
    }

    fn reconcile(&mut self, key: &Key) -> ApiResult<()> {
        let Some(object) = self.api.store.get(&self.deployments.resource.table, key) else { return Ok(()) };
        let deployment = object.value();
        let uid = deployment["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let deleting = deployment["metadata"]["deletionTimestamp"].is_string();
        let paused = deployment["spec"]["paused"] == true;
        let mut result = Ok(());
        if !deleting {
            result = self.progress(key, &deployment, &uid, paused);
            self.sets.pull();
        }
        self.write_status(key, &uid)?;
        result
    }

    fn progress(&mut self, key: &Key, deployment: &Value, uid: &str, paused: bool) -> ApiResult<()> {
        let rollout = Rollout::of(&deployment["spec"]);
        let sets = self.owned(key, uid);
        let template = &deployment["spec"]["template"];
        let known = sets.iter().rfind(|s| template_without_hash(&s.spec.template) == *template).cloned();
        let active: Vec<&Arc<ReplicaSet>> = sets.iter().filter(|s| s.spec.replicas > 0).collect();
        if paused {
            if let [only] = active.as_slice() {
                self.scale(deployment, only, rollout.replicas)?;
            }
            return Ok(());
        }
        let old: Vec<Arc<ReplicaSet>> =
            sets.iter().filter(|s| known.as_ref().is_none_or(|n| n.metadata.uid != s.metadata.uid)).cloned().collect();
        let newest = old.iter().map(|s| revision(s)).max().unwrap_or(0);
        let current = match known {
            Some(set) => {
                self.mark_revision(key, deployment, &set, newest)?;
                set
            }
            None => {
                let old_replicas: i64 = old.iter().map(|s| s.spec.replicas).sum();
                let room = rollout.replicas + rollout.max_surge - old_replicas;
                let first = if rollout.recreate && old_replicas > 0 { 0 } else { room.clamp(0, rollout.replicas) };
                self.create_set(key, deployment, newest + 1, first)?;
                self.sets.pull();
                let made = self.owned(key, uid);
                match made.into_iter().rfind(|s| template_without_hash(&s.spec.template) == *template) {
                    Some(set) => set,
                    None => return Ok(()),
                }
            }
        };
        if rollout.recreate {
            self.recreate(deployment, &rollout, &current, &old)?;
        } else {
            self.roll(deployment, &rollout, &current, &old)?;
        }
        self.forget_history(deployment, &rollout, &old, &current)
    }

    fn recreate(
        &self,
        deployment: &Value,
        rollout: &Rollout,
        current: &ReplicaSet,
        old: &[Arc<ReplicaSet>],
    ) -> ApiResult<()> {
        for set in old.iter().filter(|s| s.spec.replicas > 0) {
            self.scale(deployment, set, 0)?;
        }
        if old.iter().all(|s| s.status.replicas == 0 && s.spec.replicas == 0) {
            self.scale(deployment, current, rollout.replicas)?;
        }
        Ok(())
    }

    fn roll(
        &self,
        deployment: &Value,
        rollout: &Rollout,
        current: &ReplicaSet,
        old: &[Arc<ReplicaSet>],
    ) -> ApiResult<()> {
        let old_total: i64 = old.iter().map(|s| s.spec.replicas).sum();
        let room = rollout.replicas + rollout.max_surge - old_total - current.spec.replicas;
        let wanted = if current.spec.replicas > rollout.replicas {
            rollout.replicas
        } else {
            (current.spec.replicas + room.max(0)).min(rollout.replicas)
        };
        self.scale(deployment, current, wanted)?;
        if old_total == 0 {
            return Ok(());
        }
        // What may go without leaving too few: pods that the new set still owes count as missing.
        let least = rollout.replicas - rollout.max_unavailable;
        let owed = (wanted - current.status.available_replicas).max(0);
        let mut may_go = old_total + wanted - least - owed;
        let mut left: Vec<i64> = old.iter().map(|s| s.spec.replicas).collect();
        for (set, left) in old.iter().zip(&mut left) {
            let broken = (set.spec.replicas - set.status.available_replicas).clamp(0, may_go.max(0));
            *left -= broken;
            may_go -= broken;
        }
        let available: i64 =
            old.iter().map(|s| s.status.available_replicas).sum::<i64>() + current.status.available_replicas;
        let mut spare = (available - least).min(may_go.max(0));
        for left in left.iter_mut().filter(|left| **left > 0) {
            let gone = (*left).min(spare.max(0));
            *left -= gone;
            spare -= gone;
        }
        for (set, left) in old.iter().zip(left) {
            self.scale(deployment, set, left)?;
        }
        Ok(())
    }

    fn annotations(deployment: &Value, revision: i64) -> Value {
        let rollout = Rollout::of(&deployment["spec"]);
        let mut annotations = deployment["metadata"]["annotations"].clone();
        if !annotations.is_object() {
            annotations = json!({});
        }
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.shift_remove("kubectl.kubernetes.io/last-applied-configuration");
            annotations.insert(REVISION.into(), revision.to_string().into());
            annotations.insert(DESIRED.into(), rollout.replicas.to_string().into());
            annotations.insert(MAX.into(), (rollout.replicas + rollout.max_surge).to_string().into());
        }
        annotations
    }

    fn create_set(&self, key: &Key, deployment: &Value, revision: i64, replicas: i64) -> ApiResult<()> {
        let hash = template_hash(
            &deployment["spec"]["template"],
            deployment["status"]["collisionCount"].as_i64().unwrap_or(0),
        );
        let mut template = deployment["spec"]["template"].clone();
        template["metadata"]["labels"][HASH] = hash.clone().into();
        let mut selector = deployment["spec"]["selector"].clone();
        selector["matchLabels"][HASH] = hash.clone().into();
        let owner: Any = serde_json::from_value(deployment.clone()).unwrap_or_default();
        let name = format!("{}-{hash}", key.name);
        let set = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": name, "namespace": key.namespace, "labels": template["metadata"]["labels"],
                "annotations": Self::annotations(deployment, revision),
                "ownerReferences": [owner_reference("apps/v1", "Deployment", &owner.metadata)],
            },
            "spec": {"replicas": replicas, "selector": selector, "template": template,
                "minReadySeconds": deployment["spec"]["minReadySeconds"].as_i64().unwrap_or(0)},
        });
        self.api.create(&self.sets.resource, &key.namespace, set, &WriteOptions::by(MANAGER))?;
        self.set_revision(key, revision)?;
        self.say(deployment, &format!("Scaled up replica set {name} from 0 to {replicas}"));
        Ok(())
    }

    fn say(&self, deployment: &Value, message: &str) {
        record(
            &self.api,
            deployment,
            &Note { component: "deployment-controller", kind: "Normal", reason: "ScalingReplicaSet", message },
        );
    }

    fn set_revision(&self, key: &Key, revision: i64) -> ApiResult<()> {
        self.api.modify(&self.deployments.resource, key, &WriteOptions::by(MANAGER), &mut |old| {
            let mut new = old.clone();
            new["metadata"]["annotations"][REVISION] = revision.to_string().into();
            Ok(new)
        })?;
        Ok(())
    }

    /// A template that comes back (`rollout undo`) becomes the newest revision.
    fn mark_revision(&self, key: &Key, deployment: &Value, set: &ReplicaSet, newest_other: i64) -> ApiResult<()> {
        let revision = revision(set).max(newest_other + 1);
        let key_of_set = Key::new(&set.metadata.namespace, &set.metadata.name);
        let annotations = Self::annotations(deployment, revision);
        self.api.modify(&self.sets.resource, &key_of_set, &WriteOptions::by(MANAGER), &mut |old| {
            let mut new = old.clone();
            for (name, value) in annotations.as_object().into_iter().flatten() {
                new["metadata"]["annotations"][name] = value.clone();
            }
            new["spec"]["minReadySeconds"] = deployment["spec"]["minReadySeconds"].as_i64().unwrap_or(0).into();
            Ok(new)
        })?;
        self.set_revision(key, revision)
    }

    fn scale(&self, deployment: &Value, set: &ReplicaSet, replicas: i64) -> ApiResult<()> {
        if set.spec.replicas == replicas {
            return Ok(());
        }
        let key = Key::new(&set.metadata.namespace, &set.metadata.name);
        self.api.modify(&self.sets.resource, &key, &WriteOptions::by(MANAGER), &mut |old| {
            let mut new = old.clone();
            new["spec"]["replicas"] = replicas.into();
            Ok(new)
        })?;
        let word = if replicas > set.spec.replicas { "up" } else { "down" };
        self.say(
            deployment,
            &format!("Scaled {word} replica set {} from {} to {replicas}", key.name, set.spec.replicas),
        );
        Ok(())
    }

    fn forget_history(
        &self,
        deployment: &Value,
        rollout: &Rollout,
        old: &[Arc<ReplicaSet>],
        current: &ReplicaSet,
    ) -> ApiResult<()> {
        if current.status.available_replicas < rollout.replicas {
            return Ok(());
        }
        let keep = usize::try_from(deployment["spec"]["revisionHistoryLimit"].as_i64().unwrap_or(10)).unwrap_or(0);
        let idle: Vec<&Arc<ReplicaSet>> =
            old.iter().filter(|s| s.spec.replicas == 0 && s.status.replicas == 0 && !s.metadata.deleting()).collect();
        for set in idle.iter().take(idle.len().saturating_sub(keep)) {
            let key = Key::new(&set.metadata.namespace, &set.metadata.name);
            self.api.delete(&self.sets.resource, &key, &DeleteOptions::background())?;
        }
        Ok(())
    }

    fn write_status(&self, key: &Key, uid: &str) -> ApiResult<()> {
        let sets = self.owned(key, uid);
        let options = WriteOptions::by(MANAGER).status();
        self.api.modify(&self.deployments.resource, key, &options, &mut |old| {
            let template = &old["spec"]["template"];
            let current = sets.iter().rfind(|s| template_without_hash(&s.spec.template) == *template);
            let sum = |count: fn(&ReplicaSet) -> i64| sets.iter().map(|s| count(s)).sum::<i64>();
            let counts = Counts {
                total: sum(|s| s.status.replicas),
                ready: sum(|s| s.status.ready_replicas),
                available: sum(|s| s.status.available_replicas),
                updated: current.map_or(0, |s| s.status.replicas),
                updated_available: current.map_or(0, |s| s.status.available_replicas),
            };
            let mut new = old.clone();
            new["status"] = status_of(old, &counts, current.map(|s| s.metadata.name.as_str()));
            Ok(new)
        })?;
        Ok(())
    }
}

struct Counts {
    total: i64,
    ready: i64,
    available: i64,
    updated: i64,
    updated_available: i64,
}

fn status_of(deployment: &Value, counts: &Counts, current: Option<&str>) -> Value {
    let rollout = Rollout::of(&deployment["spec"]);
    let before = &deployment["status"];
    let mut status = json!({"observedGeneration": deployment["metadata"]["generation"]});
    let unavailable = (rollout.replicas.max(counts.total) - counts.available).max(0);
    for (name, count) in [
        ("replicas", counts.total),
        ("updatedReplicas", counts.updated),
        ("readyReplicas", counts.ready),
        ("availableReplicas", counts.available),
        ("unavailableReplicas", unavailable),
    ] {
        if count > 0 {
            status[name] = count.into();
        }
    }
    if before["conditions"].is_array() {
        status["conditions"] = before["conditions"].clone();
    }
    let enough = counts.available >= rollout.replicas - rollout.max_unavailable;
    let (state, reason, message) = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    put_condition(&mut status, "Available", state, reason, message);
    progressing(&mut status, deployment, &rollout, counts, current);
    status
}

fn put_condition(status: &mut Value, kind: &str, state: &str, reason: &str, message: &str) -> bool {
    let now = crate::apply::now();
    set_condition(
        status,
        json!({"type": kind, "status": state, "reason": reason, "message": message, "lastUpdateTime": now, "lastTransitionTime": now}),
    )
}

fn progressing(status: &mut Value, deployment: &Value, rollout: &Rollout, counts: &Counts, current: Option<&str>) {
    let name = current.unwrap_or("unknown");
    let complete = counts.updated == rollout.replicas
        && counts.updated_available >= rollout.replicas
        && counts.total == rollout.replicas;
    let before =
        deployment["status"]["conditions"].as_array().and_then(|all| all.iter().find(|c| c["type"] == "Progressing"));
    if complete {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        put_condition(status, "Progressing", "True", "NewReplicaSetAvailable", &message);
        return;
    }
    // Once complete, a rollout stays so: a pod that turns unready later is no new one.
    if counts.total == counts.updated && before.is_some_and(|c| c["reason"] == "NewReplicaSetAvailable") {
        return;
    }
    let moved = ["updatedReplicas", "readyReplicas", "availableReplicas", "replicas", "observedGeneration"]
        .iter()
        .any(|field| status[field] != deployment["status"][field]);
    let deadline_s = deployment["spec"]["progressDeadlineSeconds"].as_i64().unwrap_or(600);
    let last = before.and_then(|c| c["lastUpdateTime"].as_str()?.parse::<Timestamp>().ok());
    let late = last.is_some_and(|t| t.as_second() + deadline_s < Timestamp::now().as_second());
    let stuck = before.is_some_and(|c| c["reason"] == "ProgressDeadlineExceeded");
    if !moved && (late || stuck) && before.is_some_and(|c| c["reason"] != "NewReplicaSetAvailable") {
        let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
        put_condition(status, "Progressing", "False", "ProgressDeadlineExceeded", &message);
    } else if (moved || before.is_none())
        && let Some(conditions) = status["conditions"].as_array_mut()
    {
        // Progress renews the time, which the deadline is counted from.
        let transition = before.filter(|c| c["status"] == "True").map(|c| c["lastTransitionTime"].clone());
        conditions.retain(|c| c["type"] != "Progressing");
        let now = crate::apply::now();
        conditions.push(json!({"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated",
            "message": format!("ReplicaSet \"{name}\" is progressing."), "lastUpdateTime": now,
            "lastTransitionTime": transition.unwrap_or_else(|| now.clone().into())}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_round_up_for_surge_and_down_for_unavailability() {
        assert_eq!(share(&"25%".into(), 3, true), 1);
        assert_eq!(share(&"25%".into(), 3, false), 0);
        assert_eq!(share(&json!(2), 3, false), 2);
        let rollout = Rollout::of(
            &json!({"replicas": 3, "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "25%"}}}),
        );
        assert_eq!((rollout.max_surge, rollout.max_unavailable), (0, 1), "something must be allowed to move");
    }

    #[test]
    fn status_says_when_it_is_complete() {
        let deployment = json!({"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": {}});
        let done = Counts { total: 2, ready: 2, available: 2, updated: 2, updated_available: 2 };
        let status = status_of(&deployment, &done, Some("d-x"));
        assert_eq!(status["conditions"][1]["reason"], "NewReplicaSetAvailable");
        let half = Counts { total: 2, ready: 0, available: 0, updated: 2, updated_available: 0 };
        let status = status_of(&deployment, &half, Some("d-x"));
        assert_eq!(
            (&status["conditions"][0]["status"], &status["conditions"][1]["status"]),
            (&"False".into(), &"True".into())
        );
        assert_eq!(status["unavailableReplicas"], 2);
    }

    #[test]
    fn template_hashes_differ() {
        let (a, b) = (template_hash(&json!({"a": 1}), 0), template_hash(&json!({"a": 2}), 0));
        assert!(a != b && a.len() == 10);
    }
}
