//! The loop: take in changes, run the planners that they wake, carry out what they want, wait.
//!
//! One task, one owner of all state. Planners run in turn and their changes are awaited, so no plan is made from a
//! world that lacks our own last writes. A trade whose changes failed is run again after a growing delay; the others
//! are not held up. Nothing is lost when the loop is dropped between two awaits: everything is decided anew from what
//! stands in the server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use causeway_k8s::Rejected;
use causeway_k8s::condition::Timestamp;
use causeway_k8s::watch::Key;
use causeway_mesh_schema::Kind;
use kube::Client;

use crate::apply::{self, Outcome};
use crate::mesh::Remotes;
use crate::plan::{bgp, identity_gc, lb_service, lb_status, mcs, pod_cidr, slices};
use crate::telemetry::Telemetry;
use crate::world::{MeshWorld, Trade, Watches, World};

/// Delay before a trade whose changes failed is run again; doubles up to the longest.
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(200);
const LONGEST_RETRY_DELAY: Duration = Duration::from_secs(30);

/// Most Services of the mesh that are looked at in one run, so that the other trades have their turn.
const MOST_SERVICES_AT_ONCE: usize = 1000;

/// What the trades are to do.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) trades: BTreeSet<Trade>,
    pub(crate) lb: lb_service::Settings,
    pub(crate) pod_cidrs: pod_cidr::Pools,
    pub(crate) identity_gc: identity_gc::Settings,
    pub(crate) identity_gc_interval: Duration,
    /// When it is on.
    pub(crate) mesh: Option<MeshSettings>,
}

/// What the mesh's trades are to do.
#[derive(Clone, Debug)]
pub(crate) struct MeshSettings {
    /// When the Multi-Cluster Services API is on.
    pub(crate) mcs: Option<mcs::Settings>,
    /// Whether remote backends are written as EndpointSlices.
    pub(crate) sync: bool,
    /// Namespaces that do not say take part.
    pub(crate) namespaces_are_global: bool,
    pub(crate) endpoints_per_slice: usize,
    /// How long changes of remote backends are gathered.
    pub(crate) batch_period: Duration,
    /// Services whose slices are written at once.
    pub(crate) services_at_once: usize,
}

pub(crate) struct Controller {
    client: Client,
    settings: Settings,
    world: World,
    telemetry: Telemetry,
    memory: identity_gc::Memory,
    schedule: BTreeMap<Trade, Schedule>,
    remotes: Remotes,
    told: BTreeMap<Trade, BTreeSet<Rejected>>,
}

/// When a trade runs next without being woken.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    at: Option<Instant>,
    delay: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule { at: None, delay: FIRST_RETRY_DELAY }
    }
}

impl Schedule {
    fn failed(&mut self, now: Instant) {
        self.at = Some(now + self.delay);
        self.delay = (self.delay * 2).min(LONGEST_RETRY_DELAY);
    }
}

impl Controller {
    /// `remotes`: what the other clusters say; nothing without a mesh.
    pub(crate) fn new(client: Client, settings: Settings, telemetry: Telemetry, remotes: Remotes) -> Controller {
        let on = |trade| settings.trades.contains(&trade);
        let mesh = MeshWorld::new(on(Trade::Mcs), on(Trade::Slices));
        Controller {
            client,
            world: World { mesh, ..World::default() },
            settings,
            telemetry,
            memory: identity_gc::Memory::default(),
            schedule: BTreeMap::new(),
            remotes,
            told: BTreeMap::new(),
        }
    }

    /// Runs until dropped.
    pub(crate) async fn run(mut self) {
        let mut watches = Watches::start(&self.client, &self.settings.trades);
        // Identities are looked at by the clock.
        self.schedule.insert(Trade::Identities, Schedule { at: Some(Instant::now()), ..Schedule::default() });
        loop {
            let due = self.schedule.values().filter_map(|schedule| schedule.at).min();
            let mut woken = tokio::select! {
                woken = watches.next_into(&mut self.world) => woken,
                () = self.remotes.changed() => self.mesh_changed(),
                () = sleep_until(due) => BTreeSet::new(),
            };
            let now = Instant::now();
            let due = self.schedule.iter().filter(|(_, schedule)| schedule.at.is_some_and(|at| at <= now));
            woken.extend(due.map(|(trade, _)| *trade));
            for trade in Trade::ALL {
                if woken.contains(&trade) && self.settings.trades.contains(&trade) {
                    self.run_trade(trade).await;
                }
            }
        }
    }

    /// Exports are looked at at once; backends come in numbers, so they are gathered for a while.
    fn mesh_changed(&mut self) -> BTreeSet<Trade> {
        let mut woken: BTreeSet<Trade> = self.world.mesh.touch(self.remotes.touched()).into_iter().collect();
        if woken.remove(&Trade::Slices) {
            let period = self.settings.mesh.as_ref().map_or(Duration::ZERO, |mesh| mesh.batch_period);
            let schedule = self.schedule.entry(Trade::Slices).or_default();
            schedule.at = schedule.at.or_else(|| Some(Instant::now() + period));
        }
        woken
    }

    async fn run_trade(&mut self, trade: Trade) {
        let schedule = self.schedule.entry(trade).or_default();
        schedule.at = None;
        if !self.world.ready(trade) {
            if trade == Trade::Identities {
                schedule.at = Some(Instant::now() + LONGEST_RETRY_DELAY);
            }
            return;
        }
        let mut rejected = self.world.undecodable(trade);
        let outcome = match trade {
            Trade::Lb => self.run_lb(&mut rejected).await,
            Trade::Bgp => self.run_bgp(&mut rejected).await,
            Trade::PodCidrs => self.run_pod_cidrs(&mut rejected).await,
            Trade::Identities => self.run_identities(&mut rejected).await,
            Trade::Mcs => self.run_mcs(&mut rejected).await,
            Trade::Slices => self.run_slices(&mut rejected).await,
        };
        self.telemetry.ran(trade, &outcome);
        self.tell(trade, rejected);
        let schedule = self.schedule.entry(trade).or_default();
        let now = Instant::now();
        if outcome.again > 0 {
            schedule.failed(now);
        } else {
            schedule.delay = FIRST_RETRY_DELAY;
            if trade == Trade::Identities {
                schedule.at = Some(now + self.settings.identity_gc_interval);
            }
            let left = match trade {
                Trade::Mcs => !self.world.mesh.mcs.is_empty(),
                Trade::Slices => !self.world.mesh.sync.is_empty(),
                Trade::Lb | Trade::Bgp | Trade::PodCidrs | Trade::Identities => false,
            };
            if left {
                schedule.at = Some(now);
            }
        }
    }

    async fn run_lb(&mut self, rejected: &mut Vec<Rejected>) -> Outcome {
        let undecodable_pools =
            self.world.pools.rejected().keys().filter(|key| !self.world.pools.objects().contains_key(key)).count();
        let snapshot = lb_status::Snapshot {
            pools: self.world.pools.objects(),
            undecodable_pools,
            services: self.world.services.objects(),
        };
        let plan = lb_status::plan(&snapshot, &self.settings.lb, Timestamp::now());
        rejected.extend(plan.rejected.iter().cloned());
        self.telemetry.lb(&plan.figures);
        apply::lb(&self.client, &mut self.world, plan).await
    }

    async fn run_bgp(&mut self, rejected: &mut Vec<Rejected>) -> Outcome {
        let world = &self.world;
        let names = |keys: Vec<&Key>| keys.into_iter().map(|key| key.name.clone()).collect();
        let snapshot = bgp::Snapshot {
            cluster_configs: world.cluster_configs.objects(),
            peer_configs: world.peer_configs.objects(),
            overrides: world.overrides.objects(),
            node_configs: world.node_configs.objects(),
            nodes: world.nodes.objects(),
            undecodable_cluster_configs: names(world.cluster_configs.rejected().keys().collect()),
            undecodable_overrides: names(world.overrides.rejected().keys().collect()),
            undecodable_peer_configs: names(world.peer_configs.rejected().keys().collect()),
        };
        let plan = bgp::plan(&snapshot, Timestamp::now());
        rejected.extend(plan.rejected.iter().cloned());
        apply::bgp(&self.client, &mut self.world, plan).await
    }

    async fn run_pod_cidrs(&mut self, rejected: &mut Vec<Rejected>) -> Outcome {
        let plan = pod_cidr::plan(self.world.nodes.objects(), &self.settings.pod_cidrs);
        rejected.extend(plan.rejected.iter().cloned());
        // Said as a rejection, so that it is told once and stands in the list until it is solved.
        rejected.extend(plan.without.iter().map(|node| Rejected {
            kind: "Node".to_owned(),
            object: node.clone(),
            field: "spec.podCIDRs".to_owned(),
            message: "no subnet is left in the cluster's pools".to_owned(),
            remedy: "add a CIDR to --cluster-pool-ipv4-cidr or --cluster-pool-ipv6-cidr".to_owned(),
        }));
        apply::pod_cidrs(&self.client, &mut self.world, plan).await
    }

    async fn run_identities(&mut self, rejected: &mut Vec<Rejected>) -> Outcome {
        let used = self.world.identities_in_use();
        let identities = self.world.identities.objects();
        let now = Timestamp::now();
        let plan = identity_gc::plan(identities, &used, &mut self.memory, &self.settings.identity_gc, now);
        rejected.extend(plan.rejected.iter().cloned());
        self.telemetry.identities(&plan);
        apply::identities(&self.client, &mut self.world, plan).await
    }

    async fn run_mcs(&mut self, rejected: &mut Vec<Rejected>) -> Outcome {
        let Some(mesh) = &self.settings.mesh else { return Outcome::default() };
        let Some(settings) = &mesh.mcs else { return Outcome::default() };
        let now = Timestamp::now();
        let plans = {
            let said = self.remotes.said();
            rejected.extend(said.rejected(|kind| kind == Kind::ServiceExports));
            let world = &mut self.world;
            let keys = world.mesh.take_mcs(MOST_SERVICES_AT_ONCE, &said);
            let plan = |key: Key| {
                let view = world.mesh.mcs_view(&key, &world.services, &said, mesh.namespaces_are_global);
                let plan = mcs::plan(&key, &view, settings, now);
                (key, plan)
            };
            keys.into_iter().map(plan).collect()
        };
        let (outcome, again) = apply::mesh::exports(&self.client, &mut self.world, plans).await;
        self.world.mesh.mcs.extend(again);
        outcome
    }

    async fn run_slices(&mut self, rejected: &mut Vec<Rejected>) -> Outcome {
        let Some(mesh) = &self.settings.mesh else { return Outcome::default() };
        let plans = {
            let said = self.remotes.said();
            rejected.extend(said.rejected(|kind| kind != Kind::ServiceExports));
            let world = &mut self.world;
            let keys = world.mesh.take_sync(MOST_SERVICES_AT_ONCE, &world.services);
            let plan = |key: Key| {
                let view = world.mesh.sync_view(&key, &world.services, &said, mesh.namespaces_are_global);
                let plan = slices::plan(&key, &view, mesh.endpoints_per_slice);
                (key, plan)
            };
            keys.into_iter().map(plan).collect()
        };
        let at_once = mesh.services_at_once;
        let (outcome, again) = apply::mesh::slices(&self.client, &mut self.world, plans, at_once).await;
        self.world.mesh.sync.extend(again);
        outcome
    }

    /// Logs what is newly rejected, and what is no longer.
    fn tell(&mut self, trade: Trade, rejected: Vec<Rejected>) {
        let rejected: BTreeSet<Rejected> = rejected.into_iter().collect();
        let told = self.told.entry(trade).or_default();
        for new in rejected.difference(told) {
            tracing::warn!(
                kind = new.kind,
                object = new.object,
                field = new.field,
                problem = new.message,
                remedy = new.remedy,
                "object rejected"
            );
        }
        for gone in told.difference(&rejected) {
            tracing::info!(kind = gone.kind, object = gone.object, field = gone.field, "no longer rejected");
        }
        *told = rejected;
        self.telemetry.rejected(self.told.values().flatten().cloned().collect());
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
