//! Replays the seed corpus of the fuzz targets (`tests/fuzz/corpus` of the repository) on the stable compiler, and the same
//! bent at random.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "../../../tests/fuzz/src/wireguard.rs"]
mod wireguard;

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

/// The files of a target, by name.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

#[test]
fn datagrams() {
    for (file, input) in corpus("datagrams") {
        println!("{}", file.display());
        wireguard::datagrams(&input);
    }
}

#[test]
fn request() {
    for (file, line) in corpus("request") {
        println!("{}", file.display());
        wireguard::request(&line);
        let name = file.file_name().unwrap().to_str().unwrap();
        let understood = serde_json::from_slice::<causeway_encryption_plan::Request>(&line);
        assert_eq!(understood.is_ok(), !name.starts_with("refused-"), "{name}: {understood:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bent_datagrams(steps in prop::collection::vec((0..8u8, prop::collection::vec(any::<[u8; 3]>(), 0..4)), 0..20)) {
        let steps = steps.iter().map(|(kind, changes)| {
            // Places within a message are likelier than beyond it.
            let changes = changes.iter().flat_map(|[high, low, value]| [if *high < 200 { 0 } else { *high }, *low, *value]);
            let changes: Vec<u8> = changes.collect();
            [&[*kind, u8::try_from(changes.len() / 3).unwrap()], &changes[..]].concat()
        });
        wireguard::datagrams(&steps.collect::<Vec<_>>().concat());
    }

    #[test]
    fn bent_requests(pick: prop::sample::Index, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let files = corpus("request");
        let mut line = files[pick.index(files.len())].1.clone();
        for (at, value) in changes {
            let at = at.index(line.len());
            line[at] = value;
        }
        wireguard::request(&line);
    }
}
