//! What one remote cluster says: its exports, Services and EndpointSlices, typed and checked. Takes the raw changes of
//! `causeway-mesh-remote` and tells which Services each one touches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use causeway_k8s::names::LABEL_SERVICE_NAME;
use causeway_k8s::watch::Key;
use causeway_mesh_kv::Revision;
use causeway_mesh_remote::{Change, RemoteInfo, Settings, Stage};
use causeway_mesh_schema::{ClusterEndpointSlice, ClusterService, Invalid, Kind, ServiceExportSpec, Value, read};

use super::shelf::Shelf;

/// Most entries of a cluster that are named as unreadable; the others are counted by the reader of the cluster.
const MOST_FAULTS: usize = 100;

/// One remote cluster.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    info: Option<Arc<RemoteInfo>>,
    stage: Stage,
    /// Everything it ever said became void, so that nothing of before is awaited.
    forgotten: bool,
    exports: Shelf<ServiceExportSpec>,
    services: Shelf<ClusterService>,
    slices: Shelf<ClusterEndpointSlice>,
    /// Names of the slices of each Service.
    slices_of: BTreeMap<Key, BTreeSet<Box<str>>>,
    faults: BTreeMap<(Kind, Box<str>), Invalid>,
}

/// The Services whose exports or backends a change touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) exports: BTreeSet<Key>,
    pub(crate) backends: BTreeSet<Key>,
    /// All, because something is known now that was not before.
    pub(crate) everything: bool,
}

impl Touched {
    pub(super) fn everything() -> Touched {
        Touched { everything: true, ..Touched::default() }
    }

    pub(super) fn extend(&mut self, other: Touched) {
        self.exports.extend(other.exports);
        self.backends.extend(other.backends);
        self.everything |= other.everything;
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Touched::default()
    }
}

/// An entry with where it stands.
struct Put<'a> {
    kind: Kind,
    name: Box<str>,
    value: &'a [u8],
    written: (u64, Revision),
}

impl Cluster {
    /// Takes in one change.
    pub(super) fn apply(&mut self, change: Change) -> Touched {
        match change {
            Change::Connected(info) => {
                self.info = Some(info);
                // What it offers decides what is awaited of it.
                Touched::everything()
            }
            Change::Relisting(kind) => {
                // Those that are still there come again; one that goes unseen is told of by nobody.
                self.faults.retain(|(of, _), _| *of != kind);
                match kind {
                    Kind::ServiceExports => self.exports.relisting(),
                    Kind::Services => self.services.relisting(),
                    Kind::EndpointSlices => self.slices.relisting(),
                    Kind::Nodes | Kind::Identities | Kind::Ips => {}
                }
                Touched::default()
            }
            Change::Put { kind, name, value, revision, store } => {
                self.put(Put { kind, name, value: &value, written: (store, revision) })
            }
            Change::Deleted { kind, name, .. } => self.delete(kind, &name),
            Change::Listed(kind) => self.listed(kind),
            Change::Forget => {
                let stage = self.stage;
                *self = Cluster { stage, forgotten: true, ..Cluster::default() };
                Touched::everything()
            }
            Change::Stage(stage) => {
                self.stage = stage;
                Touched::everything()
            }
        }
    }

    fn put(&mut self, put: Put<'_>) -> Touched {
        let known = match put.kind {
            Kind::ServiceExports => self.exports.see(&put.name, put.written),
            Kind::Services => self.services.see(&put.name, put.written),
            Kind::EndpointSlices => self.slices.see(&put.name, put.written),
            Kind::Nodes | Kind::Identities | Kind::Ips => true,
        };
        // Entries come after `Connected`; without it nothing says whose they are.
        let Some(info) = self.info.as_ref().filter(|_| !known) else { return Touched::default() };
        let fault = (put.kind, put.name.clone());
        match read(put.kind, &put.name, put.value, &info.origin) {
            Ok(value) => {
                self.faults.remove(&fault);
                self.hold(put, value)
            }
            Err(invalid) => {
                // What was good before stays, as with objects of our own server.
                if self.faults.len() < MOST_FAULTS {
                    self.faults.insert(fault, invalid);
                }
                Touched::default()
            }
        }
    }

    fn hold(&mut self, Put { name, written, .. }: Put<'_>, value: Value) -> Touched {
        let mut touched = Touched::default();
        match value {
            Value::ServiceExport(export) => {
                touched.exports.insert(Key::new(&*export.namespace, &*export.name));
                self.exports.put(name, written, export);
            }
            Value::Service(service) => {
                touched.backends.insert(Key::new(&*service.namespace, &*service.name));
                self.services.put(name, written, service);
            }
            Value::EndpointSlice(slice) => {
                let service = service_of(&slice);
                if let Some(service) = &service {
                    self.slices_of.entry(service.clone()).or_default().insert(name.clone());
                }
                let before = self.slices.put(name.clone(), written, slice);
                let before =
                    before.and_then(|slice| service_of(&slice)).filter(|before| Some(before) != service.as_ref());
                touched.backends.extend(before.inspect(|before| self.unlink(before, &name)).into_iter().chain(service));
            }
            Value::Node(_) | Value::Identity { .. } | Value::Ip(_) => {}
        }
        touched
    }

    fn delete(&mut self, kind: Kind, name: &str) -> Touched {
        self.faults.remove(&(kind, Box::from(name)));
        let mut touched = Touched::default();
        match kind {
            Kind::ServiceExports => {
                let gone = self.exports.remove(name);
                touched.exports.extend(gone.map(|export| Key::new(&*export.namespace, &*export.name)));
            }
            Kind::Services => {
                let gone = self.services.remove(name);
                touched.backends.extend(gone.map(|service| Key::new(&*service.namespace, &*service.name)));
            }
            Kind::EndpointSlices => {
                let service = self.slices.remove(name).and_then(|slice| service_of(&slice));
                touched.backends.extend(service.inspect(|service| self.unlink(service, name)));
            }
            Kind::Nodes | Kind::Identities | Kind::Ips => {}
        }
        touched
    }

    fn listed(&mut self, kind: Kind) -> Touched {
        let mut touched = Touched::default();
        let first = match kind {
            Kind::ServiceExports => {
                let first = !self.exports.listed();
                let gone = self.exports.sweep();
                touched.exports.extend(gone.iter().map(|(_, export)| Key::new(&*export.namespace, &*export.name)));
                first
            }
            Kind::Services => {
                let first = !self.services.listed();
                let gone = self.services.sweep();
                touched.backends.extend(gone.iter().map(|(_, service)| Key::new(&*service.namespace, &*service.name)));
                first
            }
            Kind::EndpointSlices => {
                let first = !self.slices.listed();
                for (name, slice) in self.slices.sweep() {
                    let service = service_of(&slice);
                    touched.backends.extend(service.inspect(|service| self.unlink(service, &name)));
                }
                first
            }
            Kind::Nodes | Kind::Identities | Kind::Ips => false,
        };
        touched.everything = first;
        touched
    }

    fn unlink(&mut self, service: &Key, slice: &str) {
        let Some(names) = self.slices_of.get_mut(service) else { return };
        names.remove(slice);
        if names.is_empty() {
            self.slices_of.remove(service);
        }
    }

    /// How much its words are still worth.
    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether it may still have exports that it has not told of.
    pub(crate) fn awaits_exports(&self, settings: &Settings) -> bool {
        !self.forgotten && self.may_offer(Kind::ServiceExports, settings) && !self.exports.listed()
    }

    /// Whether it may still have backends that it has not told of.
    pub(crate) fn awaits_backends(&self, settings: &Settings) -> bool {
        let services = self.may_offer(Kind::Services, settings) && !self.services.listed();
        let slices = self.may_offer(Kind::EndpointSlices, settings) && !self.slices.listed();
        !self.forgotten && (services || slices)
    }

    fn may_offer(&self, kind: Kind, settings: &Settings) -> bool {
        match &self.info {
            Some(info) => settings.kinds_of(&info.config.capabilities).contains(&kind),
            None => settings.kinds.contains(&kind),
        }
    }

    pub(crate) fn export(&self, service: &Key) -> Option<&Arc<ServiceExportSpec>> {
        self.exports.get(&service.to_string())
    }

    pub(crate) fn service(&self, service: &Key) -> Option<&Arc<ClusterService>> {
        self.services.get(&service.to_string())
    }

    /// Its EndpointSlices of a Service, by name.
    pub(crate) fn slices(&self, service: &Key) -> Vec<&Arc<ClusterEndpointSlice>> {
        let names = self.slices_of.get(service).into_iter().flatten();
        names.filter_map(|name| self.slices.get(name)).collect()
    }

    /// Every Service that it exports.
    pub(crate) fn exported(&self) -> impl Iterator<Item = Key> {
        self.exports.iter().map(|(_, export)| Key::new(&*export.namespace, &*export.name))
    }

    /// Entries that could not be read.
    pub(crate) fn faults(&self) -> impl Iterator<Item = (Kind, &str, &Invalid)> {
        self.faults.iter().map(|((kind, name), invalid)| (*kind, &**name, invalid))
    }
}

fn service_of(slice: &ClusterEndpointSlice) -> Option<Key> {
    slice.labels.get(LABEL_SERVICE_NAME).map(|name| Key::new(&*slice.namespace, &**name))
}
