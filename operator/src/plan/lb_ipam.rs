//! LB IPAM: which Service has which addresses of which pool.
//!
//! Everything is decided anew each time from pools and Services alone, in three passes: pools that overlap an older one
//! are set aside; Services keep what they hold as long as that is still right; then the others get the lowest free
//! addresses, older Services first. There is no memory between runs: what is held stands in the Services' status, so a
//! restart changes nothing, and an address moves only when its Service or its pool no longer allows it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_k8s::checked::{Pool, Range};
use causeway_k8s::condition::Timestamp;
use causeway_k8s::watch::Key;

use super::lb_service::{LbService, Wants};

/// A pool with its age, which decides who is in conflict with whom.
#[derive(Clone, Debug)]
pub(crate) struct AgedPool {
    pub(crate) created: Option<Timestamp>,
    pub(crate) pool: Pool,
}

/// The decision about all Services and pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allocation {
    pub(crate) services: BTreeMap<Key, Granted>,
    pub(crate) pools: BTreeMap<String, PoolUse>,
}

/// What one Service has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Granted {
    /// In the order in which the status should list them: those held before come first.
    pub(crate) ips: Vec<IpAddr>,
    /// Why it has not all that it asks for.
    pub(crate) unmet: Option<Unmet>,
}

/// Why a Service lacks an address. The reasons are Cilium's words, for scripts that read conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unmet {
    /// No pool has the address, or no enabled pool selects the Service.
    NoPool(String),
    /// The pool that has the address does not select the Service.
    PoolSelectorMismatch(String),
    /// All pools that select the Service are full.
    OutOfIps(String),
    /// Another Service has the address.
    AlreadyAllocated(String),
    /// Another Service has the address, with a sharing key, but the two cannot share.
    AlreadyAllocatedIncompatible(String),
    /// What the Service asks for cannot be read. Ours; Cilium passes over it.
    InvalidRequest(String),
}

impl Unmet {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Unmet::NoPool(_) => "no_pool",
            Unmet::PoolSelectorMismatch(_) => "pool_selector_mismatch",
            Unmet::OutOfIps(_) => "out_of_ips",
            Unmet::AlreadyAllocated(_) => "already_allocated",
            Unmet::AlreadyAllocatedIncompatible(_) => "already_allocated_incompatible_service",
            Unmet::InvalidRequest(_) => "invalid_request",
        }
    }

    pub(crate) fn message(&self) -> &str {
        match self {
            Unmet::NoPool(text)
            | Unmet::PoolSelectorMismatch(text)
            | Unmet::OutOfIps(text)
            | Unmet::AlreadyAllocated(text)
            | Unmet::AlreadyAllocatedIncompatible(text)
            | Unmet::InvalidRequest(text) => text,
        }
    }
}

/// How full a pool is, and whether it may be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PoolUse {
    /// Why nothing is given out from it: it overlaps an older pool.
    pub(crate) conflict: Option<String>,
    pub(crate) total: u128,
    pub(crate) used: u128,
}

impl PoolUse {
    pub(crate) fn available(&self) -> u128 {
        self.total.saturating_sub(self.used)
    }
}

/// Decides. `pools_incomplete`: some pool exists that could not be read; then a Service keeps addresses that no known
/// pool has, since they may be of that one.
pub(crate) fn allocate(pools: &[AgedPool], services: &[LbService], pools_incomplete: bool) -> Allocation {
    let mut by_age: Vec<&LbService> = services.iter().collect();
    by_age.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
    let mut run = Run::new(pools);
    for service in &by_age {
        run.keep(service, pools_incomplete);
    }
    let mut unmet: BTreeMap<&Key, Unmet> = BTreeMap::new();
    for service in &by_age {
        if let Some(reason) = run.grant(service) {
            unmet.insert(&service.key, reason);
        }
    }
    let services = by_age.iter().map(|service| {
        let ips = run.granted.remove(&service.key).unwrap_or_default();
        (service.key.clone(), Granted { ips, unmet: unmet.remove(&service.key) })
    });
    let services = services.collect();
    Allocation { services, pools: run.pool_uses() }
}

/// One run: who holds what so far.
struct Run<'a> {
    /// Oldest first, which is the order of giving out.
    pools: Vec<PoolState<'a>>,
    holders: BTreeMap<IpAddr, Vec<&'a LbService>>,
    granted: BTreeMap<Key, Vec<IpAddr>>,
    /// Addresses in use by sharing key.
    shared: BTreeMap<&'a str, BTreeSet<IpAddr>>,
    /// Below this address of a range (pool index, range index) nothing is free.
    cursors: BTreeMap<(usize, usize), IpAddr>,
}

struct PoolState<'a> {
    pool: &'a Pool,
    conflict: Option<String>,
}

impl PoolState<'_> {
    fn selects(&self, service: &LbService) -> bool {
        self.pool.service_selector.matches_with(|key| service.label(key))
    }

    fn gives_out(&self) -> bool {
        !self.pool.disabled && self.conflict.is_none()
    }
}

impl<'a> Run<'a> {
    fn new(pools: &'a [AgedPool]) -> Run<'a> {
        let mut by_age: Vec<&AgedPool> = pools.iter().collect();
        by_age.sort_by(|a, b| (a.created, &a.pool.name).cmp(&(b.created, &b.pool.name)));
        let mut states: Vec<PoolState<'a>> = Vec::with_capacity(by_age.len());
        for aged in by_age {
            let conflict = states.iter().filter(|other| other.conflict.is_none()).find_map(|older| {
                let pairs = aged.pool.ranges.iter().flat_map(|a| older.pool.ranges.iter().map(move |b| (a, b)));
                pairs.into_iter().find(|(a, b)| a.overlaps(b)).map(|(ours, theirs)| {
                    format!("range {ours} overlaps range {theirs} of the older pool {:?}", older.pool.name)
                })
            });
            states.push(PoolState { pool: &aged.pool, conflict });
        }
        Run {
            pools: states,
            holders: BTreeMap::new(),
            granted: BTreeMap::new(),
            shared: BTreeMap::new(),
            cursors: BTreeMap::new(),
        }
    }

    /// Second pass: `service` keeps what it holds where that is still right. Disabled and conflicting pools give out
    /// nothing new, but take nothing away.
    fn keep(&mut self, service: &'a LbService, pools_incomplete: bool) {
        for ip in service.holds.clone() {
            let pools: Vec<&PoolState> = self.pools_with(ip).collect();
            let in_pool = match pools.is_empty() {
                true => pools_incomplete,
                false => pools.iter().any(|pool| pool.selects(service)),
            };
            let wanted = match &service.wants {
                _ if service.fault.is_some() => true,
                Wants::These(ips) => ips.contains(&ip),
                Wants::OneOfEach { ipv4, ipv6 } => {
                    let one_more = !self.held(service).iter().any(|held| held.is_ipv4() == ip.is_ipv4());
                    one_more && if ip.is_ipv4() { *ipv4 } else { *ipv6 }
                }
            };
            if in_pool && wanted && self.obstacle(service, ip).is_none() {
                self.take(service, ip);
            }
        }
    }

    /// Third pass: what is missing. Returns why something stays missing.
    fn grant(&mut self, service: &'a LbService) -> Option<Unmet> {
        if let Some(fault) = &service.fault {
            return Some(Unmet::InvalidRequest(format!("{}: {}; {}", fault.field, fault.message, fault.remedy)));
        }
        match &service.wants {
            Wants::These(ips) => {
                let mut unmet = None;
                for ip in ips.iter().filter(|ip| !self.held(service).contains(ip)).copied().collect::<Vec<_>>() {
                    if let Err(reason) = self.grant_this(service, ip) {
                        unmet.get_or_insert(reason);
                    }
                }
                unmet
            }
            Wants::OneOfEach { ipv4, ipv6 } => {
                let mut unmet = None;
                for is_ipv4 in [true, false] {
                    let wanted = if is_ipv4 { *ipv4 } else { *ipv6 };
                    if !wanted || self.held(service).iter().any(|held| held.is_ipv4() == is_ipv4) {
                        continue;
                    }
                    if let Err(reason) = self.grant_any(service, is_ipv4) {
                        unmet.get_or_insert(reason);
                    }
                }
                unmet
            }
        }
    }

    fn grant_this(&mut self, service: &'a LbService, ip: IpAddr) -> Result<(), Unmet> {
        let usable: Vec<&PoolState> = self.pools_with(ip).filter(|pool| pool.gives_out()).collect();
        if usable.is_empty() {
            return Err(Unmet::NoPool(format!("no enabled pool without conflict has {ip}; add it to a pool")));
        }
        let Some(pool) = usable.iter().find(|pool| pool.selects(service)) else {
            return Err(Unmet::PoolSelectorMismatch(format!(
                "pool {:?} has {ip}, but its serviceSelector does not match this Service",
                usable[0].pool.name
            )));
        };
        if !pool.pool.ranges.iter().any(|range| range.is_allocatable(ip)) {
            return Err(Unmet::NoPool(format!(
                "{ip} is the first or last address of a CIDR of pool {:?}, which has allowFirstLastIPs: \"No\"",
                pool.pool.name
            )));
        }
        if let Some(obstacle) = self.obstacle(service, ip) {
            let unmet = if service.sharing.is_some() {
                Unmet::AlreadyAllocatedIncompatible(format!("{ip} cannot be shared with {obstacle}"))
            } else {
                Unmet::AlreadyAllocated(format!("{ip} is in use by {obstacle}"))
            };
            return Err(unmet);
        }
        self.take(service, ip);
        Ok(())
    }

    fn grant_any(&mut self, service: &'a LbService, ipv4: bool) -> Result<(), Unmet> {
        if let Some(ip) = self.sharable(service, ipv4) {
            self.take(service, ip);
            return Ok(());
        }
        let family = if ipv4 { "IPv4" } else { "IPv6" };
        let mut full = Vec::new();
        for index in 0..self.pools.len() {
            let state = &self.pools[index];
            if !state.gives_out() || !state.selects(service) {
                continue;
            }
            let ranges: Vec<(usize, Range)> =
                state.pool.ranges.iter().copied().enumerate().filter(|(_, range)| range.is_ipv4() == ipv4).collect();
            if ranges.is_empty() {
                continue;
            }
            full.push(format!("{:?}", state.pool.name));
            for (range_index, range) in ranges {
                if let Some(ip) = self.lowest_free(index, range_index, range) {
                    self.take(service, ip);
                    return Ok(());
                }
            }
        }
        Err(if full.is_empty() {
            Unmet::NoPool(format!("no enabled pool with {family} addresses selects this Service"))
        } else {
            Unmet::OutOfIps(format!("all {family} addresses of pools {} are in use; add a block", full.join(", ")))
        })
    }

    /// The lowest address that `service` may share with those who have it.
    fn sharable(&self, service: &LbService, ipv4: bool) -> Option<IpAddr> {
        let key = &service.sharing.as_ref()?.key;
        self.shared.get(key.as_str())?.iter().copied().find(|ip| {
            ip.is_ipv4() == ipv4
                && self.pools_with(*ip).any(|pool| pool.gives_out() && pool.selects(service))
                && self.obstacle(service, *ip).is_none()
        })
    }

    /// Addresses are never given back during a run, so the search goes on where the last one ended.
    fn lowest_free(&mut self, pool: usize, index: usize, range: Range) -> Option<IpAddr> {
        let from = self.cursors.get(&(pool, index)).copied();
        let ip = range.lowest_free(from, |ip| self.holders.contains_key(&ip))?;
        self.cursors.insert((pool, index), ip);
        Some(ip)
    }

    /// Who stands in the way of `service` having `ip`, and why.
    fn obstacle(&self, service: &LbService, ip: IpAddr) -> Option<String> {
        self.holders.get(&ip)?.iter().find_map(|holder| {
            let why = service.sharing_obstacle(holder)?;
            Some(format!("Service {}: {why}", holder.key))
        })
    }

    fn pools_with(&self, ip: IpAddr) -> impl Iterator<Item = &PoolState<'a>> {
        self.pools.iter().filter(move |pool| pool.pool.ranges.iter().any(|range| range.contains(ip)))
    }

    fn held(&self, service: &LbService) -> &[IpAddr] {
        self.granted.get(&service.key).map_or(&[], Vec::as_slice)
    }

    fn take(&mut self, service: &'a LbService, ip: IpAddr) {
        self.holders.entry(ip).or_default().push(service);
        self.granted.entry(service.key.clone()).or_default().push(ip);
        if let Some(sharing) = &service.sharing {
            self.shared.entry(&sharing.key).or_default().insert(ip);
        }
    }

    fn pool_uses(&self) -> BTreeMap<String, PoolUse> {
        let uses = self.pools.iter().map(|state| {
            let ranges = &state.pool.ranges;
            let total = ranges.iter().fold(0_u128, |sum, range| sum.saturating_add(range.size()));
            let used =
                ranges.iter().map(|range| self.holders.range(range.first()..=range.last()).count() as u128).sum();
            (state.pool.name.clone(), PoolUse { conflict: state.conflict.clone(), total, used })
        });
        uses.collect()
    }
}

#[cfg(test)]
mod tests;
