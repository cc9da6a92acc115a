//! The agent's memory and CPU, idle and with 1,000 services of 3 backends, and how fast a change reaches the maps.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use causeway_datapath_abi::{Addr, LAYOUT_VERSION, Service, ServiceKey, Slot, SlotKey, map};
use serde_json::Value;

use crate::lab::{Api, Lab};
use crate::report::{Table, percentile};

const SERVICES: usize = 1_000;
const NODE: &str = "n1";
/// How long CPU time is watched.
const WINDOW: Duration = Duration::from_secs(10);

pub(crate) fn run(table: &mut Table, changes: usize) -> Result<()> {
    eprintln!("agent: bringing a rack up");
    let lab = Lab::up("bench-agent")?;
    let agent = lab.pid(&format!("agent-{NODE}"))?;
    settle(agent)?;
    usage(table, "idle", agent)?;
    for (name, whose) in [("bgpd-tor1", "FRR bgpd"), ("zebra-tor1", "FRR zebra")] {
        let pid = lab.pid(name)?;
        table.row("memory of a routing daemon beside", whose, &format!("{:.1} MB RSS", rss_mb(pid)?), "same lab");
    }
    eprintln!("agent: creating {SERVICES} services of 3 backends");
    lab.kubectl(&["create", "-f", "-"], &services())?;
    let mut maps = Maps::open(&lab)?;
    let mut api = Api::open(&lab)?;
    let last = cluster_ip(&mut api, SERVICES - 1)?;
    wait_for(Duration::from_secs(60), "the last service is in the map", || Ok(maps.backend(last)?.is_some()))?;
    settle(agent)?;
    usage(table, &format!("{SERVICES} services x 3 backends"), agent)?;
    commit(table, &mut api, &mut maps, changes)
}

/// Waits until the process has used no noteworthy CPU for a second.
pub(crate) fn settle(pid: u32) -> Result<()> {
    let mut last = cpu_s(pid)?;
    wait_for(Duration::from_secs(60), "the agent settles", || {
        std::thread::park_timeout(Duration::from_secs(1));
        let now = cpu_s(pid)?;
        let calm = now - last < 0.03;
        last = now;
        Ok(calm)
    })
}

fn usage(table: &mut Table, state: &str, pid: u32) -> Result<()> {
    let (before, started) = (cpu_s(pid)?, Instant::now());
    std::thread::park_timeout(WINDOW);
    let share = (cpu_s(pid)? - before) / started.elapsed().as_secs_f64() * 100.0;
    table.row(
        &format!("agent, {state}"),
        "causeway",
        &format!("{:.1} MB RSS, {share:.2} % CPU", rss_mb(pid)?),
        "target: under 40 MB",
    );
    Ok(())
}

pub(crate) fn rss_mb(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("VmRSS")?;
    let kb: f64 = line.split_whitespace().nth(1).context("VmRSS")?.parse()?;
    Ok(kb / 1024.0)
}

/// User and system time of a process, in seconds.
fn cpu_s(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().context("stat")?.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / 100.0)
}

/// Services without selector and their EndpointSlices, as documents.
fn services() -> String {
    let mut out = String::new();
    for n in 0..SERVICES {
        let _ = write!(
            out,
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: bench-{n}}}, spec: {{ports: [{{port: 80}}]}}}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: bench-{n}, labels: {{kubernetes.io/service-name: bench-{n}}}}}\naddressType: IPv4\n\
             ports: [{{port: 8080, protocol: TCP}}]\nendpoints:\n"
        );
        for host in 1..=3 {
            let _ = writeln!(
                out,
                "- {{addresses: [10.1.{}.{host}], nodeName: n2, conditions: {{ready: true}}}}",
                100 + n % 100
            );
        }
    }
    out
}

fn cluster_ip(api: &mut Api, n: usize) -> Result<Ipv4Addr> {
    let json = api.request("GET", &format!("/api/v1/namespaces/default/services/bench-{n}"), "application/json", "")?;
    Ok(json["spec"]["clusterIP"].as_str().context("clusterIP")?.parse()?)
}

/// The agent's pinned maps, read beside it.
struct Maps {
    services: HashMap<MapData, ServiceKey, Service>,
    slots: HashMap<MapData, SlotKey, Slot>,
}

impl Maps {
    fn open(lab: &Lab) -> Result<Maps> {
        let dir = lab.bpf_root(NODE).join(format!("v{LAYOUT_VERSION}"));
        let open = |name: &str| pinned(&dir, name);
        Ok(Maps { services: HashMap::try_from(open(map::SERVICES)?)?, slots: HashMap::try_from(open(map::SLOTS)?)? })
    }

    /// The first backend of a service on port 80/TCP.
    fn backend(&mut self, vip: Ipv4Addr) -> Result<Option<Addr>> {
        let key = ServiceKey { addr: Addr::v4(vip.octets()), port: 80u16.to_be_bytes(), proto: 6, zero: 0 };
        let Ok(service) = self.services.get(&key, 0) else { return Ok(None) };
        let slot = SlotKey { service_id: service.id, generation: service.generation, slot: 0 };
        Ok(self.slots.get(&slot, 0).ok().map(|slot| slot.addr))
    }
}

fn pinned(dir: &Path, name: &str) -> Result<Map> {
    let path = dir.join(name);
    let data = MapData::from_pin(&path).with_context(|| format!("open the pinned map {}", path.display()))?;
    Ok(Map::HashMap(data))
}

/// Patches one EndpointSlice again and again and spins on the map until the new backend is there.
fn commit(table: &mut Table, api: &mut Api, maps: &mut Maps, changes: usize) -> Result<()> {
    let target = SERVICES / 2;
    let vip = cluster_ip(api, target)?;
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/bench-{target}");
    let (mut seen_ms, mut answered_ms) = (Vec::new(), Vec::new());
    for change in 0..changes {
        // A new lowest address, so that it is the first slot.
        let wanted = Ipv4Addr::new(10, 1, 99, u8::try_from(change % 200 + 1)?);
        let body = format!(r#"[{{"op":"replace","path":"/endpoints/0/addresses","value":["{wanted}"]}}]"#);
        let started = Instant::now();
        let answer: Value = api.request("PATCH", &path, "application/json-patch+json", &body)?;
        answered_ms.push(started.elapsed().as_secs_f64() * 1e3);
        ensure!(answer["kind"] == "EndpointSlice", "{answer}");
        loop {
            if maps.backend(vip)? == Some(Addr::v4(wanted.octets())) {
                break;
            }
            if started.elapsed() > Duration::from_secs(5) {
                bail!("change {change} to {wanted} did not reach the map within 5 s");
            }
            std::hint::spin_loop();
        }
        seen_ms.push(started.elapsed().as_secs_f64() * 1e3);
    }
    seen_ms.sort_by(f64::total_cmp);
    answered_ms.sort_by(f64::total_cmp);
    let of = |list: &[f64]| format!("p50 {:.2} ms, p99 {:.2} ms", percentile(list, 50.0), percentile(list, 99.0));
    table.row("EndpointSlice change to map committed", "causeway", &of(&seen_ms), "from sending the PATCH");
    table.row("the same PATCH, answered", "the API alone", &of(&answered_ms), "what of it is the API's");
    Ok(())
}

pub(crate) fn wait_for(limit: Duration, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !done()? {
        ensure!(started.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}
