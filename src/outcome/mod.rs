//! The result of a run: the only place where error codes and messages are chosen.

use serde_json::{Map, Value, json};

use crate::claude::{
    Captured, PartialFacts, Usage, describe_claude_failure, is_claude_max_turns_result,
    is_claude_unknown_session_error, partial_run_error,
};
use crate::forensics::{
    Disruption, OrphanVerdict, TerminatedState, Vanished, describe_truncation_cause, vanished_details,
};
use crate::js_semantics;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a run failed, as the host sees it in `errorCode`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code's text.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

error_codes! {
    /// A value of the adapter's configuration cannot be used. Nothing was created.
    ConfigInvalid = "k8s_config_invalid",
    /// The agent's id gives no label value.
    AgentIdInvalid = "k8s_agent_id_invalid",
    /// Another Job of the agent is running.
    ConcurrentRunBlocked = "k8s_concurrent_run_blocked",
    /// A Job of the agent is running whose task, or the run's own, is not known.
    OrphanTaskUnknown = "k8s_orphan_task_unknown",
    /// A Job of the agent is running in another session.
    OrphanSessionMismatch = "k8s_orphan_session_mismatch",
    /// The agent's Jobs could not be listed.
    ConcurrencyGuardUnreachable = "k8s_concurrency_guard_unreachable",
    /// The Secret for a large prompt could not be created.
    PromptSecretCreateFailed = "k8s_prompt_secret_create_failed",
    /// The Job could not be created.
    JobCreateFailed = "k8s_job_create_failed",
    /// The Job's pod did not come to run.
    PodScheduleFailed = "k8s_pod_schedule_failed",
    /// The Job to take over has no pod.
    PodReattachFailed = "k8s_pod_reattach_failed",
    /// The run was cancelled in the host.
    Cancelled = "cancelled",
    /// How the Job ended could not be found out; it is kept.
    JobStateMismatch = "k8s_job_state_mismatch",
    /// The run took longer than it may.
    Timeout = "timeout",
    /// The session to resume does not exist.
    SessionUnavailable = "session_unavailable",
    /// The Job disappeared, and nothing tells how the CLI ended.
    JobDeletedExternally = "k8s_job_deleted_externally",
    /// The model answered with nothing.
    LlmApiError = "llm_api_error",
    /// The CLI ended in the middle of an answer.
    ClaudeTruncated = "claude_truncated",
}

/// Where a log line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// `onLog("stdout", …)`.
    Stdout,
    /// `onLog("stderr", …)`.
    Stderr,
}

/// A line for the run's log, without a newline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Where it goes.
    pub stream: LogStream,
    /// The line.
    pub text: String,
}

/// What the host can conclude about the issue of a failed run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovery {
    /// Nothing.
    None,
    /// Nothing of the agent's work had started, so nothing needs to be reconciled.
    Bootstrap,
    /// Cancelled on the host's demand, and the Job is confirmed gone.
    Acknowledged,
}

/// The result of a run, and what belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    exit_code: Option<i32>,
    timed_out: bool,
    message: Option<String>,
    code: Option<ErrorCode>,
    recovery: Recovery,
    body: Body,
    /// Lines the log gets because of this result.
    pub logs: Vec<LogLine>,
}

#[derive(Clone, Debug, PartialEq)]
enum Body {
    Bare,
    Stdout(String),
    SessionGone(Value),
    Finished(Box<Finished>),
}

#[derive(Clone, Debug, PartialEq)]
struct Finished {
    usage: Usage,
    session_id: Option<String>,
    session_params: Value,
    model: String,
    cost_usd: f64,
    result: Value,
    summary: String,
    clear_session: bool,
}

impl Outcome {
    /// A failure before the CLI's output could matter. It has five keys, and the evidence the host needs
    /// where nothing of the agent's work can have started.
    pub fn early(code: ErrorCode, message: impl Into<String>) -> Self {
        use ErrorCode as Code;
        let recovery = match code {
            Code::ConfigInvalid
            | Code::AgentIdInvalid
            | Code::ConcurrentRunBlocked
            | Code::OrphanTaskUnknown
            | Code::OrphanSessionMismatch
            | Code::ConcurrencyGuardUnreachable
            | Code::PromptSecretCreateFailed
            | Code::JobCreateFailed => Recovery::Bootstrap,
            _ => Recovery::None,
        };
        Self::failed(None, Some(code), message, Body::Bare).with_recovery(recovery)
    }

    fn failed(
        exit_code: Option<i32>,
        code: Option<ErrorCode>,
        message: impl Into<String>,
        body: Body,
    ) -> Self {
        Self {
            exit_code,
            timed_out: code == Some(ErrorCode::Timeout),
            message: Some(message.into()),
            code,
            recovery: Recovery::None,
            body,
            logs: Vec::new(),
        }
    }

    fn with_recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = recovery;
        self
    }

    fn log(mut self, stream: LogStream, text: impl Into<String>) -> Self {
        self.logs.push(LogLine { stream, text: text.into() });
        self
    }

    fn warn(self, text: impl Into<String>) -> Self {
        self.log(LogStream::Stderr, text)
    }

    /// A value of the configuration cannot be used.
    pub fn config_invalid(message: &str) -> Self {
        Self::early(ErrorCode::ConfigInvalid, format!("Invalid adapter configuration: {message}"))
            .warn(format!("[paperclip] Cannot create K8s Job: {message}"))
    }

    /// The agent's id gives no label value.
    pub fn agent_id_invalid(agent_id: &str) -> Self {
        Self::early(
            ErrorCode::AgentIdInvalid,
            format!("Agent ID \"{agent_id}\" cannot be sanitized to a valid Kubernetes label"),
        )
        .warn(format!(
            "[paperclip] Cannot create K8s Job: agent.id \"{agent_id}\" produces no valid RFC 1123 label characters"
        ))
    }

    /// An orphaned Job is in the way; `None` when it may be taken over. A missing name is `unknown`.
    pub fn orphan_blocked(verdict: OrphanVerdict, orphan: Option<&str>) -> Option<Self> {
        let orphan = orphan.unwrap_or("unknown");
        let (code, message, log) = match verdict {
            OrphanVerdict::Reattach => return None,
            OrphanVerdict::BlockTaskUnknown => (
                ErrorCode::OrphanTaskUnknown,
                "has unknown task context",
                "has missing task label — cannot safely reattach",
            ),
            OrphanVerdict::BlockTaskMismatch => (
                ErrorCode::ConcurrentRunBlocked,
                "is running a different task",
                "belongs to a different task",
            ),
            OrphanVerdict::BlockSessionMismatch => {
                (ErrorCode::OrphanSessionMismatch, "has a mismatched session", "has a different session")
            }
        };
        Some(
            Self::early(code, format!("Concurrent run blocked: orphaned Job {orphan} {message}"))
                .warn(format!("[paperclip] Blocked: orphaned Job {orphan} {log}")),
        )
    }

    /// Orphaned Jobs are in the way, and taking over is switched off.
    pub fn reattach_disabled(orphans: &[&str]) -> Self {
        Self::early(
            ErrorCode::ConcurrentRunBlocked,
            "Concurrent run blocked: orphaned Job(s) still running for this agent (reattach disabled)",
        )
        .warn(format!(
            "[paperclip] Concurrent run blocked: orphaned Job(s) running and reattach disabled: {}",
            orphans.join(", ")
        ))
    }

    /// Jobs of this very run are running already.
    pub fn same_run_blocked(jobs: &[&str]) -> Self {
        let names = jobs.join(", ");
        Self::early(
            ErrorCode::ConcurrentRunBlocked,
            format!("Concurrent run blocked: Job {names} is still running for this agent"),
        )
        .warn(format!(
            "[paperclip] Concurrent run blocked: existing Job(s) still running for this run: {names}"
        ))
    }

    /// Another host took this run for dead while it was being prepared, and barred its Job.
    pub fn overruled(job: &str) -> Self {
        Self::early(
            ErrorCode::ConcurrentRunBlocked,
            format!("Concurrent run blocked: another host took over this agent before Job {job} was created"),
        )
        .warn(format!(
            "[paperclip] Concurrent run blocked: Job {job} was barred by another host, which took this run for dead"
        ))
    }

    /// The agent's Jobs could not be listed.
    pub fn guard_unreachable(error: &str) -> Self {
        Self::early(ErrorCode::ConcurrencyGuardUnreachable, format!("Concurrency guard unreachable: {error}"))
            .warn(format!("[paperclip] Concurrency guard failed: unable to list jobs: {error}"))
    }

    /// The Secret for the prompt could not be created.
    pub fn prompt_secret_create_failed(error: &str) -> Self {
        let message = format!("Failed to create prompt Secret: {error}");
        let log = format!("[paperclip] {message}");
        Self::early(ErrorCode::PromptSecretCreateFailed, message).warn(log)
    }

    /// The Job could not be created.
    pub fn job_create_failed(error: &str) -> Self {
        Self::early(ErrorCode::JobCreateFailed, format!("Failed to create Kubernetes Job: {error}"))
            .warn(format!("[paperclip] Failed to create K8s Job: {error}"))
    }

    /// The pod did not come to run. `claude_started`: the CLI's container may have started, so that work may
    /// have been done.
    pub fn pod_schedule_failed(error: &str, claude_started: bool) -> Self {
        let message = format!("Pod scheduling failed: {error}");
        let log = format!("[paperclip] {message}");
        let recovery = if claude_started { Recovery::None } else { Recovery::Bootstrap };
        Self::early(ErrorCode::PodScheduleFailed, message).with_recovery(recovery).warn(log)
    }

    /// The Job to take over cannot be followed. Its CLI may have worked, so there is no evidence that nothing
    /// started.
    pub fn pod_reattach_failed(error: &str) -> Self {
        let message = format!("Pod reattach failed: {error}");
        let log = format!("[paperclip] {message}");
        Self::early(ErrorCode::PodReattachFailed, message).warn(log)
    }

    /// Why a Job to take over cannot be followed when it has no pod.
    pub fn reattach_without_pod(job: &str) -> Self {
        Self::pod_reattach_failed(&format!("Reattach target Job {job} has no pod"))
    }

    /// The run was cancelled. `acknowledged`: by the host's abort signal, and the Job and its pod are
    /// confirmed gone.
    pub fn cancelled(acknowledged: bool) -> Self {
        let recovery = if acknowledged { Recovery::Acknowledged } else { Recovery::None };
        Self::early(ErrorCode::Cancelled, "Run cancelled").with_recovery(recovery)
    }

    /// How the Job ended could not be found out within `seconds`.
    pub fn job_state_unreachable(job: &str, seconds: u64, error: &str) -> Self {
        Self::early(
            ErrorCode::JobStateMismatch,
            format!("Job {job} did not complete cleanly (its state could not be read for {seconds}s: {error})"),
        )
        .warn(format!(
            "[paperclip] State of Job {job} could not be read for {seconds}s — returning error and keeping the Job."
        ))
    }

    /// `errorCode`.
    pub fn error_code(&self) -> Option<ErrorCode> {
        self.code
    }

    /// `errorMessage`.
    pub fn error_message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// `exitCode`.
    pub fn exit_code(&self) -> Option<i32> {
        self.exit_code
    }

    /// The object that `execute` resolves with.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        let mut set = |key: &str, value: Value| object.insert(key.to_owned(), value);
        set("exitCode", self.exit_code.into());
        set("signal", Value::Null);
        set("timedOut", self.timed_out.into());
        set("errorMessage", self.message.clone().into());
        if let Some(code) = self.code {
            set("errorCode", code.as_str().into());
        }
        match &self.body {
            Body::Bare => {}
            Body::Stdout(stdout) => {
                set("resultJson", json!({ "stdout": stdout }));
            }
            Body::SessionGone(result) => {
                set("clearSession", true.into());
                set("resultJson", result.clone());
            }
            Body::Finished(finished) => {
                set("usage", serde_json::to_value(finished.usage).unwrap_or_default());
                set("sessionId", finished.session_id.clone().into());
                set("sessionParams", finished.session_params.clone());
                set("sessionDisplayId", finished.session_id.clone().into());
                set("provider", "anthropic".into());
                set("model", finished.model.clone().into());
                set("billingType", "api".into());
                set("costUsd", js_semantics::number_value(finished.cost_usd));
                set("resultJson", finished.result.clone());
                set("summary", finished.summary.clone().into());
                set("clearSession", finished.clear_session.into());
                // Else the host takes the tokens of a resumed session for running totals and subtracts the last run's.
                set("usageBasis", "per_run".into());
            }
        }
        match self.recovery {
            Recovery::None => {}
            Recovery::Bootstrap => {
                set("executionRecovery", json!({"kind": "bootstrap", "providerWorkStarted": false}));
            }
            Recovery::Acknowledged => {
                set("resultJson", json!({"executionCancellation": {"state": "acknowledged"}}));
                set(
                    "executionRecovery",
                    json!({
                        "kind": "interrupted", "providerStopped": true, "sessionPreserved": true,
                        "actionOutcomes": "settled"
                    }),
                );
            }
        }
        Value::Object(object)
    }
}

/// How a Job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// Its condition `Complete` is true.
    Complete,
    /// Its condition `Failed` is true.
    Failed {
        /// Such as `DeadlineExceeded`.
        reason: Option<String>,
        /// What the Job controller says about it.
        message: Option<String>,
    },
    /// It disappeared before it had a final condition.
    Gone(Vanished),
    /// It is there without a final condition, although its container is over.
    Unconfirmed,
    /// It could not be read.
    Unreachable {
        /// For how long, in seconds.
        seconds: u64,
        /// The last error.
        error: String,
    },
}

/// `context.paperclipWorkspace`, as far as a session remembers it. Empty counts as none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workspace {
    /// Working directory.
    pub cwd: Option<String>,
    /// Workspace id.
    pub workspace_id: Option<String>,
    /// Repository address.
    pub repo_url: Option<String>,
    /// Branch, tag or commit.
    pub repo_ref: Option<String>,
}

/// All that is known when a run has come to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// The Job's name.
    pub job: String,
    /// How it ended.
    pub end: JobEnd,
    /// The run reached its time limit.
    pub timed_out: bool,
    /// That limit, in seconds; 0: none.
    pub timeout_sec: f64,
    /// How the `claude` container ended.
    pub container: Option<TerminatedState>,
    /// What the pod says about who ended it.
    pub disruption: Option<Disruption>,
    /// The CLI's output.
    pub captured: Captured,
    /// `config.model`, or empty.
    pub config_model: String,
    /// The session the run began with, or empty.
    pub current_session_id: String,
    /// The run's workspace.
    pub workspace: Workspace,
}

/// Chooses the result of a run that came to its end; the first that applies.
pub fn classify(settled: Settled) -> Outcome {
    let deadline =
        matches!(&settled.end, JobEnd::Failed { reason: Some(reason), .. } if reason == "DeadlineExceeded");
    let exit_code = settled.container.as_ref().and_then(|state| state.exit_code);
    if settled.timed_out || deadline {
        return timed_out(exit_code, settled.timeout_sec);
    }
    if settled.captured.result.is_some() {
        return with_result(settled, exit_code);
    }
    without_result(settled, exit_code)
}

fn timed_out(exit_code: Option<i32>, timeout_sec: f64) -> Outcome {
    // A Job taken over can have a deadline although this run has no limit; `0s` would be no help then.
    let message = if timeout_sec > 0.0 {
        format!("Timed out after {}s", js_semantics::number(timeout_sec))
    } else {
        "Timed out: the Job reached its own deadline".to_owned()
    };
    Outcome::failed(exit_code, Some(ErrorCode::Timeout), message, Body::Bare)
}

fn with_result(settled: Settled, exit_code: Option<i32>) -> Outcome {
    let Settled { mut captured, config_model, current_session_id, workspace, .. } = settled;
    let summary = captured.summary().to_owned();
    let model = captured.model().map_or(config_model, str::to_owned);
    let (usage, cost_usd) = (captured.usage().unwrap_or_default(), captured.cost_usd().unwrap_or(0.0));
    let result = captured.result.take().unwrap_or_default();
    // The CLI ends with 0 after some failures, and an evicted pod may have no exit code.
    let is_error = result.get("is_error").and_then(Value::as_bool) == Some(true);
    let failed = exit_code.is_some_and(|code| code != 0) || is_error;
    if failed && is_claude_unknown_session_error(&result) {
        let message = describe_claude_failure(&result).unwrap_or_else(|| "Session unavailable".into());
        return Outcome::failed(
            exit_code,
            Some(ErrorCode::SessionUnavailable),
            message,
            Body::SessionGone(result),
        )
        .log(LogStream::Stdout, "[paperclip] Claude session is unavailable; clearing for next run.");
    }
    let message = failed.then(|| {
        describe_claude_failure(&result)
            .unwrap_or_else(|| format!("Claude exited with code {}", exit_code.unwrap_or(-1)))
    });
    let session_id = captured.session_id.or(Some(current_session_id)).filter(|id| !id.is_empty());
    Outcome {
        exit_code,
        timed_out: false,
        message,
        code: None,
        recovery: Recovery::None,
        body: Body::Finished(Box::new(Finished {
            usage,
            session_params: session_params(session_id.as_deref(), &workspace),
            session_id,
            model,
            cost_usd,
            summary,
            clear_session: failed && is_claude_max_turns_result(Some(&result)),
            result,
        })),
        logs: Vec::new(),
    }
}

fn session_params(session_id: Option<&str>, workspace: &Workspace) -> Value {
    let Some(session_id) = session_id else {
        return Value::Null;
    };
    let mut params = Map::new();
    params.insert("sessionId".into(), session_id.into());
    for (key, value) in [
        ("cwd", &workspace.cwd),
        ("workspaceId", &workspace.workspace_id),
        ("repoUrl", &workspace.repo_url),
        ("repoRef", &workspace.repo_ref),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            params.insert(key.into(), value.into());
        }
    }
    Value::Object(params)
}

fn without_result(settled: Settled, exit_code: Option<i32>) -> Outcome {
    let Settled { job, end, container, disruption, captured, config_model, .. } = settled;
    let fail = |code: Option<ErrorCode>, message: String, captured: Captured| {
        Outcome::failed(exit_code, code, message, Body::Stdout(captured.stdout))
    };
    match &end {
        JobEnd::Unreachable { seconds, error } => {
            return Outcome::job_state_unreachable(&job, *seconds, error);
        }
        JobEnd::Gone(vanished) if exit_code.is_none() || vanished.explains(container.as_ref()) => {
            let details = vanished_details(vanished, captured.stdout_bytes, captured.nonempty_lines);
            let message = format!("K8s Job was deleted externally before Claude could complete [{details}]");
            return fail(Some(ErrorCode::JobDeletedExternally), message, captured);
        }
        _ => {}
    }
    if captured.llm_api_empty {
        let message = "LLM API returned an empty response (stop_reason: null, output_tokens: 0) — the upstream model API \
                       may be degraded or misconfigured";
        return fail(Some(ErrorCode::LlmApiError), message.into(), captured);
    }
    let model = captured.init_model.clone().unwrap_or(config_model);
    let ended_by = disruption.map(|disruption| format!("; {}", disruption.text())).unwrap_or_default();
    if captured.truncated {
        let hint = if model.is_empty() { String::new() } else { format!(" (model: {model})") };
        let cause = describe_truncation_cause(container.as_ref());
        let message = format!(
            "Claude run was truncated mid-stream{hint} — assistant produced content but no result event arrived; \
             {cause}{ended_by}"
        );
        return fail(Some(ErrorCode::ClaudeTruncated), message, captured);
    }
    let facts = PartialFacts::of(&captured, &model);
    let partial = partial_run_error(exit_code, &model, facts, container.as_ref());
    let lost = match &end {
        // A CLI that ends well has printed a result: the log went away with the Job.
        JobEnd::Gone(vanished) if exit_code == Some(0) => {
            let details = vanished_details(vanished, captured.stdout_bytes, captured.nonempty_lines);
            format!("; the Job was deleted before its log was read to the end [{details}]")
        }
        // Kubernetes saw it succeed, so it is not the CLI that is to be looked into.
        JobEnd::Complete if exit_code.is_none() => {
            "; the Job is complete, but its pod was gone before its log was read to the end (its TTL may be too short)"
                .to_owned()
        }
        _ => ended_by,
    };
    fail(None, format!("{partial}{lost}"), captured)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claude::Tally;
    use crate::forensics::DetectionPath;
    use proptest::prelude::*;

    const BOOTSTRAP: &str = r#"{"kind":"bootstrap","providerWorkStarted":false}"#;

    fn settled(lines: &[&str], exit_code: Option<i32>, end: JobEnd) -> Settled {
        let mut tally = Tally::new();
        lines.iter().for_each(|line| tally.text(line));
        Settled {
            job: "j".into(),
            end,
            timed_out: false,
            timeout_sec: 0.0,
            container: exit_code.map(|code| TerminatedState { exit_code: Some(code), ..Default::default() }),
            disruption: None,
            captured: tally.finish(),
            config_model: String::new(),
            current_session_id: String::new(),
            workspace: Workspace::default(),
        }
    }

    fn failed_job() -> JobEnd {
        JobEnd::Failed { reason: Some("BackoffLimitExceeded".into()), message: None }
    }

    fn gone() -> JobEnd {
        JobEnd::Gone(Vanished {
            path: DetectionPath::CompletionPoll404,
            job: "j".into(),
            namespace: "n".into(),
            since_pod_running: None,
            completion_polls: 0,
            last_conditions: None,
            disruption: None,
        })
    }

    const INIT: &str = r#"{"type":"system","subtype":"init","session_id":"s-1","model":"claude-x"}"#;
    const SUCCESS: &str = r#"{"type":"result","subtype":"success","is_error":false,"session_id":"s-1","result":" done ","total_cost_usd":0.25,"usage":{"input_tokens":100,"output_tokens":50,"cache_read_input_tokens":10}}"#;
    const SAYS: &str = r#"{"type":"assistant","message":{"id":"m","usage":{"output_tokens":5},"content":[{"type":"text","text":"hi"}]}}"#;
    const EMPTY: &str = r#"{"type":"assistant","message":{"id":"m","stop_reason":null,"usage":{"output_tokens":0},"content":[]}}"#;
    const UNKNOWN: &str =
        r#"{"type":"result","subtype":"error","result":"No conversation found with session ID: s"}"#;

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    #[test]
    fn a_deletion_that_was_watched_explains_the_kill_that_came_of_it() {
        let watched = || match gone() {
            JobEnd::Gone(vanished) => {
                JobEnd::Gone(Vanished { path: DetectionPath::WatchDeleted, ..vanished })
            }
            other => other,
        };
        let code = |exit_code, end| classify(settled(&[INIT, SAYS], Some(exit_code), end)).to_json();
        for exit_code in [137, 143] {
            let result = code(exit_code, watched());
            assert_eq!(result["errorCode"], "k8s_job_deleted_externally");
            assert_eq!(result["exitCode"], exit_code, "the exit code is kept");
            assert_eq!(code(exit_code, gone())["errorCode"], "claude_truncated", "as the contract has it");
        }
        assert_eq!(code(1, watched())["errorCode"], "claude_truncated", "its own failure came first");
        let mut oom = settled(&[INIT, SAYS], Some(137), watched());
        oom.container =
            oom.container.map(|state| TerminatedState { reason: Some("OOMKilled".into()), ..state });
        assert_eq!(classify(oom).to_json()["errorCode"], "claude_truncated");
    }

    #[test]
    fn a_deletion_that_the_pod_tells_of_explains_the_kill_that_came_of_it() {
        let told = |reason: &str| match gone() {
            JobEnd::Gone(vanished) => {
                let disruption = Some(Disruption { reason: reason.into(), message: None });
                JobEnd::Gone(Vanished { disruption, ..vanished })
            }
            other => other,
        };
        for (reason, exit_code, code) in [
            ("Deleted", 143, json!("k8s_job_deleted_externally")),
            ("Deleted", 137, json!("k8s_job_deleted_externally")),
            ("Deleted", 1, Value::Null),
            // Something else ended the pod; that the Job is gone came later.
            ("Evicted", 143, Value::Null),
        ] {
            let result = classify(settled(&[], Some(exit_code), told(reason))).to_json();
            assert_eq!((&result["errorCode"], &result["exitCode"]), (&code, &exit_code.into()), "{reason}");
        }
    }

    #[test]
    fn a_log_that_went_away_with_a_deleted_job_is_not_blamed_on_the_cli() {
        let result = classify(settled(&[INIT], Some(0), gone())).to_json();
        let message = result["errorMessage"].as_str().unwrap();
        assert!(
            message.starts_with(
                "Failed to parse Claude JSON output; the Job was deleted before its log was read to the end \
                 [detected_via=completion-poll-404, job=j, ns=n, "
            ),
            "{message}"
        );
        assert_eq!(result.get("errorCode"), None);
        let result = classify(settled(&[INIT], Some(0), JobEnd::Complete)).to_json();
        assert_eq!(result["errorMessage"], "Failed to parse Claude JSON output");
        let result = classify(settled(&[], None, JobEnd::Complete)).to_json();
        assert_eq!(
            result["errorMessage"],
            "Claude exited with code -1; the Job is complete, but its pod was gone before its log was read to the end \
             (its TTL may be too short)"
        );
    }

    #[test]
    fn codes_are_as_the_host_knows_them() {
        let codes: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(
            codes,
            [
                "k8s_config_invalid",
                "k8s_agent_id_invalid",
                "k8s_concurrent_run_blocked",
                "k8s_orphan_task_unknown",
                "k8s_orphan_session_mismatch",
                "k8s_concurrency_guard_unreachable",
                "k8s_prompt_secret_create_failed",
                "k8s_job_create_failed",
                "k8s_pod_schedule_failed",
                "k8s_pod_reattach_failed",
                "cancelled",
                "k8s_job_state_mismatch",
                "timeout",
                "session_unavailable",
                "k8s_job_deleted_externally",
                "llm_api_error",
                "claude_truncated",
            ]
        );
    }

    #[test]
    fn early_failures() {
        use ErrorCode as Code;
        let blocked = |verdict| Outcome::orphan_blocked(verdict, Some("o")).unwrap();
        for (outcome, code, message, log, bootstrap) in [
            (
                Outcome::config_invalid("namespace is not text"),
                Code::ConfigInvalid,
                "Invalid adapter configuration: namespace is not text",
                "[paperclip] Cannot create K8s Job: namespace is not text",
                true,
            ),
            (
                Outcome::agent_id_invalid("!!"),
                Code::AgentIdInvalid,
                "Agent ID \"!!\" cannot be sanitized to a valid Kubernetes label",
                "[paperclip] Cannot create K8s Job: agent.id \"!!\" produces no valid RFC 1123 label characters",
                true,
            ),
            (
                blocked(OrphanVerdict::BlockTaskUnknown),
                Code::OrphanTaskUnknown,
                "Concurrent run blocked: orphaned Job o has unknown task context",
                "[paperclip] Blocked: orphaned Job o has missing task label — cannot safely reattach",
                true,
            ),
            (
                blocked(OrphanVerdict::BlockTaskMismatch),
                Code::ConcurrentRunBlocked,
                "Concurrent run blocked: orphaned Job o is running a different task",
                "[paperclip] Blocked: orphaned Job o belongs to a different task",
                true,
            ),
            (
                Outcome::orphan_blocked(OrphanVerdict::BlockSessionMismatch, None).unwrap(),
                Code::OrphanSessionMismatch,
                "Concurrent run blocked: orphaned Job unknown has a mismatched session",
                "[paperclip] Blocked: orphaned Job unknown has a different session",
                true,
            ),
            (
                Outcome::reattach_disabled(&["a", "b"]),
                Code::ConcurrentRunBlocked,
                "Concurrent run blocked: orphaned Job(s) still running for this agent (reattach disabled)",
                "[paperclip] Concurrent run blocked: orphaned Job(s) running and reattach disabled: a, b",
                true,
            ),
            (
                Outcome::same_run_blocked(&["a", "b"]),
                Code::ConcurrentRunBlocked,
                "Concurrent run blocked: Job a, b is still running for this agent",
                "[paperclip] Concurrent run blocked: existing Job(s) still running for this run: a, b",
                true,
            ),
            (
                Outcome::guard_unreachable("m"),
                Code::ConcurrencyGuardUnreachable,
                "Concurrency guard unreachable: m",
                "[paperclip] Concurrency guard failed: unable to list jobs: m",
                true,
            ),
            (
                Outcome::prompt_secret_create_failed("m"),
                Code::PromptSecretCreateFailed,
                "Failed to create prompt Secret: m",
                "[paperclip] Failed to create prompt Secret: m",
                true,
            ),
            (
                Outcome::job_create_failed("m"),
                Code::JobCreateFailed,
                "Failed to create Kubernetes Job: m",
                "[paperclip] Failed to create K8s Job: m",
                true,
            ),
            (
                Outcome::pod_schedule_failed("m", false),
                Code::PodScheduleFailed,
                "Pod scheduling failed: m",
                "[paperclip] Pod scheduling failed: m",
                true,
            ),
            (
                Outcome::pod_schedule_failed("m", true),
                Code::PodScheduleFailed,
                "Pod scheduling failed: m",
                "[paperclip] Pod scheduling failed: m",
                false,
            ),
            (
                Outcome::reattach_without_pod("o"),
                Code::PodReattachFailed,
                "Pod reattach failed: Reattach target Job o has no pod",
                "[paperclip] Pod reattach failed: Reattach target Job o has no pod",
                false,
            ),
            (Outcome::cancelled(false), Code::Cancelled, "Run cancelled", "", false),
            (
                Outcome::job_state_unreachable("j", 60, "m"),
                Code::JobStateMismatch,
                "Job j did not complete cleanly (its state could not be read for 60s: m)",
                "[paperclip] State of Job j could not be read for 60s — returning error and keeping the Job.",
                false,
            ),
        ] {
            let mut expected = json!({
                "exitCode": null, "signal": null, "timedOut": false, "errorMessage": message, "errorCode": code.as_str()
            });
            if bootstrap {
                expected["executionRecovery"] = serde_json::from_str(BOOTSTRAP).unwrap();
            }
            assert_eq!(outcome.to_json(), expected);
            let logs: Vec<&str> = outcome.logs.iter().map(|line| line.text.as_str()).collect();
            assert_eq!(logs.join(""), log);
            assert!(outcome.logs.iter().all(|line| line.stream == LogStream::Stderr));
        }
        assert_eq!(Outcome::orphan_blocked(OrphanVerdict::Reattach, None), None);
    }

    #[test]
    fn a_cancellation_on_demand_is_acknowledged() {
        assert_eq!(
            Outcome::cancelled(true).to_json(),
            json!({
                "exitCode": null, "signal": null, "timedOut": false, "errorMessage": "Run cancelled",
                "errorCode": "cancelled", "resultJson": {"executionCancellation": {"state": "acknowledged"}},
                "executionRecovery": {
                    "kind": "interrupted", "providerStopped": true, "sessionPreserved": true, "actionOutcomes": "settled"
                }
            })
        );
    }

    #[test]
    fn a_time_limit_comes_before_everything() {
        let mut run = settled(&[INIT, SUCCESS], Some(0), JobEnd::Complete);
        run.timed_out = true;
        run.timeout_sec = 1.5;
        let result = classify(run).to_json();
        assert_eq!(
            result,
            json!({
                "exitCode": 0, "signal": null, "timedOut": true, "errorMessage": "Timed out after 1.5s", "errorCode": "timeout"
            })
        );
        let end = JobEnd::Failed { reason: Some("DeadlineExceeded".into()), message: None };
        let mut run = settled(&[], Some(143), end);
        run.timeout_sec = 30.0;
        let outcome = classify(run.clone());
        assert_eq!((outcome.error_message(), outcome.exit_code()), (Some("Timed out after 30s"), Some(143)));
        run.timeout_sec = 0.0;
        assert_eq!(classify(run).error_message(), Some("Timed out: the Job reached its own deadline"));
    }

    #[test]
    fn a_session_that_does_not_exist_is_cleared() {
        for (exit_code, result, code) in [
            (Some(1), UNKNOWN.to_owned(), Some(ErrorCode::SessionUnavailable)),
            (Some(0), UNKNOWN.replace("}", ",\"is_error\":true}"), Some(ErrorCode::SessionUnavailable)),
            (Some(0), UNKNOWN.to_owned(), None),
            (None, UNKNOWN.to_owned(), None),
        ] {
            let outcome = classify(settled(&[&result], exit_code, failed_job()));
            assert_eq!(outcome.error_code(), code);
            assert_eq!(outcome.logs.is_empty(), code.is_none());
        }
        let outcome = classify(settled(&[UNKNOWN], Some(1), failed_job()));
        let parsed: Value = serde_json::from_str(UNKNOWN).unwrap();
        assert_eq!(
            outcome.to_json(),
            json!({
                "exitCode": 1, "signal": null, "timedOut": false,
                "errorMessage": "Claude run failed: subtype=error: No conversation found with session ID: s",
                "errorCode": "session_unavailable", "clearSession": true, "resultJson": parsed
            })
        );
        let log = "[paperclip] Claude session is unavailable; clearing for next run.";
        assert_eq!(outcome.logs, [LogLine { stream: LogStream::Stdout, text: log.into() }]);
    }

    #[test]
    fn runs_without_a_result() {
        let deleted = "K8s Job was deleted externally before Claude could complete [detected_via=completion-poll-404, job=j, \
                       ns=n, completion_polls=0, last_job_conditions=none_observed, stdout_bytes=73, stdout_nonempty_lines=1]";
        let empty = "LLM API returned an empty response (stop_reason: null, output_tokens: 0) — the upstream model API may \
                     be degraded or misconfigured";
        let truncated = |cause: &str| {
            format!(
                "Claude run was truncated mid-stream (model: claude-x) — assistant produced content but no result event \
                 arrived; {cause}"
            )
        };
        let unavailable = truncated("pod state unavailable — likely deleted before exit could be read");
        let killed = truncated("exit code 137, SIGKILL (commonly OOMKilled)");
        let after_init = "Claude exited immediately after init (model: claude-x) (exit code 1) — the model may be \
                          unsupported or the session may have been rejected before producing output";
        let (gone_code, truncated_code) = (Some("k8s_job_deleted_externally"), Some("claude_truncated"));
        for (lines, exit_code, end, code, message) in [
            (&[INIT][..], None, gone(), gone_code, deleted),
            (&[INIT], Some(1), gone(), None, after_init),
            (&[EMPTY], Some(1), failed_job(), Some("llm_api_error"), empty),
            (&[SAYS, EMPTY], Some(1), JobEnd::Unconfirmed, Some("llm_api_error"), empty),
            (&[INIT, EMPTY, SAYS], Some(137), failed_job(), truncated_code, &killed),
            (&[INIT, SAYS], None, JobEnd::Unconfirmed, truncated_code, &unavailable),
            (
                &[SAYS],
                Some(0),
                JobEnd::Complete,
                truncated_code,
                "Claude run was truncated mid-stream — assistant produced content but no result event arrived; exit code 0",
            ),
            (&[INIT], Some(1), failed_job(), None, after_init),
            (&[INIT, "oops"], Some(2), failed_job(), None, "Claude exited with code 2: oops"),
            (&[], None, JobEnd::Unconfirmed, None, "Claude exited with code -1"),
            (&["x"], Some(0), JobEnd::Complete, None, "Failed to parse Claude JSON output"),
        ] {
            let outcome = classify(settled(lines, exit_code, end));
            let stdout: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let mut expected =
                json!({"exitCode": exit_code, "signal": null, "timedOut": false, "errorMessage": message});
            if let Some(code) = code {
                expected["errorCode"] = code.into();
            }
            expected["resultJson"] = json!({ "stdout": stdout });
            assert_eq!(outcome.to_json(), expected);
        }
    }

    #[test]
    fn the_model_of_the_configuration_serves_where_no_init_came() {
        let mut run = settled(&[r#"{"type":"user","model":"claude_y"}"#], Some(1), failed_job());
        run.config_model = "claude-y".into();
        let message = classify(run).error_message().unwrap().to_owned();
        assert!(message.starts_with("Claude exited immediately after init (model: claude-y)"), "{message}");
    }

    #[test]
    fn what_ended_the_pod_is_told() {
        let mut run = settled(&[INIT, SAYS], Some(143), failed_job());
        run.disruption = Some(Disruption { reason: "PreemptionByScheduler".into(), message: None });
        let text = "exit code 143, SIGTERM; the scheduler preempted the pod for one of higher priority [PreemptionByScheduler]";
        assert!(classify(run.clone()).error_message().unwrap().ends_with(text));
        run.captured = Captured::default();
        let text =
            "code 143; the scheduler preempted the pod for one of higher priority [PreemptionByScheduler]";
        assert!(classify(run).error_message().unwrap().ends_with(text));
    }

    #[test]
    fn a_job_that_cannot_be_read_is_kept() {
        let end = || JobEnd::Unreachable { seconds: 60, error: "HTTP-Code: 503".into() };
        let outcome = classify(settled(&[INIT, SAYS], None, end()));
        assert_eq!(outcome.error_code(), Some(ErrorCode::JobStateMismatch));
        assert_eq!(keys(&outcome.to_json()).len(), 5);
        // A result that arrived is not thrown away.
        let outcome = classify(settled(&[INIT, SUCCESS], None, end()));
        assert_eq!(outcome.error_message(), None);
    }

    #[test]
    fn a_success_has_every_field() {
        let mut run = settled(&[INIT, SAYS, SUCCESS], Some(0), JobEnd::Complete);
        run.workspace = Workspace {
            cwd: Some("/w".into()),
            workspace_id: Some(String::new()),
            repo_url: None,
            repo_ref: Some("main".into()),
        };
        let result = classify(run).to_json();
        let parsed: Value = serde_json::from_str(SUCCESS).unwrap();
        assert_eq!(
            serde_json::to_string(&result).unwrap(),
            serde_json::to_string(&json!({
                "exitCode": 0, "signal": null, "timedOut": false, "errorMessage": null,
                "usage": {"inputTokens": 100, "cachedInputTokens": 10, "outputTokens": 50},
                "sessionId": "s-1", "sessionParams": {"sessionId": "s-1", "cwd": "/w", "repoRef": "main"},
                "sessionDisplayId": "s-1", "provider": "anthropic", "model": "claude-x", "billingType": "api",
                "costUsd": 0.25, "resultJson": parsed, "summary": "done", "clearSession": false,
                "usageBasis": "per_run"
            }))
            .unwrap()
        );
    }

    #[test]
    fn fields_fall_back() {
        let mut run = settled(&[r#"{"type":"result","model":""}"#], None, gone());
        run.config_model = "claude-c".into();
        let result = classify(run.clone()).to_json();
        assert_eq!(result["exitCode"], Value::Null);
        assert_eq!(result["errorMessage"], Value::Null);
        assert_eq!((&result["sessionId"], &result["sessionParams"]), (&Value::Null, &Value::Null));
        assert_eq!(
            (&result["model"], &result["costUsd"], &result["summary"]),
            (&"claude-c".into(), &0.into(), &"".into())
        );
        run.current_session_id = "old".into();
        let result = classify(run).to_json();
        assert_eq!(result["sessionDisplayId"], "old");
        assert_eq!(result["sessionParams"], json!({"sessionId": "old"}));
        let run =
            settled(&[r#"{"type":"result","model":"claude-r","result":""}"#], Some(0), JobEnd::Complete);
        assert_eq!(classify(run).to_json()["model"], "claude-r");
    }

    #[test]
    fn a_result_that_says_error_is_a_failure_whatever_the_exit_code() {
        for (result, exit_code, message) in [
            (r#"{"type":"result","is_error":true,"result":"no"}"#, Some(0), Some("Claude run failed: no")),
            (r#"{"type":"result","is_error":true,"result":"no"}"#, None, Some("Claude run failed: no")),
            (r#"{"type":"result","is_error":true}"#, Some(0), Some("Claude exited with code 0")),
            (r#"{"type":"result","is_error":true}"#, None, Some("Claude exited with code -1")),
            (r#"{"type":"result"}"#, Some(3), Some("Claude exited with code 3")),
            (r#"{"type":"result","subtype":"s"}"#, Some(3), Some("Claude run failed: subtype=s")),
            (r#"{"type":"result","is_error":"true"}"#, Some(0), None),
            (r#"{"type":"result","is_error":false}"#, None, None),
        ] {
            let outcome = classify(settled(&[result], exit_code, failed_job()));
            assert_eq!(outcome.error_message(), message, "{result}");
            assert_eq!(outcome.error_code(), None);
        }
    }

    #[test]
    fn only_a_failure_clears_the_session() {
        for (result, exit_code, clear) in [
            (r#"{"type":"result","result":"explained what max turns means"}"#, Some(0), false),
            (r#"{"type":"result","result":"reached max turns"}"#, Some(1), true),
            (r#"{"type":"result","subtype":"error_max_turns","is_error":true}"#, Some(0), true),
            (r#"{"type":"result","subtype":"error","is_error":true}"#, Some(1), false),
        ] {
            let result = classify(settled(&[result], exit_code, JobEnd::Complete)).to_json();
            assert_eq!(result["clearSession"], clear, "{result}");
        }
    }

    #[test]
    fn what_the_real_cli_printed() {
        macro_rules! fixture {
            ($name:literal) => {{
                let text = include_str!(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/tools/simulator/fixtures/claude-cli-2.1.197/",
                    $name,
                    ".jsonl"
                ));
                text.lines().collect::<Vec<_>>()
            }};
        }
        for (lines, exit_code, code, message, clear) in [
            (fixture!("success"), 0, None, None, false),
            (fixture!("max-turns"), 1, None, Some("Reached maximum number of turns (1)"), true),
            (fixture!("auth"), 1, None, Some("Invalid API key · Fix external API key"), false),
            (fixture!("overload"), 1, None, Some("API Error: 529 Overloaded."), false),
            (fixture!("unreachable"), 1, None, Some("Unable to connect to API (ConnectionRefused)"), false),
            (fixture!("bad-session"), 1, None, Some("--resume requires a valid session ID"), false),
            (
                fixture!("unknown-session"),
                1,
                Some(ErrorCode::SessionUnavailable),
                Some("No conversation found with session ID"),
                true,
            ),
        ] {
            let outcome = classify(settled(&lines, Some(exit_code), JobEnd::Complete));
            assert_eq!(outcome.error_code(), code);
            let found = outcome.error_message();
            assert_eq!(found.is_some(), message.is_some());
            assert!(found.unwrap_or_default().contains(message.unwrap_or_default()), "{found:?}");
            assert_eq!(outcome.to_json()["clearSession"], clear);
        }
    }

    proptest! {
        #[test]
        fn a_run_without_a_result_always_has_a_message(
            lines in proptest::collection::vec("\\PC{0,20}", 0..4), exit_code in any::<Option<i32>>(), end in 0..5usize,
        ) {
            let ends = [JobEnd::Complete, failed_job(), gone(), JobEnd::Unconfirmed,
                JobEnd::Unreachable { seconds: 60, error: String::new() }];
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let outcome = classify(settled(&lines, exit_code, ends[end].clone()));
            prop_assert!(outcome.error_message().is_some_and(|message| !message.is_empty()));
            prop_assert!(outcome.to_json()["errorMessage"].is_string());
        }
    }
}
