//! Text as the host can store it: without NUL.
//!
//! The host keeps logs and results in Postgres, whose `text` and `jsonb` refuse U+0000: one NUL in what a tool printed,
//! and the end of its run cannot be stored. So everything that goes to the host passes here, and each NUL becomes U+FFFD:
//! log chunks and `onMeta` in [`run::host`](crate::run), results in [`Outcome`](crate::outcome::Outcome), rejections and the
//! environment test in `node`. A log line has none to begin with, because the [`Tally`](crate::claude::Tally) replaces them
//! where bytes become text: a line with a NUL in front of an event is then read like any other line with text there.

use std::borrow::Cow;

use serde_json::Value;

/// The text with U+FFFD for each NUL.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    match memchr::memchr(0, text.as_bytes()) {
        None => Cow::Borrowed(text),
        Some(_) => Cow::Owned(text.replace('\0', "\u{fffd}")),
    }
}

/// The same of a text that is owned; one without NUL is returned as it is.
pub(crate) fn owned(text: String) -> String {
    match self::text(&text) {
        Cow::Owned(mended) => mended,
        Cow::Borrowed(_) => text,
    }
}

/// The value with U+FFFD for each NUL in its strings and keys, to any depth that a value can have.
pub(crate) fn value(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(owned(text)),
        Value::Array(items) => Value::Array(items.into_iter().map(self::value).collect()),
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(key, value)| (owned(key), self::value(value))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;

    #[test]
    fn nul_is_replaced_in_strings_and_keys() {
        assert_eq!(text("a\0b\0"), "a\u{fffd}b\u{fffd}");
        assert!(matches!(text("plain"), Cow::Borrowed("plain")));
        assert_eq!(
            value(json!({"a\0": ["\0", {"b": {"c\0d": "x\0"}}, 1, null, true], "e": "f"})),
            json!({"a\u{fffd}": ["\u{fffd}", {"b": {"c\u{fffd}d": "x\u{fffd}"}}, 1, null, true], "e": "f"})
        );
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::from),
            "[\\x00a\u{fffd}é]{0,4}".prop_map(Value::String),
        ];
        leaf.prop_recursive(5, 40, 4, |inner| {
            let member = ("[\\x00ab]{0,3}", inner.clone());
            prop_oneof![
                proptest::collection::vec(inner, 0..4).prop_map(Value::Array),
                proptest::collection::vec(member, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_value_has_a_nul_afterwards(given in any_value()) {
            let stored = value(given.clone());
            let json = stored.to_string();
            prop_assert!(!json.contains("\\u0000"), "{json}");
            prop_assert_eq!(value(stored.clone()), stored.clone(), "once is enough");
            if !given.to_string().contains("\\u0000") {
                prop_assert_eq!(stored, given, "what has none stays as it is");
            }
        }

        #[test]
        fn text_changes_by_its_nuls_only(given in "[\\x00-\\x02aé]{0,20}") {
            let expected: String =
                given.chars().map(|char| if char == '\0' { '\u{fffd}' } else { char }).collect();
            prop_assert_eq!(text(&given), &*expected);
            prop_assert_eq!(owned(given), expected);
        }
    }
}
