//! Small clusters in, NodeConfigs and conditions out.

use serde::de::DeserializeOwned;

use super::*;

#[derive(Default)]
struct Cluster {
    cluster_configs: BTreeMap<Key, Arc<CiliumBGPClusterConfig>>,
    peer_configs: BTreeMap<Key, Arc<CiliumBGPPeerConfig>>,
    overrides: BTreeMap<Key, Arc<CiliumBGPNodeConfigOverride>>,
    node_configs: BTreeMap<Key, Arc<CiliumBGPNodeConfig>>,
    nodes: BTreeMap<Key, Arc<Node>>,
}

fn parse<K: Resource<DynamicType = ()> + DeserializeOwned>(yaml: &str) -> (Key, Arc<K>) {
    let text = format!("apiVersion: {}\nkind: {}\n{yaml}", K::api_version(&()), K::kind(&()));
    let value: serde_json::Value = serde_yaml_ng::from_str(&text).unwrap();
    let object: K = serde_json::from_value(value).unwrap_or_else(|error| panic!("{error}: {text}"));
    (Key::of(&object), Arc::new(object))
}

impl Cluster {
    /// Nodes n1 and n2 in rack r1, n3 in rack r2, and the peer configuration `tor`.
    fn new() -> Cluster {
        let nodes = [("n1", "r1"), ("n2", "r1"), ("n3", "r2")];
        Cluster {
            nodes: nodes
                .iter()
                .map(|(name, rack)| parse(&format!("metadata: {{name: {name}, labels: {{rack: {rack}}}}}")))
                .collect(),
            peer_configs: BTreeMap::from([parse("metadata: {name: tor}\nspec: {}")]),
            ..Cluster::default()
        }
    }

    fn config(mut self, name: &str, day: u32, spec: &str) -> Cluster {
        let meta = format!("{{name: {name}, uid: uid-{name}, creationTimestamp: '2026-01-{day:02}T00:00:00Z'}}");
        let (key, object) = parse(&format!("metadata: {meta}\nspec: {spec}"));
        self.cluster_configs.insert(key, object);
        self
    }

    fn change(mut self, node: &str, spec: &str) -> Cluster {
        let (key, object) = parse(&format!("metadata: {{name: {node}}}\nspec: {spec}"));
        self.overrides.insert(key, object);
        self
    }

    fn plan(&self) -> Plan {
        let snapshot = Snapshot {
            cluster_configs: &self.cluster_configs,
            peer_configs: &self.peer_configs,
            overrides: &self.overrides,
            node_configs: &self.node_configs,
            nodes: &self.nodes,
            undecodable_cluster_configs: BTreeSet::new(),
            undecodable_overrides: BTreeSet::new(),
            undecodable_peer_configs: BTreeSet::new(),
        };
        plan(&snapshot, Timestamp::UNIX_EPOCH)
    }

    /// Carries the plan out, as the API server would.
    fn settle(mut self) -> Cluster {
        let plan = self.plan();
        for object in plan.apply {
            self.node_configs.insert(Key::of(&object), Arc::new(object));
        }
        for (name, _) in plan.delete {
            self.node_configs.remove(&Key::new("", name));
        }
        for status in plan.statuses {
            let object = self.cluster_configs.get_mut(&Key::new("", &*status.name)).unwrap();
            Arc::make_mut(object).status.get_or_insert_default().conditions = status.conditions;
        }
        self
    }

    fn owners(&self) -> Vec<String> {
        let owner_of = |config: &Arc<CiliumBGPNodeConfig>| owner(config).unwrap_or_default().to_owned();
        self.node_configs.iter().map(|(key, config)| format!("{}<-{}", key.name, owner_of(config))).collect()
    }

    fn condition(&self, config: &str, type_: &str) -> (String, String) {
        let conditions = &self.cluster_configs[&Key::new("", config)].status.as_ref().unwrap().conditions;
        let condition = condition::find(conditions, type_).unwrap();
        (condition.status.clone(), condition.message.clone())
    }
}

const PEER: &str = "{name: p, peerAddress: 172.16.1.1, peerASN: 65101, peerConfigRef: {name: tor}}";

fn spec(selector: &str) -> String {
    format!("{{nodeSelector: {selector}, bgpInstances: [{{name: i, localASN: 65010, peers: [{PEER}]}}]}}")
}

#[test]
fn each_selected_node_gets_a_config_and_then_all_rests() {
    let cluster = Cluster::new().config("rack1", 1, &spec("{matchLabels: {rack: r1}}")).settle();
    assert_eq!(cluster.owners(), ["n1<-rack1", "n2<-rack1"]);
    let instance = &cluster.node_configs[&Key::new("", "n1")].spec.bgp_instances[0];
    assert_eq!((instance.local_asn, instance.local_port, instance.router_id.as_ref()), (Some(65010), None, None));
    assert_eq!(instance.peers[0].peer_address.as_deref(), Some("172.16.1.1"));
    assert_eq!(instance.peers[0].peer_asn, Some(65101));
    for type_ in [
        names::CONDITION_NO_MATCHING_NODE,
        names::CONDITION_MISSING_PEER_CONFIGS,
        names::CONDITION_CONFLICTING_CLUSTER_CONFIG,
    ] {
        assert_eq!(cluster.condition("rack1", type_).0, "False", "{type_}");
    }
    let again = cluster.plan();
    assert!(again.apply.is_empty() && again.delete.is_empty() && again.statuses.is_empty(), "{again:?}");
}

#[test]
fn an_absent_or_empty_selector_selects_every_node() {
    for selector in ["null", "{}"] {
        assert_eq!(Cluster::new().config("all", 1, &spec(selector)).settle().node_configs.len(), 3, "{selector}");
    }
}

#[test]
fn configs_of_nodes_that_are_gone_or_unselected_are_deleted() {
    let mut cluster = Cluster::new().config("all", 1, &spec("{}")).settle();
    cluster.nodes.remove(&Key::new("", "n3"));
    let mut n1 = (*cluster.nodes[&Key::new("", "n1")]).clone();
    n1.labels_mut().insert("rack".into(), "r9".into());
    cluster.nodes.insert(Key::new("", "n1"), Arc::new(n1));
    let cluster = cluster.config("all", 1, &spec("{matchExpressions: [{key: rack, operator: NotIn, values: [r9]}]}"));
    assert_eq!(cluster.settle().owners(), ["n2<-all"]);
}

#[test]
fn a_config_that_no_operator_made_is_not_deleted() {
    let mut cluster = Cluster::new();
    let (key, foreign) = parse("metadata: {name: n9}\nspec: {bgpInstances: [{name: i}]}");
    cluster.node_configs.insert(key, foreign);
    assert!(cluster.plan().delete.is_empty());
}

#[test]
fn an_override_changes_its_node_only() {
    let change = "{bgpInstances: [{name: i, routerID: 10.9.9.9, localPort: 179, localASN: 65020, peers: [{name: p, localAddress: 10.0.0.11}]}, {name: other}]}";
    let cluster = Cluster::new().config("all", 1, &spec("{}")).change("n1", change).settle();
    let instance = |node: &str| cluster.node_configs[&Key::new("", node)].spec.bgp_instances[0].clone();
    let n1 = instance("n1");
    assert_eq!((n1.local_asn, n1.local_port, n1.router_id.as_deref()), (Some(65020), Some(179), Some("10.9.9.9")));
    assert_eq!(n1.peers[0].local_address.as_deref(), Some("10.0.0.11"));
    assert_eq!(instance("n2").router_id, None);
}

#[test]
fn a_bad_override_freezes_its_node_and_no_other() {
    let cluster = Cluster::new().config("all", 1, &spec("{}")).settle();
    let cluster = cluster.change("n1", "{bgpInstances: [{name: i, routerID: nonsense}]}");
    let cluster = cluster.config("all", 1, &spec("{}").replace("65010", "65011"));
    let plan = cluster.plan();
    assert_eq!(plan.rejected[0].object, "n1");
    assert_eq!(plan.apply.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["n2", "n3"]);
    assert!(plan.delete.is_empty());
}

#[test]
fn a_config_that_turns_bad_keeps_its_nodes() {
    let cluster = Cluster::new().config("all", 1, &spec("{}")).settle();
    let cluster = cluster.config("all", 1, &spec("{}").replace("172.16.1.1", "nowhere"));
    let plan = cluster.plan();
    assert!(plan.apply.is_empty() && plan.delete.is_empty(), "{plan:?}");
    assert_eq!(plan.rejected[0].field, "spec.bgpInstances[0].peers[0].peerAddress");
    let cluster = cluster.settle();
    assert_eq!(cluster.condition("all", names::CONDITION_REJECTED).0, "True");
    let cluster = cluster.config("all", 1, &spec("{}")).settle();
    let conditions = &cluster.cluster_configs[&Key::new("", "all")].status.as_ref().unwrap().conditions;
    assert_eq!(condition::find(conditions, names::CONDITION_REJECTED), None);
}

#[test]
fn of_two_that_select_a_node_the_holder_keeps_it_then_the_oldest_gets_it() {
    let young = Cluster::new().config("young", 5, &spec("{}")).settle();
    let both = young.config("old", 1, &spec("{matchLabels: {rack: r2}}")).settle();
    assert_eq!(both.owners(), ["n1<-young", "n2<-young", "n3<-young"]);
    assert_eq!(both.condition("old", names::CONDITION_CONFLICTING_CLUSTER_CONFIG).0, "True");
    let (status, message) = both.condition("young", names::CONDITION_CONFLICTING_CLUSTER_CONFIG);
    assert_eq!(status, "True");
    assert!(message.starts_with("old "), "{message}");
    let fresh = Cluster::new().config("young", 5, &spec("{}")).config("old", 1, &spec("{matchLabels: {rack: r2}}"));
    assert_eq!(fresh.settle().owners(), ["n1<-young", "n2<-young", "n3<-old"]);
}

#[test]
fn conditions_tell_of_no_node_and_of_missing_peer_configs() {
    let mut cluster = Cluster::new().config("none", 1, &spec("{matchLabels: {rack: r7}}"));
    cluster.peer_configs.clear();
    let cluster = cluster.settle();
    assert_eq!(cluster.condition("none", names::CONDITION_NO_MATCHING_NODE).0, "True");
    let (status, message) = cluster.condition("none", names::CONDITION_MISSING_PEER_CONFIGS);
    assert_eq!((status.as_str(), message.contains("tor")), ("True", true));
}

#[test]
fn a_bad_peer_config_is_told_on_the_object() {
    let mut cluster = Cluster::new();
    let (key, bad) = parse("metadata: {name: tor}\nspec: {timers: {holdTimeSeconds: 9, keepAliveTimeSeconds: 10}}");
    cluster.peer_configs.insert(key, bad);
    let plan = cluster.plan();
    assert_eq!(plan.rejected[0].kind, "CiliumBGPPeerConfig");
    assert!(plan.peer_statuses[0].conditions[0].message.contains("spec.timers.keepAliveTimeSeconds"));
    assert!(Cluster::new().plan().peer_statuses.is_empty());
}
