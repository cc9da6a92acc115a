//! WireGuard devices behind one trait, and the keys on disk.
//!
//! [`Device`] is what the agent sees; it calls it from a thread that may block. [`Embedded`] speaks to the process
//! `causeway-wireguard`; [`Fake`] is memory, for tests. Nothing is decided here: what a device shall hold is
//! `causeway_encryption_plan`'s business.

mod embedded;
mod fake;
mod keys;

pub use embedded::Embedded;
pub use fake::Fake;
pub use keys::{KeyFile, KeyFileError};

use causeway_encryption_plan::{Change, DeviceSpec, Snapshot};

/// A device cannot be reached, or did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Nobody answers: the process or the interface is not there. Everything it held must be told again.
    #[error("{0}")]
    Gone(String),
    /// It answered, and refused. Of changes, the first `applied` were carried out.
    #[error("{error}")]
    Refused { error: String, applied: usize },
}

/// What [`Device::ensure`] found or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ensured {
    /// Interface index.
    pub ifindex: u32,
    /// It was made just now and holds nothing.
    pub fresh: bool,
}

/// A WireGuard device of this node. All calls may block.
pub trait Device: Send {
    /// Which kind it is and why this one, for people.
    fn describe(&self) -> String;

    /// How many UDP ports it may listen at: that of the spec and those after it.
    fn ports(&self) -> u16 {
        1
    }

    /// Makes the device, or finds it and gives it another MTU.
    fn ensure(&mut self, spec: &DeviceSpec) -> Result<Ensured, DeviceError>;

    /// In order, up to the first that fails.
    fn apply(&mut self, changes: Vec<Change>) -> Result<(), DeviceError>;

    /// What it holds and what it has seen.
    fn snapshot(&mut self) -> Result<Snapshot, DeviceError>;

    /// Ends the device with everything it holds.
    fn delete(&mut self) -> Result<(), DeviceError>;
}
