//! The exports of all clusters as one Service: ports are the union, IP families what all have in common, and everything
//! else is as the oldest export says (KEP-1645, "Constraints and Conflict Resolution"). Where they disagree, all exporting
//! clusters say the same of it.

use std::cmp::Ordering;

use causeway_k8s::condition::Timestamp;
use causeway_mesh_schema::{ExportPort, ServiceExportSpec};
use serde_json::Value;

pub(super) struct Merged<'a> {
    pub(super) oldest: &'a ServiceExportSpec,
    pub(super) ports: Vec<&'a ExportPort>,
    /// `None` when no export says.
    pub(super) families: Option<Vec<&'a str>>,
    /// Of all exports, oldest first.
    pub(super) clusters: Vec<&'a str>,
    pub(super) conflict: Option<Conflict>,
}

/// The gravest disagreement.
pub(super) struct Conflict {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// `None` when there is no export.
pub(super) fn merge<'a>(exports: impl Iterator<Item = &'a ServiceExportSpec>) -> Option<Merged<'a>> {
    let mut exports: Vec<_> = exports.collect();
    exports.sort_by(|a, b| by_age(a, b));
    let oldest = *exports.first()?;
    let (ports, port_conflict) = union(&exports);
    let (families, family_conflict) = common_families(&exports);
    let conflict = port_conflict.or(family_conflict).or_else(|| disagreement(&exports));
    let clusters = exports.iter().map(|export| export.cluster.as_str()).collect();
    Some(Merged { oldest, ports, families, clusters, conflict })
}

/// Oldest first; those of one age by the names of their clusters, and those without an age last.
fn by_age(a: &ServiceExportSpec, b: &ServiceExportSpec) -> Ordering {
    let age = |export: &ServiceExportSpec| export.export_creation_timestamp.parse().unwrap_or(Timestamp::MAX);
    age(a).cmp(&age(b)).then_with(|| a.cluster.cmp(&b.cluster))
}

pub(super) fn protocol(port: &ExportPort) -> &str {
    if port.protocol.is_empty() { "TCP" } else { &port.protocol }
}

fn same_port(a: &ExportPort, b: &ExportPort) -> bool {
    a.port == b.port && protocol(a) == protocol(b)
}

/// A port that clashes with an older one, by name or by number, does not get in.
fn union<'a>(exports: &[&'a ServiceExportSpec]) -> (Vec<&'a ExportPort>, Option<Conflict>) {
    let mut ports: Vec<(&ExportPort, &str)> = Vec::new();
    let mut conflict = None;
    for export in exports {
        for port in &export.ports {
            let clash = match ports.iter().find(|(older, _)| older.name == port.name || same_port(older, port)) {
                None => {
                    ports.push((port, &export.cluster));
                    continue;
                }
                Some((older, cluster)) => clash(port, &export.cluster, older, cluster),
            };
            conflict = conflict.or(clash);
        }
    }
    let ports: Vec<&ExportPort> = ports.into_iter().map(|(port, _)| port).collect();
    let lacks =
        |export: &&&ServiceExportSpec| !ports.iter().all(|port| export.ports.iter().any(|p| same_port(p, port)));
    let incomplete: Vec<&str> = exports.iter().filter(lacks).map(|export| export.cluster.as_str()).collect();
    let lacking = (!incomplete.is_empty()).then(|| {
        port_conflict(format!("not every cluster has every port; {} has less than all together", incomplete.join(", ")))
    });
    (ports, conflict.or(lacking))
}

fn port_conflict(message: String) -> Conflict {
    Conflict { reason: "PortConflict", message }
}

fn clash(port: &ExportPort, cluster: &str, older: &ExportPort, older_cluster: &str) -> Option<Conflict> {
    let show = |port: &ExportPort| format!("{}/{} {:?}", port.port, protocol(port), port.name);
    if same_port(port, older) && port.name == older.name && port.app_protocol == older.app_protocol {
        return None;
    }
    let app = |port: &ExportPort| port.app_protocol.as_deref().map(|app| format!(" ({app})")).unwrap_or_default();
    Some(port_conflict(format!(
        "port {}{} of cluster {cluster} clashes with port {}{} of the older export in cluster {older_cluster}, which is used",
        show(port),
        app(port),
        show(older),
        app(older),
    )))
}

/// What all have in common, so that every pod is reached in each family. An export that has nothing in common with the
/// older ones is left out of it, since a Service without any family serves nobody.
fn common_families<'a>(exports: &[&'a ServiceExportSpec]) -> (Option<Vec<&'a str>>, Option<Conflict>) {
    let mut common: Option<Vec<&str>> = None;
    let mut apart = Vec::new();
    for export in exports.iter().filter(|export| !export.ip_families.is_empty()) {
        let theirs = || export.ip_families.iter().map(String::as_str);
        let both: Vec<&str> = match &common {
            None => theirs().collect(),
            Some(ours) => ours.iter().copied().filter(|family| theirs().any(|f| f == *family)).collect(),
        };
        if both.is_empty() {
            apart.push(export.cluster.as_str());
        } else {
            common = Some(both);
        }
    }
    let conflict = (!apart.is_empty()).then(|| Conflict {
        reason: "IPFamilyConflict",
        message: format!(
            "{} has no IP family in common with the older exports, which have {}",
            apart.join(", "),
            common.iter().flatten().copied().collect::<Vec<_>>().join(", ")
        ),
    });
    (common, conflict)
}

/// A field that the oldest export decides.
struct Field {
    name: &'static str,
    reason: &'static str,
    value: fn(&ServiceExportSpec) -> String,
}

/// The gravest first.
const FIELDS: [Field; 7] = [
    Field { name: "type", reason: "TypeConflict", value: |export| export.kind.clone() },
    Field { name: "sessionAffinity", reason: "SessionAffinityConflict", value: session_affinity },
    Field {
        name: "sessionAffinityConfig.clientIP",
        reason: "SessionAffinityConfigConflict",
        value: |export| timeout_seconds(export).map(|seconds| seconds.to_string()).unwrap_or_default(),
    },
    Field { name: "annotations", reason: "AnnotationsConflict", value: |export| format!("{:?}", export.annotations) },
    Field { name: "labels", reason: "LabelsConflict", value: |export| format!("{:?}", export.labels) },
    Field {
        name: "internalTrafficPolicy",
        reason: "InternalTrafficPolicyConflict",
        value: |export| export.internal_traffic_policy.clone().unwrap_or_else(|| "Cluster".to_owned()),
    },
    Field {
        name: "trafficDistribution",
        reason: "TrafficDistributionConflict",
        value: |export| export.traffic_distribution.clone().unwrap_or_default(),
    },
];

fn session_affinity(export: &ServiceExportSpec) -> String {
    if export.session_affinity.is_empty() { "None".to_owned() } else { export.session_affinity.clone() }
}

/// How long a client stays with its backend.
pub(super) fn timeout_seconds(export: &ServiceExportSpec) -> Option<i32> {
    let config: &Value = export.session_affinity_config.as_ref()?;
    config["clientIP"]["timeoutSeconds"].as_i64().and_then(|seconds| i32::try_from(seconds).ok())
}

fn disagreement(exports: &[&ServiceExportSpec]) -> Option<Conflict> {
    let (oldest, others) = exports.split_first()?;
    FIELDS.iter().find_map(|field| {
        let value = (field.value)(oldest);
        let differ = others.iter().filter(|export| (field.value)(export) != value);
        let clusters: Vec<&str> = differ.map(|export| export.cluster.as_str()).collect();
        (!clusters.is_empty()).then(|| Conflict {
            reason: field.reason,
            message: format!(
                "{} of {} clusters disagree on {}: {}; {value:?} of the oldest export, in cluster {}, is used",
                clusters.len(),
                exports.len(),
                field.name,
                clusters.join(", "),
                oldest.cluster
            ),
        })
    })
}
