//! What the API does with objects, whoever asks: HTTP clients or the controllers inside.
//!
//! Every write goes the same way: decode along the schema, default, admit, validate, compare with what is stored, record the owner
//! of each changed field, commit at the revision that was read.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use serde_json::{Map, Value, json};

use crate::admission::{self, addresses::Addresses};
use crate::apply::{self, Writer};
use crate::kinds::{Registry, Resource};
use crate::patch::{self, PatchKind};
use crate::schema::check::{self, FieldError, Origin, Problem};
use crate::status::{ApiError, ApiResult};
use crate::store::{Key, Object, Store, StoreError};

/// How often a write without a resourceVersion is tried again when somebody else was faster.
const MAX_RACES: usize = 20;
/// How often a generated name may already be taken.
const MAX_NAME_DRAWS: usize = 8;
/// No vowels and no look-alikes, as Kubernetes draws its suffixes.
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

pub struct Api {
    pub store: Store,
    pub registry: Registry,
    pub addresses: Addresses,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    pub manager: String,
    pub validation: FieldValidation,
    pub dry_run: bool,
    /// `status`, `scale`, or empty.
    pub subresource: String,
    /// Apply only: take fields from other owners.
    pub force: bool,
}

impl WriteOptions {
    /// For the controllers inside.
    pub fn by(manager: &str) -> Self {
        Self { manager: manager.to_owned(), validation: FieldValidation::Ignore, ..Self::default() }
    }

    pub fn status(mut self) -> Self {
        self.subresource = "status".to_owned();
        self
    }
}

#[derive(Clone, Debug)]
pub struct Written {
    pub value: Value,
    pub warnings: Vec<String>,
    pub created: bool,
}

#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub grace_period_s: Option<i64>,
    pub propagation: Option<String>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
}

impl DeleteOptions {
    pub fn from_value(body: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let orphan = match body["orphanDependents"].as_bool() {
            Some(true) => Some("Orphan".to_owned()),
            Some(false) => Some("Background".to_owned()),
            None => None,
        };
        Self {
            grace_period_s: body["gracePeriodSeconds"].as_i64(),
            propagation: text(&body["propagationPolicy"]).or(orphan),
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            dry_run: body["dryRun"].as_array().is_some_and(|d| !d.is_empty()),
        }
    }

    pub fn background() -> Self {
        Self { propagation: Some("Background".to_owned()), ..Self::default() }
    }
}

/// What became of a delete.
#[derive(Clone, Debug)]
pub enum Deleted {
    /// Gone; its last state.
    Gone(Value),
    /// Marked: a finalizer or the kubelet has yet to act.
    Marked(Value),
}

pub fn random_suffix(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(NAME_LETTERS[rng.random_range(0..NAME_LETTERS.len())])).collect()
}

pub fn new_uid() -> String {
    let b: u128 = rand::rng().random();
    let b = (b & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{b:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

impl Api {
    pub fn get(&self, resource: &Resource, key: &Key) -> ApiResult<Arc<Object>> {
        self.store.get(&resource.table, key).ok_or_else(|| ApiError::not_found(resource, &key.name))
    }

    /// An object of the store in the version that was asked for.
    pub fn present(&self, resource: &Resource, mut value: Value) -> Value {
        let wanted = resource.api_version();
        if value["apiVersion"] != wanted.as_str() {
            if &*resource.table == "events" {
                admission::events::convert(&mut value, &resource.group);
            }
            value["apiVersion"] = wanted.into();
        }
        value
    }

    /// An object of a client in the version under which it is stored.
    fn to_stored(&self, resource: &Resource, value: &mut Value) {
        if value["apiVersion"] != resource.stored_as.as_str() {
            if &*resource.table == "events" {
                admission::events::convert(value, "");
            }
            value["apiVersion"] = resource.stored_as.clone().into();
        }
    }

    /// Checks shape and kind of a body, drops or refuses unknown fields. Returns warnings.
    fn decode(&self, resource: &Resource, value: &mut Value, options: &WriteOptions) -> ApiResult<Vec<String>> {
        let Some(fields) = value.as_object_mut() else {
            return Err(ApiError::bad_request("the body is not a JSON object"));
        };
        let version = resource.api_version();
        for (name, expected) in [("kind", &resource.kind), ("apiVersion", &version)] {
            match fields.get(name).and_then(Value::as_str) {
                Some(found) if !found.is_empty() && found != expected => {
                    return Err(ApiError::bad_request(format!(
                        "the {name} of the object ({found}) does not match the {name} of the request ({expected})"
                    )));
                }
                _ => {
                    fields.insert(name.to_owned(), expected.clone().into());
                }
            }
        }
        if !fields.get("metadata").is_some_and(Value::is_object) {
            fields.insert("metadata".to_owned(), json!({}));
        }
        let unknown = check::prune(&resource.schema, value, origin(resource));
        let found: Vec<String> = unknown.iter().map(|path| format!("unknown field \"{path}\"")).collect();
        match options.validation {
            FieldValidation::Strict if !found.is_empty() => Err(ApiError::bad_request(format!(
                "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
                resource.kind,
                resource.version,
                resource.kind,
                found.join(", ")
            ))),
            FieldValidation::Warn => Ok(found),
            FieldValidation::Strict | FieldValidation::Ignore => Ok(Vec::new()),
        }
    }

    /// Defaults and validation by schema; `existing` is what an update replaces.
    fn complete(&self, resource: &Resource, value: &mut Value, existing: Option<&Value>) -> ApiResult<()> {
        check::default(&resource.schema, value);
        admission::default(self, resource, value, existing)?;
        // What is written in here may hold nulls where a typed encoder would leave a field out.
        check::prune(&resource.schema, value, origin(resource));
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let mut errors = check::validate(&resource.schema, value, existing);
        if !resource.custom()
            && let Some(FieldError { path, problem: Problem::Type { found, wanted } }) =
                errors.iter().find(|e| matches!(e.problem, Problem::Type { .. }))
        {
            // A typed decoder stops here, before any validation.
            return Err(ApiError::bad_request(format!(
                "{kind} in version \"{}\" cannot be handled as a {kind}: json: cannot unmarshal {found} into Go struct field {kind}.{path} of type {wanted}",
                resource.version,
                kind = resource.kind
            )));
        }
        if errors.is_empty() {
            errors = admission::validate(self, resource, value, existing);
        }
        if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(resource, &name, &errors)) }
    }

    pub fn create(
        &self,
        resource: &Resource,
        namespace: &str,
        body: Value,
        options: &WriteOptions,
    ) -> ApiResult<Written> {
        let mut value = body;
        let warnings = self.decode(resource, &mut value, options)?;
        self.place(resource, namespace, &mut value)?;
        let generate = value["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
        let drawn = value["metadata"]["name"].as_str().unwrap_or_default().is_empty();
        if drawn && generate.is_empty() {
            let message = FieldError::required("metadata.name", "name or generateName is required");
            return Err(ApiError::invalid(resource, "", &[message]));
        }
        for draw in 0..MAX_NAME_DRAWS {
            let mut fresh = value.clone();
            if drawn {
                fresh["metadata"]["name"] = format!("{generate}{}", random_suffix(5)).into();
            }
            match self.create_named(resource, fresh, options) {
                Err(error) if drawn && error.reason == "AlreadyExists" && draw + 1 < MAX_NAME_DRAWS => {}
                Ok(value) => return Ok(Written { value: self.present(resource, value), warnings, created: true }),
                Err(error) => return Err(error),
            }
        }
        Err(ApiError::new(500, "InternalError", format!("no free name found for {generate}")))
    }

    /// Namespace of a new object: given, equal to the request's, existing and alive.
    fn place(&self, resource: &Resource, namespace: &str, value: &mut Value) -> ApiResult<()> {
        let metadata =
            value["metadata"].as_object_mut().ok_or_else(|| ApiError::bad_request("metadata is not an object"))?;
        if !resource.namespaced {
            metadata.shift_remove("namespace");
            return Ok(());
        }
        match metadata.get("namespace").and_then(Value::as_str) {
            Some(found) if !found.is_empty() && found != namespace => {
                return Err(ApiError::bad_request(format!(
                    "the namespace of the provided object does not match the namespace sent on the request ({found} and {namespace})"
                )));
            }
            _ => metadata.insert("namespace".to_owned(), namespace.into()),
        };
        let namespaces = self.registry.builtin("", "namespaces");
        let home = self.get(&namespaces, &Key::new("", namespace))?.value();
        if home["metadata"]["deletionTimestamp"].is_string() {
            let name = value["metadata"]["name"].as_str().unwrap_or_default();
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            let mut error = ApiError::forbidden(resource, name, &why);
            error.details = Some(json!({"name": name, "kind": resource.plural, "causes":
                [{"reason": "NamespaceTerminating", "message": format!("namespace {namespace} is being terminated"), "field": "metadata.namespace"}]}));
            return Err(error);
        }
        Ok(())
    }

    fn create_named(&self, resource: &Resource, mut value: Value, options: &WriteOptions) -> ApiResult<Value> {
        let key = key_of(&value);
        admission::names::check(resource, &value)?;
        if self.store.get(&resource.table, &key).is_some() {
            return Err(ApiError::already_exists(resource, &key.name));
        }
        self.stamp_new(resource, &mut value)?;
        admission::before_create(self, resource, &mut value)?;
        self.complete(resource, &mut value, None)?;
        if options.manager != APPLIED {
            let writer = Writer { manager: &options.manager, api_version: &resource.api_version(), subresource: "" };
            apply::record_update(&resource.schema, None, &mut value, &writer);
        }
        let claim = admission::claim(self, resource, &mut value, None, options.dry_run)?;
        if options.dry_run {
            return Ok(value);
        }
        self.to_stored(resource, &mut value);
        match self.store.create(&resource.table, key.clone(), value) {
            Ok(object) => {
                claim.keep();
                let value = object.value();
                admission::after_write(self, resource, &value);
                Ok(value)
            }
            Err(_) => Err(ApiError::already_exists(resource, &key.name)),
        }
    }

    fn stamp_new(&self, resource: &Resource, value: &mut Value) -> ApiResult<()> {
        let metadata =
            value["metadata"].as_object_mut().ok_or_else(|| ApiError::bad_request("metadata is not an object"))?;
        if metadata.get("resourceVersion").and_then(Value::as_str).is_some_and(|rv| !rv.is_empty()) {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        for name in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
            metadata.shift_remove(name);
        }
        metadata.insert("uid".to_owned(), new_uid().into());
        metadata.insert("creationTimestamp".to_owned(), apply::now().into());
        if resource.generation || resource.custom() {
            metadata.insert("generation".to_owned(), 1.into());
        }
        if resource.custom() && resource.status {
            value.as_object_mut().and_then(|fields| fields.shift_remove("status"));
        }
        Ok(())
    }

    /// Replaces an object. A resourceVersion in the body must be the current one.
    pub fn update(
        &self,
        resource: &Resource,
        key: &Key,
        mut body: Value,
        options: &WriteOptions,
    ) -> ApiResult<Written> {
        let warnings = self.decode(resource, &mut body, options)?;
        let claimed = key_of(&body);
        if !claimed.name.is_empty() && claimed.name != key.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                claimed.name, key.name
            )));
        }
        body["metadata"]["name"] = key.name.clone().into();
        if resource.namespaced {
            body["metadata"]["namespace"] = key.namespace.clone().into();
        }
        let expected = body["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let uid = body["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let mut written = self.modify(resource, key, options, &mut |old| {
            if !expected.is_empty() && old["metadata"]["resourceVersion"] != expected.as_str() {
                return Err(ApiError::stale(resource, &key.name));
            }
            if !uid.is_empty() && old["metadata"]["uid"] != uid.as_str() {
                let why = format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    old["metadata"]["uid"]
                );
                return Err(ApiError::conflict(resource, &key.name, &why));
            }
            Ok(body.clone())
        })?;
        written.warnings = warnings;
        Ok(written)
    }

    /// Reads, changes and commits; tries again when somebody else was faster.
    pub fn modify(
        &self,
        resource: &Resource,
        key: &Key,
        options: &WriteOptions,
        change: &mut dyn FnMut(&Value) -> ApiResult<Value>,
    ) -> ApiResult<Written> {
        for _ in 0..MAX_RACES {
            let object = self.get(resource, key)?;
            let old = self.present(resource, object.value());
            let new = change(&old)?;
            match self.commit(resource, key, object.revision, &old, new, options) {
                Err(error) if error.retry => {}
                Ok(value) => {
                    let value = self.present(resource, value);
                    return Ok(Written { value, warnings: Vec::new(), created: false });
                }
                Err(error) => return Err(error),
            }
        }
        Err(ApiError::stale(resource, &key.name))
    }

    fn commit(
        &self,
        resource: &Resource,
        key: &Key,
        seen: u64,
        old: &Value,
        mut new: Value,
        options: &WriteOptions,
    ) -> ApiResult<Value> {
        keep_server_fields(resource, old, &mut new, &options.subresource);
        admission::before_update(self, resource, old, &mut new, &options.subresource)?;
        self.complete(resource, &mut new, Some(old))?;
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        if (resource.generation || resource.custom()) && spec_changed(old, &new) {
            new["metadata"]["generation"] = (generation + 1).into();
        }
        let applied = options.manager == APPLIED;
        let forgets = is_empty(&new["metadata"]["managedFields"]) && !is_empty(&old["metadata"]["managedFields"]);
        if same_but_owners(old, &new) && !forgets && (!applied || same_owners(old, &new)) {
            return Ok(old.clone());
        }
        if !applied {
            let writer = Writer {
                manager: &options.manager,
                api_version: &resource.api_version(),
                subresource: &options.subresource,
            };
            apply::record_update(&resource.schema, Some(old), &mut new, &writer);
        }
        let finished = new["metadata"]["deletionTimestamp"].is_string()
            && is_empty(&new["metadata"]["finalizers"])
            && new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
            && admission::may_vanish(resource, &new);
        let claim = admission::claim(self, resource, &mut new, Some(old), options.dry_run)?;
        if options.dry_run {
            return Ok(new);
        }
        let race = |error: StoreError| match error {
            StoreError::NotFound => ApiError::not_found(resource, &key.name),
            _ => ApiError { retry: true, ..ApiError::stale(resource, &key.name) },
        };
        self.to_stored(resource, &mut new);
        if finished {
            let gone = self.store.delete(&resource.table, key, seen).map_err(race)?;
            admission::after_delete(self, resource, &gone.value());
            return Ok(new);
        }
        let object = self.store.update(&resource.table, key.clone(), seen, new).map_err(race)?;
        claim.keep();
        let value = object.value();
        admission::after_write(self, resource, &value);
        Ok(value)
    }

    pub fn patch(
        &self,
        resource: &Resource,
        key: &Key,
        kind: PatchKind,
        body: &Value,
        options: &WriteOptions,
    ) -> ApiResult<Written> {
        if kind == PatchKind::Apply {
            return self.apply(resource, key, body, options);
        }
        if kind == PatchKind::Strategic && resource.custom() {
            let accepted = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
            return Err(ApiError::unsupported_media_type("application/strategic-merge-patch+json", accepted));
        }
        let mut warnings = Vec::new();
        let expected = body["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        let mut written = self.modify(resource, key, options, &mut |old| {
            if expected.as_ref().is_some_and(|e| old["metadata"]["resourceVersion"] != e.as_str()) {
                return Err(ApiError::stale(resource, &key.name));
            }
            let mut new = old.clone();
            match kind {
                PatchKind::Json => patch::json(&mut new, body)?,
                PatchKind::Strategic => patch::strategic::apply(&resource.schema, &mut new, body),
                PatchKind::Merge | PatchKind::Apply => patch::merge(&mut new, body),
            }
            if new["metadata"]["name"] != key.name.as_str() {
                let error = FieldError::invalid("metadata.name", new["metadata"]["name"].clone(), "field is immutable");
                return Err(ApiError::invalid(resource, &key.name, &[error]));
            }
            warnings = self.decode(resource, &mut new, options)?;
            Ok(new)
        })?;
        written.warnings = warnings;
        Ok(written)
    }

    fn apply(&self, resource: &Resource, key: &Key, config: &Value, options: &WriteOptions) -> ApiResult<Written> {
        let mut config = config.clone();
        let version = resource.api_version();
        if config["apiVersion"] != version.as_str() || config["kind"] != resource.kind.as_str() {
            return Err(ApiError::bad_request(format!(
                "an applied object must carry apiVersion {version} and kind {}; found {} and {}",
                resource.kind, config["apiVersion"], config["kind"]
            )));
        }
        if config["metadata"]["managedFields"].as_array().is_some_and(|m| !m.is_empty()) {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        let warnings = self.decode(resource, &mut config, options)?;
        config["metadata"]["name"] = key.name.clone().into();
        keep_applicable(resource, &mut config, &options.subresource);
        let writer = Writer { manager: &options.manager, api_version: &version, subresource: &options.subresource };
        let quiet = WriteOptions { manager: APPLIED.to_owned(), ..options.clone() };
        let mut written = match self.store.get(&resource.table, key) {
            None if options.subresource.is_empty() => {
                self.place(resource, &key.namespace, &mut config)?;
                let fresh = apply::apply(&resource.schema, None, &config, &writer, options.force)?;
                let made = WriteOptions { subresource: String::new(), ..quiet };
                let value = self.create_named(resource, fresh, &made)?;
                Written { value: self.present(resource, value), warnings: Vec::new(), created: true }
            }
            None => return Err(ApiError::not_found(resource, &key.name)),
            Some(_) => self.modify(resource, key, &quiet, &mut |old| {
                let expected = config["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                if !expected.is_empty() && old["metadata"]["resourceVersion"] != expected {
                    return Err(ApiError::stale(resource, &key.name));
                }
                apply::apply(&resource.schema, Some(old), &config, &writer, options.force)
            })?,
        };
        written.warnings = warnings;
        Ok(written)
    }

    pub fn delete(&self, resource: &Resource, key: &Key, options: &DeleteOptions) -> ApiResult<Deleted> {
        for _ in 0..MAX_RACES {
            let object = self.get(resource, key)?;
            let old = object.value();
            self.check_preconditions(resource, key, &old, options)?;
            let mut new = old.clone();
            let grace = admission::grace_period_s(resource, &old, options.grace_period_s);
            let finalizers = finalizers_for(&old, options.propagation.as_deref());
            if !finalizers.is_empty() {
                new["metadata"]["finalizers"] = finalizers.into();
            }
            let marked = old["metadata"]["deletionTimestamp"].is_string();
            let waits =
                grace > 0 || !is_empty(&new["metadata"]["finalizers"]) || !admission::may_vanish(resource, &new);
            if options.dry_run {
                return Ok(if waits { Deleted::Marked(old) } else { Deleted::Gone(old) });
            }
            if !waits {
                match self.store.delete(&resource.table, key, object.revision) {
                    Ok(gone) => {
                        let value = gone.value();
                        admission::after_delete(self, resource, &value);
                        return Ok(Deleted::Gone(self.present(resource, value)));
                    }
                    Err(StoreError::NotFound) => return Err(ApiError::not_found(resource, &key.name)),
                    Err(_) => continue,
                }
            }
            let previous = old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(i64::MAX);
            if !marked || grace < previous {
                mark_deleted(&mut new, grace);
                admission::on_mark(resource, &mut new);
            }
            if new == old {
                return Ok(Deleted::Marked(self.present(resource, old)));
            }
            match self.store.update(&resource.table, key.clone(), object.revision, new) {
                Ok(object) => return Ok(Deleted::Marked(self.present(resource, object.value()))),
                Err(StoreError::NotFound) => return Err(ApiError::not_found(resource, &key.name)),
                Err(_) => {}
            }
        }
        Err(ApiError::stale(resource, &key.name))
    }

    fn check_preconditions(
        &self,
        resource: &Resource,
        key: &Key,
        old: &Value,
        options: &DeleteOptions,
    ) -> ApiResult<()> {
        for (name, expected, found) in [
            ("UID", &options.uid, &old["metadata"]["uid"]),
            ("ResourceVersion", &options.resource_version, &old["metadata"]["resourceVersion"]),
        ] {
            if let Some(expected) = expected
                && found != expected.as_str()
            {
                let why = format!(
                    "the {name} in the precondition ({expected}) does not match the {name} in record ({}). The object might have been deleted and then recreated",
                    found.as_str().unwrap_or_default()
                );
                return Err(ApiError::conflict(resource, &key.name, &why));
            }
        }
        Ok(())
    }
}

/// A writer whose owners are already recorded by server-side apply.
const APPLIED: &str = "\u{1}applied";

fn origin(resource: &Resource) -> Origin {
    if resource.custom() { Origin::Custom } else { Origin::BuiltIn }
}

pub fn key_of(value: &Value) -> Key {
    let metadata = &value["metadata"];
    Key::new(metadata["namespace"].as_str().unwrap_or_default(), metadata["name"].as_str().unwrap_or_default())
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_none_or(Vec::is_empty)
}

fn mark_deleted(value: &mut Value, grace_s: i64) {
    let at = Timestamp::now() + SignedDuration::from_secs(grace_s);
    let at = Timestamp::from_second(at.as_second()).unwrap_or(at).to_string();
    let generation = value["metadata"]["generation"].as_i64();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.insert("deletionTimestamp".to_owned(), at.into());
        metadata.insert("deletionGracePeriodSeconds".to_owned(), grace_s.into());
        if let Some(generation) = generation {
            metadata.insert("generation".to_owned(), (generation + 1).into());
        }
    }
}

/// Finalizers that the propagation policy asks for, beside those that are there.
fn finalizers_for(old: &Value, propagation: Option<&str>) -> Vec<Value> {
    let mut finalizers = old["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let wanted = match propagation {
        Some("Foreground") => "foregroundDeletion",
        Some("Orphan") => "orphan",
        _ => return finalizers,
    };
    if !finalizers.iter().any(|f| f == wanted) {
        finalizers.push(wanted.into());
    }
    finalizers
}

/// What a client cannot change, and what belongs to the other side of the status subresource.
fn keep_server_fields(resource: &Resource, old: &Value, new: &mut Value, subresource: &str) {
    if subresource == "status" {
        let mut merged = old.clone();
        if let (Some(fields), Some(given)) = (merged.as_object_mut(), new.as_object_mut()) {
            match given.shift_remove("status") {
                Some(status) => fields.insert("status".to_owned(), status),
                None => fields.shift_remove("status"),
            };
            let managed = given.get("metadata").and_then(|m| m.get("managedFields")).cloned();
            if resource.custom() {
                if let Some(managed) = managed {
                    fields["metadata"]["managedFields"] = managed;
                }
            } else if let Some(metadata) = given.shift_remove("metadata") {
                fields.insert("metadata".to_owned(), metadata);
            }
        }
        *new = merged;
    } else if resource.status
        && let Some(fields) = new.as_object_mut()
    {
        match old.get("status") {
            Some(status) => fields.insert("status".to_owned(), status.clone()),
            None => fields.shift_remove("status"),
        };
    }
    let kept = [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
        "generateName",
    ];
    if let Some(metadata) = new["metadata"].as_object_mut() {
        for name in kept {
            match old["metadata"].get(name) {
                Some(value) => metadata.insert(name.to_owned(), value.clone()),
                None => metadata.shift_remove(name),
            };
        }
        if !metadata.contains_key("managedFields")
            && let Some(managed) = old["metadata"].get("managedFields")
        {
            metadata.insert("managedFields".to_owned(), managed.clone());
        }
    }
}

/// Server-side apply on a subresource owns only that side; on the object itself, not the status.
fn keep_applicable(resource: &Resource, config: &mut Value, subresource: &str) {
    let Some(fields) = config.as_object_mut() else { return };
    if subresource == "status" {
        fields.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|name, _| matches!(name.as_str(), "name" | "namespace" | "resourceVersion" | "uid"));
        }
    } else if resource.status {
        fields.shift_remove("status");
    }
}

fn spec_changed(old: &Value, new: &Value) -> bool {
    let relevant = |value: &Value| -> Map<String, Value> {
        let fields = value.as_object().into_iter().flatten();
        fields
            .filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    relevant(old) != relevant(new)
}

fn same_but_owners(old: &Value, new: &Value) -> bool {
    let without = |value: &Value| {
        let mut value = value.clone();
        value["metadata"].as_object_mut().and_then(|m| m.shift_remove("managedFields"));
        value
    };
    without(old) == without(new)
}

/// Whether owners differ in nothing but the time of their last write.
fn same_owners(old: &Value, new: &Value) -> bool {
    let untimed = |value: &Value| {
        let mut entries = value["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
            entry.shift_remove("time");
        }
        entries
    };
    untimed(old) == untimed(new)
}
