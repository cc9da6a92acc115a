//! The agent's side of the CNI verbs.
//!
//! [`verbs`] does the work and blocks while it does; here it is called from async code, on tokio's blocking threads,
//! and told what the node is. One task runs: it follows the own Node object until the process ends, and writes the
//! network configuration when pods can start.

mod conf;
mod store;
mod verbs;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use causeway_api::cni::{Attachment, Done};
use causeway_api::{ErrorBody, Method, NoParams};
use causeway_encryption_plan::Mtu;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::app::Agent;
use crate::config::Config;
use crate::control::ipam::Ipam;
use crate::intent::Key;
use crate::realize::encryption::Encryption;
use crate::realize::hurry::Hurry;
use crate::realize::pod;
use store::Store;
use verbs::{Verbs, Veths, code};

/// MTU of pods where no uplink is to be found.
const ETHERNET_MTU: u32 = 1500;

/// How long ADD waits for encryption: the plugin waits for us for a minute, and the runtime tries again.
const ENCRYPTION_PATIENCE: Duration = Duration::from_secs(20);

/// Serves `cni_*` requests; owns `tables.endpoints` and its copy on disk.
#[derive(Clone)]
pub(crate) struct Cni {
    verbs: Arc<Verbs>,
    /// `None`: traffic between nodes is not encrypted.
    encryption: Option<Encryption>,
}

impl Cni {
    /// Prepares the node for forwarding, adopts the attachments that an earlier process made, and begins to follow the
    /// own Node object.
    pub(crate) async fn start(agent: &Arc<Agent>) -> anyhow::Result<Arc<Cni>> {
        let for_thread = agent.clone();
        let verbs = tokio::task::spawn_blocking(move || prepare(&for_thread)).await??;
        let cni = Arc::new(Cni { verbs: Arc::new(verbs), encryption: agent.encryption.clone() });
        tokio::spawn(cni.clone().follow_node(agent.clone()));
        Ok(cni)
    }

    /// Does the deletions that the plugin queued while no agent answered. Call it when the socket is listening: from
    /// then on the plugin asks instead of queueing, so that none is left behind.
    pub(crate) async fn drain_deletions(&self) {
        match self.block(Verbs::drain_deletions).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "did the deletions that were queued"),
            Err(error) => tracing::warn!(%error, "cannot do the queued deletions; the next start tries again"),
        }
    }

    /// One request of the admin socket whose method starts with `cni_`.
    pub(crate) async fn handle(&self, method: &str, params: Value) -> Result<Value, ErrorBody> {
        match method {
            causeway_api::CniAdd::NAME => {
                // No pod speaks before nothing of it can leave in the clear.
                self.encrypted(ENCRYPTION_PATIENCE).await?;
                self.verb(causeway_api::CniAdd, params, Verbs::add).await
            }
            causeway_api::CniDel::NAME => self.verb(causeway_api::CniDel, params, Verbs::del).await,
            causeway_api::CniCheck::NAME => self.verb(causeway_api::CniCheck, params, Verbs::check).await,
            causeway_api::CniGc::NAME => self.verb(causeway_api::CniGc, params, Verbs::gc).await,
            causeway_api::CniStatus::NAME => {
                let status = |verbs: &Verbs, _: &NoParams| -> Result<Done, ErrorBody> { verbs.status() };
                self.encrypted(Duration::ZERO).await?;
                self.verb(causeway_api::CniStatus, params, status).await
            }
            _ => Err(ErrorBody::new(causeway_api::code::NOT_FOUND, format!("no CNI verb {method:?}"), "")),
        }
    }

    /// The pod's identity was found or changed: datapath row, table and disk follow.
    pub(crate) async fn set_identity(
        &self,
        attachment: &Attachment,
        identity: u32,
        labels: Vec<String>,
    ) -> Result<(), String> {
        let attachment = attachment.clone();
        self.block(move |verbs| verbs.set_identity(&attachment, identity, labels)).await.map_err(|e| e.to_string())
    }

    /// Waits for encryption, if it is on.
    async fn encrypted(&self, patience: Duration) -> Result<(), ErrorBody> {
        let Some(encryption) = &self.encryption else { return Ok(()) };
        let unready = |why: String| {
            let remedy = "`causeway encrypt status` says more; the runtime tries again";
            ErrorBody::new(code::TRY_AGAIN, format!("encryption between nodes is not ready: {why}"), remedy)
        };
        encryption.ready(patience).await.map_err(unready)
    }

    async fn verb<M: Method>(
        &self,
        _method: M,
        params: Value,
        work: impl FnOnce(&Verbs, &M::Params) -> Result<M::Reply, ErrorBody> + Send + 'static,
    ) -> Result<Value, ErrorBody>
    where
        M::Params: DeserializeOwned + Send + 'static,
        M::Reply: Serialize + Send + 'static,
    {
        // A call without parameters may leave them out.
        let params = if params.is_null() { Value::Object(serde_json::Map::new()) } else { params };
        let decode = |e: serde_json::Error| ErrorBody::new(code::DECODE, format!("parameters of {}: {e}", M::NAME), "");
        let params: M::Params = serde_json::from_value(params).map_err(decode)?;
        let started = std::time::Instant::now();
        let reply = self.block(move |verbs| work(verbs, &params)).await;
        let micros = started.elapsed().as_micros();
        match &reply {
            Ok(_) => tracing::debug!(method = M::NAME, micros, "done"),
            Err(error) => tracing::warn!(method = M::NAME, code = error.code, %error, "refused"),
        }
        serde_json::to_value(reply?).map_err(decode)
    }

    async fn block<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Verbs) -> Result<R, ErrorBody> + Send + 'static,
    ) -> Result<R, ErrorBody> {
        let verbs = self.verbs.clone();
        let done = tokio::task::spawn_blocking(move || work(&verbs)).await;
        done.unwrap_or_else(|e| Err(ErrorBody::new(causeway_api::code::INTERNAL, "a CNI verb panicked", e.to_string())))
    }

    /// Cancel-safe between nodes' changes; ends with the process.
    async fn follow_node(self: Arc<Self>, agent: Arc<Agent>) {
        let mut reader = agent.tables.nodes.reader();
        let key = Key::new("", &agent.config.node_name);
        let mut said = String::new();
        loop {
            reader.changed().await;
            let _ = reader.changes();
            let Some(node) = reader.table().get(&key) else { continue };
            let addresses = node.addresses.iter().filter(|a| a.internal).map(|a| a.ip).collect();
            match self.verbs.set_node(&node.pod_cidrs, addresses) {
                Ok(()) => {
                    if let Err(error) = pod::own_cidrs(&node.pod_cidrs) {
                        tracing::warn!(%error, "packets to addresses that no pod has will loop");
                    }
                    write_conf(&agent.config);
                }
                Err(errors) => {
                    let text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                    if text != said {
                        tracing::warn!(reason = text, "pods cannot start yet");
                    }
                    said = text;
                }
            }
        }
    }
}

fn prepare(agent: &Agent) -> anyhow::Result<Verbs> {
    let config = &agent.config;
    let uplinks = pod::uplinks(&config.devices).context("looking for the uplinks of --devices")?;
    pod::prepare_node(config.enable_ipv4, config.enable_ipv6, &uplinks).context("preparing the node for forwarding")?;
    let underlay = uplinks.iter().map(|link| link.mtu).min().unwrap_or(ETHERNET_MTU);
    let mtu = match config.mtu {
        0 if config.encryption.enabled => Mtu::new(underlay, 0).context("the MTU of pods")?.inner,
        0 => underlay,
        set => set,
    };
    let verbs = Verbs::new(
        agent.datapath.clone(),
        Box::new(Veths { hurry: Hurry::new(&config.state_dir, config.expedite_rcu) }),
        Store::open(&config.state_dir)?,
        agent.tables.endpoints.clone(),
        mtu,
        Ipam::new(config.enable_ipv4, config.enable_ipv6),
    );
    verbs.adopt().context("adopting the pods of an earlier process")?;
    Ok(verbs)
}

fn write_conf(config: &Config) {
    match conf::write(&config.cni_conf_dir, &config.socket, &config.state_dir) {
        Ok(true) => tracing::info!(dir = %config.cni_conf_dir.display(), "wrote the CNI configuration"),
        Ok(false) => {}
        Err(error) => {
            let dir = config.cni_conf_dir.display();
            tracing::error!(%dir, %error, "cannot write the CNI configuration; pods will not start. Is --cni-conf-dir writable?");
        }
    }
}
