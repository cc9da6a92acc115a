//! Every state with every kind of answer, and the ways of a reader's life.

use super::*;

const STORE: u64 = 7;

fn entry(key: &str, mod_revision: Revision) -> Entry {
    Entry { key: Bytes::copy_from_slice(key.as_bytes()), value: Bytes::from_static(b"v"), mod_revision }
}

fn page(keys: &[&str], more: bool, revision: Revision) -> Outcome {
    Outcome::Page { entries: keys.iter().map(|key| entry(key, 1)).collect(), more, revision }
}

fn events(revisions: &[Revision]) -> Outcome {
    let events = revisions.iter().map(|&revision| Event::Put(entry("a/x", revision))).collect();
    Outcome::Events { events, revision: 99 }
}

fn failed(kind: FailureKind) -> Outcome {
    Outcome::Failed(Failure { kind, message: "no".to_owned() })
}

/// Everything it wants now, one word each.
fn drain(follow: &mut Follow) -> Vec<String> {
    std::iter::from_fn(|| follow.poll()).map(|out| word(&out)).collect()
}

fn word(out: &FollowOut) -> String {
    let text = |key: &Bytes| String::from_utf8_lossy(key).into_owned();
    match out {
        FollowOut::Ask { op: Op::List { after, revision, .. } } => {
            format!("list after {:?} at {revision}", after.as_ref().map(text).unwrap_or_default())
        }
        FollowOut::Ask { op: Op::Watch { revision, .. } } => format!("watch {revision}"),
        FollowOut::Ask { op } => format!("{op:?}"),
        FollowOut::Cancel => "cancel".to_owned(),
        FollowOut::Tell(Told::Relisting) => "relisting".to_owned(),
        FollowOut::Tell(Told::Put(entry)) => format!("put {} {}", text(&entry.key), entry.mod_revision),
        FollowOut::Tell(Told::Deleted { key, mod_revision }) => format!("deleted {} {mod_revision}", text(key)),
        FollowOut::Tell(Told::Listed { revision }) => format!("listed {revision}"),
        FollowOut::Tell(Told::Interrupted(failure)) => format!("interrupted {:?}", failure.kind),
    }
}

/// A follower that watches, everything up to revision 10 told.
fn watching() -> Follow {
    let mut follow = Follow::new("a/", 2);
    follow.start();
    follow.handle(STORE, page(&["a/1"], false, 10));
    follow.handle(STORE, Outcome::Watching { revision: 10 });
    drain(&mut follow);
    assert!(follow.is_watching());
    follow
}

#[test]
fn lists_by_pages_of_the_first_ones_revision_then_watches() {
    let mut follow = Follow::new("a/", 2);
    follow.start();
    follow.start();
    assert_eq!(drain(&mut follow), [r#"list after "" at 0"#]);
    follow.handle(STORE, page(&["a/1", "a/2"], true, 10));
    assert_eq!(drain(&mut follow), ["relisting", r#"list after "a/2" at 10"#, "put a/1 1", "put a/2 1"]);
    assert_eq!(follow.revision(), None);
    follow.handle(STORE, page(&["a/3"], false, 12));
    assert_eq!(drain(&mut follow), ["put a/3 1", "listed 10", "watch 11"]);
    follow.handle(STORE, Outcome::Watching { revision: 12 });
    follow.handle(STORE, events(&[11, 11, 12]));
    assert_eq!(drain(&mut follow), ["put a/x 11", "put a/x 11", "put a/x 12"]);
    follow.handle(STORE, events(&[12, 13]));
    assert_eq!(drain(&mut follow), ["put a/x 13"]);
    follow.handle(STORE, Outcome::Progress { revision: 20 });
    assert_eq!(follow.revision(), Some(20));
}

#[test]
fn what_follows_each_answer() {
    use FailureKind::{Denied, Refused, TimedOut, Unavailable};
    let list = r#"list after "" at 0"#;
    for (answer, wants, again) in [
        (Outcome::Compacted { oldest: 15 }, vec![list], None),
        (failed(Unavailable), vec!["interrupted Unavailable"], Some("watch 11")),
        (failed(TimedOut), vec!["interrupted TimedOut"], Some("watch 11")),
        (failed(Denied), vec!["interrupted Denied"], Some(list)),
        (failed(FailureKind::TooLarge), vec!["interrupted TooLarge"], Some(list)),
        (Outcome::Written { revision: 3 }, vec!["cancel", "interrupted Refused"], Some(list)),
    ] {
        let mut follow = watching();
        follow.handle(STORE, answer.clone());
        assert_eq!(drain(&mut follow), wants, "{answer:?}");
        assert_eq!(follow.state == State::Idle, again.is_some(), "{answer:?}");
        follow.start();
        assert_eq!(drain(&mut follow), again.into_iter().collect::<Vec<_>>(), "{answer:?}");
    }
    let mut follow = Follow::new("a/", 2);
    follow.handle(STORE, failed(Refused));
    assert_eq!(drain(&mut follow), Vec::<String>::new());
}

#[test]
fn a_watch_goes_on_only_in_a_store_that_knows_what_was_seen() {
    let list = r#"list after "" at 0"#;
    for (store, revision, wants) in
        [(STORE, 10, vec![]), (STORE, 40, vec![]), (STORE, 9, vec!["cancel", list]), (8, 40, vec!["cancel", list])]
    {
        let mut follow = watching();
        follow.handle(STORE, failed(FailureKind::Unavailable));
        follow.start();
        drain(&mut follow);
        follow.handle(store, Outcome::Watching { revision });
        assert_eq!(drain(&mut follow), wants, "{store} {revision}");
        assert_eq!(follow.is_watching(), wants.is_empty());
    }
}

#[test]
fn pages_begin_again_when_they_do_not_fit() {
    let list = r#"list after "" at 0"#;
    for (store, answer, wants) in [
        (STORE, Outcome::Compacted { oldest: 0 }, vec![list]),
        (8, page(&["a/3"], false, 3), vec![list]),
        (STORE, failed(FailureKind::Unavailable), vec!["interrupted Unavailable"]),
        (STORE, page(&[], true, 12), vec!["listed 10", "watch 11"]),
    ] {
        let mut follow = Follow::new("a/", 2);
        follow.start();
        follow.handle(STORE, page(&["a/1", "a/2"], true, 10));
        drain(&mut follow);
        follow.handle(store, answer.clone());
        assert_eq!(drain(&mut follow), wants, "{answer:?}");
    }
}

#[test]
fn pages_shrink_until_they_fit() {
    let mut follow = Follow::new("a/", 4);
    follow.start();
    let limits: Vec<_> = std::iter::from_fn(|| {
        let out = follow.poll()?;
        let FollowOut::Ask { op: Op::List { limit, .. } } = out else { return None };
        follow.handle(STORE, failed(FailureKind::TooLarge));
        Some(limit)
    })
    .collect();
    assert_eq!(limits, [4, 2, 1]);
    assert_eq!(follow.state, State::Idle);
}

#[test]
fn stopping_keeps_the_place_and_forgetting_does_not() {
    let mut follow = watching();
    follow.stop();
    follow.stop();
    follow.handle(STORE, events(&[11]));
    assert_eq!(drain(&mut follow), ["cancel"]);
    follow.start();
    assert_eq!(drain(&mut follow), ["watch 11"]);
    follow.stop();
    follow.forget();
    follow.start();
    assert_eq!(drain(&mut follow), ["cancel", r#"list after "" at 0"#]);
}

#[test]
fn the_room_for_a_page_is_given_back() {
    let mut follow = Follow::new("a/", 4000);
    follow.start();
    let keys: Vec<String> = (0..4000).map(|n| format!("a/{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    follow.handle(STORE, page(&keys, false, 10));
    assert_eq!(drain(&mut follow).len(), 1 + 1 + 4000 + 2);
    assert!(follow.out.capacity() <= KEPT_OUTPUTS, "{}", follow.out.capacity());
}

#[test]
fn a_revision_that_no_store_can_have_overflows_nothing() {
    let mut follow = Follow::new("a/", 2);
    follow.start();
    follow.handle(STORE, page(&[], false, Revision::MAX));
    assert_eq!(
        drain(&mut follow)[1..],
        ["relisting".to_owned(), format!("listed {0}", Revision::MAX), format!("watch {}", Revision::MAX)]
    );
}
