//! `causeway-agent`: the node daemon.
//!
//! Watches Kubernetes (`intent`), decides with pure controllers (`control`), makes it real in the kernel, at the BGP
//! peers and in Kubernetes (`realize`), and serves the CNI plugin and the CLI on a unix socket (`admin`, `cni`).
//! [`app`] puts it all together.

mod admin;
mod app;
mod cni;
mod config;
mod control;
mod intent;
mod metrics;
mod node_address;
mod realize;
mod tables;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let flags = config::Flags::parse();
    // The client's own errors come again as ours, with what was being done.
    let filter = EnvFilter::try_from_env("CAUSEWAY_LOG").unwrap_or_else(|_| EnvFilter::new("info,kube_client=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let run = config::Config::load(&flags).map_err(anyhow::Error::from).and_then(|config| {
        // Two workers: the agent waits most of its life, and each worker costs a stack and an allocator arena.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(8)
            .enable_all()
            .build()?;
        runtime.block_on(app::run(config))
    });
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("causeway-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
