//! A pod's identity: which labels matter, and which number stands for them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use causeway_k8s::names::{
    LABEL_NAMESPACE_LABELS_PREFIX, LABEL_POD_NAMESPACE, LABEL_POLICY_CLUSTER, LABEL_POLICY_SERVICE_ACCOUNT,
};
use causeway_table::Table;

use crate::intent::cilium::Identity;

/// A pattern of Cilium's default label filter: a label whose key begins with the text is kept or left out.
struct Rule {
    begins: &'static str,
    keep: bool,
}

const fn keep(begins: &'static str) -> Rule {
    Rule { begins, keep: true }
}

const fn leave(begins: &'static str) -> Rule {
    Rule { begins, keep: false }
}

/// Cilium's default filter (`pkg/labelsfilter`). Where a rule to keep and one to leave out both match, the longer wins.
const RULES: &[Rule] = &[
    keep(LABEL_POD_NAMESPACE),
    keep(LABEL_NAMESPACE_LABELS_PREFIX),
    keep("app.kubernetes.io"),
    keep(LABEL_POLICY_CLUSTER),
    leave("io.kubernetes"),
    leave("kubernetes.io"),
    leave("statefulset.kubernetes.io/pod-name"),
    leave("apps.kubernetes.io/pod-index"),
    leave("batch.kubernetes.io/job-completion-index"),
    leave("batch.kubernetes.io/controller-uid"),
    leave("k8s.io"),
    leave("pod-template-generation"),
    leave("pod-template-hash"),
    leave("controller-revision-hash"),
    leave("annotation"),
    leave("etcd_node"),
];

/// A key with this anywhere is left out, whatever the rules say of shorter beginnings.
const LEAVE_WITHIN: &str = "beta.kubernetes.io";

fn matters(key: &str) -> bool {
    let matching = RULES.iter().filter(|r| key.starts_with(r.begins));
    let (mut kept, mut left) = (0, 0);
    for rule in matching {
        let len = rule.begins.len();
        if rule.keep {
            kept = kept.max(len);
        } else if left == 0 || len < left {
            left = len;
        }
    }
    if let Some(at) = key.find(LEAVE_WITHIN) {
        let len = at + LEAVE_WITHIN.len();
        left = if left == 0 { len } else { left.min(len) };
    }
    left == 0 || kept > left
}

/// The labels of a pod that decide its identity, as `CiliumIdentity.security-labels` has them: `k8s:key` to value.
pub(crate) fn security_labels(
    namespace: &str,
    namespace_labels: &BTreeMap<String, String>,
    pod_labels: &BTreeMap<String, String>,
    service_account: &str,
    cluster: &str,
) -> BTreeMap<String, String> {
    let of_pod = pod_labels.iter().map(|(k, v)| (k.clone(), v.clone()));
    let of_namespace =
        namespace_labels.iter().map(|(k, v)| (format!("{LABEL_NAMESPACE_LABELS_PREFIX}.{k}"), v.clone()));
    // Later ones win: a pod cannot give itself another namespace or service account by a label.
    let fixed = [
        (LABEL_POD_NAMESPACE.to_owned(), namespace.to_owned()),
        (LABEL_POLICY_CLUSTER.to_owned(), cluster.to_owned()),
        (LABEL_POLICY_SERVICE_ACCOUNT.to_owned(), service_account.to_owned()),
    ];
    of_pod
        .chain(of_namespace)
        .chain(fixed)
        .filter(|(key, _)| matters(key))
        .map(|(key, value)| (format!("k8s:{key}"), value))
        .collect()
}

/// `source:key=value`, sorted: how CiliumEndpoint and lists show them.
pub(crate) fn as_list(labels: &BTreeMap<String, String>) -> Vec<String> {
    let mut list: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    list.sort_unstable();
    list
}

/// The number that stands for these labels, if one of this cluster's does. Two agents may have made one each at the same
/// time: everyone takes the smaller, and the other is collected when nobody uses it. One from before the cluster had its
/// present number is left behind likewise.
pub(crate) fn find(labels: &[String], own: &RangeInclusive<u32>, identities: &Table<u32, Identity>) -> Option<u32> {
    let of_ours = identities.iter_from(own.start()).take_while(|(id, _)| *id <= own.end());
    of_ours.into_iter().find(|(_, i)| i.labels == labels).map(|(id, _)| *id)
}

/// A free number of those that this cluster may give, near `random`; `None`: all are taken.
pub(crate) fn choose(random: u32, own: &RangeInclusive<u32>, identities: &Table<u32, Identity>) -> Option<u32> {
    let count = own.end() - own.start() + 1;
    (0..count).map(|i| own.start() + (random.wrapping_add(i)) % count).find(|id| identities.get(id).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_default_filter() {
        for (key, want) in [
            ("app", true),
            ("app.kubernetes.io/name", true),
            ("kubernetes.io/os", false),
            ("io.kubernetes.container.name", false),
            ("io.kubernetes.pod.namespace", true),
            ("io.cilium.k8s.policy.cluster", true),
            ("io.cilium.k8s.policy.serviceaccount", true),
            ("io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name", true),
            ("failure-domain.beta.kubernetes.io/zone", false),
            ("pod-template-hash", false),
            ("controller-revision-hash", false),
            ("statefulset.kubernetes.io/pod-name", false),
            ("my.kubernetes.io/x", true),
        ] {
            assert_eq!(matters(key), want, "{key}");
        }
    }

    #[test]
    fn labels_of_a_pod() {
        let labels = security_labels(
            "shop",
            &map(&[("kubernetes.io/metadata.name", "shop"), ("team", "a")]),
            &map(&[("app", "web"), ("pod-template-hash", "x"), ("io.kubernetes.pod.namespace", "other")]),
            "default",
            "rack",
        );
        assert_eq!(
            as_list(&labels),
            [
                "k8s:app=web",
                "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
                "k8s:io.cilium.k8s.namespace.labels.team=a",
                "k8s:io.cilium.k8s.policy.cluster=rack",
                "k8s:io.cilium.k8s.policy.serviceaccount=default",
                "k8s:io.kubernetes.pod.namespace=shop",
            ]
        );
    }

    #[test]
    fn numbers_are_found_and_chosen_in_the_clusters_own_range() {
        let mut t = Table::default();
        let labels = vec!["k8s:app=web".to_owned()];
        let own = 65_536..=131_071;
        assert_eq!(find(&labels, &own, &t), None);
        for id in [70_000, 66_000, 300, 200_000] {
            t.set(id, Identity { labels: labels.clone() });
        }
        assert_eq!(find(&labels, &own, &t), Some(66_000), "the smallest of ours");
        assert_eq!(find(&labels, &(256..=65_535), &t), Some(300));
        assert_eq!(choose(66_000 - 65_536, &own, &t), Some(66_001));
        assert_eq!(choose(65_535, &own, &t), Some(131_071));
        t.set(131_071, Identity { labels: vec![] });
        assert_eq!(choose(65_535, &own, &t), Some(65_536), "wraps");
    }
}
