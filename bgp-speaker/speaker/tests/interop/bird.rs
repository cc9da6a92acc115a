//! Against BIRD 2: both families over one session, attributes, and a session that BIRD opens to us.
use std::collections::BTreeSet;
use std::path::PathBuf;

use causeway_bgp_speaker::{InstanceConfig, RouteAttrs, StartOptions};

use crate::net::{Daemon, Net, OUR_LINK, OUR_V4, PEER_LINK_LOCAL, PEER_V4, eventually, output};
use crate::ours::{INSTANCE, OUR_ASN, PEER_ASN, instance, peer, routes, speaker, tell, until, until_established};

const BIRD: &str = "/usr/sbin/bird";

struct Bird {
    _daemon: Daemon,
    socket: PathBuf,
}

impl Bird {
    fn start(net: &Net, protocol: &str) -> Self {
        let channel = "import all; export all; next hop self;";
        let config = net.file(
            "bird.conf",
            &format!(
                "log stderr all;\nrouter id {PEER_V4};\nprotocol device {{}}\n\
                 protocol static {{ ipv4; route 203.0.113.0/24 blackhole; }}\n\
                 protocol static {{ ipv6; route 2001:db8:ffff::/48 blackhole; }}\n\
                 protocol bgp node {{ local as {PEER_ASN}; {protocol} connect retry time 1; connect delay time 1;\n\
                 error wait time 1, 2; hold time 9; ipv4 {{ {channel} extended next hop on; }}; ipv6 {{ {channel} }}; }}\n"
            ),
        );
        let socket = net.folder.path().join("bird.ctl");
        let pid = net.folder.path().join("bird.pid");
        let paths = [&config, &socket, &pid].map(|path| path.to_str().expect("UTF-8"));
        let daemon = net.daemon("bird2", BIRD, &["-f", "-c", paths[0], "-s", paths[1], "-P", paths[2]]);
        Self { _daemon: daemon, socket }
    }

    fn command(&self, command: &str) -> Result<String, String> {
        let output = output("birdc", &["-s", self.socket.to_str().expect("UTF-8"), command]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(text) } else { Err(text) }
    }

    /// The prefixes in `table` that it has from us.
    fn prefixes(&self, table: &str) -> Result<BTreeSet<String>, String> {
        let text = self.command(&format!("show route protocol node table {table}"))?;
        let prefixes = text.lines().filter_map(|line| line.split_whitespace().next());
        Ok(prefixes.filter(|word| word.contains('/')).map(str::to_owned).collect())
    }

    async fn until_has(&self, table: &str, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|prefix| (*prefix).to_owned()).collect();
        eventually(&format!("{expected:?} in BIRD's {table}"), || match self.prefixes(table)? {
            found if found == expected => Ok(()),
            found => Err(format!("it has {found:?}")),
        })
        .await;
    }
}

#[tokio::test]
#[ignore = "needs FRR, BIRD, GoBGP; run by make e2e TOPIC=bgp"]
async fn bird_gets_routes_attributes_and_withdrawals() {
    let net = Net::enter();
    let bird = Bird::start(&net, &format!("neighbor {OUR_V4} as {OUR_ASN};"));
    let speaker = speaker(StartOptions::default(), instance(vec![peer("tor", PEER_V4)]));
    let mut told = routes(&["192.0.2.1/32", "10.1.1.0/24", "2001:db8::1/128"]);
    let marked = RouteAttrs {
        communities: ["65010:100".parse().unwrap()].into(),
        large_communities: ["65010:1:2".parse().unwrap()].into(),
        local_pref: None,
        med: Some(7),
    };
    told.insert("192.0.2.1/32".parse().unwrap(), marked);
    tell(&speaker, "tor", &told);
    speaker.routes_complete(INSTANCE);
    bird.until_has("master4", &["192.0.2.1/32", "10.1.1.0/24"]).await;
    bird.until_has("master6", &["2001:db8::1/128"]).await;
    let route = bird.command("show route 192.0.2.1/32 all").unwrap();
    for line in ["BGP.community: (65010,100)", "BGP.large_community: (65010, 1, 2)", "BGP.med: 7", "BGP.as_path: 65010"]
    {
        assert!(route.contains(line), "no {line:?} in {route}");
    }
    told.remove(&"10.1.1.0/24".parse().unwrap());
    tell(&speaker, "tor", &told);
    bird.until_has("master4", &["192.0.2.1/32"]).await;
    // BIRD asks for everything again.
    let before = until_established(&speaker, "tor").await.counters;
    bird.command("reload in node").unwrap();
    until(&speaker, "tor", "an answered refresh", |status| {
        status.counters.refreshes_in == before.refreshes_in + 2
            && status.counters.announcements_out == before.announcements_out + 2
    })
    .await;
    bird.until_has("master4", &["192.0.2.1/32"]).await;
    speaker.shutdown(false).await;
    bird.until_has("master4", &[]).await;
}

#[tokio::test]
#[ignore = "needs FRR, BIRD, GoBGP; run by make e2e TOPIC=bgp"]
async fn both_sides_may_connect_and_one_session_remains() {
    let net = Net::enter();
    let bird = Bird::start(&net, &format!("neighbor {OUR_V4} as {OUR_ASN};"));
    let config = InstanceConfig { local_port: Some(179), ..instance(vec![peer("tor", PEER_V4)]) };
    let speaker = speaker(StartOptions::default(), config);
    tell(&speaker, "tor", &routes(&["192.0.2.1/32"]));
    speaker.routes_complete(INSTANCE);
    bird.until_has("master4", &["192.0.2.1/32"]).await;
    let status = until_established(&speaker, "tor").await;
    assert_eq!(status.flaps, 0);
    speaker.shutdown(false).await;
}

#[tokio::test]
#[ignore = "needs FRR, BIRD, GoBGP; run by make e2e TOPIC=bgp"]
async fn a_link_local_session_sends_ipv4_with_an_ipv6_next_hop() {
    let net = Net::enter();
    let bird = Bird::start(&net, &format!("neighbor fe80::1%theirs as {OUR_ASN};"));
    // Without an IPv4 address there is no IPv4 next hop: RFC 8950 is what is left.
    crate::net::run("ip", &["address", "del", &format!("{OUR_V4}/24"), "dev", OUR_LINK]);
    let neighbor = causeway_bgp_speaker::PeerConfig {
        zone: Some(OUR_LINK.to_owned()),
        peer_asn: None,
        ..peer("tor", PEER_LINK_LOCAL)
    };
    let speaker = speaker(StartOptions::default(), instance(vec![neighbor]));
    tell(&speaker, "tor", &routes(&["192.0.2.1/32", "2001:db8::1/128"]));
    speaker.routes_complete(INSTANCE);
    bird.until_has("master6", &["2001:db8::1/128"]).await;
    bird.until_has("master4", &["192.0.2.1/32"]).await;
    speaker.shutdown(false).await;
}
