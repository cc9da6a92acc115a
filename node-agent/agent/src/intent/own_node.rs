//! This node's own CiliumNode as Kubernetes has it, so that it is written again when somebody deletes or changes it.

use causeway_k8s::CiliumNode;
use serde_json::Value;

use super::{Key, Read, Rejected};

/// The object as JSON, with what the agent writes of it and perhaps more.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OwnNode(pub(crate) Value);

pub(crate) struct Reader;

impl Read<CiliumNode> for Reader {
    type Key = Key;
    type Row = OwnNode;

    fn read(&self, key: &Key, object: CiliumNode) -> Result<Option<(Key, OwnNode)>, Rejected> {
        // What we could write, serde can write.
        Ok(Some((key.clone(), OwnNode(serde_json::to_value(object).unwrap_or_default()))))
    }
}

/// Whether everything of `wanted` stands in `there`; a merge would change nothing. Nothing at all and an empty object
/// are the same.
pub(crate) fn contains(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| contains(there.get(key).unwrap_or(&Value::Null), value))
        }
        (Value::Null, Value::Object(wanted)) => wanted.values().all(|value| contains(&Value::Null, value)),
        (there, wanted) => there == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_merge_would_not_change_is_contained() {
        let there = json!({"spec": {"a": 1, "b": [1, 2], "more": true}, "status": {}});
        for wanted in
            [json!({}), json!({"spec": {"a": 1}}), json!({"spec": {"b": [1, 2], "empty": {}}}), json!({"x": null})]
        {
            assert!(contains(&there, &wanted), "{wanted}");
        }
        for wanted in
            [json!({"spec": {"a": 2}}), json!({"spec": {"b": [1]}}), json!({"spec": {"c": 1}}), json!({"y": 0})]
        {
            assert!(!contains(&there, &wanted), "{wanted}");
        }
        assert!(contains(&Value::Null, &json!({"a": {}})) && !contains(&Value::Null, &json!({"a": 1})));
    }
}
