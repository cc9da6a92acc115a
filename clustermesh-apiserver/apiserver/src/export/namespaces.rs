//! Which namespaces are global. None is, before all are known.

use std::collections::BTreeMap;

use causeway_k8s::global::{Annotations, namespace_is_global};
use causeway_k8s::watch::Key;

#[derive(Debug)]
pub(super) struct Namespaces {
    global: BTreeMap<String, bool>,
    default: bool,
    complete: bool,
}

impl Namespaces {
    pub(super) fn new(default: bool) -> Namespaces {
        Namespaces { global: BTreeMap::new(), default, complete: false }
    }

    /// Whether the answer of [`Namespaces::is_global`] has changed.
    pub(super) fn set(&mut self, name: &str, annotations: Option<&Annotations>) -> bool {
        let global = namespace_is_global(annotations, self.default);
        let before = self.global.insert(name.to_owned(), global).unwrap_or(false);
        self.complete && before != global
    }

    /// Whether the answer of [`Namespaces::is_global`] has changed.
    pub(super) fn forget(&mut self, name: &str) -> bool {
        self.global.remove(name).unwrap_or(false) && self.complete
    }

    /// All are known. Whether that is news.
    pub(super) fn complete(&mut self) -> bool {
        !std::mem::replace(&mut self.complete, true)
    }

    /// Whether what is in the namespace may be told. What is in none (an empty name) follows the default; what is in one
    /// that does not exist stays at home.
    pub(super) fn is_global(&self, name: &str) -> bool {
        self.complete && if name.is_empty() { self.default } else { self.global.get(name).copied().unwrap_or(false) }
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.global.keys().map(|name| Key::new("", name.as_str())).collect()
    }
}
