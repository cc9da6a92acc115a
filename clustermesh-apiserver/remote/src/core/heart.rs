//! The heartbeat: when the cluster's writer last showed that it lives.

use std::time::Duration;

use causeway_mesh_kv::Revision;

/// Counts a beat when the key is another than before: finding the old one again after a new connection proves nothing.
#[derive(Debug)]
pub(crate) struct Heart {
    patience: Duration,
    /// Store and revision of the last beat.
    seen: Option<(u64, Revision)>,
    last: Option<Duration>,
    /// The first connection, from which the first beat is awaited.
    first: Option<Duration>,
}

impl Heart {
    pub(crate) fn new(patience: Duration) -> Heart {
        Heart { patience, seen: None, last: None, first: None }
    }

    pub(crate) fn connected(&mut self, now: Duration) {
        self.first.get_or_insert(now);
    }

    /// The key has this revision. True if that is news.
    pub(crate) fn beat(&mut self, now: Duration, store: u64, revision: Revision) -> bool {
        let news = self.is_news(store, revision);
        if news {
            self.seen = Some((store, revision));
            self.last = Some(now);
        }
        news
    }

    pub(crate) fn is_news(&self, store: u64, revision: Revision) -> bool {
        self.seen != Some((store, revision))
    }

    pub(crate) fn last(&self) -> Option<Duration> {
        self.last
    }

    /// Since when a beat is missing, if one is.
    pub(crate) fn overdue(&self, now: Duration) -> Option<Duration> {
        self.deadline().filter(|at| *at <= now)
    }

    /// When the next beat is overdue.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.last.or(self.first)?.checked_add(self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_news_is_a_beat() {
        let s = Duration::from_secs;
        let mut heart = Heart::new(s(125));
        assert_eq!(heart.deadline(), None);
        heart.connected(s(10));
        heart.connected(s(20));
        assert_eq!(heart.deadline(), Some(s(135)), "the first one counts");
        let beats = [(30, 1, 5, true), (40, 1, 5, false), (50, 1, 6, true), (60, 2, 6, true), (70, 2, 6, false)];
        for (now, store, revision, news) in beats {
            assert_eq!(heart.beat(s(now), store, revision), news, "at {now}");
        }
        assert_eq!((heart.overdue(s(184)), heart.overdue(s(185))), (None, Some(s(185))));
    }
}
