//! Replays the seed corpus of the fuzz targets (`tests/fuzz/corpus` of the repository) on the stable compiler.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "fixtures are files; the codec itself does no I/O")]

#[path = "common/captures.rs"]
mod captures;
#[path = "../../../tests/fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

use captures::captures;

#[test]
fn stream() {
    let pieces = [1, 7, 19, 255];
    let streams = captures()
        .into_iter()
        .enumerate()
        .map(|(at, (name, octets))| (name, [&[pieces[at % pieces.len()]], octets.as_slice()].concat()));
    replay("stream", streams.collect(), targets::stream);
}

#[test]
fn open() {
    let opens = captures().into_iter().filter(|(_, octets)| octets[18] == 1);
    replay("open", opens.map(|(name, octets)| (name, octets[19..].to_vec())).collect(), targets::open);
}

#[test]
fn update() {
    // The session of two-octet numbers has a choice of its own, see `targets::context`.
    let updates = captures().into_iter().filter(|(_, octets)| octets[18] == 2).map(|(name, octets)| {
        let choice = if name.contains("2octet") { 2 } else { 0 };
        (name, [&[choice], &octets[19..]].concat())
    });
    replay("update", updates.collect(), targets::update);
}

/// Runs a target over its corpus, in which the captures must be; `UPDATE_FIXTURES` writes them.
fn replay(target: &str, captures: Vec<(String, Vec<u8>)>, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(target);
    for (name, octets) in captures {
        let path = folder.join(format!("capture-{name}"));
        if std::env::var_os("UPDATE_FIXTURES").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &octets).unwrap();
        }
        assert_eq!(fs::read(&path).ok(), Some(octets), "{}: set UPDATE_FIXTURES=1 to accept", path.display());
    }
    let files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    for file in files {
        println!("{}", file.display());
        run(&fs::read(file).unwrap());
    }
}
