//! Every input in every phase.

use causeway_mesh_kv::{Failure, FailureKind, Outcome};

use super::*;

/// A machine in each phase, with a store that has not answered its last request.
fn in_phase(phase: Phase) -> Rig {
    let mut rig = Rig::new();
    rig.mute = true;
    rig.furnish();
    let steps = match phase {
        Phase::Waiting => {
            rig.input(Input::Tick);
            rig.input(Input::Broken(failure(FailureKind::Unavailable)));
            return rig;
        }
        Phase::Connecting => 0,
        Phase::ReadingConfig => 1,
        Phase::Reserving | Phase::Syncing => 2,
        Phase::Ready | Phase::Gone => usize::MAX,
    };
    rig.input(Input::Tick);
    if phase == Phase::Reserving {
        return reserving(rig);
    }
    let mut answered = 0;
    while answered < steps {
        let replies = rig.twin.take(SessionId(1));
        if replies.is_empty() {
            break;
        }
        for reply in replies.into_iter().take(steps - answered) {
            answered += 1;
            rig.input(Input::Reply(reply));
        }
    }
    if phase == Phase::Gone {
        rig.input(Input::Remove);
    }
    rig
}

/// Stops at the request for the number.
fn reserving(mut rig: Rig) -> Rig {
    loop {
        for reply in rig.twin.take(SessionId(1)) {
            rig.remote.handle(rig.now, Input::Reply(reply));
        }
        while let Some(output) = rig.remote.poll_output() {
            match output {
                Output::Submit(ticket, op) => rig.twin.submit(SessionId(1), ticket, op, rig.base),
                Output::Reserve(_) => return rig,
                other => panic!("{other:?} before the number"),
            }
        }
    }
}

fn failure(kind: FailureKind) -> Failure {
    Failure { kind, message: "it broke".to_owned() }
}

#[test]
fn every_input_in_every_phase() {
    use Phase::{Connecting, Gone, ReadingConfig, Ready, Reserving, Syncing, Waiting};
    let phases = [Waiting, Connecting, ReadingConfig, Reserving, Syncing, Ready, Gone];
    let strange = |ticket, outcome| Input::Reply(Reply { ticket: Ticket(ticket), store: 100, outcome });
    // The phase after the input, in the order of `phases`.
    let table: [(&str, Input, [Phase; 7]); 9] = [
        ("tick", Input::Tick, phases),
        ("removed", Input::Remove, [Gone; 7]),
        (
            "broken",
            Input::Broken(failure(FailureKind::Unavailable)),
            [Waiting, Waiting, Waiting, Waiting, Waiting, Waiting, Gone],
        ),
        // It is opened again at its next deadline, which is now.
        ("redirected", Input::Reconnect, [Connecting, Waiting, Waiting, Waiting, Waiting, Waiting, Gone]),
        ("reserved", Input::Reserved, [Waiting, Connecting, ReadingConfig, Syncing, Syncing, Ready, Gone]),
        ("refused", Input::Refused("no".into()), [Waiting, Waiting, Waiting, Waiting, Waiting, Waiting, Gone]),
        ("words for nobody", strange(999, Outcome::Progress { revision: 1 }), phases),
        ("a failure for nobody", strange(999, Outcome::Failed(failure(FailureKind::Refused))), phases),
        (
            "the heartbeat's list fails",
            strange(1, Outcome::Failed(failure(FailureKind::Denied))),
            [Waiting, Waiting, ReadingConfig, Reserving, Syncing, Ready, Gone],
        ),
    ];
    for (what, input, after) in table {
        for (before, after) in phases.into_iter().zip(after) {
            let mut rig = in_phase(before);
            assert_eq!(rig.phase(), before, "the rig");
            rig.remote.handle(rig.now, input.clone());
            assert_eq!(rig.phase(), after, "{what} while {before:?}");
        }
    }
}
