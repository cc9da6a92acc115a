//! Prefixes in JSON (Cilium `pkg/node/types.Prefix`): written as Go's `net.IPNet` object, `{"IP": text, "Mask": base64}`,
//! since readers before 1.20 know no other; read in that form, as `"10.1.0.0/24"` (written from 1.22 on) and as `null`.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use serde::de::Error as _;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::json::parse_ip;

/// `null` when there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Prefix(pub(crate) Option<IpNet>);

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(net) = self.0.map(|net| net.trunc()) else { return serializer.serialize_none() };
        let mut object = serializer.serialize_struct("Prefix", 2)?;
        object.serialize_field("IP", &net.addr())?;
        object.serialize_field("Mask", &mask_text(net))?;
        object.end()
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Prefix, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Object {
                #[serde(rename = "IP")]
                ip: String,
                #[serde(rename = "Mask")]
                mask: String,
            },
        }
        let net = match Option::<Form>::deserialize(deserializer)? {
            None => return Ok(Prefix(None)),
            Some(Form::Text(text)) => text.parse::<IpNet>().map_err(|_| format!("{text:?} is no prefix")),
            Some(Form::Object { ip, mask }) => parse_ip(&ip).and_then(|ip| with_mask(ip, &mask)),
        };
        net.map(|net| Prefix(Some(net.trunc()))).map_err(D::Error::custom)
    }
}

/// Base64 of the mask's 4 or 16 bytes.
pub(crate) fn mask_text(net: IpNet) -> String {
    match net {
        IpNet::V4(net) => STANDARD.encode(net.netmask().octets()),
        IpNet::V6(net) => STANDARD.encode(net.netmask().octets()),
    }
}

/// The prefix of an address and a mask, which must be as long as the address and without gaps.
pub(crate) fn with_mask(ip: IpAddr, mask: &str) -> Result<IpNet, String> {
    let bad = || format!("{mask:?} is no mask for {ip}");
    let bytes = STANDARD.decode(mask).map_err(|_| bad())?;
    let mask: IpAddr = match (ip, bytes.len()) {
        (IpAddr::V4(_), 4) => <[u8; 4]>::try_from(bytes).map_err(|_| bad())?.into(),
        (IpAddr::V6(_), 16) => <[u8; 16]>::try_from(bytes).map_err(|_| bad())?.into(),
        _ => return Err(bad()),
    };
    IpNet::with_netmask(ip, mask).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let read = |text: &str| serde_json::from_str::<Prefix>(text).map(|p| p.0.map(|net| net.to_string()));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read("null").unwrap(), None);
        assert_eq!(read(r#"{"IP":"10.1.2.0","Mask":"////AA=="}"#).unwrap(), some("10.1.2.0/24"));
        assert_eq!(read(r#"{"IP":"10.1.2.9","Mask":"////AA=="}"#).unwrap(), some("10.1.2.0/24"));
        assert_eq!(read(r#"{"IP":"::ffff:10.1.2.0","Mask":"////AA=="}"#).unwrap(), some("10.1.2.0/24"));
        assert_eq!(read(r#"{"IP":"fd00::","Mask":"//////////8AAAAAAAAAAA=="}"#).unwrap(), some("fd00::/64"));
        assert_eq!(read(r#""10.1.2.3/24""#).unwrap(), some("10.1.2.0/24"));
        for bad in [
            r#""10.1.2.3""#,
            r#""10.1.2.3/33""#,
            "7",
            "{}",
            r#"{"IP":"10.1.2.0"}"#,
            r#"{"IP":"","Mask":"////AA=="}"#,
            r#"{"IP":"10.1.2.0","Mask":"/wD/AA=="}"#,
            r#"{"IP":"10.1.2.0","Mask":"//////////8AAAAAAAAAAA=="}"#,
            r#"{"IP":"fd00::","Mask":"////AA=="}"#,
            r#"{"IP":"10.1.2.0","Mask":"!"}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
