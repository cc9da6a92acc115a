//! Names asked and what they must stand for.

use super::*;

fn key(name: &str) -> Key {
    ("shop".into(), name.into())
}

fn port(name: &str, number: u16) -> Port {
    Port { name: name.into(), protocol: "tcp".into(), number }
}

fn endpoint(hostname: Option<&str>, address: &str) -> Endpoint {
    Endpoint { hostname: hostname.map(str::to_owned), addresses: vec![address.parse().unwrap()] }
}

fn zone() -> Zone {
    let ips = |all: &[&str]| all.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
    let service = |all: &[&str]| Service { ips: ips(all), external_name: None, ports: vec![port("http", 80)] };
    let services = [
        (key("web"), service(&["10.96.0.7", "fd00:96::7"])),
        (key("pods"), service(&[])),
        (key("nobody"), service(&[])),
        (key("away"), Service { external_name: Some("www.example.com".into()), ..Service::default() }),
    ];
    let slices = [
        (
            key("pods-1"),
            Slice {
                service: Some("pods".into()),
                endpoints: vec![endpoint(Some("first"), "10.1.1.1"), endpoint(None, "10.1.1.2")],
                ports: vec![port("http", 8080)],
                ..Slice::default()
            },
        ),
        (
            key("pods-2"),
            Slice {
                service: Some("pods".into()),
                endpoints: vec![endpoint(None, "fd00:1::2")],
                ports: vec![port("http", 8080)],
                ..Slice::default()
            },
        ),
        (
            key("far-1"),
            Slice {
                imported: Some(("far".into(), "west".into())),
                endpoints: vec![endpoint(Some("first"), "10.2.1.1")],
                ports: vec![port("http", 8080)],
                ..Slice::default()
            },
        ),
    ];
    let imports = [
        (key("web"), Import { ips: ips(&["10.96.0.9"]), headless: false, ports: vec![port("http", 80)] }),
        (key("far"), Import { ips: Vec::new(), headless: true, ports: vec![port("http", 80)] }),
    ];
    Zone {
        services: services.into(),
        slices: slices.into(),
        imports: imports.into(),
        listed: NEEDED.into_iter().collect(),
    }
}

fn say(answer: &Answer) -> String {
    let one = |data: &Data| match data {
        Data::Address(address) => address.to_string(),
        Data::Alias(name) => format!("-> {name}"),
        Data::Server { port, target } => format!("{target}:{port}"),
    };
    match answer {
        Answer::Found(all) if all.is_empty() => "no data".into(),
        Answer::Found(all) => all.iter().map(one).collect::<Vec<_>>().join(" "),
        Answer::NoSuchName => "no such name".into(),
        Answer::NotYet => "not yet".into(),
        Answer::NotOurs => "not ours".into(),
    }
}

#[test]
fn names() {
    use Kind::{Other, Srv, V4, V6};
    let zone = zone();
    for (name, kind, wanted) in [
        ("web.shop.svc.cluster.local", V4, "10.96.0.7"),
        ("web.shop.svc.cluster.local", V6, "fd00:96::7"),
        ("web.shop.svc.cluster.local", Other, "no data"),
        ("_http._tcp.web.shop.svc.cluster.local", Srv, "web.shop.svc.cluster.local:80"),
        ("_http._udp.web.shop.svc.cluster.local", Srv, "no such name"),
        ("_tcp.web.shop.svc.cluster.local", V4, "no data"),
        ("pods.shop.svc.cluster.local", V4, "10.1.1.1 10.1.1.2"),
        ("pods.shop.svc.cluster.local", V6, "fd00:1::2"),
        ("first.pods.shop.svc.cluster.local", V4, "10.1.1.1"),
        ("first.pods.shop.svc.cluster.local", V6, "no data"),
        ("10-1-1-2.pods.shop.svc.cluster.local", V4, "10.1.1.2"),
        ("10-1-1-1.pods.shop.svc.cluster.local", V4, "no such name"),
        (
            "_http._tcp.pods.shop.svc.cluster.local",
            Srv,
            "first.pods.shop.svc.cluster.local:8080 10-1-1-2.pods.shop.svc.cluster.local:8080 fd00-1--2.pods.shop.svc.cluster.local:8080",
        ),
        ("nobody.shop.svc.cluster.local", V4, "no data"),
        ("away.shop.svc.cluster.local", V6, "-> www.example.com"),
        ("none.shop.svc.cluster.local", V4, "no such name"),
        ("shop.svc.cluster.local", V4, "no data"),
        ("nowhere.svc.cluster.local", V4, "no such name"),
        ("svc.cluster.local", V4, "no data"),
        ("cluster.local", V4, "no data"),
        ("web.shop.svc.cluster.local.shop.svc.cluster.local", V4, "no such name"),
        ("web.shop.svc.clusterset.local", V4, "10.96.0.9"),
        ("web.shop.svc.clusterset.local", V6, "no data"),
        ("far.shop.svc.clusterset.local", V4, "10.2.1.1"),
        ("first.west.far.shop.svc.clusterset.local", V4, "10.2.1.1"),
        ("first.east.far.shop.svc.clusterset.local", V4, "no such name"),
        ("west.far.shop.svc.clusterset.local", V4, "no data"),
        ("_http._tcp.far.shop.svc.clusterset.local", Srv, "first.west.far.shop.svc.clusterset.local:8080"),
        ("pods.shop.svc.clusterset.local", V4, "no such name"),
        ("www.example.com", V4, "not ours"),
        ("mycluster.local", V4, "not ours"),
    ] {
        assert_eq!(say(&zone.answer(name, kind)), wanted, "{name} {kind:?}");
    }
}

#[test]
fn nothing_is_denied_before_all_is_listed() {
    let zone = Zone { listed: BTreeSet::from(["services"]), ..zone() };
    assert_eq!(zone.answer("none.shop.svc.cluster.local", Kind::V4), Answer::NotYet);
}
