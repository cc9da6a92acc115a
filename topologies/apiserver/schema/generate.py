#!/usr/bin/env python3
"""Writes types.txt: the fields of the built-in kinds, in the small language that src/schema/types.rs reads.

Names, types, required fields and list keys come from the sources of the k8s-openapi crate (their shape is generated and
regular); defaults and enums, which that crate does not carry, stand below. Run it again when a kind is added:

    schema/generate.py ~/.cargo/registry/src/*/k8s-openapi-0.29.0/src/v1_37 $(which kubectl) > schema/types.txt

The second argument is any Kubernetes binary (a real one, not a wrapper script): the protobuf field numbers are read from the
descriptors inside it. kubectl's typed clients speak protobuf when they create.
"""
import pathlib
import re
import sys
import zlib

ROOTS = """
api.core.v1: Pod Node Service Namespace ServiceAccount Secret ConfigMap Endpoints Event PersistentVolumeClaim Binding ReplicationController
api.apps.v1: Deployment ReplicaSet DaemonSet StatefulSet ControllerRevision
api.batch.v1: Job CronJob
api.autoscaling.v1: Scale
api.coordination.v1: Lease
api.discovery.v1: EndpointSlice
api.events.v1: Event
api.networking.v1: NetworkPolicy Ingress IngressClass
api.policy.v1: PodDisruptionBudget Eviction
api.rbac.v1: Role RoleBinding ClusterRole ClusterRoleBinding
api.scheduling.v1: PriorityClass
api.authorization.v1: SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview
api.authentication.v1: SelfSubjectReview TokenRequest TokenReview
apiextensions_apiserver.pkg.apis.apiextensions.v1: CustomResourceDefinition
apimachinery.pkg.apis.meta.v1: DeleteOptions Status
"""

# Where one merge key is not enough to tell two entries apart.
KEYS = {
    "core.v1.Container.ports": "containerPort,protocol",
    "core.v1.ServiceSpec.ports": "port,protocol",
    "core.v1.PodSpec.topologySpreadConstraints": "topologyKey,whenUnsatisfiable",
    "core.v1.PodStatus.podIPs": "ip",
    "core.v1.PodStatus.hostIPs": "ip",
    # A dual-stack node has two addresses of one type.
    "core.v1.NodeStatus.addresses": "type,address",
}

PROTOCOL = 'enum=TCP|UDP|SCTP'
# field -> extra words of the language
EXTRA = {
    "core.v1.ContainerPort.protocol": "=\"TCP\" " + PROTOCOL,
    "core.v1.ServicePort.protocol": "=\"TCP\" " + PROTOCOL,
    "core.v1.EndpointPort.protocol": "=\"TCP\" " + PROTOCOL,
    "discovery.v1.EndpointPort.protocol": "=\"TCP\" " + PROTOCOL,
    "networking.v1.NetworkPolicyPort.protocol": "=\"TCP\" " + PROTOCOL,
    "core.v1.PodSpec.restartPolicy": '="Always" enum=Always|OnFailure|Never',
    "core.v1.PodSpec.terminationGracePeriodSeconds": "=30",
    "core.v1.PodSpec.dnsPolicy": '="ClusterFirst" enum=ClusterFirst|ClusterFirstWithHostNet|Default|None',
    "core.v1.PodSpec.schedulerName": '="default-scheduler"',
    "core.v1.PodSpec.securityContext": "={}",
    "core.v1.PodSpec.serviceAccountName": "",
    "core.v1.PodSpec.enableServiceLinks": "",
    "core.v1.PodSpec.preemptionPolicy": "enum=PreemptLowerPriority|Never",
    "core.v1.Container.terminationMessagePath": '="/dev/termination-log"',
    "core.v1.Container.terminationMessagePolicy": '="File" enum=File|FallbackToLogsOnError',
    "core.v1.Container.imagePullPolicy": "enum=Always|IfNotPresent|Never",
    "core.v1.Container.resources": "={}",
    "core.v1.Probe.timeoutSeconds": "=1",
    "core.v1.Probe.periodSeconds": "=10",
    "core.v1.Probe.successThreshold": "=1",
    "core.v1.Probe.failureThreshold": "=3",
    "core.v1.HTTPGetAction.scheme": '="HTTP" enum=HTTP|HTTPS',
    "core.v1.HTTPGetAction.path": '="/"',
    "core.v1.ObjectFieldSelector.apiVersion": '="v1"',
    "core.v1.SecretVolumeSource.defaultMode": "=420",
    "core.v1.ConfigMapVolumeSource.defaultMode": "=420",
    "core.v1.ProjectedVolumeSource.defaultMode": "=420",
    "core.v1.DownwardAPIVolumeSource.defaultMode": "=420",
    "core.v1.HostPathVolumeSource.type": '=""',
    "core.v1.ServiceSpec.type": '="ClusterIP" enum=ClusterIP|NodePort|LoadBalancer|ExternalName',
    "core.v1.ServiceSpec.sessionAffinity": '="None" enum=None|ClientIP',
    "core.v1.ServiceSpec.ipFamilyPolicy": "enum=SingleStack|PreferDualStack|RequireDualStack",
    "core.v1.ServiceSpec.internalTrafficPolicy": "enum=Cluster|Local",
    "core.v1.ServiceSpec.externalTrafficPolicy": "enum=Cluster|Local",
    "core.v1.ClientIPConfig.timeoutSeconds": "=10800",
    "core.v1.Secret.type": '="Opaque"',
    "core.v1.Taint.effect": "enum=NoSchedule|PreferNoSchedule|NoExecute",
    "core.v1.Toleration.effect": "enum=NoSchedule|PreferNoSchedule|NoExecute",
    "core.v1.Toleration.operator": "enum=Equal|Exists|Lt|Gt",
    "core.v1.TopologySpreadConstraint.whenUnsatisfiable": "enum=DoNotSchedule|ScheduleAnyway",
    "apps.v1.DeploymentSpec.replicas": "=1 min=0",
    "apps.v1.DeploymentSpec.revisionHistoryLimit": "=10 min=0",
    "apps.v1.DeploymentSpec.progressDeadlineSeconds": "=600",
    "apps.v1.DeploymentSpec.minReadySeconds": "min=0",
    "apps.v1.DeploymentSpec.strategy": '={"type":"RollingUpdate"}',
    "apps.v1.DeploymentStrategy.type": '="RollingUpdate" enum=RollingUpdate|Recreate',
    "apps.v1.ReplicaSetSpec.replicas": "=1 min=0",
    "apps.v1.StatefulSetSpec.replicas": "=1 min=0",
    "apps.v1.StatefulSetSpec.podManagementPolicy": '="OrderedReady"',
    "apps.v1.StatefulSetSpec.revisionHistoryLimit": "=10",
    "apps.v1.DaemonSetSpec.revisionHistoryLimit": "=10",
    "batch.v1.JobSpec.completions": "min=0",
    "batch.v1.JobSpec.parallelism": "min=0",
    "batch.v1.JobSpec.backoffLimit": "=6 min=0",
    "core.v1.NodeSelectorRequirement.operator": "enum=In|NotIn|Exists|DoesNotExist|Gt|Lt",
    "meta.v1.LabelSelectorRequirement.operator": "enum=In|NotIn|Exists|DoesNotExist",
    "networking.v1.HTTPIngressPath.pathType": "enum=Exact|Prefix|ImplementationSpecific",
    "discovery.v1.EndpointSlice.addressType": "enum=IPv4|IPv6|FQDN",
    "apiextensions.v1.CustomResourceDefinitionSpec.scope": "enum=Cluster|Namespaced",
    "apiextensions.v1.CustomResourceConversion.strategy": "enum=None|Webhook",
}
# The crate says required, the real API fills a default or accepts its absence.
OPTIONAL = {"core.v1.Container.image"}

SCALARS = {
    "bool": "bool", "i32": "int", "i64": "int", "f64": "number", "std::string::String": "string",
    "crate::apimachinery::pkg::util::intstr::IntOrString": "intstr",
    "crate::apimachinery::pkg::api::resource::Quantity": "quantity",
    "crate::apimachinery::pkg::apis::meta::v1::Time": "time",
    "crate::apimachinery::pkg::apis::meta::v1::MicroTime": "time",
    "crate::apimachinery::pkg::apis::meta::v1::FieldsV1": "any",
    "crate::apimachinery::pkg::runtime::RawExtension": "any",
    "crate::ByteString": "bytes", "crate::serde_json::Value": "any",
}
ANY = {"JSON", "JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool", "JSONSchemaPropsOrStringArray", "JSONSchemaProps",
       "CustomResourceSubresourceStatus"}

base = pathlib.Path(sys.argv[1])


def wire(data):
    """Fields of a protobuf message: (number, value)."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        elif tag & 7 == 2:
            size = varint()
            yield tag >> 3, data[at:at + size]
            at += size
        else:
            raise ValueError(tag)


def descriptors(binary):
    """{"core.v1.Pod": {"metadata": (1, "meta.v1.ObjectMeta"), ...}}"""
    messages = {}
    data = pathlib.Path(binary).read_bytes()
    for match in re.finditer(rb"\x1f\x8b\x08\x00\x00\x00\x00\x00", data):
        try:
            text = zlib.decompressobj(31).decompress(data[match.start():match.start() + 400000])
        except zlib.error:
            continue
        if b"generated.proto" not in text[:200]:
            continue
        top = list(wire(text))
        package = next(v for n, v in top if n == 2).decode()
        for message in (v for n, v in top if n == 4):
            parts = list(wire(message))
            name = next(v for n, v in parts if n == 1).decode()
            fields = {}
            for field in (dict(wire(v)) for n, v in parts if n == 2):
                kind = field.get(6, b"").decode().lstrip(".").split(".")
                fields[field[1].decode()] = (field[3], ".".join(kind[-3:]))
            messages[".".join(package.split(".")[-2:] + [name])] = fields
    return messages


numbers = descriptors(sys.argv[2])


def number_of(owner, json):
    """The field's number, as a path where Go embeds one struct in another."""
    fields = numbers.get(owner, {})
    if json in fields:
        return str(fields[json][0])
    for name, (number, kind) in fields.items():
        if json in numbers.get(kind, {}) and name not in NAMES.get(owner, ()):
            return f"{number}.{numbers[kind][json][0]}"
    return ""


NAMES = {}
done = {}


def short(path):
    words = [w for w in path.replace("crate::", "").split("::") if w not in ("pkg", "apis", "api", "apimachinery",
             "apiextensions_apiserver")]
    return ".".join(words)


def parse_type(text):
    """-> (type in our language, optional)"""
    optional = False
    if m := re.fullmatch(r"Option<(.*)>", text):
        text, optional = m[1], True
    if m := re.fullmatch(r"std::boxed::Box<(.*)>", text):
        text = m[1]
    if m := re.fullmatch(r"std::vec::Vec<(.*)>", text):
        return "[]" + parse_type(m[1])[0], optional
    if m := re.fullmatch(r"std::collections::BTreeMap<std::string::String, (.*)>", text):
        return "{}" + parse_type(m[1])[0], optional
    if text in SCALARS:
        return SCALARS[text], optional
    name = text.split("::")[-1]
    if name in ANY:
        return "any", optional
    load(text)
    return short(text), optional


def load(path):
    if path in done:
        return
    done[path] = None
    parts = path.replace("crate::", "").split("::")
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", parts[-1]).lower()
    folder = base.joinpath(*parts[:-1])
    source = None
    for file in sorted(folder.glob("*.rs")):
        if file.stem.replace("_", "") == snake.replace("_", ""):
            source = file.read_text()
    if source is None:
        sys.exit(f"no source for {path} in {folder}")
    body = re.search(r"pub struct %s \{(.*?)\n\}" % parts[-1], source, re.S)
    fields = re.findall(r"^    pub (\S+): (.*),$", body[1], re.M) if body else []
    names = {rust: json for json, rust in re.findall(r'"([^"]+)" => Field::Key_(\w+)', source)}
    owner = short(path)
    NAMES[owner] = set(names.values())
    lines = []
    for rust, text in fields:
        key = rust.removeprefix("r#")
        json = names.get(key) or names.get(key.rstrip("_"))
        if json is None:
            sys.exit(f"no JSON name for {path}.{rust}")
        typ, optional = parse_type(text)
        where = f"{owner}.{json}"
        mark = "" if optional or json == "metadata" or where in OPTIONAL else "!"
        number = number_of(owner, json)
        words = [json + mark + (f":{number}" if number else ""), typ]
        if m := re.search(r"list::map\(\s*&mut self\.%s,.*?&\[(.*?)\],\s*\|" % re.escape(rust), source, re.S):
            keys = [camel(k) for k in re.findall(r"lhs\.([\w#]+) ==", m[1])]
            keys = keys or ["name"]
            words.append("key=" + KEYS.get(where, ",".join(keys)))
        elif where in KEYS:
            words.append("key=" + KEYS[where])
        elif re.search(r"list::set\(&mut self\.%s," % re.escape(rust), source):
            words.append("set")
        elif re.search(r"map::atomic\(&mut self\.%s," % re.escape(rust), source):
            words.append("atomic")
        if EXTRA.get(where):
            words.append(EXTRA.pop(where))
        lines.append("  " + " ".join(words))
    done[path] = (owner, source_kind(source), lines)


def camel(rust):
    head, *rest = rust.removeprefix("r#").rstrip("_").split("_")
    return head + "".join({"ip": "IP", "id": "ID"}.get(w, w.capitalize()) for w in rest)


def source_kind(source):
    return "impl crate::Resource for" in source


for line in ROOTS.strip().splitlines():
    package, kinds = line.split(":")
    for kind in kinds.split():
        load("crate::" + package.replace(".", "::") + "::" + kind)
print("# Fields of the built-in kinds. Written by generate.py; the language is described in src/schema/types.rs.")
for owner, kind, lines in sorted(v for v in done.values() if v):
    if kind:
        lines = ["  apiVersion string", "  kind string"] + [l for l in lines if not l.startswith(("  apiVersion ", "  kind "))]
    print(f"\n{owner}")
    print("\n".join(lines))
for left in EXTRA:
    if EXTRA[left]:
        print("unused rule:", left, file=sys.stderr)
