//! Addresses with their identities, and who owns an address that several endpoints claim.
//!
//! The first endpoint that claims an address has it. The others wait in their order; when the owner goes, or gives the
//! address up, the next one's entry is published over its own, without a moment in which the address is nobody's.
//!
//! Per address this holds its value (shared with the writer) and two pointers; per endpoint its name once.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use causeway_k8s::watch::Key;
use causeway_mesh_schema::{IpIdentity, Kind};
use ipnet::IpNet;

use super::Output;

#[derive(Debug, Default)]
pub(super) struct Ips {
    objects: BTreeMap<Arc<Key>, Object>,
    /// For objects that stand in no namespace but speak for one (`CiliumEndpointSlice`).
    abroad: BTreeSet<(String, Arc<Key>)>,
    owners: HashMap<IpNet, Owners>,
}

#[derive(Debug, Default)]
struct Object {
    /// Only where it is not the key's.
    namespace: Option<Box<str>>,
    /// Its addresses are claimed.
    global: bool,
    entries: Box<[(IpNet, Bytes)]>,
}

#[derive(Debug)]
struct Owners {
    first: Arc<Key>,
    /// Claims in their order; mostly none.
    waiting: Vec<Arc<Key>>,
}

impl Ips {
    pub(super) fn set(
        &mut self,
        key: &Key,
        namespace: &str,
        entries: &[IpIdentity],
        global: bool,
        out: &mut VecDeque<Output>,
    ) {
        let entries: BTreeMap<IpNet, Bytes> =
            entries.iter().map(|entry| (entry.prefix, Bytes::from(entry.encode()))).collect();
        if entries.is_empty() {
            self.forget(key, out);
            return;
        }
        let key = self.objects.get_key_value(key).map_or_else(|| Arc::new(key.clone()), |(key, _)| Arc::clone(key));
        let abroad = (namespace != key.namespace).then(|| Box::from(namespace));
        let new = Object { namespace: abroad, global, entries: entries.into_iter().collect() };
        let old = self.objects.remove(&key).unwrap_or_default();
        self.index(&key, &old, &new);
        self.objects.insert(Arc::clone(&key), new);
        self.change(&key, &old, out);
    }

    pub(super) fn forget(&mut self, key: &Key, out: &mut VecDeque<Output>) {
        let Some((key, old)) = self.objects.remove_entry(key) else { return };
        self.index(&key, &old, &Object::default());
        self.change(&key, &old, out);
    }

    pub(super) fn reconsider(&mut self, namespace: &str, global: bool, out: &mut VecDeque<Output>) {
        for key in self.of_namespace(namespace) {
            let Some(object) = self.objects.get_mut(&key) else { continue };
            if object.global == global {
                continue;
            }
            object.global = global;
            let entries = object.entries.clone();
            for (ip, value) in &entries {
                match global {
                    true => self.claim(*ip, &key, value, out),
                    false => self.release(*ip, &key, out),
                }
            }
        }
    }

    pub(super) fn namespaces(&self) -> BTreeSet<String> {
        let abroad = self.abroad.iter().map(|(namespace, _)| namespace.clone());
        self.objects.keys().map(|key| key.namespace.clone()).chain(abroad).collect()
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.objects.keys().map(|key| Key::clone(key)).collect()
    }

    fn of_namespace(&self, namespace: &str) -> Vec<Arc<Key>> {
        let first = Key::new(namespace, "");
        let here = self.objects.range::<Key, _>((Bound::Included(&first), Bound::Unbounded));
        let here = here.take_while(|(key, _)| key.namespace == namespace);
        let here = here.filter(|(_, object)| object.namespace.is_none()).map(|(key, _)| Arc::clone(key));
        let from = (namespace.to_owned(), Arc::new(Key::default()));
        let abroad = self.abroad.range(from..).take_while(|(at, _)| at == namespace).map(|(_, key)| Arc::clone(key));
        here.chain(abroad).collect()
    }

    fn index(&mut self, key: &Arc<Key>, old: &Object, new: &Object) {
        if old.namespace == new.namespace {
            return;
        }
        if let Some(namespace) = &old.namespace {
            self.abroad.remove(&(namespace.to_string(), Arc::clone(key)));
        }
        if let Some(namespace) = &new.namespace {
            self.abroad.insert((namespace.to_string(), Arc::clone(key)));
        }
    }

    /// The object was `old` and is now what stands in the table.
    fn change(&mut self, key: &Arc<Key>, old: &Object, out: &mut VecDeque<Output>) {
        let empty = Object::default();
        let new = self.objects.get(key).unwrap_or(&empty);
        let claimed = |object: &Object| if object.global { object.entries.clone() } else { Box::default() };
        let (before, now) = (claimed(old), claimed(new));
        for (ip, value) in &now {
            let unchanged = before.binary_search_by_key(ip, |(ip, _)| *ip).is_ok_and(|at| before[at].1 == *value);
            if !unchanged {
                self.claim(*ip, key, value, out);
            }
        }
        for (ip, _) in &before {
            if now.binary_search_by_key(ip, |(ip, _)| *ip).is_err() {
                self.release(*ip, key, out);
            }
        }
    }

    fn claim(&mut self, ip: IpNet, key: &Arc<Key>, value: &Bytes, out: &mut VecDeque<Output>) {
        let owners = self.owners.entry(ip).or_insert_with(|| Owners { first: Arc::clone(key), waiting: Vec::new() });
        if owners.first == *key {
            out.push_back(Output::Set { kind: Kind::Ips, name: name(ip), value: value.clone() });
        } else if !owners.waiting.contains(key) {
            tracing::warn!(%ip, owner = %owners.first, claimed_by = %key, "two endpoints have one address; the first keeps it");
            owners.waiting.push(Arc::clone(key));
        }
    }

    fn release(&mut self, ip: IpNet, key: &Arc<Key>, out: &mut VecDeque<Output>) {
        let Some(owners) = self.owners.get_mut(&ip) else { return };
        if owners.first != *key {
            owners.waiting.retain(|waiting| waiting != key);
            return;
        }
        if owners.waiting.is_empty() {
            self.owners.remove(&ip);
            out.push_back(Output::Delete { kind: Kind::Ips, name: name(ip) });
            return;
        }
        owners.first = owners.waiting.remove(0);
        let next = Arc::clone(&owners.first);
        let entries = self.objects.get(&next).map(|object| &object.entries);
        let value = entries.and_then(|entries| entries.iter().find(|(at, _)| *at == ip));
        let value = value.expect("who waits for an address has an entry for it").1.clone();
        out.push_back(Output::Set { kind: Kind::Ips, name: name(ip), value });
    }
}

/// Endpoints have host prefixes, whose name is the address.
fn name(ip: IpNet) -> String {
    ip.addr().to_string()
}
