//! This node's private keys on disk: one file, for root alone, replaced whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use causeway_encryption_plan::{OwnKey, OwnKeys, PrivateKey};
use rand::TryRng as _;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("{path}: {error}")]
    Io { path: String, error: io::Error },
    /// Not overwritten: whoever damaged it may have the keys elsewhere.
    #[error("{path} is no key file ({error}); restore it, or remove it to have new keys made")]
    Malformed { path: String, error: serde_json::Error },
    #[error("{path} may be read by others (mode {mode:04o}): make it 0600, and remove it if somebody may have read it")]
    Readable { path: String, mode: u32 },
    #[error("the kernel gives no random numbers: {0}")]
    Random(String),
}

/// The keys' file, on a disk that survives a reboot: another key after each reboot would leave the node dark until
/// everybody has heard of it.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Stored {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    previous: Option<StoredKey>,
    current: StoredKey,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    next: Option<StoredKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StoredKey {
    epoch: u32,
    private: PrivateKey,
    /// Seconds since the Unix epoch.
    made: u64,
}

impl KeyFile {
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The keys that are there; makes the first one if there are none. `now`: since the Unix epoch.
    pub fn load_or_make(&self, now: Duration) -> Result<OwnKeys, KeyFileError> {
        match self.load()? {
            Some(keys) => Ok(keys),
            None => {
                let keys = OwnKeys::first(Self::make()?, now);
                self.store(&keys)?;
                Ok(keys)
            }
        }
    }

    /// A new private key, not stored.
    pub fn make() -> Result<PrivateKey, KeyFileError> {
        let mut bytes = [0; 32];
        rand::rngs::SysRng.try_fill_bytes(&mut bytes).map_err(|error| KeyFileError::Random(error.to_string()))?;
        let key = PrivateKey::from_random(bytes);
        bytes.zeroize();
        Ok(key)
    }

    /// Written beside and renamed, so that a crash leaves the old keys or the new ones.
    pub fn store(&self, keys: &OwnKeys) -> Result<(), KeyFileError> {
        let stored = Stored {
            previous: keys.previous.as_ref().map(store_key),
            current: store_key(&keys.current),
            next: keys.next.as_ref().map(store_key),
        };
        let text = serde_json::to_vec(&stored)
            .map_err(|error| KeyFileError::Malformed { path: self.path.display().to_string(), error })?;
        self.replace(&Zeroizing::new(text)).map_err(|error| self.failed(error))
    }

    fn replace(&self, text: &[u8]) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory)?;
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(directory)?.sync_all()
    }

    fn load(&self) -> Result<Option<OwnKeys>, KeyFileError> {
        let text = match fs::read(&self.path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed(error)),
        };
        let mode = fs::metadata(&self.path).map_err(|error| self.failed(error))?.mode() & 0o7777;
        let path = self.path.display().to_string();
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Readable { path, mode });
        }
        let stored: Stored = serde_json::from_slice(&text).map_err(|error| KeyFileError::Malformed { path, error })?;
        Ok(Some(OwnKeys {
            previous: stored.previous.map(load_key),
            current: load_key(stored.current),
            next: stored.next.map(load_key),
        }))
    }

    fn failed(&self, error: io::Error) -> KeyFileError {
        KeyFileError::Io { path: self.path.display().to_string(), error }
    }
}

fn store_key(key: &OwnKey) -> StoredKey {
    StoredKey { epoch: key.epoch, private: key.private.clone(), made: key.made.as_secs() }
}

fn load_key(key: StoredKey) -> OwnKey {
    OwnKey::new(key.epoch, key.private, Duration::from_secs(key.made))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    #[test]
    fn keys_survive_and_are_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = KeyFile::new(dir.path().join("keys/wireguard.json"));
        let mut keys = file.load_or_make(NOW).unwrap();
        assert_eq!(file.load_or_make(NOW + Duration::from_secs(9)).unwrap(), keys);
        keys.next = Some(OwnKey::new(2, KeyFile::make().unwrap(), NOW));
        file.store(&keys).unwrap();
        assert_eq!(file.load_or_make(NOW).unwrap(), keys);
        let mode = fs::metadata(dir.path().join("keys/wireguard.json")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn a_damaged_or_readable_file_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wireguard.json");
        let file = KeyFile::new(path.clone());
        file.load_or_make(NOW).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(file.load_or_make(NOW).unwrap_err().to_string().contains("mode 0640"));
        fs::write(&path, "{").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(file.load_or_make(NOW).unwrap_err().to_string().contains("is no key file"));
        assert_eq!(fs::read(&path).unwrap(), b"{");
    }
}
