//! Tables of pools and Services in, addresses and reasons out.

use causeway_k8s::CiliumLoadBalancerIPPool;

use super::super::lb_service::{Settings, read, tests::service};
use super::*;

fn pool(name: &str, created: &str, spec: &str) -> AgedPool {
    let text =
        format!("apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {{name: {name}}}\nspec: {spec}");
    let object: CiliumLoadBalancerIPPool = serde_yaml_ng::from_str(&text).unwrap();
    AgedPool { created: Some(created.parse().unwrap()), pool: Pool::try_from(&object).unwrap() }
}

fn day(day: u32) -> String {
    format!("2026-01-{day:02}T00:00:00Z")
}

/// A Service `n/<name>` of the given age; `rest` adds fields of metadata, spec and status.
fn lb(name: &str, age: u32, annotations: &str, spec: &str, holds: &[&str]) -> LbService {
    let ingress: Vec<String> = holds.iter().map(|ip| format!("{{ip: '{ip}'}}")).collect();
    let yaml = format!(
        "{{metadata: {{name: {name}, namespace: n, creationTimestamp: '{}', labels: {{app: {name}}}, annotations: {{{annotations}}}}}, spec: {{{spec}}}, status: {{loadBalancer: {{ingress: [{}]}}}}}}",
        day(age),
        ingress.join(", ")
    );
    read(&service(&yaml), &Settings::default()).0
}

fn plain(name: &str, age: u32) -> LbService {
    lb(name, age, "", "", &[])
}

fn ips(allocation: &Allocation, name: &str) -> Vec<String> {
    allocation.services[&Key::new("n", name)].ips.iter().map(ToString::to_string).collect()
}

fn reason(allocation: &Allocation, name: &str) -> Option<&'static str> {
    allocation.services[&Key::new("n", name)].unmet.as_ref().map(Unmet::reason)
}

const DUAL: &str = "ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6]";

#[test]
fn older_services_get_lower_addresses() {
    let pools = [pool("p", &day(1), "{blocks: [{cidr: 192.0.2.0/30}, {cidr: '2001:db8:2::/112'}]}")];
    let services = [plain("young", 3), lb("old", 2, "", DUAL, &[])];
    let result = allocate(&pools, &services, false);
    assert_eq!(ips(&result, "old"), ["192.0.2.0", "2001:db8:2::"]);
    assert_eq!(ips(&result, "young"), ["192.0.2.1"]);
    assert_eq!(result.pools["p"], PoolUse { conflict: None, total: 4 + 65536, used: 3 });
}

#[test]
fn what_is_held_stays_whatever_comes_and_goes() {
    let pools = [pool("p", &day(1), "{blocks: [{cidr: 192.0.2.0/24}]}")];
    let holder = lb("b", 5, "", "", &["192.0.2.77"]);
    let result = allocate(&pools, &[plain("a", 2), holder.clone()], false);
    assert_eq!(ips(&result, "b"), ["192.0.2.77"]);
    assert_eq!(ips(&result, "a"), ["192.0.2.0"]);
    let again = allocate(&pools, &[holder], false);
    assert_eq!(ips(&again, "b"), ["192.0.2.77"], "the other is gone, nothing moves");
    assert_eq!(again.pools["p"].used, 1, "its address is free");
}

#[test]
fn disabled_and_conflicting_pools_give_nothing_and_take_nothing() {
    let disabled = pool("p", &day(1), "{disabled: true, blocks: [{cidr: 192.0.2.0/24}]}");
    let result = allocate(&[disabled], &[lb("held", 2, "", "", &["192.0.2.9"]), plain("new", 3)], false);
    assert_eq!(ips(&result, "held"), ["192.0.2.9"]);
    assert_eq!(reason(&result, "new"), Some("no_pool"));

    let pools = [
        pool("young", &day(2), "{blocks: [{cidr: 192.0.2.0/24}]}"),
        pool("old", &day(1), "{blocks: [{cidr: 192.0.2.128/25}]}"),
    ];
    let result = allocate(&pools, &[lb("held", 2, "", "", &["192.0.2.9"]), plain("new", 3)], false);
    assert!(result.pools["young"].conflict.as_ref().unwrap().contains("\"old\""), "{:?}", result.pools);
    assert_eq!(result.pools["old"].conflict, None);
    assert_eq!(ips(&result, "held"), ["192.0.2.9"]);
    assert_eq!(ips(&result, "new"), ["192.0.2.128"]);
}

#[test]
fn a_third_pool_is_not_in_conflict_with_one_set_aside() {
    let pools = [
        pool("a", &day(1), "{blocks: [{cidr: 192.0.2.0/25}]}"),
        pool("b", &day(2), "{blocks: [{cidr: 192.0.2.0/24}]}"),
        pool("c", &day(3), "{blocks: [{cidr: 192.0.2.128/25}]}"),
    ];
    let result = allocate(&pools, &[], false);
    let conflicts: Vec<bool> = result.pools.values().map(|pool| pool.conflict.is_some()).collect();
    assert_eq!(conflicts, [false, true, false]);
}

#[test]
fn pools_select_services() {
    let pools = [
        pool("web", &day(1), "{serviceSelector: {matchLabels: {app: web}}, blocks: [{cidr: 192.0.2.0/28}]}"),
        pool(
            "ns",
            &day(2),
            "{serviceSelector: {matchLabels: {io.kubernetes.service.namespace: n, io.kubernetes.service.name: named}}, blocks: [{cidr: 198.51.100.0/28}]}",
        ),
    ];
    let result = allocate(&pools, &[plain("web", 1), plain("named", 2), plain("other", 3)], false);
    assert_eq!(ips(&result, "web"), ["192.0.2.0"]);
    assert_eq!(ips(&result, "named"), ["198.51.100.0"]);
    assert_eq!(reason(&result, "other"), Some("no_pool"));
    let moved = allocate(&pools, &[lb("named", 1, "", "", &["192.0.2.3"])], false);
    assert_eq!(ips(&moved, "named"), ["198.51.100.0"], "the pool of the held address does not select it");
}

#[test]
fn a_full_pool_says_so() {
    let pools = [pool("p", &day(1), "{allowFirstLastIPs: 'No', blocks: [{cidr: 192.0.2.0/30}]}")];
    let result = allocate(&pools, &[plain("a", 1), plain("b", 2), plain("c", 3)], false);
    assert_eq!((ips(&result, "a"), ips(&result, "b")), (vec!["192.0.2.1".to_owned()], vec!["192.0.2.2".to_owned()]));
    assert_eq!(reason(&result, "c"), Some("out_of_ips"));
    assert_eq!(result.pools["p"].available(), 0);
}

#[test]
fn dual_stack_takes_what_there_is_and_says_what_is_missing() {
    let pools = [pool("v4", &day(1), "{blocks: [{cidr: 192.0.2.0/24}]}")];
    let result = allocate(&pools, &[lb("a", 1, "", DUAL, &[])], false);
    assert_eq!(ips(&result, "a"), ["192.0.2.0"]);
    assert_eq!(reason(&result, "a"), Some("no_pool"));
    let single = allocate(&pools, &[lb("a", 1, "", "ipFamilies: [IPv6]", &["192.0.2.0"])], false);
    assert_eq!(ips(&single, "a"), Vec::<String>::new(), "an address of a family no longer wanted is freed");
}

#[test]
fn requested_addresses() {
    let pools = [
        pool("p", &day(1), "{allowFirstLastIPs: 'No', blocks: [{cidr: 192.0.2.0/24}]}"),
        pool("db", &day(2), "{serviceSelector: {matchLabels: {app: db}}, blocks: [{cidr: 198.51.100.0/24}]}"),
    ];
    let asks = |name: &str, age, ip: &str| lb(name, age, &format!("lbipam.cilium.io/ips: '{ip}'"), "", &[]);
    let services = [
        asks("first", 1, "192.0.2.9"),
        asks("second", 2, "192.0.2.9"),
        asks("nowhere", 3, "203.0.113.1"),
        asks("foreign", 4, "198.51.100.1"),
        asks("reserved", 5, "192.0.2.0"),
        asks("two", 6, "192.0.2.20,192.0.2.21"),
        lb("spec", 7, "", "loadBalancerIP: 192.0.2.30", &[]),
        lb("changed", 8, "lbipam.cilium.io/ips: 192.0.2.40", "", &["192.0.2.41"]),
        lb("alias", 9, "io.cilium/lb-ipam-ips: 192.0.2.50", "", &[]),
    ];
    let result = allocate(&pools, &services, false);
    let table: [(&str, &[&str], Option<&str>); 9] = [
        ("first", &["192.0.2.9"], None),
        ("second", &[], Some("already_allocated")),
        ("nowhere", &[], Some("no_pool")),
        ("foreign", &[], Some("pool_selector_mismatch")),
        ("reserved", &[], Some("no_pool")),
        ("two", &["192.0.2.20", "192.0.2.21"], None),
        ("spec", &["192.0.2.30"], None),
        ("changed", &["192.0.2.40"], None),
        ("alias", &["192.0.2.50"], None),
    ];
    for (name, expected, why) in table {
        assert_eq!(ips(&result, name), expected, "{name}");
        assert_eq!(reason(&result, name), why, "{name}");
    }
}

#[test]
fn a_request_that_cannot_be_read_changes_nothing() {
    let pools = [pool("p", &day(1), "{blocks: [{cidr: 192.0.2.0/24}]}")];
    let typo = "lbipam.cilium.io/ips: 192.0.2.7x";
    let result = allocate(&pools, &[lb("new", 1, typo, "", &[]), lb("old", 2, typo, "", &["192.0.2.9"])], false);
    assert_eq!((ips(&result, "new"), reason(&result, "new")), (vec![], Some("invalid_request")));
    assert_eq!((ips(&result, "old"), reason(&result, "old")), (vec!["192.0.2.9".to_owned()], Some("invalid_request")));
}

#[test]
fn a_request_does_not_evict_a_holder() {
    let pools = [pool("p", &day(1), "{blocks: [{cidr: 192.0.2.0/24}]}")];
    let services = [lb("asks", 1, "lbipam.cilium.io/ips: 192.0.2.7", "", &[]), lb("holds", 9, "", "", &["192.0.2.7"])];
    let result = allocate(&pools, &services, false);
    assert_eq!(ips(&result, "holds"), ["192.0.2.7"]);
    assert_eq!(reason(&result, "asks"), Some("already_allocated"));
}

#[test]
fn sharing() {
    let pools = [pool("p", &day(1), "{blocks: [{cidr: 192.0.2.0/24}]}")];
    let shares = |name: &str, age, port: u16, extra: &str, holds: &[&str]| {
        let annotations = format!("lbipam.cilium.io/sharing-key: k{extra}");
        lb(name, age, &annotations, &format!("ports: [{{port: {port}}}]"), holds)
    };
    let services = [
        shares("http", 1, 80, "", &[]),
        shares("https", 2, 443, "", &[]),
        shares("clash", 3, 80, "", &[]),
        shares("asks", 4, 443, ", lbipam.cilium.io/ips: 192.0.2.0", &[]),
    ];
    let result = allocate(&pools, &services, false);
    assert_eq!(ips(&result, "http"), ["192.0.2.0"]);
    assert_eq!(ips(&result, "https"), ["192.0.2.0"]);
    assert_eq!(ips(&result, "clash"), ["192.0.2.1"], "the same port needs another address");
    assert_eq!(reason(&result, "asks"), Some("already_allocated_incompatible_service"));
    assert_eq!(result.pools["p"].used, 2, "a shared address counts once");

    let after_edit = [shares("http", 1, 80, "", &["192.0.2.0"]), shares("https", 2, 80, "", &["192.0.2.0"])];
    let result = allocate(&pools, &after_edit, false);
    assert_eq!(ips(&result, "http"), ["192.0.2.0"], "the older one keeps the address");
    assert_eq!(ips(&result, "https"), ["192.0.2.1"]);
}

#[test]
fn an_unreadable_pool_takes_nothing_away() {
    let services = [lb("a", 1, "", "", &["192.0.2.9"])];
    assert_eq!(ips(&allocate(&[], &services, true), "a"), ["192.0.2.9"]);
    assert_eq!(ips(&allocate(&[], &services, false), "a"), Vec::<String>::new(), "a deleted pool does");
}

#[test]
fn a_decision_is_stable_when_it_is_carried_out() {
    let pools = [
        pool("p", &day(2), "{blocks: [{cidr: 192.0.2.0/29}]}"),
        pool("q", &day(1), "{blocks: [{cidr: '2001:db8::/125'}, {start: 198.51.100.1, stop: 198.51.100.3}]}"),
    ];
    let mut services: Vec<LbService> = (0..14)
        .map(|index| {
            let annotations = if index % 3 == 0 { "lbipam.cilium.io/sharing-key: k" } else { "" };
            let port = format!("ports: [{{port: {}}}], ", index / 2);
            lb(&format!("s{index}"), 14 - index, annotations, &(port + if index % 2 == 0 { DUAL } else { "" }), &[])
        })
        .collect();
    let first = allocate(&pools, &services, false);
    for service in &mut services {
        service.holds.clone_from(&first.services[&service.key].ips);
    }
    services.reverse();
    assert_eq!(allocate(&pools, &services, false), first);
}

#[test]
fn ten_thousand_new_services_take_a_moment() {
    let pools = [pool("p", &day(1), "{blocks: [{cidr: 10.0.0.0/16}]}")];
    let template = plain("s", 1);
    let services: Vec<LbService> =
        (0..10_000).map(|index| LbService { key: Key::new("n", format!("s{index:05}")), ..template.clone() }).collect();
    let result = allocate(&pools, &services, false);
    assert_eq!(ips(&result, "s09999"), ["10.0.39.15"]);
}
