//! What this cluster offers of a Service, and what the ServiceExport says of it.

use std::borrow::Cow;

use causeway_k8s::condition::{self, Desired, Status, Timestamp};
use causeway_k8s::mcs::import::{TYPE_CLUSTER_SET_IP, TYPE_HEADLESS};
use causeway_k8s::{ServiceExport, names};
use causeway_mesh_schema::{ExportPort, ServiceExportSpec};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;

use super::merge::Merged;
use super::{ExportStatus, Settings, View};
use crate::plan::Space;

/// What there is of ours to merge.
pub(super) enum Offer {
    /// There is no ServiceExport.
    None,
    Refused(Refusal),
    Made(Box<ServiceExportSpec>),
}

/// Why a ServiceExport exports nothing.
#[derive(Clone, Copy)]
pub(super) struct Refusal {
    reason: &'static str,
    message: &'static str,
}

const NAMESPACE_NOT_GLOBAL: Refusal = Refusal {
    reason: "NamespaceNotGlobal",
    message: "the namespace takes no part in the mesh; annotate it with clustermesh.cilium.io/global: \"true\"",
};
const NO_SERVICE: Refusal = Refusal {
    reason: "NoService",
    message: "there is no Service of this name; create it, or delete the ServiceExport",
};
const EXTERNAL_NAME: Refusal = Refusal {
    reason: "InvalidServiceType",
    message: "a Service of type ExternalName has no backends and cannot be exported",
};

pub(super) fn local(view: &View<'_>, settings: &Settings) -> Offer {
    let Some(export) = view.export.filter(|export| export.metadata.deletion_timestamp.is_none()) else {
        return Offer::None;
    };
    let service = match view.service.filter(|service| service.metadata.deletion_timestamp.is_none()) {
        _ if view.namespace != Space::Global => return Offer::Refused(NAMESPACE_NOT_GLOBAL),
        None => return Offer::Refused(NO_SERVICE),
        Some(service) if type_of(service) == Some("ExternalName") => return Offer::Refused(EXTERNAL_NAME),
        Some(service) => service,
    };
    Offer::Made(Box::new(spec(service, export, &settings.cluster)))
}

fn type_of(service: &Service) -> Option<&str> {
    service.spec.as_ref()?.type_.as_deref()
}

/// The same that the mesh's API server writes for the other clusters.
fn spec(service: &Service, export: &ServiceExport, cluster: &str) -> ServiceExportSpec {
    let spec = service.spec.clone().unwrap_or_default();
    let exported = export.spec.clone().unwrap_or_default();
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let ports = spec.ports.unwrap_or_default().into_iter().map(|port| ExportPort {
        name: port.name.unwrap_or_default(),
        protocol: port.protocol.unwrap_or_default(),
        app_protocol: port.app_protocol,
        port: port.port,
    });
    ServiceExportSpec {
        cluster: cluster.to_owned(),
        name: service.name_any(),
        namespace: service.namespace().unwrap_or_default(),
        annotations: exported.exported_annotations,
        labels: exported.exported_labels,
        export_creation_timestamp: export.creation_timestamp().map(|time| time.0.to_string()).unwrap_or_default(),
        ports: ports.collect(),
        kind: if headless { TYPE_HEADLESS } else { TYPE_CLUSTER_SET_IP }.to_owned(),
        session_affinity: spec.session_affinity.unwrap_or_default(),
        session_affinity_config: spec.session_affinity_config.and_then(|config| serde_json::to_value(config).ok()),
        ip_families: spec.ip_families.unwrap_or_default(),
        internal_traffic_policy: spec.internal_traffic_policy,
        traffic_distribution: spec.traffic_distribution,
    }
}

/// The conditions `Valid`, `Ready` and `Conflict`, if they do not stand there yet.
pub(super) fn status(
    export: Option<&ServiceExport>,
    offer: &Offer,
    merged: Option<&Merged<'_>>,
    now: Timestamp,
) -> Option<ExportStatus> {
    let export = export?;
    let mut conditions = export.status.clone().unwrap_or_default().conditions;
    let generation = export.metadata.generation;
    let mut set = |type_, status, reason, message: &str| {
        condition::set(&mut conditions, &Desired { type_, status, reason, message }, generation, now)
    };
    let changed = match offer {
        Offer::None => false,
        Offer::Refused(refusal) => {
            let valid = set(names::CONDITION_EXPORT_VALID, Status::False, refusal.reason, refusal.message);
            let ready = set(names::CONDITION_MCS_READY, Status::False, "Pending", "the export is not valid");
            condition::remove(&mut conditions, names::CONDITION_EXPORT_CONFLICT) || valid || ready
        }
        Offer::Made(_) => {
            let conflict = merged.and_then(|merged| merged.conflict.as_ref());
            let (status, reason, message) = match conflict {
                Some(conflict) => (Status::True, conflict.reason, Cow::from(&conflict.message)),
                None => (Status::False, "NoConflicts", Cow::from("all exports of the Service agree")),
            };
            let valid = set(names::CONDITION_EXPORT_VALID, Status::True, "Valid", "the Service can be exported");
            let ready = set(names::CONDITION_MCS_READY, Status::True, "Ready", "the Service is exported");
            set(names::CONDITION_EXPORT_CONFLICT, status, reason, &message) || valid || ready
        }
    };
    changed.then(|| ExportStatus { resource_version: export.resource_version(), conditions })
}
