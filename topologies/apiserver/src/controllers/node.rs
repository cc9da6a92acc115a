//! Node lifecycle: a node whose Lease grows old is not ready, nor are its pods; its taints follow.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::events::{Note, record};
use super::feed::Feed;
use super::views::{Condition, Lease, Node, Pod, Taint};
use super::{log_failure, set_condition};
use crate::api::{Api, DeleteOptions, WriteOptions};
use crate::status::ApiResult;
use crate::store::Key;

/// How often Leases are looked at.
const TICK: Duration = Duration::from_millis(500);
const MANAGER: &str = "kube-controller-manager";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

struct Controller {
    api: Arc<Api>,
    nodes: Feed<Node>,
    leases: Feed<Lease>,
    pods: Feed<Pod>,
    grace_s: i64,
}

pub(super) async fn run(api: Arc<Api>, grace_s: u64) {
    let mut controller = Controller {
        nodes: Feed::new(&api, "", "nodes"),
        leases: Feed::new(&api, "coordination.k8s.io", "leases"),
        pods: Feed::new(&api, "", "pods"),
        grace_s: i64::try_from(grace_s).unwrap_or(i64::MAX),
        api,
    };
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = controller.nodes.changed() => {}
        }
        controller.nodes.pull();
        controller.leases.pull();
        controller.pods.pull();
        let nodes: Vec<(Key, Arc<Node>)> = controller.nodes.iter().map(|(k, n)| (k.clone(), n.clone())).collect();
        for (key, node) in nodes {
            let result = controller.reconcile(&key, &node);
            log_failure("node", &key, result);
        }
    }
}

fn seconds(time: Option<&str>) -> Option<i64> {
    Some(time?.parse::<Timestamp>().ok()?.as_second())
}

fn ready_condition(node: &Node) -> Option<&Condition> {
    node.status.conditions.iter().find(|c| c.r#type == "Ready")
}

impl Controller {
    fn reconcile(&self, key: &Key, node: &Node) -> ApiResult<()> {
        let now = Timestamp::now().as_second();
        let lease = self.leases.get(&Key::new("kube-node-lease", &key.name));
        let renewed = lease.and_then(|l| seconds(l.spec.renew_time.as_deref()));
        let seen = renewed.or_else(|| seconds(Some(&node.metadata.creation_timestamp)));
        let stale = seen.is_some_and(|seen| now - seen > self.grace_s);
        let ready = ready_condition(node).map(|c| c.status.clone());
        if stale && ready.as_deref() != Some("Unknown") {
            self.mark_unknown(key)?;
            return Ok(());
        }
        self.taint(key, node, ready.as_deref())?;
        if ready.as_deref().is_some_and(|r| r != "True") {
            self.mark_pods(key)?;
            self.evict(key, node, now)?;
        }
        Ok(())
    }

    fn mark_unknown(&self, key: &Key) -> ApiResult<()> {
        let written = self.api.modify(&self.nodes.resource, key, &WriteOptions::by(MANAGER).status(), &mut |old| {
            let mut new = old.clone();
            let condition = json!({"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.", "lastTransitionTime": crate::apply::now()});
            set_condition(&mut new["status"], condition);
            Ok(new)
        })?;
        let message = format!("Node {} status is now: NodeNotReady", key.name);
        record(
            &self.api,
            &written.value,
            &Note { component: "node-controller", kind: "Normal", reason: "NodeNotReady", message: &message },
        );
        Ok(())
    }

    /// The taints that are ours, as the node's state asks for.
    fn taint(&self, key: &Key, node: &Node, ready: Option<&str>) -> ApiResult<()> {
        let mut wanted: Vec<(&str, &str)> = Vec::new();
        match ready {
            Some("True") => {}
            Some("Unknown") => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
            _ => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        }
        if node.spec.unschedulable {
            wanted.push((UNSCHEDULABLE, "NoSchedule"));
        }
        let ours = |taint: &Taint| matches!(taint.key.as_str(), UNREACHABLE | NOT_READY | UNSCHEDULABLE);
        let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
        let present = |key: &str, effect: &str| node.spec.taints.iter().any(|t| t.key == key && t.effect == effect);
        let settled =
            node.spec.taints.iter().all(|t| !ours(t) || is_wanted(t)) && wanted.iter().all(|(k, e)| present(k, e));
        if settled {
            return Ok(());
        }
        self.api.modify(&self.nodes.resource, key, &WriteOptions::by(MANAGER), &mut |old| {
            let mut new = old.clone();
            let mut taints = old["spec"]["taints"].as_array().cloned().unwrap_or_default();
            let view = |taint: &Value| serde_json::from_value::<Taint>(taint.clone()).unwrap_or_default();
            taints.retain(|t| !ours(&view(t)) || is_wanted(&view(t)));
            for (key, effect) in &wanted {
                if !taints.iter().any(|t| t["key"] == *key && t["effect"] == *effect) {
                    let mut taint = json!({"key": key, "effect": effect});
                    if *effect == "NoExecute" {
                        taint["timeAdded"] = crate::apply::now().into();
                    }
                    taints.push(taint);
                }
            }
            new["spec"]["taints"] = taints.into();
            Ok(new)
        })?;
        Ok(())
    }

    fn pods_of(&self, key: &Key) -> Vec<(Key, Arc<Pod>)> {
        self.pods.iter().filter(|(_, p)| p.spec.node_name == key.name).map(|(k, p)| (k.clone(), p.clone())).collect()
    }

    /// Nobody can say whether these pods still serve.
    fn mark_pods(&self, node: &Key) -> ApiResult<()> {
        for (key, _) in self.pods_of(node).iter().filter(|(_, p)| p.ready()) {
            self.api.modify(&self.pods.resource, key, &WriteOptions::by(MANAGER).status(), &mut |old| {
                let mut new = old.clone();
                let condition = json!({"type": "Ready", "status": "False", "reason": "NodeNotReady",
                    "lastTransitionTime": crate::apply::now()});
                set_condition(&mut new["status"], condition);
                Ok(new)
            })?;
        }
        Ok(())
    }

    /// Pods go when they have tolerated the taint for as long as they would.
    fn evict(&self, key: &Key, node: &Node, now: i64) -> ApiResult<()> {
        let Some(taint) = node.spec.taints.iter().find(|t| t.effect == "NoExecute" && t.time_added.is_some()) else {
            return Ok(());
        };
        let Some(added) = seconds(taint.time_added.as_deref()) else { return Ok(()) };
        for (pod_key, pod) in self.pods_of(key).iter().filter(|(_, p)| p.active()) {
            let tolerated = pod
                .spec
                .tolerations
                .iter()
                .filter(|t| t.tolerates(taint))
                .map(|t| t.toleration_seconds.unwrap_or(i64::MAX))
                .max();
            if now - added >= tolerated.unwrap_or(0) {
                self.api.delete(&self.pods.resource, pod_key, &DeleteOptions::background())?;
            }
        }
        Ok(())
    }
}
