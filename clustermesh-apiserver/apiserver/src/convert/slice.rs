//! `EndpointSlice` -> [`ClusterEndpointSlice`], and its serving backends for `services/v1`.

use std::net::IpAddr;

use causeway_k8s::names::{LABEL_SERVICE_NAME, LABEL_SLICE_MANAGED_BY, SLICE_MANAGED_BY_MESH};
use causeway_k8s::rejected::Fault;
use causeway_mesh_schema::{AddressType, ClusterEndpointSlice, Endpoint, EndpointPort, Ports};
use k8s_openapi::api::discovery::v1 as discovery;

use super::service::l4;
use super::{Converted, Home, read};

/// What is known of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// Name of the Service, in the slice's namespace.
    pub(crate) service: String,
    pub(crate) slice: ClusterEndpointSlice,
    /// Those that serve; not ready ones may, while they terminate.
    pub(crate) backends: Box<[Backend]>,
    /// Of every backend.
    pub(crate) ports: Ports,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) ip: IpAddr,
    /// Takes new connections, as opposed to: ends, and still answers.
    pub(crate) ready: bool,
    pub(crate) hostname: Option<Box<str>>,
    pub(crate) zone: Option<Box<str>>,
    pub(crate) for_zones: Box<[Box<str>]>,
}

/// `None`: the slice is of no Service, has names in place of addresses, or was itself written from the mesh.
pub(crate) fn slice(home: &Home, object: &discovery::EndpointSlice) -> Option<Converted<Told>> {
    let labels = object.metadata.labels.as_ref()?;
    let service = labels.get(LABEL_SERVICE_NAME).filter(|name| !name.is_empty())?;
    if labels.get(LABEL_SLICE_MANAGED_BY).is_some_and(|writer| writer == SLICE_MANAGED_BY_MESH) {
        return None;
    }
    let address_type = match object.address_type.as_str() {
        "IPv4" => AddressType::Ipv4,
        "IPv6" => AddressType::Ipv6,
        _ => return None,
    };
    let mut faults = Vec::new();
    let endpoints = endpoints(&mut faults, object, address_type);
    let slice = ClusterEndpointSlice {
        cluster: home.name.to_string(),
        cluster_id: home.id.into(),
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
        labels: labels.clone(),
        annotations: object.metadata.annotations.clone().unwrap_or_default(),
        address_type,
        ports: object.ports.iter().flatten().map(port).collect(),
        endpoints,
    };
    let backends = slice.endpoints.iter().filter(|endpoint| serves(endpoint)).flat_map(backends).collect();
    let ports = ports(&mut faults, &slice.ports);
    Some(Converted { value: Told { service: service.clone(), slice, backends, ports }, faults })
}

fn endpoints(faults: &mut Vec<Fault>, object: &discovery::EndpointSlice, family: AddressType) -> Vec<Endpoint> {
    let mut told = Vec::new();
    for (index, endpoint) in object.endpoints.iter().flatten().enumerate() {
        let mut addresses = Vec::new();
        for (at, text) in endpoint.addresses.iter().enumerate() {
            let field = || format!("endpoints[{index}].addresses[{at}]");
            let Some(ip) = read::<IpAddr>(faults, field, text) else { continue };
            if ip.is_ipv4() == (family == AddressType::Ipv4) {
                addresses.push(text.clone());
            } else {
                let message = format!("{ip} is not of addressType {}", object.address_type);
                faults.push(Fault::new(field(), message, "write one family in a slice"));
            }
        }
        if addresses.is_empty() {
            continue;
        }
        let conditions = endpoint.conditions.as_ref();
        let hints = endpoint.hints.as_ref();
        told.push(Endpoint {
            addresses,
            ready: conditions.and_then(|conditions| conditions.ready),
            serving: conditions.and_then(|conditions| conditions.serving),
            terminating: conditions.and_then(|conditions| conditions.terminating),
            hostname: endpoint.hostname.clone(),
            node_name: endpoint.node_name.clone(),
            zone: endpoint.zone.clone(),
            for_zones: names(hints.and_then(|hints| hints.for_zones.as_ref()), |zone| &zone.name),
            for_nodes: names(hints.and_then(|hints| hints.for_nodes.as_ref()), |node| &node.name),
        });
    }
    told
}

fn names<T>(list: Option<&Vec<T>>, name: impl Fn(&T) -> &String) -> Vec<String> {
    list.into_iter().flatten().map(|item| name(item).clone()).collect()
}

fn port(port: &discovery::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: port.name.clone(),
        protocol: port.protocol.clone(),
        port: port.port,
        app_protocol: port.app_protocol.clone(),
    }
}

/// Ready, or still answering while it terminates. Absent conditions mean yes (Kubernetes `EndpointConditions`).
fn serves(endpoint: &Endpoint) -> bool {
    let ready = endpoint.ready.unwrap_or(true);
    ready || endpoint.serving.unwrap_or(ready)
}

fn backends(endpoint: &Endpoint) -> impl Iterator<Item = Backend> {
    let boxed = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(Box::from);
    let ips = endpoint.addresses.iter().filter_map(|address| address.parse().ok());
    ips.map(move |ip| Backend {
        ip,
        ready: endpoint.ready.unwrap_or(true),
        hostname: boxed(&endpoint.hostname),
        zone: boxed(&endpoint.zone),
        for_zones: endpoint.for_zones.iter().map(|zone| zone.as_str().into()).collect(),
    })
}

/// A port without a number stands for all ports, which `services/v1` cannot say.
fn ports(faults: &mut Vec<Fault>, ports: &[EndpointPort]) -> Ports {
    let mut told = Ports::new();
    for (index, port) in ports.iter().enumerate() {
        let Some(number) = port.port else { continue };
        let Ok(number) = u16::try_from(number) else {
            let field = format!("ports[{index}].port");
            faults.push(Fault::new(field, format!("{number} is no port"), "write 1 to 65535"));
            continue;
        };
        told.insert(port.name.clone().unwrap_or_default(), l4(port.protocol.as_deref(), number));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::super::tests::{home, object};
    use super::*;

    const LABELS: &str = "labels: {kubernetes.io/service-name: web}";

    fn told(yaml: &str) -> Converted<Told> {
        let head = format!("metadata: {{name: web-1, namespace: shop, {LABELS}}}\n");
        slice(&home(), &object(&(head + yaml))).unwrap()
    }

    #[test]
    fn conditions_hints_and_ports_are_kept() {
        let converted = told(
            "addressType: IPv4
endpoints:
- {addresses: [10.3.0.7], conditions: {ready: true, serving: true, terminating: false}, nodeName: n1, hostname: web-0,
   zone: z1, hints: {forZones: [{name: z1}], forNodes: [{name: n1}]}}
- {addresses: [10.3.0.8], conditions: {ready: false, serving: false}}
ports: [{name: '', port: 8080, protocol: TCP, appProtocol: http}, {name: dns, port: 53, protocol: UDP}, {name: all}]",
        );
        assert_eq!(converted.faults, []);
        let value = converted.value;
        assert_eq!(value.service, "web");
        let first = &value.slice.endpoints[0];
        assert_eq!((first.ready, first.terminating), (Some(true), Some(false)));
        assert_eq!(
            (first.for_zones.as_slice(), first.for_nodes.as_slice()),
            (&["z1".to_owned()][..], &["n1".to_owned()][..])
        );
        assert_eq!(value.slice.endpoints.len(), 2, "endpoints that do not serve are in the slice");
        assert_eq!(value.slice.ports[0].name.as_deref(), Some(""));
        assert_eq!(value.backends.len(), 1);
        assert_eq!(
            (value.backends[0].hostname.as_deref(), value.backends[0].zone.as_deref()),
            (Some("web-0"), Some("z1"))
        );
        assert_eq!(value.ports.keys().collect::<Vec<_>>(), ["", "dns"]);
    }

    #[test]
    fn who_serves() {
        let table = [
            ("{}", true),
            ("{ready: true}", true),
            ("{ready: false}", false),
            ("{ready: false, serving: false}", false),
            ("{ready: false, serving: true, terminating: true}", true),
            ("{serving: false}", true),
        ];
        for (conditions, serves) in table {
            let yaml =
                format!("{{addressType: IPv4, endpoints: [{{addresses: [10.3.0.7], conditions: {conditions}}}]}}");
            let head = format!("{{metadata: {{name: a, namespace: b, {LABELS}}}, ");
            let converted = slice(&home(), &object(&(head + &yaml[1..]))).unwrap();
            assert_eq!(converted.value.backends.len(), usize::from(serves), "{conditions}");
        }
    }

    #[test]
    fn bad_addresses_are_named_and_left_out() {
        let converted = told(
            "addressType: IPv6\nendpoints: [{addresses: ['fd00::1', ten]}, {addresses: [10.3.0.7]}]\nports: [{port: 99999}]",
        );
        let fields: Vec<_> = converted.faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["endpoints[0].addresses[1]", "endpoints[1].addresses[0]", "ports[0].port"]);
        assert_eq!(converted.value.slice.endpoints.len(), 1);
    }

    #[test]
    fn which_slices_are_not_ours_to_tell() {
        let table = [
            ("{}", "IPv4"),
            ("{kubernetes.io/service-name: web}", "FQDN"),
            (
                "{kubernetes.io/service-name: web, endpointslice.kubernetes.io/managed-by: endpointslice-mesh-controller.cilium.io}",
                "IPv4",
            ),
        ];
        for (labels, family) in table {
            let yaml = format!(
                "{{metadata: {{name: a, namespace: b, labels: {labels}}}, addressType: {family}, endpoints: []}}"
            );
            assert_eq!(slice(&home(), &object(&yaml)), None, "{labels} {family}");
        }
    }
}
