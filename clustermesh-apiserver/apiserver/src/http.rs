//! Serving over HTTP: probes, metrics, and what people ask. Each server is one future that ends with its caller.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Every address of both families.
pub(crate) fn everywhere(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

/// Serves until dropped. `flag` is the one that chooses the address.
pub(crate) async fn serve(address: SocketAddr, flag: &str, router: Router) -> anyhow::Result<()> {
    let listener = bind(address)
        .await
        .with_context(|| format!("listening on {address}; if another program has that port, choose one with {flag}"))?;
    axum::serve(listener, router).await.with_context(|| format!("serving on {address}"))
}

/// A host without IPv6 has no `[::]`, and means IPv4 by it.
async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        result => result,
    }
}

/// The answer of a readiness probe: what is missing, or nothing.
pub(crate) fn readiness(missing: &[String]) -> Response {
    if missing.is_empty() {
        return (StatusCode::OK, "ok\n").into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n").into_response()
}

/// The answer of `/metrics`.
pub(crate) fn metrics(body: String) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn told_to_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = name, "stopping; the keys stay until their lease ends");
    Ok(())
}
