//! EndpointSlices for the remote backends of global Services, so that what reads EndpointSlices (DNS for headless
//! Services, gateways) finds them (`service.cilium.io/global-sync-endpoint-slices`; Cilium `endpointslicesync`). One
//! Service at a time.
//!
//! A slice has the backends of one cluster and says of which. A cluster that is configured and has not told its backends
//! yet may have any; its slices stay as they are. One that has been silent for so long that its backends count as lost
//! (`Stage::Revoked`) keeps them, not ready, as long as others are ready.

mod backends;
mod pack;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use causeway_k8s::global::Global;
use causeway_k8s::names;
use causeway_k8s::watch::Key;
use causeway_mesh_remote::Stage;
use causeway_mesh_schema::{ClusterEndpointSlice, ClusterService};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

use super::{Space, Write, is_headless};

/// What the watches and the mesh show of one Service.
#[derive(Clone, Debug, Default)]
pub(crate) struct View<'a> {
    pub(crate) namespace: Space,
    pub(crate) service: Option<&'a Service>,
    /// All its slices, by whomever.
    pub(crate) slices: Vec<&'a EndpointSlice>,
    pub(crate) remotes: Vec<Remote<'a>>,
    /// Configured clusters that have not told their backends.
    pub(crate) awaited: BTreeSet<&'a str>,
    /// All configured clusters are known by name.
    pub(crate) complete: bool,
}

/// What one cluster says of the Service.
#[derive(Clone, Debug)]
pub(crate) struct Remote<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) stage: Stage,
    pub(crate) words: Words<'a>,
}

/// In which of the two formats.
#[derive(Clone, Debug)]
pub(crate) enum Words<'a> {
    Service(&'a ClusterService),
    Slices(Vec<&'a ClusterEndpointSlice>),
}

/// Decides for the Service `key` and compares with what stands there. `most`: endpoints in a slice.
pub(crate) fn plan(key: &Key, view: &View<'_>, most: usize) -> Vec<Write<EndpointSlice>> {
    if view.namespace == Space::Absent {
        return Vec::new();
    }
    let (ours, others): (Vec<&EndpointSlice>, Vec<&EndpointSlice>) =
        view.slices.iter().copied().partition(|slice| is_ours(slice));
    let held: Vec<&EndpointSlice> = ours.into_iter().filter(|slice| !may_be_awaited(slice, view)).collect();
    let Some(service) = view.service.filter(|service| view.namespace == Space::Global && wants_slices(service)) else {
        return held.into_iter().map(Write::delete).collect();
    };
    let known: Vec<&Remote<'_>> = view.remotes.iter().filter(|remote| !view.awaited.contains(remote.cluster)).collect();
    let groups = backends::groups(&known, service, backends::is_served(&others, &known));
    pack::write(key, service, groups, &held, most)
}

/// Whether the operator wrote it from the words of another cluster.
pub(crate) fn is_ours(slice: &EndpointSlice) -> bool {
    slice.labels().get(names::LABEL_SLICE_MANAGED_BY).is_some_and(|by| by == names::SLICE_MANAGED_BY_MESH)
}

/// A Service that is going takes its slices with it.
fn wants_slices(service: &Service) -> bool {
    let global = Global::read(service.metadata.annotations.as_ref(), is_headless(service)).0;
    global.sync_endpoint_slices && service.metadata.deletion_timestamp.is_none()
}

fn source(slice: &EndpointSlice) -> &str {
    slice.labels().get(names::LABEL_MCS_SOURCE_CLUSTER).map_or("", String::as_str)
}

fn may_be_awaited(slice: &EndpointSlice, view: &View<'_>) -> bool {
    !view.complete || view.awaited.contains(source(slice))
}
