//! Label selectors. `LabelSelector` is the shape on the wire; `Selector` is the checked form that matches.
//!
//! Kubernetes gives "absent" and "empty" different meanings in different places, so this type has one meaning only: an
//! empty selector matches everything. What an absent one means is said where it is used: `Selector::or_everything` and
//! `Selector::or_nothing`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rejected::Fault;

/// A label selector as written in a manifest.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct LabelSelector {
    /// Labels that must have these values.
    #[serde(rename = "matchLabels", default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "match_labels_schema")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements; all must hold.
    #[serde(rename = "matchExpressions", default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub match_expressions: Vec<Requirement>,
}

/// A requirement on one label.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirement {
    /// Key of the label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    #[schemars(schema_with = "operator_schema")]
    pub operator: String,
    /// Values for `In` and `NotIn`; empty for the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub values: Vec<String>,
}

/// A checked selector. The default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Checked>,
    nothing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Checked {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
}

impl Selector {
    /// Matches every set of labels.
    #[must_use]
    pub fn everything() -> Selector {
        Selector::default()
    }

    /// Matches no set of labels.
    #[must_use]
    pub fn nothing() -> Selector {
        Selector { requirements: Vec::new(), nothing: true }
    }

    /// Checks `selector`, which stands at the path `field`.
    ///
    /// # Errors
    /// A requirement whose operator is unknown, or whose values do not fit its operator.
    pub fn parse(selector: &LabelSelector, field: &str) -> Result<Selector, Fault> {
        let labels = selector.match_labels.iter().map(|(key, value)| Ok(Checked::In(key.clone(), vec![value.clone()])));
        let expressions = selector
            .match_expressions
            .iter()
            .enumerate()
            .map(|(index, requirement)| Checked::parse(requirement, &format!("{field}.matchExpressions[{index}]")));
        Ok(Selector { requirements: labels.chain(expressions).collect::<Result<_, _>>()?, nothing: false })
    }

    /// Like `parse`; an absent selector matches everything.
    ///
    /// # Errors
    /// As `parse`.
    pub fn or_everything(selector: Option<&LabelSelector>, field: &str) -> Result<Selector, Fault> {
        selector.map_or(Ok(Selector::everything()), |selector| Selector::parse(selector, field))
    }

    /// Like `parse`; an absent selector matches nothing.
    ///
    /// # Errors
    /// As `parse`.
    pub fn or_nothing(selector: Option<&LabelSelector>, field: &str) -> Result<Selector, Fault> {
        selector.map_or(Ok(Selector::nothing()), |selector| Selector::parse(selector, field))
    }

    /// Whether `labels` meet all requirements.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// Whether the labels that `label` knows meet all requirements. For objects with labels that stand nowhere, such
    /// as a Service's `io.kubernetes.service.name`.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing
            && self.requirements.iter().all(|requirement| match requirement {
                Checked::In(key, values) => label(key).is_some_and(|value| values.iter().any(|v| v == value)),
                // A label that is absent is not in the set: Kubernetes matches it.
                Checked::NotIn(key, values) => label(key).is_none_or(|value| values.iter().all(|v| v != value)),
                Checked::Exists(key) => label(key).is_some(),
                Checked::DoesNotExist(key) => label(key).is_none(),
            })
    }

    /// Whether nothing is required.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
}

impl Checked {
    fn parse(requirement: &Requirement, field: &str) -> Result<Checked, Fault> {
        let Requirement { key, operator, values } = requirement;
        let key = key.clone();
        match (operator.as_str(), values.is_empty()) {
            ("In", false) => Ok(Checked::In(key, values.clone())),
            ("NotIn", false) => Ok(Checked::NotIn(key, values.clone())),
            ("Exists", true) => Ok(Checked::Exists(key)),
            ("DoesNotExist", true) => Ok(Checked::DoesNotExist(key)),
            ("In" | "NotIn", true) => Err(Fault::new(
                format!("{field}.values"),
                format!("operator {operator} needs at least one value"),
                "list the values, or use Exists or DoesNotExist",
            )),
            ("Exists" | "DoesNotExist", false) => Err(Fault::new(
                format!("{field}.values"),
                format!("operator {operator} takes no values"),
                "remove the values, or use In or NotIn",
            )),
            (other, _) => Err(Fault::new(
                format!("{field}.operator"),
                format!("unknown operator {other:?}"),
                "use In, NotIn, Exists or DoesNotExist",
            )),
        }
    }
}

fn match_labels_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "additionalProperties": {
            "type": "string",
            "maxLength": 63,
            "pattern": crate::cilium::patterns::LABEL_VALUE,
        },
    })
}

fn operator_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    crate::cilium::patterns::one_of(&["In", "NotIn", "Exists", "DoesNotExist"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn selector(text: &str) -> Result<Selector, Fault> {
        let wire: LabelSelector = serde_json::from_str(text).unwrap();
        Selector::parse(&wire, "spec.selector")
    }

    #[test]
    fn requirements_match_as_kubernetes_says() {
        let rack1 = labels(&[("rack", "r1"), ("tier", "web")]);
        let bare = labels(&[]);
        let table = [
            (r#"{}"#, true, true),
            (r#"{"matchLabels":{"rack":"r1"}}"#, true, false),
            (r#"{"matchLabels":{"rack":"r2"}}"#, false, false),
            (r#"{"matchExpressions":[{"key":"rack","operator":"In","values":["r1","r2"]}]}"#, true, false),
            (r#"{"matchExpressions":[{"key":"rack","operator":"NotIn","values":["r1"]}]}"#, false, true),
            (r#"{"matchExpressions":[{"key":"rack","operator":"NotIn","values":["dummy"]}]}"#, true, true),
            (r#"{"matchExpressions":[{"key":"rack","operator":"Exists"}]}"#, true, false),
            (r#"{"matchExpressions":[{"key":"rack","operator":"DoesNotExist"}]}"#, false, true),
            (
                r#"{"matchLabels":{"rack":"r1"},"matchExpressions":[{"key":"tier","operator":"In","values":["db"]}]}"#,
                false,
                false,
            ),
        ];
        for (text, on_rack1, on_bare) in table {
            let selector = selector(text).unwrap();
            assert_eq!(selector.matches(&rack1), on_rack1, "{text} on {rack1:?}");
            assert_eq!(selector.matches(&bare), on_bare, "{text} on no labels");
        }
    }

    #[test]
    fn an_absent_selector_means_what_the_caller_says() {
        let any = labels(&[("a", "b")]);
        assert!(Selector::or_everything(None, "f").unwrap().matches(&any));
        assert!(!Selector::or_nothing(None, "f").unwrap().matches(&any));
        assert!(Selector::or_nothing(Some(&LabelSelector::default()), "f").unwrap().matches(&any));
    }

    #[test]
    fn a_bad_requirement_is_named_with_its_path() {
        let table = [
            (r#"{"matchExpressions":[{"key":"a","operator":"Is"}]}"#, "spec.selector.matchExpressions[0].operator"),
            (r#"{"matchExpressions":[{"key":"a","operator":"In"}]}"#, "spec.selector.matchExpressions[0].values"),
            (
                r#"{"matchExpressions":[{"key":"a","operator":"Exists","values":["x"]}]}"#,
                "spec.selector.matchExpressions[0].values",
            ),
        ];
        for (text, field) in table {
            assert_eq!(selector(text).unwrap_err().field, field, "{text}");
        }
    }
}
