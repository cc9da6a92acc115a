//! The key space: six kinds of entries, each in two layouts, and the keys beside them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cluster::ClusterName;

/// Rewritten at least every minute by a live writer; readers count the events, not the value.
pub const HEARTBEAT: &str = "cilium/.heartbeat";

/// What a cluster says of itself: JSON of [`ClusterConfig`](crate::ClusterConfig).
#[must_use]
pub fn cluster_config_key(cluster: &ClusterName) -> String {
    format!("cilium/cluster-config/{cluster}")
}

/// Stands in a copy (kvstoremesh) while the cluster that is copied is silent; its value, for people, says how silent. Ours
/// alone: others neither write nor read it, and judge a copy by the life of its copier.
#[must_use]
pub fn silence_key(cluster: &ClusterName) -> String {
    format!("cilium/cache/silence/v1/{cluster}")
}

/// A kind of entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Nodes,
    Identities,
    Ips,
    Services,
    EndpointSlices,
    ServiceExports,
}

/// Where the entries stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layout {
    /// `cilium/state`: the cluster's own words, in its own etcd.
    State,
    /// `cilium/cache`: a copy of another cluster's words (kvstoremesh).
    Cache,
}

impl Kind {
    pub const ALL: [Kind; 6] =
        [Kind::Nodes, Kind::Identities, Kind::Ips, Kind::Services, Kind::EndpointSlices, Kind::ServiceExports];

    /// Its word in keys.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Kind::Nodes => "nodes",
            Kind::Identities => "identities",
            Kind::Ips => "ip",
            Kind::Services => "services",
            Kind::EndpointSlices => "endpointslices",
            Kind::ServiceExports => "serviceexports",
        }
    }

    /// How errors name an entry: `nodes/n1`. Names come from other clusters, so they are escaped and cut.
    #[must_use]
    pub fn entry(self, name: &str) -> String {
        format!("{}/{}", self.word(), crate::invalid::clip(name))
    }

    /// What the canary of this kind is about: `cilium/state/ip/v1`. Not always the prefix that is listed.
    #[must_use]
    pub fn base(self, layout: Layout) -> String {
        let root = match layout {
            Layout::State => "state",
            Layout::Cache => "cache",
        };
        format!("cilium/{root}/{}/v1", self.word())
    }

    /// What is listed to read all entries of a cluster; ends with `/`. What follows it in a key is the entry's name:
    /// a node, `<ip>`, `<decimal>`, `<namespace>/<name>`.
    #[must_use]
    pub fn prefix(self, layout: Layout, cluster: &ClusterName) -> String {
        let base = self.base(layout);
        match (self, layout) {
            (Kind::Ips, Layout::State) => format!("{base}/default/"),
            (Kind::Identities, Layout::State) => format!("{base}/id/"),
            (Kind::Identities, Layout::Cache) => format!("{base}/{cluster}/id/"),
            _ => format!("{base}/{cluster}/"),
        }
    }

    /// The key of the entry `name`.
    #[must_use]
    pub fn key(self, layout: Layout, cluster: &ClusterName, name: &str) -> String {
        self.prefix(layout, cluster) + name
    }

    /// Written once all entries of the kind are there; readers wait for it before they list.
    #[must_use]
    pub fn canary(self, layout: Layout, cluster: &ClusterName) -> String {
        format!("cilium/synced/{cluster}/{}", self.base(layout))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_where_cilium_has_them() {
        let c = ClusterName::parse("cluster3").unwrap();
        let key = |kind: Kind, layout, name| kind.key(layout, &c, name);
        assert_eq!(key(Kind::Nodes, Layout::State, "n1"), "cilium/state/nodes/v1/cluster3/n1");
        assert_eq!(key(Kind::Ips, Layout::State, "10.0.0.1"), "cilium/state/ip/v1/default/10.0.0.1");
        assert_eq!(key(Kind::Ips, Layout::Cache, "10.0.0.1"), "cilium/cache/ip/v1/cluster3/10.0.0.1");
        assert_eq!(key(Kind::Identities, Layout::State, "7"), "cilium/state/identities/v1/id/7");
        assert_eq!(key(Kind::Identities, Layout::Cache, "7"), "cilium/cache/identities/v1/cluster3/id/7");
        assert_eq!(key(Kind::Services, Layout::State, "a/b"), "cilium/state/services/v1/cluster3/a/b");
        assert_eq!(Kind::Ips.canary(Layout::State, &c), "cilium/synced/cluster3/cilium/state/ip/v1");
        assert_eq!(Kind::Identities.canary(Layout::Cache, &c), "cilium/synced/cluster3/cilium/cache/identities/v1");
        assert_eq!(cluster_config_key(&c), "cilium/cluster-config/cluster3");
    }
}
