//! How a result event says that the run failed, and why.
//!
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

/// Whether the run ended because it reached its limit of turns.
pub(crate) fn is_claude_max_turns_result(parsed: Option<&Value>) -> bool {
    parsed.is_some_and(|parsed| {
        trimmed(parsed, "subtype").eq_ignore_ascii_case("error_max_turns")
            || trimmed(parsed, "stop_reason").eq_ignore_ascii_case("max_turns")
            || contains_words(trimmed(parsed, "result"), &["max", "turn"])
            || contains_words(trimmed(parsed, "result"), &["maximum", "turn"])
    })
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

/// Whether the words stand in the text, in any case of ASCII letters, with white space (at least one
/// character) between them and anything around them.
pub(crate) fn contains_words(text: &str, words: &[&str]) -> bool {
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
    fn max_turns_result_is_recognised() {
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
}
