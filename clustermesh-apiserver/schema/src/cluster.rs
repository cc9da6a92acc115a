//! Clusters' names and numbers, and which identities a number owns.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// A cluster's name: at most 32 characters of `a-z0-9-`, no dash at either end (Cilium `ValidateClusterName`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ClusterName(Box<str>);

/// Why a text is no cluster name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no cluster name; use at most 32 of a-z, 0-9 and inner dashes")]
pub struct BadName(pub String);

impl ClusterName {
    /// Longest name, in bytes.
    pub const MAX: usize = 32;

    /// # Errors
    /// The text is not a cluster name.
    pub fn parse(text: &str) -> Result<ClusterName, BadName> {
        let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let bytes = text.as_bytes();
        let inner = !text.starts_with('-') && !text.ends_with('-');
        if bytes.is_empty() || bytes.len() > Self::MAX || !inner || !bytes.iter().copied().all(good) {
            return Err(BadName(text.to_owned()));
        }
        Ok(ClusterName(text.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for ClusterName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<ClusterName, BadName> {
        ClusterName::parse(text)
    }
}

impl<'de> Deserialize<'de> for ClusterName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        ClusterName::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A cluster's number in a mesh: 1 to 255, or to 511 where the mesh is extended. 0 means "no mesh" and is no `ClusterId`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct ClusterId(u16);

/// Why a number is no cluster id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{number} is no cluster id; use 1 to {max}")]
pub struct BadId {
    pub number: u32,
    pub max: u16,
}

impl ClusterId {
    /// # Errors
    /// Zero, or larger than the mesh allows.
    pub fn new(number: u32, scale: Scale) -> Result<ClusterId, BadId> {
        match u16::try_from(number) {
            Ok(id) if id != 0 && id <= scale.max_clusters() => Ok(ClusterId(id)),
            _ => Err(BadId { number, max: scale.max_clusters() }),
        }
    }

    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u32> for ClusterId {
    type Error = BadId;

    fn try_from(number: u32) -> Result<ClusterId, BadId> {
        ClusterId::new(number, Scale::C511)
    }
}

impl From<ClusterId> for u32 {
    fn from(id: ClusterId) -> u32 {
        u32::from(id.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many clusters a mesh may have (`--max-connected-clusters`); equal in all of them, since it splits the numbers of
/// identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scale {
    #[default]
    C255,
    C511,
}

impl Scale {
    #[must_use]
    pub fn max_clusters(self) -> u16 {
        match self {
            Scale::C255 => 255,
            Scale::C511 => 511,
        }
    }

    #[must_use]
    pub fn from_max(max: u32) -> Option<Scale> {
        match max {
            255 => Some(Scale::C255),
            511 => Some(Scale::C511),
            _ => None,
        }
    }

    /// Bits of an identity that count within one cluster: 16 or 15 (Cilium `GetClusterIDShift`).
    #[must_use]
    pub fn shift(self) -> u32 {
        match self {
            Scale::C255 => 16,
            Scale::C511 => 15,
        }
    }

    /// The identities that a cluster may hand out. Cluster 0 (`None`) begins above the reserved ones.
    #[must_use]
    pub fn identities(self, cluster: Option<ClusterId>) -> RangeInclusive<u32> {
        match cluster {
            None => 256..=(1 << self.shift()) - 1,
            Some(id) => {
                let first = u32::from(id) << self.shift();
                first..=first + (1 << self.shift()) - 1
            }
        }
    }
}

/// Whose entries are read, and what they must agree with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub name: ClusterName,
    pub id: ClusterId,
    pub scale: Scale,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "c1", "east-1", &"x".repeat(32)] {
            assert_eq!(ClusterName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a b", "ä", &"x".repeat(33)] {
            assert!(ClusterName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbers_own_identities() {
        let id = |n, scale| ClusterId::new(n, scale).unwrap();
        assert_eq!(Scale::C255.identities(Some(id(1, Scale::C255))), 65_536..=131_071);
        assert_eq!(Scale::C255.identities(Some(id(255, Scale::C255))), 16_711_680..=16_777_215);
        assert_eq!(Scale::C511.identities(Some(id(511, Scale::C511))), 16_744_448..=16_777_215);
        assert_eq!(Scale::C511.identities(None), 256..=32_767);
        assert!(ClusterId::new(0, Scale::C511).is_err());
        assert!(ClusterId::new(256, Scale::C255).is_err());
        assert!(ClusterId::new(512, Scale::C511).is_err());
        assert!(ClusterId::new(u32::MAX, Scale::C511).is_err());
    }
}
