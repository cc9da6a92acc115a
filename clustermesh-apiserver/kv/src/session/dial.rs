//! From an endpoint's URL to a connection that etcd requests can be sent on.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tonic::transport::Endpoint;

use super::{Connect, tls};

/// Windows of HTTP/2 flow control in bytes: a page of 4000 entries in few round trips.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// What a connection is made of.
pub(super) struct Dialed {
    pub(super) client: Client,
    pub(super) endpoint: String,
    /// Resolves when the connection is gone: ended by the server or broken (with the reason), or given up because it
    /// was silent (an error).
    pub(super) gone: oneshot::Receiver<String>,
}

/// The first endpoint that answers, in their order. `Err`: what was wrong with each.
pub(super) async fn dial(connect: &Connect) -> Result<Dialed, String> {
    let mut errors = Vec::new();
    for endpoint in &connect.endpoints {
        match dial_one(connect, endpoint).await {
            Ok(dialed) => return Ok(dialed),
            Err(error) => errors.push(format!("{endpoint}: {error}")),
        }
    }
    if errors.is_empty() {
        errors.push("no endpoint is configured".to_owned());
    }
    Err(errors.join("; "))
}

async fn dial_one(connect: &Connect, endpoint: &str) -> Result<Dialed, String> {
    let uri: Uri = endpoint.parse().map_err(|error| format!("no URL: {error}"))?;
    let host = uri.host().ok_or("a URL without a host")?.trim_matches(['[', ']']).to_owned();
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("only https:// and http:// are known".to_owned()),
    };
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let tcp = connect_tcp(connect, &host, port).await?;
    let io: Box<dyn Stream> = if secure {
        let files = connect.tls.as_ref().ok_or("https needs a CA, a certificate and a key")?;
        let handshake = tls::handshake(tcp, &host, files);
        Box::new(in_time(connect.request_timeout, handshake).await.map_err(|error| format!("TLS: {error}"))?)
    } else {
        Box::new(tcp)
    };
    let (present, gone) = oneshot::channel();
    let client = client(connect, &uri, Wire { io, gone: Some(present) }).await?;
    Ok(Dialed { client, endpoint: endpoint.to_owned(), gone })
}

async fn connect_tcp(connect: &Connect, host: &str, port: u16) -> Result<TcpStream, String> {
    let mut last = format!("{host} has no address");
    for address in resolve(connect, host, port).await? {
        match in_time(connect.request_timeout, TcpStream::connect(address)).await {
            Ok(tcp) => {
                tcp.set_nodelay(true).map_err(|error| format!("{address}: {error}"))?;
                return Ok(tcp);
            }
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    Err(last)
}

/// Aliases first, then what the system's resolver says.
async fn resolve(connect: &Connect, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let aliases = connect.aliases.iter().filter(|alias| alias.hostname == host);
    let aliased: Vec<_> = aliases.flat_map(|alias| &alias.ips).map(|ip| SocketAddr::new(*ip, port)).collect();
    if !aliased.is_empty() {
        return Ok(aliased);
    }
    let found = in_time(connect.request_timeout, tokio::net::lookup_host((host, port))).await;
    Ok(found.map_err(|error| format!("{host} cannot be resolved: {error}"))?.collect())
}

async fn client(connect: &Connect, uri: &Uri, wire: Wire) -> Result<Client, String> {
    // The channel is given the connection that stands, once: when that ends, so does the channel. Its own address is
    // never dialled, and says http because the channel knows nothing of our TLS.
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|error| error.to_string())?
        .origin(uri.clone())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(connect.keepalive)
        .keep_alive_timeout(connect.keepalive_timeout)
        // etcd counts pings on a connection without streams as abuse, and ends it.
        .keep_alive_while_idle(false);
    let mut wire = Some(TokioIo::new(wire));
    let connector = tower::service_fn(move |_: Uri| {
        std::future::ready(wire.take().ok_or_else(|| io::Error::other("the connection ended")))
    });
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| super::failure::chain(&error))?;
    let options = ConnectOptions::new().with_require_leader(true);
    Client::from_channel(Channel::Tonic(channel), Some(options)).await.map_err(|error| error.to_string())
}

async fn in_time<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {limit:?}"))),
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that says when it is over: at its first error or its end, and when it is dropped. Its HTTP/2 driver drops
/// it when it has ended for whatever reason.
struct Wire {
    io: Box<dyn Stream>,
    gone: Option<oneshot::Sender<String>>,
}

impl Wire {
    fn over(&mut self, why: impl FnOnce() -> String) {
        if let Some(gone) = self.gone.take() {
            // Nobody listens any more: the session has been dropped.
            let _ = gone.send(why());
        }
    }

    fn note<T>(&mut self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &result {
            self.over(|| error.to_string());
        }
        result
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if matches!(result, Poll::Ready(Ok(()))) && buf.remaining() > 0 && buf.filled().len() == before {
            self.over(|| "the server ended the connection".to_owned());
        }
        self.note(result)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.note(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
