//! The agent's configuration: one immutable value. File < environment (`CAUSEWAY_*`) < flag; names are the same in all
//! three, and an unknown one is refused with the nearest known name.

mod encryption;
mod mesh;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use causeway_api::nearest::nearest;
use causeway_mesh_schema::ClusterName;

pub(crate) use encryption::EncryptionConfig;
pub(crate) use mesh::MeshConfig;

/// Everything the operator of the agent can decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// This node's name in Kubernetes.
    pub(crate) node_name: String,
    /// How to reach Kubernetes; the pod's service account or `~/.kube/config` when absent.
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) cluster_name: ClusterName,
    /// This cluster's number and how it meets others.
    pub(crate) mesh: MeshConfig,
    /// Encryption between nodes.
    pub(crate) encryption: EncryptionConfig,
    /// The admin socket.
    pub(crate) socket: PathBuf,
    /// What the agent must remember beside the kernel's maps: the pods' attachments. On tmpfs.
    pub(crate) state_dir: PathBuf,
    /// Where maps and links are pinned: a directory on bpffs.
    pub(crate) bpf_root: PathBuf,
    /// Interfaces to the fabric; empty: those with a default route.
    pub(crate) devices: Vec<String>,
    /// Prometheus metrics and `/healthz`; `None`: "off".
    pub(crate) metrics_addr: Option<SocketAddr>,
    /// Where the CNI configuration is written once the agent is ready.
    pub(crate) cni_conf_dir: PathBuf,
    /// Rows of the flow table.
    pub(crate) flow_entries: u32,
    pub(crate) enable_ipv4: bool,
    pub(crate) enable_ipv6: bool,
    pub(crate) enable_ipv4_masquerade: bool,
    pub(crate) enable_ipv6_masquerade: bool,
    /// MTU of pods' interfaces; 0: that of the uplinks, less what WireGuard needs.
    pub(crate) mtu: u32,
    /// Short RCU grace periods while a CNI verb runs; the switch is the machine's.
    pub(crate) expedite_rcu: bool,
    /// Namespace of the Secrets with BGP passwords.
    pub(crate) bgp_secrets_namespace: String,
    /// Announce the addresses of Services that have no backends anywhere.
    pub(crate) enable_no_service_endpoints_routable: bool,
    /// This node's addresses; absent: those of its Node object.
    pub(crate) node_ipv4: Option<Ipv4Addr>,
    pub(crate) node_ipv6: Option<Ipv6Addr>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration file {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("the configuration file {path} is not TOML: {source}")]
    Toml { path: String, source: Box<toml::de::Error> },
    #[error("{place}: unknown option {name:?}{hint}")]
    Unknown { place: String, name: String, hint: String },
    #[error("{place}: {name} = {value:?}: {problem}")]
    Value { place: String, name: String, value: String, problem: String },
    #[error(
        "{name} is not set; give --{name}, or CAUSEWAY_{env} in the environment, or {name} in the file of --config"
    )]
    Missing { name: &'static str, env: String },
}

/// One option: its name in the file and as a flag, and what it says in `--help`.
struct Opt {
    name: &'static str,
    default: Option<&'static str>,
    help: &'static str,
}

const fn opt(name: &'static str, default: Option<&'static str>, help: &'static str) -> Opt {
    Opt { name, default, help }
}

/// Options of Cilium's strict mode that say nothing new here.
const STRICT: &str = "Accepted, as in Cilium, and surpassed: with --enable-wireguard it is always so";
const REMOTE_NODES: &str = "Accepted, as in Cilium, and surpassed: nodes are known by their addresses, and pods' traffic with them is \
     encrypted";

/// Every option. An option without default must be set, except the first two that may stay empty.
const OPTIONS: &[Opt] = &[
    opt("node-name", None, "This node's name in Kubernetes"),
    opt("kubeconfig", Some(""), "Kubeconfig file; empty: the pod's service account, or ~/.kube/config"),
    opt("cluster-name", Some("default"), "Name of this cluster"),
    opt("cluster-id", Some("0"), "Number of this cluster, 1 to 255 (or 511); 0: it meets no others"),
    opt("max-connected-clusters", Some("255"), "255 or 511; the same in all clusters that meet"),
    opt("clustermesh-config", Some("/var/lib/cilium/clustermesh"), "Directory with a file for each other cluster"),
    opt("clustermesh-sync-timeout", Some("1m"), "How long a start waits for other clusters before it goes on without"),
    opt("clustermesh-cache-ttl", Some("0"), "Forget the Services of a cluster that is silent for so long; 0: never"),
    opt(
        "clustermesh-service-v2",
        // Only slices say which backends end and which are ready.
        Some("prefer-endpointslice"),
        "How remote backends are read: prefer-legacy, prefer-endpointslice, only-endpointslice",
    ),
    opt("clustermesh-stage-de-preferred", Some("30s"), "After so much silence a cluster's backends come last"),
    opt("clustermesh-stage-probed", Some("2m"), "After so much silence they serve only while they answer probes"),
    opt("clustermesh-stage-revoked", Some("10m"), "After so much silence they serve only where nobody else does"),
    opt("clustermesh-probe", Some("true"), "Probe remote backends by TCP"),
    opt("clustermesh-probe-interval", Some("750ms"), "How often each remote backend is probed"),
    opt("clustermesh-probe-timeout", Some("600ms"), "How long a probe waits"),
    opt("clustermesh-probe-budget", Some("500"), "Most probes in a second; with more backends the interval grows"),
    opt("socket", Some(causeway_api::DEFAULT_SOCKET), "The admin socket"),
    opt("state-dir", Some("/run/causeway"), "Directory for what must survive a restart of the agent (tmpfs)"),
    opt("bpf-root", Some("/sys/fs/bpf/causeway"), "Directory on bpffs for pinned maps and links"),
    opt("devices", Some(""), "Interfaces to the fabric, with commas; empty: those with a default route"),
    opt("metrics-addr", Some("0.0.0.0:9962"), "Address of the Prometheus metrics and /healthz; off: none"),
    opt("cni-conf-dir", Some("/etc/cni/net.d"), "Where the CNI configuration is written when ready"),
    opt("flow-entries", Some("262144"), "Rows of the flow table"),
    opt("enable-ipv4", Some("true"), "Serve IPv4"),
    opt("enable-ipv6", Some("true"), "Serve IPv6"),
    opt("enable-ipv4-masquerade", Some("true"), "Translate the source of IPv4 traffic that leaves the cluster"),
    opt("enable-ipv6-masquerade", Some("true"), "Translate the source of IPv6 traffic that leaves the cluster"),
    opt("mtu", Some("0"), "MTU of pods' interfaces; 0: that of the uplinks, less what WireGuard needs"),
    opt("expedite-rcu", Some("true"), "Set /sys/kernel/rcu_expedited for the milliseconds of a CNI verb"),
    opt("bgp-secrets-namespace", Some("kube-system"), "Namespace of the Secrets with BGP passwords"),
    opt("enable-no-service-endpoints-routable", Some("false"), "Announce addresses of Services without any backend"),
    opt("node-ipv4", Some(""), "This node's IPv4 address; empty: the InternalIP of its Node object"),
    opt("node-ipv6", Some(""), "This node's IPv6 address; likewise"),
    opt(
        "enable-wireguard",
        Some("false"),
        "Encrypt traffic between nodes; what cannot be encrypted is refused. Needs the process causeway-wireguard",
    ),
    opt("encrypt-node", Some("false"), "Encrypt also what the nodes themselves send to each other"),
    opt("encryption-own-cluster", Some("required"), "Within this cluster: required, or off (inter-cluster-only)"),
    opt("encryption-clusters", Some("*=required"), "For each other cluster required or off: west=off,*=required"),
    opt("wireguard-persistent-keepalive", Some("0s"), "Keepalives to idle peers, for NAT on the way; 0s: none"),
    opt("wireguard-rotation-interval", Some("24h"), "Age at which the node's key is replaced; 0: only by command"),
    opt("wireguard-port", Some("51871"), "UDP port; the same on all nodes of all clusters"),
    opt("wireguard-key-file", Some("/var/lib/causeway/wireguard.json"), "The node's private keys, on a disk"),
    opt("wireguard-socket", Some("/run/causeway/wireguard.sock"), "Control socket of causeway-wireguard"),
    opt(
        "encryption-strict-egress-cidr",
        Some(""),
        "Ranges whose traffic must be encrypted even where no node has told that it is its own, with commas",
    ),
    opt("encryption-strict-mode-cidr", Some(""), "Older name of --encryption-strict-egress-cidr"),
    opt("enable-encryption-strict-mode", Some("false"), STRICT),
    opt("enable-encryption-strict-mode-egress", Some("false"), STRICT),
    opt("enable-encryption-strict-mode-ingress", Some("false"), STRICT),
    opt("encryption-strict-mode-allow-remote-node-identities", Some("false"), REMOTE_NODES),
    opt("encryption-strict-egress-allow-remote-node-identities", Some("false"), REMOTE_NODES),
];

/// What was given on the command line: name to value, and the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags {
    values: BTreeMap<String, String>,
    file: Option<PathBuf>,
}

impl Flags {
    /// Reads the process's command line; ends the process on --help, --version and mistakes.
    pub(crate) fn parse() -> Flags {
        Flags::from_matches(&Flags::command().get_matches())
    }

    /// The command line is made of [`OPTIONS`], so that the three places can never name different things.
    fn command() -> clap::Command {
        let mut command = clap::Command::new("causeway-agent")
            .version(env!("CARGO_PKG_VERSION"))
            .about("The node daemon of Causeway. Every option may also stand in the file, and in the environment as CAUSEWAY_<NAME>.")
            .arg(clap::Arg::new("config").long("config").value_name("FILE").help("Configuration file (TOML)"));
        for o in OPTIONS {
            let help = match o.default {
                Some("") | None => o.help.to_owned(),
                Some(default) => format!("{} [default: {default}]", o.help),
            };
            command = command.arg(clap::Arg::new(o.name).long(o.name).value_name("VALUE").help(help));
        }
        command
    }

    fn from_matches(matches: &clap::ArgMatches) -> Flags {
        let values = OPTIONS
            .iter()
            .filter_map(|o| Some((o.name.to_owned(), matches.get_one::<String>(o.name)?.clone())))
            .collect();
        Flags { values, file: matches.get_one::<String>("config").map(PathBuf::from) }
    }
}

/// A value and the place it came from, for error messages.
struct Found {
    place: String,
    value: String,
}

impl Config {
    /// All defaults, for node `n1`.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Config {
        let env = BTreeMap::from([("NODE_NAME".to_owned(), "n1".to_owned())]);
        Config::resolve(None, &env, &Flags::default()).expect("the defaults are good")
    }

    pub(crate) fn load(flags: &Flags) -> Result<Config, ConfigError> {
        let env = std::env::vars().filter_map(|(k, v)| Some((k.strip_prefix("CAUSEWAY_")?.to_owned(), v))).collect();
        let env_file = std::env::var_os("CAUSEWAY_CONFIG").map(PathBuf::from);
        let file = match flags.file.clone().or(env_file) {
            None => None,
            Some(path) => {
                let place = path.display().to_string();
                let text = std::fs::read_to_string(&path)
                    .map_err(|source| ConfigError::Read { path: place.clone(), source })?;
                Some((place, text))
            }
        };
        Config::resolve(file, &env, flags)
    }

    /// The pure part: texts in, configuration out.
    fn resolve(
        file: Option<(String, String)>,
        env: &BTreeMap<String, String>,
        flags: &Flags,
    ) -> Result<Config, ConfigError> {
        let mut found = BTreeMap::new();
        if let Some((place, text)) = file {
            read_file(&place, &text, &mut found)?;
        }
        read_env(env, &mut found)?;
        for (name, value) in &flags.values {
            found.insert(name.clone(), Found { place: "command line".into(), value: value.clone() });
        }
        Config::build(&Values(found))
    }

    fn build(v: &Values) -> Result<Config, ConfigError> {
        Ok(Config {
            node_name: v.required("node-name")?,
            kubeconfig: v.optional("kubeconfig").map(PathBuf::from),
            cluster_name: v.parse("cluster-name", "is no cluster name; use at most 32 of a-z, 0-9 and inner dashes")?,
            mesh: MeshConfig::read(v)?,
            encryption: EncryptionConfig::read(v)?,
            socket: v.required("socket")?.into(),
            state_dir: v.required("state-dir")?.into(),
            bpf_root: v.required("bpf-root")?.into(),
            devices: v
                .optional("devices")
                .map(|d| d.split(',').map(str::trim).filter(|d| !d.is_empty()).map(str::to_owned).collect())
                .unwrap_or_default(),
            metrics_addr: match v.optional("metrics-addr").as_deref() {
                None | Some("off") => None,
                Some(_) => Some(v.parse("metrics-addr", "is neither address:port nor \"off\"")?),
            },
            cni_conf_dir: v.required("cni-conf-dir")?.into(),
            flow_entries: v.parse("flow-entries", "is not a number of rows")?,
            enable_ipv4: v.parse("enable-ipv4", "is neither true nor false")?,
            enable_ipv6: v.parse("enable-ipv6", "is neither true nor false")?,
            enable_ipv4_masquerade: v.parse("enable-ipv4-masquerade", "is neither true nor false")?,
            enable_ipv6_masquerade: v.parse("enable-ipv6-masquerade", "is neither true nor false")?,
            mtu: v.parse("mtu", "is not a number of bytes")?,
            expedite_rcu: v.parse("expedite-rcu", "is neither true nor false")?,
            bgp_secrets_namespace: v.required("bgp-secrets-namespace")?,
            enable_no_service_endpoints_routable: v
                .parse("enable-no-service-endpoints-routable", "is neither true nor false")?,
            node_ipv4: v.parse_optional("node-ipv4", "is not an IPv4 address")?,
            node_ipv6: v.parse_optional("node-ipv6", "is not an IPv6 address")?,
        })
    }
}

struct Values(BTreeMap<String, Found>);

impl Values {
    fn get(&self, name: &str) -> (String, String) {
        if let Some(found) = self.0.get(name) {
            return (found.place.clone(), found.value.clone());
        }
        let default = OPTIONS.iter().find(|o| o.name == name).and_then(|o| o.default).unwrap_or_default();
        ("default".into(), default.to_owned())
    }

    fn optional(&self, name: &str) -> Option<String> {
        Some(self.get(name).1).filter(|v| !v.is_empty())
    }

    fn required(&self, name: &'static str) -> Result<String, ConfigError> {
        self.optional(name).ok_or_else(|| ConfigError::Missing { name, env: env_name(name) })
    }

    fn parse_optional<T: std::str::FromStr>(&self, name: &str, problem: &str) -> Result<Option<T>, ConfigError> {
        self.optional(name).map(|_| self.parse(name, problem)).transpose()
    }

    fn parse<T: std::str::FromStr>(&self, name: &str, problem: &str) -> Result<T, ConfigError> {
        self.read(name, problem, |text| text.parse().ok())
    }

    /// `read` gives `None` for what is no value.
    fn read<T>(&self, name: &str, problem: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, ConfigError> {
        let (place, value) = self.get(name);
        let problem = problem.to_owned();
        read(&value).ok_or_else(|| ConfigError::Value { place, name: name.to_owned(), value: value.clone(), problem })
    }

    /// It was set, to whatever.
    fn given(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

fn env_name(option: &str) -> String {
    option.to_uppercase().replace('-', "_")
}

fn unknown(place: &str, name: &str, known: &str) -> ConfigError {
    let hint = match nearest(known, OPTIONS.iter().map(|o| o.name)) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => "; causeway-agent --help names them all".to_owned(),
    };
    ConfigError::Unknown { place: place.to_owned(), name: name.to_owned(), hint }
}

fn read_file(place: &str, text: &str, found: &mut BTreeMap<String, Found>) -> Result<(), ConfigError> {
    let table: toml::Table =
        text.parse().map_err(|source| ConfigError::Toml { path: place.to_owned(), source: Box::new(source) })?;
    for (name, value) in table {
        if !OPTIONS.iter().any(|o| o.name == name) {
            return Err(unknown(place, &name, &name));
        }
        let value = match value {
            toml::Value::String(s) => s,
            toml::Value::Integer(i) => i.to_string(),
            toml::Value::Boolean(b) => b.to_string(),
            toml::Value::Array(items) if items.iter().all(toml::Value::is_str) => {
                items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
            }
            other => {
                return Err(ConfigError::Value {
                    place: place.to_owned(),
                    name,
                    value: other.to_string(),
                    problem: format!("is of type {}; give a string, a number, true or false", other.type_str()),
                });
            }
        };
        found.insert(name, Found { place: place.to_owned(), value });
    }
    Ok(())
}

/// Names in the environment that are not options of the agent.
const OTHER_ENV: &[&str] = &["LOG", "CONFIG"];

fn read_env(env: &BTreeMap<String, String>, found: &mut BTreeMap<String, Found>) -> Result<(), ConfigError> {
    for (name, value) in env {
        if OTHER_ENV.contains(&name.as_str()) {
            continue;
        }
        let full = format!("CAUSEWAY_{name}");
        let Some(option) = OPTIONS.iter().find(|o| env_name(o.name) == *name) else {
            return Err(unknown("environment", &full, &name.to_lowercase().replace('_', "-")));
        };
        found.insert(option.name.to_owned(), Found { place: format!("environment {full}"), value: value.clone() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn resolve(file: &str, env: &[(&str, &str)], flags: &[&str]) -> Result<Config, String> {
        let args = std::iter::once("causeway-agent").chain(flags.iter().copied());
        let flags = Flags::from_matches(&Flags::command().try_get_matches_from(args).map_err(|e| e.to_string())?);
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::resolve(Some(("a.toml".into(), file.into())), &env, &flags).map_err(|e| e.to_string())
    }

    #[test]
    fn file_is_less_than_environment_is_less_than_flag() {
        let file = "node-name = 'file'\nmtu = 1\ncluster-name = 'file'\ndevices = ['a', 'b']";
        let c = resolve(file, &[("CLUSTER_NAME", "env"), ("MTU", "2")], &["--mtu", "3"]).unwrap();
        assert_eq!((c.node_name.as_str(), c.cluster_name.as_str(), c.mtu), ("file", "env", 3));
        assert_eq!(c.devices, ["a", "b"]);
        assert_eq!(c.flow_entries, 262_144);
    }

    #[test]
    fn mistakes_name_place_and_remedy() {
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str], &'a str);
        let cases: &[Case<'_>] = &[
            ("nodename = 'x'", &[], &[], r#"a.toml: unknown option "nodename"; did you mean "node-name"?"#),
            (
                "",
                &[("CLUSTER_NAM", "x")],
                &[],
                r#"unknown option "CAUSEWAY_CLUSTER_NAM"; did you mean "cluster-name"?"#,
            ),
            ("", &[], &[], "node-name is not set; give --node-name, or CAUSEWAY_NODE_NAME"),
            (
                "node-name = 'x'\ncluster-id = 999",
                &[],
                &[],
                r#"a.toml: cluster-id = "999": is no cluster id; use 1 to 255, or 0 for a cluster that meets no others"#,
            ),
            ("node-name = 'x'", &[], &["--cluster-name", "Rack_1"], r#"cluster-name = "Rack_1": is no cluster name"#),
            ("node-name = 'x'\nmtu = {}", &[], &[], "is of type table"),
            ("", &[], &["--node-nam", "x"], "--node-name"),
            ("a = ", &[], &[], "the configuration file a.toml is not TOML"),
        ];
        for (file, env, flags, want) in cases {
            let got = resolve(file, env, flags).unwrap_err();
            assert!(got.contains(want), "{got}\nhas not\n{want}");
        }
    }

    #[test]
    fn metrics_can_be_off() {
        assert_eq!(resolve("node-name = 'x'\nmetrics-addr = 'off'", &[], &[]).unwrap().metrics_addr, None);
    }
}
