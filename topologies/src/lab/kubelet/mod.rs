//! The kubelet role.
use std::path::PathBuf;
use serde::{Deserialize, Serialize};
use crate::process::ProcessId;
#[derive(clap::Args)]
pub(crate) struct Options {}
pub(crate) fn run(_: Options) -> anyhow::Result<()> { Ok(()) }
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) netns: PathBuf,
    pub(crate) host_network: bool,
    pub(crate) containers: Vec<ProcessId>,
}
impl PodRecord { pub fn processes(&self) -> Vec<ProcessId> { self.containers.clone() } }
