//! A control plane on loopback: the lab's API server in this process; etcd, prepared by `etcdinit`, and the program
//! under test as processes that end with the test.
#![allow(clippy::unwrap_used, reason = "a failure here is the test's failure")]

#[path = "../../../kv/tests/common/pki.rs"]
pub(crate) mod pki;

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{conditions, wait::await_condition};
use kube::{Api, Client, Config, ResourceExt};
use lab_apiserver::{Options, Running};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pki::Pki;
use tempfile::TempDir;

/// How long anything may take; far above what it takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Long after the test.
const YEAR: i32 = 2100;
const PROGRAM: &str = env!("CARGO_BIN_EXE_clustermesh-apiserver");

/// A process that is killed with the test; its log is shown if the test fails.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn start(program: &str, arguments: &[String], log: PathBuf) -> Process {
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        Process { child, log }
    }

    /// SIGTERM, and its end.
    pub(crate) fn stop(&mut self) -> std::process::ExitStatus {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.child.kill();
        _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// The etcd of one cluster, with all users' certificates.
pub(crate) struct Store {
    pub(crate) name: &'static str,
    pub(crate) directory: TempDir,
    port: u16,
    _etcd: Process,
}

impl Store {
    pub(crate) fn start(pki: &Pki, name: &'static str) -> Store {
        let directory = tempfile::tempdir().unwrap();
        let at = |file: &str| directory.path().join(file).to_string_lossy().into_owned();
        run(&["etcdinit", &format!("--etcd-data-dir={}", at("etcd")), &format!("--cluster-name={name}")]).unwrap();
        let [port, peer] = free_ports();
        let (cert, key) = pki.issue(&format!("server-{name}"), "server", &["127.0.0.1"], YEAR).unwrap();
        let arguments = [
            format!("--data-dir={}", at("etcd")),
            "--name=clustermesh-apiserver".to_owned(),
            "--client-cert-auth".to_owned(),
            format!("--trusted-ca-file={}", pki.ca().display()),
            format!("--cert-file={}", cert.display()),
            format!("--key-file={}", key.display()),
            format!("--listen-client-urls=https://127.0.0.1:{port}"),
            format!("--advertise-client-urls=https://127.0.0.1:{port}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
        ];
        let etcd = Process::start("/usr/bin/etcd", &arguments, directory.path().join("etcd.log"));
        let store = Store { name, directory, port, _etcd: etcd };
        for user in ["remote", &format!("admin-{name}"), &format!("local-{name}"), "stranger"] {
            store.config(pki, user);
        }
        until("etcd answers", || store.ctl(&format!("admin-{name}"), &["endpoint", "health"]).ok());
        store
    }

    /// A client configuration for `user`, as Cilium writes it.
    pub(crate) fn config(&self, pki: &Pki, user: &str) -> PathBuf {
        let (cert, key) = pki.issue(&format!("{user}-of-{}", self.name), user, &[], YEAR).unwrap();
        let path = self.at(&format!("{user}.yaml"));
        let (ca, cert, key) = (pki.ca(), cert.display(), key.display());
        let text = format!(
            "endpoints: [https://127.0.0.1:{}]\ntrusted-ca-file: {}\ncert-file: {cert}\nkey-file: {key}\n",
            self.port,
            ca.display()
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn at(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// What etcdctl says as `user`, or its error.
    pub(crate) fn ctl(&self, user: &str, arguments: &[&str]) -> Result<String, String> {
        let config = std::fs::read_to_string(self.at(&format!("{user}.yaml"))).unwrap();
        let file = |field: &str| config.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned();
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints=https://127.0.0.1:{}", self.port))
            .arg(format!("--cacert={}", file("trusted-ca-file:")))
            .arg(format!("--cert={}", file("cert-file:")))
            .arg(format!("--key={}", file("key-file:")))
            .args(arguments)
            .output()
            .unwrap();
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Keys under `prefix`, without it.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let text = self.ctl(&format!("admin-{}", self.name), &["get", "--prefix", "--keys-only", prefix]).unwrap();
        text.lines().filter(|line| !line.is_empty()).map(|key| key[prefix.len()..].to_owned()).collect()
    }

    pub(crate) fn value(&self, key: &str) -> String {
        let text = self.ctl(&format!("admin-{}", self.name), &["get", "--print-value-only", key]).unwrap();
        text.trim_end_matches('\n').to_owned()
    }

    /// Starts a writer of this store's cluster, and waits until it is ready.
    pub(crate) fn program(&self, subcommand: &str, number: u32, more: &[String]) -> Process {
        let [health, _] = free_ports();
        let mut arguments = vec![
            subcommand.to_owned(),
            format!("--cluster-name={}", self.name),
            format!("--cluster-id={number}"),
            format!("--kvstore-opt=etcd.config={}", self.at(&format!("admin-{}.yaml", self.name)).display()),
            format!("--health-port={health}"),
        ];
        arguments.extend_from_slice(more);
        let process = Process::start(PROGRAM, &arguments, self.at(&format!("{subcommand}.log")));
        until(&format!("{subcommand} is ready"), || ready(health).then_some(()));
        process
    }
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Waits for an answer.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} for: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn free_ports() -> [u16; 2] {
    let held = [0; 2].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

fn ready(port: u16) -> bool {
    use std::io::{Read as _, Write as _};
    let ask = || -> std::io::Result<String> {
        let mut tcp = std::net::TcpStream::connect(("127.0.0.1", port))?;
        tcp.write_all(b"GET /readyz HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        tcp.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"))
}

/// The API server of a cluster.
pub(crate) struct Kubernetes {
    client: Client,
    directory: TempDir,
    _running: Running,
}

impl Kubernetes {
    pub(crate) async fn start(pki: &Pki) -> Kubernetes {
        // Another test of this process may have been first.
        _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let (cert, key) = pki.issue("api", "api", &["127.0.0.1"], YEAR).unwrap();
        let (admin, admin_key) = pki.issue("kube-admin", "admin", &[], YEAR).unwrap();
        let shown = |path: &Path| path.display().to_string();
        let options = Options::try_parse_from([
            "apiserver".to_owned(),
            "--listen=127.0.0.1:0".to_owned(),
            format!("--tls-cert-file={}", shown(&cert)),
            format!("--tls-private-key-file={}", shown(&key)),
            format!("--client-ca-file={}", shown(&pki.ca())),
        ])
        .unwrap();
        let running = lab_apiserver::start(&options).await.unwrap();
        let kubeconfig = format!(
            "{{apiVersion: v1, kind: Config, current-context: lab,
              clusters: [{{name: lab, cluster: {{server: 'https://{}', certificate-authority: '{}'}}}}],
              users: [{{name: lab, user: {{client-certificate: '{}', client-key: '{}'}}}}],
              contexts: [{{name: lab, context: {{cluster: lab, user: lab}}}}]}}",
            running.addresses[0],
            shown(&pki.ca()),
            shown(&admin),
            shown(&admin_key)
        );
        let path = directory.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig).unwrap();
        let file = Kubeconfig::read_from(&path).unwrap();
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
        Kubernetes { client: Client::try_from(config).unwrap(), directory, _running: running }
    }

    pub(crate) fn kubeconfig(&self) -> String {
        format!("--kubeconfig={}", self.directory.path().join("kubeconfig").display())
    }

    /// Installs Cilium's kinds and those of the MCS-API.
    pub(crate) async fn define(&self) {
        let api = Api::all(self.client.clone());
        for definition in causeway_k8s::crds().iter().chain(&causeway_k8s::mcs_crds()) {
            api.create(&PostParams::default(), definition).await.unwrap();
            let name = definition.name_any();
            await_condition(api.clone(), &name, conditions::is_crd_established()).await.unwrap();
        }
    }

    /// Applies YAML documents in their order.
    pub(crate) async fn apply(&self, documents: &str) {
        for document in documents.split("---\n").filter(|document| !document.trim().is_empty()) {
            let (api, object) = self.resource(document);
            let params = PatchParams::apply("test").force();
            let done = api.patch(&object.name_any(), &params, &Patch::Apply(&object)).await;
            done.unwrap_or_else(|error| panic!("{error}: {document}"));
        }
    }

    pub(crate) async fn delete(&self, document: &str) {
        let (api, object) = self.resource(document);
        api.delete(&object.name_any(), &kube::api::DeleteParams::default()).await.unwrap();
    }

    fn resource(&self, document: &str) -> (Api<DynamicObject>, DynamicObject) {
        let value: serde_json::Value = serde_yaml_ng::from_str(document).unwrap();
        let object: DynamicObject = serde_json::from_value(value).unwrap();
        let kind = kube::api::GroupVersionKind::try_from(object.types.as_ref().unwrap()).unwrap();
        let resource = kube::api::ApiResource::from_gvk(&kind);
        let api = match &object.metadata.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        (api, object)
    }
}
