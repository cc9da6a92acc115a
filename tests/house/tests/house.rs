//! The house's rules, read from `cargo metadata` and from the files themselves.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which of our packages each package may depend on. A package that is missing here fails the test, so that a new room
/// states its place when it is built.
const ARROWS: &[(&str, &[&str])] = &[
    ("causeway-bgp-wire", &[]),
    ("causeway-bgp-core", &["causeway-bgp-wire"]),
    ("causeway-bgp-speaker", &["causeway-bgp-core", "causeway-bgp-wire"]),
    ("causeway-datapath-abi", &[]),
    ("causeway-datapath-logic", &["causeway-datapath-abi"]),
    ("causeway-datapath-loader", &["causeway-datapath-abi", "causeway-datapath-logic"]),
    ("causeway-encryption-plan", &[]),
    ("causeway-encryption-device", &["causeway-encryption-plan"]),
    ("causeway-encryption-kernel", &["causeway-encryption-device", "causeway-encryption-plan"]),
    ("causeway-wireguard", &["causeway-encryption-plan"]),
    // What a ServiceExport offers is said by two binaries, which must say the same.
    ("causeway-k8s", &["causeway-mesh-schema"]),
    ("causeway-mesh-schema", &[]),
    ("causeway-mesh-kv", &[]),
    ("causeway-mesh-remote", &["causeway-mesh-kv", "causeway-mesh-schema"]),
    ("causeway-mesh-setup", &["causeway-mesh-schema"]),
    (
        "causeway-clustermesh-apiserver",
        &["causeway-k8s", "causeway-mesh-kv", "causeway-mesh-remote", "causeway-mesh-schema"],
    ),
    ("causeway-operator", &["causeway-k8s", "causeway-mesh-kv", "causeway-mesh-remote", "causeway-mesh-schema"]),
    ("causeway-table", &[]),
    ("causeway-api", &[]),
    (
        "causeway-agent",
        &[
            "causeway-api",
            "causeway-bgp-core",
            "causeway-bgp-speaker",
            "causeway-bgp-wire",
            "causeway-datapath-abi",
            "causeway-datapath-loader",
            "causeway-encryption-device",
            "causeway-encryption-kernel",
            "causeway-encryption-plan",
            "causeway-k8s",
            "causeway-mesh-kv",
            "causeway-mesh-remote",
            "causeway-mesh-schema",
            "causeway-table",
        ],
    ),
    ("causeway-cni", &["causeway-api"]),
    ("causeway-ctl", &["causeway-api", "causeway-mesh-setup"]),
    ("causeway-topology", &[]),
    ("causeway-lab-apiserver", &[]),
    ("causeway-e2e", &["causeway-mesh-schema", "causeway-topology"]),
    (
        "causeway-bench",
        &[
            "causeway-api",
            "causeway-datapath-abi",
            "causeway-datapath-loader",
            "causeway-encryption-device",
            "causeway-encryption-plan",
        ],
    ),
    ("causeway-house", &[]),
];

/// Crates whose cores hold no I/O: each must carry a `clippy.toml` that bans it, or be `no_std`.
const PURE: &[&str] = &[
    "bgp-speaker/wire",
    "bgp-speaker/core",
    "clustermesh-apiserver/schema",
    "datapath/abi",
    "datapath/logic",
    "encryption/plan",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn metadata() -> serde_json::Value {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn our_files(extension: &str) -> Vec<PathBuf> {
    let out =
        Command::new("git").args(["ls-files", "*.rs", "*.toml", "*.md", "*.sh"]).current_dir(root()).output().unwrap();
    String::from_utf8(out.stdout)
        .unwrap()
        .lines()
        .map(|l| root().join(l))
        .filter(|p| p.extension().is_some_and(|e| e == extension) && p.exists())
        .collect()
}

#[test]
fn arrows_point_one_way() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ARROWS.iter().map(|(name, deps)| (*name, deps.iter().copied().collect())).collect();
    let meta = metadata();
    let packages = meta["packages"].as_array().unwrap();
    let ours: BTreeSet<&str> = packages.iter().map(|p| p["name"].as_str().unwrap()).collect();
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let Some(may) = allowed.get(name) else {
            wrong.push(format!("{name} has no line in ARROWS"));
            continue;
        };
        for dep in package["dependencies"].as_array().unwrap() {
            let dep_name = dep["name"].as_str().unwrap();
            // Tests may look at a neighbour; what ships may not.
            if dep["kind"].as_str() == Some("dev") {
                continue;
            }
            if ours.contains(dep_name) && !may.contains(dep_name) {
                wrong.push(format!("{name} -> {dep_name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that point the wrong way: {wrong:#?}");
}

#[test]
fn versions_stand_only_in_the_root_manifest() {
    let mut wrong = Vec::new();
    for file in our_files("toml").iter().filter(|f| f.file_name().unwrap() == "Cargo.toml") {
        let text = std::fs::read_to_string(file).unwrap();
        let manifest: toml::Table = text.parse().unwrap();
        // Crates outside the workspace (other toolchains, own lock files) name their own versions.
        if manifest.contains_key("workspace") {
            continue;
        }
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, spec) in manifest.get(section).and_then(|s| s.as_table()).into_iter().flatten() {
                let inherits = spec.get("workspace").and_then(toml::Value::as_bool) == Some(true);
                let by_path = spec.get("path").is_some();
                if !inherits && !by_path {
                    wrong.push(format!("{}: {name}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "versions outside the root manifest: {wrong:#?}");
}

#[test]
fn one_copy_of_the_network_stack() {
    let lock: toml::Table = std::fs::read_to_string(root().join("Cargo.lock")).unwrap().parse().unwrap();
    let mut copies: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        copies.entry(package["name"].as_str().unwrap()).or_default().push(package["version"].as_str().unwrap());
    }
    for name in ["rustls", "tonic", "hyper", "tokio", "axum", "ring"] {
        if let Some(versions) = copies.get(name) {
            assert_eq!(versions.len(), 1, "{name} is in Cargo.lock as {versions:?}");
        }
    }
    assert!(!copies.contains_key("aws-lc-rs"), "aws-lc-rs came in beside ring");
}

#[test]
fn pure_crates_prove_that_they_are() {
    for dir in PURE {
        let dir = root().join(dir);
        let head = std::fs::read_to_string(dir.join("src/lib.rs")).unwrap();
        let banned = std::fs::read_to_string(dir.join("clippy.toml")).unwrap_or_default();
        assert!(
            head.contains("#![no_std]")
                || (banned.contains("std::time::Instant::now") && banned.contains("disallowed")),
            "{} is neither no_std nor has a clippy.toml that bans clocks",
            dir.display()
        );
    }
}

#[test]
fn every_file_says_what_it_is() {
    let mut wrong = Vec::new();
    for file in our_files("rs") {
        let text = std::fs::read_to_string(&file).unwrap();
        if !text.lines().any(|l| l.starts_with("//!")) {
            wrong.push(file);
        }
    }
    assert!(wrong.is_empty(), "files without a //! head: {wrong:#?}");
}
