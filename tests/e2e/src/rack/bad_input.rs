//! Malformed input of every kind: an error that names file, field and remedy; the rest goes on.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{deployed, get, url, vips};
use crate::lab::{Lab, text, tool};
use crate::report::{Report, until};

pub(crate) fn run(report: &mut Report) -> Result<()> {
    report.show("a malformed topology", topology);
    report.show("a malformed kubeconfig", kubeconfig);
    report.show("an unknown flag and a bad value", flags);
    report.show("a malformed agent configuration file", config_file);
    report.show("a malformed CNI configuration", cni);
    let lab = deployed("e2e-bad")?;
    report.show("a CRD object that the schema refuses", || schema(&lab));
    report.show("a CRD object that only the agent can refuse is named in its status; the rest goes on", || {
        rejected(&lab)
    });
    report.show("a service address that no pool can give", || pool(&lab));
    lab.down()
}

/// The command must fail, and its message must contain every one of `words`. Returns the message.
fn refused(mut command: Command, words: &[&str]) -> Result<String> {
    let out = command.stdin(Stdio::null()).output()?;
    let message = text(&out);
    ensure!(!out.status.success(), "accepted: {message}");
    ensure!(out.status.code().is_some_and(|c| c != 101), "it crashed: {message}");
    for word in words {
        ensure!(message.contains(word), "the message does not mention {word:?}: {message}");
    }
    Ok(message.lines().last().unwrap_or_default().to_owned())
}

/// A directory of this test that goes away with it.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str) -> Result<Scratch> {
        let dir = std::env::temp_dir().join(format!("causeway-e2e-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        Ok(Scratch(dir))
    }

    fn write(&self, name: &str, content: &str) -> Result<String> {
        let path = self.0.join(name);
        std::fs::write(&path, content)?;
        Ok(path.display().to_string())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn topology() -> Result<String> {
    let scratch = Scratch::new("topology")?;
    let good = std::fs::read_to_string("topologies/one-rack/topology.toml")?;
    scratch.write("topology.toml", &good.replacen("asn", "asm", 1))?;
    let mut command = tool("causeway-lab")?;
    command.arg("up").arg(&scratch.0).args(["--name", "e2e-never"]);
    refused(command, &["topology.toml", "asm", "asn"])
}

fn kubeconfig() -> Result<String> {
    let scratch = Scratch::new("kubeconfig")?;
    let path = scratch.write("kubeconfig", "clusters: [{name: x, cluster: {server: 17}}]\n")?;
    let mut command = tool("causeway-agent")?;
    command.args(["--node-name", "n1", "--kubeconfig", &path]);
    command.arg("--socket").arg(scratch.0.join("s")).arg("--state-dir").arg(&scratch.0);
    refused(command, &[&path])
}

fn flags() -> Result<String> {
    let mut unknown = tool("causeway-agent")?;
    unknown.args(["--node-nam", "n1"]);
    refused(unknown, &["--node-nam", "--node-name"])?;
    let mut value = tool("causeway-agent")?;
    value.args(["--node-name", "n1", "--flow-entries", "many"]);
    refused(value, &["many", "flow-entries"])
}

fn config_file() -> Result<String> {
    let scratch = Scratch::new("config")?;
    let path = scratch.write("agent.toml", "node_name = \"n1\"\nflow_entires = 5\n")?;
    let mut command = tool("causeway-agent")?;
    command.args(["--config", &path]);
    refused(command, &["agent.toml", "flow_entires", "flow-entries"])
}

fn cni() -> Result<String> {
    let mut messages = Vec::new();
    let cases = [
        ("not json", "ADD", vec!["JSON"]),
        (r#"{"cniVersion":"9.9.9","name":"x","type":"causeway-cni"}"#, "ADD", vec!["9.9.9"]),
        (r#"{"cniVersion":"1.1.0","name":"x","type":"causeway-cni","agentSocket":7}"#, "ADD", vec!["agentSocket"]),
        (r#"{"cniVersion":"1.1.0","name":"x","type":"causeway-cni"}"#, "ADDD", vec!["CNI_COMMAND", "ADDD"]),
    ];
    for (input, verb, words) in cases {
        let mut child = tool("causeway-cni")?
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", "c1")
            .env("CNI_NETNS", "/run/netns/none")
            .env("CNI_IFNAME", "eth0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
        let out = child.wait_with_output()?;
        ensure!(!out.status.success(), "{input} was accepted");
        let error: Value =
            serde_json::from_slice(&out.stdout).with_context(|| format!("not a CNI error: {}", text(&out)))?;
        ensure!(error["code"].as_u64().is_some_and(|c| c > 0), "no code in {error}");
        let message = error.to_string();
        for word in words {
            ensure!(message.contains(word), "{message} does not mention {word:?}");
        }
        messages.push(error["msg"].as_str().unwrap_or_default().to_owned());
    }
    Ok(format!("{} cases; one says: {}", messages.len(), messages.pop().unwrap_or_default()))
}

fn schema(lab: &Lab) -> Result<String> {
    let manifest = "apiVersion: cilium.io/v2\nkind: CiliumBGPPeerConfig\nmetadata: {name: bad}\nspec: {timers: {holdTimeSeconds: 1}}\n";
    match lab.apply(manifest) {
        Ok(printed) => anyhow::bail!("accepted: {printed}"),
        Err(error) => {
            let message = format!("{error:#}");
            ensure!(message.contains("holdTimeSeconds") && message.contains('3'), "{message}");
            Ok(message.lines().last().unwrap_or_default().trim().to_owned())
        }
    }
}

/// An address that matches the CRD's pattern and is none: only a parser can tell.
const UNPARSABLE: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumBGPAdvertisement
metadata: {name: bad-selector, labels: {advertise: rack}}
spec:
  advertisements:
  - advertisementType: Service
    service: {addresses: [LoadBalancerIP]}
    selector: {matchExpressions: [{key: app, operator: In, values: []}]}
"#;

fn rejected(lab: &Lab) -> Result<String> {
    lab.apply(UNPARSABLE)?;
    let (found, _) = until(Duration::from_secs(10), "the agent names the object in its status", || {
        let out = lab.causeway("n1", &["status"])?;
        let printed = text(&out);
        let line = printed.lines().find(|l| l.contains("bad-selector")).map(str::to_owned);
        line.with_context(|| printed)
    })?;
    let (v4, _) = vips(lab, "echo-cluster")?;
    until(Duration::from_secs(10), "the rest goes on", || {
        let answers = get(lab, "client", &url(&v4, 80), 20)?;
        ensure!(answers.failed == 0, "{} requests failed", answers.failed);
        Ok(())
    })?;
    lab.kubectl(&["delete", "ciliumbgpadvertisement", "bad-selector"])?;
    until(Duration::from_secs(10), "the status forgets a deleted object", || {
        let out = lab.causeway("n1", &["status"])?;
        ensure!(!text(&out).contains("bad-selector"), "still named");
        Ok(())
    })?;
    Ok(found.trim().to_owned())
}

fn pool(lab: &Lab) -> Result<String> {
    lab.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: greedy, annotations: {lbipam.cilium.io/ips: 203.0.113.77}}\n\
         spec: {type: LoadBalancer, selector: {app: echo}, ports: [{port: 80, targetPort: 8080}]}\n",
    )?;
    let (message, _) = until(Duration::from_secs(10), "the Service's condition says why", || {
        let json = lab.kubectl_json(&["get", "service", "greedy"])?;
        let conditions = json["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let row = conditions
            .iter()
            .find(|c| c["type"] == "cilium.io/IPAMRequestSatisfied" && c["status"] == "False")
            .with_context(|| format!("conditions {conditions:?}"))?;
        Ok(format!("{}: {}", row["reason"].as_str().unwrap_or("?"), row["message"].as_str().unwrap_or("?")))
    })?;
    lab.kubectl(&["delete", "service", "greedy"])?;
    Ok(message)
}
