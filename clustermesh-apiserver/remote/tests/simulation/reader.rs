//! One remote cluster as one reader sees it: the machine under test, its connection, and its consumer.

use std::sync::Arc;
use std::time::Duration;

use causeway_mesh_remote::core::Remote;
use causeway_mesh_remote::{Checksum, Settings, Stage};
use causeway_mesh_schema::ClusterName;

use crate::consumer::{Consumer, Licence};
use crate::link::Link;
use crate::writer::Writer;

pub(crate) struct Reader {
    /// Which cluster it reads.
    pub(crate) cluster: usize,
    /// Whose reservations it shares.
    pub(crate) agent: usize,
    /// None while its file is gone.
    pub(crate) remote: Option<Remote>,
    pub(crate) link: Option<Link>,
    /// Sessions cannot be opened until then.
    pub(crate) cut_until: Duration,
    /// Replies take this much longer until then.
    pub(crate) slow: (Duration, Duration),
    pub(crate) consumer: Consumer,
    /// When it is woken next.
    pub(crate) wake: Option<Duration>,
}

impl Reader {
    pub(crate) fn new(cluster: usize, agent: usize) -> Reader {
        Reader {
            cluster,
            agent,
            remote: None,
            link: None,
            cut_until: Duration::ZERO,
            slow: (Duration::ZERO, Duration::ZERO),
            consumer: Consumer::default(),
            wake: None,
        }
    }

    pub(crate) fn add(&mut self, name: &ClusterName, settings: &Arc<Settings>, seed: u64, now: Duration) {
        assert!(self.consumer.info.is_none(), "what was removed is still known");
        self.remote = Some(Remote::new(name.clone(), Arc::clone(settings), seed, now));
    }

    pub(crate) fn licence(&self, now: Duration, settings: &Settings) -> Licence {
        let stats = self.remote.as_ref().map(|remote| remote.stats(now));
        let since = stats.as_ref().and_then(|stats| stats.silent_since);
        Licence {
            store: stats.map_or(0, |stats| stats.store),
            expired: since.is_some_and(|since| now.saturating_sub(since) >= settings.cache_ttl),
        }
    }

    /// It knows exactly what the cluster has written.
    pub(crate) fn assert_converged(&self, writer: &Writer, settings: &Settings, now: Duration) {
        let remote = self.remote.as_ref().expect("it is there");
        let stats = remote.stats(now);
        assert!(remote.is_ready(), "not ready: {stats:#?}");
        assert_eq!(self.consumer.stage, Stage::Fresh);
        assert_eq!(self.consumer.info.as_ref().map(|info| u32::from(info.origin.id)), Some(writer.id));
        let offered = settings.kinds_of(&writer.can);
        for kind in &stats.kinds {
            let mut written = writer.model[&kind.kind].clone();
            if !offered.contains(&kind.kind) {
                written.clear();
            }
            let held = self.consumer.kinds.get(&kind.kind).map(|table| &table.entries);
            let held: std::collections::BTreeMap<String, String> = held
                .into_iter()
                .flatten()
                .map(|(name, held)| (name.to_string(), String::from_utf8(held.value.clone()).unwrap()))
                .collect();
            assert_eq!(held, written, "{} of {}", kind.kind, writer.name);
            assert_eq!(kind.entries, written.len(), "{}: counted wrong", kind.kind);
            let sum = Checksum::of(written.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
            assert_eq!(kind.checksum, sum, "{}: the checksum drifted", kind.kind);
        }
    }
}
