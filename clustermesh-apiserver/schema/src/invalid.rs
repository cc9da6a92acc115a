//! What is refused, said in a form that can be shown: bounded and without control characters, since half of the words
//! come from another cluster.

/// A key or value that is not what the format says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}; {remedy}")]
pub struct Invalid {
    /// The key, or what else was read.
    pub key: String,
    pub problem: String,
    /// What to do about it, and where.
    pub remedy: String,
}

impl Invalid {
    /// The remedy for what only a wrong writer can have written.
    pub(crate) const WRITER: &str =
        "look at the clustermesh-apiserver that wrote it: its version, and who else can write";

    pub(crate) fn new(key: impl AsRef<str>, problem: impl std::fmt::Display, remedy: &str) -> Invalid {
        let (key, problem) = (clip(key.as_ref()), clip(&format!("{problem}")));
        Invalid { key, problem, remedy: remedy.to_owned() }
    }
}

/// Longest part of a foreign text that is repeated, in characters.
const CLIP: usize = 300;

/// The text with control characters escaped, and cut where it is longer than what one reads.
pub(crate) fn clip(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let mut out: String = text.chars().take(CLIP).map(shown).collect();
    if text.chars().nth(CLIP).is_some() {
        out.push_str("...");
    }
    out
}
