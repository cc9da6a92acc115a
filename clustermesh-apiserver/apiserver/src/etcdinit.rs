//! `etcdinit`: makes the data directory of the local etcd, with users and roles, before etcd is started on it for good.
//!
//! Wipes the directory, starts etcd on free ports of the loopback address, makes users and roles, switches
//! authentication on, ends etcd. An error names its step. Running it again begins anew.

mod data_dir;
mod etcd;
mod roles;

use anyhow::{Context, bail};
use causeway_mesh_kv::admin::{Admin, KeyRange};

use crate::flags::Etcdinit;
use etcd::Etcd;
use roles::Step;

pub(crate) async fn run(flags: &Etcdinit) -> anyhow::Result<()> {
    let directory = flags.etcd_data_dir.display();
    data_dir::wipe(&flags.etcd_data_dir).with_context(|| format!("wiping the data directory {directory}"))?;
    let mut etcd = Etcd::start(flags)?;
    let prepared = tokio::time::timeout(flags.timeout, prepare(flags, &mut etcd)).await;
    let words = last_lines(etcd.log());
    let ended = etcd.stop().await;
    match prepared {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(error.context(format!("etcd's last words: {words}"))),
        Err(_) => bail!("not done within {:?}; give more with --timeout. etcd's last words: {words}", flags.timeout),
    }
    ended.context("ending etcd")?;
    tracing::info!(%directory, cluster = %flags.cluster_name, "etcd is prepared");
    Ok(())
}

async fn prepare(flags: &Etcdinit, etcd: &mut Etcd) -> anyhow::Result<()> {
    let connect = etcd.ready().await.context("waiting for etcd")?;
    let mut admin = Admin::connect(&connect).await?;
    for step in roles::steps(&flags.cluster_name) {
        take(&mut admin, &step).await?;
        tracing::debug!(?step, "done");
    }
    Ok(())
}

async fn take(admin: &mut Admin, step: &Step) -> anyhow::Result<()> {
    match step {
        Step::AddRole(role) => admin.add_role(role).await?,
        Step::Read(role, range) => admin.grant_read(role, range).await?,
        Step::AddUser(user) => admin.add_user(user).await?,
        Step::Grant(user, role) => admin.grant_role(user, role).await?,
        Step::EnableAuth => admin.enable_auth().await?,
    }
    Ok(())
}

fn last_lines(log: &std::path::Path) -> String {
    const LINES: usize = 5;
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// For `roles`.
fn prefix(text: &str) -> KeyRange {
    KeyRange::Prefix(text.to_owned())
}
