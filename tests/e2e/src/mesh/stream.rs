//! Requests that never stop while something is being broken: every one opens a connection of its own, so that each is
//! a new choice of a backend.

use std::io::Read as _;
use std::process::Child;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::{Lab, tool_path};

/// Seconds that one request may take: longer than any single fault lasts, so that a request that is caught by one can
/// still end well.
const PATIENCE_S: &str = "30";

pub(crate) struct Stream {
    child: Child,
}

/// What a stream saw.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) sent: u64,
    pub(crate) slowest_ms: u64,
}

impl Stream {
    pub(crate) fn start(lab: &Lab, from: &str, url: &str) -> Result<Stream> {
        let echo = tool_path("causeway-echo")?;
        let words = [
            &echo,
            "stream",
            url,
            "--connections",
            "4",
            "--interval",
            "20",
            "--for",
            "300",
            "--timeout",
            PATIENCE_S,
            "--reconnect",
            "--json",
        ];
        Ok(Stream { child: lab.spawn(from, &words)? })
    }

    /// Ends the stream; one failed request is an error.
    pub(crate) fn finish(mut self) -> Result<Seen> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGINT)?;
        let mut out = String::new();
        self.child.stdout.take().context("stdout")?.read_to_string(&mut out)?;
        self.child.wait()?;
        let last = out.lines().rfind(|l| l.starts_with('{')).with_context(|| format!("the stream printed {out:?}"))?;
        let json: Value = serde_json::from_str(last)?;
        let number = |field: &str| json[field].as_u64().with_context(|| format!("no {field} in {json}"));
        let (sent, failed) = (number("sent")?, number("failed")?);
        ensure!(failed == 0 && sent > 0, "{failed} of {sent} requests failed: {json}");
        Ok(Seen { sent, slowest_ms: number("slowest_ms")? })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `fault` under a stream of requests; the figure is its own, with what the stream saw.
pub(crate) fn during(lab: &Lab, from: &str, url: &str, fault: impl FnOnce() -> Result<String>) -> Result<String> {
    let stream = Stream::start(lab, from, url)?;
    let figure = fault();
    let seen = stream.finish();
    let (figure, seen) = (figure?, seen?);
    Ok(format!("{figure}; {} requests meanwhile, 0 failed, slowest {} ms", seen.sent, seen.slowest_ms))
}
