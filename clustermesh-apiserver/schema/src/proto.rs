//! The protobuf and zstd side of `endpointslices/v1`: messages as Cilium's `generated.proto` numbers their fields
//! (endpoints and ports as Kubernetes' `discovery/v1`), and the frame around them.
//!
//! Kubernetes' generator writes fields that are no pointers in Go even when they are empty. So does this, for equal
//! bytes; a reader cannot tell the difference.

use std::io::Read;

use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Most bytes that a value may unpack to (Cilium `maxDecodeSize`).
const MAX_UNPACKED: usize = 16 << 20;
/// Largest window that a frame may ask for, as a power of two: the same 16 MiB.
const MAX_WINDOW_LOG: u32 = 24;
/// Most fields of a slice. Kubernetes allows 1,000 endpoints and 20,000 ports; the rest are labels and annotations.
const MAX_FIELDS: usize = 32_768;
/// Most fields of one endpoint, and of its hints. Kubernetes allows 100 addresses and 8 zones.
const MAX_INNER_FIELDS: usize = 256;
/// `endpoints` in a slice, `hints` in an endpoint.
const MESSAGES: [u32; 2] = [8, 8];

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SliceMessage {
    #[prost(string, optional, tag = "1")]
    pub(crate) cluster: Option<String>,
    #[prost(uint32, optional, tag = "2")]
    pub(crate) cluster_id: Option<u32>,
    #[prost(string, optional, tag = "3")]
    pub(crate) namespace: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(crate) name: Option<String>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) labels: Vec<Entry>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) annotations: Vec<Entry>,
    #[prost(string, optional, tag = "7")]
    pub(crate) address_type: Option<String>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) endpoints: Vec<EndpointMessage>,
    #[prost(message, repeated, tag = "9")]
    pub(crate) ports: Vec<PortMessage>,
}

/// One pair of a `map<string, string>`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Entry {
    #[prost(string, optional, tag = "1")]
    pub(crate) key: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) value: Option<String>,
}

/// 4 is `targetRef` and 5 `deprecatedTopology`, which Cilium does not keep or nobody writes any more.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EndpointMessage {
    #[prost(string, repeated, tag = "1")]
    pub(crate) addresses: Vec<String>,
    #[prost(message, optional, tag = "2")]
    pub(crate) conditions: Option<ConditionsMessage>,
    #[prost(string, optional, tag = "3")]
    pub(crate) hostname: Option<String>,
    #[prost(string, optional, tag = "6")]
    pub(crate) node_name: Option<String>,
    #[prost(string, optional, tag = "7")]
    pub(crate) zone: Option<String>,
    #[prost(message, optional, tag = "8")]
    pub(crate) hints: Option<HintsMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ConditionsMessage {
    #[prost(bool, optional, tag = "1")]
    pub(crate) ready: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    pub(crate) serving: Option<bool>,
    #[prost(bool, optional, tag = "3")]
    pub(crate) terminating: Option<bool>,
}

/// `forNodes` is Kubernetes' from 1.33 on; Cilium skips it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct HintsMessage {
    #[prost(message, repeated, tag = "1")]
    pub(crate) for_zones: Vec<NameMessage>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) for_nodes: Vec<NameMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NameMessage {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
}

/// `appProtocol` is Kubernetes'; Cilium skips it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PortMessage {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) protocol: Option<String>,
    #[prost(int32, optional, tag = "3")]
    pub(crate) port: Option<i32>,
    #[prost(string, optional, tag = "4")]
    pub(crate) app_protocol: Option<String>,
}

/// One frame that says its size.
pub(crate) fn pack(message: &SliceMessage) -> Vec<u8> {
    let raw = message.encode_to_vec();
    zstd::bulk::compress(&raw, zstd::DEFAULT_COMPRESSION_LEVEL)
        .expect("compression into memory takes every input at this level")
}

/// # Errors
/// A text that says what is wrong: not zstd, too large, not the message.
pub(crate) fn unpack(bytes: &[u8]) -> Result<SliceMessage, String> {
    let raw = unframe(bytes).map_err(|error| format!("no zstd frame: {error}"))?;
    if raw.len() > MAX_UNPACKED {
        return Err(format!("unpacks to more than {MAX_UNPACKED} bytes"));
    }
    bounded(&raw, &MESSAGES, MAX_FIELDS)?;
    SliceMessage::decode(raw.as_slice()).map_err(|error| error.to_string())
}

/// At most one byte more than is allowed.
fn unframe(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes)?;
    decoder.window_log_max(MAX_WINDOW_LOG)?;
    let mut raw = Vec::new();
    decoder.take(MAX_UNPACKED as u64 + 1).read_to_end(&mut raw)?;
    Ok(raw)
}

/// Counts fields before they are decoded: two bytes on the wire can become two hundred in memory. `messages` names the
/// field that is looked into, a level each.
fn bounded(mut raw: &[u8], messages: &[u32], most: usize) -> Result<(), String> {
    let mut fields = 0;
    while !raw.is_empty() {
        let (tag, wire) = decode_key(&mut raw).map_err(|error| error.to_string())?;
        fields += 1;
        if fields > most {
            return Err(format!("has more than {most} fields in one message"));
        }
        match messages.split_first() {
            Some((&message, deeper)) if tag == message && wire == WireType::LengthDelimited => {
                let length = decode_varint(&mut raw).map_err(|error| error.to_string())?;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let (inner, rest) = raw.split_at_checked(length).ok_or("ends in the middle of a message")?;
                bounded(inner, deeper, MAX_INNER_FIELDS)?;
                raw = rest;
            }
            _ => skip_field(wire, tag, &mut raw, DecodeContext::default()).map_err(|error| error.to_string())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bombs_are_refused() {
        let zeros = zstd::bulk::compress(&vec![0; MAX_UNPACKED + 1], 1).unwrap();
        assert!(zeros.len() < 10_000);
        assert!(unpack(&zeros).unwrap_err().contains("more than 16777216 bytes"));
        let many = |field: &[u8]| zstd::bulk::compress(&field.repeat(40_000), 1).unwrap();
        assert!(unpack(&many(&[8 << 3 | 2, 0])).unwrap_err().contains("32768 fields"));
        let addresses = EndpointMessage { addresses: vec![String::new(); 300], ..EndpointMessage::default() };
        let slice = SliceMessage { endpoints: vec![addresses], ..SliceMessage::default() };
        assert!(unpack(&pack(&slice)).unwrap_err().contains("256 fields"));
        let names = vec![NameMessage::default(); 300];
        let hints = Some(HintsMessage { for_zones: names, for_nodes: Vec::new() });
        let endpoint = EndpointMessage { hints, ..EndpointMessage::default() };
        let slice = SliceMessage { endpoints: vec![endpoint], ..SliceMessage::default() };
        assert!(unpack(&pack(&slice)).unwrap_err().contains("256 fields"));
    }

    #[test]
    fn garbage_is_refused() {
        assert!(unpack(b"").is_err() || unpack(b"").unwrap() == SliceMessage::default());
        for bad in [&b"garbage"[..], &[0x28, 0xb5, 0x2f, 0xfd]] {
            assert!(unpack(bad).is_err(), "{bad:?}");
        }
        for raw in [&[0x42, 0x7f][..], &[0x0a, 0x02, 0xff, 0xfe], &[0xff; 12], &[0x42, 0x02, 0x42, 0x7f]] {
            assert!(unpack(&zstd::bulk::compress(raw, 1).unwrap()).is_err(), "{raw:?}");
        }
    }
}
