//! Multi-Cluster Services (KEP-1645): from the exports of all clusters, one Service at a time, to a ServiceImport, the
//! derived Service that gives it an address here, and copies of the exported Service's EndpointSlices, which give the
//! derived Service its local backends. The derived Service has the same name in every cluster and is global, so that the
//! remote backends come by the way of any global Service.
//!
//! Works towards the goal a step at a time: what an object needs of another (an owner's uid, an address) is there in the
//! next plan. A cluster that is configured and has not told its exports yet may have any; a ServiceImport that names it
//! stays as it is.

pub(crate) mod derived;
mod import;
mod merge;
mod mirror;
mod offer;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use causeway_k8s::condition::{Condition, Timestamp};
use causeway_k8s::watch::Key;
use causeway_k8s::{ServiceExport, ServiceImport, ServiceImportStatus, names};
use causeway_mesh_schema::ServiceExportSpec;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

use super::{IPV4, IPV6, Space, Write};
use merge::Merged;
use offer::Offer;

/// What is the same for every Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Our cluster's name.
    pub(crate) cluster: String,
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
}

/// What the watches and the mesh show of one Service.
#[derive(Clone, Debug, Default)]
pub(crate) struct View<'a> {
    pub(crate) namespace: Space,
    pub(crate) service: Option<&'a Service>,
    pub(crate) export: Option<&'a ServiceExport>,
    pub(crate) import: Option<&'a ServiceImport>,
    pub(crate) derived: Option<&'a Service>,
    /// Of the Service, except those that we wrote.
    pub(crate) slices: Vec<&'a EndpointSlice>,
    /// Of the derived Service, as far as they are copies.
    pub(crate) copies: Vec<&'a EndpointSlice>,
    /// One per cluster.
    pub(crate) remote: Vec<&'a ServiceExportSpec>,
    /// Configured clusters that have not told their exports.
    pub(crate) awaited: BTreeSet<&'a str>,
    /// All configured clusters are known by name.
    pub(crate) complete: bool,
}

/// Everything to do for one Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) export_status: Option<ExportStatus>,
    pub(crate) import: Option<Write<ServiceImport>>,
    pub(crate) import_status: Option<ImportStatus>,
    pub(crate) derived: Option<Write<Service>>,
    pub(crate) copies: Vec<Write<EndpointSlice>>,
}

/// The status of the ServiceExport, complete.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ExportStatus {
    pub(crate) resource_version: Option<String>,
    pub(crate) conditions: Vec<Condition>,
}

/// The status of the ServiceImport, complete.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ImportStatus {
    pub(crate) resource_version: Option<String>,
    pub(crate) status: ServiceImportStatus,
}

/// Decides for the Service `key` and compares with what stands there.
pub(crate) fn plan(key: &Key, view: &View<'_>, settings: &Settings, now: Timestamp) -> Plan {
    if view.namespace == Space::Absent {
        return Plan::default();
    }
    let offer = offer::local(view, settings);
    let local = match &offer {
        Offer::Made(spec) => Some(&**spec),
        Offer::None | Offer::Refused(_) => None,
    };
    let merged = merge::merge(view.remote.iter().copied().chain(local));
    let mut plan = Plan { export_status: offer::status(view.export, &offer, merged.as_ref(), now), ..Plan::default() };
    if is_uncertain(view) {
        return plan;
    }
    let Some(merged) = merged else {
        // The derived Service and its slices are owned by the ServiceImport and go with it.
        plan.import = view.import.map(Write::delete);
        return plan;
    };
    let wanted = Wanted::new(key, view, merged, settings);
    plan.import = import::write(&wanted, view);
    plan.import_status = import::status(&wanted, view, now);
    plan.derived = derived::write(&wanted, view);
    plan.copies = mirror::write(&wanted, view, local.is_some());
    plan
}

/// Whether a cluster that has not been heard yet may be one of those that the ServiceImport is made of.
fn is_uncertain(view: &View<'_>) -> bool {
    let status = view.import.and_then(|import| import.status.as_ref());
    let named = status.iter().flat_map(|status| &status.clusters).any(|c| view.awaited.contains(c.cluster.as_str()));
    view.import.is_some() && (named || !view.complete)
}

/// Whether the operator copied it for a derived Service.
pub(crate) fn is_copy(slice: &EndpointSlice) -> bool {
    slice.labels().get(names::LABEL_SLICE_MANAGED_BY).is_some_and(|by| by == names::SLICE_MANAGED_BY_MIRROR)
}

/// What the exports come to in this cluster.
struct Wanted<'a> {
    key: &'a Key,
    cluster: &'a str,
    merged: Merged<'a>,
    /// Families of the exports that this cluster has.
    families: Vec<&'static str>,
    /// Nothing is imported into a namespace that takes no part in the mesh.
    global: bool,
}

impl<'a> Wanted<'a> {
    fn new(key: &'a Key, view: &View<'_>, merged: Merged<'a>, settings: &'a Settings) -> Wanted<'a> {
        let here = [(settings.ipv4, IPV4), (settings.ipv6, IPV6)];
        let here: Vec<&'static str> = here.into_iter().filter(|(enabled, _)| *enabled).map(|(_, name)| name).collect();
        let families = match &merged.families {
            // No cluster says: all are older than the field.
            None => here,
            Some(families) => families.iter().filter_map(|f| here.iter().find(|h| *h == f)).copied().collect(),
        };
        Wanted { key, cluster: &settings.cluster, merged, families, global: view.namespace == Space::Global }
    }

    fn is_headless(&self) -> bool {
        self.merged.oldest.kind == causeway_k8s::mcs::import::TYPE_HEADLESS
    }

    /// Whether this cluster can have the Service.
    fn is_usable(&self) -> bool {
        self.global && !self.families.is_empty()
    }
}
