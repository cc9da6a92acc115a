//! Tells Kubernetes how this node's BGP sessions are: the status of the own CiliumBGPNodeConfig.

use std::sync::Arc;
use std::time::Duration;

use causeway_bgp_speaker::{InstanceStatus as Observed, PeerStatus as ObservedPeer, SessionState, SpeakerStatus};
use causeway_bgp_wire::Afi;
use causeway_k8s::condition::{self, Condition, Desired, Status, Timestamp};
use causeway_k8s::names::CONDITION_BGP_RECONCILE_ERROR;
use causeway_k8s::{
    CiliumBGPNodeConfig, CiliumBGPNodeConfigStatus, InstanceStatus, PeerStatus, RouteCount, TimersState,
};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::watch;

use super::kube_api::{self, FIELD_MANAGER, Retry, WriteError};
use crate::control::bgp::Plan;
use crate::intent::Key;
use crate::tables::Tables;

/// Changes within this time become one write.
const COALESCE: Duration = Duration::from_millis(500);

pub(crate) struct StatusWriter {
    pub(crate) client: Client,
    pub(crate) node: String,
    pub(crate) tables: Tables,
    pub(crate) plan: watch::Receiver<Arc<Plan>>,
    pub(crate) speaker: watch::Receiver<Arc<SpeakerStatus>>,
}

impl StatusWriter {
    /// Runs for ever. Waiting is cancel-safe.
    pub(crate) async fn run(mut self) {
        let mut configs = self.tables.bgp_config.reader();
        let mut written: Option<CiliumBGPNodeConfigStatus> = None;
        let mut conditions: Vec<Condition> = Vec::new();
        let mut retry = Retry::default();
        loop {
            configs.changes();
            let observed = self.speaker.borrow_and_update().clone();
            let plan = self.plan.borrow_and_update().clone();
            let mut again = Duration::from_secs(86_400);
            match self.tables.bgp_config.get(&Key::new("", &self.node)) {
                // A new object starts without status.
                None => written = None,
                Some(config) => {
                    set_condition(&mut conditions, &plan, config.generation);
                    let status = CiliumBGPNodeConfigStatus {
                        bgp_instances: instances(&observed, &plan),
                        conditions: conditions.clone(),
                    };
                    if written.as_ref() != Some(&status) {
                        match self.write(&status).await {
                            Ok(()) => {
                                written = Some(status);
                                retry.succeeded();
                            }
                            Err(error) => {
                                tracing::warn!(%error, "writing the status of CiliumBGPNodeConfig failed, trying again");
                                again = retry.failed();
                            }
                        }
                    }
                }
            }
            tokio::select! {
                () = configs.changed() => {}
                changed = self.speaker.changed() => if changed.is_err() { return },
                changed = self.plan.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(again) => {}
            }
            tokio::time::sleep(COALESCE).await;
        }
    }

    async fn write(&self, status: &CiliumBGPNodeConfigStatus) -> Result<(), WriteError> {
        let api: Api<CiliumBGPNodeConfig> = Api::all(self.client.clone());
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let patch = Patch::Merge(serde_json::json!({ "status": status }));
        match kube_api::limited(api.patch_status(&self.node, &params, &patch)).await {
            Err(error) if error.code() == Some(404) => Ok(()),
            result => result.map(drop),
        }
    }
}

fn set_condition(conditions: &mut Vec<Condition>, plan: &Plan, generation: Option<i64>) {
    let problems: Vec<String> = plan.problems.iter().map(|p| format!("{}: {}", p.place, p.message)).collect();
    let message = problems.join("; ");
    let desired = Desired {
        type_: CONDITION_BGP_RECONCILE_ERROR,
        status: Status::from(plan.problems.iter().any(|p| p.fatal)),
        reason: if problems.is_empty() { "Reconciled" } else { "NotCarriedOut" },
        message: &message,
    };
    condition::set(conditions, &desired, generation, Timestamp::now());
}

fn instances(observed: &SpeakerStatus, plan: &Plan) -> Vec<InstanceStatus> {
    let known = observed.instances.iter().filter(|(name, _)| plan.instances.contains_key(*name));
    known.map(|(name, instance)| one_instance(name, instance, observed)).collect()
}

fn one_instance(name: &str, instance: &Observed, all: &SpeakerStatus) -> InstanceStatus {
    InstanceStatus {
        name: name.to_owned(),
        local_asn: Some(i64::from(instance.local_asn.get())),
        peers: instance.peers.iter().map(|(name, peer)| one_peer(name, peer, all)).collect(),
    }
}

fn one_peer(name: &str, peer: &ObservedPeer, all: &SpeakerStatus) -> PeerStatus {
    let asn = peer.negotiated.as_ref().map(|n| n.peer_asn).or(peer.configured_asn);
    let established = peer.state == SessionState::Established;
    let seconds = |d: Duration| i32::try_from(d.as_secs()).ok();
    let number = |n: u64| Some(i32::try_from(n).unwrap_or(i32::MAX));
    PeerStatus {
        name: name.to_owned(),
        peer_address: peer.address.to_string(),
        peer_asn: Some(asn.map_or(0, |a| i64::from(a.get()))),
        peering_state: Some(state_name(peer.state).to_owned()),
        timers: peer.negotiated.as_ref().filter(|_| established).map(|n| TimersState {
            applied_hold_time_seconds: seconds(n.hold_time),
            applied_keepalive_seconds: seconds(n.keepalive),
        }),
        established_time: established
            .then(|| Timestamp::try_from(all.wall_clock(peer.since)).ok())
            .flatten()
            .map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        route_count: peer
            .families
            .iter()
            .filter(|f| f.negotiated)
            .map(|f| RouteCount {
                afi: if f.family.afi == Afi::IPV4 { "ipv4" } else { "ipv6" }.into(),
                safi: "unicast".into(),
                received: number(f.received),
                advertised: number(f.advertised),
            })
            .collect(),
    }
}

/// As Cilium spells the states.
pub(crate) fn state_name(state: SessionState) -> &'static str {
    match state {
        SessionState::Idle => "idle",
        SessionState::Connect => "connect",
        SessionState::Active => "active",
        SessionState::OpenSent => "open_sent",
        SessionState::OpenConfirm => "open_confirm",
        SessionState::Established => "established",
    }
}
