//! What the CNI verbs remember on disk: one small JSON file per pod, and the deletions that the plugin queued while no
//! agent answered. Files are replaced, never rewritten, so that a crash leaves the old content or the new.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use causeway_api::cni::Del;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::intent::endpoint::LocalEndpoint;

/// Suffix of files that could not be read; they are kept for whoever wants to know why.
const REFUSED: &str = "refused";

#[derive(Debug, thiserror::Error)]
#[error("{doing} {path}: {source}; is --state-dir writable?", path = path.display())]
pub(crate) struct StoreError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Store {
    endpoints: PathBuf,
    deletions: PathBuf,
}

impl Store {
    /// Makes the directories below `state_dir`.
    pub(crate) fn open(state_dir: &Path) -> Result<Store, StoreError> {
        let store = Store { endpoints: state_dir.join("endpoints"), deletions: deletions_dir(state_dir) };
        for dir in [&store.endpoints, &store.deletions] {
            fs::create_dir_all(dir).map_err(|source| StoreError {
                doing: "making directory",
                path: dir.clone(),
                source,
            })?;
        }
        Ok(store)
    }

    fn path(&self, id: u16) -> PathBuf {
        self.endpoints.join(format!("{id}.json"))
    }

    pub(crate) fn write(&self, endpoint: &LocalEndpoint) -> Result<(), StoreError> {
        let path = self.path(endpoint.id);
        write_atomically(&path, endpoint).map_err(|source| StoreError { doing: "writing", path, source })
    }

    pub(crate) fn remove(&self, id: u16) -> Result<(), StoreError> {
        remove(self.path(id))
    }

    /// All endpoints on disk, in the order of their ids. A file that is not one is set aside and reported in the log.
    pub(crate) fn endpoints(&self) -> Result<Vec<LocalEndpoint>, StoreError> {
        let mut all: Vec<LocalEndpoint> =
            read_all(&self.endpoints)?.into_iter().map(|(_, endpoint)| endpoint).collect();
        all.sort_unstable_by_key(|endpoint| endpoint.id);
        Ok(all)
    }

    /// Queued deletions and their files.
    pub(crate) fn deletions(&self) -> Result<Vec<(PathBuf, Del)>, StoreError> {
        read_all(&self.deletions)
    }

    /// The deletion has been done.
    pub(crate) fn forget(&self, file: PathBuf) -> Result<(), StoreError> {
        remove(file)
    }
}

/// Where the plugin queues deletions; the network configuration tells it.
pub(crate) fn deletions_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("deletions")
}

fn remove(path: PathBuf) -> Result<(), StoreError> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError { doing: "removing", path, source }),
        _ => Ok(()),
    }
}

pub(super) fn write_atomically(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, path)
}

fn read_all<T: DeserializeOwned>(dir: &Path) -> Result<Vec<(PathBuf, T)>, StoreError> {
    let failed = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| StoreError { doing, path, source }
    };
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed("listing", dir))? {
        let path = entry.map_err(failed("listing", dir))?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(StoreError { doing: "reading", path, source }),
        };
        match serde_json::from_slice(&bytes) {
            Ok(value) => all.push((path, value)),
            Err(error) => {
                let aside = path.with_extension(REFUSED);
                tracing::warn!(path = %path.display(), aside = %aside.display(), %error, "setting a file aside that is none of ours");
                fs::rename(&path, &aside).map_err(failed("setting aside", &path))?;
            }
        }
    }
    Ok(all)
}
