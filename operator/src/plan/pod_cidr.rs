//! Pod CIDRs: gives each Node that has none one subnet per family out of the cluster's pools.
//!
//! What is given stands in `Node.spec.podCIDRs`, so there is no other memory: a subnet is free when no Node has
//! anything that overlaps it, and becomes free when its Node goes. Kubernetes never lets podCIDRs change once set.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use causeway_k8s::Rejected;
use causeway_k8s::watch::Key;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

/// Out of what, and in what sizes, subnets are cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pools {
    pub(crate) ipv4: Vec<Ipv4Net>,
    pub(crate) ipv4_mask: u8,
    pub(crate) ipv6: Vec<Ipv6Net>,
    pub(crate) ipv6_mask: u8,
}

impl Pools {
    fn is_empty(&self) -> bool {
        self.ipv4.is_empty() && self.ipv6.is_empty()
    }
}

/// Everything to do, and what to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) assign: Vec<Assignment>,
    pub(crate) rejected: Vec<Rejected>,
    /// Nodes that got nothing because a pool is used up.
    pub(crate) without: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) node: String,
    pub(crate) resource_version: Option<String>,
    /// IPv4 first; the first one is also `spec.podCIDR`.
    pub(crate) cidrs: Vec<IpNet>,
}

/// Decides. Older Nodes get lower subnets.
pub(crate) fn plan(nodes: &BTreeMap<Key, Arc<Node>>, pools: &Pools) -> Plan {
    let mut plan = Plan::default();
    if pools.is_empty() {
        return plan;
    }
    let mut taken = Taken::default();
    let mut waiting: Vec<&Node> = Vec::new();
    for node in nodes.values() {
        let texts = pod_cidrs(node);
        if texts.is_empty() {
            waiting.push(node);
        }
        for (index, text) in texts.iter().enumerate() {
            match IpNet::from_str(text) {
                Ok(net) => taken.add(net),
                Err(_) => plan.rejected.push(Rejected {
                    kind: "Node".to_owned(),
                    object: node.name_any(),
                    field: format!("spec.podCIDRs[{index}]"),
                    message: format!("{text:?} is not a CIDR"),
                    remedy: "delete the Node and let it register again".to_owned(),
                }),
            }
        }
    }
    waiting.sort_by_key(|node| (node.creation_timestamp().map(|time| time.0), node.name_any()));
    for node in waiting {
        let v4 = (!pools.ipv4.is_empty()).then(|| taken.cut_v4(&pools.ipv4, pools.ipv4_mask).map(IpNet::V4));
        let v6 = (!pools.ipv6.is_empty()).then(|| taken.cut_v6(&pools.ipv6, pools.ipv6_mask).map(IpNet::V6));
        // One family alone could never be completed later, so a Node gets all or nothing.
        let cidrs: Option<Vec<IpNet>> = v4.into_iter().chain(v6).collect();
        match cidrs {
            Some(cidrs) => {
                cidrs.iter().for_each(|net| taken.add(*net));
                plan.assign.push(Assignment {
                    node: node.name_any(),
                    resource_version: node.resource_version(),
                    cidrs,
                });
            }
            None => plan.without.push(node.name_any()),
        }
    }
    plan
}

fn pod_cidrs(node: &Node) -> Vec<&str> {
    let Some(spec) = &node.spec else { return Vec::new() };
    match &spec.pod_cidrs {
        Some(list) if !list.is_empty() => list.iter().map(String::as_str).collect(),
        _ => spec.pod_cidr.iter().map(String::as_str).filter(|text| !text.is_empty()).collect(),
    }
}

/// Addresses in use as disjoint inclusive ranges by their first address, so that a search steps over a whole range.
#[derive(Default)]
struct Taken {
    v4: BTreeMap<u32, u32>,
    v6: BTreeMap<u128, u128>,
}

impl Taken {
    fn add(&mut self, net: IpNet) {
        match net {
            IpNet::V4(net) => add(&mut self.v4, net.network().to_bits(), net.broadcast().to_bits()),
            IpNet::V6(net) => add(&mut self.v6, net.network().to_bits(), net.broadcast().to_bits()),
        }
    }

    fn cut_v4(&self, pools: &[Ipv4Net], mask: u8) -> Option<Ipv4Net> {
        pools.iter().find_map(|pool| {
            let (mut first, end) = (pool.network().to_bits(), pool.broadcast().to_bits());
            let size = 1_u32.checked_shl(32_u32.checked_sub(u32::from(mask))?).map_or(u32::MAX, |size| size - 1);
            loop {
                let last = first.checked_add(size).filter(|last| *last <= end)?;
                match overlap(&self.v4, first, last) {
                    None => return Ipv4Net::new(first.into(), mask).ok(),
                    // The next subnet boundary after the end of what is in the way.
                    Some(taken_to) => first = (taken_to | size).checked_add(1)?,
                }
            }
        })
    }

    fn cut_v6(&self, pools: &[Ipv6Net], mask: u8) -> Option<Ipv6Net> {
        pools.iter().find_map(|pool| {
            let (mut first, end) = (pool.network().to_bits(), pool.broadcast().to_bits());
            let size = 1_u128.checked_shl(128_u32.checked_sub(u32::from(mask))?).map_or(u128::MAX, |size| size - 1);
            loop {
                let last = first.checked_add(size).filter(|last| *last <= end)?;
                match overlap(&self.v6, first, last) {
                    None => return Ipv6Net::new(first.into(), mask).ok(),
                    Some(taken_to) => first = (taken_to | size).checked_add(1)?,
                }
            }
        })
    }
}

/// CIDRs are either disjoint or nested, so of those with one first address the longest range is enough.
fn add<N: Ord + Copy>(ranges: &mut BTreeMap<N, N>, first: N, last: N) {
    ranges.entry(first).and_modify(|held| *held = last.max(*held)).or_insert(last);
}

/// The last address of a range in use that overlaps `first..=last`.
fn overlap<N: Ord + Copy>(ranges: &BTreeMap<N, N>, first: N, last: N) -> Option<N> {
    // A range that begins at or before `first` may be nested in a longer one that begins earlier; Nodes do not nest
    // theirs, and if they did the search would only step more often.
    let before = ranges.range(..=first).rev().map(|(_, end)| *end).find(|end| *end >= first);
    before.or_else(|| ranges.range(first..=last).next_back().map(|(_, end)| *end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(v4: &str, v4_mask: u8, v6: &str, v6_mask: u8) -> Pools {
        Pools {
            ipv4: v4.split_whitespace().map(|net| net.parse().unwrap()).collect(),
            ipv4_mask: v4_mask,
            ipv6: v6.split_whitespace().map(|net| net.parse().unwrap()).collect(),
            ipv6_mask: v6_mask,
        }
    }

    /// Nodes by name, age in days, and CIDRs.
    fn nodes(rows: &[(&str, u32, &str)]) -> BTreeMap<Key, Arc<Node>> {
        let rows = rows.iter().map(|(name, day, cidrs)| {
            let cidrs: Vec<&str> = cidrs.split_whitespace().collect();
            let node: Node = serde_json::from_value(serde_json::json!({
                "metadata": { "name": name, "creationTimestamp": format!("2026-01-{day:02}T00:00:00Z") },
                "spec": { "podCIDR": cidrs.first().unwrap_or(&""), "podCIDRs": cidrs },
            }))
            .unwrap();
            (Key::of(&node), Arc::new(node))
        });
        rows.collect()
    }

    fn assigned(plan: &Plan) -> Vec<String> {
        let cidrs = |cidrs: &[IpNet]| cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        plan.assign.iter().map(|a| format!("{} {}", a.node, cidrs(&a.cidrs))).collect()
    }

    #[test]
    fn older_nodes_get_lower_subnets_of_both_families() {
        let pools = pools("10.1.0.0/16", 24, "fd00:1::/48", 64);
        let plan = plan(&nodes(&[("n1", 3, ""), ("n2", 1, ""), ("n3", 2, "10.1.0.0/24 fd00:1::/64")]), &pools);
        assert_eq!(assigned(&plan), ["n2 10.1.1.0/24 fd00:1:0:1::/64", "n1 10.1.2.0/24 fd00:1:0:2::/64"]);
    }

    #[test]
    fn a_subnet_never_overlaps_one_in_use_and_a_gone_nodes_is_free() {
        let table = [
            ("10.1.0.0/24", "10.1.1.0/24"),
            ("10.1.0.0/22", "10.1.4.0/24"),
            ("10.1.0.7/32", "10.1.1.0/24"),
            ("10.1.1.0/24", "10.1.0.0/24"),
            ("10.0.0.0/8", "10.9.0.0/24"),
            ("10.0.0.0/15", "10.9.0.0/24"),
            ("192.168.0.0/16", "10.1.0.0/24"),
        ];
        for (used, given) in table {
            let pools =
                pools(if used.starts_with("10.0") { "10.1.0.0/16 10.9.0.0/16" } else { "10.1.0.0/16" }, 24, "", 0);
            let plan = plan(&nodes(&[("a", 1, used), ("b", 2, "")]), &pools);
            if used == "10.0.0.0/8" {
                assert_eq!(plan.without, ["b"], "both pools are inside {used}");
            } else {
                assert_eq!(assigned(&plan), [format!("b {given}")], "{used}");
            }
        }
    }

    #[test]
    fn a_used_up_pool_names_the_nodes_without() {
        let pools = pools("10.1.0.0/23", 24, "fd00::/64", 64);
        let plan = plan(&nodes(&[("a", 1, ""), ("b", 2, "")]), &pools);
        assert_eq!(assigned(&plan), ["a 10.1.0.0/24 fd00::/64"]);
        assert_eq!(plan.without, ["b"], "IPv4 alone is not given");
    }

    #[test]
    fn the_last_subnets_of_the_address_space() {
        let pools = pools("255.255.255.0/24", 25, "", 0);
        let used = nodes(&[("a", 1, "255.255.255.0/25"), ("b", 2, ""), ("c", 3, "")]);
        let plan = plan(&used, &pools);
        assert_eq!(assigned(&plan), ["b 255.255.255.128/25"]);
        assert_eq!(plan.without, ["c"]);
    }

    #[test]
    fn a_cidr_that_is_none_is_told_and_blocks_nobody() {
        let plan = plan(&nodes(&[("a", 1, "nonsense"), ("b", 2, "")]), &pools("10.1.0.0/16", 24, "", 0));
        assert_eq!(plan.rejected[0].field, "spec.podCIDRs[0]");
        assert_eq!(assigned(&plan), ["b 10.1.0.0/24"]);
    }
}
