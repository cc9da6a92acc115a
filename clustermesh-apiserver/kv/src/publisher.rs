//! The tokio shell of [`Publish`]: a handle that many tasks may use, and the loop that writes.
//!
//! [`Publisher::run`] is one task: it waits for answers, for the machine's deadline and for a wake-up by the handle, and
//! drains the machine into the session. Nothing is lost when it is dropped at an await, but nobody writes any more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::clock::Now;
use crate::publish::{Group, GroupId, Publish, Stats};
use crate::session::Session;

/// Says what shall be in the store. Cheap to clone; never waits for the store.
#[derive(Debug, Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Shared, because what is wanted has to fold into what is queued at once: a queue of commands would grow while the
    /// store is away. Held for the time of a map operation, never over an await.
    publish: Mutex<Publish>,
    wake: Notify,
}

impl Publisher {
    pub fn new(publish: Publish) -> Self {
        Self { shared: Arc::new(Shared { publish: Mutex::new(publish), wake: Notify::new() }) }
    }

    /// Writes for ever. Spawn it once: `tokio::spawn(publisher.clone().run(session))`.
    pub async fn run(self, mut session: Session) {
        loop {
            let deadline = self.drain(&mut session);
            tokio::select! {
                reply = session.next() => self.lock().handle(reply, now()),
                () = self.shared.wake.notified() => {}
                () = until(deadline) => {}
            }
        }
    }

    /// See [`Publish::add_group`].
    pub fn add_group(&self, group: Group) -> GroupId {
        self.change(|publish| publish.add_group(group))
    }

    /// See [`Publish::remove_group`].
    pub fn remove_group(&self, id: GroupId) {
        self.change(|publish| publish.remove_group(id));
    }

    /// See [`Publish::set`].
    pub fn set(&self, id: GroupId, key: &str, value: Bytes) {
        self.change(|publish| publish.set(id, key, value));
    }

    /// See [`Publish::delete`].
    pub fn delete(&self, id: GroupId, key: &str) {
        self.change(|publish| publish.delete(id, key));
    }

    /// See [`Publish::relisting`].
    pub fn relisting(&self, id: GroupId) {
        self.change(|publish| publish.relisting(id));
    }

    /// See [`Publish::listed`].
    pub fn listed(&self, id: GroupId) {
        self.change(|publish| publish.listed(id));
    }

    pub fn stats(&self) -> Stats {
        self.lock().stats()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Publish) -> T) -> T {
        let result = change(&mut self.lock());
        self.shared.wake.notify_one();
        result
    }

    fn drain(&self, session: &mut Session) -> Option<Instant> {
        let mut publish = self.lock();
        while let Some((ticket, op)) = publish.poll(now()) {
            session.submit(ticket, op);
        }
        publish.deadline()
    }

    fn lock(&self) -> MutexGuard<'_, Publish> {
        // A panic in the machine would have left it half changed at worst; its next listing and retries heal that.
        self.shared.publish.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> Now {
    Now { at: Instant::now(), wall: SystemTime::now() }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
