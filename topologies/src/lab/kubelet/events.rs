//! Events: what `kubectl describe` shows of why something is as it is. Best effort: one that is lost stops nothing.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tracing::warn;

const COMPONENT: &str = "kubelet";

pub(crate) struct Events {
    client: Client,
    node: String,
}

/// The two kinds that Kubernetes has.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Normal,
    Warning,
}

impl Events {
    pub(crate) fn new(client: Client, node: &str) -> Self {
        Self { client, node: node.into() }
    }

    /// Writes an event about a pod, on a task of its own.
    pub(crate) fn pod(&self, pod: &Pod, kind: Kind, reason: &str, message: String) {
        let now = Time(Timestamp::now());
        let name = pod.metadata.name.clone().unwrap_or_default();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.0.as_nanosecond())),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(name),
                namespace: Some(namespace.clone()),
                uid: pod.metadata.uid.clone(),
                ..ObjectReference::default()
            },
            type_: Some(match kind {
                Kind::Normal => "Normal".into(),
                Kind::Warning => "Warning".into(),
            }),
            reason: Some(reason.into()),
            message: Some(message),
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            source: Some(EventSource { component: Some(COMPONENT.into()), host: Some(self.node.clone()) }),
            reporting_component: Some(COMPONENT.into()),
            reporting_instance: Some(self.node.clone()),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        tokio::spawn(async move {
            if let Err(error) = api.create(&PostParams::default(), &event).await {
                warn!(%error, reason = event.reason, "event not written");
            }
        });
    }
}
