//! What an object may look like: one tree for built-in kinds (from a table, `types`) and for custom ones (from their
//! CRD, `crd`). `check` walks an object along it (unknown fields, defaults, validation); patches and server-side apply read the
//! list keys off it; OpenAPI is written from it.

pub mod check;
pub mod crd;
pub mod rules;
pub mod types;

use std::collections::BTreeMap;

use serde_json::Value;

#[derive(Clone, Debug, Default)]
pub struct Schema {
    pub shape: Shape,
    pub default: Option<Value>,
    pub nullable: bool,
    /// Server-side apply owns this object or map as one value.
    pub atomic: bool,
    pub limits: Option<Box<Limits>>,
}

#[derive(Clone, Debug, Default)]
pub enum Shape {
    /// Anything goes, nothing is pruned.
    #[default]
    Any,
    Scalar(Scalar),
    List {
        item: Box<Schema>,
        kind: ListKind,
    },
    Map(Box<Schema>),
    Struct(Struct),
    /// A built-in type by name: types refer to each other, some to themselves.
    Ref(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    Bool,
    Int,
    Number,
    String,
    IntOrString,
    /// `100m`, `1Gi`, also a bare number.
    Quantity,
    /// RFC 3339.
    Time,
    /// Base64.
    Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKind {
    Atomic,
    /// Scalars, each at most once.
    Set,
    /// Objects told apart by these fields; the first is also the strategic merge key.
    Map(Vec<String>),
}

#[derive(Clone, Debug, Default)]
pub struct Struct {
    pub fields: BTreeMap<String, Schema>,
    pub required: Vec<String>,
    pub preserve_unknown: bool,
    /// `additionalProperties` beside `properties`.
    pub rest: Option<Box<Schema>>,
    /// Carries its own apiVersion, kind and metadata.
    pub embedded: bool,
    /// Protobuf field numbers; `[2, 19]` is field 19 of the message in field 2, whose fields JSON shows as ours.
    pub numbers: BTreeMap<Vec<u32>, String>,
}

/// The value constraints of a structural schema.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    pub enumeration: Vec<Value>,
    pub pattern: Option<regex::Regex>,
    pub format: Option<String>,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub exclusive_minimum: bool,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
    pub unique_items: bool,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Schema>,
    /// `x-kubernetes-validations`.
    pub rules: Vec<rules::Rule>,
}

impl Schema {
    pub fn of(shape: Shape) -> Self {
        Self { shape, ..Self::default() }
    }

    /// Follows a reference to the built-in type it names.
    pub fn resolve(&self) -> &Schema {
        let mut schema = self;
        while let Shape::Ref(name) = &schema.shape {
            schema = types::named(name);
        }
        schema
    }

    /// The schema of a field of an object of this schema; `None` when unknown.
    pub fn field(&self, name: &str) -> Option<&Schema> {
        match &self.resolve().shape {
            Shape::Struct(fields) => fields.fields.get(name).or(fields.rest.as_deref()),
            Shape::Map(value) => Some(value),
            _ => None,
        }
    }

    /// The schema of the entries of a list of this schema.
    pub fn item(&self) -> Option<&Schema> {
        match &self.resolve().shape {
            Shape::List { item, .. } => Some(item),
            _ => None,
        }
    }

    pub fn list_kind(&self) -> &ListKind {
        match &self.resolve().shape {
            Shape::List { kind, .. } => kind,
            _ => &ListKind::Atomic,
        }
    }

    /// Whether server-side apply owns the whole value at once.
    pub fn is_atomic(&self) -> bool {
        self.atomic || self.resolve().atomic
    }

    pub(crate) fn limits_mut(&mut self) -> &mut Limits {
        self.limits.get_or_insert_default()
    }
}
