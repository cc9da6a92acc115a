//! The network configuration that tells the container runtime to call our plugin. Its presence tells the kubelet that
//! the node's network is ready, so that it is written when pods can get addresses, and not before.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::store::deletions_dir;

/// Runtimes take the first file by name. Cilium's is `05-cilium.conflist`.
const FILE: &str = "05-causeway.conflist";

/// Runtimes that know `cniVersions` (libcni 1.2 and later) take the newest of these that they speak, others read
/// `cniVersion` only and would refuse one that is newer than they are.
fn configuration(socket: &Path, state_dir: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        "name": "causeway",
        "plugins": [{
            "type": "causeway-cni",
            "agentSocket": socket,
            "deletionQueue": deletions_dir(state_dir),
        }],
    })
}

/// Writes the file unless it is there already with the same content; answers whether it wrote.
pub(super) fn write(dir: &Path, socket: &Path, state_dir: &Path) -> io::Result<bool> {
    fs::create_dir_all(dir)?;
    let wanted = configuration(socket, state_dir);
    let path = dir.join(FILE);
    let now: Option<Value> = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if now.as_ref() == Some(&wanted) {
        return Ok(false);
    }
    super::store::write_atomically(&path, &wanted)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_once_and_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("net.d");
        let write = || write(&conf, Path::new("/run/x/agent.sock"), Path::new("/run/x")).unwrap();
        assert!(write());
        assert!(!write());
        let text = fs::read_to_string(conf.join(FILE)).unwrap();
        assert!(text.contains(r#""agentSocket": "/run/x/agent.sock""#), "{text}");
        assert!(text.contains(r#""deletionQueue": "/run/x/deletions""#), "{text}");
        fs::write(conf.join(FILE), "{").unwrap();
        assert!(write());
    }
}
