//! Requests to what they mean, and answers back to bytes.

mod discovery;
mod log;
mod openapi;
mod read;
mod table;
mod watch;
mod write;

pub(crate) use write::bind_pod;

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

use crate::api::{Api, FieldValidation, WriteOptions};
use crate::kinds::Resource;
use crate::protobuf;
use crate::status::{ApiError, ApiResult};
use crate::store::Key;
use crate::tls::Identity;

/// What the real server accepts in one request.
const MAX_BODY: usize = 3 << 20;
const SERVER_VERSION: (&str, &str, &str) = ("1", "32", "v1.32.4");

#[derive(Clone)]
pub struct Server {
    pub api: Arc<Api>,
    /// `<namespace>_<pod>_<uid>/<container>.log` below here.
    pub pod_log_dir: Option<PathBuf>,
}

pub fn router(server: Server) -> axum::Router {
    axum::Router::new().fallback(entry).with_state(server)
}

async fn entry(State(server): State<Server>, request: Request) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    match route(server, request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::debug!(%method, path, code = error.code, error.message, "refused");
            error.into_response()
        }
    }
}

async fn route(server: Server, request: Request) -> ApiResult<Response> {
    let path = request.uri().path().to_owned();
    let Some(identity) = request.extensions().get::<Identity>().cloned() else {
        return Err(ApiError::new(401, "Unauthorized", "Unauthorized"));
    };
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let accept = Accept::of(request.headers());
    match segments.as_slice() {
        ["healthz" | "readyz" | "livez", ..] => Ok("ok".into_response()),
        ["version"] => Ok(axum::Json(version()).into_response()),
        [] => Ok(axum::Json(discovery::root(&server.api)).into_response()),
        ["api"] => Ok(discovery::legacy_versions(&server.api, &accept)),
        ["apis"] => Ok(discovery::groups(&server.api, &accept)),
        ["apis", group] => discovery::group(&server.api, group),
        ["api", version] => discovery::resources(&server.api, "", version),
        ["apis", group, version] => discovery::resources(&server.api, group, version),
        ["openapi", "v2"] => {
            let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
            Ok(openapi::v2(accept.unwrap_or_default()))
        }
        ["openapi", "v3"] => Ok(axum::Json(openapi::index(&server.api)).into_response()),
        ["openapi", "v3", "api", version] => openapi::document(&server.api, "", version),
        ["openapi", "v3", "apis", group, version] => openapi::document(&server.api, group, version),
        ["api", version, rest @ ..] => resource(&server, "", version, rest, request, &accept, &identity).await,
        ["apis", group, version, rest @ ..] => {
            resource(&server, group, version, rest, request, &accept, &identity).await
        }
        _ => Err(ApiError::no_such_path()),
    }
}

fn version() -> Value {
    let (major, minor, git) = SERVER_VERSION;
    json!({
        "major": major, "minor": minor, "gitVersion": git, "gitCommit": "causeway-lab", "gitTreeState": "clean",
        "buildDate": "2025-04-22T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// What a path names.
pub(crate) struct Target {
    pub(crate) resource: Arc<Resource>,
    /// `None`: all namespaces, or a resource that has none.
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: String,
}

impl Target {
    fn parse(api: &Api, group: &str, version: &str, segments: &[&str]) -> ApiResult<Self> {
        let (namespace, rest) = match segments {
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => (None, segments),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(percent_decode(namespace)), rest),
            all => (None, all),
        };
        let (plural, rest) = rest.split_first().ok_or_else(ApiError::no_such_path)?;
        let resource = api.registry.get(group, version, plural).ok_or_else(ApiError::no_such_path)?;
        if namespace.is_some() && !resource.namespaced {
            return Err(ApiError::no_such_path());
        }
        let (name, subresource) = match rest {
            [] => (None, String::new()),
            [name] => (Some(percent_decode(name)), String::new()),
            [name, sub] => (Some(percent_decode(name)), (*sub).to_owned()),
            _ => return Err(ApiError::no_such_path()),
        };
        let known = match subresource.as_str() {
            "" => true,
            "status" => resource.status,
            "scale" => resource.scale.is_some(),
            other => resource.subresources.iter().any(|s| s == other),
        };
        if !known {
            return Err(ApiError::no_such_path());
        }
        Ok(Self { resource, namespace, name, subresource })
    }

    pub(crate) fn key(&self) -> ApiResult<Key> {
        let name = self.name.clone().ok_or_else(ApiError::method_not_allowed)?;
        if self.resource.namespaced && self.namespace.is_none() {
            return Err(ApiError::no_such_path());
        }
        Ok(Key::new(self.namespace.clone().unwrap_or_default(), name))
    }
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = (*first == b'%').then(|| tail.get(..2)).flatten().and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Query parameters that a verb may carry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    fn of(request: &Request) -> ApiResult<Self> {
        Query::<Vec<(String, String)>>::try_from_uri(request.uri())
            .map(|Query(pairs)| Self(pairs))
            .map_err(|e| ApiError::bad_request(format!("the query string is malformed: {e}")))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()), Some("true" | "1" | ""))
    }

    pub(crate) fn number(&self, name: &str) -> ApiResult<Option<u64>> {
        self.get(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| ApiError::bad_request(format!("{name}: invalid value: \"{text}\": must be a number")))
            })
            .transpose()
    }

    pub(crate) fn write_options(&self, headers: &HeaderMap, subresource: &str) -> ApiResult<WriteOptions> {
        let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("unknown");
        let fallback = agent.split('/').next().unwrap_or("unknown");
        let validation = match self.get("fieldValidation") {
            Some("Strict") => FieldValidation::Strict,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Warn") | None => FieldValidation::Warn,
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "fieldValidation: Unsupported value: \"{other}\": supported values: \"Ignore\", \"Strict\", \"Warn\""
                )));
            }
        };
        Ok(WriteOptions {
            manager: self.get("fieldManager").unwrap_or(fallback).to_owned(),
            validation,
            dry_run: self.get("dryRun").is_some(),
            subresource: subresource.to_owned(),
            force: self.flag("force"),
        })
    }
}

/// The representation that the client prefers; whatever it says of encodings, it gets JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accept {
    Json,
    Table,
    PartialMetadata,
    GroupDiscovery,
}

impl Accept {
    fn of(headers: &HeaderMap) -> Self {
        let text = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect::<Vec<_>>().join(",");
        for part in text.split(',').filter(|p| p.contains("json")) {
            let part: String = part.chars().filter(|c| !c.is_whitespace()).collect();
            if part.contains(";as=Table") && part.contains("v=v1") && !part.contains("v=v1beta1") {
                return Self::Table;
            }
            if part.contains(";as=PartialObjectMetadata") {
                return Self::PartialMetadata;
            }
            if part.contains("as=APIGroupDiscoveryList") && part.contains("v=v2") && !part.contains("v=v2beta1") {
                return Self::GroupDiscovery;
            }
            if !part.contains("as=") {
                return Self::Json;
            }
        }
        Self::Json
    }
}

async fn resource(
    server: &Server,
    group: &str,
    version: &str,
    segments: &[&str],
    request: Request,
    accept: &Accept,
    identity: &Identity,
) -> ApiResult<Response> {
    let target = Target::parse(&server.api, group, version, segments)?;
    let params = Params::of(&request)?;
    if target.resource.create_only && request.method() != Method::POST {
        return Err(ApiError::method_not_allowed());
    }
    match (request.method(), target.name.is_some()) {
        (&Method::GET, true) if target.subresource == "log" => log::get(server, &target, &params).await,
        (&Method::GET, true) if params.flag("watch") => watch::start(server, target, &params, *accept),
        (&Method::GET, true) => read::get(server, &target, *accept, &params),
        (&Method::GET, false) if params.flag("watch") => watch::start(server, target, &params, *accept),
        (&Method::GET, false) => read::list(server, &target, &params, *accept),
        (&Method::POST | &Method::PUT | &Method::PATCH | &Method::DELETE, _) => {
            write::handle(server, &target, &params, *accept, identity, request).await
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// The body, within bounds.
async fn body(request: Request) -> ApiResult<Bytes> {
    match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(ApiError::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {MAX_BODY}")))
        }
        Err(error) => Err(ApiError::bad_request(format!("the body could not be read: {error}"))),
    }
}

/// JSON, or YAML or protobuf when the client says so.
fn decode(bytes: &[u8], media_type: &str, resource: &Resource) -> ApiResult<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    if media_type.contains("protobuf") {
        return protobuf::decode(bytes, resource.builtin.as_deref())
            .ok_or_else(|| ApiError::bad_request("the protobuf body could not be decoded"));
    }
    if media_type.contains("yaml") {
        return serde_yaml_ng::from_slice(bytes)
            .map_err(|e| ApiError::bad_request(format!("error converting YAML to JSON: {e}")));
    }
    serde_json::from_slice(bytes)
        .map_err(|e| ApiError::bad_request(format!("the object provided is unrecognized (must be of type JSON): {e}")))
}

fn json_response(code: StatusCode, value: &Value, warnings: &[String]) -> Response {
    let text = serde_json::to_vec(value).unwrap_or_default();
    let mut response = raw_response(code, text.into());
    for warning in warnings {
        let quoted: String =
            warning.chars().filter(|c| !c.is_control()).collect::<String>().replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

fn raw_response(code: StatusCode, bytes: Bytes) -> Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
