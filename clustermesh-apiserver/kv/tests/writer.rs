//! The publisher against a real etcd: `cargo test -p causeway-mesh-kv --tests -- --ignored --test-threads=1`.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use causeway_mesh_kv::{
    Connect, FailureKind, Group, GroupId, Heartbeat, Op, Outcome, Publish, Publisher, Session, Settings, Stats,
};
use common::ask::{Asker, PATIENCE, put};
use common::etcd::{Etcd, Options};
use tokio::task::JoinHandle;

struct Writer {
    publisher: Publisher,
    task: JoinHandle<()>,
}

impl Writer {
    fn start(etcd: &Etcd) -> Self {
        let heartbeat = Heartbeat { key: "hb".to_owned(), interval: Duration::from_secs(1) };
        let settings = Settings {
            heartbeat: Some(heartbeat),
            // So short that keeping it alive can be seen to work.
            lease_ttl: Duration::from_secs(6),
            retry_limit: Duration::from_secs(1),
            ..Settings::default()
        };
        let publisher = Publisher::new(Publish::new(settings, 1));
        let session = Session::open(Connect::new(vec![etcd.endpoint()]));
        let task = tokio::spawn(publisher.clone().run(session));
        Self { publisher, task }
    }

    fn group(&self) -> GroupId {
        self.publisher.add_group(Group {
            name: "nodes".to_owned(),
            prefixes: vec!["n/".to_owned()],
            canary: Some("synced/n".to_owned()),
        })
    }

    fn fill(&self, id: GroupId, count: usize, value: &str) {
        for n in 0..count {
            self.publisher.set(id, &format!("n/{n:06}"), Bytes::copy_from_slice(value.as_bytes()));
        }
    }

    async fn until(&self, what: &str, done: impl Fn(&Stats) -> bool) -> Duration {
        let began = Instant::now();
        while !done(&self.publisher.stats()) {
            assert!(began.elapsed() < PATIENCE, "not {what}: {:?}", self.publisher.stats());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        began.elapsed()
    }

    async fn until_synced(&self) -> Duration {
        self.until("synced", |stats| stats.groups.iter().all(|group| group.synced && group.queued == 0)).await
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn count(asker: &mut Asker, prefix: &str) -> usize {
    asker.list(prefix, 4000).await.unwrap().len()
}

#[tokio::test]
#[ignore = "needs /usr/bin/etcd"]
async fn twenty_thousand_keys_survive_a_restart_and_an_empty_store() {
    let mut etcd = Etcd::start().unwrap();
    let mut asker = Asker::open(Connect::new(vec![etcd.endpoint()]));
    asker.put("n/old", "x").await.unwrap();
    let writer = Writer::start(&etcd);
    let id = writer.group();
    writer.fill(id, 20_000, "a");
    writer.publisher.listed(id);
    let took = writer.until_synced().await;
    assert_eq!((count(&mut asker, "n/").await, count(&mut asker, "synced/").await), (20_000, 1));
    let leases = writer.publisher.stats().leases;
    println!("shown: 20000 keys written in {took:?} under {leases} leases, a key of a former life deleted");

    // Longer than the leases last without being kept alive.
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert_eq!(count(&mut asker, "n/").await, 20_000);
    println!("shown: leases of 6 s are kept alive");

    etcd.kill();
    writer.publisher.set(id, "n/new", Bytes::from_static(b"b"));
    writer.publisher.delete(id, "n/000000");
    etcd.restart().unwrap();
    let took = writer.until_synced().await;
    asker.call_until_up(Op::Get { key: "hb".into() }).await.unwrap();
    assert_eq!(count(&mut asker, "n/").await, 20_000);
    println!("shown: what changed while etcd was down is written {took:?} after its restart");

    let store = writer.publisher.stats().store;
    etcd.restart_empty().unwrap();
    writer.until("another store", |stats| stats.store != store).await;
    let took = writer.until_synced().await;
    asker.call_until_up(Op::Get { key: "hb".into() }).await.unwrap();
    assert_eq!((count(&mut asker, "n/").await, count(&mut asker, "synced/").await), (20_000, 1));
    println!("shown: an empty store is filled again in {took:?}");
}

#[tokio::test]
#[ignore = "needs /usr/bin/etcd and etcdctl"]
async fn lost_leases_are_replaced() {
    let etcd = Etcd::start().unwrap();
    let mut asker = Asker::open(Connect::new(vec![etcd.endpoint()]));
    let writer = Writer::start(&etcd);
    let id = writer.group();
    writer.fill(id, 1500, "a");
    writer.publisher.listed(id);
    writer.until_synced().await;
    let listed = etcd.ctl(None, &["lease", "list"]).unwrap();
    let leases: Vec<_> = listed.lines().filter(|line| line.chars().all(|c| c.is_ascii_hexdigit())).collect();
    assert_eq!(leases.len(), 2, "{listed}");
    for lease in leases {
        etcd.ctl(None, &["lease", "revoke", lease]).unwrap();
    }
    let began = Instant::now();
    while (count(&mut asker, "n/").await, count(&mut asker, "synced/").await) != (1500, 1) {
        assert!(began.elapsed() < PATIENCE, "{:?}", writer.publisher.stats());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("shown: 1500 keys and the canary are back {:?} after their leases were revoked", began.elapsed());
}

#[tokio::test]
#[ignore = "needs /usr/bin/etcd and etcdctl"]
async fn a_full_store_is_waited_for() {
    let flags = vec![format!("--quota-backend-bytes={}", 8 << 20)];
    let etcd = Etcd::start_with(Options { flags, ..Options::default() }).unwrap();
    let mut asker = Asker::open(Connect::new(vec![etcd.endpoint()]));
    let writer = Writer::start(&etcd);
    let id = writer.group();
    let big = Bytes::from(vec![b'x'; 500_000]);
    let mut last = Outcome::Written { revision: 0 };
    for _ in 0..40 {
        last = asker.call(Op::Write { writes: vec![put("big", big.clone(), 0)] }).await.unwrap();
        if matches!(last, Outcome::Failed(_)) {
            break;
        }
    }
    assert!(matches!(&last, Outcome::Failed(failure) if failure.kind == FailureKind::NoSpace), "{last:?}");
    writer.fill(id, 10, "a");
    writer.publisher.listed(id);
    let full = |stats: &Stats| stats.last_error.as_ref().is_some_and(|error| error.kind == FailureKind::NoSpace);
    writer.until("full", full).await;
    println!("shown: full: {:?}", writer.publisher.stats().last_error);
    let Outcome::Page { revision, .. } = asker.call(Op::Get { key: "big".into() }).await.unwrap() else { panic!() };
    for args in [format!("compact {revision}"), "defrag".to_owned(), "alarm disarm".to_owned()] {
        etcd.ctl(None, &args.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let took = writer.until_synced().await;
    assert_eq!(count(&mut asker, "n/").await, 10);
    println!("shown: written {took:?} after the store had room again");
}
