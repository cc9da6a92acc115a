//! Objects as the rows that `kubectl get` prints.

use serde_json::{Value, json};

use super::{Params, read};
use crate::kinds::Resource;

/// How much of the object a row carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    pub(super) fn of(params: &Params) -> Self {
        match params.get("includeObject") {
            Some("None") => Self::None,
            Some("Object") => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// `header`: a watch sends the column definitions only once.
pub(super) fn of(resource: &Resource, objects: &[Value], include: Include, header: bool) -> Value {
    let columns: Vec<Value> =
        if header { resource.columns.iter().map(crate::columns::Column::definition).collect() } else { Vec::new() };
    let rows: Vec<Value> = objects.iter().map(|object| row(resource, object, include)).collect();
    let metadata = match objects {
        [one] => json!({"resourceVersion": one["metadata"]["resourceVersion"]}),
        _ => json!({}),
    };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows})
}

fn row(resource: &Resource, object: &Value, include: Include) -> Value {
    let cells: Vec<Value> = resource.columns.iter().map(|column| column.cell(object)).collect();
    match include {
        Include::None => json!({"cells": cells}),
        Include::Metadata => json!({"cells": cells, "object": read::partial(object)}),
        Include::Object => json!({"cells": cells, "object": object}),
    }
}
