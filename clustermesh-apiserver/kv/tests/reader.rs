//! The follower over a session and a real etcd: `cargo test -p causeway-mesh-kv --tests -- --ignored --test-threads=1`.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use causeway_mesh_kv::{Connect, Follow, FollowOut, Op, Session, Ticket, Told, Write};
use common::ask::{Asker, PATIENCE, put};
use common::etcd::Etcd;

struct Reader {
    follow: Follow,
    session: Session,
    ticket: u64,
    known: BTreeSet<String>,
    stale: BTreeSet<String>,
    lists: usize,
    interruptions: usize,
    /// It waits to be started again.
    interrupted: bool,
}

impl Reader {
    fn new(etcd: &Etcd, page_size: usize) -> Self {
        let mut follow = Follow::new("a/", page_size);
        follow.start();
        Self {
            follow,
            session: Session::open(Connect::new(vec![etcd.endpoint()])),
            ticket: 0,
            known: BTreeSet::new(),
            stale: BTreeSet::new(),
            lists: 0,
            interruptions: 0,
            interrupted: false,
        }
    }

    async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        loop {
            self.drain();
            if done(self) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "not {what}: {} known, {:?}", self.known.len(), self.session.status());
            if std::mem::take(&mut self.interrupted) {
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.follow.start();
                continue;
            }
            let reply = tokio::time::timeout(PATIENCE, self.session.next()).await.expect(what);
            if reply.ticket == Ticket(self.ticket) {
                self.follow.handle(reply.store, reply.outcome);
            }
        }
    }

    fn drain(&mut self) {
        while let Some(out) = self.follow.poll() {
            match out {
                FollowOut::Ask { op } => {
                    self.ticket += 1;
                    self.session.submit(Ticket(self.ticket), op);
                }
                FollowOut::Cancel => self.session.submit(Ticket(self.ticket), Op::Cancel),
                FollowOut::Tell(told) => self.told(&told),
            }
        }
    }

    fn told(&mut self, told: &Told) {
        let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
        match told {
            Told::Relisting => self.stale = self.known.clone(),
            Told::Put(entry) => {
                self.stale.remove(&text(&entry.key));
                self.known.insert(text(&entry.key));
            }
            Told::Deleted { key, .. } => drop(self.known.remove(&text(key))),
            Told::Listed { .. } => {
                self.lists += 1;
                self.known.retain(|key| !self.stale.contains(key));
            }
            Told::Interrupted(_) => {
                self.interruptions += 1;
                self.interrupted = true;
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs /usr/bin/etcd and etcdctl"]
async fn goes_on_after_a_restart_and_lists_again_after_a_compaction_or_a_loss() {
    let mut etcd = Etcd::start().unwrap();
    let mut asker = Asker::open(Connect::new(vec![etcd.endpoint()]));
    for n in 0..100u32 {
        let writes = (0..100u32).map(|k| put(&format!("a/{:05}", n * 100 + k), "v", 0)).collect();
        asker.call(Op::Write { writes }).await.unwrap();
    }
    let mut reader = Reader::new(&etcd, 4000);
    let began = Instant::now();
    reader.until("listed", |reader| reader.follow.is_watching()).await;
    assert_eq!(reader.known.len(), 10_000);
    println!("shown: 10000 keys listed in {:?} by pages of 4000, then watched", began.elapsed());

    etcd.kill();
    reader.until("interrupted", |reader| reader.interruptions > 0).await;
    etcd.restart().unwrap();
    asker.call_until_up(Op::Write { writes: vec![put("a/new", "v", 0)] }).await.unwrap();
    asker.call_until_up(Op::Write { writes: vec![Write::Delete { key: "a/00000".into() }] }).await.unwrap();
    reader.until("up to date", |reader| reader.known.contains("a/new") && !reader.known.contains("a/00000")).await;
    assert_eq!(reader.lists, 1);
    println!("shown: after kill -9 and restart the watch went on from its revision, without a list");

    etcd.kill();
    let interruptions = reader.interruptions;
    reader.until("interrupted", |reader| reader.interruptions > interruptions).await;
    etcd.restart().unwrap();
    asker.call_until_up(Op::Write { writes: vec![Write::Delete { key: "a/new".into() }] }).await.unwrap();
    asker.put("a/newer", "v").await.unwrap();
    let revision = reader.follow.revision().unwrap() + 2;
    etcd.ctl(None, &["compact", &revision.to_string()]).unwrap();
    reader.until("listed again", |reader| reader.lists == 2).await;
    assert!(reader.known.contains("a/newer") && !reader.known.contains("a/new"));
    println!("shown: after a compaction of what it missed it listed again");

    etcd.restart_empty().unwrap();
    asker.call_until_up(Op::Write { writes: vec![put("a/only", "v", 0)] }).await.unwrap();
    reader.until("of the new store", |reader| reader.known.iter().eq(["a/only"])).await;
    println!("shown: a store that came back empty was listed, and the old keys were swept");
}
