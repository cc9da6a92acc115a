//! What the mesh's trades watch, and which Services they have to look at again: a change of one Service costs one Service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use causeway_k8s::global::namespace_is_global;
use causeway_k8s::names::LABEL_SERVICE_NAME;
use causeway_k8s::watch::{Event, Key, Mirror};
use causeway_k8s::{ServiceExport, ServiceImport};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

use super::Trade;
use crate::mesh::{Said, Touched};
use crate::plan::mcs::derived::derived_name;
use crate::plan::{Space, mcs, slices};

/// Mirrors, indexes and backlogs.
#[derive(Default)]
pub(crate) struct MeshWorld {
    pub(crate) namespaces: Mirror<Namespace>,
    pub(crate) exports: Mirror<ServiceExport>,
    pub(crate) imports: Mirror<ServiceImport>,
    pub(crate) slices: Mirror<EndpointSlice>,
    index: SliceIndex,
    /// The exported Service of each derived one.
    exported: BTreeMap<Key, Key>,
    pub(crate) mcs: Backlog,
    pub(crate) sync: Backlog,
}

/// Services to look at.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// Somebody takes out what is put in; otherwise nothing is.
    taken: bool,
    keys: BTreeSet<Key>,
    /// All that there are, beside the keys.
    everything: bool,
}

impl Backlog {
    pub(crate) fn extend(&mut self, keys: impl IntoIterator<Item = Key>) {
        if self.taken {
            self.keys.extend(keys);
        }
    }

    fn everything(&mut self) {
        self.everything = self.taken;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.everything
    }

    /// Takes out at most so many. `all`: every Service that there is to look at.
    fn take(&mut self, most: usize, all: impl FnOnce() -> BTreeSet<Key>) -> Vec<Key> {
        if std::mem::take(&mut self.everything) {
            self.keys.extend(all());
        }
        let mut taken = Vec::new();
        while let Some(key) = (taken.len() < most).then(|| self.keys.pop_first()).flatten() {
            taken.push(key);
        }
        taken
    }
}

/// Which slices a Service has.
#[derive(Default)]
struct SliceIndex {
    service_of: BTreeMap<Key, Key>,
    slices_of: BTreeMap<Key, BTreeSet<Key>>,
}

impl SliceIndex {
    /// Takes in what `slice` says now; returns the Services that it belonged and belongs to.
    fn update(&mut self, slice: &Key, service: Option<Key>) -> Vec<Key> {
        let before = match &service {
            Some(service) => self.service_of.insert(slice.clone(), service.clone()),
            None => self.service_of.remove(slice),
        };
        if let Some(before) = &before
            && let Some(slices) = self.slices_of.get_mut(before)
        {
            slices.remove(slice);
            if slices.is_empty() {
                self.slices_of.remove(before);
            }
        }
        if let Some(service) = &service {
            self.slices_of.entry(service.clone()).or_default().insert(slice.clone());
        }
        before.into_iter().chain(service).collect()
    }
}

const BOTH: [Trade; 2] = [Trade::Mcs, Trade::Slices];

impl MeshWorld {
    /// `mcs`, `sync`: whether the trade is on.
    pub(crate) fn new(mcs: bool, sync: bool) -> MeshWorld {
        let backlog = |taken| Backlog { taken, ..Backlog::default() };
        MeshWorld { mcs: backlog(mcs), sync: backlog(sync), ..MeshWorld::default() }
    }

    /// `keys` are Services that came, changed or went.
    pub(super) fn services(&mut self, keys: &[Key], synced: bool) {
        for key in keys {
            self.mcs.extend([Some(key), self.exported.get(key)].into_iter().flatten().cloned());
        }
        self.sync.extend(keys.iter().cloned());
        self.all_when(synced);
    }

    pub(super) fn namespace(&mut self, event: Event<Namespace>) -> Vec<Trade> {
        let synced = matches!(event, Event::Synced);
        let changed = !self.namespaces.apply(event).is_empty();
        // Rare, and everything in it depends on it.
        self.all_when(synced || changed);
        if synced || changed { BOTH.to_vec() } else { Vec::new() }
    }

    pub(super) fn export(&mut self, event: Event<ServiceExport>) -> Vec<Trade> {
        self.all_when(matches!(event, Event::Synced));
        let keys = self.exports.apply(event);
        self.mcs.extend(keys);
        vec![Trade::Mcs]
    }

    pub(super) fn import(&mut self, event: Event<ServiceImport>) -> Vec<Trade> {
        self.all_when(matches!(event, Event::Synced));
        let keys = self.imports.apply(event);
        self.mcs.extend(keys);
        vec![Trade::Mcs]
    }

    pub(super) fn slice(&mut self, event: Event<EndpointSlice>) -> Vec<Trade> {
        self.all_when(matches!(event, Event::Synced));
        for key in self.slices.apply(event) {
            let label =
                self.slices.objects().get(&key).and_then(|slice| slice.labels().get(LABEL_SERVICE_NAME).cloned());
            let service = label.map(|name| Key::new(&*key.namespace, name));
            let services = self.index.update(&key, service);
            self.services(&services, false);
        }
        BOTH.to_vec()
    }

    /// Takes in an EndpointSlice that we have written ourselves.
    pub(crate) fn put_slice(&mut self, slice: EndpointSlice) {
        let key = Key::of(&slice);
        let service = slice.labels().get(LABEL_SERVICE_NAME).map(|name| Key::new(&*key.namespace, &**name));
        self.index.update(&key, service);
        self.slices.put(slice);
    }

    /// Drops an EndpointSlice that we have deleted ourselves.
    pub(crate) fn forget_slice(&mut self, key: &Key) {
        self.index.update(key, None);
        self.slices.forget(key);
    }

    /// Takes in what the other clusters' words touched; returns the trades that this wakes.
    pub(crate) fn touch(&mut self, touched: Touched) -> Vec<Trade> {
        self.all_when(touched.everything);
        self.mcs.extend(touched.exports);
        self.sync.extend(touched.backends);
        BOTH.to_vec()
    }

    fn all_when(&mut self, so: bool) {
        if so {
            self.mcs.everything();
            self.sync.everything();
        }
    }

    pub(crate) fn take_mcs(&mut self, most: usize, said: &Said) -> Vec<Key> {
        let (exports, imports) = (self.exports.objects(), self.imports.objects());
        self.mcs.take(most, || {
            let remote = said.clusters().flat_map(|(_, cluster)| cluster.exported());
            exports.keys().chain(imports.keys()).cloned().chain(remote).collect()
        })
    }

    pub(crate) fn take_sync(&mut self, most: usize, services: &Mirror<Service>) -> Vec<Key> {
        let index = &self.index;
        self.sync.take(most, || services.objects().keys().chain(index.slices_of.keys()).cloned().collect())
    }

    fn space(&self, namespace: &str, global_by_default: bool) -> Space {
        match self.namespaces.objects().get(&Key::new("", namespace)) {
            Some(object) if object.metadata.deletion_timestamp.is_none() => {
                let global = namespace_is_global(object.metadata.annotations.as_ref(), global_by_default);
                if global { Space::Global } else { Space::Local }
            }
            _ => Space::Absent,
        }
    }

    fn slices_of<'a>(&'a self, service: &Key) -> impl Iterator<Item = &'a EndpointSlice> + use<'a> {
        let keys = self.index.slices_of.get(service).into_iter().flatten();
        keys.filter_map(|key| self.slices.objects().get(key).map(|slice| &**slice))
    }

    /// Everything about the Service `key` that the planner of exports asks.
    pub(crate) fn mcs_view<'a>(
        &'a mut self,
        key: &Key,
        services: &'a Mirror<Service>,
        said: &'a Said,
        global_by_default: bool,
    ) -> mcs::View<'a> {
        let derived = Key::new(&*key.namespace, derived_name(key));
        let remote: Vec<_> = said.clusters().filter_map(|(_, cluster)| Some(&**cluster.export(key)?)).collect();
        let local = self.exports.objects().contains_key(key) || self.imports.objects().contains_key(key);
        if local || !remote.is_empty() || services.objects().contains_key(&derived) {
            self.exported.insert(derived.clone(), key.clone());
        } else {
            self.exported.remove(&derived);
        }
        let this = &*self;
        let written = |slice: &&EndpointSlice| slices::is_ours(slice) || mcs::is_copy(slice);
        mcs::View {
            namespace: this.space(&key.namespace, global_by_default),
            service: get(services, key),
            export: get(&this.exports, key),
            import: get(&this.imports, key),
            derived: get(services, &derived),
            slices: this.slices_of(key).filter(|slice| !written(slice)).collect(),
            copies: this.slices_of(&derived).filter(|slice| mcs::is_copy(slice)).collect(),
            remote,
            awaited: said.awaited_exports(),
            complete: said.is_complete(),
        }
    }

    /// Everything about the Service `key` that the planner of slices asks.
    pub(crate) fn sync_view<'a>(
        &'a self,
        key: &Key,
        services: &'a Mirror<Service>,
        said: &'a Said,
        global_by_default: bool,
    ) -> slices::View<'a> {
        let remotes = said.clusters().filter_map(|(name, cluster)| {
            let slices: Vec<_> = cluster.slices(key).into_iter().map(|slice| &**slice).collect();
            let words = match cluster.service(key) {
                Some(service) if slices.is_empty() => slices::Words::Service(service),
                _ if slices.is_empty() => return None,
                _ => slices::Words::Slices(slices),
            };
            Some(slices::Remote { cluster: name, stage: cluster.stage(), words })
        });
        slices::View {
            namespace: self.space(&key.namespace, global_by_default),
            service: get(services, key),
            slices: self.slices_of(key).collect(),
            remotes: remotes.collect(),
            awaited: said.awaited_backends(),
            complete: said.is_complete(),
        }
    }
}

fn get<'a, K: kube::Resource>(mirror: &'a Mirror<K>, key: &Key) -> Option<&'a K> {
    mirror.objects().get(key).map(Arc::as_ref)
}
