//! What the annotations of a Service and of a Namespace say about the mesh, read in one place, so that the agent, the
//! operator and the mesh's API server agree.
//!
//! As Cilium reads them (`pkg/annotation`, `pkg/clustermesh/namespace`): `true` in any case is true, everything else is
//! false; what depends on `global` means nothing without it.

use std::collections::BTreeMap;
use std::fmt;

use crate::names::{
    NAMESPACE_GLOBAL, SERVICE_AFFINITY, SERVICE_GLOBAL, SERVICE_GLOBAL_SYNC_ENDPOINT_SLICES, SERVICE_SHARED,
};

/// Annotations as they stand in an object's metadata.
pub type Annotations = BTreeMap<String, String>;

/// The mesh's side of a Service. The default is a Service of this cluster alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Global {
    /// The Service is one with those of the same name in the other clusters.
    pub global: bool,
    /// Others may use its local backends. Never without `global`.
    pub shared: bool,
    /// Which backends it prefers. `None` without `global`.
    pub affinity: Affinity,
    /// Its remote backends are to be written as EndpointSlices. Never without `global`.
    pub sync_endpoint_slices: bool,
}

/// Which backends of a global Service to prefer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Affinity {
    #[default]
    None,
    Local,
    Remote,
}

impl Affinity {
    /// Its word in the annotation.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Affinity::None => "none",
            Affinity::Local => "local",
            Affinity::Remote => "remote",
        }
    }
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A value that was read as something else than it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The annotation, under the name that the object uses.
    pub annotation: &'static str,
    pub value: String,
    /// What it was taken for, and what to write.
    pub remedy: &'static str,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "annotation {}: {:?} {}", self.annotation, self.value, self.remedy)
    }
}

impl Global {
    /// Reads a Service's annotations. `headless`: its clusterIP is `None`, so that only EndpointSlices can tell of its
    /// remote backends; they are written unless the annotation says otherwise.
    #[must_use]
    pub fn read(annotations: Option<&Annotations>, headless: bool) -> (Global, Option<Note>) {
        if !SERVICE_GLOBAL.get(annotations).is_some_and(is_true) {
            return (Global::default(), None);
        }
        let (affinity, note) = affinity(annotations);
        let global = Global {
            global: true,
            shared: SERVICE_SHARED.get(annotations).is_none_or(is_true),
            affinity,
            sync_endpoint_slices: SERVICE_GLOBAL_SYNC_ENDPOINT_SLICES.get(annotations).map_or(headless, is_true),
        };
        (global, note)
    }
}

/// Whether what is in a namespace may leave the cluster; `by_default` is `--clustermesh-default-global-namespace`.
#[must_use]
pub fn namespace_is_global(annotations: Option<&Annotations>, by_default: bool) -> bool {
    NAMESPACE_GLOBAL.get(annotations).map_or(by_default, is_true)
}

fn is_true(value: &str) -> bool {
    value.eq_ignore_ascii_case("true")
}

fn affinity(annotations: Option<&Annotations>) -> (Affinity, Option<Note>) {
    let Some((annotation, value)) = SERVICE_AFFINITY.find(annotations) else { return (Affinity::None, None) };
    let known = [Affinity::None, Affinity::Local, Affinity::Remote];
    match known.into_iter().find(|affinity| value.eq_ignore_ascii_case(affinity.as_str())) {
        Some(affinity) => (affinity, None),
        None if value.is_empty() => (Affinity::None, None),
        None => {
            let remedy = "is read as none; write none, local or remote";
            (Affinity::None, Some(Note { annotation, value: value.to_owned(), remedy }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> Annotations {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn read(pairs: &[(&str, &str)], headless: bool) -> (Global, Option<Note>) {
        Global::read(Some(&annotations(pairs)), headless)
    }

    #[test]
    fn nothing_counts_without_global() {
        let alone = Global::default();
        assert_eq!(Global::read(None, true), (alone, None));
        for global in ["false", "yes", "1", "", " true"] {
            let read = read(
                &[
                    ("service.cilium.io/global", global),
                    ("service.cilium.io/shared", "true"),
                    ("service.cilium.io/affinity", "wrong"),
                    ("service.cilium.io/global-sync-endpoint-slices", "true"),
                ],
                true,
            );
            assert_eq!(read, (alone, None), "{global:?}");
        }
    }

    #[test]
    fn values_and_aliases() {
        let global = Global { global: true, shared: true, ..Global::default() };
        let consumer = Global { shared: false, ..global };
        let affine = |affinity| Global { affinity, ..global };
        let table: &[(&[(&str, &str)], Global)] = &[
            (&[], global),
            (&[("service.cilium.io/shared", "TRUE")], global),
            (&[("service.cilium.io/shared", "false")], consumer),
            (&[("service.cilium.io/shared", "no")], consumer),
            (&[("io.cilium/shared-service", "false")], consumer),
            (&[("io.cilium/shared-service", "false"), ("service.cilium.io/shared", "true")], global),
            (&[("service.cilium.io/affinity", "Local")], affine(Affinity::Local)),
            (&[("io.cilium/service-affinity", "REMOTE")], affine(Affinity::Remote)),
            (&[("service.cilium.io/affinity", "none")], global),
            (&[("service.cilium.io/affinity", "")], global),
        ];
        for (pairs, expected) in table {
            for name in ["service.cilium.io/global", "io.cilium/global-service"] {
                let pairs = [*pairs, &[(name, "True")]].concat();
                assert_eq!(read(&pairs, false), (*expected, None), "{pairs:?}");
            }
        }
    }

    #[test]
    fn an_unknown_affinity_is_none_and_said() {
        let (global, note) =
            read(&[("io.cilium/global-service", "true"), ("io.cilium/service-affinity", "near")], false);
        assert_eq!(global.affinity, Affinity::None);
        let note = note.unwrap().to_string();
        assert_eq!(
            note,
            "annotation io.cilium/service-affinity: \"near\" is read as none; write none, local or remote"
        );
    }

    #[test]
    fn slices_are_written_for_headless_services_unless_told() {
        const SYNC: &str = "service.cilium.io/global-sync-endpoint-slices";
        let table = [
            (None, false, false),
            (None, true, true),
            (Some("True"), false, true),
            (Some("false"), true, false),
            (Some(""), true, false),
        ];
        for (value, headless, expected) in table {
            let mut pairs = vec![("service.cilium.io/global", "true")];
            pairs.extend(value.map(|value| (SYNC, value)));
            assert_eq!(read(&pairs, headless).0.sync_endpoint_slices, expected, "{pairs:?} {headless}");
        }
    }

    #[test]
    fn a_namespace_says_it_or_the_flag_does() {
        let said = |value: &str| annotations(&[("clustermesh.cilium.io/global", value)]);
        for (value, expected) in [("true", true), ("True", true), ("false", false), ("", false)] {
            for by_default in [false, true] {
                assert_eq!(namespace_is_global(Some(&said(value)), by_default), expected, "{value:?}");
            }
        }
        assert!(namespace_is_global(None, true));
        assert!(!namespace_is_global(Some(&Annotations::new()), false));
    }
}
