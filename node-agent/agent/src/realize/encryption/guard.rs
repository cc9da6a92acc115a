//! The datapath's guard: which ranges may only be reached, and only speak, inside the tunnel.

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_datapath_loader::{Datapath, EncryptEntry};
use ipnet::IpNet;

/// Rows of the guard, and the device that counts as inside. Rows outlive the process.
pub(crate) trait Guard: Send + Sync {
    fn rows(&self) -> Result<BTreeMap<IpNet, EncryptEntry>, String>;
    fn set(&self, prefix: IpNet, row: EncryptEntry) -> Result<(), String>;
    fn delete(&self, prefix: IpNet) -> Result<(), String>;
    /// What comes out of this interface was encrypted.
    fn attach(&self, ifindex: u32) -> Result<(), String>;
}

/// The datapath's.
pub(crate) struct Maps(pub(crate) Arc<dyn Datapath>);

impl Guard for Maps {
    fn rows(&self) -> Result<BTreeMap<IpNet, EncryptEntry>, String> {
        self.0.encrypt().map_err(|error| error.to_string())
    }

    fn set(&self, prefix: IpNet, row: EncryptEntry) -> Result<(), String> {
        self.0.upsert_encrypt(prefix, row).map(drop).map_err(|error| error.to_string())
    }

    fn delete(&self, prefix: IpNet) -> Result<(), String> {
        self.0.delete_encrypt(prefix).map(drop).map_err(|error| error.to_string())
    }

    fn attach(&self, ifindex: u32) -> Result<(), String> {
        self.0.attach_wireguard(ifindex).map_err(|error| error.to_string())
    }
}
