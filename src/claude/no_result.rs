//! The message for a run whose output has no result event.

use super::tally::Captured;

/// What of the output the message depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutputFacts<'a> {
    /// The first line of output that is not an event of the CLI.
    pub(crate) content_line: Option<&'a str>,
    /// The output has more than white space.
    pub(crate) has_output: bool,
    /// The output names the model.
    pub(crate) names_model: bool,
}

impl<'a> OutputFacts<'a> {
    /// The facts of a run.
    pub(crate) fn of(captured: &'a Captured, model: &str) -> Self {
        Self {
            content_line: captured.content_line.as_deref(),
            has_output: captured.nonempty_lines > 0,
            names_model: captured.names_model(model),
        }
    }
}

/// The error of a run without a result. `model` may be empty. `pod_cause` is appended: what the pod says about the end
/// of the container, with a space before it, or nothing.
pub(crate) fn no_result_error(
    exit_code: Option<i32>,
    model: &str,
    facts: OutputFacts<'_>,
    pod_cause: &str,
) -> String {
    if exit_code == Some(0) {
        return "Failed to parse Claude JSON output".into();
    }
    let code = exit_code.unwrap_or(-1);
    if let Some(line) = facts.content_line {
        return format!("Claude exited with code {code}: {line}{pod_cause}");
    }
    if !facts.has_output || model.is_empty() {
        return format!("Claude exited with code {code}{pod_cause}");
    }
    if facts.names_model && exit_code.is_some() {
        return format!(
            "Claude exited immediately after init (model: {model}) (exit code {code}) — the model may be unsupported or \
             the session may have been rejected before producing output{pod_cause}"
        );
    }
    format!(
        "Claude started but did not produce a result (model: {model}) — check API credentials, model support, and \
         adapter config{pod_cause}"
    )
}

#[cfg(test)]
mod tests {
    use super::super::tally::Tally;
    use super::*;
    use proptest::prelude::*;

    const INIT: &str = r#"{"type":"system","subtype":"init","session_id":"s","model":"claude-x-1"}"#;
    const SYSTEM: &str = r#"{"type":"system","subtype":"other"}"#;
    const RESULT: &str = r#"{"type":"result","result":"x"}"#;
    const RATE: &str = r#"{"type":"rate_limit_event","status":"limited"}"#;
    const SILENT: &str = r#"{"type":"assistant","message":{"id":"m","output_tokens":0,"stop_reason":null}}"#;
    const USER: &str = r#"{"type":"user","message":{"content":[]}}"#;
    const AFTER_INIT: &str = "Claude exited immediately after init (model: claude-x-1) (exit code 1) — the model may be \
                              unsupported or the session may have been rejected before producing output";
    const NO_RESULT: &str = "Claude started but did not produce a result (model: claude-x-1) — check API credentials, \
                             model support, and adapter config";

    /// The error for this output.
    fn error(exit_code: Option<i32>, model: &str, lines: &[&str], pod_cause: &str) -> String {
        let mut tally = Tally::new();
        lines.iter().for_each(|line| tally.text(line));
        let captured = tally.finish();
        no_result_error(exit_code, model, OutputFacts::of(&captured, model), pod_cause)
    }

    #[test]
    fn message_depends_on_exit_code_model_and_output() {
        let model = "claude-x-1";
        for (code, model, lines, text) in [
            (Some(0), model, &[][..], "Failed to parse Claude JSON output"),
            (Some(0), model, &[INIT, "plain"], "Failed to parse Claude JSON output"),
            (Some(1), "", &[], "Claude exited with code 1"),
            (None, model, &[], "Claude exited with code -1"),
            (Some(2), model, &[" ", "\t"], "Claude exited with code 2"),
            (Some(1), "", &[INIT], "Claude exited with code 1"),
            (Some(1), model, &[INIT], AFTER_INIT),
            (Some(1), model, &[r#"{"type":"system","model":"claude_x_1"}"#], AFTER_INIT),
            (Some(1), model, &[r#"{"type":"system","model": "claude-x-1"}"#], NO_RESULT),
            (None, model, &[INIT], NO_RESULT),
            (Some(1), model, &[INIT, " Error: boom \r", "later"], "Claude exited with code 1: Error: boom"),
            (Some(1), model, &[INIT, RESULT], AFTER_INIT),
            (None, model, &[INIT, RATE], NO_RESULT),
            (None, model, &[INIT, SILENT], NO_RESULT),
            (Some(1), model, &[INIT, USER, "then this"], "Claude exited with code 1: then this"),
            (None, model, &["plain"], "Claude exited with code -1: plain"),
            (Some(1), model, &[SYSTEM, SYSTEM, INIT, "x"], "Claude exited with code 1: x"),
            (Some(1), model, &[INIT, "null"], "Claude exited with code 1: null"),
            (Some(1), model, &[INIT, "[]"], "Claude exited with code 1: []"),
            (Some(1), model, &[INIT, r#"{"type":""}"#], r#"Claude exited with code 1: {"type":""}"#),
        ] {
            assert_eq!(error(code, model, lines, ""), text, "{lines:?}");
        }
    }

    #[test]
    fn pod_cause_is_appended_unless_the_cli_exited_with_0() {
        let cause = " [pod: reason=Error]";
        for (code, model, lines, before) in [
            (Some(1), "m", &[][..], "Claude exited with code 1"),
            (Some(1), "m", &["line"], "Claude exited with code 1: line"),
            (Some(1), "claude-x-1", &[INIT], AFTER_INIT),
            (None, "claude-x-1", &[INIT], NO_RESULT),
        ] {
            assert_eq!(error(code, model, lines, cause), format!("{before}{cause}"));
        }
        assert_eq!(error(Some(0), "m", &["line"], cause), "Failed to parse Claude JSON output");
    }

    proptest! {
        #[test]
        fn message_is_never_empty(code in any::<Option<i32>>(), model in "\\PC*", line in "\\PC*") {
            prop_assert!(!error(code, &model, &[&line], "").is_empty());
        }
    }
}
