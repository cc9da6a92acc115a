//! Reading the protobuf that Kubernetes' own typed clients send (kubectl does when it creates things without a file).
//!
//! Field numbers stand in `schema/types.txt`. Answers are JSON always: those clients accept it. The encoder on the other
//! side writes unset strings as empty ones, so an empty string is read as absent.

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::schema::{Scalar, Schema, Shape, types};

const MAGIC: &[u8] = b"k8s\0";
/// Deeper than any built-in type.
const MAX_DEPTH: usize = 64;

/// The object in a body; `None` when it is not well formed. Without a type in the body, it is `fallback`.
pub fn decode(bytes: &[u8], fallback: Option<&str>) -> Option<Value> {
    let envelope = Fields(bytes.strip_prefix(MAGIC)?);
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &b""[..]);
    for field in envelope {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for part in Fields(meta) {
                    match part? {
                        (1, Wire::Bytes(text)) => api_version = String::from_utf8(text.to_vec()).ok()?,
                        (2, Wire::Bytes(text)) => kind = String::from_utf8(text.to_vec()).ok()?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(inner)) => raw = inner,
            _ => {}
        }
    }
    let schema = type_of(&api_version, &kind).or_else(|| types::all().get(fallback?))?;
    let mut value = message(schema, raw, 0)?;
    if !kind.is_empty() {
        value["apiVersion"] = api_version.into();
        value["kind"] = kind.into();
    }
    Some(value)
}

fn type_of(api_version: &str, kind: &str) -> Option<&'static Schema> {
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let room = group.split('.').next().unwrap_or_default();
    let found = [format!("{room}.{version}.{kind}"), format!("meta.v1.{kind}")];
    found.iter().find_map(|name| types::all().get(name))
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    /// `None` inside: malformed.
    type Item = Option<(u32, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut read = || {
            let tag = self.varint()?;
            let size = match tag & 7 {
                0 => return Some((u32::try_from(tag >> 3).ok()?, Wire::Number(self.varint()?))),
                1 => 8,
                2 => usize::try_from(self.varint()?).ok()?,
                5 => 4,
                _ => return None,
            };
            let (bytes, rest) = self.0.split_at_checked(size)?;
            self.0 = rest;
            Some((u32::try_from(tag >> 3).ok()?, Wire::Bytes(bytes)))
        };
        let read = read();
        if read.is_none() {
            self.0 = &[];
        }
        Some(read)
    }
}

fn message(schema: &Schema, bytes: &[u8], depth: usize) -> Option<Value> {
    let mut fields = Map::new();
    fill(schema, bytes, &mut Vec::new(), &mut fields, depth)?;
    Some(Value::Object(fields))
}

/// Fields of a message, and of messages that are embedded without a name.
fn fill(
    schema: &Schema,
    bytes: &[u8],
    prefix: &mut Vec<u32>,
    fields: &mut Map<String, Value>,
    depth: usize,
) -> Option<()> {
    let Shape::Struct(owner) = &schema.resolve().shape else { return Some(()) };
    if depth > MAX_DEPTH {
        return None;
    }
    for field in Fields(bytes) {
        let (number, wire) = field?;
        prefix.push(number);
        if let Some(name) = owner.numbers.get(prefix.as_slice()) {
            if let Some(inner) = owner.fields.get(name) {
                put(inner, name, &wire, fields, depth + 1)?;
            }
        } else if let Wire::Bytes(inner) = wire
            && owner.numbers.keys().any(|path| path.len() > prefix.len() && path.starts_with(prefix))
        {
            fill(schema, inner, prefix, fields, depth + 1)?;
        }
        prefix.pop();
    }
    Some(())
}

fn put(schema: &Schema, name: &str, wire: &Wire<'_>, fields: &mut Map<String, Value>, depth: usize) -> Option<()> {
    match (&schema.resolve().shape, wire) {
        (Shape::List { item, .. }, Wire::Bytes(_) | Wire::Number(_)) => {
            let entry = single(item, wire, depth)?;
            let list = fields.entry(name.to_owned()).or_insert_with(|| json!([]));
            list.as_array_mut()?.push(entry);
        }
        (Shape::Map(inner), Wire::Bytes(pair)) => {
            let (mut key, mut value) = (String::new(), None);
            for part in Fields(pair) {
                match part? {
                    (1, Wire::Bytes(text)) => key = String::from_utf8(text.to_vec()).ok()?,
                    (2, wire) => value = Some(single(inner, &wire, depth)?),
                    _ => {}
                }
            }
            let map = fields.entry(name.to_owned()).or_insert_with(|| json!({}));
            map.as_object_mut()?.insert(key, value.unwrap_or_else(|| "".into()));
        }
        (_, wire) => {
            let value = single(schema, wire, depth)?;
            let unset = value.is_null() || value == "" || (name == "generation" && value == 0);
            if !unset {
                fields.insert(name.to_owned(), value);
            }
        }
    }
    Some(())
}

fn single(schema: &Schema, wire: &Wire<'_>, depth: usize) -> Option<Value> {
    Some(match (&schema.resolve().shape, wire) {
        (Shape::Scalar(Scalar::Bool), Wire::Number(n)) => (*n != 0).into(),
        (Shape::Scalar(_), Wire::Number(n)) => n.cast_signed().into(),
        (Shape::Scalar(Scalar::Number), Wire::Bytes(b)) => f64::from_le_bytes((*b).try_into().ok()?).into(),
        (Shape::Scalar(Scalar::String), Wire::Bytes(b)) => String::from_utf8(b.to_vec()).ok()?.into(),
        (Shape::Scalar(Scalar::Bytes), Wire::Bytes(b)) => base64::engine::general_purpose::STANDARD.encode(b).into(),
        (Shape::Scalar(Scalar::Time), Wire::Bytes(b)) => time(b)?,
        (Shape::Scalar(Scalar::Quantity), Wire::Bytes(b)) => text_in(b, 1)?,
        (Shape::Scalar(Scalar::IntOrString), Wire::Bytes(b)) => int_or_string(b)?,
        // Raw JSON in its first field.
        (Shape::Any, Wire::Bytes(b)) => {
            let text = text_in(b, 1)?;
            serde_json::from_str(text.as_str().unwrap_or_default()).unwrap_or(Value::Null)
        }
        (Shape::Struct(_), Wire::Bytes(b)) => message(schema, b, depth)?,
        _ => return None,
    })
}

fn text_in(bytes: &[u8], wanted: u32) -> Option<Value> {
    for field in Fields(bytes) {
        if let (number, Wire::Bytes(text)) = field?
            && number == wanted
        {
            return Some(String::from_utf8(text.to_vec()).ok()?.into());
        }
    }
    Some(Value::Null)
}

/// An empty message is the zero time, which is "not set".
fn time(bytes: &[u8]) -> Option<Value> {
    let (mut seconds, mut nanoseconds) = (0_i64, 0_i64);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Number(n)) => seconds = n.cast_signed(),
            (2, Wire::Number(n)) => nanoseconds = n.cast_signed(),
            _ => {}
        }
    }
    if seconds <= 0 {
        return Some(Value::Null);
    }
    Some(Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()?.to_string().into())
}

fn int_or_string(bytes: &[u8]) -> Option<Value> {
    let (mut is_text, mut number) = (false, 0_i64);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Number(n)) => is_text = n == 1,
            (2, Wire::Number(n)) => number = n.cast_signed(),
            _ => {}
        }
    }
    if is_text { text_in(bytes, 3) } else { Some(number.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(number: u8, inner: &[u8]) -> Vec<u8> {
        let mut all = vec![number << 3 | 2, u8::try_from(inner.len()).expect("short")];
        all.extend_from_slice(inner);
        all
    }

    #[test]
    fn an_envelope_with_a_config_map() {
        let meta = [bytes(1, b"v1"), bytes(2, b"ConfigMap")].concat();
        let object = [
            bytes(1, &[bytes(1, b"a"), bytes(3, b"")].concat()),
            bytes(2, &[bytes(1, b"key"), bytes(2, b"value")].concat()),
        ]
        .concat();
        let body = [MAGIC.to_vec(), bytes(1, &meta), bytes(2, &object)].concat();
        let expected =
            json!({"metadata": {"name": "a"}, "data": {"key": "value"}, "apiVersion": "v1", "kind": "ConfigMap"});
        assert_eq!(decode(&body, None), Some(expected));
    }

    #[test]
    fn broken_bytes_are_refused() {
        for body in [&b"k8s"[..], b"k8s\0\x0a\xff", b"k8s\0\x12\x02\x0a\x7f", b"{}"] {
            assert_eq!(decode(body, Some("core.v1.Pod")), None);
        }
    }
}
