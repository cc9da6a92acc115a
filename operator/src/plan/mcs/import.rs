//! The ServiceImport: what the exports come to, and the addresses of the derived Service.

use std::collections::BTreeMap;

use causeway_k8s::condition::{self, Desired, Status, Timestamp};
use causeway_k8s::mcs::import::{TYPE_CLUSTER_SET_IP, TYPE_HEADLESS};
use causeway_k8s::{
    ClientIpConfig, ClusterStatus, ImportPort, ServiceImport, ServiceImportSpec, SessionAffinityConfig, names,
};
use kube::ResourceExt;

use super::derived::{addresses, derived_name};
use super::merge::{protocol, timeout_seconds};
use super::{ImportStatus, View, Wanted};
use crate::plan::Write;

/// Labels and annotations are those of the oldest export and nobody else's, as with Cilium.
pub(super) fn write(wanted: &Wanted<'_>, view: &View<'_>) -> Option<Write<ServiceImport>> {
    let mut object = view.import.cloned().unwrap_or_else(|| {
        let mut object = ServiceImport::new(&wanted.key.name, ServiceImportSpec::default());
        object.metadata.namespace = Some(wanted.key.namespace.clone());
        object
    });
    object.metadata.labels = Some(wanted.merged.oldest.labels.clone()).filter(|labels| !labels.is_empty());
    object.metadata.annotations = Some(annotations(wanted, view));
    object.spec = spec(wanted, view);
    match view.import {
        None => Some(Write::Create(object)),
        Some(existing) => {
            let none = |map: &Option<BTreeMap<String, String>>| map.clone().unwrap_or_default();
            let same = existing.spec == object.spec
                && none(&existing.metadata.labels) == none(&object.metadata.labels)
                && existing.metadata.annotations == object.metadata.annotations;
            (!same).then_some(Write::Replace(object))
        }
    }
}

fn annotations(wanted: &Wanted<'_>, view: &View<'_>) -> BTreeMap<String, String> {
    let mut annotations = wanted.merged.oldest.annotations.clone();
    annotations.insert(names::ANNOTATION_MCS_SUPPORTED_IP_FAMILIES.to_owned(), wanted.families.join(","));
    // Only once it exists: whoever follows the annotation finds the Service.
    annotations.remove(names::ANNOTATION_MCS_DERIVED_SERVICE);
    if wanted.is_usable() && view.derived.is_some() {
        annotations.insert(names::ANNOTATION_MCS_DERIVED_SERVICE.to_owned(), derived_name(wanted.key));
    }
    annotations
}

fn spec(wanted: &Wanted<'_>, view: &View<'_>) -> ServiceImportSpec {
    let oldest = wanted.merged.oldest;
    let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let ports = wanted.merged.ports.iter().map(|port| ImportPort {
        name: said(&port.name),
        protocol: Some(protocol(port).to_owned()),
        app_protocol: port.app_protocol.clone(),
        port: port.port,
    });
    let client_ip = timeout_seconds(oldest).map(|seconds| ClientIpConfig { timeout_seconds: Some(seconds) });
    let ips = view.derived.filter(|_| wanted.is_usable() && !wanted.is_headless()).map(addresses);
    ServiceImportSpec {
        ports: ports.collect(),
        ips: ips.unwrap_or_default(),
        ip_families: wanted.merged.families.iter().flatten().map(|family| (*family).to_owned()).collect(),
        type_: if wanted.is_headless() { TYPE_HEADLESS } else { TYPE_CLUSTER_SET_IP }.to_owned(),
        session_affinity: said(&oldest.session_affinity),
        session_affinity_config: client_ip.map(|config| SessionAffinityConfig { client_ip: Some(config) }),
        internal_traffic_policy: oldest.internal_traffic_policy.clone(),
        traffic_distribution: oldest.traffic_distribution.clone(),
    }
}

/// Clusters and `Ready`, if they do not stand there yet.
pub(super) fn status(wanted: &Wanted<'_>, view: &View<'_>, now: Timestamp) -> Option<ImportStatus> {
    let import = view.import?;
    let mut status = import.status.clone().unwrap_or_default();
    status.clusters = wanted.merged.clusters.iter().map(|name| ClusterStatus { cluster: (*name).to_owned() }).collect();
    let (ready, reason, message) = if !wanted.global {
        (Status::False, "NamespaceNotGlobal", "the namespace takes no part in the mesh, so nothing is imported into it")
    } else if wanted.families.is_empty() {
        (Status::False, "IPFamilyNotSupported", "this cluster has none of the IP families that the exports have")
    } else if view.derived.is_none() {
        (Status::False, "Pending", "the derived Service is being made")
    } else {
        (Status::True, "Ready", "the derived Service serves it")
    };
    let desired = Desired { type_: names::CONDITION_MCS_READY, status: ready, reason, message };
    condition::set(&mut status.conditions, &desired, import.metadata.generation, now);
    let changed = import.status.as_ref() != Some(&status);
    changed.then(|| ImportStatus { resource_version: import.resource_version(), status })
}
