//! Typed keyed tables and a generic reconciler: the shape of the agent.
//!
//! - [`Table`] holds rows by key, counts revisions, and answers "which keys changed since revision R", deletions
//!   included. No I/O, no clock.
//! - [`Shared`] is a table that one task writes and others read and wait for.
//! - [`Reconciler`] drives something real towards a table of desired rows, one key at a time: a pure plan per key,
//!   retries with back-off, and no pruning before the inputs have synced. No I/O, no clock: `now` is an argument.
//! - [`drive`] is the tokio shell around a reconciler and an [`Apply`].
//!
//! This crate knows nothing of what the rows mean.

mod drive;
mod reconciler;
mod shared;
mod table;

pub use drive::{Apply, Driver};
pub use reconciler::{Action, Backoff, Counts, Policy, Realised, Reconciler, RowStatus};
pub use shared::{Reader, Shared};
pub use table::{Changes, MAX_TOMBSTONES, Revision, Row, Table};
