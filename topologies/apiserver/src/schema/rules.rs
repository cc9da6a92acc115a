//! `x-kubernetes-validations`: rules in CEL over `self` (and `oldSelf`, for rules about a change).
//!
//! The language itself is evaluated; of Kubernetes' own libraries (URLs, quantities, addresses) nothing is. A rule that
//! needs one is passed over, with a log line, rather than refusing what it might allow.

use std::sync::Arc;

use cel::{Context, ExecutionError, Program};
use serde_json::Value;

use super::check::{FieldError, type_name};

#[derive(Clone)]
pub struct Rule {
    text: String,
    message: Option<String>,
    program: Arc<Program>,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rule").field("text", &self.text).finish_non_exhaustive()
    }
}

impl Rule {
    pub(super) fn parse(json: &Value) -> Result<Self, String> {
        let text = json["rule"].as_str().unwrap_or_default().trim().to_owned();
        if text.is_empty() {
            return Err("Required value: rule is not specified".to_owned());
        }
        let program =
            Program::compile(&text).map_err(|e| format!("Invalid value: \"{text}\": compilation failed: {e}"))?;
        Ok(Self { message: json["message"].as_str().map(str::to_owned), program: Arc::new(program), text })
    }

    /// What the rule has against the value, which replaces `old`.
    pub(super) fn check(&self, value: &Value, old: Option<&Value>, path: &str) -> Option<FieldError> {
        let mut context = Context::default();
        context.add_variable("self", value).ok()?;
        if self.text.contains("oldSelf") {
            context.add_variable("oldSelf", old?).ok()?;
        }
        let refuse = |why: String| {
            let shown = if value.is_object() || value.is_array() { type_name(value).into() } else { value.clone() };
            Some(FieldError::invalid(path, shown, why))
        };
        match self.program.execute(&context) {
            Ok(cel::Value::Bool(true)) => None,
            Ok(cel::Value::Bool(false)) => {
                refuse(self.message.clone().unwrap_or_else(|| format!("failed rule: {}", self.text)))
            }
            Err(ExecutionError::NoSuchKey(key)) => refuse(format!("rule `{}`: no such key: {key}", self.text)),
            other => {
                tracing::debug!(rule = self.text, path, ?other, "rule passed over");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(text: &str) -> Rule {
        Rule::parse(&json!({"rule": text, "message": "no"})).expect("it parses")
    }

    #[test]
    fn common_forms() {
        let value = json!({"mode": "a", "low": 3, "high": 9, "names": ["x", "y"], "text": "abc"});
        for (text, holds) in [
            ("has(self.mode) && !has(self.gone)", true),
            ("self.mode != 'a' || has(self.gone)", false),
            ("self.low <= self.high", true),
            ("self.names.all(n, n != 'z') && size(self.names) == 2", true),
            ("self.text.startsWith('ab') && self.text.matches('^[a-c]+$')", true),
            ("'z' in self.names", false),
            ("self.gone > 1", false),
            ("quantity(self.text).isGreaterThan(quantity('1'))", true),
        ] {
            assert_eq!(rule(text).check(&value, None, "spec").is_none(), holds, "{text}");
        }
        let found = rule("self.low > 5").check(&value, None, "spec").expect("it is refused");
        assert_eq!(found.to_string(), "spec: Invalid value: \"object\": no");
    }

    #[test]
    fn rules_about_a_change() {
        let fixed = rule("self == oldSelf");
        assert!(fixed.check(&json!("a"), None, "spec.x").is_none(), "nothing changes on creation");
        assert!(fixed.check(&json!("a"), Some(&json!("a")), "spec.x").is_none());
        assert!(fixed.check(&json!("b"), Some(&json!("a")), "spec.x").is_some());
    }

    #[test]
    fn nonsense_is_refused_with_its_text() {
        let why = Rule::parse(&json!({"rule": "self.a =="})).expect_err("it does not parse");
        assert!(why.contains("self.a =="), "{why}");
    }
}
