//! The derived Service: an ordinary global Service, owned by the ServiceImport, without selector. Its name is made from
//! the exported one's in the same way in every cluster (`kubernetes-sigs/mcs-api`), so that these Services are one.

use causeway_k8s::watch::Key;
use causeway_k8s::{ServiceImport, names};
use k8s_openapi::api::core::v1::{ClientIPConfig, Service, ServicePort, ServiceSpec, SessionAffinityConfig};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

use super::{View, Wanted};
use crate::plan::{Write, is_headless};

/// Characters of the hash that stand in a name.
const HASH_LENGTH: usize = 10;

/// `derived-` and the beginning of the SHA-256 of `namespace/name` in base 32 (RFC 4648 section 7, lower case).
pub(crate) fn derived_name(key: &Key) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    // The TLS library's SHA-256: no second implementation comes in for one name.
    let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let sha256 = suite.tls13().expect("the suite is one of TLS 1.3").common.hash_provider;
    let hash = sha256.hash(key.to_string().as_bytes());
    let bits: Vec<u8> = hash.as_ref().iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let digits = bits.chunks(5).map(|five| five.iter().fold(0, |number, bit| number << 1 | usize::from(*bit)));
    let hash: String = digits.take(HASH_LENGTH).map(|digit| char::from(DIGITS[digit])).collect();
    format!("derived-{hash}")
}

/// Addresses of the Service, primary first.
pub(super) fn addresses(service: &Service) -> Vec<String> {
    let spec = service.spec.as_ref();
    let all = spec.and_then(|spec| spec.cluster_ips.clone()).or_else(|| Some(vec![spec?.cluster_ip.clone()?]));
    all.unwrap_or_default().into_iter().filter(|address| !address.is_empty() && address != "None").collect()
}

pub(super) fn write(wanted: &Wanted<'_>, view: &View<'_>) -> Option<Write<Service>> {
    let owner = view.import.filter(|import| import.metadata.deletion_timestamp.is_none()).and_then(owner);
    let (Some(owner), true) = (owner, wanted.is_usable()) else {
        return view.derived.map(Write::delete);
    };
    let Some(existing) = view.derived else {
        let mut service = Service::default();
        service.metadata.namespace = Some(wanted.key.namespace.clone());
        service.metadata.name = Some(derived_name(wanted.key));
        service.spec =
            Some(ServiceSpec { cluster_ip: wanted.is_headless().then(|| "None".to_owned()), ..ServiceSpec::default() });
        fill(&mut service, wanted, owner);
        return Some(Write::Create(service));
    };
    if is_headless(existing) != wanted.is_headless() || !keeps_primary_family(existing, wanted) {
        // Neither can change while a Service lives.
        return Some(Write::delete(existing));
    }
    let mut service = existing.clone();
    fill(&mut service, wanted, owner);
    (service != *existing).then_some(Write::Replace(service))
}

pub(super) fn owner(import: &ServiceImport) -> Option<OwnerReference> {
    Some(OwnerReference {
        controller: Some(true),
        block_owner_deletion: Some(true),
        ..import.owner_ref(&()).filter(|owner| !owner.uid.is_empty())?
    })
}

fn keeps_primary_family(existing: &Service, wanted: &Wanted<'_>) -> bool {
    let families = existing.spec.as_ref().and_then(|spec| spec.ip_families.as_ref());
    families.and_then(|families| families.first()).is_none_or(|first| wanted.families.contains(&first.as_str()))
}

/// Everything that is ours, into a Service that has what the server added.
fn fill(service: &mut Service, wanted: &Wanted<'_>, owner: OwnerReference) {
    let oldest = wanted.merged.oldest;
    service.metadata.owner_references = Some(vec![owner]);
    let mut labels = oldest.labels.clone();
    labels.insert(names::LABEL_MCS_SERVICE_NAME.to_owned(), wanted.key.name.clone());
    service.metadata.labels = Some(labels);
    let mut annotations = oldest.annotations.clone();
    annotations.insert(names::ANNOTATION_MCS_SUPPORTED_IP_FAMILIES.to_owned(), wanted.families.join(","));
    for alias in names::SERVICE_GLOBAL.aliases {
        annotations.remove(*alias);
    }
    annotations.insert(names::SERVICE_GLOBAL.name.to_owned(), "true".to_owned());
    service.metadata.annotations = Some(annotations);

    let spec = service.spec.get_or_insert_default();
    spec.type_ = Some("ClusterIP".to_owned());
    spec.selector = None;
    spec.ports = Some(ports(spec.ports.as_deref().unwrap_or_default(), wanted)).filter(|ports| !ports.is_empty());
    families(spec, wanted);
    if !wanted.is_headless() {
        let affinity = if oldest.session_affinity.is_empty() { "None" } else { oldest.session_affinity.as_str() };
        affine(spec, affinity, super::merge::timeout_seconds(oldest));
    }
    let policy = oldest.internal_traffic_policy.as_deref().unwrap_or("Cluster");
    spec.internal_traffic_policy = Some(policy.to_owned());
    spec.traffic_distribution = oldest.traffic_distribution.clone();
}

fn affine(spec: &mut ServiceSpec, affinity: &str, timeout_seconds: Option<i32>) {
    if spec.session_affinity.as_deref() == Some(affinity) && (timeout_seconds.is_none() || affinity == "None") {
        // The server has added its own timeout.
        return;
    }
    spec.session_affinity = Some(affinity.to_owned());
    spec.session_affinity_config = timeout_seconds
        .filter(|_| affinity != "None")
        .map(|seconds| SessionAffinityConfig { client_ip: Some(ClientIPConfig { timeout_seconds: Some(seconds) }) });
}

/// What the server added to a port that stays, stays. Where a port leads to is each cluster's own matter: its slices say.
fn ports(existing: &[ServicePort], wanted: &Wanted<'_>) -> Vec<ServicePort> {
    let port = |port: &&causeway_mesh_schema::ExportPort| {
        let protocol = super::merge::protocol(port);
        let same = |old: &&ServicePort| old.port == port.port && old.protocol.as_deref().unwrap_or("TCP") == protocol;
        ServicePort {
            name: (!port.name.is_empty()).then(|| port.name.clone()),
            protocol: Some(protocol.to_owned()),
            app_protocol: port.app_protocol.clone(),
            port: port.port,
            ..existing.iter().find(same).cloned().unwrap_or_default()
        }
    };
    wanted.merged.ports.iter().map(port).collect()
}

/// The primary family of a Service that exists stays the first.
fn families(spec: &mut ServiceSpec, wanted: &Wanted<'_>) {
    let primary = spec.ip_families.as_ref().and_then(|families| families.first().cloned());
    let mut families: Vec<String> = wanted.families.iter().map(|family| (*family).to_owned()).collect();
    families.sort_by_key(|family| Some(family) != primary.as_ref());
    if spec.ip_families.as_ref() == Some(&families) {
        return;
    }
    let single = families.len() == 1;
    spec.ip_family_policy = Some(if single { "SingleStack" } else { "RequireDualStack" }.to_owned());
    if single && let Some(addresses) = &mut spec.cluster_ips {
        addresses.truncate(1);
    }
    spec.ip_families = Some(families);
}
