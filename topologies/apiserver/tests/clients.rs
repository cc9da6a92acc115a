//! What kube-rs clients rely on.

mod common;

use std::collections::HashSet;

use common::{Lab, eventually, pod};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::api::{
    Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
    WatchEvent, WatchParams,
};
use kube::runtime::watcher;
use kube::{Error, ResourceExt as _};
use serde_json::{Value, json};

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"v": value}}, "data": {"v": value}}))
        .expect("a config map")
}

fn endpoints(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or_default()
}

fn code(error: &Error) -> (u16, String) {
    match error {
        Error::Api(status) => (status.code, status.reason.clone()),
        other => panic!("not an answer of the API: {other}"),
    }
}

#[tokio::test]
async fn versions_decide_conflicts() {
    let lab = Lab::start().await;
    let api: Api<ConfigMap> = lab.api();
    let made = api.create(&PostParams::default(), &config_map("a", "1")).await.expect("new");
    let twice = api.create(&PostParams::default(), &config_map("a", "1")).await.expect_err("exists");
    assert_eq!(code(&twice), (409, "AlreadyExists".into()));
    let mut newer = made.clone();
    newer.data = Some([("v".into(), "2".into())].into());
    let newer = api.replace("a", &PostParams::default(), &newer).await.expect("current version");
    assert_ne!(newer.resource_version(), made.resource_version());
    let stale = api.replace("a", &PostParams::default(), &made).await.expect_err("old version");
    assert_eq!(code(&stale), (409, "Conflict".into()));
    let same = api.replace("a", &PostParams::default(), &newer).await.expect("nothing changes");
    assert_eq!(same.resource_version(), newer.resource_version(), "a write that changes nothing is none");
    let generated = ConfigMap {
        metadata: ObjectMeta { generate_name: Some("g-".into()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    };
    let generated = api.create(&PostParams::default(), &generated).await.expect("a name is drawn");
    assert!(generated.name_any().starts_with("g-") && generated.name_any().len() == 7);
    let missing = api.get("none").await.expect_err("missing");
    assert_eq!(code(&missing), (404, "NotFound".into()));
    let wrong = DeleteParams {
        preconditions: Some(Preconditions { uid: Some("other".into()), resource_version: None }),
        ..DeleteParams::default()
    };
    assert_eq!(code(&api.delete("a", &wrong).await.expect_err("another uid")).0, 409);
}

#[tokio::test]
async fn watches_follow_selectors_and_expire() {
    let lab = Lab::with(&["--watch-log-events=50", "--disable-controller=all"]).await;
    let api: Api<ConfigMap> = lab.api();
    let start = api.list(&ListParams::default()).await.expect("a list").metadata.resource_version.expect("a version");
    let params = WatchParams::default().labels("v=1");
    let mut events = api.watch(&params, &start).await.expect("a watch").boxed();
    api.create(&PostParams::default(), &config_map("a", "1")).await.expect("new");
    let added = events.try_next().await.expect("a stream").expect("an event");
    assert!(matches!(added, WatchEvent::Added(ref c) if c.name_any() == "a"), "{added:?}");
    let relabel = Patch::Merge(json!({"metadata": {"labels": {"v": "2"}}}));
    api.patch("a", &PatchParams::default(), &relabel).await.expect("a patch");
    let left = events.try_next().await.expect("a stream").expect("an event");
    assert!(
        matches!(left, WatchEvent::Deleted(_)),
        "an object that no longer matches is gone for this watch: {left:?}"
    );
    for i in 0..60 {
        api.create(&PostParams::default(), &config_map(&format!("x{i}"), "9")).await.expect("new");
    }
    let mut old = api.watch(&WatchParams::default(), &start).await.expect("a watch").boxed();
    let expired = old.try_next().await.expect("a stream").expect("an event");
    assert!(matches!(expired, WatchEvent::Error(ref e) if e.code == 410), "{expired:?}");
}

#[tokio::test]
async fn lists_come_in_pages_and_streams() {
    let lab = Lab::start().await;
    let api: Api<ConfigMap> = lab.api();
    for i in 0..7 {
        api.create(&PostParams::default(), &config_map(&format!("c{i}"), "1")).await.expect("new");
    }
    let mut names = HashSet::new();
    let mut params = ListParams::default().limit(3);
    let mut pages = 0;
    loop {
        let page = api.list(&params).await.expect("a page");
        pages += 1;
        names.extend(page.items.iter().map(|c| c.name_any()));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => break,
        }
    }
    assert_eq!((names.len(), pages), (7, 3));
    let named = api.list(&ListParams::default().fields("metadata.name=c3")).await.expect("a list");
    assert_eq!(named.items.len(), 1);
    let refused = api.list(&ListParams::default().fields("spec.color=red")).await.expect_err("unknown field");
    assert_eq!(code(&refused).0, 400);
    let mut events = watcher(api, watcher::Config::default().streaming_lists()).boxed();
    let mut seen = 0;
    loop {
        match events.try_next().await.expect("a stream").expect("an event") {
            watcher::Event::InitApply(_) => seen += 1,
            watcher::Event::InitDone => break,
            _ => {}
        }
    }
    assert_eq!(seen, 7);
}

#[tokio::test]
async fn server_side_apply_knows_owners() {
    let lab = Lab::start().await;
    let api: Api<ConfigMap> = lab.api();
    let config =
        |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": value}});
    api.patch("a", &PatchParams::apply("one"), &Patch::Apply(config("1"))).await.expect("applied");
    let refused =
        api.patch("a", &PatchParams::apply("two"), &Patch::Apply(config("2"))).await.expect_err("owned by one");
    assert_eq!(code(&refused), (409, "Conflict".into()));
    assert!(refused.to_string().contains("conflict with \"one\": .data.k"), "{refused}");
    let forced = api.patch("a", &PatchParams::apply("two").force(), &Patch::Apply(config("2"))).await.expect("forced");
    assert_eq!(forced.data.expect("data")["k"], "2");
    let again = api.patch("a", &PatchParams::apply("two"), &Patch::Apply(config("2"))).await.expect("same");
    let version = again.metadata.resource_version.clone();
    let third = api.patch("a", &PatchParams::apply("two"), &Patch::Apply(config("2"))).await.expect("same");
    assert_eq!(third.metadata.resource_version, version, "applying the same again writes nothing");
    let empty = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let dropped = api.patch("a", &PatchParams::apply("two"), &Patch::Apply(empty)).await.expect("applied");
    assert_eq!(dropped.data.unwrap_or_default().len(), 0, "what nobody applies any more goes");
}

#[tokio::test]
async fn pods_end_gracefully_and_finalizers_hold() {
    let lab = Lab::with(&["--disable-controller=node"]).await;
    let pods: Api<Pod> = lab.api();
    pods.create(&PostParams::default(), &pod("a")).await.expect("new");
    pods.delete("a", &DeleteParams::default()).await.expect("marked");
    let ending = pods.get("a").await.expect("still there");
    assert!(ending.metadata.deletion_timestamp.is_some());
    assert_eq!(ending.metadata.deletion_grace_period_seconds, Some(30));
    pods.delete("a", &DeleteParams::default().grace_period(0)).await.expect("the kubelet's word");
    assert_eq!(code(&pods.get("a").await.expect_err("gone")).0, 404);

    let maps: Api<ConfigMap> = lab.api();
    let mut held = config_map("held", "1");
    held.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    maps.create(&PostParams::default(), &held).await.expect("new");
    maps.delete("held", &DeleteParams::default()).await.expect("marked");
    assert!(maps.get("held").await.expect("held").metadata.deletion_timestamp.is_some());
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("held", &PatchParams::default(), &release).await.expect("released");
    assert_eq!(code(&maps.get("held").await.expect_err("gone")).0, 404);
}

#[tokio::test]
async fn owners_take_their_dependents_along() {
    let lab = Lab::start().await;
    let maps: Api<ConfigMap> = lab.api();
    for (owner, policy, survives) in [
        ("bg", PropagationPolicy::Background, false),
        ("fg", PropagationPolicy::Foreground, false),
        ("or", PropagationPolicy::Orphan, true),
    ] {
        let made = maps.create(&PostParams::default(), &config_map(owner, "1")).await.expect("new");
        let child = format!("{owner}-child");
        let mut owned = config_map(&child, "1");
        owned.metadata.owner_references = Some(vec![serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": made.uid().expect("a uid"), "blockOwnerDeletion": true}))
        .expect("a reference")]);
        maps.create(&PostParams::default(), &owned).await.expect("new");
        let params = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
        maps.delete(owner, &params).await.expect("deleted");
        eventually("the owner goes", || async {
            maps.get_opt(owner).await.expect("an answer").is_none().then_some(())
        })
        .await;
        if survives {
            let orphan = maps.get(&child).await.expect("orphaned");
            assert_eq!(orphan.metadata.owner_references.unwrap_or_default().len(), 0);
        } else {
            eventually("the dependent goes", || async {
                maps.get_opt(&child).await.expect("an answer").is_none().then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn services_get_addresses_of_both_families() {
    let lab = Lab::start().await;
    let services: Api<Service> = lab.api();
    let service = |name: &str, spec: Value| -> Service {
        let mut all = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "selector": {"app": "x"}}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            all["spec"][key] = value.clone();
        }
        serde_json::from_value(all).expect("a service")
    };
    let made =
        services.create(&PostParams::default(), &service("one", json!({}))).await.expect("new").spec.expect("a spec");
    assert_eq!(made.ip_families, Some(vec!["IPv4".into()]));
    assert_eq!(
        (made.session_affinity.as_deref(), made.internal_traffic_policy.as_deref()),
        (Some("None"), Some("Cluster"))
    );
    let port = serde_json::to_value(&made.ports.expect("ports")[0]).expect("a port");
    assert_eq!(port, json!({"port": 80, "targetPort": 80, "protocol": "TCP"}));
    let dual = json!({"type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack", "externalTrafficPolicy": "Local"});
    let made = services.create(&PostParams::default(), &service("two", dual)).await.expect("new").spec.expect("a spec");
    let ips = made.cluster_ips.clone().expect("addresses");
    assert!(ips[0].starts_with("10.96.") && ips[1].starts_with("fd00:96::"), "{ips:?}");
    assert!(made.ports.expect("ports")[0].node_port.is_some_and(|p| p >= 30000));
    assert!(made.health_check_node_port.is_some_and(|p| p >= 30000));
    let taken = services
        .create(&PostParams::default(), &service("three", json!({"clusterIP": ips[0]})))
        .await
        .expect_err("in use");
    assert!(taken.to_string().contains("provided IP is already allocated"), "{taken}");
    services.delete("two", &DeleteParams::default()).await.expect("deleted");
    services.create(&PostParams::default(), &service("three", json!({"clusterIP": ips[0]}))).await.expect("free again");
    let patch = Patch::Merge(json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}}));
    let grown =
        services.patch("one", &PatchParams::default(), &patch).await.expect("a second family").spec.expect("a spec");
    assert_eq!(grown.cluster_ips.map(|ips| ips.len()), Some(2));
    let kubernetes =
        eventually("the kubernetes service", || async { services.get_opt("kubernetes").await.expect("an answer") })
            .await;
    assert_eq!(kubernetes.spec.and_then(|s| s.cluster_ip).as_deref(), Some("10.96.0.1"));
}

#[tokio::test]
async fn deployments_become_ready_endpoints() {
    let lab = Lab::start().await;
    for n in ["n1", "n2", "n3"] {
        lab.node(n, &format!("zone-{n}")).await;
    }
    let kubelet = lab.kubelet();
    let deployments: Api<Deployment> = lab.api();
    let deployment = serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {"replicas": 3,
        "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]}]}}}}));
    deployments.create(&PostParams::default(), &deployment.expect("a deployment")).await.expect("new");
    let services: Api<Service> = lab.api();
    let service =
        serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {"ipFamilyPolicy": "RequireDualStack",
        "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}}));
    services.create(&PostParams::default(), &service.expect("a service")).await.expect("new");
    let slices: Api<EndpointSlice> = lab.api();
    let params = ListParams::default().labels("kubernetes.io/service-name=web");
    let found = eventually("three ready endpoints in each family", || async {
        let list = slices.list(&params).await.expect("a list").items;
        let full = list.len() == 2 && list.iter().all(|s| endpoints(s).len() == 3);
        full.then_some(list)
    })
    .await;
    let nodes: HashSet<_> = endpoints(&found[0]).iter().filter_map(|e| e.node_name.clone()).collect();
    assert_eq!(nodes.len(), 3, "pods are spread");
    for slice in &found {
        assert_eq!(slice.ports.as_ref().and_then(|p| p[0].port), Some(8080));
        assert!(endpoints(slice).iter().all(|e| e.zone == e.node_name.as_ref().map(|n| format!("zone-{n}"))));
    }
    let available = eventually("the deployment is available", || async {
        let status = deployments.get("web").await.expect("there").status?;
        (status.available_replicas == Some(3)).then_some(status)
    })
    .await;
    assert_eq!(available.observed_generation, Some(1));
    // A pod that turns unready leaves the slices at once.
    let pods: Api<Pod> = lab.api();
    let victim = pods.list(&ListParams::default().labels("app=web")).await.expect("a list").items[0].name_any();
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let since = std::time::Instant::now();
    pods.patch_status(&victim, &PatchParams::default(), &Patch::Strategic(unready)).await.expect("a status");
    eventually("the endpoint is withdrawn", || async {
        let list = slices.list(&params).await.expect("a list").items;
        let ready = |s: &EndpointSlice| {
            endpoints(s).iter().filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true)).count()
        };
        list.iter().all(|s| ready(s) == 2).then_some(())
    })
    .await;
    assert!(since.elapsed() < std::time::Duration::from_secs(1), "took {:?}", since.elapsed());
    // A dead owner takes everything along.
    deployments.delete("web", &DeleteParams::foreground()).await.expect("deleted");
    eventually("all pods go", || async {
        let left = pods.list(&ListParams::default()).await.expect("a list").items.len();
        (left == 0 && deployments.get_opt("web").await.expect("an answer").is_none()).then_some(())
    })
    .await;
    kubelet.abort();
}

#[tokio::test]
async fn a_node_without_a_lease_is_not_ready() {
    let lab = Lab::with(&["--node-monitor-grace-period=1"]).await;
    lab.node("n1", "z").await;
    let nodes: Api<Node> = Api::all(lab.client.clone());
    let lost = eventually("the node is unknown", || async {
        let node = nodes.get("n1").await.expect("there");
        let ready = node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready")?.status.clone();
        let tainted = node.spec.as_ref().and_then(|s| s.taints.as_ref()).is_some_and(|t| !t.is_empty());
        (ready == "Unknown" && tainted).then_some(node)
    })
    .await;
    let taints = lost.spec.and_then(|s| s.taints).unwrap_or_default();
    assert!(taints.iter().any(|t| t.key == "node.kubernetes.io/unreachable" && t.effect == "NoExecute"));
}

#[tokio::test]
async fn a_namespace_goes_with_all_it_holds() {
    let lab = Lab::start().await;
    let namespaces: Api<Namespace> = Api::all(lab.client.clone());
    let name: Namespace = serde_json::from_value(json!({"metadata": {"name": "tmp"}})).expect("a namespace");
    namespaces.create(&PostParams::default(), &name).await.expect("new");
    let maps: Api<ConfigMap> = Api::namespaced(lab.client.clone(), "tmp");
    let mut held = config_map("a", "1");
    held.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    maps.create(&PostParams::default(), &held).await.expect("new");
    namespaces.delete("tmp", &DeleteParams::default()).await.expect("marked");
    eventually("its contents are marked", || async {
        maps.get("a").await.expect("held").metadata.deletion_timestamp.is_some().then_some(())
    })
    .await;
    let refused = maps.create(&PostParams::default(), &config_map("b", "1")).await.expect_err("ending");
    assert_eq!(code(&refused), (403, "Forbidden".into()));
    maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}})))
        .await
        .expect("released");
    eventually("the namespace goes", || async {
        namespaces.get_opt("tmp").await.expect("an answer").is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn strangers_are_refused() {
    let lab = Lab::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(lab.stranger().await, "default");
    let refused = maps.list(&ListParams::default()).await.expect_err("no certificate");
    assert_eq!(code(&refused), (401, "Unauthorized".into()));
}

/// A thousand Services with their slices and endpoints are a matter of seconds; the bound is wide for a busy machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_services() {
    let lab = Lab::with(&["--disable-controller=node,scheduler"]).await;
    let pods: Api<Pod> = lab.api();
    pods.create(&PostParams::default(), &pod("a")).await.expect("new");
    let status = json!({"status": {"phase": "Running", "podIP": "10.1.1.1", "podIPs": [{"ip": "10.1.1.1"}, {"ip": "fd00:1:1::1"}],
        "conditions": [{"type": "Ready", "status": "True"}]}});
    pods.patch_status("a", &PatchParams::default(), &Patch::Merge(status)).await.expect("a status");
    let services: Api<Service> = lab.api();
    let slices: Api<EndpointSlice> = lab.api();
    let since = std::time::Instant::now();
    let creations = futures::stream::iter(0..1000).map(|i| {
        let services = services.clone();
        async move {
            let service = serde_json::from_value(json!({"metadata": {"name": format!("s{i}")}, "spec": {
                "ipFamilyPolicy": "RequireDualStack", "selector": {"app": "a"}, "ports": [{"port": 80}]}}));
            services.create(&PostParams::default(), &service.expect("a service")).await
        }
    });
    creations.buffer_unordered(32).try_collect::<Vec<_>>().await.expect("all are new");
    let created = since.elapsed();
    eventually("two slices for each", || async {
        let list =
            slices.list(&ListParams::default().labels("kubernetes.io/service-name!=kubernetes")).await.expect("a list");
        let filled = list.items.iter().filter(|s| endpoints(s).len() == 1).count();
        (filled == 2000).then_some(())
    })
    .await;
    println!("1000 services in {created:?}, 2000 slices after {:?}", since.elapsed());
    assert!(since.elapsed() < std::time::Duration::from_secs(20), "took {:?}", since.elapsed());
}
