//! All remote clusters of a process: one task reads the directory and starts and ends the others; one task per remote
//! cluster drives its `core` with a session of `causeway-mesh-kv`.
//!
//! A task owns its machine, its session and its sink. Shared are the table of reserved numbers and a snapshot per
//! cluster for the status, each behind a lock that is held for a few instructions. Tasks wait in one `select!` whose
//! branches are cancel-safe: a reply, a command, a deadline. They end with the [`Mesh`]; what their sinks were told stays
//! told then, since a process that ends takes nothing down. A task that panics reads no more, says so in the status, and
//! waits for the end of its file.

mod board;
mod cilium;
mod reservations;
mod status;
mod supervisor;
mod task;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use causeway_mesh_schema::{ClusterId, ClusterName};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::board::Board;
pub use self::status::{CertificateStatus, FailureStatus, KindStatus, RemoteStatus};
use crate::change::Sink;
use crate::directory::FileProblem;
use crate::settings::Settings;

/// How a process reads its mesh.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--clustermesh-config`: a file per remote cluster.
    pub directory: PathBuf,
    /// Our own cluster's; a file of that name is ignored.
    pub name: ClusterName,
    /// Our own cluster's number; `None` where it has none (0). No remote cluster may have it.
    pub id: Option<ClusterId>,
    /// `--clustermesh-sync-timeout`: how long [`Mesh::synced`] waits.
    pub sync_timeout: Duration,
    pub settings: Settings,
}

impl Options {
    /// With Cilium's defaults.
    #[must_use]
    pub fn new(directory: PathBuf, name: ClusterName, id: Option<ClusterId>) -> Options {
        Options { directory, name, id, sync_timeout: Duration::from_secs(60), settings: Settings::default() }
    }
}

/// The running readers. Dropped, they end without a word to their sinks.
#[derive(Debug)]
pub struct Mesh {
    board: Arc<Board>,
    sync_timeout: Duration,
    supervisor: JoinHandle<()>,
}

impl Mesh {
    /// Starts. `factory` makes the sink of a cluster when its file appears, and again if it appears again after it was
    /// removed; by then the former sink has been told [`Change::Forget`](crate::Change::Forget), unless it never was told
    /// anything. Must be called inside a tokio runtime.
    #[must_use]
    pub fn spawn(options: Options, factory: impl FnMut(&ClusterName) -> Box<dyn Sink> + Send + 'static) -> Mesh {
        let board = Arc::new(Board::new(options.name.clone(), options.id));
        let sync_timeout = options.sync_timeout;
        let supervisor = tokio::spawn(supervisor::run(options, Arc::clone(&board), Box::new(factory)));
        Mesh { board, sync_timeout, supervisor }
    }

    /// All remote clusters, by name. Reads their certificates' files.
    #[must_use]
    pub fn status(&self) -> Vec<RemoteStatus> {
        self.board.status()
    }

    /// Files of the directory that cannot be used.
    #[must_use]
    pub fn problems(&self) -> Vec<FileProblem> {
        self.board.problems()
    }

    /// Wakes when [`Mesh::status`] says something else than counts and ages.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.board.changes()
    }

    /// Waits until every cluster that the directory named at first has been read in full once, at most for the time of
    /// the options. False if that time passed first; it goes on without those that are missing then.
    pub async fn synced(&self) -> bool {
        let mut changes = self.board.changes();
        let all = async {
            while !self.board.is_synced() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(self.sync_timeout, all).await.is_ok()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}
