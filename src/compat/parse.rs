//! The CLI's whole output, read from a text in memory.

use serde::Serialize;
use serde_json::Value;

use super::login::contains_words;
use crate::claude::{Captured, OutputFacts, Tally, Usage, no_result_error};
use crate::js_semantics;

/// What `parseClaudeStreamJson` returns.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ParsedStream {
    /// The last non-empty session id.
    pub(super) session_id: Option<String>,
    /// The model of the init event, or empty.
    pub(super) model: String,
    /// Cost in US dollars, of the result event.
    #[serde(serialize_with = "optional_number")]
    pub(super) cost_usd: Option<f64>,
    /// Tokens of the result event.
    pub(super) usage: Option<Usage>,
    /// The result's text, else all assistant texts; trimmed.
    pub(super) summary: String,
    /// The last result event.
    pub(super) result_json: Option<Value>,
    /// The model answered with nothing, and no result came.
    pub(super) llm_api_empty_response: bool,
    /// The model answered, and no result came.
    pub(super) truncated_mid_stream: bool,
}

fn optional_number<S: serde::Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(js_semantics::number_value).serialize(serializer)
}

/// Reads the CLI's whole output. Lines that are not events are skipped.
pub(super) fn parse_claude_stream_json(stdout: &str) -> ParsedStream {
    let captured = capture(stdout);
    let has_result = captured.result.is_some();
    ParsedStream {
        cost_usd: captured.cost_usd(),
        usage: captured.result.as_ref().map(usage_of),
        summary: captured.summary().to_owned(),
        session_id: captured.session_id,
        model: captured.init_model.unwrap_or_default(),
        result_json: captured.result,
        llm_api_empty_response: captured.llm_api_empty && !has_result,
        truncated_mid_stream: captured.truncated && !has_result,
    }
}

/// The tokens that 0.1.49 reads: those of the main chain of messages, without those that were written to the cache.
fn usage_of(result: &Value) -> Usage {
    let tokens = |key| result.get("usage").and_then(|usage| usage.get(key)?.as_f64()).unwrap_or(0.0);
    Usage {
        input_tokens: tokens("input_tokens"),
        cached_input_tokens: tokens("cache_read_input_tokens"),
        output_tokens: tokens("output_tokens"),
    }
}

/// The error of a run without a result whose whole output is at hand. `pod_cause` is what the pod says about the end of
/// the container, see [`no_result_error`].
pub(super) fn build_partial_run_error(
    exit_code: Option<i32>,
    model: &str,
    stdout: &str,
    pod_cause: &str,
) -> String {
    let captured = capture(stdout);
    no_result_error(exit_code, model, OutputFacts::of(&captured, model), pod_cause)
}

/// Whether a result says that the run reached its limit of turns, as 0.1.49 found out: also by the words of the agent. A run
/// goes by the fields of the result alone.
pub(super) fn is_claude_max_turns_result(parsed: Option<&Value>) -> bool {
    parsed.is_some_and(|parsed| {
        let text = |key| js_semantics::string_field(parsed, key).map_or("", js_semantics::trim);
        text("subtype").eq_ignore_ascii_case("error_max_turns")
            || text("stop_reason").eq_ignore_ascii_case("max_turns")
            || contains_words(text("result"), &["max", "turn"])
            || contains_words(text("result"), &["maximum", "turn"])
    })
}

fn capture(stdout: &str) -> Captured {
    let mut tally = Tally::over_text();
    // A line is trimmed when it is read, so the `\r` of `\r\n` needs no care.
    stdout.split('\n').for_each(|line| tally.text(line));
    tally.finish()
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
    fn partial_run_error_equals_the_error_of_a_run() {
        const INIT: &str = r#"{"type":"system","subtype":"init","session_id":"s","model":"claude-x-1"}"#;
        const RATE: &str = r#"{"type":"rate_limit_event","status":"limited"}"#;
        const USER: &str = r#"{"type":"user","message":{"content":[]}}"#;
        for lines in [&[INIT][..], &[INIT, USER, "words"], &[], &[""], &[RATE, INIT]] {
            let mut tally = Tally::new();
            lines.iter().for_each(|line| tally.text(line));
            let captured = tally.finish();
            let facts = OutputFacts::of(&captured, "claude-x-1");
            for code in [None, Some(0), Some(3)] {
                let text = build_partial_run_error(code, "claude-x-1", &lines.join("\n"), " [pod]");
                assert_eq!(no_result_error(code, "claude-x-1", facts, " [pod]"), text);
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_panic(text in "(\\PC|[\n\r\\\\\"{}:]){0,200}") {
            let parsed = parse_claude_stream_json(&text);
            prop_assert!(parsed.result_json.is_none());
        }
    }
}
