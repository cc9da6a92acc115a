//! Who may do what (Cilium `pkg/kvstore/etcdinit`): the steps from an empty etcd to one that others may be let at.

use causeway_mesh_kv::admin::KeyRange;
use causeway_mesh_schema::{ClusterName, HEARTBEAT, cluster_config_key};

use super::prefix;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    AddRole(String),
    Read(String, KeyRange),
    AddUser(String),
    Grant(String, String),
    /// The last: afterwards nobody without a certificate is let in, we neither.
    EnableAuth,
}

/// The role that etcd has by itself: everything.
const ROOT: &str = "root";

pub(super) fn steps(cluster: &ClusterName) -> Vec<Step> {
    let roles = [("local", local()), ("remote", remote(cluster))];
    let users = [
        (ROOT.to_owned(), ROOT),
        (format!("admin-{cluster}"), ROOT),
        (format!("local-{cluster}"), "local"),
        ("remote".to_owned(), "remote"),
    ];
    let mut steps = Vec::new();
    for (role, ranges) in roles {
        steps.push(Step::AddRole(role.to_owned()));
        steps.extend(ranges.into_iter().map(|range| Step::Read(role.to_owned(), range)));
    }
    for (user, role) in users {
        steps.push(Step::AddUser(user.clone()));
        steps.push(Step::Grant(user, role.to_owned()));
    }
    steps.push(Step::EnableAuth);
    steps
}

/// Our own agents, which read the copies of other clusters.
fn local() -> Vec<KeyRange> {
    vec![prefix(HEARTBEAT), prefix("cilium/cache/"), prefix("cilium/cluster-config/"), prefix("cilium/synced/")]
}

/// Other clusters, which read our own words and nothing of a third one's.
fn remote(cluster: &ClusterName) -> Vec<KeyRange> {
    vec![
        prefix(HEARTBEAT),
        prefix("cilium/state/"),
        KeyRange::Key(cluster_config_key(cluster)),
        prefix(&format!("cilium/synced/{cluster}/")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_roles_that_exist_by_then() {
        let steps = steps(&ClusterName::parse("east").unwrap());
        let at = |step: &Step| steps.iter().position(|other| other == step).unwrap_or(usize::MAX);
        for (user, role) in [("root", "root"), ("admin-east", "root"), ("local-east", "local"), ("remote", "remote")] {
            let (added, granted) = (at(&Step::AddUser(user.into())), at(&Step::Grant(user.into(), role.into())));
            assert!(added < granted && granted != usize::MAX, "{user}");
            assert!(role == "root" || at(&Step::AddRole(role.into())) < granted, "{role}");
        }
        assert_eq!(steps.last(), Some(&Step::EnableAuth));
        assert_eq!(steps.iter().filter(|step| matches!(step, Step::AddUser(_))).count(), 4);
    }

    #[test]
    fn what_remote_clusters_may_read() {
        let ranges = remote(&ClusterName::parse("east").unwrap());
        let expected = [
            prefix("cilium/.heartbeat"),
            prefix("cilium/state/"),
            KeyRange::Key("cilium/cluster-config/east".to_owned()),
            prefix("cilium/synced/east/"),
        ];
        assert_eq!(ranges, expected);
    }
}
