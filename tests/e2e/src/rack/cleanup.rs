//! `down` leaves nothing behind, also after a crash of everything.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::deployed;
use crate::lab::{Lab, text, tool};
use crate::report::{Report, until};

/// The lab of this scenario; its name must not occur anywhere afterwards.
const NAME: &str = "e2e-cleanup";

pub(crate) fn run(report: &mut Report) -> Result<()> {
    ensure!(std::env::var_os("KEEP_LAB").is_none(), "this scenario takes labs down and cannot run with KEEP_LAB");
    let before = Traces::take()?;
    let lab = deployed(NAME)?;
    report.show("down leaves nothing behind", || {
        lab.down()?;
        before.compare()
    });
    let lab = deployed(NAME)?;
    report.show("down after a crash of every process leaves nothing behind", || {
        let killed = crash(&lab)?;
        lab.down()?;
        Ok(format!("{killed} processes killed; {}", before.compare()?))
    });
    report.show("down of a lab that is not there says so", || {
        let out = tool("causeway-lab")?.args(["down", "e2e-no-such-lab"]).output()?;
        ensure!(text(&out).contains("e2e-no-such-lab"), "it printed {:?}", text(&out));
        Ok(text(&out))
    });
    Ok(())
}

fn crash(lab: &Lab) -> Result<usize> {
    let out = tool("causeway-lab")?.args(["status", &lab.name, "-o", "json"]).output()?;
    let status: Value = serde_json::from_slice(&out.stdout).with_context(|| text(&out))?;
    let mut killed = 0;
    for row in status["processes"].as_array().context("processes")? {
        let pid = i32::try_from(row["pid"].as_i64().context("pid")?)?;
        if kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok() {
            killed += 1;
        }
    }
    ensure!(killed > 0, "no process was running: {status}");
    Ok(killed)
}

/// Everything of a machine that a lab could leave something in.
struct Traces {
    root_links: BTreeSet<String>,
    root_routes: BTreeSet<String>,
    rcu_expedited: Option<String>,
}

impl Traces {
    fn take() -> Result<Traces> {
        Ok(Traces {
            root_links: lines("ip", &["-br", "link"])?,
            root_routes: lines("ip", &["route", "show", "table", "all"])?,
            rcu_expedited: rcu_expedited(),
        })
    }

    /// Waits for the kernel to finish (namespaces go asynchronously) and names what is left.
    fn compare(&self) -> Result<String> {
        until(Duration::from_secs(10), "nothing is left", || {
            let left = self.left()?;
            ensure!(left.is_empty(), "left behind: {left:#?}");
            Ok(())
        })?;
        Ok("no namespace, process, mount, BPF pin, link, route or file".to_owned())
    }

    fn left(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        let mut add = |kind: &str, rows: &BTreeSet<String>| left.extend(rows.iter().map(|r| format!("{kind} {r}")));
        let of_lab = |rows: BTreeSet<String>| rows.into_iter().filter(|r| r.contains(NAME)).collect::<BTreeSet<_>>();
        add("namespace", &of_lab(lines("ip", &["netns", "list"])?));
        add("mount", &of_lab(std::fs::read_to_string("/proc/mounts")?.lines().map(str::to_owned).collect()));
        add("process", &processes()?);
        add("link", &(&lines("ip", &["-br", "link"])? - &self.root_links));
        add("route", &(&lines("ip", &["route", "show", "table", "all"])? - &self.root_routes));
        for dir in [format!("/run/causeway-lab/{NAME}"), format!("/sys/fs/bpf/causeway-lab/{NAME}")] {
            if Path::new(&dir).exists() {
                left.push(format!("file {dir}"));
            }
        }
        if rcu_expedited() != self.rcu_expedited {
            left.push(format!("/sys/kernel/rcu_expedited was {:?}, is {:?}", self.rcu_expedited, rcu_expedited()));
        }
        Ok(left)
    }
}

/// Processes of the lab. A pod's command names the lab only by its working directory.
fn processes() -> Result<BTreeSet<String>> {
    let mut rows = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Ok(args) = std::fs::read(path.join("cmdline")) else { continue };
        let args = String::from_utf8_lossy(&args).replace('\0', " ");
        let cwd = std::fs::read_link(path.join("cwd")).unwrap_or_default().display().to_string();
        if (args.contains(NAME) || cwd.contains(NAME)) && !args.contains("causeway-e2e") {
            rows.insert(format!("{} {args}in {cwd}", path.display()));
        }
    }
    Ok(rows)
}

/// The machine-wide switch that agents use for the milliseconds of a CNI verb.
fn rcu_expedited() -> Option<String> {
    std::fs::read_to_string("/sys/kernel/rcu_expedited").ok()
}

fn lines(program: &str, args: &[&str]) -> Result<BTreeSet<String>> {
    let out = Command::new(program).args(args).output().with_context(|| program.to_owned())?;
    ensure!(out.status.success(), "{program} {args:?}: {}", text(&out));
    Ok(String::from_utf8_lossy(&out.stdout).lines().map(|l| l.trim().to_owned()).collect())
}
