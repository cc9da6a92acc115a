//! `causeway`: shows what a node's agent does. A thin client of the agent's admin socket; it decides nothing. Only
//! `clustermesh enable|connect|disconnect` talk to Kubernetes instead.
//!
//! Exit codes: 0 ok; 1 not healthy, or not found; 2 wrong usage; 3 the agent cannot be reached.

mod args;
mod clustermesh;
mod encrypt;
mod mesh;
mod show;
mod table;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use causeway_api::bgp::{RouteTable, RoutesParams};
use causeway_api::datapath::{FlowsParams, IpsParams};
use causeway_api::{self as api, Client, ClientError, ErrorBody, Method, NoParams, code};
use clap::Parser;
use serde::Serialize;

use crate::args::{Args, Bgp, Clustermesh, Command, Ip, List, Output, Routes};

/// Not healthy, or not found.
const NOT_OK: u8 = 1;
/// The agent understood the command line's wish as none.
const USAGE: u8 = 2;
/// No agent answers.
const UNREACHABLE: u8 = 3;

/// How long one answer may take. A status takes milliseconds.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How often a `status --wait` asks.
const POLL: Duration = Duration::from_millis(200);

/// How a command ends when it does not end well.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// What was printed says why.
    #[error("")]
    NotOk,
    #[error(transparent)]
    Agent(#[from] ClientError),
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
    #[error(transparent)]
    Mesh(#[from] clustermesh::Trouble),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let failure = match run(&args) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    match failure {
        Failure::NotOk => ExitCode::from(NOT_OK),
        // Whoever reads our output has seen enough: `causeway flows | head`.
        Failure::Print(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Failure::Mesh(trouble) => complain(&trouble.to_string(), NOT_OK),
        Failure::Print(error) => complain(&format!("cannot print: {error}"), NOT_OK),
        Failure::Agent(error) => {
            let exit = match &error {
                ClientError::Unreachable { .. } | ClientError::Broken { .. } => UNREACHABLE,
                ClientError::Refused(ErrorBody { code: code::BAD_REQUEST, .. }) => USAGE,
                ClientError::Refused(_) | ClientError::Answer { .. } => NOT_OK,
            };
            complain(&error.to_string(), exit)
        }
    }
}

fn complain(message: &str, exit: u8) -> ExitCode {
    eprintln!("causeway: {message}");
    ExitCode::from(exit)
}

fn run(args: &Args) -> Result<(), Failure> {
    let client = Client::new(&args.socket).with_timeout(TIMEOUT);
    let out = args.output;
    match &args.command {
        Command::Status { verbose, wait, wait_duration_s } => {
            let limit = wait.then(|| Duration::from_secs(*wait_duration_s));
            status(&client, out, *verbose, limit)
        }
        Command::Bgp { command: Bgp::Peers } => print(&client, api::BgpPeers, &NoParams {}, out, |r| show::peers(r)),
        Command::Bgp { command: Bgp::Routes(routes) } => {
            let params = routes_params(routes);
            let advertised = params.table == RouteTable::Advertised;
            print(&client, api::BgpRoutes, &params, out, |r| show::routes(r, advertised))
        }
        Command::Service { command: List::List } => {
            print(&client, api::ServiceList, &NoParams {}, out, |r| show::services(r))
        }
        Command::Endpoint { command: List::List } => {
            print(&client, api::EndpointList, &NoParams {}, out, |r| show::endpoints(r))
        }
        Command::Identity { command: List::List } => {
            print(&client, api::IdentityList, &NoParams {}, out, |r| show::identities(r))
        }
        Command::Ip { command: Ip::List { limit, address } } => {
            ips(&client, out, &IpsParams { limit: Some(*limit), address: *address })
        }
        Command::Node { command: List::List } => print(&client, api::NodeList, &NoParams {}, out, |r| show::nodes(r)),
        Command::Clustermesh { command: Clustermesh::Status { wait, wait_duration } } => {
            mesh::status(&client, out, wait.then_some(*wait_duration))
        }
        Command::Clustermesh { command: Clustermesh::Enable(flags) } => clustermesh::enable(flags, out),
        Command::Clustermesh { command: Clustermesh::Connect(flags) } => clustermesh::connect(flags, out),
        Command::Clustermesh { command: Clustermesh::Disconnect(flags) } => clustermesh::disconnect(flags, out),
        Command::Encrypt { command } => encrypt::run(client, out, command),
        Command::Drops { all } => {
            let all = *all || out.is_json();
            print(&client, api::Drops, &NoParams {}, out, move |r| show::counts(r, all))
        }
        Command::Flows { limit, address } => {
            let params = FlowsParams { limit: Some(*limit), address: *address };
            print(&client, api::Flows, &params, out, |r| show::flows(r))
        }
    }
}

fn routes_params(routes: &Routes) -> RoutesParams {
    RoutesParams { table: routes.table(), family: routes.family(), peer: routes.peer.clone() }
}

/// Asks, and prints the answer as JSON or as a table.
fn print<M: Method>(
    client: &Client,
    method: M,
    params: &M::Params,
    out: Output,
    table: impl FnOnce(&M::Reply) -> String,
) -> Result<(), Failure> {
    let reply = client.call(method, params)?;
    match out {
        Output::Json | Output::CiliumJson => print_json(&reply),
        Output::Table => Ok(io::stdout().write_all(table(&reply).as_bytes())?),
    }
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
    Ok(writeln!(io::stdout(), "{text}")?)
}

/// A note about what is left out goes to the standard error, so that JSON stays an array of rows.
fn ips(client: &Client, out: Output, params: &IpsParams) -> Result<(), Failure> {
    let reply = client.call(api::IpList, params)?;
    match out {
        Output::Json | Output::CiliumJson => print_json(&reply.rows)?,
        Output::Table => io::stdout().write_all(show::ips(&reply.rows).as_bytes())?,
    }
    if reply.left_out > 0 {
        eprintln!("causeway: {} more rows of other clusters; --limit shows more, --address one", reply.left_out);
    }
    Ok(())
}

fn status(client: &Client, out: Output, verbose: bool, wait: Option<Duration>) -> Result<(), Failure> {
    let status = match wait {
        None => client.call(api::Status, &NoParams {})?,
        Some(limit) => poll(limit, || client.call(api::Status, &NoParams {}), |status| status.healthy)?,
    };
    match out {
        Output::Json | Output::CiliumJson => print_json(&status)?,
        Output::Table => io::stdout().write_all(show::status(&status, verbose).as_bytes())?,
    }
    if status.healthy { Ok(()) } else { Err(Failure::NotOk) }
}

/// The first good answer, or the last one within the limit. An agent that is away may be on its way.
fn poll<T>(
    limit: Duration,
    ask: impl Fn() -> Result<T, ClientError>,
    is_good: impl Fn(&T) -> bool,
) -> Result<T, ClientError> {
    let end = Instant::now() + limit;
    loop {
        let answer = ask();
        if answer.as_ref().is_ok_and(&is_good) || Instant::now() >= end {
            return answer;
        }
        std::thread::sleep(POLL);
    }
}
