//! LB IPAM's decision as status updates: which Services and pools do not yet say what was decided.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use causeway_k8s::checked::Pool;
use causeway_k8s::condition::{self, Condition, Desired, Status, Timestamp};
use causeway_k8s::names;
use causeway_k8s::watch::Key;
use causeway_k8s::{CiliumLoadBalancerIPPool, Rejected};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use kube::ResourceExt;

use super::lb_ipam::{AgedPool, Allocation, Granted, PoolUse, allocate};
use super::lb_service::{self, LbService, Settings};

/// What the watches show.
pub(crate) struct Snapshot<'a> {
    pub(crate) pools: &'a BTreeMap<Key, Arc<CiliumLoadBalancerIPPool>>,
    /// Pools that could not even be decoded.
    pub(crate) undecodable_pools: usize,
    pub(crate) services: &'a BTreeMap<Key, Arc<Service>>,
}

/// Everything to do, and what to tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) services: Vec<ServiceStatus>,
    pub(crate) pools: Vec<PoolStatus>,
    pub(crate) rejected: Vec<Rejected>,
    pub(crate) figures: Figures,
}

/// The parts of a Service's status that are ours, complete.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServiceStatus {
    pub(crate) key: Key,
    pub(crate) resource_version: Option<String>,
    pub(crate) ingress: Vec<LoadBalancerIngress>,
    pub(crate) conditions: Vec<Condition>,
}

/// A pool's status, complete.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PoolStatus {
    pub(crate) name: String,
    pub(crate) resource_version: Option<String>,
    pub(crate) conditions: Vec<Condition>,
}

/// Figures for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) matching: usize,
    pub(crate) unsatisfied: usize,
    pub(crate) pools: BTreeMap<String, PoolUse>,
}

/// Decides and compares with what stands there.
pub(crate) fn plan(snapshot: &Snapshot<'_>, settings: &Settings, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let (pools, unreadable) = read_pools(snapshot, &mut plan.rejected);
    // Without any pool LB IPAM sleeps, so that another program may serve the Services. It still takes back what it
    // once gave: its condition marks those Services.
    let asleep = snapshot.pools.is_empty() && snapshot.undecodable_pools == 0;
    let mut ours: Vec<LbService> = Vec::new();
    for service in snapshot.services.values() {
        if !lb_service::is_ours(service, settings) || (asleep && !is_marked(service)) {
            plan.services.extend(release(service));
            continue;
        }
        let (lb_service, rejected) = lb_service::read(service, settings);
        plan.rejected.extend(rejected);
        ours.push(lb_service);
    }
    let incomplete = snapshot.undecodable_pools > 0 || !unreadable.is_empty();
    let allocation = allocate(&pools, &ours, incomplete);
    for (key, granted) in &allocation.services {
        plan.services.extend(snapshot.services.get(key).and_then(|service| service_status(service, granted, now)));
    }
    for pool in snapshot.pools.values() {
        let name = pool.name_any();
        let fault = unreadable.get(&name);
        plan.pools.extend(pool_status(pool, allocation.pools.get(&name), fault, now));
    }
    plan.figures = figures(&allocation);
    plan
}

fn read_pools(snapshot: &Snapshot<'_>, rejected: &mut Vec<Rejected>) -> (Vec<AgedPool>, BTreeMap<String, Rejected>) {
    let mut pools = Vec::with_capacity(snapshot.pools.len());
    let mut unreadable = BTreeMap::new();
    for object in snapshot.pools.values() {
        match Pool::try_from(&**object) {
            Ok(pool) => pools.push(AgedPool { created: object.creation_timestamp().map(|time| time.0), pool }),
            Err(fault) => {
                rejected.push(fault.clone());
                unreadable.insert(object.name_any(), fault);
            }
        }
    }
    (pools, unreadable)
}

fn figures(allocation: &Allocation) -> Figures {
    Figures {
        matching: allocation.services.len(),
        unsatisfied: allocation.services.values().filter(|granted| granted.unmet.is_some()).count(),
        pools: allocation.pools.clone(),
    }
}

fn conditions_of(service: &Service) -> Vec<Condition> {
    service.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default()
}

fn ingress_of(service: &Service) -> Vec<LoadBalancerIngress> {
    let load_balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    load_balancer.and_then(|lb| lb.ingress.clone()).unwrap_or_default()
}

/// Whether we have given this Service addresses, or told it why not.
fn is_marked(service: &Service) -> bool {
    condition::find(&conditions_of(service), names::CONDITION_IPAM_REQUEST_SATISFIED).is_some()
}

/// Takes our marks off a Service that is no longer ours.
fn release(service: &Service) -> Option<ServiceStatus> {
    let mut conditions = conditions_of(service);
    condition::remove(&mut conditions, names::CONDITION_IPAM_REQUEST_SATISFIED).then(|| ServiceStatus {
        key: Key::of(service),
        resource_version: service.resource_version(),
        ingress: Vec::new(),
        conditions,
    })
}

fn service_status(service: &Service, granted: &Granted, now: Timestamp) -> Option<ServiceStatus> {
    let ingress: Vec<LoadBalancerIngress> = granted.ips.iter().copied().map(ingress_entry).collect();
    let mut conditions = conditions_of(service);
    let desired = Desired {
        type_: names::CONDITION_IPAM_REQUEST_SATISFIED,
        status: granted.unmet.is_none().into(),
        reason: granted.unmet.as_ref().map_or("satisfied", |unmet| unmet.reason()),
        message: granted.unmet.as_ref().map_or("", |unmet| unmet.message()),
    };
    let condition_changed = condition::set(&mut conditions, &desired, service.metadata.generation, now);
    (condition_changed || ingress != ingress_of(service)).then(|| ServiceStatus {
        key: Key::of(service),
        resource_version: service.resource_version(),
        ingress,
        conditions,
    })
}

fn ingress_entry(ip: IpAddr) -> LoadBalancerIngress {
    LoadBalancerIngress {
        ip: Some(ip.to_string()),
        // The node delivers to the address itself (KEP-1860).
        ip_mode: Some("VIP".to_owned()),
        ..LoadBalancerIngress::default()
    }
}

fn pool_status(
    pool: &CiliumLoadBalancerIPPool,
    pool_use: Option<&PoolUse>,
    fault: Option<&Rejected>,
    now: Timestamp,
) -> Option<PoolStatus> {
    let mut conditions = pool.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
    let generation = pool.metadata.generation;
    let mut changed = false;
    let mut set = |type_: &str, status: Status, reason: &str, message: &str| {
        changed |= condition::set(&mut conditions, &Desired { type_, status, reason, message }, generation, now);
    };
    if let Some(pool_use) = pool_use {
        match &pool_use.conflict {
            Some(message) => set(names::CONDITION_POOL_CONFLICT, Status::True, "cidr_overlap", message),
            None => set(names::CONDITION_POOL_CONFLICT, Status::False, "resolved", ""),
        }
        // Cilium carries the counts in the messages of conditions without a truth.
        let mut count = |type_, count: u128| set(type_, Status::Unknown, "noreason", &count.to_string());
        count(names::CONDITION_IPS_TOTAL, pool_use.total);
        count(names::CONDITION_IPS_AVAILABLE, pool_use.available());
        count(names::CONDITION_IPS_USED, pool_use.used);
    }
    if let Some(fault) = fault {
        let message = format!("{}: {}; {}", fault.field, fault.message, fault.remedy);
        set(names::CONDITION_REJECTED, Status::True, "invalid_field", &message);
    } else {
        changed |= condition::remove(&mut conditions, names::CONDITION_REJECTED);
    }
    changed.then(|| PoolStatus { name: pool.name_any(), resource_version: pool.resource_version(), conditions })
}

#[cfg(test)]
mod tests {
    use super::super::lb_service::tests::service;
    use super::*;

    fn world(pools: &[&str], services: &[&str]) -> (BTreeMap<Key, Arc<CiliumLoadBalancerIPPool>>, Services) {
        let pools = pools.iter().map(|yaml| {
            let text = format!("apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\n{yaml}");
            let pool: CiliumLoadBalancerIPPool = serde_yaml_ng::from_str(&text).unwrap();
            (Key::of(&pool), Arc::new(pool))
        });
        let services = services.iter().map(|yaml| {
            let service = service(yaml);
            (Key::of(&service), Arc::new(service))
        });
        (pools.collect(), services.collect())
    }

    type Services = BTreeMap<Key, Arc<Service>>;

    fn run(pools: &[&str], services: &[&str]) -> Plan {
        let (pools, services) = world(pools, services);
        let snapshot = Snapshot { pools: &pools, undecodable_pools: 0, services: &services };
        plan(&snapshot, &Settings::default(), Timestamp::UNIX_EPOCH)
    }

    const POOL: &str = "metadata: {name: p}\nspec: {blocks: [{cidr: 192.0.2.0/24}]}";
    const WEB: &str = "{metadata: {name: web, namespace: n, generation: 3}, spec: {type: LoadBalancer}}";

    #[test]
    fn a_new_service_gets_ingress_and_condition_and_then_rests() {
        let plan_ = run(&[POOL], &[WEB]);
        let status = &plan_.services[0];
        assert_eq!(status.ingress[0].ip.as_deref(), Some("192.0.2.0"));
        assert_eq!(status.ingress[0].ip_mode.as_deref(), Some("VIP"));
        let condition = &status.conditions[0];
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", "satisfied"));
        assert_eq!(condition.observed_generation, Some(3));

        let (mut pools, mut services) = world(&[POOL], &[WEB]);
        let service = Arc::make_mut(services.values_mut().next().unwrap());
        let held = service.status.get_or_insert_default();
        held.conditions = Some(status.conditions.clone());
        held.load_balancer.get_or_insert_default().ingress = Some(status.ingress.clone());
        let pool = Arc::make_mut(pools.values_mut().next().unwrap());
        pool.status.get_or_insert_default().conditions.clone_from(&plan_.pools[0].conditions);
        let snapshot = Snapshot { pools: &pools, undecodable_pools: 0, services: &services };
        let again = plan(&snapshot, &Settings::default(), Timestamp::MAX);
        assert!(again.services.is_empty() && again.pools.is_empty(), "{again:?}");
    }

    #[test]
    fn pool_conditions_count_addresses() {
        let plan = run(&[POOL], &[WEB]);
        let message = |type_| condition::find(&plan.pools[0].conditions, type_).map(|c| c.message.as_str());
        assert_eq!(message("cilium.io/IPsTotal"), Some("256"));
        assert_eq!(message("cilium.io/IPsAvailable"), Some("255"));
        assert_eq!(message("cilium.io/IPsUsed"), Some("1"));
        let conflict = condition::find(&plan.pools[0].conditions, "cilium.io/PoolConflict").unwrap();
        assert_eq!(conflict.status, "False");
    }

    #[test]
    fn a_bad_pool_is_marked_and_the_good_one_serves() {
        let bad = "metadata: {name: bad}\nspec: {blocks: [{cidr: 192.0.2.0/99}]}";
        let plan = run(&[POOL, bad], &[WEB]);
        assert_eq!(plan.services[0].ingress.len(), 1);
        assert_eq!(plan.rejected[0].field, "spec.blocks[0].cidr");
        let marked = plan.pools.iter().find(|pool| pool.name == "bad").unwrap();
        let condition = condition::find(&marked.conditions, "causeway.io/Rejected").unwrap();
        assert!(condition.message.contains("spec.blocks[0].cidr"), "{condition:?}");
    }

    #[test]
    fn a_service_that_is_no_longer_ours_is_cleaned_once() {
        let marked = |type_: &str| {
            format!(
                "{{metadata: {{name: web, namespace: n}}, spec: {{type: {type_}}}, status: {{loadBalancer: {{ingress: [{{ip: 192.0.2.0}}]}},
                conditions: [{{type: cilium.io/IPAMRequestSatisfied, status: 'True', reason: satisfied, message: '', lastTransitionTime: '2026-01-01T00:00:00Z'}}]}}}}"
            )
        };
        let plan = run(&[POOL], &[&marked("ClusterIP")]);
        assert!(plan.services[0].ingress.is_empty() && plan.services[0].conditions.is_empty());
        assert_eq!(plan.figures.matching, 0);
        let asleep = run(&[], &[&marked("LoadBalancer")]);
        assert!(asleep.services[0].ingress.is_empty(), "the last pool is gone");
    }

    #[test]
    fn without_pools_other_programs_services_are_left_alone() {
        let foreign = "{metadata: {name: web}, spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: 203.0.113.1}]}}}";
        assert!(run(&[], &[foreign]).services.is_empty());
        let classed = foreign.replace("type: LoadBalancer", "type: LoadBalancer, loadBalancerClass: example.com/x");
        assert!(run(&[POOL], &[&classed]).services.is_empty());
    }
}
