//! `bgp-speaker`: announces the prefixes of a file to the peers of a file. Without Kubernetes.
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use causeway_bgp_speaker::file::{self, Loaded};
use causeway_bgp_speaker::{Speaker, SpeakerStatus, StartOptions};
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Announces prefixes over BGP.
///
/// SIGHUP reads the file again; SIGUSR1 logs a line for each peer; SIGTERM and SIGINT end it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Instances, peers and routes, in TOML.
    #[arg(long, short, env = "BGP_SPEAKER_CONFIG")]
    config: PathBuf,
    /// Only check the file.
    #[arg(long)]
    check: bool,
    /// This process replaces one that ran a moment ago (graceful restart, R bit).
    #[arg(long)]
    restarting: bool,
    /// Forwarding went on meanwhile (graceful restart, F bit).
    #[arg(long)]
    forwarding_preserved: bool,
    /// What peers are told at the end.
    #[arg(long, value_enum, default_value_t = OnStop::Shutdown)]
    on_stop: OnStop,
    /// Log filter, as RUST_LOG writes it.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnStop {
    /// Cease/Administrative Shutdown: routes go at once.
    Shutdown,
    /// Nothing: peers with graceful restart keep the routes for the next process.
    Restart,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bgp-speaker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&arguments.log).context("--log: write a filter such as info or debug")?;
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    let loaded = file::load(&arguments.config)?;
    if arguments.check {
        let peers: usize = loaded.instances.iter().map(|instance| instance.peers.len()).sum();
        println!("{}: {} instances, {peers} peers", arguments.config.display(), loaded.instances.len());
        return Ok(());
    }
    let mut reload = signal(SignalKind::hangup()).context("handling SIGHUP")?;
    let mut show = signal(SignalKind::user_defined1()).context("handling SIGUSR1")?;
    let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
    let speaker = Speaker::spawn(StartOptions {
        restarting: arguments.restarting,
        forwarding_preserved: arguments.forwarding_preserved,
        hostname: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        ..StartOptions::default()
    });
    let mut names = apply(&speaker, &[], loaded);
    loop {
        tokio::select! {
            _ = reload.recv() => match file::load(&arguments.config) {
                Ok(loaded) => {
                    names = apply(&speaker, &names, loaded);
                    tracing::info!(file = %arguments.config.display(), "read again");
                }
                Err(error) => tracing::error!("{error}: going on with the old configuration"),
            },
            _ = show.recv() => show_status(&speaker.status().borrow()),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    speaker.shutdown(arguments.on_stop == OnStop::Restart).await;
    Ok(())
}

/// Gives a file to the speaker and returns the names of its instances. A file is complete by nature, so End-of-RIB may
/// follow its routes at once. The routes are not kept here: the speaker has them.
fn apply(speaker: &Speaker, old: &[String], new: Loaded) -> Vec<String> {
    let names: Vec<String> = new.instances.iter().map(|instance| instance.name.clone()).collect();
    for gone in old.iter().filter(|name| !names.contains(name)) {
        speaker.remove_instance(gone);
    }
    for ((instance, peer), routes) in new.routes {
        speaker.set_routes(&instance, &peer, routes);
    }
    for instance in new.instances {
        let name = instance.name.clone();
        speaker.set_instance(instance);
        speaker.routes_complete(&name);
    }
    names
}

fn show_status(status: &SpeakerStatus) {
    for (instance, of_instance) in &status.instances {
        for (peer, of_peer) in &of_instance.peers {
            let received: u64 = of_peer.families.iter().map(|family| family.received).sum();
            let state_for = of_peer.since.elapsed();
            tracing::info!(
                instance,
                peer,
                state = %of_peer.state,
                state_for_s = state_for.as_secs(),
                advertised = of_peer.advertised(),
                received,
                reason = of_peer.reason,
                "peer"
            );
        }
    }
}
