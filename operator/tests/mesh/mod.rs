//! The operator of cluster `east`, in this process, with a stand-in for the cluster `west`.
#![allow(clippy::unwrap_used, reason = "a failure here is the test's failure")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use causeway_k8s::{ServiceExport, ServiceImport, condition};
use causeway_mesh_remote::{Change, RemoteInfo, Settings, Sink};
use causeway_mesh_schema::{
    Capabilities, ClusterConfig, ClusterId, ClusterName, ClusterService, ExportPort, Kind, L4Addr, Origin, Scale,
    ServiceExportSpec,
};
use causeway_operator::{Flags, Listener, Remotes, operate};
use clap::Parser;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::{reflector, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::common::{Lab, within};

const FLAGS: &str = "causeway-operator --cluster-name east --cluster-id 1 --clustermesh-config /unread \
    --clustermesh-enable-mcs-api --clustermesh-enable-endpoint-sync --clustermesh-endpoints-per-slice 2 \
    --clustermesh-endpoint-updates-batch-period 10ms --enable-bgp-control-plane false --identity-gc-interval 0";

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-abcde, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.5], conditions: {ready: true}}]
ports: [{name: http, port: 8080, protocol: TCP}]
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: web, namespace: default}
---
";

const DB: &str = "
apiVersion: v1
kind: Service
metadata: {name: db, namespace: default, annotations: {service.cilium.io/global: 'true'}}
spec: {clusterIP: None, ports: [{name: pg, port: 5432}]}
---
";

/// The operator and the cluster that it reads.
struct East {
    lab: Lab,
    west: Listener,
    revision: i64,
    operator: JoinHandle<anyhow::Result<()>>,
}

impl East {
    async fn start() -> East {
        let lab = Lab::start().await;
        let remotes = Remotes::new(Arc::new(Settings::default()));
        let west = remotes.listener("west");
        remotes.complete();
        let flags = Flags::try_parse_from(FLAGS.split_whitespace()).unwrap();
        let client = lab.client.clone();
        let operator = tokio::spawn(async move { operate(&flags, client, remotes).await });
        East { lab, west, revision: 0, operator }
    }

    /// West is reached; it has nothing yet.
    fn connect(&mut self) {
        let origin = Origin {
            name: ClusterName::parse("west").unwrap(),
            id: ClusterId::new(2, Scale::C255).unwrap(),
            scale: Scale::C255,
        };
        let capabilities = Capabilities { service_exports_enabled: Some(true), ..Capabilities::default() };
        let config = ClusterConfig { id: 2, capabilities };
        self.west.apply(Change::Connected(Arc::new(RemoteInfo { origin, config })));
        for kind in [Kind::ServiceExports, Kind::Services] {
            self.west.apply(Change::Relisting(kind));
            self.west.apply(Change::Listed(kind));
        }
    }

    fn put(&mut self, kind: Kind, name: &str, value: Vec<u8>) {
        self.revision += 1;
        let name = format!("default/{name}").into();
        self.west.apply(Change::Put { kind, name, value: value.into(), revision: self.revision, store: 1 });
    }

    fn delete(&mut self, kind: Kind, name: &str) {
        self.revision += 1;
        let name = format!("default/{name}").into();
        self.west.apply(Change::Deleted { kind, name, revision: self.revision });
    }

    /// Exports Service `web` since long before east does.
    fn export(&mut self, session_affinity: &str) {
        let spec = ServiceExportSpec {
            cluster: "west".to_owned(),
            name: "web".to_owned(),
            namespace: "default".to_owned(),
            kind: "ClusterSetIP".to_owned(),
            export_creation_timestamp: "2020-01-01T00:00:00Z".to_owned(),
            session_affinity: session_affinity.to_owned(),
            ip_families: vec!["IPv4".to_owned()],
            ports: vec![ExportPort {
                name: "http".to_owned(),
                protocol: "TCP".to_owned(),
                app_protocol: None,
                port: 80,
            }],
            ..ServiceExportSpec::default()
        };
        self.put(Kind::ServiceExports, "web", spec.encode());
    }

    fn serve(&mut self, addresses: &[&str]) {
        let ports = BTreeMap::from([("pg".to_owned(), L4Addr { protocol: "TCP".to_owned(), port: 5432 })]);
        let backends = addresses.iter().map(|address| (address.parse::<IpAddr>().unwrap(), ports.clone()));
        let service = ClusterService {
            cluster: "west".to_owned(),
            cluster_id: 2,
            name: "db".to_owned(),
            namespace: "default".to_owned(),
            shared: true,
            backends: backends.collect(),
            ..ClusterService::default()
        };
        self.put(Kind::Services, "db", service.encode());
    }

    /// Waits until the slices that `selector` selects are as wanted.
    async fn until_slices(
        &self,
        selector: &str,
        wanted: impl Fn(&[Arc<EndpointSlice>]) -> bool,
    ) -> Vec<Arc<EndpointSlice>> {
        let api: Api<EndpointSlice> = Api::namespaced(self.lab.client.clone(), "default");
        let (reader, writer) = reflector::store();
        let events = reflector(writer, watcher(api, watcher::Config::default().labels(selector)));
        let seen = async {
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                let listing = matches!(event, Ok(watcher::Event::Init | watcher::Event::InitApply(_)) | Err(_));
                let slices = reader.state();
                if !listing && wanted(&slices) {
                    return slices;
                }
            }
            unreachable!("a watch does not end")
        };
        within(&format!("EndpointSlices {selector} as wanted"), seen).await
    }
}

impl Drop for East {
    fn drop(&mut self) {
        self.operator.abort();
    }
}

fn addresses(slices: &[Arc<EndpointSlice>]) -> Vec<String> {
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let mut all: Vec<String> = endpoints.map(|endpoint| endpoint.addresses[0].clone()).collect();
    all.sort();
    all
}

#[tokio::test]
async fn exports_of_two_clusters_are_one_import() {
    let mut east = East::start().await;
    east.lab.apply(WEB).await;
    let ready = |import: &ServiceImport| {
        let conditions = import.status.as_ref().map(|status| &status.conditions[..]).unwrap_or_default();
        condition::find(conditions, "Ready").is_some_and(|ready| ready.status == "True")
    };
    let import = east.lab.until("default", "web", move |import| ready(import) && !import.spec.ips.is_empty()).await;
    let derived = import.annotations()["multicluster.kubernetes.io/derived-service"].clone();
    let service: Service = east.lab.until("default", &derived, |_| true).await;
    assert_eq!(service.annotations()["service.cilium.io/global"], "true");
    assert_eq!(service.spec.as_ref().unwrap().cluster_ips.as_ref(), Some(&import.spec.ips));
    let copies = format!("kubernetes.io/service-name={derived}");
    let slices = east.until_slices(&copies, |slices| slices.len() == 1).await;
    assert_eq!(slices[0].name_any(), format!("{derived}-abcde"));

    // West exports it too, and is older: its word counts, and east is told.
    east.connect();
    east.export("ClientIP");
    let import: ServiceImport = east
        .lab
        .until("default", "web", |import: &ServiceImport| {
            import.status.as_ref().is_some_and(|status| status.clusters.len() == 2)
                && import.spec.session_affinity.as_deref() == Some("ClientIP")
        })
        .await;
    let clusters: Vec<_> = import.status.unwrap().clusters.into_iter().map(|c| c.cluster).collect();
    assert_eq!(clusters, ["west", "east"]);
    let conflict = |export: &ServiceExport| {
        let status = export.status.as_ref()?;
        condition::find(&status.conditions, "Conflict").filter(|c| c.status == "True").cloned()
    };
    let export = east.lab.until("default", "web", move |export| conflict(export).is_some()).await;
    let conflict = conflict(&export).unwrap();
    assert_eq!(conflict.reason, "SessionAffinityConflict");
    assert!(conflict.message.contains("cluster west"), "{}", conflict.message);
    let affine = |service: &Service| service.spec.as_ref().unwrap().session_affinity.as_deref() == Some("ClientIP");
    east.lab.until("default", &derived, affine).await;

    // East withdraws, then west: first the backends go, then everything.
    let exports: Api<ServiceExport> = Api::namespaced(east.lab.client.clone(), "default");
    exports.delete("web", &DeleteParams::default()).await.unwrap();
    east.until_slices(&copies, <[_]>::is_empty).await;
    let _still: Service = east.lab.until("default", &derived, |_| true).await;
    east.delete(Kind::ServiceExports, "web");
    east.lab.until_gone::<ServiceImport>("web").await;
    east.lab.until_gone::<Service>(&derived).await;
}

#[tokio::test]
async fn remote_backends_of_a_headless_service_are_slices() {
    let mut east = East::start().await;
    east.connect();
    east.lab.apply(DB).await;
    east.serve(&["10.2.0.1", "10.2.0.2", "10.2.0.3"]);
    let ours = "kubernetes.io/service-name=db,multicluster.kubernetes.io/source-cluster=west";
    let slices = east.until_slices(ours, |slices| addresses(slices).len() == 3).await;
    assert_eq!(slices.len(), 2, "two endpoints in a slice");
    assert_eq!(slices[0].labels()["endpointslice.kubernetes.io/managed-by"], "endpointslice-mesh-controller.cilium.io");
    assert_eq!(slices[0].owner_references()[0].name, "db");
    assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(5432));

    east.serve(&["10.2.0.1", "10.2.0.4"]);
    east.until_slices(ours, |slices| addresses(slices) == ["10.2.0.1", "10.2.0.4"]).await;

    // The annotation decides, in both directions.
    let services: Api<Service> = Api::namespaced(east.lab.client.clone(), "default");
    for (global, number) in [(json!(null), 0), (json!("true"), 2)] {
        let patch = json!({ "metadata": { "annotations": { "service.cilium.io/global": global } } });
        services.patch("db", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        east.until_slices(ours, |slices| addresses(slices).len() == number).await;
    }

    // The cluster is disconnected.
    east.west.apply(Change::Forget);
    east.until_slices(ours, <[_]>::is_empty).await;
}

#[tokio::test]
async fn what_a_cluster_once_said_stands_until_it_speaks() {
    let mut east = East::start().await;
    let held = |cluster: &str| {
        format!(
            "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: db-{cluster}-11111
  namespace: default
  labels:
    kubernetes.io/service-name: db
    endpointslice.kubernetes.io/managed-by: endpointslice-mesh-controller.cilium.io
    multicluster.kubernetes.io/source-cluster: {cluster}
addressType: IPv4
endpoints: [{{addresses: [10.2.0.1]}}]
ports: [{{name: pg, port: 5432, protocol: TCP}}]
---
"
        )
    };
    // As a former operator left them. North is not configured any more, west has not been reached yet.
    east.lab.apply(&format!("{}{}{DB}", held("west"), held("north"))).await;
    east.lab.until_gone::<EndpointSlice>("db-north-11111").await;
    let kept: EndpointSlice = east.lab.until("default", "db-west-11111", |_| true).await;
    assert_eq!(kept.endpoints.unwrap()[0].addresses, ["10.2.0.1"]);
    east.connect();
    east.lab.until_gone::<EndpointSlice>("db-west-11111").await;
}
