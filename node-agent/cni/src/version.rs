//! Versions of the specification.

use std::fmt;

use serde_json::Value;

/// Versions that this plugin speaks. 0.3.0 and older have other results, and nothing asks for them any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub(crate) const ALL: [Version; 4] = [Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];
    pub(crate) const NEWEST: Version = Version::V1_1_0;

    pub(crate) fn parse(text: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|version| version.text() == text)
    }

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        }
    }

    /// All versions with commas, for messages.
    pub(crate) fn list() -> String {
        Version::ALL.map(Version::text).join(", ")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// The version that a configuration asks for, if it can be read so far: errors too are printed in it.
pub(crate) fn asked(stdin: &[u8]) -> Option<Version> {
    let value: Value = serde_json::from_slice(stdin).ok()?;
    Version::parse(value.get("cniVersion")?.as_str()?)
}
