//! A server on a free loopback port, certificates for it, clients of it, and a kubelet that only says "running".

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use clap::Parser as _;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Config};
use lab_apiserver::{Options, Running};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::json;

pub struct Lab {
    pub running: Running,
    pub directory: tempfile::TempDir,
    pub kubeconfig: PathBuf,
    pub client: Client,
}

fn certificate(user: &str, group: &str, issuer: &Issuer<'_, KeyPair>) -> (String, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.distinguished_name.push(DnType::CommonName, user);
    params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().expect("an address"))];
    let key = KeyPair::generate().expect("a key");
    let cert = params.signed_by(&key, issuer).expect("a certificate");
    (cert.pem(), key.serialize_pem())
}

impl Lab {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    pub async fn with(flags: &[&str]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().expect("a key");
        let authority_cert = authority.self_signed(&authority_key).expect("a certificate");
        let issuer = Issuer::new(authority, authority_key);
        let (server_cert, server_key) = certificate("apiserver", "lab", &issuer);
        let (admin_cert, admin_key) = certificate("admin", "system:masters", &issuer);
        for (name, text) in
            [("ca.crt", &authority_cert.pem()), ("server.crt", &server_cert), ("server.key", &server_key)]
        {
            std::fs::write(at(name), text).expect("a file");
        }
        let path = |name: &str| at(name).to_string_lossy().into_owned();
        let mut arguments: Vec<String> = vec!["apiserver".into(), "--listen".into(), "127.0.0.1:0".into()];
        for (flag, name) in [
            ("--tls-cert-file", "server.crt"),
            ("--tls-private-key-file", "server.key"),
            ("--client-ca-file", "ca.crt"),
            ("--pod-log-dir", "logs"),
        ] {
            arguments.extend([flag.to_owned(), path(name)]);
        }
        arguments.extend(["--advertise-address=10.0.0.5".into(), "--advertise-address=fd00:10::5".into()]);
        arguments.extend(flags.iter().map(|f| (*f).to_owned()));
        let options = Options::try_parse_from(arguments).expect("flags");
        let running = lab_apiserver::start(&options).await.expect("a server");
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let kubeconfig = at("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": format!("https://{}", running.addresses[0]), "certificate-authority-data": encode(&authority_cert.pem())}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "admin"}}],
            "users": [{"name": "admin", "user": {"client-certificate-data": encode(&admin_cert), "client-key-data": encode(&admin_key)}}],
        });
        std::fs::write(&kubeconfig, text.to_string()).expect("a file");
        let config = Kubeconfig::from_yaml(&text.to_string()).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.expect("a config");
        let client = Client::try_from(config).expect("a client");
        Self { running, directory, kubeconfig, client }
    }

    /// Somebody with no certificate of ours.
    pub async fn stranger(&self) -> Client {
        let text = std::fs::read_to_string(&self.kubeconfig).expect("the file");
        let mut config = Kubeconfig::from_yaml(&text).expect("a kubeconfig");
        config.auth_infos[0].auth_info = Some(AuthInfo::default());
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.expect("a config");
        Client::try_from(config).expect("a client")
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    pub async fn node(&self, name: &str, zone: &str) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = serde_json::from_value(json!({"metadata": {"name": name, "labels": {
            "topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": name}}}));
        nodes.create(&PostParams::default(), &node.expect("a node")).await.expect("a new node");
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.expect("a status");
    }

    /// Every pod that gets a node runs at once; every pod that is to go is gone at once.
    pub fn kubelet(&self) -> tokio::task::JoinHandle<()> {
        let client = self.client.clone();
        tokio::spawn(async move {
            let pods: Api<Pod> = Api::all(client.clone());
            let mut events = watcher(pods, watcher::Config::default()).applied_objects().boxed();
            let mut next = 10_u32;
            while let Ok(Some(pod)) = events.try_next().await {
                let (name, namespace) =
                    (pod.metadata.name.clone().unwrap_or_default(), pod.metadata.namespace.clone().unwrap_or_default());
                let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
                let placed = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
                let running = pod.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Running"));
                if pod.metadata.deletion_timestamp.is_some() {
                    let _ = api.delete(&name, &DeleteParams::default().grace_period(0)).await;
                } else if placed && !running {
                    next += 1;
                    let status = json!({"status": {
                        "phase": "Running", "podIP": format!("10.1.1.{next}"),
                        "podIPs": [{"ip": format!("10.1.1.{next}")}, {"ip": format!("fd00:1:1::{next}")}],
                        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2025-01-01T00:00:00Z"}],
                        "containerStatuses": [{"name": "c", "ready": true, "restartCount": 0, "image": "i", "imageID": "", "state": {"running": {}}}],
                    }});
                    let _ = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await;
                }
            }
        })
    }
}

/// Waits for a condition that is looked at often.
pub async fn eventually<F, T>(what: &str, mut check: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "i"}], "nodeName": "n1"}}))
    .expect("a pod")
}
