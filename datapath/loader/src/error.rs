//! Errors, by what the caller can do about them.

use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's input cannot be represented; repeating does not help.
    #[error("{what}: {why}")]
    Invalid { what: String, why: String },
    /// A map has no room; other rows are unaffected.
    #[error("map {map} is full ({limit} rows) while {doing}; raise {option} and restart the agent")]
    Full { map: &'static str, limit: u32, option: &'static str, doing: String },
    /// The interface is gone; its pod probably too.
    #[error("{doing}: interface {ifindex} does not exist in this network namespace")]
    NoInterface { doing: &'static str, ifindex: u32 },
    /// The pin directory cannot be used.
    #[error("{doing} {path}: {source}; is a BPF filesystem mounted there? (mount -t bpf bpf /sys/fs/bpf)",
        path = path.display())]
    Pin { doing: &'static str, path: PathBuf, source: std::io::Error },
    /// This program was built without the eBPF object.
    #[error("the eBPF programs are not built in (AYA_BUILD_SKIP was set during the build); build again without it")]
    NoObject,
    /// Another process works on the same pins.
    #[error("another process (pid {pid}) holds the datapath at {path}; stop it first", path = path.display())]
    Busy { path: PathBuf, pid: String },
    /// The kernel refused. `source` carries the verifier's log when a program was refused.
    #[error("{doing}: {source}")]
    Kernel { doing: String, source: Box<dyn std::error::Error + Send + Sync> },
}

impl Error {
    pub(crate) fn kernel(doing: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Kernel { doing: doing.into(), source: source.into() }
    }
}
