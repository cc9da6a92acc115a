//! `CiliumIdentity`: a number for a set of security labels. The object's name is the number in decimal, and the labels
//! stand at the top level, so the kind has neither `spec` nor `status`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::KIND_CILIUM_IDENTITY;

/// A numeric identity and the labels that it stands for.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct CiliumIdentity {
    #[serde(rename = "apiVersion", default = "api_version")]
    pub api_version: String,
    #[serde(default = "kind")]
    pub kind: String,
    pub metadata: ObjectMeta,
    /// Labels with their source: `k8s:app` -> `web`. The only truth about what the number means.
    #[serde(rename = "security-labels")]
    pub security_labels: BTreeMap<String, String>,
}

impl CiliumIdentity {
    /// An identity `id` for `labels`.
    #[must_use]
    pub fn new(id: u32, labels: BTreeMap<String, String>) -> CiliumIdentity {
        CiliumIdentity {
            api_version: api_version(),
            kind: kind(),
            metadata: ObjectMeta { name: Some(id.to_string()), ..ObjectMeta::default() },
            security_labels: labels,
        }
    }
}

/// The fields beside `metadata`, for the schema.
#[derive(JsonSchema)]
pub(crate) struct CiliumIdentityFields {
    /// The labels, with their source, that this number stands for.
    #[serde(rename = "security-labels")]
    #[expect(dead_code, reason = "read by the schema generator only")]
    security_labels: BTreeMap<String, String>,
}

fn api_version() -> String {
    "cilium.io/v2".to_owned()
}

fn kind() -> String {
    KIND_CILIUM_IDENTITY.to_owned()
}

crate::resource::resource! {
    CiliumIdentity: ClusterResourceScope { kind: KIND_CILIUM_IDENTITY, group: crate::GROUP, version: crate::VERSION, plural: "ciliumidentities" }
}
