//! The binary as a runtime runs it: environment and stdin in, stdout and exit code out, and an agent made of canned
//! answers behind the socket.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// Answers by method; remembers what it was asked.
struct Agent {
    dir: tempfile::TempDir,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Agent {
    fn absent() -> Agent {
        Agent { dir: tempfile::tempdir().unwrap(), asked: Arc::default() }
    }

    fn answering(answers: &[(&str, Value)]) -> Agent {
        let agent = Agent::absent();
        let answers: BTreeMap<String, Value> = answers.iter().map(|(m, a)| ((*m).to_owned(), a.clone())).collect();
        let listener = UnixListener::bind(agent.socket()).unwrap();
        let asked = agent.asked.clone();
        // Ends with the test's process: the socket's directory goes, and nobody connects any more.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut line = String::new();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
                let request: Value = serde_json::from_str(&line).unwrap();
                let answer = answers.get(request["method"].as_str().unwrap()).cloned().unwrap_or(json!({"ok": {}}));
                asked.lock().unwrap().push(request);
                writeln!(stream, "{answer}").unwrap();
            }
        });
        agent
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }

    fn queue(&self) -> Vec<PathBuf> {
        match std::fs::read_dir(self.dir.path().join("deletions")) {
            Ok(entries) => entries.map(|e| e.unwrap().path()).collect(),
            Err(_) => Vec::new(),
        }
    }

    fn config(&self, version: &str, more: Value) -> Value {
        let mut config = json!({"cniVersion": version, "name": "causeway", "type": "causeway-cni",
            "agentSocket": self.socket()});
        let Value::Object(more) = more else { panic!("{more} is not an object") };
        for (name, value) in more {
            config[name] = value;
        }
        config
    }

    fn run(&self, command: &str, version: &str, more: Value) -> (i32, Value) {
        run(command, &self.config(version, more).to_string(), &[])
    }
}

/// Runs the plugin; variables of `change` override those of a good call, and empty ones are unset.
fn run(command: &str, stdin: &str, change: &[(&str, &str)]) -> (i32, Value) {
    let mut variables = BTreeMap::from([
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c0ffee"),
        ("CNI_NETNS", "/run/netns/p"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u1"),
        ("CNI_PATH", "/opt/cni/bin"),
    ]);
    variables.extend(change.iter().copied());
    variables.retain(|_, value| !value.is_empty());
    let mut child = Command::new(env!("CARGO_BIN_EXE_causeway-cni"))
        .env_clear()
        .envs(variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let value = if said.is_empty() { Value::Null } else { serde_json::from_str(&said).unwrap() };
    (output.status.code().unwrap(), value)
}

fn attached() -> Value {
    json!({"ok": {
        "host_ifname": "lxc0123456789ab", "host_mac": "0a:00:00:00:00:02", "mac": "06:00:00:00:00:01", "mtu": 1500,
        "ips": [{"address": "10.1.1.2/32", "gateway": "169.254.1.1"}, {"address": "fd00:1:1::2/128", "gateway": "fe80::1"}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}],
        "endpoint_id": 7,
    }})
}

#[test]
fn add_answers_in_each_version() {
    let agent = Agent::answering(&[("cni_add", attached())]);
    let (code, new) = agent.run("ADD", "1.1.0", json!({"mtu": 9000}));
    assert_eq!((code, &new["cniVersion"]), (0, &json!("1.1.0")));
    assert_eq!(new["interfaces"][0], json!({"name": "lxc0123456789ab", "mac": "0a:00:00:00:00:02", "mtu": 1500}));
    assert_eq!(
        new["interfaces"][1],
        json!({"name": "eth0", "mac": "06:00:00:00:00:01", "sandbox": "/run/netns/p", "mtu": 1500})
    );
    assert_eq!(new["ips"][0], json!({"address": "10.1.1.2/32", "interface": 1, "gateway": "169.254.1.1"}));
    assert_eq!(new["routes"][1], json!({"dst": "::/0", "gw": "fe80::1"}));
    let request = agent.asked().remove(0);
    assert_eq!(
        request["params"],
        json!({
            "attachment": {"container_id": "c0ffee", "ifname": "eth0"}, "netns": "/run/netns/p", "mtu": 9000,
            "pod": {"namespace": "default", "name": "web", "uid": "u1"},
        })
    );
    for version in ["0.3.1", "0.4.0"] {
        let (code, old) = agent.run("ADD", version, json!({}));
        assert_eq!((code, &old["cniVersion"]), (0, &json!(version)));
        assert_eq!((&old["ips"][0]["version"], &old["ips"][1]["version"]), (&json!("4"), &json!("6")));
        assert_eq!(old["interfaces"][1].get("mtu"), None);
    }
    let (_, middle) = agent.run("ADD", "1.0.0", json!({}));
    assert_eq!((middle["ips"][0].get("version"), middle["interfaces"][1].get("mtu")), (None, None));
}

#[test]
fn version_needs_nothing() {
    let (code, said) = run("VERSION", r#"{"cniVersion":"1.0.0"}"#, &[("CNI_CONTAINERID", ""), ("CNI_IFNAME", "")]);
    assert_eq!(code, 0);
    let all = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    assert_eq!(said, json!({"cniVersion": "1.0.0", "supportedVersions": all}));
    assert_eq!(run("VERSION", "", &[]).1["cniVersion"], "1.1.0");
}

#[test]
fn without_an_agent_each_verb_says_what_the_runtime_should_do() {
    let agent = Agent::absent();
    let (code, said) = agent.run("ADD", "1.0.0", json!({}));
    assert_eq!((code, &said["code"], &said["cniVersion"]), (1, &json!(11), &json!("1.0.0")));
    let details = said["details"].as_str().unwrap();
    assert!(details.contains("agent.sock") && details.contains("check that causeway-agent runs"), "{details}");
    assert_eq!(agent.run("STATUS", "1.1.0", json!({})).1["code"], 50);
    assert_eq!(agent.run("CHECK", "1.0.0", json!({"prevResult": {"ips": []}})).1["code"], 11);
    assert_eq!(agent.run("GC", "1.1.0", json!({"cni.dev/valid-attachments": []})).1["code"], 11);
}

#[test]
fn a_deletion_waits_for_the_agent() {
    let agent = Agent::absent();
    for _ in 0..2 {
        assert_eq!(agent.run("DEL", "1.0.0", json!({})), (0, Value::Null));
    }
    let queue = agent.queue();
    assert_eq!(queue.len(), 1, "{queue:?}");
    let note: Value = serde_json::from_slice(&std::fs::read(&queue[0]).unwrap()).unwrap();
    assert_eq!(note, json!({"attachment": {"container_id": "c0ffee", "ifname": "eth0"}, "netns": "/run/netns/p"}));

    let starting = Agent::answering(&[("cni_del", json!({"error": {"code": 503, "message": "starting"}}))]);
    assert_eq!(starting.run("DEL", "1.0.0", json!({})), (0, Value::Null));
    assert_eq!(starting.queue().len(), 1);

    let nowhere = json!({"deletionQueue": "/proc/nowhere"});
    let (code, said) = agent.run("DEL", "1.0.0", nowhere);
    assert_eq!((code, &said["code"]), (1, &json!(5)));
    assert!(said["msg"].as_str().unwrap().contains("/proc/nowhere"), "{said}");
}

#[test]
fn a_deletion_that_the_agent_does_leaves_no_note() {
    let agent = Agent::answering(&[]);
    let config = agent.config("1.0.0", json!({})).to_string();
    assert_eq!(run("DEL", &config, &[("CNI_NETNS", "")]), (0, Value::Null));
    assert_eq!((agent.queue().len(), agent.asked().len()), (0, 1));
    assert_eq!(agent.asked()[0]["params"].get("netns"), None);

    let refused = Agent::answering(&[("cni_del", json!({"error": {"code": 100, "message": "no", "details": "why"}}))]);
    let (code, said) = refused.run("DEL", "1.0.0", json!({}));
    assert_eq!((code, said), (1, json!({"cniVersion": "1.0.0", "code": 100, "msg": "no", "details": "why"})));
    assert_eq!(refused.queue().len(), 0);
}

#[test]
fn check_gc_and_status_ask_the_agent() {
    let agent = Agent::answering(&[("cni_gc", json!({"ok": {"removed": []}}))]);
    let previous = json!({"prevResult": {"ips": [{"address": "10.1.1.2/32"}]}});
    assert_eq!(agent.run("CHECK", "1.0.0", previous), (0, Value::Null));
    let valid = json!({"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]});
    assert_eq!(agent.run("GC", "1.1.0", valid), (0, Value::Null));
    assert_eq!(agent.run("STATUS", "1.1.0", json!({})), (0, Value::Null));
    let asked = agent.asked();
    assert_eq!(asked[0]["params"]["ips"], json!(["10.1.1.2/32"]));
    assert_eq!(asked[1]["params"], json!({"valid": [{"container_id": "a", "ifname": "eth0"}]}));
    assert_eq!(asked[2]["method"], "cni_status");
}

#[test]
fn verbs_younger_than_the_configuration_are_refused() {
    let agent = Agent::answering(&[]);
    let gc = json!({"cni.dev/valid-attachments": []});
    for (command, version, more) in
        [("CHECK", "0.3.1", json!({"prevResult": {}})), ("GC", "1.0.0", gc), ("STATUS", "1.0.0", json!({}))]
    {
        let (code, said) = agent.run(command, version, more);
        assert_eq!((code, &said["code"]), (1, &json!(1)), "{command}: {said}");
    }
    assert_eq!(agent.run("GC", "1.1.0", json!({})).1["code"], 7, "without a list everything would be garbage");
    assert_eq!(agent.run("CHECK", "1.0.0", json!({})).1["code"], 7);
    assert_eq!(agent.run("ADD", "1.0.0", json!({"prevResult": {"ips": []}})).1["code"], 7);
    assert_eq!(agent.asked().len(), 0);
}

#[test]
fn bad_input_is_answered_in_the_specifications_form() {
    let good = Agent::absent().config("1.0.0", json!({})).to_string();
    for (command, stdin, change, code) in [
        ("", good.as_str(), ("CNI_PATH", "x"), 4),
        ("NONSENSE", good.as_str(), ("CNI_PATH", "x"), 4),
        ("ADD", good.as_str(), ("CNI_CONTAINERID", ""), 4),
        ("ADD", good.as_str(), ("CNI_IFNAME", "a-name-that-is-too-long"), 4),
        ("ADD", good.as_str(), ("CNI_NETNS", ""), 4),
        ("ADD", "{", ("CNI_PATH", "x"), 6),
        ("ADD", r#"{"cniVersion":"0.1.0","name":"x"}"#, ("CNI_PATH", "x"), 1),
        ("ADD", r#"{"cniVersion":"1.0.0"}"#, ("CNI_PATH", "x"), 7),
    ] {
        let (status, said) = run(command, stdin, &[change]);
        assert_eq!((status, &said["code"]), (1, &json!(code)), "{command} {stdin}: {said}");
        assert!(said["msg"].is_string() && said["cniVersion"].is_string(), "{said}");
    }
}

#[test]
fn an_agent_that_talks_nonsense_is_an_error() {
    let agent = Agent::answering(&[("cni_add", json!({"ok": {"unexpected": true}}))]);
    let (code, said) = agent.run("ADD", "1.0.0", json!({}));
    assert_eq!((code, &said["code"]), (1, &json!(110)));
    assert!(said["details"].as_str().unwrap().contains("same version"), "{said}");
}

#[test]
fn the_log_has_a_line_for_each_call() {
    let agent = Agent::answering(&[("cni_add", attached())]);
    let file = agent.dir.path().join("cni.log");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    agent.run("ADD", "1.0.0", json!({"logFile": file}));
    agent.run("GC", "1.0.0", json!({"logFile": file}));
    let text = read(&file);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].contains("ADD container=c0ffee ifname=eth0"), "{text}");
    assert!(lines[1].contains("GC") && lines[1].contains("code=1 "), "{text}");
}
