//! Everything that is watched, as one stream of the core's inputs.

use causeway_k8s::watch::{Config, Event, Key, watch_lenient};
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, StreamExt, stream};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use crate::export::{Export, Input, Object, Source};

/// Taking from it is cancel-safe.
pub(super) struct Watches {
    inputs: SelectAll<BoxStream<'static, Input>>,
}

/// Most inputs taken before outputs are drained: a bound on what a flood can queue.
const MOST_INPUTS_AT_ONCE: usize = 1000;

impl Watches {
    /// `endpoint_slices`: CiliumEndpointSlices in place of CiliumEndpoints.
    pub(super) fn start(client: &Client, endpoint_slices: bool, service_exports: bool) -> Watches {
        let mut inputs = SelectAll::new();
        inputs.push(follow(client, Source::Namespaces, Object::Namespace));
        inputs.push(follow(client, Source::Nodes, Object::Node));
        inputs.push(follow(client, Source::Identities, Object::Identity));
        inputs.push(if endpoint_slices {
            follow(client, Source::Endpoints, Object::EndpointSlice)
        } else {
            follow(client, Source::Endpoints, Object::Endpoint)
        });
        inputs.push(follow(client, Source::Services, Object::Service));
        inputs.push(follow(client, Source::Slices, Object::Slice));
        if service_exports {
            inputs.push(follow_exports(client));
        }
        Watches { inputs }
    }

    /// Waits for an input, then hands over all that have arrived.
    pub(super) async fn next_into(&mut self, export: &mut Export) {
        // Watches never end; without any, there is nothing to wait for.
        let Some(first) = self.inputs.next().await else { return std::future::pending().await };
        export.handle(first);
        for _ in 1..MOST_INPUTS_AT_ONCE {
            match self.inputs.next().now_or_never() {
                Some(Some(input)) => export.handle(input),
                _ => break,
            }
        }
    }
}

fn follow<K>(client: &Client, source: Source, wrap: fn(Box<K>) -> Object) -> BoxStream<'static, Input>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + 'static,
{
    let events = watch_lenient::<K>(client.clone(), Config::default());
    events.filter_map(move |event| std::future::ready(input(source, event, wrap))).boxed()
}

/// Where the definition is not installed there are no exports, which is as good an answer as any; it may come later.
fn follow_exports(client: &Client) -> BoxStream<'static, Input> {
    let client = client.clone();
    let first = stream::once({
        let client = client.clone();
        async move { (!is_served(&client).await).then_some(Input::Synced(Source::Exports)) }
    });
    let first = first.filter_map(std::future::ready);
    first.chain(follow(&client, Source::Exports, Object::Export)).boxed()
}

/// In doubt it is, so that nothing is called complete that is not.
async fn is_served(client: &Client) -> bool {
    let version = format!("{}/{}", causeway_k8s::mcs::GROUP, causeway_k8s::mcs::VERSION);
    match client.list_api_group_resources(&version).await {
        Ok(kinds) => kinds.resources.iter().any(|kind| kind.name == "serviceexports"),
        Err(kube::Error::Api(status)) if status.code == 404 => {
            tracing::info!("ServiceExport is not installed; nothing is exported by it until it is");
            false
        }
        Err(_) => true,
    }
}

fn input<K: Resource<DynamicType = ()>>(source: Source, event: Event<K>, wrap: fn(Box<K>) -> Object) -> Option<Input> {
    Some(match event {
        Event::Relist => Input::Relist(source),
        Event::Applied(object) => Input::Applied(Key::of(&object), wrap(Box::new(object))),
        Event::Deleted(key) => Input::Deleted(source, key),
        Event::Rejected(key, rejected) => Input::Rejected(source, key, rejected),
        Event::Synced => Input::Synced(source),
        // The watch has logged it, and tries again.
        Event::Interrupted(_) => return None,
    })
}
