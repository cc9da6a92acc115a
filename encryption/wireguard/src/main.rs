//! `causeway-wireguard`: holds an embedded WireGuard device and does what its control socket says.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use causeway_wireguard::control::{Holder, listen, serve};
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// An embedded WireGuard device, told what to hold by the node's agent.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Control socket, for root alone.
    #[arg(long, env = "CAUSEWAY_WIREGUARD_SOCKET", default_value = "/run/causeway/wireguard.sock")]
    socket: PathBuf,
    /// Threads that encrypt; 0: one for every two CPUs.
    #[arg(long, env = "CAUSEWAY_WIREGUARD_QUEUES", default_value_t = 0)]
    queues: usize,
}

/// Free bytes at the end of a heap beyond which they go back to the kernel. By default (128 KiB) the datagrams of every
/// batch would, and be faulted in again for the next.
#[cfg(target_env = "gnu")]
const TRIM_THRESHOLD: libc::c_int = 16 << 20;

/// Settings of the allocator, before there are threads.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "a setting of the C library's allocator")]
fn keep_memory() {
    // SAFETY: the arguments are numbers; one that is not known is refused.
    unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD) };
}

fn main() -> Result<()> {
    #[cfg(target_env = "gnu")]
    keep_memory();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let options = Options::parse();
    let queues = match options.queues {
        0 => std::thread::available_parallelism().map_or(1, |cpus| cpus.get().div_ceil(2)),
        queues => queues,
    };
    let listener = listen(&options.socket).with_context(|| format!("listening at {}", options.socket.display()))?;
    tracing::info!(socket = %options.socket.display(), queues, "ready");
    serve(&listener, &Arc::new(Holder::new(queues))).context("serving the control socket")
}
