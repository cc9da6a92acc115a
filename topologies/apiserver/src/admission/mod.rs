//! The few things that a kind needs beyond its schema: computed defaults, cross-field validation, claims on addresses, and what
//! a write of it sets in motion.

pub mod addresses;
pub mod crd;
pub mod events;
pub mod names;
mod pod;
mod service;
mod workload;

use serde_json::{Value, json};

use crate::api::Api;
use crate::kinds::Resource;
use crate::schema::check::FieldError;
use crate::status::{ApiError, ApiResult};
use addresses::Claim;

/// Keeps a CRD until its objects are gone.
pub const CRD_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

fn id(resource: &Resource) -> (&str, &str) {
    (resource.group.as_str(), resource.plural.as_str())
}

/// Before a new object is completed: what its first state is.
pub fn before_create(api: &Api, resource: &Resource, value: &mut Value) -> ApiResult<()> {
    match id(resource) {
        ("", "pods") => value["status"] = json!({"phase": "Pending"}),
        ("", "namespaces") => {
            let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            value["metadata"]["labels"]["kubernetes.io/metadata.name"] = name.into();
            value["spec"] = json!({"finalizers": ["kubernetes"]});
            value["status"] = json!({"phase": "Active"});
        }
        ("", "services") => value["status"] = json!({"loadBalancer": {}}),
        ("apps", "deployments" | "daemonsets") => value["status"] = json!({}),
        ("apps", "replicasets") => value["status"] = json!({"replicas": 0}),
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::before_create(value)?,
        ("", "secrets") => encode_secret(value),
        ("", "serviceaccounts" | "nodes" | "configmaps") => {}
        _ => {}
    }
    let _ = api;
    Ok(())
}

pub fn before_update(api: &Api, resource: &Resource, old: &Value, new: &mut Value, subresource: &str) -> ApiResult<()> {
    match id(resource) {
        ("", "secrets") => encode_secret(new),
        ("", "services") => service::before_update(old, new),
        ("", "pods") if subresource.is_empty() => pod::before_update(new, old),
        ("", "namespaces") if subresource != "finalize" => new["spec"] = old["spec"].clone(),
        ("apiextensions.k8s.io", "customresourcedefinitions") if subresource.is_empty() => crd::before_update(new),
        _ => {}
    }
    let _ = api;
    Ok(())
}

/// `stringData` is written, `data` is read.
fn encode_secret(secret: &mut Value) {
    use base64::Engine as _;
    let Some(plain) = secret.as_object_mut().and_then(|s| s.shift_remove("stringData")) else { return };
    for (name, text) in plain.as_object().into_iter().flatten() {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
        secret["data"][name] = encoded.into();
    }
}

/// Defaults that depend on other fields.
pub fn default(api: &Api, resource: &Resource, value: &mut Value, existing: Option<&Value>) -> ApiResult<()> {
    match id(resource) {
        ("", "pods") => pod::default_spec(&mut value["spec"], true),
        ("", "services") => service::default(api, value, existing)?,
        ("apps", _) => workload::default(resource, value),
        ("batch", "jobs") => pod::default_spec(&mut value["spec"]["template"]["spec"], false),
        _ => {}
    }
    Ok(())
}

/// What the schema cannot say.
pub fn validate(api: &Api, resource: &Resource, value: &Value, existing: Option<&Value>) -> Vec<FieldError> {
    let mut errors = names::validate_labels(value);
    match id(resource) {
        ("", "pods") => errors.extend(pod::validate(value, existing)),
        ("", "services") => errors.extend(service::validate(value, existing)),
        ("apps", "deployments" | "replicasets" | "daemonsets" | "statefulsets") => {
            errors.extend(workload::validate(value, existing));
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => errors.extend(crd::validate(value)),
        ("discovery.k8s.io", "endpointslices") => errors.extend(service::validate_slice(value, existing)),
        _ => {}
    }
    let _ = api;
    errors
}

/// Takes what must be unique in the cluster; given back unless the write succeeds.
pub fn claim<'a>(
    api: &'a Api,
    resource: &Resource,
    value: &mut Value,
    old: Option<&Value>,
    dry_run: bool,
) -> ApiResult<Claim<'a>> {
    match id(resource) {
        ("", "services") => service::claim(api, resource, value, old, dry_run),
        _ => Ok(Claim::nothing(&api.addresses)),
    }
}

pub fn after_write(api: &Api, resource: &Resource, value: &Value) {
    if resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
        crd::register(api, value);
    }
}

pub fn after_delete(api: &Api, resource: &Resource, value: &Value) {
    match id(resource) {
        ("", "services") => api.addresses.release_service(value),
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::unregister(api, value),
        _ => {}
    }
}

/// Whether an object without finalizers and grace may go: a namespace has a list of its own.
pub fn may_vanish(resource: &Resource, value: &Value) -> bool {
    !resource.is("", "namespaces") || value["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty)
}

pub fn on_mark(resource: &Resource, value: &mut Value) {
    match id(resource) {
        ("", "namespaces") => value["status"]["phase"] = "Terminating".into(),
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::on_mark(value),
        _ => {}
    }
}

/// Only pods end slowly, and only those that a kubelet has taken.
pub fn grace_period_s(resource: &Resource, value: &Value, requested: Option<i64>) -> i64 {
    if !resource.is("", "pods") {
        return 0;
    }
    let unscheduled = value["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let ended = matches!(value["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unscheduled || ended {
        return 0;
    }
    let own = value["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    requested.unwrap_or(own).max(0)
}

/// The answer to an access review: everything is allowed.
pub fn answer(resource: &Resource, mut value: Value, user: &str, groups: &[String]) -> ApiResult<Value> {
    value["status"] = match resource.kind.as_str() {
        "SelfSubjectAccessReview" | "SubjectAccessReview" => {
            json!({"allowed": true, "reason": "every known client may do everything"})
        }
        "SelfSubjectRulesReview" => json!({
            "incomplete": false,
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }),
        "SelfSubjectReview" => json!({"userInfo": {"username": user, "groups": groups}}),
        _ => return Err(ApiError::method_not_allowed()),
    };
    Ok(value)
}
