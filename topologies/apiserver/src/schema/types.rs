//! The built-in types, read from `schema/types.txt`.
//!
//! A line without indent names a type; each indented line below it is a field: `name[!][:number] type [words]`, where
//! `!` means required and the number is the one of protobuf (`2.19`: field 19 inside field 2). Types: `bool int number string intstr quantity time bytes any`, `[]T`, `{}T` (a map), or another type's name. Words:
//! `key=a,b` (a list told apart by these fields), `set`, `atomic`, `=JSON` (default), `enum=A|B`, `min=N`.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::{ListKind, Scalar, Schema, Shape, Struct};

const TABLE: &str = include_str!("../../schema/types.txt");

/// All types by name.
pub fn all() -> &'static BTreeMap<String, Schema> {
    static TYPES: OnceLock<BTreeMap<String, Schema>> = OnceLock::new();
    TYPES.get_or_init(|| parse(TABLE))
}

pub fn named(name: &str) -> &'static Schema {
    all().get(name).unwrap_or_else(|| panic!("types.txt names {name} without describing it; a test looks for this"))
}

fn parse(table: &str) -> BTreeMap<String, Schema> {
    let mut types = BTreeMap::new();
    let mut name = "";
    for line in table.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some(field) = line.strip_prefix("  ") else {
            name = line.trim();
            types.insert(name.to_owned(), Schema::of(Shape::Struct(Struct::default())));
            continue;
        };
        if let Some(Schema { shape: Shape::Struct(owner), .. }) = types.get_mut(name) {
            add_field(owner, field);
        }
    }
    types
}

fn add_field(owner: &mut Struct, line: &str) {
    let mut words = line.split(' ');
    let (name, typ) = (words.next().unwrap_or_default(), words.next().unwrap_or("any"));
    let (name, number) = name.split_once(':').unwrap_or((name, ""));
    let required = name.ends_with('!');
    let name = name.trim_end_matches('!').to_owned();
    if !number.is_empty() {
        owner.numbers.insert(number.split('.').filter_map(|n| n.parse().ok()).collect(), name.clone());
    }
    let mut schema = type_of(typ);
    for word in words {
        apply_word(&mut schema, word);
    }
    if required {
        owner.required.push(name.clone());
    }
    owner.fields.insert(name, schema);
}

fn type_of(name: &str) -> Schema {
    if let Some(item) = name.strip_prefix("[]") {
        return Schema::of(Shape::List { item: Box::new(type_of(item)), kind: ListKind::Atomic });
    }
    if let Some(value) = name.strip_prefix("{}") {
        return Schema::of(Shape::Map(Box::new(type_of(value))));
    }
    let scalar = match name {
        "any" => return Schema::default(),
        "bool" => Scalar::Bool,
        "int" => Scalar::Int,
        "number" => Scalar::Number,
        "string" => Scalar::String,
        "intstr" => Scalar::IntOrString,
        "quantity" => Scalar::Quantity,
        "time" => Scalar::Time,
        "bytes" => Scalar::Bytes,
        other => return Schema::of(Shape::Ref(other.to_owned())),
    };
    Schema::of(Shape::Scalar(scalar))
}

fn apply_word(schema: &mut Schema, word: &str) {
    if let Some(keys) = word.strip_prefix("key=") {
        if let Shape::List { kind, .. } = &mut schema.shape {
            *kind = ListKind::Map(keys.split(',').map(str::to_owned).collect());
        }
    } else if word == "set" {
        if let Shape::List { kind, .. } = &mut schema.shape {
            *kind = ListKind::Set;
        }
    } else if word == "atomic" {
        schema.atomic = true;
    } else if let Some(json) = word.strip_prefix('=') {
        schema.default = serde_json::from_str(json).ok();
    } else if let Some(names) = word.strip_prefix("enum=") {
        schema.limits_mut().enumeration = names.split('|').map(Into::into).collect();
    } else if let Some(least) = word.strip_prefix("min=") {
        schema.limits_mut().minimum = least.parse().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(schema: &Schema, found: &mut Vec<String>) {
        match &schema.shape {
            Shape::Ref(name) => found.push(name.clone()),
            Shape::List { item, .. } => references(item, found),
            Shape::Map(value) => references(value, found),
            Shape::Struct(fields) => fields.fields.values().for_each(|field| references(field, found)),
            Shape::Any | Shape::Scalar(_) => {}
        }
    }

    #[test]
    fn every_type_that_is_named_is_described() {
        let mut found = Vec::new();
        all().values().for_each(|schema| references(schema, &mut found));
        assert!(found.len() > 300);
        found.retain(|name| !all().contains_key(name));
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn list_keys_and_defaults_are_read() {
        let pod = named("core.v1.PodSpec");
        let containers = pod.field("containers").expect("a pod has containers");
        assert_eq!(containers.list_kind(), &ListKind::Map(vec!["name".into()]));
        assert_eq!(pod.field("restartPolicy").and_then(|f| f.default.clone()), Some("Always".into()));
        let ports = containers.item().and_then(|c| c.field("ports")).expect("a container has ports");
        assert_eq!(ports.list_kind(), &ListKind::Map(vec!["containerPort".into(), "protocol".into()]));
    }
}
