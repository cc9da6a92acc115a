//! Label and field selectors, in their query form and in their object form.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::store::Object;

pub type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug, PartialEq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

#[derive(Clone, Debug, PartialEq)]
struct Requirement {
    key: String,
    test: Test,
}

/// All requirements must hold; none at all selects everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelSelector(Vec<Requirement>);

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
            Test::NotIn(values) => value.is_none_or(|v| values.iter().all(|w| w != v)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Greater(than) => number().is_some_and(|n| n > *than),
            Test::Less(than) => number().is_some_and(|n| n < *than),
        }
    }
}

impl LabelSelector {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|r| r.matches(labels.get(&r.key).map(String::as_str)))
    }

    /// `a=b,c!=d,e in (f,g),h,!i`
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if !part.is_empty() {
                requirements.push(parse_requirement(part)?);
            }
        }
        Ok(Self(requirements))
    }

    /// A `metav1.LabelSelector`; `None` (absent) selects nothing.
    pub fn from_object(selector: &Value) -> Option<Self> {
        let object = selector.as_object()?;
        let mut selected = Self::from_map(object.get("matchLabels").unwrap_or(&Value::Null));
        for expression in object.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            selected.0.push(from_expression(expression)?);
        }
        Some(selected)
    }

    /// A plain map of labels, as in a Service.
    pub fn from_map(labels: &Value) -> Self {
        let pairs = labels.as_object().into_iter().flatten();
        Self(
            pairs
                .map(|(key, value)| Requirement {
                    key: key.clone(),
                    test: Test::In(vec![value.as_str().unwrap_or_default().to_owned()]),
                })
                .collect(),
        )
    }

    /// The node selector's term: labels only.
    pub fn from_expressions(expressions: &Value) -> Option<Self> {
        expressions.as_array().into_iter().flatten().map(from_expression).collect::<Option<Vec<_>>>().map(Self)
    }
}

fn from_expression(expression: &Value) -> Option<Requirement> {
    let key = expression["key"].as_str()?.to_owned();
    let values: Vec<String> =
        expression["values"].as_array().into_iter().flatten().filter_map(|v| Some(v.as_str()?.to_owned())).collect();
    let number = || values.first().and_then(|v| v.parse().ok());
    let test = match expression["operator"].as_str()? {
        "In" => Test::In(values),
        "NotIn" => Test::NotIn(values),
        "Exists" => Test::Exists,
        "DoesNotExist" => Test::Absent,
        "Gt" => Test::Greater(number()?),
        "Lt" => Test::Less(number()?),
        _ => return None,
    };
    Some(Requirement { key, test })
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_requirement(part: &str) -> Result<Requirement, String> {
    let made = |key: &str, test: Test| {
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(format!("unable to parse requirement: found '{part}', expected: a label key and an operator"));
        }
        Ok(Requirement { key: key.to_owned(), test })
    };
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some((head, tail)) = part.split_once('(') {
        let values = tail.trim_end().trim_end_matches(')').split(',').map(|v| v.trim().to_owned()).collect();
        let head = head.trim_end();
        return match (head.strip_suffix(" notin"), head.strip_suffix(" in")) {
            (Some(key), _) => made(key, Test::NotIn(values)),
            (None, Some(key)) => made(key, Test::In(values)),
            (None, None) => Err(format!("unable to parse requirement: found '{part}', expected: in, notin")),
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return made(key, Test::NotIn(one(value)));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return made(key, Test::In(one(value)));
    }
    if let Some((key, value)) = part.split_once('>') {
        return made(key, Test::Greater(value.trim().parse().map_err(|_| format!("'{value}' is not a number"))?));
    }
    if let Some((key, value)) = part.split_once('<') {
        return made(key, Test::Less(value.trim().parse().map_err(|_| format!("'{value}' is not a number"))?));
    }
    match part.strip_prefix('!') {
        Some(key) => made(key, Test::Absent),
        None => made(part, Test::Exists),
    }
}

/// `metadata.name=a,status.phase!=Running`. Fields are looked up in the object itself; the real API knows a list of fields per
/// kind, and refuses others: so do we, by one list for all kinds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldSelector(Vec<(String, bool, String)>);

const SELECTABLE: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "spec.unschedulable",
    "spec.clusterIP",
    "spec.type",
    "status.phase",
    "status.podIP",
    "status.podIPs",
    "status.nominatedNodeName",
    "status.replicas",
    "status.successful",
    "type",
    "reason",
    "reportingComponent",
    "source",
];

impl FieldSelector {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, equal, value) = if let Some((key, value)) = part.split_once("!=") {
                (key, false, value)
            } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (key, true, value)
            } else {
                return Err(format!(
                    "invalid field selector: '{part}'; can't understand it: expected key=value or key!=value"
                ));
            };
            let group = key.split('.').next().unwrap_or_default();
            if !SELECTABLE.contains(&key) && !matches!(group, "involvedObject" | "regarding") {
                return Err(format!("field label not supported: {key}"));
            }
            all.push((key.to_owned(), equal, value.to_owned()));
        }
        Ok(Self(all))
    }

    /// The object name that is asked for, if so: such a list or watch is a lookup.
    pub fn name(&self) -> Option<&str> {
        self.0.iter().find(|(key, equal, _)| *equal && key == "metadata.name").map(|(_, _, value)| value.as_str())
    }

    pub fn matches(&self, object: &Object) -> bool {
        let mut parsed: Option<Value> = None;
        self.0.iter().all(|(key, equal, wanted)| {
            let same = match key.as_str() {
                "metadata.name" => object.key.name == *wanted,
                "metadata.namespace" => object.key.namespace == *wanted,
                path => {
                    let value = parsed.get_or_insert_with(|| object.value());
                    field_text(value, path) == *wanted
                }
            };
            same == *equal
        })
    }
}

fn field_text(value: &Value, path: &str) -> String {
    let path = path.replacen("regarding.", "involvedObject.", 1);
    match path.split('.').try_fold(value, |at, name| at.get(name)) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None if path == "spec.unschedulable" => "false".to_owned(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn label_selectors() {
        let web = labels(&[("app", "web"), ("tier", "2")]);
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==db", false),
            ("app!=db,tier", true),
            ("app in (db, web),!gone", true),
            ("app notin (web)", false),
            ("gone notin (web)", true),
            ("tier>1", true),
            ("!app", false),
        ] {
            let selector = LabelSelector::parse(text).expect("well formed");
            assert_eq!(selector.matches(&web), expected, "{text}");
        }
        assert!(LabelSelector::parse("a b").is_err());
        assert!(LabelSelector::parse("a is (b)").is_err());
    }

    #[test]
    fn selector_objects() {
        let web = labels(&[("app", "web")]);
        let of = |value| LabelSelector::from_object(&value);
        assert!(of(Value::Null).is_none());
        assert!(of(serde_json::json!({})).is_some_and(|s| s.matches(&web)));
        let expression =
            serde_json::json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]});
        assert!(of(expression).is_some_and(|s| !s.matches(&web)));
    }

    #[test]
    fn field_selectors_refuse_unknown_fields() {
        assert!(FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed").is_ok());
        assert!(FieldSelector::parse("involvedObject.name=x").is_ok());
        assert_eq!(FieldSelector::parse("spec.foo=1"), Err("field label not supported: spec.foo".into()));
    }
}
