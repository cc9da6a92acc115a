//! JSON as Go's `encoding/json` writes it, and the leniency with which Go reads it. Not a format of its own: the kinds
//! say what stands in it.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use serde::de::{DeserializeOwned, Error as _};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::ser::{CompactFormatter, Formatter};

use crate::Invalid;

/// Compact, with the characters that Go escapes for HTML escaped likewise, so that a value is the same bytes from both
/// writers.
pub(crate) fn encode(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, GoFormatter);
    value.serialize(&mut serializer).expect("texts and numbers can be written, and memory takes every byte");
    bytes
}

/// `what` names the entry in errors.
pub(crate) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Invalid> {
    serde_json::from_slice(bytes).map_err(|error| Invalid::new(what, error, Invalid::WRITER))
}

/// `null` and an absent field leave Go's zero value behind.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A map whose keys Go sorts as texts, which is not the order of addresses.
pub(crate) fn by_text<S: Serializer, V: Serialize>(
    map: &BTreeMap<IpAddr, V>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let sorted: BTreeMap<String, &V> = map.iter().map(|(ip, value)| (ip.to_string(), value)).collect();
    let mut out = serializer.serialize_map(Some(sorted.len()))?;
    for (ip, value) in sorted {
        out.serialize_entry(&ip, value)?;
    }
    out.end()
}

/// An empty map is `null`, as a nil map of Go is.
pub(crate) fn map_or_null<S: Serializer>(map: &BTreeMap<String, String>, serializer: S) -> Result<S::Ok, S::Error> {
    if map.is_empty() { serializer.serialize_none() } else { map.serialize(serializer) }
}

/// An empty list is `null`, as a nil slice of Go is.
pub(crate) fn list_or_null<S: Serializer, T: Serialize>(list: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    if list.is_empty() { serializer.serialize_none() } else { list.serialize(serializer) }
}

/// Go's `net.IP`: a text, `""` without one.
pub(crate) mod ip_text {
    use super::{Deserialize, Deserializer, IpAddr, Serializer};
    use serde::de::Error as _;

    pub(crate) fn serialize<S: Serializer>(ip: &Option<IpAddr>, serializer: S) -> Result<S::Ok, S::Error> {
        match ip {
            Some(ip) => serializer.collect_str(ip),
            None => serializer.serialize_str(""),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
        match Option::<String>::deserialize(deserializer)?.as_deref() {
            None | Some("") => Ok(None),
            Some(text) => super::parse_ip(text).map(Some).map_err(D::Error::custom),
        }
    }
}

/// An address; a mapped IPv4 one becomes the IPv4 one that Go takes it for.
pub(crate) fn parse_ip(text: &str) -> Result<IpAddr, String> {
    text.parse::<IpAddr>().map(|ip| ip.to_canonical()).map_err(|_| format!("{text:?} is no IP address"))
}

/// The keys of a map as addresses; a zone (`%eth0`) is refused, as is an address that is named twice.
pub(crate) fn ip_map<'de, D, V>(deserializer: D) -> Result<BTreeMap<IpAddr, V>, D::Error>
where
    D: Deserializer<'de>,
    V: Deserialize<'de>,
{
    let texts = Option::<BTreeMap<String, V>>::deserialize(deserializer)?.unwrap_or_default();
    let mut out = BTreeMap::new();
    for (text, value) in texts {
        let ip = parse_ip(&text).map_err(D::Error::custom)?;
        if out.insert(ip, value).is_some() {
            return Err(D::Error::custom(format!("{ip} stands there twice")));
        }
    }
    Ok(out)
}

struct GoFormatter;

impl GoFormatter {
    fn escape(c: char) -> Option<&'static str> {
        match c {
            '<' => Some("\\u003c"),
            '>' => Some("\\u003e"),
            '&' => Some("\\u0026"),
            '\u{2028}' => Some("\\u2028"),
            '\u{2029}' => Some("\\u2029"),
            _ => None,
        }
    }
}

impl Formatter for GoFormatter {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut plain = 0;
        for (at, c) in fragment.char_indices() {
            let Some(escaped) = GoFormatter::escape(c) else { continue };
            CompactFormatter.write_string_fragment(writer, &fragment[plain..at])?;
            writer.write_all(escaped.as_bytes())?;
            plain = at + c.len_utf8();
        }
        CompactFormatter.write_string_fragment(writer, &fragment[plain..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_as_go_does() {
        let text = |s: &str| String::from_utf8(encode(&s)).unwrap();
        assert_eq!(text("a<b>&c\u{2028}\u{2029}é\"\\\n\u{1}"), r#""a\u003cb\u003e\u0026c\u2028\u2029é\"\\\n\u0001""#);
        assert_eq!(text(""), r#""""#);
    }
}
