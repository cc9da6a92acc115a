//! Strategic merge patch: a merge patch that knows which lists are maps in disguise.
//!
//! Directives: `$patch: replace|delete|merge` in an object, `$patch` as an entry of a list, `$deleteFromPrimitiveList/f`,
//! `$setElementOrder/f` and `$retainKeys`.

use serde_json::{Map, Value};

use crate::schema::{ListKind, Schema};

const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

pub fn apply(schema: &Schema, target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(fields) = target {
        merge_object(schema, fields, patch);
    }
}

fn merge_object(schema: &Schema, target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    match patch.get("$patch").and_then(Value::as_str) {
        Some("delete") => {
            target.clear();
            return;
        }
        Some("replace") => target.clear(),
        _ => {}
    }
    if let Some(keep) = patch.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|name, _| keep.iter().any(|k| k == name));
    }
    for (name, change) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
        let inner = schema.field(name);
        let any = Schema::default();
        let inner = inner.unwrap_or(&any);
        match change {
            Value::Null => {
                target.shift_remove(name);
            }
            Value::Object(_) => {
                apply(inner, target.entry(name.clone()).or_insert_with(|| Value::Object(Map::new())), change);
            }
            Value::Array(items) => {
                let list = target.entry(name.clone()).or_insert_with(|| Value::Array(Vec::new()));
                if !list.is_array() {
                    *list = Value::Array(Vec::new());
                }
                if let Value::Array(list) = list {
                    merge_list(inner, list, items);
                }
            }
            scalar => {
                target.insert(name.clone(), scalar.clone());
            }
        }
    }
    for (name, values) in patch {
        if let Some(field) = name.strip_prefix(DELETE_FROM)
            && let (Some(Value::Array(list)), Some(gone)) = (target.get_mut(field), values.as_array())
        {
            list.retain(|entry| !gone.contains(entry));
        }
    }
    for (name, order) in patch {
        if let Some(field) = name.strip_prefix(ORDER)
            && let (Some(Value::Array(list)), Some(order)) = (target.get_mut(field), order.as_array())
        {
            let key = schema.field(field).and_then(merge_key);
            reorder(list, order, key.as_deref());
        }
    }
}

fn merge_key(list: &Schema) -> Option<String> {
    match list.list_kind() {
        ListKind::Map(keys) => keys.first().cloned(),
        ListKind::Atomic | ListKind::Set => None,
    }
}

fn merge_list(schema: &Schema, list: &mut Vec<Value>, patch: &[Value]) {
    let Some(key) = merge_key(schema) else {
        if *schema.list_kind() == ListKind::Set {
            let fresh: Vec<Value> = patch.iter().filter(|entry| !list.contains(entry)).cloned().collect();
            list.extend(fresh);
        } else {
            *list = patch.to_vec();
        }
        return;
    };
    let directive = |entry: &Value| entry["$patch"].as_str().map(str::to_owned);
    if patch.iter().any(|entry| directive(entry).as_deref() == Some("replace")) {
        *list = patch.iter().filter(|entry| directive(entry).is_none()).cloned().collect();
        return;
    }
    let any = Schema::default();
    let item = schema.item().unwrap_or(&any);
    for entry in patch {
        let same = |other: &Value| other.get(&key) == entry.get(&key);
        if directive(entry).as_deref() == Some("delete") {
            list.retain(|other| !same(other));
            continue;
        }
        match list.iter_mut().find(|other| same(other)) {
            Some(existing) => apply(item, existing, entry),
            None => {
                let mut fresh = Value::Object(Map::new());
                apply(item, &mut fresh, entry);
                list.push(fresh);
            }
        }
    }
}

/// Entries named by the order stand in that order; others keep their place behind the ones that they followed.
fn reorder(list: &mut Vec<Value>, order: &[Value], key: Option<&str>) {
    let id = |entry: &Value| key.map_or_else(|| entry.clone(), |k| entry.get(k).cloned().unwrap_or(Value::Null));
    let rank = |entry: &Value| order.iter().position(|o| id(o) == id(entry));
    let mut ranked: Vec<(usize, usize, Value)> = Vec::with_capacity(list.len());
    let mut last = 0;
    for (at, entry) in std::mem::take(list).into_iter().enumerate() {
        last = rank(&entry).map_or(last, |r| r + 1);
        ranked.push((last, at, entry));
    }
    ranked.sort_by_key(|(rank, at, _)| (*rank, *at));
    list.extend(ranked.into_iter().map(|(_, _, entry)| entry));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::types;

    fn patched(mut target: Value, patch: &Value) -> Value {
        apply(types::named("apps.v1.Deployment"), &mut target, patch);
        target
    }

    fn deployment(containers: &Value) -> Value {
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
            "template": {"spec": {"containers": containers}}}})
    }

    #[test]
    fn containers_merge_by_name() {
        let before = deployment(&json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]));
        let patch = deployment(
            &json!([{"name": "b", "image": "2"}, {"name": "c", "image": "3"}, {"name": "a", "$patch": "delete"}]),
        );
        let after = patched(before, &patch);
        assert_eq!(
            after["spec"]["template"]["spec"]["containers"],
            json!([{"name": "b", "image": "2"}, {"name": "c", "image": "3"}])
        );
    }

    #[test]
    fn directives() {
        let before = deployment(&json!([{"name": "a"}]));
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(patched(before.clone(), &patch)["spec"]["strategy"], json!({"type": "Recreate"}));
        let order = json!({"spec": {"template": {"spec": {
            "$setElementOrder/containers": [{"name": "z"}, {"name": "a"}], "containers": [{"name": "z", "image": "i"}]}}}});
        let after = patched(before, &order);
        assert_eq!(
            after["spec"]["template"]["spec"]["containers"],
            json!([{"name": "z", "image": "i"}, {"name": "a"}])
        );
    }

    #[test]
    fn primitive_sets_grow_and_shrink() {
        let before = json!({"metadata": {"finalizers": ["a", "b"], "labels": {"x": "1", "y": "2"}}});
        let patch = json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"], "labels": {"x": null}}});
        assert_eq!(patched(before, &patch), json!({"metadata": {"finalizers": ["b", "c"], "labels": {"y": "2"}}}));
    }
}
