//! The filter against repeated log lines.
//!
//! A run does not use it: its keys drop every later part of a message that the CLI prints in parts, and its
//! memory grows with the log. Runs resume a log exactly, see [`Resume`](crate::stream::Resume).

use std::collections::HashSet;

use serde_json::Value;

use crate::js_semantics;

/// What identifies an event of the CLI; `None` for events without an identity.
pub(super) fn event_dedup_key(event: &Value) -> Option<String> {
    match js_semantics::string_field(event, "type")? {
        "system" if event.get("subtype").and_then(Value::as_str) == Some("init") => {
            js_semantics::string_field(event, "session_id").map(|id| format!("system:init:{id}"))
        }
        "assistant" => {
            js_semantics::string_field(event.get("message")?, "id").map(|id| format!("assistant:{id}"))
        }
        "user" => {
            let blocks = event.get("message")?.get("content")?.as_array()?;
            let ids: Vec<&str> =
                blocks.iter().filter_map(|block| js_semantics::string_field(block, "tool_use_id")).collect();
            (!ids.is_empty()).then(|| format!("user:tool_result:{}", ids.join(",")))
        }
        "result" => {
            Some(format!("result:{}", js_semantics::string_field(event, "session_id").unwrap_or("unknown")))
        }
        _ => None,
    }
}

/// Passes a text on, without the JSON lines that were passed on before.
#[derive(Debug, Default)]
pub(super) struct LogLineDedupFilter {
    pending: String,
    seen: HashSet<String>,
}

impl LogLineDedupFilter {
    /// The complete lines of the text so far that are new, each with its newline. What follows the last
    /// newline waits for more.
    pub(super) fn filter(&mut self, chunk: &str) -> String {
        self.pending.push_str(chunk);
        let Some(end) = self.pending.rfind('\n') else {
            return String::new();
        };
        let rest = self.pending.split_off(end + 1);
        let complete = std::mem::replace(&mut self.pending, rest);
        complete.split_inclusive('\n').filter(|line| self.is_new(line)).collect()
    }

    /// The unfinished line, if it is new.
    pub(super) fn flush(&mut self) -> String {
        let line = std::mem::take(&mut self.pending);
        if self.is_new(&line) { line } else { String::new() }
    }

    fn is_new(&mut self, line: &str) -> bool {
        let line = js_semantics::trim(line);
        if !line.starts_with('{') || !line.ends_with('}') {
            return true;
        }
        let Ok(event) = js_semantics::parse_json(line) else {
            return true;
        };
        self.seen.insert(event_dedup_key(&event).unwrap_or_else(|| format!("raw:{line}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn assistant(id: &str) -> String {
        json!({"type": "assistant", "message": {"id": id}}).to_string()
    }

    #[test]
    fn event_has_the_identity_of_its_type() {
        for (event, key) in [
            (json!({"type": "assistant", "message": {"id": "m1"}}), Some("assistant:m1")),
            (json!({"type": "assistant", "message": {}}), None),
            (json!({"type": "assistant", "message": {"id": 1}}), None),
            (
                json!({"type": "user", "message": {"content": [{"tool_use_id": "t1"}]}}),
                Some("user:tool_result:t1"),
            ),
            (
                json!({"type": "user", "message": {"content": [{"tool_use_id": "t1"}, 3, {"tool_use_id": ""}, {"tool_use_id": "t2"}]}}),
                Some("user:tool_result:t1,t2"),
            ),
            (json!({"type": "user", "message": {"content": "text"}}), None),
            (json!({"type": "system", "subtype": "init", "session_id": "s"}), Some("system:init:s")),
            (json!({"type": "system", "subtype": "init"}), None),
            (json!({"type": "system", "subtype": "other", "session_id": "s"}), None),
            (json!({"type": "result", "session_id": "s"}), Some("result:s")),
            (json!({"type": "result"}), Some("result:unknown")),
            (json!({"type": "rate_limit"}), None),
            (json!({"message": {"id": "m"}}), None),
            (json!([]), None),
            (json!(null), None),
        ] {
            assert_eq!(event_dedup_key(&event).as_deref(), key, "{event}");
        }
    }

    #[test]
    fn event_passes_once() {
        let user = json!({"type": "user", "message": {"content": [{"tool_use_id": "t1"}]}}).to_string();
        let init = json!({"type": "system", "subtype": "init", "session_id": "s"}).to_string();
        let result = json!({"type": "result", "session_id": "s", "n": 1}).to_string();
        let again = json!({"type": "result", "session_id": "s", "n": 2}).to_string();
        let raw = r#"{"type":"other","x":1}"#.to_string();
        for (first, second) in [
            (assistant("a"), assistant("a")),
            (user.clone(), user),
            (init.clone(), init),
            (result, again),
            (raw.clone(), raw),
        ] {
            let mut filter = LogLineDedupFilter::default();
            let text = format!("{first}\n{second}\n");
            assert_eq!(filter.filter(&text), format!("{first}\n"));
            assert_eq!(filter.filter(&text), "");
            assert_eq!(filter.filter(&format!("{}\n", assistant("new"))), format!("{}\n", assistant("new")));
        }
        let mut filter = LogLineDedupFilter::default();
        let text = format!("{}\n{}\n", assistant("a"), assistant("b"));
        assert_eq!(filter.filter(&text), text);
    }

    #[test]
    fn plain_text_passes_every_time() {
        let mut filter = LogLineDedupFilter::default();
        for text in ["plain\n", "\n", "{not json}\n", "[1]\r\n", "x\r\n\r\n"] {
            assert_eq!(filter.filter(text), text);
            assert_eq!(filter.filter(text), text);
        }
        assert_eq!(filter.filter(""), "");
    }

    #[test]
    fn unfinished_line_waits_for_its_end() {
        let mut filter = LogLineDedupFilter::default();
        let (a, b, c) = (assistant("a"), assistant("b"), assistant("c"));
        let (head, tail) = a.split_at(10);
        assert_eq!(filter.filter(head), "");
        assert_eq!(filter.filter(&format!("{tail}\n{b}\n{c}")), format!("{a}\n{b}\n"));
        assert_eq!(filter.flush(), c);
        assert_eq!(filter.flush(), "");
        assert_eq!(filter.filter(&b), "");
        assert_eq!(filter.flush(), "");
        assert_eq!(filter.filter("tail"), "");
        assert_eq!(filter.flush(), "tail");
    }

    #[test]
    fn replay_passes_only_new_lines() {
        let mut filter = LogLineDedupFilter::default();
        let (a, b, c) = (assistant("a"), assistant("b"), assistant("c"));
        filter.filter(&format!("{a}\n{b}\n"));
        assert_eq!(filter.filter(&format!("{a}\n{b}\n{c}\n")), format!("{c}\n"));
    }
}
