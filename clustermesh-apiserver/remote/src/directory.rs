//! The configuration directory (`/var/lib/cilium/clustermesh`): a file per remote cluster, named as the cluster.
//!
//! [`Directory::scan`] reads it and says what is different from the time before. Only what the files say counts: a touched
//! file, kubelet's `..data` link swapped to the same content, and new certificates next to it are no changes (a session
//! reads its certificates at every handshake).
//!
//! Not here: when to scan (`watch`), what becomes of a connection (`mesh`).

mod file;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use causeway_mesh_kv::Connect;
use causeway_mesh_schema::ClusterName;

pub use self::file::{FileProblem, parse};
pub(crate) use self::watch::Watch;

/// What was read last.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Our own cluster may stand among the others, and is not read.
    own: ClusterName,
    files: BTreeMap<ClusterName, File>,
    problems: Vec<FileProblem>,
}

#[derive(Debug)]
struct File {
    content: Vec<u8>,
    /// The last good one; a file that became bad takes no connection down.
    connect: Option<Connect>,
}

/// What is different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    Added(ClusterName, Connect),
    /// The cluster is to be reached another way.
    Changed(ClusterName, Connect),
    Removed(ClusterName),
}

impl Difference {
    #[must_use]
    pub fn name(&self) -> &ClusterName {
        match self {
            Difference::Added(name, _) | Difference::Changed(name, _) | Difference::Removed(name) => name,
        }
    }
}

/// A file says where a cluster is, and needs no more than this.
const MAX_FILE_BYTES: u64 = 64 << 10;

impl Directory {
    #[must_use]
    pub fn new(path: PathBuf, own: ClusterName) -> Directory {
        Directory { path, own, files: BTreeMap::new(), problems: Vec::new() }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Files that cannot be used, and why.
    #[must_use]
    pub fn problems(&self) -> &[FileProblem] {
        &self.problems
    }

    /// Reads all files. A directory that does not exist has none.
    ///
    /// # Errors
    /// The directory cannot be read; nothing is changed then.
    pub fn scan(&mut self) -> io::Result<Vec<Difference>> {
        let names = file_names(&self.path)?;
        let mut found = BTreeMap::new();
        self.problems.clear();
        for name in names {
            match self.read(&name) {
                Ok(None) => {}
                Ok(Some((cluster, content))) => {
                    found.insert(cluster, content);
                }
                Err(problem) => {
                    self.problems.push(problem);
                    // It is there: what it said last goes on.
                    found.extend(self.known(&name).map(|cluster| (cluster, Vec::new())));
                }
            }
        }
        Ok(self.compare(found))
    }

    /// The cluster of this name, if its file is not new.
    fn known(&self, name: &str) -> Option<ClusterName> {
        ClusterName::parse(name).ok().filter(|cluster| self.files.contains_key(cluster))
    }

    /// The content of a file that is meant for us; empty while a known one is being written.
    fn read(&self, name: &str) -> Result<Option<(ClusterName, Vec<u8>)>, FileProblem> {
        let path = self.path.join(name);
        let problem = |problem: String, remedy: &str| FileProblem::new(&path, "", problem, remedy);
        let cluster = ClusterName::parse(name);
        if cluster.as_ref().is_ok_and(|cluster| *cluster == self.own) {
            return Ok(None);
        }
        let known = self.known(name).is_some();
        let content = match content(&path) {
            Ok(content) => content,
            // It went away after it was listed, or is a link to nothing.
            Err(Unread::Gone) => return Ok(None),
            Err(Unread::Failed(error)) => return Err(problem(error.to_string(), "make the file readable")),
            // Directories and bundles of certificates may stand beside; a file that is named as a cluster says where it is.
            Err(Unread::Directory) if !known => return Ok(None),
            Err(Unread::Directory | Unread::Irregular | Unread::TooLong) if cluster.is_err() => return Ok(None),
            Err(Unread::Directory | Unread::Irregular) => {
                return Err(problem(
                    "not a regular file".to_owned(),
                    "write the configuration into a file of this name",
                ));
            }
            Err(Unread::TooLong) => {
                let said = format!("longer than {MAX_FILE_BYTES} bytes");
                return Err(problem(said, "write nothing but the cluster's configuration into it"));
            }
        };
        let is_being_written = known && content.is_empty();
        if !(file::is_meant(&content) || is_being_written) {
            return Ok(None);
        }
        match cluster {
            Ok(cluster) => Ok(Some((cluster, content))),
            Err(error) => Err(problem(error.to_string(), "name the file as that cluster's --cluster-name")),
        }
    }

    fn compare(&mut self, found: BTreeMap<ClusterName, Vec<u8>>) -> Vec<Difference> {
        let gone: Vec<ClusterName> = self.files.keys().filter(|name| !found.contains_key(*name)).cloned().collect();
        let mut differences = Vec::new();
        for name in gone {
            if self.files.remove(&name).is_some_and(|file| file.connect.is_some()) {
                differences.push(Difference::Removed(name));
            }
        }
        for (name, content) in found {
            let file = self.files.entry(name.clone()).or_insert(File { content: Vec::new(), connect: None });
            if content.is_empty() || (file.content == content && file.connect.is_some()) {
                continue;
            }
            match parse(&self.path.join(name.as_str()), &content) {
                Ok(connect) => {
                    // What was bad in between must not make the same again look like a change.
                    let difference = match &file.connect {
                        Some(old) if *old == connect => None,
                        Some(_) => Some(Difference::Changed(name, connect.clone())),
                        None => Some(Difference::Added(name, connect.clone())),
                    };
                    differences.extend(difference);
                    *file = File { content, connect: Some(connect) };
                }
                Err(problem) => self.problems.push(problem),
            }
        }
        differences
    }
}

/// Why there is no content.
enum Unread {
    Gone,
    Directory,
    /// A socket, a pipe or a device.
    Irregular,
    TooLong,
    Failed(io::Error),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Unread {
        if error.kind() == io::ErrorKind::NotFound { Unread::Gone } else { Unread::Failed(error) }
    }
}

fn content(path: &Path) -> Result<Vec<u8>, Unread> {
    let meta = fs::metadata(path)?;
    match meta.len() {
        _ if meta.is_dir() => Err(Unread::Directory),
        _ if !meta.is_file() => Err(Unread::Irregular),
        length if length > MAX_FILE_BYTES => Err(Unread::TooLong),
        _ => Ok(fs::read(path)?),
    }
}

/// Ascending; hidden ones (`..data` and its like) are left out.
fn file_names(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string()
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
