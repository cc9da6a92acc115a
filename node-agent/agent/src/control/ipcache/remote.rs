//! Other clusters' addresses: which identity each has, and which of them the map does not yet say so of.
//!
//! There may be half a million, so that a row is 37 bytes in one tree and neither `Claims` nor a reconciler knows it.
//! This is the pure part: who is believed, what is dirty. `realize::mesh_ips` writes it to the map in batches.
//!
//! Who is believed about a prefix: this cluster itself; then a cluster that speaks of its own ranges before one that
//! speaks of another's (which is refused, as are claims on ours); then the cluster with the smaller number, so that all
//! agents agree. Whoever is not believed is kept aside and comes in when the other lets go.

mod queue;
mod row;
#[cfg(test)]
mod tests;
mod unclaimed;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use queue::Queue;
use row::{NO_HOST, Row, Step, flag};
use unclaimed::Unclaimed;

pub(crate) use unclaimed::Complete;

use super::prefix::{Prefix, Ranges};

/// Claims of clusters that are not believed about a prefix. Two clusters with the same pod CIDRs have as many as the
/// smaller has pods; beyond this they are counted and forgotten until the cluster is read again.
const MAX_CONTESTED: usize = 65_536;

/// Prefixes that remote rows may have; the map has room for more ([`crate::app`]), which is this cluster's own. Cilium's
/// map has as many for all. Beyond this they are counted and forgotten until the cluster is read again.
const MAX_ROWS: usize = 512_000;

/// Nodes whose addresses are remembered for people; a mesh has some thousand, and whoever names more of them is not
/// believed: beyond this an address is shown without its node.
const MAX_HOSTS: usize = 65_536;

/// What a cluster says of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) identity: u32,
    /// The node that has it.
    pub(crate) host: Option<IpAddr>,
    pub(crate) revision: u64,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// The map will be written.
    Queued,
    /// The map says so already.
    Settled,
    /// Somebody else is believed.
    Withheld,
}

/// A write that the map needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) prefix: Prefix,
    /// `None`: the row goes.
    pub(crate) identity: Option<u32>,
    /// 0: a leftover that is nobody's.
    pub(crate) cluster: u16,
    pub(crate) revision: u64,
    /// When the change arrived; `None` where it was part of a listing.
    pub(crate) received: Option<Instant>,
}

/// Rows of one cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) rows: usize,
    /// Of these, in a range of another owner.
    pub(crate) refused: usize,
    /// Claims on prefixes of which another cluster is believed.
    pub(crate) contested: usize,
    /// Claims on prefixes of others that there was no room to keep, since the start.
    pub(crate) dropped: u64,
    /// Prefixes that there was no room for, since the start.
    pub(crate) left_out: u64,
}

/// Smaller in tests.
#[derive(Debug, Clone, Copy)]
struct Limits {
    rows: usize,
    hosts: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { rows: MAX_ROWS, hosts: MAX_HOSTS }
    }
}

#[derive(Debug, Default)]
struct Cluster {
    counts: Counts,
    generation: u8,
    /// The generation of the last complete listing.
    complete: u8,
    listing: bool,
}

#[derive(Debug, Default)]
pub(crate) struct RemoteIps {
    rows: BTreeMap<Prefix, Row>,
    contested: BTreeMap<(Prefix, u16), Row>,
    clusters: BTreeMap<u16, Cluster>,
    /// Prefixes that this cluster has its own rows for.
    local: BTreeSet<Prefix>,
    /// Whose each range is; 0 is this cluster.
    owners: Ranges<u16>,
    unclaimed: Unclaimed,
    queue: Queue,
    /// Nodes' addresses. They are never forgotten, at most [`MAX_HOSTS`].
    hosts: Vec<IpAddr>,
    host_index: HashMap<IpAddr, u32>,
    unchanged: u64,
    limits: Limits,
}

impl RemoteIps {
    /// Starts with what an earlier process left in the map.
    pub(crate) fn adopt(rows: impl IntoIterator<Item = (Prefix, u32)>) -> RemoteIps {
        RemoteIps { unclaimed: Unclaimed::new(rows), ..RemoteIps::default() }
    }

    /// The cluster's entries are about to be listed.
    pub(crate) fn relisting(&mut self, id: u16) {
        let cluster = self.clusters.entry(id).or_default();
        let next = cluster.generation.wrapping_add(1);
        if cluster.listing && next == cluster.complete {
            // After 255 broken listings the numbers would come round.
            (cluster.complete, cluster.generation) = (0, 1);
            let of_cluster = self.rows.values_mut().chain(self.contested.values_mut()).filter(|r| r.cluster == id);
            of_cluster.for_each(|row| row.generation = 0);
            return;
        }
        if !cluster.listing {
            cluster.complete = cluster.generation;
        }
        cluster.generation = next;
        cluster.listing = true;
    }

    /// Whether the entry is known in this revision; then it is marked as seen, and that is all.
    pub(crate) fn known(&mut self, id: u16, prefix: Prefix, revision: u64) -> bool {
        let generation = self.clusters.get(&id).map_or(0, |c| c.generation);
        let row = match self.rows.get_mut(&prefix) {
            Some(row) if row.cluster == id => Some(row),
            _ if self.contested.is_empty() => None,
            _ => self.contested.get_mut(&(prefix, id)),
        };
        let Some(row) = row.filter(|row| !row.has(flag::GONE) && row.revision() == revision) else { return false };
        row.generation = generation;
        self.unchanged += 1;
        true
    }

    /// The cluster's words on the prefix cannot be used: what it said before stays.
    pub(crate) fn keep(&mut self, id: u16, prefix: Prefix) {
        let generation = self.clusters.get(&id).map_or(0, |c| c.generation);
        let believed = self.rows.get_mut(&prefix).filter(|row| row.cluster == id);
        if let Some(row) = believed.or_else(|| self.contested.get_mut(&(prefix, id))) {
            row.generation = generation;
        }
    }

    /// A cluster says what a prefix is.
    pub(crate) fn put(&mut self, id: u16, prefix: Prefix, entry: Entry, received: Option<Instant>) -> Put {
        if self.rows.len() >= self.limits.rows && !self.rows.contains_key(&prefix) {
            self.cluster(id).counts.left_out += 1;
            return Put::Withheld;
        }
        let host = self.host(entry.host);
        let generation = self.clusters.entry(id).or_default().generation;
        let mut new = Row::new(id, entry.identity, host, entry.revision, generation);
        new.put(flag::REFUSED, self.is_refused(prefix, id));
        let claimed = self.unclaimed.claim(&prefix);
        match self.rows.get_mut(&prefix) {
            None => {
                new.put(flag::HELD, claimed);
                new.put(flag::LOCAL, self.local.contains(&prefix));
                self.rows.insert(prefix, new);
                self.count(&new, 1);
            }
            Some(old) if old.cluster == id || old.has(flag::GONE) => {
                let before = *old;
                old.succeed(new);
                if !before.has(flag::GONE) {
                    self.count(&before, -1);
                }
                self.count(&new, 1);
            }
            Some(_) => return self.contest(prefix, new, received),
        }
        self.settle(prefix, received)
    }

    /// A cluster takes back what it said of a prefix.
    pub(crate) fn delete(&mut self, id: u16, prefix: Prefix, revision: u64, received: Option<Instant>) {
        if self.contested.remove(&(prefix, id)).is_some() {
            self.cluster(id).counts.contested -= 1;
            return;
        }
        let Some(row) = self.rows.get_mut(&prefix).filter(|r| r.cluster == id && !r.has(flag::GONE)) else { return };
        let before = *row;
        *row = Row::new(id, before.identity, before.host, revision.max(before.revision()), before.generation);
        for kept in [flag::HELD, flag::CURRENT, flag::DIRTY, flag::LOCAL, flag::REFUSED] {
            row.put(kept, before.has(kept));
        }
        row.put(flag::GONE, true);
        self.count(&before, -1);
        self.inherit(prefix);
        self.settle(prefix, received);
    }

    /// The listing is complete: what it did not name is gone.
    pub(crate) fn listed(&mut self, id: u16) {
        let Some(cluster) = self.clusters.get_mut(&id) else { return };
        cluster.listing = false;
        let generation = cluster.generation;
        self.sweep(id, |row| row.generation != generation);
    }

    /// Nothing that the cluster ever said counts any more.
    pub(crate) fn forget(&mut self, id: u16) {
        self.sweep(id, |_| true);
        self.clusters.remove(&id);
    }

    /// This cluster's own row is about to be written.
    pub(crate) fn local_set(&mut self, prefix: Prefix) {
        self.unclaimed.claim(&prefix);
        self.local.insert(prefix);
        if let Some(row) = self.rows.get_mut(&prefix) {
            row.put(flag::LOCAL, true);
            row.put(flag::HELD | flag::CURRENT, false);
            self.settle(prefix, None);
        }
    }

    /// This cluster's own row is no longer wanted. The map then has to hold the other's identity, if it is given; else
    /// nothing.
    pub(crate) fn local_gone(&mut self, prefix: Prefix) -> Option<u32> {
        self.local.remove(&prefix);
        let row = self.rows.get_mut(&prefix)?;
        row.put(flag::LOCAL, false);
        row.wanted().then_some(row.identity)
    }

    /// Whose a range is from now on; `None`: nobody's. 0 is this cluster.
    pub(crate) fn own(&mut self, range: Prefix, owner: Option<u16>) {
        match owner {
            Some(owner) => self.owners.insert(range, owner),
            None => self.owners.remove(&range),
        };
        let touched: Vec<Prefix> = self.rows.range(range.span()).map(|(p, _)| *p).collect();
        // Entries for whole ranges may lie around it; hosts cannot.
        let around: Vec<Prefix> = range.parents().filter(|p| self.rows.contains_key(p)).collect();
        for prefix in touched.into_iter().chain(around) {
            self.judge(prefix);
        }
    }

    /// Something has been read completely: leftovers that nobody asked for may go.
    pub(crate) fn complete(&mut self, what: &Complete) {
        self.unclaimed.complete(what, &self.owners);
    }

    /// At most `most` writes. Each must be reported with [`RemoteIps::finished`] before anything else changes.
    pub(crate) fn jobs(&mut self, most: usize) -> Vec<Job> {
        let mut jobs = Vec::new();
        for (prefix, received) in self.queue.take(&self.rows, most) {
            let Some(row) = self.rows.get(&prefix) else { continue };
            let (cluster, revision) = (row.cluster, row.revision());
            match row.step() {
                Step::Nothing => {
                    self.settle(prefix, None);
                }
                step => {
                    let identity = (step == Step::Write).then_some(row.identity);
                    jobs.push(Job { prefix, identity, cluster, revision, received });
                }
            }
        }
        while jobs.len() < most
            && let Some(prefix) = self.unclaimed.next_doomed()
        {
            jobs.push(Job { prefix, identity: None, cluster: 0, revision: 0, received: None });
        }
        jobs
    }

    /// How a write ended. A failed one comes again with a later [`RemoteIps::jobs`].
    pub(crate) fn finished(&mut self, job: &Job, done: bool) {
        if job.cluster == 0 {
            if done {
                self.unclaimed.claim(&job.prefix);
            } else {
                self.unclaimed.doom(job.prefix);
            }
            return;
        }
        let Some(row) = self.rows.get_mut(&job.prefix) else { return };
        if !done {
            self.queue.retry(row);
            return;
        }
        let written = job.identity.is_some();
        row.put(flag::HELD, written);
        row.put(flag::CURRENT, written);
        self.settle(job.prefix, None);
    }

    /// The map holds what the row says: a local row gave way to it.
    pub(crate) fn wrote(&mut self, prefix: Prefix) {
        if let Some(row) = self.rows.get_mut(&prefix) {
            row.put(flag::HELD | flag::CURRENT, true);
            self.settle(prefix, None);
        }
    }
}

/// What is known, for people.
impl RemoteIps {
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Rows that the map does not hold as it should.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    pub(crate) fn unclaimed(&self) -> usize {
        self.unclaimed.len()
    }

    /// Entries that came again in the same revision.
    pub(crate) fn unchanged(&self) -> u64 {
        self.unchanged
    }

    pub(crate) fn counts(&self, id: u16) -> Counts {
        self.clusters.get(&id).map_or_else(Counts::default, |c| c.counts)
    }

    /// Rows that the map holds or should hold: prefix, cluster, identity, and whether it does.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (Prefix, u16, u32, bool)> {
        let wanted = self.rows.iter().filter(|(_, row)| row.wanted());
        wanted.map(|(prefix, row)| (*prefix, row.cluster, row.identity, row.has(flag::CURRENT)))
    }

    /// The row that decides over an address, of those that are wanted.
    pub(crate) fn lookup(&self, ip: IpAddr) -> Option<(Prefix, u16, u32, bool)> {
        let host = Prefix::host(ip);
        let found = std::iter::once(host).chain(host.parents());
        let mut wanted = found.filter_map(|p| Some((p, self.rows.get(&p)?))).filter(|(_, row)| row.wanted());
        wanted.next().map(|(p, row)| (p, row.cluster, row.identity, row.has(flag::CURRENT)))
    }

    /// The node that has a remote address.
    pub(crate) fn host_of(&self, prefix: &Prefix) -> Option<IpAddr> {
        let row = self.rows.get(prefix)?;
        self.hosts.get(usize::try_from(row.host).ok()?).copied()
    }

    /// Some entries of a cluster that are not used, and whom the prefix belongs to (0: this cluster).
    pub(crate) fn withheld(&self, id: u16, most: usize) -> Vec<(Prefix, u16)> {
        let counts = self.counts(id);
        let mut found = Vec::new();
        if counts.refused > 0 {
            let refused = self.rows.iter().filter(|(_, r)| r.cluster == id && r.has(flag::REFUSED));
            found.extend(refused.take(most).map(|(p, _)| (*p, self.other_owner(*p, id).unwrap_or(0))));
        }
        if counts.contested > 0 {
            let contested = self.contested.keys().filter(|(_, c)| *c == id).take(most.saturating_sub(found.len()));
            found.extend(contested.map(|(p, _)| (*p, self.rows.get(p).map_or(0, |row| row.cluster))));
        }
        found
    }
}

impl RemoteIps {
    fn cluster(&mut self, id: u16) -> &mut Cluster {
        self.clusters.entry(id).or_default()
    }

    fn count(&mut self, row: &Row, by: isize) {
        let counts = &mut self.cluster(row.cluster).counts;
        counts.rows = counts.rows.saturating_add_signed(by);
        if row.has(flag::REFUSED) {
            counts.refused = counts.refused.saturating_add_signed(by);
        }
    }

    fn host(&mut self, ip: Option<IpAddr>) -> u32 {
        let Some(ip) = ip else { return NO_HOST };
        if let Some(index) = self.host_index.get(&ip) {
            return *index;
        }
        if self.hosts.len() >= self.limits.hosts {
            return NO_HOST;
        }
        let index = u32::try_from(self.hosts.len()).unwrap_or(NO_HOST);
        self.hosts.push(ip);
        self.host_index.insert(ip, index);
        index
    }

    fn other_owner(&self, prefix: Prefix, id: u16) -> Option<u16> {
        self.owners.overlapping(prefix).map(|(_, owner)| *owner).find(|owner| *owner != id)
    }

    fn is_refused(&self, prefix: Prefix, id: u16) -> bool {
        self.other_owner(prefix, id).is_some()
    }

    /// Drops the cluster's rows that `stale` is true for.
    fn sweep(&mut self, id: u16, stale: impl Fn(&Row) -> bool) {
        let aside = self.contested.iter().filter(|((_, c), row)| *c == id && stale(row));
        let mut gone: Vec<Prefix> = aside.map(|((p, _), _)| *p).collect();
        let believed = self.rows.iter().filter(|(_, r)| r.cluster == id && !r.has(flag::GONE) && stale(r));
        gone.extend(believed.map(|(p, _)| *p));
        for prefix in gone {
            self.delete(id, prefix, 0, None);
        }
    }

    /// Another cluster is believed so far; now there are two.
    fn contest(&mut self, prefix: Prefix, new: Row, received: Option<Instant>) -> Put {
        let key = (prefix, new.cluster);
        if !self.contested.contains_key(&key) {
            if self.contested.len() >= MAX_CONTESTED {
                self.cluster(new.cluster).counts.dropped += 1;
                return Put::Withheld;
            }
            self.cluster(new.cluster).counts.contested += 1;
        }
        self.contested.insert(key, new);
        self.rank(prefix);
        match self.rows.get(&prefix) {
            Some(row) if row.cluster == new.cluster => self.settle(prefix, received),
            _ => Put::Withheld,
        }
    }

    /// Of several claims on the prefix the best is believed.
    fn rank(&mut self, prefix: Prefix) {
        let Some(row) = self.rows.get(&prefix).copied() else { return };
        let best = self.best_contested(prefix).filter(|best| row.has(flag::GONE) || best.rank() < row.rank());
        let Some(best) = best else { return };
        self.contested.remove(&(prefix, best.cluster));
        self.cluster(best.cluster).counts.contested -= 1;
        if !row.has(flag::GONE) {
            self.count(&row, -1);
            self.contested.insert((prefix, row.cluster), row);
            self.cluster(row.cluster).counts.contested += 1;
        }
        if let Some(row) = self.rows.get_mut(&prefix) {
            row.succeed(best);
        }
        self.count(&best, 1);
    }

    fn inherit(&mut self, prefix: Prefix) {
        if !self.contested.is_empty() {
            self.rank(prefix);
        }
    }

    fn best_contested(&self, prefix: Prefix) -> Option<Row> {
        self.contested.range((prefix, 0)..=(prefix, u16::MAX)).map(|(_, row)| *row).min_by_key(Row::rank)
    }

    /// Looks again whether those who speak of the prefix may.
    fn judge(&mut self, prefix: Prefix) {
        if let Some(row) = self.rows.get(&prefix).copied()
            && !row.has(flag::GONE)
        {
            let refused = self.is_refused(prefix, row.cluster);
            if refused != row.has(flag::REFUSED) {
                self.count(&row, -1);
                let mut judged = row;
                judged.put(flag::REFUSED, refused);
                self.count(&judged, 1);
                self.rows.insert(prefix, judged);
            }
        }
        if !self.contested.is_empty() {
            let aside: Vec<u16> =
                self.contested.range((prefix, 0)..=(prefix, u16::MAX)).map(|((_, c), _)| *c).collect();
            for id in aside {
                let refused = self.is_refused(prefix, id);
                if let Some(row) = self.contested.get_mut(&(prefix, id)) {
                    row.put(flag::REFUSED, refused);
                }
            }
            self.rank(prefix);
        }
        self.settle(prefix, None);
    }

    /// Queues what the map needs of the prefix, or drops a row that is over.
    fn settle(&mut self, prefix: Prefix, received: Option<Instant>) -> Put {
        let Some(row) = self.rows.get_mut(&prefix) else { return Put::Settled };
        if row.step() != Step::Nothing {
            self.queue.push(prefix, row, received);
            return if row.wanted() { Put::Queued } else { Put::Withheld };
        }
        self.queue.settle(row);
        let wanted = row.wanted();
        if row.has(flag::GONE) {
            self.rows.remove(&prefix);
        }
        if wanted { Put::Settled } else { Put::Withheld }
    }
}
