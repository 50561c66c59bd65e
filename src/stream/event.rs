//! One line of the CLI's stream-json, read only as far as the result needs it.
//!
//! Most of a log is tool output in events that nothing here looks at. So a line is scanned once, strings of
//! interest are borrowed from it, everything else is checked for being JSON and skipped; only the result
//! event becomes a [`Value`]. Fields of an unexpected type count as absent, and of repeated keys the last
//! counts, as in JavaScript.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::js;

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

/// Reads a line that was trimmed and is not empty.
pub(crate) fn read(line: &str) -> Event<'_> {
    if !line.starts_with('{') {
        return Event::Content;
    }
    // The common line is read once, borrowing. A line with lone surrogates is rare and read again, owned.
    if let Some(event) = read_whole(line) {
        return event;
    }
    js::replace_lone_surrogates(line)
        .and_then(|text| read_whole(&text).map(Event::into_owned))
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
fn read_whole(line: &str) -> Option<Event<'_>> {
    // The CLI prints `type` first; where that says `assistant`, its message is taken in the same pass.
    let top = read_top(line, line.starts_with(r#"{"type":"assistant""#))?;
    let Some(kind) = non_empty(top.kind) else {
        return Some(Event::Content);
    };
    match kind.as_ref() {
        "system" if top.subtype.as_deref() == Some("init") => {
            Some(Event::Init { session_id: non_empty(top.session_id), model: non_empty(top.model) })
        }
        "assistant" => {
            let message = if top.message_read { top.message } else { read_top(line, true)?.message };
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

fn read_top(line: &str, with_message: bool) -> Option<Top<'_>> {
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let top = deserializer.deserialize_map(TopVisitor { with_message }).ok()?;
    deserializer.end().ok()?;
    Some(top)
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

struct TopVisitor {
    with_message: bool,
}

impl<'de> Visitor<'de> for TopVisitor {
    type Value = Top<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Top<'de>, A::Error> {
        let mut top = Top { message_read: self.with_message, ..Top::default() };
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::Type => top.kind = map.next_value::<Text<'de>>()?.0,
                Key::Subtype => top.subtype = map.next_value::<Text<'de>>()?.0,
                Key::SessionId => top.session_id = map.next_value::<Text<'de>>()?.0,
                Key::Model => top.model = map.next_value::<Text<'de>>()?.0,
                Key::Message if self.with_message => top.message = map.next_value::<Message<'de>>()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(top)
    }
}

/// The keys that are looked at, on whatever level.
enum Key {
    Type,
    Subtype,
    SessionId,
    Model,
    Message,
    Id,
    StopReason,
    OutputTokens,
    Usage,
    Content,
    Text,
    Other,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                Ok(match key {
                    "type" => Key::Type,
                    "subtype" => Key::Subtype,
                    "session_id" => Key::SessionId,
                    "model" => Key::Model,
                    "message" => Key::Message,
                    "id" => Key::Id,
                    "stop_reason" => Key::StopReason,
                    "output_tokens" => Key::OutputTokens,
                    "usage" => Key::Usage,
                    "content" => Key::Content,
                    "text" => Key::Text,
                    _ => Key::Other,
                })
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// Generates the `Visitor` methods that take a value of any type; `$default` for those not written out.
macro_rules! any_value {
    ($default:expr; $($kind:ident)*) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any value")
        }
        $(any_value!(@$kind $default);)*
    };
    (@bool $default:expr) => { fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> { Ok($default) } };
    (@number $default:expr) => {
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> { Ok($default) }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> { Ok($default) }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> { Ok($default) }
    };
    (@null $default:expr) => { fn visit_unit<E>(self) -> Result<Self::Value, E> { Ok($default) } };
    (@string $default:expr) => { fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> { Ok($default) } };
    (@array $default:expr) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok($default)
        }
    };
    (@object $default:expr) => {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok($default)
        }
    };
}

/// A string, borrowed where it has no escapes; `None` for any other value.
struct Text<'a>(Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            any_value!(Text(None); bool number null array object);

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Borrowed(text))))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Some(Cow::Owned(text.to_owned()))))
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

/// A number; `None` for any other value.
struct Number(Option<f64>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;
        impl<'de> Visitor<'de> for NumberVisitor {
            type Value = Number;

            any_value!(Number(None); bool null string array object);

            fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
                Ok(Number(Some(value as f64)))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Number, E> {
                Ok(Number(Some(value as f64)))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Number, E> {
                Ok(Number(Some(value)))
            }
        }
        deserializer.deserialize_any(NumberVisitor)
    }
}

/// Whether a value is `null`.
struct IsNull(bool);

impl<'de> Deserialize<'de> for IsNull {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Option::<IgnoredAny>::deserialize(deserializer)?.is_none()))
    }
}

/// `message.usage.output_tokens`.
#[derive(Default)]
struct Usage(Option<f64>);

impl<'de> Deserialize<'de> for Usage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UsageVisitor;
        impl<'de> Visitor<'de> for UsageVisitor {
            type Value = Usage;

            any_value!(Usage(None); bool number null string array);

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Usage, A::Error> {
                let mut usage = Usage(None);
                while let Some(key) = map.next_key::<Key>()? {
                    if let Key::OutputTokens = key {
                        usage.0 = map.next_value::<Number>()?.0;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(usage)
            }
        }
        deserializer.deserialize_any(UsageVisitor)
    }
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

impl<'de: 'a, 'a> Deserialize<'de> for Message<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MessageVisitor;
        impl<'de> Visitor<'de> for MessageVisitor {
            type Value = Message<'de>;

            any_value!(Message::default(); bool number null string array);

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message<'de>, A::Error> {
                let mut message = Message::default();
                while let Some(key) = map.next_key::<Key>()? {
                    match key {
                        Key::Id => message.id = map.next_value::<Text<'de>>()?.0,
                        Key::StopReason => message.stop_reason_null = map.next_value::<IsNull>()?.0,
                        Key::OutputTokens => message.output_tokens = map.next_value::<Number>()?.0,
                        Key::Usage => message.usage_output_tokens = map.next_value::<Usage>()?.0,
                        Key::Content => {
                            message.texts.clear();
                            message.has_content = map.next_value_seed(Content(&mut message.texts))?;
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(message)
            }
        }
        deserializer.deserialize_any(MessageVisitor)
    }
}

/// `message.content`: collects the texts and tells whether there was any element.
struct Content<'v, 'de>(&'v mut Vec<(usize, Cow<'de, str>)>);

impl<'de> DeserializeSeed<'de> for Content<'_, 'de> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Content<'_, 'de> {
    type Value = bool;

    any_value!(false; bool number null string object);

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let mut index = 0;
        while let Some(Block(text)) = seq.next_element::<Block<'de>>()? {
            self.0.extend(text.map(|text| (index, text)));
            index += 1;
        }
        Ok(index > 0)
    }
}

/// One element of `message.content`: its text, where it is a block of type `text`.
struct Block<'a>(Option<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Block<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BlockVisitor;
        impl<'de> Visitor<'de> for BlockVisitor {
            type Value = Block<'de>;

            any_value!(Block(None); bool number null string array);

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Block<'de>, A::Error> {
                let (mut is_text, mut text) = (false, None);
                while let Some(key) = map.next_key::<Key>()? {
                    match key {
                        Key::Type => is_text = map.next_value::<Text<'de>>()?.0.as_deref() == Some("text"),
                        Key::Text => text = non_empty(map.next_value::<Text<'de>>()?.0),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(Block(text.filter(|_| is_text)))
            }
        }
        deserializer.deserialize_any(BlockVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

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
        let read = assistant(line);
        assert_eq!(read.texts, [(0, "a".into())]);
        assert_eq!(read.id.as_deref(), Some("m"));
        let line = r#"{"type":"assistant","message":{"id":"a","id":"b"},"message":{"content":[],"content":[{"type":"text","text":"x","text":"y"}]}}"#;
        let read = assistant(line);
        assert_eq!((read.id, read.texts), (None, vec![(0, "y".into())]));
        let line = r#"{"type":"assistant","type":"user"}"#;
        assert_eq!(super::read(line), Event::Other);
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
            let read = assistant(&line);
            assert_eq!((read.output_tokens, read.stop_reason_null), (tokens, null), "{line}");
        }
    }

    #[test]
    fn lone_surrogates_do_not_make_an_event_content() {
        let line = r#"{"type":"assistant","session_id":"s","message":{"id":"m","usage":{"output_tokens":2},"content":[{"type":"text","text":"cut \ud83d"}]}}"#;
        let read = assistant(line);
        assert_eq!(read.texts, [(0, "cut \u{fffd}".into())]);
        assert_eq!((read.session_id.as_deref(), read.output_tokens), (Some("s"), 2.0));
        let line = r#"{"type":"result","result":"\udc00","session_id":"s"}"#;
        let event = json!({"type": "result", "result": "\u{fffd}", "session_id": "s"});
        assert_eq!(super::read(line), Event::Result { session_id: Some("s".into()), event });
        assert_eq!(super::read(r#"{"type":"user","x":"\udc00"}"#), Event::Other);
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
