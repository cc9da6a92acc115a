//! The tokio shell of [`Publish`]: a handle that many tasks may use, and the loop that writes.

use bytes::Bytes;

use crate::publish::{Group, GroupId, Publish, Stats};
use crate::session::Session;

/// Says what shall be in the store. Cheap to clone; never blocks.
#[derive(Debug, Clone)]
pub struct Publisher {}

impl Publisher {
    pub fn new(publish: Publish) -> Self {
        todo!("{publish:?}")
    }

    /// Writes for ever. Spawn it once: `tokio::spawn(publisher.clone().run(session))`.
    pub async fn run(self, session: Session) {
        todo!("{session:?}")
    }

    pub fn add_group(&self, group: Group) -> GroupId {
        todo!("{group:?}")
    }

    pub fn remove_group(&self, id: GroupId) {
        todo!("{id:?}")
    }

    pub fn set(&self, id: GroupId, key: &str, value: Bytes) {
        todo!("{id:?} {key} {value:?}")
    }

    pub fn delete(&self, id: GroupId, key: &str) {
        todo!("{id:?} {key}")
    }

    pub fn relisting(&self, id: GroupId) {
        todo!("{id:?}")
    }

    pub fn listed(&self, id: GroupId) {
        todo!("{id:?}")
    }

    pub fn stats(&self) -> Stats {
        todo!()
    }
}
