//! Which groups, versions and resources there are: the old form, one document per group version, and the aggregated one.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use serde_json::{Value, json};

use super::Accept;
use crate::api::Api;
use crate::kinds::{Resource, api_version};
use crate::status::{ApiError, ApiResult};

type Versions = BTreeMap<String, Vec<Arc<Resource>>>;

fn by_group(api: &Api) -> BTreeMap<String, Versions> {
    let mut groups: BTreeMap<String, Versions> = BTreeMap::new();
    for resource in api.registry.all().values() {
        groups
            .entry(resource.group.clone())
            .or_default()
            .entry(resource.version.clone())
            .or_default()
            .push(resource.clone());
    }
    groups
}

/// Stable versions before beta before alpha, newer ones first: v2, v1, v1beta1, v1alpha1.
fn version_order(version: &str) -> (u8, std::cmp::Reverse<u64>, std::cmp::Reverse<u64>, String) {
    let number =
        |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u64>().unwrap_or(0);
    let body = version.strip_prefix('v').unwrap_or("");
    let rest = body.trim_start_matches(|c: char| c.is_ascii_digit());
    let (stage, minor) = match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
        _ if rest.is_empty() && !body.is_empty() => (0, 0),
        (Some(minor), _) => (1, number(minor)),
        (_, Some(minor)) => (2, number(minor)),
        _ => (3, 0),
    };
    (stage, std::cmp::Reverse(number(body)), std::cmp::Reverse(minor), version.to_owned())
}

fn ordered(versions: &Versions) -> Vec<(&String, &Vec<Arc<Resource>>)> {
    let mut all: Vec<_> = versions.iter().collect();
    all.sort_by_key(|(version, _)| version_order(version));
    all
}

pub(super) fn root(api: &Api) -> Value {
    let mut paths = vec!["/api".to_owned(), "/apis".to_owned()];
    for (group, versions) in by_group(api) {
        for version in versions.keys() {
            paths.push(if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") });
        }
    }
    paths.extend(["/healthz", "/livez", "/openapi/v3", "/readyz", "/version"].map(str::to_owned));
    json!({"paths": paths})
}

pub(super) fn legacy_versions(api: &Api, accept: &Accept) -> Response {
    if *accept == Accept::GroupDiscovery {
        return aggregated(api, |group| group.is_empty());
    }
    axum::Json(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})).into_response()
}

pub(super) fn groups(api: &Api, accept: &Accept) -> Response {
    if *accept == Accept::GroupDiscovery {
        return aggregated(api, |group| !group.is_empty());
    }
    let all = by_group(api);
    let groups: Vec<Value> =
        all.iter().filter(|(name, _)| !name.is_empty()).map(|(name, v)| group_value(name, v)).collect();
    axum::Json(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})).into_response()
}

fn group_value(name: &str, versions: &Versions) -> Value {
    let versions: Vec<Value> =
        ordered(versions).iter().map(|(v, _)| json!({"groupVersion": api_version(name, v), "version": v})).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions[0]})
}

pub(super) fn group(api: &Api, name: &str) -> ApiResult<Response> {
    let all = by_group(api);
    let versions = all.get(name).ok_or_else(ApiError::no_such_path)?;
    let mut value = group_value(name, versions);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Ok(axum::Json(value).into_response())
}

/// The kind that a subresource speaks.
fn subresources(resource: &Resource) -> Vec<(String, String, String, String, Vec<&'static str>)> {
    let own = |name: &str, verbs| {
        (name.to_owned(), resource.group.clone(), resource.version.clone(), resource.kind.clone(), verbs)
    };
    let other = |name: &str, group: &str, kind: &str, verbs| {
        (name.to_owned(), group.to_owned(), "v1".to_owned(), kind.to_owned(), verbs)
    };
    let mut all = Vec::new();
    if resource.status {
        all.push(own("status", vec!["get", "patch", "update"]));
    }
    if resource.scale.is_some() {
        all.push(other("scale", "autoscaling", "Scale", vec!["get", "patch", "update"]));
    }
    for name in &resource.subresources {
        all.push(match name.as_str() {
            "log" => own("log", vec!["get"]),
            "binding" => other("binding", "", "Binding", vec!["create"]),
            "eviction" => other("eviction", "policy", "Eviction", vec!["create"]),
            "token" => other("token", "authentication.k8s.io", "TokenRequest", vec!["create"]),
            "finalize" => own("finalize", vec!["update"]),
            name => own(name, vec!["get", "patch", "update"]),
        });
    }
    all
}

pub(super) fn resources(api: &Api, group: &str, version: &str) -> ApiResult<Response> {
    let all = by_group(api);
    let found = all.get(group).and_then(|versions| versions.get(version)).ok_or_else(ApiError::no_such_path)?;
    let mut list = Vec::new();
    for resource in found {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs(),
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = resource.short_names.clone().into();
        }
        if !resource.categories.is_empty() {
            entry["categories"] = resource.categories.clone().into();
        }
        list.push(entry);
        for (name, sub_group, sub_version, kind, verbs) in subresources(resource) {
            let mut entry = json!({
                "name": format!("{}/{name}", resource.plural), "singularName": "", "namespaced": resource.namespaced,
                "kind": kind, "verbs": verbs,
            });
            if sub_group != group {
                entry["group"] = sub_group.into();
                entry["version"] = sub_version.into();
            }
            list.push(entry);
        }
    }
    let value = json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version(group, version), "resources": list,
    });
    Ok(axum::Json(value).into_response())
}

fn aggregated(api: &Api, wanted: impl Fn(&str) -> bool) -> Response {
    let mut items = Vec::new();
    for (group, versions) in by_group(api).iter().filter(|(group, _)| wanted(group)) {
        let versions: Vec<Value> = ordered(versions)
            .iter()
            .map(|(version, resources)| {
                let resources: Vec<Value> = resources.iter().map(|r| aggregated_resource(r)).collect();
                json!({"version": version, "resources": resources, "freshness": "Current"})
            })
            .collect();
        let metadata = if group.is_empty() {
            json!({"creationTimestamp": null})
        } else {
            json!({"name": group, "creationTimestamp": null})
        };
        items.push(json!({"metadata": metadata, "versions": versions}));
    }
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    let mut response = axum::Json(list).into_response();
    let kind = HeaderValue::from_static("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn aggregated_resource(resource: &Resource) -> Value {
    let scope = if resource.namespaced { "Namespaced" } else { "Cluster" };
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let subresources: Vec<Value> = subresources(resource)
        .into_iter()
        .map(|(name, group, version, sub_kind, verbs)| {
            json!({"subresource": name, "responseKind": kind(&group, &version, &sub_kind), "verbs": verbs})
        })
        .collect();
    let mut value = json!({
        "resource": resource.plural, "responseKind": kind(&resource.group, &resource.version, &resource.kind),
        "scope": scope, "singularResource": resource.singular, "verbs": resource.verbs(),
    });
    for (name, list) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !list.is_empty() {
            value[name] = list.clone().into();
        }
    }
    if !subresources.is_empty() {
        value["subresources"] = subresources.into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::version_order;

    #[test]
    fn versions_in_order() {
        let mut versions = vec!["v1alpha1", "v1beta1", "v2", "foo", "v1", "v2beta2", "v10"];
        versions.sort_by_key(|v| version_order(v));
        assert_eq!(versions, ["v10", "v2", "v1", "v2beta2", "v1beta1", "v1alpha1", "foo"]);
    }
}
