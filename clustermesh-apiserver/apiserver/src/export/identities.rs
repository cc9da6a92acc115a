//! Identities by number, told while the namespace of their pods is global.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use causeway_k8s::watch::Key;
use causeway_mesh_schema::Kind;

use super::Output;
use crate::convert::identity::Identity;

#[derive(Debug, Default)]
pub(super) struct Identities {
    rows: BTreeMap<u32, Row>,
    by_namespace: BTreeSet<(Box<str>, u32)>,
}

#[derive(Debug)]
struct Row {
    namespace: Box<str>,
    labels: Bytes,
    told: bool,
}

impl Identities {
    pub(super) fn set(&mut self, identity: Identity, global: bool, out: &mut VecDeque<Output>) {
        let (id, namespace, labels) = (identity.id, Box::from(identity.namespace), Bytes::from(identity.labels));
        let row =
            self.rows.entry(id).or_insert_with(|| Row { namespace: "".into(), labels: Bytes::new(), told: false });
        if row.namespace != namespace {
            self.by_namespace.remove(&(std::mem::take(&mut row.namespace), id));
        }
        self.by_namespace.insert((namespace.clone(), id));
        row.namespace = namespace;
        if row.labels != labels {
            row.labels = labels;
            if row.told && global {
                out.push_back(row.set(id));
                return;
            }
        }
        row.tell(id, global, out);
    }

    pub(super) fn forget(&mut self, name: &str, out: &mut VecDeque<Output>) {
        // As `convert` takes it: the object `007` was refused, and is not 7.
        let Some(id) = name.parse().ok().filter(|id: &u32| id.to_string() == name) else { return };
        let Some(mut row) = self.rows.remove(&id) else { return };
        row.tell(id, false, out);
        self.by_namespace.remove(&(row.namespace, id));
    }

    pub(super) fn reconsider(&mut self, namespace: &str, global: bool, out: &mut VecDeque<Output>) {
        let ids = self.by_namespace.range((namespace.into(), 0)..).take_while(|(at, _)| **at == *namespace);
        for (_, id) in ids {
            if let Some(row) = self.rows.get_mut(id) {
                row.tell(*id, global, out);
            }
        }
    }

    pub(super) fn namespaces(&self) -> BTreeSet<String> {
        self.by_namespace.iter().map(|(namespace, _)| namespace.to_string()).collect()
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.rows.keys().map(|id| Key::new("", id.to_string())).collect()
    }
}

impl Row {
    fn tell(&mut self, id: u32, tell: bool, out: &mut VecDeque<Output>) {
        if self.told == tell {
            return;
        }
        self.told = tell;
        out.push_back(match tell {
            true => self.set(id),
            false => Output::Delete { kind: Kind::Identities, name: id.to_string() },
        });
    }

    fn set(&self, id: u32) -> Output {
        Output::Set { kind: Kind::Identities, name: id.to_string(), value: self.labels.clone() }
    }
}
