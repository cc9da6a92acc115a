//! Planners: pure functions from what the watches have shown to what should be changed. No clock, no network; the time
//! is an argument. `apply` carries the changes out.

pub(crate) mod bgp;
pub(crate) mod identity_gc;
pub(crate) mod lb_ipam;
pub(crate) mod lb_service;
pub(crate) mod lb_status;
pub(crate) mod pod_cidr;
