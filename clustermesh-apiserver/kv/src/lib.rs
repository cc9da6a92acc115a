//! A key-value store with revisions, watches and leases, as etcd v3 has them.
//!
//! - [`op`]: operations and replies. Everything above speaks only these words.
//! - [`follow`], [`publish`]: sans-I/O machines. One reads a prefix for ever (list by pages, watch, list again after a
//!   compaction); the other keeps a set of keys written under leases. `now` is an argument.
//! - [`session`]: the shell: one connection to a real etcd with TLS by rustls, answering operations.
//! - [`publisher`]: the shell of `publish`, over a session.
//! - [`admin`]: users, roles and the health of a store, for those who set it up.
//! - [`backoff`], [`clock`]: how long to wait before the next try; what time it is, as an argument and as a text.
//! - [`twin`]: a store in memory that answers the same operations, for tests and simulations.
//!
//! This crate knows nothing of what keys and values mean.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test's helpers may panic"))]

pub mod admin;
pub mod backoff;
pub mod clock;
pub mod follow;
pub mod op;
pub mod publish;
pub mod publisher;
pub mod session;
pub mod twin;

pub use backoff::Backoff;
pub use clock::{Now, rfc3339};
pub use follow::{Follow, FollowOut, Told};
pub use op::{Entry, Event, Failure, FailureKind, LeaseId, Op, Outcome, Reply, Revision, Ticket, Write};
pub use publish::{Group, GroupId, GroupStats, Heartbeat, Publish, Settings, Stats};
pub use publisher::Publisher;
pub use session::{Connect, HostAlias, Link, Session, SessionStatus, TlsFiles, certificate_expiry};
pub use twin::{SessionId, Twin};
