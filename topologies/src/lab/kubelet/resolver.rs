//! A pod's `/etc/resolv.conf`, as kubelet writes it from `dnsPolicy` and `dnsConfig`. Pure.

use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

/// Names with fewer dots are tried in the search domains first.
const NDOTS: &str = "ndots:5";

/// What a node knows of its cluster's DNS.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClusterDns {
    /// Without any, pods keep the host's file.
    pub(crate) servers: Vec<IpAddr>,
    pub(crate) domain: String,
}

/// The file's text; `None` where the pod uses the host's own.
pub(crate) fn resolv_conf(pod: &Pod, cluster: &ClusterDns) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let on_host = spec.host_network.unwrap_or(false);
    let (mut servers, mut searches, mut options): (Vec<String>, Vec<String>, Vec<String>) =
        match spec.dns_policy.as_deref() {
            Some("None") => Default::default(),
            Some("Default") => return None,
            Some("ClusterFirstWithHostNet") => cluster_first(pod, cluster)?,
            _ if on_host => return None,
            _ => cluster_first(pod, cluster)?,
        };
    if let Some(more) = &spec.dns_config {
        servers.extend(more.nameservers.iter().flatten().cloned());
        searches.extend(more.searches.iter().flatten().cloned());
        for option in more.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            let value = option.value.as_ref().map(|value| format!(":{value}")).unwrap_or_default();
            // The pod's own value stands in for ours.
            options.retain(|known| known.split(':').next() != Some(&name));
            options.push(name + &value);
        }
    }
    let mut text = String::new();
    if !searches.is_empty() {
        let _ = writeln!(text, "search {}", searches.join(" "));
    }
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    Some(text)
}

fn cluster_first(pod: &Pod, cluster: &ClusterDns) -> Option<(Vec<String>, Vec<String>, Vec<String>)> {
    if cluster.servers.is_empty() {
        return None;
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let domain = &cluster.domain;
    let searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    Some((cluster.servers.iter().map(ToString::to_string).collect(), searches, vec![NDOTS.into()]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn policies() {
        let cluster = ClusterDns {
            servers: vec!["10.96.0.10".parse().unwrap(), "fd00:96::a".parse().unwrap()],
            domain: "cluster.local".into(),
        };
        let first = "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\n\
                     nameserver fd00:96::a\noptions ndots:5\n";
        for (spec, wanted) in [
            (json!({}), Some(first)),
            (json!({"dnsPolicy": "ClusterFirst"}), Some(first)),
            (json!({"hostNetwork": true}), None),
            (json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), Some(first)),
            (json!({"dnsPolicy": "Default"}), None),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.53"], "searches": ["example"],
                    "options": [{"name": "ndots", "value": "1"}, {"name": "edns0"}]}}),
                Some("search example\nnameserver 192.0.2.53\noptions ndots:1 edns0\n"),
            ),
            (
                json!({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}),
                Some(
                    "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\n\
                     nameserver fd00:96::a\noptions ndots:2\n",
                ),
            ),
        ] {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let pod: Pod = serde_json::from_value(json!({"metadata": {"namespace": "shop"}, "spec": spec})).unwrap();
            assert_eq!(resolv_conf(&pod, &cluster).as_deref(), wanted, "{pod:?}");
        }
        assert_eq!(resolv_conf(&Pod::default(), &cluster), None);
    }
}
