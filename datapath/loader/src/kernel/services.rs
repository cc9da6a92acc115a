//! Writes services: slots of a new generation, then the row; the old slots go a moment later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, MapData, MapError};
use causeway_datapath_abi as abi;

use super::{is_absent, write_error};
use crate::plan::{self, Change, Installed};
use crate::{Error, Frontend, LbService, Proto, Result, convert};

type Rows = HashMap<MapData, abi::ServiceKey, abi::Service>;
type Slots = HashMap<MapData, abi::SlotKey, abi::Slot>;

/// How long slots of an old generation stay. A program that read the service's row before it was replaced runs for
/// microseconds, and may be interrupted for milliseconds, until it reads its slot.
const GRACE: Duration = Duration::from_millis(100);

pub(super) struct Services {
    rows: Rows,
    slots: Slots,
    installed: BTreeMap<Frontend, Installed>,
    /// Catch-all rows and their flags.
    catch_alls: BTreeMap<IpAddr, u16>,
    /// The node's own addresses: a NodePort or external IP there must not take the host's other ports away.
    host: BTreeSet<IpAddr>,
    /// Slots that no row names any more, and since when; deleted by a later call.
    retired: VecDeque<(Instant, Vec<abi::SlotKey>)>,
    highest_id: u32,
    row_limit: u32,
    slot_limit: u32,
}

impl Services {
    /// Adopts what the maps hold and removes the remains of an update that was cut short.
    pub(super) fn adopt(rows: Rows, slots: Slots, limits: (u32, u32), host: BTreeSet<IpAddr>) -> Result<Services> {
        let reading = |what: &str| format!("reading map {what}");
        let row_list: Vec<_> =
            rows.iter().collect::<Result<_, _>>().map_err(|e| Error::kernel(reading(abi::map::SERVICES), e))?;
        let slot_list: Vec<_> =
            slots.iter().collect::<Result<_, _>>().map_err(|e| Error::kernel(reading(abi::map::SLOTS), e))?;
        let found = plan::recover(&row_list, &slot_list);
        let (row_limit, slot_limit) = limits;
        let mut services = Services {
            rows,
            slots,
            installed: found.services,
            catch_alls: found.catch_alls,
            host,
            retired: VecDeque::new(),
            highest_id: found.highest_id,
            row_limit,
            slot_limit,
        };
        if !found.stray_slots.is_empty() || !found.stray_rows.is_empty() {
            let (slots, rows) = (found.stray_slots.len(), found.stray_rows.len());
            tracing::info!(slots, rows, "removing the remains of an unfinished service update");
        }
        services.delete_slots(&found.stray_slots)?;
        for key in found.stray_rows {
            services.delete_row(key)?;
        }
        let held: Vec<IpAddr> = services.catch_alls.keys().copied().collect();
        for addr in held {
            services.settle_catch_all(addr)?;
        }
        Ok(services)
    }

    pub(super) fn list(&self) -> BTreeMap<Frontend, LbService> {
        self.installed.iter().map(|(frontend, i)| (*frontend, i.service.clone())).collect()
    }

    /// Rows of `SERVICES` and of `SLOTS`.
    pub(super) fn rows(&self) -> (usize, usize) {
        let slots = self.installed.values().map(|i| i.service.backends.len()).sum();
        (self.installed.len() + self.catch_alls.len(), slots)
    }

    pub(super) fn upsert(&mut self, frontend: Frontend, wished: &LbService) -> Result<bool> {
        let wished = plan::canonical(frontend, wished)?;
        self.purge(GRACE)?;
        let old = self.installed.get(&frontend);
        let fresh_id = if old.is_none() { self.fresh_id() } else { 0 };
        let Some(change) = plan::change(self.installed.get(&frontend), &wished, fresh_id) else {
            // The catch-all is written last; an earlier call may have failed there.
            return self.settle_catch_all(frontend.addr);
        };
        self.apply(frontend, change)?;
        self.settle_catch_all(frontend.addr)?;
        Ok(true)
    }

    fn apply(&mut self, frontend: Frontend, change: Change) -> Result<()> {
        let doing = || format!("writing service {frontend}");
        for (written, (key, slot)) in change.new_slots.iter().enumerate() {
            let mut inserted = self.slots.insert(key, slot, 0);
            if inserted.is_err() && !self.retired.is_empty() {
                self.purge(Duration::ZERO)?;
                inserted = self.slots.insert(key, slot, 0);
            }
            if let Err(error) = inserted {
                let keys: Vec<abi::SlotKey> = change.new_slots.iter().take(written).map(|(key, _)| *key).collect();
                self.delete_slots(&keys)?;
                return Err(write_error(abi::map::SLOTS, self.slot_limit, doing(), error));
            }
        }
        if let Err(error) = self.rows.insert(convert::service_key(frontend), change.row, 0) {
            let keys: Vec<abi::SlotKey> = change.new_slots.iter().map(|(key, _)| *key).collect();
            self.delete_slots(&keys)?;
            return Err(write_error(abi::map::SERVICES, self.row_limit, doing(), error));
        }
        self.highest_id = self.highest_id.max(change.row.id);
        self.installed.insert(frontend, change.installed);
        self.retire(change.old_slots);
        Ok(())
    }

    fn retire(&mut self, slots: Vec<abi::SlotKey>) {
        if !slots.is_empty() {
            self.retired.push_back((Instant::now(), slots));
        }
    }

    /// Deletes the slots that were retired at least `age` ago.
    fn purge(&mut self, age: Duration) -> Result<()> {
        while let Some((_, slots)) = self.retired.pop_front_if(|(since, _)| since.elapsed() >= age) {
            self.delete_slots(&slots)?;
        }
        Ok(())
    }

    pub(super) fn delete(&mut self, frontend: Frontend) -> Result<bool> {
        let Some(installed) = self.installed.get(&frontend) else { return Ok(false) };
        let slots = plan::slot_keys(installed);
        self.delete_row(convert::service_key(frontend))?;
        self.installed.remove(&frontend);
        self.retire(slots);
        self.purge(GRACE)?;
        self.settle_catch_all(frontend.addr)?;
        Ok(true)
    }

    /// Ids are reused only after all 2^32 were given out, and never one that is in use.
    fn fresh_id(&self) -> u32 {
        match self.highest_id.checked_add(1) {
            Some(next) => next,
            None => {
                let used: BTreeSet<u32> = self.installed.values().map(|i| i.id).collect();
                (1..=u32::MAX).find(|id| !used.contains(id)).unwrap_or(1)
            }
        }
    }

    /// The flags of the address's catch-all row: open to the wire if any frontend is. `None` if there is to be no row.
    fn wants_catch_all(&self, addr: IpAddr) -> Option<u16> {
        let first = Frontend { addr, port: 0, proto: Proto::Tcp };
        let mut frontends = self.installed.range(first..).take_while(|(f, _)| f.addr == addr).peekable();
        if self.host.contains(&addr) || frontends.peek().is_none() {
            return None;
        }
        let external = frontends.any(|(_, installed)| installed.service.external);
        Some(if external { abi::service_flag::EXTERNAL } else { 0 })
    }

    /// Brings the catch-all row of an address in line with its frontends; answers whether anything changed.
    fn settle_catch_all(&mut self, addr: IpAddr) -> Result<bool> {
        let wanted = self.wants_catch_all(addr);
        if self.catch_alls.get(&addr).copied() == wanted {
            return Ok(false);
        }
        let Some(flags) = wanted else {
            self.delete_row(convert::catch_all_key(addr))?;
            self.catch_alls.remove(&addr);
            return Ok(true);
        };
        let row = abi::Service { flags, ..abi::Service::default() };
        self.rows.insert(convert::catch_all_key(addr), row, 0).map_err(|e| {
            write_error(abi::map::SERVICES, self.row_limit, format!("writing the catch-all of {addr}"), e)
        })?;
        self.catch_alls.insert(addr, flags);
        Ok(true)
    }

    fn delete_row(&mut self, key: abi::ServiceKey) -> Result<()> {
        tolerate_absent(self.rows.remove(&key)).map_err(|e| Error::kernel("deleting a service row", e))
    }

    fn delete_slots(&mut self, keys: &[abi::SlotKey]) -> Result<()> {
        for key in keys {
            tolerate_absent(self.slots.remove(key)).map_err(|e| Error::kernel("deleting a backend slot", e))?;
        }
        Ok(())
    }
}

fn tolerate_absent(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(error) if !is_absent(&error) => Err(error),
        _ => Ok(()),
    }
}
