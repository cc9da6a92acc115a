//! Deletions that wait for the agent: one file each, which the agent does and removes when it starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use causeway_api::cni::Del;

/// A node has some hundred pods; a queue of this length means that no agent has run for a long time.
const MAX_QUEUED: usize = 4096;

/// Leaves a note. The same attachment twice is one note.
pub(crate) fn put(dir: &Path, del: &Del) -> io::Result<PathBuf> {
    fs::create_dir_all(dir)?;
    let path = dir.join(format!("{}-{}.json", del.attachment.container_id, del.attachment.ifname));
    if !path.exists() && fs::read_dir(dir)?.count() >= MAX_QUEUED {
        return Err(io::Error::other(format!("{MAX_QUEUED} deletions wait already; start the agent")));
    }
    let temporary = path.with_extension("new");
    fs::write(&temporary, serde_json::to_vec(del)?)?;
    fs::rename(&temporary, &path)?;
    Ok(path)
}
