//! An engine between threads, as the device's: nobody waits for another for ever, and nothing breaks.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod net;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use causeway_encryption_plan::{Change, PeerName};
use causeway_wireguard::VnetHeader;
use causeway_wireguard::engine::Engine;
use ipnet::IpNet;
use net::{Node, at, key, link, name, packet, send, v4};

const WHILE: Duration = Duration::from_millis(700);

/// One end: what is sealed and answered goes to `wire`.
struct End<'e> {
    engine: &'e Engine,
    at: SocketAddr,
    packet: Vec<u8>,
    wire: Sender<BytesMut>,
    stop: &'e AtomicBool,
}

impl End<'_> {
    fn say(&self, out: Vec<(SocketAddr, BytesMut)>) {
        for (_, datagram) in out {
            let _ = self.wire.send(datagram);
        }
    }

    fn seals(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let mut out = Vec::new();
            for _ in 0..32 {
                self.engine.seal(VnetHeader::default(), &self.packet, &mut out);
            }
            self.say(out);
            // The other end shall keep up.
            thread::sleep(Duration::from_micros(500));
        }
    }

    fn opens(&self, wire: &Receiver<BytesMut>, came: &AtomicU64) {
        while !self.stop.load(Ordering::Relaxed) {
            let Ok(datagram) = wire.recv_timeout(Duration::from_millis(5)) else { continue };
            let mut out = Vec::new();
            self.engine.open(self.at, &datagram, &mut out, |_| {
                came.fetch_add(1, Ordering::Relaxed);
            });
            self.say(out);
        }
    }

    fn ticks_and_looks(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let mut out = Vec::new();
            self.engine.tick(&mut out);
            self.engine.look();
            self.say(out);
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// A second link comes, is used, and goes, and so do a peer and a prefix.
    fn changes(&self) {
        let peer = PeerName::new("c", "passing");
        let prefix: IpNet = "10.0.2.128/25".parse().unwrap();
        while !self.stop.load(Ordering::Relaxed) {
            for change in [
                Change::AddLink { peer: name(2), link: link(11, 2) },
                Change::AddPeer { peer: peer.clone(), endpoint: at(3), keepalive_s: Some(1), link: link(1, 3) },
                Change::AddPrefix { peer: peer.clone(), prefix },
                Change::Activate { peer: name(2), link: link(11, 2) },
                Change::SetKeepalive { peer: name(2), keepalive_s: Some(1) },
                Change::AddPrefix { peer: name(2), prefix },
                Change::RemovePeer { peer: peer.clone() },
                Change::Activate { peer: name(2), link: link(1, 2) },
                Change::RemoveLink { peer: name(2), link: link(11, 2) },
            ] {
                let mut out = Vec::new();
                self.engine.apply(change, &mut out).unwrap();
                self.say(out);
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

#[test]
fn packets_changes_and_timers_go_on_side_by_side() {
    let (mut a, mut b) = (Node::knowing(1, &[2]), Node::knowing(2, &[1]));
    a.apply(Change::AddIdentity { private: key(11) });
    b.apply(Change::AddLink { peer: name(1), link: link(2, 11) });
    let (stop, came_a, came_b) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let ((to_a, for_a), (to_b, for_b)) = (channel(), channel());
    {
        let (there, back) = (packet(v4(1, 1), v4(2, 1), b"there"), packet(v4(2, 1), v4(1, 1), b"back"));
        // Each end hears the other from where it is.
        let left = || End { engine: &a.engine, at: at(2), packet: there.clone(), wire: to_b.clone(), stop: &stop };
        let right = || End { engine: &b.engine, at: at(1), packet: back.clone(), wire: to_a.clone(), stop: &stop };
        thread::scope(|scope| {
            for end in [left(), right()] {
                scope.spawn(move || end.seals());
            }
            for end in [left(), right()] {
                scope.spawn(move || end.ticks_and_looks());
            }
            let (end, came) = (left(), &came_a);
            scope.spawn(move || end.opens(&for_a, came));
            let (end, came) = (right(), &came_b);
            scope.spawn(move || end.opens(&for_b, came));
            let end = left();
            scope.spawn(move || end.changes());
            thread::sleep(WHILE);
            stop.store(true, Ordering::Relaxed);
        });
    }
    let (came_a, came_b) = (came_a.into_inner(), came_b.into_inner());
    println!("{came_a} and {came_b} packets");
    assert!(came_a > 100 && came_b > 100);
    for node in [&mut a, &mut b] {
        node.inner.clear();
    }
    send(1, 2, &mut a, &mut b);
    send(2, 1, &mut b, &mut a);
    assert_eq!((a.inner.len(), b.inner.len()), (1, 1));
    assert_eq!(a.engine.look().0.peers.len(), 1);
}
