//! Merging an applied configuration into the live object, and taking fields out again.

use serde_json::{Map, Value};

use super::fields::{FieldSet, item_id};
use crate::schema::{ListKind, Schema};

/// Every field of `config` ends up in `live`; lists that are maps or sets are merged entry by entry.
pub(super) fn merge(schema: &Schema, live: &mut Value, config: &Value) {
    let any = Schema::default();
    match (live, config) {
        (Value::Object(live), Value::Object(config)) if !schema.is_atomic() => {
            for (name, value) in config {
                let inner = schema.field(name).unwrap_or(&any);
                match live.get_mut(name) {
                    Some(existing) => merge(inner, existing, value),
                    None => {
                        live.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        (Value::Array(live), Value::Array(config)) if *schema.list_kind() != ListKind::Atomic => {
            let item = schema.item().unwrap_or(&any);
            let id = |entry: &Value| match schema.list_kind() {
                ListKind::Map(keys) => item_id(item, keys, entry),
                ListKind::Set | ListKind::Atomic => entry.to_string(),
            };
            for entry in config {
                let wanted = id(entry);
                match live.iter_mut().find(|other| id(other) == wanted) {
                    Some(existing) => merge(item, existing, entry),
                    None => live.push(entry.clone()),
                }
            }
            // The order of the configuration wins among its own entries; others keep their place at the end.
            let order: Vec<String> = config.iter().map(&id).collect();
            live.sort_by_key(|entry| {
                let own = id(entry);
                order.iter().position(|o| *o == own).unwrap_or(usize::MAX)
            });
        }
        (live, config) => *live = config.clone(),
    }
}

/// Removes the members of the set from the object, and containers that become empty by it.
pub(super) fn remove(schema: &Schema, value: &mut Value, gone: &FieldSet) {
    let any = Schema::default();
    match value {
        Value::Object(fields) => remove_fields(schema, fields, gone, &any),
        Value::Array(items) => {
            let item = schema.item().unwrap_or(&any);
            let kind = schema.list_kind().clone();
            items.retain_mut(|entry| {
                let id = match &kind {
                    ListKind::Map(keys) => item_id(item, keys, entry),
                    ListKind::Set => format!("v:{entry}"),
                    ListKind::Atomic => return true,
                };
                match gone.children().find(|(name, _)| **name == id) {
                    Some((_, child)) if child.is_member() => false,
                    Some((_, child)) => {
                        remove(item, entry, child);
                        true
                    }
                    None => true,
                }
            });
        }
        _ => {}
    }
}

fn remove_fields(schema: &Schema, fields: &mut Map<String, Value>, gone: &FieldSet, any: &Schema) {
    for (name, child) in gone.children() {
        let Some(name) = name.strip_prefix("f:") else { continue };
        let has_parts = child.children().next().is_some();
        let Some(inner) = fields.get_mut(name) else { continue };
        if has_parts {
            remove(schema.field(name).unwrap_or(any), inner, child);
        }
        let empty = inner.as_object().is_some_and(Map::is_empty) || inner.as_array().is_some_and(Vec::is_empty);
        if (child.is_member() && !has_parts) || (has_parts && empty) {
            fields.shift_remove(name);
        }
    }
}
