//! Network namespaces: made, entered and removed as `ip netns` does, without running it.
//!
//! Entering is done by a dedicated thread, so that no other thread of the process is moved. `ip netns exec` is not
//! used: it mounts a new /sys and so hides bpffs and cgroup2.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

const DIR: &str = "/run/netns";

/// Where a namespace is bound.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Makes a namespace of that name. It must not exist.
pub(crate) fn create(name: &str) -> Result<()> {
    let path = path(name);
    fs::create_dir_all(DIR).with_context(|| format!("cannot make {DIR}"))?;
    File::create_new(&path)
        .with_context(|| format!("cannot make {}; remains of another lab? causeway-lab list", path.display()))?;
    let bind = || -> nix::Result<()> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
    };
    let made = on_own_thread(bind)?.with_context(|| format!("cannot make the network namespace {name}; are you root?"));
    if made.is_err() {
        let _ = fs::remove_file(&path);
    }
    made
}

/// Unbinds and removes a namespace; one that is not there is no error.
pub(crate) fn remove(name: &str) -> Result<()> {
    let path = path(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: a plain file without a mount, as a crash between the two steps of `create` leaves it.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error).with_context(|| format!("cannot unmount {}", path.display())),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Names of all namespaces that start with `prefix`.
pub(crate) fn list(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(DIR).into_iter().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names
}

/// Moves the calling thread into a namespace.
pub(crate) fn enter(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open the network namespace {}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", path.display()))
}

/// Runs `work` on a new thread inside a namespace; children it starts stay inside.
pub(crate) fn inside<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_own_thread(|| {
        enter(path)?;
        work()
    })?
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| scope.spawn(work).join()).map_err(|_| anyhow!("a thread of the lab panicked"))
}
