//! Pods of this node get an identity and a CiliumEndpoint. One task; after a failure it goes over its pods again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use causeway_api::cni::Attachment;
use causeway_k8s::cilium::node::EncryptionSpec;
use causeway_k8s::{
    AddressPair, CiliumEndpoint, CiliumEndpointStatus, CiliumIdentity, EndpointIdentity, EndpointNetworking,
    EndpointPolicy, EndpointPolicyDirection, ExternalIdentifiers, NamedPort,
};
use causeway_table::Changes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client};

use super::kube_api::{self, Retry, WriteError};
use crate::cni::Cni;
use crate::config::Config;
use crate::control::identity;
use crate::intent::cilium::EndpointReader;
use crate::intent::endpoint::LocalEndpoint;
use crate::intent::pod::Pod;
use crate::intent::{Key, Read as _};
use crate::tables::Tables;

/// Attempts to find a number that no other agent takes at the same moment, per pass.
const CREATE_ATTEMPTS: u32 = 8;

pub(crate) struct Endpoints {
    client: Client,
    tables: Tables,
    cni: Arc<Cni>,
    cluster: String,
    /// Numbers that this cluster's identities may have.
    own: RangeInclusive<u32>,
    /// Addresses of this node, IPv4 first.
    node_ips: Vec<IpAddr>,
    /// Identities that this process made and the watch has not shown yet.
    made: BTreeMap<Vec<String>, u32>,
    written: BTreeMap<Attachment, Written>,
    swept: bool,
}

/// What was last written to Kubernetes for an endpoint.
struct Written {
    object: CiliumEndpoint,
    uid: Option<String>,
    /// Somebody deleted or changed it.
    spoilt: bool,
}

impl Endpoints {
    pub(crate) fn new(
        client: Client,
        tables: Tables,
        cni: Arc<Cni>,
        config: &Config,
        node_ips: Vec<IpAddr>,
    ) -> Endpoints {
        Endpoints {
            client,
            tables,
            cni,
            cluster: config.cluster_name.to_string(),
            own: config.mesh.scale.identities(config.mesh.id),
            node_ips,
            made: BTreeMap::new(),
            written: BTreeMap::new(),
            swept: false,
        }
    }

    /// Runs for ever. Waiting is cancel-safe; a pass is not interrupted.
    pub(crate) async fn run(mut self) {
        let t = self.tables.clone();
        let mut endpoints = t.endpoints.reader();
        let mut pods = t.pods.reader();
        let mut namespaces = t.namespaces.reader();
        let mut identities = t.identities.reader();
        let mut told = t.remote_endpoints.reader();
        let mut retry = Retry::default();
        loop {
            endpoints.changes();
            pods.changes();
            namespaces.changes();
            identities.changes();
            let again = match self.pass().await {
                Ok(()) => {
                    retry.succeeded();
                    // Nothing is left to do: only a change brings more. A day is "never" with a guard.
                    Duration::from_secs(86_400)
                }
                Err(error) => {
                    tracing::warn!(%error, "writing endpoints to Kubernetes failed, trying again");
                    retry.failed()
                }
            };
            let again = tokio::time::sleep(again);
            tokio::pin!(again);
            loop {
                tokio::select! {
                    () = endpoints.changed() => break,
                    () = pods.changed() => break,
                    () = namespaces.changed() => break,
                    () = identities.changed() => break,
                    // All nodes' endpoints come here: only what is about ours is worth a pass.
                    () = told.changed() => {
                        if self.look(&told.changes()) {
                            break;
                        }
                    }
                    () = &mut again => break,
                }
            }
        }
    }

    /// Compares what Kubernetes has with what was written. True: something was deleted or changed and must be written
    /// again. An event from before our own write may say so too; then it is written once more, to no effect.
    fn look(&mut self, changes: &Changes<Key>) -> bool {
        if !self.tables.remote_endpoints.synced() {
            return false;
        }
        let changed = |key: &Key| match changes {
            Changes::Keys(keys) => keys.contains(key),
            Changes::Reset => true,
        };
        let mut any = false;
        for written in self.written.values_mut() {
            let key = Key::of(&written.object);
            if !changed(&key) {
                continue;
            }
            let wanted = EndpointReader.read(&key, written.object.clone()).ok().flatten().map(|(_, row)| row);
            let there = self.tables.remote_endpoints.get(&key);
            if there.as_deref() != wanted.as_ref() {
                written.spoilt = true;
                any = true;
            }
        }
        any
    }

    /// Goes over all endpoints; a failure of one does not keep the others from their turn.
    async fn pass(&mut self) -> Result<(), WriteError> {
        let endpoints = self.tables.endpoints.snapshot();
        let mut result = Ok(());
        for row in endpoints.values() {
            if let Err(error) = self.one(&row.value).await {
                result = Err(error);
            }
        }
        let gone: Vec<Attachment> = self.written.keys().filter(|a| !endpoints.contains_key(a)).cloned().collect();
        for attachment in gone {
            if let Err(error) = self.forget(&attachment).await {
                result = Err(error);
            }
        }
        if !self.swept && self.tables.endpoints.synced() && self.tables.remote_endpoints.synced() {
            self.sweep().await?;
            self.swept = true;
        }
        self.made.retain(|labels, _| self.tables.identities.read(|t| identity::find(labels, &self.own, t).is_none()));
        result
    }

    async fn one(&mut self, endpoint: &LocalEndpoint) -> Result<(), WriteError> {
        let key = Key::new(endpoint.pod.namespace.clone(), endpoint.pod.name.clone());
        // Not known yet, or gone: the watch wakes us. A pod of the same name with another uid is another pod.
        let Some(pod) = self.tables.pods.get(&key) else { return Ok(()) };
        if endpoint.pod.uid.as_ref().is_some_and(|uid| *uid != pod.uid) {
            return Ok(());
        }
        let Some(namespace) = self.tables.namespaces.get(&Key::new("", &key.namespace)) else { return Ok(()) };
        let labels = identity::security_labels(
            &key.namespace,
            &namespace.labels,
            &pod.labels,
            &pod.service_account,
            &self.cluster,
        );
        let list = identity::as_list(&labels);
        let Some(id) = self.identity(labels, &list).await? else { return Ok(()) };
        let mut current = endpoint.clone();
        if endpoint.identity != id || endpoint.labels != list {
            if let Err(error) = self.cni.set_identity(&endpoint.attachment, id, list.clone()).await {
                tracing::warn!(pod = %key, identity = id, error, "identity not set, trying again with the next change");
                return Ok(());
            }
            tracing::info!(pod = %key, from = endpoint.identity, to = id, "identity");
            current.identity = id;
            current.labels = list;
        }
        self.write(&key, &current, &pod).await
    }

    /// The number for these labels, made if there is none. `None`: not known yet.
    async fn identity(
        &mut self,
        labels: BTreeMap<String, String>,
        list: &Vec<String>,
    ) -> Result<Option<u32>, WriteError> {
        let own = self.own.clone();
        let found = self.tables.identities.read(|t| identity::find(list, &own, t));
        let known = found.or_else(|| self.made.get(list).copied());
        if known.is_some() || !self.tables.identities.synced() {
            return Ok(known);
        }
        let api: Api<CiliumIdentity> = Api::all(self.client.clone());
        for _ in 0..CREATE_ATTEMPTS {
            let random: u32 = rand::random();
            let Some(id) = self.tables.identities.read(|t| identity::choose(random, &own, t)) else {
                tracing::error!(?own, "all identities are taken; remove unused CiliumIdentity objects");
                return Ok(None);
            };
            let mut object = CiliumIdentity::new(id, labels.clone());
            object.metadata.labels = Some(without_source(&labels));
            match kube_api::create(&api, &object).await {
                Ok(_) => {
                    self.made.insert(list.clone(), id);
                    return Ok(Some(id));
                }
                // Another agent took this number a moment ago.
                Err(error) if error.code() == Some(409) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn write(&mut self, key: &Key, endpoint: &LocalEndpoint, pod: &Pod) -> Result<(), WriteError> {
        let object = cilium_endpoint(key, endpoint, pod, &self.node_ips);
        if self.written.get(&endpoint.attachment).is_some_and(|w| w.object == object && !w.spoilt) {
            return Ok(());
        }
        let api: Api<CiliumEndpoint> = Api::namespaced(self.client.clone(), &key.namespace);
        let uid = kube_api::upsert(&api, &object).await?.metadata.uid;
        self.written.insert(endpoint.attachment.clone(), Written { object, uid, spoilt: false });
        Ok(())
    }

    async fn forget(&mut self, attachment: &Attachment) -> Result<(), WriteError> {
        let Some(written) = self.written.get(attachment) else { return Ok(()) };
        // A new pod of the same name has taken the object over.
        if self.written.iter().any(|(other, w)| other != attachment && w.uid == written.uid) {
            self.written.remove(attachment);
            return Ok(());
        }
        let meta = &written.object.metadata;
        let api: Api<CiliumEndpoint> =
            Api::namespaced(self.client.clone(), meta.namespace.as_deref().unwrap_or_default());
        kube_api::delete(&api, meta.name.as_deref().unwrap_or_default(), written.uid.clone()).await?;
        self.written.remove(attachment);
        Ok(())
    }

    /// Once after a start: objects of this node whose pods went while no agent ran.
    async fn sweep(&self) -> Result<(), WriteError> {
        let mine: BTreeSet<Key> = self
            .tables
            .endpoints
            .read(|t| t.iter().map(|(_, e)| Key::new(e.pod.namespace.clone(), e.pod.name.clone())).collect());
        let stale: Vec<Key> = self.tables.remote_endpoints.read(|t| {
            let ours = t.iter().filter(|(_, e)| e.node.is_some_and(|ip| self.node_ips.contains(&ip)));
            ours.map(|(k, _)| k.clone()).filter(|k| !mine.contains(k)).collect()
        });
        for key in stale {
            tracing::info!(endpoint = %key, "removing the CiliumEndpoint of a pod that is gone");
            let api: Api<CiliumEndpoint> = Api::namespaced(self.client.clone(), &key.namespace);
            kube_api::delete(&api, &key.name, None).await?;
        }
        Ok(())
    }
}

/// An identity's labels on the object itself, as Cilium has them for `kubectl -l`: without the source.
fn without_source(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels
        .iter()
        .map(|(k, v)| (k.strip_prefix("k8s:").unwrap_or(k).to_owned(), v.clone()))
        // Keys of namespace labels may be too long, or have two slashes, for labels of an object.
        .filter(|(k, _)| k.matches('/').count() <= 1 && k.rsplit('/').next().is_some_and(|name| name.len() <= 63))
        .collect()
}

/// The object as Cilium writes it.
fn cilium_endpoint(key: &Key, endpoint: &LocalEndpoint, pod: &Pod, node_ips: &[IpAddr]) -> CiliumEndpoint {
    let open = || Some(EndpointPolicyDirection { enforcing: false, ..EndpointPolicyDirection::default() });
    let attachment = &endpoint.attachment;
    let status = CiliumEndpointStatus {
        id: Some(i64::from(endpoint.id)),
        external_identifiers: Some(ExternalIdentifiers {
            cni_attachment_id: Some(format!("{}:{}", attachment.container_id, attachment.ifname)),
            container_id: Some(attachment.container_id.clone()),
            k8s_namespace: Some(key.namespace.clone()),
            k8s_pod_name: Some(key.name.clone()),
            pod_name: Some(format!("{}/{}", key.namespace, key.name)),
            ..ExternalIdentifiers::default()
        }),
        identity: Some(EndpointIdentity { id: Some(i64::from(endpoint.identity)), labels: endpoint.labels.clone() }),
        networking: Some(EndpointNetworking {
            addressing: vec![AddressPair {
                ipv4: endpoint.ipv4.map(|ip| ip.to_string()),
                ipv6: endpoint.ipv6.map(|ip| ip.to_string()),
            }],
            node: node_ips.first().map(ToString::to_string),
        }),
        encryption: Some(EncryptionSpec::default()),
        policy: Some(EndpointPolicy { ingress: open(), egress: open() }),
        state: Some("ready".into()),
        named_ports: pod
            .named_ports
            .iter()
            .map(|p| NamedPort {
                name: Some(p.name.clone()),
                port: Some(i32::from(p.port)),
                protocol: Some(p.protocol.clone()),
            })
            .collect(),
        service_account: Some(pod.service_account.clone()),
    };
    let mut object = CiliumEndpoint::new(&key.namespace, &key.name, status);
    object.metadata.labels = Some(pod.labels.clone()).filter(|l| !l.is_empty());
    object.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        name: key.name.clone(),
        uid: pod.uid.clone(),
        ..OwnerReference::default()
    }]);
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_api::cni::PodRef;

    #[test]
    fn the_object_is_as_cilium_writes_it() {
        let endpoint = LocalEndpoint {
            id: 1234,
            attachment: Attachment { container_id: "c0ffee".into(), ifname: "eth0".into() },
            pod: PodRef { namespace: "shop".into(), name: "web-1".into(), uid: Some("u1".into()) },
            netns: "/run/netns/x".into(),
            ipv4: Some("10.1.1.5".parse().unwrap()),
            ipv6: Some("fd00:1:1::5".parse().unwrap()),
            host_ifname: "lxc1".into(),
            ifindex: 7,
            mac: [0; 6],
            host_mac: [0; 6],
            identity: 40000,
            labels: vec!["k8s:app=web".into()],
        };
        let pod = Pod {
            uid: "u1".into(),
            labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
            service_account: "default".into(),
            named_ports: Box::default(),
        };
        let ips: Vec<IpAddr> = vec!["10.0.0.11".parse().unwrap(), "fd00:10::11".parse().unwrap()];
        let object = cilium_endpoint(&Key::new("shop", "web-1"), &endpoint, &pod, &ips);
        let want = serde_json::json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumEndpoint",
        "metadata": {
            "name": "web-1", "namespace": "shop", "labels": {"app": "web"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "web-1", "uid": "u1"}]},
        "status": {
            "id": 1234,
            "external-identifiers": {
                "cni-attachment-id": "c0ffee:eth0", "container-id": "c0ffee",
                "k8s-namespace": "shop", "k8s-pod-name": "web-1", "pod-name": "shop/web-1"},
            "identity": {"id": 40000, "labels": ["k8s:app=web"]},
            "networking": {"addressing": [{"ipv4": "10.1.1.5", "ipv6": "fd00:1:1::5"}], "node": "10.0.0.11"},
            "encryption": {},
            "policy": {"ingress": {"enforcing": false}, "egress": {"enforcing": false}},
            "state": "ready",
            "service-account": "default",
        }});
        assert_eq!(serde_json::to_value(&object).unwrap(), want);
        let key = Key::of(&object);
        let (read, row) = EndpointReader.read(&key, object).unwrap().unwrap();
        assert_eq!((read, row.identity, row.addresses.len(), row.node), (key, 40000, 2, Some(ips[0])));
    }

    #[test]
    fn an_identity_carries_only_labels_that_objects_may_have() {
        let labels = BTreeMap::from([
            ("k8s:app".to_owned(), "web".to_owned()),
            ("k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name".to_owned(), "shop".to_owned()),
            (format!("k8s:{}", "x".repeat(64)), "no".to_owned()),
        ]);
        let kept: Vec<_> = without_source(&labels).into_keys().collect();
        assert_eq!(kept, ["app", "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name"]);
    }
}
