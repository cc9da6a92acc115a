//! The controller against its rows.

use super::*;
use crate::intent::node::NodeAddress;

fn inputs() -> Inputs {
    Inputs {
        nodes: Shared::default(),
        endpoints: Shared::default(),
        remote_endpoints: Shared::default(),
        slices: Shared::default(),
        remote_nodes: Shared::default(),
    }
}

fn node(ips: &[&str], cidrs: &[&str]) -> Node {
    Node {
        uid: String::new(),
        labels: BTreeMap::new(),
        pod_cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
        addresses: ips.iter().map(|ip| NodeAddress { ip: ip.parse().unwrap(), internal: true }).collect(),
        provider_id: None,
        boot_id: None,
        taints: Box::default(),
    }
}

fn none() -> Changed {
    Changed {
        nodes: Changes::Keys(vec![]),
        endpoints: Changes::Keys(vec![]),
        remote_endpoints: Changes::Keys(vec![]),
        api_server: false,
        remote_nodes: Changes::Keys(vec![]),
        synced: false,
    }
}

fn lines(out: &Shared<IpNet, IpcacheRow>) -> Vec<String> {
    out.read(|t| {
        t.iter()
            .map(|(p, r)| {
                format!("{p} {}{} {}", r.entry.identity, if r.entry.in_cluster { " in" } else { "" }, r.source)
            })
            .collect()
    })
}

#[test]
fn nodes_pods_and_the_world() {
    let (inputs, out) = (inputs(), Shared::default());
    let mut c = Controller::new(inputs.clone(), &out, "n1", Families { v4: true, v6: true });
    inputs.nodes.set(Key::new("", "n1"), node(&["10.0.0.11"], &["10.1.1.0/24"]));
    inputs.nodes.set(Key::new("", "n2"), node(&["10.0.0.12", "fd00:10::12"], &["10.1.2.0/24"]));
    let remote = |id, ip: &str| RemoteEndpoint { addresses: [ip.parse().unwrap()].into(), identity: id, node: None };
    inputs.remote_endpoints.set(Key::new("d", "web"), remote(4321, "10.1.2.7"));
    let nodes = Changes::Keys(vec![Key::new("", "n1"), Key::new("", "n2")]);
    let pods = Changes::Keys(vec![Key::new("d", "web")]);
    c.update(Changed { nodes, remote_endpoints: pods, ..none() });
    assert_eq!(
        lines(&out),
        [
            "0.0.0.0/0 9 reserved",
            "10.0.0.11/32 1 in node n1",
            "10.0.0.12/32 6 in node n2",
            "10.1.1.0/24 3 in pod CIDR of node n1",
            "10.1.2.0/24 3 in pod CIDR of node n2",
            "10.1.2.7/32 4321 in pod d/web",
            "::/0 10 reserved",
            "fd00:10::12/128 6 in node n2",
        ]
    );
    assert!(!out.synced());
    inputs.nodes.delete(&Key::new("", "n2"));
    inputs.nodes.mark_synced();
    inputs.endpoints.mark_synced();
    inputs.remote_endpoints.mark_synced();
    let gone = Changes::Keys(vec![Key::new("", "n2")]);
    c.update(Changed { nodes: gone, synced: inputs.synced(), ..none() });
    assert_eq!(lines(&out).len(), 5);
    assert!(out.synced());
}

#[test]
fn what_the_node_knows_itself_comes_first() {
    let (inputs, out) = (inputs(), Shared::default());
    let mut c = Controller::new(inputs.clone(), &out, "n1", Families { v4: true, v6: false });
    let stale = RemoteEndpoint { addresses: ["10.1.1.2".parse().unwrap()].into(), identity: 300, node: None };
    inputs.remote_endpoints.set(Key::new("d", "old"), stale);
    let attachment = Attachment { container_id: "0123456789abcdef".into(), ifname: "eth0".into() };
    inputs.endpoints.set(
        attachment.clone(),
        LocalEndpoint {
            id: 7,
            attachment: attachment.clone(),
            pod: causeway_api::cni::PodRef::default(),
            netns: String::new(),
            ipv4: Some(Ipv4Addr::new(10, 1, 1, 2)),
            ipv6: Some("fd00::2".parse().unwrap()),
            host_ifname: String::new(),
            ifindex: 1,
            mac: [0; 6],
            host_mac: [0; 6],
            identity: 5000,
            labels: vec![],
        },
    );
    let old = Changes::Keys(vec![Key::new("d", "old")]);
    c.update(Changed { endpoints: Changes::Keys(vec![attachment.clone()]), remote_endpoints: old, ..none() });
    assert_eq!(lines(&out), ["0.0.0.0/0 2 reserved", "10.1.1.2/32 5000 in endpoint 0123456789ab"]);
    inputs.endpoints.delete(&attachment);
    c.update(Changed { endpoints: Changes::Keys(vec![attachment]), ..none() });
    assert_eq!(lines(&out)[1], "10.1.1.2/32 300 in pod d/old");
}

#[test]
fn nodes_of_other_clusters_are_reached_natively_and_come_after_ours() {
    let (inputs, out) = (inputs(), Shared::default());
    let mut c = Controller::new(inputs.clone(), &out, "n1", Families { v4: true, v6: true });
    let key = (causeway_mesh_schema::ClusterId::try_from(2).unwrap(), "n9".into());
    let address = |ip: &str| NodeAddress { ip: ip.parse().unwrap(), internal: true };
    let remote = RemoteNode {
        addresses: [address("10.0.0.12"), address("10.0.0.99")].into(),
        pod_cidrs: ["10.2.9.0/24".parse().unwrap(), "fd00:2::/64".parse().unwrap()].into(),
        wireguard_pub_key: "".into(),
        wireguard_pub_keys: "".into(),
    };
    inputs.remote_nodes.set(key.clone(), remote);
    inputs.nodes.set(Key::new("", "n1"), node(&["10.0.0.12"], &[]));
    let keys = Changes::Keys(vec![Key::new("", "n1")]);
    c.update(Changed { nodes: keys, remote_nodes: Changes::Keys(vec![key.clone()]), ..none() });
    assert_eq!(
        lines(&out),
        [
            "0.0.0.0/0 9 reserved",
            "10.0.0.12/32 1 in node n1",
            "10.0.0.99/32 6 in node n9 of cluster 2",
            "10.2.9.0/24 9 in pod CIDR of node n9 of cluster 2",
            "::/0 10 reserved",
            "fd00:2::/64 10 in pod CIDR of node n9 of cluster 2",
        ]
    );
    inputs.remote_nodes.delete(&key);
    c.update(Changed { remote_nodes: Changes::Keys(vec![key]), ..none() });
    assert_eq!(lines(&out).len(), 3);
}

#[test]
fn objects_that_a_table_has_forgotten_let_go_too() {
    let (inputs, out) = (inputs(), Shared::default());
    let mut c = Controller::new(inputs.clone(), &out, "n1", Families { v4: true, v6: false });
    let key = |n: usize| Key::new("d", format!("p{n}"));
    let remote = |n: usize| {
        let [.., b, a] = n.to_be_bytes();
        RemoteEndpoint { addresses: [IpAddr::from([10, 1, b, a])].into(), identity: 4321, node: None }
    };
    inputs.nodes.set(Key::new("", "n2"), node(&["10.0.0.12"], &["10.1.0.0/16"]));
    let cluster = causeway_mesh_schema::ClusterId::try_from(2).unwrap();
    let abroad = (cluster, "n1".into());
    let row = RemoteNode {
        addresses: [NodeAddress { ip: "192.0.2.7".parse().unwrap(), internal: true }].into(),
        pod_cidrs: ["10.2.0.0/16".parse().unwrap()].into(),
        wireguard_pub_key: "".into(),
        wireguard_pub_keys: "".into(),
    };
    inputs.remote_nodes.set(abroad.clone(), row);
    let many = causeway_table::MAX_TOMBSTONES + 10;
    let mut reader = inputs.remote_endpoints.reader();
    inputs.remote_endpoints.write(|t| (0..many).all(|n| t.set(key(n), remote(n))));
    let all = Changed { nodes: Changes::Reset, remote_nodes: Changes::Reset, ..none() };
    c.update(Changed { remote_endpoints: reader.changes(), ..all });
    assert_eq!(lines(&out).len(), 1 + many + 4);
    inputs.remote_endpoints.write(|t| (1..many).all(|n| t.delete(&key(n))));
    inputs.nodes.delete(&Key::new("", "n2"));
    inputs.remote_nodes.delete(&abroad);
    let changes = reader.changes();
    assert_eq!(changes, Changes::Reset);
    let all = Changed { nodes: Changes::Reset, remote_nodes: Changes::Reset, ..none() };
    c.update(Changed { remote_endpoints: changes, ..all });
    assert_eq!(lines(&out), ["0.0.0.0/0 2 reserved", "10.1.0.0/32 4321 in pod d/p0"]);
}
