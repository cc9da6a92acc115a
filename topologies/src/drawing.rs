//! The topology as a drawing in text, and as a table of cables.

use std::fmt::Write as _;

use crate::plan::{HostPlan, Plan};
use crate::spec::Role;

/// Space between two boxes.
const GAP: usize = 2;

/// Clients above, switches in the middle, clusters below, then every cable with its addresses.
#[must_use]
pub fn draw(plan: &Plan) -> String {
    let mut out = String::new();
    let clients: Vec<Vec<String>> =
        plan.hosts.iter().filter(|host| host.role == Role::Client).map(|host| host_box(host, "outside")).collect();
    let tors: Vec<Vec<String>> = plan
        .tors
        .iter()
        .map(|tor| {
            vec![
                format!("{}  AS {}", tor.name, tor.asn),
                format!("{}  {}", tor.out.v4, tor.out.v6),
                format!("{}  {}", tor.rack.v4, tor.rack.v6),
            ]
        })
        .collect();
    let width = clusters_width(plan).max(row_width(&tors)).max(row_width(&clients));
    boxes(&mut out, &clients, width);
    joint(&mut out, clients.len(), tors.len(), width);
    boxes(&mut out, &tors, width);
    for cluster in &plan.clusters {
        let hosts = cluster_boxes(plan, &cluster.name);
        joint(&mut out, tors.len(), hosts.len(), width);
        boxes(&mut out, &hosts, width);
        let _ = writeln!(
            out,
            "cluster {}  AS {}\n  pods            {}  {}\n  services        {}  {}\n  load balancers  {}  {}",
            cluster.name,
            cluster.asn,
            cluster.pods.v4,
            cluster.pods.v6,
            cluster.services.v4,
            cluster.services.v6,
            cluster.load_balancers.v4,
            cluster.load_balancers.v6
        );
    }
    cables(&mut out, plan);
    out
}

fn host_box(host: &HostPlan, what: &str) -> Vec<String> {
    vec![format!("{}  {what}", host.name), host.loopback.v4.to_string(), host.loopback.v6.to_string()]
}

fn cluster_boxes(plan: &Plan, cluster: &str) -> Vec<Vec<String>> {
    let plane = plan.control_plane(cluster).map(|host| host_box(host, "control"));
    plane.into_iter().chain(plan.nodes(cluster).map(|host| host_box(host, "node"))).collect()
}

fn clusters_width(plan: &Plan) -> usize {
    plan.clusters.iter().map(|cluster| row_width(&cluster_boxes(plan, &cluster.name))).max().unwrap_or(0)
}

fn box_width(lines: &[String]) -> usize {
    lines.iter().map(|line| line.chars().count()).max().unwrap_or(0) + 4
}

fn row_width(row: &[Vec<String>]) -> usize {
    row.iter().map(|lines| box_width(lines) + GAP).sum::<usize>().saturating_sub(GAP)
}

/// One row of boxes, centred in `width`.
fn boxes(out: &mut String, row: &[Vec<String>], width: usize) {
    if row.is_empty() {
        return;
    }
    let indent = " ".repeat((width - row_width(row)) / 2);
    let height = row.iter().map(Vec::len).max().unwrap_or(0);
    let mut push = |cells: Vec<String>| {
        let line = format!("{indent}{}", cells.join(&" ".repeat(GAP)));
        let _ = writeln!(out, "{}", line.trim_end());
    };
    push(row.iter().map(|lines| format!("┌{}┐", "─".repeat(box_width(lines) - 2))).collect());
    for index in 0..height {
        let cell = |lines: &Vec<String>| {
            let text = lines.get(index).map_or("", String::as_str);
            format!("│ {text:<pad$} │", pad = box_width(lines) - 4)
        };
        push(row.iter().map(cell).collect());
    }
    push(row.iter().map(|lines| format!("└{}┘", "─".repeat(box_width(lines) - 2))).collect());
}

/// The cables between two rows, as a note: drawing each of n x m lines would hide more than it shows.
fn joint(out: &mut String, above: usize, below: usize, width: usize) {
    if above == 0 || below == 0 {
        return;
    }
    let note = if above * below == 1 { "one cable" } else { "a cable from each below to each above it is named with" };
    let _ = writeln!(out, "{}", format!("{:^width$}", format!("║  {note}  ║")).trim_end());
}

fn cables(out: &mut String, plan: &Plan) {
    let rows: Vec<[String; 4]> = plan
        .hosts
        .iter()
        .flat_map(|host| {
            host.cables.iter().map(|cable| {
                [
                    format!("{} {}", host.name, cable.interface),
                    format!("{} {}", cable.tor, cable.bridge),
                    cable.v4.to_string(),
                    cable.v6.to_string(),
                ]
            })
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (a, b, c) = (width(0), width(1), width(2));
    let _ = writeln!(out, "cables");
    for [end, tor, v4, v6] in &rows {
        let _ = writeln!(out, "  {end:<a$} ── {tor:<b$}  {v4:<c$}  {v6}");
    }
}
