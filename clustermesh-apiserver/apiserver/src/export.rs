//! What is published, and when: the pure heart of the mesh's API server.
//!
//! [`Export::handle`] takes what the watches say, [`Export::poll_output`] gives what shall stand in the store. A changed
//! object costs its own keys; a Service whose slices change in a flood is written once. Nothing that lives in a
//! namespace is told before all Namespaces are known, so that nothing leaks at the start.
//!
//! Not here: etcd, leases, canaries (`causeway-mesh-kv`); the shape of values (`convert`).

mod identities;
mod ips;
mod listing;
mod namespaces;
mod services;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use causeway_k8s::Rejected;
use causeway_k8s::mcs::offer;
use causeway_k8s::rejected::Fault;
use causeway_k8s::watch::Key;
use causeway_k8s::{CiliumEndpoint, CiliumEndpointSlice, CiliumIdentity, CiliumNode, ServiceExport};
use causeway_mesh_schema::{ExportMode, Kind};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::convert::{self, Home};
use identities::Identities;
use ips::Ips;
use listing::Listing;
use namespaces::Namespaces;
use services::Services;

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Source {
    Namespaces,
    Nodes,
    Identities,
    /// `CiliumEndpoint` or `CiliumEndpointSlice`, never both.
    Endpoints,
    Services,
    Slices,
    Exports,
}

impl Source {
    pub(crate) const ALL: [Source; 7] = [
        Source::Namespaces,
        Source::Nodes,
        Source::Identities,
        Source::Endpoints,
        Source::Services,
        Source::Slices,
        Source::Exports,
    ];

    /// The kind of its objects, for messages.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Source::Namespaces => "Namespace",
            Source::Nodes => "CiliumNode",
            Source::Identities => "CiliumIdentity",
            Source::Endpoints => "CiliumEndpoint",
            Source::Services => "Service",
            Source::Slices => "EndpointSlice",
            Source::Exports => "ServiceExport",
        }
    }
}

/// An object that is there.
#[derive(Debug, Clone)]
pub(crate) enum Object {
    Namespace(Box<Namespace>),
    Node(Box<CiliumNode>),
    Identity(Box<CiliumIdentity>),
    Endpoint(Box<CiliumEndpoint>),
    EndpointSlice(Box<CiliumEndpointSlice>),
    Service(Box<Service>),
    Slice(Box<EndpointSlice>),
    Export(Box<ServiceExport>),
}

/// What a watch says; the words of `causeway_k8s::watch`.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    Relist(Source),
    Applied(Key, Object),
    Deleted(Source, Key),
    Rejected(Source, Key, Rejected),
    Synced(Source),
}

/// What shall stand in the store. `name` is what follows the kind's prefix in the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    Set {
        kind: Kind,
        name: String,
        value: Bytes,
    },
    Delete {
        kind: Kind,
        name: String,
    },
    /// Everything of this kind that exists has been set. Said once.
    Listed(Kind),
}

/// How to export.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) home: Home,
    /// Whether a namespace that says nothing is global.
    pub(crate) default_global: bool,
    pub(crate) mode: ExportMode,
    /// Whether ServiceExports are watched at all.
    pub(crate) mcs: bool,
}

pub(crate) struct Export {
    settings: Settings,
    namespaces: Namespaces,
    nodes: BTreeMap<Key, ()>,
    identities: Identities,
    ips: Ips,
    services: Services,
    listings: BTreeMap<Source, Listing>,
    rejected: BTreeMap<(Source, Key), Vec<Rejected>>,
    told_listed: Vec<Kind>,
    out: VecDeque<Output>,
}

impl Export {
    pub(crate) fn new(settings: Settings) -> Export {
        Export {
            namespaces: Namespaces::new(settings.default_global),
            services: Services::new(settings.mode),
            settings,
            nodes: BTreeMap::new(),
            identities: Identities::default(),
            ips: Ips::default(),
            listings: Source::ALL.into_iter().map(|source| (source, Listing::default())).collect(),
            rejected: BTreeMap::new(),
            told_listed: Vec::new(),
            out: VecDeque::new(),
        }
    }

    pub(crate) fn handle(&mut self, input: Input) {
        match input {
            Input::Relist(source) => {
                let known = self.known(source);
                self.listing(source).begin(known);
            }
            Input::Applied(key, object) => {
                self.listing(object.source()).seen(&key);
                self.applied(key, object);
            }
            Input::Deleted(source, key) => self.gone(source, &key),
            Input::Rejected(source, key, rejected) => {
                self.listing(source).seen(&key);
                tracing::warn!(%rejected, "object rejected");
                self.rejected.insert((source, key), vec![rejected]);
            }
            Input::Synced(source) => {
                for key in self.listing(source).end() {
                    self.gone(source, &key);
                }
                if source == Source::Namespaces && self.namespaces.complete() {
                    self.reconsider_all();
                }
            }
        }
    }

    /// What to write next; `None` when everything is said.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        if self.out.is_empty() {
            self.services.flush(&self.namespaces, &mut self.out);
        }
        if self.out.is_empty() {
            self.tell_listed();
        }
        self.out.pop_front()
    }

    /// Objects of which something is not exported.
    pub(crate) fn rejected(&self) -> impl Iterator<Item = &Rejected> {
        self.rejected.values().flatten()
    }

    /// Objects of which something is not exported, counted by kind.
    pub(crate) fn rejected_of(&self, source: Source) -> usize {
        self.rejected.range((source, Key::default())..).take_while(|((at, _), _)| *at == source).count()
    }

    /// Kinds whose first complete set has been said.
    pub(crate) fn listed(&self) -> &[Kind] {
        &self.told_listed
    }

    fn listing(&mut self, source: Source) -> &mut Listing {
        self.listings.entry(source).or_default()
    }

    fn known(&self, source: Source) -> Vec<Key> {
        let mut keys: Vec<Key> = match source {
            Source::Namespaces => self.namespaces.keys(),
            Source::Nodes => self.nodes.keys().cloned().collect(),
            Source::Identities => self.identities.keys(),
            Source::Endpoints => self.ips.keys(),
            Source::Services => self.services.service_keys(),
            Source::Slices => self.services.slice_keys(),
            Source::Exports => self.services.export_keys(),
        };
        let rejected = self.rejected.range((source, Key::default())..).take_while(|((at, _), _)| *at == source);
        keys.extend(rejected.map(|((_, key), _)| key.clone()));
        keys
    }

    fn applied(&mut self, key: Key, object: Object) {
        let source = object.source();
        let faults = match object {
            Object::Namespace(object) => {
                if self.namespaces.set(&key.name, object.metadata.annotations.as_ref()) {
                    self.reconsider(&key.name);
                }
                Vec::new()
            }
            Object::Node(object) => self.node(&key, &object),
            Object::Identity(object) => match convert::identity::identity(&object) {
                Ok(identity) => {
                    let global = self.namespaces.is_global(&identity.namespace);
                    self.identities.set(identity, global, &mut self.out);
                    Vec::new()
                }
                Err(fault) => vec![fault],
            },
            Object::Endpoint(object) => {
                let converted = convert::endpoint::endpoint(&object);
                let global = self.namespaces.is_global(&key.namespace);
                let namespace = key.namespace.clone();
                self.ips.set(&key, &namespace, &converted.value, global, &mut self.out);
                converted.faults
            }
            Object::EndpointSlice(object) => {
                let converted = convert::endpoint::endpoint_slice(&object);
                let namespace = object.namespace.unwrap_or_default();
                let global = self.namespaces.is_global(&namespace);
                self.ips.set(&key, &namespace, &converted.value, global, &mut self.out);
                converted.faults
            }
            Object::Service(object) => {
                let converted = convert::service::service(&self.settings.home, &object);
                self.services.set_service(&key, converted.value, self.settings.mcs);
                converted.faults
            }
            Object::Slice(object) => match convert::slice::slice(&self.settings.home, &object) {
                Some(converted) => {
                    self.services.set_slice(&key, converted.value, &mut self.out);
                    converted.faults
                }
                None => {
                    self.services.drop_slice(&key, &mut self.out);
                    Vec::new()
                }
            },
            Object::Export(object) => {
                match offer::of_export(&object) {
                    Some(offer) => self.services.set_export(key.clone(), offer),
                    None => self.services.drop_export(&key),
                }
                Vec::new()
            }
        };
        self.note(source, key, faults);
    }

    fn node(&mut self, key: &Key, object: &CiliumNode) -> Vec<Fault> {
        let converted = convert::node::node(&self.settings.home, object);
        let value = converted.value.encode().into();
        self.nodes.insert(key.clone(), ());
        self.out.push_back(Output::Set { kind: Kind::Nodes, name: key.name.clone(), value });
        converted.faults
    }

    fn note(&mut self, source: Source, key: Key, faults: Vec<Fault>) {
        if faults.is_empty() {
            self.rejected.remove(&(source, key));
            return;
        }
        let rejected: Vec<_> = faults.into_iter().map(|fault| of(source, &key, fault)).collect();
        let at = (source, key);
        if self.rejected.get(&at) != Some(&rejected) {
            for rejected in &rejected {
                tracing::warn!(%rejected, "part of an object is not exported");
            }
            self.rejected.insert(at, rejected);
        }
    }

    fn gone(&mut self, source: Source, key: &Key) {
        self.rejected.remove(&(source, key.clone()));
        match source {
            Source::Namespaces => {
                if self.namespaces.forget(&key.name) {
                    self.reconsider(&key.name);
                }
            }
            Source::Nodes => {
                if self.nodes.remove(key).is_some() {
                    self.out.push_back(Output::Delete { kind: Kind::Nodes, name: key.name.clone() });
                }
            }
            Source::Identities => self.identities.forget(&key.name, &mut self.out),
            Source::Endpoints => self.ips.forget(key, &mut self.out),
            Source::Services => self.services.drop_service(key),
            Source::Slices => self.services.drop_slice(key, &mut self.out),
            Source::Exports => self.services.drop_export(key),
        }
    }

    /// The namespace has become global, or has ceased to be.
    fn reconsider(&mut self, namespace: &str) {
        let global = self.namespaces.is_global(namespace);
        self.identities.reconsider(namespace, global, &mut self.out);
        self.ips.reconsider(namespace, global, &mut self.out);
        self.services.reconsider(namespace);
    }

    fn reconsider_all(&mut self) {
        let mut all = self.identities.namespaces();
        all.extend(self.ips.namespaces());
        all.extend(self.services.namespaces());
        for namespace in all {
            self.reconsider(&namespace);
        }
    }

    fn tell_listed(&mut self) {
        for kind in Kind::ALL {
            if !self.told_listed.contains(&kind) && self.is_complete(kind) {
                self.told_listed.push(kind);
                self.out.push_back(Output::Listed(kind));
            }
        }
    }

    /// Kinds that are switched off are complete at once: readers wait for the canary of each kind.
    fn is_complete(&self, kind: Kind) -> bool {
        let mode = self.settings.mode;
        let needs: &[Source] = match kind {
            Kind::Nodes => &[Source::Nodes],
            Kind::Identities => &[Source::Namespaces, Source::Identities],
            Kind::Ips => &[Source::Namespaces, Source::Endpoints],
            Kind::Services if mode == ExportMode::EndpointSlices => &[],
            Kind::EndpointSlices if mode == ExportMode::Services => &[],
            Kind::Services | Kind::EndpointSlices => &[Source::Namespaces, Source::Services, Source::Slices],
            Kind::ServiceExports if !self.settings.mcs => &[],
            Kind::ServiceExports => &[Source::Namespaces, Source::Services, Source::Exports],
        };
        needs.iter().all(|source| self.listings.get(source).is_some_and(Listing::was_complete))
    }
}

impl Object {
    pub(crate) fn source(&self) -> Source {
        match self {
            Object::Namespace(_) => Source::Namespaces,
            Object::Node(_) => Source::Nodes,
            Object::Identity(_) => Source::Identities,
            Object::Endpoint(_) | Object::EndpointSlice(_) => Source::Endpoints,
            Object::Service(_) => Source::Services,
            Object::Slice(_) => Source::Slices,
            Object::Export(_) => Source::Exports,
        }
    }
}

fn of(source: Source, key: &Key, fault: Fault) -> Rejected {
    Rejected {
        kind: source.kind().to_owned(),
        object: key.to_string(),
        field: fault.field,
        message: fault.message,
        remedy: fault.remedy,
    }
}
