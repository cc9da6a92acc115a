//! Small checked values, and the reading of numbers and addresses out of the shapes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::rejected::Fault;

/// An autonomous system number, 1 to 4294967295 (RFC 6793; 0 is reserved by RFC 7607).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(u32);

impl Asn {
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// The number that `value` is, if it is one.
    #[must_use]
    pub fn new(value: u32) -> Option<Asn> {
        (value != 0).then_some(Asn(value))
    }

    pub(crate) fn parse(value: i64, field: &str) -> Result<Asn, Fault> {
        number(value, 1..=u32::MAX, field, "an autonomous system number").map(Asn)
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The address of a BGP peer. A link-local one needs the interface on which it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddress {
    pub ip: IpAddr,
    /// Name of the interface, from `fe80::1%eth0`.
    pub zone: Option<String>,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.zone {
            Some(zone) => write!(f, "{}%{zone}", self.ip),
            None => self.ip.fmt(f),
        }
    }
}

impl PeerAddress {
    pub(crate) fn parse(text: &str, field: &str) -> Result<PeerAddress, Fault> {
        let (ip, zone) = match text.trim().split_once('%') {
            Some((ip, zone)) => (ip, Some(zone.to_owned())),
            None => (text.trim(), None),
        };
        let ip = IpAddr::from_str(ip).map_err(|_| {
            Fault::new(field, format!("{text:?} is not an IP address"), "write an IPv4 or IPv6 address, as 192.0.2.1")
        })?;
        let refuse = |message: &str, remedy: &str| Err(Fault::new(field, format!("{text:?} {message}"), remedy));
        let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if ip.is_unspecified() || ip.is_multicast() {
            return refuse("cannot be the address of a peer", "write the unicast address of the peer");
        }
        match (&zone, link_local) {
            (Some(zone), true) if zone.is_empty() => {
                refuse("has an empty zone", "name the interface after %, as fe80::1%eth0")
            }
            (Some(_), false) => refuse("has a zone but is not link-local", "remove the zone"),
            (None, true) => refuse("is link-local but names no interface", "add it, as fe80::1%eth0"),
            _ => Ok(PeerAddress { ip, zone }),
        }
    }
}

/// `value` as a number of type `T` in `range`.
pub(crate) fn number<T>(value: i64, range: RangeInclusive<T>, field: &str, what: &str) -> Result<T, Fault>
where
    T: TryFrom<i64> + PartialOrd + fmt::Display,
{
    let refuse = || {
        Fault::new(
            field,
            format!("{value} is not {what}"),
            format!("write a number of {} to {}", range.start(), range.end()),
        )
    };
    let number = T::try_from(value).map_err(|_| refuse())?;
    if range.contains(&number) { Ok(number) } else { Err(refuse()) }
}

/// A TCP port.
pub(crate) fn port(value: i32, field: &str) -> Result<u16, Fault> {
    number(i64::from(value), 1..=u16::MAX, field, "a port")
}

pub(crate) fn ip_address(text: &str, field: &str) -> Result<IpAddr, Fault> {
    IpAddr::from_str(text.trim()).map_err(|_| {
        Fault::new(field, format!("{text:?} is not an IP address"), "write an IPv4 or IPv6 address, as 192.0.2.1")
    })
}

/// A BGP identifier in dotted form; any but 0.0.0.0 (RFC 6286).
pub(crate) fn router_id(text: &str, field: &str) -> Result<Ipv4Addr, Fault> {
    Ipv4Addr::from_str(text.trim()).ok().filter(|id| !id.is_unspecified()).ok_or_else(|| {
        Fault::new(field, format!("{text:?} is not a router ID"), "write four numbers with dots, as 10.0.0.1")
    })
}

/// An RFC 1997 community: `65000:100`, or one number.
pub(crate) fn standard_community(text: &str, field: &str) -> Result<u32, Fault> {
    let value = match text.split_once(':') {
        Some((high, low)) => {
            decimal::<u16>(high).zip(decimal::<u16>(low)).map(|(high, low)| u32::from(high) << 16 | u32::from(low))
        }
        None => decimal::<u32>(text),
    };
    value.ok_or_else(|| {
        Fault::new(
            field,
            format!("{text:?} is not a community"),
            "write two numbers of 0 to 65535 with a colon between, as 65000:100, or one of 32 bits",
        )
    })
}

/// An RFC 8092 large community: `65000:1:2`.
pub(crate) fn large_community(text: &str, field: &str) -> Result<(u32, u32, u32), Fault> {
    let parts: Vec<Option<u32>> = text.split(':').map(decimal).collect();
    match parts[..] {
        [Some(global), Some(local1), Some(local2)] => Ok((global, local1, local2)),
        _ => Err(Fault::new(
            field,
            format!("{text:?} is not a large community"),
            "write three numbers of 0 to 4294967295 with colons between, as 65000:1:2",
        )),
    }
}

/// A decimal number without sign or leading zeros.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    (digits && !leading_zero).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_addresses() {
        let good = [("192.0.2.1", "192.0.2.1"), (" fd00::1 ", "fd00::1"), ("fe80::1%eth0", "fe80::1%eth0")];
        for (text, shown) in good {
            assert_eq!(PeerAddress::parse(text, "f").unwrap().to_string(), shown);
        }
        for text in ["", "192.0.2", "192.0.2.1/24", "fe80::1", "fe80::1%", "fd00::1%eth0", "0.0.0.0", "ff02::1"] {
            let fault = PeerAddress::parse(text, "spec.f").unwrap_err();
            assert_eq!(fault.field, "spec.f", "{text:?}");
            assert!(!fault.remedy.is_empty());
        }
    }

    #[test]
    fn communities() {
        assert_eq!(standard_community("65000:100", "f"), Ok(65000 << 16 | 100));
        assert_eq!(standard_community("4294967295", "f"), Ok(u32::MAX));
        for text in ["", "65536:1", "1:2:3", "-1", "+1", "01:1", "4294967296", "a:b"] {
            assert!(standard_community(text, "f").is_err(), "{text:?}");
        }
        assert_eq!(large_community("1:2:4294967295", "f"), Ok((1, 2, u32::MAX)));
        for text in ["1:2", "1:2:3:4", "1:2:4294967296", "1::3"] {
            assert!(large_community(text, "f").is_err(), "{text:?}");
        }
    }

    #[test]
    fn numbers_outside_their_range_say_the_range() {
        assert_eq!(Asn::parse(4_294_967_295, "f").unwrap().get(), u32::MAX);
        for value in [0, -1, 4_294_967_296] {
            assert_eq!(Asn::parse(value, "f").unwrap_err().remedy, "write a number of 1 to 4294967295");
        }
        assert!(port(0, "f").is_err() && port(65536, "f").is_err() && port(179, "f").is_ok());
    }
}
