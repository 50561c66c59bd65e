//! Gathers what the result of a run needs from its output, line by line.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use memchr::memmem;
use serde::Serialize;
use serde_json::Value;

use super::event::{self, Event};
use super::failure::is_error_result;
use crate::js_semantics;
use crate::storable;
use crate::stream::excerpt::Excerpt;

/// Most bytes of assistant texts kept for the summary; the beginning is kept.
const TEXTS: usize = 256 * 1024;
/// Most bytes of the first content line kept for an error message.
const CONTENT_LINE: usize = 8 * 1024;
/// Most different model names remembered.
const MODELS: usize = 32;
/// What stands before the name of a model in the CLI's output.
const MODEL_KEY: &[u8] = b"\"model\":\"";

/// Reads the lines of a run once, in order, and keeps only what the result needs.
///
/// Its size does not depend on the length of the run: at most 256 KiB of text for the summary, 160 KiB of output for a
/// failed run, and a few fields.
#[derive(Debug)]
pub struct Tally {
    captured: Captured,
    excerpt: Option<Excerpt>,
    /// Hashes of (key, text) of the collected texts. The CLI prints an `assistant` event per content block, all with
    /// the same message id and index 0, so the key alone would drop new text.
    seen: HashSet<u64>,
    hasher: RandomState,
    most_text: usize,
    most_content: usize,
}

/// What a [`Tally`] kept of a run's output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Captured {
    /// The last non-empty `session_id` of an init, assistant or result event.
    pub session_id: Option<String>,
    /// The last non-empty `model` of an init event.
    pub init_model: Option<String>,
    /// The last result event. Whether it is that of the run: [`Captured::is_result_of_run`].
    pub result: Option<Value>,
    /// An event of a turn came after the last result event, so that the CLI works on.
    in_turn: bool,
    /// The sum of the result events before it.
    earlier: Earlier,
    /// There was an assistant event with stop reason `null` and no output tokens, and neither output nor a result after
    /// it.
    pub llm_api_empty: bool,
    /// There was an assistant event with output tokens, and no result after it.
    pub truncated: bool,
    /// The assistant's texts joined with blank lines, at most 256 KiB from the beginning.
    pub texts: String,
    /// The first line that is not an event of the CLI, trimmed; at most 8 KiB.
    pub content_line: Option<String>,
    /// The values of `"model":"…"` in the output, up to the first content line.
    pub models_named: Vec<String>,
    /// Bytes of output, newlines included.
    pub stdout_bytes: u64,
    /// Lines of output.
    pub lines: u64,
    /// Lines with more than white space.
    pub nonempty_lines: u64,
    /// The output of a run whose last word is not a result, at most 32 KiB of its beginning and 128 KiB of its end; else
    /// empty.
    pub stdout: String,
}

/// What the result events of earlier turns add to the last one. When a background command ends, the CLI takes another
/// turn, with another result event.
#[derive(Clone, Debug, Default, PartialEq)]
struct Earlier {
    usage: Usage,
    /// Their shares of the cost, in US dollars.
    cost_usd: f64,
    /// One of them did not give its share.
    unknown_cost: bool,
}

/// Tokens of result events. A field that is missing or not a finite number is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// `input_tokens`.
    #[serde(serialize_with = "plain_number")]
    pub input_tokens: f64,
    /// `cache_read_input_tokens`.
    #[serde(serialize_with = "plain_number")]
    pub cached_input_tokens: f64,
    /// `output_tokens`.
    #[serde(serialize_with = "plain_number")]
    pub output_tokens: f64,
}

fn plain_number<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    js_semantics::number_value(*value).serialize(serializer)
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl Tally {
    /// A tally of a run.
    pub fn new() -> Self {
        Self {
            captured: Captured::default(),
            excerpt: Some(Excerpt::default()),
            seen: HashSet::new(),
            hasher: RandomState::new(),
            most_text: TEXTS,
            most_content: CONTENT_LINE,
        }
    }

    /// A tally of a text that is in memory already: without bounds, and without a copy of the output.
    #[cfg(any(test, feature = "compat"))]
    pub(crate) fn over_text() -> Self {
        Self { excerpt: None, most_text: usize::MAX, most_content: usize::MAX, ..Self::new() }
    }

    /// Adds the next line, given without its stamp and its newline, and returns it as text: bytes that are not UTF-8
    /// and NUL become U+FFFD.
    pub fn line<'a>(&mut self, line: &'a [u8]) -> Cow<'a, str> {
        let text = match String::from_utf8_lossy(line) {
            Cow::Borrowed(text) => storable::text(text),
            Cow::Owned(text) => Cow::Owned(storable::owned(text)),
        };
        self.text_line(&text, line.len());
        text
    }

    /// Adds a line that is text already.
    pub fn text(&mut self, line: &str) {
        self.text_line(line, line.len());
    }

    /// Whether the CLI's last word so far is the result of the run: see [`Captured::is_result_last_word`].
    pub fn is_result_last_word(&self) -> bool {
        self.captured.is_result_last_word()
    }

    /// What was kept so far.
    pub fn so_far(&self) -> &Captured {
        &self.captured
    }

    fn text_line(&mut self, text: &str, bytes: usize) {
        let captured = &mut self.captured;
        captured.lines += 1;
        captured.stdout_bytes += bytes as u64 + 1;
        if let Some(excerpt) = &mut self.excerpt {
            excerpt.push(text);
        }
        let text = js_semantics::trim(text);
        if text.is_empty() {
            return;
        }
        captured.nonempty_lines += 1;
        // Models matter only for a run without a content line: its error says more than the model does.
        if captured.content_line.is_none() {
            captured.note_models(text);
        }
        let with_texts = captured.texts.len() < self.most_text;
        event::read(text, with_texts, |event| self.event(text, event));
    }

    fn event(&mut self, line: &str, event: Event<'_>) {
        let captured = &mut self.captured;
        match event {
            Event::Other => {}
            Event::Turn => captured.in_turn = true,
            Event::Content => {
                if captured.content_line.is_none() {
                    captured.content_line = Some(cut(line, self.most_content));
                }
            }
            Event::Init { session_id, model } => {
                keep(&mut captured.session_id, session_id.as_deref());
                keep(&mut captured.init_model, model.as_deref());
                captured.in_turn = true;
            }
            Event::Assistant(assistant) => self.assistant(&assistant),
            Event::Result { session_id, event } => {
                keep(&mut captured.session_id, session_id.as_deref());
                captured.llm_api_empty = false;
                captured.truncated = false;
                captured.in_turn = false;
                captured.take_result(event);
            }
        }
    }

    fn assistant(&mut self, event: &event::Assistant<'_>) {
        let captured = &mut self.captured;
        keep(&mut captured.session_id, event.session_id.as_deref());
        captured.in_turn = true;
        if event.stop_reason_null && event.output_tokens == 0.0 {
            captured.llm_api_empty = true;
        } else if event.output_tokens > 0.0 || event.has_content {
            captured.llm_api_empty = false;
        }
        if event.output_tokens > 0.0 {
            captured.truncated = true;
        }
        for (index, text) in &event.texts {
            if captured.texts.len() >= self.most_text {
                return;
            }
            let key = event.id.as_deref().map(|id| (id, index));
            if !self.seen.insert(self.hasher.hash_one((key, text))) {
                continue;
            }
            if !captured.texts.is_empty() {
                captured.texts.push_str("\n\n");
            }
            let left = self.most_text.saturating_sub(captured.texts.len());
            captured.texts.push_str(&text[..text.floor_char_boundary(left)]);
        }
    }

    /// The end of the output.
    pub fn finish(self) -> Captured {
        let mut captured = self.captured;
        if !captured.is_result_last_word() {
            captured.stdout = self.excerpt.map(Excerpt::finish).unwrap_or_default();
        }
        captured
    }
}

impl Captured {
    fn note_models(&mut self, text: &str) {
        static FINDER: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(MODEL_KEY));
        let mut rest = text.as_bytes();
        while let Some(found) = FINDER.find(rest) {
            rest = &rest[found + MODEL_KEY.len()..];
            let Some(end) = memchr::memchr(b'"', rest) else { return };
            let name = &rest[..end];
            rest = &rest[end..];
            let known = |model: &String| model.as_bytes() == name;
            if name.len() <= 256 && self.models_named.len() < MODELS && !self.models_named.iter().any(known) {
                self.models_named.extend(String::from_utf8(name.to_vec()));
            }
        }
    }

    /// Whether the output names the model, as it is written or with `_` for every `-`.
    pub fn names_model(&self, model: &str) -> bool {
        let underscored = model.replace('-', "_");
        self.models_named.iter().any(|named| named == model || *named == underscored)
    }

    /// The model of the init event, else of the result event, else none.
    pub fn model(&self) -> Option<&str> {
        self.init_model.as_deref().or_else(|| js_semantics::string_field(self.result.as_ref()?, "model"))
    }

    /// Whether the result event is the CLI's last word: no event of a turn came after it, and it is not one of those that
    /// the CLI prints, when it resumes a session, for each background task of the run before.
    pub fn is_result_last_word(&self) -> bool {
        self.result.as_ref().is_some_and(|result| !self.in_turn && !is_without_turn(result))
    }

    /// Whether the result event is that of a run whose container ended with this code. Unless it is the CLI's last word,
    /// only a container that ended with 0 had done its work; and a result without a turn is that of a CLI that did
    /// nothing else.
    pub fn is_result_of_run(&self, exit_code: Option<i32>) -> bool {
        let Some(result) = &self.result else { return false };
        self.is_result_last_word() || (exit_code == Some(0) && !(self.in_turn && is_without_turn(result)))
    }

    /// Whether the CLI had finished a turn, and was in another one when its output ended.
    pub fn is_in_later_turn(&self) -> bool {
        self.in_turn && self.result.as_ref().is_some_and(|result| !is_without_turn(result))
    }

    /// A result event replaces the last one, unless it stands for no turn. Where both have ids and these differ, the
    /// other one counts as well.
    fn take_result(&mut self, event: Value) {
        let Some(last) = self.result.take() else {
            self.result = Some(event);
            return;
        };
        let keeps_last = is_without_turn(&event) && !is_without_turn(&last);
        let (result, other) = if keeps_last { (last, event) } else { (event, last) };
        let id = |event| js_semantics::string_field(event, "uuid");
        if let (Some(other_id), Some(id)) = (id(&other), id(&result))
            && other_id != id
        {
            self.earlier.usage = self.earlier.usage.plus(Usage::of(&other));
            match turn_cost_usd(&other) {
                Some(cost) => self.earlier.cost_usd += cost,
                None => self.earlier.unknown_cost = true,
            }
        }
        self.result = Some(result);
    }

    /// The cost of the run in US dollars: the shares of its result events, else `total_cost_usd` of the last one. In newer
    /// versions of the CLI that is the cost of the whole session.
    pub fn cost_usd(&self) -> Option<f64> {
        let result = self.result.as_ref()?;
        match turn_cost_usd(result) {
            Some(cost) if !self.earlier.unknown_cost => Some(self.earlier.cost_usd + cost),
            _ => result.get("total_cost_usd")?.as_f64().filter(|cost| cost.is_finite()),
        }
    }

    /// Tokens of all result events; `None` without one.
    pub fn usage(&self) -> Option<Usage> {
        Some(self.earlier.usage.plus(Usage::of(self.result.as_ref()?)))
    }

    /// The result's text, else the assistant's texts; trimmed.
    pub fn summary(&self) -> &str {
        let result = self.result.as_ref().and_then(|result| js_semantics::string_field(result, "result"));
        js_semantics::trim(result.unwrap_or(&self.texts))
    }
}

impl Usage {
    fn of(result: &Value) -> Self {
        let usage = result.get("usage");
        let tokens = |key| {
            usage
                .and_then(|usage| usage.get(key)?.as_f64())
                .filter(|tokens| tokens.is_finite())
                .unwrap_or(0.0)
        };
        Self {
            input_tokens: tokens("input_tokens"),
            cached_input_tokens: tokens("cache_read_input_tokens"),
            output_tokens: tokens("output_tokens"),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens + other.input_tokens,
            cached_input_tokens: self.cached_input_tokens + other.cached_input_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
        }
    }
}

/// Whether a result event that is no failure stands for no turn at all.
fn is_without_turn(result: &Value) -> bool {
    result.get("num_turns").and_then(Value::as_f64) == Some(0.0) && !is_error_result(result)
}

/// The cost since the result event before this one, of all models; `None` where the CLI does not give it.
fn turn_cost_usd(result: &Value) -> Option<f64> {
    let models = result.get("model_usage_since_last_result")?.as_object()?;
    models.values().map(|model| model.get("costUSD")?.as_f64().filter(|cost| cost.is_finite())).sum()
}

fn keep(slot: &mut Option<String>, value: Option<&str>) {
    if let Some(value) = value
        && slot.as_deref() != Some(value)
    {
        *slot = Some(value.to_owned());
    }
}

fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(most)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn tally(lines: &[&str]) -> Captured {
        let mut tally = Tally::new();
        lines.iter().for_each(|line| tally.text(line));
        tally.finish()
    }

    macro_rules! fixture {
        ($name:literal) => {
            fixture!("2.1.197", $name)
        };
        ($version:literal, $name:literal) => {
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tools/simulator/fixtures/claude-cli-",
                $version,
                "/",
                $name,
                ".jsonl"
            ))
        };
    }

    #[test]
    fn recorded_runs_are_tallied() {
        let auth = "Invalid API key · Fix external API key";
        let overload = "API Error: 529 Overloaded. This is a server-side issue, usually temporary — try again in a \
                        moment. If it persists, check your inference gateway (127.0.0.1:8080).";
        let refused = "API Error: Unable to connect to API (ConnectionRefused)";
        let opus = Some("claude-opus-4-8[1m]");
        for (name, text, session, model, summary, cost, usage) in [
            ("success", fixture!("success"), "52f5bda4", opus, "All done.", 0.003364, [240.0, 128.0, 84.0]),
            (
                "max-turns",
                fixture!("max-turns"),
                "bf5de0db",
                opus,
                "Looking — naïve café ✓ first.",
                0.001682,
                [120.0, 64.0, 42.0],
            ),
            ("auth", fixture!("auth"), "66bbc342", opus, auth, 0.0, [0.0; 3]),
            ("overload", fixture!("overload"), "0a0805ca", opus, overload, 0.0, [0.0; 3]),
            ("unreachable", fixture!("unreachable"), "6afb4bef", opus, refused, 0.0, [0.0; 3]),
            ("unknown-session", fixture!("unknown-session"), "11111111", None, "", 0.0, [0.0; 3]),
            ("bad-session", fixture!("bad-session"), "5f75a4d1", None, "", 0.0, [0.0; 3]),
        ] {
            let lines: Vec<&str> = text.lines().collect();
            let captured = tally(&lines);
            assert!(captured.session_id.as_deref().unwrap().starts_with(session), "{name}");
            assert_eq!(captured.init_model.as_deref(), model, "{name}");
            assert_eq!(captured.summary(), summary, "{name}");
            assert_eq!(captured.cost_usd(), Some(cost), "{name}");
            let [input_tokens, cached_input_tokens, output_tokens] = usage;
            assert_eq!(
                captured.usage(),
                Some(Usage { input_tokens, cached_input_tokens, output_tokens }),
                "{name}"
            );
            assert!(!captured.llm_api_empty && !captured.truncated, "{name}");
            assert_eq!(captured.content_line, None, "{name}");
            assert_eq!(captured.stdout_bytes, text.len() as u64, "{name}");
            assert_eq!(captured.nonempty_lines, lines.len() as u64, "{name}");
            assert_eq!(captured.stdout, "", "{name}");
        }
    }

    #[test]
    fn results_of_all_turns_are_added_up() {
        let text = fixture!("2.1.330", "background");
        let lines: Vec<&str> = text.lines().collect();
        let captured = tally(&lines);
        let usage = Usage { input_tokens: 360.0, cached_input_tokens: 192.0, output_tokens: 126.0 };
        assert_eq!(captured.usage(), Some(usage));
        assert_eq!(captured.cost_usd(), Some(0.0042384));
        // A repeated line counts once.
        let twice: Vec<&str> = lines.iter().flat_map(|line| [*line, *line]).collect();
        assert_eq!(tally(&twice).usage(), Some(usage));
        assert_eq!(tally(&twice).cost_usd(), Some(0.0042384));
        // An older CLI gives the cost of the run so far, and no share per turn.
        let result = |uuid: &str, cost: f64| {
            json!({"type": "result", "uuid": uuid, "total_cost_usd": cost, "usage": {"input_tokens": 10}})
                .to_string()
        };
        let captured = tally(&[&result("a", 0.25), &result("b", 0.75)]);
        assert_eq!(captured.cost_usd(), Some(0.75));
        assert_eq!(captured.usage().map(|usage| usage.input_tokens), Some(20.0));
    }

    #[test]
    fn resumed_session_costs_only_this_run() {
        for (text, total) in [
            (fixture!("2.1.330", "first"), 0.0014128),
            // The total cost is that of the session.
            (fixture!("2.1.330", "resume"), 0.0028256),
        ] {
            let lines: Vec<&str> = text.lines().collect();
            let captured = tally(&lines);
            assert_eq!(
                captured.result.as_ref().and_then(|result| result["total_cost_usd"].as_f64()),
                Some(total)
            );
            assert_eq!(captured.cost_usd(), Some(0.0014128));
            assert_eq!(captured.usage().map(|usage| usage.input_tokens), Some(120.0));
        }
    }

    #[test]
    fn message_printed_in_parts_keeps_every_text() {
        let part = |text: &str| {
            json!({"type": "assistant", "message": {"id": "m", "content": [{"type": "text", "text": text}]}})
                .to_string()
        };
        let (a, b) = (part("one"), part("two"));
        assert_eq!(tally(&[&a, &b, &a, &b]).summary(), "one\n\ntwo");
    }

    #[test]
    fn flags_follow_the_last_assistant_event() {
        let event = |stop: Value, tokens: i64, content: Value| {
            json!({"type": "assistant", "message": {"stop_reason": stop, "output_tokens": tokens, "content": content}})
                .to_string()
        };
        let empty = event(Value::Null, 0, json!([]));
        let some = event(Value::Null, 5, json!([]));
        let tool = json!({"type": "assistant", "message": {"content": [{"type": "tool_use"}]}}).to_string();
        let nothing = json!({"type": "assistant", "message": {}}).to_string();
        let result = r#"{"type":"result"}"#;
        for (lines, flags) in [
            (vec![&empty[..]], (true, false)),
            (vec![&empty, &some], (false, true)),
            (vec![&some, &empty], (true, true)),
            (vec![&empty, &tool], (false, false)),
            (vec![&empty, &nothing], (true, false)),
            (vec![&empty, &some, result], (false, false)),
            (vec![result, &empty], (true, false)),
            (vec![result, &empty, &some], (false, true)),
        ] {
            let captured = tally(&lines);
            assert_eq!((captured.llm_api_empty, captured.truncated), flags, "{lines:?}");
        }
    }

    #[test]
    fn result_counts_only_as_the_last_word() {
        let init = r#"{"type":"system","subtype":"init","session_id":"s"}"#;
        let says = r#"{"type":"assistant","message":{"usage":{"output_tokens":3}}}"#;
        let tool = r#"{"type":"user","message":{"content":[]}}"#;
        let part = r#"{"type":"stream_event","event":{"type":"message_start"}}"#;
        let system = r#"{"type":"system","subtype":"task_updated"}"#;
        let rate = r#"{"type":"rate_limit_event"}"#;
        let real = r#"{"type":"result","subtype":"success","num_turns":2,"result":"x"}"#;
        let none = r#"{"type":"result","subtype":"success","num_turns":0,"result":""}"#;
        let refused = r#"{"type":"result","subtype":"error_during_execution","num_turns":0}"#;
        // Last word, and whether it is the run's result after exit code 0 and after any other end.
        for (lines, last, after_0, otherwise) in [
            (&[][..], false, false, false),
            (&[init, says], false, false, false),
            (&[init, says, real], true, true, true),
            (&[init, says, real, system, rate, "text"], true, true, true),
            (&[init, says, real, init], false, true, false),
            (&[init, says, real, says], false, true, false),
            (&[init, says, real, tool], false, true, false),
            (&[init, says, real, part], false, true, false),
            (&[init, says, real, init, says, real], true, true, true),
            (&[none], false, true, false),
            (&[init, none], false, true, false),
            (&[init, none, init], false, false, false),
            (&[none, none, init, says, real], true, true, true),
            (&[refused], true, true, true),
        ] {
            let captured = tally(lines);
            assert_eq!(captured.is_result_last_word(), last, "{lines:?}");
            assert_eq!(captured.is_result_of_run(Some(0)), after_0, "{lines:?}");
            for exit_code in [None, Some(1), Some(143)] {
                assert_eq!(captured.is_result_of_run(exit_code), otherwise, "{lines:?}");
            }
            assert_eq!(captured.stdout.is_empty(), last || lines.is_empty(), "{lines:?}");
        }
        let captured = tally(&[real, none]);
        assert_eq!(captured.summary(), "x", "a result without a turn replaces none of a turn");
        assert!(captured.is_result_of_run(None));
        assert!(tally(&[init, real, init]).is_in_later_turn());
        assert!(!tally(&[init, none, init]).is_in_later_turn());
    }

    #[test]
    fn invalid_utf8_and_nul_are_replaced() {
        let mut tally = Tally::new();
        tally.line(b"caf\xc3");
        tally.line(b"{\"type\":\"result\",\"result\":\"\xff\",\"session_id\":\"s\"}");
        tally.line(b"\xe2\x82");
        let captured = tally.finish();
        assert_eq!(captured.lines, 3);
        assert_eq!(Tally::new().line(b"a\0\xff\0"), "a\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(captured.content_line.as_deref(), Some("caf\u{fffd}"));
        assert_eq!(captured.summary(), "\u{fffd}");
        assert_eq!(captured.stdout_bytes, 5 + 48 + 3);
    }

    #[test]
    fn run_without_a_result_keeps_its_output() {
        let captured = tally(&["", " \t\r", "plain", r#"{"type":"user"}"#, "more\r"]);
        assert_eq!((captured.lines, captured.nonempty_lines), (5, 3));
        assert_eq!(captured.content_line.as_deref(), Some("plain"));
        assert_eq!(captured.stdout, "\n \t\r\nplain\n{\"type\":\"user\"}\nmore\r\n");
        assert_eq!(captured.stdout_bytes, captured.stdout.len() as u64);
    }

    #[test]
    fn model_names_count_until_the_first_content_line() {
        let init = r#"{"type":"system","subtype":"init","model":"claude-a"}"#;
        let spaced = r#"{"type":"system","model": "claude-b"}"#;
        let under =
            r#"{"type":"user","x":{"model":"claude_c_1"},"y":"\"model\":\"claude-d\"","z":"model\":\""}"#;
        let captured = tally(&[init, spaced, under, init, "stop", r#"{"type":"user","model":"claude-e"}"#]);
        for (model, named) in [
            ("claude-a", true),
            ("claude-b", false),
            ("claude-c-1", true),
            ("claude-d", false),
            ("claude-e", false),
        ] {
            assert_eq!(captured.names_model(model), named, "{model}");
        }
    }

    #[test]
    fn last_result_and_last_session_count() {
        let captured = tally(&[
            r#"{"type":"system","subtype":"init","session_id":"a","model":"m"}"#,
            r#"{"type":"system","subtype":"init","session_id":"","model":""}"#,
            r#"{"type":"result","session_id":"b","result":"first"}"#,
            r#"{"type":"result","result":" second ","usage":{"input_tokens":"7","output_tokens":2}}"#,
        ]);
        assert_eq!(captured.session_id.as_deref(), Some("b"));
        assert_eq!(captured.model(), Some("m"));
        assert_eq!(captured.summary(), "second");
        assert_eq!(captured.usage(), Some(Usage { output_tokens: 2.0, ..Usage::default() }));
        assert_eq!(captured.cost_usd(), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut tally = Tally::new();
        tally.line("x".repeat(100_000).as_bytes());
        for n in 0..2000 {
            let text = format!("{n} {}", "é".repeat(500));
            let event = json!({"type": "assistant", "message": {"id": "m", "content": [{"type": "text", "text": text}]}});
            tally.line(event.to_string().as_bytes());
        }
        assert!(tally.seen.len() < 300);
        let captured = tally.finish();
        assert!(captured.texts.len() <= TEXTS && captured.texts.len() > TEXTS - 4);
        assert!(captured.texts.starts_with("0 éé"));
        assert!(captured.stdout.len() < 257 * 1024);
        assert!(captured.content_line.unwrap().len() <= CONTENT_LINE + 3);
    }

    proptest! {
        #[test]
        fn any_bytes_are_tallied_without_panic(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let mut tally = Tally::new();
            lines.iter().for_each(|line| drop(tally.line(line)));
            let captured = tally.finish();
            prop_assert_eq!(captured.lines, lines.len() as u64);
            prop_assert_eq!(captured.stdout_bytes, lines.iter().map(|line| line.len() as u64 + 1).sum::<u64>());
        }
    }
}
