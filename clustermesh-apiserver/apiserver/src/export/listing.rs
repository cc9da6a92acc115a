//! Which objects a running listing has not named yet.

use std::collections::BTreeSet;

use causeway_k8s::watch::Key;

#[derive(Debug, Default)]
pub(super) struct Listing {
    unseen: Option<BTreeSet<Key>>,
    complete: bool,
}

impl Listing {
    /// `known`: everything that must be named again, or is gone.
    pub(super) fn begin(&mut self, known: Vec<Key>) {
        self.unseen = Some(known.into_iter().collect());
    }

    pub(super) fn seen(&mut self, key: &Key) {
        if let Some(unseen) = &mut self.unseen {
            unseen.remove(key);
        }
    }

    /// The objects that are gone.
    pub(super) fn end(&mut self) -> BTreeSet<Key> {
        self.complete = true;
        self.unseen.take().unwrap_or_default()
    }

    /// A listing has been completed at least once.
    pub(super) fn was_complete(&self) -> bool {
        self.complete
    }
}
