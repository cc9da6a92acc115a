//! Verbs over the fake datapath, a fake plumbing and a temporary directory.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use causeway_api::cni::PodRef;
use causeway_datapath_loader::Fake;

use super::*;
use crate::realize::netlink::NetError;

/// Interfaces by name: which namespace, which index.
#[derive(Default)]
struct Interfaces {
    made: BTreeMap<String, (String, u32)>,
    next: u32,
    fail: bool,
}

#[derive(Clone, Default)]
struct FakePlumbing(Arc<Mutex<Interfaces>>);

impl FakePlumbing {
    fn names(&self) -> usize {
        self.0.lock().unwrap().made.len()
    }

    fn lose(&self, host_ifname: &str) {
        self.0.lock().unwrap().made.remove(host_ifname);
    }

    fn fail(&self, fail: bool) {
        self.0.lock().unwrap().fail = fail;
    }
}

impl Plumbing for FakePlumbing {
    fn connect(&self, wish: &Wish) -> Result<Made, PodError> {
        let mut all = self.0.lock().unwrap();
        if all.fail {
            return Err(NetError::new("making the veth", io::Error::other("refused")).into());
        }
        if wish.netns.contains("gone") {
            let source = io::Error::from_raw_os_error(libc::ENOENT);
            return Err(PodError::Netns { path: wish.netns.clone(), source });
        }
        all.next += 1;
        let (host_ifname, ifindex) = (pod::host_ifname(&wish.attachment), all.next);
        all.made.insert(host_ifname.clone(), (wish.netns.clone(), ifindex));
        Ok(Made { host_ifname, ifindex, mac: [2; 6], host_mac: [6; 6], mtu: wish.mtu })
    }

    fn disconnect(&self, host_ifname: &str) -> Result<bool, PodError> {
        let mut all = self.0.lock().unwrap();
        if all.fail {
            return Err(NetError::new("deleting interface", io::Error::other("refused")).into());
        }
        Ok(all.made.remove(host_ifname).is_some())
    }

    fn adopt(&self, _: &Wish, made: &Made) -> Result<Option<u32>, PodError> {
        Ok(self.0.lock().unwrap().made.get(&made.host_ifname).map(|(_, index)| *index))
    }

    fn verify(&self, wish: &Wish, made: &Made) -> Result<Vec<String>, PodError> {
        let gone = !self.0.lock().unwrap().made.contains_key(&made.host_ifname);
        Ok(if gone { vec![format!("interface {} of the pod is gone", wish.attachment.ifname)] } else { vec![] })
    }
}

/// One node's worth of verbs; `start` is the process that starts on what an earlier one left.
struct Node {
    datapath: Arc<Fake>,
    plumbing: FakePlumbing,
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Node {
        Node { datapath: Arc::default(), plumbing: FakePlumbing::default(), dir: tempfile::tempdir().unwrap() }
    }

    fn start(&self) -> Verbs {
        let store = Store::open(self.dir.path()).unwrap();
        let plumbing = Box::new(self.plumbing.clone());
        let ipam = Ipam::new(true, true);
        let verbs = Verbs::new(self.datapath.clone(), plumbing, store, Shared::default(), 9000, ipam);
        verbs.adopt().unwrap();
        verbs
    }

    fn ready(&self) -> Verbs {
        let verbs = self.start();
        let cidrs: Vec<IpNet> = ["10.1.1.0/24", "fd00:1:1::/64"].map(|c| c.parse().unwrap()).to_vec();
        verbs.set_node(&cidrs, vec![]).unwrap();
        verbs
    }

    fn files(&self, dir: &str) -> usize {
        std::fs::read_dir(self.dir.path().join(dir)).unwrap().count()
    }

    /// Nothing of any pod is anywhere.
    fn assert_empty(&self, verbs: &Verbs) {
        assert_eq!(self.plumbing.names(), 0);
        assert_eq!(self.datapath.endpoints().unwrap(), BTreeMap::new());
        assert_eq!(self.datapath.ipcache().unwrap(), BTreeMap::new());
        assert_eq!(self.datapath.attached().unwrap(), []);
        assert_eq!((self.files("endpoints"), verbs.all().len()), (0, 0));
    }
}

fn attachment(container: &str) -> Attachment {
    Attachment { container_id: container.into(), ifname: "eth0".into() }
}

fn add(container: &str) -> Add {
    let pod = PodRef { namespace: "default".into(), name: format!("web-{container}"), uid: None };
    Add { attachment: attachment(container), netns: format!("/run/netns/{container}"), pod, mtu: None }
}

fn del(container: &str) -> Del {
    Del { attachment: attachment(container), netns: None }
}

fn check(container: &str, ips: &[&str]) -> Check {
    let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    Check { attachment: attachment(container), netns: format!("/run/netns/{container}"), ips }
}

#[test]
fn a_pod_comes_and_goes() {
    let node = Node::new();
    let verbs = node.ready();
    let got = verbs.add(&add("a")).unwrap();
    let ips: Vec<String> = got.ips.iter().map(|ip| ip.address.to_string()).collect();
    assert_eq!(ips, ["10.1.1.2/32", "fd00:1:1::2/128"]);
    assert_eq!(got.routes[1].gw, Some("fe80::1".parse().unwrap()));
    assert_eq!((got.mtu, got.endpoint_id, got.mac.as_str()), (9000, 1, "02:02:02:02:02:02"));
    let rows = node.datapath.endpoints().unwrap();
    assert_eq!(rows.len(), 2);
    assert!(rows.values().all(|row| row.identity == IDENTITY_INIT && row.id == 1));
    assert_eq!(node.datapath.ipcache().unwrap().len(), 2);
    assert_eq!(node.datapath.attached().unwrap().len(), 2);
    assert_eq!(verbs.check(&check("a", &["10.1.1.2/32"])).unwrap(), Done {});

    verbs.del(&del("a")).unwrap();
    node.assert_empty(&verbs);
    verbs.del(&del("a")).unwrap();
    verbs.del(&del("never-seen")).unwrap();
}

#[test]
fn the_same_add_twice_gives_the_same_answer_and_a_changed_one_starts_over() {
    let node = Node::new();
    let verbs = node.ready();
    let first = verbs.add(&add("a")).unwrap();
    assert_eq!(verbs.add(&add("a")).unwrap(), first);
    let moved = verbs.add(&Add { netns: "/run/netns/other".into(), mtu: Some(1280), ..add("a") }).unwrap();
    assert_ne!(moved.ips, first.ips);
    assert_eq!((moved.mtu, node.plumbing.names(), verbs.all().len()), (1280, 1, 1));
}

#[test]
fn a_refusal_half_way_leaves_nothing() {
    let node = Node::new();
    let verbs = node.ready();
    node.plumbing.fail(true);
    assert_eq!(verbs.add(&add("a")).unwrap_err().code, code::NETWORK);
    node.plumbing.fail(false);
    node.assert_empty(&verbs);

    let error = verbs.add(&Add { netns: "/run/netns/gone".into(), ..add("a") }).unwrap_err();
    assert_eq!(error.code, code::INVALID_ENVIRONMENT);
    assert!(error.message.contains("CNI_NETNS") && error.message.contains("/run/netns/gone"), "{error}");

    node.datapath.remove_interface(2);
    verbs.add(&add("b")).unwrap();
    let error = verbs.add(&add("c")).unwrap_err();
    assert_eq!(error.code, code::DATAPATH);
    assert!(error.message.contains("default/web-c"), "{error}");
    verbs.del(&del("b")).unwrap();
    node.assert_empty(&verbs);
}

#[test]
fn without_cidrs_pods_are_told_to_try_again() {
    let node = Node::new();
    let verbs = node.start();
    assert_eq!(verbs.add(&add("a")).unwrap_err().code, code::TRY_AGAIN);
    let error = verbs.status().unwrap_err();
    assert_eq!(error.code, code::NOT_AVAILABLE);
    assert!(error.details.contains("Node.spec.podCIDRs"), "{error}");
    verbs.set_node(&["10.1.1.0/24".parse().unwrap()], vec![]).unwrap_err();
    verbs.set_node(&["10.1.1.0/29".parse().unwrap(), "fd00::/64".parse().unwrap()], vec![]).unwrap();
    verbs.status().unwrap();
    let given = (0..9).filter(|n| verbs.add(&add(&n.to_string())).is_ok()).count();
    assert_eq!(given, 5);
    assert_eq!(verbs.add(&add("x")).unwrap_err().code, code::TRY_AGAIN);
}

#[test]
fn a_restart_adopts_what_lives_and_forgets_what_died() {
    let node = Node::new();
    let verbs = node.ready();
    let kept = verbs.add(&add("kept")).unwrap();
    let lost = verbs.add(&add("lost")).unwrap();
    verbs.set_identity(&attachment("kept"), 12345, vec!["k8s:app=web".into()]).unwrap();
    drop(verbs);
    node.plumbing.lose(&lost.host_ifname);
    std::fs::write(node.dir.path().join("endpoints/77.json"), "{ not json").unwrap();
    // A row of a pod whose file was lost.
    node.datapath
        .upsert_endpoint([10, 1, 1, 99].into(), *node.datapath.endpoints().unwrap().values().next().unwrap())
        .unwrap();

    let verbs = node.ready();
    let all = verbs.all();
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].identity, all[0].labels.as_slice()), (12345, &["k8s:app=web".to_owned()][..]));
    assert!(verbs.endpoints.synced());
    let rows = node.datapath.endpoints().unwrap();
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(rows.values().all(|row| row.identity == 12345));
    assert_eq!(node.datapath.attached().unwrap().len(), 2);
    assert_eq!(verbs.add(&add("kept")).unwrap(), kept);
    let fresh = verbs.add(&add("new")).unwrap();
    assert!(fresh.ips[0] != kept.ips[0] && fresh.endpoint_id != kept.endpoint_id);
    assert!(Path::new(&node.dir.path().join("endpoints/77.refused")).exists());
}

#[test]
fn check_lists_every_difference() {
    let node = Node::new();
    let verbs = node.ready();
    assert_eq!(verbs.check(&check("a", &[])).unwrap_err().code, code::UNKNOWN_CONTAINER);
    let got = verbs.add(&add("a")).unwrap();
    node.plumbing.lose(&got.host_ifname);
    node.datapath.delete_endpoint(got.ips[0].address.addr()).unwrap();
    node.datapath.detach(1).unwrap();
    let error = verbs.check(&check("a", &["10.9.9.9/32"])).unwrap_err();
    assert_eq!(error.code, code::DIFFERS);
    for part in [
        "10.9.9.9/32 of the previous result",
        "eth0 of the pod is gone",
        "does not know 10.1.1.2",
        "from_pod",
        "to_pod",
    ] {
        assert!(error.details.contains(part), "{error} has not {part}");
    }
}

#[test]
fn gc_removes_what_the_runtime_has_not() {
    let node = Node::new();
    let verbs = node.ready();
    for container in ["a", "b", "c"] {
        verbs.add(&add(container)).unwrap();
    }
    let got = verbs.gc(&Gc { valid: vec![attachment("b"), attachment("unknown")] }).unwrap();
    assert_eq!(got.removed, [attachment("a"), attachment("c")]);
    assert_eq!((node.plumbing.names(), verbs.all().len(), node.files("endpoints")), (1, 1, 1));
    verbs.gc(&Gc { valid: vec![] }).unwrap();
    node.assert_empty(&verbs);
}

#[test]
fn queued_deletions_are_done_once() {
    let node = Node::new();
    let verbs = node.ready();
    verbs.add(&add("a")).unwrap();
    let queue = super::super::store::deletions_dir(node.dir.path());
    std::fs::write(queue.join("a-eth0.json"), serde_json::to_vec(&del("a")).unwrap()).unwrap();
    std::fs::write(queue.join("b-eth0.json"), serde_json::to_vec(&del("b")).unwrap()).unwrap();
    assert_eq!(verbs.drain_deletions().unwrap(), 2);
    assert_eq!(verbs.drain_deletions().unwrap(), 0);
    node.assert_empty(&verbs);
}

#[test]
fn a_failed_del_can_be_repeated() {
    let node = Node::new();
    let verbs = node.ready();
    verbs.add(&add("a")).unwrap();
    node.plumbing.fail(true);
    assert_eq!(verbs.del(&del("a")).unwrap_err().code, code::NETWORK);
    assert_eq!(node.files("endpoints"), 1);
    node.plumbing.fail(false);
    verbs.del(&del("a")).unwrap();
    node.assert_empty(&verbs);
}
