//! `identities/v1`: the labels of an identity as one text (Cilium `labels.Labels.SortedList`), for example
//! `k8s:app=web;k8s:io.cilium.k8s.policy.cluster=east;k8s:io.kubernetes.pod.namespace=shop;`.
//!
//! Sorted by key without its source; each label ends with `;`, so that no list is a prefix of another one.

use std::collections::BTreeMap;

use crate::Invalid;

/// The label that names the cluster of a pod; its source is `k8s`.
pub const CLUSTER_LABEL: &str = "io.cilium.k8s.policy.cluster";

/// The text of labels that are given as `source:key=value` (or `source:key`, which has an empty value). Of two with the
/// same key the last one counts, as in Cilium's map.
#[must_use]
pub fn encode<'a>(labels: impl IntoIterator<Item = &'a str>) -> String {
    let sorted: BTreeMap<&str, Label<'_>> =
        labels.into_iter().map(Label::parse).map(|label| (label.key, label)).collect();
    sorted.values().fold(String::new(), |text, label| text + &label.text() + ";")
}

/// The text of `security-labels` of a `CiliumIdentity`: keys are `source:key`.
#[must_use]
pub fn encode_security_labels(labels: &BTreeMap<String, String>) -> String {
    let texts: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    encode(texts.iter().map(String::as_str))
}

/// The labels as `source:key=value`, sorted by key. `what` names the entry in errors.
///
/// # Errors
/// Not UTF-8, no label at all, a label without source or key, or a key that stands there twice.
pub fn decode(what: &str, bytes: &[u8]) -> Result<Vec<String>, Invalid> {
    let bad = |problem: String| Invalid::new(what, problem, Invalid::WRITER);
    let text = std::str::from_utf8(bytes).map_err(|error| bad(error.to_string()))?;
    let mut sorted = BTreeMap::new();
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let label = Label::parse(part);
        if label.source.is_empty() || label.key.is_empty() {
            return Err(bad(format!("{part:?} is no label of the form source:key=value")));
        }
        if sorted.insert(label.key, label.text()).is_some() {
            return Err(bad(format!("the label {:?} stands there twice", label.key)));
        }
    }
    if sorted.is_empty() {
        return Err(bad("no labels".to_owned()));
    }
    Ok(sorted.into_values().collect())
}

/// One label, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label<'a> {
    /// `k8s`, `reserved`, `cidr`; empty when the text names none.
    pub source: &'a str,
    pub key: &'a str,
    pub value: &'a str,
}

impl<'a> Label<'a> {
    /// Takes `source:key=value` apart. What is missing is empty.
    #[must_use]
    pub fn parse(text: &'a str) -> Label<'a> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let (source, key) = name.split_once(':').unwrap_or(("", name));
        Label { source, key, value }
    }

    fn text(self) -> String {
        format!("{}:{}={}", self.source, self.key, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_by_key_and_terminated() {
        let labels = ["k8s:tier=web", "any:app=x:y=z", "k8s:io.cilium.k8s.policy.cluster=east", "k8s:flag"];
        let text = "any:app=x:y=z;k8s:flag=;k8s:io.cilium.k8s.policy.cluster=east;k8s:tier=web;";
        assert_eq!(encode(labels), text);
        assert_eq!(encode(decode("x", text.as_bytes()).unwrap().iter().map(String::as_str)), text);
        let map = BTreeMap::from([("k8s:b".to_owned(), "1".to_owned()), ("any:a".to_owned(), "2".to_owned())]);
        assert_eq!(encode_security_labels(&map), "any:a=2;k8s:b=1;");
    }

    #[test]
    fn refusals() {
        for bad in [&b""[..], b";;", b"nosource=1;", b":k=1;", b"k8s:=1;", b"k8s:a=1;any:a=2;", b"k8s:\xff=1;"] {
            assert!(decode("x", bad).is_err(), "{bad:?}");
        }
    }
}
