//! The user side of the datapath: loads and attaches the eBPF programs, and keeps their maps.
//!
//! [`Datapath`] is what the rest of the agent sees: maps as reconcile targets (upsert, delete, list), interfaces to
//! attach to, counters and flows to read. [`Kernel`] does it with pinned maps and links, [`Fake`] in memory for tests.
//! All calls are synchronous, take microseconds (the flow calls: milliseconds) and may come from any thread.
//!
//! This crate decides nothing: which services exist, who is an endpoint and when a flow is obsolete are the agent's
//! business; what a packet becomes is the programs'.

pub mod convert;
mod error;
mod fake;
mod kernel;
pub mod plan;
mod sys;
mod types;

use std::collections::BTreeMap;
use std::net::IpAddr;

pub use error::{Error, Result};
pub use fake::Fake;
use ipnet::IpNet;
pub use kernel::{Kernel, MapSize, Options, object};
pub use types::{
    AttachedLink, Backend, CounterReading, EncryptEntry, Endpoint, Feature, FlowRow, Frontend, GcStats, Hook,
    IpcacheEntry, LbService, MapUsage, Proto, Tuple,
};

/// Everything the agent asks of the datapath.
///
/// Upserts and deletes answer whether they changed anything; repeating one is free and harmless. When a call returns
/// `Ok`, the next packet sees the new state. State outlives the process: after a restart the lists show what an earlier
/// process wrote, and the programs go on using it.
pub trait Datapath: Send + Sync {
    /// Makes `frontend` lead to the service's backends, all at once: no packet sees a mixture of old and new backends.
    /// The order of backends does not matter. An empty list is legal: packets are refused as `service-backend-not-found`.
    fn upsert_service(&self, frontend: Frontend, service: &LbService) -> Result<bool>;
    /// Forgets a frontend. When it was the last one of its address, the address stops being a service's.
    fn delete_service(&self, frontend: Frontend) -> Result<bool>;
    /// The services as the maps hold them, backends in the maps' order (local first, then by address).
    fn services(&self) -> Result<BTreeMap<Frontend, LbService>>;

    fn upsert_ipcache(&self, prefix: IpNet, entry: IpcacheEntry) -> Result<bool>;
    fn delete_ipcache(&self, prefix: IpNet) -> Result<bool>;
    fn ipcache(&self) -> Result<BTreeMap<IpNet, IpcacheEntry>>;

    /// Says whose a prefix is for encryption. Of no account unless the programs were loaded with `config_flag::ENCRYPT`.
    fn upsert_encrypt(&self, prefix: IpNet, entry: EncryptEntry) -> Result<bool>;
    fn delete_encrypt(&self, prefix: IpNet) -> Result<bool>;
    fn encrypt(&self) -> Result<BTreeMap<IpNet, EncryptEntry>>;

    /// Makes `addr` a pod of this node. One row per address.
    fn upsert_endpoint(&self, addr: IpAddr, endpoint: Endpoint) -> Result<bool>;
    fn delete_endpoint(&self, addr: IpAddr) -> Result<bool>;
    fn endpoints(&self) -> Result<BTreeMap<IpAddr, Endpoint>>;

    /// Attaches the pod programs to the host side of a pod's veth. If an earlier process attached them, the programs
    /// are replaced in place, without a packet passing unseen.
    fn attach_pod(&self, ifindex: u32) -> Result<()>;
    /// Attaches the programs for packets from the wire and to it, likewise.
    fn attach_uplink(&self, ifindex: u32) -> Result<()>;
    /// Attaches the program for decrypted packets to the WireGuard device, likewise. Made for devices without link-layer
    /// headers (`ARPHRD_NONE`); on another one every packet would be misread.
    fn attach_wireguard(&self, ifindex: u32) -> Result<()>;
    /// Detaches all of our programs from the interface; answers whether there were any.
    fn detach(&self, ifindex: u32) -> Result<bool>;
    /// What is attached where, including links whose interface has vanished.
    fn attached(&self) -> Result<Vec<AttachedLink>>;
    /// Removes the links of vanished interfaces and returns them.
    fn prune_links(&self) -> Result<Vec<AttachedLink>>;

    /// All counters, summed over CPUs, in the order of their numbers. They start at zero with the maps, not the process.
    fn counters(&self) -> Result<Vec<CounterReading>>;

    /// At most `limit` rows of the flow table, in no order.
    fn flows(&self, limit: usize) -> Result<Vec<FlowRow>>;
    /// Deletes the rows that expired before `now_s` (seconds of CLOCK_BOOTTIME). Takes the locks of the table only
    /// for short batches.
    fn collect_flows(&self, now_s: u32) -> Result<GcStats>;
    /// Deletes the rows for which `obsolete` is true, for instance UDP flows to a backend that is gone.
    fn delete_flows(&self, obsolete: &dyn Fn(&FlowRow) -> bool) -> Result<usize>;

    /// Rows and limits of the maps that can fill up.
    fn usage(&self) -> Result<Vec<MapUsage>>;
    /// What the running kernel offers, found out at start.
    fn features(&self) -> Vec<Feature>;
}

/// Seconds of CLOCK_BOOTTIME, the clock of [`FlowRow::expires_s`].
pub fn boot_time_s() -> u32 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[allow(unsafe_code, reason = "clock_gettime has no safe form in std for this clock")]
    // SAFETY: `now` is a valid timespec that outlives the call; the call writes nothing else.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    if rc != 0 { 0 } else { u32::try_from(now.tv_sec).unwrap_or(u32::MAX) }
}
