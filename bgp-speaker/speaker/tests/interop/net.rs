//! The ground a test stands on: its own network namespace, a folder, and processes that end with it.
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// Addresses on `lo`: ours.
pub(crate) const OUR_V4: &str = "10.99.0.1";
/// The peer's.
pub(crate) const PEER_V4: &str = "10.99.0.2";
/// Ours.
pub(crate) const OUR_V6: &str = "fd99::1";
/// The peer's.
pub(crate) const PEER_V6: &str = "fd99::2";
/// How long anything may take before the test fails; nothing waits this long when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A namespace for the calling thread and what it starts, with a folder for files.
pub(crate) struct Net {
    pub(crate) folder: TempDir,
}

impl Net {
    pub(crate) fn enter() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run this test as root");
        run("ip", &["link", "set", "lo", "up"]);
        for address in [OUR_V4, PEER_V4] {
            run("ip", &["address", "add", &format!("{address}/24"), "dev", "lo"]);
        }
        for address in [OUR_V6, PEER_V6] {
            run("ip", &["address", "add", &format!("{address}/64"), "dev", "lo", "nodad"]);
        }
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("writing a configuration");
        path
    }
}

/// Runs a command to its end and gives what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = output(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that may fail.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("starting {program}: {error}"))
}

/// A daemon that is killed with the test.
pub(crate) struct Daemon(Child);

impl Daemon {
    /// `package`: the Debian package to name when the program is not there.
    pub(crate) fn start(package: &str, program: &str, arguments: &[&str], log: &Path) -> Self {
        assert!(Path::new(program).exists(), "{program} is not installed: apt-get install {package}");
        let log = std::fs::File::create(log).expect("a log file");
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("one more handle to the log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("starting {program}: {error}"));
        Self(child)
    }

    /// SIGKILL, as a crash would be.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It may have ended by itself, which the test has noticed by then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits until `probe` gives a value. `what` and the last problem are told when it does not.
pub(crate) async fn eventually<T>(what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(problem) => assert!(start.elapsed() < PATIENCE, "{what} did not happen in {PATIENCE:?}: {problem}"),
        }
        // Other processes have no event for us to wait on; this is the pace of asking, not the condition.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
