//! Rows of the guard: what is in the map, why, and until when.
//!
//! A row comes before anything else of its range, and goes last: whoever sends there hears later than we do that nobody has
//! the range any more, and TCP sends again for a quarter of an hour what nobody answers. So a row that nobody wants lingers.
//! The table `guarded` has what is wanted and in the map: it loses a range when that begins to linger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use causeway_datapath_loader::EncryptEntry;
use causeway_table::Shared;
use ipnet::IpNet;

use super::guard::Guard;

/// How long pods' ranges linger: longer than Linux sends a segment again (`tcp_retries2`, 924 s).
const PODS_LINGER: Duration = Duration::from_secs(20 * 60);

/// How long addresses of nodes do, for pods alone, since another host may have such an address soon; and what an earlier
/// process left, which may be a range that people no longer want to be guarded. Services have changed by then.
const SHORT_LINGER: Duration = Duration::from_secs(30);

/// Why a row is in the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Wanted,
    /// Nobody wants it; until this moment of the steady clock.
    Lingers(Duration),
    /// An earlier process has left it, and not everybody who may want it is known.
    Adopted,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    entry: EncryptEntry,
    why: Why,
}

/// What rows shall be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish<'a> {
    pub(crate) wanted: &'a BTreeMap<IpNet, EncryptEntry>,
    /// Ranges that are to be reached in plaintext: theirs do not linger.
    pub(crate) released: &'a BTreeSet<IpNet>,
    /// All nodes are known.
    pub(crate) complete: bool,
    /// Those of other clusters are, or have been waited for long enough.
    pub(crate) remote_known: bool,
}

/// The rows. They outlive the process.
pub(crate) struct Rows {
    guard: Arc<dyn Guard>,
    /// Ranges that nothing leaves for in plaintext, for the rest of the agent.
    guarded: Shared<IpNet, ()>,
    /// Absent until the map was read.
    rows: Option<BTreeMap<IpNet, Row>>,
}

impl Rows {
    pub(crate) fn new(guard: Arc<dyn Guard>, guarded: Shared<IpNet, ()>) -> Rows {
        Rows { guard, guarded, rows: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.as_ref().map_or(0, BTreeMap::len)
    }

    /// Guards what is wanted, and lets linger what is not. Gives what went wrong.
    pub(crate) fn close(&mut self, now: Duration, wish: Wish<'_>) -> Vec<String> {
        let mut errors = Vec::new();
        if let Err(error) = self.read() {
            return vec![format!("reading the guard's map: {error}")];
        }
        let Some(rows) = &mut self.rows else { return errors };
        let mut told = false;
        for (prefix, entry) in wish.wanted {
            let old = rows.get(prefix).copied();
            if old.is_none_or(|old| old.entry != *entry)
                && let Err(error) = self.guard.set(*prefix, *entry)
            {
                errors.push(format!("guarding {prefix}: {error}"));
                continue;
            }
            told |= old.is_none_or(|old| old.why != Why::Wanted || old.entry != *entry);
            rows.insert(*prefix, Row { entry: *entry, why: Why::Wanted });
        }
        for (prefix, row) in rows.iter_mut().filter(|(prefix, _)| !wish.wanted.contains_key(*prefix)) {
            let lingers = match row.why {
                Why::Wanted => Some(linger(row.entry)),
                Why::Adopted if wish.complete => Some(linger(row.entry).min(SHORT_LINGER)),
                Why::Adopted | Why::Lingers(_) => None,
            };
            if let Some(lingers) = lingers {
                row.why = Why::Lingers(now.saturating_add(lingers));
                told = true;
            }
            // The host itself may have to reach an API server there.
            let hostless = EncryptEntry::RemoteNode { hosts_too: false };
            let is_left =
                matches!((row.why, row.entry), (Why::Lingers(_), EncryptEntry::RemoteNode { hosts_too: true }));
            if is_left {
                match self.guard.set(*prefix, hostless) {
                    Ok(()) => row.entry = hostless,
                    Err(error) => errors.push(format!("guarding {prefix} for pods alone: {error}")),
                }
            }
        }
        self.tell(told, wish.remote_known);
        errors
    }

    /// Takes rows away that nobody misses. Gives what went wrong.
    pub(crate) fn open(&mut self, now: Duration, wish: Wish<'_>) -> Vec<String> {
        let Some(rows) = &mut self.rows else { return Vec::new() };
        let is_over = |(prefix, row): &(&IpNet, &Row)| match row.why {
            Why::Wanted => false,
            _ if wish.wanted.contains_key(*prefix) => false,
            Why::Adopted => wish.released.contains(*prefix),
            Why::Lingers(until) => wish.released.contains(*prefix) || now >= until,
        };
        let over: Vec<IpNet> = rows.iter().filter(is_over).map(|(prefix, _)| *prefix).collect();
        let (mut errors, mut told) = (Vec::new(), false);
        for prefix in over {
            match self.guard.delete(prefix) {
                Ok(()) => told |= rows.remove(&prefix).is_some_and(|row| row.why == Why::Adopted),
                Err(error) => errors.push(format!("no longer guarding {prefix}: {error}")),
            }
        }
        self.tell(told, false);
        errors
    }

    fn read(&mut self) -> Result<(), String> {
        if self.rows.is_none() {
            let adopted = |(prefix, entry)| (prefix, Row { entry, why: Why::Adopted });
            self.rows = Some(self.guard.rows()?.into_iter().map(adopted).collect());
            self.tell(true, false);
        }
        Ok(())
    }

    fn tell(&self, changed: bool, complete: bool) {
        let Some(rows) = &self.rows else { return };
        if !changed && (!complete || self.guarded.synced()) {
            return;
        }
        let keeps = |row: &Row| {
            let away = matches!(row.entry, EncryptEntry::RemotePods | EncryptEntry::RemoteNode { .. });
            away && !matches!(row.why, Why::Lingers(_))
        };
        self.guarded.write(|t| {
            t.replace(rows.iter().filter(|(_, row)| keeps(row)).map(|(prefix, _)| (*prefix, ())));
            if complete {
                t.mark_synced();
            }
        });
    }
}

fn linger(entry: EncryptEntry) -> Duration {
    match entry {
        EncryptEntry::RemotePods => PODS_LINGER,
        EncryptEntry::RemoteNode { .. } => SHORT_LINGER,
        EncryptEntry::LocalPods | EncryptEntry::Plain => Duration::ZERO,
    }
}
