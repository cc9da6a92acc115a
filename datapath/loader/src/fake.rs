//! The datapath in memory: what the agent's tests run against. It keeps rows and links and moves no packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use causeway_datapath_abi::Counter;
use ipnet::IpNet;

use crate::{
    AttachedLink, CounterReading, Datapath, EncryptEntry, Endpoint, Error, Feature, FlowRow, Frontend, GcStats, Hook,
    IpcacheEntry, LbService, MapUsage, Result, plan,
};

/// See the module. Cheap to make; share it in an `Arc`.
#[derive(Debug, Default)]
pub struct Fake {
    // One lock for all rows: the real datapath may be called from any thread, so this one too.
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    services: BTreeMap<Frontend, LbService>,
    ipcache: BTreeMap<IpNet, IpcacheEntry>,
    encrypt: BTreeMap<IpNet, EncryptEntry>,
    endpoints: BTreeMap<IpAddr, Endpoint>,
    links: BTreeSet<(u32, Hook)>,
    vanished: BTreeSet<u32>,
    flows: Vec<FlowRow>,
    counters: BTreeMap<Counter, (u64, u64)>,
    writes: usize,
    fail: Option<String>,
    refused: BTreeSet<IpNet>,
}

impl Fake {
    pub fn new() -> Fake {
        Fake::default()
    }

    /// Number of calls that changed something.
    pub fn writes(&self) -> usize {
        self.rows().writes
    }

    /// Makes every changing call fail with this message until called with `None`.
    pub fn fail_with(&self, message: Option<&str>) {
        self.rows().fail = message.map(str::to_owned);
    }

    /// Makes writes of this prefix into the ipcache fail.
    pub fn refuse_prefix(&self, prefix: IpNet) {
        self.rows().refused.insert(prefix.trunc());
    }

    /// Makes an interface vanish as when its pod dies.
    pub fn remove_interface(&self, ifindex: u32) {
        self.rows().vanished.insert(ifindex);
    }

    /// Puts a row into the flow table.
    pub fn add_flow(&self, row: FlowRow) {
        self.rows().flows.push(row);
    }

    /// Counts, as a program would.
    pub fn count(&self, counter: Counter, packets: u64, bytes: u64) {
        let mut rows = self.rows();
        let reading = rows.counters.entry(counter).or_default();
        reading.0 += packets;
        reading.1 += bytes;
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        // A panicking test thread leaves nothing half-written that matters.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, change: impl FnOnce(&mut Rows) -> bool) -> Result<bool> {
        let mut rows = self.rows();
        if let Some(message) = &rows.fail {
            return Err(Error::kernel("writing to the fake datapath", message.clone()));
        }
        let changed = change(&mut rows);
        rows.writes += usize::from(changed);
        Ok(changed)
    }
}

fn upsert<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    if map.get(&key) == Some(&value) {
        return false;
    }
    map.insert(key, value);
    true
}

impl Datapath for Fake {
    fn upsert_service(&self, frontend: Frontend, service: &LbService) -> Result<bool> {
        let service = plan::canonical(frontend, service)?;
        self.write(|rows| upsert(&mut rows.services, frontend, service))
    }

    fn delete_service(&self, frontend: Frontend) -> Result<bool> {
        self.write(|rows| rows.services.remove(&frontend).is_some())
    }

    fn services(&self) -> Result<BTreeMap<Frontend, LbService>> {
        Ok(self.rows().services.clone())
    }

    fn upsert_ipcache(&self, prefix: IpNet, entry: IpcacheEntry) -> Result<bool> {
        if self.rows().refused.contains(&prefix.trunc()) {
            return Err(Error::kernel("writing to the fake datapath", format!("{prefix} is refused")));
        }
        self.write(|rows| upsert(&mut rows.ipcache, prefix.trunc(), entry))
    }

    fn delete_ipcache(&self, prefix: IpNet) -> Result<bool> {
        self.write(|rows| rows.ipcache.remove(&prefix.trunc()).is_some())
    }

    fn ipcache(&self) -> Result<BTreeMap<IpNet, IpcacheEntry>> {
        Ok(self.rows().ipcache.clone())
    }

    fn upsert_encrypt(&self, prefix: IpNet, entry: EncryptEntry) -> Result<bool> {
        self.write(|rows| upsert(&mut rows.encrypt, prefix.trunc(), entry))
    }

    fn delete_encrypt(&self, prefix: IpNet) -> Result<bool> {
        self.write(|rows| rows.encrypt.remove(&prefix.trunc()).is_some())
    }

    fn encrypt(&self) -> Result<BTreeMap<IpNet, EncryptEntry>> {
        Ok(self.rows().encrypt.clone())
    }

    fn upsert_endpoint(&self, addr: IpAddr, endpoint: Endpoint) -> Result<bool> {
        self.write(|rows| upsert(&mut rows.endpoints, addr, endpoint))
    }

    fn delete_endpoint(&self, addr: IpAddr) -> Result<bool> {
        self.write(|rows| rows.endpoints.remove(&addr).is_some())
    }

    fn endpoints(&self) -> Result<BTreeMap<IpAddr, Endpoint>> {
        Ok(self.rows().endpoints.clone())
    }

    fn attach_pod(&self, ifindex: u32) -> Result<()> {
        if self.rows().vanished.contains(&ifindex) {
            return Err(Error::NoInterface { doing: "attaching pod programs", ifindex });
        }
        self.write(|rows| rows.links.insert((ifindex, Hook::FromPod)) | rows.links.insert((ifindex, Hook::ToPod)))?;
        Ok(())
    }

    fn attach_uplink(&self, ifindex: u32) -> Result<()> {
        if self.rows().vanished.contains(&ifindex) {
            return Err(Error::NoInterface { doing: "attaching the uplink program", ifindex });
        }
        self.write(|rows| rows.links.insert((ifindex, Hook::FromNet)) | rows.links.insert((ifindex, Hook::ToNet)))?;
        Ok(())
    }

    fn attach_wireguard(&self, ifindex: u32) -> Result<()> {
        if self.rows().vanished.contains(&ifindex) {
            return Err(Error::NoInterface { doing: "attaching the WireGuard program", ifindex });
        }
        self.write(|rows| rows.links.insert((ifindex, Hook::FromWg)))?;
        Ok(())
    }

    fn detach(&self, ifindex: u32) -> Result<bool> {
        self.write(|rows| {
            let before = rows.links.len();
            rows.links.retain(|(index, _)| *index != ifindex);
            rows.links.len() != before
        })
    }

    fn attached(&self) -> Result<Vec<AttachedLink>> {
        let rows = self.rows();
        let link = |&(ifindex, hook): &(u32, Hook)| AttachedLink {
            ifindex,
            interface: (!rows.vanished.contains(&ifindex)).then(|| format!("if{ifindex}")),
            hook,
            program_id: 1,
        };
        Ok(rows.links.iter().map(link).collect())
    }

    fn prune_links(&self) -> Result<Vec<AttachedLink>> {
        let gone: Vec<AttachedLink> = self.attached()?.into_iter().filter(|l| l.interface.is_none()).collect();
        for link in &gone {
            self.detach(link.ifindex)?;
        }
        Ok(gone)
    }

    fn counters(&self) -> Result<Vec<CounterReading>> {
        let rows = self.rows();
        let mut all: Vec<Counter> = Counter::ALL.to_vec();
        all.sort_unstable_by_key(|c| *c as u32);
        Ok(all
            .into_iter()
            .map(|counter| {
                let (packets, bytes) = rows.counters.get(&counter).copied().unwrap_or_default();
                CounterReading { counter, packets, bytes }
            })
            .collect())
    }

    fn flows(&self, limit: usize) -> Result<Vec<FlowRow>> {
        Ok(self.rows().flows.iter().take(limit).copied().collect())
    }

    fn collect_flows(&self, now_s: u32) -> Result<GcStats> {
        let seen = self.rows().flows.len();
        let deleted = self.delete_flows(&|row| row.expires_s < now_s)?;
        Ok(GcStats { seen, deleted })
    }

    fn delete_flows(&self, obsolete: &dyn Fn(&FlowRow) -> bool) -> Result<usize> {
        let mut deleted = 0;
        self.write(|rows| {
            let before = rows.flows.len();
            rows.flows.retain(|row| !obsolete(row));
            deleted = before - rows.flows.len();
            deleted > 0
        })?;
        Ok(deleted)
    }

    fn usage(&self) -> Result<Vec<MapUsage>> {
        use causeway_datapath_abi::map;
        let rows = self.rows();
        let usage = |map, rows| MapUsage { map, rows, limit: 65_536 };
        Ok(vec![
            usage(map::SERVICES, rows.services.len()),
            usage(map::SLOTS, rows.services.values().map(|s| s.backends.len()).sum()),
            usage(map::IPCACHE, rows.ipcache.len()),
            usage(map::ENCRYPT, rows.encrypt.len()),
            usage(map::ENDPOINTS, rows.endpoints.len()),
            usage(map::FLOWS, rows.flows.len()),
        ])
    }

    fn features(&self) -> Vec<Feature> {
        vec![Feature { name: "fake", available: true, detail: "in memory, moves no packets".into() }]
    }
}
