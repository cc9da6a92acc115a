//! The `cilium.io` kinds as they stand on the wire, one file each: field names, defaults and validations are Cilium's,
//! so that manifests and objects written for Cilium work unchanged.
//!
//! These are shapes, not checked values: `checked` turns them into addresses, ASNs and selectors.
#![allow(unreachable_pub, reason = "kube's KubeSchema derive repeats each struct inside a function")]

pub mod bgp_advert;
pub mod bgp_cluster;
pub mod bgp_node;
pub mod bgp_peer;
pub mod endpoint;
pub mod endpoint_outline;
pub mod endpoint_slice;
pub mod identity;
pub mod lb_pool;
pub mod node;
pub(crate) mod patterns;
