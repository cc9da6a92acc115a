//! The composition root: client, telemetry, election, definitions, controller, in this order.
//!
//! Tasks: the election, which ends after giving the Lease back, and the main task, which serves HTTP, waits to lead,
//! and then runs the controller. When the Lease is lost the controller is dropped with all that it knows, and a fresh
//! one begins when we lead again.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use causeway_k8s::client;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Flags;
use crate::controller::{Controller, Settings};
use crate::crd;
use crate::leader::{self, Leadership, Timing};
use crate::mesh::{self, Remotes};
use crate::telemetry::Telemetry;

/// Nothing works without the definitions, and a server that refuses them needs a person; so this need not be short.
const REGISTER_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The whole program, until it is told to stop.
///
/// # Errors
/// Flags that contradict each other, no API server, or a port that is taken.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let settings = flags.settings()?;
    let timing = flags.timing()?;
    let client = client::open(flags.kubeconfig.as_deref(), "--kubeconfig").await?;
    let telemetry = Telemetry::new();
    let (stop, stopped) = watch::channel(false);
    let (election, lead) = elect(&flags, timing, &client, stopped);
    let address = flags.metrics_addr;

    let result = tokio::select! {
        result = act(&flags, &settings, &client, &telemetry, lead) => result,
        result = telemetry.clone().serve(address) => result.with_context(|| {
            format!("serving metrics on {address}; if another program has that port, choose one with --metrics-addr")
        }),
        result = told_to_stop() => result,
    };
    // The controller is gone; only now may another begin.
    stop.send_replace(true);
    if election.await.is_err() {
        tracing::error!("the election failed; the Lease expires by itself");
    }
    result
}

/// Works whenever we lead, until dropped.
async fn act(
    flags: &Flags,
    settings: &Settings,
    client: &Client,
    telemetry: &Telemetry,
    mut lead: watch::Receiver<Leadership>,
) -> anyhow::Result<()> {
    let mut lose = lead.clone();
    loop {
        if lead.wait_for(|now| *now == Leadership::Leading).await.is_err() {
            bail!("the election ended");
        }
        telemetry.leading(true);
        tokio::select! {
            () = lead_once(flags, settings.clone(), client.clone(), telemetry.clone()) => bail!("the controller ended"),
            _ = lose.wait_for(|now| *now != Leadership::Leading) => telemetry.leading(false),
        }
    }
}

async fn lead_once(flags: &Flags, settings: Settings, client: Client, telemetry: Telemetry) {
    let reading = settings.mesh.as_ref().and_then(|_| flags.mesh().ok().flatten()).map(|mesh| mesh.reading);
    let remotes = Remotes::new(Arc::new(reading.as_ref().map(|reading| reading.settings.clone()).unwrap_or_default()));
    let read = async {
        match reading {
            Some(reading) => mesh::read(&remotes, reading).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = act_once(flags, settings, client, telemetry, remotes.clone()) => {}
        _ = read => {}
    }
}

/// What a leader does, with other clusters as `remotes` tells of them. For tests that stand in for these: the program
/// reads them itself.
///
/// # Errors
/// Flags that contradict each other. Otherwise it goes on until it is dropped.
pub async fn operate(flags: &Flags, client: Client, remotes: Remotes) -> anyhow::Result<()> {
    act_once(flags, flags.settings()?, client, Telemetry::new(), remotes).await;
    Ok(())
}

async fn act_once(flags: &Flags, settings: Settings, client: Client, telemetry: Telemetry, remotes: Remotes) {
    if !flags.skip_crd_creation {
        let mcs = settings.mesh.as_ref().is_some_and(|mesh| mesh.mcs.is_some());
        while let Err(error) = crd::register(&client, mcs).await {
            tracing::error!("{error:#}; trying again in {} s", REGISTER_AGAIN_AFTER.as_secs());
            tokio::time::sleep(REGISTER_AGAIN_AFTER).await;
        }
    }
    Controller::new(client, settings, telemetry, remotes).run().await;
}

fn elect(
    flags: &Flags,
    timing: Timing,
    client: &Client,
    mut stopped: watch::Receiver<bool>,
) -> (JoinHandle<()>, watch::Receiver<Leadership>) {
    let (leadership, lead) = watch::channel(Leadership::Waiting);
    if !flags.leader_elect {
        leadership.send_replace(Leadership::Leading);
        let task = tokio::spawn(async move {
            // Holds the sender, so that "we lead" stays said; an error means that the program ends anyway.
            _ = stopped.wait_for(|stop| *stop).await;
            drop(leadership);
        });
        return (task, lead);
    }
    let identity = flags.identity.clone().unwrap_or_else(default_identity);
    let (client, namespace) = (client.clone(), flags.namespace.clone());
    let task =
        tokio::spawn(async move { leader::run(client, &namespace, identity, timing, leadership, stopped).await });
    (task, lead)
}

async fn told_to_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = name, "stopping");
    Ok(())
}

/// The host's name says where it runs, the random part which process it was.
fn default_identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "unknown".to_owned());
    let random = RandomState::new().hash_one(std::process::id());
    format!("{}_{random:016x}", host.trim())
}
