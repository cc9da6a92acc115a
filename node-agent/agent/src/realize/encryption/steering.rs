//! Which way packets take: routes in two tables of our own, and the rules that lead there.
//!
//! | pref | rule | table | routes |
//! |---|---|---|---|
//! | 100 | `not fwmark 0x1e00/0xffff` | 201 | other nodes' pods by the device, from whoever; own pods: `throw` |
//! | 101 | `from <own pod CIDR>` | 202 | other nodes' addresses by the device |
//! | 102 | `not fwmark 0x1e00/0xffff`, with node encryption | 202 | the same |
//!
//! The mark is that of the device's own datagrams. The main table stays as it is, whoever writes it (BGP, a cloud, people).
//! When the device goes, the kernel removes its routes, and the guard refuses what then goes its plain way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::realize::netlink::{NetError, Netlink, Rule, TableRoute, sysctl};

/// Table of other nodes' pods.
pub(crate) const PODS: u8 = 201;
/// Table of other nodes' addresses.
pub(crate) const NODES: u8 = 202;

/// Mark of the device's datagrams, as Cilium's, and the bits that it has in the mark.
pub(crate) const MARK: u32 = 0x1e00;
const MARK_MASK: u32 = 0xffff;

const PODS_PREF: u32 = 100;
const FROM_PODS_PREF: u32 = 101;
const HOST_PREF: u32 = 102;

/// What shall go by the device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Paths {
    /// Indexes of the device's interfaces: one, or while keys change a kernel's device has more.
    pub(crate) interfaces: BTreeSet<u32>,
    /// Each by one of them.
    pub(crate) pods: BTreeMap<IpNet, u32>,
    pub(crate) nodes: BTreeMap<IpNet, u32>,
    pub(crate) own_pods: BTreeSet<IpNet>,
    pub(crate) own: Vec<IpAddr>,
    /// Node encryption.
    pub(crate) hosts_too: bool,
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
}

/// Where paths are made real.
pub(crate) trait Steering: Send {
    /// Idempotent. `prune`: also what an earlier process left and nobody wants; what this one made and nobody wants any
    /// more goes at once.
    fn apply(&mut self, paths: &Paths, prune: bool) -> Result<(), NetError>;
    /// Removes everything.
    fn clear(&mut self) -> Result<(), NetError>;
}

/// The kernel's.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    /// What this process has made.
    made: BTreeSet<(u8, IpNet)>,
}

impl Steering for Kernel {
    fn apply(&mut self, paths: &Paths, prune: bool) -> Result<(), NetError> {
        let netlink = Netlink::open()?;
        prepare(&netlink, paths)?;
        for v4 in families(paths) {
            let wanted = routes(paths, v4);
            let there = netlink.table_routes(&[PODS, NODES], v4)?;
            for route in wanted.iter().filter(|route| !there.iter().any(|old| same(old, route))) {
                set(&netlink, route)?;
                self.made.insert((route.table, route.dst));
            }
            self.rules(&netlink, paths, v4)?;
            let stays = |old: &TableRoute| wanted.iter().any(|route| (route.table, route.dst) == (old.table, old.dst));
            for old in there.iter().filter(|old| !stays(old)) {
                if prune || self.made.remove(&(old.table, old.dst)) {
                    netlink.delete_table_route(old)?;
                }
            }
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<(), NetError> {
        let netlink = Netlink::open()?;
        for v4 in [true, false] {
            for rule in netlink.rules(v4)?.iter().filter(|rule| is_ours(rule)) {
                netlink.delete_rule(rule)?;
            }
            for route in netlink.table_routes(&[PODS, NODES], v4)? {
                netlink.delete_table_route(&route)?;
            }
        }
        self.made.clear();
        Ok(())
    }
}

impl Kernel {
    /// Rules follow from this node alone: those that nobody wants go, but not before its pod CIDRs are known.
    fn rules(&self, netlink: &Netlink, paths: &Paths, v4: bool) -> Result<(), NetError> {
        let wanted = rules(paths, v4);
        let there: BTreeSet<Rule> = netlink.rules(v4)?.into_iter().filter(is_ours).collect();
        for rule in wanted.difference(&there) {
            netlink.add_rule(rule)?;
        }
        let is_open = |rule: &Rule| rule.priority == FROM_PODS_PREF && paths.own_pods.is_empty();
        for rule in there.difference(&wanted).filter(|rule| !is_open(rule)) {
            netlink.delete_rule(rule)?;
        }
        Ok(())
    }
}

fn is_ours(rule: &Rule) -> bool {
    matches!(rule.table, PODS | NODES)
}

fn families(paths: &Paths) -> impl Iterator<Item = bool> + use<> {
    let (v4, v6) = (paths.ipv4, paths.ipv6);
    [true, false].into_iter().filter(move |family| if *family { v4 } else { v6 })
}

/// A route whose source the kernel did not take is as good.
fn same(there: &TableRoute, wanted: &TableRoute) -> bool {
    let sourceless = TableRoute { prefer: None, ..wanted.clone() };
    there == wanted || *there == sourceless
}

fn set(netlink: &Netlink, route: &TableRoute) -> Result<(), NetError> {
    match netlink.set_table_route(route) {
        // The node does not have that address itself; its own choice of a source must do.
        Err(error) if route.prefer.is_some() && error.errno() == Some(libc::EINVAL) => {
            netlink.set_table_route(&TableRoute { prefer: None, ..route.clone() })
        }
        other => other,
    }
}

/// Answers come by the device whose requests left by an uplink while a tunnel was being set up, and the other way round.
fn prepare(netlink: &Netlink, paths: &Paths) -> Result<(), NetError> {
    for index in &paths.interfaces {
        // One that has just gone is missed by the routes, if by anybody.
        let Some(link) = netlink.link_by_index(*index)? else { continue };
        let name = link.name;
        if paths.ipv4 {
            sysctl(&format!("ipv4/conf/{name}/rp_filter"), "0")?;
            sysctl(&format!("ipv4/conf/{name}/forwarding"), "1")?;
        }
        if paths.ipv6 {
            sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "0")?;
            sysctl(&format!("ipv6/conf/{name}/forwarding"), "1")?;
        }
    }
    Ok(())
}

/// The routes of a family. The kernel looks for the longest, so that an own CIDR stays out of a wider one of somebody's.
fn routes(paths: &Paths, v4: bool) -> Vec<TableRoute> {
    let prefer = paths.own.iter().copied().find(|ip| ip.is_ipv4() == v4);
    let by_device =
        |table: u8, (dst, index): (&IpNet, &u32)| TableRoute { table, dst: *dst, oif: Some(*index), prefer };
    let own = paths.own_pods.iter().map(|dst| TableRoute { table: PODS, dst: *dst, oif: None, prefer: None });
    let others = paths.pods.iter().filter(|(dst, _)| !paths.own_pods.contains(*dst));
    let pods = others.map(|way| by_device(PODS, way));
    let nodes = paths.nodes.iter().map(|way| by_device(NODES, way));
    own.chain(pods).chain(nodes).filter(|route| route.dst.addr().is_ipv4() == v4).collect()
}

fn rules(paths: &Paths, v4: bool) -> BTreeSet<Rule> {
    let unmarked = Some((MARK, MARK_MASK));
    let own = paths.own_pods.iter().filter(|cidr| cidr.addr().is_ipv4() == v4);
    let mut rules: BTreeSet<Rule> = own
        .map(|cidr| Rule { priority: FROM_PODS_PREF, table: NODES, v4, unless_mark: None, from: Some(*cidr) })
        .collect();
    rules.insert(Rule { priority: PODS_PREF, table: PODS, v4, unless_mark: unmarked, from: None });
    if paths.hosts_too {
        rules.insert(Rule { priority: HOST_PREF, table: NODES, v4, unless_mark: unmarked, from: None });
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn paths() -> Paths {
        Paths {
            interfaces: [7, 8].into(),
            pods: nets(&["10.1.2.0/24", "fd00:1:2::/64"]).into_iter().map(|net| (net, 7)).collect(),
            nodes: nets(&["10.0.0.2/32", "fd00:10::2/128"]).into_iter().map(|net| (net, 8)).collect(),
            own_pods: nets(&["10.1.1.0/24", "fd00:1:1::/64"]),
            own: vec!["10.0.0.1".parse().unwrap(), "fd00:10::1".parse().unwrap()],
            hosts_too: false,
            ipv4: true,
            ipv6: true,
        }
    }

    #[test]
    fn routes_of_each_family() {
        let shown = |v4| {
            let text = |r: &TableRoute| {
                let way = r.oif.map_or("throw".to_owned(), |oif| format!("dev {oif}"));
                format!("{} {} {way} {}", r.table, r.dst, r.prefer.map_or(String::new(), |ip| ip.to_string()))
            };
            routes(&paths(), v4).iter().map(text).collect::<Vec<_>>()
        };
        assert_eq!(
            shown(true),
            ["201 10.1.1.0/24 throw ", "201 10.1.2.0/24 dev 7 10.0.0.1", "202 10.0.0.2/32 dev 8 10.0.0.1"]
        );
        assert_eq!(shown(false)[1], "201 fd00:1:2::/64 dev 7 fd00:10::1");
    }

    #[test]
    fn rules_of_each_family() {
        let prefs = |paths: &Paths, v4| rules(paths, v4).iter().map(|r| (r.priority, r.table)).collect::<Vec<_>>();
        assert_eq!(prefs(&paths(), true), [(100, 201), (101, 202)]);
        assert_eq!(prefs(&Paths { hosts_too: true, ..paths() }, false), [(100, 201), (101, 202), (102, 202)]);
    }
}
