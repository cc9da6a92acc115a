//! The life of this node's keys: every phase with every input, and what each wait ends by.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use causeway_encryption_plan::{
    Input, Output, OwnKey, OwnKeys, PeerName, PeerView, Phase, PublicKey, Rotation, RotationConfig, Start,
};
use model::private;
use proptest::prelude::*;

const T0: Duration = Duration::from_secs(1_800_000_000);
const WARM_LIMIT: Duration = Duration::from_secs(300);
const REJECT_AFTER: Duration = Duration::from_secs(180);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The key of an epoch.
fn key(epoch: u64) -> PublicKey {
    private(epoch).public()
}

fn own(epoch: u32) -> OwnKey {
    OwnKey::new(epoch, private(epoch.into()), T0)
}

fn name(text: &str) -> PeerName {
    PeerName::new("c", text)
}

/// A view in words: `"a12"` is a peer with sessions on our keys 1 and 2, `"b"` one that nothing is heard of, and `"c1!"` a
/// Cilium node with a session on key 1.
fn peers(texts: &[&str]) -> Input {
    let view = |text: &&str| {
        let confirmed = text.bytes().filter(u8::is_ascii_digit).map(|digit| key((digit - b'0').into())).collect();
        (name(&text[..1]), PeerView { knows_epochs: !text.ends_with('!'), confirmed })
    };
    Input::Peers(texts.iter().map(view).collect())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Steady,
    Making,
    Warming,
    Draining,
}
use At::{Draining, Making, Steady, Warming};

fn at(rotation: &Rotation) -> At {
    match rotation.phase() {
        Phase::Steady => Steady,
        Phase::Making => Making,
        Phase::Warming { .. } => Warming,
        Phase::Draining { .. } => Draining,
    }
}

/// A rotation in a phase, and when it came there; peer `a` has a session on key 1.
fn rotation(phase: At) -> (Rotation, Duration) {
    let mut rotation = Rotation::new(T0, OwnKeys::first(private(1), T0), RotationConfig::default());
    let mut now = T0;
    rotation.handle(now, peers(&["a1"]));
    if phase != Steady {
        now += s(10);
        rotation.handle(now, Input::Rotate);
        assert_eq!(rotation.poll_output(), Some(Output::Make { epoch: 2 }));
    }
    if phase == Warming || phase == Draining {
        now += s(10);
        rotation.handle(now, Input::Made(private(2)));
    }
    if phase == Draining {
        now += WARM_LIMIT;
        rotation.handle(now, Input::Tick);
        assert_eq!(rotation.poll_output(), Some(Output::Store));
    }
    assert_eq!((at(&rotation), rotation.poll_output()), (phase, None));
    (rotation, now)
}

#[test]
fn every_phase_with_every_input() {
    let make = Some(Output::Make { epoch: 2 });
    let store = Some(Output::Store);
    let made = || Input::Made(private(9));
    for (phase, after, input, next, output) in [
        (Steady, s(1), Input::Tick, Steady, None),
        (Steady, DAY, Input::Tick, Making, make.clone()),
        (Steady, s(1), Input::Rotate, Making, make.clone()),
        (Steady, s(1), made(), Steady, None),
        (Steady, s(1), peers(&[]), Steady, None),
        (Steady, s(1), peers(&["a", "b1"]), Steady, None),
        (Steady, DAY, peers(&["a1"]), Making, make),
        (Making, s(1), Input::Tick, Making, None),
        (Making, 9 * DAY, Input::Tick, Making, None),
        (Making, s(1), Input::Rotate, Making, None),
        (Making, s(1), made(), Warming, None),
        (Making, s(1), peers(&[]), Making, None),
        (Making, s(1), peers(&["a1"]), Making, None),
        (Warming, s(1), Input::Tick, Warming, None),
        (Warming, WARM_LIMIT - s(1), Input::Tick, Warming, None),
        (Warming, WARM_LIMIT, Input::Tick, Draining, store.clone()),
        (Warming, s(1), Input::Rotate, Warming, None),
        (Warming, s(1), made(), Warming, None),
        (Warming, s(1), peers(&["a1"]), Warming, None),
        (Warming, s(1), peers(&["a12", "b1"]), Warming, None),
        (Warming, WARM_LIMIT, peers(&["a1"]), Draining, store.clone()),
        // Warm, dark, of Cilium, or none at all: nobody to wait for.
        (Warming, s(1), peers(&["a12", "b2"]), Draining, store.clone()),
        (Warming, s(1), peers(&["a", "b12"]), Draining, store.clone()),
        (Warming, s(1), peers(&["a1!", "b12"]), Draining, store.clone()),
        (Warming, s(1), peers(&[]), Draining, store.clone()),
        (Draining, s(1), Input::Tick, Draining, None),
        // Peer `a` still has its session on key 1.
        (Draining, 9 * DAY, Input::Tick, Draining, None),
        (Draining, s(1), Input::Rotate, Draining, None),
        (Draining, s(1), made(), Draining, None),
        (Draining, 9 * DAY, peers(&["a1"]), Draining, None),
        (Draining, 9 * DAY, peers(&["a12"]), Draining, None),
        (Draining, 9 * DAY, peers(&["a1!"]), Draining, None),
        // It had until now.
        (Draining, 9 * DAY, peers(&["a2"]), Draining, None),
        (Draining, 9 * DAY, peers(&[]), Draining, None),
    ] {
        let (mut rotation, since) = rotation(phase);
        let keys = rotation.keys().publics();
        let label = format!("{phase:?} +{after:?} {input:?}");
        rotation.handle(since + after, input);
        assert_eq!((at(&rotation), rotation.poll_output(), rotation.poll_output()), (next, output, None), "{label}");
        // All that is answered to stays; only a key that was asked for joins.
        let joined = (phase == Making && next == Warming).then(|| key(9));
        assert_eq!(rotation.keys().publics(), keys.into_iter().chain(joined).collect::<Vec<_>>(), "{label}");
    }
}

#[test]
fn a_whole_life() {
    let (mut rotation, since) = rotation(Warming);
    let said = |rotation: &Rotation| {
        let said = rotation.announcement();
        let keys: Vec<_> = said.keys.iter().map(|known| (known.epoch, known.key)).collect();
        (said.current, keys)
    };
    assert_eq!(said(&rotation), (key(1), vec![(1, key(1)), (2, key(2))]));
    assert_eq!(rotation.can_start(), Start::Busy(Phase::Warming { since }));

    let promoted = since + s(3);
    rotation.handle(promoted, peers(&["a12"]));
    assert_eq!(said(&rotation), (key(2), vec![(1, key(1)), (2, key(2))]));
    assert_eq!((rotation.poll_output(), rotation.deadline()), (Some(Output::Store), None));

    // The session on key 1 ends by itself, as nobody renews it.
    let quiet = promoted + REJECT_AFTER;
    rotation.handle(quiet, peers(&["a2"]));
    assert_eq!((at(&rotation), rotation.deadline()), (Draining, Some(quiet + REJECT_AFTER)));
    rotation.handle(quiet + REJECT_AFTER, Input::Tick);
    assert_eq!((at(&rotation), rotation.poll_output()), (Steady, Some(Output::Store)));
    assert_eq!(said(&rotation), (key(2), vec![(2, key(2))]));
    assert_eq!((rotation.can_start(), rotation.deadline()), (Start::Now, Some(since + DAY)));
}

#[test]
fn a_key_is_due_by_its_age() {
    for (interval, deadline) in
        [(None, None), (Some(s(5)), Some(T0 + s(5))), (Some(Duration::MAX), Some(Duration::MAX))]
    {
        let config = RotationConfig { interval, ..RotationConfig::default() };
        let mut rotation = Rotation::new(T0, OwnKeys::first(private(1), T0), config);
        assert_eq!(rotation.deadline(), deadline);
        rotation.handle(T0 + s(5), Input::Tick);
        assert_eq!(at(&rotation), if interval == Some(s(5)) { Making } else { Steady });
    }
}

#[test]
fn lagging_peers_are_named() {
    let (mut steady, now) = rotation(Steady);
    steady.handle(now, peers(&["a1", "b"]));
    assert_eq!(steady.lagging().count(), 0);

    let (mut rotation, since) = rotation(Warming);
    rotation.handle(since, peers(&["a1", "b12", "c", "d1!"]));
    assert_eq!(rotation.lagging().collect::<Vec<_>>(), [&name("a"), &name("d")]);
    rotation.handle(since + WARM_LIMIT, Input::Tick);
    assert_eq!(at(&rotation), Draining);
    assert_eq!(rotation.lagging().collect::<Vec<_>>(), [&name("a"), &name("d")]);
    rotation.handle(since + DAY, peers(&["a2", "b2", "c", "d2!"]));
    assert_eq!(rotation.lagging().count(), 0);
}

/// Peers go on as `views` say, one after the other, a minute apart; when is the previous key gone, counted from the
/// last of them?
fn gone_after(views: &[&[&str]]) -> Duration {
    let (mut rotation, mut now) = rotation(Draining);
    for view in views {
        now += s(60);
        rotation.handle(now, peers(view));
        assert_eq!(at(&rotation), Draining, "{view:?}");
    }
    let deadline = rotation.deadline().unwrap();
    rotation.handle(deadline - s(1), Input::Tick);
    assert_eq!(at(&rotation), Draining);
    rotation.handle(deadline, Input::Tick);
    assert_eq!((at(&rotation), rotation.keys().publics()), (Steady, vec![key(2)]));
    deadline - now
}

#[test]
fn dark_peers_hold_the_previous_key() {
    assert_eq!(gone_after(&[&["a2"]]), REJECT_AFTER);
    // Never seen on key 2: it may know no other.
    assert_eq!(gone_after(&[&["a2", "b"]]), DAY);
    assert_eq!(gone_after(&[&["a"]]), DAY);
    // It comes to key 2 after days: it has yet to switch.
    assert_eq!(gone_after(&[&["a2", "b"], &["a2", "b2"]]), REJECT_AFTER);
    // Seen on key 2, and silent since.
    assert_eq!(gone_after(&[&["a12"], &["a"]]), REJECT_AFTER);
    // Gone altogether, and come again: nothing is known of it.
    assert_eq!(gone_after(&[&["a2", "b2"], &["b2"], &["a", "b2"]]), DAY - s(120));
}

#[test]
fn a_cilium_node_keeps_the_previous_key_and_delays_nothing() {
    let (mut rotation, since) = rotation(Warming);
    rotation.handle(since + s(1), peers(&["a12", "b1!"]));
    assert_eq!(at(&rotation), Draining, "promoted, or the Cilium node would never hear of the key");
    for hour in 1..100 {
        rotation.handle(since + s(hour * 3600), peers(&["a2", "b1!"]));
        assert_eq!((at(&rotation), rotation.deadline()), (Draining, None));
    }
    let switched = since + 5 * DAY;
    rotation.handle(switched, peers(&["a2", "b2!"]));
    assert_eq!(rotation.deadline(), Some(switched + REJECT_AFTER));
}

/// The peer's device goes on sending on key 1 while its agent, which would switch it, is down.
#[test]
fn a_session_on_both_keys_holds_the_previous_one() {
    let (mut rotation, since) = rotation(Draining);
    for minute in 1..1000 {
        rotation.handle(since + s(minute * 60), peers(&["a12"]));
        assert_eq!((at(&rotation), rotation.deadline()), (Draining, None));
    }
}

#[test]
fn it_goes_on_where_the_disk_says() {
    for (previous, next, phase, deadline) in [
        (None, None, Steady, Some(T0 + DAY)),
        (None, Some(own(2)), Warming, Some(T0 + WARM_LIMIT)),
        (Some(own(0)), None, Draining, None),
        // Not written by us; the next key is what matters.
        (Some(own(0)), Some(own(2)), Warming, Some(T0 + WARM_LIMIT)),
    ] {
        let keys = OwnKeys { previous, current: own(1), next };
        let rotation = Rotation::new(T0, keys.clone(), RotationConfig::default());
        assert_eq!((at(&rotation), rotation.keys(), rotation.deadline()), (phase, &keys, deadline));
    }
}

/// After a restart the API may be silent for long: no peers known is not the same as no peers.
#[test]
fn nothing_is_taken_before_the_peers_are_known() {
    let keys = OwnKeys { previous: Some(own(1)), current: own(2), next: None };
    let mut draining = Rotation::new(T0, keys, RotationConfig::default());
    draining.handle(T0 + 9 * DAY, Input::Tick);
    assert_eq!((at(&draining), draining.deadline()), (Draining, None));
    draining.handle(T0 + 9 * DAY, peers(&["a1"]));
    assert_eq!((at(&draining), draining.deadline()), (Draining, None));

    let keys = OwnKeys { previous: None, current: own(1), next: Some(own(2)) };
    let mut warming = Rotation::new(T0, keys, RotationConfig::default());
    warming.handle(T0 + s(1), Input::Tick);
    assert_eq!(at(&warming), Warming);
    warming.handle(T0 + s(2), peers(&["a12"]));
    assert_eq!(at(&warming), Draining);
}

fn config() -> impl Strategy<Value = RotationConfig> {
    let span = || prop_oneof![Just(Duration::ZERO), (0u64..100_000).prop_map(s), Just(Duration::MAX)];
    (prop::option::of(span()), span(), span()).prop_map(|(interval, warm_limit, hold)| RotationConfig {
        interval,
        warm_limit,
        hold,
    })
}

/// What happens next, how many seconds later; for peers, who has sessions on which of the keys the node has.
#[derive(Debug, Clone)]
enum Event {
    Tick,
    Deadline,
    Rotate,
    Made,
    Peers(Vec<(u8, bool, Vec<bool>)>),
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let peer = (0u8..4, any::<bool>(), prop::collection::vec(any::<bool>(), 3));
    prop_oneof![
        Just(Event::Tick),
        Just(Event::Deadline),
        Just(Event::Rotate),
        Just(Event::Made),
        prop::collection::vec(peer, 0..4).prop_map(Event::Peers),
        Just(Event::Restart),
    ]
}

fn view(told: &[(u8, bool, Vec<bool>)], own: &[PublicKey]) -> BTreeMap<PeerName, PeerView> {
    let one = |(at, knows_epochs, on): &(u8, bool, Vec<bool>)| {
        let confirmed: BTreeSet<_> = own.iter().zip(on).filter(|(_, on)| **on).map(|(key, _)| *key).collect();
        (name(&at.to_string()), PeerView { knows_epochs: *knows_epochs, confirmed })
    };
    told.iter().map(one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens: a driver that comes at the deadline never spins, a key goes only when no session stands on it,
    /// and epochs rise.
    #[test]
    fn any_sequence(config in config(), events in prop::collection::vec((0u64..2_000, event()), 1..60)) {
        let mut now = T0;
        let mut rotation = Rotation::new(now, OwnKeys::first(private(1), now), config.clone());
        let mut disk = rotation.keys().clone();
        let mut seen = BTreeMap::new();
        for (number, (later, event)) in (100u64..).zip(events) {
            now += s(later);
            let before = rotation.keys().clone();
            match event {
                Event::Tick => rotation.handle(now, Input::Tick),
                Event::Deadline => now = now.max(rotation.deadline().filter(|at| *at < T0 * 2).unwrap_or(now)),
                Event::Rotate => rotation.handle(now, Input::Rotate),
                Event::Made => rotation.handle(now, Input::Made(private(number))),
                Event::Peers(told) => {
                    seen = view(&told, &before.publics());
                    rotation.handle(now, Input::Peers(seen.clone()));
                }
                Event::Restart => {
                    rotation = Rotation::new(now, disk.clone(), config.clone());
                    seen.clear();
                }
            }
            let (phase, mut deadline) = (rotation.phase(), rotation.deadline());
            if deadline.is_some_and(|at| at <= now) {
                rotation.handle(now, Input::Tick);
                deadline = rotation.deadline();
                prop_assert!(rotation.phase() != phase || deadline.is_none_or(|at| at > now), "spins in {phase:?}");
            }
            // As the driver: the key is on disk before `Made`, roles when told.
            let stored = rotation.poll_output() == Some(Output::Store);
            let after = rotation.keys();
            if stored || after.next != disk.next {
                disk = after.clone();
            }
            for gone in before.publics().iter().filter(|key| !after.publics().contains(key)) {
                prop_assert!(seen.values().all(|peer| !peer.confirmed.contains(gone)), "a session stands on it");
            }
            prop_assert!(after.iter().map(|key| key.epoch).is_sorted_by(|a, b| a < b));
            prop_assert!(after.current.epoch >= before.current.epoch);
        }
    }
}
