//! What cannot be set up, and what to do about it.

/// Names the object and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {problem}; {remedy}")]
pub struct SetupError {
    /// A Secret, a cluster, a flag.
    pub object: String,
    pub problem: String,
    pub remedy: String,
}

impl SetupError {
    pub fn new(object: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> SetupError {
        SetupError { object: object.into(), problem: problem.into(), remedy: remedy.into() }
    }
}
