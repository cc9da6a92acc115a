//! The configuration file of the stand-alone binary: instances, peers and routes in TOML.
//!
//! Every error names the file, the place in it and what would be right. `example.toml` beside the crate shows all fields.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use causeway_bgp_core::{
    Asn, BGP_PORT, Community, DEFAULT_CONNECT_RETRY_S, DEFAULT_HOLD_TIME_S, DEFAULT_KEEPALIVE_S, Family,
    InstanceConfig, LargeCommunity, PeerConfig, Prefix, RouteAttrs, RouteSet, Secret,
};
use serde::Deserialize;

/// A file that was read and makes sense.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The instances with their peers.
    pub instances: Vec<InstanceConfig>,
    /// Instance and peer name to what that peer is told.
    pub routes: BTreeMap<(String, String), Arc<RouteSet>>,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("reading {path}: {error}")]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's word.
        error: std::io::Error,
    },
    /// It is no TOML, or not ours.
    #[error("{path}: {error}")]
    Syntax {
        /// Which.
        path: PathBuf,
        /// With line and column.
        error: Box<toml::de::Error>,
    },
    /// A value makes no sense.
    #[error("{path}: {field}: {problem}")]
    Value {
        /// Which file.
        path: PathBuf,
        /// Where in it, such as `instance "rack", peer "tor1": address`.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    instance: Vec<Instance>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Instance {
    name: String,
    local_asn: u32,
    router_id: Ipv4Addr,
    local_port: Option<u16>,
    #[serde(default)]
    peer: Vec<Peer>,
    #[serde(default)]
    route: Vec<Route>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Peer {
    name: String,
    address: String,
    port: Option<u16>,
    asn: Option<u32>,
    local_address: Option<IpAddr>,
    connect_retry_s: Option<u32>,
    hold_time_s: Option<u16>,
    keepalive_s: Option<u16>,
    ebgp_multihop: Option<u8>,
    password: Option<String>,
    password_file: Option<PathBuf>,
    graceful_restart_s: Option<u16>,
    families: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Route {
    prefix: String,
    #[serde(default)]
    communities: Vec<String>,
    #[serde(default)]
    large_communities: Vec<String>,
    local_pref: Option<u32>,
    med: Option<u32>,
    /// Names of the peers that are told; all when absent.
    peers: Option<Vec<String>>,
}

/// Reads and checks a file.
///
/// # Errors
/// See [`FileError`]; each tells the remedy.
pub fn load(path: &Path) -> Result<Loaded, FileError> {
    let text = std::fs::read_to_string(path).map_err(|error| FileError::Read { path: path.into(), error })?;
    parse(path, &text)
}

/// [`load`] for text that is already there; `path` is for messages, and for relative password files.
///
/// # Errors
/// See [`FileError`].
pub fn parse(path: &Path, text: &str) -> Result<Loaded, FileError> {
    let file: File =
        toml::from_str(text).map_err(|error| FileError::Syntax { path: path.into(), error: Box::new(error) })?;
    let mut loaded = Loaded::default();
    let mut names = BTreeSet::new();
    for instance in file.instance {
        let place = Place { path, field: format!("instance {:?}", instance.name) };
        if !names.insert(instance.name.clone()) {
            return Err(place.error("name", "another instance has it: choose a different name"));
        }
        loaded.add(&place, instance)?;
    }
    Ok(loaded)
}

/// Where in the file something stands.
struct Place<'a> {
    path: &'a Path,
    field: String,
}

impl<'a> Place<'a> {
    fn inside(&self, what: &str, name: &str) -> Self {
        Self { path: self.path, field: format!("{}, {what} {name:?}", self.field) }
    }

    fn error(&self, field: &str, problem: impl fmt::Display) -> FileError {
        let field = format!("{}: {field}", self.field);
        FileError::Value { path: self.path.into(), field, problem: problem.to_string() }
    }

    fn parse<T: FromStr<Err: fmt::Display>>(&self, field: &str, text: &str) -> Result<T, FileError> {
        text.parse().map_err(|error| self.error(field, error))
    }

    fn parse_all<T: FromStr<Err: fmt::Display> + Ord>(
        &self,
        field: &str,
        texts: &[String],
    ) -> Result<BTreeSet<T>, FileError> {
        texts.iter().map(|text| self.parse(field, text)).collect()
    }

    fn asn(&self, field: &str, number: u32) -> Result<Asn, FileError> {
        Asn::try_from(number).map_err(|error| self.error(field, error))
    }
}

impl Loaded {
    fn add(&mut self, place: &Place<'_>, instance: Instance) -> Result<(), FileError> {
        let local_asn = place.asn("local-asn", instance.local_asn)?;
        if instance.router_id.is_unspecified() {
            return Err(place.error("router-id", "0.0.0.0 is no router ID: write an IPv4 address of this host"));
        }
        if instance.local_port == Some(0) {
            return Err(place.error("local-port", "0 is no port: leave the field out to accept no connections"));
        }
        let mut peers = Vec::new();
        let mut names = BTreeSet::new();
        for peer in instance.peer {
            let place = place.inside("peer", &peer.name);
            if !names.insert(peer.name.clone()) {
                return Err(place.error("name", "another peer of the instance has it: choose a different name"));
            }
            peers.push(peer_config(&place, &peer)?);
        }
        // What goes to all peers is kept once, whatever their number.
        let for_all = instance.route.iter().all(|route| route.peers.is_none());
        let names: Vec<String> = names.into_iter().collect();
        let kept = if for_all { names.iter().take(1) } else { names.iter().take(names.len()) };
        let mut routes: BTreeMap<String, RouteSet> = kept.map(|name| (name.clone(), RouteSet::new())).collect();
        for route in instance.route {
            let place = place.inside("route", &route.prefix);
            add_route(&place, &route, &mut routes)?;
        }
        let routes: BTreeMap<String, Arc<RouteSet>> =
            routes.into_iter().map(|(name, routes)| (name, Arc::new(routes))).collect();
        for name in names {
            if let Some(set) = routes.get(&name).or_else(|| routes.values().next()) {
                self.routes.insert((instance.name.clone(), name), Arc::clone(set));
            }
        }
        let (name, router_id, local_port) = (instance.name, instance.router_id, instance.local_port);
        self.instances.push(InstanceConfig { name, local_asn, router_id, local_port, peers });
        Ok(())
    }
}

fn peer_config(place: &Place<'_>, peer: &Peer) -> Result<PeerConfig, FileError> {
    let (address, zone) = match peer.address.split_once('%') {
        Some((address, zone)) => (address, Some(zone.to_owned())),
        None => (peer.address.as_str(), None),
    };
    let address: IpAddr = address.parse().map_err(|_| {
        let what =
            format!("{:?} is no IP address: write one such as 192.0.2.1, 2001:db8::1 or fe80::1%eth0", peer.address);
        place.error("address", what)
    })?;
    let hold_time_s = peer.hold_time_s.unwrap_or(DEFAULT_HOLD_TIME_S);
    if matches!(hold_time_s, 1 | 2) {
        return Err(place.error("hold-time-s", "1 and 2 are not allowed: write 0 (off) or at least 3"));
    }
    let keepalive_s =
        peer.keepalive_s.unwrap_or(if peer.hold_time_s.is_some() { hold_time_s / 3 } else { DEFAULT_KEEPALIVE_S });
    if hold_time_s > 0 && keepalive_s > hold_time_s {
        return Err(place.error("keepalive-s", format!("{keepalive_s} is more than hold-time-s, {hold_time_s}")));
    }
    if peer.graceful_restart_s.is_some_and(|seconds| !(1..=4095).contains(&seconds)) {
        return Err(place.error("graceful-restart-s", "write 1 to 4095, or leave the field out"));
    }
    if peer.ebgp_multihop == Some(0) {
        return Err(place.error("ebgp-multihop", "write 1 to 255, or leave the field out"));
    }
    let families: BTreeSet<Family> = match &peer.families {
        Some(names) => place.parse_all("families", names)?,
        None => BTreeSet::from([Family::IPV4_UNICAST, Family::IPV6_UNICAST]),
    };
    Ok(PeerConfig {
        name: peer.name.clone(),
        address,
        zone,
        port: peer.port.unwrap_or(BGP_PORT),
        peer_asn: peer.asn.map(|number| place.asn("asn", number)).transpose()?,
        local_address: peer.local_address,
        connect_retry_s: peer.connect_retry_s.unwrap_or(DEFAULT_CONNECT_RETRY_S),
        hold_time_s,
        keepalive_s,
        ebgp_multihop: peer.ebgp_multihop,
        md5_password: password(place, peer)?,
        graceful_restart_s: peer.graceful_restart_s,
        families: families.into_iter().collect(),
    })
}

fn password(place: &Place<'_>, peer: &Peer) -> Result<Option<Secret>, FileError> {
    match (&peer.password, &peer.password_file) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(place.error("password", "password-file is there too: write one of them")),
        (Some(password), None) if password.is_empty() => {
            Err(place.error("password", "it is empty: leave the field out"))
        }
        (Some(password), None) => Ok(Some(Secret::new(password.as_str()))),
        (None, Some(file)) => {
            let file = place.path.parent().map_or_else(|| file.clone(), |folder| folder.join(file));
            let text = std::fs::read_to_string(&file)
                .map_err(|error| place.error("password-file", format!("reading {}: {error}", file.display())))?;
            match text.trim_end_matches(['\r', '\n']) {
                "" => Err(place.error("password-file", format!("{} is empty", file.display()))),
                password => Ok(Some(Secret::new(password))),
            }
        }
    }
}

fn add_route(place: &Place<'_>, route: &Route, routes: &mut BTreeMap<String, RouteSet>) -> Result<(), FileError> {
    let prefix: Prefix = place.parse("prefix", &route.prefix)?;
    let attrs = RouteAttrs {
        communities: place.parse_all::<Community>("communities", &route.communities)?,
        large_communities: place.parse_all::<LargeCommunity>("large-communities", &route.large_communities)?,
        local_pref: route.local_pref,
        med: route.med,
    };
    if let Some(unknown) = route.peers.iter().flatten().find(|name| !routes.contains_key(*name)) {
        let known: Vec<&str> = routes.keys().map(String::as_str).collect();
        let what = format!("the instance has no peer {unknown:?}: write one of {}", known.join(", "));
        return Err(place.error("peers", what));
    }
    for (name, set) in routes {
        let told = route.peers.as_ref().is_none_or(|peers| peers.contains(name));
        if told && set.insert(prefix, attrs.clone()).is_some() {
            return Err(place.error("prefix", format!("peer {name:?} is told about {prefix} twice: remove one")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../example.toml");

    fn parsed(text: &str) -> Result<Loaded, String> {
        parse(Path::new("speaker.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_example_is_right() {
        let loaded = parsed(EXAMPLE).unwrap();
        assert_eq!(loaded.instances.len(), 1);
        let [tor1, tor2] = loaded.instances[0].peers.as_slice() else { panic!("two peers") };
        assert_eq!((tor1.name.as_str(), tor1.peer_asn.map(Asn::get)), ("tor1", Some(65101)));
        assert_eq!((tor2.zone.as_deref(), tor2.peer_asn), (Some("eth1"), None));
        let told = &loaded.routes[&("rack".to_owned(), "tor1".to_owned())];
        assert_eq!(told.len(), 3);
        assert_eq!(loaded.routes[&("rack".to_owned(), "tor2".to_owned())].len(), 2);
    }

    #[test]
    fn errors_name_file_field_and_remedy() {
        let head = "[[instance]]\nname = \"a\"\nlocal-asn = 65010\nrouter-id = \"10.0.0.1\"\n";
        let peer = format!("{head}[[instance.peer]]\nname = \"t\"\naddress = \"192.0.2.1\"\n");
        let cases = [
            (
                "[[instance]]\nname = \"a\"\nlocal-asn = 0\nrouter-id = \"10.0.0.1\"\n".to_owned(),
                "local-asn: \"0\" is no AS number",
            ),
            (format!("{head}colour = 3\n"), "unknown field `colour`"),
            (
                format!("{head}[[instance.peer]]\nname = \"t\"\naddress = \"tor1\"\n"),
                "peer \"t\": address: \"tor1\" is no IP address",
            ),
            (format!("{peer}hold-time-s = 2\n"), "hold-time-s: 1 and 2 are not allowed"),
            (format!("{peer}hold-time-s = 9\nkeepalive-s = 10\n"), "10 is more than hold-time-s, 9"),
            (format!("{peer}password-file = \"/no/such/file\"\n"), "password-file: reading /no/such/file"),
            (format!("{peer}families = [\"ipv4\"]\n"), "expected ipv4-unicast or ipv6-unicast"),
            (format!("{peer}[[instance.route]]\nprefix = \"192.0.2.0/33\"\n"), "route \"192.0.2.0/33\": prefix:"),
            (
                format!("{peer}[[instance.route]]\nprefix = \"192.0.2.0/24\"\npeers = [\"u\"]\n"),
                "no peer \"u\": write one of t",
            ),
            (format!("{head}{head}"), "another instance has it"),
        ];
        for (text, expected) in cases {
            let error = parsed(&text).unwrap_err();
            assert!(error.contains(expected), "{error:?} does not say {expected:?}");
            assert!(error.starts_with("speaker.toml: "), "{error:?} does not name the file");
        }
    }
}
