//! Which resources there are: the built-in ones from `schema/kinds.txt`, custom ones from their CRDs.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use serde_json::Value;

use crate::columns::Column;
use crate::schema::Schema;
use crate::store::TableName;

const TABLE: &str = include_str!("../schema/kinds.txt");

/// One resource in one version.
#[derive(Clone, Debug)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub list_kind: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    pub status: bool,
    pub scale: Option<ScalePaths>,
    pub subresources: Vec<String>,
    pub generation: bool,
    /// Answered, never stored (access reviews).
    pub create_only: bool,
    pub schema: Arc<Schema>,
    /// Name of the built-in type; `None` for custom resources.
    pub builtin: Option<String>,
    /// The schema as its CRD gave it, for OpenAPI.
    pub open_api: Option<Value>,
    pub columns: Vec<Column>,
    pub table: TableName,
    /// The apiVersion under which objects lie in the store.
    pub stored_as: String,
    pub deprecated: bool,
}

/// Where a resource keeps what the `scale` subresource shows; paths begin with a dot.
#[derive(Clone, Debug)]
pub struct ScalePaths {
    pub spec: String,
    pub status: String,
    pub selector: Option<String>,
}

impl Resource {
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// `deployments.apps`, as error messages and tables name it.
    pub fn group_resource(&self) -> String {
        group_resource(&self.group, &self.plural)
    }

    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }

    pub fn custom(&self) -> bool {
        self.builtin.is_none()
    }

    pub fn verbs(&self) -> Vec<&'static str> {
        if self.create_only {
            return vec!["create"];
        }
        vec!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
    }
}

pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

pub fn group_resource(group: &str, plural: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

type ById = BTreeMap<(String, String, String), Arc<Resource>>;

/// All resources that are served now. Many readers, and a writer only when a CRD changes.
pub struct Registry {
    resources: RwLock<Arc<ById>>,
}

impl Registry {
    pub fn new() -> Self {
        let builtin =
            parse(TABLE).into_iter().map(|r| ((r.group.clone(), r.version.clone(), r.plural.clone()), Arc::new(r)));
        Self { resources: RwLock::new(Arc::new(builtin.collect())) }
    }

    pub fn all(&self) -> Arc<ById> {
        self.resources.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.all().get(&(group.to_owned(), version.to_owned(), plural.to_owned())).cloned()
    }

    pub fn by_kind(&self, group: &str, version: Option<&str>, kind: &str) -> Option<Arc<Resource>> {
        let all = self.all();
        all.values().find(|r| r.group == group && version.is_none_or(|v| v == r.version) && r.kind == kind).cloned()
    }

    /// A built-in resource that the table certainly has.
    pub fn builtin(&self, group: &str, plural: &str) -> Arc<Resource> {
        self.get(group, "v1", plural)
            .expect("kinds.txt has every resource that the controllers name; a test reads them all")
    }

    /// Replaces the versions of one custom group resource.
    pub fn set_custom(&self, group: &str, plural: &str, versions: Vec<Resource>) {
        let mut guard = self.resources.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut next = (**guard).clone();
        next.retain(|(g, _, p), r| r.builtin.is_some() || g != group || p != plural);
        for resource in versions {
            let id = (resource.group.clone(), resource.version.clone(), resource.plural.clone());
            next.insert(id, Arc::new(resource));
        }
        *guard = Arc::new(next);
    }

    /// One resource per storage table, for those who look at everything there is.
    pub fn tables(&self) -> Vec<Arc<Resource>> {
        let mut seen = BTreeMap::new();
        for resource in self.all().values().filter(|r| !r.create_only) {
            let entry = seen.entry(resource.table.clone()).or_insert_with(|| resource.clone());
            if resource.stored_as == resource.api_version() {
                *entry = resource.clone();
            }
        }
        seen.into_values().collect()
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

fn parse(table: &str) -> Vec<Resource> {
    let mut resources: Vec<Resource> = Vec::new();
    for line in table.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match line.strip_prefix("  ") {
            Some(column) => {
                if let Some(owner) = resources.last_mut() {
                    owner.columns.push(Column::parse(column));
                }
            }
            None => resources.push(parse_kind(line)),
        }
    }
    for resource in resources.iter_mut().filter(|r| r.columns.is_empty()) {
        resource.columns = Column::fallback();
    }
    resources
}

fn list(words: &str) -> Vec<String> {
    words.split(',').filter(|w| !w.is_empty() && *w != "-").map(str::to_owned).collect()
}

fn parse_kind(line: &str) -> Resource {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [group_version, kind, plural, short, scope, rest @ ..] = words.as_slice() else {
        panic!("kinds.txt: a kind needs five words: {line}");
    };
    let (group, version) = group_version.rsplit_once('/').unwrap_or(("", group_version));
    let room = if group.is_empty() { "core" } else { group };
    let mut type_name = format!("{room}.{version}.{kind}");
    let mut resource = Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: (*plural).to_owned(),
        singular: kind.to_lowercase(),
        kind: (*kind).to_owned(),
        list_kind: format!("{kind}List"),
        short_names: list(short),
        categories: Vec::new(),
        namespaced: *scope == "N",
        status: false,
        scale: None,
        subresources: Vec::new(),
        generation: false,
        create_only: false,
        schema: Arc::default(),
        builtin: None,
        open_api: None,
        columns: Vec::new(),
        table: group_resource(group, plural).into(),
        stored_as: api_version(group, version),
        deprecated: false,
    };
    for word in rest {
        match word.split_once('=').unwrap_or((word, "")) {
            ("status", _) => resource.status = true,
            ("scale", _) => {
                let selector = Some(".spec.selector".to_owned());
                resource.scale =
                    Some(ScalePaths { spec: ".spec.replicas".into(), status: ".status.replicas".into(), selector });
            }
            ("generation", _) => resource.generation = true,
            ("create", _) => resource.create_only = true,
            ("sub", names) => resource.subresources = list(names),
            ("cat", names) => resource.categories = list(names),
            ("type", name) => type_name = name.to_owned(),
            ("table", name) => {
                resource.table = name.into();
                resource.stored_as = "v1".into();
            }
            (other, _) => panic!("kinds.txt: unknown word {other} in: {line}"),
        }
    }
    resource.schema = Arc::new(Schema::of(crate::schema::Shape::Ref(type_name.clone())));
    resource.builtin = Some(type_name);
    resource
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_type() {
        let registry = Registry::new();
        for resource in registry.all().values() {
            let name = resource.builtin.as_deref().expect("all are built in");
            assert!(crate::schema::types::all().contains_key(name), "{name}");
            assert!(!resource.columns.is_empty());
        }
        assert_eq!(registry.builtin("apps", "deployments").group_resource(), "deployments.apps");
    }
}
