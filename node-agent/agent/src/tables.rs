//! The agent's tables by name. `intent` and `cni` fill the first group, `control` the second, `realize` reads it.

use causeway_api::cni::Attachment;
use causeway_table::Shared;

use crate::intent;

/// Handles of all tables; clones name the same tables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    /// Pods attached to this node, written by `cni`.
    pub(crate) endpoints: Shared<Attachment, intent::endpoint::LocalEndpoint>,
}
