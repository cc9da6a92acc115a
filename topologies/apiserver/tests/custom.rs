//! Custom resources: from definition to served, validated and gone.

mod common;

use common::{Lab, eventually};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::{Error, ResourceExt as _};
use serde_json::{Value, json};

fn definition() -> CustomResourceDefinition {
    let schema = json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1, "maximum": 5},
            "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
            "replicas": {"type": "integer"},
            "rows": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                "items": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}, "v": {"type": "string"}}}},
        }},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "phase": {"type": "string"}}},
    }});
    serde_json::from_value(json!({"metadata": {"name": "widgets.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
        "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {},
                "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}}},
            {"name": "v1beta1", "served": true, "storage": false, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}},
        ]}}))
    .expect("a definition")
}

fn widgets(lab: &Lab, version: &str) -> Api<DynamicObject> {
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("example.com", version, "Widget"), "widgets");
    Api::namespaced_with(lab.client.clone(), "default", &resource)
}

fn widget(name: &str, spec: &Value) -> DynamicObject {
    serde_json::from_value(
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec}),
    )
    .expect("a widget")
}

fn message(error: Error) -> (u16, String) {
    match error {
        Error::Api(status) => (status.code, status.message.clone()),
        other => panic!("not an answer of the API: {other}"),
    }
}

#[tokio::test]
async fn definitions_are_served_at_once_and_end_with_their_objects() {
    let lab = Lab::start().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(lab.client.clone());
    let made = definitions.create(&PostParams::default(), &definition()).await.expect("new");
    let conditions = made.status.and_then(|s| s.conditions).unwrap_or_default();
    assert!(conditions.iter().any(|c| c.type_ == "Established" && c.status == "True"));
    let api = widgets(&lab, "v1");
    let made = api.create(&PostParams::default(), &widget("a", &json!({"size": 2, "typo": 1}))).await.expect("new");
    assert_eq!(made.data["spec"], json!({"size": 2, "color": "red"}), "pruned and defaulted");
    let other = widgets(&lab, "v1beta1").get("a").await.expect("the other version");
    assert_eq!(other.types.as_ref().map(|t| t.api_version.as_str()), Some("example.com/v1beta1"));
    definitions.delete("widgets.example.com", &DeleteParams::default()).await.expect("marked");
    eventually("the definition goes", || async {
        definitions.get_opt("widgets.example.com").await.expect("an answer").is_none().then_some(())
    })
    .await;
    assert_eq!(message(api.list(&ListParams::default()).await.expect_err("not served")).0, 404);
}

#[tokio::test]
async fn objects_are_held_against_their_schema() {
    let lab = Lab::start().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(lab.client.clone());
    definitions.create(&PostParams::default(), &definition()).await.expect("new");
    let api = widgets(&lab, "v1");
    for (spec, expected) in [
        (json!({}), "spec.size: Required value"),
        (json!({"size": 9}), "spec.size: Invalid value: 9: spec.size in body should be less than or equal to 5"),
        (
            json!({"size": "x"}),
            "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
        ),
        (
            json!({"size": 1, "color": "green"}),
            "spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\"",
        ),
        (json!({"size": 1, "rows": [{"id": "a"}, {"id": "a"}]}), "spec.rows[1]: Duplicate value: {\"id\":\"a\"}"),
    ] {
        let (code, text) =
            message(api.create(&PostParams::default(), &widget("bad", &spec)).await.expect_err("refused"));
        assert_eq!((code, text), (422, format!("Widget.example.com \"bad\" is invalid: {expected}")));
    }
    let strict = PostParams { field_manager: None, ..PostParams::default() };
    api.create(&strict, &widget("a", &json!({"size": 1, "rows": [{"id": "x", "v": "1"}]}))).await.expect("new");
    // The two sides of the status subresource.
    let both = Patch::Merge(json!({"spec": {"size": 3}, "status": {"phase": "Up"}}));
    let patched = api.patch_status("a", &PatchParams::default(), &both).await.expect("a status");
    assert_eq!((&patched.data["spec"]["size"], &patched.data["status"]["phase"]), (&json!(1), &json!("Up")));
    let generation = patched.metadata.generation;
    let patched = api.patch("a", &PatchParams::default(), &both).await.expect("a patch");
    assert_eq!((&patched.data["spec"]["size"], patched.metadata.generation), (&json!(3), generation.map(|g| g + 1)));
    let row = |v: &str| json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"rows": [{"id": "y", "v": v}]}});
    let applied = api.patch("a", &PatchParams::apply("rows"), &Patch::Apply(row("2"))).await.expect("applied");
    assert_eq!(applied.data["spec"]["rows"].as_array().map(Vec::len), Some(2), "rows are told apart by their id");
    let scale = api
        .patch_scale("a", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 4}})))
        .await
        .expect("scaled");
    assert_eq!(scale.spec.and_then(|s| s.replicas), Some(4));
    assert_eq!(api.get("a").await.expect("there").name_any(), "a");
}

#[tokio::test]
async fn schemas_that_are_not_structural_are_refused() {
    let lab = Lab::start().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(lab.client.clone());
    let mut bad = serde_json::to_value(definition()).expect("a value");
    bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"] =
        json!({"description": "no type"});
    let bad = serde_json::from_value(bad).expect("a definition");
    let (code, text) = message(definitions.create(&PostParams::default(), &bad).await.expect_err("refused"));
    assert_eq!(code, 422);
    assert!(text.contains("spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[size].type"), "{text}");
}
