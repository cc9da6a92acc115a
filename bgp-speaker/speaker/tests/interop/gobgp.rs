//! Against GoBGP: both families, withdrawals, a session that GoBGP opens to us.
use std::collections::BTreeSet;

use causeway_bgp_speaker::{InstanceConfig, StartOptions};

use crate::net::{Daemon, Net, OUR_V4, PEER_V4, eventually};
use crate::ours::{INSTANCE, OUR_ASN, PEER_ASN, instance, peer, routes, speaker, tell, until_established};

const GOBGPD: &str = "/usr/bin/gobgpd";

struct GoBgp<'a> {
    net: &'a Net,
    _daemon: Daemon,
}

impl<'a> GoBgp<'a> {
    fn start(net: &'a Net, passive: bool) -> Self {
        let config = net.file(
            "gobgpd.toml",
            &format!(
                "[global.config]\nas = {PEER_ASN}\nrouter-id = \"{PEER_V4}\"\n\
                 [[neighbors]]\n[neighbors.config]\nneighbor-address = \"{OUR_V4}\"\npeer-as = {OUR_ASN}\n\
                 [neighbors.transport.config]\npassive-mode = {passive}\n\
                 [neighbors.timers.config]\nconnect-retry = 1\nhold-time = 9\nkeepalive-interval = 3\n\
                 [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"ipv4-unicast\"\n\
                 [[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"ipv6-unicast\"\n"
            ),
        );
        let config = config.to_str().expect("UTF-8");
        let daemon = net.daemon("gobgpd", GOBGPD, &["-f", config, "--api-hosts", "127.0.0.1:50051", "--pprof-disable"]);
        Self { net, _daemon: daemon }
    }

    fn prefixes(&self, family: &str) -> Result<BTreeSet<String>, String> {
        let output = self.net.at_peer(&["gobgp", "global", "rib", "-a", family, "-j"]);
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let table: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        Ok(table.as_object().map(|routes| routes.keys().cloned().collect()).unwrap_or_default())
    }

    async fn until_has(&self, family: &str, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|prefix| (*prefix).to_owned()).collect();
        eventually(&format!("{family} {expected:?} at GoBGP"), || match self.prefixes(family)? {
            found if found == expected => Ok(()),
            found => Err(format!("it has {found:?}")),
        })
        .await;
    }
}

#[tokio::test]
#[ignore = "needs FRR, BIRD, GoBGP; run by make e2e TOPIC=bgp"]
async fn gobgp_gets_routes_and_withdrawals() {
    let net = Net::enter();
    let gobgp = GoBgp::start(&net, true);
    let speaker = speaker(StartOptions::default(), instance(vec![peer("tor", PEER_V4)]));
    let mut told = routes(&["192.0.2.1/32", "10.1.1.0/24", "2001:db8::1/128"]);
    tell(&speaker, "tor", &told);
    speaker.routes_complete(INSTANCE);
    gobgp.until_has("ipv4", &["192.0.2.1/32", "10.1.1.0/24"]).await;
    gobgp.until_has("ipv6", &["2001:db8::1/128"]).await;
    told.remove(&"10.1.1.0/24".parse().unwrap());
    tell(&speaker, "tor", &told);
    gobgp.until_has("ipv4", &["192.0.2.1/32"]).await;
    speaker.shutdown(false).await;
    gobgp.until_has("ipv4", &[]).await;
}

#[tokio::test]
#[ignore = "needs FRR, BIRD, GoBGP; run by make e2e TOPIC=bgp"]
async fn gobgp_may_connect_to_us() {
    let net = Net::enter();
    let gobgp = GoBgp::start(&net, false);
    let config = InstanceConfig { local_port: Some(179), ..instance(vec![peer("tor", PEER_V4)]) };
    let speaker = speaker(StartOptions::default(), config);
    tell(&speaker, "tor", &routes(&["192.0.2.1/32"]));
    speaker.routes_complete(INSTANCE);
    gobgp.until_has("ipv4", &["192.0.2.1/32"]).await;
    assert_eq!(until_established(&speaker, "tor").await.flaps, 0);
    speaker.shutdown(false).await;
}
