//! `stream`: connections that stay open, with a request on each at an interval, while something is being broken.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use crate::ask::{Connection, Target};

#[derive(Args)]
pub(crate) struct Options {
    /// http://ADDRESS[:PORT][/PATH], tcp://ADDRESS:PORT or udp://ADDRESS:PORT
    target: Target,
    #[arg(long, default_value_t = 1)]
    connections: u32,
    /// Milliseconds between requests on one connection
    #[arg(long, default_value_t = 100, value_name = "MS")]
    interval: u64,
    /// Seconds until it ends by itself; else at SIGINT or SIGTERM
    #[arg(long = "for", value_name = "SECONDS")]
    limit: Option<f64>,
    /// Seconds to wait for a connection, and for an answer
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
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
    failures: Vec<String>,
}

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
            let interval = Duration::from_millis(options.interval);
            let limit = Duration::try_from_secs_f64(options.timeout).unwrap_or(Duration::from_secs(5));
            std::thread::spawn(move || keep_asking(&target, interval, limit, &tally, &stop))
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

fn keep_asking(
    target: &Target,
    interval: Duration,
    limit: Duration,
    tally: &Mutex<Tally>,
    stop: &std::sync::atomic::AtomicBool,
) {
    let mut connection = None;
    let mut opened = false;
    let mut next = Instant::now();
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        let start = Instant::now();
        let reopens = connection.is_none() && opened;
        let outcome = match connection.take() {
            Some(kept) => Ok(kept),
            None => Connection::open(target, limit),
        }
        .and_then(|mut open| {
            opened = true;
            let answer = open.ask(target, true)?;
            connection = Some(open);
            Ok(answer)
        });
        let took = start.elapsed();
        {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.sent += 1;
            tally.reconnects += u64::from(reopens);
            tally.slowest = tally.slowest.max(took);
            match outcome {
                Ok(answer) => {
                    tally.answered += 1;
                    *tally.pods.entry(answer.pod).or_default() += 1;
                }
                Err(error) => {
                    tally.failed += 1;
                    if tally.failures.len() < 3 {
                        tally.failures.push(format!("{error:#}"));
                    }
                }
            }
        }
        next = (next + interval).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn print(options: &Options, tally: &Tally) {
    let slowest_ms = tally.slowest.as_secs_f64() * 1000.0;
    if options.json {
        let value = json!({
            "sent": tally.sent, "answered": tally.answered, "failed": tally.failed, "reconnects": tally.reconnects,
            "slowest_ms": slowest_ms, "pods": tally.pods, "failures": tally.failures,
        });
        println!("{value}");
        return;
    }
    println!(
        "{} requests on {} connections to {}: {} answered, {} failed, {} reconnects, slowest {slowest_ms:.1} ms",
        tally.sent, options.connections, options.target.address, tally.answered, tally.failed, tally.reconnects
    );
    for failure in &tally.failures {
        println!("  failed   {failure}");
    }
}
