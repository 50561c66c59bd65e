//! The result of a run: the error codes, the messages of failed runs, and the object that `execute` resolves with.
//!
//! `code` has the codes, `early` the failures before the CLI ran, `classify` what becomes of a run that has ended,
//! `spent` what it used and who pays, `recovery` what the host may do about a failure by itself.

mod classify;
mod code;
mod early;
mod recovery;
mod spent;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use self::recovery::{Limit, Retry};
use self::spent::Spent;
use crate::claude;
use crate::forensics::{Cause, Evidence, NothingStarted, StartFailure};
use crate::storable;

pub(crate) use classify::{JobEnd, Settled, classify};
pub(crate) use code::ErrorCode;

/// Which of the host's two streams a log line goes to: the first argument of `onLog`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StdStream {
    /// What the agent printed, and progress.
    Stdout,
    /// Warnings and errors of the adapter.
    Stderr,
}

/// A line for the run's log, without a newline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogLine {
    /// Where it goes.
    pub(crate) stream: StdStream,
    /// The line.
    pub(crate) text: String,
}

/// What the host may conclude about the issue of a failed run.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Recovery {
    /// Nothing.
    Nothing,
    /// None of the agent's work had started, so there is nothing to reconcile. The value is the proof.
    Bootstrap(NothingStarted),
    /// The host cancelled the run, and the Job is confirmed gone.
    Acknowledged {
        /// The session that the run used is known and lies on the shared volume, or the run used none.
        session_preserved: bool,
    },
}

/// Says to the host that the conversation of a failed run may go on: by a retry, or by a comment. Without it the host holds
/// the task until a person reconciles it.
const CONTINUATION: (&str, &str) = ("conversationContinuation", "continue_conversation_v1");

/// The keys of `resultJson` that the host acts on, and ours. The CLI's result is the agent's to write, these are not.
const RESERVED: [&str; 21] = [
    "k8s",
    "k8sErrorCode",
    "conversationContinuation",
    "executionRecovery",
    "executionCancellation",
    "configurationIncomplete",
    "workspaceValidation",
    "errorFamily",
    "retryNotBefore",
    "transientRetryNotBefore",
    "providerQuotaRetryNotBefore",
    "stopReason",
    "unmanagedBackgroundTask",
    "conversationReset",
    "goalRolloverRequired",
    "startupCancellation",
    "nativeCommittedChatResponse",
    "presentationDecision",
    "finalizationPhase",
    "finalizationReasonCode",
    "semanticToolReceipts",
];

/// The result of a run, and the lines its log gets because of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    exit_code: Option<i32>,
    timed_out: bool,
    message: Option<String>,
    code: Option<ErrorCode>,
    recovery: Recovery,
    body: Body,
    because: Option<Box<Because>>,
    evidence: Option<Box<Evidence>>,
    /// Why the container did not start.
    start: Option<Box<StartFailure>>,
    /// What the output says about the account's limit.
    limit: Option<Box<Limit>>,
    /// Where the message asks to log in.
    login_url: Option<String>,
    /// The agent whose configuration has to be repaired, and what is wrong with it.
    agent: Option<String>,
    repair: Option<String>,
    /// Lines the log gets because of this result.
    pub(crate) logs: Vec<LogLine>,
}

/// The cause that a constructor or the classification knows. Where there is none, what the run saw names it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Because {
    /// Why.
    pub(crate) cause: Cause,
    /// The Job that it is about, where that is not the run's own.
    pub(crate) job: Option<String>,
}

/// The keys that follow `errorMessage` and `errorCode`.
#[derive(Clone, Debug, PartialEq)]
enum Body {
    /// Nothing.
    Bare,
    /// What a run without a result event printed, and used.
    Unfinished {
        /// The CLI's output; `None` where the end of the run is explained without it.
        stdout: Option<String>,
        /// The result of an earlier turn.
        result: Option<Value>,
        /// What it used.
        spent: Box<Spent>,
    },
    /// The result event about a session that cannot be resumed; the host forgets that session.
    SessionGone {
        /// The event.
        result: Value,
        /// What it used.
        spent: Box<Spent>,
    },
    /// All fields of a run with a result event.
    Finished(Box<Finished>),
}

/// What a result event and the run say together.
#[derive(Clone, Debug, PartialEq)]
struct Finished {
    spent: Spent,
    result: Value,
    summary: String,
    clear_session: bool,
}

impl Outcome {
    /// A failure before the CLI's output could matter. Its object has five keys, and one more, `executionRecovery`,
    /// where it is proved that none of the agent's work had started.
    fn early(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::failed(None, Some(code), message, Body::Bare)
    }

    /// The same outcome with the proof that none of the agent's work had started, where there is one. A cancel that was
    /// acknowledged says more already.
    pub(crate) fn proven(mut self, proof: Option<NothingStarted>) -> Self {
        if let (Recovery::Nothing, Some(proof)) = (&self.recovery, proof) {
            self.recovery = Recovery::Bootstrap(proof);
        }
        self
    }

    fn failed(
        exit_code: Option<i32>,
        code: Option<ErrorCode>,
        message: impl Into<String>,
        body: Body,
    ) -> Self {
        Self::finished(exit_code, code, Some(message.into()), body)
    }

    /// A run that ended; without a message it succeeded.
    fn finished(
        exit_code: Option<i32>,
        code: Option<ErrorCode>,
        message: Option<String>,
        body: Body,
    ) -> Self {
        let is_configuration = code.is_some_and(asks_for_repair);
        Self {
            repair: message.clone().filter(|_| is_configuration),
            exit_code,
            timed_out: code == Some(ErrorCode::Timeout),
            message,
            code,
            recovery: Recovery::Nothing,
            body,
            because: None,
            evidence: None,
            start: None,
            limit: None,
            login_url: None,
            agent: None,
            logs: Vec::new(),
        }
    }

    /// The same outcome, of a run of this agent: the host links to its configuration.
    pub(crate) fn for_agent(mut self, id: &str) -> Self {
        // It becomes part of an address.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        self.agent = Some(id.to_owned()).filter(|id| !id.is_empty() && id.bytes().all(is_plain));
        self
    }

    /// The same outcome with its cause.
    pub(crate) fn because(mut self, cause: Cause) -> Self {
        let job = self.because.and_then(|known| known.job);
        self.because = Some(Box::new(Because { cause, job }));
        self
    }

    /// The same outcome with its cause, which is about another Job than the run's own.
    fn because_of(mut self, cause: Cause, job: &str) -> Self {
        self.because = Some(Box::new(Because { cause, job: Some(job.to_owned()) }));
        self
    }

    /// The same outcome with why the container did not start, for the evidence.
    pub(crate) fn failed_start(mut self, failure: StartFailure) -> Self {
        self.start = Some(Box::new(failure));
        self
    }

    /// The same outcome of a container that ended with this code.
    pub(crate) fn exited_with(mut self, code: Option<i32>) -> Self {
        self.exit_code = code;
        self
    }

    /// Whether it was explained already.
    /// What is known of why the run failed: a sentence, and `resultJson.k8s`.
    pub(crate) fn evidence(&self) -> Option<(&str, &serde_json::Value)> {
        self.evidence.as_ref().map(|evidence| (evidence.summary.as_str(), &evidence.json))
    }

    pub(crate) fn has_evidence(&self) -> bool {
        self.evidence.is_some()
    }

    /// The cause, where the outcome itself knows it.
    pub(crate) fn known_cause(&self) -> Option<&Because> {
        self.because.as_deref()
    }

    /// Whether the run failed.
    pub(crate) fn is_failure(&self) -> bool {
        self.message.is_some()
    }

    /// The same outcome with its evidence. The message ends with its sentence, but for `Run cancelled`, which is compared
    /// as a whole, and a line of the log says what to do.
    pub(crate) fn with_evidence(mut self, mut evidence: Evidence) -> Self {
        if let Some(start) = &self.start {
            evidence.json["start"] = start.to_json();
        }
        if self.code != Some(ErrorCode::Cancelled) {
            if let Some(message) = &mut self.message {
                message.push_str("; ");
                message.push_str(&evidence.summary);
            }
            let (summary, hint) = (&evidence.summary, evidence.cause.hint());
            let line = format!("[paperclip] Cause {}: {summary}. {hint}", evidence.cause.code());
            self = self.warn(line);
        }
        self.evidence = Some(Box::new(evidence));
        self
    }

    /// The same outcome of a run whose Job the host's own shutdown deleted. What the run had before that stays: a success,
    /// a cancel, its time limit.
    pub(crate) fn lost_to_shutdown(mut self) -> Self {
        if self.is_failure() && !self.timed_out && self.code != Some(ErrorCode::Cancelled) {
            self.code = Some(ErrorCode::HostShutdown);
            self.message = Some(early::HOST_SHUTDOWN.to_owned());
            return self.because(Cause::HostShutdown);
        }
        self
    }

    fn with_recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = recovery;
        self
    }

    fn with_body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    /// The same outcome with what the CLI's own words add to its code.
    fn said_by_cli(mut self, text: &str, limit: Limit) -> Self {
        if self.code == Some(ErrorCode::ProviderQuota) {
            self.limit = Some(Box::new(limit));
        }
        if self.code == Some(ErrorCode::ClaudeAuthRequired) {
            self.login_url = claude::login_url(text);
        }
        self
    }

    fn log(mut self, stream: StdStream, text: impl Into<String>) -> Self {
        self.logs.push(LogLine { stream, text: text.into() });
        self
    }

    fn warn(self, text: impl Into<String>) -> Self {
        self.log(StdStream::Stderr, text)
    }

    /// `errorCode`.
    pub(crate) fn error_code(&self) -> Option<ErrorCode> {
        self.code
    }

    /// `errorMessage`.
    pub(crate) fn error_message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// `exitCode`.
    #[cfg(test)]
    pub(crate) fn exit_code(&self) -> Option<i32> {
        self.exit_code
    }

    /// Whether and when a retry helps.
    fn retry(&self) -> Option<Retry> {
        let cause = self.evidence.as_ref().map(|evidence| evidence.cause);
        let cause = cause.or_else(|| self.because.as_ref().map(|because| because.cause));
        // A success needs none, but the host is to know of a refusal.
        let cause = cause.filter(|_| self.is_failure() && self.code != Some(ErrorCode::Cancelled));
        recovery::retry(self.code, cause)
    }

    /// The object that `execute` resolves with, as the host can store it. `now` is the time of the run's end.
    pub(crate) fn to_json(&self, now: Timestamp) -> Value {
        let mut object = Map::new();
        let mut set = |key: &str, value: Value| {
            object.insert(key.to_owned(), value);
        };
        set("exitCode", self.exit_code.into());
        set("signal", Value::Null);
        set("timedOut", self.timed_out.into());
        set("errorMessage", self.message.clone().into());
        if let Some(code) = self.code {
            set("errorCode", recovery::host_code(code).into());
        }
        if let Some(retry) = self.retry() {
            set("errorFamily", retry.family.as_str().into());
            if let Some(at) = retry.not_before(self.limit.as_deref(), now) {
                set("retryNotBefore", at.to_string().into());
            }
        }
        if let Some(url) = &self.login_url {
            set("errorMeta", json!({ "loginUrl": url }));
        }
        let is_finished = matches!(self.body, Body::Finished(_));
        match &self.body {
            Body::Bare => {}
            Body::SessionGone { spent, .. } | Body::Unfinished { spent, .. } => spent.write(false, &mut set),
            Body::Finished(finished) => finished.spent.write(true, &mut set),
        }
        if let Some(result) = self.result_json() {
            set("resultJson", result);
        }
        match &self.body {
            Body::Finished(finished) => {
                set("summary", finished.summary.clone().into());
                set("clearSession", finished.clear_session.into());
            }
            Body::SessionGone { .. } => set("clearSession", true.into()),
            Body::Bare | Body::Unfinished { .. } => {}
        }
        let spent = match &self.body {
            Body::Bare => None,
            Body::SessionGone { spent, .. } | Body::Unfinished { spent, .. } => Some(&**spent),
            Body::Finished(finished) => Some(&finished.spent),
        };
        if is_finished || spent.is_some_and(Spent::has_usage) {
            // Without it the host takes the tokens of a resumed session for running totals and subtracts those of the
            // run before.
            set("usageBasis", "per_run".into());
        }
        match &self.recovery {
            Recovery::Nothing => {}
            Recovery::Bootstrap(_) => {
                set("executionRecovery", json!({"kind": "bootstrap", "providerWorkStarted": false}));
            }
            Recovery::Acknowledged { session_preserved: false } => {}
            Recovery::Acknowledged { session_preserved: true } => {
                set(
                    "executionRecovery",
                    json!({
                        "kind": "interrupted", "providerStopped": true, "sessionPreserved": true,
                        "actionOutcomes": "settled"
                    }),
                );
            }
        }
        storable::value(Value::Object(object))
    }

    /// `resultJson`: the CLI's result or output, what the host acts on, and the evidence as `k8s`.
    fn result_json(&self) -> Option<Value> {
        let mut result = Map::new();
        match &self.body {
            Body::Bare => {}
            Body::Unfinished { stdout, result: earlier, .. } => {
                result.extend(earlier.as_ref().and_then(Value::as_object).cloned().unwrap_or_default());
                if let Some(stdout) = stdout {
                    result.insert("stdout".into(), stdout.clone().into());
                }
            }
            Body::SessionGone { result: event, .. } => {
                result.extend(event.as_object().cloned().unwrap_or_default());
            }
            Body::Finished(finished) => {
                result.extend(finished.result.as_object().cloned().unwrap_or_default());
            }
        }
        RESERVED.iter().for_each(|key| drop(result.shift_remove(*key)));
        if let Some(reason) = self.code.and_then(stop_reason) {
            result.insert("stopReason".into(), reason.into());
        }
        let is_acknowledged = matches!(self.recovery, Recovery::Acknowledged { .. });
        if is_acknowledged {
            result.insert("executionCancellation".into(), json!({"state": "acknowledged"}));
        }
        if let Some(code) = self.code.filter(|code| recovery::host_code(*code) != code.as_str()) {
            result.insert("k8sErrorCode".into(), code.as_str().into());
        }
        if self.code.is_some_and(asks_for_repair) {
            result.insert("configurationIncomplete".into(), self.configuration_incomplete());
        }
        if self.is_failure() || self.timed_out || is_acknowledged {
            result.insert(CONTINUATION.0.into(), CONTINUATION.1.into());
        }
        if let Some(evidence) = &self.evidence {
            result.insert("k8s".to_owned(), evidence.json.clone());
        }
        let has_event = matches!(self.body, Body::Finished(_) | Body::SessionGone { .. });
        (!result.is_empty() || has_event).then(|| Value::Object(result))
    }

    /// What the board has to repair. The host keeps one request for each fingerprint.
    fn configuration_incomplete(&self) -> Value {
        let code = self.code.map_or("", ErrorCode::as_str);
        // Before the evidence, which has times and names.
        let message = self.repair.as_deref().unwrap_or_default();
        let digest: String =
            Sha256::digest(message).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let mut object =
            json!({"reason": code, "message": message, "fingerprint": format!("{code}:{digest}")});
        if let Some(agent) = &self.agent {
            object["actionUrl"] = format!("/agents/{agent}/runtime").into();
        }
        object
    }
}

/// Whether the host asks the board to repair the agent's configuration.
const fn asks_for_repair(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::ConfigInvalid | ErrorCode::AgentIdInvalid | ErrorCode::ModelNotFound)
}

/// Why the CLI stopped, in the host's words.
const fn stop_reason(code: ErrorCode) -> Option<&'static str> {
    match code {
        ErrorCode::MaxTurnsExhausted => Some("max_turns_exhausted"),
        ErrorCode::ClaudeRefusal => Some("refusal"),
        _ => None,
    }
}
