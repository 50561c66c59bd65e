//! Failures before the CLI's output could matter: one constructor each, with its message and its log line.

use super::{ErrorCode, Outcome, Recovery};
use crate::forensics::{Cause, OrphanVerdict};
use crate::js_semantics;

/// The message of a run that ends because its host does.
pub(super) const HOST_SHUTDOWN: &str = "Paperclip's process shut down";

impl Outcome {
    /// A value of the configuration cannot be used.
    pub(crate) fn config_invalid(message: &str) -> Self {
        Self::early(ErrorCode::ConfigInvalid, format!("Invalid adapter configuration: {message}"))
            .because(Cause::ConfigInvalid)
            .warn(format!("[paperclip] Cannot create K8s Job: {message}"))
    }

    /// The cluster could not be set up, or the host's own pod cannot serve as the model of a Job.
    pub(crate) fn setup_invalid(error: &str) -> Self {
        Self::early(ErrorCode::ConfigInvalid, format!("Cannot set up the run: {error}"))
            .because(Cause::ConfigInvalid)
            .warn(format!("[paperclip] Cannot create K8s Job: {error}"))
    }

    /// The API did not answer, or refused, when the host's own pod was to be read.
    pub(crate) fn api_unreachable(error: &str) -> Self {
        Self::early(ErrorCode::ApiUnreachable, format!("Cannot read Paperclip's own pod: {error}"))
            .because(Cause::OwnPodUnreadable)
            .warn(format!("[paperclip] Cannot create K8s Job: cannot read Paperclip's own pod: {error}"))
    }

    /// A helper or callback of the host failed, or gave no answer, before the Job existed.
    pub(crate) fn host_failed(error: &str) -> Self {
        Self::prepare_failed(error).because(Cause::HostHelperFailed)
    }

    /// The prompt bundle could not be made.
    pub(crate) fn bundle_failed(error: &str) -> Self {
        Self::prepare_failed(error).because(Cause::BundleFailed)
    }

    fn prepare_failed(error: &str) -> Self {
        Self::early(ErrorCode::PrepareFailed, format!("Cannot prepare the run: {error}"))
            .warn(format!("[paperclip] Cannot create K8s Job: cannot prepare the run: {error}"))
    }

    /// A bug of this package.
    pub(crate) fn internal_error(error: &str) -> Self {
        let message = format!("claude_k8s: internal error: {error}");
        let log = format!("[paperclip] {message}");
        Self::early(ErrorCode::InternalError, message).because(Cause::InternalError).warn(log)
    }

    /// The host's process shuts down, so nothing is created any more.
    pub(crate) fn host_shutdown() -> Self {
        Self::early(ErrorCode::HostShutdown, HOST_SHUTDOWN).because(Cause::HostShutdown)
    }

    /// The host's process shuts down, and its next one attaches to the run's Job.
    pub(crate) fn left_by_host(job: &str) -> Self {
        Self::early(ErrorCode::HostShutdown, format!("{HOST_SHUTDOWN}; Job {job} goes on"))
            .because(Cause::LeftByHost)
    }

    /// No label value can be made of the agent's id.
    pub(crate) fn agent_id_invalid(agent_id: &str) -> Self {
        Self::early(
            ErrorCode::AgentIdInvalid,
            format!("Agent ID \"{agent_id}\" cannot be sanitized to a valid Kubernetes label"),
        )
        .because(Cause::AgentIdInvalid)
        .warn(format!(
            "[paperclip] Cannot create K8s Job: agent.id \"{agent_id}\" produces no valid RFC 1123 label characters"
        ))
    }

    /// An orphaned Job blocks the run; `None` when the run may take it over. A missing name is `unknown`.
    pub(crate) fn orphan_blocked(verdict: OrphanVerdict, orphan: Option<&str>) -> Option<Self> {
        let orphan = orphan.unwrap_or("unknown");
        let (code, cause, message, log) = match verdict {
            OrphanVerdict::Reattach => return None,
            OrphanVerdict::BlockTaskUnknown => (
                ErrorCode::OrphanTaskUnknown,
                Cause::UnknownTaskAlive,
                "has unknown task context",
                "has missing task label — cannot safely reattach",
            ),
            OrphanVerdict::BlockTaskMismatch => (
                ErrorCode::ConcurrentRunBlocked,
                Cause::OtherTaskAlive,
                "is running a different task",
                "belongs to a different task",
            ),
            OrphanVerdict::BlockSessionMismatch => (
                ErrorCode::OrphanSessionMismatch,
                Cause::OtherSessionAlive,
                "has a mismatched session",
                "has a different session",
            ),
        };
        Some(
            Self::early(code, format!("Concurrent run blocked: orphaned Job {orphan} {message}"))
                .because_of(cause, orphan)
                .warn(format!("[paperclip] Blocked: orphaned Job {orphan} {log}")),
        )
    }

    /// Orphaned Jobs block the run, and taking over is switched off.
    pub(crate) fn reattach_disabled(orphans: &[&str]) -> Self {
        Self::early(
            ErrorCode::ConcurrentRunBlocked,
            "Concurrent run blocked: orphaned Job(s) still running for this agent (reattach disabled)",
        )
        .because_of(Cause::ReattachDisabled, orphans.first().unwrap_or(&"unknown"))
        .warn(format!(
            "[paperclip] Concurrent run blocked: orphaned Job(s) running and reattach disabled: {}",
            orphans.join(", ")
        ))
    }

    /// Jobs of this same run are running already.
    pub(crate) fn same_run_blocked(jobs: &[&str]) -> Self {
        let names = jobs.join(", ");
        Self::early(
            ErrorCode::ConcurrentRunBlocked,
            format!("Concurrent run blocked: Job {names} is still running for this agent"),
        )
        .because_of(Cause::SameRunAlive, jobs.first().unwrap_or(&"unknown"))
        .warn(format!(
            "[paperclip] Concurrent run blocked: existing Job(s) still running for this run: {names}"
        ))
    }

    /// Pods of earlier runs did not end in time.
    pub(crate) fn pod_blocked(pods: &[&str]) -> Self {
        let names = pods.join(", ");
        Self::early(
            ErrorCode::ConcurrentRunBlocked,
            format!("Concurrent run blocked: pod {names} of an earlier run is still running for this agent"),
        )
        .because_of(Cause::JobOrphaned, pods.first().unwrap_or(&"unknown"))
        .warn(format!("[paperclip] Concurrent run blocked: pod(s) of earlier runs still running: {names}"))
    }

    /// Another host presumed this run dead while it was being prepared, and put up a barrier against its Job.
    pub(crate) fn overruled(job: &str) -> Self {
        Self::early(
            ErrorCode::ConcurrentRunBlocked,
            format!("Concurrent run blocked: another host took over this agent before Job {job} was created"),
        )
        .because_of(Cause::TakenOver, job)
        .warn(format!(
            "[paperclip] Concurrent run blocked: Job {job} was barred by another host, which took this run for dead"
        ))
    }

    /// The agent's Jobs could not be listed.
    pub(crate) fn guard_unreachable(error: &str) -> Self {
        Self::early(ErrorCode::ConcurrencyGuardUnreachable, format!("Concurrency guard unreachable: {error}"))
            .because(Cause::GuardUnreachable)
            .warn(format!("[paperclip] Concurrency guard failed: unable to list jobs: {error}"))
    }

    /// The Secret for the prompt could not be created.
    pub(crate) fn prompt_secret_create_failed(error: &str) -> Self {
        let message = format!("Failed to create prompt Secret: {error}");
        let log = format!("[paperclip] {message}");
        Self::early(ErrorCode::PromptSecretCreateFailed, message).because(Cause::PromptSecretFailed).warn(log)
    }

    /// The Job could not be created.
    pub(crate) fn job_create_failed(error: &str) -> Self {
        Self::early(ErrorCode::JobCreateFailed, format!("Failed to create Kubernetes Job: {error}"))
            .because(Cause::JobCreateFailed)
            .warn(format!("[paperclip] Failed to create K8s Job: {error}"))
    }

    /// The pod never got to run.
    pub(crate) fn pod_schedule_failed(error: &str) -> Self {
        let message = format!("Pod scheduling failed: {error}");
        let log = format!("[paperclip] {message}");
        Self::early(ErrorCode::PodScheduleFailed, message).warn(log)
    }

    /// The run reached its own time limit of `seconds` before its container ran; `waiting_for` is what for.
    pub(crate) fn timed_out_before_start(seconds: f64, waiting_for: &str) -> Self {
        let message = format!("Timed out after {}s: {waiting_for}", js_semantics::number(seconds));
        let log = format!("[paperclip] {message}");
        Self::early(ErrorCode::Timeout, message).because(Cause::TimeLimit).warn(log)
    }

    /// The Job to take over cannot be followed.
    pub(crate) fn pod_reattach_failed(error: &str) -> Self {
        let message = format!("Pod reattach failed: {error}");
        let log = format!("[paperclip] {message}");
        Self::early(ErrorCode::PodReattachFailed, message).warn(log)
    }

    /// The Job to take over cannot be followed: it has no pod.
    pub(crate) fn reattach_without_pod(job: &str) -> Self {
        Self::pod_reattach_failed(&format!("Reattach target Job {job} has no pod"))
            .because(Cause::ReattachWithoutPod)
    }

    /// The run was cancelled. `acknowledged`: by the host's abort signal, and the Job and its pod are confirmed gone.
    pub(crate) fn cancelled(acknowledged: bool) -> Self {
        // No CLI of the run has touched a session.
        let recovery =
            if acknowledged { Recovery::Acknowledged { session_preserved: true } } else { Recovery::Nothing };
        Self::early(ErrorCode::Cancelled, "Run cancelled")
            .with_recovery(recovery)
            .because(Cause::CancelledByHost)
    }

    /// It could not be determined within `seconds` how the Job ended.
    pub(crate) fn job_state_unreachable(job: &str, seconds: u64, error: &str) -> Self {
        Self::early(
            ErrorCode::JobStateMismatch,
            format!("Job {job} did not complete cleanly (its state could not be read for {seconds}s: {error})"),
        )
        .because(Cause::ApiUnreachable)
        .warn(format!(
            "[paperclip] State of Job {job} could not be read for {seconds}s — returning error and keeping the Job."
        ))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::super::StdStream;
    use super::*;
    use crate::forensics::NothingStarted;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;
    const BOOTSTRAP: &str = r#"{"kind":"bootstrap","providerWorkStarted":false}"#;

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn each_early_failure_has_its_message_log_line_and_recovery() {
        use ErrorCode as Code;
        let blocked = |verdict| Outcome::orphan_blocked(verdict, Some("o")).unwrap();
        for (outcome, code, message, log) in [
            (
                Outcome::config_invalid("namespace is not text"),
                Code::ConfigInvalid,
                "Invalid adapter configuration: namespace is not text",
                "[paperclip] Cannot create K8s Job: namespace is not text",
            ),
            (
                Outcome::host_failed("m"),
                Code::PrepareFailed,
                "Cannot prepare the run: m",
                "[paperclip] Cannot create K8s Job: cannot prepare the run: m",
            ),
            (
                Outcome::bundle_failed("m"),
                Code::PrepareFailed,
                "Cannot prepare the run: m",
                "[paperclip] Cannot create K8s Job: cannot prepare the run: m",
            ),
            (
                Outcome::internal_error("m"),
                Code::InternalError,
                "claude_k8s: internal error: m",
                "[paperclip] claude_k8s: internal error: m",
            ),
            (
                Outcome::left_by_host("j"),
                Code::HostShutdown,
                "Paperclip's process shut down; Job j goes on",
                "",
            ),
            (Outcome::host_shutdown(), Code::HostShutdown, "Paperclip's process shut down", ""),
            (
                Outcome::agent_id_invalid("!!"),
                Code::AgentIdInvalid,
                "Agent ID \"!!\" cannot be sanitized to a valid Kubernetes label",
                "[paperclip] Cannot create K8s Job: agent.id \"!!\" produces no valid RFC 1123 label characters",
            ),
            (
                blocked(OrphanVerdict::BlockTaskUnknown),
                Code::OrphanTaskUnknown,
                "Concurrent run blocked: orphaned Job o has unknown task context",
                "[paperclip] Blocked: orphaned Job o has missing task label — cannot safely reattach",
            ),
            (
                blocked(OrphanVerdict::BlockTaskMismatch),
                Code::ConcurrentRunBlocked,
                "Concurrent run blocked: orphaned Job o is running a different task",
                "[paperclip] Blocked: orphaned Job o belongs to a different task",
            ),
            (
                Outcome::orphan_blocked(OrphanVerdict::BlockSessionMismatch, None).unwrap(),
                Code::OrphanSessionMismatch,
                "Concurrent run blocked: orphaned Job unknown has a mismatched session",
                "[paperclip] Blocked: orphaned Job unknown has a different session",
            ),
            (
                Outcome::reattach_disabled(&["a", "b"]),
                Code::ConcurrentRunBlocked,
                "Concurrent run blocked: orphaned Job(s) still running for this agent (reattach disabled)",
                "[paperclip] Concurrent run blocked: orphaned Job(s) running and reattach disabled: a, b",
            ),
            (
                Outcome::same_run_blocked(&["a", "b"]),
                Code::ConcurrentRunBlocked,
                "Concurrent run blocked: Job a, b is still running for this agent",
                "[paperclip] Concurrent run blocked: existing Job(s) still running for this run: a, b",
            ),
            (
                Outcome::guard_unreachable("m"),
                Code::ConcurrencyGuardUnreachable,
                "Concurrency guard unreachable: m",
                "[paperclip] Concurrency guard failed: unable to list jobs: m",
            ),
            (
                Outcome::prompt_secret_create_failed("m"),
                Code::PromptSecretCreateFailed,
                "Failed to create prompt Secret: m",
                "[paperclip] Failed to create prompt Secret: m",
            ),
            (
                Outcome::job_create_failed("m"),
                Code::JobCreateFailed,
                "Failed to create Kubernetes Job: m",
                "[paperclip] Failed to create K8s Job: m",
            ),
            (
                Outcome::pod_schedule_failed("m"),
                Code::PodScheduleFailed,
                "Pod scheduling failed: m",
                "[paperclip] Pod scheduling failed: m",
            ),
            (
                Outcome::reattach_without_pod("o"),
                Code::PodReattachFailed,
                "Pod reattach failed: Reattach target Job o has no pod",
                "[paperclip] Pod reattach failed: Reattach target Job o has no pod",
            ),
            (Outcome::cancelled(false), Code::Cancelled, "Run cancelled", ""),
            (
                Outcome::job_state_unreachable("j", 60, "m"),
                Code::JobStateMismatch,
                "Job j did not complete cleanly (its state could not be read for 60s: m)",
                "[paperclip] State of Job j could not be read for 60s — returning error and keeping the Job.",
            ),
        ] {
            let result = outcome.to_json(NOW);
            assert_eq!(
                (&result["exitCode"], &result["signal"], &result["timedOut"], &result["errorMessage"]),
                (&Value::Null, &Value::Null, &false.into(), &message.into())
            );
            let ours = result["resultJson"].get("k8sErrorCode").unwrap_or(&result["errorCode"]);
            assert_eq!(ours, code.as_str());
            assert_eq!(result["resultJson"]["conversationContinuation"], "continue_conversation_v1");
            assert_eq!(result.get("executionRecovery"), None);
            assert_eq!(outcome.clone().proven(None).to_json(NOW), result, "no code is a proof");
            let mut expected = result;
            expected["executionRecovery"] = serde_json::from_str(BOOTSTRAP).unwrap();
            assert_eq!(outcome.clone().proven(Some(NothingStarted::for_test())).to_json(NOW), expected);
            let logs: Vec<&str> = outcome.logs.iter().map(|line| line.text.as_str()).collect();
            assert_eq!(logs.join(""), log);
            assert!(outcome.logs.iter().all(|line| line.stream == StdStream::Stderr));
        }
        assert_eq!(Outcome::orphan_blocked(OrphanVerdict::Reattach, None), None);
    }

    #[test]
    fn cancellation_with_job_confirmed_gone_is_acknowledged() {
        assert_eq!(
            Outcome::cancelled(true).to_json(NOW),
            json!({
                "exitCode": null, "signal": null, "timedOut": false, "errorMessage": "Run cancelled",
                "errorCode": "cancelled",
                "resultJson": {
                    "executionCancellation": {"state": "acknowledged"},
                    "conversationContinuation": "continue_conversation_v1"
                },
                "executionRecovery": {
                    "kind": "interrupted", "providerStopped": true, "sessionPreserved": true, "actionOutcomes": "settled"
                }
            })
        );
    }

    #[test]
    fn board_is_asked_to_repair_a_configuration() {
        let asked = |outcome: Outcome| outcome.to_json(NOW);
        let id = "4f0c6d3e-1111-4222-8333-944455556666";
        let result = asked(Outcome::config_invalid("namespace is not text").for_agent(id));
        assert_eq!(result["errorCode"], "configuration_incomplete", "the host's own word for it");
        let said = &result["resultJson"];
        assert_eq!(said["k8sErrorCode"], "k8s_config_invalid");
        let asks = &said["configurationIncomplete"];
        assert_eq!(asks["reason"], "k8s_config_invalid");
        assert_eq!(asks["actionUrl"], format!("/agents/{id}/runtime"));
        assert_eq!(asks["message"], "Invalid adapter configuration: namespace is not text");
        assert_eq!((result.get("errorFamily"), result.get("retryNotBefore")), (None, None), "no retry helps");

        let fingerprint =
            |outcome: Outcome| asked(outcome)["resultJson"]["configurationIncomplete"]["fingerprint"].take();
        let same = fingerprint(Outcome::config_invalid("namespace is not text"));
        assert_eq!(same, asks["fingerprint"], "one request for one fault");
        assert_ne!(same, fingerprint(Outcome::config_invalid("image is not text")));

        let unknown_model =
            Outcome::failed(Some(1), Some(ErrorCode::ModelNotFound), "m", super::super::Body::Bare)
                .for_agent(id);
        let asks = asked(unknown_model)["resultJson"]["configurationIncomplete"].take();
        assert_eq!((&asks["reason"], &asks["message"]), (&"model_not_found".into(), &"m".into()));

        // The tests of 0.1.49 compare this code. A host makes ids that give a label.
        let result = asked(Outcome::agent_id_invalid("!!").for_agent("!!"));
        assert_eq!(result["errorCode"], "k8s_agent_id_invalid");
        let asks = &result["resultJson"]["configurationIncomplete"];
        assert_eq!((asks.get("actionUrl"), &asks["reason"]), (None, &"k8s_agent_id_invalid".into()));
    }

    #[test]
    fn retry_waits_as_long_as_its_cause_asks_for() {
        for (outcome, at) in [
            (Outcome::api_unreachable("m"), Some("1970-01-01T00:01:00Z")),
            (Outcome::guard_unreachable("m"), Some("1970-01-01T00:01:00Z")),
            (Outcome::pod_schedule_failed("m").because(Cause::ImagePullFailed), Some("1970-01-01T00:02:00Z")),
            (Outcome::pod_schedule_failed("m").because(Cause::Unschedulable), Some("1970-01-01T00:05:00Z")),
            (Outcome::job_create_failed("m").because(Cause::JobQuotaExceeded), Some("1970-01-01T00:05:00Z")),
            (Outcome::job_create_failed("m").because(Cause::JobInvalid), None),
        ] {
            let result = outcome.to_json(NOW);
            assert_eq!(result["retryNotBefore"].as_str(), at, "{result}");
            assert_eq!(result["errorFamily"] == "transient_upstream", at.is_some(), "{result}");
        }
    }
}
