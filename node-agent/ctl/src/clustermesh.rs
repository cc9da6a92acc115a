//! `causeway clustermesh enable|connect|disconnect`: the mesh set up by a person, with flags as `cilium clustermesh` has
//! them. Talks to the Kubernetes APIs of the clusters that the flags name, not to an agent; what is made is decided by
//! `causeway-mesh-setup`. Private keys are never printed; files that hold them are 0600.
//!
//! ```text
//! causeway clustermesh enable      [--kubeconfig F] [--context C] [-n kube-system]
//!                                  [--cluster-name N] [--cluster-id I] [--max-connected-clusters 255|511]
//!                                  [--ca-from DIR | --inherit-ca CONTEXT] [--renew] [--server-name NAME]...
//!                                  (--secrets-only | --image IMAGE [--service-type T] [--node-port P] [--print])
//!                                  [--write-to DIR]
//! causeway clustermesh connect     [--kubeconfig F] [--context C] [-n kube-system]
//!                                  [--destination-kubeconfig F] [--destination-context C]
//!                                  [--cluster-name N] [--cluster-id I] [--destination-name N] [--destination-id I]
//!                                  [--endpoint IP:PORT]... [--source-endpoint IP:PORT]...
//!                                  [--mode cached|direct] [--paths-under DIR]
//! causeway clustermesh disconnect  the same flags for the two clusters; --destination-name alone if the peer is down
//! ```
//!
//! `--endpoint` is where the destination's etcd is reached, `--source-endpoint` where ours is. Without them the Service
//! `clustermesh-apiserver` says it. Names and numbers of clusters come from the flags, or from ConfigMap `cilium-config`.
//! All three can be repeated: what is as it should be is left alone.

mod cluster;
mod connect;
mod disconnect;
mod enable;
mod endpoints;
mod files;

use std::io::{self, Write as _};
use std::path::PathBuf;

use causeway_mesh_setup::{Endpoint, ServiceType, SetupError};
use clap::ValueEnum;
use serde::Serialize;

use crate::args::Output;
use crate::table::Table;
use crate::{Failure, print_json};

/// Which cluster, and how it is reached.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Here {
    /// The cluster's kubeconfig; otherwise $KUBECONFIG, or ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; otherwise its current one.
    #[arg(long)]
    context: Option<String>,
    /// Where the mesh is installed.
    #[arg(short, long, default_value = "kube-system")]
    namespace: String,
    /// The cluster's name; otherwise `cluster-name` of ConfigMap cilium-config.
    #[arg(long, value_name = "NAME")]
    cluster_name: Option<String>,
    /// The cluster's number; otherwise `cluster-id` of ConfigMap cilium-config.
    #[arg(long, value_name = "ID")]
    cluster_id: Option<u32>,
    /// How many clusters the mesh may have, 255 or 511; otherwise `max-connected-clusters` of cilium-config, or 255.
    #[arg(long, value_name = "N")]
    max_connected_clusters: Option<u32>,
}

/// The other cluster.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct There {
    /// The other cluster's kubeconfig; otherwise the same as ours.
    #[arg(long, value_name = "FILE")]
    destination_kubeconfig: Option<PathBuf>,
    /// The other cluster's context.
    #[arg(long, value_name = "CONTEXT")]
    destination_context: Option<String>,
    /// The other cluster's name; otherwise `cluster-name` of its cilium-config.
    #[arg(long, value_name = "NAME")]
    destination_name: Option<String>,
    /// The other cluster's number; otherwise `cluster-id` of its cilium-config.
    #[arg(long, value_name = "ID")]
    destination_id: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Enable {
    #[command(flatten)]
    here: Here,
    /// A directory with ca.crt and ca.key, to be this cluster's CA.
    #[arg(long, value_name = "DIR", conflicts_with = "inherit_ca")]
    ca_from: Option<PathBuf>,
    /// Take the CA of the cluster of this context.
    #[arg(long, value_name = "CONTEXT")]
    inherit_ca: Option<String>,
    /// Renew all certificates, not only those that expire within 30 days. The CA stays.
    #[arg(long)]
    renew: bool,
    /// One more DNS name or address of etcd's certificate.
    #[arg(long, value_name = "NAME")]
    server_name: Vec<String>,
    /// Only the Secrets: the clustermesh-apiserver is run by someone else.
    #[arg(long)]
    secrets_only: bool,
    /// The image with clustermesh-apiserver and etcd.
    #[arg(long, required_unless_present = "secrets_only")]
    image: Option<String>,
    /// How other clusters reach the apiserver.
    #[arg(long, value_enum, default_value_t = Exposure::LoadBalancer)]
    service_type: Exposure,
    /// The Service's node port; otherwise Kubernetes chooses one.
    #[arg(long, value_name = "PORT")]
    node_port: Option<u16>,
    /// Print the manifests instead of applying them. Secrets are made all the same.
    #[arg(long, conflicts_with = "secrets_only")]
    print: bool,
    /// Also write the Secrets as files, `DIR/<secret>/<key>`, for an etcd that runs outside of Kubernetes.
    #[arg(long, value_name = "DIR")]
    write_to: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Connect {
    #[command(flatten)]
    here: Here,
    #[command(flatten)]
    there: There,
    /// Where we reach the other cluster's etcd; otherwise its Service says it. May be given more than once.
    #[arg(long, value_name = "IP:PORT")]
    endpoint: Vec<Endpoint>,
    /// Where the other cluster reaches our etcd; otherwise our Service says it. May be given more than once.
    #[arg(long, value_name = "IP:PORT")]
    source_endpoint: Vec<Endpoint>,
    /// Through which etcd agents read the other cluster.
    #[arg(long, value_enum, default_value_t = Mode::Cached)]
    mode: Mode,
    /// Where agents mount their configuration, if it has to name its files absolutely: /var/lib/cilium/clustermesh for
    /// Cilium's agents. Ours find them beside the configuration.
    #[arg(long, value_name = "DIR")]
    paths_under: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Disconnect {
    #[command(flatten)]
    here: Here,
    #[command(flatten)]
    there: There,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// kvstoremesh copies it into the own etcd, where agents read it.
    Cached,
    /// Every agent reads the other cluster's etcd.
    Direct,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Exposure {
    #[value(name = "LoadBalancer", alias = "loadbalancer")]
    LoadBalancer,
    #[value(name = "NodePort", alias = "nodeport")]
    NodePort,
    #[value(name = "ClusterIP", alias = "clusterip")]
    ClusterIp,
}

impl From<Exposure> for ServiceType {
    fn from(exposure: Exposure) -> ServiceType {
        match exposure {
            Exposure::LoadBalancer => ServiceType::LoadBalancer,
            Exposure::NodePort => ServiceType::NodePort,
            Exposure::ClusterIp => ServiceType::ClusterIp,
        }
    }
}

/// What cannot be done, to what, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Trouble(String);

impl From<SetupError> for Trouble {
    fn from(error: SetupError) -> Trouble {
        Trouble(error.to_string())
    }
}

/// One thing that was looked at, and what became of it.
#[derive(Debug, Serialize)]
struct Step {
    cluster: String,
    object: String,
    outcome: Outcome,
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Made,
    Changed,
    /// Server-side apply does not say whether anything changed.
    Applied,
    Kept,
    Removed,
    /// Not done; the note says why.
    Left,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Outcome::Made => "made",
            Outcome::Changed => "changed",
            Outcome::Applied => "applied",
            Outcome::Kept => "kept",
            Outcome::Removed => "removed",
            Outcome::Left => "LEFT",
        }
    }
}

pub(crate) fn enable(flags: &Enable, out: Output) -> Result<(), Failure> {
    let done = block_on(enable::run(flags))?;
    if flags.print {
        io::stdout().write_all(done.manifests.as_bytes())?;
        io::stderr().write_all(show(&done.steps).as_bytes())?;
        return Ok(());
    }
    report(&done.steps, out)
}

pub(crate) fn connect(flags: &Connect, out: Output) -> Result<(), Failure> {
    report(&block_on(connect::run(flags))?, out)
}

pub(crate) fn disconnect(flags: &Disconnect, out: Output) -> Result<(), Failure> {
    report(&block_on(disconnect::run(flags))?, out)
}

/// A command is one conversation after another, so one thread is enough.
fn block_on<T>(work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Failure> {
    // An error means that there is a provider already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Print)?;
    runtime.block_on(work).map_err(Failure::Mesh)
}

fn report(steps: &[Step], out: Output) -> Result<(), Failure> {
    match out {
        Output::Json | Output::CiliumJson => print_json(&steps),
        Output::Table => Ok(io::stdout().write_all(show(steps).as_bytes())?),
    }
}

fn show(steps: &[Step]) -> String {
    let mut table = Table::new(&["Cluster", "Object", "Outcome", ""]);
    for step in steps {
        table.row([step.cluster.clone(), step.object.clone(), step.outcome.word().to_owned(), step.note.clone()]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Clustermesh, Command};
    use clap::Parser as _;

    fn parse(words: &str) -> Result<Clustermesh, clap::Error> {
        let args = Args::try_parse_from(["causeway", "clustermesh"].into_iter().chain(words.split_whitespace()))?;
        match args.command {
            Command::Clustermesh { command } => Ok(command),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_enable_needs() {
        let Ok(Clustermesh::Enable(flags)) = parse("enable --secrets-only --kubeconfig=/k") else { panic!("refused") };
        assert_eq!(flags.here.kubeconfig.as_deref(), Some("/k".as_ref()));
        assert_eq!(flags.here.namespace, "kube-system");
        assert!(parse("enable --image x --service-type NodePort --node-port 32379 --print").is_ok());
        for bad in ["enable", "enable --secrets-only --print", "enable --image x --ca-from d --inherit-ca c"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_connect_takes() {
        let words = "connect --context a --destination-context b --mode=direct --endpoint=192.0.2.1:2379 \
                     --endpoint=[2001:db8::1]:2379 --source-endpoint 192.0.2.2";
        let Ok(Clustermesh::Connect(flags)) = parse(words) else { panic!("refused") };
        assert_eq!((flags.endpoint.len(), flags.source_endpoint.len(), flags.mode), (2, 1, Mode::Direct));
        let Ok(Clustermesh::Connect(flags)) = parse("connect --destination-context b") else { panic!("refused") };
        assert_eq!(flags.mode, Mode::Cached);
        assert!(parse("connect --endpoint nowhere:0").is_err());
        assert!(parse("disconnect --destination-name west").is_ok());
    }
}
