//! The machine against a store in memory, at times that the tests choose.

mod chaos;
mod rig;
mod transitions;

use causeway_mesh_kv::SessionId;
use causeway_mesh_schema::{Capabilities, ExportMode, HEARTBEAT, Kind, Layout, cluster_config_key};

use self::rig::{Rig, Trouble, name};
use super::*;
use crate::settings::ServiceMode;

const S: Duration = Duration::from_secs(1);

#[test]
fn the_order_of_a_connection() {
    let mut rig = Rig::new();
    rig.furnish();
    rig.settle();
    assert_eq!(
        rig.told(),
        "reserve 2, connected 2, nodes[, nodes n1=a, ]nodes, services[, services ns/s1=b, ]services"
    );
    assert_eq!(
        rig.asked,
        [
            "list cilium/.heartbeat",
            "get cilium/cluster-config/c2",
            "watch cilium/.heartbeat",
            "list cilium/synced/c2/",
            "watch cilium/synced/c2/",
            "list cilium/state/nodes/v1/c2/",
            "list cilium/state/services/v1/c2/",
            "watch cilium/state/nodes/v1/c2/",
            "watch cilium/state/services/v1/c2/",
        ]
    );
    assert_eq!(rig.phase(), Phase::Ready);
    rig.put(Kind::Nodes, "n2", "c");
    rig.twin.delete("cilium/state/nodes/v1/c2/n1");
    rig.settle();
    assert_eq!(rig.told(), "nodes n2=c, nodes -n1");
    assert_eq!(rig.entries(), [(Kind::Nodes, 1), (Kind::Services, 1)].into());
}

#[test]
fn a_kind_waits_for_its_canary() {
    let mut rig = Rig::new();
    rig.beat();
    rig.config(2);
    rig.put(Kind::Nodes, "n1", "a");
    rig.settle();
    assert_eq!((rig.told().as_str(), rig.phase()), ("reserve 2, connected 2", Phase::Syncing));
    rig.canary(Kind::Nodes, Layout::State);
    rig.settle();
    assert_eq!(rig.told(), "nodes[, nodes n1=a, ]nodes");
    rig.canary(Kind::Services, Layout::Cache);
    rig.settle();
    assert_eq!((rig.told().as_str(), rig.phase()), ("", Phase::Syncing), "another layout's canary");
    rig.canary(Kind::Services, Layout::State);
    rig.settle();
    assert_eq!((rig.told().as_str(), rig.phase()), ("services[, ]services", Phase::Ready));
}

#[test]
fn a_copy_is_read_where_it_stands() {
    let mut rig = Rig::with(Settings { kinds: Kind::ALL.into(), services: ServiceMode::Both, ..Settings::default() });
    rig.can = Capabilities {
        cached: true,
        service_exports_enabled: Some(false),
        endpoint_slices_export_mode: ExportMode::Both,
        ..Capabilities::default()
    };
    rig.beat();
    rig.config(2);
    rig.settle();
    let of_a_kind = |asked: &&String| asked.starts_with("list cilium/") && asked.ends_with('/');
    let lists: Vec<&String> = rig.asked.iter().filter(of_a_kind).collect();
    assert_eq!(
        lists,
        [
            "list cilium/cache/nodes/v1/c2/",
            "list cilium/cache/identities/v1/c2/id/",
            "list cilium/cache/ip/v1/c2/",
            "list cilium/cache/services/v1/c2/",
            "list cilium/cache/endpointslices/v1/c2/",
            "list cilium/cache/serviceexports/v1/c2/",
        ]
    );
}

#[test]
fn a_break_forgets_nothing_and_goes_on_where_it_was() {
    let mut rig = Rig::new();
    rig.furnish();
    rig.settle();
    rig.told();
    rig.twin.disconnect(SessionId(1));
    rig.settle();
    assert_eq!((rig.told().as_str(), rig.phase()), ("silent", Phase::Waiting));
    assert_eq!(rig.entries(), [(Kind::Nodes, 1), (Kind::Services, 1)].into());
    rig.put(Kind::Nodes, "n2", "c");
    rig.pass(S, false);
    assert_eq!((rig.told().as_str(), rig.phase()), ("nodes n2=c, fresh", Phase::Ready));
    assert!(!rig.asked.contains(&"list cilium/state/nodes/v1/c2/".to_owned()), "{:?}", rig.asked);
}

#[test]
fn what_was_compacted_is_listed_again() {
    let mut rig = Rig::new();
    rig.furnish();
    rig.settle();
    rig.told();
    rig.twin.disconnect(SessionId(1));
    rig.settle();
    rig.twin.delete("cilium/state/nodes/v1/c2/n1");
    rig.put(Kind::Nodes, "n2", "c");
    let newest = rig.twin.revision();
    rig.twin.compact(newest);
    rig.pass(S, false);
    let told = rig.told();
    assert!(told.contains("nodes[, nodes n2=c, ]nodes") && told.ends_with("fresh"), "{told}");
    assert_eq!(rig.entries(), [(Kind::Nodes, 1), (Kind::Services, 1)].into());
}

#[test]
fn another_store_is_read_when_its_canaries_are_there() {
    let mut rig = Rig::new();
    rig.furnish();
    rig.settle();
    rig.told();
    rig.twin.wipe(200);
    rig.beat();
    rig.config(2);
    rig.pass(10 * S, true);
    assert_eq!((rig.told().as_str(), rig.phase()), ("silent", Phase::Syncing), "nothing is swept yet");
    assert_eq!(rig.entries(), [(Kind::Nodes, 1), (Kind::Services, 1)].into());
    rig.put(Kind::Nodes, "n9", "z");
    rig.canary(Kind::Nodes, Layout::State);
    rig.canary(Kind::Services, Layout::State);
    rig.settle();
    assert_eq!(rig.told(), "nodes[, nodes n9=z, ]nodes, services[, ]services, fresh");
}

#[test]
fn a_store_that_changes_under_a_session_ends_it() {
    let mut rig = Rig::new();
    rig.furnish();
    rig.settle();
    let reply = Reply { ticket: Ticket(1), store: 101, outcome: causeway_mesh_kv::Outcome::Progress { revision: 1 } };
    rig.input(Input::Reply(reply));
    assert_eq!(rig.phase(), Phase::Waiting);
    assert!(rig.failure().contains("another data set answers (65 instead of 64)"), "{}", rig.failure());
}

#[test]
fn another_number_is_another_cluster() {
    let mut rig = Rig::new();
    rig.furnish();
    rig.settle();
    rig.told();
    rig.config(3);
    rig.pass(20 * S, true);
    assert_eq!(
        rig.told(),
        "forget, release, reserve 3, connected 3, nodes[, nodes n1=a, ]nodes, services[, services ns/s1=b, ]services"
    );
    assert_eq!(rig.remote.stats(rig.now).failures, 0, "nothing failed");
}

#[test]
fn other_capabilities_change_what_is_read() {
    let mut rig = Rig::with(Settings { kinds: Kind::ALL.into(), ..Settings::default() });
    rig.can = Capabilities::default();
    rig.furnish();
    rig.settle();
    assert!(rig.told().contains("services ns/s1=b"));
    rig.can.endpoint_slices_export_mode = ExportMode::EndpointSlices;
    rig.put(Kind::EndpointSlices, "ns/e1", "e");
    rig.config(2);
    rig.pass(20 * S, true);
    assert_eq!(
        rig.told(),
        "connected 2, endpointslices[, endpointslices ns/e1=e, ]endpointslices, services[, ]services",
        "the new is there before the old goes"
    );
}

#[test]
fn a_number_that_is_taken_is_asked_for_again() {
    let mut rig = Rig::new();
    rig.refuse = Some("it is that of c9");
    rig.furnish();
    rig.settle();
    assert_eq!(
        (rig.told().as_str(), rig.phase(), rig.failure().as_str()),
        ("reserve 2", Phase::Waiting, "it is that of c9")
    );
    rig.refuse = None;
    rig.pass(S, true);
    assert!(rig.told().contains("reserve 2, connected 2"));
}

#[test]
fn bad_configurations_are_waited_for_and_named() {
    for (value, said) in [
        (None, "cluster-config/c2: not written; does the file's name agree"),
        (Some("{"), "cluster-config/c2"),
        (Some("{\"id\":0}"), "0 is no cluster id"),
        (Some("{\"id\":300}"), "300 is no cluster id"),
        (
            Some("{\"id\":2,\"capabilities\":{\"maxConnectedClusters\":511}}"),
            "maxConnectedClusters is 511, ours is 255",
        ),
    ] {
        let mut rig = Rig::new();
        rig.beat();
        if let Some(value) = value {
            rig.twin.put(&cluster_config_key(&name()), value);
        }
        rig.pass(60 * S, true);
        assert_eq!((rig.phase(), rig.told().as_str(), rig.sessions), (Phase::ReadingConfig, "", 1));
        assert!(rig.failure().contains(said), "{value:?}: {}", rig.failure());
        assert_eq!(rig.remote.stats(rig.now).failures, 0);
        rig.pass(125 * S, true);
        assert_eq!(rig.remote.stats(rig.now).failures, 1, "given up after three minutes");
        rig.furnish();
        rig.pass(40 * S, true);
        assert_eq!(rig.phase(), Phase::Ready);
    }
}

#[test]
fn a_configuration_that_became_bad_is_named_and_ends_nothing() {
    let mut rig = Rig::new();
    rig.furnish();
    rig.settle();
    rig.told();
    rig.config(300);
    rig.pass(20 * S, true);
    assert_eq!((rig.told().as_str(), rig.phase(), rig.sessions), ("", Phase::Ready, 1));
    assert!(rig.failure().contains("300 is no cluster id"), "{}", rig.failure());
    assert_eq!(rig.remote.stats(rig.now).failures, 0);
}

#[test]
fn canaries_and_silence_that_cannot_be_read_are_named() {
    let silence = causeway_mesh_schema::silence_key(&name());
    for (prefix, phase) in [("cilium/synced/c2/", Phase::Syncing), (silence.as_str(), Phase::Ready)] {
        let mut rig = Rig::new();
        rig.can.cached = true;
        rig.beat();
        rig.config(2);
        rig.canary(Kind::Nodes, Layout::Cache);
        rig.canary(Kind::Services, Layout::Cache);
        rig.trouble = Some((prefix.to_owned(), Trouble::Denied));
        rig.pass(20 * S, true);
        assert_eq!((rig.phase(), rig.failure()), (phase, format!("reading {prefix} of c2: permission denied")));
        rig.trouble = None;
        rig.pass(30 * S, true);
        assert_eq!((rig.phase(), rig.remote.stats(rig.now).stage), (Phase::Ready, Stage::Fresh));
    }
}

#[test]
fn a_problem_does_not_outlive_its_session() {
    let mut rig = Rig::new();
    rig.furnish();
    rig.settle();
    rig.told();
    let nodes = Kind::Nodes.prefix(Layout::State, &name());
    rig.trouble = Some((nodes.clone(), Trouble::Denied));
    rig.twin.disconnect(SessionId(1));
    rig.pass(S, false);
    assert_eq!(rig.told(), "silent, fresh", "what cannot be read holds nothing up");
    assert_eq!(rig.remote.stats(rig.now).kinds[0].problem.as_deref(), Some("permission denied"));
    rig.trouble = Some((nodes, Trouble::NeverAnswered));
    rig.twin.disconnect(SessionId(2));
    rig.pass(S, false);
    assert_eq!((rig.told().as_str(), rig.sessions), ("silent", 3), "nothing is known in the new session");
    assert_eq!(rig.remote.stats(rig.now).kinds[0].problem, None);
}

#[test]
fn silence_has_stages() {
    let mut rig = Rig::new();
    rig.furnish();
    rig.settle();
    rig.told();
    rig.cut();
    let mut stages = vec![(0, rig.told())];
    for second in 1..700u32 {
        rig.pass(S, false);
        let told = rig.told();
        if !told.is_empty() {
            stages.push((second, told));
        }
    }
    let stages: Vec<(u32, &str)> = stages.iter().map(|(second, told)| (*second, told.as_str())).collect();
    assert_eq!(stages, [(0, "silent"), (30, "de-preferred"), (120, "probed"), (600, "revoked")]);
    rig.cut = false;
    rig.furnish();
    rig.pass(61 * S, true);
    let told = rig.told();
    assert!(told.contains("fresh"), "{told}");
}

#[test]
fn a_writer_that_is_still_is_silent_though_its_store_lives() {
    let mut rig = Rig::new();
    rig.furnish();
    rig.pass(60 * S, true);
    rig.told();
    rig.pass(120 * S, false);
    assert_eq!(rig.told(), "");
    rig.pass(10 * S, false);
    assert_eq!((rig.told().as_str(), rig.sessions), ("silent", 1), "the session is kept");
    rig.pass(30 * S, false);
    assert_eq!(rig.told(), "de-preferred");
    // A new connection finds the old beat, which proves nothing.
    rig.twin.disconnect(SessionId(1));
    rig.pass(10 * S, false);
    assert_eq!((rig.told().as_str(), rig.phase(), rig.sessions), ("", Phase::Ready, 2));
    rig.beat();
    rig.settle();
    assert_eq!(rig.told(), "fresh");
}

#[test]
fn a_copy_hands_on_that_its_source_is_silent() {
    let mut rig = Rig::new();
    rig.can.cached = true;
    rig.beat();
    rig.config(2);
    rig.canary(Kind::Nodes, Layout::Cache);
    rig.canary(Kind::Services, Layout::Cache);
    let key = causeway_mesh_schema::silence_key(&name());
    rig.twin.put(&format!("{key}0"), "that of c20");
    rig.settle();
    assert_eq!(rig.remote.stats(rig.now).stage, Stage::Fresh, "another cluster's key");
    rig.told();
    rig.twin.put(&key, "now");
    rig.settle();
    assert_eq!(rig.told(), "silent");
    rig.pass(40 * S, true);
    assert_eq!(rig.told(), "de-preferred", "the copy's own heart beats");
    rig.twin.delete(&key);
    rig.settle();
    assert_eq!(rig.told(), "fresh");
}

#[test]
fn a_watch_that_misses_beats_is_found_out() {
    let mut rig = Rig::new();
    rig.furnish();
    rig.settle();
    rig.told();
    // Its watch is gone, and the session does not know.
    for ticket in 1..20 {
        rig.twin.submit(SessionId(1), Ticket(ticket), Op::Cancel, rig.base);
    }
    rig.pass(150 * S, true);
    assert!(rig.failure().contains("the watch of cilium/.heartbeat has missed a change"), "{}", rig.failure());
    assert_eq!(rig.told(), "silent, fresh");
}

#[test]
fn who_never_answers_is_given_up() {
    let mut rig = Rig::new();
    rig.mute = true;
    rig.furnish();
    rig.pass(29 * S, false);
    assert_eq!((rig.phase(), rig.sessions), (Phase::Connecting, 1));
    rig.pass(2 * S, false);
    assert!(rig.failure().contains("c2: no answer for 30 s"), "{}", rig.failure());
    rig.mute = false;
    rig.pass(2 * S, true);
    assert_eq!(rig.phase(), Phase::Ready);
    // In the middle of things, too.
    rig.mute = true;
    rig.pass(50 * S, false);
    assert_eq!(rig.remote.stats(rig.now).failures, 2);
}

#[test]
fn what_traffic_is_sent_by_expires() {
    let mut rig =
        Rig::with(Settings { kinds: [Kind::Nodes, Kind::Services].into(), cache_ttl: 60 * S, ..Settings::default() });
    rig.furnish();
    rig.settle();
    rig.told();
    rig.cut();
    rig.pass(59 * S, false);
    assert_eq!(rig.told(), "silent, de-preferred");
    rig.pass(S, false);
    assert_eq!(rig.told(), "services[, ]services", "nodes stay");
    assert_eq!(rig.entries(), [(Kind::Nodes, 1), (Kind::Services, 0)].into());
    rig.cut = false;
    rig.beat();
    rig.pass(61 * S, true);
    let told = rig.told();
    assert_eq!(told, "fresh, services[, services ns/s1=b, ]services");
}

#[test]
fn removal_is_complete() {
    let mut rig = Rig::new();
    rig.furnish();
    rig.settle();
    rig.told();
    rig.input(Input::Remove);
    assert_eq!(rig.told(), "forget, release, gone");
    assert_eq!((rig.phase(), rig.session, rig.remote.deadline(rig.now)), (Phase::Gone, None, None));
    rig.input(Input::Tick);
    assert_eq!(rig.told(), "");
}

#[test]
fn keys_that_are_no_names_are_counted() {
    let mut rig = Rig::new();
    rig.furnish();
    rig.put(Kind::Nodes, "", "no name");
    rig.settle();
    let nodes = rig.remote.stats(rig.now).kinds.remove(0);
    assert_eq!((nodes.kind, nodes.entries, nodes.unreadable), (Kind::Nodes, 1, 1));
    // Listed again, they are the same keys.
    rig.told();
    rig.twin.disconnect(SessionId(1));
    rig.settle();
    rig.beat();
    rig.beat();
    let newest = rig.twin.revision();
    rig.twin.compact(newest);
    rig.pass(S, false);
    assert!(rig.told().contains("]nodes"));
    assert_eq!(rig.remote.stats(rig.now).kinds.remove(0).unreadable, 1);
}
