//! Carries a cluster's API from its namespace to 127.0.0.1, for people and their tools.
//!
//! The listener is opened in the root namespace; then the whole process moves into the control plane's namespace and
//! connects from there. A socket stays where it was opened.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::netns;
use crate::state::write_whole;

#[derive(Args)]
pub(crate) struct Options {
    /// Namespace to connect from
    #[arg(long)]
    netns: PathBuf,
    /// Where the API listens there
    #[arg(long)]
    to: SocketAddr,
    /// File that gets the chosen port
    #[arg(long)]
    port_file: PathBuf,
}

/// Serves until it is ended.
pub(crate) fn run(options: &Options) -> Result<()> {
    // A relay that is started again keeps its port, so that kubeconfigs stay true.
    let before = std::fs::read_to_string(&options.port_file).ok().and_then(|text| text.trim().parse().ok());
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, before.unwrap_or(0)))
        .or_else(|_| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("cannot listen on 127.0.0.1")?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    netns::enter(&options.netns)?;
    write_whole(&options.port_file, port.to_string().as_bytes(), 0o644)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (mut near, _) = listener.accept().await?;
            let to = options.to;
            tokio::spawn(async move {
                if let Ok(mut far) = TcpStream::connect(to).await {
                    let _ = (near.set_nodelay(true), far.set_nodelay(true));
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                }
            });
        }
    })
}
