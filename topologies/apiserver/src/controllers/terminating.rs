//! What must be empty before it goes: namespaces and custom resource definitions. And what a namespace has from its first moment.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::feed::Feed;
use super::log_failure;
use super::views::Any;
use crate::admission::CRD_FINALIZER;
use crate::api::{Api, DeleteOptions, WriteOptions};
use crate::kinds::group_resource;
use crate::status::ApiResult;
use crate::store::Key;

/// How often something that is not empty yet is looked at again.
const TICK: Duration = Duration::from_millis(200);
const MANAGER: &str = "kube-controller-manager";

pub(super) async fn run_namespaces(api: Arc<Api>) {
    let mut namespaces: Feed<Any> = Feed::new(&api, "", "namespaces");
    loop {
        for change in namespaces.pull() {
            if change.before.is_none() && change.now.is_some() {
                let result = default_account(&api, &change.key.name);
                log_failure("namespace", &change.key, result);
            }
        }
        let ending: Vec<Key> =
            namespaces.iter().filter(|(_, n)| n.metadata.deleting()).map(|(key, _)| key.clone()).collect();
        for key in &ending {
            let result = empty_namespace(&api, key);
            log_failure("namespace", key, result);
        }
        tokio::select! {
            () = namespaces.changed() => {}
            () = tokio::time::sleep(TICK), if !ending.is_empty() => {}
        }
    }
}

fn default_account(api: &Api, namespace: &str) -> ApiResult<()> {
    let accounts = api.registry.builtin("", "serviceaccounts");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    match api.create(&accounts, namespace, account, &WriteOptions::by(MANAGER)) {
        Err(error) if error.code != 409 => Err(error),
        _ => Ok(()),
    }
}

/// Deletes what is left in the namespace; once nothing is, lets it go.
fn empty_namespace(api: &Api, namespace: &Key) -> ApiResult<()> {
    let mut left = 0;
    for resource in api.registry.tables().iter().filter(|r| r.namespaced) {
        for object in api.store.list(&resource.table, Some(&namespace.name)).objects {
            let view: Any = object.view().unwrap_or_default();
            if !view.metadata.deleting() {
                match api.delete(resource, &object.key, &DeleteOptions::background()) {
                    Err(error) if error.code != 404 => return Err(error),
                    _ => {}
                }
            }
            left += usize::from(api.store.get(&resource.table, &object.key).is_some());
        }
    }
    if left > 0 {
        return Ok(());
    }
    let namespaces = api.registry.builtin("", "namespaces");
    let options = WriteOptions { subresource: "finalize".to_owned(), ..WriteOptions::by(MANAGER) };
    api.modify(&namespaces, namespace, &options, &mut |old| {
        let mut new = old.clone();
        new["spec"]["finalizers"] = json!([]);
        Ok(new)
    })?;
    Ok(())
}

pub(super) async fn run_definitions(api: Arc<Api>) {
    let mut definitions: Feed<Any> = Feed::new(&api, "apiextensions.k8s.io", "customresourcedefinitions");
    loop {
        definitions.pull();
        let ending: Vec<Key> = definitions
            .iter()
            .filter(|(_, d)| d.metadata.deleting() && d.metadata.finalizers.iter().any(|f| f == CRD_FINALIZER))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &ending {
            let result = empty_definition(&api, &definitions, key);
            log_failure("crd", key, result);
        }
        tokio::select! {
            () = definitions.changed() => {}
            () = tokio::time::sleep(TICK), if !ending.is_empty() => {}
        }
    }
}

fn empty_definition(api: &Api, definitions: &Feed<Any>, key: &Key) -> ApiResult<()> {
    let definition = api.get(&definitions.resource, key)?.value();
    let group = definition["spec"]["group"].as_str().unwrap_or_default();
    let plural = definition["spec"]["names"]["plural"].as_str().unwrap_or_default();
    let table = group_resource(group, plural);
    if let Some(resource) = api.registry.all().values().find(|r| *r.table == *table).cloned() {
        for object in api.store.list(&table, None).objects {
            let view: Any = object.view().unwrap_or_default();
            if !view.metadata.deleting() {
                match api.delete(&resource, &object.key, &DeleteOptions::background()) {
                    Err(error) if error.code != 404 => return Err(error),
                    _ => {}
                }
            }
        }
    }
    if api.store.count(&table) > 0 {
        return Ok(());
    }
    api.modify(&definitions.resource, key, &WriteOptions::by(MANAGER), &mut |old| {
        let mut new = old.clone();
        if let Some(finalizers) = new["metadata"]["finalizers"].as_array_mut() {
            finalizers.retain(|f| f != CRD_FINALIZER);
        }
        Ok(new)
    })?;
    Ok(())
}
