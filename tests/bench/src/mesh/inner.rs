//! What runs in the node's namespace: a plain etcd client that writes, watches and lists, and nothing of our own reader.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use causeway_api::mesh::MeshTraceParams;
use causeway_api::{Client, MeshTraceRead};
use clap::{Args, Subcommand};
use etcd_client::{
    Certificate, CompactionOptions, ConnectOptions, EventType, GetOptions, Identity, PutOptions, TlsOptions, Txn,
    TxnOp, WatchOptions,
};
use serde_json::json;

use crate::report::percentile;

/// Entries of one transaction, below etcd's limit of 128.
const BATCH: usize = 100;
/// Keys that change; the rest of the load stands still.
const CHANGING: u32 = 5_000;
/// The first identity of cluster 2.
const IDENTITY: u32 = 2 << 16;
const PAGE: i64 = 4_000;

#[derive(Args)]
pub(crate) struct Inner {
    #[arg(long)]
    endpoint: String,
    #[arg(long)]
    certificates: PathBuf,
    #[arg(long, default_value = causeway_api::DEFAULT_SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Latency {
        #[arg(long)]
        rate: u32,
        #[arg(long)]
        seconds: u32,
    },
    Load {
        #[arg(long)]
        count: u32,
    },
    List {
        #[arg(long)]
        rounds: usize,
    },
    Compact,
}

pub(crate) fn run(inner: &Inner) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let figures = runtime.block_on(async {
        let client = connect(&inner.endpoint, &inner.certificates).await?;
        match &inner.what {
            What::Latency { rate, seconds } => latency(client, &inner.socket, *rate, *seconds).await,
            What::Load { count } => load(client, *count).await,
            What::List { rounds } => list(client, *rounds).await,
            What::Compact => compact(client).await,
        }
    })?;
    println!("{figures}");
    Ok(())
}

async fn connect(endpoint: &str, certificates: &Path) -> Result<etcd_client::Client> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read = |name: &str| {
        std::fs::read(certificates.join(name)).with_context(|| format!("{name} of {}", certificates.display()))
    };
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read("ca.crt")?))
        .identity(Identity::from_pem(read("tls.crt")?, read("tls.key")?))
        .domain_name("west.mesh.cilium.io");
    Ok(etcd_client::Client::connect([endpoint], Some(ConnectOptions::new().with_tls(tls))).await?)
}

/// The nth address of the load; the first ones change.
fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 32, 0, 0)) + n)
}

fn ip_entry(n: u32, identity: u32) -> (String, String) {
    let ip = address(n);
    let value = json!({
        "IP": ip, "Mask": null, "HostIP": "10.0.1.11", "ID": identity, "Key": 0, "Metadata": "",
        "K8sNamespace": "default", "K8sPodName": format!("pod-{n}"), "K8sServiceAccount": "default",
    });
    (format!("cilium/state/ip/v1/default/{ip}"), value.to_string())
}

async fn load(mut client: etcd_client::Client, count: u32) -> Result<serde_json::Value> {
    let all: Vec<u32> = (0..count).collect();
    for batch in all.chunks(BATCH) {
        let puts = batch.iter().map(|n| {
            let (key, value) = ip_entry(*n, IDENTITY + 1 + n % 60_000);
            TxnOp::put(key, value, None::<PutOptions>)
        });
        client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await?;
    }
    Ok(json!({"loaded": count}))
}

async fn list(mut client: etcd_client::Client, rounds: usize) -> Result<serde_json::Value> {
    let mut took_ms = Vec::new();
    let mut seen = 0;
    for _ in 0..rounds {
        let started = Instant::now();
        let (mut from, mut revision) = (b"cilium/state/ip/v1/default/".to_vec(), 0);
        seen = 0;
        loop {
            let options =
                GetOptions::new().with_range("cilium/state/ip/v1/default0").with_limit(PAGE).with_revision(revision);
            let page = client.get(from, Some(options)).await?;
            revision = page.header().context("header")?.revision();
            seen += page.kvs().len();
            match page.kvs().last() {
                Some(last) if page.more() => from = [last.key(), b"\0"].concat(),
                _ => break,
            }
        }
        took_ms.push(started.elapsed().as_secs_f64() * 1e3);
    }
    took_ms.sort_by(f64::total_cmp);
    Ok(json!({"entries": seen, "median_ms": percentile(&took_ms, 50.0)}))
}

async fn compact(mut client: etcd_client::Client) -> Result<serde_json::Value> {
    let (key, value) = ip_entry(0, IDENTITY + 9);
    let put = client.put(key, value, None).await?;
    let (key, value) = ip_entry(0, IDENTITY + 1);
    client.put(key, value, None).await?;
    let revision = put.header().context("header")?.revision() + 1;
    client.compact(revision, Some(CompactionOptions::new())).await?;
    Ok(json!({"revision": revision}))
}

/// Nanoseconds of CLOCK_MONOTONIC, the clock of the agent's trace.
fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("the clock exists");
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
}

fn entry(change: u32) -> (String, String) {
    let n = change % CHANGING;
    // Another identity at every turn.
    ip_entry(n, IDENTITY + 1 + n + change / CHANGING % 2)
}

async fn latency(client: etcd_client::Client, socket: &Path, rate: u32, seconds: u32) -> Result<serde_json::Value> {
    let prefix = "cilium/state/ip/v1/default/";
    let mut watcher = client.clone();
    let mut stream = watcher.watch(prefix, Some(WatchOptions::new().with_prefix())).await?;
    let watching = tokio::spawn(async move {
        let mut seen: HashMap<i64, u64> = HashMap::new();
        while let Ok(Some(answer)) = stream.message().await {
            let at = now_ns();
            for event in answer.events().iter().filter(|e| e.event_type() == EventType::Put) {
                let Some(kv) = event.kv() else { continue };
                if kv.key().ends_with(b"/the-end") {
                    return seen;
                }
                seen.insert(kv.mod_revision(), at);
            }
        }
        seen
    });
    let mut trace = Trace::start(socket)?;
    let changes = rate * seconds;
    let mut puts = tokio::task::JoinSet::new();
    let mut sent: HashMap<i64, u64> = HashMap::new();
    let started = Instant::now();
    for change in 0..changes {
        let due = started + Duration::from_secs_f64(f64::from(change) / f64::from(rate));
        tokio::time::sleep_until(due.into()).await;
        let (key, value) = entry(change);
        let mut client = client.clone();
        puts.spawn(async move {
            let at = now_ns();
            let answer = client.put(key, value, None).await?;
            anyhow::Ok((answer.header().context("header")?.revision(), at))
        });
        while let Some(done) = puts.try_join_next() {
            let (revision, at) = done??;
            sent.insert(revision, at);
        }
    }
    while let Some(done) = puts.join_next().await {
        let (revision, at) = done??;
        sent.insert(revision, at);
    }
    let took = started.elapsed();
    let end = "cilium/state/ip/v1/default/the-end";
    client.clone().put(end, "", None).await?;
    client.clone().delete(end, None).await?;
    let bare =
        tokio::time::timeout(Duration::from_secs(30), watching).await.context("the bare watch did not end")??;
    let mapped = trace.until(&sent)?;
    let delay = |seen: &HashMap<i64, u64>| {
        let mut all: Vec<f64> = sent
            .iter()
            .filter_map(|(revision, at)| Some(seen.get(revision)?.saturating_sub(*at) as f64 / 1e6))
            .collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let (bare, mapped) = (delay(&bare), delay(&mapped));
    ensure!(!bare.is_empty() && !mapped.is_empty(), "{} events, {} map writes", bare.len(), mapped.len());
    let figures = |all: &[f64]| json!({"p50_ms": percentile(all, 50.0), "p99_ms": percentile(all, 99.0)});
    Ok(json!({
        "rate": f64::from(changes) / took.as_secs_f64(), "changes": changes, "lost": sent.len() - mapped.len().min(sent.len()),
        "bare": figures(&bare), "map": figures(&mapped),
    }))
}

/// The agent's record of map commits.
struct Trace {
    client: Client,
    next: u64,
}

impl Trace {
    fn start(socket: &Path) -> Result<Trace> {
        let client = Client::new(socket);
        let reply = client.call(MeshTraceRead, &MeshTraceParams { enable: Some(true), from: 0, limit: Some(0) })?;
        Ok(Trace { client, next: reply.next })
    }

    /// Reads until every revision that was sent is there, or nothing new comes for 5 s; switches the record off.
    fn until(&mut self, sent: &HashMap<i64, u64>) -> Result<HashMap<i64, u64>> {
        let mut seen = HashMap::new();
        let mut last = Instant::now();
        while seen.len() < sent.len() && last.elapsed() < Duration::from_secs(5) {
            let reply =
                self.client.call(MeshTraceRead, &MeshTraceParams { enable: None, from: self.next, limit: None })?;
            ensure!(reply.lost == 0, "the agent forgot {} events", reply.lost);
            self.next = reply.next;
            if reply.events.is_empty() {
                std::thread::park_timeout(Duration::from_millis(50));
                continue;
            }
            last = Instant::now();
            for event in reply.events {
                let revision = i64::try_from(event.revision)?;
                if sent.contains_key(&revision) {
                    seen.insert(revision, event.at_ns);
                }
            }
        }
        self.client.call(MeshTraceRead, &MeshTraceParams { enable: Some(false), from: self.next, limit: Some(0) })?;
        Ok(seen)
    }
}
