//! Registers the CustomResourceDefinitions and waits until the server serves them.

use std::time::Duration;

use anyhow::{Context, anyhow};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, ResourceExt};

use crate::apply::FIELD_MANAGER;

/// How long the server may take to serve a kind. It takes milliseconds; a minute means that something is wrong.
const ESTABLISHED_WITHIN: Duration = Duration::from_secs(60);

/// Applies every definition (server-side apply), then waits for all. `mcs`: those of the Multi-Cluster Services API too.
pub(crate) async fn register(client: &Client, mcs: bool) -> anyhow::Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let more = if mcs { causeway_k8s::mcs_crds() } else { Vec::new() };
    let crds: Vec<CustomResourceDefinition> = causeway_k8s::crds().into_iter().chain(more).collect();
    for crd in &crds {
        let name = crd.name_any();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(&name, &params, &Patch::Apply(crd)).await.with_context(|| {
            format!(
                "registering CustomResourceDefinition {name}; may the service account write it? \
                     If another program registers it, start with --skip-crd-creation"
            )
        })?;
    }
    for crd in &crds {
        let name = crd.name_any();
        let established = await_condition(api.clone(), &name, is_crd_established());
        tokio::time::timeout(ESTABLISHED_WITHIN, established)
            .await
            .map_err(|_| {
                anyhow!("the server does not serve {name}; see the conditions of `kubectl describe crd {name}`")
            })?
            .with_context(|| format!("waiting for {name}"))?;
    }
    tracing::info!(count = crds.len(), "CustomResourceDefinitions are registered");
    Ok(())
}
