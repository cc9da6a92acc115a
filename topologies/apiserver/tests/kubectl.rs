//! Real `kubectl` against the server: one long story, told in commands.

mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::Lab;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

struct Kubectl<'a> {
    lab: &'a Lab,
}

struct Output {
    ok: bool,
    /// Both streams.
    text: String,
}

impl Output {
    fn has(&self, expected: &str) -> &Self {
        assert!(self.text.contains(expected), "expected {expected:?} in:\n{}", self.text);
        self
    }

    fn ok(&self) -> &Self {
        assert!(self.ok, "failed:\n{}", self.text);
        self
    }

    fn fails(&self) -> &Self {
        assert!(!self.ok, "did not fail:\n{}", self.text);
        self
    }
}

impl<'a> Kubectl<'a> {
    fn new(lab: &'a Lab) -> Self {
        let found = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|p| p.join("kubectl").exists()));
        assert!(found, "kubectl is not in PATH: install it (Debian package kubernetes-client, or a release binary)");
        Self { lab }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(arguments.split_whitespace())
            .env("KUBECONFIG", &self.lab.kubeconfig)
            .env("HOME", self.lab.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &str) -> Output {
        self.with_input(arguments, "").await
    }

    async fn with_input(&self, arguments: &str, input: &str) -> Output {
        let mut child = self.command(arguments).spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        // kubectl takes what begins with a brace for JSON; this is YAML in flow style.
        let input = if input.starts_with('{') { format!("---\n{input}") } else { input.to_owned() };
        stdin.write_all(input.as_bytes()).await.expect("kubectl reads");
        drop(stdin);
        let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output())
            .await
            .expect("in time")
            .expect("an end");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Output { ok: output.status.success(), text }
    }
}

const WEB: &str = r"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: 'echo:1', ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, name: http}], type: NodePort}
";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kubectl 1.28 or newer; run by make e2e TOPIC=kube"]
async fn workloads() {
    let lab = Lab::start().await;
    let kubectl = Kubectl::new(&lab);
    let kubelet = lab.kubelet();
    for n in ["n1", "n2", "n3"] {
        lab.node(n, "z").await;
    }
    kubectl.run("version").await.ok().has("Server Version: v1.32");
    kubectl.run("get namespaces").await.ok().has("kube-node-lease").has("Active");
    kubectl.run("api-resources --namespaced=false").await.ok().has("customresourcedefinitions").has("crd,crds");
    kubectl.with_input("apply -f -", WEB).await.ok().has("deployment.apps/web created").has("service/web created");
    kubectl.run("rollout status deployment/web --timeout=30s").await.ok().has("successfully rolled out");
    kubectl.run("wait --for=condition=Available deployment/web --timeout=30s").await.ok().has("condition met");
    kubectl.with_input("apply -f -", WEB).await.ok().has("deployment.apps/web unchanged").has("service/web unchanged");
    kubectl
        .run("get deployments,replicasets,pods,services,endpointslices -o wide")
        .await
        .ok()
        .has("2/2")
        .has("Running")
        .has("app=web")
        .has("80:3");
    kubectl.run("get all").await.ok().has("replicaset.apps/web-");
    kubectl
        .run("describe deployment web")
        .await
        .ok()
        .has("ScalingReplicaSet")
        .has("2 desired | 2 updated | 2 total | 2 available");
    kubectl.run("describe service web").await.ok().has("Endpoints:").has(":80");
    kubectl.run("describe node n1").await.ok().has("Taints:").has("Non-terminated Pods");
    // Scaling and rolling.
    kubectl.run("scale deployment web --replicas=3").await.ok().has("scaled");
    kubectl.run("wait --for=jsonpath={.status.readyReplicas}=3 deployment/web --timeout=30s").await.ok();
    kubectl.run("set image deployment/web c=echo:2").await.ok().has("image updated");
    kubectl.run("rollout status deployment/web --timeout=30s").await.ok();
    kubectl.run("rollout history deployment/web").await.ok().has("1").has("2");
    kubectl.run("rollout undo deployment/web").await.ok().has("rolled back");
    kubectl.run("rollout status deployment/web --timeout=30s").await.ok();
    kubectl.run("get deployment web -o jsonpath={.spec.template.spec.containers[0].image}").await.ok().has("echo:1");
    kubectl.run("rollout restart deployment/web").await.ok().has("restarted");
    kubectl.run("rollout status deployment/web --timeout=30s").await.ok();
    kubectl
        .run("get pods --field-selector=spec.nodeName!=n9,status.phase=Running -l app=web -o name")
        .await
        .ok()
        .has("pod/web-");
    // Nodes and the scheduler.
    kubectl.run("cordon n1").await.ok().has("cordoned");
    kubectl.run("get nodes").await.ok().has("Ready,SchedulingDisabled");
    kubectl.run("drain n1 --ignore-daemonsets --timeout=30s").await.ok().has("drained");
    kubectl.run("uncordon n1").await.ok();
    kubectl.run("taint nodes n1 n2 n3 only=me:NoSchedule").await.ok();
    kubectl.run("run stuck --image=x").await.ok().has("created");
    kubectl.run("wait --for=condition=PodScheduled=false pod/stuck --timeout=20s").await.ok();
    kubectl.run("describe pod stuck").await.ok().has("FailedScheduling").has("0/3 nodes are available");
    kubectl.run("taint nodes n1 n2 n3 only-").await.ok();
    kubectl.run("wait --for=condition=Ready pod/stuck --timeout=20s").await.ok();
    kubectl.run("delete pod stuck").await.ok().has("deleted");
    // Logs come from the kubelet's files.
    let pod =
        kubectl.run("get pods -l app=web -o jsonpath={.items[0].metadata.name},{.items[0].metadata.uid}").await.text;
    let (name, uid) = pod.split_once(',').expect("two words");
    let logs = lab.directory.path().join("logs").join(format!("default_{name}_{uid}"));
    std::fs::create_dir_all(&logs).expect("a directory");
    std::fs::write(logs.join("c.log"), "first\nsecond\n").expect("a file");
    kubectl.run(&format!("logs {name} --tail=1")).await.ok().has("second");
    follow(&kubectl, name, &logs.join("c.log")).await;
    kubectl.run("delete deployment/web service/web").await.ok();
    kubectl.run("wait --for=delete pod -l app=web --timeout=30s").await.ok();
    kubelet.abort();
}

async fn follow(kubectl: &Kubectl<'_>, pod: &str, file: &Path) {
    let mut child = kubectl.command(&format!("logs -f {pod}")).spawn().expect("kubectl starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    for expected in ["first", "second"] {
        assert_eq!(lines.next_line().await.expect("a line").as_deref(), Some(expected));
    }
    std::fs::write(file, "first\nsecond\nthird\n").expect("a file");
    let third = tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await.expect("in time");
    assert_eq!(third.expect("a line").as_deref(), Some("third"));
    child.kill().await.expect("ends");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kubectl 1.28 or newer; run by make e2e TOPIC=kube"]
async fn objects() {
    let lab = Lab::start().await;
    let kubectl = Kubectl::new(&lab);
    // Creating without a file: typed clients, protobuf.
    kubectl.run("create namespace shop").await.ok().has("created");
    kubectl.run("create configmap a --from-literal=k=v").await.ok();
    kubectl.run("create secret generic s --from-literal=p=secret").await.ok();
    kubectl.run("get secret s -o jsonpath={.data.p}").await.ok().has("c2VjcmV0");
    kubectl.run("create deployment d --image=i --replicas=0 --port=8080").await.ok();
    kubectl.run("expose deployment d --port=80 --target-port=8080").await.ok();
    kubectl.run("create service nodeport np --tcp=80:8080").await.ok();
    kubectl.run("get service np -o jsonpath={.spec.ports[0].targetPort}").await.ok().has("8080");
    kubectl.run("auth can-i create pods").await.ok().has("yes");
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: of-a-list}}\n";
    kubectl.with_input("create -f -", list).await.ok().has("configmap/of-a-list created");
    kubectl.run("auth whoami").await.ok().has("admin").has("system:masters");
    // Patches of every kind.
    kubectl.run("patch configmap a --type=merge -p {\"data\":{\"m\":\"1\"}}").await.ok().has("patched");
    kubectl.run("patch configmap a --type=json -p [{\"op\":\"add\",\"path\":\"/data/j\",\"value\":\"2\"}]").await.ok();
    kubectl.run("patch configmap a -p {\"data\":{\"s\":\"3\"}}").await.ok();
    kubectl.run("get configmap a -o jsonpath={.data}").await.ok().has(r#""m":"1""#).has(r#""j":"2""#).has(r#""s":"3""#);
    kubectl.run("patch configmap a --type=json -p [{\"op\":\"remove\",\"path\":\"/data/none\"}]").await.fails();
    let strategic = r#"patch deployment d -p {"spec":{"template":{"spec":{"containers":[{"name":"i","image":"new"},{"name":"b","image":"x"}]}}}}"#;
    kubectl.run(strategic).await.ok();
    kubectl
        .run("get deployment d -o jsonpath={.spec.template.spec.containers[*].image}")
        .await
        .ok()
        .has("new")
        .has("x");
    kubectl.run("label configmap a tier=web").await.ok().has("labeled");
    kubectl.run("label configmap a tier=db").await.fails().has("already has a value");
    kubectl.run("annotate configmap a note=x").await.ok();
    kubectl.run("get configmap -l tier=web --show-labels").await.ok().has("tier=web");
    kubectl.run("get pods -A --field-selector=spec.foo=1").await.fails().has("field label not supported");
    // Validation on the server.
    let typo = "{apiVersion: v1, kind: ConfigMap, metadata: {name: t}, datta: {a: b}}";
    kubectl.with_input("create -f -", typo).await.fails().has("strict decoding error: unknown field \"datta\"");
    kubectl.with_input("create --validate=warn -f -", typo).await.ok().has("Warning: unknown field \"datta\"");
    let bad = "{apiVersion: v1, kind: Service, metadata: {name: bad}, spec: {ports: [{port: 0}]}}";
    kubectl.with_input("apply -f -", bad).await.fails().has("spec.ports[0].port: Invalid value: 0");
    kubectl.with_input("apply --dry-run=server -f -", WEB).await.ok().has("created (server dry run)");
    kubectl.run("get deployment web").await.fails().has("deployments.apps \"web\" not found");
    kubectl.run("create configmap a").await.fails().has("already exists");
    // Server-side apply with a conflict.
    let owned = "{apiVersion: v1, kind: ConfigMap, metadata: {name: o}, data: {k: '1'}}";
    let other = owned.replace("'1'", "'2'");
    kubectl.with_input("apply --server-side --field-manager=one -f -", owned).await.ok().has("serverside-applied");
    kubectl
        .with_input("apply --server-side --field-manager=two -f -", &other)
        .await
        .fails()
        .has("conflict with \"one\": .data.k");
    kubectl.with_input("apply --server-side --field-manager=two --force-conflicts -f -", &other).await.ok();
    kubectl.run("get configmap o -o yaml --show-managed-fields").await.ok().has("manager: two").has("f:data");
    // Apply remembers what it applied and removes the rest.
    kubectl
        .with_input("apply -f -", "{apiVersion: v1, kind: ConfigMap, metadata: {name: p}, data: {a: '1', b: '2'}}")
        .await
        .ok();
    kubectl
        .with_input("apply -f -", "{apiVersion: v1, kind: ConfigMap, metadata: {name: p}, data: {a: '1'}}")
        .await
        .ok()
        .has("configured");
    kubectl.run("get configmap p -o jsonpath={.data}").await.ok().has(r#"{"a":"1"}"#);
    let changed = "{apiVersion: v1, kind: ConfigMap, metadata: {name: p}, data: {a: '9'}}";
    kubectl.with_input("diff -f -", changed).await.fails().has("-  a: \"1\"").has("+  a: \"9\"");
    kubectl.run("explain deployment.spec.strategy").await.ok().has("rollingUpdate").has("FIELD: strategy");
    kubectl.run("explain pods").await.ok().has("KIND:       Pod");
    kubectl.run("get --raw /readyz").await.ok().has("ok");
    kubectl.run("delete configmap --all --cascade=foreground").await.ok().has("deleted");
    kubectl.run("delete namespace shop").await.ok().has("deleted");
    kubectl.run("get namespace shop").await.fails().has("not found");
}

const CRD: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Cluster
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: Size, type: integer, jsonPath: .spec.size}
    - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        description: A widget.
        properties:
          spec: {type: object, description: What is wanted., required: [size], properties: {size: {type: integer, description: How big., minimum: 1}}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"#;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs kubectl 1.28 or newer; run by make e2e TOPIC=kube"]
async fn custom_resources() {
    let lab = Lab::start().await;
    let kubectl = Kubectl::new(&lab);
    kubectl.with_input("apply -f -", CRD).await.ok().has("created");
    kubectl.run("wait --for=condition=Established crd/widgets.example.com --timeout=10s").await.ok();
    let widget = "{apiVersion: example.com/v1, kind: Widget, metadata: {name: a}, spec: {size: 4}}";
    kubectl.with_input("apply -f -", widget).await.ok().has("widget.example.com/a created");
    kubectl.with_input("apply -f -", &widget.replace("size: 4", "size: 5")).await.ok().has("configured");
    kubectl.with_input("apply -f -", &widget.replace("size: 4", "size: 0")).await.fails().has("spec.size");
    kubectl
        .with_input("apply -f -", &widget.replace("size: 4", "size: 4, odd: 1"))
        .await
        .fails()
        .has("unknown field \"spec.odd\"");
    let status = r#"patch widget a --subresource=status --type=merge -p {"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
    kubectl.run(status).await.ok();
    kubectl.run("get wd").await.ok().has("NAME").has("SIZE").has("5").has("True");
    kubectl.run("wait --for=condition=Ready widget/a --timeout=5s").await.ok();
    kubectl.run("explain widget.spec").await.ok().has("How big.");
    kubectl.run("describe widget a").await.ok().has("Size:");
    kubectl.run("delete crd widgets.example.com").await.ok();
    kubectl.run("get wd").await.fails();
}

#[tokio::test(flavor = "multi_thread")]
async fn watching() {
    let lab = Lab::start().await;
    let kubectl = Kubectl::new(&lab);
    let mut child = kubectl.command("get configmaps -w --no-headers -l w=1").spawn().expect("kubectl starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let made = "{apiVersion: v1, kind: ConfigMap, metadata: {name: seen, labels: {w: '1'}}}";
    kubectl.with_input("create -f -", made).await.ok();
    let line =
        tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await.expect("in time").expect("a line");
    assert!(line.as_deref().is_some_and(|l| l.starts_with("seen")), "{line:?}");
    child.kill().await.expect("ends");
}
