//! A small Kubernetes API for laboratories: real `kubectl` and kube-rs clients cannot tell it from the real one in what they use.
//!
//! JSON objects in one store with one revision (`store`), resources described by tables (`schema/kinds.txt`, `schema/types.txt`) or
//! by their CRD, one way for every write (`api`), and a few controllers inside (`controllers`). Nothing is kept across a
//! restart. It is a stand-in: authentication is by client certificate, and whoever is known may do everything.

pub mod admission;
pub mod api;
pub mod apply;
pub mod columns;
pub mod controllers;
pub mod http;
pub mod jsonpath;
pub mod kinds;
pub mod patch;
pub mod protobuf;
pub mod schema;
pub mod selector;
pub mod serve;
pub mod shutdown;
pub mod status;
pub mod store;
pub mod tls;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use tokio::net::TcpListener;

use admission::addresses::{Addresses, Family};
use api::Api;
use controllers::Controllers;
use shutdown::Shutdown;

/// How the server is started.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "causeway-lab-apiserver", about = "A small Kubernetes API for laboratories", version)]
pub struct Options {
    /// Address to listen on; may be given several times. Port 0 chooses a free one.
    #[arg(long = "listen", required = true)]
    pub listen: Vec<SocketAddr>,
    /// The server's certificate chain, PEM.
    #[arg(long)]
    pub tls_cert_file: PathBuf,
    /// The server's private key, PEM.
    #[arg(long)]
    pub tls_private_key_file: PathBuf,
    /// Clients show a certificate signed by one of these authorities.
    #[arg(long)]
    pub client_ca_file: PathBuf,
    /// Where cluster IPs come from: one range, or an IPv4 and an IPv6 one; the first is the primary family.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/16,fd00:96::/112")]
    pub service_cluster_ip_range: Vec<IpNet>,
    /// Under which addresses the `kubernetes` Service finds this server.
    #[arg(long = "advertise-address")]
    pub advertise_address: Vec<IpAddr>,
    /// Directory with `<namespace>_<pod>_<uid>/<container>.log`, served as pod logs.
    #[arg(long)]
    pub pod_log_dir: Option<PathBuf>,
    /// Written, with one listening address per line, once the server serves.
    #[arg(long)]
    pub ready_file: Option<PathBuf>,
    /// A node whose Lease is older than this many seconds is not ready.
    #[arg(long, default_value_t = 40)]
    pub node_monitor_grace_period: u64,
    /// Controllers to leave out: deployment, replicaset, endpointslice, scheduler, node, namespace, gc, crd, kubernetes-service; or `all`.
    #[arg(long = "disable-controller", value_delimiter = ',')]
    pub disable_controller: Vec<String>,
    /// How many events watchers may lag behind before they start again.
    #[arg(long, default_value_t = 10_000)]
    pub watch_log_events: usize,
}

/// A server that runs until it is stopped or dropped.
pub struct Running {
    pub addresses: Vec<SocketAddr>,
    pub api: Arc<Api>,
    shutdown: Shutdown,
}

impl Running {
    /// Ends listeners, connections and controllers.
    pub fn stop(&self) {
        self.shutdown.stop();
    }

    pub async fn stopped(&self) {
        self.shutdown.stopped().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts everything; returns once connections are accepted.
pub async fn start(options: &Options) -> anyhow::Result<Running> {
    let ranges = &options.service_cluster_ip_range;
    let families: Vec<Family> = ranges.iter().map(|net| Family::of(&net.addr())).collect();
    if ranges.is_empty() || ranges.len() > 2 || (ranges.len() == 2 && families[0] == families[1]) {
        bail!("--service-cluster-ip-range: give one range, or one IPv4 and one IPv6 range");
    }
    let tls = tls::server_config(&options.tls_cert_file, &options.tls_private_key_file, &options.client_ca_file)?;
    let api = Arc::new(Api {
        store: store::Store::new(options.watch_log_events),
        registry: kinds::Registry::new(),
        addresses: Addresses::new(ranges.clone()),
    });
    controllers::bootstrap::run(&api).context("making the first namespaces")?;
    let mut listeners = Vec::new();
    for address in &options.listen {
        listeners.push(TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?);
    }
    let addresses: Vec<SocketAddr> = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    let shutdown = Shutdown::default();
    let server = http::Server { api: api.clone(), pod_log_dir: options.pod_log_dir.clone() };
    for listener in listeners {
        serve::spawn(listener, tls.clone(), server.clone(), &shutdown);
    }
    let port = addresses.first().map_or(443, SocketAddr::port);
    Controllers {
        api: api.clone(),
        advertise: options.advertise_address.clone(),
        port,
        node_grace_s: options.node_monitor_grace_period,
    }
    .spawn(&options.disable_controller, &shutdown)?;
    if let Some(file) = &options.ready_file {
        let lines: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        std::fs::write(file, lines.join("\n") + "\n").with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(Running { addresses, api, shutdown })
}
