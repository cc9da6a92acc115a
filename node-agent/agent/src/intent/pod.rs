//! Pods of this node.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod as Object;

use super::{Key, Read, Rejected};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) uid: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) service_account: String,
    pub(crate) named_ports: Box<[NamedPort]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedPort {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) protocol: String,
}

/// Reads Pods; those in the host's network are none of ours.
pub(crate) struct Reader;

impl Read<Object> for Reader {
    type Key = Key;
    type Row = Pod;

    fn read(&self, key: &Key, object: Object) -> Result<Option<(Key, Pod)>, Rejected> {
        let spec = object.spec.unwrap_or_default();
        if spec.host_network == Some(true) {
            return Ok(None);
        }
        let ports = spec.containers.into_iter().flat_map(|c| c.ports.unwrap_or_default());
        let named_ports = ports
            .filter_map(|p| {
                Some(NamedPort {
                    name: p.name?,
                    // The API server admits only ports; what is not one cannot be reached and needs no name.
                    port: u16::try_from(p.container_port).ok()?,
                    protocol: p.protocol.unwrap_or_else(|| "TCP".into()),
                })
            })
            .collect();
        Ok(Some((
            key.clone(),
            Pod {
                uid: object.metadata.uid.unwrap_or_default(),
                labels: object.metadata.labels.unwrap_or_default(),
                service_account: spec.service_account_name.unwrap_or_else(|| "default".into()),
                named_ports,
            },
        )))
    }
}
