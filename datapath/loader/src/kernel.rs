//! The datapath in the kernel: pinned maps and tcx links, and the programs that this process loaded.
//!
//! Layout of the pins: `<pin_root>/v<layout>/<MAP>` and `<pin_root>/v<layout>/links/<ifindex>-<program>`. One process
//! at a time works on a pin root; a lock on the directory sees to that.

mod flows;
mod links;
mod open;
mod probe;
mod services;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, MapData, MapError, PerCpuArray};
use aya::programs::SchedClassifier;
use causeway_datapath_abi as abi;
use ipnet::IpNet;

use crate::{
    AttachedLink, CounterReading, Datapath, EncryptEntry, Endpoint, Error, Feature, FlowRow, Frontend, GcStats, Hook,
    IpcacheEntry, LbService, MapUsage, Result, convert,
};
pub use open::{MapSize, Options, object};
use services::Services;

/// See the module.
pub struct Kernel {
    dir: PathBuf,
    features: Vec<Feature>,
    limits: BTreeMap<&'static str, u32>,
    // Reconcilers of different tables call from different threads; each table has its own lock, so that a long
    // service update does not hold up a pod's start.
    services: Mutex<Services>,
    ipcache: Mutex<Table<LpmTrie<MapData, abi::Addr, abi::IpcacheEntry>, IpNet, IpcacheEntry>>,
    encrypt: Mutex<Table<LpmTrie<MapData, abi::Addr, abi::EncryptEntry>, IpNet, EncryptEntry>>,
    endpoints: Mutex<Table<HashMap<MapData, abi::Addr, abi::Endpoint>, IpAddr, Endpoint>>,
    programs: Mutex<Ebpf>,
    counters: PerCpuArray<MapData, abi::Count>,
    flows: flows::Flows,
    /// Held open for its lock.
    _lock: std::fs::File,
}

/// A map and what we know to be in it. Comparing with the mirror makes an unchanged upsert free, and lists cheap; the
/// directory lock makes this process the only writer.
struct Table<M, K, V> {
    map: M,
    mirror: BTreeMap<K, V>,
}

impl<M, K: Ord, V: PartialEq> Table<M, K, V> {
    fn upsert(&mut self, key: K, value: V, write: impl FnOnce(&mut M, &K, &V) -> Result<()>) -> Result<bool> {
        if self.mirror.get(&key) == Some(&value) {
            return Ok(false);
        }
        write(&mut self.map, &key, &value)?;
        self.mirror.insert(key, value);
        Ok(true)
    }

    fn delete(&mut self, key: &K, remove: impl FnOnce(&mut M) -> Result<(), MapError>, doing: &str) -> Result<bool> {
        if !self.mirror.contains_key(key) {
            return Ok(false);
        }
        match remove(&mut self.map) {
            Err(error) if !is_absent(&error) => return Err(Error::kernel(doing, error)),
            _ => {}
        }
        self.mirror.remove(key);
        Ok(true)
    }
}

impl Kernel {
    /// Directory of this layout's pins.
    pub fn pin_dir(&self) -> &Path {
        &self.dir
    }

    /// Lends a loaded program, for tests that run it on packets and for its size and instruction counts.
    pub fn with_program<R>(&self, hook: Hook, f: impl FnOnce(&mut SchedClassifier) -> R) -> Result<R> {
        links::with_program(&mut lock(&self.programs), hook, f)
    }

    fn full_or(&self, map: &'static str, doing: String, error: MapError) -> Error {
        write_error(map, self.limits.get(map).copied().unwrap_or(0), doing, error)
    }
}

/// A thread that panicked while it held a table left at most one row unwritten, which its reconciler repeats.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(e) => e.io_error.raw_os_error(),
        MapError::KeyNotFound | MapError::ElementNotFound => Some(libc::ENOENT),
        _ => None,
    }
}

fn is_absent(error: &MapError) -> bool {
    errno(error) == Some(libc::ENOENT)
}

/// The error of a refused write: hash maps say E2BIG when they are full, tries ENOSPC.
fn write_error(map: &'static str, limit: u32, doing: String, error: MapError) -> Error {
    match errno(&error) {
        Some(libc::E2BIG | libc::ENOSPC) => Error::Full { map, limit, remedy: open::remedy_of(map), doing },
        _ => Error::kernel(doing, error),
    }
}

impl Datapath for Kernel {
    fn upsert_service(&self, frontend: Frontend, service: &LbService) -> Result<bool> {
        lock(&self.services).upsert(frontend, service)
    }

    fn delete_service(&self, frontend: Frontend) -> Result<bool> {
        lock(&self.services).delete(frontend)
    }

    fn services(&self) -> Result<BTreeMap<Frontend, LbService>> {
        Ok(lock(&self.services).list())
    }

    fn upsert_ipcache(&self, prefix: IpNet, entry: IpcacheEntry) -> Result<bool> {
        lock(&self.ipcache).upsert(prefix.trunc(), entry, |map, prefix, entry| {
            let key = convert::ipcache_key(*prefix);
            map.insert(&Key::new(key.prefix_len, key.addr), convert::ipcache_entry(*entry), 0)
                .map_err(|e| self.full_or(abi::map::IPCACHE, format!("writing ipcache row {prefix}"), e))
        })
    }

    fn delete_ipcache(&self, prefix: IpNet) -> Result<bool> {
        let key = convert::ipcache_key(prefix);
        let remove = |map: &mut LpmTrie<_, _, _>| map.remove(&Key::new(key.prefix_len, key.addr));
        lock(&self.ipcache).delete(&prefix.trunc(), remove, "deleting an ipcache row")
    }

    fn ipcache(&self) -> Result<BTreeMap<IpNet, IpcacheEntry>> {
        Ok(lock(&self.ipcache).mirror.clone())
    }

    fn upsert_encrypt(&self, prefix: IpNet, entry: EncryptEntry) -> Result<bool> {
        lock(&self.encrypt).upsert(prefix.trunc(), entry, |map, prefix, entry| {
            let key = convert::ipcache_key(*prefix);
            map.insert(&Key::new(key.prefix_len, key.addr), convert::encrypt_entry(*entry), 0)
                .map_err(|e| self.full_or(abi::map::ENCRYPT, format!("writing encryption row {prefix}"), e))
        })
    }

    fn delete_encrypt(&self, prefix: IpNet) -> Result<bool> {
        let key = convert::ipcache_key(prefix);
        let remove = |map: &mut LpmTrie<_, _, _>| map.remove(&Key::new(key.prefix_len, key.addr));
        lock(&self.encrypt).delete(&prefix.trunc(), remove, "deleting an encryption row")
    }

    fn encrypt(&self) -> Result<BTreeMap<IpNet, EncryptEntry>> {
        Ok(lock(&self.encrypt).mirror.clone())
    }

    fn upsert_endpoint(&self, addr: IpAddr, endpoint: Endpoint) -> Result<bool> {
        lock(&self.endpoints).upsert(addr, endpoint, |map, addr, endpoint| {
            map.insert(convert::addr(*addr), convert::endpoint(*endpoint), 0)
                .map_err(|e| self.full_or(abi::map::ENDPOINTS, format!("writing endpoint row {addr}"), e))
        })
    }

    fn delete_endpoint(&self, addr: IpAddr) -> Result<bool> {
        let remove = |map: &mut HashMap<_, _, _>| map.remove(&convert::addr(addr));
        lock(&self.endpoints).delete(&addr, remove, "deleting an endpoint row")
    }

    fn endpoints(&self) -> Result<BTreeMap<IpAddr, Endpoint>> {
        Ok(lock(&self.endpoints).mirror.clone())
    }

    fn attach_pod(&self, ifindex: u32) -> Result<()> {
        let mut programs = lock(&self.programs);
        links::attach(&mut programs, &self.dir, ifindex, Hook::FromPod)?;
        links::attach(&mut programs, &self.dir, ifindex, Hook::ToPod)
    }

    fn attach_uplink(&self, ifindex: u32) -> Result<()> {
        let mut programs = lock(&self.programs);
        links::attach(&mut programs, &self.dir, ifindex, Hook::FromNet)?;
        links::attach(&mut programs, &self.dir, ifindex, Hook::ToNet)
    }

    fn attach_wireguard(&self, ifindex: u32) -> Result<()> {
        links::attach(&mut lock(&self.programs), &self.dir, ifindex, Hook::FromWg)
    }

    fn detach(&self, ifindex: u32) -> Result<bool> {
        let _programs = lock(&self.programs);
        links::detach(&self.dir, |link| link.ifindex == ifindex).map(|gone| !gone.is_empty())
    }

    fn attached(&self) -> Result<Vec<AttachedLink>> {
        links::list(&self.dir)
    }

    fn prune_links(&self) -> Result<Vec<AttachedLink>> {
        let _programs = lock(&self.programs);
        links::detach(&self.dir, |link| link.interface.is_none())
    }

    fn counters(&self) -> Result<Vec<CounterReading>> {
        let mut all = abi::Counter::ALL.to_vec();
        all.sort_unstable_by_key(|counter| *counter as u32);
        all.into_iter()
            .map(|counter| {
                let per_cpu = self
                    .counters
                    .get(&(counter as u32), 0)
                    .map_err(|e| Error::kernel(format!("reading counter {}", counter.name()), e))?;
                let sum = |of: fn(&abi::Count) -> u64| per_cpu.iter().map(of).fold(0, u64::wrapping_add);
                Ok(CounterReading { counter, packets: sum(|c| c.packets), bytes: sum(|c| c.bytes) })
            })
            .collect()
    }

    fn flows(&self, limit: usize) -> Result<Vec<FlowRow>> {
        self.flows.dump(limit)
    }

    fn collect_flows(&self, now_s: u32) -> Result<GcStats> {
        self.flows.collect(now_s)
    }

    fn delete_flows(&self, obsolete: &dyn Fn(&FlowRow) -> bool) -> Result<usize> {
        self.flows.delete(obsolete).map(|stats| stats.deleted)
    }

    fn usage(&self) -> Result<Vec<MapUsage>> {
        let (services, slots) = lock(&self.services).rows();
        let rows = [
            (abi::map::SERVICES, services),
            (abi::map::SLOTS, slots),
            (abi::map::IPCACHE, lock(&self.ipcache).mirror.len()),
            (abi::map::ENCRYPT, lock(&self.encrypt).mirror.len()),
            (abi::map::ENDPOINTS, lock(&self.endpoints).mirror.len()),
            (abi::map::FLOWS, self.flows.rows()),
        ];
        let limit = |map| self.limits.get(map).and_then(|n| usize::try_from(*n).ok()).unwrap_or(0);
        Ok(rows.into_iter().map(|(map, rows)| MapUsage { map, rows, limit: limit(map) }).collect())
    }

    fn features(&self) -> Vec<Feature> {
        self.features.clone()
    }
}

impl Kernel {
    /// A second descriptor of a pinned map, for tests and tools that look at raw rows.
    pub fn map(&self, name: &str) -> Result<MapData> {
        MapData::from_pin(self.dir.join(name)).map_err(|e| Error::kernel(format!("opening the pin of map {name}"), e))
    }

    /// Kernel ids of the maps, by name.
    pub fn map_ids(&self) -> Result<BTreeMap<&'static str, u32>> {
        let id = |name: &'static str| {
            let info = self.map(name)?.info().map_err(|e| Error::kernel(format!("asking for map {name}"), e))?;
            Ok((name, info.id()))
        };
        self.limits.keys().map(|name| id(name)).collect()
    }

    /// Raw rows of the flow table go in and out here in tests.
    pub fn flows_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.flows.map().fd().as_fd()
    }
}
