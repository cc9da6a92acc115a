//! `clustermesh-apiserver`: what clusters tell each other, written and copied. Subcommands and flags are Cilium's.
//!
//! - `clustermesh`: watches -> `export` (pure) -> etcd.
//! - `kvstoremesh`: other clusters' etcd -> `kvstoremesh::mirror` (pure) -> etcd.
//! - `etcdinit`: an etcd data directory with users and roles.
//! - `dbg`: questions to the two that run.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's helpers may panic"))]

mod clustermesh;
mod convert;
mod dbg;
mod etcdinit;
mod export;
mod flags;
mod http;
mod kvstoremesh;
mod store;
mod tasks;
mod telemetry;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use flags::{Cli, Command, Log, LogFormat};

fn main() -> ExitCode {
    match start(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("clustermesh-apiserver: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<ExitCode> {
    log(&cli.log)?;
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was already installed");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = |()| ExitCode::SUCCESS;
    match cli.command {
        Command::Clustermesh(flags) => runtime.block_on(clustermesh::run(flags)).map(done),
        Command::Kvstoremesh(flags) => runtime.block_on(kvstoremesh::run(flags)).map(done),
        Command::Etcdinit(flags) => runtime.block_on(etcdinit::run(&flags)).map(done),
        Command::KvstoremeshDbg(command) => runtime.block_on(dbg::kvstoremesh(command)),
        Command::ClustermeshDbg(command) => runtime.block_on(dbg::clustermesh(command)),
    }
}

fn log(flags: &Log) -> anyhow::Result<()> {
    let filter = if flags.debug { "debug" } else { &flags.log };
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| anyhow::anyhow!("--log {filter:?}: {error}; write as info,causeway_mesh_kv=debug"))?;
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match flags.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
