//! Everything that is watched, as one stream of the core's inputs.

use std::fmt::Display;
use std::time::Duration;

use causeway_k8s::ServiceExport;
use causeway_k8s::watch::{Config, Event, Key, watch_lenient};
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, StreamExt, stream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::runtime::{conditions, wait::await_condition};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use crate::export::{Export, Input, Object, Source};

/// Taking from it is cancel-safe.
pub(super) struct Watches {
    inputs: SelectAll<BoxStream<'static, Input>>,
}

/// After a question that the API server did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Most inputs taken before outputs are drained: a bound on what a flood can queue.
const MOST_INPUTS_AT_ONCE: usize = 1000;

impl Watches {
    /// `endpoint_slices`: CiliumEndpointSlices in place of CiliumEndpoints.
    pub(super) fn start(client: &Client, endpoint_slices: bool, service_exports: bool) -> Watches {
        let mut inputs = SelectAll::new();
        inputs.push(follow(client, Source::Namespaces, Object::Namespace));
        inputs.push(follow_custom(client, Source::Nodes, Object::Node));
        inputs.push(follow_custom(client, Source::Identities, Object::Identity));
        inputs.push(if endpoint_slices {
            follow_custom(client, Source::Endpoints, Object::EndpointSlice)
        } else {
            follow_custom(client, Source::Endpoints, Object::Endpoint)
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

/// The same for a kind that has to be defined first.
fn follow_custom<K>(client: &Client, source: Source, wrap: fn(Box<K>) -> Object) -> BoxStream<'static, Input>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + 'static,
{
    let defined = stream::once(defined(client.clone(), definition::<K>())).filter_map(|()| std::future::ready(None));
    defined.chain(follow(client, source, wrap)).boxed()
}

/// Where the definition is not installed there are no exports, which is as good an answer as any; it may come later.
fn follow_exports(client: &Client) -> BoxStream<'static, Input> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = definition::<ServiceExport>();
    let first = stream::once(async move {
        let found = answered(|| definitions.get_opt(&name)).await;
        found.is_none().then_some(Input::Synced(Source::Exports))
    });
    let rest = follow_custom(client, Source::Exports, Object::Export);
    first.filter_map(std::future::ready).chain(rest).boxed()
}

/// Asks until there is an answer: without one, nobody would know whether there are exports to wait for.
async fn answered<T, E: Display, F: Future<Output = Result<T, E>>>(ask: impl Fn() -> F) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => tracing::warn!(%error, "cannot ask whether ServiceExports are defined; asking again"),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

fn definition<K: Resource<DynamicType = ()>>() -> String {
    format!("{}.{}", K::plural(&()), K::group(&()))
}

/// Waits until the definition is there. In doubt it is: the watch itself then says what is wrong.
async fn defined(client: Client, name: String) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client);
    if let Ok(None) = definitions.get_opt(&name).await {
        tracing::info!(definition = name, "not installed yet; waiting for it");
    }
    if let Err(error) = await_condition(definitions, &name, conditions::is_crd_established()).await {
        tracing::debug!(definition = name, %error, "cannot be waited for");
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_question_that_failed_is_asked_again() {
        let asked = Cell::new(0);
        let ask = || {
            asked.set(asked.get() + 1);
            std::future::ready(if asked.get() == 1 { Err("connection refused") } else { Ok("there is none") })
        };
        assert_eq!(answered(ask).await, "there is none");
        assert_eq!(asked.get(), 2);
    }
}
