//! The writer against the twin, step by step. What it must hold under chaos is in `tests/convergence.rs`.

use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;

use super::*;
use crate::clock::Now;
use crate::op::{FailureKind, Op, Outcome, Ticket, Write};
use crate::twin::{SessionId, Twin};

const S: SessionId = SessionId(1);

struct Bench {
    publish: Publish,
    twin: Twin,
    now: Now,
    /// What was asked, one word each.
    asked: Vec<String>,
}

fn settings() -> Settings {
    Settings { keys_per_lease: 3, batch: 2, ..Settings::default() }
}

fn nodes() -> Group {
    Group { name: "nodes".to_owned(), prefixes: vec!["n/".to_owned()], canary: Some("synced/n".to_owned()) }
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let now = Now { at: Instant::now(), wall: UNIX_EPOCH };
        Self { publish: Publish::new(settings, 1), twin: Twin::new(7), now, asked: Vec::new() }
    }

    /// Until nothing more happens.
    fn settle(&mut self) {
        loop {
            while let Some((ticket, op)) = self.publish.poll(self.now) {
                self.asked.push(word(&op));
                self.twin.submit(S, ticket, op, self.now.at);
            }
            let replies = self.twin.take(S);
            if replies.is_empty() {
                return;
            }
            for reply in replies {
                self.publish.handle(reply, self.now);
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now = Now { at: self.now.at + time, wall: self.now.wall + time };
        self.twin.tick(self.now.at);
        self.settle();
    }

    fn asked(&mut self) -> Vec<String> {
        std::mem::take(&mut self.asked)
    }

    fn store(&self, prefix: &str) -> Vec<String> {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        self.twin.entries(prefix).iter().map(|e| format!("{}={}", text(&e.key), text(&e.value))).collect()
    }

    fn synced(&self) -> bool {
        self.publish.stats().groups.iter().all(|group| group.synced)
    }
}

fn word(op: &Op) -> String {
    match op {
        Op::List { prefix, .. } => format!("list {prefix}"),
        Op::Grant { .. } => "grant".to_owned(),
        Op::KeepAlive { lease } => format!("keep {lease}"),
        Op::Write { writes } => {
            let words = writes.iter().map(|write| match write {
                Write::Put { key, .. } => format!("+{key}"),
                Write::Delete { key } => format!("-{key}"),
                Write::DeletePrefix { prefix } => format!("-{prefix}*"),
            });
            words.collect::<Vec<_>>().join(" ")
        }
        op => format!("{op:?}"),
    }
}

#[test]
fn fills_the_store_then_writes_the_canary() {
    let mut bench = Bench::new(settings());
    let id = bench.publish.add_group(nodes());
    for key in ["n/1", "n/2", "n/3", "n/4"] {
        bench.publish.set(id, key, value("a"));
    }
    bench.settle();
    assert_eq!(bench.asked(), ["list n/", "grant", "+n/1 +n/2", "+n/3", "grant", "+n/4"]);
    assert!(!bench.synced());
    bench.publish.listed(id);
    bench.settle();
    assert_eq!(bench.asked(), ["+synced/n"]);
    assert_eq!(bench.store("synced/"), ["synced/n=1970-01-01T00:00:00.000000000Z"]);
    assert!(bench.synced());
    assert_eq!(bench.twin.leases(), [(1, 3), (2, 2)]);
}

#[test]
fn writes_only_what_changed_and_only_the_newest() {
    let mut bench = Bench::new(Settings::default());
    let id = bench.publish.add_group(nodes());
    bench.publish.set(id, "n/1", value("a"));
    bench.publish.set(id, "n/2", value("a"));
    bench.settle();
    let before = bench.twin.revision();
    bench.publish.set(id, "n/1", value("b"));
    bench.publish.set(id, "n/1", value("c"));
    bench.publish.set(id, "n/2", value("a"));
    bench.publish.set(id, "n/3", value("x"));
    bench.publish.delete(id, "n/3");
    bench.settle();
    assert_eq!(bench.store("n/"), ["n/1=c", "n/2=a"]);
    assert_eq!(bench.twin.revision(), before + 1);
    bench.publish.delete(id, "n/2");
    bench.publish.set(id, "n/2", value("a"));
    bench.settle();
    assert_eq!(bench.twin.revision(), before + 1);
}

#[test]
fn what_a_former_life_left_goes_when_the_set_is_complete() {
    let mut bench = Bench::new(Settings::default());
    for key in ["n/old", "n/kept", "m/other"] {
        bench.twin.put(key, "a");
    }
    let id = bench.publish.add_group(nodes());
    bench.publish.set(id, "n/kept", value("a"));
    bench.settle();
    assert_eq!(bench.store("n/"), ["n/kept=a", "n/old=a"]);
    bench.publish.listed(id);
    bench.settle();
    assert_eq!(bench.store("n/"), ["n/kept=a"]);
    assert_eq!(bench.store("m/"), ["m/other=a"]);
    assert_eq!(bench.twin.leases(), [(1, 2)]);
    assert!(bench.synced());
}

#[test]
fn the_canary_waits_for_everything_and_for_nothing_later() {
    let mut bench = Bench::new(Settings::default());
    let id = bench.publish.add_group(nodes());
    bench.settle();
    bench.twin.set_no_space(true);
    bench.publish.set(id, "n/1", value("a"));
    bench.publish.listed(id);
    bench.settle();
    assert_eq!(bench.store(""), Vec::<String>::new());
    bench.twin.set_no_space(false);
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.store(""), ["n/1=a", "synced/n=1970-01-01T00:00:01.000000000Z"]);
}

#[test]
fn a_set_said_again_drops_what_is_not_in_it() {
    let mut bench = Bench::new(Settings::default());
    let id = bench.publish.add_group(nodes());
    for key in ["n/1", "n/2"] {
        bench.publish.set(id, key, value("a"));
    }
    bench.publish.listed(id);
    bench.settle();
    bench.publish.relisting(id);
    bench.publish.set(id, "n/2", value("a"));
    bench.settle();
    assert_eq!(bench.store("n/"), ["n/1=a", "n/2=a"]);
    bench.publish.listed(id);
    bench.settle();
    assert_eq!(bench.store("n/"), ["n/2=a"]);
}

#[test]
fn leases_are_kept_alive_and_their_loss_writes_everything_again() {
    let mut bench = Bench::new(settings());
    let id = bench.publish.add_group(nodes());
    for key in ["n/1", "n/2", "n/3", "n/4"] {
        bench.publish.set(id, key, value("a"));
    }
    bench.publish.listed(id);
    bench.settle();
    bench.asked();
    for _ in 0..4 {
        bench.wait(Duration::from_mins(5));
    }
    assert_eq!(bench.asked(), ["keep 1", "keep 2"].repeat(4));
    let all = bench.store("");
    bench.twin.drop_lease(1);
    bench.twin.drop_lease(2);
    assert_eq!(bench.store(""), Vec::<String>::new());
    bench.publish.set(id, "n/1", value("b"));
    bench.settle();
    bench.wait(Duration::from_mins(5));
    assert_eq!(bench.store("n/"), ["n/1=b", "n/2=a", "n/3=a", "n/4=a"]);
    assert_eq!(bench.store("synced/"), all[4..]);
}

#[test]
fn an_empty_store_is_filled_again_and_its_canary_comes_last() {
    let mut bench = Bench::new(settings());
    let id = bench.publish.add_group(nodes());
    for key in ["n/1", "n/2", "n/3"] {
        bench.publish.set(id, key, value("a"));
    }
    bench.publish.listed(id);
    bench.settle();
    for store in [8, 8] {
        // The second time under the same number: only its revision tells.
        bench.twin.wipe(store);
        bench.asked();
        bench.wait(Duration::from_secs(1));
        bench.publish.set(id, "n/1", value(&format!("{:?}", bench.now.wall)));
        bench.settle();
        bench.wait(Duration::from_secs(1));
        assert_eq!(bench.store("n/").len(), 3);
        assert_eq!(bench.store("synced/").len(), 1);
        assert_eq!(bench.asked().last().map(String::as_str), Some("+synced/n"));
        assert!(bench.synced());
    }
}

#[test]
fn an_empty_store_is_noticed_by_a_writer_that_has_nothing_to_write() {
    let mut bench = Bench::new(settings());
    let id = bench.publish.add_group(nodes());
    bench.publish.set(id, "n/1", value("a"));
    bench.publish.listed(id);
    bench.settle();
    bench.twin.wipe(8);
    bench.wait(Duration::from_secs(5));
    bench.wait(Duration::from_secs(1));
    assert_eq!((bench.store("n/").len(), bench.store("synced/").len()), (1, 1));
}

#[test]
fn a_store_that_is_behind_has_lost_everything_not_only_what_was_touched() {
    let mut bench = Bench::new(Settings { keys_per_lease: 1, ..Settings::default() });
    let id = bench.publish.add_group(nodes());
    for key in ["n/1", "n/2", "n/3"] {
        bench.publish.set(id, key, value("a"));
    }
    bench.publish.listed(id);
    bench.settle();
    bench.twin.wipe(7);
    bench.publish.set(id, "n/1", value("b"));
    bench.settle();
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.store("n/"), ["n/1=b", "n/2=a", "n/3=a"]);
    assert!(bench.synced());
}

#[test]
fn a_bad_key_does_not_stop_good_ones() {
    let mut bench = Bench::new(Settings::default());
    let id = bench.publish.add_group(nodes());
    for key in ["n/1", "n/bad", "n/2"] {
        bench.publish.set(id, key, value("a"));
    }
    let refuse = |op: &Op| matches!(op, Op::Write { writes } if writes.iter().any(|write| matches!(write, Write::Put { key, .. } if key == "n/bad")));
    let mut refused = 0;
    while let Some((ticket, op)) = bench.publish.poll(bench.now) {
        if refuse(&op) {
            refused += 1;
            let failure = Failure { kind: FailureKind::Refused, message: "too large".to_owned() };
            let outcome = Outcome::Failed(failure);
            bench.publish.handle(crate::Reply { ticket, store: 7, outcome }, bench.now);
            continue;
        }
        bench.twin.submit(S, ticket, op, bench.now.at);
        for reply in bench.twin.take(S) {
            bench.publish.handle(reply, bench.now);
        }
    }
    assert_eq!(bench.store("n/"), ["n/1=a", "n/2=a"]);
    assert_eq!(refused, 2, "once with others, once alone");
    assert!(bench.publish.deadline().unwrap() > bench.now.at);
    assert_eq!(bench.publish.stats().errors, 2);
}

#[test]
fn the_heartbeat_beats() {
    let heartbeat = Heartbeat { key: "hb".to_owned(), interval: Duration::from_secs(5) };
    let mut bench = Bench::new(Settings { heartbeat: Some(heartbeat), ..Settings::default() });
    bench.settle();
    assert_eq!(bench.store("hb"), ["hb=1970-01-01T00:00:00.000000000Z"]);
    assert_eq!(bench.publish.deadline(), Some(bench.now.at + Duration::from_secs(5)));
    bench.wait(Duration::from_secs(4));
    assert_eq!(bench.store("hb"), ["hb=1970-01-01T00:00:00.000000000Z"]);
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.store("hb"), ["hb=1970-01-01T00:00:05.000000000Z"]);
}

#[test]
fn a_removed_group_is_emptied_and_may_come_back() {
    let mut bench = Bench::new(settings());
    let single = Group { name: "config".to_owned(), ..Group::default() };
    let (id, config) = (bench.publish.add_group(nodes()), bench.publish.add_group(single));
    bench.publish.set(id, "n/1", value("a"));
    bench.publish.set(config, "config/c1", value("a"));
    bench.publish.delete(config, "config/c2");
    bench.publish.listed(id);
    bench.twin.put("config/c2", "old");
    bench.settle();
    assert_eq!(bench.store("").len(), 3);
    bench.publish.remove_group(id);
    bench.publish.remove_group(config);
    bench.publish.set(id, "n/2", value("a"));
    bench.settle();
    assert_eq!(bench.store(""), Vec::<String>::new());
    assert_eq!(bench.publish.stats().groups, []);
    assert_eq!(bench.twin.leases(), [(1, 0)]);

    let id = bench.publish.add_group(nodes());
    bench.publish.set(id, "n/1", value("a"));
    bench.publish.set(id, "n/2", value("a"));
    bench.publish.listed(id);
    bench.settle();
    bench.publish.remove_group(id);
    let back = bench.publish.add_group(nodes());
    bench.publish.set(back, "n/1", value("b"));
    bench.settle();
    bench.publish.listed(back);
    bench.settle();
    assert_eq!(bench.store("n/"), ["n/1=b"]);
    assert!(bench.synced());
}

#[test]
fn silence_makes_it_wait_longer_each_time_and_ask_little() {
    let mut bench = Bench::new(Settings::default());
    let id = bench.publish.add_group(nodes());
    bench.twin.set_reachable(S, false);
    for n in 0..1000 {
        bench.publish.set(id, &format!("n/{n}"), value("a"));
    }
    bench.settle();
    let mut waits = Vec::new();
    for _ in 0..12 {
        let at = bench.publish.deadline().unwrap();
        assert!(at > bench.now.at);
        waits.push(at - bench.now.at);
        bench.wait(at - bench.now.at);
    }
    assert!(waits.windows(2).filter(|pair| pair[1] > pair[0]).count() >= 8, "{waits:?}");
    assert!(waits.last().unwrap() <= &Duration::from_secs(30));
    assert!(bench.asked().len() < 60);
    assert!(bench.publish.stats().last_error.is_some());
    bench.twin.set_reachable(S, true);
    bench.wait(Duration::from_secs(30));
    assert_eq!(bench.store("n/").len(), 1000);
    assert_eq!(bench.publish.stats().last_error, None);
}

#[test]
fn what_failed_is_tried_again_when_the_pause_is_over() {
    let mut bench = Bench::new(settings());
    let id = bench.publish.add_group(nodes());
    bench.publish.listed(id);
    bench.settle();
    bench.wait(Duration::from_secs(1));
    assert!(bench.synced());
    bench.twin.set_reachable(S, false);
    bench.publish.set(id, "n/1", value("a"));
    bench.settle();
    // The next refresh of the lease is minutes away.
    let wait = bench.publish.deadline().unwrap() - bench.now.at;
    assert!(wait <= settings().retry_first, "{wait:?}");
    bench.twin.set_reachable(S, true);
    bench.wait(wait);
    assert_eq!(bench.store("n/"), ["n/1=a"]);
    assert!(bench.publish.deadline().unwrap() > bench.now.at, "nothing is due, and nobody spins");
}

#[test]
fn foreign_answers_are_ignored() {
    let mut publish = Publish::new(Settings::default(), 1);
    let now = Now { at: Instant::now(), wall: UNIX_EPOCH };
    publish.handle(crate::Reply { ticket: Ticket(9), store: 3, outcome: Outcome::Watching { revision: 1 } }, now);
    assert_eq!(publish.stats(), Stats::default());
}
