//! OpenAPI v3, written from the schemas: enough for `kubectl apply`, `explain`, and clients that generate forms.

use std::collections::BTreeSet;

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};

use crate::api::Api;
use crate::kinds::{Resource, api_version};
use crate::schema::{ListKind, Scalar, Schema, Shape, types};
use crate::status::{ApiError, ApiResult};

/// Media type of the older document as answered. kubectl asks for `...v2@v1.0+protobuf`, which is no legal media type, and
/// would not read it in an answer.
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The older document, without definitions: kubectl reads it for what v3 does not have (`kind: List`) and before 1.27
/// for everything, and leaves the validation of kinds it does not find there to the server.
pub(super) fn v2(accept: &str) -> Response {
    if accept.contains("proto-openapi") {
        // A `Document` with its first field, `swagger`, set to "2.0".
        return ([(CONTENT_TYPE, V2_PROTOBUF)], b"\x0a\x032.0".as_slice()).into_response();
    }
    let info = json!({"title": "Kubernetes", "version": "v1.32.4"});
    axum::Json(json!({"swagger": "2.0", "info": info, "paths": {}, "definitions": {}})).into_response()
}

pub(super) fn index(api: &Api) -> Value {
    let mut paths = Map::new();
    // The hash lets a client keep what it has: custom resources change with the store.
    let revision = api.registry.all().values().filter(|r| r.custom()).count();
    for resource in api.registry.all().values() {
        let path = path_of(&resource.group, &resource.version);
        let hash = format!("{revision}-{}", api.store.revision());
        let url = format!("/openapi/v3/{path}?hash={}", if resource.custom() { hash.as_str() } else { "builtin" });
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

pub(super) fn document(api: &Api, group: &str, version: &str) -> ApiResult<Response> {
    let all = api.registry.all();
    let resources: Vec<_> = all.values().filter(|r| r.group == group && r.version == version).collect();
    if resources.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let mut paths = Map::new();
    let mut schemas = Map::new();
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    for resource in &resources {
        let name = schema_name(resource);
        match (&resource.builtin, &resource.open_api) {
            (Some(builtin), _) => {
                wanted.insert(builtin.clone());
            }
            (None, Some(own)) => {
                wanted.insert("meta.v1.ObjectMeta".to_owned());
                schemas.insert(name.clone(), custom_schema(own, resource));
            }
            (None, None) => {}
        }
        add_paths(&mut paths, resource, &name);
    }
    let mut done: BTreeSet<String> = BTreeSet::new();
    while let Some(next) = wanted.pop_first() {
        if done.insert(next.clone()) {
            let mut schema = write(types::named(&next), &mut wanted);
            if let Some(resource) = resources.iter().find(|r| r.builtin.as_deref() == Some(&next)) {
                schema["x-kubernetes-group-version-kind"] = json!([gvk(resource)]);
            }
            schemas.insert(component(&next), schema);
        }
    }
    let info = json!({"title": "Kubernetes", "version": "v1.32.4"});
    let document = json!({"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}});
    Ok(axum::Json(document).into_response())
}

fn gvk(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

/// The name under which the real server publishes a built-in type.
fn component(type_name: &str) -> String {
    match type_name.strip_prefix("meta.") {
        Some(rest) => format!("io.k8s.apimachinery.pkg.apis.meta.{rest}"),
        None => format!("io.k8s.api.{type_name}"),
    }
}

fn schema_name(resource: &Resource) -> String {
    match &resource.builtin {
        Some(name) => component(name),
        None => {
            let reversed: Vec<&str> = resource.group.split('.').rev().collect();
            format!("{}.{}.{}", reversed.join("."), resource.version, resource.kind)
        }
    }
}

fn custom_schema(own: &Value, resource: &Resource) -> Value {
    let mut schema = own.clone();
    schema["properties"]["apiVersion"] = json!({"type": "string"});
    schema["properties"]["kind"] = json!({"type": "string"});
    schema["properties"]["metadata"] = json!({"allOf": [{"$ref": reference("meta.v1.ObjectMeta")}], "default": {}});
    schema["x-kubernetes-group-version-kind"] = json!([gvk(resource)]);
    schema
}

fn reference(type_name: &str) -> String {
    format!("#/components/schemas/{}", component(type_name))
}

fn add_paths(paths: &mut Map<String, Value>, resource: &Resource, schema: &str) {
    let prefix = if resource.group.is_empty() { "/api".to_owned() } else { "/apis".to_owned() };
    let prefix = format!("{prefix}/{}", api_version(&resource.group, &resource.version));
    let base = if resource.namespaced {
        format!("{prefix}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        format!("{prefix}/{}", resource.plural)
    };
    let body = json!({"$ref": format!("#/components/schemas/{schema}")});
    let responses = json!({"200": {"description": "OK", "content": {"application/json": {"schema": body}}}});
    let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let parameters = json!([query("dryRun"), query("fieldManager"), query("fieldValidation")]);
    let operation = |action: &str, content: &[&str]| {
        let mut value = json!({
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk(resource), "responses": responses,
        });
        if !content.is_empty() {
            let content: Map<String, Value> =
                content.iter().map(|c| ((*c).to_owned(), json!({"schema": body}))).collect();
            value["requestBody"] = json!({"content": content});
            value["parameters"] = parameters.clone();
        }
        value
    };
    if resource.create_only {
        paths.insert(base, json!({"post": operation("post", &["*/*"])}));
        return;
    }
    let mut patches =
        vec!["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];
    if !resource.custom() {
        patches.push("application/strategic-merge-patch+json");
    }
    paths.insert(base.clone(), json!({"get": operation("list", &[]), "post": operation("post", &["*/*"])}));
    paths.insert(
        format!("{base}/{{name}}"),
        json!({"get": operation("get", &[]), "put": operation("put", &["*/*"]), "patch": operation("patch", &patches), "delete": operation("delete", &[])}),
    );
}

/// A schema in OpenAPI's words; the built-in types that it names are added to `wanted`.
fn write(schema: &Schema, wanted: &mut BTreeSet<String>) -> Value {
    let mut value = match &schema.shape {
        Shape::Any => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        Shape::Scalar(scalar) => scalar_value(*scalar),
        Shape::List { item, kind } => list_value(item, kind, wanted),
        Shape::Map(inner) => json!({"type": "object", "additionalProperties": write(inner, wanted)}),
        Shape::Struct(fields) => {
            let properties: Map<String, Value> =
                fields.fields.iter().map(|(name, f)| (name.clone(), write(f, wanted))).collect();
            let mut value = json!({"type": "object", "properties": properties});
            if !fields.required.is_empty() {
                value["required"] = fields.required.clone().into();
            }
            value
        }
        Shape::Ref(name) => {
            wanted.insert(name.clone());
            json!({"allOf": [{"$ref": reference(name)}]})
        }
    };
    if let Some(default) = &schema.default {
        value["default"] = default.clone();
    }
    if let Some(limits) = &schema.limits
        && !limits.enumeration.is_empty()
    {
        value["enum"] = limits.enumeration.clone().into();
    }
    if schema.atomic {
        value["x-kubernetes-map-type"] = "atomic".into();
    }
    value
}

fn scalar_value(scalar: Scalar) -> Value {
    match scalar {
        Scalar::Bool => json!({"type": "boolean"}),
        Scalar::Int => json!({"type": "integer"}),
        Scalar::Number => json!({"type": "number"}),
        Scalar::String => json!({"type": "string"}),
        Scalar::IntOrString => json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"}),
        Scalar::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Scalar::Time => json!({"type": "string", "format": "date-time"}),
        Scalar::Bytes => json!({"type": "string", "format": "byte"}),
    }
}

fn list_value(item: &Schema, kind: &ListKind, wanted: &mut BTreeSet<String>) -> Value {
    let mut value = json!({"type": "array", "items": write(item, wanted)});
    match kind {
        ListKind::Atomic => value["x-kubernetes-list-type"] = "atomic".into(),
        ListKind::Set => {
            value["x-kubernetes-list-type"] = "set".into();
            value["x-kubernetes-patch-strategy"] = "merge".into();
        }
        ListKind::Map(keys) => {
            value["x-kubernetes-list-type"] = "map".into();
            value["x-kubernetes-list-map-keys"] = keys.clone().into();
            value["x-kubernetes-patch-strategy"] = "merge".into();
            value["x-kubernetes-patch-merge-key"] = keys.first().cloned().into();
        }
    }
    value
}
