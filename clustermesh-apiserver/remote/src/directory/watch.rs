//! When to read the directory again: after inotify has spoken and fallen silent, and now and then in any case.

use std::path::{Path, PathBuf};
use std::time::Duration;

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
    watcher: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
    wake: mpsc::Sender<()>,
}

impl Watch {
    pub(crate) fn new(path: &Path) -> Watch {
        // One word is enough to say that something happened.
        let (wake, events) = mpsc::channel(1);
        let mut watch = Watch { path: path.to_owned(), watcher: None, events, wake };
        watch.arm();
        watch
    }

    /// Waits until the directory is worth reading again. Cancel-safe: at worst it is read once more, or a moment later.
    pub(crate) async fn changed(&mut self) {
        let watched = self.watcher.is_some();
        let next = Instant::now() + if watched { WATCHED } else { UNWATCHED };
        tokio::select! {
            _ = self.events.recv() => self.settle().await,
            () = sleep_until(next) => {}
        }
        // A directory that was removed and made again needs a new watch; so does one that has just been made.
        if !watched || !self.path.is_dir() {
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
        let wake = self.wake.clone();
        let tell = move |event: notify::Result<notify::Event>| {
            // Reading a file is an event too; a scan must not wake itself.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                // Full: it is being told already.
                let _ = wake.try_send(());
            }
        };
        let armed = notify::recommended_watcher(tell).and_then(|mut watcher| {
            watcher.watch(&self.path, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        self.watcher = match armed {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::debug!(path = %self.path.display(), %error, "the directory cannot be watched yet");
                None
            }
        };
    }
}
