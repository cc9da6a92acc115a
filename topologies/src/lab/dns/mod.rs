//! The DNS role: a cluster's DNS server on its control plane, where Kubernetes has CoreDNS.
//!
//! It answers for Services and imported Services alone and refuses everything else: a lab has no way to the outside.
//!
//! Tasks: one for the watches, one per listening socket, one per TCP connection. Queries take the zone's read lock for
//! the time of one lookup.

mod message;
mod watch;
mod zone;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tracing::debug;

pub(crate) use zone::CLUSTER_DOMAIN;

use crate::kubernetes;
use message::{Transport, respond};
use watch::Shared;

/// Of a client that says nothing more (RFC 7766 section 6.2.3 wants seconds).
const TCP_IDLE: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Where to answer, over UDP and TCP; may be given again
    #[arg(long, required = true, value_name = "ADDRESS:PORT")]
    listen: Vec<SocketAddr>,
}

/// Serves until it is ended.
pub(crate) fn run(options: &Options) -> Result<()> {
    tracing_subscriber::fmt().with_ansi(false).with_target(false).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let zone = Shared::default();
        let mut tasks = JoinSet::new();
        for address in &options.listen {
            let udp = UdpSocket::bind(address).await.with_context(|| format!("cannot listen on UDP {address}"))?;
            let tcp = TcpListener::bind(address).await.with_context(|| format!("cannot listen on TCP {address}"))?;
            tasks.spawn(serve_udp(udp, zone.clone()));
            tasks.spawn(serve_tcp(tcp, zone.clone()));
        }
        let client = kubernetes::client(&options.kubeconfig).await?;
        tasks.spawn(async move {
            watch::run(client, zone).await;
            Ok(())
        });
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        Ok(())
    })
}

async fn serve_udp(socket: UdpSocket, zone: Shared) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error of an earlier answer.
            Err(error) => {
                debug!(%error, "UDP");
                continue;
            }
        };
        if let Some(answer) = answer(&zone, &buffer[..length], Transport::Udp) {
            // Lost like any datagram; the client asks again.
            let _ = socket.send_to(&answer, client).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Shared) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await.context("TCP")?;
        let zone = zone.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &zone).await {
                debug!(error = format!("{error:#}"), "TCP client");
            }
        });
    }
}

/// Questions and answers of one connection, each after its length.
async fn converse(mut stream: TcpStream, zone: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let mut length = [0; 2];
        tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut length)).await??;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut question)).await??;
        let answer = answer(zone, &question, Transport::Tcp).context("no question")?;
        let length = u16::try_from(answer.len()).context("an answer of more than 65535 bytes")?;
        stream.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat()).await?;
    }
}

fn answer(zone: &Shared, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
    // A lock that a panic has poisoned still guards whole tables: each change is one insert or remove.
    let zone = zone.read().unwrap_or_else(PoisonError::into_inner);
    respond(&zone, question, transport)
}
