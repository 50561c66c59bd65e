//! JSON, read in place.
//!
//! Most of what a run prints is text in strings that nobody here looks at, with an escape every few words. A general
//! parser stops at each of them; this one takes 32 bytes at a time and stops only where its caller wants to. It accepts
//! what RFC 8259 does, to any depth, except that the escape of a lone surrogate is no text.

use std::borrow::Cow;

/// A place in a JSON text. Every method that gives `None` has met something that is no JSON; what follows is not to be
/// read then.
pub(crate) struct Json<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Json<'a> {
    /// At the beginning of the text.
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// At the end: nothing but white space follows.
    pub(crate) fn end(&mut self) -> Option<()> {
        self.peek().is_none().then_some(())
    }

    /// The members of an object, if that is what stands here: `each` is called with the key and must read the value.
    /// `Some(false)` for any other value, which is passed over.
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

    /// The elements of an array, if that is what stands here: `each` must read one. `Some(false)` for any other value,
    /// which is passed over.
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

    /// A string, borrowed where it has no escapes. `Some(None)` for any other value, which is passed over.
    pub(crate) fn text(&mut self) -> Option<Option<Cow<'a, str>>> {
        if self.take(b'"') { self.string().map(Some) } else { self.skip().map(|()| None) }
    }

    /// A number. `Some(None)` for any other value, which is passed over.
    pub(crate) fn number(&mut self) -> Option<Option<f64>> {
        let is_number = matches!(self.peek()?, b'-' | b'0'..=b'9');
        let from = self.at;
        self.skip()?;
        Some(if is_number { self.text[from..self.at].parse().ok() } else { None })
    }

    /// Whether a value is `null`.
    pub(crate) fn is_null(&mut self) -> Option<bool> {
        let null = self.peek()? == b'n';
        self.skip().map(|()| null)
    }

    /// Passes over a value.
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

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.as_bytes().get(self.at)?;
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Goes past this byte if it is the next.
    #[inline]
    fn take(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        // White space is rare.
        let there = bytes.get(self.at) == Some(&byte) || self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn skip_key(&mut self) -> Option<()> {
        if !self.take(b'"') {
            return None;
        }
        self.skip_string()?;
        self.take(b':').then_some(())
    }

    fn skip_word(&mut self, word: &str) -> Option<()> {
        let there = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        self.at += word.len();
        there.then_some(())
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

    /// A string whose opening quote was read.
    fn string(&mut self) -> Option<Cow<'a, str>> {
        let from = self.at;
        let escapes = self.skip_string()?;
        let raw = &self.text[from..self.at - 1];
        Some(if escapes { Cow::Owned(unescape(raw)?) } else { Cow::Borrowed(raw) })
    }

    /// Goes past a string whose opening quote was read; tells whether there were escapes in it.
    #[inline]
    fn skip_string(&mut self) -> Option<bool> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let (length, escapes) = match short_length(rest) {
            Some(length) => (length, false),
            None => string_length(rest)?,
        };
        self.at += length + 1;
        Some(escapes)
    }
}

/// The arrays and objects around a place: a bit each, set for an object.
#[derive(Default)]
struct Nest {
    depth: usize,
    innermost: u64,
    /// What is further out, 64 to a word.
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

/// What a string with escapes says; `None` where one is a lone surrogate. The escapes were checked.
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

/// The UTF-16 code unit written as `\uXXXX` at the beginning of a text.
fn unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok()
}

/// Where the string that a text begins with is closed, and whether there are escapes in it.
fn string_length(text: &[u8]) -> Option<(usize, bool)> {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn with_avx2(text: &[u8]) -> Option<(usize, bool)> {
            string_length_by(text, |block| Kinds::by_avx2(block))
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            #[expect(unsafe_code, reason = "a function for one kind of processor")]
            return unsafe { with_avx2(text) };
        }
    }
    string_length_by(text, Kinds::by_words)
}

/// Where a string without escapes is closed, if that is within 16 bytes, as of keys; `None` for any other.
#[inline]
fn short_length(text: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // The top bit of the first byte that is zero; those behind it may be wrong.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & (0x80 * ONES);
    for (at, word) in text.first_chunk::<16>()?.as_chunks::<8>().0.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(0x20 * ONES) & !word & (0x80 * ONES);
        let special = zero(word ^ (0x22 * ONES)) | zero(word ^ (0x5c * ONES)) | control;
        if special != 0 {
            let found = 8 * at + special.trailing_zeros() as usize / 8;
            return (text[found] == b'"').then_some(found);
        }
    }
    None
}

/// Bytes that are looked at together.
const BLOCK: usize = 64;

/// Which bytes of a block are what, a bit for each, the first byte's lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kinds {
    quote: u64,
    backslash: u64,
    /// May not stand in a string.
    control: u64,
    /// With a backslash before it an escape of two bytes.
    escapable: u64,
}

/// Goes through a string without a branch for each escape, which the processor could not foresee.
#[expect(clippy::inline_always, reason = "inlined it is compiled for AVX2")]
#[inline(always)]
fn string_length_by(text: &[u8], kinds: impl Fn(&[u8; BLOCK]) -> Kinds) -> Option<(usize, bool)> {
    let mut at = 0;
    let mut escapes = false;
    // The block before ended in a backslash that escapes what follows.
    let mut escaped_first = 0;
    loop {
        let rest = &text[at..];
        let mut padded;
        let block = match rest.first_chunk() {
            Some(block) => block,
            None => {
                // What ends in control characters is not closed.
                padded = [0; BLOCK];
                padded[..rest.len()].copy_from_slice(rest);
                &padded
            }
        };
        let kinds = kinds(block);
        let mut escaped = escaped_first;
        if kinds.backslash | escaped_first != 0 {
            (escaped, escaped_first) = after_backslashes(kinds.backslash, escaped_first);
        }
        let close = kinds.quote & !escaped;
        // All before the end of the string.
        let inside = if close == 0 { u64::MAX } else { (close & close.wrapping_neg()) - 1 };
        if kinds.control & inside != 0 {
            return None;
        }
        escapes |= kinds.backslash & inside != 0;
        let mut others = escaped & inside & !kinds.escapable;
        while others != 0 {
            let other = at + others.trailing_zeros() as usize;
            let digits = text.get(other + 1..other + 5);
            if text[other] != b'u' || !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                return None;
            }
            others &= others - 1;
        }
        if close != 0 {
            return Some((at + close.trailing_zeros() as usize, escapes));
        }
        at += BLOCK;
        if at > text.len() {
            return None;
        }
    }
}

/// The bytes that have an escaping backslash before them, and whether that is so of the first byte of the next block.
/// Of a run of backslashes every other one escapes: as many as are at even places of the run.
fn after_backslashes(backslash: u64, escaped_first: u64) -> (u64, u64) {
    const EVEN: u64 = 0x5555_5555_5555_5555;
    let backslash = backslash & !escaped_first;
    let follows = backslash << 1 | escaped_first;
    // Adding a run's first bit carries through the run. Where runs that begin at odd places end, the places are told
    // from those of runs that begin at even ones.
    let odd_starts = backslash & !EVEN & !follows;
    let (even_ends, next) = odd_starts.overflowing_add(backslash);
    let invert = even_ends << 1;
    ((EVEN ^ invert) & follows, u64::from(next))
}

impl Kinds {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    #[inline]
    fn by_avx2(block: &[u8; BLOCK]) -> Self {
        let (halves, _) = block.as_chunks::<32>();
        let (low, high) = (Kinds32::of(&halves[0]), Kinds32::of(&halves[1]));
        let both = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        Self {
            quote: both(low.quote, high.quote),
            backslash: both(low.backslash, high.backslash),
            control: both(low.control, high.control),
            escapable: both(low.escapable, high.escapable),
        }
    }

    /// The same where the processor has no instruction for it: eight bytes in a word.
    fn by_words(block: &[u8; BLOCK]) -> Self {
        const ONES: u64 = 0x0101_0101_0101_0101;
        const LOW: u64 = 0x7f * ONES;
        // The top bit of each byte that is not zero.
        let other = |word: u64| (((word & LOW) + LOW) | word) & !LOW;
        let is = |word: u64, byte: u8| other(word ^ (u64::from(byte) * ONES));
        // Gathers the top bit of each byte that is zero there.
        let bits = |other: u64| ((!other & !LOW) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        let mut kinds = Self { quote: 0, backslash: 0, control: 0, escapable: 0 };
        for (at, word) in (0..).step_by(8).zip(block.as_chunks::<8>().0) {
            let word = u64::from_le_bytes(*word);
            kinds.quote |= bits(is(word, b'"')) << at;
            kinds.backslash |= bits(is(word, b'\\')) << at;
            kinds.control |= bits(other(word & (0xe0 * ONES))) << at;
            kinds.escapable |= bits(ESCAPABLE.iter().fold(u64::MAX, |all, byte| all & is(word, *byte))) << at;
        }
        kinds
    }
}

const ESCAPABLE: [u8; 8] = *b"\"\\/bfnrt";

/// [`Kinds`] of half a block.
#[cfg(target_arch = "x86_64")]
struct Kinds32 {
    quote: u32,
    backslash: u32,
    control: u32,
    escapable: u32,
}

#[cfg(target_arch = "x86_64")]
impl Kinds32 {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn of(bytes: &[u8; 32]) -> Self {
        use std::arch::x86_64::*;
        // SAFETY: so many bytes are there, and they may begin anywhere.
        #[expect(unsafe_code, reason = "the library has no safe load")]
        let bytes = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        let quote = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(0x22));
        let backslash = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(0x5c));
        let control = _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, _mm256_set1_epi8(0x1f)), bytes);
        // A byte is looked up by each of its halves: it is escapable where the two answers have a bit in common. The bits
        // stand for the upper halves 2, 5, 6 and 7.
        let by_lower =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0b1101, 0, 8, 0, 4, 0, 0, 0, 0, 0, 2, 0, 4, 1));
        let by_upper =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 1, 0, 0, 2, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0));
        let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), _mm256_set1_epi8(0x0f));
        let common =
            _mm256_and_si256(_mm256_shuffle_epi8(by_lower, bytes), _mm256_shuffle_epi8(by_upper, upper));
        let other = _mm256_cmpeq_epi8(common, _mm256_setzero_si256());
        let bits = |of: __m256i| _mm256_movemask_epi8(of).cast_unsigned();
        Self {
            quote: bits(quote),
            backslash: bits(backslash),
            control: bits(control),
            escapable: !bits(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::de::IgnoredAny;
    use serde_json::Value;

    fn is_json(text: &str) -> bool {
        let mut json = Json::new(text);
        json.skip().and_then(|()| json.end()).is_some()
    }

    /// Reads everything with the methods that stop, and builds it up again.
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

    /// All numbers as floating ones: that is how they are read here.
    fn floats(value: Value) -> Value {
        match value {
            Value::Number(number) => number.as_f64().into(),
            Value::Array(elements) => elements.into_iter().map(floats).collect(),
            Value::Object(members) => members.into_iter().map(|(key, value)| (key, floats(value))).collect(),
            other => other,
        }
    }

    #[test]
    fn any_depth_is_passed_over() {
        for depth in [1, 63, 64, 65, 128, 129, 100_000] {
            let deep = |open: &str, close: &str| format!("{}0{}", open.repeat(depth), close.repeat(depth));
            assert!(is_json(&deep("[", "]")), "{depth}");
            assert!(is_json(&deep("[{\"a\":", "}]")), "{depth}");
            assert!(!is_json(&format!("{}]", deep("[", "]"))), "{depth}");
            assert!(!is_json(&deep("[{\"a\":", "]}")), "{depth}");
        }
    }

    #[test]
    fn an_escape_across_two_blocks_is_read_whole() {
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
    fn lone_surrogates_are_json_and_no_text() {
        for escape in ["\\ud83d", "\\ude00", "\\ud83d\\ud83d", "\\ud83dx", "\\ud83d\\n"] {
            let text = format!("\"{escape}\"");
            assert!(is_json(&text), "{text}");
            assert_eq!(read(&text), None, "{text}");
        }
    }

    /// A JSON value as text, with white space and escapes wherever they may be.
    fn json() -> impl Strategy<Value = String> {
        let space = "[ \t\r\n]{0,2}";
        let string = r#""([ -!#-\[\]-~é✓😀]|\\["\\/bfnrt]|\\u00[0-9a-fA-F]{2}|\\ud83d\\ude00){0,90}""#;
        let scalar = prop_oneof![
            string,
            // As long as the library is exact.
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
        fn what_is_json_is_read_as_the_library_reads_it(text in json()) {
            prop_assert!(is_json(&text));
            prop_assert_eq!(read(&text), Some(floats(serde_json::from_str(&text).unwrap())));
        }

        #[test]
        fn what_is_no_json_is_told_as_the_library_tells_it(
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
        fn kinds_are_told_in_every_way(block in any::<[u8; BLOCK]>(), of_interest in any::<[bool; BLOCK]>()) {
            let mut block = block;
            for (byte, of_interest) in block.iter_mut().zip(of_interest) {
                if of_interest {
                    *byte = b"\"\\/bfnrtu\x1f\x20\x7f\x80\xff\0"[usize::from(*byte) % 15];
                }
            }
            let bits = |is: fn(&u8) -> bool| {
                block.iter().enumerate().fold(0, |bits, (at, byte)| bits | u64::from(is(byte)) << at)
            };
            let one_by_one = Kinds {
                quote: bits(|byte| *byte == b'"'),
                backslash: bits(|byte| *byte == b'\\'),
                control: bits(|byte| *byte < 0x20),
                escapable: bits(|byte| ESCAPABLE.contains(byte)),
            };
            prop_assert_eq!(Kinds::by_words(&block), one_by_one);
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "a function for one kind of processor")]
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has AVX2.
                prop_assert_eq!(unsafe { Kinds::by_avx2(&block) }, one_by_one);
            }
        }

        #[test]
        fn every_other_backslash_of_a_run_escapes(backslash in any::<u64>(), dense in any::<u64>(), first in any::<bool>()) {
            let backslash = backslash | dense;
            let mut escaping = first;
            let one_by_one = (0..64).fold(0, |escaped, at| {
                let here = u64::from(escaping) << at;
                escaping = !escaping && backslash >> at & 1 == 1;
                escaped | here
            });
            prop_assert_eq!(after_backslashes(backslash, u64::from(first)), (one_by_one, u64::from(escaping)));
        }

        #[test]
        fn a_string_is_as_long_in_every_way(text in "([ -~é\"\\\\]|\\\\[nu]|\u{1}){0,200}") {
            let text = text.as_bytes();
            let length = string_length(text);
            prop_assert_eq!(length, string_length_by(text, Kinds::by_words));
            let short = length.filter(|(length, escapes)| *length < 16 && text.len() >= 16 && !escapes);
            prop_assert_eq!(short_length(text), short.map(|(length, _)| length));
        }
    }
}
