//! Expands each CiliumBGPClusterConfig into one CiliumBGPNodeConfig per node that it selects, changed by the node's
//! CiliumBGPNodeConfigOverride, and says on the ClusterConfig what is wrong.
//!
//! A node obeys one ClusterConfig. When several select it, the one that has it keeps it; else the oldest gets it. A
//! ClusterConfig or override that cannot be used changes nothing on its nodes: the NodeConfig that is there stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use causeway_k8s::checked::{ClusterConfig, NodeOverride, PeerConfig};
use causeway_k8s::condition::{self, Condition, Desired, Status, Timestamp};
use causeway_k8s::names;
use causeway_k8s::watch::Key;
use causeway_k8s::{
    CiliumBGPClusterConfig, CiliumBGPInstance, CiliumBGPNodeConfig, CiliumBGPNodeConfigOverride,
    CiliumBGPNodeConfigSpec, CiliumBGPNodeInstance, CiliumBGPNodePeer, CiliumBGPPeerConfig, InstanceOverride, Rejected,
};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

const OWNER_KIND: &str = "CiliumBGPClusterConfig";

/// What the watches show.
pub(crate) struct Snapshot<'a> {
    pub(crate) cluster_configs: &'a BTreeMap<Key, Arc<CiliumBGPClusterConfig>>,
    pub(crate) peer_configs: &'a BTreeMap<Key, Arc<CiliumBGPPeerConfig>>,
    pub(crate) overrides: &'a BTreeMap<Key, Arc<CiliumBGPNodeConfigOverride>>,
    pub(crate) node_configs: &'a BTreeMap<Key, Arc<CiliumBGPNodeConfig>>,
    pub(crate) nodes: &'a BTreeMap<Key, Arc<Node>>,
    /// Names of objects that could not be decoded: they exist, and what hangs on them stays as it is.
    pub(crate) undecodable_cluster_configs: BTreeSet<String>,
    pub(crate) undecodable_overrides: BTreeSet<String>,
    pub(crate) undecodable_peer_configs: BTreeSet<String>,
}

/// Everything to do, and what to tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) apply: Vec<CiliumBGPNodeConfig>,
    /// Name and uid, so that only the object seen is deleted.
    pub(crate) delete: Vec<(String, Option<String>)>,
    pub(crate) statuses: Vec<ConfigStatus>,
    pub(crate) peer_statuses: Vec<ConfigStatus>,
    pub(crate) rejected: Vec<Rejected>,
}

/// Status of a ClusterConfig or a PeerConfig, complete.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ConfigStatus {
    pub(crate) name: String,
    pub(crate) resource_version: Option<String>,
    pub(crate) conditions: Vec<Condition>,
}

/// Decides and compares with what stands there.
pub(crate) fn plan(snapshot: &Snapshot<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut usable: Vec<(&CiliumBGPClusterConfig, ClusterConfig)> = Vec::new();
    let mut faults: BTreeMap<String, Rejected> = BTreeMap::new();
    for object in snapshot.cluster_configs.values() {
        match ClusterConfig::try_from(&**object) {
            Ok(checked) => usable.push((object, checked)),
            Err(fault) => _ = faults.insert(object.name_any(), fault),
        }
    }
    usable.sort_by_key(|(object, checked)| (object.creation_timestamp().map(|time| time.0), checked.name.clone()));
    let bad_overrides = bad_overrides(snapshot, &mut plan.rejected);

    let mut selected: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rivals: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for (key, node) in snapshot.nodes {
        let selecting: Vec<&(&CiliumBGPClusterConfig, ClusterConfig)> =
            usable.iter().filter(|(_, checked)| checked.node_selector.matches(node.labels())).collect();
        for (_, checked) in &selecting {
            *selected.entry(&checked.name).or_default() += 1;
            let others = selecting.iter().map(|(_, other)| other.name.as_str()).filter(|other| *other != checked.name);
            rivals.entry(&checked.name).or_default().extend(others);
        }
        let existing = snapshot.node_configs.get(&Key::new("", &*key.name)).map(|config| &**config);
        let holder = existing.and_then(owner);
        let kept_by_unusable =
            holder.is_some_and(|name| faults.contains_key(name) || snapshot.undecodable_cluster_configs.contains(name));
        if kept_by_unusable || (existing.is_some() && !selecting.is_empty() && bad_overrides.contains(&key.name)) {
            wanted.insert(key.name.clone());
            continue;
        }
        let keeps = selecting.iter().find(|(object, _)| Some(object.name_any().as_str()) == holder);
        let Some((config, _)) = keeps.or(selecting.first()) else { continue };
        wanted.insert(key.name.clone());
        if bad_overrides.contains(&key.name) {
            continue;
        }
        let change = snapshot.overrides.get(&Key::new("", &*key.name)).map(|object| &**object);
        let desired = node_config(&key.name, config, change);
        if existing.is_none_or(|existing| differs(existing, &desired)) {
            plan.apply.push(desired);
        }
    }
    for (key, config) in snapshot.node_configs {
        if !wanted.contains(&key.name) && owner(config).is_some() {
            plan.delete.push((key.name.clone(), config.uid()));
        }
    }
    for object in snapshot.cluster_configs.values() {
        let name = object.name_any();
        let verdict = Verdict {
            fault: faults.get(&name),
            nodes: selected.get(name.as_str()).copied().unwrap_or(0),
            rivals: rivals.get(name.as_str()).cloned().unwrap_or_default(),
            missing: missing_peer_configs(object, snapshot),
        };
        plan.statuses.extend(status(object, &verdict, now));
    }
    plan.rejected.extend(faults.into_values());
    for object in snapshot.peer_configs.values() {
        let fault = PeerConfig::try_from(&**object).err();
        plan.peer_statuses.extend(peer_status(object, fault.as_ref(), now));
        plan.rejected.extend(fault);
    }
    plan
}

/// Agents refuse a PeerConfig that cannot be used, each in its own log; here it is said once, on the object.
fn peer_status(object: &CiliumBGPPeerConfig, fault: Option<&Rejected>, now: Timestamp) -> Option<ConfigStatus> {
    let mut conditions = object.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let generation = object.metadata.generation;
    set_rejected(&mut conditions, fault, generation, now).then(|| ConfigStatus {
        name: object.name_any(),
        resource_version: object.resource_version(),
        conditions,
    })
}

/// Puts `fault` into the conditions, or takes an old one out; says whether that changed anything.
fn set_rejected(
    conditions: &mut Vec<Condition>,
    fault: Option<&Rejected>,
    generation: Option<i64>,
    now: Timestamp,
) -> bool {
    let Some(fault) = fault else { return condition::remove(conditions, names::CONDITION_REJECTED) };
    let message = format!("{}: {}; {}", fault.field, fault.message, fault.remedy);
    let desired =
        Desired { type_: names::CONDITION_REJECTED, status: Status::True, reason: "InvalidField", message: &message };
    condition::set(conditions, &desired, generation, now)
}

/// Names of nodes whose override cannot be used.
fn bad_overrides(snapshot: &Snapshot<'_>, rejected: &mut Vec<Rejected>) -> BTreeSet<String> {
    let mut bad = snapshot.undecodable_overrides.clone();
    for object in snapshot.overrides.values() {
        if let Err(fault) = NodeOverride::try_from(&**object) {
            bad.insert(object.name_any());
            rejected.push(fault);
        }
    }
    bad
}

/// Name of the ClusterConfig that a NodeConfig was made from; None when it was not made by an operator.
fn owner(config: &CiliumBGPNodeConfig) -> Option<&str> {
    let owners = config.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.kind == OWNER_KIND).map(|owner| owner.name.as_str())
}

fn differs(existing: &CiliumBGPNodeConfig, desired: &CiliumBGPNodeConfig) -> bool {
    existing.spec != desired.spec || existing.metadata.owner_references != desired.metadata.owner_references
}

fn node_config(
    node: &str,
    config: &CiliumBGPClusterConfig,
    change: Option<&CiliumBGPNodeConfigOverride>,
) -> CiliumBGPNodeConfig {
    let instances = config.spec.bgp_instances.iter().map(|instance| {
        let change = change.and_then(|c| c.spec.bgp_instances.iter().find(|c| c.name == instance.name));
        node_instance(instance, change)
    });
    let mut object = CiliumBGPNodeConfig::new(node, CiliumBGPNodeConfigSpec { bgp_instances: instances.collect() });
    object.metadata.owner_references = Some(vec![OwnerReference {
        api_version: CiliumBGPClusterConfig::api_version(&()).into_owned(),
        kind: OWNER_KIND.to_owned(),
        name: config.name_any(),
        uid: config.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    object
}

/// The router ID stays empty unless the override gives one: the agent then takes its node's IPv4 address (Cilium's
/// router ID allocation mode `default`).
fn node_instance(instance: &CiliumBGPInstance, change: Option<&InstanceOverride>) -> CiliumBGPNodeInstance {
    let peers = instance.peers.iter().map(|peer| {
        let change = change.and_then(|change| change.peers.iter().find(|change| change.name == peer.name));
        CiliumBGPNodePeer {
            name: peer.name.clone(),
            peer_address: peer.peer_address.clone(),
            peer_asn: Some(peer.peer_asn),
            auto_discovery: peer.auto_discovery.clone(),
            local_address: change.and_then(|change| change.local_address.clone()),
            peer_config_ref: peer.peer_config_ref.clone(),
        }
    });
    CiliumBGPNodeInstance {
        name: instance.name.clone(),
        local_asn: change.and_then(|change| change.local_asn).or(instance.local_asn),
        router_id: change.and_then(|change| change.router_id.clone()),
        local_port: change.and_then(|change| change.local_port).or(instance.local_port),
        peers: peers.collect(),
    }
}

fn missing_peer_configs(object: &CiliumBGPClusterConfig, snapshot: &Snapshot<'_>) -> BTreeSet<String> {
    let peers = object.spec.bgp_instances.iter().flat_map(|instance| &instance.peers);
    let names = peers.filter_map(|peer| peer.peer_config_ref.as_ref()).map(|reference| &reference.name);
    names
        .filter(|name| {
            !snapshot.peer_configs.contains_key(&Key::new("", name.as_str()))
                && !snapshot.undecodable_peer_configs.contains(*name)
        })
        .cloned()
        .collect()
}

/// What is to be said on a ClusterConfig.
struct Verdict<'a> {
    fault: Option<&'a Rejected>,
    nodes: usize,
    rivals: BTreeSet<&'a str>,
    missing: BTreeSet<String>,
}

fn status(object: &CiliumBGPClusterConfig, verdict: &Verdict<'_>, now: Timestamp) -> Option<ConfigStatus> {
    let mut conditions = object.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let mut changed = false;
    let mut set = |type_: &str, bad: bool, reasons: (&str, &str), message: String| {
        let (status, reason, message) =
            if bad { (Status::True, reasons.0, message) } else { (Status::False, reasons.1, String::new()) };
        let desired = Desired { type_, status, reason, message: &message };
        changed |= condition::set(&mut conditions, &desired, object.metadata.generation, now);
    };
    set(
        names::CONDITION_NO_MATCHING_NODE,
        verdict.fault.is_none() && verdict.nodes == 0,
        ("NoNodeSelected", "NodeSelected"),
        "nodeSelector matches no node; compare it with `kubectl get nodes --show-labels`".to_owned(),
    );
    set(
        names::CONDITION_MISSING_PEER_CONFIGS,
        !verdict.missing.is_empty(),
        ("PeerConfigsMissing", "PeerConfigsFound"),
        format!("create the CiliumBGPPeerConfigs {}", joined(&verdict.missing)),
    );
    set(
        names::CONDITION_CONFLICTING_CLUSTER_CONFIG,
        !verdict.rivals.is_empty(),
        ("NodesSelectedTwice", "NodesSelectedOnce"),
        format!("{} select some of the same nodes; make the nodeSelectors disjoint", joined(&verdict.rivals)),
    );
    changed |= set_rejected(&mut conditions, verdict.fault, object.metadata.generation, now);
    changed.then(|| ConfigStatus { name: object.name_any(), resource_version: object.resource_version(), conditions })
}

fn joined<S: AsRef<str>>(names: &BTreeSet<S>) -> String {
    names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
