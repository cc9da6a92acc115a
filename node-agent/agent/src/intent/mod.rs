//! What is wanted: rows made of Kubernetes objects and of CNI requests, with only the fields that the agent needs.

pub(crate) mod endpoint;
