//! The small JSONPath that printer columns use: `.a.b`, `['a/b']`, `[0]`, `[*]`, `[?(@.type=="Ready")]`.

use serde_json::Value;

/// All values that the path finds.
pub fn find<'a>(root: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![root];
    let mut rest = path.trim().trim_start_matches('$');
    while !rest.is_empty() {
        let (step, tail) = next_step(rest);
        found = found.into_iter().flat_map(|value| take(value, &step)).collect();
        rest = tail;
    }
    found
}

pub fn first<'a>(root: &'a Value, path: &str) -> Option<&'a Value> {
    find(root, path).into_iter().next()
}

enum Step<'p> {
    Name(String),
    Index(i64),
    All,
    /// Entries whose value at the path equals the text (or, without a text, that have the path).
    Filter {
        path: &'p str,
        equals: Option<&'p str>,
        negate: bool,
    },
}

fn next_step(path: &str) -> (Step<'_>, &str) {
    if let Some(inner) = path.strip_prefix('[') {
        let end = closing_bracket(inner);
        let (body, tail) = (&inner[..end], inner.get(end + 1..).unwrap_or(""));
        return (bracket(body.trim()), tail);
    }
    let path = path.trim_start_matches('.');
    let mut name = String::new();
    let mut chars = path.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, escaped)| escaped)),
            '.' | '[' => return (name_step(name), &path[i..]),
            c => name.push(c),
        }
    }
    (name_step(name), "")
}

fn name_step<'p>(name: String) -> Step<'p> {
    if name == "*" { Step::All } else { Step::Name(name) }
}

fn closing_bracket(text: &str) -> usize {
    let (mut depth, mut quote) = (0, None);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return i,
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

fn unquote(text: &str) -> &str {
    text.trim().trim_matches(['\'', '"'])
}

fn bracket(body: &str) -> Step<'_> {
    if body == "*" {
        return Step::All;
    }
    if let Some(filter) = body.strip_prefix("?(") {
        let filter = filter.trim_end_matches(')').trim().trim_start_matches('@');
        if let Some((path, value)) = filter.split_once("!=") {
            return Step::Filter { path: path.trim(), equals: Some(unquote(value)), negate: true };
        }
        return match filter.split_once("==") {
            Some((path, value)) => Step::Filter { path: path.trim(), equals: Some(unquote(value)), negate: false },
            None => Step::Filter { path: filter, equals: None, negate: false },
        };
    }
    match body.parse() {
        Ok(index) => Step::Index(index),
        Err(_) => Step::Name(unquote(body).to_owned()),
    }
}

fn take<'a>(value: &'a Value, step: &Step<'_>) -> Vec<&'a Value> {
    match (step, value) {
        (Step::Name(name), Value::Object(fields)) => fields.get(name).into_iter().collect(),
        (Step::Index(index), Value::Array(items)) => {
            let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
            let at = if *index < 0 { length + index } else { *index };
            usize::try_from(at).ok().and_then(|at| items.get(at)).into_iter().collect()
        }
        (Step::All, Value::Array(items)) => items.iter().collect(),
        (Step::All, Value::Object(fields)) => fields.values().collect(),
        (Step::Filter { path, equals, negate }, Value::Array(items)) => items
            .iter()
            .filter(|item| {
                let at = first(item, path);
                match equals {
                    None => at.is_some(),
                    Some(text) => at.is_some_and(|v| shown(v) == *text) != *negate,
                }
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// A value as a table cell shows it.
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths() {
        let value = json!({
            "metadata": {"labels": {"a/b.c": "x"}},
            "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]},
            "items": [1, 2, 3],
        });
        for (path, expected) in [
            (".metadata.labels['a/b.c']", vec!["x"]),
            (".metadata.labels.a/b\\.c", vec!["x"]),
            (".status.conditions[?(@.type==\"Ready\")].status", vec!["True"]),
            (".status.conditions[?(@.type=='None')].status", vec![]),
            (".status.conditions[*].type", vec!["A", "Ready"]),
            (".items[-1]", vec!["3"]),
            (".items[0]", vec!["1"]),
            (".missing.deep[0]", vec![]),
        ] {
            let found: Vec<String> = find(&value, path).into_iter().map(shown).collect();
            assert_eq!(found, expected, "{path}");
        }
    }
}
