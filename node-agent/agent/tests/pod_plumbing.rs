//! Pods of one node, with the real programs: two pods and their node reach each other over both families, and a pod
//! leaves nothing behind.
//!
//! Needs root: makes network namespaces and loads programs.

#![allow(dead_code, reason = "the modules are the agent's; this test uses a part of them")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "../src/realize"]
mod realize {
    pub(crate) mod netlink;
    pub(crate) mod pod;
}

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;

use causeway_api::cni::Attachment;
use causeway_datapath_abi as abi;
use causeway_datapath_loader::{Datapath, Endpoint, IpcacheEntry, Kernel, Options, convert};
use realize::pod::{self, Made, Wish};

const NODE: [&str; 2] = ["10.0.0.11", "fd00:10::11"];

/// Everything that must go when a test ends, however it ends.
struct Room {
    namespaces: Vec<String>,
    pins: PathBuf,
}

impl Room {
    /// Puts the calling thread into a namespace of its own, which is the node.
    fn new(name: &str) -> Room {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root can make network namespaces");
        run("ip", &["link", "set", "lo", "up"]);
        for address in NODE {
            run("ip", &["address", "add", address, "dev", "lo"]);
        }
        Room { namespaces: Vec::new(), pins: format!("/sys/fs/bpf/cw-test-{name}-{}", std::process::id()).into() }
    }

    fn namespace(&mut self, name: &str) -> String {
        let name = format!("cw-test-{name}-{}", std::process::id());
        run("ip", &["netns", "add", &name]);
        self.namespaces.push(name.clone());
        format!("/run/netns/{name}")
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        for name in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
        let _ = std::fs::remove_dir_all(&self.pins);
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn ping(netns: Option<&str>, target: IpAddr) {
    let target = target.to_string();
    let ping = ["ping", "-n", "-q", "-c", "3", "-i", "0.01", "-W", "2", &target];
    let text = match netns {
        Some(path) => run("nsenter", &[&[format!("--net={path}").as_str()], &ping[..]].concat()),
        None => run(ping[0], &ping[1..]),
    };
    assert!(text.contains(" 0% packet loss"), "{text}");
}

fn wish(container: &str, netns: &str, last: u16) -> Wish {
    Wish {
        attachment: Attachment { container_id: container.into(), ifname: "eth0".into() },
        netns: netns.into(),
        ipv4: Some(format!("10.1.1.{last}").parse().unwrap()),
        ipv6: Some(format!("fd00:1:1::{last}").parse().unwrap()),
        mtu: 1400,
        node: NODE.map(|a| a.parse().unwrap()).to_vec(),
    }
}

fn ips(wish: &Wish) -> [IpAddr; 2] {
    [wish.ipv4.unwrap().into(), wish.ipv6.unwrap().into()]
}

fn serve(datapath: &Kernel, wish: &Wish, made: &Made, id: u16) {
    datapath.attach_pod(made.ifindex).unwrap();
    for ip in ips(wish) {
        let &Made { ifindex, mac, host_mac, .. } = made;
        let identity = 10_000 + u32::from(id);
        datapath.upsert_endpoint(ip, Endpoint { ifindex, identity, id, mac, host_mac }).unwrap();
        datapath.upsert_ipcache(ip.into(), IpcacheEntry { identity, in_cluster: true }).unwrap();
    }
}

fn node_config() -> abi::NodeConfig {
    let [v4, v6] = NODE.map(|a| convert::addr(a.parse().unwrap()));
    abi::NodeConfig {
        node_v4: v4,
        node_v6: v6,
        hairpin_v4: abi::Addr::v4([169, 254, 1, 2]),
        hairpin_v6: convert::addr("fd00:ffff::2".parse().unwrap()),
        snat_port_min: 32_768,
        snat_port_max: 60_999,
        ..abi::NodeConfig::default()
    }
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn pods_and_their_node_reach_each_other() {
    let mut room = Room::new("pods");
    pod::prepare_node(true, true, &[]).unwrap();
    let datapath = Kernel::open(&Options::new(&room.pins, node_config())).unwrap();
    for ip in NODE {
        let ip: IpAddr = ip.parse().unwrap();
        datapath.upsert_ipcache(ip.into(), IpcacheEntry { identity: 1, in_cluster: true }).unwrap();
    }
    let netns: Vec<String> = ["a", "b"].iter().map(|name| room.namespace(name)).collect();
    let wishes = [wish("pod-a", &netns[0], 5), wish("pod-b", &netns[1], 6)];
    let mades: Vec<Made> = wishes.iter().map(|w| pod::connect(w).unwrap()).collect();
    for (id, (wish, made)) in (1..).zip(wishes.iter().zip(&mades)) {
        serve(&datapath, wish, made, id);
        assert_eq!(pod::verify(wish, made).unwrap(), Vec::<String>::new());
        assert_eq!(made.mtu, 1400);
    }
    for (from, to) in [(0, 1), (1, 0)] {
        for target in ips(&wishes[to]) {
            ping(Some(&netns[from]), target);
            ping(None, target);
        }
        for target in NODE {
            ping(Some(&netns[from]), target.parse().unwrap());
        }
    }

    // What CHECK reports.
    run("nsenter", &[&format!("--net={}", netns[0]), "ip", "address", "flush", "dev", "eth0"]);
    let wrong = pod::verify(&wishes[0], &mades[0]).unwrap().join("\n");
    assert!(wrong.contains("has lost its address 10.1.1.5") && wrong.contains("fd00:1:1::5"), "{wrong}");

    // An adopted pod gets its node's end repaired.
    run("ip", &["route", "del", "10.1.1.6"]);
    assert!(pod::verify(&wishes[1], &mades[1]).unwrap().iter().any(|w| w.contains("no route to 10.1.1.6")));
    assert_eq!(pod::adopt(&wishes[1], &mades[1]).unwrap(), Some(mades[1].ifindex));
    ping(None, ips(&wishes[1])[0]);

    for (wish, made) in wishes.iter().zip(&mades) {
        assert!(pod::disconnect(&made.host_ifname).unwrap());
        assert!(!pod::disconnect(&made.host_ifname).unwrap(), "DEL is idempotent");
        assert_eq!(pod::adopt(wish, made).unwrap(), None);
    }
    assert_eq!(datapath.prune_links().unwrap().len(), 4);
    assert!(!run("ip", &["link"]).contains("lxc"));
    assert_eq!(run("ip", &["route"]), "");
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn a_failed_attachment_leaves_nothing() {
    let mut room = Room::new("undo");
    let netns = room.namespace("u");
    run("nsenter", &[&format!("--net={netns}"), "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other"]);
    let error = pod::connect(&wish("pod-u", &netns, 5)).unwrap_err().to_string();
    assert!(error.contains("the pod has an interface eth0 already"), "{error}");
    assert!(!run("ip", &["link"]).contains("lxc"));

    let strange = Wish { ipv4: None, ipv6: Some("ff02::1".parse().unwrap()), ..wish("pod-v", &netns, 6) };
    let strange = Wish { attachment: Attachment { ifname: "net1".into(), ..strange.attachment }, ..strange };
    let error = pod::connect(&strange).unwrap_err().to_string();
    assert!(error.contains("adding address ff02::1/128"), "{error}");
    assert!(!run("ip", &["link"]).contains("lxc"));
    assert!(!run("nsenter", &[&format!("--net={netns}"), "ip", "link"]).contains("net1"));
}

#[test]
#[ignore = "needs root; run by make e2e TOPIC=datapath"]
fn an_attachment_repeated_replaces_what_was_left() {
    let mut room = Room::new("again");
    let netns = room.namespace("g");
    let wish = wish("pod-g", &netns, 5);
    let first = pod::connect(&wish).unwrap();
    let second = pod::connect(&wish).unwrap();
    assert_ne!(first.ifindex, second.ifindex);
    assert_eq!(first.host_ifname, second.host_ifname);
    assert_eq!(pod::verify(&wish, &second).unwrap(), Vec::<String>::new());
    // The namespace may go first: the runtime removes it, and DEL comes later.
    run("ip", &["netns", "delete", netns.trim_start_matches("/run/netns/")]);
    room.namespaces.clear();
    assert!(pod::verify(&wish, &second).is_err());
    pod::disconnect(&second.host_ifname).unwrap();
}
