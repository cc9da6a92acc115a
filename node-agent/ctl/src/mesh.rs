//! `causeway clustermesh status`: other clusters as this node knows them. Setting a mesh up is `clustermesh`'s.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use causeway_api::mesh::{KindStatus, Latency, MeshStatus, Refusal, RemoteCluster};
use causeway_api::{self as api, Client, NoParams};

use crate::args::Output;
use crate::show::{duration, yes};
use crate::table::Table;
use crate::{Failure, poll, print_json};

/// Asks, waits for readiness up to `wait`, prints. A mesh that is off is ready: there is nothing to wait for.
pub(crate) fn status(client: &Client, out: Output, wait: Option<Duration>) -> Result<(), Failure> {
    let ask = || client.call(api::ClustermeshStatus, &NoParams {});
    let status = poll(wait.unwrap_or_default(), ask, |status: &MeshStatus| status.ready || !status.enabled)?;
    match out {
        Output::Json => print_json(&status)?,
        Output::CiliumJson => print_json(&status.clusters.iter().map(|c| &c.cilium).collect::<Vec<_>>())?,
        Output::Table => io::stdout().write_all(show(&status).as_bytes())?,
    }
    if status.ready || !status.enabled { Ok(()) } else { Err(Failure::NotOk) }
}

fn show(status: &MeshStatus) -> String {
    let mut text = String::new();
    let verdict = match (status.enabled, status.ready) {
        (false, _) => "meets no other clusters",
        (true, true) => "ready",
        (true, false) => "NOT READY",
    };
    let _ = writeln!(text, "{} in cluster {} (id {}): {verdict}", status.node, status.cluster, status.cluster_id);
    if !status.note.is_empty() {
        let _ = writeln!(text, "{}", status.note);
    }
    if !status.enabled {
        return text;
    }
    let work = &status.ipcache;
    let _ = writeln!(
        text,
        "Remote addresses: {} rows, {} pending; map writes {} (+{} deletions), {} entries came again unchanged",
        work.rows, work.pending, work.upserts, work.deletes, work.unchanged
    );
    if !work.error.is_empty() {
        let _ = writeln!(text, "  last failed write: {}", work.error);
    }
    let _ = writeln!(
        text,
        "Global services: {}; remote backends probed: {}, dead: {}\n",
        status.global_services, status.probes.targets, status.probes.dead
    );
    text += &overview(&status.clusters);
    for cluster in &status.clusters {
        text += &details(cluster);
    }
    text
}

fn overview(clusters: &[RemoteCluster]) -> String {
    let mut t = Table::new(&[
        "Cluster",
        "ID",
        "Ready",
        "Stage",
        "Heartbeat",
        "Newest entry",
        "Nodes",
        "Endpoints",
        "Identities",
        "Services",
        "Failures",
        "Refused",
    ]);
    for c in clusters {
        let stage = match c.silent_for_s {
            Some(s) => format!("{} for {}", c.stage, duration(s)),
            None => c.stage.clone(),
        };
        t.row([
            c.name.clone(),
            c.id.map_or_else(|| "-".into(), |id| id.to_string()),
            yes(c.ready),
            stage,
            ago(c.heartbeat_age_ms),
            ago(c.newest_data_age_ms),
            c.nodes.to_string(),
            c.endpoints.to_string(),
            c.identities.to_string(),
            c.services.to_string(),
            c.failures.to_string(),
            (c.conflicts + c.rejected).to_string(),
        ]);
    }
    if clusters.is_empty() {
        return "no cluster is configured\n".into();
    }
    t.render()
}

fn details(c: &RemoteCluster) -> String {
    let state = if c.connected { format!("connected since {}", c.connected_since) } else { "not connected".into() };
    let mut text = format!("\n{}: {state}\n", c.name);
    if !c.last_failure.is_empty() {
        let at = if c.last_failure_at.is_empty() { String::new() } else { format!(" at {}", c.last_failure_at) };
        let _ = writeln!(text, "  last failure{at}: {}", c.last_failure);
    }
    if !c.certificate_expires.is_empty() {
        let left = match c.certificate_expires_in_s {
            Some(s) if s < 0 => "EXPIRED".to_owned(),
            Some(s) => format!("in {}", duration(s.unsigned_abs())),
            None => String::new(),
        };
        let _ = writeln!(text, "  our certificate expires {} ({left})", c.certificate_expires);
    }
    let kinds: Vec<String> = c.kinds.iter().map(kind).collect();
    if !kinds.is_empty() {
        let _ = writeln!(text, "  read: {}", kinds.join("; "));
    }
    let latency: Vec<String> = c.latency.iter().filter(|l| l.count > 0).map(latency).collect();
    if !latency.is_empty() {
        let _ = writeln!(text, "  change to map: {}", latency.join("; "));
    }
    if c.probes.targets > 0 {
        let _ = writeln!(text, "  probed backends: {}, dead: {}", c.probes.targets, c.probes.dead);
    }
    if c.conflicts + c.rejected > 0 {
        let _ = writeln!(text, "  refused: {} in conflict, {} unusable since the start", c.conflicts, c.rejected);
    }
    for r in &c.refusals {
        text += &refusal(r);
    }
    text
}

fn kind(k: &KindStatus) -> String {
    let state = if k.synced { "" } else { " (not complete)" };
    format!("{} {}{state} {}", k.kind, k.entries, k.checksum)
}

fn latency(l: &Latency) -> String {
    let of = if l.of == "trigger" { "from the other cluster's clock" } else { l.of.as_str() };
    format!("{of} p50 {} p99 {} ({})", micros(l.p50_us), micros(l.p99_us), l.count)
}

fn refusal(r: &Refusal) -> String {
    let what = if r.conflict { "conflict" } else { "unusable" };
    format!("    {what}: {} {}: {}; remedy: {}\n", r.kind, r.name, r.problem, r.remedy)
}

fn ago(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".into(), |ms| format!("{} ago", millis(ms)))
}

fn millis(ms: u64) -> String {
    if ms < 10_000 { format!("{ms}ms") } else { duration(ms / 1000) }
}

fn micros(us: u64) -> String {
    if us < 10_000 { format!("{us}us") } else { format!("{}ms", us / 1000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_cluster_and_its_conflicts_are_named() {
        let cluster = RemoteCluster {
            name: "east".into(),
            id: Some(2),
            stage: "probed".into(),
            silent_for_s: Some(150),
            last_failure: "connection refused".into(),
            last_failure_at: "2026-11-21T15:00:00Z".into(),
            newest_data_age_ms: Some(40),
            heartbeat_age_ms: Some(150_000),
            certificate_expires: "2026-11-20T00:00:00Z".into(),
            certificate_expires_in_s: Some(-60),
            conflicts: 1,
            refusals: vec![Refusal {
                kind: "nodes".into(),
                name: "n1".into(),
                conflict: true,
                problem: "10.1.0.0/24 is ours".into(),
                remedy: "give each cluster its own pod CIDRs".into(),
            }],
            latency: vec![Latency { of: "ip".into(), count: 3, p50_us: 250, p99_us: 12_000 }],
            ..RemoteCluster::default()
        };
        let status = MeshStatus {
            enabled: true,
            node: "n1".into(),
            cluster: "west".into(),
            cluster_id: 1,
            clusters: vec![cluster],
            ..MeshStatus::default()
        };
        let text = show(&status);
        for want in [
            "n1 in cluster west (id 1): NOT READY\n",
            "probed for 2m30s   2m30s ago   40ms ago",
            "  last failure at 2026-11-21T15:00:00Z: connection refused\n",
            "expires 2026-11-20T00:00:00Z (EXPIRED)\n",
            "  change to map: ip p50 250us p99 12ms (3)\n",
            "    conflict: nodes n1: 10.1.0.0/24 is ours; remedy: give each cluster its own pod CIDRs\n",
        ] {
            assert!(text.contains(want), "{text}\nhas not\n{want}");
        }
    }

    #[test]
    fn a_mesh_that_is_off_says_why() {
        let status = MeshStatus {
            node: "n1".into(),
            cluster: "a".into(),
            note: "no cluster-id".into(),
            ..MeshStatus::default()
        };
        assert_eq!(show(&status), "n1 in cluster a (id 0): meets no other clusters\nno cluster-id\n");
    }
}
