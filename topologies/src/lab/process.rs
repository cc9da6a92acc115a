//! Processes of a lab: started detached, written down with their start time, and ended only when it still matches.
//!
//! A process id alone may have been given to somebody else since; the pair of id and start time (field 22 of
//! `/proc/PID/stat`) has not.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::netns;
use crate::progress::wait_for;
use crate::state::{Lab, write_whole};

/// From a signal that ends a process to its end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// How to start a process; kept, so that it can be started again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Unique in the lab: `agent-n1`, `bgpd-tor1`.
    pub(crate) name: String,
    /// Host or ToR whose namespace it runs in; `None` is the root namespace.
    pub(crate) host: Option<String>,
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) log: PathBuf,
}

/// A process that was started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    pub(crate) spec: Spec,
    #[serde(flatten)]
    pub(crate) id: ProcessId,
}

/// Names one process for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Clock ticks after boot.
    pub(crate) start_time: u64,
}

impl ProcessId {
    /// Reads the start time of a process that runs now.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let pid = i32::try_from(pid).context("process id out of range")?;
        let stat = Stat::read(pid).with_context(|| format!("process {pid} ended at once"))?;
        Ok(Self { pid, start_time: stat.start_time })
    }

    /// Whether that very process still runs; a zombie does not.
    pub(crate) fn alive(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.start_time == self.start_time && !stat.zombie)
    }

    /// Sends a signal to it, if it is still that process. Says whether it was.
    pub(crate) fn signal(self, signal: Signal) -> bool {
        self.alive() && kill(Pid::from_raw(self.pid), signal).is_ok()
    }

    /// Sends a signal to it and, where it leads a group, to the processes that it started.
    pub(crate) fn signal_group(self, signal: Signal) -> bool {
        self.alive() && (killpg(Pid::from_raw(self.pid), signal).is_ok() || self.signal(signal))
    }
}

struct Stat {
    start_time: u64,
    zombie: bool,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in parentheses and may hold anything, so count from its end.
        let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
        let state = fields.next()?;
        // A leader that has ended while other threads have not: the process still holds its sockets.
        let threads: u32 = fields.nth(16)?.parse().ok()?;
        let zombie = matches!(state, "Z" | "X") && threads <= 1;
        Some(Self { zombie, start_time: fields.nth(1)?.parse().ok()? })
    }
}

/// Starts a process, detached, with its output in the log, and writes it down.
pub(crate) fn start(lab: &Lab, spec: Spec) -> Result<Record> {
    let program = spec.argv.first().ok_or_else(|| anyhow!("process {} has no program", spec.name))?.clone();
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&spec.log)
        .with_context(|| format!("cannot open the log {}", spec.log.display()))?;
    let mut command = Command::new(&program);
    command
        .args(&spec.argv[1..])
        .envs(&spec.env)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .current_dir("/")
        .process_group(0);
    let mut spawn = move || command.spawn().with_context(|| format!("cannot start {program}; is it built?"));
    let child = match &spec.host {
        Some(host) => netns::inside(&netns::path(&lab.netns(host)), spawn)?,
        None => spawn()?,
    };
    let id = ProcessId::of(child.id()).with_context(|| format!("{}: {}", spec.name, tail(&spec.log, 3)))?;
    let record = Record { spec, id };
    save(lab, &record)?;
    Ok(record)
}

fn save(lab: &Lab, record: &Record) -> Result<()> {
    let path = lab.processes().join(format!("{}.json", record.spec.name));
    write_whole(&path, &serde_json::to_vec_pretty(record)?, 0o644)
}

/// All processes that were written down, by name.
pub(crate) fn all(lab: &Lab) -> Vec<Record> {
    read_records(&lab.processes())
}

/// Reads every record of a directory; a file that is half written or foreign is left out.
pub(crate) fn read_records<T: for<'de> Deserialize<'de>>(dir: &Path) -> Vec<T> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok())
        .collect()
}

/// A process by name.
pub(crate) fn find(lab: &Lab, name: &str) -> Result<Record> {
    let mut all = all(lab);
    match all.iter().position(|record| record.spec.name == name) {
        Some(index) => Ok(all.swap_remove(index)),
        None => {
            let names: Vec<&str> = all.iter().map(|record| record.spec.name.as_str()).collect();
            bail!("lab {} has no process \"{name}\"; it has: {}", lab.name, names.join(", "));
        }
    }
}

/// `causeway-lab kill`. Returns once the process has ended, where the signal ends it.
pub(crate) fn kill_named(lab: &Lab, name: &str, signal: &str) -> Result<()> {
    let record = find(lab, name)?;
    let word = signal.to_ascii_uppercase();
    let word = if word.starts_with("SIG") { word } else { format!("SIG{word}") };
    let signal: Signal = word.parse().map_err(|_| anyhow!("\"{signal}\" is no signal; try KILL, TERM or HUP"))?;
    if !record.id.signal(signal) {
        bail!("{name} (process {}) does not run; start it with: causeway-lab start {} {name}", record.id.pid, lab.name);
    }
    if matches!(signal, Signal::SIGKILL | Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT) {
        wait_for(&format!("{name} to end after {word}"), END_LIMIT, || {
            Ok(if record.id.alive() { Err(format!("process {} runs", record.id.pid)) } else { Ok(()) })
        })?;
    }
    Ok(())
}

/// `causeway-lab start`: as before, but for the options that are `set` (`NAME=VALUE`).
pub(crate) fn start_again(lab: &Lab, name: &str, set: &[String]) -> Result<()> {
    let mut record = find(lab, name)?;
    if record.id.alive() {
        bail!("{name} runs already, as process {}", record.id.pid);
    }
    for option in set {
        let (option, value) =
            option.split_once('=').with_context(|| format!("--set {option}: write OPTION=VALUE, without dashes"))?;
        set_option(&mut record.spec.argv, option, value);
    }
    start(lab, record.spec)?;
    Ok(())
}

/// Another value for an option that stands in two words, `--name value`; one that is not there comes last.
fn set_option(argv: &mut Vec<String>, name: &str, value: &str) {
    let flag = format!("--{name}");
    let at = argv.iter().position(|word| *word == flag).map(|at| at + 1);
    match at.and_then(|at| argv.get_mut(at)) {
        Some(old) => *old = value.into(),
        None => argv.extend([flag, value.into()]),
    }
}

/// Ends processes: SIGTERM to all, then SIGKILL to those that are left after `grace`. Returns how many ran.
pub(crate) fn end(processes: &[ProcessId], grace: Duration) -> usize {
    let running: Vec<ProcessId> = processes.iter().copied().filter(|id| id.signal_group(Signal::SIGTERM)).collect();
    for id in &running {
        // One that is paused hears SIGTERM only when it goes on.
        id.signal_group(Signal::SIGCONT);
    }
    let start = Instant::now();
    let mut killed = false;
    while running.iter().any(|id| id.alive()) {
        if !killed && start.elapsed() > grace {
            killed = true;
            for id in &running {
                id.signal_group(Signal::SIGKILL);
            }
        }
        if start.elapsed() > grace + Duration::from_secs(2) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    running.len()
}

/// The last lines of a log, for error messages.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// An error when one of these processes has ended, with the end of its log.
pub(crate) fn check_alive(records: &[Record]) -> Result<()> {
    match records.iter().find(|record| !record.id.alive()) {
        None => Ok(()),
        Some(dead) => bail!(
            "{} ended; the end of its log ({}):\n{}",
            dead.spec.name,
            dead.spec.log.display(),
            tail(&dead.spec.log, 15)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_replaced_or_added() {
        let mut argv = ["agent", "--a", "1", "--b", "2"].map(String::from).to_vec();
        set_option(&mut argv, "a", "west=off");
        set_option(&mut argv, "c", "3");
        assert_eq!(argv.join(" "), "agent --a west=off --b 2 --c 3");
    }

    #[test]
    fn a_recycled_process_id_is_another_process() {
        let me = ProcessId::of(std::process::id()).unwrap();
        assert!(me.alive());
        let other = ProcessId { start_time: me.start_time + 1, ..me };
        assert!(!other.alive());
        assert!(!other.signal(Signal::SIGKILL));
    }
}
