//! When to read the directory again: after inotify has spoken and fallen silent, and now and then in any case.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::event::{EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

/// A file is often written in steps; it is read when nothing has happened for so long, ...
const QUIET: Duration = Duration::from_millis(100);
/// ... but not later than this after the first step.
const LATEST: Duration = Duration::from_secs(1);
/// Without an event it is read again after this: events can be lost, and not every file system sends them.
const WATCHED: Duration = Duration::from_secs(30);
/// The same, while there is no directory that could be watched.
const UNWATCHED: Duration = Duration::from_secs(2);

/// One directory.
#[derive(Debug)]
pub(crate) struct Watch {
    path: PathBuf,
    armed: Option<Armed>,
    events: mpsc::Receiver<()>,
    wake: mpsc::Sender<()>,
}

/// inotify watches an inode, whatever the path leads to later.
#[derive(Debug)]
struct Armed {
    /// Ends the watch when dropped.
    _watcher: RecommendedWatcher,
    inode: Option<(u64, u64)>,
    /// The directory itself was removed or moved: the one that takes its place may get its inode's number.
    lost: Arc<AtomicBool>,
}

impl Watch {
    pub(crate) fn new(path: &Path) -> Watch {
        // One word is enough to say that something happened.
        let (wake, events) = mpsc::channel(1);
        // Absolute, as it stands in the events.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut watch = Watch { path, armed: None, events, wake };
        watch.arm();
        watch
    }

    /// Waits until the directory is worth reading again. Cancel-safe: at worst it is read once more, or a moment later.
    pub(crate) async fn changed(&mut self) {
        let next = Instant::now() + if self.armed.is_some() { WATCHED } else { UNWATCHED };
        tokio::select! {
            _ = self.events.recv() => self.settle().await,
            () = sleep_until(next) => {}
        }
        // Before it is read, so that nothing falls between. One that has just been made needs its first watch.
        if !self.armed.as_ref().is_some_and(|armed| armed.stands(&self.path)) {
            self.arm();
        }
    }

    async fn settle(&mut self) {
        let latest = Instant::now() + LATEST;
        while timeout_at(latest.min(Instant::now() + QUIET), self.events.recv()).await.is_ok() {
            if Instant::now() >= latest {
                return;
            }
        }
    }

    fn arm(&mut self) {
        let lost = Arc::new(AtomicBool::new(false));
        let (wake, path, loses) = (self.wake.clone(), self.path.clone(), Arc::clone(&lost));
        let tell = move |event: notify::Result<notify::Event>| {
            // Reading a file is an event too; a scan must not wake itself.
            let Some(event) = event.ok().filter(|event| !event.kind.is_access()) else { return };
            let ends = matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
            if ends && event.paths.contains(&path) {
                loses.store(true, Ordering::Relaxed);
            }
            // Full: it is being told already.
            let _ = wake.try_send(());
        };
        // Before it is watched: if another takes its place in between, that is seen as a change.
        let inode = inode(&self.path);
        let armed = notify::recommended_watcher(tell).and_then(|mut watcher| {
            watcher.watch(&self.path, RecursiveMode::NonRecursive)?;
            Ok(Armed { _watcher: watcher, inode, lost })
        });
        self.armed = match armed {
            Ok(armed) => Some(armed),
            Err(error) => {
                tracing::debug!(path = %self.path.display(), %error, "the directory cannot be watched yet");
                None
            }
        };
    }
}

impl Armed {
    /// What is watched is still what the path leads to.
    fn stands(&self, path: &Path) -> bool {
        !self.lost.load(Ordering::Relaxed) && self.inode.is_some() && self.inode == inode(path)
    }
}

/// Device and number of what the path leads to.
fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}
