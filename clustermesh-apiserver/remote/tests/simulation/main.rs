//! Clusters, writers and readers in virtual time, beside a reference model.
//!
//! Every run is made of one seed. Writers change entries at random; faults break connections, lose replies, compact, wipe
//! and replace stores, take leases away, delay canaries, change clusters' numbers, remove files and add them again. Then the
//! faults stop, and every reader must know exactly what the writers have written. Meanwhile no change may break a rule
//! that `consumer` knows.
//!
//! `CAUSEWAY_SIM_RUNS` says how many seeds (500), `CAUSEWAY_SIM_SEED` replays one and prints what happens.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers may panic")]

mod consumer;
mod fault;
mod link;
mod net;
mod reader;
mod world;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::{Totals, World};

const RUNS: u64 = 500;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text:?}")))
}

#[test]
fn every_reader_converges_to_the_model() {
    if let Some(seed) = number("CAUSEWAY_SIM_SEED") {
        World::new(seed, true).run();
        return;
    }
    let runs = number("CAUSEWAY_SIM_RUNS").unwrap_or(RUNS);
    let threads = std::thread::available_parallelism().map_or(1, |count| u64::try_from(count.get()).unwrap());
    let totals = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..threads).map(|first| scope.spawn(move || sweep((first..runs).step_by(step(threads))))).collect();
        let mut totals = Totals::default();
        for thread in threads {
            totals += thread.join().expect("a seed failed; its thread has named it");
        }
        totals
    });
    println!("{runs} runs: {totals:?}");
    totals.assert_that_everything_happened(runs);
}

fn step(threads: u64) -> usize {
    usize::try_from(threads).unwrap()
}

fn sweep(seeds: impl Iterator<Item = u64>) -> Totals {
    let mut totals = Totals::default();
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| World::new(seed, false).run())) {
            Ok(run) => totals += run,
            Err(_) => panic!("seed {seed} fails; CAUSEWAY_SIM_SEED={seed} replays it"),
        }
    }
    totals
}

#[test]
fn a_seed_is_one_story() {
    for seed in 0..5 {
        assert_eq!(World::new(seed, false).run(), World::new(seed, false).run(), "seed {seed}");
    }
}
