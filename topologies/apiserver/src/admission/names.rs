//! Names and labels, as RFC 1123 and Kubernetes have them.

use serde_json::Value;

use crate::kinds::Resource;
use crate::schema::check::FieldError;
use crate::status::{ApiError, ApiResult};

const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

fn is_label(text: &str) -> bool {
    let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    !text.is_empty()
        && text.len() <= MAX_LABEL
        && text.chars().all(|c| alnum(c) || c == '-')
        && text.starts_with(alnum)
        && text.ends_with(alnum)
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.split('.').all(|part| is_label(part) || (part.len() > MAX_LABEL && is_label(&part[..MAX_LABEL])))
}

/// The name of a new object; RBAC names are path segments, services are labels, all others subdomains.
pub fn check(resource: &Resource, value: &Value) -> ApiResult<()> {
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    let refuse = |why: &str| Err(ApiError::invalid(resource, name, &[FieldError::invalid("metadata.name", name, why)]));
    if resource.group == "rbac.authorization.k8s.io" {
        return if name.is_empty() || name.contains(['/', '%']) || matches!(name, "." | "..") {
            refuse("may not contain '/' or '%'")
        } else {
            Ok(())
        };
    }
    if matches!(resource.plural.as_str(), "services" | "namespaces") && resource.group.is_empty() && !is_label(name) {
        return refuse(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name', or '123-abc')",
        );
    }
    if is_subdomain(name) {
        return Ok(());
    }
    refuse(
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com')",
    )
}

fn is_qualified_part(text: &str) -> bool {
    let alnum = |c: char| c.is_ascii_alphanumeric();
    text.len() <= MAX_LABEL
        && text.chars().all(|c| alnum(c) || matches!(c, '-' | '_' | '.'))
        && text.starts_with(alnum)
        && text.ends_with(alnum)
}

pub(super) fn is_qualified_name(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_qualified_part(name),
        None => is_qualified_part(key),
    }
}

pub(super) fn validate_labels(value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, label) in value["metadata"]["labels"].as_object().into_iter().flatten() {
        if !is_qualified_name(key) {
            errors.push(FieldError::invalid("metadata.labels", key.as_str(), "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc')"));
        }
        let text = label.as_str().unwrap_or_default();
        if !text.is_empty() && !is_qualified_part(text) {
            errors.push(FieldError::invalid("metadata.labels", text, "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345')"));
        }
    }
    for key in value["metadata"]["annotations"].as_object().into_iter().flatten().map(|(key, _)| key) {
        if !is_qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", key.as_str(), "must be a qualified name"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels() {
        assert!(is_label("my-name") && !is_label("My") && !is_label("-a") && !is_label(""));
        assert!(is_subdomain("a.b-c.example") && !is_subdomain("a..b"));
        assert!(is_qualified_name("example.com/My_Name.1") && !is_qualified_name("a/b/c") && !is_qualified_name("-a"));
    }
}
