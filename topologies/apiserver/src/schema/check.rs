//! Walks an object along its schema: drops what is unknown, fills defaults, and says what is wrong, with field paths.

use std::fmt;

use serde_json::{Map, Value};

use super::{Limits, ListKind, Scalar, Schema, Shape, Struct};

#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub path: String,
    pub problem: Problem,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    Required(String),
    Invalid {
        value: Value,
        why: String,
    },
    /// The value is of another JSON type than the schema asks for.
    Type {
        found: &'static str,
        wanted: &'static str,
    },
    Unsupported {
        value: Value,
        allowed: Vec<Value>,
    },
    Duplicate(Value),
    Forbidden(String),
}

impl FieldError {
    pub fn required(path: impl Into<String>, why: &str) -> Self {
        Self { path: path.into(), problem: Problem::Required(why.to_owned()) }
    }

    pub fn invalid(path: impl Into<String>, value: impl Into<Value>, why: impl Into<String>) -> Self {
        Self { path: path.into(), problem: Problem::Invalid { value: value.into(), why: why.into() } }
    }

    pub fn forbidden(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self { path: path.into(), problem: Problem::Forbidden(why.into()) }
    }

    /// The `reason` of a cause in a Status.
    pub fn reason(&self) -> &'static str {
        match self.problem {
            Problem::Required(_) => "FieldValueRequired",
            Problem::Invalid { .. } => "FieldValueInvalid",
            Problem::Type { .. } => "FieldValueTypeInvalid",
            Problem::Unsupported { .. } => "FieldValueNotSupported",
            Problem::Duplicate(_) => "FieldValueDuplicate",
            Problem::Forbidden(_) => "FieldValueForbidden",
        }
    }

    /// The message without the path.
    pub fn message(&self) -> String {
        match &self.problem {
            Problem::Required(why) if why.is_empty() => "Required value".to_owned(),
            Problem::Required(why) => format!("Required value: {why}"),
            Problem::Invalid { value, why } => format!("Invalid value: {value}: {why}"),
            Problem::Type { found, wanted } => {
                format!("Invalid value: \"{found}\": {} in body must be of type {wanted}: \"{found}\"", self.path)
            }
            Problem::Unsupported { value, allowed } => {
                let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
                format!("Unsupported value: {value}: supported values: {}", allowed.join(", "))
            }
            Problem::Duplicate(value) => format!("Duplicate value: {value}"),
            Problem::Forbidden(why) => format!("Forbidden: {why}"),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", if self.path.is_empty() { "<nil>" } else { &self.path }, self.message())
    }
}

/// How a value is treated beyond its schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A null is an absent field, as a typed decoder sees it.
    BuiltIn,
    Custom,
}

/// Drops the fields that the schema does not know; returns their paths.
pub fn prune(schema: &Schema, value: &mut Value, origin: Origin) -> Vec<String> {
    let mut unknown = Vec::new();
    prune_at(schema, value, "", origin, &mut unknown);
    unknown
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn prune_at(schema: &Schema, value: &mut Value, path: &str, origin: Origin, unknown: &mut Vec<String>) {
    let schema = schema.resolve();
    match (&schema.shape, value) {
        (Shape::Struct(known), Value::Object(fields)) => {
            let origin = if path == "metadata" { Origin::BuiltIn } else { origin };
            fields.retain(|name, field| {
                let keep = known.fields.contains_key(name)
                    || known.rest.is_some()
                    || known.preserve_unknown
                    || (known.embedded && matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
                if !keep {
                    unknown.push(join(path, name));
                    return false;
                }
                !(origin == Origin::BuiltIn && field.is_null())
            });
            for (name, field) in fields.iter_mut() {
                if let Some(inner) = schema.field(name) {
                    prune_at(inner, field, &join(path, name), origin, unknown);
                }
            }
        }
        (Shape::Map(inner), Value::Object(fields)) => {
            for (name, field) in fields.iter_mut() {
                prune_at(inner, field, &format!("{path}[{name}]"), origin, unknown);
            }
        }
        (Shape::List { item, .. }, Value::Array(items)) => {
            for (i, entry) in items.iter_mut().enumerate() {
                prune_at(item, entry, &format!("{path}[{i}]"), origin, unknown);
            }
        }
        _ => {}
    }
}

/// Fills absent fields that have a default, also inside the defaults themselves.
pub fn default(schema: &Schema, value: &mut Value) {
    let schema = schema.resolve();
    match (&schema.shape, value) {
        (Shape::Struct(known), Value::Object(fields)) => {
            for (name, field) in &known.fields {
                let fallback = field.default.as_ref();
                match fields.get(name) {
                    None => {
                        if let Some(fallback) = fallback {
                            fields.insert(name.clone(), fallback.clone());
                        }
                    }
                    // A null where none may stand gives way to the default.
                    Some(Value::Null) if !field.nullable => {
                        if let Some(fallback) = fallback {
                            fields.insert(name.clone(), fallback.clone());
                        }
                    }
                    Some(_) => {}
                }
                if let Some(inner) = fields.get_mut(name) {
                    default(field, inner);
                }
            }
            if let Some(rest) = &known.rest {
                for (_, inner) in fields.iter_mut().filter(|(name, _)| !known.fields.contains_key(*name)) {
                    default(rest, inner);
                }
            }
        }
        (Shape::Map(inner), Value::Object(fields)) => fields.values_mut().for_each(|v| default(inner, v)),
        (Shape::List { item, .. }, Value::Array(items)) => items.iter_mut().for_each(|v| default(item, v)),
        _ => {}
    }
}

/// What is wrong with a value, which replaces `old`. Call after `prune` and `default`.
pub fn validate(schema: &Schema, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    validate_at(schema, value, old, "", &mut errors);
    errors
}

pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn wanted(shape: &Shape) -> &'static str {
    match shape {
        Shape::Scalar(Scalar::Bool) => "boolean",
        Shape::Scalar(Scalar::Int) => "integer",
        Shape::Scalar(Scalar::Number) => "number",
        Shape::Scalar(Scalar::IntOrString) => "integer or string",
        Shape::Scalar(Scalar::Quantity) => "quantity",
        Shape::Scalar(_) => "string",
        Shape::List { .. } => "array",
        Shape::Map(_) | Shape::Struct(_) => "object",
        Shape::Any | Shape::Ref(_) => "any",
    }
}

fn fits(shape: &Shape, value: &Value) -> bool {
    match (shape, value) {
        (Shape::Any | Shape::Ref(_), _)
        | (Shape::Scalar(Scalar::Bool), Value::Bool(_))
        | (Shape::Scalar(Scalar::Number | Scalar::Quantity), Value::Number(_))
        | (Shape::Scalar(Scalar::IntOrString | Scalar::Quantity), Value::String(_))
        | (Shape::Scalar(Scalar::String | Scalar::Time | Scalar::Bytes), Value::String(_))
        | (Shape::List { .. }, Value::Array(_))
        | (Shape::Map(_) | Shape::Struct(_), Value::Object(_)) => true,
        (Shape::Scalar(Scalar::Int | Scalar::IntOrString), Value::Number(n)) => {
            !n.is_f64() || n.as_f64().is_some_and(|f| f.fract() == 0.0)
        }
        _ => false,
    }
}

fn validate_at(given: &Schema, value: &Value, old: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    let schema = given.resolve();
    if value.is_null() && (given.nullable || schema.nullable) {
        return;
    }
    if !fits(&schema.shape, value) {
        let problem = Problem::Type { found: type_name(value), wanted: wanted(&schema.shape) };
        errors.push(FieldError { path: path.to_owned(), problem });
        return;
    }
    match (&schema.shape, value) {
        (Shape::Struct(known), Value::Object(fields)) => validate_fields(known, fields, old, path, errors),
        (Shape::Map(inner), Value::Object(fields)) => {
            for (name, field) in fields {
                validate_at(inner, field, old.and_then(|o| o.get(name)), &join(path, name), errors);
            }
        }
        (Shape::List { item, kind }, Value::Array(items)) => {
            for (i, entry) in items.iter().enumerate() {
                validate_at(item, entry, None, &format!("{path}[{i}]"), errors);
            }
            validate_unique(kind, items, path, errors);
        }
        (Shape::Scalar(kind), value) => validate_scalar(*kind, value, path, errors),
        _ => {}
    }
    for limits in [&given.limits, &schema.limits].into_iter().flatten() {
        validate_limits(limits, value, path, errors);
        if errors.is_empty() {
            errors.extend(limits.rules.iter().filter_map(|rule| rule.check(value, old, path)));
        }
        if std::ptr::eq(given, schema) {
            break;
        }
    }
}

fn validate_fields(
    known: &Struct,
    fields: &Map<String, Value>,
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    for name in &known.required {
        if !fields.contains_key(name) {
            errors.push(FieldError::required(join(path, name), ""));
        }
    }
    for (name, field) in fields {
        if let Some(inner) = known.fields.get(name).or(known.rest.as_deref()) {
            validate_at(inner, field, old.and_then(|o| o.get(name)), &join(path, name), errors);
        }
    }
}

/// The fields of an entry that tell it apart, with the defaults of absent ones.
pub fn list_key(item: &Schema, keys: &[String], entry: &Value) -> Vec<(String, Value)> {
    keys.iter()
        .filter_map(|key| {
            let value = entry.get(key).cloned().or_else(|| item.field(key)?.default.clone())?;
            Some((key.clone(), value))
        })
        .collect()
}

fn validate_unique(kind: &ListKind, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let ListKind::Map(keys) = kind else {
        if *kind == ListKind::Set {
            validate_set(items, path, errors);
        }
        return;
    };
    let mut seen: Vec<Vec<Option<&Value>>> = Vec::new();
    for (i, entry) in items.iter().enumerate() {
        let key: Vec<Option<&Value>> = keys.iter().map(|k| entry.get(k)).collect();
        if seen.contains(&key) {
            let shown: Map<String, Value> =
                keys.iter().zip(&key).filter_map(|(k, v)| Some((k.clone(), (*v)?.clone()))).collect();
            errors.push(FieldError { path: format!("{path}[{i}]"), problem: Problem::Duplicate(shown.into()) });
        }
        seen.push(key);
    }
}

fn validate_set(items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    for (i, entry) in items.iter().enumerate() {
        if items[..i].contains(entry) {
            errors.push(FieldError { path: format!("{path}[{i}]"), problem: Problem::Duplicate(entry.clone()) });
        }
    }
}

fn validate_scalar(kind: Scalar, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(text) = value.as_str() else { return };
    match kind {
        Scalar::Time if text.parse::<jiff::Timestamp>().is_err() => {
            errors.push(FieldError::invalid(path, text, "must be a time in RFC 3339 form"));
        }
        Scalar::Quantity if !is_quantity(text) => {
            errors.push(FieldError::invalid(
                path,
                text,
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ));
        }
        Scalar::Bytes if base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).is_err() => {
            errors.push(FieldError::invalid(path, text, "illegal base64 data"));
        }
        _ => {}
    }
}

fn is_quantity(text: &str) -> bool {
    let number = text.trim_start_matches(['+', '-']);
    let digits = number.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = &number[digits.len()..];
    let known = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let plain = !digits.is_empty() && digits.parse::<f64>().is_ok() && known.contains(&suffix);
    plain || (number.contains(['e', 'E']) && number.parse::<f64>().is_ok())
}

fn validate_limits(limits: &Limits, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if !limits.enumeration.is_empty() && !limits.enumeration.contains(value) {
        let problem = Problem::Unsupported { value: value.clone(), allowed: limits.enumeration.clone() };
        errors.push(FieldError { path: path.to_owned(), problem });
    }
    let mut wrong = |why: String| errors.push(FieldError::invalid(path, value.clone(), why));
    match value {
        Value::String(text) => validate_text(limits, text, path, &mut wrong),
        Value::Number(number) => validate_number(limits, number.as_f64().unwrap_or(f64::NAN), path, &mut wrong),
        Value::Array(items) => {
            let count = items.len() as u64;
            if let Some(most) = limits.max_items.filter(|most| count > *most) {
                wrong(format!("{path} in body should have at most {most} items"));
            }
            if let Some(least) = limits.min_items.filter(|least| count < *least) {
                wrong(format!("{path} in body should have at least {least} items"));
            }
            if limits.unique_items {
                validate_set(items, path, errors);
            }
        }
        Value::Object(fields) => {
            let count = fields.len() as u64;
            if let Some(most) = limits.max_properties.filter(|most| count > *most) {
                wrong(format!("{path} in body should have at most {most} properties"));
            }
            if let Some(least) = limits.min_properties.filter(|least| count < *least) {
                wrong(format!("{path} in body should have at least {least} properties"));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
    validate_combinations(limits, value, path, errors);
}

fn validate_text(limits: &Limits, text: &str, path: &str, wrong: &mut dyn FnMut(String)) {
    let length = text.chars().count() as u64;
    if let Some(most) = limits.max_length.filter(|most| length > *most) {
        wrong(format!("{path} in body should be at most {most} chars long"));
    }
    if let Some(least) = limits.min_length.filter(|least| length < *least) {
        wrong(format!("{path} in body should be at least {least} chars long"));
    }
    if let Some(pattern) = limits.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
        wrong(format!("{path} in body should match '{pattern}'"));
    }
    if let Some(format) = limits.format.as_deref().filter(|format| !text_has_format(format, text)) {
        wrong(format!("{path} in body must be of type {format}: \"{text}\""));
    }
}

fn text_has_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "byte" => base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).is_ok(),
        "uri" => text.parse::<http::Uri>().is_ok(),
        _ => true,
    }
}

fn validate_number(limits: &Limits, number: f64, path: &str, wrong: &mut dyn FnMut(String)) {
    if let Some(least) = limits.minimum {
        let low = if limits.exclusive_minimum { number <= least } else { number < least };
        if low {
            let or = if limits.exclusive_minimum { "" } else { " or equal to" };
            wrong(format!("{path} in body should be greater than{or} {least}"));
        }
    }
    if let Some(most) = limits.maximum {
        let high = if limits.exclusive_maximum { number >= most } else { number > most };
        if high {
            let or = if limits.exclusive_maximum { "" } else { " or equal to" };
            wrong(format!("{path} in body should be less than{or} {most}"));
        }
    }
    if let Some(step) = limits.multiple_of.filter(|step| *step != 0.0 && number % step != 0.0) {
        wrong(format!("{path} in body should be a multiple of {step}"));
    }
    if limits.format.as_deref() == Some("int32") && (number < f64::from(i32::MIN) || number > f64::from(i32::MAX)) {
        wrong(format!("{path} in body must be of type int32: \"{number}\""));
    }
}

fn validate_combinations(limits: &Limits, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for inner in &limits.all_of {
        validate_at(inner, value, None, path, errors);
    }
    let passes = |inner: &Schema| {
        let mut found = Vec::new();
        validate_at(inner, value, None, path, &mut found);
        found.is_empty()
    };
    if !limits.any_of.is_empty() && !limits.any_of.iter().any(passes) {
        errors.push(FieldError::invalid(
            path,
            value.clone(),
            format!("{path} in body must validate at least one schema (anyOf)"),
        ));
    }
    if !limits.one_of.is_empty() && limits.one_of.iter().filter(|inner| passes(inner)).count() != 1 {
        errors.push(FieldError::invalid(
            path,
            value.clone(),
            format!("{path} in body must validate one and only one schema (oneOf)"),
        ));
    }
    if limits.not.as_ref().is_some_and(passes) {
        errors.push(FieldError::invalid(
            path,
            value.clone(),
            format!("{path} in body must not validate the schema (not)"),
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::crd;

    fn schema(json: &Value) -> Schema {
        crd::parse(json).expect("a structural schema")
    }

    fn messages(schema: &Schema, value: &Value) -> Vec<String> {
        validate(schema, value, None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn unknown_fields_go_and_defaults_come() {
        let schema =
            schema(&json!({"type": "object", "properties": {"spec": {"type": "object", "default": {}, "properties": {
                "size": {"type": "integer", "default": 3},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            }}}}));
        let mut value = json!({"spec": {"free": {"a": 1}, "typo": 1}, "other": 2});
        assert_eq!(prune(&schema, &mut value, Origin::Custom), ["other", "spec.typo"]);
        default(&schema, &mut value);
        assert_eq!(value, json!({"spec": {"free": {"a": 1}, "size": 3}}));
        let mut empty = json!({});
        default(&schema, &mut empty);
        assert_eq!(empty, json!({"spec": {"size": 3}}));
    }

    #[test]
    fn errors_name_the_field() {
        let schema = schema(&json!({"type": "object", "required": ["kind"], "properties": {
            "kind": {"type": "string", "enum": ["a", "b"]},
            "port": {"type": "integer", "minimum": 1, "format": "int32"},
            "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
            "rows": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                "items": {"type": "object", "properties": {"id": {"type": "string"}}}},
        }}));
        assert_eq!(
            messages(&schema, &json!({"port": 0})),
            ["kind: Required value", "port: Invalid value: 0: port in body should be greater than or equal to 1",]
        );
        assert_eq!(
            messages(&schema, &json!({"kind": "c"})),
            ["kind: Unsupported value: \"c\": supported values: \"a\", \"b\""]
        );
        assert_eq!(
            messages(&schema, &json!({"kind": "a", "port": "x"})),
            ["port: Invalid value: \"string\": port in body must be of type integer: \"string\"",]
        );
        assert_eq!(messages(&schema, &json!({"kind": "a", "name": "ABCD"})).len(), 2);
        assert_eq!(
            messages(&schema, &json!({"kind": "a", "rows": [{"id": "1"}, {"id": "1"}]})),
            ["rows[1]: Duplicate value: {\"id\":\"1\"}",]
        );
    }

    #[test]
    fn one_of_several_schemas() {
        let schema =
            schema(&json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
            "oneOf": [{"required": ["a"], "properties": {"a": {}}}, {"required": ["b"], "properties": {"b": {}}}]}));
        assert_eq!(messages(&schema, &json!({"a": "x"})), Vec::<String>::new());
        assert_eq!(messages(&schema, &json!({"a": "x", "b": "y"})).len(), 1);
    }

    #[test]
    fn quantities() {
        for good in ["1", "100m", "1.5Gi", "1e3", "-2", "0"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "one", "1X", "Gi", "1 Gi"] {
            assert!(!is_quantity(bad), "{bad}");
        }
    }
}
