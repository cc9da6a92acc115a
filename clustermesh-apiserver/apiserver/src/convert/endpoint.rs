//! `CiliumEndpoint` and `CiliumEndpointSlice` -> [`IpIdentity`], one per address.

use std::net::IpAddr;

use causeway_k8s::rejected::Fault;
use causeway_k8s::{CiliumEndpoint, CiliumEndpointSlice, EndpointNetworking, NamedPort as K8sNamedPort};
use causeway_mesh_schema::{IpIdentity, NamedPort};
use ipnet::IpNet;

use super::node::encryption_key;
use super::{Converted, read};

/// What both kinds say of a pod.
struct Pod<'a> {
    /// Where in the object it stands.
    field: &'a str,
    namespace: &'a str,
    name: &'a str,
    service_account: &'a str,
    identity: i64,
    key: Option<i64>,
    named_ports: &'a [K8sNamedPort],
    networking: &'a EndpointNetworking,
}

/// Nothing without an identity: its agent has not found one yet.
pub(crate) fn endpoint(object: &CiliumEndpoint) -> Converted<Vec<IpIdentity>> {
    let mut converted = Converted { value: Vec::new(), faults: Vec::new() };
    let Some(status) = &object.status else { return converted };
    let (Some(networking), Some(identity)) = (&status.networking, status.identity.as_ref().and_then(|i| i.id)) else {
        return converted;
    };
    let pod = Pod {
        field: "status",
        namespace: object.metadata.namespace.as_deref().unwrap_or_default(),
        name: object.metadata.name.as_deref().unwrap_or_default(),
        service_account: status.service_account.as_deref().unwrap_or_default(),
        identity,
        key: status.encryption.as_ref().and_then(|encryption| encryption.key),
        named_ports: &status.named_ports,
        networking,
    };
    pod.tell(&mut converted);
    converted
}

pub(crate) fn endpoint_slice(object: &CiliumEndpointSlice) -> Converted<Vec<IpIdentity>> {
    let mut converted = Converted { value: Vec::new(), faults: Vec::new() };
    for (index, endpoint) in object.endpoints.iter().enumerate() {
        let (Some(networking), Some(identity)) = (&endpoint.networking, endpoint.id) else { continue };
        let pod = Pod {
            field: &format!("endpoints[{index}]"),
            namespace: object.namespace.as_deref().unwrap_or_default(),
            name: endpoint.name.as_deref().unwrap_or_default(),
            service_account: endpoint.service_account.as_deref().unwrap_or_default(),
            identity,
            key: endpoint.encryption.as_ref().and_then(|encryption| encryption.key),
            named_ports: &endpoint.named_ports,
            networking,
        };
        pod.tell(&mut converted);
    }
    converted
}

impl Pod<'_> {
    fn tell(&self, converted: &mut Converted<Vec<IpIdentity>>) {
        let Converted { value, faults } = converted;
        let field = self.field;
        let Ok(identity) = u32::try_from(self.identity) else {
            let message = format!("{} is no identity", self.identity);
            faults.push(Fault::new(format!("{field}.identity"), message, "its agent writes it; restart that agent"));
            return;
        };
        let key = encryption_key(faults, &format!("{field}.encryption.key"), self.key);
        let node = self.networking.node.as_deref().filter(|node| !node.is_empty());
        let host_ip = node.and_then(|node| read(faults, || format!("{field}.networking.node"), node));
        let named_ports = self.named_ports(faults);
        for (index, pair) in self.networking.addressing.iter().enumerate() {
            for (family, text) in [("ipv4", &pair.ipv4), ("ipv6", &pair.ipv6)] {
                let Some(text) = text.as_deref().filter(|text| !text.is_empty()) else { continue };
                let name = || format!("{field}.networking.addressing[{index}].{family}");
                let Some(ip) = read::<IpAddr>(faults, name, text) else { continue };
                value.push(IpIdentity {
                    prefix: IpNet::from(ip),
                    host_ip,
                    identity,
                    encryption_key: key,
                    metadata: String::new(),
                    k8s_namespace: self.namespace.to_owned(),
                    k8s_pod_name: self.name.to_owned(),
                    k8s_service_account: self.service_account.to_owned(),
                    named_ports: named_ports.clone(),
                });
            }
        }
    }

    fn named_ports(&self, faults: &mut Vec<Fault>) -> Vec<NamedPort> {
        let mut told = Vec::new();
        for (index, port) in self.named_ports.iter().enumerate() {
            let number = port.port.unwrap_or_default();
            let Ok(number) = u16::try_from(number) else {
                let field = format!("{}.named-ports[{index}].port", self.field);
                faults.push(Fault::new(field, format!("{number} is no port"), "write 1 to 65535"));
                continue;
            };
            told.push(NamedPort {
                name: port.name.clone().unwrap_or_default(),
                port: number,
                protocol: port.protocol.clone().unwrap_or_default(),
            });
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::object;
    use super::*;

    fn shown(entries: &[IpIdentity]) -> Vec<String> {
        let one = |e: &IpIdentity| {
            let host = e.host_ip.map(|host| host.to_string()).unwrap_or_default();
            let ports: Vec<_> = e.named_ports.iter().map(|p| format!("{}={}/{}", p.name, p.port, p.protocol)).collect();
            format!(
                "{} @{host} id {} key {} {}/{} sa {} {}",
                e.prefix,
                e.identity,
                e.encryption_key,
                e.k8s_namespace,
                e.k8s_pod_name,
                e.k8s_service_account,
                ports.join(",")
            )
        };
        entries.iter().map(|entry| one(entry).trim_end().to_owned()).collect()
    }

    #[test]
    fn an_endpoint_has_an_entry_per_address() {
        let converted = endpoint(&object(
            "metadata: {name: web-1, namespace: shop}
status:
  id: 7
  identity: {id: 199475}
  encryption: {key: 5}
  service-account: default
  named-ports: [{name: http, port: 8080, protocol: TCP}, {name: big, port: 70000, protocol: UDP}]
  networking: {node: 192.0.2.2, addressing: [{ipv4: 10.3.0.7, ipv6: 'fd00:3::7'}, {ipv4: 10.3.0.8}, {ipv4: ten}]}",
        ));
        assert_eq!(
            shown(&converted.value),
            [
                "10.3.0.7/32 @192.0.2.2 id 199475 key 5 shop/web-1 sa default http=8080/TCP",
                "fd00:3::7/128 @192.0.2.2 id 199475 key 5 shop/web-1 sa default http=8080/TCP",
                "10.3.0.8/32 @192.0.2.2 id 199475 key 5 shop/web-1 sa default http=8080/TCP",
            ]
        );
        let fields: Vec<_> = converted.faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["status.named-ports[1].port", "status.networking.addressing[2].ipv4"]);
    }

    #[test]
    fn an_endpoint_that_is_not_ready_tells_nothing() {
        for status in ["{}", "{identity: {id: 70000}}", "{networking: {addressing: [{ipv4: 10.3.0.7}]}}"] {
            let converted = endpoint(&object(&format!("{{metadata: {{name: a, namespace: b}}, status: {status}}}")));
            assert_eq!((converted.value.len(), converted.faults.len()), (0, 0), "{status}");
        }
        assert!(endpoint(&object("metadata: {name: a, namespace: b}")).value.is_empty());
    }

    #[test]
    fn a_slice_tells_of_all_its_endpoints() {
        let converted = endpoint_slice(&object(
            "metadata: {name: ces-1}
namespace: shop
endpoints:
- {name: a, id: 199472, service-account: default, networking: {node: 192.0.2.2, addressing: [{ipv4: 10.3.0.7}]}, encryption: {}}
- {name: b, id: 199475, encryption: {key: 5}, networking: {node: 192.0.2.3, addressing: [{ipv6: 'fd00:3::7'}]}}
- {name: c, id: -1, networking: {node: 192.0.2.3, addressing: [{ipv4: 10.3.0.9}]}}",
        ));
        assert_eq!(
            shown(&converted.value),
            [
                "10.3.0.7/32 @192.0.2.2 id 199472 key 0 shop/a sa default",
                "fd00:3::7/128 @192.0.2.3 id 199475 key 5 shop/b sa"
            ]
        );
        assert_eq!(converted.faults[0].field, "endpoints[2].identity");
    }
}
