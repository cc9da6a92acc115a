//! Tables: nodes and what is held in, what shall be out.

use causeway_encryption_plan::{EpochKey, Link, Peer};

use super::*;

/// A key of its own for each number.
fn key(n: u8) -> PublicKey {
    PublicKey::from_bytes([n; 32]).unwrap()
}

fn name(node: &str) -> PeerName {
    PeerName::new("east", node)
}

fn node(n: u8) -> NodeWords {
    NodeWords {
        name: name(&format!("n{n}")),
        cluster: "east".into(),
        own_cluster: true,
        addresses: [format!("10.0.0.{n}").parse().unwrap(), format!("fd00:10::{n}").parse().unwrap()].into(),
        pod_cidrs: [format!("10.1.{n}.0/24").parse().unwrap(), format!("fd00:1:{n}::/64").parse().unwrap()].into(),
        key: key(n).to_string(),
        keys: String::new(),
    }
}

fn remote(cluster: &str, n: u8) -> NodeWords {
    let words = node(n);
    NodeWords { name: PeerName::new(cluster, &format!("n{n}")), cluster: cluster.into(), own_cluster: false, ..words }
}

/// What a test decides from; this node is `n1`.
struct Case {
    own: Own,
    nodes: Vec<NodeWords>,
    policy: Policy,
    api: BTreeSet<IpAddr>,
    held: Actual,
}

impl Case {
    fn new(nodes: impl IntoIterator<Item = NodeWords>) -> Case {
        let own = node(1);
        Case {
            own: Own {
                addresses: own.addresses.into_iter().collect(),
                pod_cidrs: own.pod_cidrs.into_iter().collect(),
                keys: vec![key(1)],
            },
            nodes: nodes.into_iter().collect(),
            policy: Policy {
                modes: Modes::parse(Mode::Required, "").unwrap(),
                encrypt_node: false,
                guarded: vec![],
                port: 51_871,
                keepalive_s: None,
                ipv4: true,
                ipv6: true,
            },
            api: BTreeSet::new(),
            held: Actual::default(),
        }
    }

    /// The device holds the node with this key and these prefixes.
    fn held(mut self, node: &str, remote: PublicKey, prefixes: &[&str]) -> Case {
        let link = Link { own: key(1), remote };
        let peer = Peer {
            endpoint: "10.0.0.9:51871".parse().unwrap(),
            keepalive_s: None,
            links: [link].into(),
            active: link,
            prefixes: prefixes.iter().map(|p| p.parse().unwrap()).collect(),
        };
        self.held.peers.insert(name(node), peer);
        self
    }

    fn wanted(&self) -> Wanted {
        wanted(&Inputs {
            own: &self.own,
            nodes: &self.nodes,
            policy: &self.policy,
            api_servers: &self.api,
            held: &self.held,
        })
    }
}

fn guard(wanted: &Wanted) -> Vec<String> {
    let shown = |(prefix, class): (&IpNet, &EncryptEntry)| match class {
        EncryptEntry::LocalPods => format!("{prefix} local"),
        EncryptEntry::RemotePods => format!("{prefix} pods"),
        EncryptEntry::RemoteNode { hosts_too: false } => format!("{prefix} node"),
        EncryptEntry::RemoteNode { hosts_too: true } => format!("{prefix} node+host"),
        EncryptEntry::Plain => format!("{prefix} plain"),
    };
    wanted.guard(&BTreeSet::new()).iter().map(shown).collect()
}

fn problems(wanted: &Wanted) -> String {
    wanted.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_node_is_a_peer_with_its_pods_and_itself() {
    let wanted = Case::new([node(2)]).wanted();
    let peer = &wanted.peers[&name("n2")];
    assert_eq!(peer.endpoint, "10.0.0.2:51871".parse().unwrap());
    let prefixes: Vec<String> = peer.prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["10.0.0.2/32", "10.1.2.0/24", "fd00:1:2::/64", "fd00:10::2/128"]);
    assert_eq!(
        guard(&wanted),
        [
            "10.0.0.2/32 node",
            "10.1.1.0/24 local",
            "10.1.2.0/24 pods",
            "fd00:1:1::/64 local",
            "fd00:1:2::/64 pods",
            "fd00:10::2/128 node"
        ]
    );
    assert_eq!((wanted.pods.len(), wanted.nodes(&BTreeSet::new()).len(), problems(&wanted)), (2, 2, String::new()));
}

#[test]
fn what_has_no_good_key_is_guarded_all_the_same() {
    type Spoilt = (fn(&mut NodeWords), Standing, &'static str);
    let cases: [Spoilt; 4] = [
        (|n| n.key.clear(), Standing::NoKey, ""),
        (
            |n| n.key = "no key".into(),
            Standing::Refused("annotation network.cilium.io/wg-pub-key: a WireGuard key is 44 characters of base64 (32 bytes), this is 6 characters".into()),
            "east/n2: annotation network.cilium.io/wg-pub-key",
        ),
        (|n| n.keys = "{".into(), Standing::Peer, "east/n2: annotation network.causeway.io/wg-pub-keys"),
        (
            |n| n.addresses.clear(),
            Standing::Refused("it has no InternalIP of a family that this node has".into()),
            "east/n2: it has no InternalIP",
        ),
    ];
    for (spoil, standing, problem) in cases {
        let mut words = node(2);
        spoil(&mut words);
        let wanted = Case::new([words]).wanted();
        assert_eq!(wanted.standing[&name("n2")], standing);
        assert_eq!(wanted.peers.contains_key(&name("n2")), standing == Standing::Peer);
        assert!(guard(&wanted).contains(&"10.1.2.0/24 pods".to_owned()));
        assert!(wanted.pods.contains(&"10.1.2.0/24".parse().unwrap()), "by the device, which refuses");
        let text = problems(&wanted);
        assert!(text.starts_with(problem) && text.is_empty() == problem.is_empty(), "{text}");
    }
}

#[test]
fn the_endpoint_is_of_a_family_that_both_have() {
    let mut case = Case::new([node(2)]);
    case.own.addresses.retain(IpAddr::is_ipv6);
    assert_eq!(case.wanted().peers[&name("n2")].endpoint, "[fd00:10::2]:51871".parse().unwrap());
}

#[test]
fn who_came_first_keeps_a_key() {
    let twins = || [node(2), NodeWords { key: key(2).to_string(), ..node(3) }];
    let refused = |wanted: &Wanted, node: &str, owner: &str| {
        let text = problems(wanted);
        assert_eq!(
            text,
            format!(
                "east/{node}: duplicate key {}: node east/{owner} has it; let one of the two make a new one",
                key(2)
            )
        );
        assert!(matches!(&wanted.standing[&name(node)], Standing::Refused(why) if why.starts_with("duplicate key")));
        assert_eq!(wanted.peers.keys().cloned().collect::<Vec<_>>(), [name(owner)]);
    };
    refused(&Case::new(twins()).wanted(), "n3", "n2");
    refused(&Case::new(twins()).held("n3", key(2), &[]).wanted(), "n2", "n3");
    // A holder that has another key by now has no claim to it.
    refused(&Case::new(twins()).held("n4", key(2), &[]).wanted(), "n3", "n2");

    // The one that holds its own key and announces another's too.
    let greedy = NodeWords {
        keys: format!(r#"[{{"epoch":1,"key":"{}"}},{{"epoch":2,"key":"{}"}}]"#, key(2), key(3)),
        ..node(2)
    };
    let wanted = Case::new([greedy, node(3)]).held("n2", key(2), &[]).held("n3", key(3), &[]).wanted();
    assert_eq!(wanted.peers.keys().cloned().collect::<Vec<_>>(), [name("n3")]);

    let own = NodeWords { key: key(1).to_string(), ..node(2) };
    let wanted = Case::new([own]).wanted();
    assert!(problems(&wanted).ends_with("it is this node's own"));
    assert_eq!(wanted.peers.len(), 0);
}

#[test]
fn who_came_first_keeps_a_prefix() {
    let mut thief = node(3);
    thief.pod_cidrs.insert("10.1.2.0/24".parse().unwrap());
    let has =
        |wanted: &Wanted, node: &str| wanted.peers[&name(node)].prefixes.contains(&"10.1.2.0/24".parse().unwrap());
    let first = Case::new([node(2), thief.clone()]).wanted();
    assert!(has(&first, "n2") && !has(&first, "n3"));
    assert_eq!(problems(&first), "east/n3: 10.1.2.0/24 is node east/n2's; one of the two is wrong");
    let held = Case::new([node(2), thief]).held("n3", key(3), &["10.1.2.0/24"]).wanted();
    assert!(!has(&held, "n2") && has(&held, "n3"));
}

#[test]
fn nobody_takes_from_this_node() {
    let mut thief = node(2);
    thief.pod_cidrs.extend(["10.1.1.128/25".parse::<IpNet>().unwrap(), "10.0.0.0/8".parse().unwrap()]);
    thief.addresses.insert("10.0.0.1".parse().unwrap());
    let wanted = Case::new([thief]).wanted();
    let prefixes: Vec<String> = wanted.peers[&name("n2")].prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["10.0.0.0/8", "10.0.0.2/32", "10.1.2.0/24", "fd00:1:2::/64", "fd00:10::2/128"]);
    assert_eq!(
        problems(&wanted),
        "east/n2: pod CIDR 10.1.1.128/25 lies in this node's own pod CIDR 10.1.1.0/24; one of the two is wrong\n\
         east/n2: address 10.0.0.1 is this node's own 10.0.0.1; one of the two is wrong"
    );
    assert!(!guard(&wanted).iter().any(|row| row.ends_with("plain")), "an exception for this node would open its pods");
}

#[test]
fn a_cluster_that_is_off_has_no_rows_but_within_a_guarded_range() {
    let mut case = Case::new([node(2), remote("west", 3), remote("south", 4)]);
    case.policy.modes = Modes::parse(Mode::Required, "west=off, *=required").unwrap();
    let wanted = case.wanted();
    assert_eq!(wanted.standing[&PeerName::new("west", "n3")], Standing::Off);
    assert_eq!(wanted.peers.len(), 2);
    assert!(!guard(&wanted).iter().any(|row| row.contains(".3.0/24") || row.contains("0.0.3/")));
    case.policy.guarded = vec!["10.1.0.0/16".parse().unwrap()];
    let rows = guard(&case.wanted());
    assert!(rows.contains(&"10.1.0.0/16 pods".to_owned()) && rows.contains(&"10.1.3.0/24 plain".to_owned()));
    assert!(!rows.iter().any(|row| row.starts_with("10.0.0.3/32") || row.starts_with("fd00:1:3")));
}

#[test]
fn only_between_clusters() {
    let mut case = Case::new([node(2), remote("west", 3)]);
    case.policy.modes = Modes::parse(Mode::Off, "").unwrap();
    let wanted = case.wanted();
    assert_eq!(wanted.peers.keys().cloned().collect::<Vec<_>>(), [PeerName::new("west", "n3")]);
    assert_eq!(wanted.standing[&name("n2")], Standing::Off);
}

#[test]
fn api_servers_are_reached_before_there_is_a_tunnel() {
    let mut case = Case::new([node(2), node(3)]);
    case.policy.encrypt_node = true;
    case.api = ["10.0.0.2".parse().unwrap()].into();
    let wanted = case.wanted();
    let exempt = wanted.exempt(&BTreeSet::new());
    assert_eq!(exempt, BTreeSet::from([name("n2")]));
    let class = |exempt, prefix: &str| wanted.guard(exempt)[&prefix.parse().unwrap()];
    assert_eq!(class(&exempt, "10.0.0.2/32"), EncryptEntry::RemoteNode { hosts_too: false });
    assert_eq!(class(&exempt, "10.0.0.3/32"), EncryptEntry::RemoteNode { hosts_too: true });
    assert!(!wanted.nodes(&exempt).contains(&"10.0.0.2/32".parse().unwrap()));
    let none = wanted.exempt(&[name("n2")].into());
    assert_eq!((none.len(), class(&none, "10.0.0.2/32")), (0, EncryptEntry::RemoteNode { hosts_too: true }));
    assert_eq!(wanted.nodes(&none).len(), 4);

    // The API server's own node answers everybody.
    case.api = ["10.0.0.1".parse().unwrap()].into();
    assert_eq!(case.wanted().exempt(&BTreeSet::new()).len(), 2);
    case.policy.encrypt_node = false;
    assert_eq!(case.wanted().exempt(&BTreeSet::new()).len(), 0);
}

#[test]
fn modes_are_words() {
    let modes = Modes::parse(Mode::Off, "west=off,*=off, south=required").unwrap();
    assert_eq!((modes.own, modes.others), (Mode::Off, Mode::Off));
    assert_eq!(modes.named.len(), 2);
    for text in ["west", "west=maybe", "=", "west=required;x=off"] {
        assert_eq!(Modes::parse(Mode::Off, text), None, "{text}");
    }
}

#[test]
fn all_keys_of_an_announcement_count() {
    let both = format!(r#"[{{"epoch":4,"key":"{}"}},{{"epoch":5,"key":"{}"}}]"#, key(2), key(9));
    let wanted = Case::new([NodeWords { keys: both, ..node(2) }]).wanted();
    let peer = &wanted.peers[&name("n2")];
    assert_eq!(peer.keys.keys, [EpochKey { epoch: 4, key: key(2) }, EpochKey { epoch: 5, key: key(9) }]);
}
