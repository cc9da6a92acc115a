//! Events have two API groups and one storage: fields of the newer group and of the older one, side by side.

use serde_json::{Map, Value};

/// (core, events.k8s.io)
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Rewrites the fields for the group in which the event is to be seen.
pub fn convert(event: &mut Value, group: &str) {
    let Some(fields) = event.as_object_mut() else { return };
    let mut renamed = Map::new();
    for (name, value) in std::mem::take(fields) {
        let other = RENAMED.iter().find_map(|(core, newer)| match group {
            "" if *newer == name => Some(*core),
            "" => None,
            _ if *core == name => Some(*newer),
            _ => None,
        });
        renamed.insert(other.map_or(name, str::to_owned), value);
    }
    *fields = renamed;
}
