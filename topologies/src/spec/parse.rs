//! The text of `topology.toml`: TOML tables read, cross-checked, and every mistake named with its line and a remedy.
//!
//! Driven by [`Topology::parse`] alone.

use std::collections::BTreeSet;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::Deserialize;
use toml::Spanned;

use super::{
    Cluster, Encryption, Host, Link, MAX_NAME, MAX_TOPOLOGY_NAME, Mesh, ParseError, Ranges, Role, Software, Topology,
    Tor, check_name,
};
use crate::nearest::nearest;

pub(super) fn topology(file: &str, text: &str) -> Result<Topology, ParseError> {
    let at = Place { file, text };
    let raw: RawTopology = toml::from_str(text).map_err(|error| at.syntax(&error))?;
    let name = at.name("name", &raw.name, MAX_TOPOLOGY_NAME)?;
    let mut seen = BTreeSet::new();
    let clusters = raw.cluster.iter().map(|raw| at.cluster(raw, &mut seen)).collect::<Result<Vec<_>, _>>()?;
    at.fit_for_mesh(&raw.cluster, &clusters)?;
    let tors = raw.tor.iter().map(|raw| at.tor(raw, &mut seen)).collect::<Result<Vec<_>, _>>()?;
    let mut links = Vec::new();
    for raw in &raw.link {
        links.push(at.link(raw, &tors, &links)?);
    }
    let mut hosts: Vec<Host> = Vec::new();
    for raw in &raw.host {
        hosts.push(at.host(raw, &clusters, &tors, &hosts, &mut seen)?);
    }
    let topology = Topology { name, clusters, tors, links, hosts };
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTopology {
    name: Spanned<String>,
    #[serde(default)]
    cluster: Vec<RawCluster>,
    #[serde(default)]
    tor: Vec<RawTor>,
    #[serde(default)]
    link: Vec<RawLink>,
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
    mesh: Option<Spanned<String>>,
    encryption: Option<Spanned<String>>,
    encrypt_node: Option<Spanned<bool>>,
    encrypt_clusters: Option<Spanned<String>>,
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
struct RawLink {
    a: Spanned<String>,
    b: Spanned<String>,
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

    fn name(&self, field: &str, raw: &Spanned<String>, most: usize) -> Result<String, ParseError> {
        check_name(raw.get_ref(), most).map_err(|problem| {
            self.error(raw.span().start, field, format!("\"{}\" {problem}", raw.get_ref()), "choose another name")
        })?;
        Ok(raw.get_ref().clone())
    }

    fn unique(&self, field: &str, raw: &Spanned<String>, seen: &mut BTreeSet<String>) -> Result<String, ParseError> {
        let name = self.name(field, raw, MAX_NAME)?;
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
            mesh: self.mesh(raw)?,
            encryption: self.encryption(raw)?,
            bootstrap: raw.bootstrap.clone(),
        })
    }

    fn mesh(&self, raw: &RawCluster) -> Result<Mesh, ParseError> {
        let Some(word) = &raw.mesh else { return Ok(Mesh::None) };
        let at = word.span().start;
        let mesh = match word.get_ref().as_str() {
            "cached" => Mesh::Cached,
            "direct" => Mesh::Direct,
            "none" => Mesh::None,
            other => {
                let problem = format!("\"{other}\" is no way to take part in a mesh");
                return Err(self.error(at, "cluster.mesh", problem, "use \"cached\", \"direct\" or \"none\""));
            }
        };
        if mesh != Mesh::None && *raw.id.get_ref() == 0 {
            let problem = "cluster id 0 is a cluster outside any mesh";
            return Err(self.error(at, "cluster.mesh", problem, "give the cluster an id from 1 to 255"));
        }
        Ok(mesh)
    }

    fn encryption(&self, raw: &RawCluster) -> Result<Encryption, ParseError> {
        let mut encryption = Encryption::None;
        if let Some(word) = &raw.encryption {
            encryption = Encryption::from_word(word.get_ref()).ok_or_else(|| {
                let problem = format!("\"{}\" is no kind of encryption", word.get_ref());
                self.error(word.span().start, "cluster.encryption", problem, "use \"wireguard\" or \"none\"")
            })?;
        }
        if let Encryption::Wireguard { nodes, clusters } = &mut encryption {
            *nodes = raw.encrypt_node.as_ref().is_some_and(|word| *word.get_ref());
            *clusters = raw.encrypt_clusters.as_ref().map(|word| word.get_ref().clone());
            return Ok(encryption);
        }
        let more = [
            ("cluster.encrypt_node", raw.encrypt_node.as_ref().map(|word| word.span().start)),
            ("cluster.encrypt_clusters", raw.encrypt_clusters.as_ref().map(|word| word.span().start)),
        ];
        match more.into_iter().find_map(|(field, at)| Some((field, at?))) {
            None => Ok(encryption),
            Some((field, at)) => {
                let problem = "the cluster has no encryption of which this could say more";
                Err(self.error(at, field, problem, "add encryption = \"wireguard\", or remove this line"))
            }
        }
    }

    /// Clusters that meet need ids of their own, and read each other in one way.
    fn fit_for_mesh(&self, raw: &[RawCluster], clusters: &[Cluster]) -> Result<(), ParseError> {
        for (index, (raw, cluster)) in raw.iter().zip(clusters).enumerate() {
            let meets = |other: &&Cluster| cluster.mesh != Mesh::None && other.mesh != Mesh::None;
            for other in clusters[..index].iter().filter(meets) {
                if other.id == cluster.id {
                    let problem = format!("{} is already the id of cluster {}", cluster.id, other.name);
                    let remedy = "clusters of one mesh have ids of their own";
                    return Err(self.error(raw.id.span().start, "cluster.id", problem, remedy));
                }
                if other.mesh != cluster.mesh {
                    let problem = format!("cluster {} does it in another way", other.name);
                    let remedy = "clusters of one mesh are all \"cached\" or all \"direct\"";
                    let at = raw.mesh.as_ref().map_or(raw.name.span().start, |word| word.span().start);
                    return Err(self.error(at, "cluster.mesh", problem, remedy));
                }
            }
        }
        Ok(())
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
            let tor = self.known_tor("host.cables", cable, tors)?;
            if cables.contains(&tor) {
                let problem = format!("two cables to \"{tor}\"");
                return Err(self.error(cable.span().start, "host.cables", problem, "name each ToR once"));
            }
            cables.push(tor);
        }
        if cables.is_empty() {
            let remedy = "name at least one ToR, as in cables = [\"tor1\"]";
            return Err(self.error(raw.cables.span().start, "host.cables", "the host has no cable", remedy));
        }
        Ok(Host { name, role, number, cables })
    }

    fn link(&self, raw: &RawLink, tors: &[Tor], before: &[Link]) -> Result<Link, ParseError> {
        let link = Link { a: self.known_tor("link.a", &raw.a, tors)?, b: self.known_tor("link.b", &raw.b, tors)? };
        let ends = |link: &Link| BTreeSet::from([link.a.clone(), link.b.clone()]);
        if link.a == link.b {
            let problem = format!("both ends are \"{}\"", link.a);
            return Err(self.error(raw.b.span().start, "link.b", problem, "name another ToR"));
        }
        if before.iter().any(|other| ends(other) == ends(&link)) {
            let problem = format!("\"{}\" and \"{}\" have a link already", link.a, link.b);
            return Err(self.error(raw.b.span().start, "link.b", problem, "remove this [[link]]"));
        }
        Ok(link)
    }

    fn known_tor(&self, field: &str, word: &Spanned<String>, tors: &[Tor]) -> Result<String, ParseError> {
        let name = word.get_ref();
        let names: Vec<&str> = tors.iter().map(|tor| tor.name.as_str()).collect();
        if names.contains(&name.as_str()) {
            return Ok(name.clone());
        }
        let remedy = match nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("the ToRs are: {}", names.join(", ")),
        };
        Err(self.error(word.span().start, field, format!("no ToR is named \"{name}\""), remedy))
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
