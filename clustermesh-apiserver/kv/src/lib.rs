//! A key-value store with revisions, watches and leases, as etcd v3 has them.
//!
//! - [`op`]: operations and replies. Everything above speaks only these words.
//! - `follow`, `publish`: sans-I/O machines. One reads a prefix for ever (list by pages, watch, list again after a
//!   compaction); the other keeps a set of keys written under leases. `now` is an argument.
//! - `session`: the shell: one connection to a real etcd with TLS by rustls, answering operations.
//! - `twin`: a store in memory that answers the same operations, for tests and simulations.
//!
//! This crate knows nothing of what keys and values mean.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's helpers may panic"))]

pub mod op;

pub use op::{Entry, Event, Failure, FailureKind, LeaseId, Op, Outcome, Reply, Revision, Ticket, Write};
