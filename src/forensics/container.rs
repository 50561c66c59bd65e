//! How a container of a pod stands, and how it ended.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use serde::Deserialize;

use super::non_empty;
use super::pod::{container_statuses, is_terminal};
use super::reasons::{LOST_BY_RUNTIME, NOT_FOUND_BY_KUBELET};
use crate::js_semantics;
use crate::manifest::labels::CLAUDE_CONTAINER;

/// How a container ended, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TerminatedState {
    /// Exit code; 128 + n for a process ended by signal n.
    pub(crate) exit_code: Option<i32>,
    /// Reason in one word, such as `OOMKilled`.
    pub(crate) reason: Option<String>,
    /// Message, trimmed; never blank.
    pub(crate) message: Option<String>,
    /// Signal number, where the runtime gives it.
    pub(crate) signal: Option<i32>,
    /// When it ended, in whole seconds.
    #[serde(skip)]
    pub(crate) finished_at: Option<Timestamp>,
}

impl From<&ContainerStateTerminated> for TerminatedState {
    fn from(state: &ContainerStateTerminated) -> Self {
        let message = state.message.as_deref().map(js_semantics::trim).filter(|message| !message.is_empty());
        Self {
            exit_code: Some(state.exit_code),
            reason: state.reason.clone(),
            message: message.map(str::to_owned),
            signal: state.signal,
            finished_at: state.finished_at.as_ref().map(|time| time.0),
        }
    }
}

/// How much longer before a request than the request's own clock says a kill must have come to count as an end of its own:
/// a kill is what such a request leads to, and the node's clock may be behind.
const CLOCK_MARGIN: i64 = 60;

impl TerminatedState {
    /// Whether this may be the way a kubelet ends a container: a signal that ends it, and not for its memory.
    pub(crate) fn is_kill(&self) -> bool {
        (self.is_unknown() || matches!(self.exit_code, None | Some(137 | 143)))
            && self.reason.as_deref() != Some("OOMKilled")
    }

    /// Whether the container had ended before its end was requested, so that the request is not why.
    pub(crate) fn ended_before(&self, requested: Timestamp) -> bool {
        let margin = if self.is_kill() { CLOCK_MARGIN } else { 0 };
        let finished = self.finished_at.map(Timestamp::as_second).filter(|second| *second > 0);
        // A node gives whole seconds.
        finished.is_some_and(|second| second + margin < requested.as_second())
    }

    /// Whether the node made this state up, because it does not know how the container ended.
    pub(crate) fn is_unknown(&self) -> bool {
        self.reason.as_deref().is_some_and(|reason| [NOT_FOUND_BY_KUBELET, LOST_BY_RUNTIME].contains(&reason))
    }
}

/// Where a container stands. A container without a status counts as waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ContainerPhase {
    /// Not started.
    Waiting,
    /// Running.
    Running,
    /// It ended.
    Terminated(TerminatedState),
}

fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    container_statuses(pod).iter().find(|status| status.name == container)
}

/// The end of a container. A busy node may remove a container before it has read how it ended: the status then says
/// that it waits to be started, in a pod that has ended, and has its end as `lastState`.
pub(super) fn end_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStateTerminated> {
    let status = status_of(pod, container)?;
    let terminated = |state: &'a Option<ContainerState>| state.as_ref()?.terminated.as_ref();
    terminated(&status.state).or_else(|| terminated(&status.last_state).filter(|_| is_terminal(pod)))
}

/// How a container of the pod ended; `None` when the pod does not say that it has.
pub(crate) fn terminated_state(pod: &Pod, container: &str) -> Option<TerminatedState> {
    end_of(pod, container).map(TerminatedState::from)
}

/// Where a container of the pod stands.
pub(crate) fn container_phase(pod: &Pod, container: &str) -> ContainerPhase {
    if let Some(end) = end_of(pod, container) {
        return ContainerPhase::Terminated(end.into());
    }
    match status_of(pod, container).and_then(|status| status.state.as_ref()) {
        Some(ContainerState { running: Some(_), .. }) => ContainerPhase::Running,
        _ => ContainerPhase::Waiting,
    }
}

/// What a pod says about its container `claude`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Claude<'a> {
    /// It has no status.
    Unseen,
    /// It waits, and nothing of it was ever started.
    Waiting,
    /// It waits with an id: it was created, and is about to be started.
    Created,
    /// The runtime could not start it.
    StartFailed(&'a ContainerStateTerminated),
    /// It runs.
    Running,
    /// It ran and has ended.
    Ended(&'a ContainerStateTerminated),
    /// It ran before and waits again.
    HasRun,
}

impl<'a> Claude<'a> {
    pub(super) fn of(pod: &'a Pod) -> Self {
        let Some(status) = status_of(pod, CLAUDE_CONTAINER) else { return Self::Unseen };
        if let Some(end) = end_of(pod, CLAUDE_CONTAINER) {
            return if never_ran(end) { Self::StartFailed(end) } else { Self::Ended(end) };
        }
        if status.state.as_ref().is_some_and(|state| state.running.is_some()) {
            return Self::Running;
        }
        let last = status.last_state.as_ref();
        let ran = last.is_some_and(|last| {
            last.running.is_some() || last.terminated.as_ref().is_some_and(|end| !never_ran(end))
        });
        if ran || status.restart_count > 0 {
            return Self::HasRun;
        }
        let created =
            last.is_some_and(|last| last.terminated.is_some()) || non_empty(&status.container_id).is_some();
        if created { Self::Created } else { Self::Waiting }
    }
}

/// Whether a container that counts as ended never ran: the runtime could not start it, and its start is 1970.
fn never_ran(end: &ContainerStateTerminated) -> bool {
    let could_not_start = matches!(end.reason.as_deref(), Some("StartError" | "ContainerCannotRun"));
    could_not_start && end.started_at.as_ref().is_none_or(|at| at.0.as_second() <= 0)
}

/// Whether the pod was ended before the runtime made a container of its agent. The kubelet ends what still waits then:
/// without an id, a start or a restart. A container that it lost has one of these
/// (`TerminatePod` and `convertStatusToAPIStatus` of the kubelet).
pub(super) fn was_ended_unmade(pod: &Pod) -> bool {
    let Some(status) = status_of(pod, CLAUDE_CONTAINER) else { return false };
    let end = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    let unmade = end.is_some_and(|end| {
        end.reason.as_deref() == Some(NOT_FOUND_BY_KUBELET)
            && end.started_at.is_none()
            && non_empty(&end.container_id).is_none()
    });
    let is_first =
        status.last_state.as_ref().is_none_or(|last| last.terminated.is_none() && last.running.is_none());
    unmade && is_first && status.restart_count == 0 && non_empty(&status.container_id).is_none()
}

/// Why a pod in a final phase cannot be followed, with the end of its `claude` container where that is known. The
/// message is that of the container, untrimmed.
pub(crate) fn describe_pod_terminated_error(
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

/// How a container ended whose output has no result event.
pub(crate) fn describe_truncation_cause(state: Option<&TerminatedState>) -> String {
    let Some(state) = state else {
        return "pod state unavailable — likely deleted before exit could be read".into();
    };
    let mut parts = Vec::new();
    match state.exit_code {
        Some(code) => {
            parts.push(format!("exit code {code}"));
            match code {
                // No signal was seen.
                137 if state.is_unknown() => {}
                137 => parts.push("SIGKILL (commonly OOMKilled)".into()),
                143 => parts.push("SIGTERM".into()),
                _ => {}
            }
        }
        None => parts.push("no exit code".into()),
    }
    parts.extend(state.signal.map(|signal| format!("signal {signal}")));
    parts.extend(non_empty(&state.reason).map(|reason| format!("reason={reason}")));
    parts.extend(non_empty(&state.message).map(|message| format!("message={message}")));
    parts.join(", ")
}

/// What the error of a run without a result says about the end of the container, with a space before it: ` [pod: …]`;
/// empty where nothing more than an exit code is known.
pub(crate) fn pod_cause(state: Option<&TerminatedState>) -> String {
    let Some(state) = state else {
        return String::new();
    };
    let mut parts = Vec::new();
    parts.extend(non_empty(&state.reason).map(|reason| format!("reason={reason}")));
    parts.extend(non_empty(&state.message).map(|message| format!("message={message}")));
    parts.extend(state.signal.map(|signal| format!("signal={signal}")));
    if state.exit_code == Some(137) && !state.is_unknown() {
        parts.push("SIGKILL (commonly OOMKilled)".into());
    }
    if parts.is_empty() { String::new() } else { format!(" [pod: {}]", parts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::fixtures::{container, ended, pod, waiting};
    use super::super::{PodProgress, PodVerdict};
    use super::*;

    #[test]
    fn terminated_container_has_code_reason_and_trimmed_message() {
        let state = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": " too big\n", "signal": 9,
            "finishedAt": "2026-01-02T03:04:05Z"}});
        let pod = pod(
            json!({"phase": "Failed", "containerStatuses": [container("other", ended(3)), container("claude", state)]}),
        );
        let state = terminated_state(&pod, "claude").unwrap();
        let expected = json!({"exitCode": 137, "reason": "OOMKilled", "message": "too big", "signal": 9});
        let finished_at = Some("2026-01-02T03:04:05Z".parse().unwrap());
        assert_eq!(state, TerminatedState { finished_at, ..serde_json::from_value(expected).unwrap() });
        assert_eq!(container_phase(&pod, "claude"), ContainerPhase::Terminated(state));
        assert_eq!(terminated_state(&pod, "absent"), None);
        assert_eq!(container_phase(&pod, "absent"), ContainerPhase::Waiting);
        assert!(is_terminal(&pod));
        assert_eq!(terminated_state(&Pod::default(), "claude"), None);
        assert!(!is_terminal(&Pod::default()));
        let state: TerminatedState =
            serde_json::from_value(json!({"exitCode": null, "reason": "Error"})).unwrap();
        assert_eq!((state.exit_code, state.reason.as_deref()), (None, Some("Error")));
    }

    #[test]
    fn container_has_the_phase_its_status_says() {
        for (state, phase) in [
            (json!({}), ContainerPhase::Waiting),
            (waiting("ContainerCreating", None), ContainerPhase::Waiting),
            (json!({"running": {}}), ContainerPhase::Running),
            (
                json!({"terminated": {"exitCode": 0, "message": " "}}),
                ContainerPhase::Terminated(TerminatedState { exit_code: Some(0), ..Default::default() }),
            ),
        ] {
            let pod = pod(json!({"containerStatuses": [container("claude", state)]}));
            assert_eq!(container_phase(&pod, "claude"), phase);
        }
    }

    /// As written by a kubelet of 1.20 that had removed the container before it read how it ended.
    #[test]
    fn container_removed_by_its_node_has_ended_once_the_pod_has() {
        let removed = |phase: &str| {
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
        let over = removed("Failed");
        assert_eq!(terminated_state(&over, "claude"), Some(end.clone()));
        assert_eq!(container_phase(&over, "claude"), ContainerPhase::Terminated(end));
        assert_eq!(
            PodProgress::read(&over).verdict,
            PodVerdict::Ended(
                "Pod p reached phase=Failed: claude exited 137 (ContainerStatusUnknown)".into()
            )
        );
        // In any other phase the kubelet starts it again.
        let restarting = removed("Running");
        assert_eq!(terminated_state(&restarting, "claude"), None);
        assert_eq!(container_phase(&restarting, "claude"), ContainerPhase::Waiting);
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
            finished_at: None,
        }
    }

    #[test]
    fn ended_pod_is_described_by_its_container() {
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
    fn truncation_is_described_by_code_signal_and_reason() {
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
    fn unknown_end_is_not_called_a_sigkill() {
        let unknown = state(Some(137), Some("ContainerStatusUnknown"), None, None);
        assert_eq!(describe_truncation_cause(Some(&unknown)), "exit code 137, reason=ContainerStatusUnknown");
        assert_eq!(pod_cause(Some(&unknown)), " [pod: reason=ContainerStatusUnknown]");
    }

    #[test]
    fn end_comes_before_a_request_by_the_clock_and_its_kind() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (code, reason, finished, before) in [
            (1, "Error", Some(99), true),
            (1, "Error", Some(100), false),
            (1, "Error", None, false),
            (1, "Error", Some(0), false),
            (137, "OOMKilled", Some(99), true),
            // A node whose clock is behind.
            (143, "Error", Some(95), false),
            (137, "Error", Some(95), false),
            (143, "Error", Some(10), true),
        ] {
            let end = TerminatedState {
                finished_at: finished.map(at),
                ..state(Some(code), Some(reason), None, None)
            };
            assert_eq!(end.ended_before(at(100)), before, "{end:?}");
        }
    }

    #[test]
    fn pod_cause_names_reason_message_signal_and_sigkill() {
        for (given, text) in [
            (state(Some(1), Some("Error"), Some("broke"), None), " [pod: reason=Error, message=broke]"),
            (
                state(Some(137), Some("OOMKilled"), Some(""), Some(9)),
                " [pod: reason=OOMKilled, signal=9, SIGKILL (commonly OOMKilled)]",
            ),
            (state(Some(1), Some(""), Some(""), Some(0)), " [pod: signal=0]"),
            (state(Some(1), Some(""), Some(""), None), ""),
            (TerminatedState::default(), ""),
        ] {
            assert_eq!(pod_cause(Some(&given)), text);
        }
        assert_eq!(pod_cause(None), "");
    }

    proptest! {
        #[test]
        fn descriptions_are_never_empty(
            code in any::<Option<i32>>(), reason in any::<Option<String>>(), message in any::<Option<String>>(),
            signal in any::<Option<i32>>(), phase in "\\PC*", name in "\\PC*",
        ) {
            let state = TerminatedState { exit_code: code, reason, message, signal, finished_at: None };
            prop_assert!(!describe_truncation_cause(Some(&state)).is_empty());
            prop_assert!(!describe_pod_terminated_error(&name, &phase, Some(&state)).is_empty());
        }
    }
}
