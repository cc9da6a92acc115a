//! The words of Kubernetes that Causeway reads and writes: the `cilium.io` kinds and those of the Multi-Cluster Services
//! API with their schemas, annotation and label names, label selectors, checked forms of each object, and a watch that one bad object cannot stop.
//!
//! Not here: what to do about any of it. The agent and the operator decide; this crate only reads and writes.

pub mod checked;
pub mod cilium;
pub mod client;
pub mod condition;
pub mod crds;
pub mod global;
pub mod mcs;
pub mod names;
pub mod rejected;
mod resource;
pub mod selector;
pub mod watch;

pub use cilium::bgp_advert::{
    BgpAdvertisement, BgpAttributes, BgpCommunities, CiliumBGPAdvertisement, CiliumBGPAdvertisementSpec,
    InterfaceOptions, ServiceOptions,
};
pub use cilium::bgp_cluster::{
    AutoDiscovery, CiliumBGPClusterConfig, CiliumBGPClusterConfigSpec, CiliumBGPClusterConfigStatus, CiliumBGPInstance,
    CiliumBGPPeer, DefaultGateway, PeerConfigReference,
};
pub use cilium::bgp_node::{
    CiliumBGPNodeConfig, CiliumBGPNodeConfigOverride, CiliumBGPNodeConfigOverrideSpec, CiliumBGPNodeConfigSpec,
    CiliumBGPNodeConfigStatus, CiliumBGPNodeInstance, CiliumBGPNodePeer, InstanceOverride, InstanceStatus,
    PeerOverride, PeerStatus, RouteCount, TimersState,
};
pub use cilium::bgp_peer::{
    CiliumBGPPeerConfig, CiliumBGPPeerConfigSpec, CiliumBGPPeerConfigStatus, FamilyWithAdverts, GracefulRestart,
    Timers, Transport,
};
pub use cilium::endpoint::{
    AddressPair, CiliumEndpoint, CiliumEndpointStatus, EndpointIdentity, EndpointNetworking, EndpointPolicy,
    EndpointPolicyDirection, ExternalIdentifiers, IdentityTuple, NamedPort,
};
pub use cilium::endpoint_outline::CiliumEndpointOutline;
pub use cilium::endpoint_slice::{CiliumEndpointSlice, CoreCiliumEndpoint};
pub use cilium::identity::CiliumIdentity;
pub use cilium::lb_pool::{
    CiliumLoadBalancerIPPool, CiliumLoadBalancerIPPoolSpec, CiliumLoadBalancerIPPoolStatus, IpBlock,
};
pub use cilium::node::{
    CiliumNode, CiliumNodeSpec, CiliumNodeStatus, EncryptionSpec, FamilyAddresses, IpamPoolAllocation, IpamPools,
    IpamSpec, NodeAddress,
};
pub use crds::{crds, mcs_crds};
pub use mcs::export::{ServiceExport, ServiceExportSpec, ServiceExportStatus};
pub use mcs::import::{
    ClientIpConfig, ClusterStatus, ImportPort, ServiceImport, ServiceImportSpec, ServiceImportStatus,
    SessionAffinityConfig,
};
pub use rejected::Rejected;
pub use selector::{LabelSelector, Requirement, Selector};
pub use watch::{Event, watch_lenient};

/// The API group of Cilium's kinds.
pub const GROUP: &str = "cilium.io";
/// The stored version of Cilium's kinds, except CiliumEndpointSlice.
pub const VERSION: &str = "v2";
