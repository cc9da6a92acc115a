//! Builds the eBPF object with whatever toolchain the machine has, and leaves it in `OUT_DIR` for `include_bytes!`.
//!
//! aya-build prints every line of the inner cargo as a warning. So the script runs itself once more as a child, keeps
//! the child's output, and shows it only when the build fails or has real warnings.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

const PACKAGE: &str = "causeway-datapath-ebpf";
/// Name of the binary target in that package, and of the file in `OUT_DIR`.
const OBJECT: &str = "causeway";
/// Tells the child its toolchain; set by this script only.
const CHILD: &str = "CAUSEWAY_EBPF_TOOLCHAIN";
const NO_TOOLCHAIN: &str = "no toolchain can build eBPF programs: either `rustup toolchain install nightly --component \
     rust-src`, or (Debian) `apt-get install rustc-web cargo-web libstd-rust-web-dev-bpf`";
const NO_LINKER: &str = "bpf-linker was found neither in PATH nor in ~/.cargo/bin: run `make setup`, or `cargo install \
     bpf-linker` with the LLVM version of your eBPF compiler";

fn main() -> ExitCode {
    let done = match env::var(CHILD) {
        Ok(toolchain) => compile(&toolchain),
        Err(_) => supervise(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error={}", format!("{error:#}").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn supervise() -> Result<()> {
    let datapath = manifest_dir()?.parent().context("the loader stands in datapath/")?.to_owned();
    for watched in ["ebpf/src", "ebpf/Cargo.toml", "ebpf/Cargo.lock", "abi/src", "abi/Cargo.toml", "logic/src"] {
        println!("cargo::rerun-if-changed={}", datapath.join(watched).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    for variable in ["AYA_BUILD_SKIP", "BPF_TOOLCHAIN", "RUSTC_BOOTSTRAP", "DOCS_RS"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?).join(OBJECT);
    if asks_to_skip() {
        println!("cargo::warning=built without eBPF programs: AYA_BUILD_SKIP is set");
        return std::fs::write(&out, []).with_context(|| format!("writing {}", out.display()));
    }
    let toolchain = choose_toolchain()?;
    let mut child = Command::new(env::current_exe()?);
    child.env(CHILD, &toolchain).env("PATH", path_with_linker()?).stdout(Stdio::piped()).stderr(Stdio::piped());
    if toolchain == "/usr" && env::var_os("RUSTC_BOOTSTRAP").is_none() {
        // The eBPF crate needs one unstable feature, and core is prebuilt there: name the crate, so that aya-build
        // does not ask for build-std.
        child.env("RUSTC_BOOTSTRAP", "aya_ebpf");
    }
    let output = child.output().context("starting the eBPF build")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|l| l.strip_prefix("cargo:warning=").or(l.strip_prefix("cargo::error=")));
    if !output.status.success() {
        for line in lines {
            println!("cargo::warning={line}");
        }
        bail!("building the eBPF programs with toolchain {toolchain:?} failed; the compiler's words stand above");
    }
    let mut in_warning = false;
    for line in lines {
        in_warning = line.starts_with("warning: ") || (in_warning && !line.trim().is_empty());
        if in_warning {
            println!("cargo::warning={line}");
        }
    }
    Ok(())
}

/// Asked for at run time: a checkout that moves, or a second one that shares its target directory, has another.
fn manifest_dir() -> Result<PathBuf> {
    Ok(PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("cargo sets CARGO_MANIFEST_DIR")?))
}

fn compile(toolchain: &str) -> Result<()> {
    let root = manifest_dir()?.with_file_name("ebpf");
    // The eBPF crate is a workspace of its own; the inner cargo finds it by the working directory.
    env::set_current_dir(&root).with_context(|| format!("entering {}", root.display()))?;
    let root_dir = root.to_str().context("the path of the repository is not UTF-8")?;
    let package = Package { name: PACKAGE, root_dir, ..Package::default() };
    let toolchain = if toolchain == "nightly" { Toolchain::Nightly } else { Toolchain::Custom(toolchain) };
    aya_build::build_ebpf([package], toolchain)
}

fn asks_to_skip() -> bool {
    let set = |name| env::var_os(name).is_some_and(|v| v == "1" || v.eq_ignore_ascii_case("true"));
    set("AYA_BUILD_SKIP") || env::var_os("DOCS_RS").is_some()
}

fn choose_toolchain() -> Result<String> {
    if let Ok(named) = env::var("BPF_TOOLCHAIN")
        && !named.is_empty()
    {
        return Ok(named);
    }
    let nightly = stdout_of(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]));
    if nightly.is_some_and(|root| Path::new(&root).join("lib/rustlib/src/rust/library/core").is_dir()) {
        return Ok("nightly".into());
    }
    let usr =
        stdout_of(Command::new("/usr/bin/rustc").args(["--print", "target-libdir", "--target", "bpfel-unknown-none"]));
    if usr.is_some_and(|dir| has_core(Path::new(&dir))) {
        return Ok("/usr".into());
    }
    bail!(NO_TOOLCHAIN)
}

fn has_core(libdir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(libdir) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}

fn stdout_of(command: &mut Command) -> Option<String> {
    let output = command.env_remove("RUSTUP_TOOLCHAIN").stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// PATH, with `~/.cargo/bin` behind it when only that has bpf-linker.
fn path_with_linker() -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    dirs.extend(env::var_os("CARGO_HOME").map(PathBuf::from).or(home).map(|dir| dir.join("bin")));
    if !dirs.iter().any(|dir| dir.join("bpf-linker").is_file()) {
        bail!(NO_LINKER);
    }
    env::join_paths(dirs).context("PATH holds a directory with a colon in its name")
}
