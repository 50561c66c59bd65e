//! The helpers around the CLI's output that are exported to JavaScript.

use serde::Serialize;
use serde_json::Value;

use super::tally::{Tally, Usage};
use crate::js_semantics;

/// What `parseClaudeStreamJson` returns.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParsedStream {
    /// The last non-empty session id.
    pub session_id: Option<String>,
    /// The model of the init event, or empty.
    pub model: String,
    /// Cost in US dollars, of the result event.
    #[serde(serialize_with = "optional_number")]
    pub cost_usd: Option<f64>,
    /// Tokens of the result event.
    pub usage: Option<Usage>,
    /// The result's text, else all assistant texts; trimmed.
    pub summary: String,
    /// The last result event.
    pub result_json: Option<Value>,
    /// The model answered with nothing, and no result came.
    pub llm_api_empty_response: bool,
    /// The model answered, and no result came.
    pub truncated_mid_stream: bool,
}

fn optional_number<S: serde::Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(js_semantics::number_value).serialize(serializer)
}

/// Reads the CLI's whole output. Lines that are no events are skipped.
pub fn parse_claude_stream_json(stdout: &str) -> ParsedStream {
    let mut tally = Tally::over_text();
    // A line is trimmed when it is read, so the `\r` of `\r\n` needs no care.
    stdout.split('\n').for_each(|line| tally.text(line));
    let captured = tally.finish();
    ParsedStream {
        cost_usd: captured.cost_usd(),
        usage: captured.usage(),
        summary: captured.summary().to_owned(),
        session_id: captured.session_id,
        model: captured.init_model.unwrap_or_default(),
        result_json: captured.result,
        llm_api_empty_response: captured.llm_api_empty,
        truncated_mid_stream: captured.truncated,
    }
}

/// The error messages of a result event: its strings, trimmed, without blank ones; of an object `message`,
/// else `error`, else `code`, else the object as JSON.
fn error_messages(parsed: &Value) -> impl Iterator<Item = String> + '_ {
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
pub fn describe_claude_failure(parsed: &Value) -> Option<String> {
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

/// Whether the run ended because it had used up its turns.
pub fn is_claude_max_turns_result(parsed: Option<&Value>) -> bool {
    parsed.is_some_and(|parsed| {
        trimmed(parsed, "subtype").eq_ignore_ascii_case("error_max_turns")
            || trimmed(parsed, "stop_reason").eq_ignore_ascii_case("max_turns")
            || contains_words(trimmed(parsed, "result"), &["max", "turn"])
            || contains_words(trimmed(parsed, "result"), &["maximum", "turn"])
    })
}

/// Whether the session that was to be resumed does not exist.
pub fn is_claude_unknown_session_error(parsed: &Value) -> bool {
    let unknown = |text: &str| {
        let text = text.to_ascii_lowercase();
        text.contains("no conversation found with session id")
            || text.contains("unknown session")
            // "session … not found" with anything but a line end between.
            || text.split(['\n', '\r', '\u{2028}', '\u{2029}']).any(|line| {
                line.split_once("session ").is_some_and(|(_, after)| after.contains(" not found"))
            })
    };
    unknown(trimmed(parsed, "result"))
        || error_messages(parsed).any(|message| unknown(js_semantics::trim(&message)))
}

/// The address to log in at: the first one in the text that names claude, anthropic or auth, else the first.
pub fn extract_claude_login_url(text: &str) -> Option<String> {
    let all = urls(text);
    let login = |url: &&str| ["claude", "anthropic", "auth"].iter().any(|word| url.contains(word));
    all.iter().copied().find(login).or(all.first().copied()).map(str::to_owned)
}

/// All `http(s)` addresses: the scheme and a run of at least two characters that end no address, the last of
/// which is neither `.` nor `:`.
fn urls(text: &str) -> Vec<&str> {
    let ends = |c: char| {
        js_semantics::is_space(c)
            || matches!(
                c,
                '\'' | '"' | '`' | '<' | '>' | '(' | ')' | '[' | ']' | '{' | '}' | ';' | ',' | '!' | '?'
            )
    };
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(colon) = memchr::memmem::find(&text.as_bytes()[from..], b"://") {
        let colon = from + colon;
        let after = colon + 3;
        from = after;
        // An `https` that ends at the colon; what was matched before is not matched again.
        let Some(start) = ["https", "http"].iter().find_map(|scheme| {
            let start = colon.checked_sub(scheme.len())?;
            text.get(start..colon)?.eq_ignore_ascii_case(scheme).then_some(start)
        }) else {
            continue;
        };
        let rest = &text[after..];
        let run = &rest[..rest.find(ends).unwrap_or(rest.len())];
        let address = run.trim_end_matches(['.', ':']);
        // One character in front of the last is asked for, whatever it is.
        if address.chars().nth(1).is_none() {
            continue;
        }
        from = after + address.len();
        found.push(&text[start..from]);
    }
    found
}

/// What `detectClaudeLoginRequired` returns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoginCheck {
    /// Some line asks for a login.
    pub requires_login: bool,
    /// An address found in the output, whether a login is asked for or not.
    pub login_url: Option<String>,
}

/// Whether the CLI asks for a login, by what its result event and its output say.
pub fn detect_claude_login_required(parsed: Option<&Value>, stdout: &str, stderr: &str) -> LoginCheck {
    const PHRASES: [&[&str]; 8] = [
        &["not", "logged", "in"],
        &["please", "log", "in"],
        &["please", "run", "claude", "login"],
        &["please", "run", "`claude", "login"],
        &["login", "required"],
        &["requires", "login"],
        &["unauthorized"],
        &["authentication", "required"],
    ];
    let asks = |text: &str| {
        text.split('\n').any(|line| {
            let line = js_semantics::trim(line);
            PHRASES.iter().any(|words| contains_words(line, words))
        })
    };
    let requires_login = parsed.is_some_and(|parsed| {
        asks(js_semantics::string_field(parsed, "result").unwrap_or_default())
            || error_messages(parsed).any(|text| asks(&text))
    }) || asks(stdout)
        || asks(stderr);
    let login_url = extract_claude_login_url(&format!("{stdout}\n{stderr}"));
    LoginCheck { requires_login, login_url }
}

/// Whether the words stand in the text, in any case of ASCII letters, with white space (at least one
/// character) between them and anything around them.
fn contains_words(text: &str, words: &[&str]) -> bool {
    let Some((first, others)) = words.split_first() else {
        return true;
    };
    let Some(initial) = first.bytes().next() else {
        return false;
    };
    let bytes = text.as_bytes();
    memchr::memchr2_iter(initial, initial.to_ascii_uppercase(), bytes).any(|start| {
        let Some(mut rest) = strip_word(&text[start..], first) else {
            return false;
        };
        others.iter().all(|word| {
            let next = rest.trim_start_matches(js_semantics::is_space);
            match strip_word(next, word) {
                Some(after) if next.len() < rest.len() => {
                    rest = after;
                    true
                }
                _ => false,
            }
        })
    })
}

/// The text after the word it begins with, in any case of ASCII letters.
fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(word.len())?;
    head.eq_ignore_ascii_case(word).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parse(events: &[Value]) -> ParsedStream {
        let text: Vec<String> = events.iter().map(Value::to_string).collect();
        parse_claude_stream_json(&text.join("\n"))
    }

    fn init() -> Value {
        json!({"type": "system", "subtype": "init", "session_id": "s-1", "model": "claude-x"})
    }

    fn says(text: &str) -> Value {
        json!({"type": "assistant", "session_id": "s-1", "message": {"content": [{"type": "text", "text": text}]}})
    }

    fn answer(stop_reason: Value, message_tokens: Option<i64>, usage_tokens: Option<i64>) -> Value {
        let mut message = json!({"stop_reason": stop_reason, "content": []});
        if let Some(tokens) = message_tokens {
            message["output_tokens"] = tokens.into();
        }
        if let Some(tokens) = usage_tokens {
            message["usage"] = json!({"output_tokens": tokens});
        }
        json!({"type": "assistant", "message": message})
    }

    #[test]
    fn output_without_events_gives_nothing() {
        let nothing = ParsedStream::default();
        assert_eq!(parse_claude_stream_json(""), nothing);
        assert_eq!(parse_claude_stream_json("starting\r\n\r\nnull\n0\nfalse\n[]\n\"\"\ndone"), nothing);
        assert_eq!(
            serde_json::to_value(&nothing).unwrap(),
            json!({
                "sessionId": null, "model": "", "costUsd": null, "usage": null, "summary": "", "resultJson": null,
                "llmApiEmptyResponse": false, "truncatedMidStream": false
            })
        );
    }

    #[test]
    fn the_init_event_gives_session_and_model() {
        let parsed = parse(&[init()]);
        assert_eq!((parsed.session_id.as_deref(), &parsed.model[..]), (Some("s-1"), "claude-x"));
    }

    #[test]
    fn texts_are_joined_by_a_blank_line() {
        let parsed = parse(&[init(), says("a  b"), says("c")]);
        assert_eq!(parsed.summary, "a  b\n\nc");
        assert_eq!(parse(&[says("once"), says("once")]).summary, "once");
        let text = format!("noise\n{}\nmore noise", says("heard"));
        assert_eq!(parse_claude_stream_json(&text).summary, "heard");
    }

    #[test]
    fn thinking_and_tools_are_no_summary() {
        let event = |block: Value| json!({"type": "assistant", "message": {"content": [block]}});
        let parsed = parse(&[
            event(json!({"type": "thinking", "thinking": "hm", "text": "hm"})),
            event(json!({"type": "tool_use", "id": "t", "name": "Bash", "input": {}})),
        ]);
        assert_eq!((parsed.summary.as_str(), parsed.result_json), ("", None));
    }

    #[test]
    fn the_result_gives_session_cost_and_tokens() {
        let result = json!({
            "type": "result", "session_id": "s-2", "result": " fine ", "total_cost_usd": 0.5,
            "usage": {"input_tokens": 100, "cache_read_input_tokens": 10, "output_tokens": 50}
        });
        let parsed = parse(&[init(), says("x"), result.clone()]);
        assert_eq!(
            serde_json::to_value(parsed).unwrap(),
            json!({
                "sessionId": "s-2", "model": "claude-x", "costUsd": 0.5,
                "usage": {"inputTokens": 100, "cachedInputTokens": 10, "outputTokens": 50}, "summary": "fine",
                "resultJson": result, "llmApiEmptyResponse": false, "truncatedMidStream": false
            })
        );
        for cost in [Value::Null, json!("1"), json!([])] {
            assert_eq!(parse(&[json!({"type": "result", "total_cost_usd": cost})]).cost_usd, None);
        }
    }

    #[test]
    fn flags_of_runs_without_a_result() {
        let stop = || json!("end_turn");
        for (events, empty, truncated) in [
            (vec![answer(Value::Null, None, Some(0))], true, false),
            (vec![answer(Value::Null, Some(0), None)], true, false),
            (vec![answer(stop(), None, Some(0))], false, false),
            (vec![answer(Value::Null, None, Some(7))], false, true),
            (vec![answer(Value::Null, None, None)], false, false),
            (vec![answer(Value::Null, None, Some(0)), json!({"type": "result"})], false, false),
            (vec![answer(stop(), None, Some(7)), json!({"type": "result"})], false, false),
            (vec![json!({"type": "result", "result": "x"})], false, false),
        ] {
            let parsed = parse(&events);
            assert_eq!(
                (parsed.llm_api_empty_response, parsed.truncated_mid_stream),
                (empty, truncated),
                "{events:?}"
            );
        }
    }

    #[test]
    fn addresses() {
        for (text, url) in [
            ("nothing to see", None),
            ("http:// and https://a", None),
            ("https://.. x", None),
            ("go to https://console.anthropic.com/login/.", Some("https://console.anthropic.com/login/")),
            ("(see https://claude.ai/x?y=1)", Some("https://claude.ai/x")),
            ("see https://example.org/a, then", Some("https://example.org/a")),
            ("https://example.org/a https://example.org/auth", Some("https://example.org/auth")),
            ("https://example.org/AUTH http://b.example", Some("https://example.org/AUTH")),
            ("HTTPS://Example.org:", Some("HTTPS://Example.org")),
            ("xhttp://ab", Some("http://ab")),
            ("xttps://ab", None),
            ("http://http://ab", Some("http://http://ab")),
            ("http://:a", Some("http://:a")),
            ("http://é", None),
            ("http://éé…", Some("http://éé…")),
            ("http://a://bc.http://de", Some("http://a://bc.http://de")),
        ] {
            assert_eq!(extract_claude_login_url(text).as_deref(), url, "{text}");
        }
    }

    #[test]
    fn asking_for_a_login() {
        for phrase in [
            "Not  logged\tin",
            "please log in",
            "Please run `claude login`",
            "please run claude login now",
            "LOGIN REQUIRED",
            "this requires login",
            "401 Unauthorized",
            "authentication\u{a0}required",
        ] {
            let result = json!({"result": format!("first line\nError: {phrase}.")});
            let errors = json!({"errors": [{"message": phrase}]});
            assert!(detect_claude_login_required(Some(&result), "", "").requires_login, "{phrase}");
            assert!(detect_claude_login_required(Some(&errors), "", "").requires_login, "{phrase}");
            assert!(
                detect_claude_login_required(None, &format!("a\r\n{phrase}"), "").requires_login,
                "{phrase}"
            );
            assert!(detect_claude_login_required(None, "", phrase).requires_login, "{phrase}");
        }
        for phrase in
            ["notlogged in", "not logged\nin", "please login", "please run ``claude login", "authentication"]
        {
            let check = detect_claude_login_required(Some(&json!({"result": phrase})), "fine", "");
            assert_eq!(check, LoginCheck::default(), "{phrase}");
        }
        for (stdout, stderr) in [("at https://claude.ai/l", ""), ("", "at https://claude.ai/l")] {
            let check = detect_claude_login_required(None, stdout, stderr);
            assert_eq!(
                serde_json::to_value(check).unwrap(),
                json!({"requiresLogin": false, "loginUrl": "https://claude.ai/l"})
            );
        }
        let check = detect_claude_login_required(None, "Please log in: https://claude.ai/l", "");
        assert_eq!((check.requires_login, check.login_url.as_deref()), (true, Some("https://claude.ai/l")));
    }

    #[test]
    fn failures_in_one_line() {
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
    fn used_up_turns() {
        assert!(!is_claude_max_turns_result(None));
        for (parsed, expected) in [
            (json!(null), false),
            (json!({"subtype": " Error_Max_Turns "}), true),
            (json!({"stop_reason": "MAX_TURNS"}), true),
            (json!({"stop_reason": "end_turn"}), false),
            (json!({"result": "Reached max turns"}), true),
            (json!({"result": "the Maximum \n Turn was taken"}), true),
            (json!({"result": "Reached maximum number of turns (1)"}), false),
            (json!({"result": "maxturns"}), false),
            (json!({"result": "max max turns"}), true),
            (json!({"result": "all done"}), false),
        ] {
            assert_eq!(is_claude_max_turns_result(Some(&parsed)), expected, "{parsed}");
        }
    }

    #[test]
    fn sessions_that_do_not_exist() {
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

    proptest! {
        #[test]
        fn any_text_is_parsed_without_panic(text in "(\\PC|[\n\r\\\\\"{}:]){0,200}") {
            let parsed = parse_claude_stream_json(&text);
            prop_assert!(parsed.result_json.is_none());
            let check = detect_claude_login_required(None, &text, &text);
            prop_assert_eq!(check.login_url, extract_claude_login_url(&text));
        }

        #[test]
        fn any_address_found_is_in_the_text(text in "[hHtTpPsS:/.a é(]{0,40}") {
            if let Some(url) = extract_claude_login_url(&text) {
                prop_assert!(text.contains(&url) && url.len() > 8);
            }
        }
    }
}
