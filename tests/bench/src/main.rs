//! Benchmarks with a peer beside ours in the same run: `causeway-bench latency|agent|cni|mesh|wireguard|wireguard-scale|all [--write FILE]`.
//!
//! It needs root, makes its own network namespaces and labs, and takes them down. Figures are printed as a table and, with
//! `--write`, saved with the machine and the versions that they come from. No figure is asserted.

mod agent;
mod cni;
mod lab;
mod latency;
mod mesh;
mod netns;
mod report;
mod rules;
mod wireguard;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

#[derive(Parser)]
#[command(about = "Runs benchmarks side by side with peers")]
struct Args {
    what: What,
    /// Save the table as Markdown.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Interleaved rounds of the latency comparison.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Connections per path and round.
    #[arg(long, default_value_t = 2_000)]
    samples: usize,
}

#[derive(Parser)]
enum Part {
    MeshInner(mesh::Inner),
}

impl Part {
    fn inner(self) -> mesh::Inner {
        let Part::MeshInner(inner) = self;
        inner
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    Latency,
    Agent,
    Cni,
    Mesh,
    Wireguard,
    /// The last rows of `wireguard` alone.
    WireguardScale,
    All,
}

/// Adds the rows of one part.
type Measure<'a> = dyn Fn(&mut report::Table) -> Result<()> + 'a;

fn main() -> Result<()> {
    // The part of a benchmark that runs in a node's namespace: ourselves again, with other words.
    if std::env::args().nth(1).as_deref() == Some("mesh-inner") {
        return mesh::run_inner(&Part::parse().inner());
    }
    let args = Args::parse();
    if args.what == What::WireguardScale {
        ensure!(args.write.is_none(), "--write goes with wireguard, of which this is a part");
        return wireguard::scale(&mut report::Table::default());
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the benchmarks make network namespaces and load eBPF programs: run as root"
    );
    let parts: [(What, &str, &Measure<'_>); 5] = [
        (What::Agent, "agent", &|table| agent::run(table, 500)),
        (What::Cni, "cni", &|table| cni::run(table, 100)),
        (What::Latency, "latency", &|table| latency::run(table, args.rounds, args.samples)),
        (What::Mesh, "mesh", &mesh::run),
        (What::Wireguard, "wireguard", &|table| wireguard::run(table, args.rounds)),
    ];
    for (_, name, part) in parts.iter().filter(|(what, ..)| args.what == What::All || args.what == *what) {
        let mut table = report::Table::default();
        part(&mut table)?;
        if let Some(path) = &args.write {
            table.write(path, name, &versions())?;
            println!("{name}: written to {}", path.display());
        }
    }
    Ok(())
}

/// The machine and the versions that the figures come from.
fn versions() -> Vec<(String, String)> {
    let first = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).output().ok()?;
        let text = [out.stdout, out.stderr].concat();
        String::from_utf8_lossy(&text).lines().next().map(str::trim).map(str::to_owned)
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|l| l.strip_prefix("model name").map(|m| m.trim_matches([' ', '\t', ':']).to_owned()));
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let rows = [
        ("machine", Some(format!("{cores} x {}", model.unwrap_or_else(|| "unknown processor".to_owned())))),
        ("load average at the end", load.split_whitespace().next().map(str::to_owned)),
        ("kernel", first("uname", &["-sr"])),
        ("compiler", first("rustc", &["--version"])),
        ("commit", first("git", &["rev-parse", "--short", "HEAD"])),
        ("FRR", first("/usr/lib/frr/bgpd", &["--version"])),
        ("etcd", first("etcd", &["--version"])),
        ("wireguard-go", first("dpkg-query", &["-W", "-f", "${Version}", "wireguard-go"])),
        ("iperf3", first("iperf3", &["--version"])),
        ("nftables", first("nft", &["--version"])),
        ("iptables", first("iptables-legacy", &["--version"])),
        ("CNI plugins", first("dpkg-query", &["-W", "-f", "${Version}", "containernetworking-plugins"])),
    ];
    rows.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
