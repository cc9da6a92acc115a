//! The projector role: Secrets as files, for processes of a host that a kubelet would start with volumes.
//!
//! One process per host watches the Secrets of one namespace and keeps directories equal to them. What a directory
//! holds is decided in [`volume`] (pure), how it changes without a reader ever seeing half of it in [`publish`].

mod publish;
mod volume;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use tracing::{info, warn};

use crate::kubernetes;
use crate::state::write_whole;
use volume::{Source, Volume};

#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    kubeconfig: PathBuf,
    #[arg(long, default_value = "kube-system")]
    namespace: String,
    /// DIR=SECRET, or DIR=SECRET:KEY>FILE,... for some keys under other names; a directory may have several Secrets, of
    /// which the later ones win
    #[arg(long = "volume", required = true, value_name = "DIR=SECRET")]
    sources: Vec<Source>,
    /// File that is written once every directory has been brought up to date
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// Secrets by name, with their decoded data.
type Secrets = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// Serves until it is ended; what it has written stays.
pub(crate) fn run(options: Options) -> Result<()> {
    tracing_subscriber::fmt().with_ansi(false).with_target(false).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(options))
}

async fn serve(options: Options) -> Result<()> {
    let volumes = Volume::gather(options.sources);
    let client = kubernetes::client(&options.kubeconfig).await?;
    let api: Api<Secret> = Api::namespaced(client, &options.namespace);
    let mut stream = watcher(api, watcher::Config::default()).default_backoff().boxed();
    let (mut known, mut listed) = (Secrets::new(), Secrets::new());
    loop {
        match stream.next().await.context("the watch of Secrets ended")? {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(secret)) => insert(&mut listed, secret),
            Ok(watcher::Event::InitDone) => {
                known = std::mem::take(&mut listed);
                project(&volumes, &known, None)?;
                if let Some(file) = &options.ready_file {
                    write_whole(file, b"ready\n", 0o644)?;
                }
            }
            Ok(watcher::Event::Apply(secret)) => {
                let name = secret.metadata.name.clone().unwrap_or_default();
                insert(&mut known, secret);
                project(&volumes, &known, Some(&name))?;
            }
            Ok(watcher::Event::Delete(secret)) => {
                let name = secret.metadata.name.unwrap_or_default();
                known.remove(&name);
                project(&volumes, &known, Some(&name))?;
            }
            Err(error) => warn!(%error, "watch of Secrets; tries again"),
        }
    }
}

fn insert(secrets: &mut Secrets, secret: Secret) {
    let name = secret.metadata.name.unwrap_or_default();
    let data = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
    secrets.insert(name, data);
}

/// Brings the directories up to date: all, or those that one Secret belongs to.
fn project(volumes: &[Volume], secrets: &Secrets, changed: Option<&str>) -> Result<()> {
    for volume in volumes.iter().filter(|volume| changed.is_none_or(|name| volume.has(name))) {
        let files = volume.files(secrets);
        if publish::publish(&volume.dir, &files)? {
            info!(dir = %volume.dir.display(), files = files.len(), "written");
        }
    }
    Ok(())
}
