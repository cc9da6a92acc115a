//! Connects to a store step by step, and says at the first step that fails what to do about it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use causeway_mesh_kv::{Connect, FailureKind, Op, Outcome, Session, Ticket, certificate_expiry};
use causeway_mesh_schema::{ClusterConfig, ClusterName, HEARTBEAT, cluster_config_key};
use tokio::net::TcpStream;

use crate::flags::{Troubleshoot, TroubleshootLocal};
use crate::store;

/// One line of the report.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Good(String),
    Bad { what: String, remedy: String },
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::Good(what) => write!(f, "  ok      {what}"),
            Line::Bad { what, remedy } => write!(f, "  FAILED  {what}\n          {remedy}"),
        }
    }
}

pub(super) async fn remotes(flags: &Troubleshoot) -> anyhow::Result<ExitCode> {
    let directory = &flags.clustermesh_config;
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("reading {}; is --clustermesh-config right?", directory.display()))?;
    let mut names: Vec<ClusterName> = entries
        .filter_map(|entry| ClusterName::parse(entry.ok()?.file_name().to_str()?).ok())
        .filter(|name| flags.clusters.is_empty() || flags.clusters.contains(name))
        .collect();
    names.sort();
    let mut good = true;
    let mut found = 0;
    for name in names {
        let path = directory.join(name.as_str());
        let content = std::fs::read_to_string(&path).unwrap_or_default();
        // Keys and certificates stand beside the files that count.
        if !content.contains("endpoints:") {
            continue;
        }
        found += 1;
        println!("{name}");
        good &= print(&store_of(&path, Some(&name), flags.timeout).await);
    }
    if found == 0 {
        bail!("there is no file of a remote cluster in {}; connect clusters first", directory.display());
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) async fn local(flags: &TroubleshootLocal) -> anyhow::Result<ExitCode> {
    println!("{}", flags.etcd_config.display());
    let good = print(&store_of(&flags.etcd_config, None, flags.timeout).await);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(lines: &[Line]) -> bool {
    lines.iter().for_each(|line| println!("{line}"));
    lines.iter().all(|line| matches!(line, Line::Good(_)))
}

/// `cluster`: whose configuration must be there.
async fn store_of(path: &Path, cluster: Option<&ClusterName>, limit: Duration) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Err(line) = steps(path, cluster, limit, &mut lines).await {
        lines.push(line);
    }
    lines
}

async fn steps(path: &Path, cluster: Option<&ClusterName>, limit: Duration, lines: &mut Vec<Line>) -> Result<(), Line> {
    let bad = |what: String, remedy: &str| Line::Bad { what, remedy: remedy.to_owned() };
    let connect = store::connect_file(path).map_err(|error| bad(format!("{error:#}"), "correct the file"))?;
    lines.push(Line::Good(format!("configuration with {} endpoints", connect.endpoints.len())));
    if let Some(files) = &connect.tls {
        let expiry = certificate_expiry(files);
        let expiry =
            expiry.map_err(|error| bad(format!("certificate: {error}"), "mount the Secret with the certificate"))?;
        lines.push(certificate(&files.cert.display().to_string(), expiry, SystemTime::now())?);
    }
    let mut reached = 0;
    for endpoint in &connect.endpoints {
        match reach(&connect, endpoint, limit).await {
            Ok(address) => {
                reached += 1;
                lines.push(Line::Good(format!("{endpoint} answers TCP at {address}")));
            }
            Err((what, remedy)) => lines.push(bad(format!("{endpoint}: {what}"), remedy)),
        }
    }
    if reached == 0 {
        return Ok(());
    }
    let mut session = Session::open(connect);
    let heartbeat = ask(&mut session, Ticket(1), HEARTBEAT, limit).await?;
    lines.push(Line::Good(match &heartbeat {
        Some(value) => format!("etcd answers; heartbeat {}", String::from_utf8_lossy(value)),
        None => "etcd answers, without a heartbeat: does its clustermesh or kvstoremesh run?".to_owned(),
    }));
    let Some(cluster) = cluster else { return Ok(()) };
    let key = cluster_config_key(cluster);
    let Some(value) = ask(&mut session, Ticket(2), &key, limit).await? else {
        let remedy = "is the file named as that cluster's --cluster-name, and does its clustermesh run?";
        return Err(bad(format!("there is no {key}"), remedy));
    };
    let config = ClusterConfig::decode(cluster, &value)
        .map_err(|error| bad(error.to_string(), "the other side is too new, or not a cluster mesh"))?;
    let cached = if config.capabilities.cached { ", a copy" } else { "" };
    lines.push(Line::Good(format!("cluster {cluster} has number {}{cached}", config.id)));
    Ok(())
}

fn certificate(file: &str, expiry: SystemTime, now: SystemTime) -> Result<Line, Line> {
    const DAY: u64 = 24 * 3600;
    match expiry.duration_since(now) {
        Ok(left) => Ok(Line::Good(format!("certificate {file} is good for {} days", left.as_secs() / DAY))),
        Err(past) => Err(Line::Bad {
            what: format!("certificate {file} has expired {} hours ago", past.duration().as_secs() / 3600),
            remedy: "issue a new one; it is read at the next connection, nothing has to be restarted".to_owned(),
        }),
    }
}

/// Name and TCP, without TLS.
async fn reach(connect: &Connect, endpoint: &str, limit: Duration) -> Result<SocketAddr, (String, &'static str)> {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let (host, port) = rest.rsplit_once(':').ok_or(("no port in it".to_owned(), "write it as https://name:2379"))?;
    let host = host.trim_matches(['[', ']']);
    let port: u16 = port.parse().map_err(|_| (format!("{port:?} is no port"), "write it as https://name:2379"))?;
    let aliased = connect.aliases.iter().filter(|alias| alias.hostname == host).flat_map(|alias| &alias.ips);
    let mut addresses: Vec<SocketAddr> = aliased.map(|ip| SocketAddr::new(*ip, port)).collect();
    if addresses.is_empty() {
        addresses.extend(host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port)));
    }
    if addresses.is_empty() {
        let found = tokio::net::lookup_host((host, port)).await;
        let remedy = "add the name to DNS, or its addresses to cilium-host-aliases in the file";
        addresses.extend(found.map_err(|error| (format!("{host} cannot be resolved: {error}"), remedy))?);
    }
    let mut last = format!("{host} has no address");
    for address in addresses {
        match tokio::time::timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Ok(address),
            Ok(Err(error)) => last = format!("{address}: {error}"),
            Err(_) => last = format!("{address}: no answer within {limit:?}"),
        }
    }
    Err((last, "is etcd up there, and does the way to it (routes, firewalls, load balancer) let TCP port 2379 pass?"))
}

async fn ask(session: &mut Session, ticket: Ticket, key: &str, limit: Duration) -> Result<Option<Vec<u8>>, Line> {
    let bad =
        |what: String, remedy: &str| Line::Bad { what: format!("reading {key}: {what}"), remedy: remedy.to_owned() };
    session.submit(ticket, Op::Get { key: key.to_owned() });
    let reply = tokio::time::timeout(limit * 2, session.next()).await;
    match reply.map_err(|_| bad("no answer".to_owned(), "is etcd overloaded, or without a leader?"))?.outcome {
        Outcome::Page { entries, .. } => Ok(entries.into_iter().next().map(|entry| entry.value.to_vec())),
        Outcome::Failed(failure) => Err(bad(failure.message, remedy(failure.kind))),
        other => Err(bad(format!("unexpected answer {other:?}"), "is it an etcd?")),
    }
}

fn remedy(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Unavailable => {
            "do both sides' certificates come from a CA that the other side trusts, and does the server's have this name?"
        }
        FailureKind::TimedOut => "is etcd overloaded, or without a leader?",
        FailureKind::Denied => {
            "the certificate's CN must be a user that etcd knows (remote, remote-<cluster>, local-<cluster>), with a role that may read this key"
        }
        FailureKind::NoSpace => "etcd's quota is used up: compact and defragment it, then disarm the alarm",
        FailureKind::LeaseGone | FailureKind::TooLarge | FailureKind::Refused => {
            "is it an etcd of version 3.4 or newer?"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_certificate_has_a_remedy() {
        let now = SystemTime::now();
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(certificate("c", now + day * 10, now), Ok(Line::Good("certificate c is good for 10 days".into())));
        let line = certificate("c", now - day, now).unwrap_err().to_string();
        assert!(line.contains("FAILED") && line.contains("24 hours ago") && line.contains("issue a new one"), "{line}");
    }

    #[tokio::test]
    async fn a_store_that_is_not_there_is_told_at_its_step() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("west");
        std::fs::write(&path, format!("endpoints: [\"http://{free}\"]")).unwrap();
        let lines = store_of(&path, None, Duration::from_secs(5)).await;
        assert!(matches!(&lines[..], [Line::Good(_), Line::Bad { what, .. }] if what.contains("refused")), "{lines:?}");
        std::fs::write(&path, "endpoints: []").unwrap();
        let lines = store_of(&path, None, Duration::from_secs(5)).await;
        assert!(matches!(&lines[..], [Line::Bad { .. }]), "{lines:?}");
    }
}
