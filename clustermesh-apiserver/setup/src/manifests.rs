//! The clustermesh-apiserver as Kubernetes objects: ServiceAccount, ClusterRole with its binding, the local etcd's client
//! configuration, Deployment and Service. No Secrets: these are planned elsewhere.

use causeway_mesh_schema::{ClusterId, ClusterName, Scale};
use serde_json::{Value, json};

use crate::{APISERVER, ETCD_PORT, secret};

/// What the installation differs in.
#[derive(Debug, Clone)]
pub struct Install {
    pub namespace: String,
    /// Has `clustermesh-apiserver` and `etcd` in `/usr/bin`.
    pub image: String,
    pub cluster: ClusterName,
    pub id: ClusterId,
    pub scale: Scale,
    pub service_type: ServiceType,
    /// Of a NodePort or LoadBalancer Service; Kubernetes chooses without it.
    pub node_port: Option<u16>,
}

/// How other clusters get at the Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceType {
    LoadBalancer,
    NodePort,
    ClusterIp,
}

impl ServiceType {
    fn word(self) -> &'static str {
        match self {
            ServiceType::LoadBalancer => "LoadBalancer",
            ServiceType::NodePort => "NodePort",
            ServiceType::ClusterIp => "ClusterIP",
        }
    }
}

/// In the order in which they are applied.
#[must_use]
pub fn manifests(install: &Install) -> Vec<Value> {
    vec![
        service_account(install),
        role(),
        binding(install),
        etcd_config(install),
        service(install),
        deployment(install),
    ]
}

/// As one YAML text.
#[must_use]
pub fn yaml(objects: &[Value]) -> String {
    let text = |object: &Value| serde_yaml_ng::to_string(object).expect("JSON is YAML");
    objects.iter().map(text).collect::<Vec<_>>().join("---\n")
}

/// Name of the ConfigMap with the local etcd's client configuration, and where its parts are mounted.
const ETCD_CONFIG: &str = "clustermesh-apiserver-etcd";
const ETCD_CONFIG_DIR: &str = "/var/lib/cilium/etcd-config";
const ADMIN_DIR: &str = "/var/lib/cilium/etcd-secrets";
const SERVER_DIR: &str = "/var/lib/etcd-secrets";
const MESH_DIR: &str = "/var/lib/cilium/clustermesh";
const DATA_DIR: &str = "/var/run/etcd";
/// Nobody in particular, but not root.
const USER: i64 = 65_532;
/// Readable by the group, for containers that are not root: 0440.
const SECRET_MODE: i64 = 0o440;

fn labels() -> Value {
    json!({"k8s-app": APISERVER, "app.kubernetes.io/name": APISERVER, "app.kubernetes.io/part-of": "causeway"})
}

fn metadata(install: &Install, name: &str) -> Value {
    json!({"name": name, "namespace": install.namespace, "labels": labels()})
}

fn service_account(install: &Install) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(install, APISERVER)})
}

/// It reads, and writes nothing.
fn role() -> Value {
    let read = |group: &str, resources: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": ["get", "list", "watch"]});
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": APISERVER, "labels": labels()},
        "rules": [
            read("cilium.io", &["ciliumnodes", "ciliumidentities", "ciliumendpoints", "ciliumendpointslices"]),
            read("", &["namespaces", "services"]),
            read("discovery.k8s.io", &["endpointslices"]),
            read("multicluster.x-k8s.io", &["serviceexports"]),
            read("apiextensions.k8s.io", &["customresourcedefinitions"]),
        ],
    })
}

fn binding(install: &Install) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": APISERVER, "labels": labels()},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": APISERVER},
        "subjects": [{"kind": "ServiceAccount", "name": APISERVER, "namespace": install.namespace}],
    })
}

fn etcd_config(install: &Install) -> Value {
    let text = format!(
        "endpoints: [https://127.0.0.1:{ETCD_PORT}]\ntrusted-ca-file: {ADMIN_DIR}/ca.crt\n\
         cert-file: {ADMIN_DIR}/tls.crt\nkey-file: {ADMIN_DIR}/tls.key\n"
    );
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(install, ETCD_CONFIG),
        "data": {"etcd-config.yaml": text},
    })
}

fn service(install: &Install) -> Value {
    let mut port = json!({"name": "etcd", "port": ETCD_PORT, "targetPort": "etcd", "protocol": "TCP"});
    if let Some(node_port) = install.node_port.filter(|_| install.service_type != ServiceType::ClusterIp) {
        port["nodePort"] = node_port.into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(install, APISERVER),
        "spec": {
            "type": install.service_type.word(),
            "selector": {"k8s-app": APISERVER},
            "ports": [port],
            "ipFamilyPolicy": "PreferDualStack",
        },
    })
}

fn deployment(install: &Install) -> Value {
    let secret =
        |name: &str, secret: &str| json!({"name": name, "secret": {"secretName": secret, "defaultMode": SECRET_MODE}});
    let mut mesh = secret("mesh", secret::KVSTOREMESH);
    // There is none before the first connect.
    mesh["secret"]["optional"] = true.into();
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(install, APISERVER),
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"k8s-app": APISERVER}},
            "template": {
                "metadata": {"labels": labels()},
                "spec": {
                    "serviceAccountName": APISERVER,
                    "priorityClassName": "system-cluster-critical",
                    "securityContext": {
                        "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "initContainers": [init(install)],
                    "containers": [etcd(install), apiserver(install), kvstoremesh(install)],
                    "volumes": [
                        {"name": "data", "emptyDir": {}},
                        {"name": "tmp", "emptyDir": {}},
                        {"name": "etcd-config", "configMap": {"name": ETCD_CONFIG}},
                        secret("server", secret::SERVER),
                        secret("admin", secret::ADMIN),
                        mesh,
                    ],
                },
            },
        },
    })
}

/// A container of the one image, that can do nothing but its work.
fn container(install: &Install, name: &str, command: &[&str], args: &[String], mounts: &[(&str, &str)]) -> Value {
    let writable = ["data", "tmp"];
    let mount =
        |&(name, path): &(&str, &str)| json!({"name": name, "mountPath": path, "readOnly": !writable.contains(&name)});
    json!({
        "name": name,
        "image": install.image,
        "command": command,
        "args": args,
        "volumeMounts": mounts.iter().map(mount).collect::<Vec<_>>(),
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

const BINARY: &str = "/usr/bin/clustermesh-apiserver";
const ETCD: &str = "/usr/bin/etcd";

fn init(install: &Install) -> Value {
    let args = vec![
        format!("--etcd-binary-location={ETCD}"),
        format!("--etcd-data-dir={DATA_DIR}"),
        format!("--etcd-cluster-name={APISERVER}"),
        format!("--etcd-initial-cluster-token={APISERVER}"),
        format!("--cluster-name={}", install.cluster),
    ];
    // Its etcd's log is a temporary file.
    container(install, "etcd-init", &[BINARY, "etcdinit"], &args, &[("data", DATA_DIR), ("tmp", "/tmp")])
}

fn etcd(install: &Install) -> Value {
    let args = vec![
        format!("--data-dir={DATA_DIR}"),
        format!("--name={APISERVER}"),
        format!("--initial-cluster-token={APISERVER}"),
        "--client-cert-auth".to_owned(),
        format!("--trusted-ca-file={SERVER_DIR}/ca.crt"),
        format!("--cert-file={SERVER_DIR}/tls.crt"),
        format!("--key-file={SERVER_DIR}/tls.key"),
        // On every address of either family: of 0.0.0.0 Go makes one socket for both, and, unlike of [::], still one where
        // the kernel has no IPv6. Not the pod's address, which needs brackets if it is IPv6 and must have none if it is
        // IPv4 (newer Go refuses such a URL, and with it etcd from 3.6.6 on; cilium/cilium#42818).
        format!("--listen-client-urls=https://0.0.0.0:{ETCD_PORT}"),
        // etcd wants one; nobody follows it: others know the Service, we the loopback address.
        format!("--advertise-client-urls=https://127.0.0.1:{ETCD_PORT}"),
        "--auto-compaction-retention=1".to_owned(),
    ];
    let mut etcd = container(install, "etcd", &[ETCD], &args, &[("data", DATA_DIR), ("server", SERVER_DIR)]);
    etcd["ports"] = json!([{"name": "etcd", "containerPort": ETCD_PORT, "protocol": "TCP"}]);
    etcd
}

fn apiserver(install: &Install) -> Value {
    let mounts = [("etcd-config", ETCD_CONFIG_DIR), ("admin", ADMIN_DIR)];
    let args = common(install, 9880, 9962);
    probed(container(install, "apiserver", &[BINARY, "clustermesh"], &args, &mounts), 9880, 9962)
}

fn kvstoremesh(install: &Install) -> Value {
    let mounts = [("etcd-config", ETCD_CONFIG_DIR), ("admin", ADMIN_DIR), ("mesh", MESH_DIR)];
    let mut args = common(install, 9881, 9964);
    args.push(format!("--clustermesh-config={MESH_DIR}"));
    probed(container(install, "kvstoremesh", &[BINARY, "kvstoremesh"], &args, &mounts), 9881, 9964)
}

fn common(install: &Install, health: u16, metrics: u16) -> Vec<String> {
    vec![
        format!("--cluster-name={}", install.cluster),
        format!("--cluster-id={}", install.id),
        format!("--max-connected-clusters={}", install.scale.max_clusters()),
        format!("--kvstore-opt=etcd.config={ETCD_CONFIG_DIR}/etcd-config.yaml"),
        format!("--health-port={health}"),
        format!("--prometheus-serve-addr=:{metrics}"),
    ]
}

fn probed(mut container: Value, health: u16, metrics: u16) -> Value {
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": health}});
    container["readinessProbe"] = probe("/readyz");
    container["livenessProbe"] = probe("/healthz");
    container["ports"] = json!([{"name": "metrics", "containerPort": metrics, "protocol": "TCP"}]);
    let name = container["name"].as_str().unwrap_or_default();
    container["ports"][0]["name"] = format!("{}-metr", name.chars().take(10).collect::<String>()).into();
    container
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install() -> Install {
        Install {
            namespace: "kube-system".to_owned(),
            image: "registry.example/clustermesh-apiserver:1".to_owned(),
            cluster: ClusterName::parse("east").unwrap(),
            id: ClusterId::new(7, Scale::C511).unwrap(),
            scale: Scale::C511,
            service_type: ServiceType::NodePort,
            node_port: Some(32_379),
        }
    }

    #[test]
    fn objects_fit_together() {
        let objects = manifests(&install());
        let kinds: Vec<&str> = objects.iter().filter_map(|o| o["kind"].as_str()).collect();
        let order = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "Service", "Deployment"];
        assert_eq!(kinds, order);
        assert_eq!(objects[4]["spec"]["ports"][0]["nodePort"], 32_379);
        let pod = &objects[5]["spec"]["template"]["spec"];
        let volumes: Vec<&Value> = pod["volumes"].as_array().unwrap().iter().map(|v| &v["name"]).collect();
        let containers = pod["initContainers"].as_array().unwrap().iter().chain(pod["containers"].as_array().unwrap());
        for container in containers {
            for mount in container["volumeMounts"].as_array().unwrap() {
                assert!(volumes.contains(&&mount["name"]), "{mount}");
            }
            for port in container["ports"].as_array().into_iter().flatten() {
                assert!(port["name"].as_str().unwrap().len() <= 15, "{port}");
            }
        }
        let args = &pod["containers"][1]["args"];
        assert!(args.as_array().unwrap().contains(&"--max-connected-clusters=511".into()), "{args}");
    }

    #[test]
    fn etcdinit_has_a_place_for_its_log() {
        let objects = manifests(&install());
        let pod = &objects[5]["spec"]["template"]["spec"];
        let init = &pod["initContainers"][0];
        assert_eq!(init["securityContext"]["readOnlyRootFilesystem"], true);
        let mounts = init["volumeMounts"].as_array().unwrap();
        let tmp = json!({"name": "tmp", "mountPath": "/tmp", "readOnly": false});
        assert!(mounts.contains(&tmp), "{mounts:?}");
        assert!(pod["volumes"].as_array().unwrap().contains(&json!({"name": "tmp", "emptyDir": {}})));
    }

    #[test]
    fn etcd_listens_on_urls_that_fit_both_families() {
        let objects = manifests(&install());
        let etcd = &objects[5]["spec"]["template"]["spec"]["containers"][0];
        let args: Vec<&str> = etcd["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let urls: Vec<&&str> = args.iter().filter(|arg| arg.contains("://")).collect();
        assert_eq!(
            urls,
            [&"--listen-client-urls=https://0.0.0.0:2379", &"--advertise-client-urls=https://127.0.0.1:2379"]
        );
        // A variable stands in no URL: its value may be of the family that the URL does not fit.
        assert!(args.iter().all(|arg| !arg.contains("$(")), "{args:?}");
    }

    #[test]
    fn text_is_yaml_without_secrets() {
        let text = yaml(&manifests(&install()));
        assert_eq!(text.matches("---\n").count(), 5);
        assert!(!text.contains("kind: Secret"));
    }
}
