//! The plan's namespaces, cables, addresses and routes, made in the kernel.
//!
//! All hosts are configured at once, each by one run of `ip -batch` inside its namespace.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use topology::plan::{CablePlan, HostPlan, LinkPlan, Plan, TorPlan};
use topology::spec::Role;

use crate::netns;
use crate::state::Lab;

/// Settings of every host and ToR, under /proc/sys/net.
const SYSCTLS: &[(&str, &str)] = &[
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    // Hosts speak from loopback addresses; ARP asks with the address of the link.
    ("ipv4/conf/all/arp_announce", "2"),
    // A cable without its other end is no next hop.
    ("ipv4/conf/all/ignore_routes_with_linkdown", "1"),
    ("ipv6/conf/all/ignore_routes_with_linkdown", "1"),
    ("ipv6/conf/all/accept_redirects", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    // Addresses are planned: probing for duplicates only delays.
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/keep_addr_on_down", "1"),
    ("ipv6/conf/default/keep_addr_on_down", "1"),
    // Spread flows by ports too, not by addresses only.
    ("ipv4/fib_multipath_hash_policy", "1"),
    ("ipv6/fib_multipath_hash_policy", "1"),
    ("ipv4/ping_group_range", "0 2147483647"),
];

/// Nodes and ToRs forward.
const FORWARDING: &[(&str, &str)] =
    &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1"), ("ipv6/conf/default/forwarding", "1")];

/// Makes everything of the plan.
pub(crate) fn realise(lab: &Lab, plan: &Plan) -> Result<()> {
    each(plan.tors.iter().map(|tor| move || make_namespace(lab, &tor.name, true)))?;
    each(plan.hosts.iter().map(|host| move || make_namespace(lab, &host.name, forwards(host))))?;
    let cables = plan.hosts.iter().map(|host| cable_commands(lab, host));
    let links = plan.links.iter().map(|link| link_commands(lab, link));
    batch(None, &cables.chain(links).collect::<String>())?;
    each(plan.tors.iter().map(|tor| move || batch(Some(&lab.netns(&tor.name)), &bridge_commands(plan, tor))))?;
    each(plan.hosts.iter().map(|host| move || batch(Some(&lab.netns(&host.name)), &host_commands(host))))?;
    each(plan.tors.iter().map(|tor| {
        let routes: String = plan.cables_of(&tor.name).map(|(host, _)| route_commands(host, &tor.name)).collect();
        move || batch(Some(&lab.netns(&tor.name)), &routes)
    }))
}

/// Cables one more host into ToRs that run.
pub(crate) fn add_host(lab: &Lab, host: &HostPlan) -> Result<()> {
    make_namespace(lab, &host.name, forwards(host))?;
    batch(None, &cable_commands(lab, host))?;
    for cable in &host.cables {
        batch(Some(&lab.netns(&cable.tor)), &port_commands(host, cable.bridge))?;
    }
    batch(Some(&lab.netns(&host.name)), &host_commands(host))?;
    for cable in &host.cables {
        batch(Some(&lab.netns(&cable.tor)), &route_commands(host, &cable.tor))?;
    }
    Ok(())
}

/// Makes the last cable of a host that runs.
pub(crate) fn add_cable(lab: &Lab, host: &HostPlan) -> Result<()> {
    let cable = host.cables.last().context("a host has cables")?;
    batch(None, &cable_command(lab, host, cable))?;
    batch(Some(&lab.netns(&cable.tor)), &port_commands(host, cable.bridge))?;
    batch(Some(&lab.netns(&host.name)), &(interface_commands(cable) + &default_routes(host)))?;
    batch(Some(&lab.netns(&cable.tor)), &route_commands(host, &cable.tor))
}

/// Sets an interface of a ToR up or down; it has the name of the host or ToR at the cable's other end.
pub(crate) fn set_interface(lab: &Lab, tor: &str, interface: &str, up: bool) -> Result<()> {
    batch(Some(&lab.netns(tor)), &format!("link set {interface} {}\n", if up { "up" } else { "down" }))
}

/// Takes away what the ToRs have of a host; its cables go with its namespace.
pub(crate) fn remove_host(lab: &Lab, host: &HostPlan) -> Result<()> {
    for cable in &host.cables {
        let routes = route_commands(host, &cable.tor).replace("replace", "del");
        batch(Some(&lab.netns(&cable.tor)), &format!("{routes}link del {}\n", host.name))?;
    }
    Ok(())
}

fn forwards(host: &HostPlan) -> bool {
    matches!(host.role, Role::Node { .. })
}

fn make_namespace(lab: &Lab, host: &str, forwards: bool) -> Result<()> {
    let name = lab.netns(host);
    netns::create(&name)?;
    netns::inside(&netns::path(&name), || {
        for (key, value) in SYSCTLS.iter().chain(if forwards { FORWARDING } else { &[] }) {
            let path = format!("/proc/sys/net/{key}");
            std::fs::write(&path, value).with_context(|| format!("cannot write {value} to {path} in {name}"))?;
        }
        Ok(())
    })
}

/// Interfaces are born inside their namespaces: the root namespace never sees them.
fn cable_commands(lab: &Lab, host: &HostPlan) -> String {
    host.cables.iter().map(|cable| cable_command(lab, host, cable)).collect()
}

fn cable_command(lab: &Lab, host: &HostPlan, cable: &CablePlan) -> String {
    format!(
        "link add name {} netns {} type veth peer name {} netns {}\n",
        cable.interface,
        lab.netns(&host.name),
        host.name,
        lab.netns(&cable.tor)
    )
}

fn link_commands(lab: &Lab, link: &LinkPlan) -> String {
    let (a, b) = (&link.a.tor, &link.b.tor);
    format!("link add name {b} netns {} type veth peer name {a} netns {}\n", lab.netns(a), lab.netns(b))
}

fn bridge_commands(plan: &Plan, tor: &TorPlan) -> String {
    let mut text = String::from("link set lo up\n");
    for (name, bridge) in [("rack", tor.rack), ("out", tor.out)] {
        let _ = write!(
            text,
            "link add {name} type bridge stp_state 0 mcast_snooping 0\nlink set {name} up\naddr add {} dev {name}\naddr add {} dev {name} nodad\n",
            bridge.v4, bridge.v6
        );
    }
    for (host, cable) in plan.cables_of(&tor.name) {
        text.push_str(&port_commands(host, cable.bridge));
    }
    for (own, other) in plan.links_of(&tor.name) {
        let interface = &other.tor;
        let _ = write!(
            text,
            "addr add {} dev {interface}\naddr add {} dev {interface} nodad\nlink set {interface} up\n",
            own.v4, own.v6
        );
    }
    text
}

fn port_commands(host: &HostPlan, bridge: &str) -> String {
    format!("link set {} master {bridge}\nlink set {} up\n", host.name, host.name)
}

fn host_commands(host: &HostPlan) -> String {
    let mut text = format!(
        "link set lo up\naddr add {}/32 dev lo\naddr add {}/128 dev lo nodad\n",
        host.loopback.v4, host.loopback.v6
    );
    text.extend(host.cables.iter().map(interface_commands));
    text + &default_routes(host)
}

fn interface_commands(cable: &CablePlan) -> String {
    let interface = &cable.interface;
    format!(
        "link set {interface} up\naddr add {} dev {interface}\naddr add {} dev {interface} nodad\n",
        cable.v4, cable.v6
    )
}

/// Through all cables at once.
fn default_routes(host: &HostPlan) -> String {
    let (mut hops_v4, mut hops_v6) = (String::new(), String::new());
    for CablePlan { interface, gateway, .. } in &host.cables {
        let _ = write!(hops_v4, " nexthop via {} dev {interface}", gateway.v4);
        let _ = write!(hops_v6, " nexthop via {} dev {interface}", gateway.v6);
    }
    format!(
        "route replace default src {}{hops_v4}\n-6 route replace default src {}{hops_v6}\n",
        host.loopback.v4, host.loopback.v6
    )
}

/// Routes of a ToR to a host's loopback.
fn route_commands(host: &HostPlan, tor: &str) -> String {
    let mut text = String::new();
    for cable in host.cables.iter().filter(|cable| cable.tor == tor) {
        let _ = write!(
            text,
            "route replace {}/32 via {} proto static\n-6 route replace {}/128 via {} proto static\n",
            host.loopback.v4,
            cable.v4.addr(),
            host.loopback.v6,
            cable.v6.addr()
        );
    }
    text
}

/// Feeds commands to one `ip -batch`, inside a namespace or in the root namespace.
fn batch(namespace: Option<&str>, commands: &str) -> Result<()> {
    // `ip` takes a family only as an option of the whole run, so the two families are two runs.
    let (v6, v4): (Vec<&str>, Vec<&str>) = commands.lines().partition(|line| line.starts_with("-6 "));
    let v6: Vec<&str> = v6.iter().map(|line| line.trim_start_matches("-6 ")).collect();
    let run = || -> Result<()> {
        run_ip(&["-batch", "-"], &v4)?;
        run_ip(&["-6", "-batch", "-"], &v6)
    };
    let place = namespace.unwrap_or("the root namespace");
    match namespace {
        Some(name) => netns::inside(&netns::path(name), run),
        None => run(),
    }
    .with_context(|| format!("cannot configure {place}"))
}

fn run_ip(arguments: &[&str], lines: &[&str]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip; install iproute2")?;
    if let Some(mut stdin) = child.stdin.take() {
        // A broken pipe means that `ip` has failed; it says why below.
        let _ = stdin.write_all((lines.join("\n") + "\n").as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let line = words
        .rsplit(':')
        .find_map(|number| number.trim().parse::<usize>().ok())
        .and_then(|number| lines.get(number.checked_sub(1)?));
    bail!("ip: {} ({})", words.trim(), line.unwrap_or(&"in the batch"));
}

/// Runs every job on its own thread; the first error wins.
pub(crate) fn each<F: FnOnce() -> Result<()> + Send>(jobs: impl Iterator<Item = F>) -> Result<()> {
    std::thread::scope(|scope| {
        let running: Vec<_> = jobs.map(|job| scope.spawn(job)).collect();
        let mut result = Ok(());
        for job in running {
            let outcome = job.join().unwrap_or_else(|_| bail!("a thread of the lab panicked"));
            result = result.and(outcome);
        }
        result
    })
}
