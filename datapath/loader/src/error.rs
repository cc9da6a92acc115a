//! Errors, by what the caller can do about them.

use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's input cannot be represented; repeating does not help.
    #[error("{what}: {why}")]
    Invalid { what: String, why: String },
    /// A map has no room; other rows are unaffected.
    #[error("map {map} is full ({limit} rows) while {doing}; {remedy}")]
    Full { map: &'static str, limit: u32, remedy: &'static str, doing: String },
    /// The interface is gone; its pod probably too.
    #[error("{doing}: interface {ifindex} does not exist in this network namespace")]
    NoInterface { doing: &'static str, ifindex: u32 },
    /// The pin directory cannot be used.
    #[error("{doing} {path}: {source}; is a BPF filesystem mounted there (mount -t bpf bpf /sys/fs/bpf), and is the path free of dots?",
        path = path.display())]
    Pin { doing: &'static str, path: PathBuf, source: std::io::Error },
    /// This program was built without the eBPF object.
    #[error("the eBPF programs are not built in (AYA_BUILD_SKIP was set during the build); build again without it")]
    NoObject,
    /// Another process works on the same pins.
    #[error("another process holds the datapath at {path}; stop it first", path = path.display())]
    Busy { path: PathBuf },
    /// The kernel refused. `reason` carries the verifier's log when a program was refused.
    #[error("{doing}: {reason}")]
    Kernel { doing: String, reason: String },
}

impl Error {
    pub(crate) fn kernel(
        doing: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::Kernel { doing: doing.into(), reason: chain(source.into().as_ref()) }
    }
}

/// An error with its causes, which aya keeps out of its own text.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
