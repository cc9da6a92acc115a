//! The driver over a device in memory, a guard and routes that write down in which order they were called.

use std::sync::Mutex;

use causeway_datapath_loader::EncryptEntry;
use causeway_encryption_device::{DeviceError, Ensured, Fake, KeyFile};
use causeway_encryption_plan::{
    Announcement, Change, DeviceSpec, Link, PrivateKey, PublicKey, RotationConfig, Snapshot,
};

use causeway_table::Shared;

use super::driver::Settings;
use super::guard::Guard;
use super::steering::Paths;
use super::*;
use crate::control::encryption::{Mode, Modes, Policy, Standing};
use crate::realize::netlink::NetError;

const T0: Duration = Duration::from_secs(1_800_000_000);

/// What the driver works on; the test keeps a hand on it.
#[derive(Clone, Default)]
struct World {
    device: Arc<Mutex<Fake>>,
    journal: Arc<Mutex<Vec<String>>>,
    rows: Arc<Mutex<BTreeMap<IpNet, EncryptEntry>>>,
    paths: Arc<Mutex<Option<Paths>>>,
    guarded: Shared<IpNet, ()>,
    /// A peer that lives on another interface than the first.
    elsewhere: Arc<Mutex<Option<(PeerName, u32)>>>,
}

impl World {
    fn note(&self, text: impl Into<String>) {
        self.journal.lock().unwrap().push(text.into());
    }

    fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.journal.lock().unwrap())
    }

    fn snapshot(&self) -> Snapshot {
        self.device.lock().unwrap().snapshot().unwrap()
    }

    /// All links that the device has with the peer prove good.
    fn confirm_all(&self) {
        let mut device = self.device.lock().unwrap();
        let links: Vec<Link> =
            device.snapshot().unwrap().actual.peers.values().flat_map(|peer| peer.links.clone()).collect();
        links.into_iter().for_each(|link| device.confirm(link));
    }
}

impl Device for World {
    fn describe(&self) -> String {
        "fake (a test)".into()
    }

    fn ensure(&mut self, spec: &DeviceSpec) -> Result<Ensured, DeviceError> {
        self.device.lock().unwrap().ensure(spec)
    }

    fn apply(&mut self, changes: Vec<Change>) -> Result<(), DeviceError> {
        for change in &changes {
            let text = serde_json::to_value(change).unwrap();
            self.note(format!("device {}", text["do"].as_str().unwrap()));
        }
        self.device.lock().unwrap().apply(changes)
    }

    fn snapshot(&mut self) -> Result<Snapshot, DeviceError> {
        let mut snapshot = self.device.lock().unwrap().snapshot()?;
        if let Some((name, index)) = &*self.elsewhere.lock().unwrap() {
            snapshot.interfaces = [7, *index].into();
            snapshot.stats.get_mut(name).unwrap().ifindex = *index;
        }
        Ok(snapshot)
    }

    fn delete(&mut self) -> Result<(), DeviceError> {
        self.note("device gone");
        self.device.lock().unwrap().delete()
    }
}

impl Guard for World {
    fn rows(&self) -> Result<BTreeMap<IpNet, EncryptEntry>, String> {
        Ok(self.rows.lock().unwrap().clone())
    }

    fn set(&self, prefix: IpNet, row: EncryptEntry) -> Result<(), String> {
        self.note(format!("guard {prefix}"));
        self.rows.lock().unwrap().insert(prefix, row);
        Ok(())
    }

    fn delete(&self, prefix: IpNet) -> Result<(), String> {
        self.note(format!("unguard {prefix}"));
        self.rows.lock().unwrap().remove(&prefix);
        Ok(())
    }

    fn attach(&self, ifindex: u32) -> Result<(), String> {
        self.note(format!("attach {ifindex}"));
        Ok(())
    }
}

impl Steering for World {
    fn apply(&mut self, paths: &Paths, prune: bool) -> Result<(), NetError> {
        self.note(format!("routes {}{}", paths.pods.len(), if prune { " and no others" } else { "" }));
        *self.paths.lock().unwrap() = Some(paths.clone());
        Ok(())
    }

    fn clear(&mut self) -> Result<(), NetError> {
        self.note("no routes");
        Ok(())
    }
}

fn epochs(announcement: &Announcement) -> String {
    announcement.keys.iter().map(|known| known.epoch.to_string()).collect::<Vec<_>>().join(",")
}

struct Bed {
    world: World,
    driver: Driver,
    intent: Intent,
    now: Clock,
    _dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Bed {
        Bed::with(World::default(), |_| {})
    }

    fn with(world: World, change: impl FnOnce(&mut Settings)) -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings();
        change(&mut settings);
        let driver = driver(&world, settings, KeyFile::new(dir.path().join("wireguard.json")));
        let intent = Intent {
            own_pods: vec!["10.1.1.0/24".parse().unwrap()],
            local_known: true,
            remote_known: true,
            ..Intent::default()
        };
        Bed { world, driver, intent, now: Clock { unix: T0, steady: Duration::ZERO }, _dir: dir }
    }

    fn node(mut self, n: u8) -> Bed {
        self.intent.nodes.push(node(n));
        self
    }

    fn pass(&mut self) -> Report {
        self.driver.pass(self.now, &self.intent)
    }

    fn pass_after(&mut self, seconds: u64) -> Report {
        self.now.unix += Duration::from_secs(seconds);
        self.now.steady += Duration::from_secs(seconds);
        self.pass()
    }

    fn own_key(&mut self) -> PublicKey {
        self.pass().announcement.unwrap().current
    }
}

fn settings() -> Settings {
    Settings {
        policy: Policy {
            modes: Modes::parse(Mode::Required, "").unwrap(),
            encrypt_node: false,
            guarded: vec![],
            port: 51_871,
            keepalive_s: None,
            ipv4: true,
            ipv6: true,
        },
        cluster: "east".into(),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        rotation: RotationConfig { interval: None, ..RotationConfig::default() },
    }
}

fn driver(world: &World, settings: Settings, keys: KeyFile) -> Driver {
    let (device, guard, steering) = (Box::new(world.clone()), Arc::new(world.clone()), Box::new(world.clone()));
    Driver::new(settings, device, guard, world.guarded.clone(), steering, Box::new(|| Ok(1500)), keys)
}

fn private(n: u8) -> PrivateKey {
    PrivateKey::from_random([n; 32])
}

fn name(n: u8) -> PeerName {
    PeerName::new("east", &format!("n{n}"))
}

fn node(n: u8) -> NodeWords {
    NodeWords {
        name: name(n),
        cluster: "east".into(),
        own_cluster: true,
        addresses: [format!("10.0.0.{n}").parse().unwrap()].into(),
        pod_cidrs: [format!("10.1.{n}.0/24").parse().unwrap()].into(),
        key: private(n).public().to_string(),
        keys: String::new(),
    }
}

#[test]
fn the_guard_comes_first_and_the_routes_last() {
    let mut bed = Bed::new().node(2);
    let report = bed.pass();
    assert_eq!((&report.unready, &report.errors[..]), (&None, &[] as &[String]));
    assert_eq!(
        bed.world.take_notes(),
        [
            "guard 10.0.0.2/32",
            "guard 10.1.1.0/24",
            "guard 10.1.2.0/24",
            "attach 7",
            "device addIdentity",
            "device addPeer",
            "device addPrefix",
            "device addPrefix",
            "routes 1 and no others",
        ]
    );
    let spec = bed.world.snapshot().spec.unwrap();
    assert_eq!((spec.name.as_str(), spec.mtu, spec.mark, spec.port), ("cilium_wg0", 1408, 0x1e00, 51_871));
    bed.pass_after(1);
    assert_eq!(
        bed.world.take_notes(),
        ["device addLink"],
        "others may send on sessions that a new device has forgotten"
    );
    bed.pass_after(1);
    assert_eq!(bed.world.take_notes(), [] as [&str; 0], "nothing to do");
    bed.intent.nodes.clear();
    bed.pass();
    assert_eq!(bed.world.take_notes(), ["device removePeer", "routes 0 and no others"]);
    let mut notes_after = |seconds| {
        bed.pass_after(seconds);
        let notes = bed.world.take_notes();
        notes.into_iter().filter(|note| !note.starts_with("routes")).collect::<Vec<_>>()
    };
    assert_eq!(notes_after(29), [] as [&str; 0], "whoever sends there may not have heard of it");
    assert_eq!(notes_after(1), ["unguard 10.0.0.2/32"], "another host may have it soon");
    assert_eq!(notes_after(1169), [] as [&str; 0], "TCP still sends again");
    assert_eq!(notes_after(1), ["unguard 10.1.2.0/24"]);
}

#[test]
fn a_peer_that_comes_later_is_knocked_at_as_soon() {
    let mut bed = Bed::new().node(2);
    let knocks = |bed: &mut Bed| {
        let changed = bed.pass_after(1).changed;
        (changed, bed.world.take_notes().iter().filter(|note| *note == "device addLink").count())
    };
    assert!(bed.pass().changed, "the peer");
    bed.world.take_notes();
    assert_eq!(knocks(&mut bed), (true, 1));
    bed.intent.nodes.push(node(3));
    assert_eq!(knocks(&mut bed), (true, 0), "another peer, of a cluster that is read more slowly");
    assert_eq!(knocks(&mut bed), (true, 1));
    assert_eq!(knocks(&mut bed), (false, 0));
    assert_eq!(knocks(&mut bed), (false, 0));
    assert_eq!(knocks(&mut bed), (true, 1), "5 s after the first, the first again");
    assert_eq!(knocks(&mut bed), (false, 0));
    assert_eq!(knocks(&mut bed), (true, 1), "and the second");
}

#[test]
fn what_is_told_is_what_the_map_has_and_somebody_wants() {
    let mut bed = Bed::new().node(2);
    let guarded =
        |bed: &Bed| bed.world.guarded.read(|t| t.iter().map(|(p, _)| p.to_string()).collect::<Vec<_>>().join(" "));
    let with_node = "10.0.0.2/32 10.1.2.0/24";
    bed.intent.remote_known = false;
    bed.pass();
    assert_eq!(guarded(&bed), with_node, "not the own pods: they are no backends of others");
    assert!(!bed.world.guarded.synced(), "others may have left ranges");
    bed.intent.remote_known = true;
    bed.pass();
    assert!(bed.world.guarded.synced());
    bed.world.device.lock().unwrap().gone = true;
    bed.pass();
    assert_eq!(guarded(&bed), with_node, "the guard holds without a device");
    bed.world.device.lock().unwrap().restart();
    let nodes = std::mem::take(&mut bed.intent.nodes);
    bed.pass();
    assert_eq!((guarded(&bed).as_str(), bed.world.rows().unwrap().len()), ("", 3), "before the rows go");
    bed.pass_after(20);
    bed.intent.nodes = nodes;
    bed.pass();
    assert_eq!(guarded(&bed), with_node, "it is back in time");
    bed.pass_after(1300);
    assert_eq!((guarded(&bed).as_str(), bed.world.rows().unwrap().len()), (with_node, 3));
}

#[test]
fn a_row_that_lingers_is_for_pods_alone() {
    let mut bed = Bed::with(World::default(), |settings| settings.policy.encrypt_node = true).node(2);
    bed.pass();
    let row = |bed: &Bed| bed.world.rows().unwrap().get(&"10.0.0.2/32".parse().unwrap()).copied();
    assert_eq!(row(&bed), Some(EncryptEntry::RemoteNode { hosts_too: true }));
    bed.intent.nodes.clear();
    bed.pass();
    assert_eq!(row(&bed), Some(EncryptEntry::RemoteNode { hosts_too: false }), "an API server may be there");
}

#[test]
fn what_an_earlier_process_left_lingers_too_unless_it_may_be_in_the_clear() {
    let south_is_off = |settings: &mut Settings| {
        settings.policy.modes = Modes::parse(Mode::Required, "south=off").unwrap();
    };
    let mut bed = Bed::with(World::default(), south_is_off).node(2);
    let left = ["10.1.8.0/24", "10.1.9.0/24"].map(|range| range.parse::<IpNet>().unwrap());
    for range in left {
        bed.world.set(range, EncryptEntry::RemotePods).unwrap();
    }
    bed.intent.unread = ["west".into()].into();
    bed.pass();
    let has = |bed: &Bed| left.map(|range| bed.world.rows().unwrap().contains_key(&range));
    let told = |bed: &Bed| left.map(|range| bed.world.guarded.get(&range).is_some());
    assert_eq!((has(&bed), told(&bed)), ([true; 2], [true; 2]), "whose they are is not known yet");
    let off = NodeWords { cluster: "south".into(), own_cluster: false, pod_cidrs: [left[0]].into(), ..node(8) };
    bed.intent.nodes.push(off);
    bed.pass_after(1);
    assert_eq!((has(&bed), told(&bed)), ([false, true], [false, true]), "cluster south is off by now");
    bed.intent.unread.clear();
    bed.pass_after(1);
    assert_eq!((has(&bed), told(&bed)), ([false, true], [false; 2]));
    bed.pass_after(30);
    assert_eq!(has(&bed), [false; 2]);
}

#[test]
fn a_device_that_is_gone_leaves_the_guard_and_is_told_everything_again() {
    let mut bed = Bed::new().node(2);
    bed.pass();
    bed.world.device.lock().unwrap().gone = true;
    bed.intent.nodes.push(node(3));
    bed.world.take_notes();
    let report = bed.pass();
    assert!(report.gone.is_some() && report.unready.is_some());
    assert_eq!(bed.world.take_notes(), ["guard 10.0.0.3/32", "guard 10.1.3.0/24"], "closed all the same");
    bed.world.device.lock().unwrap().restart();
    let report = bed.pass();
    assert_eq!((report.gone, report.unready), (None, None));
    let notes = bed.world.take_notes();
    assert_eq!(notes[..2], ["attach 7", "device addIdentity"]);
    assert_eq!(bed.world.snapshot().actual.peers.len(), 2);
    assert!(notes.contains(&"routes 2 and no others".to_owned()));
}

#[test]
fn a_rotation_from_end_to_end() {
    let mut bed = Bed::new().node(2);
    bed.intent.nodes[0].keys = Announcement {
        current: private(2).public(),
        keys: vec![causeway_encryption_plan::EpochKey { epoch: 1, key: private(2).public() }],
    }
    .to_annotation();
    let first = bed.own_key();
    bed.world.confirm_all();
    let report = bed.pass_after(1);
    assert_eq!((report.phase, epochs(&report.announcement.unwrap()).as_str()), (Some(Phase::Steady), "1"));

    bed.driver.rotate(bed.now).unwrap();
    assert!(bed.driver.rotate(bed.now).is_err(), "one at a time");
    let report = bed.pass_after(1);
    let announcement = report.announcement.unwrap();
    assert_eq!((announcement.current, epochs(&announcement).as_str()), (first, "1,2"));
    assert_eq!(report.lagging, [name(2)]);
    let peer = bed.world.snapshot().actual.peers[&name(2)].clone();
    assert_eq!((peer.links.len(), peer.active.own), (2, first), "warmed, not used");

    bed.world.confirm_all();
    let report = bed.pass_after(1);
    let announcement = report.announcement.unwrap();
    assert_ne!(announcement.current, first);
    assert!(matches!(report.phase, Some(Phase::Draining { .. })));
    assert_eq!(bed.world.snapshot().actual.peers[&name(2)].active.own, announcement.current);

    // The session on the old key ends, since nobody uses it.
    let second = Link { own: announcement.current, remote: private(2).public() };
    let fake = |bed: &Bed| {
        let mut fresh = Fake::default();
        let mut old = bed.world.device.lock().unwrap();
        let snapshot = old.snapshot().unwrap();
        fresh.ensure(&snapshot.spec.unwrap()).unwrap();
        fresh.confirm(second);
        *old = fresh;
    };
    fake(&bed);
    bed.pass_after(1);
    let report = bed.pass_after(200);
    assert_eq!(report.phase, Some(Phase::Steady));
    bed.pass_after(1);
    let snapshot = bed.world.snapshot();
    assert_eq!(snapshot.actual.identities, [announcement.current].into());
    assert_eq!(snapshot.actual.peers[&name(2)].links, [second].into());
    let views = bed.pass().keys;
    assert_eq!(views.iter().map(|key| (key.epoch, key.role)).collect::<Vec<_>>(), [(2, "current")]);
}

#[test]
fn the_second_node_with_a_key_is_refused_and_stays_guarded() {
    let mut bed = Bed::new().node(3);
    bed.pass();
    let twin = NodeWords { key: private(3).public().to_string(), ..node(2) };
    bed.intent.nodes.insert(0, twin);
    let report = bed.pass();
    let wanted = report.wanted;
    assert_eq!(wanted.standing[&name(3)], Standing::Peer, "it came first");
    assert!(matches!(&wanted.standing[&name(2)], Standing::Refused(why) if why.contains("duplicate key")));
    assert_eq!(bed.world.snapshot().actual.peers.keys().cloned().collect::<Vec<_>>(), [name(3)]);
    assert!(bed.world.rows.lock().unwrap().contains_key(&"10.1.2.0/24".parse().unwrap()));
}

#[test]
fn a_peer_on_another_interface_is_reached_by_it() {
    let mut bed = Bed::new().node(2).node(3);
    bed.pass();
    bed.pass_after(1);
    bed.world.take_notes();
    *bed.world.elsewhere.lock().unwrap() = Some((name(3), 9));
    bed.pass_after(1);
    assert_eq!(bed.world.take_notes(), ["attach 9", "routes 2 and no others"]);
    let paths = bed.world.paths.lock().unwrap().clone().unwrap();
    assert_eq!(paths.interfaces, [7, 9].into());
    assert_eq!(paths.pods.values().copied().collect::<Vec<_>>(), [7, 9]);
    assert_eq!(paths.nodes.values().copied().collect::<Vec<_>>(), [7, 9]);
}

#[test]
fn what_an_earlier_process_left_stays_until_the_nodes_are_known() {
    let mut bed = Bed::new().node(2).node(3);
    bed.pass();
    let world = bed.world.clone();
    world.confirm_all();
    world.rows.lock().unwrap().insert("10.9.0.0/16".parse().unwrap(), EncryptEntry::RemotePods);
    world.take_notes();
    // The next process, with the same keys.
    let keys = bed._dir.path().join("wireguard.json");
    let mut next = Bed::with(world.clone(), |_| {});
    next.driver = driver(&world, settings(), KeyFile::new(keys));
    next.intent.local_known = false;
    next.intent.nodes = vec![node(2)];
    let report = next.pass();
    assert_eq!(report.adopted, [name(3)].into());
    assert_eq!(world.take_notes(), ["attach 7", "routes 1"]);
    assert_eq!(world.snapshot().actual.peers.len(), 2);
    // Its Node is read before its CiliumNode.
    next.intent.nodes.push(NodeWords { key: String::new(), ..node(3) });
    let report = next.pass();
    assert_eq!((report.adopted, world.snapshot().actual.peers.len()), ([name(3)].into(), 2));
    assert_eq!(world.take_notes(), ["routes 2"]);
    next.intent.nodes.truncate(1);
    next.intent.local_known = true;
    let report = next.pass();
    assert!(report.adopted.is_empty());
    let notes = world.take_notes();
    assert_eq!(notes[..2], ["device removePeer", "routes 1 and no others"]);
    assert!(!notes.iter().any(|note| note.starts_with("unguard")), "Services may still lead there");
    next.pass_after(30);
    let notes = world.take_notes();
    assert!(notes.contains(&"unguard 10.9.0.0/16".to_owned()) && !notes.contains(&"unguard 10.1.3.0/24".to_owned()));
}

#[test]
fn peers_of_a_cluster_that_is_not_read_yet_stay() {
    let mut bed = Bed::new();
    let west = NodeWords { name: PeerName::new("west", "n3"), cluster: "west".into(), own_cluster: false, ..node(3) };
    bed.intent.nodes = vec![node(2), west];
    bed.pass();
    bed.intent.nodes.truncate(1);
    bed.intent.unread = ["west".to_owned()].into();
    assert_eq!(bed.pass().adopted.len(), 1);
    bed.intent.unread.clear();
    assert_eq!((bed.pass().adopted.len(), bed.world.snapshot().actual.peers.len()), (0, 1));
}

#[test]
fn the_way_to_an_api_server_is_open_until_there_is_a_tunnel() {
    let mut bed = Bed::with(World::default(), |settings| settings.policy.encrypt_node = true).node(2).node(3);
    bed.intent.api_servers = ["10.0.0.2".parse().unwrap()].into();
    let report = bed.pass();
    assert_eq!(report.exempt, [name(2)].into());
    let row = |bed: &Bed, prefix: &str| bed.world.rows.lock().unwrap()[&prefix.parse().unwrap()];
    let routed = |bed: &Bed| bed.world.paths.lock().unwrap().as_ref().unwrap().nodes.len();
    assert_eq!(row(&bed, "10.0.0.2/32"), EncryptEntry::RemoteNode { hosts_too: false });
    assert_eq!((row(&bed, "10.0.0.3/32"), routed(&bed)), (EncryptEntry::RemoteNode { hosts_too: true }, 1));
    bed.world.take_notes();
    bed.pass_after(6);
    assert_eq!(bed.world.take_notes(), ["device addLink", "device addLink"], "knocks, since no packet does");
    bed.world.confirm_all();
    assert_eq!(bed.pass_after(1).exempt.len(), 0);
    assert_eq!((row(&bed, "10.0.0.2/32"), routed(&bed)), (EncryptEntry::RemoteNode { hosts_too: true }, 2));
}

#[test]
fn an_annotation_asks_for_a_new_key_once() {
    let mut bed = Bed::new();
    bed.pass();
    bed.intent.rotate_before = Some(T0);
    assert_eq!(bed.pass_after(1).phase, Some(Phase::Steady), "the key was made then");
    // By a clock that runs ahead.
    bed.intent.rotate_before = Some(T0 + Duration::from_secs(1000));
    bed.pass_after(1);
    assert_eq!(bed.pass().keys.last().unwrap().epoch, 2);
    for _ in 0..5 {
        bed.pass_after(200);
    }
    assert_eq!(bed.pass().keys.last().unwrap().epoch, 2);
}

#[test]
fn keys_that_cannot_be_read_leave_the_guard_closed() {
    let mut bed = Bed::new().node(2);
    std::fs::write(bed._dir.path().join("wireguard.json"), "{").unwrap();
    let report = bed.pass();
    assert!(report.unready.unwrap().contains("wireguard.json"));
    assert_eq!(bed.world.rows.lock().unwrap().len(), 3);
    std::fs::remove_file(bed._dir.path().join("wireguard.json")).unwrap();
    assert_eq!(bed.pass().unready, None);
}

#[test]
fn off_takes_everything_back_rows_last() {
    let mut bed = Bed::new().node(2);
    bed.pass();
    let world = bed.world.clone();
    world.take_notes();
    clear(Box::new(world.clone()), &world, Box::new(world.clone()));
    let notes = world.take_notes();
    assert_eq!(notes[..2], ["no routes", "device gone"]);
    assert_eq!(world.rows.lock().unwrap().len(), 0);
}
