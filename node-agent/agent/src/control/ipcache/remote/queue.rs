//! Which rows wait to be written: a short queue, and beyond that a walk over all rows.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::row::{Row, flag};
use crate::control::ipcache::prefix::Prefix;

/// Prefixes that are remembered one by one. The first read of a large cluster is longer; then the rows are walked, which
/// costs milliseconds and no memory.
const MAX_QUEUED: usize = 16_384;

/// Rows that a walk looks at in one turn, so that it holds the lock for about a millisecond.
const WALK: usize = 65_536;

/// The flag [`flag::DIRTY`] says who waits; this says where to look.
#[derive(Debug, Default)]
pub(super) struct Queue {
    next: VecDeque<(Prefix, Option<Instant>)>,
    /// Where the walk goes on.
    walk: Option<Prefix>,
    /// The walk must go over everything again.
    again: bool,
    waiting: usize,
}

impl Queue {
    /// Rows that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// `received`: when the change arrived, if it was one.
    pub(super) fn push(&mut self, prefix: Prefix, row: &mut Row, received: Option<Instant>) {
        if row.has(flag::DIRTY) {
            return;
        }
        row.put(flag::DIRTY, true);
        self.waiting += 1;
        if self.next.len() < MAX_QUEUED {
            self.next.push_back((prefix, received));
        } else {
            self.again = true;
        }
    }

    /// The row is dirty and on no list: found by the next walk.
    pub(super) fn retry(&mut self, row: &mut Row) {
        if !row.has(flag::DIRTY) {
            row.put(flag::DIRTY, true);
            self.waiting += 1;
        }
        self.again = true;
    }

    /// The row is about to be dropped, or has nothing to do any more.
    pub(super) fn settle(&mut self, row: &mut Row) {
        if row.has(flag::DIRTY) {
            row.put(flag::DIRTY, false);
            self.waiting -= 1;
        }
    }

    /// At most `most` dirty rows; they stay dirty until [`Queue::settle`]. Nothing: no one waits.
    pub(super) fn take(&mut self, rows: &BTreeMap<Prefix, Row>, most: usize) -> Vec<(Prefix, Option<Instant>)> {
        let dirty = |prefix: &Prefix| rows.get(prefix).is_some_and(|row| row.has(flag::DIRTY));
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some((prefix, received)) = self.next.pop_front()
        {
            if dirty(&prefix) {
                taken.push((prefix, received));
            }
        }
        while taken.is_empty() && self.waiting > 0 && (self.walk.is_some() || self.again) {
            taken = self.walk(rows, most);
        }
        taken
    }

    fn walk(&mut self, rows: &BTreeMap<Prefix, Row>, most: usize) -> Vec<(Prefix, Option<Instant>)> {
        let from = match self.walk.take() {
            Some(from) => from,
            None => {
                self.again = false;
                Prefix::FIRST
            }
        };
        let (mut seen, mut taken) = (0, Vec::new());
        for (prefix, row) in rows.range(from..) {
            if taken.len() == most || seen == WALK {
                self.walk = Some(*prefix);
                break;
            }
            seen += 1;
            if row.has(flag::DIRTY) {
                taken.push((*prefix, None));
            }
        }
        taken
    }
}
