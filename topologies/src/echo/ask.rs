//! One question to a server, over HTTP, TCP or UDP, on a connection that may be kept.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;

/// Whom to ask, as `http://HOST[:PORT][/PATH]`, `tcp://HOST:PORT` or `udp://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) scheme: Scheme,
    /// As written, for the Host header.
    host: String,
    /// With its port; a name is looked up anew for every connection.
    place: String,
    path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Tcp,
    Udp,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let scheme = match scheme {
            "http" => Scheme::Http,
            "tcp" => Scheme::Tcp,
            "udp" => Scheme::Udp,
            other => bail!("{text}: unknown scheme {other}; use http, tcp or udp"),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let has_port = host.rsplit_once(':').is_some_and(|(before, _)| !before.contains(':') || before.ends_with(']'));
        let bare_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
        let place = match (has_port, bare_v6, scheme) {
            (_, true, Scheme::Http) => format!("[{host}]:80"),
            (false, false, Scheme::Http) => format!("{host}:80"),
            (true, false, _) => host.to_owned(),
            _ => bail!("{text}: the port is missing; write {host}:PORT"),
        };
        let (name, port) = place.rsplit_once(':').unwrap_or((&place, ""));
        if name.is_empty() || port.parse::<u16>().is_err() {
            bail!("{text}: {place} is no host with a port");
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { scheme, host: host.to_owned(), place, path })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

impl Target {
    /// Its address now.
    fn address(&self) -> Result<SocketAddr> {
        let found = self.place.to_socket_addrs().with_context(|| format!("look up {}", self.host))?;
        found.into_iter().next().ok_or_else(|| anyhow!("{} has no address", self.host))
    }
}

/// What a server says. Fields that it leaves out are empty: any HTTP server may answer.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Answer {
    pub(crate) pod: String,
    pub(crate) node: String,
    pub(crate) cluster: String,
    pub(crate) client: String,
}

/// A connection to a target.
pub(crate) enum Connection {
    Stream { reader: BufReader<TcpStream>, writer: TcpStream },
    Datagram(UdpSocket),
}

impl Connection {
    pub(crate) fn open(target: &Target, limit: Duration) -> Result<Self> {
        let address = target.address()?;
        if target.scheme == Scheme::Udp {
            let any: SocketAddr = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
            let socket = UdpSocket::bind(any)?;
            socket.connect(address)?;
            socket.set_read_timeout(Some(limit))?;
            return Ok(Self::Datagram(socket));
        }
        let stream = TcpStream::connect_timeout(&address, limit).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(Self::Stream { writer: stream.try_clone()?, reader: BufReader::new(stream) })
    }

    /// Sends one request and reads its answer.
    pub(crate) fn ask(&mut self, target: &Target, keep: bool) -> Result<Answer> {
        match self {
            Self::Datagram(socket) => {
                socket.send(b"who\n").context("send")?;
                let mut buffer = [0; 2048];
                let length = socket.recv(&mut buffer).context("no answer")?;
                Ok(answer(&buffer[..length]))
            }
            Self::Stream { reader, writer } if target.scheme == Scheme::Tcp => {
                writer.write_all(b"who\n").context("send")?;
                let mut line = String::new();
                if reader.read_line(&mut line).context("no answer")? == 0 {
                    bail!("the connection was closed");
                }
                Ok(answer(line.as_bytes()))
            }
            Self::Stream { reader, writer } => {
                let end = if keep { "" } else { "Connection: close\r\n" };
                let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n{end}\r\n", target.path, target.host);
                writer.write_all(request.as_bytes()).context("send")?;
                read_http(reader)
            }
        }
    }
}

fn read_http(reader: &mut BufReader<TcpStream>) -> Result<Answer> {
    let mut line = String::new();
    if reader.read_line(&mut line).context("no answer")? == 0 {
        bail!("the connection was closed");
    }
    let status: u16 = line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let mut length = None;
    loop {
        line.clear();
        if reader.read_line(&mut line).context("answer cut off")? == 0 {
            bail!("answer cut off in its head");
        }
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = Some(value.trim().parse::<usize>().context("Content-Length")?);
        }
    }
    let mut body = Vec::new();
    match length {
        Some(length) => {
            body.resize(length, 0);
            reader.read_exact(&mut body).context("answer cut off")?;
        }
        None => {
            reader.read_to_end(&mut body).context("answer cut off")?;
        }
    }
    if !(200..300).contains(&status) {
        bail!("HTTP status {status}");
    }
    Ok(answer(&body))
}

fn answer(body: &[u8]) -> Answer {
    serde_json::from_slice(body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> String {
        text.parse::<Target>().map_or_else(|error| error.to_string(), |target| target.to_string())
    }

    #[test]
    fn targets() {
        assert_eq!(address("http://192.0.2.1/"), "192.0.2.1:80");
        assert_eq!(address("192.0.2.1:8080"), "192.0.2.1:8080");
        assert_eq!(address("http://[2001:db8::1]/?bytes=3"), "[2001:db8::1]:80");
        assert_eq!(address("http://[2001:db8::1]:8080/x"), "[2001:db8::1]:8080");
        assert_eq!(address("2001:db8::1"), "[2001:db8::1]:80");
        assert_eq!(address("http://web/"), "web:80");
        assert_eq!(address("http://web.shop:8080"), "web.shop:8080");
        assert_eq!(address("http://:80"), "http://:80: :80 is no host with a port");
        assert_eq!(address("http://web:x"), "http://web:x: web:x is no host with a port");
        assert_eq!(address("udp://[2001:db8::1]:82"), "[2001:db8::1]:82");
        assert_eq!(address("udp://192.0.2.1"), "udp://192.0.2.1: the port is missing; write 192.0.2.1:PORT");
        assert_eq!(address("gopher://x"), "gopher://x: unknown scheme gopher; use http, tcp or udp");
        assert_eq!("http://192.0.2.1?bytes=3".parse::<Target>().unwrap().path, "/?bytes=3");
    }
}
