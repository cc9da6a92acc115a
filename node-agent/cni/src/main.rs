//! `causeway-cni`: the CNI plugin (specification 1.1.0).
//!
//! A thin client: reads environment and stdin ([`request`]), asks the agent on its socket ([`verbs`]), and prints a
//! result in the version that was asked for ([`answer`]). When no agent answers, DEL leaves a note for it ([`queue`]) and
//! succeeds, because a runtime that cannot remove a pod keeps its sandbox for ever; ADD asks to be tried again.

mod answer;
mod error;
mod log;
mod queue;
mod request;
mod verbs;
mod version;

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use error::CniError;
use request::Environment;
use version::Version;

/// The largest configuration that is read: a GC of 10,000 attachments is a tenth of it.
const MAX_STDIN_BYTES: u64 = 16 << 20;

fn main() -> ExitCode {
    let environment = Environment::from_process();
    let mut stdin = Vec::new();
    let read = std::io::stdin().lock().take(MAX_STDIN_BYTES).read_to_end(&mut stdin);
    let done = match read {
        Ok(_) => verbs::run(&environment, &stdin),
        Err(e) => Err(CniError::io("reading the network configuration from stdin", &e)),
    };
    let (text, code) = match done {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(value)) => (value, ExitCode::SUCCESS),
        Err(error) => (error.to_json(version::asked(&stdin).unwrap_or(Version::NEWEST)), ExitCode::FAILURE),
    };
    // A runtime that has closed our stdout learns from the exit code.
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}
