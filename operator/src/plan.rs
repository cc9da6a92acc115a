//! Planners: pure functions from what the watches have shown to what should be changed. No clock, no network; the time
//! is an argument. `apply` carries the changes out.

pub(crate) mod bgp;
pub(crate) mod identity_gc;
pub(crate) mod lb_ipam;
pub(crate) mod lb_service;
pub(crate) mod lb_status;
pub(crate) mod mcs;
pub(crate) mod pod_cidr;
pub(crate) mod slices;

use causeway_k8s::watch::Key;
use k8s_openapi::api::core::v1::Service;
use kube::{Resource, ResourceExt};

/// The IP families, in the words of Services and EndpointSlices.
const IPV4: &str = "IPv4";
const IPV6: &str = "IPv6";

/// A change of a whole object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Write<K> {
    Create(K),
    /// In place of the version that it names.
    Replace(K),
    /// Of the object that was seen, not of one of the same name that came after it.
    Delete {
        key: Key,
        uid: Option<String>,
        resource_version: Option<String>,
    },
}

impl<K: Resource> Write<K> {
    pub(crate) fn delete(object: &K) -> Write<K> {
        Write::Delete { key: Key::of(object), uid: object.uid(), resource_version: object.resource_version() }
    }

    /// The object that it writes.
    #[cfg(test)]
    pub(crate) fn object(&self) -> Option<&K> {
        match self {
            Write::Create(object) | Write::Replace(object) => Some(object),
            Write::Delete { .. } => None,
        }
    }
}

/// Whether what is in a namespace takes part in the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Space {
    /// It does not exist, or is going: nothing can be made in it.
    #[default]
    Absent,
    Local,
    Global,
}

/// Whether its names answer with the addresses of its pods.
fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}
