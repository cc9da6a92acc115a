//! EndpointSlices: where the pods of a Service are, one set of slices per address family.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::feed::Feed;
use super::views::{Any, Node, Pod, Service};
use super::{log_failure, owner_reference};
use crate::api::{Api, DeleteOptions, WriteOptions, random_suffix};
use crate::selector::Labels;
use crate::status::ApiResult;
use crate::store::Key;

/// Endpoints in one slice, as the real controller has it.
const MAX_ENDPOINTS: usize = 100;
const MANAGER: &str = "endpointslice-controller.k8s.io";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// When the first of the changes happened that led to a slice's last write: RFC 3339 with nanoseconds. The real
/// controller takes the times of the pods' conditions, which are whole seconds; this one the time at which it saw them.
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

struct Controller {
    api: Arc<Api>,
    services: Feed<Service>,
    pods: Feed<Pod>,
    nodes: Feed<Node>,
    slices: Feed<Any>,
    /// Our slices by their Service.
    by_service: BTreeMap<Key, BTreeSet<Key>>,
    dirty: BTreeSet<Key>,
    /// Since when a Service waits for its slices, for changes of itself or its pods.
    triggers: BTreeMap<Key, Timestamp>,
}

pub(super) async fn run(api: Arc<Api>) {
    let mut controller = Controller {
        services: Feed::new(&api, "", "services"),
        pods: Feed::new(&api, "", "pods"),
        nodes: Feed::new(&api, "", "nodes"),
        slices: Feed::new(&api, "discovery.k8s.io", "endpointslices"),
        by_service: BTreeMap::new(),
        dirty: BTreeSet::new(),
        triggers: BTreeMap::new(),
        api,
    };
    loop {
        tokio::select! {
            () = controller.services.changed() => {}
            () = controller.pods.changed() => {}
            () = controller.nodes.changed() => {}
            () = controller.slices.changed() => {}
        }
        controller.pull();
        while let Some(key) = controller.dirty.pop_first() {
            let result = controller.reconcile(&key);
            log_failure("endpointslice", &key, result);
            controller.pull();
        }
    }
}

fn selects(service: &Service, labels: &Labels) -> bool {
    !service.spec.selector.is_empty() && service.spec.selector.iter().all(|(k, v)| labels.get(k) == Some(v))
}

/// What of a pod an endpoint shows; other changes wake nobody.
fn shown(pod: &Pod) -> (bool, bool, bool, &str, Vec<&str>, &Labels) {
    (pod.ready(), pod.metadata.deleting(), pod.finished(), &pod.spec.node_name, pod.addresses(), &pod.metadata.labels)
}

impl Controller {
    fn pull(&mut self) {
        let now = Timestamp::now();
        for change in self.services.pull() {
            self.triggers.entry(change.key.clone()).or_insert(now);
            self.dirty.insert(change.key);
        }
        for change in self.pods.pull() {
            if let (Some(before), Some(now)) = (&change.before, &change.now)
                && shown(before) == shown(now)
            {
                continue;
            }
            for pod in [&change.before, &change.now].into_iter().flatten() {
                let matching =
                    self.services.in_namespace(&change.key.namespace).filter(|(_, s)| selects(s, &pod.metadata.labels));
                for (key, _) in matching {
                    self.triggers.entry(key.clone()).or_insert(now);
                    self.dirty.insert(key.clone());
                }
            }
        }
        for change in self.nodes.pull() {
            let zone = |node: &Option<Arc<Node>>| node.as_ref().and_then(|n| n.zone().map(str::to_owned));
            if zone(&change.before) != zone(&change.now) {
                self.dirty.extend(self.services.iter().map(|(key, _)| key.clone()));
            }
        }
        for change in self.slices.pull() {
            let Some(slice) = change.now.as_ref().or(change.before.as_ref()) else { continue };
            let labels = &slice.metadata.labels;
            if labels.get(MANAGED_LABEL).is_none_or(|m| m != MANAGER) {
                continue;
            }
            let Some(service) = labels.get(SERVICE_LABEL) else { continue };
            let service = Key::new(&change.key.namespace, service);
            let known = self.by_service.entry(service.clone()).or_default();
            if change.now.is_some() {
                known.insert(change.key);
            } else {
                known.remove(&change.key);
            }
            self.dirty.insert(service);
        }
    }

    fn reconcile(&mut self, key: &Key) -> ApiResult<()> {
        let trigger = self.triggers.remove(key);
        let existing: Vec<Key> = self.by_service.get(key).into_iter().flatten().cloned().collect();
        let service =
            self.services.get(key).filter(|s| !s.spec.selector.is_empty() && s.spec.r#type != "ExternalName").cloned();
        let Some(service) = service.filter(|s| !s.metadata.deleting()) else {
            for slice in existing {
                self.delete(&slice)?;
            }
            self.by_service.remove(key);
            return Ok(());
        };
        let mut left: Vec<(Key, Value)> = existing
            .into_iter()
            .filter_map(|k| Some((k.clone(), self.api.store.get(&self.slices.resource.table, &k)?.value())))
            .collect();
        for family in &service.spec.ip_families {
            let (mine, others) = left.into_iter().partition(|(_, slice)| slice["addressType"] == family.as_str());
            left = others;
            self.reconcile_family(&service, family, mine, trigger)?;
        }
        for (slice, _) in left {
            self.delete(&slice)?;
        }
        Ok(())
    }

    fn delete(&self, slice: &Key) -> ApiResult<()> {
        match self.api.delete(&self.slices.resource, slice, &DeleteOptions::background()) {
            Err(error) if error.code != 404 => Err(error),
            _ => Ok(()),
        }
    }

    /// Pods are grouped by the ports that their names resolve to, and filled into slices; an existing slice is kept when it
    /// already holds most of what goes into it.
    fn reconcile_family(
        &self,
        service: &Service,
        family: &str,
        mut existing: Vec<(Key, Value)>,
        trigger: Option<Timestamp>,
    ) -> ApiResult<()> {
        let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
        let selected =
            self.pods.in_namespace(&service.metadata.namespace).filter(|(_, p)| selects(service, &p.metadata.labels));
        for (_, pod) in selected {
            if pod.finished() || pod.spec.node_name.is_empty() {
                continue;
            }
            let Some(endpoint) = self.endpoint(service, pod, family) else { continue };
            let ports = ports_of(service, pod);
            match groups.iter_mut().find(|(known, _)| *known == ports) {
                Some((_, endpoints)) => endpoints.push(endpoint),
                None => groups.push((ports, vec![endpoint])),
            }
        }
        if groups.is_empty() {
            groups.push((json!([]), Vec::new()));
        }
        existing.sort_by(|a, b| a.0.cmp(&b.0));
        for (ports, endpoints) in groups {
            for chunk in chunks(endpoints, &ports, &existing) {
                let at = existing
                    .iter()
                    .position(|(_, slice)| slice["ports"] == ports || chunk.is_empty())
                    .or(if existing.is_empty() { None } else { Some(0) });
                match at.map(|at| existing.remove(at)) {
                    Some((key, old)) => {
                        let wanted = Content { ports: &ports, endpoints: &chunk, trigger };
                        self.update(service, &key, &old, &wanted)?;
                    }
                    None => self.create(service, family, &Content { ports: &ports, endpoints: &chunk, trigger })?,
                }
            }
        }
        for (key, _) in existing {
            self.delete(&key)?;
        }
        Ok(())
    }

    fn endpoint(&self, service: &Service, pod: &Pod, family: &str) -> Option<Value> {
        let fits = |ip: &&str| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4() == (family == "IPv4"));
        let address = pod.addresses().into_iter().find(fits)?;
        let terminating = pod.metadata.deleting();
        let serving = pod.ready();
        let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
        let mut endpoint = json!({
            "addresses": [address],
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            "targetRef": {"kind": "Pod", "namespace": pod.metadata.namespace, "name": pod.metadata.name, "uid": pod.metadata.uid},
            "nodeName": pod.spec.node_name,
        });
        if let Some(zone) = self.nodes.get(&Key::new("", &pod.spec.node_name)).and_then(|n| n.zone()) {
            endpoint["zone"] = zone.into();
        }
        if !pod.spec.hostname.is_empty() && pod.spec.subdomain == service.metadata.name {
            endpoint["hostname"] = pod.spec.hostname.clone().into();
        }
        Some(endpoint)
    }

    fn labels(service: &Service) -> Value {
        let mut labels = json!({SERVICE_LABEL: service.metadata.name, MANAGED_LABEL: MANAGER});
        if service.spec.cluster_ip == "None" {
            labels["service.kubernetes.io/headless"] = "".into();
        }
        for (name, value) in
            service.metadata.labels.iter().filter(|(name, _)| *name != SERVICE_LABEL && *name != MANAGED_LABEL)
        {
            labels[name] = value.clone().into();
        }
        labels
    }

    fn create(&self, service: &Service, family: &str, wanted: &Content<'_>) -> ApiResult<()> {
        let mut slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{}", service.metadata.name, random_suffix(5)), "generateName": format!("{}-", service.metadata.name),
                "namespace": service.metadata.namespace, "labels": Self::labels(service),
                "ownerReferences": [owner_reference("v1", "Service", &service.metadata)],
            },
            "addressType": family, "ports": wanted.ports, "endpoints": wanted.endpoints,
        });
        wanted.mark(&mut slice);
        self.api.create(
            &self.slices.resource,
            &service.metadata.namespace,
            slice,
            &WriteOptions::by("kube-controller-manager"),
        )?;
        Ok(())
    }

    fn update(&self, service: &Service, key: &Key, old: &Value, wanted: &Content<'_>) -> ApiResult<()> {
        let labels = Self::labels(service);
        if old["ports"] == *wanted.ports
            && old["endpoints"].as_array().is_some_and(|e| e == wanted.endpoints)
            && old["metadata"]["labels"] == labels
        {
            return Ok(());
        }
        self.api.modify(&self.slices.resource, key, &WriteOptions::by("kube-controller-manager"), &mut |old| {
            let mut new = old.clone();
            new["ports"] = wanted.ports.clone();
            new["endpoints"] = wanted.endpoints.into();
            new["metadata"]["labels"] = labels.clone();
            wanted.mark(&mut new);
            Ok(new)
        })?;
        Ok(())
    }
}

/// What a slice is to hold.
struct Content<'a> {
    ports: &'a Value,
    endpoints: &'a [Value],
    trigger: Option<Timestamp>,
}

impl Content<'_> {
    /// Says what the write answers to; without a trigger, that it answers to none.
    fn mark(&self, slice: &mut Value) {
        let Some(trigger) = self.trigger else {
            if let Some(annotations) = slice["metadata"]["annotations"].as_object_mut() {
                annotations.remove(TRIGGER_ANNOTATION);
            }
            return;
        };
        slice["metadata"]["annotations"][TRIGGER_ANNOTATION] = format!("{trigger:.9}").into();
    }
}

/// The Service's ports as this pod has them; a name that the pod does not know is left out.
fn ports_of(service: &Service, pod: &Pod) -> Value {
    let resolved = service.spec.ports.iter().filter_map(|port| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let number = match &port["targetPort"] {
            Value::String(name) => {
                let mut named = pod.spec.containers.iter().flat_map(|c| &c.ports);
                named.find(|p| p.name == *name && p.protocol == protocol).map(|p| p.container_port)?
            }
            other => other.as_i64().filter(|n| *n != 0).or(port["port"].as_i64())?,
        };
        let mut resolved = json!({"name": port["name"].as_str().unwrap_or(""), "port": number, "protocol": protocol});
        if port["appProtocol"].is_string() {
            resolved["appProtocol"] = port["appProtocol"].clone();
        }
        Some(resolved)
    });
    resolved.collect::<Vec<_>>().into()
}

/// Splits endpoints into slices so that those already together stay together.
fn chunks(mut endpoints: Vec<Value>, ports: &Value, existing: &[(Key, Value)]) -> Vec<Vec<Value>> {
    if endpoints.len() <= MAX_ENDPOINTS {
        return vec![endpoints];
    }
    let mut all: Vec<Vec<Value>> = Vec::new();
    for (_, slice) in existing.iter().filter(|(_, slice)| slice["ports"] == *ports) {
        let held: BTreeSet<&str> = slice["endpoints"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|e| e["targetRef"]["uid"].as_str())
            .collect();
        let (kept, rest): (Vec<Value>, Vec<Value>) =
            endpoints.into_iter().partition(|e| e["targetRef"]["uid"].as_str().is_some_and(|uid| held.contains(uid)));
        endpoints = rest;
        all.push(kept);
    }
    for chunk in &mut all {
        let room = MAX_ENDPOINTS.saturating_sub(chunk.len()).min(endpoints.len());
        chunk.extend(endpoints.drain(..room));
    }
    while !endpoints.is_empty() {
        let rest = endpoints.split_off(endpoints.len().min(MAX_ENDPOINTS));
        all.push(std::mem::replace(&mut endpoints, rest));
    }
    all.retain(|chunk| !chunk.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_says_what_it_answers_to() {
        let mut slice = json!({"metadata": {"annotations": {"kept": "1"}}});
        let trigger = Timestamp::new(1_700_000_000, 120_000_000).ok();
        Content { ports: &json!([]), endpoints: &[], trigger }.mark(&mut slice);
        assert_eq!(slice["metadata"]["annotations"][TRIGGER_ANNOTATION], "2023-11-14T22:13:20.120000000Z");
        Content { ports: &json!([]), endpoints: &[], trigger: None }.mark(&mut slice);
        assert_eq!(slice, json!({"metadata": {"annotations": {"kept": "1"}}}));
    }

    #[test]
    fn big_services_are_split_and_stay_where_they_are() {
        let endpoint = |i: usize| json!({"targetRef": {"uid": format!("u{i}")}});
        let ports = json!([]);
        let first = chunks((0..250).map(endpoint).collect(), &ports, &[]);
        assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100, 50]);
        let existing: Vec<(Key, Value)> = first
            .iter()
            .enumerate()
            .map(|(i, chunk)| (Key::new("d", i.to_string()), json!({"ports": [], "endpoints": chunk})))
            .collect();
        let second = chunks((1..251).map(endpoint).collect(), &ports, &existing);
        assert_eq!(second[1], first[1], "the middle slice is untouched");
        assert_eq!(second.iter().map(Vec::len).sum::<usize>(), 250);
    }
}
