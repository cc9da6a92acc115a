//! The keys of each kind as one group of the writer, with the kind's prefix and canary.

use std::collections::BTreeMap;

use causeway_mesh_kv::{Group, GroupId, Publisher};
use causeway_mesh_schema::{ClusterName, Kind, Layout};

use crate::export::Output;
use crate::telemetry::group_name;

pub(super) struct Groups {
    publisher: Publisher,
    kinds: BTreeMap<Kind, (GroupId, String)>,
}

impl Groups {
    pub(super) fn add(publisher: &Publisher, home: &ClusterName) -> Groups {
        let kinds = Kind::ALL.into_iter().map(|kind| {
            let prefix = kind.prefix(Layout::State, home);
            let group = Group {
                name: group_name(home.as_str(), &format!("{}/v1", kind.word())),
                prefixes: vec![prefix.clone()],
                canary: Some(kind.canary(Layout::State, home)),
            };
            (kind, (publisher.add_group(group), prefix))
        });
        Groups { publisher: publisher.clone(), kinds: kinds.collect() }
    }

    pub(super) fn write(&self, output: Output) {
        let group = |kind: Kind| &self.kinds[&kind];
        match output {
            Output::Set { kind, name, value } => {
                let (id, prefix) = group(kind);
                self.publisher.set(*id, &format!("{prefix}{name}"), value);
            }
            Output::Delete { kind, name } => {
                let (id, prefix) = group(kind);
                self.publisher.delete(*id, &format!("{prefix}{name}"));
            }
            Output::Listed(kind) => {
                tracing::info!(%kind, "read from Kubernetes in full");
                self.publisher.listed(group(kind).0);
            }
        }
    }
}
