//! The whole program against a real etcd with mTLS and the lab's API server.
//! `cargo test -p causeway-clustermesh-apiserver --test mesh -- --ignored`. Loopback only, no root.

mod common;

use causeway_mesh_schema::{ClusterId, ClusterName, Kind, Origin, Scale, Value};
use common::pki::Pki;
use common::{Kubernetes, Store, run, until};

const CLUSTER: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNode
metadata: {name: n1, labels: {rack: r1}}
spec: {bootid: b-1, addresses: [{type: InternalIP, ip: 192.0.2.2}], ipam: {podCIDRs: [10.3.0.0/24, "fd00:3::/64"]}}
---
apiVersion: cilium.io/v2
kind: CiliumIdentity
metadata: {name: "199472"}
security-labels: {"k8s:io.kubernetes.pod.namespace": default, "k8s:app": web, "k8s:io.cilium.k8s.policy.cluster": east}
---
apiVersion: cilium.io/v2
kind: CiliumEndpoint
metadata: {name: web-1, namespace: default}
status:
  identity: {id: 199472}
  service-account: default
  named-ports: [{name: http, port: 8080, protocol: TCP}]
  networking: {node: 192.0.2.2, addressing: [{ipv4: 10.3.0.7, ipv6: "fd00:3::7"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default, annotations: {service.cilium.io/global: "true"}}
spec: {clusterIP: 10.96.0.77, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-abc, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.3.0.7], conditions: {ready: true}, nodeName: n1}, {addresses: [10.3.0.8], conditions: {ready: false}}]
ports: [{name: http, port: 8080, protocol: TCP}]
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: web, namespace: default}
"#;

const ALL: [&str; 7] = [
    "endpointslices/v1/east/default/web-abc",
    "identities/v1/id/199472",
    "ip/v1/default/10.3.0.7",
    "ip/v1/default/fd00:3::7",
    "nodes/v1/east/n1",
    "serviceexports/v1/east/default/web",
    "services/v1/east/default/web",
];

fn wait_for(store: &Store, prefix: &str, expected: &[&str]) {
    until(&format!("{prefix} has {expected:?}"), || (store.keys(prefix) == expected).then_some(()));
}

#[test]
#[ignore = "needs /usr/bin/etcd and etcdctl"]
fn everyone_may_do_what_the_roles_say() {
    let pki = Pki::new().unwrap();
    let store = Store::start(&pki, "east");
    store.config(&pki, "remote-west");
    let readable: [(&str, &[&str]); 4] = [
        ("remote", &["cilium/.heartbeat", "cilium/state/x", "cilium/cluster-config/east", "cilium/synced/east/x"]),
        ("local-east", &["cilium/.heartbeat", "cilium/cache/x", "cilium/cluster-config/west", "cilium/synced/west/x"]),
        ("stranger", &[]),
        ("remote-west", &[]),
    ];
    let keys = [
        "cilium/.heartbeat",
        "cilium/state/x",
        "cilium/cache/x",
        "cilium/cluster-config/east",
        "cilium/cluster-config/west",
        "cilium/synced/east/x",
        "cilium/synced/west/x",
        "cilium/kvstoremesh-lock",
    ];
    for key in keys {
        store.ctl("admin-east", &["put", key, "value"]).unwrap();
    }
    for (user, may) in readable {
        for key in keys {
            let expected = may.contains(&key) || user == "local-east" && key.starts_with("cilium/cluster-config/");
            let expected = expected || user == "local-east" && key.starts_with("cilium/synced/");
            assert_eq!(store.ctl(user, &["get", key]).is_ok(), expected, "{user} reads {key}");
            let error = store.ctl(user, &["put", key, "mine"]).unwrap_err();
            assert!(error.contains("permission denied"), "{user} writes {key}: {error}");
        }
    }
    assert!(store.ctl("remote", &["user", "list"]).is_err(), "only root administers");
}

#[test]
#[ignore = "needs /usr/bin/etcd"]
fn etcdinit_refuses_what_is_not_etcds_and_names_its_steps() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("letter"), "dear").unwrap();
    let flag = format!("--etcd-data-dir={}", directory.path().display());
    let error = run(&["etcdinit", &flag, "--cluster-name=east"]).unwrap_err();
    assert!(error.contains("letter") && error.contains("empty directory"), "{error}");
    let flag = format!("--etcd-data-dir={}", directory.path().join("data").display());
    let error = run(&["etcdinit", &flag, "--cluster-name=east", "--etcd-binary-location=/nowhere/etcd"]).unwrap_err();
    assert!(error.contains("/nowhere/etcd") && error.contains("--etcd-binary-location"), "{error}");
    let error = run(&["etcdinit", &flag, "--cluster-name=east", "--etcd-binary-location=/bin/false"]).unwrap_err();
    assert!(error.contains("waiting for etcd") && error.contains("ended with"), "{error}");
    for _ in 0..2 {
        run(&["etcdinit", &flag, "--cluster-name=east"]).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs /usr/bin/etcd and etcdctl"]
async fn objects_become_keys_byte_for_byte() {
    let pki = Pki::new().unwrap();
    let store = Store::start(&pki, "east");
    let kubernetes = Kubernetes::start(&pki).await;
    kubernetes.define().await;
    kubernetes.apply(CLUSTER).await;
    std::fs::write(store.at("users.yaml"), "users: [{name: remote-west, role: remote}]").unwrap();
    let flags = [
        kubernetes.kubeconfig(),
        "--clustermesh-enable-mcs-api".to_owned(),
        "--cluster-users-enabled".to_owned(),
        format!("--cluster-users-config-path={}", store.at("users.yaml").display()),
    ];
    let mut program = store.program("clustermesh", 3, &flags);
    wait_for(&store, "cilium/state/", &ALL);

    let own = r#"{"id":3,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255,"serviceExportsEnabled":true,"endpointSlicesExportMode":"services-and-endpointslices"}}"#;
    let values = [
        ("cluster-config/east", own),
        (
            "state/nodes/v1/east/n1",
            r#"{"Name":"n1","Cluster":"east","IPAddresses":[{"Type":"InternalIP","IP":"192.0.2.2"}],"IPv4AllocCIDR":{"IP":"10.3.0.0","Mask":"////AA=="},"IPv4SecondaryAllocCIDRs":null,"IPv6AllocCIDR":{"IP":"fd00:3::","Mask":"//////////8AAAAAAAAAAA=="},"IPv6SecondaryAllocCIDRs":null,"IPv4HealthIP":"","IPv6HealthIP":"","IPv4IngressIP":"","IPv6IngressIP":"","ClusterID":3,"Source":"custom-resource","EncryptionKey":0,"Labels":{"rack":"r1"},"Annotations":null,"WireguardPubKey":"","BootID":"b-1"}"#,
        ),
        (
            "state/identities/v1/id/199472",
            "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=east;k8s:io.kubernetes.pod.namespace=default;",
        ),
        (
            "state/ip/v1/default/fd00:3::7",
            r#"{"IP":"fd00:3::7","Mask":null,"HostIP":"192.0.2.2","ID":199472,"Key":0,"Metadata":"","K8sNamespace":"default","K8sPodName":"web-1","K8sServiceAccount":"default","NamedPorts":[{"Name":"http","Port":8080,"Protocol":"TCP"}]}"#,
        ),
        (
            "state/services/v1/east/default/web",
            r#"{"cluster":"east","namespace":"default","name":"web","frontends":{"10.96.0.77":{"http":{"Protocol":"TCP","Port":80}}},"backends":{"10.3.0.7":{"http":{"Protocol":"TCP","Port":8080}}},"labels":{},"selector":{},"includeExternal":true,"shared":true,"clusterID":3}"#,
        ),
    ];
    for (key, value) in values {
        assert_eq!(store.value(&format!("cilium/{key}")), value, "{key}");
    }
    let export = store.value("cilium/state/serviceexports/v1/east/default/web");
    assert!(
        export.starts_with(r#"{"cluster":"east","name":"web","namespace":"default","exportCreationTimestamp":"2"#),
        "{export}"
    );
    let canaries: Vec<String> = Kind::ALL.iter().map(|kind| format!("{}/v1", kind.word())).collect();
    let mut written = store.keys("cilium/synced/east/cilium/state/");
    written.sort_by_key(|key| canaries.iter().position(|canary| canary == key));
    assert_eq!(written, canaries);
    until("the peer's user", || store.ctl("admin-east", &["user", "get", "remote-west"]).ok());

    store.ctl("admin-east", &["put", "cilium/cluster-config/east", "{}"]).unwrap();
    until("cluster-config is rewritten", || (store.value("cilium/cluster-config/east") == own).then_some(()));

    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: default, annotations: {clustermesh.cilium.io/global: 'no'}}}";
    kubernetes.apply(namespace).await;
    wait_for(&store, "cilium/state/", &["nodes/v1/east/n1"]);
    kubernetes.apply(&namespace.replace("'no'", "'True'")).await;
    wait_for(&store, "cilium/state/", &ALL);

    assert!(program.stop().success());
    assert_eq!(store.keys("cilium/state/"), ALL, "keys outlive the program");
    kubernetes
        .delete("{apiVersion: cilium.io/v2, kind: CiliumEndpoint, metadata: {name: web-1, namespace: default}}")
        .await;
    std::fs::write(store.at("users.yaml"), "users: []").unwrap();
    let _program = store.program("clustermesh", 3, &flags);
    let fewer: Vec<&str> = ALL.into_iter().filter(|key| !key.starts_with("ip/")).collect();
    wait_for(&store, "cilium/state/", &fewer);
    until("the peer's user is gone", || store.ctl("admin-east", &["user", "get", "remote-west"]).err());
}

#[test]
#[ignore = "needs /usr/bin/etcd and etcdctl"]
fn a_remote_cluster_is_copied_and_forgotten() {
    let pki = Pki::new().unwrap();
    let (east, west) = (Store::start(&pki, "east"), Store::start(&pki, "west"));
    let put = |key: &str, value: &str| east.ctl("admin-east", &["put", key, value]).unwrap();
    put("cilium/cluster-config/east", r#"{"id":3,"capabilities":{"syncedCanaries":true,"maxConnectedClusters":255}}"#);
    put("cilium/.heartbeat", "now");
    put("cilium/state/identities/v1/id/199472", "k8s:app=web;");
    put("cilium/state/ip/v1/default/10.3.0.7", "not even JSON");
    for kind in [Kind::Nodes, Kind::Identities, Kind::Ips, Kind::Services] {
        put(&format!("cilium/synced/east/cilium/state/{}/v1", kind.word()), "now");
    }
    let clusters = west.at("clustermesh");
    std::fs::create_dir(&clusters).unwrap();
    std::fs::copy(east.at("remote.yaml"), clusters.join("east")).unwrap();
    let [api, _] = common::free_ports();
    let flags = [
        format!("--clustermesh-config={}", clusters.display()),
        format!("--api-serve-addr=127.0.0.1:{api}"),
        "--removal-grace-period=1s".to_owned(),
    ];
    let _program = west.program("kvstoremesh", 2, &flags);
    wait_for(&west, "cilium/cache/", &["identities/v1/east/id/199472", "ip/v1/east/10.3.0.7"]);
    assert_eq!(west.value("cilium/cache/ip/v1/east/10.3.0.7"), "not even JSON", "as it came");
    let config = r#"{"id":3,"capabilities":{"syncedCanaries":true,"cached":true,"maxConnectedClusters":255}}"#;
    assert_eq!(west.value("cilium/cluster-config/east"), config);
    let synced = ["identities/v1", "ip/v1", "nodes/v1", "services/v1"];
    wait_for(&west, "cilium/synced/east/cilium/cache/", &synced);
    assert_eq!(
        west.ctl("local-west", &["get", "--print-value-only", "cilium/cluster-config/east"]).unwrap().trim(),
        config
    );

    let status =
        run(&["kvstoremesh-dbg", "status", &format!("--api-serve-addr=127.0.0.1:{api}"), "-o", "json"]).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!((&status[0]["name"], &status[0]["num-identities"]), (&"east".into(), &1.into()));
    let report =
        run(&["kvstoremesh-dbg", "troubleshoot", &format!("--clustermesh-config={}", clusters.display())]).unwrap();
    assert!(report.contains("cluster east has number 3") && !report.contains("FAILED"), "{report}");

    east.ctl("admin-east", &["del", "cilium/state/identities/v1/id/199472"]).unwrap();
    wait_for(&west, "cilium/cache/", &["ip/v1/east/10.3.0.7"]);
    std::fs::remove_file(clusters.join("east")).unwrap();
    wait_for(&west, "cilium/", &[]);
}

/// What a remote cluster reads is what it accepts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs /usr/bin/etcd and etcdctl"]
async fn readers_accept_every_value() {
    let pki = Pki::new().unwrap();
    let store = Store::start(&pki, "east");
    let kubernetes = Kubernetes::start(&pki).await;
    kubernetes.define().await;
    kubernetes.apply(CLUSTER).await;
    let _program =
        store.program("clustermesh", 3, &[kubernetes.kubeconfig(), "--clustermesh-service-v2=only-legacy".into()]);
    let expected: Vec<&str> =
        ALL.into_iter().filter(|key| !key.contains("endpointslices") && !key.contains("exports")).collect();
    wait_for(&store, "cilium/state/", &expected);
    let origin =
        Origin { name: ClusterName::parse("east").unwrap(), id: ClusterId::try_from(3).unwrap(), scale: Scale::C255 };
    for (kind, name) in
        [(Kind::Nodes, "n1"), (Kind::Identities, "199472"), (Kind::Ips, "10.3.0.7"), (Kind::Services, "default/web")]
    {
        let bytes = store.value(&kind.key(causeway_mesh_schema::Layout::State, &origin.name, name));
        let value = causeway_mesh_schema::read(kind, name, bytes.as_bytes(), &origin);
        assert!(value.is_ok(), "{kind} {name}: {value:?}");
        if let Ok(Value::Identity { labels, .. }) = value {
            assert_eq!(labels[0], "k8s:app=web");
        }
    }
}
