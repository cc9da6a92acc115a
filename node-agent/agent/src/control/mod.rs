//! Pure decisions: from intent rows to desired rows. No I/O, no clock, no await.

pub(crate) mod affinity;
pub(crate) mod bgp;
pub(crate) mod claims;
pub(crate) mod encryption;
pub(crate) mod identity;
pub(crate) mod ipam;
pub(crate) mod ipcache;
pub(crate) mod probe;
pub(crate) mod services;
