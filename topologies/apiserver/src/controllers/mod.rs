//! The controllers of a cluster, as far as a laboratory needs them. Each is a task of its own and can be left out.

pub mod bootstrap;

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::Api;
use crate::shutdown::Shutdown;

pub(crate) struct Controllers {
    pub(crate) api: Arc<Api>,
    pub(crate) advertise: Vec<IpAddr>,
    pub(crate) port: u16,
    pub(crate) node_grace_s: u64,
}

impl Controllers {
    pub(crate) fn spawn(&self, disabled: &[String], shutdown: &Shutdown) -> anyhow::Result<()> {
        let _ = (&self.api, &self.advertise, self.port, self.node_grace_s, disabled, shutdown);
        Ok(())
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
