//! Flags and their checks. Each flag can also be given as `CAUSEWAY_OPERATOR_<FLAG>` in the environment; the flag wins.

mod mesh;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::{ArgAction, Parser, ValueEnum};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::controller::Settings;
use crate::leader::Timing;
use crate::plan::{identity_gc, lb_service, pod_cidr};
use crate::world::Trade;
use mesh::MeshFlags;

pub(crate) use mesh::Mesh;

/// Cluster-wide duties of Causeway: LoadBalancer addresses, BGP configuration of nodes, pod CIDRs, unused identities, and
/// what other clusters export.
#[derive(Parser, Clone, Debug)]
#[command(name = "causeway-operator", version)]
pub struct Flags {
    /// Kubeconfig file. Absent: $KUBECONFIG, ~/.kube/config, or the pod's service account.
    #[arg(long, env = "CAUSEWAY_OPERATOR_KUBECONFIG", value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Namespace of the Lease.
    #[arg(long, env = "CAUSEWAY_OPERATOR_NAMESPACE", default_value = "kube-system", value_name = "NAME")]
    pub(crate) namespace: String,
    /// Our name in the Lease. Absent: the host's name and a random part.
    #[arg(long, env = "CAUSEWAY_OPERATOR_IDENTITY", value_name = "NAME")]
    pub(crate) identity: Option<String>,
    /// Address of /healthz, /readyz, /metrics and /rejected.
    #[arg(long, env = "CAUSEWAY_OPERATOR_METRICS_ADDR", default_value = ":9963", value_parser = listen_address, value_name = "ADDRESS")]
    pub(crate) metrics_addr: SocketAddr,

    /// Whether to elect a leader; without, only one operator may run.
    #[arg(long, env = "CAUSEWAY_OPERATOR_LEADER_ELECT", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub(crate) leader_elect: bool,
    /// How long other operators wait after the leader's last sign of life.
    #[arg(long, env = "CAUSEWAY_OPERATOR_LEADER_ELECTION_LEASE_DURATION", default_value = "15s", value_parser = duration, value_name = "TIME")]
    leader_election_lease_duration: Duration,
    /// How long a leader leads without being able to renew.
    #[arg(long, env = "CAUSEWAY_OPERATOR_LEADER_ELECTION_RENEW_DEADLINE", default_value = "10s", value_parser = duration, value_name = "TIME")]
    leader_election_renew_deadline: Duration,
    /// Time between attempts to get or renew the Lease.
    #[arg(long, env = "CAUSEWAY_OPERATOR_LEADER_ELECTION_RETRY_PERIOD", default_value = "2s", value_parser = duration, value_name = "TIME")]
    leader_election_retry_period: Duration,

    /// Do not register the CustomResourceDefinitions.
    #[arg(long, env = "CAUSEWAY_OPERATOR_SKIP_CRD_CREATION")]
    pub(crate) skip_crd_creation: bool,
    /// Whether the cluster has IPv4.
    #[arg(long, env = "CAUSEWAY_OPERATOR_ENABLE_IPV4", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    enable_ipv4: bool,
    /// Whether the cluster has IPv6.
    #[arg(long, env = "CAUSEWAY_OPERATOR_ENABLE_IPV6", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    enable_ipv6: bool,

    /// Whether to give addresses of CiliumLoadBalancerIPPools to Services.
    #[arg(long, env = "CAUSEWAY_OPERATOR_ENABLE_LB_IPAM", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    enable_lb_ipam: bool,
    /// Who serves Services without a loadBalancerClass.
    #[arg(long, env = "CAUSEWAY_OPERATOR_DEFAULT_LB_SERVICE_IPAM", value_enum, default_value = "lbipam")]
    default_lb_service_ipam: DefaultIpam,
    /// Whether to expand CiliumBGPClusterConfigs.
    #[arg(long, env = "CAUSEWAY_OPERATOR_ENABLE_BGP_CONTROL_PLANE", default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    enable_bgp_control_plane: bool,

    /// Give pod CIDRs to Nodes that have none.
    #[arg(long, env = "CAUSEWAY_OPERATOR_ALLOCATE_NODE_CIDRS", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = ArgAction::Set, value_name = "BOOL")]
    allocate_node_cidrs: bool,
    /// IPv4 CIDRs that pod CIDRs are cut from.
    #[arg(long, env = "CAUSEWAY_OPERATOR_CLUSTER_POOL_IPV4_CIDR", value_delimiter = ',', value_name = "CIDR")]
    cluster_pool_ipv4_cidr: Vec<Ipv4Net>,
    /// Prefix length of a node's IPv4 pod CIDR.
    #[arg(long, env = "CAUSEWAY_OPERATOR_CLUSTER_POOL_IPV4_MASK_SIZE", default_value_t = 24, value_name = "LENGTH")]
    cluster_pool_ipv4_mask_size: u8,
    /// IPv6 CIDRs that pod CIDRs are cut from.
    #[arg(long, env = "CAUSEWAY_OPERATOR_CLUSTER_POOL_IPV6_CIDR", value_delimiter = ',', value_name = "CIDR")]
    cluster_pool_ipv6_cidr: Vec<Ipv6Net>,
    /// Prefix length of a node's IPv6 pod CIDR.
    #[arg(long, env = "CAUSEWAY_OPERATOR_CLUSTER_POOL_IPV6_MASK_SIZE", default_value_t = 112, value_name = "LENGTH")]
    cluster_pool_ipv6_mask_size: u8,

    /// Time between looks for unused CiliumIdentities; 0 for never.
    #[arg(long, env = "CAUSEWAY_OPERATOR_IDENTITY_GC_INTERVAL", default_value = "15m", value_parser = duration, value_name = "TIME")]
    identity_gc_interval: Duration,
    /// How long a CiliumIdentity must be unused before it is marked for deletion.
    #[arg(long, env = "CAUSEWAY_OPERATOR_IDENTITY_HEARTBEAT_TIMEOUT", default_value = "30m", value_parser = duration, value_name = "TIME")]
    identity_heartbeat_timeout: Duration,

    #[command(flatten)]
    mesh: MeshFlags,

    /// How to write the log.
    #[arg(long, env = "CAUSEWAY_OPERATOR_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// What to log: error, warn, info, debug, trace, or per module as `info,causeway_operator=debug`. The client library
    /// is silent by default, because it repeats what our own lines say.
    #[arg(long, env = "CAUSEWAY_OPERATOR_LOG", default_value = "info,kube_client=off", value_name = "FILTER")]
    pub log: String,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum DefaultIpam {
    /// We do.
    Lbipam,
    /// Another program does.
    None,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl Flags {
    /// Times of the election, checked against each other.
    pub(crate) fn timing(&self) -> anyhow::Result<Timing> {
        let timing = Timing {
            lease_duration: self.leader_election_lease_duration,
            renew_deadline: self.leader_election_renew_deadline,
            retry_period: self.leader_election_retry_period,
        };
        ensure!(
            timing.lease_duration >= Duration::from_secs(1),
            "--leader-election-lease-duration is below 1s; a Lease counts whole seconds"
        );
        ensure!(
            timing.renew_deadline < timing.lease_duration,
            "--leader-election-renew-deadline is not shorter than --leader-election-lease-duration; two operators could lead"
        );
        ensure!(
            !timing.retry_period.is_zero() && timing.retry_period < timing.renew_deadline,
            "--leader-election-retry-period must be above 0 and shorter than --leader-election-renew-deadline"
        );
        Ok(timing)
    }

    /// What to do, checked.
    pub(crate) fn settings(&self) -> anyhow::Result<Settings> {
        ensure!(self.enable_ipv4 || self.enable_ipv6, "--enable-ipv4 and --enable-ipv6 are both false; enable one");
        let mut trades = BTreeSet::new();
        let mut enable = |enabled: bool, trade| enabled.then(|| trades.insert(trade));
        enable(self.enable_lb_ipam, Trade::Lb);
        enable(self.enable_bgp_control_plane, Trade::Bgp);
        enable(self.allocate_node_cidrs, Trade::PodCidrs);
        enable(!self.identity_gc_interval.is_zero(), Trade::Identities);
        let mesh = self.mesh()?;
        enable(mesh.as_ref().is_some_and(|mesh| mesh.settings.mcs.is_some()), Trade::Mcs);
        enable(mesh.as_ref().is_some_and(|mesh| mesh.settings.sync), Trade::Slices);
        let whole_seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Ok(Settings {
            trades,
            lb: lb_service::Settings {
                ipv4: self.enable_ipv4,
                ipv6: self.enable_ipv6,
                serve_unclassed: self.default_lb_service_ipam == DefaultIpam::Lbipam,
            },
            pod_cidrs: self.pod_cidr_pools()?,
            mesh: mesh.map(|mesh| mesh.settings),
            identity_gc: identity_gc::Settings {
                owned: self.mesh.identities()?,
                grace_s: whole_seconds(self.identity_heartbeat_timeout),
                interval_s: whole_seconds(self.identity_gc_interval),
            },
            identity_gc_interval: self.identity_gc_interval,
        })
    }

    /// The mesh, if it is on.
    pub(crate) fn mesh(&self) -> anyhow::Result<Option<Mesh>> {
        self.mesh.mesh((self.enable_ipv4, self.enable_ipv6))
    }

    fn pod_cidr_pools(&self) -> anyhow::Result<pod_cidr::Pools> {
        let ipv4 = if self.enable_ipv4 { self.cluster_pool_ipv4_cidr.clone() } else { Vec::new() };
        let ipv6 = if self.enable_ipv6 { self.cluster_pool_ipv6_cidr.clone() } else { Vec::new() };
        if self.allocate_node_cidrs && ipv4.is_empty() && ipv6.is_empty() {
            bail!("--allocate-node-cidrs needs --cluster-pool-ipv4-cidr or --cluster-pool-ipv6-cidr");
        }
        let (mask4, mask6) = (self.cluster_pool_ipv4_mask_size, self.cluster_pool_ipv6_mask_size);
        for net in &ipv4 {
            ensure!(
                (net.prefix_len()..=32).contains(&mask4),
                "--cluster-pool-ipv4-mask-size {mask4} does not fit {net}; write {} to 32",
                net.prefix_len()
            );
        }
        for net in &ipv6 {
            ensure!(
                (net.prefix_len()..=128).contains(&mask6),
                "--cluster-pool-ipv6-mask-size {mask6} does not fit {net}; write {} to 128",
                net.prefix_len()
            );
        }
        Ok(pod_cidr::Pools { ipv4, ipv4_mask: mask4, ipv6, ipv6_mask: mask6 })
    }
}

/// `15s`, `250ms`, `30m`, `1h`, or `0`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: Result<u64, _> = text[..digits].parse();
    let unit = match &text[digits..] {
        "ms" => Some(Duration::from_millis(1)),
        "s" => Some(Duration::from_secs(1)),
        "m" => Some(Duration::from_secs(60)),
        "h" => Some(Duration::from_secs(3600)),
        "" if text == "0" => Some(Duration::ZERO),
        _ => None,
    };
    let time = number.ok().zip(unit).and_then(|(number, unit)| unit.checked_mul(u32::try_from(number).ok()?));
    time.ok_or_else(|| format!("{text:?} is not a time; write a number with ms, s, m or h, as 15s"))
}

/// `:9963` is every address, port 9963.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let any =
        text.strip_prefix(':').and_then(|port| port.parse().ok()).map(|port| (Ipv4Addr::UNSPECIFIED, port).into());
    any.or_else(|| SocketAddr::from_str(text).ok())
        .ok_or_else(|| format!("{text:?} is not an address with a port; write one as 127.0.0.1:9963, or :9963"))
}

#[cfg(test)]
mod tests {
    use causeway_mesh_schema::Kind;

    use super::*;

    fn flags(line: &str) -> Result<Flags, String> {
        let words = std::iter::once("causeway-operator").chain(line.split_whitespace());
        Flags::try_parse_from(words).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults() {
        let flags = flags("").unwrap();
        assert_eq!(flags.metrics_addr.to_string(), "0.0.0.0:9963");
        assert_eq!(flags.timing().unwrap().renew_deadline, Duration::from_secs(10));
        let settings = flags.settings().unwrap();
        assert_eq!(settings.trades, BTreeSet::from([Trade::Lb, Trade::Bgp, Trade::Identities]));
        assert_eq!(settings.identity_gc, identity_gc::Settings { owned: 256..=65_535, grace_s: 1800, interval_s: 900 });
    }

    #[test]
    fn node_cidrs_as_the_lab_gives_them() {
        let flags = flags(
            "--allocate-node-cidrs --cluster-pool-ipv4-cidr 10.1.0.0/16 --cluster-pool-ipv4-mask-size 24 \
             --cluster-pool-ipv6-cidr=fd00:1::/48 --cluster-pool-ipv6-mask-size=64",
        )
        .unwrap();
        let settings = flags.settings().unwrap();
        assert!(settings.trades.contains(&Trade::PodCidrs));
        assert_eq!(settings.pod_cidrs.ipv6, ["fd00:1::/48".parse().unwrap()]);
        assert!(Flags::try_parse_from(["x", "--allocate-node-cidrs=false"]).is_ok());
    }

    #[test]
    fn the_mesh_is_off_without_a_number_and_a_directory() {
        let off = [
            "",
            "--cluster-name east --cluster-id 1",
            "--cluster-name east --clustermesh-config /m --clustermesh-enable-mcs-api",
            "--cluster-name east --cluster-id 1 --clustermesh-enable-endpoint-sync",
            "--cluster-name east --cluster-id 1 --clustermesh-config /m",
            "--cluster-name east --cluster-id 1 --clustermesh-config /m --clustermesh-enable-mcs-api=false",
        ];
        for line in off {
            let flags = flags(line).unwrap();
            assert!(flags.mesh().unwrap().is_none(), "{line}");
            assert!(
                flags.settings().unwrap().trades.is_disjoint(&BTreeSet::from([Trade::Mcs, Trade::Slices])),
                "{line}"
            );
        }
        let on = "--cluster-name east --cluster-id 3 --clustermesh-config /m --clustermesh-cache-ttl 10m";
        let table = [
            ("--clustermesh-enable-mcs-api", vec![Trade::Mcs], vec![Kind::ServiceExports]),
            ("--clustermesh-enable-endpoint-sync", vec![Trade::Slices], vec![Kind::Services, Kind::EndpointSlices]),
        ];
        for (more, trades, kinds) in table {
            let flags = flags(&format!("{on} {more}")).unwrap();
            let settings = flags.settings().unwrap();
            assert!(trades.iter().all(|trade| settings.trades.contains(trade)), "{more}");
            assert_eq!(settings.identity_gc.owned, 196_608..=262_143);
            let mesh = flags.mesh().unwrap().unwrap();
            assert_eq!(mesh.reading.settings.kinds, kinds.into_iter().collect());
            assert_eq!(mesh.reading.settings.cache_ttl, Duration::from_secs(600));
            assert_eq!((mesh.settings.endpoints_per_slice, mesh.settings.services_at_once), (100, 5));
            assert_eq!(mesh.settings.batch_period, Duration::from_millis(500));
        }
    }

    #[test]
    fn a_bad_flag_is_named_with_its_remedy() {
        let parse_errors = [
            ("--leader-election-retry-period 2", "2s"),
            ("--metrics-addr nine", "127.0.0.1:9963"),
            ("--cluster-pool-ipv4-cidr 10.1.0.0/33", "--cluster-pool-ipv4-cidr"),
            ("--enabel-ipv4 true", "--enable-ipv4"),
        ];
        for (line, word) in parse_errors {
            let error = flags(line).map(|_| ()).unwrap_err();
            assert!(word == "2s" && error.contains("15s") || error.contains(word), "{line}: {error}");
        }
        let checks = [
            ("--allocate-node-cidrs", "--cluster-pool-ipv4-cidr"),
            ("--allocate-node-cidrs --cluster-pool-ipv4-cidr 10.1.0.0/16 --cluster-pool-ipv4-mask-size 8", "16 to 32"),
            ("--enable-ipv4 false --enable-ipv6 false", "enable one"),
            ("--max-connected-clusters 300", "255 or 511"),
            ("--cluster-id 256", "1 to 255"),
            ("--cluster-id 1 --clustermesh-config /m", "choose one"),
            ("--cluster-id 1 --clustermesh-config /m --cluster-name East", "a-z"),
            (
                "--cluster-id 1 --clustermesh-config /m --cluster-name e --clustermesh-endpoints-per-slice 0",
                "1 to 1000",
            ),
        ];
        for (line, word) in checks {
            let error = format!("{:#}", flags(line).unwrap().settings().unwrap_err());
            assert!(error.contains(word), "{line}: {error}");
        }
        let timing = flags("--leader-election-renew-deadline 15s").unwrap().timing().unwrap_err();
        assert!(timing.to_string().contains("--leader-election-lease-duration"), "{timing}");
    }
}
