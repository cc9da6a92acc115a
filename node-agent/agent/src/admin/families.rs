//! What the metrics show of the agent, read at the moment of asking. Names are Cilium's where it has them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use causeway_api::bgp::{Family, Peer, PeerFamily};
use causeway_api::datapath::Count;
use causeway_api::status::{Health, Table as TableView};

use super::Admin;
use crate::metrics::{Family as MetricFamily, Sample, Source};

/// The agent as the metrics see it.
pub(crate) struct MetricsSource(pub(crate) Arc<Admin>);

impl Source for MetricsSource {
    fn families(&self) -> Vec<MetricFamily> {
        let admin = &self.0;
        let mut families = table_families(admin);
        families.extend(counter_families(&admin.counters().unwrap_or_default()));
        families.extend(bgp_families(&admin.bgp_peers().unwrap_or_default()));
        families.extend(super::mesh::families(admin));
        families.extend(super::encryption::families(admin));
        let endpoints = admin.endpoints();
        let ready = endpoints.iter().filter(|e| e.state == "ready").count();
        families.push(gauge(
            "cilium_endpoint_state",
            "Endpoints of this node by state",
            vec![
                sample(vec![("endpoint_state", "ready".into())], ready as u64),
                sample(vec![("endpoint_state", "waiting-for-identity".into())], (endpoints.len() - ready) as u64),
            ],
        ));
        if let Some(running) = admin.running.get() {
            let usage = running.datapath.usage().unwrap_or_default();
            let rows = |pick: fn(&causeway_datapath_loader::MapUsage) -> usize| {
                usage.iter().map(|u| sample(vec![("map_name", u.map.to_lowercase())], pick(u) as u64)).collect()
            };
            families.push(gauge("causeway_bpf_map_rows", "Rows of the datapath's maps", rows(|u| u.rows)));
            families.push(gauge("cilium_bpf_map_capacity", "Limits of the datapath's maps", rows(|u| u.limit)));
        }
        families
    }

    fn healthy(&self) -> Result<(), String> {
        let status = self.0.status();
        let bad: Vec<String> = status
            .components
            .iter()
            .filter(|c| matches!(c.health, Health::Failed | Health::Starting))
            .map(|c| format!("{}: {}", c.name, c.message))
            .collect();
        if bad.is_empty() { Ok(()) } else { Err(bad.join("\n")) }
    }
}

pub(super) fn sample(labels: Vec<(&'static str, String)>, value: u64) -> Sample {
    Sample { labels, value }
}

pub(super) fn gauge(name: &'static str, help: &'static str, samples: Vec<Sample>) -> MetricFamily {
    MetricFamily { name, help, counter: false, samples }
}

pub(super) fn counter(name: &'static str, help: &'static str, samples: Vec<Sample>) -> MetricFamily {
    MetricFamily { name, help, counter: true, samples }
}

fn table_families(admin: &Admin) -> Vec<MetricFamily> {
    let views = admin.table_views();
    let per_table = |pick: fn(&TableView) -> usize| {
        views.iter().map(|v| sample(vec![("table", v.name.clone())], pick(v) as u64)).collect()
    };
    let rejected = admin.tables.rejected.read(|t| {
        let mut kinds = BTreeMap::<String, u64>::new();
        for ((kind, _), _) in t.iter() {
            *kinds.entry(kind.clone()).or_default() += 1;
        }
        kinds
    });
    vec![
        gauge("causeway_table_rows", "Rows of the agent's tables", per_table(|v| v.rows)),
        gauge("causeway_table_pending_rows", "Desired rows that are not real yet", per_table(|v| v.pending)),
        gauge("causeway_table_failed_rows", "Desired rows whose last attempt failed", per_table(|v| v.failed)),
        gauge(
            "causeway_rejected_objects",
            "Kubernetes objects that were not understood",
            rejected.into_iter().map(|(kind, n)| sample(vec![("kind", kind)], n)).collect(),
        ),
        gauge(
            "cilium_identity",
            "Identities known",
            vec![sample(vec![], admin.tables.identities.read(|t| t.len()) as u64)],
        ),
    ]
}

fn counter_families(counts: &[Count]) -> Vec<MetricFamily> {
    let of = |drop: bool, bytes: bool| {
        counts
            .iter()
            .filter(|c| c.drop == drop)
            .map(|c| {
                let labels = vec![("reason", c.reason.clone()), ("direction", c.direction.clone())];
                sample(labels, if bytes { c.bytes } else { c.packets })
            })
            .collect::<Vec<_>>()
    };
    vec![
        counter("cilium_drop_count", "Packets dropped by the programs", of(true, false)),
        counter("cilium_drop_bytes", "Bytes dropped by the programs", of(true, true)),
        counter("cilium_forward_count", "Packets passed on by the programs", of(false, false)),
        counter("cilium_forward_bytes", "Bytes passed on by the programs", of(false, true)),
    ]
}

fn bgp_families(peers: &[Peer]) -> Vec<MetricFamily> {
    let labels = |p: &Peer| {
        vec![
            ("vrouter", p.local_asn.to_string()),
            ("neighbor", SocketAddr::new(p.peer_address, if p.peer_port == 0 { 179 } else { p.peer_port }).to_string()),
            ("neighbor_asn", p.peer_asn.to_string()),
        ]
    };
    let routes = |pick: fn(&PeerFamily) -> u64| {
        let per_family = |p: &Peer| {
            let mut out = Vec::new();
            for f in &p.families {
                let mut labels = labels(p);
                labels.push(("afi", if f.family == Family::Ipv4 { "ipv4" } else { "ipv6" }.into()));
                labels.push(("safi", "unicast".into()));
                out.push(sample(labels, pick(f)));
            }
            out
        };
        peers.iter().flat_map(per_family).collect::<Vec<_>>()
    };
    vec![
        gauge(
            "cilium_bgp_control_plane_session_state",
            "1: the session is established",
            peers.iter().map(|p| sample(labels(p), u64::from(p.state == "established"))).collect(),
        ),
        gauge("cilium_bgp_control_plane_advertised_routes", "Routes advertised to the peer", routes(|f| f.advertised)),
        gauge("cilium_bgp_control_plane_received_routes", "Routes received from the peer", routes(|f| f.received)),
        counter(
            "causeway_bgp_withdrawals_sent",
            "Prefixes withdrawn by message since the agent started",
            peers.iter().map(|p| sample(labels(p), p.withdrawals_sent)).collect(),
        ),
    ]
}
