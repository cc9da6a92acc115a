//! A CRD's `openAPIV3Schema` as a `Schema`, or why it is not structural.

use serde_json::Value;

use super::rules::Rule;
use super::{Limits, ListKind, Scalar, Schema, Shape, Struct};

/// Deeper than any real schema; keeps a hostile one from exhausting the stack.
const MAX_DEPTH: usize = 64;

/// Reads a schema. Errors name the path inside it.
pub fn parse(json: &Value) -> Result<Schema, String> {
    node(json, "openAPIV3Schema", 0, false)
}

/// `inner`: below allOf, anyOf, oneOf or not, where a type is not asked for.
fn node(json: &Value, path: &str, depth: usize, inner: bool) -> Result<Schema, String> {
    if depth > MAX_DEPTH {
        return Err(format!("{path}: nested deeper than {MAX_DEPTH}"));
    }
    if !json.is_object() {
        return Err(format!("{path}: Invalid value: must be an object"));
    }
    let flag = |name: &str| json[name].as_bool().unwrap_or(false);
    let shape = if flag("x-kubernetes-int-or-string") {
        Shape::Scalar(Scalar::IntOrString)
    } else {
        match json["type"].as_str() {
            Some("object") => object(json, path, depth, inner)?,
            Some("array") => list(json, path, depth, inner)?,
            Some("string") => Shape::Scalar(Scalar::String),
            Some("integer") => Shape::Scalar(Scalar::Int),
            Some("number") => Shape::Scalar(Scalar::Number),
            Some("boolean") => Shape::Scalar(Scalar::Bool),
            Some(other) => {
                return Err(format!(
                    "{path}.type: Unsupported value: \"{other}\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\""
                ));
            }
            None if flag("x-kubernetes-preserve-unknown-fields") => Shape::Any,
            None if inner && json["properties"].is_object() || json["required"].is_array() => {
                let mut shape = object(json, path, depth, inner)?;
                if let Shape::Struct(fields) = &mut shape {
                    fields.preserve_unknown = true;
                }
                shape
            }
            None if inner => Shape::Any,
            None => return Err(format!("{path}.type: Required value: must not be empty for specified object fields")),
        }
    };
    let mut schema = Schema {
        shape,
        default: json.get("default").cloned(),
        nullable: flag("nullable"),
        atomic: json["x-kubernetes-map-type"] == "atomic",
        limits: None,
    };
    let limits = limits(json, path, depth)?;
    if let Some(limits) = limits {
        schema.limits = Some(Box::new(limits));
    }
    Ok(schema)
}

fn object(json: &Value, path: &str, depth: usize, inner: bool) -> Result<Shape, String> {
    let rest = match &json["additionalProperties"] {
        Value::Object(_) => {
            Some(node(&json["additionalProperties"], &format!("{path}.additionalProperties"), depth + 1, false)?)
        }
        Value::Bool(true) => Some(Schema::default()),
        _ => None,
    };
    let properties = json["properties"].as_object();
    if let (Some(rest), None) = (&rest, properties) {
        return Ok(Shape::Map(Box::new(rest.clone())));
    }
    let mut fields = Struct {
        preserve_unknown: json["x-kubernetes-preserve-unknown-fields"] == true,
        embedded: json["x-kubernetes-embedded-resource"] == true,
        rest: rest.map(Box::new),
        ..Struct::default()
    };
    for (name, field) in properties.into_iter().flatten() {
        let inside = node(field, &format!("{path}.properties[{name}]"), depth + 1, inner)?;
        fields.fields.insert(name.clone(), inside);
    }
    fields.required =
        json["required"].as_array().into_iter().flatten().filter_map(|r| Some(r.as_str()?.to_owned())).collect();
    Ok(Shape::Struct(fields))
}

fn list(json: &Value, path: &str, depth: usize, inner: bool) -> Result<Shape, String> {
    let Some(items) = json.get("items") else {
        if inner {
            return Ok(Shape::List { item: Box::default(), kind: ListKind::Atomic });
        }
        return Err(format!("{path}.items: Required value: must be specified"));
    };
    let item = node(items, &format!("{path}.items"), depth + 1, inner)?;
    let kind = match json["x-kubernetes-list-type"].as_str() {
        Some("set") => ListKind::Set,
        Some("map") => {
            let keys: Vec<String> = json["x-kubernetes-list-map-keys"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|k| Some(k.as_str()?.to_owned()))
                .collect();
            if keys.is_empty() {
                return Err(format!(
                    "{path}.x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"
                ));
            }
            ListKind::Map(keys)
        }
        _ => ListKind::Atomic,
    };
    Ok(Shape::List { item: Box::new(item), kind })
}

fn limits(json: &Value, path: &str, depth: usize) -> Result<Option<Limits>, String> {
    let pattern = match json["pattern"].as_str() {
        // Go and this engine share their syntax, but for the escaped slash that some schemas carry.
        Some(text) => Some(regex::Regex::new(&text.replace("\\/", "/")).map_err(|e| {
            format!("{path}.pattern: Invalid value: \"{text}\": must be a valid regular expression, but isn't: {e}")
        })?),
        None => None,
    };
    let several = |name: &str| -> Result<Vec<Schema>, String> {
        let all = json[name].as_array().into_iter().flatten().enumerate();
        all.map(|(i, inner)| node(inner, &format!("{path}.{name}[{i}]"), depth + 1, true)).collect()
    };
    let rules = json["x-kubernetes-validations"].as_array().into_iter().flatten();
    let limits = Limits {
        enumeration: json["enum"].as_array().cloned().unwrap_or_default(),
        pattern,
        format: json["format"].as_str().map(str::to_owned),
        minimum: json["minimum"].as_f64(),
        maximum: json["maximum"].as_f64(),
        exclusive_minimum: json["exclusiveMinimum"] == true,
        exclusive_maximum: json["exclusiveMaximum"] == true,
        multiple_of: json["multipleOf"].as_f64(),
        min_length: json["minLength"].as_u64(),
        max_length: json["maxLength"].as_u64(),
        min_items: json["minItems"].as_u64(),
        max_items: json["maxItems"].as_u64(),
        min_properties: json["minProperties"].as_u64(),
        max_properties: json["maxProperties"].as_u64(),
        unique_items: json["uniqueItems"] == true,
        all_of: several("allOf")?,
        any_of: several("anyOf")?,
        one_of: several("oneOf")?,
        not: json.get("not").map(|inner| node(inner, &format!("{path}.not"), depth + 1, true)).transpose()?,
        rules: rules
            .enumerate()
            .map(|(i, rule)| {
                Rule::parse(rule).map_err(|why| format!("{path}.x-kubernetes-validations[{i}].rule: {why}"))
            })
            .collect::<Result<_, _>>()?,
    };
    Ok(if limits.is_empty() { None } else { Some(limits) })
}

impl Limits {
    fn is_empty(&self) -> bool {
        let numbers = [self.minimum, self.maximum, self.multiple_of];
        let counts = [
            self.min_length,
            self.max_length,
            self.min_items,
            self.max_items,
            self.min_properties,
            self.max_properties,
        ];
        self.enumeration.is_empty()
            && self.pattern.is_none()
            && self.format.is_none()
            && numbers.iter().all(Option::is_none)
            && counts.iter().all(Option::is_none)
            && !self.unique_items
            && [&self.all_of, &self.any_of, &self.one_of].iter().all(|v| v.is_empty())
            && self.not.is_none()
            && self.rules.is_empty()
    }
}
