//! Changes of a remote cluster in, touched Services and what is known out.

use std::collections::BTreeSet;

use causeway_k8s::watch::Key;
use causeway_mesh_remote::RemoteInfo;
use causeway_mesh_schema::{
    Capabilities, ClusterConfig, ClusterId, ClusterName, ClusterService, Origin, Scale, ServiceExportSpec,
};

use super::*;

fn info(exports: Option<bool>) -> Change {
    let origin = Origin {
        name: ClusterName::parse("west").unwrap(),
        id: ClusterId::new(2, Scale::C255).unwrap(),
        scale: Scale::C255,
    };
    let capabilities = Capabilities { service_exports_enabled: exports, ..Capabilities::default() };
    Change::Connected(Arc::new(RemoteInfo { origin, config: ClusterConfig { id: 2, capabilities } }))
}

fn export(name: &str, revision: i64) -> Change {
    let spec = ServiceExportSpec {
        cluster: "west".to_owned(),
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        kind: "ClusterSetIP".to_owned(),
        export_creation_timestamp: "2026-01-01T00:00:00Z".to_owned(),
        ..ServiceExportSpec::default()
    };
    put(Kind::ServiceExports, name, spec.encode(), revision)
}

fn service(name: &str, revision: i64) -> Change {
    let service = ClusterService {
        cluster: "west".to_owned(),
        cluster_id: 2,
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        shared: true,
        ..ClusterService::default()
    };
    put(Kind::Services, name, service.encode(), revision)
}

fn put(kind: Kind, name: &str, value: Vec<u8>, revision: i64) -> Change {
    Change::Put { kind, name: format!("shop/{name}").into(), value: value.into(), revision, store: 7 }
}

fn web() -> Key {
    Key::new("shop", "web")
}

struct West {
    remotes: Remotes,
    listener: Listener,
}

impl West {
    fn new() -> West {
        let remotes = Remotes::new(Arc::new(Settings::default()));
        let listener = remotes.listener("west");
        remotes.touched();
        West { remotes, listener }
    }

    fn say(&mut self, change: Change) -> Touched {
        self.listener.apply(change);
        self.remotes.touched()
    }

    fn awaited(&self) -> (bool, bool) {
        let said = self.remotes.said();
        (said.awaited_exports().contains("west"), said.awaited_backends().contains("west"))
    }
}

#[test]
fn what_is_said_touches_what_it_is_about() {
    let mut west = West::new();
    assert!(west.say(info(Some(true))).everything);
    let touched = west.say(export("web", 1));
    assert_eq!((touched.exports, touched.backends, touched.everything), ([web()].into(), BTreeSet::new(), false));
    assert!(west.say(export("web", 1)).is_empty(), "the same revision of the same store is the same value");
    assert!(!west.say(export("web", 2)).is_empty());
    assert_eq!(west.say(service("web", 3)).backends, [web()].into());
    let gone = Change::Deleted { kind: Kind::Services, name: "shop/web".into(), revision: 4 };
    assert_eq!(west.say(gone).backends, [web()].into());
    let said = west.remotes.said();
    let (_, cluster) = said.clusters().next().unwrap();
    assert!(cluster.export(&web()).is_some() && cluster.service(&web()).is_none());
}

#[test]
fn a_listing_sweeps_what_it_does_not_name() {
    let mut west = West::new();
    west.say(info(Some(true)));
    west.say(Change::Relisting(Kind::ServiceExports));
    west.say(export("web", 1));
    west.say(export("db", 2));
    assert!(west.say(Change::Listed(Kind::ServiceExports)).everything, "the first listing says what is not there");
    west.say(Change::Relisting(Kind::ServiceExports));
    west.say(export("web", 1));
    let touched = west.say(Change::Listed(Kind::ServiceExports));
    assert_eq!((touched.exports, touched.everything), ([Key::new("shop", "db")].into(), false));
}

#[test]
fn a_cluster_is_awaited_until_it_has_said_all_that_it_offers() {
    let mut west = West::new();
    assert_eq!(west.awaited(), (true, true), "nothing is known of it");
    west.say(info(None));
    assert_eq!(west.awaited(), (false, true), "it is too old to know exports");
    west.say(info(Some(false)));
    assert_eq!(west.awaited(), (true, true), "they may be switched on");
    west.say(Change::Listed(Kind::Services));
    west.say(Change::Listed(Kind::ServiceExports));
    assert_eq!(west.awaited(), (false, false));
    west.say(Change::Relisting(Kind::Services));
    assert_eq!(west.awaited(), (false, false), "what was known is known");
}

#[test]
fn what_is_forgotten_is_not_awaited() {
    let mut west = West::new();
    west.say(info(Some(true)));
    west.say(export("web", 1));
    assert!(west.say(Change::Forget).everything);
    assert_eq!(west.awaited(), (false, false));
    assert!(west.remotes.said().clusters().next().unwrap().1.export(&web()).is_none());
    drop(west.listener);
    assert!(west.remotes.touched().everything);
    assert_eq!(west.remotes.said().clusters().count(), 0);
}

#[test]
fn an_entry_that_cannot_be_read_is_told_and_the_one_before_stays() {
    let mut west = West::new();
    west.say(info(Some(true)));
    west.say(export("web", 1));
    west.say(put(Kind::ServiceExports, "web", b"{".to_vec(), 2));
    let rejected = west.remotes.said().rejected(|_| true);
    assert_eq!(rejected.len(), 1);
    assert_eq!(
        (rejected[0].kind.as_str(), rejected[0].object.as_str()),
        ("serviceexports of cluster west", "shop/web")
    );
    assert!(west.remotes.said().clusters().next().unwrap().1.export(&web()).is_some());
    assert!(west.remotes.said().rejected(|kind| kind == Kind::Services).is_empty());
    west.say(export("web", 3));
    assert!(west.remotes.said().rejected(|_| true).is_empty());
}

#[tokio::test]
async fn whoever_waits_is_woken_once_for_many_changes() {
    let mut west = West::new();
    west.say(info(Some(true)));
    west.listener.apply(export("web", 1));
    west.listener.apply(export("db", 2));
    west.remotes.changed().await;
    assert_eq!(west.remotes.touched().exports.len(), 2);
    assert!(west.remotes.touched().is_empty());
}

#[test]
fn what_could_not_be_read_and_is_gone_after_a_listing_is_forgotten() {
    let mut west = West::new();
    west.say(info(Some(true)));
    for name in ["web", "db"] {
        west.say(put(Kind::ServiceExports, name, b"{".to_vec(), 1));
    }
    west.say(put(Kind::Services, "web", b"{".to_vec(), 1));
    assert_eq!(west.remotes.said().rejected(|_| true).len(), 3);
    west.say(Change::Relisting(Kind::ServiceExports));
    west.say(put(Kind::ServiceExports, "db", b"{".to_vec(), 1));
    west.say(Change::Listed(Kind::ServiceExports));
    let said = west.remotes.said();
    let left: Vec<_> = said.rejected(|_| true).into_iter().map(|r| (r.kind, r.object)).collect();
    let expected = [("services of cluster west", "shop/web"), ("serviceexports of cluster west", "shop/db")];
    assert_eq!(left.len(), expected.len());
    for (kind, object) in expected {
        assert!(left.contains(&(kind.to_owned(), object.to_owned())), "{left:?}");
    }
}
