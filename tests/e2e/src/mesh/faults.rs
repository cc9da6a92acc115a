//! What goes wrong between clusters, each under a stream of requests that must not fail: a healthy backend is always
//! there.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::stream::during;
use super::{EAST, SOON, WEB, WEST, Who, answer_from, asker, deployed, names, peers, remote_status, scale, store};
use crate::lab::Lab;
use crate::report::{Report, until};

const PLANE: &str = "cp-west";
const ETCD: &str = "etcd-cp-west";

/// How long a silent peer may stay unnoticed; the report prints what it took.
const FOUND: Duration = Duration::from_secs(30);

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let lab = deployed("e2e-faults")?;
    answer_from(&lab, &asker(EAST), WEB, Who::Both)?;
    answer_from(&lab, &asker(WEST), WEB, Who::Both)?;
    report.show("the other cluster's etcd is killed, and started again with its data", || etcd_killed(&lab));
    report.show("the other cluster's etcd is stopped (SIGSTOP), and goes on", || etcd_stopped(&lab));
    report.show("the other cluster's etcd comes back empty, as another store", || etcd_empty(&lab));
    report.show("history is compacted while a reader is away", || compacted(&lab));
    report.show("a slow etcd: 300 ms of every 400 it stands still", || slow(&lab));
    report.show("the API server of the mesh is killed in the middle of writing", || writer_killed(&lab));
    report.show("the cache is killed, and started again", || cache_killed(&lab));
    report.show("the agent is killed, and started again", || agent_killed(&lab));
    report.show("backends die that Kubernetes does not know of", || dead_backends(&lab));
    report.show("partition of the racks, and heal", || partition(&lab));
    report.show("one-way partition of the control planes, and heal", || one_way(&lab));
    report.show("the client certificate expires; a good one comes", || peers::expired(&lab));
    report.show("certificates are rotated under the stream", || peers::rotated(&lab));
    report.show("a peer that writes garbage, wrong numbers and others' identities", || peers::garbage(&lab));
    lab.down()
}

/// Waits until the agent at e1 sees the condition of west.
fn seen(lab: &Lab, what: &str, good: impl Fn(&serde_json::Value) -> bool) -> Result<Duration> {
    let (_, took) = until(FOUND, what, || {
        let row = remote_status(lab, "e1", WEST)?;
        ensure!(good(&row), "{row}");
        Ok(())
    })?;
    Ok(took)
}

/// East is read at w1, which knows it by the copy in its own cluster's etcd alone.
fn east_is_read(lab: &Lab) -> Result<()> {
    until(Duration::from_secs(60), "east is fresh at w1", || {
        let row = remote_status(lab, "w1", EAST)?;
        ensure!(row["ready"] == true && row["stage"] == "fresh", "{row}");
        Ok(())
    })?;
    Ok(())
}

/// West is read again, and a change there arrives in east.
pub(crate) fn alive_again(lab: &Lab) -> Result<Duration> {
    let (_, took) = until(Duration::from_secs(60), "west is fresh and ready at e1", || {
        let row = remote_status(lab, "e1", WEST)?;
        ensure!(row["ready"] == true && row["stage"] == "fresh", "{row}");
        Ok(())
    })?;
    scale(lab, WEST, "web", 3)?;
    arrived(lab)?;
    scale(lab, WEST, "web", 2)?;
    arrived(lab)?;
    Ok(took)
}

/// Exactly west's pods answer for west.
fn arrived(lab: &Lab) -> Result<()> {
    until(SOON, "exactly west's pods are backends in east", || {
        let (known, all) = (names(lab, WEST, "web")?, super::all_answered(lab, &asker(EAST), WEB, 80)?);
        let missing: Vec<_> = known.iter().filter(|name| !all.pods.contains_key(*name)).collect();
        ensure!(missing.is_empty(), "{missing:?} never answered: {:?}", all.pods);
        let strangers = all.pods.keys().filter(|p| !known.contains(*p)).count();
        ensure!(strangers == names(lab, EAST, "web")?.len(), "strangers answered: {:?}", all.pods);
        Ok(())
    })?;
    Ok(())
}

fn etcd_killed(lab: &Lab) -> Result<String> {
    during(lab, &asker(EAST), WEB, || {
        lab.lab("kill", &[ETCD])?;
        let gone = silent(lab)?;
        answer_from(lab, &asker(EAST), WEB, Who::Both)?;
        lab.lab("start", &[ETCD])?;
        let back = alive_again(lab)?;
        Ok(format!(
            "noticed after {:.1} s, nothing withdrawn, read again after {:.1} s",
            gone.as_secs_f64(),
            back.as_secs_f64()
        ))
    })
}

/// The cache at east notices that west is silent, and says so.
fn silent(lab: &Lab) -> Result<Duration> {
    seen(lab, "west's silence is noticed in east", |row| row["stage"] != "fresh" || row["connected"] == false)
}

fn etcd_stopped(lab: &Lab) -> Result<String> {
    during(lab, &asker(EAST), WEB, || {
        lab.lab("pause", &[ETCD])?;
        let gone = silent(lab);
        lab.lab("resume", &[ETCD])?;
        let (gone, back) = (gone?, alive_again(lab)?);
        Ok(format!("noticed after {:.1} s, read again after {:.1} s", gone.as_secs_f64(), back.as_secs_f64()))
    })
}

fn etcd_empty(lab: &Lab) -> Result<String> {
    during(lab, &asker(EAST), WEB, || {
        let before = store::revision(lab, PLANE)?;
        lab.lab("kill", &[ETCD])?;
        lab.lab("start", &[ETCD, "--fresh"])?;
        let back = alive_again(lab)?;
        // It is also where west's own agents read the copy of east.
        east_is_read(lab)?;
        let after = store::revision(lab, PLANE)?;
        ensure!(after < before, "revision {before} before, {after} after: this is no new store");
        Ok(format!("revision {before}, then {after} of a new store; read again after {:.1} s", back.as_secs_f64()))
    })
}

fn compacted(lab: &Lab) -> Result<String> {
    during(lab, &asker(EAST), WEB, || {
        let reader = "kvstoremesh-cp-east";
        lab.lab("pause", &[reader])?;
        scale(lab, WEST, "web", 4)?;
        scale(lab, WEST, "web", 1)?;
        let revision = until(SOON, "west's etcd has the change", || {
            let revision = store::revision(lab, PLANE)?;
            store::etcdctl(lab, PLANE, &["compact", &revision.to_string()])?;
            Ok(revision)
        })?;
        lab.lab("resume", &[reader])?;
        arrived(lab)?;
        scale(lab, WEST, "web", 2)?;
        arrived(lab)?;
        Ok(format!("compacted at revision {}, the reader listed again", revision.0))
    })
}

fn slow(lab: &Lab) -> Result<String> {
    during(lab, &asker(EAST), WEB, || {
        let pid = nix::unistd::Pid::from_raw(lab.pid(ETCD)?);
        let ended = std::sync::atomic::AtomicBool::new(false);
        let changed = std::thread::scope(|scope| {
            scope.spawn(|| {
                use nix::sys::signal::{Signal, kill};
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = kill(pid, Signal::SIGSTOP);
                    std::thread::sleep(Duration::from_millis(300));
                    let _ = kill(pid, Signal::SIGCONT);
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
            let outcome = scale(lab, WEST, "web", 3).and_then(|()| arrived(lab));
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
            outcome
        });
        changed?;
        scale(lab, WEST, "web", 2)?;
        arrived(lab)?;
        let row = remote_status(lab, "e1", WEST)?;
        Ok(format!("changes arrive, stage {}", row["stage"]))
    })
}

fn writer_killed(lab: &Lab) -> Result<String> {
    const WRITER: &str = "mesh-apiserver-cp-west";
    let many: String = (0..150)
        .map(|n| {
            format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: many-{n}, labels: {{many: \"true\"}}, annotations: \
                 {{service.cilium.io/global: \"true\"}}}}\nspec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: \
                 8080}}]}}\n"
            )
        })
        .collect();
    during(lab, &asker(EAST), WEB, || {
        lab.cluster(WEST).apply(&many)?;
        for _ in 0..3 {
            lab.lab("kill", &[WRITER])?;
            lab.lab("start", &[WRITER])?;
        }
        let expected = |count: usize| {
            until(Duration::from_secs(60), &format!("{count} of the services stand in west's etcd"), || {
                let keys = store::keys(lab, PLANE, "cilium/state/services/v1/west/default/many-")?;
                ensure!(keys.len() == count, "{} do", keys.len());
                Ok(())
            })
        };
        let (_, took) = expected(150)?;
        lab.cluster(WEST).run(&["delete", "services", "-l", "many=true"])?;
        let (_, gone) = expected(0)?;
        arrived(lab)?;
        Ok(format!("150 services complete after {:.1} s, gone after {:.1} s", took.as_secs_f64(), gone.as_secs_f64()))
    })
}

fn cache_killed(lab: &Lab) -> Result<String> {
    during(lab, &asker(EAST), WEB, || {
        lab.lab("kill", &["kvstoremesh-cp-east"])?;
        answer_from(lab, &asker(EAST), WEB, Who::Both)?;
        lab.lab("start", &["kvstoremesh-cp-east"])?;
        let back = alive_again(lab)?;
        Ok(format!("read again after {:.1} s", back.as_secs_f64()))
    })
}

fn agent_killed(lab: &Lab) -> Result<String> {
    let node = lab.cluster(EAST).json(&["get", "pod", &asker(EAST)])?["spec"]["nodeName"].clone();
    let node = node.as_str().context("the asking pod has no node")?.to_owned();
    during(lab, &asker(EAST), WEB, || {
        let process = format!("agent-{node}");
        lab.lab("kill", &[&process])?;
        answer_from(lab, &asker(EAST), WEB, Who::Both)?;
        lab.lab("start", &[&process])?;
        until(Duration::from_secs(30), "the new agent has read west", || {
            let row = remote_status(lab, &node, WEST)?;
            ensure!(row["ready"] == true, "{row}");
            Ok(())
        })?;
        answer_from(lab, &asker(EAST), WEB, Who::Both)?;
        Ok(format!("on {node}"))
    })
}

/// West's nodes lose their cables; its control plane, and so Kubernetes and etcd, go on and say that all is well.
fn dead_backends(lab: &Lab) -> Result<String> {
    let cables = |state: &str| -> Result<()> {
        for (node, tor) in [("w1", "tor3"), ("w1", "tor4"), ("w2", "tor3"), ("w2", "tor4")] {
            lab.lab("link", &[state, node, tor])?;
        }
        Ok(())
    };
    let figure = during(lab, &asker(EAST), WEB, || {
        cables("down")?;
        let (_, took) = until(Duration::from_secs(15), "traffic has left west's backends", || {
            let rows = lab.causeway_json("e1", &["service", "list"])?.to_string();
            let dead = super::pods(lab, WEST, "web")?;
            ensure!(!dead.iter().any(|p| rows.contains(&p.v4)), "a dead backend is still in use");
            Ok(())
        })?;
        answer_from(lab, &asker(EAST), WEB, Who::East)?;
        cables("up")?;
        Ok(format!("traffic had left after {:.1} s (target 3)", took.as_secs_f64()))
    });
    if figure.is_err() {
        cables("up")?;
    }
    let figure = figure?;
    let (_, back) = answer_from(lab, &asker(EAST), WEB, Who::Both)?;
    Ok(format!("{figure}; west serves again {:.1} s after its cables are back", back.as_secs_f64()))
}

fn partition(lab: &Lab) -> Result<String> {
    let links = [("tor1", "tor3"), ("tor1", "tor4"), ("tor2", "tor3"), ("tor2", "tor4")];
    let set = |state: &str| -> Result<()> {
        for (a, b) in links {
            lab.lab("link", &[state, a, b])?;
        }
        Ok(())
    };
    let figure = during(lab, &asker(EAST), WEB, || {
        set("down")?;
        let gone = silent(lab);
        let answered = answer_from(lab, &asker(EAST), WEB, Who::East);
        let there = answer_from(lab, &asker(WEST), WEB, Who::West);
        set("up")?;
        let (gone, (_, took)) = (gone?, answered?);
        there?;
        Ok(format!("each side on its own after {:.1} s, noticed after {:.1} s", took.as_secs_f64(), gone.as_secs_f64()))
    })?;
    let back = alive_again(lab)?;
    east_is_read(lab)?;
    answer_from(lab, &asker(EAST), WEB, Who::Both)?;
    answer_from(lab, &asker(WEST), WEB, Who::Both)?;
    Ok(format!("{figure}; joined again after {:.1} s", back.as_secs_f64()))
}

fn one_way(lab: &Lab) -> Result<String> {
    during(lab, &asker(EAST), WEB, || {
        lab.lab("partition", &["--from", "cp-west", "--to", "cp-east", "--one-way"])?;
        let gone = silent(lab);
        let answered = answer_from(lab, &asker(EAST), WEB, Who::Both);
        lab.lab("heal", &[])?;
        let gone = gone?;
        answered?;
        let back = alive_again(lab)?;
        Ok(format!("noticed after {:.1} s, healed after {:.1} s", gone.as_secs_f64(), back.as_secs_f64()))
    })
}
