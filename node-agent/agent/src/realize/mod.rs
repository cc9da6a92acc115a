//! Makes desired rows real: in the datapath's maps, at the BGP speaker, in Kubernetes, and in pods' namespaces.

pub(crate) mod bgp;
pub(crate) mod bgp_saved;
pub(crate) mod bgp_status;
pub(crate) mod controllers;
pub(crate) mod datapath;
pub(crate) mod encryption;
pub(crate) mod endpoints;
pub(crate) mod hurry;
pub(crate) mod kube_api;
pub(crate) mod mesh;
pub(crate) mod mesh_ips;
pub(crate) mod netlink;
pub(crate) mod node;
pub(crate) mod pod;
pub(crate) mod probe;
