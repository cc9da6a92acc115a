//! `topology.toml`: what there is and how it is cabled.
//!
//! The parser is strict: a field it does not know is refused with the nearest one it knows, and every error names the
//! file, the line, the field and a remedy. Addresses are not written in the file; [`crate::plan`] derives them, except
//! for the ranges that a cluster hands out (pods, Services, load balancers).

use std::collections::BTreeSet;
use std::fmt;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::nearest::nearest;

/// Longest host, ToR or cluster name: names become interface names, which the kernel limits to 15 bytes.
pub const MAX_NAME: usize = 12;

/// A parsed and cross-checked topology.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    pub name: String,
    pub clusters: Vec<Cluster>,
    pub tors: Vec<Tor>,
    pub hosts: Vec<Host>,
}

/// One Kubernetes cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub name: String,
    /// Cilium's cluster id; 0 is a cluster outside any mesh.
    pub id: u8,
    /// The AS number that its nodes speak with.
    pub asn: u32,
    pub pods: Ranges,
    pub services: Ranges,
    pub load_balancers: Ranges,
    /// Manifests applied at bring-up, relative to the topology's directory.
    pub bootstrap: Vec<String>,
}

/// An IPv4 and an IPv6 range; everything in the lab is dual stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranges {
    pub v4: Ipv4Net,
    pub v6: Ipv6Net,
}

/// A top-of-rack switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tor {
    pub name: String,
    pub asn: u32,
    pub software: Software,
}

/// The routing daemon of a ToR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Software {
    Frr,
    Bird,
}

/// A machine with cables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub name: String,
    pub role: Role,
    /// Its number within its role (and cluster), from 1. It stays when other hosts come and go: addresses hang on it.
    pub number: u8,
    /// ToRs, in the order of the interfaces `eth0`, `eth1`, ...
    pub cables: Vec<String>,
}

/// What a host is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Role {
    /// Runs pods.
    Node { cluster: String },
    /// Runs the Kubernetes API and the operator, no agent.
    ControlPlane { cluster: String },
    /// Stands outside, behind the ToRs.
    Client,
}

impl Host {
    /// The cluster it belongs to, if any.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        match &self.role {
            Role::Node { cluster } | Role::ControlPlane { cluster } => Some(cluster),
            Role::Client => None,
        }
    }
}

impl Topology {
    /// Parses `text`; `file` is only named in errors.
    pub fn parse(file: &str, text: &str) -> Result<Self, ParseError> {
        let at = Place { file, text };
        let raw: RawTopology = toml::from_str(text).map_err(|error| at.syntax(&error))?;
        let name = at.name("name", &raw.name)?;
        let mut seen = BTreeSet::new();
        let clusters = raw.cluster.iter().map(|raw| at.cluster(raw, &mut seen)).collect::<Result<Vec<_>, _>>()?;
        let tors = raw.tor.iter().map(|raw| at.tor(raw, &mut seen)).collect::<Result<Vec<_>, _>>()?;
        let mut hosts: Vec<Host> = Vec::new();
        for raw in &raw.host {
            let host = at.host(raw, &clusters, &tors, &hosts, &mut seen)?;
            hosts.push(host);
        }
        let topology = Self { name, clusters, tors, hosts };
        for (cluster, raw) in topology.clusters.iter().zip(&raw.cluster) {
            let planes = topology.control_planes(&cluster.name).count();
            if planes != 1 {
                return Err(at.error(
                    raw.name.span().start,
                    "host.role",
                    format!("cluster \"{}\" has {planes} control planes", cluster.name),
                    "give it exactly one [[host]] with role = \"control-plane\"",
                ));
            }
        }
        Ok(topology)
    }

    /// The nodes of a cluster, in file order.
    pub fn nodes<'a>(&'a self, cluster: &'a str) -> impl Iterator<Item = &'a Host> {
        self.hosts.iter().filter(move |host| matches!(&host.role, Role::Node { cluster: of } if of == cluster))
    }

    fn control_planes<'a>(&'a self, cluster: &'a str) -> impl Iterator<Item = &'a Host> {
        self.hosts.iter().filter(move |host| matches!(&host.role, Role::ControlPlane { cluster: of } if of == cluster))
    }

    /// Adds a node to the first cluster, cabled as its last node; the number is the lowest one that is free.
    pub fn add_node(&mut self, name: &str) -> Result<&Host, AddNodeError> {
        let cluster = self.clusters.first().ok_or(AddNodeError::NoCluster)?.name.clone();
        check_name(name).map_err(|problem| AddNodeError::Name { name: name.into(), problem })?;
        if self.hosts.iter().any(|host| host.name == name) || self.tors.iter().any(|tor| tor.name == name) {
            return Err(AddNodeError::Taken(name.into()));
        }
        let taken: BTreeSet<u8> = self.nodes(&cluster).map(|host| host.number).collect();
        let number = (1..=u8::MAX).find(|number| !taken.contains(number)).ok_or(AddNodeError::Full)?;
        let cables = match self.nodes(&cluster).last() {
            Some(last) => last.cables.clone(),
            None => self.tors.iter().map(|tor| tor.name.clone()).collect(),
        };
        self.hosts.push(Host { name: name.into(), role: Role::Node { cluster }, number, cables });
        self.hosts.last().ok_or(AddNodeError::NoCluster)
    }
}

/// Why a node could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddNodeError {
    #[error("the topology has no cluster that a node could join; add a [[cluster]]")]
    NoCluster,
    #[error("\"{0}\" is already the name of a host or ToR; choose another")]
    Taken(String),
    #[error("node name \"{name}\": {problem}")]
    Name { name: String, problem: String },
    #[error("the cluster has no free node number")]
    Full,
}

/// What is wrong in the file, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    pub file: String,
    /// From 1.
    pub line: usize,
    pub field: String,
    pub problem: String,
    pub remedy: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}; {}", self.file, self.line, self.field, self.problem, self.remedy)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTopology {
    name: Spanned<String>,
    #[serde(default)]
    cluster: Vec<RawCluster>,
    #[serde(default)]
    tor: Vec<RawTor>,
    #[serde(default)]
    host: Vec<RawHost>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCluster {
    name: Spanned<String>,
    id: Spanned<i64>,
    asn: Spanned<i64>,
    pod_cidrs: Spanned<Vec<String>>,
    service_cidrs: Spanned<Vec<String>>,
    lb_cidrs: Spanned<Vec<String>>,
    #[serde(default)]
    bootstrap: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTor {
    name: Spanned<String>,
    asn: Spanned<i64>,
    software: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHost {
    name: Spanned<String>,
    role: Spanned<String>,
    cluster: Option<Spanned<String>>,
    number: Option<Spanned<i64>>,
    cables: Spanned<Vec<Spanned<String>>>,
}

/// The file that errors point into.
struct Place<'a> {
    file: &'a str,
    text: &'a str,
}

impl Place<'_> {
    fn error(&self, offset: usize, field: &str, problem: impl Into<String>, remedy: impl Into<String>) -> ParseError {
        let before = self.text.as_bytes().iter().take(offset);
        ParseError {
            file: self.file.into(),
            line: before.filter(|byte| **byte == b'\n').count() + 1,
            field: field.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// Errors of TOML itself and of unknown or missing fields, as the deserializer words them.
    fn syntax(&self, error: &toml::de::Error) -> ParseError {
        let offset = error.span().map_or(0, |span| span.start);
        let message = error.message();
        let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        if message.starts_with("unknown field") {
            let (field, known) = quoted.split_first().map_or(("", &[][..]), |(field, known)| (*field, known));
            let remedy = match nearest(field, known.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"? Known fields here: {}", known.join(", ")),
                None => format!("known fields here: {}", known.join(", ")),
            };
            return self.error(offset, field, "no such field", remedy);
        }
        if message.starts_with("missing field") {
            let field = quoted.first().copied().unwrap_or("");
            return self.error(offset, field, "the field is missing", "add it to the table that starts here");
        }
        let before = self.text.get(..offset).unwrap_or("");
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = self.text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or("");
        let field = line.split('=').next().map(str::trim).filter(|field| !field.is_empty()).unwrap_or("(empty line)");
        self.error(offset, field, message.trim().replace('\n', ", "), "correct this line")
    }

    fn name(&self, field: &str, raw: &Spanned<String>) -> Result<String, ParseError> {
        check_name(raw.get_ref()).map_err(|problem| {
            self.error(raw.span().start, field, format!("\"{}\" {problem}", raw.get_ref()), "choose another name")
        })?;
        Ok(raw.get_ref().clone())
    }

    fn unique(&self, field: &str, raw: &Spanned<String>, seen: &mut BTreeSet<String>) -> Result<String, ParseError> {
        let name = self.name(field, raw)?;
        if !seen.insert(name.clone()) {
            let problem = format!("\"{name}\" is named twice");
            return Err(self.error(raw.span().start, field, problem, "names of clusters, ToRs and hosts are unique"));
        }
        Ok(name)
    }

    fn cluster(&self, raw: &RawCluster, seen: &mut BTreeSet<String>) -> Result<Cluster, ParseError> {
        Ok(Cluster {
            name: self.unique("cluster.name", &raw.name, seen)?,
            id: u8::try_from(*raw.id.get_ref()).map_err(|_| {
                self.error(raw.id.span().start, "cluster.id", "not a cluster id", "use a number from 0 to 255")
            })?,
            asn: self.asn("cluster.asn", &raw.asn)?,
            pods: self.ranges("cluster.pod_cidrs", &raw.pod_cidrs)?,
            services: self.ranges("cluster.service_cidrs", &raw.service_cidrs)?,
            load_balancers: self.ranges("cluster.lb_cidrs", &raw.lb_cidrs)?,
            bootstrap: raw.bootstrap.clone(),
        })
    }

    fn tor(&self, raw: &RawTor, seen: &mut BTreeSet<String>) -> Result<Tor, ParseError> {
        let software = match &raw.software {
            None => Software::Frr,
            Some(word) => match word.get_ref().as_str() {
                "frr" => Software::Frr,
                "bird" => Software::Bird,
                other => {
                    let problem = format!("\"{other}\" is no routing software");
                    return Err(self.error(word.span().start, "tor.software", problem, "use \"frr\" or \"bird\""));
                }
            },
        };
        Ok(Tor { name: self.unique("tor.name", &raw.name, seen)?, asn: self.asn("tor.asn", &raw.asn)?, software })
    }

    fn host(
        &self,
        raw: &RawHost,
        clusters: &[Cluster],
        tors: &[Tor],
        before: &[Host],
        seen: &mut BTreeSet<String>,
    ) -> Result<Host, ParseError> {
        let name = self.unique("host.name", &raw.name, seen)?;
        let role = self.role(raw, clusters)?;
        let peers = || before.iter().filter(|host| host.role == role);
        let number = match &raw.number {
            Some(number) => u8::try_from(*number.get_ref()).ok().filter(|n| *n > 0).ok_or_else(|| {
                self.error(number.span().start, "host.number", "not a host number", "use a number from 1 to 255")
            })?,
            None => peers().map(|host| host.number).max().unwrap_or(0).saturating_add(1),
        };
        if let Some(twin) = peers().find(|host| host.number == number) {
            let problem = format!("{number} is already the number of {}", twin.name);
            return Err(self.error(raw.name.span().start, "host.number", problem, "give each host its own number"));
        }
        let mut cables = Vec::new();
        for cable in raw.cables.get_ref() {
            let tor = cable.get_ref();
            let names: Vec<&str> = tors.iter().map(|tor| tor.name.as_str()).collect();
            if !names.contains(&tor.as_str()) {
                let problem = format!("no ToR is named \"{tor}\"");
                let remedy = match nearest(tor, names.iter().copied()) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => format!("the ToRs are: {}", names.join(", ")),
                };
                return Err(self.error(cable.span().start, "host.cables", problem, remedy));
            }
            if cables.contains(tor) {
                let problem = format!("two cables to \"{tor}\"");
                return Err(self.error(cable.span().start, "host.cables", problem, "name each ToR once"));
            }
            cables.push(tor.clone());
        }
        if cables.is_empty() {
            let remedy = "name at least one ToR, as in cables = [\"tor1\"]";
            return Err(self.error(raw.cables.span().start, "host.cables", "the host has no cable", remedy));
        }
        Ok(Host { name, role, number, cables })
    }

    fn role(&self, raw: &RawHost, clusters: &[Cluster]) -> Result<Role, ParseError> {
        let kind = raw.role.get_ref().as_str();
        if kind == "client" {
            return match &raw.cluster {
                None => Ok(Role::Client),
                Some(cluster) => Err(self.error(
                    cluster.span().start,
                    "host.cluster",
                    "a client belongs to no cluster",
                    "remove this line",
                )),
            };
        }
        let cluster = match (&raw.cluster, clusters) {
            (None, [only]) => only.name.clone(),
            (None, _) => {
                let remedy = "add cluster = \"...\" (it may be left out only when there is exactly one)";
                return Err(self.error(raw.name.span().start, "host.cluster", "the field is missing", remedy));
            }
            (Some(word), _) => match clusters.iter().find(|cluster| cluster.name == *word.get_ref()) {
                Some(cluster) => cluster.name.clone(),
                None => {
                    let names: Vec<&str> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
                    let problem = format!("no cluster is named \"{}\"", word.get_ref());
                    let remedy = format!("the clusters are: {}", names.join(", "));
                    return Err(self.error(word.span().start, "host.cluster", problem, remedy));
                }
            },
        };
        match kind {
            "node" => Ok(Role::Node { cluster }),
            "control-plane" => Ok(Role::ControlPlane { cluster }),
            other => Err(self.error(
                raw.role.span().start,
                "host.role",
                format!("\"{other}\" is no role"),
                "use \"node\", \"control-plane\" or \"client\"",
            )),
        }
    }

    fn asn(&self, field: &str, raw: &Spanned<i64>) -> Result<u32, ParseError> {
        u32::try_from(*raw.get_ref()).ok().filter(|asn| *asn != 0 && *asn != 23456).ok_or_else(|| {
            let problem = format!("{} is no AS number", raw.get_ref());
            self.error(raw.span().start, field, problem, "use 1 to 4294967295, for a lab 64512 to 65534")
        })
    }

    fn ranges(&self, field: &str, raw: &Spanned<Vec<String>>) -> Result<Ranges, ParseError> {
        let remedy = "write one IPv4 and one IPv6 range, as in [\"10.1.0.0/16\", \"fd00:1::/48\"]";
        let fail = |problem: String| self.error(raw.span().start, field, problem, remedy);
        let [v4, v6] = raw.get_ref().as_slice() else {
            return Err(fail(format!("{} ranges", raw.get_ref().len())));
        };
        let v4: Ipv4Net = v4.parse().map_err(|_| fail(format!("\"{v4}\" is no IPv4 range")))?;
        let v6: Ipv6Net = v6.parse().map_err(|_| fail(format!("\"{v6}\" is no IPv6 range")))?;
        if v4 != v4.trunc() {
            return Err(fail(format!("{v4} has host bits; the range is {}", v4.trunc())));
        }
        if v6 != v6.trunc() {
            return Err(fail(format!("{v6} has host bits; the range is {}", v6.trunc())));
        }
        Ok(Ranges { v4, v6 })
    }
}

/// Names become parts of interface, namespace and DNS names.
fn check_name(name: &str) -> Result<(), String> {
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(format!("has {} characters; 1 to {MAX_NAME} are allowed", name.len()));
    }
    if !name.chars().all(ok) || name.starts_with('-') || name.ends_with('-') {
        return Err("may hold only a-z, 0-9 and inner dashes".into());
    }
    Ok(())
}
