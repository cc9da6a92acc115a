//! The twin against what etcd 3.4 does (the same facts are asked of a real one in `tests/etcd.rs`).

use super::*;

const S: SessionId = SessionId(1);

fn ask(twin: &mut Twin, ticket: u64, op: Op, now: Instant) -> Vec<Outcome> {
    twin.submit(S, Ticket(ticket), op, now);
    twin.take(S).into_iter().map(|reply| reply.outcome).collect()
}

fn put(key: &str, value: &str, lease: LeaseId) -> Write {
    Write::Put { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), lease }
}

fn names(outcome: &Outcome) -> (Vec<String>, bool) {
    let Outcome::Page { entries, more, .. } = outcome else { panic!("no page: {outcome:?}") };
    (entries.iter().map(|e| String::from_utf8(e.key.to_vec()).unwrap()).collect(), *more)
}

fn list(after: Option<&str>, limit: usize, revision: Revision) -> Op {
    let after = after.map(|key| Bytes::copy_from_slice(key.as_bytes()));
    Op::List { prefix: "a/".into(), after, limit, revision }
}

#[test]
fn pages_of_one_revision_fit_each_other() {
    let now = Instant::now();
    let mut twin = Twin::new(7);
    for key in ["a/1", "a/2", "a/3", "b/1"] {
        twin.put(key, "x");
    }
    let at = twin.revision();
    assert_eq!(at, 5);
    assert_eq!(names(&ask(&mut twin, 1, list(None, 2, 0), now)[0]), (vec!["a/1".into(), "a/2".into()], true));
    twin.delete("a/3");
    twin.put("a/4", "x");
    assert_eq!(names(&ask(&mut twin, 2, list(Some("a/2"), 2, at), now)[0]), (vec!["a/3".into()], false));
    assert_eq!(names(&ask(&mut twin, 3, list(Some("a/2"), 2, 0), now)[0]), (vec!["a/4".into()], false));
    twin.compact(at + 1);
    assert_eq!(ask(&mut twin, 4, list(None, 2, at), now), [Outcome::Compacted { oldest: at + 1 }]);
    assert_eq!(names(&ask(&mut twin, 5, list(None, 9, at + 1), now)[0]).0, ["a/1", "a/2"]);
}

#[test]
fn a_watch_catches_up_goes_on_and_ends_by_compaction() {
    let now = Instant::now();
    let mut twin = Twin::new(7);
    twin.put("a/1", "x");
    twin.put("b/1", "x");
    let watch = |revision| Op::Watch { prefix: "a/".into(), revision };
    let outcomes = ask(&mut twin, 1, watch(2), now);
    assert!(
        matches!(&outcomes[..], [Outcome::Watching { revision: 3 }, Outcome::Events { events, .. }] if events.len() == 1)
    );
    twin.delete("a/1");
    twin.delete("a/1");
    let events = twin.take(S);
    assert!(matches!(&events[..], [Reply { outcome: Outcome::Events { events, revision: 4 }, .. }]
        if matches!(&events[..], [Event::Delete { mod_revision: 4, .. }])));
    twin.submit(S, Ticket(1), Op::Cancel, now);
    twin.put("a/2", "x");
    assert_eq!(twin.take(S), []);
    twin.compact(4);
    assert_eq!(ask(&mut twin, 2, watch(3), now), [Outcome::Watching { revision: 5 }, Outcome::Compacted { oldest: 4 }]);
}

#[test]
fn leases_take_their_keys_along_and_bind_the_newest_put() {
    let now = Instant::now();
    let mut twin = Twin::new(7);
    let ttl = Duration::from_secs(10);
    assert_eq!(ask(&mut twin, 1, Op::Grant { ttl }, now), [Outcome::Lease { id: 1, ttl }]);
    assert_eq!(ask(&mut twin, 2, Op::Grant { ttl }, now), [Outcome::Lease { id: 2, ttl }]);
    ask(&mut twin, 3, Op::Write { writes: vec![put("a/1", "x", 1), put("a/2", "x", 1)] }, now);
    ask(&mut twin, 4, Op::Write { writes: vec![put("a/2", "y", 2)] }, now);
    assert_eq!(twin.leases(), [(1, 1), (2, 1)]);
    let later = now + Duration::from_secs(9);
    assert_eq!(ask(&mut twin, 5, Op::KeepAlive { lease: 2 }, later), [Outcome::Lease { id: 2, ttl }]);
    twin.tick(now + ttl);
    assert_eq!(twin.entries("a/").iter().map(|e| e.key.clone()).collect::<Vec<_>>(), ["a/2"]);
    assert_eq!(ask(&mut twin, 6, Op::KeepAlive { lease: 1 }, later), [Outcome::Lease { id: 1, ttl: Duration::ZERO }]);
    let outcomes = ask(&mut twin, 7, Op::Write { writes: vec![put("a/3", "x", 0), put("a/4", "x", 1)] }, later);
    assert!(matches!(&outcomes[..], [Outcome::Failed(f)] if f.kind == FailureKind::LeaseGone));
    assert_eq!(twin.entries("a/3"), []);
}

#[test]
fn a_broken_connection_answers_every_ticket_once() {
    let now = Instant::now();
    let mut twin = Twin::new(7);
    twin.submit(S, Ticket(1), Op::Watch { prefix: "a/".into(), revision: 0 }, now);
    twin.submit(S, Ticket(2), Op::Write { writes: vec![put("a/1", "x", 0)] }, now);
    twin.set_reachable(S, false);
    twin.submit(S, Ticket(3), Op::Get { key: "a/1".into() }, now);
    let replies = twin.take(S);
    assert_eq!(replies.iter().map(|r| r.ticket.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(replies.iter().all(|r| matches!(&r.outcome, Outcome::Failed(f) if f.kind == FailureKind::Unavailable)));
    twin.set_reachable(S, true);
    assert_eq!(names(&ask(&mut twin, 4, Op::Get { key: "a/1".into() }, now)[0]).0, ["a/1"]);
}
