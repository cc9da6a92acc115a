//! `cluster.NAME.FIELD=VALUE`: another value for a field of a topology that has been read.
//!
//! Only fields that tests and people vary between two bring-ups of one topology can be set.

use super::{Encryption, Topology};
use crate::nearest::nearest;

/// What can be set.
const FIELDS: [&str; 3] = ["encryption", "encrypt_node", "encrypt_clusters"];

/// Why a field could not be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    #[error("\"{0}\" is not cluster.NAME.FIELD=VALUE, as in cluster.east.encryption=wireguard")]
    Shape(String),
    #[error("no cluster is named \"{cluster}\"; the clusters are: {known}")]
    Cluster { cluster: String, known: String },
    #[error("cluster.{field} cannot be set{hint}; what can: {}", FIELDS.join(", "))]
    Field { field: String, hint: String },
    #[error("{field}: \"{value}\" {problem}")]
    Value { field: String, value: String, problem: &'static str },
}

impl Topology {
    /// Sets one field, as in `cluster.east.encryption=wireguard`.
    pub fn set(&mut self, assignment: &str) -> Result<(), SetError> {
        let shape = || SetError::Shape(assignment.into());
        let (path, value) = assignment.split_once('=').ok_or_else(shape)?;
        let (name, field) = path.strip_prefix("cluster.").and_then(|rest| rest.split_once('.')).ok_or_else(shape)?;
        let known = || self.clusters.iter().map(|cluster| cluster.name.as_str()).collect::<Vec<_>>().join(", ");
        let unknown = SetError::Cluster { cluster: name.into(), known: known() };
        let cluster = self.clusters.iter_mut().find(|cluster| cluster.name == name).ok_or(unknown)?;
        let refused = |problem| Err(SetError::Value { field: path.into(), value: value.into(), problem });
        match (field, &mut cluster.encryption) {
            ("encryption", encryption) => match Encryption::from_word(value) {
                Some(wanted) => *encryption = wanted,
                None => return refused("is no kind of encryption; use \"wireguard\" or \"none\""),
            },
            ("encrypt_node", Encryption::Wireguard { nodes, .. }) => match value.parse() {
                Ok(wanted) => *nodes = wanted,
                Err(_) => return refused("is neither true nor false"),
            },
            ("encrypt_clusters", Encryption::Wireguard { clusters, .. }) => *clusters = Some(value.into()),
            ("encrypt_node" | "encrypt_clusters", Encryption::None) => {
                return refused("says more about encryption, of which there is none; set encryption=wireguard first");
            }
            (other, _) => {
                let hint = nearest(other, FIELDS).map(|near| format!(", did you mean {near}?")).unwrap_or_default();
                return Err(SetError::Field { field: other.into(), hint });
            }
        }
        Ok(())
    }
}
