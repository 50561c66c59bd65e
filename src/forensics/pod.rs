//! What a Pod says about itself.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodCondition,
};
use serde::{Deserialize, Serialize};

use crate::js_semantics;
use crate::manifest::labels::CLAUDE_CONTAINER;

/// How a container ended, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TerminatedState {
    /// Exit code; 128 + n for a process ended by signal n.
    pub exit_code: Option<i32>,
    /// Reason in one word, such as `OOMKilled`.
    pub reason: Option<String>,
    /// Message, trimmed; never blank.
    pub message: Option<String>,
    /// Signal number, where the runtime gives it.
    pub signal: Option<i32>,
}

impl From<&ContainerStateTerminated> for TerminatedState {
    fn from(state: &ContainerStateTerminated) -> Self {
        let message = state.message.as_deref().map(js_semantics::trim).filter(|message| !message.is_empty());
        Self {
            exit_code: Some(state.exit_code),
            reason: state.reason.clone(),
            message: message.map(str::to_owned),
            signal: state.signal,
        }
    }
}

/// Where a container is in its life. A container without a status counts as waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerLife {
    /// Not started.
    Waiting,
    /// Running.
    Running,
    /// Over.
    Terminated(TerminatedState),
}

fn container_states(pod: &Pod) -> &[ContainerStatus] {
    pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default()
}

fn init_states(pod: &Pod) -> &[ContainerStatus] {
    pod.status.as_ref().and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default()
}

fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    container_states(pod).iter().find(|status| status.name == container)
}

/// The end of a container. A busy node may forget a container before it has read how it ended: it then waits to be
/// started in a pod that is over, and its end is told as that of its last life.
fn end_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStateTerminated> {
    let status = status_of(pod, container)?;
    let terminated = |state: &'a Option<ContainerState>| state.as_ref()?.terminated.as_ref();
    terminated(&status.state).or_else(|| terminated(&status.last_state).filter(|_| is_terminal(pod)))
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Unknown")
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("unknown")
}

/// How a container of the pod ended; `None` when the pod does not say that it has.
pub fn terminated_state(pod: &Pod, container: &str) -> Option<TerminatedState> {
    end_of(pod, container).map(TerminatedState::from)
}

/// Where a container of the pod is in its life.
pub fn container_ended(pod: &Pod, container: &str) -> ContainerLife {
    if let Some(end) = end_of(pod, container) {
        return ContainerLife::Terminated(end.into());
    }
    match status_of(pod, container).and_then(|status| status.state.as_ref()) {
        Some(ContainerState { running: Some(_), .. }) => ContainerLife::Running,
        _ => ContainerLife::Waiting,
    }
}

/// Whether the pod's phase is final. The status of its containers can lag behind it.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Why a pod in a final phase is no use, with the end of its `claude` container where that is known. The
/// message is the container's own, untrimmed.
pub fn describe_pod_terminated_error(
    pod_name: &str,
    phase: &str,
    claude: Option<&TerminatedState>,
) -> String {
    let Some(state) = claude else {
        return format!("Pod {pod_name} reached phase={phase}");
    };
    let code = state.exit_code.map_or("unknown".to_owned(), |code| code.to_string());
    let cause = state.reason.as_deref().or(state.message.as_deref()).unwrap_or("no reason");
    format!("Pod {pod_name} reached phase={phase}: claude exited {code} ({cause})")
}

/// What can be said about the end of a container whose output has no result.
pub fn describe_truncation_cause(state: Option<&TerminatedState>) -> String {
    let Some(state) = state else {
        return "pod state unavailable — likely deleted before exit could be read".into();
    };
    let mut parts = Vec::new();
    match state.exit_code {
        Some(code) => {
            parts.push(format!("exit code {code}"));
            match code {
                137 => parts.push("SIGKILL (commonly OOMKilled)".into()),
                143 => parts.push("SIGTERM".into()),
                _ => {}
            }
        }
        None => parts.push("no exit code".into()),
    }
    parts.extend(state.signal.map(|signal| format!("signal {signal}")));
    parts.extend(truthy(&state.reason).map(|reason| format!("reason={reason}")));
    parts.extend(truthy(&state.message).map(|message| format!("message={message}")));
    parts.join(", ")
}

pub(crate) fn truthy(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// Whether a new pod can be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodVerdict {
    /// The container runs or has run.
    Ready,
    /// It never will; the error's text.
    Failed(String),
    /// No node takes it at the moment; the error's text.
    Unschedulable(String),
    /// An image could not be pulled, and the kubelet will try again; the error's text.
    PullFailed(String),
    /// Not yet.
    Waiting,
}

/// A pod on its way to running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodProgress {
    /// Changes when there is something new to tell.
    pub key: String,
    /// `phase=…` and the state of each container, for people.
    pub line: String,
    /// Whether to go on.
    pub verdict: PodVerdict,
}

impl PodProgress {
    /// Reads a pod that is being waited for.
    pub fn read(pod: &Pod) -> Self {
        let waiting = |status: &ContainerStatus| {
            let waiting = status.state.as_ref()?.waiting.as_ref()?;
            Some(waiting.reason.clone().unwrap_or_else(|| "waiting".into()))
        };
        let init_key = |status: &ContainerStatus| {
            let terminated = || status.state.as_ref()?.terminated.as_ref()?.reason.clone();
            waiting(status).or_else(terminated).unwrap_or_else(|| "ok".into())
        };
        let main_key = |status: &ContainerStatus| {
            let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
            waiting(status).unwrap_or_else(|| if running { "running" } else { "waiting" }.into())
        };
        let init: Vec<String> = init_states(pod).iter().map(init_key).collect();
        let main: Vec<String> = container_states(pod).iter().map(main_key).collect();
        let mut details = vec![format!("phase={}", phase(pod))];
        details.extend(init_states(pod).iter().filter_map(init_detail));
        details.extend(container_states(pod).iter().filter_map(main_detail));
        Self {
            key: format!("{}:{}:{}", phase(pod), init.join(","), main.join(",")),
            line: details.join(", "),
            verdict: verdict(pod),
        }
    }
}

fn init_detail(status: &ContainerStatus) -> Option<String> {
    let (name, state) = (&status.name, status.state.as_ref()?);
    if let Some(waiting) = &state.waiting {
        return Some(format!("init/{name}: waiting ({})", truthy(&waiting.reason).unwrap_or("unknown")));
    }
    if state.running.is_some() {
        return Some(format!("init/{name}: running"));
    }
    state.terminated.as_ref().map(|state| format!("init/{name}: done (exit {})", state.exit_code))
}

fn main_detail(status: &ContainerStatus) -> Option<String> {
    let (name, state) = (&status.name, status.state.as_ref()?);
    if let Some(waiting) = &state.waiting {
        return Some(format!("{name}: waiting ({})", truthy(&waiting.reason).unwrap_or("unknown")));
    }
    if state.running.is_some() {
        return Some(format!("{name}: running"));
    }
    state.terminated.as_ref().map(|state| {
        let reason = truthy(&state.reason).unwrap_or("no reason");
        format!("{name}: terminated (exit {}, {reason})", state.exit_code)
    })
}

fn verdict(pod: &Pod) -> PodVerdict {
    match phase(pod) {
        "Running" | "Succeeded" => return PodVerdict::Ready,
        "Failed" => return PodVerdict::Failed(failed(pod)),
        _ => {}
    }
    let init = init_states(pod);
    let exit = |status: &ContainerStatus| Some(status.state.as_ref()?.terminated.as_ref()?.exit_code);
    let running =
        |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
    // The phase can lag behind its containers.
    if !init.is_empty()
        && init.iter().all(|status| exit(status) == Some(0))
        && container_states(pod).iter().any(running)
    {
        return PodVerdict::Ready;
    }
    if let Some(error) = init.iter().find_map(init_error) {
        return error;
    }
    if let Some(condition) = condition(pod, "PodScheduled")
        && condition.status == "False"
        && condition.reason.as_deref() == Some("Unschedulable")
    {
        let message = condition.message.as_deref().unwrap_or("insufficient resources");
        return PodVerdict::Unschedulable(format!("Pod unschedulable: {message}"));
    }
    container_states(pod).iter().find_map(main_error).unwrap_or(PodVerdict::Waiting)
}

/// A pod refused by its node has no container statuses; then the pod's own reason tells why.
fn failed(pod: &Pod) -> String {
    let state = end_of(pod, CLAUDE_CONTAINER)
        .map(|state| TerminatedState { message: state.message.clone(), ..state.into() });
    let mut error = describe_pod_terminated_error(name(pod), phase(pod), state.as_ref());
    if state.is_none()
        && let Some(status) = &pod.status
    {
        match (truthy(&status.reason), truthy(&status.message)) {
            (Some(reason), Some(message)) => error.push_str(&format!(": {reason} ({message})")),
            (Some(text), None) | (None, Some(text)) => error.push_str(&format!(": {text}")),
            (None, None) => {}
        }
    }
    error
}

fn init_error(status: &ContainerStatus) -> Option<PodVerdict> {
    let (name, state) = (&status.name, status.state.as_ref()?);
    if let Some(state) = state.terminated.as_ref().filter(|state| state.exit_code != 0) {
        let cause = state.reason.as_deref().or(state.message.as_deref()).unwrap_or("unknown");
        let text = format!("Init container \"{name}\" failed with exit code {}: {cause}", state.exit_code);
        return Some(PodVerdict::Failed(text));
    }
    let waiting = state.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    let cause = waiting.message.as_deref().unwrap_or(reason);
    match reason {
        "ErrImagePull" | "ImagePullBackOff" => {
            Some(PodVerdict::PullFailed(format!("Init container \"{name}\" image pull failed: {cause}")))
        }
        "CrashLoopBackOff" => {
            Some(PodVerdict::Failed(format!("Init container \"{name}\" crash loop: {cause}")))
        }
        _ => None,
    }
}

fn main_error(status: &ContainerStatus) -> Option<PodVerdict> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let (name, reason) = (&status.name, waiting.reason.as_deref()?);
    let cause = waiting.message.as_deref().unwrap_or(reason);
    match reason {
        "ErrImagePull" | "ImagePullBackOff" => {
            Some(PodVerdict::PullFailed(format!("Image pull failed for \"{name}\": {cause}")))
        }
        "CrashLoopBackOff" => Some(PodVerdict::Failed(format!("Container \"{name}\" crash loop: {cause}"))),
        _ => None,
    }
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// The reason of a [`Disruption`] that only a deletion timestamp tells of.
const DELETED: &str = "Deleted";

/// Why a pod was ended from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Disruption {
    /// One word: the reason Kubernetes gives, or `Deleted`.
    pub reason: String,
    /// What Kubernetes says about it, or when the deletion was asked for.
    pub message: Option<String>,
}

impl Disruption {
    /// The pod was deleted, and nothing in it says by whom or why.
    pub fn is_plain_deletion(&self) -> bool {
        self.reason == DELETED
    }

    /// One line for people.
    pub fn text(&self) -> String {
        let what = match self.reason.as_str() {
            "PreemptionByScheduler" => "the scheduler preempted the pod for one of higher priority",
            "DeletionByTaintManager" => {
                "the pod was deleted because its node has a taint it does not tolerate"
            }
            "EvictionByEvictionAPI" => "the pod was evicted through the Eviction API",
            "DeletionByPodGC" => "the pod was removed because its node is gone",
            "TerminationByKubelet" => {
                "the kubelet ended the pod (node pressure, node shutdown or a critical pod)"
            }
            "Evicted" => "the pod was evicted by its node",
            "Terminated" | "NodeShutdown" => "the pod's node was shut down",
            "NodeLost" => "the pod's node was lost",
            DELETED => "the pod was deleted by an unknown API client",
            "DeadlineExceeded" => "the pod reached its deadline",
            _ => "the pod was ended",
        };
        let reason = if self.is_plain_deletion() { String::new() } else { format!(" [{}]", self.reason) };
        let message = self.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
        // The message may have lines of its own.
        format!("{what}{reason}{message}").replace(['\r', '\n'], " ")
    }
}

/// What the pod says about who ended it: the condition `DisruptionTarget`, else the pod's own reason, else
/// its deletion timestamp. Who asked for a plain deletion is only in the audit log of the cluster.
pub fn disruption(pod: &Pod) -> Option<Disruption> {
    let own = |text: &Option<String>| {
        truthy(text).map(js_semantics::trim).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    if let Some(target) = condition(pod, "DisruptionTarget").filter(|condition| condition.status == "True") {
        let reason = own(&target.reason).unwrap_or_else(|| "DisruptionTarget".into());
        return Some(Disruption { reason, message: own(&target.message) });
    }
    let status = pod.status.as_ref();
    if let Some(reason) = status.and_then(|status| own(&status.reason)) {
        return Some(Disruption { reason, message: status.and_then(|status| own(&status.message)) });
    }
    let deletion = pod.metadata.deletion_timestamp.as_ref()?;
    // The timestamp is when the grace period ends.
    let grace = jiff::SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
    let asked = deletion.0.checked_sub(grace).unwrap_or(deletion.0);
    Some(Disruption { reason: DELETED.into(), message: Some(format!("asked at {asked}")) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
    }

    fn container(name: &str, state: Value) -> Value {
        json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state})
    }

    fn waiting(reason: &str, message: Option<&str>) -> Value {
        json!({"waiting": {"reason": reason, "message": message}})
    }

    fn ended(code: i32) -> Value {
        json!({"terminated": {"exitCode": code}})
    }

    #[test]
    fn the_end_of_a_container() {
        let state = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": " too big\n", "signal": 9}});
        let pod = pod(
            json!({"phase": "Failed", "containerStatuses": [container("other", ended(3)), container("claude", state)]}),
        );
        let state = terminated_state(&pod, "claude").unwrap();
        assert_eq!(
            serde_json::to_value(&state).unwrap(),
            json!({"exitCode": 137, "reason": "OOMKilled", "message": "too big", "signal": 9})
        );
        assert_eq!(container_ended(&pod, "claude"), ContainerLife::Terminated(state));
        assert_eq!(terminated_state(&pod, "nobody"), None);
        assert_eq!(container_ended(&pod, "nobody"), ContainerLife::Waiting);
        assert!(is_terminal(&pod));
        assert_eq!(terminated_state(&Pod::default(), "claude"), None);
        assert!(!is_terminal(&Pod::default()));
        let state: TerminatedState =
            serde_json::from_value(json!({"exitCode": null, "reason": "Error"})).unwrap();
        assert_eq!((state.exit_code, state.reason.as_deref()), (None, Some("Error")));
    }

    #[test]
    fn life_of_a_container() {
        for (state, life) in [
            (json!({}), ContainerLife::Waiting),
            (waiting("ContainerCreating", None), ContainerLife::Waiting),
            (json!({"running": {}}), ContainerLife::Running),
            (
                json!({"terminated": {"exitCode": 0, "message": " "}}),
                ContainerLife::Terminated(TerminatedState { exit_code: Some(0), ..Default::default() }),
            ),
        ] {
            let pod = pod(json!({"containerStatuses": [container("claude", state)]}));
            assert_eq!(container_ended(&pod, "claude"), life);
        }
    }

    /// As a kubelet of 1.20 wrote it that had removed the container before it read how it ended.
    #[test]
    fn a_container_that_its_node_forgot_has_ended_once_the_pod_is_over() {
        let forgotten = |phase: &str| {
            let mut status = container("claude", waiting("PodInitializing", None));
            status["lastState"] =
                json!({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}});
            pod(json!({"phase": phase, "containerStatuses": [status]}))
        };
        let end = TerminatedState {
            exit_code: Some(137),
            reason: Some("ContainerStatusUnknown".into()),
            ..Default::default()
        };
        let over = forgotten("Failed");
        assert_eq!(terminated_state(&over, "claude"), Some(end.clone()));
        assert_eq!(container_ended(&over, "claude"), ContainerLife::Terminated(end));
        assert_eq!(
            verdict(&over),
            PodVerdict::Failed(
                "Pod p reached phase=Failed: claude exited 137 (ContainerStatusUnknown)".into()
            )
        );
        // In any other phase it is started again.
        let restarting = forgotten("Running");
        assert_eq!(terminated_state(&restarting, "claude"), None);
        assert_eq!(container_ended(&restarting, "claude"), ContainerLife::Waiting);
    }

    fn state(
        code: Option<i32>,
        reason: Option<&str>,
        message: Option<&str>,
        signal: Option<i32>,
    ) -> TerminatedState {
        TerminatedState {
            exit_code: code,
            reason: reason.map(str::to_owned),
            message: message.map(str::to_owned),
            signal,
        }
    }

    #[test]
    fn pods_in_a_final_phase() {
        for (claude, text) in [
            (None, "Pod p reached phase=Failed"),
            (
                Some(state(Some(137), Some("OOMKilled"), Some("m"), None)),
                "Pod p reached phase=Failed: claude exited 137 (OOMKilled)",
            ),
            (
                Some(state(Some(1), None, Some("broke"), None)),
                "Pod p reached phase=Failed: claude exited 1 (broke)",
            ),
            (
                Some(state(Some(1), None, None, None)),
                "Pod p reached phase=Failed: claude exited 1 (no reason)",
            ),
            (
                Some(state(None, Some("Error"), None, None)),
                "Pod p reached phase=Failed: claude exited unknown (Error)",
            ),
        ] {
            assert_eq!(describe_pod_terminated_error("p", "Failed", claude.as_ref()), text);
        }
    }

    #[test]
    fn causes_of_a_truncated_run() {
        for (given, text) in [
            (None, "pod state unavailable — likely deleted before exit could be read"),
            (
                Some(state(Some(137), Some("OOMKilled"), Some("memory"), Some(9))),
                "exit code 137, SIGKILL (commonly OOMKilled), signal 9, reason=OOMKilled, message=memory",
            ),
            (Some(state(Some(143), None, None, None)), "exit code 143, SIGTERM"),
            (Some(state(Some(0), Some(""), Some(""), Some(0))), "exit code 0, signal 0"),
            (
                Some(state(None, Some("ContainerStatusUnknown"), None, None)),
                "no exit code, reason=ContainerStatusUnknown",
            ),
        ] {
            assert_eq!(describe_truncation_cause(given.as_ref()), text);
        }
    }

    #[test]
    fn progress_of_a_pod() {
        let init = |state| json!([container("write-prompt", state)]);
        let main = |state| json!([container("claude", state)]);
        let creating = || waiting("PodInitializing", None);
        let running = || json!({"running": {}});
        let condition = |message: Option<&str>| json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]);
        let failed = |text: &str| PodVerdict::Failed(text.into());
        let pull_failed = |text: &str| PodVerdict::PullFailed(text.into());
        for (status, key, line, verdict) in [
            (json!({}), "Unknown::", "phase=Unknown", PodVerdict::Waiting),
            (json!({"phase": "Pending"}), "Pending::", "phase=Pending", PodVerdict::Waiting),
            (json!({"phase": "Running"}), "Running::", "phase=Running", PodVerdict::Ready),
            (json!({"phase": "Succeeded"}), "Succeeded::", "phase=Succeeded", PodVerdict::Ready),
            (
                json!({"phase": "Pending", "initContainerStatuses": init(running()), "containerStatuses": main(creating())}),
                "Pending:ok:PodInitializing",
                "phase=Pending, init/write-prompt: running, claude: waiting (PodInitializing)",
                PodVerdict::Waiting,
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": init(ended(0)), "containerStatuses": main(running())}),
                "Pending:ok:running",
                "phase=Pending, init/write-prompt: done (exit 0), claude: running",
                PodVerdict::Ready,
            ),
            (
                json!({"phase": "Pending", "containerStatuses": main(running())}),
                "Pending::running",
                "phase=Pending, claude: running",
                PodVerdict::Waiting,
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": init(json!({"terminated": {"exitCode": 1, "reason": "Error"}}))}),
                "Pending:Error:",
                "phase=Pending, init/write-prompt: done (exit 1)",
                failed("Init container \"write-prompt\" failed with exit code 1: Error"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": init(json!({"terminated": {"exitCode": 2, "message": "m"}}))}),
                "Pending:ok:",
                "phase=Pending, init/write-prompt: done (exit 2)",
                failed("Init container \"write-prompt\" failed with exit code 2: m"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": init(ended(3))}),
                "Pending:ok:",
                "phase=Pending, init/write-prompt: done (exit 3)",
                failed("Init container \"write-prompt\" failed with exit code 3: unknown"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": init(waiting("ImagePullBackOff", Some("no such image")))}),
                "Pending:ImagePullBackOff:",
                "phase=Pending, init/write-prompt: waiting (ImagePullBackOff)",
                pull_failed("Init container \"write-prompt\" image pull failed: no such image"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": init(waiting("CrashLoopBackOff", None))}),
                "Pending:CrashLoopBackOff:",
                "phase=Pending, init/write-prompt: waiting (CrashLoopBackOff)",
                failed("Init container \"write-prompt\" crash loop: CrashLoopBackOff"),
            ),
            (
                json!({"phase": "Pending", "conditions": condition(Some("0/3 nodes"))}),
                "Pending::",
                "phase=Pending",
                PodVerdict::Unschedulable("Pod unschedulable: 0/3 nodes".into()),
            ),
            (
                json!({"phase": "Pending", "conditions": condition(None)}),
                "Pending::",
                "phase=Pending",
                PodVerdict::Unschedulable("Pod unschedulable: insufficient resources".into()),
            ),
            (
                json!({"phase": "Pending", "containerStatuses": main(waiting("ErrImagePull", Some("denied")))}),
                "Pending::ErrImagePull",
                "phase=Pending, claude: waiting (ErrImagePull)",
                pull_failed("Image pull failed for \"claude\": denied"),
            ),
            (
                json!({"phase": "Pending", "containerStatuses": main(waiting("CrashLoopBackOff", Some("back-off")))}),
                "Pending::CrashLoopBackOff",
                "phase=Pending, claude: waiting (CrashLoopBackOff)",
                failed("Container \"claude\" crash loop: back-off"),
            ),
            (
                json!({"phase": "Failed", "containerStatuses": main(json!({"terminated": {"exitCode": 1, "message": "m"}}))}),
                "Failed::waiting",
                "phase=Failed, claude: terminated (exit 1, no reason)",
                failed("Pod p reached phase=Failed: claude exited 1 (m)"),
            ),
            (
                json!({"phase": "Failed", "reason": "OutOfcpu", "message": "Node has too little"}),
                "Failed::",
                "phase=Failed",
                failed("Pod p reached phase=Failed: OutOfcpu (Node has too little)"),
            ),
            (json!({"phase": "Failed"}), "Failed::", "phase=Failed", failed("Pod p reached phase=Failed")),
            (
                json!({"phase": "Pending", "containerStatuses": main(json!({"waiting": {}}))}),
                "Pending::waiting",
                "phase=Pending, claude: waiting (unknown)",
                PodVerdict::Waiting,
            ),
        ] {
            let expected = PodProgress { key: key.into(), line: line.into(), verdict };
            assert_eq!(PodProgress::read(&pod(status)), expected);
        }
    }

    #[test]
    fn who_ended_a_pod() {
        let target = |reason: &str| {
            let condition =
                json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "why"});
            pod(json!({"phase": "Failed", "reason": "Evicted", "conditions": [condition]}))
        };
        for (reason, text) in [
            (
                "PreemptionByScheduler",
                "the scheduler preempted the pod for one of higher priority [PreemptionByScheduler]: why",
            ),
            (
                "EvictionByEvictionAPI",
                "the pod was evicted through the Eviction API [EvictionByEvictionAPI]: why",
            ),
            ("SomethingNew", "the pod was ended [SomethingNew]: why"),
        ] {
            assert_eq!(disruption(&target(reason)).unwrap().text(), text);
        }
        let own =
            pod(json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low\non memory. "}));
        assert_eq!(
            disruption(&own).unwrap().text(),
            "the pod was evicted by its node [Evicted]: The node was low on memory."
        );
        let mut deleted = pod(json!({"phase": "Running"}));
        assert_eq!(disruption(&deleted), None);
        deleted.metadata = serde_json::from_value(
            json!({"deletionTimestamp": "2026-01-02T03:04:35Z", "deletionGracePeriodSeconds": 30}),
        )
        .unwrap();
        assert_eq!(
            disruption(&deleted).unwrap().text(),
            "the pod was deleted by an unknown API client: asked at 2026-01-02T03:04:05Z"
        );
        let calm = json!([{"type": "DisruptionTarget", "status": "False", "reason": "x"}]);
        assert_eq!(disruption(&pod(json!({"conditions": calm}))), None);
        assert_eq!(disruption(&Pod::default()), None);
    }

    proptest! {
        #[test]
        fn there_is_always_something_to_say(
            code in any::<Option<i32>>(), reason in any::<Option<String>>(), message in any::<Option<String>>(),
            signal in any::<Option<i32>>(), phase in "\\PC*", name in "\\PC*",
        ) {
            let state = TerminatedState { exit_code: code, reason: reason.clone(), message: message.clone(), signal };
            prop_assert!(!describe_truncation_cause(Some(&state)).is_empty());
            prop_assert!(!describe_pod_terminated_error(&name, &phase, Some(&state)).is_empty());
            let disruption = Disruption { reason: reason.unwrap_or_default(), message };
            let text = disruption.text();
            prop_assert!(!text.is_empty() && !text.contains('\n'));
        }
    }
}
