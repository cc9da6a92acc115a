//! ReplicaSets: as many pods as asked for.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::feed::Feed;
use super::views::{Pod, ReplicaSet};
use super::{log_failure, owner_reference};
use crate::api::{Api, DeleteOptions, WriteOptions};
use crate::status::ApiResult;
use crate::store::Key;

/// Pods made at once, so that one set cannot hold up all others.
const BURST: i64 = 500;
/// How often sets with `minReadySeconds` are looked at.
const TICK: Duration = Duration::from_millis(500);

struct Controller {
    api: Arc<Api>,
    sets: Feed<ReplicaSet>,
    pods: Feed<Pod>,
    /// Pods by the uid of their controller.
    owned: HashMap<String, BTreeSet<Key>>,
    dirty: BTreeSet<Key>,
}

pub(super) async fn run(api: Arc<Api>) {
    let sets = Feed::new(&api, "apps", "replicasets");
    let pods = Feed::new(&api, "", "pods");
    let mut controller = Controller { api, sets, pods, owned: HashMap::new(), dirty: BTreeSet::new() };
    loop {
        tokio::select! {
            () = controller.sets.changed() => {}
            () = controller.pods.changed() => {}
            () = tokio::time::sleep(TICK) => controller.wake_slow(),
        }
        controller.pull();
        while let Some(key) = controller.dirty.pop_first() {
            let result = controller.reconcile(&key);
            log_failure("replicaset", &key, result);
            controller.pull();
        }
    }
}

/// Whether a pod has been ready for long enough.
fn available(pod: &Pod, min_ready_s: i64) -> bool {
    if !pod.ready() {
        return false;
    }
    let since = pod
        .condition("Ready")
        .and_then(|c| c.last_transition_time.as_deref())
        .and_then(|t| t.parse::<Timestamp>().ok());
    min_ready_s == 0 || since.is_some_and(|t| t.as_second() + min_ready_s <= Timestamp::now().as_second())
}

impl Controller {
    fn pull(&mut self) {
        for change in self.sets.pull() {
            self.dirty.insert(change.key);
        }
        for change in self.pods.pull() {
            for pod in [&change.before, &change.now].into_iter().flatten() {
                let Some(owner) = pod.metadata.controller().filter(|o| o.kind == "ReplicaSet") else { continue };
                self.dirty.insert(Key::new(&change.key.namespace, &owner.name));
                let owned = self.owned.entry(owner.uid.clone()).or_default();
                if change.now.is_some() {
                    owned.insert(change.key.clone());
                } else {
                    owned.remove(&change.key);
                    if owned.is_empty() {
                        self.owned.remove(&owner.uid);
                    }
                }
            }
        }
    }

    fn wake_slow(&mut self) {
        let slow = self
            .sets
            .iter()
            .filter(|(_, s)| s.spec.min_ready_seconds > 0 && s.status.available_replicas < s.spec.replicas);
        self.dirty.extend(slow.map(|(key, _)| key.clone()));
    }

    fn reconcile(&mut self, key: &Key) -> ApiResult<()> {
        let Some(set) = self.sets.get(key).cloned() else { return Ok(()) };
        let pods: Vec<Arc<Pod>> = self
            .owned
            .get(&set.metadata.uid)
            .into_iter()
            .flatten()
            .filter_map(|key| self.pods.get(key))
            .filter(|pod| pod.active())
            .cloned()
            .collect();
        let found = i64::try_from(pods.len()).unwrap_or(i64::MAX);
        let missing = set.spec.replicas - found;
        let result = if set.metadata.deleting() || missing == 0 {
            Ok(())
        } else if missing > 0 {
            self.create(&set, missing.min(BURST))
        } else {
            self.delete(pods.clone(), -missing)
        };
        self.write_status(key, &set, &pods)?;
        result
    }

    fn create(&self, set: &ReplicaSet, count: i64) -> ApiResult<()> {
        let options = WriteOptions::by("kube-controller-manager");
        let template = &set.spec.template;
        let mut metadata = template["metadata"].clone();
        if !metadata.is_object() {
            metadata = json!({});
        }
        metadata["generateName"] = format!("{}-", set.metadata.name).into();
        metadata["ownerReferences"] = json!([owner_reference("apps/v1", "ReplicaSet", &set.metadata)]);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]});
        for _ in 0..count {
            self.api.create(&self.pods.resource, &set.metadata.namespace, pod.clone(), &options)?;
        }
        Ok(())
    }

    /// Those go first that serve least: not placed, not running, not ready, on crowded nodes, youngest.
    fn delete(&self, mut pods: Vec<Arc<Pod>>, count: i64) -> ApiResult<()> {
        let mut per_node: HashMap<String, usize> = HashMap::new();
        for pod in &pods {
            *per_node.entry(pod.spec.node_name.clone()).or_default() += 1;
        }
        pods.sort_by_key(|pod| {
            (
                !pod.spec.node_name.is_empty(),
                pod.status.phase == "Running",
                pod.ready(),
                std::cmp::Reverse(per_node[&pod.spec.node_name]),
                std::cmp::Reverse(pod.metadata.creation_timestamp.clone()),
            )
        });
        let count = usize::try_from(count).unwrap_or(0);
        for pod in pods.iter().take(count) {
            let key = Key::new(&pod.metadata.namespace, &pod.metadata.name);
            match self.api.delete(&self.pods.resource, &key, &DeleteOptions::background()) {
                Err(error) if error.code != 404 => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn write_status(&self, key: &Key, set: &ReplicaSet, pods: &[Arc<Pod>]) -> ApiResult<()> {
        let ready = pods.iter().filter(|p| p.ready()).count();
        let available = pods.iter().filter(|p| available(p, set.spec.min_ready_seconds)).count();
        let options = WriteOptions::by("kube-controller-manager").status();
        self.api.modify(&self.sets.resource, key, &options, &mut |old| {
            let mut new = old.clone();
            let mut status = json!({"replicas": pods.len(), "observedGeneration": old["metadata"]["generation"]});
            for (name, count) in
                [("fullyLabeledReplicas", pods.len()), ("readyReplicas", ready), ("availableReplicas", available)]
            {
                if count > 0 {
                    status[name] = count.into();
                }
            }
            if let conditions @ Value::Array(_) = &old["status"]["conditions"] {
                status["conditions"] = conditions.clone();
            }
            new["status"] = status;
            Ok(new)
        })?;
        Ok(())
    }
}
