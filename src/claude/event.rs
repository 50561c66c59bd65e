//! Reads one line of the CLI's stream-json, as far as the result of a run needs it.
//!
//! Most of a log is tool output in events that a run does not need. So a line is scanned once: the strings that a run
//! needs are borrowed from it, everything else is only checked to be JSON; the result event alone becomes a [`Value`].
//! Fields of an unexpected type count as absent, and of repeated keys the last counts, as in JavaScript.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem;
use serde_json::Value;

use crate::js_semantics;
use crate::stream::json::Json;

/// What every event begins with, as the CLI prints it.
const EVENT_START: &[u8] = br#"{"type":""#;

/// The types of events that are looked for inside a line of text. Not `error`: what an API answered is quoted in messages.
const EVENT_TYPES: [&str; 6] = ["result", "assistant", "user", "system", "stream_event", "rate_limit_event"];

/// How many beginnings of events in one line may turn out to be none, so that its reading takes no quadratic time.
const MOST_FALSE_STARTS: u32 = 16;

/// What a line is.
#[derive(Debug, PartialEq)]
pub(crate) enum Event<'a> {
    /// Not a JSON object with a non-empty `type`: text for people.
    Content,
    /// An event that a run does not need.
    Other,
    /// `system` / `init`.
    Init {
        /// `session_id`, when non-empty.
        session_id: Option<Cow<'a, str>>,
        /// `model`, when non-empty.
        model: Option<Cow<'a, str>>,
        /// `apiKeySource`, when non-empty: the variable with the API key, `none`, `oauth`, …
        api_key_source: Option<Cow<'a, str>>,
    },
    /// `rate_limit_event`: where the account stands with one of its limits.
    RateLimit {
        /// `rate_limit_info.status` is `rejected`.
        rejected: bool,
        /// `rate_limit_info.resetsAt`, in seconds since 1970; a text counts where it is a moment.
        resets_at: Option<f64>,
    },
    /// `assistant`.
    Assistant(Assistant<'a>),
    /// `user` or `stream_event`: the CLI is in the middle of a turn.
    Turn,
    /// `result`, with its `session_id`.
    Result {
        /// `session_id`, when non-empty.
        session_id: Option<String>,
        /// The whole event.
        event: Value,
    },
}

/// What a run needs of an `assistant` event.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Assistant<'a> {
    /// `session_id`, when non-empty.
    pub(crate) session_id: Option<Cow<'a, str>>,
    /// `message.id`, when non-empty.
    pub(crate) id: Option<Cow<'a, str>>,
    /// `message.stop_reason` is present and `null`.
    pub(crate) stop_reason_null: bool,
    /// `message.output_tokens`, else `message.usage.output_tokens`, else −1.
    pub(crate) output_tokens: f64,
    /// Index in `message.content` and text of each non-empty text block.
    pub(crate) texts: Vec<(usize, Cow<'a, str>)>,
    /// `message.content` has at least one element.
    pub(crate) has_content: bool,
    /// `error`, when non-empty: the message is the CLI's own, about a request that failed.
    pub(crate) error: Option<Cow<'a, str>>,
    /// `message.usage`.
    pub(crate) usage: MessageUsage,
}

/// The tokens of one message, as far as they are numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct MessageUsage {
    /// `input_tokens`.
    pub(crate) input: Option<f64>,
    /// `cache_creation_input_tokens`.
    pub(crate) cache_creation: Option<f64>,
    /// `cache_read_input_tokens`.
    pub(crate) cache_read: Option<f64>,
    /// `output_tokens`.
    pub(crate) output: Option<f64>,
}

/// Reads a trimmed line that is not empty, and calls `each` for its event. In a line that is no JSON there can be several:
/// an escape sequence, a terminal title or a text without a newline may stand before, between and after them. Without
/// `with_texts` the texts of assistant events are left out.
pub(crate) fn read<'a>(line: &'a str, with_texts: bool, mut each: impl FnMut(Event<'a>)) {
    if let Some(event) = read_json(line, with_texts) {
        return each(event);
    }
    // An array of events is JSON, and no event.
    let is_array = line.starts_with('[') && Json::length_of_value(line) == Some(line.len());
    let mut found = false;
    if !is_array {
        read_inside(line, with_texts, |event| {
            found = true;
            each(event);
        });
    }
    if !found {
        each(Event::Content);
    }
}

/// The event of a text that is one JSON value; `None` where it is none.
fn read_json(line: &str, with_texts: bool) -> Option<Event<'_>> {
    if !line.starts_with('{') {
        return None;
    }
    // A common line is read once and borrowed from. A line with lone surrogates is rare; it is read again, as a copy.
    read_whole(line, with_texts).or_else(|| {
        let text = js_semantics::replace_lone_surrogates(line)?;
        read_whole(&text, with_texts).map(Event::into_owned)
    })
}

/// Calls `each` for each event that stands in a text.
fn read_inside<'a>(text: &'a str, with_texts: bool, mut each: impl FnMut(Event<'a>)) {
    static FINDER: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(EVENT_START));
    let mut false_starts = 0;
    let mut rest = text;
    while false_starts < MOST_FALSE_STARTS
        && let Some(at) = FINDER.find(rest.as_bytes())
    {
        // What an event holds that was cut off is a value of it, and no event.
        let is_member = false_starts > 0 && rest[..at].trim_end().ends_with([':', ',', '[']);
        let from = &rest[at..];
        rest = &from[EVENT_START.len()..];
        let is_event = |kind: &&str| rest.strip_prefix(*kind).is_some_and(|after| after.starts_with('"'));
        if is_member || !EVENT_TYPES.iter().any(is_event) {
            continue;
        }
        let length = Json::length_of_value(from);
        if let Some(event) = length.and_then(|length| read_json(&from[..length], with_texts)) {
            each(event);
            rest = &from[length.unwrap_or_default()..];
        } else {
            false_starts += 1;
        }
    }
}

impl<'a> Event<'a> {
    fn into_owned(self) -> Event<'static> {
        let own = |text: Option<Cow<'a, str>>| text.map(|text| Cow::Owned(text.into_owned()));
        match self {
            Event::Content => Event::Content,
            Event::Other => Event::Other,
            Event::Turn => Event::Turn,
            Event::Result { session_id, event } => Event::Result { session_id, event },
            Event::Init { session_id, model, api_key_source } => Event::Init {
                session_id: own(session_id),
                model: own(model),
                api_key_source: own(api_key_source),
            },
            Event::RateLimit { rejected, resets_at } => Event::RateLimit { rejected, resets_at },
            Event::Assistant(assistant) => Event::Assistant(Assistant {
                session_id: own(assistant.session_id),
                id: own(assistant.id),
                texts: assistant
                    .texts
                    .into_iter()
                    .map(|(i, text)| (i, Cow::Owned(text.into_owned())))
                    .collect(),
                stop_reason_null: assistant.stop_reason_null,
                output_tokens: assistant.output_tokens,
                has_content: assistant.has_content,
                error: own(assistant.error),
                usage: assistant.usage,
            }),
        }
    }
}

/// The event of a line; `None` when the line is not JSON.
fn read_whole(line: &str, with_texts: bool) -> Option<Event<'_>> {
    let read_top = |with_message: bool| read_top(line, with_message, with_texts);
    // The CLI prints `type` first; where that is `assistant`, the message is read in the same pass.
    let top = read_top(line.starts_with(r#"{"type":"assistant""#))?;
    let Some(kind) = non_empty(top.kind) else {
        return Some(Event::Content);
    };
    match kind.as_ref() {
        "system" if top.subtype.as_deref() == Some("init") => Some(Event::Init {
            session_id: non_empty(top.session_id),
            model: non_empty(top.model),
            api_key_source: non_empty(top.api_key_source),
        }),
        "assistant" => {
            let message = if top.message_read { top.message } else { read_top(true)?.message };
            Some(Event::Assistant(Assistant {
                session_id: non_empty(top.session_id),
                id: non_empty(message.id),
                stop_reason_null: message.stop_reason_null,
                output_tokens: message.output_tokens.or(message.usage.output).unwrap_or(-1.0),
                texts: message.texts,
                has_content: message.has_content,
                error: non_empty(top.error),
                usage: message.usage,
            }))
        }
        "result" => {
            let event = Json::new(line).value()?;
            Some(Event::Result { session_id: non_empty(top.session_id).map(Cow::into_owned), event })
        }
        "rate_limit_event" => Some(
            top.rate_limit
                .map_or(Event::Other, |(rejected, resets_at)| Event::RateLimit { rejected, resets_at }),
        ),
        "user" | "stream_event" => Some(Event::Turn),
        _ => Some(Event::Other),
    }
}

fn non_empty(text: Option<Cow<'_, str>>) -> Option<Cow<'_, str>> {
    text.filter(|text| !text.is_empty())
}

/// The members of an event that a run needs.
#[derive(Default)]
struct Top<'a> {
    kind: Option<Cow<'a, str>>,
    subtype: Option<Cow<'a, str>>,
    session_id: Option<Cow<'a, str>>,
    model: Option<Cow<'a, str>>,
    api_key_source: Option<Cow<'a, str>>,
    error: Option<Cow<'a, str>>,
    /// Of `rate_limit_info`: whether its status is `rejected`, and `resetsAt`.
    rate_limit: Option<(bool, Option<f64>)>,
    message: Message<'a>,
    message_read: bool,
}

fn read_top(line: &str, with_message: bool, with_texts: bool) -> Option<Top<'_>> {
    let mut top = Top { message_read: with_message, ..Top::default() };
    let mut json = Json::new(line);
    json.object(|json, key| {
        match key {
            b"type" => top.kind = json.text()?,
            b"subtype" => top.subtype = json.text()?,
            b"session_id" => top.session_id = json.text()?,
            b"model" => top.model = json.text()?,
            b"apiKeySource" => top.api_key_source = json.text()?,
            b"error" => top.error = json.text()?,
            b"rate_limit_info" => top.rate_limit = read_rate_limit(json)?,
            b"message" if with_message => top.message = Message::read(json, with_texts)?,
            _ => json.skip()?,
        }
        Some(())
    })?;
    json.end()?;
    Some(top)
}

/// `message` of an assistant event.
#[derive(Default)]
struct Message<'a> {
    id: Option<Cow<'a, str>>,
    stop_reason_null: bool,
    output_tokens: Option<f64>,
    usage: MessageUsage,
    texts: Vec<(usize, Cow<'a, str>)>,
    has_content: bool,
}

impl<'a> Message<'a> {
    fn read(json: &mut Json<'a>, with_texts: bool) -> Option<Self> {
        let mut message = Self::default();
        json.object(|json, key| {
            match key {
                b"id" => message.id = json.text()?,
                b"stop_reason" => message.stop_reason_null = json.is_null()?,
                b"output_tokens" => message.output_tokens = json.number()?,
                b"usage" => message.usage = MessageUsage::read(json)?,
                b"content" => message.read_content(json, with_texts)?,
                _ => json.skip()?,
            }
            Some(())
        })?;
        Some(message)
    }

    fn read_content(&mut self, json: &mut Json<'a>, with_texts: bool) -> Option<()> {
        self.texts.clear();
        let mut index = 0;
        json.array(|json| {
            if with_texts {
                self.texts.extend(read_block(json)?.map(|text| (index, text)));
            } else {
                json.skip()?;
            }
            index += 1;
            Some(())
        })?;
        self.has_content = index > 0;
        Some(())
    }
}

impl MessageUsage {
    fn read(json: &mut Json<'_>) -> Option<Self> {
        let mut usage = Self::default();
        json.object(|json, key| {
            match key {
                b"input_tokens" => usage.input = json.number()?,
                b"cache_creation_input_tokens" => usage.cache_creation = json.number()?,
                b"cache_read_input_tokens" => usage.cache_read = json.number()?,
                b"output_tokens" => usage.output = json.number()?,
                _ => json.skip()?,
            }
            Some(())
        })?;
        Some(usage)
    }
}

/// `rate_limit_info`: whether its status is `rejected`, and `resetsAt`. Anything but an object counts as absent.
fn read_rate_limit(json: &mut Json<'_>) -> Option<Option<(bool, Option<f64>)>> {
    let (mut rejected, mut resets_at) = (false, None);
    let is_object = json.object(|json, key| {
        match key {
            b"status" => rejected = json.text()?.as_deref() == Some("rejected"),
            b"resetsAt" => resets_at = seconds(&json.value()?),
            _ => json.skip()?,
        }
        Some(())
    })?;
    Some(is_object.then_some((rejected, resets_at)))
}

/// Seconds since 1970: as a number, as its digits, or as a moment of RFC 3339.
fn seconds(value: &Value) -> Option<f64> {
    let Value::String(text) = value else { return value.as_f64() };
    let text = js_semantics::trim(text);
    let moment = || text.parse::<jiff::Timestamp>().ok().map(|at| at.as_second() as f64);
    text.parse().ok().or_else(moment)
}

/// The text of one element of `message.content`, if that is a block of type `text`.
fn read_block<'a>(json: &mut Json<'a>) -> Option<Option<Cow<'a, str>>> {
    let (mut is_text, mut text) = (false, None);
    json.object(|json, key| {
        match key {
            b"type" => is_text = json.text()?.as_deref() == Some("text"),
            b"text" => text = non_empty(json.text()?),
            _ => json.skip()?,
        }
        Some(())
    })?;
    Some(text.filter(|_| is_text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read_all(line: &str) -> Vec<Event<'_>> {
        let mut events = Vec::new();
        super::read(line, true, |event| events.push(event));
        events
    }

    fn read(line: &str) -> Event<'_> {
        let mut events = read_all(line);
        assert_eq!(events.len(), 1, "{line}");
        events.remove(0)
    }

    fn assistant(line: &str) -> Assistant<'_> {
        match read(line) {
            Event::Assistant(assistant) => assistant,
            other => panic!("{line}: {other:?}"),
        }
    }

    /// A record of `event-lines.jsonl`: a line of the CLI, as an event or as a text, and its kind.
    #[derive(serde::Deserialize)]
    struct EventLine<'a> {
        kind: &'a str,
        line: Option<Cow<'a, str>>,
        #[serde(borrow)]
        event: Option<&'a serde_json::value::RawValue>,
    }

    /// The readers of the CLI's events in JavaScript are tested on the same lines (`js/print.js`, `js/ui-parser.cjs`).
    #[test]
    fn shared_lines_are_read_by_kind() {
        let assistant = |id: &'static str, output_tokens: f64| Assistant {
            session_id: Some("s-1".into()),
            id: Some(id.into()),
            stop_reason_null: true,
            output_tokens,
            usage: MessageUsage { output: Some(output_tokens), ..MessageUsage::default() },
            ..Assistant::default()
        };
        let file = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/__test__/support/event-lines.jsonl"));
        for record in file.lines() {
            let EventLine { kind, line, event } = serde_json::from_str(record).unwrap();
            let line = line.or_else(|| event.map(|event| event.get().into())).unwrap();
            let line = &*line;
            let expected = match kind {
                "text" | "JSON without a type" => Event::Content,
                "system/init" => Event::Init {
                    session_id: Some("s-1".into()),
                    model: Some("claude-opus-4-8".into()),
                    api_key_source: None,
                },
                other if other.starts_with("system/") => Event::Other,
                "rate_limit_event" => Event::RateLimit { rejected: false, resets_at: Some(60.0) },
                "tool_progress" | "auth_status" | "tool_use_summary" | "prompt_suggestion"
                | "conversation_reset" | "keep_alive" => Event::Other,
                other if other.split('/').next() == Some("user") => Event::Turn,
                "stream_event" => Event::Turn,
                "assistant/text" => Event::Assistant(Assistant {
                    texts: vec![(0, "naïve café ✓".into())],
                    has_content: true,
                    usage: MessageUsage { input: Some(12.0), output: Some(34.0), ..MessageUsage::default() },
                    ..assistant("msg_1", 34.0)
                }),
                "assistant/text of a subagent" => Event::Assistant(Assistant {
                    texts: vec![(0, "Found it".into())],
                    has_content: true,
                    ..assistant("msg_1", 1.0)
                }),
                "assistant" => Event::Assistant(assistant("msg_1", 0.0)),
                other if other.starts_with("assistant/") => {
                    Event::Assistant(Assistant { has_content: true, ..assistant("msg_1", 1.0) })
                }
                "result/success after a terminal title" | "result/success after text" => {
                    let from = line.find("{\"type\"").unwrap();
                    let to = line.rfind('}').unwrap();
                    let event = serde_json::from_str(&line[from..=to]).unwrap();
                    Event::Result { session_id: Some("s-2".into()), event }
                }
                "result/success"
                | "result/success (error)"
                | "result/error_max_turns (error)"
                | "result/error_during_execution (error)" => Event::Result {
                    session_id: Some("s-2".into()),
                    event: serde_json::from_str(line).unwrap(),
                },
                new => panic!("say here what event.rs makes of {new}"),
            };
            assert_eq!(read(line), expected, "{line}");
        }
    }

    #[test]
    fn line_without_a_type_is_content() {
        for line in [
            "hello",
            "{",
            "{}",
            "null",
            "true",
            "17",
            "\"text\"",
            "[]",
            r#"[{"type":"system"}]"#,
            r#"{"type":""}"#,
            r#"{"type":3}"#,
            r#"{"type":null}"#,
            r#"{"type":{"a":[1]}}"#,
            r#"{"type":"assistant","#,
            r"{'type':'assistant'}",
        ] {
            assert_eq!(read(line), Event::Content, "{line}");
        }
    }

    #[test]
    fn unneeded_event_is_not_content() {
        let line = r#"{"type":"user","message":{"content":[{"type":"tool_result","content":"x"}]}}"#;
        assert_eq!(read(line), Event::Turn);
        for line in [
            r#"{"type":"system","subtype":"api_retry","session_id":"s"}"#,
            r#"{"type":"system"}"#,
            r#"{"message":1,"type":"rate_limit_event"}"#,
        ] {
            assert_eq!(read(line), Event::Other, "{line}");
        }
    }

    #[test]
    fn keys_come_in_any_order_and_the_last_one_counts() {
        let line = r#"{"message":{"id":"m","content":[{"text":"a","type":"text"}]},"session_id":"s","type":"assistant"}"#;
        let event = assistant(line);
        assert_eq!(event.texts, [(0, "a".into())]);
        assert_eq!(event.id.as_deref(), Some("m"));
        let line = r#"{"type":"assistant","message":{"id":"a","id":"b"},"message":{"content":[],"content":[{"type":"text","text":"x","text":"y"}]}}"#;
        let event = assistant(line);
        assert_eq!((event.id, event.texts), (None, vec![(0, "y".into())]));
        let line = r#"{"type":"assistant","type":"user"}"#;
        assert_eq!(read(line), Event::Turn);
    }

    #[test]
    fn without_texts_leaves_out_the_texts_only() {
        let line = r#"{"type":"assistant","session_id":"s","message":{"id":"m","stop_reason":null,"usage":{"output_tokens":3},"content":[{"type":"text","text":"a"}]}}"#;
        let expected = Event::Assistant(Assistant { texts: Vec::new(), ..assistant(line) });
        super::read(line, false, |event| assert_eq!(event, expected));
    }

    #[test]
    fn field_of_an_unexpected_type_counts_as_absent() {
        for message in
            ["null", "3", "-3.5", "true", "\"x\"", "[1,{}]", "{}", r#"{"id":3,"usage":[],"content":"x"}"#]
        {
            let line = format!(r#"{{"type":"assistant","session_id":["s"],"message":{message}}}"#);
            let expected = Assistant { output_tokens: -1.0, ..Assistant::default() };
            assert_eq!(assistant(&line), expected, "{line}");
        }
        let line = r#"{"type":"assistant","message":{"content":[1,null,"text",[],{"type":"text"},{"type":"text","text":7},{"type":"text","text":"a\nb"},{"type":"thinking","text":"t"}]}}"#;
        assert_eq!(assistant(line).texts, [(6, "a\nb".into())]);
    }

    #[test]
    fn output_tokens_of_the_message_come_before_its_usage() {
        for (message, tokens, null) in [
            (r#"{"output_tokens":3,"usage":{"output_tokens":9},"stop_reason":null}"#, 3.0, true),
            (r#"{"output_tokens":"3","usage":{"output_tokens":9},"stop_reason":"end_turn"}"#, 9.0, false),
            (r#"{"usage":{"output_tokens":0,"input_tokens":1}}"#, 0.0, false),
            (r#"{"usage":{"output_tokens":1.5}}"#, 1.5, false),
            (r#"{"usage":null,"stop_reason":{}}"#, -1.0, false),
        ] {
            let line = format!(r#"{{"type":"assistant","message":{message}}}"#);
            let event = assistant(&line);
            assert_eq!((event.output_tokens, event.stop_reason_null), (tokens, null), "{line}");
        }
    }

    #[test]
    fn account_and_error_of_a_request_are_read() {
        let line = r#"{"type":"system","subtype":"init","apiKeySource":"ANTHROPIC_API_KEY"}"#;
        let Event::Init { api_key_source, .. } = read(line) else { panic!("{line}") };
        assert_eq!(api_key_source.as_deref(), Some("ANTHROPIC_API_KEY"));
        let line = r#"{"type":"assistant","error":"rate_limit","message":{"usage":{"input_tokens":1,"cache_creation_input_tokens":2,"cache_read_input_tokens":3,"output_tokens":4}}}"#;
        let event = assistant(line);
        assert_eq!(event.error.as_deref(), Some("rate_limit"));
        let usage = MessageUsage {
            input: Some(1.0),
            cache_creation: Some(2.0),
            cache_read: Some(3.0),
            output: Some(4.0),
        };
        assert_eq!(event.usage, usage);
        for (info, expected) in [
            (
                r#"{"status":"rejected","resetsAt":1771390800}"#,
                Event::RateLimit { rejected: true, resets_at: Some(1_771_390_800.0) },
            ),
            (
                r#"{"status":"rejected","resetsAt":"2026-02-18T05:00:00Z"}"#,
                Event::RateLimit { rejected: true, resets_at: Some(1_771_390_800.0) },
            ),
            (
                r#"{"status":"rejected","resetsAt":"1771390800"}"#,
                Event::RateLimit { rejected: true, resets_at: Some(1_771_390_800.0) },
            ),
            (
                r#"{"status":"rejected","resetsAt":"soon"}"#,
                Event::RateLimit { rejected: true, resets_at: None },
            ),
            (
                r#"{"status":"rejected","resetsAt":null}"#,
                Event::RateLimit { rejected: true, resets_at: None },
            ),
            (r#"{"status":"allowed_warning"}"#, Event::RateLimit { rejected: false, resets_at: None }),
            ("[]", Event::Other),
            ("\"rejected\"", Event::Other),
        ] {
            assert_eq!(read(&format!(r#"{{"type":"rate_limit_event","rate_limit_info":{info}}}"#)), expected);
        }
    }

    #[test]
    fn event_with_a_lone_surrogate_is_still_an_event() {
        let line = r#"{"type":"assistant","session_id":"s","message":{"id":"m","usage":{"output_tokens":2},"content":[{"type":"text","text":"cut \ud83d"}]}}"#;
        let event = assistant(line);
        assert_eq!(event.texts, [(0, "cut \u{fffd}".into())]);
        assert_eq!((event.session_id.as_deref(), event.output_tokens), (Some("s"), 2.0));
        let line = r#"{"type":"result","result":"\udc00","session_id":"s"}"#;
        let event = json!({"type": "result", "result": "\u{fffd}", "session_id": "s"});
        assert_eq!(read(line), Event::Result { session_id: Some("s".into()), event });
        assert_eq!(read(r#"{"type":"user","x":"\udc00"}"#), Event::Turn);
    }

    #[test]
    fn deep_nesting_and_huge_numbers_are_read() {
        for depth in [129, 5000, 100_000] {
            let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            assert_eq!(read(&format!(r#"{{"type":"user","x":{deep}}}"#)), Event::Turn);
            let line = format!(r#"{{"type":"result","x":{deep},"result":"done","n":1e999}}"#);
            let Event::Result { event, .. } = read(&line) else { panic!("{depth}") };
            assert_eq!((&event["result"], &event["n"]), (&json!("done"), &Value::Null));
            assert!(event["x"].is_array());
        }
    }

    #[test]
    fn event_inside_a_line_of_text_is_found() {
        let text = r#"{"type":"result","subtype":"success","result":"a } b","session_id":"s"}"#;
        let result =
            || Event::Result { session_id: Some("s".into()), event: serde_json::from_str(text).unwrap() };
        for (before, after) in [
            ("\u{1b}]0;claude\u{7}", ""),
            ("\u{1b}[?25h\u{1b}[0m", "\u{1b}[0m"),
            ("\u{fffd}", ""),
            ("warning: no newline at the end", ""),
            ("npm warn {\"type\":\"x\"} ", " trailing"),
            (r#"{"type":"result","cut"#, ""),
            (r#"{"type":"error","error":{"type":"overloaded_error"}}"#, ""),
            ("", " trailing"),
            ("", "}"),
        ] {
            assert_eq!(read_all(&format!("{before}{text}{after}")), [result()], "{before}…{after}");
        }
        let user = r#"{"type":"user","x":"\ud83d"}"#;
        assert_eq!(read_all(&format!("{user}{text}")), [Event::Turn, result()]);
        assert_eq!(read_all(&format!("{text} and {user}.")), [result(), Event::Turn]);
        for line in [
            r#"API error: {"type":"error","error":{"type":"invalid_request_error"}}"#,
            r#"it printed {\"type\":\"result\"}"#,
            r#"{"data":{"type":"result"}}"#,
            r#"text {"type":"result","#,
            r#"text {"type":"results"}"#,
        ] {
            assert_eq!(read_all(line), [Event::Content], "{line}");
        }
        // A result in a value of an event that was cut off is what a tool printed.
        for line in [
            r#"{"type":"user","tool_use_result":{"type":"result","subtype":"success","result":"x"},"cut"#,
            r#"{"type":"user","content":[1, {"type":"result","result":"x"}],"more":"cut"#,
        ] {
            assert_eq!(read_all(line), [Event::Content], "{line}");
        }
        let hostile = r#"{"type":"result","a":"#.repeat(10_000);
        assert_eq!(read_all(&hostile), [Event::Content]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC*", prefix in r#"(\{"type":"(assistant|result|system)",?)?"#) {
            let started = format!("{prefix}{text}");
            let inside = format!("{text}{started}{prefix}}}");
            for line in [text, started, inside] {
                prop_assert!(!read_all(&line).is_empty());
            }
        }
    }
}
