//! Subcommands and flags, with Cilium's names, so that manifests written for Cilium start us unchanged. Each flag can
//! also be given as `CILIUM_<FLAG>` in the environment; the flag wins. An unknown flag is refused with the nearest known.

mod parse;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use causeway_mesh_schema::{ClusterId, ClusterName, ExportMode, Scale};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::convert::Home;
use parse::{KvstoreOption, duration, listen_address};

/// What clusters tell each other.
#[derive(Parser, Debug)]
#[command(name = "clustermesh-apiserver", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) log: Log,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Export this cluster from Kubernetes to the local etcd.
    Clustermesh(Clustermesh),
    /// Copy the other clusters' etcd to the local one.
    Kvstoremesh(Kvstoremesh),
    /// Make the data directory of the local etcd, with users and roles.
    Etcdinit(Etcdinit),
    /// Questions to a running kvstoremesh.
    #[command(subcommand)]
    KvstoremeshDbg(KvstoremeshDbg),
    /// Questions about the local etcd.
    #[command(subcommand)]
    ClustermeshDbg(ClustermeshDbg),
}

#[derive(Args, Debug)]
pub(crate) struct Log {
    /// How to write the log.
    #[arg(long, global = true, env = "CILIUM_LOG_FORMAT", value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// What to log: error, warn, info, debug, trace, or per module. The client library repeats what our lines say.
    #[arg(long, global = true, env = "CILIUM_LOG", default_value = "info,kube_client=off", value_name = "FILTER")]
    pub(crate) log: String,
    /// The same as --log=debug.
    #[arg(short = 'D', long, global = true, env = "CILIUM_DEBUG", num_args = 0..=1, default_value_t = false, default_missing_value = "true", require_equals = true, action = ArgAction::Set)]
    pub(crate) debug: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Who we are, and where the local etcd is.
#[derive(Args, Debug)]
pub(crate) struct Local {
    /// Name of this cluster.
    #[arg(long, env = "CILIUM_CLUSTER_NAME", value_name = "NAME")]
    pub(crate) cluster_name: ClusterName,
    /// Number of this cluster in the mesh.
    #[arg(long, env = "CILIUM_CLUSTER_ID", value_name = "NUMBER")]
    cluster_id: u32,
    /// How many clusters the mesh may have: 255 or 511, the same in all of them.
    #[arg(long, env = "CILIUM_MAX_CONNECTED_CLUSTERS", default_value_t = 255, value_name = "NUMBER")]
    max_connected_clusters: u32,
    /// The local etcd: etcd.config=FILE (YAML: endpoints, trusted-ca-file, cert-file, key-file) or etcd.address=URL,
    /// etcd.limit=ENTRIES in a page, etcd.maxInflight=TRANSACTIONS. Cilium's rates (etcd.qps, etcd.bootstrapQps) are
    /// taken and not needed: writes go in batches.
    #[arg(long, env = "CILIUM_KVSTORE_OPT", value_delimiter = ',', value_name = "KEY=VALUE")]
    kvstore_opt: Vec<KvstoreOption>,
    /// How long keys outlive us.
    #[arg(long, env = "CILIUM_KVSTORE_LEASE_TTL", default_value = "15m", value_parser = duration, value_name = "TIME")]
    pub(crate) kvstore_lease_ttl: Duration,
    /// How often the heartbeat key is rewritten. Readers give a silent writer up after two minutes.
    #[arg(long, env = "CILIUM_HEARTBEAT_INTERVAL", default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub(crate) heartbeat_interval: Duration,
    /// Address of /metrics. Absent: none.
    #[arg(long, env = "CILIUM_PROMETHEUS_SERVE_ADDR", value_parser = listen_address, value_name = "ADDRESS")]
    pub(crate) prometheus_serve_addr: Option<SocketAddr>,
    /// Taken for the sake of Cilium's manifests; all metrics are always on.
    #[arg(long, hide = true)]
    controller_group_metrics: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Clustermesh {
    #[command(flatten)]
    pub(crate) local: Local,
    /// Kubeconfig file. Absent: $KUBECONFIG, ~/.kube/config, or the pod's service account.
    #[arg(long, visible_alias = "kubeconfig", env = "CILIUM_K8S_KUBECONFIG_PATH", value_name = "FILE")]
    pub(crate) k8s_kubeconfig_path: Option<PathBuf>,
    /// Port of /readyz, /healthz and /rejected.
    #[arg(
        long,
        alias = "cluster-mesh-health-port",
        env = "CILIUM_HEALTH_PORT",
        default_value_t = 9880,
        value_name = "PORT"
    )]
    pub(crate) health_port: u16,
    /// Read CiliumEndpointSlices instead of CiliumEndpoints.
    #[arg(long, env = "CILIUM_ENABLE_CILIUM_ENDPOINT_SLICE", num_args = 0..=1, default_value_t = false, default_missing_value = "true", require_equals = true, action = ArgAction::Set, value_name = "BOOL")]
    pub(crate) enable_cilium_endpoint_slice: bool,
    /// Export ServiceExports, once their definition is installed.
    #[arg(long, env = "CILIUM_CLUSTERMESH_ENABLE_MCS_API", num_args = 0..=1, default_value_t = false, default_missing_value = "true", require_equals = true, action = ArgAction::Set, value_name = "BOOL")]
    pub(crate) clustermesh_enable_mcs_api: bool,
    /// Whether namespaces without the annotation clustermesh.cilium.io/global are exported.
    #[arg(long, env = "CILIUM_CLUSTERMESH_DEFAULT_GLOBAL_NAMESPACE", num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true, action = ArgAction::Set, value_name = "BOOL")]
    pub(crate) clustermesh_default_global_namespace: bool,
    /// In which formats backends are exported.
    #[arg(long, env = "CILIUM_CLUSTERMESH_SERVICE_V2", value_enum, default_value = "prefer-legacy")]
    clustermesh_service_v2: ServiceV2,
    /// Keep etcd's users for other clusters as the file says.
    #[arg(long, env = "CILIUM_CLUSTER_USERS_ENABLED", num_args = 0..=1, default_value_t = false, default_missing_value = "true", require_equals = true, action = ArgAction::Set, value_name = "BOOL")]
    pub(crate) cluster_users_enabled: bool,
    /// YAML: users: [{name: remote-west, role: remote}]. Read again when it changes.
    #[arg(
        long,
        env = "CILIUM_CLUSTER_USERS_CONFIG_PATH",
        default_value = "/var/lib/cilium/etcd-config/users.yaml",
        value_name = "FILE"
    )]
    pub(crate) cluster_users_config_path: PathBuf,
}

/// Cilium's roll-out of EndpointSlices; the last word is ours, for peers that stumble over the newer format.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum ServiceV2 {
    /// Both.
    PreferLegacy,
    /// Both.
    PreferEndpointslice,
    /// endpointslices/v1.
    OnlyEndpointslice,
    /// services/v1.
    OnlyLegacy,
}

#[derive(Args, Debug)]
pub(crate) struct Kvstoremesh {
    #[command(flatten)]
    pub(crate) local: Local,
    /// A file per remote cluster, read live.
    #[arg(
        long,
        env = "CILIUM_CLUSTERMESH_CONFIG",
        default_value = "/var/lib/cilium/clustermesh",
        value_name = "DIRECTORY"
    )]
    pub(crate) clustermesh_config: PathBuf,
    /// Forget Services, slices and exports of a cluster that has been silent for so long; 0 for never.
    #[arg(long, env = "CILIUM_CLUSTERMESH_CACHE_TTL", default_value = "0", value_parser = duration, value_name = "TIME")]
    pub(crate) clustermesh_cache_ttl: Duration,
    /// Port of /readyz and /healthz.
    #[arg(long, env = "CILIUM_HEALTH_PORT", default_value_t = 9881, value_name = "PORT")]
    pub(crate) health_port: u16,
    /// Address of GET /cluster.
    #[arg(long, env = "CILIUM_API_SERVE_ADDR", default_value = "127.0.0.1:9889", value_parser = listen_address, value_name = "ADDRESS")]
    pub(crate) api_serve_addr: SocketAddr,
    /// How long a removed cluster's copy stays after its configuration, so that agents can let go of it.
    #[arg(long, env = "CILIUM_REMOVAL_GRACE_PERIOD", default_value = "3m", value_parser = duration, value_name = "TIME")]
    pub(crate) removal_grace_period: Duration,
    /// How long a cluster that cannot be copied keeps us from being ready.
    #[arg(long, env = "CILIUM_PER_CLUSTER_READY_TIMEOUT", default_value = "15s", value_parser = duration, value_name = "TIME")]
    pub(crate) per_cluster_ready_timeout: Duration,
    /// After so long we are ready whatever is missing.
    #[arg(long, env = "CILIUM_GLOBAL_READY_TIMEOUT", default_value = "10m", value_parser = duration, value_name = "TIME")]
    pub(crate) global_ready_timeout: Duration,
    /// Write the heartbeat key ourselves; not needed beside a clustermesh that does.
    #[arg(long, env = "CILIUM_ENABLE_HEARTBEAT", num_args = 0..=1, default_value_t = false, default_missing_value = "true", require_equals = true, action = ArgAction::Set, value_name = "BOOL")]
    pub(crate) enable_heartbeat: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Etcdinit {
    /// The etcd to start.
    #[arg(long, env = "CILIUM_ETCD_BINARY_LOCATION", default_value = "/usr/bin/etcd", value_name = "FILE")]
    pub(crate) etcd_binary_location: PathBuf,
    /// Its data directory; everything in it goes.
    #[arg(long, env = "CILIUM_ETCD_DATA_DIR", default_value = "/var/run/etcd", value_name = "DIRECTORY")]
    pub(crate) etcd_data_dir: PathBuf,
    /// The same as etcd's --name later.
    #[arg(long, env = "CILIUM_ETCD_CLUSTER_NAME", default_value = "clustermesh-apiserver", value_name = "NAME")]
    pub(crate) etcd_cluster_name: String,
    /// The same as etcd's --initial-cluster-token later.
    #[arg(
        long,
        env = "CILIUM_ETCD_INITIAL_CLUSTER_TOKEN",
        default_value = "clustermesh-apiserver",
        value_name = "TOKEN"
    )]
    pub(crate) etcd_initial_cluster_token: String,
    /// Name of this cluster, which the names of users end with.
    #[arg(long, env = "CILIUM_CLUSTER_NAME", value_name = "NAME")]
    pub(crate) cluster_name: ClusterName,
    /// For everything together.
    #[arg(long, env = "CILIUM_TIMEOUT", default_value = "2m", value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Duration,
}

#[derive(Subcommand, Debug)]
pub(crate) enum KvstoremeshDbg {
    /// How the copies of other clusters are.
    Status(Status),
    /// Connect to every remote cluster step by step, and say what to do about what fails.
    Troubleshoot(Troubleshoot),
}

#[derive(Subcommand, Debug)]
pub(crate) enum ClustermeshDbg {
    /// Connect to the local etcd step by step, and say what to do about what fails.
    Troubleshoot(TroubleshootLocal),
}

#[derive(Args, Debug)]
pub(crate) struct Status {
    /// Where kvstoremesh serves GET /cluster.
    #[arg(long, visible_alias = "server-addr", env = "CILIUM_API_SERVE_ADDR", default_value = "127.0.0.1:9889", value_parser = listen_address, value_name = "ADDRESS")]
    pub(crate) api_serve_addr: SocketAddr,
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: Format,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A table.
    #[value(alias = "table")]
    Text,
    Json,
}

#[derive(Args, Debug)]
pub(crate) struct Troubleshoot {
    /// A file per remote cluster.
    #[arg(
        long,
        env = "CILIUM_CLUSTERMESH_CONFIG",
        default_value = "/var/lib/cilium/clustermesh",
        value_name = "DIRECTORY"
    )]
    pub(crate) clustermesh_config: PathBuf,
    /// For each step.
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Duration,
    /// Only these clusters.
    pub(crate) clusters: Vec<ClusterName>,
}

#[derive(Args, Debug)]
pub(crate) struct TroubleshootLocal {
    /// The file of --kvstore-opt=etcd.config.
    #[arg(long, default_value = "/var/lib/cilium/etcd-config.yaml", value_name = "FILE")]
    pub(crate) etcd_config: PathBuf,
    /// For each step.
    #[arg(long, default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Duration,
}

impl Local {
    /// Who we are, checked against the size of the mesh.
    pub(crate) fn home(&self) -> anyhow::Result<Home> {
        let id = ClusterId::new(self.cluster_id, self.scale()?).context("--cluster-id")?;
        Ok(Home { name: self.cluster_name.clone(), id })
    }

    pub(crate) fn scale(&self) -> anyhow::Result<Scale> {
        let max = self.max_connected_clusters;
        Scale::from_max(max).with_context(|| format!("--max-connected-clusters is {max}; write 255 or 511"))
    }

    /// The options of `--kvstore-opt`, by name.
    pub(crate) fn kvstore(&self) -> BTreeMap<&'static str, &str> {
        self.kvstore_opt.iter().map(|option| (option.name, option.value.as_str())).collect()
    }
}

impl Clustermesh {
    pub(crate) fn export_mode(&self) -> ExportMode {
        match self.clustermesh_service_v2 {
            ServiceV2::PreferLegacy | ServiceV2::PreferEndpointslice => ExportMode::Both,
            ServiceV2::OnlyEndpointslice => ExportMode::EndpointSlices,
            ServiceV2::OnlyLegacy => ExportMode::Services,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, String> {
        let words = std::iter::once("clustermesh-apiserver").chain(line.split_whitespace());
        Cli::try_parse_from(words).map_err(|error| error.to_string())
    }

    const WHO: &str = "clustermesh --cluster-name=c1 --cluster-id=1";

    fn clustermesh(line: &str) -> Clustermesh {
        match parse(&format!("{WHO} {line}")).unwrap().command {
            Command::Clustermesh(flags) => flags,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn as_ciliums_manifest_starts_it() {
        let flags = clustermesh(
            "--kvstore-opt=etcd.config=/var/lib/cilium/etcd-config.yaml --kvstore-opt=etcd.qps=20 \
             --kvstore-opt=etcd.bootstrapQps=10000 --max-connected-clusters=511 --health-port=9880 \
             --cluster-users-enabled --cluster-users-config-path=/u.yaml --prometheus-serve-addr=:9962 \
             --controller-group-metrics=all --enable-cilium-endpoint-slice --clustermesh-enable-mcs-api=true \
             --clustermesh-default-global-namespace=false --clustermesh-service-v2=only-endpointslice -D",
        );
        assert_eq!(flags.local.kvstore()["etcd.config"], "/var/lib/cilium/etcd-config.yaml");
        assert_eq!(flags.local.scale().unwrap(), Scale::C511);
        assert_eq!(flags.export_mode(), ExportMode::EndpointSlices);
        assert!(flags.enable_cilium_endpoint_slice && flags.clustermesh_enable_mcs_api && flags.cluster_users_enabled);
        assert!(!flags.clustermesh_default_global_namespace);
        assert_eq!(flags.local.prometheus_serve_addr.unwrap().to_string(), "[::]:9962");
    }

    #[test]
    fn defaults_are_ciliums() {
        let flags = clustermesh("--kubeconfig=/k");
        assert_eq!((flags.health_port, flags.export_mode()), (9880, ExportMode::Both));
        assert_eq!(flags.local.kvstore_lease_ttl, Duration::from_secs(900));
        assert_eq!(flags.k8s_kubeconfig_path.unwrap().to_str(), Some("/k"));
        assert!(flags.clustermesh_default_global_namespace && !flags.clustermesh_enable_mcs_api);
        let Command::Kvstoremesh(flags) = parse("kvstoremesh --cluster-name=c1 --cluster-id=1").unwrap().command else {
            panic!("another command");
        };
        assert_eq!((flags.health_port, flags.api_serve_addr.to_string().as_str()), (9881, "127.0.0.1:9889"));
        assert_eq!(flags.removal_grace_period, Duration::from_secs(180));
        let Command::Etcdinit(flags) = parse("etcdinit --cluster-name=c1").unwrap().command else {
            panic!("another command");
        };
        assert_eq!((flags.etcd_data_dir.to_str(), flags.timeout), (Some("/var/run/etcd"), Duration::from_secs(120)));
    }

    #[test]
    fn a_bad_flag_is_named_with_its_remedy() {
        let table = [
            (format!("{WHO} --helth-port=1"), "--health-port"),
            (format!("{WHO} --kvstore-opt=etcd.confg=/x"), "etcd.config"),
            (format!("{WHO} --kvstore-opt=etcd.config"), "KEY=VALUE"),
            (format!("{WHO} --kvstore-lease-ttl=15"), "15m"),
            (format!("{WHO} --clustermesh-service-v2=legacy"), "prefer-legacy"),
            ("clustermesh --cluster-name=C_1 --cluster-id=1".to_owned(), "a-z"),
            ("clustermesh --cluster-id=1".to_owned(), "--cluster-name"),
            ("kvstoremesh-dbg stats".to_owned(), "status"),
        ];
        for (line, word) in table {
            let error = parse(&line).map(|_| ()).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
        for (id, max, word) in [("0", "255", "1 to 255"), ("256", "255", "1 to 255"), ("1", "300", "511")] {
            let line = format!("clustermesh --cluster-name=c --cluster-id={id} --max-connected-clusters={max}");
            let Command::Clustermesh(flags) = parse(&line).unwrap().command else { panic!("another command") };
            let error = format!("{:#}", flags.local.home().unwrap_err());
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
