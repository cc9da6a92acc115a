//! Conditions in an object's status: type, status, reason, message. Setting one that says the same again changes
//! nothing, so that an idle cluster sees no writes.

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
pub use k8s_openapi::jiff::Timestamp;

/// What a condition should say; the time of transition is added when it is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired<'a> {
    pub type_: &'a str,
    /// `True`, `False` or `Unknown`.
    pub status: Status,
    pub reason: &'a str,
    pub message: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    True,
    False,
    Unknown,
}

impl Status {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::True => "True",
            Status::False => "False",
            Status::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Status {
    fn from(value: bool) -> Status {
        if value { Status::True } else { Status::False }
    }
}

/// Puts `desired` into `conditions`; returns whether anything changed. The transition time moves only when the status
/// does, as Kubernetes' API conventions ask.
pub fn set(conditions: &mut Vec<Condition>, desired: &Desired<'_>, generation: Option<i64>, now: Timestamp) -> bool {
    let existing = conditions.iter_mut().find(|condition| condition.type_ == desired.type_);
    let Some(existing) = existing else {
        conditions.push(Condition {
            type_: desired.type_.to_owned(),
            status: desired.status.as_str().to_owned(),
            reason: desired.reason.to_owned(),
            message: desired.message.to_owned(),
            observed_generation: generation,
            last_transition_time: Time(now),
        });
        return true;
    };
    let same_status = existing.status == desired.status.as_str();
    if same_status
        && existing.reason == desired.reason
        && existing.message == desired.message
        && existing.observed_generation == generation
    {
        return false;
    }
    if !same_status {
        existing.status = desired.status.as_str().to_owned();
        existing.last_transition_time = Time(now);
    }
    existing.reason = desired.reason.to_owned();
    existing.message = desired.message.to_owned();
    existing.observed_generation = generation;
    true
}

/// Removes the condition of type `type_`; returns whether it was there.
pub fn remove(conditions: &mut Vec<Condition>, type_: &str) -> bool {
    let before = conditions.len();
    conditions.retain(|condition| condition.type_ != type_);
    conditions.len() != before
}

/// The condition of type `type_`.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Schema of a list of conditions, keyed by type (limits of Kubernetes' `metav1.Condition`).
pub(crate) fn conditions_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["lastTransitionTime", "message", "reason", "status", "type"],
            "properties": {
                "lastTransitionTime": { "type": "string", "format": "date-time" },
                "message": { "type": "string", "maxLength": 32768 },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
                "reason": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
                },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "type": {
                    "type": "string",
                    "maxLength": 316,
                    "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn saying_the_same_changes_nothing_and_time_moves_with_the_status_only() {
        let mut conditions = Vec::new();
        let mut desired = Desired { type_: "a/B", status: Status::True, reason: "r", message: "m" };
        assert!(set(&mut conditions, &desired, Some(1), at(1)));
        assert!(!set(&mut conditions, &desired, Some(1), at(2)));
        desired.message = "other";
        assert!(set(&mut conditions, &desired, Some(1), at(3)));
        assert_eq!(conditions[0].last_transition_time.0, at(1));
        desired.status = Status::False;
        assert!(set(&mut conditions, &desired, Some(1), at(4)));
        assert_eq!(conditions[0].last_transition_time.0, at(4));
        assert_eq!(conditions.len(), 1);
        assert!(remove(&mut conditions, "a/B"));
        assert!(!remove(&mut conditions, "a/B"));
    }
}
