//! The shell against real sockets of the loopback.

use super::*;
use causeway_datapath_loader::Proto;
use std::net::Ipv4Addr;
use tokio::net::TcpListener;

fn settings() -> Settings {
    let ms = Duration::from_millis;
    Settings { interval: ms(20), timeout: ms(500), budget: 500 }
}

async fn wait_for(health: &Shared<Target, Health>, target: Target, want: Option<bool>) -> Option<String> {
    let mut reader = health.reader();
    loop {
        let row = health.get(&target);
        if row.as_ref().map(|h| h.alive) == want {
            return row.map(|h| h.reason.to_string());
        }
        reader.changed().await;
        reader.changes();
    }
}

#[tokio::test]
async fn a_listener_lives_dies_and_comes_back() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let [tcp, udp] = [Proto::Tcp, Proto::Udp].map(|proto| Target { addr, proto });
    let (targets, health) = (Shared::default(), Shared::default());
    targets.set(tcp, Watched { proof: true });
    targets.set(udp, Watched { proof: true });
    let prober = Prober::new(&targets, &health, settings());
    let counts = prober.counts();
    let task = tokio::spawn(prober.run());
    wait_for(&health, tcp, Some(true)).await;
    wait_for(&health, udp, Some(true)).await;

    drop(listener);
    assert_eq!(wait_for(&health, tcp, Some(false)).await.as_deref(), Some("connection refused"));
    assert!(health.get(&udp).unwrap().alive, "the host of a UDP backend that refuses TCP lives");

    let _listener = TcpListener::bind(addr).await.unwrap();
    wait_for(&health, tcp, Some(true)).await;
    targets.set(tcp, Watched { proof: false });
    wait_for(&health, tcp, None).await;
    targets.delete(&udp);
    wait_for(&health, udp, None).await;
    let counts = *counts.borrow();
    assert_eq!((counts.targets, counts.died, counts.recovered), (1, 1, 1));
    task.abort();
}

#[tokio::test]
async fn what_this_host_cannot_do_says_nothing_of_the_target() {
    // A socket may not connect to a broadcast address unless it says so: EACCES.
    let error = connect("255.255.255.255:80".parse().unwrap()).await.unwrap_err();
    assert!(matches!(meaning(&error), Answer::Unsent | Answer::Unreachable), "{error}");
    for (kind, want) in [
        (io::ErrorKind::ConnectionRefused, Answer::Refused),
        (io::ErrorKind::HostUnreachable, Answer::Unreachable),
        (io::ErrorKind::TimedOut, Answer::Silence),
        (io::ErrorKind::AddrNotAvailable, Answer::Unsent),
        (io::ErrorKind::PermissionDenied, Answer::Unsent),
        (io::ErrorKind::OutOfMemory, Answer::Unsent),
    ] {
        assert_eq!(meaning(&kind.into()), want, "{kind}");
    }
}
