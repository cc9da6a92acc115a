//! How a node tells its keys.
//!
//! `network.cilium.io/wg-pub-key` carries the current key alone, and Cilium's nodes read nothing else. A second annotation
//! of ours, [`Announcement::ANNOTATION`], carries all keys that the node answers to, newest last, so that nodes that know
//! it are warm on the next key before it becomes the current one.

use serde::{Deserialize, Serialize};

use crate::key::{KeyError, PublicKey};

/// Keys that one announcement may name: the one before, the current one, the next.
const MAX_KEYS: usize = 3;

#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    #[error("annotation network.cilium.io/wg-pub-key: {0}")]
    Key(#[from] KeyError),
    #[error("annotation network.causeway.io/wg-pub-keys: {0}")]
    Json(#[from] serde_json::Error),
    #[error("annotation network.causeway.io/wg-pub-keys: {0} keys, at most {MAX_KEYS} are meant")]
    TooMany(usize),
    #[error("annotation network.causeway.io/wg-pub-keys: epochs must rise from key to key")]
    Epochs,
    #[error("annotation network.causeway.io/wg-pub-keys: one key stands there twice")]
    Twice,
}

/// A public key and its number; numbers of one node only rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EpochKey {
    pub epoch: u32,
    pub key: PublicKey,
}

/// What a node says of its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// What Cilium's nodes use.
    pub current: PublicKey,
    /// All keys that the node answers to, epochs rising; empty from a node that knows no epochs.
    pub keys: Vec<EpochKey>,
}

impl Announcement {
    pub const CILIUM_ANNOTATION: &'static str = "network.cilium.io/wg-pub-key";
    pub const ANNOTATION: &'static str = "network.causeway.io/wg-pub-keys";

    /// From the two annotations. The second counts only if it names the first's key: an old one that somebody else's agent
    /// left behind is ignored.
    pub fn parse(current: &str, keys: Option<&str>) -> Result<Self, AnnounceError> {
        let current = current.parse()?;
        let keys: Vec<EpochKey> = keys.map(serde_json::from_str).transpose()?.unwrap_or_default();
        if keys.len() > MAX_KEYS {
            return Err(AnnounceError::TooMany(keys.len()));
        }
        if !keys.is_sorted_by(|a, b| a.epoch < b.epoch) {
            return Err(AnnounceError::Epochs);
        }
        if (1..keys.len()).any(|i| keys[..i].iter().any(|earlier| earlier.key == keys[i].key)) {
            return Err(AnnounceError::Twice);
        }
        let told = keys.iter().any(|known| known.key == current);
        Ok(Self { current, keys: if told { keys } else { Vec::new() } })
    }

    /// The value of [`Self::ANNOTATION`].
    pub fn to_annotation(&self) -> String {
        serde_json::to_string(&self.keys).expect("numbers and base64 are JSON")
    }

    /// Whether the node takes part in rotation by epochs.
    pub fn knows_epochs(&self) -> bool {
        !self.keys.is_empty()
    }
}
