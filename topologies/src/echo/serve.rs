//! The server. Every answer is one JSON object: pod, namespace, node and cluster (from the environment: `POD_NAME`,
//! `POD_NAMESPACE`, `NODE_NAME`, `CLUSTER`), the client's address and the address that it reached.
//!
//! HTTP understands `?bytes=N` (the body is padded to about N bytes) and `?delay=MS`. Over TCP each line gets an answer
//! line; over UDP each datagram gets one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use serde_json::{Value, json};

/// Largest body that `?bytes=` gives.
const MAX_BYTES: usize = 64 << 20;
/// Longest request line or header line.
const MAX_LINE: u64 = 8 << 10;

#[derive(Args)]
pub(crate) struct Options {
    /// HTTP port; may be given again
    #[arg(long, value_name = "PORT")]
    http: Vec<u16>,
    /// TCP port; may be given again
    #[arg(long, value_name = "PORT")]
    tcp: Vec<u16>,
    /// UDP port; may be given again
    #[arg(long, value_name = "PORT")]
    udp: Vec<u16>,
    /// Milliseconds before each answer
    #[arg(long, default_value_t = 0, value_name = "MS")]
    delay: u64,
    /// Seconds that it still serves after SIGTERM, as a server must whose clients hear of its end a moment later
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    drain: f64,
    /// File that is written once all ports listen
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// Who this server is.
struct Identity {
    pod: String,
    namespace: String,
    node: String,
    cluster: String,
    delay: Duration,
}

impl Identity {
    fn answer(&self, client: SocketAddr, local: Option<SocketAddr>) -> Value {
        json!({
            "pod": self.pod, "namespace": self.namespace, "node": self.node,
            "cluster": self.cluster, "client": canonical(client).to_string(), "local": local.map(|local| canonical(local).to_string()),
        })
    }
}

/// Ends the process some time after SIGTERM. To be called before other threads are started: they inherit the mask.
fn drain_at_sigterm(drain: Duration) -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGTERM]);
    signals.thread_block().context("cannot block SIGTERM")?;
    std::thread::spawn(move || {
        let _ = signals.wait();
        std::thread::sleep(drain);
        std::process::exit(0);
    });
    Ok(())
}

/// Serves until it is ended.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let pod = [variable("POD_NAME"), variable("HOSTNAME")].into_iter().find(|name| !name.is_empty());
    let identity = Arc::new(Identity {
        pod: pod.unwrap_or_else(|| "(no pod)".into()),
        namespace: variable("POD_NAMESPACE"),
        node: variable("NODE_NAME"),
        cluster: variable("CLUSTER"),
        delay: Duration::from_millis(options.delay),
    });
    if options.http.is_empty() && options.tcp.is_empty() && options.udp.is_empty() {
        bail!("no port; give at least one of --http, --tcp and --udp");
    }
    if options.drain > 0.0 {
        drain_at_sigterm(Duration::try_from_secs_f64(options.drain).context("--drain is no number of seconds")?)?;
    }
    let mut threads = Vec::new();
    for (ports, serve) in [(&options.http, http as fn(_, _, &Identity) -> _), (&options.tcp, lines)] {
        for port in ports {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port))
                .with_context(|| format!("cannot listen on TCP port {port}"))?;
            let identity = identity.clone();
            threads.push(std::thread::spawn(move || accept(&listener, &identity, serve)));
        }
    }
    for port in &options.udp {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, *port))
            .with_context(|| format!("cannot listen on UDP port {port}"))?;
        let identity = identity.clone();
        threads.push(std::thread::spawn(move || datagrams(&socket, &identity)));
    }
    if let Some(file) = &options.ready_file {
        std::fs::write(file, b"ready\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    for thread in threads {
        let _ = thread.join();
    }
    Ok(ExitCode::SUCCESS)
}

type Serve = fn(TcpStream, SocketAddr, &Identity) -> std::io::Result<()>;

fn accept(listener: &TcpListener, identity: &Arc<Identity>, serve: Serve) {
    loop {
        match listener.accept() {
            Ok((stream, client)) => {
                let identity = identity.clone();
                std::thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    // A client that goes away ends its own thread only.
                    let _ = serve(stream, client, &identity);
                });
            }
            // Out of descriptors: let some connections end.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// HTTP/1.1 with keep-alive; enough for clients and probes, no bodies of requests.
fn http(stream: TcpStream, client: SocketAddr, identity: &Identity) -> std::io::Result<()> {
    let local = stream.local_addr().ok();
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let Some(request) = line(&mut reader)? else { return Ok(()) };
        let mut close = request.ends_with("HTTP/1.0");
        while let Some(header) = line(&mut reader)?.filter(|header| !header.is_empty()) {
            close |= header.to_ascii_lowercase().replace(' ', "") == "connection:close";
        }
        let path = request.split(' ').nth(1).unwrap_or("/");
        std::thread::sleep(identity.delay + Duration::from_millis(query(path, "delay").unwrap_or(0)));
        let mut answer = identity.answer(client, local);
        if let Some(bytes) = query(path, "bytes") {
            let bytes = usize::try_from(bytes).unwrap_or(MAX_BYTES).min(MAX_BYTES);
            answer["padding"] = "x".repeat(bytes).into();
        }
        let body = format!("{answer}\n");
        let end = if close { "Connection: close\r\n" } else { "" };
        let length = body.len();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{end}\r\n");
        writer.write_all((head + &body).as_bytes())?;
        if close {
            return Ok(());
        }
    }
}

fn lines(stream: TcpStream, client: SocketAddr, identity: &Identity) -> std::io::Result<()> {
    let local = stream.local_addr().ok();
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while line(&mut reader)?.is_some() {
        std::thread::sleep(identity.delay);
        writer.write_all(format!("{}\n", identity.answer(client, local)).as_bytes())?;
    }
    Ok(())
}

fn datagrams(socket: &UdpSocket, identity: &Identity) {
    let local = socket.local_addr().ok();
    let mut buffer = [0; 2048];
    loop {
        if let Ok((_, client)) = socket.recv_from(&mut buffer) {
            std::thread::sleep(identity.delay);
            let answer = format!("{}\n", identity.answer(client, local));
            // Lost like any datagram.
            let _ = socket.send_to(answer.as_bytes(), client);
        }
    }
}

/// One line without its end; `None` at the end of the stream.
fn line(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<String>> {
    let mut text = Vec::new();
    let read = std::io::Read::take(&mut *reader, MAX_LINE).read_until(b'\n', &mut text)?;
    Ok((read > 0).then(|| String::from_utf8_lossy(&text).trim_end().to_owned()))
}

fn query(path: &str, name: &str) -> Option<u64> {
    let pairs = path.split_once('?')?.1.split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1.parse().ok()
}

/// IPv4 as IPv4, though the socket is one for both families.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        assert_eq!(query("/?bytes=17&delay=3", "delay"), Some(3));
        assert_eq!(query("/?bytes=17", "delay"), None);
        assert_eq!(query("/", "bytes"), None);
    }
}
