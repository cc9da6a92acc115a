//! Wiping a data directory, and nothing else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What etcd writes into its data directory.
const ETCDS: [&str; 3] = ["member", "proxy", "standby"];

#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("there is {}, which etcd did not write; give an empty directory, or etcd's own", .0.display())]
    Foreign(PathBuf),
    #[error("{}: {error}", .path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// Leaves the directory empty, and makes it if there is none. The directory itself stays: it may be a mount.
///
/// # Errors
/// There is something in it that is not etcd's: nothing is deleted then.
pub(super) fn wipe(directory: &Path) -> Result<(), Refused> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| Refused::Io { path, error }
    };
    make(directory).map_err(io(directory))?;
    let entries: Result<Vec<_>, _> = fs::read_dir(directory).map_err(io(directory))?.collect();
    let entries = entries.map_err(io(directory))?;
    let foreign = |entry: &&fs::DirEntry| !entry.file_name().to_str().is_some_and(|name| ETCDS.contains(&name));
    if let Some(entry) = entries.iter().find(foreign) {
        return Err(Refused::Foreign(entry.path()));
    }
    for entry in entries {
        let path = entry.path();
        fs::remove_dir_all(&path).map_err(io(&path))?;
    }
    Ok(())
}

/// Only for its owner, as etcd wants it.
fn make(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_etcds_goes() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        wipe(&at("new/data")).unwrap();
        assert!(at("new/data").is_dir());

        fs::create_dir_all(at("etcd/member/wal")).unwrap();
        wipe(&at("etcd")).unwrap();
        assert_eq!(fs::read_dir(at("etcd")).unwrap().count(), 0);

        fs::create_dir_all(at("home/member")).unwrap();
        fs::write(at("home/letter"), "dear").unwrap();
        let error = wipe(&at("home")).unwrap_err();
        assert!(error.to_string().contains("letter"), "{error}");
        assert!(at("home/member").is_dir(), "nothing is deleted");
    }
}
