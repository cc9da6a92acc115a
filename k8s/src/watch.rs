//! Watching a kind so that one object that we cannot read does not hide the others.
//!
//! An ordinary typed watch decodes a whole page, and fails it for ever when one object in it does not fit the type.
//! Here each object is decoded on its own: a bad one becomes `Event::Rejected`. Below it is kube's watcher, which lists
//! in pages, resumes from bookmarks and lists again after 410 Gone; waiting after failures is ours (`RetryDelay`).
//!
//! `managedFields`, often the larger half of an object, are dropped before decoding.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::NamespaceResourceScope;
use kube::runtime::utils::{Backoff, StreamBackoff};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::rejected::{Rejected, qualified};

pub use kube::runtime::watcher::Config;

/// Names an object of a known kind. A kind without namespaces has an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }

    /// The key of `object`.
    pub fn of<K: Resource>(object: &K) -> Key {
        let meta = object.meta();
        Key::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&qualified(Some(&self.namespace), &self.name))
    }
}

/// What a watch says. Between `Relist` and `Synced` come all objects that exist; what was known before and is not
/// among them is gone.
#[derive(Clone, Debug)]
pub enum Event<K> {
    /// A complete listing begins.
    Relist,
    /// The object is new, changed, or part of a listing.
    Applied(K),
    /// The object is gone.
    Deleted(Key),
    /// The object exists but cannot be decoded.
    Rejected(Key, Rejected),
    /// The listing is complete.
    Synced,
    /// The connection or the listing failed; it is being tried again.
    Interrupted(String),
}

/// Watches every object of kind `K`, in all namespaces.
///
/// The stream never ends. Dropping it stops the watch; polling it is cancel-safe.
pub fn watch_lenient<K>(client: Client, config: Config) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + fmt::Debug + Send + 'static,
{
    events(Api::<Lenient<K>>::all(client), config)
}

/// Watches the objects of kind `K` in one namespace, for kinds that we may not read elsewhere.
pub fn watch_lenient_in<K>(client: Client, namespace: &str, config: Config) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + fmt::Debug
        + Send
        + 'static,
{
    events(Api::<Lenient<K>>::namespaced(client, namespace), config)
}

fn events<K>(api: Api<Lenient<K>>, config: Config) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + fmt::Debug + Send + 'static,
{
    let kind = K::kind(&()).into_owned();
    let mut down = false;
    StreamBackoff::new(watcher(api, config), RetryDelay::default()).map(move |event| {
        // One line when it goes and one when it is back; an outage of an hour is not a thousand lines.
        match &event {
            Err(error) if !down => tracing::warn!(kind, error = describe(&kind, error), "watch interrupted, trying on"),
            Err(error) => tracing::debug!(kind, error = describe(&kind, error), "watch still interrupted"),
            Ok(_) if down => tracing::info!(kind, "watch is back"),
            Ok(_) => {}
        }
        down = event.is_err();
        match event {
            Ok(watcher::Event::Init) => Event::Relist,
            Ok(watcher::Event::InitDone) => Event::Synced,
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => object.into_event(),
            Ok(watcher::Event::Delete(object)) => Event::Deleted(object.key()),
            Err(error) => Event::Interrupted(describe(&kind, &error)),
        }
    })
}

fn describe(kind: &str, error: &watcher::Error) -> String {
    use kube::Error::Api as Refused;
    let hint = match error {
        watcher::Error::InitialListFailed(Refused(status)) | watcher::Error::WatchStartFailed(Refused(status)) => {
            match status.code {
                403 => ": the service account may not list or watch this kind; grant it in RBAC",
                404 => ": the server does not know this kind; is its CustomResourceDefinition registered?",
                _ => "",
            }
        }
        _ => "",
    };
    let mut text = format!("watching {kind}: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let part = error.to_string();
        // Many errors repeat their cause in their own text.
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text + hint
}

/// An object, or why it is not one.
#[derive(Clone, Debug)]
struct Lenient<K> {
    meta: ObjectMeta,
    object: Result<K, (String, String)>,
}

impl<K: Resource<DynamicType = ()>> Lenient<K> {
    fn key(&self) -> Key {
        Key::new(self.meta.namespace.clone().unwrap_or_default(), self.meta.name.clone().unwrap_or_default())
    }

    fn into_event(self) -> Event<K> {
        let key = self.key();
        match self.object {
            Ok(object) => Event::Applied(object),
            Err((field, message)) => {
                let rejected = Rejected {
                    kind: K::kind(&()).into_owned(),
                    object: key.to_string(),
                    field,
                    message,
                    remedy: "write the field as the kind's schema says (`kubectl explain`)".to_owned(),
                };
                Event::Rejected(key, rejected)
            }
        }
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        let text = |name: &str| value["metadata"][name].as_str().map(str::to_owned);
        // The few fields that the watcher itself needs, read so that nothing in the rest can break them.
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            uid: text("uid"),
            annotations: bookmark_annotations(&value),
            ..ObjectMeta::default()
        };
        let object = serde_path_to_error::deserialize(value)
            .map_err(|error| (error.path().to_string(), error.inner().to_string()));
        Ok(Lenient { meta, object })
    }
}

/// `k8s.io/initial-events-end` marks the end of a streamed listing; the watcher looks for it.
fn bookmark_annotations(value: &Value) -> Option<BTreeMap<String, String>> {
    const END: &str = "k8s.io/initial-events-end";
    let mark = value["metadata"]["annotations"][END].as_str()?;
    Some(BTreeMap::from([(END.to_owned(), mark.to_owned())]))
}

impl<K: Resource<DynamicType = ()>> Resource for Lenient<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind(dt: &()) -> Cow<'_, str> {
        K::kind(dt)
    }
    fn group(dt: &()) -> Cow<'_, str> {
        K::group(dt)
    }
    fn version(dt: &()) -> Cow<'_, str> {
        K::version(dt)
    }
    fn plural(dt: &()) -> Cow<'_, str> {
        K::plural(dt)
    }
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

/// Waiting between attempts: doubling from 100 ms to 5 s, of which a random half is left out so that the nodes of a
/// cluster do not come back in step. The ceiling is low because a node without intent is a node with stale routes.
#[derive(Debug)]
struct RetryDelay {
    next: Duration,
    random: RandomState,
    step: u64,
}

const FIRST_RETRY_DELAY: Duration = Duration::from_millis(100);
const LONGEST_RETRY_DELAY: Duration = Duration::from_secs(5);

impl Default for RetryDelay {
    fn default() -> Self {
        RetryDelay { next: FIRST_RETRY_DELAY, random: RandomState::new(), step: 0 }
    }
}

impl Iterator for RetryDelay {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let delay = self.next;
        self.next = (delay * 2).min(LONGEST_RETRY_DELAY);
        self.step += 1;
        let mut hasher = self.random.build_hasher();
        hasher.write_u64(self.step);
        let part = u32::try_from(hasher.finish() % 512).unwrap_or(0);
        Some(delay / 2 + delay * part / 1024)
    }
}

impl Backoff for RetryDelay {
    fn reset(&mut self) {
        self.next = FIRST_RETRY_DELAY;
    }
}

/// What a watch has said so far: the objects by key, and those that were rejected.
///
/// An object that becomes undecodable keeps its last good form here, so that a bad edit changes nothing but the
/// message; it is listed in `rejected` at the same time.
#[derive(Clone, Debug)]
pub struct Mirror<K> {
    objects: BTreeMap<Key, Arc<K>>,
    rejected: BTreeMap<Key, Rejected>,
    /// Keys that the running listing has not named yet.
    unseen: Option<BTreeSet<Key>>,
    synced: bool,
    interrupted: Option<String>,
    kind: PhantomData<K>,
}

impl<K> Default for Mirror<K> {
    fn default() -> Self {
        Mirror {
            objects: BTreeMap::new(),
            rejected: BTreeMap::new(),
            unseen: None,
            synced: false,
            interrupted: None,
            kind: PhantomData,
        }
    }
}

impl<K: Resource> Mirror<K> {
    /// Takes in `event`; returns the keys whose objects changed, came or went.
    pub fn apply(&mut self, event: Event<K>) -> Vec<Key> {
        match event {
            Event::Relist => {
                self.unseen = Some(self.objects.keys().chain(self.rejected.keys()).cloned().collect());
                Vec::new()
            }
            Event::Applied(object) => {
                let key = Key::of(&object);
                if self.unseen.is_none() && self.holds_newer_than(&key, &object) {
                    return Vec::new();
                }
                self.seen(&key);
                self.put(object);
                vec![key]
            }
            Event::Deleted(key) => {
                self.forget(&key);
                vec![key]
            }
            Event::Rejected(key, rejected) => {
                self.seen(&key);
                self.rejected.insert(key.clone(), rejected);
                vec![key]
            }
            Event::Synced => {
                self.synced = true;
                self.interrupted = None;
                let gone: Vec<Key> = self.unseen.take().unwrap_or_default().into_iter().collect();
                gone.iter().for_each(|key| self.forget(key));
                gone
            }
            Event::Interrupted(text) => {
                self.interrupted = Some(text);
                Vec::new()
            }
        }
    }

    /// Takes in an object that the server returned to our own write, so that the next decision knows of it before the
    /// watch tells. Watch events from before that write are then ignored.
    pub fn put(&mut self, object: K) {
        let key = Key::of(&object);
        self.rejected.remove(&key);
        self.objects.insert(key, Arc::new(object));
    }

    /// Resource versions count up (Kubernetes documents them as comparable since 1.35; etcd's always were). During a
    /// listing this is not asked: after a restore from backup the versions begin lower.
    fn holds_newer_than(&self, key: &Key, object: &K) -> bool {
        let version = |object: &K| object.meta().resource_version.as_deref().and_then(|v| v.parse::<u64>().ok());
        match (self.objects.get(key).and_then(|held| version(held)), version(object)) {
            (Some(held), Some(new)) => held > new,
            _ => false,
        }
    }

    fn seen(&mut self, key: &Key) {
        if let Some(unseen) = &mut self.unseen {
            unseen.remove(key);
        }
    }

    /// Drops an object that we have deleted ourselves.
    pub fn forget(&mut self, key: &Key) {
        self.objects.remove(key);
        self.rejected.remove(key);
    }

    /// Whether a complete listing has been seen. Before that, absence means nothing.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// The objects by key.
    pub fn objects(&self) -> &BTreeMap<Key, Arc<K>> {
        &self.objects
    }

    /// Objects that could not be decoded.
    pub fn rejected(&self) -> &BTreeMap<Key, Rejected> {
        &self.rejected
    }

    /// Why nothing new arrives, if so.
    pub fn interrupted(&self) -> Option<&str> {
        self.interrupted.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CiliumBGPClusterConfig;

    fn decode(text: &str) -> Event<CiliumBGPClusterConfig> {
        serde_json::from_str::<Lenient<CiliumBGPClusterConfig>>(text).unwrap().into_event()
    }

    fn config(name: &str) -> CiliumBGPClusterConfig {
        CiliumBGPClusterConfig::new(name, crate::CiliumBGPClusterConfigSpec::default())
    }

    #[test]
    fn a_bad_object_names_its_field_and_keeps_its_key() {
        let event = decode(
            r#"{"apiVersion":"cilium.io/v2","kind":"CiliumBGPClusterConfig","metadata":{"name":"rack"},
                "spec":{"bgpInstances":[{"name":"i","localASN":"many"}]}}"#,
        );
        let Event::Rejected(key, rejected) = event else { panic!("{event:?}") };
        assert_eq!(key, Key::new("", "rack"));
        assert_eq!(rejected.field, "spec.bgpInstances[0].localASN");
        assert_eq!(rejected.kind, "CiliumBGPClusterConfig");
        assert!(rejected.message.contains("many"), "{rejected}");
    }

    #[test]
    fn managed_fields_are_dropped() {
        let event = decode(
            r#"{"apiVersion":"cilium.io/v2","kind":"CiliumBGPClusterConfig",
                "metadata":{"name":"rack","managedFields":[{"manager":"kubectl"}]},"spec":{"bgpInstances":[]}}"#,
        );
        let Event::Applied(object) = event else { panic!("{event:?}") };
        assert_eq!(object.metadata.managed_fields, None);
    }

    #[test]
    fn a_listing_drops_what_it_does_not_name() {
        let mut mirror = Mirror::default();
        assert!(mirror.apply(Event::Relist).is_empty());
        mirror.apply(Event::Applied(config("a")));
        mirror.apply(Event::Applied(config("b")));
        assert!(!mirror.synced());
        mirror.apply(Event::Synced);
        assert!(mirror.synced());
        mirror.apply(Event::Interrupted("410 Gone".to_owned()));
        mirror.apply(Event::Relist);
        mirror.apply(Event::Applied(config("b")));
        assert_eq!(mirror.objects().len(), 2, "nothing goes before the listing is complete");
        assert_eq!(mirror.apply(Event::Synced), vec![Key::new("", "a")]);
        assert_eq!(mirror.objects().keys().collect::<Vec<_>>(), [&Key::new("", "b")]);
        assert_eq!(mirror.interrupted(), None);
    }

    #[test]
    fn a_bad_edit_keeps_the_last_good_object() {
        let mut mirror = Mirror::default();
        mirror.apply(Event::Applied(config("a")));
        let rejected = Rejected {
            kind: "CiliumBGPClusterConfig".into(),
            object: "a".into(),
            field: "spec".into(),
            message: "bad".into(),
            remedy: "good".into(),
        };
        mirror.apply(Event::Rejected(Key::new("", "a"), rejected));
        assert_eq!((mirror.objects().len(), mirror.rejected().len()), (1, 1));
        mirror.apply(Event::Applied(config("a")));
        assert!(mirror.rejected().is_empty());
        mirror.apply(Event::Deleted(Key::new("", "a")));
        assert!(mirror.objects().is_empty());
    }

    #[test]
    fn an_event_from_before_our_own_write_is_ignored() {
        let version = |version: &str, asn| {
            let mut object = config("a");
            object.metadata.resource_version = Some(version.to_owned());
            object.spec.bgp_instances.push(crate::CiliumBGPInstance { local_asn: Some(asn), ..Default::default() });
            object
        };
        let asn = |mirror: &Mirror<CiliumBGPClusterConfig>| {
            mirror.objects()[&Key::new("", "a")].spec.bgp_instances[0].local_asn
        };
        let mut mirror = Mirror::default();
        mirror.apply(Event::Applied(version("8", 1)));
        mirror.put(version("10", 3));
        assert!(mirror.apply(Event::Applied(version("9", 2))).is_empty());
        assert_eq!(asn(&mirror), Some(3));
        mirror.apply(Event::Applied(version("11", 4)));
        assert_eq!(asn(&mirror), Some(4));
        mirror.apply(Event::Relist);
        mirror.apply(Event::Applied(version("2", 5)));
        assert_eq!(asn(&mirror), Some(5), "a listing is believed as it is");
    }

    #[test]
    fn delays_grow_to_a_ceiling_and_start_again_after_a_reset() {
        let mut delay = RetryDelay::default();
        let first = delay.next().unwrap();
        assert!(first >= FIRST_RETRY_DELAY / 2 && first <= FIRST_RETRY_DELAY, "{first:?}");
        let last = (0..20).map(|_| delay.next().unwrap()).last().unwrap();
        assert!(last >= LONGEST_RETRY_DELAY / 2 && last <= LONGEST_RETRY_DELAY, "{last:?}");
        delay.reset();
        assert!(delay.next().unwrap() <= FIRST_RETRY_DELAY);
    }
}
