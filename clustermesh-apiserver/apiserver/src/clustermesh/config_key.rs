//! Keeps `cilium/cluster-config/<name>` as it should be: refreshed now and then, and rewritten when somebody else changes
//! or deletes it.
//!
//! A loop of writer and watch: every turn begins with a writer that knows nothing of the store, and so writes the key
//! again under a lease of its own. The leases of former turns run out.

use std::time::Duration;

use causeway_mesh_kv::{Connect, Event, Group, Op, Outcome, Publisher, Session, Settings, Ticket};
use causeway_mesh_schema::{ClusterConfig, ClusterName, cluster_config_key};

use crate::store;

/// As Cilium's.
const REFRESH: Duration = Duration::from_secs(5 * 60);

/// Never ends. Cancel-safe in the sense that the key stays as it was.
pub(super) async fn keep(name: ClusterName, config: ClusterConfig, connect: Connect, settings: Settings) {
    let key = cluster_config_key(&name);
    let value = config.encode();
    let settings = Settings { heartbeat: None, ..settings };
    let mut wait = settings.retry_first;
    loop {
        let publisher = Publisher::new(store::publish(settings.clone()));
        let group = publisher.add_group(Group { name: key.clone(), ..Group::default() });
        publisher.set(group, &key, value.clone().into());
        publisher.listed(group);
        tokio::select! {
            () = publisher.run(Session::open(connect.clone())) => {}
            () = tokio::time::sleep(REFRESH) => wait = settings.retry_first,
            disturbed = watch(&key, &value, Session::open(connect.clone())) => {
                match disturbed {
                    Disturbed::Changed => {
                        tracing::warn!(key, "somebody else changed our cluster-config; it is written again. Has another cluster our name?");
                    }
                    Disturbed::WatchEnded(reason) => tracing::debug!(key, reason, "the watch of our cluster-config ended"),
                }
                // Somebody who insists is answered ever more slowly.
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(settings.retry_limit);
            }
        }
    }
}

enum Disturbed {
    Changed,
    WatchEnded(String),
}

/// Waits until the key is something else than it should be.
async fn watch(key: &str, value: &[u8], mut session: Session) -> Disturbed {
    session.submit(Ticket(1), Op::Watch { prefix: key.to_owned(), revision: 0 });
    loop {
        match session.next().await.outcome {
            Outcome::Events { events, .. } => {
                let ours = events.iter().rev().find(|event| event.key() == key.as_bytes());
                let wrong = match ours {
                    Some(Event::Put(entry)) => entry.value != value,
                    Some(Event::Delete { .. }) => true,
                    None => false,
                };
                if wrong {
                    return Disturbed::Changed;
                }
            }
            Outcome::Failed(failure) => return Disturbed::WatchEnded(failure.to_string()),
            Outcome::Compacted { oldest } => return Disturbed::WatchEnded(format!("compacted up to {oldest}")),
            _ => {}
        }
    }
}
