//! Keeps the speaker at the plan: collects facts per Service as rows change, plans, applies the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use causeway_bgp_speaker::Speaker;
use causeway_datapath_loader::Frontend;
use causeway_table::{Changes, Reader, Realised, Shared};
use tokio::sync::watch;

use crate::control::bgp::{Facts, Frontends, Inputs, Plan, facts, plan};
use crate::control::services::LbRow;
use crate::intent::Key;
use crate::tables::Tables;

/// Changes that come within this time are planned together: a rollout changes many rows at once.
const COALESCE: Duration = Duration::from_millis(5);

/// How long a start waits for the API server before it announces what was announced before.
const RESTORE_AFTER: Duration = Duration::from_secs(3);

/// What the BGP task needs.
pub(crate) struct Bgp {
    pub(crate) node: String,
    /// Announce addresses without backends too.
    pub(crate) idle_served: bool,
    pub(crate) secrets_namespace: String,
    pub(crate) tables: Tables,
    pub(crate) lb_real: Shared<Frontend, Realised<LbRow>>,
    pub(crate) speaker: Speaker,
    /// The plan in force, for the status writer and the CLI.
    pub(crate) plan: watch::Sender<Arc<Plan>>,
    /// The plan of an earlier process.
    pub(crate) saved: Option<Plan>,
    /// The saved plan is in force: what is planned from inputs that are still being read must not undo it.
    pub(crate) restored: bool,
    pub(crate) facts: BTreeMap<Key, Facts>,
    /// Instances whose routes were said to be complete.
    pub(crate) complete: BTreeSet<String>,
}

impl Bgp {
    /// Runs for ever. Each wait is cancel-safe.
    pub(crate) async fn run(mut self) {
        let t = self.tables.clone();
        let mut services = t.services.reader();
        let mut desired = t.lb.reader();
        let mut real = self.lb_real.reader();
        let mut nodes = t.nodes.reader();
        let mut configs = t.bgp_config.reader();
        let mut peer_configs = t.bgp_peer_configs.reader();
        let mut advertisements = t.bgp_advertisements.reader();
        let mut secrets = t.bgp_secrets.reader();
        let restore_at = tokio::time::Instant::now() + RESTORE_AFTER;
        loop {
            // Whether everything was known before we looked: what comes later wakes us again.
            let complete = self.inputs_complete();
            let keys = self.changed_services(&mut services, &mut desired, &mut real);
            let mut replan = self.update_facts(&keys);
            replan |= any(&mut nodes) | any(&mut configs) | any(&mut peer_configs);
            replan |= any(&mut advertisements) | any(&mut secrets);
            if complete {
                replan |= self.restored || self.saved.take().is_some();
                self.restored = false;
            }
            if replan && !self.restored {
                self.replan(complete);
            }
            if complete {
                self.say_complete();
            }
            tokio::select! {
                () = services.changed() => {}
                () = desired.changed() => {}
                () = real.changed() => {}
                () = nodes.changed() => {}
                () = configs.changed() => {}
                () = peer_configs.changed() => {}
                () = advertisements.changed() => {}
                () = secrets.changed() => {}
                () = tokio::time::sleep_until(restore_at), if self.saved.is_some() => self.restore(),
            }
            tokio::time::sleep(COALESCE).await;
        }
    }

    /// Everything that routes are made of has been read once, and every desired row has been tried in the datapath.
    fn inputs_complete(&self) -> bool {
        let t = &self.tables;
        t.services.synced()
            && t.slices.synced()
            && t.nodes.synced()
            && t.bgp_config.synced()
            && t.bgp_peer_configs.synced()
            && t.bgp_advertisements.synced()
            && t.bgp_secrets.synced()
            && self.lb_real.synced()
    }

    fn changed_services(
        &self,
        services: &mut Reader<Key, crate::intent::service::Service>,
        desired: &mut Reader<Frontend, LbRow>,
        real: &mut Reader<Frontend, Realised<LbRow>>,
    ) -> BTreeSet<Key> {
        let mut all = false;
        let mut keys = BTreeSet::new();
        match services.changes() {
            Changes::Keys(changed) => keys.extend(changed),
            Changes::Reset => all = true,
        }
        for changes in [desired.changes(), real.changes()] {
            match changes {
                // A row that is gone was taken from its Service by a change of that Service, which is named above, or
                // given to another, which has it now.
                Changes::Keys(frontends) => {
                    keys.extend(frontends.iter().filter_map(|f| self.tables.lb.get(f)).map(|row| row.service.clone()));
                }
                Changes::Reset => all = true,
            }
        }
        if all {
            keys.extend(self.facts.keys().cloned());
            keys.extend(self.tables.services.read(|t| t.iter().map(|(k, _)| k.clone()).collect::<Vec<_>>()));
        }
        keys
    }

    /// True when a fact changed.
    fn update_facts(&mut self, keys: &BTreeSet<Key>) -> bool {
        let mut changed = false;
        for key in keys {
            let new = self.tables.services.get(key).map(|service| {
                facts(key, &service, self.idle_served, |frontend| Frontends {
                    desired: self.tables.lb.get(frontend),
                    actual: self.lb_real.get(frontend).and_then(|r| r.actual.clone()),
                })
            });
            if self.facts.get(key) != new.as_ref() {
                changed = true;
                match new {
                    Some(new) => self.facts.insert(key.clone(), new),
                    None => self.facts.remove(key),
                };
            }
        }
        changed
    }

    /// The API server is away: go on with the plan of the time before. End-of-RIB waits, so that peers keep what they
    /// kept.
    fn restore(&mut self) {
        if let Some(saved) = self.saved.take() {
            tracing::warn!("Kubernetes has not answered in time; announcing what was announced before");
            self.restored = true;
            self.apply(saved);
        }
    }

    fn replan(&mut self, complete: bool) {
        let t = &self.tables;
        // Before the node is known there is nothing to say; its arrival wakes us.
        let Some(node) = t.nodes.get(&Key::new("", &self.node)) else { return };
        let config = t.bgp_config.get(&Key::new("", &self.node));
        if config.is_none() && !t.bgp_config.synced() {
            return;
        }
        let secrets = t.bgp_secrets.read(|t| {
            let mine = t.iter().filter(|(k, _)| k.namespace == self.secrets_namespace);
            mine.map(|(k, v)| (k.name.clone(), v.clone())).collect()
        });
        let mut new = plan(&Inputs {
            config: config.as_deref(),
            node: &node,
            peer_configs: t.bgp_peer_configs.read(|t| t.iter().map(|(k, v)| (k.name.clone(), v.clone())).collect()),
            advertisements: t.bgp_advertisements.read(|t| t.iter().map(|(_, v)| v.clone()).collect()),
            secrets,
            services: &self.facts,
        });
        new.complete = complete;
        self.apply(new);
    }

    fn apply(&mut self, new: Plan) {
        let old = self.plan.borrow().clone();
        if *old == new {
            return;
        }
        for problem in new.problems.iter().filter(|p| !old.problems.contains(p)) {
            tracing::warn!(place = %problem.place, fatal = problem.fatal, "BGP: {}", problem.message);
        }
        // Routes first, so that a new session starts with all that is known.
        for ((instance, peer), routes) in &new.routes {
            if old.routes.get(&(instance.clone(), peer.clone())) != Some(routes) {
                self.speaker.set_routes(instance, peer, routes.clone());
            }
        }
        for (name, config) in &new.instances {
            if old.instances.get(name) != Some(config) {
                self.speaker.set_instance(config.clone());
            }
        }
        for name in old.instances.keys().filter(|n| !new.instances.contains_key(*n)) {
            self.speaker.remove_instance(name);
            self.complete.remove(name);
        }
        self.plan.send_replace(Arc::new(new));
    }

    fn say_complete(&mut self) {
        let instances: Vec<String> = self.plan.borrow().instances.keys().cloned().collect();
        for name in instances {
            if self.complete.insert(name.clone()) {
                tracing::info!(instance = name, "routes are complete");
                self.speaker.routes_complete(&name);
            }
        }
    }
}

/// Marks everything seen; true if there was something.
fn any<K: Ord + Clone, V: PartialEq>(reader: &mut Reader<K, V>) -> bool {
    match reader.changes() {
        Changes::Keys(keys) => !keys.is_empty(),
        Changes::Reset => true,
    }
}
