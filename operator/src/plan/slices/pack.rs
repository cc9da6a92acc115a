//! Endpoints into slices. An endpoint stays in the slice that it is in, new ones fill what has room, and a slice whose
//! endpoints are gone goes: a change of one backend is a write of one slice.

use std::collections::BTreeMap;

use causeway_k8s::names;
use causeway_k8s::watch::Key;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use super::backends::{Group, Groups, Port};
use super::source;
use crate::plan::{IPV4, IPV6, Write, is_headless};

pub(super) fn write(
    key: &Key,
    service: &Service,
    groups: Groups,
    held: &[&EndpointSlice],
    most: usize,
) -> Vec<Write<EndpointSlice>> {
    let mut held_by: BTreeMap<Option<Group>, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in held {
        held_by.entry(group_of(slice)).or_default().push(slice);
    }
    let mut writes = Vec::new();
    for (group, endpoints) in groups.into_iter().filter(|(_, endpoints)| !endpoints.is_empty()) {
        let held = held_by.remove(&Some(group.clone())).unwrap_or_default();
        let frame = frame(key, service, &group);
        writes.extend(pack(&frame, endpoints, held, most));
    }
    writes.extend(held_by.into_values().flatten().map(Write::delete));
    writes
}

/// `None` for one that we would not write.
fn group_of(slice: &EndpointSlice) -> Option<Group> {
    let family = [IPV4, IPV6].into_iter().find(|family| *family == slice.address_type)?;
    let ports = slice.ports.iter().flatten().map(Port::from).collect();
    Some(Group { cluster: source(slice).to_owned(), family, ports })
}

/// A slice without endpoints and name.
fn frame(key: &Key, service: &Service, group: &Group) -> EndpointSlice {
    let mut labels = service.labels().clone();
    labels.insert(names::LABEL_SERVICE_NAME.to_owned(), key.name.clone());
    labels.insert(names::LABEL_SLICE_MANAGED_BY.to_owned(), names::SLICE_MANAGED_BY_MESH.to_owned());
    labels.insert(names::LABEL_MCS_SOURCE_CLUSTER.to_owned(), group.cluster.clone());
    if is_headless(service) {
        labels.insert(names::LABEL_HEADLESS.to_owned(), String::new());
    }
    let owner = service.owner_ref(&()).map(|owner| OwnerReference {
        controller: Some(true),
        block_owner_deletion: Some(true),
        ..owner
    });
    let mut slice = EndpointSlice {
        address_type: group.family.to_owned(),
        ports: Some(group.ports.iter().map(EndpointPort::from).collect()),
        ..EndpointSlice::default()
    };
    slice.metadata.namespace = Some(key.namespace.clone());
    slice.metadata.labels = Some(labels);
    slice.metadata.owner_references = owner.map(|owner| vec![owner]);
    // The server adds five characters. Two slices for one thing, made when an answer was lost, become one again here.
    slice.metadata.generate_name = Some(format!("{}-{}-", key.name, group.cluster));
    slice
}

fn pack(
    frame: &EndpointSlice,
    mut wanted: BTreeMap<String, Endpoint>,
    mut held: Vec<&EndpointSlice>,
    most: usize,
) -> Vec<Write<EndpointSlice>> {
    held.sort_by_key(|slice| slice.name_any());
    let mut filled: Vec<(&EndpointSlice, Vec<Endpoint>)> = Vec::with_capacity(held.len());
    for slice in held {
        let stay = slice.endpoints.iter().flatten().filter_map(|endpoint| endpoint.addresses.first());
        let mut kept = Vec::new();
        for address in stay {
            if kept.len() < most {
                kept.extend(wanted.remove(address));
            }
        }
        filled.push((slice, kept));
    }
    let mut new = wanted.into_values();
    let mut writes = Vec::new();
    for (slice, mut endpoints) in filled {
        let room = most.saturating_sub(endpoints.len());
        endpoints.extend(new.by_ref().take(room));
        if endpoints.is_empty() {
            writes.push(Write::delete(slice));
        } else {
            writes.extend(update(slice, frame, endpoints));
        }
    }
    let rest: Vec<Endpoint> = new.collect();
    writes.extend(
        rest.chunks(most)
            .map(|endpoints| Write::Create(EndpointSlice { endpoints: Some(endpoints.to_vec()), ..frame.clone() })),
    );
    writes
}

fn update(existing: &EndpointSlice, frame: &EndpointSlice, endpoints: Vec<Endpoint>) -> Option<Write<EndpointSlice>> {
    let mut object = existing.clone();
    object.metadata.labels.clone_from(&frame.metadata.labels);
    object.metadata.owner_references.clone_from(&frame.metadata.owner_references);
    object.endpoints = Some(endpoints);
    (object != *existing).then_some(Write::Replace(object))
}
