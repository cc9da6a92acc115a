//! Network namespaces of the benchmarks: made here, entered by threads, removed when dropped.

use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;

/// A named namespace under `/run/netns`; dropping it removes it with every interface inside.
pub(crate) struct Netns {
    pub(crate) name: String,
}

impl Netns {
    pub(crate) fn create(name: &str) -> Result<Netns> {
        // A run that was killed may have left its namespace; the name is ours alone.
        let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        run("ip", &["netns", "add", name])?;
        Ok(Netns { name: name.to_owned() })
    }

    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs `ip -batch` lines inside.
    pub(crate) fn ip(&self, lines: &str) -> Result<()> {
        self.feed(&["ip", "-batch", "-"], lines)
    }

    /// Runs a command inside with `input` on its standard input.
    pub(crate) fn feed(&self, command: &[&str], input: &str) -> Result<()> {
        let mut child = Command::new("nsenter")
            .arg(format!("--net={}", self.path()))
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {command:?} in {}", self.name))?;
        child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
        let out = child.wait_with_output()?;
        ensure!(
            out.status.success(),
            "{command:?} in {}: {}",
            self.name,
            String::from_utf8_lossy(&out.stderr).lines().take(5).collect::<Vec<_>>().join("; ")
        );
        Ok(())
    }

    /// A thread that lives in this namespace, pinned to `cpu`.
    pub(crate) fn thread<T: Send + 'static>(
        &self,
        cpu: usize,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        let path = self.path();
        std::thread::spawn(move || {
            enter(&path)?;
            let mut cpus = CpuSet::new();
            cpus.set(cpu)?;
            sched_setaffinity(Pid::from_raw(0), &cpus)?;
            work()
        })
    }

    /// Runs `work` inside and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        match self.thread(0, work).join() {
            Ok(result) => result,
            Err(_) => bail!("a thread in {} panicked", self.name),
        }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn enter(path: &str) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open {path}"))?;
    setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {path}"))
}

/// Runs a command; its error carries what it printed.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<String> {
    let out = Command::new(program).args(args).output().with_context(|| format!("start {program}"))?;
    ensure!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
