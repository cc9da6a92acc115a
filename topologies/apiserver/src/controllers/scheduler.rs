//! The scheduler: a node for each pod that has none, the one with the fewest pods among those that fit.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};

use super::events::{Note, record};
use super::feed::Feed;
use super::views::{Node, Pod, Taint};
use super::{log_failure, set_condition};
use crate::api::{Api, WriteOptions};
use crate::http::bind_pod;
use crate::selector::LabelSelector;
use crate::status::ApiResult;
use crate::store::Key;

const COMPONENT: &str = "default-scheduler";

struct Scheduler {
    api: Arc<Api>,
    pods: Feed<Pod>,
    nodes: Feed<Node>,
    waiting: BTreeSet<Key>,
    per_node: HashMap<String, usize>,
    /// What was last said of a pod that does not fit, so as not to repeat it.
    said: BTreeMap<Key, String>,
}

pub(super) async fn run(api: Arc<Api>) {
    let mut scheduler = Scheduler {
        pods: Feed::new(&api, "", "pods"),
        nodes: Feed::new(&api, "", "nodes"),
        waiting: BTreeSet::new(),
        per_node: HashMap::new(),
        said: BTreeMap::new(),
        api,
    };
    loop {
        tokio::select! {
            () = scheduler.pods.changed() => {}
            () = scheduler.nodes.changed() => {}
        }
        scheduler.pull();
        for key in scheduler.waiting.clone() {
            let result = scheduler.schedule(&key);
            log_failure("scheduler", &key, result);
            scheduler.pull();
        }
    }
}

fn placed(pod: &Pod) -> Option<&str> {
    Some(pod.spec.node_name.as_str()).filter(|node| !node.is_empty() && !pod.finished())
}

fn wants_placing(pod: &Pod) -> bool {
    pod.spec.node_name.is_empty() && pod.active() && pod.spec.scheduler_name == COMPONENT
}

impl Scheduler {
    fn pull(&mut self) {
        self.nodes.pull();
        for change in self.pods.pull() {
            if let Some(node) = change.before.as_deref().and_then(placed)
                && let Some(count) = self.per_node.get_mut(node)
            {
                *count = count.saturating_sub(1);
            }
            if let Some(node) = change.now.as_deref().and_then(placed) {
                *self.per_node.entry(node.to_owned()).or_default() += 1;
            }
            if change.now.as_deref().is_some_and(wants_placing) {
                self.waiting.insert(change.key);
            } else {
                self.waiting.remove(&change.key);
                self.said.remove(&change.key);
            }
        }
    }

    fn schedule(&mut self, key: &Key) -> ApiResult<()> {
        let Some(pod) = self.pods.get(key).filter(|p| wants_placing(p)).cloned() else { return Ok(()) };
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        let mut best: Option<(usize, &str)> = None;
        for (_, node) in self.nodes.iter() {
            match self.misfit(&pod, node) {
                Some(reason) => *reasons.entry(reason).or_default() += 1,
                None => {
                    let load = self.per_node.get(&node.metadata.name).copied().unwrap_or(0);
                    if best.is_none_or(|(least, _)| load < least) {
                        best = Some((load, &node.metadata.name));
                    }
                }
            }
        }
        match best {
            Some((_, node)) => {
                let node = node.to_owned();
                bind_pod(&self.api, &self.pods.resource, key, &node, &WriteOptions::by("kube-scheduler"))?;
                let message = format!("Successfully assigned {}/{} to {node}", key.namespace, key.name);
                self.say(key, "Normal", "Scheduled", &message);
                Ok(())
            }
            None => self.refuse(key, &reasons),
        }
    }

    fn say(&self, key: &Key, kind: &str, reason: &str, message: &str) {
        if let Some(pod) = self.api.store.get(&self.pods.resource.table, key) {
            record(&self.api, &pod.value(), &Note { component: COMPONENT, kind, reason, message });
        }
    }

    fn refuse(&mut self, key: &Key, reasons: &BTreeMap<&str, usize>) -> ApiResult<()> {
        let all = self.nodes.iter().count();
        let parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let message = match parts.as_slice() {
            [] => "no nodes available to schedule pods".to_owned(),
            parts => format!("0/{all} nodes are available: {}.", parts.join(", ")),
        };
        if self.said.get(key) == Some(&message) {
            return Ok(());
        }
        self.said.insert(key.clone(), message.clone());
        self.say(key, "Warning", "FailedScheduling", &message);
        self.api.modify(&self.pods.resource, key, &WriteOptions::by("kube-scheduler").status(), &mut |old| {
            let mut new = old.clone();
            let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
                "lastTransitionTime": crate::apply::now()});
            set_condition(&mut new["status"], condition);
            Ok(new)
        })?;
        Ok(())
    }

    /// Why a node cannot take the pod.
    fn misfit(&self, pod: &Pod, node: &Node) -> Option<&'static str> {
        if node.metadata.deleting() {
            return Some("node(s) were being deleted");
        }
        if node.spec.unschedulable && !pod.spec.tolerations.iter().any(|t| t.tolerates(&cordon())) {
            return Some("node(s) were unschedulable");
        }
        if !node.ready() {
            return Some("node(s) were not ready");
        }
        let blocks = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
        if node.spec.taints.iter().filter(blocks).any(|taint| !pod.spec.tolerations.iter().any(|t| t.tolerates(taint)))
        {
            return Some("node(s) had untolerated taint(s)");
        }
        let labels = &node.metadata.labels;
        let selected = pod.spec.node_selector.iter().all(|(k, v)| labels.get(k) == Some(v));
        if !selected || !node_affinity(&pod.spec.affinity, node) {
            return Some("node(s) didn't match Pod's node affinity/selector");
        }
        if !self.anti_affinity(pod, node) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        if !self.spread(pod, node) {
            return Some("node(s) didn't match pod topology spread constraints");
        }
        None
    }

    /// Pods of the namespace, by whether they are in the node's domain of a topology.
    fn others<'a>(
        &'a self,
        pod: &'a Pod,
        selector: &'a LabelSelector,
    ) -> impl Iterator<Item = (&'a Pod, Option<&'a Node>)> {
        self.pods
            .in_namespace(&pod.metadata.namespace)
            .filter(move |(_, other)| {
                other.active() && !other.spec.node_name.is_empty() && selector.matches(&other.metadata.labels)
            })
            .map(|(_, other)| (other.as_ref(), self.nodes.get(&Key::new("", &other.spec.node_name)).map(Arc::as_ref)))
    }

    fn anti_affinity(&self, pod: &Pod, node: &Node) -> bool {
        let terms = &pod.spec.affinity["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        terms.as_array().into_iter().flatten().all(|term| {
            let Some(selector) = LabelSelector::from_object(&term["labelSelector"]) else { return true };
            let topology = term["topologyKey"].as_str().unwrap_or_default();
            let domain = domain(node, topology);
            !self
                .others(pod, &selector)
                .any(|(_, home)| home.is_some_and(|h| domain.is_some() && self::domain(h, topology) == domain))
        })
    }

    fn spread(&self, pod: &Pod, node: &Node) -> bool {
        let hard = pod.spec.topology_spread_constraints.iter().filter(|c| c["whenUnsatisfiable"] == "DoNotSchedule");
        hard.into_iter().all(|constraint| {
            let topology = constraint["topologyKey"].as_str().unwrap_or_default();
            let (Some(selector), Some(domain)) =
                (LabelSelector::from_object(&constraint["labelSelector"]), domain(node, topology))
            else {
                return false;
            };
            let mut counts: BTreeMap<&str, i64> =
                self.nodes.iter().filter_map(|(_, n)| Some((self::domain(n, topology)?, 0))).collect();
            for home in self.others(pod, &selector).filter_map(|(_, home)| home) {
                if let Some(count) = self::domain(home, topology).and_then(|d| counts.get_mut(d)) {
                    *count += 1;
                }
            }
            let least = counts.values().min().copied().unwrap_or(0);
            counts.get(domain).copied().unwrap_or(0) + 1 - least <= constraint["maxSkew"].as_i64().unwrap_or(1)
        })
    }
}

fn domain<'a>(node: &'a Node, topology: &str) -> Option<&'a str> {
    node.metadata.labels.get(topology).map(String::as_str)
}

fn cordon() -> Taint {
    Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() }
}

fn node_affinity(affinity: &Value, node: &Node) -> bool {
    let required = &affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    let Some(terms) = required.as_array() else { return true };
    terms.iter().any(|term| {
        let labels = LabelSelector::from_expressions(&term["matchExpressions"])
            .is_some_and(|s| s.matches(&node.metadata.labels));
        let fields = term["matchFields"].as_array().into_iter().flatten().all(|field| {
            let named = field["values"].as_array().into_iter().flatten().any(|v| *v == node.metadata.name.as_str());
            field["key"] == "metadata.name" && (field["operator"] == "In") == named
        });
        labels && fields
    })
}
