//! The remote backends of a Service as endpoints, grouped by what one EndpointSlice can hold: one cluster, one family, one
//! set of ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_mesh_remote::Stage;
use causeway_mesh_schema::{AddressType, ClusterEndpointSlice, ClusterService, Zone};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};

use super::{Remote, Words};
use crate::plan::{IPV4, IPV6};

/// What one slice can hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) cluster: String,
    pub(super) family: &'static str,
    pub(super) ports: BTreeSet<Port>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    name: String,
    protocol: String,
    port: Option<i32>,
    app_protocol: Option<String>,
}

/// Endpoints by address, since one address is one backend.
pub(super) type Groups = BTreeMap<Group, BTreeMap<String, Endpoint>>;

impl From<&EndpointPort> for Port {
    fn from(port: &EndpointPort) -> Port {
        Port {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: port.port,
            app_protocol: port.app_protocol.clone(),
        }
    }
}

impl From<&Port> for EndpointPort {
    fn from(port: &Port) -> EndpointPort {
        EndpointPort {
            name: Some(port.name.clone()),
            protocol: Some(port.protocol.clone()),
            port: port.port,
            app_protocol: port.app_protocol.clone(),
        }
    }
}

/// Whether anybody but clusters whose backends count as lost has a ready backend.
pub(super) fn is_served(local: &[&EndpointSlice], remotes: &[&Remote<'_>]) -> bool {
    let ready = |endpoint: &Endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
    let here = local.iter().flat_map(|slice| slice.endpoints.iter().flatten()).any(ready);
    here || remotes.iter().filter(|remote| remote.stage < Stage::Revoked).any(|remote| match &remote.words {
        Words::Service(service) => service.shared && !service.backends.is_empty(),
        Words::Slices(slices) => {
            slices.iter().flat_map(|slice| &slice.endpoints).any(|endpoint| endpoint.ready.unwrap_or(true))
        }
    })
}

/// Backends of families that the Service has. `served`: as of [`is_served`].
pub(super) fn groups(remotes: &[&Remote<'_>], service: &Service, served: bool) -> Groups {
    let mut groups = Groups::new();
    for remote in remotes {
        match &remote.words {
            Words::Service(service) => of_service(remote.cluster, service, &mut groups),
            Words::Slices(slices) => slices.iter().for_each(|slice| of_slice(remote.cluster, slice, &mut groups)),
        }
    }
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref());
    groups.retain(|group, _| families.is_none_or(|families| families.iter().any(|family| family == group.family)));
    let lost: BTreeSet<&str> =
        remotes.iter().filter(|remote| served && remote.stage >= Stage::Revoked).map(|remote| remote.cluster).collect();
    for (_, endpoints) in groups.iter_mut().filter(|(group, _)| lost.contains(group.cluster.as_str())) {
        for endpoint in endpoints.values_mut() {
            let conditions = endpoint.conditions.get_or_insert_default();
            (conditions.ready, conditions.serving) = (Some(false), Some(false));
        }
    }
    groups
}

fn of_service(cluster: &str, service: &ClusterService, groups: &mut Groups) {
    // It says so only in this format; the other has no entry for what is not shared.
    if !service.shared {
        return;
    }
    for (address, ports) in &service.backends {
        let ports = ports.iter().map(|(name, l4)| Port {
            name: name.clone(),
            protocol: l4.protocol.clone(),
            port: Some(i32::from(l4.port)),
            app_protocol: None,
        });
        let family = family(address);
        let group = Group { cluster: cluster.to_owned(), family, ports: ports.collect() };
        let zone = service.zones.get(address);
        let endpoint = Endpoint {
            addresses: vec![address.to_string()],
            // Only backends that serve are named.
            conditions: Some(EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) }),
            hostname: service.hostnames.get(address).cloned(),
            zone: zone.map(|zone| zone.zone.clone()).filter(|zone| !zone.is_empty()),
            hints: zone.and_then(hints),
            ..Endpoint::default()
        };
        groups.entry(group).or_default().insert(address.to_string(), endpoint);
    }
}

fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { IPV4 } else { IPV6 }
}

fn hints(zone: &Zone) -> Option<EndpointHints> {
    let for_zones: Vec<ForZone> = zone.for_zones.iter().map(|zone| ForZone { name: zone.name.clone() }).collect();
    (!for_zones.is_empty()).then_some(EndpointHints { for_zones: Some(for_zones), for_nodes: None })
}

/// A node's name means nothing in another cluster, so it is left out.
fn of_slice(cluster: &str, slice: &ClusterEndpointSlice, groups: &mut Groups) {
    let ports = slice.ports.iter().map(|port| Port {
        name: port.name.clone().unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
        port: port.port,
        app_protocol: port.app_protocol.clone(),
    });
    let family = match slice.address_type {
        AddressType::Ipv4 => IPV4,
        AddressType::Ipv6 => IPV6,
    };
    let group = groups.entry(Group { cluster: cluster.to_owned(), family, ports: ports.collect() }).or_default();
    for endpoint in &slice.endpoints {
        // Further addresses of an endpoint have no meaning (Kubernetes `EndpointSlice`).
        let Some(address) = endpoint.addresses.first() else { continue };
        let for_zones: Vec<_> = endpoint.for_zones.iter().map(|name| ForZone { name: name.clone() }).collect();
        let for_nodes: Vec<_> = endpoint.for_nodes.iter().map(|name| ForNode { name: name.clone() }).collect();
        let hints = EndpointHints {
            for_zones: Some(for_zones).filter(|zones| !zones.is_empty()),
            for_nodes: Some(for_nodes).filter(|nodes| !nodes.is_empty()),
        };
        let conditions =
            EndpointConditions { ready: endpoint.ready, serving: endpoint.serving, terminating: endpoint.terminating };
        let endpoint = Endpoint {
            addresses: vec![address.clone()],
            conditions: (conditions != EndpointConditions::default()).then_some(conditions),
            hostname: endpoint.hostname.clone(),
            zone: endpoint.zone.clone(),
            hints: (hints != EndpointHints::default()).then_some(hints),
            ..Endpoint::default()
        };
        group.insert(address.clone(), endpoint);
    }
}
