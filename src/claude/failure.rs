//! How the CLI says that a run failed, and why.
//!
//! The structured fields of its events come first. Its texts are read only where the result itself says that it is a
//! failure, or where the CLI printed no result: an agent may write about limits and logins as it likes.
//! `docs/contract.md`, "Parsing the CLI's output".

use serde_json::Value;

use crate::js_semantics;

/// The error messages of a result event: its strings, trimmed, without blank ones; of an object `message`,
/// else `error`, else `code`, else the object as JSON.
pub(crate) fn error_messages(parsed: &Value) -> impl Iterator<Item = String> + '_ {
    let errors = parsed.get("errors").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    errors.iter().filter_map(|error| match error {
        Value::String(text) => Some(js_semantics::trim(text).to_owned()).filter(|text| !text.is_empty()),
        Value::Object(_) => {
            let named =
                ["message", "error", "code"].iter().find_map(|key| js_semantics::string_field(error, key));
            Some(named.map_or_else(|| js_semantics::stringify(error), str::to_owned))
        }
        _ => None,
    })
}

/// A string field, trimmed; empty when it is missing.
fn trimmed<'a>(parsed: &'a Value, key: &str) -> &'a str {
    js_semantics::string_field(parsed, key).map_or("", js_semantics::trim)
}

/// One line about why a result event is a failure; `None` when it gives neither subtype nor text.
pub(crate) fn describe_claude_failure(parsed: &Value) -> Option<String> {
    let result = trimmed(parsed, "result");
    let detail = if result.is_empty() { error_messages(parsed).next() } else { Some(result.to_owned()) };
    let subtype = js_semantics::string_field(parsed, "subtype");
    if subtype.is_none() && detail.is_none() {
        return None;
    }
    let mut text = String::from("Claude run failed");
    if let Some(subtype) = subtype {
        text.push_str(": subtype=");
        text.push_str(subtype);
    }
    if let Some(detail) = detail {
        text.push_str(": ");
        text.push_str(&detail);
    }
    Some(text)
}

/// Whether a result event says that the run failed. Some versions of the CLI print `is_error: false` beside a subtype such
/// as `error_max_turns`, and exit with 0.
pub(crate) fn is_error_result(parsed: &Value) -> bool {
    let subtype = trimmed(parsed, "subtype");
    let names_error = subtype.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("error"));
    names_error || parsed.get("is_error").and_then(Value::as_bool) == Some(true)
}

/// Whether the CLI does not know the session that it was asked to resume.
pub(crate) fn is_claude_unknown_session_error(parsed: &Value) -> bool {
    let unknown = |text: &str| {
        let text = text.to_ascii_lowercase();
        text.contains("no conversation found with session id")
            || text.contains("unknown session")
            // "session … not found" on one line.
            || text.split(['\n', '\r', '\u{2028}', '\u{2029}']).any(|line| {
                line.split_once("session ").is_some_and(|(_, after)| after.contains(" not found"))
            })
    };
    unknown(trimmed(parsed, "result"))
        || error_messages(parsed).any(|message| unknown(js_semantics::trim(&message)))
}

/// Why a session cannot be resumed, now or ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BrokenSession {
    /// The CLI does not know it, or its id is not one.
    Unknown,
    /// The API refuses what the session's file holds: ids of messages or tool calls that do not fit together.
    Poisoned,
    /// The API cannot process an image in it.
    Image,
}

/// Whether a failed result is about the session that was resumed, and not about what the run asked for.
pub(crate) fn broken_session(parsed: &Value) -> Option<BrokenSession> {
    if !is_error_result(parsed) {
        return None;
    }
    let mut texts = failure_texts(parsed);
    // What the API refused has its status, where the CLI gives one.
    let may_be_refused = status_of(parsed).is_none_or(|status| status == 400);
    if is_claude_unknown_session_error(parsed)
        || texts.iter().any(|text| text.contains("--resume requires a valid session"))
    {
        return Some(BrokenSession::Unknown);
    }
    texts.retain(|_| may_be_refused);
    let says = |words: &[&str]| texts.iter().any(|text| words.iter().all(|word| text.contains(word)));
    if says(&["could not process image"]) {
        return Some(BrokenSession::Image);
    }
    let is_poisoned = says(&["previous_message_id", "msg_"])
        || says(&["tool_use", "without", "tool_result"])
        || says(&["unexpected", "tool_use_id", "tool_result"])
        || says(&["tool_use", "ids must be unique"]);
    is_poisoned.then_some(BrokenSession::Poisoned)
}

/// Why a run failed, as far as its host can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FailureKind {
    /// It took as many turns as it may.
    MaxTurns,
    /// The account has used what it may for now.
    UsageLimit,
    /// The API is overloaded, limits the rate, failed, or was not reached.
    Transient,
    /// The API does not accept the credential, or there is none.
    AuthRequired,
    /// The model does not exist, or the account may not use it.
    ModelNotFound,
    /// The account cannot be charged.
    Billing,
    /// The model refused to answer.
    Refusal,
}

/// What of a run's output says why it failed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FailureSigns<'a> {
    /// The result event, where it is that of the run.
    pub(crate) result: Option<&'a Value>,
    /// `error` of the last `assistant` event.
    pub(crate) error: Option<&'a str>,
    /// The last `rate_limit_event` said that the account's limit is reached.
    pub(crate) rejected: bool,
    /// A line that the CLI printed instead of a result.
    pub(crate) line: Option<&'a str>,
}

/// Why a failed run failed; `None` where nothing says it.
pub(crate) fn failure_kind(signs: FailureSigns<'_>) -> Option<FailureKind> {
    if is_max_turns(signs.result) {
        return Some(FailureKind::MaxTurns);
    }
    if signs.result.is_some_and(is_refusal) {
        return Some(FailureKind::Refusal);
    }
    let texts = match signs.result {
        Some(result) if is_error_result(result) => failure_texts(result),
        Some(_) => Vec::new(),
        None => signs.line.map(lower).into_iter().collect(),
    };
    let is_limit = signs.rejected || texts.iter().any(|text| is_usage_limit(text));
    let by_error = match signs.error.unwrap_or_default() {
        "billing_error" => Some(FailureKind::Billing),
        "authentication_failed" | "oauth_org_not_allowed" => Some(FailureKind::AuthRequired),
        "model_not_found" => Some(FailureKind::ModelNotFound),
        "rate_limit" if is_limit => Some(FailureKind::UsageLimit),
        "rate_limit" | "overloaded" | "server_error" => Some(FailureKind::Transient),
        _ => None,
    };
    let by_status = match signs.result.and_then(status_of).unwrap_or_default() {
        401 | 403 => Some(FailureKind::AuthRequired),
        402 => Some(FailureKind::Billing),
        404 => Some(FailureKind::ModelNotFound),
        429 if is_limit => Some(FailureKind::UsageLimit),
        408 | 429 | 500..=599 => Some(FailureKind::Transient),
        _ => None,
    };
    // The status is the API's own word. An error of 400 stands for requests that will fail the same again.
    if let Some(kind) = by_error.filter(|kind| *kind == FailureKind::Billing).or(by_status).or(by_error) {
        return Some(kind);
    }
    if signs.result.and_then(status_of).is_some() {
        return None;
    }
    if signs.rejected && !texts.is_empty() {
        return Some(FailureKind::UsageLimit);
    }
    texts.iter().find_map(|text| kind_of_text(text))
}

/// Whether a result says that the run took as many turns as it may. Only its fields count: an agent may write about turns.
fn is_max_turns(result: Option<&Value>) -> bool {
    result.is_some_and(|result| {
        let is = |key, word: &str| trimmed(result, key).eq_ignore_ascii_case(word);
        is("subtype", "error_max_turns")
            || is("terminal_reason", "max_turns")
            || is("stop_reason", "max_turns")
    })
}

/// Whether a result says that the model refused. The CLI exits with 0 then.
pub(crate) fn is_refusal(result: &Value) -> bool {
    ["stop_reason", "terminal_reason", "subtype"].iter().any(|key| {
        let word = trimmed(result, key);
        word.eq_ignore_ascii_case("refusal") || word.eq_ignore_ascii_case("model_refusal")
    })
}

/// The status with which the API answered the last request, where that is one of an error.
fn status_of(result: &Value) -> Option<u64> {
    let status = ["api_error_status", "error_status"].iter().find_map(|key| result.get(key)?.as_u64());
    status.filter(|status| (400..600).contains(status))
}

/// What is searched for words: the beginning of a text, in lower case.
fn lower(text: &str) -> String {
    const MOST: usize = 2048;
    text[..text.floor_char_boundary(MOST)].to_ascii_lowercase()
}

/// The texts of a failed result, in lower case.
fn failure_texts(result: &Value) -> Vec<String> {
    let said = Some(trimmed(result, "result")).filter(|text| !text.is_empty()).map(lower);
    said.into_iter().chain(error_messages(result).map(|text| lower(&text))).collect()
}

/// Whether a text of the CLI, in lower case, says that the account has used what it may for now.
fn is_usage_limit(text: &str) -> bool {
    let names_limit = [
        "usage limit",
        "session limit",
        "weekly limit",
        "5-hour limit",
        "5 hour limit",
        "opus limit",
        "sonnet limit",
        "hit your limit",
        "usage cap",
    ];
    let is_reached = ["reached", "hit your", "exceeded", "reset", "you've hit", "you’ve hit"];
    text.contains("out of extra usage")
        || (names_limit.iter().any(|name| text.contains(name))
            && is_reached.iter().any(|word| text.contains(word)))
}

/// What a text of the CLI, in lower case, is about.
fn kind_of_text(text: &str) -> Option<FailureKind> {
    const TABLE: [(FailureKind, &[&str]); 4] = [
        (FailureKind::Billing, &["credit balance is too low"]),
        (
            FailureKind::AuthRequired,
            &[
                "invalid api key",
                "please run /login",
                "please run claude login",
                "please run `claude login`",
                "not logged in",
                "please log in",
                "login required",
                "authentication_error",
                "authentication_failed",
                "failed to authenticate",
                "invalid bearer token",
                "oauth token has expired",
                "oauth token is expired",
                "oauth token revoked",
                "oauth token has been revoked",
                "401 unauthorized",
            ],
        ),
        (
            FailureKind::ModelNotFound,
            &["model_not_found", "model not found", "issue with the selected model", "unknown model"],
        ),
        (
            FailureKind::Transient,
            &[
                "overloaded",
                "rate limit",
                "rate_limit",
                "rate-limit",
                "too many requests",
                "service unavailable",
                "temporarily unavailable",
                "internal server error",
                "bad gateway",
                "gateway timeout",
                "api error: 429",
                "api error: 5",
                "unable to connect to api",
                "connectionrefused",
                "connection refused",
                "connection error",
                "econnrefused",
                "econnreset",
                "etimedout",
                "request timed out",
                "fetch failed",
                "throttlingexception",
            ],
        ),
    ];
    if is_usage_limit(text) {
        return Some(FailureKind::UsageLimit);
    }
    TABLE.iter().find(|(_, words)| words.iter().any(|word| text.contains(word))).map(|(kind, _)| *kind)
}

/// The address to log in at that a failed run's text names: an `https` one of Anthropic. The text may be anybody's, and the
/// host shows the address to people.
pub(crate) fn login_url(text: &str) -> Option<String> {
    const HOSTS: [&str; 3] = ["claude.ai", "claude.com", "anthropic.com"];
    let mut rest = text;
    while let Some(at) = rest.find("https://") {
        rest = &rest[at..];
        let ends = |c: char| {
            js_semantics::is_space(c)
                || c.is_control()
                || matches!(c, '\'' | '"' | '`' | '<' | '>' | '(' | ')' | '[' | ']')
        };
        let end = rest.find(ends).unwrap_or(rest.len());
        let url = rest[..end].trim_end_matches(['.', ',', ';', ':', '!', '?', '}', '{']);
        let host = url["https://".len()..].split(['/', '?', '#']).next().unwrap_or_default();
        let is_theirs = |known: &str| {
            host == known || host.strip_suffix(known).is_some_and(|before| before.ends_with('.'))
        };
        // A name in front of an `@` or a port are not part of the host.
        if HOSTS.into_iter().any(is_theirs)
            && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c))
        {
            return Some(url.to_owned());
        }
        rest = &rest["https://".len()..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn failure_is_described_in_one_line() {
        for (parsed, text) in [
            (json!({}), None),
            (json!({"result": " "}), None),
            (json!({"subtype": "", "errors": [1, null, " ", []]}), None),
            (
                json!({"subtype": "error", "result": " broke "}),
                Some("Claude run failed: subtype=error: broke"),
            ),
            (json!({"errors": [" ", "first", "second"]}), Some("Claude run failed: first")),
            (json!({"errors": [{"error": "e", "code": "c"}]}), Some("Claude run failed: e")),
            (json!({"errors": [{"message": "", "code": "c"}]}), Some("Claude run failed: c")),
            (json!({"errors": [{"n": 1.0}]}), Some(r#"Claude run failed: {"n":1}"#)),
            (json!({"subtype": "error"}), Some("Claude run failed: subtype=error")),
        ] {
            assert_eq!(describe_claude_failure(&parsed).as_deref(), text, "{parsed}");
        }
    }

    #[test]
    fn error_result_is_told_by_flag_or_subtype() {
        for (parsed, expected) in [
            (json!({}), false),
            (json!({"subtype": "success", "is_error": false}), false),
            (json!({"subtype": "success", "is_error": true}), true),
            (json!({"is_error": "true"}), false),
            (json!({"subtype": "error_max_turns", "is_error": false}), true),
            (json!({"subtype": "error"}), true),
            (json!({"subtype": " Error_during_execution"}), true),
            (json!({"subtype": "no error"}), false),
            (json!({"subtype": "erré"}), false),
            (json!({"subtype": 3}), false),
        ] {
            assert_eq!(is_error_result(&parsed), expected, "{parsed}");
        }
    }

    #[test]
    fn unknown_session_error_is_recognised() {
        for (parsed, expected) in [
            (json!({"result": "No conversation found with session ID: 1"}), true),
            (json!({"result": "UNKNOWN SESSION"}), true),
            (json!({"result": "session 12 not found"}), true),
            (json!({"result": "session  not found"}), true),
            (json!({"result": "session not found"}), false),
            (json!({"result": "session 12\n not found"}), false),
            (json!({"result": "my session a, and session b not found"}), true),
            (json!({"errors": [{"message": "unknown session x"}]}), true),
            (json!({"errors": ["something else"]}), false),
            (json!({"result": "rate limited"}), false),
        ] {
            assert_eq!(is_claude_unknown_session_error(&parsed), expected, "{parsed}");
        }
    }

    fn fixture(text: &str) -> Value {
        let result = text.lines().rfind(|line| line.contains(r#""type":"result""#)).unwrap();
        serde_json::from_str(result).unwrap()
    }

    fn kind(result: Value) -> Option<FailureKind> {
        failure_kind(FailureSigns { result: Some(&result), ..FailureSigns::default() })
    }

    #[test]
    fn fields_of_the_result_say_why_it_failed() {
        let status = |status: u64| json!({"subtype": "success", "is_error": true, "api_error_status": status, "result": "x"});
        for (result, expected) in [
            (json!({"subtype": " Error_Max_Turns "}), Some(FailureKind::MaxTurns)),
            (json!({"terminal_reason": "max_turns", "is_error": true}), Some(FailureKind::MaxTurns)),
            (json!({"stop_reason": "MAX_TURNS"}), Some(FailureKind::MaxTurns)),
            (json!({"stop_reason": "refusal"}), Some(FailureKind::Refusal)),
            (json!({"terminal_reason": "model_refusal"}), Some(FailureKind::Refusal)),
            (status(400), None),
            (status(401), Some(FailureKind::AuthRequired)),
            (status(402), Some(FailureKind::Billing)),
            (status(403), Some(FailureKind::AuthRequired)),
            (status(404), Some(FailureKind::ModelNotFound)),
            (status(429), Some(FailureKind::Transient)),
            (status(500), Some(FailureKind::Transient)),
            (status(503), Some(FailureKind::Transient)),
            (status(529), Some(FailureKind::Transient)),
            (json!({"is_error": true, "api_error_status": "401", "result": "x"}), None),
            // The request got no answer, or not that of an error: then the texts say why.
            (
                json!({"is_error": true, "api_error_status": 0, "result": "fetch failed"}),
                Some(FailureKind::Transient),
            ),
            (
                json!({"is_error": true, "api_error_status": 200, "result": "Overloaded"}),
                Some(FailureKind::Transient),
            ),
            (json!({"subtype": "error_max_budget_usd"}), None),
        ] {
            assert_eq!(kind(result.clone()), expected, "{result}");
        }
    }

    #[test]
    fn error_of_the_last_message_says_why_it_failed() {
        let result = json!({"subtype": "success", "is_error": true, "result": "x"});
        for (error, rejected, expected) in [
            ("authentication_failed", false, Some(FailureKind::AuthRequired)),
            ("oauth_org_not_allowed", false, Some(FailureKind::AuthRequired)),
            ("model_not_found", false, Some(FailureKind::ModelNotFound)),
            ("billing_error", false, Some(FailureKind::Billing)),
            ("rate_limit", false, Some(FailureKind::Transient)),
            ("rate_limit", true, Some(FailureKind::UsageLimit)),
            ("overloaded", false, Some(FailureKind::Transient)),
            ("server_error", false, Some(FailureKind::Transient)),
            ("invalid_request", false, None),
            ("", true, Some(FailureKind::UsageLimit)),
        ] {
            let signs = FailureSigns {
                result: Some(&result),
                error: Some(error),
                rejected,
                ..FailureSigns::default()
            };
            assert_eq!(failure_kind(signs), expected, "{error}");
        }
        // The account's balance is behind the API's 400.
        let result =
            json!({"is_error": true, "api_error_status": 400, "result": "Credit balance is too low"});
        let signs =
            FailureSigns { result: Some(&result), error: Some("billing_error"), ..FailureSigns::default() };
        assert_eq!(failure_kind(signs), Some(FailureKind::Billing));
    }

    #[test]
    fn texts_count_only_where_the_result_is_a_failure() {
        for (text, expected) in [
            (
                "Claude usage limit reached. Your limit will reset at 9pm (America/New_York).",
                FailureKind::UsageLimit,
            ),
            ("You've hit your limit · resets 5pm (America/New_York)", FailureKind::UsageLimit),
            ("You’ve hit your session limit · resets 3:30am (UTC)", FailureKind::UsageLimit),
            ("5-hour limit reached ∙ resets 3pm (UTC)", FailureKind::UsageLimit),
            ("You're out of extra usage · resets 5pm (America/New_York)", FailureKind::UsageLimit),
            ("Credit balance is too low", FailureKind::Billing),
            ("Invalid API key · Fix external API key", FailureKind::AuthRequired),
            ("Invalid API key · Please run /login", FailureKind::AuthRequired),
            ("Not logged in · Please run /login", FailureKind::AuthRequired),
            ("OAuth token has expired. Please obtain a new token.", FailureKind::AuthRequired),
            (
                "There's an issue with the selected model (x). It may not exist or you may not have access to it.",
                FailureKind::ModelNotFound,
            ),
            (
                "API Error: 529 {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}",
                FailureKind::Transient,
            ),
            ("API Error: 503 no healthy upstream", FailureKind::Transient),
            ("API Error: Unable to connect to API (ConnectionRefused)", FailureKind::Transient),
        ] {
            let failed = json!({"subtype": "success", "is_error": true, "result": text});
            assert_eq!(kind(failed), Some(expected), "{text}");
            let errors = json!({"subtype": "error_during_execution", "errors": [text]});
            assert_eq!(kind(errors), Some(expected), "{text}");
            let printed = FailureSigns { line: Some(text), ..FailureSigns::default() };
            assert_eq!(failure_kind(printed), Some(expected), "{text}");
            // What an agent wrote.
            assert_eq!(
                kind(json!({"subtype": "success", "is_error": false, "result": text})),
                None,
                "{text}"
            );
            // The API's status has said that it is something else.
            assert_eq!(
                kind(json!({"is_error": true, "api_error_status": 400, "result": text})),
                None,
                "{text}"
            );
        }
        for text in
            ["reached max turns", "Reached maximum number of turns (1)", "all done", "there is no limit"]
        {
            assert_eq!(kind(json!({"is_error": true, "result": text})), None, "{text}");
        }
    }

    #[test]
    fn recorded_failures_are_recognised() {
        macro_rules! recorded {
            ($file:literal) => {
                fixture(include_str!(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/tools/simulator/fixtures/claude-cli-",
                    $file,
                    ".jsonl"
                )))
            };
        }
        for (result, expected, broken) in [
            (recorded!("2.1.197/success"), None, None),
            (recorded!("2.1.197/max-turns"), Some(FailureKind::MaxTurns), None),
            (recorded!("2.1.197/auth"), Some(FailureKind::AuthRequired), None),
            (recorded!("2.1.330/auth"), Some(FailureKind::AuthRequired), None),
            (recorded!("2.1.197/overload"), Some(FailureKind::Transient), None),
            (recorded!("2.1.330/overload"), Some(FailureKind::Transient), None),
            (recorded!("2.1.197/unreachable"), Some(FailureKind::Transient), None),
            (recorded!("2.1.197/unknown-session"), None, Some(BrokenSession::Unknown)),
            (recorded!("2.1.197/bad-session"), None, Some(BrokenSession::Unknown)),
        ] {
            assert_eq!((kind(result.clone()), broken_session(&result)), (expected, broken), "{result}");
        }
    }

    #[test]
    fn broken_session_is_recognised_by_a_failed_result() {
        let poisoned =
            "API Error: 400 diagnostics.previous_message_id: must be a string that starts with `msg_`";
        let unanswered = "API Error: 400 messages.2: `tool_use` ids were found without `tool_result` blocks immediately after: toolu_1";
        let unasked = "API Error: 400 messages.0.content.1: unexpected `tool_use_id` found in `tool_result` blocks: toolu_1";
        for (text, expected) in [
            ("No conversation found with session ID: 1", Some(BrokenSession::Unknown)),
            (poisoned, Some(BrokenSession::Poisoned)),
            (unanswered, Some(BrokenSession::Poisoned)),
            (unasked, Some(BrokenSession::Poisoned)),
            ("API Error: 400 Could not process image", Some(BrokenSession::Image)),
            ("API Error: 400 prompt is too long", None),
        ] {
            for (status, counts) in [(json!(400), true), (Value::Null, true), (json!(529), false)] {
                let result = json!({"is_error": true, "result": text, "api_error_status": status});
                let counts = counts || expected == Some(BrokenSession::Unknown);
                assert_eq!(broken_session(&result), expected.filter(|_| counts), "{result}");
            }
            assert_eq!(
                broken_session(&json!({"subtype": "success", "result": text})),
                None,
                "an agent's words"
            );
        }
    }

    #[test]
    fn only_an_address_of_anthropic_is_one_to_log_in_at() {
        for (text, url) in [
            ("nothing", None),
            ("go to https://claude.ai/login?x=1.", Some("https://claude.ai/login?x=1")),
            ("(https://console.anthropic.com/settings)", Some("https://console.anthropic.com/settings")),
            ("https://evil.example/claude.ai https://claude.com/a", Some("https://claude.com/a")),
            ("https://claude.ai.evil.example/login", None),
            ("https://claude.ai@evil.example/login", None),
            ("https://evilclaude.ai/login", None),
            ("http://claude.ai/login", None),
            ("https://claude.ai:8443/", None),
        ] {
            assert_eq!(login_url(text).as_deref(), url, "{text}");
        }
    }
}
