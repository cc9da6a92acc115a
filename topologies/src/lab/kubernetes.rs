//! What the lab itself says to a cluster's API: is it ready, apply these manifests, which nodes are ready.
//!
//! Blocking on the outside: `up` and `status` are plain sequential programs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Client, Config, discovery};
use serde::Deserialize as _;
use tokio::runtime::Runtime;

use super::progress::patience;

/// Name under which the lab owns fields.
const FIELD_MANAGER: &str = "causeway-lab";
/// Where `kubectl apply` keeps what it has applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// An answer takes milliseconds; one that takes longer is none.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A connection to one cluster's API.
pub(crate) struct Kubernetes {
    runtime: Runtime,
    client: Client,
}

/// A node by name, and whether it is ready; if not, why.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct NodeState {
    pub(crate) name: String,
    pub(crate) ready: bool,
    pub(crate) reason: String,
}

/// A client for any kubeconfig file. Must run inside a runtime.
pub(crate) async fn client(kubeconfig: &Path) -> Result<Client> {
    // Fails only when a provider is installed already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let file = || format!("kubeconfig {}", kubeconfig.display());
    let text = Kubeconfig::read_from(kubeconfig).with_context(file)?;
    let mut config = Config::from_custom_kubeconfig(text, &KubeConfigOptions::default()).await.with_context(file)?;
    config.connect_timeout = Some(ANSWER_LIMIT * patience());
    Client::try_from(config).with_context(file)
}

impl Kubernetes {
    pub(crate) fn connect(kubeconfig: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(client(kubeconfig))?;
        Ok(Self { runtime, client })
    }

    /// What `/readyz` says, when it does not say `ok`.
    pub(crate) fn not_ready(&self) -> Option<String> {
        let request = http::Request::get("/readyz").body(Vec::new());
        let answer = self.runtime.block_on(async {
            tokio::time::timeout(ANSWER_LIMIT * patience(), self.client.request_text(request.ok()?)).await.ok()
        });
        match answer {
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(format!("/readyz: {error}")),
            None => Some("/readyz: no answer".into()),
        }
    }

    pub(crate) fn nodes(&self) -> Result<Vec<NodeState>> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let list = self.runtime.block_on(nodes.list(&ListParams::default())).context("cannot list nodes")?;
        Ok(list.items.iter().map(node_state).collect())
    }

    /// The pod ranges of a node, as the operator gave them.
    pub(crate) fn pod_ranges(&self, name: &str) -> Result<Vec<String>> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = self.runtime.block_on(nodes.get(name)).with_context(|| format!("cannot read the Node {name}"))?;
        Ok(node.spec.and_then(|spec| spec.pod_cidrs).unwrap_or_default())
    }

    /// Applies an object of the lab's own, server-side.
    pub(crate) fn apply_own(&self, object: serde_json::Value) -> Result<()> {
        let object: DynamicObject = serde_json::from_value(object).context("not an object")?;
        match self.runtime.block_on(self.apply_object(&object)) {
            Ok(()) => Ok(()),
            Err(ApplyError::UnknownKind(reason)) => Err(anyhow!(reason)),
            Err(ApplyError::Refused(error)) => Err(error),
        }
    }

    /// Deletes a Node object; one that is not there is no error.
    pub(crate) fn delete_node(&self, name: &str) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        match self.runtime.block_on(nodes.delete(name, &DeleteParams::default())) {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot delete the Node {name}")),
        }
    }

    /// Deletes the pods of a node that is gone, without grace, as Kubernetes' garbage collection does in time.
    pub(crate) fn delete_pods_of(&self, node: &str) -> Result<()> {
        let all: Api<Pod> = Api::all(self.client.clone());
        let of_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
        self.runtime.block_on(async {
            for pod in all.list(&of_node).await.context("cannot list pods")? {
                let name = pod.metadata.name.unwrap_or_default();
                let api: Api<Pod> =
                    Api::namespaced(self.client.clone(), pod.metadata.namespace.as_deref().unwrap_or("default"));
                match api.delete(&name, &DeleteParams::default().grace_period(0)).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    outcome => drop(outcome.with_context(|| format!("cannot delete the pod {name}"))?),
                }
            }
            Ok(())
        })
    }

    /// Applies every document of a manifest, server-side. The error says whether the kind is not known yet.
    pub(crate) fn apply(&self, file: &Path) -> Result<std::result::Result<usize, String>> {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut applied = 0;
        for (index, document) in serde_yaml_ng::Deserializer::from_str(&text).enumerate() {
            let place = || format!("{}, document {}", file.display(), index + 1);
            let value = serde_json::Value::deserialize(document).with_context(place)?;
            if value.is_null() {
                continue;
            }
            let mut object: DynamicObject = serde_json::from_value(value.clone()).with_context(place)?;
            // So that a later `kubectl apply` of the same file knows what was applied.
            let applied_last = format!("{value}\n");
            object.metadata.annotations.get_or_insert_default().insert(LAST_APPLIED.into(), applied_last);
            match self.runtime.block_on(self.apply_object(&object)) {
                Ok(()) => applied += 1,
                Err(ApplyError::UnknownKind(reason)) => return Ok(Err(format!("{}: {reason}", place()))),
                Err(ApplyError::Refused(error)) => return Err(error.context(place())),
            }
        }
        Ok(Ok(applied))
    }

    async fn apply_object(&self, object: &DynamicObject) -> std::result::Result<(), ApplyError> {
        let refused = |words: &str| ApplyError::Refused(anyhow!("{words}"));
        let types = object.types.as_ref().ok_or_else(|| refused("apiVersion and kind are missing"))?;
        let kind = GroupVersionKind::try_from(types).map_err(|error| ApplyError::Refused(anyhow!(error)))?;
        let name = object.metadata.name.as_deref().ok_or_else(|| refused("metadata.name is missing"))?;
        let (resource, capabilities) = discovery::pinned_kind(&self.client, &kind)
            .await
            .map_err(|error| ApplyError::UnknownKind(format!("{} {}: {error}", types.api_version, types.kind)))?;
        let api: Api<DynamicObject> = match capabilities.scope {
            discovery::Scope::Cluster => Api::all_with(self.client.clone(), &resource),
            discovery::Scope::Namespaced => {
                let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
                Api::namespaced_with(self.client.clone(), namespace, &resource)
            }
        };
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        match api.patch(name, &parameters, &Patch::Apply(object)).await {
            Ok(_) => Ok(()),
            // A CRD is listed a moment before it is served.
            Err(kube::Error::Api(status)) if status.code == 404 => Err(ApplyError::UnknownKind(status.message)),
            Err(error) => Err(ApplyError::Refused(anyhow!(error).context(format!("{} {name}", types.kind)))),
        }
    }
}

enum ApplyError {
    /// May pass: the CRD is not there yet.
    UnknownKind(String),
    /// Stays.
    Refused(anyhow::Error),
}

fn node_state(node: &Node) -> NodeState {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    NodeState {
        name: node.metadata.name.clone().unwrap_or_default(),
        ready: ready.is_some_and(|condition| condition.status == "True"),
        reason: ready.and_then(|condition| condition.message.clone()).unwrap_or_else(|| "no Ready condition".into()),
    }
}
