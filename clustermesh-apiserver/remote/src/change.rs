//! What a remote cluster's reader tells.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use causeway_mesh_kv::Revision;
use causeway_mesh_schema::{ClusterConfig, Kind, Origin};

/// A remote cluster whose configuration has been read and whose number is reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteInfo {
    pub origin: Origin,
    pub config: ClusterConfig,
}

/// A change, in order. Per kind: `Relisting`, every entry that exists as `Put`, `Listed`; then single changes. What was
/// known before `Relisting` and has not been `Put` at `Listed` is gone: the consumer sweeps, so that nobody keeps the
/// keys twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The first thing told, and again when the cluster's configuration changes. Another number than before comes after
    /// [`Change::Forget`].
    Connected(Arc<RemoteInfo>),
    Relisting(Kind),
    /// `name` is what follows the kind's prefix in the key. An unchanged `revision` means an unchanged value, as long as
    /// no `Forget` and no other `store` came between.
    Put {
        kind: Kind,
        name: Box<str>,
        value: Bytes,
        revision: Revision,
        store: u64,
    },
    Deleted {
        kind: Kind,
        name: Box<str>,
        revision: Revision,
    },
    Listed(Kind),
    /// Everything that this cluster ever said is void: its file was removed, or another cluster took its place.
    Forget,
    /// How much its words are still worth.
    Stage(Stage),
}

/// How long nothing has been heard from a cluster. Ordered: later is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// It speaks.
    #[default]
    Fresh,
    /// It has gone silent: shown, nothing else.
    Silent,
    /// Its backends serve only where no others do.
    DePreferred,
    /// Its backends serve only while they answer probes.
    Probed,
    /// Its backends are dropped unless they answer probes and nobody else serves.
    Revoked,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Fresh => "fresh",
            Stage::Silent => "silent",
            Stage::DePreferred => "de-preferred",
            Stage::Probed => "probed",
            Stage::Revoked => "revoked",
        })
    }
}

/// Takes the changes of one remote cluster. Called from that cluster's task: keep it short, never block.
pub trait Sink: Send + 'static {
    fn apply(&mut self, change: Change);
}

impl<F: FnMut(Change) + Send + 'static> Sink for F {
    fn apply(&mut self, change: Change) {
        self(change);
    }
}
