//! The BGP speaker without its sockets: sessions, routes to announce, graceful restart.
//!
//! What it is: RFC 4271 section 8 with collision detection, RFC 4724 as the restarting speaker, RFC 8538, RFC 9003,
//! RFC 9687, RFC 2918, RFC 8950, and the way from desired routes to UPDATEs. What it is not: a router. It announces what
//! it is given; what peers announce is counted and not kept, so there is no decision process and no kernel table.
//!
//! [`Core`] has no clock, socket, task or randomness. Its driver calls [`Core::handle`] with the time and an [`Input`],
//! drains [`Core::poll_output`], and comes back at [`Core::deadline`]. Inside, from the outside in: `core` (all peers) ->
//! `peer` (bytes, collisions) -> `session` (states, timers); `export` (routes to bytes) stands beside.
#![forbid(unsafe_code)]

mod config;
mod core;
mod export;
mod io;
mod negotiate;
mod peer;
mod session;
mod status;
mod timing;

pub use crate::core::{Core, CoreOptions};
pub use causeway_bgp_wire::{Asn, Community, Family, LargeCommunity, Prefix};
pub use config::{
    BGP_PORT, DEFAULT_CONNECT_RETRY_S, DEFAULT_HOLD_TIME_S, DEFAULT_KEEPALIVE_S, InstanceConfig, PeerConfig,
    RouteAttrs, RouteSet, Secret,
};
pub use io::{ConnectRequest, Input, Observation, Output};
pub use negotiate::LocalAddresses;
pub use session::{ConnId, Endpoints};
pub use status::{
    Counters, FamilyStatus, InstanceStatus, NegotiatedStatus, NotificationStatus, PeerStatus, SessionState,
    SpeakerStatus,
};
