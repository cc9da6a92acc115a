//! The leak matrix: markers in every payload, captures on every underlay link, and nothing to be found, whatever happens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::capture::{Capture, Hits, Marker, World};
use super::place::Place;
use super::talk::{ALL, LONG, PORT, Protocol, SHORT, Server, Talk};
use super::{ENCRYPTED, NODES, PLAIN, SOON, Site, announced, device, healthy, plan, seconds};
use crate::kit;
use crate::report::{Report, until};

/// The sender's node, in the first rack, and the receiver's, in the second.
const HERE: &str = "n1";
const THERE: &str = "n4";
/// How long a cell that needs no event goes on.
const A_WHILE: Duration = Duration::from_secs(1);
/// How long something stays broken.
const BROKEN: Duration = Duration::from_millis(1500);
const FAMILIES: [&str; 2] = ["v4", "v6"];

/// The Service in front of the receiver.
const SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: there}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  selector: {app: on-n4}
  ports:
  - {name: udp, port: 9000, targetPort: 9000, protocol: UDP}
  - {name: tcp, port: 9000, targetPort: 9000}
"#;

struct Leak {
    site: Site,
    capture: Capture,
    client: Place,
    /// In the client, and on the receiver's node itself.
    servers: [Server; 2],
}

/// What is encrypted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Pods,
    Nodes,
}

/// From whom to which addresses.
type Way = (Place, [IpAddr; 2]);

/// What a cell's senders must have seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answers {
    Some,
    None,
}

impl Leak {
    fn up(name: &str, kind: Kind) -> Result<Leak> {
        let site = match kind {
            Kind::Plain => Site::up(ENCRYPTED, name, &[PLAIN], &NODES.map(|node| (node, "default")))?,
            Kind::Pods => Site::five(name, &[])?,
            Kind::Nodes => Site::five(name, &["cluster.default.encrypt_node=true"])?,
        };
        site.lab.apply(SERVICE)?;
        let mut grown = plan(ENCRYPTED, &[])?;
        // Also of a node that comes later, with a cable that comes later.
        let mut topology =
            topology::Topology::parse(ENCRYPTED, &std::fs::read_to_string("topologies/encrypted/topology.toml")?)?;
        topology.add_node(NEW, None)?;
        for host in topology.hosts.iter_mut().filter(|host| host.name == HERE) {
            host.cables.push("tor2".into());
        }
        grown.hosts = topology::Plan::new(&topology)?.hosts;
        let capture = Capture::start(&site.places, &site.plan, World::of(&grown))?;
        let client = site.places.get("client")?;
        let servers = [Server::start(&client)?, Server::start(&site.places.get(THERE)?)?];
        Ok(Leak { site, capture, client, servers })
    }

    fn way(&self, from: &str, to: &str) -> Result<Way> {
        Ok((self.site.place(from)?, self.site.addresses(to)?))
    }

    /// There and back.
    fn both(&self) -> Result<Vec<Way>> {
        Ok(vec![self.way(HERE, THERE)?, self.way(THERE, HERE)?])
    }

    fn service(&self, outside: bool) -> Result<[IpAddr; 2]> {
        let kube = self.site.lab.kube();
        if outside {
            let (v4, v6) = kit::vips(kube, "there")?;
            return Ok([v4.parse()?, v6.parse()?]);
        }
        let json = kube.json(&["get", "service", "there"])?;
        let (v4, v6) = kit::pair_of(
            &json["spec"]["clusterIPs"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|a| Some(a.as_str()?.to_owned()))
                .collect::<Vec<_>>(),
        )?;
        Ok([v4.parse()?, v6.parse()?])
    }

    /// Sends on all ways in both families while `during` runs. What was captured of either family's marker comes back.
    fn cell(
        &self,
        ways: &[Way],
        protocols: &[Protocol],
        length: usize,
        answers: Answers,
        during: impl FnOnce(&[Talk]) -> Result<String>,
    ) -> Result<([Hits; 2], String)> {
        let markers = [self.capture.marker()?, self.capture.marker()?];
        let before = self.capture.wireguard();
        let mut talks = Vec::new();
        for (from, to) in ways {
            for (address, (_, marker)) in to.iter().zip(&markers) {
                talks.push(Talk::start(from, *address, marker, protocols, length));
            }
        }
        let extra = during(&talks);
        let mut figures = Vec::new();
        let mut missing = Vec::new();
        for (at, talk) in talks.into_iter().enumerate() {
            let (tally, family) = (talk.finish()?, FAMILIES[at % 2]);
            for protocol in protocols {
                let (sent, answered) = tally.of(*protocol);
                if (answers == Answers::Some) != (answered > 0) {
                    missing.push(format!("{family} {protocol:?}: {sent} sent, {answered} answered"));
                }
            }
            let (sent, answered) = tally.all();
            figures.push(format!("{family} {sent} sent {answered} answered"));
        }
        let extra = extra?;
        let hits = markers.map(|(number, _)| self.capture.hits(number));
        let expected = if answers == Answers::Some { "answers" } else { "no answers" };
        ensure!(missing.is_empty(), "expected {expected} on every way: {missing:?}; {extra}");
        let datagrams = self.capture.wireguard() - before;
        let extra = if extra.is_empty() { extra } else { format!("{extra}; ") };
        Ok((hits, format!("{extra}{}; {datagrams} WireGuard datagrams", figures.join(", "))))
    }

    /// A cell in which nothing may be seen.
    fn silent(
        &self,
        ways: &[Way],
        protocols: &[Protocol],
        length: usize,
        answers: Answers,
        during: impl FnOnce(&[Talk]) -> Result<String>,
    ) -> Result<String> {
        let (hits, figure) = self.cell(ways, protocols, length, answers, during)?;
        for hits in &hits {
            hits.none_inside()?;
        }
        Ok(format!("0 hits; {figure}"))
    }

    /// The cells in which nothing is broken, by name.
    fn steady(&self) -> Result<Vec<Steady>> {
        let host = self.site.places.get(HERE)?;
        let there = loopback(&self.site, THERE)?;
        let pods = self.way(HERE, THERE)?;
        let no_icmp = vec![Protocol::Udp, Protocol::Tcp];
        Ok(vec![
            Steady { name: "UDP and TCP between pods", way: pods.clone(), protocols: no_icmp.clone(), length: SHORT },
            Steady { name: "ICMP", way: pods.clone(), protocols: vec![Protocol::Icmp], length: SHORT },
            Steady {
                name: "fragments",
                way: pods.clone(),
                protocols: vec![Protocol::Udp, Protocol::Icmp],
                length: LONG,
            },
            Steady { name: "host to pod", way: (host, pods.1), protocols: ALL.to_vec(), length: SHORT },
            Steady { name: "pod to host", way: (pods.0.clone(), there), protocols: ALL.to_vec(), length: SHORT },
            Steady {
                name: "service traffic from inside",
                way: (pods.0, self.service(false)?),
                protocols: no_icmp.clone(),
                length: SHORT,
            },
            Steady {
                name: "service traffic from outside",
                way: (self.client.clone(), self.service(true)?),
                protocols: no_icmp,
                length: SHORT,
            },
        ])
    }

    /// Sends what nobody encrypts: the captures must see it.
    fn seen(&self) -> Result<String> {
        let way = (self.site.place(HERE)?, loopback(&self.site, "client")?);
        let (hits, figure) = self.cell(&[way], &ALL, SHORT, Answers::Some, pause)?;
        for (hits, family) in hits.iter().zip(FAMILIES) {
            for trade in ["UDP", "TCP", "ICMP"] {
                ensure!(hits.kinds.contains_key(trade), "{family}: the captures did not see {trade}: {:?}", hits.kinds);
            }
        }
        let [v4, v6] = hits.map(|hits| hits.inside + hits.outside);
        Ok(format!("{v4} hits v4, {v6} hits v6; {figure}"))
    }
}

struct Steady {
    name: &'static str,
    way: Way,
    protocols: Vec<Protocol>,
    length: usize,
}

/// The addresses of a host.
fn loopback(site: &Site, host: &str) -> Result<[IpAddr; 2]> {
    let host = site.plan.host(host).with_context(|| format!("no host {host}"))?;
    Ok([host.loopback.v4.into(), host.loopback.v6.into()])
}

fn pause(_: &[Talk]) -> Result<String> {
    std::thread::sleep(A_WHILE);
    Ok(String::new())
}

/// Waits until every sender has had answers over all its protocols to what it sent from now on.
fn flows(talks: &[Talk]) -> Result<Duration> {
    let before: Vec<u64> = talks.iter().map(Talk::answered).collect();
    let (_, took) = until(SOON, "answers on every way", || {
        // A few, so that one that was under way does not count.
        let late = talks.iter().zip(&before).filter(|(talk, before)| talk.answered() < **before + 3).count();
        ensure!(late == 0, "{late} of {} ways have none", talks.len());
        Ok(())
    })?;
    Ok(took)
}

/// The same cells without encryption: every one of them must be seen, in each family.
pub(crate) fn control(report: &mut Report) -> Result<()> {
    let leak = Leak::up("e2e-plain", Kind::Plain)?;
    for Steady { name, way, protocols, length } in leak.steady()? {
        report.show(&format!("the captures see, without encryption: {name}"), || {
            let (hits, figure) = leak.cell(&[way], &protocols, length, Answers::Some, pause)?;
            for (hits, family) in hits.iter().zip(FAMILIES) {
                ensure!(hits.inside > 0, "{family}: the captures are blind");
                ensure!(length == SHORT || hits.kinds.contains_key("fragments"), "{family}: no fragment was seen");
            }
            let [v4, v6] = hits.map(|hits| (hits.inside, hits.links.len()));
            Ok(format!("{} hits on {} links v4, {} on {} v6; {figure}", v4.0, v4.1, v6.0, v6.1))
        });
    }
    report.show("and tell plain traffic between nodes and pods", || {
        leak.capture.whole()?;
        let total = leak.capture.total();
        ensure!(
            total.foreign > 0 && total.wireguard == 0,
            "{} foreign, {} of WireGuard",
            total.foreign,
            total.wireguard
        );
        Ok(format!("{} of {} frames on {} links, none lost", total.foreign, total.frames, total.links))
    });
    leak.down()
}

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let leak = Leak::up("e2e-leak", Kind::Pods)?;
    report.show("the captures see what a pod sends to a client, who is no peer", || leak.seen());
    for Steady { name, way, protocols, length } in leak.steady()? {
        report.show(&format!("leak: {name}"), || {
            let (hits, figure) = leak.cell(&[way], &protocols, length, Answers::Some, pause)?;
            for hits in &hits {
                hits.none_inside()?;
            }
            let [v4, v6] = hits.map(|hits| hits.outside);
            if name.ends_with("outside") {
                ensure!(v4 > 0 && v6 > 0, "the client's own leg was not seen: {v4} frames v4, {v6} v6");
                return Ok(format!("0 hits (and {v4} v4, {v6} v6 on the client's own leg); {figure}"));
            }
            ensure!(v4 + v6 == 0, "{v4} frames v4, {v6} v6 at the client");
            Ok(format!("0 hits; {figure}"))
        });
    }
    for (name, cell) in CELLS {
        report.show(&format!("leak: {name}"), || cell(&leak));
    }
    report.show("nothing but WireGuard, BGP, ARP and ND between the nodes, in all this time", || {
        let total = leak.capture.total();
        ensure!(total.foreign == 0, "{} other frames, such as {:?}", total.foreign, total.foreign_samples);
        Ok(format!("{} frames, {} of them WireGuard", total.frames, total.wireguard))
    });
    report.show("the captures are whole", || {
        leak.capture.whole()?;
        let total = leak.capture.total();
        // Every cable, also those that came later, and both ends of the link between the racks.
        let expected = leak.site.plan.hosts.iter().map(|host| host.cables.len()).sum::<usize>() + 2 + 2;
        ensure!(total.links == expected, "{} links were seen, expected {expected}", total.links);
        Ok(format!("{} links, 0 frames lost", total.links))
    });
    leak.down()
}

/// With the nodes' own traffic encrypted too: a lab comes up that way, and nothing of it is to be seen.
pub(crate) fn nodes(report: &mut Report) -> Result<()> {
    let leak = Leak::up("e2e-leak-nodes", Kind::Nodes)?;
    let host = leak.site.places.get(HERE)?;
    let between = (host, loopback(&leak.site, THERE)?);
    let back = (leak.site.places.get(THERE)?, leak.site.addresses(HERE)?);
    report.show("node encryption, leak: host to host", || {
        leak.silent(std::slice::from_ref(&between), &ALL, SHORT, Answers::Some, pause)
    });
    report.show("node encryption, leak: host to pod, and pod to host", || {
        let ways = [back, (leak.site.place(HERE)?, loopback(&leak.site, THERE)?)];
        leak.silent(&ways, &ALL, SHORT, Answers::Some, pause)
    });
    report.show("node encryption, leak: agent killed with -9 and started, host to host", || {
        let lab = &leak.site.lab;
        leak.silent(&[between], &ALL, SHORT, Answers::Some, |talks| {
            lab.lab("kill", &[&agent(HERE), "--signal", "KILL"])?;
            flows(talks).context("while there is no agent")?;
            lab.lab("start", &[&agent(HERE)])?;
            healthy(lab, HERE)?;
            flows(talks).context("after the start")?;
            Ok(String::new())
        })
    });
    report.show("node encryption: nothing but WireGuard, BGP, ARP and ND between the nodes", || {
        leak.capture.whole()?;
        let total = leak.capture.total();
        ensure!(total.foreign == 0, "{} other frames, such as {:?}", total.foreign, total.foreign_samples);
        Ok(format!("{} frames, {} of them WireGuard", total.frames, total.wireguard))
    });
    leak.down()
}

impl Leak {
    fn down(self) -> Result<()> {
        drop((self.capture, self.servers));
        self.site.down()
    }
}

type Cell = fn(&Leak) -> Result<String>;

const CELLS: [(&str, Cell); 10] = [
    ("pod start", pod_start),
    ("destination unknown", unknown),
    ("agent killed with -9 and started", agent_killed),
    ("upgrade: the agent ends and its successor replaces the programs", upgrade),
    ("rotation of all nodes' keys", rotation),
    ("new uplink", uplink),
    ("device deleted", device_deleted),
    ("WireGuard process killed (with the kernel's device: the agent, and the device deleted)", device_stopped),
    ("peer missing: the other node's device is gone", peer_missing),
    ("agent start: a node joins, and its first pod sends at once", agent_start),
];

/// A node that joins.
const NEW: &str = "n6";

fn agent(node: &str) -> String {
    format!("agent-{node}")
}

/// A pod that sends markers by its first command, with the tools of any shell.
fn sender(node: &str, to: [IpAddr; 2], markers: [&Marker; 2]) -> String {
    let hex = |marker: &Marker| marker.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut script = String::new();
    for (to, marker) in to.iter().zip(markers) {
        script += &format!("ping -q -i 0.05 -p {} {to} >/dev/null & ", hex(marker));
    }
    script += "while :; do ";
    for (to, marker) in to.iter().zip(markers) {
        let text = marker.text().repeat(4);
        script +=
            &format!("echo {text} >/dev/udp/{to}/{PORT}; timeout 0.3 bash -c 'echo {text} >/dev/tcp/{to}/{PORT}'; ");
    }
    script += "sleep 0.02; done 2>/dev/null";
    let script = serde_json::Value::from(script);
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: sender-{node}, labels: {{app: sender-{node}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - name: sender
    image: none
    command: [bash, -c, {script}]
"#
    )
}

/// Makes a sender's pod, runs `start`, and waits until the pod's markers of both families have arrived.
fn started(leak: &Leak, node: &str, start: impl FnOnce() -> Result<()>) -> Result<String> {
    let ((four, v4), (six, v6)) = (leak.capture.marker()?, leak.capture.marker()?);
    let (kube, before) = (leak.site.lab.kube(), leak.capture.wireguard());
    kube.apply(&sender(node, leak.site.addresses(THERE)?, [&v4, &v6]))?;
    start()?;
    let server = leak.site.server(THERE)?;
    let (arrived, took) = until(SOON, "the pod's first markers arrive", || {
        let arrived = [server.received(&v4), server.received(&v6)];
        ensure!(arrived.iter().all(|count| *count >= 10), "{arrived:?} have");
        Ok(arrived)
    })?;
    let hits = [leak.capture.hits(four), leak.capture.hits(six)];
    let datagrams = leak.capture.wireguard() - before;
    kube.run(&["delete", "pod", &format!("sender-{node}"), "--wait=false"])?;
    for hits in &hits {
        hits.none_inside()?;
    }
    Ok(format!(
        "0 hits; {} v4 and {} v6 had arrived after {}; {datagrams} WireGuard datagrams",
        arrived[0],
        arrived[1],
        seconds(took)
    ))
}

fn pod_start(leak: &Leak) -> Result<String> {
    started(leak, "n2", || Ok(()))
}

fn agent_start(leak: &Leak) -> Result<String> {
    started(leak, NEW, || leak.site.lab.add_node(NEW, "default"))
}

/// An address in the pod range of no node, and one that no pod of a node has.
fn unknown(leak: &Leak) -> Result<String> {
    let from = leak.site.place(HERE)?;
    let nobody: [IpAddr; 2] = ["10.1.250.9".parse()?, "fd00:1:0:fa::9".parse()?];
    let last = |address: IpAddr| -> IpAddr {
        match address {
            IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) | 0xfe).into(),
            IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) | 0xffff_ffff).into(),
        }
    };
    let ways = [(from.clone(), nobody), (from, leak.site.addresses(THERE)?.map(last))];
    let before = refused(leak)?;
    let figure = leak.silent(&ways, &[Protocol::Udp, Protocol::Icmp], SHORT, Answers::None, pause)?;
    Ok(format!("{figure}; the guard refused {}", refused(leak)? - before))
}

/// Packets that the guard of the sender's node has not let out.
fn refused(leak: &Leak) -> Result<u64> {
    let status = leak.site.lab.causeway_json(HERE, &["encrypt", "status"])?;
    status["guard"]["unencryptedTraffic"].as_u64().with_context(|| format!("no count in {status}"))
}

fn agent_killed(leak: &Leak) -> Result<String> {
    let lab = &leak.site.lab;
    leak.silent(&leak.both()?, &ALL, SHORT, Answers::Some, |talks| {
        flows(talks)?;
        lab.lab("kill", &[&agent(HERE), "--signal", "KILL"])?;
        flows(talks).context("while there is no agent")?;
        std::thread::sleep(A_WHILE);
        lab.lab("start", &[&agent(HERE)])?;
        let took = healthy(lab, HERE)?;
        flows(talks).context("after the start")?;
        Ok(format!("the next agent was well after {}", seconds(took)))
    })
}

fn upgrade(leak: &Leak) -> Result<String> {
    let lab = &leak.site.lab;
    leak.silent(&leak.both()?, &ALL, SHORT, Answers::Some, |talks| {
        flows(talks)?;
        let before = programs(leak)?;
        lab.lab("kill", &[&agent(HERE)])?;
        flows(talks).context("while there is no agent")?;
        lab.lab("start", &[&agent(HERE)])?;
        healthy(lab, HERE)?;
        flows(talks).context("after the start")?;
        let after = programs(leak)?;
        let replaced = before.iter().filter(|(link, program)| after.iter().any(|(l, p)| l == link && p != program));
        let replaced = replaced.count();
        ensure!(replaced > 0, "no program was replaced: {before:?}, then {after:?}");
        Ok(format!("{replaced} of {} links have another program", after.len()))
    })
}

/// Pinned links of a node, each with the program behind it.
fn programs(leak: &Leak) -> Result<Vec<(u64, u64)>> {
    let root = std::path::Path::new("/sys/fs/bpf/causeway-lab").join(&leak.site.lab.name).join(HERE);
    let mut pins = vec![root];
    let mut found = Vec::new();
    while let Some(place) = pins.pop() {
        if place.is_dir() {
            pins.extend(std::fs::read_dir(&place)?.filter_map(|entry| Some(entry.ok()?.path())));
            continue;
        }
        let out = std::process::Command::new("bpftool").args(["-j", "link", "show", "pinned"]).arg(&place).output()?;
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        if let (Some(link), Some(program)) = (json["id"].as_u64(), json["prog_id"].as_u64()) {
            found.push((link, program));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn rotation(leak: &Leak) -> Result<String> {
    let lab = &leak.site.lab;
    leak.silent(&leak.both()?, &ALL, SHORT, Answers::Some, |talks| {
        flows(talks)?;
        let before = announced(lab.kube())?;
        super::rotation::rotate(lab, HERE, &["--all"])?;
        let took = super::rotation::switched(lab, &before, &NODES, &NODES)?;
        flows(talks)?;
        Ok(format!("every node sends to every other one's new key after {}", seconds(took)))
    })
}

fn uplink(leak: &Leak) -> Result<String> {
    let lab = &leak.site.lab;
    leak.silent(&leak.both()?, &ALL, SHORT, Answers::Some, |talks| {
        flows(talks)?;
        lab.lab("cable", &[HERE, "tor2"])?;
        std::thread::sleep(A_WHILE);
        flows(talks)?;
        Ok("all ways went on".to_owned())
    })
}

/// Breaks something between two nodes, and mends it unless it heals by itself.
fn broken(leak: &Leak, breaks: impl FnOnce() -> Result<()>, mends: impl FnOnce() -> Result<()>) -> Result<String> {
    leak.silent(&leak.both()?, &ALL, SHORT, Answers::Some, |talks| {
        flows(talks)?;
        let refused_before = refused(leak)?;
        breaks()?;
        let before: u64 = talks.iter().map(|talk| talk.tally().all().1).sum();
        std::thread::sleep(BROKEN);
        let during: u64 = talks.iter().map(|talk| talk.tally().all().1).sum::<u64>() - before;
        let refused = refused(leak)? - refused_before;
        // Routes go with the device; what is left is the guard.
        ensure!(refused > 0, "the guard refused nothing");
        mends()?;
        let took = flows(talks)?;
        let late = device::sessions(&leak.site.lab, &[HERE, THERE], 1, SOON)?;
        Ok(format!(
            "{during} answers in {} of it, {refused} packets refused by the guard, all ways again {} after",
            seconds(BROKEN),
            seconds(took + late)
        ))
    })
}

fn device_deleted(leak: &Leak) -> Result<String> {
    let lab = &leak.site.lab;
    broken(leak, || lab.exec(HERE, &["ip", "link", "del", "cilium_wg0"]).map(drop), || Ok(()))
}

fn device_stopped(leak: &Leak) -> Result<String> {
    let lab = &leak.site.lab;
    let kernels = device::is_kernels(lab, HERE)?;
    broken(leak, || device::stop(lab, HERE, kernels), || device::start(lab, HERE, kernels))
}

fn peer_missing(leak: &Leak) -> Result<String> {
    let lab = &leak.site.lab;
    // Only what this node sends: what the other one does without a device is the cell before.
    let way = leak.way(HERE, THERE)?;
    let kernels = device::is_kernels(lab, THERE)?;
    device::stop(lab, THERE, kernels)?;
    let outcome = leak.silent(&[way], &[Protocol::Udp, Protocol::Icmp], SHORT, Answers::None, |_| {
        std::thread::sleep(BROKEN);
        Ok(String::new())
    });
    device::start(lab, THERE, kernels)?;
    let figure = outcome?;
    let back = leak.silent(&leak.both()?, &ALL, SHORT, Answers::Some, |talks| {
        Ok(format!("answers {} after it is back", seconds(flows(talks)?)))
    })?;
    Ok(format!("{figure}; then {back}"))
}
