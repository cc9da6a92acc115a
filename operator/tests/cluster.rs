//! The whole operator, as a process, against the lab's API server: what a cluster sees of it. Loopback only, no root.

mod common;
mod mesh;

use causeway_k8s::{CiliumBGPClusterConfig, CiliumBGPNodeConfig, CiliumLoadBalancerIPPool, condition};
use common::{Lab, within};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Service};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use nix::sys::signal::Signal;
use serde_json::json;

const POOL: &str = "
apiVersion: cilium.io/v2
kind: CiliumLoadBalancerIPPool
metadata: {name: pool}
spec: {blocks: [{cidr: 192.0.2.0/28}, {cidr: '2001:db8:2::/120'}]}
---
";

const BGP: &str = "
apiVersion: cilium.io/v2
kind: CiliumBGPPeerConfig
metadata: {name: tor}
spec: {families: [{afi: ipv4, safi: unicast}]}
---
apiVersion: cilium.io/v2
kind: CiliumBGPClusterConfig
metadata: {name: rack}
spec:
  nodeSelector: {matchLabels: {rack: r1}}
  bgpInstances: [{name: i, localASN: 65010, peers: [{name: p, peerAddress: 172.16.1.1, peerASN: 65101, peerConfigRef: {name: tor}}]}]
---
";

fn node(name: &str) -> String {
    format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{rack: r1}}}}\n---\n")
}

fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{type: LoadBalancer, ipFamilyPolicy: RequireDualStack, ports: [{{port: 80}}]}}\n---\n"
    )
}

fn ips(service: &Service) -> Vec<String> {
    let ingress = service.status.iter().filter_map(|s| s.load_balancer.as_ref()?.ingress.as_ref()).flatten();
    ingress.filter_map(|entry| entry.ip.clone()).collect()
}

#[tokio::test]
async fn nodes_and_services_get_what_they_need() {
    let lab = Lab::start().await;
    let _operator = lab.operator("a");
    lab.apply(&format!("{}{}{}{POOL}{BGP}", node("n1"), node("n2"), service("web"))).await;

    let n1 = lab.until("", "n1", |node: &Node| node.spec.as_ref().is_some_and(|spec| spec.pod_cidrs.is_some())).await;
    let n2 = lab.until("", "n2", |node: &Node| node.spec.as_ref().is_some_and(|spec| spec.pod_cidrs.is_some())).await;
    let cidrs = |node: &Node| node.spec.clone().unwrap().pod_cidrs.unwrap();
    assert_eq!(cidrs(&n1).len(), 2, "both families: {:?}", cidrs(&n1));
    assert!(cidrs(&n1).iter().all(|cidr| !cidrs(&n2).contains(cidr)), "{:?} {:?}", cidrs(&n1), cidrs(&n2));

    let web = lab.until("default", "web", |service: &Service| ips(service).len() == 2).await;
    assert_eq!(ips(&web), ["192.0.2.0", "2001:db8:2::"]);
    let conditions = web.status.clone().unwrap().conditions.unwrap();
    let satisfied = condition::find(&conditions, "cilium.io/IPAMRequestSatisfied").unwrap();
    assert_eq!((satisfied.status.as_str(), satisfied.reason.as_str()), ("True", "satisfied"));

    let config: CiliumBGPNodeConfig = lab.until("", "n1", |_| true).await;
    assert_eq!(config.spec.bgp_instances[0].peers[0].peer_asn, Some(65101));
    assert_eq!(config.owner_references()[0].name, "rack");

    let nodes: Api<Node> = Api::all(lab.client.clone());
    nodes.delete("n2", &DeleteParams::default()).await.unwrap();
    lab.until_gone::<CiliumBGPNodeConfig>("n2").await;
    lab.apply(&node("n3")).await;
    let n3 = lab.until("", "n3", |node: &Node| node.spec.as_ref().is_some_and(|spec| spec.pod_cidrs.is_some())).await;
    assert_eq!(cidrs(&n3), cidrs(&n2), "the CIDRs of the Node that went are free");
}

#[tokio::test]
async fn an_address_outlives_the_operator_and_is_freed_with_the_type() {
    let lab = Lab::start().await;
    let mut first = lab.operator("a");
    lab.apply(&format!("{POOL}{}", service("held"))).await;
    let held = lab.until("default", "held", |service: &Service| ips(service).len() == 2).await;
    first.signal(Signal::SIGKILL);
    first.wait();
    // Older by name and of the same second: a planner without regard to holders would give it the lower address.
    lab.apply(&service("another")).await;
    let _second = lab.operator("b");
    let another = lab.until("default", "another", |service: &Service| ips(service).len() == 2).await;
    let still: Service = lab.until("default", "held", |_| true).await;
    assert_eq!(ips(&still), ips(&held));
    assert_eq!(ips(&another), ["192.0.2.1", "2001:db8:2::1"]);

    let services: Api<Service> = Api::namespaced(lab.client.clone(), "default");
    let to_cluster_ip = json!({ "spec": { "type": "ClusterIP" } });
    services.patch("held", &PatchParams::default(), &Patch::Merge(to_cluster_ip)).await.unwrap();
    lab.until("default", "held", |service: &Service| ips(service).is_empty()).await;
    lab.apply(&service("next")).await;
    let next = lab.until("default", "next", |service: &Service| ips(service).len() == 2).await;
    assert_eq!(ips(&next), ips(&held));
}

#[tokio::test]
async fn bad_objects_are_told_and_block_nobody() {
    let lab = Lab::start().await;
    let _operator = lab.operator("a");
    let bad = "
apiVersion: cilium.io/v2
kind: CiliumLoadBalancerIPPool
metadata: {name: bad}
spec: {blocks: [{start: 192.0.2.300}]}
---
apiVersion: cilium.io/v2
kind: CiliumBGPClusterConfig
metadata: {name: bad}
spec: {bgpInstances: [{name: i, peers: [{name: p, peerAddress: 'fe80::1'}]}]}
---
";
    lab.apply(&format!("{bad}{POOL}{BGP}{}{}", service("web"), node("n1"))).await;
    lab.until("default", "web", |service: &Service| ips(service).len() == 2).await;
    lab.until("", "n1", |_: &CiliumBGPNodeConfig| true).await;
    let message = |conditions: &[condition::Condition]| {
        condition::find(conditions, "causeway.io/Rejected").map(|condition| condition.message.clone())
    };
    let pool: CiliumLoadBalancerIPPool = lab
        .until("", "bad", move |pool: &CiliumLoadBalancerIPPool| {
            pool.status.as_ref().is_some_and(|status| message(&status.conditions).is_some())
        })
        .await;
    assert!(message(&pool.status.unwrap().conditions).unwrap().starts_with("spec.blocks[0].start: "));
    let config: CiliumBGPClusterConfig = lab
        .until("", "bad", move |config: &CiliumBGPClusterConfig| {
            config.status.as_ref().is_some_and(|status| message(&status.conditions).is_some())
        })
        .await;
    let text = message(&config.status.unwrap().conditions).unwrap();
    assert!(text.starts_with("spec.bgpInstances[0].peers[0].peerAddress: ") && text.contains("eth0"), "{text}");
}

#[tokio::test]
async fn a_second_operator_waits_and_takes_over_when_the_first_stops() {
    let lab = Lab::start().await;
    let mut first = lab.operator("a");
    let leases: Api<Lease> = Api::namespaced(lab.client.clone(), "kube-system");
    let holder = |name: &'static str| {
        let held = move |lease: Option<&Lease>| {
            lease.and_then(|lease| lease.spec.as_ref()?.holder_identity.as_deref()) == Some(name)
        };
        let leases = leases.clone();
        async move {
            let wanted = kube::runtime::wait::await_condition(leases, "causeway-operator", held);
            within(&format!("{name} leads"), wanted).await.unwrap();
        }
    };
    holder("a").await;
    let _second = lab.operator("b");
    lab.apply(&format!("{POOL}{}", service("web"))).await;
    lab.until("default", "web", |service: &Service| ips(service).len() == 2).await;
    first.signal(Signal::SIGTERM);
    assert!(first.wait().success());
    holder("b").await;
    lab.apply(&service("later")).await;
    lab.until("default", "later", |service: &Service| ips(service).len() == 2).await;
}
