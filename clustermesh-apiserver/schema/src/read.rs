//! The door for what another cluster wrote: decoded, then held against its key and its cluster.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cluster::Origin;
use crate::export::ServiceExportSpec;
use crate::ip::IpIdentity;
use crate::labels::{self, CLUSTER_LABEL, Label};
use crate::node::Node;
use crate::service::ClusterService;
use crate::slice::{AddressType, ClusterEndpointSlice};
use crate::{Invalid, Kind, Value};

/// Identities below are the same in every cluster (Cilium `MinimalNumericIdentity`).
const FIRST_ALLOCATED: u32 = 256;
/// `reserved:host`: from another cluster's view its own node, for us a remote one.
const HOST: u32 = 1;
const REMOTE_NODE: u32 = 6;

/// Decodes and checks the entry `name` of a kind, which `origin` wrote. Never panics; memory is bounded by the value's
/// size, for endpoint slices by 16 MiB unpacked.
///
/// Checked are: the cluster's name and number in it, its own name against the key, the range of its identities, the
/// labels' cluster, and that addresses are addresses. What is known only elsewhere (overlaps with our own ranges, equal
/// numbers) is not.
///
/// # Errors
/// Names the entry, what is wrong with it, and where to look.
pub fn read(kind: Kind, name: &str, value: &[u8], origin: &Origin) -> Result<Value, Invalid> {
    let entry = Checked { kind, name, origin };
    let value = match kind {
        Kind::Nodes => entry.node(value).map(Value::Node),
        Kind::Identities => entry.identity(value),
        Kind::Ips => entry.ip(value).map(Value::Ip),
        Kind::Services => entry.service(value).map(Value::Service),
        Kind::EndpointSlices => entry.slice(value).map(Value::EndpointSlice),
        Kind::ServiceExports => entry.export(value).map(Value::ServiceExport),
    };
    value.map_err(|invalid| Invalid { key: format!("{}: {}", origin.name, invalid.key), ..invalid })
}

struct Checked<'a> {
    kind: Kind,
    name: &'a str,
    origin: &'a Origin,
}

impl Checked<'_> {
    fn node(&self, bytes: &[u8]) -> Result<Node, Invalid> {
        let node = Node::decode(self.name, bytes)?;
        self.cluster(&node.cluster, Some(node.cluster_id))?;
        self.is_name(&node.name)?;
        self.same("name", &node.name)?;
        for address in node.addresses.iter().filter(|a| a.kind.is_ip()) {
            let ip = crate::json::parse_ip(&address.ip).map_err(|problem| self.wrong(problem))?;
            self.usable(ip)?;
        }
        let family = |v6: bool| move |ip: IpAddr| ip.is_ipv6() == v6;
        self.ranges(node.ipv4_alloc_cidr.iter().chain(&node.ipv4_secondary_alloc_cidrs), family(false))?;
        self.ranges(node.ipv6_alloc_cidr.iter().chain(&node.ipv6_secondary_alloc_cidrs), family(true))?;
        for (ip, v6) in [
            (node.ipv4_health_ip, false),
            (node.ipv6_health_ip, true),
            (node.ipv4_ingress_ip, false),
            (node.ipv6_ingress_ip, true),
        ] {
            self.every(ip, family(v6))?;
        }
        Ok(node)
    }

    fn identity(&self, bytes: &[u8]) -> Result<Value, Invalid> {
        let id: u32 = self.name.parse().map_err(|_| self.wrong("the name is no identity's number"))?;
        self.same("number", &id.to_string())?;
        let range = self.origin.scale.identities(Some(self.origin.id));
        if !range.contains(&id) {
            return Err(self.foreign_identity(id));
        }
        let labels = labels::decode(&self.kind.entry(self.name), bytes)?;
        let parsed = || labels.iter().map(|label| Label::parse(label));
        if let Some(label) = parsed().find(|label| label.source == "reserved") {
            return Err(self.wrong(format!("claims the reserved label {:?}", label.key)));
        }
        let ours = self.origin.name.as_str();
        match parsed().find(|label| label.key == CLUSTER_LABEL) {
            Some(Label { source: "k8s", value, .. }) if value == ours => Ok(Value::Identity { id, labels }),
            Some(other) => {
                let (source, value) = (other.source, other.value);
                Err(self.wrong(format!("the label {CLUSTER_LABEL} is {source}:{value:?}, not k8s:{ours:?}")))
            }
            None => Err(self.wrong(format!("no label k8s:{CLUSTER_LABEL}"))),
        }
    }

    fn ip(&self, bytes: &[u8]) -> Result<IpIdentity, Invalid> {
        let mut ip = IpIdentity::decode(self.name, bytes)?;
        self.same("address", &ip.entry_name())?;
        self.usable(ip.prefix.addr())?;
        self.ranges([&ip.prefix], |_| true)?;
        let range = self.origin.scale.identities(Some(self.origin.id));
        if ip.identity >= FIRST_ALLOCATED && !range.contains(&ip.identity) {
            return Err(self.foreign_identity(ip.identity));
        }
        if ip.identity == HOST {
            ip.identity = REMOTE_NODE;
        }
        Ok(ip)
    }

    fn service(&self, bytes: &[u8]) -> Result<ClusterService, Invalid> {
        let service = ClusterService::decode(self.name, bytes)?;
        self.cluster(&service.cluster, Some(service.cluster_id))?;
        self.namespaced(&service.namespace, &service.name)?;
        self.every(service.backends.keys().copied(), is_backend)?;
        Ok(service)
    }

    fn slice(&self, bytes: &[u8]) -> Result<ClusterEndpointSlice, Invalid> {
        let slice = ClusterEndpointSlice::decode(self.name, bytes)?;
        self.cluster(&slice.cluster, Some(slice.cluster_id))?;
        self.namespaced(&slice.namespace, &slice.name)?;
        for address in slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses) {
            let ip: Option<IpAddr> = address.parse().ok();
            let fits = match slice.address_type {
                AddressType::Ipv4 => ip.is_some_and(|ip| ip.is_ipv4()),
                AddressType::Ipv6 => ip.is_some_and(|ip| ip.is_ipv6()),
            };
            if !fits {
                return Err(self.wrong(format!("{address:?} is no {} address", slice.address_type.word())));
            }
            self.every(ip, is_backend)?;
        }
        Ok(slice)
    }

    fn export(&self, bytes: &[u8]) -> Result<ServiceExportSpec, Invalid> {
        let spec = ServiceExportSpec::decode(self.name, bytes)?;
        self.cluster(&spec.cluster, None)?;
        self.namespaced(&spec.namespace, &spec.name)?;
        let in_words = [
            ("type", Some(spec.kind.as_str()), &["ClusterSetIP", "Headless"][..]),
            ("session affinity", Some(spec.session_affinity.as_str()), &["", "ClientIP", "None"]),
            ("internal traffic policy", spec.internal_traffic_policy.as_deref(), &["Cluster", "Local"]),
        ];
        for (what, word, words) in in_words {
            if let Some(word) = word.filter(|word| !words.contains(word)) {
                return Err(self.wrong(format!("the {what} {word:?} is none of {words:?}")));
            }
        }
        if !is_timestamp(&spec.export_creation_timestamp) {
            return Err(self.wrong(format!("the creation time {:?} is none", spec.export_creation_timestamp)));
        }
        Ok(spec)
    }

    /// The name and number in the value are those of the cluster that it was read from.
    fn cluster(&self, name: &str, id: Option<u32>) -> Result<(), Invalid> {
        let origin = self.origin;
        if name != origin.name.as_str() {
            let problem = format!("says that it is cluster {name:?}'s");
            return Err(self.invalid(problem, "name the configuration file as the cluster names itself"));
        }
        match id {
            Some(id) if id != u32::from(origin.id) => {
                let problem = format!("has the cluster id {id}, but its cluster says {}", origin.id);
                Err(self
                    .invalid(problem, "restart that cluster's clustermesh-apiserver after a change of --cluster-id"))
            }
            _ => Ok(()),
        }
    }

    fn namespaced(&self, namespace: &str, name: &str) -> Result<(), Invalid> {
        self.is_name(namespace)?;
        self.is_name(name)?;
        self.same("name", &format!("{namespace}/{name}"))
    }

    fn same(&self, what: &str, inside: &str) -> Result<(), Invalid> {
        if inside == self.name {
            Ok(())
        } else {
            Err(self.wrong(format!("its key is another one than its {what} {inside:?}")))
        }
    }

    /// A name as Kubernetes allows it; above all none that is empty or has a slash.
    fn is_name(&self, text: &str) -> Result<(), Invalid> {
        let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
        if (1..=253).contains(&text.len()) && text.bytes().all(good) {
            return Ok(());
        }
        Err(self.wrong(format!("{text:?} is no name that Kubernetes would allow")))
    }

    /// Ranges of the right family, and none that is everything.
    fn ranges<'n>(
        &self,
        nets: impl IntoIterator<Item = &'n IpNet>,
        family: impl Fn(IpAddr) -> bool,
    ) -> Result<(), Invalid> {
        for net in nets {
            if net.prefix_len() == 0 || !family(net.addr()) {
                return Err(self.wrong(format!("{net} is no range that a node can have there")));
            }
        }
        Ok(())
    }

    /// An address that another node or pod can have.
    fn usable(&self, ip: IpAddr) -> Result<(), Invalid> {
        self.every([ip], |ip| !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast())
    }

    fn every(&self, ips: impl IntoIterator<Item = IpAddr>, good: impl Fn(IpAddr) -> bool) -> Result<(), Invalid> {
        match ips.into_iter().find(|&ip| !good(ip)) {
            Some(ip) => Err(self.wrong(format!("{ip} is no address that can stand there"))),
            None => Ok(()),
        }
    }

    fn foreign_identity(&self, id: u32) -> Invalid {
        let range = self.origin.scale.identities(Some(self.origin.id));
        let (id_of, first, last) = (self.origin.id, range.start(), range.end());
        let problem = format!("identity {id} is outside {first} to {last}, which cluster id {id_of} owns");
        self.invalid(problem, "give every cluster its own --cluster-id and delete its older CiliumIdentity objects")
    }

    fn wrong(&self, problem: impl std::fmt::Display) -> Invalid {
        self.invalid(problem, Invalid::WRITER)
    }

    fn invalid(&self, problem: impl std::fmt::Display, remedy: &str) -> Invalid {
        Invalid::new(self.kind.entry(self.name), problem, remedy)
    }
}

/// What Kubernetes allows as an endpoint (`ValidateNonSpecialIP`): no unspecified, loopback, link-local or multicast one.
/// Nor one of IPv4 dressed as IPv6 (`::ffff:10.0.0.1`): no packet bears it, and it would get past the tests of IPv4.
fn is_backend(ip: IpAddr) -> bool {
    let odd = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
    };
    !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || odd)
}

/// `2026-01-01T00:00:00Z`, or with another zone or fractions behind the seconds.
fn is_timestamp(text: &str) -> bool {
    let shape = b"0000-00-00T00:00:00";
    let fits = |(&c, &s): (&u8, &u8)| if s == b'0' { c.is_ascii_digit() } else { c == s };
    text.len() > shape.len() && text.as_bytes().iter().zip(shape).all(fits)
}
