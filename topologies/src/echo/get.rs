//! `get`: sends requests and says who answered, how fast, and how many failed.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::ask::{Answer, Connection, Target};

/// Failures that are printed in words; the rest is only counted.
const SHOWN_FAILURES: usize = 3;

#[derive(Args)]
pub(crate) struct Options {
    /// http://HOST[:PORT][/PATH], tcp://HOST:PORT or udp://HOST:PORT
    target: Target,
    /// Requests in all
    #[arg(short = 'n', long, default_value_t = 1)]
    count: u32,
    /// Requests at a time
    #[arg(short, long, default_value_t = 1)]
    concurrency: u32,
    /// Use each connection for many requests, instead of one for each
    #[arg(long)]
    keepalive: bool,
    /// Seconds to wait for a connection, and for an answer
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    timeout: f64,
    #[arg(long)]
    json: bool,
}

#[derive(Default)]
struct Tally {
    pods: BTreeMap<String, u64>,
    nodes: BTreeMap<String, u64>,
    /// Empty where the servers name none.
    clusters: BTreeMap<String, u64>,
    clients: BTreeMap<String, u64>,
    latencies: Vec<Duration>,
    failures: Vec<String>,
}

impl Tally {
    fn add(&mut self, took: Duration, outcome: Result<Answer>) {
        match outcome {
            Ok(answer) => {
                let client = answer.client.rsplit_once(':').map_or("", |(address, _)| address);
                let client = client.trim_start_matches('[').trim_end_matches(']').to_owned();
                for (map, key) in
                    [(&mut self.pods, answer.pod), (&mut self.nodes, answer.node), (&mut self.clients, client)]
                {
                    *map.entry(if key.is_empty() { "?".into() } else { key }).or_default() += 1;
                }
                if !answer.cluster.is_empty() {
                    *self.clusters.entry(answer.cluster).or_default() += 1;
                }
                self.latencies.push(took);
            }
            Err(error) => self.failures.push(format!("{error:#}")),
        }
    }

    fn percentile(&self, percent: usize) -> f64 {
        let index = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
    }
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let limit = Duration::try_from_secs_f64(options.timeout).unwrap_or(Duration::from_secs(5));
    let left = AtomicU32::new(options.count);
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..options.concurrency.clamp(1, options.count.max(1)) {
            scope.spawn(|| {
                let mut kept = None;
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                    let start = Instant::now();
                    let outcome = once(options, limit, &mut kept);
                    let took = start.elapsed();
                    // A worker that panicked has only counted less.
                    tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(took, outcome);
                }
            });
        }
    });
    let mut tally = tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    tally.latencies.sort();
    let failed = tally.failures.len();
    if options.json {
        print_json(options, &tally);
    } else {
        print_text(options, &tally);
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn once(options: &Options, limit: Duration, kept: &mut Option<Connection>) -> Result<Answer> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(&options.target, limit)?,
    };
    let answer = connection.ask(&options.target, options.keepalive)?;
    if options.keepalive {
        *kept = Some(connection);
    }
    Ok(answer)
}

fn print_json(options: &Options, tally: &Tally) {
    let value = json!({
        "requests": options.count, "answered": tally.latencies.len(), "failed": tally.failures.len(),
        "pods": tally.pods, "nodes": tally.nodes, "clusters": tally.clusters, "clients": tally.clients,
        "latency_ms": {"min": tally.percentile(0), "p50": tally.percentile(50), "p99": tally.percentile(99),
            "max": tally.percentile(100)},
        "failures": tally.failures.iter().take(SHOWN_FAILURES).collect::<Vec<_>>(),
    });
    println!("{value}");
}

fn print_text(options: &Options, tally: &Tally) {
    let (answered, failed) = (tally.latencies.len(), tally.failures.len());
    println!(
        "{} requests to {}, {} at a time: {answered} answered, {failed} failed",
        options.count, options.target, options.concurrency
    );
    let spreads =
        [("pod", &tally.pods), ("node", &tally.nodes), ("cluster", &tally.clusters), ("seen as", &tally.clients)];
    for (what, spread) in spreads {
        let most = spread.values().max().copied().unwrap_or(1).max(1);
        for (name, count) in spread {
            let bar = usize::try_from(count * 40 / most).unwrap_or(0);
            println!("  {what:<8} {name:<32} {count:>6}  {}", "▪".repeat(bar));
        }
    }
    if answered > 0 {
        let [min, p50, p99, max] = [0, 50, 99, 100].map(|percent| tally.percentile(percent));
        println!("  latency  min {min:.2} ms, p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms");
    }
    for failure in tally.failures.iter().take(SHOWN_FAILURES) {
        println!("  failed   {failure}");
    }
}
