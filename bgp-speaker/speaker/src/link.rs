//! The tasks of one connection: an attempt, then a reader and a writer. They know bytes and sockets, nothing of BGP.
//!
//! - `attempt`: one connect; aborted when the core closes the connection early.
//! - `read`: bytes to the owner. Its queue is bounded: when the owner is busy, TCP makes the peer wait.
//! - `write`: queued bytes to the socket. The core never queues more than its window, so the queue cannot fill.
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use causeway_bgp_core::{ConnId, ConnectRequest, Endpoints};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::socket;

/// Bytes of one read.
const READ_OCTETS: usize = 64 * 1024;
/// Sends in the writer's queue. The core keeps at most 64 route chunks unwritten; the rest is for keepalives to a peer
/// that does not read, which the send hold timer ends after eight minutes.
const WRITE_QUEUE: usize = 1024;
/// How long a closed connection may take to deliver its last NOTIFICATION.
const LINGER: Duration = Duration::from_secs(2);

/// What connections tell the owner.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    Connected { conn: ConnId, stream: TcpStream },
    ConnectFailed { conn: ConnId, error: String },
    Accepted { instance: String, stream: TcpStream },
    Received { conn: ConnId, bytes: Vec<u8> },
    Written { conn: ConnId, octets: usize },
    Closed { conn: ConnId, error: String },
}

/// The owner's end of a connection. Dropping it closes the connection once the queue is written.
#[derive(Debug)]
pub(crate) struct Link {
    queue: mpsc::Sender<Arc<Vec<u8>>>,
    /// Dropped together with the queue: the reader then only waits for the peer's FIN.
    _reading: oneshot::Sender<()>,
}

impl Link {
    /// Starts reader and writer.
    pub(crate) fn start(conn: ConnId, stream: TcpStream, events: &mpsc::Sender<LinkEvent>) -> Self {
        let (read_half, write_half) = stream.into_split();
        let (queue, queued) = mpsc::channel(WRITE_QUEUE);
        let (reading, closed) = oneshot::channel();
        tokio::spawn(read(conn, read_half, closed, events.clone()));
        tokio::spawn(write(conn, write_half, queued, events.clone()));
        Self { queue, _reading: reading }
    }

    /// False when the queue is full or the writer is gone: then the connection is of no more use.
    pub(crate) fn send(&self, bytes: Arc<Vec<u8>>) -> bool {
        self.queue.try_send(bytes).is_ok()
    }
}

/// Both ends of a stream.
pub(crate) fn endpoints(stream: &TcpStream) -> io::Result<Endpoints> {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Ok(Endpoints { local: plain(stream.local_addr()?), remote: plain(stream.peer_addr()?) })
}

/// Starts a connection attempt.
pub(crate) fn attempt(request: ConnectRequest, events: mpsc::Sender<LinkEvent>) -> AbortHandle {
    let task = tokio::spawn(async move {
        let conn = request.conn;
        let event = match connect(&request).await {
            Ok(stream) => LinkEvent::Connected { conn, stream },
            Err(error) => {
                LinkEvent::ConnectFailed { conn, error: format!("connecting to {}: {error}", request.remote) }
            }
        };
        // The owner is gone only when everything ends.
        let _ = events.send(event).await;
    });
    task.abort_handle()
}

async fn connect(request: &ConnectRequest) -> io::Result<TcpStream> {
    let (socket, remote) = socket::for_connect(request)?;
    TcpSocket::from_std_stream(socket.into()).connect(remote).await
}

async fn read(
    conn: ConnId,
    mut half: OwnedReadHalf,
    mut closed: oneshot::Receiver<()>,
    events: mpsc::Sender<LinkEvent>,
) {
    let mut buffer = vec![0; READ_OCTETS];
    let error = loop {
        let result = tokio::select! {
            result = half.read(&mut buffer) => result,
            _ = &mut closed => return drain(half, buffer).await,
        };
        let event = match result {
            Ok(0) => break "the peer closed the connection".to_owned(),
            Ok(length) => LinkEvent::Received { conn, bytes: buffer[..length].to_vec() },
            Err(error) => break format!("the connection broke: {error}"),
        };
        if events.send(event).await.is_err() {
            return;
        }
    };
    let _ = events.send(LinkEvent::Closed { conn, error }).await;
}

/// Reads on for a moment after we closed: unread bytes would make the kernel send RST, which can overtake our last
/// NOTIFICATION.
async fn drain(mut half: OwnedReadHalf, mut buffer: Vec<u8>) {
    let _ =
        tokio::time::timeout(LINGER, async { while half.read(&mut buffer).await.is_ok_and(|length| length > 0) {} })
            .await;
}

async fn write(
    conn: ConnId,
    mut half: OwnedWriteHalf,
    mut queued: mpsc::Receiver<Arc<Vec<u8>>>,
    events: mpsc::Sender<LinkEvent>,
) {
    while let Some(bytes) = queued.recv().await {
        // Once the owner has let go there is nobody to wait for a peer that does not read.
        let written = if queued.is_closed() {
            tokio::time::timeout(LINGER, half.write_all(&bytes))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        } else {
            tokio::select! {
                written = half.write_all(&bytes) => written,
                () = let_go(&queued) => return,
            }
        };
        match written {
            Ok(()) => {
                // Not awaited when nobody listens any more.
                let _ = events.send(LinkEvent::Written { conn, octets: bytes.len() }).await;
            }
            Err(error) => {
                let error = format!("the connection broke: {error}");
                let _ = events.send(LinkEvent::Closed { conn, error }).await;
                return;
            }
        }
    }
    let _ = half.shutdown().await;
}

/// Ends when a peer has not read for [`LINGER`] after the owner dropped its end.
async fn let_go(queued: &mpsc::Receiver<Arc<Vec<u8>>>) {
    while !queued.is_closed() {
        tokio::time::sleep(LINGER / 4).await;
    }
    tokio::time::sleep(LINGER).await;
}
