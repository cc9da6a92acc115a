//! TLS against a real etcd: certificates of both sides, new ones, wrong ones, and what roles forbid.
//! `cargo test -p causeway-mesh-kv --tests -- --ignored --test-threads=1`.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use causeway_mesh_kv::{Connect, FailureKind, HostAlias, Op, Outcome, TlsFiles, certificate_expiry, rfc3339};
use common::ask::{Asker, put};
use common::etcd::{Etcd, Options, ServerTls};
use common::pki::Pki;

/// The name that agents of a cluster know it by.
const NAME: &str = "east.mesh.cilium.io";

fn serve(pki: &Pki) -> Etcd {
    let (cert, key) = pki.issue("server", "server", &["127.0.0.1", NAME], 2099).unwrap();
    Etcd::start_with(Options { tls: Some(ServerTls { ca: pki.ca(), cert, key }), flags: Vec::new() }).unwrap()
}

fn client(pki: &Pki, name: &str, year: i32) -> TlsFiles {
    let (cert, key) = pki.issue(name, name, &[], year).unwrap();
    TlsFiles { ca: pki.ca(), cert, key }
}

fn connect(etcd: &Etcd, tls: &TlsFiles) -> Connect {
    Connect { tls: Some(tls.clone()), ..Connect::new(vec![etcd.endpoint()]) }
}

fn named(etcd: &Etcd, tls: &TlsFiles, hostname: &str) -> Connect {
    let alias = HostAlias { hostname: hostname.to_owned(), ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] };
    Connect {
        tls: Some(tls.clone()),
        aliases: vec![alias],
        ..Connect::new(vec![format!("https://{hostname}:{}", etcd.port())])
    }
}

fn failure(outcome: Outcome) -> (FailureKind, String) {
    let Outcome::Failed(failure) = outcome else { panic!("not failed: {outcome:?}") };
    (failure.kind, failure.message)
}

fn get() -> Op {
    Op::Get { key: "a/1".to_owned() }
}

#[tokio::test]
#[ignore = "needs /usr/bin/etcd"]
async fn both_sides_show_certificates_and_names_are_aliased() {
    let pki = Pki::new().unwrap();
    let (etcd, tls) = (serve(&pki), client(&pki, "remote", 2098));
    let mut good = Asker::open(named(&etcd, &tls, NAME));
    assert!(matches!(good.put("a/1", "x").await.unwrap(), Outcome::Written { .. }));
    println!("shown: mTLS by an aliased name: {:?}", good.session.status());

    let (kind, message) = failure(Asker::open(named(&etcd, &tls, "west.mesh.cilium.io")).call(get()).await.unwrap());
    assert_eq!(kind, FailureKind::Unavailable);
    println!("shown: another name: {message}");

    let other = Pki::new().unwrap();
    let (cert, key) = other.issue("remote", "remote", &[], 2098).unwrap();
    let stranger = TlsFiles { cert, key, ..tls.clone() };
    let (kind, message) = failure(Asker::open(connect(&etcd, &stranger)).call(get()).await.unwrap());
    assert_eq!(kind, FailureKind::Unavailable);
    println!("shown: a certificate of another CA: {message}");

    let missing = TlsFiles { key: tls.key.with_extension("gone"), ..tls.clone() };
    let (kind, message) = failure(Asker::open(connect(&etcd, &missing)).call(get()).await.unwrap());
    assert_eq!(kind, FailureKind::Unavailable);
    assert!(message.contains("remote.gone"), "{message}");
    println!("shown: no key: {message}");

    let dead = Connect { endpoints: vec!["https://127.0.0.1:1".into(), etcd.endpoint()], ..connect(&etcd, &tls) };
    let mut second = Asker::open(dead);
    assert!(matches!(second.call(get()).await.unwrap(), Outcome::Page { .. }));
    println!("shown: the second endpoint serves: {:?}", second.session.status().endpoint);
}

#[tokio::test]
#[ignore = "needs /usr/bin/etcd"]
async fn new_certificates_are_used_and_old_connections_go_on() {
    let pki = Pki::new().unwrap();
    let (etcd, tls) = (serve(&pki), client(&pki, "remote", 2050));
    let mut watcher = Asker::open(connect(&etcd, &tls));
    let ticket = watcher.submit(Op::Watch { prefix: "a/".into(), revision: 0 });
    assert!(matches!(watcher.answer(ticket).await.unwrap().outcome, Outcome::Watching { .. }));
    let began = Instant::now();
    for round in 0..100 {
        let tls = client(&pki, "remote", 2051 + round);
        let expiry = rfc3339(certificate_expiry(&tls).unwrap());
        assert!(expiry.starts_with(&format!("{}-01-01T", 2051 + round)), "{expiry}");
        let mut fresh = Asker::open(connect(&etcd, &tls));
        assert!(matches!(fresh.put("a/1", format!("{round}")).await.unwrap(), Outcome::Written { .. }));
        let reply = watcher.answer(ticket).await.unwrap();
        assert!(matches!(reply.outcome, Outcome::Events { .. }), "{reply:?}");
    }
    assert_eq!(watcher.session.status().connects, 1);
    println!("shown: 100 new certificates in {:?}, the first connection's watch saw every write", began.elapsed());

    // Only the new one is good from here on: what connects again has to read it.
    let mut asker = Asker::open(connect(&etcd, &tls));
    asker.call(get()).await.unwrap();
    let good = (std::fs::read(&tls.cert).unwrap(), std::fs::read(&tls.key).unwrap());
    std::fs::write(&tls.cert, "none").unwrap();
    assert!(matches!(asker.call(get()).await.unwrap(), Outcome::Page { .. }), "the connection stands");
    let (_, message) = failure(Asker::open(connect(&etcd, &tls)).call(get()).await.unwrap());
    println!("shown: a broken file stops new connections only: {message}");
    std::fs::write(&tls.cert, good.0).unwrap();
    std::fs::write(&tls.key, good.1).unwrap();
    assert!(matches!(Asker::open(connect(&etcd, &tls)).call(get()).await.unwrap(), Outcome::Page { .. }));
}

#[tokio::test]
#[ignore = "needs /usr/bin/etcd and etcdctl"]
async fn what_a_role_forbids_is_denied_and_the_rest_goes_on() {
    let pki = Pki::new().unwrap();
    let etcd = serve(&pki);
    let (root, remote, nobody) = (client(&pki, "root", 2098), client(&pki, "remote", 2098), client(&pki, "who", 2098));
    let files: [&Path; 3] = [&root.ca, &root.cert, &root.key];
    for args in [
        "user add root --no-password",
        "user grant-role root root",
        "user add remote --no-password",
        "role add reader",
        "role grant-permission reader --prefix=true read a/",
        "user grant-role remote reader",
        "auth enable",
    ] {
        etcd.ctl(Some(files), &args.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let mut writer = Asker::open(connect(&etcd, &root));
    writer.put("a/1", "x").await.unwrap();
    let mut reader = Asker::open(connect(&etcd, &remote));
    let allowed = reader.submit(Op::Watch { prefix: "a/".into(), revision: 0 });
    assert!(matches!(reader.answer(allowed).await.unwrap().outcome, Outcome::Watching { .. }));
    for op in [
        Op::Get { key: "b/1".into() },
        Op::Watch { prefix: "b/".into(), revision: 0 },
        Op::Write { writes: vec![put("a/1", "y", 0)] },
    ] {
        let (kind, message) = failure(reader.call(op).await.unwrap());
        assert_eq!(kind, FailureKind::Denied, "{message}");
        println!("shown: denied: {message}");
    }
    // etcd 3.4 hears nothing more on a stream with a denied watch.
    let second = reader.submit(Op::Watch { prefix: "a/2".into(), revision: 0 });
    let outcome = reader.answer(second).await.unwrap().outcome;
    assert!(matches!(outcome, Outcome::Watching { .. }), "{outcome:?}");
    writer.put("a/2", "x").await.unwrap();
    for ticket in [allowed, second] {
        assert!(matches!(reader.answer(ticket).await.unwrap().outcome, Outcome::Events { .. }));
    }
    println!("shown: watches that were and come are served beside a denied one");
    let (kind, message) = failure(Asker::open(connect(&etcd, &nobody)).call(get()).await.unwrap());
    assert_eq!(kind, FailureKind::Denied, "{message}");
    println!("shown: an unknown user: {message}");
}

#[tokio::test]
#[ignore = "needs /usr/bin/etcd"]
async fn a_stopped_server_is_found_behind_tls_too() {
    let pki = Pki::new().unwrap();
    let (etcd, tls) = (serve(&pki), client(&pki, "remote", 2098));
    let mut asker = Asker::open(connect(&etcd, &tls));
    let ticket = asker.submit(Op::Watch { prefix: "a/".into(), revision: 0 });
    assert!(matches!(asker.answer(ticket).await.unwrap().outcome, Outcome::Watching { .. }));
    etcd.pause().unwrap();
    let began = Instant::now();
    let (kind, message) = failure(asker.answer(ticket).await.unwrap().outcome);
    assert_eq!(kind, FailureKind::Unavailable);
    println!("shown: SIGSTOP behind TLS found after {:?} (promised: 7 s): {message}", began.elapsed());
    let began = Instant::now();
    let (_, message) = failure(asker.call(get()).await.unwrap());
    println!("shown: and a new handshake gives up after {:?}: {message}", began.elapsed());
    etcd.resume().unwrap();
    assert!(began.elapsed() < Duration::from_secs(60));
    asker.call_until_up(get()).await.unwrap();
}
