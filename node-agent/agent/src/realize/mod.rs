//! Makes desired rows real: in the datapath's maps, at the BGP speaker, in Kubernetes, and in pods' namespaces.

pub(crate) mod netlink;
pub(crate) mod pod;
