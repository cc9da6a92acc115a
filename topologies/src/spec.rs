//! `topology.toml`: what there is and how it is cabled.
//!
//! The parser is strict: a field it does not know is refused with the nearest one it knows, and every error names the
//! file, the line, the field and a remedy. Addresses are not written in the file; [`crate::plan`] derives them, except
//! for the ranges that a cluster hands out (pods, Services, load balancers).

mod parse;
mod set;

use std::collections::BTreeSet;
use std::fmt;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

pub use set::SetError;

/// Longest host, ToR or cluster name: names become interface names, which the kernel limits to 15 bytes.
pub const MAX_NAME: usize = 12;

/// Longest name of a topology, which is its lab's name unless another is given.
pub const MAX_TOPOLOGY_NAME: usize = 24;

/// A parsed and cross-checked topology.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    pub name: String,
    pub clusters: Vec<Cluster>,
    pub tors: Vec<Tor>,
    /// Cables between ToRs.
    #[serde(default)]
    pub links: Vec<Link>,
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
    /// How it takes part in the mesh.
    #[serde(default)]
    pub mesh: Mesh,
    /// Whether its nodes encrypt what they send to each other.
    #[serde(default)]
    pub encryption: Encryption,
    /// Manifests applied at bring-up, relative to the topology's directory; a directory stands for all in it.
    pub bootstrap: Vec<String>,
}

/// How a cluster reads the others of its topology.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mesh {
    /// Its control plane keeps a copy of what the others publish, and its agents read that copy.
    Cached,
    /// Its agents read the others' control planes themselves.
    Direct,
    /// It is in no mesh.
    #[default]
    None,
}

/// What the nodes of a cluster encrypt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    #[default]
    None,
    /// Pods' traffic, by WireGuard.
    Wireguard {
        /// The nodes' own traffic too.
        nodes: bool,
        /// Which other clusters, in the words of the agent's `--encryption-clusters`; `None`: as the agent has it.
        clusters: Option<String>,
    },
}

impl Encryption {
    /// WireGuard as it is when nothing more is said.
    const WIREGUARD: Self = Self::Wireguard { nodes: false, clusters: None };

    /// The words of `encryption = "..."`.
    fn from_word(word: &str) -> Option<Self> {
        match word {
            "none" => Some(Self::None),
            "wireguard" => Some(Self::WIREGUARD),
            _ => None,
        }
    }
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

/// A cable between two ToRs, over which they speak eBGP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub a: String,
    pub b: String,
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
        parse::topology(file, text)
    }

    /// The clusters that meet in the mesh.
    pub fn meshed(&self) -> impl Iterator<Item = &Cluster> {
        self.clusters.iter().filter(|cluster| cluster.mesh != Mesh::None)
    }

    /// The nodes of a cluster, in file order.
    pub fn nodes<'a>(&'a self, cluster: &'a str) -> impl Iterator<Item = &'a Host> {
        self.hosts.iter().filter(move |host| matches!(&host.role, Role::Node { cluster: of } if of == cluster))
    }

    fn control_planes<'a>(&'a self, cluster: &'a str) -> impl Iterator<Item = &'a Host> {
        self.hosts.iter().filter(move |host| matches!(&host.role, Role::ControlPlane { cluster: of } if of == cluster))
    }

    /// Adds a node to a cluster (by default the first), cabled as its last node; the number is the lowest that is free.
    pub fn add_node(&mut self, name: &str, cluster: Option<&str>) -> Result<&Host, AddNodeError> {
        let names = || self.clusters.iter().map(|cluster| cluster.name.clone());
        let cluster = match cluster {
            None => names().next().ok_or(AddNodeError::NoCluster)?,
            Some(wanted) => names().find(|name| name == wanted).ok_or_else(|| {
                let known = names().collect::<Vec<_>>().join(", ");
                AddNodeError::UnknownCluster { cluster: wanted.into(), known }
            })?,
        };
        check_name(name, MAX_NAME).map_err(|problem| AddNodeError::Name { name: name.into(), problem })?;
        if self.hosts.iter().any(|host| host.name == name) || self.tors.iter().any(|tor| tor.name == name) {
            return Err(AddNodeError::Taken(name.into()));
        }
        let taken: BTreeSet<u8> = self.nodes(&cluster).map(|host| host.number).collect();
        let number = (1..=u8::MAX).find(|number| !taken.contains(number)).ok_or(AddNodeError::Full)?;
        let like = self.nodes(&cluster).last().or_else(|| self.control_planes(&cluster).next());
        let cables = like.map(|host| host.cables.clone()).ok_or(AddNodeError::NoCluster)?;
        self.hosts.push(Host { name: name.into(), role: Role::Node { cluster }, number, cables });
        self.hosts.last().ok_or(AddNodeError::NoCluster)
    }
}

/// Why a node could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddNodeError {
    #[error("the topology has no cluster that a node could join; add a [[cluster]]")]
    NoCluster,
    #[error("no cluster is named \"{cluster}\"; the clusters are: {known}")]
    UnknownCluster { cluster: String, known: String },
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

/// Names become parts of interface, namespace and DNS names.
fn check_name(name: &str, most: usize) -> Result<(), String> {
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > most {
        return Err(format!("has {} characters; 1 to {most} are allowed", name.len()));
    }
    if !name.chars().all(ok) || name.starts_with('-') || name.ends_with('-') {
        return Err("may hold only a-z, 0-9 and inner dashes".into());
    }
    Ok(())
}
