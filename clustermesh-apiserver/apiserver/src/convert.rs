//! From Kubernetes objects to the mesh's words, one file a kind. Pure.
//!
//! A field that cannot be used is left out and named; the rest of the object is told all the same, because half a node
//! is worth more to a peer than none. Not here: whether anything is published (`export`).

pub(crate) mod endpoint;
pub(crate) mod identity;
pub(crate) mod node;
pub(crate) mod service;
pub(crate) mod slice;

use causeway_k8s::rejected::Fault;
use causeway_mesh_schema::{ClusterId, ClusterName};

/// Whose words these are.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) name: ClusterName,
    pub(crate) id: ClusterId,
}

/// A value, and the fields of the object that were left out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Converted<T> {
    pub(crate) value: T,
    pub(crate) faults: Vec<Fault>,
}

/// Reads the field, or names it.
fn read<T: std::str::FromStr>(faults: &mut Vec<Fault>, field: impl FnOnce() -> String, text: &str) -> Option<T>
where
    T::Err: std::fmt::Display,
{
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            faults.push(Fault::new(field(), format!("{text:?}: {error}"), "correct it; until then it is not exported"));
            None
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn home() -> Home {
        Home { name: ClusterName::parse("cluster3").unwrap(), id: ClusterId::try_from(3).unwrap() }
    }

    /// An object from YAML.
    pub(crate) fn object<T: serde::de::DeserializeOwned>(yaml: &str) -> T {
        serde_yaml_ng::from_str(yaml).unwrap_or_else(|error| panic!("{error}: {yaml}"))
    }
}
