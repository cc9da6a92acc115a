//! The configuration of a ToR that runs FRR: `zebra` and `bgpd`, one file each.
//!
//! The switch waits: it accepts any neighbour from its rack bridge that speaks the AS number of a cluster in the rack,
//! so a new node joins without a change here. Routes to the hosts' loopbacks are kernel routes that the lab installs,
//! not BGP. What it learns it installs with all next hops (`maximum-paths`).
//!
//! Over links ToRs speak eBGP with each other and also tell the loopbacks, so that every rack reaches every other one.
//! There they do without graceful restart: a cable that is cut must be seen as cut.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::plan::{LOOPBACKS, LinkEnd, Plan, TorPlan};

/// Next hops of one route; above the number of nodes in any topology that we draw.
pub const MAX_PATHS: u8 = 16;
/// Seconds that a peer's routes are kept while it restarts, unless it asks for less.
pub const STALE_PATH_S: u16 = 150;

/// Seconds between attempts to reach a ToR at the other end of a link.
pub const LINK_RETRY_S: u16 = 1;

/// The texts of the two files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub zebra: String,
    pub bgpd: String,
}

/// The configuration of `tor`; logs go to `<log_dir>/<tor>-{zebra,bgpd}.log`.
#[must_use]
pub fn config(plan: &Plan, tor: &TorPlan, log_dir: &Path) -> Config {
    let head = |daemon: &str| {
        let log = log_dir.join(format!("{}-{daemon}.log", tor.name));
        format!("hostname {}\nlog file {} informational\nlog timestamp precision 3\n", tor.name, log.display())
    };
    Config { zebra: head("zebra"), bgpd: head("bgpd") + &bgp(plan, tor) }
}

/// AS number -> the name of the first cluster that has it, for clusters with a node on this ToR.
fn neighbours<'a>(plan: &'a Plan, tor: &'a TorPlan) -> BTreeMap<u32, &'a str> {
    let mut found = BTreeMap::new();
    for cluster in &plan.clusters {
        let here = plan.nodes(&cluster.name).any(|node| node.cables.iter().any(|cable| cable.tor == tor.name));
        if here {
            found.entry(cluster.asn).or_insert(cluster.name.as_str());
        }
    }
    found
}

fn bgp(plan: &Plan, tor: &TorPlan) -> String {
    let neighbours = neighbours(plan, tor);
    // FRR tells dynamic neighbours of one range apart by nothing else, so clusters that share a rack share a group.
    let remote = match neighbours.iter().collect::<Vec<_>>().as_slice() {
        [(asn, _)] => asn.to_string(),
        _ => "external".into(),
    };
    let links: Vec<(&LinkEnd, u32)> =
        plan.links_of(&tor.name).filter_map(|(_, other)| Some((other, plan.tor(&other.tor)?.asn))).collect();
    // Before its use: a route map that comes later takes effect only after FRR's delay of 5 s.
    let mut text = if links.is_empty() { String::new() } else { loopbacks() };
    let _ = write!(
        text,
        "!\nrouter bgp {}\n bgp router-id {}\n no bgp default ipv4-unicast\n no bgp ebgp-requires-policy\n \
         bgp log-neighbor-changes\n bgp bestpath as-path multipath-relax\n \
         bgp graceful-restart stalepath-time {STALE_PATH_S}\n timers bgp 3 9\n bgp listen limit 200\n",
        tor.asn, tor.router_id
    );
    let families = [("V4", "ipv4", tor.rack.v4.trunc().to_string()), ("V6", "ipv6", tor.rack.v6.trunc().to_string())];
    for (group, _, range) in &families {
        let _ = write!(
            text,
            " neighbor NODES-{group} peer-group\n neighbor NODES-{group} remote-as {remote}\n \
             neighbor NODES-{group} advertisement-interval 0\n neighbor NODES-{group} graceful-restart-helper\n \
             bgp listen range {range} peer-group NODES-{group}\n"
        );
    }
    for (other, asn) in &links {
        for peer in [other.v4.addr().to_string(), other.v6.addr().to_string()] {
            let _ = write!(
                text,
                " neighbor {peer} remote-as {asn}\n neighbor {peer} description {}\n \
                 neighbor {peer} timers connect {LINK_RETRY_S}\n neighbor {peer} advertisement-interval 0\n \
                 neighbor {peer} graceful-restart-disable\n",
                other.tor
            );
        }
    }
    for (group, family, _) in &families {
        let _ = write!(
            text,
            " !\n address-family {family} unicast\n  maximum-paths {MAX_PATHS}\n  neighbor NODES-{group} activate\n"
        );
        if !links.is_empty() {
            let _ = writeln!(text, "  redistribute kernel route-map LOOPBACKS-{group}");
        }
        for (other, _) in &links {
            let peer = if *family == "ipv4" { other.v4.addr().to_string() } else { other.v6.addr().to_string() };
            let _ = writeln!(text, "  neighbor {peer} activate");
        }
        text.push_str(" exit-address-family\n");
    }
    text.push_str("exit\n");
    text
}

/// What of the kernel's routes is told over links.
fn loopbacks() -> String {
    let mut text = String::from("!\n");
    for (group, family, length, ranges) in
        [("V4", "ip", 32, LOOPBACKS.map(|pair| pair.0)), ("V6", "ipv6", 128, LOOPBACKS.map(|pair| pair.1))]
    {
        for (index, range) in ranges.iter().enumerate() {
            let number = 5 * (index + 1);
            let _ = writeln!(text, "{family} prefix-list LOOPBACKS-{group} seq {number} permit {range} ge {length}");
        }
        let _ = write!(
            text,
            "route-map LOOPBACKS-{group} permit 10\n match {family} address prefix-list LOOPBACKS-{group}\nexit\n"
        );
    }
    text
}
