//! What names there are and what they stand for: Kubernetes' DNS specification over tables of Services, EndpointSlices
//! and ServiceImports. Pure: no sockets and no messages; `watch` fills the tables, `message` asks.
//!
//! | name                                                  | stands for                                              |
//! |-------------------------------------------------------|---------------------------------------------------------|
//! | `<svc>.<ns>.svc.cluster.local`                        | the ClusterIPs; headless: the endpoints; ExternalName: its name |
//! | `<host>.<svc>.<ns>.svc.cluster.local`                 | one endpoint, by hostname or by address with dashes     |
//! | `_<port>._<protocol>.<svc>.<ns>.svc.cluster.local`    | SRV                                                     |
//! | `<svc>.<ns>.svc.clusterset.local`                     | the ServiceImport's addresses; headless: the endpoints  |
//! | `<host>.<cluster>.<svc>.<ns>.svc.clusterset.local`    | one endpoint of one cluster                             |

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The domain of one cluster's Services.
pub(crate) const CLUSTER_DOMAIN: &str = "cluster.local";
/// The domain of Services that many clusters offer together.
pub(crate) const SET_DOMAIN: &str = "clusterset.local";

/// Namespace and name of an object.
pub(crate) type Key = (String, String);

/// Everything that names follow from.
#[derive(Debug, Default)]
pub(crate) struct Zone {
    pub(crate) services: BTreeMap<Key, Service>,
    pub(crate) slices: BTreeMap<Key, Slice>,
    pub(crate) imports: BTreeMap<Key, Import>,
    /// Tables that have been listed once; with one missing, nothing can be denied.
    pub(crate) listed: BTreeSet<&'static str>,
}

/// Tables without which there is no answer.
pub(crate) const NEEDED: [&str; 2] = ["services", "endpointslices"];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Service {
    /// Empty for headless Services.
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) external_name: Option<String>,
    pub(crate) ports: Vec<Port>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: String,
    /// In lower case.
    pub(crate) protocol: String,
    pub(crate) number: u16,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Slice {
    /// The Service that it belongs to.
    pub(crate) service: Option<String>,
    /// The imported Service and the cluster that its endpoints are in.
    pub(crate) imported: Option<(String, String)>,
    /// The ready ones.
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) ports: Vec<Port>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) hostname: Option<String>,
    pub(crate) addresses: Vec<IpAddr>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Import {
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) headless: bool,
    pub(crate) ports: Vec<Port>,
}

/// What a question asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    V4,
    V6,
    Srv,
    /// Existing names have nothing of it.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    Address(IpAddr),
    /// Another name to ask for.
    Alias(String),
    Server {
        port: u16,
        target: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Empty: the name is there, but has nothing of that kind.
    Found(Vec<Data>),
    NoSuchName,
    /// The tables are not complete yet.
    NotYet,
    /// None of our domains.
    NotOurs,
}

/// Which of the two domains a name lies in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Domain {
    Cluster,
    Set,
}

impl Zone {
    /// Answers a question for `name`: lower case, without the final dot.
    pub(crate) fn answer(&self, name: &str, kind: Kind) -> Answer {
        let inside = |domain: &str| {
            let rest = name.strip_suffix(domain)?;
            if rest.is_empty() { Some("") } else { rest.strip_suffix('.') }
        };
        let (domain, rest) = match (inside(CLUSTER_DOMAIN), inside(SET_DOMAIN)) {
            (Some(rest), _) => (Domain::Cluster, rest),
            (_, Some(rest)) => (Domain::Set, rest),
            (None, None) => return Answer::NotOurs,
        };
        if !NEEDED.iter().all(|table| self.listed.contains(table)) {
            return Answer::NotYet;
        }
        let labels: Vec<&str> = rest.split('.').filter(|label| !label.is_empty()).collect();
        match self.lookup(domain, &labels) {
            None => Answer::NoSuchName,
            Some(all) => Answer::Found(all.into_iter().filter(|data| fits(data, kind)).collect()),
        }
    }

    /// Everything under a name; `None` when there is no such name.
    fn lookup(&self, domain: Domain, labels: &[&str]) -> Option<Vec<Data>> {
        match labels {
            [] | ["svc"] => Some(Vec::new()),
            [namespace, "svc"] => self.has_namespace(domain, namespace).then(Vec::new),
            [name, namespace, "svc"] => self.service(domain, namespace, name),
            [protocol, name, namespace, "svc"] if protocol.starts_with('_') => {
                let ports = self.ports(domain, namespace, name)?;
                ports.iter().any(|port| port.protocol == protocol[1..]).then(Vec::new)
            }
            [host, name, namespace, "svc"] => match self.endpoints(domain, namespace, name, None) {
                // Of a set, it may be a cluster: its endpoints have names below it.
                _ if domain == Domain::Set => {
                    (!self.endpoints(domain, namespace, name, Some(host)).is_empty()).then(Vec::new)
                }
                endpoints => one(endpoints, host),
            },
            [port, protocol, name, namespace, "svc"] if port.starts_with('_') && protocol.starts_with('_') => {
                self.servers(domain, namespace, name, &port[1..], &protocol[1..])
            }
            [host, cluster, name, namespace, "svc"] if domain == Domain::Set => {
                one(self.endpoints(domain, namespace, name, Some(cluster)), host)
            }
            _ => None,
        }
    }

    fn has_namespace(&self, domain: Domain, namespace: &str) -> bool {
        match domain {
            Domain::Cluster => self.services.keys().any(|(of, _)| of == namespace),
            Domain::Set => self.imports.keys().any(|(of, _)| of == namespace),
        }
    }

    fn service(&self, domain: Domain, namespace: &str, name: &str) -> Option<Vec<Data>> {
        let key = (namespace.to_owned(), name.to_owned());
        let (ips, headless) = match domain {
            Domain::Cluster => {
                let service = self.services.get(&key)?;
                if let Some(alias) = &service.external_name {
                    return Some(vec![Data::Alias(alias.clone())]);
                }
                (&service.ips, service.ips.is_empty())
            }
            Domain::Set => self.imports.get(&key).map(|import| (&import.ips, import.headless))?,
        };
        if !headless {
            return Some(ips.iter().copied().map(Data::Address).collect());
        }
        let endpoints = self.endpoints(domain, namespace, name, None);
        Some(endpoints.iter().flat_map(|endpoint| &endpoint.addresses).copied().map(Data::Address).collect())
    }

    fn ports(&self, domain: Domain, namespace: &str, name: &str) -> Option<&[Port]> {
        let key = (namespace.to_owned(), name.to_owned());
        match domain {
            Domain::Cluster => self.services.get(&key).map(|service| service.ports.as_slice()),
            Domain::Set => self.imports.get(&key).map(|import| import.ports.as_slice()),
        }
    }

    fn slices<'a, 'n>(
        &'a self,
        domain: Domain,
        namespace: &'n str,
        name: &'n str,
    ) -> impl Iterator<Item = &'a Slice> + use<'a, 'n> {
        let from = (namespace.to_owned(), String::new());
        let here = self.slices.range(from..).take_while(move |((of, _), _)| of == namespace);
        here.map(|(_, slice)| slice).filter(move |slice| match domain {
            Domain::Cluster => slice.service.as_deref() == Some(name),
            Domain::Set => slice.imported.as_ref().is_some_and(|(service, _)| service == name),
        })
    }

    /// The endpoints of a Service; of an imported one, perhaps only those in one cluster.
    fn endpoints(&self, domain: Domain, namespace: &str, name: &str, cluster: Option<&str>) -> Vec<&Endpoint> {
        let in_cluster = |slice: &&Slice| {
            cluster.is_none_or(|wanted| slice.imported.as_ref().is_some_and(|(_, cluster)| cluster == wanted))
        };
        self.slices(domain, namespace, name).filter(in_cluster).flat_map(|slice| &slice.endpoints).collect()
    }

    fn servers(&self, domain: Domain, namespace: &str, name: &str, port: &str, protocol: &str) -> Option<Vec<Data>> {
        let fits = |candidate: &&Port| candidate.name == port && candidate.protocol == protocol;
        let found = self.ports(domain, namespace, name)?.iter().find(fits)?;
        let key = (namespace.to_owned(), name.to_owned());
        let headless = match domain {
            Domain::Cluster => self.services.get(&key)?.ips.is_empty(),
            Domain::Set => self.imports.get(&key)?.headless,
        };
        let zone = if domain == Domain::Cluster { CLUSTER_DOMAIN } else { SET_DOMAIN };
        if !headless {
            let target = format!("{name}.{namespace}.svc.{zone}");
            return Some(vec![Data::Server { port: found.number, target }]);
        }
        let mut servers = Vec::new();
        for slice in self.slices(domain, namespace, name) {
            let Some(here) = slice.ports.iter().find(fits) else { continue };
            let cluster =
                slice.imported.iter().filter(|_| domain == Domain::Set).map(|(_, cluster)| format!("{cluster}."));
            let middle = cluster.collect::<String>();
            for endpoint in &slice.endpoints {
                for label in labels(endpoint) {
                    let target = format!("{label}.{middle}{name}.{namespace}.svc.{zone}");
                    servers.push(Data::Server { port: here.number, target });
                }
            }
        }
        Some(servers)
    }
}

fn fits(data: &Data, kind: Kind) -> bool {
    match data {
        Data::Address(IpAddr::V4(_)) => kind == Kind::V4,
        Data::Address(IpAddr::V6(_)) => kind == Kind::V6,
        Data::Server { .. } => kind == Kind::Srv,
        // A name that is another name is that for every kind.
        Data::Alias(_) => true,
    }
}

/// The names of an endpoint below its Service: its hostname or, without one, its addresses with dashes.
fn labels(endpoint: &Endpoint) -> Vec<String> {
    match &endpoint.hostname {
        Some(hostname) => vec![hostname.clone()],
        None => endpoint.addresses.iter().map(|address| address.to_string().replace(['.', ':'], "-")).collect(),
    }
}

/// The addresses of the endpoints that have this name.
fn one(endpoints: Vec<&Endpoint>, host: &str) -> Option<Vec<Data>> {
    let named: Vec<Data> = endpoints
        .into_iter()
        .filter(|endpoint| labels(endpoint).iter().any(|label| label == host))
        .flat_map(|endpoint| endpoint.addresses.iter().copied().map(Data::Address))
        .collect();
    (!named.is_empty()).then_some(named)
}
