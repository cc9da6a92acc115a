//! A mesh that reads real etcds from a configuration directory. Needs `/usr/bin/etcd`, so that it is not run by default:
//! `cargo test -p causeway-mesh-remote --test live -- --ignored`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers may panic")]

#[path = "../../kv/tests/common/mod.rs"]
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, Mutex};

use causeway_mesh_kv::Connect;
use causeway_mesh_remote::{Change, Checksum, Mesh, Options, RemoteStatus, Sink, Stage};
use causeway_mesh_schema::{
    Capabilities, ClusterConfig, ClusterName, ClusterService, HEARTBEAT, Kind, Layout, cluster_config_key, read,
};
use common::ask::{Asker, PATIENCE};
use common::etcd::Etcd;

/// What the sinks of all clusters know, as an agent's tables would.
#[derive(Debug, Default)]
struct Known {
    clusters: BTreeMap<String, Cluster>,
}

#[derive(Debug, Default)]
struct Cluster {
    id: Option<u16>,
    entries: BTreeMap<(Kind, String), Vec<u8>>,
    named: BTreeSet<String>,
    invalid: BTreeSet<String>,
    forgets: usize,
    stage: Stage,
    origin: Option<causeway_mesh_schema::Origin>,
}

type Shared = Arc<Mutex<Known>>;

impl Cluster {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Connected(info) => {
                self.id = Some(info.origin.id.get());
                self.origin = Some(info.origin.clone());
            }
            Change::Relisting(kind) => self.named = self.names(kind),
            Change::Listed(kind) => {
                for name in std::mem::take(&mut self.named) {
                    self.entries.remove(&(kind, name));
                }
            }
            Change::Put { kind, name, value, .. } => {
                self.named.remove(&*name);
                match read(kind, &name, &value, self.origin.as_ref().unwrap()) {
                    Ok(_) => drop(self.entries.insert((kind, name.into()), value.to_vec())),
                    Err(invalid) => {
                        self.invalid.insert(invalid.to_string());
                        self.entries.remove(&(kind, name.into()));
                    }
                }
            }
            Change::Deleted { kind, name, .. } => drop(self.entries.remove(&(kind, name.into()))),
            Change::Forget => *self = Cluster { forgets: self.forgets + 1, ..Cluster::default() },
            Change::Stage(stage) => self.stage = stage,
        }
    }

    fn names(&self, kind: Kind) -> BTreeSet<String> {
        self.entries.keys().filter(|(k, _)| *k == kind).map(|(_, name)| name.clone()).collect()
    }
}

struct World {
    dir: tempfile::TempDir,
    known: Shared,
    mesh: Mesh,
}

fn name(text: &str) -> ClusterName {
    ClusterName::parse(text).unwrap()
}

impl World {
    /// With these files from the beginning.
    fn start(files: &[(&str, &Etcd)]) -> World {
        World::start_with(files, |_| ())
    }

    /// The sinks look at every change first.
    fn start_with(files: &[(&str, &Etcd)], look: fn(&Change)) -> World {
        let dir = tempfile::tempdir().unwrap();
        for (cluster, etcd) in files {
            write_file(dir.path(), cluster, etcd);
        }
        let known = Shared::default();
        let shared = Arc::clone(&known);
        let factory = move |cluster: &ClusterName| -> Box<dyn Sink> {
            let (known, cluster) = (Arc::clone(&shared), cluster.to_string());
            Box::new(move |change| {
                look(&change);
                known.lock().unwrap().clusters.entry(cluster.clone()).or_default().apply(change);
            })
        };
        let mesh = Mesh::spawn(Options::new(dir.path().to_owned(), name("c1"), Some(1.try_into().unwrap())), factory);
        World { dir, known, mesh }
    }

    fn add(&self, cluster: &str, etcd: &Etcd) {
        write_file(self.dir.path(), cluster, etcd);
    }

    fn remove(&self, cluster: &str) {
        fs::remove_file(self.dir.path().join(cluster)).unwrap();
    }

    /// Waits until it holds for what is known of the cluster.
    async fn until(&self, what: &str, cluster: &str, holds: impl Fn(&Cluster) -> bool) {
        let wait = async {
            while !self.known.lock().unwrap().clusters.get(cluster).is_some_and(&holds) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("{what}: {:#?}\n{:#?}", self.known.lock().unwrap(), self.mesh.status());
        }
    }

    async fn until_status(&self, what: &str, cluster: &str, holds: impl Fn(Option<&RemoteStatus>) -> bool) {
        let mut changes = self.mesh.changes();
        let wait = async {
            while !holds(self.mesh.status().iter().find(|status| status.name.as_str() == cluster)) {
                changes.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("{what}: {:#?}", self.mesh.status());
        }
    }
}

fn write_file(dir: &std::path::Path, cluster: &str, etcd: &Etcd) {
    fs::write(dir.join(cluster), format!("endpoints: ['{}']\n", etcd.endpoint())).unwrap();
}

struct Writer {
    cluster: ClusterName,
    id: u32,
    ask: Asker,
}

impl Writer {
    /// Writes configuration, heartbeat and all canaries.
    async fn begin(etcd: &Etcd, cluster: &str, id: u32) -> Writer {
        let mut writer = Writer { cluster: name(cluster), id, ask: Asker::open(Connect::new(vec![etcd.endpoint()])) };
        writer.greet().await;
        writer
    }

    async fn greet(&mut self) {
        let can = Capabilities { synced_canaries: true, max_connected_clusters: 255, ..Capabilities::default() };
        let config = ClusterConfig { id: self.id, capabilities: can };
        self.ask.put(HEARTBEAT, "2026-11-21T15:00:00Z").await.unwrap();
        self.ask.put(&cluster_config_key(&self.cluster), config.encode()).await.unwrap();
        for kind in Kind::ALL {
            self.ask.put(&kind.canary(Layout::State, &self.cluster), "now").await.unwrap();
        }
    }

    async fn service(&mut self, service: &str) {
        let value = ClusterService {
            cluster: self.cluster.to_string(),
            namespace: "default".to_owned(),
            name: service.to_owned(),
            shared: true,
            include_external: true,
            cluster_id: self.id,
            ..ClusterService::default()
        };
        self.raw(Kind::Services, &format!("default/{service}"), &value.encode()).await;
    }

    async fn raw(&mut self, kind: Kind, entry: &str, value: &[u8]) {
        let key = kind.key(Layout::State, &self.cluster, entry);
        self.ask.put(&key, value.to_vec()).await.unwrap();
    }
}

fn services(cluster: &Cluster) -> Vec<String> {
    cluster.names(Kind::Services).into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_cluster_is_read_from_its_file_to_its_end() {
    let mut etcd = Etcd::start().unwrap();
    let mut writer = Writer::begin(&etcd, "c2", 2).await;
    writer.service("web").await;
    writer.service("db").await;
    writer.raw(Kind::Services, "default/junk", b"{").await;
    writer.raw(Kind::Nodes, "n1", b"\xff\xfe").await;
    writer.raw(Kind::Identities, "7", b"").await;

    let world = World::start(&[("c2", &etcd)]);
    assert!(world.mesh.synced().await, "{:#?}", world.mesh.status());
    world
        .until("two services", "c2", |c2| services(c2) == ["default/db", "default/web"] && c2.invalid.len() == 3)
        .await;
    {
        let known = world.known.lock().unwrap();
        let c2 = &known.clusters["c2"];
        assert_eq!((c2.id, c2.entries.len(), c2.stage), (Some(2), 2, Stage::Fresh), "garbage is nowhere");
    }
    let status = world.mesh.status().remove(0);
    let kind = |kind| status.kinds.iter().find(|status| status.kind == kind).unwrap();
    assert_eq!((status.ready, status.connected, status.failures), (true, true, 0), "{status:#?}");
    assert_eq!((kind(Kind::Services).entries, kind(Kind::Nodes).entries), (3, 1), "counted as written");
    assert_eq!(kind(Kind::Nodes).checksum, Checksum::of([("n1", &b"\xff\xfe"[..])]));
    assert_eq!(serde_json::from_str::<RemoteStatus>(&serde_json::to_string(&status).unwrap()).unwrap(), status);
    assert_eq!(status.to_cilium().num_shared_services, 3);

    // Changes come as they happen.
    writer.service("cache").await;
    writer.raw(Kind::Nodes, "n1", b"still garbage").await;
    world.until("a third service", "c2", |c2| services(c2).len() == 3).await;

    // The store dies: nothing is forgotten, and the status says so.
    etcd.kill();
    world.until("silence", "c2", |c2| c2.stage == Stage::Silent && services(c2).len() == 3).await;
    world.until_status("a failure", "c2", |c2| c2.is_some_and(|c2| !c2.connected && c2.failures > 0)).await;

    // It comes back with the same data.
    etcd.restart().unwrap();
    world.until("it speaks again", "c2", |c2| c2.stage == Stage::Fresh && services(c2).len() == 3).await;

    // It comes back as another data set: what it does not list any more goes, once it has been listed.
    etcd.restart_empty().unwrap();
    writer = Writer::begin(&etcd, "c2", 2).await;
    world.until("all gone but nothing forgotten", "c2", |c2| services(c2).is_empty() && c2.forgets == 0).await;
    writer.service("web").await;
    world.until("read again", "c2", |c2| c2.stage == Stage::Fresh && services(c2) == ["default/web"]).await;

    // The cluster gets another number: forgotten first.
    etcd.restart_empty().unwrap();
    writer = Writer::begin(&etcd, "c2", 7).await;
    writer.service("new").await;
    world.until("another number", "c2", |c2| c2.id == Some(7) && c2.forgets == 1).await;
    world.until("its services", "c2", |c2| services(c2) == ["default/new"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn files_come_and_go() {
    let etcds = [Etcd::start().unwrap(), Etcd::start().unwrap()];
    let mut writers = [Writer::begin(&etcds[0], "c2", 2).await, Writer::begin(&etcds[1], "c3", 2).await];
    writers[0].service("two").await;
    writers[1].service("three").await;
    let world = World::start(&[]);
    assert!(world.mesh.synced().await, "nothing to wait for");
    assert!(world.mesh.status().is_empty());

    world.add("c2", &etcds[0]);
    world.until("c2 added", "c2", |c2| services(c2) == ["default/two"]).await;

    // The same number twice: the second is refused, and says why.
    world.add("c3", &etcds[1]);
    let refused = "cluster-id 2 of c3 is also that of c2";
    let said = |c3: &RemoteStatus| c3.last_failure.as_ref().is_some_and(|failure| failure.message.contains(refused));
    world.until_status("c3 refused", "c3", |c3| c3.is_some_and(said)).await;
    assert!(!world.known.lock().unwrap().clusters.contains_key("c3"), "nothing of it is told");

    // A bad file is named, and disturbs nobody.
    fs::write(world.dir.path().join("c4"), "endpoints: []").unwrap();
    let mut changes = world.mesh.changes();
    tokio::time::timeout(PATIENCE, async {
        while world.mesh.problems().is_empty() {
            changes.changed().await.unwrap();
        }
    })
    .await
    .unwrap();
    assert!(world.mesh.problems()[0].to_string().contains("c4: endpoints: there are none"));

    // The first goes: the second may have the number.
    world.remove("c2");
    world.until("c2 forgotten", "c2", |c2| c2.forgets == 1 && c2.id.is_none()).await;
    world.until_status("c2 gone", "c2", |c2| c2.is_none()).await;
    world.until("c3 read", "c3", |c3| services(c3) == ["default/three"]).await;

    // Removed and added again at once.
    world.remove("c3");
    world.add("c2", &etcds[0]);
    world.until("c3 forgotten", "c3", |c3| c3.forgets == 1).await;
    world.until("c2 again", "c2", |c2| services(c2) == ["default/two"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs etcd"]
async fn a_reader_that_panics_is_named_and_ends_with_its_file() {
    let etcd = Etcd::start().unwrap();
    let mut writer = Writer::begin(&etcd, "c2", 2).await;
    writer.service("web").await;
    let world = World::start_with(&[("c2", &etcd)], |change| {
        assert!(!matches!(change, Change::Put { name, .. } if &**name == "default/poison"), "poisoned");
    });
    world.until("a service", "c2", |c2| services(c2) == ["default/web"]).await;
    writer.service("poison").await;
    let named = |c2: &RemoteStatus| c2.in_words().contains("its reader stopped: poisoned") && !c2.ready;
    world.until_status("the panic", "c2", |c2| c2.is_some_and(named)).await;
    world.until("what it told", "c2", |c2| services(c2) == ["default/web"] && c2.forgets == 0).await;

    // Its entries are in force, so that its number is not free.
    let other = Etcd::start().unwrap();
    Writer::begin(&other, "c3", 2).await.service("three").await;
    world.add("c3", &other);
    let refused = |c3: &RemoteStatus| c3.in_words().contains("cluster-id 2 of c3 is also that of c2");
    world.until_status("c3 refused", "c3", |c3| c3.is_some_and(refused)).await;

    // A changed file does not bring it back, and is not in the way of its end.
    fs::write(world.dir.path().join("c2"), "endpoints: ['http://127.0.0.1:1']\n").unwrap();
    world.remove("c2");
    world.until("forgotten", "c2", |c2| services(c2).is_empty() && c2.forgets == 1).await;
    world.until_status("gone", "c2", |c2| c2.is_none()).await;
    world.until("c3 has the number", "c3", |c3| services(c3) == ["default/three"]).await;
}
