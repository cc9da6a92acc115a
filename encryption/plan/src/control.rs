//! What is said on the embedded device's control socket: one JSON object a line, an answer to each request in turn.

use serde::{Deserialize, Serialize};

use crate::device::{Change, DeviceSpec, Snapshot};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// Make the device, or give it another MTU. Another name, port, mark or address makes a new device, without peers.
    Ensure(DeviceSpec),
    /// In order, up to the first that does not fit.
    Apply(Vec<Change>),
    Snapshot,
    /// End the device, not the process.
    Delete,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// `ifindex` of the device; `fresh`: it was made just now and holds nothing.
    Ensured {
        ifindex: u32,
        fresh: bool,
    },
    /// All changes.
    Applied,
    Snapshot(Box<Snapshot>),
    Deleted,
    /// What was asked was not done, or, of changes, only the first `applied` of them.
    Failed {
        error: String,
        applied: usize,
    },
}
