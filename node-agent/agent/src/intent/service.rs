//! Services.

use std::collections::BTreeMap;
use std::net::IpAddr;

use causeway_datapath_loader::Proto;
use causeway_k8s::names::LABEL_SERVICE_PROXY_NAME;
use k8s_openapi::api::core::v1::{Service as Object, ServicePort};

use super::{Key, Read, Rejected, rejected};

/// A Service with addresses of its own; headless ones and names for other hosts are no rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) cluster_ips: Box<[IpAddr]>,
    pub(crate) external_ips: Box<[IpAddr]>,
    /// Addresses that an IPAM gave: `status.loadBalancer.ingress`.
    pub(crate) load_balancer_ips: Box<[IpAddr]>,
    pub(crate) load_balancer_class: Option<String>,
    pub(crate) ports: Box<[Port]>,
    /// `externalTrafficPolicy: Local`.
    pub(crate) external_local: bool,
    /// `internalTrafficPolicy: Local`.
    pub(crate) internal_local: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    /// Empty when the Service has one port without name.
    pub(crate) name: Box<str>,
    pub(crate) port: u16,
    pub(crate) proto: Proto,
}

/// Reads Services.
pub(crate) struct Reader;

impl Read<Object> for Reader {
    type Key = Key;
    type Row = Service;

    fn read(&self, key: &Key, object: Object) -> Result<Option<(Key, Service)>, Rejected> {
        let labels = object.metadata.labels.unwrap_or_default();
        let spec = object.spec.unwrap_or_default();
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        if kind == "ExternalName" || labels.contains_key(LABEL_SERVICE_PROXY_NAME) {
            return Ok(None);
        }
        let mut cluster_ips = spec.cluster_ips.unwrap_or_default();
        if cluster_ips.is_empty() {
            cluster_ips.extend(spec.cluster_ip);
        }
        if cluster_ips.iter().all(|ip| ip.is_empty() || ip == "None") {
            return Ok(None);
        }
        let address = |field: &str, text: &str| {
            text.parse::<IpAddr>().map_err(|_| {
                rejected(
                    "Service",
                    key,
                    field,
                    format!("{text:?} is not an IP address"),
                    "write an IPv4 or IPv6 address",
                )
            })
        };
        let ingress = object.status.and_then(|s| s.load_balancer).and_then(|l| l.ingress).unwrap_or_default();
        // `ipMode: Proxy` says that packets do not arrive with this destination address.
        let ingress = ingress.into_iter().filter(|i| i.ip_mode.as_deref().is_none_or(|m| m == "VIP"));
        Ok(Some((
            key.clone(),
            Service {
                labels,
                cluster_ips: cluster_ips.iter().map(|ip| address("spec.clusterIPs", ip)).collect::<Result<_, _>>()?,
                external_ips: spec
                    .external_ips
                    .unwrap_or_default()
                    .iter()
                    .map(|ip| address("spec.externalIPs", ip))
                    .collect::<Result<_, _>>()?,
                load_balancer_ips: ingress
                    .filter_map(|i| i.ip)
                    .filter(|_| kind == "LoadBalancer")
                    .map(|ip| address("status.loadBalancer.ingress", &ip))
                    .collect::<Result<_, _>>()?,
                load_balancer_class: spec.load_balancer_class,
                ports: spec
                    .ports
                    .unwrap_or_default()
                    .into_iter()
                    .enumerate()
                    .map(|(i, p)| port(key, i, p))
                    .collect::<Result<_, _>>()?,
                external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
                internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            },
        )))
    }
}

fn port(key: &Key, index: usize, port: ServicePort) -> Result<Port, Rejected> {
    let field = |name: &str| format!("spec.ports[{index}].{name}");
    let number = u16::try_from(port.port).ok().filter(|p| *p != 0).ok_or_else(|| {
        rejected(
            "Service",
            key,
            &field("port"),
            format!("{} is not a port", port.port),
            "write a number from 1 to 65535",
        )
    })?;
    let proto = port
        .protocol
        .as_deref()
        .unwrap_or("TCP")
        .parse()
        .map_err(|e: String| rejected("Service", key, &field("protocol"), e, "write TCP or UDP"))?;
    Ok(Port { name: port.name.unwrap_or_default().into(), port: number, proto })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: serde_json::Value) -> Result<Option<Service>, Rejected> {
        let object: Object = serde_json::from_value(json).unwrap();
        Ok(Reader.read(&Key::new("default", "web"), object)?.map(|(_, row)| row))
    }

    #[test]
    fn only_services_with_addresses_of_their_own_are_rows() {
        for spec in [
            serde_json::json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            serde_json::json!({"type": "ExternalName", "externalName": "example.org"}),
            serde_json::json!({}),
        ] {
            assert_eq!(read(serde_json::json!({"spec": spec})).unwrap(), None);
        }
        let proxied = serde_json::json!({"metadata": {"labels": {LABEL_SERVICE_PROXY_NAME: "other"}}, "spec": {"clusterIP": "10.96.0.1"}});
        assert_eq!(read(proxied).unwrap(), None);
    }

    #[test]
    fn ingress_addresses_count_only_for_load_balancers_without_proxy() {
        let status = serde_json::json!({"loadBalancer": {"ingress": [
            {"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}, {"hostname": "x"}]}});
        let spec = |kind: &str| serde_json::json!({"type": kind, "clusterIPs": ["10.96.0.1", "fd00:96::1"]});
        let lb = read(serde_json::json!({"spec": spec("LoadBalancer"), "status": status})).unwrap().unwrap();
        assert_eq!(*lb.load_balancer_ips, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(lb.cluster_ips.len(), 2);
        let cluster = read(serde_json::json!({"spec": spec("ClusterIP"), "status": status})).unwrap().unwrap();
        assert!(cluster.load_balancer_ips.is_empty());
    }

    #[test]
    fn mistakes_name_the_field() {
        let bad_port =
            serde_json::json!({"spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}, {"port": 70000}]}});
        let e = read(bad_port).unwrap_err();
        assert_eq!((e.object.as_str(), e.field.as_str()), ("default/web", "spec.ports[1].port"));
        let bad_ip = serde_json::json!({"spec": {"clusterIP": "10.96.0.1", "externalIPs": ["here"]}});
        assert!(read(bad_ip).unwrap_err().message.contains("\"here\""));
    }
}
