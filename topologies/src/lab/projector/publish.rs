//! A directory whose files change all at once, laid out as kubelet's atomic writer lays out Secret volumes.
//!
//! ```text
//! dir/..2026_11_21_15_04_05.123456789/tls.crt     the files
//! dir/..data -> ..2026_11_21_15_04_05.123456789   replaced by one rename: the moment of change
//! dir/tls.crt -> ..data/tls.crt                   what readers open
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::state::write_whole;

const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

/// Makes the directory hold exactly these files. Says whether that changed anything.
pub(crate) fn publish(dir: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<bool> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let before = fs::read_link(dir.join(DATA)).ok();
    if before.as_ref().is_some_and(|before| read(&dir.join(before)).is_ok_and(|now| now == *files)) {
        link(dir, files)?;
        return Ok(false);
    }
    let name = k8s_openapi::jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%N").to_string();
    let fresh = dir.join(&name);
    fs::DirBuilder::new().mode(0o700).create(&fresh).with_context(|| format!("cannot make {}", fresh.display()))?;
    for (file, content) in files {
        write_whole(&fresh.join(file), content, 0o600)?;
    }
    let next = dir.join(NEXT);
    remove_if_there(&next)?;
    symlink(&name, &next).with_context(|| format!("cannot link {}", next.display()))?;
    fs::rename(&next, dir.join(DATA)).with_context(|| format!("cannot replace {}", dir.join(DATA).display()))?;
    link(dir, files)?;
    sweep(dir, &name)?;
    Ok(true)
}

/// Links for files that are there, none for others.
fn link(dir: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    for file in files.keys() {
        let target = Path::new(DATA).join(file);
        let path = dir.join(file);
        if fs::read_link(&path).is_ok_and(|now| now == target) {
            continue;
        }
        remove_if_there(&path)?;
        symlink(&target, &path).with_context(|| format!("cannot link {}", path.display()))?;
    }
    for (name, path) in entries(dir)? {
        if !name.starts_with("..") && !files.contains_key(&name) {
            remove_if_there(&path)?;
        }
    }
    Ok(())
}

/// Removes the files of earlier times.
fn sweep(dir: &Path, current: &str) -> Result<()> {
    for (name, path) in entries(dir)? {
        if name.starts_with("..") && name != DATA && name != current {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn read(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let files = entries(dir)?.into_iter();
    files.map(|(name, path)| Ok((name, fs::read(&path).with_context(|| format!("{}", path.display()))?))).collect()
}

fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let found = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let named = found.filter_map(|entry| entry.ok()).map(|entry| (entry.file_name(), entry.path()));
    Ok(named.filter_map(|(name, path)| Some((name.into_string().ok()?, path))).collect())
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(all: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        all.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
    }

    /// What a reader sees, and how many directories there are.
    fn seen(dir: &Path) -> (Vec<String>, usize) {
        let all = entries(dir).unwrap();
        let mut visible: Vec<String> = all
            .iter()
            .filter(|(name, _)| !name.starts_with(".."))
            .map(|(name, path)| format!("{name}={}", fs::read_to_string(path).unwrap()))
            .collect();
        visible.sort();
        (visible, all.iter().filter(|(name, _)| name.starts_with("..") && name != DATA).count())
    }

    #[test]
    fn files_come_change_and_go() {
        let root = std::env::temp_dir().join(format!("causeway-publish-{}", std::process::id()));
        let dir = root.join("volume");
        for (wanted, changes, words) in [
            (files(&[]), true, vec![]),
            (files(&[("a", "1"), ("b", "2")]), true, vec!["a=1", "b=2"]),
            (files(&[("a", "1"), ("b", "2")]), false, vec!["a=1", "b=2"]),
            (files(&[("b", "3"), ("c", "4")]), true, vec!["b=3", "c=4"]),
            (files(&[]), true, vec![]),
        ] {
            assert_eq!(publish(&dir, &wanted).unwrap(), changes);
            assert_eq!(seen(&dir), (words.into_iter().map(str::to_owned).collect(), 1));
        }
        // What a crash between two steps leaves does not stay.
        fs::create_dir(dir.join("..half")).unwrap();
        symlink("..half", dir.join(NEXT)).unwrap();
        assert!(publish(&dir, &files(&[("a", "5")])).unwrap());
        assert_eq!(seen(&dir), (vec!["a=5".to_owned()], 1));
        fs::remove_dir_all(root).unwrap();
    }
}
