//! What a pod says about itself while a run waits for it.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};

use super::container::{TerminatedState, describe_pod_terminated_error, end_of};
use super::non_empty;
use super::waiting::{self, Role};
use crate::manifest::labels::CLAUDE_CONTAINER;

pub(super) fn container_statuses(pod: &Pod) -> &[ContainerStatus] {
    pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default()
}

pub(super) fn init_statuses(pod: &Pod) -> &[ContainerStatus] {
    pod.status.as_ref().and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default()
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Unknown")
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("unknown")
}

/// Whether the pod's phase is final. The status of its containers can lag behind it.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether a new pod can be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodVerdict {
    /// The container runs or has run.
    Ready,
    /// It never will; the error's text.
    Failed(String),
    /// No node takes it at the moment; the error's text.
    Unschedulable(String),
    /// An image could not be pulled, and the kubelet tries again; the error's text.
    PullFailed(String),
    /// Not yet.
    Waiting,
}

/// A pod on its way to running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodProgress {
    /// Changes when there is something new to log.
    pub(crate) key: String,
    /// `phase=…` and the state of each container, for people.
    pub(crate) line: String,
    /// Whether the run can follow it.
    pub(crate) verdict: PodVerdict,
}

impl PodProgress {
    /// Reads a pod that the run waits for.
    pub(crate) fn read(pod: &Pod) -> Self {
        let waiting = |status: &ContainerStatus| {
            let waiting = status.state.as_ref()?.waiting.as_ref()?;
            Some(waiting.reason.clone().unwrap_or_else(|| "waiting".into()))
        };
        let init_key = |status: &ContainerStatus| {
            let terminated = || status.state.as_ref()?.terminated.as_ref()?.reason.clone();
            waiting(status).or_else(terminated).unwrap_or_else(|| "ok".into())
        };
        // A container that has ended counts as waiting here, as in 0.1.49.
        let main_key = |status: &ContainerStatus| {
            let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
            waiting(status).unwrap_or_else(|| if running { "running" } else { "waiting" }.into())
        };
        let init: Vec<String> = init_statuses(pod).iter().map(init_key).collect();
        let main: Vec<String> = container_statuses(pod).iter().map(main_key).collect();
        let mut details = vec![format!("phase={}", phase(pod))];
        details.extend(init_statuses(pod).iter().filter_map(init_detail));
        details.extend(container_statuses(pod).iter().filter_map(main_detail));
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
        return Some(format!("init/{name}: waiting ({})", non_empty(&waiting.reason).unwrap_or("unknown")));
    }
    if state.running.is_some() {
        return Some(format!("init/{name}: running"));
    }
    state.terminated.as_ref().map(|state| format!("init/{name}: done (exit {})", state.exit_code))
}

fn main_detail(status: &ContainerStatus) -> Option<String> {
    let (name, state) = (&status.name, status.state.as_ref()?);
    if let Some(waiting) = &state.waiting {
        return Some(format!("{name}: waiting ({})", non_empty(&waiting.reason).unwrap_or("unknown")));
    }
    if state.running.is_some() {
        return Some(format!("{name}: running"));
    }
    state.terminated.as_ref().map(|state| {
        let reason = non_empty(&state.reason).unwrap_or("no reason");
        format!("{name}: terminated (exit {}, {reason})", state.exit_code)
    })
}

fn verdict(pod: &Pod) -> PodVerdict {
    match phase(pod) {
        "Running" | "Succeeded" => return PodVerdict::Ready,
        "Failed" => return PodVerdict::Failed(failed(pod)),
        _ => {}
    }
    let init = init_statuses(pod);
    let exit = |status: &ContainerStatus| Some(status.state.as_ref()?.terminated.as_ref()?.exit_code);
    let running =
        |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
    // The phase can lag behind the containers' statuses.
    if !init.is_empty()
        && init.iter().all(|status| exit(status) == Some(0))
        && container_statuses(pod).iter().any(running)
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
    container_statuses(pod).iter().find_map(main_error).unwrap_or(PodVerdict::Waiting)
}

/// Why a pod failed. A pod that its node refused has no container statuses; then the pod's own reason says why.
fn failed(pod: &Pod) -> String {
    let state = end_of(pod, CLAUDE_CONTAINER)
        .map(|state| TerminatedState { message: state.message.clone(), ..state.into() });
    let mut error = describe_pod_terminated_error(name(pod), phase(pod), state.as_ref());
    if state.is_none()
        && let Some(status) = &pod.status
    {
        match (non_empty(&status.reason), non_empty(&status.message)) {
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
    waiting::verdict(Role::Init, name, state.waiting.as_ref()?)
}

fn main_error(status: &ContainerStatus) -> Option<PodVerdict> {
    waiting::verdict(Role::Main, &status.name, status.state.as_ref()?.waiting.as_ref()?)
}

pub(super) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::{container, ended, pod, waiting};
    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn progress_has_key_line_and_verdict() {
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
}
