//! The local etcd, as the flags describe it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use causeway_mesh_kv::op::MAX_BATCH;
use causeway_mesh_kv::publish::{Heartbeat, Settings};
use causeway_mesh_kv::{Connect, Publish};
use causeway_mesh_remote::directory;
use causeway_mesh_schema::HEARTBEAT;

use crate::flags::Local;

/// How to reach it.
pub(crate) fn connect(local: &Local) -> anyhow::Result<Connect> {
    let options = local.kvstore();
    match (options.get("etcd.config"), options.get("etcd.address")) {
        (Some(file), _) => connect_file(Path::new(file)),
        (None, Some(address)) => Ok(Connect::new(vec![(*address).to_owned()])),
        (None, None) => bail!("where is the local etcd? give --kvstore-opt=etcd.config=FILE"),
    }
}

/// The same from a configuration file.
pub(crate) fn connect_file(path: &Path) -> anyhow::Result<Connect> {
    let content = std::fs::read(path).with_context(|| {
        format!("reading the etcd configuration {}; is --kvstore-opt=etcd.config right?", path.display())
    })?;
    Ok(directory::parse(path, &content)?)
}

/// How to write to it.
pub(crate) fn settings(local: &Local, heartbeat: bool) -> anyhow::Result<Settings> {
    let options = local.kvstore();
    let number = |name: &str, default: usize| match options.get(name) {
        Some(text) => {
            text.parse().ok().filter(|n| *n > 0).with_context(|| format!("{name}={text}: write a number above 0"))
        }
        None => Ok(default),
    };
    let default = Settings::default();
    let (least, most) = (Duration::from_secs(25), Duration::from_secs(24 * 3600));
    if !(least..=most).contains(&local.kvstore_lease_ttl) {
        bail!("--kvstore-lease-ttl is {:?}; write 25s to 24h", local.kvstore_lease_ttl);
    }
    let silence = Duration::from_secs(60);
    if local.heartbeat_interval.is_zero() || local.heartbeat_interval > silence {
        bail!(
            "--heartbeat-interval is {:?}; write up to 1m, since readers believe that a writer beats so often",
            local.heartbeat_interval
        );
    }
    Ok(Settings {
        lease_ttl: local.kvstore_lease_ttl,
        page_size: number("etcd.limit", default.page_size)?,
        in_flight: number("etcd.maxInflight", default.in_flight)?,
        batch: MAX_BATCH,
        heartbeat: heartbeat.then(|| Heartbeat { key: HEARTBEAT.to_owned(), interval: local.heartbeat_interval }),
        ..default
    })
}

/// A writer, with jitter of its own.
pub(crate) fn publish(settings: Settings) -> Publish {
    Publish::new(settings, seed())
}

/// Different in every process.
pub(crate) fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
