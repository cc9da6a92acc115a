//! The status of a pod, computed from what its worker knows. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, HostIP,
    Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::process::ProcessId;

/// A container as its worker sees it.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) restarts: i32,
    pub(crate) run: Life,
    /// The run before this one.
    pub(crate) last: Option<Ended>,
    /// What the readiness probe says, or true where there is none.
    pub(crate) ready: bool,
    /// Whether the startup probe has succeeded, or true where there is none.
    pub(crate) started: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Life {
    Waiting { reason: &'static str, message: String },
    Running { process: ProcessId, started: String },
    Ended(Ended),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) started: String,
    pub(crate) finished: String,
}

/// All that a status depends on.
pub(crate) struct Facts<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) init: &'a [Container],
    pub(crate) main: &'a [Container],
    pub(crate) pod_ips: &'a [IpAddr],
    pub(crate) host_ips: &'a [IpAddr],
    pub(crate) started: &'a str,
    /// The status that was reported last, whose transition times stay where nothing changed.
    pub(crate) before: Option<&'a PodStatus>,
    pub(crate) now: &'a str,
}

/// What a container's end means for the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    pub(crate) fn of(pod: &Pod) -> Self {
        match pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    pub(crate) fn restarts(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

/// Whether the API already says that the pod has run its course.
pub(crate) fn finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The whole status.
pub(crate) fn status(facts: &Facts<'_>) -> PodStatus {
    let phase = phase(facts);
    let over = phase == "Succeeded" || phase == "Failed";
    let initialized = facts.init.iter().all(succeeded);
    let unready: Vec<&str> =
        facts.main.iter().filter(|container| !is_ready(container)).map(|container| container.name.as_str()).collect();
    let ready = unready.is_empty() && initialized && !over;
    let why = if over {
        ("PodCompleted", String::new())
    } else {
        ("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
    };
    let incomplete = ("ContainersNotInitialized", "containers with incomplete status".to_owned());
    let conditions = vec![
        condition(facts, "PodReadyToStartContainers", !facts.pod_ips.is_empty() && !over, None),
        condition(facts, "Initialized", initialized, Some(incomplete)),
        condition(facts, "Ready", ready, Some(why.clone())),
        condition(facts, "ContainersReady", ready, Some(why)),
        condition(facts, "PodScheduled", true, None),
    ];
    let list = |containers: &[Container]| containers.iter().map(container_status).collect::<Vec<_>>();
    PodStatus {
        phase: Some(phase.into()),
        conditions: Some(conditions),
        host_ip: facts.host_ips.first().map(ToString::to_string),
        host_ips: Some(facts.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: facts.pod_ips.first().map(ToString::to_string),
        pod_ips: Some(facts.pod_ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        start_time: time(facts.started),
        init_container_statuses: (!facts.init.is_empty()).then(|| list(facts.init)),
        container_statuses: Some(list(facts.main)),
        qos_class: Some("BestEffort".into()),
        ..PodStatus::default()
    }
}

fn phase(facts: &Facts<'_>) -> &'static str {
    let policy = RestartPolicy::of(facts.pod);
    let stopping = facts.pod.metadata.deletion_timestamp.is_some();
    let over = |container: &Container| match &container.run {
        Life::Ended(ended) => stopping || !policy.restarts(ended.code),
        _ => false,
    };
    if facts.init.iter().any(|container| over(container) && !succeeded(container)) {
        return "Failed";
    }
    if !facts.init.iter().all(succeeded) {
        return "Pending";
    }
    if !facts.main.is_empty() && facts.main.iter().all(over) {
        return if facts.main.iter().all(succeeded) { "Succeeded" } else { "Failed" };
    }
    let begun = |container: &Container| !matches!(container.run, Life::Waiting { .. }) || container.last.is_some();
    if facts.main.iter().all(begun) { "Running" } else { "Pending" }
}

fn succeeded(container: &Container) -> bool {
    matches!(&container.run, Life::Ended(ended) if ended.code == 0)
}

fn is_ready(container: &Container) -> bool {
    matches!(container.run, Life::Running { .. }) && container.ready && container.started
}

fn condition(facts: &Facts<'_>, kind: &str, holds: bool, why_not: Option<(&str, String)>) -> PodCondition {
    let status = if holds { "True" } else { "False" };
    let find =
        |status: &PodStatus| status.conditions.iter().flatten().find(|condition| condition.type_ == kind).cloned();
    let before = facts.before.and_then(find).or_else(|| facts.pod.status.as_ref().and_then(find));
    let since = before.filter(|before| before.status == status).and_then(|before| before.last_transition_time);
    let (reason, message) = why_not.filter(|_| !holds).unzip();
    PodCondition {
        type_: kind.into(),
        status: status.into(),
        reason: reason.map(str::to_owned),
        message: message.filter(|message| !message.is_empty()),
        last_transition_time: since.or_else(|| time(facts.now)),
        ..PodCondition::default()
    }
}

fn container_status(container: &Container) -> ContainerStatus {
    let running = matches!(container.run, Life::Running { .. });
    let state = match &container.run {
        Life::Waiting { reason, message } => ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some((*reason).into()),
                message: Some(message.clone()).filter(|message| !message.is_empty()),
            }),
            ..ContainerState::default()
        },
        Life::Running { started, .. } => ContainerState {
            running: Some(ContainerStateRunning { started_at: time(started) }),
            ..ContainerState::default()
        },
        Life::Ended(ended) => terminated(ended),
    };
    let id = match container.run {
        Life::Running { process, .. } => format!("lab://{}-{}", process.pid, process.start_time),
        _ => String::new(),
    };
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone(),
        container_id: Some(id),
        ready: is_ready(container),
        started: Some(running && container.started),
        restart_count: container.restarts,
        state: Some(state),
        last_state: container.last.as_ref().map(terminated),
        ..ContainerStatus::default()
    }
}

fn terminated(ended: &Ended) -> ContainerState {
    let reason = if ended.code == 0 { "Completed" } else { "Error" };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: ended.code,
            reason: Some(reason.into()),
            started_at: time(&ended.started),
            finished_at: time(&ended.finished),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

fn time(text: &str) -> Option<Time> {
    text.parse::<Timestamp>().ok().map(Time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: &str = "2026-01-02T03:04:05Z";

    fn ended(code: i32) -> Life {
        Life::Ended(Ended { code, started: NOW.into(), finished: NOW.into() })
    }

    fn running() -> Life {
        Life::Running { process: ProcessId { pid: 1, start_time: 2 }, started: NOW.into() }
    }

    fn waiting() -> Life {
        Life::Waiting { reason: "ContainerCreating", message: String::new() }
    }

    fn container(run: Life, ready: bool) -> Container {
        Container { name: "c".into(), image: "i".into(), restarts: 0, run, last: None, ready, started: true }
    }

    /// Phase and readiness of a pod in that situation.
    fn seen(policy: &str, init: &[Container], main: &[Container]) -> (String, String) {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {}, "spec": {"restartPolicy": policy, "containers": []}}))
                .unwrap();
        let status =
            status(&Facts { pod: &pod, init, main, pod_ips: &[], host_ips: &[], started: NOW, before: None, now: NOW });
        let ready = status.conditions.unwrap().into_iter().find(|condition| condition.type_ == "Ready").unwrap();
        (status.phase.unwrap(), ready.status)
    }

    #[test]
    fn phases_and_readiness() {
        type Row = (&'static str, Vec<Container>, Vec<Container>, &'static str, &'static str);
        let table: Vec<Row> = vec![
            ("Always", vec![], vec![container(waiting(), false)], "Pending", "False"),
            ("Always", vec![], vec![container(running(), false)], "Running", "False"),
            ("Always", vec![], vec![container(running(), true)], "Running", "True"),
            ("Always", vec![container(running(), true)], vec![container(waiting(), false)], "Pending", "False"),
            ("Never", vec![container(ended(1), false)], vec![container(waiting(), false)], "Failed", "False"),
            ("Always", vec![container(ended(1), false)], vec![container(waiting(), false)], "Pending", "False"),
            ("Always", vec![], vec![container(ended(1), false)], "Running", "False"),
            ("Never", vec![], vec![container(ended(0), false)], "Succeeded", "False"),
            ("OnFailure", vec![], vec![container(ended(3), false)], "Running", "False"),
            ("Never", vec![], vec![container(ended(0), false), container(ended(3), false)], "Failed", "False"),
        ];
        for (policy, init, main, phase, ready) in table {
            assert_eq!(seen(policy, &init, &main), (phase.into(), ready.into()), "{policy} {init:?} {main:?}");
        }
    }
}
