//! The mesh against bare etcd: how long a change in another cluster takes to this node's maps, what a new listing costs,
//! and what remote endpoints weigh. [`inner`] is the part that runs in the node's network namespace.

mod inner;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::lab::Lab;
use crate::report::{Table, median};

pub(crate) use inner::{Inner, run as run_inner};

const TOPOLOGY: &str = "tests/bench/topologies/mesh";
const NODE: &str = "e1";
const PLANE: &str = "cp-west";
const REMOTE: &str = "west";

pub(crate) fn run(table: &mut Table) -> Result<()> {
    eprintln!("mesh: bringing two clusters up");
    let mesh = Mesh { lab: Lab::up_from(TOPOLOGY, "bench-mesh")? };
    mesh.wait(Duration::from_secs(60), "west is read", |row| row["ready"] == true)?;
    // Whoever else would read the load only warms the machine.
    mesh.lab.command("kill", &["agent-w1"])?;
    latency(table, &mesh)?;
    let agent = mesh.lab.pid(&format!("agent-{NODE}"))?;
    crate::agent::settle(agent)?;
    let empty = crate::agent::rss_mb(agent)?;
    for (count, target) in [(100_000, 25.0), (500_000, 120.0)] {
        eprintln!("mesh: {count} remote endpoints");
        mesh.inner(&["load", "--count", &count.to_string()])?;
        mesh.wait(Duration::from_secs(300), "all endpoints are programmed", |row| {
            row["endpoints"].as_u64().is_some_and(|n| n >= count)
        })?;
        mesh.settled()?;
        crate::agent::settle(agent)?;
        let used = crate::agent::rss_mb(agent)? - empty;
        table.row(
            &format!("memory of the agent for {count} remote endpoints"),
            "causeway",
            &format!("{used:.1} MB RSS more than without"),
            &format!("target: at most {target:.0} MB"),
        );
        if count == 100_000 {
            resync(table, &mesh)?;
        }
    }
    half_open(table, &mesh)
}

struct Mesh {
    lab: Lab,
}

impl Mesh {
    /// Runs ourselves in the node's namespace and returns what it printed.
    fn inner(&self, words: &[&str]) -> Result<Value> {
        let certs = self.lab.dir().join(PLANE).join("mesh/certificates/admin");
        let socket = self.lab.dir().join(NODE).join("agent.sock");
        let out = Command::new("nsenter")
            .arg(format!("--net={}", self.lab.netns(NODE)))
            .arg(std::env::current_exe()?)
            .args(["mesh-inner", "--endpoint", &self.endpoint()?, "--certificates"])
            .arg(certs)
            .arg("--socket")
            .arg(socket)
            .args(words)
            .output()?;
        ensure!(out.status.success(), "mesh-inner {words:?}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(serde_json::from_slice(&out.stdout)?)
    }

    /// Where west's etcd listens: the loopback address of its control plane.
    fn endpoint(&self) -> Result<String> {
        let out = Command::new("nsenter")
            .arg(format!("--net={}", self.lab.netns(PLANE)))
            .args(["ip", "-4", "-j", "address", "show", "dev", "lo", "scope", "global"])
            .output()?;
        let json: Value = serde_json::from_slice(&out.stdout)?;
        let all =
            json.as_array().into_iter().flatten().flat_map(|l| l["addr_info"].as_array().cloned().unwrap_or_default());
        let address =
            all.into_iter().find_map(|a| a["local"].as_str().filter(|a| *a != "127.0.0.1").map(str::to_owned));
        Ok(format!("https://{}:2379", address.context("the control plane has no loopback address")?))
    }

    fn status(&self) -> Result<Value> {
        self.lab.causeway(NODE, &["clustermesh", "status"])
    }

    fn wait(&self, limit: Duration, what: &str, good: impl Fn(&Value) -> bool) -> Result<Duration> {
        let started = Instant::now();
        crate::agent::wait_for(limit, what, || {
            let status = self.status()?;
            let rows = status["clusters"].as_array().into_iter().flatten();
            Ok(rows.into_iter().any(|row| row["name"] == REMOTE && good(row)))
        })?;
        Ok(started.elapsed())
    }

    /// Nothing is left to be written.
    fn settled(&self) -> Result<()> {
        crate::agent::wait_for(Duration::from_secs(300), "nothing is left to be written", || {
            Ok(self.status()?["ipcache"]["pending"] == 0)
        })
    }
}

/// 1,000 changes a second, seen by a bare etcd watch and by the agent's maps.
fn latency(table: &mut Table, mesh: &Mesh) -> Result<()> {
    eprintln!("mesh: latency of changes");
    let seen = mesh.inner(&["latency", "--rate", "1000", "--seconds", "20"])?;
    let of = |whose: &str, p: &str| seen[whose][p].as_f64().with_context(|| format!("no {whose}.{p} in {seen}"));
    let title = format!("IP change in the other cluster, {} a second", seen["rate"].as_f64().unwrap_or(0.0).round());
    let (bare50, bare99) = (of("bare", "p50_ms")?, of("bare", "p99_ms")?);
    let (map50, map99) = (of("map", "p50_ms")?, of("map", "p99_ms")?);
    table.row(&title, "etcd watch", &format!("p50 {bare50:.2} ms, p99 {bare99:.2} ms"), "from put to event");
    table.row(
        &title,
        "causeway",
        &format!("p50 {map50:.2} ms, p99 {map99:.2} ms to the map"),
        &format!(
            "{:.2}x and {:.2}x of the watch; targets 2x and 3x; {} changes, {} overtaken by newer ones",
            map50 / bare50,
            map99 / bare99,
            seen["changes"],
            seen["lost"]
        ),
    );
    Ok(())
}

/// Rounds of the comparison of listings.
const LISTINGS: usize = 5;

/// A reader that was away for longer than etcd keeps history lists everything again. Beside it, in turns, a bare client that
/// only counts what it gets.
fn resync(table: &mut Table, mesh: &Mesh) -> Result<()> {
    eprintln!("mesh: listing again");
    let before = mesh.status()?;
    let (mut bare_ms, mut listed_ms, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..LISTINGS {
        let bare = mesh.inner(&["list", "--rounds", "1"])?["median_ms"].as_f64().context("median_ms")?;
        let listed = mesh.listed_again()?;
        bare_ms.push(bare);
        listed_ms.push(listed);
        ratios.push(listed / bare);
    }
    let after = mesh.status()?;
    let number = |status: &Value, field: &str| status["ipcache"][field].as_u64().unwrap_or(0);
    let writes =
        number(&after, "upserts") + number(&after, "deletes") - number(&before, "upserts") - number(&before, "deletes");
    table.row(
        "listing 100,000 endpoints",
        "bare paged list",
        &format!("{:.0} ms", median(&mut bare_ms)),
        &format!("median of {LISTINGS}, pages of 4,000"),
    );
    table.row(
        "listing 100,000 endpoints again after a broken connection",
        "causeway",
        &format!("{:.0} ms, {writes} map writes", median(&mut listed_ms)),
        &format!("{:.2}x of the bare list; targets 1.5x and 0", median(&mut ratios)),
    );
    Ok(())
}

/// What the agent says of the addresses of the other cluster.
fn ip_kind(row: &Value) -> Option<&Value> {
    row["kinds"].as_array()?.iter().find(|kind| kind["kind"] == "ip")
}

impl Mesh {
    /// Cuts the node off, lets the store forget its history, and waits for the listing that follows. Its milliseconds.
    fn listed_again(&self) -> Result<f64> {
        let of = |status: &Value, field: &str| {
            let mut rows = status["clusters"].as_array().into_iter().flatten();
            let row = rows.find(|row| row["name"] == REMOTE)?;
            ip_kind(row)?[field].as_f64()
        };
        let listings = of(&self.status()?, "listings").context("no count of listings")?;
        self.lab.command("partition", &["--from", PLANE, "--to", NODE])?;
        self.wait(Duration::from_secs(60), "the agent notices", |row| row["connected"] == false)?;
        self.inner_at_plane(&["compact"])?;
        self.lab.command("heal", &[])?;
        self.wait(Duration::from_secs(60), "the agent has listed again", |row| {
            row["connected"] == true
                && ip_kind(row).and_then(|ip| ip["listings"].as_f64()).is_some_and(|n| n > listings)
        })?;
        self.settled()?;
        of(&self.status()?, "lastListMs").context("no time of the listing")
    }

    /// As [`Mesh::inner`], on the control plane that has the store: the way from the node is cut.
    fn inner_at_plane(&self, words: &[&str]) -> Result<Value> {
        let certs = self.lab.dir().join(PLANE).join("mesh/certificates/admin");
        let out = Command::new("nsenter")
            .arg(format!("--net={}", self.lab.netns(PLANE)))
            .arg(std::env::current_exe()?)
            .args(["mesh-inner", "--endpoint", "https://127.0.0.1:2379", "--certificates"])
            .arg(certs)
            .args(words)
            .output()?;
        ensure!(out.status.success(), "mesh-inner {words:?}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(serde_json::from_slice(&out.stdout)?)
    }
}

fn half_open(table: &mut Table, mesh: &Mesh) -> Result<()> {
    eprintln!("mesh: a half-open peer");
    let mut found_s = Vec::new();
    for _ in 0..3 {
        mesh.lab.command("pause", &["etcd-cp-west"])?;
        let took = mesh.wait(Duration::from_secs(30), "the agent notices", |row| row["connected"] == false);
        mesh.lab.command("resume", &["etcd-cp-west"])?;
        found_s.push(took?.as_secs_f64());
        mesh.wait(Duration::from_secs(60), "it is read again", |row| row["ready"] == true)?;
    }
    let worst = found_s.iter().copied().fold(0.0, f64::max);
    table.row("a half-open peer is found", "causeway", &format!("{worst:.2} s at worst of 3"), "target: 7 s");
    Ok(())
}
