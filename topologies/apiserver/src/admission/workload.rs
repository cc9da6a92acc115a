//! Kinds that carry a pod template and a selector for its pods.

use serde_json::{Value, json};

use super::pod;
use crate::kinds::Resource;
use crate::schema::check::FieldError;
use crate::selector::{LabelSelector, Labels};

pub(super) fn default(resource: &Resource, value: &mut Value) {
    let spec = &mut value["spec"];
    if !spec.is_object() {
        return;
    }
    if spec["template"]["spec"].is_object() {
        pod::default_spec(&mut spec["template"]["spec"], false);
    }
    match resource.plural.as_str() {
        "deployments" => rolling(&mut spec["strategy"], &json!({"maxUnavailable": "25%", "maxSurge": "25%"})),
        "daemonsets" => rolling(&mut spec["updateStrategy"], &json!({"maxUnavailable": 1, "maxSurge": 0})),
        "statefulsets" => rolling(&mut spec["updateStrategy"], &json!({"partition": 0})),
        _ => {}
    }
}

fn rolling(strategy: &mut Value, defaults: &Value) {
    if strategy["type"].is_null() {
        strategy["type"] = "RollingUpdate".into();
    }
    if strategy["type"] != "RollingUpdate" {
        return;
    }
    for (name, value) in defaults.as_object().into_iter().flatten() {
        if strategy["rollingUpdate"][name].is_null() {
            strategy["rollingUpdate"][name] = value.clone();
        }
    }
}

pub(super) fn validate(value: &Value, existing: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let selector = &value["spec"]["selector"];
    let labels = &value["spec"]["template"]["metadata"]["labels"];
    match LabelSelector::from_object(selector) {
        Some(parsed) if !parsed.is_empty() => {
            let own: Labels = serde_json::from_value(labels.clone()).unwrap_or_default();
            if !parsed.matches(&own) {
                let shown = if labels.is_null() { json!({}) } else { labels.clone() };
                errors.push(FieldError::invalid(
                    "spec.template.metadata.labels",
                    shown,
                    "`selector` does not match template `labels`",
                ));
            }
        }
        Some(_) => errors.push(FieldError::invalid(
            "spec.selector",
            selector.clone(),
            "empty selector is invalid for deployment",
        )),
        None => errors.push(FieldError::required("spec.selector", "")),
    }
    if let Some(old) = existing
        && old["spec"]["selector"] != *selector
    {
        errors.push(FieldError::invalid("spec.selector", selector.clone(), "field is immutable"));
    }
    errors.extend(pod::validate_spec(&value["spec"]["template"]["spec"], "spec.template.spec"));
    let strategy = &value["spec"]["strategy"];
    if strategy["type"] == "Recreate" && strategy["rollingUpdate"].is_object() {
        errors.push(FieldError::forbidden(
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        ));
    }
    errors
}
