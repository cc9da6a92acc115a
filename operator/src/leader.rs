//! Who of several operators acts: the holder of a Lease. `election` decides, this file talks to the server.
//!
//! The task reads and writes the Lease until it is told to stop, and says through a watch channel whether we lead. It
//! is cancel-safe only through `Election::stop`: dropping it leaves the Lease to expire.

mod election;

use std::time::Instant;

use causeway_k8s::condition::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;

pub(crate) use election::Timing;
use election::{Claim, Election, Input, Output, Seen};

/// Name of the Lease, in the operator's namespace.
const LEASE: &str = "causeway-operator";

/// Whether we act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leadership {
    Waiting,
    Leading,
}

/// Runs the election until `stop` is true, then gives the Lease back.
pub(crate) async fn run(
    client: Client,
    namespace: &str,
    identity: String,
    timing: Timing,
    leadership: watch::Sender<Leadership>,
    mut stop: watch::Receiver<bool>,
) {
    let api: Api<Lease> = Api::namespaced(client, namespace);
    let mut held: Option<Lease> = None;
    let mut election = Election::new(identity, timing, Instant::now());
    election.handle(Instant::now(), Input::Timeout);
    loop {
        while let Some(output) = election.poll_output() {
            let by = election.answer_by(Instant::now());
            let input = match output {
                Output::Read => read(&api, &mut held, by).await,
                Output::Write(claim) => write(&api, &mut held, &claim, by).await,
                Output::Elected => {
                    tracing::info!("leading: this operator acts");
                    leadership.send_replace(Leadership::Leading);
                    continue;
                }
                Output::Lost(why) => {
                    tracing::error!(why, "no longer leading");
                    leadership.send_replace(Leadership::Waiting);
                    continue;
                }
                Output::Following(holder) => {
                    tracing::info!(holder, "waiting: another operator leads");
                    continue;
                }
                Output::Done => return,
            };
            election.handle(Instant::now(), input);
        }
        let wait = election.deadline().saturating_duration_since(Instant::now());
        tokio::select! {
            () = tokio::time::sleep(wait) => election.handle(Instant::now(), Input::Timeout),
            changed = stop.changed() => {
                // A dropped sender means that the program ends, too.
                if changed.is_err() || *stop.borrow() {
                    election.handle(Instant::now(), Input::Stop);
                }
            }
        }
    }
}

/// No request may outlast the deadline that it serves.
async fn bounded<T>(by: Instant, call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout_at(by.into(), call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the API server does not answer".to_owned()),
    }
}

async fn read(api: &Api<Lease>, held: &mut Option<Lease>, by: Instant) -> Input {
    match bounded(by, api.get_opt(LEASE)).await {
        Ok(lease) => {
            *held = lease;
            Input::Read(Ok(held.as_ref().map(seen)))
        }
        Err(error) => Input::Read(Err(format!("cannot read Lease {LEASE}: {error}"))),
    }
}

async fn write(api: &Api<Lease>, held: &mut Option<Lease>, claim: &Claim, by: Instant) -> Input {
    let mut lease = held.clone().unwrap_or_default();
    lease.metadata.name = Some(LEASE.to_owned());
    lease.metadata.managed_fields = None;
    let now = MicroTime(Timestamp::now());
    let before = lease.spec.take().unwrap_or_default();
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(claim.holder.clone()),
        lease_duration_seconds: Some(claim.duration_s),
        renew_time: Some(now.clone()),
        acquire_time: if claim.is_new { Some(now) } else { before.acquire_time },
        lease_transitions: Some(claim.transitions),
        ..before
    });
    let params = PostParams::default();
    let result = if held.is_some() {
        bounded(by, api.replace(LEASE, &params, &lease)).await
    } else {
        bounded(by, api.create(&params, &lease)).await
    };
    match result {
        Ok(written) => {
            *held = Some(written);
            Input::Written(Ok(held.as_ref().map(seen).expect("just written")))
        }
        Err(error) => Input::Written(Err(format!("cannot write Lease {LEASE}: {error}"))),
    }
}

fn seen(lease: &Lease) -> Seen {
    let spec = lease.spec.clone().unwrap_or_default();
    Seen {
        holder: spec.holder_identity.unwrap_or_default(),
        transitions: spec.lease_transitions.unwrap_or(0),
        duration_s: spec.lease_duration_seconds.unwrap_or(0),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}
