//! What this cluster offers of a Service, and what the ServiceExport says of it.

use std::borrow::Cow;

use causeway_k8s::condition::{self, Desired, Status, Timestamp};
use causeway_k8s::mcs::offer;
use causeway_k8s::{ServiceExport, names};
use causeway_mesh_schema::ServiceExportSpec;
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
    let Some(export) = view.export.and_then(offer::of_export) else { return Offer::None };
    if view.namespace != Space::Global {
        return Offer::Refused(NAMESPACE_NOT_GLOBAL);
    }
    match view.service.map(|service| offer::of_service(&settings.cluster, service)) {
        None | Some(Err(offer::Refused::Going)) => Offer::Refused(NO_SERVICE),
        Some(Err(offer::Refused::ExternalName)) => Offer::Refused(EXTERNAL_NAME),
        Some(Ok(of_service)) => Offer::Made(Box::new(export.with(&of_service))),
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
