//! A real etcd for tests: loopback, chosen ports, data in a temporary directory, ended by its pid.
//!
//! Used by this crate's tests and, by `#[path]`, by those of crates above. Needs `/usr/bin/etcd` (3.4 or newer).

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

const ETCD: &str = "/usr/bin/etcd";

/// How long a start may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the server shows, and what clients must be signed by.
#[derive(Debug, Clone)]
pub struct ServerTls {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, Default, Clone)]
pub struct Options {
    pub tls: Option<ServerTls>,
    /// Flags for etcd, such as `--quota-backend-bytes=65536`.
    pub flags: Vec<String>,
}

/// A server. Killed when dropped.
#[derive(Debug)]
pub struct Etcd {
    child: Option<Child>,
    data: tempfile::TempDir,
    options: Options,
    client_port: u16,
    peer_port: u16,
    health_port: u16,
    token: u32,
}

impl Etcd {
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(Options::default())
    }

    pub fn start_with(options: Options) -> anyhow::Result<Self> {
        let [client_port, peer_port, health_port] = free_ports()?;
        let data = tempfile::tempdir().context("a directory for etcd's data")?;
        let mut etcd = Self { child: None, data, options, client_port, peer_port, health_port, token: 1 };
        etcd.restart()?;
        Ok(etcd)
    }

    /// `https://127.0.0.1:port`, or `http://` without TLS.
    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme(), self.client_port)
    }

    pub fn port(&self) -> u16 {
        self.client_port
    }

    /// Starts it again with the same data and ports, and waits until it serves.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        let (peer, client) = (format!("http://127.0.0.1:{}", self.peer_port), self.endpoint());
        let mut command = Command::new(ETCD);
        command
            .arg("--name=test")
            .arg(format!("--data-dir={}", self.data.path().join("data").display()))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=test={peer}"))
            .arg(format!("--initial-cluster-token=test-{}", self.token))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-metrics-urls=http://127.0.0.1:{}", self.health_port))
            .args(["--logger=zap", "--log-level=error"])
            .args(&self.options.flags);
        if let Some(tls) = &self.options.tls {
            command
                .arg("--client-cert-auth")
                .arg(format!("--trusted-ca-file={}", tls.ca.display()))
                .arg(format!("--cert-file={}", tls.cert.display()))
                .arg(format!("--key-file={}", tls.key.display()));
        }
        let log = std::fs::File::options().create(true).append(true).open(self.log())?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.with_context(|| format!("{ETCD} (Debian: apt install etcd-server)"))?);
        self.wait_until_healthy()
    }

    /// Starts it again as another data set: empty, and with another cluster id.
    pub fn restart_empty(&mut self) -> anyhow::Result<()> {
        self.kill();
        self.token += 1;
        std::fs::remove_dir_all(self.data.path().join("data")).context("the old data")?;
        self.restart()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Errors: it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP: its sockets stay open and nobody answers.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal("-STOP")
    }

    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal("-CONT")
    }

    /// Runs etcdctl against it. `files`: CA, certificate and key, with TLS.
    pub fn ctl(&self, files: Option<[&Path; 3]>, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", self.endpoint()));
        if let Some([ca, cert, key]) = files {
            command.arg("--cacert").arg(ca).arg("--cert").arg(cert).arg("--key").arg(key);
        }
        let output = command.args(args).output().context("etcdctl (Debian: apt install etcd-client)")?;
        if !output.status.success() {
            bail!("etcdctl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn scheme(&self) -> &'static str {
        if self.options.tls.is_some() { "https" } else { "http" }
    }

    fn log(&self) -> PathBuf {
        self.data.path().join("log")
    }

    fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let pid = self.child.as_ref().context("etcd does not run")?.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status()?;
        if !status.success() {
            bail!("kill {signal} {pid} failed");
        }
        Ok(())
    }

    fn wait_until_healthy(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.is_healthy() {
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?,
                None => None,
            };
            if ended.is_some() || Instant::now() > end {
                let log = std::fs::read_to_string(self.log()).unwrap_or_default();
                bail!("etcd did not start ({ended:?}): {log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn is_healthy(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut tcp = TcpStream::connect(("127.0.0.1", self.health_port))?;
            tcp.set_read_timeout(Some(Duration::from_secs(5)))?;
            tcp.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            tcp.read_to_string(&mut answer)?;
            Ok(answer)
        };
        // An alarm (NOSPACE) makes it unhealthy in its own eyes; it serves all the same.
        ask().is_ok_and(|answer| answer.contains("\"health\":\"true\"") || answer.contains("NOSPACE"))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Ports that nobody listens on. All are held until all are known, so that they differ.
fn free_ports() -> anyhow::Result<[u16; 3]> {
    let held = [0; 3].map(|port| TcpListener::bind(("127.0.0.1", port)));
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.as_ref().map_err(|error| anyhow::anyhow!("no free port: {error}"))?.local_addr()?.port();
    }
    Ok(ports)
}
