//! CAs read from, and Secrets written to, files. A file with a key is 0600, its directory 0700, from the first moment.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use causeway_mesh_setup::{Authority, Data, Planned, Timestamp, Zeroizing, key};

use super::Trouble;

/// The CA in a directory with `ca.crt` and `ca.key`.
pub(super) fn authority(dir: &Path, now: Timestamp) -> Result<Authority, Trouble> {
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read(&path).map(Zeroizing::new).map_err(|error| {
            Trouble(format!("{}: {error}; --ca-from wants a directory with ca.crt and ca.key", path.display()))
        })
    };
    let (cert, ca_key) = (read(key::CA_CERT)?, read(key::CA_KEY)?);
    Ok(Authority::load(&dir.display().to_string(), &cert, &ca_key, now)?)
}

/// Writes `dir/<secret>/<key>` for every Secret. A reader sees an old file or a new one, never half of one.
pub(super) fn write(dir: &Path, planned: &[Planned]) -> Result<(), Trouble> {
    planned.iter().try_for_each(|secret| write_secret(&dir.join(secret.name), &secret.data)).map_err(|error| {
        Trouble(format!("{}: {error}; --write-to wants a directory that can be written to", dir.display()))
    })
}

fn write_secret(dir: &Path, data: &Data) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    for (name, bytes) in data {
        let new = dir.join(format!(".{name}.new"));
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, dir.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_private_and_replaced() {
        let dir = std::env::temp_dir().join(format!("causeway-files-{}", std::process::id()));
        let data = |text: &str| Data::from([("tls.key".to_owned(), text.as_bytes().to_vec().into())]);
        write_secret(&dir.join("s"), &data("one")).unwrap();
        write_secret(&dir.join("s"), &data("two")).unwrap();
        let path = dir.join("s/tls.key");
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(dir.join("s")).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(dir.join("s")).unwrap().count(), 1);
        fs::remove_dir_all(&dir).unwrap();
    }
}
