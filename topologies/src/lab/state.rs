//! What a lab has written down: its paths, its topology as it is now, and where its programs are.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use topology::{Plan, Topology};

/// Where every lab keeps its state.
pub(crate) const ROOT: &str = "/run/causeway-lab";
/// Where the agents of every lab pin their programs and maps.
pub(crate) const BPF_ROOT: &str = "/sys/fs/bpf/causeway-lab";
/// Prefix of all namespaces that a lab makes.
pub(crate) const NETNS_PREFIX: &str = "cw";
/// Longest name of a lab; it becomes part of namespace names and of unix socket paths (108 bytes).
const MAX_LAB_NAME: usize = 24;

/// A lab by name, and the paths that follow from it.
#[derive(Debug, Clone)]
pub(crate) struct Lab {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
}

/// `lab.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LabState {
    pub(crate) topology: Topology,
    /// Directory that the topology was read from.
    pub(crate) source: PathBuf,
    pub(crate) programs: Programs,
    /// False after `up --no-agents`.
    pub(crate) agents: bool,
    /// False after `up --no-mesh`: clusters stay strangers, whatever the topology says.
    pub(crate) mesh: bool,
    pub(crate) created: String,
}

/// The programs that the lab runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Programs {
    pub(crate) lab: PathBuf,
    pub(crate) apiserver: PathBuf,
    pub(crate) agent: PathBuf,
    pub(crate) wireguard: PathBuf,
    pub(crate) operator: PathBuf,
    pub(crate) ctl: PathBuf,
    pub(crate) clustermesh: PathBuf,
    pub(crate) etcd: PathBuf,
    pub(crate) cni_dir: PathBuf,
    /// The real Kubernetes instead of the stand-in.
    pub(crate) kubernetes: Option<RealKubernetes>,
}

/// Paths of upstream's control plane.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RealKubernetes {
    pub(crate) apiserver: PathBuf,
    pub(crate) controller_manager: PathBuf,
    pub(crate) scheduler: Option<PathBuf>,
}

impl Lab {
    /// A lab by name, whether or not it exists.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > MAX_LAB_NAME || !name.chars().all(ok) {
            bail!("lab name \"{name}\": use 1 to {MAX_LAB_NAME} of a-z, 0-9 and dash");
        }
        Ok(Self { name: name.into(), dir: Path::new(ROOT).join(name) })
    }

    /// A lab that exists.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let lab = Self::named(name)?;
        if !lab.dir.is_dir() {
            let known: Vec<String> = Self::all()?.into_iter().map(|lab| lab.name).collect();
            let known = if known.is_empty() { "there is none".into() } else { known.join(", ") };
            bail!("no lab is named \"{name}\" (running: {known}); bring it up with: causeway-lab up DIR --name {name}");
        }
        Ok(lab)
    }

    /// The lab of that name, or the only one.
    pub(crate) fn open_or_only(name: Option<&str>) -> Result<Self> {
        if let Some(name) = name {
            return Self::open(name);
        }
        let mut labs = Self::all()?;
        match (labs.pop(), labs.len()) {
            (Some(only), 0) => Ok(only),
            (None, _) => bail!("no lab is up; bring one up with: causeway-lab up DIR"),
            (Some(_), more) => bail!("{} labs are up; name one of them (causeway-lab list)", more + 1),
        }
    }

    /// Every lab that has state on this machine.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let entries = match fs::read_dir(ROOT) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot list {ROOT}")),
        };
        let mut labs: Vec<Self> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| Self::named(&name).ok())
            .collect();
        labs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(labs)
    }

    pub(crate) fn netns(&self, host: &str) -> String {
        format!("{NETNS_PREFIX}-{}-{host}", self.name)
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// Links from `<namespace>_<pod>_<uid>` to the directory with that pod's logs, for `kubectl logs`.
    pub(crate) fn pod_logs(&self) -> PathBuf {
        self.dir.join("pod-logs")
    }

    pub(crate) fn processes(&self) -> PathBuf {
        self.dir.join("processes")
    }

    /// State of a host: for a node that of its agent (socket, CNI configuration) and kubelet (pods).
    pub(crate) fn host(&self, host: &str) -> PathBuf {
        self.dir.join(host)
    }

    pub(crate) fn frr(&self, tor: &str) -> PathBuf {
        self.dir.join("frr").join(tor)
    }

    /// Certificates and kubeconfigs of a cluster.
    pub(crate) fn cluster(&self, cluster: &str) -> PathBuf {
        self.dir.join("clusters").join(cluster)
    }

    /// For processes inside namespaces; `who` is `agent`, `operator`, `kubelet` or `admin`.
    pub(crate) fn kubeconfig(&self, cluster: &str, who: &str) -> PathBuf {
        self.cluster(cluster).join(format!("{who}.kubeconfig"))
    }

    /// For people in the root namespace, over the relay.
    pub(crate) fn outer_kubeconfig(&self, cluster: &str) -> PathBuf {
        self.cluster(cluster).join("kubeconfig")
    }

    pub(crate) fn bpf(&self, node: &str) -> PathBuf {
        Path::new(BPF_ROOT).join(&self.name).join(node)
    }

    pub(crate) fn load(&self) -> Result<LabState> {
        let path = self.dir.join("lab.json");
        let text = fs::read(&path).with_context(|| {
            format!("cannot read {}: the lab did not come up whole; causeway-lab down {}", path.display(), self.name)
        })?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not what a lab writes", path.display()))
    }

    pub(crate) fn save(&self, state: &LabState) -> Result<()> {
        write_whole(&self.dir.join("lab.json"), &serde_json::to_vec_pretty(state)?, 0o644)
    }
}

impl LabState {
    pub(crate) fn plan(&self) -> Result<Plan> {
        Ok(Plan::new(&self.topology)?)
    }
}

/// Writes a file so that a reader sees the old text or the new one, never half.
pub(crate) fn write_whole(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// The current time as Kubernetes and people write it.
pub(crate) fn now() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
