//! The agent's side of the CNI verbs. (being written)

use std::sync::Arc;

use causeway_api::{ErrorBody, cni::Attachment, code};
use serde_json::Value;

use crate::app::Agent;

/// Serves `cni_*` requests; owns `tables.endpoints` and its copy on disk.
pub(crate) struct Cni;

impl Cni {
    /// Adopts the attachments that an earlier process made.
    pub(crate) async fn start(_agent: &Arc<Agent>) -> anyhow::Result<Arc<Cni>> {
        Ok(Arc::new(Cni))
    }

    /// One request of the admin socket whose method starts with `cni_`.
    pub(crate) async fn handle(&self, method: &str, _params: Value) -> Result<Value, ErrorBody> {
        Err(ErrorBody::new(code::NOT_READY, format!("{method} is not written yet"), ""))
    }

    /// The pod's identity was found or changed: datapath row, table and disk follow.
    pub(crate) async fn set_identity(
        &self,
        _attachment: &Attachment,
        _identity: u32,
        _labels: Vec<String>,
    ) -> Result<(), String> {
        Ok(())
    }
}
