//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use causeway_api::DEFAULT_SOCKET;
use causeway_api::bgp::{Family, RouteTable};
use clap::{Parser, Subcommand, ValueEnum};

use crate::clustermesh;

/// Shows what a node's agent does.
///
/// Exit codes: 0 ok; 1 not healthy, or not found; 2 wrong usage; 3 the agent cannot be reached.
#[derive(Debug, Parser)]
#[command(name = "causeway", version, max_term_width = 120)]
pub(crate) struct Args {
    /// The agent's admin socket.
    #[arg(long, global = true, env = "CAUSEWAY_SOCKET", default_value = DEFAULT_SOCKET)]
    pub(crate) socket: PathBuf,
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
    /// As `json`; of `clustermesh status` an array of Cilium's `RemoteCluster`, for its own tools.
    CiliumJson,
}

impl Output {
    pub(crate) fn is_json(self) -> bool {
        self != Output::Table
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Health of the agent, with rejected objects and their remedies; exit code 1 if not healthy.
    Status {
        /// Tables and kernel features too.
        #[arg(short, long)]
        verbose: bool,
        /// Wait until healthy.
        #[arg(long)]
        wait: bool,
        /// How long to wait, in seconds.
        #[arg(long, default_value_t = 300)]
        wait_duration_s: u64,
    },
    /// BGP sessions and routes.
    Bgp {
        #[command(subcommand)]
        command: Bgp,
    },
    /// Load-balancer frontends with their backends.
    Service {
        #[command(subcommand)]
        command: List,
    },
    /// Pods of this node.
    Endpoint {
        #[command(subcommand)]
        command: List,
    },
    /// Security identities.
    Identity {
        #[command(subcommand)]
        command: List,
    },
    /// Which identity an address has.
    Ip {
        #[command(subcommand)]
        command: Ip,
    },
    /// Nodes of this cluster and of others.
    Node {
        #[command(subcommand)]
        command: List,
    },
    /// Other clusters that this one meets.
    Clustermesh {
        #[command(subcommand)]
        command: Clustermesh,
    },
    /// Encryption between nodes.
    #[command(visible_alias = "encryption")]
    Encrypt {
        #[command(subcommand)]
        command: Encrypt,
    },
    /// Packets dropped by the programs, by reason.
    Drops {
        /// Reasons that never occurred, and packets passed on, too. `-o json` always has them.
        #[arg(short, long)]
        all: bool,
    },
    /// Connections in the flow table.
    Flows {
        /// At most this many.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
        /// Only flows with this address on either end, before or after translation.
        #[arg(long)]
        address: Option<IpAddr>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum List {
    /// All rows.
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Ip {
    /// All rows of this cluster, and of others up to the limit.
    List {
        /// At most this many rows of other clusters' pods.
        #[arg(long, default_value_t = 10_000)]
        limit: usize,
        /// Only the row that decides over this address.
        #[arg(long)]
        address: Option<IpAddr>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Clustermesh {
    /// How well this node knows the other clusters; exit code 1 if one is not ready.
    Status {
        /// Wait until all are ready.
        #[arg(long)]
        wait: bool,
        /// How long to wait: `90s`, `1m`.
        #[arg(long, value_parser = duration, default_value = "1m")]
        wait_duration: Duration,
    },
    /// Make this cluster's CA and certificates, and install its clustermesh-apiserver.
    Enable(Box<clustermesh::Enable>),
    /// Let two clusters know each other.
    Connect(Box<clustermesh::Connect>),
    /// Let two clusters forget each other; this one alone if the other does not answer.
    Disconnect(Box<clustermesh::Disconnect>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Encrypt {
    /// Device, keys, guard, and what becomes of traffic with each other node.
    Status,
    /// Make a new key, without loss; this node's unless told otherwise.
    RotateKey {
        /// Another node of this cluster.
        #[arg(long, conflicts_with = "all")]
        node: Option<String>,
        /// All nodes of this cluster.
        #[arg(long)]
        all: bool,
    },
}

fn duration(text: &str) -> Result<Duration, String> {
    causeway_api::duration::parse(text).ok_or_else(|| format!("{text:?} is no duration; write one such as 90s or 1m"))
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bgp {
    /// Sessions of this node.
    Peers,
    /// Routes: `routes [available|advertised] [ipv4|ipv6]`.
    Routes(Routes),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Routes {
    /// `available`: what this node has to advertise (default); `advertised`: what each peer was sent; `ipv4`, `ipv6`:
    /// only this family.
    #[arg(value_enum, num_args = 0..=3)]
    words: Vec<Word>,
    /// A peer's name or address.
    #[arg(long)]
    pub(crate) peer: Option<String>,
}

/// Cilium's command takes the table, the family and `unicast` as words; any of them may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Word {
    Available,
    Advertised,
    Ipv4,
    Ipv6,
    Unicast,
}

impl Routes {
    pub(crate) fn table(&self) -> RouteTable {
        if self.words.contains(&Word::Advertised) { RouteTable::Advertised } else { RouteTable::Available }
    }

    pub(crate) fn family(&self) -> Option<Family> {
        match (self.words.contains(&Word::Ipv4), self.words.contains(&Word::Ipv6)) {
            (true, false) => Some(Family::Ipv4),
            (false, true) => Some(Family::Ipv6),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    fn routes(words: &[&str]) -> Routes {
        let args = Args::try_parse_from(["causeway", "bgp", "routes"].iter().chain(words)).unwrap();
        match args.command {
            Command::Bgp { command: Bgp::Routes(routes) } => routes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_of_bgp_routes() {
        for (words, table, family) in [
            (&[][..], RouteTable::Available, None),
            (&["ipv6"], RouteTable::Available, Some(Family::Ipv6)),
            (&["advertised"], RouteTable::Advertised, None),
            (&["advertised", "ipv4", "unicast"], RouteTable::Advertised, Some(Family::Ipv4)),
        ] {
            let r = routes(words);
            assert_eq!((r.table(), r.family()), (table, family), "{words:?}");
        }
        assert_eq!(routes(&["--peer", "tor1"]).peer.as_deref(), Some("tor1"));
    }

    #[test]
    fn encryption_has_both_names() {
        for name in ["encrypt", "encryption"] {
            let args = Args::try_parse_from(["causeway", name, "rotate-key", "--all"]).unwrap();
            assert!(matches!(args.command, Command::Encrypt { command: Encrypt::RotateKey { node: None, all: true } }));
        }
        assert!(Args::try_parse_from(["causeway", "encrypt", "rotate-key", "--all", "--node", "n2"]).is_err());
    }

    #[test]
    fn options_may_stand_after_the_command() {
        let args = Args::try_parse_from(["causeway", "bgp", "peers", "-o", "json", "--socket", "/x"]).unwrap();
        assert_eq!((args.output, args.socket), (Output::Json, PathBuf::from("/x")));
        assert!(Args::try_parse_from(["causeway", "bgp", "peers", "-o", "yaml"]).is_err());
        let words = ["causeway", "clustermesh", "status", "--wait", "--wait-duration", "90s", "-o", "cilium-json"];
        let args = Args::try_parse_from(words).unwrap();
        assert_eq!(args.output, Output::CiliumJson);
        let Command::Clustermesh { command: Clustermesh::Status { wait, wait_duration } } = args.command else {
            panic!("another command")
        };
        assert_eq!((wait, wait_duration), (true, Duration::from_secs(90)));
        assert!(Args::try_parse_from(["causeway", "clustermesh", "status", "--wait-duration", "soon"]).is_err());
    }
}
