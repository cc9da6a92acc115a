//! The composition root: builds every part in order and waits for the end.

use std::sync::Arc;

use causeway_datapath_loader::Datapath;

use crate::config::Config;
use crate::tables::Tables;

/// What the parts of the agent share.
pub(crate) struct Agent {
    pub(crate) config: Config,
    pub(crate) tables: Tables,
    pub(crate) datapath: Arc<dyn Datapath>,
}

pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    tracing::info!(node = %config.node_name, "starting");
    Ok(())
}
