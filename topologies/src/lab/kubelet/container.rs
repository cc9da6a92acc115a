//! A container is a process of the host inside the pod's network namespace, with its own process group and log.
//!
//! Each is waited for by the thread that started it. One that an earlier kubelet started is no child of ours: its end is
//! seen by looking, and its exit code is not known.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::mounts;
use crate::netns;
use crate::process::ProcessId;

/// Exit code of a container whose end nobody saw, as Kubernetes reports it.
pub(crate) const UNKNOWN_EXIT: i32 = 137;
/// Between two looks at a process that is not our child.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Everything that a start needs.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: PathBuf,
    /// stdout and stderr are appended; `None` drops them.
    pub(crate) log: Option<PathBuf>,
    /// `None`: the node's own.
    pub(crate) netns: Option<PathBuf>,
    /// What it sees as `/etc/resolv.conf`; `None`: the host's.
    pub(crate) resolv_conf: Option<PathBuf>,
}

impl Launch {
    /// Starts it on the calling thread, which moves into its namespaces.
    fn spawn(&self) -> Result<Child> {
        let (program, arguments) = self.argv.split_first().context("no command")?;
        if let Some(path) = &self.netns {
            netns::enter(path)?;
        }
        if let Some(file) = &self.resolv_conf {
            mounts::own_resolv_conf(file)?;
        }
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(&self.env)
            .current_dir(&self.cwd)
            .stdin(Stdio::null())
            .process_group(0);
        match &self.log {
            Some(path) => {
                let log = OpenOptions::new().create(true).append(true).open(path);
                let log = log.with_context(|| format!("cannot open {}", path.display()))?;
                command.stdout(log.try_clone()?).stderr(log);
            }
            None => {
                command.stdout(Stdio::null()).stderr(Stdio::null());
            }
        }
        command.spawn().with_context(|| format!("cannot run {program} in {}", self.cwd.display()))
    }
}

/// Starts a container; `ended` gets its exit code, on another thread.
pub(crate) fn start(launch: Launch, ended: impl FnOnce(i32) + Send + 'static) -> Result<ProcessId> {
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new()
        .name("container".into())
        .spawn(move || {
            let started = launch.spawn().and_then(|child| Ok((ProcessId::of(child.id())?, child)));
            match started {
                Ok((id, child)) => {
                    // Nobody listens only when the kubelet ends.
                    let _ = sender.send(Ok(id));
                    ended(wait(child));
                }
                Err(error) => {
                    let _ = sender.send(Err(error));
                }
            }
        })
        .context("cannot start a thread")?;
    receiver.recv().map_err(|_| anyhow!("the thread that starts the container panicked"))?
}

/// Waits for the end of a process that is not our child.
pub(crate) async fn watch(process: ProcessId) {
    while process.alive() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn wait(mut child: Child) -> i32 {
    let Ok(pid) = i32::try_from(child.id()) else { return UNKNOWN_EXIT };
    let pid = Pid::from_raw(pid);
    // Seen but not reaped: its id still names its group, so that what it left behind can be ended safely.
    let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
    let _ = killpg(pid, Signal::SIGKILL);
    child.wait().map_or(UNKNOWN_EXIT, exit_code)
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Runs a command to its end, for probes and hooks. Blocking.
pub(crate) fn run_to_end(launch: &Launch, limit: Duration) -> std::result::Result<(), String> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut child = launch.spawn().map_err(|error| format!("{error:#}"))?;
            let start = Instant::now();
            loop {
                match child.try_wait() {
                    Ok(Some(status)) if status.success() => return Ok(()),
                    Ok(Some(status)) => return Err(format!("exit code {}", exit_code(status))),
                    Ok(None) if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(5)),
                    Ok(None) => {
                        let _ = child.kill().and_then(|()| child.wait());
                        return Err(format!("not done in {} s", limit.as_secs()));
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
        });
        thread.join().unwrap_or_else(|_| Err("a thread panicked".into()))
    })
}
