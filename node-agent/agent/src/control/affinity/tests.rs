//! Every combination of what a candidate can be, against the sentences of the semantics.

use super::*;

const STAGES: [Stage; 5] = [Stage::Fresh, Stage::Silent, Stage::DePreferred, Stage::Probed, Stage::Revoked];
const AFFINITIES: [Affinity; 3] = [Affinity::None, Affinity::Local, Affinity::Remote];
const HEALTH: [Option<bool>; 3] = [None, Some(true), Some(false)];

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn id(n: u32) -> ClusterId {
    ClusterId::try_from(n).unwrap()
}

fn local(ready: u8, draining: u8) -> Local {
    let set = |base: u8, n: u8| {
        (0..n).map(|i| Backend { addr: addr(&format!("10.1.0.{}:80", base + i)), local: i == 0 }).collect()
    };
    Local { ready: set(1, ready), draining: set(101, draining) }
}

fn remote(n: u8, cluster: u32, stage: Stage, alive: Option<bool>) -> Remote {
    let addr = addr(&format!("10.{cluster}.0.{n}:80"));
    Remote { addr, cluster: id(cluster), stage, draining: false, alive }
}

/// Last octets of those chosen; remote ones with their cluster.
fn names(chosen: &Chosen) -> String {
    let name = |b: &Backend| match (chosen.remote.get(&b.addr), b.addr.ip()) {
        (None, std::net::IpAddr::V4(ip)) => format!("{}", ip.octets()[3]),
        (Some(cluster), std::net::IpAddr::V4(ip)) => format!("{}@{cluster}", ip.octets()[3]),
        (_, ip) => ip.to_string(),
    };
    let mut all: Vec<String> = chosen.backends.iter().map(name).collect();
    all.sort();
    all.join(" ")
}

#[test]
fn affinities_by_who_is_there() {
    let fresh = [remote(1, 2, Stage::Fresh, None)];
    let dead = [remote(1, 2, Stage::Fresh, Some(false))];
    let leaving = [Remote { draining: true, ..fresh[0] }];
    // local, remote: none, local, remote
    let table: [(Local, &[Remote], [&str; 3]); 12] = [
        (local(0, 0), &[], ["", "", ""]),
        (local(1, 0), &[], ["1", "1", "1"]),
        (local(0, 1), &[], ["101", "101", "101"]),
        (local(1, 1), &[], ["1", "1", "1"]),
        (local(0, 0), &fresh, ["1@2", "1@2", "1@2"]),
        (local(1, 0), &fresh, ["1 1@2", "1", "1@2"]),
        (local(0, 1), &fresh, ["1@2", "1@2", "1@2"]),
        (local(1, 0), &dead, ["1", "1", "1"]),
        (local(0, 1), &dead, ["101", "101", "101"]),
        (local(0, 0), &dead, ["1@2", "1@2", "1@2"]),
        (local(1, 0), &leaving, ["1", "1", "1"]),
        (local(0, 1), &leaving, ["101 1@2", "101 1@2", "101 1@2"]),
    ];
    for (i, (local, remote, want)) in table.iter().enumerate() {
        for (affinity, want) in AFFINITIES.into_iter().zip(want) {
            assert_eq!(names(&select(local, remote, affinity)), *want, "case {i}, {affinity:?}");
        }
    }
}

#[test]
fn stages_put_a_cluster_behind_the_others() {
    // The stage of cluster 3, whether its backend answers; with local and cluster 2 beside it, with 2 alone, alone.
    let table = [
        (Stage::Fresh, None, ["1 1@2 1@3", "1@2 1@3", "1@3"]),
        (Stage::Silent, None, ["1 1@2 1@3", "1@2 1@3", "1@3"]),
        (Stage::Silent, Some(false), ["1 1@2", "1@2", "1@3"]),
        (Stage::DePreferred, None, ["1 1@2", "1@2", "1@3"]),
        (Stage::DePreferred, Some(true), ["1 1@2", "1@2", "1@3"]),
        (Stage::Probed, Some(true), ["1 1@2", "1@2", "1@3"]),
        (Stage::Revoked, Some(true), ["1 1@2", "1@2", "1@3"]),
        (Stage::Revoked, None, ["1 1@2", "1@2", "1@3"]),
    ];
    for (stage, alive, want) in table {
        let both = [remote(1, 2, Stage::Fresh, None), remote(1, 3, stage, alive)];
        let got = [
            names(&select(&local(1, 0), &both, Affinity::None)),
            names(&select(&local(0, 0), &both, Affinity::None)),
            names(&select(&local(0, 0), &both[1..], Affinity::None)),
        ];
        assert_eq!(got, want, "{stage}, {alive:?}");
    }
}

#[test]
fn among_old_words_only_answers_count() {
    let of = |stages: &[(Stage, Option<bool>)]| {
        let all: Vec<Remote> = (2..).zip(stages).map(|(c, (stage, alive))| remote(1, c, *stage, *alive)).collect();
        names(&select(&local(0, 0), &all, Affinity::None))
    };
    let (d, p, r) = (Stage::DePreferred, Stage::Probed, Stage::Revoked);
    assert_eq!(of(&[(d, None), (p, None)]), "1@2");
    assert_eq!(of(&[(d, None), (p, Some(true))]), "1@2 1@3");
    assert_eq!(of(&[(p, Some(true)), (p, None)]), "1@2");
    assert_eq!(of(&[(p, Some(true)), (r, Some(true))]), "1@2");
    assert_eq!(of(&[(p, Some(false)), (r, Some(true))]), "1@3");
    assert_eq!(of(&[(p, Some(false)), (r, None)]), "1@2 1@3", "nobody answers: all of them");
}

#[test]
fn an_affinity_for_remote_prefers_local_ones_to_a_silent_cluster() {
    let waning = [remote(1, 2, Stage::DePreferred, Some(true))];
    for affinity in AFFINITIES {
        assert_eq!(names(&select(&local(1, 0), &waning, affinity)), "1", "{affinity:?}");
        assert_eq!(names(&select(&local(0, 1), &waning, affinity)), "1@2", "{affinity:?}");
    }
}

#[test]
fn an_address_counts_once_and_the_own_cluster_has_it() {
    let ours = addr("10.1.0.1:80");
    let stolen = Remote { addr: ours, ..remote(1, 2, Stage::Fresh, Some(true)) };
    let chosen = select(&local(1, 0), &[stolen], Affinity::Remote);
    assert_eq!((names(&chosen).as_str(), chosen.remote.len()), ("1", 0));
    let drained = Remote { addr: addr("10.1.0.101:80"), ..stolen };
    assert_eq!(names(&select(&local(0, 1), &[drained], Affinity::None)), "101");
    let twice = [remote(1, 2, Stage::Fresh, None), Remote { cluster: id(3), ..remote(1, 2, Stage::Fresh, None) }];
    assert_eq!(names(&select(&local(0, 0), &twice, Affinity::None)), "1@2");
}

/// All pairs of remote candidates in every state, with every set of local ones, under every affinity.
#[test]
fn whoever_is_there_serves_and_nobody_worse_serves_beside_a_better_one() {
    let mut states = Vec::new();
    for stage in STAGES {
        for alive in HEALTH {
            states.extend([false, true].map(|draining| (stage, alive, draining)));
        }
    }
    let make = |n: u32, (stage, alive, draining)| Remote { draining, ..remote(1, n, stage, alive) };
    for affinity in AFFINITIES {
        for ours in [local(0, 0), local(1, 0), local(0, 1), local(2, 1)] {
            for a in &states {
                for b in &states {
                    let all = [make(2, *a), make(3, *b)];
                    let chosen = select(&ours, &all, affinity);
                    let why = format!("{affinity:?} {ours:?} {a:?} {b:?}");
                    assert!(!chosen.backends.is_empty(), "{why}");
                    let has = |r: &Remote| chosen.remote.contains_key(&r.addr);
                    let silent_ok = |r: &Remote| matches!(r.stage, Stage::Fresh | Stage::Silent);
                    for r in &all {
                        let dead = r.alive == Some(false);
                        let better = !ours.ready.is_empty() || all.iter().any(|o| o.alive == Some(true));
                        assert!(!(has(r) && dead && better), "a dead one serves though others answer: {why}");
                        let others = !ours.ready.is_empty();
                        assert!(!(has(r) && !silent_ok(r) && others), "old words beside local ones: {why}");
                        assert!(!(has(r) && r.draining && others), "a leaving one beside ready ones: {why}");
                        assert!(!(has(r) && affinity == Affinity::Local && others), "not local: {why}");
                    }
                    let remote_good = all.iter().any(|r| silent_ok(r) && !r.draining && r.alive != Some(false));
                    let local_serves = ours.ready.iter().any(|b| chosen.backends.contains(b));
                    let passed_over = affinity == Affinity::Remote && remote_good;
                    let want = !ours.ready.is_empty() && !passed_over;
                    assert_eq!(local_serves, want, "{why}");
                    if remote_good && (affinity != Affinity::Local || ours.ready.is_empty()) {
                        let serve = all.iter().filter(|r| silent_ok(r) && !r.draining && r.alive != Some(false));
                        assert!(serve.into_iter().all(has), "{why}");
                    }
                }
            }
        }
    }
}

#[test]
fn remote_ones_matter_unless_local_ones_are_preferred_and_ready() {
    for affinity in AFFINITIES {
        for ours in [local(0, 0), local(1, 0), local(0, 1)] {
            let states = STAGES.map(|stage| select(&ours, &[remote(1, 2, stage, Some(true))], affinity).remote.len());
            let any = states.iter().any(|n| *n > 0);
            assert_eq!(wants_remote(&ours, affinity), any, "{affinity:?} {ours:?}");
        }
    }
}
