//! `endpointslices/v1`: an EndpointSlice of a global Service (Cilium
//! `pkg/clustermesh/types/endpointslice.ClusterEndpointSlice`): proto2 in one zstd frame.

use std::collections::BTreeMap;

use crate::proto::{
    self, ConditionsMessage, EndpointMessage, Entry, HintsMessage, NameMessage, PortMessage, SliceMessage,
};
use crate::{Invalid, Kind};

/// Field numbers as Cilium's `generated.proto`; endpoints and ports as Kubernetes' `discovery/v1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterEndpointSlice {
    pub cluster: String,
    pub cluster_id: u32,
    pub namespace: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub address_type: AddressType,
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<EndpointPort>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AddressType {
    #[default]
    Ipv4,
    Ipv6,
}

/// `discovery.k8s.io/v1` `Endpoint`, as far as Cilium's slim form has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoint {
    pub addresses: Vec<String>,
    /// `None` means ready.
    pub ready: Option<bool>,
    /// `None` means as `ready`.
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
    pub hostname: Option<String>,
    pub node_name: Option<String>,
    pub zone: Option<String>,
    /// `hints.forZones`, by name.
    pub for_zones: Vec<String>,
    /// `hints.forNodes`, by name.
    pub for_nodes: Vec<String>,
}

/// `discovery.k8s.io/v1` `EndpointPort`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointPort {
    pub name: Option<String>,
    pub protocol: Option<String>,
    pub port: Option<i32>,
    pub app_protocol: Option<String>,
}

impl AddressType {
    /// As it stands in the message.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            AddressType::Ipv4 => "IPv4",
            AddressType::Ipv6 => "IPv6",
        }
    }
}

impl ClusterEndpointSlice {
    /// The message that Cilium writes, in one zstd frame. The message is equal byte for byte; the frame differs, since
    /// compressors choose freely.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        proto::pack(&self.clone().into())
    }

    /// `name` is the entry's name, for errors.
    ///
    /// # Errors
    /// Not zstd, more than 16 MiB, not the message, more endpoints or ports than Kubernetes allows by far, or an address
    /// type that is neither IPv4 nor IPv6. Whether it belongs to a cluster is [`read`](crate::read)'s matter.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<ClusterEndpointSlice, Invalid> {
        let what = Kind::EndpointSlices.entry(name);
        let bad = |problem: String| Invalid::new(&what, problem, Invalid::WRITER);
        let message = proto::unpack(bytes).map_err(bad)?;
        let address_type = match message.address_type.as_deref().unwrap_or_default() {
            "IPv4" => AddressType::Ipv4,
            "IPv6" => AddressType::Ipv6,
            other => return Err(bad(format!("the address type {other:?} is neither IPv4 nor IPv6"))),
        };
        Ok(ClusterEndpointSlice {
            cluster: message.cluster.unwrap_or_default(),
            cluster_id: message.cluster_id.unwrap_or_default(),
            namespace: message.namespace.unwrap_or_default(),
            name: message.name.unwrap_or_default(),
            labels: map(message.labels),
            annotations: map(message.annotations),
            address_type,
            endpoints: message.endpoints.into_iter().map(Endpoint::from).collect(),
            ports: message.ports.into_iter().map(EndpointPort::from).collect(),
        })
    }
}

impl From<ClusterEndpointSlice> for SliceMessage {
    fn from(slice: ClusterEndpointSlice) -> SliceMessage {
        SliceMessage {
            cluster: Some(slice.cluster),
            cluster_id: Some(slice.cluster_id),
            namespace: Some(slice.namespace),
            name: Some(slice.name),
            labels: entries(slice.labels),
            annotations: entries(slice.annotations),
            address_type: Some(slice.address_type.word().to_owned()),
            endpoints: slice.endpoints.into_iter().map(EndpointMessage::from).collect(),
            ports: slice.ports.into_iter().map(PortMessage::from).collect(),
        }
    }
}

impl From<Endpoint> for EndpointMessage {
    fn from(endpoint: Endpoint) -> EndpointMessage {
        let Endpoint { ready, serving, terminating, for_zones, for_nodes, .. } = endpoint;
        let hinted = !for_zones.is_empty() || !for_nodes.is_empty();
        EndpointMessage {
            addresses: endpoint.addresses,
            conditions: Some(ConditionsMessage { ready, serving, terminating }),
            hostname: endpoint.hostname,
            node_name: endpoint.node_name,
            zone: endpoint.zone,
            hints: hinted.then(|| HintsMessage { for_zones: named(for_zones), for_nodes: named(for_nodes) }),
        }
    }
}

impl From<EndpointMessage> for Endpoint {
    fn from(message: EndpointMessage) -> Endpoint {
        let conditions = message.conditions.unwrap_or_default();
        let hints = message.hints.unwrap_or_default();
        Endpoint {
            addresses: message.addresses,
            ready: conditions.ready,
            serving: conditions.serving,
            terminating: conditions.terminating,
            hostname: message.hostname,
            node_name: message.node_name,
            zone: message.zone,
            for_zones: names(hints.for_zones),
            for_nodes: names(hints.for_nodes),
        }
    }
}

impl From<EndpointPort> for PortMessage {
    fn from(EndpointPort { name, protocol, port, app_protocol }: EndpointPort) -> PortMessage {
        PortMessage { name, protocol, port, app_protocol }
    }
}

impl From<PortMessage> for EndpointPort {
    fn from(PortMessage { name, protocol, port, app_protocol }: PortMessage) -> EndpointPort {
        EndpointPort { name, protocol, port, app_protocol }
    }
}

fn entries(map: BTreeMap<String, String>) -> Vec<Entry> {
    map.into_iter().map(|(key, value)| Entry { key: Some(key), value: Some(value) }).collect()
}

fn map(entries: Vec<Entry>) -> BTreeMap<String, String> {
    entries.into_iter().map(|e| (e.key.unwrap_or_default(), e.value.unwrap_or_default())).collect()
}

fn named(names: Vec<String>) -> Vec<NameMessage> {
    names.into_iter().map(|name| NameMessage { name: Some(name) }).collect()
}

fn names(messages: Vec<NameMessage>) -> Vec<String> {
    messages.into_iter().map(|message| message.name.unwrap_or_default()).collect()
}
