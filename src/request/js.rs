//! JSON values read the way the host's JavaScript helpers read them.

use serde_json::{Map, Value};

/// A string of at least one character; anything else is `None`.
pub(crate) fn text(value: Option<&Value>) -> Option<&str> {
    value?.as_str().filter(|text| !text.is_empty())
}

/// An object that is neither null nor an array; anything else is `None`.
pub(crate) fn object(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value?.as_object()
}

/// JavaScript's `trim`, which knows the byte order mark as a space and U+0085 not.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c == '\u{feff}' || (c.is_whitespace() && c != '\u{85}'))
}

/// A string with something besides spaces in it, trimmed.
pub(crate) fn trimmed(value: Option<&Value>) -> Option<&str> {
    Some(trim(value?.as_str()?)).filter(|text| !text.is_empty())
}

/// A string's length in JavaScript: UTF-16 code units.
pub(crate) fn utf16_len(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// Parses what `JSON.stringify` wrote.
///
/// JavaScript strings may hold half a surrogate pair (a comment cut in the middle of an emoji), which
/// `JSON.stringify` writes as a lone `\udXXX` escape. That is no valid JSON text for a UTF-8 reader; such an
/// escape counts as U+FFFD, as it does wherever JavaScript itself encodes the string.
pub(crate) fn parse_json(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text).or_else(|error| match replace_lone_surrogates(text) {
        Some(mended) => serde_json::from_str(&mended),
        None => Err(error),
    })
}

/// The text with each lone surrogate escape replaced; `None` when there is none.
fn replace_lone_surrogates(text: &str) -> Option<String> {
    const ESCAPE: usize = "\\uXXXX".len();
    let mut mended = String::with_capacity(text.len());
    let mut changed = false;
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        mended.push_str(before);
        let keep = match code_unit(escape) {
            // `\n`, `\\` and the like: two characters.
            None => escape.chars().take(2).map(char::len_utf8).sum(),
            Some(0xd800..=0xdbff) if matches!(code_unit(&escape[ESCAPE..]), Some(0xdc00..=0xdfff)) => {
                2 * ESCAPE
            }
            Some(0xd800..=0xdfff) => {
                mended.push('\u{fffd}');
                changed = true;
                rest = &escape[ESCAPE..];
                continue;
            }
            Some(_) => ESCAPE,
        };
        let (kept, after) = escape.split_at(keep);
        mended.push_str(kept);
        rest = after;
    }
    mended.push_str(rest);
    changed.then_some(mended)
}

/// The number behind a leading `\uXXXX`.
fn code_unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    // `from_str_radix` alone would take a sign.
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lone_surrogates_become_replacement_characters() {
        for (text, want) in [
            (r#""a\ud83d""#, json!("a\u{fffd}")),
            (r#""\ude00 b""#, json!("\u{fffd} b")),
            (r#""\ud83d\ud83d\ude00""#, json!("\u{fffd}😀")),
            (r#""\\ud83d\ud83d""#, json!("\\ud83d\u{fffd}")),
            (r#""\ud83d\n""#, json!("\u{fffd}\n")),
            (r#""\ud83d\ude00""#, json!("😀")),
        ] {
            assert_eq!(parse_json(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn broken_text_stays_an_error() {
        for text in ["", "{", r#""\u12"#, "\"\\", r#""\ud8"#, "\"\\é\""] {
            assert!(parse_json(text).is_err(), "{text}");
        }
    }

    #[test]
    fn trim_is_javascripts() {
        assert_eq!(trim("\u{feff}\u{a0} x\u{85} \r\n"), "x\u{85}");
        assert_eq!(trimmed(Some(&json!("  "))), None);
        assert_eq!(utf16_len("é😀"), 3);
    }
}
