//! Against FRR bgpd: sessions, routes, attributes, refresh, MD5, shutdown.
use std::collections::BTreeSet;
use std::path::PathBuf;

use causeway_bgp_speaker::{Family, RouteAttrs, Secret, SessionState, StartOptions};
use serde_json::Value;

use crate::net::{Daemon, Net, OUR_V4, OUR_V6, PEER_V4, PEER_V6, eventually, output};
use crate::ours::{
    INSTANCE, OUR_ASN, PEER_ASN, advertised, asn, instance, peer, received, routes, speaker, tell, until,
    until_established,
};

const BGPD: &str = "/usr/lib/frr/bgpd";

/// A running bgpd without zebra.
pub(crate) struct Frr {
    _daemon: Daemon,
    socket: PathBuf,
}

impl Frr {
    /// `neighbor` and `families` are lines inside `router bgp` for the neighbours [`OUR_V4`] and [`OUR_V6`].
    pub(crate) fn start(net: &Net, neighbor: &str) -> Self {
        let mut config = format!(
            "router bgp {PEER_ASN}\n bgp router-id {PEER_V4}\n no bgp default ipv4-unicast\n no bgp ebgp-requires-policy\n bgp graceful-restart stalepath-time 60\n"
        );
        for address in [OUR_V4, OUR_V6] {
            config += &format!(
                " neighbor {address} remote-as {OUR_ASN}\n neighbor {address} timers 3 9\n neighbor {address} ebgp-multihop 5\n"
            );
            config += &neighbor.replace("PEER", address);
        }
        for family in ["ipv4", "ipv6"] {
            config += &format!(" address-family {family} unicast\n");
            for address in [OUR_V4, OUR_V6] {
                config +=
                    &format!("  neighbor {address} activate\n  neighbor {address} soft-reconfiguration inbound\n");
            }
            config += if family == "ipv4" { "  network 203.0.113.0/24\n" } else { "  network 2001:db8:ffff::/48\n" };
            config += " exit-address-family\n";
        }
        let config = net.file("bgpd.conf", &format!("{config}exit\n"));
        let socket = net.folder.path().join("vty");
        std::fs::create_dir_all(&socket).expect("a folder for the vty");
        let pid = net.folder.path().join("bgpd.pid");
        let arguments = [
            "-n",
            "-Z",
            "-S",
            "-P",
            "0",
            "-f",
            config.to_str().expect("UTF-8"),
            "-i",
            pid.to_str().expect("UTF-8"),
            "--vty_socket",
            socket.to_str().expect("UTF-8"),
            "--log",
            "stdout",
            "--log-level",
            "debugging",
        ];
        let daemon = net.daemon("frr", BGPD, &arguments);
        Self { _daemon: daemon, socket }
    }

    pub(crate) fn command(&self, command: &str) -> Result<String, String> {
        let socket = self.socket.to_str().expect("UTF-8");
        let output = output("vtysh", &["--vty_socket", socket, "-d", "bgpd", "-c", command]);
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!("vtysh -c {command:?}: {}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    pub(crate) fn json(&self, command: &str) -> Result<Value, String> {
        let text = self.command(command)?;
        serde_json::from_str(&text).map_err(|error| format!("{command}: {error}: {text}"))
    }

    /// The prefixes that it has from us.
    pub(crate) fn prefixes(&self, family: &str) -> Result<BTreeSet<String>, String> {
        let table = self.json(&format!("show bgp {family} unicast json"))?;
        let our_path = OUR_ASN.to_string();
        let is_ours = |path: &Value| path["path"].as_str() == Some(&our_path);
        let ours = |paths: &Value| paths.as_array().is_some_and(|paths| paths.iter().any(is_ours));
        let routes = table["routes"].as_object().cloned().unwrap_or_default();
        Ok(routes.into_iter().filter(|(_, paths)| ours(paths)).map(|(prefix, _)| prefix).collect())
    }

    pub(crate) async fn until_has(&self, family: &str, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|prefix| (*prefix).to_owned()).collect();
        eventually(&format!("{family} {expected:?} at FRR"), || match self.prefixes(family)? {
            found if found == expected => Ok(()),
            found => Err(format!("it has {found:?}")),
        })
        .await;
    }

    pub(crate) fn route(&self, family: &str, prefix: &str) -> Result<Value, String> {
        let found = self.json(&format!("show bgp {family} unicast {prefix} json"))?;
        found["paths"].get(0).cloned().ok_or_else(|| format!("FRR has no {prefix}"))
    }
}

#[tokio::test]
#[ignore = "needs FRR, BIRD, GoBGP; run by make e2e TOPIC=bgp"]
async fn prefixes_of_both_families_come_and_go() {
    let net = Net::enter();
    let frr = Frr::start(&net, "");
    let speaker = speaker(StartOptions::default(), instance(vec![peer("tor", PEER_V4)]));
    let mut told = routes(&["192.0.2.1/32", "192.0.2.2/32", "10.1.1.0/24", "2001:db8::1/128", "fd00:1:1::/64"]);
    tell(&speaker, "tor", &told);
    speaker.routes_complete(INSTANCE);
    let status = until_established(&speaker, "tor").await;
    let agreed = status.negotiated.expect("an established session has agreed on something");
    assert_eq!((agreed.peer_asn, agreed.hold_time.as_secs(), agreed.keepalive.as_secs()), (asn(PEER_ASN), 9, 3));
    frr.until_has("ipv4", &["192.0.2.1/32", "192.0.2.2/32", "10.1.1.0/24"]).await;
    frr.until_has("ipv6", &["2001:db8::1/128", "fd00:1:1::/64"]).await;

    told.remove(&"192.0.2.2/32".parse().unwrap());
    told.remove(&"2001:db8::1/128".parse().unwrap());
    tell(&speaker, "tor", &told);
    frr.until_has("ipv4", &["192.0.2.1/32", "10.1.1.0/24"]).await;
    frr.until_has("ipv6", &["fd00:1:1::/64"]).await;
    let status = until(&speaker, "tor", "counts", |status| {
        advertised(status, Family::IPV4_UNICAST) == 2 && received(status, Family::IPV4_UNICAST) > 0
    })
    .await;
    assert_eq!(advertised(&status, Family::IPV6_UNICAST), 1);
    assert!(received(&status, Family::IPV6_UNICAST) > 0);
    assert_eq!((status.counters.announcements_out, status.counters.withdrawals_out), (5, 2));
    assert!(status.families.iter().all(|family| family.end_of_rib_sent), "{status:#?}");
    speaker.shutdown(false).await;
    frr.until_has("ipv4", &[]).await;
    let neighbor = frr.json(&format!("show bgp neighbors {OUR_V4} json")).unwrap();
    assert_eq!(neighbor[OUR_V4]["lastNotificationReason"], "Cease/Administrative Shutdown", "{neighbor:#}");
}

#[tokio::test]
#[ignore = "needs FRR, BIRD, GoBGP; run by make e2e TOPIC=bgp"]
async fn a_session_over_ipv6_carries_both_families() {
    let net = Net::enter();
    let frr = Frr::start(&net, "");
    let speaker = speaker(StartOptions::default(), instance(vec![peer("tor", PEER_V6)]));
    tell(&speaker, "tor", &routes(&["192.0.2.1/32", "2001:db8::1/128"]));
    speaker.routes_complete(INSTANCE);
    frr.until_has("ipv6", &["2001:db8::1/128"]).await;
    frr.until_has("ipv4", &["192.0.2.1/32"]).await;
    let v6 = frr.route("ipv6", "2001:db8::1/128").unwrap();
    assert_eq!(v6["nexthops"][0]["ip"], OUR_V6, "{v6:#}");
    let v4 = frr.route("ipv4", "192.0.2.1/32").unwrap();
    assert_eq!(v4["nexthops"][0]["ip"], OUR_V4, "{v4:#}");
    speaker.shutdown(false).await;
}

#[tokio::test]
#[ignore = "needs FRR, BIRD, GoBGP; run by make e2e TOPIC=bgp"]
async fn attributes_arrive_and_a_refresh_sends_them_again() {
    let net = Net::enter();
    let frr = Frr::start(&net, "");
    let speaker = speaker(StartOptions::default(), instance(vec![peer("tor", PEER_V4)]));
    let attrs = RouteAttrs {
        communities: ["65010:100".parse().unwrap(), "65535:0".parse().unwrap()].into(),
        large_communities: ["65010:1:2".parse().unwrap()].into(),
        local_pref: Some(200),
        med: Some(50),
    };
    let told = [("192.0.2.1/32".parse().unwrap(), attrs)].into();
    tell(&speaker, "tor", &told);
    speaker.routes_complete(INSTANCE);
    frr.until_has("ipv4", &["192.0.2.1/32"]).await;
    let route = frr.route("ipv4", "192.0.2.1/32").unwrap();
    assert_eq!(route["community"]["string"], "65010:100 graceful-shutdown", "{route:#}");
    assert_eq!(route["largeCommunity"]["string"], "65010:1:2", "{route:#}");
    assert_eq!(route["metric"], 50, "{route:#}");
    assert_eq!(route["origin"], "IGP", "{route:#}");
    assert_eq!(route["aspath"]["string"], OUR_ASN.to_string(), "{route:#}");

    let before = until_established(&speaker, "tor").await.counters;
    // `soft in` would be answered from FRR's own copy, as soft-reconfiguration is on for the test of received routes.
    for family in ["ipv4", "ipv6"] {
        frr.command(&format!("conf\nrouter bgp {PEER_ASN}\naddress-family {family} unicast\nno neighbor {OUR_V4} soft-reconfiguration inbound")).unwrap();
    }
    frr.command(&format!("clear bgp ipv4 unicast {OUR_V4} soft in")).unwrap();
    let after = until(&speaker, "tor", "a refresh", |status| status.counters.refreshes_in > before.refreshes_in).await;
    until(&speaker, "tor", "routes sent again", |status| status.counters.announcements_out > before.announcements_out)
        .await;
    assert_eq!(after.counters.withdrawals_out, 0);
    frr.until_has("ipv4", &["192.0.2.1/32"]).await;
    speaker.shutdown(false).await;
}

#[tokio::test]
#[ignore = "needs FRR, BIRD, GoBGP; run by make e2e TOPIC=bgp"]
async fn md5_is_needed_where_it_is_asked_for() {
    let net = Net::enter();
    let frr = Frr::start(&net, " neighbor PEER password causeway\n");
    let with = |md5_password| vec![causeway_bgp_speaker::PeerConfig { md5_password, ..peer("tor", PEER_V4) }];
    let speaker = speaker(StartOptions::default(), instance(with(Some(Secret::missing()))));
    tell(&speaker, "tor", &routes(&["192.0.2.1/32"]));
    speaker.routes_complete(INSTANCE);
    let status = until(&speaker, "tor", "a reason", |status| status.reason.is_some()).await;
    assert_eq!(status.state, SessionState::Idle);
    assert!(status.reason.is_some_and(|reason| reason.contains("MD5 password is missing")));

    speaker.set_instance(instance(with(Some(Secret::new("wrong")))));
    let status = until(&speaker, "tor", "an attempt", |status| status.state == SessionState::Active).await;
    assert_eq!(status.counters.opens_in, 0);

    speaker.set_instance(instance(with(Some(Secret::new("causeway")))));
    until_established(&speaker, "tor").await;
    frr.until_has("ipv4", &["192.0.2.1/32"]).await;

    // FRR connects too, and our listening socket asks for the signature as well.
    let listening =
        causeway_bgp_speaker::InstanceConfig { local_port: Some(179), ..instance(with(Some(Secret::new("causeway")))) };
    speaker.set_instance(listening);
    let status = until_established(&speaker, "tor").await;
    assert_eq!(status.flaps, 0, "opening a port must not end a session");
    speaker.shutdown(false).await;
}

#[tokio::test]
#[ignore = "needs FRR, BIRD, GoBGP; run by make e2e TOPIC=bgp"]
async fn only_the_peer_that_changed_is_reset() {
    let net = Net::enter();
    let frr = Frr::start(&net, "");
    let peers = |hold_time_s| {
        vec![peer("v4", PEER_V4), causeway_bgp_speaker::PeerConfig { hold_time_s, ..peer("v6", PEER_V6) }]
    };
    let speaker = speaker(StartOptions::default(), instance(peers(9)));
    until_established(&speaker, "v4").await;
    until_established(&speaker, "v6").await;
    speaker.set_instance(instance(peers(12)));
    let status =
        until(&speaker, "v6", "a new session", |status| status.state == SessionState::Established && status.flaps == 1)
            .await;
    let said = status.last_sent.expect("a reason for the reset");
    assert_eq!((said.code, said.subcode), (6, 6), "{}", said.text);
    assert_eq!(until_established(&speaker, "v4").await.flaps, 0);
    // A peer that is removed is told so, for good.
    speaker.set_instance(instance(vec![peer("v4", PEER_V4)]));
    eventually("the removed peer's word", || {
        let neighbor = frr.json(&format!("show bgp neighbors {OUR_V6} json"))?;
        let reason = neighbor[OUR_V6]["lastNotificationReason"].clone();
        if reason == "Cease/Peer De-configured" { Ok(()) } else { Err(reason.to_string()) }
    })
    .await;
    speaker.shutdown(false).await;
}
