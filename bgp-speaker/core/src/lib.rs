//! The BGP speaker without its sockets: sessions, routes to announce, graceful restart.
#![forbid(unsafe_code)]

mod config;
mod status;

pub use causeway_bgp_wire::{Asn, Community, Family, LargeCommunity, Prefix};
pub use config::{
    BGP_PORT, DEFAULT_CONNECT_RETRY_S, DEFAULT_HOLD_TIME_S, DEFAULT_KEEPALIVE_S, InstanceConfig, PeerConfig, RouteAttrs,
    RouteSet, Secret,
};
pub use status::{
    Counters, FamilyStatus, InstanceStatus, NegotiatedStatus, NotificationStatus, PeerStatus, SessionState,
    SpeakerStatus,
};
