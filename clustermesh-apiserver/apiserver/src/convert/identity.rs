//! `CiliumIdentity` -> a number and its labels as one text.

use causeway_k8s::CiliumIdentity;
use causeway_k8s::names::LABEL_POD_NAMESPACE;
use causeway_k8s::rejected::Fault;
use causeway_mesh_schema::labels;

/// An identity as it is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: u32,
    /// Namespace of the pods that have it; empty when its labels name none.
    pub(crate) namespace: String,
    /// `source:key=value;` of every label, sorted by key.
    pub(crate) labels: String,
}

/// # Errors
/// The name is no number, or there are no labels.
pub(crate) fn identity(object: &CiliumIdentity) -> Result<Identity, Fault> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let id = name.parse().ok().filter(|id: &u32| id.to_string() == name).ok_or_else(|| {
        Fault::new("metadata.name", format!("{name:?} is no identity"), "its name must be its number in decimal")
    })?;
    if object.security_labels.is_empty() {
        return Err(Fault::new("security-labels", "there are none", "delete it; its agent makes a new one"));
    }
    // A key without a source is of source `unspec`, as Cilium reads it.
    let source = |key: &str| if key.contains(':') { "" } else { "unspec:" };
    let texts: Vec<_> =
        object.security_labels.iter().map(|(key, value)| format!("{}{key}={value}", source(key))).collect();
    let namespace = texts.iter().map(|text| labels::Label::parse(text)).find(|label| label.key == LABEL_POD_NAMESPACE);
    Ok(Identity {
        id,
        namespace: namespace.map(|label| label.value.to_owned()).unwrap_or_default(),
        labels: labels::encode(texts.iter().map(String::as_str)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::object;
    use super::*;

    fn read(name: &str, labels: &str) -> Result<Identity, Fault> {
        identity(&object(&format!("{{metadata: {{name: '{name}'}}, security-labels: {labels}}}")))
    }

    #[test]
    fn labels_are_sorted_by_key_not_by_source() {
        let labels = "{'k8s:io.kubernetes.pod.namespace': bar, 'k8s:app': baz, 'cni:zone': b, 'k8s:bare': '', b: '1'}";
        let identity = read("196915", labels).unwrap();
        assert_eq!((identity.id, identity.namespace.as_str()), (196_915, "bar"));
        let expected = "k8s:app=baz;unspec:b=1;k8s:bare=;k8s:io.kubernetes.pod.namespace=bar;cni:zone=b;";
        assert_eq!(identity.labels, expected);
    }

    #[test]
    fn no_number_and_no_labels_are_refused() {
        assert_eq!(read("web", "{'k8s:app': a}").unwrap_err().field, "metadata.name");
        assert_eq!(read("4294967296", "{'k8s:app': a}").unwrap_err().field, "metadata.name");
        assert_eq!(read("007", "{'k8s:app': a}").unwrap_err().field, "metadata.name");
        assert_eq!(read("70000", "{}").unwrap_err().field, "security-labels");
        assert_eq!(read("70000", "{'k8s:app': a}").unwrap().namespace, "");
    }
}
