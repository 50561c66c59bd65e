//! The result of a run: the error codes, the messages of failed runs, and the object that `execute` resolves with.
//!
//! `code` has the codes, `early` the failures before the CLI ran, `classify` what becomes of a run that has ended.

mod classify;
mod code;
mod early;

use serde_json::{Map, Value, json};

use crate::claude::Usage;
use crate::forensics::{Cause, Evidence, NothingStarted, StartFailure};
use crate::js_semantics;
use crate::storable;

pub(crate) use classify::{JobEnd, Settled, Workspace, classify};
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
    Acknowledged,
}

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
    /// The CLI's output, of a run without a result event.
    Stdout(String),
    /// The result event of a session that the CLI does not know; the host forgets that session.
    SessionGone(Value),
    /// All fields of a run with a result event.
    Finished(Box<Finished>),
}

/// What a result event and the run say together.
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
        Self {
            exit_code,
            timed_out: code == Some(ErrorCode::Timeout),
            message: Some(message.into()),
            code,
            recovery: Recovery::Nothing,
            body,
            because: None,
            evidence: None,
            start: None,
            logs: Vec::new(),
        }
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

    /// Whether it was explained already.
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

    fn with_recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = recovery;
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

    /// The object that `execute` resolves with, as the host can store it.
    pub(crate) fn to_json(&self) -> Value {
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
            Body::Bare | Body::Stdout(_) => {}
            Body::SessionGone(_) => {
                set("clearSession", true.into());
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
            }
        }
        if let Some(result) = self.result_json() {
            set("resultJson", result);
        }
        if let Body::Finished(finished) = &self.body {
            set("summary", finished.summary.clone().into());
            set("clearSession", finished.clear_session.into());
            // Without it the host takes the tokens of a resumed session for running totals and subtracts those of the
            // run before.
            set("usageBasis", "per_run".into());
        }
        match &self.recovery {
            Recovery::Nothing => {}
            Recovery::Bootstrap(_) => {
                set("executionRecovery", json!({"kind": "bootstrap", "providerWorkStarted": false}));
            }
            Recovery::Acknowledged => {
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

    /// `resultJson`: the CLI's result or output, and the evidence as `k8s`.
    fn result_json(&self) -> Option<Value> {
        let mut result = match &self.body {
            Body::Bare if self.recovery == Recovery::Acknowledged => {
                json!({"executionCancellation": {"state": "acknowledged"}})
            }
            Body::Bare => Value::Object(Map::new()),
            Body::Stdout(stdout) => json!({ "stdout": stdout }),
            Body::SessionGone(result) => result.clone(),
            Body::Finished(finished) => finished.result.clone(),
        };
        if let Some(result) = result.as_object_mut() {
            // The CLI's result is the agent's to write, this key is not.
            result.shift_remove("k8s");
            if let Some(evidence) = &self.evidence {
                result.insert("k8s".to_owned(), evidence.json.clone());
            }
        }
        let is_empty = result.as_object().is_some_and(Map::is_empty);
        (!is_empty || matches!(self.body, Body::Finished(_) | Body::SessionGone(_))).then_some(result)
    }
}
