//! A process's own `/etc/resolv.conf`: a mount namespace in which another file lies over the host's.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Gives the calling thread, and what it starts from now on, `file` as its `/etc/resolv.conf`.
///
/// The thread stays in its new mount namespace, so it should be one that ends soon. What the host unmounts later goes
/// here too: the namespace is a slave of the host's.
pub(crate) fn own_resolv_conf(file: &Path) -> Result<()> {
    if !Path::new(RESOLV_CONF).exists() {
        bail!("this machine has no {RESOLV_CONF} over which a pod's could be mounted; make an empty one");
    }
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace; are you root?")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .context("cannot part from the host's mounts")?;
    mount(Some(file), RESOLV_CONF, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot mount {} on {RESOLV_CONF}", file.display()))
}
