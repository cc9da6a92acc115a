//! Get and list.

use std::sync::Arc;

use axum::body::Bytes;
use axum::response::Response;
use base64::Engine as _;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Accept, Params, Server, Target, json_response, raw_response, table, write};
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::{ApiError, ApiResult};
use crate::store::{Key, Object};

/// What a list or a watch is restricted to.
pub(super) struct Filter {
    pub(super) labels: LabelSelector,
    pub(super) fields: FieldSelector,
    pub(super) namespace: Option<String>,
}

impl Filter {
    pub(super) fn of(target: &Target, params: &Params) -> ApiResult<Self> {
        let labels =
            LabelSelector::parse(params.get("labelSelector").unwrap_or_default()).map_err(ApiError::bad_request)?;
        let mut fields = params.get("fieldSelector").unwrap_or_default().to_owned();
        if let Some(name) = &target.name {
            fields = format!("metadata.name={name}");
        }
        let fields = FieldSelector::parse(&fields).map_err(ApiError::bad_request)?;
        Ok(Self { labels, fields, namespace: target.namespace.clone() })
    }

    pub(super) fn accepts(&self, object: &Object) -> bool {
        self.namespace.as_ref().is_none_or(|ns| *ns == object.key.namespace)
            && self.labels.matches(&object.labels)
            && (self.fields.is_empty() || self.fields.matches(object))
    }
}

pub(super) fn get(server: &Server, target: &Target, accept: Accept, params: &Params) -> ApiResult<Response> {
    let object = server.api.get(&target.resource, &target.key()?)?;
    match target.subresource.as_str() {
        "" | "status" | "ephemeralcontainers" => {}
        "scale" => return Ok(json_response(StatusCode::OK, &write::scale_of(&target.resource, &object.value()), &[])),
        _ => return Err(ApiError::method_not_allowed()),
    }
    match accept {
        Accept::Json | Accept::GroupDiscovery => Ok(raw_response(StatusCode::OK, presented(server, target, &object))),
        Accept::Table => {
            let include = table::Include::of(params);
            let value = server.api.present(&target.resource, object.value());
            Ok(json_response(StatusCode::OK, &table::of(&target.resource, &[value], include, true), &[]))
        }
        Accept::PartialMetadata => Ok(json_response(StatusCode::OK, &partial(&object.value()), &[])),
    }
}

/// The bytes of an object in the version of the request.
pub(super) fn presented(server: &Server, target: &Target, object: &Object) -> Bytes {
    if target.resource.api_version() == target.resource.stored_as {
        return object.raw.clone();
    }
    let value = server.api.present(&target.resource, object.value());
    serde_json::to_vec(&value).unwrap_or_default().into()
}

pub(super) fn partial(object: &Value) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
}

/// Where a list goes on: after which object, and at which revision it began.
struct Continue {
    revision: u64,
    after: Key,
}

impl Continue {
    fn encode(&self) -> String {
        let json = json!([self.revision, self.after.namespace, self.after.name]).to_string();
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json)
    }

    fn decode(token: &str) -> Option<Self> {
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token).ok()?;
        let (revision, namespace, name): (u64, String, String) = serde_json::from_slice(&bytes).ok()?;
        Some(Self { revision, after: Key { namespace, name } })
    }
}

/// A revision that the client has seen elsewhere cannot be ahead of ours.
pub(super) fn check_revision(server: &Server, params: &Params) -> ApiResult<Option<u64>> {
    let wanted = match params.get("resourceVersion") {
        None => return Ok(None),
        Some(text) => text.parse::<u64>().map_err(|_| {
            ApiError::bad_request(format!(
                "resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
            ))
        })?,
    };
    let current = server.api.store.revision();
    if wanted > current {
        let mut error =
            ApiError::new(504, "Timeout", format!("Too large resource version: {wanted}, current: {current}"));
        error.details = Some(
            json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1}),
        );
        return Err(error);
    }
    Ok(Some(wanted))
}

pub(super) fn list(server: &Server, target: &Target, params: &Params, accept: Accept) -> ApiResult<Response> {
    let filter = Filter::of(target, params)?;
    let limit = params.number("limit")?.filter(|l| *l > 0).and_then(|l| usize::try_from(l).ok()).unwrap_or(usize::MAX);
    let from = match params.get("continue") {
        Some(token) => Some(Continue::decode(token).ok_or_else(|| ApiError::bad_request("continue key is not valid"))?),
        None => None,
    };
    let wanted = check_revision(server, params)?;
    let resource = &target.resource;
    if let (Some("Exact"), Some(exact)) = (params.get("resourceVersionMatch"), wanted) {
        // Only the present is kept: an exact revision can be served while nothing has changed since.
        let changed = server.api.store.events(&resource.table, exact, 1).map_or(true, |(events, _)| !events.is_empty());
        if changed {
            return Err(ApiError::expired(format!("The resourceVersion for the provided list is too old: {exact}")));
        }
    }
    let accepts = |object: &Object| filter.accepts(object);
    let after = from.as_ref().map(|f| &f.after);
    let page = server.api.store.list_page(&resource.table, filter.namespace.as_deref(), after, limit, &accepts);
    // Later pages show the present under the first page's revision: a watch from there repeats whatever changed between.
    let revision = from.as_ref().map_or(page.revision, |f| f.revision);
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let (true, Some(last)) = (page.more, page.objects.last()) {
        metadata["continue"] = Continue { revision, after: last.key.clone() }.encode().into();
        if filter.labels.is_empty() && filter.fields.is_empty() {
            metadata["remainingItemCount"] = page.remaining.into();
        }
    }
    match accept {
        Accept::Json | Accept::GroupDiscovery => {
            Ok(raw_response(StatusCode::OK, list_bytes(server, target, &metadata, &page.objects)))
        }
        Accept::Table => {
            let objects: Vec<Value> = page.objects.iter().map(|o| server.api.present(resource, o.value())).collect();
            let mut made = table::of(resource, &objects, table::Include::of(params), true);
            made["metadata"] = metadata;
            Ok(json_response(StatusCode::OK, &made, &[]))
        }
        Accept::PartialMetadata => {
            let items: Vec<Value> = page.objects.iter().map(|o| partial(&o.value())).collect();
            let made = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": metadata, "items": items});
            Ok(json_response(StatusCode::OK, &made, &[]))
        }
    }
}

/// Objects are spliced in as they lie in the store.
fn list_bytes(server: &Server, target: &Target, metadata: &Value, objects: &[Arc<Object>]) -> Bytes {
    let resource = &target.resource;
    let mut bytes = Vec::with_capacity(256 + objects.iter().map(|o| o.raw.len() + 1).sum::<usize>());
    let head =
        json!({"kind": resource.list_kind, "apiVersion": resource.api_version(), "metadata": metadata}).to_string();
    bytes.extend_from_slice(head.trim_end_matches('}').as_bytes());
    // `metadata` is an object itself: trimming took its brace as well.
    bytes.extend_from_slice(b"},\"items\":[");
    for (i, object) in objects.iter().enumerate() {
        if i > 0 {
            bytes.push(b',');
        }
        bytes.extend_from_slice(&presented(server, target, object));
    }
    bytes.extend_from_slice(b"]}");
    bytes.into()
}
