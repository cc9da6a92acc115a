//! Remote addresses into the datapath's ipcache, in batches, and leftovers of an earlier process out of it.
//!
//! The store stays locked over a batch: this cluster's own rows go through the same lock ([`super::datapath`]), so that
//! neither overtakes the other. Whoever else needs the store, the readers of other clusters above all, waits for the
//! batch's system calls meanwhile; [`BATCH`] bounds how long. Within it, the table of this cluster's own rows is looked
//! into, which nobody holds who waits for the store.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use causeway_datapath_loader::{Datapath, IpcacheEntry};
use causeway_table::{Backoff, Shared};
use ipnet::IpNet;

use crate::control::ipcache::IpcacheRow;
use crate::control::ipcache::remote::Job;
use crate::intent::mesh::intake::Intake;

/// Writes in one hold of the lock.
const BATCH: usize = 256;

pub(crate) struct Writer {
    pub(crate) intake: Intake,
    pub(crate) datapath: Arc<dyn Datapath>,
    /// This cluster's own rows: a leftover that is among them is about to be claimed.
    pub(crate) own: Shared<IpNet, IpcacheRow>,
}

/// What a remote address's row in the map is: remote pods are reached natively.
pub(crate) fn entry(identity: u32) -> IpcacheEntry {
    IpcacheEntry { identity, in_cluster: true }
}

/// How a batch ended.
#[derive(Debug, PartialEq, Eq)]
enum Batch {
    /// There is nothing to do.
    Idle,
    Done,
    Failed,
}

impl Writer {
    /// Runs for ever. Waiting is cancel-safe.
    pub(crate) async fn run(self) {
        let backoff = Backoff::default();
        let mut failed = 0;
        loop {
            match self.batch() {
                Batch::Idle => self.intake.work().await,
                Batch::Done => {
                    failed = 0;
                    tokio::task::yield_now().await;
                }
                Batch::Failed => {
                    failed += 1;
                    // What is new need not wait for what failed.
                    tokio::select! {
                        () = tokio::time::sleep(backoff.delay(failed)) => {}
                        () = self.intake.work() => {}
                    }
                }
            }
        }
    }

    fn batch(&self) -> Batch {
        let mut ips = self.intake.ips();
        let jobs = ips.jobs(BATCH);
        if jobs.is_empty() {
            return Batch::Idle;
        }
        let mut failure = None;
        for job in jobs {
            if job.cluster == 0 && self.own.read(|t| t.get(&job.prefix.net()).is_some()) {
                continue;
            }
            let result = self.write(&job);
            ips.finished(&job, result.is_ok());
            match result {
                Ok(written) => self.told(&job, written),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        // Once a batch: a write that went well says nothing of one beside it that did not.
        self.intake.progress().set_error(failure.as_ref().map(ToString::to_string).unwrap_or_default());
        if failure.is_some() { Batch::Failed } else { Batch::Done }
    }

    /// One batch; false when there is nothing to do.
    #[cfg(test)]
    pub(crate) fn batch_for_tests(&self) -> bool {
        self.batch() != Batch::Idle
    }

    fn write(&self, job: &Job) -> causeway_datapath_loader::Result<bool> {
        match job.identity {
            Some(identity) => self.datapath.upsert_ipcache(job.prefix.net(), entry(identity)),
            None => self.datapath.delete_ipcache(job.prefix.net()),
        }
    }

    fn told(&self, job: &Job, written: bool) {
        let progress = self.intake.progress();
        let counter = match (written, job.identity) {
            (false, _) => &progress.unchanged,
            (true, Some(_)) => &progress.upserts,
            (true, None) => &progress.deletes,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if job.cluster != 0 {
            progress.ip(job.cluster, job.prefix, job.revision, job.received, written);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use causeway_datapath_loader::Fake;

    use super::*;
    use crate::control::ipcache::prefix::{Prefix, v4};
    use crate::control::ipcache::remote::{Complete, Entry};
    use crate::tables::Tables;

    fn writer(fake: &Arc<Fake>) -> Writer {
        let tables = Tables::default();
        let left = fake.ipcache().unwrap().into_iter().map(|(net, entry)| (Prefix::from(net), entry.identity));
        let intake = Intake::new(&tables, left);
        Writer { intake, datapath: fake.clone(), own: tables.ipcache.clone() }
    }

    fn put(w: &Writer, last: u8, identity: u32, revision: u64) {
        let entry = Entry { identity, host: None, revision };
        w.intake.ips().put(2, v4(10, 2, 0, last), entry, Some(Instant::now()));
    }

    fn drain(w: &Writer) {
        while w.batch() == Batch::Done {}
    }

    fn map(fake: &Fake) -> Vec<String> {
        fake.ipcache().unwrap().iter().map(|(net, e)| format!("{} {}", net.addr(), e.identity)).collect()
    }

    #[test]
    fn a_restart_writes_nothing_that_is_there_and_drops_what_nobody_wants() {
        let fake = Arc::new(Fake::new());
        let first = writer(&fake);
        put(&first, 1, 131_072, 1);
        put(&first, 2, 131_073, 2);
        drain(&first);
        assert_eq!((map(&fake), fake.writes()), (vec!["10.2.0.1 131072".to_owned(), "10.2.0.2 131073".to_owned()], 2));

        let second = writer(&fake);
        put(&second, 1, 131_072, 1);
        drain(&second);
        assert_eq!((fake.writes(), second.intake.ips().unclaimed()), (2, 1));
        second.intake.ips().complete(&Complete::Remote { identities: 131_072..=196_607 });
        drain(&second);
        assert_eq!(map(&fake), ["10.2.0.1 131072"]);
        let progress = second.intake.progress();
        let counts = [&progress.upserts, &progress.deletes, &progress.unchanged].map(|c| c.load(Ordering::Relaxed));
        assert_eq!(counts, [0, 1, 1]);
    }

    #[tokio::test]
    async fn what_is_new_does_not_wait_for_what_failed() {
        let fake = Arc::new(Fake::new());
        let w = writer(&fake);
        let intake = w.intake.clone();
        fake.fail_with(Some("map full"));
        put(&w, 1, 131_072, 1);
        let task = tokio::spawn(w.run());
        // Until the pauses are longer than the test has patience.
        tokio::time::sleep(Duration::from_millis(1000)).await;
        fake.fail_with(None);
        let started = Instant::now();
        let entry = Entry { identity: 131_073, host: None, revision: 2 };
        intake.ips().put(2, v4(10, 2, 0, 2), entry, None);
        intake.wake();
        while intake.ips().waiting() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());
        task.abort();
    }

    #[test]
    fn a_batch_that_failed_in_part_has_failed() {
        let fake = Arc::new(Fake::new());
        let w = writer(&fake);
        fake.refuse_prefix("10.2.0.1/32".parse().unwrap());
        put(&w, 1, 131_072, 1);
        put(&w, 2, 131_073, 2);
        assert_eq!(w.batch(), Batch::Failed);
        assert_eq!(map(&fake), ["10.2.0.2 131073"]);
        assert!(w.intake.progress().error().contains("10.2.0.1/32 is refused"));
    }

    #[tokio::test]
    async fn a_refused_write_is_tried_again() {
        let fake = Arc::new(Fake::new());
        let w = writer(&fake);
        let intake = w.intake.clone();
        fake.fail_with(Some("map full"));
        put(&w, 1, 131_072, 1);
        assert_eq!(w.batch(), Batch::Failed);
        assert!(intake.progress().error().contains("map full"));
        assert_eq!(intake.ips().waiting(), 1);
        fake.fail_with(None);
        let task = tokio::spawn(w.run());
        let all = async {
            while intake.ips().waiting() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), all).await.unwrap();
        assert_eq!((map(&fake), intake.progress().error()), (vec!["10.2.0.1 131072".to_owned()], String::new()));
        task.abort();
    }
}
