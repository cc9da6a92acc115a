//! `kvstoremesh-dbg status`: what `GET /cluster` says, as a table or as it is.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use causeway_mesh_schema::RemoteCluster;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::flags::{Format, Status};

/// kvstoremesh answers from memory; one that does not within this is stuck.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer of 511 clusters is far below.
const LONGEST_ANSWER: u64 = 4 << 20;

pub(super) async fn run(flags: &Status) -> anyhow::Result<ExitCode> {
    let address = flags.api_serve_addr;
    let body = tokio::time::timeout(PATIENCE, get(address, "/cluster"))
        .await
        .map_err(|_| anyhow::anyhow!("no answer within {PATIENCE:?}"))
        .flatten()
        .with_context(|| format!("asking kvstoremesh on {address}; does it run, with this --api-serve-addr?"))?;
    let clusters: Vec<RemoteCluster> = serde_json::from_slice(&body).context("reading kvstoremesh's answer")?;
    match flags.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&clusters)?),
        Format::Text => print!("{}", table(&clusters)),
    }
    Ok(ExitCode::SUCCESS)
}

/// One request, one answer: HTTP/1.0, so that the end of the connection is the end of the body.
async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("no HTTP answer")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        bail!("the answer is {status:?}");
    }
    Ok(answer.split_off(end + 4))
}

fn table(clusters: &[RemoteCluster]) -> String {
    let ready = clusters.iter().filter(|cluster| cluster.ready).count();
    let mut text = format!("{ready}/{} remote clusters ready\n", clusters.len());
    for cluster in clusters {
        let word = if cluster.ready { "ready" } else { "not ready" };
        // Writing to a String does not fail.
        _ = writeln!(
            text,
            "{}: {word}, {} nodes, {} endpoints, {} identities, {} services, {} slices, {} exports, {} failures",
            cluster.name,
            cluster.num_nodes,
            cluster.num_endpoints,
            cluster.num_identities,
            cluster.num_shared_services,
            cluster.num_endpoint_slices,
            cluster.num_service_exports,
            cluster.num_failures,
        );
        if !cluster.status.is_empty() {
            _ = writeln!(text, "  {}", cluster.status);
        }
        if !cluster.last_failure.is_empty() {
            _ = writeln!(text, "  last failure: {}", cluster.last_failure);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_who_is_not_ready_and_why() {
        let west = RemoteCluster { name: "west".into(), ready: true, num_nodes: 3, ..RemoteCluster::default() };
        let south =
            RemoteCluster { name: "south".into(), status: "connection refused".into(), ..RemoteCluster::default() };
        let text = table(&[west, south]);
        assert!(text.starts_with("1/2 remote clusters ready\nwest: ready, 3 nodes,"), "{text}");
        assert!(text.contains("south: not ready") && text.ends_with("  connection refused\n"), "{text}");
    }
}
