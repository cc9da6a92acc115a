//! Somebody on the way who sends every datagram twice and in another order.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::world::Ns;

/// Datagrams that are held back and sent in reverse.
const WINDOW: usize = 16;
const PORT: u16 = 40_000;

pub(crate) struct Relay {
    stop: Arc<AtomicBool>,
    repeated: Arc<AtomicU64>,
    shuffled: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// In the namespace of the other end, before its WireGuard port.
    pub(crate) fn start(theirs: &Ns) -> Self {
        let (front, back) = theirs
            .thread(|| (UdpSocket::bind(("192.0.2.2", PORT)).unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap()))
            .join()
            .unwrap();
        back.connect("127.0.0.1:51871").unwrap();
        for socket in [&front, &back] {
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        }
        let mut relay =
            Self { stop: Arc::default(), repeated: Arc::default(), shuffled: Arc::default(), threads: Vec::new() };
        let us: SocketAddr = "192.0.2.1:51871".parse().unwrap();
        let (to_back, to_front) = (back.try_clone().unwrap(), front.try_clone().unwrap());
        relay.carry(front, move |datagram| drop(to_back.send(datagram)));
        relay.carry(back, move |datagram| drop(to_front.send_to(datagram, us)));
        relay
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 2], PORT))
    }

    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.repeated.load(Ordering::Relaxed), self.shuffled.load(Ordering::Relaxed))
    }

    fn carry(&mut self, from: UdpSocket, send: impl Fn(&[u8]) + Send + 'static) {
        let (stop, repeated, shuffled) =
            (Arc::clone(&self.stop), Arc::clone(&self.repeated), Arc::clone(&self.shuffled));
        self.threads.push(std::thread::spawn(move || {
            let mut held: Vec<Vec<u8>> = Vec::new();
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                let got = from.recv(&mut buffer);
                match got {
                    // Handshakes go as they come.
                    Ok(length) if buffer[0] != 4 => send(&buffer[..length]),
                    Ok(length) => held.push(buffer[..length].to_vec()),
                    Err(_) => {}
                }
                if held.len() < WINDOW && got.is_ok() {
                    continue;
                }
                shuffled.fetch_add(held.len().saturating_sub(1) as u64, Ordering::Relaxed);
                for datagram in held.drain(..).rev() {
                    send(&datagram);
                    send(&datagram);
                    repeated.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
