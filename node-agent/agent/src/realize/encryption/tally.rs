//! What has been counted of each peer since the process started. A device counts by link, and forgets a link's counts with
//! it; here they only rise, as Prometheus wants them.

use std::collections::BTreeMap;

use causeway_encryption_plan::{Link, LinkStats, PeerName, Snapshot};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) handshakes: u64,
    pub(crate) failures: u64,
    pub(crate) replays: u64,
}

impl Counts {
    fn of(stats: &LinkStats) -> Counts {
        let LinkStats { rx_bytes, tx_bytes, handshakes, failures, replays, .. } = *stats;
        Counts { rx_bytes, tx_bytes, handshakes, failures, replays }
    }

    /// What came since `last`; everything, where a count has begun anew.
    fn since(self, last: Counts) -> Counts {
        let since = |now: u64, last: u64| now.checked_sub(last).unwrap_or(now);
        Counts {
            rx_bytes: since(self.rx_bytes, last.rx_bytes),
            tx_bytes: since(self.tx_bytes, last.tx_bytes),
            handshakes: since(self.handshakes, last.handshakes),
            failures: since(self.failures, last.failures),
            replays: since(self.replays, last.replays),
        }
    }

    fn add(&mut self, more: Counts) {
        self.rx_bytes = self.rx_bytes.saturating_add(more.rx_bytes);
        self.tx_bytes = self.tx_bytes.saturating_add(more.tx_bytes);
        self.handshakes = self.handshakes.saturating_add(more.handshakes);
        self.failures = self.failures.saturating_add(more.failures);
        self.replays = self.replays.saturating_add(more.replays);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Peers that the device has.
    peers: BTreeMap<PeerName, (Counts, BTreeMap<Link, Counts>)>,
}

impl Tally {
    pub(crate) fn observe(&mut self, snapshot: &Snapshot) {
        self.peers.retain(|name, _| snapshot.stats.contains_key(name));
        for (name, stats) in &snapshot.stats {
            let (total, links) = self.peers.entry(name.clone()).or_default();
            let last = std::mem::take(links);
            for (link, stats) in &stats.links {
                let now = Counts::of(stats);
                total.add(now.since(last.get(link).copied().unwrap_or_default()));
                links.insert(*link, now);
            }
        }
    }

    pub(crate) fn totals(&self) -> BTreeMap<PeerName, Counts> {
        self.peers.iter().map(|(name, (total, _))| (name.clone(), *total)).collect()
    }
}

#[cfg(test)]
mod tests {
    use causeway_encryption_plan::{PeerStats, PrivateKey};

    use super::*;

    #[test]
    fn counts_outlive_their_links() {
        let key = |n| PrivateKey::from_random([n; 32]).public();
        let (old, new) = (Link { own: key(1), remote: key(9) }, Link { own: key(2), remote: key(9) });
        let name = PeerName::new("east", "n2");
        let snapshot = |links: &[(Link, u64)]| {
            let with = |rx_bytes| LinkStats { rx_bytes, ..LinkStats::default() };
            let links: Vec<(Link, LinkStats)> = links.iter().map(|(link, rx)| (*link, with(*rx))).collect();
            let json = serde_json::json!({"endpoint": "10.0.0.2:51871", "links": links, "sourceRefused": 0});
            let stats: PeerStats = serde_json::from_value(json).unwrap();
            Snapshot { stats: [(name.clone(), stats)].into(), ..Snapshot::default() }
        };
        let mut tally = Tally::default();
        for (links, want) in [
            (&[(old, 10)][..], 10),
            (&[(old, 15), (new, 1)], 16),
            (&[(new, 4)], 19),
            // Another process.
            (&[(new, 2)], 21),
        ] {
            tally.observe(&snapshot(links));
            assert_eq!(tally.totals()[&name].rx_bytes, want);
        }
        tally.observe(&Snapshot::default());
        assert_eq!(tally.totals().len(), 0);
    }
}
