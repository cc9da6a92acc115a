//! The state machine as a table, and the schedule.

use super::*;

pub(super) fn target(n: u16) -> Target {
    let [high, low] = n.to_be_bytes();
    Target { addr: ([10, 2, high, low], 80).into(), proto: Proto::Tcp }
}

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) fn outputs(p: &mut Prober) -> Vec<Output> {
    std::iter::from_fn(|| p.poll_output()).collect()
}

/// Runs to the next probe.
fn next(p: &mut Prober, now: &mut Instant) -> Probe {
    loop {
        *now = p.deadline().unwrap();
        p.handle(*now, Input::Tick);
        match outputs(p)[..] {
            [] => {}
            [Output::Start(probe)] => return probe,
            _ => panic!("one probe at a time"),
        }
    }
}

/// Runs to the next probe, answers it at once, and gives what is published.
fn step(p: &mut Prober, now: &mut Instant, answer: Answer) -> Vec<Option<Health>> {
    let probe = next(p, now);
    p.handle(*now, Input::Answered(probe, answer));
    let rows = outputs(p).into_iter().map(|o| match o {
        Output::Publish(_, health) => health,
        Output::Start(_) => panic!("too early"),
    });
    rows.collect()
}

#[test]
fn verdicts_by_answers() {
    // `.`: nothing published; `-`: dead; `+`: alive; `0`: the row goes. Answers: y, n, ? (not sent).
    let table = [
        (false, "yyy", "..."),
        (true, "yyy", "+.."),
        (false, "nn", ".-"),
        (true, "nn", ".-"),
        (false, "nynynyn", "......."),
        (false, "ynn", "..-"),
        (true, "ynn", "+.-"),
        (false, "nnyy", ".-.0"),
        (true, "nnyy", ".-.+"),
        (false, "nnynynyy", ".-.....0"),
        (false, "n?n", "..-"),
        (true, "?????", "....."),
        (false, "nn??y?y", ".-....0"),
    ];
    for (proof, answers, want) in table {
        let mut now = Instant::now();
        let mut p = Prober::new(Settings::default());
        p.handle(now, Input::Watch(target(1), Watched { proof }));
        let got: String = answers
            .chars()
            .map(|c| {
                let answer = match c {
                    'y' => Answer::Accepted,
                    'n' => Answer::Silence,
                    _ => Answer::Unsent,
                };
                match step(&mut p, &mut now, answer)[..] {
                    [] => '.',
                    [None] => '0',
                    [Some(Health { alive: true, .. })] => '+',
                    [Some(Health { alive: false, .. })] => '-',
                    _ => panic!("several rows"),
                }
            })
            .collect();
        assert_eq!(got, want, "{answers}, proof {proof}");
    }
}

#[test]
fn what_answers_mean_by_protocol() {
    let table = [
        (Answer::Accepted, Ok(()), Ok(())),
        (Answer::Refused, Err(Some(Reason::Refused)), Ok(())),
        (Answer::Unreachable, Err(Some(Reason::Unreachable)), Err(Some(Reason::Unreachable))),
        (Answer::Silence, Err(Some(Reason::Silence)), Err(Some(Reason::Silence))),
        (Answer::Unsent, Err(None), Err(None)),
    ];
    for (answer, tcp, udp) in table {
        assert_eq!((failure(Proto::Tcp, answer), failure(Proto::Udp, answer)), (tcp, udp), "{answer:?}");
    }
}

#[test]
fn the_reason_is_of_the_failure_that_decided() {
    let mut now = Instant::now();
    let mut p = Prober::new(Settings::default());
    p.handle(now, Input::Watch(target(1), Watched::default()));
    step(&mut p, &mut now, Answer::Refused);
    let rows = step(&mut p, &mut now, Answer::Silence);
    assert_eq!(rows, [Some(Health { alive: false, reason: "no answer within 600 ms".into() })]);
    assert_eq!(step(&mut p, &mut now, Answer::Refused), [], "no news");
}

#[test]
fn probes_are_counted_by_what_came_of_them_and_never_taken_back() {
    let mut now = Instant::now();
    let mut p = Prober::new(Settings::default());
    p.handle(now, Input::Watch(target(1), Watched::default()));
    let mut shown = Vec::new();
    for answer in [Answer::Accepted, Answer::Silence, Answer::Unsent, Answer::Accepted, Answer::Refused] {
        let probe = next(&mut p, &mut now);
        // One that runs has no outcome yet.
        shown.push((p.counts().answered, p.counts().failures, p.counts().unsent));
        p.handle(now, Input::Answered(probe, answer));
    }
    assert_eq!(shown, [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1), (2, 1, 1)]);
}

#[test]
fn proof_is_given_and_taken_back_as_asked() {
    let mut now = Instant::now();
    let mut p = Prober::new(Settings::default());
    p.handle(now, Input::Watch(target(1), Watched::default()));
    step(&mut p, &mut now, Answer::Accepted);
    let alive = Some(Health { alive: true, reason: "".into() });
    for (proof, want) in [(true, alive), (false, None)] {
        p.handle(now, Input::Watch(target(1), Watched { proof }));
        assert_eq!(outputs(&mut p), [Output::Publish(target(1), want)]);
    }
}

#[test]
fn a_target_that_leaves_is_forgotten_with_what_was_said_of_it() {
    let mut now = Instant::now();
    let mut p = Prober::new(Settings::default());
    p.handle(now, Input::Watch(target(1), Watched::default()));
    step(&mut p, &mut now, Answer::Silence);
    step(&mut p, &mut now, Answer::Silence);
    assert_eq!((p.counts().targets, p.counts().dead), (1, 1));
    p.handle(now, Input::Forget(target(1)));
    assert_eq!(outputs(&mut p), [Output::Publish(target(1), None)]);
    assert_eq!((p.counts().targets, p.counts().dead, p.deadline()), (0, 0, None));

    // It comes back while a probe of its former life runs: that one says nothing of it.
    p.handle(now, Input::Watch(target(1), Watched { proof: true }));
    let old = next(&mut p, &mut now);
    p.handle(now, Input::Forget(target(1)));
    p.handle(now, Input::Watch(target(1), Watched { proof: true }));
    let new = next(&mut p, &mut now);
    p.handle(now, Input::Answered(old, Answer::Accepted));
    assert_eq!((outputs(&mut p), p.running), (vec![], 1));
    p.handle(now, Input::Answered(new, Answer::Accepted));
    assert_eq!((outputs(&mut p).len(), p.running), (1, 0));
}

#[test]
fn ten_thousand_targets_are_probed_evenly_within_the_budget() {
    let start = Instant::now();
    let settings = Settings::default();
    let mut p = Prober::new(settings);
    for n in 0..10_000 {
        p.handle(start, Input::Watch(target(n), Watched::default()));
    }
    let mut slots = vec![0u32; 300];
    let mut last: BTreeMap<Target, Instant> = BTreeMap::new();
    let mut widest = Duration::ZERO;
    while let Some(now) = p.deadline().filter(|at| *at < start + ms(60_000)) {
        p.handle(now, Input::Tick);
        for output in outputs(&mut p) {
            let Output::Start(probe) = output else { panic!("all are well") };
            if let Some(slot) = slots.get_mut(usize::try_from((now - start).as_millis() / 200).unwrap()) {
                *slot += 1;
            }
            if let Some(before) = last.insert(probe.target, now) {
                widest = widest.max(now - before);
            }
            p.handle(now, Input::Answered(probe, Answer::Accepted));
        }
    }
    assert_eq!(last.len(), 10_000);
    assert!(widest <= ms(25_500), "{widest:?}: 25 s and what rounding costs");
    assert!(slots.iter().all(|n| (70..=90).contains(n)), "80 in a fifth of a second, evenly: {slots:?}");
}

#[test]
fn a_shell_that_tells_no_answers_is_given_no_more_probes() {
    let mut now = Instant::now();
    let mut p = Prober::new(Settings::default());
    for n in 0..2_000 {
        p.handle(now, Input::Watch(target(n), Watched::default()));
    }
    while let Some(at) = p.deadline() {
        now = at;
        p.handle(now, Input::Tick);
    }
    let probes: Vec<Probe> = outputs(&mut p)
        .into_iter()
        .map(|o| match o {
            Output::Start(probe) => probe,
            Output::Publish(..) => panic!("nothing is known"),
        })
        .collect();
    assert_eq!(probes.len(), 306);
    p.handle(now, Input::Answered(probes[0], Answer::Accepted));
    assert!(p.deadline().is_some());
}
