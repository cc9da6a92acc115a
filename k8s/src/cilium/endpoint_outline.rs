//! `CiliumEndpointOutline`: a CiliumEndpoint of which only the name and the identity are read, since clusters have many.
//! Never written.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Deserializer};

use crate::names::KIND_CILIUM_ENDPOINT;

#[derive(Clone, Debug, Deserialize)]
pub struct CiliumEndpointOutline {
    #[serde(deserialize_with = "name_only")]
    metadata: ObjectMeta,
    status: Option<Status>,
}

#[derive(Clone, Debug, Deserialize)]
struct Status {
    identity: Option<Identity>,
}

#[derive(Clone, Debug, Deserialize)]
struct Identity {
    id: Option<i64>,
}

impl CiliumEndpointOutline {
    /// Number of the endpoint's identity.
    #[must_use]
    pub fn identity(&self) -> Option<i64> {
        self.status.as_ref()?.identity.as_ref()?.id
    }
}

fn name_only<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let meta = ObjectMeta::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        resource_version: meta.resource_version,
        ..ObjectMeta::default()
    })
}

crate::resource::resource! {
    CiliumEndpointOutline: NamespaceResourceScope {
        kind: KIND_CILIUM_ENDPOINT, group: crate::GROUP, version: crate::VERSION, plural: "ciliumendpoints"
    }
}
