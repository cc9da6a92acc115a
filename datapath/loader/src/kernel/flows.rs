//! The flow table from user space: dump and collection, both in batches, because it may hold millions of rows.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use aya::maps::MapData;
use causeway_datapath_abi as abi;

use crate::{Error, FlowRow, GcStats, Result, convert, sys};

/// Rows deleted per call into the kernel: a few hundred microseconds, after which the CPU may do something else.
const DELETE_BATCH: usize = 1024;
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

    /// A row that a packet refreshes between the look and the deletion is lost; the packet after it rebuilds the row
    /// from the other direction's, or as a new flow.
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
            let deleted = sys::delete_all(fd, &keys, DELETE_BATCH)
                .map_err(|e: io::Error| Error::kernel("deleting rows of the flow table", e))?;
            stats.seen = stats.deleted + seen;
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
