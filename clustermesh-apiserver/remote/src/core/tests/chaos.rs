//! Whatever a store says, in whatever order: nothing panics, and what is told keeps its order.

use bytes::Bytes;
use causeway_mesh_kv::{Entry, Event, Failure, FailureKind, Outcome};
use proptest::prelude::*;

use super::*;

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        Just(Bytes::from_static(HEARTBEAT.as_bytes())),
        Just(Bytes::from_static(b"cilium/cluster-config/c2")),
        Just(Bytes::from_static(b"cilium/synced/c2/cilium/state/nodes/v1")),
        Just(Bytes::from_static(b"cilium/state/nodes/v1/c2/n1")),
        Just(Bytes::from_static(b"cilium/state/nodes/v1/c2/")),
        Just(Bytes::from_static(b"cilium/state/nodes/v1/c2/\xff")),
        prop::collection::vec(any::<u8>(), 0..4).prop_map(Bytes::from),
    ]
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        Just(Bytes::from_static(b"{\"id\":2,\"capabilities\":{\"syncedCanaries\":true}}")),
        Just(Bytes::from_static(b"{\"id\":3}")),
        prop::collection::vec(any::<u8>(), 0..4).prop_map(Bytes::from),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    (key(), value(), any::<i64>()).prop_map(|(key, value, mod_revision)| Entry { key, value, mod_revision })
}

fn failure() -> impl Strategy<Value = Failure> {
    use FailureKind::{Denied, LeaseGone, NoSpace, Refused, TimedOut, Unavailable};
    let kind = prop::sample::select(vec![Denied, LeaseGone, NoSpace, Refused, TimedOut, Unavailable]);
    kind.prop_map(|kind| Failure { kind, message: "chaos".to_owned() })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let event = prop_oneof![
        entry().prop_map(Event::Put),
        (key(), any::<i64>()).prop_map(|(key, mod_revision)| Event::Delete { key, mod_revision }),
    ];
    prop_oneof![
        4 => (prop::collection::vec(entry(), 0..3), prop::bool::weighted(0.2), any::<i64>())
            .prop_map(|(entries, more, revision)| Outcome::Page { entries, more, revision }),
        4 => any::<i64>().prop_map(|revision| Outcome::Watching { revision }),
        2 => (prop::collection::vec(event, 0..3), any::<i64>())
            .prop_map(|(events, revision)| Outcome::Events { events, revision }),
        1 => any::<i64>().prop_map(|revision| Outcome::Progress { revision }),
        1 => any::<i64>().prop_map(|oldest| Outcome::Compacted { oldest }),
        1 => any::<i64>().prop_map(|revision| Outcome::Written { revision }),
        1 => failure().prop_map(Outcome::Failed),
    ]
}

fn input() -> impl Strategy<Value = (Duration, Input)> {
    let reply = (0..40u64, prop::sample::select(vec![0, 7, 7, 7, 8]), outcome())
        .prop_map(|(ticket, store, outcome)| Input::Reply(Reply { ticket: Ticket(ticket), store, outcome }));
    let input = prop_oneof![
        12 => reply,
        3 => Just(Input::Tick),
        2 => Just(Input::Reserved),
        1 => Just(Input::Refused("no".to_owned())),
        1 => Just(Input::Reconnect),
        1 => failure().prop_map(Input::Broken),
    ];
    ((0..100_000u64).prop_map(Duration::from_millis), input)
}

proptest! {
    #[test]
    fn nothing_that_is_said_panics(inputs in prop::collection::vec(input(), 0..120), recent in any::<bool>()) {
        let mut remote = Remote::new(name(), Arc::new(Settings { page: 2, ..Settings::default() }), 1, Duration::ZERO);
        let (mut now, mut newest, mut open, mut connected) = (Duration::ZERO, 0, false, false);
        for (pause, input) in inputs {
            now += if recent { pause / 100 } else { pause };
            // Half of the replies are to requests that were made lately.
            let input = match input {
                Input::Reply(reply) if recent => {
                    Input::Reply(Reply { ticket: Ticket(newest - reply.ticket.0.min(newest) / 8), ..reply })
                }
                input => input,
            };
            remote.handle(now, input);
            while let Some(output) = remote.poll_output() {
                match output {
                    Output::Open => {
                        prop_assert!(!open, "two sessions at once");
                        open = true;
                    }
                    Output::Close => open = false,
                    Output::Submit(ticket, Op::Cancel) => prop_assert!(open && ticket.0 <= newest),
                    Output::Submit(ticket, _) => {
                        prop_assert!(open && ticket.0 > newest, "a ticket used twice");
                        newest = ticket.0;
                    }
                    Output::Tell(Change::Connected(_)) => connected = true,
                    Output::Tell(Change::Forget) => connected = false,
                    Output::Tell(_) => prop_assert!(connected, "told of nobody"),
                    Output::Reserve(_) | Output::Release | Output::Gone => {}
                }
            }
            prop_assert!(remote.deadline(now).is_some());
            let _ = remote.stats(now);
        }
    }
}
