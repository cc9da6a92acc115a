//! A container's environment and command line: values, downward API fields and `$(NAME)` references. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};

/// What downward API fields are read from, besides the pod itself.
pub(crate) struct Facts<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) pod_ips: &'a [IpAddr],
    pub(crate) host_ips: &'a [IpAddr],
}

/// Variables in the order in which later ones may refer to earlier ones.
pub(crate) fn variables(container: &Container, facts: &Facts<'_>) -> Result<BTreeMap<String, String>, String> {
    let mut variables = BTreeMap::new();
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, None) => expand(variable.value.as_deref().unwrap_or(""), &variables),
            (_, Some(_)) => from_source(variable, facts)?,
        };
        variables.insert(variable.name.clone(), value);
    }
    Ok(variables)
}

/// `command` and `args`, expanded. Images are not used, so there must be a command.
pub(crate) fn command_line(container: &Container, variables: &BTreeMap<String, String>) -> Result<Vec<String>, String> {
    let words: Vec<String> = [&container.command, &container.args]
        .into_iter()
        .flatten()
        .flatten()
        .map(|word| expand(word, variables))
        .collect();
    if container.command.as_ref().is_none_or(Vec::is_empty) {
        return Err("the container has no command; images are not used here, so name a program of the host".into());
    }
    Ok(words)
}

fn from_source(variable: &EnvVar, facts: &Facts<'_>) -> Result<String, String> {
    let source = variable.value_from.as_ref();
    let Some(field) = source.and_then(|source| source.field_ref.as_ref()) else {
        return Err(format!("env {}: only value and valueFrom.fieldRef are carried out here", variable.name));
    };
    field_value(&field.field_path, facts)
        .ok_or_else(|| format!("env {}: unknown fieldPath {}; see the downward API", variable.name, field.field_path))
}

fn field_value(path: &str, facts: &Facts<'_>) -> Option<String> {
    let join = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    let (metadata, spec) = (&facts.pod.metadata, facts.pod.spec.as_ref());
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    match path {
        "metadata.name" => Some(text(metadata.name.as_ref())),
        "metadata.namespace" => Some(text(metadata.namespace.as_ref())),
        "metadata.uid" => Some(text(metadata.uid.as_ref())),
        "spec.nodeName" => Some(text(spec.and_then(|spec| spec.node_name.as_ref()))),
        "spec.serviceAccountName" => Some(text(spec.and_then(|spec| spec.service_account_name.as_ref()))),
        "status.podIP" => Some(first(facts.pod_ips)),
        "status.podIPs" => Some(join(facts.pod_ips)),
        "status.hostIP" => Some(first(facts.host_ips)),
        "status.hostIPs" => Some(join(facts.host_ips)),
        _ => {
            let (map, key) = path.strip_suffix("']")?.split_once("['")?;
            let map = match map {
                "metadata.labels" => metadata.labels.as_ref(),
                "metadata.annotations" => metadata.annotations.as_ref(),
                _ => return None,
            };
            Some(text(map.and_then(|map| map.get(key))))
        }
    }
}

/// Replaces `$(NAME)`; an unknown name stays as it is, `$$` is one dollar.
fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let name = rest.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        match name.and_then(|(name, after)| Some((variables.get(name)?, after))) {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => out.push('$'),
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "echo", "namespace": "shop", "labels": {"app": "echo"}},
            "spec": {"nodeName": "n1", "containers": [{
                "name": "c", "command": ["echo", "$(WHO)"], "args": ["$$5 $(NOBODY) $"],
                "env": [
                    {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                    {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
                    {"name": "WHO", "value": "$(POD) on $(APP)"},
                ]}]}
        }))
        .unwrap()
    }

    #[test]
    fn downward_fields_and_references() {
        let pod = pod();
        let ips = ["10.1.1.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let facts = Facts { pod: &pod, pod_ips: &ips, host_ips: &[] };
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let variables = variables(container, &facts).unwrap();
        assert_eq!(variables["IPS"], "10.1.1.2,fd00::2");
        assert_eq!(variables["WHO"], "echo on echo");
        assert_eq!(command_line(container, &variables).unwrap(), ["echo", "echo on echo", "$5 $(NOBODY) $"]);
    }

    #[test]
    fn what_is_not_carried_out_is_said() {
        let pod = pod();
        let facts = Facts { pod: &pod, pod_ips: &[], host_ips: &[] };
        let container: Container = serde_json::from_value(json!({"name": "c", "env": [
            {"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}))
        .unwrap();
        assert!(variables(&container, &facts).unwrap_err().contains("env X"));
        assert!(command_line(&container, &BTreeMap::new()).unwrap_err().contains("no command"));
    }
}
