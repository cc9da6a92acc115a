//! The columns of `kubectl get`: a path into the object, or one of the functions below.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::jsonpath::{find, first, shown};

#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    /// `string`, `integer`, `number`, `boolean`, `date`.
    pub kind: String,
    pub format: String,
    pub description: String,
    /// Above 0: only with `-o wide`.
    pub priority: i64,
    cell: Cell,
}

/// What stands for a value that is not there.
#[derive(Clone, Copy, Debug)]
enum Absent {
    None,
    Empty,
}

#[derive(Clone, Debug)]
enum Cell {
    Path(String, Absent),
    Date(String),
    Function(fn(&Value, &str) -> Value, String),
}

impl Column {
    /// A column of kinds.txt: `Name expression [wide]`.
    pub(crate) fn parse(line: &str) -> Self {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let expression = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        let priority = i64::from(rest.contains(&"wide"));
        let path = rest.iter().find(|w| w.starts_with('.')).copied().unwrap_or("").to_owned();
        let (kind, cell) = match expression.strip_prefix('@') {
            Some("age") => ("string", Cell::Date(path)),
            Some(function) => {
                (if function == "number" { "integer" } else { "string" }, Cell::Function(named(function), path))
            }
            None => ("string", Cell::Path(expression.to_owned(), Absent::None)),
        };
        Self {
            format: if name == "Name" { "name".into() } else { String::new() },
            name: name.replace('_', " "),
            kind: kind.into(),
            description: String::new(),
            priority,
            cell,
        }
    }

    /// Name and age, for kinds that say nothing better.
    pub fn fallback() -> Vec<Self> {
        vec![Self::parse("Name .metadata.name"), Self::parse("Age @age .metadata.creationTimestamp")]
    }

    /// The columns of a CRD version: its own `additionalPrinterColumns` after the name.
    pub fn of_crd(columns: &Value) -> Vec<Self> {
        let Some(columns) = columns.as_array() else { return Self::fallback() };
        let text = |c: &Value, name: &str| c[name].as_str().unwrap_or_default().to_owned();
        let mut all = vec![Self::parse("Name .metadata.name")];
        all.extend(columns.iter().map(|c| {
            let (kind, path) = (text(c, "type"), text(c, "jsonPath"));
            Self {
                name: text(c, "name"),
                format: text(c, "format"),
                description: text(c, "description"),
                priority: c["priority"].as_i64().unwrap_or(0),
                cell: if kind == "date" { Cell::Date(path) } else { Cell::Path(path, Absent::Empty) },
                kind,
            }
        }));
        all
    }

    pub fn definition(&self) -> Value {
        json!({
            "name": self.name, "type": self.kind, "format": self.format,
            "description": self.description, "priority": self.priority,
        })
    }

    pub fn cell(&self, object: &Value) -> Value {
        match &self.cell {
            Cell::Date(path) => age(first(object, path)).into(),
            Cell::Function(function, path) => function(object, path),
            Cell::Path(path, absent) => {
                let found = find(object, path);
                match found.as_slice() {
                    [] => match absent {
                        Absent::None => "<none>".into(),
                        Absent::Empty => Value::Null,
                    },
                    [one @ (Value::Number(_) | Value::Bool(_))] => (*one).clone(),
                    many => many.iter().map(|v| shown(v)).collect::<Vec<_>>().join(",").into(),
                }
            }
        }
    }
}

fn named(function: &str) -> fn(&Value, &str) -> Value {
    match function {
        "number" => |o, path| first(o, path).cloned().unwrap_or_else(|| 0.into()),
        "count" => |o, path| first(o, path).map_or(0, count).into(),
        "map" => |o, path| label_text(first(o, path)).into(),
        "selector" => |o, path| selector_text(first(o, path)).into(),
        "pod_ready" => |o, _| pod_ready(o).into(),
        "pod_status" => |o, _| pod_status(o).into(),
        "pod_restarts" => |o, _| pod_restarts(o).into(),
        "pod_gates" => |_, _| "<none>".into(),
        "node_status" => |o, _| node_status(o).into(),
        "node_roles" => |o, _| node_roles(o).into(),
        "cluster_ip" => |o, _| or_none(shown(&o["spec"]["clusterIP"])).into(),
        "external_ip" => |o, _| external_ip(o).into(),
        "service_ports" => |o, _| service_ports(o).into(),
        "endpoints" => |o, _| endpoints(o).into(),
        "slice_ports" => |o, _| slice_ports(o).into(),
        "slice_endpoints" => |o, _| slice_endpoints(o).into(),
        "event_age" => |o, _| event_age(o).into(),
        "event_object" => |o, _| event_object(o).into(),
        "event_source" => |o, _| event_source(o).into(),
        "event_count" => |o, _| event_count(o),
        "deployment_ready" => |o, _| {
            let ready = o["status"]["readyReplicas"].as_i64().unwrap_or(0);
            format!("{ready}/{}", o["spec"]["replicas"].as_i64().unwrap_or(0)).into()
        },
        "container_names" => |o, _| containers(o, "name").into(),
        "container_images" => |o, _| containers(o, "image").into(),
        "job_status" => |o, _| job_status(o).into(),
        "job_completions" => |o, _| {
            format!(
                "{}/{}",
                o["status"]["succeeded"].as_i64().unwrap_or(0),
                o["spec"]["completions"].as_i64().unwrap_or(1)
            )
            .into()
        },
        other => panic!("kinds.txt: no column function @{other}"),
    }
}

fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

fn count(value: &Value) -> usize {
    value.as_object().map(serde_json::Map::len).or_else(|| value.as_array().map(Vec::len)).unwrap_or(0)
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn age(time: Option<&Value>) -> String {
    match time.and_then(Value::as_str).and_then(|t| t.parse::<Timestamp>().ok()) {
        Some(then) => human_duration(Timestamp::now().as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// `5s`, `3m12s`, `5h`, `2d4h`: two units while the larger is small.
pub fn human_duration(seconds: i64) -> String {
    let (m, h, d) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    match seconds {
        s if s < 0 => "0s".into(),
        s if s < 120 => format!("{s}s"),
        s if s < 600 => two(m, "m", s % 60, "s"),
        s if s < 3 * 3600 => format!("{m}m"),
        s if s < 8 * 3600 => two(h, "h", m % 60, "m"),
        s if s < 48 * 3600 => format!("{h}h"),
        s if s < 8 * 86400 => two(d, "d", h % 24, "h"),
        s if s < 730 * 86400 => format!("{d}d"),
        _ => two(d / 365, "y", d % 365, "d"),
    }
}

fn label_text(labels: Option<&Value>) -> String {
    let pairs = labels.and_then(Value::as_object).into_iter().flatten();
    or_none(pairs.map(|(k, v)| format!("{k}={}", shown(v))).collect::<Vec<_>>().join(","))
}

fn selector_text(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return "<none>".into() };
    let mut parts: Vec<String> =
        selector["matchLabels"].as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", shown(v))).collect();
    for e in array(&selector["matchExpressions"]) {
        let values: Vec<String> = array(&e["values"]).map(shown).collect();
        parts.push(match e["operator"].as_str().unwrap_or_default() {
            "Exists" => shown(&e["key"]),
            "DoesNotExist" => format!("!{}", shown(&e["key"])),
            operator => format!("{} {} ({})", shown(&e["key"]), operator.to_lowercase(), values.join(",")),
        });
    }
    or_none(parts.join(","))
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    array(&object["status"]["conditions"]).find(|c| c["type"] == kind)
}

fn pod_ready(pod: &Value) -> String {
    let statuses = &pod["status"]["containerStatuses"];
    let ready = array(statuses).filter(|s| s["ready"] == true).count();
    format!("{ready}/{}", count(&pod["spec"]["containers"]))
}

fn pod_status(pod: &Value) -> String {
    let mut status =
        pod["status"]["reason"].as_str().or(pod["status"]["phase"].as_str()).unwrap_or("Unknown").to_owned();
    if condition(pod, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
        status = "SchedulingGated".into();
    }
    for container in array(&pod["status"]["containerStatuses"]) {
        let state = &container["state"];
        let reason = state["waiting"]["reason"].as_str().or(state["terminated"]["reason"].as_str());
        match reason {
            Some(reason) if !reason.is_empty() => status = reason.to_owned(),
            _ => {
                if let Some(code) = state["terminated"]["exitCode"].as_i64() {
                    status = format!("ExitCode:{code}");
                }
            }
        }
    }
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return if pod["status"]["reason"] == "NodeLost" { "Unknown".into() } else { "Terminating".into() };
    }
    status
}

fn pod_restarts(pod: &Value) -> String {
    let statuses = &pod["status"]["containerStatuses"];
    let restarts: i64 = array(statuses).filter_map(|s| s["restartCount"].as_i64()).sum();
    let last = array(statuses).filter_map(|s| s["lastState"]["terminated"]["finishedAt"].as_str()).max();
    match last {
        Some(last) if restarts > 0 => format!("{restarts} ({} ago)", age(Some(&last.into()))),
        _ => restarts.to_string(),
    }
}

fn node_status(node: &Value) -> String {
    let mut status = match condition(node, "Ready") {
        Some(ready) if ready["status"] == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let mut roles: Vec<&str> = labels.filter_map(|(k, _)| k.strip_prefix("node-role.kubernetes.io/")).collect();
    roles.sort_unstable();
    or_none(roles.join(","))
}

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let mut ips: Vec<String> = array(&spec["externalIPs"]).map(shown).collect();
    match spec["type"].as_str() {
        Some("LoadBalancer") => {
            let ingress = array(&service["status"]["loadBalancer"]["ingress"]);
            let given: Vec<String> =
                ingress.map(|i| shown(if i["ip"].is_string() { &i["ip"] } else { &i["hostname"] })).collect();
            if given.is_empty() && ips.is_empty() {
                return "<pending>".into();
            }
            ips.splice(0..0, given);
        }
        Some("ExternalName") => return shown(&spec["externalName"]),
        _ => {}
    }
    or_none(ips.join(","))
}

fn service_ports(service: &Value) -> String {
    let ports = array(&service["spec"]["ports"]).map(|p| {
        let (port, protocol) = (shown(&p["port"]), shown(&p["protocol"]));
        match p["nodePort"].as_i64().filter(|n| *n > 0) {
            Some(node_port) => format!("{port}:{node_port}/{protocol}"),
            None => format!("{port}/{protocol}"),
        }
    });
    or_none(ports.collect::<Vec<_>>().join(","))
}

/// The first three and how many more there are.
fn first_three(all: &[String]) -> String {
    match all {
        [] => "<unset>".into(),
        [a, b, c, rest @ ..] if !rest.is_empty() => format!("{a},{b},{c} + {} more...", rest.len()),
        few => few.join(","),
    }
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in array(&object["subsets"]) {
        for address in array(&subset["addresses"]) {
            all.extend(array(&subset["ports"]).map(|p| format!("{}:{}", shown(&address["ip"]), p["port"])));
        }
    }
    if all.is_empty() { "<none>".into() } else { first_three(&all) }
}

fn slice_ports(slice: &Value) -> String {
    let ports: Vec<String> =
        array(&slice["ports"]).map(|p| p["port"].as_i64().map_or("*".into(), |n| n.to_string())).collect();
    first_three(&ports)
}

fn slice_endpoints(slice: &Value) -> String {
    let all: Vec<String> = array(&slice["endpoints"]).flat_map(|e| array(&e["addresses"]).map(shown)).collect();
    first_three(&all)
}

fn event_age(event: &Value) -> String {
    let series = first(event, ".series.lastObservedTime");
    let times =
        [&event["lastTimestamp"], &event["deprecatedLastTimestamp"], &event["eventTime"], &event["firstTimestamp"]];
    age(series.or_else(|| times.into_iter().find(|t| t.is_string())))
}

fn event_object(event: &Value) -> String {
    let about = if event["involvedObject"].is_object() { &event["involvedObject"] } else { &event["regarding"] };
    format!("{}/{}", shown(&about["kind"]).to_lowercase(), shown(&about["name"]))
}

fn event_source(event: &Value) -> String {
    let source = &event["source"]["component"];
    let parts = [if source.is_string() { source } else { &event["reportingController"] }, &event["source"]["host"]];
    parts.iter().map(|p| shown(p)).filter(|p| !p.is_empty()).collect::<Vec<_>>().join(", ")
}

fn event_count(event: &Value) -> Value {
    let series = first(event, ".series.count").and_then(Value::as_i64);
    series.or(event["count"].as_i64()).unwrap_or(1).into()
}

fn containers(object: &Value, field: &str) -> String {
    array(&object["spec"]["template"]["spec"]["containers"]).map(|c| shown(&c[field])).collect::<Vec<_>>().join(",")
}

fn job_status(job: &Value) -> String {
    let is = |kind: &str| condition(job, kind).is_some_and(|c| c["status"] == "True");
    if is("Complete") {
        "Complete".into()
    } else if is("Failed") {
        "Failed".into()
    } else {
        "Running".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_for_people() {
        for (seconds, text) in [
            (5, "5s"),
            (119, "119s"),
            (192, "3m12s"),
            (1200, "20m"),
            (4 * 3600 + 60, "4h1m"),
            (90000, "25h"),
            (200_000, "2d7h"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }

    #[test]
    fn pod_columns() {
        let pod = json!({
            "metadata": {"name": "a"}, "spec": {"containers": [{"name": "x"}, {"name": "y"}]},
            "status": {"phase": "Running", "containerStatuses": [
                {"ready": true, "restartCount": 2, "state": {"running": {}}},
                {"ready": false, "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
        });
        assert_eq!((pod_ready(&pod).as_str(), pod_status(&pod).as_str()), ("1/2", "CrashLoopBackOff"));
        assert_eq!(pod_restarts(&pod), "3");
    }

    #[test]
    fn service_columns() {
        let service =
            json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30001, "protocol": "TCP"}]}});
        assert_eq!(external_ip(&service), "<pending>");
        assert_eq!(service_ports(&service), "80:30001/TCP");
    }
}
