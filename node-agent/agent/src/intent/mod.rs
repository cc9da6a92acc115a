//! What is wanted: rows made of Kubernetes objects and of CNI requests, with only the fields that the agent needs.
//!
//! Each kind has a pure reader `object -> row`, or a [`Rejected`] that names object, field and remedy. [`watch`] drives
//! the readers; it is the only part that does I/O.

pub(crate) mod bgp;
pub(crate) mod cilium;
pub(crate) mod endpoint;
pub(crate) mod mesh;
pub(crate) mod node;
pub(crate) mod own_node;
pub(crate) mod pod;
pub(crate) mod service;
pub(crate) mod slice;
pub(crate) mod watch;

use std::time::Instant;

pub(crate) use causeway_k8s::Rejected;
pub(crate) use causeway_k8s::watch::Key;

/// When a row's object arrived. Never a reason to call two rows different.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp(pub(crate) Instant);

impl PartialEq for Stamp {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Stamp {}

impl Stamp {
    pub(crate) fn now() -> Stamp {
        Stamp(Instant::now())
    }
}

/// Reads an object of kind `K` into rows of one table.
pub(crate) trait Read<K> {
    type Key: Ord + Clone + Send + 'static;
    type Row: PartialEq + Send + Sync + 'static;
    /// What the watch is called among the watches, where its kind is watched twice.
    const WATCH: Option<&'static str> = None;

    #[expect(clippy::type_complexity, reason = "a name for it would hide that it is key and row, or neither")]
    /// `Ok(None)`: a good object that is none of ours. The object is consumed, so that strings move instead of copying.
    fn read(&self, key: &Key, object: K) -> Result<Option<(Self::Key, Self::Row)>, Rejected>;

    /// What of the object is left out while the rest of it serves.
    fn warning(&self, _row: &Self::Row) -> Option<Rejected> {
        None
    }
}

/// A rejection of a Kubernetes kind that the `k8s` crate has no checks for.
pub(crate) fn rejected(kind: &str, key: &Key, field: &str, message: impl Into<String>, remedy: &str) -> Rejected {
    Rejected {
        kind: kind.to_owned(),
        object: key.to_string(),
        field: field.to_owned(),
        message: message.into(),
        remedy: remedy.to_owned(),
    }
}
