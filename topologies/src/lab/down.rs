//! `down`: ends what the lab started and removes what it made. It needs no state to be whole, and may be run twice.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::kubelet::PodRecord;
use crate::netns;
use crate::process::{self, ProcessId};
use crate::progress::Progress;
use crate::state::{BPF_ROOT, Lab, NETNS_PREFIX, ROOT};
use crate::wiring::each;

/// From SIGTERM to SIGKILL.
pub(crate) const GRACE: Duration = Duration::from_secs(3);

pub(crate) fn run(name: Option<&str>, all: bool) -> Result<()> {
    let labs = match (name, all) {
        (_, true) => every()?,
        (Some(name), false) => vec![Lab::named(name)?],
        (None, false) => match Lab::all()?.len() {
            0 => Vec::new(),
            _ => vec![Lab::open_or_only(None)?],
        },
    };
    if labs.is_empty() {
        eprintln!("no lab is up");
    }
    let progress = Progress::start();
    let mut result = Ok(());
    for lab in labs {
        match remove(&lab) {
            Ok(summary) => progress.say(format!("{}: {summary}", lab.name)),
            // The other labs go all the same.
            Err(error) => result = result.and(Err(error.context(format!("lab {}", lab.name)))),
        }
    }
    result
}

/// Labs with state, and labs of which only pins are left.
fn every() -> Result<Vec<Lab>> {
    let mut names: BTreeSet<String> = Lab::all()?.into_iter().map(|lab| lab.name).collect();
    let pins = fs::read_dir(BPF_ROOT).into_iter().flatten();
    names.extend(pins.filter_map(|entry| entry.ok()?.file_name().into_string().ok()));
    names.iter().map(|name| Lab::named(name)).collect()
}

/// Removes one lab. Every step is tried; the first error is reported after all of them.
pub(crate) fn remove(lab: &Lab) -> Result<String> {
    let was_there = lab.dir.exists();
    let (kubelets, others): (Vec<_>, Vec<_>) =
        process::all(lab).into_iter().partition(|record| record.spec.name.starts_with("kubelet-"));
    // Kubelets first: they would start again what ends.
    let ids = |records: &[process::Record]| records.iter().map(|record| record.id).collect::<Vec<_>>();
    let mut ended = process::end(&ids(&kubelets), GRACE);
    let pods: Vec<PodRecord> = host_dirs(lab).iter().flat_map(|dir| process::read_records(&dir.join("pods"))).collect();
    let mut last: Vec<ProcessId> = pods.iter().flat_map(PodRecord::processes).collect();
    last.extend(ids(&others));
    ended += process::end(&last, GRACE);

    let namespaces = own_namespaces(lab);
    let pod_namespaces: Vec<String> =
        namespaces.iter().filter(|name| name.starts_with(&lab.netns("p-"))).cloned().collect();
    ended += process::end(&inhabitants(&pod_namespaces), GRACE);
    calm(&host_dirs(lab));
    let mut result = remove_tree(&Path::new(BPF_ROOT).join(&lab.name));
    result = result.and(each(namespaces.iter().map(|name| move || netns::remove(name))));
    result = result.and(remove_tree(&lab.dir));
    for root in [ROOT, BPF_ROOT] {
        // Only the last lab finds it empty.
        let _ = fs::remove_dir(root);
    }
    result?;
    if ended == 0 && namespaces.is_empty() && !was_there {
        return Ok("no such lab, and nothing of one".into());
    }
    Ok(format!("{ended} processes ended, {} namespaces removed", namespaces.len()))
}

/// An agent that was killed in the middle of a CNI verb leaves the machine's switch for short RCU grace periods on, and a
/// note of it in its state directory for the next agent. Here no next one comes.
fn calm(hosts: &[PathBuf]) {
    if hosts.iter().any(|dir| dir.join("rcu_expedited").exists()) {
        let _ = fs::write("/sys/kernel/rcu_expedited", "0");
    }
}

fn host_dirs(lab: &Lab) -> Vec<PathBuf> {
    fs::read_dir(&lab.dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// The lab's namespaces by name. A lab's name may begin with that of another (`a`, `a-b`), so what belongs to one
/// with a longer name is left alone.
fn own_namespaces(lab: &Lab) -> Vec<String> {
    let prefix = format!("{NETNS_PREFIX}-{}-", lab.name);
    let others: Vec<String> = Lab::all()
        .unwrap_or_default()
        .iter()
        .filter(|other| other.name.len() > lab.name.len())
        .map(|other| format!("{NETNS_PREFIX}-{}-", other.name))
        .collect();
    netns::list(&prefix)
        .into_iter()
        .filter(|name| !others.iter().any(|other| other.starts_with(&prefix) && name.starts_with(other)))
        .collect()
}

/// Processes whose network namespace is one of these: what a pod's command left behind when it was ended.
pub(crate) fn inhabitants(namespaces: &[String]) -> Vec<ProcessId> {
    let inodes: BTreeSet<u64> =
        namespaces.iter().filter_map(|name| Some(fs::metadata(netns::path(name)).ok()?.ino())).collect();
    let processes = fs::read_dir("/proc").into_iter().flatten();
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|meta| inodes.contains(&meta.ino())))
        .filter_map(|pid| ProcessId::of(pid).ok())
        .collect()
}

pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
