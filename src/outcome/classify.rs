//! From a run that has ended to its result.

use jiff::Timestamp;
use serde_json::Value;

use super::recovery::Limit;
use super::spent::Spent;
use super::{Body, ErrorCode, Finished, Outcome, Recovery, StdStream};
use crate::claude::{
    BrokenSession, Captured, FailureKind, FailureSigns, OutputFacts, broken_session, describe_claude_failure,
    failure_kind, is_error_result, is_refusal, is_reportable_session_id, is_session_id, no_result_error,
};
use crate::forensics::{
    Account, Cause, Disruption, NothingStarted, TerminatedState, Vanished, describe_truncation_cause,
    pod_cause, vanished_details,
};
use crate::js_semantics;
use crate::request::SessionPlace;

/// How a Job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JobEnd {
    /// Its condition `Complete` is true.
    Complete,
    /// Its condition `Failed` is true.
    Failed {
        /// Such as `DeadlineExceeded`.
        reason: Option<String>,
    },
    /// It was gone before it had a final condition.
    Gone(Vanished),
    /// It exists without a final condition, although its container has ended.
    Unconfirmed,
    /// The run deleted it, because its CLI did not exit after its result.
    Hung,
    /// It exists, and the deletion of its pod is overdue: its node does not carry it out.
    Lost {
        /// The node.
        node: Option<String>,
        /// For how long the deletion is overdue, in seconds.
        overdue: u64,
        /// The cluster says more than that: the node does not answer, or something ended the pod.
        with_node: bool,
    },
    /// The host or the control plane cancelled the run.
    Cancelled {
        /// The host cancelled it, and the Job and its pod are confirmed gone.
        acknowledged: bool,
    },
    /// It could not be read.
    Unreachable {
        /// For how long, in seconds.
        seconds: u64,
        /// The last error.
        error: String,
    },
}

/// All that is known about a run that has ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settled {
    /// The Job's name.
    pub(crate) job: String,
    /// How it ended.
    pub(crate) end: JobEnd,
    /// The run reached its own time limit.
    pub(crate) timed_out: bool,
    /// That limit, in seconds; 0 = none.
    pub(crate) timeout_sec: f64,
    /// How the `claude` container ended.
    pub(crate) container: Option<TerminatedState>,
    /// The proof that the container never started, where the run saw none.
    pub(crate) nothing_started: Option<NothingStarted>,
    /// What the pod says about who ended it.
    pub(crate) disruption: Option<Disruption>,
    /// When the deletion of the pod was requested.
    pub(crate) asked_to_end: Option<Timestamp>,
    /// Why its log could not be read to the end, if it could not.
    pub(crate) log_error: Option<String>,
    /// Why it ended, as far as its objects show; `None` after an exit with 0.
    pub(crate) ended_by: Option<Cause>,
    /// The API refused to show the log (403).
    pub(crate) log_forbidden: bool,
    /// Lines of its log were missing.
    pub(crate) log_has_gaps: bool,
    /// The CLI's output.
    pub(crate) captured: Captured,
    /// What the Job says of the account and of where sessions are.
    pub(crate) account: Account,
    /// `config.model`, or empty.
    pub(crate) config_model: String,
    /// The session that the run resumed, or empty.
    pub(crate) current_session_id: String,
    /// What its session depends on.
    pub(crate) place: SessionPlace,
}

impl Settled {
    fn exit_code(&self) -> Option<i32> {
        self.container.as_ref()?.exit_code
    }

    /// The session that the CLI named, where it can be resumed: its id is one, and it lies on the shared volume.
    fn session_on_volume(&self) -> Option<(String, Value)> {
        let id = self.captured.session_id.as_deref().filter(|id| is_session_id(id))?;
        self.account.home_is_claimed.then(|| (id.to_owned(), session_params(Some(id), &self.place)))
    }

    /// What a run without a result of its own used.
    fn spent(&self, session: Option<(String, Value)>) -> Box<Spent> {
        let nothing_printed = self.captured.nonempty_lines == 0;
        let model = if nothing_printed { "" } else { &self.config_model };
        Box::new(Spent::of(&self.captured, &self.account, model, session))
    }

    /// What of its output says why it failed.
    fn signs(&self, with_result: bool) -> FailureSigns<'_> {
        FailureSigns {
            result: self.captured.result.as_ref().filter(|_| with_result),
            error: self.captured.error.as_deref(),
            rejected: self.captured.rejected.is_some(),
            line: self.captured.content_line.as_deref(),
        }
    }

    /// The Job reached its deadline.
    fn is_past_deadline(&self) -> bool {
        matches!(&self.end, JobEnd::Failed { reason: Some(reason) } if reason == "DeadlineExceeded")
    }

    /// Whether the CLI's last word is that it succeeded.
    fn says_success(&self) -> bool {
        self.captured.is_result_last_word()
            && self.captured.result.as_ref().is_some_and(|result| !is_error_result(result))
    }

    /// Whether the container ended before its end was requested: it had done that by itself, however long something else
    /// then kept the Job.
    fn ended_by_itself(&self) -> bool {
        let Some(container) = &self.container else { return false };
        match (container.finished_at, self.asked_to_end) {
            (Some(_), Some(asked)) => container.ended_before(asked),
            // A status without a reason is not that of a container that the kubelet saw ending.
            _ => {
                container.exit_code == Some(0)
                    && container.is_accounted_for()
                    && self.captured.is_result_of_run(Some(0))
            }
        }
    }

    /// Whether the CLI's last word is a success, and nothing contradicts that the container was ended after it. A clean end
    /// without a reason is none that a kubelet writes.
    fn succeeded_before_its_end(&self) -> bool {
        let container = self.container.as_ref().filter(|state| state.exit_code == Some(0));
        self.says_success() && container.is_none_or(TerminatedState::is_accounted_for)
    }

    /// Whether the container was ended from outside. Where nothing says who did that, a SIGKILL is taken for the
    /// container's own end: it mostly is, at its memory limit.
    fn is_killed(&self) -> bool {
        // The run has said that it ended a CLI that hung.
        let Some(container) = &self.container else {
            return !matches!(self.end, JobEnd::Complete | JobEnd::Hung);
        };
        if container.reason.as_deref() == Some("OOMKilled") {
            return false;
        }
        match container.exit_code {
            // How it ended is not known, whatever code the kubelet gives.
            _ if container.is_unknown() => true,
            None | Some(143) => true,
            Some(137) => self.killer().is_some(),
            Some(_) => false,
        }
    }

    /// Who ended the container, as far as anything says that.
    fn killer(&self) -> Option<String> {
        let deadline = self.timed_out || self.is_past_deadline();
        let named = self.disruption.as_ref().filter(|by| !by.is_plain_deletion() || !deadline);
        named.map(Disruption::text).or_else(|| match &self.end {
            _ if deadline => Some("the run reached its time limit".to_owned()),
            JobEnd::Gone(_) => Some("its Job was deleted by another API client".to_owned()),
            _ => None,
        })
    }
}

/// Chooses the result of a run that has ended: the first that applies of time limit, the CLI's result event, and what
/// is known without one. What the container had done by itself, and a success that the CLI had reported, come before a
/// time limit that the run reached later.
pub(crate) fn classify(mut settled: Settled) -> Outcome {
    let proof = settled.nothing_started.take();
    let facts = CauseFacts::of(&settled);
    let outcome = choose(settled).proven(proof);
    match facts.cause(&outcome) {
        Some(cause) => outcome.because(cause),
        None => outcome,
    }
}

fn choose(settled: Settled) -> Outcome {
    let exit_code = settled.exit_code();
    if let JobEnd::Cancelled { acknowledged } = settled.end {
        return cancelled(settled, acknowledged);
    }
    let is_late = settled.timed_out || settled.is_past_deadline();
    if is_late && !settled.ended_by_itself() && !settled.succeeded_before_its_end() {
        return timed_out(settled, exit_code);
    }
    if settled.captured.is_result_of_run(exit_code) {
        return with_result(settled);
    }
    without_result(settled, exit_code)
}

/// What the cause of an ended run depends on besides its outcome.
struct CauseFacts {
    ended_by: Option<Cause>,
    log_forbidden: bool,
    log_has_gaps: bool,
    has_limit: bool,
    result_says_error: bool,
    log_unreadable: bool,
    is_complete: bool,
    is_gone: bool,
    exit_code: Option<i32>,
    /// Of a session that cannot be resumed.
    session: Cause,
}

/// The cause that the CLI itself names by its code.
const fn cause_of_claude(code: ErrorCode) -> Option<Cause> {
    Some(match code {
        ErrorCode::MaxTurnsExhausted => Cause::MaxTurns,
        ErrorCode::ProviderQuota => Cause::UsageLimit,
        ErrorCode::ClaudeTransientUpstream => Cause::ProviderUnavailable,
        ErrorCode::ClaudeAuthRequired => Cause::AuthRequired,
        ErrorCode::ModelNotFound => Cause::ModelNotFound,
        ErrorCode::BillingError => Cause::BillingFailed,
        ErrorCode::ClaudeRefusal => Cause::ModelRefused,
        _ => return None,
    })
}

const fn code_of_claude(kind: FailureKind) -> ErrorCode {
    match kind {
        FailureKind::MaxTurns => ErrorCode::MaxTurnsExhausted,
        FailureKind::UsageLimit => ErrorCode::ProviderQuota,
        FailureKind::Transient => ErrorCode::ClaudeTransientUpstream,
        FailureKind::AuthRequired => ErrorCode::ClaudeAuthRequired,
        FailureKind::ModelNotFound => ErrorCode::ModelNotFound,
        FailureKind::Billing => ErrorCode::BillingError,
        FailureKind::Refusal => ErrorCode::ClaudeRefusal,
    }
}

impl CauseFacts {
    fn of(settled: &Settled) -> Self {
        Self {
            ended_by: match (&settled.end, settled.ended_by) {
                (JobEnd::Lost { with_node: true, .. }, _) | (JobEnd::Lost { .. }, None) => {
                    Some(Cause::NodeLost)
                }
                // A CLI that printed its events was found.
                (_, Some(Cause::CommandNotFound)) if settled.captured.events > 0 => Some(Cause::ExitCode),
                (_, ended_by) => ended_by,
            },
            log_forbidden: settled.log_forbidden,
            log_has_gaps: settled.log_has_gaps,
            has_limit: settled.timeout_sec > 0.0,
            result_says_error: settled.captured.result.as_ref().is_some_and(is_error_result),
            log_unreadable: settled.log_error.is_some(),
            is_complete: settled.end == JobEnd::Complete,
            is_gone: matches!(settled.end, JobEnd::Gone(_)),
            exit_code: settled.container.as_ref().and_then(|state| state.exit_code),
            session: match settled.captured.result.as_ref().and_then(broken_session) {
                Some(BrokenSession::Poisoned | BrokenSession::Image) => Cause::SessionBroken,
                _ => Cause::SessionUnavailable,
            },
        }
    }

    /// The cause of a failure, and of a success that something ended from outside.
    fn cause(&self, outcome: &Outcome) -> Option<Cause> {
        let from_outside = |cause: &Cause| !matches!(cause, Cause::ExitCode);
        // A CLI that ended by itself was not killed when another process of its container was.
        let is_kill = matches!(self.exit_code, None | Some(137));
        let outranks_result =
            |cause: &Cause| from_outside(cause) && (*cause != Cause::OutOfMemory || is_kill);
        Some(match outcome.code {
            Some(ErrorCode::Timeout) => match self.ended_by {
                Some(Cause::TimeLimit) => Cause::TimeLimit,
                _ if self.has_limit => Cause::TimeLimit,
                _ => Cause::JobDeadline,
            },
            Some(ErrorCode::SessionUnavailable) => self.session,
            Some(ErrorCode::Cancelled) => Cause::CancelledByHost,
            Some(ErrorCode::JobStateMismatch) => Cause::ApiUnreachable,
            Some(ErrorCode::JobDeletedExternally) => self.ended_by.unwrap_or(Cause::JobDeleted),
            Some(ErrorCode::LlmApiError) => Cause::LlmEmptyResponse,
            Some(ErrorCode::ClaudeTruncated) => {
                self.ended_by.filter(from_outside).unwrap_or(self.cut_output())
            }
            // Nothing ended a CLI that succeeded by itself.
            _ if !outcome.is_failure() => {
                return self.ended_by.filter(from_outside).filter(|_| self.exit_code != Some(0));
            }
            Some(code) if let Some(cause) = cause_of_claude(code) => {
                self.ended_by.filter(outranks_result).unwrap_or(cause)
            }
            // The result says why, unless something else killed the CLI.
            _ if self.result_says_error => self.ended_by.filter(outranks_result).unwrap_or(Cause::CliFailed),
            // Its success was seen and its log was not: what removed it came later.
            _ if self.is_complete && self.exit_code.is_none() => self.missing_output(),
            _ => self.ended_by.unwrap_or(self.missing_output()),
        })
    }

    /// Why output of the model has no result.
    fn cut_output(&self) -> Cause {
        if self.exit_code == Some(0) { self.missing_output() } else { Cause::Truncated }
    }

    /// Why a run that was not ended by anything has no result.
    fn missing_output(&self) -> Cause {
        match () {
            () if self.log_forbidden => Cause::LogForbidden,
            () if self.is_complete && self.exit_code.is_none() => Cause::JobTtlTooShort,
            () if self.is_gone => Cause::LogLost,
            () if self.log_unreadable => Cause::LogUnreadable,
            () if self.log_has_gaps => Cause::LogRotated,
            () if self.exit_code == Some(0) => Cause::NoResult,
            () => Cause::LogLost,
        }
    }
}

/// A run that the host or the control plane cancelled reports what it used until then.
fn cancelled(mut settled: Settled, acknowledged: bool) -> Outcome {
    let session = settled.session_on_volume();
    // A session that was resumed lies on the volume already; one that the CLI has not named is lost.
    let is_resumed = is_session_id(&settled.current_session_id) && settled.account.home_is_claimed;
    let session_preserved = session.is_some() || is_resumed || settled.captured.nonempty_lines == 0;
    let spent = settled.spent(session);
    let result = settled.captured.result.take();
    let outcome =
        Outcome::cancelled(acknowledged).with_body(Body::Unfinished { stdout: None, result, spent });
    if acknowledged { outcome.with_recovery(Recovery::Acknowledged { session_preserved }) } else { outcome }
}

fn timed_out(mut settled: Settled, exit_code: Option<i32>) -> Outcome {
    let timeout_sec = settled.timeout_sec;
    // A Job that was taken over can have a deadline although this run has no limit: do not say `0s` then.
    let message = if timeout_sec > 0.0 {
        format!("Timed out after {}s", js_semantics::number(timeout_sec))
    } else {
        "Timed out: the Job reached its own deadline".to_owned()
    };
    let spent = settled.spent(settled.session_on_volume());
    let result = settled.captured.result.take();
    let body = Body::Unfinished { stdout: None, result, spent };
    Outcome::failed(exit_code, Some(ErrorCode::Timeout), message, body)
}

fn with_result(settled: Settled) -> Outcome {
    let success_was_killed = settled.says_success() && settled.is_killed();
    let warning = success_was_killed.then(|| killed_after_success(&settled));
    let failure = if success_was_killed { None } else { failure_of_result(&settled) };
    let exit_code = settled.exit_code().filter(|_| !success_was_killed);
    if failure.is_some()
        && let Some(broken) = settled.captured.result.as_ref().and_then(broken_session)
    {
        return session_gone(settled, exit_code, broken);
    }
    let kind = failure.as_ref().and_then(|_| failure_kind(settled.signs(true)));
    let refused = settled.captured.result.as_ref().is_some_and(is_refusal);
    let code = kind.or_else(|| refused.then_some(FailureKind::Refusal)).map(code_of_claude);
    let credential = credential(&settled, code);
    // The host gives back what it is given.
    let ids = [settled.captured.session_id.as_deref(), Some(&*settled.current_session_id)];
    let session = ids.into_iter().flatten().find(|id| is_reportable_session_id(id));
    let session = session.map(|id| (id.to_owned(), session_params(Some(id), &settled.place)));
    let Settled { mut captured, config_model, account, .. } = settled;
    let spent = Spent::of(&captured, &account, &config_model, session);
    let text = failure.clone().unwrap_or_default();
    let limit = Limit::of(&captured, &text);
    let body = Body::Finished(Box::new(Finished {
        spent,
        summary: captured.summary().to_owned(),
        clear_session: code == Some(ErrorCode::MaxTurnsExhausted),
        result: captured.result.take().unwrap_or_default(),
    }));
    let message = failure.map(|message| message + &credential);
    let outcome = Outcome::finished(exit_code, code, message, body).said_by_cli(&text, limit);
    match warning {
        Some(warning) => outcome.warn(warning),
        None => outcome,
    }
}

/// The result about a session that cannot be resumed. No later run could, so the host is to forget it.
fn session_gone(settled: Settled, exit_code: Option<i32>, broken: BrokenSession) -> Outcome {
    let spent = settled.spent(None);
    let result = settled.captured.result.unwrap_or_default();
    let message = describe_claude_failure(&result).unwrap_or_else(|| "Session unavailable".into());
    let line = match broken {
        BrokenSession::Unknown => "[paperclip] Claude session is unavailable; clearing for next run.",
        BrokenSession::Poisoned | BrokenSession::Image => {
            "[paperclip] Claude session cannot be resumed any more; clearing for next run."
        }
    };
    let body = Body::SessionGone { result, spent };
    Outcome::failed(exit_code, Some(ErrorCode::SessionUnavailable), message, body)
        .log(StdStream::Stdout, line)
}

/// Where the credential comes from that the API did not accept, as the end of a message.
fn credential(settled: &Settled, code: Option<ErrorCode>) -> String {
    let asked = code == Some(ErrorCode::ClaudeAuthRequired);
    let source = settled.account.credential(settled.captured.api_key_source.as_deref()).filter(|_| asked);
    source.map(|source| format!("; {source}")).unwrap_or_default()
}

/// The limit of the container's memory, of one that was killed for using more, as the end of a message.
fn memory_limit(settled: &Settled) -> String {
    let is_oom = settled.container.as_ref().is_some_and(|state| state.reason.as_deref() == Some("OOMKilled"));
    let limit = settled.account.memory_limit.as_ref().filter(|_| is_oom);
    limit.map(|limit| format!("; the container's memory limit is {limit}")).unwrap_or_default()
}

/// Why a run with a result event failed; `None` where it succeeded. The CLI exits with 0 after some failures, and an
/// evicted pod may have no exit code. Where the exit code alone makes the failure, the message says all that is known of
/// the container's end.
fn failure_of_result(settled: &Settled) -> Option<String> {
    let result = settled.captured.result.as_ref()?;
    let container = settled.container.as_ref();
    let ended_by = settled.disruption.as_ref().map(|by| by.clause(settled.ended_by)).unwrap_or_default();
    let ended_by = memory_limit(settled) + &ended_by;
    let exit_code = settled.exit_code();
    let said = describe_claude_failure(result);
    let unsaid = || format!("Claude exited with code {}{}", exit_code.unwrap_or(-1), pod_cause(container));
    if is_error_result(result) {
        return Some(said.unwrap_or_else(unsaid) + &ended_by);
    }
    exit_code.filter(|code| *code != 0)?;
    let cause = describe_truncation_cause(container);
    let says_success = js_semantics::string_field(result, "subtype") == Some("success");
    let message = match said {
        _ if says_success => {
            format!("Claude run failed: the container ended after a result that says success; {cause}")
        }
        Some(said) => format!("{said}; {cause}"),
        None => unsaid(),
    };
    Some(message + &ended_by)
}

/// The log line about a container that was ended after the CLI had reported its success.
fn killed_after_success(settled: &Settled) -> String {
    let who = settled.killer().unwrap_or_else(|| "nothing says by whom".to_owned());
    let how = settled.exit_code().map_or("its exit code is not known".to_owned(), |_| {
        describe_truncation_cause(settled.container.as_ref())
    });
    format!(
        "[paperclip] Warning: the container was ended after Claude had reported success, which counts: {who} ({how})"
    )
}

fn session_params(session_id: Option<&str>, place: &SessionPlace) -> Value {
    // The CLI resumes no other.
    let session_id = session_id.filter(|id| is_session_id(id));
    session_id.map_or(Value::Null, |id| Value::Object(place.params(id)))
}

fn without_result(settled: Settled, exit_code: Option<i32>) -> Outcome {
    let spent = settled.spent(settled.session_on_volume());
    let oom = memory_limit(&settled);
    // A CLI that ended by itself before it answered may have printed why.
    let by_itself = exit_code.is_some_and(|code| (1..128).contains(&code)) && settled.disruption.is_none();
    let code = failure_kind(settled.signs(false)).filter(|_| by_itself).map(code_of_claude);
    let credential = credential(&settled, code);
    let Settled { job, end, container, disruption, log_error, captured, config_model, .. } = settled;
    let line = captured.content_line.clone().unwrap_or_default();
    let fail = |code: Option<ErrorCode>, message: String, captured: Captured, spent: Box<Spent>| {
        let unread =
            log_error.map(|error| format!("; the log could not be read: {error}")).unwrap_or_default();
        let message = message + &unread;
        let body = Body::Unfinished { stdout: Some(captured.stdout), result: None, spent };
        Outcome::failed(exit_code, code, message, body)
    };
    match &end {
        JobEnd::Unreachable { seconds, error } => {
            let body = Body::Unfinished { stdout: None, result: None, spent };
            return Outcome::job_state_unreachable(&job, *seconds, error).with_body(body);
        }
        JobEnd::Gone(vanished) if exit_code.is_none() || vanished.explains(container.as_ref()) => {
            let details = vanished_details(vanished, captured.stdout_bytes, captured.nonempty_lines);
            let message = format!("K8s Job was deleted externally before Claude could complete [{details}]");
            return fail(Some(ErrorCode::JobDeletedExternally), message, captured, spent);
        }
        _ => {}
    }
    if captured.llm_api_empty {
        let message = "LLM API returned an empty response (stop_reason: null, output_tokens: 0) — the upstream model API \
                       may be degraded or misconfigured";
        return fail(Some(ErrorCode::LlmApiError), message.into(), captured, spent);
    }
    let model = captured.init_model.clone().unwrap_or(config_model);
    let mut ended_by = disruption.map(|by| by.clause(settled.ended_by)).unwrap_or_default();
    ended_by.insert_str(0, &oom);
    if let JobEnd::Lost { node, overdue, with_node } = &end {
        let node = node.as_deref().unwrap_or("unknown");
        ended_by.push_str(&if *with_node {
            format!("; the pod was lost with its node {node}: its deletion is overdue by {overdue}s")
        } else {
            format!("; the pod's deletion is overdue by {overdue}s: its node {node} does not carry it out")
        });
    }
    if captured.truncated || captured.is_in_later_turn() {
        let hint = if model.is_empty() { String::new() } else { format!(" (model: {model})") };
        let cause = describe_truncation_cause(container.as_ref());
        let which = if captured.is_in_later_turn() { " for its last turn" } else { "" };
        let message = format!(
            "Claude run was truncated mid-stream{hint} — assistant produced content but no result event arrived{which}; \
             {cause}{ended_by}"
        );
        return fail(Some(ErrorCode::ClaudeTruncated), message, captured, spent);
    }
    let facts = OutputFacts::of(&captured, &model);
    let partial = no_result_error(exit_code, &model, facts, &pod_cause(container.as_ref()));
    let lost = match &end {
        // A CLI that exits with 0 has printed a result: the log was deleted with the Job.
        JobEnd::Gone(vanished) if exit_code == Some(0) => {
            let details = vanished_details(vanished, captured.stdout_bytes, captured.nonempty_lines);
            format!("; the Job was deleted before its log was read to the end [{details}]")
        }
        // Kubernetes saw the container succeed, so the message must not blame the CLI.
        JobEnd::Complete if exit_code.is_none() => {
            "; the Job is complete, but its pod was gone before its log was read to the end (its TTL may be too short)"
                .to_owned()
        }
        _ => ended_by,
    };
    let limit = Limit::of(&captured, &line);
    let outcome = fail(code, format!("{partial}{lost}{credential}"), captured, spent);
    outcome.said_by_cli(&line, limit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::LogLine;
    use super::*;
    use crate::claude::Tally;
    use crate::forensics::DetectionPath;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;
    const SESSION: &str = "52f5bda4-560b-4700-9b15-02e72f19ed68";

    fn settled(lines: &[&str], exit_code: Option<i32>, end: JobEnd) -> Settled {
        let mut tally = Tally::new();
        lines.iter().for_each(|line| tally.text(line));
        Settled {
            job: "j".into(),
            end,
            timed_out: false,
            nothing_started: None,
            timeout_sec: 0.0,
            container: exit_code.map(|code| TerminatedState { exit_code: Some(code), ..Default::default() }),
            disruption: None,
            asked_to_end: None,
            log_error: None,
            ended_by: None,
            log_forbidden: false,
            log_has_gaps: false,
            captured: tally.finish(),
            account: Account::default(),
            config_model: String::new(),
            current_session_id: String::new(),
            place: SessionPlace::default(),
        }
    }

    fn failed_job() -> JobEnd {
        JobEnd::Failed { reason: Some("BackoffLimitExceeded".into()) }
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

    const INIT: &str = r#"{"type":"system","subtype":"init","session_id":"52f5bda4-560b-4700-9b15-02e72f19ed68","model":"claude-x"}"#;
    const SUCCESS: &str = r#"{"type":"result","subtype":"success","is_error":false,"session_id":"52f5bda4-560b-4700-9b15-02e72f19ed68","result":" done ","total_cost_usd":0.25,"usage":{"input_tokens":100,"output_tokens":50,"cache_read_input_tokens":10}}"#;
    const SAYS: &str = r#"{"type":"assistant","message":{"id":"m","usage":{"output_tokens":5},"content":[{"type":"text","text":"hi"}]}}"#;
    const EMPTY: &str = r#"{"type":"assistant","message":{"id":"m","stop_reason":null,"usage":{"output_tokens":0},"content":[]}}"#;
    const UNKNOWN: &str =
        r#"{"type":"result","subtype":"error","result":"No conversation found with session ID: s"}"#;

    #[test]
    fn watched_deletion_explains_a_kill_but_no_own_failure() {
        let watched = || match gone() {
            JobEnd::Gone(vanished) => {
                JobEnd::Gone(Vanished { path: DetectionPath::WatchDeleted, ..vanished })
            }
            other => other,
        };
        let code = |exit_code, end| classify(settled(&[INIT, SAYS], Some(exit_code), end)).to_json(NOW);
        for exit_code in [137, 143] {
            let result = code(exit_code, watched());
            assert_eq!(result["errorCode"], "k8s_job_deleted_externally");
            assert_eq!(result["exitCode"], exit_code, "the exit code is kept");
            assert_eq!(
                code(exit_code, gone())["errorCode"],
                "claude_truncated",
                "without a watch, as 0.1.49 did"
            );
        }
        assert_eq!(code(1, watched())["errorCode"], "claude_truncated", "its own failure came first");
        let mut oom = settled(&[INIT, SAYS], Some(137), watched());
        oom.container =
            oom.container.map(|state| TerminatedState { reason: Some("OOMKilled".into()), ..state });
        assert_eq!(classify(oom).to_json(NOW)["errorCode"], "claude_truncated");
    }

    #[test]
    fn deletion_named_by_the_pod_explains_a_kill() {
        let named_by_the_pod = |reason: &str| match gone() {
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
            let result = classify(settled(&[], Some(exit_code), named_by_the_pod(reason))).to_json(NOW);
            assert_eq!((&result["errorCode"], &result["exitCode"]), (&code, &exit_code.into()), "{reason}");
        }
    }

    #[test]
    fn log_deleted_with_its_job_is_not_blamed_on_the_cli() {
        let result = classify(settled(&[INIT], Some(0), gone())).to_json(NOW);
        let message = result["errorMessage"].as_str().unwrap();
        assert!(
            message.starts_with(
                "Failed to parse Claude JSON output; the Job was deleted before its log was read to the end \
                 [detected_via=completion-poll-404, job=j, ns=n, "
            ),
            "{message}"
        );
        assert_eq!(result.get("errorCode"), None);
        let result = classify(settled(&[INIT], Some(0), JobEnd::Complete)).to_json(NOW);
        assert_eq!(result["errorMessage"], "Failed to parse Claude JSON output");
        let result = classify(settled(&[], None, JobEnd::Complete)).to_json(NOW);
        assert_eq!(
            result["errorMessage"],
            "Claude exited with code -1; the Job is complete, but its pod was gone before its log was read to the end \
             (its TTL may be too short)"
        );
    }

    #[test]
    fn time_limit_wins_over_what_came_after_it() {
        let mut run = settled(&[INIT, SAYS], Some(1), JobEnd::Complete);
        run.timed_out = true;
        run.timeout_sec = 1.5;
        let result = classify(run).to_json(NOW);
        assert_eq!(
            result,
            json!({
                "exitCode": 1, "signal": null, "timedOut": true, "errorMessage": "Timed out after 1.5s", "errorCode": "timeout",
                "usage": {"inputTokens": 0, "cachedInputTokens": 0, "outputTokens": 5}, "usageBasis": "per_run",
                "provider": "anthropic", "biller": "anthropic", "model": "claude-x", "billingType": "api",
                "costUsd": null, "resultJson": {"conversationContinuation": "continue_conversation_v1"}
            })
        );
        let end = JobEnd::Failed { reason: Some("DeadlineExceeded".into()) };
        let mut run = settled(&[], Some(143), end);
        run.timeout_sec = 30.0;
        let outcome = classify(run.clone());
        assert_eq!((outcome.error_message(), outcome.exit_code()), (Some("Timed out after 30s"), Some(143)));
        run.timeout_sec = 0.0;
        assert_eq!(classify(run).error_message(), Some("Timed out: the Job reached its own deadline"));
    }

    #[test]
    fn complete_job_whose_pod_was_never_seen_to_end_lived_too_short() {
        let run = settled(&[INIT], None, JobEnd::Complete);
        let facts = CauseFacts::of(&run);
        assert_eq!(facts.cause(&choose(run)), Some(Cause::JobTtlTooShort));
    }

    #[test]
    fn clean_end_without_a_reason_does_not_outrank_the_time_limit() {
        let run =
            settled(&[INIT, SUCCESS], Some(0), JobEnd::Failed { reason: Some("DeadlineExceeded".into()) });
        assert_eq!(classify(run).to_json(NOW)["timedOut"], true);
    }

    #[test]
    fn end_before_the_time_limit_outranks_it() {
        const FAILED: &str = r#"{"type":"result","subtype":"error_during_execution","is_error":true}"#;
        let at = |second: i64| Some(Timestamp::from_second(second).unwrap());
        let failed = "Claude run failed: subtype=error_during_execution";
        let timeout = "Timed out after 30s";
        for (lines, exit_code, finished_at, asked_to_end, message) in [
            // A sidecar kept the Job to its deadline.
            (&[INIT, SUCCESS][..], Some(0), None, None, None),
            (&[INIT, SUCCESS], Some(0), at(10), at(30), None),
            (&[INIT, FAILED], Some(0), None, None, Some(failed)),
            (&[INIT, FAILED], Some(1), at(10), at(30), Some(failed)),
            (
                &[INIT, "no space left"],
                Some(1),
                at(10),
                at(30),
                Some("Claude exited with code 1: no space left"),
            ),
            // The CLI reported success and was killed.
            (&[INIT, SUCCESS], Some(143), at(31), at(30), None),
            (&[INIT, SUCCESS], None, None, None, None),
            // The deadline ended it.
            (&[INIT, FAILED], Some(1), at(30), at(30), Some(timeout)),
            (&[INIT, FAILED], Some(1), None, at(30), Some(timeout)),
            (&[INIT, SAYS], Some(143), at(31), at(30), Some(timeout)),
            (&[INIT, SAYS], Some(0), None, None, Some(timeout)),
            (&[INIT, SUCCESS, SAYS], Some(143), at(31), at(30), Some(timeout)),
        ] {
            let end = JobEnd::Failed { reason: Some("DeadlineExceeded".into()) };
            for (end, timed_out) in [(end, false), (JobEnd::Unconfirmed, true)] {
                let mut run = settled(lines, exit_code, end);
                (run.timed_out, run.timeout_sec, run.asked_to_end) = (timed_out, 30.0, asked_to_end);
                let reason = (exit_code == Some(0)).then(|| "Completed".to_owned());
                run.container = run.container.map(|state| TerminatedState { reason, finished_at, ..state });
                let outcome = classify(run);
                assert_eq!(outcome.error_message(), message, "{lines:?} {exit_code:?} {finished_at:?}");
                assert_eq!(outcome.to_json(NOW)["timedOut"], message == Some(timeout));
            }
        }
    }

    /// The cause of a run with these lines, whose container ended like this.
    fn cause(lines: &[&str], exit_code: i32, reason: &str, ended_by: Option<Cause>) -> Option<Cause> {
        let mut run = settled(lines, Some(exit_code), failed_job());
        run.container = run.container.map(|state| TerminatedState { reason: Some(reason.into()), ..state });
        run.ended_by = ended_by;
        let facts = CauseFacts::of(&run);
        facts.cause(&choose(run))
    }

    #[test]
    fn success_that_ended_by_itself_has_no_cause() {
        // The pod was drained, or another process killed, when it was over.
        for ended_by in [Cause::EvictedByApi, Cause::OutOfMemory, Cause::TimeLimit] {
            assert_eq!(cause(&[INIT, SUCCESS], 0, "OOMKilled", Some(ended_by)), None);
        }
    }

    #[test]
    fn failure_that_the_cli_reports_is_not_put_down_to_another_process() {
        const FAILED: &str = r#"{"type":"result","subtype":"error_max_turns","is_error":true}"#;
        let oom = Some(Cause::OutOfMemory);
        assert_eq!(cause(&[INIT, FAILED], 1, "OOMKilled", oom), Some(Cause::MaxTurns));
        assert_eq!(cause(&[INIT, FAILED], 137, "OOMKilled", oom), oom);
        assert_eq!(cause(&[INIT, SAYS], 1, "OOMKilled", oom), oom);
    }

    #[test]
    fn cli_that_printed_events_was_found() {
        let not_found = Some(Cause::CommandNotFound);
        assert_eq!(cause(&["sh: claude: not found"], 127, "Error", not_found), not_found);
        assert_eq!(cause(&[INIT], 127, "Error", not_found), Some(Cause::ExitCode));
        assert_eq!(cause(&[INIT, SAYS], 127, "Error", not_found), Some(Cause::Truncated));
    }

    #[test]
    fn success_whose_end_its_node_does_not_know_counts() {
        let mut run = settled(&[INIT, SUCCESS], Some(137), failed_job());
        let reason = Some("ContainerStatusUnknown".to_owned());
        run.container = run.container.map(|state| TerminatedState { reason, ..state });
        let outcome = classify(run);
        assert_eq!((outcome.error_message(), outcome.exit_code()), (None, None));
        let said = "nothing says by whom (exit code 137, reason=ContainerStatusUnknown)";
        assert!(outcome.logs.iter().any(|line| line.text.contains(said)), "{:?}", outcome.logs);
    }

    #[test]
    fn kill_by_a_node_whose_clock_is_behind_is_the_time_limit() {
        let at = |second: i64| Some(Timestamp::from_second(second).unwrap());
        let mut run = settled(&[INIT, SAYS], Some(143), JobEnd::Unconfirmed);
        (run.timed_out, run.timeout_sec, run.asked_to_end) = (true, 30.0, at(30));
        run.container = run.container.map(|state| TerminatedState { finished_at: at(25), ..state });
        assert_eq!(classify(run).error_message(), Some("Timed out after 30s"));
    }

    #[test]
    fn success_before_a_kill_counts_and_names_the_killer() {
        let by = |reason: &str| Some(Disruption { reason: reason.into(), message: None });
        let deadline = || JobEnd::Failed { reason: Some("DeadlineExceeded".into()) };
        for (exit_code, reason, disruption, end, text) in [
            (
                Some(143),
                Some("Error"),
                by("EvictionByEvictionAPI"),
                failed_job(),
                "the pod was evicted through the Eviction API [EvictionByEvictionAPI] (exit code 143, SIGTERM, reason=Error)",
            ),
            (
                Some(137),
                Some("Error"),
                by("PreemptionByScheduler"),
                failed_job(),
                "the scheduler preempted the pod for one of higher priority [PreemptionByScheduler] (exit code 137, SIGKILL \
                 (commonly OOMKilled), reason=Error)",
            ),
            (Some(143), None, None, failed_job(), "nothing says by whom (exit code 143, SIGTERM)"),
            (
                Some(137),
                None,
                None,
                gone(),
                "its Job was deleted by another API client (exit code 137, SIGKILL (commonly OOMKilled))",
            ),
            (
                Some(143),
                None,
                by("Deleted"),
                deadline(),
                "the run reached its time limit (exit code 143, SIGTERM)",
            ),
            (
                None,
                None,
                by("NodeLost"),
                JobEnd::Unconfirmed,
                "the pod's node was lost [NodeLost] (its exit code is not known)",
            ),
            (None, None, None, failed_job(), "nothing says by whom (its exit code is not known)"),
        ] {
            let mut run = settled(&[INIT, SUCCESS], exit_code, end);
            run.disruption = disruption;
            run.container =
                run.container.map(|state| TerminatedState { reason: reason.map(str::to_owned), ..state });
            let outcome = classify(run);
            assert_eq!((outcome.error_message(), outcome.exit_code()), (None, None), "{text}");
            assert_eq!(outcome.to_json(NOW)["summary"], "done");
            let line = format!(
                "[paperclip] Warning: the container was ended after Claude had reported success, which counts: {text}"
            );
            assert_eq!(outcome.logs, [LogLine { stream: StdStream::Stderr, text: line }]);
        }
        for exit_code in [Some(0), None] {
            let outcome = classify(settled(&[INIT, SUCCESS], exit_code, JobEnd::Complete));
            assert_eq!((outcome.error_message(), outcome.logs.len()), (None, 0), "Kubernetes saw a success");
        }
    }

    #[test]
    fn failure_by_the_exit_code_says_how_the_container_ended() {
        const CUT: &str = r#"{"type":"result","subtype":"cut"}"#;
        const FAILED: &str = r#"{"type":"result","subtype":"error_during_execution","errors":["aborted"]}"#;
        let evicted = || Some(Disruption { reason: "Evicted".into(), message: Some("low on memory".into()) });
        let success = "Claude run failed: the container ended after a result that says success; ";
        for (line, exit_code, reason, disruption, message) in [
            (
                SUCCESS,
                137,
                Some("OOMKilled"),
                None,
                format!("{success}exit code 137, SIGKILL (commonly OOMKilled), reason=OOMKilled"),
            ),
            (
                SUCCESS,
                137,
                Some("Error"),
                None,
                format!("{success}exit code 137, SIGKILL (commonly OOMKilled), reason=Error"),
            ),
            (SUCCESS, 1, Some("Error"), None, format!("{success}exit code 1, reason=Error")),
            (
                SUCCESS,
                3,
                None,
                evicted(),
                format!("{success}exit code 3; the pod was evicted by its node [Evicted]: low on memory"),
            ),
            (CUT, 1, None, None, "Claude run failed: subtype=cut; exit code 1".to_owned()),
            (r#"{"type":"result"}"#, 1, Some("Error"), None, "Claude exited with code 1 [pod: reason=Error]".to_owned()),
            // The result makes the failure; who ended the pod may be its cause.
            (FAILED, 1, Some("Error"), None, "Claude run failed: subtype=error_during_execution: aborted".to_owned()),
            (
                FAILED,
                143,
                None,
                evicted(),
                "Claude run failed: subtype=error_during_execution: aborted; the pod was evicted by its node [Evicted]: \
                 low on memory"
                    .to_owned(),
            ),
        ] {
            let mut run = settled(&[INIT, line], Some(exit_code), failed_job());
            run.disruption = disruption;
            run.container =
                run.container.map(|state| TerminatedState { reason: reason.map(str::to_owned), ..state });
            let outcome = classify(run);
            assert_eq!(outcome.error_message(), Some(&message[..]));
            assert_eq!(outcome.exit_code(), Some(exit_code));
        }
    }

    #[test]
    fn unknown_session_of_a_failed_run_is_cleared() {
        for (exit_code, result, code) in [
            (Some(1), UNKNOWN.to_owned(), Some(ErrorCode::SessionUnavailable)),
            (Some(0), UNKNOWN.to_owned(), Some(ErrorCode::SessionUnavailable)),
            (None, UNKNOWN.to_owned(), Some(ErrorCode::SessionUnavailable)),
            (
                Some(0),
                UNKNOWN.replace("\"error\"", "\"success\",\"is_error\":true"),
                Some(ErrorCode::SessionUnavailable),
            ),
            (Some(0), UNKNOWN.replace("error", "success"), None),
            (None, UNKNOWN.replace("error", "success"), None),
        ] {
            let outcome = classify(settled(&[&result], exit_code, failed_job()));
            assert_eq!(outcome.error_code(), code);
            let said = outcome.logs.iter().any(|line| line.text.contains("clearing for next run"));
            assert_eq!(said, code.is_some());
        }
        let outcome = classify(settled(&[UNKNOWN], Some(1), failed_job()));
        let mut parsed: Value = serde_json::from_str(UNKNOWN).unwrap();
        parsed["conversationContinuation"] = "continue_conversation_v1".into();
        assert_eq!(
            outcome.to_json(NOW),
            json!({
                "exitCode": 1, "signal": null, "timedOut": false,
                "errorMessage": "Claude run failed: subtype=error: No conversation found with session ID: s",
                "errorCode": "session_unavailable", "clearSession": true, "resultJson": parsed
            })
        );
        let log = "[paperclip] Claude session is unavailable; clearing for next run.";
        assert_eq!(outcome.logs, [LogLine { stream: StdStream::Stdout, text: log.into() }]);
    }

    #[test]
    fn run_without_a_result_event_has_code_and_message() {
        let deleted = "K8s Job was deleted externally before Claude could complete [detected_via=completion-poll-404, job=j, \
                       ns=n, completion_polls=0, last_job_conditions=none_observed, stdout_bytes=106, stdout_nonempty_lines=1]";
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
            let result = outcome.to_json(NOW);
            assert_eq!(
                (&result["exitCode"], &result["errorMessage"], result.get("errorCode")),
                (&exit_code.into(), &message.into(), code.map(Value::from).as_ref())
            );
            let expected = json!({"stdout": stdout, "conversationContinuation": "continue_conversation_v1"});
            assert_eq!(result["resultJson"], expected);
        }
    }

    #[test]
    fn without_init_event_the_configured_model_is_named() {
        let mut run = settled(&[r#"{"type":"user","model":"claude_y"}"#], Some(1), failed_job());
        run.config_model = "claude-y".into();
        let message = classify(run).error_message().unwrap().to_owned();
        assert!(message.starts_with("Claude exited immediately after init (model: claude-y)"), "{message}");
    }

    #[test]
    fn message_says_what_ended_the_pod() {
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
    fn log_that_could_not_be_read_is_named() {
        let error = "HTTP-Code: 403 Message: pods/log is forbidden";
        for (lines, exit_code, end, before) in [
            (&[][..], Some(0), JobEnd::Complete, "Failed to parse Claude JSON output"),
            (&[], Some(1), failed_job(), "Claude exited with code 1"),
            (&[INIT, SAYS], Some(1), failed_job(), "Claude run was truncated mid-stream"),
            (&[], None, gone(), "K8s Job was deleted externally before Claude could complete ["),
        ] {
            let mut run = settled(lines, exit_code, end);
            run.log_error = Some(error.into());
            let message = classify(run).error_message().unwrap().to_owned();
            assert!(message.starts_with(before), "{message}");
            assert!(message.ends_with(&format!("; the log could not be read: {error}")), "{message}");
        }
        let mut run = settled(&[INIT, SUCCESS], Some(0), JobEnd::Complete);
        run.log_error = Some(error.into());
        assert_eq!(classify(run).error_message(), None, "the result had come before");
    }

    #[test]
    fn unreachable_job_fails_unless_a_result_arrived() {
        let end = || JobEnd::Unreachable { seconds: 60, error: "HTTP-Code: 503".into() };
        let outcome = classify(settled(&[INIT, SAYS], None, end()));
        assert_eq!(outcome.error_code(), Some(ErrorCode::JobStateMismatch));
        let result = outcome.to_json(NOW);
        assert_eq!(
            (&result["errorFamily"], &result["retryNotBefore"]),
            (&"transient_upstream".into(), &"1970-01-01T00:02:00Z".into()),
            "the retry takes over the Job, which runs on"
        );
        // A result that arrived is not thrown away.
        let outcome = classify(settled(&[INIT, SUCCESS], None, end()));
        assert_eq!(outcome.error_message(), None);
    }

    #[test]
    fn success_has_every_field_in_order() {
        let mut run = settled(&[INIT, SAYS, SUCCESS], Some(0), JobEnd::Complete);
        run.place = SessionPlace {
            cwd: Some("/w".into()),
            workspace_id: Some(String::new()),
            repo_ref: Some("main".into()),
            ..SessionPlace::default()
        };
        let result = classify(run).to_json(NOW);
        let parsed: Value = serde_json::from_str(SUCCESS).unwrap();
        assert_eq!(
            serde_json::to_string(&result).unwrap(),
            serde_json::to_string(&json!({
                "exitCode": 0, "signal": null, "timedOut": false, "errorMessage": null,
                "usage": {"inputTokens": 100, "cachedInputTokens": 10, "outputTokens": 50},
                "sessionId": SESSION, "sessionParams": {"sessionId": SESSION, "cwd": "/w", "repoRef": "main"},
                "sessionDisplayId": SESSION, "provider": "anthropic", "biller": "anthropic", "model": "claude-x", "billingType": "api",
                "costUsd": 0.25, "resultJson": parsed, "summary": "done", "clearSession": false,
                "usageBasis": "per_run"
            }))
            .unwrap()
        );
    }

    #[test]
    fn absent_fields_fall_back() {
        let mut run = settled(&[r#"{"type":"result","model":""}"#], None, gone());
        run.config_model = "claude-c".into();
        let result = classify(run.clone()).to_json(NOW);
        assert_eq!(result["exitCode"], Value::Null);
        assert_eq!(result["errorMessage"], Value::Null);
        assert_eq!((&result["sessionId"], &result["sessionParams"]), (&Value::Null, &Value::Null));
        assert_eq!(
            (&result["model"], &result["costUsd"], &result["summary"]),
            (&"claude-c".into(), &Value::Null, &"".into())
        );
        assert_eq!(result.get("usage"), None, "what nothing says is unknown");
        run.current_session_id = SESSION.into();
        let result = classify(run).to_json(NOW);
        assert_eq!(
            (&result["sessionDisplayId"], &result["sessionParams"]),
            (&SESSION.into(), &json!({"sessionId": SESSION}))
        );
        let run =
            settled(&[r#"{"type":"result","model":"claude-r","result":""}"#], Some(0), JobEnd::Complete);
        assert_eq!(classify(run).to_json(NOW)["model"], "claude-r");
    }

    #[test]
    fn session_whose_id_is_no_word_is_not_reported() {
        for id in ["--mcp-config=/paperclip/x", "../../x", "", "52f5bda4-560b-4700-9b15-02e72f19ed6\n"] {
            for resumed in [id, SESSION] {
                let event = json!({"type": "result", "result": "x", "session_id": id}).to_string();
                let mut run = settled(&[&event], Some(0), JobEnd::Complete);
                run.current_session_id = resumed.into();
                let result = classify(run).to_json(NOW);
                let known = if resumed == SESSION { Value::from(SESSION) } else { Value::Null };
                for key in ["sessionId", "sessionDisplayId"] {
                    assert_eq!(result[key], known, "{id:?} {key}");
                }
                assert_eq!(result["sessionParams"].is_null(), known.is_null(), "{id:?}");
            }
        }
    }

    #[test]
    fn session_whose_id_is_not_a_uuid_has_no_params() {
        let event = json!({"type": "result", "result": "x", "session_id": "sess_1"}).to_string();
        let result = classify(settled(&[&event], Some(0), JobEnd::Complete)).to_json(NOW);
        assert_eq!((&result["sessionId"], &result["sessionParams"]), (&"sess_1".into(), &Value::Null));
    }

    #[test]
    fn is_error_fails_whatever_the_exit_code() {
        for (result, exit_code, message) in [
            (r#"{"type":"result","is_error":true,"result":"no"}"#, Some(0), Some("Claude run failed: no")),
            (r#"{"type":"result","is_error":true,"result":"no"}"#, None, Some("Claude run failed: no")),
            (r#"{"type":"result","is_error":true}"#, Some(0), Some("Claude exited with code 0")),
            (r#"{"type":"result","is_error":true}"#, None, Some("Claude exited with code -1")),
            (r#"{"type":"result"}"#, Some(3), Some("Claude exited with code 3")),
            (
                r#"{"type":"result","subtype":"s"}"#,
                Some(3),
                Some("Claude run failed: subtype=s; exit code 3"),
            ),
            (r#"{"type":"result","is_error":"true"}"#, Some(0), None),
            (r#"{"type":"result","is_error":false}"#, None, None),
        ] {
            let outcome = classify(settled(&[result], exit_code, failed_job()));
            assert_eq!(outcome.error_message(), message, "{result}");
            assert_eq!(outcome.error_code(), None);
        }
    }

    #[test]
    fn error_subtype_fails_whatever_is_error_says() {
        for (subtype, clear) in
            [("error_max_turns", true), ("error_during_execution", false), ("error_max_budget_usd", false)]
        {
            let line = format!(r#"{{"type":"result","subtype":"{subtype}","is_error":false,"num_turns":3}}"#);
            let result = classify(settled(&[INIT, SAYS, &line], Some(0), JobEnd::Complete)).to_json(NOW);
            assert_eq!(result["errorMessage"], format!("Claude run failed: subtype={subtype}"));
            assert_eq!(result["clearSession"], clear, "{subtype}");
        }
    }

    #[test]
    fn run_lost_in_a_later_turn_has_no_result() {
        let early = SUCCESS.replace(r#""result":" done ""#, r#""num_turns":0,"result":"""#);
        let truncated = "Claude run was truncated mid-stream (model: claude-x) — assistant produced content but no \
                         result event arrived";
        let unavailable = "pod state unavailable — likely deleted before exit could be read";
        for (lines, exit_code, message) in [
            (&[INIT, &early, INIT, SAYS][..], None, format!("{truncated}; {unavailable}")),
            (
                &[INIT, &early, INIT, SAYS],
                Some(137),
                format!("{truncated}; exit code 137, SIGKILL (commonly OOMKilled)"),
            ),
            (&[INIT, &early, INIT, SAYS], Some(0), format!("{truncated}; exit code 0")),
            (&[INIT, SAYS, SUCCESS, INIT], None, format!("{truncated} for its last turn; {unavailable}")),
            (&[INIT, SAYS, SUCCESS, SAYS], Some(1), format!("{truncated} for its last turn; exit code 1")),
        ] {
            let outcome = classify(settled(lines, exit_code, failed_job()));
            assert_eq!(outcome.error_message(), Some(&message[..]), "{lines:?}");
            assert_eq!(outcome.error_code(), Some(ErrorCode::ClaudeTruncated), "{lines:?}");
            let text = lines.join("\n") + "\n";
            assert_eq!(outcome.to_json(NOW)["resultJson"]["stdout"], text, "the output so far");
        }
        let outcome = classify(settled(&[INIT, SAYS, SUCCESS, INIT, SAYS], Some(0), JobEnd::Complete));
        assert_eq!(outcome.error_message(), None, "a container that ended with 0 has done its work");
    }

    #[test]
    fn max_turns_clear_the_session_of_a_failed_run_only() {
        for (result, exit_code, clear) in [
            (r#"{"type":"result","result":"explained what max turns means"}"#, Some(0), false),
            (r#"{"type":"result","result":"reached max turns"}"#, Some(1), false),
            (r#"{"type":"result","is_error":true,"result":"reached max turns"}"#, Some(1), false),
            (r#"{"type":"result","is_error":true,"terminal_reason":"max_turns"}"#, Some(1), true),
            (r#"{"type":"result","subtype":"error_max_turns","is_error":true}"#, Some(0), true),
            (r#"{"type":"result","subtype":"error","is_error":true}"#, Some(1), false),
        ] {
            let result = classify(settled(&[result], exit_code, JobEnd::Complete)).to_json(NOW);
            assert_eq!(result["clearSession"], clear, "{result}");
        }
    }

    #[test]
    fn output_of_the_real_cli_is_classified() {
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
            (
                fixture!("max-turns"),
                1,
                Some(ErrorCode::MaxTurnsExhausted),
                Some("Reached maximum number of turns (1)"),
                true,
            ),
            (
                fixture!("auth"),
                1,
                Some(ErrorCode::ClaudeAuthRequired),
                Some("Invalid API key · Fix external API key"),
                false,
            ),
            (
                fixture!("overload"),
                1,
                Some(ErrorCode::ClaudeTransientUpstream),
                Some("API Error: 529 Overloaded."),
                false,
            ),
            (
                fixture!("unreachable"),
                1,
                Some(ErrorCode::ClaudeTransientUpstream),
                Some("Unable to connect to API (ConnectionRefused)"),
                false,
            ),
            (
                fixture!("bad-session"),
                1,
                Some(ErrorCode::SessionUnavailable),
                Some("--resume requires a valid session ID"),
                true,
            ),
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
            assert_eq!(outcome.to_json(NOW)["clearSession"], clear);
        }
    }

    /// What a host reads of a result: code, family, time of the retry, stop reason, whether the session is forgotten.
    fn verdict(run: Settled) -> [Value; 5] {
        let result = classify(run).to_json("2026-11-29T16:00:00Z".parse().unwrap());
        let failed = result["errorMessage"].is_string();
        let continues = &result["resultJson"]["conversationContinuation"];
        assert_eq!(continues == "continue_conversation_v1", failed, "{result}");
        [
            result["errorCode"].clone(),
            result["errorFamily"].clone(),
            result["retryNotBefore"].clone(),
            result["resultJson"]["stopReason"].clone(),
            result["clearSession"].clone(),
        ]
    }

    /// An ending of the CLI: its name, the lines after the init event, the exit code, and what the host reads.
    type Ending = (&'static str, Vec<String>, i32, [Value; 5]);

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table")]
    fn endings_of_the_cli_have_the_codes_that_the_host_knows() {
        let result = |more: Value| {
            let mut event =
                json!({"type": "result", "subtype": "success", "is_error": true, "session_id": SESSION});
            event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            event.to_string()
        };
        let failed =
            |text: &str, status: Value| vec![result(json!({"result": text, "api_error_status": status}))];
        let error = |error: &str, text: &str, status: Value| {
            let says = json!({"type": "assistant", "error": error, "message": {"id": "e", "content": []}});
            vec![says.to_string(), result(json!({"result": text, "api_error_status": status}))]
        };
        let rejected =
            r#"{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":1796000000}}"#;
        let with_limit = |mut lines: Vec<String>| {
            lines.insert(0, rejected.to_owned());
            lines
        };
        let none = Value::Null;
        let plain =
            |code: &str, clear: bool| [code.into(), none.clone(), none.clone(), none.clone(), clear.into()];
        let transient = || ["claude_transient_upstream", "transient_upstream"].map(Value::from);
        let again = || {
            let [code, family] = transient();
            [code, family, none.clone(), none.clone(), false.into()]
        };
        let quota = |at: &str| {
            ["provider_quota".into(), "provider_quota".into(), at.into(), none.clone(), false.into()]
        };
        let turns = |subtype: &str, more: Value| {
            let mut event = json!({"type": "result", "subtype": subtype, "session_id": SESSION});
            event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            vec![event.to_string()]
        };
        let exhausted = || {
            let code = Value::from("max_turns_exhausted");
            [code.clone(), none.clone(), none.clone(), code, true.into()]
        };
        let refused = || {
            ["claude_refusal".into(), "model_refusal".into(), none.clone(), "refusal".into(), false.into()]
        };
        let nothing = |clear: Value| [none.clone(), none.clone(), none.clone(), none.clone(), clear];
        let new_york = "You've hit your limit · resets 5pm (America/New_York)";
        let utc = "You've hit your session limit · resets 3:30am (UTC)";
        let endings: Vec<Ending> = vec![
            ("max turns", turns("error_max_turns", json!({"is_error": true})), 1, exhausted()),
            ("max turns, old CLI", turns("error_max_turns", json!({"is_error": false})), 0, exhausted()),
            (
                "max turns by reason",
                turns("success", json!({"is_error": true, "terminal_reason": "max_turns"})),
                1,
                exhausted(),
            ),
            (
                "limit with its second",
                with_limit(error("rate_limit", new_york, json!(429))),
                1,
                quota("2026-11-30T00:53:20Z"),
            ),
            ("limit in words", error("rate_limit", new_york, json!(429)), 1, quota("2026-11-29T22:00:00Z")),
            ("session limit in words", failed(utc, none.clone()), 1, quota("2026-11-30T03:30:00Z")),
            (
                "extra usage",
                failed("You're out of extra usage · resets 5pm (America/New_York)", json!(429)),
                1,
                quota("2026-11-29T22:00:00Z"),
            ),
            (
                "limit without a time",
                failed("Claude usage limit reached", none.clone()),
                1,
                quota("2026-11-29T17:00:00Z"),
            ),
            (
                "limit printed",
                vec!["Claude AI usage limit reached|1796000000".into()],
                1,
                [
                    "provider_quota".into(),
                    "provider_quota".into(),
                    "2026-11-30T00:53:20Z".into(),
                    none.clone(),
                    none.clone(),
                ],
            ),
            ("429", failed("API Error: 429", json!(429)), 1, again()),
            ("500", failed("API Error: 500", json!(500)), 1, again()),
            ("503", failed("API Error: 503", json!(503)), 1, again()),
            ("529", error("server_error", "API Error: 529 Overloaded.", json!(529)), 1, again()),
            ("529, exit 0", error("overloaded", "API Error: 529 Overloaded.", json!(529)), 0, again()),
            (
                "connection refused",
                error(
                    "server_error",
                    "API Error: Unable to connect to API (ConnectionRefused)",
                    none.clone(),
                ),
                1,
                again(),
            ),
            (
                "connection refused in words",
                failed("API Error: Unable to connect to API (ConnectionRefused)", none.clone()),
                1,
                again(),
            ),
            (
                "401",
                error("authentication_failed", "Failed to authenticate. API Error: 401", json!(401)),
                1,
                plain("claude_auth_required", false),
            ),
            (
                "403",
                error("oauth_org_not_allowed", "API Error: 403", json!(403)),
                1,
                plain("claude_auth_required", false),
            ),
            (
                "expired OAuth",
                failed("OAuth token has expired", none.clone()),
                1,
                plain("claude_auth_required", false),
            ),
            (
                "please log in",
                failed("Not logged in · Please run /login", none.clone()),
                1,
                plain("claude_auth_required", false),
            ),
            (
                "invalid API key",
                error("authentication_failed", "Invalid API key · Fix external API key", none.clone()),
                1,
                plain("claude_auth_required", false),
            ),
            (
                "unknown model",
                error("model_not_found", "There's an issue with the selected model", json!(404)),
                1,
                plain("model_not_found", false),
            ),
            (
                "no credit",
                error("billing_error", "Credit balance is too low", json!(400)),
                1,
                plain("billing_error", false),
            ),
            ("refusal", turns("success", json!({"is_error": false, "stop_reason": "refusal"})), 0, refused()),
            (
                "refusal that fails",
                turns("success", json!({"is_error": true, "stop_reason": "refusal"})),
                1,
                refused(),
            ),
            (
                "unknown session",
                turns(
                    "error_during_execution",
                    json!({"errors": ["No conversation found with session ID: x"]}),
                ),
                1,
                plain("session_unavailable", true),
            ),
            (
                "image in the session",
                failed("API Error: 400 Could not process image", json!(400)),
                1,
                plain("session_unavailable", true),
            ),
            (
                "poisoned session",
                failed(
                    "API Error: 400 diagnostics.previous_message_id must be one that starts with `msg_`",
                    json!(400),
                ),
                1,
                plain("session_unavailable", true),
            ),
            (
                "another 400",
                failed("API Error: 400 prompt is too long", json!(400)),
                1,
                nothing(false.into()),
            ),
            (
                "error of the CLI",
                turns("error_during_execution", json!({"errors": ["aborted"]})),
                1,
                nothing(false.into()),
            ),
            (
                "success, then exit 1",
                turns(
                    "success",
                    json!({"is_error": false, "result": "rate limit reached, please run /login"}),
                ),
                1,
                nothing(false.into()),
            ),
            (
                "success, then 143",
                turns("success", json!({"is_error": false, "result": "done"})),
                143,
                nothing(false.into()),
            ),
            (
                "success about max turns",
                turns("success", json!({"is_error": false, "result": "reached max turns"})),
                0,
                nothing(false.into()),
            ),
            ("killed without a result", vec![], 137, nothing(none.clone())),
            ("exit 1 without a result", vec![], 1, nothing(none.clone())),
            (
                "login asked for without a result",
                vec!["Invalid API key · Please run /login".into()],
                1,
                ["claude_auth_required".into(), none.clone(), none.clone(), none.clone(), none.clone()],
            ),
            (
                "killed after a word about limits",
                vec!["usage limit reached".into()],
                137,
                nothing(none.clone()),
            ),
            ("garbage", vec!["\u{1}\u{fffd}{{{".into()], 0, nothing(none.clone())),
        ];
        assert!(endings.len() >= 27);
        for (name, lines, exit_code, expected) in endings {
            let lines: Vec<&str> = std::iter::once(INIT).chain(lines.iter().map(String::as_str)).collect();
            let run = settled(&lines, Some(exit_code), failed_job());
            assert_eq!(verdict(run), expected, "{name}");
        }
    }

    #[test]
    fn session_that_the_api_refuses_is_forgotten() {
        let image = r#"{"type":"result","is_error":true,"api_error_status":400,"result":"API Error: 400 Could not process image"}"#;
        let run = settled(&[INIT, SAYS, image], Some(1), failed_job());
        let facts = CauseFacts::of(&run);
        let outcome = choose(run);
        assert_eq!(facts.cause(&outcome), Some(Cause::SessionBroken));
        let log = "[paperclip] Claude session cannot be resumed any more; clearing for next run.";
        assert_eq!(outcome.logs, [LogLine { stream: StdStream::Stdout, text: log.into() }]);
        let result = outcome.to_json(NOW);
        assert_eq!((result.get("sessionId"), &result["clearSession"]), (None, &true.into()));
        assert_eq!(result["usage"]["outputTokens"], 5, "what it used all the same");
    }

    #[test]
    fn success_before_the_runtime_lost_the_container_counts() {
        let end = |code, reason: &str| {
            let mut run = settled(&[INIT, SUCCESS], Some(code), failed_job());
            run.container =
                run.container.map(|state| TerminatedState { reason: Some(reason.into()), ..state });
            run.ended_by = Some(Cause::ContainerStatusUnknown);
            let outcome = classify(run);
            (outcome.error_message().is_none(), outcome.logs.len())
        };
        assert_eq!(end(255, "Unknown"), (true, 1), "how it ended is not known");
        assert_eq!(end(255, "Error"), (false, 0));
    }

    fn on_volume(mut run: Settled) -> Settled {
        run.account.home_is_claimed = true;
        run
    }

    #[test]
    fn run_that_was_ended_reports_what_it_used() {
        let says =
            r#"{"type":"assistant","message":{"id":"n","usage":{"input_tokens":7,"output_tokens":5}}}"#;
        let cancel = JobEnd::Cancelled { acknowledged: true };
        let late = JobEnd::Failed { reason: Some("DeadlineExceeded".into()) };
        for (end, code) in
            [(cancel.clone(), "cancelled"), (late, "timeout"), (failed_job(), "claude_truncated")]
        {
            let result =
                classify(on_volume(settled(&[INIT, SUCCESS, INIT, says], Some(137), end))).to_json(NOW);
            assert_eq!(result["errorCode"], code);
            assert_eq!(
                (&result["sessionId"], &result["sessionDisplayId"]),
                (&SESSION.into(), &SESSION.into())
            );
            assert_eq!(result["sessionParams"], json!({"sessionId": SESSION}));
            assert_eq!(result["model"], "claude-x");
            let usage = json!({"inputTokens": 107, "cachedInputTokens": 10, "outputTokens": 55});
            assert_eq!((&result["usage"], &result["usageBasis"]), (&usage, &"per_run".into()), "{code}");
            assert_eq!(result["costUsd"], 0.25, "what the CLI has said of it");
            // The result of the turn before.
            let earlier = &result["resultJson"]["result"];
            assert_eq!(earlier == " done ", code != "claude_truncated", "{result}");
        }
        let result = classify(on_volume(settled(&[INIT], None, cancel))).to_json(NOW);
        assert_eq!((result.get("usage"), result.get("costUsd")), (None, None), "not known");
        assert_eq!(result["sessionId"], SESSION);
        // A session that is gone with its pod is not one to resume.
        let result = classify(settled(&[INIT], Some(137), failed_job())).to_json(NOW);
        assert_eq!(result.get("sessionId"), None);
    }

    #[test]
    fn session_is_called_preserved_only_where_it_is() {
        let preserved = |lines: &[&str], claimed: bool, resumed: &str| {
            let mut run = settled(lines, None, JobEnd::Cancelled { acknowledged: true });
            run.account.home_is_claimed = claimed;
            run.current_session_id = resumed.into();
            let result = classify(run).to_json(NOW);
            assert_eq!(result["resultJson"]["executionCancellation"], json!({"state": "acknowledged"}));
            assert_eq!(result["resultJson"]["conversationContinuation"], "continue_conversation_v1");
            result["executionRecovery"]["sessionPreserved"] == true
        };
        assert!(preserved(&[INIT, SAYS], true, ""));
        assert!(!preserved(&[INIT, SAYS], false, ""), "it was in the pod");
        assert!(!preserved(&["text"], true, ""), "it was not named");
        assert!(preserved(&["text"], true, SESSION), "it was there before");
        assert!(!preserved(&["text"], false, SESSION), "it was in the pod");
        assert!(preserved(&[], false, ""), "the CLI has printed nothing");
        let run = settled(&[INIT], None, JobEnd::Cancelled { acknowledged: false });
        assert_eq!(classify(run).to_json(NOW).get("executionRecovery"), None);
    }

    #[test]
    fn keys_that_the_host_acts_on_are_never_those_of_the_output() {
        let mut event: Value = serde_json::from_str(SUCCESS).unwrap();
        for key in super::super::RESERVED {
            event[key] = "hostile".into();
        }
        for exit_code in [0, 1] {
            let run = settled(&[INIT, &event.to_string()], Some(exit_code), failed_job());
            let result = classify(run).to_json(NOW)["resultJson"].take();
            assert!(!result.to_string().contains("hostile"), "{result}");
            assert_eq!(result["result"], " done ", "what is the CLI's stays");
        }
    }

    #[test]
    fn credential_that_is_refused_is_named() {
        let job = json!({"spec": {"template": {"spec": {"containers": [{"name": "claude", "env": [
            {"name": "ANTHROPIC_API_KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}]}]}}}});
        let account = Account::of(&serde_json::from_value(job).unwrap());
        let refused = r#"{"type":"result","is_error":true,"api_error_status":401,"result":"Please log in at https://claude.ai/login"}"#;
        let printed = "Please run /login: https://claude.ai/login";
        for line in [refused, printed] {
            let mut run = settled(&[line], Some(1), failed_job());
            run.account = account.clone();
            let result = classify(run).to_json(NOW);
            let message = result["errorMessage"].as_str().unwrap();
            let source = "; the credential is key k of Secret keys (variable ANTHROPIC_API_KEY)";
            assert!(message.ends_with(source), "{message}");
            assert_eq!(result["errorMeta"], json!({"loginUrl": "https://claude.ai/login"}));
        }
    }

    #[test]
    fn kill_at_the_memory_limit_names_the_limit() {
        let job = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "claude", "resources": {"limits": {"memory": "4Gi"}}}]}}}});
        for lines in [&[INIT, SAYS][..], &[INIT], &[INIT, SUCCESS]] {
            let mut run = settled(lines, Some(137), failed_job());
            run.account = Account::of(&serde_json::from_value(job.clone()).unwrap());
            run.container =
                run.container.map(|state| TerminatedState { reason: Some("OOMKilled".into()), ..state });
            let message = classify(run).error_message().unwrap().to_owned();
            assert!(message.ends_with("; the container's memory limit is 4Gi"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn failure_never_holds_the_task(
            picks in proptest::collection::vec(0..9usize, 0..6), exit_code in any::<Option<i32>>(), end in 0..8usize,
            text in "\\PC{0,20}", timed_out in any::<bool>(),
        ) {
            let ends = [JobEnd::Complete, failed_job(), gone(), JobEnd::Unconfirmed, JobEnd::Hung,
                JobEnd::Unreachable { seconds: 60, error: String::new() },
                JobEnd::Cancelled { acknowledged: true },
                JobEnd::Lost { node: None, overdue: 1, with_node: true }];
            let refusal = r#"{"type":"result","stop_reason":"refusal"}"#;
            let failed = r#"{"type":"result","is_error":true,"api_error_status":529}"#;
            let rejected = r#"{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":1e300}}"#;
            let lines = [INIT, SUCCESS, SAYS, EMPTY, UNKNOWN, refusal, failed, rejected, &text];
            let lines: Vec<&str> = picks.iter().map(|at| lines[*at]).collect();
            let mut run = settled(&lines, exit_code, ends[end].clone());
            run.timed_out = timed_out;
            let result = classify(run).to_json(NOW);
            let continues = result["resultJson"]["conversationContinuation"] == "continue_conversation_v1";
            prop_assert_eq!(continues, result["errorMessage"].is_string(), "{}", result);
            prop_assert!(!result["timedOut"].as_bool().unwrap() || continues);
        }
    }

    proptest! {
        #[test]
        fn run_without_a_result_always_has_a_message(
            lines in proptest::collection::vec("\\PC{0,20}", 0..4), exit_code in any::<Option<i32>>(), end in 0..5usize,
        ) {
            let ends = [JobEnd::Complete, failed_job(), gone(), JobEnd::Unconfirmed,
                JobEnd::Unreachable { seconds: 60, error: String::new() }];
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let outcome = classify(settled(&lines, exit_code, ends[end].clone()));
            prop_assert!(outcome.error_message().is_some_and(|message| !message.is_empty()));
            prop_assert!(outcome.to_json(NOW)["errorMessage"].is_string());
        }
    }
}
