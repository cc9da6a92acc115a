//! End-to-end tests: `causeway-e2e TOPIC [--only SCENARIO]`. They need root, make labs of their own and drive them with
//! the commands that people use. A line for each thing shown, with its figure; exit code 1 when one failed.

mod encryption;
mod kit;
mod lab;
mod mesh;
mod rack;
mod report;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

#[derive(Parser)]
#[command(about = "Runs the end-to-end tests of a topic")]
struct Args {
    topic: Topic,
    /// Only the scenarios whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Topic {
    Rack,
    Mesh,
    Encryption,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("causeway-e2e: the labs make network namespaces and load eBPF programs; run as root");
        return ExitCode::from(2);
    }
    let mut report = report::Report::default();
    match args.topic {
        Topic::Rack => rack::run(&mut report, args.only.as_deref()),
        Topic::Mesh => mesh::run(&mut report, args.only.as_deref()),
        Topic::Encryption => encryption::run(&mut report, args.only.as_deref()),
    }
    println!("\n{} passed, {} failed", report.passed, report.failed);
    if report.failed == 0 && report.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
