//! The tokio shell of a [`Reconciler`]: waits for changes and deadlines, applies, publishes statuses. One task; both
//! waits are cancel-safe, an application is never interrupted.

use std::time::Instant;

use crate::reconciler::{Action, Counts, Policy, Realised, Reconciler};
use crate::shared::{Reader, Shared};

/// Makes rows real. Called from one task, one key at a time.
pub trait Apply<K, V> {
    fn upsert(&mut self, key: &K, value: &V) -> impl Future<Output = Result<(), String>> + Send;
    /// Must succeed when the row is already absent.
    fn delete(&mut self, key: &K) -> impl Future<Output = Result<(), String>> + Send;
}

/// Runs one reconciler over one desired table.
#[derive(Debug)]
pub struct Driver<K, V> {
    reader: Reader<K, V>,
    core: Reconciler<K, V>,
    /// State of each row that is desired or real. Synced once the desired table is synced and every row was tried.
    realised: Shared<K, Realised<V>>,
}

impl<K: Ord + Clone, V: PartialEq> Driver<K, V> {
    pub fn new(desired: &Shared<K, V>, policy: Policy) -> Self {
        Driver { reader: desired.reader(), core: Reconciler::new(policy), realised: Shared::default() }
    }

    /// Takes over rows that are real already; see [`Reconciler::adopt`].
    pub fn adopt(&mut self, rows: impl IntoIterator<Item = (K, Option<V>)>) {
        self.core.adopt(rows);
    }

    /// The table of what is real, for those who wait for rows to be done and for people.
    pub fn realised(&self) -> Shared<K, Realised<V>> {
        self.realised.clone()
    }

    /// Runs until cancelled. `observe` sees every action with its result and the counts afterwards.
    pub async fn run(
        mut self,
        mut apply: impl Apply<K, V>,
        mut observe: impl FnMut(&Action<K, V>, &Result<(), String>, Counts),
    ) {
        loop {
            self.pass(&mut apply, &mut observe).await;
            match self.core.deadline() {
                None => self.reader.changed().await,
                Some(at) => {
                    tokio::select! {
                        () = self.reader.changed() => {}
                        () = tokio::time::sleep_until(at.into()) => {}
                    }
                }
            }
        }
    }

    /// Takes all steps that can be taken now.
    async fn pass(
        &mut self,
        apply: &mut impl Apply<K, V>,
        observe: &mut impl FnMut(&Action<K, V>, &Result<(), String>, Counts),
    ) {
        let desired = self.reader.table().clone();
        let changes = self.reader.changes();
        let synced = desired.read(|t| {
            self.core.changed(changes, t);
            t.synced()
        });
        if synced {
            self.core.mark_synced();
        }
        while let Some(action) = desired.read(|t| self.core.next(Instant::now(), t)) {
            let result = match &action {
                Action::Upsert { key, value } => apply.upsert(key, value).await,
                Action::Delete { key } => apply.delete(key).await,
            };
            self.core.finished(Instant::now(), result.clone());
            self.publish(false);
            observe(&action, &result, self.core.counts());
        }
        self.publish(synced);
    }

    fn publish(&mut self, synced: bool) {
        let touched = self.core.take_touched();
        if touched.is_empty() && !synced {
            return;
        }
        self.realised.write(|t| {
            for key in touched {
                match self.core.realised(&key) {
                    Some(row) => t.set(key, row),
                    None => t.delete(&key),
                };
            }
            if synced {
                t.mark_synced();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RowStatus;
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    #[derive(Clone, Default)]
    struct Fake {
        real: Arc<Mutex<BTreeMap<u8, u8>>>,
        failures_left: Arc<Mutex<u32>>,
    }

    impl Fake {
        fn attempt(&self) -> Result<(), String> {
            let mut left = self.failures_left.lock().unwrap();
            if *left == 0 {
                return Ok(());
            }
            *left -= 1;
            Err("refused".into())
        }
    }

    impl Apply<u8, u8> for Fake {
        async fn upsert(&mut self, key: &u8, value: &u8) -> Result<(), String> {
            self.attempt()?;
            self.real.lock().unwrap().insert(*key, *value);
            Ok(())
        }

        async fn delete(&mut self, key: &u8) -> Result<(), String> {
            self.attempt()?;
            self.real.lock().unwrap().remove(key);
            Ok(())
        }
    }

    #[tokio::test]
    async fn rows_become_real_and_their_status_is_published() {
        let desired: Shared<u8, u8> = Shared::default();
        let fake = Fake::default();
        fake.real.lock().unwrap().insert(9, 9);
        *fake.failures_left.lock().unwrap() = 3;
        let mut driver = Driver::new(&desired, Policy { delete_delay: Duration::from_millis(20), ..Policy::default() });
        driver.adopt([(9, Some(9))]);
        let realised = driver.realised();
        let task = tokio::spawn(driver.run(fake.clone(), |_, _, _| {}));
        desired.set(1, 1);
        desired.mark_synced();
        let mut reader = realised.reader();
        while realised.get(&1).is_none_or(|r| r.status != RowStatus::Done) || realised.get(&9).is_some() {
            reader.changed().await;
            reader.changes();
        }
        assert_eq!(*fake.real.lock().unwrap(), BTreeMap::from([(1, 1)]));
        assert_eq!(realised.get(&1).unwrap().actual.as_deref(), Some(&1));
        assert!(realised.synced());
        task.abort();
    }
}
