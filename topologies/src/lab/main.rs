//! `causeway-lab`: realises a topology on one Linux machine, in network namespaces, with the real programs.
//!
//! Each subcommand is one module; this file only parses the command line. Everything that the lab makes is written
//! down under `/run/causeway-lab/<name>`, so that `down` can remove it, also after a crash.

mod cluster;
mod dns;
mod down;
mod encryption;
mod enter;
mod fabric;
mod fault;
mod kubelet;
mod kubernetes;
mod mesh;
mod mounts;
mod netns;
mod node;
mod pki;
mod process;
mod progress;
mod projector;
mod relay;
mod show;
mod state;
mod up;
mod wiring;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "causeway-lab", version, about = "A whole mesh on one Linux machine, in network namespaces")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Brings up the topology in DIR
    Up(up::Options),
    /// Takes a lab down and removes everything it made
    Down {
        /// The lab's name; may be left out when there is only one
        name: Option<String>,
        /// Every lab on this machine
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
    /// Runs a command in a host's or pod's network namespace
    Exec {
        name: String,
        /// A host, a ToR, or a pod as NAME or NAMESPACE/NAME
        host: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Opens FRR's shell of a ToR, or runs a command in it: vtysh NAME TOR -- -c 'show bgp summary'
    Vtysh {
        name: String,
        tor: String,
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Shows hosts, processes and BGP sessions of a lab
    Status {
        name: Option<String>,
        #[arg(short, long, value_enum, default_value_t)]
        output: show::Output,
    },
    /// Lists the labs on this machine
    List {
        #[arg(short, long, value_enum, default_value_t)]
        output: show::Output,
    },
    /// Sends a signal to one of the lab's processes, as `status` names them
    Kill {
        name: String,
        process: String,
        /// KILL, TERM, INT, HUP, STOP or CONT
        #[arg(short, long, default_value = "TERM")]
        signal: String,
    },
    /// Starts a process of the lab again that has ended
    Start {
        name: String,
        process: String,
        /// Of a mesh's etcd: with nothing of what it held, as another etcd cluster
        #[arg(long)]
        fresh: bool,
        /// With another value of one of its options from now on, as encryption-clusters=west=off; may be given again
        #[arg(long, value_name = "OPTION=VALUE", conflicts_with = "fresh")]
        set: Vec<String>,
    },
    /// Makes a process stand still (SIGSTOP)
    Pause { name: String, process: String },
    /// Lets a paused process go on (SIGCONT)
    Resume { name: String, process: String },
    /// Cuts or mends the link between two ToRs, or the cable between a host and a ToR
    Link { name: String, state: fault::LinkState, a: String, b: String },
    /// Lays a cable between a host that runs and one more ToR
    Cable { name: String, host: String, tor: String },
    /// Loses all traffic between two hosts or clusters
    Partition {
        name: String,
        #[command(flatten)]
        between: fault::Between,
    },
    /// Ends a partition; without --from and --to, all of them
    Heal {
        name: String,
        #[arg(long, requires = "to")]
        from: Option<String>,
        #[arg(long, requires = "from")]
        to: Option<String>,
    },
    /// Prints the log of one of the lab's processes
    Log { name: String, process: String },
    /// Adds a node to a running lab, or takes one away
    Node {
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Prints the drawing of the topology in DIR
    Drawing { dir: PathBuf },
    /// The kubelet role of one node (the lab starts it)
    #[command(hide = true)]
    Kubelet(kubelet::Options),
    /// Carries the cluster's API to 127.0.0.1 (the lab starts it)
    #[command(hide = true)]
    Relay(relay::Options),
    /// A cluster's DNS server (the lab starts it)
    #[command(hide = true)]
    Dns(dns::Options),
    /// Keeps files equal to Secrets (the lab starts it)
    #[command(hide = true)]
    Projector(projector::Options),
}

#[derive(Subcommand)]
enum NodeCommand {
    /// Cables a new node as the last one is, and starts its processes
    Add {
        name: String,
        node: String,
        /// The cluster it joins [default: the first]
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Ends a node's processes, removes its namespaces and its Node object
    Remove { name: String, node: String },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("causeway-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(options) => up::run(&options)?,
        Command::Down { name, all } => down::run(name.as_deref(), all)?,
        Command::Exec { name, host, command } => return Err(enter::exec(&name, &host, &command)),
        Command::Vtysh { name, tor, arguments } => return Err(enter::vtysh(&name, &tor, &arguments)),
        Command::Status { name, output } => return show::status(name.as_deref(), output),
        Command::List { output } => show::list(output)?,
        Command::Kill { name, process, signal } => process::kill_named(&state::Lab::open(&name)?, &process, &signal)?,
        Command::Start { name, process, fresh: true, .. } => mesh::start_fresh(&state::Lab::open(&name)?, &process)?,
        Command::Start { name, process, fresh: false, set } => {
            process::start_again(&state::Lab::open(&name)?, &process, &set)?;
        }
        Command::Pause { name, process } => process::kill_named(&state::Lab::open(&name)?, &process, "STOP")?,
        Command::Resume { name, process } => process::kill_named(&state::Lab::open(&name)?, &process, "CONT")?,
        Command::Link { name, state, a, b } => fault::link(&name, state, &a, &b)?,
        Command::Cable { name, host, tor } => node::cable(&name, &host, &tor)?,
        Command::Partition { name, between } => fault::partition(&name, &between)?,
        Command::Heal { name, from, to } => fault::heal(&name, from.as_deref().zip(to.as_deref()))?,
        Command::Log { name, process } => show::log(&name, &process)?,
        Command::Node { command: NodeCommand::Add { name, node, cluster } } => {
            node::add(&name, &node, cluster.as_deref())?;
        }
        Command::Node { command: NodeCommand::Remove { name, node } } => node::remove(&name, &node)?,
        Command::Drawing { dir } => {
            show::print(&topology::drawing::draw(&topology::Plan::new(&up::read_topology(&dir)?)?));
        }
        Command::Kubelet(options) => kubelet::run(options)?,
        Command::Relay(options) => relay::run(&options)?,
        Command::Dns(options) => dns::run(&options)?,
        Command::Projector(options) => projector::run(options)?,
    }
    Ok(ExitCode::SUCCESS)
}
