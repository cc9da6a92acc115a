//! Startup, readiness and liveness probes: exec in the pod, TCP and HTTP from the node to the pod's address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::container::{Launch, run_to_end};

/// Readiness is looked at this often until it first succeeds: nobody waits for a whole period at start.
const EAGER_EVERY: Duration = Duration::from_millis(100);
/// A container that has not been ready by then is looked at as its probe says.
const EAGER_FOR: Duration = Duration::from_secs(10);
/// Of an HTTP answer, only the status line is read.
const MAX_STATUS_LINE: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Startup,
    Readiness,
    Liveness,
}

/// Whom to probe.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: IpAddr,
    /// Where commands run, and with what around them.
    pub(crate) launch: Launch,
    /// Named ports of the container.
    pub(crate) ports: BTreeMap<String, u16>,
}

impl Target {
    pub(crate) fn ports(container: &Container) -> BTreeMap<String, u16> {
        let ports = container.ports.iter().flatten();
        ports.filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?))).collect()
    }

    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        match port {
            IntOrString::Int(number) => u16::try_from(*number).map_err(|_| format!("port {number} is out of range")),
            IntOrString::String(name) => match self.ports.get(name) {
                Some(port) => Ok(*port),
                None => name.parse().map_err(|_| format!("the container has no port named \"{name}\"")),
            },
        }
    }
}

/// Counts successes and failures against the probe's thresholds. Pure.
#[derive(Debug)]
pub(crate) struct Thresholds {
    success: u32,
    failure: u32,
    run: (bool, u32),
    state: Option<bool>,
}

impl Thresholds {
    pub(crate) fn new(probe: &Probe) -> Self {
        let at_least_one = |value: Option<i32>, default: u32| match value.and_then(|value| u32::try_from(value).ok()) {
            None | Some(0) => default,
            Some(value) => value,
        };
        Self {
            success: at_least_one(probe.success_threshold, 1),
            failure: at_least_one(probe.failure_threshold, 3),
            run: (false, 0),
            state: None,
        }
    }

    /// Feeds one outcome; returns the new state when it changes.
    pub(crate) fn feed(&mut self, ok: bool) -> Option<bool> {
        self.run = if self.run.0 == ok { (ok, self.run.1.saturating_add(1)) } else { (ok, 1) };
        let needed = if ok { self.success } else { self.failure };
        if self.run.1 >= needed && self.state != Some(ok) {
            self.state = Some(ok);
            return self.state;
        }
        None
    }
}

/// Probes for as long as the task lives; `changed` gets each new state with the reason.
pub(crate) async fn run(probe: Probe, kind: Kind, target: Target, changed: impl Fn(bool, String)) {
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
    };
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    tokio::time::sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let mut thresholds = Thresholds::new(&probe);
    let mut succeeded = false;
    let begun = tokio::time::Instant::now();
    loop {
        let outcome = check(&probe, &target).await;
        succeeded |= outcome.is_ok();
        if let Some(state) = thresholds.feed(outcome.is_ok()) {
            changed(state, outcome.err().unwrap_or_default());
            if kind == Kind::Startup && state {
                return;
            }
        }
        let eager = kind == Kind::Readiness && !succeeded && begun.elapsed() < EAGER_FOR;
        tokio::time::sleep(if eager { EAGER_EVERY } else { period }).await;
    }
}

/// One look.
async fn check(probe: &Probe, target: &Target) -> Result<(), String> {
    let limit = Duration::from_secs(probe.timeout_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(1).max(1));
    if let Some(exec) = &probe.exec {
        let argv = exec.command.clone().unwrap_or_default();
        let launch = Launch { argv, log: None, ..target.launch.clone() };
        let run = tokio::task::spawn_blocking(move || run_to_end(&launch, limit)).await;
        return run.unwrap_or_else(|error| Err(error.to_string())).map_err(|error| format!("exec: {error}"));
    }
    let ask = async {
        if let Some(tcp) = &probe.tcp_socket {
            let port = target.port(&tcp.port)?;
            connect(tcp.host.as_deref(), port, target).await.map(drop)
        } else if let Some(http) = &probe.http_get {
            http_get(http, target).await
        } else {
            Err("only exec, tcpSocket and httpGet probes are carried out here".into())
        }
    };
    tokio::time::timeout(limit, ask).await.unwrap_or_else(|_| Err(format!("no answer in {} s", limit.as_secs())))
}

async fn connect(host: Option<&str>, port: u16, target: &Target) -> Result<TcpStream, String> {
    let stream = match host {
        Some(host) => TcpStream::connect((host, port)).await,
        None => TcpStream::connect((target.address, port)).await,
    };
    stream.map_err(|error| format!("connect to {} port {port}: {error}", target.address))
}

/// Also used by `preStop` hooks.
pub(crate) async fn http_get(http: &HTTPGetAction, target: &Target) -> Result<(), String> {
    if http.scheme.as_deref().is_some_and(|scheme| !scheme.eq_ignore_ascii_case("http")) {
        return Err("only scheme HTTP is carried out here".into());
    }
    let port = target.port(&http.port)?;
    let mut stream = connect(http.host.as_deref(), port, target).await?;
    let path = http.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let host = match target.address {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("[{address}]:{port}"),
    };
    let mut request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: kube-probe\r\nConnection: close\r\n");
    for header in http.http_headers.iter().flatten() {
        request.push_str(&format!("{}: {}\r\n", header.name, header.value));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut line = Vec::new();
    while !line.contains(&b'\n') && line.len() < MAX_STATUS_LINE {
        let mut chunk = [0; 64];
        match stream.read(&mut chunk).await {
            Ok(0) => break,
            Ok(length) => line.extend_from_slice(&chunk[..length]),
            Err(error) => return Err(error.to_string()),
        }
    }
    let line = String::from_utf8_lossy(&line);
    let code: u16 = line.split_ascii_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    if (200..400).contains(&code) { Ok(()) } else { Err(format!("HTTP status {code}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(failure: i32, success: i32, outcomes: &[bool]) -> Vec<Option<bool>> {
        let probe = Probe { failure_threshold: Some(failure), success_threshold: Some(success), ..Probe::default() };
        let mut thresholds = Thresholds::new(&probe);
        outcomes.iter().map(|ok| thresholds.feed(*ok)).collect()
    }

    #[test]
    fn states_change_only_at_thresholds() {
        let (yes, no, same) = (Some(true), Some(false), None);
        assert_eq!(states(2, 1, &[true, true, false, true, false, false]), [yes, same, same, same, same, no]);
        assert_eq!(states(1, 2, &[false, true, false, true, true]), [no, same, same, same, yes]);
    }
}
