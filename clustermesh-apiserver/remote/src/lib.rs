//! Other clusters, as read from their etcd: when to connect, what to believe, when to forget.
//!
//! - `core`: one remote cluster, sans-I/O: connect, heartbeat, cluster-config, cluster-ID reservation, canaries, one
//!   list-and-watch per kind, stages of silence. Driven with operations and replies of `causeway-mesh-kv`.
//! - `directory`: `/var/lib/cilium/clustermesh`, a file per remote cluster, read live.
//! - `mesh`: the tokio shell: a task per remote cluster, ID reservation among them, and their status.
//!
//! Driven by the agent (into its tables), by the operator (service exports, slices) and by kvstoremesh (copies). Values
//! pass through as bytes: who wants them typed calls `causeway_mesh_schema::read`.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's helpers may panic"))]

pub mod change;
pub mod core;
pub mod directory;
pub mod mesh;
mod settings;
mod silence;
mod tally;

pub use change::{Change, RemoteInfo, Sink, Stage};
pub use mesh::{KindStatus, Mesh, Options, RemoteStatus};
pub use settings::{BackoffBounds, BadMode, ServiceMode, Settings, StageAfter};
pub use tally::{Checksum, Tally};
