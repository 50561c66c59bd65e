//! What a pod says about itself while a run waits for it.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodCondition};

use super::container::{Claude, TerminatedState, describe_pod_terminated_error, end_of, was_ended_unmade};
use super::reasons::{self, Grace, Hold, Role, Row, Source, Step};
use super::words::one_line;
use super::{disruption, non_empty};
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

/// Whether a pod can be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodVerdict {
    /// Its container `claude` runs or has run. What other containers do does not matter.
    Ready,
    /// The pod failed after `claude` had run; the error's text.
    Ended(String),
    /// `claude` has not run.
    Held(Box<Hold>),
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
    /// How far it has come: more than before is progress, whatever else changes.
    pub(crate) steps: usize,
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
            steps: steps(pod),
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
    let held = |hold| PodVerdict::Held(Box::new(hold));
    match (Claude::of(pod), phase(pod)) {
        // Its node never made it, and ended what still waited.
        (Claude::Ended(_), "Failed") if was_ended_unmade(pod) => held(refused(pod)),
        (Claude::Ended(_), "Failed") => PodVerdict::Ended(failed(pod)),
        (Claude::Running | Claude::Ended(_) | Claude::HasRun, _) | (_, "Succeeded") => PodVerdict::Ready,
        // No container waits in a pod that runs: the statuses are not there yet.
        (Claude::Unseen, "Running") => PodVerdict::Ready,
        (Claude::StartFailed(end), _) => held(start_failed(pod, end)),
        (_, "Failed") => held(refused(pod)),
        _ => held(hold(pod)),
    }
}

/// The pod cannot run any more, because the runtime could not start its container.
fn start_failed(pod: &Pod, end: &ContainerStateTerminated) -> Hold {
    let reason = non_empty(&end.reason).unwrap_or("StartError");
    let of_row = Row::of(Source::Container, reason)
        .map(|row| Hold::of_row(row, Some((Role::Main, CLAUDE_CONTAINER)), reason, end.message.as_deref()));
    let mut hold = of_row.unwrap_or_else(|| Hold::passing(Step::ContainerStart));
    if is_terminal(pod) {
        // The contract's beginning, then the runtime's words.
        let words = hold.words.as_ref().map(|words| format!(": {words}")).unwrap_or_default();
        hold.text = Some(format!("{}{words}", failed(pod)));
    }
    hold
}

/// The pod failed before its container ran: an init container failed, its node refused it, or it was ended.
fn refused(pod: &Pod) -> Hold {
    let ended_by = disruption(pod);
    if let Some(mut hold) = init_statuses(pod).iter().find_map(|status| init_failure(pod, status)) {
        if let Some(by) = ended_by.filter(|by| !by.is_plain_deletion()) {
            hold.text = hold.text.map(|text| one_line(&format!("{text}; {}", by.text())));
        }
        return hold;
    }
    let status = pod.status.as_ref();
    let reason = status.and_then(|status| non_empty(&status.reason)).map(str::to_owned);
    let reason = reason.or_else(|| ended_by.as_ref().map(|cause| cause.reason.clone()));
    let words = status.and_then(|status| non_empty(&status.message)).map(str::to_owned);
    let words = words.or_else(|| ended_by.and_then(|cause| cause.message));
    let mut text = failed(pod);
    if status.is_none_or(|status| non_empty(&status.reason).or(non_empty(&status.message)).is_none())
        && let Some(ended_by) = disruption(pod)
    {
        text.push_str(&format!(": {}", ended_by.text()));
    }
    Hold {
        step: Step::Admission,
        grace: Grace::Final,
        container: None,
        reason: reason.as_deref().map(one_line),
        words: words.as_deref().map(one_line),
        text: Some(one_line(&text)),
    }
}

/// What keeps a pod that has not ended from running.
fn hold(pod: &Pod) -> Hold {
    let claude = container_statuses(pod).iter().find(|status| status.name == CLAUDE_CONTAINER);
    let of_claude = claude.and_then(|status| waiting_hold(Role::Main, status));
    // A sidecar that ended after it was up keeps nothing from starting.
    let holds = |status: &&ContainerStatus| of_claude.is_none() || !is_sidecar(pod, &status.name);
    if let Some(hold) = init_statuses(pod).iter().filter(holds).find_map(|status| init_hold(pod, status)) {
        return hold;
    }
    if let Some(condition) = condition(pod, "PodScheduled").filter(|condition| condition.status == "False")
        && let Some(reason) = non_empty(&condition.reason)
        && let Some(row) = Row::of(Source::Scheduled, reason)
    {
        let message = match (&condition.message, row.grace) {
            (None, Grace::Unschedulable) => Some("insufficient resources"),
            (message, _) => message.as_deref(),
        };
        return Hold::of_row(row, None, reason, message);
    }
    // What other containers lack keeps them from running, and not `claude`.
    if let Some(hold) = of_claude {
        return hold;
    }
    if !is_scheduled(pod) {
        return Hold::passing(Step::Scheduling);
    }
    let undone = init_statuses(pod).iter().find(|status| !is_init_done(pod, status));
    let step = if undone.is_none() { Step::ContainerStart } else { Step::InitContainer };
    let unknown = undone.or(claude).and_then(|status| {
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        let (reason, message) = (non_empty(&waiting.reason)?, waiting.message.as_deref());
        reasons::unknown_wait(step, &status.name, reason, message)
    });
    unknown.unwrap_or_else(|| Hold::passing(step))
}

/// Why a pod failed. A pod that its node refused has no container statuses; then the pod's own reason says why.
fn failed(pod: &Pod) -> String {
    let state = end_of(pod, CLAUDE_CONTAINER)
        .filter(|_| !was_ended_unmade(pod))
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

/// Whether an init container is a native sidecar, which the kubelet restarts whenever it ends.
fn is_sidecar(pod: &Pod, name: &str) -> bool {
    let spec = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let of_name = spec.iter().find(|container| container.name == name);
    of_name.is_some_and(|container| container.restart_policy.as_deref() == Some("Always"))
}

fn terminated(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}

/// Whether an init container is over, or, as a sidecar, up.
fn is_init_done(pod: &Pod, status: &ContainerStatus) -> bool {
    if is_sidecar(pod, &status.name) {
        return status.started == Some(true);
    }
    terminated(status).is_some_and(|state| state.exit_code == 0)
}

/// An init container that has failed for good.
fn init_failure(pod: &Pod, status: &ContainerStatus) -> Option<Hold> {
    init_end(status).filter(|_| !is_sidecar(pod, &status.name))
}

/// An init container that has ended with another code than 0.
fn init_end(status: &ContainerStatus) -> Option<Hold> {
    let name = &status.name;
    let state = terminated(status).filter(|state| state.exit_code != 0)?;
    let words = non_empty(&state.message).map(one_line).filter(|words| !words.is_empty());
    let cause = match (non_empty(&state.reason), &words) {
        (Some(reason), Some(words)) => format!("{}: {words}", one_line(reason)),
        (Some(reason), None) => one_line(reason),
        (None, words) => words.clone().unwrap_or_else(|| "unknown".into()),
    };
    Some(Hold {
        step: Step::InitContainer,
        grace: Grace::Final,
        container: Some(name.clone()),
        reason: non_empty(&state.reason).map(one_line),
        words,
        text: Some(format!("Init container \"{name}\" failed with exit code {}: {cause}", state.exit_code)),
    })
}

/// What an init container of a pod that has not ended says.
fn init_hold(pod: &Pod, status: &ContainerStatus) -> Option<Hold> {
    let mut hold = init_end(status).or_else(|| waiting_hold(Role::Init, status))?;
    let is_of_its_start = matches!(hold.step, Step::InitContainer | Step::ContainerStart);
    if is_sidecar(pod, &status.name) && is_of_its_start && hold.grace == Grace::Final {
        // The kubelet starts it again and again: it may yet stay up.
        hold.grace = Grace::PodStart;
    }
    Some(hold)
}

/// The container that keeps `claude` from running: an init container that failed, else `claude` itself, else an init
/// container that waits or a sidecar that ended. What other containers lack keeps `claude` from nothing.
pub(super) fn culprit(pod: &Pod) -> Option<(Role, &ContainerStatus)> {
    let has_failed = |status: &&ContainerStatus| terminated(status).is_some_and(|end| end.exit_code != 0);
    let waits = |status: &&ContainerStatus| waiting_hold(Role::Init, status).is_some();
    let claude = || {
        let claude = container_statuses(pod).iter().find(|status| status.name == CLAUDE_CONTAINER)?;
        let failed = end_of(pod, CLAUDE_CONTAINER).is_some_and(|end| end.exit_code != 0);
        (waits(&claude) || (failed && !was_ended_unmade(pod))).then_some((Role::Main, claude))
    };
    let init = init_statuses(pod);
    let failed = init.iter().find(|status| has_failed(status) && !is_sidecar(pod, &status.name));
    let of_init = |status| (Role::Init, status);
    failed
        .map(of_init)
        .or_else(claude)
        .or_else(|| init.iter().find(waits).or(init.iter().find(has_failed)).map(of_init))
}

fn waiting_hold(role: Role, status: &ContainerStatus) -> Option<Hold> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    reasons::of_container(role, &status.name, waiting.reason.as_deref(), waiting.message.as_deref())
}

/// Whether the pod has a node.
fn is_scheduled(pod: &Pod) -> bool {
    let node = pod.spec.as_ref().is_some_and(|spec| non_empty(&spec.node_name).is_some());
    let condition = condition(pod, "PodScheduled").is_some_and(|condition| condition.status == "True");
    node || condition || !init_statuses(pod).is_empty() || !container_statuses(pod).is_empty()
}

/// How many steps of its start the pod has behind it.
fn steps(pod: &Pod) -> usize {
    let is_true = |kind| condition(pod, kind).is_some_and(|condition| condition.status == "True");
    let statuses = || init_statuses(pod).iter().chain(container_statuses(pod));
    let has_image = |status: &&ContainerStatus| !status.image_id.is_empty();
    1 + usize::from(is_scheduled(pod))
        + usize::from(is_true("PodReadyToStartContainers"))
        + init_statuses(pod).iter().filter(|status| is_init_done(pod, status)).count()
        + statuses().filter(has_image).count()
}

/// Whether the pod shows that its container `claude` ran.
pub(super) fn shows_it_ran(pod: &Pod) -> bool {
    match Claude::of(pod) {
        Claude::Running | Claude::HasRun => true,
        Claude::Ended(_) => !was_ended_unmade(pod),
        _ => false,
    }
}

/// Whether the pod shows that nothing of its container `claude` was ever started.
pub(super) fn shows_nothing_started(pod: &Pod) -> bool {
    match Claude::of(pod) {
        Claude::Waiting | Claude::StartFailed(_) => true,
        Claude::Running | Claude::HasRun | Claude::Created => false,
        Claude::Ended(_) => was_ended_unmade(pod),
        Claude::Unseen => match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
            None | Some("Pending") => true,
            // A node that refuses a pod starts no container of it. One that evicts it may drop the statuses.
            Some("Failed") => {
                let reason = pod.status.as_ref().and_then(|status| non_empty(&status.reason));
                reason.is_some_and(|reason| Row::of(Source::Refusal, reason).is_some())
            }
            Some(_) => false,
        },
    }
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
        let failed = |text: &str| format!("Final: {text}");
        let pull_failed = |text: &str| format!("ImagePull: {text}");
        let passing = |step: &str| format!("PodStart at {step}");
        let ready = || "ready".to_owned();
        for (status, key, line, verdict) in [
            (json!({}), "Unknown::", "phase=Unknown", passing("scheduling")),
            (json!({"phase": "Pending"}), "Pending::", "phase=Pending", passing("scheduling")),
            (json!({"phase": "Running"}), "Running::", "phase=Running", ready()),
            (json!({"phase": "Succeeded"}), "Succeeded::", "phase=Succeeded", ready()),
            (
                json!({"phase": "Pending", "initContainerStatuses": init(running()), "containerStatuses": main(creating())}),
                "Pending:ok:PodInitializing",
                "phase=Pending, init/write-prompt: running, claude: waiting (PodInitializing)",
                passing("init container"),
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": init(ended(0)), "containerStatuses": main(running())}),
                "Pending:ok:running",
                "phase=Pending, init/write-prompt: done (exit 0), claude: running",
                ready(),
            ),
            (
                json!({"phase": "Pending", "containerStatuses": main(running())}),
                "Pending::running",
                "phase=Pending, claude: running",
                ready(),
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
                "Unschedulable: Pod unschedulable: 0/3 nodes".to_owned(),
            ),
            (
                json!({"phase": "Pending", "conditions": condition(None)}),
                "Pending::",
                "phase=Pending",
                "Unschedulable: Pod unschedulable: insufficient resources".to_owned(),
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
                "ended: Pod p reached phase=Failed: claude exited 1 (m)".to_owned(),
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
                passing("container start"),
            ),
        ] {
            let progress = PodProgress::read(&pod(status));
            assert_eq!((progress.key.as_str(), progress.line.as_str()), (key, line));
            assert_eq!(told(&progress.verdict), verdict);
        }
    }

    /// A verdict in one line.
    fn told(verdict: &PodVerdict) -> String {
        match verdict {
            PodVerdict::Ready => "ready".to_owned(),
            PodVerdict::Ended(text) => format!("ended: {text}"),
            PodVerdict::Held(hold) => match &hold.text {
                Some(text) => format!("{:?}: {text}", hold.grace),
                None => format!("{:?} at {}", hold.grace, hold.step.as_str()),
            },
        }
    }

    #[test]
    fn only_claude_makes_a_pod_ready() {
        let running = || json!({"running": {}});
        let pulling = || waiting("ImagePullBackOff", Some("no such image"));
        for (status, verdict) in [
            (
                json!({"phase": "Pending", "containerStatuses": [container("claude", pulling()), container("proxy", running())]}),
                "ImagePull: Image pull failed for \"claude\": no such image",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [container("claude", waiting("CreateContainerConfigError", Some("no key"))), container("proxy", running())]}),
                "Container: Container \"claude\" cannot be created: no key",
            ),
            (
                json!({"phase": "Pending", "containerStatuses": [container("claude", running()), container("shipper", pulling())]}),
                "ready",
            ),
            (
                json!({"phase": "Pending", "containerStatuses": [container("claude", ended(0)), container("shipper", pulling())]}),
                "ready",
            ),
            (
                json!({"phase": "Pending", "containerStatuses": [container("claude", waiting("ContainerCreating", None)), container("shipper", pulling())]}),
                "PodStart at container start",
            ),
        ] {
            assert_eq!(told(&PodProgress::read(&pod(status)).verdict), verdict);
        }
    }

    #[test]
    fn container_that_cannot_start_is_final_with_its_words() {
        let state = || {
            json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": "exec: \"sh\": not\nfound",
            "startedAt": "1970-01-01T00:00:00Z"}})
        };
        for (phase, verdict) in [
            (
                "Failed",
                "Final: Pod p reached phase=Failed: claude exited 128 (StartError): exec: \"sh\": not found",
            ),
            ("Running", "Final: Container \"claude\" cannot be started: exec: \"sh\": not found"),
        ] {
            let status = json!({"phase": phase, "containerStatuses": [container("claude", state()), container("proxy", ended(0))]});
            assert_eq!(told(&PodProgress::read(&pod(status)).verdict), verdict);
        }
    }

    #[test]
    fn init_container_of_a_failed_pod_is_named() {
        let failed = json!({"terminated": {"exitCode": 3, "reason": "Error", "message": "no space\nleft"}});
        let status = json!({"phase": "Failed", "initContainerStatuses": [container("write-prompt", failed)],
            "containerStatuses": [container("claude", waiting("PodInitializing", None))]});
        let text = "Final: Init container \"write-prompt\" failed with exit code 3: Error: no space left";
        assert_eq!(told(&PodProgress::read(&pod(status)).verdict), text);
    }

    #[test]
    fn native_sidecar_that_fails_is_not_final() {
        let sidecar = |state| {
            let mut pod =
                pod(json!({"phase": "Pending", "initContainerStatuses": [container("proxy", state)],
                "containerStatuses": [container("claude", waiting("PodInitializing", None))]}));
            pod.spec = serde_json::from_value(json!({"containers": [],
                "initContainers": [{"name": "proxy", "restartPolicy": "Always"}]}))
            .unwrap();
            told(&PodProgress::read(&pod).verdict)
        };
        let between_two_starts =
            json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": "no \"sh\""}});
        let words = "PodStart: Init container \"proxy\" failed with exit code 128: StartError: no \"sh\"";
        assert_eq!(sidecar(between_two_starts), words);
        let looping = waiting("CrashLoopBackOff", Some("back-off 10s"));
        assert_eq!(sidecar(looping), "PodStart: Init container \"proxy\" crash loop: back-off 10s");
        let pulling = waiting("ErrImagePull", Some("denied"));
        assert_eq!(sidecar(pulling), "ImagePull: Init container \"proxy\" image pull failed: denied");
    }

    #[test]
    fn container_that_was_never_made_is_not_said_to_have_exited() {
        let unmade = json!({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}});
        let status = json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory.",
            "containerStatuses": [container("claude", unmade)]});
        let text = "Final: Pod p reached phase=Failed: Evicted (The node was low on resource: memory.)";
        assert_eq!(told(&PodProgress::read(&pod(status)).verdict), text);
    }

    #[test]
    fn init_container_killed_with_its_pod_names_who_ended_it() {
        let status = json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory.",
            "initContainerStatuses": [container("write-prompt", ended(137))],
            "containerStatuses": [container("claude", waiting("PodInitializing", None))]});
        let text = "Final: Init container \"write-prompt\" failed with exit code 137: unknown; the pod was evicted by its \
                    node [Evicted]: The node was low on resource: memory.";
        assert_eq!(told(&PodProgress::read(&pod(status)).verdict), text);
    }

    #[test]
    fn culprit_is_the_container_that_claude_waits_for() {
        let pulling = || waiting("ErrImagePull", Some("denied"));
        let start_error = || json!({"terminated": {"exitCode": 128, "reason": "StartError"}});
        let initializing = || waiting("PodInitializing", None);
        // The state of an init container, of a native sidecar, of `claude`, and of a container beside it.
        for (init, sidecar, claude, beside, expected) in [
            (ended(0), json!({"running": {}}), pulling(), ended(1), Some("claude")),
            (ended(0), ended(143), start_error(), pulling(), Some("claude")),
            (ended(0), ended(1), initializing(), pulling(), Some("mesh")),
            (ended(1), ended(1), initializing(), pulling(), Some("init")),
            (pulling(), initializing(), initializing(), initializing(), Some("init")),
            (ended(0), json!({"running": {}}), waiting("ContainerCreating", None), pulling(), None),
        ] {
            let mut pod = pod(json!({"phase": "Pending",
                "initContainerStatuses": [container("init", init), container("mesh", sidecar)],
                "containerStatuses": [container("auth-proxy", beside), container("claude", claude)]}));
            pod.spec = serde_json::from_value(json!({"containers": [],
                "initContainers": [{"name": "init"}, {"name": "mesh", "restartPolicy": "Always"}]}))
            .unwrap();
            let found = culprit(&pod).map(|(_, status)| status.name.as_str());
            assert_eq!(found, expected, "{pod:?}");
        }
    }

    #[test]
    fn progress_counts_steps_and_not_changes() {
        let status = |state, image: &str, scheduled: &str| {
            let mut proxy = container("proxy", state);
            proxy["imageID"] = image.into();
            pod(json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": scheduled}],
                "initContainerStatuses": [proxy]}))
        };
        let steps = |pod: &Pod| PodProgress::read(pod).steps;
        let looping = [ended(1), waiting("CrashLoopBackOff", None), json!({"running": {}})];
        let looped: Vec<usize> =
            looping.into_iter().map(|state| steps(&status(state, "i", "True"))).collect();
        assert_eq!(looped, [3, 3, 3], "a loop is no progress");
        assert_eq!(steps(&status(ended(0), "i", "True")), 4);
        assert_eq!(steps(&status(waiting("x", None), "", "True")), 2);
        assert_eq!(steps(&pod(json!({"phase": "Pending"}))), 1);
    }
}
