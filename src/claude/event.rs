//! One line of the CLI's stream-json, read only as far as the result needs it.
//!
//! Most of a log is tool output in events that nothing here looks at. So a line is scanned once, strings of
//! interest are borrowed from it, everything else is checked for being JSON and skipped; only the result
//! event becomes a [`Value`]. Fields of an unexpected type count as absent, and of repeated keys the last
//! counts, as in JavaScript.

use std::borrow::Cow;

use serde_json::Value;

use crate::js_semantics;
use crate::stream::json::Json;

/// What a line is.
#[derive(Debug, PartialEq)]
pub(crate) enum Event<'a> {
    /// Not a JSON object with a non-empty `type`: something for people to read.
    Content,
    /// An event that changes nothing here.
    Other,
    /// `system` / `init`.
    Init {
        /// `session_id`, when non-empty.
        session_id: Option<Cow<'a, str>>,
        /// `model`, when non-empty.
        model: Option<Cow<'a, str>>,
    },
    /// `assistant`.
    Assistant(Assistant<'a>),
    /// `result`, with its `session_id`.
    Result {
        /// `session_id`, when non-empty.
        session_id: Option<String>,
        /// The whole event.
        event: Value,
    },
}

/// What matters of an `assistant` event.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Assistant<'a> {
    /// `session_id`, when non-empty.
    pub(crate) session_id: Option<Cow<'a, str>>,
    /// `message.id`, when non-empty.
    pub(crate) id: Option<Cow<'a, str>>,
    /// `message.stop_reason` is there and `null`.
    pub(crate) stop_reason_null: bool,
    /// `message.output_tokens`, else `message.usage.output_tokens`, else −1.
    pub(crate) output_tokens: f64,
    /// Index in `message.content` and text of each non-empty text block.
    pub(crate) texts: Vec<(usize, Cow<'a, str>)>,
    /// `message.content` has at least one element.
    pub(crate) has_content: bool,
}

/// Reads a line that was trimmed and is not empty. Without `with_texts` those of an assistant event are left out.
pub(crate) fn read(line: &str, with_texts: bool) -> Event<'_> {
    if !line.starts_with('{') {
        return Event::Content;
    }
    // The common line is read once, borrowing. A line with lone surrogates is rare and read again, owned.
    if let Some(event) = read_whole(line, with_texts) {
        return event;
    }
    js_semantics::replace_lone_surrogates(line)
        .and_then(|text| read_whole(&text, with_texts).map(Event::into_owned))
        .unwrap_or(Event::Content)
}

impl<'a> Event<'a> {
    fn into_owned(self) -> Event<'static> {
        let own = |text: Option<Cow<'a, str>>| text.map(|text| Cow::Owned(text.into_owned()));
        match self {
            Event::Content => Event::Content,
            Event::Other => Event::Other,
            Event::Result { session_id, event } => Event::Result { session_id, event },
            Event::Init { session_id, model } => {
                Event::Init { session_id: own(session_id), model: own(model) }
            }
            Event::Assistant(assistant) => Event::Assistant(Assistant {
                session_id: own(assistant.session_id),
                id: own(assistant.id),
                texts: assistant
                    .texts
                    .into_iter()
                    .map(|(i, text)| (i, Cow::Owned(text.into_owned())))
                    .collect(),
                ..assistant_rest(assistant.stop_reason_null, assistant.output_tokens, assistant.has_content)
            }),
        }
    }
}

fn assistant_rest<'a>(stop_reason_null: bool, output_tokens: f64, has_content: bool) -> Assistant<'a> {
    Assistant { stop_reason_null, output_tokens, has_content, ..Assistant::default() }
}

/// `None`: not JSON.
fn read_whole(line: &str, with_texts: bool) -> Option<Event<'_>> {
    let read_top = |with_message: bool| read_top(line, with_message, with_texts);
    // The CLI prints `type` first; where that says `assistant`, its message is taken in the same pass.
    let top = read_top(line.starts_with(r#"{"type":"assistant""#))?;
    let Some(kind) = non_empty(top.kind) else {
        return Some(Event::Content);
    };
    match kind.as_ref() {
        "system" if top.subtype.as_deref() == Some("init") => {
            Some(Event::Init { session_id: non_empty(top.session_id), model: non_empty(top.model) })
        }
        "assistant" => {
            let message = if top.message_read { top.message } else { read_top(true)?.message };
            Some(Event::Assistant(Assistant {
                session_id: non_empty(top.session_id),
                id: non_empty(message.id),
                stop_reason_null: message.stop_reason_null,
                output_tokens: message.output_tokens.or(message.usage_output_tokens).unwrap_or(-1.0),
                texts: message.texts,
                has_content: message.has_content,
            }))
        }
        "result" => {
            let event: Value = serde_json::from_str(line).ok()?;
            Some(Event::Result { session_id: non_empty(top.session_id).map(Cow::into_owned), event })
        }
        _ => Some(Event::Other),
    }
}

fn non_empty(text: Option<Cow<'_, str>>) -> Option<Cow<'_, str>> {
    text.filter(|text| !text.is_empty())
}

#[derive(Default)]
struct Top<'a> {
    kind: Option<Cow<'a, str>>,
    subtype: Option<Cow<'a, str>>,
    session_id: Option<Cow<'a, str>>,
    model: Option<Cow<'a, str>>,
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
    usage_output_tokens: Option<f64>,
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
                b"usage" => {
                    message.usage_output_tokens = None;
                    json.object(|json, key| {
                        match key {
                            b"output_tokens" => message.usage_output_tokens = json.number()?,
                            _ => json.skip()?,
                        }
                        Some(())
                    })?;
                }
                b"content" => {
                    message.texts.clear();
                    let mut index = 0;
                    json.array(|json| {
                        if with_texts {
                            message.texts.extend(read_block(json)?.map(|text| (index, text)));
                        } else {
                            json.skip()?;
                        }
                        index += 1;
                        Some(())
                    })?;
                    message.has_content = index > 0;
                }
                _ => json.skip()?,
            }
            Some(())
        })?;
        Some(message)
    }
}

/// One element of `message.content`: its text, where it is a block of type `text`.
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

    fn read(line: &str) -> Event<'_> {
        super::read(line, true)
    }

    fn assistant(line: &str) -> Assistant<'_> {
        match read(line) {
            Event::Assistant(assistant) => assistant,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn what_is_no_event_is_content() {
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
            r#"{"type":"assistant"} trailing"#,
            r#"{'type':'assistant'}"#,
        ] {
            assert_eq!(read(line), Event::Content, "{line}");
        }
    }

    #[test]
    fn events_of_no_interest_are_told_from_content() {
        for line in [
            r#"{"type":"user","message":{"content":[{"type":"tool_result","content":"x"}]}}"#,
            r#"{"type":"system","subtype":"api_retry","session_id":"s"}"#,
            r#"{"type":"system"}"#,
            r#"{"message":1,"type":"rate_limit_event"}"#,
        ] {
            assert_eq!(read(line), Event::Other, "{line}");
        }
    }

    #[test]
    fn the_order_of_keys_does_not_matter_and_the_last_of_two_counts() {
        let line = r#"{"message":{"id":"m","content":[{"text":"a","type":"text"}]},"session_id":"s","type":"assistant"}"#;
        let event = assistant(line);
        assert_eq!(event.texts, [(0, "a".into())]);
        assert_eq!(event.id.as_deref(), Some("m"));
        let line = r#"{"type":"assistant","message":{"id":"a","id":"b"},"message":{"content":[],"content":[{"type":"text","text":"x","text":"y"}]}}"#;
        let event = assistant(line);
        assert_eq!((event.id, event.texts), (None, vec![(0, "y".into())]));
        let line = r#"{"type":"assistant","type":"user"}"#;
        assert_eq!(read(line), Event::Other);
    }

    #[test]
    fn without_texts_an_assistant_event_is_the_same_in_all_else() {
        let line = r#"{"type":"assistant","session_id":"s","message":{"id":"m","stop_reason":null,"usage":{"output_tokens":3},"content":[{"type":"text","text":"a"}]}}"#;
        let expected = Assistant { texts: Vec::new(), ..assistant(line) };
        assert_eq!(super::read(line, false), Event::Assistant(expected));
    }

    #[test]
    fn fields_of_unexpected_types_count_as_absent() {
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
    fn tokens_and_stop_reason() {
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
    fn lone_surrogates_do_not_make_an_event_content() {
        let line = r#"{"type":"assistant","session_id":"s","message":{"id":"m","usage":{"output_tokens":2},"content":[{"type":"text","text":"cut \ud83d"}]}}"#;
        let event = assistant(line);
        assert_eq!(event.texts, [(0, "cut \u{fffd}".into())]);
        assert_eq!((event.session_id.as_deref(), event.output_tokens), (Some("s"), 2.0));
        let line = r#"{"type":"result","result":"\udc00","session_id":"s"}"#;
        let event = json!({"type": "result", "result": "\u{fffd}", "session_id": "s"});
        assert_eq!(read(line), Event::Result { session_id: Some("s".into()), event });
        assert_eq!(read(r#"{"type":"user","x":"\udc00"}"#), Event::Other);
    }

    #[test]
    fn deep_nesting_is_no_obstacle_outside_the_result() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        let line = format!(r#"{{"type":"user","x":{deep}}}"#);
        assert_eq!(read(&line), Event::Other);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC*", prefix in r#"(\{"type":"(assistant|result|system)",?)?"#) {
            let _ = read(&text);
            let _ = read(&format!("{prefix}{text}"));
        }
    }
}
