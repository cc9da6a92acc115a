//! Watch: a stream that pulls from the store's log with a cursor of its own.
//!
//! Nothing is buffered for a client. One that reads slowly keeps its cursor where it is; when the log no longer holds that place,
//! the client gets 410 and starts again.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use http::{HeaderValue, header};
use rand::RngExt;
use serde_json::{Value, json};
use tokio::sync::watch as signal;
use tokio::time::Instant;

use super::read::{Filter, check_revision, partial, presented};
use super::{Accept, Params, Server, Target, table};
use crate::status::{ApiError, ApiResult};
use crate::store::{Event, Object};

/// Events taken from the log at a time.
const BATCH: usize = 256;
const BOOKMARK_EVERY: Duration = Duration::from_secs(20);
/// Without `timeoutSeconds` a watch ends between once and twice this, so that clients do not come back together.
const DEFAULT_TIMEOUT_S: u64 = 1800;

struct Watch {
    server: Server,
    target: Target,
    filter: Filter,
    accept: Accept,
    include: table::Include,
    header_sent: bool,
    bookmarks: bool,
    changed: signal::Receiver<u64>,
    cursor: u64,
    ready: VecDeque<Bytes>,
    next_bookmark: Instant,
    ends: Instant,
    over: bool,
}

pub(super) fn start(server: &Server, target: Target, params: &Params, accept: Accept) -> ApiResult<Response> {
    let filter = Filter::of(&target, params)?;
    let wanted = check_revision(server, params)?;
    let initial = params.get("sendInitialEvents").map(|v| v == "true");
    if initial.is_some() && params.get("resourceVersionMatch") != Some("NotOlderThan") {
        return Err(ApiError::new(
            422,
            "Invalid",
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    let timeout = params.number("timeoutSeconds")?.filter(|s| *s > 0);
    let timeout = timeout.unwrap_or_else(|| DEFAULT_TIMEOUT_S + rand::rng().random_range(0..DEFAULT_TIMEOUT_S));
    let changed = server.api.store.subscribe(&target.resource.table);
    let mut watch = Watch {
        server: server.clone(),
        include: table::Include::of(params),
        header_sent: false,
        bookmarks: params.flag("allowWatchBookmarks"),
        filter,
        accept,
        changed,
        cursor: 0,
        ready: VecDeque::new(),
        next_bookmark: Instant::now() + BOOKMARK_EVERY,
        ends: Instant::now() + Duration::from_secs(timeout),
        over: false,
        target,
    };
    let from_now = wanted.is_none_or(|rv| rv == 0);
    match initial {
        Some(true) => watch.send_initial(true),
        Some(false) if from_now => watch.cursor = server.api.store.revision(),
        None if from_now => watch.send_initial(false),
        _ => watch.cursor = wanted.unwrap_or(0),
    }
    let stream = futures::stream::unfold(watch, |mut watch| async move {
        let bytes = watch.next().await?;
        Some((Ok::<_, Infallible>(bytes), watch))
    });
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

impl Watch {
    fn send_initial(&mut self, mark_end: bool) {
        let accepts = |object: &Object| self.filter.accepts(object);
        let namespace = self.filter.namespace.clone();
        let table = self.target.resource.table.clone();
        let snapshot = self.server.api.store.list_page(&table, namespace.as_deref(), None, usize::MAX, &accepts);
        self.cursor = snapshot.revision;
        for object in &snapshot.objects {
            self.push("ADDED", object);
        }
        if mark_end && self.bookmarks {
            self.bookmark(&json!({"k8s.io/initial-events-end": "true"}));
        }
    }

    /// The next bytes to send; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(first) = self.ready.pop_front() {
                return Some(self.join(first));
            }
            if self.over || Instant::now() >= self.ends {
                return None;
            }
            self.changed.borrow_and_update();
            let moved = self.pull();
            if !self.ready.is_empty() || moved {
                continue;
            }
            tokio::select! {
                changed = self.changed.changed() => if changed.is_err() { return None },
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                    self.bookmark(&Value::Null);
                }
                () = tokio::time::sleep_until(self.ends) => return None,
            }
        }
    }

    /// Small events go out together.
    fn join(&mut self, first: Bytes) -> Bytes {
        if self.ready.is_empty() {
            return first;
        }
        let mut bytes = first.to_vec();
        while bytes.len() < 64 << 10
            && let Some(more) = self.ready.pop_front()
        {
            bytes.extend_from_slice(&more);
        }
        bytes.into()
    }

    /// Takes what is new from the log. True: there may be more.
    fn pull(&mut self) -> bool {
        let table = self.target.resource.table.clone();
        match self.server.api.store.events(&table, self.cursor, BATCH) {
            Ok((events, upto)) => {
                let full = events.len() == BATCH;
                for event in &events {
                    self.take(event);
                }
                self.cursor = upto;
                full
            }
            Err(_) => {
                let error = ApiError::expired(format!("too old resource version: {}", self.cursor));
                self.ready.push_back(line("ERROR", error.to_value().to_string().as_bytes()));
                self.over = true;
                true
            }
        }
    }

    /// An object that begins or ceases to match is added or deleted for this client.
    fn take(&mut self, event: &Event) {
        let matches =
            |object: &Option<_>| object.as_ref().is_some_and(|o: &std::sync::Arc<Object>| self.filter.accepts(o));
        let (before, now) = (matches(&event.before), matches(&event.now));
        match (before, now, &event.now, &event.before) {
            (false, true, Some(object), _) => self.push("ADDED", object),
            (true, true, Some(object), _) => self.push("MODIFIED", object),
            (true, false, Some(object), _) => self.push("DELETED", object),
            (true, false, None, Some(object)) => self.push("DELETED", object),
            _ => {}
        }
    }

    fn push(&mut self, kind: &str, object: &Object) {
        let bytes = match self.accept {
            Accept::Json | Accept::GroupDiscovery => presented(&self.server, &self.target, object),
            Accept::Table => {
                let value = self.server.api.present(&self.target.resource, object.value());
                let made = table::of(&self.target.resource, &[value], self.include, !self.header_sent);
                self.header_sent = true;
                made.to_string().into()
            }
            Accept::PartialMetadata => partial(&object.value()).to_string().into(),
        };
        self.ready.push_back(line(kind, &bytes));
    }

    fn bookmark(&mut self, annotations: &Value) {
        let resource = &self.target.resource;
        let mut object = json!({
            "kind": resource.kind, "apiVersion": resource.api_version(),
            "metadata": {"resourceVersion": self.cursor.to_string(), "creationTimestamp": null},
        });
        if annotations.is_object() {
            object["metadata"]["annotations"] = annotations.clone();
        }
        let object = match self.accept {
            Accept::Table => {
                let mut made = table::of(resource, &[object], self.include, !self.header_sent);
                made["metadata"]["resourceVersion"] = self.cursor.to_string().into();
                made
            }
            Accept::PartialMetadata => partial(&object),
            Accept::Json | Accept::GroupDiscovery => object,
        };
        self.ready.push_back(line("BOOKMARK", object.to_string().as_bytes()));
    }
}

fn line(kind: &str, object: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(object.len() + 40);
    bytes.extend_from_slice(b"{\"type\":\"");
    bytes.extend_from_slice(kind.as_bytes());
    bytes.extend_from_slice(b"\",\"object\":");
    bytes.extend_from_slice(object);
    bytes.extend_from_slice(b"}\n");
    bytes.into()
}
