//! Health as the CLI shows it.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub node: String,
    pub cluster: String,
    pub version: String,
    pub uptime_s: u64,
    /// All components are [`Health::Ok`] or [`Health::Disabled`].
    pub healthy: bool,
    pub components: Vec<Component>,
    /// What this kernel can do, as found at start.
    pub probes: Vec<Probe>,
    pub tables: Vec<Table>,
    /// Kubernetes objects that were not understood; the rest goes on without them.
    pub rejected: Vec<Rejected>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Ok,
    /// Works with what it has; something needs a look.
    Degraded,
    Failed,
    Starting,
    Disabled,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    pub name: String,
    pub health: Health,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub name: String,
    pub ok: bool,
    pub message: String,
}

/// One of the agent's tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    pub name: String,
    pub rows: usize,
    pub revision: u64,
    /// Its inputs have been read completely at least once.
    pub synced: bool,
    /// Rows that are not yet realised; 0 in intent tables.
    pub pending: usize,
    /// Rows whose last attempt failed.
    pub failed: usize,
    /// One of the failures.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rejected {
    pub kind: String,
    /// `namespace/name`, or `name`.
    pub name: String,
    /// Path of the field within the object, as far as known.
    pub field: String,
    pub message: String,
    pub remedy: String,
}
