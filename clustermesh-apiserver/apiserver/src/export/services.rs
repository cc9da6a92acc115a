//! Services with their slices and exports.
//!
//! Every change marks its Service; [`Services::flush`] then writes what follows from it, once for each Service however
//! many of its slices changed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use causeway_k8s::mcs::offer::Offer;
use causeway_k8s::watch::Key;
use causeway_mesh_schema::{ClusterService, ExportMode, ForZone, Kind, Ports, ServiceExportSpec, Zone};

use super::Output;
use super::namespaces::Namespaces;
use crate::convert::service::Told as ToldService;
use crate::convert::slice::{Backend, Told as ToldSlice};

#[derive(Debug)]
pub(super) struct Services {
    mode: ExportMode,
    services: BTreeMap<Key, Service>,
    slices: BTreeMap<Key, Slice>,
    exports: BTreeMap<Key, Offer>,
    /// Service -> names of its slices, also while there is no Service.
    slices_of: BTreeMap<Key, BTreeSet<Box<str>>>,
    /// Services of which something stands in the store, and the value of `services/v1`.
    told: BTreeMap<Key, Told>,
    dirty: BTreeSet<Key>,
}

#[derive(Debug)]
struct Service {
    shared: bool,
    service: Box<ClusterService>,
    export: Option<Box<ServiceExportSpec>>,
}

#[derive(Debug)]
struct Slice {
    service: Key,
    /// Encoded.
    value: Bytes,
    backends: Box<[Backend]>,
    ports: Ports,
    store: Standing,
}

/// What the store holds of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Nothing,
    Older,
    Newest,
}

#[derive(Debug, Default)]
struct Told {
    service: Option<Bytes>,
    export: Option<Bytes>,
}

impl Services {
    pub(super) fn new(mode: ExportMode) -> Services {
        Services {
            mode,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            exports: BTreeMap::new(),
            slices_of: BTreeMap::new(),
            told: BTreeMap::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// `mcs`: whether exports are of interest; if not, nothing is kept for them.
    pub(super) fn set_service(&mut self, key: &Key, told: ToldService, mcs: bool) {
        let export = told.export.filter(|_| mcs).map(Box::new);
        let row = Service { shared: told.shared, service: Box::new(told.service), export };
        self.services.insert(key.clone(), row);
        self.dirty.insert(key.clone());
    }

    pub(super) fn drop_service(&mut self, key: &Key) {
        self.services.remove(key);
        self.dirty.insert(key.clone());
    }

    pub(super) fn set_slice(&mut self, key: &Key, told: ToldSlice, out: &mut VecDeque<Output>) {
        let service = Key::new(key.namespace.as_str(), told.service);
        if self.slices.get(key).is_some_and(|old| old.service != service) {
            self.drop_slice(key, out);
        }
        let value = Bytes::from(told.slice.encode());
        let store = match self.slices.get(key) {
            Some(old) if old.value == value => old.store,
            Some(Slice { store: Standing::Nothing, .. }) | None => Standing::Nothing,
            Some(_) => Standing::Older,
        };
        self.slices_of.entry(service.clone()).or_default().insert(key.name.as_str().into());
        self.dirty.insert(service.clone());
        let row = Slice { service, value, backends: told.backends, ports: told.ports, store };
        self.slices.insert(key.clone(), row);
    }

    pub(super) fn drop_slice(&mut self, key: &Key, out: &mut VecDeque<Output>) {
        let Some(old) = self.slices.remove(key) else { return };
        if old.store != Standing::Nothing {
            out.push_back(Output::Delete { kind: Kind::EndpointSlices, name: name(key) });
        }
        if let Some(names) = self.slices_of.get_mut(&old.service) {
            names.remove(key.name.as_str());
            if names.is_empty() {
                self.slices_of.remove(&old.service);
            }
        }
        self.dirty.insert(old.service);
    }

    pub(super) fn set_export(&mut self, key: Key, offer: Offer) {
        self.exports.insert(key.clone(), offer);
        self.dirty.insert(key);
    }

    pub(super) fn drop_export(&mut self, key: &Key) {
        self.exports.remove(key);
        self.dirty.insert(key.clone());
    }

    pub(super) fn reconsider(&mut self, namespace: &str) {
        let services = of_namespace(&self.services, namespace);
        let told = of_namespace(&self.told, namespace);
        let exports = of_namespace(&self.exports, namespace);
        let all: Vec<Key> = services.chain(told).chain(exports).cloned().collect();
        self.dirty.extend(all);
    }

    pub(super) fn namespaces(&self) -> BTreeSet<String> {
        self.services.keys().chain(self.exports.keys()).map(|key| key.namespace.clone()).collect()
    }

    pub(super) fn service_keys(&self) -> Vec<Key> {
        self.services.keys().cloned().collect()
    }

    pub(super) fn slice_keys(&self) -> Vec<Key> {
        self.slices.keys().cloned().collect()
    }

    pub(super) fn export_keys(&self) -> Vec<Key> {
        self.exports.keys().cloned().collect()
    }

    /// Says what follows from the changes since the last time.
    pub(super) fn flush(&mut self, namespaces: &Namespaces, out: &mut VecDeque<Output>) {
        while let Some(key) = self.dirty.pop_first() {
            let global = namespaces.is_global(&key.namespace);
            let service = self.services.get(&key);
            let shared = global && service.is_some_and(|service| service.shared);
            let mut told = self.told.remove(&key).unwrap_or_default();

            let wanted = service.filter(|_| shared && self.mode != ExportMode::EndpointSlices);
            let value = wanted.map(|service| Bytes::from(self.with_backends(&key, service).encode()));
            tell(Kind::Services, &key, &mut told.service, value, out);

            let offered = self.exports.get(&key).filter(|_| global);
            let export = offered.zip(service.and_then(|service| service.export.as_ref()));
            let value = export.map(|(offer, spec)| Bytes::from(offer.with(spec).encode()));
            tell(Kind::ServiceExports, &key, &mut told.export, value, out);

            self.flush_slices(&key, shared && self.mode != ExportMode::Services, out);
            if told.service.is_some() || told.export.is_some() {
                self.told.insert(key, told);
            }
        }
    }

    fn flush_slices(&mut self, service: &Key, wanted: bool, out: &mut VecDeque<Output>) {
        let Some(names) = self.slices_of.get(service) else { return };
        for slice_name in names {
            let key = Key::new(service.namespace.as_str(), slice_name.as_ref());
            let Some(slice) = self.slices.get_mut(&key) else { continue };
            match (wanted, slice.store) {
                (true, Standing::Nothing | Standing::Older) => {
                    slice.store = Standing::Newest;
                    let value = slice.value.clone();
                    out.push_back(Output::Set { kind: Kind::EndpointSlices, name: name(&key), value });
                }
                (false, Standing::Older | Standing::Newest) => {
                    slice.store = Standing::Nothing;
                    out.push_back(Output::Delete { kind: Kind::EndpointSlices, name: name(&key) });
                }
                (true, Standing::Newest) | (false, Standing::Nothing) => {}
            }
        }
    }

    /// The format has no conditions: backends that end are told only where no others are (KEP-1669), so that readers leave
    /// them while they still answer.
    fn with_backends(&self, key: &Key, service: &Service) -> ClusterService {
        let mut service = ClusterService::clone(&service.service);
        let slices = || {
            let names = self.slices_of.get(key).into_iter().flatten();
            names.filter_map(|name| self.slices.get(&Key::new(key.namespace.as_str(), name.as_ref())))
        };
        let any_ready = slices().any(|slice| slice.backends.iter().any(|backend| backend.ready));
        for slice in slices() {
            for backend in slice.backends.iter().filter(|backend| backend.ready || !any_ready) {
                // An address may stand in several slices, with other ports in each.
                service.backends.entry(backend.ip).or_default().extend(slice.ports.clone());
                if let Some(hostname) = &backend.hostname {
                    service.hostnames.insert(backend.ip, hostname.to_string());
                }
                if let Some(zone) = &backend.zone {
                    let for_zones = backend.for_zones.iter().map(|zone| ForZone { name: zone.to_string() });
                    service.zones.insert(backend.ip, Zone { zone: zone.to_string(), for_zones: for_zones.collect() });
                }
            }
        }
        service
    }
}

/// Puts `value` in place of what was told, where they differ.
fn tell(kind: Kind, key: &Key, told: &mut Option<Bytes>, value: Option<Bytes>, out: &mut VecDeque<Output>) {
    if *told == value {
        return;
    }
    out.push_back(match &value {
        Some(value) => Output::Set { kind, name: name(key), value: value.clone() },
        None => Output::Delete { kind, name: name(key) },
    });
    *told = value;
}

fn of_namespace<'a, V>(rows: &'a BTreeMap<Key, V>, namespace: &'a str) -> impl Iterator<Item = &'a Key> {
    let first = Key::new(namespace, "");
    let rest = rows.range((Bound::Included(first), Bound::Unbounded)).map(|(key, _)| key);
    rest.take_while(move |key| key.namespace == namespace)
}

fn name(key: &Key) -> String {
    format!("{}/{}", key.namespace, key.name)
}
