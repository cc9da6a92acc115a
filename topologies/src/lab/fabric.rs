//! The ToRs' routing daemons: started in their namespaces, and asked what they see.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::unistd::User;
use serde::{Deserialize, Serialize};
use topology::plan::{Plan, TorPlan};
use topology::spec::Software;

use crate::process::{self, Record, Spec};
use crate::progress::wait_for;
use crate::state::{Lab, write_whole};

const FRR: &str = "/usr/lib/frr";
/// FRR's own account; its daemons refuse to run as root.
const FRR_USER: &str = "frr";
const START_LIMIT: Duration = Duration::from_secs(10);

/// Errors before anything is made.
pub(crate) fn check(plan: &Plan) -> Result<()> {
    if let Some(tor) = plan.tors.iter().find(|tor| tor.software == Software::Bird) {
        bail!("{}: software = \"bird\" cannot be realised yet; use \"frr\" in topology.toml", tor.name);
    }
    for daemon in ["zebra", "bgpd"] {
        let path = Path::new(FRR).join(daemon);
        if !path.is_file() {
            bail!("{} is missing; install FRR (apt-get install frr)", path.display());
        }
    }
    Ok(())
}

/// Starts `zebra`, then `bgpd`, of one ToR.
pub(crate) fn start(lab: &Lab, plan: &Plan, tor: &TorPlan) -> Result<()> {
    let dir = lab.frr(&tor.name);
    let user = User::from_name(FRR_USER)?.with_context(|| format!("there is no user {FRR_USER}; reinstall FRR"))?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    chown(&dir, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    let config = topology::frr::config(plan, tor, &dir);
    for (daemon, text) in [("zebra", &config.zebra), ("bgpd", &config.bgpd)] {
        let file = dir.join(format!("{daemon}.conf"));
        write_whole(&file, text.as_bytes(), 0o640)?;
        chown(&file, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        let record = process::start(lab, spec(lab, tor, &dir, daemon, &file))?;
        wait_for_socket(&dir.join(format!("{daemon}.vty")), record)?;
    }
    Ok(())
}

fn spec(lab: &Lab, tor: &TorPlan, dir: &Path, daemon: &str, config: &Path) -> Spec {
    let path = |name: &str| dir.join(name).display().to_string();
    let argv = [
        format!("{FRR}/{daemon}"),
        "-f".into(),
        config.display().to_string(),
        "-z".into(),
        path("zserv.api"),
        "-i".into(),
        path(&format!("{daemon}.pid")),
        "--vty_socket".into(),
        dir.display().to_string(),
        // No telnet port.
        "-P".into(),
        "0".into(),
    ];
    let name = format!("{daemon}-{}", tor.name);
    let log = lab.logs().join(format!("{name}.log"));
    Spec { name, host: Some(tor.name.clone()), argv: argv.to_vec(), env: BTreeMap::new(), log }
}

fn wait_for_socket(socket: &Path, record: Record) -> Result<()> {
    let records = [record];
    wait_for(&socket.display().to_string(), START_LIMIT, || {
        process::check_alive(&records)?;
        Ok(if socket.exists() { Ok(()) } else { Err("it is not there".into()) })
    })
}

/// A session as FRR sees it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Session {
    pub(crate) tor: String,
    pub(crate) family: String,
    pub(crate) peer: String,
    /// The host or ToR that the peer is.
    pub(crate) host: Option<String>,
    pub(crate) state: String,
    pub(crate) prefixes: u64,
    pub(crate) since: String,
}

/// All sessions of one ToR.
pub(crate) fn sessions(lab: &Lab, plan: &Plan, tor: &str) -> Result<Vec<Session>> {
    let text = vtysh(lab, tor, "show bgp summary json")?;
    let summary: BTreeMap<String, Summary> =
        serde_json::from_str(&text).with_context(|| format!("{tor}: FRR's summary is not what was expected"))?;
    let mut sessions = Vec::new();
    for (family, summary) in summary {
        for (peer, seen) in summary.peers {
            let host = plan
                .cables_of(tor)
                .find(|(_, cable)| cable.v4.addr().to_string() == peer || cable.v6.addr().to_string() == peer);
            let link = plan
                .links_of(tor)
                .find(|(_, end)| end.v4.addr().to_string() == peer || end.v6.addr().to_string() == peer);
            sessions.push(Session {
                tor: tor.into(),
                family: family.clone(),
                host: host.map(|(host, _)| host.name.clone()).or(link.map(|(_, end)| end.tor.clone())),
                state: seen.state,
                prefixes: seen.pfx_rcd.unwrap_or(0),
                since: seen.peer_uptime.unwrap_or_default(),
                peer,
            });
        }
    }
    Ok(sessions)
}

#[derive(Deserialize)]
struct Summary {
    #[serde(default)]
    peers: BTreeMap<String, PeerSummary>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PeerSummary {
    state: String,
    pfx_rcd: Option<u64>,
    peer_uptime: Option<String>,
}

/// Runs one command in a ToR's FRR and returns what it prints.
pub(crate) fn vtysh(lab: &Lab, tor: &str, command: &str) -> Result<String> {
    let output = vtysh_command(lab, tor).args(["-c", command]).output().context("cannot run vtysh; install FRR")?;
    if !output.status.success() {
        bail!("{tor}: vtysh -c '{command}': {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `vtysh`, pointed at a ToR's sockets; these are files, so the namespace does not matter.
pub(crate) fn vtysh_command(lab: &Lab, tor: &str) -> Command {
    let dir: PathBuf = lab.frr(tor);
    let mut command = Command::new("vtysh");
    command.arg("--vty_socket").arg(dir);
    command
}
