//! The messages in `tests/fixtures`, as octets.

use std::fs;
use std::path::Path;

/// All messages with their headers, named by file and number.
pub(crate) fn captures() -> Vec<(String, Vec<u8>)> {
    let mut captures = Vec::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(path).unwrap();
        let mut digits = String::new();
        let mut number = 0;
        for line in text.lines() {
            if let Some(hex) = line.strip_prefix("  ") {
                digits.extend(hex.split_whitespace());
            } else if !digits.is_empty() {
                let octet = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
                number += 1;
                captures.push((format!("{name}-{number:02}"), (0..digits.len()).step_by(2).map(octet).collect()));
                digits.clear();
            }
        }
    }
    assert!(captures.len() > 40, "only {} captures", captures.len());
    captures
}
