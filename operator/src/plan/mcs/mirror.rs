//! Copies of the exported Service's EndpointSlices for the derived Service: its backends in this cluster, which the other
//! clusters get from it too.

use std::collections::BTreeMap;

use causeway_k8s::names;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use super::{View, Wanted};
use crate::plan::{Write, is_headless};

/// Longest name of an object (RFC 1123 subdomain).
const LONGEST_NAME: usize = 253;

/// `exported`: this cluster's export counts.
pub(super) fn write(wanted: &Wanted<'_>, view: &View<'_>, exported: bool) -> Vec<Write<EndpointSlice>> {
    let going = |derived: &&Service| derived.metadata.deletion_timestamp.is_some() || !wanted.is_usable();
    let derived = view.derived.filter(|derived| exported && !going(derived));
    let mut left: BTreeMap<String, &EndpointSlice> = view.copies.iter().map(|copy| (copy.name_any(), *copy)).collect();
    let mut writes = Vec::new();
    for (derived, source) in derived.iter().flat_map(|derived| view.slices.iter().map(move |slice| (derived, slice))) {
        let Some(copy) = copy(source, derived, wanted, view) else { continue };
        match left.remove(&copy.name_any()) {
            None => writes.push(Write::Create(copy)),
            // The type of a slice cannot change: it is made anew by the next plan.
            Some(existing) if existing.address_type != copy.address_type => writes.push(Write::delete(existing)),
            Some(existing) => writes.extend(update(existing, copy)),
        }
    }
    writes.extend(left.into_values().map(Write::delete));
    writes
}

fn update(existing: &EndpointSlice, copy: EndpointSlice) -> Option<Write<EndpointSlice>> {
    let mut object = existing.clone();
    object.metadata.labels = copy.metadata.labels;
    object.metadata.owner_references = copy.metadata.owner_references;
    object.endpoints = copy.endpoints;
    object.ports = copy.ports;
    (object != *existing).then_some(Write::Replace(object))
}

fn copy(source: &EndpointSlice, derived: &Service, wanted: &Wanted<'_>, view: &View<'_>) -> Option<EndpointSlice> {
    if !wanted.families.contains(&source.address_type.as_str()) || source.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ports = ports(source, derived, view.service?);
    let owner = derived.owner_ref(&()).filter(|owner| !owner.uid.is_empty())?;
    if ports.is_empty() && !source.ports.as_ref().is_none_or(Vec::is_empty) {
        return None;
    }
    let mut labels = derived.labels().clone();
    labels.insert(names::LABEL_SERVICE_NAME.to_owned(), derived.name_any());
    labels.insert(names::LABEL_MCS_SERVICE_NAME.to_owned(), wanted.key.name.clone());
    labels.insert(names::LABEL_MCS_SOURCE_CLUSTER.to_owned(), wanted.cluster.to_owned());
    labels.insert(names::LABEL_SLICE_MANAGED_BY.to_owned(), names::SLICE_MANAGED_BY_MIRROR.to_owned());
    labels.insert(names::LABEL_MCS_LOCAL_SLICE.to_owned(), source.name_any());
    if is_headless(derived) {
        labels.insert(names::LABEL_HEADLESS.to_owned(), String::new());
    }
    let mut copy = EndpointSlice {
        address_type: source.address_type.clone(),
        endpoints: source.endpoints.clone(),
        ports: Some(ports).filter(|ports| !ports.is_empty()),
        ..EndpointSlice::default()
    };
    copy.metadata.name = Some(name(source, derived, wanted));
    copy.metadata.namespace = Some(wanted.key.namespace.clone());
    copy.metadata.labels = Some(labels);
    copy.metadata.owner_references =
        Some(vec![OwnerReference { controller: Some(true), block_owner_deletion: Some(true), ..owner }]);
    Some(copy)
}

/// The source's own name with the derived Service's in place of the exported one's.
fn name(source: &EndpointSlice, derived: &Service, wanted: &Wanted<'_>) -> String {
    let source = source.name_any();
    let rest = source.strip_prefix(wanted.key.name.as_str()).unwrap_or(&source);
    let mut name = format!("{}-{}", derived.name_any(), rest.trim_start_matches(['-', '.']));
    name.truncate(LONGEST_NAME);
    name.trim_end_matches(['-', '.']).to_owned()
}

/// The ports of which the exported and the derived Service say the same: one that lost a conflict must not get the
/// traffic of the one that won it.
fn ports(source: &EndpointSlice, derived: &Service, local: &Service) -> Vec<EndpointPort> {
    let find = |service: &Service, name: &str| {
        let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
        let found = ports.into_iter().flatten().find(|port| port.name.as_deref().unwrap_or_default() == name);
        found.map(|port: &ServicePort| (port.port, port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())))
    };
    let same = |port: &&EndpointPort| {
        let name = port.name.as_deref().unwrap_or_default();
        let ours = find(local, name);
        ours.is_some() && ours == find(derived, name)
    };
    source.ports.iter().flatten().filter(same).cloned().collect()
}
