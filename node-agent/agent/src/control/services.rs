//! From Services, EndpointSlices and what other clusters offer to load-balancer rows. A changed Service, slice or offer
//! costs one Service; a changed stage or health costs the Services that it is about.
//!
//! [`rows`] makes the rows of one Service, [`uses`] remembers who must look again when a backend's health or a cluster's
//! stage changes, and [`cover`] says which backends of other clusters encryption lets be used. The shell is
//! `realize::controllers`.

mod cover;
mod rows;
mod uses;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use causeway_datapath_loader::{Frontend, LbService};
use causeway_mesh_remote::Stage;
use causeway_mesh_schema::{ClusterId, Scale};
use causeway_table::{Changes, Shared};
use ipnet::IpNet;

use super::claims::Claims;
use super::encryption::Modes;
use super::probe::Watched;
use crate::intent::mesh::{Health, Offer, OfferKey, RemoteCluster, Target};
use crate::intent::service::Service;
use crate::intent::slice::{Slice, SliceKey};
use crate::intent::{Key, Stamp};
use cover::{Cover, News};
use rows::{Looked, Offered, frontends};
use uses::Uses;

/// What a frontend's address is to its Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AddressKind {
    ClusterIp,
    LoadBalancer,
    ExternalIp,
}

impl AddressKind {
    /// As Cilium's `service list` has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            AddressKind::ClusterIp => "ClusterIP",
            AddressKind::LoadBalancer => "LoadBalancer",
            AddressKind::ExternalIp => "ExternalIPs",
        }
    }
}

/// A desired row of the datapath's service table, and what others need to know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LbRow {
    pub(crate) service: Key,
    pub(crate) port_name: Box<str>,
    pub(crate) kind: AddressKind,
    pub(crate) lb: LbService,
    /// A backend of this node takes new connections.
    pub(crate) local_ready: bool,
    /// The cluster of each backend in `lb` that is another cluster's; `None` without such. Copies of the row share it.
    pub(crate) remote: Option<Arc<BTreeMap<SocketAddr, ClusterId>>>,
    /// When the newest slice or offer behind it arrived; `None` without any.
    pub(crate) seen: Option<Stamp>,
}

/// Which address families are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Families {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

impl Families {
    pub(crate) fn has(self, ip: IpAddr) -> bool {
        if ip.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// What the controller reads.
#[derive(Debug, Clone)]
pub(crate) struct Inputs {
    pub(crate) services: Shared<Key, Service>,
    pub(crate) slices: Shared<SliceKey, Slice>,
    /// Its owner marks it synced when every cluster of the mesh has been read, or has been waited for long enough; at
    /// once without a mesh.
    pub(crate) offers: Shared<OfferKey, Offer>,
    pub(crate) clusters: Shared<ClusterId, RemoteCluster>,
    pub(crate) health: Shared<Target, Health>,
    /// Ranges that nothing leaves for in plaintext. Its owner marks it synced when those of all other clusters' nodes are in
    /// it; at once without encryption.
    pub(crate) guarded: Shared<IpNet, ()>,
}

impl Inputs {
    pub(crate) fn synced(&self) -> Synced {
        Synced {
            local: self.services.synced() && self.slices.synced(),
            offers: self.offers.synced() && self.guarded.synced(),
        }
    }
}

/// Which inputs have been read completely.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Synced {
    /// Services and slices.
    pub(crate) local: bool,
    /// With what decides whether they may be used.
    pub(crate) offers: bool,
}

/// What changed in them since the last call.
#[derive(Debug)]
pub(crate) struct Changed {
    /// [`Inputs::synced`], asked before the changes were taken: then they are all among them.
    pub(crate) synced: Synced,
    pub(crate) services: Changes<Key>,
    pub(crate) slices: Changes<SliceKey>,
    pub(crate) offers: Changes<OfferKey>,
    pub(crate) clusters: Changes<ClusterId>,
    pub(crate) health: Changes<Target>,
    pub(crate) guarded: Changes<IpNet>,
}

/// The controller. Its output table holds the claims in force.
///
/// Nothing is said before Services and slices have been read completely, and nothing about a frontend of a global Service
/// that an earlier process left in the datapath before the offers have: half the truth would take backends away.
pub(crate) struct Controller {
    pub(crate) inputs: Inputs,
    pub(crate) lb: Shared<Frontend, LbRow>,
    /// What the prober shall watch.
    targets: Shared<Target, Watched>,
    claims: Claims<Key, Frontend, LbRow>,
    uses: Uses,
    /// As last seen, so that other news of a cluster cost nothing.
    stages: BTreeMap<ClusterId, Stage>,
    families: Families,
    /// In the datapath since before this process; emptied when the offers are complete.
    adopted: BTreeSet<Frontend>,
    /// Of the changes so far.
    synced: Synced,
    /// Services to look at when more inputs are complete.
    waiting: BTreeSet<Key>,
    /// `None`: traffic is not encrypted.
    cover: Option<Cover>,
    /// Addresses of other clusters that a Service does not use, since no range of the guard holds them.
    withheld: Shared<Key, BTreeSet<IpAddr>>,
}

impl Controller {
    pub(crate) fn new(inputs: Inputs, lb: &Shared<Frontend, LbRow>, families: Families) -> Controller {
        Controller {
            inputs,
            lb: lb.clone(),
            targets: Shared::default(),
            claims: Claims::default(),
            uses: Uses::default(),
            stages: BTreeMap::new(),
            families,
            adopted: BTreeSet::new(),
            synced: Synced::default(),
            waiting: BTreeSet::new(),
            cover: None,
            withheld: Shared::default(),
        }
    }

    /// Traffic is encrypted: backends of clusters that these modes require it for are used when the guard knows them, and
    /// are named in `withheld` until then.
    pub(crate) fn encrypting(mut self, modes: Modes, withheld: &Shared<Key, BTreeSet<IpAddr>>) -> Controller {
        self.withheld = withheld.clone();
        self.cover = Some(Cover::new(self.inputs.guarded.clone(), modes));
        self
    }

    /// Says what an earlier process left in the datapath.
    pub(crate) fn adopting(mut self, frontends: impl IntoIterator<Item = Frontend>) -> Controller {
        self.adopted = frontends.into_iter().collect();
        self
    }

    /// What the prober shall watch; written by [`Controller::update`].
    pub(crate) fn targets(&self) -> Shared<Target, Watched> {
        self.targets.clone()
    }

    /// The Services that these changes are about.
    pub(crate) fn keys(&mut self, changed: Changed) -> BTreeSet<Key> {
        let all = || self.inputs.services.read(|t| t.iter().map(|(k, _)| k.clone()).collect::<Vec<_>>());
        let mut keys: BTreeSet<Key> = match changed.services {
            Changes::Keys(keys) => keys.into_iter().collect(),
            Changes::Reset => all()
                .into_iter()
                .chain(self.lb.read(|t| t.iter().map(|(_, r)| r.service.clone()).collect::<Vec<_>>()))
                .collect(),
        };
        match changed.slices {
            Changes::Keys(slices) => keys.extend(slices.into_iter().map(|s| s.service)),
            Changes::Reset => keys.extend(all()),
        }
        match changed.offers {
            Changes::Keys(offers) => keys.extend(offers.into_iter().map(|o| o.service)),
            Changes::Reset => keys.extend(all()),
        }
        match changed.health {
            Changes::Keys(targets) => keys.extend(targets.iter().flat_map(|t| self.uses.of_target(t)).cloned()),
            Changes::Reset => keys.extend(self.uses.keys().cloned()),
        }
        match self.cover.as_mut().map_or(News::None, |cover| cover.learn(&changed.guarded)) {
            News::None => {}
            News::More => self.withheld.read(|t| keys.extend(t.iter().map(|(key, _)| key.clone()))),
            News::Fewer => keys.extend(self.uses.keys().cloned()),
        }
        let moved = self.moved(changed.clusters);
        keys.extend(moved.into_iter().flat_map(|cluster| self.uses.of_cluster(cluster)).cloned());
        if changed.synced != self.synced {
            self.synced = changed.synced;
            keys.append(&mut self.waiting);
        }
        keys
    }

    /// Brings the rows of these Services up to date, and says when the inputs are complete.
    pub(crate) fn update(&mut self, keys: BTreeSet<Key>) {
        if !self.synced.local {
            self.waiting.extend(keys);
            return;
        }
        if self.synced.offers {
            self.adopted.clear();
        }
        for key in &keys {
            self.update_one(key);
        }
        if self.waiting.is_empty() {
            self.lb.mark_synced();
        }
    }

    /// Clusters whose stage is another than when this was last asked.
    fn moved(&mut self, clusters: Changes<ClusterId>) -> Vec<ClusterId> {
        let mut candidates: Vec<ClusterId> = match clusters {
            Changes::Keys(clusters) => clusters,
            Changes::Reset => {
                let known = self.inputs.clusters.read(|t| t.iter().map(|(id, _)| *id).collect::<Vec<_>>());
                known.into_iter().chain(self.stages.keys().copied()).collect()
            }
        };
        candidates.retain(|id| {
            let stage = self.inputs.clusters.get(id).map(|c| c.stage);
            let old = match stage {
                Some(stage) => self.stages.insert(*id, stage),
                None => self.stages.remove(id),
            };
            old != stage
        });
        candidates
    }

    fn update_one(&mut self, key: &Key) {
        self.waiting.remove(key);
        let made = match self.inputs.services.get(key) {
            None => rows::Made::default(),
            Some(service) => {
                let slices = self.slices_of(key);
                let offers = if service.global.is_some() { self.offers_of(key) } else { Vec::new() };
                let looked = Looked {
                    health: &|target| self.inputs.health.get(target).map(|h| h.alive),
                    covers: &|ip| self.cover.as_ref().is_none_or(|cover| cover.holds(ip)),
                };
                let made = frontends(key, &service, &slices, &offers, &looked, self.families);
                if service.global.is_some() && made.rows.keys().any(|f| self.adopted.contains(f)) {
                    self.waiting.insert(key.clone());
                    return;
                }
                made
            }
        };
        if made.withheld.is_empty() {
            self.withheld.delete(key);
        } else {
            self.withheld.set(key.clone(), made.withheld);
        }
        self.watch(key, made.targets, made.clusters);
        let touched = self.claims.set(key, made.rows);
        self.lb.write(|t| {
            for frontend in touched {
                match self.claims.get(&frontend) {
                    Some((_, row)) => t.set(frontend, row.clone()),
                    None => t.delete(&frontend),
                };
            }
        });
    }

    fn slices_of(&self, key: &Key) -> Vec<Arc<Slice>> {
        let first = SliceKey::first(key);
        self.inputs.slices.read(|t| {
            let mine = t.iter_from(&first).take_while(|(k, _)| k.service == *key);
            mine.map(|(_, s)| s.clone()).collect()
        })
    }

    fn offers_of(&self, key: &Key) -> Vec<Offered> {
        let lowest = ClusterId::new(1, Scale::default()).expect("1 is a cluster id at every scale");
        let first = OfferKey { service: key.clone(), cluster: lowest, slice: Box::default() };
        let offers: Vec<(ClusterId, Arc<Offer>)> = self.inputs.offers.read(|t| {
            let mine = t.iter_from(&first).take_while(|(k, _)| k.service == *key);
            mine.filter(|(_, offer)| offer.shared).map(|(k, offer)| (k.cluster, offer.clone())).collect()
        });
        let offered = |(cluster, offer)| {
            let row = self.inputs.clusters.get(&cluster);
            let name = row.as_ref().map_or("", |row| row.info.origin.name.as_str());
            let guarded = self.cover.as_ref().is_some_and(|cover| cover.requires(name));
            Offered { cluster, stage: row.as_ref().map(|row| row.stage).unwrap_or_default(), guarded, offer }
        };
        offers.into_iter().map(offered).collect()
    }

    /// Remembers what the Service looks at, and tells the prober.
    fn watch(&mut self, key: &Key, targets: BTreeMap<Target, Watched>, clusters: BTreeSet<ClusterId>) {
        let touched = self.uses.set(key, targets, clusters);
        if touched.is_empty() {
            return;
        }
        self.targets.write(|t| {
            for target in touched {
                match self.uses.watched(&target) {
                    Some(watched) => t.set(target, watched),
                    None => t.delete(&target),
                };
            }
        });
    }
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value, reason = "callers write literals")]
mod tests;
