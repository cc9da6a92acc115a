//! The binary: flags in, a server until SIGINT or SIGTERM.

use anyhow::Context as _;
use clap::Parser as _;
use lab_apiserver::Options;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let options = Options::parse();
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let running = lab_apiserver::start(&options).await?;
    for address in &running.addresses {
        tracing::info!(%address, "serving");
    }
    tokio::select! {
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result.context("listening for SIGINT")?,
    }
    running.stop();
    Ok(())
}
