//! `stream`: requests at a steady interval while something is being broken, on connections that stay open or on a new
//! one each time.
//!
//! The interval is between starts: a request that hangs is counted with its whole time and holds up only its own worker.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use crate::ask::{Answer, Connection, Target};

#[derive(Args)]
pub(crate) struct Options {
    /// http://HOST[:PORT][/PATH], tcp://HOST:PORT or udp://HOST:PORT
    target: Target,
    /// Connections, or with --reconnect workers
    #[arg(long, default_value_t = 1)]
    connections: u32,
    /// A new connection, and a new lookup of a name, for every request
    #[arg(long)]
    reconnect: bool,
    /// Milliseconds between requests on one connection
    #[arg(long, default_value_t = 100, value_name = "MS")]
    interval: u64,
    /// Seconds until it ends by itself; else at SIGINT or SIGTERM
    #[arg(long = "for", value_name = "SECONDS")]
    limit: Option<f64>,
    /// Seconds to wait for a connection, and for an answer
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    timeout: f64,
    #[arg(long)]
    json: bool,
}

/// What all connections saw.
#[derive(Debug, Default)]
struct Tally {
    sent: u64,
    answered: u64,
    failed: u64,
    reconnects: u64,
    slowest: Duration,
    pods: BTreeMap<String, u64>,
    clusters: BTreeMap<String, u64>,
    failures: Vec<Failure>,
}

/// A request that failed.
#[derive(Debug, serde::Serialize)]
struct Failure {
    /// Milliseconds after the start of the stream.
    at_ms: u64,
    took_ms: u64,
    words: String,
}

/// Failures that are told in words; the rest is only counted.
const SHOWN_FAILURES: usize = 10;

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    // Blocked in every thread from here on; one thread waits for them.
    signals.thread_block().context("cannot block signals")?;
    let (end, ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        let _ = signals.wait();
        drop(end);
    });
    let tally = Arc::new(Mutex::new(Tally::default()));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let threads: Vec<_> = (0..options.connections.max(1))
        .map(|_| {
            let (tally, stop) = (tally.clone(), stop.clone());
            let target = options.target.clone();
            let pace = Pace {
                interval: Duration::from_millis(options.interval),
                limit: Duration::try_from_secs_f64(options.timeout).unwrap_or(Duration::from_secs(10)),
                keep: !options.reconnect,
            };
            std::thread::spawn(move || keep_asking(&target, pace, &tally, &stop))
        })
        .collect();
    match options.limit.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) {
        Some(limit) => match ended.recv_timeout(limit) {
            Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        },
        None => {
            // Ends with an error when the signal thread drops its end.
            let _ = ended.recv();
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
    let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    print(options, &tally);
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How a worker asks.
#[derive(Clone, Copy)]
struct Pace {
    interval: Duration,
    limit: Duration,
    /// Keep the connection.
    keep: bool,
}

fn keep_asking(target: &Target, pace: Pace, tally: &Mutex<Tally>, stop: &std::sync::atomic::AtomicBool) {
    let begun = Instant::now();
    let mut connection = None;
    let mut opened = false;
    let mut next = begun;
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let start = Instant::now();
        let reopens = pace.keep && connection.is_none() && opened;
        let outcome = match connection.take() {
            Some(kept) => Ok(kept),
            None => Connection::open(target, pace.limit),
        }
        .and_then(|mut open| {
            opened = true;
            let answer = open.ask(target, pace.keep)?;
            connection = pace.keep.then_some(open);
            Ok(answer)
        });
        // A worker that panicked has only counted less.
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.reconnects += u64::from(reopens);
        tally.add(start.duration_since(begun), start.elapsed(), outcome);
        drop(tally);
        next = (next + pace.interval).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

impl Tally {
    fn add(&mut self, at: Duration, took: Duration, outcome: Result<Answer>) {
        self.sent += 1;
        self.slowest = self.slowest.max(took);
        match outcome {
            Ok(answer) => {
                self.answered += 1;
                *self.pods.entry(answer.pod).or_default() += 1;
                if !answer.cluster.is_empty() {
                    *self.clusters.entry(answer.cluster).or_default() += 1;
                }
            }
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < SHOWN_FAILURES {
                    let (at_ms, took_ms) = (milliseconds(at), milliseconds(took));
                    self.failures.push(Failure { at_ms, took_ms, words: format!("{error:#}") });
                }
            }
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn print(options: &Options, tally: &Tally) {
    let slowest_ms = milliseconds(tally.slowest);
    if options.json {
        let value = json!({
            "sent": tally.sent, "ok": tally.answered, "answered": tally.answered, "failed": tally.failed,
            "reconnects": tally.reconnects, "slowest_ms": slowest_ms, "pods": tally.pods, "clusters": tally.clusters,
            "failures": tally.failures,
        });
        println!("{value}");
        return;
    }
    println!(
        "{} requests on {} connections to {}: {} answered, {} failed, {} reconnects, slowest {slowest_ms} ms",
        tally.sent, options.connections, options.target, tally.answered, tally.failed, tally.reconnects
    );
    for (what, spread) in [("pod", &tally.pods), ("cluster", &tally.clusters)] {
        for (name, count) in spread {
            println!("  {what:<8} {name:<32} {count:>6}");
        }
    }
    for failure in &tally.failures {
        println!("  failed   after {} ms, at {} ms: {}", failure.took_ms, failure.at_ms, failure.words);
    }
}
