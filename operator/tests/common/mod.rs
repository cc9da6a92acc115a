//! An API server on a free loopback port, and operators as real processes that are stopped with the test.
#![allow(clippy::unwrap_used, reason = "a failure here is the test's failure")]

use std::fs::File;
use std::future::Future;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use clap::Parser;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Config, Resource};
use lab_apiserver::{Options, Running};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};
use serde::de::DeserializeOwned;

/// How long anything may take; far above what it takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Lab {
    pub(crate) client: Client,
    directory: tempfile::TempDir,
    _running: Running,
}

impl Lab {
    pub(crate) async fn start() -> Lab {
        // Another test of this process may have been first.
        _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(at("ca.pem"), authority.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(authority, key);
        for (name, organization) in [("server", "lab"), ("admin", "system:masters")] {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::OrganizationName, organization);
            params.distinguished_name.push(DnType::CommonName, name);
            params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
            let key = KeyPair::generate().unwrap();
            std::fs::write(at(&format!("{name}.pem")), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
            std::fs::write(at(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        let options = Options::try_parse_from([
            "apiserver".to_owned(),
            "--listen=127.0.0.1:0".to_owned(),
            format!("--tls-cert-file={}", at("server.pem")),
            format!("--tls-private-key-file={}", at("server.key")),
            format!("--client-ca-file={}", at("ca.pem")),
        ])
        .unwrap();
        let running = lab_apiserver::start(&options).await.unwrap();
        let kubeconfig = format!(
            "{{apiVersion: v1, kind: Config, current-context: lab,
              clusters: [{{name: lab, cluster: {{server: 'https://{}', certificate-authority: '{}'}}}}],
              users: [{{name: lab, user: {{client-certificate: '{}', client-key: '{}'}}}}],
              contexts: [{{name: lab, context: {{cluster: lab, user: lab}}}}]}}",
            running.addresses[0],
            at("ca.pem"),
            at("admin.pem"),
            at("admin.key")
        );
        std::fs::write(at("kubeconfig"), &kubeconfig).unwrap();
        let file = Kubeconfig::read_from(at("kubeconfig")).unwrap();
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
        Lab { client: Client::try_from(config).unwrap(), directory, _running: running }
    }

    /// Starts an operator of this name; waits for nothing.
    pub(crate) fn operator(&self, name: &str) -> Operator {
        let log = self.directory.path().join(format!("{name}.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_causeway-operator"))
            .arg("--kubeconfig")
            .arg(self.directory.path().join("kubeconfig"))
            .args(["--identity", name, "--metrics-addr", "127.0.0.1:0"])
            .args(["--allocate-node-cidrs", "--cluster-pool-ipv4-cidr", "10.1.0.0/16"])
            .args(["--cluster-pool-ipv6-cidr", "fd00:1::/48", "--cluster-pool-ipv6-mask-size", "64"])
            .args(["--leader-election-lease-duration", "3s", "--leader-election-renew-deadline", "2s"])
            .args(["--leader-election-retry-period", "250ms"])
            .stderr(File::create(&log).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Operator { child, log }
    }

    /// Applies objects, given as YAML documents, in their order. A kind may not be served yet: the operator registers
    /// it, so this waits for its definition.
    pub(crate) async fn apply(&self, documents: &str) {
        for document in documents.split("---\n").filter(|document| !document.trim().is_empty()) {
            let value: serde_json::Value = serde_yaml_ng::from_str(document).unwrap();
            let object: kube::api::DynamicObject = serde_json::from_value(value).unwrap();
            let types = object.types.clone().unwrap();
            if types.api_version.starts_with("cilium.io/") || types.api_version.starts_with(causeway_k8s::mcs::GROUP) {
                self.served(&types.kind).await;
            }
            let kind = kube::api::GroupVersionKind::try_from(&types).unwrap();
            let resource = kube::api::ApiResource::from_gvk(&kind);
            let api: Api<kube::api::DynamicObject> = match &object.metadata.namespace {
                Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
                None => Api::all_with(self.client.clone(), &resource),
            };
            let name = object.metadata.name.clone().unwrap();
            let params = PatchParams::apply("test").force();
            api.patch(&name, &params, &Patch::Apply(&object))
                .await
                .unwrap_or_else(|error| panic!("{error}: {document}"));
        }
    }

    async fn served(&self, kind: &str) {
        let crds = [causeway_k8s::crds(), causeway_k8s::mcs_crds()].concat();
        let name = crds.iter().find(|crd| crd.spec.names.kind == kind).unwrap().metadata.name.clone().unwrap();
        let established = kube::runtime::conditions::is_crd_established();
        within(&format!("{kind} is served"), await_condition(Api::all(self.client.clone()), &name, established))
            .await
            .unwrap();
    }

    /// Waits until the object is as `condition` wants; returns it.
    pub(crate) async fn until<K>(&self, namespace: &str, name: &str, condition: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
    {
        // One name suffices: the tests use no name in two namespaces.
        let api: Api<K> = Api::all(self.client.clone());
        let what = format!("{} {namespace}/{name} as wanted", K::kind(&()));
        let wanted = await_condition(api, name, move |object: Option<&K>| object.is_some_and(&condition));
        within(&what, wanted).await.unwrap().unwrap()
    }

    /// Waits until the object is gone.
    pub(crate) async fn until_gone<K>(&self, name: &str)
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let gone = await_condition(api, name, |object: Option<&K>| object.is_none());
        within(&format!("{} {name} gone", K::kind(&())), gone).await.unwrap();
    }
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for: {what}"))
}

/// A running operator; killed with the test.
pub(crate) struct Operator {
    child: Child,
    log: PathBuf,
}

impl Operator {
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.child.kill();
        _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}
