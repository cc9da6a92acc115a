//! Which of a Service's backends serve: this cluster's, other clusters', or those that are left. Pure; driven by the
//! services controller, once per port and address family.
//!
//! Every candidate has a class, the Service's affinity puts the classes in order, and the best class that has anybody
//! serves. So neither the age of a cluster's words nor a failed probe ever empties a Service: whoever they speak against
//! is only put behind all others.
//!
//! Cilium has the same affinities (`pkg/clustermesh/loadbalancer`) without the classes from `Waning` on. One difference is
//! meant: there a remote backend that terminates still holds affinity `remote`; here it gives way to ready ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use causeway_datapath_loader::Backend;
use causeway_mesh_remote::Stage;
use causeway_mesh_schema::ClusterId;

use crate::intent::service::Affinity;

/// This cluster's backends of one port in one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Local {
    pub(crate) ready: BTreeSet<Backend>,
    /// Going away, still serving; none of `ready`.
    pub(crate) draining: BTreeSet<Backend>,
}

/// A backend that another cluster shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) addr: SocketAddr,
    pub(crate) cluster: ClusterId,
    /// Of the cluster.
    pub(crate) stage: Stage,
    pub(crate) draining: bool,
    /// What probes say; `None`: nothing yet.
    pub(crate) alive: Option<bool>,
}

/// Those who serve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) backends: BTreeSet<Backend>,
    /// The cluster of each one that is another cluster's.
    pub(crate) remote: BTreeMap<SocketAddr, ClusterId>,
}

/// What a candidate is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Ready, of this cluster.
    Local,
    /// Ready, of a cluster that speaks, and no probe speaks against it.
    Remote,
    /// Ready, of a cluster that has been silent for long.
    Waning,
    /// Going away, still serving (KEP-1669).
    Draining,
    /// Of a cluster whose words are void, and yet it answers.
    Revoked,
    /// Dead by its probes, or nobody knows.
    Doubtful,
    /// That, and going away as well.
    Lost,
}

/// Those who serve, by affinity, stages and health. Where a remote candidate has an address of this cluster's, or of a
/// candidate before it, that one counts.
pub(crate) fn select(local: &Local, remote: &[Remote], affinity: Affinity) -> Chosen {
    let ours: BTreeSet<SocketAddr> = local.ready.iter().chain(&local.draining).map(|b| b.addr).collect();
    let ranked = remote.iter().filter(|r| !ours.contains(&r.addr)).map(|r| (rank(class(r), affinity), r));
    let best_of = |class, set: &BTreeSet<Backend>| (!set.is_empty()).then(|| rank(class, affinity));
    let ready = best_of(Class::Local, &local.ready);
    let draining = best_of(Class::Draining, &local.draining);
    let best = ranked.clone().map(|(rank, _)| rank).chain(ready).chain(draining).min();
    let mut chosen = Chosen::default();
    if best.is_none() {
        return chosen;
    }
    if ready == best {
        chosen.backends.extend(&local.ready);
    }
    if draining == best {
        chosen.backends.extend(&local.draining);
    }
    for (_, r) in ranked.filter(|(rank, _)| Some(*rank) == best) {
        chosen.remote.entry(r.addr).or_insert(r.cluster);
        chosen.backends.insert(Backend { addr: r.addr, local: false });
    }
    chosen
}

/// Whether remote candidates of the Service may be chosen now, whatever their stages and health: then these matter.
pub(crate) fn wants_remote(local: &Local, affinity: Affinity) -> bool {
    affinity != Affinity::Local || local.ready.is_empty()
}

fn class(remote: &Remote) -> Class {
    let Remote { stage, draining, alive, .. } = *remote;
    let good = match stage {
        Stage::Fresh | Stage::Silent | Stage::DePreferred => alive != Some(false),
        Stage::Probed | Stage::Revoked => alive == Some(true),
    };
    match (good, draining, stage) {
        (false, false, _) => Class::Doubtful,
        (false, true, _) => Class::Lost,
        (true, _, Stage::Revoked) => Class::Revoked,
        (true, true, _) => Class::Draining,
        (true, false, Stage::Fresh | Stage::Silent) => Class::Remote,
        (true, false, Stage::DePreferred | Stage::Probed) => Class::Waning,
    }
}

/// Smaller serves first; equal ranks serve together.
fn rank(class: Class, affinity: Affinity) -> u8 {
    match (class, affinity) {
        (Class::Local, Affinity::None | Affinity::Local) | (Class::Remote, Affinity::None | Affinity::Remote) => 0,
        (Class::Local, Affinity::Remote) | (Class::Remote, Affinity::Local) => 1,
        (Class::Waning, _) => 2,
        (Class::Draining, _) => 3,
        (Class::Revoked, _) => 4,
        (Class::Doubtful, _) => 5,
        (Class::Lost, _) => 6,
    }
}

#[cfg(test)]
mod tests;
