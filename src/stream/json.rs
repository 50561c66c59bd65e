//! A pull parser for JSON that borrows from its text.
//!
//! Most of what a run prints is text in strings that the caller skips. So a string is searched 8 bytes at a time and
//! decoded only where the caller wants its text. The parser accepts what RFC 8259 accepts, to any depth; only decoding
//! fails where an escape is a lone surrogate.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// How deep a [`Value`] can be. Values are written and dropped by recursion, so a deeper one could overflow the stack.
const MAX_DEPTH: usize = 256;
/// How many elements and members a [`Value`] can have: a small object of ten bytes takes 700 bytes of memory.
const MOST_VALUES: usize = 32 * 1024;
/// How many bytes a string of it can have.
const MOST_STRING: usize = 1024 * 1024;
/// How many bytes its strings and keys can have together.
const MOST_TEXT: usize = 4 * MOST_STRING;

/// What a [`Value`] may still hold.
struct Budget {
    values: usize,
    text: usize,
}

impl Budget {
    /// The beginning of a text, as far as there is room for it.
    fn text(&mut self, mut text: Cow<'_, str>) -> String {
        let kept = text.floor_char_boundary(self.text.min(MOST_STRING));
        self.text -= kept;
        if kept < text.len() {
            text = Cow::Owned(text[..kept].to_owned());
        }
        text.into_owned()
    }

    /// Whether there is room for another element or member.
    fn take_value(&mut self) -> bool {
        let left = self.values.checked_sub(1);
        self.values = left.unwrap_or_default();
        left.is_some()
    }
}

/// A position in a JSON text. A method returns `None` where the text is not JSON; do not read on then.
pub(crate) struct Json<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Json<'a> {
    /// A parser at the beginning of the text.
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Checks that only white space follows.
    pub(crate) fn end(&mut self) -> Option<()> {
        self.peek().is_none().then_some(())
    }

    /// Reads an object: calls `each` with each key, and `each` must read the value. Any other value is skipped, with
    /// `Some(false)`.
    pub(crate) fn object(&mut self, mut each: impl FnMut(&mut Self, &[u8]) -> Option<()>) -> Option<bool> {
        if self.peek()? != b'{' {
            return self.skip().map(|()| false);
        }
        self.at += 1;
        if self.take(b'}') {
            return Some(true);
        }
        loop {
            if !self.take(b'"') {
                return None;
            }
            let from = self.at;
            let escapes = self.skip_string()?;
            let mut key = Cow::Borrowed(&self.text.as_bytes()[from..self.at - 1]);
            if escapes {
                key = unescape(&self.text[from..self.at - 1])?.into_bytes().into();
            }
            if !self.take(b':') {
                return None;
            }
            each(self, &key)?;
            if self.take(b'}') {
                return Some(true);
            }
            if !self.take(b',') {
                return None;
            }
        }
    }

    /// Reads an array: calls `each` for each element, and `each` must read it. Any other value is skipped, with
    /// `Some(false)`.
    pub(crate) fn array(&mut self, mut each: impl FnMut(&mut Self) -> Option<()>) -> Option<bool> {
        if self.peek()? != b'[' {
            return self.skip().map(|()| false);
        }
        self.at += 1;
        if self.take(b']') {
            return Some(true);
        }
        loop {
            each(self)?;
            if self.take(b']') {
                return Some(true);
            }
            if !self.take(b',') {
                return None;
            }
        }
    }

    /// Reads a string, borrowed where it has no escapes. Any other value is skipped, with `Some(None)`.
    pub(crate) fn text(&mut self) -> Option<Option<Cow<'a, str>>> {
        if self.take(b'"') { self.string().map(Some) } else { self.skip().map(|()| None) }
    }

    /// Reads a number. Any other value is skipped, with `Some(None)`.
    pub(crate) fn number(&mut self) -> Option<Option<f64>> {
        let is_number = matches!(self.peek()?, b'-' | b'0'..=b'9');
        let from = self.at;
        self.skip()?;
        Some(if is_number { self.text[from..self.at].parse().ok() } else { None })
    }

    /// Reads a value; whether it is `null`.
    pub(crate) fn is_null(&mut self) -> Option<bool> {
        let null = self.peek()? == b'n';
        self.skip().map(|()| null)
    }

    /// Reads a value as `JSON.parse` does: of repeated keys the last counts, and a number may be beyond the range of f64,
    /// which is `null` when it is written again. What is nested deeper than [`MAX_DEPTH`] is kept as its JSON text; of more
    /// than [`MOST_VALUES`] values, [`MOST_STRING`] bytes of a string and [`MOST_TEXT`] bytes of all the first are kept.
    pub(crate) fn value(&mut self) -> Option<Value> {
        self.value_within(MAX_DEPTH, &mut Budget { values: MOST_VALUES, text: MOST_TEXT })
    }

    fn value_within(&mut self, depth: usize, budget: &mut Budget) -> Option<Value> {
        let next = self.peek()?;
        let from = self.at;
        Some(match next {
            b'"' => Value::String(budget.text(self.text()??)),
            b'{' if depth > 0 => {
                let mut members = Map::new();
                self.object(|json, key| {
                    if key.len() > budget.text || !budget.take_value() {
                        return json.skip();
                    }
                    let key = budget.text(String::from_utf8_lossy(key));
                    members.insert(key, json.value_within(depth - 1, budget)?);
                    Some(())
                })?;
                Value::Object(members)
            }
            b'[' if depth > 0 => {
                let mut elements = Vec::new();
                self.array(|json| {
                    if !budget.take_value() {
                        return json.skip();
                    }
                    elements.push(json.value_within(depth - 1, budget)?);
                    Some(())
                })?;
                Value::Array(elements)
            }
            _ => {
                self.skip()?;
                let text = &self.text[from..self.at];
                match next {
                    b'{' | b'[' => budget.text(text.into()).into(),
                    b't' => true.into(),
                    b'f' => false.into(),
                    b'n' => Value::Null,
                    _ => number_of(text),
                }
            }
        })
    }

    /// How many bytes the value at the beginning of the text has; `None` where there is none.
    pub(crate) fn length_of_value(text: &'a str) -> Option<usize> {
        let mut json = Self::new(text);
        json.skip().map(|()| json.at)
    }

    /// Skips a value.
    pub(crate) fn skip(&mut self) -> Option<()> {
        let mut nest = Nest::default();
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    self.skip_string()?;
                }
                b'{' => {
                    self.at += 1;
                    if !self.take(b'}') {
                        nest.open(true);
                        self.skip_key()?;
                        continue;
                    }
                }
                b'[' => {
                    self.at += 1;
                    if !self.take(b']') {
                        nest.open(false);
                        continue;
                    }
                }
                b'-' | b'0'..=b'9' => self.skip_number()?,
                b't' => self.skip_word("true")?,
                b'f' => self.skip_word("false")?,
                b'n' => self.skip_word("null")?,
                _ => return None,
            }
            while let Some(in_object) = nest.inside() {
                let next = self.peek()?;
                self.at += 1;
                match (next, in_object) {
                    (b',', true) => {
                        self.skip_key()?;
                        break;
                    }
                    (b',', false) => break,
                    (b'}', true) | (b']', false) => nest.close(),
                    _ => return None,
                }
            }
            if nest.inside().is_none() {
                return Some(());
            }
        }
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.as_bytes().get(self.at)?;
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Skips this byte if it is the next one.
    #[inline]
    fn take(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        // White space is rare.
        let found = bytes.get(self.at) == Some(&byte) || self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn skip_key(&mut self) -> Option<()> {
        if !self.take(b'"') {
            return None;
        }
        self.skip_string()?;
        self.take(b':').then_some(())
    }

    fn skip_word(&mut self, word: &str) -> Option<()> {
        let found = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        self.at += word.len();
        found.then_some(())
    }

    fn skip_number(&mut self) -> Option<()> {
        let next = |json: &Self| json.text.as_bytes().get(json.at).copied();
        let digits = |json: &mut Self| {
            let from = json.at;
            while next(json).is_some_and(|byte| byte.is_ascii_digit()) {
                json.at += 1;
            }
            (json.at > from).then_some(())
        };
        self.at += usize::from(next(self) == Some(b'-'));
        if next(self) == Some(b'0') {
            self.at += 1;
        } else {
            digits(self)?;
        }
        if next(self) == Some(b'.') {
            self.at += 1;
            digits(self)?;
        }
        if matches!(next(self), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(next(self), Some(b'+' | b'-')));
            digits(self)?;
        }
        Some(())
    }

    /// Reads a string after its opening quote.
    fn string(&mut self) -> Option<Cow<'a, str>> {
        let from = self.at;
        let escapes = self.skip_string()?;
        let raw = &self.text[from..self.at - 1];
        Some(if escapes { Cow::Owned(unescape(raw)?) } else { Cow::Borrowed(raw) })
    }

    /// Skips a string after its opening quote; whether it has escapes.
    #[inline]
    fn skip_string(&mut self) -> Option<bool> {
        let (length, escapes) = string_length(self.text.as_bytes().get(self.at..)?)?;
        self.at += length + 1;
        Some(escapes)
    }
}

/// The value of a number's text, which was checked.
fn number_of(text: &str) -> Value {
    let whole = || text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from));
    whole().unwrap_or_else(|_| text.parse::<f64>().map_or(Value::Null, Value::from))
}

/// The arrays and objects around a position: a bit each, set for an object.
#[derive(Default)]
struct Nest {
    depth: usize,
    innermost: u64,
    /// The bits further out, 64 to a word.
    outer: Vec<u64>,
}

impl Nest {
    fn open(&mut self, object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.innermost);
        }
        self.depth += 1;
        self.innermost = self.innermost << 1 | u64::from(object);
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.innermost >>= 1;
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.innermost = self.outer.pop().unwrap_or_default();
        }
    }

    /// Whether the innermost is an object, if there is one.
    fn inside(&self) -> Option<bool> {
        (self.depth > 0).then_some(self.innermost & 1 == 1)
    }
}

/// Decodes a string with escapes, which were checked; `None` where one is a lone surrogate.
fn unescape(raw: &str) -> Option<String> {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        text.push_str(&rest[..at]);
        let (char, length) = match rest.as_bytes().get(at + 1)? {
            b'b' => ('\u{8}', 2),
            b'f' => ('\u{c}', 2),
            b'n' => ('\n', 2),
            b'r' => ('\r', 2),
            b't' => ('\t', 2),
            b'u' => match unit(&rest[at..])? {
                high @ 0xd800..=0xdbff => {
                    let low = unit(&rest[at + 6..])?;
                    (char::decode_utf16([high, low]).next()?.ok()?, 12)
                }
                unit => (char::from_u32(u32::from(unit))?, 6),
            },
            other => (char::from(*other), 2),
        };
        text.push(char);
        rest = &rest[at + length..];
    }
    text.push_str(rest);
    Some(text)
}

/// The UTF-16 code unit that is written as `\uXXXX` at the beginning of a text.
fn unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok()
}

/// The length of the string at the beginning of a text, up to its closing quote, and whether it has escapes.
#[inline]
fn string_length(text: &[u8]) -> Option<(usize, bool)> {
    let mut at = 0;
    let mut escapes = false;
    loop {
        at += find_special(&text[at..])?;
        match text[at] {
            b'"' => return Some((at, escapes)),
            b'\\' => at += escape_length(&text[at + 1..])?,
            // A control character.
            _ => return None,
        }
        escapes = true;
    }
}

/// The length of an escape, given without its backslash but counted with it; `None` where it is not an escape.
#[inline]
fn escape_length(text: &[u8]) -> Option<usize> {
    match text.first()? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => text.get(1..5)?.iter().all(u8::is_ascii_hexdigit).then_some(6),
        _ => None,
    }
}

/// The index of the first quote, backslash or control character. It checks 8 bytes at a time.
#[inline]
fn find_special(text: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    // Sets the top bit of the first byte that is below the limit; those of later bytes can be wrong.
    let below = |word: u64, limit: u64| word.wrapping_sub(limit * ONES) & !word;
    let equal = |word: u64, byte: u8| below(word ^ (u64::from(byte) * ONES), 1);
    let (words, rest) = text.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let special = (equal(word, b'"') | equal(word, b'\\') | below(word, 0x20)) & HIGH;
        if special != 0 {
            return Some(8 * number + special.trailing_zeros() as usize / 8);
        }
    }
    let found = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..0x20))?;
    Some(text.len() - rest.len() + found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::de::IgnoredAny;
    use serde_json::json;

    #[test]
    fn value_of_a_hostile_text_is_bounded() {
        let tiny = format!("[{}0]", r#"{"":0},"#.repeat(100_000));
        let Some(Value::Array(elements)) = Json::new(&tiny).value() else { panic!("an array") };
        assert!(elements.len() <= MOST_VALUES);
        let text = format!("{}é", "x".repeat(MOST_STRING - 1));
        let long = format!(r#"{{"a":"{text}","b":"x","c":[1]}}"#);
        let value = Json::new(&long).value().expect("an object");
        assert_eq!(value["a"].as_str().map(str::len), Some(MOST_STRING - 1), "cut before a whole character");
        assert_eq!((&value["b"], &value["c"]), (&json!("x"), &json!([1])), "what follows comes through");
        let many = format!("[{}0]", format!("\"{text}\",").repeat(8));
        let length = Json::new(&many).value().expect("an array").to_string().len();
        assert!(length <= MOST_TEXT + 100, "{length}");
        let deep = format!("{}0{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(Json::new(&deep).value().is_some());
        for broken in [format!("[{tiny},"), format!("{tiny}]")] {
            let mut json = Json::new(&broken);
            assert_eq!(json.value().and_then(|_| json.end()), None, "what is left out is read all the same");
        }
    }

    fn is_json(text: &str) -> bool {
        let mut json = Json::new(text);
        json.skip().and_then(|()| json.end()).is_some()
    }

    /// Reads a whole value with the methods that stop, as a `Value`.
    fn whole(json: &mut Json<'_>) -> Option<Value> {
        Some(match json.peek()? {
            b'{' => {
                let mut members = serde_json::Map::new();
                assert!(json.object(|json, key| {
                    members.insert(String::from_utf8(key.to_vec()).unwrap(), whole(json)?);
                    Some(())
                })?);
                Value::Object(members)
            }
            b'[' => {
                let mut elements = Vec::new();
                assert!(json.array(|json| {
                    elements.push(whole(json)?);
                    Some(())
                })?);
                Value::Array(elements)
            }
            b'"' => Value::String(json.text()??.into_owned()),
            b'-' | b'0'..=b'9' => json.number()??.into(),
            b'n' => json.is_null()?.then_some(Value::Null)?,
            _ => {
                let from = json.at;
                json.skip()?;
                Value::Bool(json.text[from..json.at].trim() == "true")
            }
        })
    }

    fn read(text: &str) -> Option<Value> {
        let mut json = Json::new(text);
        let value = whole(&mut json)?;
        json.end().map(|()| value)
    }

    /// All numbers as floats, since `Json` reads them so.
    fn floats(value: Value) -> Value {
        match value {
            Value::Number(number) => number.as_f64().into(),
            Value::Array(elements) => elements.into_iter().map(floats).collect(),
            Value::Object(members) => members.into_iter().map(|(key, value)| (key, floats(value))).collect(),
            other => other,
        }
    }

    #[test]
    fn any_depth_is_skipped() {
        for depth in [1, 63, 64, 65, 128, 129, 100_000] {
            let deep = |open: &str, close: &str| format!("{}0{}", open.repeat(depth), close.repeat(depth));
            assert!(is_json(&deep("[", "]")), "{depth}");
            assert!(is_json(&deep("[{\"a\":", "}]")), "{depth}");
            assert!(!is_json(&format!("{}]", deep("[", "]"))), "{depth}");
            assert!(!is_json(&deep("[{\"a\":", "]}")), "{depth}");
        }
    }

    fn value(text: &str) -> Option<Value> {
        let mut json = Json::new(text);
        let value = json.value()?;
        json.end().map(|()| value)
    }

    #[test]
    fn value_is_that_of_json_parse() {
        for (text, expected) in [
            ("1e999", Some(Value::Null)),
            ("[-1e999, 1]", Some(json!([null, 1]))),
            ("18446744073709551615", Some(json!(18446744073709551615u64))),
            ("-9223372036854775808", Some(json!(i64::MIN))),
            ("123456789012345678901234567890", Some(json!(1.2345678901234568e29))),
            ("0.1", Some(json!(0.1))),
            (r#"{"a":1,"b":2,"a":[]}"#, Some(json!({"a": [], "b": 2}))),
            (
                r#" {"\u00e9" : "\ud83d\ude00" , "x":[true ,false,null]} "#,
                Some(json!({"é": "😀", "x": [true, false, null]})),
            ),
            (r#"{"a":"\ud83d"}"#, None),
            ("{", None),
            ("", None),
            ("1 2", None),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
    }

    #[test]
    fn value_below_the_greatest_depth_is_kept_as_text() {
        for (depth, kept) in
            [(MAX_DEPTH, None), (MAX_DEPTH + 1, Some("[0]")), (MAX_DEPTH + 3, Some("[[[0]]]"))]
        {
            let text = format!("{}0{}", "[".repeat(depth), "]".repeat(depth));
            let mut innermost = value(&text).unwrap();
            while let Value::Array(mut elements) = innermost {
                innermost = elements.pop().unwrap();
            }
            assert_eq!(innermost, kept.map_or(json!(0), Value::from), "{depth}");
        }
        let deep = format!("{}0{}", "[{\"a\":".repeat(100_000), "}]".repeat(100_000));
        assert!(value(&deep).is_some_and(|value| value.to_string().len() > deep.len()));
    }

    #[test]
    fn escape_at_any_offset_is_read_whole() {
        for before in 0..70 {
            for escape in ["\\\"", "\\\\", "\\n", "\\u00e9", "\\ud83d\\ude00"] {
                let text = format!("\"{}{escape}\"", "x".repeat(before));
                assert_eq!(read(&text), serde_json::from_str(&text).ok(), "{text}");
                for cut in 1..text.len() {
                    assert!(!is_json(&text[..cut]), "{text} cut to {cut}");
                }
            }
        }
    }

    #[test]
    fn lone_surrogate_is_json_but_not_text() {
        for escape in ["\\ud83d", "\\ude00", "\\ud83d\\ud83d", "\\ud83dx", "\\ud83d\\n"] {
            let text = format!("\"{escape}\"");
            assert!(is_json(&text), "{text}");
            assert_eq!(read(&text), None, "{text}");
        }
    }

    /// A JSON value as text, with white space and escapes wherever JSON allows them.
    fn json() -> impl Strategy<Value = String> {
        let space = "[ \t\r\n]{0,2}";
        let string = r#""([ -!#-\[\]-~é✓😀]|\\["\\/bfnrt]|\\u00[0-9a-fA-F]{2}|\\ud83d\\ude00){0,90}""#;
        let scalar = prop_oneof![
            string,
            // Short enough for serde_json to be exact.
            r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,4})?([eE][+-]?[0-9])?",
            "true|false|null",
        ];
        let leaf =
            (space, scalar, space).prop_map(|(before, value, after)| format!("{before}{value}{after}"));
        leaf.prop_recursive(4, 24, 4, move |inner| {
            let key = (space, string, space).prop_map(|(before, key, after)| format!("{before}{key}{after}"));
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(|all| format!("[{}]", all.join(","))),
                proptest::collection::vec((key, inner), 0..4).prop_map(|all| {
                    let all: Vec<_> = all.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
                    format!("{{{}}}", all.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn reads_json_as_serde_json_does(text in json()) {
            prop_assert!(is_json(&text));
            prop_assert_eq!(read(&text), Some(floats(serde_json::from_str(&text).unwrap())));
            prop_assert_eq!(value(&text).map(floats), Some(floats(serde_json::from_str(&text).unwrap())));
            prop_assert_eq!(Json::length_of_value(&format!("{text}]}}x")), Some(text.trim_end().len()));
        }

        #[test]
        fn rejects_what_serde_json_rejects(
            text in json(), at in any::<prop::sample::Index>(), end in any::<prop::sample::Index>(), put in "[\\[\\]{}\",:\\\\u0-9a-f.eE \n\u{1}-]{0,3}",
        ) {
            let mut damaged: Vec<char> = text.chars().collect();
            let at = at.index(damaged.len());
            let end = at + end.index(3.min(damaged.len() - at));
            damaged.splice(at..end, put.chars());
            let damaged: String = damaged.into_iter().collect();
            prop_assert_eq!(is_json(&damaged), serde_json::from_str::<IgnoredAny>(&damaged).is_ok());
        }

        #[test]
        fn find_special_equals_a_search_byte_by_byte(text in proptest::collection::vec(
            prop_oneof![8 => any::<u8>(), 1 => proptest::sample::select(b"\"\\/\x1f\x20\x21\x7f\x80\xa2\xdc\xff\0".to_vec())], 0..60,
        )) {
            let expected = text.iter().position(|byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\');
            prop_assert_eq!(find_special(&text), expected);
        }
    }
}
