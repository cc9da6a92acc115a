//! What is written down of a pod, so that another kubelet process (or `down`) finds it again.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::process::ProcessId;
use crate::state::write_whole;

/// In a pod's directory: what its containers see as `/etc/resolv.conf`.
pub(crate) const RESOLV_CONF: &str = "resolv.conf";

/// One file in the node's `pods` directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) netns: PathBuf,
    pub(crate) host_network: bool,
    /// The container id that CNI knows.
    pub(crate) sandbox: String,
    /// What ADD returned; `None` until it has.
    pub(crate) cni_result: Option<Value>,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) started: String,
    pub(crate) containers: Vec<ContainerRecord>,
}

/// A container that was started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) name: String,
    pub(crate) init: bool,
    pub(crate) restarts: i32,
    pub(crate) run: Run,
}

/// How its last run went.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Run {
    Running { process: ProcessId, started: String },
    Ended { code: i32, started: String, finished: String },
}

impl PodRecord {
    /// Its processes, as far as they were written down.
    pub(crate) fn processes(&self) -> Vec<ProcessId> {
        let running = |container: &ContainerRecord| match container.run {
            Run::Running { process, .. } => Some(process),
            Run::Ended { .. } => None,
        };
        self.containers.iter().filter_map(running).collect()
    }

    /// Its logs, its `resolv.conf`, and its working directory where it names none; `pods` is the node's directory of pods.
    pub(crate) fn dir(&self, pods: &Path) -> PathBuf {
        pods.join(format!("{}_{}", self.namespace, self.name))
    }

    pub(crate) fn save(&self, dir: &Path) -> Result<()> {
        write_whole(&self.path(dir), &serde_json::to_vec_pretty(self)?, 0o644)
    }

    pub(crate) fn remove(&self, dir: &Path) {
        let _ = std::fs::remove_file(self.path(dir));
    }

    fn path(&self, dir: &Path) -> PathBuf {
        let short: String = self.uid.chars().take(8).collect();
        dir.join(format!("{}_{}_{short}.json", self.namespace, self.name))
    }
}
