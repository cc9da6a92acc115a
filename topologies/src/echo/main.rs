//! `causeway-echo`: answers with who it is and whom it sees; and asks such servers, counting who answered.
//!
//! Small on purpose: plain threads, no runtime, so that it starts at once and hides nothing of the network.

mod ask;
mod get;
mod serve;
mod stream;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "causeway-echo", version, about = "Says who answers and who asks")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answers over HTTP, TCP and UDP, on IPv4 and IPv6
    Serve(serve::Options),
    /// Sends requests and prints who answered; exit code 1 if one failed
    Get(get::Options),
    /// Keeps connections open and sends a request on each at an interval; exit code 1 if one was lost
    Stream(stream::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(options) => serve::run(&options),
        Command::Get(options) => get::run(&options),
        Command::Stream(options) => stream::run(&options),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("causeway-echo: {error:#}");
        ExitCode::FAILURE
    })
}
