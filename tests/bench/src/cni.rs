//! CNI ADD, timed as a runtime sees it: from starting the plugin to its exit, beside Debian's `bridge` with `host-local`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::lab::Lab;
use crate::netns::Netns;
use crate::report::{Table, percentile};

const NODE: &str = "n1";

/// A plugin, its configuration, and the namespace that it works in.
struct Plugin {
    whose: &'static str,
    program: PathBuf,
    conf: String,
    path: String,
    host_netns: String,
}

impl Plugin {
    fn call(&self, verb: &str, pod: &Netns, pod_name: &str) -> Result<f64> {
        let started = Instant::now();
        let mut child = Command::new("nsenter")
            .arg(format!("--net={}", self.host_netns))
            .arg(&self.program)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", format!("bench-{}", pod.name))
            .env("CNI_NETNS", pod.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.path)
            .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod_name}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("stdin")?.write_all(self.conf.as_bytes())?;
        let out = child.wait_with_output()?;
        let took = started.elapsed().as_secs_f64() * 1e3;
        ensure!(
            out.status.success(),
            "{} {verb}: {}{}",
            self.whose,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(took)
    }
}

pub(crate) fn run(table: &mut Table, rounds: usize) -> Result<()> {
    eprintln!("cni: bringing a rack up");
    let lab = Lab::up("bench-cni")?;
    // A bound pod that the agent knows; the kubelet's own attachment has another container id.
    lab.kubectl(
        &["create", "-f", "-"],
        "apiVersion: v1\nkind: Pod\nmetadata: {name: bench, labels: {app: bench}}\n\
         spec: {nodeName: n1, containers: [{name: c, image: none, command: [sleep, infinity]}]}\n",
    )?;
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/bench", "--timeout=30s"], "")?;
    let bridge_host = Netns::create("cwb-cni-host")?;
    bridge_host.ip("link set lo up\n")?;
    let socket = lab.dir().join(NODE).join("agent.sock");
    let ours = Plugin {
        whose: "causeway",
        program: std::env::current_exe()?.with_file_name("causeway-cni"),
        conf: format!(
            r#"{{"cniVersion":"1.1.0","name":"causeway","type":"causeway-cni","agentSocket":"{}"}}"#,
            socket.display()
        ),
        path: String::new(),
        host_netns: lab.netns(NODE),
    };
    let data = std::env::temp_dir().join("causeway-bench-cni");
    let bridge = Plugin {
        whose: "bridge+host-local",
        program: "/usr/lib/cni/bridge".into(),
        conf: format!(
            r#"{{"cniVersion":"1.0.0","name":"bench","type":"bridge","bridge":"br0","isGateway":true,"ipam":{{"type":"host-local","dataDir":"{}","ranges":[[{{"subnet":"10.77.0.0/16"}}],[{{"subnet":"fd77::/64"}}]]}}}}"#,
            data.display()
        ),
        path: "/usr/lib/cni".to_owned(),
        host_netns: bridge_host.path(),
    };
    let (mut our_ms, mut their_ms) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for (plugin, times) in [(&ours, &mut our_ms), (&bridge, &mut their_ms)] {
            let pod = Netns::create(&format!("cwb-pod-{round}"))?;
            times.push(plugin.call("ADD", &pod, "bench")?);
            plugin.call("DEL", &pod, "bench")?;
        }
    }
    let _ = std::fs::remove_dir_all(&data);
    our_ms.sort_by(f64::total_cmp);
    their_ms.sort_by(f64::total_cmp);
    let ratio = percentile(&our_ms, 50.0) / percentile(&their_ms, 50.0);
    for (plugin, times, beside) in [
        (&ours, &our_ms, format!("{ratio:.2}x of bridge; target: p50 under 15 ms")),
        (&bridge, &their_ms, "1x".to_owned()),
    ] {
        let figure = format!("p50 {:.1} ms, p99 {:.1} ms", percentile(times, 50.0), percentile(times, 99.0));
        table.row("CNI ADD, dual stack", plugin.whose, &figure, &beside);
    }
    Ok(())
}
