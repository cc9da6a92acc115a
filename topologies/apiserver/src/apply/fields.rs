//! Sets of field paths, in the form that managed fields have: `f:name`, `k:{"name":"x"}`, `v:"x"`, with `.` for the thing itself.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::schema::check::list_key;
use crate::schema::{ListKind, Schema};

/// What the server alone writes: nobody owns it.
const UNOWNED_METADATA: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];

#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldSet {
    /// The path to here is itself in the set.
    member: bool,
    children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    pub(crate) fn from_json(json: &Value) -> Self {
        let mut set = Self::default();
        for (name, inner) in json.as_object().into_iter().flatten() {
            if name == "." {
                set.member = true;
                continue;
            }
            let mut child = Self::from_json(inner);
            child.member |= child.children.is_empty();
            set.children.insert(name.clone(), child);
        }
        set
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut json = Map::new();
        if self.member && !self.children.is_empty() {
            json.insert(".".into(), Value::Object(Map::new()));
        }
        for (name, child) in &self.children {
            json.insert(name.clone(), child.to_json());
        }
        json.into()
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Self::is_empty)
    }

    fn insert(&mut self, name: String, child: Self) {
        if !child.is_empty() {
            self.children.insert(name, child);
        }
    }

    /// The fields that an applied object speaks of.
    pub(crate) fn of(schema: &Schema, value: &Value) -> Self {
        let mut set = Self::inside(schema, value);
        set.drop_unowned();
        set.member = false;
        set
    }

    fn inside(schema: &Schema, value: &Value) -> Self {
        let mut set = Self::default();
        match parts(schema, value) {
            Parts::Leaf => set.member = true,
            Parts::Fields(fields) => {
                set.member = fields.is_empty();
                for (name, inner_schema, inner) in fields {
                    set.insert(format!("f:{name}"), Self::inside(inner_schema, inner));
                }
            }
            Parts::Items(items) => {
                set.member = items.is_empty();
                for (id, inner_schema, inner) in items {
                    let mut child = Self::inside(inner_schema, inner);
                    child.member = true;
                    set.insert(id, child);
                }
            }
        }
        set
    }

    /// The fields of `new` that `old` has not, or has otherwise.
    pub(crate) fn changed(schema: &Schema, old: &Value, new: &Value) -> Self {
        let mut set = Self::compare(schema, Some(old), new, true);
        set.drop_unowned();
        set.member = false;
        set
    }

    /// The fields that both have with different values.
    pub(crate) fn differing(schema: &Schema, live: &Value, config: &Value) -> Self {
        let mut set = Self::compare(schema, Some(live), config, false);
        set.drop_unowned();
        set.member = false;
        set
    }

    fn compare(schema: &Schema, old: Option<&Value>, new: &Value, added: bool) -> Self {
        let Some(old) = old else {
            return if added { Self { member: true, ..Self::inside(schema, new) } } else { Self::default() };
        };
        if old == new {
            return Self::default();
        }
        let mut set = Self::default();
        match (parts(schema, old), parts(schema, new)) {
            (Parts::Fields(old), Parts::Fields(new)) => {
                let old: BTreeMap<&str, &Value> = old.into_iter().map(|(name, _, value)| (name, value)).collect();
                for (name, inner, value) in new {
                    set.insert(format!("f:{name}"), Self::compare(inner, old.get(name).copied(), value, added));
                }
            }
            (Parts::Items(old), Parts::Items(new)) => {
                let old: BTreeMap<String, &Value> = old.into_iter().map(|(id, _, value)| (id, value)).collect();
                for (id, inner, value) in new {
                    let child = Self::compare(inner, old.get(&id).copied(), value, added);
                    set.insert(id, child);
                }
            }
            _ => set = Self { member: true, ..Self::inside(schema, new) },
        }
        set
    }

    fn drop_unowned(&mut self) {
        self.children.remove("f:apiVersion");
        self.children.remove("f:kind");
        if let Some(metadata) = self.children.get_mut("f:metadata") {
            for name in UNOWNED_METADATA {
                metadata.children.remove(&format!("f:{name}"));
            }
            metadata.member = false;
        }
        if self.children.get("f:metadata").is_some_and(Self::is_empty) {
            self.children.remove("f:metadata");
        }
    }

    pub(crate) fn union(&mut self, other: &Self) {
        self.member |= other.member;
        for (name, child) in &other.children {
            self.children.entry(name.clone()).or_default().union(child);
        }
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        self.member &= !other.member;
        for (name, child) in &other.children {
            if let Some(own) = self.children.get_mut(name) {
                own.subtract(child);
                if own.is_empty() {
                    self.children.remove(name);
                }
            }
        }
    }

    pub(crate) fn intersect(&mut self, other: &Self) {
        self.member &= other.member;
        self.children.retain(|name, own| {
            let Some(theirs) = other.children.get(name) else { return false };
            own.intersect(theirs);
            !own.is_empty()
        });
    }

    /// Forgets paths that the object no longer has.
    pub(crate) fn retain_existing(&mut self, schema: &Schema, value: &Value) {
        let present: BTreeMap<String, (&Schema, &Value)> = match parts(schema, value) {
            Parts::Leaf => BTreeMap::new(),
            Parts::Fields(fields) => fields.into_iter().map(|(name, s, v)| (format!("f:{name}"), (s, v))).collect(),
            Parts::Items(items) => items.into_iter().map(|(id, s, v)| (id, (s, v))).collect(),
        };
        self.children.retain(|name, child| {
            let Some((inner, value)) = present.get(name) else { return false };
            child.retain_existing(inner, value);
            !child.is_empty()
        });
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = (&String, &FieldSet)> {
        self.children.iter()
    }

    pub(crate) fn is_member(&self) -> bool {
        self.member
    }

    /// Every member as people write it: `.spec.containers[name="x"].image`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect("", &mut found);
        found
    }

    fn collect(&self, path: &str, found: &mut Vec<String>) {
        if self.member {
            found.push(path.to_owned());
        }
        for (name, child) in &self.children {
            let step = match name.split_once(':') {
                Some(("f", field)) => format!(".{field}"),
                Some(("k", json)) => key_text(json),
                Some((_, json)) => format!("[={json}]"),
                None => name.clone(),
            };
            child.collect(&format!("{path}{step}"), found);
        }
    }
}

fn key_text(json: &str) -> String {
    let key: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
    let parts: Vec<String> = key.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("[{}]", parts.join(","))
}

/// What a value is made of, as far as ownership goes.
pub(super) enum Parts<'s, 'v> {
    /// Owned as a whole.
    Leaf,
    Fields(Vec<(&'v str, &'s Schema, &'v Value)>),
    Items(Vec<(String, &'s Schema, &'v Value)>),
}

static ANY: Schema =
    Schema { shape: crate::schema::Shape::Any, default: None, nullable: false, atomic: false, limits: None };

pub(super) fn parts<'s, 'v>(schema: &'s Schema, value: &'v Value) -> Parts<'s, 'v> {
    match value {
        Value::Object(fields) if !schema.is_atomic() => Parts::Fields(
            fields.iter().map(|(name, v)| (name.as_str(), schema.field(name).unwrap_or(&ANY), v)).collect(),
        ),
        Value::Array(items) => {
            let item = schema.item().unwrap_or(&ANY);
            match schema.list_kind() {
                ListKind::Map(keys) => Parts::Items(items.iter().map(|v| (item_id(item, keys, v), item, v)).collect()),
                ListKind::Set => Parts::Items(items.iter().map(|v| (format!("v:{v}"), item, v)).collect()),
                ListKind::Atomic => Parts::Leaf,
            }
        }
        _ => Parts::Leaf,
    }
}

/// `k:{"containerPort":80,"protocol":"TCP"}`, keys in order.
pub(super) fn item_id(item: &Schema, keys: &[String], entry: &Value) -> String {
    let mut pairs = list_key(item, keys, entry);
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    let key: Map<String, Value> = pairs.into_iter().collect();
    format!("k:{}", Value::Object(key))
}
