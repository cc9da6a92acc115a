//! Where a cluster's etcd is reached, as its Service says it: from outside and from inside.

use std::net::IpAddr;

use causeway_mesh_setup::{APISERVER, ETCD_PORT, Endpoint};
use k8s_openapi::api::core::v1::{Node, Service};

use super::Trouble;
use super::cluster::Cluster;

/// How many nodes a NodePort is tried at: one may be down.
const NODES: usize = 3;

/// From another cluster. `given` is what the flag `flag` says, which counts if it says anything.
pub(super) async fn outside(cluster: &Cluster, given: &[Endpoint], flag: &str) -> Result<Vec<Endpoint>, Trouble> {
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let unknown = |why: &str| {
        let called = &cluster.called;
        Trouble(format!("Service {APISERVER} in context {called:?}: {why}; say with {flag} where its etcd is reached"))
    };
    let service = cluster.service(APISERVER).await?.ok_or_else(|| unknown("there is none"))?;
    let balanced = balanced(&service);
    if !balanced.is_empty() {
        return Ok(balanced);
    }
    let port =
        node_port(&service).ok_or_else(|| unknown("it has neither a load balancer's address nor a node port"))?;
    let addresses = node_addresses(&cluster.nodes().await?);
    if addresses.is_empty() {
        return Err(unknown("it has a node port, but no ready node has an address"));
    }
    Ok(addresses.into_iter().map(|ip| Endpoint::ip(ip, port)).collect())
}

/// From the cluster itself: by the Service's own addresses, or without a Service as from outside.
pub(super) async fn inside(cluster: &Cluster, outside: &[Endpoint]) -> Result<Vec<Endpoint>, Trouble> {
    let service = cluster.service(APISERVER).await?;
    let ips = service.and_then(|service| service.spec).and_then(|spec| spec.cluster_ips).unwrap_or_default();
    let ips: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    if ips.is_empty() {
        return Ok(outside.to_vec());
    }
    Ok(ips.into_iter().map(|ip| Endpoint::ip(ip, ETCD_PORT)).collect())
}

fn balanced(service: &Service) -> Vec<Endpoint> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    let text = ingress.filter_map(|ingress| ingress.ip.as_ref().or(ingress.hostname.as_ref()));
    text.filter_map(|text| text.parse().ok()).collect()
}

fn node_port(service: &Service) -> Option<u16> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    let etcd = ports.iter().find(|port| port.port == i32::from(ETCD_PORT))?;
    u16::try_from(etcd.node_port?).ok()
}

/// Internal addresses of the first ready nodes, by name.
fn node_addresses(nodes: &[Node]) -> Vec<IpAddr> {
    let ready = |node: &&Node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    let mut ready: Vec<&Node> = nodes.iter().filter(ready).collect();
    ready.sort_by_key(|node| &node.metadata.name);
    let internal = |node: &Node| -> Vec<IpAddr> {
        let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        addresses.filter(|a| a.type_ == "InternalIP").filter_map(|a| a.address.parse().ok()).collect()
    };
    ready.into_iter().take(NODES).flat_map(internal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn shown(endpoints: &[Endpoint]) -> Vec<String> {
        endpoints.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_services_own_words() {
        let service: Service = of(json!({
            "spec": {"ports": [{"port": 1}, {"port": 2379, "nodePort": 32379}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}, {"hostname": "lb.example"}]}}
        }));
        assert_eq!(shown(&balanced(&service)), ["192.0.2.1:2379", "[2001:db8::1]:2379", "lb.example:2379"]);
        assert_eq!(node_port(&service), Some(32_379));
        assert_eq!(node_port(&of(json!({"spec": {"ports": [{"port": 2379}]}}))), None);
        assert_eq!(balanced(&of(json!({}))), []);
    }

    #[test]
    fn ready_nodes_by_name() {
        let node = |name: &str, ready: &str, ip: &str| -> Node {
            of(json!({
                "metadata": {"name": name},
                "status": {
                    "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip}],
                    "conditions": [{"type": "Ready", "status": ready}]
                }
            }))
        };
        let nodes = [
            node("e", "True", "192.0.2.5"),
            node("b", "False", "192.0.2.2"),
            node("c", "True", "192.0.2.3"),
            node("a", "True", "192.0.2.1"),
            node("d", "True", "192.0.2.4"),
            of(json!({"metadata": {"name": "0"}})),
        ];
        let ips: Vec<String> = node_addresses(&nodes).iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["192.0.2.1", "192.0.2.3", "192.0.2.4"]);
    }
}
