//! Events: what `kubectl describe` shows below an object.

use serde_json::{Value, json};

use crate::api::{Api, WriteOptions, key_of, random_suffix};

/// What to say of an object.
pub(super) struct Note<'a> {
    pub(super) component: &'a str,
    /// `Normal` or `Warning`.
    pub(super) kind: &'a str,
    pub(super) reason: &'a str,
    pub(super) message: &'a str,
}

/// Records an event; a failure to do so is no failure of the work.
pub(super) fn record(api: &Api, object: &Value, note: &Note<'_>) {
    let key = key_of(object);
    let namespace = if key.namespace.is_empty() { "default" } else { &key.namespace };
    let now = crate::apply::now();
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": format!("{}.{}", key.name, random_suffix(10)), "namespace": namespace},
        "involvedObject": {
            "apiVersion": object["apiVersion"], "kind": object["kind"], "name": key.name, "namespace": key.namespace,
            "uid": object["metadata"]["uid"], "resourceVersion": object["metadata"]["resourceVersion"],
        },
        "type": note.kind, "reason": note.reason, "message": note.message, "count": 1,
        "firstTimestamp": now, "lastTimestamp": now,
        "source": {"component": note.component}, "reportingComponent": note.component, "reportingInstance": "",
    });
    let events = api.registry.builtin("", "events");
    if let Err(error) = api.create(&events, namespace, event, &WriteOptions::by(note.component)) {
        tracing::debug!(?key, %error, "event not recorded");
    }
}
