//! What LB IPAM needs to know of a Service: what it asks for, with whom it may share, and what it has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::str::FromStr;

use causeway_k8s::condition::Timestamp;
use causeway_k8s::names;
use causeway_k8s::rejected::Rejected;
use causeway_k8s::watch::Key;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;

/// Settings of LB IPAM that hold for the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
    /// Whether Services that name no load balancer class are ours.
    pub(crate) serve_unclassed: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { ipv4: true, ipv6: true, serve_unclassed: true }
    }
}

/// A Service of type LoadBalancer that is ours to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LbService {
    pub(crate) key: Key,
    /// Older Services win where two want the same.
    pub(crate) created: Option<Timestamp>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) wants: Wants,
    pub(crate) sharing: Option<Sharing>,
    /// Addresses in its status, in their order.
    pub(crate) holds: Vec<IpAddr>,
    /// What it asks for cannot be read: it keeps what it holds and gets nothing new, because any other address than the
    /// one meant would be wrong.
    pub(crate) fault: Option<Rejected>,
}

/// What a Service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// One address of each of these families.
    OneOfEach { ipv4: bool, ipv6: bool },
    /// These addresses and no other.
    These(Vec<IpAddr>),
}

/// With whom a Service may share its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sharing {
    pub(crate) key: String,
    /// Other namespaces that may share; `*` is all.
    pub(crate) namespaces: BTreeSet<String>,
    pub(crate) ports: BTreeSet<(i32, String)>,
    pub(crate) local_traffic_policy: bool,
    pub(crate) selector: BTreeMap<String, String>,
    /// May share under externalTrafficPolicy Local with a Service of other pods.
    pub(crate) permit_different_pods: bool,
}

/// Whether LB IPAM serves `service` at all.
pub(crate) fn is_ours(service: &Service, settings: &Settings) -> bool {
    let Some(spec) = &service.spec else { return false };
    spec.type_.as_deref() == Some("LoadBalancer")
        && service.metadata.deletion_timestamp.is_none()
        && match spec.load_balancer_class.as_deref() {
            None => settings.serve_unclassed,
            Some(class) => class == names::LB_CLASS_BGP || class == names::LB_CLASS_L2,
        }
}

/// Reads `service`; the second part names requested addresses that are not addresses.
pub(crate) fn read(service: &Service, settings: &Settings) -> (LbService, Vec<Rejected>) {
    let spec = service.spec.clone().unwrap_or_default();
    let annotations = service.metadata.annotations.as_ref();
    let (requested, rejected) = requested_ips(service);
    let wants = match requested.is_empty() {
        true => families(&spec, settings),
        false => Wants::These(requested),
    };
    let sharing = names::LB_IPAM_SHARING_KEY.get(annotations).filter(|key| !key.is_empty()).map(|key| Sharing {
        key: key.to_owned(),
        namespaces: names::LB_IPAM_SHARING_CROSS_NAMESPACE
            .get(annotations)
            .unwrap_or_default()
            .split(',')
            .map(|namespace| namespace.trim().to_owned())
            .filter(|namespace| !namespace.is_empty())
            .collect(),
        ports: spec
            .ports
            .iter()
            .flatten()
            .map(|port| (port.port, port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())))
            .collect(),
        local_traffic_policy: spec.external_traffic_policy.as_deref() == Some("Local"),
        selector: spec.selector.clone().unwrap_or_default(),
        permit_different_pods: names::LB_IPAM_SHARING_PERMIT_DIFFERENT_PODS.get(annotations) == Some("true"),
    });
    let holds = ingress_ips(service);
    let fault = rejected.first().cloned();
    let lb_service = LbService {
        key: Key::of(service),
        created: service.creation_timestamp().map(|time| time.0),
        labels: service.labels().clone(),
        wants,
        sharing,
        holds,
        fault,
    };
    (lb_service, rejected)
}

/// Addresses in the status, without repeats.
pub(crate) fn ingress_ips(service: &Service) -> Vec<IpAddr> {
    let ingress = service.status.iter().filter_map(|s| s.load_balancer.as_ref()?.ingress.as_ref()).flatten();
    let mut ips = Vec::new();
    for ip in ingress.filter_map(|entry| IpAddr::from_str(entry.ip.as_deref()?).ok()) {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    ips
}

/// `spec.loadBalancerIP` first, then the annotation's, without repeats.
fn requested_ips(service: &Service) -> (Vec<IpAddr>, Vec<Rejected>) {
    let annotation = names::LB_IPAM_IPS.find(service.metadata.annotations.as_ref());
    let spec_ip = service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_deref());
    let spec_ip = spec_ip.map(|text| ("spec.loadBalancerIP".to_owned(), text));
    let listed = annotation
        .into_iter()
        .flat_map(|(name, value)| value.split(',').map(move |text| (format!("metadata.annotations[{name}]"), text)));
    let mut ips = Vec::new();
    let mut rejected = Vec::new();
    for (field, text) in spec_ip.into_iter().chain(listed) {
        let text = text.trim();
        match IpAddr::from_str(text) {
            _ if text.is_empty() => {}
            Ok(ip) if ips.contains(&ip) => {}
            Ok(ip) => ips.push(ip),
            Err(_) => rejected.push(Rejected {
                kind: "Service".to_owned(),
                object: Key::of(service).to_string(),
                field,
                message: format!("{text:?} is not an IP address"),
                remedy: "write IPv4 or IPv6 addresses with commas between, as 192.0.2.1,2001:db8::1".to_owned(),
            }),
        }
    }
    (ips, rejected)
}

/// Families by `ipFamilies` and `ipFamilyPolicy`. The API server fills in both; a Service that has neither gets one
/// address, IPv4 if the cluster has it.
fn families(spec: &k8s_openapi::api::core::v1::ServiceSpec, settings: &Settings) -> Wants {
    let listed: Vec<&str> = spec.ip_families.iter().flatten().map(String::as_str).collect();
    let lists = |family| listed.contains(&family);
    let (ipv4, ipv6) = match (spec.ip_family_policy.as_deref(), listed.first()) {
        (Some("RequireDualStack"), _) | (Some("PreferDualStack"), None) => (true, true),
        (Some("PreferDualStack"), Some(_)) => (lists("IPv4"), lists("IPv6")),
        (_, Some(first)) => (*first == "IPv4", *first == "IPv6"),
        (_, None) => (settings.ipv4, !settings.ipv4),
    };
    Wants::OneOfEach { ipv4: ipv4 && settings.ipv4, ipv6: ipv6 && settings.ipv6 }
}

impl LbService {
    /// Value of a label as a pool's selector sees it: two keys stand for the Service's own name and namespace.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        match key {
            names::SELECTOR_SERVICE_NAME => Some(&self.key.name),
            names::SELECTOR_SERVICE_NAMESPACE => Some(&self.key.namespace),
            _ => self.labels.get(key).map(String::as_str),
        }
    }

    /// Why `self` and `other` cannot have the same address; None when they can.
    pub(crate) fn sharing_obstacle(&self, other: &LbService) -> Option<String> {
        let (Some(a), Some(b)) = (&self.sharing, &other.sharing) else {
            return Some("only Services that both have a sharing key can share".to_owned());
        };
        if a.key != b.key {
            return Some(format!("its sharing key is {:?}, not {:?}", b.key, a.key));
        }
        if self.key.namespace != other.key.namespace {
            let permits = |sharing: &Sharing, namespace: &str| {
                sharing.namespaces.contains("*") || sharing.namespaces.contains(namespace)
            };
            if !permits(a, &other.key.namespace) || !permits(b, &self.key.namespace) {
                return Some(format!(
                    "both Services must name the other's namespace in {}",
                    names::LB_IPAM_SHARING_CROSS_NAMESPACE.name
                ));
            }
        }
        if let Some((port, protocol)) = a.ports.intersection(&b.ports).next() {
            return Some(format!("both have port {port}/{protocol}"));
        }
        if a.local_traffic_policy != b.local_traffic_policy {
            return Some("their externalTrafficPolicy differs".to_owned());
        }
        // A router would send traffic of both to a node that has pods of only one.
        let same_pods = !a.selector.is_empty() && a.selector == b.selector;
        if a.local_traffic_policy && !same_pods && !(a.permit_different_pods && b.permit_different_pods) {
            return Some("with externalTrafficPolicy Local both must select the same pods".to_owned());
        }
        None
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn service(yaml: &str) -> Service {
        serde_json::from_value(serde_yaml_ng::from_str(yaml).unwrap()).unwrap_or_else(|error| panic!("{error}: {yaml}"))
    }

    fn lb(yaml: &str) -> LbService {
        read(&service(yaml), &Settings::default()).0
    }

    #[test]
    fn which_services_are_ours() {
        let table = [
            ("spec: {type: LoadBalancer}", true),
            ("spec: {type: ClusterIP}", false),
            ("spec: {}", false),
            ("spec: {type: LoadBalancer, loadBalancerClass: io.cilium/bgp-control-plane}", true),
            ("spec: {type: LoadBalancer, loadBalancerClass: io.cilium/l2-announcer}", true),
            ("spec: {type: LoadBalancer, loadBalancerClass: example.com/other}", false),
            ("{metadata: {deletionTimestamp: '2026-01-01T00:00:00Z'}, spec: {type: LoadBalancer}}", false),
        ];
        for (yaml, ours) in table {
            assert_eq!(is_ours(&service(yaml), &Settings::default()), ours, "{yaml}");
        }
        let classed_only = Settings { serve_unclassed: false, ..Settings::default() };
        assert!(!is_ours(&service("spec: {type: LoadBalancer}"), &classed_only));
    }

    #[test]
    fn families_by_policy() {
        let table = [
            ("{}", (true, false)),
            ("{ipFamilies: [IPv6]}", (false, true)),
            ("{ipFamilyPolicy: SingleStack, ipFamilies: [IPv6, IPv4]}", (false, true)),
            ("{ipFamilyPolicy: PreferDualStack}", (true, true)),
            ("{ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4]}", (true, false)),
            ("{ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv6, IPv4]}", (true, true)),
            ("{ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6]}", (true, true)),
        ];
        for (spec, (ipv4, ipv6)) in table {
            assert_eq!(lb(&format!("spec: {spec}")).wants, Wants::OneOfEach { ipv4, ipv6 }, "{spec}");
        }
        let v6_only = Settings { ipv4: false, ..Settings::default() };
        assert_eq!(read(&service("spec: {}"), &v6_only).0.wants, Wants::OneOfEach { ipv4: false, ipv6: true });
    }

    #[test]
    fn requested_addresses_and_faults() {
        let yaml = "
metadata: {name: s, namespace: n, annotations: {lbipam.cilium.io/ips: '192.0.2.2, 2001:db8::2,nonsense,192.0.2.1'}}
spec: {loadBalancerIP: 192.0.2.1}";
        let (service, rejected) = read(&service(yaml), &Settings::default());
        let ips = ["192.0.2.1", "192.0.2.2", "2001:db8::2"].map(|ip| ip.parse().unwrap()).to_vec();
        assert_eq!(service.wants, Wants::These(ips));
        assert_eq!(rejected[0].field, "metadata.annotations[lbipam.cilium.io/ips]");
        assert_eq!(rejected[0].object, "n/s");
    }

    #[test]
    fn who_may_share_with_whom() {
        let sharer = |namespace: &str, annotations: &str, spec: &str| {
            lb(&format!(
                "{{metadata: {{name: s, namespace: {namespace}, annotations: {{lbipam.cilium.io/sharing-key: k{annotations}}}}}, spec: {spec}}}"
            ))
        };
        let http = "{ports: [{port: 80}]}";
        let dns = "{ports: [{port: 53, protocol: UDP}]}";
        let cross = |namespaces: &str| format!(", lbipam.cilium.io/sharing-cross-namespace: '{namespaces}'");
        let local = |port: u16, app: &str| {
            format!("{{externalTrafficPolicy: Local, selector: {{app: {app}}}, ports: [{{port: {port}}}]}}")
        };
        let permit = ", lbipam.cilium.io/sharing-permit-different-pods: 'true'";
        let table = [
            (sharer("a", "", http), sharer("a", "", dns), true),
            (sharer("a", "", http), sharer("a", "", http), false),
            (sharer("a", "", "{ports: [{port: 53}]}"), sharer("a", "", dns), true),
            (sharer("a", "", http), sharer("b", "", dns), false),
            (sharer("a", &cross("b"), http), sharer("b", "", dns), false),
            (sharer("a", &cross("b"), http), sharer("b", &cross("x, a"), dns), true),
            (sharer("a", &cross("*"), http), sharer("b", &cross("*"), dns), true),
            (sharer("a", "", &local(80, "x")), sharer("a", "", dns), false),
            (sharer("a", "", &local(80, "x")), sharer("a", "", &local(81, "x")), true),
            (sharer("a", "", &local(80, "x")), sharer("a", "", &local(81, "y")), false),
            (sharer("a", permit, &local(80, "x")), sharer("a", permit, &local(81, "y")), true),
            (sharer("a", "", http), lb("{metadata: {name: s, namespace: a}, spec: {ports: [{port: 1}]}}"), false),
        ];
        for (index, (a, b, may)) in table.iter().enumerate() {
            assert_eq!(a.sharing_obstacle(b).is_none(), *may, "row {index}: {:?}", a.sharing_obstacle(b));
            assert_eq!(b.sharing_obstacle(a).is_none(), *may, "row {index} the other way");
        }
    }
}
