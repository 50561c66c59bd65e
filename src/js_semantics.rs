//! JavaScript's rules, where the contract depends on them: white space, trimming, numbers, JSON.

use std::io;

use serde_json::{Map, Value};

/// Whether `\s` matches it and `String.prototype.trim` removes it. Unlike Rust's white space it includes U+FEFF and not
/// U+0085.
pub(crate) fn is_space(c: char) -> bool {
    matches!(
        c,
        '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'
            ..='\u{200a}' | '\u{2028}' | '\u{2029}' | '\u{202f}' | '\u{205f}' | '\u{3000}' | '\u{feff}'
    )
}

/// `String.prototype.trim`.
pub(crate) fn trim(text: &str) -> &str {
    // Most lines begin and end with a brace.
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_graphic);
    if is_edge(text.as_bytes().first()) && is_edge(text.as_bytes().last()) {
        return text;
    }
    text.trim_matches(is_space)
}

/// `String(number)`: the shortest digits that read back, with an exponent from 1e21 on and below 1e-6.
pub(crate) fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    if value == 0.0 {
        return "0".into();
    }
    let magnitude = value.abs();
    if (1e-6..1e21).contains(&magnitude) {
        return format!("{value}");
    }
    // Rust writes `1.5e21` and `1e-7`; JavaScript puts a sign before a positive exponent.
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) if !exponent.starts_with('-') => format!("{digits}e+{exponent}"),
        _ => text,
    }
}

/// A finite number as a JSON value, without `.0` on whole numbers, as `JSON.stringify` prints it.
pub(crate) fn number_value(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        // The cast is exact: whole and within 2^53.
        return Value::from(value as i64);
    }
    serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// `JSON.stringify(value)`: no spaces, numbers as JavaScript prints them.
pub(crate) fn stringify(value: &Value) -> String {
    struct Compact;
    impl serde_json::ser::Formatter for Compact {
        fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
            writer.write_all(number(value).as_bytes())
        }
    }
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, Compact);
    match serde::Serialize::serialize(value, &mut serializer) {
        Ok(()) => String::from_utf8(out).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

/// `JSON.parse`, including what `JSON.stringify` makes of strings with lone surrogates.
pub(crate) fn parse_json(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text).or_else(|error| match replace_lone_surrogates(text) {
        Some(mended) => serde_json::from_str(&mended),
        None => Err(error),
    })
}

/// The text with U+FFFD for each escape of a lone surrogate; `None` when there is none. JavaScript cuts
/// strings between the two halves of an emoji and prints the half as `\ud83d`, which Rust's strings cannot
/// hold.
pub(crate) fn replace_lone_surrogates(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'\\', &bytes[at..]) {
        let escape = at + found;
        match surrogate(bytes, escape) {
            Some(Half::High) if matches!(surrogate(bytes, escape + 6), Some(Half::Low)) => at = escape + 12,
            Some(_) => {
                out.push_str(&text[copied..escape]);
                out.push_str("\\ufffd");
                at = escape + 6;
                copied = at;
            }
            // The escaped character is skipped with its backslash, so that `\\ud800` stays plain text.
            None => at = (escape + 2).min(bytes.len()),
        }
    }
    if copied == 0 {
        return None;
    }
    out.push_str(&text[copied..]);
    Some(out)
}

enum Half {
    High,
    Low,
}

/// The surrogate that is written as `\uXXXX` at `at`, if there is one.
fn surrogate(bytes: &[u8], at: usize) -> Option<Half> {
    let escape = bytes.get(at..at + 6)?;
    if !escape.starts_with(b"\\u") || !escape[2..].iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    if !escape[2].eq_ignore_ascii_case(&b'd') {
        return None;
    }
    match escape[3].to_ascii_lowercase() {
        b'8'..=b'9' | b'a'..=b'b' => Some(Half::High),
        b'c'..=b'f' => Some(Half::Low),
        _ => None,
    }
}

/// A string of at least one character; anything else is `None`.
pub(crate) fn text(value: Option<&Value>) -> Option<&str> {
    value?.as_str().filter(|text| !text.is_empty())
}

/// An object that is neither null nor an array; anything else is `None`.
pub(crate) fn object(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value?.as_object()
}

/// A string that is not blank, trimmed.
pub(crate) fn trimmed(value: Option<&Value>) -> Option<&str> {
    Some(trim(value?.as_str()?)).filter(|text| !text.is_empty())
}

/// `text.length`: the number of UTF-16 code units.
pub(crate) fn utf16_len(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// A non-empty string field of an object.
pub(crate) fn string_field<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    text(value.get(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn number_is_written_as_in_javascript() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-3.0, "-3"),
            (0.5, "0.5"),
            (0.003364, "0.003364"),
            (1e-6, "0.000001"),
            (1e-7, "1e-7"),
            (1.25e-9, "1.25e-9"),
            (123456789012345680000.0, "123456789012345680000"),
            (1e21, "1e+21"),
            (-1.5e300, "-1.5e+300"),
            (0.1 + 0.2, "0.30000000000000004"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn whole_number_has_no_fraction_in_json() {
        assert_eq!(number_value(3.0), json!(3));
        assert_eq!(number_value(0.25), json!(0.25));
        assert_eq!(number_value(f64::NAN), Value::Null);
        assert_eq!(stringify(&json!({"a": 1.0, "b": [null, "x"]})), r#"{"a":1,"b":[null,"x"]}"#);
    }

    #[test]
    fn trim_removes_the_white_space_of_javascript() {
        assert_eq!(trim("\u{feff}\u{a0} x \u{2028}\r\n"), "x");
        assert_eq!(trim("\u{85}x"), "\u{85}x");
        assert_eq!(trimmed(Some(&json!("  "))), None);
        assert_eq!(utf16_len("é😀"), 3);
    }

    #[test]
    fn lone_surrogates_become_replacement_characters() {
        let parsed = |text: &str| parse_json(text).ok();
        assert_eq!(parsed(r#"{"a":"x\ud83d"}"#), Some(json!({"a": "x\u{fffd}"})));
        assert_eq!(parsed(r#""\ude00\ud83d\ude00""#), Some(json!("\u{fffd}😀")));
        assert_eq!(parsed(r#""\ud83d\ud83d\ude00""#), Some(json!("\u{fffd}😀")));
        assert_eq!(parsed(r#""\\ud83d\ud800""#), Some(json!("\\ud83d\u{fffd}")));
        assert_eq!(parsed(r#""\ud83d\n""#), Some(json!("\u{fffd}\n")));
        for broken in ["", "{", r#""\u12"#, "\"\\", r#""\ud8"#, "\"\\é\""] {
            assert_eq!(parsed(broken), None, "{broken}");
        }
    }
}
