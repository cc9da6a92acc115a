//! CustomResourceDefinitions: checked, accepted at once, and turned into resources that are served.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::Api;
use crate::columns::Column;
use crate::kinds::{Resource, ScalePaths, api_version, group_resource};
use crate::schema::check::FieldError;
use crate::schema::{Schema, Shape, crd};
use crate::status::ApiResult;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

pub(super) fn before_create(definition: &mut Value) -> ApiResult<()> {
    before_update(definition);
    let now = crate::apply::now();
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now});
    let stored: Vec<Value> = versions(definition).filter(|v| v["storage"] == true).map(|v| v["name"].clone()).collect();
    definition["status"] = json!({
        "acceptedNames": definition["spec"]["names"],
        "storedVersions": stored,
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    });
    let finalizers = &mut definition["metadata"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) => list.push(super::CRD_FINALIZER.into()),
        None => *finalizers = json!([super::CRD_FINALIZER]),
    }
    Ok(())
}

/// Names that follow from the kind.
pub(super) fn before_update(definition: &mut Value) {
    let names = &mut definition["spec"]["names"];
    let kind = text(&names["kind"]);
    if names["singular"].is_null() {
        names["singular"] = kind.to_lowercase().into();
    }
    if names["listKind"].is_null() {
        names["listKind"] = format!("{kind}List").into();
    }
    if definition["spec"]["conversion"].is_null() {
        definition["spec"]["conversion"] = json!({"strategy": "None"});
    }
}

pub(super) fn on_mark(definition: &mut Value) {
    let now = crate::apply::now();
    if let Some(conditions) = definition["status"]["conditions"].as_array_mut() {
        conditions.push(json!({"type": "Terminating", "status": "True", "reason": "InstanceDeletionInProgress",
            "message": "CustomResource deletion is in progress", "lastTransitionTime": now}));
    }
}

fn versions(definition: &Value) -> impl Iterator<Item = &Value> {
    definition["spec"]["versions"].as_array().into_iter().flatten()
}

pub(super) fn validate(definition: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &definition["spec"];
    let expected = format!("{}.{}", text(&spec["names"]["plural"]), text(&spec["group"]));
    let name = text(&definition["metadata"]["name"]);
    if name != expected {
        errors.push(FieldError::invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group"));
    }
    if versions(definition).filter(|v| v["storage"] == true).count() != 1 {
        let shown = spec["versions"].as_array().map_or(0, Vec::len);
        errors.push(FieldError::invalid(
            "spec.versions",
            shown,
            "must have exactly one version marked as storage version",
        ));
    }
    for (i, version) in versions(definition).enumerate() {
        let path = format!("spec.versions[{i}].schema");
        match version["schema"].get("openAPIV3Schema") {
            None => errors.push(FieldError::required(format!("{path}.openAPIV3Schema"), "schemas are required")),
            Some(schema) => {
                if let Err(why) = crd::parse(schema) {
                    let (at, why) = why.split_once(": ").unwrap_or(("", &why));
                    errors.push(FieldError::invalid(format!("{path}.{at}"), Value::Null, why));
                }
            }
        }
    }
    errors
}

/// Serves what the definition says from now on.
pub(super) fn register(api: &Api, definition: &Value) {
    let spec = &definition["spec"];
    let (group, names) = (text(&spec["group"]), &spec["names"]);
    let plural = text(&names["plural"]);
    let storage = versions(definition).find(|v| v["storage"] == true).map(|v| text(&v["name"])).unwrap_or_default();
    let served = versions(definition).filter(|v| v["served"] == true);
    let resources = served.filter_map(|version| {
        let open_api = version["schema"].get("openAPIV3Schema")?.clone();
        let schema = root_schema(crd::parse(&open_api).ok()?);
        let scale = &version["subresources"]["scale"];
        Some(Resource {
            group: group.clone(),
            version: text(&version["name"]),
            plural: plural.clone(),
            singular: text(&names["singular"]),
            kind: text(&names["kind"]),
            list_kind: text(&names["listKind"]),
            short_names: texts(&names["shortNames"]),
            categories: texts(&names["categories"]),
            namespaced: spec["scope"] == "Namespaced",
            status: version["subresources"]["status"].is_object(),
            scale: scale.is_object().then(|| ScalePaths {
                spec: text(&scale["specReplicasPath"]),
                status: text(&scale["statusReplicasPath"]),
                selector: scale["labelSelectorPath"].as_str().map(str::to_owned),
            }),
            subresources: Vec::new(),
            generation: true,
            create_only: false,
            schema: Arc::new(schema),
            builtin: None,
            open_api: Some(open_api),
            columns: Column::of_crd(&version["additionalPrinterColumns"]),
            table: group_resource(&group, &plural).into(),
            stored_as: api_version(&group, &storage),
            deprecated: version["deprecated"] == true,
        })
    });
    api.registry.set_custom(&group, &plural, resources.collect());
}

/// Metadata is what it is everywhere, whatever a definition says of it.
fn root_schema(mut schema: Schema) -> Schema {
    if let Shape::Struct(root) = &mut schema.shape {
        let string = || Schema::of(Shape::Scalar(crate::schema::Scalar::String));
        root.fields.insert("apiVersion".into(), string());
        root.fields.insert("kind".into(), string());
        root.fields.insert("metadata".into(), Schema::of(Shape::Ref("meta.v1.ObjectMeta".into())));
        root.required.retain(|name| name != "metadata");
    }
    schema
}

pub(super) fn unregister(api: &Api, definition: &Value) {
    let (group, plural) = (text(&definition["spec"]["group"]), text(&definition["spec"]["names"]["plural"]));
    api.registry.set_custom(&group, &plural, Vec::new());
    api.store.drop_table(&group_resource(&group, &plural));
}
