//! The kinds of the Multi-Cluster Services API (KEP-1645, `multicluster.x-k8s.io/v1alpha1`) as they stand on the wire.
//!
//! These are shapes, not checked values; the operator decides what they mean.
#![allow(unreachable_pub, reason = "kube's KubeSchema derive repeats each struct inside a function")]

pub mod export;
pub mod import;
pub mod offer;

/// The API group of both kinds.
pub const GROUP: &str = "multicluster.x-k8s.io";
/// The stored version of both kinds.
pub const VERSION: &str = "v1alpha1";
