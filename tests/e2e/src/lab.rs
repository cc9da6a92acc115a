//! A lab of one test: brought up under a name of its own, driven through the same commands that people use, and taken
//! down when dropped, whatever happened.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// Where `causeway-lab` keeps a lab's files.
const STATE_ROOT: &str = "/run/causeway-lab";

pub(crate) struct Lab {
    pub(crate) name: String,
    /// How long `up` took.
    pub(crate) bring_up: Duration,
}

impl Lab {
    /// Brings the topology in `dir` up as `name`; what an earlier, killed run left under that name goes first.
    pub(crate) fn up(dir: &str, name: &str) -> Result<Lab> {
        Lab::up_with(dir, name, &[])
    }

    /// With fields of the topology set otherwise, as `cluster.east.encryption=wireguard`.
    pub(crate) fn up_with(dir: &str, name: &str, set: &[&str]) -> Result<Lab> {
        let _ = tool("causeway-lab")?.args(["down", name]).output();
        let started = Instant::now();
        let set = set.iter().flat_map(|assignment| ["--set", assignment]);
        let out = tool("causeway-lab")?.args(["up", dir, "--name", name]).args(set).output()?;
        ensure!(out.status.success(), "causeway-lab up: {}", text(&out));
        Ok(Lab { name: name.to_owned(), bring_up: started.elapsed() })
    }

    /// Takes the lab down and reports its failure, which dropping cannot.
    pub(crate) fn down(self) -> Result<()> {
        if std::env::var_os("KEEP_LAB").is_some() {
            // Dropping says that it stays.
            return Ok(());
        }
        let out = tool("causeway-lab")?.args(["down", &self.name]).output()?;
        std::mem::forget(self);
        ensure!(out.status.success(), "causeway-lab down: {}", text(&out));
        Ok(())
    }

    pub(crate) fn dir(&self) -> PathBuf {
        PathBuf::from(STATE_ROOT).join(&self.name)
    }

    /// A command on a host (node, ToR, client) or in a pod.
    pub(crate) fn command(&self, host: &str, args: &[&str]) -> Result<Command> {
        let mut command = tool("causeway-lab")?;
        command.args(["exec", &self.name, host, "--"]).args(args);
        Ok(command)
    }

    /// Runs a command on a host and returns what it printed; its exit code must be 0.
    pub(crate) fn exec(&self, host: &str, args: &[&str]) -> Result<String> {
        stdout(self.command(host, args)?, &format!("{args:?} on {host}"))
    }

    /// Starts a command on a host and leaves it running.
    pub(crate) fn spawn(&self, host: &str, args: &[&str]) -> Result<Child> {
        self.command(host, args)?
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{args:?} on {host}"))
    }

    /// The API of the first cluster.
    pub(crate) fn kube(&self) -> Kube<'_> {
        Kube { lab: self, context: None }
    }

    /// The API of a cluster by name.
    pub(crate) fn cluster<'a>(&'a self, name: &'a str) -> Kube<'a> {
        Kube { lab: self, context: Some(name) }
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kube().run(args)
    }

    pub(crate) fn kubectl_json(&self, args: &[&str]) -> Result<Value> {
        self.kube().json(args)
    }

    pub(crate) fn apply(&self, manifest: &str) -> Result<String> {
        self.kube().apply(manifest)
    }

    /// `causeway-lab VERB LAB ARGS...`.
    pub(crate) fn lab(&self, verb: &str, args: &[&str]) -> Result<String> {
        let mut command = tool("causeway-lab")?;
        command.arg(verb).arg(&self.name).args(args);
        stdout(command, &format!("causeway-lab {verb} {args:?}"))
    }

    /// `vtysh` on a ToR, its answer as JSON.
    pub(crate) fn vtysh(&self, tor: &str, show: &str) -> Result<Value> {
        let out = self.vtysh_text(tor, show)?;
        serde_json::from_str(&out).with_context(|| format!("{show} on {tor} printed {out}"))
    }

    pub(crate) fn vtysh_text(&self, tor: &str, show: &str) -> Result<String> {
        self.vtysh_all(tor, &[show])
    }

    /// Several `vtysh` commands in one go.
    pub(crate) fn vtysh_all(&self, tor: &str, commands: &[&str]) -> Result<String> {
        let mut command = tool("causeway-lab")?;
        command.args(["vtysh", &self.name, tor, "--"]);
        for line in commands {
            command.args(["-c", line]);
        }
        stdout(command, &format!("vtysh {commands:?} on {tor}"))
    }

    /// The CLI against a node's agent.
    pub(crate) fn causeway(&self, node: &str, args: &[&str]) -> Result<Output> {
        let mut command = tool("causeway")?;
        command.arg("--socket").arg(self.dir().join(node).join("agent.sock")).args(args);
        command.output().with_context(|| format!("causeway {args:?}"))
    }

    pub(crate) fn causeway_json(&self, node: &str, args: &[&str]) -> Result<Value> {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        let out = self.causeway(node, &all)?;
        serde_json::from_slice(&out.stdout).with_context(|| format!("causeway {args:?} on {node}: {}", text(&out)))
    }

    /// Prefixes of a family that a ToR's kernel reaches through BGP, each with its next hops, sorted.
    pub(crate) fn bgp_routes(&self, tor: &str, family: Family) -> Result<BTreeMap<String, Vec<String>>> {
        let show = match family {
            Family::V4 => "show ip route bgp json",
            Family::V6 => "show ipv6 route bgp json",
        };
        let json = self.vtysh(tor, show)?;
        let mut routes = BTreeMap::new();
        for (prefix, entries) in json.as_object().context("routes")? {
            let mut hops: Vec<String> = entries
                .as_array()
                .into_iter()
                .flatten()
                .filter(|e| e["selected"].as_bool() == Some(true))
                .flat_map(|e| e["nexthops"].as_array().cloned().unwrap_or_default())
                .filter(|h| h["fib"].as_bool() == Some(true))
                .filter_map(|h| h["ip"].as_str().map(str::to_owned))
                .collect();
            hops.sort();
            if !hops.is_empty() {
                routes.insert(prefix.clone(), hops);
            }
        }
        Ok(routes)
    }

    /// Sessions of a ToR: neighbour -> state, for the family's sessions.
    pub(crate) fn sessions(&self, tor: &str) -> Result<BTreeMap<String, String>> {
        let json = self.vtysh(tor, "show bgp summary json")?;
        let mut sessions = BTreeMap::new();
        for family in json.as_object().into_iter().flat_map(|o| o.values()) {
            for (peer, row) in family["peers"].as_object().into_iter().flatten() {
                sessions.insert(peer.clone(), row["state"].as_str().unwrap_or("?").to_owned());
            }
        }
        Ok(sessions)
    }

    /// `causeway-lab status`, also of a lab in which some processes have ended.
    pub(crate) fn status(&self) -> Result<Value> {
        let out = tool("causeway-lab")?.args(["status", &self.name, "-o", "json"]).output()?;
        serde_json::from_slice(&out.stdout).with_context(|| format!("causeway-lab status: {}", text(&out)))
    }

    /// `causeway-lab node add`.
    pub(crate) fn add_node(&self, node: &str, cluster: &str) -> Result<()> {
        let mut command = tool("causeway-lab")?;
        command.args(["node", "add", &self.name, node, "--cluster", cluster]);
        stdout(command, &format!("causeway-lab node add {node}")).map(drop)
    }

    /// The process that runs as `role` on a host, as the lab recorded it.
    pub(crate) fn pid(&self, process: &str) -> Result<i32> {
        let status = self.status()?;
        for row in status["processes"].as_array().into_iter().flatten() {
            if row["name"].as_str() == Some(process) {
                return Ok(i32::try_from(row["pid"].as_i64().context("pid")?)?);
            }
        }
        bail!("the lab runs no process {process}: {status}")
    }
}

/// `kubectl` against one cluster of a lab.
#[derive(Clone, Copy)]
pub(crate) struct Kube<'a> {
    lab: &'a Lab,
    context: Option<&'a str>,
}

impl Kube<'_> {
    /// Starts `kubectl` and leaves it running; what it prints is read from its standard output.
    pub(crate) fn spawn(self, args: &[&str]) -> Result<Child> {
        let mut command = self.kubectl();
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("cannot run kubectl")
    }

    fn kubectl(self) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.lab.dir().join("kubeconfig"));
        if let Some(context) = self.context {
            command.args(["--context", context]);
        }
        command
    }

    pub(crate) fn run(self, args: &[&str]) -> Result<String> {
        let mut command = self.kubectl();
        command.args(args);
        stdout(command, &format!("kubectl {args:?}"))
    }

    pub(crate) fn json(self, args: &[&str]) -> Result<Value> {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        Ok(serde_json::from_str(&self.run(&all)?)?)
    }

    /// `kubectl apply -f -` of a manifest.
    pub(crate) fn apply(self, manifest: &str) -> Result<String> {
        use std::io::Write as _;
        let mut child = self
            .kubectl()
            .args(["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("stdin")?.write_all(manifest.as_bytes())?;
        let out = child.wait_with_output()?;
        ensure!(out.status.success(), "kubectl apply: {}", text(&out));
        Ok(text(&out))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::env::var_os("KEEP_LAB").is_some() {
            eprintln!("lab {} is left up: causeway-lab down {}", self.name, self.name);
            return;
        }
        if let Ok(mut command) = tool("causeway-lab") {
            let _ = command.args(["down", &self.name]).output();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

/// One of our binaries, from beside this one.
pub(crate) fn tool(name: &str) -> Result<Command> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(path.exists(), "{} is missing: run make build", path.display());
    Ok(Command::new(path))
}

pub(crate) fn tool_path(name: &str) -> Result<String> {
    Ok(std::env::current_exe()?.with_file_name(name).display().to_string())
}

/// Everything that a command printed.
pub(crate) fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)).trim().to_owned()
}

fn stdout(mut command: Command, what: &str) -> Result<String> {
    let out = command.output().with_context(|| what.to_owned())?;
    ensure!(out.status.success(), "{what}: exit {}: {}", out.status.code().unwrap_or(-1), text(&out));
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
