//! Listeners and connections: one task per listener, one per connection; all end with the shutdown.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::http::{Server, router};
use crate::shutdown::Shutdown;
use crate::tls::identity;

/// A peer that does not finish its handshake within this time is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that does not answer a ping is dropped, and its watches with it.
const PING_EVERY: Duration = Duration::from_secs(30);
/// Go clients open one stream per watch on one connection.
const MAX_STREAMS: u32 = 1000;

pub(crate) fn spawn(listener: TcpListener, tls: ServerConfig, server: Server, shutdown: &Shutdown) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.stopped() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (acceptor, server, shutdown) = (acceptor.clone(), server.clone(), shutdown.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            result = connection(stream, acceptor, server) => {
                                if let Err(error) = result {
                                    tracing::debug!(%peer, %error, "connection ended");
                                }
                            }
                            () = shutdown.stopped() => {}
                        }
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: let some connections end first.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, server: Server) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let known = stream.get_ref().1.peer_certificates().and_then(|chain| identity(chain.first()?));
    let mut app = router(server);
    if let Some(known) = known {
        app = app.layer(axum::Extension(known));
    }
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .max_concurrent_streams(MAX_STREAMS);
    builder
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))
}
