//! Network namespaces of a lab's hosts and pods, entered by threads of this process: what happens every few milliseconds
//! cannot start a program each time.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::lab::Lab;

const NETNS: &str = "/run/netns";

/// A host, a ToR or a pod.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    netns: PathBuf,
}

impl Place {
    /// Runs `work` in the namespace and waits for it. A socket that it returns stays there.
    pub(crate) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        self.spawn(work).join().unwrap_or_else(|_| bail!("a thread in {} panicked", self.name))
    }

    /// Runs `work` in the namespace, in a thread of its own.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        let netns = self.netns.clone();
        std::thread::spawn(move || {
            let file = File::open(&netns).with_context(|| format!("no network namespace {}", netns.display()))?;
            setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {}", netns.display()))?;
            work()
        })
    }
}

/// All places of a lab by name, as they are now.
pub(crate) struct Places(BTreeMap<String, Place>);

impl Places {
    pub(crate) fn of(lab: &Lab) -> Result<Places> {
        let status = lab.status()?;
        let mut places = BTreeMap::new();
        for list in ["hosts", "tors", "pods"] {
            for row in status[list].as_array().into_iter().flatten() {
                let text = |value: &Value| value.as_str().map(str::to_owned);
                if let (Some(name), Some(netns)) = (text(&row["name"]), text(&row["netns"])) {
                    // An absolute path stays what it is.
                    places.insert(name.clone(), Place { name, netns: Path::new(NETNS).join(netns) });
                }
            }
        }
        Ok(Places(places))
    }

    pub(crate) fn get(&self, name: &str) -> Result<Place> {
        self.0.get(name).cloned().with_context(|| format!("the lab has no host or pod {name}"))
    }
}
