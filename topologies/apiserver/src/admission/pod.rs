//! Pods and pod templates.

use serde_json::{Value, json};

use crate::schema::check::FieldError;

/// Computed defaults of a pod spec; `live`: of a pod, not of a template.
pub(super) fn default_spec(spec: &mut Value, live: bool) {
    if !spec.is_object() {
        return;
    }
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            default_container(container);
        }
    }
    remove_null(spec, &["containers", "initContainers"]);
    if spec["hostNetwork"] == true {
        for port in
            spec["containers"].as_array_mut().into_iter().flatten().flat_map(|c| c["ports"].as_array_mut()).flatten()
        {
            if port["hostPort"].is_null() {
                port["hostPort"] = port["containerPort"].clone();
            }
        }
    }
    if !live {
        return;
    }
    for (name, value) in [
        ("serviceAccountName", json!("default")),
        ("enableServiceLinks", json!(true)),
        ("preemptionPolicy", json!("PreemptLowerPriority")),
        ("priority", json!(0)),
    ] {
        if spec.get(name).is_none() {
            spec[name] = value;
        }
    }
    spec["serviceAccount"] = spec["serviceAccountName"].clone();
    let tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    let mut all = tolerations;
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |t: &Value| {
            (t["key"] == key || t["key"].is_null()) && (t["effect"] == "NoExecute" || t["effect"].is_null())
        };
        if !all.iter().any(covers) {
            all.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
    spec["tolerations"] = all.into();
}

/// Indexing for writing leaves nulls behind.
fn remove_null(value: &mut Value, names: &[&str]) {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, field| !(field.is_null() && names.contains(&name.as_str())));
        for container in fields.get_mut("containers").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                container.retain(|_, field| !field.is_null());
            }
        }
    }
}

fn default_container(container: &mut Value) {
    if !container.is_object() {
        return;
    }
    if container.get("imagePullPolicy").is_none() {
        let image = container["image"].as_str().unwrap_or_default();
        let name = image.rsplit('/').next().unwrap_or_default();
        let fixed = name.contains('@') || name.rsplit_once(':').is_some_and(|(_, tag)| tag != "latest");
        container["imagePullPolicy"] = if fixed { "IfNotPresent" } else { "Always" }.into();
    }
    let limits = container["resources"]["limits"].as_object().cloned().unwrap_or_default();
    for (name, limit) in limits {
        if container["resources"]["requests"][&name].is_null() {
            container["resources"]["requests"][&name] = limit;
        }
    }
    if let Some(resources) = container["resources"].as_object_mut() {
        resources.retain(|_, field| !field.is_null());
    }
}

/// The node's name is set once, by binding.
pub(super) fn before_update(new: &mut Value, old: &Value) {
    if new["spec"]["nodeName"].is_null() && old["spec"]["nodeName"].is_string() {
        new["spec"]["nodeName"] = old["spec"]["nodeName"].clone();
    }
}

pub(super) fn validate_spec(spec: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let containers = spec["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    if containers.is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    for (i, container) in containers.iter().enumerate() {
        let at = format!("{path}.containers[{i}]");
        if container["name"].as_str().unwrap_or_default().is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        }
        if container["image"].as_str().unwrap_or_default().is_empty() {
            errors.push(FieldError::required(format!("{at}.image"), ""));
        }
        for (n, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
            errors.extend(port_in_range(&port["containerPort"], format!("{at}.ports[{n}].containerPort")));
        }
    }
    errors
}

pub(super) fn port_in_range(port: &Value, path: String) -> Option<FieldError> {
    let number = port.as_i64().unwrap_or(0);
    (!(1..=65535).contains(&number))
        .then(|| FieldError::invalid(path, port.clone(), "must be between 1 and 65535, inclusive"))
}

pub(super) fn validate(pod: &Value, existing: Option<&Value>) -> Vec<FieldError> {
    let mut errors = validate_spec(&pod["spec"], "spec");
    if let Some(old) = existing {
        let mutable = |pod: &Value| {
            let mut spec = pod["spec"].clone();
            for list in ["containers", "initContainers"] {
                for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                    if let Some(container) = container.as_object_mut() {
                        container.retain(|name, _| name != "image" && name != "imagePullPolicy");
                    }
                }
            }
            if let Some(spec) = spec.as_object_mut() {
                for name in
                    ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "ephemeralContainers"]
                {
                    spec.shift_remove(name);
                }
                // Binding sets it once.
                if old["spec"]["nodeName"].is_null() {
                    spec.shift_remove("nodeName");
                }
            }
            spec
        };
        if mutable(pod) != mutable(old) {
            errors.push(FieldError::forbidden("spec", "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"));
        }
    }
    errors
}
