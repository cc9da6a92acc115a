//! Our device against Debian's wireguard-go, each in a network namespace of its own:
//! `cargo test -p causeway-wireguard --test interop -- --ignored` (root).
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]
#![allow(clippy::cast_possible_truncation, reason = "numbers below 251")]

#[path = "interop/relay.rs"]
mod relay;
#[path = "interop/world.rs"]
mod world;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use relay::Relay;
use world::{Family, World};

/// Bytes that a TCP stream carries; long enough for super-packets of full size.
const STREAM: usize = 64 << 20;

/// A stream of numbered bytes from one end to the other, compared on arrival.
fn stream(world: &World, from_us: bool) -> Duration {
    let (client, server) = if from_us { (&world.ours, &world.theirs) } else { (&world.theirs, &world.ours) };
    let address = if from_us { world.inner_theirs() } else { world.inner_ours() };
    let (ready, is_ready) = std::sync::mpsc::channel();
    let receiving = server.thread(move || {
        let listener = TcpListener::bind((address, 9000)).unwrap();
        ready.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let (mut buffer, mut at) = (vec![0; 1 << 16], 0usize);
        loop {
            let length = stream.read(&mut buffer).unwrap();
            if length == 0 {
                return at;
            }
            for byte in &buffer[..length] {
                assert_eq!(*byte, (at % 251) as u8, "at {at}");
                at += 1;
            }
        }
    });
    is_ready.recv_timeout(Duration::from_secs(5)).unwrap();
    let sending = client.thread(move || {
        let started = Instant::now();
        let mut stream = TcpStream::connect((address, 9000)).unwrap();
        let bytes: Vec<u8> = (0..STREAM).map(|n| (n % 251) as u8).collect();
        stream.write_all(&bytes).unwrap();
        started.elapsed()
    });
    let took = sending.join().unwrap();
    assert_eq!(receiving.join().unwrap(), STREAM);
    took
}

#[test]
#[ignore = "needs root and wireguard-go"]
fn streams_and_full_packets_over_both_families() {
    for family in [Family::V4, Family::V6] {
        let world = World::up("stream", family);
        let sent = stream(&world, true);
        let received = stream(&world, false);
        // A packet as big as the interface takes, not to be fragmented.
        world.ping(&["-c", "3", "-M", "do", "-s", "1380"]);
        let link = world.link();
        assert!(link.confirmed && link.failures == 0 && link.handshakes >= 1, "{link:?}");
        println!("shown: 64 MiB each way over {family:?}, {sent:.1?} and {received:.1?}; {link:?}");
    }
}

#[test]
#[ignore = "needs root and wireguard-go"]
fn the_other_end_moves() {
    let world = World::up("moves", Family::V4);
    world.ping(&["-c", "2"]);
    world.theirs.ip(&["addr", "del", "192.0.2.2/24", "dev", "under"]);
    world.theirs.ip(&["addr", "add", "192.0.2.77/24", "dev", "under"]);
    // It keeps to the address that it has spoken from until it binds anew.
    world.rebind_theirs(52_000);
    // It speaks first from its new place, then we do.
    world.ping_from_theirs(&["-c", "3", "-i", "0.2"]);
    world.ping(&["-c", "3", "-i", "0.2"]);
    let endpoint = world.snapshot().stats.values().next().unwrap().endpoint;
    assert_eq!(endpoint.to_string(), "192.0.2.77:52000");
    println!("shown: the peer is followed to {endpoint}");
}

#[test]
#[ignore = "needs root and wireguard-go"]
fn repeated_and_shuffled_datagrams() {
    const COUNT: u32 = 4000;
    let world = World::up("shuffle", Family::V4);
    let relay = Relay::start(&world.theirs);
    world.use_endpoint(relay.address());
    world.ping(&["-c", "2"]);
    for from_us in [true, false] {
        let (client, server) = if from_us { (&world.ours, &world.theirs) } else { (&world.theirs, &world.ours) };
        let (to, from) = if from_us {
            (world.inner_theirs(), world.inner_ours())
        } else {
            (world.inner_ours(), world.inner_theirs())
        };
        let (ready, is_ready) = std::sync::mpsc::channel();
        let arrived = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&arrived);
        let receiving = server.thread(move || {
            let socket = UdpSocket::bind((to, 9001)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            ready.send(()).unwrap();
            let mut seen = vec![0u32; COUNT as usize];
            let mut buffer = [0; 16];
            while socket.recv(&mut buffer).is_ok() {
                seen[u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as usize] += 1;
                counted.fetch_add(1, Ordering::Relaxed);
            }
            seen
        });
        is_ready.recv_timeout(Duration::from_secs(5)).unwrap();
        client
            .thread(move || {
                let socket = UdpSocket::bind((from, 0)).unwrap();
                for n in 0..COUNT {
                    socket.send_to(&n.to_be_bytes(), (to, 9001)).unwrap();
                    // No queue on the way overflows: what was sent arrives before more is.
                    let deadline = Instant::now() + Duration::from_secs(1);
                    while n % 64 == 63 && arrived.load(Ordering::Relaxed) <= n && Instant::now() < deadline {
                        std::thread::yield_now();
                    }
                }
            })
            .join()
            .unwrap();
        let seen = receiving.join().unwrap();
        let twice = seen.iter().filter(|n| **n > 1).count();
        let lost = seen.iter().filter(|n| **n == 0).count();
        assert_eq!((lost, twice), (0, 0), "from us: {from_us}");
    }
    let link = world.link();
    let (repeated, shuffled) = relay.counts();
    assert!(link.replays >= u64::from(COUNT), "{link:?}");
    println!(
        "shown: {repeated} datagrams repeated and {shuffled} out of order on the way, each of 2 x {COUNT} arrived once; \
         {} replays refused here",
        link.replays
    );
}

/// 130 s in real time: the session is renewed after 120 s (white paper section 6.1, Rekey-After-Time).
#[test]
#[ignore = "needs root and wireguard-go, and two minutes"]
fn a_session_is_renewed_under_traffic() {
    let world = World::up("renew", Family::V4);
    let lost = world.ping_count(650, "0.2");
    let link = world.link();
    assert_eq!(lost, 0);
    assert!(link.handshakes >= 2, "{link:?}");
    println!("shown: {} handshakes in 130 s, 0 of 650 pings lost", link.handshakes);
}
