//! Whether a container has ended, and whether what is known explains why.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::container::{ContainerPhase, TerminatedState, container_phase};
use super::disruption::{Disruption, disruption};
use super::job::words_of;
use super::pod::{condition, container_statuses, init_statuses, is_terminal};
use crate::manifest::labels::CLAUDE_CONTAINER;

impl TerminatedState {
    /// Whether this is a kubelet's account of an end that it saw: it always gives a code and a reason.
    pub(crate) fn is_accounted_for(&self) -> bool {
        self.exit_code.is_some() && self.reason.as_deref().is_some_and(|reason| !reason.is_empty())
    }
}

/// Whether the CLI of a pod may still be at work, or come to be.
pub(crate) fn claude_may_run(pod: &Pod) -> bool {
    !is_terminal(pod) && !matches!(container_phase(pod, CLAUDE_CONTAINER), ContainerPhase::Terminated(_))
}

/// The containers of a pod that run, as its status says.
fn running(pod: &Pod) -> Vec<&str> {
    init_statuses(pod)
        .iter()
        .chain(container_statuses(pod))
        .filter(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
        .map(|status| status.name.as_str())
        .collect()
}

fn containers(names: &[&str]) -> String {
    let noun = if names.len() == 1 { "container" } else { "containers" };
    format!("{noun} {}", names.join(", "))
}

/// What of a pod still runs and where, for people.
pub(crate) fn still_running(pod: &Pod) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or("unknown");
    let of = match running(pod).as_slice() {
        [] => "no container of it is seen running".to_owned(),
        names => format!("{} still {}", containers(names), if names.len() == 1 { "runs" } else { "run" }),
    };
    let node = node_of(pod).map(|node| format!(" on node {node}")).unwrap_or_default();
    format!("pod {name}{node}: {of}")
}

/// Whether a pod has a container beside `claude` that can keep it alive.
pub(crate) fn has_sidecar(pod: &Pod) -> bool {
    let beside = container_statuses(pod).iter().any(|status| status.name != CLAUDE_CONTAINER);
    let Some(spec) = &pod.spec else { return beside };
    let native = |container: &Container| container.restart_policy.as_deref() == Some("Always");
    beside
        || spec.containers.iter().any(|container| container.name != CLAUDE_CONTAINER)
        || spec.init_containers.iter().flatten().any(native)
}

/// The containers that keep a pod whose `claude` has ended: sidecars. `None` where none does.
pub(crate) fn kept_by(pod: &Pod) -> Option<String> {
    let names = running(pod);
    let has_ended = matches!(container_phase(pod, CLAUDE_CONTAINER), ContainerPhase::Terminated(_));
    (has_ended && !names.is_empty() && !is_terminal(pod)).then(|| containers(&names))
}

/// The node of a pod that has one.
pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// Whether the cluster has not heard from the pod's node for a while. It then takes the pod for unready, although the
/// last that its kubelet said was that all containers are ready.
pub(crate) fn node_is_silent(pod: &Pod) -> bool {
    let is =
        |kind: &str, status: &str| condition(pod, kind).is_some_and(|condition| condition.status == status);
    !is_terminal(pod) && is("Ready", "False") && is("ContainersReady", "True")
}

/// Whether the kubelet of the pod's node says that the pod is well.
pub(super) fn node_answers(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// What is still to be seen before it is known who ended a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// What the pod says of it.
    Pod,
    /// What becomes of its Job: the pod was deleted, and only the Job shows whether that was its deadline.
    Job,
}

/// What is still to be seen of the end of a container, given its pod as it was last seen.
pub(crate) fn missing_cause(state: &TerminatedState, pod: Option<&Pod>) -> Option<Missing> {
    if state.reason.as_deref() == Some("OOMKilled") {
        return None;
    }
    let Some(pod) = pod else { return Some(Missing::Pod) };
    match disruption(pod).as_ref().map(Disruption::is_plain_deletion) {
        Some(true) => Some(Missing::Job),
        Some(false) => None,
        None => {
            let killed = matches!(state.exit_code, Some(137 | 143));
            (killed && !is_terminal(pod)).then_some(Missing::Pod)
        }
    }
}

/// Why a Job without a final condition is coming to its end: for people, and in one word. A Job whose pod has failed by
/// itself is not meant.
pub(crate) fn failing(job: &Job) -> Option<(String, String)> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let is_true = |kind: &str| conditions.iter().find(|one| one.type_ == kind && one.status == "True");
    let (what, condition) = match (is_true("FailureTarget"), is_true("Suspended")) {
        (Some(failure), _) => ("it has failed", failure),
        (None, Some(suspended)) => ("it was suspended", suspended),
        (None, None) => return None,
    };
    let reason = condition.reason.clone().unwrap_or_else(|| condition.type_.clone());
    if reason == "BackoffLimitExceeded" {
        return None;
    }
    let message = words_of(condition).map(|words| format!(": {words}")).unwrap_or_default();
    Some((format!("{what} [{reason}]{message}").replace(['\r', '\n'], " "), reason))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixtures::{container, ended, pod, waiting};
    use super::*;

    #[test]
    fn claude_may_run_until_it_or_its_pod_has_ended() {
        for (status, may_run) in [
            (json!({}), true),
            (
                json!({"phase": "Pending", "containerStatuses": [container("claude", waiting("x", None))]}),
                true,
            ),
            (
                json!({"phase": "Running", "containerStatuses": [container("claude", json!({"running": {}}))]}),
                true,
            ),
            (json!({"phase": "Running", "containerStatuses": [container("proxy", ended(0))]}), true),
            (json!({"phase": "Running", "containerStatuses": [container("claude", ended(1))]}), false),
            (json!({"phase": "Succeeded"}), false),
            (json!({"phase": "Failed", "reason": "Evicted"}), false),
        ] {
            assert_eq!(claude_may_run(&pod(status.clone())), may_run, "{status}");
        }
    }

    #[test]
    fn what_keeps_a_pod_is_named() {
        let up = || json!({"running": {}});
        let pod = |claude: Value, phase: &str| {
            pod(
                json!({"phase": phase, "containerStatuses": [container("claude", claude), container("proxy", up())],
                "initContainerStatuses": [container("mesh", up()), container("init", ended(0))]}),
            )
        };
        let both = pod(ended(0), "Running");
        assert_eq!(kept_by(&both).as_deref(), Some("containers mesh, proxy"));
        assert_eq!(still_running(&both), "pod p: containers mesh, proxy still run");
        assert_eq!(kept_by(&pod(up(), "Running")), None, "claude keeps it");
        assert_eq!(kept_by(&pod(ended(0), "Failed")), None, "it has ended");
        let mut alone = super::super::fixtures::pod(
            json!({"phase": "Running", "containerStatuses": [container("claude", up())]}),
        );
        alone.spec = serde_json::from_value(json!({"containers": [], "nodeName": "n"})).unwrap();
        assert_eq!(still_running(&alone), "pod p on node n: container claude still runs");
        assert_eq!(still_running(&Pod::default()), "pod unknown: no container of it is seen running");
    }

    #[test]
    fn silent_node_is_told_by_ready_against_containers_ready() {
        let conditions = |ready: &str, containers: &str| {
            pod(json!({"phase": "Running", "conditions": [
                {"type": "Ready", "status": ready}, {"type": "ContainersReady", "status": containers}]}))
        };
        assert!(node_is_silent(&conditions("False", "True")));
        for (ready, containers) in [("True", "True"), ("False", "False"), ("Unknown", "True")] {
            assert!(!node_is_silent(&conditions(ready, containers)), "{ready} {containers}");
        }
        assert!(!node_is_silent(&Pod::default()));
    }

    fn state(exit_code: i32, reason: &str) -> TerminatedState {
        TerminatedState { exit_code: Some(exit_code), reason: Some(reason.into()), ..Default::default() }
    }

    #[test]
    fn cause_is_missing_until_pod_or_job_explains_the_end() {
        let running = json!({"phase": "Running"});
        let disrupted = json!({"phase": "Running", "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]});
        let deleted = json!({"deletionTimestamp": "2026-01-02T03:04:35Z", "deletionGracePeriodSeconds": 30});
        for (code, reason, status, metadata, missing) in [
            (1, "Error", &running, Value::Null, None),
            (0, "Completed", &running, Value::Null, None),
            (137, "OOMKilled", &running, deleted.clone(), None),
            (137, "Error", &running, Value::Null, Some(Missing::Pod)),
            (143, "Error", &running, Value::Null, Some(Missing::Pod)),
            (143, "Error", &json!({"phase": "Failed"}), Value::Null, None),
            (143, "Error", &json!({"phase": "Failed", "reason": "Evicted"}), Value::Null, None),
            (143, "Error", &disrupted, deleted.clone(), None),
            (143, "Error", &running, deleted.clone(), Some(Missing::Job)),
            (1, "Error", &running, deleted.clone(), Some(Missing::Job)),
        ] {
            let mut pod = pod(status.clone());
            if !metadata.is_null() {
                pod.metadata = serde_json::from_value(metadata.clone()).unwrap();
            }
            assert_eq!(
                missing_cause(&state(code, reason), Some(&pod)),
                missing,
                "{code} {status} {metadata}"
            );
        }
        assert_eq!(missing_cause(&state(1, "Error"), None), Some(Missing::Pod));
        assert!(state(0, "Completed").is_accounted_for());
        assert!(!TerminatedState { exit_code: Some(0), ..Default::default() }.is_accounted_for());
    }

    #[test]
    fn job_on_its_way_to_its_end_says_why() {
        let job = |kind: &str, status: &str, reason: &str| -> Job {
            let condition =
                json!({"type": kind, "status": status, "reason": reason, "message": "two\nlines"});
            serde_json::from_value(json!({"status": {"conditions": [condition]}})).unwrap()
        };
        for (kind, status, reason, text) in [
            (
                "FailureTarget",
                "True",
                "DeadlineExceeded",
                Some("it has failed [DeadlineExceeded]: two lines"),
            ),
            ("Suspended", "True", "JobSuspended", Some("it was suspended [JobSuspended]: two lines")),
            ("Suspended", "False", "JobResumed", None),
            ("FailureTarget", "True", "BackoffLimitExceeded", None),
            ("Complete", "True", "", None),
        ] {
            let found = failing(&job(kind, status, reason));
            assert_eq!(found.as_ref().map(|(text, _)| text.as_str()), text, "{kind} {reason}");
            assert!(found.is_none_or(|(_, word)| word == reason));
        }
        assert_eq!(failing(&Job::default()), None);
    }
}
