//! Create, update, patch and delete, and the subresources that write.

use axum::extract::Request;
use axum::response::Response;
use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::{Accept, Params, Server, Target, body, decode, json_response, read, table};
use crate::admission;
use crate::api::{Api, DeleteOptions, Deleted, WriteOptions, Written};
use crate::jsonpath;
use crate::kinds::Resource;
use crate::patch::{self, PatchKind};
use crate::status::{ApiError, ApiResult};
use crate::store::Key;
use crate::tls::Identity;

pub(super) async fn handle(
    server: &Server,
    target: &Target,
    params: &Params,
    accept: Accept,
    identity: &Identity,
    request: Request,
) -> ApiResult<Response> {
    let method = request.method().clone();
    let options = params.write_options(request.headers(), &target.subresource)?;
    let media_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("application/json")
        .to_owned();
    let bytes = body(request).await?;
    let patch_kind = if method == Method::PATCH { Some(PatchKind::of_media_type(&media_type)?) } else { None };
    let body = decode(
        &bytes,
        if patch_kind == Some(PatchKind::Apply) { "application/yaml" } else { &media_type },
        &target.resource,
    )?;
    let api = &server.api;
    let call = Call { api, target, options: &options, accept };
    match (&method, patch_kind) {
        (&Method::POST, _) => call.post(body, identity),
        (&Method::PUT, _) if target.subresource == "scale" => {
            call.scale(|scale| Ok(body["spec"]["replicas"].clone().or(scale)))
        }
        (&Method::PUT, _) => call.written(api.update(&target.resource, &target.key()?, body, &options)),
        (&Method::PATCH, Some(kind)) if target.subresource == "scale" => call.patch_scale(kind, &body),
        (&Method::PATCH, Some(kind)) => call.patch(kind, &body, params),
        (&Method::DELETE, _) if target.name.is_some() => call.delete(&delete_options(params, &body)?),
        (&Method::DELETE, _) => call.delete_all(params, &delete_options(params, &body)?),
        _ => Err(ApiError::method_not_allowed()),
    }
}

trait Or {
    fn or(self, other: Value) -> Value;
}

impl Or for Value {
    fn or(self, other: Value) -> Value {
        if self.is_null() { other } else { self }
    }
}

/// The body wins over the query.
fn delete_options(params: &Params, body: &Value) -> ApiResult<DeleteOptions> {
    let mut options = DeleteOptions::from_value(body);
    if options.grace_period_s.is_none() {
        options.grace_period_s = params.number("gracePeriodSeconds")?.and_then(|s| i64::try_from(s).ok());
    }
    if options.propagation.is_none() {
        options.propagation = params.get("propagationPolicy").map(str::to_owned);
    }
    options.dry_run |= params.get("dryRun").is_some();
    match options.propagation.as_deref() {
        None | Some("Background" | "Foreground" | "Orphan") => Ok(options),
        Some(other) => Err(ApiError::bad_request(format!(
            "propagationPolicy: Unsupported value: \"{other}\": supported values: \"Background\", \"Foreground\", \"Orphan\""
        ))),
    }
}

struct Call<'a> {
    api: &'a Api,
    target: &'a Target,
    options: &'a WriteOptions,
    accept: Accept,
}

impl Call<'_> {
    fn answer(&self, code: StatusCode, value: &Value, warnings: &[String]) -> Response {
        match self.accept {
            Accept::Table => {
                let made =
                    table::of(&self.target.resource, std::slice::from_ref(value), table::Include::Metadata, true);
                json_response(code, &made, warnings)
            }
            Accept::PartialMetadata => json_response(code, &read::partial(value), warnings),
            Accept::Json | Accept::GroupDiscovery => json_response(code, value, warnings),
        }
    }

    fn written(&self, result: ApiResult<Written>) -> ApiResult<Response> {
        let written = result?;
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        Ok(self.answer(code, &written.value, &written.warnings))
    }

    fn post(&self, mut body: Value, identity: &Identity) -> ApiResult<Response> {
        let resource = &self.target.resource;
        if let Some(name) = &self.target.name {
            return self.post_subresource(name, &body);
        }
        if !self.target.subresource.is_empty() {
            return Err(ApiError::method_not_allowed());
        }
        if resource.plural == "bindings" && resource.group.is_empty() {
            let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            return self.bind(&name, &body);
        }
        if resource.create_only {
            if !body.is_object() {
                body = json!({});
            }
            let answered = admission::answer(resource, body, &identity.user, &identity.groups)?;
            return Ok(json_response(StatusCode::CREATED, &answered, &[]));
        }
        if resource.namespaced && self.target.namespace.is_none() {
            return Err(ApiError::method_not_allowed());
        }
        let namespace = self.target.namespace.clone().unwrap_or_default();
        self.written(self.api.create(resource, &namespace, body, self.options))
    }

    fn post_subresource(&self, name: &str, body: &Value) -> ApiResult<Response> {
        match self.target.subresource.as_str() {
            "binding" => self.bind(name, body),
            "eviction" => {
                let options = DeleteOptions::from_value(&body["deleteOptions"]);
                self.api.delete(&self.target.resource, &self.target.key()?, &options)?;
                Ok(json_response(StatusCode::CREATED, &success(&self.target.resource, name, None), &[]))
            }
            "token" => {
                let account = self.api.get(&self.target.resource, &self.target.key()?)?;
                let mut answer = body.clone();
                let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
                answer["status"] = json!({"token": format!("lab.{}.{}", account.key.namespace, account.key.name), "expirationTimestamp": until.to_string()});
                Ok(json_response(StatusCode::CREATED, &answer, &[]))
            }
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn bind(&self, name: &str, body: &Value) -> ApiResult<Response> {
        let pods = self.api.registry.builtin("", "pods");
        let node = body["target"]["name"].as_str().unwrap_or_default();
        let key = Key::new(self.target.namespace.clone().unwrap_or_default(), name);
        bind_pod(self.api, &pods, &key, node, self.options)?;
        let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(json_response(StatusCode::CREATED, &done, &[]))
    }

    fn patch(&self, kind: PatchKind, body: &Value, params: &Params) -> ApiResult<Response> {
        if kind == PatchKind::Apply && params.get("fieldManager").is_none() {
            return Err(ApiError::bad_request(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ));
        }
        self.written(self.api.patch(&self.target.resource, &self.target.key()?, kind, body, self.options))
    }

    fn patch_scale(&self, kind: PatchKind, body: &Value) -> ApiResult<Response> {
        self.scale(|current| {
            let mut scale = json!({"spec": {"replicas": current}});
            match kind {
                PatchKind::Json => patch::json(&mut scale, body)?,
                PatchKind::Merge | PatchKind::Strategic | PatchKind::Apply => patch::merge(&mut scale, body),
            }
            Ok(scale["spec"]["replicas"].clone())
        })
    }

    /// Sets the number of replicas to what `change` makes of the present one.
    fn scale(&self, change: impl Fn(Value) -> ApiResult<Value>) -> ApiResult<Response> {
        let resource = &self.target.resource;
        let paths = resource.scale.as_ref().ok_or_else(ApiError::no_such_path)?;
        let options = WriteOptions { subresource: String::new(), ..self.options.clone() };
        let written = self.api.modify(resource, &self.target.key()?, &options, &mut |old| {
            let mut new = old.clone();
            let replicas = change(jsonpath::first(old, &paths.spec).cloned().unwrap_or_else(|| 0.into()))?;
            let pointer = paths.spec.replace('.', "/");
            match new.pointer_mut(&pointer) {
                Some(place) => *place = replicas,
                None => new["spec"]["replicas"] = replicas,
            }
            Ok(new)
        })?;
        Ok(json_response(StatusCode::OK, &scale_of(resource, &written.value), &[]))
    }

    fn delete(&self, options: &DeleteOptions) -> ApiResult<Response> {
        let key = self.target.key()?;
        match self.api.delete(&self.target.resource, &key, options)? {
            Deleted::Gone(value) => {
                let uid = value["metadata"]["uid"].as_str();
                Ok(json_response(StatusCode::OK, &success(&self.target.resource, &key.name, uid), &[]))
            }
            Deleted::Marked(value) => Ok(self.answer(StatusCode::OK, &value, &[])),
        }
    }

    fn delete_all(&self, params: &Params, options: &DeleteOptions) -> ApiResult<Response> {
        let resource = &self.target.resource;
        let filter = read::Filter::of(self.target, params)?;
        let accepts = |object: &crate::store::Object| filter.accepts(object);
        let page = self.api.store.list_page(&resource.table, filter.namespace.as_deref(), None, usize::MAX, &accepts);
        for object in &page.objects {
            match self.api.delete(resource, &object.key, options) {
                Err(error) if error.reason != "NotFound" => return Err(error),
                _ => {}
            }
        }
        let items: Vec<Value> = page.objects.iter().map(|o| self.api.present(resource, o.value())).collect();
        let list = json!({
            "kind": resource.list_kind, "apiVersion": resource.api_version(),
            "metadata": {"resourceVersion": self.api.store.revision().to_string()}, "items": items,
        });
        Ok(json_response(StatusCode::OK, &list, &[]))
    }
}

fn success(resource: &Resource, name: &str, uid: Option<&str>) -> Value {
    let mut details = json!({"name": name, "kind": resource.plural});
    if !resource.group.is_empty() {
        details["group"] = resource.group.clone().into();
    }
    if let Some(uid) = uid {
        details["uid"] = uid.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Puts a pod on a node, once.
pub(crate) fn bind_pod(api: &Api, pods: &Resource, key: &Key, node: &str, options: &WriteOptions) -> ApiResult<()> {
    let options = WriteOptions { subresource: String::new(), ..options.clone() };
    api.modify(pods, key, &options, &mut |old| {
        if old["spec"]["nodeName"].is_string() && old["spec"]["nodeName"] != node {
            let why = format!("pod {} is already assigned to node {}", key.name, old["spec"]["nodeName"]);
            return Err(ApiError::conflict(pods, &key.name, &why));
        }
        let mut new = old.clone();
        new["spec"]["nodeName"] = node.into();
        Ok(new)
    })?;
    api.modify(pods, key, &options.status(), &mut |old| {
        let mut new = old.clone();
        let condition = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": crate::apply::now()});
        crate::controllers::set_condition(&mut new["status"], condition);
        Ok(new)
    })?;
    Ok(())
}

/// The `scale` subresource of an object.
pub(crate) fn scale_of(resource: &Resource, object: &Value) -> Value {
    let Some(paths) = &resource.scale else { return Value::Null };
    let number = |path: &str| jsonpath::first(object, path).and_then(Value::as_i64).unwrap_or(0);
    let selector = paths.selector.as_ref().and_then(|path| jsonpath::first(object, path));
    let selector = match selector {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Object(selector)) => {
            let labels = selector.get("matchLabels").unwrap_or(&Value::Null).as_object().into_iter().flatten();
            labels.map(|(k, v)| format!("{k}={}", jsonpath::shown(v))).collect::<Vec<_>>().join(",")
        }
        _ => String::new(),
    };
    let metadata = &object["metadata"];
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"]},
        "spec": {"replicas": number(&paths.spec)},
        "status": {"replicas": number(&paths.status), "selector": selector},
    })
}
