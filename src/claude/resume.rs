//! Whether a CLI that was to resume a session did anything but fail at it.

use serde_json::Value;

/// Whether a result event is that of a CLI for which the model wrote nothing: its turns count nothing else.
pub(crate) fn did_no_work(result: &Value) -> bool {
    let tokens = |usage: &Value, key: &str| usage.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    let wrote = |usage: Option<&Value>, key: &str| usage.is_some_and(|usage| tokens(usage, key) > 0.0);
    let models = result.get("modelUsage").and_then(Value::as_object);
    let turns = result.get("num_turns").and_then(Value::as_f64).unwrap_or(0.0);
    turns <= 1.0
        && !wrote(result.get("usage"), "output_tokens")
        && !models.into_iter().flatten().any(|(_, usage)| wrote(Some(usage), "outputTokens"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn result_without_output_of_the_model_did_no_work() {
        for (result, expected) in [
            (json!({}), true),
            (
                json!({"num_turns": 1, "usage": {"output_tokens": 0}, "modelUsage": {"m": {"outputTokens": 0}}}),
                true,
            ),
            (json!({"num_turns": 2, "usage": {"output_tokens": 0}}), false),
            (json!({"num_turns": 1, "usage": {"output_tokens": 3}}), false),
            (json!({"num_turns": 1, "usage": {}, "modelUsage": {"m": {"outputTokens": 3}}}), false),
        ] {
            assert_eq!(did_no_work(&result), expected, "{result}");
        }
        let recorded = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tools/simulator/fixtures/claude-cli-2.1.197/unknown-session.jsonl"
        ));
        assert!(did_no_work(&serde_json::from_str(recorded).expect("one event")));
    }
}
