//! `Service` -> the part of a [`ClusterService`] that does not depend on backends, and the part of a service export that
//! does not depend on the `ServiceExport`.

use std::net::IpAddr;

use causeway_k8s::global::Global;
use causeway_k8s::mcs::offer;
use causeway_k8s::names::LABEL_HEADLESS;
use causeway_k8s::rejected::Fault;
use causeway_mesh_schema::{ClusterService, L4Addr, Ports, ServiceExportSpec};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

use super::{Converted, Home, read};

/// What is known of a Service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    /// It is global, and offers its backends. Its namespace may still forbid it.
    pub(crate) shared: bool,
    /// Without backends.
    pub(crate) service: ClusterService,
    /// Without what the `ServiceExport` says; `None` when it cannot be exported as it is.
    pub(crate) export: Option<ServiceExportSpec>,
}

pub(crate) fn service(home: &Home, object: &Service) -> Converted<Told> {
    let mut faults = Vec::new();
    let (meta, no_spec) = (&object.metadata, ServiceSpec::default());
    let spec = object.spec.as_ref().unwrap_or(&no_spec);
    let headless = is_headless(object, spec);
    let (global, _) = Global::read(meta.annotations.as_ref(), headless);
    let mut service = ClusterService {
        cluster: home.name.to_string(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        labels: meta.labels.clone().unwrap_or_default(),
        selector: spec.selector.clone().unwrap_or_default(),
        include_external: true,
        shared: true,
        cluster_id: home.id.into(),
        ..ClusterService::default()
    };
    if !headless {
        let ports = ports(&mut faults, spec.ports.iter().flatten());
        let ips = cluster_ips(&mut faults, spec).into_iter();
        service.frontends = ips.map(|ip| (ip, ports.clone())).collect();
    }
    let export = offer::of_service(home.name.as_str(), object).ok();
    Converted { value: Told { shared: global.shared, service, export }, faults }
}

fn is_headless(object: &Service, spec: &ServiceSpec) -> bool {
    let labelled = object.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(LABEL_HEADLESS));
    labelled || spec.cluster_ip.as_deref().is_some_and(|ip| ip.eq_ignore_ascii_case("none"))
}

/// None yet: the Service is told without frontends.
fn cluster_ips(faults: &mut Vec<Fault>, spec: &ServiceSpec) -> Vec<IpAddr> {
    let several = spec.cluster_ips.iter().flatten();
    let texts: Vec<&String> = match spec.cluster_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
        true => several.collect(),
        false => spec.cluster_ip.iter().collect(),
    };
    let mut ips = Vec::new();
    for (index, text) in texts.into_iter().filter(|text| !text.is_empty()).enumerate() {
        ips.extend(read::<IpAddr>(faults, || format!("spec.clusterIPs[{index}]"), text));
    }
    ips
}

fn ports<'a>(faults: &mut Vec<Fault>, ports: impl Iterator<Item = &'a ServicePort>) -> Ports {
    let mut told = Ports::new();
    for (index, port) in ports.enumerate() {
        let Ok(number) = u16::try_from(port.port) else {
            let message = format!("{} is no port", port.port);
            faults.push(Fault::new(format!("spec.ports[{index}].port"), message, "write 1 to 65535"));
            continue;
        };
        told.insert(port.name.clone().unwrap_or_default(), l4(port.protocol.as_deref(), number));
    }
    told
}

/// A port with its protocol; Kubernetes' default is TCP.
pub(super) fn l4(protocol: Option<&str>, port: u16) -> L4Addr {
    L4Addr { protocol: protocol.filter(|word| !word.is_empty()).unwrap_or("TCP").to_owned(), port }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{home, object};
    use super::*;

    fn told(annotations: &str, spec: &str) -> Converted<Told> {
        service(
            &home(),
            &object(&format!("{{metadata: {{name: web, namespace: shop, annotations: {annotations}}}, spec: {spec}}}")),
        )
    }

    #[test]
    fn who_is_shared() {
        let table = [
            ("{}", false),
            ("{service.cilium.io/global: 'true'}", true),
            ("{io.cilium/global-service: 'TRUE'}", true),
            ("{service.cilium.io/global: 'true', service.cilium.io/shared: 'false'}", false),
            ("{service.cilium.io/shared: 'true'}", false),
            ("{io.cilium/global-service: 'true', io.cilium/shared-service: 'False'}", false),
        ];
        for (annotations, shared) in table {
            assert_eq!(told(annotations, "{}").value.shared, shared, "{annotations}");
        }
    }

    #[test]
    fn frontends_are_all_cluster_ips_with_all_ports() {
        let spec = "{clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd96::1'], selector: {app: web},
            ports: [{port: 80}, {name: dns, port: 53, protocol: UDP}]}";
        let converted = told("{}", spec);
        assert_eq!(converted.faults, []);
        let service = converted.value.service;
        let expected = serde_json::json!({"": {"Protocol": "TCP", "Port": 80}, "dns": {"Protocol": "UDP", "Port": 53}});
        assert_eq!(
            serde_json::to_value(&service.frontends).unwrap(),
            serde_json::json!({"10.96.0.1": expected, "fd96::1": expected})
        );
        assert_eq!(service.selector["app"], "web");
        assert!(service.include_external && service.shared);
        assert_eq!((service.cluster.as_str(), service.cluster_id), ("cluster3", 3));
    }

    #[test]
    fn without_addresses_no_frontends() {
        for spec in ["{clusterIP: None, ports: [{port: 80}]}", "{clusterIP: '', ports: [{port: 80}]}", "{}"] {
            let converted = told("{}", spec);
            assert!(converted.value.service.frontends.is_empty() && converted.faults.is_empty(), "{spec}");
        }
        let labelled = object(
            "{metadata: {name: web, namespace: shop, labels: {service.kubernetes.io/headless: ''}},
              spec: {clusterIP: 10.96.0.1}}",
        );
        assert!(service(&home(), &labelled).value.service.frontends.is_empty());
        let bad = told("{}", "{clusterIP: ten, ports: [{port: 80}]}");
        assert_eq!(bad.faults[0].field, "spec.clusterIPs[0]");
    }
}
