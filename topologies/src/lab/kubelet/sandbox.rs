//! A pod's sandbox: its network namespace and its attachment.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tracing::warn;

use super::cni::{self, Attachment};
use super::{Kubelet, PodRecord};
use crate::down::inhabitants;
use crate::netns;
use crate::process;

/// Digits of the pod's UID in the names of namespace and sandbox.
const SHORT_ID: usize = 10;

/// Name of a pod's namespace: `cw-<lab>-p-<short id>`.
pub(crate) fn netns_name(lab: &str, uid: &str) -> String {
    let short: String = uid.chars().filter(char::is_ascii_alphanumeric).take(SHORT_ID).collect();
    format!("{}-{lab}-p-{short}", crate::state::NETNS_PREFIX)
}

/// Makes namespace and attachment. Leaves the namespace when ADD fails: the next try uses it.
pub(crate) async fn make(kubelet: &Kubelet, record: &mut PodRecord) -> Result<()> {
    let name = record.netns.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    if !record.netns.exists() {
        tokio::task::spawn_blocking(move || create(&name)).await??;
    }
    record.save(&kubelet.pods_dir())?;
    let result = kubelet.cni.add(&attachment(record)).await;
    let result = match result {
        Ok(result) => result,
        Err(error) => {
            // The specification wants DEL after a failed ADD, so that nothing half-made stays.
            let _ = kubelet.cni.del(&attachment(record), None).await;
            return Err(error);
        }
    };
    record.ips = cni::addresses(&result);
    record.cni_result = Some(result);
    record.save(&kubelet.pods_dir())
}

/// Asks the plugins whether an adopted attachment still holds.
pub(crate) async fn check(kubelet: &Kubelet, record: &PodRecord) -> Result<()> {
    match &record.cni_result {
        Some(result) => kubelet.cni.check(&attachment(record), result).await,
        None => Ok(()),
    }
}

/// Detaches and removes the namespace, with what still runs in it.
pub(crate) async fn remove(kubelet: &Kubelet, record: &PodRecord) -> Result<()> {
    if record.host_network {
        return Ok(());
    }
    match kubelet.cni.del(&attachment(record), record.cni_result.as_ref()).await {
        // It was never attached: a plugin that cannot say so does not matter.
        Err(error) if record.cni_result.is_none() => tracing::debug!(error = format!("{error:#}"), "CNI DEL"),
        outcome => outcome?,
    }
    let name = record.netns.file_name().and_then(|name| name.to_str()).context("a namespace has a name")?.to_owned();
    tokio::task::spawn_blocking(move || {
        let left = inhabitants(std::slice::from_ref(&name));
        if !left.is_empty() {
            warn!(netns = name, processes = left.len(), "ending what the pod left behind");
            process::end(&left, Duration::ZERO);
        }
        netns::remove(&name)
    })
    .await?
}

fn create(name: &str) -> Result<()> {
    netns::create(name)?;
    netns::inside(&netns::path(name), || {
        // Pods may ping, and their addresses need no probing for duplicates.
        for (key, value) in [
            ("ipv4/ping_group_range", "0 2147483647"),
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
        ] {
            let path = format!("/proc/sys/net/{key}");
            std::fs::write(&path, value).with_context(|| format!("cannot write {path}"))?;
        }
        let status = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
        anyhow::ensure!(status.context("cannot run ip; install iproute2")?.success(), "cannot set lo up in {name}");
        Ok(())
    })
}

fn attachment(record: &PodRecord) -> Attachment<'_> {
    Attachment {
        sandbox: &record.sandbox,
        netns: &record.netns,
        namespace: &record.namespace,
        name: &record.name,
        uid: &record.uid,
    }
}
