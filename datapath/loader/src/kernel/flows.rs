//! The flow table from user space: dump and collection. Rows are read in batches, because there may be millions.

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use aya::maps::MapData;
use causeway_datapath_abi as abi;

use crate::{Error, FlowRow, GcStats, Result, convert, sys};

/// Rows remembered for deletion before they are deleted: bounds the memory of a collection to 2.6 MB.
const PENDING: usize = 65_536;

pub(super) struct Flows {
    map: MapData,
    /// Rows after the last walk; counting them anew costs a walk.
    rows: AtomicUsize,
}

impl Flows {
    pub(super) fn new(map: MapData) -> Flows {
        Flows { map, rows: AtomicUsize::new(0) }
    }

    pub(super) fn map(&self) -> &MapData {
        &self.map
    }

    pub(super) fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    pub(super) fn dump(&self, limit: usize) -> Result<Vec<FlowRow>> {
        let mut rows = Vec::new();
        if limit == 0 {
            return Ok(rows);
        }
        self.walk(|key, flow| {
            rows.push(convert::flow(key, flow));
            rows.len() < limit
        })?;
        Ok(rows)
    }

    pub(super) fn collect(&self, now_s: u32) -> Result<GcStats> {
        self.remove(|_, flow| flow.expires_s < now_s)
    }

    pub(super) fn delete(&self, obsolete: &dyn Fn(&FlowRow) -> bool) -> Result<GcStats> {
        self.remove(|key, flow| obsolete(&convert::flow(key, flow)))
    }

    /// A row that a packet writes between the look and the deletion stays: a client that uses an old port again opens its
    /// flow in the very row that has expired, and the answer needs it.
    fn remove(&self, which: impl Fn(&abi::Tuple, &abi::Flow) -> bool) -> Result<GcStats> {
        let mut stats = GcStats::default();
        loop {
            let (mut seen, mut keys) = (0, Vec::new());
            self.walk(|key, flow| {
                seen += 1;
                if which(key, flow) {
                    keys.push(*key);
                }
                keys.len() < PENDING
            })?;
            let fd = self.map.fd().as_fd();
            stats.seen = stats.deleted + seen;
            let mut deleted = 0;
            for key in &keys {
                let gone =
                    sys::delete_if(fd, key, &which).map_err(|e| Error::kernel("deleting rows of the flow table", e))?;
                deleted += usize::from(gone);
            }
            stats.deleted += deleted;
            if keys.len() < PENDING {
                self.rows.store(seen.saturating_sub(deleted), Ordering::Relaxed);
                return Ok(stats);
            }
        }
    }

    fn walk(&self, each: impl FnMut(&abi::Tuple, &abi::Flow) -> bool) -> Result<()> {
        sys::walk(self.map.fd().as_fd(), each).map_err(|e| Error::kernel("reading the flow table", e))
    }
}
