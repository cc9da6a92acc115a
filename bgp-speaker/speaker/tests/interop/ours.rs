//! Our side: a speaker with one instance and what is asked of its status.
use std::sync::Arc;

use causeway_bgp_speaker::{
    Asn, Family, InstanceConfig, PeerConfig, PeerStatus, Prefix, RouteAttrs, RouteSet, SessionState, Speaker,
    SpeakerStatus, StartOptions,
};

use crate::net::PATIENCE;

pub(crate) const INSTANCE: &str = "rack";
pub(crate) const OUR_ASN: u32 = 65010;
pub(crate) const PEER_ASN: u32 = 65101;

pub(crate) fn asn(number: u32) -> Asn {
    Asn::new(number).expect("not 0")
}

/// A peer with short timers, so that a lost session is tried again soon.
pub(crate) fn peer(name: &str, address: &str) -> PeerConfig {
    PeerConfig {
        peer_asn: Some(asn(PEER_ASN)),
        connect_retry_s: 2,
        hold_time_s: 9,
        keepalive_s: 3,
        ..PeerConfig::new(name, address.parse().expect("an address"))
    }
}

pub(crate) fn instance(peers: Vec<PeerConfig>) -> InstanceConfig {
    InstanceConfig {
        name: INSTANCE.to_owned(),
        local_asn: asn(OUR_ASN),
        router_id: "10.99.0.1".parse().expect("an address"),
        local_port: None,
        peers,
    }
}

pub(crate) fn speaker(start: StartOptions, config: InstanceConfig) -> Speaker {
    let speaker = Speaker::spawn(StartOptions { hostname: "node-1".to_owned(), ..start });
    speaker.set_instance(config);
    speaker
}

pub(crate) fn routes(prefixes: &[&str]) -> RouteSet {
    prefixes.iter().map(|text| (text.parse::<Prefix>().expect("a prefix"), RouteAttrs::default())).collect()
}

pub(crate) fn tell(speaker: &Speaker, peer: &str, routes: &RouteSet) {
    speaker.set_routes(INSTANCE, peer, Arc::new(routes.clone()));
}

/// Waits for a status that `accept`s; tells the last one when it does not come.
pub(crate) async fn until(
    speaker: &Speaker,
    peer: &str,
    what: &str,
    accept: impl Fn(&PeerStatus) -> bool,
) -> PeerStatus {
    let mut status = speaker.status();
    let met = |status: &Arc<SpeakerStatus>| status.peer(INSTANCE, peer).is_some_and(&accept);
    let found =
        tokio::time::timeout(PATIENCE, status.wait_for(met)).await.map(|found| found.map(|found| found.clone()));
    match found {
        Ok(Ok(found)) => found.peer(INSTANCE, peer).expect("it was just there").clone(),
        Ok(Err(_)) => panic!("the speaker ended while waiting for {what}"),
        Err(_) => {
            panic!("{what} did not happen in {PATIENCE:?}: {:#?}", speaker.status().borrow().peer(INSTANCE, peer))
        }
    }
}

pub(crate) async fn until_established(speaker: &Speaker, peer: &str) -> PeerStatus {
    until(speaker, peer, "an established session", |status| status.state == SessionState::Established).await
}

pub(crate) fn advertised(status: &PeerStatus, family: Family) -> u64 {
    status.families.iter().find(|row| row.family == family).map_or(0, |row| row.advertised)
}

pub(crate) fn received(status: &PeerStatus, family: Family) -> u64 {
    status.families.iter().find(|row| row.family == family).map_or(0, |row| row.received)
}
