//! An etcd of our own for a moment: on free ports of the loopback address, ended with SIGTERM.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use causeway_mesh_kv::Connect;
use causeway_mesh_kv::admin::Admin;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::flags::Etcdinit;

/// Between two questions whether it is there.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long it may take to end.
const END_WITHIN: Duration = Duration::from_secs(10);

pub(super) struct Etcd {
    child: Child,
    endpoint: String,
    /// What it says.
    log: PathBuf,
}

impl Etcd {
    pub(super) fn start(flags: &Etcdinit) -> anyhow::Result<Etcd> {
        let [client, peer] = free_ports().context("finding free ports for etcd")?;
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let log = std::env::temp_dir().join(format!("etcdinit-{}.log", std::process::id()));
        let output = File::create(&log).with_context(|| format!("writing etcd's log to {}", log.display()))?;
        let binary = &flags.etcd_binary_location;
        let name = &flags.etcd_cluster_name;
        let child = Command::new(binary)
            .arg("--data-dir")
            .arg(&flags.etcd_data_dir)
            .args([
                format!("--name={name}"),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster={name}={peer}"),
                format!("--initial-cluster-token={}", flags.etcd_initial_cluster_token),
                "--initial-cluster-state=new".to_owned(),
            ])
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("writing etcd's log")?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}; is --etcd-binary-location right?", binary.display()))?;
        tracing::info!(endpoint = client, pid = child.id(), "etcd started");
        Ok(Etcd { child, endpoint: client, log })
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Waits until it serves. The caller limits the time.
    pub(super) async fn ready(&mut self) -> anyhow::Result<Connect> {
        let connect = Connect::new(vec![self.endpoint.clone()]);
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            match asked(&connect).await {
                Ok(()) => return Ok(connect),
                Err(error) => tracing::debug!("etcd does not serve yet: {error:#}"),
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Ends it the gentle way.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let end = async {
            if let Some(pid) = self.child.id() {
                kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM).context("sending SIGTERM")?;
            }
            let ended = tokio::time::timeout(END_WITHIN, self.child.wait()).await;
            // A non-zero status is how etcd 3.4 says that a signal ended it.
            ended.with_context(|| format!("it goes on {END_WITHIN:?} after SIGTERM, and is killed"))??;
            anyhow::Ok(())
        };
        let result = end.await;
        if let Err(error) = std::fs::remove_file(&self.log) {
            tracing::debug!(log = %self.log.display(), %error, "cannot be removed");
        }
        result
    }
}

async fn asked(connect: &Connect) -> anyhow::Result<()> {
    Ok(Admin::connect(connect).await?.status().await?)
}

/// Ports that nobody has now. Held together until both are known, so that they differ.
fn free_ports() -> std::io::Result<[u16; 2]> {
    let held = [TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
    Ok([held[0].local_addr()?.port(), held[1].local_addr()?.port()])
}
