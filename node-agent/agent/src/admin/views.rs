//! What the admin socket shows, read from the tables and their owners at the moment of asking.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use causeway_api::bgp::{Family, Peer, PeerFamily, Route, RouteTable, RoutesParams};
use causeway_api::datapath::{
    Backend, Count, Endpoint, Flow, FlowsParams, Identity, Ip, Ips, IpsParams, Node, Service,
};
use causeway_api::status::{Component, Health, Probe, Rejected, Status, Table as TableView};
use causeway_api::{ErrorBody, code};
use causeway_bgp_speaker::{PeerStatus, RouteAttrs, SessionState};
use causeway_bgp_wire::{Afi, Family as WireFamily, Prefix};
use causeway_datapath_abi::{Counter, flow_flag};
use causeway_datapath_loader::{FlowRow, boot_time_s};
use causeway_mesh_schema::ClusterId;
use causeway_table::{Realised, RowStatus, Shared};
use ipnet::IpNet;

use super::{Admin, Running};
use crate::control::ipcache::prefix::Prefix as RemotePrefix;
use crate::control::ipcache::{IpcacheRow, reserved};
use crate::control::services::LbRow;
use crate::intent::Key;
use crate::realize::bgp_status::state_name;

/// Flows that are shown unless asked for more.
const DEFAULT_FLOWS: usize = 1000;

/// Addresses of other clusters' pods that are shown unless asked for more: there may be half a million.
const DEFAULT_REMOTE_IPS: usize = 10_000;

impl Admin {
    pub(super) fn status(&self) -> Status {
        let components = match self.running.get() {
            None => vec![component("agent", Health::Starting, self.stage.borrow().clone())],
            Some(running) => self.components(running),
        };
        let healthy = components.iter().all(|c| matches!(c.health, Health::Ok | Health::Disabled));
        let features = self.running.get().map(|r| r.datapath.features()).unwrap_or_default();
        Status {
            node: self.config.node_name.clone(),
            cluster: self.config.cluster_name.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_s: self.started.elapsed().as_secs(),
            healthy,
            components,
            probes: features
                .into_iter()
                .map(|f| Probe { name: f.name.into(), ok: f.available, message: f.detail })
                .collect(),
            tables: self.table_views(),
            rejected: self.tables.rejected.read(|t| {
                t.iter()
                    .map(|(_, r)| Rejected {
                        kind: r.kind.clone(),
                        name: r.object.clone(),
                        field: r.field.clone(),
                        message: r.message.clone(),
                        remedy: r.remedy.clone(),
                    })
                    .collect()
            }),
        }
    }

    fn components(&self, running: &Running) -> Vec<Component> {
        let links = running.datapath.attached().map(|l| l.len());
        let datapath = match links {
            Ok(n) => component("datapath", Health::Ok, format!("{n} programs attached")),
            Err(e) => component("datapath", Health::Failed, e.to_string()),
        };
        vec![
            self.kubernetes(),
            datapath,
            realised("services", &running.lb_real),
            realised("ipcache", &running.ipcache_real),
            self.bgp(running),
            self.pods(),
            self.mesh(running),
            self.encryption(running),
        ]
    }

    fn kubernetes(&self) -> Component {
        let (waiting, broken) = self.tables.watches.read(|t| {
            let waiting: Vec<String> = t.iter().filter(|(_, w)| !w.synced).map(|(k, _)| k.clone()).collect();
            let broken = t.iter().find_map(|(_, w)| w.interrupted.clone());
            (waiting, broken)
        });
        match (broken, waiting.is_empty()) {
            (Some(why), _) => component("kubernetes", Health::Degraded, format!("going on with what is known: {why}")),
            (None, false) => component("kubernetes", Health::Starting, format!("reading {}", waiting.join(", "))),
            (None, true) => component("kubernetes", Health::Ok, "all kinds read and watched".into()),
        }
    }

    fn bgp(&self, running: &Running) -> Component {
        let status = running.speaker.status().borrow().clone();
        let plan = running.plan.borrow().clone();
        let peers: Vec<&PeerStatus> = status.instances.values().flat_map(|i| i.peers.values()).collect();
        let up = peers.iter().filter(|p| p.state == SessionState::Established).count();
        // What is planned, not what the speaker has taken up so far.
        let wanted: usize = plan.instances.values().map(|i| i.peers.len()).sum();
        let sessions = format!("{up} of {wanted} sessions established");
        if let Some(problem) = plan.problems.iter().find(|p| p.fatal) {
            return component("bgp", Health::Degraded, format!("{sessions}; {}: {}", problem.place, problem.message));
        }
        if plan.instances.is_empty() {
            let health = if self.tables.bgp_config.synced() { Health::Disabled } else { Health::Starting };
            return component("bgp", health, "no CiliumBGPNodeConfig for this node".into());
        }
        let listen = status.instances.values().find_map(|i| i.listen_error.clone());
        let health = if up == wanted && listen.is_none() { Health::Ok } else { Health::Degraded };
        component("bgp", health, listen.map_or(sessions.clone(), |e| format!("{sessions}; {e}")))
    }

    fn pods(&self) -> Component {
        let node = self.tables.nodes.get(&Key::new("", &self.config.node_name));
        let (all, waiting) = self.tables.endpoints.read(|t| {
            (t.len(), t.iter().filter(|(_, e)| e.identity == crate::intent::endpoint::IDENTITY_INIT).count())
        });
        let text = format!("{all} endpoints, {waiting} without identity");
        match node {
            Some(node) if node.pod_cidrs.is_empty() => component(
                "pods",
                Health::Degraded,
                format!("{text}; the Node has no spec.podCIDRs: is the operator running?"),
            ),
            _ => component("pods", Health::Ok, text),
        }
    }

    pub(super) fn table_views(&self) -> Vec<TableView> {
        let t = &self.tables;
        let mut views = vec![
            intent("services", &t.services),
            intent("endpointslices", &t.slices),
            intent("nodes", &t.nodes),
            intent("ciliumnodes", &t.cilium_nodes),
            intent("namespaces", &t.namespaces),
            intent("pods", &t.pods),
            intent("ciliumendpoints", &t.remote_endpoints),
            intent("identities", &t.identities),
            intent("bgp-node-configs", &t.bgp_config),
            intent("bgp-peer-configs", &t.bgp_peer_configs),
            intent("bgp-advertisements", &t.bgp_advertisements),
            intent("endpoints", &t.endpoints),
            intent("mesh-clusters", &t.mesh_clusters),
            intent("mesh-nodes", &t.mesh_nodes),
            intent("mesh-identities", &t.mesh_identities),
            intent("mesh-offers", &t.mesh_offers),
            intent("rejected", &t.rejected),
        ];
        match self.running.get() {
            Some(running) => {
                views.push(desired("lb", &t.lb, &running.lb_real));
                views.push(desired("ipcache", &t.ipcache, &running.ipcache_real));
            }
            None => {
                views.push(intent("lb", &t.lb));
                views.push(intent("ipcache", &t.ipcache));
            }
        }
        views
    }

    pub(super) fn bgp_peers(&self) -> Result<Vec<Peer>, ErrorBody> {
        let status = self.running()?.speaker.status().borrow().clone();
        let mut rows = Vec::new();
        for (instance, i) in &status.instances {
            for (name, p) in &i.peers {
                let negotiated = p.negotiated.as_ref();
                let asn = negotiated.map(|n| n.peer_asn).or(p.configured_asn);
                rows.push(Peer {
                    node: self.config.node_name.clone(),
                    instance: instance.clone(),
                    peer: name.clone(),
                    local_asn: i.local_asn.get(),
                    peer_asn: asn.map_or(0, |a| a.get()),
                    peer_address: p.address,
                    peer_port: negotiated.map_or(0, |n| n.remote.port()),
                    state: state_name(p.state).into(),
                    uptime_s: (p.state == SessionState::Established).then(|| p.since.elapsed().as_secs()),
                    applied_hold_time_s: negotiated.map_or(0, |n| secs(n.hold_time)),
                    applied_keepalive_s: negotiated.map_or(0, |n| secs(n.keepalive)),
                    graceful_restart: negotiated.is_some_and(|n| n.peer_restart_time_s.is_some()),
                    families: p
                        .families
                        .iter()
                        .map(|f| PeerFamily {
                            family: family(f.family),
                            received: f.received,
                            advertised: f.advertised,
                        })
                        .collect(),
                    withdrawals_sent: p.counters.withdrawals_out,
                    last_error: p.reason.clone().unwrap_or_default(),
                });
            }
        }
        Ok(rows)
    }

    pub(super) async fn bgp_routes(&self, params: &RoutesParams) -> Result<Vec<Route>, ErrorBody> {
        let running = self.running()?;
        let plan = running.plan.borrow().clone();
        let status = running.speaker.status().borrow().clone();
        let wanted = |name: &str, address: IpAddr| {
            params.peer.as_ref().is_none_or(|p| p == name || p.parse::<IpAddr>().is_ok_and(|ip| ip == address))
        };
        let mut rows = Vec::new();
        let mut found = false;
        for (instance, config) in &plan.instances {
            let row = |peer: Option<(&str, IpAddr)>, prefix: Prefix, attrs: &RouteAttrs, next_hop: Option<IpAddr>| {
                if params.family.is_some_and(|f| f != family(prefix.family())) {
                    return None;
                }
                Some(Route {
                    node: self.config.node_name.clone(),
                    instance: instance.clone(),
                    local_asn: config.local_asn.get(),
                    peer: peer.map(|(name, _)| name.to_owned()),
                    peer_address: peer.map(|(_, address)| address),
                    prefix: IpNet::new(prefix.address(), prefix.len()).ok()?,
                    next_hop: next_hop.unwrap_or(match prefix.address() {
                        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                    }),
                    communities: communities(attrs),
                    local_pref: attrs.local_pref,
                    med: attrs.med,
                    origin: plan.origins.get(&prefix).cloned().unwrap_or_default(),
                })
            };
            let peers = config.peers.iter().filter(|p| wanted(&p.name, p.address));
            match params.table {
                RouteTable::Available => {
                    let mut all = BTreeMap::new();
                    for peer in peers {
                        found = true;
                        if let Some(routes) = plan.routes.get(&(instance.clone(), peer.name.clone())) {
                            all.extend(routes.iter());
                        }
                    }
                    rows.extend(all.into_iter().filter_map(|(prefix, attrs)| row(None, *prefix, attrs, None)));
                }
                RouteTable::Advertised => {
                    for peer in peers {
                        found = true;
                        let Some(sent) = running.speaker.routes(instance, &peer.name).await else { continue };
                        let up =
                            status.peer(instance, &peer.name).is_some_and(|p| p.state == SessionState::Established);
                        for (prefix, attrs) in sent.routes.iter().filter(|_| up) {
                            let next_hop =
                                sent.next_hops.iter().find(|(f, _)| *f == prefix.family()).map(|(_, ip)| *ip);
                            rows.extend(row(Some((&peer.name, peer.address)), *prefix, attrs, next_hop));
                        }
                    }
                }
            }
        }
        match &params.peer {
            Some(peer) if !found => Err(ErrorBody::new(
                code::NOT_FOUND,
                format!("no BGP peer {peer:?}"),
                "`causeway bgp peers` lists names and addresses",
            )),
            _ => Ok(rows),
        }
    }

    pub(super) fn services(&self) -> Result<Vec<Service>, ErrorBody> {
        let running = self.running()?;
        let desired = self.tables.lb.snapshot();
        let names = self.cluster_names();
        Ok(desired
            .iter()
            .map(|(frontend, row)| {
                let row = &row.value;
                let (state, error) = row_state(running.lb_real.get(frontend).as_deref());
                Service {
                    namespace: row.service.namespace.clone(),
                    name: row.service.name.clone(),
                    port_name: row.port_name.to_string(),
                    frontend: SocketAddr::new(frontend.addr, frontend.port),
                    protocol: frontend.proto.to_string(),
                    service_type: row.kind.name().into(),
                    external_local: row.lb.external_local,
                    internal_local: row.lb.internal_local,
                    backends: backends(row, &names),
                    state,
                    error,
                }
            })
            .collect())
    }

    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        let mut rows: Vec<Endpoint> = self.tables.endpoints.read(|t| {
            t.iter()
                .map(|(_, e)| Endpoint {
                    id: e.id,
                    identity: e.identity,
                    labels: e.labels.clone(),
                    namespace: e.pod.namespace.clone(),
                    pod: e.pod.name.clone(),
                    container_id: e.attachment.container_id.clone(),
                    ipv4: e.ipv4.map(IpAddr::from),
                    ipv6: e.ipv6.map(IpAddr::from),
                    interface: e.host_ifname.clone(),
                    ifindex: e.ifindex,
                    mac: e.mac.map(|b| format!("{b:02x}")).join(":"),
                    state: if e.identity == crate::intent::endpoint::IDENTITY_INIT {
                        "waiting-for-identity".into()
                    } else {
                        "ready".into()
                    },
                })
                .collect()
        });
        rows.sort_by_key(|e| e.id);
        rows
    }

    pub(super) fn identities(&self) -> Vec<Identity> {
        let none = String::new;
        let fixed = reserved::NAMES.iter();
        let mut rows: Vec<Identity> =
            fixed.map(|(id, name)| Identity { id: *id, labels: vec![(*name).to_owned()], cluster: none() }).collect();
        self.tables.identities.read(|t| {
            rows.extend(t.iter().map(|(id, i)| Identity { id: *id, labels: i.labels.clone(), cluster: none() }));
        });
        let names = self.cluster_names();
        let shift = self.config.mesh.scale.shift();
        let of =
            |id: u32| ClusterId::try_from(id >> shift).ok().and_then(|c| names.get(&c).cloned()).unwrap_or_default();
        self.tables.mesh_identities.read(|t| {
            rows.extend(t.iter().map(|(id, i)| Identity { id: *id, labels: i.labels.clone(), cluster: of(*id) }));
        });
        rows
    }

    pub(super) fn nodes(&self) -> Vec<Node> {
        let mut rows: Vec<Node> = self.tables.nodes.read(|t| {
            let row = |(key, node): (&Key, &std::sync::Arc<crate::intent::node::Node>)| Node {
                name: key.name.clone(),
                addresses: node.addresses.iter().map(|a| a.ip).collect(),
                pod_cidrs: node.pod_cidrs.to_vec(),
                cluster: String::new(),
            };
            t.iter().map(row).collect()
        });
        let names = self.cluster_names();
        self.tables.mesh_nodes.read(|t| {
            rows.extend(t.iter().map(|((cluster, name), node)| {
                let cluster = names.get(cluster).cloned().unwrap_or_else(|| cluster.to_string());
                Node {
                    name: format!("{cluster}/{name}"),
                    addresses: node.addresses.iter().map(|a| a.ip).collect(),
                    pod_cidrs: node.pod_cidrs.to_vec(),
                    cluster,
                }
            }));
        });
        rows
    }

    /// This cluster's rows, and those of others up to a limit.
    pub(super) fn ips(&self, params: &IpsParams) -> Result<Ips, ErrorBody> {
        let running = self.running()?;
        let local = |prefix: &IpNet, row: &IpcacheRow| Ip {
            prefix: *prefix,
            identity: row.entry.identity,
            in_cluster: row.entry.in_cluster,
            source: row.source.to_string(),
            state: row_state(running.ipcache_real.get(prefix).as_deref()).0,
        };
        let names = self.cluster_names();
        let remote = |(prefix, cluster, identity, done): (RemotePrefix, u16, u32, bool), host: Option<IpAddr>| {
            let cluster = match ClusterId::try_from(u32::from(cluster)).ok().and_then(|id| names.get(&id)) {
                Some(name) => name.clone(),
                None => cluster.to_string(),
            };
            Ip {
                prefix: prefix.net(),
                identity,
                in_cluster: true,
                source: host.map_or_else(|| format!("cluster {cluster}"), |h| format!("cluster {cluster}, node {h}")),
                state: if done { "done" } else { "pending" }.into(),
            }
        };
        let desired = self.tables.ipcache.snapshot();
        if let Some(address) = params.address {
            let longest =
                desired.iter().filter(|(net, _)| net.contains(&address)).max_by_key(|(net, _)| net.prefix_len());
            let ips = running.intake.ips();
            let found = ips.lookup(address).map(|row| (row, ips.host_of(&row.0)));
            drop(ips);
            let mut rows: Vec<Ip> = longest.map(|(net, row)| local(net, &row.value)).into_iter().collect();
            rows.extend(found.map(|(row, host)| remote(row, host)));
            rows.sort_by_key(|row| std::cmp::Reverse(row.prefix.prefix_len()));
            rows.truncate(1);
            return Ok(Ips { rows, left_out: 0 });
        }
        let limit = params.limit.unwrap_or(DEFAULT_REMOTE_IPS);
        let (shown, all) = {
            let ips = running.intake.ips();
            let shown: Vec<_> = ips.shown().take(limit).map(|row| (row, ips.host_of(&row.0))).collect();
            (shown, ips.shown().count())
        };
        let left_out = all - shown.len();
        let mut rows: Vec<Ip> = desired.iter().map(|(net, row)| local(net, &row.value)).collect();
        rows.extend(shown.into_iter().map(|(row, host)| remote(row, host)));
        Ok(Ips { rows, left_out })
    }

    pub(super) fn counters(&self) -> Result<Vec<Count>, ErrorBody> {
        let rows = self.running()?.datapath.counters().map_err(|e| internal(&e))?;
        Ok(rows
            .into_iter()
            .map(|c| Count {
                reason: c.counter.name().into(),
                direction: direction(c.counter).into(),
                drop: c.counter.is_drop(),
                packets: c.packets,
                bytes: c.bytes,
            })
            .collect())
    }

    pub(super) fn flows(&self, params: &FlowsParams) -> Result<Vec<Flow>, ErrorBody> {
        let limit = params.limit.unwrap_or(DEFAULT_FLOWS);
        // With a filter the whole table is looked at, so that the limit counts what is shown.
        let read = if params.address.is_some() { usize::MAX } else { limit };
        let rows = self.running()?.datapath.flows(read).map_err(|e| internal(&e))?;
        let has = |f: &FlowRow, ip: IpAddr| [f.from.src, f.from.dst, f.to.src, f.to.dst].iter().any(|a| a.ip() == ip);
        let now = boot_time_s();
        Ok(rows
            .iter()
            .filter(|f| params.address.is_none_or(|ip| has(f, ip)))
            .take(limit)
            .map(|f| Flow {
                protocol: protocol(f.from.proto),
                source: f.from.src,
                destination: f.from.dst,
                to_source: f.to.src,
                to_destination: f.to.dst,
                flags: flags(f.flags),
                service_id: f.service_id,
                expires_in_s: f.expires_s.saturating_sub(now),
            })
            .collect())
    }
}

/// A backend of another cluster is shown with that cluster's name.
fn backends(row: &LbRow, names: &BTreeMap<ClusterId, String>) -> Vec<Backend> {
    let cluster = |addr: &SocketAddr| {
        let id = row.remote.as_ref()?.get(addr)?;
        Some(names.get(id).cloned().unwrap_or_else(|| id.to_string()))
    };
    let backend = |b: &causeway_datapath_loader::Backend| Backend {
        address: b.addr,
        local: b.local,
        cluster: cluster(&b.addr).unwrap_or_default(),
    };
    row.lb.backends.iter().map(backend).collect()
}

fn internal(error: &causeway_datapath_loader::Error) -> ErrorBody {
    ErrorBody::new(code::INTERNAL, error.to_string(), "")
}

pub(super) fn component(name: &str, health: Health, message: String) -> Component {
    Component { name: name.into(), health, message }
}

/// Health of a reconciler: Ok when everything desired is real.
fn realised<K: Ord + Clone + std::fmt::Display, V: PartialEq>(name: &str, real: &Shared<K, Realised<V>>) -> Component {
    let (all, failed, error) = counts(real);
    match (real.synced(), error) {
        (_, Some(error)) => component(name, Health::Degraded, format!("{failed} of {all} rows failed: {error}")),
        (false, None) => component(name, Health::Starting, format!("{all} rows so far; inputs are being read")),
        (true, None) => component(name, Health::Ok, format!("{all} rows")),
    }
}

/// Rows, failed rows, one failure.
fn counts<K: Ord + Clone + std::fmt::Display, V: PartialEq>(
    real: &Shared<K, Realised<V>>,
) -> (usize, usize, Option<String>) {
    real.read(|t| {
        let mut failures = t.iter().filter_map(|(k, r)| match &r.status {
            RowStatus::Failed { message, .. } => Some(format!("{k}: {message}")),
            RowStatus::Pending | RowStatus::Done => None,
        });
        let first = failures.next();
        (t.len(), usize::from(first.is_some()) + failures.count(), first)
    })
}

fn intent<K: Ord + Clone, V: PartialEq>(name: &str, table: &Shared<K, V>) -> TableView {
    table.read(|t| TableView {
        name: name.into(),
        rows: t.len(),
        revision: t.revision(),
        synced: t.synced(),
        pending: 0,
        failed: 0,
        error: String::new(),
    })
}

fn desired<K, V>(name: &str, table: &Shared<K, V>, real: &Shared<K, Realised<V>>) -> TableView
where
    K: Ord + Clone + std::fmt::Display,
    V: PartialEq,
{
    let (_, failed, error) = counts(real);
    let pending = real.read(|t| t.iter().filter(|(_, r)| r.status == RowStatus::Pending).count());
    TableView { pending, failed, error: error.unwrap_or_default(), ..intent(name, table) }
}

fn row_state<V>(row: Option<&Realised<V>>) -> (String, String) {
    match row.map(|r| &r.status) {
        None | Some(RowStatus::Pending) => ("pending".into(), String::new()),
        Some(RowStatus::Done) => ("done".into(), String::new()),
        Some(RowStatus::Failed { message, .. }) => ("error".into(), message.clone()),
    }
}

fn secs(d: std::time::Duration) -> u32 {
    u32::try_from(d.as_secs()).unwrap_or(u32::MAX)
}

fn family(family: WireFamily) -> Family {
    if family.afi == Afi::IPV4 { Family::Ipv4 } else { Family::Ipv6 }
}

fn communities(attrs: &RouteAttrs) -> Vec<String> {
    let standard = attrs.communities.iter().map(ToString::to_string);
    standard.chain(attrs.large_communities.iter().map(ToString::to_string)).collect()
}

/// The programs count in one place for both directions; what can be said from the kind is said.
fn direction(counter: Counter) -> &'static str {
    match counter {
        Counter::InvalidSourceIp | Counter::ToNetwork | Counter::Masqueraded | Counter::NotEncrypted => "egress",
        _ => "ingress",
    }
}

fn protocol(number: u8) -> String {
    match number {
        1 => "ICMP".into(),
        6 => "TCP".into(),
        17 => "UDP".into(),
        58 => "ICMPv6".into(),
        132 => "SCTP".into(),
        other => other.to_string(),
    }
}

fn flags(bits: u32) -> Vec<String> {
    [
        (flow_flag::REPLY, "reply"),
        (flow_flag::ESTABLISHED, "established"),
        (flow_flag::CLOSING, "closing"),
        (flow_flag::SNAT, "snat"),
    ]
    .iter()
    .filter(|(bit, _)| bits & bit != 0)
    .map(|(_, name)| (*name).to_owned())
    .collect()
}
