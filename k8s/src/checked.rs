//! Checked forms of the kinds: addresses that are addresses, ASNs that are ASNs, selectors that match. Made from the
//! shapes in `cilium` by `TryFrom`, whose error names the object, the field and the remedy.

pub mod bgp;
pub mod lb_pool;
pub mod value;

pub use bgp::{
    Advertisement, AdvertisementEntry, AdvertisementKind, ClusterConfig, Family, FamilyAdverts, Instance, NodeConfig,
    NodeInstance, NodeOverride, NodePeer, Peer, PeerConfig, ServiceAddressType,
};
pub use lb_pool::{Pool, Range};
pub use value::{Asn, PeerAddress};
