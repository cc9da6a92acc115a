//! `status`, `list` and `log`: what there is, for people and for scripts.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::enter;
use crate::fabric;
use crate::kubernetes::Kubernetes;
use crate::process;
use crate::state::Lab;

#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    #[default]
    Table,
    Json,
}

/// Prints a lab's state; the exit code is 0 when all its processes run, else 1.
pub(crate) fn status(name: Option<&str>, output: Output) -> Result<ExitCode> {
    let lab = Lab::open_or_only(name)?;
    let state = lab.load()?;
    let plan = state.plan()?;
    let records = process::all(&lab);
    let healthy = records.iter().all(|record| record.id.alive());
    let mut sessions = Vec::new();
    for tor in &plan.tors {
        sessions.extend(fabric::sessions(&lab, &plan, &tor.name).unwrap_or_default());
    }
    let mut nodes = Vec::new();
    for cluster in &plan.clusters {
        let kubeconfig = lab.outer_kubeconfig(&cluster.name);
        if kubeconfig.is_file() {
            nodes.extend(Kubernetes::connect(&kubeconfig).and_then(|api| api.nodes()).unwrap_or_default());
        }
    }
    let pods = enter::pods(&lab, &state);
    let value = json!({
        "name": lab.name, "created": state.created, "source": state.source, "healthy": healthy,
        "kubeconfig": lab.dir.join("kubeconfig"),
        "hosts": plan.hosts.iter().map(|host| json!({
            "name": host.name, "netns": lab.netns(&host.name), "ipv4": host.loopback.v4, "ipv6": host.loopback.v6,
        })).collect::<Vec<_>>(),
        "tors": plan.tors.iter().map(|tor| json!({
            "name": tor.name, "netns": lab.netns(&tor.name), "asn": tor.asn,
        })).collect::<Vec<_>>(),
        "processes": records.iter().map(|record| json!({
            "name": record.spec.name, "host": record.spec.host, "pid": record.id.pid, "running": record.id.alive(),
            "log": record.spec.log,
        })).collect::<Vec<_>>(),
        "nodes": nodes, "sessions": sessions,
        "pods": pods.iter().map(|pod| json!({
            "namespace": pod.namespace, "name": pod.name, "node": pod.node, "netns": pod.netns,
        })).collect::<Vec<_>>(),
    });
    match output {
        Output::Json => print(&serde_json::to_string_pretty(&value)?),
        Output::Table => {
            let mut text = format!("lab {}  since {}  from {}\n", lab.name, state.created, state.source.display());
            let _ = writeln!(text, "kubeconfig {}", lab.dir.join("kubeconfig").display());
            table(&mut text, "HOSTS", &["name", "ipv4", "ipv6", "netns"], &value["hosts"]);
            table(&mut text, "PROCESSES", &["name", "pid", "running", "log"], &value["processes"]);
            table(&mut text, "NODES", &["name", "ready", "reason"], &value["nodes"]);
            table(&mut text, "PODS", &["namespace", "name", "node", "netns"], &value["pods"]);
            let columns = ["tor", "family", "peer", "host", "state", "prefixes", "since"];
            table(&mut text, "BGP SESSIONS", &columns, &value["sessions"]);
            print(&text);
        }
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(crate) fn list(output: Output) -> Result<()> {
    let rows: Vec<Value> = Lab::all()?
        .iter()
        .map(|lab| {
            let running = process::all(lab).iter().filter(|record| record.id.alive()).count();
            match lab.load() {
                Ok(state) => json!({"name": lab.name, "topology": state.topology.name, "created": state.created,
                    "processes": running, "dir": lab.dir}),
                Err(_) => json!({"name": lab.name, "topology": "(remains of a crash)", "created": "",
                    "processes": running, "dir": lab.dir}),
            }
        })
        .collect();
    match output {
        Output::Json => print(&serde_json::to_string_pretty(&rows)?),
        Output::Table if rows.is_empty() => print("no lab is up"),
        Output::Table => {
            let mut text = String::new();
            table(&mut text, "LABS", &["name", "topology", "created", "processes", "dir"], &Value::Array(rows));
            print(text.trim_start());
        }
    }
    Ok(())
}

pub(crate) fn log(name: &str, process: &str) -> Result<()> {
    let record = process::find(&Lab::open(name)?, process)?;
    print(&std::fs::read_to_string(&record.spec.log)?);
    Ok(())
}

/// To stdout; a reader that has seen enough (`| head`) is no error.
pub(crate) fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

fn table(out: &mut String, title: &str, columns: &[&str], rows: &Value) {
    let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return;
    }
    let cell = |row: &Value, column: &str| match &row[column] {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    };
    let width =
        |column: &&str| rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0).max(column.len());
    let _ = writeln!(out, "\n{title}");
    let mut line = |cells: Vec<String>| {
        let _ = writeln!(out, "  {}", cells.join("  ").trim_end());
    };
    line(columns.iter().map(|column| format!("{:<w$}", column.to_uppercase(), w = width(column))).collect());
    for row in rows {
        line(columns.iter().map(|column| format!("{:<w$}", cell(row, column), w = width(column))).collect());
    }
}
