//! Values of flags that Go's libraries read: times, listening addresses, options of the store.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// The options of `--kvstore-opt` that are known.
const OPTIONS: [&str; 7] = [
    "etcd.config",
    "etcd.address",
    "etcd.limit",
    "etcd.maxInflight",
    "etcd.qps",
    "etcd.bootstrapQps",
    "etcd.operation",
];

/// One `key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KvstoreOption {
    pub(crate) name: &'static str,
    pub(crate) value: String,
}

impl FromStr for KvstoreOption {
    type Err = String;

    fn from_str(text: &str) -> Result<KvstoreOption, String> {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is no KEY=VALUE"))?;
        match OPTIONS.iter().find(|known| **known == name) {
            Some(name) => Ok(KvstoreOption { name, value: value.to_owned() }),
            None => Err(format!("{name:?} is not known; there are {}", OPTIONS.join(", "))),
        }
    }
}

/// As Go writes them: `15m0s`, `1h30m`, `500ms`, `0`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no time; write numbers with ms, s, m or h, such as 15m or 1m30s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u32 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let length = match &rest[..unit] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(bad()),
        };
        total = length.checked_mul(number).and_then(|time| total.checked_add(time)).ok_or_else(bad)?;
        rest = &rest[unit..];
    }
    if text.is_empty() { Err(bad()) } else { Ok(total) }
}

/// `:9962` is every address of both families; `localhost` is the IPv4 one.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let with = |prefix: &str, host: IpAddr| {
        let port = text.strip_prefix(prefix).and_then(|port| port.parse().ok());
        port.map(|port| SocketAddr::from((host, port)))
    };
    with(":", Ipv6Addr::UNSPECIFIED.into())
        .or_else(|| with("localhost:", Ipv4Addr::LOCALHOST.into()))
        .or_else(|| text.parse().ok())
        .ok_or_else(|| format!("{text:?} is no address with a port; write one such as 127.0.0.1:9962, or :9962"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let table = [("0", 0), ("500ms", 500), ("15s", 15_000), ("15m0s", 900_000), ("1h30m", 5_400_000)];
        for (text, ms) in table {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "15", "m", "1d", "-1s", "1.5s", "99999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses() {
        let table =
            [(":1", "[::]:1"), ("localhost:2", "127.0.0.1:2"), ("[::1]:3", "[::1]:3"), ("192.0.2.1:4", "192.0.2.1:4")];
        for (text, address) in table {
            assert_eq!(listen_address(text).unwrap().to_string(), address);
        }
        for bad in ["", "9962", "host:1", ":x", "192.0.2.1"] {
            assert!(listen_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn options() {
        let option: KvstoreOption = "etcd.config=/a=b".parse().unwrap();
        assert_eq!((option.name, option.value.as_str()), ("etcd.config", "/a=b"));
        assert!("etcd.nothing=1".parse::<KvstoreOption>().is_err());
    }
}
