//! An object that we cannot use: which one, which field, why, and what to do. It is shown in logs, in conditions and by
//! `causeway status`; the other objects go on.

use std::fmt;

use kube::Resource;
use serde::Serialize;

/// Why an object is not used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Rejected {
    /// Kind of the object: `CiliumBGPPeerConfig`.
    pub kind: String,
    /// `namespace/name`, or `name` of a kind without namespaces.
    pub object: String,
    /// Path of the field: `spec.bgpInstances[0].peers[1].peerAddress`.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
    /// What to write instead.
    pub remedy: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}: {}; {}", self.kind, self.object, self.field, self.message, self.remedy)
    }
}

impl std::error::Error for Rejected {}

/// A fault in a field, before it is known in which object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub field: String,
    pub message: String,
    pub remedy: String,
}

impl Fault {
    pub fn new(field: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Fault {
        Fault { field: field.into(), message: message.into(), remedy: remedy.into() }
    }

    /// The fault with the object that has it.
    pub fn of<K>(self, object: &K) -> Rejected
    where
        K: Resource<DynamicType = ()>,
    {
        Rejected {
            kind: K::kind(&()).into_owned(),
            object: object_name(object),
            field: self.field,
            message: self.message,
            remedy: self.remedy,
        }
    }
}

/// `namespace/name`, or `name` of an object without a namespace.
pub fn object_name<K: Resource>(object: &K) -> String {
    qualified(object.meta().namespace.as_deref(), object.meta().name.as_deref().unwrap_or_default())
}

pub(crate) fn qualified(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) if !namespace.is_empty() => format!("{namespace}/{name}"),
        _ => name.to_owned(),
    }
}
