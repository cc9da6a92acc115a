//! Where an etcd is reached: addresses under a name that its certificate has, or names of its own.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use causeway_mesh_schema::ClusterName;
use serde::Serialize;

use crate::ETCD_PORT;
use crate::leaf::service_name;

/// One address or name, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    Ip(IpAddr),
    /// The certificate must have it: `enable --server-name`.
    Name(String),
}

/// Why a text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no endpoint; write 192.0.2.1:2379, [2001:db8::1]:2379 or etcd.example:2379")]
pub struct BadEndpoint(String);

impl Endpoint {
    #[must_use]
    pub fn ip(ip: IpAddr, port: u16) -> Endpoint {
        Endpoint { host: Host::Ip(ip), port }
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    /// `https://` may stand before it; without a port it is 2379.
    fn from_str(text: &str) -> Result<Endpoint, BadEndpoint> {
        let bad = || BadEndpoint(text.to_owned());
        let bare = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
        if let Ok(ip) = bare.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Endpoint::ip(ip, ETCD_PORT));
        }
        let (host, port) = match bare.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|&port| port != 0).ok_or_else(bad)?),
            None => (bare, ETCD_PORT),
        };
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match (bracketed, host.parse::<IpAddr>()) {
            (Some(inner), _) => Host::Ip(inner.parse().map_err(|_| bad())?),
            (None, Ok(IpAddr::V4(ip))) => Host::Ip(ip.into()),
            (None, _) if is_dns_name(host) => Host::Name(host.to_owned()),
            _ => return Err(bad()),
        };
        Ok(Endpoint { host, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

fn is_dns_name(text: &str) -> bool {
    let label = |l: &str| {
        let good = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        (1..=63).contains(&l.len()) && l.bytes().all(good) && !l.starts_with('-') && !l.ends_with('-')
    };
    // A last label of digits only would be an address that was mistyped.
    let numeric = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|c| c.is_ascii_digit()));
    text.len() <= 253 && text.split('.').all(label) && !numeric
}

/// An etcd as one cluster reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// What the addresses are called, so that the certificate fits.
    name: String,
    endpoints: Vec<Endpoint>,
}

/// A name and its addresses, in the configuration file's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct HostAlias {
    pub(crate) hostname: String,
    pub(crate) ips: Vec<IpAddr>,
}

impl Reach {
    /// Another cluster's etcd: `<cluster>.mesh.cilium.io`.
    #[must_use]
    pub fn remote(cluster: &ClusterName, endpoints: Vec<Endpoint>) -> Reach {
        Reach { name: format!("{cluster}.mesh.cilium.io"), endpoints }
    }

    /// The etcd of one's own cluster, by its Service.
    #[must_use]
    pub fn local(namespace: &str, endpoints: Vec<Endpoint>) -> Reach {
        Reach { name: service_name(namespace), endpoints }
    }

    /// One URL for each port of the addresses, and one for each name.
    pub(crate) fn urls(&self) -> Vec<String> {
        let url = |endpoint: &Endpoint| match &endpoint.host {
            Host::Ip(_) => format!("https://{}:{}", self.name, endpoint.port),
            Host::Name(name) => format!("https://{name}:{}", endpoint.port),
        };
        let distinct: BTreeSet<String> = self.endpoints.iter().map(url).collect();
        distinct.into_iter().collect()
    }

    pub(crate) fn aliases(&self) -> Vec<HostAlias> {
        let ip = |endpoint: &Endpoint| match endpoint.host {
            Host::Ip(ip) => Some(ip),
            Host::Name(_) => None,
        };
        let ips: BTreeSet<IpAddr> = self.endpoints.iter().filter_map(ip).collect();
        if ips.is_empty() {
            return Vec::new();
        }
        vec![HostAlias { hostname: self.name.clone(), ips: ips.into_iter().collect() }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (text, shown) in [
            ("192.0.2.1:2379", "192.0.2.1:2379"),
            ("192.0.2.1", "192.0.2.1:2379"),
            ("https://192.0.2.1:32379/", "192.0.2.1:32379"),
            ("[2001:db8::1]:2380", "[2001:db8::1]:2380"),
            ("[2001:db8::1]", "[2001:db8::1]:2379"),
            ("2001:db8::1", "[2001:db8::1]:2379"),
            ("etcd.example:2379", "etcd.example:2379"),
            ("etcd", "etcd:2379"),
        ] {
            assert_eq!(text.parse::<Endpoint>().map(|e| e.to_string()).as_deref(), Ok(shown), "{text}");
        }
        for bad in [
            "",
            ":2379",
            "a:b",
            "a:0",
            "a:70000",
            "192.0.2.1.5",
            "192.0.2.256",
            "[a]:1",
            "http://a",
            "a b",
            "-a",
            "a..b",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_share_a_name() {
        let west = ClusterName::parse("west").unwrap();
        let endpoints = ["192.0.2.2", "192.0.2.1", "[2001:db8::1]:2380", "etcd.example"].map(|e| e.parse().unwrap());
        let reach = Reach::remote(&west, endpoints.to_vec());
        let urls =
            ["https://etcd.example:2379", "https://west.mesh.cilium.io:2379", "https://west.mesh.cilium.io:2380"];
        assert_eq!(reach.urls(), urls);
        let ips = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|ip| ip.parse().unwrap()).to_vec();
        assert_eq!(reach.aliases(), [HostAlias { hostname: "west.mesh.cilium.io".to_owned(), ips }]);
        let named = Reach::remote(&west, vec!["etcd.example".parse().unwrap()]);
        assert_eq!(named.aliases(), []);
    }
}
