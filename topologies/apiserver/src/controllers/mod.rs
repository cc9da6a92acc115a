//! The controllers of a cluster, as far as a laboratory needs them. Each is a task of its own and can be left out.

pub mod bootstrap;
mod deployment;
mod endpointslice;
mod events;
mod feed;
mod garbage;
mod kubernetes_service;
mod node;
mod replicaset;
mod scheduler;
mod terminating;
mod views;

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::bail;
use serde_json::{Value, json};

use crate::api::Api;
use crate::shutdown::Shutdown;
use crate::status::ApiResult;
use crate::store::Key;

pub(crate) struct Controllers {
    pub(crate) api: Arc<Api>,
    pub(crate) advertise: Vec<IpAddr>,
    pub(crate) port: u16,
    pub(crate) node_grace_s: u64,
}

const NAMES: &[&str] =
    &["deployment", "replicaset", "endpointslice", "scheduler", "node", "namespace", "gc", "crd", "kubernetes-service"];

impl Controllers {
    /// Starts all but the disabled ones.
    pub(crate) fn spawn(&self, disabled: &[String], shutdown: &Shutdown) -> anyhow::Result<()> {
        if let Some(unknown) = disabled.iter().find(|name| *name != "all" && !NAMES.contains(&name.as_str())) {
            bail!("--disable-controller {unknown}: no such controller; there are {} (or all)", NAMES.join(", "));
        }
        let enabled = |name: &str| !disabled.iter().any(|d| d == "all" || d == name);
        for name in NAMES.iter().filter(|name| enabled(name)) {
            let api = self.api.clone();
            let shutdown = shutdown.clone();
            let (advertise, port, grace_s) = (self.advertise.clone(), self.port, self.node_grace_s);
            tokio::spawn(async move {
                let work = async {
                    match *name {
                        "deployment" => deployment::run(api).await,
                        "replicaset" => replicaset::run(api).await,
                        "endpointslice" => endpointslice::run(api).await,
                        "scheduler" => scheduler::run(api).await,
                        "node" => node::run(api, grace_s).await,
                        "namespace" => terminating::run_namespaces(api).await,
                        "gc" => garbage::run(api).await,
                        "crd" => terminating::run_definitions(api).await,
                        _ => kubernetes_service::run(api, advertise, port).await,
                    }
                };
                tokio::select! {
                    () = work => {}
                    () = shutdown.stopped() => {}
                }
            });
        }
        Ok(())
    }
}

/// The reference by which a controller owns what it makes.
fn owner_reference(api_version: &str, kind: &str, owner: &views::Meta) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind, "name": owner.name, "uid": owner.uid,
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// Controllers go on after a failure: the next change tries again.
fn log_failure(controller: &str, key: &Key, result: ApiResult<()>) {
    match result {
        Err(error) if matches!(error.code, 404 | 409) => tracing::debug!(controller, ?key, %error, "overtaken"),
        Err(error) => tracing::warn!(controller, ?key, %error, "failed"),
        Ok(()) => {}
    }
}

/// Sets a condition by its type; the transition time moves only when the status does. True: something changed.
pub(crate) fn set_condition(status: &mut Value, mut condition: Value) -> bool {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return false };
    match conditions.iter_mut().find(|c| c["type"] == condition["type"]) {
        Some(existing) => {
            if existing["status"] == condition["status"] {
                condition["lastTransitionTime"] = existing["lastTransitionTime"].clone();
                if existing["reason"] == condition["reason"] && existing["message"] == condition["message"] {
                    return false;
                }
            }
            *existing = condition;
        }
        None => conditions.push(condition),
    }
    true
}
