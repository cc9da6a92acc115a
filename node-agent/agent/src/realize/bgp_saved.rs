//! The last complete BGP plan on disk. An agent that starts while the API server is away announces what it announced
//! before, until it knows better: the datapath has gone on serving it, and graceful restart ends after minutes.
//!
//! Passwords are not written: a peer with one waits for the API server.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use causeway_bgp_speaker::{InstanceConfig, PeerConfig, RouteAttrs, RouteSet};
use causeway_bgp_wire::{Asn, Community, Family, LargeCommunity, Prefix};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::control::bgp::Plan;

/// Changes within this time become one write. Shorter than the drain of a frontend: what is unprogrammed must not stand
/// in the file.
const COALESCE: Duration = Duration::from_millis(200);

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    instances: Vec<Instance>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Instance {
    name: String,
    local_asn: u32,
    router_id: Ipv4Addr,
    local_port: Option<u16>,
    peers: Vec<Peer>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Peer {
    name: String,
    address: IpAddr,
    zone: Option<String>,
    port: u16,
    asn: Option<u32>,
    local_address: Option<IpAddr>,
    connect_retry_s: u32,
    hold_time_s: u16,
    keepalive_s: u16,
    ebgp_multihop: Option<u8>,
    graceful_restart_s: Option<u16>,
    families: Vec<String>,
    routes: Vec<Route>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Route {
    prefix: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    communities: Vec<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    large: Vec<(u32, u32, u32)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    local_pref: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    med: Option<u32>,
}

pub(crate) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("bgp-plan.json")
}

/// Writes each complete plan, for ever. Waiting is cancel-safe.
pub(crate) async fn keep(file: PathBuf, mut plan: watch::Receiver<Arc<Plan>>) {
    while plan.changed().await.is_ok() {
        tokio::time::sleep(COALESCE).await;
        let newest = plan.borrow_and_update().clone();
        if !newest.complete {
            continue;
        }
        if let Err(error) = save(&file, &newest) {
            tracing::warn!(%error, file = %file.display(), "a restart without API server will not announce");
        }
    }
}

/// Atomic: a crash leaves the old or the new plan.
fn save(file: &Path, plan: &Plan) -> io::Result<()> {
    let text = serde_json::to_vec(&encode(plan))?;
    let new = file.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, file)
}

/// The saved plan, if there is a good one.
pub(crate) fn load(file: &Path) -> Option<Plan> {
    let text = std::fs::read(file).ok()?;
    match serde_json::from_slice::<Saved>(&text) {
        Ok(saved) => decode(&saved),
        Err(error) => {
            tracing::warn!(%error, file = %file.display(), "the saved BGP plan is not understood and not used");
            None
        }
    }
}

fn encode(plan: &Plan) -> Saved {
    let instance = |i: &InstanceConfig| Instance {
        name: i.name.clone(),
        local_asn: i.local_asn.get(),
        router_id: i.router_id,
        local_port: i.local_port,
        peers: i.peers.iter().filter(|p| p.md5_password.is_none()).map(|p| peer(&i.name, p, plan)).collect(),
    };
    Saved { instances: plan.instances.values().map(instance).collect() }
}

fn peer(instance: &str, p: &PeerConfig, plan: &Plan) -> Peer {
    let routes = plan.routes.get(&(instance.to_owned(), p.name.clone()));
    Peer {
        name: p.name.clone(),
        address: p.address,
        zone: p.zone.clone(),
        port: p.port,
        asn: p.peer_asn.map(Asn::get),
        local_address: p.local_address,
        connect_retry_s: p.connect_retry_s,
        hold_time_s: p.hold_time_s,
        keepalive_s: p.keepalive_s,
        ebgp_multihop: p.ebgp_multihop,
        graceful_restart_s: p.graceful_restart_s,
        families: p.families.iter().map(ToString::to_string).collect(),
        routes: routes.into_iter().flat_map(|r| r.iter()).map(|(prefix, attrs)| route(*prefix, attrs)).collect(),
    }
}

fn route(prefix: Prefix, attrs: &RouteAttrs) -> Route {
    Route {
        prefix: prefix.to_string(),
        communities: attrs.communities.iter().map(|c| c.0).collect(),
        large: attrs.large_communities.iter().map(|l| (l.global, l.local1, l.local2)).collect(),
        local_pref: attrs.local_pref,
        med: attrs.med,
    }
}

/// `None`: something in it is not what it should be.
fn decode(saved: &Saved) -> Option<Plan> {
    let mut plan = Plan::default();
    for i in &saved.instances {
        let mut peers = Vec::new();
        for p in &i.peers {
            let families = p.families.iter().map(|f| f.parse::<Family>().ok()).collect::<Option<_>>()?;
            peers.push(PeerConfig {
                name: p.name.clone(),
                address: p.address,
                zone: p.zone.clone(),
                port: p.port,
                peer_asn: p.asn.and_then(Asn::new),
                local_address: p.local_address,
                connect_retry_s: p.connect_retry_s,
                hold_time_s: p.hold_time_s,
                keepalive_s: p.keepalive_s,
                ebgp_multihop: p.ebgp_multihop,
                md5_password: None,
                graceful_restart_s: p.graceful_restart_s,
                families,
            });
            let routes: RouteSet = p.routes.iter().map(attrs).collect::<Option<BTreeMap<_, _>>>()?;
            plan.routes.insert((i.name.clone(), p.name.clone()), Arc::new(routes));
        }
        let config = InstanceConfig {
            name: i.name.clone(),
            local_asn: Asn::new(i.local_asn)?,
            router_id: i.router_id,
            local_port: i.local_port,
            peers,
        };
        plan.instances.insert(i.name.clone(), config);
    }
    Some(plan)
}

fn attrs(r: &Route) -> Option<(Prefix, RouteAttrs)> {
    let large = r.large.iter().map(|(global, local1, local2)| LargeCommunity {
        global: *global,
        local1: *local1,
        local2: *local2,
    });
    let attrs = RouteAttrs {
        communities: r.communities.iter().map(|c| Community(*c)).collect(),
        large_communities: large.collect(),
        local_pref: r.local_pref,
        med: r.med,
    };
    Some((r.prefix.parse().ok()?, attrs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_bgp_speaker::Secret;

    fn plan() -> Plan {
        let mut peer = PeerConfig::new("tor1", "172.16.1.1".parse().unwrap());
        peer.peer_asn = Asn::new(65101);
        peer.graceful_restart_s = Some(120);
        let routes = RouteSet::from([
            ("10.1.1.0/24".parse().unwrap(), RouteAttrs::default()),
            (
                "2001:db8:2::1/128".parse().unwrap(),
                RouteAttrs {
                    communities: [Community::NO_EXPORT].into(),
                    large_communities: [LargeCommunity { global: 1, local1: 2, local2: 3 }].into(),
                    local_pref: Some(150),
                    med: None,
                },
            ),
        ]);
        let config = InstanceConfig {
            name: "rack".into(),
            local_asn: Asn::new(65010).unwrap(),
            router_id: Ipv4Addr::new(10, 0, 0, 11),
            local_port: None,
            peers: vec![peer],
        };
        Plan {
            instances: [("rack".to_owned(), config)].into(),
            routes: [(("rack".to_owned(), "tor1".to_owned()), Arc::new(routes))].into(),
            ..Plan::default()
        }
    }

    #[test]
    fn what_is_saved_comes_back() {
        let file = std::env::temp_dir().join(format!("causeway-plan-{}.json", std::process::id()));
        assert!(load(&file).is_none());
        save(&file, &plan()).unwrap();
        assert_eq!(load(&file), Some(plan()));
        std::fs::write(&file, "{}").unwrap();
        assert!(load(&file).is_none());
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn passwords_are_not_written() {
        let mut plan = plan();
        plan.instances.get_mut("rack").unwrap().peers[0].md5_password = Some(Secret::new("hunter2"));
        let text = serde_json::to_string(&encode(&plan)).unwrap();
        assert!(!text.contains("hunter2") && !text.contains("tor1"), "{text}");
    }
}
