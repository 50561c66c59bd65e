//! What to say of a run that left no result.

use super::tally::{Captured, Tally};

use crate::forensics::{TerminatedState, non_empty};

/// What the message depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartialFacts<'a> {
    /// First line of output that is no event of the CLI.
    pub content_line: Option<&'a str>,
    /// There was more than white space.
    pub has_output: bool,
    /// The output names the model.
    pub names_model: bool,
}

impl<'a> PartialFacts<'a> {
    /// The facts of a run.
    pub fn of(captured: &'a Captured, model: &str) -> Self {
        Self {
            content_line: captured.content_line.as_deref(),
            has_output: captured.nonempty_lines > 0,
            names_model: captured.names_model(model),
        }
    }
}

/// The error of a run without a result. `model` may be empty.
pub fn partial_run_error(
    exit_code: Option<i32>,
    model: &str,
    facts: PartialFacts<'_>,
    state: Option<&TerminatedState>,
) -> String {
    if exit_code == Some(0) {
        return "Failed to parse Claude JSON output".into();
    }
    let code = exit_code.unwrap_or(-1);
    let cause = pod_cause(state);
    if let Some(line) = facts.content_line {
        return format!("Claude exited with code {code}: {line}{cause}");
    }
    if !facts.has_output || model.is_empty() {
        return format!("Claude exited with code {code}{cause}");
    }
    if facts.names_model && exit_code.is_some() {
        return format!(
            "Claude exited immediately after init (model: {model}) (exit code {code}) — the model may be unsupported or \
             the session may have been rejected before producing output{cause}"
        );
    }
    format!(
        "Claude started but did not produce a result (model: {model}) — check API credentials, model support, and \
         adapter config{cause}"
    )
}

fn pod_cause(state: Option<&TerminatedState>) -> String {
    let Some(state) = state else {
        return String::new();
    };
    let mut parts = Vec::new();
    parts.extend(non_empty(&state.reason).map(|reason| format!("reason={reason}")));
    parts.extend(non_empty(&state.message).map(|message| format!("message={message}")));
    parts.extend(state.signal.map(|signal| format!("signal={signal}")));
    if state.exit_code == Some(137) {
        parts.push("SIGKILL (commonly OOMKilled)".into());
    }
    if parts.is_empty() { String::new() } else { format!(" [pod: {}]", parts.join(", ")) }
}

/// [`partial_run_error`] for a whole output in memory.
pub fn build_partial_run_error(
    exit_code: Option<i32>,
    model: &str,
    stdout: &str,
    state: Option<&TerminatedState>,
) -> String {
    let mut tally = Tally::over_text();
    stdout.split('\n').for_each(|line| tally.text(line));
    let captured = tally.finish();
    partial_run_error(exit_code, model, PartialFacts::of(&captured, model), state)
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn messages() {
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
            assert_eq!(build_partial_run_error(code, model, &lines.join("\n"), None), text, "{lines:?}");
        }
    }

    #[test]
    fn the_pods_cause_is_appended() {
        let state = |exit_code, reason: &str, message: &str, signal| TerminatedState {
            exit_code,
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            signal,
        };
        for (given, text) in [
            (state(Some(1), "Error", "broke", None), " [pod: reason=Error, message=broke]"),
            (
                state(Some(137), "OOMKilled", "", Some(9)),
                " [pod: reason=OOMKilled, signal=9, SIGKILL (commonly OOMKilled)]",
            ),
            (state(Some(1), "", "", Some(0)), " [pod: signal=0]"),
            (state(Some(1), "", "", None), ""),
            (TerminatedState::default(), ""),
        ] {
            for (stdout, before) in
                [("", "Claude exited with code 1"), ("line", "Claude exited with code 1: line")]
            {
                let message = build_partial_run_error(Some(1), "m", stdout, Some(&given));
                assert_eq!(message, format!("{before}{text}"));
            }
            assert_eq!(
                build_partial_run_error(Some(1), "claude-x-1", INIT, Some(&given)),
                format!("{AFTER_INIT}{text}")
            );
            let message = build_partial_run_error(Some(0), "m", "line", Some(&given));
            assert_eq!(message, "Failed to parse Claude JSON output");
        }
    }

    #[test]
    fn a_run_and_a_text_in_memory_give_the_same_message() {
        for lines in [&[INIT][..], &[INIT, USER, "words"], &[], &[""], &[RATE, INIT]] {
            let mut tally = Tally::new();
            lines.iter().for_each(|line| tally.text(line));
            let captured = tally.finish();
            let facts = PartialFacts::of(&captured, "claude-x-1");
            for code in [None, Some(0), Some(3)] {
                let text = build_partial_run_error(code, "claude-x-1", &lines.join("\n"), None);
                assert_eq!(partial_run_error(code, "claude-x-1", facts, None), text);
            }
        }
    }

    proptest! {
        #[test]
        fn there_is_always_a_message(code in any::<Option<i32>>(), model in "\\PC*", stdout in "(\\PC|\n)*") {
            prop_assert!(!build_partial_run_error(code, &model, &stdout, None).is_empty());
        }
    }
}
