//! Server-side apply and the managed fields of every other write.
//!
//! A manager is known by name, operation and subresource, and owns a set of fields. Applying merges the configuration into the
//! live object, refuses to change what somebody else owns (unless forced), and removes what the manager owned before, no longer
//! applies, and nobody else owns. An update makes its writer the owner of what changed.

mod fields;
mod merge;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

pub use fields::FieldSet;

use crate::schema::Schema;
use crate::status::ApiError;

#[derive(Clone, Debug, PartialEq)]
struct Manager {
    name: String,
    operation: String,
    subresource: String,
    api_version: String,
    time: String,
    set: FieldSet,
}

/// Who writes, as managed fields record it.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    pub manager: &'a str,
    pub api_version: &'a str,
    pub subresource: &'a str,
}

fn read(object: &Value) -> Vec<Manager> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    entries
        .map(|entry| Manager {
            name: text(entry, "manager"),
            operation: text(entry, "operation"),
            subresource: text(entry, "subresource"),
            api_version: text(entry, "apiVersion"),
            time: text(entry, "time"),
            set: FieldSet::from_json(&entry["fieldsV1"]),
        })
        .collect()
}

fn write(object: &mut Value, mut managers: Vec<Manager>) {
    managers.retain(|m| !m.set.is_empty());
    // Applied sets come first, as everywhere.
    managers.sort_by(|a, b| a.operation.cmp(&b.operation));
    let entries = managers.into_iter().map(|m| {
        let mut entry = json!({
            "manager": m.name, "operation": m.operation, "apiVersion": m.api_version, "time": m.time,
            "fieldsType": "FieldsV1", "fieldsV1": m.set.to_json(),
        });
        if !m.subresource.is_empty() {
            entry["subresource"] = m.subresource.into();
        }
        entry
    });
    let entries: Vec<Value> = entries.collect();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        if entries.is_empty() {
            metadata.shift_remove("managedFields");
        } else {
            metadata.insert("managedFields".into(), entries.into());
        }
    }
}

/// Now, to the second, as Kubernetes writes times.
pub fn now() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

fn find<'m>(managers: &'m mut Vec<Manager>, writer: &Writer<'_>, operation: &str) -> &'m mut Manager {
    let known = managers
        .iter()
        .position(|m| m.name == writer.manager && m.operation == operation && m.subresource == writer.subresource);
    let at = known.unwrap_or_else(|| {
        managers.push(Manager {
            name: writer.manager.to_owned(),
            operation: operation.to_owned(),
            subresource: writer.subresource.to_owned(),
            api_version: writer.api_version.to_owned(),
            time: now(),
            set: FieldSet::default(),
        });
        managers.len() - 1
    });
    &mut managers[at]
}

/// Records an ordinary write that turned `old` into `new`.
pub fn record_update(schema: &Schema, old: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    // A client that sends an empty list asks to forget all owners; one that sends none means "as it was".
    let forget = new["metadata"]["managedFields"].as_array().is_some_and(Vec::is_empty);
    let mut managers = match old {
        Some(old) if !forget => read(old),
        _ => Vec::new(),
    };
    let empty = Value::Object(Map::new());
    let changed = FieldSet::changed(schema, old.unwrap_or(&empty), new);
    for manager in &mut managers {
        manager.set.subtract(&changed);
        manager.set.retain_existing(schema, new);
    }
    if !changed.is_empty() {
        let own = find(&mut managers, writer, "Update");
        own.set.union(&changed);
        own.time = now();
        writer.api_version.clone_into(&mut own.api_version);
    }
    write(new, managers);
}

/// Merges `config` into `live`. The error lists each conflict with its owner.
pub fn apply(
    schema: &Schema,
    live: Option<&Value>,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApiError> {
    let empty = json!({"apiVersion": config["apiVersion"], "kind": config["kind"], "metadata": config["metadata"]});
    let before = live.unwrap_or(&empty);
    let mut managers = live.map(read).unwrap_or_default();
    let wanted = FieldSet::of(schema, config);
    let own_before = find(&mut managers, writer, "Apply").set.clone();
    let is_own =
        |m: &Manager| m.name == writer.manager && m.operation == "Apply" && m.subresource == writer.subresource;

    let differs = if live.is_some() { FieldSet::differing(schema, before, config) } else { FieldSet::default() };
    let mut conflicts = Vec::new();
    for manager in managers.iter_mut().filter(|m| !is_own(m)) {
        let mut taken = manager.set.clone();
        taken.intersect(&differs);
        if taken.is_empty() {
            continue;
        }
        if force {
            manager.set.subtract(&taken);
        } else {
            conflicts
                .extend(taken.paths().into_iter().map(|path| (manager.name.clone(), manager.operation.clone(), path)));
        }
    }
    if !conflicts.is_empty() {
        return Err(conflict_error(&conflicts));
    }
    let mut merged = before.clone();
    merge::merge(schema, &mut merged, config);
    let mut dropped = own_before;
    dropped.subtract(&wanted);
    for manager in managers.iter().filter(|m| !is_own(m)) {
        dropped.subtract(&manager.set);
    }
    merge::remove(schema, &mut merged, &dropped);

    let own = find(&mut managers, writer, "Apply");
    if own.set != wanted {
        own.time = now();
        own.set = wanted;
    }
    writer.api_version.clone_into(&mut own.api_version);
    for manager in &mut managers {
        manager.set.retain_existing(schema, &merged);
    }
    write(&mut merged, managers);
    Ok(merged)
}

fn conflict_error(conflicts: &[(String, String, String)]) -> ApiError {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|(manager, operation, path)| {
            let using = if operation == "Apply" { "" } else { " using v1" };
            json!({"reason": "FieldManagerConflict", "message": format!("conflict with \"{manager}\"{using}"), "field": path})
        })
        .collect();
    let mut owners: Vec<&str> = conflicts.iter().map(|(manager, _, _)| manager.as_str()).collect();
    owners.sort_unstable();
    owners.dedup();
    let lines: Vec<String> = owners
        .iter()
        .map(|owner| {
            let paths: Vec<String> =
                conflicts.iter().filter(|(m, _, _)| m == owner).map(|(_, _, path)| path.clone()).collect();
            match paths.as_slice() {
                [one] => format!("conflict with \"{owner}\": {one}"),
                many => format!("conflicts with \"{owner}\":\n- {}", many.join("\n- ")),
            }
        })
        .collect();
    let plural = if conflicts.len() == 1 { "conflict" } else { "conflicts" };
    let message = format!("Apply failed with {} {plural}: {}", conflicts.len(), lines.join("\n"));
    let mut error = ApiError::new(409, "Conflict", message);
    error.details = Some(json!({"causes": causes}));
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::types;

    fn schema() -> &'static Schema {
        types::named("apps.v1.Deployment")
    }

    fn config(replicas: i64, images: &[(&str, &str)]) -> Value {
        let containers: Vec<Value> = images.iter().map(|(name, image)| json!({"name": name, "image": image})).collect();
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "1"}},
            "spec": {"replicas": replicas, "template": {"spec": {"containers": containers}}}})
    }

    fn by(manager: &str) -> Writer<'_> {
        Writer { manager, api_version: "apps/v1", subresource: "" }
    }

    #[test]
    fn conflict_force_and_shared_ownership() {
        let live = apply(schema(), None, &config(1, &[("c", "x")]), &by("one"), false).expect("nobody else");
        // The same value is shared, another one is refused.
        let live = apply(schema(), Some(&live), &config(1, &[("c", "x")]), &by("two"), false).expect("same values");
        let refused =
            apply(schema(), Some(&live), &config(2, &[("c", "x")]), &by("two"), false).expect_err("a conflict");
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (409, "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas")
        );
        let forced = apply(schema(), Some(&live), &config(2, &[("c", "x")]), &by("two"), true).expect("forced");
        assert_eq!(forced["spec"]["replicas"], 2);
        let taken = apply(schema(), Some(&forced), &config(1, &[("c", "x")]), &by("one"), false);
        assert!(taken.is_err(), "the first manager lost the field");
    }

    #[test]
    fn what_is_no_longer_applied_goes() {
        let live = apply(schema(), None, &config(1, &[("a", "x"), ("b", "x")]), &by("one"), false).expect("new");
        let live = apply(schema(), Some(&live), &config(1, &[("b", "x")]), &by("one"), false).expect("own");
        assert_eq!(live["spec"]["template"]["spec"]["containers"], json!([{"name": "b", "image": "x"}]));
        let mut without_labels = config(1, &[("b", "x")]);
        without_labels["metadata"] = json!({"name": "d"});
        let live = apply(schema(), Some(&live), &without_labels, &by("one"), false).expect("own");
        assert_eq!(live["metadata"].get("labels"), None);
    }

    #[test]
    fn an_update_takes_what_it_changes() {
        let live = apply(schema(), None, &config(1, &[("c", "x")]), &by("one"), false).expect("new");
        let mut new = live.clone();
        new["spec"]["replicas"] = 5.into();
        record_update(schema(), Some(&live), &mut new, &by("scaler"));
        let refused =
            apply(schema(), Some(&new), &config(1, &[("c", "x")]), &by("one"), false).expect_err("scaler owns it");
        assert!(refused.message.contains("scaler"), "{}", refused.message);
        let fields = new["metadata"]["managedFields"].as_array().map(Vec::len);
        assert_eq!(fields, Some(2));
    }
}
