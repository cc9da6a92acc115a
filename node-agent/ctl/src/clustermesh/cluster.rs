//! One cluster's Kubernetes API, in the few words that are needed: its settings, its Secrets, and objects to be applied.
//! Every error says in which cluster and what to do.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use causeway_mesh_setup::{ClusterName, Data, Side};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret, Service};
use kube::api::{Api, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use serde_json::{Value, json};

use super::{Here, Outcome, Trouble};

/// Cilium's settings, which name the cluster.
const SETTINGS: &str = "cilium-config";
/// Who we are in the API's records of changes.
const MANAGER: &str = "causeway";
/// How long one answer of an API may take.
const TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Cluster {
    client: Client,
    pub(super) namespace: String,
    /// As the user calls it: its context.
    pub(super) called: String,
}

impl Cluster {
    /// No packet is sent yet.
    pub(super) async fn open(
        kubeconfig: Option<&Path>,
        context: Option<&str>,
        namespace: &str,
    ) -> Result<Cluster, Trouble> {
        let file = kubeconfig.map_or_else(|| "the kubeconfig".to_owned(), |path| path.display().to_string());
        let unusable = |error: kube::config::KubeconfigError| {
            Trouble(format!(
                "{file}: {error}; name a kubeconfig and one of its contexts with --kubeconfig and --context"
            ))
        };
        let read = match kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let read = read.map_err(unusable)?;
        let called = context.map(str::to_owned).or_else(|| read.current_context.clone()).unwrap_or_default();
        let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(read, &options).await.map_err(unusable)?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(TIMEOUT);
        let client = Client::try_from(config).map_err(|error| Trouble(format!("{file}, context {called}: {error}")))?;
        Ok(Cluster { client, namespace: namespace.to_owned(), called })
    }

    pub(super) async fn here(here: &Here) -> Result<Cluster, Trouble> {
        Cluster::open(here.kubeconfig.as_deref(), here.context.as_deref(), &here.namespace).await
    }

    fn failed(&self, doing: &str, error: &kube::Error) -> Trouble {
        let why = match error {
            kube::Error::Api(status) => status.message.clone(),
            other => chain(other),
        };
        Trouble(format!(
            "cannot {doing} in context {:?}: {why}; look whether that API server answers and what its user may do",
            self.called
        ))
    }

    /// Name, number and size of the mesh; a flag wins over the settings. The settings may be absent if the flags say all.
    pub(super) async fn side(&self, name: Option<&str>, id: Option<u32>, max: Option<u32>) -> Result<Side, Trouble> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let doing = format!("read ConfigMap {SETTINGS}");
        let settings = match (name, id, max) {
            (Some(_), Some(_), Some(_)) => None,
            _ => api.get_opt(SETTINGS).await.map_err(|error| self.failed(&doing, &error))?,
        };
        let data = settings.and_then(|map| map.data).unwrap_or_default();
        let object = format!("ConfigMap {SETTINGS} in context {:?}", self.called);
        let number = |key: &str| match data.get(key) {
            None => Ok(None),
            Some(text) => text
                .trim()
                .parse::<u32>()
                .map(Some)
                .map_err(|_| Trouble(format!("{object}: {key} is {text:?}; write a number there"))),
        };
        let name = name.or_else(|| data.get("cluster-name").map(String::as_str)).ok_or_else(|| {
            Trouble(format!("{object} has no cluster-name; set it there, or give --cluster-name or --destination-name"))
        })?;
        let id = id.map_or_else(|| number("cluster-id"), |id| Ok(Some(id)))?.unwrap_or(0);
        let max = max.map_or_else(|| number("max-connected-clusters"), |max| Ok(Some(max)))?.unwrap_or(255);
        Ok(Side::parse(&object, name, id, max)?)
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// What a Secret holds; `None` without one.
    pub(super) async fn secret(&self, name: &str) -> Result<Option<Data>, Trouble> {
        let doing = format!("read Secret {name}");
        let secret = self.secrets().get_opt(name).await.map_err(|error| self.failed(&doing, &error))?;
        let data = |secret: Secret| secret.data.unwrap_or_default().into_iter().map(|(k, ByteString(v))| (k, v.into()));
        Ok(secret.map(|secret| data(secret).collect()))
    }

    /// Those of `names` that there are.
    pub(super) async fn secrets_named(&self, names: &[&str]) -> Result<BTreeMap<String, Data>, Trouble> {
        let mut found = BTreeMap::new();
        for name in names {
            if let Some(data) = self.secret(name).await? {
                found.insert((*name).to_owned(), data);
            }
        }
        Ok(found)
    }

    /// Sets keys of a Secret, and takes others away; what else stands in it stays. Writes nothing if all is so already.
    pub(super) async fn change_secret(
        &self,
        name: &str,
        kind: &str,
        set: &Data,
        remove: &[String],
    ) -> Result<Outcome, Trouble> {
        let existing = self.secret(name).await?;
        let patch = match &existing {
            None => return self.make_secret(name, kind, set).await,
            Some(existing) => difference(existing, set, remove),
        };
        if patch.is_empty() {
            return Ok(Outcome::Kept);
        }
        let patch = Patch::Merge(json!({"data": patch}));
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let doing = format!("change Secret {name}");
        self.secrets().patch(name, &params, &patch).await.map_err(|error| self.failed(&doing, &error))?;
        Ok(if set.is_empty() { Outcome::Removed } else { Outcome::Changed })
    }

    /// There is none. Without anything to put into it, none is made.
    async fn make_secret(&self, name: &str, kind: &str, set: &Data) -> Result<Outcome, Trouble> {
        if set.is_empty() {
            return Ok(Outcome::Kept);
        }
        let secret = Secret {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            type_: Some(kind.to_owned()),
            data: Some(set.iter().map(|(key, bytes)| (key.clone(), ByteString(bytes.to_vec()))).collect()),
            ..Secret::default()
        };
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let doing = format!("make Secret {name}");
        self.secrets().create(&params, &secret).await.map_err(|error| self.failed(&doing, &error))?;
        Ok(Outcome::Made)
    }

    /// Server-side apply of an object as it stands.
    pub(super) async fn apply(&self, object: &Value) -> Result<(), Trouble> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, name, version) = (text("/kind"), text("/metadata/name"), text("/apiVersion"));
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
        let namespace = text("/metadata/namespace");
        let api: Api<DynamicObject> = match namespace.as_str() {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        };
        let doing = format!("apply {kind} {name}");
        let params = PatchParams::apply(MANAGER).force();
        api.patch(&name, &params, &Patch::Apply(object)).await.map_err(|error| self.failed(&doing, &error))?;
        Ok(())
    }

    pub(super) async fn service(&self, name: &str) -> Result<Option<Service>, Trouble> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), &self.namespace);
        api.get_opt(name).await.map_err(|error| self.failed(&format!("read Service {name}"), &error))
    }

    pub(super) async fn nodes(&self) -> Result<Vec<Node>, Trouble> {
        let api: Api<Node> = Api::all(self.client.clone());
        let list = api.list(&ListParams::default()).await.map_err(|error| self.failed("list Nodes", &error))?;
        Ok(list.items)
    }

    /// The names of the clusters whose configuration stands in the Secret.
    pub(super) async fn peers(&self, secret: &str) -> Result<Vec<ClusterName>, Trouble> {
        let data = self.secret(secret).await?.unwrap_or_default();
        let is_config = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok_and(|text| text.contains("endpoints:"));
        let configs = data.iter().filter(|(_, bytes)| is_config(bytes));
        Ok(configs.filter_map(|(name, _)| ClusterName::parse(name).ok()).collect())
    }
}

/// A merge patch of `data`: what is to be set and is not, and what is to go and is there.
fn difference(existing: &Data, set: &Data, remove: &[String]) -> BTreeMap<String, Option<ByteString>> {
    let other = set.iter().filter(|(key, bytes)| existing.get(*key) != Some(bytes));
    let set = other.map(|(key, bytes)| (key.clone(), Some(ByteString(bytes.to_vec()))));
    let gone = remove.iter().filter(|key| existing.contains_key(*key)).map(|key| (key.clone(), None));
    set.chain(gone).collect()
}

/// An error with what caused it: "error trying to connect" alone says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differences_are_patched() {
        let data = |pairs: &[(&str, &str)]| -> Data {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec().into())).collect()
        };
        let existing = data(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let patch =
            difference(&existing, &data(&[("a", "1"), ("b", "5"), ("d", "4")]), &["c".to_owned(), "x".to_owned()]);
        let patch = serde_json::to_value(patch).unwrap();
        assert_eq!(patch, json!({"b": "NQ==", "c": null, "d": "NA=="}));
        assert!(difference(&existing, &existing, &[]).is_empty());
    }
}
