//! Services, and what their annotations say of the mesh.

use std::collections::BTreeMap;
use std::net::IpAddr;

use causeway_datapath_loader::Proto;
use causeway_k8s::names::{
    Annotation, LABEL_SERVICE_PROXY_NAME, SERVICE_AFFINITY, SERVICE_GLOBAL, SERVICE_GLOBAL_SYNC_ENDPOINT_SLICES,
    SERVICE_SHARED,
};
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
    /// `None`: it is this cluster's alone.
    pub(crate) global: Option<Global>,
    /// Something in it is not understood and is left out; the rest is served.
    pub(crate) warning: Option<Box<Rejected>>,
}

/// A Service that is one with those of its name in the other clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Global {
    pub(crate) affinity: Affinity,
}

/// Whose backends a global Service prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Affinity {
    #[default]
    None,
    Local,
    Remote,
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

    fn warning(&self, service: &Service) -> Option<Rejected> {
        service.warning.as_deref().cloned()
    }

    fn read(&self, key: &Key, object: Object) -> Result<Option<(Key, Service)>, Rejected> {
        let mut warnings = Warnings { key, first: None };
        let global = global(object.metadata.annotations.as_ref(), &mut warnings);
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
        let mut ports = Vec::new();
        for (i, p) in spec.ports.unwrap_or_default().into_iter().enumerate() {
            ports.extend(port(key, i, p, &mut warnings)?);
        }
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
                ports: ports.into(),
                external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
                internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
                global,
                warning: warnings.first.map(Box::new),
            },
        )))
    }
}

/// The first of what is wrong with one object without making it useless.
struct Warnings<'a> {
    key: &'a Key,
    first: Option<Rejected>,
}

impl Warnings<'_> {
    fn add(&mut self, field: &str, message: String, remedy: &str) {
        self.first.get_or_insert_with(|| rejected("Service", self.key, field, message, remedy));
    }
}

/// What the annotations say. As in Cilium (`pkg/annotation`), case does not matter, whatever is not `true` is false, and
/// everything but `global` counts only on a global Service. What the Service offers to others (`shared`) and what becomes
/// of its slices is for those who write it; here only a slip of the pen is named.
fn global(annotations: Option<&BTreeMap<String, String>>, warnings: &mut Warnings<'_>) -> Option<Global> {
    let mut flag = |annotation: &Annotation| {
        let (name, value) = annotation.find(annotations)?;
        if !value.eq_ignore_ascii_case("true") && !value.eq_ignore_ascii_case("false") {
            let message = format!("{value:?} is neither true nor false and counts as false");
            warnings.add(&format!("metadata.annotations[{name}]"), message, "write true or false");
        }
        Some(value.eq_ignore_ascii_case("true"))
    };
    let global = flag(&SERVICE_GLOBAL).unwrap_or(false);
    flag(&SERVICE_SHARED);
    flag(&SERVICE_GLOBAL_SYNC_ENDPOINT_SLICES);
    let affinity = match SERVICE_AFFINITY.find(annotations) {
        None => Affinity::None,
        Some((_, value)) if value.eq_ignore_ascii_case("none") => Affinity::None,
        Some((_, value)) if value.eq_ignore_ascii_case("local") => Affinity::Local,
        Some((_, value)) if value.eq_ignore_ascii_case("remote") => Affinity::Remote,
        Some((name, value)) => {
            let message = format!("{value:?} is no affinity and counts as none");
            warnings.add(&format!("metadata.annotations[{name}]"), message, "write none, local or remote");
            Affinity::None
        }
    };
    global.then_some(Global { affinity })
}

/// `None`: a port that the datapath cannot serve; the others are not its fault.
fn port(key: &Key, index: usize, port: ServicePort, warnings: &mut Warnings<'_>) -> Result<Option<Port>, Rejected> {
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
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let Some(proto) = served(protocol) else {
        let message = format!("{protocol} is not served; the Service's other ports are");
        warnings.add(&field("protocol"), message, "use TCP or UDP");
        return Ok(None);
    };
    Ok(Some(Port { name: port.name.unwrap_or_default().into(), port: number, proto }))
}

/// A protocol whose ports the datapath translates: not SCTP, whose checksum covers them.
pub(crate) fn served(protocol: &str) -> Option<Proto> {
    protocol.parse().ok().filter(|proto| matches!(proto, Proto::Tcp | Proto::Udp))
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
    fn annotations_of_the_mesh() {
        const G: &str = "service.cilium.io/global";
        const A: &str = "service.cilium.io/affinity";
        let global = |affinity| Some(Global { affinity });
        type Case<'a> = (&'a [(&'a str, &'a str)], Option<Global>, &'a str);
        let table: [Case<'_>; 14] = [
            (&[], None, ""),
            (&[(G, "true")], global(Affinity::None), ""),
            (&[(G, "TRUE"), (A, "Local")], global(Affinity::Local), ""),
            (&[(G, "false"), (A, "local")], None, ""),
            (&[(A, "local")], None, ""),
            (&[("io.cilium/global-service", "True")], global(Affinity::None), ""),
            (&[("io.cilium/global-service", "true"), (G, "false")], None, ""),
            (&[(G, "true"), ("io.cilium/service-affinity", "REMOTE")], global(Affinity::Remote), ""),
            (&[(G, "true"), (A, "none"), ("io.cilium/service-affinity", "remote")], global(Affinity::None), ""),
            (&[(G, "true"), (A, "near")], global(Affinity::None), A),
            (&[(G, "yes")], None, G),
            (&[(G, "true"), ("service.cilium.io/shared", "no")], global(Affinity::None), "service.cilium.io/shared"),
            (&[(G, "true"), ("io.cilium/shared-service", "false")], global(Affinity::None), ""),
            (
                &[(G, "true"), ("service.cilium.io/global-sync-endpoint-slices", "1")],
                global(Affinity::None),
                "service.cilium.io/global-sync-endpoint-slices",
            ),
        ];
        for (annotations, want, warned) in table {
            let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
            let object =
                serde_json::json!({"metadata": {"annotations": annotations}, "spec": {"clusterIP": "10.96.0.1"}});
            let service = read(object).unwrap().unwrap();
            assert_eq!(service.global, want, "{annotations:?}");
            let field = Reader.warning(&service).map(|w| w.field).unwrap_or_default();
            let want = if warned.is_empty() { String::new() } else { format!("metadata.annotations[{warned}]") };
            assert_eq!(field, want, "{annotations:?}");
        }
    }

    #[test]
    fn a_port_that_cannot_be_served_does_not_spoil_the_others() {
        let spec = serde_json::json!({"clusterIP": "10.96.0.1", "ports": [
            {"name": "a", "port": 80}, {"name": "b", "port": 81, "protocol": "SCTP"}, {"name": "c", "port": 53, "protocol": "UDP"}]});
        let service = read(serde_json::json!({"spec": spec})).unwrap().unwrap();
        assert_eq!(
            service.ports.iter().map(|p| (&*p.name, p.proto)).collect::<Vec<_>>(),
            [("a", Proto::Tcp), ("c", Proto::Udp)]
        );
        let warning = Reader.warning(&service).unwrap();
        assert_eq!((warning.object.as_str(), warning.field.as_str()), ("default/web", "spec.ports[1].protocol"));
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
