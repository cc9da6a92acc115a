//! Keeps the zone's tables equal to the API: Services, EndpointSlices and, where the cluster knows them, ServiceImports.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service as ServiceObject;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use super::zone::{Endpoint, Import, Key, Port, Service, Slice, Zone};

/// The zone as queries read it. The watches here are its only writers.
pub(crate) type Shared = Arc<RwLock<Zone>>;

/// The CRD of imported Services.
const IMPORTS_CRD: &str = "serviceimports.multicluster.x-k8s.io";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const IMPORTED_LABEL: &str = "multicluster.kubernetes.io/service-name";
const CLUSTER_LABEL: &str = "multicluster.kubernetes.io/source-cluster";

/// One table of the zone, and how an object becomes a row of it.
struct Table<K, Row> {
    name: &'static str,
    rows: fn(&mut Zone) -> &mut BTreeMap<Key, Row>,
    row: fn(&K) -> Row,
}

/// Runs until the process ends.
pub(crate) async fn run(client: Client, zone: Shared) {
    let services = Table { name: "services", rows: |zone| &mut zone.services, row: service };
    let slices = Table { name: "endpointslices", rows: |zone| &mut zone.slices, row: slice };
    tokio::join!(
        follow(Api::<ServiceObject>::all(client.clone()), services, zone.clone()),
        follow(Api::<EndpointSlice>::all(client.clone()), slices, zone.clone()),
        follow_imports(client, zone),
    );
}

/// Keeps one table; a list that was begun anew removes what it does not name.
async fn follow<K, Row>(api: Api<K>, table: Table<K, Row>, zone: Shared)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    Row: Send,
{
    let mut stream = watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut listed = BTreeSet::new();
    while let Some(event) = stream.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                warn!(table = table.name, %error, "watch; tries again");
                continue;
            }
        };
        let mut zone = zone.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(object) => {
                listed.insert(key(&object));
                (table.rows)(&mut zone).insert(key(&object), (table.row)(&object));
            }
            watcher::Event::InitDone => {
                (table.rows)(&mut zone).retain(|key, _| listed.contains(key));
                zone.listed.insert(table.name);
            }
            watcher::Event::Apply(object) => {
                (table.rows)(&mut zone).insert(key(&object), (table.row)(&object));
            }
            watcher::Event::Delete(object) => {
                (table.rows)(&mut zone).remove(&key(&object));
            }
        }
    }
}

/// Follows ServiceImports while their CRD is served.
async fn follow_imports(client: Client, zone: Shared) {
    let resource = ApiResource {
        group: "multicluster.x-k8s.io".into(),
        version: "v1alpha1".into(),
        api_version: "multicluster.x-k8s.io/v1alpha1".into(),
        kind: "ServiceImport".into(),
        plural: "serviceimports".into(),
    };
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let config = watcher::Config::default().fields(&format!("metadata.name={IMPORTS_CRD}"));
    let mut stream = watcher(crds, config).default_backoff().boxed();
    let mut running: Option<tokio::task::JoinHandle<()>> = None;
    while let Some(event) = stream.next().await {
        let served = match event {
            Ok(watcher::Event::Apply(crd) | watcher::Event::InitApply(crd)) => established(&crd),
            Ok(watcher::Event::Delete(_)) => false,
            Ok(watcher::Event::Init | watcher::Event::InitDone) => continue,
            Err(error) => {
                warn!(%error, "watch of CustomResourceDefinitions; tries again");
                continue;
            }
        };
        match (served, running.take()) {
            (true, None) => {
                info!("ServiceImports are served");
                let imports: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
                let table = Table { name: "serviceimports", rows: |zone| &mut zone.imports, row: import };
                running = Some(tokio::spawn(follow(imports, table, zone.clone())));
            }
            (false, Some(task)) => {
                task.abort();
                zone.write().unwrap_or_else(PoisonError::into_inner).imports.clear();
            }
            (_, task) => running = task,
        }
    }
}

fn established(crd: &CustomResourceDefinition) -> bool {
    let conditions = crd.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
}

fn key<K: Resource>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}

fn port(name: Option<&String>, protocol: Option<&String>, number: i32) -> Option<Port> {
    Some(Port {
        name: name.cloned().unwrap_or_default(),
        protocol: protocol.map_or_else(|| "tcp".to_owned(), |protocol| protocol.to_ascii_lowercase()),
        number: u16::try_from(number).ok()?,
    })
}

fn service(object: &ServiceObject) -> Service {
    let Some(spec) = &object.spec else { return Service::default() };
    let external = spec.type_.as_deref() == Some("ExternalName");
    Service {
        ips: addresses(spec.cluster_ips.iter().flatten().filter(|ip| *ip != "None")),
        external_name: spec.external_name.clone().filter(|_| external),
        ports: spec
            .ports
            .iter()
            .flatten()
            .filter_map(|of| port(of.name.as_ref(), of.protocol.as_ref(), of.port))
            .collect(),
    }
}

fn slice(object: &EndpointSlice) -> Slice {
    let label = |name: &str| object.metadata.labels.as_ref().and_then(|labels| labels.get(name)).cloned();
    let ready = object
        .endpoints
        .iter()
        .flatten()
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true));
    Slice {
        service: label(SERVICE_LABEL),
        imported: label(IMPORTED_LABEL).zip(Some(label(CLUSTER_LABEL).unwrap_or_default())),
        endpoints: ready
            .map(|endpoint| Endpoint { hostname: endpoint.hostname.clone(), addresses: addresses(&endpoint.addresses) })
            .collect(),
        ports: object
            .ports
            .iter()
            .flatten()
            .filter_map(|of| port(of.name.as_ref(), of.protocol.as_ref(), of.port?))
            .collect(),
    }
}

fn import(object: &DynamicObject) -> Import {
    let spec = &object.data["spec"];
    let list = |name: &str| spec[name].as_array().cloned().unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    Import {
        ips: addresses(&list("ips").iter().filter_map(text).collect::<Vec<_>>()),
        headless: spec["type"] == "Headless",
        ports: list("ports")
            .iter()
            .filter_map(|of| {
                let number = of["port"].as_i64().and_then(|number| i32::try_from(number).ok())?;
                port(text(&of["name"]).as_ref(), text(&of["protocol"]).as_ref(), number)
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{from_value, json};

    #[test]
    fn objects_become_rows() {
        let headless: ServiceObject =
            from_value(json!({"metadata": {}, "spec": {"clusterIP": "None", "clusterIPs": ["None"]}})).unwrap();
        assert_eq!(service(&headless), Service::default());
        let object: EndpointSlice = from_value(json!({
            "metadata": {"labels": {IMPORTED_LABEL: "web", CLUSTER_LABEL: "west"}}, "addressType": "IPv4",
            "endpoints": [
                {"addresses": ["10.1.1.1"]}, {"addresses": ["10.1.1.2"], "conditions": {"ready": false}},
            ],
            "ports": [{"name": "http", "port": 80}, {"name": "all"}],
        }))
        .unwrap();
        let row = slice(&object);
        assert_eq!(row.endpoints.len(), 1, "one that is not ready is not shown");
        assert_eq!(row.imported, Some(("web".into(), "west".into())));
        assert_eq!(row.ports, [Port { name: "http".into(), protocol: "tcp".into(), number: 80 }]);
        let object: DynamicObject = from_value(json!({"apiVersion": "multicluster.x-k8s.io/v1alpha1",
            "kind": "ServiceImport", "metadata": {"name": "web"},
            "spec": {"type": "ClusterSetIP", "ips": ["10.96.0.9"], "ports": [{"port": 80, "protocol": "UDP"}]}}))
        .unwrap();
        let row = import(&object);
        assert!(!row.headless && row.ips.len() == 1 && row.ports[0].protocol == "udp");
    }
}
