//! The session against a real etcd: `cargo test -p causeway-mesh-kv --tests -- --ignored --test-threads=1`.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod common;

use std::time::{Duration, Instant};

use causeway_mesh_kv::{Connect, FailureKind, Link, Op, Outcome, Session, Ticket, Write};
use common::ask::{Asker, keys, put};
use common::etcd::Etcd;

fn watch(prefix: &str, revision: i64) -> Op {
    Op::Watch { prefix: prefix.to_owned(), revision }
}

fn failure(outcome: &Outcome) -> FailureKind {
    let Outcome::Failed(failure) = outcome else { panic!("not failed: {outcome:?}") };
    failure.kind
}

async fn fill(asker: &mut Asker, prefix: &str, count: usize) {
    let names: Vec<String> = (0..count).map(|n| format!("{prefix}{n:06}")).collect();
    let mut tickets = Vec::new();
    for batch in names.chunks(100) {
        let writes = batch.iter().map(|name| put(name, "v", 0)).collect();
        tickets.push(asker.submit(Op::Write { writes }));
    }
    for ticket in tickets {
        let reply = asker.answer(ticket).await.unwrap();
        assert!(matches!(reply.outcome, Outcome::Written { .. }), "{reply:?}");
    }
}

#[tokio::test]
#[ignore = "needs /usr/bin/etcd"]
async fn lists_by_pages_of_one_revision_and_watches_on() {
    let etcd = Etcd::start().unwrap();
    let mut asker = Asker::open(Connect::new(vec![etcd.endpoint()]));
    fill(&mut asker, "a/", 2500).await;
    let Outcome::Page { entries, more: true, revision } =
        asker.call(Op::List { prefix: "a/".into(), after: None, limit: 1000, revision: 0 }).await.unwrap()
    else {
        panic!("no first page")
    };
    assert_eq!(entries.len(), 1000);
    asker.put("a/999999", "late").await.unwrap();
    let after = entries.last().map(|entry| entry.key.clone());
    let op = Op::List { prefix: "a/".into(), after, limit: 2000, revision };
    let Outcome::Page { entries, more: false, .. } = asker.call(op).await.unwrap() else { panic!("no last page") };
    assert_eq!((entries.len(), entries[0].key.as_ref()), (1500, &b"a/001000"[..]));
    println!("shown: pages of one revision fit each other (1000 + 1500 of 2500, a later key left out)");

    let (one, two) = (asker.submit(watch("a/", revision + 1)), asker.submit(watch("b/", 0)));
    for ticket in [one, two] {
        assert!(matches!(asker.answer(ticket).await.unwrap().outcome, Outcome::Watching { .. }));
    }
    let Outcome::Events { events, .. } = asker.answer(one).await.unwrap().outcome else { panic!("no events") };
    assert_eq!(keys(&events), ["a/999999"]);
    let writes = vec![put("a/1", "x", 0), Write::Delete { key: "a/000000".into() }, put("b/1", "x", 0)];
    asker.call(Op::Write { writes }).await.unwrap();
    let Outcome::Events { events, .. } = asker.answer(one).await.unwrap().outcome else { panic!("no events") };
    assert_eq!(keys(&events), ["a/1", "-a/000000"]);
    let Outcome::Events { events, .. } = asker.answer(two).await.unwrap().outcome else { panic!("no events") };
    assert_eq!(keys(&events), ["b/1"]);
    asker.session.submit(one, Op::Cancel);
    let three = asker.submit(watch("b/", 0));
    assert!(matches!(asker.answer(three).await.unwrap().outcome, Outcome::Watching { .. }));
    asker.call(Op::Write { writes: vec![put("a/2", "x", 0), put("b/2", "x", 0)] }).await.unwrap();
    for ticket in [two, three] {
        let Outcome::Events { events, .. } = asker.answer(ticket).await.unwrap().outcome else { panic!("no events") };
        assert_eq!(keys(&events), ["b/2"]);
    }
    println!("shown: several watches of one connection, all events of a revision together, one of them cancelled");
}

#[tokio::test]
#[ignore = "needs /usr/bin/etcd"]
async fn compaction_ends_old_watches_and_pages() {
    let etcd = Etcd::start().unwrap();
    let mut asker = Asker::open(Connect::new(vec![etcd.endpoint()]));
    for n in 0..10 {
        asker.put("a/1", format!("{n}")).await.unwrap();
    }
    etcd.ctl(None, &["compact", "8"]).unwrap();
    let ticket = asker.submit(watch("a/", 3));
    assert!(matches!(asker.answer(ticket).await.unwrap().outcome, Outcome::Watching { .. }));
    assert_eq!(asker.answer(ticket).await.unwrap().outcome, Outcome::Compacted { oldest: 8 });
    let op = Op::List { prefix: "a/".into(), after: None, limit: 10, revision: 3 };
    assert!(matches!(asker.call(op).await.unwrap(), Outcome::Compacted { .. }));
    let ticket = asker.submit(watch("a/", 8));
    assert!(matches!(asker.answer(ticket).await.unwrap().outcome, Outcome::Watching { .. }));
    let Outcome::Events { events, .. } = asker.answer(ticket).await.unwrap().outcome else { panic!("no events") };
    assert_eq!(events.iter().map(|event| event.mod_revision()).collect::<Vec<_>>(), [8, 9, 10, 11]);
    println!(
        "shown: a compacted watch and a compacted page say so; a watch from the compacted revision gets all since"
    );
}

#[tokio::test]
#[ignore = "needs /usr/bin/etcd"]
async fn a_killed_server_fails_all_tickets_and_is_found_again() {
    let mut etcd = Etcd::start().unwrap();
    let mut asker = Asker::open(Connect::new(vec![etcd.endpoint()]));
    asker.put("a/1", "x").await.unwrap();
    let ticket = asker.submit(watch("a/", 0));
    assert!(matches!(asker.answer(ticket).await.unwrap().outcome, Outcome::Watching { .. }));
    let began = Instant::now();
    etcd.kill();
    assert_eq!(failure(&asker.answer(ticket).await.unwrap().outcome), FailureKind::Unavailable);
    println!("shown: kill -9 ended the watch after {:?}", began.elapsed());
    assert_eq!(failure(&asker.put("a/2", "x").await.unwrap()), FailureKind::Unavailable);
    assert_ne!(asker.session.status().link, Link::Connected);
    etcd.restart().unwrap();
    let began = Instant::now();
    asker.call_until_up(Op::Write { writes: vec![put("a/2", "x", 0)] }).await.unwrap();
    println!("shown: written {:?} after the restart; {:?}", began.elapsed(), asker.session.status());
    assert_eq!(asker.list("a/", 10).await.unwrap().len(), 2);
}

#[tokio::test]
#[ignore = "needs /usr/bin/etcd"]
async fn a_stopped_server_is_found_by_keepalive() {
    let etcd = Etcd::start().unwrap();
    let mut asker = Asker::open(Connect::new(vec![etcd.endpoint()]));
    let ticket = asker.submit(watch("a/", 0));
    let Outcome::Watching { .. } = asker.answer(ticket).await.unwrap().outcome else { panic!("no watch") };
    etcd.pause().unwrap();
    let began = Instant::now();
    let outcome = asker.answer(ticket).await.unwrap().outcome;
    println!("shown: SIGSTOP found after {:?} (promised: 7 s): {outcome:?}", began.elapsed());
    assert_eq!(failure(&outcome), FailureKind::Unavailable);
    etcd.resume().unwrap();
    asker.call_until_up(Op::Get { key: "a/1".into() }).await.unwrap();
}

#[tokio::test]
#[ignore = "needs /usr/bin/etcd"]
async fn an_idle_connection_is_not_ended_for_its_pings() {
    let etcd = Etcd::start().unwrap();
    let mut asker = Asker::open(Connect::new(vec![etcd.endpoint()]));
    let ticket = asker.submit(watch("a/", 0));
    assert!(matches!(asker.answer(ticket).await.unwrap().outcome, Outcome::Watching { .. }));
    let silence = tokio::time::timeout(Duration::from_secs(32), asker.session.next()).await;
    assert!(silence.is_err(), "{silence:?}");
    asker.put("a/1", "x").await.unwrap();
    assert!(matches!(asker.answer(ticket).await.unwrap().outcome, Outcome::Events { .. }));
    assert_eq!(asker.session.status().connects, 1);
    println!("shown: 32 s of silence with pings every 5 s, and the same connection goes on");
}

#[tokio::test]
#[ignore = "needs /usr/bin/etcd"]
async fn leases_end_with_their_keys() {
    let etcd = Etcd::start().unwrap();
    let mut asker = Asker::open(Connect::new(vec![etcd.endpoint()]));
    let ttl = Duration::from_secs(60);
    let Outcome::Lease { id, ttl: granted } = asker.call(Op::Grant { ttl }).await.unwrap() else { panic!("no lease") };
    assert_eq!(granted, ttl);
    asker.call(Op::Write { writes: vec![put("a/1", "x", id)] }).await.unwrap();
    let Outcome::Lease { ttl: left, .. } = asker.call(Op::KeepAlive { lease: id }).await.unwrap() else { panic!() };
    assert_eq!(left, ttl);
    asker.call(Op::Revoke { lease: id }).await.unwrap();
    assert_eq!(asker.list("a/", 10).await.unwrap(), []);
    assert_eq!(asker.call(Op::KeepAlive { lease: id }).await.unwrap(), Outcome::Lease { id, ttl: Duration::ZERO });
    let outcome = asker.call(Op::Write { writes: vec![put("a/1", "x", id)] }).await.unwrap();
    assert_eq!(failure(&outcome), FailureKind::LeaseGone);
    assert_eq!(failure(&asker.call(Op::Revoke { lease: id }).await.unwrap()), FailureKind::LeaseGone);
    println!("shown: a revoked lease takes its keys along, and keep-alive, put and revoke say that it is gone");
}

#[tokio::test]
#[ignore = "needs /usr/bin/etcd"]
async fn two_hundred_sessions_reconnect_at_once() {
    let mut etcd = Etcd::start().unwrap();
    let connect = Connect::new(vec![etcd.endpoint()]);
    let mut asker = Asker::open(connect.clone());
    fill(&mut asker, "a/", 1000).await;
    let mut sessions: Vec<Session> = (0..200).map(|_| Session::open(connect.clone())).collect();
    for session in &mut sessions {
        session.submit(Ticket(1), watch("a/", 0));
    }
    for session in &mut sessions {
        assert!(matches!(session.next().await.outcome, Outcome::Watching { .. }));
    }
    etcd.kill();
    for session in &mut sessions {
        assert_eq!(failure(&session.next().await.outcome), FailureKind::Unavailable);
    }
    etcd.restart().unwrap();
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for mut session in sessions {
        tasks.spawn(async move {
            for n in 2u64.. {
                session.submit(Ticket(n), Op::List { prefix: "a/".into(), after: None, limit: 4000, revision: 0 });
                if let Outcome::Page { entries, .. } = session.next().await.outcome {
                    return entries.len();
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            0
        });
    }
    let lengths = tasks.join_all().await;
    assert!(lengths.iter().all(|length| *length == 1000), "{lengths:?}");
    println!("shown: 200 sessions have their lists of 1000 keys {:?} after a restart", began.elapsed());
}
