//! The ground a test stands on: its own network namespace, a folder, and processes that end with it.
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

/// Addresses on the cable: ours.
pub(crate) const OUR_V4: &str = "10.99.0.1";
/// The peer's.
pub(crate) const PEER_V4: &str = "10.99.0.2";
/// Ours.
pub(crate) const OUR_V6: &str = "fd99::1";
/// The peer's.
pub(crate) const PEER_V6: &str = "fd99::2";
/// How long anything may take before the test fails; nothing waits this long when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The interface on our side.
pub(crate) const OUR_LINK: &str = "ours";
/// Link-local address of the peer.
pub(crate) const PEER_LINK_LOCAL: &str = "fe80::2";
/// Ours.
pub(crate) const OUR_LINK_LOCAL: &str = "fe80::1";

/// Two namespaces and a cable: the calling thread (and what it starts) lives in ours, daemons in the peer's. Both end
/// with the test, as nobody else holds them.
pub(crate) struct Net {
    pub(crate) folder: TempDir,
    peer: File,
}

impl Net {
    pub(crate) fn enter() -> Self {
        let peer = new_namespace();
        let _ours = new_namespace();
        let mut folder = tempfile::tempdir().expect("a temporary folder");
        // For a look at the daemons' logs after a failure.
        folder.disable_cleanup(std::env::var_os("KEEP_LOGS").is_some());
        let net = Self { folder, peer };
        let peer_path = net.peer_path();
        run("ip", &["link", "add", OUR_LINK, "type", "veth", "peer", "name", "theirs", "netns", &peer_path]);
        run("ip", &["link", "set", "lo", "up"]);
        for address in [format!("{OUR_V4}/24"), format!("{OUR_V6}/64"), format!("{OUR_LINK_LOCAL}/64")] {
            run("ip", &["address", "add", &address, "dev", OUR_LINK, "nodad"]);
        }
        run("ip", &["link", "set", OUR_LINK, "up"]);
        let enter = format!("--net={peer_path}");
        run("nsenter", &[&enter, "ip", "link", "set", "lo", "up"]);
        for address in [format!("{PEER_V4}/24"), format!("{PEER_V6}/64"), format!("{PEER_LINK_LOCAL}/64")] {
            run("nsenter", &[&enter, "ip", "address", "add", &address, "dev", "theirs", "nodad"]);
        }
        run("nsenter", &[&enter, "ip", "link", "set", "theirs", "up"]);
        net
    }

    /// A path to the peer's namespace for other processes.
    fn peer_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.peer.as_raw_fd())
    }

    /// Starts a daemon at the peer's end. `package`: the Debian package to name when the program is not there.
    pub(crate) fn daemon(&self, package: &str, program: &str, arguments: &[&str]) -> Daemon {
        assert!(Path::new(program).exists(), "{program} is not installed: apt-get install {package}");
        let name = Path::new(program).file_name().expect("a program").to_string_lossy().into_owned();
        let log = File::create(self.folder.path().join(format!("{name}.log"))).expect("a log file");
        let child = Command::new("nsenter")
            .arg(format!("--net={}", self.peer_path()))
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("one more handle to the log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("starting {program}: {error}"));
        Daemon(child)
    }

    /// Runs a command at the peer's end.
    pub(crate) fn at_peer(&self, arguments: &[&str]) -> Output {
        let enter = format!("--net={}", self.peer_path());
        output("nsenter", &[&[enter.as_str()], arguments].concat())
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("writing a configuration");
        path
    }
}

/// Moves the calling thread into a new namespace.
fn new_namespace() -> File {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run this test as root");
    File::open("/proc/thread-self/ns/net").expect("the namespace that was just made")
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

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed by then.
        let _ = self.0.kill();
        let _ = self.0.wait();
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
