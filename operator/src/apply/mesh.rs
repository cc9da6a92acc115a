//! Carries out the plans of the mesh's trades. A Service whose changes did not all succeed is to be looked at again.

use std::fmt::Debug;

use causeway_k8s::watch::Key;
use causeway_k8s::{ServiceExport, ServiceImport};
use futures::{StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{FIELD_MANAGER, Outcome, REQUESTS_AT_ONCE, conditions_patch, delete_params, status_patch};
use crate::plan::{Write, mcs};
use crate::world::World;

/// What a write left in the server.
enum Left<K> {
    Object(K),
    Nothing(Key),
}

/// Carries out the plans; returns the Services to look at again.
pub(crate) async fn exports(client: &Client, world: &mut World, plans: Vec<(Key, mcs::Plan)>) -> (Outcome, Vec<Key>) {
    let mut outcome = Outcome::default();
    let mut again = Vec::new();
    let mut done = stream::iter(plans.into_iter().map(|(key, plan)| one_export(client, key, plan)))
        .buffer_unordered(REQUESTS_AT_ONCE);
    while let Some(service) = done.next().await {
        outcome.done += service.outcome.done;
        outcome.again += service.outcome.again;
        if service.outcome.again > 0 {
            again.push(service.key);
        }
        service.exports.into_iter().for_each(|export| world.mesh.exports.put(export));
        for left in service.imports {
            match left {
                Left::Object(import) => world.mesh.imports.put(import),
                Left::Nothing(key) => world.mesh.imports.forget(&key),
            }
        }
        for left in service.derived {
            match left {
                Left::Object(derived) => world.services.put(derived),
                Left::Nothing(key) => world.services.forget(&key),
            }
        }
        service.copies.into_iter().for_each(|left| mirror_slice(world, left));
    }
    (outcome, again)
}

/// What became of one Service's plan.
struct Exported {
    key: Key,
    outcome: Outcome,
    exports: Vec<ServiceExport>,
    imports: Vec<Left<ServiceImport>>,
    derived: Vec<Left<Service>>,
    copies: Vec<Left<EndpointSlice>>,
}

async fn one_export(client: &Client, key: Key, plan: mcs::Plan) -> Exported {
    let mut done = Exported {
        key: key.clone(),
        outcome: Outcome::default(),
        exports: Vec::new(),
        imports: Vec::new(),
        derived: Vec::new(),
        copies: Vec::new(),
    };
    if let Some(status) = plan.export_status {
        let api: Api<ServiceExport> = Api::namespaced(client.clone(), &key.namespace);
        let body = conditions_patch(status.resource_version.as_deref(), &status.conditions);
        let result = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(body)).await;
        done.exports.extend(done.outcome.count(&format!("status of ServiceExport {key}"), result).map(plain));
    }
    // The status first: its write names the version that the plan was made from, which the next write changes.
    if let Some(status) = plan.import_status {
        let api: Api<ServiceImport> = Api::namespaced(client.clone(), &key.namespace);
        let body = status_patch(status.resource_version.as_deref(), &json!(status.status));
        let result = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(body)).await;
        let written = done.outcome.count(&format!("status of ServiceImport {key}"), result).map(plain);
        done.imports.extend(written.map(Left::Object));
    } else if let Some(import) = plan.import {
        done.imports.extend(write(client, import, &mut done.outcome).await);
    }
    if let Some(derived) = plan.derived {
        done.derived.extend(write(client, derived, &mut done.outcome).await);
    }
    for copy in plan.copies {
        done.copies.extend(write(client, copy, &mut done.outcome).await);
    }
    done
}

/// Carries out the writes of each Service, so many at once; returns the Services to look at again.
pub(crate) async fn slices(
    client: &Client,
    world: &mut World,
    plans: Vec<(Key, Vec<Write<EndpointSlice>>)>,
    at_once: usize,
) -> (Outcome, Vec<Key>) {
    let mut outcome = Outcome::default();
    let mut again = Vec::new();
    let services = plans.into_iter().map(|(key, writes)| async move {
        let mut outcome = Outcome::default();
        let mut left = Vec::with_capacity(writes.len());
        for slice in writes {
            left.extend(write(client, slice, &mut outcome).await);
        }
        (key, outcome, left)
    });
    let mut done = stream::iter(services).buffer_unordered(at_once);
    while let Some((key, service, left)) = done.next().await {
        outcome.done += service.done;
        outcome.again += service.again;
        if service.again > 0 {
            again.push(key);
        }
        left.into_iter().for_each(|left| mirror_slice(world, left));
    }
    (outcome, again)
}

fn mirror_slice(world: &mut World, left: Left<EndpointSlice>) {
    match left {
        Left::Object(slice) => world.mesh.put_slice(slice),
        Left::Nothing(key) => world.mesh.forget_slice(&key),
    }
}

async fn write<K>(client: &Client, write: Write<K>, outcome: &mut Outcome) -> Option<Left<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
{
    let kind = K::kind(&());
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let api = |namespace: Option<&str>| Api::<K>::namespaced(client.clone(), namespace.unwrap_or_default());
    match write {
        Write::Create(object) => {
            let name = object.meta().name.clone().or_else(|| object.meta().generate_name.clone()).unwrap_or_default();
            let what = format!("{kind} {}/{name}", object.namespace().unwrap_or_default());
            let result = api(object.namespace().as_deref()).create(&params, &object).await;
            outcome.count(&what, result).map(|object| Left::Object(plain(object)))
        }
        Write::Replace(object) => {
            let (namespace, name) = (object.namespace(), object.name_any());
            let what = format!("{kind} {}/{name}", namespace.as_deref().unwrap_or_default());
            let result = api(namespace.as_deref()).replace(&name, &params, &object).await;
            outcome.count(&what, result).map(|object| Left::Object(plain(object)))
        }
        Write::Delete { key, uid, resource_version } => {
            let result = api(Some(&key.namespace)).delete(&key.name, &delete_params(uid, resource_version)).await;
            outcome.count(&format!("{kind} {key}"), result).map(|_| Left::Nothing(key))
        }
    }
}

fn plain<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}
