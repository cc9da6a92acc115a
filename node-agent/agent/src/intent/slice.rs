//! EndpointSlices: where a Service's backends are.

use std::net::IpAddr;

use causeway_datapath_loader::Proto;
use causeway_k8s::names::{LABEL_SERVICE_NAME, LABEL_SLICE_MANAGED_BY, SLICE_MANAGED_BY_MESH};
use k8s_openapi::api::discovery::v1::EndpointSlice as Object;

use super::service::served;
use super::{Key, Read, Rejected, Stamp, rejected};

/// Orders the slices of one Service next to each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SliceKey {
    pub(crate) service: Key,
    pub(crate) name: String,
}

impl SliceKey {
    /// Before all slices of the service.
    pub(crate) fn first(service: &Key) -> SliceKey {
        SliceKey { service: service.clone(), name: String::new() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) ports: Box<[SlicePort]>,
    pub(crate) endpoints: Box<[SliceEndpoint]>,
    pub(crate) seen: Stamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlicePort {
    pub(crate) name: Box<str>,
    pub(crate) port: u16,
    pub(crate) proto: Proto,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SliceEndpoint {
    pub(crate) address: IpAddr,
    /// Takes new connections.
    pub(crate) ready: bool,
    /// Not ready only because it is going away, and still able to serve (KEP-1669).
    pub(crate) draining: bool,
    /// On this node.
    pub(crate) local: bool,
}

/// Reads EndpointSlices, as seen from one node.
pub(crate) struct Reader {
    pub(crate) node: String,
}

impl Read<Object> for Reader {
    type Key = SliceKey;
    type Row = Slice;

    fn read(&self, key: &Key, object: Object) -> Result<Option<(SliceKey, Slice)>, Rejected> {
        let bad = |field: &str, message: String, remedy: &str| rejected("EndpointSlice", key, field, message, remedy);
        let labels = object.metadata.labels.unwrap_or_default();
        let Some(service) = labels.get(LABEL_SERVICE_NAME) else { return Ok(None) };
        // What the operator wrote from other clusters' words has come by the mesh already, with its cluster's name.
        let copied = labels.get(LABEL_SLICE_MANAGED_BY).is_some_and(|by| by == SLICE_MANAGED_BY_MESH);
        if copied || object.address_type == "FQDN" {
            return Ok(None);
        }
        let mut ports = Vec::new();
        for (i, p) in object.ports.unwrap_or_default().into_iter().enumerate() {
            // A port without number is "all ports", which a Service cannot ask for.
            let Some(number) = p.port else { continue };
            let field = format!("ports[{i}].port");
            let port = u16::try_from(number).ok().filter(|n| *n != 0);
            let port = port.ok_or_else(|| bad(&field, format!("{number} is not a port"), "write 1 to 65535"))?;
            // The Service, which people write, carries the warning.
            let Some(proto) = served(p.protocol.as_deref().unwrap_or("TCP")) else { continue };
            ports.push(SlicePort { name: p.name.unwrap_or_default().into(), port, proto });
        }
        let mut endpoints = Vec::new();
        for (i, e) in object.endpoints.unwrap_or_default().into_iter().enumerate() {
            let conditions = e.conditions.unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            let serving = conditions.serving.unwrap_or(ready);
            let terminating = conditions.terminating.unwrap_or(false);
            // All addresses of an endpoint are the same endpoint; Kubernetes says to use the first.
            let Some(text) = e.addresses.first() else { continue };
            let address = text.parse().map_err(|_| {
                bad(&format!("endpoints[{i}].addresses[0]"), format!("{text:?} is not an IP address"), "write one")
            })?;
            let local = e.node_name.as_deref() == Some(self.node.as_str());
            endpoints.push(SliceEndpoint { address, ready, draining: serving && terminating && !ready, local });
        }
        let row = Slice { ports: ports.into(), endpoints: endpoints.into(), seen: Stamp::now() };
        let service = Key::new(key.namespace.clone(), service.clone());
        Ok(Some((SliceKey { service, name: key.name.clone() }, row)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: serde_json::Value) -> Result<Option<(SliceKey, Slice)>, Rejected> {
        let object: Object = serde_json::from_value(json).unwrap();
        Reader { node: "n1".into() }.read(&Key::new("default", "web-1"), object)
    }

    #[test]
    fn conditions_decide() {
        let cases = [
            (serde_json::json!({}), true, false),
            (serde_json::json!({"ready": true}), true, false),
            (serde_json::json!({"ready": false}), false, false),
            (serde_json::json!({"ready": false, "serving": true, "terminating": true}), false, true),
            (serde_json::json!({"ready": false, "serving": false, "terminating": true}), false, false),
            (serde_json::json!({"ready": false, "serving": true, "terminating": false}), false, false),
        ];
        for (conditions, ready, draining) in cases {
            let slice = serde_json::json!({
                "metadata": {"labels": {LABEL_SERVICE_NAME: "web"}}, "addressType": "IPv4",
                "endpoints": [{"addresses": ["10.1.1.2"], "nodeName": "n1", "conditions": conditions}],
                "ports": [{"name": "http", "port": 8080}],
            });
            let (key, row) = read(slice).unwrap().unwrap();
            assert_eq!(key.service, Key::new("default", "web"));
            let e = &row.endpoints[0];
            assert_eq!((e.ready, e.draining, e.local), (ready, draining, true), "{conditions}");
        }
    }

    #[test]
    fn a_slice_of_no_service_or_of_names_is_no_row() {
        assert!(read(serde_json::json!({"addressType": "IPv4", "endpoints": []})).unwrap().is_none());
        let fqdn = serde_json::json!({
            "metadata": {"labels": {LABEL_SERVICE_NAME: "web"}}, "addressType": "FQDN",
            "endpoints": [{"addresses": ["example.org"]}]});
        assert!(read(fqdn).unwrap().is_none());
        let copied = serde_json::json!({
            "metadata": {"labels": {LABEL_SERVICE_NAME: "web", LABEL_SLICE_MANAGED_BY: SLICE_MANAGED_BY_MESH}},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.2.1.2"]}]});
        assert!(read(copied).unwrap().is_none());
    }

    #[test]
    fn a_port_that_cannot_be_served_is_left_out() {
        let slice = serde_json::json!({
            "metadata": {"labels": {LABEL_SERVICE_NAME: "web"}}, "addressType": "IPv4", "endpoints": [],
            "ports": [{"name": "a", "port": 80, "protocol": "SCTP"}, {"name": "b", "port": 81}]});
        let (_, row) = read(slice).unwrap().unwrap();
        assert_eq!(row.ports.iter().map(|p| &*p.name).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_bad_address_is_named() {
        let slice = serde_json::json!({
            "metadata": {"labels": {LABEL_SERVICE_NAME: "web"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.1.1.2"]}, {"addresses": ["10.1.1"]}]});
        assert_eq!(read(slice).unwrap_err().field, "endpoints[1].addresses[0]");
    }
}
