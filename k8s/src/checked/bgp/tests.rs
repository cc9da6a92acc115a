//! Tables of good and bad BGP objects, as manifests.

use serde::de::DeserializeOwned;

use super::*;

fn object<K: DeserializeOwned>(kind: &str, spec: &str) -> K {
    let text =
        format!("apiVersion: cilium.io/v2\nkind: {kind}\nmetadata: {{name: rack, labels: {{a: b}}}}\nspec:\n{spec}");
    serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn cluster(spec: &str) -> Result<ClusterConfig, Rejected> {
    ClusterConfig::try_from(&object::<CiliumBGPClusterConfig>("CiliumBGPClusterConfig", spec))
}

fn peer_config(spec: &str) -> Result<PeerConfig, Rejected> {
    PeerConfig::try_from(&object::<CiliumBGPPeerConfig>("CiliumBGPPeerConfig", spec))
}

fn advertisement(spec: &str) -> Result<Advertisement, Rejected> {
    Advertisement::try_from(&object::<CiliumBGPAdvertisement>("CiliumBGPAdvertisement", spec))
}

#[test]
fn a_cluster_config_as_users_write_it() {
    let config = cluster(
        "
  nodeSelector: {matchLabels: {rack: r1}}
  bgpInstances:
  - name: rack
    localASN: 65010
    peers:
    - {name: tor1, peerAddress: 172.16.1.1, peerASN: 65101, peerConfigRef: {name: tor}}
    - {name: tor2, peerAddress: 'fd00:16:2::1'}
    - {name: gw, autoDiscovery: {mode: DefaultGateway, defaultGateway: {addressFamily: ipv4}}}
",
    )
    .unwrap();
    let peers = &config.instances[0].peers;
    assert_eq!(config.instances[0].local_port, None);
    assert_eq!(peers[0].asn.map(Asn::get), Some(65101));
    assert_eq!(peers[0].peer_config.as_deref(), Some("tor"));
    assert_eq!(peers[1].asn, None);
    assert_eq!(peers[2].target, PeerTarget::Discover(Discovery::DefaultGateway(Family::Ipv4Unicast)));
    assert!(!config.node_selector.matches(&BTreeMap::new()));
}

#[test]
fn a_bad_cluster_config_names_its_field() {
    let peer = |peer: &str| format!("  bgpInstances:\n  - name: i\n    peers:\n    - {peer}\n");
    let table = [
        ("  bgpInstances: []".to_owned(), "spec.bgpInstances"),
        ("  bgpInstances: [{name: ''}]".to_owned(), "spec.bgpInstances[0].name"),
        ("  bgpInstances: [{name: i}, {name: i}]".to_owned(), "spec.bgpInstances[1].name"),
        ("  bgpInstances: [{name: i, localASN: 0}]".to_owned(), "spec.bgpInstances[0].localASN"),
        ("  bgpInstances: [{name: i, localPort: 65536}]".to_owned(), "spec.bgpInstances[0].localPort"),
        (peer("{name: p}"), "spec.bgpInstances[0].peers[0].peerAddress"),
        (peer("{name: p, peerAddress: 10.0.0}"), "spec.bgpInstances[0].peers[0].peerAddress"),
        (peer("{name: p, peerAddress: 10.0.0.1, peerASN: -1}"), "spec.bgpInstances[0].peers[0].peerASN"),
        (peer("{name: p, autoDiscovery: {mode: Unnumbered}}"), "spec.bgpInstances[0].peers[0].autoDiscovery.mode"),
        (
            "  nodeSelector: {matchExpressions: [{key: a, operator: Maybe}]}\n  bgpInstances: [{name: i}]".to_owned(),
            "spec.nodeSelector.matchExpressions[0].operator",
        ),
    ];
    for (spec, field) in table {
        let rejected = cluster(&spec).unwrap_err();
        assert_eq!(rejected.field, field, "{spec}");
        assert_eq!((rejected.kind.as_str(), rejected.object.as_str()), ("CiliumBGPClusterConfig", "rack"));
        assert!(!rejected.remedy.is_empty() && !rejected.message.is_empty());
    }
}

#[test]
fn an_empty_peer_config_has_the_documented_defaults() {
    let config = peer_config("  {}").unwrap();
    assert_eq!(config, PeerConfig { name: "rack".to_owned(), ..PeerConfig::default() });
    assert!(config.families.iter().all(|family| !family.advertisements.matches(&BTreeMap::new())));
}

#[test]
fn a_full_peer_config() {
    let config = peer_config(
        "
  transport: {peerPort: 1179, sourceInterface: lo}
  timers: {connectRetryTimeSeconds: 5, holdTimeSeconds: 9, keepAliveTimeSeconds: 3}
  authSecretRef: md5
  gracefulRestart: {enabled: true}
  ebgpMultihop: 4
  families:
  - {afi: ipv4, safi: unicast, advertisements: {matchLabels: {advertise: bgp}}}
  - {afi: l2vpn, safi: evpn}
",
    )
    .unwrap();
    assert_eq!((config.port, config.hold_time_s, config.keepalive_s), (1179, 9, 3));
    assert_eq!((config.graceful_restart_s, config.ebgp_multihop, config.connect_retry_s), (Some(120), 4, 5));
    assert_eq!(config.families.len(), 1);
    assert_eq!(config.unsupported_families, ["l2vpn/evpn"]);
    assert!(config.families[0].advertisements.matches(&BTreeMap::from([("advertise".into(), "bgp".into())])));
}

#[test]
fn a_bad_peer_config_names_its_field() {
    let table = [
        ("  timers: {holdTimeSeconds: 2}", "spec.timers.holdTimeSeconds"),
        ("  timers: {holdTimeSeconds: 9, keepAliveTimeSeconds: 10}", "spec.timers.keepAliveTimeSeconds"),
        ("  transport: {peerPort: 0}", "spec.transport.peerPort"),
        ("  gracefulRestart: {enabled: true, restartTimeSeconds: 4096}", "spec.gracefulRestart.restartTimeSeconds"),
        ("  ebgpMultihop: 256", "spec.ebgpMultihop"),
        ("  families: [{afi: ipv4, safi: unicast}, {afi: ipv4, safi: unicast}]", "spec.families[1]"),
    ];
    for (spec, field) in table {
        assert_eq!(peer_config(spec).unwrap_err().field, field, "{spec}");
    }
}

#[test]
fn advertisements() {
    let advert = advertisement(
        "
  advertisements:
  - advertisementType: PodCIDR
    attributes: {communities: {standard: ['65000:99'], wellKnown: [no-export], large: ['1:2:3']}, localPreference: 200}
  - advertisementType: Service
    service: {addresses: [LoadBalancerIP], aggregationLengthIPv4: 24}
    selector: {matchExpressions: [{key: somekey, operator: NotIn, values: [never]}]}
",
    )
    .unwrap();
    assert_eq!(advert.entries[0].kind, AdvertisementKind::PodCidr);
    assert_eq!(advert.entries[0].communities, BTreeSet::from([65000 << 16 | 99, 0xffff_ff01]));
    assert_eq!(advert.entries[0].large_communities, BTreeSet::from([(1, 2, 3)]));
    assert_eq!(advert.entries[0].local_preference, Some(200));
    let AdvertisementKind::Service { selector, addresses, aggregation_length_ipv4, .. } = &advert.entries[1].kind
    else {
        panic!("{advert:?}")
    };
    assert!(selector.matches(&BTreeMap::new()));
    assert_eq!(addresses, &BTreeSet::from([ServiceAddressType::LoadBalancerIp]));
    assert_eq!(*aggregation_length_ipv4, Some(24));
}

#[test]
fn a_bad_advertisement_names_its_field() {
    let table = [
        ("{advertisementType: Pods}", "spec.advertisements[0].advertisementType"),
        ("{advertisementType: Service}", "spec.advertisements[0].service"),
        ("{advertisementType: PodCIDR, service: {addresses: [ClusterIP]}}", "spec.advertisements[0].service"),
        ("{advertisementType: PodCIDR, selector: {}}", "spec.advertisements[0].selector"),
        ("{advertisementType: Service, service: {addresses: [VIP]}}", "spec.advertisements[0].service.addresses[0]"),
        ("{advertisementType: Service, service: {addresses: []}}", "spec.advertisements[0].service.addresses"),
        (
            "{advertisementType: PodCIDR, attributes: {communities: {wellKnown: [no]}}}",
            "spec.advertisements[0].attributes.communities.wellKnown[0]",
        ),
        (
            "{advertisementType: PodCIDR, attributes: {communities: {standard: ['65536:1']}}}",
            "spec.advertisements[0].attributes.communities.standard[0]",
        ),
        ("{advertisementType: Interface}", "spec.advertisements[0].interface"),
    ];
    for (entry, field) in table {
        assert_eq!(advertisement(&format!("  advertisements:\n  - {entry}")).unwrap_err().field, field, "{entry}");
    }
}

#[test]
fn a_node_config_and_its_override() {
    let config = NodeConfig::try_from(&object::<CiliumBGPNodeConfig>(
        "CiliumBGPNodeConfig",
        "  bgpInstances:\n  - {name: i, localASN: 65010, routerID: 10.0.0.11, peers: [{name: p, peerAddress: 'fe80::1%eth0', localAddress: 10.0.0.11}]}",
    ))
    .unwrap();
    assert_eq!(config.instances[0].router_id, Some(Ipv4Addr::new(10, 0, 0, 11)));
    let PeerTarget::Address(address) = &config.instances[0].peers[0].target else { panic!("{config:?}") };
    assert_eq!(address.zone.as_deref(), Some("eth0"));
    let change = NodeOverride::try_from(&object::<CiliumBGPNodeConfigOverride>(
        "CiliumBGPNodeConfigOverride",
        "  bgpInstances:\n  - {name: i, routerID: 10.9.9.9, localPort: 179, peers: [{name: p, localAddress: 'fd00::9'}, {name: q}]}",
    ))
    .unwrap();
    assert_eq!(change.instances["i"].local_port, Some(179));
    assert_eq!(change.instances["i"].local_addresses.len(), 1);
    let bad = NodeOverride::try_from(&object::<CiliumBGPNodeConfigOverride>(
        "CiliumBGPNodeConfigOverride",
        "  bgpInstances:\n  - {name: i, routerID: 0.0.0.0}",
    ));
    assert_eq!(bad.unwrap_err().field, "spec.bgpInstances[0].routerID");
}
