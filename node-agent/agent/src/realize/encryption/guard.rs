//! The datapath's guard: which ranges may only be reached, and only speak, inside the tunnel.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::control::encryption::Guarded;

/// Rows of the guard, and the device that counts as inside. Rows outlive the process.
pub(crate) trait Guard: Send + Sync {
    fn rows(&self) -> Result<BTreeMap<IpNet, Guarded>, String>;
    fn set(&self, prefix: IpNet, row: Guarded) -> Result<(), String>;
    fn delete(&self, prefix: IpNet) -> Result<(), String>;
    /// What comes out of this interface was encrypted.
    fn attach(&self, ifindex: u32) -> Result<(), String>;
}
