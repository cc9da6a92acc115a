//! All rows of one Service. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use causeway_datapath_loader::plan::MAX_BACKENDS;
use causeway_datapath_loader::{Backend, Frontend, LbService};
use causeway_mesh_remote::Stage;
use causeway_mesh_schema::ClusterId;

use super::{AddressKind, Families, LbRow};
use crate::control::affinity::{Chosen, Local, Remote, select, wants_remote};
use crate::control::probe::Watched;
use crate::intent::mesh::{Offer, Target};
use crate::intent::service::{Affinity, Port, Service};
use crate::intent::slice::Slice;
use crate::intent::{Key, Stamp};

/// A shared offer of a cluster in some stage.
#[derive(Debug, Clone)]
pub(super) struct Offered {
    pub(super) cluster: ClusterId,
    pub(super) stage: Stage,
    /// Its backends may be used only where [`Looked::covers`] says so.
    pub(super) guarded: bool,
    pub(super) offer: Arc<Offer>,
}

/// What is looked up about remote backends.
pub(super) struct Looked<'a> {
    /// What probes say, if anything.
    pub(super) health: &'a dyn Fn(&Target) -> Option<bool>,
    /// Nothing leaves for the address in plaintext.
    pub(super) covers: &'a dyn Fn(IpAddr) -> bool,
}

/// The rows, and what they hang on.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) rows: BTreeMap<Frontend, LbRow>,
    /// Remote backends whose health matters.
    pub(super) targets: BTreeMap<Target, Watched>,
    /// Clusters whose stage matters.
    pub(super) clusters: BTreeSet<ClusterId>,
    /// Addresses of other clusters that may not be used yet.
    pub(super) withheld: BTreeSet<IpAddr>,
}

/// Whose traffic a row must keep on the node, as far as the choice of backends goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Cluster,
    /// What comes from outside stays on the node; pods of the node may go everywhere.
    ExternalLocal,
    /// Everything stays on the node: other clusters are out of the question.
    InternalLocal,
}

/// `offers`: empty unless the Service is global.
pub(super) fn frontends(
    key: &Key,
    service: &Service,
    slices: &[Arc<Slice>],
    offers: &[Offered],
    looked: &Looked<'_>,
    families: Families,
) -> Made {
    let mut made = Made { clusters: offers.iter().map(|o| o.cluster).collect(), ..Made::default() };
    let affinity = service.global.map(|g| g.affinity).unwrap_or_default();
    let addresses = [
        (AddressKind::ExternalIp, &service.external_ips),
        (AddressKind::LoadBalancer, &service.load_balancer_ips),
        (AddressKind::ClusterIp, &service.cluster_ips),
    ];
    let seen = newest(slices, offers);
    for port in &service.ports {
        for v4 in [true, false] {
            let mut candidates = Candidates::of(port, slices, offers, looked, v4);
            made.withheld.append(&mut candidates.withheld);
            for (kind, ips) in addresses {
                for ip in ips.iter().filter(|ip| ip.is_ipv4() == v4 && families.has(**ip)) {
                    let external = kind != AddressKind::ClusterIp;
                    let policy = match (external, service.external_local, service.internal_local) {
                        (true, true, _) => Policy::ExternalLocal,
                        (false, _, true) => Policy::InternalLocal,
                        (true, false, _) | (false, _, false) => Policy::Cluster,
                    };
                    let Chosen { backends, remote } = candidates.choose(affinity, policy);
                    if policy != Policy::InternalLocal && wants_remote(&candidates.local, affinity) {
                        made.watch(port, &candidates.remote);
                    }
                    let row = LbRow {
                        service: key.clone(),
                        port_name: port.name.clone(),
                        kind,
                        lb: LbService {
                            backends: backends.into_iter().collect(),
                            external_local: policy == Policy::ExternalLocal,
                            internal_local: policy == Policy::InternalLocal,
                            external,
                        },
                        local_ready: candidates.local.ready.iter().any(|b| b.local),
                        remote: (!remote.is_empty()).then(|| Arc::new(remote)),
                        seen,
                    };
                    made.rows.insert(Frontend { addr: *ip, port: port.port, proto: port.proto }, row);
                }
            }
        }
    }
    made
}

fn newest(slices: &[Arc<Slice>], offers: &[Offered]) -> Option<Stamp> {
    slices.iter().chain(offers.iter().flat_map(|o| &o.offer.slices)).map(|s| s.seen).max_by_key(|s| s.0)
}

impl Made {
    fn watch(&mut self, port: &Port, remote: &[Remote]) {
        for r in remote {
            let watched = self.targets.entry(Target { addr: r.addr, proto: port.proto }).or_default();
            // From one stage before proof is asked for, so that it is there by then.
            watched.proof |= r.stage >= Stage::DePreferred;
        }
    }
}

/// Backends of one port in one family.
struct Candidates {
    local: Local,
    remote: Vec<Remote>,
    withheld: BTreeSet<IpAddr>,
}

impl Candidates {
    fn of(port: &Port, slices: &[Arc<Slice>], offers: &[Offered], looked: &Looked<'_>, v4: bool) -> Candidates {
        let mut local = Local::default();
        for slice in slices {
            for (addr, e) in endpoints(slice, port, v4) {
                let backend = Backend { addr, local: e.local };
                if e.ready {
                    local.ready.insert(backend);
                } else if e.draining {
                    local.draining.insert(backend);
                }
            }
        }
        // An endpoint may stand in two slices while it moves between them.
        local.draining.retain(|b| !local.ready.contains(b));
        let mut remote: BTreeMap<(SocketAddr, ClusterId), Remote> = BTreeMap::new();
        let mut withheld = BTreeSet::new();
        for Offered { cluster, stage, guarded, offer } in offers {
            for (addr, e) in offer.slices.iter().flat_map(|slice| endpoints(slice, port, v4)) {
                if !(e.ready || e.draining) || !programmable(addr) || offer.is_foreign(e.address) {
                    continue;
                }
                if *guarded && !(looked.covers)(e.address) {
                    withheld.insert(e.address);
                    continue;
                }
                let one = remote.entry((addr, *cluster)).or_insert_with(|| Remote {
                    addr,
                    cluster: *cluster,
                    stage: *stage,
                    draining: true,
                    alive: (looked.health)(&Target { addr, proto: port.proto }),
                });
                one.draining &= !e.ready;
            }
        }
        Candidates { local, remote: remote.into_values().collect(), withheld }
    }

    /// KEP-1669: draining backends serve when no ready one can, judged among the local ones for local traffic policies.
    ///
    /// The datapath has one list per row, so that with a local policy a backend of this node that drains, or that the
    /// affinity passes over, may also get connections of pods of this node while others exist; it still serves them.
    fn choose(&self, affinity: Affinity, policy: Policy) -> Chosen {
        let remote: &[Remote] = if policy == Policy::InternalLocal { &[] } else { &self.remote };
        let mut chosen = select(&self.local, remote, affinity);
        if policy != Policy::Cluster {
            let here = |set: &BTreeSet<Backend>| set.iter().filter(|b| b.local).copied().collect::<Vec<_>>();
            let ready = here(&self.local.ready);
            chosen.backends.extend(if ready.is_empty() { here(&self.local.draining) } else { ready });
        }
        at_most(MAX_BACKENDS, &mut chosen);
        chosen
    }
}

/// More backends than a row takes would cost it all of them. Those of this node stay first, then this cluster's: no other
/// cluster can crowd them out.
fn at_most(most: usize, chosen: &mut Chosen) {
    if chosen.backends.len() <= most {
        return;
    }
    let Chosen { backends, remote } = chosen;
    let (other, own): (Vec<Backend>, Vec<Backend>) =
        std::mem::take(backends).into_iter().partition(|b| remote.contains_key(&b.addr));
    *backends = own.into_iter().chain(other).take(most).collect();
    let kept: BTreeSet<SocketAddr> = backends.iter().map(|b| b.addr).collect();
    remote.retain(|addr, _| kept.contains(addr));
}

/// The endpoints of a slice that has the port, with the port's address on each.
fn endpoints<'a>(
    slice: &'a Slice,
    port: &Port,
    v4: bool,
) -> impl Iterator<Item = (SocketAddr, &'a crate::intent::slice::SliceEndpoint)> {
    let target = slice.ports.iter().find(|p| p.name == port.name && p.proto == port.proto).map(|p| p.port);
    let endpoints = slice.endpoints.iter().filter(move |e| e.address.is_ipv4() == v4);
    target.into_iter().flat_map(move |port| endpoints.clone().map(move |e| ((e.address, port).into(), e)))
}

/// What the datapath takes: one bad address would make it refuse the whole row. That a backend is no address of a host's
/// own, like a loopback's, was seen to when its entry was read.
fn programmable(addr: SocketAddr) -> bool {
    let mapped = matches!(addr.ip(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    addr.port() != 0 && !mapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_backends_cost_other_clusters_theirs_first() {
        let addr = |a, d| SocketAddr::from(([10, a, 0, d], 80));
        let own = (0..3).map(|d| Backend { addr: addr(9, d), local: d == 2 });
        let other = (0..3).map(|d| Backend { addr: addr(2, d), local: false });
        let cluster = ClusterId::try_from(2).unwrap();
        let all =
            Chosen { backends: own.chain(other).collect(), remote: (0..3).map(|d| (addr(2, d), cluster)).collect() };
        let cut = |most| {
            let mut chosen = all.clone();
            at_most(most, &mut chosen);
            let backends: Vec<String> = chosen.backends.iter().map(|b| b.addr.ip().to_string()).collect();
            (backends.join(" "), chosen.remote.len())
        };
        assert_eq!(cut(6).1, 3);
        assert_eq!(cut(4), ("10.9.0.2 10.2.0.0 10.9.0.0 10.9.0.1".into(), 1));
        assert_eq!(cut(2), ("10.9.0.2 10.9.0.0".into(), 0));
    }
}
