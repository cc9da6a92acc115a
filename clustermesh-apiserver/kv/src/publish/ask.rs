//! What to ask of the store next.

use std::sync::Arc;

use bytes::Bytes;

use super::group::{Phase, Stage};
use super::{Asked, Item, Later, OWN, Publish, What};
use crate::clock::{Now, rfc3339};
use crate::op::{MAX_BATCH, Op, Ticket, Write};

/// Prefixes that are read at the same time: pages are large, and writing goes on beside.
const LISTINGS: usize = 2;

/// What a transaction costs beside the key and the value, for [`super::Settings::batch_bytes`].
const WRITE_OVERHEAD: usize = 32;

impl Publish {
    /// What to ask of the store now, until `None`. Tickets count up from 1.
    pub fn poll(&mut self, now: Now) -> Option<(Ticket, Op)> {
        if self.paused.is_some_and(|until| now.at < until) {
            return None;
        }
        self.paused = None;
        self.wake(now);
        let (what, op) = self
            .next_keepalive(now)
            .or_else(|| self.next_clearance())
            .or_else(|| self.next_listing())
            .or_else(|| self.next_batch())
            .or_else(|| self.next_grant())?;
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.asked.insert(ticket, Asked { what, floor: self.revision });
        Some((ticket, op))
    }

    /// Puts into the queues what is due.
    fn wake(&mut self, now: Now) {
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= now.at) {
            match entry.remove() {
                Later::Key(id, name) => self.queue.push_back((id, name)),
                Later::List(id) => self.listings.push_back(id),
                Later::Clear(id) => self.clearances.push_back(id),
                Later::Grant => self.granting = false,
            }
        }
        for id in std::mem::take(&mut self.canaries) {
            // Removed, or emptied again, in the meantime?
            let group = self.groups.get(&id).filter(|group| group.stage == Stage::Flushed);
            let canary = group.and_then(|group| group.spec.canary.clone());
            if let Some(canary) = canary {
                self.set(OWN, &canary, Bytes::from(rfc3339(now.wall)));
            }
        }
        if let Some(heartbeat) = self.settings.heartbeat.clone()
            && self.heartbeat_at.is_none_or(|at| at <= now.at)
        {
            self.heartbeat_at = Some(now.at + heartbeat.interval);
            self.set(OWN, &heartbeat.key, Bytes::from(rfc3339(now.wall)));
        }
    }

    fn next_keepalive(&mut self, now: Now) -> Option<(What, Op)> {
        let lease = self.leases.due(now.at)?;
        Some((What::KeepAlive(lease), Op::KeepAlive { lease }))
    }

    fn next_grant(&mut self) -> Option<(What, Op)> {
        let wanted = self.writing < self.settings.in_flight && !self.queue.is_empty();
        if self.granting || !wanted {
            return None;
        }
        self.granting = true;
        Some((What::Grant, Op::Grant { ttl: self.settings.lease_ttl }))
    }

    /// The emptying of a group's prefixes, once none of its own writes is on its way.
    fn next_clearance(&mut self) -> Option<(What, Op)> {
        for _ in 0..self.clearances.len() {
            let id = self.clearances.pop_front()?;
            let Some(group) = self.groups.get_mut(&id).filter(|group| group.leaving) else { continue };
            if group.flying > 0 || group.clearing {
                self.clearances.push_back(id);
                continue;
            }
            group.clearing = true;
            let prefixes = group.spec.prefixes.iter().take(MAX_BATCH);
            let writes = prefixes.map(|prefix| Write::DeletePrefix { prefix: prefix.clone() }).collect();
            return Some((What::Clear(id, group.epoch), Op::Write { writes }));
        }
        None
    }

    fn next_listing(&mut self) -> Option<(What, Op)> {
        let running = self.asked.values().filter(|asked| matches!(asked.what, What::List(..))).count();
        if running >= LISTINGS {
            return None;
        }
        loop {
            let id = self.listings.pop_front()?;
            let Some(group) = self.groups.get_mut(&id) else { continue };
            if group.leaving {
                group.list_pending = false;
                continue;
            }
            let Some(prefix) = group.spec.prefixes.get(group.listing.prefix) else { continue };
            let op = Op::List {
                prefix: prefix.clone(),
                after: group.listing.after.clone(),
                limit: self.settings.page_size,
                revision: group.listing.revision,
            };
            return Some((What::List(id, group.epoch), op));
        }
    }

    /// Keys from the queue until a transaction is full, a lease is missing, or one has to go alone.
    fn next_batch(&mut self) -> Option<(What, Op)> {
        if self.writing >= self.settings.in_flight {
            return None;
        }
        let mut items: Vec<Item> = Vec::new();
        let mut bytes = 0;
        while items.len() < self.settings.batch.clamp(1, MAX_BATCH) {
            let Some((id, name)) = self.queue.pop_front() else { break };
            let Some(group) = self.groups.get_mut(&id) else { continue };
            // The prefix is emptied at once.
            let cleared = group.leaving && !group.spec.prefixes.is_empty();
            let Some(key) = group.keys.get_mut(&name).filter(|key| key.phase == Phase::Queued) else { continue };
            if cleared {
                key.phase = Phase::Idle;
                group.busy -= 1;
                continue;
            }
            if !key.is_dirty() {
                let (_, freed) = group.settle(&name);
                self.settled(id, freed);
                continue;
            }
            let size = WRITE_OVERHEAD + name.len() + key.want.as_ref().map_or(0, Bytes::len);
            let alone = key.alone;
            if !items.is_empty() && (alone || bytes + size > self.settings.batch_bytes) {
                self.queue.push_front((id, name));
                break;
            }
            if key.want.is_some() && key.lease.is_none() {
                key.lease = self.leases.place();
                if key.lease.is_none() {
                    self.queue.push_front((id, name));
                    break;
                }
            }
            let (value, lease) = (key.want.clone(), key.want.as_ref().and(key.lease));
            bytes += size;
            group.asked(&name);
            items.push(Item { group: id, name, value, lease });
            if alone {
                break;
            }
        }
        if items.is_empty() {
            return None;
        }
        self.writing += 1;
        let writes = items.iter().map(Item::write).collect();
        Some((What::Write(items), Op::Write { writes }))
    }
}

impl Item {
    fn write(&self) -> Write {
        let key = String::from(Arc::as_ref(&self.name));
        match &self.value {
            Some(value) => Write::Put { key, value: value.clone(), lease: self.lease.unwrap_or(0) },
            None => Write::Delete { key },
        }
    }
}
